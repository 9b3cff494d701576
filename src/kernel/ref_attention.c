#include "kernel/ref.h"
#include "kernel/visible.h"

/* One row and key head: the query heads that share the key head, and where their results go. */
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

/* Scores of all visible keys in the order of positions; returns how many there are. */
static size_t score_keys(const struct query *query)
{
    const struct hy_attention_args *args = query->args;
    size_t n_keys = 0;
    for (size_t s = 0; s < query->sequence->n_spans; s++) {
        const struct hy_span *span = &query->sequence->spans[s];
        struct hy_visible visible =
            hy_visible_keys(span, query->position, query->sequence->window);
        for (size_t key = visible.begin; key < visible.end; key++, n_keys++) {
            size_t index = query->kv_head * span->k_head_stride + key * args->qk_size;
            for (size_t head = 0; head < query->n_heads; head++) {
                const float *q = query->q + head * args->qk_size;
                float sum = 0.0f;
                for (size_t i = 0; i < args->qk_size; i++)
                    sum += q[i] * hy_ref_load(span->k, args->cache_type, index + i);
                query->scores[head * args->max_keys + n_keys] = sum * args->scale;
            }
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
    size_t n_keys = 0;
    for (size_t s = 0; s < query->sequence->n_spans; s++) {
        const struct hy_span *span = &query->sequence->spans[s];
        struct hy_visible visible =
            hy_visible_keys(span, query->position, query->sequence->window);
        for (size_t key = visible.begin; key < visible.end; key++, n_keys++) {
            size_t index = query->kv_head * span->v_head_stride + key * args->v_size;
            for (size_t head = 0; head < query->n_heads; head++) {
                float weight = query->scores[head * args->max_keys + n_keys];
                float *out = query->out + head * args->v_size;
                for (size_t i = 0; i < args->v_size; i++)
                    out[i] += weight * hy_ref_load(span->v, args->cache_type, index + i);
            }
        }
    }
}

void hy_ref_attention(const struct hy_attention_args *args, size_t begin, size_t end,
                      float *scratch)
{
    size_t group = args->n_heads / args->n_kv_heads, s = 0;
    for (size_t unit = begin; unit < end; unit++) {
        size_t row = unit / args->n_kv_heads, kv_head = unit % args->n_kv_heads;
        s = hy_sequence_of_row(args, s, row);
        const struct hy_attention_sequence *sequence = &args->sequences[s];
        struct query query = {
            .args = args,
            .sequence = sequence,
            .position = sequence->position + (row - sequence->segment.row),
            .kv_head = kv_head,
            .n_heads = group,
            .q = args->q + row * args->q_stride + kv_head * group * args->qk_size,
            .out = args->out + row * args->out_stride + kv_head * group * args->v_size,
            .scores = scratch,
        };
        size_t n_keys = score_keys(&query);
        for (size_t head = 0; head < group; head++)
            softmax(scratch + head * args->max_keys, n_keys);
        for (size_t i = 0; i < group * args->v_size; i++)
            query.out[i] = 0.0f;
        add_values(&query);
    }
}
