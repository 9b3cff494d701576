/* JSON documents as the rest of the library sees them. */
#include "base/json.h"

#include <errno.h>
#include <jansson.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"

static struct test_host host;
static struct hy_memory memory;
static hymba_error error;

static void setup(void)
{
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    test_status(hy_memory_init(&memory, &host.host, &error), HYMBA_OK, error);
}

static void teardown(void)
{
    test_host_check(&host);
}

static hy_json *parse(const char *text)
{
    hy_json *document;
    test_status(hy_json_parse(text, strlen(text), "a.json", &document, &error), HYMBA_OK, error);
    ck_assert_ptr_nonnull(document);
    return document;
}

static void refuse_bytes(const char *text, size_t length)
{
    hy_json *document = (hy_json *)&error;
    test_status(hy_json_parse(text, length, "a.json", &document, &error), HYMBA_ERROR_FORMAT,
                error);
    ck_assert_ptr_null(document);
    ck_assert_msg(strncmp(error.message, "a.json, line ", 13) == 0, "%s", error.message);
    ck_assert_int_ge(error.position, 0);
    ck_assert_int_le(error.position, (int64_t)length);
}

static void refuse(const char *text)
{
    refuse_bytes(text, strlen(text));
}

START_TEST(kinds)
{
    static const struct {
        const char *text;
        enum hy_json_kind kind;
        const char *name;
    } cases[] = {
        {"null", HY_JSON_NULL, "null"},
        {"true", HY_JSON_BOOL, "a boolean"},
        {"false", HY_JSON_BOOL, "a boolean"},
        {"-7", HY_JSON_INTEGER, "an integer"},
        {"7.0", HY_JSON_REAL, "a number with a fraction"},
        {"7e0", HY_JSON_REAL, "a number with a fraction"},
        {"\"7\"", HY_JSON_STRING, "a string"},
        {"[]", HY_JSON_ARRAY, "an array"},
        {" {} ", HY_JSON_OBJECT, "an object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hy_json *value = parse(cases[i].text);
        ck_assert_msg(hy_json_kind(value) == cases[i].kind, "%s", cases[i].text);
        ck_assert_str_eq(hy_json_kind_name(cases[i].kind), cases[i].name);
        hy_json_free(value);
    }
    ck_assert_int_eq(hy_json_kind(NULL), HY_JSON_ABSENT);
    ck_assert_str_eq(hy_json_kind_name(HY_JSON_ABSENT), "absent");
}
END_TEST

/* Each reading function on each kind: only its own kind gives something. */
static void check_foreign(const hy_json *value, enum hy_json_kind kind)
{
    size_t length = 77;
    if (kind != HY_JSON_BOOL)
        ck_assert(!hy_json_bool(value));
    if (kind != HY_JSON_INTEGER)
        ck_assert_int_eq(hy_json_integer(value), 0);
    if (kind != HY_JSON_INTEGER && kind != HY_JSON_REAL)
        ck_assert(hy_json_real(value) == 0);
    if (kind != HY_JSON_STRING) {
        ck_assert_ptr_null(hy_json_string(value, NULL));
        ck_assert_ptr_null(hy_json_string(value, &length));
        ck_assert_uint_eq(length, 0);
    }
    if (kind != HY_JSON_ARRAY) {
        ck_assert_uint_eq(hy_json_array_size(value), 0);
        ck_assert_ptr_null(hy_json_array_get(value, 0));
    }
    if (kind != HY_JSON_OBJECT) {
        ck_assert_uint_eq(hy_json_object_size(value), 0);
        ck_assert_ptr_null(hy_json_object_get(value, "a"));
        ck_assert_ptr_null(hy_json_next_member(value, NULL));
    }
}

START_TEST(other_kinds_give_nothing)
{
    hy_json *list = parse("[null, true, 5, 5.5, \"5\", [5], {\"a\": 5}]");
    for (size_t i = 0; i < hy_json_array_size(list); i++)
        check_foreign(hy_json_array_get(list, i), hy_json_kind(hy_json_array_get(list, i)));
    check_foreign(NULL, HY_JSON_ABSENT);
    ck_assert_ptr_null(hy_json_array_get(list, 7));
    ck_assert_ptr_null(hy_json_array_get(list, SIZE_MAX));
    hy_json_free(list);
    hy_json_free(NULL);
}
END_TEST

START_TEST(values)
{
    hy_json *list = parse("[true, false, 9223372036854775807, -9223372036854775808, 1e-6, 3,"
                          " \"q\\\"\\u00e9\\ud83d\\ude00\"]");
    size_t length;
    ck_assert(hy_json_bool(hy_json_array_get(list, 0)));
    ck_assert(!hy_json_bool(hy_json_array_get(list, 1)));
    ck_assert_int_eq(hy_json_integer(hy_json_array_get(list, 2)), INT64_MAX);
    ck_assert_int_eq(hy_json_integer(hy_json_array_get(list, 3)), INT64_MIN);
    ck_assert(hy_json_real(hy_json_array_get(list, 4)) == 1e-6);
    ck_assert(hy_json_real(hy_json_array_get(list, 5)) == 3);
    ck_assert_str_eq(hy_json_string(hy_json_array_get(list, 6), &length),
                     "q\"\xc3\xa9\xf0\x9f\x98\x80");
    ck_assert_uint_eq(length, 8);
    hy_json_free(list);
}
END_TEST

START_TEST(members_in_the_order_of_the_text)
{
    static const char *const keys[] = {"zeta", "alpha", "", "mid", "\xc3\xa9", "a", "Z", "10", "9"};
    enum { N_KEYS = sizeof keys / sizeof keys[0] };
    hy_json *object = parse("{\"zeta\":0,\"alpha\":1,\"\":2,\"mid\":3,\"\\u00e9\":4,\"a\":5,"
                            "\"Z\":6,\"10\":7,\"9\":8}");
    int i = 0;
    ck_assert_uint_eq(hy_json_object_size(object), N_KEYS);
    for (hy_json_member *member = hy_json_next_member(object, NULL); member;
         member = hy_json_next_member(object, member), i++) {
        size_t length;
        ck_assert_int_lt(i, N_KEYS);
        ck_assert_str_eq(hy_json_member_key(member, &length), keys[i]);
        ck_assert_uint_eq(length, strlen(keys[i]));
        ck_assert_str_eq(hy_json_member_key(member, NULL), keys[i]);
        ck_assert_int_eq(hy_json_integer(hy_json_member_value(member)), i);
        ck_assert_ptr_eq(hy_json_object_get(object, keys[i]), hy_json_member_value(member));
    }
    ck_assert_int_eq(i, N_KEYS);
    ck_assert_ptr_null(hy_json_object_get(object, "beta"));
    hy_json_free(object);
}
END_TEST

START_TEST(nul_bytes)
{
    size_t length;
    hy_json *list = parse("[\"a\\u0000b\"]");
    const char *text = hy_json_string(hy_json_array_get(list, 0), &length);
    ck_assert_uint_eq(length, 3);
    ck_assert_mem_eq(text, "a\0b", 4);
    hy_json_free(list);
    refuse("{\"a\\u0000b\": 1}"); /* a key is looked up by its text */
    refuse_bytes("[\"a\0b\"]", 7);  /* a control character must be escaped */
    refuse_bytes("[1]\0", 4);
}
END_TEST

START_TEST(duplicate_keys)
{
    refuse("{\"a\": 1, \"b\": 2, \"a\": 1}");
    refuse("{\"x\": [{\"a\": 1, \"\\u0061\": 2}]}");
    ck_assert_ptr_nonnull(strstr(error.message, "duplicate"));
}
END_TEST

/* A text of opening brackets, then of as many closing ones; object: keys in between. */
static char *nested(size_t depth, bool object, bool closed)
{
    const char *opening = object ? "{\"k\":" : "[", *end = object ? "}" : "]";
    size_t size = strlen(opening);
    char *text = calloc(depth * (size + 1) + 2, 1);
    for (size_t i = 0; i < depth; i++)
        memcpy(text + i * size, opening, size);
    text[depth * size] = '1';
    for (size_t i = 0; closed && i < depth; i++)
        text[depth * size + 1 + i] = end[0];
    return text;
}

START_TEST(deep_nesting)
{
    for (int way = 0; way < 4; way++) {
        char *deep = nested(1000000, way & 1, way & 2), *usual = nested(500, way & 1, true);
        refuse(deep);
        hy_json_free(parse(usual));
        free(deep);
        free(usual);
    }
}
END_TEST

START_TEST(bad_utf8)
{
    static const char *const cases[] = {
        "[\"\x80\"]",             /* a continuation byte alone */
        "[\"\xc3\"]",             /* cut */
        "[\"\xc0\xaf\"]",         /* longer than need be */
        "[\"\xe0\x80\xaf\"]",     /* the same */
        "[\"\xed\xa0\x80\"]",     /* half a surrogate pair */
        "[\"\xf4\x90\x80\x80\"]", /* above U+10FFFF */
        "[\"\xff\"]",
        "{\"\x80\": 1}",
        "\xef\xbb\xbf[]",         /* a byte order mark is not JSON */
        "[\"\\ud800\"]",          /* the same half pair, escaped */
        "[\"\\udc00\\ud800\"]",
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuse(cases[i]);
}
END_TEST

START_TEST(bad_numbers)
{
    static const char *const cases[] = {
        "9223372036854775808", "-9223372036854775809", "123456789012345678901234567890",
        "1e999", "-1e999", "01", "1.", ".5", "+1", "0x10", "NaN", "Infinity", "-", "1e",
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuse(cases[i]);
}
END_TEST

START_TEST(bad_text)
{
    static const char *const cases[] = {
        "", " ", "[", "[1,]", "{", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "'a'", "[1 2]",
        "[] []", "tru", "nulll", "\"a", "\"\\x\"", "\"\n\"", "[1]x", "// a\n1",
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuse(cases[i]);
    hy_json *document;
    test_status(hy_json_parse(NULL, 0, "a.json", &document, &error), HYMBA_ERROR_FORMAT, error);
    test_status(hy_json_parse("[", 1, "a.json", &document, NULL), HYMBA_ERROR_FORMAT, error);
    ck_assert_ptr_null(document);
}
END_TEST

START_TEST(faults_have_a_place)
{
    refuse("{\n  \"a\": 1,\n  \"b\": ]\n}");
    ck_assert_msg(strncmp(error.message, "a.json, line 3: ", 16) == 0, "%s", error.message);
    ck_assert_int_ge(error.position, 17);
    ck_assert_int_le(error.position, 21);
}
END_TEST

/* Every beginning of a text, in a block of its own: none is read past its end. */
START_TEST(cut_texts)
{
    static const char text[] = "{\"a\": [1, -2.5e3, \"\\u00e9\xc3\xa9\", true, null], \"b\": {}}";
    for (size_t length = 0; length < sizeof text - 1; length++) {
        char *cut = malloc(length ? length : 1);
        memcpy(cut, text, length);
        refuse_bytes(cut, length);
        free(cut);
    }
    hy_json_free(parse(text));
}
END_TEST

/* One value is what a text holds, whatever Jansson is given around it. */
START_TEST(one_value)
{
    static const char *const cases[] = {"1, 2", "1] ", "1], [2", "] [", "1,"};
    hy_json *document;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        test_status(hy_json_parse(cases[i], strlen(cases[i]), "a.json", &document, &error),
                    HYMBA_ERROR_FORMAT, error);
        ck_assert_ptr_null(document);
    }
}
END_TEST

START_TEST(long_numbers)
{
    char text[1100];
    memset(text, '1', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    refuse(text);
    ck_assert_ptr_nonnull(strstr(error.message, "more than 1023 characters"));
    memcpy(text + 1023, "e-1000", 7);
    memset(text, '0', 1017);
    memcpy(text, "0.", 2);
    memcpy(text + 1017, "e-1000", 7);
    hy_json *document = parse(text);
    ck_assert(hy_json_real(document) == 0.0);
    hy_json_free(document);
    memset(text + 1, '2', sizeof text - 3);
    text[0] = text[sizeof text - 2] = '"'; /* digits in a string are no number */
    document = parse(text);
    size_t length;
    hy_json_string(document, &length);
    ck_assert_uint_eq(length, sizeof text - 3);
    hy_json_free(document);
}
END_TEST

/* ------------------------------------------------------------------- memory */

static long until_failure; /* of Jansson's allocations; one fails */

static void *failing_alloc(size_t size)
{
    if (until_failure-- != 0)
        return malloc(size);
    errno = ENOMEM;
    return NULL;
}

/* Jansson reads on, or ends the program, where the buffer of a token has not grown. */
START_TEST(failing_allocations)
{
    static const char text[] =
        "{\"a string of some length\": 0.30000000000000004, \"b\": [1234567890123456, "
        "\"0123456789012345678901234567890123456789\", -1e-6, true, null, {\"c\": []}]}";
    json_malloc_t old_alloc;
    json_free_t old_free;
    json_get_alloc_funcs(&old_alloc, &old_free);
    json_set_alloc_funcs(failing_alloc, free);
    hymba_status status = HYMBA_ERROR_MEMORY;
    long number = 0;
    for (; status != HYMBA_OK; number++) {
        hy_json *document;
        until_failure = number;
        status = hy_json_parse(text, sizeof text - 1, "a.json", &document, &error);
        if (until_failure < 0)
            test_status(status, HYMBA_ERROR_MEMORY, error);
        hy_json_free(document);
    }
    json_set_alloc_funcs(old_alloc, old_free);
    ck_assert_int_gt(number, 20);
}
END_TEST

/* ------------------------------------------------------------- with_string */

static char *with_string(const char *text, const char *key, const char *value)
{
    char *result;
    size_t size;
    test_status(hy_json_with_string(&memory, text, strlen(text), "a.json", key, value, &result,
                                    &size, &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(strlen(result), size);
    ck_assert_int_eq(result[size - 1], '\n');
    return result;
}

START_TEST(with_string_sets_one_member)
{
    static const struct {
        const char *text, *key, *value, *result;
    } cases[] = {
        {"{}", "k", "v", "{\n  \"k\": \"v\"\n}\n"},
        {"{\"b\":1,\"a\":[true]}", "k", "v",
         "{\n  \"b\": 1,\n  \"a\": [\n    true\n  ],\n  \"k\": \"v\"\n}\n"},
        {"{\"b\":1,\"k\":7,\"a\":null}", "k", "new",
         "{\n  \"b\": 1,\n  \"k\": \"new\",\n  \"a\": null\n}\n"},
        {"{\"\\u00e9\":\"a\\u0000b\\n\"}", "k", "\"\\",
         "{\n  \"\xc3\xa9\": \"a\\u0000b\\n\",\n  \"k\": \"\\\"\\\\\"\n}\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *result = with_string(cases[i].text, cases[i].key, cases[i].value);
        ck_assert_str_eq(result, cases[i].result);
        hy_free(&memory, result);
    }
}
END_TEST

/* Numbers come out with the value they went in with. */
START_TEST(with_string_keeps_numbers)
{
    static const double numbers[] = {1e-6, 0.1, 1.0 / 3, 1e300, 5e-324, -0.0, 10000.0, 74534.8};
    const char *text = "{\"n\": [1e-6, 0.1, 0.33333333333333331, 1e300, 5e-324, -0.0, 10000.0,"
                       " 74534.8, 9223372036854775807]}";
    char *result = with_string(text, "k", "v");
    hy_json *document = parse(result);
    const hy_json *list = hy_json_object_get(document, "n");
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        ck_assert_int_eq(hy_json_kind(hy_json_array_get(list, i)), HY_JSON_REAL);
        ck_assert(hy_json_real(hy_json_array_get(list, i)) == numbers[i]);
    }
    ck_assert_int_eq(hy_json_integer(hy_json_array_get(list, 8)), INT64_MAX);
    hy_json_free(document);
    hy_free(&memory, result);
}
END_TEST

START_TEST(with_string_refuses)
{
    char *result;
    size_t size;
    test_status(hy_json_with_string(&memory, "[]", 2, "a.json", "k", "v", &result, &size, &error),
                HYMBA_ERROR_FORMAT, error);
    ck_assert_str_eq(error.message, "a.json: found an array, expected an object");
    test_status(hy_json_with_string(&memory, "{", 1, "a.json", "k", "v", &result, &size, &error),
                HYMBA_ERROR_FORMAT, error);
    test_host_fail_at(&host, 0, false);
    test_status(hy_json_with_string(&memory, "{}", 2, "a.json", "k", "v", &result, &size, &error),
                HYMBA_ERROR_MEMORY, error);
}
END_TEST

/* A host program's locale may write numbers with a comma; ours are JSON's all the same. */
START_TEST(numbers_ignore_the_locale)
{
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR"};
    const char *found = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !found; i++)
        found = setlocale(LC_ALL, names[i]);
    if (!found) {
        printf("skipped: a locale with a decimal comma is not here\n");
        return;
    }
    hy_json *document = parse("[1.5]");
    ck_assert(hy_json_real(hy_json_array_get(document, 0)) == 1.5);
    hy_json_free(document);
    refuse("[1,5");
    char *result = with_string("{\"a\": 0.5}", "k", "v");
    ck_assert_ptr_nonnull(strstr(result, "\"a\": 0.5"));
    hy_free(&memory, result);
    setlocale(LC_ALL, "C");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("json");
    TCase *tests = tcase_create("json");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, kinds);
    tcase_add_test(tests, other_kinds_give_nothing);
    tcase_add_test(tests, values);
    tcase_add_test(tests, members_in_the_order_of_the_text);
    tcase_add_test(tests, nul_bytes);
    tcase_add_test(tests, duplicate_keys);
    tcase_add_test(tests, deep_nesting);
    tcase_add_test(tests, bad_utf8);
    tcase_add_test(tests, bad_numbers);
    tcase_add_test(tests, bad_text);
    tcase_add_test(tests, faults_have_a_place);
    tcase_add_test(tests, cut_texts);
    tcase_add_test(tests, one_value);
    tcase_add_test(tests, long_numbers);
    tcase_add_test(tests, failing_allocations);
    tcase_add_test(tests, with_string_sets_one_member);
    tcase_add_test(tests, with_string_keeps_numbers);
    tcase_add_test(tests, with_string_refuses);
    tcase_add_test(tests, numbers_ignore_the_locale);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
