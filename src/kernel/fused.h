/*
 * Ops that do the work of several of the table: on the CPU one after another for the same rows, so
 * that the bits are those of the single ones and threads need not meet in between. Units are rows;
 * where rows are rounded in blocks, a part begins at that of a block.
 */
#ifndef HY_KERNEL_FUSED_H
#define HY_KERNEL_FUSED_H

#include "kernel/kernel.h"

void hy_fused_rms_norm(const struct hy_kernels *kernels, const struct hy_rms_norm_args *args,
                       size_t begin, size_t end);
void hy_fused_norm_parts(const struct hy_kernels *kernels, const struct hy_norm_parts_args *args,
                         size_t begin, size_t end);
void hy_fused_rope_store(const struct hy_kernels *kernels, const struct hy_rope_store_args *args,
                         size_t begin, size_t end);
void hy_fused_fuse(const struct hy_kernels *kernels, const struct hy_fuse_args *args,
                   size_t begin, size_t end);
void hy_fused_swiglu(const struct hy_kernels *kernels, const struct hy_swiglu_args *args,
                     size_t begin, size_t end);

/* The rounding that an op with `rounded` ends with; x are the n elements a row that it wrote. */
struct hy_round_args hy_round_of(const float *x, size_t x_stride, size_t n,
                                 const struct hy_rounded *rounded);

#endif
