/*
 * What a plug-in supplies: a device with memory of its own and the ops of kernel.h on it. The core
 * opens a plug-in with dlopen and asks it for this table; the interface is internal, core and
 * plug-in are of one version. In argument structs of ops, lists of sequences and spans lie in the
 * host's memory, as does anything that is no array of numbers; all other pointers are the device's.
 *
 * Work is queued: an op or a copy returns at once, one begins when those before it have ended, and
 * a failure is told by the next `finish`, after which the device has failed for good (its memory
 * may still be released). One thread at a time calls, not always the same one; but `release` may
 * come from any thread at any time. Lists in the host's memory, and the argument structs, may be
 * gone when the call has returned.
 */
#ifndef HY_BACKEND_DEVICE_H
#define HY_BACKEND_DEVICE_H

#include "base/status.h"
#include "kernel/kernel.h"
#include "text/sample_row.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HY_DEVICE_INTERFACE = 3 };

/* A device may multiply panels of so many rows: where there is room for whole ones behind the rows
 * that count (hy_matmul_args), nothing is copied for that. */
enum { HY_PANEL_ROWS = 128 };

struct hy_device; /* of the plug-in */

struct hy_device_params {
    size_t struct_size;
    int index;            /* which device of the plug-in's */
    int compute;          /* HYMBA_COMPUTE_..., none of them DEFAULT */
    /* what a user may want to know, a line at a time; level: HYMBA_LOG_... */
    void (*log)(void *user, int level, const char *line);
    void *log_user;
};

struct hy_device_info {
    size_t struct_size;
    char name[128];       /* "NVIDIA H200, sm_90" */
    uint64_t total_bytes, free_bytes;
    int has_bf16;         /* units that multiply bf16 */
};

enum hy_copy_kind {
    HY_COPY_TO_DEVICE = 1, /* the source may change once the call returns */
    HY_COPY_TO_HOST = 2,   /* there after the next finish */
    HY_COPY_WITHIN = 3     /* source and target do not overlap */
};

/* n_rows rows of width bytes each, strides in bytes. */
struct hy_copy_args {
    enum hy_copy_kind kind;
    void *to;
    size_t to_stride;
    const void *from;
    size_t from_stride;
    size_t width, n_rows;
};

/* n elements of a float type as another: y[i] = x[i], rounded to nearest even. */
struct hy_convert_args {
    const void *x;
    hymba_dtype x_dtype;
    void *y;
    hymba_dtype y_dtype;
    size_t n;
};

enum { HY_UNIQUE_ID_BYTES = 128 };

/* A device's place among those that compute a part of every layer each. */
struct hy_join_args {
    uint32_t rank, world_size; /* rank < world_size */
    const unsigned char *id;   /* HY_UNIQUE_ID_BYTES, of make_id: the same on all ranks */
    uint32_t timeout_ms;       /* 1 or more: of join, and of every later wait for other ranks */
    /* asked while others are waited for: whether that is of no use any more; NULL: it never is */
    int (*is_abandoned)(const void *user);
    const void *abandoned_user;
};

struct hy_device_ops {
    uint32_t interface_version; /* HY_DEVICE_INTERFACE */
    size_t struct_size;

    /* DEVICE if there is no such device or driver, or one that is too old; MEMORY if the host or
     * the device has none left for it; UNSUPPORTED if the device has no units for params->compute.
     */
    hymba_status (*open)(const struct hy_device_params *params, struct hy_device **device,
                         hymba_error *error);
    void (*close)(struct hy_device *device);
    void (*get_info)(struct hy_device *device, struct hy_device_info *info);

    /* At a multiple of 256; NULL if there is no such room. Undefined contents. */
    void *(*allocate)(struct hy_device *device, size_t bytes);
    void (*release)(struct hy_device *device, void *data); /* after all that is queued */

    void (*copy)(struct hy_device *device, const struct hy_copy_args *args);
    /* Copies within the device, made together: none writes what another one reads or writes. */
    void (*copy_list)(struct hy_device *device, const struct hy_copy_args *copies, size_t n);
    void (*fill)(struct hy_device *device, void *data, int byte, size_t bytes);
    void (*convert)(struct hy_device *device, const struct hy_convert_args *args);

    /* Rows and meaning as in kernel.h; whole ops. With rows rounded to BF16, matmul may round
     * quantised weights to bf16, too. Matrices lie at multiples of 256, and so do their scales;
     * rounded rows at multiples of 16. To types of 8 bits rows are rounded with one scale each, and
     * by norm, fusion, SwiGLU and round alone. */
    void (*embed)(struct hy_device *device, const struct hy_embed_args *args, size_t rows);
    void (*rms_norm)(struct hy_device *device, const struct hy_rms_norm_args *args, size_t rows);
    void (*norm_parts)(struct hy_device *device, const struct hy_norm_parts_args *args,
                       size_t rows);
    void (*matmul)(struct hy_device *device, const struct hy_matmul_args *args);
    void (*round)(struct hy_device *device, const struct hy_round_args *args, size_t rows);
    void (*rope_store)(struct hy_device *device, const struct hy_rope_store_args *args,
                       size_t rows);
    void (*attention)(struct hy_device *device, const struct hy_attention_args *args,
                      size_t rows);
    void (*conv)(struct hy_device *device, const struct hy_conv_args *args);
    void (*scan)(struct hy_device *device, const struct hy_scan_args *args);
    void (*fuse)(struct hy_device *device, const struct hy_fuse_args *args, size_t rows);
    void (*swiglu)(struct hy_device *device, const struct hy_swiglu_args *args, size_t rows);

    void (*square_sums)(struct hy_device *device, const struct hy_square_sums_args *args,
                        size_t rows);

    /*
     * Sums over ranks, of a device that has joined others. All ranks begin them for the same rows
     * of the same n in the same order. A sum begins behind what was queued before; from then until
     * end_all_sum what is called may run beside it, so it neither reads nor writes the sum's x and
     * y, and nothing releases them. Several may be under way, which touch nothing of each other
     * either; one end_all_sum ends all of them, and what is called then comes behind them. A step
     * ends what it began. finish and exchange end sums, too.
     */
    void (*begin_all_sum)(struct hy_device *device, const struct hy_all_sum_args *args,
                          size_t rows);
    void (*end_all_sum)(struct hy_device *device);

    /* The rows and their changes lie in the host's memory, logits and tokens in the device's. */
    void (*sample)(struct hy_device *device, const struct hy_sample_args *args);

    /*
     * Between these two the ops of one step of so many rows are called, which have a row in each
     * sequence, and nothing else is. They may be kept and queued together by end_step, which drops
     * them if they are not to run; without having run they may already have. Steps whose ops differ
     * in the lists of sequences alone may then cost less than the calls do. Lists may cover fewer
     * rows than the step has; its last rows are of nobody then, and may hold any numbers. What any
     * of these ops names is not released before end_step has returned: its work may only then be
     * queued.
     */
    void (*begin_step)(struct hy_device *device, size_t rows);
    void (*end_step)(struct hy_device *device, bool run);

    /* Waits for all that was queued; the first failure since it was last asked. NO_MEMORY of a
     * workspace that could not grow leaves the device usable. With other ranks it waits as long as
     * join said: TIMEOUT if one is missing by then, after which the device has failed for good. */
    hymba_status (*finish)(struct hy_device *device, hymba_error *error);

    /* An id for ranks that are to find each other; one of them makes it. UNSUPPORTED if the plug-in
     * was built without what joins devices; DEVICE if that cannot be had here. */
    hymba_status (*make_id)(unsigned char *id, hymba_error *error);

    /* Waits for all ranks, once in the device's life, before any op. TIMEOUT if one is missing, or
     * this one is abandoned; UNSUPPORTED as make_id, and for devices that cannot take part.
     * Whatever fails here but for lack of MEMORY fails the device for good. */
    hymba_status (*join)(struct hy_device *device, const struct hy_join_args *args,
                         hymba_error *error);

    /* Bytes of the host's memory from every rank to every rank: all is [world_size][bytes]. All
     * ranks call it with as many bytes, not within a step. It waits for all that was queued, too,
     * and fails as finish does; but a failure that leaves the device usable stays for finish to
     * tell, and neither keeps a rank from taking part here nor from its part in sums. */
    hymba_status (*exchange)(struct hy_device *device, const void *mine, void *all, size_t bytes,
                             hymba_error *error);
};

/* What a plug-in exports under HY_DEVICE_ENTRY: its table, or NULL if it does not have the
 * version. */
typedef const struct hy_device_ops *(*hy_device_entry)(uint32_t interface_version);
#define HY_DEVICE_ENTRY "hymba_device_plugin"

#ifdef __cplusplus
}
#endif

#endif
