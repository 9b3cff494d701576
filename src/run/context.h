/* A context: a device, its working memory, and the meta tokens' state. */
#ifndef HY_RUN_CONTEXT_H
#define HY_RUN_CONTEXT_H

#include <stdatomic.h>

#include "backend/backend.h"
#include "model/device_weights.h"
#include "run/kernel_times.h"
#include "run/probe.h"
#include "run/step_lists.h"
#include "run/workspace.h"
#include "text/sample_row.h"

/* What a call works with to have a device choose tokens. */
struct hy_sampling {
    struct hy_sample_row *rows; /* [HY_DEVICE_LOGITS_ROWS] */
    struct hy_sample_change *changes;
    size_t capacity;  /* of changes */
    uint32_t *counts; /* [V], zeros */
    bool told;        /* that a sampler needs the host */
};

struct hymba_context {
    _Atomic unsigned references;
    _Atomic bool busy;
    _Atomic bool cancel;
    struct hy_memory memory;
    hymba_model *model;
    const struct hy_weights *weights; /* where the context computes: the model's, or a copy */
    struct hy_device_weights *device_weights; /* that copy; NULL: the CPU */
    struct hy_backend backend;
    struct hy_state_layout layout;
    struct hy_workspace workspace;
    struct hy_step_lists lists;
    struct hy_sampling sampling;
    double *inverse_frequency; /* [qk_size / 2], section 5 */
    struct hy_meta_state *meta;
    bool meta_ready;
    int compute;
    struct hy_probe probe;
    struct hy_kernel_times kernel_times;
};

/* params is complete. */
hymba_status hy_context_create(hymba_model *model, const hymba_context_params *params,
                               hymba_context **context, hymba_error *error);
hymba_context *hy_context_retain(hymba_context *context);
void hy_context_release(hymba_context *context);

/* Marks the context as running a call; BUSY if it already does, DEVICE if its device has failed. */
hymba_status hy_context_enter(hymba_context *context, hymba_error *error);
void hy_context_leave(hymba_context *context);

/* CANCELLED once hymba_context_cancel was called during this call. */
hymba_status hy_context_check_cancel(hymba_context *context, hymba_error *error);

/* Makes room for attention over n_tokens tokens behind the meta tokens. */
hymba_status hy_context_reserve_keys(hymba_context *context, uint64_t n_tokens,
                                     hymba_error *error);

/* Runs the meta tokens if they have not run yet. */
hymba_status hy_context_prepare_meta(hymba_context *context, hymba_error *error);

/* Bytes a context with these parameters works in, one sequence a call. Fills *info. */
hymba_status hy_context_memory(const hymba_model *model, const hymba_context_params *params,
                               hymba_memory_info *info, hymba_error *error);

#endif
