#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ids.h"
#include "library.h"
#include "output.h"
#include "verbs.h"

struct quantize_options {
    const char *model;
    const char *output;
    const char *type;
    const char *method;
    const char *text;
    const char *tokens;
    uint64_t most_tokens;
    uint64_t group;
    struct compute_options compute;
};

static void describe(struct option_set *set, struct quantize_options *options)
{
    options_begin(set, "quantize", "-m DIR -o DIR --type TYPE [options]",
                  "Writes a model directory with weights of 8 or 4 bits, which every verb takes.\n"
                  "Embedding and output matrix get 8 bits; what is small or sensitive stays as\n"
                  "it is. A model that is already there is not overwritten.");
    option_text(set, 'm', "model", "DIR", &options->model, "model directory");
    option_is_required(set);
    option_text(set, 'o', "output", "DIR", &options->output, "the directory to write");
    option_is_required(set);
    option_choice(set, 0, "type", "q8|q4|int8|int4", &options->type, "type of the projections");
    option_is_required(set);
    option_integer(set, 0, "group", &options->group, 32, 128,
                   "weights that share a scale: 32, 64 or 128\n"
                   "(default: 64 with q8, 32 with q4)");
    option_choice(set, 0, "method", "plain|importance|gptq", &options->method,
                  "how weights are rounded: to the least error of each group; with\n"
                  "errors weighed by the inputs' size; or with each error made up for\n"
                  "by the next weights (default: gptq with a calibration text, else\n"
                  "plain)");
    option_text(set, 0, "calibrate", "TEXT", &options->text,
                "a text file, for importance and gptq");
    option_text(set, 0, "calibrate-tokens", "FILE", &options->tokens,
                "the same as token ids with whitespace between");
    option_integer(set, 0, "most-tokens", &options->most_tokens, 1024, UINT64_C(1) << 30,
                   "tokens of the text that are used (default: 16384)");
    add_threads_option(set, &options->compute);
}

static int32_t method_of(const char *name)
{
    if (!name)
        return HYMBA_QUANTIZE_DEFAULT;
    if (strcmp(name, "plain") == 0)
        return HYMBA_QUANTIZE_PLAIN;
    return strcmp(name, "gptq") == 0 ? HYMBA_QUANTIZE_GPTQ : HYMBA_QUANTIZE_IMPORTANCE;
}

static int write_model(const struct quantize_options *options, const struct ids *ids)
{
    hymba_error error;
    hymba_host host;
    hymba_quantize_params params;
    hymba_error_init(&error, sizeof error);
    output_host(&host);
    hymba_quantize_params_init(&params, sizeof params);
    params.type = quantized_type(options->type);
    params.group_size = (uint32_t)options->group;
    params.method = method_of(options->method);
    params.n_threads = (uint32_t)options->compute.threads;
    params.tokens = ids->items;
    params.n_tokens = ids->count < options->most_tokens ? ids->count : options->most_tokens;
    params.host = &host;
    hymba_status status = hymba_quantize(options->model, options->output, &params, &error);
    progress_end();
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

/* The calibration text in the model's tokens. */
static int encode_text(const struct quantize_options *options, struct ids *ids)
{
    hymba_model *model = NULL;
    hymba_tokenizer *tokenizer = NULL;
    struct bytes text = {0};
    int status = open_model(options->model, HYMBA_MODEL_NO_WEIGHTS, NULL, &model);
    if (status == STATUS_OK)
        status = require_tokenizer(model, options->model, &tokenizer);
    if (status == STATUS_OK)
        status = read_bytes(options->text, &text);
    if (status == STATUS_OK)
        status = ids_encode(tokenizer, text.data, text.size, 0, options->text, ids);
    free(text.data);
    hymba_model_release(model);
    return status;
}

static int check_options(const struct quantize_options *options)
{
    bool calibrated = options->text || options->tokens;
    int32_t method = method_of(options->method);
    if (options->text && options->tokens)
        return wrong_usage("quantize", "give one of --calibrate and --calibrate-tokens");
    if (calibrated && method == HYMBA_QUANTIZE_PLAIN)
        return wrong_usage("quantize", "--method plain needs no calibration text");
    if (!calibrated && method != HYMBA_QUANTIZE_PLAIN && method != HYMBA_QUANTIZE_DEFAULT)
        return wrong_usage("quantize", "--method %s needs --calibrate TEXT", options->method);
    if (options->group != 0 && options->group != 32 && options->group != 64 &&
        options->group != 128)
        return wrong_usage("quantize", "--group: found %" PRIu64 ", expected 32, 64 or 128",
                           options->group);
    return STATUS_OK;
}

int verb_quantize(int argc, char **argv)
{
    struct quantize_options options = {.most_tokens = 16384};
    struct option_set set;
    struct ids ids = {0};
    int status;
    describe(&set, &options);
    if (!options_parse(&set, argc, argv, &status))
        return status;
    status = check_options(&options);
    if (status == STATUS_OK && options.text)
        status = encode_text(&options, &ids);
    if (status == STATUS_OK && options.tokens)
        status = ids_read(options.tokens, &ids);
    if (status == STATUS_OK)
        status = write_model(&options, &ids);
    if (status == STATUS_OK)
        printf("wrote %s: %s\n", options.output, options.type);
    ids_free(&ids);
    return status;
}
