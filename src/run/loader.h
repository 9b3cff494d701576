/*
 * A saved session on its way into a context: what the two files that read it share, and nobody
 * else uses. Everything is made anew, so that giving it back undoes all of it.
 */
#ifndef HY_RUN_LOADER_H
#define HY_RUN_LOADER_H

#include "run/saved_format.h"

/* What is made on a rank; NULL: not yet, or given away. */
struct hy_loader_rank {
    hymba_context *context;
    struct hy_meta_state *meta;
    hymba_session *session;
};

struct hy_loader {
    hymba_context *context; /* of rank 0 */
    uint32_t n_ranks;
    struct hy_loader_rank ranks[HY_MAX_DEVICES];
    struct hy_saved_parts parts;
    struct hy_container_reader reader;
    struct hy_saved_parameters parameters;
    struct hy_saved_blocks table;
};

/* FORMAT: a number in the file that cannot be. */
hymba_status hy_loader_wrong(const struct hy_loader *loader, const char *what, uint64_t found,
                             hymba_error *error);

/* Names the rank's device in its failure. Returns status. */
hymba_status hy_loader_name(const struct hy_loader *loader, uint32_t rank, hymba_status status,
                            hymba_error *error);

/* A part of the chunk that was begun. */
hymba_status hy_loader_take(struct hy_loader *loader, void *data, size_t size, hymba_error *error);

/* The beginning of a chunk of exactly that size. */
hymba_status hy_loader_expect(struct hy_loader *loader, uint32_t tag, size_t size,
                              hymba_error *error);

/* Takes a chunk of exactly that size. */
hymba_status hy_loader_take_chunk(struct hy_loader *loader, uint32_t tag, void *data, size_t size,
                                  hymba_error *error);

/* What the file has of states, in its order (load_state.c); the sessions are there without one. */
hymba_status hy_load_meta(struct hy_loader *loader, hymba_error *error);
hymba_status hy_load_blocks(struct hy_loader *loader, hymba_error *error);
hymba_status hy_load_state(struct hy_loader *loader, hymba_error *error);
hymba_status hy_load_snapshots(struct hy_loader *loader, hymba_error *error);

#endif
