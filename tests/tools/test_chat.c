/*
 * hymba chat with lines from a file: what is computed and what is reused, going back, the end of an
 * answer, limits, saved conversations.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "chat.h"

/* ------------------------------------------------------------------- turns */

START_TEST(a_turn_computes_its_new_tokens_only)
{
    const char *path = in_directory("two-turns");
    char input[1024];
    struct saved saved;
    snprintf(input, sizeof input, "Hello.\n\n  \nWhat did you see?\r\n/save %s\n", path);
    struct result result = run_well(input, "chat --temp 0 -n 12 --verbose");
    struct figures first = figures_of(&result, 0);
    struct figures second = figures_of(&result, 1);
    ck_assert_uint_eq(first.turn, 1);
    ck_assert_uint_eq(first.reused, 0);
    ck_assert_uint_eq(first.length, first.computed);
    ck_assert_uint_eq(second.turn, 2);
    ck_assert_uint_eq(second.reused, first.length);
    ck_assert_uint_eq(second.again, 0);
    ck_assert_uint_eq(second.length, second.reused + second.computed);
    load_saved(demo, path, &saved);
    ck_assert_uint_eq(saved.n_tokens, second.length);
    ck_assert_uint_eq(count_token(&saved, 1), 1); /* BOS */
    check_same_words(saved.text + strlen("<s>"), text_of(&saved));
    check_line_ends(&saved);
    ck_assert_ptr_eq(strstr(text_of(&saved), "User: Hello.\nAssistant: "), text_of(&saved));
    ck_assert_ptr_nonnull(strstr(text_of(&saved), "\nUser: What did you see?\nAssistant: "));
    json_decref(saved.transcript);

    /* The same as one text from nothing. */
    struct result whole = run_well("User: Hello.\nAssistant:",
                                   "generate -m %s -f - --temp 0 -n 12 --no-echo", demo);
    const char *words = whole.out + strspn(whole.out, " ");
    ck_assert_int_eq(strncmp(result.out, words, strlen(words)), 0);
    free_result(&whole);
    free_result(&result);
}
END_TEST

START_TEST(another_answer_after_going_back)
{
    struct result result = run_well("One.\nTwo.\n/rewind\n/stats\nTwo.\n/rewind 2\n/stats\nOne.\n"
                                    "/stats\n/reset\n/stats\nOne.\n/stats\n",
                                    "chat --temp 0 -n 12 --logit-bias 13-inf");
    struct figures rewound = figures_of(&result, 0);
    struct figures begun = figures_of(&result, 1);
    struct figures again = figures_of(&result, 2);
    struct figures reset = figures_of(&result, 3);
    struct figures last = figures_of(&result, 4);
    char first[4096], second[4096];
    ck_assert_uint_eq(rewound.turn, 1);
    ck_assert_uint_gt(rewound.length, 12);
    ck_assert_uint_eq(rewound.reused, rewound.length); /* a snapshot is there */
    ck_assert_uint_eq(rewound.computed, 0);
    ck_assert_uint_eq(begun.turn, 0);
    ck_assert_uint_eq(begun.length, 0);
    ck_assert_uint_eq(again.turn, 1);
    ck_assert_uint_eq(reset.turn, 0);
    ck_assert_uint_eq(reset.length, 0);
    ck_assert_uint_eq(reset.computed, 0);
    ck_assert_uint_eq(last.length, again.length);
    /* greedy: the same words each time, each answer one line (13: the token of a line end) */
    snprintf(first, sizeof first, "%s", nth_line(result.out, 0));
    snprintf(second, sizeof second, "%s", nth_line(result.out, 1));
    ck_assert_str_eq(nth_line(result.out, 2), second);
    ck_assert_str_eq(nth_line(result.out, 3), first);
    ck_assert_str_eq(nth_line(result.out, 4), first);
    free_result(&result);
    /* Without snapshots going back computes, and says so; the answers stay. */
    result = run_well("One.\nTwo.\n/rewind\n/stats\nTwo.\n/stats\n",
                      "chat --temp 0 -n 12 --logit-bias 13-inf --snapshots 0");
    struct figures computed = figures_of(&result, 0);
    ck_assert_uint_eq(computed.length, rewound.length);
    ck_assert_uint_eq(computed.again + computed.reused, computed.length);
    ck_assert_uint_gt(computed.again, 0);
    ck_assert_uint_eq(computed.snapshots, 0);
    ck_assert_str_eq(nth_line(result.out, 2), second);
    free_result(&result);
    /* With a seed another answer is wanted after going back. */
    result = run_well("One.\n/rewind\nOne.\n",
                      "chat --seed 1 --temp 1.5 -n 12 --logit-bias 13-inf");
    snprintf(first, sizeof first, "%s", nth_line(result.out, 0));
    ck_assert_str_ne(nth_line(result.out, 1), first);
    free_result(&result);
}
END_TEST

START_TEST(an_answer_ends)
{
    /* by the end-of-sequence token (2), at a text, after some tokens, where the next turn begins */
    struct result result = run_well("One.\n/stats\n", "chat --temp 0 --logit-bias 2+1000");
    ck_assert_str_eq(result.out, "\n");
    ck_assert_uint_eq(figures_of(&result, 0).answer, 0);
    free_result(&result);
    result = run_well("One.\n", "chat --temp 0 -n 12 --seed 1");
    ck_assert_ptr_nonnull(strstr(result.err, "(cut after 12 tokens, --count)"));
    char word[64], option[128];
    ck_assert_int_eq(sscanf(result.out, "%*s %60s", word), 1);
    free_result(&result);
    snprintf(option, sizeof option, "chat --temp 0 -n 12 --stop nowhere --stop %s", word);
    result = run_well("One.\n/stats\n", "%s", option);
    ck_assert_ptr_null(strstr(result.out, word));
    ck_assert_uint_lt(figures_of(&result, 0).answer, 12);
    free_result(&result);
}
END_TEST

START_TEST(nothing_to_say)
{
    static const char *const inputs[] = {"", "\n\n", "/quit\nNever said.\n", " \t\n/help\n"};
    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
        struct result result = run_well(inputs[i], "chat --seed 5");
        ck_assert_str_eq(result.out, "");
        ck_assert_int_eq(strncmp(result.err, "seed 5\n", 7), 0);
        free_result(&result);
    }
    struct result result = run_well("//x", "chat -n 2"); /* a last line without its end */
    ck_assert_uint_gt(result.out_size, 1);
    free_result(&result);
}
END_TEST

/* SIGINT while an answer is made: it ends, and the next line is taken. */
START_TEST(an_interrupted_answer)
{
    char text[] = "chat -n 1000000 --logit-bias 2-inf --seed 1";
    char *arguments[ARGUMENTS_MOST], input[1024], path[256], *in, *out, *err;
    const struct timespec pause = {.tv_nsec = 20000000};
    struct stat status = {0};
    struct saved saved;
    in = strdup(in_directory("stdin"));
    out = strdup(in_directory("stdout"));
    err = strdup(in_directory("stderr"));
    snprintf(path, sizeof path, "%s", in_directory("interrupted"));
    snprintf(input, sizeof input, "Go on.\n/stats\n/save %s\n", path);
    test_write_file(in, input, strlen(input));
    test_write_file(out, "", 0);
    split_line(text, arguments);
    pid_t child = start_command(in, out, err, arguments);
    while (status.st_size < 40) {
        nanosleep(&pause, NULL);
        ck_assert_int_eq(waitpid(child, NULL, WNOHANG), 0);
        ck_assert_int_eq(stat(out, &status), 0);
    }
    kill(child, SIGINT);
    ck_assert_int_eq(wait_for_command(child), 0);
    struct result result = {.err = test_read_file(err, NULL)};
    ck_assert_ptr_nonnull(strstr(result.err, "(stopped)"));
    load_saved(demo, path, &saved);
    ck_assert_uint_eq(saved.n_tokens, figures_of(&result, 0).length);
    check_same_words(saved.text + strlen("<s>"), text_of(&saved));
    json_decref(saved.transcript);
    free(result.err);
    free(in);
    free(out);
    free(err);
}
END_TEST

/* ------------------------------------------------------------------ limits */

START_TEST(the_context_is_full)
{
    struct result result = run_input("One.\nTwo.\n", "chat --temp 0 -n 100 -c 30 --verbose "
                                                     "--logit-bias 2-inf");
    struct figures first = figures_of(&result, 0);
    ck_assert_int_eq(result.status, 1);
    ck_assert_uint_eq(first.length, 30);
    ck_assert_ptr_nonnull(strstr(result.err, "has reached its limit"));
    ck_assert_ptr_nonnull(strstr(result.err, "hymba: the conversation holds 30 of at most 30"));
    free_result(&result);
    result = run_well("One.\n/rewind\n/stats\nTwo.\n",
                      "chat --temp 0 -n 100 -c 30 --logit-bias 2-inf");
    ck_assert_uint_eq(figures_of(&result, 0).length, 0);
    free_result(&result);
    result = run_well("One.\nTwo.\n/stats\n", "chat --temp 0 -n 40 -c 30 --slide "
                                              "--logit-bias 2-inf");
    ck_assert_uint_gt(figures_of(&result, 0).length, 80);
    free_result(&result);
}
END_TEST

/* --------------------------------------------------------- saved and loaded */

START_TEST(a_saved_chat_goes_on_elsewhere)
{
    char path[256], input[2048], expected[4096];
    struct saved before, after;
    snprintf(path, sizeof path, "%s", in_directory("goes-on"));
    snprintf(input, sizeof input, "One.\nTwo.\n/save %s\nThree.\n/stats\n", path);
    struct result whole = run_well(input, "chat --temp 0 -n 12 --logit-bias 13-inf");
    snprintf(expected, sizeof expected, "%s", nth_line(whole.out, 2));
    load_saved(demo, path, &before);
    ck_assert_uint_eq(json_array_size(json_object_get(before.transcript, "messages")), 4);

    struct result rest = run_well("/stats\nThree.\n/stats\n/rewind 2\n/stats\n",
                                  "chat --temp 0 -n 12 --logit-bias 13-inf --load %s --save %s",
                                  path, path);
    ck_assert_ptr_nonnull(strstr(rest.err, "2 turns"));
    struct figures loaded = figures_of(&rest, 0);
    ck_assert_uint_eq(loaded.turn, 2);
    ck_assert_uint_eq(loaded.length, before.n_tokens);
    ck_assert_uint_eq(loaded.reused, before.n_tokens);
    ck_assert_uint_eq(loaded.computed, 0);
    struct figures figures = figures_of(&rest, 1);
    ck_assert_uint_eq(figures.reused, before.n_tokens);
    ck_assert_uint_eq(figures.again, 0);
    ck_assert_uint_eq(figures.length, figures_of(&whole, 0).length);
    ck_assert_str_eq(nth_line(rest.out, 0), expected);
    ck_assert_uint_eq(figures_of(&rest, 2).computed, 0); /* snapshots were saved too */
    load_saved(demo, path, &after);
    ck_assert_uint_eq(json_array_size(json_object_get(after.transcript, "messages")), 2);
    json_decref(before.transcript);
    json_decref(after.transcript);
    free_result(&rest);
    free_result(&whole);

    /* a chat without a word */
    snprintf(input, sizeof input, "/save %s\n/load %s\nOne.\n/stats\n", path, path);
    rest = run_well(input, "chat -n 2");
    ck_assert_uint_eq(figures_of(&rest, 0).turn, 1);
    free_result(&rest);
}
END_TEST

/* An answer may end inside a character; 243 is the token of byte 0xf0. */
START_TEST(an_answer_that_is_no_text)
{
    char path[256], input[1024];
    struct saved saved;
    snprintf(path, sizeof path, "%s", in_directory("no-text"));
    snprintf(input, sizeof input, "One.\n/save %s\n/load %s\n/stats\nTwo.\n/stats\n", path, path);
    struct result result = run_well(input, "chat --temp 0 -n 3 --logit-bias 243+1000");
    ck_assert_str_eq(nth_line(result.out, 0), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    struct figures loaded = figures_of(&result, 0);
    struct figures next = figures_of(&result, 1);
    load_saved(demo, path, &saved);
    ck_assert_uint_eq(count_token(&saved, 243), 3);
    ck_assert_uint_eq(loaded.length, saved.n_tokens);
    ck_assert_uint_eq(next.turn, 2);
    ck_assert_uint_eq(next.reused, saved.n_tokens - 3); /* those are said anew, as U+FFFD */
    json_decref(saved.transcript);
    free_result(&result);
}
END_TEST

/* Changes one member of a transcript; the chat must refuse it by a sentence that holds text. */
static void check_transcript_refused(const json_t *good, const char *path, const char *member,
                                     json_t *value, const char *text)
{
    char name[512], line[600];
    snprintf(name, sizeof name, "%s.json", path);
    json_t *changed = json_deep_copy(good);
    if (value)
        json_object_set_new(changed, member, value);
    else
        json_object_del(changed, member);
    ck_assert_int_eq(json_dump_file(changed, name, 0), 0);
    json_decref(changed);
    snprintf(line, sizeof line, "chat --load %s", path);
    check_refused(1, "", text, line);
}

START_TEST(a_saved_chat_is_not_trusted)
{
    char path[256], other[256], name[512], line[1200];
    static const char *const damaged = "contradict";
    snprintf(path, sizeof path, "%s", in_directory("trust"));
    snprintf(other, sizeof other, "%s", in_directory("other"));
    struct result result = run_well("One.\n", "chat --temp 0 -n 3 --save %s", path);
    free_result(&result);
    result = run_well("Two.\n", "chat --temp 0 -n 3 --save %s", other);
    free_result(&result);
    snprintf(name, sizeof name, "%s.json", path);
    json_t *good = load_json(name);
    json_int_t end = integer_of(good, "answer_end");
    size_t n_points = json_array_size(json_object_get(good, "points"));
    const struct {
        const char *member, *text;
        json_t *value;
    } cases[] = {
        {"format", "not the transcript", NULL},
        {"format", "not the transcript", json_integer(1)},
        {"version", "another version", json_integer(99)},
        {"tokens", "another session", json_string("0123456789abcdef")},
        {"tokens", "another session", NULL},
        {"messages", damaged, json_object()},
        {"messages", damaged, json_pack("[{s:s}]", "role", "user")},
        {"messages", damaged, json_pack("[{s:s, s:s}]", "role", "boss", "content", "")},
        {"messages", damaged, json_pack("[i]", 1)},
        {"text", damaged, json_string("short")},
        {"text", damaged, NULL},
        {"points", damaged, json_array()},
        {"points", damaged, json_pack("[[i, i], [i, i]]", 0, 0, 99999, 1)},
        {"points", damaged, json_pack("[[i, i], [i, i]]", 0, 0, 1, -1)},
        {"points", damaged, json_pack("[[i, i], [i, i]]", 0, 0, 0, 1)},
        {"points", damaged, json_pack("[[i, i], [s, i]]", 0, 0, "1", 1)},
        {"turns", damaged, json_array()},
        {"turns", damaged, json_pack("[[i, i]]", 1, 99999)},
        {"turns", damaged, json_pack("[i]", 7)},
        {"answer_end", damaged, json_integer(-1)},
        {"answer_end", damaged, json_integer(end + 100000)},
        {"tools", damaged, json_integer(1)},
        {"tools", "tools", json_string("[]")}, /* the demo model has no template */
    };
    ck_assert_uint_gt(n_points, 2);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_transcript_refused(good, path, cases[i].member, cases[i].value, cases[i].text);
    test_write_file(name, "{\"format\": ", 11);
    snprintf(line, sizeof line, "chat --load %s", path);
    check_refused(1, "", "trust.json", line);
    ck_assert_int_eq(unlink(name), 0);
    check_refused(1, "", "trust.json", line);
    /* after a refusal the chat that was there is there still */
    ck_assert_int_eq(json_dump_file(good, name, 0), 0);
    snprintf(line, sizeof line, "%s.json", other);
    ck_assert_int_eq(json_dump_file(good, line, 0), 0);
    snprintf(line, sizeof line, "/load %s\n/stats\n/load %s\n", path, other);
    result = run_input(line, "chat");
    ck_assert_int_eq(result.status, 1);
    ck_assert_uint_eq(figures_of(&result, 0).turn, 1);
    ck_assert_ptr_nonnull(strstr(result.err, "another session"));
    free_result(&result);
    json_decref(good);
}
END_TEST

START_TEST(a_save_that_fails_leaves_the_old_one)
{
    char path[256], name[600], line[1400];
    size_t size = 0, size_after = 0;
    snprintf(path, sizeof path, "%s", in_directory("kept"));
    snprintf(name, sizeof name, "%s.json", path);
    struct result result = run_well("One.\n", "chat -n 3 --save %s", path);
    free_result(&result);
    char *before = test_read_file(path, &size);
    char *transcript = test_read_file(name, NULL);
    /* where FILE.json cannot be written no session is written either */
    snprintf(line, sizeof line, "%s.json.part", path);
    ck_assert_int_eq(mkdir(line, 0700), 0);
    snprintf(line, sizeof line, "chat --seed 1 --load %s -n 3", path);
    char input[1024];
    snprintf(input, sizeof input, "Two.\n/save %s\n", path);
    result = run_input(input, line);
    ck_assert_int_eq(result.status, 1);
    ck_assert_ptr_nonnull(strstr(result.err, "kept.json.part"));
    free_result(&result);
    char *after = test_read_file(path, &size_after);
    char *transcript_after = test_read_file(name, NULL);
    ck_assert_uint_eq(size, size_after);
    ck_assert_mem_eq(before, after, size);
    ck_assert_str_eq(transcript, transcript_after);
    free(before);
    free(after);
    free(transcript);
    free(transcript_after);
    result = run_input("", "chat --save no/such/file");
    ck_assert_int_eq(result.status, 1);
    ck_assert_ptr_nonnull(strstr(result.err, "no/such/file"));
    free_result(&result);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        a_turn_computes_its_new_tokens_only, another_answer_after_going_back, an_answer_ends,
        nothing_to_say, an_interrupted_answer, the_context_is_full,
        a_saved_chat_goes_on_elsewhere, an_answer_that_is_no_text, a_saved_chat_is_not_trusted,
        a_save_that_fails_leaves_the_old_one,
    };
    return run_command_tests("chat", tests, sizeof tests / sizeof tests[0]);
}
