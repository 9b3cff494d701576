/*
 * The lists and copies that a call works with besides the workspace. They grow with the number of
 * its sequences and are kept for the next call; what they hold is not.
 */
#ifndef HY_RUN_STEP_LISTS_H
#define HY_RUN_STEP_LISTS_H

#include "state/state.h"

/* How far an item has come in the running call. */
struct hy_item_progress {
    size_t done;            /* tokens */
    uint64_t begin;         /* position before the call */
    uint64_t ring_first;    /* likewise */
    size_t first_kept;      /* tokens done when the first state is kept */
    size_t n_kept;
    float *kept;            /* [n_kept] working copies */
    unsigned char *undo;    /* NULL: nothing to undo but the position */
    float *recurrent;       /* working copy; NULL: spare is used */
    unsigned char *spare;   /* takes the state behind the item's token (hy_step_sequence) */
    struct hy_snapshot *snapshots; /* taken on the way, listed when the call succeeds */
};

struct hy_step_lists {
    struct hy_plugin *plugin; /* in whose memory copies and spares lie; NULL: the host's */
    struct hy_attention_sequence *attention;
    struct hy_state_sequence *states;
    struct hy_step_sequence *sequences;
    struct hy_item_progress *progress;
    size_t capacity;          /* sequences: of the four above */
    struct hy_item *items;
    size_t item_capacity;
    struct hy_span *spans;
    size_t span_capacity;
    size_t max_keys;          /* of one sequence, in the spans listed last */
    float *recurrent;         /* f32 working copies of the items' recurrent states */
    size_t recurrent_capacity; /* floats */
    float *kept;              /* f32 copies of states that are kept for going back */
    size_t kept_capacity;     /* floats */
    unsigned char *undo;
    size_t undo_capacity;     /* bytes */
    unsigned char **spares;   /* recurrent states that nobody has: a step writes into them, and each
                                 is then exchanged for the state that it was computed from */
    size_t n_spares, spare_capacity;
    size_t spare_bytes;       /* of one */
};

/* Room for so many sequences, items of a call, spans of keys. */
hymba_status hy_step_lists_reserve_sequences(struct hy_memory *memory, struct hy_step_lists *lists,
                                             size_t n, hymba_error *error);
hymba_status hy_step_lists_reserve_items(struct hy_memory *memory, struct hy_step_lists *lists,
                                         size_t n, hymba_error *error);
hymba_status hy_step_lists_reserve_spans(struct hy_memory *memory, struct hy_step_lists *lists,
                                         size_t n, hymba_error *error);

/* For n states of so many floats each. */
hymba_status hy_step_lists_reserve_recurrent(struct hy_memory *memory, struct hy_step_lists *lists,
                                             size_t n, size_t floats, hymba_error *error);
hymba_status hy_step_lists_reserve_kept(struct hy_memory *memory, struct hy_step_lists *lists,
                                        size_t n, size_t floats, hymba_error *error);

hymba_status hy_step_lists_reserve_undo(struct hy_memory *memory, struct hy_step_lists *lists,
                                        size_t bytes, hymba_error *error);

/* n spare recurrent states of so many bytes each, always the same number; a failure may leave some
 * of them. */
hymba_status hy_step_lists_reserve_spares(struct hy_memory *memory, struct hy_step_lists *lists,
                                          size_t n, size_t bytes, hymba_error *error);

void hy_step_lists_free(struct hy_memory *memory, struct hy_step_lists *lists);

#endif
