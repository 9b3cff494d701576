/*
 * Weights on a device: what of them goes there and in which form, that contexts share them, and the
 * arithmetic that is done with them.
 */
#include "golden.h"
#include "guarded_world.h"

static hymba_error error = {.struct_size = sizeof error};

START_TEST(a_device_is_described_and_its_weights_are_shared)
{
    struct golden golden;
    golden_open(&golden, "goldens/a_all_features");
    hymba_memory_info memory = {.struct_size = sizeof memory, .n_tokens = 10};
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda:1"};
    hymba_context_info info = {.struct_size = sizeof info};
    hymba_context *contexts[3];
    contexts[0] = guarded_context(golden.model, (hymba_context_params){0}, "cuda:1");
    long uploaded = guarded->n_uploaded;
    test_status(hymba_context_get_info(contexts[0], &info, &error), HYMBA_OK, error);
    ck_assert_str_eq(info.device, "cuda:1");
    ck_assert_str_eq(info.cpu, "guarded memory");
    ck_assert_int_eq(info.compute, HYMBA_COMPUTE_F32);
    uint64_t stored = golden.model->weights.bytes;
    test_status(hymba_model_get_memory_info(golden.model, &params, &memory, &error), HYMBA_OK,
                error);
    ck_assert_uint_ge(memory.weight_bytes, stored + (uint64_t)uploaded);
    contexts[1] = guarded_context(golden.model, (hymba_context_params){0}, "cuda:1");
    ck_assert_int_eq(guarded->n_uploaded, uploaded);
    contexts[2] = guarded_context(golden.model, (hymba_context_params){0}, "cuda:0");
    ck_assert_int_eq(guarded->n_uploaded, 2 * uploaded);
    for (int i = 0; i < 3; i++)
        hymba_context_release(contexts[i]);
    golden_close(&golden);
}
END_TEST

struct counted {
    struct hy_weights *weights;
    uint64_t bytes;
};

static hymba_status count_tensor(void *user, enum hy_slot slot, uint32_t layer,
                                 const struct hy_slot_info *info, hymba_error *ignored)
{
    struct counted *counted = user;
    const struct hy_matrix *matrix = hy_weights_matrix(counted->weights, slot, layer);
    (void)ignored;
    if (!matrix)
        counted->bytes += info->n_elements * 4;
    else if (!hy_is_quantised(matrix->dtype))
        counted->bytes += info->n_elements * hy_dtype_size(matrix->dtype);
    else
        counted->bytes += info->n_elements / (matrix->dtype == HYMBA_DTYPE_INT4 ? 2 : 1)
                          + info->n_elements / matrix->group * 2;
    return HYMBA_OK;
}

/* All tensors, the small ones in f32. */
static uint64_t uploaded_bytes(hymba_model *model)
{
    struct counted counted = {.weights = &model->weights};
    hy_plan_visit(&model->plan, count_tensor, &counted, NULL);
    return counted.bytes;
}

/* Each number and each scale goes there once, and is counted; products are of bf16 where the device
 * has units for them: then logits, some units large, are near those of f32. */
START_TEST(quantised_weights_are_taken_along)
{
    static const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7};
    enum { N_IDS = sizeof ids / sizeof ids[0] };
    hymba_memory_info memory = {.struct_size = sizeof memory, .n_tokens = 10};
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda"};
    hymba_session *sessions[2];
    const float *logits[2];
    struct golden golden;
    golden_open(&golden, "goldens/f_official_like");
    guarded_quantise(&golden, _i ? HYMBA_DTYPE_INT4 : HYMBA_DTYPE_INT8);
    guarded->has_bf16 = 1;
    for (int i = 0; i < 2; i++) {
        hymba_context_params made = {.compute = i ? HYMBA_COMPUTE_F32 : HYMBA_COMPUTE_DEFAULT};
        hymba_context_info info = {.struct_size = sizeof info};
        long before = guarded->n_uploaded;
        hymba_context *context = guarded_context(golden.model, made, "cuda");
        if (i == 0)
            ck_assert_uint_eq((uint64_t)(guarded->n_uploaded - before),
                              uploaded_bytes(golden.model));
        test_status(hymba_context_get_info(context, &info, &error), HYMBA_OK, error);
        ck_assert_int_eq(info.compute, i ? HYMBA_COMPUTE_F32 : HYMBA_COMPUTE_BF16);
        test_status(hymba_session_create(context, NULL, &sessions[i], &error), HYMBA_OK, error);
        test_status(hymba_session_append(sessions[i], ids, N_IDS, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_logits(sessions[i], &logits[i], NULL, &error), HYMBA_OK, error);
        hymba_context_release(context);
    }
    double difference = golden_difference(logits[0], logits[1],
                                          golden.model->plan.config.vocabulary_size);
    ck_assert_msg(difference > 0.0 && difference < 0.2, "the logits differ by %g", difference);
    test_status(hymba_model_get_memory_info(golden.model, &params, &memory, &error), HYMBA_OK,
                error);
    ck_assert_uint_ge(memory.weight_bytes,
                      golden.model->weights.bytes + uploaded_bytes(golden.model));
    for (int i = 0; i < 2; i++)
        hymba_session_release(sessions[i]);
    golden_close(&golden);
}
END_TEST

/* A projection in 8 bits, with rows that have whole vectors and a scale each. */
static uint64_t narrow_bytes(const struct hy_matrix *matrix)
{
    uint64_t rows = (matrix->rows + 15) / 16 * 16, columns = (matrix->columns + 31) / 32 * 32;
    return matrix->data ? rows * (columns + sizeof(float)) : 0;
}

static uint64_t own_bytes(const struct hy_matrix *matrix)
{
    uint64_t scales = matrix->group ? matrix->rows * (matrix->columns / matrix->group) * 2 : 0;
    return matrix->rows * hy_row_bytes(matrix->dtype, matrix->columns) + scales;
}

/* What goes to a device with projections of 8 bits. */
static uint64_t narrow_upload(hymba_model *model)
{
    uint64_t bytes = uploaded_bytes(model);
    for (uint32_t i = 0; i < model->plan.config.n_layers; i++) {
        const struct hy_layer_weights *layer = &model->weights.layers[i];
        const struct hy_matrix *projections[] = {&layer->in_proj, &layer->out_proj, &layer->gate,
                                                 &layer->up, &layer->down};
        for (int k = 0; k < 5; k++)
            bytes += narrow_bytes(projections[k]) - own_bytes(projections[k]);
    }
    return bytes;
}

static const struct {
    int32_t compute;
    hymba_dtype quantize;
} narrow_kinds[] = {
    {HYMBA_COMPUTE_INT8, HYMBA_DTYPE_DEFAULT}, {HYMBA_COMPUTE_FP8, HYMBA_DTYPE_DEFAULT},
    {HYMBA_COMPUTE_INT8, HYMBA_DTYPE_INT8},    {HYMBA_COMPUTE_FP8, HYMBA_DTYPE_INT4},
};

static uint64_t weight_bytes(const hymba_model *model, int32_t compute)
{
    hymba_memory_info memory = {.struct_size = sizeof memory, .n_tokens = 10};
    hymba_context_params params = {
        .struct_size = sizeof params, .device = "cuda", .compute = compute};
    test_status(hymba_model_get_memory_info(model, &params, &memory, &error), HYMBA_OK, error);
    return memory.weight_bytes - model->weights.bytes;
}

/* A whole step or many, alone or in a batch: the same bits; near those of f32, of other weights. */
START_TEST(projections_of_8_bits)
{
    enum { N = 3, N_IDS = 12 };
    int32_t ids[N_IDS], compute = narrow_kinds[_i].compute;
    struct golden golden;
    golden_open(&golden, "goldens/f_official_like");
    size_t vocabulary = golden.model->plan.config.vocabulary_size;
    guarded_quantise(&golden, narrow_kinds[_i].quantize);
    for (int i = 0; i < N_IDS; i++)
        ids[i] = 3 * i + 1;
    long before = guarded->n_uploaded;
    hymba_context_params params = {.compute = compute, .max_step_tokens = 20};
    hymba_context *contexts[] = {
        guarded_context(golden.model, params, "cuda"),
        guarded_context(golden.model, params, "cuda"),
        guarded_context(golden.model, (hymba_context_params){.compute = HYMBA_COMPUTE_F32},
                        "cpu")};
    ck_assert_uint_eq((uint64_t)(guarded->n_uploaded - before), narrow_upload(golden.model));
    ck_assert_uint_ge(weight_bytes(golden.model, compute), narrow_upload(golden.model));
    if (narrow_kinds[_i].quantize == HYMBA_DTYPE_DEFAULT)
        ck_assert_uint_lt(weight_bytes(golden.model, compute),
                          weight_bytes(golden.model, HYMBA_COMPUTE_BF16));
    hymba_session *sessions[N];
    const float *logits[N];
    for (int i = 0; i < N; i++)
        test_status(hymba_session_create(contexts[i], NULL, &sessions[i], &error), HYMBA_OK,
                    error);
    for (int i = 0; i < N; i++) {
        size_t first = i == 0 ? N_IDS : 5;
        test_status(hymba_session_append(sessions[i], ids, first, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
        for (size_t k = first; k < N_IDS; k++)
            test_status(hymba_session_append(sessions[i], ids + k, 1, HYMBA_LOGITS_LAST, &error),
                        HYMBA_OK, error);
        test_status(hymba_session_logits(sessions[i], &logits[i], NULL, &error), HYMBA_OK, error);
    }
    ck_assert_mem_eq(logits[0], logits[1], vocabulary * sizeof(float));
    double difference = golden_difference(logits[0], logits[2], vocabulary);
    ck_assert_msg(difference > 0.0 && difference < 3.0, "the logits differ by %g", difference);
    for (int i = 0; i < N; i++) {
        hymba_session_release(sessions[i]);
        hymba_context_release(contexts[i]);
    }
    golden_close(&golden);
}
END_TEST

START_TEST(arithmetic_that_there_is_not)
{
    static const struct {
        const char *device;
        int32_t compute;
        hymba_status status;
    } cases[] = {
        {"cpu", HYMBA_COMPUTE_FP8, HYMBA_ERROR_UNSUPPORTED},
        {"cpu", HYMBA_COMPUTE_FP8 + 1, HYMBA_ERROR_ARGUMENT},
        {"cuda", HYMBA_COMPUTE_FP8 + 1, HYMBA_ERROR_ARGUMENT},
        {"cuda", -1, HYMBA_ERROR_ARGUMENT},
    };
    struct golden golden;
    hymba_context *context;
    golden_open(&golden, "goldens/f_official_like");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hymba_context_params params = {.struct_size = sizeof params, .device = cases[i].device,
                                       .compute = cases[i].compute};
        test_status(hymba_context_create(golden.model, &params, &context, &error), cases[i].status,
                    error);
    }
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device_weights");
    TCase *tests = tcase_create("device_weights");
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, guarded_begin, guarded_end);
    tcase_add_test(tests, a_device_is_described_and_its_weights_are_shared);
    tcase_add_loop_test(tests, quantised_weights_are_taken_along, 0, 2);
    tcase_add_loop_test(tests, projections_of_8_bits, 0, 4);
    tcase_add_test(tests, arithmetic_that_there_is_not);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
