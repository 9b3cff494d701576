/* Streaming decode: whole characters only, and in sum the same as decode. */
#include <stdlib.h>
#include <string.h>

#include "support.h"
#include "text/text_stream.h"
#include "text/utf8.h"
#include "tokenizer_cases.h"

static struct test_tokenizer tokenizers[TEST_MAX_TOKENIZERS];
static size_t n_tokenizers;
static hymba_error error;

static void open_all(void)
{
    hymba_error_init(&error, sizeof error);
    n_tokenizers = test_open_tokenizers(tokenizers);
}

static void close_all(void)
{
    test_close_tokenizers(tokenizers, n_tokenizers);
}

/* With U+FFFD for each malformed prefix; returns the size. result holds 3 * size bytes. */
static size_t repair(const char *text, size_t size, char *result)
{
    size_t count = 0;
    for (size_t i = 0, length; i < size; i += length) {
        int32_t character;
        length = hy_utf8_decode(text + i, size - i, &character);
        count += hy_utf8_encode(character < 0 ? HY_UTF8_REPLACEMENT : character, result + count);
    }
    return count;
}

static bool is_whole(const char *text, size_t size)
{
    int32_t character = 0;
    for (size_t i = 0; i < size && character >= 0;)
        i += hy_utf8_decode(text + i, size - i, &character);
    return character >= 0;
}

/* Everything that comes out for the ids, each part looked at; returns its size. */
static size_t stream_all(hymba_text_stream *stream, const int32_t *ids, size_t count, char *result)
{
    size_t total = 0;
    for (size_t i = 0; i <= count; i++) {
        const char *text = NULL;
        size_t length = 99;
        if (i < count)
            test_status(hy_text_stream_push(stream, ids[i], &text, &length, &error), HYMBA_OK,
                        error);
        else
            test_status(hy_text_stream_finish(stream, &text, &length, &error), HYMBA_OK, error);
        ck_assert_int_eq(text[length], '\0');
        ck_assert(is_whole(text, length));
        memcpy(result + total, text, length);
        total += length;
    }
    return total;
}

static void check_stream(const hymba_tokenizer *tokenizer, hymba_text_stream *stream,
                         const int32_t *ids, size_t count, const char *where, unsigned line)
{
    size_t size;
    char *decoded = test_decode(tokenizer, ids, count, 0, &size);
    char *expected = malloc(3 * size + 1), *streamed = malloc(3 * size + 1);
    ck_assert(expected && streamed);
    size_t expected_size = repair(decoded, size, expected);
    size_t streamed_size = stream_all(stream, ids, count, streamed);
    ck_assert_msg(streamed_size == expected_size && memcmp(streamed, expected, expected_size) == 0,
                  "%s, line %u: \"%.*s\", expected \"%.*s\"", where, line, (int)streamed_size,
                  streamed, (int)expected_size, expected);
    free(decoded);
    free(expected);
    free(streamed);
}

static hymba_text_stream *stream;
static unsigned n_checked;

static void check_case(const struct test_tokenizer *tokenizer, json_t *test_case, unsigned line)
{
    size_t count;
    const json_t *array = json_object_get(test_case, "ids");
    if (!array)
        return;
    int32_t *ids = test_ids(array, &count);
    check_stream(tokenizer->tokenizer, stream, ids, count, tokenizer->name, line);
    n_checked++;
    free(ids);
}

/* One stream for all: after finish it is as new. */
START_TEST(equals_decode_in_all_recorded_cases)
{
    for (size_t i = 0; i < n_tokenizers; i++) {
        n_checked = 0;
        test_status(hy_text_stream_create(tokenizers[i].tokenizer, &stream, &error), HYMBA_OK,
                    error);
        test_each_case(&tokenizers[i], check_case);
        ck_assert_uint_ge(n_checked, 400);
        hy_text_stream_release(stream);
    }
}
END_TEST

START_TEST(equals_decode_on_random_ids)
{
    test_random_seed(3);
    for (size_t i = 0; i < n_tokenizers; i++) {
        const hymba_tokenizer *tokenizer = tokenizers[i].tokenizer;
        test_status(hy_text_stream_create(tokenizers[i].tokenizer, &stream, &error), HYMBA_OK,
                    error);
        for (unsigned round = 0; round < 200; round++) {
            int32_t ids[40];
            for (size_t k = 0; k < 40; k++)
                ids[k] = (int32_t)test_random_below(
                    test_random() < 0.8 ? 259 : hy_tokenizer_size(tokenizer));
            check_stream(tokenizer, stream, ids, 40, tokenizers[i].name, round);
        }
        hy_text_stream_release(stream);
    }
}
END_TEST

static void expect_push(int32_t id, const char *expected)
{
    const char *text;
    size_t length;
    test_status(hy_text_stream_push(stream, id, &text, &length, &error), HYMBA_OK, error);
    ck_assert_str_eq(text, expected);
    ck_assert_uint_eq(length, strlen(expected));
}

static void expect_finish(const char *expected)
{
    const char *text;
    size_t length;
    test_status(hy_text_stream_finish(stream, &text, &length, &error), HYMBA_OK, error);
    ck_assert_str_eq(text, expected);
    ck_assert_uint_eq(length, strlen(expected));
}

/* Byte tokens: byte b has the id b + 3. */
START_TEST(characters_wait_until_they_are_whole)
{
    test_status(hy_text_stream_create(tokenizers[0].tokenizer, &stream, &error), HYMBA_OK, error);
    expect_push(' ' + 3, "");
    expect_push(1, "");
    expect_push(' ' + 3, " ");
    expect_push(0xF0 + 3, "");
    expect_push(0x9F + 3, "");
    expect_push(2, "");
    expect_push(0x98 + 3, "");
    expect_push(0x80 + 3, "\xF0\x9F\x98\x80");
    expect_push(0xE4 + 3, "");
    expect_push(0xB8 + 3, "");
    expect_push('x' + 3, "\xEF\xBF\xBDx");
    expect_push(0x80 + 3, "\xEF\xBF\xBD");
    expect_push(0xC3 + 3, "");
    expect_finish("\xEF\xBF\xBD");
    expect_push(' ' + 3, "");
    expect_push(0xC3 + 3, "");
    hy_text_stream_reset(stream);
    expect_push(' ' + 3, "");
    expect_push('a' + 3, "a");
    expect_finish("");
    hy_text_stream_release(stream);
}
END_TEST

START_TEST(a_bad_id_changes_nothing)
{
    const char *text;
    size_t length;
    test_status(hy_text_stream_create(tokenizers[0].tokenizer, &stream, &error), HYMBA_OK, error);
    expect_push(0xC3 + 3, "");
    test_status(hy_text_stream_push(stream, -1, &text, &length, &error), HYMBA_ERROR_ARGUMENT,
                error);
    test_status(hy_text_stream_push(stream, 4096, &text, &length, &error), HYMBA_ERROR_ARGUMENT,
                error);
    expect_push(0xA9 + 3, "\xC3\xA9");
    hy_text_stream_release(stream);
    hy_text_stream_reset(NULL);
    hy_text_stream_release(NULL);
}
END_TEST

START_TEST(holds_its_tokenizer)
{
    hymba_tokenizer *tokenizer = test_open_form("examples/demo", "tokenizer.model");
    test_status(hy_text_stream_create(tokenizer, &stream, &error), HYMBA_OK, error);
    hy_tokenizer_release(tokenizer);
    expect_push('a' + 3, "a");
    hy_text_stream_release(stream);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("text_stream");
    TCase *cases = tcase_create("text_stream");
    tcase_add_checked_fixture(cases, open_all, close_all);
    tcase_set_timeout(cases, 300);
    tcase_add_test(cases, equals_decode_in_all_recorded_cases);
    tcase_add_test(cases, equals_decode_on_random_ids);
    tcase_add_test(cases, characters_wait_until_they_are_whole);
    tcase_add_test(cases, a_bad_id_changes_nothing);
    tcase_add_test(cases, holds_its_tokenizer);
    suite_add_tcase(suite, cases);
    return test_main(suite);
}
