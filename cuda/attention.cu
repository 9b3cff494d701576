#include "attention.h"

#include <string.h>

#include "attention_decode.h"
#include "attention_prefill.h"

extern "C" {
#include "base/checked.h"
#include "kernel/visible.h"
}

/* Blocks that keep a device busy: two on each of 132 multiprocessors. */
enum { ENOUGH_BLOCKS = 264 };

/* The lists of a plan on the host, or NULL as long as they are only counted, and what they hold. */
struct planner {
    const struct hy_attention_args *args;
    struct hy_span *spans;
    uint64_t spans_from_parts, spans_from_tiles; /* bytes from the first record of a list */
    struct hy_attention_record *part_records, *tile_records;
    struct hy_attention_merge *merges;
    uint32_t *part_items, *tile_items;
    size_t n_spans, n_part_records, n_tile_records, n_merges;
    uint64_t n_parts, n_tiles;
    uint64_t sequence_spans; /* bytes from the first span to the running sequence's */
    unsigned tile_pairs;
};

static bool is_decoded(const struct hy_attention_sequence *sequence)
{
    return sequence->segment.n_rows <= HY_ATTENTION_DECODE_ROWS;
}

static struct hy_attention_record record_of(const struct hy_attention_sequence *sequence,
                                            uint64_t spans)
{
    struct hy_attention_record record = {};
    record.position = sequence->position;
    record.window = sequence->window;
    record.spans = spans;
    record.n_spans = sequence->n_spans;
    record.row = sequence->segment.row;
    record.n_rows = sequence->segment.n_rows;
    return record;
}

/* Successive parts of a row, from number `part` on. */
static void add_part_record(struct planner *planner, const struct hy_attention_sequence *sequence,
                            size_t row, uint64_t part)
{
    if (planner->part_records) {
        struct hy_attention_record record =
            record_of(sequence, planner->spans_from_parts + planner->sequence_spans);
        record.position += row;
        record.row += row;
        record.n_rows = 1;
        record.part = part;
        planner->part_records[planner->n_part_records] = record;
        planner->part_items[planner->n_part_records] = (uint32_t)planner->n_parts;
    }
    planner->n_part_records++;
}

/* A row's parts that have a visible key. */
static void plan_row(struct planner *planner, const struct hy_attention_sequence *sequence,
                     size_t row)
{
    uint64_t first_item = planner->n_parts, next = 0; /* the part behind the last one listed */
    for (size_t s = 0; s < sequence->n_spans; s++) {
        const struct hy_span *span = &sequence->spans[s];
        struct hy_visible keys =
            hy_visible_keys(span, sequence->position + row, sequence->window);
        if (keys.begin == keys.end)
            continue;
        uint64_t first = (span->position + keys.begin) / HY_ATTENTION_PART;
        uint64_t last = (span->position + keys.end - 1) / HY_ATTENTION_PART;
        bool goes_on = planner->n_parts > first_item && first <= next;
        if (goes_on)
            first = next;
        if (first > last)
            continue;
        if (!goes_on)
            add_part_record(planner, sequence, row, first);
        planner->n_parts += last - first + 1;
        next = last + 1;
    }
    if (planner->merges) {
        struct hy_attention_merge *merge = &planner->merges[planner->n_merges];
        merge->row = (uint32_t)(sequence->segment.row + row);
        merge->first_item = (uint32_t)first_item;
        merge->n_items = (uint32_t)(planner->n_parts - first_item);
    }
    planner->n_merges++;
}

static uint64_t count_tiles(const struct hy_attention_args *args,
                            const struct hy_attention_sequence *sequence, unsigned tile_pairs)
{
    const size_t group = args->n_heads / args->n_kv_heads;
    return (sequence->segment.n_rows * group + tile_pairs - 1) / tile_pairs;
}

/* Large tiles read less for each pair, but few of them leave multiprocessors idle. */
static unsigned find_tile_pairs(const struct hy_attention_args *args)
{
    const unsigned largest = hy_cuda_attention_mma_pairs(args);
    uint64_t tiles = 0;
    for (size_t s = 0; s < args->n_sequences; s++)
        if (!is_decoded(&args->sequences[s]))
            tiles += count_tiles(args, &args->sequences[s], largest);
    return tiles * args->n_kv_heads < ENOUGH_BLOCKS ? (unsigned)HY_ATTENTION_TILE : largest;
}

static void plan_tiles(struct planner *planner, const struct hy_attention_sequence *sequence)
{
    if (planner->tile_records) {
        planner->tile_records[planner->n_tile_records] =
            record_of(sequence, planner->spans_from_tiles + planner->sequence_spans);
        planner->tile_items[planner->n_tile_records] = (uint32_t)planner->n_tiles;
    }
    planner->n_tile_records++;
    planner->n_tiles += count_tiles(planner->args, sequence, planner->tile_pairs);
}

static void plan_sequences(struct planner *planner)
{
    for (size_t s = 0; s < planner->args->n_sequences; s++) {
        const struct hy_attention_sequence *sequence = &planner->args->sequences[s];
        planner->sequence_spans = planner->n_spans * sizeof *sequence->spans;
        if (planner->spans && sequence->n_spans > 0)
            memcpy(planner->spans + planner->n_spans, sequence->spans,
                   sequence->n_spans * sizeof *sequence->spans);
        planner->n_spans += sequence->n_spans;
        if (!is_decoded(sequence))
            plan_tiles(planner, sequence);
        for (size_t row = 0; is_decoded(sequence) && row < sequence->segment.n_rows; row++)
            plan_row(planner, sequence, row);
    }
    if (planner->part_items)
        planner->part_items[planner->n_part_records] = (uint32_t)planner->n_parts;
    if (planner->tile_items)
        planner->tile_items[planner->n_tile_records] = (uint32_t)planner->n_tiles;
}

/* ------------------------------------------------------------------- padding */

/* How many of each the lists have room for, and so the grids. */
struct capacities {
    size_t part_records, tile_records, merges, spans;
    uint64_t parts;
};

/* What n sequences have of something, for so many rows: their mean, rounded up to 1 to 8, 10, 12,
 * 14, 16, 20, 24 ..., for each of them. */
static uint64_t pad(uint64_t count, size_t n, size_t rows)
{
    uint64_t each = (count + n - 1) / n, step = 1;
    while (each > 8 * step)
        step *= 2;
    return (each + step - 1) / step * step * rows;
}

/*
 * Without rows as many as there are. For a step of so many rows sizes that change seldom from step
 * to step: of the grids only the number of parts hangs on the sequences, by their mean length. What
 * it costs where no row is nobody's: up to a quarter more bytes of lists to copy, and of blocks, or
 * one more for each row; those end when they have read the list of first items. Where rows are
 * nobody's, as much more of both as of rows. One record at least is more than needed: it has the
 * parts that nothing is to be done for.
 */
static struct capacities find_capacities(const struct planner *counts, size_t rows)
{
    struct capacities capacities = {counts->n_part_records, counts->n_tile_records,
                                    counts->n_merges, counts->n_spans, counts->n_parts};
    size_t n = counts->args->n_sequences;
    if (rows == 0)
        return capacities;
    capacities.part_records = (size_t)pad(counts->n_part_records, n, rows) + 1;
    capacities.parts = pad(counts->n_parts, n, rows);
    capacities.merges = rows;
    capacities.spans = (size_t)pad(counts->n_spans, n, rows); /* lists behind them stay in place */
    return capacities;
}

/* ---------------------------------------------------------------- the lists */

/* Where the lists lie, as bytes from the first: those of 8-byte fields, those of 4, the spans. */
struct offsets {
    size_t part_records, tile_records, part_items, tile_items, merges, spans, end;
};

static struct offsets lay_out(const struct capacities *capacities)
{
    struct offsets at;
    at.part_records = 0;
    at.tile_records =
        at.part_records + capacities->part_records * sizeof(struct hy_attention_record);
    at.part_items = at.tile_records + capacities->tile_records * sizeof(struct hy_attention_record);
    at.tile_items = at.part_items + (capacities->part_records + 1) * sizeof(uint32_t);
    at.merges = at.tile_items + (capacities->tile_records + 1) * sizeof(uint32_t);
    at.spans = at.merges + capacities->merges * sizeof(struct hy_attention_merge);
    at.spans = (at.spans + 15) / 16 * 16;
    at.end = at.spans + capacities->spans * sizeof(struct hy_span);
    return at;
}

bool hy_cuda_attention_plan(const struct hy_attention_args *args, struct hy_attention_plan *plan,
                            size_t rows, unsigned tile_pairs)
{
    struct planner counts = {};
    counts.args = args;
    counts.tile_pairs = tile_pairs > 0 ? tile_pairs : find_tile_pairs(args);
    plan_sequences(&counts);
    struct capacities capacities = find_capacities(&counts, rows);
    struct offsets at = lay_out(&capacities);
    if (capacities.parts > INT32_MAX || counts.n_tiles > INT32_MAX
        || capacities.merges > INT32_MAX
        || args->n_heads > UINT16_MAX /* what a grid can have */
        || !hy_mul_size(capacities.parts, hy_cuda_attention_part_bytes(args),
                        &plan->workspace_bytes))
        return false;
    plan->list_bytes = (at.end + 15) / 16 * 16;
    plan->spans_at = at.spans;
    plan->parts.records = (const struct hy_attention_record *)at.part_records;
    plan->parts.first_items = (const uint32_t *)at.part_items;
    plan->parts.n_records = capacities.part_records;
    plan->parts.n_items = capacities.parts;
    plan->tiles.records = (const struct hy_attention_record *)at.tile_records;
    plan->tiles.first_items = (const uint32_t *)at.tile_items;
    plan->tiles.n_records = capacities.tile_records;
    plan->tiles.n_items = counts.n_tiles;
    plan->merges = (const struct hy_attention_merge *)at.merges;
    plan->n_merges = capacities.merges;
    plan->tile_pairs = counts.tile_pairs;
    return true;
}

/* Padding rows have no parts, so that their results are 0. */
static void fill_padding(const struct planner *planner, const struct hy_attention_plan *plan)
{
    for (size_t r = planner->n_part_records; r < plan->parts.n_records; r++) {
        planner->part_records[r] = {};
        planner->part_items[r + 1] = (uint32_t)plan->parts.n_items;
    }
    for (size_t m = planner->n_merges; m < plan->n_merges; m++)
        planner->merges[m] = {(uint32_t)m, 0, 0};
}

/* The list that lies so many bytes behind the first. */
template <typename T> static T *list_at(void *lists, const T *offset)
{
    return (T *)((unsigned char *)lists + (uintptr_t)offset);
}

template <typename T> static void move_to(const void *device_lists, const T *&list)
{
    list = (const T *)((uintptr_t)device_lists + (uintptr_t)list);
}

void hy_cuda_attention_lists(const struct hy_attention_args *args, struct hy_attention_plan *plan,
                             void *lists, const void *device_lists)
{
    struct planner planner = {};
    planner.args = args;
    planner.tile_pairs = plan->tile_pairs;
    planner.spans = (struct hy_span *)((unsigned char *)lists + plan->spans_at);
    planner.spans_from_parts = plan->spans_at - (uintptr_t)plan->parts.records;
    planner.spans_from_tiles = plan->spans_at - (uintptr_t)plan->tiles.records;
    planner.part_records = list_at(lists, plan->parts.records);
    planner.tile_records = list_at(lists, plan->tiles.records);
    planner.part_items = list_at(lists, plan->parts.first_items);
    planner.tile_items = list_at(lists, plan->tiles.first_items);
    planner.merges = list_at(lists, plan->merges);
    plan_sequences(&planner);
    fill_padding(&planner, plan);
    size_t used = plan->spans_at + planner.n_spans * sizeof(struct hy_span);
    memset((unsigned char *)lists + used, 0, plan->list_bytes - used);
    move_to(device_lists, plan->parts.records);
    move_to(device_lists, plan->parts.first_items);
    move_to(device_lists, plan->tiles.records);
    move_to(device_lists, plan->tiles.first_items);
    move_to(device_lists, plan->merges);
}

void hy_cuda_attention(cudaStream_t stream, const struct hy_attention_args *args,
                       const struct hy_attention_plan *plan, void *workspace)
{
    if (plan->n_merges > 0)
        hy_cuda_attention_decode(stream, args, plan, workspace);
    if (plan->tiles.n_items > 0 && hy_cuda_can_attention_mma(args))
        hy_cuda_attention_mma(stream, args, plan);
    else if (plan->tiles.n_items > 0 && hy_cuda_can_attention_mma_bytes(args))
        hy_cuda_attention_mma_bytes(stream, args, plan);
    else if (plan->tiles.n_items > 0)
        hy_cuda_attention_prefill(stream, args, plan);
}
