/* What is said at meetings, and the places where they are held: tables of right and wrong ones. */
#include "support.h"

#include <stdint.h>
#include <string.h>

#include "backend/meeting.h"
#include "backend/meeting_words.h"

static hymba_error error = {.struct_size = sizeof error};

/* ------------------------------------------------------------------- places */

static const struct {
    const char *text, *host, *port, *path; /* host NULL, path NULL: it is none */
} places[] = {
    {"tcp://127.0.0.1:29500", "127.0.0.1", "29500", NULL},
    {"tcp://node-3.cluster_a:1", "node-3.cluster_a", "1", NULL},
    {"tcp://[::1]:65535", "::1", "65535", NULL},
    {"tcp://[fe80::1%eth0]:80", "fe80::1%eth0", "80", NULL},
    {"file:/tmp/meeting", NULL, NULL, "/tmp/meeting"},
    {"file://tmp/meeting", NULL, NULL, "//tmp/meeting"},
    {"", NULL, NULL, NULL},
    {"tcp", NULL, NULL, NULL},
    {"tcp://", NULL, NULL, NULL},
    {"tcp://:29500", NULL, NULL, NULL},
    {"tcp://host", NULL, NULL, NULL},
    {"tcp://host:", NULL, NULL, NULL},
    {"tcp://host:0", NULL, NULL, NULL},
    {"tcp://host:08", NULL, NULL, NULL},
    {"tcp://host:65536", NULL, NULL, NULL},
    {"tcp://host:99999", NULL, NULL, NULL},
    {"tcp://host:123456", NULL, NULL, NULL},
    {"tcp://host:-1", NULL, NULL, NULL},
    {"tcp://host:+1", NULL, NULL, NULL},
    {"tcp://host:80 ", NULL, NULL, NULL},
    {"tcp://host:http", NULL, NULL, NULL},
    {"tcp://ho st:80", NULL, NULL, NULL},
    {"tcp://user@host:80", NULL, NULL, NULL},
    {"tcp://host/path:80", NULL, NULL, NULL},
    {"tcp://::1:80", NULL, NULL, NULL},
    {"tcp://[::1]80", NULL, NULL, NULL},
    {"tcp://[::1]", NULL, NULL, NULL},
    {"tcp://[::1", NULL, NULL, NULL},
    {"tcp://[]:80", NULL, NULL, NULL},
    {"tcp://[a]b]:80", NULL, NULL, NULL},
    {"udp://host:80", NULL, NULL, NULL},
    {"TCP://host:80", NULL, NULL, NULL},
    {"host:80", NULL, NULL, NULL},
    {"file:", NULL, NULL, NULL},
    {"file:/", NULL, NULL, NULL},
    {"file:meeting", NULL, NULL, NULL},
    {"/tmp/meeting", NULL, NULL, NULL},
};

START_TEST(a_place_is_read_or_refused)
{
    struct hy_place place;
    bool good = places[_i].host || places[_i].path;
    test_status(hy_place_read(places[_i].text, "the place", &place, &error),
                good ? HYMBA_OK : HYMBA_ERROR_ARGUMENT, error);
    if (!good) {
        ck_assert_ptr_nonnull(strstr(error.message, "the place"));
        return;
    }
    ck_assert_int_eq(place.is_file, places[_i].path != NULL);
    if (place.is_file) {
        ck_assert_str_eq(place.path, places[_i].path);
    } else {
        ck_assert_str_eq(place.host, places[_i].host);
        ck_assert_str_eq(place.port, places[_i].port);
    }
}
END_TEST

START_TEST(a_place_has_an_end)
{
    static char text[5000];
    struct hy_place place;
    memset(text, 'a', sizeof text - 1);
    memcpy(text, "file:/", 6);
    text[5 + 4095] = '\0';
    test_status(hy_place_read(text, "place", &place, &error), HYMBA_OK, error);
    text[5 + 4095] = 'a';
    test_status(hy_place_read(text, "place", &place, &error), HYMBA_ERROR_ARGUMENT, error);
    memcpy(text, "tcp://", 6);
    for (size_t length = 250; length < 260; length++) {
        memset(text + 6, 'a', length);
        memcpy(text + 6 + length, ":80", 4);
        test_status(hy_place_read(text, "place", &place, &error),
                    length < 256 ? HYMBA_OK : HYMBA_ERROR_ARGUMENT, error);
    }
}
END_TEST

/* ---------------------------------------------------------------- greetings */

#define U32(n) (n) & 255, (n) >> 8 & 255, (n) >> 16 & 255, (n) >> 24 & 255
#define MARK 'h', 'y', 'm', 'b', 'a', ' ', 'g', 'o'
enum { NONE = -1 };

/* To rank 0 of four, where rank 2 has come. */
static const struct {
    const char *what;
    unsigned char bytes[HY_GREETING_BYTES];
    int verdict; /* NONE: it is no greeting */
} greetings[] = {
    {"rank 1", {MARK, U32(1), U32(1), U32(4), U32(0)}, HY_WELCOME},
    {"rank 3", {MARK, U32(1), U32(3), U32(4), U32(0)}, HY_WELCOME},
    {"rank 2 again", {MARK, U32(1), U32(2), U32(4), U32(0)}, HY_RANK_TAKEN},
    {"rank 0", {MARK, U32(1), U32(0), U32(4), U32(0)}, HY_NO_SUCH_RANK},
    {"rank 4", {MARK, U32(1), U32(4), U32(4), U32(0)}, HY_NO_SUCH_RANK},
    {"a far rank", {MARK, U32(1), U32(1u << 31), U32(4), U32(0)}, HY_NO_SUCH_RANK},
    {"the last number", {MARK, U32(1), U32(~0u), U32(4), U32(0)}, HY_NO_SUCH_RANK},
    {"a smaller world", {MARK, U32(1), U32(1), U32(3), U32(0)}, HY_OTHER_SIZE},
    {"a larger world", {MARK, U32(1), U32(1), U32(5), U32(0)}, HY_OTHER_SIZE},
    {"no world", {MARK, U32(1), U32(1), U32(0), U32(0)}, HY_OTHER_SIZE},
    {"the world with bytes swapped", {MARK, U32(1), U32(1), U32(4u << 24), U32(0)}, HY_OTHER_SIZE},
    {"version 0", {MARK, U32(0), U32(1), U32(4), U32(0)}, HY_OTHER_VERSION},
    {"version 2", {MARK, U32(2), U32(1), U32(4), U32(0)}, HY_OTHER_VERSION},
    {"something in the reserved place", {MARK, U32(1), U32(1), U32(4), U32(1)}, NONE},
    {"zeros", {0}, NONE},
    {"an answer", {'h', 'y', 'm', 'b', 'a', ' ', 'i', 'd', U32(1), U32(0), U32(4), U32(0)}, NONE},
    {"a request", "GET / HTTP/1.1\r\nHost: ", NONE},
    {"another mark", {'H', 'y', 'm', 'b', 'a', ' ', 'g', 'o', U32(1), U32(1), U32(4), U32(0)},
     NONE},
};

START_TEST(a_greeting_is_judged)
{
    const unsigned char present[HY_MAX_RANKS / 8] = {1u << 2};
    struct hy_greeting greeting;
    int verdict = NONE;
    if (hy_greeting_read(greetings[_i].bytes, &greeting))
        verdict = (int)hy_greeting_judge(&greeting, 4, present);
    ck_assert_msg(verdict == greetings[_i].verdict, "%s: %d", greetings[_i].what, verdict);
}
END_TEST

START_TEST(words_come_back_as_they_were)
{
    struct hy_greeting greeting = {HY_MEETING_VERSION, 0x01020304, 0xfffefdfc}, read;
    struct hy_answer answer = {HY_MEETING_VERSION, HY_OTHER_SIZE, 0x80000001, {0}}, heard;
    unsigned char bytes[HY_ANSWER_BYTES];
    for (size_t i = 0; i < sizeof answer.id; i++)
        answer.id[i] = (unsigned char)(i * 7 + 1);
    hy_greeting_write(&greeting, bytes);
    ck_assert(hy_greeting_read(bytes, &read));
    ck_assert_mem_eq(&read, &greeting, sizeof read);
    hy_answer_write(&answer, bytes);
    ck_assert(hy_answer_read(bytes, &heard));
    ck_assert_mem_eq(&heard, &answer, sizeof heard);
    bytes[0] ^= 1;
    ck_assert(!hy_answer_read(bytes, &heard));
}
END_TEST

START_TEST(ranks_are_named)
{
    unsigned char ranks[HY_MAX_RANKS / 8] = {0};
    char text[64];
    ranks[0] = 1u << 1;
    hy_ranks_describe(ranks, HY_MAX_RANKS, text, sizeof text);
    ck_assert_str_eq(text, "rank 1");
    ranks[31] = 1u << 7;
    hy_ranks_describe(ranks, HY_MAX_RANKS, text, sizeof text);
    ck_assert_str_eq(text, "ranks 1 and 255");
    ranks[1] = 1u << 4;
    hy_ranks_describe(ranks, HY_MAX_RANKS, text, sizeof text);
    ck_assert_str_eq(text, "ranks 1, 12 and 255");
    memset(ranks, 0xff, sizeof ranks);
    for (size_t capacity = 40; capacity <= sizeof text; capacity++) {
        memset(text, 'x', sizeof text);
        hy_ranks_describe(ranks, HY_MAX_RANKS, text, capacity);
        ck_assert_uint_lt(strlen(text), capacity);
        ck_assert_str_eq(strstr(text, "..."), "...");
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("what is said at meetings");
    TCase *tests = tcase_create("words");
    tcase_add_loop_test(tests, a_place_is_read_or_refused, 0,
                        (int)(sizeof places / sizeof places[0]));
    tcase_add_test(tests, a_place_has_an_end);
    tcase_add_loop_test(tests, a_greeting_is_judged, 0,
                        (int)(sizeof greetings / sizeof greetings[0]));
    tcase_add_test(tests, words_come_back_as_they_were);
    tcase_add_test(tests, ranks_are_named);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
