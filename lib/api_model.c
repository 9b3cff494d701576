#include <string.h>

#include "abi.h"
#include "base/checked.h"
#include "model/model.h"
#include "run/quantise.h"

void hymba_model_params_init(hymba_model_params *params, size_t size)
{
    hy_init_struct(params, size);
}

void hymba_init_params_init(hymba_init_params *params, size_t size)
{
    hy_init_struct(params, size);
}

void hymba_quantize_params_init(hymba_quantize_params *params, size_t size)
{
    hy_init_struct(params, size);
}

enum { KNOWN_FLAGS = HYMBA_MODEL_NO_MAP | HYMBA_MODEL_NO_WEIGHTS | HYMBA_MODEL_NO_TOKENIZER };

/* The caller's host is a sized struct of its own: *host becomes its complete copy. */
static hymba_status read_host(const hymba_host **given, hymba_host *host, hymba_error *error)
{
    if (!*given)
        return HYMBA_OK;
    hymba_status status = hy_read_struct(host, sizeof *host, *given, "host", error);
    *given = host;
    return status;
}

static hymba_status open_source(const struct hy_source *source, const hymba_model_params *given,
                                hymba_model **model, hymba_error *error)
{
    hymba_model_params params;
    hymba_host host;
    hymba_status status = hy_read_struct(&params, sizeof params, given, "params", error);
    if (status == HYMBA_OK)
        status = read_host(&params.host, &host, error);
    if (status != HYMBA_OK)
        return status;
    if (params.flags & ~(uint32_t)KNOWN_FLAGS)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "params.flags: found 0x%x, known are 0x%x",
                       params.flags, KNOWN_FLAGS);
    status = hy_check_reserved(params.reserved, error);
    if (status == HYMBA_OK)
        status = hy_check_reserved(params.reserved2, error);
    if (status != HYMBA_OK)
        return status;
    return hy_model_open(source, &params, model, error);
}

hymba_status hymba_model_open(const char *directory, const hymba_model_params *params,
                              hymba_model **model, hymba_error *error)
{
    hymba_status status = hy_require(model, "model", error);
    if (status != HYMBA_OK)
        return status;
    *model = NULL;
    status = hy_require(directory, "directory", error);
    if (status != HYMBA_OK)
        return status;
    struct hy_source source = {.directory = directory};
    return open_source(&source, params, model, error);
}

hymba_status hymba_model_open_memory(const hymba_memory_file *files, size_t file_size,
                                     size_t n_files, const hymba_model_params *params,
                                     hymba_model **model, hymba_error *error)
{
    hymba_status status = hy_require(model, "model", error);
    if (status != HYMBA_OK)
        return status;
    *model = NULL;
    status = hy_require(files, "files", error);
    if (status != HYMBA_OK)
        return status;
    if (file_size < sizeof *files)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "file_size: found %zu, expected at least %zu",
                       file_size, sizeof *files);
    status = hy_check_count(n_files, file_size, "n_files", error);
    if (status != HYMBA_OK)
        return status;
    for (size_t i = 0; i < n_files; i++) {
        const hymba_memory_file *file =
            (const void *)((const char *)files + i * file_size);
        status = hy_check_element(file, file_size, sizeof *file, "files", i, error);
        if (status != HYMBA_OK)
            return status;
        if (!file->name || (!file->data && file->size > 0))
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)i,
                              "files[%zu]: name or data is NULL", i);
        if (!hy_is_count(file->size, 1))
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)i,
                              "files[%zu].size: found %zu, which is more than memory can hold", i,
                              file->size);
    }
    struct hy_source source = {.files = files, .file_size = file_size, .n_files = n_files};
    return open_source(&source, params, model, error);
}

hymba_model *hymba_model_retain(hymba_model *model)
{
    return model ? hy_model_retain(model) : NULL;
}

void hymba_model_release(hymba_model *model)
{
    hy_model_release(model);
}

hymba_status hymba_model_get_info(const hymba_model *model, hymba_model_info *info,
                                  hymba_error *error)
{
    hymba_model_info complete;
    hymba_status status = hy_require(model, "model", error);
    if (status != HYMBA_OK)
        return status;
    hy_model_describe(model, &complete);
    return hy_write_struct(info, &complete, sizeof complete, "info", error);
}

uint64_t hymba_model_fingerprint(const hymba_model *model)
{
    return model ? hy_model_fingerprint(model) : 0;
}

hymba_status hymba_model_get_layer_info(const hymba_model *model, uint32_t layer,
                                        hymba_layer_info *info, hymba_error *error)
{
    hymba_status status = hy_require(model, "model", error);
    if (status != HYMBA_OK)
        return status;
    if (layer >= model->plan.config.n_layers)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "layer: found %u, the model has %u", layer,
                       model->plan.config.n_layers);
    const struct hy_layer_plan *plan = &model->plan.layers[layer];
    bool attends = plan->attention != HYMBA_ATTENTION_NONE;
    hymba_layer_info complete = {
        .attention = plan->attention,
        .ssm = plan->ssm,
        .fusion = plan->fusion,
        .ffn = plan->ffn,
        .window = plan->attention == HYMBA_ATTENTION_WINDOW ? (uint32_t)plan->window : 0,
        .kv_layer = attends ? (int32_t)model->plan.caches[plan->kv].layer : -1,
    };
    return hy_write_struct(info, &complete, sizeof complete, "info", error);
}

hymba_tokenizer *hymba_model_tokenizer(const hymba_model *model)
{
    return model ? model->tokenizer : NULL;
}

uint32_t hymba_preset_count(void)
{
    return hy_preset_count();
}

const char *hymba_preset_name(uint32_t index)
{
    return hy_preset_name(index);
}

hymba_status hymba_preset_config(const char *name, char *buffer, size_t capacity, size_t *needed,
                                 hymba_error *error)
{
    struct hy_memory memory;
    char *text;
    hymba_status status = hy_require(name, "name", error);
    if (status == HYMBA_OK)
        status = hy_require(needed, "needed", error);
    if (status == HYMBA_OK && capacity > 0)
        status = hy_require(buffer, "buffer", error);
    if (status == HYMBA_OK)
        status = hy_memory_init(&memory, NULL, error);
    if (status == HYMBA_OK)
        status = hy_preset_config(&memory, name, &text, needed, error);
    if (status != HYMBA_OK)
        return status;
    if (*needed <= capacity)
        memcpy(buffer, text, *needed);
    hy_free(&memory, text);
    return hy_check_buffer(buffer, capacity, *needed, error);
}

hymba_status hymba_model_init(const char *directory, const char *config_json, size_t length,
                              const hymba_init_params *given, hymba_error *error)
{
    hymba_init_params params;
    hymba_host host;
    hymba_status status = hy_require(directory, "directory", error);
    if (status == HYMBA_OK)
        status = hy_require(config_json, "config_json", error);
    if (status == HYMBA_OK)
        status = hy_text_length(config_json, &length, "config_json", error);
    if (status == HYMBA_OK)
        status = hy_read_struct(&params, sizeof params, given, "params", error);
    if (status == HYMBA_OK)
        status = hy_check_reserved(params.reserved, error);
    if (status == HYMBA_OK)
        status = read_host(&params.host, &host, error);
    return status == HYMBA_OK ? hy_model_init(directory, config_json, length, &params, error)
                              : status;
}

hymba_status hymba_quantize(const char *input, const char *output,
                            const hymba_quantize_params *given, hymba_error *error)
{
    hymba_quantize_params params;
    hymba_host host;
    hymba_status status = hy_require(input, "input", error);
    if (status == HYMBA_OK)
        status = hy_require(output, "output", error);
    if (status == HYMBA_OK)
        status = hy_read_struct(&params, sizeof params, given, "params", error);
    if (status == HYMBA_OK)
        status = read_host(&params.host, &host, error);
    if (status == HYMBA_OK && params.n_tokens > 0)
        status = hy_require(params.tokens, "params.tokens", error);
    if (status == HYMBA_OK && !hy_is_count((size_t)params.n_tokens, sizeof *params.tokens))
        status = hy_fail(error, HYMBA_ERROR_ARGUMENT,
                         "params.n_tokens: more than memory can hold");
    return status == HYMBA_OK ? hy_quantise(input, output, &params, error) : status;
}
