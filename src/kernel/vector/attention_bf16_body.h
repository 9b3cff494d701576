/*
 * Attention with q and the weights of values rounded to bf16, over bf16 caches: products of pairs,
 * two numbers to a lane. Pairs of values are made of keys 2 i and 2 i + 1 in the order of positions
 * of what a query sees, also where a span ends between the two.
 */
#include "kernel/vector/attention_f32_body.h"

/* Sums of values: for each PAIR elements, those of the lower half of every quad of pairs, then
 * those of the upper half. */
enum {
    PAIR = 2 * LANES,
    TILE_PAIRS = 2,
};

static float *query_sums(const struct query *query)
{
    const struct hy_attention_args *args = query->args;
    return query->scores
           + query->n_heads * (args->max_keys + hy_padded_row(args->qk_size) / 2);
}

/* Puts weights as bf16 in the place of weights as f32, and a 0 behind an odd number of them. */
static void round_weights(float *weights, size_t n)
{
    unsigned char *rounded = (unsigned char *)weights;
    for (size_t i = 0; i < n; i += LANES) {
        size_t count = lanes_at(i, n);
        vec_store_as_n(rounded + 2 * i, vec_load_n(weights + i, count), HYMBA_DTYPE_BF16, count);
    }
    if (n % 2 != 0)
        memset(rounded + 2 * n, 0, 2);
}

/* Pairs of value rows, one right behind the other, and where their weights and sums lie. */
struct value_pairs {
    const unsigned char *first, *second; /* of the first pair; second is NULL: there is none */
    size_t count;
    size_t v_size, row_bytes;
    const unsigned char *weights; /* of the first pair: two bf16 numbers of each head */
    size_t weight_stride;         /* bytes from head to head */
    float *sums;                  /* [n_heads][hy_padded_row(v_size)] */
};

HY_INLINE ivec pair_elements(const unsigned char *row, size_t i, size_t n, const bool whole)
{
    return whole ? ivec_load(row + 2 * i) : ivec_load_halves_n(row + 2 * i, n);
}

/* Adds pairs to n_vectors * PAIR sums from element i on; whole unless only n of them exist. */
HY_INLINE void pairs_tile(const struct value_pairs *pairs, size_t head, size_t i, size_t n,
                          const size_t n_heads, const size_t n_vectors, const bool whole)
{
    size_t sum_stride = hy_padded_row(pairs->v_size);
    float *out = pairs->sums + head * sum_stride + i;
    const unsigned char *weights = pairs->weights + head * pairs->weight_stride;
    const unsigned char *first = pairs->first, *second = pairs->second;
    vec sums[MOST_X][2 * TILE_PAIRS];
    HY_UNROLL
    for (size_t h = 0; h < n_heads; h++) {
        HY_UNROLL
        for (size_t j = 0; j < 2 * n_vectors; j++)
            sums[h][j] = vec_load(out + h * sum_stride + j * LANES);
    }
    for (size_t pair = 0; pair < pairs->count; pair++) {
        ivec rows[2 * TILE_PAIRS];
        HY_UNROLL
        for (size_t j = 0; j < n_vectors; j++) {
            ivec a = pair_elements(first, i + j * PAIR, n, whole);
            ivec b = second ? pair_elements(second, i + j * PAIR, n, whole) : ivec_zero();
            rows[2 * j] = ivec_low_elements(a, b);
            rows[2 * j + 1] = ivec_high_elements(a, b);
        }
        HY_UNROLL
        for (size_t h = 0; h < n_heads; h++) {
            ivec weight = ivec_all_lanes(weights + h * pairs->weight_stride);
            HY_UNROLL
            for (size_t j = 0; j < 2 * n_vectors; j++)
                sums[h][j] = vec_dot_bf16(sums[h][j], rows[j], weight);
        }
        /* memory is read in order, though tiles take only a part of each row */
        for (size_t line = 0; i == 0 && line < 2 * pairs->row_bytes; line += 64)
            __builtin_prefetch(first + line, 0, 3);
        first += 2 * pairs->row_bytes;
        second = second ? second + 2 * pairs->row_bytes : NULL;
        weights += 4;
    }
    HY_UNROLL
    for (size_t h = 0; h < n_heads; h++) {
        HY_UNROLL
        for (size_t j = 0; j < 2 * n_vectors; j++)
            vec_store(out + h * sum_stride + j * LANES, sums[h][j]);
    }
}

HY_INLINE void pairs_of_heads(const struct value_pairs *pairs, size_t head, const size_t n_heads)
{
    size_t i = 0;
    for (; i + TILE_PAIRS * PAIR <= pairs->v_size; i += TILE_PAIRS * PAIR)
        pairs_tile(pairs, head, i, PAIR, n_heads, TILE_PAIRS, true);
    for (; i + PAIR <= pairs->v_size; i += PAIR)
        pairs_tile(pairs, head, i, PAIR, n_heads, 1, true);
    if (i < pairs->v_size)
        pairs_tile(pairs, head, i, pairs->v_size - i, n_heads, 1, false);
}

static void add_pairs(const struct value_pairs *pairs, size_t n_heads)
{
    size_t head = 0;
    for (; TILE_X > 3 && head + 5 <= n_heads; head += 5)
        pairs_of_heads(pairs, head, 5);
    for (; head + 3 <= n_heads; head += 3)
        pairs_of_heads(pairs, head, 3);
    for (; head + 2 <= n_heads; head += 2)
        pairs_of_heads(pairs, head, 2);
    for (; head < n_heads; head++)
        pairs_of_heads(pairs, head, 1);
}

/* Adds so many pairs, which are at *pairs, and moves their weights on. */
static void take_pairs(struct value_pairs *pairs, size_t n_heads, const unsigned char *first,
                       const unsigned char *second, size_t count)
{
    for (size_t done = 0; done < count; done += VALUE_ROWS / 2) {
        pairs->count = hy_min_size(count - done, VALUE_ROWS / 2);
        pairs->first = first + 2 * done * pairs->row_bytes;
        pairs->second = second ? second + 2 * done * pairs->row_bytes : NULL;
        add_pairs(pairs, n_heads);
        pairs->weights += 4 * pairs->count;
    }
}

/* The sums of a head in the order of their elements. */
static void store_sums(const float *sums, size_t n, float *out)
{
    enum { HALF = 4 }; /* of the elements that a quad of one row holds */
    for (size_t i = 0; i < n; i += HALF) {
        size_t in_block = i % PAIR, quad = in_block / (2 * HALF), upper = in_block / HALF % 2;
        const float *from = sums + i - in_block + upper * LANES + quad * HALF;
        for (size_t j = 0; j < HALF && i + j < n; j++)
            out[i + j] = from[j];
    }
}

static void weigh_values_bf16(const struct query *query)
{
    const struct hy_attention_args *args = query->args;
    struct value_pairs pairs = {
        .v_size = args->v_size,
        .row_bytes = args->v_size * 2,
        .weights = (const unsigned char *)query->scores,
        .weight_stride = args->max_keys * sizeof(float),
        .sums = query_sums(query),
    };
    const unsigned char *odd = NULL; /* the row that has no second one yet */
    memset(pairs.sums, 0, query->n_heads * hy_padded_row(args->v_size) * sizeof *pairs.sums);
    for (size_t s = 0; s < query->sequence->n_spans; s++) {
        const struct hy_span *span = &query->sequence->spans[s];
        struct hy_visible visible =
            hy_visible_keys(span, query->position, query->sequence->window);
        const unsigned char *rows = (const unsigned char *)span->v
                                    + query->kv_head * span->v_head_stride
                                    + visible.begin * pairs.row_bytes;
        size_t count = visible.end - visible.begin;
        if (odd && count > 0) {
            take_pairs(&pairs, query->n_heads, odd, rows, 1);
            odd = NULL;
            rows += pairs.row_bytes;
            count--;
        }
        take_pairs(&pairs, query->n_heads, rows, rows + pairs.row_bytes, count / 2);
        if (count % 2 != 0)
            odd = rows + (count - 1) * pairs.row_bytes;
    }
    if (odd)
        take_pairs(&pairs, query->n_heads, odd, NULL, 1);
    for (size_t head = 0; head < query->n_heads; head++)
        store_sums(pairs.sums + head * hy_padded_row(args->v_size), args->v_size,
                   query->out + head * args->v_size);
}
