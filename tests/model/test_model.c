/* Opening models: the three ways to the same weights, and what is refused, in which words. */
#include "model/model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host.h"

static const char config_text[] =
    "{\"model_type\": \"hymba\", \"vocab_size\": 70, \"hidden_size\": 16,\n"
    "\"intermediate_size\": 20, \"num_hidden_layers\": 3, \"num_attention_heads\": 4,\n"
    "\"num_key_value_heads\": 2, \"num_memory_tokens\": 3, \"sliding_window\": 4,\n"
    "\"global_attn_idx\": [1], \"kv_reuse_group\": null, \"rms_norm_eps\": 1e-06,\n"
    "\"tie_word_embeddings\": true, \"mamba_d_state\": 4, \"mamba_d_conv\": 4,\n"
    "\"mamba_dt_rank\": 2, \"max_position_embeddings\": 640, \"bos_token_id\": 1}";

static const char sharded[] = "goldens/f_official_like";
static const char *const sharded_files[] = {
    "config.json", "model.safetensors.index.json", "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"};
enum { N_SHARDED_FILES = 5 };

static struct test_host host;
static hymba_error error;
static hymba_model_params params;
static char directory[256];
static unsigned n_directories;

static void new_directory(void)
{
    snprintf(directory, sizeof directory, "%s/model-%u", test_directory(), n_directories++);
    ck_assert_int_eq(mkdir(directory, 0777), 0);
}

static void setup(void)
{
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    hymba_model_params_init(&params, sizeof params);
    params.host = &host.host;
    new_directory();
}

static void teardown(void)
{
    test_host_check(&host);
}

static const char *path_in(const char *name)
{
    static char paths[4][400];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

/* A small model in the test's directory. */
static void make_model(hymba_dtype dtype)
{
    hymba_init_params init;
    hymba_init_params_init(&init, sizeof init);
    init.seed = 5;
    init.dtype = dtype;
    test_status(hymba_model_init(directory, config_text, sizeof config_text - 1, &init, &error),
                HYMBA_OK, error);
}

static void copy_file(const char *from, const char *name)
{
    size_t size;
    char *data = test_read_file(from, &size);
    test_write_file(path_in(name), data, size);
    free(data);
}

/* The model in three shards. */
static void copy_sharded(void)
{
    for (int i = 0; i < N_SHARDED_FILES; i++) {
        char name[200];
        snprintf(name, sizeof name, "%s/%s", sharded, sharded_files[i]);
        copy_file(test_data(name), sharded_files[i]);
    }
}

static char *find(char *data, size_t size, const char *text)
{
    size_t length = strlen(text);
    for (size_t i = 0; i + length <= size; i++)
        if (memcmp(data + i, text, length) == 0)
            return data + i;
    return NULL;
}

/* Replaces a text behind the first place of another by one of the same length. */
static void edit(const char *name, const char *after, const char *old, const char *new)
{
    size_t size;
    char *data = test_read_file(path_in(name), &size);
    char *place = find(data, size, after);
    ck_assert_msg(place != NULL, "%s does not hold %s", name, after);
    place = find(place, size - (size_t)(place - data), old);
    ck_assert_msg(place != NULL, "%s does not hold %s behind %s", name, old, after);
    ck_assert_uint_eq(strlen(old), strlen(new));
    memcpy(place, new, strlen(new));
    test_write_file(path_in(name), data, size);
    free(data);
}

static hymba_model *open_directory(void)
{
    hymba_model *model;
    test_status(hymba_model_open(directory, &params, &model, &error), HYMBA_OK, error);
    return model;
}

/* Refused with that status, in words that hold all parts; nothing is kept. */
static void refuse(hymba_status status, const char *const *parts)
{
    hymba_model *model = (hymba_model *)&error;
    test_status(hymba_model_open(directory, &params, &model, &error), status, error);
    ck_assert_ptr_null(model);
    ck_assert_int_eq(error.status, status);
    for (; *parts; parts++)
        ck_assert_msg(strstr(error.message, *parts) != NULL, "\"%s\" does not hold \"%s\"",
                      error.message, *parts);
    test_host_check(&host);
}

#define REFUSE(status, ...) refuse(status, (const char *const[]){__VA_ARGS__, NULL})

/* -------------------------------------------------------- ways to the weights */

enum { N_TOKENS = 9 };

/* Logits of every token, from malloc. */
static float *run(hymba_model *model, size_t *count)
{
    static const int32_t tokens[N_TOKENS] = {1, 5, 0, 69, 33, 33, 2, 7, 1};
    hymba_context_params context_params;
    hymba_context *context;
    hymba_session *session;
    const float *logits;
    size_t rows;
    hymba_context_params_init(&context_params, sizeof context_params);
    context_params.n_threads = 1;
    context_params.cpu = "generic";
    test_status(hymba_context_create(model, &context_params, &context, &error), HYMBA_OK, error);
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, N_TOKENS, HYMBA_LOGITS_ALL, &error),
                HYMBA_OK, error);
    test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
    *count = rows * model->plan.config.vocabulary_size;
    float *copy = malloc(*count * sizeof *copy);
    memcpy(copy, logits, *count * sizeof *copy);
    hymba_session_release(session);
    hymba_context_release(context);
    return copy;
}

static void check_same_model(hymba_model *model, hymba_model *other)
{
    size_t count, other_count;
    float *logits = run(model, &count), *other_logits = run(other, &other_count);
    ck_assert_uint_eq(count, other_count);
    ck_assert_mem_eq(logits, other_logits, count * sizeof *logits);
    ck_assert_uint_eq(model->weights.bytes, other->weights.bytes);
    free(logits);
    free(other_logits);
}

enum { MAX_BLOCKS = 6 };

static size_t read_blocks(hymba_memory_file *blocks, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t size;
        blocks[i].name = names[i];
        blocks[i].data = test_read_file(path_in(names[i]), &size);
        blocks[i].size = size;
    }
    return n;
}

static void free_blocks(hymba_memory_file *blocks, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free((void *)blocks[i].data);
}

static const char *const single_files[] = {"config.json", "model.safetensors"};

/* _i: element type; 0: the model in shards. */
START_TEST(mapped_read_and_in_memory)
{
    hymba_memory_file blocks[MAX_BLOCKS];
    hymba_model *mapped, *unmapped, *in_memory;
    if (_i)
        make_model(_i);
    else
        copy_sharded();
    mapped = open_directory();
    params.flags = HYMBA_MODEL_NO_MAP;
    unmapped = open_directory();
    params.flags = 0;
    size_t n = _i ? read_blocks(blocks, single_files, 2)
                  : read_blocks(blocks, sharded_files, N_SHARDED_FILES);
    test_status(hymba_model_open_memory(blocks, sizeof blocks[0], n, &params, &in_memory, &error),
                HYMBA_OK, error);
    ck_assert_int_eq(mapped->weights.files[0].kind, HY_FILE_MAPPED);
    ck_assert_int_eq(unmapped->weights.files[0].kind, HY_FILE_READ);
    ck_assert_int_eq(in_memory->weights.files[0].kind, HY_FILE_BORROWED);
    check_same_model(mapped, unmapped);
    check_same_model(mapped, in_memory);
    hymba_model_release(mapped);
    hymba_model_release(unmapped);
    hymba_model_release(in_memory);
    free_blocks(blocks, n);
}
END_TEST

/* Weights in memory may stand at any address, and names and other files may go at once. */
START_TEST(misaligned_blocks)
{
    size_t sizes[2];
    char *data[2];
    hymba_model *model, *other;
    make_model(HYMBA_DTYPE_F32);
    other = open_directory();
    for (int i = 0; i < 2; i++)
        data[i] = test_read_file(path_in(single_files[i]), &sizes[i]);
    for (size_t shift = 1; shift < 4; shift++) {
        struct {
            hymba_memory_file file;
            uint64_t of_a_later_version;
        } blocks[2] = {{.of_a_later_version = 0}};
        char *weights = malloc(sizes[1] + shift), *config = malloc(sizes[0]), name[20];
        memcpy(weights + shift, data[1], sizes[1]);
        memcpy(config, data[0], sizes[0]);
        strcpy(name, "config.json");
        blocks[0].file = (hymba_memory_file){"model.safetensors", weights + shift, sizes[1]};
        blocks[1].file = (hymba_memory_file){name, config, sizes[0]};
        test_status(hymba_model_open_memory(&blocks[0].file, sizeof blocks[0], 2, &params, &model,
                                            &error),
                    HYMBA_OK, error);
        memset(config, 0, sizes[0]);
        memset(name, 0, sizeof name);
        free(config);
        check_same_model(model, other);
        hymba_model_release(model);
        free(weights);
    }
    hymba_model_release(other);
    free(data[0]);
    free(data[1]);
}
END_TEST

START_TEST(shards_are_found)
{
    copy_sharded();
    hymba_model *model = open_directory();
    ck_assert_uint_eq(model->weights.n_files, 3);
    ck_assert_int_eq(host.phase, HYMBA_PHASE_LOAD);
    ck_assert_uint_eq(host.done, 3);
    ck_assert_uint_eq(host.total, 3);
    ck_assert_int_eq(host.n_progress, 3);
    hymba_model_release(model);
}
END_TEST

/* A complete file beside an index is the one that is used. */
START_TEST(one_file_goes_before_an_index)
{
    make_model(HYMBA_DTYPE_F32);
    test_write_file(path_in("model.safetensors.index.json"), "broken", 6);
    hymba_model *model = open_directory();
    ck_assert_uint_eq(model->weights.n_files, 1);
    hymba_model_release(model);
}
END_TEST

static const struct hy_tensor *tensor_of(const hymba_model *model, const char *name)
{
    const struct hy_tensor *tensor = hy_safetensors_find(&model->weights.containers[0], name);
    ck_assert_ptr_nonnull(tensor);
    return tensor;
}

/* Which tensor stands where, and the two that are transposed. */
START_TEST(weights_are_bound)
{
    make_model(HYMBA_DTYPE_F32);
    hymba_model *model = open_directory();
    const struct hy_weights *weights = &model->weights;
    const struct hy_layer_weights *layer = &weights->layers[2];
    ck_assert_ptr_eq(weights->embedding.data, tensor_of(model, "model.embed_tokens.weight")->data);
    ck_assert_uint_eq(weights->embedding.rows, 70);
    ck_assert_uint_eq(weights->embedding.columns, 16);
    ck_assert_ptr_eq(weights->head.data, weights->embedding.data); /* tied */
    ck_assert_ptr_eq(weights->meta.data, tensor_of(model, "model.memory_tokens")->data);
    ck_assert_ptr_eq(layer->in_proj.data,
                     tensor_of(model, "model.layers.2.mamba.in_proj.weight")->data);
    ck_assert_ptr_eq(layer->gate.data,
                     tensor_of(model, "model.layers.2.moe.experts.0.gate_proj.weight")->data);
    ck_assert_ptr_eq(layer->up.data,
                     tensor_of(model, "model.layers.2.moe.experts.0.up_proj.weight")->data);
    ck_assert_ptr_eq(layer->down.data,
                     tensor_of(model, "model.layers.2.moe.experts.0.down_proj.weight")->data);
    const struct hy_tensor *conv = tensor_of(model, "model.layers.2.mamba.conv1d.weight");
    for (size_t channel = 0; channel < 32; channel++)
        for (size_t tap = 0; tap < 4; tap++)
            ck_assert(layer->conv_weight[tap * 32 + channel] ==
                      hy_load_element(conv->data, conv->dtype, channel * 4 + tap));
    const struct hy_tensor *bias = tensor_of(model, "model.layers.2.mamba.dt_proj.0.bias");
    for (size_t channel = 0; channel < 32; channel++)
        ck_assert(layer->dt_bias[channel] == hy_load_element(bias->data, bias->dtype, channel));
    for (size_t i = 0; i < 32 * 4; i++)
        ck_assert(layer->a[i] < 0);
    hymba_model_release(model);
}
END_TEST

/* ----------------------------------------------------------------- queries */

START_TEST(configuration_alone)
{
    hymba_model *model;
    hymba_context *context;
    hymba_model_info info = {.struct_size = sizeof info};
    make_model(HYMBA_DTYPE_F16);
    ck_assert_int_eq(unlink(path_in("model.safetensors")), 0);
    params.flags = HYMBA_MODEL_NO_WEIGHTS;
    model = open_directory();
    test_status(hymba_model_get_info(model, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.vocabulary_size, 70);
    ck_assert_uint_eq(info.n_kv_layers, 3);
    ck_assert_uint_gt(info.n_parameters, 70 * 16);
    ck_assert_uint_eq(info.weight_bytes, 0);
    ck_assert_int_eq(info.weight_dtype, HYMBA_DTYPE_DEFAULT);
    test_status(hymba_context_create(model, NULL, &context, &error), HYMBA_ERROR_MISSING, error);
    ck_assert_ptr_null(context);
    hymba_model_release(model);
}
END_TEST

START_TEST(info_of_a_model)
{
    hymba_model_info info = {.struct_size = sizeof info};
    hymba_layer_info layer = {.struct_size = sizeof layer};
    make_model(HYMBA_DTYPE_F16);
    hymba_model *model = open_directory();
    test_status(hymba_model_get_info(model, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.hidden_size, 16);
    ck_assert_uint_eq(info.n_layers, 3);
    ck_assert_uint_eq(info.n_heads, 4);
    ck_assert_uint_eq(info.n_kv_heads, 2);
    ck_assert_uint_eq(info.qk_head_size, 4);
    ck_assert_uint_eq(info.v_head_size, 8);
    ck_assert_uint_eq(info.inner_size, 32);
    ck_assert_uint_eq(info.state_size, 4);
    ck_assert_uint_eq(info.conv_width, 4);
    ck_assert_uint_eq(info.dt_rank, 2);
    ck_assert_uint_eq(info.intermediate_size, 20);
    ck_assert_uint_eq(info.n_meta_tokens, 3);
    ck_assert_uint_eq(info.window, 4);
    ck_assert_int_eq(info.bos_token, 1);
    ck_assert_int_eq(info.eos_token, -1);
    ck_assert_int_eq(info.weight_dtype, HYMBA_DTYPE_F16);
    ck_assert_uint_eq(info.weight_bytes, 2 * info.n_parameters);
    ck_assert_uint_eq(info.max_position, 640);
    ck_assert(info.rms_norm_epsilon == 1e-6);
    test_status(hymba_model_get_layer_info(model, 1, &layer, &error), HYMBA_OK, error);
    ck_assert_int_eq(layer.attention, HYMBA_ATTENTION_FULL);
    ck_assert_uint_eq(layer.window, 0);
    ck_assert_int_eq(layer.kv_layer, 1);
    test_status(hymba_model_get_layer_info(model, 2, &layer, &error), HYMBA_OK, error);
    ck_assert_int_eq(layer.attention, HYMBA_ATTENTION_WINDOW);
    ck_assert_uint_eq(layer.window, 4);
    test_status(hymba_model_get_layer_info(model, 3, &layer, &error), HYMBA_ERROR_ARGUMENT, error);
    hymba_model_release(model);
}
END_TEST

START_TEST(references)
{
    make_model(HYMBA_DTYPE_F32);
    hymba_model *model = open_directory();
    ck_assert_ptr_eq(hymba_model_retain(model), model);
    hymba_model_release(model);
    ck_assert_uint_gt(host.used, 0);
    ck_assert_uint_eq(model->plan.config.n_layers, 3);
    hymba_model_release(model);
    ck_assert_uint_eq(host.used, 0);
    hymba_model_release(NULL);
    ck_assert_ptr_null(hymba_model_retain(NULL));
}
END_TEST

/* ---------------------------------------------------------------- refusals */

START_TEST(places_without_a_model)
{
    REFUSE(HYMBA_ERROR_FILE, directory, "config.json");
    ck_assert_int_eq(error.system_code, ENOENT);
    make_model(HYMBA_DTYPE_F32);
    char whole[256];
    memcpy(whole, directory, sizeof whole);
    strcat(directory, "/none");
    REFUSE(HYMBA_ERROR_FILE, directory);
    memcpy(directory, whole, sizeof whole);
    strcat(directory, "/config.json");
    REFUSE(HYMBA_ERROR_FILE, directory);
    ck_assert_int_eq(error.system_code, ENOTDIR);
}
END_TEST

START_TEST(no_weights)
{
    make_model(HYMBA_DTYPE_F32);
    ck_assert_int_eq(unlink(path_in("model.safetensors")), 0);
    REFUSE(HYMBA_ERROR_FILE, path_in("model.safetensors"));
    ck_assert_int_eq(error.system_code, ENOENT);
}
END_TEST

START_TEST(a_folder_as_a_file)
{
    make_model(HYMBA_DTYPE_F32);
    ck_assert_int_eq(unlink(path_in("model.safetensors")), 0);
    ck_assert_int_eq(mkdir(path_in("model.safetensors"), 0777), 0);
    REFUSE(HYMBA_ERROR_FILE, path_in("model.safetensors"), "a directory");
    params.flags = HYMBA_MODEL_NO_MAP;
    REFUSE(HYMBA_ERROR_FILE, path_in("model.safetensors"), "a directory");
}
END_TEST

START_TEST(a_missing_tensor)
{
    make_model(HYMBA_DTYPE_F32);
    edit("model.safetensors", "model.layers.1.mamba.D.0", "D.0", "D.1");
    REFUSE(HYMBA_ERROR_FORMAT, path_in("model.safetensors"), "model.layers.1.mamba.D.0",
           "missing");
}
END_TEST

START_TEST(a_wrong_shape)
{
    make_model(HYMBA_DTYPE_F32);
    edit("model.safetensors", "model.layers.0.mamba.x_proj.0.weight", "[10,32]", "[32,10]");
    REFUSE(HYMBA_ERROR_FORMAT, path_in("model.safetensors"),
           "model.layers.0.mamba.x_proj.0.weight", "found shape [32, 10], expected [10, 32]");
    new_directory();
    make_model(HYMBA_DTYPE_F32);
    edit("model.safetensors", "model.layers.0.mamba.D.0", "[32]", "[  ]");
    REFUSE(HYMBA_ERROR_FORMAT, path_in("model.safetensors"), "model.layers.0.mamba.D.0");
    new_directory();
    make_model(HYMBA_DTYPE_F32);
    edit("model.safetensors", "model.layers.0.mamba.conv1d.weight", "[32,1,4]", "[32,4  ]");
    REFUSE(HYMBA_ERROR_FORMAT, "model.layers.0.mamba.conv1d.weight",
           "found shape [32, 4], expected [32, 1, 4]");
}
END_TEST

/* A configuration that says something else than the weights do. */
START_TEST(a_contradicting_configuration)
{
    make_model(HYMBA_DTYPE_F32);
    edit("config.json", "vocab_size", "70", "71");
    REFUSE(HYMBA_ERROR_FORMAT, "model.embed_tokens.weight",
           "found shape [70, 16], expected [71, 16]");
    edit("config.json", "vocab_size", "71", "70");
    edit("config.json", "tie_word_embeddings", "true", "null");
    REFUSE(HYMBA_ERROR_FORMAT, path_in("config.json"), "tie_word_embeddings");
    edit("config.json", "tie_word_embeddings", "null", "true");
    edit("config.json", "num_hidden_layers", "3", "4");
    REFUSE(HYMBA_ERROR_FORMAT, "model.layers.3.input_layernorm.weight", "missing");
}
END_TEST

START_TEST(an_element_type_that_is_not_supported)
{
    make_model(HYMBA_DTYPE_F32);
    edit("model.safetensors", "model.embed_tokens.weight", "\"F32\"", "\"I32\"");
    REFUSE(HYMBA_ERROR_UNSUPPORTED, path_in("model.safetensors"), "model.embed_tokens.weight",
           "found element type I32, expected BF16, F16 or F32");
    edit("model.safetensors", "model.embed_tokens.weight", "\"I32\"", "\"X32\"");
    REFUSE(HYMBA_ERROR_FORMAT, path_in("model.safetensors"), "model.embed_tokens.weight",
           "X32");
}
END_TEST

/* Tensors that the model does not need may have any type. */
START_TEST(foreign_tensors_are_passed_over)
{
    make_model(HYMBA_DTYPE_F32);
    edit("config.json", "num_hidden_layers", "3", "2");
    edit("model.safetensors", "model.layers.2.mamba.D.0", "\"F32\"", "\"U32\"");
    hymba_model *model = open_directory();
    hymba_model_release(model);
}
END_TEST

/* Cut at many places: in the length, in the header, in the data. */
START_TEST(truncated_weights)
{
    size_t size;
    make_model(HYMBA_DTYPE_BF16);
    char *data = test_read_file(path_in("model.safetensors"), &size);
    for (size_t kept = 0; kept < size; kept += kept < 16 ? 1 : size / 40) {
        test_write_file(path_in("model.safetensors"), data, kept);
        REFUSE(HYMBA_ERROR_FORMAT, path_in("model.safetensors"));
        params.flags ^= HYMBA_MODEL_NO_MAP;
    }
    test_write_file(path_in("model.safetensors"), data, size - 1);
    REFUSE(HYMBA_ERROR_FORMAT, path_in("model.safetensors"));
    free(data);
}
END_TEST

START_TEST(truncated_configuration)
{
    size_t size;
    make_model(HYMBA_DTYPE_BF16);
    char *data = test_read_file(path_in("config.json"), &size);
    for (size_t kept = 0; kept < size - 2; kept += 1 + kept / 8) {
        test_write_file(path_in("config.json"), data, kept);
        REFUSE(HYMBA_ERROR_FORMAT, path_in("config.json"));
    }
    free(data);
}
END_TEST

START_TEST(bad_shards)
{
    copy_sharded();
    ck_assert_int_eq(unlink(path_in(sharded_files[3])), 0);
    REFUSE(HYMBA_ERROR_FILE, path_in(sharded_files[3]));
    ck_assert_int_eq(error.system_code, ENOENT);
    new_directory();
    copy_sharded();
    edit("model.safetensors.index.json", "model.layers.0.mamba.D.0", "D.0", "D.9");
    REFUSE(HYMBA_ERROR_FORMAT, path_in("model.safetensors.index.json"),
           "model.layers.0.mamba.D.0");
    new_directory();
    copy_sharded(); /* the index names the wrong shard */
    edit("model.safetensors.index.json", "\"model.embed_tokens.weight\"", "00001", "00003");
    REFUSE(HYMBA_ERROR_FORMAT, path_in(sharded_files[4]), "model.embed_tokens.weight", "missing");
    new_directory();
    copy_sharded(); /* a name that leads out of the directory */
    edit("model.safetensors.index.json", "\"model.embed_tokens.weight\"", "model-00001",
         "../el-00001");
    REFUSE(HYMBA_ERROR_FORMAT, path_in("model.safetensors.index.json"), "../el-00001");
    new_directory();
    copy_sharded();
    test_write_file(path_in("model.safetensors.index.json"), "{}", 2);
    REFUSE(HYMBA_ERROR_FORMAT, path_in("model.safetensors.index.json"), "weight_map");
}
END_TEST

/* ------------------------------------------------------------------ tokenizer */

static const char demo_tokenizer[] = "examples/demo/tokenizer.model";

START_TEST(a_tokenizer_larger_than_the_vocabulary)
{
    make_model(HYMBA_DTYPE_F32);
    copy_file(test_data(demo_tokenizer), "tokenizer.model");
    REFUSE(HYMBA_ERROR_FORMAT, "tokenizer", "70");
    params.flags = HYMBA_MODEL_NO_TOKENIZER;
    hymba_model *model = open_directory();
    ck_assert_ptr_null(hymba_model_tokenizer(model));
    hymba_model_release(model);
}
END_TEST

START_TEST(a_model_with_a_tokenizer)
{
    hymba_memory_file blocks[MAX_BLOCKS];
    static const char *const names[] = {"config.json", "tokenizer.model", "tokenizer_config.json"};
    hymba_model *model, *in_memory;
    size_t size;
    params.flags = HYMBA_MODEL_NO_WEIGHTS;
    copy_file(test_data(demo_tokenizer), "tokenizer.model");
    copy_file(test_data("examples/demo/config.json"), "config.json");
    copy_file(test_data("examples/demo/tokenizer_config.json"), "tokenizer_config.json");
    model = open_directory();
    size_t n = read_blocks(blocks, names, 3);
    test_status(hymba_model_open_memory(blocks, sizeof blocks[0], n, &params, &in_memory, &error),
                HYMBA_OK, error);
    free_blocks(blocks, n); /* copied */
    ck_assert_ptr_nonnull(hymba_model_tokenizer(model));
    ck_assert_uint_eq(hymba_tokenizer_vocabulary_size(hymba_model_tokenizer(model)),
                      hymba_tokenizer_vocabulary_size(hymba_model_tokenizer(in_memory)));
    char first[100], second[100];
    int32_t id = (int32_t)hymba_tokenizer_vocabulary_size(hymba_model_tokenizer(model)) - 1;
    test_status(hymba_tokenizer_decode(hymba_model_tokenizer(model), &id, 1, 1, first,
                                       sizeof first, &size, &error),
                HYMBA_OK, error);
    test_status(hymba_tokenizer_decode(hymba_model_tokenizer(in_memory), &id, 1, 1, second,
                                       sizeof second, &size, &error),
                HYMBA_OK, error);
    ck_assert_mem_eq(first, second, size);
    hymba_model_release(model);
    hymba_model_release(in_memory);
}
END_TEST

/* ------------------------------------------------------------------ arguments */

START_TEST(bad_arguments)
{
    hymba_model *model;
    make_model(HYMBA_DTYPE_F32);
    params.flags = 8;
    REFUSE(HYMBA_ERROR_UNSUPPORTED, "params.flags", "0x8");
    params.flags = UINT32_MAX;
    REFUSE(HYMBA_ERROR_UNSUPPORTED, "params.flags");
    params.flags = 0;
    test_status(hymba_model_open(NULL, &params, &model, &error), HYMBA_ERROR_ARGUMENT, error);
    ck_assert_ptr_null(model);
    test_status(hymba_model_open(directory, &params, NULL, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_model_open(NULL, &params, &model, NULL), HYMBA_ERROR_ARGUMENT, error);
    hymba_host half = host.host;
    half.free = NULL;
    params.host = &half;
    REFUSE(HYMBA_ERROR_ARGUMENT, "host");
}
END_TEST

START_TEST(bad_blocks)
{
    hymba_model *model;
    hymba_memory_file blocks[2] = {{"config.json", config_text, sizeof config_text - 1},
                                   {"model.safetensors", NULL, 0}};
    test_status(hymba_model_open_memory(NULL, sizeof blocks[0], 0, &params, &model, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_model_open_memory(blocks, 8, 1, &params, &model, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_ptr_nonnull(strstr(error.message, "file_size"));
    test_status(hymba_model_open_memory(blocks, sizeof blocks[0], 0, &params, &model, &error),
                HYMBA_ERROR_FILE, error);
    ck_assert_ptr_nonnull(strstr(error.message, "config.json"));
    test_status(hymba_model_open_memory(blocks, sizeof blocks[0], 1, &params, &model, &error),
                HYMBA_ERROR_FILE, error);
    ck_assert_ptr_nonnull(strstr(error.message, "model.safetensors"));
    test_status(hymba_model_open_memory(blocks, sizeof blocks[0], 2, &params, &model, &error),
                HYMBA_ERROR_FORMAT, error); /* empty */
    ck_assert_ptr_nonnull(strstr(error.message, "model.safetensors"));
    blocks[1].size = 5;
    test_status(hymba_model_open_memory(blocks, sizeof blocks[0], 2, &params, &model, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 1);
    blocks[0].name = NULL;
    test_status(hymba_model_open_memory(blocks, sizeof blocks[0], 1, &params, &model, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 0);
    ck_assert_ptr_null(model);
}
END_TEST

/* ------------------------------------------------------------------- failures */

START_TEST(cancelled)
{
    copy_sharded();
    for (long i = 0; i < 3; i++) {
        host.n_progress = 0;
        host.cancel_at = i;
        REFUSE(HYMBA_ERROR_CANCELLED, "cancelled");
        ck_assert_uint_eq(host.done, (uint64_t)i + 1);
    }
}
END_TEST

/* Each allocation in turn fails, alone or with all later ones. */
static void fail_in_turn(long least)
{
    hymba_model *model;
    hymba_status status;
    long i = 0;
    do {
        test_host_fail_at(&host, i / 2, i % 2);
        status = hymba_model_open(directory, &params, &model, &error);
        test_host_fail_at(&host, -1, false);
        if (status != HYMBA_OK) {
            test_status(status, HYMBA_ERROR_MEMORY, error);
            ck_assert_ptr_null(model);
            test_host_check(&host);
        }
        i++;
    } while (status != HYMBA_OK);
    ck_assert_int_ge(i / 2, least);
    hymba_model_release(model);
    test_host_check(&host);
}

START_TEST(allocations_that_fail)
{
    make_model(HYMBA_DTYPE_F32);
    fail_in_turn(10);
    params.flags = HYMBA_MODEL_NO_MAP;
    fail_in_turn(11);
}
END_TEST

START_TEST(allocations_that_fail_with_shards)
{
    copy_sharded();
    fail_in_turn(15);
}
END_TEST

START_TEST(allocations_that_fail_with_a_tokenizer)
{
    copy_file(test_data(demo_tokenizer), "tokenizer.model");
    copy_file(test_data("examples/demo/config.json"), "config.json");
    params.flags = HYMBA_MODEL_NO_WEIGHTS;
    fail_in_turn(10);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model");
    TCase *tests = tcase_create("model");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, mapped_read_and_in_memory, 0, HYMBA_DTYPE_BF16 + 1);
    tcase_add_test(tests, misaligned_blocks);
    tcase_add_test(tests, shards_are_found);
    tcase_add_test(tests, one_file_goes_before_an_index);
    tcase_add_test(tests, weights_are_bound);
    tcase_add_test(tests, configuration_alone);
    tcase_add_test(tests, info_of_a_model);
    tcase_add_test(tests, references);
    tcase_add_test(tests, places_without_a_model);
    tcase_add_test(tests, no_weights);
    tcase_add_test(tests, a_folder_as_a_file);
    tcase_add_test(tests, a_missing_tensor);
    tcase_add_test(tests, a_wrong_shape);
    tcase_add_test(tests, a_contradicting_configuration);
    tcase_add_test(tests, an_element_type_that_is_not_supported);
    tcase_add_test(tests, foreign_tensors_are_passed_over);
    tcase_add_test(tests, truncated_weights);
    tcase_add_test(tests, truncated_configuration);
    tcase_add_test(tests, bad_shards);
    tcase_add_test(tests, a_tokenizer_larger_than_the_vocabulary);
    tcase_add_test(tests, a_model_with_a_tokenizer);
    tcase_add_test(tests, bad_arguments);
    tcase_add_test(tests, bad_blocks);
    tcase_add_test(tests, cancelled);
    tcase_add_test(tests, allocations_that_fail);
    tcase_add_test(tests, allocations_that_fail_with_shards);
    tcase_add_test(tests, allocations_that_fail_with_a_tokenizer);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
