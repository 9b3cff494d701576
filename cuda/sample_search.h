/*
 * Looks in a row of logits for the first candidate with which a goal is reached. The row is never
 * sorted: candidates, or parts of weights, are counted in bins, ever narrower ones, and the few
 * around the place are gathered. Sums of parts are exact (text/candidates.h), so the order of
 * threads cannot be seen in the result.
 */
#ifndef HYMBA_CUDA_SAMPLE_SEARCH_H
#define HYMBA_CUDA_SAMPLE_SEARCH_H

#include "logit_row.h"

/* Why a search ends. */
enum hy_goal { HY_COUNT_AT_LEAST, HY_PARTS_AT_LEAST, HY_PARTS_ABOVE };

/* Neighbours in the order: those of some linear bins, or those from one key and id to another. */
struct hy_region {
    uint32_t first_bin, last_bin;
    bool linear;
    struct hy_logit_place best, worst;
    uint64_t count, parts; /* of what is kept before the region */
};

HY_DEVICE bool hy_is_kept(const struct hy_logit_row &row, uint64_t key, uint32_t id)
{
    return hy_is_better({key, id}, row.bound);
}

HY_DEVICE bool hy_contains(const struct hy_logit_row &row, const struct hy_region &region,
                           double logit, uint64_t key, uint32_t id)
{
    if (!region.linear)
        return !hy_is_better({key, id}, region.best) && !hy_is_better(region.worst, {key, id});
    const uint32_t bin = hy_linear_bin(row, logit);
    return bin >= region.first_bin && bin <= region.last_bin;
}

/* By how many bits keys, or the ids of one key, are shortened to be numbers of bins. */
HY_DEVICE unsigned hy_region_shift(const struct hy_region &region)
{
    const uint64_t width = region.best.key > region.worst.key
                               ? region.best.key - region.worst.key
                               : region.worst.id - region.best.id;
    unsigned shift = 0;
    while (width >> shift >= HY_ROW_BINS)
        shift++;
    return shift;
}

HY_DEVICE uint32_t hy_bin_of(const struct hy_logit_row &row, const struct hy_region &region,
                             unsigned shift, double logit, uint64_t key, uint32_t id)
{
    if (region.linear)
        return hy_linear_bin(row, logit);
    return (uint32_t)((region.best.key > region.worst.key ? region.best.key - key
                                                          : id - region.best.id)
                      >> shift);
}

/* What is searched: the first candidate with which the goal is reached. */
struct hy_search {
    enum hy_goal goal;
    uint64_t count;
    double parts;
};

HY_DEVICE bool hy_is_reached(const struct hy_search &search, uint64_t count, uint64_t parts)
{
    if (search.goal == HY_COUNT_AT_LEAST)
        return count >= search.count;
    return search.goal == HY_PARTS_AT_LEAST ? (double)parts >= search.parts
                                            : (double)parts > search.parts;
}

/* How many candidates, and parts, are in each bin of what is kept of the region. */
HY_DEVICE void hy_fill_bins(const struct hy_desk &desk, const struct hy_logit_row &row,
                            const struct hy_region &region, unsigned shift, bool weighs)
{
    desk.counts[hy_thread()] = 0;
    desk.sums[hy_thread()] = 0;
    hy_sync();
    hy_for_each_logit(desk, row, [&](double logit, uint32_t id) {
        const uint64_t key = hy_key_of(logit);
        if (!hy_is_kept(row, key, id) || !hy_contains(row, region, logit, key, id))
            return;
        const uint32_t bin = hy_bin_of(row, region, shift, logit, key, id);
        desk.counts.add(bin, 1);
        if (weighs)
            desk.sums.add(bin, hy_parts_of(row, logit));
    });
    hy_sync();
}

/* What bins tell: where the goal is reached, and what is before and with that bin. */
struct hy_crossing {
    uint32_t bin;
    uint64_t count_before, parts_before, count_with;
};

/* The goal is a share of all parts before the first search has found how many there are. */
HY_DEVICE struct hy_crossing hy_find_bin(const struct hy_desk &desk, const struct hy_region &region,
                                         struct hy_search *search, bool share)
{
    const uint32_t own_count = desk.counts[hy_thread()];
    const uint64_t own_parts = desk.sums[hy_thread()];
    uint64_t count_total, parts_total;
    const uint64_t count = region.count + hy_sum_up_to(desk, own_count, &count_total);
    const uint64_t parts = region.parts + hy_sum_up_to(desk, own_parts, &parts_total);
    if (share)
        search->parts = hy_multiply(search->parts, (double)parts_total);
    if (hy_thread() == 0)
        desk.numbers[HY_DESK_FOUND] = HY_ROW_BINS; /* if the goal is never reached */
    hy_sync();
    if (hy_is_reached(*search, count, parts)
        && !hy_is_reached(*search, count - own_count, parts - own_parts)) {
        desk.numbers[HY_DESK_FOUND] = hy_thread();
        desk.words[HY_DESK_FOUND] = count - own_count;
        desk.words[HY_DESK_CURSOR] = parts - own_parts;
        desk.words[HY_DESK_FAULT] = count;
    }
    hy_sync();
    struct hy_crossing crossing = {desk.numbers[HY_DESK_FOUND], 0, 0, 0};
    if (crossing.bin < HY_ROW_BINS) {
        crossing.count_before = desk.words[HY_DESK_FOUND];
        crossing.parts_before = desk.words[HY_DESK_CURSOR];
        crossing.count_with = desk.words[HY_DESK_FAULT];
    }
    hy_sync();
    return crossing;
}

/* The first and the last place of what is kept of the region. */
HY_DEVICE void hy_find_ends(const struct hy_desk &desk, const struct hy_logit_row &row,
                            struct hy_region *region)
{
    struct hy_logit_place best = {0, UINT32_MAX};
    struct hy_logit_place worst = {0, UINT32_MAX}; /* the opposite of it */
    hy_for_each_logit(desk, row, [&](double logit, uint32_t id) {
        const uint64_t key = hy_key_of(logit);
        if (!hy_is_kept(row, key, id) || !hy_contains(row, *region, logit, key, id))
            return;
        if (hy_is_better({key, id}, best))
            best = {key, id};
        if (hy_is_better({~key, UINT32_MAX - id}, worst))
            worst = {~key, UINT32_MAX - id};
    });
    region->best = hy_best_of(desk, best);
    worst = hy_best_of(desk, worst);
    region->worst = {~worst.key, UINT32_MAX - worst.id};
    region->linear = false;
}

/* The region becomes its part in a bin. */
HY_DEVICE void hy_narrow(const struct hy_crossing &crossing, unsigned shift,
                         struct hy_region *region)
{
    const uint64_t offset = (uint64_t)crossing.bin << shift;
    const uint64_t more = ((uint64_t)1 << shift) - 1;
    region->count = crossing.count_before;
    region->parts = crossing.parts_before;
    if (region->linear) {
        region->first_bin = region->last_bin = crossing.bin;
    } else if (region->best.key > region->worst.key) {
        const uint64_t rest = region->best.key - region->worst.key - offset;
        const uint64_t key = region->best.key - offset;
        region->best = {key, 0};
        region->worst = {key - (more < rest ? more : rest), UINT32_MAX};
    } else {
        const uint32_t rest = region->worst.id - region->best.id - (uint32_t)offset;
        const uint32_t id = region->best.id + (uint32_t)offset;
        region->best.id = id;
        region->worst.id = id + (more < rest ? (uint32_t)more : rest);
    }
}

/* ----------------------------------------------------- candidates in their order */

/* A network of exchanges; n is a power of two, at most HY_ROW_MOST. */
HY_DEVICE void hy_sort(const struct hy_desk &desk, uint32_t n)
{
    for (uint32_t run = 2; run <= n; run *= 2)
        for (uint32_t distance = run / 2; distance > 0; distance /= 2) {
            hy_sync();
            for (uint32_t t = hy_thread(); t < n / 2; t += HY_ROW_THREADS) {
                const uint32_t i = t / distance * 2 * distance + t % distance;
                const struct hy_logit_place first = {desk.keys[i], desk.ids[i]};
                const struct hy_logit_place second = {desk.keys[i + distance],
                                                      desk.ids[i + distance]};
                const bool falling = (i & run) == 0;
                if (hy_is_better(second, first) != falling)
                    continue;
                desk.keys[i] = second.key;
                desk.ids[i] = second.id;
                desk.keys[i + distance] = first.key;
                desk.ids[i + distance] = first.id;
            }
        }
    hy_sync();
}

/* What is kept of the region, in its order; returns how many. There are at most HY_ROW_MOST. */
HY_DEVICE uint32_t hy_gather(const struct hy_desk &desk, const struct hy_logit_row &row,
                             const struct hy_region &region)
{
    if (hy_thread() == 0)
        desk.numbers[HY_DESK_CURSOR] = 0;
    hy_sync();
    hy_for_each_logit(desk, row, [&](double logit, uint32_t id) {
        const uint64_t key = hy_key_of(logit);
        if (!hy_is_kept(row, key, id) || !hy_contains(row, region, logit, key, id))
            return;
        const uint32_t i = desk.numbers.add(HY_DESK_CURSOR, 1);
        desk.keys[i] = key;
        desk.ids[i] = id;
    });
    hy_sync();
    const uint32_t n = desk.numbers[HY_DESK_CURSOR];
    uint32_t padded = 1;
    while (padded < n)
        padded *= 2;
    for (uint32_t i = n + hy_thread(); i < padded; i += HY_ROW_THREADS) {
        desk.keys[i] = 0;
        desk.ids[i] = UINT32_MAX;
    }
    hy_sort(desk, padded);
    return n;
}

/* Sums of the parts of the first n gathered, in ends; returns that of all. */
HY_DEVICE uint64_t hy_sum_parts(const struct hy_desk &desk, const struct hy_logit_row &row,
                                uint32_t n)
{
    const uint32_t i = 2 * hy_thread();
    uint64_t total;
    const uint64_t first = i < n ? hy_parts_of(row, hy_logit_of(desk.keys[i])) : 0;
    const uint64_t second = i + 1 < n ? hy_parts_of(row, hy_logit_of(desk.keys[i + 1])) : 0;
    const uint64_t end = hy_sum_up_to(desk, first + second, &total);
    desk.ends[i] = end - second;
    desk.ends[i + 1] = end;
    hy_sync();
    return total;
}

/* The first of n gathered ones for which it holds; n if there is none. */
template <typename FUNCTION>
HY_DEVICE uint32_t hy_find_first(const struct hy_desk &desk, uint32_t n, FUNCTION holds)
{
    uint32_t found = n;
    for (uint32_t i = hy_thread(); i < n; i += HY_ROW_THREADS)
        if (found == n && holds(i))
            found = i;
    return hy_best_of(desk, {0, found}).id;
}

/* Where the goal is reached in the first n gathered, before which there are so many others. */
HY_DEVICE uint32_t hy_find_reached(const struct hy_desk &desk, const struct hy_search &search,
                                   uint32_t n, uint64_t count, uint64_t parts)
{
    return hy_find_first(desk, n, [&](uint32_t i) {
        const uint64_t end = desk.ends[i];
        return hy_is_reached(search, count + i + 1, parts + end);
    });
}

/* What a search has found. */
struct hy_found {
    bool reached;
    struct hy_logit_place place; /* with which the goal is reached */
    uint64_t n_kept;             /* up to it */
    bool gathered;               /* these are gathered */
};

/* Among all candidates that are kept. The goal's parts are a share of all. */
HY_DEVICE struct hy_found hy_search_row(const struct hy_desk &desk, const struct hy_logit_row &row,
                                        struct hy_search search)
{
    const bool weighs = search.goal != HY_COUNT_AT_LEAST;
    struct hy_region region = {0, HY_ROW_BINS - 1, true, {0, 0}, {0, 0}, 0, 0};
    struct hy_crossing crossing;
    for (bool first = true;; first = false) {
        if (!first && region.linear) /* nothing is divided into bins of logits twice */
            hy_find_ends(desk, row, &region);
        const unsigned shift = region.linear ? 0 : hy_region_shift(region);
        hy_fill_bins(desk, row, region, shift, weighs);
        crossing = hy_find_bin(desk, region, &search, first && weighs);
        if (crossing.bin == HY_ROW_BINS)
            return {false, {0, 0}, 0, false};
        if (region.linear && crossing.count_with <= HY_ROW_MOST) {
            /* the whole order down to the bin */
            region.last_bin = crossing.bin;
            break;
        }
        hy_narrow(crossing, shift, &region);
        if (crossing.count_with - crossing.count_before <= HY_ROW_MOST)
            break;
    }
    const uint32_t n = hy_gather(desk, row, region);
    if (weighs)
        hy_sum_parts(desk, row, n);
    else
        for (uint32_t i = hy_thread(); i < n; i += HY_ROW_THREADS)
            desk.ends[i] = 0;
    hy_sync();
    const uint32_t i = hy_find_reached(desk, search, n, region.count, region.parts);
    const struct hy_found found = {
        true, {desk.keys[i], desk.ids[i]}, region.count + i + 1, region.count == 0};
    hy_sync();
    return found;
}

#endif
