/*
 * Loads and stores of global memory, counted by what a test says lies there: of kernels, of the
 * runtime's copies and fills, and of cuBLASLt's products, which read each operand once a call. For
 * programs in C, too, which look the functions up by name in the opened plug-in.
 */
#ifndef HYMBA_TEST_TRAFFIC_H
#define HYMBA_TEST_TRAFFIC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { TRAFFIC_LABELS = 16 };

/* Bytes; distinct ones are counted once however often they are accessed. */
struct traffic {
    uint64_t loads, distinct_loads;
    uint64_t stores, distinct_stores;
};

/* All that is queued runs first. From now on accesses are counted, to label 0 as long as nothing
 * else is said of a place. */
void traffic_begin(void);

/* What is accessed there is counted to the label, from now on, and as if for the first time. */
void traffic_label(const void *data, size_t bytes, unsigned label);

/* Ends the counting, behind all that is queued: traffic[label]. */
void traffic_end(struct traffic traffic[TRAFFIC_LABELS]);

typedef void (*traffic_begin_function)(void);
typedef void (*traffic_label_function)(const void *data, size_t bytes, unsigned label);
typedef void (*traffic_end_function)(struct traffic traffic[TRAFFIC_LABELS]);

#ifdef __cplusplus
}
#endif

#endif
