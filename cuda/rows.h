/*
 * The ops that go row by row (sections 3 and 4 of docs/semantics.md) and conversions. All
 * pointers are the device's. A row's result does not depend on the number of rows.
 */
#ifndef HYMBA_CUDA_ROWS_H
#define HYMBA_CUDA_ROWS_H

#include <stddef.h>

#include "backend/device.h"
#include "portable.h"

/* The table lies at a multiple of its element's size; of a quantised one, table and y are at
 * multiples of 16 bytes. */
void hy_cuda_embed(cudaStream_t stream, const struct hy_embed_args *args, size_t rows);

/* These also round as hy_cuda_round does, norm_parts to BF16 alone; then y may be NULL. */
void hy_cuda_rms_norm(cudaStream_t stream, const struct hy_rms_norm_args *args, size_t rows);
void hy_cuda_norm_parts(cudaStream_t stream, const struct hy_norm_parts_args *args, size_t rows);
void hy_cuda_fuse(cudaStream_t stream, const struct hy_fuse_args *args, size_t rows);
void hy_cuda_swiglu(cudaStream_t stream, const struct hy_swiglu_args *args, size_t rows);

void hy_cuda_square_sums(cudaStream_t stream, const struct hy_square_sums_args *args, size_t rows);

/* To BF16, or to INT8 or FP8 with one scale a row; row after row (block is 0 or 1). */
void hy_cuda_round(cudaStream_t stream, const struct hy_round_args *args, size_t rows);

/* Between float types; y may be x if they are of one size. */
void hy_cuda_convert(cudaStream_t stream, const struct hy_convert_args *args);

#endif
