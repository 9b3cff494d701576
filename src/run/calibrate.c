#include "run/calibrate.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "run/decode.h"

/* Tokens of one sequence; as many as a step takes, so that products are large. */
enum { SEQUENCE_TOKENS = 512 };

static const uint64_t default_budget = UINT64_C(1) << 30;

enum hy_input hy_input_of(enum hy_slot slot)
{
    switch (slot) {
    case HY_SLOT_IN_PROJ:
        return HY_INPUT_IN;
    case HY_SLOT_OUT_PROJ:
        return HY_INPUT_OUT;
    case HY_SLOT_GATE:
    case HY_SLOT_UP:
        return HY_INPUT_FFN;
    case HY_SLOT_DOWN:
        return HY_INPUT_DOWN;
    default:
        return HY_N_INPUTS;
    }
}

static enum hy_input input_of_site(enum hy_probe_site site)
{
    switch (site) {
    case HY_PROBE_IN_PROJ:
        return HY_INPUT_IN;
    case HY_PROBE_OUT_PROJ:
        return HY_INPUT_OUT;
    case HY_PROBE_GATE_UP:
        return HY_INPUT_FFN;
    case HY_PROBE_DOWN:
        return HY_INPUT_DOWN;
    default:
        return HY_N_INPUTS;
    }
}

static const struct hy_plan *plan_of(const struct hy_calibration *calibration)
{
    return &calibration->context->model->plan;
}

/* Width of an input; 0: the layer does not have it. */
static size_t columns_of(const struct hy_plan *plan, uint32_t layer, enum hy_input input)
{
    static const enum hy_slot slots[HY_N_INPUTS] = {HY_SLOT_IN_PROJ, HY_SLOT_OUT_PROJ,
                                                    HY_SLOT_GATE, HY_SLOT_DOWN};
    struct hy_slot_info info;
    return hy_plan_slot(plan, slots[input], layer, &info) ? (size_t)info.shape[1] : 0;
}

/* ---------------------------------------------------------------- adding up */

static void add_squares(struct hy_input_sums *sums, const float *data, size_t rows, size_t stride)
{
    for (size_t row = 0; row < rows; row++) {
        const float *x = data + row * stride;
        for (size_t i = 0; i < sums->columns; i++)
            sums->values[i] += x[i] * x[i];
    }
}

/* X^T X by the device's own product: both factors are the transposed rows. */
static void add_gram(struct hy_calibration *calibration, struct hy_input_sums *sums,
                     const float *data, size_t rows, size_t stride)
{
    size_t n = sums->columns;
    float *transposed = calibration->transposed;
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < n; i++)
            transposed[i * rows + row] = data[row * stride + i];
    struct hy_matmul_args args = {
        .x = transposed,
        .x_stride = rows,
        .m = n,
        .n = n,
        .k = rows,
        .w = transposed,
        .dtype = HYMBA_DTYPE_F32,
        .w_stride = rows,
        .accumulate = true,
        .y = sums->values,
        .y_stride = n,
    };
    hy_backend_matmul(&calibration->context->backend, &args);
}

static void observe(void *user, enum hy_probe_site site, int layer, const float *data,
                    size_t rows, size_t width, size_t stride)
{
    struct hy_calibration *calibration = user;
    enum hy_input input = input_of_site(site);
    if (input == HY_N_INPUTS || (uint32_t)layer < calibration->first ||
        (uint32_t)layer - calibration->first >= calibration->count)
        return;
    struct hy_input_sums *sums = &calibration->sums[layer][input];
    if (width != sums->columns || rows > SEQUENCE_TOKENS)
        calibration->failed = "an input's size is not what the plan says";
    else if (calibration->gram)
        add_gram(calibration, sums, data, rows, stride);
    else
        add_squares(sums, data, rows, stride);
}

/* ------------------------------------------------------------------ the text */

/* One sequence behind BOS, which it may have of its own. */
static hymba_status run_sequence(struct hy_calibration *calibration, const int32_t *tokens,
                                 size_t n, hymba_error *error)
{
    int32_t bos = plan_of(calibration)->config.bos_token;
    struct hy_item item = {.session = calibration->session, .tokens = calibration->chunk};
    if (bos >= 0 && tokens[0] != bos)
        calibration->chunk[item.n_tokens++] = bos;
    n = hy_min_size(n, SEQUENCE_TOKENS - item.n_tokens);
    memcpy(calibration->chunk + item.n_tokens, tokens, n * sizeof *tokens);
    item.n_tokens += n;
    hy_session_reset(calibration->session);
    hymba_status status = hy_decode(calibration->context, &item, 1, error);
    if (status == HYMBA_OK && calibration->failed)
        status = hy_fail(error, HYMBA_ERROR_INTERNAL, "calibration: %s", calibration->failed);
    return status;
}

static hymba_status run_text(struct hy_calibration *calibration, hymba_error *error)
{
    hymba_context *context = calibration->context;
    hymba_status status = HYMBA_OK;
    context->probe = (struct hy_probe){observe, calibration};
    /* one token of room for BOS */
    for (size_t i = 0; i < calibration->n_tokens && status == HYMBA_OK;
         i += SEQUENCE_TOKENS - 1) {
        size_t n = hy_min_size(SEQUENCE_TOKENS - 1, calibration->n_tokens - i);
        status = run_sequence(calibration, calibration->tokens + i, n, error);
        if (status == HYMBA_OK)
            status = hy_progress(calibration->memory, HYMBA_PHASE_PREFILL, i + n,
                                 calibration->n_tokens, error);
    }
    context->probe = (struct hy_probe){0};
    return status;
}

/* -------------------------------------------------------------------- layers */

static void free_sums(struct hy_calibration *calibration)
{
    for (uint32_t i = 0; i < calibration->count; i++) {
        for (int input = 0; input < HY_N_INPUTS; input++) {
            struct hy_input_sums *sums = &calibration->sums[calibration->first + i][input];
            hy_free(calibration->memory, sums->values);
            memset(sums, 0, sizeof *sums);
        }
    }
    calibration->count = 0;
}

static uint64_t bytes_of_input(const struct hy_calibration *calibration, size_t columns)
{
    return (uint64_t)columns * (calibration->gram ? columns : 1) * sizeof(float);
}

static uint64_t bytes_of_layer(const struct hy_calibration *calibration, uint32_t layer)
{
    uint64_t bytes = 0; /* cannot overflow: columns are below 2^22 */
    for (int input = 0; input < HY_N_INPUTS; input++)
        bytes += bytes_of_input(calibration,
                                columns_of(plan_of(calibration), layer, (enum hy_input)input));
    return bytes;
}

static hymba_status make_sums(struct hy_calibration *calibration, uint32_t layer,
                              hymba_error *error)
{
    for (int input = 0; input < HY_N_INPUTS; input++) {
        struct hy_input_sums *sums = &calibration->sums[layer][input];
        sums->columns = columns_of(plan_of(calibration), layer, (enum hy_input)input);
        if (sums->columns == 0)
            continue;
        size_t bytes = (size_t)bytes_of_input(calibration, sums->columns);
        sums->values = hy_alloc_zero(calibration->memory, 1, bytes);
        if (!sums->values)
            return hy_no_memory(error, bytes, "what calibration collects");
    }
    return HYMBA_OK;
}

static hymba_status check_sums(const struct hy_calibration *calibration, uint32_t layer,
                               hymba_error *error)
{
    for (int input = 0; input < HY_N_INPUTS; input++) {
        const struct hy_input_sums *sums = &calibration->sums[layer][input];
        size_t step = calibration->gram ? sums->columns + 1 : 1;
        for (size_t i = 0; i < sums->columns; i++)
            if (!isfinite(sums->values[i * step]))
                return hy_fail(error, HYMBA_ERROR_FORMAT,
                               "calibration: in layer %" PRIu32
                               " the model computes numbers that are infinite or not a number",
                               layer);
    }
    return HYMBA_OK;
}

/* Collects for as many layers as the budget allows, from this one on. */
static hymba_status collect(struct hy_calibration *calibration, uint32_t layer,
                            hymba_error *error)
{
    uint32_t n_layers = plan_of(calibration)->config.n_layers;
    uint64_t bytes = 0;
    hymba_status status = HYMBA_OK;
    free_sums(calibration);
    calibration->first = layer;
    while (status == HYMBA_OK && layer < n_layers) {
        bytes += bytes_of_layer(calibration, layer);
        if (calibration->count > 0 && bytes > calibration->budget)
            break;
        calibration->count++;
        status = make_sums(calibration, layer++, error);
    }
    if (status == HYMBA_OK)
        status = run_text(calibration, error);
    for (uint32_t i = 0; status == HYMBA_OK && i < calibration->count; i++)
        status = check_sums(calibration, calibration->first + i, error);
    return status;
}

hymba_status hy_calibration_get(struct hy_calibration *calibration, uint32_t layer,
                                enum hy_input input, struct hy_input_sums **sums,
                                hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    if (layer < calibration->first || layer - calibration->first >= calibration->count)
        status = collect(calibration, layer, error);
    *sums = &calibration->sums[layer][input];
    return status;
}

/* ---------------------------------------------------------------- life cycle */

static size_t widest_input(const struct hy_plan *plan)
{
    size_t widest = 1;
    for (uint32_t layer = 0; layer < plan->config.n_layers; layer++)
        for (int input = 0; input < HY_N_INPUTS; input++)
            widest = hy_max_size(widest, columns_of(plan, layer, (enum hy_input)input));
    return widest;
}

static hymba_status open_session(struct hy_calibration *calibration, hymba_error *error)
{
    hymba_session_params params = {.struct_size = sizeof params};
    hymba_status status = hy_context_enter(calibration->context, error);
    if (status != HYMBA_OK)
        return status;
    /* entered until the end: nobody else knows the context */
    return hy_session_create(calibration->context, &params, &calibration->session, error);
}

hymba_status hy_calibration_create(struct hy_memory *memory, hymba_model *model,
                                   uint32_t n_threads, const int32_t *tokens, size_t n_tokens,
                                   bool gram, struct hy_calibration *calibration,
                                   hymba_error *error)
{
    hymba_context_params params = {
        .struct_size = sizeof params,
        .n_threads = n_threads,
        .max_step_tokens = SEQUENCE_TOKENS,
        .compute = HYMBA_COMPUTE_F32,
    };
    *calibration = (struct hy_calibration){.memory = memory,
                                           .tokens = tokens,
                                           .n_tokens = n_tokens,
                                           .gram = gram,
                                           .budget = default_budget};
    size_t floats = gram ? widest_input(&model->plan) * SEQUENCE_TOKENS : 1;
    calibration->sums =
        hy_alloc_zero(memory, model->plan.config.n_layers, sizeof *calibration->sums);
    calibration->transposed = hy_alloc_array(memory, floats, sizeof(float));
    calibration->chunk = hy_alloc_array(memory, SEQUENCE_TOKENS, sizeof *calibration->chunk);
    hymba_status status = HYMBA_OK;
    if (!calibration->sums || !calibration->transposed || !calibration->chunk)
        status = hy_no_memory(error, floats * sizeof(float), "calibration");
    if (status == HYMBA_OK)
        status = hy_context_create(model, &params, &calibration->context, error);
    if (status == HYMBA_OK)
        status = open_session(calibration, error);
    if (status != HYMBA_OK)
        hy_calibration_free(calibration);
    return status;
}

void hy_calibration_free(struct hy_calibration *calibration)
{
    struct hy_memory *memory = calibration->memory;
    if (!memory)
        return;
    if (calibration->sums)
        free_sums(calibration);
    hy_free(memory, calibration->sums);
    hy_free(memory, calibration->transposed);
    hy_free(memory, calibration->chunk);
    hy_session_release(calibration->session);
    hy_context_release(calibration->context);
    memset(calibration, 0, sizeof *calibration);
}
