/* Guarded devices of one process that have joined: each on a thread of its own, they give each
 * other what they have computed. */
#ifndef TEST_GUARDED_RANKS_H
#define TEST_GUARDED_RANKS_H

#include <stdbool.h>

#include "backend/device.h"

struct guarded_ranks;

/* Ids differ from call to call. */
void guarded_ranks_make_id(unsigned char *id);

/* Waits for all ranks of the id; NULL: one did not come in time. */
struct guarded_ranks *guarded_ranks_join(const struct hy_join_args *args);
void guarded_ranks_leave(struct guarded_ranks *ranks); /* NULL is ignored */

/*
 * all, [world_size][bytes], is what every rank has given as mine; self: as it has joined, but for
 * the id. False: one did not come in time, or came with another number of bytes, or ranks have come
 * apart like that before.
 */
bool guarded_ranks_gather(struct guarded_ranks *ranks, const struct hy_join_args *self,
                          const void *mine, void *all, size_t bytes);

#endif
