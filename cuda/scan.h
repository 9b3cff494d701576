/* The selective scan and its gate (docs/semantics.md, section 4b). */
#ifndef HYMBA_CUDA_SCAN_H
#define HYMBA_CUDA_SCAN_H

#include <stddef.h>

#include "kernel/kernel.h"
#include "portable.h"

/*
 * All pointers are the device's, the list of sequences too. longest: most rows of one of them.
 * Which kernel runs decides the time, never a bit: a token's result depends on what stands before
 * it in its sequence, not on the division into calls, nor on the other sequences.
 */
void hy_cuda_scan(cudaStream_t stream, const struct hy_scan_args *args, size_t longest);

#endif
