/*
 * One block chooses one row's token. It never sorts the row: it looks for the few candidates around
 * the place in the order by logit where a stage cuts or the draw falls, by counting candidates, or
 * parts of weights, in bins. Sums of parts are exact (text/candidates.h), so neither the order of
 * threads nor that of the stages' sums can be seen in the result, which is the CPU's.
 *
 * The order: the greater logit first, of equals the lower id. Logits are kept as keys, numbers
 * whose order is that of the logits.
 */
#include "sample.h"

#include <math.h>

enum { THREADS = 512, WARPS = THREADS / HY_WARP, BINS = THREADS, MOST = 2 * THREADS, BATCH = 8 };

/* Why a search ends. */
enum goal { COUNT_AT_LEAST, PARTS_AT_LEAST, PARTS_ABOVE };

/* --------------------------------------------------------------- arithmetic */

/* e to the power of x <= 0, as text/exponential.c has it; 0 from least downwards. */
HY_DEVICE double exponential(double x, double least)
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
HY_DEVICE uint64_t key_of(double logit)
{
    const uint64_t bits = hy_double_to_bits(logit + 0.0); /* -0 and 0 are equal */
    return !(logit > -INFINITY) ? 0 : bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

HY_DEVICE double logit_of(uint64_t key)
{
    return hy_double_from_bits(key >> 63 ? key & ~((uint64_t)1 << 63) : ~key);
}

struct place {
    uint64_t key;
    uint32_t id;
};

HY_DEVICE bool is_better(const struct place &a, const struct place &b)
{
    return a.key > b.key || (a.key == b.key && a.id < b.id);
}

/* --------------------------------------------------------- the block's threads */

HY_DEVICE uint64_t shuffle(uint64_t value, unsigned lane)
{
    const uint32_t low = hy_shuffle((uint32_t)value, lane);
    const uint32_t high = hy_shuffle((uint32_t)(value >> 32), lane);
    return (uint64_t)high << 32 | low;
}

/* The block's shared memory. */
struct desk {
    hy_shared<uint64_t> sums, keys, ends; /* of bins; of gathered candidates, in their order: their
                                             keys, and parts up to the end of each */
    hy_shared<uint64_t> words;            /* [WARPS + 4] */
    hy_shared<uint32_t> counts, ids;
    hy_shared<uint32_t> numbers;          /* [WARPS + 4] */
    hy_shared<uint32_t> marks;            /* a bit for each token: it has a change */
};

enum {
    SUMS = 0,
    KEYS = SUMS + 8 * BINS,
    ENDS = KEYS + 8 * MOST,
    WORDS = ENDS + 8 * MOST,
    COUNTS = WORDS + 8 * (WARPS + 4),
    IDS = COUNTS + 4 * BINS,
    NUMBERS = IDS + 4 * MOST,
    MARKS = NUMBERS + 4 * (WARPS + 4)
};

/* Places behind those of the warps. */
enum { FOUND = WARPS, CURSOR = WARPS + 1, FAULT = WARPS + 2 };

HY_DEVICE size_t mark_words(size_t n_logits)
{
    return (n_logits + 31) / 32;
}

/* The best place of all threads'. */
HY_DEVICE struct place best_of(const struct desk &desk, struct place mine)
{
    for (unsigned mask = HY_WARP / 2; mask > 0; mask /= 2) {
        const unsigned lane = (hy_thread() % HY_WARP) ^ mask;
        const struct place other = {shuffle(mine.key, lane), hy_shuffle(mine.id, lane)};
        if (is_better(other, mine))
            mine = other;
    }
    if (hy_thread() % HY_WARP == 0) {
        desk.words[hy_thread() / HY_WARP] = mine.key;
        desk.numbers[hy_thread() / HY_WARP] = mine.id;
    }
    hy_sync();
    for (unsigned warp = 0; warp < WARPS; warp++) {
        const struct place other = {desk.words[warp], desk.numbers[warp]};
        if (is_better(other, mine))
            mine = other;
    }
    hy_sync();
    return mine;
}

/* The sum of the values of this thread and those before it; *total becomes that of all. */
HY_DEVICE uint64_t sum_up_to(const struct desk &desk, uint64_t value, uint64_t *total)
{
    const unsigned lane = hy_thread() % HY_WARP, warp = hy_thread() / HY_WARP;
    for (unsigned distance = 1; distance < HY_WARP; distance *= 2) {
        const uint64_t before = shuffle(value, lane >= distance ? lane - distance : lane);
        value += lane >= distance ? before : 0;
    }
    if (lane == HY_WARP - 1)
        desk.words[warp] = value;
    hy_sync();
    uint64_t sum = 0;
    for (unsigned w = 0; w < WARPS; w++) {
        const uint64_t of_warp = desk.words[w];
        value += w < warp ? of_warp : 0;
        sum += of_warp;
    }
    hy_sync();
    *total = sum;
    return value;
}

/* -------------------------------------------------------------------- the row */

struct row {
    const float *logits;
    size_t n_logits;
    const struct hy_sample_change *changes;
    const double *changed; /* the changes' logits */
    size_t n_changes;
    struct place bound;    /* what is kept is better; a key of 0: everything */
    double best;           /* the best logit */
    double scale;          /* bins for each 1 that a logit is below the best */
    double temperature;    /* by which logits are still to be divided */
    double unit, least;    /* parts of a weight of 1; a weight of e^least is not half a part */
};

/* Every candidate in turn, whichever thread it falls to. */
template <typename FUNCTION>
HY_DEVICE void for_each(const struct desk &desk, const struct row &row, FUNCTION function)
{
    const size_t n = row.n_logits;
    for (size_t first = hy_thread(); first < n; first += BATCH * THREADS) {
        float logits[BATCH];
#pragma unroll
        for (unsigned k = 0; k < BATCH; k++)
            logits[k] = first + k * THREADS < n ? hy_load(row.logits + first + k * THREADS)
                                                : -INFINITY;
#pragma unroll
        for (unsigned k = 0; k < BATCH; k++) {
            const size_t i = first + k * THREADS;
            if (i >= n || !(logits[k] > -INFINITY))
                continue;
            const uint32_t marks = desk.marks[i / 32];
            if ((marks >> i % 32 & 1) == 0)
                function((double)logits[k], (uint32_t)i);
        }
    }
    for (size_t i = hy_thread(); i < row.n_changes; i += THREADS) {
        const double logit = hy_load(row.changed + i);
        if (logit > -INFINITY)
            function(logit, (uint32_t)hy_load(&row.changes[i].token));
    }
}

HY_DEVICE double weight_of(const struct row &row, double logit)
{
    const double distance = logit - row.best;
    return exponential(row.temperature == 1 ? distance : distance / row.temperature, -708);
}

/* Parts of its weight, as hy_weight_parts has them. */
HY_DEVICE uint64_t parts_of(const struct row &row, double logit)
{
    const double distance = logit - row.best;
    const double weight =
        exponential(row.temperature == 1 ? distance : distance / row.temperature, row.least);
    return (uint64_t)(hy_multiply(weight, row.unit) + 0.5);
}

/* One whose logit is less lies in the same bin or a later one. */
HY_DEVICE uint32_t linear_bin(const struct row &row, double logit)
{
    const double bin = (row.best - logit) * row.scale;
    return bin < BINS - 1 ? (uint32_t)bin : BINS - 1;
}

/* --------------------------------------------------------------------- search */

/* Neighbours in the order: those of some linear bins, or those from one key and id to another. */
struct region {
    uint32_t first_bin, last_bin;
    bool linear;
    struct place best, worst;
    uint64_t count, parts; /* of what is kept before the region */
};

HY_DEVICE bool is_kept(const struct row &row, uint64_t key, uint32_t id)
{
    return is_better({key, id}, row.bound);
}

HY_DEVICE bool contains(const struct row &row, const struct region &region, double logit,
                        uint64_t key, uint32_t id)
{
    if (!region.linear)
        return !is_better({key, id}, region.best) && !is_better(region.worst, {key, id});
    const uint32_t bin = linear_bin(row, logit);
    return bin >= region.first_bin && bin <= region.last_bin;
}

/* By how many bits keys, or the ids of one key, are shortened to be numbers of bins. */
HY_DEVICE unsigned region_shift(const struct region &region)
{
    const uint64_t width = region.best.key > region.worst.key
                               ? region.best.key - region.worst.key
                               : region.worst.id - region.best.id;
    unsigned shift = 0;
    while (width >> shift >= BINS)
        shift++;
    return shift;
}

HY_DEVICE uint32_t bin_of(const struct row &row, const struct region &region, unsigned shift,
                          double logit, uint64_t key, uint32_t id)
{
    if (region.linear)
        return linear_bin(row, logit);
    return (uint32_t)((region.best.key > region.worst.key ? region.best.key - key
                                                          : id - region.best.id)
                      >> shift);
}

/* What is searched: the first candidate with which the goal is reached. */
struct search {
    enum goal goal;
    uint64_t count;
    double parts;
};

HY_DEVICE bool is_reached(const struct search &search, uint64_t count, uint64_t parts)
{
    if (search.goal == COUNT_AT_LEAST)
        return count >= search.count;
    return search.goal == PARTS_AT_LEAST ? (double)parts >= search.parts
                                         : (double)parts > search.parts;
}

/* How many candidates, and parts, are in each bin of what is kept of the region. */
HY_DEVICE void fill_bins(const struct desk &desk, const struct row &row,
                         const struct region &region, unsigned shift, bool weighs)
{
    desk.counts[hy_thread()] = 0;
    desk.sums[hy_thread()] = 0;
    hy_sync();
    for_each(desk, row, [&](double logit, uint32_t id) {
        const uint64_t key = key_of(logit);
        if (!is_kept(row, key, id) || !contains(row, region, logit, key, id))
            return;
        const uint32_t bin = bin_of(row, region, shift, logit, key, id);
        desk.counts.add(bin, 1);
        if (weighs)
            desk.sums.add(bin, parts_of(row, logit));
    });
    hy_sync();
}

/* What bins tell: where the goal is reached, and what is before and with that bin. */
struct crossing {
    uint32_t bin;
    uint64_t count_before, parts_before, count_with;
};

/* The goal is a share of all parts before the first search has found how many there are. */
HY_DEVICE struct crossing find_bin(const struct desk &desk, const struct region &region,
                                   struct search *search, bool share)
{
    const uint32_t own_count = desk.counts[hy_thread()];
    const uint64_t own_parts = desk.sums[hy_thread()];
    uint64_t count_total, parts_total;
    const uint64_t count = region.count + sum_up_to(desk, own_count, &count_total);
    const uint64_t parts = region.parts + sum_up_to(desk, own_parts, &parts_total);
    if (share)
        search->parts = hy_multiply(search->parts, (double)parts_total);
    if (hy_thread() == 0)
        desk.numbers[FOUND] = BINS; /* if the goal is never reached */
    hy_sync();
    if (is_reached(*search, count, parts)
        && !is_reached(*search, count - own_count, parts - own_parts)) {
        desk.numbers[FOUND] = hy_thread();
        desk.words[FOUND] = count - own_count;
        desk.words[CURSOR] = parts - own_parts;
        desk.words[FAULT] = count;
    }
    hy_sync();
    struct crossing crossing = {desk.numbers[FOUND], 0, 0, 0};
    if (crossing.bin < BINS) {
        crossing.count_before = desk.words[FOUND];
        crossing.parts_before = desk.words[CURSOR];
        crossing.count_with = desk.words[FAULT];
    }
    hy_sync();
    return crossing;
}

/* The first and the last place of what is kept of the region. */
HY_DEVICE void find_ends(const struct desk &desk, const struct row &row, struct region *region)
{
    struct place best = {0, UINT32_MAX}, worst = {0, UINT32_MAX}; /* of worst, the opposite */
    for_each(desk, row, [&](double logit, uint32_t id) {
        const uint64_t key = key_of(logit);
        if (!is_kept(row, key, id) || !contains(row, *region, logit, key, id))
            return;
        if (is_better({key, id}, best))
            best = {key, id};
        if (is_better({~key, UINT32_MAX - id}, worst))
            worst = {~key, UINT32_MAX - id};
    });
    region->best = best_of(desk, best);
    worst = best_of(desk, worst);
    region->worst = {~worst.key, UINT32_MAX - worst.id};
    region->linear = false;
}

/* The region becomes its part in a bin. */
HY_DEVICE void narrow(const struct crossing &crossing, unsigned shift, struct region *region)
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

/* A network of exchanges; n is a power of two, at most MOST. */
HY_DEVICE void sort(const struct desk &desk, uint32_t n)
{
    for (uint32_t run = 2; run <= n; run *= 2)
        for (uint32_t distance = run / 2; distance > 0; distance /= 2) {
            hy_sync();
            for (uint32_t t = hy_thread(); t < n / 2; t += THREADS) {
                const uint32_t i = t / distance * 2 * distance + t % distance;
                const struct place first = {desk.keys[i], desk.ids[i]};
                const struct place second = {desk.keys[i + distance], desk.ids[i + distance]};
                const bool falling = (i & run) == 0;
                if (is_better(second, first) != falling)
                    continue;
                desk.keys[i] = second.key;
                desk.ids[i] = second.id;
                desk.keys[i + distance] = first.key;
                desk.ids[i + distance] = first.id;
            }
        }
    hy_sync();
}

/* What is kept of the region, in its order; returns how many. There are at most MOST. */
HY_DEVICE uint32_t gather(const struct desk &desk, const struct row &row,
                          const struct region &region)
{
    if (hy_thread() == 0)
        desk.numbers[CURSOR] = 0;
    hy_sync();
    for_each(desk, row, [&](double logit, uint32_t id) {
        const uint64_t key = key_of(logit);
        if (!is_kept(row, key, id) || !contains(row, region, logit, key, id))
            return;
        const uint32_t i = desk.numbers.add(CURSOR, 1);
        desk.keys[i] = key;
        desk.ids[i] = id;
    });
    hy_sync();
    const uint32_t n = desk.numbers[CURSOR];
    uint32_t padded = 1;
    while (padded < n)
        padded *= 2;
    for (uint32_t i = n + hy_thread(); i < padded; i += THREADS) {
        desk.keys[i] = 0;
        desk.ids[i] = UINT32_MAX;
    }
    sort(desk, padded);
    return n;
}

/* Sums of the parts of the first n gathered, in ends; returns that of all. */
HY_DEVICE uint64_t sum_parts(const struct desk &desk, const struct row &row, uint32_t n)
{
    const uint32_t i = 2 * hy_thread();
    uint64_t total;
    const uint64_t first = i < n ? parts_of(row, logit_of(desk.keys[i])) : 0;
    const uint64_t second = i + 1 < n ? parts_of(row, logit_of(desk.keys[i + 1])) : 0;
    const uint64_t end = sum_up_to(desk, first + second, &total);
    desk.ends[i] = end - second;
    desk.ends[i + 1] = end;
    hy_sync();
    return total;
}

/* The first of n gathered ones for which it holds; n if there is none. */
template <typename FUNCTION>
HY_DEVICE uint32_t find_first(const struct desk &desk, uint32_t n, FUNCTION holds)
{
    uint32_t found = n;
    for (uint32_t i = hy_thread(); i < n; i += THREADS)
        if (found == n && holds(i))
            found = i;
    return best_of(desk, {0, found}).id;
}

/* Where the goal is reached in the first n gathered, before which there are so many others. */
HY_DEVICE uint32_t find_reached(const struct desk &desk, const struct search &search, uint32_t n,
                                uint64_t count, uint64_t parts)
{
    return find_first(desk, n, [&](uint32_t i) {
        const uint64_t end = desk.ends[i];
        return is_reached(search, count + i + 1, parts + end);
    });
}

/* ---------------------------------------------------------------------- stages */

/* What a search has found. */
struct found {
    bool reached;
    struct place place; /* with which the goal is reached */
    uint64_t n_kept;    /* up to it */
    bool gathered;      /* these are gathered */
};

/* Among all candidates that are kept. The goal's parts are a share of all. */
HY_DEVICE struct found search_row(const struct desk &desk, const struct row &row,
                                  struct search search)
{
    const bool weighs = search.goal != COUNT_AT_LEAST;
    struct region region = {0, BINS - 1, true, {0, 0}, {0, 0}, 0, 0};
    struct crossing crossing;
    for (bool first = true;; first = false) {
        if (!first && region.linear) /* nothing is divided into bins of logits twice */
            find_ends(desk, row, &region);
        const unsigned shift = region.linear ? 0 : region_shift(region);
        fill_bins(desk, row, region, shift, weighs);
        crossing = find_bin(desk, region, &search, first && weighs);
        if (crossing.bin == BINS)
            return {false, {0, 0}, 0, false};
        if (region.linear && crossing.count_with <= MOST) { /* the whole order down to the bin */
            region.last_bin = crossing.bin;
            break;
        }
        narrow(crossing, shift, &region);
        if (crossing.count_with - crossing.count_before <= MOST)
            break;
    }
    const uint32_t n = gather(desk, row, region);
    if (weighs)
        sum_parts(desk, row, n);
    else
        for (uint32_t i = hy_thread(); i < n; i += THREADS)
            desk.ends[i] = 0;
    hy_sync();
    const uint32_t i = find_reached(desk, search, n, region.count, region.parts);
    const struct found found = {
        true, {desk.keys[i], desk.ids[i]}, region.count + i + 1, region.count == 0};
    hy_sync();
    return found;
}

/* min_p among all candidates that are kept: up to the first whose weight is less. */
HY_DEVICE struct place find_less(const struct desk &desk, const struct row &row, double least)
{
    struct place best = {0, UINT32_MAX};
    for_each(desk, row, [&](double logit, uint32_t id) {
        const struct place place = {key_of(logit), id};
        if (is_better(place, row.bound) && is_better(place, best)
            && weight_of(row, logit) < least)
            best = place;
    });
    return best_of(desk, best);
}

HY_DEVICE uint64_t count_kept(const struct desk &desk, const struct row &row)
{
    uint64_t mine = 0, total;
    for_each(desk, row, [&](double logit, uint32_t id) {
        mine += is_kept(row, key_of(logit), id);
    });
    sum_up_to(desk, mine, &total);
    return total;
}

/* Cuts behind what was found, where anything was. Returns how many are gathered, 0 if they are too
 * many. */
HY_DEVICE uint32_t cut(const struct desk &desk, struct row *row, const struct found &found)
{
    if (!found.reached)
        return 0;
    row->bound = {found.place.key, found.place.id + 1};
    if (found.gathered)
        return (uint32_t)found.n_kept;
    if (found.n_kept > MOST)
        return 0;
    return gather(desk, *row, {0, BINS - 1, true, {0, 0}, {0, 0}, 0, 0});
}

/* A stage among all that are kept; as cut. */
HY_DEVICE uint32_t run_on_row(const struct desk &desk, struct row *row, int32_t stage, double value)
{
    if (stage == HY_SAMPLE_TOP_K)
        return cut(desk, row, search_row(desk, *row, {COUNT_AT_LEAST, (uint64_t)value, 0}));
    if (stage == HY_SAMPLE_TOP_P)
        return cut(desk, row, search_row(desk, *row, {PARTS_AT_LEAST, 0, value}));
    const struct place less = find_less(desk, *row, value);
    if (less.key == 0)
        return 0;
    row->bound = less;
    const uint64_t n_kept = count_kept(desk, *row);
    if (n_kept > MOST)
        return 0;
    return gather(desk, *row, {0, BINS - 1, true, {0, 0}, {0, 0}, 0, 0});
}

/* A stage among the n gathered; returns how many it keeps. */
HY_DEVICE uint32_t run_on_gathered(const struct desk &desk, const struct row &row, int32_t stage,
                                   double value, uint32_t n)
{
    if (stage == HY_SAMPLE_TOP_K)
        return n < value ? n : (uint32_t)value;
    if (stage == HY_SAMPLE_TOP_P) {
        const double all = (double)sum_parts(desk, row, n);
        const struct search search = {PARTS_AT_LEAST, 0, hy_multiply(value, all)};
        return find_reached(desk, search, n, 0, 0) + 1;
    }
    return find_first(desk, n, [&](uint32_t i) {
        return i > 0 && weight_of(row, logit_of(desk.keys[i])) < value;
    });
}

HY_DEVICE uint32_t draw(const struct desk &desk, const struct row &row, double unit, uint32_t n)
{
    if (n == 0)
        return search_row(desk, row, {PARTS_ABOVE, 0, unit}).place.id;
    const double all = (double)sum_parts(desk, row, n);
    const struct search search = {PARTS_ABOVE, 0, hy_multiply(unit, all)};
    return desk.ids[find_reached(desk, search, n, 0, 0)];
}

/* ---------------------------------------------------------------------- reading */

/* The penalties as text/sampler_penalties.c has them. */
HY_DEVICE double change_logit(double logit, const struct hy_sample_row *row,
                              const struct hy_sample_change *change)
{
    const double repeat = hy_load(&row->repeat_penalty);
    const uint32_t n_recent = hy_load(&change->n_recent);
    logit += hy_load(&change->bias);
    if (n_recent == 0)
        return logit;
    if (repeat != 0)
        logit = logit > 0 ? logit / repeat : hy_multiply(logit, repeat);
    return logit - (hy_multiply(n_recent, hy_load(&row->frequency_penalty))
                    + (double)hy_load(&row->presence_penalty));
}

/* Marks the tokens that have a change, and writes their logits. */
HY_DEVICE void make_changes(const struct desk &desk, const struct row &row,
                            const struct hy_sample_row *given, double *changed)
{
    for (size_t i = hy_thread(); i < mark_words(row.n_logits); i += THREADS)
        desk.marks[i] = 0;
    if (hy_thread() == 0)
        desk.numbers[FAULT] = 0;
    hy_sync();
    for (size_t i = hy_thread(); i < row.n_changes; i += THREADS) {
        const uint32_t token = (uint32_t)hy_load(&row.changes[i].token);
        const float logit = hy_load(row.logits + token);
        hy_store(changed + i, change_logit(logit, given, &row.changes[i]));
        desk.marks.add(token / 32, (uint32_t)1 << token % 32); /* each token has one */
    }
    hy_sync();
}

/* The best place; bins are laid from there to the worst. A key of 0: the logits cannot be sampled.
 * A logit that is no candidate, but for -infinity, is a fault; for_each does not show these. */
HY_DEVICE struct place read_row(const struct desk &desk, struct row *row)
{
    struct place best = {0, UINT32_MAX}, worst = {0, UINT32_MAX};
    bool fault = false;
    const size_t n = row->n_logits;
    for (size_t first = hy_thread(); first < n; first += BATCH * THREADS) {
        float logits[BATCH];
#pragma unroll
        for (unsigned k = 0; k < BATCH; k++)
            logits[k] = first + k * THREADS < n ? hy_load(row->logits + first + k * THREADS)
                                                : -INFINITY;
#pragma unroll
        for (unsigned k = 0; k < BATCH; k++) {
            const size_t i = first + k * THREADS;
            const uint32_t marks = i < n ? desk.marks[i / 32] : 0;
            const struct place place = {key_of(logits[k]), (uint32_t)i};
            fault = fault || !(logits[k] < INFINITY);
            if (marks >> i % 32 & 1 || place.key == 0)
                continue;
            if (is_better(place, best))
                best = place;
            if (~place.key > worst.key)
                worst.key = ~place.key;
        }
    }
    for (size_t i = hy_thread(); i < row->n_changes; i += THREADS) {
        const struct place place = {key_of(hy_load(row->changed + i)),
                                    (uint32_t)hy_load(&row->changes[i].token)};
        if (place.key == 0)
            continue;
        if (is_better(place, best))
            best = place;
        if (~place.key > worst.key)
            worst.key = ~place.key;
    }
    if (fault)
        desk.numbers.add(FAULT, 1);
    hy_sync();
    const uint32_t n_faults = desk.numbers[FAULT];
    best = best_of(desk, best);
    worst = best_of(desk, worst);
    row->best = logit_of(best.key);
    const double range = row->best - logit_of(~worst.key);
    row->scale = range > 0 ? (BINS - 1) / range : 0;
    return n_faults > 0 ? place{0, 0} : best;
}

/* -------------------------------------------------------------------- the kernel */

/* The token of one row; -1: it cannot be sampled. */
HY_DEVICE int32_t choose(const struct desk &desk, struct row *row,
                         const struct hy_sample_row *given)
{
    const struct place best = read_row(desk, row);
    const uint32_t n_stages = hy_load(&given->n_stages);
    uint32_t n = 0; /* gathered; 0: all that is kept is too much for that */
    if (best.key == 0 || hy_load(&given->greedy))
        return best.key == 0 ? -1 : (int32_t)best.id;
    for (uint32_t i = 0; i < n_stages; i++) {
        const int32_t stage = hy_load(&given->stages[i]);
        const double value = stage == HY_SAMPLE_TOP_K   ? hy_load(&given->top_k)
                             : stage == HY_SAMPLE_TOP_P ? hy_load(&given->top_p)
                             : stage == HY_SAMPLE_MIN_P ? hy_load(&given->min_p)
                                                        : hy_load(&given->temperature);
        if (stage == HY_SAMPLE_TEMPERATURE)
            row->temperature = value;
        else
            n = n > 0 ? run_on_gathered(desk, *row, stage, value, n)
                      : run_on_row(desk, row, stage, value);
    }
    return (int32_t)draw(desk, *row, hy_load(&given->draw), n);
}

/*
 * V logits, c changes: a look at all of them reads 4 V + 12 c bytes, and there are: of a greedy row
 * 1; of one that keeps no more than MOST by its first cut, or draws from all, 3 (the best; counts;
 * those around the place). min_p as the first cut takes 4. Where more than MOST logits are so near
 * to each other that they fall into one bin, a few more. It reads 16 c and 64 more, writes 8 c + 4.
 */
static HY_KERNEL __launch_bounds__(THREADS)
sample_rows(struct hy_sample_args args, const struct hy_sample_change *changes, double *changed,
            double unit, double least)
{
    const struct hy_sample_row *given = args.rows + hy_block().x;
    const struct desk desk = {
        hy_shared<uint64_t>(SUMS, BINS),         hy_shared<uint64_t>(KEYS, MOST),
        hy_shared<uint64_t>(ENDS, MOST),         hy_shared<uint64_t>(WORDS, WARPS + 4),
        hy_shared<uint32_t>(COUNTS, BINS),       hy_shared<uint32_t>(IDS, MOST),
        hy_shared<uint32_t>(NUMBERS, WARPS + 4),
        hy_shared<uint32_t>(MARKS, mark_words(args.n_logits)),
    };
    struct row row = {};
    row.logits = args.logits + hy_load(&given->row) * args.stride;
    row.n_logits = args.n_logits;
    row.changes = hy_load(&given->changes);
    row.n_changes = hy_load(&given->n_changes);
    row.changed = changed + (row.changes - changes);
    row.temperature = 1;
    row.unit = unit;
    row.least = least;
    make_changes(desk, row, given, changed + (row.changes - changes));
    const int32_t token = choose(desk, &row, given);
    if (hy_thread() == 0)
        hy_store(args.tokens + hy_block().x, token);
}

void hy_cuda_sample(cudaStream_t stream, const struct hy_sample_args *args,
                    const struct hy_sample_change *changes, double *changed)
{
    int bits = 62; /* as hy_weight_unit */
    for (size_t n = args->n_logits; n > 1; n -= n / 2)
        bits--;
    /* half a part is 2^-(bits + 1), which is more than e^least */
    const double unit = ldexp(1, bits), least = -0.6932 * (bits + 1);
    const size_t n_marks = (args->n_logits + 31) / 32;
    hy_launch(stream, sample_rows, dim3((unsigned)args->n_rows), THREADS, MARKS + 4 * n_marks,
              *args, changes, changed, unit, least);
}
