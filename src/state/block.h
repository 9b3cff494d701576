/*
 * Blocks of keys and values, held in common by forked sessions and snapshots. A holder reads only
 * rows before its own position, so writing behind the last row anybody wrote disturbs no one;
 * only where a row is to be written twice does the second writer need a copy of its own.
 */
#ifndef HY_STATE_BLOCK_H
#define HY_STATE_BLOCK_H

#include <stdatomic.h>

#include "backend/store.h"

struct hy_block {
    _Atomic unsigned references; /* holders may be released from any thread */
    struct hy_memory *memory;
    struct hy_plugin *plugin;    /* whose memory the data are; NULL: the host's */
    size_t bytes;
    size_t filled;               /* rows written by anybody; changed inside the context only */
    unsigned char *data;
};

/* One reference, its data zero; NULL without memory. */
struct hy_block *hy_block_create(struct hy_memory *memory, struct hy_plugin *plugin,
                                 size_t bytes);
struct hy_block *hy_block_retain(struct hy_block *block);
void hy_block_release(struct hy_block *block); /* NULL is ignored */
int hy_block_is_shared(struct hy_block *block);

#endif
