#include "rank_sums.h"

enum { THREADS = 256 };

HY_DEVICE float add(float a, float b)
{
    return a + b;
}

HY_DEVICE float4 add(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

/* Elements of T in one row. */
template <typename T> HY_DEVICE unsigned row_elements(size_t n)
{
    return (unsigned)(n / (sizeof(T) / sizeof(float)));
}

template <typename T> HY_DEVICE const T *element(const float *rows, size_t stride, unsigned row,
                                                 unsigned i)
{
    return (const T *)(rows + row * stride) + i;
}

/* Reads 4 * rows * n bytes and writes as many. */
template <typename T> HY_KERNEL pack_rows(struct hy_pack_rows_args args)
{
    unsigned i = hy_block().x * THREADS + hy_thread(), width = row_elements<T>(args.n);
    if (i < args.rows * width)
        hy_store((T *)args.y + i, hy_load(element<T>(args.x, args.x_stride, i / width, i % width)));
}

/* Reads 4 * rows * n bytes of every part, and of y if accumulate; writes 4 * rows * n. */
template <typename T> HY_KERNEL rank_sums(struct hy_rank_sums_args args)
{
    unsigned i = hy_block().x * THREADS + hy_thread(), width = row_elements<T>(args.n);
    if (i >= args.rows * width)
        return;
    const float *part = (const float *)element<T>(args.parts, args.row_stride, i / width,
                                                  i % width);
    T *y = (T *)element<T>(args.y, args.y_stride, i / width, i % width);
    T sum = hy_load((const T *)part);
#pragma unroll 4
    for (unsigned rank = 1; rank < args.n_parts; rank++)
        sum = add(sum, hy_load((const T *)(part + rank * args.part_stride)));
    hy_store(y, args.accumulate ? add(hy_load(y), sum) : sum);
}

static unsigned blocks_for(size_t elements)
{
    return (unsigned)((elements + THREADS - 1) / THREADS);
}

/* Whether rows that begin there, so far apart, can be read by four elements at once. */
static bool has_vectors(const float *rows, size_t stride, size_t n)
{
    return (uintptr_t)rows % sizeof(float4) == 0 && stride % 4 == 0 && n % 4 == 0;
}

void hy_cuda_pack_rows(cudaStream_t stream, const struct hy_pack_rows_args *args)
{
    size_t elements = args->rows * args->n;
    if (elements == 0)
        return;
    if (has_vectors(args->x, args->x_stride, args->n) && has_vectors(args->y, args->n, args->n))
        hy_launch(stream, pack_rows<float4>, dim3(blocks_for(elements / 4)), THREADS, 0, *args);
    else
        hy_launch(stream, pack_rows<float>, dim3(blocks_for(elements)), THREADS, 0, *args);
}

void hy_cuda_rank_sums(cudaStream_t stream, const struct hy_rank_sums_args *args)
{
    size_t elements = args->rows * args->n;
    if (elements == 0)
        return;
    if (has_vectors(args->parts, args->row_stride, args->n) && args->part_stride % 4 == 0
        && has_vectors(args->y, args->y_stride, args->n))
        hy_launch(stream, rank_sums<float4>, dim3(blocks_for(elements / 4)), THREADS, 0, *args);
    else
        hy_launch(stream, rank_sums<float>, dim3(blocks_for(elements)), THREADS, 0, *args);
}
