/*
 * hymba generate.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "command.h"

START_TEST(generate_reproduces_the_greedy_continuations)
{
    json_t *expected = load_json(test_data("demo/eval.json"));
    json_t *cases = json_object_get(expected, "greedy");
    ck_assert_uint_eq(json_array_size(cases), 10);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *item = json_array_get(cases, i);
        json_t *ids = json_object_get(item, "continuation_ids");
        char number[32], name[] = "hymba", verb[] = "generate", p[] = "-p", n[] = "-n";
        char temperature[] = "--temp=0", ignore[] = "--ignore-eos", json[] = "--json";
        char *prompt = strdup(string_of(item, "prompt"));
        char *arguments[] = {name, verb, p, prompt, n, number, temperature, ignore, json, NULL};
        snprintf(number, sizeof number, "%zu", json_array_size(ids));
        struct result result = run_arguments("", 0, NULL, arguments);
        ck_assert_msg(result.status == 0, "%s", result.err);
        json_t *object = parse_json(result.out);
        ck_assert_msg(json_equal(json_object_get(object, "ids"), ids), "%s: %s", prompt,
                      result.out);
        ck_assert_int_eq(integer_of(object, "prompt_tokens"),
                         (json_int_t)json_array_size(json_object_get(item, "prompt_ids")));
        ck_assert_str_eq(string_of(object, "stop"), "length");
        if (json_is_null(json_object_get(item, "first_eos_index"))) {
            const char *text = string_of(object, "text");
            const char *until = string_of(item, "text_until_eos");
            ck_assert_ptr_nonnull(strstr(text, until));
            ck_assert_int_le(strstr(text, until) - text, 1); /* behind at most a space */
        }
        json_decref(object);
        free_result(&result);
        free(prompt);
    }
    json_decref(expected);
}
END_TEST

START_TEST(a_device_that_cannot_be_had_is_told_in_one_line)
{
    ck_assert_int_eq(setenv("HYMBA_CUDA_PLUGIN", "/nowhere/libhymba-cuda.so", 1), 0);
    check_refused(1, "", "/nowhere/libhymba-cuda.so", "generate --device cuda");
    check_refused(1, "", "/nowhere/libhymba-cuda.so", "generate --device cuda:3");
    check_refused(1, "", "/nowhere/libhymba-cuda.so", "generate --device cuda:0,1");
    check_refused(1, "", "twice", "generate --device cuda:1,0,1");
    ck_assert_int_eq(setenv("HYMBA_CUDA_PLUGIN", "libhymba-cuda.so", 1), 0);
    check_refused(1, "", "absolute path", "generate --device cuda");
    ck_assert_int_eq(unsetenv("HYMBA_CUDA_PLUGIN"), 0);
}
END_TEST

START_TEST(generate_json)
{
    struct result result = run_well("", "generate -n 5 --temp 0 --json");
    json_t *object = parse_json(result.out);
    ck_assert_uint_eq(result.err_size, 0);
    ck_assert_uint_eq(json_object_size(object), 7);
    ck_assert_uint_eq(strlen(string_of(object, "text")), json_string_length(
                                                             json_object_get(object, "text")));
    ck_assert_uint_eq(json_array_size(json_object_get(object, "ids")), 5);
    ck_assert_int_eq(integer_of(object, "prompt_tokens"), 5);
    ck_assert_double_gt(number_of(object, "prefill_tok_per_s"), 0);
    ck_assert_double_gt(number_of(object, "decode_tok_per_s"), 0);
    ck_assert_str_eq(string_of(object, "stop"), "length");
    ck_assert_int_ge(integer_of(object, "seed"), 0);
    json_decref(object);
    free_result(&result);
}
END_TEST

START_TEST(generate_prints_text_and_figures)
{
    struct result json = run_well("", "generate -n 8 --temp 0 --json");
    struct result echoed = run_well("", "generate -n 8 --temp 0");
    struct result plain = run_well("", "generate -n 8 --temp 0 --no-echo");
    struct result file = run_well("Once upon a time",
                                  "generate -m %s -f - -n 8 --temp 0 --threads=1 --cpu generic",
                                  demo);
    json_t *object = parse_json(json.out);
    char expected[1024];
    snprintf(expected, sizeof expected, "Once upon a time%s\n", string_of(object, "text"));
    ck_assert_str_eq(echoed.out, expected);
    ck_assert_str_eq(file.out, expected);
    ck_assert_str_eq(plain.out, expected + strlen("Once upon a time"));
    ck_assert_ptr_nonnull(strstr(echoed.err, "prompt: 5 tokens"));
    ck_assert_ptr_nonnull(strstr(echoed.err, "generated: 8 tokens"));
    ck_assert_ptr_eq(strchr(echoed.err, '\n'), echoed.err + echoed.err_size - 1);
    json_decref(object);
    free_result(&json);
    free_result(&echoed);
    free_result(&plain);
    free_result(&file);
}
END_TEST

/* A word that follows a word keeps the space between them. */
START_TEST(generate_keeps_the_space)
{
    char name[] = "hymba", verb[] = "generate", p[] = "-p", prompt[] = "The little dog was very";
    char n[] = "-n", one[] = "1", temperature[] = "--temp", zero[] = "0";
    char *arguments[] = {name, verb, p, prompt, n, one, temperature, zero, NULL};
    struct result result = run_arguments("", 0, NULL, arguments);
    ck_assert_int_eq(result.status, 0);
    ck_assert_str_eq(result.out, "The little dog was very scared\n");
    free_result(&result);
}
END_TEST

START_TEST(generate_stops)
{
    struct result result = run_well("", "generate -n 64 --temp 0 --json --stop girl --stop zzz");
    json_t *object = parse_json(result.out);
    ck_assert_str_eq(string_of(object, "stop"), "string");
    ck_assert_ptr_null(strstr(string_of(object, "text"), "girl"));
    ck_assert_ptr_nonnull(strstr(string_of(object, "text"), "little"));
    json_decref(object);
    free_result(&result);
    result = run_well("", "generate -n 0 --json");
    object = parse_json(result.out);
    ck_assert_uint_eq(json_array_size(json_object_get(object, "ids")), 0);
    ck_assert_str_eq(string_of(object, "stop"), "length");
    json_decref(object);
    free_result(&result);
}
END_TEST

START_TEST(generate_seed)
{
    struct result first = run_well("", "generate -n 24 --seed 7 --json");
    struct result second = run_well("", "generate -n 24 --seed 7 --json");
    struct result third = run_well("", "generate -n 24 --seed 8 --temp 1.5 --json");
    json_t *a = parse_json(first.out);
    json_t *b = parse_json(second.out);
    json_t *c = parse_json(third.out);
    ck_assert_int_eq(integer_of(a, "seed"), 7);
    ck_assert(json_equal(json_object_get(a, "ids"), json_object_get(b, "ids")));
    ck_assert(!json_equal(json_object_get(a, "ids"), json_object_get(c, "ids")));
    json_decref(a);
    json_decref(b);
    json_decref(c);
    free_result(&first);
    free_result(&second);
    free_result(&third);
}
END_TEST

START_TEST(generate_from_an_empty_prompt)
{
    struct result result = run_well("", "generate -p '' -n 3 --temp 0 --json");
    json_t *object = parse_json(result.out);
    ck_assert_int_eq(integer_of(object, "prompt_tokens"), 1);
    json_decref(object);
    free_result(&result);
}
END_TEST

START_TEST(generate_is_interrupted)
{
    char text[] = "generate -n 1000000 --ignore-eos";
    char *arguments[ARGUMENTS_MOST];
    const char *in = in_directory("stdin");
    const char *out = in_directory("stdout");
    const char *err = in_directory("stderr");
    const struct timespec pause = {.tv_nsec = 20000000};
    struct stat status = {0};
    split_line(text, arguments);
    test_write_file(in, "", 0);
    pid_t child = start_command(in, out, err, arguments);
    while (status.st_size < 40) { /* some text is there */
        nanosleep(&pause, NULL);
        ck_assert_int_eq(waitpid(child, NULL, WNOHANG), 0);
        ck_assert_int_eq(stat(out, &status), 0);
    }
    kill(child, SIGINT);
    ck_assert_int_eq(wait_for_command(child), 130);
    char *printed = test_read_file(out, NULL);
    char *figures = test_read_file(err, NULL);
    ck_assert_int_eq(printed[strlen(printed) - 1], '\n');
    ck_assert_ptr_nonnull(strstr(figures, "stop: cancelled"));
    free(printed);
    free(figures);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        generate_reproduces_the_greedy_continuations,
        a_device_that_cannot_be_had_is_told_in_one_line, generate_json,
        generate_prints_text_and_figures, generate_keeps_the_space, generate_stops, generate_seed,
        generate_from_an_empty_prompt, generate_is_interrupted,
    };
    return run_command_tests("generate", tests, sizeof tests / sizeof tests[0]);
}
