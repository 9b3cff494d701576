/*
 * One block chooses one row's token. It never sorts the row: it looks for the few candidates around
 * the place in the order by logit where a stage cuts or the draw falls (sample_search.h). Neither
 * the order of threads nor that of the stages' sums can be seen in the result, which is the CPU's.
 */
#include "sample_search.h"

/* ---------------------------------------------------------------------- stages */

/* min_p among all candidates that are kept: up to the first whose weight is less. */
HY_DEVICE struct hy_logit_place find_less(const struct hy_desk &desk,
                                          const struct hy_logit_row &row, double least)
{
    struct hy_logit_place best = {0, UINT32_MAX};
    hy_for_each_logit(desk, row, [&](double logit, uint32_t id) {
        const struct hy_logit_place place = {hy_key_of(logit), id};
        if (hy_is_better(place, row.bound) && hy_is_better(place, best)
            && hy_weight_of(row, logit) < least)
            best = place;
    });
    return hy_best_of(desk, best);
}

HY_DEVICE uint64_t count_kept(const struct hy_desk &desk, const struct hy_logit_row &row)
{
    uint64_t mine = 0, total;
    hy_for_each_logit(desk, row, [&](double logit, uint32_t id) {
        mine += hy_is_kept(row, hy_key_of(logit), id);
    });
    hy_sum_up_to(desk, mine, &total);
    return total;
}

/* Cuts behind what was found, where anything was. Returns how many are gathered, 0 if they are too
 * many. */
HY_DEVICE uint32_t cut(const struct hy_desk &desk, struct hy_logit_row *row,
                       const struct hy_found &found)
{
    if (!found.reached)
        return 0;
    row->bound = {found.place.key, found.place.id + 1};
    if (found.gathered)
        return (uint32_t)found.n_kept;
    if (found.n_kept > HY_ROW_MOST)
        return 0;
    return hy_gather(desk, *row, {0, HY_ROW_BINS - 1, true, {0, 0}, {0, 0}, 0, 0});
}

/* A stage among all that are kept; as cut. */
HY_DEVICE uint32_t run_on_row(const struct hy_desk &desk, struct hy_logit_row *row, int32_t stage,
                              double value)
{
    if (stage == HY_SAMPLE_TOP_K)
        return cut(desk, row, hy_search_row(desk, *row, {HY_COUNT_AT_LEAST, (uint64_t)value, 0}));
    if (stage == HY_SAMPLE_TOP_P)
        return cut(desk, row, hy_search_row(desk, *row, {HY_PARTS_AT_LEAST, 0, value}));
    const struct hy_logit_place less = find_less(desk, *row, value);
    if (less.key == 0)
        return 0;
    row->bound = less;
    const uint64_t n_kept = count_kept(desk, *row);
    if (n_kept > HY_ROW_MOST)
        return 0;
    return hy_gather(desk, *row, {0, HY_ROW_BINS - 1, true, {0, 0}, {0, 0}, 0, 0});
}

/* A stage among the n gathered; returns how many it keeps. */
HY_DEVICE uint32_t run_on_gathered(const struct hy_desk &desk, const struct hy_logit_row &row,
                                   int32_t stage, double value, uint32_t n)
{
    if (stage == HY_SAMPLE_TOP_K)
        return n < value ? n : (uint32_t)value;
    if (stage == HY_SAMPLE_TOP_P) {
        const double all = (double)hy_sum_parts(desk, row, n);
        const struct hy_search search = {HY_PARTS_AT_LEAST, 0, hy_multiply(value, all)};
        return hy_find_reached(desk, search, n, 0, 0) + 1;
    }
    return hy_find_first(desk, n, [&](uint32_t i) {
        return i > 0 && hy_weight_of(row, hy_logit_of(desk.keys[i])) < value;
    });
}

HY_DEVICE uint32_t draw(const struct hy_desk &desk, const struct hy_logit_row &row, double unit,
                        uint32_t n)
{
    if (n == 0)
        return hy_search_row(desk, row, {HY_PARTS_ABOVE, 0, unit}).place.id;
    const double all = (double)hy_sum_parts(desk, row, n);
    const struct hy_search search = {HY_PARTS_ABOVE, 0, hy_multiply(unit, all)};
    return desk.ids[hy_find_reached(desk, search, n, 0, 0)];
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
HY_DEVICE void make_changes(const struct hy_desk &desk, const struct hy_logit_row &row,
                            const struct hy_sample_row *given, double *changed)
{
    for (size_t i = hy_thread(); i < hy_mark_words(row.n_logits); i += HY_ROW_THREADS)
        desk.marks[i] = 0;
    if (hy_thread() == 0)
        desk.numbers[HY_DESK_FAULT] = 0;
    hy_sync();
    for (size_t i = hy_thread(); i < row.n_changes; i += HY_ROW_THREADS) {
        const uint32_t token = (uint32_t)hy_load(&row.changes[i].token);
        const float logit = hy_load(row.logits + token);
        hy_store(changed + i, change_logit(logit, given, &row.changes[i]));
        desk.marks.add(token / 32, (uint32_t)1 << token % 32); /* each token has one */
    }
    hy_sync();
}

/* The best place; bins are laid from there to the worst. A key of 0: the logits cannot be sampled.
 * A logit that is no candidate, but for -infinity, is a fault; hy_for_each_logit shows none. */
HY_DEVICE struct hy_logit_place read_row(const struct hy_desk &desk, struct hy_logit_row *row)
{
    struct hy_logit_place best = {0, UINT32_MAX}, worst = {0, UINT32_MAX};
    bool fault = false;
    const size_t n = row->n_logits;
    for (size_t first = hy_thread(); first < n; first += HY_ROW_BATCH * HY_ROW_THREADS) {
        float logits[HY_ROW_BATCH];
#pragma unroll
        for (unsigned k = 0; k < HY_ROW_BATCH; k++)
            logits[k] = first + k * HY_ROW_THREADS < n
                            ? hy_load(row->logits + first + k * HY_ROW_THREADS)
                            : -INFINITY;
#pragma unroll
        for (unsigned k = 0; k < HY_ROW_BATCH; k++) {
            const size_t i = first + k * HY_ROW_THREADS;
            const uint32_t marks = i < n ? desk.marks[i / 32] : 0;
            const struct hy_logit_place place = {hy_key_of(logits[k]), (uint32_t)i};
            fault = fault || !(logits[k] < INFINITY);
            if (marks >> i % 32 & 1 || place.key == 0)
                continue;
            if (hy_is_better(place, best))
                best = place;
            if (~place.key > worst.key)
                worst.key = ~place.key;
        }
    }
    for (size_t i = hy_thread(); i < row->n_changes; i += HY_ROW_THREADS) {
        const struct hy_logit_place place = {hy_key_of(hy_load(row->changed + i)),
                                             (uint32_t)hy_load(&row->changes[i].token)};
        if (place.key == 0)
            continue;
        if (hy_is_better(place, best))
            best = place;
        if (~place.key > worst.key)
            worst.key = ~place.key;
    }
    if (fault)
        desk.numbers.add(HY_DESK_FAULT, 1);
    hy_sync();
    const uint32_t n_faults = desk.numbers[HY_DESK_FAULT];
    best = hy_best_of(desk, best);
    worst = hy_best_of(desk, worst);
    row->best = hy_logit_of(best.key);
    const double range = row->best - hy_logit_of(~worst.key);
    row->scale = range > 0 ? (HY_ROW_BINS - 1) / range : 0;
    return n_faults > 0 ? hy_logit_place{0, 0} : best;
}

/* -------------------------------------------------------------------- the kernel */

/* The token of one row; -1: it cannot be sampled. */
HY_DEVICE int32_t choose(const struct hy_desk &desk, struct hy_logit_row *row,
                         const struct hy_sample_row *given)
{
    const struct hy_logit_place best = read_row(desk, row);
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
 * 1; of one that keeps no more than HY_ROW_MOST by its first cut, or draws from all, 3 (the best;
 * counts; those around the place). min_p as the first cut takes 4. Where more than HY_ROW_MOST
 * logits are so near to each other that they fall into one bin, a few more. It reads 16 c and 64
 * more, writes 8 c + 4.
 */
static HY_KERNEL __launch_bounds__(HY_ROW_THREADS)
sample_rows(struct hy_sample_args args, const struct hy_sample_change *changes, double *changed,
            double unit, double least)
{
    const struct hy_sample_row *given = args.rows + hy_block().x;
    const struct hy_desk desk = {
        hy_shared<uint64_t>(HY_DESK_SUMS, HY_ROW_BINS),
        hy_shared<uint64_t>(HY_DESK_KEYS, HY_ROW_MOST),
        hy_shared<uint64_t>(HY_DESK_ENDS, HY_ROW_MOST),
        hy_shared<uint64_t>(HY_DESK_WORDS, HY_ROW_WARPS + 4),
        hy_shared<uint32_t>(HY_DESK_COUNTS, HY_ROW_BINS),
        hy_shared<uint32_t>(HY_DESK_IDS, HY_ROW_MOST),
        hy_shared<uint32_t>(HY_DESK_NUMBERS, HY_ROW_WARPS + 4),
        hy_shared<uint32_t>(HY_DESK_MARKS, hy_mark_words(args.n_logits)),
    };
    struct hy_logit_row row = {};
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
    hy_launch(stream, sample_rows, dim3((unsigned)args->n_rows), HY_ROW_THREADS,
              HY_DESK_MARKS + 4 * n_marks, *args, changes, changed, unit, least);
}
