/* What sequences take of memory: as much as was said before; and what is left where none is. */
#include <string.h>

#include "state_world.h"

static hymba_error error = {.struct_size = sizeof error};

static const struct hy_layout_params f16_params = {HYMBA_DTYPE_F16, HYMBA_DTYPE_F16, 128, 0};
static const struct hy_layout_params int8_params = {HYMBA_DTYPE_INT8, HYMBA_DTYPE_F16, 128, 16};

/* docs/semantics.md, section 8: 3 full and 14 window caches of 5 heads of 64 + 128, 32 layers of
 * 3 rows of history and 16 states of 3200 channels; two bytes an element. */
START_TEST(memory_of_the_published_shape)
{
    struct hy_plan plan;
    struct hy_state_layout layout;
    hymba_memory_info info = {.struct_size = sizeof info, .n_tokens = 8192};
    state_create_preset_plan("1.5b", &plan);
    test_status(hy_layout_create(&state_memory, &plan, &f16_params, &layout, &error), HYMBA_OK,
                error);
    test_status(hy_layout_memory(&layout, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.meta_bytes, UINT64_C(17) * 128 * 5 * 192 * 2);
    ck_assert_uint_eq(info.kv_bytes,
                      UINT64_C(3) * 8192 * 5 * 192 * 2 + UINT64_C(14) * 1024 * 5 * 192 * 2);
    ck_assert_uint_eq(info.conv_bytes, UINT64_C(32) * 3 * 3200 * 2);
    ck_assert_uint_eq(info.ssm_bytes, UINT64_C(32) * 16 * 3200 * 2);
    ck_assert_uint_eq(info.kv_bytes + info.conv_bytes + info.ssm_bytes, 78602240);
    ck_assert_uint_eq(info.total_bytes, 78602240 + info.meta_bytes);
    ck_assert_uint_eq(info.n_tokens, 8192);
    hy_layout_free(&state_memory, &layout);
    hy_plan_free(&state_memory, &plan);
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
    state_create_preset_plan("1.5b", &plan);
    test_status(hy_layout_create(&state_memory, &plan, &params, &layout, &error), HYMBA_OK, error);
    test_status(hy_layout_memory(&layout, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.meta_bytes, UINT64_C(17) * 128 * 5 * (192 + 8));
    ck_assert_uint_eq(info.kv_bytes,
                      (UINT64_C(3) * 8192 + UINT64_C(14) * (1024 + 16)) * 5 * (192 + 8));
    ck_assert_uint_eq(layout.step_bytes, UINT64_C(17) * 128 * 5 * (192 + 8));
    hy_layout_free(&state_memory, &layout);
    hy_plan_free(&state_memory, &plan);
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
    state_create_preset_plan("tiny", &plan);
    params.rewind_tokens = 0;
    test_status(hy_layout_create(&state_memory, &plan, &params, &layout, &error), HYMBA_OK, error);
    test_status(hy_meta_state_create(&state_memory, NULL, &layout, &meta, &error), HYMBA_OK, error);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct hy_memory own;
        struct hy_state state;
        hymba_memory_info info = {.struct_size = sizeof info, .n_tokens = lengths[i]};
        hy_memory_inherit(&own, &state_memory);
        test_status(hy_layout_memory(&layout, &info, &error), HYMBA_OK, error);
        test_status(hy_state_create(&own, &own, meta, &state, &error), HYMBA_OK,
                error);
        test_status(hy_state_reserve(&state, lengths[i], &error), HYMBA_OK, error);
        uint64_t said = info.total_bytes - info.meta_bytes;
        ck_assert_uint_ge(own.used, said);
        ck_assert_uint_le(own.used, said + 4 * HY_ALIGNMENT + state.n_blocks * 3 * HY_ALIGNMENT);
        hy_state_free(&state);
        ck_assert_uint_eq(own.used, 0);
    }
    hy_meta_state_release(meta);
    hy_layout_free(&state_memory, &layout);
    hy_plan_free(&state_memory, &plan);
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
    state_create_preset_plan("1.5b", &plan);
    test_status(hy_layout_create(&state_memory, &plan, &params, &layout, &error), HYMBA_OK, error);
    test_status(hy_layout_memory(&layout, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.kv_bytes, UINT64_C(14) * (1024 + 16) * 5 * 192 * 2);
    ck_assert_uint_eq(info.conv_bytes, UINT64_C(17) * 32 * 3 * 3200 * 2);
    ck_assert_uint_eq(info.ssm_bytes, UINT64_C(17) * 32 * 16 * 3200 * 2);
    hy_layout_free(&state_memory, &layout);
    hy_plan_free(&state_memory, &plan);
}
END_TEST

START_TEST(sizes_that_do_not_fit)
{
    static const size_t rows[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 64, SIZE_MAX / 1000};
    struct hy_plan plan;
    struct hy_state_layout layout;
    hymba_memory_info info = {.struct_size = sizeof info, .n_tokens = UINT64_MAX};
    state_create_preset_plan("1.5b", &plan);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct hy_layout_params params = f16_params;
        params.step_rows = rows[i];
        test_status(hy_layout_create(&state_memory, &plan, &params, &layout, &error),
                    HYMBA_ERROR_LIMIT, error);
    }
    test_status(hy_layout_create(&state_memory, &plan, &f16_params, &layout, &error), HYMBA_OK,
                error);
    test_status(hy_layout_memory(&layout, &info, &error), HYMBA_ERROR_LIMIT, error);
    info.n_tokens = UINT64_C(1) << 40; /* much, but a number all the same */
    test_status(hy_layout_memory(&layout, &info, &error), HYMBA_OK, error);
    ck_assert_uint_gt(info.total_bytes, UINT64_C(1) << 52);
    hy_layout_free(&state_memory, &layout);
    hy_plan_free(&state_memory, &plan);
}
END_TEST

START_TEST(reserving_too_much)
{
    struct hy_plan plan;
    struct hy_state_layout layout;
    struct hy_meta_state *meta;
    struct hy_state state;
    state_create_preset_plan("tiny", &plan);
    test_status(hy_layout_create(&state_memory, &plan, &f16_params, &layout, &error), HYMBA_OK,
                error);
    test_status(hy_meta_state_create(&state_memory, NULL, &layout, &meta, &error), HYMBA_OK, error);
    test_status(hy_state_create(&state_memory, &state_block_memory, meta, &state, &error), HYMBA_OK,
                error);
    test_status(hy_state_reserve(&state, 1000, &error), HYMBA_OK, error);
    uint64_t used = state_host.used;
    size_t n_blocks = state.n_blocks;
    test_status(hy_state_reserve(&state, UINT64_MAX, &error), HYMBA_ERROR_LIMIT, error);
    ck_assert_uint_eq(state_host.used, used);
    /* The list's allocation, a block's, a later block's: what was there before is there still. */
    for (long i = 0; i < 8; i++) {
        test_host_fail_at(&state_host, i, false);
        test_status(hy_state_reserve(&state, 5000, &error), HYMBA_ERROR_MEMORY, error);
        test_host_fail_at(&state_host, -1, false);
        ck_assert_uint_eq(state.n_blocks, n_blocks);
        ck_assert_uint_le(state_host.used, used + 64 * sizeof(void *) + HY_ALIGNMENT);
    }
    test_status(hy_state_reserve(&state, 5000, &error), HYMBA_OK, error);
    ck_assert_uint_eq(state.n_blocks, 20);
    used = state_host.used;
    test_status(hy_state_reserve(&state, 10, &error), HYMBA_OK, error);
    test_status(hy_state_reserve(&state, 0, &error), HYMBA_OK, error);
    ck_assert_uint_eq(state_host.used, used);
    hy_state_free(&state);
    hy_meta_state_release(meta);
    hy_layout_free(&state_memory, &layout);
    hy_plan_free(&state_memory, &plan);
}
END_TEST

/* Everything a sequence allocates, in one go. */
static hymba_status build_and_copy(const struct hy_plan *plan)
{
    struct hy_state_layout layout;
    struct hy_meta_state *meta = NULL;
    struct hy_state state = {0}, other = {0};
    struct hy_layout_params params = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F32, 4, 3};
    hymba_status status = hy_layout_create(&state_memory, plan, &params, &layout, &error);
    if (status != HYMBA_OK)
        return status;
    status = hy_meta_state_create(&state_memory, NULL, &layout, &meta, &error);
    if (status == HYMBA_OK)
        status = hy_state_create(&state_memory, &state_block_memory, meta, &state, &error);
    if (status == HYMBA_OK)
        status = hy_state_reserve(&state, 300, &error);
    if (status == HYMBA_OK)
        status = hy_state_claim(&state, 700, &error);
    if (status == HYMBA_OK)
        status = hy_state_copy(&state, &state_memory, true, &other, &error);
    if (status == HYMBA_OK)
        status = hy_state_return_to(&other, &state, &error);
    hy_state_free(&other);
    hy_state_free(&state);
    hy_meta_state_release(meta);
    hy_layout_free(&state_memory, &layout);
    return status;
}

START_TEST(allocations_that_fail)
{
    struct hy_plan plan;
    long i = 0;
    hymba_status status;
    state_create_plan(&state_shapes[0], &plan);
    uint64_t used = state_host.used;
    do {
        test_host_fail_at(&state_host, i++, false);
        status = build_and_copy(&plan);
        ck_assert_uint_eq(state_host.used, used);
        if (status != HYMBA_OK) {
            test_status(status, HYMBA_ERROR_MEMORY, error);
            ck_assert_ptr_nonnull(strstr(error.message, "no memory for "));
        }
    } while (status != HYMBA_OK);
    ck_assert_int_ge(i, 8);
    hy_plan_free(&state_memory, &plan);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("state_memory");
    TCase *tests = tcase_create("state_memory");
    tcase_add_checked_fixture(tests, state_setup, state_teardown);
    tcase_set_timeout(tests, 120);
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
