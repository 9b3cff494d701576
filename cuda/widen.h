/* Weights of any type as f32, for products whose activations are f32. */
#ifndef HYMBA_CUDA_WIDEN_H
#define HYMBA_CUDA_WIDEN_H

#include "portable.h"

extern "C" {
#include "kernel/kernel.h"
}

/* y[j][i] = w[first + j][i] of n_rows rows, at most 65535. */
struct hy_widen_args {
    struct hy_matrix w;   /* rows stride elements apart, each aligned to its element */
    size_t stride;        /* columns if quantised */
    size_t first, n_rows;
    float *y;             /* [n_rows][y_stride] */
    size_t y_stride;
};

void hy_cuda_widen(cudaStream_t stream, const struct hy_widen_args *args);

#endif
