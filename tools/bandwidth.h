/*
 * The machine's read bandwidth, measured.
 */
#ifndef TOOLS_BANDWIDTH_H
#define TOOLS_BANDWIDTH_H

#include <stdint.h>

/*
 * Reads a buffer of *size bytes (or a third of the memory that is free, if that is less; *size is
 * then that) with so many threads, a few times; *bytes_per_second is the fastest pass. An exit
 * status; the error has been printed.
 */
int measure_read_bandwidth(uint32_t n_threads, double *bytes_per_second, uint64_t *size);

#endif
