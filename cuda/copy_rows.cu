#include "copy_rows.h"

enum { THREADS = 256 };

/* Reads n_rows * width bytes and writes as many. */
template <typename T> HY_KERNEL copy_rows(struct hy_copy_rows_args args)
{
    size_t i = (size_t)hy_block().x * THREADS + hy_thread();
    if (i >= args.width / sizeof(T))
        return;
    const unsigned char *from = (const unsigned char *)args.from + hy_block().y * args.from_stride;
    unsigned char *to = (unsigned char *)args.to + hy_block().y * args.to_stride;
    hy_store((T *)to + i, hy_load((const T *)from + i));
}

template <typename T>
static void launch(cudaStream_t stream, const struct hy_copy_rows_args *args)
{
    size_t elements = args->width / sizeof(T);
    dim3 grid((unsigned)((elements + THREADS - 1) / THREADS), (unsigned)args->n_rows);
    hy_launch(stream, copy_rows<T>, grid, THREADS, 0, *args);
}

void hy_cuda_copy_rows(cudaStream_t stream, const struct hy_copy_rows_args *args)
{
    size_t all = (size_t)args->to | (size_t)args->from | args->to_stride | args->from_stride
                 | args->width;
    if (args->width == 0 || args->n_rows == 0)
        return;
    if (all % sizeof(uint4) == 0)
        launch<uint4>(stream, args);
    else
        launch<unsigned>(stream, args);
}
