#include "run/quantise.h"

#include <inttypes.h>

#include "base/checked.h"
#include "model/quantise_directory.h"
#include "run/calibrate.h"
#include "run/gptq.h"

enum { LEAST_TOKENS = 1024, MOST_THREADS = 4096 };

/* A method that looks at inputs. */
struct calibrated {
    struct hy_memory *memory;
    struct hy_calibration calibration;
    int32_t method;
    struct hy_factor factor;
    float *d[HY_N_INPUTS];
    float *importance;
};

static hymba_status check_tokens(const hymba_quantize_params *params, hymba_error *error)
{
    if (params->method == HYMBA_QUANTIZE_PLAIN || params->n_tokens >= LEAST_TOKENS)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                   "calibration: found %" PRIu64 " tokens, expected at least %d",
                   params->n_tokens, LEAST_TOKENS);
}

static hymba_status check_params(hymba_quantize_params *params, hymba_error *error)
{
    if (params->type == HYMBA_DTYPE_DEFAULT)
        params->type = HYMBA_DTYPE_INT8;
    if (params->method == HYMBA_QUANTIZE_DEFAULT)
        params->method = params->n_tokens > 0 ? HYMBA_QUANTIZE_GPTQ : HYMBA_QUANTIZE_PLAIN;
    if (params->method < HYMBA_QUANTIZE_PLAIN || params->method > HYMBA_QUANTIZE_GPTQ)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "method: found %" PRId32 ", expected %d to %d", params->method,
                       HYMBA_QUANTIZE_DEFAULT, HYMBA_QUANTIZE_GPTQ);
    if (params->n_threads > MOST_THREADS)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "n_threads: found %" PRIu32 ", at most %d",
                       params->n_threads, MOST_THREADS);
    const struct hy_recipe recipe = {params->type, params->group_size};
    hymba_status status = check_tokens(params, error);
    return status == HYMBA_OK ? hy_recipe_check(&recipe, error) : status;
}

static void encode_important(void *user, float *values, size_t n, size_t columns,
                             const struct hy_scheme *scheme, unsigned char *bytes,
                             uint16_t *scales)
{
    for (size_t i = 0; i < n; i++)
        hy_encode_row(values + i * columns, user, columns, scheme,
                      bytes + i * hy_row_bytes(scheme->dtype, columns),
                      scales + i * (columns / scheme->group));
}

/* The factor of a matrix's inputs; gate and up share theirs. */
static hymba_status factor(struct calibrated *method, struct hy_input_sums *sums,
                           enum hy_input input, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    if (!sums->factored) {
        hy_free(method->memory, method->d[input]);
        method->d[input] = hy_alloc_array(method->memory, sums->columns, sizeof(float));
        if (!method->d[input])
            return hy_no_memory(error, sums->columns * sizeof(float), "a matrix's pivots");
        status = hy_factor_gram(method->memory, &method->calibration.context->backend,
                                sums->values, sums->columns, method->d[input], error);
        sums->factored = status == HYMBA_OK;
    }
    method->factor = (struct hy_factor){sums->values, method->d[input], sums->columns};
    return status;
}

static hymba_status prepare(void *user, enum hy_slot slot, uint32_t layer,
                            const struct hy_slot_info *info, const struct hy_scheme *scheme,
                            struct hy_encoder *encoder, hymba_error *error)
{
    struct calibrated *method = user;
    struct hy_input_sums *sums;
    enum hy_input input = hy_input_of(slot);
    (void)info;
    (void)scheme;
    if (input == HY_N_INPUTS) /* embedding and head: the plain way */
        return HYMBA_OK;
    hymba_status status = hy_calibration_get(&method->calibration, layer, input, &sums, error);
    if (status != HYMBA_OK)
        return status;
    if (method->method == HYMBA_QUANTIZE_IMPORTANCE) {
        *encoder = (struct hy_encoder){encode_important, sums->values};
        return HYMBA_OK;
    }
    *encoder = (struct hy_encoder){hy_encode_with_feedback, &method->factor};
    return factor(method, sums, input, error);
}

static hymba_status check_vocabulary(const hymba_model *model, const int32_t *tokens, size_t n,
                                     hymba_error *error)
{
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= model->plan.config.vocabulary_size)
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)i,
                              "tokens[%zu]: found %" PRId32 ", the vocabulary has %" PRIu32, i,
                              tokens[i], model->plan.config.vocabulary_size);
    return HYMBA_OK;
}

static hymba_status write_calibrated(struct hy_quantise_job *job,
                                     const hymba_quantize_params *params, hymba_error *error)
{
    struct calibrated method = {.memory = job->memory, .method = params->method};
    bool gram = params->method == HYMBA_QUANTIZE_GPTQ;
    size_t n = (size_t)params->n_tokens;
    hymba_status status = check_vocabulary(job->model, params->tokens, n, error);
    if (status == HYMBA_OK)
        status = hy_calibration_create(job->memory, job->model, params->n_threads,
                                       params->tokens, n, gram, &method.calibration, error);
    if (status != HYMBA_OK)
        return status;
    job->method = (struct hy_rounding_method){prepare, &method};
    status = hy_quantise_directory(job, error);
    for (int input = 0; input < HY_N_INPUTS; input++)
        hy_free(job->memory, method.d[input]);
    hy_calibration_free(&method.calibration);
    return status;
}

hymba_status hy_quantise(const char *input, const char *output,
                         const hymba_quantize_params *given, hymba_error *error)
{
    hymba_quantize_params params = *given;
    hymba_model_params model_params = {.struct_size = sizeof model_params,
                                       .flags = HYMBA_MODEL_NO_TOKENIZER,
                                       .host = given->host};
    struct hy_memory memory;
    struct hy_source source = {.directory = input, .memory = &memory};
    hymba_model *model = NULL;
    hymba_status status = check_params(&params, error);
    if (status == HYMBA_OK)
        status = hy_memory_init(&memory, params.host, error);
    if (status == HYMBA_OK)
        status = hy_model_open(&source, &model_params, &model, error);
    if (status != HYMBA_OK)
        return status;
    struct hy_quantise_job job = {
        .memory = &memory,
        .source = &source,
        .model = model,
        .output = output,
        .recipe = {params.type, params.group_size},
        .n_threads = params.n_threads,
    };
    status = params.method == HYMBA_QUANTIZE_PLAIN ? hy_quantise_directory(&job, error)
                                                   : write_calibrated(&job, &params, error);
    hy_model_release(model);
    return status;
}
