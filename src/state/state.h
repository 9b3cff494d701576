/*
 * The memory of one sequence, and of the meta tokens before it. Positions are absolute: the meta
 * tokens have 0 .. M-1, the first token of a session has M.
 */
#ifndef HY_STATE_STATE_H
#define HY_STATE_STATE_H

#include "kernel/kernel.h"
#include "state/layout.h"

/* State after the meta tokens: read-only once it is complete, shared by a context's sessions. */
struct hy_meta_state {
    const struct hy_state_layout *layout;
    unsigned char *data; /* layout->meta_bytes */
};

struct hy_state {
    const struct hy_state_layout *layout;
    struct hy_memory *memory;
    struct hy_meta_state *meta;
    bool is_meta;            /* this sequence is the meta tokens themselves */
    unsigned char *fixed;    /* layout->fixed_bytes; for the meta sequence: meta->data */
    unsigned char **blocks;  /* of the full caches */
    size_t n_blocks, block_capacity;
    uint64_t position;       /* of the next token */
};

hymba_status hy_meta_state_create(struct hy_memory *memory, const struct hy_state_layout *layout,
                                  struct hy_meta_state *meta, hymba_error *error);
void hy_meta_state_free(struct hy_memory *memory, struct hy_meta_state *meta);

/* The sequence of meta tokens, at position 0 with zero states; it writes into *meta. */
void hy_state_begin_meta(struct hy_state *state, struct hy_meta_state *meta);

/* A sequence behind the meta tokens, whose state must be complete. */
hymba_status hy_state_create(struct hy_memory *memory, struct hy_meta_state *meta,
                             struct hy_state *state, hymba_error *error);
void hy_state_free(struct hy_state *state);

/* Back behind the meta tokens; blocks are kept. */
void hy_state_reset(struct hy_state *state);

/* Makes room for n_tokens tokens behind the meta tokens. */
hymba_status hy_state_reserve(struct hy_state *state, uint64_t n_tokens, hymba_error *error);

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

/* Recurrent states to and from the f32 working copy (hy_layout_recurrent_floats). */
void hy_state_load_recurrent(const struct hy_state *state, float *working);
void hy_state_store_recurrent(struct hy_state *state, const float *working);

/*
 * Undo of calls that take several steps: rings are overwritten step by step, so the call keeps a
 * copy. Blocks need none: what stands behind the position is not read.
 */
size_t hy_state_undo_bytes(const struct hy_state *state);
void hy_state_save_undo(const struct hy_state *state, unsigned char *undo);
void hy_state_restore_undo(struct hy_state *state, const unsigned char *undo, uint64_t position);

#endif
