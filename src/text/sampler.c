#include "text/sampler.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/random.h"
#include "text/log_probabilities.h"
#include "text/sampler_object.h"

/* --------------------------------------------------------------- creation */

static bool runs(const hymba_sampler *sampler, enum hy_stage stage)
{
    for (size_t i = 0; i < sampler->order.count; i++)
        if (sampler->order.stages[i] == stage)
            return true;
    return false;
}

static void start_progress(hymba_sampler *sampler)
{
    sampler->progress =
        (struct hy_sampler_progress){.mu = 2 * (double)sampler->params.mirostat_tau};
}

static void choose_history(hymba_sampler *sampler)
{
    const hymba_sampler_params *params = &sampler->params;
    bool repetition = params->repeat_penalty != 0 && params->repeat_penalty != 1;
    sampler->penalises =
        runs(sampler, HY_STAGE_PENALTIES) &&
        (repetition || params->presence_penalty != 0 || params->frequency_penalty != 0);
    sampler->repels = runs(sampler, HY_STAGE_DRY) && params->dry_multiplier != 0;
    if (sampler->penalises)
        sampler->history.limit = hy_penalties_window(params);
    if (sampler->repels)
        sampler->history.limit = hy_max_size(sampler->history.limit, hy_dry_window(params));
}

/* A copy of the caller's array; NULL for an empty one, and without memory. */
static void *copy_array(struct hy_memory *memory, const void *from, size_t count, size_t size)
{
    void *copy = count > 0 ? hy_alloc_array(memory, count, size) : NULL;
    if (copy)
        memcpy(copy, from, count * size);
    return copy;
}

static hymba_status copy_arrays(hymba_sampler *sampler, hymba_error *error)
{
    hymba_sampler_params *params = &sampler->params;
    sampler->logit_bias = copy_array(&sampler->memory, params->logit_bias, params->n_logit_bias,
                                     sizeof *sampler->logit_bias);
    sampler->dry_breakers = copy_array(&sampler->memory, params->dry_breakers,
                                       params->n_dry_breakers, sizeof *sampler->dry_breakers);
    params->logit_bias = sampler->logit_bias;
    params->dry_breakers = sampler->dry_breakers;
    params->order = NULL;
    if (params->n_logit_bias > 0 && !sampler->logit_bias)
        return hy_no_memory(error, params->n_logit_bias, "the sampler's logit biases");
    if (params->n_dry_breakers > 0 && !sampler->dry_breakers)
        return hy_no_memory(error, params->n_dry_breakers, "the sampler's sequence breakers");
    return HYMBA_OK;
}

hymba_status hy_sampler_create(const hymba_sampler_params *given, const hymba_host *host,
                               hymba_sampler **sampler, hymba_error *error)
{
    struct hy_memory memory;
    struct hy_stage_order order;
    hymba_sampler_params params = *given;
    *sampler = NULL;
    hymba_status status = hy_sampler_check_params(&params, &order, error);
    if (status == HYMBA_OK)
        status = hy_memory_init(&memory, host, error);
    if (status != HYMBA_OK)
        return status;
    hymba_sampler *created = hy_alloc_zero(&memory, 1, sizeof *created);
    if (!created)
        return hy_no_memory(error, sizeof *created, "a sampler");
    hy_memory_inherit(&created->memory, &memory);
    atomic_init(&created->references, 1);
    created->params = params;
    created->order = order;
    created->key = hy_random_key(params.seed, "sampler");
    created->xtc_key = hy_random_key(params.seed, "xtc");
    start_progress(created);
    choose_history(created);
    status = copy_arrays(created, error);
    if (status != HYMBA_OK) {
        hy_sampler_release(created);
        return status;
    }
    *sampler = created;
    return HYMBA_OK;
}

hymba_sampler *hy_sampler_retain(hymba_sampler *sampler)
{
    if (sampler)
        atomic_fetch_add(&sampler->references, 1);
    return sampler;
}

static void free_candidates(hymba_sampler *sampler)
{
    hy_free(&sampler->memory, sampler->candidates);
    hy_free(&sampler->memory, sampler->custom_tokens);
    hy_free(&sampler->memory, sampler->custom_logits);
}

void hy_sampler_release(hymba_sampler *sampler)
{
    if (!sampler || atomic_fetch_sub(&sampler->references, 1) != 1)
        return;
    struct hy_memory memory;
    free_candidates(sampler);
    hy_free(&sampler->memory, sampler->logit_bias);
    hy_free(&sampler->memory, sampler->dry_breakers);
    hy_free(&sampler->memory, sampler->history.tokens);
    hy_free(&sampler->memory, sampler->overlaps);
    hy_memory_inherit(&memory, &sampler->memory);
    hy_free(&memory, sampler);
}

void hy_sampler_reset(hymba_sampler *sampler)
{
    if (!sampler)
        return;
    start_progress(sampler);
    hy_token_history_clear(&sampler->history);
}

hymba_status hy_sampler_accept(hymba_sampler *sampler, int32_t token, hymba_error *error)
{
    if (token < 0)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "token %d is negative", (int)token);
    hymba_status status = hy_token_history_reserve(&sampler->history, &sampler->memory, error);
    if (status == HYMBA_OK)
        hy_token_history_add(&sampler->history, token);
    return status;
}

/* ------------------------------------------------------------- candidates */

static hymba_status reserve_candidates(hymba_sampler *sampler, size_t count, hymba_error *error)
{
    struct hy_memory *memory = &sampler->memory;
    if (count <= sampler->n_candidates)
        return HYMBA_OK;
    bool custom = sampler->params.process != NULL;
    struct hy_candidate *candidates = hy_alloc_array(memory, count, sizeof *candidates);
    int32_t *tokens = custom ? hy_alloc_array(memory, count, sizeof *tokens) : NULL;
    float *logits = custom ? hy_alloc_array(memory, count, sizeof *logits) : NULL;
    if (!candidates || (custom && (!tokens || !logits))) {
        hy_free(memory, candidates);
        hy_free(memory, tokens);
        hy_free(memory, logits);
        return hy_no_memory(error, count, "the sampler's candidates");
    }
    free_candidates(sampler);
    sampler->candidates = candidates;
    sampler->custom_tokens = tokens;
    sampler->custom_logits = logits;
    sampler->n_candidates = count;
    return HYMBA_OK;
}

static hymba_status reserve(hymba_sampler *sampler, size_t n_logits, hymba_error *error)
{
    hymba_status status = reserve_candidates(sampler, n_logits, error);
    if (status == HYMBA_OK)
        status = hy_token_history_reserve(&sampler->history, &sampler->memory, error);
    if (status == HYMBA_OK && sampler->repels)
        status = hy_dry_reserve(sampler, error);
    return status;
}

/* What is known of each token, and the biases; the candidates are those that can come. */
static hymba_status collect(hymba_sampler *sampler, const float *logits, size_t n_logits,
                            struct hy_candidates *candidates, hymba_error *error)
{
    struct hy_candidate *items = sampler->candidates;
    for (size_t i = 0; i < n_logits; i++)
        items[i] = (struct hy_candidate){.logit = logits[i], .id = (int32_t)i};
    for (size_t i = 0; i < sampler->params.n_logit_bias; i++) {
        const hymba_logit_bias *bias = &sampler->logit_bias[i];
        if ((size_t)bias->token < n_logits)
            items[bias->token].logit += bias->bias;
    }
    if (sampler->penalises)
        hy_penalties_mark(sampler, items, n_logits);
    if (sampler->repels)
        hy_dry_mark(sampler, items, n_logits);
    hy_candidates_start(candidates, items, n_logits, n_logits);
    hy_candidates_drop_impossible(candidates);
    return candidates->count > 0
               ? HYMBA_OK
               : hy_fail(error, HYMBA_ERROR_ARGUMENT,
                         "all %zu logits are negative infinity with the logit biases, there is "
                         "nothing to choose",
                         n_logits);
}

/* ----------------------------------------------------------------- stages */

static float to_float(double value)
{
    return value > FLT_MAX ? FLT_MAX : value < -FLT_MAX ? -FLT_MAX : (float)value;
}

/* A logit that the caller leaves alone keeps its full precision. */
static hymba_status take_custom_logits(hymba_sampler *sampler, struct hy_candidates *candidates,
                                       hymba_error *error)
{
    for (size_t i = 0; i < candidates->count; i++) {
        struct hy_candidate *candidate = &candidates->items[i];
        float logit = sampler->custom_logits[i];
        if (isnan(logit) || logit == INFINITY)
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, candidate->id,
                              "the caller's stage gave token %d a logit that is %s",
                              (int)candidate->id,
                              isnan(logit) ? "not a number" : "positive infinity");
        if (logit != to_float(candidate->logit))
            candidate->logit = logit;
    }
    hy_candidates_drop_impossible(candidates);
    return candidates->count > 0
               ? HYMBA_OK
               : hy_fail(error, HYMBA_ERROR_ARGUMENT, "the caller's stage dropped all candidates");
}

static hymba_status run_custom(hymba_sampler *sampler, struct hy_candidates *candidates,
                               hymba_error *error)
{
    const hymba_sampler_params *params = &sampler->params;
    hy_candidates_settle(candidates);
    for (size_t i = 0; i < candidates->count; i++) {
        sampler->custom_tokens[i] = candidates->items[i].id;
        sampler->custom_logits[i] = to_float(candidates->items[i].logit);
    }
    int32_t stop = params->process(params->process_user, sampler->custom_tokens,
                                   sampler->custom_logits, candidates->count);
    if (stop != 0)
        return hy_fail(error, HYMBA_ERROR_CANCELLED, "the caller's stage stopped with %d",
                       (int)stop);
    return take_custom_logits(sampler, candidates, error);
}

static void run_xtc(const hymba_sampler *sampler, struct hy_sampler_progress *progress,
                    struct hy_candidates *candidates)
{
    const hymba_sampler_params *params = &sampler->params;
    if (params->xtc_probability == 0 || params->xtc_threshold > 0.5f || candidates->n_kept < 2)
        return;
    if (hy_random_unit(sampler->xtc_key, &progress->n_xtc_draws) < params->xtc_probability)
        hy_exclude_top_choices(candidates, params->xtc_threshold);
}

static void run_temperature(double temperature, struct hy_candidates *candidates)
{
    if (temperature == 0)
        hy_candidates_keep_best(candidates);
    else
        candidates->temperature *= temperature;
}

static bool gives_way_to_mirostat(enum hy_stage stage)
{
    return stage == HY_STAGE_TOP_N_SIGMA || stage == HY_STAGE_TOP_K ||
           stage == HY_STAGE_TYPICAL_P || stage == HY_STAGE_TOP_P || stage == HY_STAGE_MIN_P ||
           stage == HY_STAGE_XTC;
}

static hymba_status run_stage(hymba_sampler *sampler, enum hy_stage stage,
                              struct hy_sampler_progress *progress,
                              struct hy_candidates *candidates, hymba_error *error)
{
    const hymba_sampler_params *params = &sampler->params;
    hymba_status status = HYMBA_OK;
    if (params->mirostat && gives_way_to_mirostat(stage))
        return HYMBA_OK;
    switch (stage) {
    case HY_STAGE_PENALTIES:
        if (sampler->penalises)
            hy_penalties_apply(params, candidates);
        break;
    case HY_STAGE_DRY:
        if (sampler->repels)
            hy_dry_apply(params, candidates);
        break;
    case HY_STAGE_TOP_N_SIGMA:
        hy_keep_top_n_sigma(candidates, params->top_n_sigma);
        break;
    case HY_STAGE_TOP_K:
        hy_keep_top_k(candidates, params->top_k);
        break;
    case HY_STAGE_TYPICAL_P:
        hy_keep_typical(candidates, params->typical_p);
        break;
    case HY_STAGE_TOP_P:
        hy_keep_top_p(candidates, params->top_p);
        break;
    case HY_STAGE_MIN_P:
        hy_keep_min_p(candidates, params->min_p);
        break;
    case HY_STAGE_XTC:
        run_xtc(sampler, progress, candidates);
        break;
    case HY_STAGE_TEMPERATURE:
        run_temperature(params->temperature, candidates);
        break;
    case HY_STAGE_CUSTOM:
        status = run_custom(sampler, candidates, error);
        break;
    case HY_N_STAGES:
        break;
    }
    return status;
}

/* ----------------------------------------------------------------- choice */

static int32_t choose(const hymba_sampler *sampler, struct hy_sampler_progress *progress,
                      struct hy_candidates *candidates)
{
    const hymba_sampler_params *params = &sampler->params;
    double surprise;
    if (params->temperature == 0)
        hy_candidates_keep_best(candidates);
    if (params->temperature == 0 && !params->mirostat)
        return hy_candidates_best(candidates)->id;
    if (!params->mirostat)
        return hy_draw(candidates, hy_random_unit(sampler->key, &progress->n_draws), NULL);
    hy_keep_expected(candidates, progress->mu);
    double unit = hy_random_unit(sampler->key, &progress->n_draws);
    int32_t token = hy_draw(candidates, unit, &surprise);
    progress->mu -= params->mirostat_eta * (surprise - params->mirostat_tau);
    return token;
}

hymba_status hy_sampler_choose(hymba_sampler *sampler, const float *logits, size_t n_logits,
                               hymba_error *error)
{
    struct hy_candidates candidates;
    struct hy_sampler_progress progress = sampler->progress;
    hymba_status status = hy_check_logits(logits, n_logits, error);
    if (status == HYMBA_OK)
        status = reserve(sampler, n_logits, error);
    if (status == HYMBA_OK)
        status = collect(sampler, logits, n_logits, &candidates, error);
    for (size_t i = 0; status == HYMBA_OK && i < sampler->order.count; i++)
        status = run_stage(sampler, sampler->order.stages[i], &progress, &candidates, error);
    if (status != HYMBA_OK)
        return status;
    sampler->chosen = choose(sampler, &progress, &candidates);
    sampler->progress_then = progress;
    return HYMBA_OK;
}

int32_t hy_sampler_take(hymba_sampler *sampler)
{
    sampler->progress = sampler->progress_then;
    hy_token_history_add(&sampler->history, sampler->chosen);
    return sampler->chosen;
}

hymba_status hy_sampler_sample(hymba_sampler *sampler, const float *logits, size_t n_logits,
                               int32_t *token, hymba_error *error)
{
    hymba_status status = hy_sampler_choose(sampler, logits, n_logits, error);
    if (status == HYMBA_OK)
        *token = hy_sampler_take(sampler);
    return status;
}

void hy_sampler_mark(hymba_sampler *sampler, size_t mark)
{
    sampler->batch_mark = mark;
}

size_t hy_sampler_marked(const hymba_sampler *sampler)
{
    return sampler->batch_mark;
}

bool hy_sampler_claim(hymba_sampler *sampler)
{
    return !atomic_exchange(&sampler->scheduled, true);
}

void hy_sampler_disclaim(hymba_sampler *sampler)
{
    atomic_store(&sampler->scheduled, false);
}
