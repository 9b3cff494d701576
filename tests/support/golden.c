#include "golden.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char *const golden_names[] = {
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
    NULL,
};

int golden_count(void)
{
    int n = 0;
    while (golden_names[n])
        n++;
    return n;
}

static void read_manifest(struct golden *golden)
{
    char path[256];
    json_error_t fault;
    snprintf(path, sizeof path, "%s.json", golden->name);
    json_t *manifest = json_load_file(test_data(path), 0, &fault);
    ck_assert_msg(manifest != NULL, "%s: %s", path, fault.text);
    json_t *prompts = json_object_get(manifest, "prompts");
    golden->n_prompts = json_array_size(prompts);
    ck_assert_uint_gt(golden->n_prompts, 0);
    ck_assert_uint_le(golden->n_prompts, GOLDEN_MAX_PROMPTS);
    for (size_t i = 0; i < golden->n_prompts; i++)
        golden->lengths[i] = (size_t)json_integer_value(
            json_object_get(json_array_get(prompts, i), "length"));
    golden->detail =
        (size_t)json_integer_value(json_object_get(manifest, "detail_prompt_length"));
    json_decref(manifest);
}

void golden_open(struct golden *golden, const char *name)
{
    hymba_error error = {.struct_size = sizeof error};
    char path[256];
    *golden = (struct golden){.name = name};
    test_status(hymba_model_open(test_data(name), NULL, &golden->model, &error), HYMBA_OK, error);
    test_status(hy_memory_init(&golden->memory, NULL, &error), HYMBA_OK, error);
    snprintf(path, sizeof path, "%s.safetensors", name);
    test_status(hy_file_map(test_data(path), &golden->file, &error), HYMBA_OK, error);
    test_status(hy_safetensors_parse(&golden->memory, &golden->file, path, &golden->tensors,
                                     &error),
                HYMBA_OK, error);
    read_manifest(golden);
}

void golden_close(struct golden *golden)
{
    hy_safetensors_free(&golden->tensors);
    hy_file_close(&golden->file);
    hymba_model_release(golden->model);
}

const struct hy_tensor *golden_find(const struct golden *golden, size_t length, const char *rest)
{
    char name[128];
    snprintf(name, sizeof name, "p%zu.%s", length, rest);
    return hy_safetensors_find(&golden->tensors, name);
}

int32_t *golden_ids(const struct golden *golden, size_t length, const char *rest, size_t *count)
{
    const struct hy_tensor *tensor = golden_find(golden, length, rest);
    ck_assert_ptr_nonnull(tensor);
    ck_assert_str_eq(tensor->type_name, "I32");
    *count = tensor->size / sizeof(int32_t);
    int32_t *ids = malloc(tensor->size);
    ck_assert_ptr_nonnull(ids);
    memcpy(ids, tensor->data, tensor->size);
    return ids;
}

hymba_context *golden_context(const struct golden *golden, const char *cpu, uint32_t n_threads,
                              uint32_t max_step_tokens)
{
    hymba_error error = {.struct_size = sizeof error};
    hymba_context_params params = {
        .struct_size = sizeof params,
        .cpu = cpu,
        .n_threads = n_threads,
        .max_step_tokens = max_step_tokens,
        .compute = HYMBA_COMPUTE_F32, /* what goldens are exact for */
    };
    hymba_context *context;
    test_status(hymba_context_create(golden->model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

double golden_difference(const float *found, const float *expected, size_t count)
{
    double worst = 0.0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)found[i] - (double)expected[i]);
        if (!(difference <= worst))
            worst = isnan(difference) ? INFINITY : difference;
    }
    return worst;
}
