#include "text/merge_table.h"

#include <string.h>

/* As in the vocabulary: a table made to collide is refused, not served slowly. */
enum { MAX_PROBES = 512 };

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static size_t hash_pair(uint64_t pair)
{
    uint64_t hash = (pair ^ pair >> 32) * 0x9E3779B97F4A7C15u;
    hash = (hash ^ hash >> 29) * 0xBF58476D1CE4E5B9u;
    return (size_t)(hash ^ hash >> 32);
}

hymba_status hy_merge_table_create(struct hy_merge_table *table, struct hy_memory *memory,
                                   size_t count, hymba_error *error)
{
    size_t size = 16;
    while (size < count * 2)
        size *= 2;
    table->slots = hy_alloc_array(memory, size, sizeof *table->slots);
    if (!table->slots)
        return hy_no_memory(error, size * sizeof *table->slots, "the table of merges");
    table->memory = memory;
    table->size = size;
    for (size_t i = 0; i < size; i++)
        table->slots[i] = (struct hy_merge){.id = -1};
    return HYMBA_OK;
}

void hy_merge_table_clear(struct hy_merge_table *table)
{
    if (table->slots)
        hy_free(table->memory, table->slots);
    memset(table, 0, sizeof *table);
}

enum hy_merge_added hy_merge_table_add(struct hy_merge_table *table, int32_t left, int32_t right,
                                       uint32_t rank, int32_t id)
{
    uint64_t pair = pair_of(left, right);
    size_t slot = hash_pair(pair);
    for (size_t probe = 0; probe < MAX_PROBES; probe++, slot++) {
        struct hy_merge *merge = &table->slots[slot & (table->size - 1)];
        if (merge->id < 0) {
            *merge = (struct hy_merge){.pair = pair, .rank = rank, .id = id};
            return HY_MERGE_ADDED;
        }
        if (merge->pair == pair)
            return HY_MERGE_DUPLICATE;
    }
    return HY_MERGE_COLLISIONS;
}

const struct hy_merge *hy_merge_table_find(const struct hy_merge_table *table, int32_t left,
                                           int32_t right)
{
    uint64_t pair = pair_of(left, right);
    size_t slot = hash_pair(pair);
    while (true) {
        const struct hy_merge *merge = &table->slots[slot & (table->size - 1)];
        if (merge->id < 0)
            return NULL;
        if (merge->pair == pair)
            return merge;
        slot++;
    }
}
