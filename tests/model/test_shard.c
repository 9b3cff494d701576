/* Ranks' parts of a model: who has what, and that all parts together are the model. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/ref.h"
#include "model/model.h"
#include "model/shard.h"
#include "support.h"

enum { HIDDEN = 320, INNER = 640, FFN = 416, QK = 32, V = 64, KV_HEADS = 5, LAYERS = 6 };

#define FIRST_FIELDS                                                                              \
    "{\"model_type\": \"hymba\", \"vocab_size\": 40, \"hidden_size\": 320,\n"                     \
    "\"num_attention_heads\": 10, \"num_key_value_heads\": 5, \"num_memory_tokens\": 3,\n"        \
    "\"sliding_window\": 4, \"rms_norm_eps\": 1e-06, \"tie_word_embeddings\": false,\n"           \
    "\"mamba_d_state\": 4, \"mamba_d_conv\": 3, \"mamba_dt_rank\": 6,\n"                          \
    "\"max_position_embeddings\": 640, \"bos_token_id\": 1,\n"

/* Every kind of layer; the third reads the keys of the second. */
static const char mixed[] = FIRST_FIELDS
    "\"intermediate_size\": 416, \"num_hidden_layers\": 6, \"global_attn_idx\": [3],\n"
    "\"kv_reuse_group\": [[1, 2]],\n"
    "\"layer_plan\": [{}, {\"fusion\": \"concat\"}, {}, {\"mixer\": \"attention\"},\n"
    "{\"mixer\": \"mamba\", \"ffn\": \"none\"}, {\"mixer\": \"none\"}]}";

/* 10 granules of channels, 2 of columns. */
static const char without_heads[] = FIRST_FIELDS
    "\"intermediate_size\": 96, \"num_hidden_layers\": 2, \"global_attn_idx\": [],\n"
    "\"kv_reuse_group\": null, \"layer_plan\": {\"mixer\": \"mamba\"}}";

static hymba_error error = {.struct_size = sizeof error};

/* A model of random weights of that type; of int8 and int4 quantised while it is opened. */
static hymba_model *open_model(const char *config, hymba_dtype dtype)
{
    static unsigned number;
    hymba_init_params init;
    hymba_model_params params;
    hymba_model *model;
    char path[300];
    bool quantised = dtype == HYMBA_DTYPE_INT8 || dtype == HYMBA_DTYPE_INT4;
    snprintf(path, sizeof path, "%s/model-%u", test_directory(), number++);
    hymba_init_params_init(&init, sizeof init);
    init.dtype = quantised ? HYMBA_DTYPE_F32 : dtype;
    test_status(hymba_model_init(path, config, HYMBA_NUL_TERMINATED, &init, &error), HYMBA_OK,
                error);
    hymba_model_params_init(&params, sizeof params);
    params.quantize = quantised ? dtype : HYMBA_DTYPE_DEFAULT;
    test_status(hymba_model_open(path, &params, &model, &error), HYMBA_OK, error);
    return model;
}

static struct hy_split split_of(const hymba_model *model, uint32_t rank, uint32_t world_size)
{
    struct hy_split split;
    struct hy_shard shard = {rank, world_size};
    test_status(hy_shard_split(&model->plan, &model->weights, shard, &split, &error), HYMBA_OK,
                error);
    return split;
}

static size_t size_of(const struct hy_range *range)
{
    ck_assert_uint_lt(range->begin, range->end);
    return range->end - range->begin;
}

static void check_range(const struct hy_range *range, size_t begin, size_t end)
{
    ck_assert_uint_eq(range->begin, begin);
    ck_assert_uint_eq(range->end, end);
}

/* -------------------------------------------------------------------- ranges */

/* One behind the other, without gaps: heads by groups, channels by heads, columns by granules. */
static void check_ranges(const hymba_model *model, uint32_t world_size)
{
    size_t heads = 0, columns = 0, most = 0, least = SIZE_MAX;
    for (uint32_t rank = 0; rank < world_size; rank++) {
        struct hy_split split = split_of(model, rank, world_size);
        size_t n = size_of(&split.kv_heads);
        ck_assert_uint_eq(n, KV_HEADS / world_size + (rank < KV_HEADS % world_size));
        check_range(&split.kv_heads, heads, heads + n);
        check_range(&split.heads, 2 * heads, 2 * (heads + n));
        check_range(&split.channels, 2 * V * heads, 2 * V * (heads + n));
        ck_assert_uint_eq(split.ffn.begin, columns);
        ck_assert(split.ffn.end % 64 == 0 || split.ffn.end == FFN);
        size_t granules = (size_of(&split.ffn) + 63) / 64;
        most = granules > most ? granules : most;
        least = granules < least ? granules : least;
        heads += n;
        columns = split.ffn.end;
    }
    ck_assert_uint_eq(heads, KV_HEADS);
    ck_assert_uint_eq(columns, FFN);
    ck_assert_uint_le(most, least + 1);
}

START_TEST(ranks_share_everything)
{
    hymba_model *model = open_model(mixed, HYMBA_DTYPE_BF16);
    for (uint32_t world_size = 1; world_size <= KV_HEADS; world_size++)
        check_ranges(model, world_size);
    struct hy_split split = split_of(model, 1, 2); /* who has fewer heads has more columns */
    check_range(&split.kv_heads, 3, 5);
    check_range(&split.ffn, 3 * 64, FFN);
    hymba_model_release(model);
}
END_TEST

START_TEST(channels_without_heads)
{
    hymba_model *model = open_model(without_heads, HYMBA_DTYPE_BF16);
    struct hy_split first = split_of(model, 0, 2), second = split_of(model, 1, 2);
    check_range(&first.channels, 0, 5 * 64);
    check_range(&second.channels, 5 * 64, INNER);
    check_range(&first.ffn, 0, 64);
    check_range(&second.ffn, 64, 96);
    hymba_model_release(model);
}
END_TEST

/* The model's weights, with groups that the test may change. */
struct regrouped {
    struct hy_weights weights;
    struct hy_layer_weights layers[LAYERS];
};

static void copy_weights(struct regrouped *copy, const hymba_model *model)
{
    copy->weights = model->weights;
    copy->weights.layers = copy->layers;
    memcpy(copy->layers, model->weights.layers,
           model->plan.config.n_layers * sizeof *copy->layers);
}

/* Columns of quantised weights are parted where the groups of all layers end. */
START_TEST(columns_by_groups)
{
    hymba_model *model = open_model(mixed, HYMBA_DTYPE_BF16);
    struct regrouped copy;
    struct hy_split split;
    copy_weights(&copy, model);
    copy.layers[0].down.group = 32;
    copy.layers[3].down.group = 96;
    for (uint32_t rank = 0; rank < 3; rank++) {
        struct hy_shard shard = {rank, 3};
        test_status(hy_shard_split(&model->plan, &copy.weights, shard, &split, &error), HYMBA_OK,
                    error);
        check_range(&split.ffn, 192 * rank, rank == 2 ? FFN : 192 * (rank + 1));
    }
    hymba_model_release(model);
}
END_TEST

/* ------------------------------------------------------------------- refusals */

static void check_refusal(const struct hy_plan *plan, const struct hy_weights *weights,
                          uint32_t world_size, const char *words)
{
    struct hymba_host host = {.struct_size = sizeof host};
    struct hy_memory memory;
    struct hy_plan part;
    test_status(hy_memory_init(&memory, &host, &error), HYMBA_OK, error);
    for (uint32_t rank = 0; rank < world_size; rank++) { /* all ranks alike */
        struct hy_shard shard = {rank, world_size};
        test_status(hy_shard_plan(&memory, plan, weights, shard, &part, &error),
                    HYMBA_ERROR_ARGUMENT, error);
        ck_assert_msg(strstr(error.message, words) != NULL, "%s", error.message);
        hy_plan_free(&memory, &part);
    }
}

START_TEST(splits_that_are_refused)
{
    hymba_model *model = open_model(mixed, HYMBA_DTYPE_BF16);
    hymba_model *channels = open_model(without_heads, HYMBA_DTYPE_BF16);
    struct regrouped copy;
    check_refusal(&model->plan, &model->weights, 6, "6 ranks for a model that can be split into 5");
    check_refusal(&channels->plan, &channels->weights, 3, "2 parts at most (of the columns of its "
                  "feed-forward network)");
    check_refusal(&channels->plan, NULL, 11, "10 parts at most (of its SSM channels)");
    copy_weights(&copy, model);
    copy.layers[1].out_proj.group = 256; /* three key heads' channels are 384 */
    check_refusal(&model->plan, &copy.weights, 2, "model.layers.1.mamba.out_proj.weight is "
                  "quantised in groups of 256, but 2 ranks would part it at column 384");
    copy_weights(&copy, model);
    copy.layers[4].x_proj.group = INNER;
    check_refusal(&model->plan, &copy.weights, 5, "x_proj.0.weight is quantised in groups of 640");
    copy_weights(&copy, model);
    copy.layers[0].down.group = FFN;
    check_refusal(&model->plan, &copy.weights, 2, "1 parts at most");
    hymba_model_release(channels);
    hymba_model_release(model);
}
END_TEST

/* --------------------------------------------------------------- plans of ranks */

/* Sums over all ranks. */
struct sums {
    uint32_t in_rows[LAYERS], out_columns[LAYERS];
};

static void add_plan(struct sums *sums, const struct hy_plan *part, const struct hy_plan *whole)
{
    ck_assert_uint_eq(part->config.hidden_size, HIDDEN);
    ck_assert_uint_eq(part->config.qk_head_size, QK);
    ck_assert_uint_eq(part->config.v_head_size, V);
    ck_assert_uint_eq(part->config.inner_size, part->config.n_heads * V);
    ck_assert_uint_eq(part->n_caches, whole->n_caches);
    ck_assert_uint_eq(part->n_full_caches, whole->n_full_caches);
    ck_assert_uint_eq(part->n_ssm_layers, whole->n_ssm_layers);
    for (uint32_t i = 0; i < LAYERS; i++) {
        const struct hy_layer_plan *own = &part->layers[i];
        ck_assert_int_eq(own->attention, whole->layers[i].attention);
        ck_assert_int_eq(own->kv_producer, whole->layers[i].kv_producer);
        ck_assert_uint_eq(own->window, whole->layers[i].window);
        if (own->attention != HYMBA_ATTENTION_NONE && own->kv_producer) {
            ck_assert_uint_eq(own->k_row, part->config.n_heads * QK);
            ck_assert_uint_eq(own->v_row, own->k_row + part->config.n_kv_heads * QK);
        }
        sums->in_rows[i] += own->in_rows;
        sums->out_columns[i] += own->out_columns;
    }
}

START_TEST(plans_of_ranks)
{
    hymba_model *model = open_model(mixed, HYMBA_DTYPE_BF16);
    for (uint32_t world_size = 1; world_size <= KV_HEADS; world_size++) {
        struct sums sums = {{0}, {0}};
        for (uint32_t rank = 0; rank < world_size; rank++) {
            struct hy_plan part;
            struct hy_shard shard = {rank, world_size};
            test_status(hy_shard_plan(&model->memory, &model->plan, &model->weights, shard, &part,
                                      &error),
                        HYMBA_OK, error);
            add_plan(&sums, &part, &model->plan);
            hy_plan_free(&model->memory, &part);
        }
        for (uint32_t i = 0; i < LAYERS; i++) {
            ck_assert_uint_eq(sums.in_rows[i], model->plan.layers[i].in_rows);
            ck_assert_uint_eq(sums.out_columns[i], model->plan.layers[i].out_columns);
        }
    }
    hymba_model_release(model);
}
END_TEST

/* --------------------------------------------------------------------- weights */

/* Where a rank's row of in_proj stands in the whole one. */
static size_t whole_row_of_in_proj(const struct hy_layer_plan *own,
                                   const struct hy_layer_plan *whole, const struct hy_split *split,
                                   size_t row)
{
    bool attends = own->attention != HYMBA_ATTENTION_NONE, keys = attends && own->kv_producer;
    if (own->ssm != HYMBA_SSM_NONE && row >= own->z_row)
        return whole->z_row + split->channels.begin + row - own->z_row;
    if (own->ssm != HYMBA_SSM_NONE && row >= own->x_row)
        return whole->x_row + split->channels.begin + row - own->x_row;
    if (keys && row >= own->v_row)
        return whole->v_row + split->kv_heads.begin * V + row - own->v_row;
    if (keys && row >= own->k_row)
        return whole->k_row + split->kv_heads.begin * QK + row - own->k_row;
    return whole->q_row + split->heads.begin * QK + row;
}

static size_t whole_row(const struct hy_plan *own, const struct hy_plan *whole,
                        const struct hy_split *split, enum hy_slot slot, uint32_t layer, size_t row)
{
    switch (slot) {
    case HY_SLOT_IN_PROJ:
        return whole_row_of_in_proj(&own->layers[layer], &whole->layers[layer], split, row);
    case HY_SLOT_DT_PROJ:
        return split->channels.begin + row;
    case HY_SLOT_GATE:
    case HY_SLOT_UP:
        return split->ffn.begin + row;
    default:
        return row;
    }
}

static size_t whole_column(const struct hy_plan *own, const struct hy_split *split,
                           enum hy_slot slot, size_t column)
{
    switch (slot) {
    case HY_SLOT_OUT_PROJ:
        if (column >= own->config.inner_size) /* the second of two streams */
            return INNER + split->channels.begin + column - own->config.inner_size;
        return split->channels.begin + column;
    case HY_SLOT_X_PROJ:
    case HY_SLOT_CONV_WEIGHT:
    case HY_SLOT_CONV_BIAS:
    case HY_SLOT_DT_BIAS:
    case HY_SLOT_A_LOG:
    case HY_SLOT_D:
    case HY_SLOT_ATTENTION_NORM:
    case HY_SLOT_SSM_NORM:
        return split->channels.begin + column;
    case HY_SLOT_DOWN:
        return split->ffn.begin + column;
    default:
        return column;
    }
}

static float *row_of(const struct hy_matrix *matrix, size_t row)
{
    float *values = malloc(matrix->columns * sizeof *values);
    if (hy_is_quantised(matrix->dtype))
        hy_ref_dequantise_row(matrix, row, values);
    else
        hy_row_to_f32((const unsigned char *)matrix->data
                          + row * hy_row_bytes(matrix->dtype, matrix->columns),
                      matrix->dtype, values, matrix->columns);
    return values;
}

/* The part as a matrix of its own, put together a few rows at a time. */
static struct hy_matrix cut_out(const struct hy_matrix *whole, const struct hy_cut *cut)
{
    struct hy_matrix part = *whole;
    part.rows = hy_ranges_count(&cut->rows);
    part.columns = hy_ranges_count(&cut->columns);
    size_t row_bytes = hy_row_bytes(part.dtype, part.columns);
    size_t scale_bytes = part.group ? part.columns / part.group * 2 : 0;
    unsigned char *data = malloc(part.rows * row_bytes);
    unsigned char *scales = malloc(part.rows * scale_bytes + 1);
    for (size_t row = 0, n; row < part.rows; row += n) {
        n = row + 7 <= part.rows ? 7 : part.rows - row;
        hy_cut_rows(cut, whole, row, n, data + row * row_bytes);
        if (part.scales)
            hy_cut_scales(cut, whole, row, n, scales + row * scale_bytes);
    }
    part.data = data;
    part.scales = part.scales ? scales : NULL;
    if (!part.scales)
        free(scales);
    return part;
}

/* A slot of a model and how often each of its elements was found with a rank. */
struct tally {
    const hymba_model *model;
    enum hy_slot slot;
    uint32_t layer;
    struct hy_matrix whole;
    unsigned char *found;
};

static void tally_part(struct tally *tally, const struct hy_plan *own,
                       const struct hy_split *split)
{
    const struct hy_plan *whole = &tally->model->plan;
    struct hy_cut cut = hy_shard_cut(whole, split, tally->slot, tally->layer);
    struct hy_matrix part = cut_out(&tally->whole, &cut);
    for (size_t i = 0; i < part.rows; i++) {
        size_t row = whole_row(own, whole, split, tally->slot, tally->layer, i);
        float *values = row_of(&part, i), *expected = row_of(&tally->whole, row);
        for (size_t j = 0; j < part.columns; j++) {
            size_t column = whole_column(own, split, tally->slot, j);
            if (hy_f32_to_bits(values[j]) != hy_f32_to_bits(expected[column]))
                ck_abort_msg("slot %d of layer %u, row %zu, column %zu", (int)tally->slot,
                             (unsigned)tally->layer, i, j);
            tally->found[row * tally->whole.columns + column]++;
        }
        free(values);
        free(expected);
    }
    free((void *)(uintptr_t)part.data);
    free((void *)(uintptr_t)part.scales);
}

/* Each rank's elements stand where its plan has them; each element is with one rank, or, of what is
 * not shared out, with all. */
static void tally_slot(struct tally *tally, uint32_t world_size)
{
    const hymba_model *model = tally->model;
    size_t n = tally->whole.rows * tally->whole.columns;
    struct hy_slot_info info;
    tally->found = calloc(n, 1);
    for (uint32_t rank = 0; rank < world_size; rank++) {
        struct hy_plan own;
        struct hy_shard shard = {rank, world_size};
        struct hy_split split = split_of(model, rank, world_size);
        struct hy_memory memory = model->memory;
        test_status(hy_shard_plan(&memory, &model->plan, &model->weights, shard, &own, &error),
                    HYMBA_OK, error);
        struct hy_cut cut = hy_shard_cut(&model->plan, &split, tally->slot, tally->layer);
        ck_assert(hy_plan_slot(&own, tally->slot, tally->layer, &info));
        ck_assert_uint_eq(info.n_elements,
                          hy_ranges_count(&cut.rows) * hy_ranges_count(&cut.columns));
        tally_part(tally, &own, &split);
        hy_plan_free(&memory, &own);
    }
    ck_assert(tally->found[0] == 1 || tally->found[0] == world_size);
    for (size_t i = 0; i < n; i++)
        if (tally->found[i] != tally->found[0])
            ck_abort_msg("%s: element %zu is with %d ranks", info.name, i, tally->found[i]);
    free(tally->found);
}

static bool is_shared_out(enum hy_slot slot)
{
    return slot == HY_SLOT_IN_PROJ || (slot >= HY_SLOT_CONV_WEIGHT && slot <= HY_SLOT_X_PROJ)
           || (slot >= HY_SLOT_DT_PROJ && slot <= HY_SLOT_OUT_PROJ) || slot >= HY_SLOT_GATE;
}

START_TEST(parts_are_the_model)
{
    static const hymba_dtype dtypes[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_BF16, HYMBA_DTYPE_INT8,
                                         HYMBA_DTYPE_INT4};
    hymba_model *model = open_model(mixed, dtypes[_i]);
    struct tally tally = {.model = model};
    unsigned n_quantised = 0;
    for (tally.layer = 0; tally.layer < LAYERS; tally.layer++) {
        for (int slot = 0; slot < HY_N_SLOTS; slot++) {
            struct hy_weights weights = model->weights;
            struct hy_slot_info info;
            tally.slot = (enum hy_slot)slot;
            if ((slot < HY_FIRST_LAYER_SLOT && tally.layer > 0)
                || !hy_plan_slot(&model->plan, tally.slot, tally.layer, &info))
                continue;
            struct hy_matrix *matrix = hy_weights_matrix(&weights, tally.slot, tally.layer);
            tally.whole = matrix ? *matrix
                                 : hy_shard_small(&model->plan, tally.slot, tally.layer,
                                                  *hy_weights_small(&weights, tally.slot,
                                                                    tally.layer));
            n_quantised += hy_is_quantised(tally.whole.dtype);
            tally_slot(&tally, 2);
            tally_slot(&tally, 3);
            struct hy_split split = split_of(model, 0, 2);
            struct hy_cut cut = hy_shard_cut(&model->plan, &split, tally.slot, tally.layer);
            bool whole = hy_ranges_count(&cut.rows) == tally.whole.rows
                         && hy_ranges_count(&cut.columns) == tally.whole.columns;
            ck_assert_msg(whole == !is_shared_out(tally.slot), "%s", info.name);
        }
    }
    ck_assert_int_eq(n_quantised > 20, dtypes[_i] >= HYMBA_DTYPE_INT8);
    hymba_model_release(model);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("shard");
    TCase *tcase = tcase_create("shard");
    tcase_set_timeout(tcase, 300);
    tcase_add_test(tcase, ranks_share_everything);
    tcase_add_test(tcase, channels_without_heads);
    tcase_add_test(tcase, columns_by_groups);
    tcase_add_test(tcase, splits_that_are_refused);
    tcase_add_test(tcase, plans_of_ranks);
    tcase_add_loop_test(tcase, parts_are_the_model, 0, 4);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
