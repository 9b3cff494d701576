#include "widen.h"

enum { THREADS = 256 };

/* Element i of a row, without its scale. */
template <int DTYPE> HY_DEVICE float load_weight(const unsigned char *row, size_t i)
{
    if (DTYPE == HYMBA_DTYPE_F16)
        return hy_from_f16(hy_load((const uint16_t *)row + i));
    if (DTYPE == HYMBA_DTYPE_BF16)
        return hy_from_bf16(hy_load((const uint16_t *)row + i));
    if (DTYPE == HYMBA_DTYPE_INT8)
        return (float)((int)hy_load(row + i) - 128);
    return (float)((hy_load(row + i / 2) >> (i % 2 * 4) & 15) - 8);
}

/* Reads n_rows rows of weights and their scales, an INT4 byte twice; writes n_rows * columns
 * floats. */
template <int DTYPE> HY_KERNEL widen(struct hy_widen_args args, size_t row_bytes)
{
    size_t i = (size_t)hy_block().x * THREADS + hy_thread();
    size_t j = hy_block().y;
    if (i >= args.w.columns)
        return;
    const unsigned char *row = (const unsigned char *)args.w.data + (args.first + j) * row_bytes;
    float value = load_weight<DTYPE>(row, i);
    if (DTYPE == HYMBA_DTYPE_INT8 || DTYPE == HYMBA_DTYPE_INT4)
        value *= hy_from_bf16(hy_load((const uint16_t *)args.w.scales
                                      + ((args.first + j) * args.w.columns + i) / args.w.group));
    hy_store(args.y + j * args.y_stride + i, value);
}

template <int DTYPE> static void launch(cudaStream_t stream, const struct hy_widen_args *args)
{
    size_t row_bytes = DTYPE == HYMBA_DTYPE_INT4   ? args->stride / 2
                       : DTYPE == HYMBA_DTYPE_INT8 ? args->stride
                                                   : 2 * args->stride;
    dim3 grid((unsigned)((args->w.columns + THREADS - 1) / THREADS), (unsigned)args->n_rows);
    hy_launch(stream, widen<DTYPE>, grid, THREADS, 0, *args, row_bytes);
}

void hy_cuda_widen(cudaStream_t stream, const struct hy_widen_args *args)
{
    if (args->n_rows == 0 || args->w.columns == 0)
        return;
    if (args->w.dtype == HYMBA_DTYPE_F16)
        launch<HYMBA_DTYPE_F16>(stream, args);
    else if (args->w.dtype == HYMBA_DTYPE_BF16)
        launch<HYMBA_DTYPE_BF16>(stream, args);
    else if (args->w.dtype == HYMBA_DTYPE_INT8)
        launch<HYMBA_DTYPE_INT8>(stream, args);
    else
        launch<HYMBA_DTYPE_INT4>(stream, args);
}
