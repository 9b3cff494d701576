#include <math.h>

#include "base/checked.h"
#include "text/exponential.h"
#include "text/sampler_object.h"

static const double LN2 = 0x1.62e42fefa39efp-1;

/* ------------------------------------------------ stages that keep the best */

void hy_keep_top_n_sigma(struct hy_candidates *candidates, double n)
{
    if (n == 0)
        return;
    double best = hy_candidates_ranked(candidates, 0)->logit, sum = 0, squares = 0;
    size_t n_kept = candidates->n_kept;
    for (size_t i = 0; i < n_kept; i++)
        sum += hy_candidates_kept(candidates, i)->logit;
    double mean = sum / (double)n_kept;
    for (size_t i = 0; i < n_kept; i++) {
        double distance = hy_candidates_kept(candidates, i)->logit - mean;
        squares += distance * distance;
    }
    double least = best - n * sqrt(squares / (double)n_kept);
    for (size_t rank = 1; rank < candidates->n_kept; rank++)
        if (hy_candidates_ranked(candidates, rank)->logit < least)
            candidates->n_kept = rank;
}

void hy_keep_top_k(struct hy_candidates *candidates, int32_t k)
{
    if (k > 0)
        candidates->n_kept = hy_min_size(candidates->n_kept, (size_t)k);
}

void hy_keep_top_p(struct hy_candidates *candidates, double p)
{
    if (p == 0 || p == 1)
        return;
    double best = hy_candidates_ranked(candidates, 0)->logit;
    double wanted = p * (double)hy_candidates_total(candidates, best);
    uint64_t sum = 0;
    for (size_t rank = 0; rank < candidates->n_kept; rank++) {
        const struct hy_candidate *candidate = hy_candidates_ranked(candidates, rank);
        sum += hy_candidates_parts(candidates, candidate, best);
        if ((double)sum >= wanted)
            candidates->n_kept = rank + 1;
    }
}

void hy_keep_min_p(struct hy_candidates *candidates, double p)
{
    if (p == 0)
        return;
    double best = hy_candidates_ranked(candidates, 0)->logit;
    for (size_t rank = 1; rank < candidates->n_kept; rank++) {
        const struct hy_candidate *candidate = hy_candidates_ranked(candidates, rank);
        if (hy_candidates_weight(candidates, candidate, best) < p)
            candidates->n_kept = rank;
    }
}

void hy_keep_expected(struct hy_candidates *candidates, double mu)
{
    double best = hy_candidates_ranked(candidates, 0)->logit;
    double log_total =
        hy_logarithm((double)hy_candidates_total(candidates, best) / candidates->unit);
    for (size_t rank = 1; rank < candidates->n_kept; rank++) {
        double logit = hy_candidates_ranked(candidates, rank)->logit;
        double log_probability = (logit - best) / candidates->temperature - log_total;
        if (-log_probability / LN2 > mu)
            candidates->n_kept = rank;
    }
}

/* -------------------------------------------- stages that may drop the best */

/* Logarithm of a weight; that of the probability but for a constant. */
static double log_weight(struct hy_candidates *candidates, size_t rank, double best)
{
    return (hy_candidates_ranked(candidates, rank)->logit - best) / candidates->temperature;
}

/* Mean of the log weights under the distribution. */
static double mean_log_weight(struct hy_candidates *candidates, double best)
{
    double total = 0, sum = 0;
    for (size_t i = 0; i < candidates->n_kept; i++) {
        const struct hy_candidate *candidate = hy_candidates_kept(candidates, i);
        double weight = hy_candidates_weight(candidates, candidate, best);
        total += weight;
        sum += weight * ((candidate->logit - best) / candidates->temperature);
    }
    return sum / total;
}

/*
 * How far a token's surprise -log p is from its mean, the entropy, is how far its log weight is
 * from the mean log weight: the normalisation cancels. So the most typical tokens are neighbours
 * in the order by probability, and are found from the mean outwards.
 */
void hy_keep_typical(struct hy_candidates *candidates, double p)
{
    if (p == 0 || p == 1)
        return;
    double best = hy_candidates_ranked(candidates, 0)->logit;
    double mean = mean_log_weight(candidates, best);
    double wanted = p * (double)hy_candidates_total(candidates, best);
    uint64_t sum = 0;
    size_t n_kept = candidates->n_kept, first = 0;
    while (first < n_kept && log_weight(candidates, first, best) > mean)
        first++;
    size_t end = first;
    while (end - first < n_kept && (double)sum <= wanted) {
        bool upward = end == n_kept ||
                      (first > 0 && log_weight(candidates, first - 1, best) - mean <=
                                        mean - log_weight(candidates, end, best));
        size_t rank = upward ? --first : end++;
        sum += hy_candidates_parts(candidates, hy_candidates_ranked(candidates, rank), best);
    }
    candidates->n_kept = end;
    hy_candidates_drop_best(candidates, first);
}

void hy_exclude_top_choices(struct hy_candidates *candidates, double threshold)
{
    double best = hy_candidates_ranked(candidates, 0)->logit;
    double total = (double)hy_candidates_total(candidates, best) / candidates->unit;
    double least = threshold * total;
    size_t last = 0;
    for (size_t rank = 0; rank < candidates->n_kept; rank++) {
        const struct hy_candidate *candidate = hy_candidates_ranked(candidates, rank);
        if (hy_candidates_weight(candidates, candidate, best) < least)
            break;
        last = rank;
    }
    hy_candidates_drop_best(candidates, last);
}

/* ------------------------------------------------------------------- draw */

/* The sums are exact, so the last one is more than any unit below 1 of the total: a token of which
 * nothing is left by the rounding to parts is never drawn. */
int32_t hy_draw(struct hy_candidates *candidates, double unit, double *surprise)
{
    double best = hy_candidates_ranked(candidates, 0)->logit;
    uint64_t total = hy_candidates_total(candidates, best), sum = 0;
    double wanted = unit * (double)total;
    const struct hy_candidate *chosen = NULL;
    for (size_t rank = 0; rank < candidates->n_kept && !((double)sum > wanted); rank++) {
        chosen = hy_candidates_ranked(candidates, rank);
        sum += hy_candidates_parts(candidates, chosen, best);
    }
    if (surprise)
        *surprise = (hy_logarithm((double)total / candidates->unit) -
                     (chosen->logit - best) / candidates->temperature) /
                    LN2;
    return chosen->id;
}
