#include "text/candidates.h"

#include <math.h>
#include <string.h>

#include "text/exponential.h"

static void start(struct hy_candidates *candidates, struct hy_candidate *items, size_t count,
                  double unit)
{
    *candidates = (struct hy_candidates){
        .items = items, .count = count, .n_kept = count, .temperature = 1, .unit = unit};
}

void hy_candidates_start(struct hy_candidates *candidates, struct hy_candidate *items,
                         size_t count, size_t n_logits)
{
    start(candidates, items, count, hy_weight_unit(n_logits));
}

/* ------------------------------------------------------------------ order */

static bool is_better(const struct hy_candidate *a, const struct hy_candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void sift_down(struct hy_candidate *heap, size_t count, size_t parent)
{
    struct hy_candidate moving = heap[parent];
    for (size_t child = 2 * parent + 1; child < count; child = 2 * parent + 1) {
        if (child + 1 < count && is_better(&heap[child + 1], &heap[child]))
            child++;
        if (!is_better(&heap[child], &moving))
            break;
        heap[parent] = heap[child];
        parent = child;
    }
    heap[parent] = moving;
}

static void make_heap(struct hy_candidates *candidates)
{
    if (candidates->ordered)
        return;
    candidates->ordered = true;
    candidates->n_heap = candidates->count;
    for (size_t parent = candidates->count / 2; parent-- > 0;)
        sift_down(candidates->items, candidates->count, parent);
}

const struct hy_candidate *hy_candidates_ranked(struct hy_candidates *candidates, size_t rank)
{
    struct hy_candidate *items = candidates->items;
    size_t place = candidates->count - 1 - rank;
    make_heap(candidates);
    while (candidates->n_heap > place) {
        struct hy_candidate best = items[0];
        candidates->n_heap--;
        items[0] = items[candidates->n_heap];
        sift_down(items, candidates->n_heap, 0);
        items[candidates->n_heap] = best;
    }
    return &items[place];
}

const struct hy_candidate *hy_candidates_kept(struct hy_candidates *candidates, size_t i)
{
    if (candidates->n_kept == candidates->count)
        return &candidates->items[i];
    return hy_candidates_ranked(candidates, i);
}

const struct hy_candidate *hy_candidates_best(struct hy_candidates *candidates)
{
    if (candidates->ordered)
        return hy_candidates_ranked(candidates, 0);
    const struct hy_candidate *best = candidates->items;
    for (size_t i = 1; i < candidates->count; i++)
        if (is_better(&candidates->items[i], best))
            best = &candidates->items[i];
    return best;
}

/* ------------------------------------------------------------ what is kept */

void hy_candidates_keep_best(struct hy_candidates *candidates)
{
    struct hy_candidate best = *hy_candidates_best(candidates);
    candidates->items[0] = best;
    candidates->count = candidates->n_kept = 1;
    candidates->ordered = false;
}

void hy_candidates_drop_best(struct hy_candidates *candidates, size_t count)
{
    if (count == 0)
        return;
    hy_candidates_ranked(candidates, count);
    candidates->count -= count;
    candidates->n_kept -= count;
}

void hy_candidates_settle(struct hy_candidates *candidates)
{
    struct hy_candidate *items = candidates->items;
    size_t n_kept = candidates->n_kept;
    if (n_kept < candidates->count) {
        hy_candidates_ranked(candidates, n_kept - 1);
        memmove(items, items + candidates->count - n_kept, n_kept * sizeof *items);
    }
    if (candidates->temperature != 1)
        for (size_t i = 0; i < n_kept; i++)
            items[i].logit /= candidates->temperature;
    start(candidates, items, n_kept, candidates->unit);
}

void hy_candidates_drop_impossible(struct hy_candidates *candidates)
{
    size_t count = 0;
    for (size_t i = 0; i < candidates->count; i++)
        if (candidates->items[i].logit > -INFINITY)
            candidates->items[count++] = candidates->items[i];
    start(candidates, candidates->items, count, candidates->unit);
}

/* ---------------------------------------------------------- probabilities */

double hy_candidates_weight(const struct hy_candidates *candidates,
                            const struct hy_candidate *candidate, double best)
{
    return hy_exponential((candidate->logit - best) / candidates->temperature);
}

double hy_weight_unit(size_t n_logits)
{
    int bits = 62;
    while (n_logits > 1) {
        n_logits -= n_logits / 2; /* rounded up: n_logits <= 2 to the number of halvings */
        bits--;
    }
    return ldexp(1, bits);
}

uint64_t hy_weight_parts(double weight, double unit)
{
    return (uint64_t)(weight * unit + 0.5);
}

uint64_t hy_candidates_parts(const struct hy_candidates *candidates,
                             const struct hy_candidate *candidate, double best)
{
    return hy_weight_parts(hy_candidates_weight(candidates, candidate, best), candidates->unit);
}

uint64_t hy_candidates_total(struct hy_candidates *candidates, double best)
{
    uint64_t total = 0;
    for (size_t i = 0; i < candidates->n_kept; i++)
        total += hy_candidates_parts(candidates, hy_candidates_kept(candidates, i), best);
    return total;
}
