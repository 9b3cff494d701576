/* Error records: what is written, how much of it, and never past the caller's struct. */
#include "base/status.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

static hymba_error error;

static void setup(void)
{
    memset(&error, 0x55, sizeof error);
    error.struct_size = sizeof error;
}

START_TEST(plain)
{
    ck_assert_int_eq(hy_fail(&error, HYMBA_ERROR_FORMAT, "%s: found %d", "it", 3),
                     HYMBA_ERROR_FORMAT);
    ck_assert_int_eq(error.status, HYMBA_ERROR_FORMAT);
    ck_assert_int_eq(error.system_code, 0);
    ck_assert_int_eq(error.position, -1);
    ck_assert_str_eq(error.message, "it: found 3");
    ck_assert_uint_eq(error.struct_size, sizeof error);
}
END_TEST

START_TEST(with_position)
{
    ck_assert_int_eq(hy_fail_at(&error, HYMBA_ERROR_ARGUMENT, INT64_MAX, "here"),
                     HYMBA_ERROR_ARGUMENT);
    ck_assert_int_eq(error.position, INT64_MAX);
    ck_assert_int_eq(error.system_code, 0);
    ck_assert_str_eq(error.message, "here");
    hy_fail_at(&error, HYMBA_ERROR_ARGUMENT, 0, "there");
    ck_assert_int_eq(error.position, 0);
}
END_TEST

START_TEST(with_system_code)
{
    char expected[300] = "cannot open x: ";
    strcat(expected, strerror(ENOENT));
    ck_assert_int_eq(hy_fail_system(&error, HYMBA_ERROR_FILE, ENOENT, "cannot open %s", "x"),
                     HYMBA_ERROR_FILE);
    ck_assert_int_eq(error.system_code, ENOENT);
    ck_assert_int_eq(error.position, -1);
    ck_assert_str_eq(error.message, expected);
    hy_fail_system(&error, HYMBA_ERROR_FILE, 987654, "odd");
    ck_assert_int_eq(strncmp(error.message, "odd: ", 5), 0);
    ck_assert_uint_gt(strlen(error.message), 5);
    hy_fail_system(&error, HYMBA_ERROR_FILE, 0, "no code");
    ck_assert_str_eq(error.message, "no code");
}
END_TEST

/* The record is only a place to write: without one the status is the same. */
START_TEST(without_a_record)
{
    ck_assert_int_eq(hy_fail(NULL, HYMBA_ERROR_LIMIT, "%d", 1), HYMBA_ERROR_LIMIT);
    ck_assert_int_eq(hy_fail_at(NULL, HYMBA_ERROR_BUSY, 1, "%d", 1), HYMBA_ERROR_BUSY);
    ck_assert_int_eq(hy_fail_system(NULL, HYMBA_ERROR_FILE, ENOENT, "%d", 1), HYMBA_ERROR_FILE);
}
END_TEST

static void fail_one_way(int way, hymba_error *record, const char *text)
{
    if (way == 0)
        hy_fail(record, HYMBA_ERROR_FILE, "%s", text);
    else if (way == 1)
        hy_fail_at(record, HYMBA_ERROR_FILE, 3, "%s", text);
    else
        hy_fail_system(record, HYMBA_ERROR_FILE, EACCES, "%s", text);
}

/* Every size a caller may give, also larger than the library's struct: each in a block with
 * marked bytes behind, for texts that fit and texts that do not. */
START_TEST(never_past_the_struct)
{
    enum { BEHIND = 32, LARGEST = sizeof(hymba_error) + 24 };
    char text[700];
    memset(text, 't', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (size_t size = sizeof size; size <= LARGEST; size++) {
        for (int way = 0; way < 6; way++) {
            unsigned char *bytes = malloc(size + BEHIND);
            memset(bytes, 0x77, size + BEHIND);
            memcpy(bytes, &size, sizeof size);
            fail_one_way(way % 3, (hymba_error *)bytes, way < 3 ? text : text + 695);
            size_t known = size < sizeof(hymba_error) ? size : sizeof(hymba_error);
            for (size_t i = known; i < size + BEHIND; i++)
                if (bytes[i] != 0x77)
                    ck_abort_msg("struct_size %zu: byte %zu was written", size, i);
            if (size > offsetof(hymba_error, message))
                ck_assert_ptr_nonnull(memchr(bytes + offsetof(hymba_error, message), '\0',
                                             known - offsetof(hymba_error, message)));
            free(bytes);
        }
    }
}
END_TEST

START_TEST(long_sentences_are_cut)
{
    char text[700];
    memset(text, 'y', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (int way = 0; way < 3; way++) {
        fail_one_way(way, &error, text);
        ck_assert_uint_eq(strlen(error.message), sizeof error.message - 1);
        ck_assert_mem_eq(error.message, text, sizeof error.message - 1);
    }
}
END_TEST

/* -------------------------------------------------------------- names, init */

START_TEST(names)
{
    static const struct {
        hymba_status status;
        const char *name;
    } cases[] = {
        {0, "HYMBA_OK"},
        {-1, "HYMBA_ERROR_ARGUMENT"},
        {-2, "HYMBA_ERROR_BUFFER"},
        {-10, "HYMBA_ERROR_MEMORY"},
        {-11, "HYMBA_ERROR_LIMIT"},
        {-12, "HYMBA_ERROR_THREAD"},
        {-20, "HYMBA_ERROR_FILE"},
        {-21, "HYMBA_ERROR_FORMAT"},
        {-22, "HYMBA_ERROR_UNSUPPORTED"},
        {-23, "HYMBA_ERROR_MISSING"},
        {-30, "HYMBA_ERROR_DEVICE"},
        {-31, "HYMBA_ERROR_TIMEOUT"},
        {-40, "HYMBA_ERROR_BUSY"},
        {-41, "HYMBA_ERROR_STATE"},
        {-42, "HYMBA_ERROR_CANCELLED"},
        {-90, "HYMBA_ERROR_INTERNAL"},
    };
    size_t n = sizeof cases / sizeof cases[0], n_known = 0;
    for (size_t i = 0; i < n; i++)
        ck_assert_str_eq(hymba_status_name(cases[i].status), cases[i].name);
    for (hymba_status status = -1000; status < 1000; status++) {
        ck_assert_uint_gt(strlen(hymba_status_description(status)), 0);
        n_known += strcmp(hymba_status_name(status), "unknown status") != 0;
    }
    ck_assert_uint_eq(n_known, n);
}
END_TEST

START_TEST(init_of_a_record)
{
    unsigned char bytes[64];
    for (size_t size = sizeof size; size < sizeof bytes; size++) {
        size_t given;
        memset(bytes, 0x77, sizeof bytes);
        hymba_error_init((hymba_error *)bytes, size);
        memcpy(&given, bytes, sizeof given);
        ck_assert_uint_eq(given, size);
        for (size_t i = sizeof size; i < sizeof bytes; i++)
            ck_assert_uint_eq(bytes[i], i < size ? 0 : 0x77);
    }
    memset(bytes, 0x77, sizeof bytes);
    for (size_t size = 0; size < sizeof size; size++)
        hymba_error_init((hymba_error *)bytes, size); /* too small for its own size: left alone */
    for (size_t i = 0; i < sizeof bytes; i++)
        ck_assert_uint_eq(bytes[i], 0x77);
    hymba_error_init(NULL, sizeof(hymba_error));
    hymba_host_init(NULL, sizeof(hymba_host));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("status");
    TCase *tests = tcase_create("status");
    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_test(tests, plain);
    tcase_add_test(tests, with_position);
    tcase_add_test(tests, with_system_code);
    tcase_add_test(tests, without_a_record);
    tcase_add_test(tests, never_past_the_struct);
    tcase_add_test(tests, long_sentences_are_cut);
    tcase_add_test(tests, names);
    tcase_add_test(tests, init_of_a_record);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
