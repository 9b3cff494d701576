/*
 * Matrices of 8 bits with one scale for each row, which a device has in place of those of the model
 * where a context computes in int8 or fp8: w[j][i] = scales[j] * value, value a signed byte or an
 * E4M3. Activations are rounded likewise, a token's row with one scale (hy_rounded), so that
 *   y[t][j] = f32(sum_i x_value[t][i] * w_value[j][i]) * (w_scale[j] * x_scale[t])
 * with a sum that is exact for int8, and added to bias and old y like any other. Rows of weights
 * lie hy_padded_row(columns) bytes apart, with zeros behind their end, and a whole number of
 * HY_WEIGHT_ROWS of them is there, the last ones zeros: a device multiplies only such matrices.
 */
#ifndef HY_KERNEL_BY_ROWS_H
#define HY_KERNEL_BY_ROWS_H

#include "base/checked.h"
#include "kernel/kernel.h"

enum { HY_WEIGHT_ROWS = 16 };

/* The most columns whose int8 products, 127 * 127 each at most, have a sum that fits 32 bits. */
enum { HY_MOST_INT8_COLUMNS = INT32_MAX / (127 * 127) };

/* The greatest value of INT8 or FP8, which a row's greatest magnitude becomes. */
static inline float hy_greatest_of_8_bits(hymba_dtype dtype)
{
    return dtype == HYMBA_DTYPE_FP8 ? 448.0f : 127.0f;
}

/* Rows that so many rows of weights take. */
static inline size_t hy_weight_rows(size_t rows)
{
    return hy_round_up(rows, HY_WEIGHT_ROWS);
}

/* Rounds a row of n elements to INT8 or FP8 and to hy_padded_row(n) bytes; returns its scale. */
float hy_round_by_rows(const float *x, size_t n, hymba_dtype dtype, void *y);

/* Columns [begin, end) of a product with such weights: part of the generic matmul. */
void hy_matmul_by_rows(const struct hy_matmul_args *args, size_t begin, size_t end);

#endif
