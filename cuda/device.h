/*
 * The plug-in's device: one CUDA device seen through one stream, with the memory that carries data
 * between it and the host. Everything is queued on that stream, so an op reads what those before it
 * wrote, and one area of device memory serves all launches that need it, one after another. Sums
 * over ranks alone run beside it, in memory of their own (ranks.cu). Nothing is shared between
 * objects: a process may have many, of one device or of several.
 *
 * A failure is kept, the first one, and told by `finish`; until then nothing more is queued.
 */
#ifndef HYMBA_CUDA_DEVICE_H
#define HYMBA_CUDA_DEVICE_H

#include "attention.h"
#include "portable.h"
#include "step.h"

#include <cublasLt.h>

extern "C" {
#include "backend/device.h"
#include "base/checked.h"
}

enum { HY_STAGING_CHUNKS = 4, HY_READBACK_COPIES = 256 };

/*
 * Pinned memory through which data goes to the device: chunks that are filled one after another,
 * each again when the device has read what left it last.
 */
struct hy_staging {
    unsigned char *data; /* HY_STAGING_CHUNKS chunks */
    size_t chunk_bytes;
    cudaEvent_t read[HY_STAGING_CHUNKS]; /* behind the last copy out of a chunk */
    size_t current, used; /* the chunk being filled, and how far */
};

/* A copy to the host that has reached the pinned memory, or will have by the end of what is queued;
 * rows lie close together there. */
struct hy_readback_copy {
    unsigned char *to;
    size_t to_stride, from, width, n_rows;
};

struct hy_readback {
    unsigned char *data; /* pinned */
    size_t bytes, used;
    struct hy_readback_copy copies[HY_READBACK_COPIES];
    size_t n_copies;
};

/* Device memory that grows, seldom. */
struct hy_room {
    void *data;
    size_t bytes;
    bool recorded; /* a step's launches were queued with it, so graphs may know where it is */
};

/* The attention op that a step recorded last: its plan, whose pointers count from the arena's first
 * byte, and what else than lists the plan was made of. */
struct hy_planned_attention {
    struct hy_attention_plan plan;
    size_t n_heads, n_kv_heads, v_size;
};

struct hy_product; /* of matmul.cu: how products of one shape are computed */
struct hy_world;   /* of ranks.cu: the others that a device has joined */

struct hy_device {
    int index;
    char name[120]; /* "NVIDIA H200, sm_90" */
    int compute; /* HYMBA_COMPUTE_... */
    bool has_pools; /* memory is taken and given back in the stream's order */
    cudaMemPool_t pool; /* this object's own; NULL without pools */
    size_t most_unused; /* bytes that the pool keeps, beside those in use, when the host waits */
    size_t greatest_pitch; /* bytes from row to row that one copy can have */
    cudaStream_t stream; /* where ops are queued: home, or what is being captured (step.h) */
    cudaStream_t home;   /* memory comes and goes in its order */
    cublasLtHandle_t blas;
    void (*log)(void *user, int level, const char *line); /* of hy_device_params */
    void *log_user;

    struct hy_staging staging;
    struct hy_readback readback;

    struct hy_room lists;    /* of the launch queued last, outside of steps */
    struct hy_room arena;    /* lists of the step queued last */
    struct hy_room pieces;   /* of the list of copies queued last */
    struct hy_room scratch;  /* of kernels */
    struct hy_room sampling; /* that of sampling, which no step has */
    struct hy_room widened;  /* weights as f32 */
    struct hy_room x_panel, y_panel; /* panels of rows for products */
    struct hy_room blas_workspace;
    uint64_t generation;     /* counts how often one of these moved that graphs may know */
    struct hy_step step;
    struct hy_planned_attention planned; /* in the step that is being recorded */
    struct hy_world *world;  /* NULL: none */

    struct hy_product *products;
    size_t n_products, products_capacity;

    bool failed; /* for good */
    bool has_error;
    hymba_error error;
};

/* ---------------------------------------------------------------- failures: plugin.cu */

/* Makes the device the calling thread's; false if nothing may be queued, for a failure waits to be
 * told. First in every entry that queues. */
bool hy_cuda_begin(struct hy_device *device);

/* Whether code is success; if not, keeps the failure: "CUDA device 0: <doing> failed: ...". Out of
 * memory leaves the device usable, all else does not. The first failure is kept, but one for good
 * takes the place of one that is not. */
bool hy_cuda_check(struct hy_device *device, cudaError_t code, const char *doing);

/* The same for the launch just made. */
bool hy_cuda_check_launch(struct hy_device *device, const char *doing);

/* The same for cuBLASLt. */
bool hy_cuda_check_blas(struct hy_device *device, cublasStatus_t code, const char *doing);

/* Keeps a failure of another kind; the device has failed for good unless the status is MEMORY. */
void hy_cuda_fail(struct hy_device *device, hymba_status status, const char *sentence);

/* ----------------------------------------------------------------- memory: memory.cu */

/* Entries of the op table. */
void *hy_cuda_allocate(struct hy_device *device, size_t bytes);
void hy_cuda_release(struct hy_device *device, void *data);
void hy_cuda_copy(struct hy_device *device, const struct hy_copy_args *args);
void hy_cuda_fill(struct hy_device *device, void *data, int byte, size_t bytes);

/* At least so many bytes in the room; what it held is lost, and all bytes are 0, if it grew. What
 * is queued keeps the old memory for as long as it needs it. Out of memory, this and allocate give
 * up what is only kept to save time (graphs, what the pool has unused) and try once more. */
bool hy_cuda_reserve(struct hy_device *device, struct hy_room *room, size_t bytes,
                     const char *what);
void hy_cuda_free_room(struct hy_device *device, struct hy_room *room);

/* Pinned memory for one copy to the device, at a multiple of 64, which must be queued before the
 * next call; NULL after a failure, which is kept. */
void *hy_cuda_stage(struct hy_device *device, size_t bytes);

/* Waits for all that is queued, then copies to where they belong what was read back. */
bool hy_cuda_drain(struct hy_device *device);

/* The pool, at the beginning and at the end, when nothing of it is in use. */
cudaError_t hy_cuda_open_pool(struct hy_device *device);
void hy_cuda_close_pool(struct hy_device *device);

/* Bytes that the pool holds and nobody uses. */
size_t hy_cuda_unused_bytes(struct hy_device *device);

/* Gives back what the pool holds unused beyond so many bytes; how many those were. What is released
 * counts as used until the host has waited for that. */
size_t hy_cuda_trim_pool(struct hy_device *device, size_t most_unused);

/* The pinned memory, at the beginning and at the end. */
cudaError_t hy_cuda_open_staging(struct hy_device *device);
void hy_cuda_close_staging(struct hy_device *device);

/* --------------------------------------------------------------- copies: copy_list.cu */

/* The entry of the op table. It needs no memory that could be missing. */
void hy_cuda_copy_list(struct hy_device *device, const struct hy_copy_args *copies, size_t n);

/* ------------------------------------------------------------------ lists: lists.cu */

/* A list for the launches until the next one: packed where begin says, then copied to where it
 * says it will lie, by end. NULL and false after a failure, which is kept. */
void *hy_cuda_begin_list(struct hy_device *device, size_t bytes, void **on_device);
bool hy_cuda_end_list(struct hy_device *device, const void *packed, size_t bytes);

/* The same for sequences with their states. */
const struct hy_state_sequence *hy_cuda_list_states(struct hy_device *device,
                                                    const struct hy_state_sequence *sequences,
                                                    size_t n_sequences);

/* -------------------------------------------------------------------- the op table */

/* plugin.cu */
hymba_status hy_cuda_open(const struct hy_device_params *params, struct hy_device **device,
                          hymba_error *error);
void hy_cuda_close(struct hy_device *device);
void hy_cuda_get_info(struct hy_device *device, struct hy_device_info *info);
hymba_status hy_cuda_finish(struct hy_device *device, hymba_error *error);

/* ops.cu */
extern const struct hy_device_ops hy_cuda_ops;

#endif
