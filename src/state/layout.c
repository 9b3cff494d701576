#include "state/layout.h"

#include <string.h>

#include "base/checked.h"
#include "kernel/kernel.h"

/* Running sum of sizes that remembers whether it ever failed to fit. */
struct counter {
    size_t bytes;
    bool overflow;
};

static size_t count(struct counter *counter, size_t elements, size_t size)
{
    size_t begin = counter->bytes, bytes, padded;
    if (!hy_mul_size(elements, size, &bytes) || !hy_add_size(bytes, HY_ALIGNMENT - 1, &padded) ||
        !hy_add_size(begin, padded / HY_ALIGNMENT * HY_ALIGNMENT, &counter->bytes))
        counter->overflow = true;
    return begin;
}

/* Room for rows tokens of one cache. */
static struct hy_cache_place place_cache(const struct hy_state_layout *layout,
                                         struct counter *counter, size_t rows)
{
    struct hy_cache_place place;
    if (!hy_mul_size(rows, layout->k_row_bytes, &place.k_head_stride) ||
        !hy_mul_size(rows, layout->v_row_bytes, &place.v_head_stride))
        counter->overflow = true;
    place.k_offset = count(counter, place.k_head_stride, layout->n_kv_heads);
    place.v_offset = count(counter, place.v_head_stride, layout->n_kv_heads);
    return place;
}

static void copy_shape(const struct hy_plan *plan, const struct hy_layout_params *params,
                       struct hy_state_layout *layout)
{
    const struct hy_config *config = &plan->config;
    *layout = (struct hy_state_layout){
        .cache_type = params->cache_type,
        .state_type = params->state_type,
        .state_size = hy_dtype_size(params->state_type),
        .n_kv_heads = config->n_kv_heads,
        .k_row_bytes = hy_cache_row_bytes(params->cache_type, config->qk_head_size),
        .v_row_bytes = hy_cache_row_bytes(params->cache_type, config->v_head_size),
        .n_meta = config->n_meta_tokens,
        .window = config->window,
        .rewind_tokens = params->rewind_tokens,
        .ring_rows = config->window ? config->window + params->rewind_tokens : 0,
        .n_caches = plan->n_caches,
        .n_full_caches = plan->n_full_caches,
        .n_ssm_layers = plan->n_ssm_layers,
        .n_channels = config->inner_size,
        .conv_elements = (size_t)(config->conv_width - 1) * config->inner_size,
        .ssm_elements = (size_t)config->state_size * config->inner_size,
        .step_rows = params->step_rows,
    };
}

/* A recurrent state, wherever it lies. */
static void place_recurrent(struct hy_state_layout *layout)
{
    struct counter recurrent = {0};
    layout->conv_bytes = layout->n_ssm_layers * layout->conv_elements * layout->state_size;
    layout->ssm_bytes = layout->n_ssm_layers * layout->ssm_elements * layout->state_size;
    count(&recurrent, layout->conv_bytes, 1);
    layout->ssm_offset = count(&recurrent, layout->ssm_bytes, 1);
    layout->recurrent_bytes = recurrent.bytes;
}

hymba_status hy_layout_create(struct hy_memory *memory, const struct hy_plan *plan,
                              const struct hy_layout_params *params,
                              struct hy_state_layout *layout, hymba_error *error)
{
    struct counter fixed = {0}, block = {0}, meta = {0}, step = {0};
    copy_shape(plan, params, layout);
    layout->caches = hy_alloc_zero(memory, hy_max_size(plan->n_caches, 1),
                                   sizeof *layout->caches);
    if (!layout->caches)
        return hy_no_memory(error, plan->n_caches * sizeof *layout->caches, "the state layout");
    for (uint32_t i = 0; i < plan->n_caches; i++) {
        struct hy_cache_layout *cache = &layout->caches[i];
        cache->full = plan->caches[i].full;
        if (cache->full)
            cache->block = place_cache(layout, &block, HY_BLOCK_TOKENS);
        else
            cache->ring = place_cache(layout, &fixed, layout->ring_rows);
        cache->meta = place_cache(layout, &meta, (size_t)layout->n_meta);
        cache->step = place_cache(layout, &step, params->step_rows);
    }
    place_recurrent(layout);
    layout->ring_bytes = fixed.bytes;
    layout->meta_kv_bytes = meta.bytes;
    layout->block_bytes = block.bytes;
    layout->step_bytes = step.bytes;
    count(&meta, layout->recurrent_bytes, 1);
    count(&fixed, params->rewind_tokens, layout->recurrent_bytes);
    layout->history_bytes = fixed.bytes - layout->ring_bytes;
    count(&fixed, layout->recurrent_bytes, 1);
    layout->fixed_bytes = fixed.bytes;
    layout->meta_bytes = meta.bytes;
    if (!fixed.overflow && !block.overflow && !meta.overflow && !step.overflow)
        return HYMBA_OK;
    hy_layout_free(memory, layout);
    return hy_fail(error, HYMBA_ERROR_LIMIT,
                   "the caches of %u layers do not fit the address space", plan->config.n_layers);
}

void hy_layout_free(struct hy_memory *memory, struct hy_state_layout *layout)
{
    hy_free(memory, layout->caches);
    memset(layout, 0, sizeof *layout);
}

hymba_status hy_layout_memory(const struct hy_state_layout *layout, hymba_memory_info *info,
                              hymba_error *error)
{
    uint64_t blocks, bytes, total;
    uint64_t n = info->n_tokens;
    blocks = n / HY_BLOCK_TOKENS + (n % HY_BLOCK_TOKENS != 0);
    if (!hy_mul_u64(blocks, layout->block_bytes, &bytes) ||
        !hy_add_u64(bytes, layout->ring_bytes, &bytes) ||
        !hy_add_u64(bytes, layout->meta_kv_bytes, &total) ||
        !hy_add_u64(total, (1 + layout->rewind_tokens) * (layout->conv_bytes + layout->ssm_bytes),
                    &total))
        return hy_fail(error, HYMBA_ERROR_LIMIT, "a session's memory does not fit 64 bits");
    info->meta_bytes = layout->meta_kv_bytes;
    info->kv_bytes = bytes;
    info->conv_bytes = (1 + layout->rewind_tokens) * layout->conv_bytes;
    info->ssm_bytes = (1 + layout->rewind_tokens) * layout->ssm_bytes;
    info->total_bytes = total;
    return HYMBA_OK;
}

/* ------------------------------------------------------------------- bands */

size_t hy_layout_place_bytes(const struct hy_state_layout *layout, enum hy_state_place place)
{
    switch (place) {
    case HY_PLACE_RINGS:
        return layout->ring_bytes;
    case HY_PLACE_HISTORY:
        return layout->history_bytes;
    case HY_PLACE_RECURRENT:
        return layout->recurrent_bytes;
    case HY_PLACE_BLOCK:
        return layout->block_bytes;
    default:
        return layout->meta_bytes;
    }
}

size_t hy_layout_n_bands(const struct hy_state_layout *layout, enum hy_state_place place)
{
    size_t n_caches = layout->n_caches;
    switch (place) {
    case HY_PLACE_HISTORY:
        return 2 * layout->rewind_tokens;
    case HY_PLACE_RECURRENT:
        return 2;
    case HY_PLACE_META:
        return 2 * n_caches + 2;
    default:
        return 2 * n_caches;
    }
}

/* The convolution states (index 0) or the SSM states (1) of a recurrent state at offset. */
static struct hy_band recurrent_band(const struct hy_state_layout *layout, size_t offset,
                                     size_t index)
{
    size_t row_bytes = layout->n_channels * layout->state_size;
    size_t bytes = index == 0 ? layout->conv_bytes : layout->ssm_bytes;
    return (struct hy_band){
        .offset = offset + (index == 0 ? 0 : layout->ssm_offset),
        .row_bytes = row_bytes,
        .n_rows = row_bytes > 0 ? bytes / row_bytes : 0,
    };
}

/* A cache's keys (index 0) or values (1): one row, whose parts are heads. */
static struct hy_band cache_band(const struct hy_state_layout *layout,
                                 const struct hy_cache_place *place, size_t index)
{
    size_t stride = index == 0 ? place->k_head_stride : place->v_head_stride;
    return (struct hy_band){
        .offset = index == 0 ? place->k_offset : place->v_offset,
        .row_bytes = layout->n_kv_heads * stride,
        .n_rows = 1,
    };
}

struct hy_band hy_layout_band(const struct hy_state_layout *layout, enum hy_state_place place,
                              size_t index)
{
    size_t pair = index / 2;
    if (place == HY_PLACE_HISTORY)
        return recurrent_band(layout, pair * layout->recurrent_bytes, index % 2);
    if (place == HY_PLACE_RECURRENT || pair == layout->n_caches)
        return recurrent_band(layout, place == HY_PLACE_META ? layout->meta_kv_bytes : 0,
                              index % 2);
    const struct hy_cache_layout *cache = &layout->caches[pair];
    if (place == HY_PLACE_META)
        return cache_band(layout, &cache->meta, index % 2);
    return cache_band(layout, place == HY_PLACE_BLOCK ? &cache->block : &cache->ring, index % 2);
}
