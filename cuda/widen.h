/* Weights as f32, which f32 activations are multiplied with, some of a matrix's rows at a time. */
#ifndef HYMBA_CUDA_WIDEN_H
#define HYMBA_CUDA_WIDEN_H

#include "portable.h"

extern "C" {
#include "kernel/kernel.h"
}

/* y[j][i] = w[first + j][i] of n_rows rows, at most 65535. */
struct hy_widen_args {
    struct hy_matrix w;   /* F16, BF16 or quantised; rows stride elements apart */
    size_t stride;        /* columns if quantised */
    size_t first, n_rows;
    float *y;             /* [n_rows][y_stride] */
    size_t y_stride;
};

/* Float weights are aligned to their element. Quantised ones are at a multiple of 16 bytes, and so
 * is each row of y then; columns are less than 2^32. */
void hy_cuda_widen(cudaStream_t stream, const struct hy_widen_args *args);

#endif
