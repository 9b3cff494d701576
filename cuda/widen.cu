#include "widen.h"

#include "element.h"
#include "quantised.h"

enum { THREADS = 256 };

static dim3 grid_of(const struct hy_widen_args *args, size_t elements_of_block)
{
    return dim3((unsigned)((args->w.columns + elements_of_block - 1) / elements_of_block),
                (unsigned)args->n_rows);
}

/* Reads 2 n_rows * columns bytes and writes 4 n_rows * columns. */
template <typename FROM> static HY_KERNEL __launch_bounds__(THREADS)
widen_floats(struct hy_widen_args args)
{
    const size_t i = (size_t)hy_block().x * THREADS + hy_thread(), j = hy_block().y;
    if (i >= args.w.columns)
        return;
    const typename FROM::bits *row =
        (const typename FROM::bits *)args.w.data + (args.first + j) * args.stride;
    hy_store(args.y + j * args.y_stride + i, FROM::widen(hy_load(row + i)));
}

template <typename FROM> static void launch(cudaStream_t stream, const struct hy_widen_args *args)
{
    hy_launch(stream, widen_floats<FROM>, grid_of(args, THREADS), THREADS, 0, *args);
}

/* n = n_rows * columns elements: reads n bytes, or n / 2 of INT4, and 2 n / 8 of scales (each again
 * for every eight elements of its group); writes 4 n. */
template <int DTYPE> static HY_KERNEL __launch_bounds__(THREADS)
widen_quantised(struct hy_widen_args args)
{
    const unsigned i = (hy_block().x * THREADS + hy_thread()) * HY_EIGHT;
    const size_t j = hy_block().y;
    float values[HY_EIGHT];
    if (i >= args.w.columns)
        return;
    hy_load_eight<DTYPE>(args.w, args.first + j, i, values);
    hy_store_eight(args.y + j * args.y_stride + i, values);
}

template <int DTYPE>
static void launch_quantised(cudaStream_t stream, const struct hy_widen_args *args)
{
    hy_launch(stream, widen_quantised<DTYPE>, grid_of(args, THREADS * HY_EIGHT), THREADS, 0, *args);
}

void hy_cuda_widen(cudaStream_t stream, const struct hy_widen_args *args)
{
    if (args->n_rows == 0 || args->w.columns == 0)
        return;
    if (args->w.dtype == HYMBA_DTYPE_F16)
        launch<hy_element_f16>(stream, args);
    else if (args->w.dtype == HYMBA_DTYPE_BF16)
        launch<hy_element_bf16>(stream, args);
    else if (args->w.dtype == HYMBA_DTYPE_INT8)
        launch_quantised<HYMBA_DTYPE_INT8>(stream, args);
    else
        launch_quantised<HYMBA_DTYPE_INT4>(stream, args);
}
