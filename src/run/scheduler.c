#include "run/scheduler.h"

#include <string.h>

#include "base/checked.h"
#include "run/group_calls.h"

enum { DEFAULT_REQUESTS = 256, MAX_REQUESTS = 1 << 16 };

struct request {
    uint64_t number;
    void *user;
    hymba_session *session;
    hymba_sampler *sampler;       /* the generation's; NULL: the prompt only */
    hymba_generation *generation;
    bool begun;                   /* the generation */
    int32_t *prompt;
    size_t n_prompt, n_fed;       /* tokens of the prompt, and those in the session */
    uint64_t n_changes;           /* of the session, as the last step left it */
    /* Of the running step. */
    size_t wanted;                /* most tokens that may be computed */
    size_t rows;                  /* tokens that are */
    hymba_error failure;          /* status HYMBA_OK: none */
    struct request *next_ended;
};

/* A place for a request. Whoever cancels one knows its number alone, and may be on any thread. */
struct slot {
    _Atomic uint64_t number;    /* of the request that has it; 0: free */
    _Atomic uint64_t cancelled; /* highest number that was to be cancelled */
};

struct hymba_scheduler {
    _Atomic unsigned references;
    struct hy_memory memory;
    hymba_context *context;
    size_t token_budget, max_requests;
    uint64_t next_number;     /* a request has the slot number % max_requests */
    struct slot *slots;       /* [max_requests] */
    struct request **line;    /* [max_requests]: in the order of service */
    struct request **served;  /* likewise; between uses undefined */
    _Atomic size_t count;     /* of the line */
    struct request *ended;    /* in the last step: kept for what its events point to */
};

/* ------------------------------------------------------------------ object */

static void free_request(hymba_scheduler *scheduler, struct request *request)
{
    hy_generation_release(request->generation);
    hy_free(&scheduler->memory, request->prompt);
    hy_free(&scheduler->memory, request);
}

static void free_ended(hymba_scheduler *scheduler)
{
    while (scheduler->ended) {
        struct request *next = scheduler->ended->next_ended;
        free_request(scheduler, scheduler->ended);
        scheduler->ended = next;
    }
}

static struct slot *slot_of(const hymba_scheduler *scheduler, uint64_t number)
{
    return &scheduler->slots[number % scheduler->max_requests];
}

/* Gives back what a request holds; its record, with the text of its last event, stays. */
static void let_go(hymba_scheduler *scheduler, struct request *request)
{
    atomic_store(&slot_of(scheduler, request->number)->number, 0);
    atomic_store(&request->session->scheduled, false);
    request->session = NULL;
    if (request->sampler)
        hy_sampler_disclaim(request->sampler);
    hy_generation_let_go(request->generation);
    hy_free(&scheduler->memory, request->prompt);
    request->prompt = NULL;
    request->next_ended = scheduler->ended;
    scheduler->ended = request;
}

static void destroy(hymba_scheduler *scheduler)
{
    struct hy_memory *memory = &scheduler->memory;
    for (size_t i = 0; i < scheduler->count; i++)
        let_go(scheduler, scheduler->line[i]);
    free_ended(scheduler);
    hy_free(memory, scheduler->slots);
    hy_free(memory, scheduler->line);
    hy_free(memory, scheduler->served);
    hymba_context *context = scheduler->context;
    struct hy_memory own = {.host = memory->host};
    hy_free(&own, scheduler);
    hy_context_release(context);
}

static hymba_status create_lists(hymba_scheduler *scheduler, hymba_error *error)
{
    struct hy_memory *memory = &scheduler->memory;
    size_t n = scheduler->max_requests;
    scheduler->slots = hy_alloc_zero(memory, n, sizeof *scheduler->slots);
    scheduler->line = hy_alloc_array(memory, n, sizeof *scheduler->line);
    scheduler->served = hy_alloc_array(memory, n, sizeof *scheduler->served);
    if (!scheduler->slots || !scheduler->line || !scheduler->served)
        return hy_no_memory(error, n * (sizeof *scheduler->slots + 2 * sizeof(void *)),
                            "the scheduler's lists");
    return HYMBA_OK;
}

static hymba_status check_params(uint32_t token_budget, const hymba_scheduler_params *params,
                                 hymba_error *error)
{
    if (token_budget == 0)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "token_budget: found 0, expected at least 1");
    if (params->max_requests > MAX_REQUESTS)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "max_requests: found %u, at most %d",
                       (unsigned)params->max_requests, MAX_REQUESTS);
    return HYMBA_OK;
}

hymba_status hy_scheduler_create(hymba_context *context, uint32_t token_budget,
                                 const hymba_scheduler_params *params, hymba_scheduler **out,
                                 hymba_error *error)
{
    struct hy_memory own = {.host = context->memory.host};
    *out = NULL;
    hymba_status status = check_params(token_budget, params, error);
    if (status != HYMBA_OK)
        return status;
    hymba_scheduler *scheduler = hy_alloc_zero(&own, 1, sizeof *scheduler);
    if (!scheduler)
        return hy_no_memory(error, sizeof *scheduler, "the scheduler");
    atomic_init(&scheduler->references, 1);
    hy_memory_create_child(&scheduler->memory, &context->memory, 0);
    scheduler->context = hy_context_retain(context);
    scheduler->token_budget = hy_min_size(token_budget, context->workspace.rows);
    scheduler->max_requests = params->max_requests ? params->max_requests : DEFAULT_REQUESTS;
    scheduler->next_number = 1;
    status = create_lists(scheduler, error);
    if (status != HYMBA_OK) {
        destroy(scheduler);
        return status;
    }
    *out = scheduler;
    return HYMBA_OK;
}

hymba_scheduler *hy_scheduler_retain(hymba_scheduler *scheduler)
{
    atomic_fetch_add(&scheduler->references, 1);
    return scheduler;
}

void hy_scheduler_release(hymba_scheduler *scheduler)
{
    if (scheduler && atomic_fetch_sub(&scheduler->references, 1) == 1)
        destroy(scheduler);
}

hymba_context *hy_scheduler_context(const hymba_scheduler *scheduler)
{
    return scheduler->context;
}

size_t hy_scheduler_count(const hymba_scheduler *scheduler)
{
    return atomic_load(&scheduler->count);
}

void hy_scheduler_cancel(hymba_scheduler *scheduler, uint64_t number)
{
    struct slot *slot = slot_of(scheduler, number);
    uint64_t highest = atomic_load(&slot->cancelled);
    if (number == 0 || atomic_load(&slot->number) != number)
        return;
    /* Should the slot change hands meanwhile, the later request's mark is the higher number. */
    while (highest < number &&
           !atomic_compare_exchange_weak(&slot->cancelled, &highest, number)) {
    }
}

/* ---------------------------------------------------------------- requests */

static hymba_status check_request(const hymba_scheduler *scheduler, hymba_session *session,
                                  const int32_t *tokens, size_t n_tokens, hymba_error *error)
{
    if (session->context != scheduler->context)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "the session belongs to another context");
    if (atomic_load(&session->scheduled))
        return hy_fail(error, HYMBA_ERROR_STATE, "the session belongs to another request");
    if (scheduler->count >= scheduler->max_requests)
        return hy_fail(error, HYMBA_ERROR_LIMIT, "the scheduler has all %zu requests it may have",
                       scheduler->max_requests);
    if (n_tokens == 0 && !session->logits_of_last)
        return hy_fail(error, HYMBA_ERROR_STATE,
                       "a request without a prompt needs the logits of the session's last token");
    struct hy_item item = {.session = session, .tokens = tokens, .n_tokens = n_tokens};
    return n_tokens > 0 ? hy_decode_check(scheduler->context, &item, error) : HYMBA_OK;
}

/* The next number whose slot is free; there is one. */
static uint64_t take_number(hymba_scheduler *scheduler)
{
    while (atomic_load(&slot_of(scheduler, scheduler->next_number)->number) != 0)
        scheduler->next_number++;
    return scheduler->next_number++;
}

static hymba_status create_request(hymba_scheduler *scheduler, hymba_session *session,
                                   hymba_sampler *sampler, const int32_t *tokens, size_t n_tokens,
                                   const hymba_request_params *params, struct request **out,
                                   hymba_error *error)
{
    struct request *request = hy_alloc_zero(&scheduler->memory, 1, sizeof *request);
    if (!request)
        return hy_no_memory(error, sizeof *request, "the request");
    request->user = params->user;
    request->session = session;
    request->sampler = sampler;
    request->n_prompt = n_tokens;
    request->n_changes = session->n_changes;
    hymba_error_init(&request->failure, sizeof request->failure);
    hymba_status status = hy_generation_prepare(session, sampler, params->tokenizer,
                                                params->generation, &request->generation, error);
    if (status == HYMBA_OK && n_tokens > 0) {
        request->prompt = hy_alloc_array(&scheduler->memory, n_tokens, sizeof *tokens);
        if (request->prompt)
            memcpy(request->prompt, tokens, n_tokens * sizeof *tokens);
        else
            status = hy_no_memory(error, n_tokens * sizeof *tokens, "the request's prompt");
    }
    if (status != HYMBA_OK) {
        free_request(scheduler, request);
        return status;
    }
    *out = request;
    return HYMBA_OK;
}

hymba_status hy_scheduler_add(hymba_scheduler *scheduler, hymba_session *session,
                              hymba_sampler *sampler, const int32_t *tokens, size_t n_tokens,
                              const hymba_request_params *params, uint64_t *number,
                              hymba_error *error)
{
    struct request *request = NULL;
    hymba_status status = check_request(scheduler, session, tokens, n_tokens, error);
    if (status == HYMBA_OK)
        status = create_request(scheduler, session, sampler, tokens, n_tokens, params, &request,
                                error);
    if (status != HYMBA_OK)
        return status;
    /* two tokens of one batch cannot come from one sampler, nor those of two threads */
    if (sampler && !hy_sampler_claim(sampler)) {
        free_request(scheduler, request);
        return hy_fail(error, HYMBA_ERROR_STATE, "the sampler belongs to another request");
    }
    request->number = take_number(scheduler);
    atomic_store(&session->scheduled, true);
    atomic_store(&slot_of(scheduler, request->number)->number, request->number);
    scheduler->line[scheduler->count] = request;
    atomic_fetch_add(&scheduler->count, 1);
    *number = request->number;
    return HYMBA_OK;
}

/* ---------------------------------------------------------------- planning */

/* Tokens of the prompt up to its end or the next automatic snapshot, for which a longer piece would
 * be computed in two passes. */
static size_t prompt_piece(const struct request *request)
{
    const hymba_session *session = request->session;
    return hy_tokens_to_snapshot(&session->snapshots, session->n_tokens,
                                 request->n_prompt - request->n_fed);
}

/* The request's part of the next step, of rows tokens. False: it needs none before its event. */
static bool item_of(const struct request *request, size_t rows, struct hy_item *item)
{
    if (request->n_fed == request->n_prompt)
        return request->sampler != NULL && hy_generation_item(request->generation, item);
    *item = (struct hy_item){
        .session = request->session,
        .tokens = request->prompt + request->n_fed,
        .n_tokens = rows,
    };
    if (request->n_fed + rows < request->n_prompt)
        return true;
    if (request->sampler)
        hy_generation_ask(request->generation, item);
    else
        item->logits = HYMBA_LOGITS_LAST;
    return true;
}

static bool is_cancelled(const hymba_scheduler *scheduler, const struct request *request)
{
    const struct slot *slot = slot_of(scheduler, request->number);
    return atomic_load(&slot->cancelled) == request->number;
}

/* How many tokens the request may have in this step. */
static void find_wanted(const hymba_scheduler *scheduler, struct request *request)
{
    struct hy_item item;
    request->wanted = 0;
    request->rows = 0;
    if (request->failure.status != HYMBA_OK)
        return;
    if (request->session->n_changes != request->n_changes) {
        hy_fail(&request->failure, HYMBA_ERROR_STATE,
                "the session was changed by another call while a request had it");
        return;
    }
    if (is_cancelled(scheduler, request))
        hy_generation_cancel(request->generation);
    else if (request->n_fed < request->n_prompt)
        request->wanted = prompt_piece(request);
    else if (item_of(request, 1, &item))
        request->wanted = 1;
}

/* Divides room evenly among those who were served and want more. */
static void divide(hymba_scheduler *scheduler, size_t room)
{
    while (room > 0) {
        size_t n = 0;
        for (size_t i = 0; i < scheduler->count; i++)
            n += scheduler->line[i]->rows < scheduler->line[i]->wanted;
        if (n == 0)
            return;
        size_t share = hy_max_size(room / n, 1);
        for (size_t i = 0; i < scheduler->count && room > 0; i++) {
            struct request *request = scheduler->line[i];
            size_t more = hy_min_size(share, request->wanted - request->rows);
            request->rows += more;
            room -= more;
        }
    }
}

/* Who gets how many tokens of the step: one each from the head of the line, then even shares. */
static void plan_step(hymba_scheduler *scheduler)
{
    size_t room = scheduler->token_budget;
    for (size_t i = 0; i < scheduler->count; i++) {
        struct request *request = scheduler->line[i];
        find_wanted(scheduler, request);
        if (request->wanted > 0 && room > 0) {
            request->rows = 1;
            room--;
        }
    }
    divide(scheduler, room); /* nothing is left if somebody in the line got nothing */
}

/* ----------------------------------------------------------------- running */

static void drop_item(struct request *request)
{
    request->rows = 0;
    request->wanted = 0;
}

/* The items of the step and whose they are, as scheduler->served. Requests for which there is no
 * memory fail. */
static size_t list_items(hymba_scheduler *scheduler, struct hy_item *items)
{
    size_t n = 0;
    for (size_t i = 0; i < scheduler->count; i++) {
        struct request *request = scheduler->line[i];
        if (request->rows == 0 || !item_of(request, request->rows, &items[n]))
            continue;
        if (hy_decode_reserve(scheduler->context, &items[n], &request->failure) == HYMBA_OK)
            scheduler->served[n++] = request;
        else
            drop_item(request);
    }
    return n;
}

/* Decodes; a request through whose fault the others' batch fails is left out. */
static hymba_status decode(hymba_scheduler *scheduler, hymba_error *error)
{
    for (;;) {
        struct hy_item *items;
        hymba_error cause = {.struct_size = sizeof cause, .position = -1};
        hymba_status status =
            hy_decode_items(scheduler->context, scheduler->count, &items, error);
        if (status != HYMBA_OK)
            return status;
        size_t n = list_items(scheduler, items);
        if (n == 0 || hy_group_decode(scheduler->context, items, n, &cause) == HYMBA_OK)
            return HYMBA_OK;
        if (cause.position < 0 || (uint64_t)cause.position >= n)
            return hy_fail_again(error, &cause);
        hy_fail_again(&scheduler->served[cause.position]->failure, &cause);
        drop_item(scheduler->served[cause.position]);
    }
}

/* What has been decoded is in the sessions. */
static void advance(struct request *request)
{
    if (request->rows == 0)
        return;
    if (request->n_fed < request->n_prompt)
        request->n_fed += request->rows;
    else
        hy_generation_appended(request->generation);
    request->n_changes = request->session->n_changes;
}

/* ------------------------------------------------------------------ events */

/* Whether the request has an event now: not in the midst of its prompt, nor while it waits. */
static bool is_due(const struct request *request)
{
    if (request->rows < request->wanted || request->failure.status != HYMBA_OK)
        return request->failure.status != HYMBA_OK;
    return request->wanted == 0 || request->n_fed == request->n_prompt;
}

static hymba_status next_event(struct request *request, hymba_event *event)
{
    hymba_error *error = &request->failure;
    bool fed = request->n_fed == request->n_prompt;
    if (fed && request->sampler && !request->begun) {
        hymba_status status = hy_generation_begin(request->generation, error);
        if (status != HYMBA_OK)
            return status;
        request->begun = true;
    }
    if (fed && !request->sampler)
        return hy_generation_end(request->generation, HYMBA_STOP_LENGTH, event, error);
    return hy_generation_event(request->generation, event, error);
}

static void fail_event(struct request *request, hymba_event *event)
{
    memset(event, 0, sizeof *event);
    event->kind = HYMBA_EVENT_FAILED;
    event->token = -1;
    hy_generation_give_held(request->generation, event);
}

static void write_event(struct hy_event_list *list, const struct request *request,
                        const hymba_event *event)
{
    hymba_request_event complete = {
        .request = request->number,
        .user = request->user,
        .kind = event->kind,
        .stop = event->stop,
        .token = event->token,
        .status = request->failure.status,
        .text = event->text,
        .length = event->length,
        .top = event->top,
        .n_top = event->n_top,
        .log_probability = event->log_probability,
        .message = request->failure.message,
    };
    char *place = (char *)list->events + list->n++ * list->size;
    memset(place, 0, list->size);
    memcpy(place, &complete, hy_min_size(list->size, sizeof complete));
}

/* Gives the request its event if one is due; whether it goes on. */
static bool give_event(struct request *request, struct hy_event_list *list)
{
    hymba_event event = {0};
    if (!is_due(request))
        return true;
    if (request->failure.status != HYMBA_OK || next_event(request, &event) != HYMBA_OK)
        fail_event(request, &event);
    write_event(list, request, &event);
    return event.kind == HYMBA_EVENT_TOKEN;
}

/* Events, and the line of the next step: who waited in vain before who was served. */
static void finish_step(hymba_scheduler *scheduler, struct hy_event_list *list)
{
    size_t n = scheduler->count, n_waiting = 0, n_served = 0;
    for (size_t i = 0; i < n; i++) {
        struct request *request = scheduler->line[i];
        bool waits = request->rows == 0 && request->wanted > 0;
        advance(request);
        if (!give_event(request, list))
            let_go(scheduler, request);
        else if (waits)
            scheduler->line[n_waiting++] = request;
        else
            scheduler->served[n_served++] = request;
    }
    memcpy(scheduler->line + n_waiting, scheduler->served, n_served * sizeof *scheduler->served);
    atomic_store(&scheduler->count, n_waiting + n_served);
}

/* Nobody moves in the step; whether it has an event all the same, of who needs nothing computed. */
static bool stay(hymba_scheduler *scheduler)
{
    bool any = false;
    for (size_t i = 0; i < scheduler->count; i++) {
        scheduler->line[i]->rows = 0;
        any |= is_due(scheduler->line[i]);
    }
    return any;
}

hymba_status hy_scheduler_step(hymba_scheduler *scheduler, struct hy_event_list *list,
                               hymba_error *error)
{
    hymba_error cause = {.struct_size = sizeof cause, .position = -1};
    if (scheduler->count == 0)
        return HYMBA_OK;
    plan_step(scheduler);
    hymba_status status = decode(scheduler, &cause);
    /* who ends without memory may give back what the others lack */
    if (status != HYMBA_OK && (status != HYMBA_ERROR_MEMORY || !stay(scheduler)))
        return hy_fail_again(error, &cause);
    free_ended(scheduler);
    finish_step(scheduler, list);
    return HYMBA_OK;
}
