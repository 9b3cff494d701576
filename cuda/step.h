/*
 * A step's ops, kept from begin_step to end_step and then queued together.
 *
 * What is kept is a log: each op with a copy of its arguments, and its lists packed into one arena,
 * which end_step copies to the device by one call. Beside it stands the log's key: all that the
 * launches are made of, field by field, but what lies in the arena. Steps with one key make the
 * same launches with the same arguments, so when a key comes for the second time its launches are
 * captured as a CUDA graph, and from then on the step is one launch of that. (The first time they
 * are queued one by one: that chooses the algorithms of products, makes room in the device's memory
 * and has the driver load the kernels, none of which a capture may do.)
 *
 * What the launches read and write has to be where it was: when device memory moves that belongs to
 * kernels and that a step's launches were queued with, all graphs are thrown away. So they are when
 * memory is out, for they take some of the driver's, which nobody counts.
 *
 * A graph that cannot be captured, made or launched is not tried again until memory moves; its
 * steps, too, are then launches one by one. Both ways run the same kernels with the same arguments
 * in the same order.
 *
 * Ranks do this together, since NCCL wants a gather to be captured by all of them or by none, and
 * graphs with gathers to be launched by all that captured them together. But what makes a log known
 * (lists, memory that moves) can differ from rank to rank. So at the end of every step they tell
 * each other a hash of their logs, and how often they have forgotten all. These belong to the key:
 * what one rank has not seen, or has forgotten, is new to all, and all do the same together.
 * That is one round trip a step; a second one, when a graph was made, tells whether all have it.
 */
#ifndef HYMBA_CUDA_STEP_H
#define HYMBA_CUDA_STEP_H

#include <stddef.h>
#include <stdint.h>

#include "portable.h"

/* Logs that are remembered; the one not seen for longest makes room. A context whose sessions come
 * and go has a few numbers of rows, times a few mean lengths of its sessions. */
enum { HY_REMEMBERED_LOGS = 64 };

/* Memory of the host's that grows. */
struct hy_bytes {
    unsigned char *data;
    size_t used, capacity;
};

struct hy_remembered_log {
    unsigned char *key; /* NULL: none */
    size_t key_bytes;
    uint64_t hash;
    uint64_t seen;         /* when, counted in steps */
    cudaGraphExec_t graph; /* NULL: not made */
    bool refused;          /* and never will be */
    uint64_t world;        /* among ranks: what all of them came with */
};

struct hy_step {
    size_t rows;           /* of the step that is being recorded; 0: none is */
    bool has_begun;        /* and not ended, whether it is recorded or not */
    bool agreed;           /* ranks have, how to make it */
    uint32_t n_forgotten;  /* how often all logs were */
    struct hy_bytes ops;   /* struct hy_op_header, and behind each its op */
    struct hy_bytes key;
    struct hy_bytes lists; /* pinned */
    cudaEvent_t lists_read; /* behind their last copy to the device; NULL: there was none */
    cudaStream_t capture_stream;
    bool capturing;
    char capture_failure[160]; /* empty: none */
    bool told_failure;         /* to the log */
    uint64_t n_steps;
    uint64_t generation; /* of the rooms that graphs were made for */
    struct hy_remembered_log logs[HY_REMEMBERED_LOGS];
};

struct hy_device;

/* Entries of the op table. */
void hy_cuda_begin_step(struct hy_device *device, size_t rows);
void hy_cuda_end_step(struct hy_device *device, bool run);

void hy_cuda_close_step(struct hy_device *device);

/* Once a failure has come that leaves the device usable: among ranks the gathers of what was
 * recorded so far are made, since others wait for them, and those to come are not recorded. */
void hy_cuda_play_gathers(struct hy_device *device);

/* Throws all graphs away, and what is remembered of steps; how many graphs there were. Not during a
 * capture. */
size_t hy_cuda_forget_graphs(struct hy_device *device);

static inline bool hy_cuda_is_recording(const struct hy_step *step)
{
    return step->rows > 0;
}

/* Keeps a copy of an op of so many bytes, any number of times to be played. */
void hy_cuda_record(struct hy_device *device, void (*play)(struct hy_device *, const void *op),
                    const void *op, size_t bytes);

/* More of the log's key. */
void hy_cuda_record_key(struct hy_device *device, const void *data, size_t bytes);

/* Room for a list in the arena, at a multiple of 64, and where in the arena it begins, which is
 * never at 0; NULL after a failure, which is kept. */
void *hy_cuda_record_list(struct hy_device *device, size_t bytes, uintptr_t *offset);

/* Where on the device what was recorded at that place of the arena lies. While ops are played. */
const void *hy_cuda_recorded_list(const struct hy_device *device, uintptr_t offset);

#endif
