/* The layer plan: slices, caches, names and shapes, against the published shape by hand and
 * against the files that the reference program wrote. */
#include "model/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/safetensors.h"
#include "host.h"

static struct test_host host;
static struct hy_memory memory;
static hymba_error error;

static void setup(void)
{
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    test_status(hy_memory_init(&memory, &host.host, &error), HYMBA_OK, error);
}

static void teardown(void)
{
    test_host_check(&host);
}

static void plan_of_text(const char *text, size_t length, struct hy_plan *plan)
{
    struct hy_config config;
    test_status(hy_config_parse(&memory, text, length, "config.json", &config, &error), HYMBA_OK,
                error);
    test_status(hy_plan_create(&memory, &config, plan, &error), HYMBA_OK, error);
    ck_assert_ptr_null(config.layers); /* taken over */
}

static void plan_of_preset(const char *name, struct hy_plan *plan)
{
    char *text;
    size_t length;
    test_status(hy_preset_config(&memory, name, &text, &length, &error), HYMBA_OK, error);
    plan_of_text(text, length, plan);
    hy_free(&memory, text);
}

/* folder: below tests/data. */
static void plan_of_folder(const char *folder, struct hy_plan *plan)
{
    char name[200];
    size_t length;
    snprintf(name, sizeof name, "%s/config.json", folder);
    char *text = test_read_file(test_data(name), &length);
    plan_of_text(text, length, plan);
    free(text);
}

/* ------------------------------------------------------ the published shape */

START_TEST(published_shape)
{
    struct hy_plan plan;
    plan_of_preset("1.5b", &plan);
    ck_assert_uint_eq(hy_plan_parameters(&plan), 1522797824);
    ck_assert_uint_eq(plan.n_caches, 17);
    ck_assert_uint_eq(plan.n_full_caches, 3);
    ck_assert_uint_eq(plan.n_ssm_layers, 32);
    ck_assert_uint_eq(plan.max_in_rows, 8960);
    for (uint32_t i = 0; i < 32; i++) {
        const struct hy_layer_plan *layer = &plan.layers[i];
        bool full = i == 0 || i == 15 || i == 31;
        ck_assert_int_eq(layer->attention, full ? HYMBA_ATTENTION_FULL : HYMBA_ATTENTION_WINDOW);
        ck_assert_uint_eq(layer->window, full ? UINT64_MAX : 1024);
        ck_assert_int_eq(layer->ssm, HYMBA_SSM_MAMBA1);
        ck_assert_int_eq(layer->fusion, HYMBA_FUSION_MEAN);
        ck_assert_int_eq(layer->ffn, HYMBA_FFN_SWIGLU);
        ck_assert_uint_eq(layer->ssm_index, i);
        ck_assert_uint_eq(layer->in_rows, layer->kv_producer ? 8960 : 8000);
        ck_assert_uint_eq(layer->out_columns, 3200);
        ck_assert_uint_eq(layer->q_row, 0);
        ck_assert_uint_eq(layer->x_row, layer->kv_producer ? 2560 : 1600);
        ck_assert_uint_eq(layer->z_row, layer->x_row + 3200);
        if (layer->kv_producer) {
            ck_assert_uint_eq(layer->k_row, 1600);
            ck_assert_uint_eq(layer->v_row, 1920);
        }
        ck_assert_uint_lt(layer->kv, plan.n_caches);
        ck_assert_int_eq(plan.caches[layer->kv].layer == i, layer->kv_producer);
        ck_assert_int_eq(plan.caches[layer->kv].full, full);
    }
    hy_plan_free(&memory, &plan);
}
END_TEST

START_TEST(published_tensors)
{
    static const struct {
        enum hy_slot slot;
        uint32_t layer;
        const char *name;
        uint32_t n_dims;
        uint64_t shape[3];
    } cases[] = {
        {HY_SLOT_EMBEDDING, 0, "model.embed_tokens.weight", 2, {32001, 1600}},
        {HY_SLOT_META, 0, "model.memory_tokens", 2, {128, 1600}},
        {HY_SLOT_FINAL_NORM, 0, "model.final_layernorm.weight", 1, {1600}},
        {HY_SLOT_INPUT_NORM, 7, "model.layers.7.input_layernorm.weight", 1, {1600}},
        {HY_SLOT_IN_PROJ, 0, "model.layers.0.mamba.in_proj.weight", 2, {8960, 1600}},
        {HY_SLOT_IN_PROJ, 2, "model.layers.2.mamba.in_proj.weight", 2, {8000, 1600}},
        {HY_SLOT_CONV_WEIGHT, 1, "model.layers.1.mamba.conv1d.weight", 3, {3200, 1, 4}},
        {HY_SLOT_CONV_BIAS, 1, "model.layers.1.mamba.conv1d.bias", 1, {3200}},
        {HY_SLOT_X_PROJ, 1, "model.layers.1.mamba.x_proj.0.weight", 2, {132, 3200}},
        {HY_SLOT_DT_NORM, 1, "model.layers.1.mamba.dt_layernorm.weight", 1, {100}},
        {HY_SLOT_B_NORM, 1, "model.layers.1.mamba.B_layernorm.weight", 1, {16}},
        {HY_SLOT_C_NORM, 1, "model.layers.1.mamba.C_layernorm.weight", 1, {16}},
        {HY_SLOT_DT_PROJ, 1, "model.layers.1.mamba.dt_proj.0.weight", 2, {3200, 100}},
        {HY_SLOT_DT_BIAS, 1, "model.layers.1.mamba.dt_proj.0.bias", 1, {3200}},
        {HY_SLOT_A_LOG, 1, "model.layers.1.mamba.A_log.0", 2, {3200, 16}},
        {HY_SLOT_D, 1, "model.layers.1.mamba.D.0", 1, {3200}},
        {HY_SLOT_ATTENTION_NORM, 1, "model.layers.1.mamba.pre_avg_layernorm1.weight", 1, {3200}},
        {HY_SLOT_SSM_NORM, 31, "model.layers.31.mamba.pre_avg_layernorm2.weight", 1, {3200}},
        {HY_SLOT_OUT_PROJ, 31, "model.layers.31.mamba.out_proj.weight", 2, {1600, 3200}},
        {HY_SLOT_FFN_NORM, 31, "model.layers.31.pre_moe_layernorm.weight", 1, {1600}},
        {HY_SLOT_GATE, 31, "model.layers.31.moe.experts.0.gate_proj.weight", 2, {5504, 1600}},
        {HY_SLOT_UP, 31, "model.layers.31.moe.experts.0.up_proj.weight", 2, {5504, 1600}},
        {HY_SLOT_DOWN, 31, "model.layers.31.moe.experts.0.down_proj.weight", 2, {1600, 5504}},
    };
    struct hy_plan plan;
    struct hy_slot_info info;
    plan_of_preset("1.5b", &plan);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t n_elements = 1;
        ck_assert(hy_plan_slot(&plan, cases[i].slot, cases[i].layer, &info));
        ck_assert_str_eq(info.name, cases[i].name);
        ck_assert_uint_eq(info.n_dims, cases[i].n_dims);
        for (uint32_t j = 0; j < info.n_dims; j++) {
            ck_assert_msg(info.shape[j] == cases[i].shape[j], "%s", info.name);
            n_elements *= info.shape[j];
        }
        ck_assert_uint_eq(info.n_elements, n_elements);
    }
    ck_assert(!hy_plan_slot(&plan, HY_SLOT_HEAD, 0, &info)); /* tied */
    hy_plan_free(&memory, &plan);
}
END_TEST

/* ----------------------------------------------- against the reference's files */

static const char *const folders[] = {
    "goldens/a_all_features",
    "goldens/b_no_meta",
    "goldens/c_all_sliding",
    "goldens/d_all_full",
    "goldens/e_gqa1_odd_untied",
    "goldens/f_official_like",
    "variants/attention_only",
    "variants/concat",
    "variants/every_i_layer",
    "variants/mamba_only",
    "variants/mixed_group",
    "variants/mixed_plan",
    "variants/no_meta_window",
    "variants/no_rope",
    "variants/non_adjacent_groups",
    "variants/odd_heads",
    "variants/sequence",
    "variants/window_one",
};

enum { N_FOLDERS = sizeof folders / sizeof folders[0], MAX_SHARDS = 3 };

struct model_files {
    struct hy_file files[MAX_SHARDS];
    struct hy_safetensors containers[MAX_SHARDS];
    int n;
    uint64_t n_tensors, n_visited, n_elements;
};

static void open_model_files(const char *folder, struct model_files *model)
{
    char name[200];
    bool sharded = strstr(folder, "f_official") != NULL;
    memset(model, 0, sizeof *model);
    model->n = sharded ? 3 : 1;
    for (int i = 0; i < model->n; i++) {
        if (sharded)
            snprintf(name, sizeof name, "%s/model-0000%d-of-00003.safetensors", folder, i + 1);
        else
            snprintf(name, sizeof name, "%s/model.safetensors", folder);
        test_status(hy_file_map(test_data(name), &model->files[i], &error), HYMBA_OK, error);
        test_status(hy_safetensors_parse(&memory, &model->files[i], name, &model->containers[i],
                                         &error),
                    HYMBA_OK, error);
        model->n_tensors += model->containers[i].count;
    }
}

static void close_model_files(struct model_files *model)
{
    for (int i = 0; i < model->n; i++) {
        hy_safetensors_free(&model->containers[i]);
        hy_file_close(&model->files[i]);
    }
}

static hymba_status look_up(void *user, enum hy_slot slot, uint32_t layer,
                            const struct hy_slot_info *info, hymba_error *record)
{
    struct model_files *model = user;
    const struct hy_tensor *tensor = NULL;
    (void)slot;
    (void)layer;
    (void)record;
    for (int i = 0; i < model->n && !tensor; i++)
        tensor = hy_safetensors_find(&model->containers[i], info->name);
    ck_assert_msg(tensor != NULL, "%s is not in the file", info->name);
    ck_assert_uint_eq(tensor->n_dims, info->n_dims);
    for (uint32_t i = 0; i < info->n_dims; i++)
        ck_assert_msg(tensor->shape[i] == info->shape[i], "%s: size %u is %llu, not %llu",
                      info->name, i, (unsigned long long)info->shape[i],
                      (unsigned long long)tensor->shape[i]);
    model->n_visited++;
    model->n_elements += info->n_elements;
    return HYMBA_OK;
}

/* _i: number of the folder. Every tensor of the plan is in the file with that shape, and the file
 * has no other. */
START_TEST(tensors_are_those_of_the_file)
{
    struct hy_plan plan;
    struct model_files model;
    plan_of_folder(folders[_i], &plan);
    open_model_files(folders[_i], &model);
    test_status(hy_plan_visit(&plan, look_up, &model, &error), HYMBA_OK, error);
    ck_assert_uint_eq(model.n_visited, model.n_tensors);
    ck_assert_uint_eq(model.n_elements, hy_plan_parameters(&plan));
    close_model_files(&model);
    hy_plan_free(&memory, &plan);
}
END_TEST

/* _i: number of the folder. What the parts of a plan promise one another. */
START_TEST(parts_agree)
{
    struct hy_plan plan;
    uint32_t n_producers = 0, n_ssm = 0, n_full = 0;
    plan_of_folder(folders[_i], &plan);
    const struct hy_config *config = &plan.config;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const struct hy_layer_plan *layer = &plan.layers[i];
        ck_assert_uint_le(layer->in_rows, plan.max_in_rows);
        if (layer->ssm != HYMBA_SSM_NONE) {
            ck_assert_uint_eq(layer->ssm_index, n_ssm);
            n_ssm++;
            ck_assert_uint_eq(layer->z_row, layer->x_row + config->inner_size);
            ck_assert_uint_eq(layer->in_rows, layer->z_row + config->inner_size);
        }
        if (layer->attention == HYMBA_ATTENTION_NONE)
            continue;
        ck_assert_uint_lt(layer->kv, plan.n_caches);
        const struct hy_cache_plan *cache = &plan.caches[layer->kv];
        ck_assert_uint_le(cache->layer, i);
        if (layer->kv_producer)
            ck_assert_uint_eq(layer->kv, n_producers);
        n_producers += layer->kv_producer;
        if (layer->attention == HYMBA_ATTENTION_FULL)
            ck_assert(cache->full);
        else
            ck_assert_uint_eq(layer->window, config->window);
    }
    ck_assert_uint_eq(n_producers, plan.n_caches);
    ck_assert_uint_eq(n_ssm, plan.n_ssm_layers);
    for (uint32_t i = 0; i < plan.n_caches; i++) {
        n_full += plan.caches[i].full;
        ck_assert(plan.layers[plan.caches[i].layer].kv_producer);
    }
    ck_assert_uint_eq(n_full, plan.n_full_caches);
    hy_plan_free(&memory, &plan);
}
END_TEST

/* ---------------------------------------------------------------- variants */

START_TEST(a_sliding_producer_with_a_full_reader_keeps_all)
{
    struct hy_plan plan;
    bool found = false;
    plan_of_folder("variants/mixed_group", &plan);
    for (uint32_t i = 0; i < plan.config.n_layers; i++) {
        const struct hy_layer_plan *layer = &plan.layers[i];
        if (layer->attention == HYMBA_ATTENTION_WINDOW && plan.caches[layer->kv].full)
            found = true;
    }
    ck_assert(found);
    hy_plan_free(&memory, &plan);
}
END_TEST

START_TEST(single_streams)
{
    struct hy_plan plan;
    struct hy_slot_info info;
    plan_of_folder("variants/attention_only", &plan);
    ck_assert_uint_eq(plan.n_ssm_layers, 0);
    for (uint32_t i = 0; i < plan.config.n_layers; i++) {
        ck_assert_uint_eq(plan.layers[i].out_columns, plan.config.inner_size);
        ck_assert_int_eq(plan.layers[i].fusion, HYMBA_FUSION_NONE);
        ck_assert(!hy_plan_slot(&plan, HY_SLOT_A_LOG, i, &info));
        ck_assert(!hy_plan_slot(&plan, HY_SLOT_ATTENTION_NORM, i, &info));
        ck_assert(hy_plan_slot(&plan, HY_SLOT_OUT_PROJ, i, &info));
    }
    hy_plan_free(&memory, &plan);
    plan_of_folder("variants/mamba_only", &plan);
    ck_assert_uint_eq(plan.n_caches, 0);
    for (uint32_t i = 0; i < plan.config.n_layers; i++) {
        ck_assert_uint_eq(plan.layers[i].x_row, 0);
        ck_assert_uint_eq(plan.layers[i].in_rows, 2 * plan.config.inner_size);
        ck_assert(!hy_plan_slot(&plan, HY_SLOT_SSM_NORM, i, &info));
    }
    hy_plan_free(&memory, &plan);
    plan_of_folder("variants/concat", &plan);
    for (uint32_t i = 0; i < plan.config.n_layers; i++)
        ck_assert_uint_eq(plan.layers[i].out_columns, 2 * plan.config.inner_size);
    hy_plan_free(&memory, &plan);
}
END_TEST

/* A layer may consist of nothing: then it has no tensor, and the stream passes through. */
START_TEST(empty_layers)
{
    static const char text[] =
        "{\"vocab_size\":10,\"hidden_size\":8,\"intermediate_size\":9,\"num_hidden_layers\":2,"
        "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"sliding_window\":null,"
        "\"rms_norm_eps\":1e-6,\"tie_word_embeddings\":true,\"rope\":false,\"mamba_d_state\":2,"
        "\"mamba_d_conv\":2,\"mamba_dt_rank\":1,"
        "\"layer_plan\":[{\"mixer\":\"none\",\"ffn\":\"none\"},{}]}";
    struct hy_plan plan;
    struct hy_slot_info info;
    plan_of_text(text, sizeof text - 1, &plan);
    ck_assert_uint_eq(plan.n_caches, 1);
    ck_assert_uint_eq(plan.layers[0].in_rows, 0);
    ck_assert_uint_eq(plan.layers[0].out_columns, 0);
    for (int slot = HY_FIRST_LAYER_SLOT; slot < HY_N_SLOTS; slot++) {
        ck_assert(!hy_plan_slot(&plan, (enum hy_slot)slot, 0, &info));
        ck_assert(hy_plan_slot(&plan, (enum hy_slot)slot, 1, &info));
    }
    hy_plan_free(&memory, &plan);
}
END_TEST

/* ------------------------------------------------------------------- visits */

static hymba_status stop_at_third(void *user, enum hy_slot slot, uint32_t layer,
                                  const struct hy_slot_info *info, hymba_error *record)
{
    int *calls = user;
    (void)slot;
    (void)layer;
    return ++*calls == 3 ? hy_fail(record, HYMBA_ERROR_STATE, "%s", info->name) : HYMBA_OK;
}

START_TEST(a_visit_stops_at_the_first_failure)
{
    struct hy_plan plan;
    int calls = 0;
    plan_of_preset("tiny", &plan);
    test_status(hy_plan_visit(&plan, stop_at_third, &calls, &error), HYMBA_ERROR_STATE, error);
    ck_assert_int_eq(calls, 3);
    ck_assert_str_eq(error.message, "model.final_layernorm.weight");
    hy_plan_free(&memory, &plan);
}
END_TEST

START_TEST(no_memory)
{
    char *text;
    size_t length;
    test_status(hy_preset_config(&memory, "tiny", &text, &length, &error), HYMBA_OK, error);
    uint64_t used = memory.used;
    for (long i = 0;; i++) {
        struct hy_config config;
        struct hy_plan plan;
        test_status(hy_config_parse(&memory, text, length, "tiny", &config, &error), HYMBA_OK,
                    error);
        test_host_fail_at(&host, i, false);
        hymba_status status = hy_plan_create(&memory, &config, &plan, &error);
        test_host_fail_at(&host, -1, false);
        if (status == HYMBA_OK) {
            ck_assert_int_eq(i, 2);
            hy_plan_free(&memory, &plan);
            break;
        }
        test_status(status, HYMBA_ERROR_MEMORY, error);
        ck_assert_uint_eq(memory.used, used); /* the configuration is gone as well */
    }
    hy_free(&memory, text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("plan");
    TCase *tests = tcase_create("plan");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, published_shape);
    tcase_add_test(tests, published_tensors);
    tcase_add_loop_test(tests, tensors_are_those_of_the_file, 0, N_FOLDERS);
    tcase_add_loop_test(tests, parts_agree, 0, N_FOLDERS);
    tcase_add_test(tests, a_sliding_producer_with_a_full_reader_keeps_all);
    tcase_add_test(tests, single_streams);
    tcase_add_test(tests, empty_layers);
    tcase_add_test(tests, a_visit_stops_at_the_first_failure);
    tcase_add_test(tests, no_memory);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
