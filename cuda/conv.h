/* The causal convolution with SiLU (docs/semantics.md, section 4b). */
#ifndef HYMBA_CUDA_CONV_H
#define HYMBA_CUDA_CONV_H

#include <stddef.h>

#include "kernel/kernel.h"
#include "portable.h"

/* All pointers are the device's, the list of sequences too; y is not x. longest: most rows of one
 * of the sequences, two million at most; it decides the grid, never a bit of a result. */
void hy_cuda_conv(cudaStream_t stream, const struct hy_conv_args *args, size_t longest);

#endif
