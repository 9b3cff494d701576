/*
 * hymba quantize, and --quantize of the other verbs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

/* Perplexity of a few tokens; options behind the model. */
static double perplexity(const char *model, const char *options)
{
    static const char ids[] = "1 421 437 261 391 4059 393 282 261 502 874 3367 4053 315 282 1079";
    struct result result =
        run_well(ids, "perplexity -m %s --tokens - --json --compute f32 %s", model, options);
    json_t *object = parse_json(result.out);
    double found = json_real_value(json_object_get(object, "ppl"));
    json_decref(object);
    free_result(&result);
    return found;
}

/* What is written computes as what is quantised while loading, to the digit. */
START_TEST(written_and_loaded)
{
    static const char *const types[] = {"q8", "q4"};
    double original = perplexity(demo, "");
    for (int i = 0; i < 2; i++) {
        char option[32];
        const char *directory = in_directory(types[i]);
        struct result result =
            run_well("", "quantize -m %s -o %s --type %s", demo, directory, types[i]);
        ck_assert_ptr_nonnull(strstr(result.out, directory));
        ck_assert_str_eq(result.err, "");
        free_result(&result);
        snprintf(option, sizeof option, "--quantize %s", types[i]);
        double written = perplexity(directory, "");
        ck_assert(written == perplexity(demo, option));
        ck_assert(written != original);
        ck_assert_msg(written < original * 1.1 && written > original * 0.9,
                      "perplexity %g became %g", original, written);
        result = run_well("", "info -m %s --json", directory);
        json_t *object = parse_json(result.out);
        ck_assert_str_eq(string_of(object, "weight_type"), "int8");
        ck_assert_str_eq(string_of(object, "projection_type"), i == 0 ? "int8" : "int4");
        ck_assert_int_eq(integer_of(object, "group_size"), i == 0 ? 64 : 32);
        json_decref(object);
        free_result(&result);
    }
}
END_TEST

static void refuse(const char *line, int status, const char *words)
{
    struct result result = run_input("", line);
    ck_assert_int_eq(result.status, status);
    ck_assert_msg(strstr(result.err, words) != NULL, "%s: \"%s\" does not hold \"%s\"", line,
                  result.err, words);
    free_result(&result);
}

START_TEST(refusals)
{
    char line[800];
    const char *output = in_directory("refused");
    refuse("quantize -m examples/demo -o x --type q5", 2, "q8|q4|int8|int4");
    refuse("quantize -m examples/demo -o x", 2, "--type");
    refuse("quantize -m examples/demo -o x --type q4 --group 33", 2, "32, 64 or 128");
    refuse("quantize -m examples/demo -o x --type q4 --method gptq", 2, "--calibrate");
    refuse("quantize -m examples/demo -o x --type q4 --method plain --calibrate y", 2, "plain");
    refuse("quantize -m examples/demo -o x --type q4 --calibrate y --calibrate-tokens y", 2,
           "one of");
    refuse("quantize -m examples -o x --type q4", 1, "config.json");
    refuse("perplexity -m examples/demo --tokens - --quantize f16", 2, "--quantize");
    snprintf(line, sizeof line, "quantize -m %s -o %s --type q8 --group 128", demo, output);
    refuse(line, 1, "groups of 128");
    test_write_file(in_directory("short.txt"), "Once upon a time.", 17);
    snprintf(line, sizeof line, "quantize -m %s -o %s --type q8 --calibrate %s", demo, output,
             in_directory("short.txt"));
    refuse(line, 1, "1024");
    snprintf(line, sizeof line, "quantize -m %s -o %s --type q8", demo, output);
    struct result result = run_input("", line);
    ck_assert_int_eq(result.status, 0);
    free_result(&result);
    refuse(line, 1, "already holds");
    snprintf(line, sizeof line, "quantize -m %s -o %s --type q4", output, in_directory("twice"));
    refuse(line, 1, "quantised already");
    snprintf(line, sizeof line, "info -m %s --quantize q4", output);
    refuse(line, 1, "quantised already");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("quantize");
    TCase *tests = tcase_create("quantize");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, written_and_loaded);
    tcase_add_test(tests, refusals);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
