#include "library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "demo_model.h"
#include "interrupt.h"
#include "output.h"

void add_threads_option(struct option_set *set, struct compute_options *compute)
{
    option_integer(set, 0, "threads", &compute->threads, 1, 4096,
                   "threads to compute with (default: all processors)");
}

void add_compute_options(struct option_set *set, struct compute_options *compute)
{
    option_choice(set, 0, "quantize", "q8|q4|int8|int4", &compute->quantize,
                  "quantise the weights while loading (default: as stored)");
    add_threads_option(set, compute);
    option_choice(set, 0, "device", "cpu|cuda|cuda:N,...", &compute->device,
                  "where to compute: the processor, the first or the\n"
                  "N-th CUDA device, counted from 0, or several of them\n"
                  "together, as in cuda:0,1 (default: cpu)");
    option_choice(set, 0, "cpu", "best|generic|avx2|avx512|amx|neon", &compute->cpu,
                  "instruction set (default: $HYMBA_CPU, or best)");
    option_choice(set, 0, "compute", "f32|bf16|int8|fp8", &compute->compute,
                  "arithmetic of products with weights (default:\n"
                  "int8 if they are quantised, bf16 if they are and the\n"
                  "processor has instructions for it, else f32); fp8\n"
                  "needs a device that has it");
    option_choice(set, 0, "cache-type", "f32|f16|bf16|int8|fp8", &compute->cache_type,
                  "type of cached keys and values (default: f32)");
    option_choice(set, 0, "state-type", "f32|f16|bf16", &compute->state_type,
                  "type of SSM and convolution state (default: f32)");
    option_integer(set, 0, "memory-limit", &compute->memory_limit, 1, UINT64_MAX,
                   "most bytes of working memory and texts together; the\n"
                   "model's are not counted (default: no limit)");
}

void fill_context_params(const struct compute_options *compute, hymba_context_params *params)
{
    hymba_context_params_init(params, sizeof *params);
    params->device = compute->device;
    params->cpu = compute->cpu;
    params->n_threads = (uint32_t)compute->threads;
    params->compute = hymba_compute_from_name(compute->compute);
    params->cache_type = hymba_dtype_from_name(compute->cache_type);
    params->state_type = hymba_dtype_from_name(compute->state_type);
    params->memory_limit = compute->memory_limit;
    params->ranks = compute->ranks.ranks.struct_size > 0 ? &compute->ranks.ranks : NULL;
}

static void start_error(hymba_error *error)
{
    hymba_error_init(error, sizeof *error);
}

hymba_dtype quantized_type(const char *name)
{
    if (!name)
        return HYMBA_DTYPE_DEFAULT;
    return strcmp(name, "q4") == 0 || strcmp(name, "int4") == 0 ? HYMBA_DTYPE_INT4
                                                                : HYMBA_DTYPE_INT8;
}

int open_model(const char *directory, uint32_t flags, const char *quantize, hymba_model **model)
{
    hymba_error error;
    hymba_host host;
    hymba_model_params params;
    start_error(&error);
    output_host(&host);
    hymba_model_params_init(&params, sizeof params);
    params.flags = flags;
    params.host = &host;
    params.quantize = quantized_type(quantize);
    hymba_status status = directory ? hymba_model_open(directory, &params, model, &error)
                                    : demo_model_open(&params, model, &error);
    progress_end();
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

int open_configuration(const char *text, size_t length, const char *about, hymba_model **model)
{
    hymba_error error;
    hymba_model_params params;
    const hymba_memory_file file = {"config.json", text, length};
    start_error(&error);
    hymba_model_params_init(&params, sizeof params);
    params.flags = HYMBA_MODEL_NO_WEIGHTS | HYMBA_MODEL_NO_TOKENIZER;
    hymba_status status = hymba_model_open_memory(&file, sizeof file, 1, &params, model, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(about, status, &error);
}

int read_preset(const char *name, char **text, size_t *length)
{
    hymba_error error;
    size_t capacity = 0;
    start_error(&error);
    *text = NULL;
    hymba_status status = hymba_preset_config(name, NULL, 0, &capacity, &error);
    if (status == HYMBA_OK) {
        *text = take_memory(capacity, 1);
        status = hymba_preset_config(name, *text, capacity, length, &error);
    }
    if (status == HYMBA_OK)
        return STATUS_OK;
    free(*text);
    *text = NULL;
    return fail_library(NULL, status, &error);
}

const char *preset_choices(void)
{
    static char choices[256];
    size_t used = 0;
    for (uint32_t i = 0; i < hymba_preset_count() && used < sizeof choices; i++)
        used += (size_t)snprintf(choices + used, sizeof choices - used, "%s%s", i ? "|" : "",
                                 hymba_preset_name(i));
    return choices;
}

int create_context(hymba_model *model, const struct compute_options *compute,
                   hymba_context **context)
{
    hymba_error error;
    hymba_context_params params;
    start_error(&error);
    fill_context_params(compute, &params);
    hymba_status status = hymba_context_create(model, &params, context, &error);
    progress_end();
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

int get_model_info(const hymba_model *model, hymba_model_info *info)
{
    hymba_error error;
    start_error(&error);
    memset(info, 0, sizeof *info);
    info->struct_size = sizeof *info;
    hymba_status status = hymba_model_get_info(model, info, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

int get_context_info(const hymba_context *context, hymba_context_info *info)
{
    hymba_error error;
    start_error(&error);
    memset(info, 0, sizeof *info);
    info->struct_size = sizeof *info;
    hymba_status status = hymba_context_get_info(context, info, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

int get_memory_info(const hymba_model *model, const struct compute_options *compute,
                    uint64_t n_tokens, hymba_memory_info *info)
{
    hymba_error error;
    hymba_context_params params;
    start_error(&error);
    fill_context_params(compute, &params);
    memset(info, 0, sizeof *info);
    info->struct_size = sizeof *info;
    info->n_tokens = n_tokens;
    hymba_status status = hymba_model_get_memory_info(model, &params, info, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

int require_tokenizer(hymba_model *model, const char *where, hymba_tokenizer **tokenizer)
{
    *tokenizer = hymba_model_tokenizer(model);
    return *tokenizer ? STATUS_OK
                      : fail("%s: the model has no tokenizer", where ? where : "demo model");
}
