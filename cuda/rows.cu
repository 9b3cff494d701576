#include "rows.h"

#include "element.h"
#include "kept_row.h"
#include "quantised.h"
#include "row_output.h"
#include "rows_8bit.h"

/* The formulas count bytes of global memory that a launch's loads read and its stores write. */

enum { THREADS = 256, BATCH = 4 }; /* a thread's elements, all loaded before one is stored */

/* Rows stand in the grid's first dimension, which has room for 2^31 - 1. */
static dim3 grid_of_rows(size_t rows, size_t n, size_t n_of_block)
{
    return dim3((unsigned)rows, (unsigned)((n + n_of_block - 1) / n_of_block));
}

/* Part number `part` of x's elements as those of y, which has zeros behind the n of x. */
template <typename FROM, typename TO>
HY_DEVICE void convert_batch(const typename FROM::bits *x, size_t n, typename TO::bits *y,
                             size_t n_padded, size_t part)
{
    const size_t first = part * THREADS * BATCH + hy_thread();
    float values[BATCH];
#pragma unroll
    for (int k = 0; k < BATCH; k++) {
        size_t i = first + k * THREADS;
        values[k] = i < n ? FROM::widen(hy_load(x + i)) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < BATCH; k++)
        if (first + k * THREADS < n_padded)
            hy_store(y + first + k * THREADS, TO::narrow(values[k]));
}

/* --------------------------------------------------------------- embeddings */

/* T rows of n elements of s bytes: reads T (s n + 4 * 256 ceil(n / 1024)), writes 4 T n. */
template <typename ELEMENT> static HY_KERNEL __launch_bounds__(THREADS)
embed_rows(struct hy_embed_args args)
{
    const size_t n = args.table.columns, t = hy_block().x;
    const size_t id = (size_t)hy_load(args.ids + t);
    const typename ELEMENT::bits *row =
        static_cast<const typename ELEMENT::bits *>(args.table.data) + id * n;
    convert_batch<ELEMENT, hy_element_f32>(row, n, args.y + t * n, n, hy_block().y);
}

/* The same of a quantised table, s = 1 or, of INT4, 1/2: reads T (s n + (2 + 4) n / 8), writes
 * 4 T n. */
template <int DTYPE> static HY_KERNEL __launch_bounds__(THREADS)
embed_quantised(struct hy_embed_args args)
{
    const size_t n = args.table.columns, t = hy_block().x;
    const unsigned i = (hy_block().y * THREADS + hy_thread()) * HY_EIGHT;
    float values[HY_EIGHT];
    if (i >= n)
        return;
    hy_load_eight<DTYPE>(args.table, (size_t)hy_load(args.ids + t), i, values);
    hy_store_eight(args.y + t * n + i, values);
}

void hy_cuda_embed(cudaStream_t stream, const struct hy_embed_args *args, size_t rows)
{
    const dim3 grid = grid_of_rows(rows, args->table.columns, THREADS * BATCH);
    const dim3 grid_of_eights = grid_of_rows(rows, args->table.columns, THREADS * HY_EIGHT);
    if (rows == 0 || args->table.columns == 0)
        return;
    if (args->table.dtype == HYMBA_DTYPE_INT8)
        hy_launch(stream, embed_quantised<HYMBA_DTYPE_INT8>, grid_of_eights, THREADS, 0, *args);
    else if (args->table.dtype == HYMBA_DTYPE_INT4)
        hy_launch(stream, embed_quantised<HYMBA_DTYPE_INT4>, grid_of_eights, THREADS, 0, *args);
    else if (args->table.dtype == HYMBA_DTYPE_F32)
        hy_launch(stream, embed_rows<hy_element_f32>, grid, THREADS, 0, *args);
    else if (args->table.dtype == HYMBA_DTYPE_F16)
        hy_launch(stream, embed_rows<hy_element_f16>, grid, THREADS, 0, *args);
    else
        hy_launch(stream, embed_rows<hy_element_bf16>, grid, THREADS, 0, *args);
}

/* -------------------------------------------------------------------- norms */

/* A row of so many rounded elements takes 2 * 32 ceil(n / 32) bytes: R(n). */

/* A row of n elements at x, by a block of threads that is as large as those of all rows like it. */
HY_DEVICE void norm_row(const float *x, const float *weight, size_t n, float epsilon,
                        const struct hy_row_output &output)
{
    hy_shared<float> sums(0, HY_MOST_WARPS);
    const size_t threads = hy_block_threads();
    struct hy_kept_row row;
    hy_share_sum(sums, hy_load_row(row, x, n));
    hy_sync();
    const float scale = hy_inverse_rms(hy_sum_of_warps(sums), n, epsilon);
#pragma unroll
    for (int k = 0; k < HY_KEPT; k++) {
        size_t i = hy_thread() + k * threads;
        if (i < n)
            hy_store_result(output, i, row.kept[k] * scale * hy_load(weight + i));
    }
    for (size_t i = hy_thread() + HY_KEPT * threads; i < n; i += threads)
        hy_store_result(output, i, hy_load(row.x + i) * scale * hy_load(weight + i));
    hy_end_row(output, n);
}

/* n elements a row, m = max(0, n - 8 threads) of them not kept: a row reads 4 (2 n + m) and writes
 * 4 n bytes of y and R(n) rounded ones, where they are wanted. */
static HY_KERNEL __launch_bounds__(1024) norm_rows(struct hy_rms_norm_args args)
{
    const size_t t = hy_block().x;
    norm_row(args.x + t * args.x_stride, args.weight, args.n, args.epsilon,
             hy_output_of_row(args.y, args.y_stride, args.rounded, t));
}

void hy_cuda_rms_norm(cudaStream_t stream, const struct hy_rms_norm_args *args, size_t rows)
{
    if (rows == 0 || args->n == 0)
        return;
    if (hy_is_8_bits(args->rounded)) {
        hy_cuda_rms_norm_8_bits(stream, args, rows);
        return;
    }
    hy_launch(stream, norm_rows, dim3((unsigned)rows), hy_row_threads(args->n),
              sizeof(float) * HY_MOST_WARPS, *args);
}

/* A block for a row and part of n elements, which reads and writes what norm_rows does; of the
 * rounded part no f32 is written. */
static HY_KERNEL __launch_bounds__(1024) norm_parts(struct hy_norm_parts_args args)
{
    const size_t t = hy_block().x, part = hy_block().y;
    const struct hy_norm_part own = args.parts[part];
    if (own.n == 0)
        return;
    float *x = args.x + t * args.x_stride;
    for (size_t i = 0; i < part; i++)
        x += args.parts[i].n;
    struct hy_row_output output = {x, NULL};
    if (part == 0 && args.rounded.data)
        output = hy_output_of_row(NULL, 0, args.rounded, t);
    norm_row(x, own.weight, own.n, args.epsilon, output);
}

void hy_cuda_norm_parts(cudaStream_t stream, const struct hy_norm_parts_args *args, size_t rows)
{
    size_t longest = 0;
    for (const struct hy_norm_part &part : args->parts)
        longest = part.n > longest ? part.n : longest;
    if (rows == 0 || longest == 0)
        return;
    hy_launch(stream, norm_parts, dim3((unsigned)rows, HY_NORM_PARTS), hy_row_threads(longest),
              sizeof(float) * HY_MOST_WARPS, *args);
}

HY_DEVICE void fuse_element(const struct hy_fuse_args &args, const struct hy_row_output &output,
                            size_t i, float attention, float ssm, float scale_attention,
                            float scale_ssm)
{
    float first = attention * scale_attention * hy_load(args.weight_attention + i);
    float second = ssm * scale_ssm * hy_load(args.weight_ssm + i);
    if (args.concat) {
        hy_store_result(output, i, first);
        hy_store_result(output, args.n + i, second);
    } else {
        hy_store_result(output, i, (first + second) * 0.5f);
    }
}

/* n elements a stream and row, m of them not kept: a row reads 2 * 4 (2 n + m) bytes; with given
 * sums 2 * 4 (2 n) and, in each of its k threads, 8. A mean has w = n elements, side by side
 * w = 2 n: 4 w bytes of y are written and R(w) rounded ones, where they are wanted. */
template <bool SUMMED> static HY_KERNEL __launch_bounds__(1024)
fuse_rows(struct hy_fuse_args args)
{
    const size_t threads = hy_block_threads(), n = args.n, t = hy_block().x;
    const size_t total = SUMMED ? args.total : n;
    const float *attention_row = args.attention + t * args.attention_stride;
    const float *ssm_row = args.ssm + t * args.ssm_stride;
    const struct hy_row_output output =
        hy_output_of_row(args.y, args.y_stride, args.rounded, t);
    struct hy_kept_row attention, ssm;
    float2 sums;
    if constexpr (SUMMED) {
        hy_load_kept(attention, attention_row, n);
        hy_load_kept(ssm, ssm_row, n);
        sums = make_float2(hy_load(args.sums + 2 * t), hy_load(args.sums + 2 * t + 1));
    } else {
        sums = hy_sum_streams(attention, attention_row, ssm, ssm_row, n);
    }
    const float scale_attention = hy_inverse_rms(sums.x, total, args.epsilon);
    const float scale_ssm = hy_inverse_rms(sums.y, total, args.epsilon);
#pragma unroll
    for (int k = 0; k < HY_KEPT; k++) {
        size_t i = hy_thread() + k * threads;
        if (i < n)
            fuse_element(args, output, i, attention.kept[k], ssm.kept[k], scale_attention,
                         scale_ssm);
    }
    for (size_t i = hy_thread() + HY_KEPT * threads; i < n; i += threads)
        fuse_element(args, output, i, hy_load(attention.x + i), hy_load(ssm.x + i),
                     scale_attention, scale_ssm);
    hy_end_row(output, args.concat ? 2 * n : n);
}

void hy_cuda_fuse(cudaStream_t stream, const struct hy_fuse_args *args, size_t rows)
{
    if (rows == 0 || args->n == 0)
        return;
    if (hy_is_8_bits(args->rounded)) {
        hy_cuda_fuse_8_bits(stream, args, rows);
        return;
    }
    const size_t shared = 2 * sizeof(float) * HY_MOST_WARPS;
    if (args->sums)
        hy_launch(stream, fuse_rows<true>, dim3((unsigned)rows), hy_row_threads(args->n), shared,
                  *args);
    else
        hy_launch(stream, fuse_rows<false>, dim3((unsigned)rows), hy_row_threads(args->n), shared,
                  *args);
}

/* A row reads 2 * 4 n bytes and writes 8. By as many threads as fuse_rows has, whose bits the sums
 * of whole rows have then. */
static HY_KERNEL __launch_bounds__(1024) square_sums_rows(struct hy_square_sums_args args)
{
    const size_t t = hy_block().x;
    struct hy_kept_row attention, ssm;
    const float2 sums = hy_sum_streams(attention, args.attention + t * args.attention_stride, ssm,
                                       args.ssm + t * args.ssm_stride, args.n);
    if (hy_thread() == 0) {
        hy_store(args.sums + 2 * t, sums.x);
        hy_store(args.sums + 2 * t + 1, sums.y);
    }
}

void hy_cuda_square_sums(cudaStream_t stream, const struct hy_square_sums_args *args, size_t rows)
{
    if (rows == 0 || args->n == 0)
        return;
    hy_launch(stream, square_sums_rows, dim3((unsigned)rows), hy_row_threads(args->n),
              2 * sizeof(float) * HY_MOST_WARPS, *args);
}

/* ------------------------------------------------------ element by element */

/* A row of n elements reads 8 n and writes 4 n bytes of y and R(n) rounded ones, where they are
 * wanted. */
static HY_KERNEL __launch_bounds__(THREADS) swiglu_rows(struct hy_swiglu_args args)
{
    const size_t t = hy_block().x, n = args.n;
    const size_t first = (size_t)hy_block().y * THREADS * BATCH + hy_thread();
    const struct hy_row_output output =
        hy_output_of_row(args.y, args.y_stride, args.rounded, t);
    float gate[BATCH], up[BATCH];
#pragma unroll
    for (int k = 0; k < BATCH; k++) {
        size_t i = first + k * THREADS;
        gate[k] = i < n ? hy_load(args.gate + t * args.gate_stride + i) : 0.0f;
        up[k] = i < n ? hy_load(args.up + t * args.up_stride + i) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < BATCH; k++)
        if (first + k * THREADS < n)
            hy_store_result(output, first + k * THREADS, hy_silu(gate[k]) * up[k]);
    if (hy_block().y == 0)
        hy_end_row(output, n);
}

void hy_cuda_swiglu(cudaStream_t stream, const struct hy_swiglu_args *args, size_t rows)
{
    if (rows == 0 || args->n == 0)
        return;
    if (hy_is_8_bits(args->rounded)) {
        hy_cuda_swiglu_8_bits(stream, args, rows);
        return;
    }
    hy_launch(stream, swiglu_rows, grid_of_rows(rows, args->n, THREADS * BATCH), THREADS, 0,
              *args);
}

/* A row of n elements reads 4 n and writes 2 * 32 ceil(n / 32) bytes. */
static HY_KERNEL __launch_bounds__(THREADS) round_rows(struct hy_round_args args)
{
    const size_t t = hy_block().x, n = args.n, n_padded = hy_rounded_width(n);
    uint16_t *y = static_cast<uint16_t *>(args.y.data) + t * args.y.stride;
    convert_batch<hy_element_f32, hy_element_bf16>(args.x + t * args.x_stride, n, y, n_padded,
                                                   hy_block().y);
}

void hy_cuda_round(cudaStream_t stream, const struct hy_round_args *args, size_t rows)
{
    if (rows == 0 || args->n == 0)
        return;
    if (hy_is_8_bits(args->y)) {
        hy_cuda_round_8_bits(stream, args, rows);
        return;
    }
    hy_launch(stream, round_rows, grid_of_rows(rows, hy_padded_row(args->n), THREADS * BATCH),
              THREADS, 0, *args);
}

/* n elements of s bytes to ones of r: reads s n and writes r n bytes. */
template <typename FROM, typename TO> static HY_KERNEL __launch_bounds__(THREADS)
convert_elements(const typename FROM::bits *x, typename TO::bits *y, size_t n)
{
    convert_batch<FROM, TO>(x, n, y, n, hy_block().x);
}

template <typename FROM, typename TO>
static void launch_convert(cudaStream_t stream, const struct hy_convert_args *args)
{
    const dim3 grid((unsigned)((args->n + THREADS * BATCH - 1) / (THREADS * BATCH)));
    hy_launch(stream, convert_elements<FROM, TO>, grid, THREADS, 0,
              static_cast<const typename FROM::bits *>(args->x),
              static_cast<typename TO::bits *>(args->y), args->n);
}

template <typename FROM>
static void convert_from(cudaStream_t stream, const struct hy_convert_args *args)
{
    if (args->y_dtype == HYMBA_DTYPE_F32)
        launch_convert<FROM, hy_element_f32>(stream, args);
    else if (args->y_dtype == HYMBA_DTYPE_F16)
        launch_convert<FROM, hy_element_f16>(stream, args);
    else
        launch_convert<FROM, hy_element_bf16>(stream, args);
}

void hy_cuda_convert(cudaStream_t stream, const struct hy_convert_args *args)
{
    if (args->n == 0)
        return;
    if (args->x_dtype == HYMBA_DTYPE_F32)
        convert_from<hy_element_f32>(stream, args);
    else if (args->x_dtype == HYMBA_DTYPE_F16)
        convert_from<hy_element_f16>(stream, args);
    else
        convert_from<hy_element_bf16>(stream, args);
}
