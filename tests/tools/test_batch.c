/*
 * hymba batch.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "command.h"

static const char prompts[] =
    "Once upon a time\nThe little dog was very\n\nLily and Tom\nOne day, a";
enum { N_PROMPTS = 5 };
static const char *const lines[N_PROMPTS] = {"Once upon a time", "The little dog was very", "",
                                             "Lily and Tom", "One day, a"};

/* Ends the first of text's lines, and gives what is behind it. */
static char *cut_line(char *text)
{
    char *end = strchr(text, '\n');
    ck_assert_ptr_nonnull(end);
    *end = '\0';
    return end + 1;
}

/* What hymba generate makes of one prompt. */
static json_t *alone(const char *prompt, const char *count, int seed)
{
    char name[] = "hymba", verb[] = "generate", p[] = "-p", json[] = "--json", n[] = "-n";
    char *text = strdup(prompt), *number = strdup(count), seed_option[32];
    char *arguments[] = {name, verb, p, text, n, number, seed_option, json, NULL};
    snprintf(seed_option, sizeof seed_option, "--seed=%d", seed);
    struct result result = run_arguments("", 0, NULL, arguments);
    ck_assert_msg(result.status == 0, "%s", result.err);
    json_t *object = parse_json(result.out);
    free_result(&result);
    free(text);
    free(number);
    return object;
}

static void compare(const json_t *object, const json_t *expected)
{
    static const char *const keys[] = {"text", "ids", "prompt_tokens", "stop", "seed"};
    ck_assert_uint_eq(json_object_size(object), 6);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        ck_assert_msg(json_equal(json_object_get(object, keys[i]),
                                 json_object_get(expected, keys[i])),
                      "%s differs", keys[i]);
}

START_TEST(each_line_gives_what_it_gives_alone)
{
    static const char *const options[] = {"", "--parallel 2", "--parallel 1 --token-budget 1",
                                          "--parallel 3 --token-budget 2"};
    for (size_t k = 0; k < sizeof options / sizeof options[0]; k++) {
        struct result result = run_well(prompts, "batch -n 12 --seed 3 %s", options[k]);
        char *line = result.out;
        for (int i = 0; i < N_PROMPTS; i++) {
            char *next = cut_line(line);
            json_t *object = parse_json(line), *expected = alone(lines[i], "12", 3 + i);
            ck_assert_int_eq(integer_of(object, "index"), i);
            compare(object, expected);
            json_decref(object);
            json_decref(expected);
            line = next;
        }
        ck_assert_str_eq(line, "");
        ck_assert_ptr_nonnull(strstr(result.err, "5 texts, "));
        ck_assert_ptr_nonnull(strstr(result.err, " 60 generated tokens"));
        free_result(&result);
    }
}
END_TEST

START_TEST(prompts_may_be_json)
{
    const char *input = "\"Once upon a time\"\n{\"prompt\": \"Lily\\nand\", \"id\": 4}\n";
    struct result result =
        run_well(input, "batch -n 5 --seed 3 --json-prompts --unordered -f -");
    char *second = cut_line(result.out);
    bool seen[2] = {false};
    cut_line(second);
    for (int i = 0; i < 2; i++) {
        json_t *object = parse_json(i ? second : result.out);
        json_int_t index = integer_of(object, "index");
        ck_assert(index == 0 || index == 1);
        json_t *expected = alone(index ? "Lily\nand" : "Once upon a time", "5", 3 + (int)index);
        compare(object, expected);
        seen[index] = true;
        json_decref(object);
        json_decref(expected);
    }
    ck_assert(seen[0] && seen[1]);
    free_result(&result);
}
END_TEST

/* With --unordered the short text does not wait for the long one. */
START_TEST(unordered_texts_come_when_they_are_finished)
{
    struct result result =
        run_well("Once upon a time\nThe\n", "batch -n 60 --temp 0 --stop girl --unordered");
    char *second = cut_line(result.out);
    json_t *first = parse_json(result.out), *last = parse_json(second);
    ck_assert_int_eq(integer_of(first, "index") + integer_of(last, "index"), 1);
    ck_assert_uint_le(json_array_size(json_object_get(first, "ids")),
                      json_array_size(json_object_get(last, "ids")));
    json_decref(first);
    json_decref(last);
    free_result(&result);
}
END_TEST

START_TEST(limits_and_stops)
{
    struct result result = run_well("Once upon a time\n", "batch -n 0");
    cut_line(result.out);
    json_t *object = parse_json(result.out);
    ck_assert_uint_eq(json_array_size(json_object_get(object, "ids")), 0);
    ck_assert_str_eq(string_of(object, "stop"), "length");
    json_decref(object);
    free_result(&result);
    result = run_well("Once upon a time", "batch -n 64 --temp 0 --stop girl --stop zzz");
    cut_line(result.out);
    object = parse_json(result.out);
    ck_assert_str_eq(string_of(object, "stop"), "string");
    ck_assert_ptr_null(strstr(string_of(object, "text"), "girl"));
    json_decref(object);
    free_result(&result);
    result = run_well("", "batch");
    ck_assert_uint_eq(result.out_size, 0);
    ck_assert_ptr_nonnull(strstr(result.err, "0 texts"));
    free_result(&result);
}
END_TEST

/* ------------------------------------------------------------------- memory */

static const char short_of_memory[] = "memory is short for --parallel ";

static struct result run_limited(const char *input, const char *options, size_t limit)
{
    char line[256];
    snprintf(line, sizeof line, "batch %s --memory-limit %zu", options, limit);
    return run_input(input, line);
}

/* A limit with which one short text fits alone, and without the last unit of it does not. */
static size_t smallest_limit(size_t unit)
{
    size_t too_little = 1 << 20, enough = 1 << 25;
    while (enough - too_little > unit) {
        size_t middle = too_little + (enough - too_little) / 2;
        struct result result = run_limited("Lily and Tom\n", "-n 2", middle);
        *(result.status == 0 ? &enough : &too_little) = middle;
        free_result(&result);
    }
    return enough;
}

/* Five texts, four of which come to need a second block of 256 tokens. */
static void write_long_prompts(char *text, size_t size)
{
    static const char *const begins[] = {"Once upon a time, ", "One day, ", "Tom said: ",
                                         "Lily and Tom\n", "Max "};
    size_t used = 0;
    for (int i = 0; i < 5; i++) {
        used += (size_t)snprintf(text + used, size - used, "%s", begins[i]);
        for (int k = 0; i != 3 && k < 18; k++)
            used += (size_t)snprintf(text + used, size - used, "%s",
                                     "The little dog was very happy and ran to the big tree. ");
        if (i != 3)
            used += (size_t)snprintf(text + used, size - used, "\n");
    }
    ck_assert_uint_lt(used, size);
}

/* Both end with the same line of figures, but for the speed. Whether another stands before it. */
static bool compare_figures(const char *errors, const char *expected)
{
    const char *figures = errors, *end = strstr(expected, " generated tokens");
    bool told = strncmp(errors, short_of_memory, strlen(short_of_memory)) == 0;
    ck_assert_ptr_nonnull(end);
    if (told) {
        figures = strchr(errors, '\n') + 1;
        ck_assert_ptr_null(strstr(figures, short_of_memory));
    }
    ck_assert_msg(strncmp(figures, expected, (size_t)(end - expected)) == 0, "%s", errors);
    ck_assert_ptr_eq(strchr(figures, '\n') + 1, figures + strlen(figures));
    return told;
}

/* Whatever memory lacks for at whatever moment, session, block or step: all texts come, as if
 * there were enough. */
START_TEST(texts_wait_where_memory_is_short)
{
    char input[8192];
    int n_told = 0;
    bool told = true;
    write_long_prompts(input, sizeof input);
    struct result expected = run_well(input, "batch -n 30 --seed 3 --parallel 4");
    /* one short text has one block, any text of two fits alone */
    for (size_t limit = smallest_limit(1 << 18) + (3 << 19); told; limit += 3 << 18) {
        struct result result = run_limited(input, "-n 30 --seed 3 --parallel 4", limit);
        ck_assert_msg(result.status == 0, "limit %zu: %s", limit, result.err);
        ck_assert_str_eq(result.out, expected.out);
        told = compare_figures(result.err, expected.err);
        n_told += told;
        free_result(&result);
    }
    ck_assert_int_ge(n_told, 6);
    free_result(&expected);
}
END_TEST

static void expect_no_memory(char *line, int index)
{
    json_t *object = parse_json(line);
    ck_assert_int_eq(integer_of(object, "index"), index);
    ck_assert_ptr_nonnull(strstr(string_of(object, "error"), "no memory for "));
    json_decref(object);
}

START_TEST(a_text_that_does_not_fit_alone_fails_alone)
{
    char input[8192] = "Once upon a time\n";
    size_t limit = smallest_limit(1 << 16) + (1 << 16); /* what was allocated for a text stays */
    for (int i = 0; i < 30; i++) /* two blocks */
        strcat(input, "The little dog was very happy and ran to the big tree. ");
    strcat(input, "\nLily and Tom\n");
    struct result expected = run_well(input, "batch -n 5 --seed 3");
    struct result result = run_limited(input, "-n 5 --seed 3", limit);
    ck_assert_int_eq(result.status, 1);
    ck_assert_ptr_nonnull(strstr(result.err, "hymba: 1 of 3 prompts failed"));
    char *line = result.out, *wanted = expected.out;
    for (int i = 0; i < 3; i++) {
        char *next = cut_line(line), *next_wanted = cut_line(wanted);
        if (i == 1)
            expect_no_memory(line, i);
        else
            ck_assert_str_eq(line, wanted);
        line = next;
        wanted = next_wanted;
    }
    ck_assert_str_eq(line, "");
    free_result(&result);
    free_result(&expected);
}
END_TEST

/* From the lists of the step that come last down to what a session needs: each lack is told of the
 * text that it stops, and the next text is tried. */
START_TEST(no_lack_of_memory_ends_the_command)
{
    size_t enough = smallest_limit(64);
    for (size_t less = 64; less < 32768; less *= 2) {
        struct result result = run_limited("Lily and Tom\nLily and Tom\n", "-n 2", enough - less);
        ck_assert_int_eq(result.status, 1);
        char *second = cut_line(result.out);
        ck_assert_str_eq(cut_line(second), "");
        expect_no_memory(result.out, 0);
        expect_no_memory(second, 1);
        ck_assert_ptr_nonnull(strstr(result.err, "hymba: 2 of 2 prompts failed"));
        free_result(&result);
    }
}
END_TEST

START_TEST(wrong_usage_and_input)
{
    check_refused(2, "", "--token-budget", "batch --token-budget 0");
    check_refused(2, "", "--parallel", "batch --parallel 0");
    check_refused(2, "", "--memory-limit", "batch --memory-limit 0");
    check_refused(1, "a", "no memory for ", "batch --memory-limit 1000");
    check_refused(2, "", "--stop", "batch --stop ''");
    check_refused(1, "", "no/such/file", "batch -f no/such/file");
    check_refused(1, "", "no/such/model", "batch -m no/such/model");
    check_refused(1, "\"a\"\nb\n", "line 2 is not JSON", "batch --json-prompts");
    check_refused(1, "\"a\"\n[1]\n", "line 2", "batch --json-prompts");
    check_refused(1, "{\"text\": 1}\n", "line 1", "batch --json-prompts");
}
END_TEST

/* The texts under way are printed as far as they came. */
START_TEST(an_interrupt_ends_all_texts)
{
    char text[] = "batch -n 1000000 --ignore-eos --parallel 2 --stop girl --temp 0 --unordered";
    char input[4000] = "";
    char *arguments[ARGUMENTS_MOST];
    const char *in = in_directory("stdin");
    const char *out = in_directory("stdout");
    const char *err = in_directory("stderr");
    const struct timespec pause = {.tv_nsec = 20000000};
    struct stat status = {0};
    split_line(text, arguments);
    for (int i = 0; i < 200; i++) /* the first end after some tokens, hardly ever the last */
        strcat(input, "Once upon a time\n");
    test_write_file(in, input, strlen(input));
    pid_t child = start_command(in, out, err, arguments);
    while (status.st_size < 40) {
        nanosleep(&pause, NULL);
        ck_assert_int_eq(waitpid(child, NULL, WNOHANG), 0);
        ck_assert_int_eq(stat(out, &status), 0);
    }
    kill(child, SIGINT);
    ck_assert_int_eq(wait_for_command(child), 130);
    char *printed = test_read_file(out, NULL), *line = printed;
    int n_cancelled = 0;
    while (*line) {
        char *next = cut_line(line);
        json_t *object = parse_json(line);
        n_cancelled += strcmp(string_of(object, "stop"), "cancelled") == 0;
        json_decref(object);
        line = next;
    }
    ck_assert_int_ge(n_cancelled, 1);
    free(printed);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        each_line_gives_what_it_gives_alone,
        prompts_may_be_json,
        unordered_texts_come_when_they_are_finished,
        limits_and_stops,
        wrong_usage_and_input,
        an_interrupt_ends_all_texts,
        /* what memory comes to is no matter of threads, and takes many calls */
        texts_wait_where_memory_is_short,
        a_text_that_does_not_fit_alone_fails_alone,
        no_lack_of_memory_ends_the_command,
    };
    size_t n = sizeof tests / sizeof tests[0];
    return run_command_tests("batch", tests, test_looks_for_races() ? n - 3 : n);
}
