/* What a row's steps must at least read and compute, from the model's layers. */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

/* Entries of cached keys and values that a pass reads, over the layers that own a cache; layers
 * that share one read it once. */
struct entries {
    uint64_t meta;   /* of the meta tokens, which all sessions have in common */
    uint64_t full;   /* of layers that attend to all tokens */
    uint64_t window; /* of layers that attend to the last ones */
};

/* In a session of so many tokens. */
static int count_cache_entries(const struct bench *bench, uint64_t tokens, struct entries *entries)
{
    hymba_error error;
    uint32_t n_layers = bench->info.n_layers;
    struct entries *owners = take_memory(n_layers, sizeof *owners);
    hymba_status status = HYMBA_OK;
    hymba_error_init(&error, sizeof error);
    memset(owners, 0, n_layers * sizeof *owners);
    memset(entries, 0, sizeof *entries);
    for (uint32_t i = 0; i < n_layers && status == HYMBA_OK; i++) {
        hymba_layer_info layer = {.struct_size = sizeof layer};
        status = hymba_model_get_layer_info(bench->model, i, &layer, &error);
        if (status != HYMBA_OK || layer.kv_layer < 0)
            continue;
        struct entries *owner = &owners[layer.kv_layer];
        uint64_t seen = tokens < layer.window ? tokens : layer.window;
        owner->meta = bench->info.n_meta_tokens;
        if (layer.attention != HYMBA_ATTENTION_WINDOW)
            owner->full = tokens;
        else if (owner->window < seen)
            owner->window = seen;
    }
    for (uint32_t i = 0; i < n_layers; i++) {
        entries->meta += owners[i].meta;
        entries->full += owners[i].full;
        if (owners[i].full == 0)
            entries->window += owners[i].window;
    }
    free(owners);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

int bench_step_bytes(const struct bench *bench, uint64_t tokens, uint64_t batch, double *bytes)
{
    hymba_memory_info memory = {0};
    struct entries entries = {0};
    int status = get_memory_info(bench->model, &bench->options->compute, tokens, &memory);
    if (status == STATUS_OK)
        status = count_cache_entries(bench, tokens, &entries);
    hymba_dtype cache_type = bench->context_info.cache_type;
    bool scaled = cache_type == HYMBA_DTYPE_INT8 || cache_type == HYMBA_DTYPE_FP8;
    size_t scale_bytes = scaled ? sizeof(float) : 0; /* of each vector */
    double entry_bytes = (double)bench->info.n_kv_heads *
                         ((double)(bench->info.qk_head_size + bench->info.v_head_size) *
                              (double)hymba_dtype_size(cache_type) +
                          2 * (double)scale_bytes);
    uint64_t copies = bench->options->separate ? batch : 1;
    *bytes = (double)bench->info.pass_bytes +
             entry_bytes *
                 (double)(entries.meta + copies * entries.full + batch * entries.window) +
             (double)(batch * (memory.conv_bytes + memory.ssm_bytes));
    return status;
}

/* Sum over the first n positions of the keys each one sees, at most most. */
static double sum_of_keys(double n, double most)
{
    return n <= most ? n * (n + 1) / 2 : most * (most + 1) / 2 + (n - most) * most;
}

/* Operations of attention's products for the tokens from begin to end of a session: what the mask
 * lets through, meta tokens included. */
static int attention_operations(const struct bench *bench, uint64_t begin, uint64_t end,
                                double *operations)
{
    hymba_error error;
    const hymba_model_info *info = &bench->info;
    double keys = 0, meta = (double)(end - begin) * info->n_meta_tokens;
    hymba_error_init(&error, sizeof error);
    for (uint32_t i = 0; i < info->n_layers; i++) {
        hymba_layer_info layer = {.struct_size = sizeof layer};
        hymba_status status = hymba_model_get_layer_info(bench->model, i, &layer, &error);
        if (status != HYMBA_OK)
            return fail_library(NULL, status, &error);
        if (layer.attention == HYMBA_ATTENTION_NONE)
            continue;
        double most = layer.attention == HYMBA_ATTENTION_WINDOW ? layer.window + 1.0 : 1e18;
        keys += meta + sum_of_keys((double)end, most) - sum_of_keys((double)begin, most);
    }
    *operations = 2.0 * keys * info->n_heads * (info->qk_head_size + info->v_head_size);
    return STATUS_OK;
}

int bench_count_operations(const struct bench *bench, uint64_t begin, uint64_t end,
                           double logits_share, struct row *row)
{
    double attention = 0;
    int status = attention_operations(bench, begin, end, &attention);
    double weights = (double)bench->info.projection_parameters +
                     logits_share * bench->info.vocabulary_size * bench->info.hidden_size;
    row->operations_per_s =
        row->tok_per_s * (2.0 * weights + attention / (double)(end - begin));
    return status;
}
