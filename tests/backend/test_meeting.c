/* Ranks that meet at an address, each on a thread, and whoever else comes there. */
#include "support.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/meeting_words.h"
#include "host.h"
#include "meeting_world.h"

enum { LONG_MS = 60000, SHORT_MS = 400, MOST = 8 };

static char place[128];
static struct meeting_rank ranks[MOST];
static int open_before;

static void begin(void)
{
    memset(ranks, 0, sizeof ranks);
    ck_assert(meeting_free_place(AF_INET, place, sizeof place));
    open_before = meeting_open_files();
}

static void end(void)
{
    ck_assert_int_eq(meeting_open_files(), open_before);
}

static void start(uint32_t rank, uint32_t world_size)
{
    meeting_start(&ranks[rank], place, rank, world_size, LONG_MS);
}

static void join_all(uint32_t world_size)
{
    for (uint32_t rank = 0; rank < world_size; rank++) {
        meeting_join(&ranks[rank], HYMBA_OK);
        ck_assert(meeting_has_id(&ranks[rank]));
    }
}

static void greet(int socket, uint32_t version, uint32_t rank, uint32_t world_size)
{
    struct hy_greeting greeting = {version, rank, world_size};
    unsigned char bytes[HY_GREETING_BYTES];
    hy_greeting_write(&greeting, bytes);
    meeting_say(socket, bytes, sizeof bytes);
}

/* -------------------------------------------------------------------- meeting */

static const uint32_t sizes[] = {2, 3, MOST};

START_TEST(ranks_meet)
{
    uint32_t n = sizes[_i / 3];
    if (_i % 3 == 1 && !meeting_free_place(AF_INET6, place, sizeof place)) {
        printf("skipped: ranks_meet: no IPv6 here\n");
        return;
    }
    if (_i % 3 == 2) { /* a name, with one address or two */
        char port[16];
        snprintf(port, sizeof port, "%s", strrchr(place, ':'));
        snprintf(place, sizeof place, "tcp://localhost%s", port);
    }
    for (uint32_t rank = 0; rank < n; rank++)
        start(rank, n);
    join_all(n);
}
END_TEST

START_TEST(rank_0_may_come_last)
{
    for (uint32_t rank = 3; rank-- > 0;) {
        start(rank, 3);
        poll(NULL, 0, 120); /* so that they try in vain */
    }
    join_all(3);
}
END_TEST

START_TEST(one_place_serves_run_after_run)
{
    for (int run = 0; run < 5; run++) {
        start(0, 2);
        start(1, 2);
        join_all(2);
    }
}
END_TEST

/* -------------------------------------------------------------------- absence */

START_TEST(missing_ranks_are_named_on_all)
{
    meeting_start(&ranks[0], place, 0, 5, SHORT_MS);
    start(1, 5);
    start(3, 5);
    meeting_join(&ranks[0], HYMBA_ERROR_TIMEOUT);
    meeting_join(&ranks[1], HYMBA_ERROR_TIMEOUT);
    meeting_join(&ranks[3], HYMBA_ERROR_TIMEOUT);
    for (int rank = 0; rank < 4; rank++)
        if (rank != 2)
            ck_assert_msg(strstr(ranks[rank].error.message, "ranks 2 and 4 of 5 did not come"),
                          "rank %d: %s", rank, ranks[rank].error.message);
}
END_TEST

START_TEST(rank_0_does_not_come)
{
    meeting_start(&ranks[1], place, 1, 2, SHORT_MS);
    meeting_join(&ranks[1], HYMBA_ERROR_TIMEOUT);
    ck_assert_int_eq(ranks[1].error.system_code, ECONNREFUSED);
    ck_assert_ptr_nonnull(strstr(ranks[1].error.message, "rank 0"));
    ck_assert_ptr_nonnull(strstr(ranks[1].error.message, place));
}
END_TEST

/* A rank that goes is missed again, and may come again. */
START_TEST(a_rank_goes_and_comes_again)
{
    start(0, 3);
    int socket = meeting_call(place);
    greet(socket, HY_MEETING_VERSION, 1, 3);
    close(socket);
    start(1, 3);
    meeting_start(&ranks[2], place, 2, 3, LONG_MS);
    join_all(3);
}
END_TEST

START_TEST(a_rank_that_has_gone_is_missing)
{
    meeting_start(&ranks[0], place, 0, 3, SHORT_MS);
    int socket = meeting_call(place);
    greet(socket, HY_MEETING_VERSION, 1, 3);
    shutdown(socket, SHUT_WR);
    meeting_join(&ranks[0], HYMBA_ERROR_TIMEOUT);
    ck_assert_ptr_nonnull(strstr(ranks[0].error.message, "ranks 1 and 2 of 3"));
    close(socket);
}
END_TEST

/* ------------------------------------------------------------------ strangers */

static const struct {
    const char *bytes;
    size_t size;
} noises[] = {
    {"", 0},
    {"h", 1},
    {"hymba go", 8},
    {"hymba go\1\0\0\0\1\0\0\0\2\0\0", 19},
    {"hymba go\1\0\0\0\1\0\0\0\2\0\0\0\1\0\0\0", 24},
    {"hymba go\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", 24},
    {"hymba go\1\0\0\0\2\0\0\0\2\0\0\0\0\0\0\0", 24},
    {"hymba go\1\0\0\0\1\0\0\0\3\0\0\0\0\0\0\0", 24},
    {"hymba go\2\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0", 24},
    {"hymba go\377\377\377\377\377\377\377\377\377\377\377\377\0\0\0\0", 24},
    {"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n", 53},
    {"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 32},
};

enum { N_NOISES = sizeof noises / sizeof noises[0] };

/* Some hang up at once, some stay, whether they have said all they want to or not. */
START_TEST(strangers_are_sent_away)
{
    int stay[N_NOISES];
    start(0, 2);
    for (int i = 0; i < N_NOISES; i++) {
        int go = meeting_call(place);
        stay[i] = meeting_call(place);
        meeting_say(go, noises[i].bytes, noises[i].size);
        meeting_say(stay[i], noises[i].bytes, noises[i].size);
        close(go);
    }
    for (int i = 0; i < N_NOISES; i++)
        if (noises[i].size >= HY_GREETING_BYTES)
            ck_assert_msg(meeting_hangs_up(stay[i], NULL, 0), "noise %d is listened to", i);
    start(1, 2);
    join_all(2);
    for (int i = 0; i < N_NOISES; i++)
        close(stay[i]);
}
END_TEST

START_TEST(a_crowd_of_silent_strangers_keeps_nobody_out)
{
    enum { CROWD = 150 };
    int crowd[CROWD];
    start(0, 2);
    for (int i = 0; i < CROWD; i++)
        crowd[i] = meeting_call(place);
    start(1, 2);
    join_all(2);
    for (int i = 0; i < CROWD; i++)
        close(crowd[i]);
}
END_TEST

START_TEST(a_greeting_may_come_in_pieces)
{
    const char words[] = "hymba go\1\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0";
    unsigned char answer[HY_ANSWER_BYTES];
    struct hy_answer heard;
    start(0, 2);
    int socket = meeting_call(place);
    for (int i = 0; i < HY_GREETING_BYTES; i++) {
        meeting_say(socket, words + i, 1);
        poll(NULL, 0, 1);
    }
    ck_assert(meeting_hangs_up(socket, answer, sizeof answer));
    ck_assert(hy_answer_read(answer, &heard));
    ck_assert_uint_eq(heard.verdict, HY_WELCOME);
    ck_assert_mem_eq(heard.id, ranks[0].id, sizeof heard.id);
    close(socket);
    meeting_join(&ranks[0], HYMBA_OK);
}
END_TEST

/* A rank that goes on talking is none; its place is free again. */
START_TEST(who_says_more_than_a_greeting_goes)
{
    start(0, 3);
    int socket = meeting_call(place);
    greet(socket, HY_MEETING_VERSION, 1, 3);
    greet(socket, HY_MEETING_VERSION, 1, 3);
    ck_assert(meeting_hangs_up(socket, NULL, 0));
    close(socket);
    start(1, 3);
    start(2, 3);
    join_all(3);
}
END_TEST

/* ------------------------------------------------------------------- refusals */

START_TEST(another_world_size_is_refused)
{
    struct meeting_rank wrong;
    memset(&wrong, 0, sizeof wrong);
    start(0, 2);
    meeting_start(&wrong, place, 1, 3, LONG_MS);
    meeting_join(&wrong, HYMBA_ERROR_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(wrong.error.message, "rank 1 of 3"));
    ck_assert_ptr_nonnull(strstr(wrong.error.message, "world_size is 2"));
    start(1, 2);
    join_all(2);
}
END_TEST

START_TEST(of_two_with_one_rank_one_is_refused)
{
    struct meeting_rank twins[2];
    memset(twins, 0, sizeof twins);
    start(0, 3);
    meeting_start(&twins[0], place, 1, 3, LONG_MS);
    meeting_start(&twins[1], place, 1, 3, LONG_MS);
    while (!twins[0].done && !twins[1].done)
        poll(NULL, 0, 1);
    int refused = twins[0].done ? 0 : 1;
    meeting_join(&twins[refused], HYMBA_ERROR_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(twins[refused].error.message, "another one"));
    start(2, 3);
    meeting_join(&twins[!refused], HYMBA_OK);
    ck_assert(meeting_has_id(&twins[!refused]));
    meeting_join(&ranks[0], HYMBA_OK);
    meeting_join(&ranks[2], HYMBA_OK);
}
END_TEST

/* Why a rank was refused stands in rank 0's sentence: it is likely the one that is missing. */
START_TEST(a_refusal_is_told_with_the_missing)
{
    meeting_start(&ranks[0], place, 0, 2, SHORT_MS);
    meeting_start(&ranks[1], place, 1, 4, LONG_MS);
    meeting_join(&ranks[1], HYMBA_ERROR_ARGUMENT);
    meeting_join(&ranks[0], HYMBA_ERROR_TIMEOUT);
    ck_assert_ptr_nonnull(strstr(ranks[0].error.message, "rank 1 of 2 did not come"));
    ck_assert_ptr_nonnull(strstr(ranks[0].error.message, "world_size is 4, expected 2"));
}
END_TEST

/* --------------------------------------------------------------- false hosts */

static const struct {
    uint32_t version, verdict, number;
    hymba_status status;
    const char *words;
} answers[] = {
    {1, HY_WELCOME, 2, HYMBA_OK, ""},
    {1, HY_WELCOME, 3, HYMBA_ERROR_ARGUMENT, "refused"},
    {2, HY_WELCOME, 2, HYMBA_ERROR_ARGUMENT, "refused"},
    {1, HY_OTHER_VERSION, 7, HYMBA_ERROR_ARGUMENT, "version 7"},
    {1, HY_OTHER_SIZE, 9, HYMBA_ERROR_ARGUMENT, "world_size is 9"},
    {1, HY_NO_SUCH_RANK, 2, HYMBA_ERROR_ARGUMENT, "refused"},
    {1, HY_RANK_TAKEN, 2, HYMBA_ERROR_ARGUMENT, "another one"},
    {1, HY_OTHERS_MISSING, 2, HYMBA_ERROR_TIMEOUT, "did not come"},
    {1, 6, 2, HYMBA_ERROR_ARGUMENT, "answer is 6"},
    {1, ~0u, ~0u, HYMBA_ERROR_ARGUMENT, "answer is 4294967295"},
};

START_TEST(a_rank_understands_every_answer)
{
    struct hy_answer answer = {answers[_i].version, answers[_i].verdict, answers[_i].number, {0}};
    unsigned char bytes[HY_ANSWER_BYTES];
    for (int i = 0; i < HY_UNIQUE_ID_BYTES; i++)
        answer.id[i] = (unsigned char)(i + 1);
    hy_answer_write(&answer, bytes);
    int listener = meeting_listen(place);
    start(1, 2);
    int guest = meeting_take_guest(listener);
    meeting_say(guest, bytes, sizeof bytes);
    meeting_join(&ranks[1], answers[_i].status);
    if (answers[_i].status == HYMBA_OK)
        ck_assert(meeting_has_id(&ranks[1]));
    else
        ck_assert_msg(strstr(ranks[1].error.message, answers[_i].words), "%s",
                      ranks[1].error.message);
    close(guest);
    close(listener);
}
END_TEST

/* Whoever listens there and is no rank 0 is tried again, until rank 0 is there. */
START_TEST(a_rank_tries_until_rank_0_is_there)
{
    char noise[HY_ANSWER_BYTES];
    memset(noise, 'x', sizeof noise);
    int listener = meeting_listen(place);
    start(1, 2);
    for (size_t size = 0; size <= sizeof noise; size += sizeof noise / 2) {
        int guest = meeting_take_guest(listener);
        meeting_say(guest, noise, size);
        close(guest);
    }
    close(listener);
    start(0, 2);
    join_all(2);
}
END_TEST

START_TEST(a_silent_host_is_not_waited_for_for_ever)
{
    int listener = meeting_listen(place);
    meeting_start(&ranks[1], place, 1, 2, SHORT_MS);
    int guest = meeting_take_guest(listener);
    meeting_say(guest, "hymba id", 8);
    meeting_join(&ranks[1], HYMBA_ERROR_TIMEOUT);
    ck_assert_ptr_nonnull(strstr(ranks[1].error.message, "it was reached"));
    close(guest);
    close(listener);
}
END_TEST

/* --------------------------------------------------------------------- places */

START_TEST(a_port_in_use_is_refused)
{
    int listener = meeting_listen(place);
    start(0, 2);
    meeting_join(&ranks[0], HYMBA_ERROR_FILE);
    ck_assert_int_eq(ranks[0].error.system_code, EADDRINUSE);
    ck_assert_ptr_nonnull(strstr(ranks[0].error.message, place));
    close(listener);
}
END_TEST

START_TEST(an_address_of_another_machine_is_refused)
{
    snprintf(place, sizeof place, "tcp://203.0.113.7:29500"); /* kept for documents */
    start(0, 2);
    meeting_join(&ranks[0], HYMBA_ERROR_FILE);
    ck_assert_int_eq(ranks[0].error.system_code, EADDRNOTAVAIL);
}
END_TEST

START_TEST(a_place_that_is_none_is_refused)
{
    snprintf(place, sizeof place, "tcp://127.0.0.1");
    start(_i, 2);
    meeting_join(&ranks[_i], HYMBA_ERROR_ARGUMENT);
}
END_TEST

/* ---------------------------------------------------------------------- hooks */

START_TEST(the_progress_hook_ends_the_waiting)
{
    struct test_host host;
    test_host_init(&host);
    host.cancel_at = 2;
    ranks[_i].host = &host.host;
    start(_i, 2);
    meeting_join(&ranks[_i], HYMBA_ERROR_CANCELLED);
    ck_assert_int_eq(host.phase, HYMBA_PHASE_MEETING);
    ck_assert_uint_eq(host.done, 1);
    ck_assert_uint_eq(host.total, 2);
    test_host_check(&host);
}
END_TEST

START_TEST(a_lack_of_memory_is_told)
{
    struct test_host host;
    test_host_init(&host);
    ranks[0].host = &host.host;
    for (long k = 0;; k++) {
        test_host_fail_at(&host, k, false);
        meeting_start(&ranks[0], place, 0, 2, 1);
        ck_assert_int_eq(pthread_join(ranks[0].thread, NULL), 0);
        if (ranks[0].status != HYMBA_ERROR_MEMORY) {
            ck_assert_int_gt(k, 1);
            break;
        }
    }
    ck_assert_int_eq(ranks[0].status, HYMBA_ERROR_TIMEOUT);
    test_host_check(&host);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("meetings");
    TCase *tests = tcase_create("address");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, begin, end);
    tcase_add_loop_test(tests, ranks_meet, 0, 9);
    tcase_add_test(tests, rank_0_may_come_last);
    tcase_add_test(tests, one_place_serves_run_after_run);
    tcase_add_test(tests, missing_ranks_are_named_on_all);
    tcase_add_test(tests, rank_0_does_not_come);
    tcase_add_test(tests, a_rank_goes_and_comes_again);
    tcase_add_test(tests, a_rank_that_has_gone_is_missing);
    tcase_add_test(tests, strangers_are_sent_away);
    tcase_add_test(tests, a_crowd_of_silent_strangers_keeps_nobody_out);
    tcase_add_test(tests, a_greeting_may_come_in_pieces);
    tcase_add_test(tests, who_says_more_than_a_greeting_goes);
    tcase_add_test(tests, another_world_size_is_refused);
    tcase_add_test(tests, of_two_with_one_rank_one_is_refused);
    tcase_add_test(tests, a_refusal_is_told_with_the_missing);
    tcase_add_loop_test(tests, a_rank_understands_every_answer, 0,
                        (int)(sizeof answers / sizeof answers[0]));
    tcase_add_test(tests, a_rank_tries_until_rank_0_is_there);
    tcase_add_test(tests, a_silent_host_is_not_waited_for_for_ever);
    tcase_add_test(tests, a_port_in_use_is_refused);
    tcase_add_test(tests, an_address_of_another_machine_is_refused);
    tcase_add_loop_test(tests, a_place_that_is_none_is_refused, 0, 2);
    tcase_add_loop_test(tests, the_progress_hook_ends_the_waiting, 0, 2);
    tcase_add_test(tests, a_lack_of_memory_is_told);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
