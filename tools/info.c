#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "input.h"
#include "library.h"
#include "output.h"
#include "verbs.h"

struct info_options {
    const char *model;
    const char *preset;
    const char *config;
    const char *dtype;
    uint64_t context;
    bool json;
    struct compute_options compute;
};

/* Everything the verb tells. */
struct facts {
    const char *source;
    hymba_model *model;
    hymba_model_info model_info;
    hymba_memory_info memory;
    hymba_context_info machine;
    hymba_layer_info *layers;
    uint64_t weight_bytes;
    const char *weight_type;     /* of the embedding */
    const char *projection_type; /* of the layers */
};

static void describe(struct option_set *set, struct info_options *options)
{
    options_begin(set, "info", "(-m DIR | --preset NAME | --config FILE) [options]",
                  "Tells a model's configuration, its layer plan, the number of its parameters,\n"
                  "and the bytes of its weights and of each part of a session's state.");
    option_text(set, 'm', "model", "DIR", &options->model, "model directory");
    option_choice(set, 0, "preset", preset_choices(), &options->preset, "a published shape");
    option_text(set, 0, "config", "FILE", &options->config, "a config.json without weights");
    option_choice(set, 0, "dtype", "f32|f16|bf16", &options->dtype,
                  "type of the weights of --preset and --config (default: bf16)");
    option_integer(set, 0, "context", &options->context, 1, UINT64_C(1) << 40,
                   "tokens of the session (default: the model's\n"
                   "max_position_embeddings)");
    option_flag(set, 0, "json", &options->json,
                "print a JSON object: parameters, weight_bytes, layers, session,\n"
                "configuration...");
    add_compute_options(set, &options->compute);
}

/* --------------------------------------------------------------- gathering */

static int open_source(const struct info_options *options, struct facts *facts)
{
    struct bytes config = {0};
    int status = STATUS_OK;
    if (options->model) {
        facts->source = options->model;
        return open_model(options->model, HYMBA_MODEL_NO_TOKENIZER, options->compute.quantize,
                          &facts->model);
    }
    if (options->preset) {
        facts->source = options->preset;
        status = read_preset(options->preset, &config.data, &config.size);
    } else {
        facts->source = options->config;
        status = read_bytes(options->config, &config);
    }
    if (status == STATUS_OK)
        status = open_configuration(config.data, config.size, facts->source, &facts->model);
    free(config.data);
    return status;
}

/* What a context would run on. Without weights there is no context, so the demo model is asked:
 * the answer is the machine's. */
static int ask_machine(const struct compute_options *compute, hymba_context_info *info)
{
    hymba_model *demo = NULL;
    hymba_context *context = NULL;
    int status = open_model(NULL, HYMBA_MODEL_NO_TOKENIZER, compute->quantize, &demo);
    if (status == STATUS_OK)
        status = create_context(demo, compute, &context);
    if (status == STATUS_OK)
        status = get_context_info(context, info);
    hymba_context_release(context);
    hymba_model_release(demo);
    return status;
}

static int read_layers(struct facts *facts)
{
    hymba_error error;
    uint32_t count = facts->model_info.n_layers;
    hymba_error_init(&error, sizeof error);
    facts->layers = take_memory(count, sizeof *facts->layers);
    for (uint32_t i = 0; i < count; i++) {
        memset(&facts->layers[i], 0, sizeof facts->layers[i]);
        facts->layers[i].struct_size = sizeof facts->layers[i];
        hymba_status status = hymba_model_get_layer_info(facts->model, i, &facts->layers[i],
                                                         &error);
        if (status != HYMBA_OK)
            return fail_library(NULL, status, &error);
    }
    return STATUS_OK;
}

static uint64_t default_context(const hymba_model_info *info)
{
    return info->max_position ? info->max_position : 2048;
}

static int gather(const struct info_options *options, struct facts *facts)
{
    const hymba_model_info *info = &facts->model_info;
    hymba_dtype dtype = hymba_dtype_from_name(options->dtype);
    int status = open_source(options, facts);
    if (status == STATUS_OK)
        status = get_model_info(facts->model, &facts->model_info);
    if (status == STATUS_OK)
        status = read_layers(facts);
    if (status == STATUS_OK)
        status = get_memory_info(facts->model, &options->compute,
                                 options->context ? options->context : default_context(info),
                                 &facts->memory);
    if (status == STATUS_OK)
        status = ask_machine(&options->compute, &facts->machine);
    if (options->model)
        dtype = info->weight_dtype;
    facts->weight_type = hymba_dtype_name(dtype);
    facts->projection_type = facts->weight_type;
    if (options->model && info->projection_dtype != HYMBA_DTYPE_DEFAULT)
        facts->projection_type = hymba_dtype_name(info->projection_dtype);
    facts->weight_bytes = options->model ? info->weight_bytes
                                         : info->n_parameters * hymba_dtype_size(dtype);
    return status;
}

/* ---------------------------------------------------------------- printing */

static const char *attention_name(int32_t attention)
{
    return attention == HYMBA_ATTENTION_FULL ? "full"
         : attention == HYMBA_ATTENTION_WINDOW ? "window" : "none";
}

static const char *ssm_name(int32_t ssm)
{
    return ssm == HYMBA_SSM_MAMBA1 ? "mamba1" : "none";
}

static const char *fusion_name(int32_t fusion)
{
    return fusion == HYMBA_FUSION_MEAN ? "mean" : fusion == HYMBA_FUSION_CONCAT ? "concat" : "none";
}

static const char *ffn_name(int32_t ffn)
{
    return ffn == HYMBA_FFN_SWIGLU ? "swiglu" : "none";
}

static json_t *layers_to_json(const struct facts *facts)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < facts->model_info.n_layers; i++) {
        const hymba_layer_info *layer = &facts->layers[i];
        json_t *object = json_pack(
            "{s:s, s:I, s:s, s:s, s:s, s:I, s:b}", "attention", attention_name(layer->attention),
            "window", (json_int_t)layer->window, "ssm", ssm_name(layer->ssm), "fusion",
            fusion_name(layer->fusion), "ffn", ffn_name(layer->ffn), "kv_layer",
            (json_int_t)layer->kv_layer, "kv_producer", layer->kv_layer == (int32_t)i);
        if (json_array_append_new(array, object) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *session_to_json(const struct facts *facts)
{
    const hymba_memory_info *memory = &facts->memory;
    return json_pack("{s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "context",
                     (json_int_t)memory->n_tokens, "cache_type",
                     hymba_dtype_name(facts->machine.cache_type), "state_type",
                     hymba_dtype_name(facts->machine.state_type), "meta_bytes",
                     (json_int_t)memory->meta_bytes, "kv_bytes", (json_int_t)memory->kv_bytes,
                     "conv_bytes", (json_int_t)memory->conv_bytes, "ssm_bytes",
                     (json_int_t)memory->ssm_bytes, "total_bytes",
                     (json_int_t)memory->total_bytes);
}

/* The whole numbers of a configuration, for both forms of the output. */
struct number {
    const char *name;
    uint64_t value;
};

enum { NUMBERS = 17 };

static void list_numbers(const hymba_model_info *info, struct number numbers[NUMBERS])
{
    const struct number list[NUMBERS] = {
        {"vocabulary_size", info->vocabulary_size}, {"hidden_size", info->hidden_size},
        {"n_layers", info->n_layers},               {"n_heads", info->n_heads},
        {"n_kv_heads", info->n_kv_heads},           {"qk_head_size", info->qk_head_size},
        {"v_head_size", info->v_head_size},         {"inner_size", info->inner_size},
        {"state_size", info->state_size},           {"conv_width", info->conv_width},
        {"dt_rank", info->dt_rank},                 {"intermediate_size", info->intermediate_size},
        {"n_meta_tokens", info->n_meta_tokens},     {"window", info->window},
        {"n_kv_layers", info->n_kv_layers},         {"max_position", info->max_position},
        {"parameters", info->n_parameters},
    };
    memcpy(numbers, list, sizeof list);
}

static json_t *configuration_to_json(const hymba_model_info *info)
{
    struct number numbers[NUMBERS];
    json_t *object = json_pack("{s:I, s:I, s:f, s:f}", "bos_token", (json_int_t)info->bos_token,
                               "eos_token", (json_int_t)info->eos_token, "rope_base",
                               info->rope_base, "rms_norm_epsilon", info->rms_norm_epsilon);
    list_numbers(info, numbers);
    for (size_t i = 0; i < NUMBERS; i++)
        if (json_object_set_new(object, numbers[i].name,
                                json_integer((json_int_t)numbers[i].value)) != 0) {
            json_decref(object);
            return NULL;
        }
    return object;
}

static int print_as_json(const struct facts *facts)
{
    return print_json(json_pack(
        "{s:s, s:I, s:I, s:s, s:s, s:I, s:o, s:o, s:o, s:I, s:s, s:s, s:I}", "model",
        facts->source,
        "parameters", (json_int_t)facts->model_info.n_parameters, "weight_bytes",
        (json_int_t)facts->weight_bytes, "weight_type", facts->weight_type, "projection_type",
        facts->projection_type, "group_size", (json_int_t)facts->model_info.group_size,
        "configuration",
        configuration_to_json(&facts->model_info), "layers", layers_to_json(facts), "session",
        session_to_json(facts), "workspace_bytes", (json_int_t)facts->memory.workspace_bytes,
        "device", facts->machine.device, "cpu", facts->machine.cpu, "threads",
        (json_int_t)facts->machine.n_threads));
}

static void print_layer(const hymba_layer_info *layer, uint32_t index)
{
    printf("  %3" PRIu32 "  attention %s", index, attention_name(layer->attention));
    if (layer->attention == HYMBA_ATTENTION_WINDOW)
        printf(" of %" PRIu32, layer->window);
    if (layer->kv_layer == (int32_t)index)
        printf(" (own KV)");
    else if (layer->kv_layer >= 0)
        printf(" (KV of layer %" PRId32 ")", layer->kv_layer);
    printf(", ssm %s, fusion %s, ffn %s\n", ssm_name(layer->ssm), fusion_name(layer->fusion),
           ffn_name(layer->ffn));
}

static void print_bytes(const char *name, uint64_t bytes)
{
    printf("  %-18s %15" PRIu64 "  (%.1f MB)\n", name, bytes, (double)bytes / 1e6);
}

static int print_as_text(const struct facts *facts)
{
    const hymba_memory_info *memory = &facts->memory;
    struct number numbers[NUMBERS];
    list_numbers(&facts->model_info, numbers);
    printf("model %s\n", facts->source);
    for (size_t i = 0; i < NUMBERS; i++)
        printf("  %-18s %15" PRIu64 "\n", numbers[i].name, numbers[i].value);
    printf("  %-18s %15.1f\n  %-18s %15g\n", "rope_base", facts->model_info.rope_base,
           "rms_norm_epsilon", facts->model_info.rms_norm_epsilon);
    printf("  %-18s %15" PRId32 "\n  %-18s %15" PRId32 "\n", "bos_token",
           facts->model_info.bos_token, "eos_token", facts->model_info.eos_token);
    printf("layers\n");
    for (uint32_t i = 0; i < facts->model_info.n_layers; i++)
        print_layer(&facts->layers[i], i);
    printf("weights in %s", facts->weight_type);
    if (strcmp(facts->projection_type, facts->weight_type) != 0)
        printf(", projections in %s", facts->projection_type);
    if (facts->model_info.group_size > 0)
        printf(", groups of %" PRIu32, facts->model_info.group_size);
    printf("\n");
    print_bytes("weight_bytes", facts->weight_bytes);
    printf("session of %" PRIu64 " tokens, cache %s, state %s\n", memory->n_tokens,
           hymba_dtype_name(facts->machine.cache_type),
           hymba_dtype_name(facts->machine.state_type));
    print_bytes("meta_bytes", memory->meta_bytes);
    print_bytes("kv_bytes", memory->kv_bytes);
    print_bytes("conv_bytes", memory->conv_bytes);
    print_bytes("ssm_bytes", memory->ssm_bytes);
    print_bytes("total_bytes", memory->total_bytes);
    bool cpu = strcmp(facts->machine.device, "cpu") == 0;
    printf("context on %s, %s%s, %" PRIu32 " threads\n", facts->machine.device,
           cpu ? "instruction set " : "", facts->machine.cpu, facts->machine.n_threads);
    print_bytes("workspace_bytes", memory->workspace_bytes);
    return STATUS_OK;
}

int verb_info(int argc, char **argv)
{
    struct info_options options = {.dtype = "bf16"};
    struct option_set set;
    struct facts facts = {0};
    int status;
    describe(&set, &options);
    if (!options_parse(&set, argc, argv, &status))
        return status;
    if (!!options.model + !!options.preset + !!options.config != 1)
        return wrong_usage("info", "give one of -m DIR, --preset NAME and --config FILE");
    if (options.model && option_given(&set, "dtype"))
        return wrong_usage("info", "--dtype is for --preset and --config only");
    status = gather(&options, &facts);
    if (status == STATUS_OK)
        status = options.json ? print_as_json(&facts) : print_as_text(&facts);
    free(facts.layers);
    hymba_model_release(facts.model);
    return status;
}
