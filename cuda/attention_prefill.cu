#include "attention_prefill.h"

#include "attention_tile.h"

/*
 * In f32. A thread has ROWS pairs of a row and a head; of a block's keys four, TX apart, and of the
 * values' elements four neighbours in each TX * 4. Its row number stands in its number's high part,
 * so that half a warp has all scores of a row. A score is one thread's sum over elements in their
 * order, and an element of the result one thread's sum over keys in theirs.
 */
enum {
    THREADS = 256,
    KEYS = 64,
    TX = 16,          /* threads of a row */
    ROWS = 4,         /* pairs of a thread */
    DIMENSIONS = 32,  /* of q and keys that lie in shared memory together */
    ROW_STRIDE = DIMENSIONS + 4,
    WEIGHT_STRIDE = HY_ATTENTION_TILE + 4,
    VALUE_KEYS = 16   /* whose values lie in shared memory together */
};

/* Shared memory; values take the place of q and keys. */
enum {
    QUERIES = HY_TILE_END, /* float[HY_ATTENTION_TILE][ROW_STRIDE] */
    TILE_KEYS = QUERIES + HY_ATTENTION_TILE * ROW_STRIDE * 4,
    VALUES = QUERIES,      /* float[VALUE_KEYS][TX * 4 * V_PARTS] */
    TILE_WEIGHTS = TILE_KEYS + KEYS * ROW_STRIDE * 4, /* float[KEYS][WEIGHT_STRIDE] */
    TILE_BYTES = TILE_WEIGHTS + KEYS * WEIGHT_STRIDE * 4
};

/* In the place of a weight: the row does not see the key. */
#define HIDDEN (-1.0f)

struct tile_args {
    struct hy_attention_args attention;
    struct hy_attention_lists lists;
};

/* Four elements of a row from i on; 0 where there is none. */
template <typename Element> HY_DEVICE float4 load_four(uint64_t row, size_t i, size_t n)
{
    struct hy_packed<Element, 4> packed;
    hy_load_packed<Element, 4>(row, i, n, packed);
    float4 four = {hy_unpack<Element, 4>(packed, 0), hy_unpack<Element, 4>(packed, 1),
                   hy_unpack<Element, 4>(packed, 2), hy_unpack<Element, 4>(packed, 3)};
    if (hy_is_scaled<Element>::value && row != 0 && i < n) {
        float scale = hy_row_scale(row, n);
        four.x *= scale;
        four.y *= scale;
        four.z *= scale;
        four.w *= scale;
    }
    return four;
}

HY_DEVICE float rounded(float value, const struct hy_attention_args &args)
{
    if (!args.bf16)
        return value;
    return args.cache_type == HYMBA_DTYPE_F16 ? hy_from_f16(hy_to_f16(value))
                                              : hy_from_bf16(hy_to_bf16(value));
}

/* Elements first .. first + DIMENSIONS of the tile's q and of the block's keys. */
template <typename Element>
HY_DEVICE void stage_keys(const struct hy_attention_args &args, const struct hy_tile &tile,
                          size_t first)
{
    hy_shared<float4> queries(QUERIES, HY_ATTENTION_TILE * ROW_STRIDE / 4);
    hy_shared<float4> keys(TILE_KEYS, KEYS * ROW_STRIDE / 4);
    hy_shared<uint64_t> k_rows(HY_TILE_K_ROWS, HY_GREATEST_BLOCK);
    enum { FOURS = DIMENSIONS / 4 };
#pragma unroll
    for (unsigned step = 0; step < HY_ATTENTION_TILE * FOURS; step += THREADS) {
        unsigned row = (step + hy_thread()) / FOURS, four = (step + hy_thread()) % FOURS;
        size_t i = first + four * 4, pair = tile.first_pair + row;
        uint64_t q = 0;
        if (pair < tile.n_pairs)
            q = (uint64_t)(args.q + hy_pair_place(tile, pair, args.q_stride, args.qk_size));
        float4 value = load_four<hy_element_f32>(q, i, args.qk_size);
        float4 x = {rounded(value.x, args), rounded(value.y, args), rounded(value.z, args),
                    rounded(value.w, args)};
        queries[(row * ROW_STRIDE) / 4 + four] = x;
        keys[(row * ROW_STRIDE) / 4 + four] = load_four<Element>(k_rows[row], i, args.qk_size);
    }
}

/* Adds products of what is staged to the scores. */
HY_DEVICE void add_products(float (&scores)[ROWS][4])
{
    hy_shared<float4> queries(QUERIES, HY_ATTENTION_TILE * ROW_STRIDE / 4);
    hy_shared<float4> keys(TILE_KEYS, KEYS * ROW_STRIDE / 4);
    unsigned tx = hy_thread() % TX, row = hy_thread() / TX * ROWS;
#pragma unroll 2
    for (unsigned four = 0; four < DIMENSIONS / 4; four++) {
        float4 q[ROWS];
#pragma unroll
        for (unsigned i = 0; i < ROWS; i++)
            q[i] = queries[(row + i) * (ROW_STRIDE / 4) + four];
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            float4 k = keys[(tx + TX * j) * (ROW_STRIDE / 4) + four];
#pragma unroll
            for (unsigned i = 0; i < ROWS; i++) {
                scores[i][j] = hy_fma(q[i].x, k.x, scores[i][j]);
                scores[i][j] = hy_fma(q[i].y, k.y, scores[i][j]);
                scores[i][j] = hy_fma(q[i].z, k.z, scores[i][j]);
                scores[i][j] = hy_fma(q[i].w, k.w, scores[i][j]);
            }
        }
    }
}

/* Scores become weights, HIDDEN where a row does not see the key; returns what the row's sums so
 * far are to be multiplied with. */
HY_DEVICE float weigh(float (&scores)[4], uint64_t visible, float scale,
                      struct hy_softmax &softmax)
{
    unsigned tx = hy_thread() % TX;
    float greatest = softmax.greatest, sum = 0.0f;
#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
        scores[j] *= scale;
        if ((visible >> (tx + TX * j) & 1) && scores[j] > greatest)
            greatest = scores[j];
    }
    for (unsigned mask = TX / 2; mask > 0; mask /= 2) {
        float other = hy_shuffle_xor(greatest, mask);
        greatest = other > greatest ? other : greatest;
    }
    float base = hy_softmax_base(greatest), factor = hy_exp(softmax.greatest - base);
#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
        bool sees = visible >> (tx + TX * j) & 1;
        scores[j] = sees ? hy_exp(scores[j] - base) : HIDDEN;
        sum += sees ? scores[j] : 0.0f;
    }
    for (unsigned mask = TX / 2; mask > 0; mask /= 2)
        sum += hy_shuffle_xor(sum, mask);
    softmax.greatest = greatest;
    softmax.sum = softmax.sum * factor + sum;
    return factor;
}

/* Values of VALUE_KEYS keys of the block, elements from first on. */
template <typename Element, int V_PARTS>
HY_DEVICE void stage_values(const struct hy_attention_args &args, unsigned key, size_t first)
{
    enum { FOURS = TX * V_PARTS };
    hy_shared<float4> values(VALUES, VALUE_KEYS * FOURS);
    hy_shared<uint64_t> v_rows(HY_TILE_V_ROWS, HY_GREATEST_BLOCK);
#pragma unroll
    for (unsigned step = 0; step < VALUE_KEYS * FOURS; step += THREADS) {
        unsigned row = (step + hy_thread()) / FOURS, four = (step + hy_thread()) % FOURS;
        values[row * FOURS + four] =
            load_four<Element>(v_rows[key + row], first + four * 4, args.v_size);
    }
}

/* Adds what is staged, which begins with key `key` of the block, weighted. */
template <int V_PARTS>
HY_DEVICE void add_values(unsigned key, float4 (&sums)[ROWS][V_PARTS])
{
    hy_shared<float4> values(VALUES, VALUE_KEYS * TX * V_PARTS);
    hy_shared<float4> weights(TILE_WEIGHTS, KEYS * WEIGHT_STRIDE / 4);
    unsigned tx = hy_thread() % TX, row = hy_thread() / TX;
#pragma unroll 2
    for (unsigned j = 0; j < VALUE_KEYS; j++) {
        float4 four = weights[(key + j) * (WEIGHT_STRIDE / 4) + row];
        const float weight[ROWS] = {four.x, four.y, four.z, four.w};
        float4 v[V_PARTS];
#pragma unroll
        for (unsigned part = 0; part < V_PARTS; part++)
            v[part] = values[j * TX * V_PARTS + part * TX + tx];
#pragma unroll
        for (unsigned i = 0; i < ROWS; i++) {
            if (weight[i] < 0.0f) /* a value that is not a number would spoil the sum */
                continue;
#pragma unroll
            for (unsigned part = 0; part < V_PARTS; part++) {
                sums[i][part].x = hy_fma(weight[i], v[part].x, sums[i][part].x);
                sums[i][part].y = hy_fma(weight[i], v[part].y, sums[i][part].y);
                sums[i][part].z = hy_fma(weight[i], v[part].z, sums[i][part].z);
                sums[i][part].w = hy_fma(weight[i], v[part].w, sums[i][part].w);
            }
        }
    }
}

template <int V_PARTS>
HY_DEVICE void store_rows(const struct hy_attention_args &args, const struct hy_tile &tile,
                          size_t first, const struct hy_softmax (&softmax)[ROWS],
                          const float4 (&sums)[ROWS][V_PARTS])
{
    unsigned tx = hy_thread() % TX;
#pragma unroll
    for (unsigned i = 0; i < ROWS; i++) {
        size_t pair = tile.first_pair + hy_thread() / TX * ROWS + i;
        if (pair >= tile.n_pairs)
            continue;
        float *out = args.out + hy_pair_place(tile, pair, args.out_stride, args.v_size);
#pragma unroll
        for (unsigned part = 0; part < V_PARTS; part++) {
            size_t element = first + (part * TX + tx) * 4;
            const float four[4] = {sums[i][part].x, sums[i][part].y, sums[i][part].z,
                                   sums[i][part].w};
#pragma unroll
            for (unsigned j = 0; j < 4; j++)
                if (element + j < args.v_size)
                    hy_store(out + element + j, four[j] / softmax[i].sum);
        }
    }
}

/*
 * Grid: tiles, key heads, parts of TX * 4 * V_PARTS elements of the values (1 for up to 256).
 * Global memory of one block, whose pairs see something of B blocks of keys with n rows that a pair
 * sees, for q and keys of qk elements, values of v, in each of z parts of these:
 *   reads: n (key row + value row / z) bytes of the caches, 4 qk B for each pair, and lists
 *   writes: 4 v / z for each pair
 * Rows with scales: these are read with every four elements.
 */
template <typename Element, int V_PARTS> HY_KERNEL attention_tiles(struct tile_args args)
{
    const struct hy_attention_args &attention = args.attention;
    hy_shared<float4> weights(TILE_WEIGHTS, KEYS * WEIGHT_STRIDE / 4);
    struct hy_tile tile = hy_find_tile(attention, args.lists);
    unsigned tx = hy_thread() % TX, row = hy_thread() / TX * ROWS;
    size_t first_element = (size_t)hy_block().z * TX * 4 * V_PARTS;
    struct hy_softmax softmax[ROWS];
    float4 sums[ROWS][V_PARTS];
#pragma unroll
    for (unsigned i = 0; i < ROWS; i++) {
        softmax[i].greatest = -INFINITY;
        softmax[i].sum = 0.0f;
#pragma unroll
        for (unsigned part = 0; part < V_PARTS; part++)
            sums[i][part] = float4{0.0f, 0.0f, 0.0f, 0.0f};
    }
    for (uint64_t block = hy_next_block(tile, 0, KEYS); block != UINT64_MAX;
         block = hy_next_block(tile, block + 1, KEYS)) {
        float scores[ROWS][4] = {};
        hy_find_block<Element>(attention, tile, block, KEYS);
        hy_sync();
        for (size_t i = 0; i < attention.qk_size; i += DIMENSIONS) {
            stage_keys<Element>(attention, tile, i);
            hy_sync();
            add_products(scores);
            hy_sync();
        }
#pragma unroll
        for (unsigned i = 0; i < ROWS; i++) {
            size_t pair = tile.first_pair + row + i;
            uint64_t visible = 0;
            if (pair < tile.n_pairs)
                visible = hy_visible_bits(tile, tile.work.position + pair / tile.group, block,
                                          KEYS);
            float factor = weigh(scores[i], visible, attention.scale, softmax[i]);
#pragma unroll
            for (unsigned part = 0; part < V_PARTS; part++) {
                sums[i][part].x *= factor;
                sums[i][part].y *= factor;
                sums[i][part].z *= factor;
                sums[i][part].w *= factor;
            }
        }
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            float4 four = {scores[0][j], scores[1][j], scores[2][j], scores[3][j]};
            weights[(tx + TX * j) * (WEIGHT_STRIDE / 4) + row / ROWS] = four;
        }
        for (unsigned key = 0; key < KEYS; key += VALUE_KEYS) {
            stage_values<Element, V_PARTS>(attention, key, first_element);
            hy_sync();
            add_values<V_PARTS>(key, sums);
            hy_sync();
        }
    }
    store_rows<V_PARTS>(attention, tile, first_element, softmax, sums);
}

/* ---------------------------------------------------------------- launches */

template <typename Element, int V_PARTS>
static void launch_tiles(cudaStream_t stream, const struct tile_args &args)
{
    size_t width = TX * 4 * V_PARTS;
    dim3 grid((unsigned)args.lists.n_items, (unsigned)args.attention.n_kv_heads,
              (unsigned)((args.attention.v_size + width - 1) / width));
    hy_launch(stream, attention_tiles<Element, V_PARTS>, grid, THREADS, TILE_BYTES, args);
}

template <typename Element>
static void launch_tiles_of(cudaStream_t stream, const struct tile_args &args)
{
    if (args.attention.v_size <= TX * 4)
        launch_tiles<Element, 1>(stream, args);
    else if (args.attention.v_size <= 2 * TX * 4)
        launch_tiles<Element, 2>(stream, args);
    else
        launch_tiles<Element, 4>(stream, args);
}

void hy_cuda_attention_prefill(cudaStream_t stream, const struct hy_attention_args *args,
                               const struct hy_attention_plan *plan)
{
    struct tile_args tiles = {};
    tiles.attention = *args;
    tiles.lists = plan->tiles;
    if (args->cache_type == HYMBA_DTYPE_F32)
        launch_tiles_of<hy_element_f32>(stream, tiles);
    else if (args->cache_type == HYMBA_DTYPE_F16)
        launch_tiles_of<hy_element_f16>(stream, tiles);
    else if (args->cache_type == HYMBA_DTYPE_BF16)
        launch_tiles_of<hy_element_bf16>(stream, tiles);
    else if (args->cache_type == HYMBA_DTYPE_FP8)
        launch_tiles_of<hy_element_fp8>(stream, tiles);
    else
        launch_tiles_of<hy_element_int8>(stream, tiles);
}
