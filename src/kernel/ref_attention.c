#include "kernel/ref.h"
#include "kernel/visible.h"

/* One row and query head. */
struct query {
    const struct hy_attention_args *args;
    const struct hy_attention_sequence *sequence;
    uint64_t position;
    size_t kv_head;
    const float *q;  /* [qk_size] */
    float *out;      /* [v_size] */
    float *scores;   /* [max_keys] */
};

/* Element i of a cached row of n. */
static inline float load(const unsigned char *row, hymba_dtype dtype, size_t n, size_t i)
{
    if (hy_cache_greatest(dtype) == 0.0f)
        return hy_ref_load(row, dtype, i);
    float scale;
    memcpy(&scale, row + n, sizeof scale);
    return scale * (dtype == HYMBA_DTYPE_FP8 ? hy_fp8_to_f32(row[i])
                                             : (float)((const signed char *)row)[i]);
}

static inline float as_bf16(float x)
{
    return hy_bf16_to_f32(hy_f32_to_bf16(x));
}

/* Scores of all visible keys in the order of positions; returns how many there are. */
static size_t score_keys(const struct query *query)
{
    const struct hy_attention_args *args = query->args;
    size_t row_bytes = hy_cache_row_bytes(args->cache_type, args->qk_size), n_keys = 0;
    for (size_t s = 0; s < query->sequence->n_spans; s++) {
        const struct hy_span *span = &query->sequence->spans[s];
        const unsigned char *k = (const unsigned char *)span->k
                                 + query->kv_head * span->k_head_stride;
        struct hy_visible visible =
            hy_visible_keys(span, query->position, query->sequence->window);
        for (size_t key = visible.begin; key < visible.end; key++, n_keys++) {
            const unsigned char *row = k + key * row_bytes;
            float sum = 0.0f;
            for (size_t i = 0; i < args->qk_size; i++)
                sum += (args->bf16 ? as_bf16(query->q[i]) : query->q[i])
                       * load(row, args->cache_type, args->qk_size, i);
            query->scores[n_keys] = sum * args->scale;
        }
    }
    return n_keys;
}

/* exp(score - greatest score), divided by the sum of all. */
static void softmax(float *scores, size_t n)
{
    float greatest = -INFINITY, sum = 0.0f;
    for (size_t i = 0; i < n; i++)
        if (scores[i] > greatest)
            greatest = scores[i];
    for (size_t i = 0; i < n; i++) {
        scores[i] = expf(scores[i] - greatest);
        sum += scores[i];
    }
    for (size_t i = 0; i < n; i++)
        scores[i] /= sum;
}

static void add_values(const struct query *query)
{
    const struct hy_attention_args *args = query->args;
    size_t row_bytes = hy_cache_row_bytes(args->cache_type, args->v_size), n_keys = 0;
    for (size_t s = 0; s < query->sequence->n_spans; s++) {
        const struct hy_span *span = &query->sequence->spans[s];
        const unsigned char *v = (const unsigned char *)span->v
                                 + query->kv_head * span->v_head_stride;
        struct hy_visible visible =
            hy_visible_keys(span, query->position, query->sequence->window);
        for (size_t key = visible.begin; key < visible.end; key++, n_keys++) {
            const unsigned char *row = v + key * row_bytes;
            float weight = args->bf16 ? as_bf16(query->scores[n_keys]) : query->scores[n_keys];
            for (size_t i = 0; i < args->v_size; i++)
                query->out[i] += weight * load(row, args->cache_type, args->v_size, i);
        }
    }
}

void hy_ref_attention(const struct hy_attention_args *args, size_t begin, size_t end,
                      float *scratch)
{
    size_t group = args->n_heads / args->n_kv_heads, s = 0;
    for (size_t unit = begin; unit < end; unit++) {
        size_t row = unit / args->n_heads, head = unit % args->n_heads;
        s = hy_sequence_of_row(args, s, row);
        const struct hy_attention_sequence *sequence = &args->sequences[s];
        struct query query = {
            .args = args,
            .sequence = sequence,
            .position = sequence->position + (row - sequence->segment.row),
            .kv_head = head / group,
            .q = args->q + row * args->q_stride + head * args->qk_size,
            .out = args->out + row * args->out_stride + head * args->v_size,
            .scores = scratch,
        };
        size_t n_keys = score_keys(&query);
        softmax(query.scores, n_keys);
        for (size_t i = 0; i < args->v_size; i++)
            query.out[i] = 0.0f;
        add_values(&query);
    }
}
