/* Writing a model of a given shape with random weights, tensor by tensor. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/random.h"
#include "model/model.h"
#include "model/new_directory.h"

/* Values made and written at once. */
enum { CHUNK_VALUES = 1 << 16 };

/* What a tensor's random values look like. */
enum shape_of_values { NORMAL, NEAR_ONE, TIME_STEP_BIAS, LOG_OF_STATE_INDEX };

struct distribution {
    enum shape_of_values shape;
    float scale;
};

/* The files of a model directory, in the order they are written: config.json last, since it is
 * what makes a directory a model. */
enum { WEIGHTS, GENERATION_CONFIG, CONFIG, N_FILES };
static const char *const file_names[N_FILES] = {"model.safetensors", "generation_config.json",
                                                "config.json"};

struct init {
    struct hy_memory memory;
    struct hy_plan plan;
    uint64_t seed;
    hymba_dtype dtype;
    struct hy_new_directory target;
    struct hy_tensor *tensors; /* of the header, in file order */
    size_t n_tensors;
    char *names;
    struct hy_writer writer;
    uint64_t written, total;   /* bytes of data */
    float *values;             /* [CHUNK_VALUES] */
    unsigned char *encoded;
};

/*
 * Scales that keep activations of order one through any number of layers, and logits spread enough
 * for a test to see mistakes: 1/sqrt(fan-in) times a gain, the two projections that write to the
 * residual stream divided by sqrt(2 L). Time steps begin between 0.001 and 0.1, A at -1 ... -N, as
 * Mamba's own initialisation has them.
 */
static struct distribution distribution_of(const struct hy_config *config, enum hy_slot slot,
                                           const struct hy_slot_info *info)
{
    float fan_in = (float)info->shape[info->n_dims - 1];
    float residual = 1.0f / sqrtf(2.0f * (float)config->n_layers);
    switch (slot) {
    case HY_SLOT_EMBEDDING:
    case HY_SLOT_META:
    case HY_SLOT_HEAD:
        return (struct distribution){NORMAL, 3.0f / sqrtf((float)config->hidden_size)};
    case HY_SLOT_IN_PROJ:
        return (struct distribution){NORMAL, 1.2f / sqrtf(fan_in)};
    case HY_SLOT_CONV_WEIGHT:
        return (struct distribution){NORMAL, 0.5f};
    case HY_SLOT_CONV_BIAS:
        return (struct distribution){NORMAL, 0.1f};
    case HY_SLOT_DT_PROJ:
        return (struct distribution){NORMAL, 0.6f / sqrtf(fan_in)};
    case HY_SLOT_DT_BIAS:
        return (struct distribution){TIME_STEP_BIAS, 0.0f};
    case HY_SLOT_A_LOG:
        return (struct distribution){LOG_OF_STATE_INDEX, 0.1f};
    case HY_SLOT_D:
        return (struct distribution){NEAR_ONE, 0.2f};
    case HY_SLOT_OUT_PROJ:
        return (struct distribution){NORMAL, 1.5f * residual / sqrtf(fan_in)};
    case HY_SLOT_DOWN:
        return (struct distribution){NORMAL, 2.0f * residual / sqrtf(fan_in)};
    case HY_SLOT_X_PROJ:
    case HY_SLOT_GATE:
    case HY_SLOT_UP:
        return (struct distribution){NORMAL, 1.0f / sqrtf(fan_in)};
    default:
        return (struct distribution){NEAR_ONE, 0.1f};
    }
}

/* A value of mean 0 and variance 1 from 64 random bits: the sum of four uniform numbers, exact in
 * integers, so that every machine makes the same bytes. */
static float unit_value(uint32_t high, uint32_t low)
{
    uint32_t sum = (high >> 16) + (high & 0xffffu) + (low >> 16) + (low & 0xffffu);
    return ((float)sum * (1.0f / 65536.0f) - 2.0f) * 1.7320508f;
}

static float shape_value(struct distribution distribution, float unit, uint64_t index,
                         uint32_t state_size)
{
    switch (distribution.shape) {
    case NEAR_ONE:
        return 1.0f + unit * distribution.scale;
    case TIME_STEP_BIAS: { /* softplus^-1 of a step spread evenly over the logarithm */
        double position = fmin(fmax((unit / 1.7320508 + 2.0) / 4.0, 0.0), 1.0);
        double step = exp(log(0.001) + position * (log(0.1) - log(0.001)));
        return (float)(step + log(-expm1(-step)));
    }
    case LOG_OF_STATE_INDEX:
        return logf((float)(1 + index % state_size)) + unit * distribution.scale;
    default:
        return unit * distribution.scale;
    }
}

static void make_values(const struct init *init, struct distribution distribution, uint64_t key,
                        uint64_t first, size_t count)
{
    for (size_t i = 0; i < count; i += 2) { /* first is even: CHUNK_VALUES is */
        uint32_t words[4];
        hy_random_block(key, (first + i) / 2, words);
        for (size_t j = 0; j < 2 && i + j < count; j++)
            init->values[i + j] =
                shape_value(distribution, unit_value(words[2 * j], words[2 * j + 1]),
                            first + i + j, init->plan.config.state_size);
    }
}

static hymba_status write_tensor(void *user, enum hy_slot slot, uint32_t layer,
                                 const struct hy_slot_info *info, hymba_error *error)
{
    struct init *init = user;
    struct distribution distribution = distribution_of(&init->plan.config, slot, info);
    uint64_t key = hy_random_key(init->seed, info->name);
    (void)layer;
    for (uint64_t first = 0; first < info->n_elements; first += CHUNK_VALUES) {
        size_t count = hy_min_size(CHUNK_VALUES, (size_t)(info->n_elements - first));
        size_t bytes = count * hy_dtype_size(init->dtype);
        make_values(init, distribution, key, first, count);
        hy_row_from_f32(init->values, init->dtype, init->encoded, count);
        hymba_status status = hy_writer_write(&init->writer, init->encoded, bytes, error);
        init->written += bytes;
        if (status == HYMBA_OK)
            status = hy_progress(&init->memory, HYMBA_PHASE_WRITE, init->written, init->total,
                                 error);
        if (status != HYMBA_OK)
            return status;
    }
    return HYMBA_OK;
}

static hymba_status count_tensor(void *user, enum hy_slot slot, uint32_t layer,
                                 const struct hy_slot_info *info, hymba_error *error)
{
    struct init *init = user;
    (void)slot;
    (void)layer;
    (void)info;
    (void)error;
    init->n_tensors++;
    return HYMBA_OK;
}

static hymba_status describe_tensor(void *user, enum hy_slot slot, uint32_t layer,
                                    const struct hy_slot_info *info, hymba_error *error)
{
    struct init *init = user;
    struct hy_tensor *tensor = &init->tensors[init->n_tensors];
    char *name = init->names + init->n_tensors * sizeof info->name;
    (void)slot;
    (void)layer;
    memcpy(name, info->name, sizeof info->name);
    tensor->name = name;
    tensor->dtype = init->dtype;
    tensor->n_dims = info->n_dims;
    memcpy(tensor->shape, info->shape, sizeof info->shape);
    if (!hy_mul_u64(info->n_elements, hy_dtype_size(init->dtype), &tensor->size) ||
        !hy_add_u64(init->total, tensor->size, &init->total))
        return hy_fail(error, HYMBA_ERROR_LIMIT, "tensor %s: its bytes do not fit 64 bits", name);
    init->n_tensors++;
    return HYMBA_OK;
}

static hymba_status write_weights(struct init *init, hymba_error *error)
{
    char *header = NULL;
    size_t header_size = 0;
    hy_plan_visit(&init->plan, count_tensor, init, error);
    init->tensors = hy_alloc_zero(&init->memory, init->n_tensors, sizeof *init->tensors);
    init->names = hy_alloc_array(&init->memory, init->n_tensors,
                                 sizeof((struct hy_slot_info *)0)->name);
    init->values = hy_alloc_array(&init->memory, CHUNK_VALUES, sizeof *init->values);
    init->encoded = hy_alloc_array(&init->memory, CHUNK_VALUES, sizeof(float));
    if (!init->tensors || !init->names || !init->values || !init->encoded)
        return hy_no_memory(error, init->n_tensors * sizeof *init->tensors, "the tensor list");
    init->n_tensors = 0;
    hymba_status status = hy_plan_visit(&init->plan, describe_tensor, init, error);
    if (status == HYMBA_OK)
        status = hy_safetensors_header(&init->memory, init->tensors, init->n_tensors, &header,
                                       &header_size, error);
    if (status == HYMBA_OK)
        status = hy_writer_open(&init->memory, init->target.paths[WEIGHTS], &init->writer, error);
    if (status == HYMBA_OK) {
        status = hy_writer_write(&init->writer, header, header_size, error);
        if (status == HYMBA_OK)
            status = hy_plan_visit(&init->plan, write_tensor, init, error);
        if (status == HYMBA_OK)
            status = hy_writer_finish(&init->writer, error);
        hy_writer_abandon(&init->writer);
    }
    hy_free(&init->memory, header);
    return status;
}

static const char *torch_name(hymba_dtype dtype)
{
    switch (dtype) {
    case HYMBA_DTYPE_F32:
        return "float32";
    case HYMBA_DTYPE_F16:
        return "float16";
    default:
        return "bfloat16";
    }
}

static hymba_status write_config(struct init *init, const char *text, size_t length,
                                 hymba_error *error)
{
    char *config = NULL;
    size_t config_length = 0;
    hymba_status status = hy_json_with_string(&init->memory, text, length, "config.json",
                                              "torch_dtype", torch_name(init->dtype), &config,
                                              &config_length, error);
    if (status == HYMBA_OK)
        status = hy_new_directory_write(&init->target, CONFIG, config, config_length, error);
    hy_free(&init->memory, config);
    return status;
}

static hymba_status write_generation_config(struct init *init, hymba_error *error)
{
    char text[160];
    const struct hy_config *config = &init->plan.config;
    int length = snprintf(text, sizeof text, "{\n");
    if (config->bos_token >= 0)
        length += snprintf(text + length, sizeof text - (size_t)length,
                           "  \"bos_token_id\": %d,\n", (int)config->bos_token);
    if (config->eos_token >= 0)
        length += snprintf(text + length, sizeof text - (size_t)length,
                           "  \"eos_token_id\": %d,\n", (int)config->eos_token);
    length += snprintf(text + length, sizeof text - (size_t)length,
                       "  \"_from_model_config\": true\n}\n");
    return hy_new_directory_write(&init->target, GENERATION_CONFIG, text, (size_t)length, error);
}

static hymba_status write_files(struct init *init, const char *directory, const char *config_json,
                                size_t length, hymba_error *error)
{
    hymba_status status = hy_new_directory_begin(&init->memory, directory, file_names, N_FILES,
                                                 &init->target, error);
    if (status == HYMBA_OK)
        status = write_weights(init, error);
    if (status == HYMBA_OK)
        status = write_generation_config(init, error);
    if (status == HYMBA_OK)
        status = write_config(init, config_json, length, error);
    hy_new_directory_end(&init->target, status == HYMBA_OK);
    return status;
}

hymba_status hy_model_init(const char *directory, const char *config_json, size_t length,
                           const hymba_init_params *params, hymba_error *error)
{
    struct init init = {.seed = params->seed, .dtype = params->dtype};
    struct hy_config config;
    if (init.dtype == HYMBA_DTYPE_DEFAULT)
        init.dtype = HYMBA_DTYPE_BF16;
    if (!hy_dtype_is_float(init.dtype))
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "dtype: found %d, expected f32, f16 or bf16",
                       (int)init.dtype);
    hymba_status status = hy_memory_init(&init.memory, params->host, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_config_parse(&init.memory, config_json, length, "config.json", &config, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_plan_create(&init.memory, &config, &init.plan, error);
    if (status != HYMBA_OK)
        return status;
    if (init.plan.config.quantization.present)
        status = hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                         "config.json: has quantization_config, but the weights that are made are "
                         "not quantised");
    else
        status = write_files(&init, directory, config_json, length, error);
    hy_free(&init.memory, init.tensors);
    hy_free(&init.memory, init.names);
    hy_free(&init.memory, init.values);
    hy_free(&init.memory, init.encoded);
    hy_plan_free(&init.memory, &init.plan);
    return status;
}
