/* Attention of many rows: tiles of rows and heads against blocks of keys. */
#ifndef HYMBA_CUDA_ATTENTION_PREFILL_H
#define HYMBA_CUDA_ATTENTION_PREFILL_H

#include "attention.h"

/* The rows of plan->tiles, of HY_ATTENTION_TILE pairs; by attention_prefill.cu, in f32 for caches
 * of every type. */
void hy_cuda_attention_prefill(cudaStream_t stream, const struct hy_attention_args *args,
                               const struct hy_attention_plan *plan);

/*
 * The same by attention_mma.cu: tensor cores multiply q and weights rounded to bf16, or to f16 for
 * F16 caches. Not for all args.
 *
 * An infinity or a NaN among the values of a block reaches all rows whose tile has the block, also
 * those that stand before it in the sequence: tensor cores multiply it with weights of 0.
 */
bool hy_cuda_can_attention_mma(const struct hy_attention_args *args);
/* Of its largest tile. */
unsigned hy_cuda_attention_mma_pairs(const struct hy_attention_args *args);
void hy_cuda_attention_mma(cudaStream_t stream, const struct hy_attention_args *args,
                           const struct hy_attention_plan *plan);

/* The same of INT8 and FP8 caches, by attention_mma_bytes.cu; tiles of HY_ATTENTION_TILE pairs. */
bool hy_cuda_can_attention_mma_bytes(const struct hy_attention_args *args);
void hy_cuda_attention_mma_bytes(cudaStream_t stream, const struct hy_attention_args *args,
                                 const struct hy_attention_plan *plan);

#endif
