/* A context: a device, its working memory, and the meta tokens' state. */
#ifndef HY_RUN_CONTEXT_H
#define HY_RUN_CONTEXT_H

#include <stdatomic.h>

#include "backend/backend.h"
#include "model/device_weights.h"
#include "run/kernel_times.h"
#include "run/probe.h"
#include "run/ranks.h"
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
    const struct hy_plan *plan; /* of what is computed here: the model's, or the next */
    struct hy_plan rank_plan;   /* of a rank's part, among several */
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
    struct hy_ranks ranks;
    struct hy_group *group; /* whose rank 0 this is; NULL: it is alone, or another rank */
    struct hy_probe probe;
    struct hy_kernel_times kernel_times;
};

/* params is complete; a list of devices makes a group (group.h). */
hymba_status hy_context_create(hymba_model *model, const hymba_context_params *params,
                               hymba_context **context, hymba_error *error);

/* The two parts of that for one device: all that is local, with the rank's own part of the model
 * where params->ranks names several ranks; then what waits for the other ranks. */
hymba_status hy_context_open(hymba_model *model, const hymba_context_params *params,
                             hymba_context **context, hymba_error *error);
hymba_status hy_context_join(hymba_context *context, const hymba_ranks *ranks,
                             hymba_error *error);

hymba_context *hy_context_retain(hymba_context *context);
void hy_context_release(hymba_context *context);

/* Frees this one, without regard to references and to a group. */
void hy_context_destroy(hymba_context *context);

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
