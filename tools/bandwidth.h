/*
 * The machine's read bandwidth, measured.
 */
#ifndef TOOLS_BANDWIDTH_H
#define TOOLS_BANDWIDTH_H

#include <stdint.h>

struct bandwidth;

/*
 * A buffer of size bytes (or a third of the memory that is free, if that is less), resident from
 * now on, that so many threads read together. An exit status; the error has been printed.
 */
int bandwidth_open(struct bandwidth **bandwidth, uint32_t n_threads, uint64_t size);
void bandwidth_close(struct bandwidth *bandwidth);

/* Bytes of the buffer. */
uint64_t bandwidth_size(const struct bandwidth *bandwidth);

/* Reads the buffer a few times; *bytes_per_second is of the fastest pass. An exit status. */
int bandwidth_measure(struct bandwidth *bandwidth, double *bytes_per_second);

#endif
