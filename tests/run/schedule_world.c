#include "schedule_world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run/session.h"

enum { MAX_EVENTS = 1024 };

static hymba_error error = {.struct_size = sizeof error};

struct wish wish_random(size_t vocabulary, size_t n_before, size_t n_prompt, uint64_t max_tokens)
{
    struct wish wish = {
        .n_before = n_before,
        .n_prompt = n_prompt,
        .max_tokens = max_tokens,
        .flags = HYMBA_GENERATION_IGNORE_EOS,
        .temperature = 1,
        .seed = test_random_below(1000),
        .session = {.struct_size = sizeof wish.session},
    };
    ck_assert_uint_le(n_before + n_prompt, WISH_MAX_PROMPT);
    for (size_t i = 0; i < n_before + n_prompt; i++)
        wish.tokens[i] = (int32_t)test_random_below(vocabulary);
    return wish;
}

/* ------------------------------------------------------------------ records */

static void tell(struct record *record, const char *format, ...)
{
    va_list arguments;
    char line[2048];
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    ck_assert(length >= 0 && (size_t)length < sizeof line);
    if (record->length + (size_t)length >= record->capacity) {
        record->capacity = 2 * (record->length + (size_t)length + 1);
        record->text = realloc(record->text, record->capacity);
        ck_assert_ptr_nonnull(record->text);
    }
    memcpy(record->text + record->length, line, (size_t)length + 1);
    record->length += (size_t)length;
}

static void tell_event(struct record *record, int32_t kind, int32_t stop, int32_t token,
                       const char *text, size_t length, const hymba_token_probability *top,
                       uint32_t n_top, float log_probability)
{
    ck_assert_uint_eq(strlen(text), length);
    tell(record, "%d %s %d %a '%s'", (int)kind, hymba_stop_name(stop), (int)token,
         (double)log_probability, text);
    for (uint32_t i = 0; kind == HYMBA_EVENT_TOKEN && i < n_top; i++)
        tell(record, " %d:%a", (int)top[i].token, (double)top[i].log_probability);
    tell(record, "\n");
}

/* Its tokens and last logits, to the bit. */
static void tell_session(struct record *record, const hymba_session *session)
{
    const int32_t *tokens = hymba_session_tokens(session);
    const float *logits;
    size_t rows;
    for (uint64_t i = 0; i < hymba_session_length(session); i++)
        tell(record, "%d ", (int)tokens[i]);
    hymba_status status = hymba_session_logits(session, &logits, &rows, &error);
    if (status != HYMBA_OK) {
        tell(record, "without logits\n");
        return;
    }
    uint32_t sum = 2166136261u;
    const unsigned char *bytes = (const void *)logits;
    for (size_t i = 0; i < session->context->model->plan.config.vocabulary_size * sizeof *logits;
         i++)
        sum = (sum ^ bytes[i]) * 16777619u;
    tell(record, "%zu rows %x\n", rows, (unsigned)sum);
}

void record_free(struct record *record)
{
    free(record->text);
    *record = (struct record){0};
}

/* -------------------------------------------------------------------- alone */

static hymba_generation_params generation_params(const struct wish *wish)
{
    return (hymba_generation_params){
        .struct_size = sizeof(hymba_generation_params),
        .max_tokens = wish->max_tokens,
        .stop_strings = &wish->stop_string,
        .n_stop_strings = wish->stop_string != NULL,
        .flags = wish->flags,
        .n_top = wish->n_top,
    };
}

static hymba_session *make_session(hymba_context *context, const struct wish *wish)
{
    hymba_session *session;
    test_status(hymba_session_create(context, &wish->session, &session, &error), HYMBA_OK, error);
    if (wish->n_before > 0)
        test_status(hymba_session_append(session, wish->tokens, wish->n_before, HYMBA_LOGITS_LAST,
                                         &error),
                    HYMBA_OK, error);
    return session;
}

/* Greedy for temperature 0. The prompt counts, as in the command. */
static hymba_sampler *make_sampler(const struct wish *wish)
{
    hymba_sampler *sampler;
    hymba_sampler_params params = {.struct_size = sizeof params,
                                   .seed = wish->seed,
                                   .temperature = wish->temperature,
                                   .repeat_penalty = 1.1f,
                                   .process = wish->process,
                                   .process_user = wish->process_user};
    test_status(hymba_sampler_create(&params, NULL, &sampler, &error), HYMBA_OK, error);
    for (size_t i = 0; i < wish->n_before + wish->n_prompt; i++)
        test_status(hymba_sampler_accept(sampler, wish->tokens[i], &error), HYMBA_OK, error);
    return sampler;
}

static void generate_alone(hymba_session *session, const struct wish *wish, struct record *record)
{
    hymba_generation *generation;
    hymba_event event = {.struct_size = sizeof event};
    hymba_generation_params params = generation_params(wish);
    hymba_sampler *sampler = make_sampler(wish);
    test_status(hymba_generation_create(session, sampler, wish->tokenizer, &params, &generation,
                                        &error),
                HYMBA_OK, error);
    do {
        test_status(hymba_generation_next(generation, &event, &error), HYMBA_OK, error);
        tell_event(record, event.kind, event.stop, event.token, event.text, event.length,
                   event.top, event.n_top, event.log_probability);
    } while (event.kind != HYMBA_EVENT_END);
    hymba_generation_release(generation);
    hymba_sampler_release(sampler);
}

void record_alone(hymba_context *context, const struct wish *wish, struct record *record)
{
    hymba_session *session = make_session(context, wish);
    if (wish->n_prompt > 0)
        test_status(hymba_session_append(session, wish->tokens + wish->n_before, wish->n_prompt,
                                         HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
    if (wish->prompt_only)
        tell_event(record, HYMBA_EVENT_END, HYMBA_STOP_LENGTH, -1, "", 0, NULL, 0, 0);
    else
        generate_alone(session, wish, record);
    tell_session(record, session);
    hymba_session_release(session);
}

/* ---------------------------------------------------------------- scheduled */

void scheduled_open(struct scheduled *scheduled, hymba_context *context, const struct wish *wish)
{
    *scheduled = (struct scheduled){
        .wish = wish,
        .session = make_session(context, wish),
        .sampler = wish->prompt_only ? NULL : make_sampler(wish),
    };
}

void scheduled_close(struct scheduled *scheduled)
{
    hymba_session_release(scheduled->session);
    hymba_sampler_release(scheduled->sampler);
    record_free(&scheduled->record);
}

hymba_status scheduled_add(struct scheduled *scheduled, hymba_scheduler *scheduler,
                           hymba_error *record)
{
    const struct wish *wish = scheduled->wish;
    hymba_generation_params generation = generation_params(wish);
    hymba_request_params params = {.struct_size = sizeof params,
                                   .tokenizer = wish->tokenizer,
                                   .generation = &generation,
                                   .user = scheduled};
    return hymba_scheduler_add(scheduler, scheduled->session, scheduled->sampler,
                               wish->tokens + wish->n_before, wish->n_prompt, &params,
                               &scheduled->request, record);
}

static void take_event(const hymba_request_event *event, struct scheduled *list, size_t n)
{
    struct scheduled *scheduled = event->user;
    ck_assert(scheduled >= list && scheduled < list + n);
    ck_assert_uint_eq(event->request, scheduled->request);
    ck_assert(!scheduled->ended);
    ck_assert_int_eq(event->status != HYMBA_OK, event->kind == HYMBA_EVENT_FAILED);
    ck_assert_int_eq(event->message[0] != '\0', event->kind == HYMBA_EVENT_FAILED);
    tell_event(&scheduled->record, event->kind, event->stop, event->token, event->text,
               event->length, event->top, event->n_top, event->log_probability);
    scheduled->n_events++;
    if (event->kind == HYMBA_EVENT_TOKEN)
        return;
    scheduled->ended = true;
    scheduled->stop = event->stop;
    scheduled->status = event->status;
    tell_session(&scheduled->record, scheduled->session);
}

hymba_status schedule_step(hymba_scheduler *scheduler, struct scheduled *list, size_t n,
                           hymba_error *record)
{
    static hymba_request_event events[MAX_EVENTS];
    size_t before = hymba_scheduler_count(scheduler), n_events, ended = 0;
    memset(events, 0x7f, sizeof events);
    hymba_status status = hymba_scheduler_step(scheduler, events, sizeof events[0], MAX_EVENTS,
                                               &n_events, record);
    ck_assert_uint_le(n_events, before);
    if (status != HYMBA_OK)
        ck_assert_uint_eq(n_events, 0);
    for (size_t i = 0; i < n_events; i++) {
        take_event(&events[i], list, n);
        ended += events[i].kind != HYMBA_EVENT_TOKEN;
    }
    ck_assert_uint_eq(hymba_scheduler_count(scheduler), before - ended);
    return status;
}

void schedule_finish(hymba_scheduler *scheduler, struct scheduled *list, size_t n)
{
    while (hymba_scheduler_count(scheduler) > 0)
        test_status(schedule_step(scheduler, list, n, &error), HYMBA_OK, error);
}

void schedule_compare(hymba_context *context, const struct scheduled *scheduled)
{
    struct record alone = {0};
    ck_assert(scheduled->ended);
    record_alone(context, scheduled->wish, &alone);
    ck_assert_msg(strcmp(alone.text, scheduled->record.text) == 0,
                  "alone:\n%sscheduled:\n%s", alone.text, scheduled->record.text);
    record_free(&alone);
}

/* --------------------------------------------------------------------- rows */

static void count_layer(void *user, enum hy_probe_site site, int layer, const float *data,
                        size_t rows, size_t width, size_t stride)
{
    struct row_count *count = user;
    (void)data;
    (void)width;
    (void)stride;
    if (site != HY_PROBE_HIDDEN || layer != 0)
        return;
    count->rows += rows;
    count->passes++;
}

void count_rows(hymba_context *context, struct row_count *count)
{
    *count = (struct row_count){0};
    context->probe = (struct hy_probe){count_layer, count};
}
