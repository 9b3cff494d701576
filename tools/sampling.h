/* The options of how a token is chosen, shared by the verbs that generate text. */
#ifndef TOOLS_SAMPLING_H
#define TOOLS_SAMPLING_H

#include "hymba.h"
#include "options.h"

struct sampling_options {
    double temperature, top_p, min_p, typical_p, top_n_sigma;
    uint64_t top_k, seed;
    double repeat_penalty, presence_penalty, frequency_penalty;
    const char *repeat_last_n;
    double xtc_probability, xtc_threshold;
    double dry_multiplier, dry_base;
    uint64_t dry_allowed_length;
    const char *dry_penalty_last_n;
    struct option_texts dry_breakers;
    const char *mirostat;
    double mirostat_tau, mirostat_eta;
    struct option_texts logit_bias;
    const char *order; /* NULL: the library's */
    /* What finish_sampling_options makes of the texts. */
    int32_t repeat_tokens, dry_tokens;
    hymba_logit_bias biases[OPTION_ITEMS_MOST];
};

/* The command's defaults: temperature 0.8, top-k 40, top-p 0.95, min-p 0.05. */
void sampling_defaults(struct sampling_options *options);

void add_sampling_options(struct option_set *set, struct sampling_options *options);

/* After options_parse: checks what the parser cannot, and chooses a seed if none was given. */
int finish_sampling_options(const struct option_set *set, struct sampling_options *options);

/* A sampler by the options, which has accepted no token yet. */
int create_sampler(const struct sampling_options *options, const hymba_tokenizer *tokenizer,
                   hymba_sampler **sampler);

#endif
