/* Quantised weights as they are loaded: from files, or quantised then; what is refused. */
#include "quantise_world.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------- loading */

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
    world.params.type = _i;
    test_status(quantise(), HYMBA_OK, world.error);
    hymba_model *written = open_with(world.output, HYMBA_DTYPE_DEFAULT);
    hymba_model *loaded = open_with(world.input, _i);
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
    hymba_model *original = open_with(world.input, HYMBA_DTYPE_DEFAULT);
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
    model_params.host = &world.host.host;
    model_params.quantize = HYMBA_DTYPE_INT8;
    model_params.memory_limit = 60000; /* enough for all but the weights */
    test_status(hymba_model_open(world.input, &model_params, &model, &world.error),
                HYMBA_ERROR_MEMORY, world.error);
    model_params.quantize = HYMBA_DTYPE_DEFAULT;
    test_status(hymba_model_open(world.input, &model_params, &model, &world.error), HYMBA_OK,
                world.error);
    hymba_model_release(model);
}
END_TEST

/* Nobody else's logits: those of the dequantised weights, closely. */
START_TEST(a_quantised_model_runs)
{
    hymba_model *models[2];
    float logits[2][70];
    world.params.type = HYMBA_DTYPE_INT8;
    test_status(quantise(), HYMBA_OK, world.error);
    models[0] = open_with(world.input, HYMBA_DTYPE_DEFAULT);
    models[1] = open_with(world.output, HYMBA_DTYPE_DEFAULT);
    for (int i = 0; i < 2; i++) {
        hymba_context_params context_params = {.struct_size = sizeof context_params,
                                               .n_threads = 1,
                                               .cpu = "generic",
                                               .compute = HYMBA_COMPUTE_F32};
        hymba_context *context;
        hymba_session *session;
        const float *found;
        size_t rows;
        test_status(hymba_context_create(models[i], &context_params, &context, &world.error),
                    HYMBA_OK, world.error);
        test_status(hymba_session_create(context, NULL, &session, &world.error), HYMBA_OK,
                    world.error);
        test_status(hymba_session_append(session, world.tokens, 20, HYMBA_LOGITS_LAST,
                    &world.error), HYMBA_OK, world.error);
        test_status(hymba_session_logits(session, &found, &rows, &world.error), HYMBA_OK,
                    world.error);
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

/* ------------------------------------------------------- flawed directories */

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
    world.params.type = HYMBA_DTYPE_INT4;
    world.params.group_size = 32; /* so that there are two groups, both of 32 */
    test_status(quantise(), HYMBA_OK, world.error);
    patch(path_in(world.output, flaw->file), flaw->after, flaw->skip, flaw->bytes,
          strlen(flaw->bytes));
    hymba_model_params model_params = {.struct_size = sizeof model_params,
                                       .host = &world.host.host};
    test_status(hymba_model_open(world.output, &model_params, &model, &world.error), flaw->status,
                world.error);
    for (int i = 0; i < 3 && flaw->words[i]; i++)
        ck_assert_msg(strstr(world.error.message, flaw->words[i]) != NULL,
                      "\"%s\" does not hold \"%s\"", world.error.message, flaw->words[i]);
    test_host_check(&world.host);
}
END_TEST

START_TEST(scales_and_shapes_that_lie)
{
    static const unsigned char infinity[] = {0x80, 0xff}, other_rows[] = {1, 2};
    hymba_model *model;
    test_status(quantise(), HYMBA_OK, world.error);
    patch_data(world.output, "model.layers.2.mamba.out_proj.weight_scale", 2 * 3, infinity, 2);
    test_status(hymba_model_open(world.output, NULL, &model, &world.error), HYMBA_ERROR_FORMAT,
                world.error);
    WORDS("model.layers.2.mamba.out_proj.weight_scale", "[3, 0]", "infinite");
    ck_assert_int_eq(world.error.position, 3);
    new_output();
    test_status(quantise(), HYMBA_OK, world.error);
    patch_data(world.output, "model.layers.2.mamba.out_proj.weight_shape", 0, other_rows, 2);
    test_status(hymba_model_open(world.output, NULL, &model, &world.error), HYMBA_ERROR_FORMAT,
                world.error);
    WORDS("model.layers.2.mamba.out_proj.weight_shape", "[513, 64]", "[32, 64]");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("quantised");
    TCase *loading = tcase_create("loading");
    tcase_add_checked_fixture(loading, world_begin, world_end);
    tcase_set_timeout(loading, 60);
    tcase_add_loop_test(loading, while_loading, HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4 + 1);
    tcase_add_test(loading, memory_of_the_copy_is_limited);
    tcase_add_test(loading, a_quantised_model_runs);
    suite_add_tcase(suite, loading);
    TCase *refusals = tcase_create("refusals");
    tcase_add_checked_fixture(refusals, world_begin, world_end);
    tcase_add_loop_test(refusals, flawed_directories, 0, N_FLAWS);
    tcase_add_test(refusals, scales_and_shapes_that_lie);
    suite_add_tcase(suite, refusals);
    return test_main(suite);
}
