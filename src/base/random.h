/*
 * Counter-based random numbers: (key, counter) is the whole state, so a stream can be entered
 * anywhere and saved in sixteen bytes. Philox 4x32-10 (Salmon et al., 2011).
 */
#ifndef HY_BASE_RANDOM_H
#define HY_BASE_RANDOM_H

#include <stdint.h>

/* Four 32-bit words of stream key at position counter. */
void hy_random_block(uint64_t key, uint64_t counter, uint32_t words[4]);

/* A key for a named stream of a seed: different names give unrelated streams. */
uint64_t hy_random_key(uint64_t seed, const char *name);

/* The next number in [0, 1), 53 random bits; advances *counter by one. */
double hy_random_unit(uint64_t key, uint64_t *counter);

#endif
