/*
 * The tokens that one call of the sampler chooses among. The stages order them by probability, the
 * lower id first among equals, but only as far as they look: the array's first n_heap elements are
 * a heap with the best on top, the others the best ones, the very best last.
 */
#ifndef HY_TEXT_CANDIDATES_H
#define HY_TEXT_CANDIDATES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hy_candidate {
    double logit; /* finite */
    int32_t id;
    uint32_t n_recent;   /* how often it is among the tokens that the penalties look at */
    uint32_t n_repeated; /* length of the longest repetition it would go on with, as DRY counts */
    bool breaks;         /* no repetition goes across it */
};

struct hy_candidates {
    struct hy_candidate *items;
    size_t count;
    size_t n_heap;
    size_t n_kept;      /* the stages keep the n_kept best */
    bool ordered;       /* the array is as said above; before, it has no order */
    double temperature; /* by which the logits are still to be divided */
    double unit;        /* so many parts has a weight of 1 */
};

/* All tokens, or what is known to be left of n_logits of them. */
void hy_candidates_start(struct hy_candidates *candidates, struct hy_candidate *items,
                         size_t count, size_t n_logits);

/* The candidate with so many better ones before it, rank < n_kept. */
const struct hy_candidate *hy_candidates_ranked(struct hy_candidates *candidates, size_t rank);

/* All that are kept in turn, i < n_kept, in no particular order. */
const struct hy_candidate *hy_candidates_kept(struct hy_candidates *candidates, size_t i);

const struct hy_candidate *hy_candidates_best(struct hy_candidates *candidates);

/* Keeps the best alone. */
void hy_candidates_keep_best(struct hy_candidates *candidates);

/* Drops the so many best, fewer than n_kept. */
void hy_candidates_drop_best(struct hy_candidates *candidates, size_t count);

/* Makes items[0 .. count) what is kept, at temperature 1 and without order: logits may change. */
void hy_candidates_settle(struct hy_candidates *candidates);

/* Drops those whose logit is -infinity, after hy_candidates_settle. */
void hy_candidates_drop_impossible(struct hy_candidates *candidates);

/* Probability relative to one with the logit best. */
double hy_candidates_weight(const struct hy_candidates *candidates,
                            const struct hy_candidate *candidate, double best);

/*
 * The same in whole parts of a unit, which is a power of two. Sums of weights are sums of parts:
 * they are exact, so that they come out the same in whatever order they are made, by one thread or
 * by many. The unit is so small that a sum of all fits 62 bits.
 */
uint64_t hy_candidates_parts(const struct hy_candidates *candidates,
                             const struct hy_candidate *candidate, double best);
double hy_weight_unit(size_t n_logits);
uint64_t hy_weight_parts(double weight, double unit);

/* Sum of the parts of what is kept. */
uint64_t hy_candidates_total(struct hy_candidates *candidates, double best);

#endif
