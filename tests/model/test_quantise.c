/* Quantised models: rounding, the files, the way back, and what is refused, in which words. */
#include "model/model.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host.h"

/* Rows of 32, 64 and 96 elements: 64 divides some. */
static const char config_text[] =
    "{\"model_type\": \"hymba\", \"vocab_size\": 70, \"hidden_size\": 32,\n"
    "\"intermediate_size\": 96, \"num_hidden_layers\": 3, \"num_attention_heads\": 4,\n"
    "\"num_key_value_heads\": 2, \"num_memory_tokens\": 3, \"sliding_window\": 4,\n"
    "\"global_attn_idx\": [1], \"kv_reuse_group\": null, \"rms_norm_eps\": 1e-06,\n"
    "\"tie_word_embeddings\": false, \"mamba_d_state\": 4, \"mamba_d_conv\": 4,\n"
    "\"mamba_dt_rank\": 2, \"max_position_embeddings\": 640, \"bos_token_id\": 1}";

enum { N_TOKENS = 1500 };

static struct test_host host;
static hymba_error error;
static hymba_quantize_params params;
static char input[256], output[256];
static unsigned n_directories;
static int32_t tokens[N_TOKENS];

static void new_output(void)
{
    snprintf(output, sizeof output, "%s/out-%u", test_directory(), n_directories++);
}

static void make_model(const char *text, hymba_dtype dtype)
{
    hymba_init_params init;
    snprintf(input, sizeof input, "%s/in-%u", test_directory(), n_directories++);
    hymba_init_params_init(&init, sizeof init);
    init.seed = 5;
    init.dtype = dtype;
    test_status(hymba_model_init(input, text, HYMBA_NUL_TERMINATED, &init, &error), HYMBA_OK,
                error);
}

static void setup(void)
{
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    hymba_quantize_params_init(&params, sizeof params);
    params.host = &host.host;
    params.n_threads = 1;
    make_model(config_text, HYMBA_DTYPE_BF16);
    new_output();
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)((unsigned)i * 31u % 70u);
}

static void teardown(void)
{
    test_host_check(&host);
}

static hymba_status quantise(void)
{
    return hymba_quantize(input, output, &params, &error);
}

static const char *path_in(const char *directory, const char *name)
{
    static char paths[4][400];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static bool exists(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0;
}

static hymba_model *open_with(const char *directory, hymba_dtype dtype)
{
    hymba_model *model;
    hymba_model_params model_params;
    hymba_model_params_init(&model_params, sizeof model_params);
    model_params.host = &host.host;
    model_params.quantize = dtype;
    test_status(hymba_model_open(directory, &model_params, &model, &error), HYMBA_OK, error);
    return model;
}

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

static const struct hy_tensor *tensor_of(const hymba_model *model, const char *name)
{
    const struct hy_tensor *tensor = hy_weights_find(&model->weights, name);
    ck_assert_msg(tensor != NULL, "no tensor %s", name);
    return tensor;
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
    params.type = _i;
    test_write_file(path_in(input, "tokenizer_config.json"), "{}", 2);
    test_status(quantise(), HYMBA_OK, error);
    ck_assert_int_eq(host.phase, HYMBA_PHASE_QUANTIZE);
    ck_assert_uint_eq(host.done, host.total);
    ck_assert(exists(path_in(output, "tokenizer_config.json")));
    ck_assert(exists(path_in(output, "generation_config.json")));
    hymba_model *model = open_with(output, HYMBA_DTYPE_DEFAULT);
    hymba_model *original = open_with(input, HYMBA_DTYPE_DEFAULT);
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
    test_status(hymba_model_get_info(model, &info, &error), HYMBA_OK, error);
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
    params.type = HYMBA_DTYPE_INT8;
    host.host.log = keep_log;
    test_status(quantise(), HYMBA_OK, error);
    ck_assert_str_eq(log_text, "14 matrices are quantised in groups of 32, since 64 does not "
                               "divide their rows");
    log_text[0] = '\0';
    hymba_model_release(open_with(input, HYMBA_DTYPE_INT8));
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
    params.type = HYMBA_DTYPE_INT4;
    params.method = _i;
    params.tokens = tokens;
    params.n_tokens = N_TOKENS;
    test_status(quantise(), HYMBA_OK, error);
    strcpy(first, output);
    new_output();
    params.n_threads = 3;
    test_status(quantise(), HYMBA_OK, error);
    compare_files(first, output, true);
    new_output();
    params.method = _i % 3 + 1;
    test_status(quantise(), HYMBA_OK, error);
    compare_files(first, output, false);
    hymba_model_release(open_with(output, HYMBA_DTYPE_DEFAULT));
}
END_TEST

static void check_equal(const struct hy_matrix *a, const struct hy_matrix *b)
{
    ck_assert_int_eq(a->dtype, b->dtype);
    ck_assert_uint_eq(a->group, b->group);
    ck_assert_mem_eq(a->data, b->data, a->rows * hy_row_bytes(a->dtype, a->columns));
    if (a->group > 0)
        ck_assert_mem_eq(a->scales, b->scales, a->rows * (a->columns / a->group) * 2);
}

/* Quantised while loading is as if it had been written and opened. _i: type. */
START_TEST(while_loading)
{
    params.type = _i;
    test_status(quantise(), HYMBA_OK, error);
    hymba_model *written = open_with(output, HYMBA_DTYPE_DEFAULT);
    hymba_model *loaded = open_with(input, _i);
    const struct hy_weights *a = &written->weights, *b = &loaded->weights;
    ck_assert_uint_eq(a->bytes, b->bytes);
    ck_assert_uint_eq(hymba_model_fingerprint(written), hymba_model_fingerprint(loaded));
    check_equal(&a->embedding, &b->embedding);
    check_equal(&a->meta, &b->meta);
    check_equal(&a->head, &b->head);
    for (int i = 0; i < 3; i++) {
        check_equal(&a->layers[i].in_proj, &b->layers[i].in_proj);
        check_equal(&a->layers[i].out_proj, &b->layers[i].out_proj);
        check_equal(&a->layers[i].gate, &b->layers[i].gate);
        check_equal(&a->layers[i].up, &b->layers[i].up);
        check_equal(&a->layers[i].down, &b->layers[i].down);
        check_equal(&a->layers[i].x_proj, &b->layers[i].x_proj);
    }
    hymba_model *original = open_with(input, HYMBA_DTYPE_DEFAULT);
    ck_assert_uint_ne(hymba_model_fingerprint(original), hymba_model_fingerprint(loaded));
    hymba_model_release(original);
    hymba_model_release(written);
    hymba_model_release(loaded);
}
END_TEST

START_TEST(memory_of_the_copy_is_limited)
{
    hymba_model *model;
    hymba_model_params model_params;
    hymba_model_params_init(&model_params, sizeof model_params);
    model_params.host = &host.host;
    model_params.quantize = HYMBA_DTYPE_INT8;
    model_params.memory_limit = 60000; /* enough for all but the weights */
    test_status(hymba_model_open(input, &model_params, &model, &error), HYMBA_ERROR_MEMORY, error);
    model_params.quantize = HYMBA_DTYPE_DEFAULT;
    test_status(hymba_model_open(input, &model_params, &model, &error), HYMBA_OK, error);
    hymba_model_release(model);
}
END_TEST

/* Nobody else's logits: those of the dequantised weights, closely. */
START_TEST(a_quantised_model_runs)
{
    hymba_model *models[2];
    float logits[2][70];
    params.type = HYMBA_DTYPE_INT8;
    test_status(quantise(), HYMBA_OK, error);
    models[0] = open_with(input, HYMBA_DTYPE_DEFAULT);
    models[1] = open_with(output, HYMBA_DTYPE_DEFAULT);
    for (int i = 0; i < 2; i++) {
        hymba_context_params context_params = {.struct_size = sizeof context_params,
                                               .n_threads = 1,
                                               .cpu = "generic",
                                               .compute = HYMBA_COMPUTE_F32};
        hymba_context *context;
        hymba_session *session;
        const float *found;
        size_t rows;
        test_status(hymba_context_create(models[i], &context_params, &context, &error), HYMBA_OK,
                    error);
        test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
        test_status(hymba_session_append(session, tokens, 20, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_logits(session, &found, &rows, &error), HYMBA_OK, error);
        memcpy(logits[i], found, sizeof logits[i]);
        hymba_session_release(session);
        hymba_context_release(context);
        hymba_model_release(models[i]);
    }
    double difference = 0, size = 0;
    for (int i = 0; i < 70; i++) {
        difference += pow(logits[0][i] - logits[1][i], 2);
        size += pow(logits[0][i], 2);
    }
    ck_assert(difference > 0);
    ck_assert_msg(sqrt(difference / size) < 0.03, "logits differ by %g",
                  sqrt(difference / size));
}
END_TEST

/* ------------------------------------------------------------------ refusals */

static void check_words(const char *const *parts)
{
    for (; *parts; parts++)
        ck_assert_msg(strstr(error.message, *parts) != NULL, "\"%s\" does not hold \"%s\"",
                      error.message, *parts);
}
#define WORDS(...) check_words((const char *const[]){__VA_ARGS__, NULL})

static void refuse(hymba_status status)
{
    test_status(quantise(), status, error);
    ck_assert(!exists(output));
}

START_TEST(bad_parameters)
{
    params.type = HYMBA_DTYPE_F16;
    refuse(HYMBA_ERROR_ARGUMENT);
    params.type = 17;
    refuse(HYMBA_ERROR_ARGUMENT);
    WORDS("17", "int8 or int4");
    params.type = HYMBA_DTYPE_INT4;
    params.group_size = 48;
    refuse(HYMBA_ERROR_ARGUMENT);
    WORDS("group_size", "48", "32, 64 or 128");
    params.group_size = 64;
    refuse(HYMBA_ERROR_ARGUMENT);
    WORDS("model.embed_tokens.weight", "32", "64");
    params.group_size = 0;
    params.method = 4;
    refuse(HYMBA_ERROR_ARGUMENT);
    params.method = HYMBA_QUANTIZE_GPTQ;
    refuse(HYMBA_ERROR_ARGUMENT);
    WORDS("found 0 tokens", "1024");
    params.tokens = tokens;
    params.n_tokens = 1023;
    refuse(HYMBA_ERROR_ARGUMENT);
    params.n_tokens = N_TOKENS;
    tokens[1400] = 70;
    refuse(HYMBA_ERROR_ARGUMENT);
    ck_assert_int_eq(error.position, 1400);
    params.tokens = NULL;
    refuse(HYMBA_ERROR_ARGUMENT);
    params.n_tokens = 0;
    params.method = 0;
    params.n_threads = 5000;
    refuse(HYMBA_ERROR_ARGUMENT);
    test_status(hymba_quantize(NULL, output, NULL, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_quantize(input, NULL, NULL, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_quantize(output, output, NULL, &error), HYMBA_ERROR_FILE, error);
    hymba_model *model;
    hymba_model_params model_params = {.struct_size = sizeof model_params, .quantize = 3};
    test_status(hymba_model_open(input, &model_params, &model, &error), HYMBA_ERROR_ARGUMENT,
                error);
}
END_TEST

START_TEST(rows_that_no_group_divides)
{
    char text[sizeof config_text];
    strcpy(text, config_text);
    memcpy(strstr(text, "96"), "80", 2);
    make_model(text, HYMBA_DTYPE_F16);
    params.type = HYMBA_DTYPE_INT8;
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
    test_status(quantise(), HYMBA_OK, error);
    strcpy(first, output);
    strcpy(input, output);
    new_output();
    refuse(HYMBA_ERROR_ARGUMENT);
    WORDS(first, "quantised already");
    test_status(hymba_model_open(first, &model_params, &model, &error), HYMBA_ERROR_ARGUMENT,
                error);
    WORDS("quantised already");
}
END_TEST

/* Changes bytes of a file, at a place behind the first occurrence of a text. */
static void patch(const char *path, const char *after, size_t skip, const void *bytes, size_t n)
{
    size_t size, i = 0, length = strlen(after);
    char *data = test_read_file(path, &size);
    while (i + length < size && memcmp(data + i, after, length) != 0)
        i++;
    ck_assert_msg(i + length < size, "%s does not hold %s", path, after);
    memcpy(data + i + skip, bytes, n);
    test_write_file(path, data, size);
    free(data);
}

/* Where a tensor's data begins in its file. */
static size_t place_of(const char *directory, const char *name)
{
    hymba_model *model = open_with(directory, HYMBA_DTYPE_DEFAULT);
    const unsigned char *data = tensor_of(model, name)->data;
    size_t place = (size_t)(data - model->weights.files[0].data);
    hymba_model_release(model);
    return place;
}

static void patch_data(const char *directory, const char *tensor, size_t skip, const void *bytes,
                       size_t n)
{
    size_t size, place = place_of(directory, tensor);
    char *data = test_read_file(path_in(directory, "model.safetensors"), &size);
    memcpy(data + place + skip, bytes, n);
    test_write_file(path_in(directory, "model.safetensors"), data, size);
    free(data);
}

/* _i: infinity, not a number. */
START_TEST(weights_that_are_no_numbers)
{
    static const uint16_t bits[] = {0xff80, 0x7fc0};
    hymba_model *model;
    hymba_model_params model_params = {.struct_size = sizeof model_params,
                                       .quantize = HYMBA_DTYPE_INT4};
    patch_data(input, "model.layers.1.moe.experts.0.up_proj.weight", 2 * (40 * 32 + 9), &bits[_i],
               2);
    patch_data(input, "model.layers.1.moe.experts.0.up_proj.weight", 2 * (90 * 32 + 3), &bits[_i],
               2);
    params.n_threads = 2;
    refuse(HYMBA_ERROR_FORMAT);
    WORDS("model.layers.1.moe.experts.0.up_proj.weight", "[40, 9]");
    ck_assert_int_eq(error.position, 40 * 32 + 9);
    test_status(hymba_model_open(input, &model_params, &model, &error), HYMBA_ERROR_FORMAT, error);
    WORDS("model.layers.1.moe.experts.0.up_proj.weight", "[40, 9]");
}
END_TEST

START_TEST(existing_files)
{
    ck_assert_int_eq(mkdir(output, 0777), 0);
    test_write_file(path_in(output, "config.json"), "mine", 4);
    test_status(quantise(), HYMBA_ERROR_FILE, error);
    WORDS(output, "config.json");
    ck_assert(!exists(path_in(output, "model.safetensors")));
    strcpy(output, input);
    test_status(quantise(), HYMBA_ERROR_FILE, error);
}
END_TEST

/* --------------------------------------------------------- hostile directories */

struct flaw {
    const char *file, *after;
    size_t skip;
    const char *bytes;
    hymba_status status;
    const char *words[3];
};

#define TENSOR "model.layers.0.mamba.in_proj.weight"
#define SCALE_ENTRY TENSOR "_scale\":{\"dtype\":\""

static const struct flaw flaws[] = {
    {"config.json", "\"num_bits\": 4", 12, "6", HYMBA_ERROR_UNSUPPORTED,
     {"num_bits", "6", "4 or 8"}},
    {"config.json", "\"symmetric\": true", 13, "null", HYMBA_ERROR_FORMAT, {"symmetric"}},
    {"config.json", "\"strategy\": \"group\"", 13, "block", HYMBA_ERROR_UNSUPPORTED,
     {"strategy", "block", "group"}},
    {"config.json", "\"type\": \"int\"", 9, "fpt", HYMBA_ERROR_UNSUPPORTED, {"type", "fpt"}},
    {"config.json", "\"group_size\": 32", 14, "48", HYMBA_ERROR_UNSUPPORTED,
     {"group_size", "multiple of 32"}},
    {"config.json", "\"group_size\": 32", 14, "-1", HYMBA_ERROR_FORMAT, {"group_size", "-1"}},
    {"config.json", "\"group_size\": 32", 14, "96", HYMBA_ERROR_FORMAT,
     {"groups of 32", "config_groups"}},
    {"config.json", "\"dynamic\": false", 11, "1    ", HYMBA_ERROR_UNSUPPORTED, {"dynamic"}},
    {"config.json", "\"actorder\": null", 12, "true", HYMBA_ERROR_UNSUPPORTED, {"actorder"}},
    {"config.json", "\"quant_method\": \"comp", 17, "x", HYMBA_ERROR_UNSUPPORTED,
     {"quant_method", "compressed-tensors"}},
    {"config.json", "\"format\": \"pack", 11, "x", HYMBA_ERROR_UNSUPPORTED,
     {"format", "pack-quantized"}},
    {"config.json", "\"quantization_status\": \"comp", 24, "x", HYMBA_ERROR_UNSUPPORTED,
     {"quantization_status"}},
    {"config.json", "\"kv_cache_scheme\": null", 19, "true", HYMBA_ERROR_UNSUPPORTED,
     {"kv_cache_scheme"}},
    {"config.json", "\"input_activations\": null", 21, "1234", HYMBA_ERROR_UNSUPPORTED,
     {"input_activations"}},
    {"config.json", "\"config_groups\"", 1, "C", HYMBA_ERROR_FORMAT, {"config_groups", "absent"}},
    {"config.json", "\"weights\"", 1, "W", HYMBA_ERROR_FORMAT, {"weights", "absent"}},
    {"config.json", "\"targets\"", 1, "T", HYMBA_ERROR_FORMAT, {"targets", "absent"}},
    {"config.json", "\"quantization_config\"", 1, "Q", HYMBA_ERROR_FORMAT,
     {".weight_packed is there", "quantization_config"}},
    {"model.safetensors", TENSOR "_scale", sizeof TENSOR, "S", HYMBA_ERROR_FORMAT,
     {TENSOR "_scale", "missing"}},
    {"model.safetensors", TENSOR "_shape", sizeof TENSOR, "S", HYMBA_ERROR_FORMAT,
     {TENSOR "_shape", "missing"}},
    {"model.safetensors", TENSOR "_packed", sizeof TENSOR, "P", HYMBA_ERROR_FORMAT,
     {TENSOR " is missing"}},
    {"model.safetensors", TENSOR "_shape\"", sizeof TENSOR - 1, "\"      ", HYMBA_ERROR_FORMAT,
     {TENSOR " is there", TENSOR "_packed"}},
    {"model.safetensors", TENSOR "_packed\":{\"dtype\":\"I32", sizeof TENSOR + 18, "U",
     HYMBA_ERROR_UNSUPPORTED, {TENSOR "_packed", "U32", "I32"}},
    {"model.safetensors", SCALE_ENTRY "BF16\"", sizeof SCALE_ENTRY - 1, "F16\" ",
     HYMBA_ERROR_UNSUPPORTED, {TENSOR "_scale", "F16", "BF16"}},
};
enum { N_FLAWS = sizeof flaws / sizeof flaws[0] };

START_TEST(flawed_directories)
{
    const struct flaw *flaw = &flaws[_i];
    hymba_model *model;
    params.type = HYMBA_DTYPE_INT4;
    params.group_size = 32; /* so that there are two groups, both of 32 */
    test_status(quantise(), HYMBA_OK, error);
    patch(path_in(output, flaw->file), flaw->after, flaw->skip, flaw->bytes, strlen(flaw->bytes));
    hymba_model_params model_params = {.struct_size = sizeof model_params, .host = &host.host};
    test_status(hymba_model_open(output, &model_params, &model, &error), flaw->status, error);
    for (int i = 0; i < 3 && flaw->words[i]; i++)
        ck_assert_msg(strstr(error.message, flaw->words[i]) != NULL,
                      "\"%s\" does not hold \"%s\"", error.message, flaw->words[i]);
    test_host_check(&host);
}
END_TEST

START_TEST(scales_and_shapes_that_lie)
{
    static const unsigned char infinity[] = {0x80, 0xff}, other_rows[] = {1, 2};
    hymba_model *model;
    test_status(quantise(), HYMBA_OK, error);
    patch_data(output, "model.layers.2.mamba.out_proj.weight_scale", 2 * 3, infinity, 2);
    test_status(hymba_model_open(output, NULL, &model, &error), HYMBA_ERROR_FORMAT, error);
    WORDS("model.layers.2.mamba.out_proj.weight_scale", "[3, 0]", "infinite");
    ck_assert_int_eq(error.position, 3);
    new_output();
    test_status(quantise(), HYMBA_OK, error);
    patch_data(output, "model.layers.2.mamba.out_proj.weight_shape", 0, other_rows, 2);
    test_status(hymba_model_open(output, NULL, &model, &error), HYMBA_ERROR_FORMAT, error);
    WORDS("model.layers.2.mamba.out_proj.weight_shape", "[513, 64]", "[32, 64]");
}
END_TEST

/* ------------------------------------------------------------------ failures */

/* Cancelled at each report in turn: everything of the call's is gone again. _i: method. */
START_TEST(cancelled)
{
    params.method = _i;
    params.tokens = tokens;
    params.n_tokens = N_TOKENS;
    test_status(quantise(), HYMBA_OK, error);
    long n_reports = host.n_progress;
    ck_assert_int_gt(n_reports, 20);
    for (long i = 0; i < n_reports; i += 1 + n_reports / 20) {
        new_output();
        host.n_progress = 0;
        host.cancel_at = i;
        refuse(HYMBA_ERROR_CANCELLED);
    }
}
END_TEST

/* Each allocation fails in turn. _i: method. */
START_TEST(without_memory)
{
    long n_failed = 0;
    hymba_status status = HYMBA_ERROR_MEMORY;
    params.method = _i;
    params.tokens = tokens;
    params.n_tokens = 1024;
    for (long i = 0; status != HYMBA_OK; i += _i == HYMBA_QUANTIZE_PLAIN ? 1 : 3) {
        new_output();
        test_host_fail_at(&host, i, false);
        status = quantise();
        if (status != HYMBA_OK) {
            test_status(status, HYMBA_ERROR_MEMORY, error);
            ck_assert(!exists(output));
            n_failed++;
        }
        test_host_check(&host);
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
            params.host = &deadly;
            quantise();
            _exit(0);
        }
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert(WIFSIGNALED(status));
        test_status(hymba_model_open(output, NULL, &model, &error), HYMBA_ERROR_FILE, error);
        test_status(quantise(), HYMBA_OK, error);
        hymba_model_release(open_with(output, HYMBA_DTYPE_DEFAULT));
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
    tcase_add_checked_fixture(files, setup, teardown);
    tcase_set_timeout(files, 60);
    tcase_add_loop_test(files, a_directory_is_written, HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4 + 1);
    tcase_add_test(files, smaller_groups_are_told);
    tcase_add_loop_test(files, same_input_same_bytes, HYMBA_QUANTIZE_PLAIN,
                        HYMBA_QUANTIZE_GPTQ + 1);
    tcase_add_loop_test(files, while_loading, HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4 + 1);
    tcase_add_test(files, memory_of_the_copy_is_limited);
    tcase_add_test(files, a_quantised_model_runs);
    suite_add_tcase(suite, files);
    TCase *refusals = tcase_create("refusals");
    tcase_add_checked_fixture(refusals, setup, teardown);
    tcase_add_test(refusals, bad_parameters);
    tcase_add_test(refusals, rows_that_no_group_divides);
    tcase_add_test(refusals, quantised_twice);
    tcase_add_loop_test(refusals, weights_that_are_no_numbers, 0, 2);
    tcase_add_test(refusals, existing_files);
    tcase_add_loop_test(refusals, flawed_directories, 0, N_FLAWS);
    tcase_add_test(refusals, scales_and_shapes_that_lie);
    suite_add_tcase(suite, refusals);
    TCase *failures = tcase_create("failures");
    tcase_add_checked_fixture(failures, setup, teardown);
    tcase_set_timeout(failures, 120);
    tcase_add_loop_test(failures, cancelled, HYMBA_QUANTIZE_PLAIN, HYMBA_QUANTIZE_GPTQ + 1);
    tcase_add_loop_test(failures, without_memory, HYMBA_QUANTIZE_PLAIN, HYMBA_QUANTIZE_GPTQ + 1);
    tcase_add_test(failures, killed);
    suite_add_tcase(suite, failures);
    return test_main(suite);
}
