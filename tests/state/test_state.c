/*
 * The memory of sequences against a naive model of it (naive_state.h): random appends, copies,
 * returns and steps back, and after each what a query may see.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "naive_state.h"
#include "state_world.h"

static hymba_error error = {.struct_size = sizeof error};

/* -------------------------------------------------------------- operations */

static void mark_written(const struct world *world, struct expected *expected, uint64_t position,
                         uint32_t stamp)
{
    if (position >= MAX_POSITIONS)
        ck_abort_msg("position %llu, of %d", (unsigned long long)position, (int)MAX_POSITIONS);
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
    naive_fill_step(world, row, n_rows, expected->position, expected->stamps);
    if (!slot->state.is_meta)
        test_status(hy_state_claim(&slot->state, n_rows, &error), HYMBA_OK, error);
    hy_state_append(&slot->state, world->step, row, n_rows);
    expected->position += n_rows;
    expected->recurrent = world->next_stamp++;
    naive_fill_working(world, expected->recurrent);
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
                naive_fill_working(world, expected->recurrent);
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
    if (!naive_can_step_back(world, expected, position))
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
    naive_fill_working(world, before.recurrent); /* stored only when a call succeeds */
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
    test_status(hy_state_copy(&from->state, &state_memory, kept, &to->state, &error), HYMBA_OK,
                error);
    to->used = true;
    to->expected = from->expected;
    if (!kept)
        forget_kept(&to->expected, 0);
    naive_check_slot(world, to);
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
    naive_fill_working(world, slot.expected.recurrent = world->next_stamp++);
    hy_state_store_recurrent(&slot.state, world->working);
    while (slot.expected.position < world->layout.n_meta) {
        size_t left = (size_t)(world->layout.n_meta - slot.expected.position);
        append(world, &slot, 1 + test_random_below(left));
        ck_assert_uint_eq(slot.state.position, slot.expected.position);
        for (uint32_t cache = 0; cache < world->layout.n_caches; cache++)
            naive_check_cache(world, &slot, cache, UINT64_MAX);
        naive_check_recurrent(world, &slot.state, slot.expected.recurrent);
    }
    ck_assert_uint_eq(hy_state_undo_bytes(&slot.state), 0);
    *after = slot.expected;
}

static void open_world(struct world *world, const struct shape *shape,
                       const struct hy_layout_params *params)
{
    memset(world, 0, sizeof *world);
    state_create_plan(shape, &world->plan);
    test_status(hy_layout_create(&state_memory, &world->plan, params, &world->layout, &error),
                HYMBA_OK, error);
    test_status(hy_meta_state_create(&state_memory, NULL, &world->layout, &world->meta, &error),
                HYMBA_OK, error);
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
    hy_layout_free(&state_memory, &world->layout);
    hy_plan_free(&state_memory, &world->plan);
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
    naive_check_slot(world, slot);
    if (other->used && test_random() < 0.4)
        naive_check_slot(world, other);
}

static void live(const struct shape *shape, const struct hy_layout_params *params, int n_turns)
{
    struct world *world = malloc(sizeof *world);
    struct expected *after_meta = malloc(sizeof *after_meta);
    open_world(world, shape, params);
    run_meta(world, after_meta);
    test_status(hy_state_create(&state_memory, &state_block_memory, world->meta,
                                &world->slots[0].state, &error),
                HYMBA_OK, error);
    world->slots[0].used = true;
    world->slots[0].expected = *after_meta;
    naive_check_slot(world, &world->slots[0]);
    for (int turn = 0; turn < n_turns; turn++)
        operate(world, after_meta->recurrent);
    close_world(world);
    free(after_meta);
    free(world);
}

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
        live(&state_shapes[_i], &params[i], 30);
        test_host_check(&state_host);
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
    open_world(&world, &state_shapes[0], &params);
    run_meta(&world, &after_meta);
    test_status(hy_state_create(&state_memory, &state_block_memory, world.meta, &slot->state,
                                &error),
                HYMBA_OK, error);
    slot->used = true;
    slot->expected = after_meta;
    for (int i = 0; i < 2 * HY_BLOCK_TOKENS + 3; i++) {
        append(&world, slot, 1);
        if (i < 40 || i % HY_BLOCK_TOKENS < 3 || i % HY_BLOCK_TOKENS > HY_BLOCK_TOKENS - 3)
            naive_check_slot(&world, slot);
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
    open_world(&world, &state_shapes[3], &params);
    run_meta(&world, &after_meta);
    test_status(hy_state_create(&state_memory, &state_block_memory, world.meta, &one->state,
                                &error),
                HYMBA_OK, error);
    one->used = true;
    one->expected = after_meta;
    append(&world, one, 300);
    uint64_t block = world.layout.block_bytes;
    uint64_t before = state_block_memory.used;
    copy(&world, one, two);
    ck_assert_uint_eq(state_block_memory.used, before);
    ck_assert_uint_eq(hy_state_block_bytes(&one->state, &shared), 2 * block);
    ck_assert_uint_eq(shared, 2 * block);
    append(&world, two, 5); /* behind the last row: nothing to copy */
    ck_assert_uint_eq(state_block_memory.used, before);
    append(&world, one, 5); /* where the other has written */
    ck_assert_uint_ge(state_block_memory.used, before + block);
    ck_assert_uint_lt(state_block_memory.used, before + 2 * block);
    hy_state_block_bytes(&one->state, &shared);
    ck_assert_uint_eq(shared, block);
    naive_check_slot(&world, one);
    naive_check_slot(&world, two);
    hy_state_free(&one->state);
    one->used = false;
    naive_check_slot(&world, two);
    hy_state_block_bytes(&two->state, &shared);
    ck_assert_uint_eq(shared, 0);
    close_world(&world);
    ck_assert_uint_eq(state_block_memory.used, 0);
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
            open_world(&world, &state_shapes[0], &params);
            run_meta(&world, &after_meta);
            test_status(hy_state_create(&state_memory, &state_block_memory, world.meta, &one->state,
                                        &error),
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
            naive_check_slot(&world, one);
            naive_check_slot(&world, two);
            append(&world, one, 3);
            naive_check_slot(&world, one);
            naive_check_slot(&world, two);
            close_world(&world);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("state");
    TCase *tests = tcase_create("state");
    tcase_add_checked_fixture(tests, state_setup, state_teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, random_lives, 0, STATE_SHAPES);
    tcase_add_loop_test(tests, token_by_token, 0, 2);
    tcase_add_test(tests, blocks_are_shared_until_written);
    tcase_add_test(tests, copies_do_not_disturb_each_other);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
