/* Where the rows of keys and values lie: spans to read them, appending to write them. */
#include "state/state.h"

#include <string.h>

#include "base/checked.h"

size_t hy_state_max_spans(const struct hy_state *state)
{
    return state->n_blocks + 4; /* meta, two of a ring, the step's */
}

static struct hy_span make_span(const struct hy_state_layout *layout,
                                const struct hy_cache_place *place, const unsigned char *data,
                                size_t row, size_t count, uint64_t position, bool pinned)
{
    return (struct hy_span){
        .k = data + place->k_offset + row * layout->k_row_bytes,
        .v = data + place->v_offset + row * layout->v_row_bytes,
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
    uint64_t end = hy_state_length(state);
    uint64_t index = (first - n_meta) / HY_BLOCK_TOKENS;
    if (index < state->first_block)
        index = state->first_block;
    for (; index * HY_BLOCK_TOKENS < end; index++) {
        uint64_t begin = index * HY_BLOCK_TOKENS;
        size_t count = (size_t)(end - begin < HY_BLOCK_TOKENS ? end - begin : HY_BLOCK_TOKENS);
        spans[n++] = make_span(state->layout, &cache->block,
                               state->blocks[index - state->first_block]->data, 0, count,
                               n_meta + begin, false);
    }
    return n;
}

/* A token's row in a ring is its number modulo the ring's rows. */
static size_t ring_spans(const struct hy_state *state, const struct hy_cache_layout *cache,
                         struct hy_span *spans)
{
    size_t rows = state->layout->ring_rows;
    uint64_t stored = hy_state_length(state);
    size_t count = (size_t)(stored < state->layout->window ? stored : state->layout->window);
    if (count == 0)
        return 0;
    size_t row = (size_t)((stored - count) % rows);
    size_t before_wrap = hy_min_size(count, rows - row);
    uint64_t position = state->position - count;
    spans[0] = make_span(state->layout, &cache->ring, state->fixed, row, before_wrap, position,
                         false);
    if (before_wrap == count)
        return 1;
    spans[1] = make_span(state->layout, &cache->ring, state->fixed, 0, count - before_wrap,
                         position + before_wrap, false);
    return 2;
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
    if (window > state->full_window)
        window = state->full_window;
    uint64_t first = state->position > window ? state->position - window : 0;
    return n + block_spans(state, cache, first > n_meta ? first : n_meta, spans + n);
}

/* Copies n_rows rows of every head of a cache between two places. */
static void copy_rows(const struct hy_state *state, const struct hy_cache_place *from,
                      const unsigned char *source, size_t source_row,
                      const struct hy_cache_place *to, unsigned char *target, size_t target_row,
                      size_t n_rows)
{
    const struct hy_state_layout *layout = state->layout;
    size_t k_row = layout->k_row_bytes, v_row = layout->v_row_bytes;
    hy_store_copy_rows(state->meta->plugin, target + to->k_offset + target_row * k_row,
                       to->k_head_stride, source + from->k_offset + source_row * k_row,
                       from->k_head_stride, n_rows * k_row, layout->n_kv_heads);
    hy_store_copy_rows(state->meta->plugin, target + to->v_offset + target_row * v_row,
                       to->v_head_stride, source + from->v_offset + source_row * v_row,
                       from->v_head_stride, n_rows * v_row, layout->n_kv_heads);
}

static void append_to_ring(struct hy_state *state, const struct hy_cache_layout *cache,
                           const unsigned char *step, size_t row, size_t n_rows)
{
    size_t rows = state->layout->ring_rows;
    uint64_t first = hy_state_length(state);
    if (n_rows > rows) { /* only the last rows are ever read again */
        row += n_rows - rows;
        first += n_rows - rows;
        n_rows = rows;
    }
    size_t slot = (size_t)(first % rows);
    size_t before_wrap = hy_min_size(n_rows, rows - slot);
    copy_rows(state, &cache->step, step, row, &cache->ring, state->fixed, slot,
              before_wrap);
    if (n_rows > before_wrap)
        copy_rows(state, &cache->step, step, row + before_wrap, &cache->ring,
                  state->fixed, 0, n_rows - before_wrap);
}

static void append_to_blocks(struct hy_state *state, const struct hy_cache_layout *cache,
                             const unsigned char *step, size_t row, size_t n_rows)
{
    uint64_t token = hy_state_length(state);
    while (n_rows > 0) {
        size_t inside = (size_t)(token % HY_BLOCK_TOKENS);
        size_t count = hy_min_size(n_rows, HY_BLOCK_TOKENS - inside);
        copy_rows(state, &cache->step, step, row, &cache->block,
                  state->blocks[token / HY_BLOCK_TOKENS - state->first_block]->data, inside,
                  count);
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
            copy_rows(state, &cache->step, step, row, &cache->meta, state->meta->data,
                      (size_t)state->position, n_rows);
        else if (cache->full)
            append_to_blocks(state, cache, step, row, n_rows);
        else
            append_to_ring(state, cache, step, row, n_rows);
    }
    state->position += n_rows;
    if (state->position - state->ring_first > layout->ring_rows)
        state->ring_first = state->position - layout->ring_rows;
}
