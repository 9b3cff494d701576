/*
 * A row's scale hangs on its greatest element, so a block has a whole row: it finds the greatest
 * magnitude of all its threads' elements, which takes a barrier, and then writes the bytes. Threads
 * keep their first elements; later ones they compute again.
 *
 * The formulas count bytes of global memory that a launch's loads read and its stores write. A row
 * has n elements, m = max(0, n - 8 threads) of them not kept; as bytes and a scale it takes
 * 32 ceil(n / 32) + 4 bytes: R(n).
 */
#include "rows_8bit.h"

#include "element.h"
#include "kept_row.h"
#include "row_output.h"

/* Where in the block's shared memory the greatest magnitudes of warps stand, behind two sums. */
enum {
    GREATEST_AT = 2 * sizeof(float) * HY_MOST_WARPS,
    SHARED_BYTES = GREATEST_AT + sizeof(uint32_t) * HY_MOST_WARPS
};

/* Magnitudes in the order of their bits: NaN above everything. */
HY_DEVICE uint32_t magnitude(float value)
{
    return hy_to_bits(value) & 0x7fffffff;
}

HY_DEVICE uint32_t greater(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

HY_DEVICE float greatest_of_block(uint32_t own)
{
    hy_shared<uint32_t> shared(GREATEST_AT, HY_MOST_WARPS);
#pragma unroll
    for (unsigned mask = HY_WARP / 2; mask > 0; mask /= 2)
        own = greater(own, hy_shuffle_xor(own, mask));
    if (hy_thread() % HY_WARP == 0)
        shared[hy_thread() / HY_WARP] = own;
    hy_sync();
    for (unsigned warp = 0; warp < hy_block_threads() / HY_WARP; warp++)
        own = greater(own, shared[warp]);
    return hy_from_bits(own);
}

template <int DTYPE> HY_DEVICE uint8_t to_8_bits(float value)
{
    if constexpr (DTYPE == HYMBA_DTYPE_FP8)
        return hy_to_fp8(value);
    else
        return (uint8_t)(int)rintf(value);
}

/* Row t of n elements, for each of which that is the thread's each(use) calls use(i, value): once
 * to find the greatest, once to store them, in y too if there is one. */
template <int DTYPE, typename EACH>
HY_DEVICE void round_row(const struct hy_rounded &rounded, float *y, size_t t, size_t n, EACH each)
{
    constexpr float most = DTYPE == HYMBA_DTYPE_FP8 ? 448.0f : 127.0f;
    uint8_t *bytes = static_cast<uint8_t *>(rounded.data) + t * rounded.stride;
    uint32_t own = 0;
    each([&](size_t, float value) { own = greater(own, magnitude(value)); });
    const float greatest = greatest_of_block(own);
    const bool usable = greatest >= 0x1p-118f && greatest <= 0x1.fffffep127f; /* hy_can_round */
    const float factor = usable ? most / greatest : 0.0f;
    each([&](size_t i, float value) {
        hy_store(bytes + i, usable ? to_8_bits<DTYPE>(value * factor) : (uint8_t)0);
        if (y)
            hy_store(y + i, value);
    });
    const size_t behind = n + hy_thread();
    if (behind < hy_rounded_width(n))
        hy_store(bytes + behind, (uint8_t)0);
    if (hy_thread() == 0)
        hy_store(rounded.scales + t, greatest / most);
}

HY_DEVICE float *row_of(float *y, size_t stride, size_t t)
{
    return y ? y + t * stride : NULL;
}

/* Calls use(i, value) for what is kept of n elements, then use(i, later(i)) for the others. */
template <typename LATER, typename USE>
HY_DEVICE void each_element(const float kept[HY_KEPT], size_t n, LATER later, USE use)
{
    const size_t threads = hy_block_threads();
#pragma unroll
    for (int k = 0; k < HY_KEPT; k++)
        if (hy_thread() + k * threads < n)
            use(hy_thread() + k * threads, kept[k]);
    for (size_t i = hy_thread() + HY_KEPT * threads; i < n; i += threads)
        use(i, later(i));
}

/* Puts into kept, of n elements, what `of` makes of each. */
template <typename OF> HY_DEVICE void replace_kept(float kept[HY_KEPT], size_t n, OF of)
{
#pragma unroll
    for (int k = 0; k < HY_KEPT; k++) {
        const size_t i = hy_thread() + k * hy_block_threads();
        if (i < n)
            kept[k] = of(i, kept[k]);
    }
}

/* Reads 4 (2 n + 3 m), writes R(n) and 4 n of y where it is wanted. */
template <int DTYPE> static HY_KERNEL __launch_bounds__(1024)
norm_rows_8_bits(struct hy_rms_norm_args args)
{
    hy_shared<float> sums(0, HY_MOST_WARPS);
    const size_t t = hy_block().x, n = args.n;
    struct hy_kept_row row;
    hy_share_sum(sums, hy_load_row(row, args.x + t * args.x_stride, n));
    hy_sync();
    const float scale = hy_inverse_rms(hy_sum_of_warps(sums), n, args.epsilon);
    const auto norm = [&](size_t i, float x) { return x * scale * hy_load(args.weight + i); };
    replace_kept(row.kept, n, norm);
    round_row<DTYPE>(args.rounded, row_of(args.y, args.y_stride, t), t, n, [&](auto use) {
        each_element(row.kept, n, [&](size_t i) { return norm(i, hy_load(row.x + i)); }, use);
    });
}

void hy_cuda_rms_norm_8_bits(cudaStream_t stream, const struct hy_rms_norm_args *args, size_t rows)
{
    if (args->rounded.dtype == HYMBA_DTYPE_FP8)
        hy_launch(stream, norm_rows_8_bits<HYMBA_DTYPE_FP8>, dim3((unsigned)rows),
                  hy_row_threads(args->n), SHARED_BYTES, *args);
    else
        hy_launch(stream, norm_rows_8_bits<HYMBA_DTYPE_INT8>, dim3((unsigned)rows),
                  hy_row_threads(args->n), SHARED_BYTES, *args);
}

/* Both streams as their norms have them; what is kept of a mean stands in the first. */
struct streams {
    struct hy_kept_row attention, ssm;
    float scale_attention, scale_ssm;
};

HY_DEVICE void load_streams(struct streams &streams, const struct hy_fuse_args &args, size_t t)
{
    const float *attention = args.attention + t * args.attention_stride;
    const float *ssm = args.ssm + t * args.ssm_stride;
    float2 sums;
    if (args.sums) {
        hy_load_kept(streams.attention, attention, args.n);
        hy_load_kept(streams.ssm, ssm, args.n);
        sums = make_float2(hy_load(args.sums + 2 * t), hy_load(args.sums + 2 * t + 1));
    } else {
        sums = hy_sum_streams(streams.attention, attention, streams.ssm, ssm, args.n);
    }
    const size_t total = args.sums ? args.total : args.n;
    streams.scale_attention = hy_inverse_rms(sums.x, total, args.epsilon);
    streams.scale_ssm = hy_inverse_rms(sums.y, total, args.epsilon);
}

/* n elements a stream; the row has w = n or, side by side, w = 2 n. Reads 2 * 4 (2 n + 3 m), with
 * given sums 2 * 4 (2 n + 2 m) and 8 in each thread; writes R(w), and 4 w of y where it is wanted.
 */
template <int DTYPE> static HY_KERNEL __launch_bounds__(1024)
fuse_rows_8_bits(struct hy_fuse_args args)
{
    const size_t t = hy_block().x, n = args.n;
    struct streams streams;
    load_streams(streams, args, t);
    const auto first = [&](size_t i, float x) {
        return x * streams.scale_attention * hy_load(args.weight_attention + i);
    };
    const auto second = [&](size_t i, float x) {
        return x * streams.scale_ssm * hy_load(args.weight_ssm + i);
    };
    const auto later_first = [&](size_t i) { return first(i, hy_load(streams.attention.x + i)); };
    const auto later_second = [&](size_t i) { return second(i, hy_load(streams.ssm.x + i)); };
    const auto later_mean = [&](size_t i) { return (later_first(i) + later_second(i)) * 0.5f; };
    replace_kept(streams.attention.kept, n, first);
    replace_kept(streams.ssm.kept, n, second);
#pragma unroll
    for (int k = 0; k < HY_KEPT; k++)
        if (!args.concat)
            streams.attention.kept[k] =
                (streams.attention.kept[k] + streams.ssm.kept[k]) * 0.5f;
    float *y = row_of(args.y, args.y_stride, t);
    round_row<DTYPE>(args.rounded, y, t, args.concat ? 2 * n : n, [&](auto use) {
        if (!args.concat) {
            each_element(streams.attention.kept, n, later_mean, use);
            return;
        }
        each_element(streams.attention.kept, n, later_first, use);
        each_element(streams.ssm.kept, n, later_second,
                     [&](size_t i, float value) { use(n + i, value); });
    });
}

void hy_cuda_fuse_8_bits(cudaStream_t stream, const struct hy_fuse_args *args, size_t rows)
{
    if (args->rounded.dtype == HYMBA_DTYPE_FP8)
        hy_launch(stream, fuse_rows_8_bits<HYMBA_DTYPE_FP8>, dim3((unsigned)rows),
                  hy_row_threads(args->n), SHARED_BYTES, *args);
    else
        hy_launch(stream, fuse_rows_8_bits<HYMBA_DTYPE_INT8>, dim3((unsigned)rows),
                  hy_row_threads(args->n), SHARED_BYTES, *args);
}

/* Reads 8 (n + m), writes R(n) and 4 n of y where it is wanted. */
template <int DTYPE> static HY_KERNEL __launch_bounds__(1024)
swiglu_rows_8_bits(struct hy_swiglu_args args)
{
    const size_t t = hy_block().x, n = args.n;
    const float *gate = args.gate + t * args.gate_stride, *up = args.up + t * args.up_stride;
    const auto gated = [&](size_t i) { return hy_silu(hy_load(gate + i)) * hy_load(up + i); };
    float kept[HY_KEPT] = {};
    replace_kept(kept, n, [&](size_t i, float) { return gated(i); });
    round_row<DTYPE>(args.rounded, row_of(args.y, args.y_stride, t), t, n,
                     [&](auto use) { each_element(kept, n, gated, use); });
}

void hy_cuda_swiglu_8_bits(cudaStream_t stream, const struct hy_swiglu_args *args, size_t rows)
{
    if (args->rounded.dtype == HYMBA_DTYPE_FP8)
        hy_launch(stream, swiglu_rows_8_bits<HYMBA_DTYPE_FP8>, dim3((unsigned)rows),
                  hy_row_threads(args->n), SHARED_BYTES, *args);
    else
        hy_launch(stream, swiglu_rows_8_bits<HYMBA_DTYPE_INT8>, dim3((unsigned)rows),
                  hy_row_threads(args->n), SHARED_BYTES, *args);
}

/* Reads 4 (n + m), writes R(n). */
template <int DTYPE> static HY_KERNEL __launch_bounds__(1024)
round_rows_8_bits(struct hy_round_args args)
{
    const size_t t = hy_block().x, n = args.n;
    struct hy_kept_row row;
    hy_load_kept(row, args.x + t * args.x_stride, n);
    round_row<DTYPE>(args.y, NULL, t, n, [&](auto use) {
        each_element(row.kept, n, [&](size_t i) { return hy_load(row.x + i); }, use);
    });
}

void hy_cuda_round_8_bits(cudaStream_t stream, const struct hy_round_args *args, size_t rows)
{
    if (args->y.dtype == HYMBA_DTYPE_FP8)
        hy_launch(stream, round_rows_8_bits<HYMBA_DTYPE_FP8>, dim3((unsigned)rows),
                  hy_row_threads(args->n), SHARED_BYTES, *args);
    else
        hy_launch(stream, round_rows_8_bits<HYMBA_DTYPE_INT8>, dim3((unsigned)rows),
                  hy_row_threads(args->n), SHARED_BYTES, *args);
}
