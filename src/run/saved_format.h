/*
 * What stands in a saved session (docs/session-file.md); used by the files that write and read it
 * and by nobody else.
 */
#ifndef HY_RUN_SAVED_FORMAT_H
#define HY_RUN_SAVED_FORMAT_H

#include "format/container.h"
#include "run/saved_parts.h"
#include "run/session.h"

enum {
    HY_TAG_PARAMETERS = HY_TAG('P', 'A', 'R', 'M'),
    HY_TAG_TOKENS = HY_TAG('T', 'O', 'K', 'N'),
    HY_TAG_META = HY_TAG('M', 'E', 'T', 'A'),
    HY_TAG_BLOCKS = HY_TAG('B', 'L', 'K', 'S'),
    HY_TAG_STATE = HY_TAG('S', 'T', 'A', 'T'),
    HY_TAG_LOGITS = HY_TAG('L', 'O', 'G', 'T'),
    HY_TAG_SNAPSHOT = HY_TAG('S', 'N', 'A', 'P'),
    HY_TAG_SAMPLER = HY_TAG('S', 'A', 'M', 'P')
};

/* The first chunk. What of it names the model and the context must equal the loading context's. */
struct hy_saved_parameters {
    uint64_t fingerprint;
    uint64_t n_meta, window, rewind_tokens, block_tokens;
    uint64_t fixed_bytes, block_bytes, meta_bytes, vocabulary;
    uint32_t cache_type, state_type;
    /* of the session */
    uint64_t n_tokens, max_tokens, snapshot_interval, snapshot_budget;
    int32_t limit_policy;
    uint32_t has_logits, has_sampler, n_snapshots;
    uint64_t n_blocks; /* distinct ones, of the session and its snapshots */
};

/* What every state in the file begins with; then its block numbers and its fixed part follow. */
struct hy_saved_state {
    uint64_t length, ring_first, first_block, n_blocks;
    /* of snapshots */
    uint32_t automatic, has_logits;
    char name[HY_SNAPSHOT_NAME];
};

/* The parameters of a context, those of a session still zero. */
struct hy_saved_parameters hy_saved_describe(const struct hy_saved_parts *parts);

/* Blocks that hold the tokens of a sequence of that length from first_block on. */
size_t hy_saved_block_count(const struct hy_state_layout *layout, uint64_t length,
                            uint64_t first_block);

/* The bytes of a fixed part that are written, in this order: rings, the present recurrent state,
 * and those to step back to, which a snapshot has not. */
static inline size_t hy_saved_fixed_bytes(const struct hy_state_layout *layout, bool snapshot)
{
    return layout->fixed_bytes - (snapshot ? layout->history_bytes : 0);
}

/* The blocks of a session and its snapshots, each once, with its parts on all ranks. */
struct hy_saved_blocks {
    struct hy_block **blocks; /* [count][n_ranks] */
    size_t count, n_ranks;
};

static inline struct hy_rank_places hy_saved_block_places(const struct hy_saved_blocks *table,
                                                          size_t number)
{
    struct hy_rank_places places;
    for (size_t rank = 0; rank < table->n_ranks; rank++)
        places.data[rank] = table->blocks[number * table->n_ranks + rank]->data;
    return places;
}

#endif
