/* Ranks that meet at a file, each on a thread. */
#include "support.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/meeting_words.h"
#include "host.h"
#include "meeting_world.h"

enum { LONG_MS = 60000, SHORT_MS = 300, MOST = 3 };

static char place[1024];
static const char *path; /* within it */
static struct meeting_rank ranks[MOST];

static void begin(void)
{
    memset(ranks, 0, sizeof ranks);
    snprintf(place, sizeof place, "file:%s/meeting", test_directory());
    path = place + 5;
    unlink(path);
}

static void start(uint32_t rank, uint32_t world_size, uint32_t timeout_ms)
{
    meeting_start(&ranks[rank], place, rank, world_size, timeout_ms);
}

static bool is_there(void)
{
    return access(path, F_OK) == 0;
}

static void write_words(uint32_t version, uint32_t verdict, uint32_t number, size_t size)
{
    struct hy_answer words = {version, verdict, number, {0}};
    unsigned char bytes[2 * HY_ANSWER_BYTES] = {0};
    hy_answer_write(&words, bytes);
    test_write_file(path, bytes, size);
}

START_TEST(ranks_meet_in_any_order)
{
    uint32_t n = 2 + (uint32_t)_i % 2;
    for (uint32_t i = 0; i < n; i++) {
        start(_i < 2 ? i : n - 1 - i, n, LONG_MS);
        if (_i >= 2)
            poll(NULL, 0, 120); /* so that they look in vain */
    }
    for (uint32_t rank = 0; rank < n; rank++) {
        meeting_join(&ranks[rank], HYMBA_OK);
        ck_assert(meeting_has_id(&ranks[rank]));
    }
    hy_meeting_end(&ranks[1].meeting); /* which is not rank 1's affair */
    ck_assert(is_there());
    hy_meeting_end(&ranks[0].meeting);
    ck_assert(!is_there());
}
END_TEST

START_TEST(a_file_that_is_there_belongs_to_another_run)
{
    for (int i = 0; i < 2; i++) {
        test_write_file(path, "mine", i == 0 ? 4 : 0);
        start(0, 2, LONG_MS);
        meeting_join(&ranks[0], HYMBA_ERROR_FILE);
        ck_assert_int_eq(ranks[0].error.system_code, EEXIST);
        ck_assert_ptr_nonnull(strstr(ranks[0].error.message, "another run"));
        size_t size;
        char *found = test_read_file(path, &size);
        ck_assert_uint_eq(size, i == 0 ? 4 : 0);
        free(found);
    }
}
END_TEST

START_TEST(a_place_that_cannot_be_written_is_refused)
{
    test_write_file(path, "", 0);
    snprintf(place, sizeof place, "file:%s/%s", test_directory(),
             _i == 0 ? "nowhere/meeting" : "meeting/meeting");
    start(0, 2, LONG_MS);
    meeting_join(&ranks[0], HYMBA_ERROR_FILE);
    ck_assert_int_eq(ranks[0].error.system_code, _i == 0 ? ENOENT : ENOTDIR);
}
END_TEST

START_TEST(rank_0_does_not_write)
{
    for (int i = 0; i < 2; i++) { /* the second time it was stopped before it wrote */
        if (i == 1)
            test_write_file(path, "", 0);
        start(1, 2, SHORT_MS);
        meeting_join(&ranks[1], HYMBA_ERROR_TIMEOUT);
        ck_assert_ptr_nonnull(strstr(ranks[1].error.message, "rank 0 of 2 did not write"));
        ck_assert_ptr_nonnull(strstr(ranks[1].error.message, path));
    }
}
END_TEST

START_TEST(an_empty_file_is_waited_for)
{
    test_write_file(path, "", 0);
    start(1, 2, LONG_MS);
    poll(NULL, 0, 120);
    ck_assert(!ranks[1].done);
    unlink(path);
    start(0, 2, LONG_MS);
    meeting_join(&ranks[0], HYMBA_OK);
    meeting_join(&ranks[1], HYMBA_OK);
    ck_assert(meeting_has_id(&ranks[1]));
}
END_TEST

static const struct {
    uint32_t version, verdict, number;
    size_t size;
    hymba_status status;
} contents[] = {
    {1, HY_WELCOME, 2, HY_ANSWER_BYTES, HYMBA_OK},
    {1, HY_WELCOME, 3, HY_ANSWER_BYTES, HYMBA_ERROR_ARGUMENT},
    {1, HY_WELCOME, 0, HY_ANSWER_BYTES, HYMBA_ERROR_ARGUMENT},
    {0, HY_WELCOME, 2, HY_ANSWER_BYTES, HYMBA_ERROR_FORMAT},
    {2, HY_WELCOME, 2, HY_ANSWER_BYTES, HYMBA_ERROR_FORMAT},
    {1, HY_OTHER_SIZE, 2, HY_ANSWER_BYTES, HYMBA_ERROR_FORMAT},
    {1, HY_WELCOME, 2, 1, HYMBA_ERROR_FORMAT},
    {1, HY_WELCOME, 2, HY_ANSWER_BYTES - 1, HYMBA_ERROR_FORMAT},
    {1, HY_WELCOME, 2, HY_ANSWER_BYTES + 1, HYMBA_ERROR_FILE},
};

START_TEST(what_lies_there_is_not_believed)
{
    write_words(contents[_i].version, contents[_i].verdict, contents[_i].number,
                contents[_i].size);
    start(1, 2, LONG_MS);
    meeting_join(&ranks[1], contents[_i].status);
    if (contents[_i].status != HYMBA_OK)
        ck_assert_ptr_nonnull(strstr(ranks[1].error.message, path));
}
END_TEST

START_TEST(a_folder_is_no_file)
{
    ck_assert_int_eq(mkdir(path, 0700), 0);
    for (uint32_t rank = 0; rank < 2; rank++) {
        start(rank, 2, LONG_MS);
        meeting_join(&ranks[rank], HYMBA_ERROR_FILE);
    }
    ck_assert_int_eq(rmdir(path), 0);
}
END_TEST

START_TEST(the_progress_hook_ends_the_waiting)
{
    struct test_host host;
    test_host_init(&host);
    host.cancel_at = 1;
    ranks[1].host = &host.host;
    start(1, 2, LONG_MS);
    meeting_join(&ranks[1], HYMBA_ERROR_CANCELLED);
    test_host_check(&host);
}
END_TEST

/* Whatever is missing, rank 0 leaves nothing. */
START_TEST(a_lack_of_memory_is_told)
{
    struct test_host host;
    test_host_init(&host);
    long k = 0;
    for (bool good = false; !good; k++) {
        for (uint32_t rank = 0; rank < 2; rank++) {
            test_host_fail_at(&host, k, false);
            ranks[rank].host = &host.host;
            start(rank, 2, LONG_MS);
            ck_assert_int_eq(pthread_join(ranks[rank].thread, NULL), 0);
            good = ranks[rank].status == HYMBA_OK;
            if (ranks[rank].status != HYMBA_ERROR_MEMORY)
                ck_assert_msg(good, "%s", ranks[rank].error.message);
            if (rank == 0 && !good) {
                ck_assert(!is_there());
                break;
            }
        }
        if (!good)
            unlink(path);
    }
    ck_assert_int_gt(k, 1);
    test_host_check(&host);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("meetings at files");
    TCase *tests = tcase_create("file");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, begin, NULL);
    tcase_add_loop_test(tests, ranks_meet_in_any_order, 0, 4);
    tcase_add_test(tests, a_file_that_is_there_belongs_to_another_run);
    tcase_add_loop_test(tests, a_place_that_cannot_be_written_is_refused, 0, 2);
    tcase_add_test(tests, rank_0_does_not_write);
    tcase_add_test(tests, an_empty_file_is_waited_for);
    tcase_add_loop_test(tests, what_lies_there_is_not_believed, 0,
                        (int)(sizeof contents / sizeof contents[0]));
    tcase_add_test(tests, a_folder_is_no_file);
    tcase_add_test(tests, the_progress_hook_ends_the_waiting);
    tcase_add_test(tests, a_lack_of_memory_is_told);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
