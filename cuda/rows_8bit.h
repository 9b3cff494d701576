/* Kernels that end with rows of INT8 or FP8 with one scale each (src/kernel/by_rows.h): what rows.h
 * declares, where such rows are asked for. */
#ifndef HYMBA_CUDA_ROWS_8BIT_H
#define HYMBA_CUDA_ROWS_8BIT_H

#include "backend/device.h"
#include "portable.h"

static inline bool hy_is_8_bits(const struct hy_rounded &rounded)
{
    return rounded.data && rounded.dtype != HYMBA_DTYPE_BF16;
}

void hy_cuda_rms_norm_8_bits(cudaStream_t stream, const struct hy_rms_norm_args *args,
                             size_t rows);
void hy_cuda_fuse_8_bits(cudaStream_t stream, const struct hy_fuse_args *args, size_t rows);
void hy_cuda_swiglu_8_bits(cudaStream_t stream, const struct hy_swiglu_args *args, size_t rows);
void hy_cuda_round_8_bits(cudaStream_t stream, const struct hy_round_args *args, size_t rows);

#endif
