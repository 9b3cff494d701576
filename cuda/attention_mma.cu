#include "attention_prefill.h"

#include "attention_tile.h"

/*
 * With tensor cores: q and weights rounded to 16 bits, sums in f32. A warp has 16 M_TILES pairs of
 * a row and a head and all keys of a block; its scores, as they leave the first product, are the
 * second one's left side, so weights never lie in memory. A lane's fragments (portable.h) are of
 * pairs lane / 4 and lane / 4 + 8 of each 16. q stays in registers.
 *
 * Keys and values come by asynchronous copies: while a block is computed the copies of the next
 * STAGES - 1 are under way, and one barrier a block hands them over. What is read of shared memory,
 * one 16-byte row of a matrix for each lane, is read for 16 M_TILES pairs at once. Rows are padded
 * to an odd number of 16 bytes, so that eight rows lie in 32 banks.
 *
 * Weights are 2^(score * log2 e - base), with a row's base a whole number SLACK above the score
 * that passed the one before. So it seldom grows, which counts since a warp's rows share what that
 * costs, and sums are then multiplied with a power of two. What a row is divided by is the sum of
 * its rounded weights, made like the sums of values, with 1 in their place: so it does not matter
 * how great weights are, and values that are all the same stay so.
 *
 * Bytes, products and instructions: docs/roofline.md.
 */
enum {
    THREADS = 128,
    KEYS = 32, /* of a block */
    STAGES = 3,
    COLUMNS = 128, /* elements of values in a block of the grid */
    V_PIECES = COLUMNS / 8, /* of 16 bytes */
    V_ROW = V_PIECES + 1,
    KEY_THREADS = THREADS / KEYS /* that copy a key's row, and its value's */
};

/* Powers of two that scores may grow by. In f16 weights end at 2^-24: 2^-20 of the greatest. */
enum { SLACK = 4 };

enum { FEW_STEPS = 4, MANY_STEPS = 16 /* of 16 elements that q and keys take at most */ };

/* Shared memory: the tile, which is looked up where it is needed, since registers are few; of each
 * stage the block's first position, which of its keys exist and are pinned, and whether all rows
 * see all of them; then keys and values, in pieces of 16 bytes. */
enum {
    TILE = 64, /* behind the record of hy_find_work */
    TILE_WORDS = 9,
    STAGE_POSITION = TILE + TILE_WORDS * 8,
    STAGE_MASKS = STAGE_POSITION + STAGES * 8, /* [STAGES][3] */
    STAGE_PIECES = (STAGE_MASKS + STAGES * 12 + 15) / 16 * 16
};

template <int STEPS> struct stage {
    enum { K_ROW = 2 * STEPS + 1, VALUES = KEYS * K_ROW, PIECES = VALUES + KEYS * V_ROW };
    enum { BYTES = STAGE_PIECES + STAGES * PIECES * 16 };
};

struct mma_args {
    struct hy_attention_args attention;
    struct hy_attention_lists lists;
    unsigned group;   /* query heads of a key head */
    unsigned steps;   /* of 16 elements that q and keys take */
    float log2_scale; /* the scale, of scores in powers of two */
};

/* The two number formats. */
struct mma_bf16 {
    typedef hy_element_bf16 element;
    static const uint32_t ONES = 0x3f803f80;
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
    static const uint32_t ONES = 0x3c003c00;
    HY_DEVICE uint32_t pair(float first, float second)
    {
        return hy_pair_f16(first, second);
    }
    HY_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
    {
        hy_mma_f16(d, a, b);
    }
};

/* Pair number `half` of the lane's two in 16-row tile m of the warp, counted within the block. */
template <int M_TILES> HY_DEVICE unsigned lane_pair(unsigned m, unsigned half)
{
    return (hy_thread() / HY_WARP * M_TILES + m) * 16 + hy_thread() % HY_WARP / 4 + 8 * half;
}

/* ---------------------------------------------------------------- the tile */

/* For load_tile, after a barrier. */
HY_DEVICE void store_tile(const struct hy_tile &tile)
{
    hy_shared<uint64_t> words(TILE, TILE_WORDS);
    if (hy_thread() != 0)
        return;
    words[0] = tile.work.position;
    words[1] = tile.work.window;
    words[2] = (uint64_t)tile.work.spans;
    words[3] = tile.work.n_spans;
    words[4] = tile.work.row;
    words[5] = tile.first_pair;
    words[6] = tile.n_pairs;
    words[7] = tile.first_position;
    words[8] = tile.last_position;
}

HY_DEVICE struct hy_tile load_tile(const struct mma_args &args)
{
    hy_shared<uint64_t> words(TILE, TILE_WORDS);
    struct hy_tile tile = {};
    tile.work.position = words[0];
    tile.work.window = words[1];
    tile.work.spans = (const struct hy_span *)(uint64_t)words[2];
    tile.work.n_spans = words[3];
    tile.work.row = words[4];
    tile.kv_head = hy_block().y;
    tile.group = args.group;
    tile.first_pair = words[5];
    tile.n_pairs = words[6];
    tile.first_position = words[7];
    tile.last_position = words[8];
    return tile;
}

/* ------------------------------------------------------------------ queries */

/* Elements i and i + 1 of a row of n at this address, 0 beyond it and if there is no row. */
HY_DEVICE float2 load_two(const float *row, size_t i, size_t n)
{
    float2 two = {0.0f, 0.0f};
    if (!row)
        return two;
    if (i + 1 < n && (uint64_t)(row + i) % sizeof two == 0)
        return hy_load((const float2 *)(row + i));
    if (i < n)
        two.x = hy_load(row + i);
    if (i + 1 < n)
        two.y = hy_load(row + i + 1);
    return two;
}

/* The lane's left sides of the first product. */
template <typename Format, int STEPS, int M_TILES>
HY_DEVICE void load_queries(const struct mma_args &args, uint32_t (&queries)[M_TILES][STEPS][4])
{
    const struct hy_attention_args &attention = args.attention;
    const struct hy_tile tile = load_tile(args);
#pragma unroll
    for (unsigned m = 0; m < M_TILES; m++) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const size_t pair = tile.first_pair + lane_pair<M_TILES>(m, half);
            const float *row = NULL;
            if (pair < tile.n_pairs)
                row = attention.q
                      + hy_pair_place(tile, pair, attention.q_stride, attention.qk_size);
#pragma unroll
            for (unsigned i = 0; i < 2 * STEPS; i++) {
                const float2 two = load_two(row, i * 8 + hy_thread() % 4 * 2, attention.qk_size);
                queries[m][i / 2][i % 2 * 2 + half] = Format::pair(two.x, two.y);
            }
        }
    }
}

/* ------------------------------------------------------------- finding keys */

/* How far a tile has come along its spans. Lanes of a warp differ in k and v alone. */
struct walk {
    uint64_t block;      /* the next one to look for */
    uint32_t span;       /* the first that may have some of it */
    uint32_t run;        /* how many blocks from there on lie in the span of the last one found */
    uint32_t existing, pinned; /* keys of the last one: those that a row of the tile sees */
    uint64_t k, v;       /* the rows that the thread copies of it, v from the first element on that
                            the block of the grid has; 0: none */
};

struct span_fields {
    uint64_t position, k, v;
    uint64_t begin, end; /* of positions that a row of the tile sees */
    bool pinned;
};

/* k and v are those of position 0, if there were one. */
HY_DEVICE struct span_fields load_span(const struct hy_tile &tile, const struct hy_span *span,
                                       uint64_t k_row, uint64_t v_row)
{
    struct span_fields fields;
    const uint64_t first = tile.first_position, window = tile.work.window;
    fields.position = hy_load(&span->position);
    fields.pinned = hy_load(&span->pinned);
    fields.k = (uint64_t)hy_load(&span->k) + tile.kv_head * hy_load(&span->k_head_stride)
               - fields.position * k_row;
    fields.v = (uint64_t)hy_load(&span->v) + tile.kv_head * hy_load(&span->v_head_stride)
               - fields.position * v_row;
    fields.begin = fields.position;
    fields.end = fields.position + hy_load(&span->count);
    if (!fields.pinned && first > window && fields.begin < first - window)
        fields.begin = first - window;
    if (fields.end > tile.last_position + 1)
        fields.end = tile.last_position + 1;
    return fields;
}

/* The key of a block that a thread copies: such that the rows which eight lanes write together lie
 * in different banks. */
HY_DEVICE unsigned copied_key()
{
    const unsigned quad = hy_thread() % HY_WARP / KEY_THREADS;
    return hy_thread() / HY_WARP * (HY_WARP / KEY_THREADS) + quad % 2 * 4 + quad / 2;
}

HY_DEVICE uint64_t shuffle_address(uint64_t address, unsigned lane)
{
    const uint32_t low = hy_shuffle((uint32_t)address, lane);
    const uint32_t high = hy_shuffle((uint32_t)(address >> 32), lane);
    return low | (uint64_t)high << 32;
}

/* Finds the next block by looking at spans, which stand in the order of positions. */
HY_DEVICE bool search_block(const struct mma_args &args, uint64_t k_row, uint64_t v_row,
                            struct walk &walk)
{
    const struct hy_tile tile = load_tile(args);
    const unsigned lane = hy_thread() % HY_WARP;
    uint64_t k = 0, v = 0;
    bool found = false, pinned = false;
    for (uint32_t s = walk.span; s < tile.work.n_spans; s++) {
        const struct span_fields span = load_span(tile, tile.work.spans + s, k_row, v_row);
        if (span.position > tile.last_position
            || (found && span.position >= (walk.block + 1) * KEYS))
            break;
        if (span.begin >= span.end || span.end <= walk.block * KEYS)
            continue;
        if (!found) {
            found = true;
            walk.span = s;
            walk.block = span.begin / KEYS > walk.block ? span.begin / KEYS : walk.block;
        }
        const uint64_t position = walk.block * KEYS + lane, next = (walk.block + 1) * KEYS;
        if (position >= span.begin && position < span.end) {
            k = span.k + position * k_row;
            v = span.v + position * v_row + (uint64_t)hy_block().z * COLUMNS * sizeof(uint16_t);
            pinned = span.pinned;
        }
        walk.run = 0;
        if (span.end < next)
            continue;
        if (span.begin + KEYS <= next && span.end - next < (uint64_t)UINT32_MAX * KEYS)
            walk.run = (uint32_t)((span.end - next) / KEYS);
        break;
    }
    walk.existing = hy_ballot(k != 0);
    walk.pinned = hy_ballot(pinned);
    walk.k = shuffle_address(k, copied_key());
    walk.v = shuffle_address(v, copied_key());
    return found;
}

/* The next block of which a row of the tile sees something. All lanes; all of a block's threads
 * find the same. */
HY_DEVICE bool next_block(const struct mma_args &args, struct walk &walk)
{
    const uint64_t k_row = args.attention.qk_size * sizeof(uint16_t);
    const uint64_t v_row = args.attention.v_size * sizeof(uint16_t);
    if (walk.run > 0) {
        walk.run--;
        walk.k += KEYS * k_row;
        walk.v += KEYS * v_row;
        walk.existing = UINT32_MAX;
    } else if (!search_block(args, k_row, v_row, walk)) {
        return false;
    }
    walk.block++;
    return true;
}

/* ------------------------------------------------------------------- copies */

/*
 * Begins to copy n elements of a row, by KEY_THREADS threads, and zeros behind them up to n_pieces
 * of 16 bytes, of which there are MOST_PIECES at most; zeros alone if the row is 0. What is not
 * aligned is copied at once.
 */
template <typename Element, int MOST_PIECES>
HY_DEVICE void copy_row(hy_shared<uint4> pieces, unsigned place, uint64_t row, unsigned n_pieces,
                        unsigned n)
{
    enum { TURNS = MOST_PIECES / KEY_THREADS, UNROLL = TURNS > 4 ? 2 : TURNS };
    const unsigned begin = hy_thread() % KEY_THREADS;
    if (row == 0 || ((unsigned)row | n * 2) % 16 == 0) {
        const uint4 *from = (const uint4 *)row + begin;
#pragma unroll UNROLL
        for (unsigned i = begin; i < n_pieces; i += KEY_THREADS, from += KEY_THREADS)
            pieces.copy_async(place + i, from, row != 0 && i * 8 < n);
        return;
    }
    for (unsigned i = begin; i < n_pieces; i += KEY_THREADS) {
        struct hy_packed<Element, 8> packed;
        hy_load_packed<Element, 8>(row, i * 8, n, packed);
        const uint4 words = {packed.words[0], packed.words[1], packed.words[2], packed.words[3]};
        pieces[place + i] = words;
    }
}

/* The block that was found goes into a stage. */
template <typename Format, int STEPS>
HY_DEVICE void begin_stage(const struct mma_args &args, const struct walk &walk, unsigned number)
{
    typedef struct stage<STEPS> stage;
    typedef typename Format::element element;
    const struct hy_attention_args &attention = args.attention;
    hy_shared<uint4> pieces(STAGE_PIECES, STAGES * stage::PIECES);
    const unsigned place = number * stage::PIECES;
    copy_row<element, 2 * STEPS>(pieces, place + copied_key() * stage::K_ROW, walk.k,
                                 STEPS == FEW_STEPS ? 2 * STEPS : 2 * args.steps,
                                 (unsigned)attention.qk_size);
    copy_row<element, V_PIECES>(pieces, place + stage::VALUES + copied_key() * V_ROW, walk.v,
                                V_PIECES, (unsigned)attention.v_size - hy_block().z * COLUMNS);
    if (hy_thread() != 0)
        return;
    hy_shared<uint64_t> positions(STAGE_POSITION, STAGES);
    hy_shared<uint32_t> masks(STAGE_MASKS, STAGES * 3);
    const struct hy_tile tile = load_tile(args);
    const uint64_t first = (walk.block - 1) * KEYS;
    positions[number] = first;
    masks[number * 3] = walk.existing;
    masks[number * 3 + 1] = walk.pinned;
    masks[number * 3 + 2] = walk.existing == UINT32_MAX && first + KEYS <= tile.first_position + 1
                            && (walk.pinned == UINT32_MAX
                                || tile.last_position - first <= tile.work.window);
}

/* ----------------------------------------------------------------- products */

/* Scores of the warp's pairs and all keys of a stage. */
template <typename Format, int STEPS, int M_TILES>
HY_DEVICE void multiply_keys(const struct mma_args &args, unsigned number,
                             const uint32_t (&queries)[M_TILES][STEPS][4],
                             float (&scores)[M_TILES][KEYS / 8][4])
{
    typedef struct stage<STEPS> stage;
    hy_shared<uint4> pieces(STAGE_PIECES, STAGES * stage::PIECES);
    const unsigned lane = hy_thread() % HY_WARP;
    const size_t place = number * stage::PIECES + (lane / 16 * 8 + lane % 8) * stage::K_ROW
                         + lane / 8 % 2;
#pragma unroll
    for (unsigned m = 0; m < M_TILES; m++) {
#pragma unroll
        for (unsigned i = 0; i < KEYS / 2; i++)
            scores[m][i / 4][i % 4] = 0.0f;
    }
#pragma unroll
    for (unsigned step = 0; step < STEPS; step++) {
        if (STEPS != FEW_STEPS && step >= args.steps)
            break;
#pragma unroll
        for (unsigned n = 0; n < KEYS / 16; n++) {
            uint32_t words[4];
            pieces.template load_matrices<false>(place + n * 16 * stage::K_ROW + step * 2, words);
            const uint32_t low[2] = {words[0], words[1]}, high[2] = {words[2], words[3]};
#pragma unroll
            for (unsigned m = 0; m < M_TILES; m++) {
                Format::multiply(scores[m][2 * n], queries[m][step], low);
                Format::multiply(scores[m][2 * n + 1], queries[m][step], high);
            }
        }
    }
}

/* The sums so far of the lane's pairs. */
template <int M_TILES> struct row_sums {
    float bases[M_TILES][2];                /* -infinity: all scores are that */
    float weights[M_TILES][4];              /* a fragment whose columns are the same */
    float values[M_TILES][COLUMNS / 8][4];
};

template <typename Format, int STEPS, int M_TILES>
HY_DEVICE void multiply_values(unsigned number, const uint32_t (&weights)[M_TILES][KEYS / 16][4],
                               struct row_sums<M_TILES> &sums)
{
    typedef struct stage<STEPS> stage;
    hy_shared<uint4> pieces(STAGE_PIECES, STAGES * stage::PIECES);
    const unsigned lane = hy_thread() % HY_WARP;
    const size_t place = number * stage::PIECES + stage::VALUES + lane % 16 * V_ROW + lane / 16;
    const uint32_t ones[2] = {Format::ONES, Format::ONES};
#pragma unroll
    for (unsigned step = 0; step < KEYS / 16; step++) {
#pragma unroll
        for (unsigned m = 0; m < M_TILES; m++)
            Format::multiply(sums.weights[m], weights[m][step], ones);
#pragma unroll
        for (unsigned n = 0; n < COLUMNS / 16; n++) {
            uint32_t words[4];
            pieces.template load_matrices<true>(place + step * 16 * V_ROW + n * 2, words);
            const uint32_t low[2] = {words[0], words[1]}, high[2] = {words[2], words[3]};
#pragma unroll
            for (unsigned m = 0; m < M_TILES; m++) {
                Format::multiply(sums.values[m][2 * n], weights[m][step], low);
                Format::multiply(sums.values[m][2 * n + 1], weights[m][step], high);
            }
        }
    }
}

/* ------------------------------------------------------------------ weights */

/* Bit i: a query at this position sees key i of the stage (section 6). */
HY_DEVICE uint32_t visible_bits(const struct hy_tile &tile, uint64_t position, unsigned number)
{
    hy_shared<uint64_t> positions(STAGE_POSITION, STAGES);
    hy_shared<uint32_t> masks(STAGE_MASKS, STAGES * 3);
    const uint64_t first = positions[number], window = tile.work.window;
    if (position < first)
        return 0;
    uint32_t visible = masks[number * 3], pinned = masks[number * 3 + 1];
    const uint64_t distance = position - first; /* of key 0; key i is i nearer */
    if (distance < KEYS - 1)
        visible &= ((uint32_t)2 << distance) - 1;
    if (distance > window) {
        const uint64_t hidden = distance - window;
        visible &= (hidden < KEYS ? UINT32_MAX << hidden : 0) | pinned;
    }
    return visible;
}

/* Scores of keys that a pair does not see become -infinity. */
template <int M_TILES>
HY_DEVICE void mask_scores(const struct mma_args &args, unsigned number,
                           float (&scores)[M_TILES][KEYS / 8][4])
{
    const struct hy_tile tile = load_tile(args);
    const uint64_t row_pair = (tile.first_position - tile.work.position) * tile.group;
    const unsigned skew = (unsigned)(tile.first_pair - row_pair); /* head of the tile's first one */
#pragma unroll
    for (unsigned m = 0; m < M_TILES; m++) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const uint64_t row = (skew + lane_pair<M_TILES>(m, half)) / (unsigned)tile.group;
            const uint32_t visible = visible_bits(tile, tile.first_position + row, number)
                                     >> hy_thread() % 4 * 2;
#pragma unroll
            for (unsigned i = 0; i < KEYS / 4; i++) {
                float &score = scores[m][i / 2][2 * half + i % 2];
                score = visible >> (i / 2 * 8 + i % 2) & 1 ? score : -INFINITY;
            }
        }
    }
}

/* Counts the sums from bases that fit the scores, too. Those of a row whose base stays are
 * multiplied with 1, if at all. */
template <int M_TILES>
HY_DEVICE void find_bases(const float (&scores)[M_TILES][KEYS / 8][4], float scale,
                          struct row_sums<M_TILES> &sums)
{
    float old[M_TILES][2];
    bool changes = false;
#pragma unroll
    for (unsigned m = 0; m < M_TILES; m++) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            float greatest = -INFINITY;
#pragma unroll
            for (unsigned i = 0; i < KEYS / 4; i++)
                greatest = hy_greater(greatest, scores[m][i / 2][2 * half + i % 2]);
            for (unsigned mask = 1; mask < 4; mask *= 2)
                greatest = hy_greater(greatest, hy_shuffle_xor(greatest, mask));
            const float least = hy_ceil(greatest * scale);
            const bool grows = least > sums.bases[m][half];
            old[m][half] = sums.bases[m][half];
            sums.bases[m][half] = grows ? least + (float)SLACK : old[m][half];
            changes = changes || grows;
        }
    }
    if (!hy_ballot(changes))
        return;
#pragma unroll
    for (unsigned m = 0; m < M_TILES; m++) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const float base = sums.bases[m][half];
            const float factor =
                old[m][half] == base ? 1.0f : hy_exp2(old[m][half] - base);
#pragma unroll
            for (unsigned j = 2 * half; j < 2 * half + 2; j++) {
                sums.weights[m][j] *= factor;
#pragma unroll
                for (unsigned n = 0; n < COLUMNS / 8; n++)
                    sums.values[m][n][j] *= factor;
            }
        }
    }
}

/* Rounded, as the left sides of the second product. */
template <typename Format, int M_TILES>
HY_DEVICE void find_weights(const float (&scores)[M_TILES][KEYS / 8][4], float scale,
                            const float (&bases)[M_TILES][2],
                            uint32_t (&weights)[M_TILES][KEYS / 16][4])
{
#pragma unroll
    for (unsigned m = 0; m < M_TILES; m++) {
#pragma unroll
        for (unsigned i = 0; i < KEYS / 4; i++) {
            const float base = hy_softmax_base(bases[m][i % 2]);
            const float(&four)[4] = scores[m][i / 2];
            weights[m][i / 4][i % 4] =
                Format::pair(hy_exp2(hy_fma(four[i % 2 * 2], scale, -base)),
                             hy_exp2(hy_fma(four[i % 2 * 2 + 1], scale, -base)));
        }
    }
}

/* ------------------------------------------------------------------ results */

/* a / b of a number whose inverse is known, rounded once in most cases. */
HY_DEVICE float divide(float a, float b, float inverse)
{
    const float quotient = a * inverse;
    return hy_fma(hy_fma(-quotient, b, a), inverse, quotient);
}

HY_DEVICE void store_two(float *row, size_t i, size_t n, float first, float second)
{
    const float2 two = {first, second};
    if (i + 1 < n && (uint64_t)(row + i) % sizeof two == 0) {
        hy_store((float2 *)(row + i), two);
        return;
    }
    if (i < n)
        hy_store(row + i, first);
    if (i + 1 < n)
        hy_store(row + i + 1, second);
}

template <int M_TILES>
HY_DEVICE void store_rows(const struct mma_args &args, const struct row_sums<M_TILES> &sums)
{
    const struct hy_attention_args &attention = args.attention;
    const struct hy_tile tile = load_tile(args);
#pragma unroll
    for (unsigned m = 0; m < M_TILES; m++) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const size_t pair = tile.first_pair + lane_pair<M_TILES>(m, half);
            if (pair >= tile.n_pairs)
                continue;
            float *out = attention.out
                         + hy_pair_place(tile, pair, attention.out_stride, attention.v_size);
            const float total = sums.weights[m][2 * half], inverse = 1.0f / total;
#pragma unroll
            for (unsigned n = 0; n < COLUMNS / 8; n++) {
                const float(&four)[4] = sums.values[m][n];
                store_two(out, (size_t)hy_block().z * COLUMNS + n * 8 + hy_thread() % 4 * 2,
                          attention.v_size, divide(four[2 * half], total, inverse),
                          divide(four[2 * half + 1], total, inverse));
            }
        }
    }
}

template <int M_TILES> HY_DEVICE void clear(struct row_sums<M_TILES> &sums)
{
#pragma unroll
    for (unsigned m = 0; m < M_TILES; m++) {
        sums.bases[m][0] = sums.bases[m][1] = -INFINITY;
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            sums.weights[m][j] = 0.0f;
#pragma unroll
            for (unsigned n = 0; n < COLUMNS / 8; n++)
                sums.values[m][n][j] = 0.0f;
        }
    }
}

/*
 * Grid: tiles of 64 M_TILES pairs, key heads, parts of COLUMNS elements of the values. Global
 * memory of one block, whose pairs see something of n keys, of qk elements, with values of v, in
 * each of z parts of these:
 *   reads: n (key row + value row / z) bytes of the caches, 4 qk for each pair, and lists: 57 bytes
 *          of a span a thread, once or twice for each span that has some of the keys
 *   writes: 4 v / z for each pair
 */
template <typename Format, int STEPS, int M_TILES>
HY_KERNEL __launch_bounds__(THREADS, M_TILES == 1 && STEPS == FEW_STEPS ? 3 : 2)
attention_mma_tiles(struct mma_args args)
{
    uint32_t queries[M_TILES][STEPS][4];
    struct row_sums<M_TILES> sums;
    struct walk walk = {};
    unsigned under_way = 0, number = 0, free = 0;
    store_tile(hy_find_tile(args.attention, args.lists, HY_ATTENTION_TILE * M_TILES));
    hy_sync();
    for (; free < STAGES - 1; free++) {
        if (next_block(args, walk)) {
            begin_stage<Format, STEPS>(args, walk, free);
            under_way++;
        }
        hy_group_copies();
    }
    load_queries<Format, STEPS, M_TILES>(args, queries);
    clear(sums);
    for (; under_way > 0; under_way--) {
        float scores[M_TILES][KEYS / 8][4];
        uint32_t weights[M_TILES][KEYS / 16][4];
        hy_shared<uint32_t> masks(STAGE_MASKS, STAGES * 3);
        hy_wait_copies<STAGES - 2>();
        hy_sync(); /* all see the stage, and nobody reads the free one any more */
        if (next_block(args, walk)) {
            begin_stage<Format, STEPS>(args, walk, free);
            under_way++;
        }
        hy_group_copies();
        multiply_keys<Format, STEPS, M_TILES>(args, number, queries, scores);
        if (!masks[number * 3 + 2])
            mask_scores<M_TILES>(args, number, scores);
        find_bases<M_TILES>(scores, args.log2_scale, sums);
        find_weights<Format, M_TILES>(scores, args.log2_scale, sums.bases, weights);
        multiply_values<Format, STEPS, M_TILES>(number, weights, sums);
        number = number + 1 < STAGES ? number + 1 : 0;
        free = free + 1 < STAGES ? free + 1 : 0;
    }
    store_rows<M_TILES>(args, sums);
}

/* ---------------------------------------------------------------- launches */

template <typename Format, int STEPS, int M_TILES>
static void launch_mma(cudaStream_t stream, const struct mma_args &args)
{
    const size_t bytes = stage<STEPS>::BYTES;
    if (bytes > 48 * 1024
        && cudaFuncSetAttribute(attention_mma_tiles<Format, STEPS, M_TILES>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes)
               != cudaSuccess)
        return; /* cudaGetLastError tells */
    dim3 grid((unsigned)args.lists.n_items, (unsigned)args.attention.n_kv_heads,
              (unsigned)((args.attention.v_size + COLUMNS - 1) / COLUMNS));
    hy_launch(stream, attention_mma_tiles<Format, STEPS, M_TILES>, grid, THREADS, bytes, args);
}

template <typename Format>
static void launch_mma_of(cudaStream_t stream, const struct mma_args &args, unsigned tile_pairs)
{
    if (args.steps > FEW_STEPS)
        launch_mma<Format, MANY_STEPS, 1>(stream, args);
    else if (tile_pairs == HY_ATTENTION_TILE)
        launch_mma<Format, FEW_STEPS, 1>(stream, args);
    else
        launch_mma<Format, FEW_STEPS, 2>(stream, args);
}

bool hy_cuda_can_attention_mma(const struct hy_attention_args *args)
{
    return args->bf16 && args->qk_size <= MANY_STEPS * 16 && args->scale > 0.0f
           && (args->cache_type == HYMBA_DTYPE_BF16 || args->cache_type == HYMBA_DTYPE_F16);
}

unsigned hy_cuda_attention_mma_pairs(const struct hy_attention_args *args)
{
    const bool large = hy_cuda_can_attention_mma(args) && args->qk_size <= FEW_STEPS * 16;
    return (large ? 2 : 1) * HY_ATTENTION_TILE;
}

void hy_cuda_attention_mma(cudaStream_t stream, const struct hy_attention_args *args,
                           const struct hy_attention_plan *plan)
{
    struct mma_args mma = {};
    mma.attention = *args;
    mma.lists = plan->tiles;
    mma.group = (unsigned)(args->n_heads / args->n_kv_heads);
    mma.steps = (unsigned)(args->qk_size + 15) / 16;
    mma.log2_scale = args->scale * 1.44269504f;
    if (args->cache_type == HYMBA_DTYPE_BF16)
        launch_mma_of<mma_bf16>(stream, mma, plan->tile_pairs);
    else
        launch_mma_of<mma_f16>(stream, mma, plan->tile_pairs);
}
