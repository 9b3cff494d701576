/*
 * Models on several ranks, each a context on a device of its own and a thread: the harness plays
 * the devices. All ranks have the same bits, which hang on no batch and on no graph, and differ
 * from those of a single device by rounding.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness_plugin.h"
#include "run/context.h"
#include "support.h"

enum {
    MOST_RANKS = 3,
    SESSIONS = 3,
    VOCABULARY = 50,
    STEPS = 9, /* of decoding; each number of rows comes more than twice */
    MOST_ROWS = 64,
    PATIENT = 60000 /* milliseconds that ranks wait for each other */
};

#define FIRST_FIELDS                                                                              \
    "{\"model_type\": \"hymba\", \"vocab_size\": 50, \"hidden_size\": 160,\n"                     \
    "\"num_attention_heads\": 10, \"num_key_value_heads\": 5, \"num_memory_tokens\": 3,\n"        \
    "\"rms_norm_eps\": 1e-06, \"tie_word_embeddings\": true, \"mamba_d_state\": 4,\n"             \
    "\"mamba_d_conv\": 4, \"mamba_dt_rank\": 6, \"max_position_embeddings\": 640,\n"              \
    "\"rope\": true, \"rope_theta\": 10000.0, \"bos_token_id\": 1, "

static const struct {
    const char *name, *config;
} models[] = {
    {"mixed", /* full and windowed layers, shared keys, both fusions, one stream alone */
     FIRST_FIELDS "\"sliding_window\": 5, \"intermediate_size\": 224, \"num_hidden_layers\": 6,\n"
                  "\"global_attn_idx\": [0, 4], \"kv_reuse_group\": [[1, 2]],\n"
                  "\"layer_plan\": [{}, {\"fusion\": \"concat\"}, {},\n"
                  "{\"mixer\": \"mamba\", \"ffn\": \"none\"}, {\"fusion\": \"concat\"},\n"
                  "{\"mixer\": \"attention\"}]}"},
    {"channels alone",
     FIRST_FIELDS "\"sliding_window\": 5, \"intermediate_size\": 192, \"num_hidden_layers\": 2,\n"
                  "\"global_attn_idx\": [], \"kv_reuse_group\": null,\n"
                  "\"layer_plan\": {\"mixer\": \"mamba\"}}"},
    {"heads alone",
     FIRST_FIELDS "\"sliding_window\": 5, \"intermediate_size\": 192, \"num_hidden_layers\": 2,\n"
                  "\"global_attn_idx\": [0], \"kv_reuse_group\": null,\n"
                  "\"layer_plan\": {\"mixer\": \"attention\"}}"},
    {"one wide layer", /* whose parts are copied in several pieces; too slow to be run */
     FIRST_FIELDS "\"sliding_window\": 5, \"intermediate_size\": 8192, \"num_hidden_layers\": 1,\n"
                  "\"global_attn_idx\": [0], \"kv_reuse_group\": null}"},
};
enum { MIXED = 0, N_RUN = 3, WIDE = 3 };

static hymba_error error = {.struct_size = sizeof error};

static void open_devices(const char *streams)
{
    ck_assert_int_eq(setenv("HYMBA_HARNESS_DEVICES", "3", 1), 0);
    ck_assert_int_eq(setenv("HYMBA_HARNESS_STREAMS", streams, 1), 0);
    harness_plugin_open();
}

/* Gathers as late as may be, or as early. */
static void setup(void)
{
    open_devices("late");
}

static void set_up_early(void)
{
    open_devices("early");
}

/* Where a step takes long, quantised weights are left to weights_on_devices. */
static bool is_slow(void)
{
#ifdef __SANITIZE_ADDRESS__
    return true;
#else
    return test_looks_for_races() || test_is_emulated();
#endif
}

/* Of random weights; of int8 and int4 quantised while it is opened. */
static hymba_model *open_model(size_t number, hymba_dtype dtype)
{
    hymba_init_params init;
    hymba_model_params params;
    hymba_model *model;
    char path[300];
    bool quantised = dtype == HYMBA_DTYPE_INT8 || dtype == HYMBA_DTYPE_INT4;
    snprintf(path, sizeof path, "%s/model-%zu-%d", test_directory(), number, (int)dtype);
    hymba_init_params_init(&init, sizeof init);
    init.dtype = quantised ? HYMBA_DTYPE_F32 : dtype;
    hymba_model_init(path, models[number].config, HYMBA_NUL_TERMINATED, &init, NULL);
    hymba_model_params_init(&params, sizeof params);
    params.quantize = quantised ? dtype : HYMBA_DTYPE_DEFAULT;
    test_status(hymba_model_open(path, &params, &model, &error), HYMBA_OK, error);
    return model;
}

/* -------------------------------------------------------------------- a run */

struct rank;

/* What all ranks do. */
struct play {
    hymba_model *model;
    hymba_context_params params;
    uint32_t world_size;
    bool single_ops; /* no graphs */
    hymba_status (*act)(struct rank *rank);
    unsigned char id[HYMBA_UNIQUE_ID_BYTES];
};

struct rank {
    const struct play *play;
    uint32_t index;
    hymba_context *context;
    hymba_session *sessions[SESSIONS];
    hymba_status status;
    hymba_error error;
    float logits[MOST_ROWS][VOCABULARY]; /* of all calls, in order */
    size_t n_rows;
};

static hymba_status open_rank(struct rank *rank)
{
    const struct play *play = rank->play;
    hymba_context_params params = play->params;
    hymba_ranks ranks = {
        .struct_size = sizeof ranks,
        .rank = rank->index,
        .world_size = play->world_size,
        .local_rank = rank->index,
        .timeout_ms = PATIENT,
        .unique_id = play->id,
    };
    params.struct_size = sizeof params;
    params.device = "cuda";
    params.n_threads = 1;
    params.ranks = play->world_size > 1 ? &ranks : NULL;
    hymba_status status =
        hymba_context_create(play->model, &params, &rank->context, &rank->error);
    if (status == HYMBA_OK)
        rank->context->backend.plugin->single_ops = play->single_ops;
    for (size_t i = 0; status == HYMBA_OK && i < SESSIONS; i++)
        status = hymba_session_create(rank->context, NULL, &rank->sessions[i], &rank->error);
    return status;
}

static hymba_status keep_logits(struct rank *rank, hymba_session *session)
{
    const float *logits;
    size_t n;
    hymba_status status = hymba_session_logits(session, &logits, &n, &rank->error);
    if (status != HYMBA_OK || rank->n_rows + n > MOST_ROWS)
        return status != HYMBA_OK ? status : HYMBA_ERROR_LIMIT;
    memcpy(rank->logits[rank->n_rows], logits, n * sizeof rank->logits[0]);
    rank->n_rows += n;
    return HYMBA_OK;
}

/* Members: bit i stands for session i, which gets n tokens, and i more of a prompt. */
static hymba_status decode(struct rank *rank, unsigned members, size_t n, int32_t seed)
{
    int32_t tokens[SESSIONS][32];
    hymba_batch_item items[SESSIONS];
    size_t n_items = 0;
    memset(items, 0, sizeof items);
    for (size_t i = 0; i < SESSIONS; i++) {
        if (!(members >> i & 1))
            continue;
        hymba_batch_item *item = &items[n_items++];
        item->session = rank->sessions[i];
        item->tokens = tokens[i];
        item->n_tokens = n == 1 ? 1 : n + i;
        item->logits = n > 1 && i == 1 ? HYMBA_LOGITS_ALL : HYMBA_LOGITS_LAST;
        for (size_t t = 0; t < item->n_tokens; t++)
            tokens[i][t] = (int32_t)(((size_t)seed * 31 + 7 * i + 3 * t) % VOCABULARY);
    }
    hymba_status status =
        hymba_context_decode(rank->context, items, sizeof *items, n_items, &rank->error);
    for (size_t i = 0; status == HYMBA_OK && i < n_items; i++)
        status = keep_logits(rank, items[i].session);
    return status;
}

/* Prompts of different lengths, then steps of all, of some and of one. */
static hymba_status generate(struct rank *rank)
{
    static const unsigned members[STEPS] = {7, 7, 7, 5, 2, 7, 2, 3, 2};
    hymba_status status = decode(rank, 7, 9, 1);
    for (size_t step = 0; status == HYMBA_OK && step < STEPS; step++)
        status = decode(rank, members[step], 1, (int32_t)step + 2);
    return status == HYMBA_OK ? decode(rank, 6, 3, 99) : status;
}

/* The first session's part of that, alone. */
static hymba_status generate_alone(struct rank *rank)
{
    static const int32_t seeds[] = {2, 3, 4, 5, 7, 9};
    hymba_status status = decode(rank, 1, 9, 1);
    for (size_t i = 0; status == HYMBA_OK && i < sizeof seeds / sizeof *seeds; i++)
        status = decode(rank, 1, 1, seeds[i]);
    return status;
}

static void *run_rank(void *argument)
{
    struct rank *rank = argument;
    rank->status = open_rank(rank);
    if (rank->status == HYMBA_OK)
        rank->status = rank->play->act(rank);
    for (size_t i = 0; i < SESSIONS; i++)
        hymba_session_release(rank->sessions[i]);
    hymba_context_release(rank->context);
    return NULL;
}

/* All ranks, a thread each; those of a world have the same bits. */
static void run(struct play *play, struct rank *ranks)
{
    pthread_t threads[MOST_RANKS];
    if (play->world_size > 1)
        test_status(hymba_unique_id(play->id, &error), HYMBA_OK, error);
    for (uint32_t i = 0; i < play->world_size; i++) {
        memset(&ranks[i], 0, sizeof ranks[i]);
        ranks[i].play = play;
        ranks[i].index = i;
        ranks[i].error.struct_size = sizeof ranks[i].error;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, run_rank, &ranks[i]), 0);
    }
    for (uint32_t i = 0; i < play->world_size; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < play->world_size; i++) {
        test_status(ranks[i].status, HYMBA_OK, ranks[i].error);
        ck_assert_uint_eq(ranks[i].n_rows, ranks[0].n_rows);
        ck_assert_msg(memcmp(ranks[i].logits, ranks[0].logits, sizeof ranks[i].logits) == 0,
                      "rank %u of %u", (unsigned)i, (unsigned)play->world_size);
    }
}

static struct rank single[MOST_RANKS], exact[MOST_RANKS], several[MOST_RANKS];

/* Of the difference of two runs' logits: the greatest magnitude, and the mean of squares. */
struct difference {
    double greatest, square;
};

static struct difference compare(const struct rank *a, const struct rank *b)
{
    struct difference difference = {0, 0};
    size_t n = a->n_rows * VOCABULARY;
    ck_assert_uint_eq(a->n_rows, b->n_rows);
    ck_assert_uint_gt(n, 0);
    for (size_t i = 0; i < n; i++) {
        double x = (double)a->logits[0][i] - (double)b->logits[0][i];
        difference.greatest = fmax(difference.greatest, fabs(x));
        difference.square += x * x / (double)n;
    }
    return difference;
}

static double deviation(const struct rank *rank)
{
    double square = 0;
    for (size_t i = 0; i < rank->n_rows * VOCABULARY; i++)
        square += (double)rank->logits[0][i] * (double)rank->logits[0][i];
    return sqrt(square / (double)(rank->n_rows * VOCABULARY));
}

/* ---------------------------------------------------------------- the numbers */

/*
 * In f32 ranks add in another order than one device does. Either way is within 7e-5 of the exact
 * logits where these deviate by 3 (docs/semantics.md, section 12), so within twice that of the
 * other.
 */
static void check_f32(size_t number, hymba_dtype dtype, uint32_t first_size)
{
    struct play play = {.model = open_model(number, dtype), .world_size = 1, .act = generate,
                        .params = {.compute = HYMBA_COMPUTE_F32}};
    run(&play, single);
    double bound = 2 * 7e-5 / 3 * deviation(single);
    for (play.world_size = first_size; play.world_size <= MOST_RANKS; play.world_size++) {
        run(&play, several);
        double found = compare(several, single).greatest;
        ck_assert_msg(found <= bound, "%s, %u ranks: logits differ by %g, expected at most %g",
                      models[number].name, (unsigned)play.world_size, found, bound);
        ck_assert_msg(found > 0, "%s: not even rounding differs", models[number].name);
    }
    hymba_model_release(play.model);
}

START_TEST(f32)
{
    check_f32((size_t)_i, HYMBA_DTYPE_F32, 2);
}
END_TEST

START_TEST(f32_of_quantised_weights)
{
    if (!is_slow())
        check_f32(MIXED, _i ? HYMBA_DTYPE_INT4 : HYMBA_DTYPE_INT8, MOST_RANKS);
}
END_TEST

/* What is rounded on its way: weights of a type, computed with in another. */
static const struct {
    hymba_dtype weights;
    int32_t compute;
} roundings[] = {
    {HYMBA_DTYPE_BF16, HYMBA_COMPUTE_BF16},
    {HYMBA_DTYPE_INT4, HYMBA_COMPUTE_BF16},
    {HYMBA_DTYPE_BF16, HYMBA_COMPUTE_INT8},
};
enum { N_ROUNDINGS = sizeof roundings / sizeof roundings[0] };

/* Rounding makes other numbers of those that ranks add in another order; but what comes out is as
 * far from f32's logits as one device's is, give or take a tenth. In 8 bits it is nearer: a row's
 * scale is that of a rank's part of it. */
START_TEST(rounded)
{
    if (_i && is_slow())
        return;
    struct play play = {.model = open_model(MIXED, roundings[_i].weights), .world_size = 1,
                        .act = generate, .params = {.compute = HYMBA_COMPUTE_F32}};
    run(&play, exact);
    play.params = (hymba_context_params){.compute = roundings[_i].compute,
                                         .cache_type = HYMBA_DTYPE_BF16,
                                         .state_type = HYMBA_DTYPE_BF16};
    run(&play, single);
    double error_of_one = sqrt(compare(single, exact).square);
    ck_assert_double_lt(error_of_one, 0.1 * deviation(exact));
    for (play.world_size = _i ? MOST_RANKS : 2; play.world_size <= MOST_RANKS;
         play.world_size++) {
        run(&play, several);
        double found = sqrt(compare(several, exact).square);
        ck_assert_msg(found <= 1.1 * error_of_one, "%u ranks are %g from f32, one device is %g",
                      (unsigned)play.world_size, found, error_of_one);
    }
    hymba_model_release(play.model);
}
END_TEST

/* -------------------------------------------------------------------- the bits */

/* Steps as graphs are steps op by op. */
START_TEST(graphs_change_no_bit)
{
    struct play play = {.model = open_model(MIXED, HYMBA_DTYPE_BF16), .world_size = 2,
                        .act = generate, .params = {.compute = HYMBA_COMPUTE_BF16}};
    run(&play, several);
    play.single_ops = true;
    run(&play, single);
    ck_assert_double_eq(compare(several, single).greatest, 0);
    hymba_model_release(play.model);
}
END_TEST

/* The rows of the first session in generate(), in which its prompt's last row comes first. */
START_TEST(neighbours_change_no_bit)
{
    static const size_t rows[] = {0, 12, 15, 18, 21, 24, 28};
    struct play play = {.model = open_model(MIXED, HYMBA_DTYPE_BF16), .world_size = 2,
                        .act = generate, .params = {.compute = HYMBA_COMPUTE_F32}};
    run(&play, several);
    play.act = generate_alone;
    run(&play, single);
    ck_assert_uint_eq(single->n_rows, sizeof rows / sizeof *rows);
    for (size_t i = 0; i < single->n_rows; i++)
        ck_assert_msg(memcmp(single->logits[i], several->logits[rows[i]],
                             sizeof single->logits[i]) == 0, "row %zu", i);
    hymba_model_release(play.model);
}
END_TEST

/* ----------------------------------------------------------- weights on devices */

static hymba_context *open_part(hymba_model *model, uint32_t rank, uint32_t world_size)
{
    hymba_ranks ranks = {.struct_size = sizeof ranks, .rank = rank, .world_size = world_size};
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda",
                                   .compute = HYMBA_COMPUTE_F32, .ranks = &ranks};
    hymba_context *context;
    test_status(hy_context_open(model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

static void check_bytes(hymba_context *context, const void *on_device, const void *expected,
                        size_t bytes, const char *name)
{
    struct hy_plugin *plugin = context->backend.plugin;
    void *found = malloc(bytes);
    hy_store_get(plugin, found, on_device, bytes);
    test_status(hy_store_finish(plugin, &error), HYMBA_OK, error);
    ck_assert_msg(memcmp(found, expected, bytes) == 0, "%s of rank %u", name,
                  (unsigned)context->ranks.rank);
    free(found);
}

/* A matrix on the device against what the host cuts out of the whole one. */
static void check_matrix(hymba_context *context, const struct hy_matrix *whole,
                         const struct hy_cut *cut, const struct hy_matrix *own, const char *name)
{
    size_t rows = hy_ranges_count(&cut->rows), columns = hy_ranges_count(&cut->columns);
    size_t bytes = rows * hy_row_bytes(whole->dtype, columns);
    unsigned char *expected = malloc(bytes);
    ck_assert_uint_eq(own->rows, rows);
    ck_assert_uint_eq(own->columns, columns);
    hy_cut_rows(cut, whole, 0, rows, expected);
    check_bytes(context, own->data, expected, bytes, name);
    if (whole->scales) {
        hy_cut_scales(cut, whole, 0, rows, expected);
        check_bytes(context, own->scales, expected, rows * (columns / whole->group) * 2, name);
    }
    free(expected);
}

static hymba_status check_slot(void *user, enum hy_slot slot, uint32_t layer,
                               const struct hy_slot_info *info, hymba_error *failure)
{
    hymba_context *context = user;
    const hymba_model *model = context->model;
    struct hy_weights whole = model->weights, own = *context->weights;
    struct hy_shard shard = {context->ranks.rank, context->ranks.world_size};
    struct hy_split split;
    test_status(hy_shard_split(&model->plan, &model->weights, shard, &split, failure), HYMBA_OK,
                *failure);
    struct hy_cut cut = hy_shard_cut(&model->plan, &split, slot, layer);
    const struct hy_matrix *matrix = hy_weights_matrix(&whole, slot, layer);
    if (matrix) {
        check_matrix(context, matrix, &cut, hy_weights_matrix(&own, slot, layer), info->name);
        return HYMBA_OK;
    }
    struct hy_matrix small =
        hy_shard_small(&model->plan, slot, layer, *hy_weights_small(&whole, slot, layer));
    struct hy_matrix part =
        hy_shard_small(context->plan, slot, layer, *hy_weights_small(&own, slot, layer));
    check_matrix(context, &small, &cut, &part, info->name);
    return HYMBA_OK;
}

/* Bytes of a context as it is said beforehand. */
static hymba_memory_info memory_of(const hymba_model *model, uint32_t rank, uint32_t world_size)
{
    hymba_ranks ranks = {.struct_size = sizeof ranks, .rank = rank, .world_size = world_size};
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda",
                                   .compute = HYMBA_COMPUTE_F32, .ranks = &ranks};
    hymba_memory_info info = {.struct_size = sizeof info, .n_tokens = 1000};
    test_status(hy_context_memory(model, &params, &info, &error), HYMBA_OK, error);
    return info;
}

START_TEST(weights_on_devices)
{
    static const hymba_dtype dtypes[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_BF16, HYMBA_DTYPE_INT8,
                                         HYMBA_DTYPE_INT4};
    hymba_model *model = open_model(_i < 4 ? MIXED : WIDE, dtypes[_i % 4]);
    for (uint32_t rank = 0; rank < MOST_RANKS; rank++) {
        hymba_context *context = open_part(model, rank, MOST_RANKS);
        hymba_memory_info info = memory_of(model, rank, MOST_RANKS);
        hy_plan_visit(&model->plan, check_slot, context, &error);
        ck_assert_uint_eq(info.weight_bytes,
                          model->weights.bytes + context->device_weights->bytes);
        ck_assert_uint_ge(info.workspace_bytes, context->workspace.bytes);
        hymba_context_release(context);
    }
    hymba_model_release(model);
}
END_TEST

/* Ranks on one device have a copy each; contexts of the same rank share theirs. */
START_TEST(copies_of_weights)
{
    hymba_model *model = open_model(MIXED, HYMBA_DTYPE_BF16);
    hymba_context *contexts[] = {open_part(model, 0, 2), open_part(model, 1, 2),
                                 open_part(model, 0, 3), open_part(model, 0, 2),
                                 open_part(model, 0, 1)};
    for (size_t i = 0; i < 5; i++)
        for (size_t j = 0; j < i; j++)
            ck_assert_int_eq(contexts[i]->device_weights == contexts[j]->device_weights,
                             i == 3 && j == 0);
    for (size_t i = 0; i < 5; i++)
        hymba_context_release(contexts[i]);
    ck_assert_ptr_null(model->device_weights);
    hymba_model_release(model);
}
END_TEST

/* Caches and states of two ranks are those of a single device, which has what is whole twice. */
START_TEST(memory_of_ranks)
{
    hymba_model *model = open_model(MIXED, HYMBA_DTYPE_BF16);
    hymba_memory_info whole = memory_of(model, 0, 1);
    hymba_memory_info first = memory_of(model, 0, 2), second = memory_of(model, 1, 2);
    ck_assert_uint_eq(first.kv_bytes + second.kv_bytes, whole.kv_bytes);
    ck_assert_uint_eq(first.meta_bytes + second.meta_bytes, whole.meta_bytes);
    ck_assert_uint_eq(first.conv_bytes + second.conv_bytes, whole.conv_bytes);
    ck_assert_uint_eq(first.ssm_bytes + second.ssm_bytes, whole.ssm_bytes);
    ck_assert_uint_eq(2 * first.kv_bytes, 3 * second.kv_bytes);
    ck_assert_uint_lt(first.weight_bytes, whole.weight_bytes);
    ck_assert_uint_lt(first.workspace_bytes, whole.workspace_bytes);
    hymba_model_release(model);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ranks of whole models");
    TCase *numbers = tcase_create("numbers"), *bits = tcase_create("bits");
    TCase *memory = tcase_create("memory"), *early = tcase_create("bits, gathers early");
    TCase *cases[] = {numbers, bits, memory, early};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tcase_set_timeout(cases[i], 900);
        tcase_add_checked_fixture(cases[i], cases[i] == early ? set_up_early : setup,
                                  harness_plugin_close);
        suite_add_tcase(suite, cases[i]);
    }
    tcase_add_loop_test(numbers, f32, 0, N_RUN);
    tcase_add_loop_test(numbers, f32_of_quantised_weights, 0, 2);
    tcase_add_loop_test(numbers, rounded, 0, N_ROUNDINGS);
    tcase_add_test(bits, graphs_change_no_bit);
    tcase_add_test(bits, neighbours_change_no_bit);
    tcase_add_test(early, graphs_change_no_bit);
    tcase_add_test(early, neighbours_change_no_bit);
    tcase_add_loop_test(memory, weights_on_devices, 0, 8);
    tcase_add_test(memory, copies_of_weights);
    tcase_add_test(memory, memory_of_ranks);
    return test_main(suite);
}
