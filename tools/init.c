#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "input.h"
#include "library.h"
#include "output.h"
#include "verbs.h"

struct init_options {
    const char *preset;
    const char *config;
    const char *output;
    const char *dtype;
    uint64_t seed;
    struct compute_options compute;
};

static void describe(struct option_set *set, struct init_options *options)
{
    options_begin(set, "init", "(--preset NAME | --config FILE) -o DIR [options]",
                  "Writes a model directory with random weights: config.json,\n"
                  "generation_config.json and model.safetensors. The same configuration, seed and\n"
                  "type give the same bytes. A model that is already there is not overwritten.");
    option_choice(set, 0, "preset", preset_choices(), &options->preset, "a published shape");
    option_text(set, 0, "config", "FILE", &options->config, "a config.json");
    option_text(set, 'o', "output", "DIR", &options->output, "the directory to write");
    option_is_required(set);
    option_integer(set, 0, "seed", &options->seed, 0, UINT64_MAX,
                   "of the random numbers (default: 0)");
    option_choice(set, 0, "dtype", "f32|f16|bf16", &options->dtype,
                  "type of the weights (default: bf16)");
    add_threads_option(set, &options->compute);
}

static int write_model(const struct init_options *options, const struct bytes *config,
                       const char *source)
{
    hymba_error error;
    hymba_host host;
    hymba_init_params params;
    hymba_error_init(&error, sizeof error);
    output_host(&host);
    hymba_init_params_init(&params, sizeof params);
    params.seed = options->seed;
    params.dtype = hymba_dtype_from_name(options->dtype);
    params.host = &host;
    hymba_status status = hymba_model_init(options->output, config->data, config->size, &params,
                                           &error);
    progress_end();
    if (status == HYMBA_OK)
        return STATUS_OK;
    /* An error in the configuration is told with the file's name, one in writing has its own. */
    return fail_library(status == HYMBA_ERROR_FILE ? NULL : source, status, &error);
}

int verb_init(int argc, char **argv)
{
    struct init_options options = {.dtype = "bf16"};
    struct option_set set;
    struct bytes config = {0};
    int status;
    describe(&set, &options);
    if (!options_parse(&set, argc, argv, &status))
        return status;
    if (!options.preset == !options.config)
        return wrong_usage("init", "give one of --preset NAME and --config FILE");
    if (options.preset)
        status = read_preset(options.preset, &config.data, &config.size);
    else
        status = read_bytes(options.config, &config);
    if (status == STATUS_OK)
        status = write_model(&options, &config, options.preset ? options.preset : options.config);
    if (status == STATUS_OK)
        printf("wrote %s: %s, %s, seed %" PRIu64 "\n", options.output,
               options.preset ? options.preset : options.config, options.dtype, options.seed);
    free(config.data);
    return status;
}
