/* Memory through the host's hooks: what is asked for and given back, the counts, log, progress. */
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "host.h"

static struct test_host host;
static struct hy_memory memory;
static hymba_error error;

static void setup(void)
{
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    test_status(hy_memory_init(&memory, &host.host, &error), HYMBA_OK, error);
}

static void teardown(void)
{
    test_host_check(&host);
    ck_assert_uint_eq(memory.used, 0);
}

static bool is_aligned(const void *pointer)
{
    return (uintptr_t)pointer % HY_ALIGNMENT == 0;
}

/* The host checks the sizes; here: alignment, content apart, counts. */
START_TEST(blocks_come_and_go)
{
    enum { N_BLOCKS = 64, N_TURNS = 4000 };
    unsigned char *blocks[N_BLOCKS] = {NULL};
    size_t sizes[N_BLOCKS] = {0};
    uint64_t peak = 0;
    for (int turn = 0; turn < N_TURNS; turn++) {
        size_t i = test_random_below(N_BLOCKS);
        for (size_t j = 0; j < sizes[i]; j++)
            if (blocks[i][j] != i)
                ck_abort_msg("block %zu was written to", i);
        if (blocks[i] && test_random() < 0.5) {
            hy_free(&memory, blocks[i]);
            blocks[i] = NULL;
            sizes[i] = 0;
        } else {
            sizes[i] = test_random_below(300);
            blocks[i] = hy_realloc(&memory, blocks[i], sizes[i]);
            ck_assert_ptr_nonnull(blocks[i]);
            ck_assert(is_aligned(blocks[i]));
            memset(blocks[i], (int)i, sizes[i]);
        }
        ck_assert_uint_eq(memory.used, host.used);
        peak = memory.used > peak ? memory.used : peak;
    }
    ck_assert_uint_gt(memory.used, 0);
    for (int i = 0; i < N_BLOCKS; i++)
        hy_free(&memory, blocks[i]);
    ck_assert_uint_ge(memory.peak, peak);
    ck_assert_uint_eq(memory.peak, host.peak);
}
END_TEST

START_TEST(size_zero_is_a_block)
{
    void *one = hy_alloc(&memory, 0), *other = hy_alloc_array(&memory, 0, 8);
    ck_assert_ptr_nonnull(one);
    ck_assert_ptr_nonnull(other);
    ck_assert_ptr_ne(one, other);
    hy_free(&memory, one);
    hy_free(&memory, other);
    hy_free(&memory, NULL);
}
END_TEST

START_TEST(zeroed)
{
    unsigned char *block = hy_alloc(&memory, 5000);
    memset(block, 0xa5, 5000);
    hy_free(&memory, block);
    block = hy_alloc_zero(&memory, 1250, 4);
    for (int i = 0; i < 5000; i++)
        ck_assert_uint_eq(block[i], 0);
    hy_free(&memory, block);
}
END_TEST

START_TEST(sizes_that_do_not_fit)
{
    ck_assert_ptr_null(hy_alloc(&memory, SIZE_MAX));
    ck_assert_ptr_null(hy_alloc(&memory, SIZE_MAX - HY_ALIGNMENT + 1));
    ck_assert_ptr_null(hy_alloc_array(&memory, SIZE_MAX / 2 + 1, 2));
    ck_assert_ptr_null(hy_alloc_array(&memory, 2, SIZE_MAX / 2 + 1));
    ck_assert_ptr_null(hy_alloc_array(&memory, SIZE_MAX / 8 + 2, 8)); /* wraps to 8 */
    ck_assert_ptr_null(hy_alloc_zero(&memory, SIZE_MAX / 8 + 2, 8));
    ck_assert_ptr_null(hy_copy_text(&memory, "", SIZE_MAX));
    ck_assert_ptr_null(hy_realloc(&memory, NULL, SIZE_MAX));
    ck_assert_int_eq(host.n_allocations, 0);
}
END_TEST

START_TEST(realloc_keeps_the_beginning)
{
    char *block = hy_copy_text(&memory, "a sentence", 10);
    block = hy_realloc(&memory, block, 4000);
    ck_assert_str_eq(block, "a sentence");
    block = hy_realloc(&memory, block, 4);
    ck_assert_mem_eq(block, "a se", 4);
    hy_free(&memory, block);
}
END_TEST

START_TEST(failed_realloc_keeps_the_block)
{
    char *block = hy_copy_text(&memory, "a sentence", 10);
    uint64_t used = memory.used;
    test_host_fail_at(&host, 0, false);
    ck_assert_ptr_null(hy_realloc(&memory, block, 20));
    ck_assert_str_eq(block, "a sentence");
    ck_assert_uint_eq(memory.used, used);
    ck_assert_ptr_null(hy_realloc(&memory, block, SIZE_MAX));
    ck_assert_str_eq(block, "a sentence");
    hy_free(&memory, block);
}
END_TEST

START_TEST(failures_give_null)
{
    test_host_fail_at(&host, 0, true);
    ck_assert_ptr_null(hy_alloc(&memory, 1));
    ck_assert_ptr_null(hy_alloc_zero(&memory, 1, 1));
    ck_assert_ptr_null(hy_alloc_array(&memory, 1, 1));
    ck_assert_ptr_null(hy_copy_text(&memory, "x", 1));
    ck_assert_uint_eq(memory.used, 0);
}
END_TEST

START_TEST(copied_text)
{
    char *text = hy_copy_text(&memory, "two\0parts and more", 9);
    ck_assert_mem_eq(text, "two\0parts", 10);
    hy_free(&memory, text);
    text = hy_copy_text(&memory, "", 0);
    ck_assert_str_eq(text, "");
    hy_free(&memory, text);
}
END_TEST

START_TEST(half_an_allocator_is_refused)
{
    struct hy_memory account;
    hymba_host half = {.struct_size = sizeof half, .alloc = host.host.alloc};
    test_status(hy_memory_init(&account, &half, &error), HYMBA_ERROR_ARGUMENT, error);
    ck_assert_str_eq(error.message, "host: alloc and free must be given together, only alloc is");
    half.alloc = NULL;
    half.free = host.host.free;
    test_status(hy_memory_init(&account, &half, &error), HYMBA_ERROR_ARGUMENT, error);
    ck_assert_str_eq(error.message, "host: alloc and free must be given together, only free is");
    test_status(hy_memory_init(&account, &half, NULL), HYMBA_ERROR_ARGUMENT, error);
}
END_TEST

START_TEST(defaults)
{
    struct hy_memory account;
    hymba_host empty = {.struct_size = sizeof empty};
    const hymba_host *hosts[] = {NULL, &empty};
    for (int i = 0; i < 2; i++) {
        test_status(hy_memory_init(&account, hosts[i], &error), HYMBA_OK, error);
        char *block = hy_alloc(&account, 1000);
        ck_assert_ptr_nonnull(block);
        ck_assert(is_aligned(block));
        memset(block, 1, 1000);
        ck_assert_uint_ge(account.used, 1000);
        hy_free(&account, block);
        ck_assert_uint_eq(account.used, 0);
        hy_log(&account, HYMBA_LOG_ERROR, "%s", "nobody hears this");
        test_status(hy_progress(&account, HYMBA_PHASE_LOAD, 1, 2, &error), HYMBA_OK, error);
    }
}
END_TEST

START_TEST(children_have_the_hooks_and_their_own_counts)
{
    struct hy_memory child;
    void *block = hy_alloc(&memory, 10);
    hy_memory_inherit(&child, &memory);
    ck_assert_uint_eq(child.used, 0);
    ck_assert_uint_eq(child.peak, 0);
    uint64_t used = memory.used;
    void *other = hy_alloc(&child, 100);
    ck_assert_uint_eq(memory.used, used);
    ck_assert_uint_eq(child.used + memory.used, host.used);
    ck_assert_int_eq(host.n_allocations, 2);
    hy_free(&child, other);
    ck_assert_uint_eq(child.used, 0);
    hy_free(&memory, block);
}
END_TEST

/* A child's bytes stand on its parents' accounts too, and any of them may be full. */
START_TEST(limits)
{
    enum { LIMIT = 4096 };
    struct hy_memory parent, child, grandchild;
    hy_memory_create_child(&parent, &memory, LIMIT);
    hy_memory_create_child(&child, &parent, 0);
    hy_memory_create_child(&grandchild, &child, LIMIT / 2);
    void *block = hy_alloc(&grandchild, 1000);
    ck_assert_ptr_nonnull(block);
    uint64_t used = host.used;
    ck_assert_uint_eq(grandchild.used, used);
    ck_assert_uint_eq(child.used, used);
    ck_assert_uint_eq(parent.used, used);
    ck_assert_uint_eq(memory.used, used);
    ck_assert_ptr_null(hy_alloc(&grandchild, LIMIT / 2 - 1000)); /* the header is more than fits */
    void *other = hy_alloc(&child, LIMIT - 1000 - 2 * HY_ALIGNMENT); /* to the last byte */
    ck_assert_ptr_nonnull(other);
    ck_assert_uint_eq(parent.used, LIMIT);
    ck_assert_ptr_null(hy_alloc(&child, 1));
    ck_assert_ptr_null(hy_alloc(&grandchild, 1));
    ck_assert_ptr_null(hy_alloc(&parent, SIZE_MAX / 2));
    ck_assert_uint_eq(grandchild.used, used);
    ck_assert_uint_eq(parent.used, LIMIT);
    ck_assert_uint_eq(memory.used, LIMIT);
    ck_assert_int_eq(host.n_allocations, 2);
    hy_free(&child, other);
    ck_assert_uint_eq(parent.used, used);
    test_host_fail_at(&host, 0, false); /* what the host refuses stands on no account */
    ck_assert_ptr_null(hy_alloc(&grandchild, 1));
    ck_assert_uint_eq(memory.used, used);
    hy_free(&grandchild, block);
    ck_assert_uint_eq(grandchild.used, 0);
    ck_assert_uint_eq(child.used, 0);
    ck_assert_uint_eq(parent.used, 0);
}
END_TEST

START_TEST(no_memory_says_for_what)
{
    test_status(hy_no_memory(&error, 1234, "a test"), HYMBA_ERROR_MEMORY, error);
    ck_assert_str_eq(error.message, "no memory for a test (1234 bytes)");
}
END_TEST

/* --------------------------------------------------------------------- log */

static char logged[1024];
static size_t logged_length;
static int32_t logged_level;
static void *logged_user;

static void take_line(void *user, int32_t level, const char *message, size_t length)
{
    logged_user = user;
    logged_level = level;
    logged_length = length;
    ck_assert_uint_lt(length, sizeof logged);
    memcpy(logged, message, length + 1);
}

START_TEST(log_lines)
{
    memory.host.log = take_line;
    hy_log(&memory, HYMBA_LOG_WARNING, "%s has %d", "it", 7);
    ck_assert_str_eq(logged, "it has 7");
    ck_assert_uint_eq(logged_length, 8);
    ck_assert_int_eq(logged_level, HYMBA_LOG_WARNING);
    ck_assert_ptr_eq(logged_user, &host);
    hy_log(&memory, HYMBA_LOG_DEBUG, "%s", "");
    ck_assert_uint_eq(logged_length, 0);
}
END_TEST

/* Lengths around the limit: the length told is the length of what is there. */
START_TEST(long_log_lines_are_cut)
{
    char line[900];
    memory.host.log = take_line;
    for (size_t length = 480; length < sizeof line; length++) {
        memset(line, 'x', length);
        line[length] = '\0';
        hy_log(&memory, HYMBA_LOG_INFO, "%s", line);
        ck_assert_uint_eq(strlen(logged), logged_length);
        ck_assert_mem_eq(logged, line, logged_length);
        ck_assert_uint_ge(logged_length, hy_min_size(length, 500));
    }
}
END_TEST

/* ---------------------------------------------------------------- progress */

START_TEST(progress_is_passed_on)
{
    test_status(hy_progress(&memory, HYMBA_PHASE_WRITE, 5, UINT64_MAX, &error), HYMBA_OK, error);
    ck_assert_int_eq(host.phase, HYMBA_PHASE_WRITE);
    ck_assert_uint_eq(host.done, 5);
    ck_assert_uint_eq(host.total, UINT64_MAX);
    host.cancel_at = 1;
    test_status(hy_progress(&memory, HYMBA_PHASE_META, 6, 7, &error), HYMBA_ERROR_CANCELLED,
                error);
    ck_assert_int_eq(error.status, HYMBA_ERROR_CANCELLED);
    ck_assert_uint_gt(strlen(error.message), 0);
    test_status(hy_progress(&memory, HYMBA_PHASE_META, 7, 7, &error), HYMBA_OK, error);
    host.cancel_at = 3;
    test_status(hy_progress(&memory, HYMBA_PHASE_META, 7, 7, NULL), HYMBA_ERROR_CANCELLED, error);
}
END_TEST

/* ----------------------------------------------------------------- checked */

START_TEST(checked_arithmetic)
{
    size_t size = 0;
    uint64_t number = 0;
    ck_assert(hy_add_size(SIZE_MAX - 5, 5, &size) && size == SIZE_MAX);
    ck_assert(!hy_add_size(SIZE_MAX - 5, 6, &size));
    ck_assert(hy_mul_size(SIZE_MAX / 3, 3, &size) && size == SIZE_MAX / 3 * 3);
    ck_assert(!hy_mul_size(SIZE_MAX / 3 + 1, 3, &size));
    ck_assert(hy_mul_size(0, SIZE_MAX, &size) && size == 0);
    ck_assert(hy_add_u64(UINT64_MAX, 0, &number) && number == UINT64_MAX);
    ck_assert(!hy_add_u64(UINT64_MAX, 1, &number));
    ck_assert(hy_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 31, &number) &&
              number == UINT64_C(1) << 63);
    ck_assert(!hy_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &number));
    ck_assert_uint_eq(hy_min_size(3, 4), 3);
    ck_assert_uint_eq(hy_min_size(4, 3), 3);
    ck_assert_uint_eq(hy_max_size(3, 4), 4);
    ck_assert_uint_eq(hy_max_size(4, 3), 4);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory");
    TCase *tests = tcase_create("memory");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, blocks_come_and_go);
    tcase_add_test(tests, size_zero_is_a_block);
    tcase_add_test(tests, zeroed);
    tcase_add_test(tests, sizes_that_do_not_fit);
    tcase_add_test(tests, realloc_keeps_the_beginning);
    tcase_add_test(tests, failed_realloc_keeps_the_block);
    tcase_add_test(tests, failures_give_null);
    tcase_add_test(tests, copied_text);
    tcase_add_test(tests, half_an_allocator_is_refused);
    tcase_add_test(tests, defaults);
    tcase_add_test(tests, children_have_the_hooks_and_their_own_counts);
    tcase_add_test(tests, limits);
    tcase_add_test(tests, no_memory_says_for_what);
    tcase_add_test(tests, log_lines);
    tcase_add_test(tests, long_log_lines_are_cut);
    tcase_add_test(tests, progress_is_passed_on);
    tcase_add_test(tests, checked_arithmetic);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
