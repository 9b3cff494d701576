/* The safetensors container: good files, every refusal, hostile headers, and the writer. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/safetensors.h"
#include "host.h"

static struct hy_memory memory;
static hymba_error error;
static struct test_host host;

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

static void check_no_leak(void)
{
    ck_assert_uint_eq(memory.used, 0);
}

/* A file of header and data_size bytes 0, 1, 2, ...; the block is exactly as large as the file,
 * so that the sanitizer sees a read behind it. */
static unsigned char *make_file(const char *header, size_t data_size, size_t *size)
{
    size_t length = strlen(header);
    unsigned char *file = malloc(8 + length + data_size);
    ck_assert_ptr_nonnull(file);
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(file + 8, header, length);
    for (size_t i = 0; i < data_size; i++)
        file[8 + length + i] = (unsigned char)i;
    *size = 8 + length + data_size;
    return file;
}

static hymba_status parse_bytes(const void *bytes, size_t size, struct hy_safetensors *out)
{
    struct hy_file file;
    hy_file_borrow(bytes, size, &file);
    return hy_safetensors_parse(&memory, &file, "some.safetensors", out, &error);
}

/* The header must be refused with a sentence that names the file and holds all the words. */
static void refuse(const char *header, size_t data_size, const char *word, const char *more)
{
    struct hy_safetensors out;
    size_t size;
    unsigned char *bytes = make_file(header, data_size, &size);
    test_status(parse_bytes(bytes, size, &out), HYMBA_ERROR_FORMAT, error);
    ck_assert_ptr_null(out.tensors);
    ck_assert_msg(strstr(error.message, "some.safetensors") && strstr(error.message, word) &&
                      strstr(error.message, more),
                  "%s: %s", header, error.message);
    hy_safetensors_free(&out);
    free(bytes);
    check_no_leak();
}

/* The same for one tensor "t" whose entry is the given text. */
static void refuse_entry(const char *entry, size_t data_size, const char *word)
{
    char header[2048];
    snprintf(header, sizeof header, "{\"t\":%s}", entry);
    refuse(header, data_size, "tensor t", word);
}

static const char small_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
    "\"none\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[16,16]},"
    "\"c\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[16,24]}}  ";

START_TEST(good_file)
{
    struct hy_safetensors out;
    size_t size;
    unsigned char *bytes = make_file(small_header, 24, &size);
    test_status(parse_bytes(bytes, size, &out), HYMBA_OK, error);
    ck_assert_uint_eq(out.count, 4);
    const struct hy_tensor *a = hy_safetensors_find(&out, "a");
    const struct hy_tensor *b = hy_safetensors_find(&out, "b");
    const struct hy_tensor *c = hy_safetensors_find(&out, "c");
    const struct hy_tensor *none = hy_safetensors_find(&out, "none");
    ck_assert(a && b && c && none);
    ck_assert_ptr_null(hy_safetensors_find(&out, "d"));
    ck_assert_ptr_null(hy_safetensors_find(&out, "__metadata__"));
    ck_assert_int_eq(a->dtype, HYMBA_DTYPE_F32);
    ck_assert_uint_eq(a->n_dims, 0);
    ck_assert_uint_eq(a->size, 4);
    ck_assert_int_eq(b->dtype, HYMBA_DTYPE_BF16);
    ck_assert_uint_eq(b->n_dims, 2);
    ck_assert_uint_eq(b->shape[0], 2);
    ck_assert_uint_eq(b->shape[1], 3);
    ck_assert_uint_eq(b->size, 12);
    ck_assert_uint_eq(*(const unsigned char *)b->data, 4);
    ck_assert_int_eq(c->dtype, HYMBA_DTYPE_DEFAULT);
    ck_assert_str_eq(c->type_name, "I64");
    ck_assert_uint_eq(*(const unsigned char *)c->data, 16);
    ck_assert_uint_eq(none->size, 0);
    for (size_t i = 1; i < out.count; i++)
        ck_assert_int_lt(strcmp(out.tensors[i - 1].name, out.tensors[i].name), 0);
    hy_safetensors_free(&out);
    hy_safetensors_free(&out);
    free(bytes);
    check_no_leak();
}
END_TEST

START_TEST(empty_container)
{
    struct hy_safetensors out;
    size_t size;
    unsigned char *bytes = make_file("{}", 0, &size);
    test_status(parse_bytes(bytes, size, &out), HYMBA_OK, error);
    ck_assert_uint_eq(out.count, 0);
    ck_assert_ptr_null(hy_safetensors_find(&out, "a"));
    hy_safetensors_free(&out);
    free(bytes);
    check_no_leak();
}
END_TEST

static size_t count_golden_tensors(const char *path)
{
    struct hy_file file;
    struct hy_safetensors out;
    test_status(hy_file_map(test_data(path), &file, &error), HYMBA_OK, error);
    test_status(hy_safetensors_parse(&memory, &file, path, &out, &error), HYMBA_OK, error);
    size_t count = out.count;
    for (size_t i = 0; i < count; i++)
        ck_assert_ptr_eq(hy_safetensors_find(&out, out.tensors[i].name), &out.tensors[i]);
    hy_safetensors_free(&out);
    hy_file_close(&file);
    return count;
}

/* A model has 3 tensors (2 without meta tokens, one more with a head of its own) and 19 a layer. */
START_TEST(golden_files)
{
    ck_assert_uint_eq(count_golden_tensors("goldens/a_all_features/model.safetensors"), 3 + 6 * 19);
    ck_assert_uint_eq(count_golden_tensors("goldens/b_no_meta/model.safetensors"), 2 + 4 * 19);
    ck_assert_uint_eq(count_golden_tensors("goldens/c_all_sliding/model.safetensors"), 3 + 4 * 19);
    ck_assert_uint_eq(count_golden_tensors("goldens/d_all_full/model.safetensors"), 3 + 3 * 19);
    ck_assert_uint_eq(count_golden_tensors("goldens/e_gqa1_odd_untied/model.safetensors"),
                      4 + 5 * 19);
    ck_assert_uint_gt(count_golden_tensors("goldens/a_all_features.safetensors"), 0);
    check_no_leak();
}
END_TEST

START_TEST(golden_shards)
{
    size_t count = 0;
    for (int i = 1; i <= 3; i++) {
        char path[100];
        snprintf(path, sizeof path, "goldens/f_official_like/model-0000%d-of-00003.safetensors",
                 i);
        count += count_golden_tensors(path);
    }
    ck_assert_uint_eq(count, 3 + 8 * 19);
    check_no_leak();
}
END_TEST

START_TEST(every_element_type_has_its_size)
{
    static const struct {
        const char *name;
        size_t bytes; /* of 4 elements */
        hymba_dtype dtype;
    } types[] = {
        {"F64", 32, 0},     {"F32", 16, HYMBA_DTYPE_F32}, {"F16", 8, HYMBA_DTYPE_F16},
        {"I64", 32, 0},     {"BF16", 8, HYMBA_DTYPE_BF16}, {"I32", 16, 0}, {"I16", 8, 0},
        {"I8", 4, 0},       {"U64", 32, 0},     {"U32", 16, 0}, {"U16", 8, 0}, {"U8", 4, 0},
        {"BOOL", 4, 0},     {"F8_E4M3", 4, 0},  {"F8_E5M2", 4, 0}, {"F8_E8M0", 4, 0},
        {"F6_E2M3", 3, 0},  {"F6_E3M2", 3, 0},  {"F4", 2, 0}, {"C64", 32, 0},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        struct hy_safetensors out;
        char header[200];
        size_t size;
        snprintf(header, sizeof header,
                 "{\"t\":{\"dtype\":\"%s\",\"shape\":[4],\"data_offsets\":[0,%zu]}}",
                 types[i].name, types[i].bytes);
        unsigned char *bytes = make_file(header, types[i].bytes, &size);
        test_status(parse_bytes(bytes, size, &out), HYMBA_OK, error);
        ck_assert_int_eq(out.tensors[0].dtype, types[i].dtype);
        ck_assert_str_eq(out.tensors[0].type_name, types[i].name);
        hy_safetensors_free(&out);
        free(bytes);
    }
    check_no_leak();
}
END_TEST

START_TEST(length_is_checked)
{
    struct hy_safetensors out;
    unsigned char bytes[16] = {0};
    test_status(parse_bytes(NULL, 0, &out), HYMBA_ERROR_FORMAT, error);
    ck_assert_ptr_nonnull(strstr(error.message, "0 bytes long"));
    test_status(parse_bytes(bytes, 8, &out), HYMBA_ERROR_FORMAT, error);
    bytes[0] = 9; /* one more than there is */
    test_status(parse_bytes(bytes, 16, &out), HYMBA_ERROR_FORMAT, error);
    ck_assert_ptr_nonnull(strstr(error.message, "claims 9 bytes, 8 follow"));
    memset(bytes, 0xff, 8);
    test_status(parse_bytes(bytes, 16, &out), HYMBA_ERROR_FORMAT, error);
    ck_assert_ptr_nonnull(strstr(error.message, "18446744073709551615"));
    hy_safetensors_free(&out);
    check_no_leak();
}
END_TEST

START_TEST(header_is_checked)
{
    refuse("", 0, "some.safetensors", "");
    refuse("[]", 0, "an array", "expected an object");
    refuse("17", 0, "an integer", "expected an object");
    refuse("{\"t\":", 0, "some.safetensors", "");
    refuse("{} x", 0, "some.safetensors", "");
    refuse("{\"t\xff\":{}}", 0, "0xff", "");
    refuse("{\"t\\u0000x\":{}}", 0, "some.safetensors", "");
    refuse("{\"__metadata__\":[]}", 0, "__metadata__", "an array");
    refuse("{\"__metadata__\":{\"k\":1}}", 0, "__metadata__", "k is an integer");
    refuse("{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
           "\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
           2, "duplicate", "");
}
END_TEST

START_TEST(deep_nesting_is_refused)
{
    enum { DEPTH = 100000 };
    char *header = malloc(DEPTH + 1);
    ck_assert_ptr_nonnull(header);
    memset(header, '[', DEPTH);
    header[DEPTH] = '\0';
    refuse(header, 0, "some.safetensors", "");
    free(header);
}
END_TEST

START_TEST(dtype_is_checked)
{
    refuse_entry("[]", 0, "an array");
    refuse_entry("{\"shape\":[1],\"data_offsets\":[0,4]}", 4, "dtype is absent");
    refuse_entry("{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}", 4, "dtype is an integer");
    refuse_entry("{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}", 4, "\"F33\"");
    refuse_entry("{\"dtype\":\"\",\"shape\":[1],\"data_offsets\":[0,4]}", 4, "\"\"");
    refuse_entry("{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}", 4, "\"f32\"");
}
END_TEST

START_TEST(shape_is_checked)
{
    refuse_entry("{\"dtype\":\"F32\",\"data_offsets\":[0,4]}", 4, "shape is absent");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}", 4,
                 "shape is an integer");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}", 4,
                 "shape[0] is a number with a fraction");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[1,-1],\"data_offsets\":[0,4]}", 4,
                 "shape[1] is -1");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[true],\"data_offsets\":[0,4]}", 4, "a boolean");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}", 4,
                 "9 dimensions");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}", 4, "take 8");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,8]}", 8, "span 8 bytes");
    refuse_entry("{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}", 1, "take 2");
}
END_TEST

/* Products that are 4 bytes, or 1 element, in 64 bits if nobody looks. */
START_TEST(products_must_not_wrap)
{
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}", 0,
                 "does not fit");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}", 0,
                 "do not fit");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}", 0,
                 "does not fit");
    refuse_entry("{\"dtype\":\"U8\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}", 0,
                 "do not fit");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,9223372036854775807]}", 4,
                 "9223372036854775807");
    refuse("{\"t\":{\"dtype\":\"F32\",\"shape\":[18446744073709551617],\"data_offsets\":[0,4]}}",
           4, "some.safetensors", "big");
}
END_TEST

START_TEST(range_is_checked)
{
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[1]}", 4, "data_offsets is absent");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}", 4, "of 1");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}", 4, "of 3");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,\"4\"]}", 4,
                 "data_offsets[1] is a string");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}", 4,
                 "data_offsets[0] is -4");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}", 4, "before");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}", 3, "holds 3 bytes");
    refuse_entry("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}", 4, "holds 4 bytes");
}
END_TEST

START_TEST(every_byte_belongs_to_one_tensor)
{
    refuse("{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
           "\"y\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
           7, "tensor y", "tensor x");
    refuse("{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
           "\"y\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
           4, "tensor x", "tensor y");
    refuse("{\"x\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
           "\"y\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[5,5]}}",
           8, "tensor y", "tensor x");
    refuse("{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
           "\"y\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}}",
           9, "tensor y", "bytes 4 to 5");
    refuse("{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[1,5]}}", 5, "tensor x",
           "bytes 0 to 1");
    refuse("{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 5, "end at byte 4",
           "5 bytes");
    refuse("{}", 1, "end at byte 0", "1 bytes");
}
END_TEST

START_TEST(long_names_do_not_hide_the_reason)
{
    char entry[1400], name[1001];
    memset(name, 'n', 1000);
    name[1000] = '\0';
    snprintf(entry, sizeof entry,
             "{\"%s\":{\"dtype\":\"F32\",\"shape\":[-3],\"data_offsets\":[0,4]}}", name);
    refuse(entry, 4, "nnnn", "shape[0] is -3");
}
END_TEST

/* A file that was accepted must hold what it says: reads every byte of every tensor. */
static unsigned touch(const struct hy_safetensors *out)
{
    unsigned sum = 0;
    for (size_t i = 0; i < out->count; i++) {
        const struct hy_tensor *tensor = &out->tensors[i];
        ck_assert_uint_le(tensor->n_dims, HY_MAX_DIMS);
        for (uint64_t k = 0; k < tensor->size; k++)
            sum += ((const unsigned char *)tensor->data)[k];
        sum += (unsigned)strlen(tensor->name) + (unsigned)strlen(tensor->type_name);
    }
    return sum;
}

START_TEST(every_prefix_is_refused)
{
    size_t size;
    unsigned char *bytes = make_file(small_header, 24, &size);
    for (size_t length = 0; length < size; length++) {
        struct hy_safetensors out;
        unsigned char *prefix = malloc(length ? length : 1);
        ck_assert_ptr_nonnull(prefix);
        memcpy(prefix, bytes, length);
        test_status(parse_bytes(prefix, length, &out), HYMBA_ERROR_FORMAT, error);
        hy_safetensors_free(&out);
        free(prefix);
    }
    free(bytes);
    check_no_leak();
}
END_TEST

START_TEST(every_flipped_bit_is_refused_or_harmless)
{
    size_t size, header = 8 + strlen(small_header);
    unsigned char *bytes = make_file(small_header, 24, &size);
    unsigned refused = 0, sum = 0;
    for (size_t bit = 0; bit < header * 8; bit++) {
        struct hy_safetensors out;
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        hymba_status status = parse_bytes(bytes, size, &out);
        ck_assert(status == HYMBA_OK || status == HYMBA_ERROR_FORMAT);
        refused += status != HYMBA_OK;
        if (status == HYMBA_OK)
            sum += touch(&out);
        hy_safetensors_free(&out);
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    ck_assert_uint_gt(refused, header * 4);
    ck_assert_uint_gt(sum, 0);
    free(bytes);
    check_no_leak();
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    size_t size;
    int allowed = 0;
    unsigned char *bytes = make_file(small_header, 24, &size);
    for (;; allowed++) {
        struct hy_safetensors out;
        test_host_fail_at(&host, allowed, true);
        hymba_status status = parse_bytes(bytes, size, &out);
        hy_safetensors_free(&out);
        check_no_leak();
        if (status == HYMBA_OK)
            break;
        test_status(status, HYMBA_ERROR_MEMORY, error);
    }
    ck_assert_int_eq(allowed, 2);
    free(bytes);
}
END_TEST

static const struct hy_tensor to_write[] = {
    {.name = "z.weight", .dtype = HYMBA_DTYPE_BF16, .n_dims = 2, .shape = {3, 5}},
    {.name = "odd \"name\" \\ \n \xc3\xa9", .dtype = HYMBA_DTYPE_F16, .n_dims = 1, .shape = {1}},
    {.name = "a", .dtype = HYMBA_DTYPE_F32, .n_dims = 3, .shape = {2, 1, 2}},
    {.name = "empty", .dtype = HYMBA_DTYPE_F32, .n_dims = 2, .shape = {0, 4}},
};
enum { N_TO_WRITE = sizeof to_write / sizeof to_write[0], TO_WRITE_BYTES = 30 + 2 + 16 };

START_TEST(what_is_written_can_be_read)
{
    struct hy_safetensors out;
    char *header;
    size_t size;
    uint64_t offset = 0;
    test_status(hy_safetensors_header(&memory, to_write, N_TO_WRITE, &header, &size, &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(size % 8, 0);
    unsigned char *bytes = calloc(1, size + TO_WRITE_BYTES);
    ck_assert_ptr_nonnull(bytes);
    memcpy(bytes, header, size);
    hy_free(&memory, header);
    test_status(parse_bytes(bytes, size + TO_WRITE_BYTES, &out), HYMBA_OK, error);
    ck_assert_uint_eq(out.count, N_TO_WRITE);
    for (size_t i = 0; i < N_TO_WRITE; i++) {
        const struct hy_tensor *tensor = hy_safetensors_find(&out, to_write[i].name);
        ck_assert_ptr_nonnull(tensor);
        ck_assert_int_eq(tensor->dtype, to_write[i].dtype);
        ck_assert_uint_eq(tensor->n_dims, to_write[i].n_dims);
        ck_assert_mem_eq(tensor->shape, to_write[i].shape, sizeof tensor->shape);
        ck_assert_ptr_eq(tensor->data, bytes + size + offset);
        offset += tensor->size;
    }
    hy_safetensors_free(&out);
    free(bytes);
    check_no_leak();
}
END_TEST

static void refuse_to_write(struct hy_tensor tensor, const char *words)
{
    char *header;
    size_t size;
    tensor.name = "bad.one";
    test_status(hy_safetensors_header(&memory, &tensor, 1, &header, &size, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_ptr_null(header);
    ck_assert_msg(strstr(error.message, "bad.one") && strstr(error.message, words), "%s",
                  error.message);
    check_no_leak();
}

START_TEST(what_cannot_be_written_is_refused)
{
    refuse_to_write((struct hy_tensor){.dtype = 0, .n_dims = 0}, "element type");
    refuse_to_write((struct hy_tensor){.dtype = HYMBA_DTYPE_F32, .n_dims = 9}, "9 dimensions");
    refuse_to_write((struct hy_tensor){.dtype = HYMBA_DTYPE_F32, .n_dims = 2,
                                       .shape = {UINT64_C(1) << 40, UINT64_C(1) << 40}},
                    "64 bits");
    refuse_to_write((struct hy_tensor){.dtype = HYMBA_DTYPE_F32, .n_dims = 1,
                                       .shape = {UINT64_C(1) << 61}},
                    "64 bits");
}
END_TEST

START_TEST(writing_without_memory_fails_cleanly)
{
    struct hy_tensor many[64];
    for (size_t i = 0; i < 64; i++) {
        many[i] = to_write[0];
        many[i].name = "a tensor of a rather long name, so that the text has to grow";
    }
    for (int allowed = 0;; allowed++) {
        char *header;
        size_t size;
        test_host_fail_at(&host, allowed, true);
        hymba_status status = hy_safetensors_header(&memory, many, 64, &header, &size, &error);
        hy_free(&memory, header);
        check_no_leak();
        if (status == HYMBA_OK) {
            ck_assert_int_gt(allowed, 2);
            break;
        }
        test_status(status, HYMBA_ERROR_MEMORY, error);
        ck_assert_ptr_null(header);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("safetensors");
    TCase *reading = tcase_create("reading");
    TCase *writing = tcase_create("writing");
    tcase_set_timeout(reading, 120);
    tcase_add_checked_fixture(reading, setup, teardown);
    tcase_add_checked_fixture(writing, setup, teardown);
    tcase_add_test(reading, good_file);
    tcase_add_test(reading, empty_container);
    tcase_add_test(reading, golden_files);
    tcase_add_test(reading, golden_shards);
    tcase_add_test(reading, every_element_type_has_its_size);
    tcase_add_test(reading, length_is_checked);
    tcase_add_test(reading, header_is_checked);
    tcase_add_test(reading, deep_nesting_is_refused);
    tcase_add_test(reading, dtype_is_checked);
    tcase_add_test(reading, shape_is_checked);
    tcase_add_test(reading, products_must_not_wrap);
    tcase_add_test(reading, range_is_checked);
    tcase_add_test(reading, every_byte_belongs_to_one_tensor);
    tcase_add_test(reading, long_names_do_not_hide_the_reason);
    tcase_add_test(reading, every_prefix_is_refused);
    tcase_add_test(reading, every_flipped_bit_is_refused_or_harmless);
    tcase_add_test(reading, every_allocation_may_fail);
    tcase_add_test(writing, what_is_written_can_be_read);
    tcase_add_test(writing, what_cannot_be_written_is_refused);
    tcase_add_test(writing, writing_without_memory_fails_cleanly);
    suite_add_tcase(suite, reading);
    suite_add_tcase(suite, writing);
    return test_main(suite);
}
