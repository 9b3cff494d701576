/* The merges of a tokenizer.json: which pair of pieces becomes which piece, and in what order. */
#ifndef HY_TEXT_MERGE_TABLE_H
#define HY_TEXT_MERGE_TABLE_H

#include <stdbool.h>

#include "base/memory.h"

enum { HY_MERGE_TABLE_MAX = 1 << 22 };

struct hy_merge {
    uint64_t pair; /* left id in the high half, right id in the low half */
    uint32_t rank; /* the lowest goes first */
    int32_t id;    /* what the two become; -1: an empty slot */
};

struct hy_merge_table {
    struct hy_memory *memory;
    struct hy_merge *slots;
    size_t size;
};

/* Room for count <= HY_MERGE_TABLE_MAX merges. */
hymba_status hy_merge_table_create(struct hy_merge_table *table, struct hy_memory *memory,
                                   size_t count, hymba_error *error);
void hy_merge_table_clear(struct hy_merge_table *table);

enum hy_merge_added { HY_MERGE_ADDED, HY_MERGE_DUPLICATE, HY_MERGE_COLLISIONS };
enum hy_merge_added hy_merge_table_add(struct hy_merge_table *table, int32_t left, int32_t right,
                                       uint32_t rank, int32_t id);

/* NULL if the two do not merge. */
const struct hy_merge *hy_merge_table_find(const struct hy_merge_table *table, int32_t left,
                                           int32_t right);

#endif
