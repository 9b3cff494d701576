/* model.safetensors.index.json: which tensor is in which file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/safetensors.h"
#include "support.h"

static struct hy_memory memory;
static hymba_error error;
static bool memory_is_gone;

static void *host_alloc(void *user, size_t size, size_t alignment)
{
    void *pointer = NULL;
    (void)user;
    if (memory_is_gone)
        return NULL;
    return posix_memalign(&pointer, alignment, size) == 0 ? pointer : NULL;
}

static void host_free(void *user, void *pointer, size_t size, size_t alignment)
{
    (void)user;
    (void)size;
    (void)alignment;
    free(pointer);
}

static void setup(void)
{
    hymba_host host = {.struct_size = sizeof host, .alloc = host_alloc, .free = host_free};
    memory_is_gone = false;
    memset(&error, 0, sizeof error);
    error.struct_size = sizeof error;
    test_status(hy_memory_init(&memory, &host, &error), HYMBA_OK, error);
}

static hymba_status parse(const char *text, struct hy_shard_index *index)
{
    return hy_shard_index_parse(&memory, text, strlen(text), "some.index.json", index, &error);
}

static void refuse(const char *text, const char *word, const char *more)
{
    struct hy_shard_index index;
    test_status(parse(text, &index), HYMBA_ERROR_FORMAT, error);
    ck_assert_msg(strstr(error.message, "some.index.json") && strstr(error.message, word) &&
                      strstr(error.message, more),
                  "%s: %s", text, error.message);
    hy_shard_index_free(&index);
    ck_assert_uint_eq(memory.used, 0);
}

START_TEST(good_index)
{
    struct hy_shard_index index;
    test_status(parse("{\"metadata\":{\"total_size\":7},\"weight_map\":{\"a\":\"two\","
                      "\"b\":\"one\",\"c\":\"two\",\"d\":\"a..b\",\"e\":\"one\"}}",
                      &index),
                HYMBA_OK, error);
    ck_assert_uint_eq(hy_shard_index_size(&index), 5);
    ck_assert_uint_eq(index.n_files, 3);
    ck_assert_str_eq(index.files[0], "a..b");
    ck_assert_str_eq(index.files[1], "one");
    ck_assert_str_eq(index.files[2], "two");
    ck_assert_str_eq(hy_shard_index_find(&index, "b"), "one");
    ck_assert_str_eq(hy_shard_index_find(&index, "c"), "two");
    ck_assert_ptr_null(hy_shard_index_find(&index, "f"));
    hy_shard_index_free(&index);
    hy_shard_index_free(&index);
    ck_assert_uint_eq(memory.used, 0);
}
END_TEST

START_TEST(golden_index)
{
    struct hy_shard_index index;
    size_t length;
    char *text =
        test_read_file(test_data("goldens/f_official_like/model.safetensors.index.json"), &length);
    test_status(hy_shard_index_parse(&memory, text, length, "golden", &index, &error), HYMBA_OK,
                error);
    ck_assert_uint_eq(index.n_files, 3);
    ck_assert_uint_eq(hy_shard_index_size(&index), 3 + 8 * 19);
    for (size_t i = 0; i < index.n_files; i++) {
        char path[200];
        struct hy_file file;
        struct hy_safetensors shard;
        snprintf(path, sizeof path, "goldens/f_official_like/%s", index.files[i]);
        test_status(hy_file_map(test_data(path), &file, &error), HYMBA_OK, error);
        test_status(hy_safetensors_parse(&memory, &file, path, &shard, &error), HYMBA_OK, error);
        for (size_t k = 0; k < shard.count; k++)
            ck_assert_str_eq(hy_shard_index_find(&index, shard.tensors[k].name), index.files[i]);
        hy_safetensors_free(&shard);
        hy_file_close(&file);
    }
    hy_shard_index_free(&index);
    free(text);
    ck_assert_uint_eq(memory.used, 0);
}
END_TEST

START_TEST(form_is_checked)
{
    refuse("", "some.index.json", "");
    refuse("[]", "an array", "expected an object");
    refuse("{}", "weight_map is absent", "");
    refuse("{\"weight_map\":[\"a\"]}", "weight_map is an array", "");
    refuse("{\"weight_map\":{}}", "names no tensor", "");
    refuse("{\"weight_map\":{\"t\":1}}", "tensor t", "an integer");
    refuse("{\"weight_map\":{\"t\":null}}", "tensor t", "null");
    refuse("{\"weight_map\":{\"t\":\"a\",\"t\":\"b\"}}", "duplicate", "");
}
END_TEST

START_TEST(names_that_lead_elsewhere_are_refused)
{
    refuse("{\"weight_map\":{\"t\":\"\"}}", "tensor t", "plain name");
    refuse("{\"weight_map\":{\"t\":\"..\"}}", "tensor t", "\"..\"");
    refuse("{\"weight_map\":{\"t\":\".\"}}", "tensor t", "plain name");
    refuse("{\"weight_map\":{\"t\":\"/etc/passwd\"}}", "tensor t", "\"/etc/passwd\"");
    refuse("{\"weight_map\":{\"t\":\"../x\"}}", "tensor t", "plain name");
    refuse("{\"weight_map\":{\"t\":\"sub/x\"}}", "tensor t", "plain name");
    refuse("{\"weight_map\":{\"t\":\"sub\\\\x\"}}", "tensor t", "plain name");
    refuse("{\"weight_map\":{\"t\":\"x\\u0000.safetensors\"}}", "tensor t", "plain name");
    refuse("{\"weight_map\":{\"s\":\"good\",\"t\":\"a/b\"}}", "tensor t", "plain name");
}
END_TEST

START_TEST(every_prefix_is_refused)
{
    static const char text[] = "{\"weight_map\":{\"a\":\"one\",\"b\":\"two\"}}";
    for (size_t length = 0; length < strlen(text); length++) {
        struct hy_shard_index index;
        char *prefix = malloc(length ? length : 1);
        ck_assert_ptr_nonnull(prefix);
        memcpy(prefix, text, length);
        test_status(hy_shard_index_parse(&memory, prefix, length, "x", &index, &error),
                    HYMBA_ERROR_FORMAT, error);
        free(prefix);
    }
}
END_TEST

START_TEST(without_memory_it_fails_cleanly)
{
    struct hy_shard_index index;
    memory_is_gone = true;
    test_status(parse("{\"weight_map\":{\"a\":\"one\"}}", &index), HYMBA_ERROR_MEMORY, error);
    ck_assert_ptr_null(index.document);
    hy_shard_index_free(&index);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("shard_index");
    TCase *index = tcase_create("index");
    tcase_add_checked_fixture(index, setup, NULL);
    tcase_add_test(index, good_index);
    tcase_add_test(index, golden_index);
    tcase_add_test(index, form_is_checked);
    tcase_add_test(index, names_that_lead_elsewhere_are_refused);
    tcase_add_test(index, every_prefix_is_refused);
    tcase_add_test(index, without_memory_it_fails_cleanly);
    suite_add_tcase(suite, index);
    return test_main(suite);
}
