#include "scale_sums.h"

enum { THREADS = 256, BATCH = 4 }; /* a thread's elements, all loaded before one is stored */

/* The operations of generic C, in its order: none may be fused. */
HY_DEVICE float scaled(const struct hy_scale_sums_args &args, size_t j, float sum, float row_scale,
                       float old)
{
    const float scale = hy_multiply_f32(hy_load(args.column_scales + j), row_scale);
    const float product = hy_multiply_f32(sum, scale);
    const float start = args.bias ? hy_load(args.bias + j) : 0.0f;
    return (args.accumulate ? old + start : start) + product;
}

/* A row reads 8 n bytes, 4 n more of a bias and 4 n of y where it is added to, and in each of its
 * k threads 4 of a scale, k = 256 ceil(n / 1024); it writes 4 n. */
template <typename SUM> static HY_KERNEL __launch_bounds__(THREADS)
scale_sums(struct hy_scale_sums_args args)
{
    const size_t t = hy_block().x, n = args.n;
    const size_t first = (size_t)hy_block().y * THREADS * BATCH + hy_thread();
    const SUM *sums = static_cast<const SUM *>(args.sums) + t * args.sums_stride;
    float *y = args.y + t * args.y_stride;
    const float row_scale = hy_load(args.row_scales + t);
    float values[BATCH], old[BATCH];
#pragma unroll
    for (int k = 0; k < BATCH; k++) {
        const size_t j = first + k * THREADS;
        values[k] = j < n ? (float)hy_load(sums + j) : 0.0f;
        old[k] = j < n && args.accumulate ? hy_load(y + j) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < BATCH; k++) {
        const size_t j = first + k * THREADS;
        if (j < n)
            hy_store(y + j, scaled(args, j, values[k], row_scale, old[k]));
    }
}

void hy_cuda_scale_sums(cudaStream_t stream, const struct hy_scale_sums_args *args)
{
    if (args->n == 0 || args->n_rows == 0)
        return;
    const unsigned parts = (unsigned)((args->n + THREADS * BATCH - 1) / (THREADS * BATCH));
    const dim3 grid((unsigned)args->n_rows, parts);
    if (args->integers)
        hy_launch(stream, scale_sums<int32_t>, grid, THREADS, 0, *args);
    else
        hy_launch(stream, scale_sums<float>, grid, THREADS, 0, *args);
}
