#include "sampling.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ids.h"
#include "library.h"
#include "output.h"
#include "ranks.h"

void sampling_defaults(struct sampling_options *options)
{
    *options = (struct sampling_options){
        .temperature = 0.8,
        .top_k = 40,
        .top_p = 0.95,
        .min_p = 0.05,
        .typical_p = 1,
        .repeat_penalty = 1,
        .repeat_last_n = "64",
        .xtc_threshold = 0.1,
        .dry_base = 1.75,
        .dry_allowed_length = 2,
        .dry_penalty_last_n = "-1",
        .mirostat = "0",
        .mirostat_tau = 5,
        .mirostat_eta = 0.1,
    };
}

/* ---------------------------------------------------------------- options */

static void add_cut_options(struct option_set *set, struct sampling_options *options)
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
    option_real(set, 0, "typical", &options->typical_p, 0, 1,
                "choose among the most typical that make up X; 0 or 1: all\n"
                "(default: 1)");
    option_real(set, 0, "top-nsigma", &options->top_n_sigma, 0, 1000,
                "drop what is more than X standard deviations below the best\n"
                "logit; 0: off (default: 0)");
    option_real(set, 0, "xtc-probability", &options->xtc_probability, 0, 1,
                "how often the top choices but the last are dropped (default: 0)");
    option_real(set, 0, "xtc-threshold", &options->xtc_threshold, 0, 1,
                "least probability of a top choice; 0: 0.1 (default: 0.1)");
}

static void add_penalty_options(struct option_set *set, struct sampling_options *options)
{
    option_real(set, 0, "repeat-penalty", &options->repeat_penalty, 0, 1000,
                "divides the logits of recent tokens; 0 or 1: off (default: 1)");
    option_text(set, 0, "repeat-last-n", "N", &options->repeat_last_n,
                "how many recent tokens count for the penalties; 0: none,\n"
                "-1: all (default: 64)");
    option_real(set, 0, "presence-penalty", &options->presence_penalty, -1000, 1000,
                "taken off the logits of recent tokens (default: 0)");
    option_real(set, 0, "frequency-penalty", &options->frequency_penalty, -1000, 1000,
                "the same for each time that a token came (default: 0)");
    option_real(set, 0, "dry-multiplier", &options->dry_multiplier, 0, 1000,
                "strength of the DRY penalty on repeated sequences; 0: off\n"
                "(default: 0)");
    option_real(set, 0, "dry-base", &options->dry_base, 1, 1000,
                "its growth with each repeated token (default: 1.75)");
    option_integer(set, 0, "dry-allowed-length", &options->dry_allowed_length, 1, INT32_MAX,
                   "repetitions up to this length stay free (default: 2)");
    option_text(set, 0, "dry-penalty-last-n", "N", &options->dry_penalty_last_n,
                "how many recent tokens DRY looks at; 0: none, -1: all\n"
                "(default: -1)");
    option_texts(set, 0, "dry-sequence-breaker", "TEXT", &options->dry_breakers,
                 "DRY looks at no sequence across a token with this text; may be\n"
                 "given several times; none: no breakers (default: a line's end,\n"
                 "':', '\"' and '*')");
}

void add_sampling_options(struct option_set *set, struct sampling_options *options)
{
    add_cut_options(set, options);
    add_penalty_options(set, options);
    option_choice(set, 0, "mirostat", "0|2", &options->mirostat,
                  "2: Mirostat 2 instead of the cuts (default: 0)");
    option_real(set, 0, "mirostat-lr", &options->mirostat_eta, 0, 1000,
                "its learning rate; 0: 0.1 (default: 0.1)");
    option_real(set, 0, "mirostat-ent", &options->mirostat_tau, 0, 1000,
                "the surprise it keeps to, in bits; 0: 5 (default: 5)");
    option_text(set, 0, "samplers", "ORDER", &options->order,
                "the stages that run, in their order (default: penalties;dry;\n"
                "top_n_sigma;top_k;typical_p;top_p;min_p;xtc;temperature)");
    option_texts(set, 0, "logit-bias", "TOKEN(+|-)BIAS", &options->logit_bias,
                 "add to the logit of a token, '29905-1.5' or '29905-inf'; may be\n"
                 "given several times");
    option_integer(set, 0, "seed", &options->seed, 0, INT64_MAX,
                   "of the random choice (default: another one each time, printed;\n"
                   "0 if there are several ranks)");
}

/* ----------------------------------------------------------------- values */

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

/* Digits at the beginning of text as a number up to INT32_MAX; false if there are none. */
static bool read_number(const char *text, int32_t *number, const char **end)
{
    char *behind = NULL;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    unsigned long long value = strtoull(text, &behind, 10);
    *number = (int32_t)value;
    *end = behind;
    return errno == 0 && value <= INT32_MAX;
}

/* A number of recent tokens, or -1. */
static int read_window(const char *verb, const char *name, const char *text, int32_t *window)
{
    const char *end = "";
    *window = -1;
    if (strcmp(text, "-1") == 0 || (read_number(text, window, &end) && *end == '\0'))
        return STATUS_OK;
    return wrong_usage(verb, "--%s takes a number of tokens, or -1 for all, not '%s'", name, text);
}

static int read_logit_bias(const char *verb, const char *text, hymba_logit_bias *bias)
{
    const char *sign = "";
    char *end = NULL;
    bool good = read_number(text, &bias->token, &sign) && (*sign == '+' || *sign == '-');
    if (good && strcmp(sign, "-inf") == 0) {
        bias->bias = -INFINITY;
        return STATUS_OK;
    }
    good = good && sign[1] != '\0' && strspn(sign + 1, ".0123456789eE+-") == strlen(sign + 1);
    double value = good ? strtod(sign, &end) : 0;
    if (!good || *end != '\0' || fabs(value) > 1e9)
        return wrong_usage(verb, "--logit-bias takes TOKEN+BIAS or TOKEN-BIAS, not '%s'", text);
    bias->bias = (float)value;
    return STATUS_OK;
}

int finish_sampling_options(const struct option_set *set, struct sampling_options *options)
{
    if (!option_given(set, "seed"))
        options->seed = ranks_are_several() ? 0 : random_seed(); /* all ranks choose alike */
    int status = read_window(set->verb, "repeat-last-n", options->repeat_last_n,
                             &options->repeat_tokens);
    if (status == STATUS_OK)
        status = read_window(set->verb, "dry-penalty-last-n", options->dry_penalty_last_n,
                             &options->dry_tokens);
    for (size_t i = 0; status == STATUS_OK && i < options->logit_bias.count; i++)
        status = read_logit_bias(set->verb, options->logit_bias.items[i], &options->biases[i]);
    return status;
}

/* ----------------------------------------------------- sequence breakers */

static bool contains(const char *text, size_t length, const char *part)
{
    size_t width = strlen(part);
    for (size_t i = 0; i + width <= length; i++)
        if (memcmp(text + i, part, width) == 0)
            return true;
    return false;
}

static bool contains_any(const char *text, size_t length, const char *const *parts, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (contains(text, length, parts[i]))
            return true;
    return false;
}

/* All tokens whose text contains one of the breakers. */
static int find_breakers(const hymba_tokenizer *tokenizer, const char *const *texts, size_t count,
                         struct ids *found)
{
    hymba_error error;
    size_t capacity = 256, length = 0;
    char *text = take_memory(capacity, 1);
    hymba_status status = HYMBA_OK;
    hymba_error_init(&error, sizeof error);
    int32_t n_ids = (int32_t)hymba_tokenizer_vocabulary_size(tokenizer);
    for (int32_t id = 0; status == HYMBA_OK && id < n_ids; id++) {
        status = hymba_tokenizer_decode(tokenizer, &id, 1, HYMBA_DECODE_SPECIAL, text, capacity,
                                        &length, &error);
        if (status == HYMBA_ERROR_BUFFER) {
            capacity = length;
            text = grow_memory(text, capacity, 1);
            status = hymba_tokenizer_decode(tokenizer, &id, 1, HYMBA_DECODE_SPECIAL, text,
                                            capacity, &length, &error);
        }
        if (status == HYMBA_OK && contains_any(text, length, texts, count))
            ids_add(found, id);
    }
    free(text);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

static int choose_breakers(const struct sampling_options *options,
                           const hymba_tokenizer *tokenizer, struct ids *found)
{
    static const char *const defaults[] = {"\n", ":", "\"", "*"};
    const struct option_texts *given = &options->dry_breakers;
    if (options->dry_multiplier == 0 || !tokenizer)
        return STATUS_OK;
    if (given->count == 0)
        return find_breakers(tokenizer, defaults, sizeof defaults / sizeof *defaults, found);
    if (given->count == 1 && strcmp(given->items[0], "none") == 0)
        return STATUS_OK;
    int status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < given->count; i++) {
        size_t before = found->count;
        status = find_breakers(tokenizer, &given->items[i], 1, found);
        if (status == STATUS_OK && found->count == before)
            status = fail("no token's text contains the sequence breaker '%s'", given->items[i]);
    }
    return status;
}

/* ---------------------------------------------------------------- sampler */

static void fill_params(const struct sampling_options *options, hymba_sampler_params *params)
{
    hymba_sampler_params_init(params, sizeof *params);
    params->seed = options->seed;
    params->temperature = (float)options->temperature;
    params->top_k = (int32_t)options->top_k;
    params->top_p = (float)options->top_p;
    params->min_p = (float)options->min_p;
    params->typical_p = (float)options->typical_p;
    params->top_n_sigma = (float)options->top_n_sigma;
    params->xtc_probability = (float)options->xtc_probability;
    params->xtc_threshold = (float)options->xtc_threshold;
    params->mirostat = options->mirostat[0] - '0';
    params->mirostat_tau = (float)options->mirostat_tau;
    params->mirostat_eta = (float)options->mirostat_eta;
    params->logit_bias = options->biases;
    params->n_logit_bias = options->logit_bias.count;
    params->order = options->order;
    if (options->repeat_tokens != 0) { /* to the library 0 means 64 */
        params->repeat_penalty = (float)options->repeat_penalty;
        params->presence_penalty = (float)options->presence_penalty;
        params->frequency_penalty = (float)options->frequency_penalty;
        params->repeat_last_n = options->repeat_tokens;
    }
    if (options->dry_tokens != 0) { /* to the library 0 means all */
        params->dry_multiplier = (float)options->dry_multiplier;
        params->dry_base = (float)options->dry_base;
        params->dry_allowed_length = (int32_t)options->dry_allowed_length;
        params->dry_penalty_last_n = options->dry_tokens;
    }
}

int create_sampler(const struct sampling_options *options, const hymba_tokenizer *tokenizer,
                   hymba_sampler **sampler)
{
    hymba_error error;
    hymba_sampler_params params;
    struct ids breakers = {.count = 0};
    hymba_error_init(&error, sizeof error);
    fill_params(options, &params);
    int status = choose_breakers(options, tokenizer, &breakers);
    params.dry_breakers = breakers.items;
    params.n_dry_breakers = breakers.count;
    if (status == STATUS_OK) {
        hymba_status result = hymba_sampler_create(&params, NULL, sampler, &error);
        status = result == HYMBA_OK ? STATUS_OK : fail_library(NULL, result, &error);
    }
    ids_free(&breakers);
    return status;
}
