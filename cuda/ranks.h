/*
 * A device among others: ranks, each of which computes a part of every layer. All ranks make the
 * same gathers in the same order, so that one which is missing, or has failed, is waited for in
 * vain; every wait of a device that has joined others therefore asks, again and again, whether it
 * is over, and gives up after the time that join was told. Then, and when a rank's failure is told,
 * the communicator is broken off and the device has failed for good.
 *
 * A rank that lacks memory takes part all the same, so that the others are not stopped by what it
 * can tell them afterwards: gathers use memory that was taken when it joined.
 */
#ifndef HYMBA_CUDA_RANKS_H
#define HYMBA_CUDA_RANKS_H

#include "portable.h"

extern "C" {
#include "backend/device.h"
}

struct hy_world; /* what a device knows of the others */

/* Entries of the op table. */
hymba_status hy_cuda_make_id(unsigned char *id, hymba_error *error);
hymba_status hy_cuda_join(struct hy_device *device, const struct hy_join_args *args,
                          hymba_error *error);
hymba_status hy_cuda_exchange(struct hy_device *device, const void *mine, void *all, size_t bytes,
                              hymba_error *error);

/* The sum, queued on a second stream behind what the device's stream has, which waits for it from
 * end_all_sum on. After a failure that leaves the device usable only its gathers are queued. Alone
 * there is no second stream, and nothing to end. */
void hy_cuda_begin_all_sum(struct hy_device *device, const struct hy_all_sum_args *args,
                           size_t rows);
void hy_cuda_end_all_sum(struct hy_device *device);

/* Words that ranks tell each other: those of all, rank by rank, until the next call of anything
 * here; NULL after a failure, which is kept. Waits for all of them. */
enum { HY_MEETING_WORDS = 4 };
const uint32_t *hy_cuda_meet(struct hy_device *device, const uint32_t mine[HY_MEETING_WORDS],
                             size_t *n_words);

/* Whether there are other ranks, and the device takes part. */
bool hy_cuda_has_others(const struct hy_device *device);

/* Waits for all that is queued, ending sums, or for the event; false after a failure,
 * which is kept. Alone a device waits as long as it takes. */
bool hy_cuda_wait_stream(struct hy_device *device, const char *doing);
bool hy_cuda_wait_event(struct hy_device *device, cudaEvent_t event, const char *doing);

/* A device that has failed no longer takes part. */
void hy_cuda_break_off(struct hy_device *device);

/* Takes leave of the others, who do so, too, or are given up; the end of all waiting. Before
 * anything else of the device is closed. */
void hy_cuda_close_world(struct hy_device *device);

#endif
