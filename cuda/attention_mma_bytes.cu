#include "attention_prefill.h"

#include "attention_tile.h"

/*
 * With tensor cores, of caches whose rows are bytes with a scale: a byte's number is exact in bf16,
 * a key's scale goes to its scores in f32, and a value's to its weights before they are rounded to
 * bf16. Rows lie at any multiple of 4, so they are not copied as they are, as attention_mma.cu does
 * with rows of 16 bits, but widened on their way to shared memory.
 *
 * A warp has 16 pairs of a row and a head and all keys of a block; its scores, as they leave the
 * first product, are the second one's left side, so weights never lie in memory. A lane's fragments
 * (portable.h) are of pairs lane / 4 and lane / 4 + 8.
 *
 * In shared memory a word holds two numbers: of q and keys two neighbours of a row, of values those
 * of two neighbouring keys in one column, as fragments want them. Rows are padded so that the words
 * of a fragment lie in 32 banks: by 4 words after a multiple of 8, values by 8 after a multiple
 * of 32.
 */
enum { THREADS = 128, WARP_PAIRS = 16, CHUNK = 8 /* elements that are loaded together */ };

enum { GREATEST_QK_SIZE = 256 };

struct mma_args {
    struct hy_attention_args attention;
    struct hy_attention_lists lists;
    unsigned steps;       /* of 16 elements that q and keys take */
    unsigned row_words;   /* from row to row of q and keys */
    unsigned keys_offset, values_offset; /* bytes into shared memory; q at HY_TILE_END */
    unsigned scales_offset; /* float[2][HY_GREATEST_BLOCK]: of keys, of values */
};

HY_DEVICE void stage_queries(const struct mma_args &args, const struct hy_tile &tile)
{
    const struct hy_attention_args &attention = args.attention;
    unsigned used = args.steps * 8;
    hy_shared<uint32_t> queries(HY_TILE_END, HY_ATTENTION_TILE * args.row_words);
    for (unsigned i = hy_thread(); i < HY_ATTENTION_TILE * used; i += THREADS) {
        unsigned row = i / used, word = i % used;
        size_t pair = tile.first_pair + row, element = 2 * word;
        float first = 0.0f, second = 0.0f;
        if (pair < tile.n_pairs) {
            const float *q = attention.q
                             + hy_pair_place(tile, pair, attention.q_stride, attention.qk_size);
            if (element < attention.qk_size)
                first = hy_load(q + element);
            if (element + 1 < attention.qk_size)
                second = hy_load(q + element + 1);
        }
        queries[row * args.row_words + word] = hy_pair_bf16(first, second);
    }
}

template <typename Element, int KEYS> HY_DEVICE void stage_keys(const struct mma_args &args)
{
    hy_shared<uint64_t> k_rows(HY_TILE_K_ROWS, HY_GREATEST_BLOCK);
    hy_shared<uint4> keys(args.keys_offset, KEYS * args.row_words / 4);
    unsigned chunks = args.steps * 2;
#pragma unroll 4
    for (unsigned i = hy_thread(); i < KEYS * chunks; i += THREADS) {
        unsigned key = i / chunks, chunk = i % chunks;
        struct hy_packed<Element, CHUNK> packed;
        hy_load_packed<Element, CHUNK>(k_rows[key], chunk * CHUNK, args.attention.qk_size, packed);
        uint32_t words[CHUNK / 2];
#pragma unroll
        for (unsigned j = 0; j < CHUNK / 2; j++)
            words[j] = hy_pair_bf16(hy_unpack<Element, CHUNK>(packed, 2 * j),
                                    hy_unpack<Element, CHUNK>(packed, 2 * j + 1));
        uint4 all = {words[0], words[1], words[2], words[3]};
        keys[key * args.row_words / 4 + chunk] = all;
    }
}

/* Values' elements from first on, COLUMNS of them. */
template <typename Element, int KEYS, int COLUMNS>
HY_DEVICE void stage_values(const struct mma_args &args, size_t first)
{
    enum { CHUNKS = COLUMNS / CHUNK, ROW_WORDS = COLUMNS + 8 };
    hy_shared<uint64_t> v_rows(HY_TILE_V_ROWS, HY_GREATEST_BLOCK);
    hy_shared<uint4> values(args.values_offset, KEYS / 2 * ROW_WORDS / 4);
#pragma unroll 2
    for (unsigned i = hy_thread(); i < KEYS / 2 * CHUNKS; i += THREADS) {
        unsigned pair = i / CHUNKS, chunk = i % CHUNKS;
        struct hy_packed<Element, CHUNK> even, odd;
        size_t element = first + chunk * CHUNK, n = args.attention.v_size;
        hy_load_packed<Element, CHUNK>(v_rows[2 * pair], element, n, even);
        hy_load_packed<Element, CHUNK>(v_rows[2 * pair + 1], element, n, odd);
        uint32_t words[CHUNK];
#pragma unroll
        for (unsigned j = 0; j < CHUNK; j++)
            words[j] = hy_pair_bf16(hy_unpack<Element, CHUNK>(even, j),
                                    hy_unpack<Element, CHUNK>(odd, j));
        uint4 low = {words[0], words[1], words[2], words[3]};
        uint4 high = {words[4], words[5], words[6], words[7]};
        values[(pair * ROW_WORDS + chunk * CHUNK) / 4] = low;
        values[(pair * ROW_WORDS + chunk * CHUNK) / 4 + 1] = high;
    }
}

/* 0 where no row of the tile sees the key. */
template <int KEYS> HY_DEVICE void stage_scales(const struct mma_args &args)
{
    hy_shared<uint64_t> k_rows(HY_TILE_K_ROWS, HY_GREATEST_BLOCK);
    hy_shared<uint64_t> v_rows(HY_TILE_V_ROWS, HY_GREATEST_BLOCK);
    hy_shared<float> scales(args.scales_offset, 2 * HY_GREATEST_BLOCK);
    unsigned key = hy_thread();
    if (key >= KEYS)
        return;
    uint64_t k = k_rows[key], v = v_rows[key];
    scales[key] = k != 0 ? hy_row_scale(k, args.attention.qk_size) : 0.0f;
    scales[HY_GREATEST_BLOCK + key] = v != 0 ? hy_row_scale(v, args.attention.v_size) : 0.0f;
}

/* Scores of the warp's pairs and all keys, KEYS / 8 fragments. */
template <int KEYS>
HY_DEVICE void multiply_keys(const struct mma_args &args, float (&scores)[KEYS / 8][4])
{
    hy_shared<uint32_t> queries(HY_TILE_END, HY_ATTENTION_TILE * args.row_words);
    hy_shared<uint32_t> keys(args.keys_offset, KEYS * args.row_words);
    unsigned lane = hy_thread() % HY_WARP, warp = hy_thread() / HY_WARP;
    unsigned row = (warp * WARP_PAIRS + lane / 4) * args.row_words + lane % 4;
    unsigned key = lane / 4 * args.row_words + lane % 4;
#pragma unroll
    for (unsigned n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (unsigned j = 0; j < 4; j++)
            scores[n][j] = 0.0f;
    }
    for (unsigned step = 0; step < args.steps; step++) {
        unsigned upper = row + step * 8, lower = upper + 8 * args.row_words;
        const uint32_t a[4] = {queries[upper], queries[lower], queries[upper + 4],
                               queries[lower + 4]};
#pragma unroll
        for (unsigned n = 0; n < KEYS / 8; n++) {
            const uint32_t b[2] = {keys[key + n * 8 * args.row_words + step * 8],
                                   keys[key + n * 8 * args.row_words + step * 8 + 4]};
            hy_mma_bf16(scores[n], a, b);
        }
    }
}

/*
 * Scores of one of the lane's two pairs, those at `half` of every fragment, become weights, 0 where
 * the row does not see the key, times the scales of values; the lane's part of the sum of weights
 * stays with the lane. Returns what the sums so far are to be multiplied with.
 */
template <int KEYS>
HY_DEVICE float weigh(const struct mma_args &args, float (&scores)[KEYS / 8][4], unsigned half,
                      uint64_t visible, struct hy_softmax &softmax)
{
    hy_shared<float> scales(args.scales_offset, 2 * HY_GREATEST_BLOCK);
    unsigned first = hy_thread() % 4 * 2;
    float greatest = softmax.greatest, sum = 0.0f;
    visible >>= first;
#pragma unroll
    for (unsigned n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (unsigned j = 0; j < 2; j++) {
            float &score = scores[n][2 * half + j];
            float scale = args.attention.scale * scales[8 * n + first + j];
            score = visible >> (8 * n + j) & 1 ? score * scale : -INFINITY;
            greatest = score > greatest ? score : greatest;
        }
    }
    for (unsigned mask = 1; mask < 4; mask *= 2) {
        float other = hy_shuffle_xor(greatest, mask);
        greatest = other > greatest ? other : greatest;
    }
    float base = hy_softmax_base(greatest), factor = hy_exp(softmax.greatest - base);
#pragma unroll
    for (unsigned n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (unsigned j = 0; j < 2; j++) {
            float &score = scores[n][2 * half + j];
            score = hy_exp(score - base); /* of -infinity: 0 */
            sum += score;
            score *= scales[HY_GREATEST_BLOCK + 8 * n + first + j];
        }
    }
    softmax.greatest = greatest;
    softmax.sum = softmax.sum * factor + sum;
    return factor;
}

template <int KEYS, int COLUMNS>
HY_DEVICE void multiply_values(const struct mma_args &args, const float (&weights)[KEYS / 8][4],
                               float (&sums)[COLUMNS / 8][4])
{
    enum { ROW_WORDS = COLUMNS + 8 };
    hy_shared<uint32_t> values(args.values_offset, KEYS / 2 * ROW_WORDS);
    unsigned lane = hy_thread() % HY_WARP, place = lane % 4 * ROW_WORDS + lane / 4;
#pragma unroll
    for (unsigned step = 0; step < KEYS / 16; step++) {
        const float(&low)[4] = weights[2 * step], (&high)[4] = weights[2 * step + 1];
        const uint32_t a[4] = {hy_pair_bf16(low[0], low[1]), hy_pair_bf16(low[2], low[3]),
                               hy_pair_bf16(high[0], high[1]), hy_pair_bf16(high[2], high[3])};
#pragma unroll
        for (unsigned n = 0; n < COLUMNS / 8; n++) {
            const uint32_t b[2] = {values[place + step * 8 * ROW_WORDS + n * 8],
                                   values[place + (step * 8 + 4) * ROW_WORDS + n * 8]};
            hy_mma_bf16(sums[n], a, b);
        }
    }
}

template <int COLUMNS>
HY_DEVICE void store_rows(const struct hy_attention_args &args, const struct hy_tile &tile,
                          size_t first, unsigned half, size_t pair, float total,
                          const float (&sums)[COLUMNS / 8][4])
{
    if (pair >= tile.n_pairs)
        return;
    float *out = args.out + hy_pair_place(tile, pair, args.out_stride, args.v_size);
#pragma unroll
    for (unsigned n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
        for (unsigned j = 0; j < 2; j++) {
            size_t element = first + n * 8 + hy_thread() % 4 * 2 + j;
            if (element < args.v_size)
                hy_store(out + element, sums[n][2 * half + j] / total);
        }
    }
}

/*
 * Grid: tiles, key heads, parts of COLUMNS elements of the values (1 for up to 256). Global memory
 * of one block, whose pairs see something of n keys, of qk elements, with values of v, in each of z
 * parts of these:
 *   reads: n (key row + value row / z) bytes of the caches, 4 qk for each pair, and lists; scales
 *          of values in each part
 *   writes: 4 v / z for each pair
 */
template <typename Element, int KEYS, int COLUMNS>
HY_KERNEL __launch_bounds__(THREADS) attention_mma_byte_tiles(struct mma_args args)
{
    const struct hy_attention_args &attention = args.attention;
    struct hy_tile tile = hy_find_tile(attention, args.lists);
    size_t first_element = (size_t)hy_block().z * COLUMNS, pairs[2];
    struct hy_softmax softmax[2];
    float sums[COLUMNS / 8][4];
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        pairs[half] = tile.first_pair + hy_thread() / HY_WARP * WARP_PAIRS
                      + hy_thread() % HY_WARP / 4 + 8 * half;
        softmax[half].greatest = -INFINITY;
        softmax[half].sum = 0.0f;
    }
#pragma unroll
    for (unsigned n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
        for (unsigned j = 0; j < 4; j++)
            sums[n][j] = 0.0f;
    }
    stage_queries(args, tile);
    for (uint64_t block = hy_next_block(tile, 0, KEYS); block != UINT64_MAX;
         block = hy_next_block(tile, block + 1, KEYS)) {
        float scores[KEYS / 8][4], factors[2];
        hy_find_block<Element>(attention, tile, block, KEYS);
        hy_sync();
        stage_scales<KEYS>(args);
        stage_keys<Element, KEYS>(args);
        stage_values<Element, KEYS, COLUMNS>(args, first_element);
        hy_sync();
        multiply_keys<KEYS>(args, scores);
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            uint64_t visible = 0;
            if (pairs[half] < tile.n_pairs)
                visible = hy_visible_bits(tile, tile.work.position + pairs[half] / tile.group,
                                          block, KEYS);
            factors[half] = weigh<KEYS>(args, scores, half, visible, softmax[half]);
        }
        if (hy_ballot(factors[0] != 1.0f || factors[1] != 1.0f)) {
#pragma unroll
            for (unsigned n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
                for (unsigned j = 0; j < 4; j++)
                    sums[n][j] *= factors[j / 2];
            }
        }
        multiply_values<KEYS, COLUMNS>(args, scores, sums);
    }
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        float total = softmax[half].sum;
        for (unsigned mask = 1; mask < 4; mask *= 2)
            total += hy_shuffle_xor(total, mask);
        store_rows<COLUMNS>(attention, tile, first_element, half, pairs[half], total, sums);
    }
}

/* ---------------------------------------------------------------- launches */

template <typename Element, int KEYS, int COLUMNS>
static void launch_mma(cudaStream_t stream, struct mma_args args)
{
    args.steps = (unsigned)(args.attention.qk_size + 15) / 16;
    args.row_words = args.steps * 8 + 4;
    args.keys_offset = HY_TILE_END + HY_ATTENTION_TILE * args.row_words * 4;
    args.values_offset = args.keys_offset + KEYS * args.row_words * 4;
    args.scales_offset = args.values_offset + KEYS / 2 * (COLUMNS + 8) * 4;
    size_t bytes = args.scales_offset + 2 * HY_GREATEST_BLOCK * sizeof(float);
    if (bytes > 48 * 1024
        && cudaFuncSetAttribute(attention_mma_byte_tiles<Element, KEYS, COLUMNS>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes)
               != cudaSuccess)
        return; /* cudaGetLastError tells */
    dim3 grid((unsigned)args.lists.n_items, (unsigned)args.attention.n_kv_heads,
              (unsigned)((args.attention.v_size + COLUMNS - 1) / COLUMNS));
    hy_launch(stream, attention_mma_byte_tiles<Element, KEYS, COLUMNS>, grid, THREADS, bytes, args);
}

template <typename Element>
static void launch_mma_of(cudaStream_t stream, const struct mma_args &args)
{
    if (args.attention.v_size <= 64)
        launch_mma<Element, 64, 64>(stream, args);
    else if (args.attention.v_size <= 128)
        launch_mma<Element, 64, 128>(stream, args);
    else
        launch_mma<Element, 32, 256>(stream, args);
}

bool hy_cuda_can_attention_mma_bytes(const struct hy_attention_args *args)
{
    return args->bf16 && args->qk_size <= GREATEST_QK_SIZE
           && hy_cache_greatest(args->cache_type) != 0.0f;
}

void hy_cuda_attention_mma_bytes(cudaStream_t stream, const struct hy_attention_args *args,
                                 const struct hy_attention_plan *plan)
{
    struct mma_args mma = {};
    mma.attention = *args;
    mma.lists = plan->tiles;
    if (args->cache_type == HYMBA_DTYPE_FP8)
        launch_mma_of<hy_element_fp8>(stream, mma);
    else
        launch_mma_of<hy_element_int8>(stream, mma);
}
