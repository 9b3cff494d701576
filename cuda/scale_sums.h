/* Sums of 8-bit products as results, row by row: the end of what src/kernel/by_rows.h says. */
#ifndef HYMBA_CUDA_SCALE_SUMS_H
#define HYMBA_CUDA_SCALE_SUMS_H

#include "portable.h"

/* y[t][j] = f32(sums[t][j]) * (column_scales[j] * row_scales[t]) (+ bias[j]) (+ y[t][j]). */
struct hy_scale_sums_args {
    const void *sums;    /* [n_rows][n] of f32, or of int32 */
    size_t sums_stride;
    bool integers;
    const float *row_scales, *column_scales;
    const float *bias;   /* [n] or NULL */
    bool accumulate;
    float *y;
    size_t y_stride;
    size_t n, n_rows;
};

void hy_cuda_scale_sums(cudaStream_t stream, const struct hy_scale_sums_args *args);

#endif
