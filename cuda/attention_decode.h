/* Attention of few rows over long caches, whose keys are shared out among blocks. */
#ifndef HYMBA_CUDA_ATTENTION_DECODE_H
#define HYMBA_CUDA_ATTENTION_DECODE_H

#include "attention.h"

/* Bytes of the workspace for one part of one row. */
size_t hy_cuda_attention_part_bytes(const struct hy_attention_args *args);

/* The rows of plan->parts. */
void hy_cuda_attention_decode(cudaStream_t stream, const struct hy_attention_args *args,
                              const struct hy_attention_plan *plan, void *workspace);

#endif
