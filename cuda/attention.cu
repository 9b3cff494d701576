#include "attention.h"

#include <string.h>

#include "attention_decode.h"
#include "attention_prefill.h"

extern "C" {
#include "base/checked.h"
#include "kernel/visible.h"
}

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

static void plan_tiles(struct planner *planner, const struct hy_attention_sequence *sequence)
{
    size_t group = planner->args->n_heads / planner->args->n_kv_heads;
    if (planner->tile_records) {
        planner->tile_records[planner->n_tile_records] =
            record_of(sequence, planner->spans_from_tiles + planner->sequence_spans);
        planner->tile_items[planner->n_tile_records] = (uint32_t)planner->n_tiles;
    }
    planner->n_tile_records++;
    planner->n_tiles += (sequence->segment.n_rows * group + HY_ATTENTION_TILE - 1)
                        / HY_ATTENTION_TILE;
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

/* Padding rows have no parts, so that their results are 0. */
static void fill_padding(const struct planner *planner, const struct capacities *capacities)
{
    for (size_t r = planner->n_part_records + 1; r <= capacities->part_records; r++)
        planner->part_items[r] = (uint32_t)capacities->parts;
    for (size_t m = planner->n_merges; m < capacities->merges; m++)
        planner->merges[m].row = (uint32_t)m;
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

static void fill_lists(const struct hy_attention_args *args, const struct capacities *capacities,
                       const struct offsets *at, unsigned char *lists)
{
    struct planner planner = {};
    memset(lists, 0, at->spans);
    planner.args = args;
    planner.spans = (struct hy_span *)(lists + at->spans);
    planner.spans_from_parts = at->spans - at->part_records;
    planner.spans_from_tiles = at->spans - at->tile_records;
    planner.part_records = (struct hy_attention_record *)(lists + at->part_records);
    planner.tile_records = (struct hy_attention_record *)(lists + at->tile_records);
    planner.part_items = (uint32_t *)(lists + at->part_items);
    planner.tile_items = (uint32_t *)(lists + at->tile_items);
    planner.merges = (struct hy_attention_merge *)(lists + at->merges);
    plan_sequences(&planner);
    fill_padding(&planner, capacities);
}

bool hy_cuda_attention_plan(const struct hy_attention_args *args, void *lists,
                            const void *device_lists, struct hy_attention_plan *plan, size_t rows)
{
    const uintptr_t device = (uintptr_t)device_lists;
    struct planner counts = {};
    counts.args = args;
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
    if (!lists)
        return true;
    size_t used = at.spans + counts.n_spans * sizeof(struct hy_span);
    memset((unsigned char *)lists + used, 0, plan->list_bytes - used);
    fill_lists(args, &capacities, &at, (unsigned char *)lists);
    plan->parts.records = (const struct hy_attention_record *)(device + at.part_records);
    plan->parts.first_items = (const uint32_t *)(device + at.part_items);
    plan->parts.n_records = capacities.part_records;
    plan->parts.n_items = capacities.parts;
    plan->tiles.records = (const struct hy_attention_record *)(device + at.tile_records);
    plan->tiles.first_items = (const uint32_t *)(device + at.tile_items);
    plan->tiles.n_records = capacities.tile_records;
    plan->tiles.n_items = counts.n_tiles;
    plan->merges = (const struct hy_attention_merge *)(device + at.merges);
    plan->n_merges = capacities.merges;
    return true;
}

void hy_cuda_attention(cudaStream_t stream, const struct hy_attention_args *args,
                       const struct hy_attention_plan *plan, void *workspace)
{
    if (plan->n_merges > 0)
        hy_cuda_attention_decode(stream, args, plan, workspace);
    if (plan->tiles.n_items > 0 && hy_cuda_can_attention_mma(args))
        hy_cuda_attention_mma(stream, args, plan);
    else if (plan->tiles.n_items > 0)
        hy_cuda_attention_prefill(stream, args, plan);
}
