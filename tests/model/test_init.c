/* Models made from nothing: the same bytes for the same seed, nothing left behind by a failure. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host.h"
#include "hymba.h"

static const char config_text[] =
    "{\n  \"model_type\": \"hymba\", \"vocab_size\": 70, \"hidden_size\": 16,\n"
    "  \"intermediate_size\": 20, \"num_hidden_layers\": 3, \"num_attention_heads\": 4,\n"
    "  \"num_key_value_heads\": 2, \"num_memory_tokens\": 3, \"sliding_window\": 4,\n"
    "  \"global_attn_idx\": [1], \"kv_reuse_group\": null, \"rms_norm_eps\": 1e-06,\n"
    "  \"rope\": true, \"rope_theta\": 10000.0, \"tie_word_embeddings\": true,\n"
    "  \"mamba_d_state\": 4, \"mamba_d_conv\": 4, \"mamba_dt_rank\": 2, \"bos_token_id\": 1,\n"
    "  \"eos_token_id\": 2, \"torch_dtype\": \"int8\", \"an_unknown_field\": [1, {\"a\": null}]\n}";

static const char *const file_names[] = {"config.json", "generation_config.json",
                                         "model.safetensors"};
enum { N_FILES = 3 };

static struct test_host host;
static hymba_error error;
static char directory[256];
static unsigned n_directories;

/* A path that nothing is at. */
static void new_path(void)
{
    snprintf(directory, sizeof directory, "%s/model-%u", test_directory(), n_directories++);
}

static void setup(void)
{
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    new_path();
}

static void teardown(void)
{
    test_host_check(&host);
}

static hymba_status init_with(const char *path, const char *text, uint64_t seed,
                              hymba_dtype dtype)
{
    hymba_init_params params;
    hymba_init_params_init(&params, sizeof params);
    params.seed = seed;
    params.dtype = dtype;
    params.host = &host.host;
    return hymba_model_init(path, text, HYMBA_NUL_TERMINATED, &params, &error);
}

static hymba_status init(uint64_t seed, hymba_dtype dtype)
{
    return init_with(directory, config_text, seed, dtype);
}

static const char *path_in(const char *name)
{
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static bool exists(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0;
}

static int count_entries(const char *path)
{
    int count = 0;
    DIR *list = opendir(path);
    ck_assert_ptr_nonnull(list);
    for (struct dirent *entry = readdir(list); entry; entry = readdir(list))
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(list);
    return count;
}

/* ------------------------------------------------------------------- bytes */

static void read_files(char *contents[N_FILES], size_t sizes[N_FILES])
{
    for (int i = 0; i < N_FILES; i++)
        contents[i] = test_read_file(path_in(file_names[i]), &sizes[i]);
    ck_assert_int_eq(count_entries(directory), N_FILES);
}

static void free_files(char *contents[N_FILES])
{
    for (int i = 0; i < N_FILES; i++)
        free(contents[i]);
}

START_TEST(same_seed_same_bytes)
{
    char *one[N_FILES], *two[N_FILES], *other[N_FILES];
    size_t sizes[3][N_FILES];
    test_status(init(42, HYMBA_DTYPE_BF16), HYMBA_OK, error);
    read_files(one, sizes[0]);
    new_path();
    test_status(init(42, HYMBA_DTYPE_BF16), HYMBA_OK, error);
    read_files(two, sizes[1]);
    new_path();
    test_status(init(43, HYMBA_DTYPE_BF16), HYMBA_OK, error);
    read_files(other, sizes[2]);
    for (int i = 0; i < N_FILES; i++) {
        ck_assert_uint_eq(sizes[0][i], sizes[1][i]);
        ck_assert_mem_eq(one[i], two[i], sizes[0][i]);
    }
    ck_assert_uint_eq(sizes[0][2], sizes[2][2]);
    ck_assert_int_ne(memcmp(one[2], other[2], sizes[0][2]), 0);
    ck_assert_str_eq(one[0], other[0]);
    free_files(one);
    free_files(two);
    free_files(other);
}
END_TEST

START_TEST(no_parameters_are_the_defaults)
{
    char *one[N_FILES], *two[N_FILES];
    size_t sizes[2][N_FILES];
    test_status(hymba_model_init(directory, config_text, sizeof config_text - 1, NULL, &error),
                HYMBA_OK, error);
    read_files(one, sizes[0]);
    new_path();
    test_status(init(0, HYMBA_DTYPE_BF16), HYMBA_OK, error);
    read_files(two, sizes[1]);
    ck_assert_uint_eq(sizes[0][2], sizes[1][2]);
    ck_assert_mem_eq(one[2], two[2], sizes[0][2]);
    free_files(one);
    free_files(two);
}
END_TEST

START_TEST(configuration_is_kept)
{
    test_status(init(1, HYMBA_DTYPE_F16), HYMBA_OK, error);
    char *text = test_read_file(path_in("config.json"), NULL);
    ck_assert_ptr_nonnull(strstr(text, "\"torch_dtype\": \"float16\""));
    ck_assert_ptr_null(strstr(text, "int8"));
    ck_assert_ptr_nonnull(strstr(text, "\"an_unknown_field\": ["));
    ck_assert_ptr_nonnull(strstr(text, "\"vocab_size\": 70"));
    free(text);
    text = test_read_file(path_in("generation_config.json"), NULL);
    ck_assert_ptr_nonnull(strstr(text, "\"bos_token_id\": 1"));
    ck_assert_ptr_nonnull(strstr(text, "\"eos_token_id\": 2"));
    free(text);
}
END_TEST

/* ----------------------------------------------------------------- loading */

static void check_logits(hymba_model *model, uint32_t n_logits)
{
    static const int32_t tokens[] = {1, 69, 0, 5, 5, 5, 5};
    hymba_context *context;
    hymba_session *session;
    const float *logits;
    size_t rows;
    double sum = 0, squares = 0;
    test_status(hymba_context_create(model, NULL, &context, &error), HYMBA_OK, error);
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, 7, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
    for (uint32_t i = 0; i < n_logits; i++) {
        ck_assert(isfinite(logits[i]));
        sum += logits[i];
        squares += (double)logits[i] * logits[i];
    }
    double mean = sum / n_logits;
    double deviation = sqrt(squares / n_logits - mean * mean);
    ck_assert_msg(deviation > 0.3 && deviation < 30, "logits of deviation %g", deviation);
    hymba_session_release(session);
    hymba_context_release(context);
}

/* _i: element type. */
START_TEST(every_dtype_loads_and_runs)
{
    hymba_model *model;
    hymba_model_params params;
    hymba_model_info info = {.struct_size = sizeof info};
    hymba_model_params_init(&params, sizeof params);
    params.host = &host.host;
    test_status(init(7, _i), HYMBA_OK, error);
    test_status(hymba_model_open(directory, &params, &model, &error), HYMBA_OK, error);
    test_status(hymba_model_get_info(model, &info, &error), HYMBA_OK, error);
    ck_assert_int_eq(info.weight_dtype, _i);
    ck_assert_uint_eq(info.weight_bytes, info.n_parameters * hymba_dtype_size(_i));
    check_logits(model, info.vocabulary_size);
    hymba_model_release(model);
}
END_TEST

/* The finer type holds the same model: the same numbers, rounded. */
START_TEST(dtypes_agree)
{
    char *f32, *bf16;
    size_t f32_size, bf16_size;
    test_status(init(7, HYMBA_DTYPE_F32), HYMBA_OK, error);
    f32 = test_read_file(path_in("model.safetensors"), &f32_size);
    new_path();
    test_status(init(7, HYMBA_DTYPE_BF16), HYMBA_OK, error);
    bf16 = test_read_file(path_in("model.safetensors"), &bf16_size);
    /* The last tensors' values stand at both files' ends. */
    for (size_t i = 1; i <= 200; i++) {
        float exact, rounded;
        uint32_t bits = 0;
        memcpy(&exact, f32 + f32_size - 4 * i, sizeof exact);
        memcpy((char *)&bits + 2, bf16 + bf16_size - 2 * i, 2); /* little-endian */
        memcpy(&rounded, &bits, sizeof rounded);
        ck_assert(fabsf(rounded - exact) <= fabsf(exact) * 0.00391f);
    }
    free(f32);
    free(bf16);
}
END_TEST

/* ---------------------------------------------------------------- refusals */

/* _i: which file is already there. */
START_TEST(existing_files_are_refused)
{
    ck_assert_int_eq(mkdir(directory, 0777), 0);
    test_write_file(path_in(file_names[_i]), "mine", 4);
    test_status(init(1, HYMBA_DTYPE_DEFAULT), HYMBA_ERROR_FILE, error);
    ck_assert_ptr_nonnull(strstr(error.message, file_names[_i]));
    ck_assert_ptr_nonnull(strstr(error.message, directory));
    char *text = test_read_file(path_in(file_names[_i]), NULL);
    ck_assert_str_eq(text, "mine");
    ck_assert_int_eq(count_entries(directory), 1);
    free(text);
}
END_TEST

START_TEST(an_existing_directory_is_used)
{
    ck_assert_int_eq(mkdir(directory, 0777), 0);
    test_write_file(path_in("tokenizer.json"), "{}", 2);
    test_status(init(1, HYMBA_DTYPE_DEFAULT), HYMBA_OK, error);
    ck_assert_int_eq(count_entries(directory), N_FILES + 1);
    test_status(init(1, HYMBA_DTYPE_DEFAULT), HYMBA_ERROR_FILE, error); /* once only */
    ck_assert_int_eq(count_entries(directory), N_FILES + 1);
}
END_TEST

START_TEST(places_where_nothing_can_be_written)
{
    char path[400];
    snprintf(path, sizeof path, "%s/not-there/model", test_directory());
    test_status(init_with(path, config_text, 1, 0), HYMBA_ERROR_FILE, error);
    ck_assert_int_eq(error.system_code, ENOENT);
    ck_assert_ptr_nonnull(strstr(error.message, path));
    test_write_file(directory, "a file", 6);
    test_status(init(1, 0), HYMBA_ERROR_FILE, error); /* a file instead of a directory */
    snprintf(path, sizeof path, "%s/model", directory);
    test_status(init_with(path, config_text, 1, 0), HYMBA_ERROR_FILE, error);
    ck_assert_int_eq(error.system_code, ENOTDIR);
    char *text = test_read_file(directory, NULL);
    ck_assert_str_eq(text, "a file");
    free(text);
    test_status(init_with("", config_text, 1, 0), HYMBA_ERROR_FILE, error);
}
END_TEST

START_TEST(a_directory_without_permission)
{
    if (geteuid() == 0)
        return; /* the superuser may write anywhere */
    ck_assert_int_eq(mkdir(directory, 0555), 0);
    test_status(init(1, 0), HYMBA_ERROR_FILE, error);
    ck_assert_int_eq(error.system_code, EACCES);
    ck_assert_int_eq(count_entries(directory), 0);
}
END_TEST

START_TEST(bad_arguments)
{
    hymba_init_params params;
    test_status(init(1, 9), HYMBA_ERROR_ARGUMENT, error);
    ck_assert_str_eq(error.message, "dtype: found 9, expected f32, f16 or bf16");
    test_status(init(1, -1), HYMBA_ERROR_ARGUMENT, error);
    test_status(init_with(NULL, config_text, 1, 0), HYMBA_ERROR_ARGUMENT, error);
    test_status(init_with(directory, NULL, 1, 0), HYMBA_ERROR_ARGUMENT, error);
    test_status(init_with(directory, "", 1, 0), HYMBA_ERROR_FORMAT, error);
    test_status(init_with(directory, "[]", 1, 0), HYMBA_ERROR_FORMAT, error);
    test_status(init_with(directory, "{}", 1, 0), HYMBA_ERROR_FORMAT, error);
    ck_assert_ptr_nonnull(strstr(error.message, "vocab_size"));
    hymba_init_params_init(&params, sizeof params);
    params.struct_size = 3;
    test_status(hymba_model_init(directory, config_text, HYMBA_NUL_TERMINATED, &params, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert(!exists(directory));
}
END_TEST

/* ---------------------------------------------------------------- failures */

/* Cancelled at each report in turn: everything of the call's is gone again. */
START_TEST(cancelled)
{
    test_status(init(1, 0), HYMBA_OK, error);
    long n_reports = host.n_progress;
    ck_assert_int_gt(n_reports, 3);
    ck_assert_int_eq(host.phase, HYMBA_PHASE_WRITE);
    ck_assert_uint_eq(host.done, host.total);
    for (long i = 0; i < n_reports; i += 1 + n_reports / 20) {
        for (int there = 0; there < 2; there++) {
            new_path();
            if (there)
                ck_assert_int_eq(mkdir(directory, 0777), 0);
            host.n_progress = 0;
            host.cancel_at = i;
            test_status(init(1, 0), HYMBA_ERROR_CANCELLED, error);
            ck_assert_int_eq(exists(directory), there);
            if (there)
                ck_assert_int_eq(count_entries(directory), 0);
        }
    }
}
END_TEST

/* Each allocation in turn fails, alone or with all later ones. */
START_TEST(allocations_that_fail)
{
    long i = 0;
    hymba_status status;
    do {
        test_host_fail_at(&host, i / 2, i % 2);
        status = init(1, 0);
        test_host_fail_at(&host, -1, false);
        test_host_check(&host);
        if (status != HYMBA_OK) {
            test_status(status, HYMBA_ERROR_MEMORY, error);
            ck_assert_msg(!exists(directory), "allocation %ld left something behind", i / 2);
        }
        i++;
    } while (status != HYMBA_OK);
    ck_assert_int_gt(i, 20);
    ck_assert_int_eq(count_entries(directory), N_FILES);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("init");
    TCase *tests = tcase_create("init");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, same_seed_same_bytes);
    tcase_add_test(tests, no_parameters_are_the_defaults);
    tcase_add_test(tests, configuration_is_kept);
    tcase_add_loop_test(tests, every_dtype_loads_and_runs, HYMBA_DTYPE_F32, HYMBA_DTYPE_BF16 + 1);
    tcase_add_test(tests, dtypes_agree);
    tcase_add_loop_test(tests, existing_files_are_refused, 0, N_FILES);
    tcase_add_test(tests, an_existing_directory_is_used);
    tcase_add_test(tests, places_where_nothing_can_be_written);
    tcase_add_test(tests, a_directory_without_permission);
    tcase_add_test(tests, bad_arguments);
    tcase_add_test(tests, cancelled);
    tcase_add_test(tests, allocations_that_fail);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
