/*
 * Rounding rows of weights to int8 and int4 with a scale for every group of neighbours
 * (docs/quantisation.md). The bytes are those that struct hy_matrix describes.
 */
#ifndef HY_MODEL_ENCODE_H
#define HY_MODEL_ENCODE_H

#include <stddef.h>
#include <stdint.h>

#include "hymba.h"

enum { HY_LEAST_GROUP = 32, HY_LARGEST_MADE_GROUP = 128 };

/* How a matrix is stored. dtype DEFAULT: as it is in the file. */
struct hy_scheme {
    hymba_dtype dtype;
    size_t group; /* what we make: 32, 64 or 128; what we read: any multiple of 32 */
};

/* Bits of a scale in bf16, given back by a search for the least squared error of n values, which
 * are finite; n is a multiple of 32, at most 128. importance weighs the squares and is [n] or
 * NULL. */
uint16_t hy_find_scale(const float *values, const float *importance, size_t n, hymba_dtype dtype);

/* The integer that stands for a value under a scale, as the type can hold it. */
int hy_round_to_scale(float value, uint16_t scale, hymba_dtype dtype);

/* n integers as bytes; n is even. */
void hy_pack_integers(const int *integers, size_t n, hymba_dtype dtype, unsigned char *bytes);

/* A row: columns is a multiple of the group; importance is [columns] or NULL. */
void hy_encode_row(const float *values, const float *importance, size_t columns,
                   const struct hy_scheme *scheme, unsigned char *bytes, uint16_t *scales);

#endif
