#include "quantise_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char model_config[] =
    "{\"model_type\": \"hymba\", \"vocab_size\": 70, \"hidden_size\": 32,\n"
    "\"intermediate_size\": 96, \"num_hidden_layers\": 3, \"num_attention_heads\": 4,\n"
    "\"num_key_value_heads\": 2, \"num_memory_tokens\": 3, \"sliding_window\": 4,\n"
    "\"global_attn_idx\": [1], \"kv_reuse_group\": null, \"rms_norm_eps\": 1e-06,\n"
    "\"tie_word_embeddings\": false, \"mamba_d_state\": 4, \"mamba_d_conv\": 4,\n"
    "\"mamba_dt_rank\": 2, \"max_position_embeddings\": 640, \"bos_token_id\": 1}";

struct quantise_world world;
static unsigned n_directories;

void new_output(void)
{
    snprintf(world.output, sizeof world.output, "%s/out-%u", test_directory(), n_directories++);
}

void make_model(const char *config, hymba_dtype dtype)
{
    hymba_init_params init;
    snprintf(world.input, sizeof world.input, "%s/in-%u", test_directory(), n_directories++);
    hymba_init_params_init(&init, sizeof init);
    init.seed = 5;
    init.dtype = dtype;
    test_status(hymba_model_init(world.input, config, HYMBA_NUL_TERMINATED, &init, &world.error),
                HYMBA_OK, world.error);
}

void world_begin(void)
{
    test_host_init(&world.host);
    hymba_error_init(&world.error, sizeof world.error);
    hymba_quantize_params_init(&world.params, sizeof world.params);
    world.params.host = &world.host.host;
    world.params.n_threads = 1;
    make_model(model_config, HYMBA_DTYPE_BF16);
    new_output();
    for (int i = 0; i < WORLD_TOKENS; i++)
        world.tokens[i] = (int32_t)((unsigned)i * 31u % 70u);
}

void world_end(void)
{
    test_host_check(&world.host);
}

hymba_status quantise(void)
{
    return hymba_quantize(world.input, world.output, &world.params, &world.error);
}

const char *path_in(const char *directory, const char *name)
{
    static char paths[4][400];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

hymba_model *open_with(const char *directory, hymba_dtype dtype)
{
    hymba_model *model;
    hymba_model_params model_params;
    hymba_model_params_init(&model_params, sizeof model_params);
    model_params.host = &world.host.host;
    model_params.quantize = dtype;
    test_status(hymba_model_open(directory, &model_params, &model, &world.error), HYMBA_OK,
                world.error);
    return model;
}

const struct hy_tensor *tensor_of(const hymba_model *model, const char *name)
{
    const struct hy_tensor *tensor = hy_weights_find(&model->weights, name);
    ck_assert_msg(tensor != NULL, "no tensor %s", name);
    return tensor;
}

/* Where a tensor's data begins in its file. */
static size_t place_of(const char *directory, const char *name)
{
    hymba_model *model = open_with(directory, HYMBA_DTYPE_DEFAULT);
    const unsigned char *data = tensor_of(model, name)->data;
    size_t place = (size_t)(data - model->weights.files[0].data);
    hymba_model_release(model);
    return place;
}

void patch_data(const char *directory, const char *tensor, size_t skip, const void *bytes,
                size_t n)
{
    size_t size, place = place_of(directory, tensor);
    char *data = test_read_file(path_in(directory, "model.safetensors"), &size);
    memcpy(data + place + skip, bytes, n);
    test_write_file(path_in(directory, "model.safetensors"), data, size);
    free(data);
}

void check_words(const char *const *parts)
{
    for (; *parts; parts++)
        ck_assert_msg(strstr(world.error.message, *parts) != NULL, "\"%s\" does not hold \"%s\"",
                      world.error.message, *parts);
}
