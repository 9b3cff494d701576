/* Generation, alone and in batches. */
#include "abi.h"
#include "run/scheduler.h"

/* ------------------------------------------------------------- generation */

void hymba_generation_params_init(hymba_generation_params *params, size_t size)
{
    hy_init_struct(params, size);
}

static hymba_status check_generation(const hymba_generation_params *params,
                                     const hymba_tokenizer *tokenizer, hymba_error *error)
{
    uint32_t known = HYMBA_GENERATION_IGNORE_EOS | HYMBA_GENERATION_LOG_PROBABILITIES;
    if (params->flags & ~known)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "params.flags: found 0x%x, known are 0x%x",
                       params->flags, known);
    if (params->n_stop_strings == 0)
        return HYMBA_OK;
    if (!tokenizer)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "stop strings need a tokenizer");
    hymba_status status = hy_require(params->stop_strings, "params.stop_strings", error);
    if (status == HYMBA_OK)
        status = hy_check_count(params->n_stop_strings, sizeof *params->stop_strings,
                                "params.n_stop_strings", error);
    for (size_t i = 0; status == HYMBA_OK && i < params->n_stop_strings; i++)
        if (!params->stop_strings[i] || params->stop_strings[i][0] == '\0')
            status = hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)i,
                                "params.stop_strings[%zu]: is %s", i,
                                params->stop_strings[i] ? "empty" : "NULL");
    return status;
}

hymba_status hymba_generation_create(hymba_session *session, hymba_sampler *sampler,
                                     hymba_tokenizer *tokenizer,
                                     const hymba_generation_params *given,
                                     hymba_generation **generation, hymba_error *error)
{
    hymba_generation_params params;
    hymba_status status = hy_require(generation, "generation", error);
    if (status != HYMBA_OK)
        return status;
    *generation = NULL;
    status = hy_require(session, "session", error);
    if (status == HYMBA_OK)
        status = hy_require(sampler, "sampler", error);
    if (status == HYMBA_OK)
        status = hy_read_struct(&params, sizeof params, given, "params", error);
    if (status == HYMBA_OK)
        status = check_generation(&params, tokenizer, error);
    if (status == HYMBA_OK)
        status = hy_context_enter(session->context, error);
    if (status != HYMBA_OK)
        return status;
    hymba_context *context = session->context;
    status = hy_generation_create(session, sampler, tokenizer, &params, generation, error);
    hy_context_leave(context);
    return status;
}

void hymba_generation_release(hymba_generation *generation)
{
    hy_generation_release(generation);
}

const char *hymba_stop_name(int32_t stop)
{
    static const char *const names[] = {
        [HYMBA_STOP_NONE] = "none",     [HYMBA_STOP_EOS] = "eos",
        [HYMBA_STOP_STRING] = "string", [HYMBA_STOP_LENGTH] = "length",
        [HYMBA_STOP_LIMIT] = "limit",   [HYMBA_STOP_CANCELLED] = "cancelled",
    };
    return stop >= 0 && (size_t)stop < sizeof names / sizeof names[0] ? names[stop] : "none";
}

hymba_status hymba_generation_next(hymba_generation *generation, hymba_event *event,
                                   hymba_error *error)
{
    hymba_event complete = {0};
    hymba_status status = hy_require(generation, "generation", error);
    if (status == HYMBA_OK)
        status = hy_check_struct(event, "event", error);
    if (status != HYMBA_OK)
        return status;
    hymba_context *context = hy_generation_context(generation);
    status = hy_context_enter(context, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_generation_next(generation, &complete, error);
    hy_context_leave(context);
    return status == HYMBA_OK
               ? hy_write_struct(event, &complete, sizeof complete, "event", error)
               : status;
}

void hymba_generation_cancel(hymba_generation *generation)
{
    if (generation)
        hy_generation_cancel(generation);
}

/* -------------------------------------------------------------- scheduler */

void hymba_scheduler_params_init(hymba_scheduler_params *params, size_t size)
{
    hy_init_struct(params, size);
}

void hymba_request_params_init(hymba_request_params *params, size_t size)
{
    hy_init_struct(params, size);
}

hymba_status hymba_scheduler_create(hymba_context *context, uint32_t token_budget,
                                    const hymba_scheduler_params *given,
                                    hymba_scheduler **scheduler, hymba_error *error)
{
    hymba_scheduler_params params;
    hymba_status status = hy_require(scheduler, "scheduler", error);
    if (status != HYMBA_OK)
        return status;
    *scheduler = NULL;
    status = hy_require(context, "context", error);
    if (status == HYMBA_OK)
        status = hy_read_struct(&params, sizeof params, given, "params", error);
    if (status == HYMBA_OK)
        status = hy_check_reserved(params.reserved, error);
    return status == HYMBA_OK
               ? hy_scheduler_create(context, token_budget, &params, scheduler, error)
               : status;
}

hymba_scheduler *hymba_scheduler_retain(hymba_scheduler *scheduler)
{
    return scheduler ? hy_scheduler_retain(scheduler) : NULL;
}

void hymba_scheduler_release(hymba_scheduler *scheduler)
{
    hy_scheduler_release(scheduler);
}

/* The generation's parameters are a sized struct of their own: *generation becomes their complete
 * copy. */
static hymba_status read_request_params(hymba_request_params *params,
                                        hymba_generation_params *generation,
                                        const hymba_request_params *given, hymba_error *error)
{
    hymba_status status = hy_read_struct(params, sizeof *params, given, "params", error);
    if (status == HYMBA_OK)
        status = hy_read_struct(generation, sizeof *generation, params->generation, "generation",
                                error);
    if (status == HYMBA_OK)
        status = check_generation(generation, params->tokenizer, error);
    params->generation = generation;
    return status;
}

hymba_status hymba_scheduler_add(hymba_scheduler *scheduler, hymba_session *session,
                                 hymba_sampler *sampler, const int32_t *tokens, size_t n_tokens,
                                 const hymba_request_params *given, uint64_t *request,
                                 hymba_error *error)
{
    hymba_request_params params;
    hymba_generation_params generation;
    hymba_status status = hy_require(scheduler, "scheduler", error);
    if (status == HYMBA_OK)
        status = hy_require(request, "request", error);
    if (status != HYMBA_OK)
        return status;
    *request = 0;
    status = hy_require(session, "session", error);
    if (status == HYMBA_OK && n_tokens > 0)
        status = hy_require(tokens, "tokens", error);
    if (status == HYMBA_OK)
        status = read_request_params(&params, &generation, given, error);
    if (status == HYMBA_OK)
        status = hy_context_enter(hy_scheduler_context(scheduler), error);
    if (status != HYMBA_OK)
        return status;
    status = hy_scheduler_add(scheduler, session, sampler, tokens, n_tokens, &params, request,
                              error);
    hy_context_leave(hy_scheduler_context(scheduler));
    return status;
}

/* Whether the caller has room for the events of a step. *compute: it wants the step. */
static hymba_status check_events(const hymba_scheduler *scheduler, const struct hy_event_list *list,
                                 bool *compute, size_t *n_events, hymba_error *error)
{
    size_t needed = hy_scheduler_count(scheduler);
    *compute = needed <= list->capacity;
    *n_events = *compute ? 0 : needed;
    return hy_check_buffer(list->events, list->capacity, needed, error);
}

hymba_status hymba_scheduler_step(hymba_scheduler *scheduler, hymba_request_event *events,
                                  size_t event_size, size_t capacity, size_t *n_events,
                                  hymba_error *error)
{
    struct hy_event_list list = {.events = events, .size = event_size, .capacity = capacity};
    bool compute;
    hymba_status status = hy_require(scheduler, "scheduler", error);
    if (status == HYMBA_OK)
        status = hy_require(n_events, "n_events", error);
    if (status != HYMBA_OK)
        return status;
    *n_events = 0;
    if (event_size < sizeof *events)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "event_size: found %zu bytes, expected at least %zu", event_size,
                       sizeof *events);
    status = hy_check_count(capacity, event_size, "capacity", error);
    if (status == HYMBA_OK && capacity > 0)
        status = hy_require(events, "events", error);
    if (status == HYMBA_OK)
        status = hy_context_enter(hy_scheduler_context(scheduler), error);
    if (status != HYMBA_OK)
        return status;
    status = check_events(scheduler, &list, &compute, n_events, error);
    if (status == HYMBA_OK && compute) {
        status = hy_scheduler_step(scheduler, &list, error);
        *n_events = list.n;
    }
    hy_context_leave(hy_scheduler_context(scheduler));
    return status;
}

size_t hymba_scheduler_count(const hymba_scheduler *scheduler)
{
    return scheduler ? hy_scheduler_count(scheduler) : 0;
}

void hymba_scheduler_cancel(hymba_scheduler *scheduler, uint64_t request)
{
    if (scheduler)
        hy_scheduler_cancel(scheduler, request);
}
