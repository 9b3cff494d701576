/*
 * y = x w^T (+ bias) (+ y) with bf16 activations and quantised weights, which are read as they lie
 * and become bf16 in registers. A result depends on its row of x and its row of w alone, bit by
 * bit: not on how many rows are multiplied together, nor on their places; matmul_quantised.cu says
 * why.
 */
#ifndef HYMBA_CUDA_MATMUL_QUANTISED_H
#define HYMBA_CUDA_MATMUL_QUANTISED_H

#include "portable.h"

extern "C" {
#include "kernel/kernel.h"
}

/* Bytes of device memory that the launches want. */
size_t hy_cuda_matmul_quantised_scratch(const struct hy_matmul_args *args);

/* args->rounded: BF16, at a multiple of 16 bytes, as weights and scales are; its stride is a
 * multiple of 8 elements. One launch, or two where scratch is wanted, whatever m is. */
void hy_cuda_matmul_quantised(cudaStream_t stream, const struct hy_matmul_args *args,
                              void *scratch);

#endif
