#include <math.h>

#include "base/checked.h"
#include "run/pass.h"

/* Queries, and a producer's keys, rotated; the keys and values of this step rounded to the cache's
 * type. */
static void place_heads(const struct hy_pass *pass, uint32_t index)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const struct hy_config *config = pass->config;
    struct hy_workspace *work = pass->work;
    struct hy_rope_store_args args = {
        .q = work->proj + layer->q_row,
        .stride = layer->in_rows,
        .n_heads = config->n_heads,
        .qk_size = config->qk_head_size,
        .v_size = config->v_head_size,
        .cosine = config->rope ? work->cosine : NULL,
        .sine = config->rope ? work->sine : NULL,
        .dtype = pass->context->layout.cache_type,
    };
    if (layer->kv_producer) {
        const struct hy_cache_place *place = &pass->context->layout.caches[layer->kv].step;
        args.k = work->proj + layer->k_row;
        args.v = work->proj + layer->v_row;
        args.n_kv_heads = config->n_kv_heads;
        args.k_rows = work->step_kv + place->k_offset;
        args.v_rows = work->step_kv + place->v_offset;
        args.k_head_stride = place->k_head_stride;
        args.v_head_stride = place->v_head_stride;
    }
    if (config->rope || layer->kv_producer)
        hy_backend_rope_store(pass->backend, &args, pass->rows);
    if (!layer->kv_producer)
        return;
    hy_pass_probe(pass, HY_PROBE_K, (int)index, args.k, config->n_kv_heads * config->qk_head_size,
                  layer->in_rows);
    hy_pass_probe(pass, HY_PROBE_V, (int)index, args.v, config->n_kv_heads * config->v_head_size,
                  layer->in_rows);
}

/* Whether the sequences see what they saw in the layer with attention before this one. */
static bool repeats_lists(const struct hy_plan *plan, uint32_t index)
{
    const struct hy_layer_plan *layer = &plan->layers[index], *before = layer;
    while (before > plan->layers)
        if ((--before)->attention != HYMBA_ATTENTION_NONE)
            return before->kv == layer->kv && before->window == layer->window;
    return false;
}

/* Lists what each sequence may see. */
static void list_spans(const struct hy_pass *pass, const struct hy_layer_plan *layer)
{
    struct hy_step_lists *lists = &pass->context->lists;
    struct hy_span *spans = lists->spans;
    size_t max_keys = 0;
    for (size_t i = 0; i < pass->n_sequences; i++) {
        const struct hy_step_sequence *sequence = &pass->sequences[i];
        const struct hy_state *state = sequence->state;
        uint64_t window = layer->window < state->full_window ? layer->window : state->full_window;
        size_t n = hy_state_spans(state, layer->kv, window, spans), keys = 0;
        spans[n++] = hy_step_span(&pass->context->layout, pass->work->step_kv, layer->kv,
                                  sequence->segment.row, sequence->segment.n_rows,
                                  state->position, state->is_meta);
        for (size_t j = 0; j < n; j++)
            keys += spans[j].count;
        max_keys = hy_max_size(max_keys, keys);
        lists->attention[i] = (struct hy_attention_sequence){
            .segment = sequence->segment,
            .position = state->position,
            .window = window,
            .spans = spans,
            .n_spans = n,
        };
        spans += n;
    }
    lists->max_keys = max_keys;
}

/* Where a unit multiplies bf16, and rounding was allowed: devices take numbers of 8 bits there,
 * too, which bf16 holds. */
static bool rounds_attention(const hymba_context *context)
{
    hymba_dtype type = context->layout.cache_type;
    bool takes_type = type == HYMBA_DTYPE_BF16 ||
                      (context->backend.plugin && hy_cache_greatest(type) != 0.0f);
    return takes_type && context->compute != HYMBA_COMPUTE_F32 &&
           context->backend.kernels.has_bf16;
}

void hy_pass_attend(const struct hy_pass *pass, uint32_t index)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const struct hy_config *config = pass->config;
    const bool repeated = repeats_lists(pass->plan, index);
    place_heads(pass, index);
    if (!repeated)
        list_spans(pass, layer);
    struct hy_attention_args args = {
        .q = pass->work->proj + layer->q_row,
        .q_stride = layer->in_rows,
        .out = pass->work->attention,
        .out_stride = config->inner_size,
        .n_heads = config->n_heads,
        .n_kv_heads = config->n_kv_heads,
        .qk_size = config->qk_head_size,
        .v_size = config->v_head_size,
        .scale = (float)(1.0 / sqrt((double)config->qk_head_size)),
        .cache_type = pass->context->layout.cache_type,
        .bf16 = rounds_attention(pass->context),
        .sequences = pass->context->lists.attention,
        .n_sequences = pass->n_sequences,
        .max_keys = pass->context->lists.max_keys,
        .repeated = repeated,
    };
    hy_backend_attention(pass->backend, &args, pass->rows);
}
