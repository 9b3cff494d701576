/* Quantising: rounding, the files, what is refused, in which words, and failures on the way. */
#include "quantise_world.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ------------------------------------------------------------------ rounding */

/* What a scale represents exactly comes back exactly, and lies in the bytes as described. */
START_TEST(exact_values)
{
    float values[64];
    unsigned char bytes[64];
    uint16_t scales[2];
    struct hy_scheme scheme = {HYMBA_DTYPE_INT8, 64};
    for (int i = 0; i < 64; i++)
        values[i] = (float)(4 * i - 127) / 32; /* -127 to 125 */
    hy_encode_row(values, NULL, 64, &scheme, bytes, scales);
    ck_assert_uint_eq(scales[0], 0x3d00); /* 2^-5 */
    for (int i = 0; i < 64; i++)
        ck_assert_int_eq(bytes[i], 4 * i - 127 + 128);
    scheme = (struct hy_scheme){HYMBA_DTYPE_INT4, 32};
    for (int i = 0; i < 64; i++)
        values[i] = (float)(i % 16 - 8) * (i < 32 ? 0.25f : -2.0f);
    hy_encode_row(values, NULL, 64, &scheme, bytes, scales);
    ck_assert_uint_eq(scales[0], 0x3e80); /* 0.25 */
    ck_assert_uint_eq(scales[1], 0xc000); /* -2: so that all 16 integers can be used */
    for (int i = 0; i < 32; i++)
        ck_assert_int_eq(bytes[i], (2 * i) % 16 | ((2 * i + 1) % 16) << 4);
}
END_TEST

START_TEST(groups_of_nothing)
{
    float values[32] = {0};
    unsigned char bytes[32];
    uint16_t scale = 1;
    struct hy_scheme scheme = {HYMBA_DTYPE_INT4, 32};
    for (int round = 0; round < 2; round++) {
        hy_encode_row(values, NULL, 32, &scheme, bytes, &scale);
        ck_assert_uint_eq(scale, 0);
        for (int i = 0; i < 16; i++)
            ck_assert_uint_eq(bytes[i], 0x88);
        values[7] = 1e-37f; /* whose scale would have no finite inverse */
    }
}
END_TEST

static double error_of(const float *values, const float *importance, size_t n, float scale,
                       hymba_dtype dtype)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double least = dtype == HYMBA_DTYPE_INT8 ? -127 : -8, most = -1 - least;
        most = dtype == HYMBA_DTYPE_INT8 ? 127 : most;
        double integer = fmin(fmax(rint(values[i] / scale), least), most);
        double difference = values[i] - scale * integer;
        sum += (importance ? importance[i] : 1) * difference * difference;
    }
    return sum;
}

/* No scale of a fine grid is much better; _i: type, odd: with importance. At 8 bits the grid, which
 * is free of bf16's steps, wins by luck: errors of so few values vary. */
START_TEST(scales_are_well_chosen)
{
    hymba_dtype dtype = _i / 2 ? HYMBA_DTYPE_INT8 : HYMBA_DTYPE_INT4;
    test_random_seed(3);
    for (int round = 0; round < 40; round++) {
        float values[64], weights[64], greatest = 0;
        const float *importance = _i % 2 ? weights : NULL;
        for (int i = 0; i < 64; i++) {
            values[i] = (float)(test_random() + test_random() + test_random() - 1.5);
            weights[i] = (float)exp(4 * test_random());
            greatest = fmaxf(greatest, fabsf(values[i]));
        }
        float scale = hy_bf16_to_f32(hy_find_scale(values, importance, 64, dtype));
        double found = error_of(values, importance, 64, scale, dtype), best = INFINITY;
        float full = greatest / (dtype == HYMBA_DTYPE_INT8 ? 127 : 8);
        for (int i = 0; i <= 300; i++) {
            float tried = copysignf(full * (0.8f + 0.00125f * (float)i), scale);
            best = fmin(best, error_of(values, importance, 64, tried, dtype));
        }
        ck_assert_msg(found <= best * (dtype == HYMBA_DTYPE_INT8 ? 2 : 1.1),
                      "round %d: error %g, a grid finds %g", round, found, best);
    }
}
END_TEST

/* --------------------------------------------------------------------- files */

static bool exists(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0;
}

static float element(const struct hy_matrix *matrix, size_t row, size_t column)
{
    const unsigned char *data = matrix->data, *scales = matrix->scales;
    size_t index = row * matrix->columns + column;
    uint16_t scale;
    memcpy(&scale, scales + index / matrix->group * 2, sizeof scale);
    int value = matrix->dtype == HYMBA_DTYPE_INT8 ? data[index] - 128
                                                  : (data[index / 2] >> 4 * (index % 2) & 15) - 8;
    return (float)value * hy_bf16_to_f32(scale);
}

static void check_matrix(const struct hy_matrix *matrix, const struct hy_matrix *original,
                         hymba_dtype dtype, size_t group)
{
    double error_squares = 0, squares = 0;
    ck_assert_int_eq(matrix->dtype, dtype);
    ck_assert_uint_eq(matrix->group, group);
    ck_assert_uint_eq(matrix->rows, original->rows);
    ck_assert_uint_eq(matrix->columns, original->columns);
    for (size_t row = 0; row < matrix->rows; row++) {
        for (size_t column = 0; column < matrix->columns; column++) {
            float value = hy_load_element(original->data, original->dtype,
                                          row * original->columns + column);
            error_squares += pow(element(matrix, row, column) - value, 2);
            squares += pow(value, 2);
        }
    }
    double relative = sqrt(error_squares / squares);
    ck_assert_msg(relative < (dtype == HYMBA_DTYPE_INT8 ? 0.008 : 0.1) && relative > 0.0001,
                  "relative error %g", relative);
}

/* _i: type of the projections. */
START_TEST(a_directory_is_written)
{
    hymba_model_info info = {.struct_size = sizeof info};
    world.params.type = _i;
    test_write_file(path_in(world.input, "tokenizer_config.json"), "{}", 2);
    test_status(quantise(), HYMBA_OK, world.error);
    ck_assert_int_eq(world.host.phase, HYMBA_PHASE_QUANTIZE);
    ck_assert_uint_eq(world.host.done, world.host.total);
    ck_assert(exists(path_in(world.output, "tokenizer_config.json")));
    ck_assert(exists(path_in(world.output, "generation_config.json")));
    hymba_model *model = open_with(world.output, HYMBA_DTYPE_DEFAULT);
    hymba_model *original = open_with(world.input, HYMBA_DTYPE_DEFAULT);
    const struct hy_weights *a = &model->weights, *b = &original->weights;
    size_t group = 32; /* where 64 does not divide */
    check_matrix(&a->embedding, &b->embedding, HYMBA_DTYPE_INT8, group);
    check_matrix(&a->head, &b->head, HYMBA_DTYPE_INT8, group);
    for (int i = 0; i < 3; i++) {
        const struct hy_layer_weights *layer = &a->layers[i], *other = &b->layers[i];
        check_matrix(&layer->in_proj, &other->in_proj, _i, group);
        check_matrix(&layer->out_proj, &other->out_proj, _i, _i == HYMBA_DTYPE_INT8 ? 64 : 32);
        check_matrix(&layer->gate, &other->gate, _i, group);
        check_matrix(&layer->up, &other->up, _i, group);
        check_matrix(&layer->down, &other->down, _i, group);
        ck_assert_int_eq(layer->x_proj.dtype, HYMBA_DTYPE_BF16);
        ck_assert_mem_eq(layer->x_proj.data, other->x_proj.data, 10 * 64 * 2);
        ck_assert_mem_eq(layer->a, other->a, 4 * 64 * sizeof(float));
    }
    const struct hy_tensor *shape =
        tensor_of(model, "model.layers.1.mamba.out_proj.weight_shape");
    ck_assert_str_eq(shape->type_name, "I64");
    ck_assert_mem_eq(shape->data, "\40\0\0\0\0\0\0\0\100\0\0\0\0\0\0\0", 16);
    ck_assert_ptr_null(hy_weights_find(a, "model.layers.1.mamba.out_proj.weight"));
    test_status(hymba_model_get_info(model, &info, &world.error), HYMBA_OK, world.error);
    ck_assert_int_eq(info.weight_dtype, HYMBA_DTYPE_INT8);
    ck_assert_int_eq(info.projection_dtype, _i);
    ck_assert_uint_eq(info.group_size, 32);
    ck_assert_uint_lt(info.weight_bytes, b->bytes * (_i == HYMBA_DTYPE_INT8 ? 2 : 1) * 2 / 3);
    hymba_model_release(model);
    hymba_model_release(original);
}
END_TEST

static char log_text[200];

static void keep_log(void *user, int32_t level, const char *message, size_t length)
{
    (void)user;
    if (level == HYMBA_LOG_INFO)
        snprintf(log_text, sizeof log_text, "%.*s", (int)length, message);
}

/* Rows of 32 and 96 elements: embedding and head, and 4 in each of three layers. */
START_TEST(smaller_groups_are_told)
{
    world.params.type = HYMBA_DTYPE_INT8;
    world.host.host.log = keep_log;
    test_status(quantise(), HYMBA_OK, world.error);
    ck_assert_str_eq(log_text, "14 matrices are quantised in groups of 32, since 64 does not "
                               "divide their rows");
    log_text[0] = '\0';
    hymba_model_release(open_with(world.input, HYMBA_DTYPE_INT8));
    ck_assert_str_ne(log_text, "");
}
END_TEST

static void compare_files(const char *one, const char *other, bool equal)
{
    size_t sizes[2];
    char *a = test_read_file(path_in(one, "model.safetensors"), &sizes[0]);
    char *b = test_read_file(path_in(other, "model.safetensors"), &sizes[1]);
    ck_assert_uint_eq(sizes[0], sizes[1]);
    ck_assert_int_eq(memcmp(a, b, sizes[0]) == 0, equal);
    free(a);
    free(b);
}

/* The same bytes again, and with other threads; other methods give others. _i: method. */
START_TEST(same_input_same_bytes)
{
    char first[256];
    world.params.type = HYMBA_DTYPE_INT4;
    world.params.method = _i;
    world.params.tokens = world.tokens;
    world.params.n_tokens = WORLD_TOKENS;
    test_status(quantise(), HYMBA_OK, world.error);
    strcpy(first, world.output);
    new_output();
    world.params.n_threads = 3;
    test_status(quantise(), HYMBA_OK, world.error);
    compare_files(first, world.output, true);
    new_output();
    world.params.method = _i % 3 + 1;
    test_status(quantise(), HYMBA_OK, world.error);
    compare_files(first, world.output, false);
    hymba_model_release(open_with(world.output, HYMBA_DTYPE_DEFAULT));
}
END_TEST

/* ------------------------------------------------------------------ refusals */

static void refuse(hymba_status status)
{
    test_status(quantise(), status, world.error);
    ck_assert(!exists(world.output));
}

START_TEST(bad_parameters)
{
    world.params.type = HYMBA_DTYPE_F16;
    refuse(HYMBA_ERROR_ARGUMENT);
    world.params.type = 17;
    refuse(HYMBA_ERROR_ARGUMENT);
    WORDS("17", "int8 or int4");
    world.params.type = HYMBA_DTYPE_INT4;
    world.params.group_size = 48;
    refuse(HYMBA_ERROR_ARGUMENT);
    WORDS("group_size", "48", "32, 64 or 128");
    world.params.group_size = 64;
    refuse(HYMBA_ERROR_ARGUMENT);
    WORDS("model.embed_tokens.weight", "32", "64");
    world.params.group_size = 0;
    world.params.method = 4;
    refuse(HYMBA_ERROR_ARGUMENT);
    world.params.method = HYMBA_QUANTIZE_GPTQ;
    refuse(HYMBA_ERROR_ARGUMENT);
    WORDS("found 0 tokens", "1024");
    world.params.tokens = world.tokens;
    world.params.n_tokens = 1023;
    refuse(HYMBA_ERROR_ARGUMENT);
    world.params.n_tokens = WORLD_TOKENS;
    world.tokens[1400] = 70;
    refuse(HYMBA_ERROR_ARGUMENT);
    ck_assert_int_eq(world.error.position, 1400);
    world.params.tokens = NULL;
    refuse(HYMBA_ERROR_ARGUMENT);
    world.params.n_tokens = 0;
    world.params.method = 0;
    world.params.n_threads = 5000;
    refuse(HYMBA_ERROR_ARGUMENT);
    test_status(hymba_quantize(NULL, world.output, NULL, &world.error), HYMBA_ERROR_ARGUMENT,
                world.error);
    test_status(hymba_quantize(world.input, NULL, NULL, &world.error), HYMBA_ERROR_ARGUMENT,
                world.error);
    test_status(hymba_quantize(world.output, world.output, NULL, &world.error), HYMBA_ERROR_FILE,
                world.error);
    hymba_model *model;
    hymba_model_params model_params = {.struct_size = sizeof model_params, .quantize = 3};
    test_status(hymba_model_open(world.input, &model_params, &model, &world.error),
                HYMBA_ERROR_ARGUMENT, world.error);
}
END_TEST

START_TEST(rows_that_no_group_divides)
{
    char text[600];
    snprintf(text, sizeof text, "%s", model_config);
    memcpy(strstr(text, "96"), "80", 2);
    make_model(text, HYMBA_DTYPE_F16);
    world.params.type = HYMBA_DTYPE_INT8;
    refuse(HYMBA_ERROR_ARGUMENT);
    WORDS("model.layers.0.moe.experts.0.down_proj.weight", "80", "32");
}
END_TEST

START_TEST(quantised_twice)
{
    char first[256];
    hymba_model *model;
    hymba_model_params model_params = {.struct_size = sizeof model_params,
                                       .quantize = HYMBA_DTYPE_INT4};
    test_status(quantise(), HYMBA_OK, world.error);
    strcpy(first, world.output);
    strcpy(world.input, world.output);
    new_output();
    refuse(HYMBA_ERROR_ARGUMENT);
    WORDS(first, "quantised already");
    test_status(hymba_model_open(first, &model_params, &model, &world.error), HYMBA_ERROR_ARGUMENT,
                world.error);
    WORDS("quantised already");
}
END_TEST

/* _i: infinity, not a number. */
START_TEST(weights_that_are_no_numbers)
{
    static const uint16_t bits[] = {0xff80, 0x7fc0};
    hymba_model *model;
    hymba_model_params model_params = {.struct_size = sizeof model_params,
                                       .quantize = HYMBA_DTYPE_INT4};
    patch_data(world.input, "model.layers.1.moe.experts.0.up_proj.weight", 2 * (40 * 32 + 9),
               &bits[_i], 2);
    patch_data(world.input, "model.layers.1.moe.experts.0.up_proj.weight", 2 * (90 * 32 + 3),
               &bits[_i], 2);
    world.params.n_threads = 2;
    refuse(HYMBA_ERROR_FORMAT);
    WORDS("model.layers.1.moe.experts.0.up_proj.weight", "[40, 9]");
    ck_assert_int_eq(world.error.position, 40 * 32 + 9);
    test_status(hymba_model_open(world.input, &model_params, &model, &world.error),
                HYMBA_ERROR_FORMAT, world.error);
    WORDS("model.layers.1.moe.experts.0.up_proj.weight", "[40, 9]");
}
END_TEST

START_TEST(existing_files)
{
    ck_assert_int_eq(mkdir(world.output, 0777), 0);
    test_write_file(path_in(world.output, "config.json"), "mine", 4);
    test_status(quantise(), HYMBA_ERROR_FILE, world.error);
    WORDS(world.output, "config.json");
    ck_assert(!exists(path_in(world.output, "model.safetensors")));
    strcpy(world.output, world.input);
    test_status(quantise(), HYMBA_ERROR_FILE, world.error);
}
END_TEST

/* ------------------------------------------------------------------ failures */

/* Cancelled at each report in turn: everything of the call's is gone again. _i: method. */
START_TEST(cancelled)
{
    world.params.method = _i;
    world.params.tokens = world.tokens;
    world.params.n_tokens = WORLD_TOKENS;
    test_status(quantise(), HYMBA_OK, world.error);
    long n_reports = world.host.n_progress;
    ck_assert_int_gt(n_reports, 20);
    for (long i = 0; i < n_reports; i += 1 + n_reports / 20) {
        new_output();
        world.host.n_progress = 0;
        world.host.cancel_at = i;
        refuse(HYMBA_ERROR_CANCELLED);
    }
}
END_TEST

/* Each allocation fails in turn. _i: method. */
START_TEST(without_memory)
{
    long n_failed = 0;
    hymba_status status = HYMBA_ERROR_MEMORY;
    world.params.method = _i;
    world.params.tokens = world.tokens;
    world.params.n_tokens = 1024;
    for (long i = 0; status != HYMBA_OK; i += _i == HYMBA_QUANTIZE_PLAIN ? 1 : 3) {
        new_output();
        test_host_fail_at(&world.host, i, false);
        status = quantise();
        if (status != HYMBA_OK) {
            test_status(status, HYMBA_ERROR_MEMORY, world.error);
            ck_assert(!exists(world.output));
            n_failed++;
        }
        test_host_check(&world.host);
    }
    ck_assert_int_gt(n_failed, 10);
}
END_TEST

static int32_t kill_at;

static int32_t die(void *user, int32_t phase, uint64_t done, uint64_t total)
{
    (void)user;
    (void)phase;
    (void)done;
    (void)total;
    if (kill_at-- == 0)
        kill(getpid(), SIGKILL);
    return 0;
}

/* What a killed process leaves is no model, and in nobody's way. */
START_TEST(killed)
{
    for (kill_at = 1; kill_at < 60; kill_at += 19) {
        hymba_model *model;
        int status;
        new_output();
        pid_t child = fork();
        ck_assert_int_ge(child, 0);
        if (child == 0) {
            hymba_host deadly = {.struct_size = sizeof deadly, .progress = die};
            world.params.host = &deadly;
            quantise();
            _exit(0);
        }
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert(WIFSIGNALED(status));
        test_status(hymba_model_open(world.output, NULL, &model, &world.error), HYMBA_ERROR_FILE,
                    world.error);
        test_status(quantise(), HYMBA_OK, world.error);
        hymba_model_release(open_with(world.output, HYMBA_DTYPE_DEFAULT));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("quantise");
    TCase *rounding = tcase_create("rounding");
    tcase_add_test(rounding, exact_values);
    tcase_add_test(rounding, groups_of_nothing);
    tcase_add_loop_test(rounding, scales_are_well_chosen, 0, 4);
    suite_add_tcase(suite, rounding);
    TCase *files = tcase_create("files");
    tcase_add_checked_fixture(files, world_begin, world_end);
    tcase_set_timeout(files, 60);
    tcase_add_loop_test(files, a_directory_is_written, HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4 + 1);
    tcase_add_test(files, smaller_groups_are_told);
    tcase_add_loop_test(files, same_input_same_bytes, HYMBA_QUANTIZE_PLAIN,
                        HYMBA_QUANTIZE_GPTQ + 1);
    suite_add_tcase(suite, files);
    TCase *refusals = tcase_create("refusals");
    tcase_add_checked_fixture(refusals, world_begin, world_end);
    tcase_add_test(refusals, bad_parameters);
    tcase_add_test(refusals, rows_that_no_group_divides);
    tcase_add_test(refusals, quantised_twice);
    tcase_add_loop_test(refusals, weights_that_are_no_numbers, 0, 2);
    tcase_add_test(refusals, existing_files);
    suite_add_tcase(suite, refusals);
    TCase *failures = tcase_create("failures");
    tcase_add_checked_fixture(failures, world_begin, world_end);
    tcase_set_timeout(failures, 120);
    tcase_add_loop_test(failures, cancelled, HYMBA_QUANTIZE_PLAIN, HYMBA_QUANTIZE_GPTQ + 1);
    tcase_add_loop_test(failures, without_memory, HYMBA_QUANTIZE_PLAIN, HYMBA_QUANTIZE_GPTQ + 1);
    tcase_add_test(failures, killed);
    suite_add_tcase(suite, failures);
    return test_main(suite);
}
