/*
 * Scores of attention, of one row and those of its query heads that share a key head and its loads.
 * They are a matrix product (matmul_body.h) with keys as weights; int8 and fp8 rows are read in
 * place too, and their scales go to the finished products.
 */
#include <math.h>

#include "kernel/visible.h"

enum {
    FETCHED_VALUES = 384 * 1024, /* bytes asked for while keys are scored: part of a cache */
};

/* One row, and query heads that share a key head. */
struct query {
    const struct hy_attention_args *args;
    const struct hy_attention_sequence *sequence;
    uint64_t position;
    size_t kv_head;
    size_t n_heads;
    const float *q;  /* [n_heads][qk_size] */
    float *out;      /* [n_heads][v_size] */
    float *scores;   /* [n_heads][max_keys] */
};

/* The visible keys of one span, and the first of their values that are asked for meanwhile. */
struct keys {
    const unsigned char *k;  /* [count] rows */
    size_t count, row_bytes;
    float *scores;           /* [n_heads][max_keys]: the first key's and those behind it */
    const unsigned char *v;
    size_t v_row_bytes, n_fetched;
};

/* Memory of a query beside its scores: per head what hy_attention_row_floats counts. */
static struct hy_rounded query_rounded(const struct query *query)
{
    const struct hy_attention_args *args = query->args;
    return (struct hy_rounded){
        .dtype = HYMBA_DTYPE_BF16,
        .data = query->scores + query->n_heads * args->max_keys,
        .stride = hy_padded_row(args->qk_size),
    };
}

/* q in the arithmetic of the products. */
static struct tile_rows query_rows(const struct query *query)
{
    size_t size = query->args->qk_size;
    if (!query->args->bf16)
        return (struct tile_rows){(const unsigned char *)query->q, size * sizeof(float)};
    struct hy_rounded rounded = query_rounded(query);
    for (size_t head = 0; head < query->n_heads; head++)
        round_to_bf16(&rounded, query->q + head * size, size,
                      (uint16_t *)rounded.data + head * rounded.stride);
    return (struct tile_rows){rounded.data, rounded.stride * 2};
}

/* hy_cache_greatest as the compiler sees through it. */
HY_INLINE bool has_scale(const hymba_dtype dtype)
{
    return dtype == HYMBA_DTYPE_INT8 || dtype == HYMBA_DTYPE_FP8;
}

/* The scale behind a row of n bytes. */
HY_INLINE float row_scale(const unsigned char *row, size_t n)
{
    float scale;
    memcpy(&scale, row + n, sizeof scale);
    return scale;
}

/* Scores of keys key .. key + n_keys for heads head .. head + n_heads. Each has one vector of sums
 * over the elements, which is added up and then scaled, in whatever tile it falls. */
HY_INLINE void score_tile(const struct query *query, struct tile_rows q, const struct keys *keys,
                          size_t head, size_t key, const size_t n_heads, const size_t n_keys,
                          const struct tile_kind kind)
{
    size_t size = query->args->qk_size, stride = query->args->max_keys;
    const unsigned char *k = keys->k + key * keys->row_bytes;
    vec sums[MOST_X][TILE_W];
    clear_sums(sums, n_heads, n_keys);
    q.data += head * q.stride;
    tile_steps(sums, q, k, keys->row_bytes, (struct range){0, size}, n_heads, n_keys, kind);
    float scales[TILE_W];
    HY_UNROLL
    for (size_t j = 0; j < n_keys; j++)
        scales[j] = has_scale(kind.dtype) ? row_scale(k + j * keys->row_bytes, size) : 1.0f;
    HY_UNROLL
    for (size_t h = 0; h < n_heads; h++) {
        float *scores = keys->scores + (head + h) * stride + key, four[TILE_W];
        if (n_keys == 1)
            four[0] = vec_sum(sums[h][0]);
        else
            vec_store_4(four, sums[h][0], sums[h][1], sums[h][2], sums[h][3]);
        HY_UNROLL
        for (size_t j = 0; j < n_keys; j++)
            scores[j] = four[j] * scales[j];
    }
}

/* While keys are scored, which the processor waits for, their values come nearer. */
HY_INLINE void score_heads(const struct query *query, struct tile_rows q, const struct keys *keys,
                           size_t head, const size_t n_heads, const struct tile_kind kind)
{
    size_t key = 0, n_fetched = head == 0 ? keys->n_fetched : 0;
    for (; key + TILE_W <= keys->count; key += TILE_W) {
        const unsigned char *v = keys->v + key * keys->v_row_bytes;
        for (size_t i = 0; key < n_fetched && i < TILE_W * keys->v_row_bytes; i += 64)
            __builtin_prefetch(v + i, 0, 2);
        score_tile(query, q, keys, head, key, n_heads, TILE_W, kind);
    }
    for (; key < keys->count; key++)
        score_tile(query, q, keys, head, key, n_heads, 1, kind);
}

HY_INLINE void score_span(const struct query *query, struct tile_rows q, const struct keys *keys,
                          const struct tile_kind kind)
{
    size_t head = 0;
    for (; TILE_X > 3 && head + 5 <= query->n_heads; head += 5)
        score_heads(query, q, keys, head, 5, kind);
    for (; head + 3 <= query->n_heads; head += 3)
        score_heads(query, q, keys, head, 3, kind);
    for (; head + 2 <= query->n_heads; head += 2)
        score_heads(query, q, keys, head, 2, kind);
    for (; head < query->n_heads; head++)
        score_heads(query, q, keys, head, 1, kind);
}

static void score_span_of_any_kind(const struct query *query, struct tile_rows q,
                                   const struct keys *keys)
{
    const struct hy_attention_args *args = query->args;
    if (args->bf16)
        score_span(query, q, keys, (struct tile_kind){HYMBA_DTYPE_BF16, true, 0});
    else if (args->cache_type == HYMBA_DTYPE_INT8)
        score_span(query, q, keys, (struct tile_kind){HYMBA_DTYPE_INT8, false, 0});
    else if (args->cache_type == HYMBA_DTYPE_FP8)
        score_span(query, q, keys, (struct tile_kind){HYMBA_DTYPE_FP8, false, 0});
    else if (args->cache_type == HYMBA_DTYPE_BF16)
        score_span(query, q, keys, (struct tile_kind){HYMBA_DTYPE_BF16, false, 0});
    else if (args->cache_type == HYMBA_DTYPE_F16)
        score_span(query, q, keys, (struct tile_kind){HYMBA_DTYPE_F16, false, 0});
    else
        score_span(query, q, keys, (struct tile_kind){HYMBA_DTYPE_F32, false, 0});
}

/* q.k of all visible keys in the order of positions; returns how many there are. */
static size_t score_keys(const struct query *query)
{
    const struct hy_attention_args *args = query->args;
    struct tile_rows q = query_rows(query);
    struct keys keys = {
        .row_bytes = hy_cache_row_bytes(args->cache_type, args->qk_size),
        .v_row_bytes = hy_cache_row_bytes(args->cache_type, args->v_size),
    };
    size_t n_keys = 0, n_fetched = FETCHED_VALUES / keys.v_row_bytes;
    for (size_t s = 0; s < query->sequence->n_spans; s++) {
        const struct hy_span *span = &query->sequence->spans[s];
        struct hy_visible visible =
            hy_visible_keys(span, query->position, query->sequence->window);
        keys.k = (const unsigned char *)span->k + query->kv_head * span->k_head_stride
                 + visible.begin * keys.row_bytes;
        keys.v = (const unsigned char *)span->v + query->kv_head * span->v_head_stride
                 + visible.begin * keys.v_row_bytes;
        keys.count = visible.end - visible.begin;
        keys.scores = query->scores + n_keys;
        keys.n_fetched = n_fetched > n_keys ? n_fetched - n_keys : 0;
        score_span_of_any_kind(query, q, &keys);
        n_keys += keys.count;
    }
    return n_keys;
}

/* exp(scale * score - greatest), divided by the sum of all. */
static void softmax(float *scores, size_t n, float scale)
{
    vec factor = vec_all(scale), lowest = vec_all(-INFINITY);
    vec greatest = lowest, sum = vec_zero();
    for (size_t i = 0; i < n; i += LANES) {
        size_t count = lanes_at(i, n);
        vec score = vec_mul(vec_load_n(scores + i, count), factor);
        greatest = vec_max(vec_select_n(score, lowest, count), greatest);
    }
    vec shift = vec_all(vec_greatest(greatest));
    for (size_t i = 0; i < n; i += LANES) {
        size_t count = lanes_at(i, n);
        vec score = vec_mul(vec_load_n(scores + i, count), factor);
        vec weight = vec_exp(vec_sub(score, shift));
        sum = vec_add(sum, vec_select_n(weight, vec_zero(), count));
        vec_store_n(scores + i, weight, count);
    }
    vec share = vec_all(1.0f / vec_sum(sum));
    for (size_t i = 0; i < n; i += LANES) {
        size_t count = lanes_at(i, n);
        vec_store_n(scores + i, vec_mul(vec_load_n(scores + i, count), share), count);
    }
}
