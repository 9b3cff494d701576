/*
 * Attention, one row and key head at a time; the query heads that share the key head share its
 * loads. Scores are a matrix product (matmul_body.h) with keys as weights; int8 rows are read in
 * place too, and their scales go to the finished products and to the weights of values. Sums over
 * keys run in the order of positions: a span's end only ends an inner loop, never a sum.
 */
#include <math.h>

#include "kernel/visible.h"

enum {
    TILE_V = 4,      /* vectors of a value row in a register block */
    VALUE_ROWS = 64, /* that all tiles take before the next ones: memory is read in order, once */
};

/* One row and key head. */
struct query {
    const struct hy_attention_args *args;
    const struct hy_attention_sequence *sequence;
    uint64_t position;
    size_t kv_head;
    size_t n_heads;  /* that share the key head */
    const float *q;  /* [n_heads][qk_size] */
    float *out;      /* [n_heads][v_size] */
    float *scores;   /* [n_heads][max_keys] */
};

/* The visible keys of one span. */
struct keys {
    const unsigned char *k;  /* [count] rows */
    size_t count, row_bytes;
    float *scores;           /* [n_heads][max_keys]: the first key's and those behind it */
};

/* The visible values of one span, and the weights that stand before them. */
struct values {
    const unsigned char *v;  /* [count] rows */
    size_t count, v_size, row_bytes;
    const float *weights;    /* [n_heads][weight_stride] */
    size_t weight_stride;
    float *out;              /* [n_heads][v_size] */
};

static void score_span(const struct query *query, const struct keys *keys)
{
    const struct hy_attention_args *args = query->args;
    struct hy_matmul_args product = {
        .x = query->q,
        .x_stride = args->qk_size,
        .m = query->n_heads,
        .n = keys->count,
        .k = args->qk_size,
        .w = keys->k,
        .dtype = args->cache_type,
        .w_stride = args->qk_size,
        .y = keys->scores,
        .y_stride = args->max_keys,
    };
    matmul_f32(&product, 0, product.n);
}

/* The scale behind an int8 row of n bytes. */
HY_INLINE float row_scale(const unsigned char *row, size_t n)
{
    float scale;
    memcpy(&scale, row + n, sizeof scale);
    return scale;
}

/* Scores of keys key .. key + n_keys for heads head .. head + n_heads. Each has one vector of sums
 * over the elements, which is added up and then scaled, in whatever tile it falls. */
HY_INLINE void score_int8_tile(const struct query *query, const struct keys *keys, size_t head,
                               size_t key, const size_t n_heads, const size_t n_keys)
{
    size_t size = query->args->qk_size, stride = query->args->max_keys;
    const unsigned char *k = keys->k + key * keys->row_bytes;
    struct tile_rows q = {(const unsigned char *)(query->q + head * size), size * sizeof(float)};
    vec sums[MOST_X][TILE_W];
    HY_UNROLL
    for (size_t h = 0; h < n_heads; h++) {
        HY_UNROLL
        for (size_t j = 0; j < n_keys; j++)
            sums[h][j] = vec_zero();
    }
    tile_steps(sums, q, k, keys->row_bytes, (struct range){0, size}, n_heads, n_keys,
               (struct tile_kind){HYMBA_DTYPE_INT8, false, 0});
    float scales[TILE_W];
    HY_UNROLL
    for (size_t j = 0; j < n_keys; j++)
        scales[j] = row_scale(k + j * keys->row_bytes, size);
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

HY_INLINE void score_int8_heads(const struct query *query, const struct keys *keys, size_t head,
                                const size_t n_heads)
{
    size_t key = 0;
    for (; key + TILE_W <= keys->count; key += TILE_W)
        score_int8_tile(query, keys, head, key, n_heads, TILE_W);
    for (; key < keys->count; key++)
        score_int8_tile(query, keys, head, key, n_heads, 1);
}

static void score_int8_span(const struct query *query, const struct keys *keys)
{
    size_t head = 0;
    for (; TILE_X > 3 && head + 5 <= query->n_heads; head += 5)
        score_int8_heads(query, keys, head, 5);
    for (; head + 3 <= query->n_heads; head += 3)
        score_int8_heads(query, keys, head, 3);
    for (; head < query->n_heads; head++)
        score_int8_heads(query, keys, head, 1);
}

/* q.k of all visible keys in the order of positions; returns how many there are. */
static size_t score_keys_f32(const struct query *query)
{
    const struct hy_attention_args *args = query->args;
    size_t row_bytes = hy_cache_row_bytes(args->cache_type, args->qk_size), n_keys = 0;
    for (size_t s = 0; s < query->sequence->n_spans; s++) {
        const struct hy_span *span = &query->sequence->spans[s];
        struct hy_visible visible =
            hy_visible_keys(span, query->position, query->sequence->window);
        struct keys keys = {
            .k = (const unsigned char *)span->k + query->kv_head * span->k_head_stride
                 + visible.begin * row_bytes,
            .count = visible.end - visible.begin,
            .row_bytes = row_bytes,
            .scores = query->scores + n_keys,
        };
        if (args->cache_type == HYMBA_DTYPE_INT8)
            score_int8_span(query, &keys);
        else
            score_span(query, &keys);
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

/*
 * Adds to n_vectors vectors of out from element i onwards, for heads head .. head + n_heads; n is
 * the number of lanes of each.
 */
HY_INLINE void values_tile(const struct values *values, size_t head, size_t i, size_t n,
                           const size_t n_heads, const size_t n_vectors, const hymba_dtype dtype)
{
    const size_t element = element_bytes(dtype);
    const float *weights = values->weights + head * values->weight_stride;
    float *out = values->out + head * values->v_size + i;
    const unsigned char *v = values->v + i * element;
    vec sums[MOST_X][TILE_V];
    HY_UNROLL
    for (size_t h = 0; h < n_heads; h++) {
        HY_UNROLL
        for (size_t j = 0; j < n_vectors; j++)
            sums[h][j] = vec_load_n(out + h * values->v_size + j * LANES, n);
    }
    for (size_t key = 0; key < values->count; key++) {
        vec row[TILE_V], scale;
        if (dtype == HYMBA_DTYPE_INT8)
            scale = vec_all(row_scale(v, values->v_size - i));
        HY_UNROLL
        for (size_t j = 0; j < n_vectors; j++)
            row[j] = vec_load_as_n(v + j * LANES * element, dtype, n);
        HY_UNROLL
        for (size_t h = 0; h < n_heads; h++) {
            vec weight = vec_all(weights[h * values->weight_stride + key]);
            if (dtype == HYMBA_DTYPE_INT8)
                weight = vec_mul(weight, scale);
            HY_UNROLL
            for (size_t j = 0; j < n_vectors; j++)
                sums[h][j] = vec_fma(weight, row[j], sums[h][j]);
        }
        v += values->row_bytes;
    }
    HY_UNROLL
    for (size_t h = 0; h < n_heads; h++) {
        HY_UNROLL
        for (size_t j = 0; j < n_vectors; j++)
            vec_store_n(out + h * values->v_size + j * LANES, sums[h][j], n);
    }
}

/* All elements of heads head .. head + n_heads. */
HY_INLINE void values_of_heads(const struct values *values, size_t head, const size_t n_heads,
                               const hymba_dtype dtype)
{
    size_t i = 0;
    for (; i + TILE_V * LANES <= values->v_size; i += TILE_V * LANES)
        values_tile(values, head, i, LANES, n_heads, TILE_V, dtype);
    for (; i < values->v_size; i += LANES)
        values_tile(values, head, i, lanes_at(i, values->v_size), n_heads, 1, dtype);
}

HY_INLINE void add_values_as(const struct values *values, size_t n_heads, const hymba_dtype dtype)
{
    size_t head = 0;
    for (; TILE_X > 3 && head + 5 <= n_heads; head += 5)
        values_of_heads(values, head, 5, dtype);
    for (; head + 3 <= n_heads; head += 3)
        values_of_heads(values, head, 3, dtype);
    for (; head + 2 <= n_heads; head += 2)
        values_of_heads(values, head, 2, dtype);
    for (; head < n_heads; head++)
        values_of_heads(values, head, 1, dtype);
}

static void add_value_rows(const struct values *values, size_t n_heads, hymba_dtype dtype)
{
    if (dtype == HYMBA_DTYPE_INT8)
        add_values_as(values, n_heads, HYMBA_DTYPE_INT8);
    else if (dtype == HYMBA_DTYPE_F32)
        add_values_as(values, n_heads, HYMBA_DTYPE_F32);
    else if (dtype == HYMBA_DTYPE_F16)
        add_values_as(values, n_heads, HYMBA_DTYPE_F16);
    else
        add_values_as(values, n_heads, HYMBA_DTYPE_BF16);
}

static void add_values(const struct values *values, size_t n_heads, hymba_dtype dtype)
{
    for (size_t key = 0; key < values->count; key += VALUE_ROWS) {
        struct values rows = *values;
        rows.v += key * values->row_bytes;
        rows.weights += key;
        rows.count = hy_min_size(values->count - key, VALUE_ROWS);
        add_value_rows(&rows, n_heads, dtype);
    }
}

static void weigh_values_f32(const struct query *query)
{
    const struct hy_attention_args *args = query->args;
    size_t row_bytes = hy_cache_row_bytes(args->cache_type, args->v_size), n_keys = 0;
    memset(query->out, 0, query->n_heads * args->v_size * sizeof *query->out);
    for (size_t s = 0; s < query->sequence->n_spans; s++) {
        const struct hy_span *span = &query->sequence->spans[s];
        struct hy_visible visible =
            hy_visible_keys(span, query->position, query->sequence->window);
        struct values values = {
            .v = (const unsigned char *)span->v + query->kv_head * span->v_head_stride
                 + visible.begin * row_bytes,
            .count = visible.end - visible.begin,
            .v_size = args->v_size,
            .row_bytes = row_bytes,
            .weights = query->scores + n_keys,
            .weight_stride = args->max_keys,
            .out = query->out,
        };
        add_values(&values, query->n_heads, args->cache_type);
        n_keys += values.count;
    }
}
