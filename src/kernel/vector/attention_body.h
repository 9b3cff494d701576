/* Attention: one row and key head after the other. */
#include "kernel/vector/attention_bf16_body.h"

static void attention(const struct hy_attention_args *args, size_t begin, size_t end,
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
        size_t n_keys = args->bf16 ? score_keys_bf16(&query) : score_keys_f32(&query);
        for (size_t head = 0; head < group; head++) {
            softmax(scratch + head * args->max_keys, n_keys, args->scale);
            if (args->bf16)
                round_weights(scratch + head * args->max_keys, n_keys);
        }
        if (args->bf16)
            weigh_values_bf16(&query);
        else
            weigh_values_f32(&query);
    }
}
