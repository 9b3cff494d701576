#include "state/state.h"

#include <string.h>

#include "base/checked.h"

hymba_status hy_meta_state_create(struct hy_memory *memory, const struct hy_state_layout *layout,
                                  struct hy_meta_state *meta, hymba_error *error)
{
    meta->layout = layout;
    meta->data = hy_alloc_zero(memory, hy_max_size(layout->meta_bytes, 1), 1);
    if (!meta->data)
        return hy_no_memory(error, layout->meta_bytes, "the meta tokens' state");
    return HYMBA_OK;
}

void hy_meta_state_free(struct hy_memory *memory, struct hy_meta_state *meta)
{
    hy_free(memory, meta->data);
    meta->data = NULL;
}

void hy_state_begin_meta(struct hy_state *state, struct hy_meta_state *meta)
{
    *state = (struct hy_state){
        .layout = meta->layout,
        .meta = meta,
        .is_meta = true,
        .fixed = meta->data,
    };
    memset(meta->data, 0, meta->layout->meta_bytes);
}

/* The recurrent part stands last in both the fixed and the meta part. */
static unsigned char *recurrent_of(const struct hy_state *state)
{
    return state->fixed +
           (state->is_meta ? state->layout->meta_kv_bytes : state->layout->ring_bytes);
}

static size_t recurrent_bytes(const struct hy_state_layout *layout)
{
    return layout->fixed_bytes - layout->ring_bytes;
}

void hy_state_reset(struct hy_state *state)
{
    const struct hy_state_layout *layout = state->layout;
    memcpy(recurrent_of(state), state->meta->data + layout->meta_kv_bytes,
           recurrent_bytes(layout));
    state->position = layout->n_meta;
}

hymba_status hy_state_create(struct hy_memory *memory, struct hy_meta_state *meta,
                             struct hy_state *state, hymba_error *error)
{
    *state = (struct hy_state){.layout = meta->layout, .memory = memory, .meta = meta};
    state->fixed = hy_alloc(memory, meta->layout->fixed_bytes);
    if (!state->fixed)
        return hy_no_memory(error, meta->layout->fixed_bytes, "a session's state");
    hy_state_reset(state);
    return HYMBA_OK;
}

void hy_state_free(struct hy_state *state)
{
    for (size_t i = 0; i < state->n_blocks; i++)
        hy_free(state->memory, state->blocks[i]);
    hy_free(state->memory, state->blocks);
    hy_free(state->memory, state->fixed);
    memset(state, 0, sizeof *state);
}

static hymba_status grow_block_list(struct hy_state *state, size_t n_blocks, hymba_error *error)
{
    if (n_blocks <= state->block_capacity)
        return HYMBA_OK;
    size_t capacity = hy_max_size(n_blocks, 2 * state->block_capacity), bytes;
    unsigned char **blocks = NULL;
    if (!hy_mul_size(capacity, sizeof *blocks, &bytes) ||
        !(blocks = hy_realloc(state->memory, state->blocks, bytes)))
        return hy_no_memory(error, capacity * sizeof *blocks, "a session's block list");
    state->blocks = blocks;
    state->block_capacity = capacity;
    return HYMBA_OK;
}

hymba_status hy_state_reserve(struct hy_state *state, uint64_t n_tokens, hymba_error *error)
{
    size_t block_bytes = state->layout->block_bytes;
    if (block_bytes == 0 || n_tokens == 0)
        return HYMBA_OK;
    uint64_t n_blocks = (n_tokens - 1) / HY_BLOCK_TOKENS + 1;
    if (n_blocks > SIZE_MAX / block_bytes)
        return hy_fail(error, HYMBA_ERROR_LIMIT,
                       "the caches of %llu tokens do not fit the address space",
                       (unsigned long long)n_tokens);
    hymba_status status = grow_block_list(state, (size_t)n_blocks, error);
    while (status == HYMBA_OK && state->n_blocks < n_blocks) {
        unsigned char *block = hy_alloc(state->memory, block_bytes);
        if (!block)
            return hy_no_memory(error, block_bytes, "a block of keys and values");
        state->blocks[state->n_blocks++] = block;
    }
    return status;
}

size_t hy_state_max_spans(const struct hy_state *state)
{
    return state->n_blocks + 4; /* meta, two of a ring, the step's */
}

static struct hy_span make_span(const struct hy_state_layout *layout,
                                const struct hy_cache_place *place, const unsigned char *data,
                                size_t row, size_t count, uint64_t position, bool pinned)
{
    return (struct hy_span){
        .k = data + place->k_offset + row * layout->qk_size * layout->cache_size,
        .v = data + place->v_offset + row * layout->v_size * layout->cache_size,
        .k_head_stride = place->k_head_stride,
        .v_head_stride = place->v_head_stride,
        .position = position,
        .count = count,
        .pinned = pinned,
    };
}

struct hy_span hy_step_span(const struct hy_state_layout *layout, const unsigned char *step,
                            uint32_t cache, size_t row, size_t n_rows, uint64_t position,
                            bool pinned)
{
    return make_span(layout, &layout->caches[cache].step, step, row, n_rows, position, pinned);
}

static size_t block_spans(const struct hy_state *state, const struct hy_cache_layout *cache,
                          uint64_t first, struct hy_span *spans)
{
    size_t n = 0;
    uint64_t n_meta = state->layout->n_meta;
    uint64_t end = state->position - n_meta; /* tokens stored */
    uint64_t index = (first - n_meta) / HY_BLOCK_TOKENS;
    for (; index * HY_BLOCK_TOKENS < end; index++) {
        uint64_t begin = index * HY_BLOCK_TOKENS;
        size_t count = (size_t)(end - begin < HY_BLOCK_TOKENS ? end - begin : HY_BLOCK_TOKENS);
        spans[n++] = make_span(state->layout, &cache->block, state->blocks[index], 0, count,
                               n_meta + begin, false);
    }
    return n;
}

/* The ring's slot of a token is its number modulo W: the older part begins at the next slot. */
static size_t ring_spans(const struct hy_state *state, const struct hy_cache_layout *cache,
                         struct hy_span *spans)
{
    uint64_t window = state->layout->window, n_meta = state->layout->n_meta;
    uint64_t stored = state->position - n_meta;
    if (stored == 0)
        return 0;
    if (stored <= window) {
        spans[0] = make_span(state->layout, &cache->ring, state->fixed, 0, (size_t)stored, n_meta,
                             false);
        return 1;
    }
    size_t slot = (size_t)(stored % window), n = 0;
    uint64_t oldest = state->position - window;
    spans[n++] = make_span(state->layout, &cache->ring, state->fixed, slot, (size_t)window - slot,
                           oldest, false);
    if (slot > 0)
        spans[n++] = make_span(state->layout, &cache->ring, state->fixed, 0, slot,
                               oldest + (window - slot), false);
    return n;
}

size_t hy_state_spans(const struct hy_state *state, uint32_t cache_index, uint64_t window,
                      struct hy_span *spans)
{
    const struct hy_state_layout *layout = state->layout;
    const struct hy_cache_layout *cache = &layout->caches[cache_index];
    size_t n = 0;
    uint64_t n_meta = layout->n_meta;
    uint64_t pinned = state->position < n_meta ? state->position : n_meta;
    if (pinned > 0)
        spans[n++] = make_span(layout, &cache->meta, state->meta->data, 0, (size_t)pinned, 0,
                               true);
    if (state->position <= n_meta)
        return n;
    if (!cache->full)
        return n + ring_spans(state, cache, spans + n);
    uint64_t first = state->position > window ? state->position - window : 0;
    return n + block_spans(state, cache, first > n_meta ? first : n_meta, spans + n);
}

/* Copies n_rows rows of every head of a cache between two places. */
static void copy_rows(const struct hy_state_layout *layout, const struct hy_cache_place *from,
                      const unsigned char *source, size_t source_row,
                      const struct hy_cache_place *to, unsigned char *target, size_t target_row,
                      size_t n_rows)
{
    size_t k_row = layout->qk_size * layout->cache_size;
    size_t v_row = layout->v_size * layout->cache_size;
    for (size_t head = 0; head < layout->n_kv_heads; head++) {
        memcpy(target + to->k_offset + head * to->k_head_stride * layout->cache_size +
                   target_row * k_row,
               source + from->k_offset + head * from->k_head_stride * layout->cache_size +
                   source_row * k_row,
               n_rows * k_row);
        memcpy(target + to->v_offset + head * to->v_head_stride * layout->cache_size +
                   target_row * v_row,
               source + from->v_offset + head * from->v_head_stride * layout->cache_size +
                   source_row * v_row,
               n_rows * v_row);
    }
}

static void append_to_ring(struct hy_state *state, const struct hy_cache_layout *cache,
                           const unsigned char *step, size_t row, size_t n_rows)
{
    size_t window = (size_t)state->layout->window;
    uint64_t first = state->position - state->layout->n_meta;
    if (n_rows > window) { /* only the last W rows are ever read again */
        row += n_rows - window;
        first += n_rows - window;
        n_rows = window;
    }
    size_t slot = (size_t)(first % window);
    size_t before_wrap = hy_min_size(n_rows, window - slot);
    copy_rows(state->layout, &cache->step, step, row, &cache->ring, state->fixed, slot,
              before_wrap);
    if (n_rows > before_wrap)
        copy_rows(state->layout, &cache->step, step, row + before_wrap, &cache->ring,
                  state->fixed, 0, n_rows - before_wrap);
}

static void append_to_blocks(struct hy_state *state, const struct hy_cache_layout *cache,
                             const unsigned char *step, size_t row, size_t n_rows)
{
    uint64_t token = state->position - state->layout->n_meta;
    while (n_rows > 0) {
        size_t inside = (size_t)(token % HY_BLOCK_TOKENS);
        size_t count = hy_min_size(n_rows, HY_BLOCK_TOKENS - inside);
        copy_rows(state->layout, &cache->step, step, row, &cache->block,
                  state->blocks[token / HY_BLOCK_TOKENS], inside, count);
        row += count;
        token += count;
        n_rows -= count;
    }
}

void hy_state_append(struct hy_state *state, const unsigned char *step, size_t row, size_t n_rows)
{
    const struct hy_state_layout *layout = state->layout;
    for (uint32_t i = 0; i < layout->n_caches; i++) {
        const struct hy_cache_layout *cache = &layout->caches[i];
        if (state->is_meta)
            copy_rows(layout, &cache->step, step, row, &cache->meta, state->meta->data,
                      (size_t)state->position, n_rows);
        else if (cache->full)
            append_to_blocks(state, cache, step, row, n_rows);
        else
            append_to_ring(state, cache, step, row, n_rows);
    }
    state->position += n_rows;
}

void hy_state_load_recurrent(const struct hy_state *state, float *working)
{
    const struct hy_state_layout *layout = state->layout;
    const unsigned char *recurrent = recurrent_of(state);
    size_t conv = layout->n_ssm_layers * layout->conv_elements;
    size_t ssm = layout->n_ssm_layers * layout->ssm_elements;
    size_t ssm_offset = (layout->conv_bytes + HY_ALIGNMENT - 1) / HY_ALIGNMENT * HY_ALIGNMENT;
    hy_row_to_f32(recurrent, layout->state_type, working, conv);
    hy_row_to_f32(recurrent + ssm_offset, layout->state_type, working + conv, ssm);
}

void hy_state_store_recurrent(struct hy_state *state, const float *working)
{
    const struct hy_state_layout *layout = state->layout;
    unsigned char *recurrent = recurrent_of(state);
    size_t conv = layout->n_ssm_layers * layout->conv_elements;
    size_t ssm = layout->n_ssm_layers * layout->ssm_elements;
    size_t ssm_offset = (layout->conv_bytes + HY_ALIGNMENT - 1) / HY_ALIGNMENT * HY_ALIGNMENT;
    hy_row_from_f32(working, layout->state_type, recurrent, conv);
    hy_row_from_f32(working + conv, layout->state_type, recurrent + ssm_offset, ssm);
}

size_t hy_state_undo_bytes(const struct hy_state *state)
{
    /* A ring nothing has been written to holds nothing worth keeping. */
    return state->is_meta || state->position <= state->layout->n_meta ? 0
                                                                      : state->layout->ring_bytes;
}

void hy_state_save_undo(const struct hy_state *state, unsigned char *undo)
{
    memcpy(undo, state->fixed, hy_state_undo_bytes(state));
}

void hy_state_restore_undo(struct hy_state *state, const unsigned char *undo, uint64_t position)
{
    state->position = position;
    memcpy(state->fixed, undo, hy_state_undo_bytes(state));
}
