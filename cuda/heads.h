/*
 * Heads on their way to attention: queries and keys rotated, keys and values stored as a cache has
 * them (section 5 of docs/semantics.md, and kernel.h). All pointers are the device's. A row's
 * result does not depend on the number of rows.
 */
#ifndef HYMBA_CUDA_HEADS_H
#define HYMBA_CUDA_HEADS_H

#include <stddef.h>

#include "backend/device.h"
#include "portable.h"

/* Keys are left as they were where they came from. Of a float type's cache, k_rows, v_rows and
 * their head strides are multiples of the element's size. */
void hy_cuda_rope_store(cudaStream_t stream, const struct hy_rope_store_args *args, size_t rows);

#endif
