#include "naive_state.h"

#include <stdlib.h>
#include <string.h>

#include "support.h"
#include "tensor/dtype.h"

static uint32_t mix(uint32_t a, uint32_t b)
{
    uint32_t x = (a ^ b * 2654435761u) * 2246822519u;
    return (x ^ x >> 15) * 3266489917u + b;
}

/* The bytes of one head's key (kind 0) or value (kind 1). */
static void make_row(uint32_t cache, uint32_t kind, uint32_t head, uint64_t position,
                     uint32_t stamp, unsigned char *row, size_t size)
{
    uint32_t x = mix(mix(mix(cache, kind), head), mix((uint32_t)position, stamp));
    for (size_t i = 0; i < size; i++) {
        x = x * 1664525u + 1013904223u;
        row[i] = (unsigned char)(x >> 24);
    }
}

static size_t row_bytes(const struct hy_state_layout *layout, uint32_t kind)
{
    return kind ? layout->v_row_bytes : layout->k_row_bytes;
}

static const unsigned char *head_row(const struct hy_state_layout *layout,
                                     const struct hy_span *span, uint32_t kind, size_t head,
                                     size_t row)
{
    size_t stride = kind ? span->v_head_stride : span->k_head_stride;
    const unsigned char *data = kind ? span->v : span->k;
    return data + head * stride + row * row_bytes(layout, kind);
}

static void check_span(const struct hy_state_layout *layout, const struct hy_span *span,
                       uint32_t cache, const uint32_t *stamps)
{
    unsigned char expected[LARGEST_ROW];
    for (size_t i = 0; i < span->count; i++) {
        uint64_t position = span->position + i;
        for (uint32_t kind = 0; kind < 2; kind++) {
            size_t size = row_bytes(layout, kind);
            for (uint32_t head = 0; head < layout->n_kv_heads; head++) {
                make_row(cache, kind, head, position, stamps[position], expected, size);
                if (memcmp(head_row(layout, span, kind, head, i), expected, size) != 0)
                    ck_abort_msg("cache %u, head %u: wrong %s at position %llu", cache, head,
                                 kind ? "value" : "key", (unsigned long long)position);
            }
        }
    }
}

void naive_fill_step(struct world *world, size_t row, size_t n_rows, uint64_t position,
                     const uint32_t *stamps)
{
    const struct hy_state_layout *layout = &world->layout;
    for (uint32_t cache = 0; cache < layout->n_caches; cache++) {
        struct hy_span span =
            hy_step_span(layout, world->step, cache, row, n_rows, position, false);
        for (size_t i = 0; i < n_rows; i++)
            for (uint32_t kind = 0; kind < 2; kind++)
                for (uint32_t head = 0; head < layout->n_kv_heads; head++)
                    make_row(cache, kind, head, position + i, stamps[position + i],
                             (unsigned char *)head_row(layout, &span, kind, head, i),
                             row_bytes(layout, kind));
        check_span(layout, &span, cache, stamps);
    }
}

void naive_fill_working(const struct world *world, uint32_t stamp)
{
    size_t n = hy_layout_recurrent_floats(&world->layout);
    for (size_t i = 0; i < n; i++)
        world->working[i] = (float)(mix((uint32_t)i, stamp) % 2001) / 1000.0f - 1.0f;
}

static float stored_value(hymba_dtype dtype, float value)
{
    unsigned char bytes[4];
    hy_row_from_f32(&value, dtype, bytes, 1);
    return hy_load_element(bytes, dtype, 0);
}

void naive_check_recurrent(const struct world *world, const struct hy_state *state,
                           uint32_t stamp)
{
    size_t n = hy_layout_recurrent_floats(&world->layout);
    float *found = malloc((n + 1) * sizeof *found);
    hy_state_load_recurrent(state, found);
    naive_fill_working(world, stamp);
    for (size_t i = 0; i < n; i++)
        if (found[i] != stored_value(world->layout.state_type, world->working[i]))
            ck_abort_msg("recurrent element %zu of %zu is %g", i, n, (double)found[i]);
    free(found);
}

/* Oldest position among those a cache lists for a query at the present position. */
static uint64_t first_listed(const struct world *world, const struct expected *expected,
                             bool full, uint64_t window)
{
    uint64_t n_meta = world->layout.n_meta;
    if (window > expected->full_window && full)
        window = expected->full_window;
    uint64_t first = expected->position > window ? expected->position - window : 0;
    if (first < n_meta)
        first = n_meta;
    /* Blocks are listed whole: the kernels skip what lies before the window. */
    return full ? n_meta + (first - n_meta) / HY_BLOCK_TOKENS * HY_BLOCK_TOKENS : first;
}

void naive_check_cache(const struct world *world, const struct slot *slot, uint32_t cache,
                       uint64_t window)
{
    const struct hy_state *state = &slot->state;
    const struct expected *expected = &slot->expected;
    uint64_t n_meta = world->layout.n_meta;
    bool full = world->layout.caches[cache].full;
    size_t capacity = hy_state_max_spans(state);
    struct hy_span *spans = malloc(capacity * sizeof *spans);
    size_t n = hy_state_spans(state, cache, window, spans);
    uint64_t next = 0;
    ck_assert_uint_lt(n, capacity); /* one is for the step's own */
    for (size_t i = 0; i < n; i++) {
        ck_assert_uint_gt(spans[i].count, 0);
        ck_assert_int_eq(spans[i].pinned, spans[i].position < n_meta);
        if (next == n_meta && expected->position > n_meta)
            next = first_listed(world, expected, full, window);
        ck_assert_msg(spans[i].position == next, "cache %u: span %zu of %zu at %llu, not %llu",
                      cache, i, n, (unsigned long long)spans[i].position,
                      (unsigned long long)next);
        next += spans[i].count;
        ck_assert(!spans[i].pinned || next <= n_meta);
        check_span(&world->layout, &spans[i], cache, expected->stamps);
    }
    ck_assert_msg(next == expected->position, "cache %u ends at %llu, not %llu", cache,
                  (unsigned long long)next, (unsigned long long)expected->position);
    free(spans);
}

bool naive_can_step_back(const struct world *world, const struct expected *expected,
                         uint64_t position)
{
    const struct hy_state_layout *layout = &world->layout;
    size_t rewind = layout->rewind_tokens;
    uint64_t n_meta = layout->n_meta;
    if (rewind == 0 || position < n_meta || position >= expected->position ||
        expected->kept_position[position % rewind] != position)
        return false;
    for (uint64_t p = position;
         layout->ring_bytes > 0 && p-- > n_meta && position - p <= layout->window;)
        if (expected->ring[(p - n_meta) % layout->ring_rows] != p)
            return false;
    if (layout->block_bytes == 0 || position == n_meta)
        return true;
    uint64_t first = position - n_meta > expected->full_window
                         ? position - n_meta - expected->full_window
                         : 0;
    return expected->full_window == 0 || first / HY_BLOCK_TOKENS >= expected->first_block;
}

void naive_check_slot(const struct world *world, const struct slot *slot)
{
    const struct hy_state_layout *layout = &world->layout;
    const struct expected *expected = &slot->expected;
    ck_assert_uint_eq(slot->state.position, expected->position);
    for (uint32_t cache = 0; cache < layout->n_caches; cache++) {
        if (layout->caches[cache].full)
            naive_check_cache(world, slot, cache, UINT64_MAX);
        if (layout->window)
            naive_check_cache(world, slot, cache, layout->window);
    }
    naive_check_recurrent(world, &slot->state, expected->recurrent);
    uint64_t position = expected->position > 40 ? expected->position - 40 : 0;
    for (; position <= expected->position + 1; position++)
        if (hy_state_can_step_back(&slot->state, position) !=
            naive_can_step_back(world, expected, position))
            ck_abort_msg("stepping from %llu back to %llu", (unsigned long long)expected->position,
                         (unsigned long long)position);
}
