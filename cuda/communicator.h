/*
 * NCCL, as far as ranks need it: a communicator, opened at run time, which gathers parts of all
 * ranks. No call of it blocks but the last one. Nothing here is shared between communicators.
 */
#ifndef HYMBA_CUDA_COMMUNICATOR_H
#define HYMBA_CUDA_COMMUNICATOR_H

#include "portable.h"

extern "C" {
#include "backend/device.h"
}

struct hy_communicator;

/* What was begun has come to its end, is still under way, or has failed. */
enum hy_progress { HY_DONE, HY_UNDER_WAY, HY_BROKEN };

/* HY_UNIQUE_ID_BYTES. UNSUPPORTED if this was built without NCCL, DEVICE if it cannot be had. */
hymba_status hy_communicator_make_id(unsigned char *id, hymba_error *error);

/* One that has not joined anybody; fails like make_id, or for lack of memory. */
hymba_status hy_communicator_open(struct hy_communicator **communicator, hymba_error *error);

/* Begins to join those that have the id, with the calling thread's device. While this or a gather
 * is under way, nothing else is begun. */
enum hy_progress hy_communicator_join(struct hy_communicator *communicator, uint32_t rank,
                                      uint32_t world_size, const unsigned char *id);

/* Queues a gather of so many bytes of every rank, a multiple of 16: `all` is [world_size][bytes],
 * with this rank's in its place, in memory of cudaMalloc. It is queued once it is done; that its
 * stream has done it is another matter. */
enum hy_progress hy_communicator_gather(struct hy_communicator *communicator, void *all,
                                        size_t bytes, cudaStream_t stream);

/* How it goes: with what is under way, or else with all ranks. */
enum hy_progress hy_communicator_ask(struct hy_communicator *communicator);

/* What was wrong when it was broken. */
const char *hy_communicator_reason(const struct hy_communicator *communicator);

/* Begins to leave; all ranks do so, behind their last gathers. */
enum hy_progress hy_communicator_leave(struct hy_communicator *communicator);

/* Frees it. If it has not left, what its streams still have to do is broken off; graphs with
 * gathers must be gone. NULL is ignored. */
void hy_communicator_close(struct hy_communicator *communicator);

#endif
