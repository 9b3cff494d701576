#include <math.h>

#include "base/checked.h"
#include "base/random.h"
#include "text/sample_row.h"
#include "text/sampler_object.h"

/* ------------------------------------------------------------------ planning */

/*
 * Adds a stage that has something to do. Penalties change the order of candidates, so they can come
 * first only: a device keeps the best of an order that no longer changes.
 */
static bool add_stage(const hymba_sampler *sampler, enum hy_stage stage, struct hy_sample_row *row)
{
    const hymba_sampler_params *params = &sampler->params;
    enum hy_sample_stage added = HY_SAMPLE_TOP_K;
    bool acts = true;
    switch (stage) {
    case HY_STAGE_PENALTIES:
        return !sampler->penalises || row->n_stages == 0;
    case HY_STAGE_DRY:
        return !sampler->repels;
    case HY_STAGE_TOP_N_SIGMA:
        return params->top_n_sigma == 0;
    case HY_STAGE_TYPICAL_P:
        return params->typical_p == 0 || params->typical_p == 1;
    case HY_STAGE_XTC:
        return params->xtc_probability == 0 || params->xtc_threshold > 0.5f;
    case HY_STAGE_TOP_K:
        acts = params->top_k > 0;
        break;
    case HY_STAGE_TOP_P:
        added = HY_SAMPLE_TOP_P;
        acts = params->top_p != 0 && params->top_p != 1;
        break;
    case HY_STAGE_MIN_P:
        added = HY_SAMPLE_MIN_P;
        acts = params->min_p != 0;
        break;
    case HY_STAGE_TEMPERATURE:
        added = HY_SAMPLE_TEMPERATURE;
        acts = params->temperature != 1;
        break;
    case HY_STAGE_CUSTOM:
    case HY_N_STAGES:
        return false;
    }
    if (acts)
        row->stages[row->n_stages++] = (int32_t)added;
    return true;
}

size_t hy_sampler_max_changes(const hymba_sampler *sampler, size_t n_logits)
{
    size_t n_recent = sampler->penalises ? hy_min_size(sampler->history.count,
                                                       hy_penalties_window(&sampler->params))
                                         : 0;
    size_t n;
    return hy_add_size(n_recent, sampler->params.n_logit_bias, &n) ? hy_min_size(n, n_logits)
                                                                   : n_logits;
}

static const uint32_t BIASED = 1u << 31; /* in a token's count: it is among the changes */

/* The biased tokens. False if one has two biases: their sum would be rounded otherwise. */
static bool list_biases(const hymba_sampler *sampler, size_t n_logits, uint32_t *counts,
                        struct hy_sample_change *changes, size_t *n)
{
    bool once = true;
    for (size_t i = 0; once && i < sampler->params.n_logit_bias; i++) {
        const hymba_logit_bias *bias = &sampler->logit_bias[i];
        if ((size_t)bias->token >= n_logits)
            continue;
        once = counts[bias->token] == 0;
        counts[bias->token] = BIASED;
        if (once)
            changes[(*n)++] = (struct hy_sample_change){bias->token, bias->bias, 0};
    }
    return once;
}

/* The recent tokens, and how often each came. */
static void list_recent(const hymba_sampler *sampler, size_t n_logits, uint32_t *counts,
                        struct hy_sample_change *changes, size_t *n)
{
    const struct hy_token_history *history = &sampler->history;
    size_t window = hy_min_size(history->count, hy_penalties_window(&sampler->params));
    for (size_t age = 0; sampler->penalises && age < window; age++) {
        int32_t token = hy_token_history_back(history, age);
        if ((size_t)token >= n_logits)
            continue;
        if (counts[token]++ == 0)
            changes[(*n)++] = (struct hy_sample_change){.token = token};
    }
}

/* Leaves zeros in counts. */
static void read_counts(uint32_t *counts, struct hy_sample_change *changes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        changes[i].n_recent = counts[changes[i].token] & ~BIASED;
        counts[changes[i].token] = 0;
    }
}

bool hy_sampler_plan_row(const hymba_sampler *sampler, size_t n_logits, uint32_t *counts,
                         struct hy_sample_change *changes, struct hy_sample_row *row)
{
    const hymba_sampler_params *params = &sampler->params;
    uint64_t n_draws = sampler->progress.n_draws;
    *row = (struct hy_sample_row){
        .changes = changes,
        .draw = hy_random_unit(sampler->key, &n_draws),
        .greedy = params->temperature == 0,
        .top_k = params->top_k,
        .top_p = params->top_p,
        .min_p = params->min_p,
        .temperature = params->temperature,
        .repeat_penalty = params->repeat_penalty,
        .presence_penalty = params->presence_penalty,
        .frequency_penalty = params->frequency_penalty,
    };
    bool fits = !params->mirostat && n_logits <= HY_SAMPLE_MOST_LOGITS &&
                sampler->history.count < BIASED;
    for (size_t i = 0; fits && i < sampler->order.count; i++)
        fits = add_stage(sampler, sampler->order.stages[i], row);
    if (!fits)
        return false;
    fits = list_biases(sampler, n_logits, counts, changes, &row->n_changes);
    if (fits)
        list_recent(sampler, n_logits, counts, changes, &row->n_changes);
    read_counts(counts, changes, row->n_changes);
    return fits;
}

hymba_status hy_sampler_choose_token(hymba_sampler *sampler, int32_t token, hymba_error *error)
{
    hymba_status status = hy_token_history_reserve(&sampler->history, &sampler->memory, error);
    if (status != HYMBA_OK)
        return status;
    sampler->chosen = token;
    sampler->progress_then = sampler->progress;
    if (sampler->params.temperature != 0)
        sampler->progress_then.n_draws++;
    return HYMBA_OK;
}

/* --------------------------------------------------------------- one row, plainly */

static bool are_possible(const float *logits, size_t n_logits)
{
    bool possible = true;
    for (size_t i = 0; i < n_logits; i++)
        possible = possible && logits[i] < INFINITY; /* false for a NaN, too */
    return possible;
}

static void change_logits(const struct hy_sample_row *row, struct hy_candidate *items,
                          struct hy_candidates *candidates)
{
    const hymba_sampler_params params = {
        .repeat_penalty = row->repeat_penalty,
        .presence_penalty = row->presence_penalty,
        .frequency_penalty = row->frequency_penalty,
    };
    for (size_t i = 0; i < row->n_changes; i++) {
        items[row->changes[i].token].logit += row->changes[i].bias;
        items[row->changes[i].token].n_recent = row->changes[i].n_recent;
    }
    hy_candidates_drop_impossible(candidates);
    if (candidates->count > 0)
        hy_penalties_apply(&params, candidates);
}

static void run_stages(const struct hy_sample_row *row, struct hy_candidates *candidates)
{
    for (uint32_t i = 0; i < row->n_stages; i++)
        switch ((enum hy_sample_stage)row->stages[i]) {
        case HY_SAMPLE_TOP_K:
            hy_keep_top_k(candidates, row->top_k);
            break;
        case HY_SAMPLE_TOP_P:
            hy_keep_top_p(candidates, row->top_p);
            break;
        case HY_SAMPLE_MIN_P:
            hy_keep_min_p(candidates, row->min_p);
            break;
        case HY_SAMPLE_TEMPERATURE:
            candidates->temperature *= row->temperature;
            break;
        }
}

int32_t hy_sample_row_plainly(const struct hy_sample_row *row, const float *logits,
                              size_t n_logits, struct hy_candidate *items)
{
    struct hy_candidates candidates;
    if (!are_possible(logits, n_logits))
        return -1;
    for (size_t i = 0; i < n_logits; i++)
        items[i] = (struct hy_candidate){.logit = logits[i], .id = (int32_t)i};
    hy_candidates_start(&candidates, items, n_logits, n_logits);
    change_logits(row, items, &candidates);
    if (candidates.count == 0)
        return -1;
    if (row->greedy)
        return hy_candidates_best(&candidates)->id;
    run_stages(row, &candidates);
    return hy_draw(&candidates, row->draw, NULL);
}
