/*
 * A device that computes: the op table of kernel.h on whole steps, and its memory. The CPU backend
 * divides each op among the threads of its pool; a plug-in launches it.
 */
#ifndef HY_BACKEND_BACKEND_H
#define HY_BACKEND_BACKEND_H

#include "backend/observer.h"
#include "backend/plugin.h"
#include "base/memory.h"
#include "base/thread.h"
#include "kernel/kernel.h"

struct hy_backend {
    const char *device;       /* "cpu", "cuda:0" */
    const char *name;         /* of the instruction set, or of the plug-in's device */
    struct hy_plugin *plugin; /* NULL: the CPU */
    struct hy_kernels kernels; /* of a plug-in's device there is only what it has: has_bf16 */
    struct hy_pool *pool;
    struct hy_memory *memory;
    float *scratch;           /* attention scratch of all threads, scratch_floats each */
    size_t scratch_floats;
    unsigned char *matmul_scratch; /* of all threads, matmul_scratch_bytes each */
    size_t matmul_scratch_bytes;
    const struct hy_observer *observer; /* NULL: none */
};

/* The CPU. n_threads 0 means hy_processor_count. With an executor, which is valid, its threads
 * compute, and n_threads does not count. */
hymba_status hy_backend_init(struct hy_backend *backend, struct hy_memory *memory,
                             const char *cpu, unsigned n_threads, const hymba_executor *executor,
                             hymba_error *error);

/* The plug-in's device of that index, to compute as compute says. */
hymba_status hy_backend_open(struct hy_backend *backend, struct hy_memory *memory, int index,
                             int compute, hymba_error *error);
void hy_backend_free(struct hy_backend *backend);

/* Makes room for attention over max_keys keys by groups of heads_per_kv query heads, which need
 * row_floats each beside their scores. */
hymba_status hy_backend_reserve_attention(struct hy_backend *backend, size_t heads_per_kv,
                                          size_t row_floats, size_t max_keys, hymba_error *error);

/* Makes room for products with quantised weights of up to so many columns. */
hymba_status hy_backend_reserve_matmul(struct hy_backend *backend, size_t columns,
                                       hymba_error *error);

/* Around the ops of a step of so many rows, as device.h says; the CPU has nothing to do. */
void hy_backend_begin_step(struct hy_backend *backend, size_t rows);
void hy_backend_end_step(struct hy_backend *backend, bool run);

void hy_backend_embed(struct hy_backend *, const struct hy_embed_args *, size_t rows);
void hy_backend_rms_norm(struct hy_backend *, const struct hy_rms_norm_args *, size_t rows);
void hy_backend_norm_parts(struct hy_backend *, const struct hy_norm_parts_args *, size_t rows);
void hy_backend_matmul(struct hy_backend *, const struct hy_matmul_args *);
void hy_backend_round(struct hy_backend *, const struct hy_round_args *, size_t rows);
void hy_backend_rope_store(struct hy_backend *, const struct hy_rope_store_args *, size_t rows);
void hy_backend_attention(struct hy_backend *, const struct hy_attention_args *, size_t rows);
void hy_backend_conv(struct hy_backend *, const struct hy_conv_args *);
void hy_backend_scan(struct hy_backend *, const struct hy_scan_args *);
void hy_backend_fuse(struct hy_backend *, const struct hy_fuse_args *, size_t rows);
void hy_backend_swiglu(struct hy_backend *, const struct hy_swiglu_args *, size_t rows);

/* On a plug-in's device; the CPU has the sampler itself. */
void hy_backend_sample(struct hy_backend *, const struct hy_sample_args *);

/* Among ranks (device.h), so on a plug-in's device alone: a CPU cannot join, and is asked for
 * nothing else of these. */
hymba_status hy_backend_join(struct hy_backend *, const struct hy_join_args *,
                             hymba_error *error);
hymba_status hy_backend_exchange(struct hy_backend *, const void *mine, void *all, size_t bytes,
                                 hymba_error *error);
void hy_backend_square_sums(struct hy_backend *, const struct hy_square_sums_args *, size_t rows);

/* A sum over ranks; and one that runs beside the ops called until end_all_sum, as device.h says.
 * While ops are observed, it has ended when begin_all_sum returns. */
void hy_backend_all_sum(struct hy_backend *, const struct hy_all_sum_args *, size_t rows);
void hy_backend_begin_all_sum(struct hy_backend *, const struct hy_all_sum_args *, size_t rows);
void hy_backend_end_all_sum(struct hy_backend *);

#endif
