#include "run/generate.h"

#include <stdatomic.h>
#include <string.h>

#include "base/checked.h"
#include "run/group_calls.h"
#include "text/log_probabilities.h"
#include "text/text_stream.h"

struct stop_string {
    char *text;
    size_t length;
};

struct hymba_generation {
    struct hy_memory memory;
    hymba_session *session;
    hymba_sampler *sampler;
    hymba_text_stream *stream; /* NULL: no text */
    struct stop_string *stops;
    size_t n_stops, longest_stop;
    uint64_t max_tokens, n_generated;
    bool ignore_eos, wants_probability;
    int32_t eos;
    int32_t sampled;   /* token that is not in the text yet; -1: none */
    int32_t pending;   /* token that is not in the session yet; -1: none */
    uint32_t n_pieces; /* tokens the tokenizer knows; a model may have more */
    int32_t stop;      /* HYMBA_STOP_... once it has ended */
    bool ended;        /* END has been given */
    _Atomic bool cancelled;
    /* Of the sampled token. */
    float log_probability;
    hymba_token_probability *top;
    uint32_t n_top;
    /* Text not given out yet, because a stop string may begin in it; then the event's text. */
    char *text;
    size_t length, capacity;
    char *out;
    size_t out_capacity;
};

void hy_generation_let_go(hymba_generation *generation)
{
    hy_text_stream_release(generation->stream);
    hy_sampler_release(generation->sampler);
    hy_session_release(generation->session);
    generation->stream = NULL;
    generation->sampler = NULL;
    generation->session = NULL;
}

void hy_generation_release(hymba_generation *generation)
{
    if (!generation)
        return;
    struct hy_memory *memory = &generation->memory;
    for (size_t i = 0; i < generation->n_stops; i++)
        hy_free(memory, generation->stops[i].text);
    hy_free(memory, generation->stops);
    hy_free(memory, generation->text);
    hy_free(memory, generation->out);
    hy_free(memory, generation->top);
    hy_generation_let_go(generation);
    struct hy_memory own = {.host = memory->host};
    hy_free(&own, generation);
}

static hymba_status copy_stops(hymba_generation *generation,
                               const hymba_generation_params *params, hymba_error *error)
{
    size_t n = params->n_stop_strings;
    if (n == 0)
        return HYMBA_OK;
    generation->stops = hy_alloc_zero(&generation->memory, n, sizeof *generation->stops);
    if (!generation->stops)
        return hy_no_memory(error, n, "the stop strings");
    generation->n_stops = n;
    for (size_t i = 0; i < n; i++) {
        struct stop_string *stop = &generation->stops[i];
        stop->length = strlen(params->stop_strings[i]);
        stop->text = hy_copy_text(&generation->memory, params->stop_strings[i], stop->length);
        if (!stop->text)
            return hy_no_memory(error, stop->length, "a stop string");
        generation->longest_stop = hy_max_size(generation->longest_stop, stop->length);
    }
    return HYMBA_OK;
}

static hymba_status prepare_probabilities(hymba_generation *generation,
                                          const hymba_generation_params *params,
                                          hymba_error *error)
{
    uint32_t vocabulary = generation->session->context->model->plan.config.vocabulary_size;
    generation->wants_probability =
        params->n_top > 0 || (params->flags & HYMBA_GENERATION_LOG_PROBABILITIES);
    if (params->n_top > vocabulary)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "params.n_top: found %u, expected at most %u",
                       (unsigned)params->n_top, (unsigned)vocabulary);
    if (params->n_top == 0)
        return HYMBA_OK;
    generation->top =
        hy_alloc_array(&generation->memory, params->n_top, sizeof *generation->top);
    if (!generation->top)
        return hy_no_memory(error, params->n_top * sizeof *generation->top, "the alternatives");
    generation->n_top = params->n_top;
    return HYMBA_OK;
}

static hymba_status create_stream(hymba_generation *generation, hymba_tokenizer *tokenizer,
                                  hymba_error *error)
{
    generation->n_pieces = hy_tokenizer_size(tokenizer);
    return hy_text_stream_create(tokenizer, &generation->stream, error);
}

/* The session's own tokens go through the stream first, so that the continuation begins in the
 * middle of a text: its leading space stays, a character begun in the prompt is completed. */
static hymba_status prime_stream(hymba_generation *generation, hymba_error *error)
{
    const hymba_session *session = generation->session;
    hymba_status status = HYMBA_OK;
    for (size_t i = 0; status == HYMBA_OK && i < session->n_tokens; i++) {
        const char *text;
        size_t length;
        if ((uint32_t)session->tokens[i] < generation->n_pieces)
            status = hy_text_stream_push(generation->stream, session->tokens[i], &text, &length,
                                         error);
    }
    return status;
}

hymba_status hy_generation_prepare(hymba_session *session, hymba_sampler *sampler,
                                   hymba_tokenizer *tokenizer,
                                   const hymba_generation_params *params,
                                   hymba_generation **out, hymba_error *error)
{
    *out = NULL;
    struct hy_memory memory = {.host = session->memory->host};
    hymba_generation *generation = hy_alloc_zero(&memory, 1, sizeof *generation);
    if (!generation)
        return hy_no_memory(error, sizeof *generation, "the generation");
    hy_memory_inherit(&generation->memory, session->memory);
    generation->session = hy_session_retain(session);
    generation->sampler = hy_sampler_retain(sampler);
    generation->max_tokens = params->max_tokens;
    generation->ignore_eos = params->flags & HYMBA_GENERATION_IGNORE_EOS;
    generation->sampled = -1;
    generation->pending = -1;
    generation->eos = session->context->model->plan.config.eos_token;
    if (generation->eos < 0 && tokenizer)
        generation->eos = hy_tokenizer_eos(tokenizer);
    hymba_status status = copy_stops(generation, params, error);
    if (status == HYMBA_OK)
        status = prepare_probabilities(generation, params, error);
    if (status == HYMBA_OK && tokenizer)
        status = create_stream(generation, tokenizer, error);
    if (status != HYMBA_OK) {
        hy_generation_release(generation);
        return status;
    }
    *out = generation;
    return HYMBA_OK;
}

hymba_status hy_generation_begin(hymba_generation *generation, hymba_error *error)
{
    const hymba_session *session = generation->session;
    if (generation->sampled < 0 && (session->logits_rows == 0 || !session->logits_of_last))
        return hy_fail(error, HYMBA_ERROR_STATE,
                       "the session has no logits of its last token: append with "
                       "HYMBA_LOGITS_LAST first");
    return generation->stream ? prime_stream(generation, error) : HYMBA_OK;
}

hymba_status hy_generation_create(hymba_session *session, hymba_sampler *sampler,
                                  hymba_tokenizer *tokenizer,
                                  const hymba_generation_params *params,
                                  hymba_generation **out, hymba_error *error)
{
    hymba_status status = hy_generation_prepare(session, sampler, tokenizer, params, out, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_generation_begin(*out, error);
    if (status != HYMBA_OK) {
        hy_generation_release(*out);
        *out = NULL;
    }
    return status;
}

hymba_context *hy_generation_context(const hymba_generation *generation)
{
    return generation->session->context;
}

void hy_generation_cancel(hymba_generation *generation)
{
    atomic_store(&generation->cancelled, true);
}

/* ------------------------------------------------------------------- text */

static hymba_status reserve_text(struct hy_memory *memory, char **text, size_t *capacity,
                                 size_t length, hymba_error *error)
{
    if (length < *capacity)
        return HYMBA_OK;
    char *grown = hy_realloc(memory, *text, 2 * length + 64);
    if (!grown)
        return hy_no_memory(error, 2 * length + 64, "generated text");
    *text = grown;
    *capacity = 2 * length + 64;
    return HYMBA_OK;
}

/* Room for whatever the stream gives next. It is made before the stream is called, which cannot
 * take a token back: a call that failed after that could not be repeated. */
static hymba_status make_room(hymba_generation *generation, hymba_error *error)
{
    struct hy_memory *memory = &generation->memory;
    size_t length = generation->length + HY_TEXT_STREAM_OUTPUT;
    hymba_status status =
        reserve_text(memory, &generation->text, &generation->capacity, length, error);
    if (status == HYMBA_OK)
        status =
            reserve_text(memory, &generation->out, &generation->out_capacity, length, error);
    return status;
}

static void add_text(hymba_generation *generation, const char *text, size_t length)
{
    memcpy(generation->text + generation->length, text, length);
    generation->length += length;
}

/* Where the first stop string begins in the held text; its length if there is none. */
static size_t find_stop(const hymba_generation *generation)
{
    for (size_t i = 0; i < generation->length; i++)
        for (size_t j = 0; j < generation->n_stops; j++) {
            const struct stop_string *stop = &generation->stops[j];
            if (stop->length <= generation->length - i &&
                memcmp(generation->text + i, stop->text, stop->length) == 0)
                return i;
        }
    return generation->length;
}

/* How much of the held text cannot be the beginning of a stop string. */
static size_t safe_length(const hymba_generation *generation)
{
    size_t longest = generation->longest_stop;
    size_t i = generation->length >= longest ? generation->length - longest : 0;
    for (; i < generation->length; i++)
        for (size_t j = 0; j < generation->n_stops; j++) {
            const struct stop_string *stop = &generation->stops[j];
            size_t tail = generation->length - i;
            if (tail < stop->length && memcmp(generation->text + i, stop->text, tail) == 0)
                return i;
        }
    return generation->length;
}

/* Moves the first length bytes of the held text into the event. */
static void give_text(hymba_generation *generation, size_t length, hymba_event *event)
{
    if (!generation->out) { /* there never was any */
        event->text = "";
        event->length = 0;
        return;
    }
    memcpy(generation->out, generation->text, length);
    generation->out[length] = '\0';
    memmove(generation->text, generation->text + length, generation->length - length);
    generation->length -= length;
    event->text = generation->out;
    event->length = length;
}

/* ----------------------------------------------------------------- events */

void hy_generation_give_held(hymba_generation *generation, hymba_event *event)
{
    give_text(generation, generation->length, event);
}

static void give_end(hymba_generation *generation, hymba_event *event)
{
    event->kind = HYMBA_EVENT_END;
    event->stop = generation->stop;
    event->token = -1;
    give_text(generation, generation->length, event);
    generation->ended = true;
}

hymba_status hy_generation_end(hymba_generation *generation, int32_t stop, hymba_event *event,
                               hymba_error *error)
{
    if (generation->stream && stop != HYMBA_STOP_STRING) {
        const char *text;
        size_t length;
        hymba_status status = make_room(generation, error);
        if (status == HYMBA_OK)
            status = hy_text_stream_finish(generation->stream, &text, &length, error);
        if (status != HYMBA_OK)
            return status;
        add_text(generation, text, length);
    }
    generation->stop = stop;
    give_end(generation, event);
    return HYMBA_OK;
}

/* Text of a new token; *stopped if a stop string is complete, and the text ends before it. */
static hymba_status add_token_text(hymba_generation *generation, int32_t token, bool *stopped,
                                   hymba_error *error)
{
    const char *text;
    size_t length;
    *stopped = false;
    if (!generation->stream || (uint32_t)token >= generation->n_pieces)
        return HYMBA_OK;
    hymba_status status = make_room(generation, error);
    if (status == HYMBA_OK)
        status = hy_text_stream_push(generation->stream, token, &text, &length, error);
    if (status != HYMBA_OK)
        return status;
    add_text(generation, text, length);
    size_t stop = find_stop(generation);
    *stopped = stop < generation->length;
    generation->length = stop;
    return HYMBA_OK;
}

static bool at_session_limit(const hymba_generation *generation)
{
    const hymba_session *session = generation->session;
    return session->limit_policy == HYMBA_LIMIT_STOP && session->max_tokens > 0 &&
           session->n_tokens >= session->max_tokens;
}

/* A call that failed after sampling is repeated with the token it had. */
static hymba_status sample(hymba_generation *generation, hymba_error *error)
{
    const hymba_session *session = generation->session;
    size_t n_logits = session->context->model->plan.config.vocabulary_size;
    if (generation->sampled >= 0)
        return HYMBA_OK;
    if (session->logits_rows == 0) /* somebody else's call on the session failed */
        return hy_fail(error, HYMBA_ERROR_STATE,
                       "the session has lost the logits of its last token");
    const float *logits = hy_session_last_logits(session);
    hymba_status status =
        hy_sampler_sample(generation->sampler, logits, n_logits, &generation->sampled, error);
    if (status == HYMBA_OK && generation->wants_probability)
        status = hy_log_probabilities(logits, n_logits, generation->sampled,
                                      &generation->log_probability, generation->top,
                                      generation->n_top, error);
    return status;
}

static hymba_status next_token(hymba_generation *generation, hymba_event *event,
                               hymba_error *error)
{
    bool stopped;
    hymba_status status = sample(generation, error);
    if (status != HYMBA_OK)
        return status;
    int32_t token = generation->sampled;
    if (token == generation->eos && !generation->ignore_eos)
        return hy_generation_end(generation, HYMBA_STOP_EOS, event, error);
    status = add_token_text(generation, token, &stopped, error);
    if (status != HYMBA_OK)
        return status;
    generation->sampled = -1;
    generation->pending = token;
    generation->n_generated++;
    if (stopped)
        generation->stop = HYMBA_STOP_STRING;
    event->kind = HYMBA_EVENT_TOKEN;
    event->stop = HYMBA_STOP_NONE;
    event->token = token;
    event->top = generation->top;
    event->n_top = generation->n_top;
    event->log_probability = generation->log_probability;
    give_text(generation, stopped ? generation->length : safe_length(generation), event);
    return HYMBA_OK;
}

void hy_generation_ask(hymba_generation *generation, struct hy_item *item)
{
    bool more = generation->stop == HYMBA_STOP_NONE &&
                (generation->max_tokens == 0 || generation->n_generated < generation->max_tokens);
    bool on_device = generation->session->context->backend.plugin != NULL;
    item->logits = HYMBA_LOGITS_LAST;
    if (!on_device || generation->wants_probability || !more)
        return;
    item->logits = HYMBA_LOGITS_NONE;
    item->sampler = generation->sampler;
    item->token = &generation->sampled;
}

bool hy_generation_item(hymba_generation *generation, struct hy_item *item)
{
    if (generation->ended || generation->pending < 0 || atomic_load(&generation->cancelled) ||
        at_session_limit(generation))
        return false;
    *item = (struct hy_item){
        .session = generation->session, .tokens = &generation->pending, .n_tokens = 1};
    hy_generation_ask(generation, item);
    return true;
}

void hy_generation_appended(hymba_generation *generation)
{
    generation->pending = -1;
}

hymba_status hy_generation_event(hymba_generation *generation, hymba_event *event,
                                 hymba_error *error)
{
    if (generation->ended) {
        give_end(generation, event);
        return HYMBA_OK;
    }
    if (atomic_load(&generation->cancelled))
        return hy_generation_end(generation, HYMBA_STOP_CANCELLED, event, error);
    if (generation->pending >= 0) /* there was no room for it in the session */
        return hy_generation_end(generation, HYMBA_STOP_LIMIT, event, error);
    if (generation->stop == HYMBA_STOP_STRING)
        return hy_generation_end(generation, HYMBA_STOP_STRING, event, error);
    if (generation->max_tokens > 0 && generation->n_generated >= generation->max_tokens)
        return hy_generation_end(generation, HYMBA_STOP_LENGTH, event, error);
    return next_token(generation, event, error);
}

hymba_status hy_generation_next(hymba_generation *generation, hymba_event *event,
                                hymba_error *error)
{
    struct hy_item item;
    if (hy_generation_item(generation, &item)) {
        hymba_status status = hy_group_decode(generation->session->context, &item, 1, error);
        if (status != HYMBA_OK)
            return status;
        hy_generation_appended(generation);
    }
    return hy_generation_event(generation, event, error);
}
