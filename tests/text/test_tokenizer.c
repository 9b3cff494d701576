/* Encoding and decoding: every recorded case, both forms of the tokenizer, and the edges. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"
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

static void check_ids(const struct test_tokenizer *tokenizer, unsigned line, const char *text,
                      size_t length, uint32_t flags, const json_t *expected)
{
    size_t count, expected_count;
    int32_t *ids = test_encode(tokenizer->tokenizer, text, length, flags, &count);
    int32_t *expected_ids = test_ids(expected, &expected_count);
    ck_assert_msg(count == expected_count, "%s, line %u: %zu ids, expected %zu", tokenizer->name,
                  line, count, expected_count);
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(ids[i] == expected_ids[i], "%s, line %u: id %zu is %d, expected %d",
                      tokenizer->name, line, i, (int)ids[i], (int)expected_ids[i]);
    free(ids);
    free(expected_ids);
}

static void check_text(const struct test_tokenizer *tokenizer, unsigned line, const json_t *array,
                       uint32_t flags, const char *expected, size_t expected_size)
{
    size_t count, size;
    int32_t *ids = test_ids(array, &count);
    char *text = test_decode(tokenizer->tokenizer, ids, count, flags, &size);
    ck_assert_msg(size == expected_size && memcmp(text, expected, size) == 0,
                  "%s, line %u: decoded to \"%s\" (%zu bytes), expected \"%s\" (%zu bytes)",
                  tokenizer->name, line, text, size, expected, expected_size);
    free(text);
    free(ids);
}

static void check_encode_case(const struct test_tokenizer *tokenizer, json_t *test_case,
                              unsigned line)
{
    const json_t *text = json_object_get(test_case, "text");
    const json_t *shown = json_object_get(test_case, "decoded_hf_with_special");
    check_ids(tokenizer, line, json_string_value(text), json_string_length(text),
              HYMBA_ENCODE_BOS | HYMBA_ENCODE_SPECIAL, json_object_get(test_case, "ids"));
    check_ids(tokenizer, line, json_string_value(text), json_string_length(text), 0,
              json_object_get(test_case, "ids_plain"));
    check_text(tokenizer, line, json_object_get(test_case, "ids"), HYMBA_DECODE_SPECIAL,
               json_string_value(shown), json_string_length(shown));
}

static void check_chat_case(const struct test_tokenizer *tokenizer, json_t *test_case,
                            unsigned line)
{
    const json_t *text = json_object_get(test_case, "text");
    check_ids(tokenizer, line, json_string_value(text), json_string_length(text),
              HYMBA_ENCODE_BOS | HYMBA_ENCODE_SPECIAL, json_object_get(test_case, "ids"));
    check_ids(tokenizer, line, json_string_value(text), json_string_length(text),
              HYMBA_ENCODE_SPECIAL, json_object_get(test_case, "ids_no_bos"));
}

static unsigned n_cases[4];

static void check_case(const struct test_tokenizer *tokenizer, json_t *test_case, unsigned line)
{
    const char *kind = json_string_value(json_object_get(test_case, "kind"));
    const json_t *hexadecimal = json_object_get(test_case, "bytes_hex");
    if (strcmp(kind, "encode") == 0) {
        check_encode_case(tokenizer, test_case, line);
        n_cases[0]++;
    } else if (strcmp(kind, "decode") == 0) {
        n_cases[1]++;
    } else if (strcmp(kind, "chat") == 0) {
        check_chat_case(tokenizer, test_case, line);
        n_cases[2]++;
    } else if (strcmp(kind, "encode_bytes") == 0) {
        size_t size;
        char *input = test_hexadecimal(json_object_get(test_case, "input_hex"), &size);
        check_ids(tokenizer, line, input, size, 0, json_object_get(test_case, "ids_plain"));
        free(input);
        n_cases[3]++;
    } else {
        ck_abort_msg("%s, line %u: a case of kind %s", tokenizer->name, line, kind);
    }
    if (hexadecimal) {
        size_t size;
        char *expected = test_hexadecimal(hexadecimal, &size);
        expected[size] = '\0';
        check_text(tokenizer, line, json_object_get(test_case, "ids"), 0, expected, size);
        free(expected);
    }
}

START_TEST(all_recorded_cases)
{
    for (size_t i = 0; i < n_tokenizers; i++) {
        memset(n_cases, 0, sizeof n_cases);
        test_each_case(&tokenizers[i], check_case);
        ck_assert_uint_eq(n_cases[0], 340);
        ck_assert_uint_ge(n_cases[1], 65);
        ck_assert_uint_eq(n_cases[3], 13);
    }
}
END_TEST

START_TEST(vocabulary_and_special_tokens)
{
    for (size_t i = 0; i < n_tokenizers; i++) {
        const hymba_tokenizer *tokenizer = tokenizers[i].tokenizer;
        bool is_demo = i < 2;
        ck_assert_uint_eq(hy_tokenizer_size(tokenizer), is_demo ? 4096 : 32001);
        ck_assert_int_eq(hy_tokenizer_bos(tokenizer), 1);
        ck_assert_int_eq(hy_tokenizer_eos(tokenizer), 2);
        ck_assert(hy_tokenizer_adds_bos(tokenizer));
        ck_assert(!hy_tokenizer_chat_template(tokenizer) == is_demo);
        ck_assert_int_eq(hy_tokenizer_piece(tokenizer, 0).kind, HY_PIECE_UNKNOWN);
        ck_assert_int_eq(hy_tokenizer_piece(tokenizer, 1).kind, HY_PIECE_SPECIAL);
        struct hy_piece newline = hy_tokenizer_piece(tokenizer, 13);
        ck_assert_int_eq(newline.kind, HY_PIECE_BYTE);
        ck_assert_int_eq(newline.byte, '\n');
        ck_assert_uint_eq(newline.length, 6);
        ck_assert_mem_eq(newline.text, "<0x0A>", 6);
        if (!is_demo) {
            struct hy_piece pad = hy_tokenizer_piece(tokenizer, 32000);
            ck_assert_int_eq(pad.kind, HY_PIECE_SPECIAL);
            ck_assert_uint_eq(pad.length, 5);
            ck_assert_mem_eq(pad.text, "[PAD]", 5);
        }
    }
}
END_TEST

START_TEST(both_forms_are_one_vocabulary)
{
    for (size_t i = 0; i < n_tokenizers; i += 2) {
        const hymba_tokenizer *model = tokenizers[i].tokenizer, *json = tokenizers[i + 1].tokenizer;
        ck_assert_uint_eq(hy_tokenizer_size(model), hy_tokenizer_size(json));
        for (int32_t id = 0; id < (int32_t)hy_tokenizer_size(model); id++) {
            struct hy_piece a = hy_tokenizer_piece(model, id), b = hy_tokenizer_piece(json, id);
            ck_assert_int_eq(a.kind, b.kind);
            ck_assert_uint_eq(a.length, b.length);
            ck_assert_mem_eq(a.text, b.text, a.length);
        }
    }
}
END_TEST

/* A text of random pieces, spaces, special tokens' text and arbitrary bytes. */
static size_t random_text(const hymba_tokenizer *tokenizer, char *text, size_t capacity)
{
    size_t length = 0;
    while (length + 64 < capacity) {
        int32_t id = (int32_t)test_random_below(hy_tokenizer_size(tokenizer));
        struct hy_piece piece = hy_tokenizer_piece(tokenizer, id);
        if (test_random() < 0.1) {
            text[length++] = (char)test_random_below(256);
        } else if (test_random() < 0.3) {
            memset(text + length, ' ', 1 + (size_t)id % 20);
            length += 1 + (size_t)id % 20;
        } else if (piece.length < 40) {
            memcpy(text + length, piece.text, piece.length);
            length += piece.length;
        }
    }
    return length;
}

START_TEST(both_forms_agree_on_random_text)
{
    static char text[2000];
    test_random_seed(11);
    for (size_t i = 0; i < n_tokenizers; i += 2) {
        for (unsigned round = 0; round < 20; round++) {
            size_t length = random_text(tokenizers[i].tokenizer, text, sizeof text);
            uint32_t flags = round % 2 ? HYMBA_ENCODE_SPECIAL : 0;
            size_t n_model, n_json;
            int32_t *model = test_encode(tokenizers[i].tokenizer, text, length, flags, &n_model);
            int32_t *json = test_encode(tokenizers[i + 1].tokenizer, text, length, flags, &n_json);
            ck_assert_uint_eq(n_model, n_json);
            ck_assert_mem_eq(model, json, n_model * sizeof *model);
            free(model);
            free(json);
        }
    }
}
END_TEST

/* Ordinary text never becomes a special, unknown or byte token by being spelled like one (letters
 * that the demo lacks are byte tokens of their own: what is decoded shows that they are). */
START_TEST(ordinary_text_stays_ordinary)
{
    static const char text[] = "<unk><s></s>[PAD]<0x41><0x0A>";
    for (size_t i = 0; i < n_tokenizers; i++) {
        size_t count, size;
        int32_t *ids = test_encode(tokenizers[i].tokenizer, text, strlen(text), 0, &count);
        for (size_t k = 0; k < count; k++) {
            struct hy_piece piece = hy_tokenizer_piece(tokenizers[i].tokenizer, ids[k]);
            ck_assert(piece.kind == HY_PIECE_NORMAL || piece.kind == HY_PIECE_BYTE);
        }
        char *decoded = test_decode(tokenizers[i].tokenizer, ids, count, 0, &size);
        ck_assert_str_eq(decoded, text);
        free(decoded);
        free(ids);
    }
}
END_TEST

/* Long texts are quadratic only by mistake: this would then take minutes. */
START_TEST(long_texts)
{
    const size_t length = 1 << 20;
    char *text = malloc(length);
    ck_assert_ptr_nonnull(text);
    for (size_t i = 0; i < n_tokenizers; i++) {
        const hymba_tokenizer *tokenizer = tokenizers[i].tokenizer;
        size_t count, size;
        memset(text, i % 2 ? 'a' : ' ', length);
        int32_t *ids = test_encode(tokenizer, text, length, 0, &count);
        char *decoded = test_decode(tokenizer, ids, count, 0, &size);
        ck_assert_uint_eq(size, length);
        ck_assert_mem_eq(decoded, text, length);
        free(decoded);
        free(ids);
    }
    free(text);
}
END_TEST

/* What one thread does with the tokenizer that all of them share. */
struct reader {
    pthread_t thread;
    const hymba_tokenizer *tokenizer;
    size_t n_right;
};

static void *read_on(void *argument)
{
    static const char text[] = "Once upon a time</s>there was a tokenizer.";
    struct reader *reader = argument;
    for (unsigned round = 0; round < 50; round++) {
        struct hy_ids ids = {.memory = hy_tokenizer_memory(reader->tokenizer)};
        char decoded[64];
        size_t size = 0;
        if (hy_tokenizer_encode(reader->tokenizer, text, sizeof text - 1, HYMBA_ENCODE_SPECIAL,
                                &ids, NULL) == HYMBA_OK &&
            hy_tokenizer_decode(reader->tokenizer, ids.data, ids.count, HYMBA_DECODE_SPECIAL,
                                decoded, sizeof decoded, &size, NULL) == HYMBA_OK)
            reader->n_right += size == sizeof text && memcmp(decoded + size - 6, "nizer.", 6) == 0;
        hy_free(ids.memory, ids.data);
    }
    return NULL;
}

START_TEST(many_threads_share_a_tokenizer)
{
    struct reader readers[4];
    for (size_t i = 0; i < 4; i++) {
        readers[i] = (struct reader){.tokenizer = tokenizers[0].tokenizer};
        ck_assert_int_eq(pthread_create(&readers[i].thread, NULL, read_on, &readers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_join(readers[i].thread, NULL), 0);
        ck_assert_uint_eq(readers[i].n_right, 50);
    }
}
END_TEST

START_TEST(encode_appends_and_checks_its_flags)
{
    const hymba_tokenizer *tokenizer = tokenizers[0].tokenizer;
    struct hy_ids ids = {.memory = hy_tokenizer_memory(tokenizer)};
    test_status(hy_tokenizer_encode(tokenizer, NULL, 0, 0, &ids, &error), HYMBA_OK, error);
    ck_assert_uint_eq(ids.count, 0);
    test_status(hy_tokenizer_encode(tokenizer, "", 0, HYMBA_ENCODE_BOS, &ids, &error), HYMBA_OK,
                error);
    test_status(hy_tokenizer_encode(tokenizer, "</s>", 4, HYMBA_ENCODE_SPECIAL, &ids, &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(ids.count, 2);
    ck_assert_int_eq(ids.data[0], 1);
    ck_assert_int_eq(ids.data[1], 2);
    test_status(hy_tokenizer_encode(tokenizer, "a", 1, 4, &ids, &error), HYMBA_ERROR_ARGUMENT,
                error);
    ck_assert_uint_eq(ids.count, 2);
    hy_free(ids.memory, ids.data);
}
END_TEST

START_TEST(decode_checks_ids_and_respects_the_capacity)
{
    const hymba_tokenizer *tokenizer = tokenizers[0].tokenizer;
    int32_t ids[] = {'a' + 3, 'b' + 3, 'c' + 3};
    char buffer[4] = "....";
    size_t needed = 99;
    test_status(hy_tokenizer_decode(tokenizer, ids, 3, 0, buffer, 2, &needed, &error), HYMBA_OK,
                error);
    ck_assert_uint_eq(needed, 3);
    ck_assert_mem_eq(buffer, "ab..", 4);
    ids[2] = (int32_t)hy_tokenizer_size(tokenizer);
    test_status(hy_tokenizer_decode(tokenizer, ids, 3, 0, buffer, 2, &needed, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 2);
    ids[1] = -1;
    test_status(hy_tokenizer_decode(tokenizer, ids, 3, 0, buffer, 2, &needed, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 1);
    test_status(hy_tokenizer_decode(tokenizer, ids, 0, 2, buffer, 2, &needed, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hy_tokenizer_decode(tokenizer, NULL, 0, 0, NULL, 0, &needed, &error), HYMBA_OK,
                error);
    ck_assert_uint_eq(needed, 0);
}
END_TEST

START_TEST(directories)
{
    hymba_tokenizer *tokenizer = NULL;
    test_status(hy_tokenizer_open_directory(NULL, "examples/demo", false, &tokenizer, &error),
                HYMBA_OK, error);
    ck_assert_ptr_eq(hy_tokenizer_retain(tokenizer), tokenizer);
    hy_tokenizer_release(tokenizer);
    ck_assert_uint_eq(hy_tokenizer_size(tokenizer), 4096);
    hy_tokenizer_release(tokenizer);
    test_status(hy_tokenizer_open_directory(NULL, "tests/text", true, &tokenizer, &error),
                HYMBA_OK, error);
    ck_assert_ptr_null(tokenizer);
    test_status(hy_tokenizer_open_directory(NULL, "tests/text", false, &tokenizer, &error),
                HYMBA_ERROR_FILE, error);
    ck_assert_ptr_null(tokenizer);
    ck_assert_ptr_nonnull(strstr(error.message, "tokenizer.json"));
}
END_TEST

START_TEST(a_directory_with_tokenizer_json_alone)
{
    char path[512];
    size_t size;
    hymba_tokenizer *tokenizer = NULL;
    char *json = test_read_file("examples/demo/tokenizer.json", &size);
    snprintf(path, sizeof path, "%s/tokenizer.json", test_directory());
    test_write_file(path, json, size);
    free(json);
    test_status(hy_tokenizer_open_directory(NULL, test_directory(), false, &tokenizer, &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(hy_tokenizer_size(tokenizer), 4096);
    ck_assert(hy_tokenizer_adds_bos(tokenizer));
    hy_tokenizer_release(tokenizer);

    /* An empty tokenizer.model is a broken one, not a missing one. */
    snprintf(path, sizeof path, "%s/tokenizer.model", test_directory());
    test_write_file(path, "", 0);
    test_status(hy_tokenizer_open_directory(NULL, test_directory(), true, &tokenizer, &error),
                HYMBA_ERROR_FORMAT, error);
    ck_assert_ptr_null(tokenizer);
}
END_TEST

START_TEST(no_tokenizer)
{
    ck_assert_uint_eq(hy_tokenizer_size(NULL), 0);
    ck_assert_int_eq(hy_tokenizer_bos(NULL), -1);
    ck_assert_int_eq(hy_tokenizer_eos(NULL), -1);
    ck_assert(!hy_tokenizer_adds_bos(NULL));
    ck_assert_ptr_null(hy_tokenizer_chat_template(NULL));
    ck_assert_ptr_null(hy_tokenizer_retain(NULL));
    hy_tokenizer_release(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tokenizer");
    TCase *cases = tcase_create("tokenizer");
    tcase_add_checked_fixture(cases, open_all, close_all);
    tcase_set_timeout(cases, 300);
    tcase_add_test(cases, all_recorded_cases);
    tcase_add_test(cases, vocabulary_and_special_tokens);
    tcase_add_test(cases, both_forms_are_one_vocabulary);
    tcase_add_test(cases, both_forms_agree_on_random_text);
    tcase_add_test(cases, ordinary_text_stays_ordinary);
    tcase_add_test(cases, long_texts);
    tcase_add_test(cases, many_threads_share_a_tokenizer);
    tcase_add_test(cases, encode_appends_and_checks_its_flags);
    tcase_add_test(cases, decode_checks_ids_and_respects_the_capacity);
    tcase_add_test(cases, directories);
    tcase_add_test(cases, a_directory_with_tokenizer_json_alone);
    tcase_add_test(cases, no_tokenizer);
    suite_add_tcase(suite, cases);
    return test_main(suite);
}
