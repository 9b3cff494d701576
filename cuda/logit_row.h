/*
 * A row of logits as the one block has it that chooses its token: candidates in an order, their
 * weights in whole parts, and what the block's threads share.
 *
 * The order: the greater logit first, of equals the lower id. Logits are kept as keys, numbers
 * whose order is that of the logits.
 */
#ifndef HYMBA_CUDA_LOGIT_ROW_H
#define HYMBA_CUDA_LOGIT_ROW_H

#include "sample.h"

#include <math.h>

enum {
    HY_ROW_THREADS = 512,
    HY_ROW_WARPS = HY_ROW_THREADS / HY_WARP,
    HY_ROW_BINS = HY_ROW_THREADS,
    HY_ROW_MOST = 2 * HY_ROW_THREADS,
    HY_ROW_BATCH = 8
};

/* --------------------------------------------------------------- arithmetic */

/* e to the power of x <= 0, as text/exponential.c has it; 0 from least downwards. */
HY_DEVICE double hy_sample_exponential(double x, double least)
{
    const double inverse_factorial[] = {
        1,           1,            1.0 / 2,       1.0 / 6,        1.0 / 24,
        1.0 / 120,   1.0 / 720,    1.0 / 5040,    1.0 / 40320,    1.0 / 362880,
        1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800,
    };
    if (!(x > least))
        return 0;
    const double power = floor(hy_multiply(x, 1.4426950408889634) + 0.5);
    const double rest = (x - hy_multiply(power, 0x1.62e42feep-1))
                        - hy_multiply(power, 0x1.a39ef35793c76p-33);
    double sum = 0;
#pragma unroll
    for (int n = 13; n >= 0; n--)
        sum = inverse_factorial[n] + hy_multiply(sum, rest);
    return sum * hy_double_from_bits((uint64_t)(1023 + (int)power) << 52);
}

/* 0 for what is no number or -infinity: no candidate. */
HY_DEVICE uint64_t hy_key_of(double logit)
{
    const uint64_t bits = hy_double_to_bits(logit + 0.0); /* -0 and 0 are equal */
    return !(logit > -INFINITY) ? 0 : bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

HY_DEVICE double hy_logit_of(uint64_t key)
{
    return hy_double_from_bits(key >> 63 ? key & ~((uint64_t)1 << 63) : ~key);
}

struct hy_logit_place {
    uint64_t key;
    uint32_t id;
};

HY_DEVICE bool hy_is_better(const struct hy_logit_place &a, const struct hy_logit_place &b)
{
    return a.key > b.key || (a.key == b.key && a.id < b.id);
}

/* --------------------------------------------------------- the block's threads */

HY_DEVICE uint64_t hy_shuffle_64(uint64_t value, unsigned lane)
{
    const uint32_t low = hy_shuffle((uint32_t)value, lane);
    const uint32_t high = hy_shuffle((uint32_t)(value >> 32), lane);
    return (uint64_t)high << 32 | low;
}

/* The block's shared memory. */
struct hy_desk {
    hy_shared<uint64_t> sums, keys, ends; /* of bins; of gathered candidates, in their order: their
                                             keys, and parts up to the end of each */
    hy_shared<uint64_t> words;            /* [HY_ROW_WARPS + 4] */
    hy_shared<uint32_t> counts, ids;
    hy_shared<uint32_t> numbers;          /* [HY_ROW_WARPS + 4] */
    hy_shared<uint32_t> marks;            /* a bit for each token: it has a change */
};

enum {
    HY_DESK_SUMS = 0,
    HY_DESK_KEYS = HY_DESK_SUMS + 8 * HY_ROW_BINS,
    HY_DESK_ENDS = HY_DESK_KEYS + 8 * HY_ROW_MOST,
    HY_DESK_WORDS = HY_DESK_ENDS + 8 * HY_ROW_MOST,
    HY_DESK_COUNTS = HY_DESK_WORDS + 8 * (HY_ROW_WARPS + 4),
    HY_DESK_IDS = HY_DESK_COUNTS + 4 * HY_ROW_BINS,
    HY_DESK_NUMBERS = HY_DESK_IDS + 4 * HY_ROW_MOST,
    HY_DESK_MARKS = HY_DESK_NUMBERS + 4 * (HY_ROW_WARPS + 4)
};

/* Places behind those of the warps. */
enum {
    HY_DESK_FOUND = HY_ROW_WARPS,
    HY_DESK_CURSOR = HY_ROW_WARPS + 1,
    HY_DESK_FAULT = HY_ROW_WARPS + 2
};

HY_DEVICE size_t hy_mark_words(size_t n_logits)
{
    return (n_logits + 31) / 32;
}

/* The best place of all threads'. */
HY_DEVICE struct hy_logit_place hy_best_of(const struct hy_desk &desk, struct hy_logit_place mine)
{
    for (unsigned mask = HY_WARP / 2; mask > 0; mask /= 2) {
        const unsigned lane = (hy_thread() % HY_WARP) ^ mask;
        const struct hy_logit_place other = {hy_shuffle_64(mine.key, lane),
                                             hy_shuffle(mine.id, lane)};
        if (hy_is_better(other, mine))
            mine = other;
    }
    if (hy_thread() % HY_WARP == 0) {
        desk.words[hy_thread() / HY_WARP] = mine.key;
        desk.numbers[hy_thread() / HY_WARP] = mine.id;
    }
    hy_sync();
    for (unsigned warp = 0; warp < HY_ROW_WARPS; warp++) {
        const struct hy_logit_place other = {desk.words[warp], desk.numbers[warp]};
        if (hy_is_better(other, mine))
            mine = other;
    }
    hy_sync();
    return mine;
}

/* The sum of the values of this thread and those before it; *total becomes that of all. */
HY_DEVICE uint64_t hy_sum_up_to(const struct hy_desk &desk, uint64_t value, uint64_t *total)
{
    const unsigned lane = hy_thread() % HY_WARP, warp = hy_thread() / HY_WARP;
    for (unsigned distance = 1; distance < HY_WARP; distance *= 2) {
        const uint64_t before = hy_shuffle_64(value, lane >= distance ? lane - distance : lane);
        value += lane >= distance ? before : 0;
    }
    if (lane == HY_WARP - 1)
        desk.words[warp] = value;
    hy_sync();
    uint64_t sum = 0;
    for (unsigned w = 0; w < HY_ROW_WARPS; w++) {
        const uint64_t of_warp = desk.words[w];
        value += w < warp ? of_warp : 0;
        sum += of_warp;
    }
    hy_sync();
    *total = sum;
    return value;
}

/* -------------------------------------------------------------------- the row */

struct hy_logit_row {
    const float *logits;
    size_t n_logits;
    const struct hy_sample_change *changes;
    const double *changed; /* the changes' logits */
    size_t n_changes;
    struct hy_logit_place bound; /* what is kept is better; a key of 0: everything */
    double best;                 /* the best logit */
    double scale;                /* bins for each 1 that a logit is below the best */
    double temperature;          /* by which logits are still to be divided */
    double unit;                 /* parts of a weight of 1 */
    double least;                /* a weight of e^least is not half a part */
};

/* Every candidate in turn, whichever thread it falls to. */
template <typename FUNCTION>
HY_DEVICE void hy_for_each_logit(const struct hy_desk &desk, const struct hy_logit_row &row,
                                 FUNCTION function)
{
    const size_t n = row.n_logits;
    for (size_t first = hy_thread(); first < n; first += HY_ROW_BATCH * HY_ROW_THREADS) {
        float logits[HY_ROW_BATCH];
#pragma unroll
        for (unsigned k = 0; k < HY_ROW_BATCH; k++)
            logits[k] = first + k * HY_ROW_THREADS < n
                            ? hy_load(row.logits + first + k * HY_ROW_THREADS)
                            : -INFINITY;
#pragma unroll
        for (unsigned k = 0; k < HY_ROW_BATCH; k++) {
            const size_t i = first + k * HY_ROW_THREADS;
            if (i >= n || !(logits[k] > -INFINITY))
                continue;
            const uint32_t marks = desk.marks[i / 32];
            if ((marks >> i % 32 & 1) == 0)
                function((double)logits[k], (uint32_t)i);
        }
    }
    for (size_t i = hy_thread(); i < row.n_changes; i += HY_ROW_THREADS) {
        const double logit = hy_load(row.changed + i);
        if (logit > -INFINITY)
            function(logit, (uint32_t)hy_load(&row.changes[i].token));
    }
}

HY_DEVICE double hy_weight_of(const struct hy_logit_row &row, double logit)
{
    const double distance = logit - row.best;
    return hy_sample_exponential(row.temperature == 1 ? distance : distance / row.temperature,
                                 -708);
}

/* Parts of its weight, as hy_weight_parts has them. */
HY_DEVICE uint64_t hy_parts_of(const struct hy_logit_row &row, double logit)
{
    const double distance = logit - row.best;
    const double weight = hy_sample_exponential(
        row.temperature == 1 ? distance : distance / row.temperature, row.least);
    return (uint64_t)(hy_multiply(weight, row.unit) + 0.5);
}

/* One whose logit is less lies in the same bin or a later one. */
HY_DEVICE uint32_t hy_linear_bin(const struct hy_logit_row &row, double logit)
{
    const double bin = (row.best - logit) * row.scale;
    return bin < HY_ROW_BINS - 1 ? (uint32_t)bin : HY_ROW_BINS - 1;
}

#endif
