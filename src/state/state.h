/*
 * The memory of one sequence, and of the meta tokens before it. Positions are absolute: the meta
 * tokens have 0 .. M-1, the first token of a session has M. Keys, values and recurrent states lie
 * where the context computes, like step rows, working copies and undo copies: what is done to them
 * is queued (backend/store.h). Lists and positions are the host's.
 */
#ifndef HY_STATE_STATE_H
#define HY_STATE_STATE_H

#include "kernel/kernel.h"
#include "state/block.h"
#include "state/layout.h"

/* State after the meta tokens: read-only once it is complete, shared by a context's sessions. */
struct hy_meta_state {
    _Atomic unsigned references;
    struct hy_memory *memory;
    struct hy_plugin *plugin; /* in whose memory this and all sequences behind it lie; NULL: the
                                 host's */
    const struct hy_state_layout *layout;
    unsigned char *data; /* layout->meta_bytes: keys and values, then the recurrent state */
};

struct hy_state {
    const struct hy_state_layout *layout;
    struct hy_memory *memory;       /* of the fixed part */
    struct hy_memory *block_memory; /* of blocks, which may outlive this sequence */
    struct hy_meta_state *meta;     /* held */
    bool is_meta;                   /* this sequence is the meta tokens themselves */
    unsigned char *fixed;           /* rings and kept states; for the meta sequence: meta->data */
    unsigned char *recurrent;       /* layout->recurrent_bytes: the present recurrent state */
    struct hy_block **blocks;       /* of the full caches, from first_block on */
    size_t n_blocks, block_capacity;
    uint64_t first_block;           /* blocks before it were dropped (sliding) */
    uint64_t full_window;           /* what full layers see of earlier tokens; UINT64_MAX: all */
    uint64_t position;              /* of the next token */
    uint64_t ring_first;            /* oldest position whose keys the rings still hold */
    uint64_t *kept;                 /* [rewind_tokens]: position of each kept recurrent state;
                                       UINT64_MAX: none */
};

/* Tokens behind the meta tokens. */
static inline uint64_t hy_state_length(const struct hy_state *state)
{
    return state->position - state->layout->n_meta;
}

hymba_status hy_meta_state_create(struct hy_memory *memory, struct hy_plugin *plugin,
                                  const struct hy_state_layout *layout,
                                  struct hy_meta_state **meta, hymba_error *error);
struct hy_meta_state *hy_meta_state_retain(struct hy_meta_state *meta);
void hy_meta_state_release(struct hy_meta_state *meta); /* NULL is ignored */

/* The sequence of meta tokens, at position 0 with zero states; it writes into *meta and needs no
 * freeing. */
void hy_state_begin_meta(struct hy_state *state, struct hy_meta_state *meta);

/* A sequence behind the meta tokens, whose state must be complete. */
hymba_status hy_state_create(struct hy_memory *memory, struct hy_memory *block_memory,
                             struct hy_meta_state *meta, struct hy_state *state,
                             hymba_error *error);
void hy_state_free(struct hy_state *state);

/* A second sequence in the same state: the fixed part is copied, blocks are shared. kept: the
 * recurrent states for going back are copied too (a snapshot has no use for them). */
hymba_status hy_state_copy(const struct hy_state *from, struct hy_memory *memory, bool kept,
                           struct hy_state *to, hymba_error *error);

/* Makes *state what *saved is, a copy of an earlier state of it; reserved blocks stay. */
hymba_status hy_state_return_to(struct hy_state *state, const struct hy_state *saved,
                                hymba_error *error);

/* Room for that, which then does not fail. */
hymba_status hy_state_reserve_return(struct hy_state *state, const struct hy_state *saved,
                                     hymba_error *error);

/* Back behind the meta tokens; blocks of its own are kept. */
void hy_state_reset(struct hy_state *state);

/* Makes room for n_tokens tokens behind the meta tokens. */
hymba_status hy_state_reserve(struct hy_state *state, uint64_t n_tokens, hymba_error *error);

/* The same for n_rows more tokens, which may then be written: a block that others have written on
 * in is copied. */
hymba_status hy_state_claim(struct hy_state *state, uint64_t n_rows, hymba_error *error);

/* Room for n blocks in the list of a sequence that has none, for a caller that puts them in. */
hymba_status hy_state_adopt_blocks(struct hy_state *state, size_t n, hymba_error *error);

/* Bytes of its blocks, and of those held in common with others. */
uint64_t hy_state_block_bytes(const struct hy_state *state, uint64_t *shared);

/* Bytes of its blocks that later, a sequence grown out of it, does not hold. */
uint64_t hy_state_lone_block_bytes(const struct hy_state *state, const struct hy_state *later);

/* Most spans that hy_state_spans can give, with the step's own, in the memory now reserved. */
size_t hy_state_max_spans(const struct hy_state *state);

/*
 * The stored keys and values of a cache that a query at or after the current position may see
 * through window, in the order of positions. The step's own keys are not among them.
 */
size_t hy_state_spans(const struct hy_state *state, uint32_t cache, uint64_t window,
                      struct hy_span *spans);

/* The span of n_rows rows from row on among a step's keys and values, standing at position. */
struct hy_span hy_step_span(const struct hy_state_layout *layout, const unsigned char *step,
                            uint32_t cache, size_t row, size_t n_rows, uint64_t position,
                            bool pinned);

/* Stores n_rows rows of the step's keys and values (from row on) and advances the position. */
void hy_state_append(struct hy_state *state, const unsigned char *step, size_t row, size_t n_rows);

/* Gives back the blocks that no later query sees. */
void hy_state_drop_unseen(struct hy_state *state);

/* Recurrent states to and from the f32 working copy (hy_layout_recurrent_floats). */
void hy_state_load_recurrent(const struct hy_state *state, float *working);
void hy_state_store_recurrent(struct hy_state *state, const float *working);

/* A recurrent state that takes the place of the present one, and the latter's block; both are of
 * the store that sequences lie in. */
unsigned char *hy_state_exchange_recurrent(struct hy_state *state, unsigned char *recurrent);

/* Keeps a working copy as the recurrent state at position, or the present one. */
void hy_state_keep(struct hy_state *state, uint64_t position, const float *working);
void hy_state_keep_present(struct hy_state *state, uint64_t position);

/* Whether the recurrent state and all keys of an earlier position are still there; step_back then
 * goes there. */
bool hy_state_can_step_back(const struct hy_state *state, uint64_t position);
void hy_state_step_back(struct hy_state *state, uint64_t position);

/*
 * Undo of calls that take several steps: rings are overwritten step by step, so the call keeps a
 * copy. Blocks need none: what stands behind the position is not read.
 */
size_t hy_state_undo_bytes(const struct hy_state *state);
void hy_state_save_undo(const struct hy_state *state, unsigned char *undo);
void hy_state_restore_undo(struct hy_state *state, const unsigned char *undo, uint64_t position,
                           uint64_t ring_first);

#endif
