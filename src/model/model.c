#include "model/model.h"

#include <string.h>

static hymba_status open_config(hymba_model *model, const struct hy_source *source,
                                hymba_error *error)
{
    struct hy_file file;
    struct hy_config config;
    char name[512];
    hymba_status status = hy_source_read(source, "config.json", &file, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_config_parse(&model->memory, (const char *)file.data, file.size,
                             hy_source_name(source, "config.json", name, sizeof name), &config,
                             error);
    hy_file_close(&file);
    if (status != HYMBA_OK)
        return status;
    return hy_plan_create(&model->memory, &config, &model->plan, error);
}

/* Reads a file if it is there; *file stays empty if not. */
static hymba_status read_if_present(const struct hy_source *source, const char *name,
                                    struct hy_file *file, bool *present, hymba_error *error)
{
    memset(file, 0, sizeof *file);
    hymba_status status = hy_source_has(source, name, present, error);
    return *present ? hy_source_read(source, name, file, error) : status;
}

/* From memory blocks: what hy_tokenizer_open_directory does for directories. */
static hymba_status tokenizer_from_blocks(hymba_model *model, const struct hy_source *source,
                                          hymba_error *error)
{
    struct hy_file spm, json, config;
    bool has_spm, has_json, has_config;
    hymba_status status = read_if_present(source, "tokenizer.model", &spm, &has_spm, error);
    if (status == HYMBA_OK)
        status = read_if_present(source, "tokenizer.json", &json, &has_json, error);
    if (status == HYMBA_OK)
        status = read_if_present(source, "tokenizer_config.json", &config, &has_config, error);
    if (status != HYMBA_OK || (!has_spm && !has_json))
        return status; /* borrowed blocks need no closing */
    struct hy_tokenizer_files files = {
        .model = has_spm ? &spm : NULL,
        .json = has_json ? &json : NULL,
        .config = has_config ? &config : NULL,
    };
    return hy_tokenizer_create(&model->memory.host, &files, &model->tokenizer, error);
}

static hymba_status open_tokenizer(hymba_model *model, const struct hy_source *source,
                                   hymba_error *error)
{
    hymba_status status =
        source->directory ? hy_tokenizer_open_directory(&model->memory.host, source->directory,
                                                        true, &model->tokenizer, error)
                          : tokenizer_from_blocks(model, source, error);
    if (status != HYMBA_OK || !model->tokenizer)
        return status;
    uint32_t size = hy_tokenizer_size(model->tokenizer);
    uint32_t vocabulary = model->plan.config.vocabulary_size;
    if (size > vocabulary)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "the tokenizer has %u tokens, but config.json's vocab_size is %u",
                       size, vocabulary);
    return HYMBA_OK;
}

static void destroy(hymba_model *model)
{
    hy_tokenizer_release(model->tokenizer);
    hy_weights_free(&model->memory, &model->weights);
    hy_plan_free(&model->memory, &model->plan);
    pthread_mutex_destroy(&model->lock);
    struct hy_memory memory = {.host = model->memory.host};
    hy_free(&memory, model);
}

hymba_status hy_model_open(const struct hy_source *given, const hymba_model_params *params,
                           hymba_model **out, hymba_error *error)
{
    struct hy_memory memory;
    *out = NULL;
    hymba_status status = hy_memory_init(&memory, params->host, error);
    if (status != HYMBA_OK)
        return status;
    hymba_model *model = hy_alloc_zero(&memory, 1, sizeof *model);
    if (!model)
        return hy_no_memory(error, sizeof *model, "the model");
    int code = pthread_mutex_init(&model->lock, NULL);
    if (code != 0) {
        hy_free(&memory, model);
        return hy_fail_system(error, HYMBA_ERROR_THREAD, code, "a mutex cannot be created");
    }
    atomic_init(&model->references, 1);
    hy_memory_inherit(&model->memory, &memory);
    model->memory.limit = params->memory_limit;
    struct hy_source source = *given;
    source.memory = &model->memory;
    source.map = !(params->flags & HYMBA_MODEL_NO_MAP);
    status = open_config(model, &source, error);
    if (status == HYMBA_OK && !(params->flags & HYMBA_MODEL_NO_TOKENIZER))
        status = open_tokenizer(model, &source, error);
    if (status == HYMBA_OK && !(params->flags & HYMBA_MODEL_NO_WEIGHTS)) {
        struct hy_recipe recipe = {.type = params->quantize};
        status = hy_weights_load(&model->memory, &source, &model->plan, &recipe, &model->weights,
                                 error);
        model->has_weights = status == HYMBA_OK;
    }
    if (status != HYMBA_OK) {
        destroy(model);
        return status;
    }
    model->n_parameters = hy_plan_parameters(&model->plan);
    *out = model;
    return HYMBA_OK;
}

hymba_model *hy_model_retain(hymba_model *model)
{
    atomic_fetch_add(&model->references, 1);
    return model;
}

void hy_model_release(hymba_model *model)
{
    if (model && atomic_fetch_sub(&model->references, 1) == 1)
        destroy(model);
}

/* Bits of an element, for comparing widths. */
static size_t bits_of(const struct hy_matrix *matrix)
{
    return hy_row_bytes(matrix->dtype, 32) / 4;
}

/* The narrowest of the large projections; NULL without weights or layers that have any. */
static const struct hy_matrix *narrowest_projection(const hymba_model *model)
{
    const struct hy_matrix *narrowest = NULL;
    for (uint32_t i = 0; model->has_weights && i < model->plan.config.n_layers; i++) {
        const struct hy_layer_weights *layer = &model->weights.layers[i];
        const struct hy_matrix *matrices[] = {&layer->in_proj, &layer->out_proj, &layer->gate,
                                              &layer->up, &layer->down};
        for (size_t j = 0; j < sizeof matrices / sizeof matrices[0]; j++)
            if (matrices[j]->data && (!narrowest || bits_of(matrices[j]) < bits_of(narrowest)))
                narrowest = matrices[j];
    }
    return narrowest;
}

static uint64_t projection_parameters(const hymba_model *model)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; model->has_weights && i < model->plan.config.n_layers; i++) {
        const struct hy_layer_weights *layer = &model->weights.layers[i];
        const struct hy_matrix *matrices[] = {&layer->in_proj, &layer->x_proj, &layer->dt_proj,
                                              &layer->out_proj, &layer->gate, &layer->up,
                                              &layer->down};
        for (size_t j = 0; j < sizeof matrices / sizeof matrices[0]; j++)
            sum += (uint64_t)matrices[j]->rows * matrices[j]->columns;
    }
    return sum;
}

/* Bytes of a matrix and its scales. */
static uint64_t matrix_bytes(const struct hy_matrix *matrix)
{
    uint64_t bytes = (uint64_t)matrix->rows * hy_row_bytes(matrix->dtype, matrix->columns);
    if (matrix->group > 0)
        bytes += (uint64_t)matrix->rows * (matrix->columns / matrix->group) * 2;
    return bytes;
}

static uint64_t pass_bytes(const hymba_model *model)
{
    const struct hy_weights *weights = &model->weights;
    if (!model->has_weights)
        return 0;
    uint64_t aside = matrix_bytes(&weights->meta);
    if (weights->head.data != weights->embedding.data)
        aside += matrix_bytes(&weights->embedding);
    return weights->bytes - aside;
}

void hy_model_describe(const hymba_model *model, hymba_model_info *info)
{
    const struct hy_config *config = &model->plan.config;
    const struct hy_matrix *projection = narrowest_projection(model);
    *info = (hymba_model_info){
        .vocabulary_size = config->vocabulary_size,
        .hidden_size = config->hidden_size,
        .n_layers = config->n_layers,
        .n_heads = config->n_heads,
        .n_kv_heads = config->n_kv_heads,
        .qk_head_size = config->qk_head_size,
        .v_head_size = config->v_head_size,
        .inner_size = config->inner_size,
        .state_size = config->state_size,
        .conv_width = config->conv_width,
        .dt_rank = config->dt_rank,
        .intermediate_size = config->intermediate_size,
        .n_meta_tokens = config->n_meta_tokens,
        .window = config->window,
        .n_kv_layers = model->plan.n_caches,
        .bos_token = config->bos_token,
        .eos_token = config->eos_token,
        .weight_dtype =
            model->has_weights ? model->weights.embedding.dtype : HYMBA_DTYPE_DEFAULT,
        .n_parameters = model->n_parameters,
        .weight_bytes = model->weights.bytes,
        .max_position = config->max_position,
        .rope_base = config->rope ? config->rope_base : 0.0,
        .rms_norm_epsilon = config->rms_norm_epsilon,
        .projection_dtype = projection ? projection->dtype : HYMBA_DTYPE_DEFAULT,
        .group_size = projection ? (uint32_t)projection->group : 0,
        .projection_parameters = projection_parameters(model),
        .pass_bytes = pass_bytes(model),
    };
}
