#include "heads.h"

#include "element.h"

enum { THREADS = 256 };

/*
 * A row's work lies in a line: pairs of queries, then what its keys take, then its values. Heads of
 * size e have p = floor(e / 2) pairs (j, j + p) to rotate, and an odd size keeps a rest, which is
 * stored as it is. Bytes of global memory for a row with h query heads and g key heads of size e
 * and values of size v, s bytes a stored number:
 *   rotated queries: read 16 h p, written 8 h p (each head reads the row's cosines and sines)
 *   float caches: read g (8 p, of rotated keys 16 p, + 4 (e - 2 p) + 4 v), written s g (e + v)
 *   INT8, FP8: read twice that, written g (e + 4 + v + 4)
 */

/* Numbers of threads in the line: all of queries and, for float caches, of keys and values. */
struct hy_line {
    unsigned q, k, v;
};

HY_DEVICE float2 load_pair(const float *x, unsigned half)
{
    return make_float2(hy_load(x), hy_load(x + half));
}

/* Written so that queries and keys, caches with scales and without, have the same bits of it. */
HY_DEVICE float2 rotate(float2 pair, float cosine, float sine)
{
    return make_float2(hy_fma(pair.x, cosine, -(pair.y * sine)),
                       hy_fma(pair.y, cosine, pair.x * sine));
}

/* Pair j of a head at x, in row t. */
HY_DEVICE float2 rotated_pair(const struct hy_rope_store_args &args, const float *x, size_t t,
                              unsigned j)
{
    const unsigned half = (unsigned)args.qk_size / 2;
    const float2 pair = load_pair(x + j, half);
    if (!args.cosine)
        return pair;
    return rotate(pair, hy_load(args.cosine + t * half + j), hy_load(args.sine + t * half + j));
}

HY_DEVICE void rotate_query(const struct hy_rope_store_args &args, size_t t, unsigned i)
{
    const unsigned half = (unsigned)args.qk_size / 2, head = i / half, j = i % half;
    float *x = args.q + t * args.stride + (size_t)head * args.qk_size;
    const float2 pair = rotated_pair(args, x, t, j);
    hy_store(x + j, pair.x);
    hy_store(x + half + j, pair.y);
}

/* ------------------------------------------------------------ float caches */

/* Head number `head` of row t, size numbers a row. */
template <typename ELEMENT>
HY_DEVICE typename ELEMENT::bits *float_row(void *rows, size_t head_stride, unsigned head, size_t t,
                                            size_t size)
{
    unsigned char *first = static_cast<unsigned char *>(rows) + head * head_stride;
    return reinterpret_cast<typename ELEMENT::bits *>(first) + t * size;
}

/* Number i of the row's pairs of keys, with the rest of an odd size as the last of each head. */
template <typename ELEMENT>
HY_DEVICE void store_key(const struct hy_rope_store_args &args, size_t t, unsigned i)
{
    const unsigned size = (unsigned)args.qk_size, half = size / 2, per_head = size - half;
    const unsigned head = i / per_head, j = i % per_head;
    const float *x = args.k + t * args.stride + (size_t)head * size;
    typename ELEMENT::bits *y =
        float_row<ELEMENT>(args.k_rows, args.k_head_stride, head, t, size);
    if (j == half) {
        hy_store(y + size - 1, ELEMENT::narrow(hy_load(x + size - 1)));
        return;
    }
    const float2 pair = rotated_pair(args, x, t, j);
    hy_store(y + j, ELEMENT::narrow(pair.x));
    hy_store(y + half + j, ELEMENT::narrow(pair.y));
}

template <typename ELEMENT>
HY_DEVICE void store_value(const struct hy_rope_store_args &args, size_t t, unsigned i)
{
    const unsigned size = (unsigned)args.v_size, head = i / size, j = i % size;
    hy_store(float_row<ELEMENT>(args.v_rows, args.v_head_stride, head, t, size) + j,
             ELEMENT::narrow(hy_load(args.v + t * args.stride + i)));
}

template <typename ELEMENT> static HY_KERNEL __launch_bounds__(THREADS)
rope_store(struct hy_rope_store_args args, struct hy_line line)
{
    const size_t t = hy_block().x;
    const unsigned i = hy_block().y * THREADS + hy_thread();
    if (i < line.q)
        rotate_query(args, t, i);
    else if (i < line.q + line.k)
        store_key<ELEMENT>(args, t, i - line.q);
    else if (i < line.q + line.k + line.v)
        store_value<ELEMENT>(args, t, i - line.q - line.k);
}

/* ------------------------------------------------------- caches with scales */

/* What a row's bytes are: the greatest, which the row's greatest magnitude becomes, and how a
 * number up to it is stored. */
struct int8_bytes {
    static constexpr float GREATEST = 127.0f;
    HY_DEVICE unsigned char of(float value)
    {
        return (unsigned char)(int)rintf(value);
    }
};

struct fp8_bytes {
    static constexpr float GREATEST = 448.0f;
    HY_DEVICE unsigned char of(float value)
    {
        return hy_to_fp8(value);
    }
};

/* Of non-negative numbers, by their bits, whose order puts NaN above all. */
HY_DEVICE uint32_t greater(uint32_t most, float value)
{
    const uint32_t bits = hy_to_bits(value) & 0x7fffffffu;
    return bits > most ? bits : most;
}

HY_DEVICE float greatest_of_warp(uint32_t most)
{
#pragma unroll
    for (unsigned mask = HY_WARP / 2; mask > 0; mask /= 2) {
        uint32_t other = hy_shuffle_xor(most, mask);
        most = other > most ? other : most;
    }
    return hy_from_bits(most);
}

/* hy_can_round, on the device. */
HY_DEVICE bool can_round(float greatest)
{
    return greatest >= 0x1p-118f && greatest <= 0x1.fffffep127f;
}

/* What turns numbers into a row's bytes. */
struct scaled_row {
    unsigned char *y;
    float factor;
    bool usable;
};

template <typename BYTES>
HY_DEVICE void store_byte(const struct scaled_row &row, size_t i, float value)
{
    hy_store(row.y + i, row.usable ? BYTES::of(value * row.factor) : (unsigned char)0);
}

/* A row of n bytes with the scale behind them, which may lie at any address and goes byte by
 * byte. */
template <typename BYTES>
HY_DEVICE struct scaled_row begin_row(unsigned char *y, size_t n, uint32_t most)
{
    const float greatest = greatest_of_warp(most), scale = greatest / BYTES::GREATEST;
    const bool usable = can_round(greatest);
    const unsigned lane = hy_thread() % HY_WARP;
    if (lane < sizeof(float))
        hy_store(y + n + lane, (unsigned char)(hy_to_bits(scale) >> (8 * lane)));
    return {y, usable ? BYTES::GREATEST / greatest : 0.0f, usable};
}

/* A warp for a key; its numbers are computed twice, once for the greatest of them. */
template <typename BYTES>
HY_DEVICE void store_scaled_key(const struct hy_rope_store_args &args, size_t t, unsigned head)
{
    const unsigned size = (unsigned)args.qk_size, half = size / 2, lane = hy_thread() % HY_WARP;
    const float *x = args.k + t * args.stride + (size_t)head * size;
    const bool rest = size % 2 == 1 && lane == 0;
    uint32_t most = rest ? greater(0, hy_load(x + size - 1)) : 0;
    for (unsigned j = lane; j < half; j += HY_WARP) {
        const float2 pair = rotated_pair(args, x, t, j);
        most = greater(greater(most, pair.x), pair.y);
    }
    const struct scaled_row row =
        begin_row<BYTES>(static_cast<unsigned char *>(args.k_rows) + head * args.k_head_stride
                             + t * (size + sizeof(float)),
                         size, most);
    for (unsigned j = lane; j < half; j += HY_WARP) {
        const float2 pair = rotated_pair(args, x, t, j);
        store_byte<BYTES>(row, j, pair.x);
        store_byte<BYTES>(row, half + j, pair.y);
    }
    if (rest)
        store_byte<BYTES>(row, size - 1, hy_load(x + size - 1));
}

template <typename BYTES>
HY_DEVICE void store_scaled_value(const struct hy_rope_store_args &args, size_t t, unsigned head)
{
    const unsigned size = (unsigned)args.v_size, lane = hy_thread() % HY_WARP;
    const float *x = args.v + t * args.stride + (size_t)head * size;
    uint32_t most = 0;
    for (unsigned j = lane; j < size; j += HY_WARP)
        most = greater(most, hy_load(x + j));
    const struct scaled_row row =
        begin_row<BYTES>(static_cast<unsigned char *>(args.v_rows) + head * args.v_head_stride
                             + t * (size + sizeof(float)),
                         size, most);
    for (unsigned j = lane; j < size; j += HY_WARP)
        store_byte<BYTES>(row, j, hy_load(x + j));
}

/* The line's queries take whole warps, and so does each key and each value: line.k and line.v count
 * heads. */
template <typename BYTES> static HY_KERNEL __launch_bounds__(THREADS)
rope_store_scaled(struct hy_rope_store_args args, struct hy_line line)
{
    const size_t t = hy_block().x;
    const unsigned i = hy_block().y * THREADS + hy_thread(), warp = i / HY_WARP;
    const unsigned query_warps = (line.q + HY_WARP - 1) / HY_WARP;
    if (warp < query_warps) {
        if (i < line.q)
            rotate_query(args, t, i);
    } else if (warp < query_warps + line.k) {
        store_scaled_key<BYTES>(args, t, warp - query_warps);
    } else if (warp < query_warps + line.k + line.v) {
        store_scaled_value<BYTES>(args, t, warp - query_warps - line.k);
    }
}

/* ------------------------------------------------------------------ choice */

template <typename ELEMENT>
static void launch_floats(cudaStream_t stream, const struct hy_rope_store_args *args,
                          const struct hy_line *line, size_t rows)
{
    const unsigned n = line->q + line->k + line->v;
    const dim3 grid((unsigned)rows, (n + THREADS - 1) / THREADS);
    if (n > 0)
        hy_launch(stream, rope_store<ELEMENT>, grid, THREADS, 0, *args, *line);
}

template <typename BYTES>
static void launch_scaled(cudaStream_t stream, const struct hy_rope_store_args *args,
                        const struct hy_line *line, size_t rows)
{
    const unsigned warps = (line->q + HY_WARP - 1) / HY_WARP + line->k + line->v;
    const unsigned warps_of_block = THREADS / HY_WARP;
    const dim3 grid((unsigned)rows, (warps + warps_of_block - 1) / warps_of_block);
    if (warps > 0)
        hy_launch(stream, rope_store_scaled<BYTES>, grid, THREADS, 0, *args, *line);
}

void hy_cuda_rope_store(cudaStream_t stream, const struct hy_rope_store_args *args, size_t rows)
{
    const size_t half = args->qk_size / 2, heads = args->n_kv_heads;
    const bool scaled = hy_cache_greatest(args->dtype) != 0.0f;
    struct hy_line line;
    line.q = args->cosine ? (unsigned)(args->n_heads * half) : 0;
    line.k = (unsigned)(scaled ? heads : heads * (args->qk_size - half));
    line.v = (unsigned)(scaled ? heads : heads * args->v_size);
    if (rows == 0)
        return;
    if (args->dtype == HYMBA_DTYPE_INT8)
        launch_scaled<int8_bytes>(stream, args, &line, rows);
    else if (args->dtype == HYMBA_DTYPE_FP8)
        launch_scaled<fp8_bytes>(stream, args, &line, rows);
    else if (args->dtype == HYMBA_DTYPE_F32)
        launch_floats<hy_element_f32>(stream, args, &line, rows);
    else if (args->dtype == HYMBA_DTYPE_F16)
        launch_floats<hy_element_f16>(stream, args, &line, rows);
    else
        launch_floats<hy_element_bf16>(stream, args, &line, rows);
}
