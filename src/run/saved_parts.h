/*
 * The memory of a session as a saved one has it: whole, though each rank of a group holds a part of
 * it in its own layout.
 */
#ifndef HY_RUN_SAVED_PARTS_H
#define HY_RUN_SAVED_PARTS_H

#include "run/group.h"

/* What lies in a device's memory is copied by way of the host's, so many bytes at a time. */
enum { HY_SAVED_PIECE = 1 << 20 };

/* Where a place (state/layout.h) lies on each rank. */
struct hy_rank_places {
    unsigned char *data[HY_MAX_DEVICES];
};

/* A sequence as the ranks have it. */
struct hy_rank_states {
    struct hy_state *list[HY_MAX_DEVICES];
};

struct hy_saved_parts {
    hymba_context *context;
    struct hy_memory *memory; /* of what follows */
    uint32_t n_ranks;         /* 1: the context is alone, and has all */
    const struct hy_state_layout *layout; /* of the whole */
    struct hy_state_layout whole;         /* which is this one, of several ranks */
    unsigned char *staging;   /* [n_pieces][HY_SAVED_PIECE]; NULL on the CPU */
};

/* UNSUPPORTED for a context that is one of several ranks by itself. */
hymba_status hy_saved_check_ranks(const hymba_context *context, hymba_error *error);

/* It is checked. Free with the next, even after a failure. */
hymba_status hy_saved_parts_create(hymba_context *context, struct hy_memory *memory,
                                   size_t n_pieces, struct hy_saved_parts *parts,
                                   hymba_error *error);
void hy_saved_parts_free(struct hy_saved_parts *parts);

/* Of a sequence: any place but a block. */
struct hy_rank_places hy_saved_places(const struct hy_saved_parts *parts,
                                      const struct hy_rank_states *states,
                                      enum hy_state_place place);

/* A window of a whole place. */
struct hy_saved_window {
    enum hy_state_place place;
    size_t begin, size; /* size at most HY_SAVED_PIECE */
};

/* Copies it from or to where the ranks compute, which are devices, and waits for that. Between a
 * group's bands (state/layout.h) zeros are read and nothing is written. */
hymba_status hy_saved_get(const struct hy_saved_parts *parts, struct hy_saved_window window,
                          const struct hy_rank_places *places, unsigned char *host,
                          hymba_error *error);
hymba_status hy_saved_put(const struct hy_saved_parts *parts, struct hy_saved_window window,
                          const struct hy_rank_places *places, unsigned char *host,
                          hymba_error *error);

#endif
