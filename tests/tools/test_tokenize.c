/*
 * hymba tokenize, detokenize and render.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

/* Lines of JSON, collected from the cases. */
struct lines {
    char *text;
    size_t size;
    FILE *stream;
};

static void lines_open(struct lines *lines)
{
    lines->stream = open_memstream(&lines->text, &lines->size);
    ck_assert_ptr_nonnull(lines->stream);
}

static void lines_add(struct lines *lines, const json_t *value)
{
    ck_assert_int_eq(json_dumpf(value, lines->stream, JSON_ENCODE_ANY | JSON_ENSURE_ASCII), 0);
    fputc('\n', lines->stream);
}

/* Asserts that the output's lines are the expected JSON values, line by line. */
static void check_lines(const char *expected, const char *actual, const char *what)
{
    size_t number = 1;
    while (*expected && *actual) {
        size_t expected_length = strcspn(expected, "\n");
        size_t length = strcspn(actual, "\n");
        json_t *a = json_loadb(expected, expected_length, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        json_t *b = json_loadb(actual, length, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        ck_assert_msg(a && b && json_equal(a, b), "%s, line %zu: %.*s, expected %.*s", what,
                      number, (int)length, actual, (int)expected_length, expected);
        json_decref(a);
        json_decref(b);
        expected += expected_length + 1;
        actual += length + (actual[length] == '\n');
        number++;
    }
    ck_assert_msg(!*expected && !*actual, "%s: another number of lines", what);
}

static bool is_kind(const json_t *item, const char *kind)
{
    return strcmp(string_of(item, "kind"), kind) == 0;
}

/* What goes in and what must come out, for the cases of some kinds. */
static void collect(const char *cases, const char *first_kind, const char *second_kind,
                    const char *in_key, const char *out_key, struct lines *in, struct lines *out)
{
    char *text = test_read_file(cases, NULL);
    lines_open(in);
    lines_open(out);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *item = parse_json(line);
        if (is_kind(item, first_kind) || is_kind(item, second_kind)) {
            lines_add(in, json_object_get(item, in_key));
            lines_add(out, json_object_get(item, out_key));
        }
        json_decref(item);
    }
    fclose(in->stream);
    fclose(out->stream);
    free(text);
    ck_assert_uint_gt(in->size, 0);
}

static void check_cases(const char *directory, const char *cases)
{
    static const struct {
        const char *kind, *other_kind, *in_key, *out_key, *line;
    } runs[] = {
        {"encode", "encode", "text", "ids", "tokenize --special --jsonl"},
        {"encode", "encode", "text", "ids_plain", "tokenize --no-bos --jsonl"},
        {"encode", "decode", "ids", "bytes_hex", "detokenize --hex --jsonl"},
    };
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        struct lines in, out;
        collect(cases, runs[i].kind, runs[i].other_kind, runs[i].in_key, runs[i].out_key, &in,
                &out);
        struct result result = run_well(in.text, "%s -m %s", runs[i].line, directory);
        check_lines(out.text, result.out, runs[i].line);
        free_result(&result);
        free(in.text);
        free(out.text);
    }
}

START_TEST(tokenizer_cases_of_the_demo)
{
    check_cases(demo, test_data("demo/cases.jsonl"));
}
END_TEST

START_TEST(tokenizer_and_template_cases_of_the_published_model)
{
    const char *cases = test_shared("tokenizer/cases.jsonl");
    struct lines in, out;
    if (!cases)
        return;
    check_cases(test_shared("tokenizer"), cases);
    char *text = test_read_file(cases, NULL);
    lines_open(&in);
    lines_open(&out);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *item = parse_json(line);
        if (is_kind(item, "chat")) {
            lines_add(&out, json_object_get(item, "text"));
            json_t *chat = json_object();
            static const char *const keys[] = {"messages", "tools", "contexts",
                                               "add_generation_prompt"};
            for (size_t i = 0; i < 4; i++)
                if (!json_is_null(json_object_get(item, keys[i])))
                    json_object_set(chat, keys[i], json_object_get(item, keys[i]));
            lines_add(&in, chat);
            json_decref(chat);
        }
        json_decref(item);
    }
    fclose(in.stream);
    fclose(out.stream);
    struct result result = run_well(in.text, "render --jsonl -m %s", test_shared("tokenizer"));
    check_lines(out.text, result.out, "render --jsonl");
    free_result(&result);
    in.text[strcspn(in.text, "\n")] = '\0';
    out.text[strcspn(out.text, "\n")] = '\0';
    result = run_well(in.text, "render -m %s", test_shared("tokenizer"));
    json_t *first = parse_json(out.text);
    ck_assert_str_eq(result.out, json_string_value(first));
    json_decref(first);
    free_result(&result);
    free(in.text);
    free(out.text);
    free(text);
}
END_TEST

START_TEST(tokenize_plain_text_and_back)
{
    static const char story[] = "Once upon a time,\nthere was </s> a \xf0\x9f\x98\x80.";
    struct result ids = run_well(story, "tokenize -m %s", demo);
    ck_assert_int_eq(strncmp(ids.out, "1 421 437 261 391 4059 13 ", 26), 0);
    ck_assert_ptr_eq(strchr(ids.out, '\n'), ids.out + ids.out_size - 1);
    struct result back = run_well(ids.out, "detokenize -m %s", demo);
    ck_assert_str_eq(back.out, story);
    struct result hex = run_well("261", "detokenize -m %s --hex", demo);
    ck_assert_str_eq(hex.out, "61\n");
    struct result special = run_well("</s>", "tokenize -m %s --special --no-bos", demo);
    ck_assert_ptr_nonnull(strstr(special.out, "2\n"));
    struct result none = run_well("", "tokenize -m %s --no-bos", demo);
    ck_assert_str_eq(none.out, "\n");
    free_result(&ids);
    free_result(&back);
    free_result(&hex);
    free_result(&special);
    free_result(&none);
}
END_TEST

START_TEST(detokenize_replaces_broken_characters_in_json)
{
    /* 243 is the byte token of 0xf0 */
    struct result result = run_well("[261, 243]\n[]\n", "detokenize -m %s --jsonl", demo);
    ck_assert_str_eq(result.out, "\"a\\uFFFD\"\n\"\"\n");
    free_result(&result);
    result = run_well("\"a\\u0000b\"\n", "tokenize -m %s --jsonl --no-bos", demo);
    struct result back = run_well(result.out, "detokenize -m %s --jsonl", demo);
    ck_assert_str_eq(back.out, "\"a\\u0000b\"\n");
    free_result(&back);
    free_result(&result);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        tokenizer_cases_of_the_demo, tokenizer_and_template_cases_of_the_published_model,
        tokenize_plain_text_and_back, detokenize_replaces_broken_characters_in_json,
    };
    return run_command_tests("tokenize", tests, sizeof tests / sizeof tests[0]);
}
