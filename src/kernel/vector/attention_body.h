/* Attention: one row and key head after the other, with the query heads that are asked for. */
#include "kernel/vector/attention_bf16_body.h"

static void attend(const struct query *query)
{
    const struct hy_attention_args *args = query->args;
    size_t n_keys = score_keys(query);
    for (size_t head = 0; head < query->n_heads; head++) {
        softmax(query->scores + head * args->max_keys, n_keys, args->scale);
        if (args->bf16)
            round_weights(query->scores + head * args->max_keys, n_keys);
    }
    if (args->bf16)
        weigh_values_bf16(query);
    else
        weigh_values_f32(query);
}

static void attention(const struct hy_attention_args *args, size_t begin, size_t end,
                      float *scratch)
{
    size_t group = args->n_heads / args->n_kv_heads, s = 0, n_heads;
    for (size_t unit = begin; unit < end; unit += n_heads) {
        size_t row = unit / args->n_heads, head = unit % args->n_heads;
        n_heads = hy_min_size(end - unit, group - head % group);
        s = hy_sequence_of_row(args, s, row);
        const struct hy_attention_sequence *sequence = &args->sequences[s];
        struct query query = {
            .args = args,
            .sequence = sequence,
            .position = sequence->position + (row - sequence->segment.row),
            .kv_head = head / group,
            .n_heads = n_heads,
            .q = args->q + row * args->q_stride + head * args->qk_size,
            .out = args->out + row * args->out_stride + head * args->v_size,
            .scores = scratch,
        };
        attend(&query);
    }
}
