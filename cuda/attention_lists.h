/* What attention's kernels are told of the sequences of a step: lists of work, made on the host. */
#ifndef HYMBA_CUDA_ATTENTION_LISTS_H
#define HYMBA_CUDA_ATTENTION_LISTS_H

#include <stddef.h>
#include <stdint.h>

#include "portable.h"

extern "C" {
#include "kernel/kernel.h"
}

/*
 * Segments of more rows than these are computed in tiles. A row of a short one reads its keys by
 * itself: what a tile saves is little then, and a tile walks along all the keys, one block after
 * the other, where parts are read at the same time.
 */
enum { HY_ATTENTION_DECODE_ROWS = 8 };

/*
 * Positions whose keys are one part in decoding. Part n has positions from n * HY_ATTENTION_PART
 * on, whatever spans they lie in, so that a result does not depend on these. A part of bf16 caches
 * of the published size is 96 KiB for each key head, and leaves 2.5 KiB in the workspace.
 */
enum { HY_ATTENTION_PART = 256 };

/* Pairs of a row and a query head (of those that share a key head) in a tile; some kernels take
 * twice as many. */
enum { HY_ATTENTION_TILE = 64 };

/*
 * A run of items: in decoding successive parts of one row, else the tiles of one segment. All
 * fields are 64-bit numbers, since threads fetch them as such.
 */
struct hy_attention_record {
    uint64_t position; /* of the row, or the segment's first one */
    uint64_t window;
    uint64_t spans;    /* bytes from the list's first record to struct hy_span[n_spans] */
    uint64_t n_spans;
    uint64_t row;      /* in the step: the row, or the segment's first one */
    uint64_t n_rows;   /* 0: nothing is to be done for its items */
    uint64_t part;     /* the number of the first part */
};
enum { HY_ATTENTION_RECORD_WORDS = sizeof(struct hy_attention_record) / sizeof(uint64_t) };

/* A row's parts are items first_item .. first_item + n_items. */
struct hy_attention_merge {
    uint32_t row, first_item, n_items;
};

/* Record r has items first_items[r] .. first_items[r + 1]; the last of these is the number of
 * items. */
struct hy_attention_lists {
    const struct hy_attention_record *records;
    const uint32_t *first_items; /* [n_records + 1] */
    size_t n_records, n_items;
};

#endif
