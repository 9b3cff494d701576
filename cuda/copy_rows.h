/* Rows of bytes copied on the device by a kernel: a launch costs less than the runtime's copy. */
#ifndef HYMBA_CUDA_COPY_ROWS_H
#define HYMBA_CUDA_COPY_ROWS_H

#include "portable.h"

/* n_rows rows (at most 65535) of width bytes, a multiple of 4 like the strides, in bytes, and the
 * addresses. */
struct hy_copy_rows_args {
    void *to;
    size_t to_stride;
    const void *from;
    size_t from_stride;
    size_t width, n_rows;
};

void hy_cuda_copy_rows(cudaStream_t stream, const struct hy_copy_rows_args *args);

#endif
