#include "base/checked.h"
#include "text/sampler_object.h"

/* ------------------------------------------ repetition, presence, frequency */

size_t hy_penalties_window(const hymba_sampler_params *params)
{
    return params->repeat_last_n < 0 ? SIZE_MAX : (size_t)params->repeat_last_n;
}

void hy_penalties_mark(const hymba_sampler *sampler, struct hy_candidate *items, size_t count)
{
    const struct hy_token_history *history = &sampler->history;
    size_t window = hy_min_size(history->count, hy_penalties_window(&sampler->params));
    for (size_t age = 0; age < window; age++) {
        size_t token = (size_t)hy_token_history_back(history, age);
        if (token < count)
            items[token].n_recent++;
    }
}

void hy_penalties_apply(const hymba_sampler_params *params, struct hy_candidates *candidates)
{
    double repeat = params->repeat_penalty;
    hy_candidates_settle(candidates);
    for (size_t i = 0; i < candidates->count; i++) {
        struct hy_candidate *candidate = &candidates->items[i];
        if (candidate->n_recent == 0)
            continue;
        if (repeat != 0)
            candidate->logit =
                candidate->logit > 0 ? candidate->logit / repeat : candidate->logit * repeat;
        candidate->logit -= candidate->n_recent * (double)params->frequency_penalty +
                            (double)params->presence_penalty;
    }
}

/* -------------------------------------------------------------------- DRY */

size_t hy_dry_window(const hymba_sampler_params *params)
{
    /* So that lengths fit 32 bits. */
    return params->dry_penalty_last_n <= 0 ? UINT32_MAX : (size_t)params->dry_penalty_last_n;
}

static size_t dry_tokens(const hymba_sampler *sampler)
{
    return hy_min_size(sampler->history.count, hy_dry_window(&sampler->params));
}

hymba_status hy_dry_reserve(hymba_sampler *sampler, hymba_error *error)
{
    size_t n_tokens = dry_tokens(sampler), capacity;
    if (n_tokens <= sampler->n_overlaps)
        return HYMBA_OK;
    if (!hy_mul_size(n_tokens, 2, &capacity))
        capacity = n_tokens;
    uint32_t *overlaps = hy_alloc_array(&sampler->memory, capacity, sizeof *overlaps);
    if (!overlaps)
        return hy_no_memory(error, capacity, "the sampler's search for repetitions");
    hy_free(&sampler->memory, sampler->overlaps);
    sampler->overlaps = overlaps;
    sampler->n_overlaps = capacity;
    return HYMBA_OK;
}

static void mark_breakers(const hymba_sampler *sampler, struct hy_candidate *items, size_t count)
{
    for (size_t i = 0; i < sampler->params.n_dry_breakers; i++)
        if ((size_t)sampler->dry_breakers[i] < count)
            items[sampler->dry_breakers[i]].breaks = true;
}

static bool is_breaker(const hymba_sampler *sampler, const struct hy_candidate *items,
                       size_t count, int32_t token)
{
    if ((size_t)token < count)
        return items[token].breaks;
    for (size_t i = 0; i < sampler->params.n_dry_breakers; i++)
        if (sampler->dry_breakers[i] == token)
            return true;
    return false;
}

/* How many of the latest n_tokens tokens came after the last breaker. */
static size_t unbroken_length(const hymba_sampler *sampler, const struct hy_candidate *items,
                              size_t count, size_t n_tokens)
{
    size_t length = 0;
    while (length < n_tokens &&
           !is_breaker(sampler, items, count, hy_token_history_back(&sampler->history, length)))
        length++;
    return length;
}

/*
 * overlaps[age]: how many tokens, going back from that one, equal those going back from the last.
 * Linear in time: an earlier overlap [left, right) tells what lies inside it (the Z algorithm).
 */
static void find_overlaps(const struct hy_token_history *history, size_t n_tokens,
                          uint32_t *overlaps)
{
    size_t left = 0, right = 0;
    for (size_t age = 1; age < n_tokens; age++) {
        size_t length = age < right ? hy_min_size(right - age, overlaps[age - left]) : 0;
        while (age + length < n_tokens && hy_token_history_back(history, length) ==
                                              hy_token_history_back(history, age + length))
            length++;
        overlaps[age] = (uint32_t)length;
        if (age + length > right) {
            left = age;
            right = age + length;
        }
    }
}

void hy_dry_mark(hymba_sampler *sampler, struct hy_candidate *items, size_t count)
{
    const struct hy_token_history *history = &sampler->history;
    size_t n_tokens = dry_tokens(sampler), allowed = (size_t)sampler->params.dry_allowed_length;
    if (n_tokens <= allowed)
        return;
    mark_breakers(sampler, items, count);
    size_t longest = unbroken_length(sampler, items, count, n_tokens);
    if (longest < allowed)
        return;
    find_overlaps(history, n_tokens, sampler->overlaps);
    for (size_t age = 1; age < n_tokens; age++) {
        size_t length = hy_min_size(sampler->overlaps[age], longest);
        size_t next = (size_t)hy_token_history_back(history, age - 1);
        if (length >= allowed && next < count && !items[next].breaks &&
            length > items[next].n_repeated)
            items[next].n_repeated = (uint32_t)length;
    }
}

/* base >= 1 to the power of exponent, at most the greatest float. Multiplications alone, so that it
 * is the same on every machine. */
static double power(double base, uint32_t exponent)
{
    static const double MOST = 0x1.fffffep127;
    double result = 1;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1)
            result *= base;
        base *= base;
    }
    return result < MOST ? result : MOST;
}

void hy_dry_apply(const hymba_sampler_params *params, struct hy_candidates *candidates)
{
    hy_candidates_settle(candidates);
    for (size_t i = 0; i < candidates->count; i++) {
        struct hy_candidate *candidate = &candidates->items[i];
        if (candidate->n_repeated == 0)
            continue;
        uint32_t beyond = candidate->n_repeated - (uint32_t)params->dry_allowed_length;
        candidate->logit -= (double)params->dry_multiplier * power(params->dry_base, beyond);
    }
}
