/*
 * A group: the ranks of one process. The context that the caller has is rank 0; it holds those of
 * the others and a thread for each, which run what waits for other ranks (devices that join, steps
 * that add up what each has computed). All else is done for one rank after the other on the
 * caller's thread. A context alone is a group of one rank, which costs nothing.
 */
#ifndef HY_RUN_GROUP_H
#define HY_RUN_GROUP_H

#include "run/context.h"

struct hy_group;

/* params is complete and names several devices. One reference, to rank 0. */
hymba_status hy_group_create(hymba_model *model, const hymba_context_params *params,
                             hymba_context **context, hymba_error *error);

/* Frees it with all its contexts; the last reference to rank 0 is gone. */
void hy_group_destroy(struct hy_group *group);

/* What one rank of the group that params names is given. */
struct hy_group_params {
    hymba_context_params params; /* which point to the other two */
    hymba_ranks ranks;
    char device[16];
};
hymba_status hy_group_rank_params(const hymba_context_params *params, uint32_t rank,
                                  struct hy_group_params *own, hymba_error *error);

uint32_t hy_group_size(const hymba_context *context);

/* rank < hy_group_size; 0 is context itself. */
hymba_context *hy_group_context(hymba_context *context, uint32_t rank);

/* "cuda:0,1" of a group, "cuda:0" or "cpu" of a context alone; lives as long as it. */
const char *hy_group_device(const hymba_context *context);

/* DEVICE once a device of the group has failed. */
hymba_status hy_group_check(const hymba_context *context, hymba_error *error);

typedef hymba_status (*hy_rank_work)(void *user, uint32_t rank, hymba_error *error);

/*
 * Runs the work for all ranks at the same time, rank 0's on the calling thread, and returns when
 * all have. Of several failures it returns the one that explains most: that of a rank that failed
 * itself, before that of one that waited for others in vain, before that of one that was told.
 */
hymba_status hy_group_run(hymba_context *context, hy_rank_work work, void *user,
                          hymba_error *error);

/* A failure on a rank other than 0, which *error tells of, is told again with the device's name
 * before it. Returns status. */
hymba_status hy_group_name(const hymba_context *context, uint32_t rank, hymba_status status,
                           hymba_error *error);

#endif
