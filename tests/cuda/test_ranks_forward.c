/*
 * Models on several ranks, each a context on a device of its own and a thread: the harness plays
 * the devices. All ranks have the same bits, which hang on no batch and on no graph, and differ
 * from those of a single device by rounding. HYMBA_LONG=1: all types of weights.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness_plugin.h"
#include "rank_runs.h"
#include "run/context.h"
#include "support.h"

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

/* What quantised weights are on a device is for weights_on_devices to say. */
static bool is_long(void)
{
    return getenv("HYMBA_LONG") != NULL;
}

static struct rank single[RANKS_MOST], exact[RANKS_MOST], several[RANKS_MOST];

/* ---------------------------------------------------------------- the numbers */

/*
 * In f32 ranks add in another order than one device does. Either way is within 7e-5 of the exact
 * logits where these deviate by 3 (docs/semantics.md, section 12), so within twice that of the
 * other.
 */
static void check_f32(enum rank_model number, hymba_dtype dtype, uint32_t first_size)
{
    struct rank_play play = {.model = rank_model_open(number, dtype), .world_size = 1,
                             .act = rank_generate, .params = {.compute = HYMBA_COMPUTE_F32}};
    rank_run(&play, single);
    double bound = 2 * 7e-5 / 3 * rank_deviation(single);
    for (play.world_size = first_size; play.world_size <= RANKS_MOST; play.world_size++) {
        rank_run(&play, several);
        double found = rank_compare(several, single).greatest;
        ck_assert_msg(found <= bound, "%s, %u ranks: logits differ by %g, expected at most %g",
                      rank_model_names[number], (unsigned)play.world_size, found, bound);
        ck_assert_msg(found > 0, "%s: not even rounding differs", rank_model_names[number]);
    }
    hymba_model_release(play.model);
}

START_TEST(f32)
{
    check_f32((enum rank_model)_i, HYMBA_DTYPE_F32, 2);
}
END_TEST

START_TEST(f32_of_quantised_weights)
{
    if (is_long())
        check_f32(RANK_MODEL_MIXED, _i ? HYMBA_DTYPE_INT4 : HYMBA_DTYPE_INT8, RANKS_MOST);
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
    if (_i && !is_long())
        return;
    struct rank_play play = {.model = rank_model_open(RANK_MODEL_MIXED, roundings[_i].weights),
                             .world_size = 1, .act = rank_generate,
                             .params = {.compute = HYMBA_COMPUTE_F32}};
    rank_run(&play, exact);
    play.params = (hymba_context_params){.compute = roundings[_i].compute,
                                         .cache_type = HYMBA_DTYPE_BF16,
                                         .state_type = HYMBA_DTYPE_BF16};
    rank_run(&play, single);
    double error_of_one = sqrt(rank_compare(single, exact).square);
    ck_assert_double_lt(error_of_one, 0.1 * rank_deviation(exact));
    for (play.world_size = _i ? RANKS_MOST : 2; play.world_size <= RANKS_MOST;
         play.world_size++) {
        rank_run(&play, several);
        double found = sqrt(rank_compare(several, exact).square);
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
    struct rank_play play = {.model = rank_model_open(RANK_MODEL_MIXED, HYMBA_DTYPE_BF16),
                             .world_size = 2, .act = rank_generate,
                             .params = {.compute = HYMBA_COMPUTE_BF16}};
    rank_run(&play, several);
    play.single_ops = true;
    rank_run(&play, single);
    ck_assert_double_eq(rank_compare(several, single).greatest, 0);
    hymba_model_release(play.model);
}
END_TEST

/* The rows of the first session in rank_generate(), in which its prompt's last row comes first. */
START_TEST(neighbours_change_no_bit)
{
    static const size_t rows[] = {0, 12, 15, 18, 21, 24, 28};
    struct rank_play play = {.model = rank_model_open(RANK_MODEL_MIXED, HYMBA_DTYPE_BF16),
                             .world_size = 2, .act = rank_generate,
                             .params = {.compute = HYMBA_COMPUTE_F32}};
    rank_run(&play, several);
    play.act = rank_generate_alone;
    rank_run(&play, single);
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
    hymba_model *model =
        rank_model_open(_i < 4 ? RANK_MODEL_MIXED : RANK_MODEL_WIDE, dtypes[_i % 4]);
    for (uint32_t rank = 0; rank < RANKS_MOST; rank++) {
        hymba_context *context = open_part(model, rank, RANKS_MOST);
        hymba_memory_info info = memory_of(model, rank, RANKS_MOST);
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
    hymba_model *model = rank_model_open(RANK_MODEL_MIXED, HYMBA_DTYPE_BF16);
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
    hymba_model *model = rank_model_open(RANK_MODEL_MIXED, HYMBA_DTYPE_BF16);
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
    tcase_add_loop_test(numbers, f32, 0, RANK_MODEL_WIDE);
    tcase_add_loop_test(numbers, f32_of_quantised_weights, 0, 2);
    tcase_add_loop_test(numbers, rounded, 0, N_ROUNDINGS);
    tcase_add_test(bits, graphs_change_no_bit);
    tcase_add_test(bits, neighbours_change_no_bit);
    tcase_add_test(early, graphs_change_no_bit);
    tcase_add_loop_test(memory, weights_on_devices, 0, 8);
    tcase_add_test(memory, copies_of_weights);
    tcase_add_test(memory, memory_of_ranks);
    return test_main(suite);
}
