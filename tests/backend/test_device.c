/*
 * A context on a device with memory of its own against one on the CPU, both with the generic
 * kernels: whatever is done to sessions, the same bits come out, in logits and in saved files. The
 * device is that of guarded_device.c: a stray access of the host ends the program.
 */
#define _GNU_SOURCE /* dlopen */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "golden.h"
#include "guarded_world.h"

enum { N_PAIRS = 4, MAX_TOKENS = 300, MAX_LENGTH = 700 };

static hymba_error error = {.struct_size = sizeof error};

/* ------------------------------------------------------------- in lockstep */

/* The same session on both. */
struct pair {
    hymba_session *sessions[2];
};

struct world {
    hymba_context *contexts[2]; /* the CPU, the device */
    hymba_session_params params;
    struct pair pairs[N_PAIRS];
    size_t vocabulary;
};

static void create_pair(struct world *world, struct pair *pair)
{
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_create(world->contexts[i], &world->params, &pair->sessions[i],
                                         &error),
                    HYMBA_OK, error);
}

static void release_pair(struct pair *pair)
{
    for (int i = 0; i < 2; i++)
        hymba_session_release(pair->sessions[i]);
    *pair = (struct pair){{NULL, NULL}};
}

static size_t length_of(const struct pair *pair)
{
    size_t length = (size_t)hymba_session_length(pair->sessions[0]);
    ck_assert_uint_eq(length, hymba_session_length(pair->sessions[1]));
    if (length > 0) /* without tokens there may be no list */
        ck_assert_mem_eq(hymba_session_tokens(pair->sessions[0]),
                         hymba_session_tokens(pair->sessions[1]), length * sizeof(int32_t));
    return length;
}

static void compare_logits(const struct world *world, const struct pair *pair)
{
    const float *logits[2];
    size_t rows[2];
    hymba_status first = hymba_session_logits(pair->sessions[0], &logits[0], &rows[0], &error);
    ck_assert_int_eq(hymba_session_logits(pair->sessions[1], &logits[1], &rows[1], &error), first);
    ck_assert_uint_eq(rows[0], rows[1]);
    if (first == HYMBA_OK)
        ck_assert_msg(memcmp(logits[0], logits[1],
                             rows[0] * world->vocabulary * sizeof(float)) == 0,
                      "the logits differ");
}

static void decode(struct world *world)
{
    static int32_t tokens[N_PAIRS][MAX_TOKENS];
    hymba_batch_item items[2][N_PAIRS];
    size_t n = 0;
    for (int p = 0; p < N_PAIRS; p++) {
        struct pair *pair = &world->pairs[p];
        size_t count = test_random() < 0.5 ? 1 : 1 + test_random_below(test_random_below(40) + 1);
        if (test_random() < 0.05)
            count = 1 + test_random_below(MAX_TOKENS);
        if (!pair->sessions[0] || test_random() < 0.3 || length_of(pair) + count > MAX_LENGTH)
            continue;
        for (size_t i = 0; i < count; i++)
            tokens[p][i] = (int32_t)test_random_below(world->vocabulary);
        int32_t logits = (int32_t)test_random_below(3);
        for (int i = 0; i < 2; i++)
            items[i][n] = (hymba_batch_item){
                pair->sessions[i], tokens[p], count, logits, 0, NULL, NULL};
        n++;
    }
    for (int i = 0; n > 0 && i < 2; i++)
        test_status(hymba_context_decode(world->contexts[i], items[i], sizeof items[i][0], n,
                                         &error),
                    HYMBA_OK, error);
    for (int p = 0; p < N_PAIRS; p++)
        if (world->pairs[p].sessions[0])
            compare_logits(world, &world->pairs[p]);
}

static void fork_pair(struct world *world, struct pair *from)
{
    struct pair *to = &world->pairs[test_random_below(N_PAIRS)];
    if (to == from)
        return;
    release_pair(to);
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_fork(from->sessions[i], &to->sessions[i], NULL, &error),
                    HYMBA_OK, error);
    compare_logits(world, to);
}

static void rewind_pair(struct world *world, struct pair *pair)
{
    size_t length = length_of(pair), back = test_random_below(test_random() < 0.6 ? 5 : length + 1);
    int32_t mode = test_random() < 0.5 ? HYMBA_REWIND_KEPT : HYMBA_REWIND_COMPUTE;
    hymba_status status[2];
    for (int i = 0; i < 2; i++)
        status[i] = hymba_session_rewind(pair->sessions[i], back > length ? 0 : length - back, mode,
                                         NULL, &error);
    ck_assert_int_eq(status[0], status[1]);
    compare_logits(world, pair);
}

struct saved {
    unsigned char *data;
    size_t size, capacity;
};

static int32_t take_piece(void *user, const void *data, size_t size)
{
    struct saved *saved = user;
    while (saved->size + size > saved->capacity) {
        saved->capacity = 2 * saved->capacity + 4096;
        saved->data = realloc(saved->data, saved->capacity);
    }
    memcpy(saved->data + saved->size, data, size);
    saved->size += size;
    return 0;
}

/* The files are the same to the byte; what was saved on one device goes on on the other. */
static void save_pair(struct world *world, struct pair *pair)
{
    struct saved saved[2] = {{0}, {0}};
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_save_to(pair->sessions[i], NULL, take_piece, &saved[i], NULL,
                                          &error),
                    HYMBA_OK, error);
    ck_assert_uint_eq(saved[0].size, saved[1].size);
    ck_assert_msg(memcmp(saved[0].data, saved[1].data, saved[0].size) == 0, "the files differ");
    release_pair(pair);
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_load_memory(world->contexts[i], saved[1 - i].data,
                                              saved[1 - i].size, NULL, &pair->sessions[i], NULL,
                                              NULL, &error),
                    HYMBA_OK, error);
    for (int i = 0; i < 2; i++)
        free(saved[i].data);
    compare_logits(world, pair);
}

static void change(struct world *world)
{
    struct pair *pair = &world->pairs[test_random_below(N_PAIRS)];
    if (!pair->sessions[0]) {
        create_pair(world, pair);
        return;
    }
    switch (test_random_below(8)) {
    case 0:
        fork_pair(world, pair);
        break;
    case 1:
        for (int i = 0; i < 2; i++)
            test_status(hymba_session_snapshot(pair->sessions[i], NULL, NULL, &error), HYMBA_OK,
                        error);
        break;
    case 2:
    case 3:
        rewind_pair(world, pair);
        break;
    case 4:
        save_pair(world, pair);
        break;
    case 5:
        for (int i = 0; i < 2; i++)
            test_status(hymba_session_reset(pair->sessions[i], &error), HYMBA_OK, error);
        break;
    case 6:
        release_pair(pair);
        break;
    default:
        break;
    }
}

static const struct variant {
    const char *model;
    hymba_context_params params;
    hymba_session_params session;
    hymba_dtype quantize; /* 0: no */
} variants[] = {
    {"goldens/a_all_features", {.rewind_tokens = 3}, {.snapshot_interval = 20}, 0},
    {"goldens/a_all_features",
     {.max_step_tokens = 5, .cache_type = HYMBA_DTYPE_BF16, .state_type = HYMBA_DTYPE_BF16},
     {.snapshot_interval = 64}, 0},
    {"goldens/a_all_features",
     {.compute = HYMBA_COMPUTE_BF16, .cache_type = HYMBA_DTYPE_INT8},
     {0}, 0},
    {"goldens/a_all_features", {.cache_type = HYMBA_DTYPE_FP8, .rewind_tokens = 2}, {0}, 0},
    {"goldens/b_no_meta", {.max_step_tokens = 7, .rewind_tokens = 8}, {0}, 0},
    {"goldens/c_all_sliding", {.state_type = HYMBA_DTYPE_F16, .rewind_tokens = 2}, {0}, 0},
    {"goldens/d_all_full",
     {.cache_type = HYMBA_DTYPE_F16},
     {.max_tokens = 40, .limit_policy = HYMBA_LIMIT_SLIDE}, 0},
    {"goldens/e_gqa1_odd_untied", {.max_step_tokens = 3}, {0}, 0},
    {"goldens/f_official_like", {.rewind_tokens = 4, .max_step_tokens = 16}, {0}, 0},
    {"variants/attention_only", {.rewind_tokens = 1}, {0}, 0},
    {"variants/mamba_only", {.rewind_tokens = 3, .state_type = HYMBA_DTYPE_BF16}, {0}, 0},
    {"variants/mixed_plan", {0}, {0}, 0},
    {"variants/no_rope", {.max_step_tokens = 9}, {0}, 0},
    {"variants/window_one", {.rewind_tokens = 2}, {0}, 0},
    {"goldens/f_official_like",
     {.compute = HYMBA_COMPUTE_F32, .rewind_tokens = 2},
     {0},
     HYMBA_DTYPE_INT8},
    {"goldens/f_official_like",
     {.compute = HYMBA_COMPUTE_F32, .cache_type = HYMBA_DTYPE_INT8},
     {0},
     HYMBA_DTYPE_INT4},
};
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

/* The golden's model in its place with quantised weights; DEFAULT: as it is. */
static void quantise(struct golden *golden, hymba_dtype type)
{
    hymba_model_params params = {.struct_size = sizeof params, .quantize = type};
    hymba_model *quantised;
    if (type == HYMBA_DTYPE_DEFAULT)
        return;
    test_status(hymba_model_open(test_data(golden->name), &params, &quantised, &error), HYMBA_OK,
                error);
    hymba_model_release(golden->model);
    golden->model = quantised;
}

START_TEST(sessions_are_the_same_to_the_bit)
{
    const struct variant *variant = &variants[_i];
    struct golden golden;
    golden_open(&golden, variant->model);
    quantise(&golden, variant->quantize);
    test_random_seed((unsigned)_i + 1);
    struct world world = {
        .contexts = {guarded_context(golden.model, variant->params, "cpu"),
                     guarded_context(golden.model, variant->params, "cuda:1")},
        .params = variant->session,
        .vocabulary = golden.model->plan.config.vocabulary_size,
    };
    world.params.struct_size = sizeof world.params;
    for (int i = 0; i < 16; i++) {
        decode(&world);
        change(&world);
    }
    ck_assert_int_gt(guarded->n_steps, 0);
    for (int i = 0; i < 2; i++) /* sessions may outlive their context's handle */
        hymba_context_release(world.contexts[i]);
    for (int p = 0; p < N_PAIRS; p++)
        release_pair(&world.pairs[p]);
    golden_close(&golden);
}
END_TEST

START_TEST(logits_are_the_reference_s)
{
    struct golden golden;
    golden_open(&golden, golden_names[_i]);
    size_t vocabulary = golden.model->plan.config.vocabulary_size;
    hymba_context_params params = {.compute = HYMBA_COMPUTE_F32, .max_step_tokens = 11};
    hymba_context *context = guarded_context(golden.model, params, "cuda");
    for (size_t p = 0; p < golden.n_prompts; p++) {
        const struct hy_tensor *expected = golden_find(&golden, golden.lengths[p], "logits");
        hymba_session *session;
        const float *logits;
        size_t n, rows;
        int32_t *ids = golden_ids(&golden, golden.lengths[p], "input_ids", &n);
        test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
        test_status(hymba_session_append(session, ids, n, HYMBA_LOGITS_ALL, &error), HYMBA_OK,
                    error);
        test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
        ck_assert_double_le(golden_difference(logits, expected->data, n * vocabulary), 2e-4);
        hymba_session_release(session);
        free(ids);
    }
    hymba_context_release(context);
    golden_close(&golden);
}
END_TEST

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
    quantise(&golden, _i ? HYMBA_DTYPE_INT4 : HYMBA_DTYPE_INT8);
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
    quantise(&golden, narrow_kinds[_i].quantize);
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

/* Three sessions' single tokens: what a step copies within the device, it copies in lists: keys and
 * values and, where sessions can go back, the states to go back to. Nothing else is copied, nor are
 * states converted, whatever their type is. */
START_TEST(a_step_copies_in_lists)
{
    enum { N = 3, STEPS = 20 };
    static const hymba_dtype types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_BF16, HYMBA_DTYPE_F16};
    uint32_t rewind_tokens = _i < 3 ? 0 : 2;
    static const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    hymba_session *sessions[N];
    hymba_batch_item items[N];
    struct golden golden;
    golden_open(&golden, "goldens/a_all_features");
    hymba_context *context = guarded_context(
        golden.model,
        (hymba_context_params){.rewind_tokens = rewind_tokens, .state_type = types[_i % 3]},
        "cuda");
    for (int i = 0; i < N; i++) {
        test_status(hymba_session_create(context, NULL, &sessions[i], &error), HYMBA_OK, error);
        test_status(hymba_session_append(sessions[i], ids, 2 * (size_t)i + 3, 0, &error), HYMBA_OK,
                    error);
        items[i] = (hymba_batch_item){sessions[i], ids, 1, HYMBA_LOGITS_LAST, 0, NULL, NULL};
    }
    ck_assert_int_gt(guarded->n_lists, 0);
    guarded->n_lists = guarded->n_copies = guarded->n_converts = 0;
    for (int step = 0; step < STEPS; step++)
        test_status(hymba_context_decode(context, items, sizeof items[0], N, &error), HYMBA_OK,
                    error);
    ck_assert_int_eq(guarded->n_lists, (rewind_tokens > 0 ? 2 : 1) * STEPS);
    ck_assert_int_eq(guarded->n_copies, 0);
    ck_assert_int_eq(guarded->n_converts, 0);
    for (int i = 0; i < N; i++)
        hymba_session_release(sessions[i]);
    hymba_context_release(context);
    golden_close(&golden);
}
END_TEST

/* ------------------------------------------------------------------- speed */

static void check_speed(hymba_context *context)
{
    double products = 0.0, bandwidth = 0.0;
    test_status(hymba_context_measure_products(context, &products, &error), HYMBA_OK, error);
    ck_assert_double_gt(products, 0.0);
    test_status(hymba_context_measure_bandwidth(context, 100001, &bandwidth, &error), HYMBA_OK,
                error);
    ck_assert_double_gt(bandwidth, 0.0);
}

/* In f32, in bf16, with weights that the device expands first, and in 8 bits. */
START_TEST(speed_is_measured_on_the_device)
{
    static const struct {
        hymba_dtype quantize;
        int32_t compute;
    } kinds[] = {
        {HYMBA_DTYPE_DEFAULT, HYMBA_COMPUTE_F32},
        {HYMBA_DTYPE_DEFAULT, HYMBA_COMPUTE_BF16},
        {HYMBA_DTYPE_INT8, HYMBA_COMPUTE_BF16},
        {HYMBA_DTYPE_DEFAULT, HYMBA_COMPUTE_INT8},
        {HYMBA_DTYPE_INT4, HYMBA_COMPUTE_FP8},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        hymba_model *model;
        hymba_model_params params = {.struct_size = sizeof params, .quantize = kinds[i].quantize};
        test_status(hymba_model_open(test_data("goldens/f_official_like"), &params, &model, &error),
                    HYMBA_OK, error);
        hymba_context *context =
            guarded_context(model, (hymba_context_params){.compute = kinds[i].compute}, "cuda");
        check_speed(context);
        hymba_context_release(context);
        hymba_model_release(model);
    }
}
END_TEST

START_TEST(speed_without_memory_or_without_a_device)
{
    struct golden golden;
    double rate;
    golden_open(&golden, "goldens/a_all_features");
    hymba_context *cpu = guarded_context(golden.model, (hymba_context_params){0}, "cpu");
    hymba_context *context = guarded_context(golden.model, (hymba_context_params){0}, "cuda");
    test_status(hymba_context_measure_bandwidth(cpu, 1000, &rate, &error), HYMBA_ERROR_UNSUPPORTED,
                error);
    test_status(hymba_context_measure_bandwidth(context, 1, &rate, &error), HYMBA_ERROR_ARGUMENT,
                error);
    guarded->fail_allocation = guarded->n_allocations;
    test_status(hymba_context_measure_bandwidth(context, 1000, &rate, &error), HYMBA_ERROR_MEMORY,
                error);
    guarded->fail_allocation = guarded->n_allocations;
    test_status(hymba_context_measure_products(context, &rate, &error), HYMBA_ERROR_MEMORY, error);
    guarded->fail_allocation = guarded->n_allocations + 1; /* the second square is too large */
    test_status(hymba_context_measure_products(context, &rate, &error), HYMBA_OK, error);
    ck_assert_double_gt(rate, 0.0);
    guarded->fail_allocation = -1;
    check_speed(context);
    guarded->fail_finish = guarded->n_finishes + 1;
    test_status(hymba_context_measure_products(context, &rate, &error), HYMBA_ERROR_DEVICE, error);
    test_status(hymba_context_measure_bandwidth(context, 1000, &rate, &error), HYMBA_ERROR_DEVICE,
                error);
    hymba_context_release(context);
    hymba_context_release(cpu);
    golden_close(&golden);
}
END_TEST

/* ---------------------------------------------------------------- failures */

static const int32_t prompt[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19};
enum { N_PROMPT = sizeof prompt / sizeof prompt[0] };

/* The device is opened twice: for the context, and for the weights. */
START_TEST(without_memory_for_opening_there_is_no_context)
{
    struct golden golden;
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda"};
    golden_open(&golden, "goldens/a_all_features");
    for (int i = 0; i < 2; i++) {
        hymba_context *context;
        guarded->fail_open = guarded->n_opens + i;
        test_status(hymba_context_create(golden.model, &params, &context, &error),
                    HYMBA_ERROR_MEMORY, error);
        ck_assert_ptr_null(context);
        ck_assert_str_eq(error.message, "no memory for a device");
        ck_assert_int_eq(guarded->n_open, 0);
    }
    guarded->fail_open = -1;
    hymba_context_release(guarded_context(golden.model, (hymba_context_params){0}, "cuda"));
    golden_close(&golden);
}
END_TEST

static void touch_file(const char *name, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", test_directory(), name);
    test_write_file(path, "not a library", 13);
}

START_TEST(what_cannot_be_opened_is_told_in_one_sentence)
{
    struct golden golden;
    Dl_info library;
    char text[4200], absent[4200];
    golden_open(&golden, "goldens/a_all_features");
    touch_file("text.so", text, sizeof text);
    snprintf(absent, sizeof absent, "%s/absent.so", test_directory());
    ck_assert_int_ne(dladdr(dlsym(RTLD_DEFAULT, "json_object"), &library), 0);
    enum { OWN = HY_DEVICE_INTERFACE };
    const struct {
        const char *device, *variable;
        uint32_t interface_version;
        int n_devices;
        const char *sentence;
    } cases[] = {
        {"tpu", NULL, OWN, 2, "\"tpu\""},
        {"cuda:", NULL, OWN, 2, "\"cuda:\""},
        {"cuda:1x", NULL, OWN, 2, "\"cuda:1x\""},
        {"cuda:99999999999", NULL, OWN, 2, "cuda:N"},
        {"cuda:2", NULL, OWN, 2, "there are 2"},
        {"cuda", NULL, OWN, 0, "there are 0"},
        {"cuda", NULL, 0, 2, "does not have interface version"},
        {"cuda", NULL, 7, 2, "interface version 7"},
        {"cuda", "libhymba-cuda.so", OWN, 2, "absolute path"},
        {"cuda", "./libhymba-cuda.so", OWN, 2, "absolute path"},
        {"cuda", absent, OWN, 2, "absent.so"},
        {"cuda", text, OWN, 2, "cannot be opened"},
        {"cuda", library.dli_fname, OWN, 2, HY_DEVICE_ENTRY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hymba_context_params params = {.struct_size = sizeof params, .device = cases[i].device};
        hymba_context *context;
        guarded->interface_version = cases[i].interface_version;
        guarded->n_devices = cases[i].n_devices;
        if (cases[i].variable)
            setenv("HYMBA_CUDA_PLUGIN", cases[i].variable, 1);
        test_status(hymba_context_create(golden.model, &params, &context, &error),
                    HYMBA_ERROR_DEVICE, error);
        ck_assert_ptr_null(context);
        ck_assert_msg(strstr(error.message, cases[i].sentence) != NULL, "case %zu: %s", i,
                      error.message);
        ck_assert_ptr_null(strchr(error.message, '\n'));
        unsetenv("HYMBA_CUDA_PLUGIN");
    }
    guarded->interface_version = HY_DEVICE_INTERFACE;
    guarded->n_devices = 2;
    setenv("HYMBA_CUDA_PLUGIN", guarded_path, 1);
    hymba_context_release(guarded_context(golden.model, (hymba_context_params){0}, "cuda"));
    unsetenv("HYMBA_CUDA_PLUGIN");
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

/* What a short life of a context does, up to the first failure. */
struct life {
    hymba_context *context;
    hymba_session *session, *fork;
    struct saved saved;
    int stage;
};

static hymba_status live(hymba_model *model, struct life *life)
{
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda",
                                   .rewind_tokens = 2, .max_step_tokens = 6,
                                   .cache_type = HYMBA_DTYPE_F16};
    hymba_session_params session = {.struct_size = sizeof session, .snapshot_interval = 8};
    hymba_status status = hymba_context_create(model, &params, &life->context, &error);
    if (status == HYMBA_OK)
        status = hymba_session_create(life->context, &session, &life->session, &error);
    if (status == HYMBA_OK)
        status = hymba_session_append(life->session, prompt, 5, HYMBA_LOGITS_LAST, &error);
    if (status == HYMBA_OK)
        life->stage = 1;
    if (status == HYMBA_OK)
        status = hymba_session_append(life->session, prompt, 1, HYMBA_LOGITS_LAST, &error);
    if (status == HYMBA_OK)
        life->stage = 2;
    if (status == HYMBA_OK)
        status = hymba_session_append(life->session, prompt, N_PROMPT, HYMBA_LOGITS_LAST, &error);
    if (status == HYMBA_OK)
        life->stage = 3;
    if (status == HYMBA_OK)
        status = hymba_session_fork(life->session, &life->fork, NULL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_append(life->fork, prompt, 3, HYMBA_LOGITS_ALL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_rewind(life->fork, 11, HYMBA_REWIND_COMPUTE, NULL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_save_to(life->fork, NULL, take_piece, &life->saved, NULL, &error);
    return status;
}

/* The life went as far as its stage; on a sound device the session can go on, as on the CPU. */
static void end_life(hymba_model *model, struct life *life, bool sound)
{
    static const size_t lengths[] = {0, 5, 6, 6 + N_PROMPT};
    hymba_session_release(life->fork);
    if (life->session) {
        ck_assert_uint_eq(hymba_session_length(life->session), lengths[life->stage]);
        ck_assert_int_eq(hymba_session_append(life->session, prompt, 4, HYMBA_LOGITS_LAST, &error),
                         sound ? HYMBA_OK : HYMBA_ERROR_DEVICE);
    }
    if (life->session && sound) {
        hymba_context_params params = {.cache_type = HYMBA_DTYPE_F16};
        hymba_context *cpu = guarded_context(model, params, "cpu");
        hymba_session *session;
        const float *logits[2];
        test_status(hymba_session_create(cpu, NULL, &session, &error), HYMBA_OK, error);
        if (life->stage > 0)
            test_status(hymba_session_append(session, prompt, 5, 0, &error), HYMBA_OK, error);
        if (life->stage > 1)
            test_status(hymba_session_append(session, prompt, 1, 0, &error), HYMBA_OK, error);
        if (life->stage > 2)
            test_status(hymba_session_append(session, prompt, N_PROMPT, 0, &error), HYMBA_OK,
                        error);
        test_status(hymba_session_append(session, prompt, 4, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                    error);
        test_status(hymba_session_logits(session, &logits[0], NULL, &error), HYMBA_OK, error);
        test_status(hymba_session_logits(life->session, &logits[1], NULL, &error), HYMBA_OK,
                    error);
        ck_assert_mem_eq(logits[0], logits[1],
                         model->plan.config.vocabulary_size * sizeof(float));
        hymba_session_release(session);
        hymba_context_release(cpu);
    }
    hymba_session_release(life->session);
    hymba_context_release(life->context);
    free(life->saved.data);
}

/* Lets each allocation or finish of a life fail in turn, and looks at what is left. */
static void fail_each(hymba_model *model, long *number, const _Atomic long *count,
                      hymba_status status, bool sound)
{
    hymba_context *bystander = guarded_context(model, (hymba_context_params){0}, "cuda:1");
    hymba_session *other;
    test_status(hymba_session_create(bystander, NULL, &other, &error), HYMBA_OK, error);
    long failures = 0;
    for (bool failed = true; failed; failures++) {
        struct life life = {.stage = 0};
        *number = *count + failures;
        hymba_status found = live(model, &life);
        failed = *count > *number;
        *number = -1;
        ck_assert_msg(found == (failed ? status : HYMBA_OK), "failure %ld: %s", failures,
                      error.message);
        end_life(model, &life, sound || !failed);
        test_status(hymba_session_append(other, prompt, 1, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                    error);
    }
    ck_assert_int_gt(failures, 8);
    hymba_session_release(other);
    hymba_context_release(bystander);
}

START_TEST(a_failure_leaves_sessions_in_their_last_good_state)
{
    struct golden golden;
    golden_open(&golden, "goldens/a_all_features");
    switch (_i) {
    case 0:
        fail_each(golden.model, &guarded->fail_allocation, &guarded->n_allocations,
                  HYMBA_ERROR_MEMORY, true);
        break;
    case 1: /* a workspace that could not grow */
        guarded->finish_status = HYMBA_ERROR_MEMORY;
        fail_each(golden.model, &guarded->fail_finish, &guarded->n_finishes, HYMBA_ERROR_MEMORY,
                  true);
        break;
    default: /* a lost device */
        fail_each(golden.model, &guarded->fail_finish, &guarded->n_finishes, HYMBA_ERROR_DEVICE,
                  false);
        break;
    }
    golden_close(&golden);
}
END_TEST

/* Kernels of a prompt in several steps, each waited for. */
static hymba_status measure_kernels(hymba_context *context, hymba_session *session, double *seconds)
{
    hymba_kernel_time times[64];
    size_t n;
    test_status(hymba_context_measure_kernels(context, 1, &error), HYMBA_OK, error);
    hymba_status status =
        hymba_session_append(session, prompt, N_PROMPT, HYMBA_LOGITS_LAST, &error);
    if (status != HYMBA_OK)
        return status;
    test_status(hymba_context_kernel_times(context, times, sizeof times[0], 64, &n, &error),
                HYMBA_OK, error);
    *seconds = times[0].seconds;
    for (size_t i = 1; i < n; i++)
        *seconds -= times[i].seconds;
    return status;
}

/* Wherever the device fails while kernels are measured, the call fails as it would without; where
 * it goes on, so do sessions, as if nothing had been. */
START_TEST(kernels_are_measured_on_the_device)
{
    struct golden golden;
    hymba_session *sessions[2];
    hymba_context *contexts[2];
    const float *logits[2];
    double rest;
    long n_failures = 0;
    hymba_context_params params = {.max_step_tokens = 6};
    golden_open(&golden, "goldens/a_all_features");
    for (int i = 0; i < 2; i++) {
        contexts[i] = guarded_context(golden.model, params, i ? "cuda" : "cpu");
        test_status(hymba_session_create(contexts[i], NULL, &sessions[i], &error), HYMBA_OK, error);
    }
    test_status(measure_kernels(contexts[0], sessions[0], &rest), HYMBA_OK, error);
    guarded->finish_status = HYMBA_ERROR_MEMORY;
    for (bool failed = true; failed; n_failures += failed) {
        guarded->fail_finish = guarded->n_finishes + n_failures * 3;
        hymba_status status = measure_kernels(contexts[1], sessions[1], &rest);
        failed = guarded->n_finishes > guarded->fail_finish;
        test_status(status, failed ? HYMBA_ERROR_MEMORY : HYMBA_OK, error);
        ck_assert_uint_eq(hymba_session_length(sessions[1]), failed ? 0 : N_PROMPT);
    }
    ck_assert_int_gt(n_failures, 10);
    ck_assert_double_gt(rest, 0.0);
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_logits(sessions[i], &logits[i], NULL, &error), HYMBA_OK, error);
    ck_assert_mem_eq(logits[0], logits[1],
                     golden.model->plan.config.vocabulary_size * sizeof(float));
    guarded->finish_status = HYMBA_ERROR_DEVICE;
    guarded->fail_finish = guarded->n_finishes + 20;
    test_status(measure_kernels(contexts[1], sessions[1], &rest), HYMBA_ERROR_DEVICE, error);
    ck_assert_uint_eq(hymba_session_length(sessions[1]), N_PROMPT);
    test_status(hymba_context_measure_kernels(contexts[1], 1, &error), HYMBA_ERROR_DEVICE, error);
    for (int i = 0; i < 2; i++) {
        hymba_session_release(sessions[i]);
        hymba_context_release(contexts[i]);
    }
    golden_close(&golden);
}
END_TEST

static int32_t cancel_at_first(void *user, int32_t phase, uint64_t done, uint64_t total)
{
    hymba_context **context = user;
    (void)done;
    (void)total;
    if (phase == HYMBA_PHASE_PREFILL && *context)
        hymba_context_cancel(*context);
    *context = NULL;
    return 0;
}

/* A call is cancelled in its second step while the device has a failure to tell, and takes no work
 * before that: even so the first step is undone. */
START_TEST(a_call_is_undone_behind_an_untold_failure)
{
    struct golden golden;
    hymba_session *sessions[2];
    hymba_context *contexts[2], *cancelled = NULL;
    const float *logits[2];
    hymba_host host = {.struct_size = sizeof host, .user = &cancelled,
                       .progress = cancel_at_first};
    hymba_context_params params = {.max_step_tokens = 6, .host = &host};
    golden_open(&golden, "goldens/a_all_features");
    for (int i = 0; i < 2; i++) {
        contexts[i] = guarded_context(golden.model, params, i ? "cuda" : "cpu");
        test_status(hymba_session_create(contexts[i], NULL, &sessions[i], &error), HYMBA_OK, error);
        test_status(hymba_session_append(sessions[i], prompt, N_PROMPT, 0, &error), HYMBA_OK,
                    error);
    }
    cancelled = contexts[1];
    guarded->fail_embedding = guarded->n_embeddings + 1;
    test_status(hymba_session_append(sessions[1], prompt, N_PROMPT, 0, &error),
                HYMBA_ERROR_CANCELLED, error);
    ck_assert_int_gt(guarded->n_embeddings, guarded->fail_embedding);
    for (int i = 0; i < 2; i++) {
        test_status(hymba_session_append(sessions[i], prompt, 4, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_logits(sessions[i], &logits[i], NULL, &error), HYMBA_OK, error);
    }
    ck_assert_mem_eq(logits[0], logits[1],
                     golden.model->plan.config.vocabulary_size * sizeof(float));
    for (int i = 0; i < 2; i++) {
        hymba_session_release(sessions[i]);
        hymba_context_release(contexts[i]);
    }
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device");
    TCase *sessions = tcase_create("sessions"), *goldens = tcase_create("goldens");
    TCase *failures = tcase_create("failures");
    TCase *cases[] = {sessions, goldens, failures};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tcase_set_timeout(cases[i], 600);
        tcase_add_checked_fixture(cases[i], guarded_begin, guarded_end);
        suite_add_tcase(suite, cases[i]);
    }
    tcase_add_loop_test(sessions, sessions_are_the_same_to_the_bit, 0, N_VARIANTS);
    tcase_add_loop_test(sessions, a_step_copies_in_lists, 0, 6);
    tcase_add_loop_test(goldens, logits_are_the_reference_s, 0, golden_count());
    tcase_add_test(failures, a_device_is_described_and_its_weights_are_shared);
    tcase_add_test(failures, speed_is_measured_on_the_device);
    tcase_add_test(failures, speed_without_memory_or_without_a_device);
    tcase_add_test(failures, without_memory_for_opening_there_is_no_context);
    tcase_add_loop_test(failures, quantised_weights_are_taken_along, 0, 2);
    tcase_add_loop_test(failures, projections_of_8_bits, 0, 4);
    tcase_add_test(failures, what_cannot_be_opened_is_told_in_one_sentence);
    tcase_add_test(failures, arithmetic_that_there_is_not);
    tcase_add_test(failures, a_call_is_undone_behind_an_untold_failure);
    tcase_add_test(failures, kernels_are_measured_on_the_device);
    tcase_add_loop_test(failures, a_failure_leaves_sessions_in_their_last_good_state, 0, 3);
    return test_main(suite);
}
