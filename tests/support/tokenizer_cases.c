#include "tokenizer_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

static const char *const forms[] = {"tokenizer.model", "tokenizer.json"};

static void read_form(struct hy_memory *memory, const char *directory, const char *name,
                      struct hy_file *file)
{
    hymba_error error;
    char path[512];
    hymba_error_init(&error, sizeof error);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    test_status(hy_file_read(memory, path, UINT64_MAX, file, &error), HYMBA_OK, error);
}

hymba_tokenizer *test_open_form(const char *directory, const char *form)
{
    struct hy_memory memory;
    struct hy_file file = {0}, config = {0};
    struct hy_tokenizer_files files = {.config = &config};
    hymba_tokenizer *tokenizer = NULL;
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    test_status(hy_memory_init(&memory, NULL, &error), HYMBA_OK, error);
    read_form(&memory, directory, form, &file);
    read_form(&memory, directory, "tokenizer_config.json", &config);
    if (strcmp(form, forms[0]) == 0)
        files.model = &file;
    else
        files.json = &file;
    test_status(hy_tokenizer_create(NULL, &files, &tokenizer, &error), HYMBA_OK, error);
    hy_file_close(&file);
    hy_file_close(&config);
    return tokenizer;
}

static size_t open_both(struct test_tokenizer *tokenizers, const char *name, const char *directory,
                        const char *cases)
{
    for (size_t i = 0; i < 2; i++) {
        snprintf(tokenizers[i].name, sizeof tokenizers[i].name, "%s, %s", name, forms[i]);
        snprintf(tokenizers[i].cases, sizeof tokenizers[i].cases, "%s", cases);
        tokenizers[i].tokenizer = test_open_form(directory, forms[i]);
    }
    return 2;
}

size_t test_open_tokenizers(struct test_tokenizer tokenizers[TEST_MAX_TOKENIZERS])
{
    size_t count = open_both(tokenizers, "demo", "examples/demo", "tests/data/demo/cases.jsonl");
    const char *directory = test_shared("tokenizer");
    if (directory) {
        const char *cases = test_shared("tokenizer/cases.jsonl");
        ck_assert_ptr_nonnull(cases);
        count += open_both(tokenizers + count, "published", directory, cases);
    }
    return count;
}

void test_close_tokenizers(struct test_tokenizer *tokenizers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        hy_tokenizer_release(tokenizers[i].tokenizer);
}

void test_each_case(const struct test_tokenizer *tokenizer,
                    void (*run)(const struct test_tokenizer *tokenizer, json_t *test_case,
                                unsigned line))
{
    char *text = test_read_file(tokenizer->cases, NULL);
    unsigned line = 0;
    for (char *begin = text, *end; (end = strchr(begin, '\n')) != NULL; begin = end + 1) {
        json_error_t error;
        line++;
        if (begin == end)
            continue;
        json_t *test_case = json_loadb(begin, (size_t)(end - begin), JSON_ALLOW_NUL, &error);
        ck_assert_msg(test_case != NULL, "%s:%u: %s", tokenizer->cases, line, error.text);
        run(tokenizer, test_case, line);
        json_decref(test_case);
    }
    ck_assert_msg(line >= 100, "%s has only %u lines", tokenizer->cases, line);
    free(text);
}

int32_t *test_ids(const json_t *array, size_t *count)
{
    ck_assert(json_is_array(array));
    *count = json_array_size(array);
    int32_t *ids = malloc((*count + 1) * sizeof *ids);
    ck_assert_ptr_nonnull(ids);
    for (size_t i = 0; i < *count; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return ids;
}

char *test_hexadecimal(const json_t *string, size_t *size)
{
    const char *digits = json_string_value(string);
    ck_assert_ptr_nonnull(digits);
    *size = strlen(digits) / 2;
    char *bytes = malloc(*size + 1);
    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < *size; i++) {
        char pair[3] = {digits[2 * i], digits[2 * i + 1], '\0'};
        bytes[i] = (char)strtoul(pair, NULL, 16);
    }
    return bytes;
}

int32_t *test_encode(const hymba_tokenizer *tokenizer, const char *text, size_t length,
                     uint32_t flags, size_t *count)
{
    struct hy_ids ids = {.memory = hy_tokenizer_memory(tokenizer)};
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    test_status(hy_tokenizer_encode(tokenizer, text, length, flags, &ids, &error), HYMBA_OK, error);
    int32_t *copy = malloc((ids.count + 1) * sizeof *copy);
    ck_assert_ptr_nonnull(copy);
    if (ids.count > 0)
        memcpy(copy, ids.data, ids.count * sizeof *copy);
    *count = ids.count;
    hy_free(ids.memory, ids.data);
    return copy;
}

char *test_decode(const hymba_tokenizer *tokenizer, const int32_t *ids, size_t count,
                  uint32_t flags, size_t *size)
{
    size_t again;
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    test_status(hy_tokenizer_decode(tokenizer, ids, count, flags, NULL, 0, size, &error), HYMBA_OK,
                error);
    char *text = malloc(*size + 1);
    ck_assert_ptr_nonnull(text);
    test_status(hy_tokenizer_decode(tokenizer, ids, count, flags, text, *size, &again, &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(again, *size);
    text[*size] = '\0';
    return text;
}
