/*
 * The memory of sequences against a naive model of it: for every sequence a plain list of what was
 * written at each position. Random appends, copies, returns and steps back; after each, the spans
 * must list what a query may see, in order, with the bytes that were written there.
 */
#include "state/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "host.h"
#include "tensor/dtype.h"

enum { MAX_POSITIONS = 1000, N_SLOTS = 4, MAX_REWIND = 12, MAX_CACHES = 8, STEP_ROWS = 500,
       LARGEST_ROW = 256 };

static struct test_host host;
static struct hy_memory memory, block_memory;
static hymba_error error;

static void setup(void)
{
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    test_status(hy_memory_init(&memory, &host.host, &error), HYMBA_OK, error);
    hy_memory_inherit(&block_memory, &memory);
}

static void teardown(void)
{
    test_host_check(&host);
}

/* ------------------------------------------------------------------- plans */

/* Sizes of a small model; window 0: none. */
struct shape {
    unsigned n_layers, n_kv_heads, queries_per_kv, qk_size, v_factor, n_meta, window;
    unsigned state_size, conv_width;
    const char *full, *groups, *plan;
};

static void create_plan(const struct shape *shape, struct hy_plan *plan)
{
    struct hy_config config;
    char text[1500], window[16] = "null";
    unsigned n_heads = shape->n_kv_heads * shape->queries_per_kv;
    if (shape->window)
        snprintf(window, sizeof window, "%u", shape->window);
    snprintf(text, sizeof text,
             "{\"model_type\":\"hymba\",\"vocab_size\":50,\"hidden_size\":%u,"
             "\"intermediate_size\":9,\"num_hidden_layers\":%u,\"num_attention_heads\":%u,"
             "\"num_key_value_heads\":%u,\"num_memory_tokens\":%u,\"sliding_window\":%s,"
             "\"global_attn_idx\":%s,\"kv_reuse_group\":%s,\"rms_norm_eps\":1e-6,\"rope\":false,"
             "\"tie_word_embeddings\":true,\"mamba_d_state\":%u,\"mamba_d_conv\":%u,"
             "\"mamba_dt_rank\":1,\"mamba_expand\":%u,\"layer_plan\":%s}",
             n_heads * shape->qk_size, shape->n_layers, n_heads, shape->n_kv_heads, shape->n_meta,
             window, shape->full, shape->groups, shape->state_size, shape->conv_width,
             shape->v_factor, shape->plan);
    test_status(hy_config_parse(&memory, text, strlen(text), "config.json", &config, &error),
                HYMBA_OK, error);
    test_status(hy_plan_create(&memory, &config, plan, &error), HYMBA_OK, error);
}

static void create_preset_plan(const char *name, struct hy_plan *plan)
{
    struct hy_config config;
    char *text;
    size_t length;
    test_status(hy_preset_config(&memory, name, &text, &length, &error), HYMBA_OK, error);
    test_status(hy_config_parse(&memory, text, length, name, &config, &error), HYMBA_OK, error);
    test_status(hy_plan_create(&memory, &config, plan, &error), HYMBA_OK, error);
    hy_free(&memory, text);
}

/* --------------------------------------------------------- the naive model */

/* A sequence as it should be. */
struct expected {
    uint64_t position, full_window, first_block;
    uint32_t stamps[MAX_POSITIONS];   /* what was written at each position */
    uint64_t ring[MAX_POSITIONS];     /* which position each row of the rings holds */
    uint32_t recurrent;               /* stamp of the present recurrent state */
    uint64_t kept_position[MAX_REWIND];
    uint32_t kept_stamp[MAX_REWIND];
};

struct slot {
    bool used;
    struct hy_state state;
    struct expected expected;
};

struct world {
    struct hy_plan plan;
    struct hy_state_layout layout;
    struct hy_meta_state *meta;
    unsigned char *step;
    float *working;
    uint32_t next_stamp;
    struct slot slots[N_SLOTS];
};

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

/* The rows of a step, as the forward pass would have written them. */
static void fill_step(struct world *world, size_t row, size_t n_rows, uint64_t position,
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

static void fill_working(const struct world *world, uint32_t stamp)
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

static void check_recurrent(const struct world *world, const struct hy_state *state,
                            uint32_t stamp)
{
    size_t n = hy_layout_recurrent_floats(&world->layout);
    float *found = malloc((n + 1) * sizeof *found);
    hy_state_load_recurrent(state, found);
    fill_working(world, stamp);
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

static void check_cache(const struct world *world, const struct slot *slot, uint32_t cache,
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

static bool can_step_back(const struct world *world, const struct expected *expected,
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

static void check_slot(const struct world *world, const struct slot *slot)
{
    const struct hy_state_layout *layout = &world->layout;
    const struct expected *expected = &slot->expected;
    ck_assert_uint_eq(slot->state.position, expected->position);
    for (uint32_t cache = 0; cache < layout->n_caches; cache++) {
        if (layout->caches[cache].full)
            check_cache(world, slot, cache, UINT64_MAX);
        if (layout->window)
            check_cache(world, slot, cache, layout->window);
    }
    check_recurrent(world, &slot->state, expected->recurrent);
    uint64_t position = expected->position > 40 ? expected->position - 40 : 0;
    for (; position <= expected->position + 1; position++)
        ck_assert_msg(hy_state_can_step_back(&slot->state, position) ==
                          can_step_back(world, expected, position),
                      "stepping from %llu back to %llu", (unsigned long long)expected->position,
                      (unsigned long long)position);
}

/* -------------------------------------------------------------- operations */

static void mark_written(const struct world *world, struct expected *expected, uint64_t position,
                         uint32_t stamp)
{
    ck_assert_uint_lt(position, MAX_POSITIONS);
    expected->stamps[position] = stamp;
    if (position >= world->layout.n_meta && world->layout.ring_rows > 0)
        expected->ring[(position - world->layout.n_meta) % world->layout.ring_rows] = position;
}

/* Puts a block of this test's in the place of the recurrent state, as a step on a device does. */
static void exchange_recurrent(const struct world *world, struct hy_state *state)
{
    size_t bytes = world->layout.recurrent_bytes;
    unsigned char *other = hy_store_alloc_zero(state->memory, NULL, bytes);
    ck_assert_ptr_nonnull(other);
    hy_store_free(state->memory, NULL, hy_state_exchange_recurrent(state, other), bytes);
}

static void append(struct world *world, struct slot *slot, size_t n_rows)
{
    struct expected *expected = &slot->expected;
    size_t row = test_random_below(world->layout.step_rows - n_rows + 1);
    for (size_t i = 0; i < n_rows; i++)
        mark_written(world, expected, expected->position + i, world->next_stamp++);
    fill_step(world, row, n_rows, expected->position, expected->stamps);
    if (!slot->state.is_meta)
        test_status(hy_state_claim(&slot->state, n_rows, &error), HYMBA_OK, error);
    hy_state_append(&slot->state, world->step, row, n_rows);
    expected->position += n_rows;
    expected->recurrent = world->next_stamp++;
    fill_working(world, expected->recurrent);
    if (!slot->state.is_meta && test_random() < 0.3)
        exchange_recurrent(world, &slot->state);
    hy_state_store_recurrent(&slot->state, world->working);
}

static void append_randomly(struct world *world, struct slot *slot)
{
    size_t largest = world->layout.window ? 3 * (size_t)world->layout.window : 300;
    size_t room = MAX_POSITIONS - 1 - (size_t)slot->expected.position;
    largest = hy_min_size(hy_min_size(largest, room), world->layout.step_rows);
    if (largest > 0)
        append(world, slot, 1 + test_random_below(largest));
}

/* Keeps the present state, then goes on by a token: as a decode step does. */
static void keep_and_append(struct world *world, struct slot *slot)
{
    struct expected *expected = &slot->expected;
    size_t rewind = world->layout.rewind_tokens;
    for (size_t i = 0; i < rewind + 2 && expected->position + 1 < MAX_POSITIONS; i++) {
        if (rewind > 0 && test_random() < 0.9) {
            uint64_t position = expected->position;
            if (test_random() < 0.5) {
                hy_state_keep_present(&slot->state, position);
            } else {
                fill_working(world, expected->recurrent);
                hy_state_keep(&slot->state, position, world->working);
            }
            expected->kept_position[position % rewind] = position;
            expected->kept_stamp[position % rewind] = expected->recurrent;
        }
        append(world, slot, 1);
    }
}

static void forget_kept(struct expected *expected, uint64_t from)
{
    for (int i = 0; i < MAX_REWIND; i++)
        if (expected->kept_position[i] >= from)
            expected->kept_position[i] = UINT64_MAX;
}

static void step_back(struct world *world, struct slot *slot)
{
    struct expected *expected = &slot->expected;
    size_t rewind = world->layout.rewind_tokens;
    uint64_t position = expected->position - hy_min_size((size_t)expected->position,
                                                         1 + test_random_below(MAX_REWIND));
    if (!can_step_back(world, expected, position))
        return;
    hy_state_step_back(&slot->state, position);
    expected->position = position;
    expected->recurrent = expected->kept_stamp[position % rewind];
    forget_kept(expected, position);
}

/* A call of several steps that fails: as if it had not been. */
static void append_and_undo(struct world *world, struct slot *slot)
{
    struct expected before = slot->expected;
    uint64_t ring_first = slot->state.ring_first;
    size_t bytes = hy_state_undo_bytes(&slot->state);
    unsigned char *undo = malloc(bytes + 1);
    hy_state_save_undo(&slot->state, undo);
    for (int i = 0; i < 3; i++) {
        append_randomly(world, slot);
        if (world->layout.rewind_tokens > 0) {
            uint64_t position = slot->expected.position;
            hy_state_keep_present(&slot->state, position); /* takes the place of another */
            before.kept_position[position % world->layout.rewind_tokens] = UINT64_MAX;
        }
    }
    hy_state_restore_undo(&slot->state, undo, before.position, ring_first);
    fill_working(world, before.recurrent); /* stored only when a call succeeds */
    hy_state_store_recurrent(&slot->state, world->working);
    if (bytes == 0)
        memcpy(before.ring, slot->expected.ring, sizeof before.ring);
    slot->expected = before;
    free(undo);
}

static void reset(struct world *world, struct slot *slot, uint32_t meta_recurrent)
{
    struct expected *expected = &slot->expected;
    hy_state_reset(&slot->state);
    expected->position = world->layout.n_meta;
    expected->first_block = 0;
    expected->recurrent = meta_recurrent;
    forget_kept(expected, 0);
}

static void slide(struct world *world, struct slot *slot)
{
    struct expected *expected = &slot->expected;
    uint64_t length = expected->position - world->layout.n_meta;
    if (expected->full_window == UINT64_MAX)
        expected->full_window = slot->state.full_window = 1 + test_random_below(600);
    hy_state_drop_unseen(&slot->state);
    if (world->layout.block_bytes > 0 && length > expected->full_window) {
        uint64_t first = (length - expected->full_window) / HY_BLOCK_TOKENS;
        if (first > expected->first_block)
            expected->first_block = first;
    }
    ck_assert_uint_eq(slot->state.first_block, expected->first_block);
}

static void copy(struct world *world, struct slot *from, struct slot *to)
{
    bool kept = test_random() < 0.5;
    if (to->used)
        hy_state_free(&to->state);
    test_status(hy_state_copy(&from->state, &memory, kept, &to->state, &error), HYMBA_OK, error);
    to->used = true;
    to->expected = from->expected;
    if (!kept)
        forget_kept(&to->expected, 0);
    check_slot(world, to);
}

static void return_to(struct slot *slot, const struct slot *saved)
{
    test_status(hy_state_return_to(&slot->state, &saved->state, &error), HYMBA_OK, error);
    slot->expected = saved->expected;
    forget_kept(&slot->expected, 0);
}

/* ------------------------------------------------------------------ worlds */

static void run_meta(struct world *world, struct expected *after)
{
    struct slot slot = {.used = true};
    memset(after, 0, sizeof *after);
    memset(after->ring, 0xff, sizeof after->ring);
    after->full_window = UINT64_MAX;
    forget_kept(after, 0);
    hy_state_begin_meta(&slot.state, world->meta);
    slot.expected = *after;
    fill_working(world, slot.expected.recurrent = world->next_stamp++);
    hy_state_store_recurrent(&slot.state, world->working);
    while (slot.expected.position < world->layout.n_meta) {
        size_t left = (size_t)(world->layout.n_meta - slot.expected.position);
        append(world, &slot, 1 + test_random_below(left));
        ck_assert_uint_eq(slot.state.position, slot.expected.position);
        for (uint32_t cache = 0; cache < world->layout.n_caches; cache++)
            check_cache(world, &slot, cache, UINT64_MAX);
        check_recurrent(world, &slot.state, slot.expected.recurrent);
    }
    ck_assert_uint_eq(hy_state_undo_bytes(&slot.state), 0);
    *after = slot.expected;
}

static void open_world(struct world *world, const struct shape *shape,
                       const struct hy_layout_params *params)
{
    memset(world, 0, sizeof *world);
    create_plan(shape, &world->plan);
    test_status(hy_layout_create(&memory, &world->plan, params, &world->layout, &error), HYMBA_OK,
                error);
    test_status(hy_meta_state_create(&memory, NULL, &world->layout, &world->meta, &error), HYMBA_OK,
                error);
    world->step = malloc(world->layout.step_bytes + 1);
    world->working =
        malloc((hy_layout_recurrent_floats(&world->layout) + 1) * sizeof *world->working);
    ck_assert_uint_le(world->layout.rewind_tokens, MAX_REWIND);
    ck_assert_uint_le(world->layout.k_row_bytes + world->layout.v_row_bytes, LARGEST_ROW);
}

static void close_world(struct world *world)
{
    hy_meta_state_release(world->meta); /* the sequences hold it as well */
    for (int i = 0; i < N_SLOTS; i++)
        if (world->slots[i].used)
            hy_state_free(&world->slots[i].state);
    hy_layout_free(&memory, &world->layout);
    hy_plan_free(&memory, &world->plan);
    free(world->step);
    free(world->working);
}

static void operate(struct world *world, uint32_t meta_recurrent)
{
    struct slot *slot = &world->slots[test_random_below(N_SLOTS)];
    struct slot *other = &world->slots[test_random_below(N_SLOTS)];
    if (!slot->used)
        slot = &world->slots[0];
    switch (test_random_below(12)) {
    case 0:
        if (other != slot)
            copy(world, slot, other);
        break;
    case 1:
        if (other != slot && other->used)
            return_to(slot, other);
        break;
    case 2:
        if (test_random() < 0.4)
            reset(world, slot, meta_recurrent);
        break;
    case 3:
        if (test_random() < 0.5)
            slide(world, slot);
        break;
    case 4:
    case 5:
        keep_and_append(world, slot);
        break;
    case 6:
    case 7:
        step_back(world, slot);
        break;
    case 8:
        append_and_undo(world, slot);
        break;
    default:
        append_randomly(world, slot);
        break;
    }
    check_slot(world, slot);
    if (other->used && test_random() < 0.4)
        check_slot(world, other);
}

static void live(const struct shape *shape, const struct hy_layout_params *params, int n_turns)
{
    struct world *world = malloc(sizeof *world);
    struct expected *after_meta = malloc(sizeof *after_meta);
    open_world(world, shape, params);
    run_meta(world, after_meta);
    test_status(hy_state_create(&memory, &block_memory, world->meta, &world->slots[0].state,
                                &error),
                HYMBA_OK, error);
    world->slots[0].used = true;
    world->slots[0].expected = *after_meta;
    check_slot(world, &world->slots[0]);
    for (int turn = 0; turn < n_turns; turn++)
        operate(world, after_meta->recurrent);
    close_world(world);
    free(after_meta);
    free(world);
}

static const struct shape shapes[] = {
    /* layers, kv heads, queries, qk, v factor, meta, window, state, conv, full, groups, plan */
    {3, 2, 2, 4, 2, 5, 7, 3, 4, "[1]", "null", "{}"},
    {4, 1, 1, 2, 2, 0, 1, 1, 2, "[0]", "[[1,2]]", "{}"},       /* no meta tokens, smallest window */
    {2, 3, 1, 2, 3, 1, 16, 2, 3, "[]", "null", "{}"},          /* no full layer */
    {2, 1, 3, 6, 1, 3, 0, 2, 4, "null", "null", "{}"},         /* no window */
    {4, 2, 1, 2, 2, 4, 9, 2, 4, "[2]", "[[1,2,3]]", "{}"},     /* a full and a sliding reader */
    {3, 1, 2, 4, 2, 2, 300, 1, 2, "[0]", "null", "{}"},        /* window wider than a block */
    {2, 2, 1, 2, 2, 3, 5, 2, 4, "[1]", "null", "{\"mixer\":\"attention\"}"},
    {2, 1, 1, 2, 2, 3, 5, 2, 4, "[]", "null", "{\"mixer\":\"mamba\"}"},
};

enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

/* _i: number of the shape. Rows of int8 and fp8 caches end at odd addresses. */
START_TEST(random_lives)
{
    static const struct hy_layout_params params[] = {
        {HYMBA_DTYPE_F32, HYMBA_DTYPE_F32, STEP_ROWS, 0},
        {HYMBA_DTYPE_F16, HYMBA_DTYPE_F16, STEP_ROWS, 4},
        {HYMBA_DTYPE_BF16, HYMBA_DTYPE_F32, STEP_ROWS, MAX_REWIND},
        {HYMBA_DTYPE_INT8, HYMBA_DTYPE_F32, STEP_ROWS, 5},
        {HYMBA_DTYPE_FP8, HYMBA_DTYPE_BF16, STEP_ROWS, 2},
    };
    for (unsigned i = 0; i < sizeof params / sizeof params[0]; i++) {
        test_random_seed(100 * (unsigned)_i + i);
        live(&shapes[_i], &params[i], 30);
        test_host_check(&host);
    }
}
END_TEST

/* One token after another, across the borders of blocks and many times round the ring. */
START_TEST(token_by_token)
{
    static const hymba_dtype types[] = {HYMBA_DTYPE_F16, HYMBA_DTYPE_INT8};
    struct hy_layout_params params = {types[_i], HYMBA_DTYPE_F32, 8, 0};
    static struct world world;
    struct expected after_meta;
    struct slot *slot = &world.slots[0];
    open_world(&world, &shapes[0], &params);
    run_meta(&world, &after_meta);
    test_status(hy_state_create(&memory, &block_memory, world.meta, &slot->state, &error),
                HYMBA_OK, error);
    slot->used = true;
    slot->expected = after_meta;
    for (int i = 0; i < 2 * HY_BLOCK_TOKENS + 3; i++) {
        append(&world, slot, 1);
        if (i < 40 || i % HY_BLOCK_TOKENS < 3 || i % HY_BLOCK_TOKENS > HY_BLOCK_TOKENS - 3)
            check_slot(&world, slot);
    }
    close_world(&world);
}
END_TEST

/* ------------------------------------------------------------ sharing, undo */

/* Two sequences of one origin hold the same blocks until one writes where the other has. */
START_TEST(blocks_are_shared_until_written)
{
    static const struct hy_layout_params params = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F32, STEP_ROWS, 0};
    static struct world world;
    struct expected after_meta;
    struct slot *one = &world.slots[0], *two = &world.slots[1];
    uint64_t shared;
    open_world(&world, &shapes[3], &params);
    run_meta(&world, &after_meta);
    test_status(hy_state_create(&memory, &block_memory, world.meta, &one->state, &error),
                HYMBA_OK, error);
    one->used = true;
    one->expected = after_meta;
    append(&world, one, 300);
    uint64_t block = world.layout.block_bytes;
    uint64_t before = block_memory.used;
    copy(&world, one, two);
    ck_assert_uint_eq(block_memory.used, before);
    ck_assert_uint_eq(hy_state_block_bytes(&one->state, &shared), 2 * block);
    ck_assert_uint_eq(shared, 2 * block);
    append(&world, two, 5); /* behind the last row: nothing to copy */
    ck_assert_uint_eq(block_memory.used, before);
    append(&world, one, 5); /* where the other has written */
    ck_assert_uint_ge(block_memory.used, before + block);
    ck_assert_uint_lt(block_memory.used, before + 2 * block);
    hy_state_block_bytes(&one->state, &shared);
    ck_assert_uint_eq(shared, block);
    check_slot(&world, one);
    check_slot(&world, two);
    hy_state_free(&one->state);
    one->used = false;
    check_slot(&world, two);
    hy_state_block_bytes(&two->state, &shared);
    ck_assert_uint_eq(shared, 0);
    close_world(&world);
    ck_assert_uint_eq(block_memory.used, 0);
}
END_TEST

/* However few rows the one has written that the other comes to write: neither sees the other's. */
START_TEST(copies_do_not_disturb_each_other)
{
    static const struct hy_layout_params params = {HYMBA_DTYPE_F16, HYMBA_DTYPE_F32, STEP_ROWS, 0};
    static const size_t lengths[] = {0, 1, 254, 255, 256, 257};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        for (size_t rows = 0; rows < 9; rows++) {
            static struct world world;
            struct expected after_meta;
            struct slot *one = &world.slots[0], *two = &world.slots[1];
            open_world(&world, &shapes[0], &params);
            run_meta(&world, &after_meta);
            test_status(hy_state_create(&memory, &block_memory, world.meta, &one->state, &error),
                        HYMBA_OK, error);
            one->used = true;
            one->expected = after_meta;
            if (lengths[i] > 0)
                append(&world, one, lengths[i]);
            copy(&world, one, two);
            if (rows / 3 > 0)
                append(&world, one, rows / 3);
            if (rows % 3 > 0)
                append(&world, two, rows % 3);
            check_slot(&world, one);
            check_slot(&world, two);
            append(&world, one, 3);
            check_slot(&world, one);
            check_slot(&world, two);
            close_world(&world);
        }
    }
}
END_TEST

/* ------------------------------------------------------------------- sizes */

static const struct hy_layout_params f16_params = {HYMBA_DTYPE_F16, HYMBA_DTYPE_F16, 128, 0};
static const struct hy_layout_params int8_params = {HYMBA_DTYPE_INT8, HYMBA_DTYPE_F16, 128, 16};

/* docs/semantics.md, section 8: 3 full and 14 window caches of 5 heads of 64 + 128, 32 layers of
 * 3 rows of history and 16 states of 3200 channels; two bytes an element. */
START_TEST(memory_of_the_published_shape)
{
    struct hy_plan plan;
    struct hy_state_layout layout;
    hymba_memory_info info = {.struct_size = sizeof info, .n_tokens = 8192};
    create_preset_plan("1.5b", &plan);
    test_status(hy_layout_create(&memory, &plan, &f16_params, &layout, &error), HYMBA_OK, error);
    test_status(hy_layout_memory(&layout, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.meta_bytes, UINT64_C(17) * 128 * 5 * 192 * 2);
    ck_assert_uint_eq(info.kv_bytes,
                      UINT64_C(3) * 8192 * 5 * 192 * 2 + UINT64_C(14) * 1024 * 5 * 192 * 2);
    ck_assert_uint_eq(info.conv_bytes, UINT64_C(32) * 3 * 3200 * 2);
    ck_assert_uint_eq(info.ssm_bytes, UINT64_C(32) * 16 * 3200 * 2);
    ck_assert_uint_eq(info.kv_bytes + info.conv_bytes + info.ssm_bytes, 78602240);
    ck_assert_uint_eq(info.total_bytes, 78602240 + info.meta_bytes);
    ck_assert_uint_eq(info.n_tokens, 8192);
    hy_layout_free(&memory, &layout);
    hy_plan_free(&memory, &plan);
}
END_TEST

/* The same with int8 or fp8 caches: a byte an element and four bytes for each head's key and
 * value. */
START_TEST(memory_of_caches_with_scales)
{
    struct hy_layout_params params = int8_params;
    struct hy_plan plan;
    struct hy_state_layout layout;
    hymba_memory_info info = {.struct_size = sizeof info, .n_tokens = 8192};
    params.cache_type = _i ? HYMBA_DTYPE_FP8 : HYMBA_DTYPE_INT8;
    create_preset_plan("1.5b", &plan);
    test_status(hy_layout_create(&memory, &plan, &params, &layout, &error), HYMBA_OK, error);
    test_status(hy_layout_memory(&layout, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.meta_bytes, UINT64_C(17) * 128 * 5 * (192 + 8));
    ck_assert_uint_eq(info.kv_bytes,
                      (UINT64_C(3) * 8192 + UINT64_C(14) * (1024 + 16)) * 5 * (192 + 8));
    ck_assert_uint_eq(layout.step_bytes, UINT64_C(17) * 128 * 5 * (192 + 8));
    hy_layout_free(&memory, &layout);
    hy_plan_free(&memory, &plan);
}
END_TEST

/* What is said before is what is taken afterwards; the only surplus is one header a block. */
START_TEST(memory_is_as_announced)
{
    struct hy_layout_params params = _i ? int8_params : f16_params;
    static const uint64_t lengths[] = {0, 1, 256, 257, 1000};
    struct hy_plan plan;
    struct hy_state_layout layout;
    struct hy_meta_state *meta;
    create_preset_plan("tiny", &plan);
    params.rewind_tokens = 0;
    test_status(hy_layout_create(&memory, &plan, &params, &layout, &error), HYMBA_OK, error);
    test_status(hy_meta_state_create(&memory, NULL, &layout, &meta, &error), HYMBA_OK, error);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct hy_memory own;
        struct hy_state state;
        hymba_memory_info info = {.struct_size = sizeof info, .n_tokens = lengths[i]};
        hy_memory_inherit(&own, &memory);
        test_status(hy_layout_memory(&layout, &info, &error), HYMBA_OK, error);
        test_status(hy_state_create(&own, &own, meta, &state, &error), HYMBA_OK, error);
        test_status(hy_state_reserve(&state, lengths[i], &error), HYMBA_OK, error);
        uint64_t said = info.total_bytes - info.meta_bytes;
        ck_assert_uint_ge(own.used, said);
        ck_assert_uint_le(own.used, said + 4 * HY_ALIGNMENT + state.n_blocks * 3 * HY_ALIGNMENT);
        hy_state_free(&state);
        ck_assert_uint_eq(own.used, 0);
    }
    hy_meta_state_release(meta);
    hy_layout_free(&memory, &layout);
    hy_plan_free(&memory, &plan);
}
END_TEST

/* Tokens that go back cost a ring row of each window cache and a recurrent state each. */
START_TEST(memory_of_going_back)
{
    struct hy_plan plan;
    struct hy_state_layout layout;
    struct hy_layout_params params = f16_params;
    hymba_memory_info info = {.struct_size = sizeof info, .n_tokens = 0};
    params.rewind_tokens = 16;
    create_preset_plan("1.5b", &plan);
    test_status(hy_layout_create(&memory, &plan, &params, &layout, &error), HYMBA_OK, error);
    test_status(hy_layout_memory(&layout, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.kv_bytes, UINT64_C(14) * (1024 + 16) * 5 * 192 * 2);
    ck_assert_uint_eq(info.conv_bytes, UINT64_C(17) * 32 * 3 * 3200 * 2);
    ck_assert_uint_eq(info.ssm_bytes, UINT64_C(17) * 32 * 16 * 3200 * 2);
    hy_layout_free(&memory, &layout);
    hy_plan_free(&memory, &plan);
}
END_TEST

START_TEST(sizes_that_do_not_fit)
{
    static const size_t rows[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 64, SIZE_MAX / 1000};
    struct hy_plan plan;
    struct hy_state_layout layout;
    hymba_memory_info info = {.struct_size = sizeof info, .n_tokens = UINT64_MAX};
    create_preset_plan("1.5b", &plan);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct hy_layout_params params = f16_params;
        params.step_rows = rows[i];
        test_status(hy_layout_create(&memory, &plan, &params, &layout, &error), HYMBA_ERROR_LIMIT,
                    error);
    }
    test_status(hy_layout_create(&memory, &plan, &f16_params, &layout, &error), HYMBA_OK, error);
    test_status(hy_layout_memory(&layout, &info, &error), HYMBA_ERROR_LIMIT, error);
    info.n_tokens = UINT64_C(1) << 40; /* much, but a number all the same */
    test_status(hy_layout_memory(&layout, &info, &error), HYMBA_OK, error);
    ck_assert_uint_gt(info.total_bytes, UINT64_C(1) << 52);
    hy_layout_free(&memory, &layout);
    hy_plan_free(&memory, &plan);
}
END_TEST

START_TEST(reserving_too_much)
{
    struct hy_plan plan;
    struct hy_state_layout layout;
    struct hy_meta_state *meta;
    struct hy_state state;
    create_preset_plan("tiny", &plan);
    test_status(hy_layout_create(&memory, &plan, &f16_params, &layout, &error), HYMBA_OK, error);
    test_status(hy_meta_state_create(&memory, NULL, &layout, &meta, &error), HYMBA_OK, error);
    test_status(hy_state_create(&memory, &block_memory, meta, &state, &error), HYMBA_OK, error);
    test_status(hy_state_reserve(&state, 1000, &error), HYMBA_OK, error);
    uint64_t used = host.used;
    size_t n_blocks = state.n_blocks;
    test_status(hy_state_reserve(&state, UINT64_MAX, &error), HYMBA_ERROR_LIMIT, error);
    ck_assert_uint_eq(host.used, used);
    /* The list's allocation, a block's, a later block's: what was there before is there still. */
    for (long i = 0; i < 8; i++) {
        test_host_fail_at(&host, i, false);
        test_status(hy_state_reserve(&state, 5000, &error), HYMBA_ERROR_MEMORY, error);
        test_host_fail_at(&host, -1, false);
        ck_assert_uint_eq(state.n_blocks, n_blocks);
        ck_assert_uint_le(host.used, used + 64 * sizeof(void *) + HY_ALIGNMENT);
    }
    test_status(hy_state_reserve(&state, 5000, &error), HYMBA_OK, error);
    ck_assert_uint_eq(state.n_blocks, 20);
    used = host.used;
    test_status(hy_state_reserve(&state, 10, &error), HYMBA_OK, error);
    test_status(hy_state_reserve(&state, 0, &error), HYMBA_OK, error);
    ck_assert_uint_eq(host.used, used);
    hy_state_free(&state);
    hy_meta_state_release(meta);
    hy_layout_free(&memory, &layout);
    hy_plan_free(&memory, &plan);
}
END_TEST

/* ---------------------------------------------------------------- failures */

/* Everything a sequence allocates, in one go. */
static hymba_status build_and_copy(const struct hy_plan *plan)
{
    struct hy_state_layout layout;
    struct hy_meta_state *meta = NULL;
    struct hy_state state = {0}, other = {0};
    struct hy_layout_params params = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F32, 4, 3};
    hymba_status status = hy_layout_create(&memory, plan, &params, &layout, &error);
    if (status != HYMBA_OK)
        return status;
    status = hy_meta_state_create(&memory, NULL, &layout, &meta, &error);
    if (status == HYMBA_OK)
        status = hy_state_create(&memory, &block_memory, meta, &state, &error);
    if (status == HYMBA_OK)
        status = hy_state_reserve(&state, 300, &error);
    if (status == HYMBA_OK)
        status = hy_state_claim(&state, 700, &error);
    if (status == HYMBA_OK)
        status = hy_state_copy(&state, &memory, true, &other, &error);
    if (status == HYMBA_OK)
        status = hy_state_return_to(&other, &state, &error);
    hy_state_free(&other);
    hy_state_free(&state);
    hy_meta_state_release(meta);
    hy_layout_free(&memory, &layout);
    return status;
}

START_TEST(allocations_that_fail)
{
    struct hy_plan plan;
    long i = 0;
    hymba_status status;
    create_plan(&shapes[0], &plan);
    uint64_t used = host.used;
    do {
        test_host_fail_at(&host, i++, false);
        status = build_and_copy(&plan);
        ck_assert_uint_eq(host.used, used);
        if (status != HYMBA_OK) {
            test_status(status, HYMBA_ERROR_MEMORY, error);
            ck_assert_ptr_nonnull(strstr(error.message, "no memory for "));
        }
    } while (status != HYMBA_OK);
    ck_assert_int_ge(i, 8);
    hy_plan_free(&memory, &plan);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("state");
    TCase *tests = tcase_create("state");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, random_lives, 0, N_SHAPES);
    tcase_add_loop_test(tests, token_by_token, 0, 2);
    tcase_add_test(tests, blocks_are_shared_until_written);
    tcase_add_test(tests, copies_do_not_disturb_each_other);
    tcase_add_test(tests, memory_of_the_published_shape);
    tcase_add_loop_test(tests, memory_of_caches_with_scales, 0, 2);
    tcase_add_loop_test(tests, memory_is_as_announced, 0, 2);
    tcase_add_test(tests, memory_of_going_back);
    tcase_add_test(tests, sizes_that_do_not_fit);
    tcase_add_test(tests, reserving_too_much);
    tcase_add_test(tests, allocations_that_fail);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
