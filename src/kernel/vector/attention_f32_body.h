/*
 * Values of attention in f32, and from any cache. Sums over keys run in the order of positions: a
 * span's end only ends an inner loop, never a sum; scales of rows go to the weights.
 */
#include "kernel/vector/attention_scores_body.h"

enum {
    TILE_V = 4,      /* vectors of a value row in a register block */
    VALUE_ROWS = 64, /* that all tiles take before the next ones: memory is read in order, once */
};

/* The visible values of one span, and the weights that stand before them. */
struct values {
    const unsigned char *v;  /* [count] rows */
    size_t count, v_size, row_bytes;
    const float *weights;    /* [n_heads][weight_stride] */
    size_t weight_stride;
    float *out;              /* [n_heads][v_size] */
};

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
        if (has_scale(dtype))
            scale = vec_all(row_scale(v, values->v_size - i));
        HY_UNROLL
        for (size_t j = 0; j < n_vectors; j++)
            row[j] = vec_load_as_n(v + j * LANES * element, dtype, n);
        HY_UNROLL
        for (size_t h = 0; h < n_heads; h++) {
            vec weight = vec_all(weights[h * values->weight_stride + key]);
            if (has_scale(dtype))
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
    else if (dtype == HYMBA_DTYPE_FP8)
        add_values_as(values, n_heads, HYMBA_DTYPE_FP8);
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
