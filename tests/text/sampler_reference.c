#include "sampler_reference.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------- candidates */

void reference_start(struct reference *reference, const hymba_sampler_params *params,
                     const float *logits, size_t n_logits)
{
    reference->params = params;
    reference->n = 0;
    for (size_t i = 0; i < n_logits; i++) {
        long double logit = logits[i];
        for (size_t j = 0; j < params->n_logit_bias; j++)
            if ((size_t)params->logit_bias[j].token == i)
                logit += params->logit_bias[j].bias;
        if (logit > -INFINITY)
            reference->items[reference->n++] =
                (struct reference_candidate){.token = (int32_t)i, .logit = logit};
    }
}

static int compare(const void *left, const void *right)
{
    const struct reference_candidate *a = left, *b = right;
    if (a->logit != b->logit)
        return a->logit > b->logit ? -1 : 1;
    return a->token < b->token ? -1 : 1;
}

void reference_normalise(struct reference *reference)
{
    struct reference_candidate *items = reference->items;
    long double sum = 0;
    qsort(items, reference->n, sizeof *items, compare);
    for (size_t i = 0; i < reference->n; i++)
        sum += items[i].probability = expl(items[i].logit - items[0].logit);
    for (size_t i = 0; i < reference->n; i++)
        items[i].probability /= sum;
}

const struct reference_candidate *reference_find(const struct reference *reference, int32_t token)
{
    for (size_t i = 0; i < reference->n; i++)
        if (reference->items[i].token == token)
            return &reference->items[i];
    return NULL;
}

/* -------------------------------------------------------------- penalties */

static size_t at_most(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void penalties(struct reference *reference)
{
    const hymba_sampler_params *params = reference->params;
    size_t window = reference->n_history;
    if (params->repeat_last_n >= 0)
        window = at_most(window, params->repeat_last_n ? (size_t)params->repeat_last_n : 64);
    for (size_t i = 0; i < reference->n; i++) {
        struct reference_candidate *candidate = &reference->items[i];
        size_t count = 0;
        for (size_t j = reference->n_history - window; j < reference->n_history; j++)
            count += reference->history[j] == candidate->token;
        if (count > 0 && params->repeat_penalty != 0) {
            if (candidate->logit > 0)
                candidate->logit /= params->repeat_penalty;
            else
                candidate->logit *= params->repeat_penalty;
        }
        if (count > 0)
            candidate->logit -= params->presence_penalty;
        candidate->logit -= (long double)count * params->frequency_penalty;
    }
}

static bool is_breaker(const hymba_sampler_params *params, int32_t token)
{
    for (size_t i = 0; i < params->n_dry_breakers; i++)
        if (params->dry_breakers[i] == token)
            return true;
    return false;
}

/* Of how many tokens the text's end is a repetition of what ends at tokens[end - 1]. */
static size_t repetition(const hymba_sampler_params *params, const int32_t *tokens, size_t n,
                         size_t end)
{
    size_t length = 0;
    while (length < end && tokens[end - 1 - length] == tokens[n - 1 - length] &&
           !is_breaker(params, tokens[n - 1 - length]))
        length++;
    return length;
}

/* The longest repetition that the token would go on with. */
static size_t longest_repetition(const struct reference *reference, int32_t token)
{
    const hymba_sampler_params *params = reference->params;
    size_t window = reference->n_history, longest = 0;
    if (params->dry_penalty_last_n > 0)
        window = at_most(window, (size_t)params->dry_penalty_last_n);
    const int32_t *tokens = reference->history + (reference->n_history - window);
    for (size_t next = 1; next < window; next++) {
        size_t length = tokens[next] == token ? repetition(params, tokens, window, next) : 0;
        longest = length > longest ? length : longest;
    }
    return longest;
}

static void dry(struct reference *reference)
{
    const hymba_sampler_params *params = reference->params;
    size_t allowed = params->dry_allowed_length ? (size_t)params->dry_allowed_length : 2;
    long double base = params->dry_base != 0 ? params->dry_base : 1.75L;
    for (size_t i = 0; params->dry_multiplier != 0 && i < reference->n; i++) {
        struct reference_candidate *candidate = &reference->items[i];
        size_t length = longest_repetition(reference, candidate->token);
        if (length < allowed || is_breaker(params, candidate->token))
            continue;
        long double growth = powl(base, (long double)(length - allowed));
        candidate->logit -= params->dry_multiplier * (growth < FLT_MAX ? growth : FLT_MAX);
    }
}

/* ------------------------------------------------------------------- cuts */

static void top_n_sigma(struct reference *reference)
{
    long double sum = 0, squares = 0, best = -INFINITY;
    size_t n = 0;
    if (reference->params->top_n_sigma == 0)
        return;
    for (size_t i = 0; i < reference->n; i++) {
        sum += reference->items[i].logit;
        best = fmaxl(best, reference->items[i].logit);
    }
    for (size_t i = 0; i < reference->n; i++)
        squares += powl(reference->items[i].logit - sum / (long double)reference->n, 2);
    long double deviation = sqrtl(squares / (long double)reference->n);
    for (size_t i = 0; i < reference->n; i++)
        if (reference->items[i].logit >= best - reference->params->top_n_sigma * deviation)
            reference->items[n++] = reference->items[i];
    reference->n = n;
}

static void top_k(struct reference *reference)
{
    reference_normalise(reference);
    if (reference->params->top_k > 0)
        reference->n = at_most(reference->n, (size_t)reference->params->top_k);
}

static void top_p(struct reference *reference)
{
    float p = reference->params->top_p;
    long double sum = 0;
    size_t n = 0;
    if (p == 0 || p == 1)
        return;
    reference_normalise(reference);
    while (n < reference->n && sum < p)
        sum += reference->items[n++].probability;
    reference->n = n;
}

static void min_p(struct reference *reference)
{
    size_t n = 0;
    reference_normalise(reference);
    for (size_t i = 0; i < reference->n; i++)
        if (reference->items[i].probability >=
            reference->params->min_p * reference->items[0].probability)
            reference->items[n++] = reference->items[i];
    reference->n = n;
}

/* For qsort: how far the surprises are from their mean. */
struct typicality {
    long double distance;
    struct reference_candidate candidate;
};

static int compare_typicality(const void *left, const void *right)
{
    const struct typicality *a = left, *b = right;
    return a->distance < b->distance ? -1 : a->distance > b->distance;
}

static void typical_p(struct reference *reference)
{
    static struct typicality list[REFERENCE_MAX];
    float p = reference->params->typical_p;
    long double entropy = 0, sum = 0;
    size_t n = 0;
    if (p == 0 || p == 1)
        return;
    reference_normalise(reference);
    for (size_t i = 0; i < reference->n; i++)
        if (reference->items[i].probability > 0)
            entropy -= reference->items[i].probability * logl(reference->items[i].probability);
    for (size_t i = 0; i < reference->n; i++)
        list[i] = (struct typicality){
            fabsl(-logl(reference->items[i].probability) - entropy), reference->items[i]};
    qsort(list, reference->n, sizeof *list, compare_typicality);
    while (n < reference->n && sum <= p) {
        sum += list[n].candidate.probability;
        reference->items[n] = list[n].candidate;
        n++;
    }
    reference->n = n;
}

static void xtc(struct reference *reference)
{
    float threshold = reference->params->xtc_threshold;
    size_t n_top = 0;
    threshold = threshold != 0 ? threshold : 0.1f;
    if (!reference->xtc_acts || reference->params->xtc_probability == 0 || threshold > 0.5f)
        return;
    reference_normalise(reference);
    while (n_top < reference->n && reference->items[n_top].probability >= threshold)
        n_top++;
    if (n_top < 2)
        return;
    reference->n -= n_top - 1;
    memmove(reference->items, reference->items + n_top - 1,
            reference->n * sizeof *reference->items);
}

static void temperature(struct reference *reference)
{
    if (reference->params->temperature == 0) {
        reference_normalise(reference);
        reference->n = 1;
        return;
    }
    for (size_t i = 0; i < reference->n; i++)
        reference->items[i].logit /= reference->params->temperature;
}

/* ------------------------------------------------------------------ order */

void reference_stage(struct reference *reference, const char *name, size_t length)
{
    static const struct {
        const char *name;
        void (*run)(struct reference *reference);
        bool without_mirostat;
    } stages[] = {
        {"penalties", penalties, false},
        {"dry", dry, false},
        {"top_n_sigma", top_n_sigma, true},
        {"top_k", top_k, true},
        {"typical_p", typical_p, true},
        {"top_p", top_p, true},
        {"min_p", min_p, true},
        {"xtc", xtc, true},
        {"temperature", temperature, false},
    };
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        if (strlen(stages[i].name) == length && memcmp(stages[i].name, name, length) == 0 &&
            !(stages[i].without_mirostat && reference->params->mirostat))
            stages[i].run(reference);
}

void reference_run(struct reference *reference, const char *order)
{
    while (*order) {
        size_t length = strcspn(order, ";");
        reference_stage(reference, order, length);
        order += length + (order[length] == ';');
    }
}

void reference_mirostat(struct reference *reference, long double mu)
{
    size_t n = 1;
    reference_normalise(reference);
    while (n < reference->n && -log2l(reference->items[n].probability) <= mu)
        n++;
    reference->n = n;
    reference_normalise(reference);
}
