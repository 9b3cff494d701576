/*
 * Continuous batching: a line of requests that share the steps of a context. The rule by which a
 * step's tokens are given out, and what follows from it, stand in docs/batching.md.
 */
#ifndef HY_RUN_SCHEDULER_H
#define HY_RUN_SCHEDULER_H

#include "run/generate.h"

/* params is complete. */
hymba_status hy_scheduler_create(hymba_context *context, uint32_t token_budget,
                                 const hymba_scheduler_params *params,
                                 hymba_scheduler **scheduler, hymba_error *error);
hymba_scheduler *hy_scheduler_retain(hymba_scheduler *scheduler);
void hy_scheduler_release(hymba_scheduler *scheduler);
hymba_context *hy_scheduler_context(const hymba_scheduler *scheduler);

/* These two run inside hy_context_enter; params and params->generation are complete. */
hymba_status hy_scheduler_add(hymba_scheduler *scheduler, hymba_session *session,
                              hymba_sampler *sampler, const int32_t *tokens, size_t n_tokens,
                              const hymba_request_params *params, uint64_t *request,
                              hymba_error *error);

/* The caller's array of events; elements are size bytes apart and filled up with zeros. */
struct hy_event_list {
    void *events;
    size_t size;
    size_t capacity; /* at least hy_scheduler_count */
    size_t n;
};

hymba_status hy_scheduler_step(hymba_scheduler *scheduler, struct hy_event_list *list,
                               hymba_error *error);

size_t hy_scheduler_count(const hymba_scheduler *scheduler);
void hy_scheduler_cancel(hymba_scheduler *scheduler, uint64_t request);

#endif
