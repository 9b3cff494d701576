#include "attention_prefill.h"

#include "attention_tile.h"

/*
 * With tensor cores: q and weights rounded to 16 bits, sums in f32. A warp has 16 pairs of a row
 * and a head and all keys of a block; its scores, as they leave the first product, are the second
 * one's left side, so weights never lie in memory. A lane's fragments (portable.h) are of pairs
 * lane / 4 and lane / 4 + 8.
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
};

/* The two number formats. */
struct mma_bf16 {
    typedef hy_element_bf16 element;
    HY_DEVICE uint32_t pair(float first, float second)
    {
        return hy_pair_bf16(first, second);
    }
    HY_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
    {
        hy_mma_bf16(d, a, b);
    }
};

struct mma_f16 {
    typedef hy_element_f16 element;
    HY_DEVICE uint32_t pair(float first, float second)
    {
        return hy_pair_f16(first, second);
    }
    HY_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
    {
        hy_mma_f16(d, a, b);
    }
};

template <typename Format>
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
        queries[row * args.row_words + word] = Format::pair(first, second);
    }
}

template <typename Format, int KEYS> HY_DEVICE void stage_keys(const struct mma_args &args)
{
    hy_shared<uint64_t> k_rows(HY_TILE_K_ROWS, HY_GREATEST_BLOCK);
    hy_shared<uint4> keys(args.keys_offset, KEYS * args.row_words / 4);
    unsigned chunks = args.steps * 2;
#pragma unroll 4
    for (unsigned i = hy_thread(); i < KEYS * chunks; i += THREADS) {
        unsigned key = i / chunks, chunk = i % chunks;
        struct hy_packed<typename Format::element, CHUNK> packed;
        hy_load_packed<typename Format::element, CHUNK>(k_rows[key], chunk * CHUNK,
                                                        args.attention.qk_size, packed);
        uint4 words = {packed.words[0], packed.words[1], packed.words[2], packed.words[3]};
        keys[key * args.row_words / 4 + chunk] = words;
    }
}

/* Values' elements from first on, COLUMNS of them. */
template <typename Format, int KEYS, int COLUMNS>
HY_DEVICE void stage_values(const struct mma_args &args, size_t first)
{
    enum { CHUNKS = COLUMNS / CHUNK, ROW_WORDS = COLUMNS + 8 };
    hy_shared<uint64_t> v_rows(HY_TILE_V_ROWS, HY_GREATEST_BLOCK);
    hy_shared<uint4> values(args.values_offset, KEYS / 2 * ROW_WORDS / 4);
#pragma unroll 2
    for (unsigned i = hy_thread(); i < KEYS / 2 * CHUNKS; i += THREADS) {
        unsigned pair = i / CHUNKS, chunk = i % CHUNKS;
        struct hy_packed<typename Format::element, CHUNK> even, odd;
        size_t element = first + chunk * CHUNK, n = args.attention.v_size;
        hy_load_packed<typename Format::element, CHUNK>(v_rows[2 * pair], element, n, even);
        hy_load_packed<typename Format::element, CHUNK>(v_rows[2 * pair + 1], element, n, odd);
        uint32_t words[CHUNK];
#pragma unroll
        for (unsigned j = 0; j < CHUNK / 2; j++) {
            words[2 * j] = (even.words[j] & 0xffff) | odd.words[j] << 16;
            words[2 * j + 1] = even.words[j] >> 16 | (odd.words[j] & 0xffff0000);
        }
        uint4 low = {words[0], words[1], words[2], words[3]};
        uint4 high = {words[4], words[5], words[6], words[7]};
        values[(pair * ROW_WORDS + chunk * CHUNK) / 4] = low;
        values[(pair * ROW_WORDS + chunk * CHUNK) / 4 + 1] = high;
    }
}

/* Scores of the warp's pairs and all keys, KEYS / 8 fragments. */
template <typename Format, int KEYS>
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
            Format::multiply(scores[n], a, b);
        }
    }
}

/*
 * Scores of one of the lane's two pairs, those at `half` of every fragment, become weights, 0 where
 * the row does not see the key; the lane's part of the sum of weights stays with the lane. Returns
 * what the sums so far are to be multiplied with.
 */
template <int KEYS>
HY_DEVICE float weigh(float (&scores)[KEYS / 8][4], unsigned half, uint64_t visible, float scale,
                      struct hy_softmax &softmax)
{
    unsigned first = hy_thread() % 4 * 2;
    float greatest = softmax.greatest, sum = 0.0f;
    visible >>= first;
#pragma unroll
    for (unsigned n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (unsigned j = 0; j < 2; j++) {
            float &score = scores[n][2 * half + j];
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
        }
    }
    softmax.greatest = greatest;
    softmax.sum = softmax.sum * factor + sum;
    return factor;
}

template <typename Format, int KEYS, int COLUMNS>
HY_DEVICE void multiply_values(const struct mma_args &args, const float (&weights)[KEYS / 8][4],
                               float (&sums)[COLUMNS / 8][4])
{
    enum { ROW_WORDS = COLUMNS + 8 };
    hy_shared<uint32_t> values(args.values_offset, KEYS / 2 * ROW_WORDS);
    unsigned lane = hy_thread() % HY_WARP, place = lane % 4 * ROW_WORDS + lane / 4;
#pragma unroll
    for (unsigned step = 0; step < KEYS / 16; step++) {
        const float(&low)[4] = weights[2 * step], (&high)[4] = weights[2 * step + 1];
        const uint32_t a[4] = {Format::pair(low[0], low[1]), Format::pair(low[2], low[3]),
                               Format::pair(high[0], high[1]), Format::pair(high[2], high[3])};
#pragma unroll
        for (unsigned n = 0; n < COLUMNS / 8; n++) {
            const uint32_t b[2] = {values[place + step * 8 * ROW_WORDS + n * 8],
                                   values[place + (step * 8 + 4) * ROW_WORDS + n * 8]};
            Format::multiply(sums[n], a, b);
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
 *   reads: n (key row + value row / z) bytes of the caches, 4 qk for each pair, and lists
 *   writes: 4 v / z for each pair
 */
template <typename Format, int KEYS, int COLUMNS>
HY_KERNEL __launch_bounds__(THREADS) attention_mma_tiles(struct mma_args args)
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
    stage_queries<Format>(args, tile);
    for (uint64_t block = hy_next_block(tile, 0, KEYS); block != UINT64_MAX;
         block = hy_next_block(tile, block + 1, KEYS)) {
        float scores[KEYS / 8][4], factors[2];
        hy_find_block<typename Format::element>(attention, tile, block, KEYS);
        hy_sync();
        stage_keys<Format, KEYS>(args);
        stage_values<Format, KEYS, COLUMNS>(args, first_element);
        hy_sync();
        multiply_keys<Format, KEYS>(args, scores);
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            uint64_t visible = 0;
            if (pairs[half] < tile.n_pairs)
                visible = hy_visible_bits(tile, tile.work.position + pairs[half] / tile.group,
                                          block, KEYS);
            factors[half] = weigh<KEYS>(scores, half, visible, attention.scale, softmax[half]);
        }
        if (hy_ballot(factors[0] != 1.0f || factors[1] != 1.0f)) {
#pragma unroll
            for (unsigned n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
                for (unsigned j = 0; j < 4; j++)
                    sums[n][j] *= factors[j / 2];
            }
        }
        multiply_values<Format, KEYS, COLUMNS>(args, scores, sums);
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

template <typename Format, int KEYS, int COLUMNS>
static void launch_mma(cudaStream_t stream, struct mma_args args)
{
    args.steps = (unsigned)(args.attention.qk_size + 15) / 16;
    args.row_words = args.steps * 8 + 4;
    args.keys_offset = HY_TILE_END + HY_ATTENTION_TILE * args.row_words * 4;
    args.values_offset = args.keys_offset + KEYS * args.row_words * 4;
    size_t bytes = args.values_offset + KEYS / 2 * (COLUMNS + 8) * 4;
    if (bytes > 48 * 1024
        && cudaFuncSetAttribute(attention_mma_tiles<Format, KEYS, COLUMNS>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes)
               != cudaSuccess)
        return; /* cudaGetLastError tells */
    dim3 grid((unsigned)args.lists.n_items, (unsigned)args.attention.n_kv_heads,
              (unsigned)((args.attention.v_size + COLUMNS - 1) / COLUMNS));
    hy_launch(stream, attention_mma_tiles<Format, KEYS, COLUMNS>, grid, THREADS, bytes, args);
}

template <typename Format>
static void launch_mma_of(cudaStream_t stream, const struct mma_args &args)
{
    if (args.attention.v_size <= 64)
        launch_mma<Format, 64, 64>(stream, args);
    else if (args.attention.v_size <= 128)
        launch_mma<Format, 64, 128>(stream, args);
    else
        launch_mma<Format, 32, 256>(stream, args);
}

bool hy_cuda_can_attention_mma(const struct hy_attention_args *args)
{
    return args->bf16 && args->qk_size <= GREATEST_QK_SIZE
           && (args->cache_type == HYMBA_DTYPE_BF16 || args->cache_type == HYMBA_DTYPE_F16);
}

void hy_cuda_attention_mma(cudaStream_t stream, const struct hy_attention_args *args,
                           const struct hy_attention_plan *plan)
{
    struct mma_args mma = {};
    mma.attention = *args;
    mma.lists = plan->tiles;
    if (args->cache_type == HYMBA_DTYPE_BF16)
        launch_mma_of<mma_bf16>(stream, mma);
    else
        launch_mma_of<mma_f16>(stream, mma);
}
