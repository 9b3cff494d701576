/* Element types: sizes, names, and conversion of single values and rows to and from f32. */
#ifndef HY_TENSOR_DTYPE_H
#define HY_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/status.h"

size_t hy_dtype_size(hymba_dtype dtype);      /* bytes; 0 for int4 and for an unknown number */
const char *hy_dtype_name(hymba_dtype dtype); /* "f32"; NULL for an unknown number */
hymba_dtype hy_dtype_from_name(const char *name);

/* Whether elements are floating-point numbers of 16 bits or more, which are kept without scales:
 * what the conversions of elements and rows below take. */
bool hy_dtype_is_float(hymba_dtype dtype);

static inline float hy_bits_to_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t hy_f32_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float hy_bf16_to_f32(uint16_t value)
{
    return hy_bits_to_f32((uint32_t)value << 16);
}

/* Rounds to nearest, ties to even; NaN stays NaN. */
uint16_t hy_f32_to_bf16(float value);
uint16_t hy_f32_to_f16(float value);
float hy_f16_to_f32(uint16_t value);

/* The same, but what passes 448, the greatest number, becomes it, infinity too. */
uint8_t hy_f32_to_fp8(float value);
float hy_fp8_to_f32(uint8_t value);

/* Element index of an array of dtype that may be misaligned. */
float hy_load_element(const void *data, hymba_dtype dtype, size_t index);

/* count elements; source and destination must not overlap. */
void hy_row_to_f32(const void *source, hymba_dtype dtype, float *destination, size_t count);
void hy_row_from_f32(const float *source, hymba_dtype dtype, void *destination, size_t count);

#endif
