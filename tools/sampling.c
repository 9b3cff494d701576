#include "sampling.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "library.h"
#include "output.h"

void sampling_defaults(struct sampling_options *options)
{
    *options = (struct sampling_options){
        .temperature = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05, .repeat_penalty = 1};
}

void add_sampling_options(struct option_set *set, struct sampling_options *options)
{
    option_real(set, 0, "temp", &options->temperature, 0, 1000,
                "temperature; 0: always the most probable token (default: 0.8)");
    option_integer(set, 0, "top-k", &options->top_k, 0, INT32_MAX,
                   "choose among the N most probable; 0: all (default: 40)");
    option_real(set, 0, "top-p", &options->top_p, 0, 1,
                "choose among the most probable that make up X; 0 or 1: all\n"
                "(default: 0.95)");
    option_real(set, 0, "min-p", &options->min_p, 0, 1,
                "drop what is less probable than X times the best (default: 0.05)");
    option_real(set, 0, "repeat-penalty", &options->repeat_penalty, 0, 1000,
                "divides the logits of recent tokens; 0 or 1: off (default: 1)");
    option_integer(set, 0, "seed", &options->seed, 0, INT64_MAX,
                   "of the random choice (default: another one each time, printed)");
}

static uint64_t random_seed(void)
{
    uint32_t seed = 0;
    FILE *file = fopen("/dev/urandom", "rb");
    size_t got = file ? fread(&seed, sizeof seed, 1, file) : 0;
    if (file)
        fclose(file);
    if (got != 1)
        seed = (uint32_t)time(NULL) * 2654435761u ^ (uint32_t)getpid();
    return seed;
}

int finish_sampling_options(const struct option_set *set, struct sampling_options *options)
{
    if (!option_given(set, "seed"))
        options->seed = random_seed();
    return STATUS_OK;
}

int create_sampler(const struct sampling_options *options, const hymba_tokenizer *tokenizer,
                   hymba_sampler **sampler)
{
    hymba_error error;
    hymba_sampler_params params;
    (void)tokenizer;
    hymba_error_init(&error, sizeof error);
    hymba_sampler_params_init(&params, sizeof params);
    params.seed = options->seed;
    params.temperature = (float)options->temperature;
    params.top_k = (int32_t)options->top_k;
    params.top_p = (float)options->top_p;
    params.min_p = (float)options->min_p;
    params.repeat_penalty = (float)options->repeat_penalty;
    hymba_status status = hymba_sampler_create(&params, NULL, sampler, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}
