/*
 * Snapshots of a session: copies of its state at some length, sharing full-attention blocks with
 * it, kept in a list by ascending length. Forks share the snapshots themselves.
 */
#ifndef HY_RUN_SNAPSHOT_H
#define HY_RUN_SNAPSHOT_H

#include <stdatomic.h>

#include "state/state.h"

enum { HY_SNAPSHOT_NAME = 64 }; /* bytes of a name with its NUL */

struct hy_snapshot {
    _Atomic unsigned references;
    struct hy_memory *memory; /* the context's: forks may outlive the session */
    struct hy_state state;
    uint64_t length;          /* tokens */
    uint64_t bytes;           /* of its own */
    bool automatic;
    char name[HY_SNAPSHOT_NAME];
    float *logits;            /* [vocabulary] of the last token, or NULL */
    struct hy_snapshot *next; /* while it waits to be listed */
};

struct hy_snapshot_list {
    struct hy_snapshot **items;
    size_t count, capacity;
    uint64_t bytes;           /* of all */
    uint64_t interval, budget; /* 0: none */
};

/* Of n tokens behind a length, those up to the next automatic snapshot: a step stops there. */
static inline size_t hy_tokens_to_snapshot(const struct hy_snapshot_list *list, uint64_t length,
                                           size_t n)
{
    uint64_t distance = list->interval ? list->interval - length % list->interval : n;
    return distance < n ? (size_t)distance : n;
}

/* A snapshot of state, of n_logits logits or none (logits is NULL). One reference. */
hymba_status hy_snapshot_create(struct hy_memory *memory, const struct hy_state *state,
                                const float *logits, size_t n_logits, struct hy_snapshot **out,
                                hymba_error *error);
/* One whose state the caller makes. */
hymba_status hy_snapshot_create_bare(struct hy_memory *memory, struct hy_snapshot **out,
                                     hymba_error *error);
struct hy_snapshot *hy_snapshot_retain(struct hy_snapshot *snapshot);
void hy_snapshot_release(struct hy_snapshot *snapshot); /* NULL is ignored */

/* Room for one more, so that adding cannot fail; memory is the session's. */
hymba_status hy_snapshot_list_reserve(struct hy_memory *memory, struct hy_snapshot_list *list,
                                      size_t count, hymba_error *error);

/* Drops automatic snapshots, oldest first, until bytes more fit the budget; false, and none is
 * dropped, if they would not even then. */
bool hy_snapshot_list_make_room(struct hy_snapshot_list *list, uint64_t bytes);

/* Takes the reference over; replaces a snapshot of the same length. There must be room. */
void hy_snapshot_list_add(struct hy_snapshot_list *list, struct hy_snapshot *snapshot);

/* Index of the last snapshot with at most length tokens; count if there is none. */
size_t hy_snapshot_list_find(const struct hy_snapshot_list *list, uint64_t length);

void hy_snapshot_list_remove(struct hy_snapshot_list *list, size_t index);

/* Forgets the snapshots longer than length. */
void hy_snapshot_list_cut(struct hy_snapshot_list *list, uint64_t length);

void hy_snapshot_list_free(struct hy_memory *memory, struct hy_snapshot_list *list);

#endif
