#include "conversation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "characters.h"
#include "interrupt.h"
#include "output.h"

/* A session goes back by so many tokens at any time: enough for the beginning of the next turn,
 * which a model may have written before it was stopped. Each costs a recurrent state, in every
 * snapshot too. Saved sessions fit only the same number. */
enum { REWIND_TOKENS = 8 };

static const char snapshot_name[] = "turn";

/* -------------------------------------------------------------------- text */

static void add_text(struct conversation *conversation, const char *text, size_t size)
{
    if (size >= conversation->text_capacity - conversation->text_size) {
        conversation->text_capacity = 2 * (conversation->text_size + size) + 256;
        conversation->text = grow_memory(conversation->text, conversation->text_capacity, 1);
    }
    memcpy(conversation->text + conversation->text_size, text, size);
    conversation->text_size += size;
}

static void add_point(struct conversation *conversation, uint64_t tokens)
{
    if (conversation->n_points == conversation->points_capacity) {
        conversation->points_capacity = 2 * conversation->points_capacity + 64;
        conversation->points = grow_memory(conversation->points, conversation->points_capacity,
                                           sizeof *conversation->points);
    }
    conversation->points[conversation->n_points++] =
        (struct point){tokens, conversation->text_size};
}

static struct point last_point(const struct conversation *conversation)
{
    return conversation->points[conversation->n_points - 1];
}

/* Forgets text and points beyond so many tokens. */
static void cut_text(struct conversation *conversation, uint64_t tokens)
{
    while (last_point(conversation).tokens > tokens)
        conversation->n_points--;
    conversation->text_size = last_point(conversation).text;
    if (conversation->answer_end > conversation->text_size)
        conversation->answer_end = conversation->text_size;
}

static void forget_text(struct conversation *conversation)
{
    conversation->n_points = 0;
    conversation->text_size = 0;
    conversation->answer_end = 0;
    add_point(conversation, 0);
}

static void add_turn(struct conversation *conversation, struct point begin)
{
    if (conversation->n_turns == conversation->turns_capacity) {
        conversation->turns_capacity = 2 * conversation->turns_capacity + 16;
        conversation->turns = grow_memory(conversation->turns, conversation->turns_capacity,
                                          sizeof *conversation->turns);
    }
    conversation->turns[conversation->n_turns++] = (struct turn){begin, true};
}

/* ---------------------------------------------------------------- messages */

static bool has_role(const json_t *message, const char *role)
{
    const char *actual = json_string_value(json_object_get(message, "role"));
    return actual && strcmp(actual, role) == 0;
}

static void add_message(struct conversation *conversation, const char *role, const char *words,
                        size_t size)
{
    json_t *message = need_json(json_object());
    json_object_set_new(message, "role", need_json(json_string(role)));
    json_object_set_new(message, "content", need_json(json_text(words, size)));
    json_array_append_new(conversation->messages, message);
}

static void drop_messages(struct conversation *conversation, size_t from)
{
    while (json_array_size(conversation->messages) > from)
        json_array_remove(conversation->messages, json_array_size(conversation->messages) - 1);
}

/* Index of the user's message that a turn begins with. */
static size_t message_of_turn(const struct conversation *conversation, size_t turn)
{
    size_t count = json_array_size(conversation->messages);
    for (size_t i = 0; i < count; i++)
        if (has_role(json_array_get(conversation->messages, i), "user") && turn-- == 0)
            return i;
    return count;
}

/* ----------------------------------------------------------------- opening */

int conversation_renew_sampler(struct conversation *conversation)
{
    struct sampling_options sampling = conversation->options->sampling;
    hymba_error error;
    hymba_sampler *sampler = NULL;
    hymba_status status = HYMBA_OK;
    const int32_t *tokens = hymba_session_tokens(conversation->session);
    uint64_t count = hymba_session_length(conversation->session);
    hymba_error_init(&error, sizeof error);
    /* After going back another answer is wanted than the one that was there. */
    sampling.seed += conversation->n_rewinds;
    int result = create_sampler(&sampling, conversation->form.tokenizer, &sampler);
    if (result != STATUS_OK)
        return result;
    for (uint64_t i = 0; i < count && status == HYMBA_OK; i++)
        status = hymba_sampler_accept(sampler, tokens[i], &error);
    if (status != HYMBA_OK) {
        hymba_sampler_release(sampler);
        return fail_library(NULL, status, &error);
    }
    hymba_sampler_release(conversation->sampler);
    conversation->sampler = sampler;
    return STATUS_OK;
}

static int create_chat_context(struct conversation *conversation)
{
    hymba_error error;
    hymba_context_params params;
    hymba_error_init(&error, sizeof error);
    fill_context_params(&conversation->options->compute, &params);
    params.rewind_tokens = REWIND_TOKENS;
    hymba_status status =
        hymba_context_create(conversation->model, &params, &conversation->context, &error);
    progress_end();
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

void conversation_session_params(const struct conversation *conversation,
                                 hymba_session_params *params)
{
    const struct conversation_options *options = conversation->options;
    hymba_session_params_init(params, sizeof *params);
    params->max_tokens = options->context_tokens;
    params->limit_policy = options->slide ? HYMBA_LIMIT_SLIDE : HYMBA_LIMIT_STOP;
}

static int create_session(struct conversation *conversation)
{
    hymba_error error;
    hymba_session_params params;
    hymba_error_init(&error, sizeof error);
    conversation_session_params(conversation, &params);
    interrupt_cancels_context(conversation->context);
    hymba_status status =
        hymba_session_create(conversation->context, &params, &conversation->session, &error);
    interrupt_cancels_context(NULL);
    progress_end();
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

int conversation_open(struct conversation *conversation,
                      const struct conversation_options *options, char *tools)
{
    hymba_tokenizer *tokenizer = NULL;
    memset(conversation, 0, sizeof *conversation);
    conversation->options = options;
    conversation->form.tools = tools;
    conversation->messages = need_json(json_array());
    forget_text(conversation);
    int status = open_model(options->model, 0, options->compute.quantize, &conversation->model);
    if (status == STATUS_OK)
        status = require_tokenizer(conversation->model, options->model, &tokenizer);
    if (status == STATUS_OK)
        status = chat_form_open(&conversation->form, tokenizer, tools);
    if (status == STATUS_OK && tools && !conversation->form.has_template)
        status = fail("%s: the model has no chat template, so tools cannot be told to it",
                      options->model ? options->model : "demo model");
    if (status == STATUS_OK)
        status = create_chat_context(conversation);
    if (status == STATUS_OK)
        status = create_session(conversation);
    if (status == STATUS_OK)
        status = conversation_renew_sampler(conversation);
    if (status == STATUS_OK && options->system)
        status = conversation_set_system(conversation, options->system, strlen(options->system));
    return status;
}

void conversation_close(struct conversation *conversation)
{
    hymba_sampler_release(conversation->sampler);
    hymba_session_release(conversation->session);
    hymba_context_release(conversation->context);
    hymba_model_release(conversation->model);
    chat_form_close(&conversation->form);
    json_decref(conversation->messages);
    free(conversation->text);
    free(conversation->points);
    free(conversation->turns);
}

int conversation_info(const struct conversation *conversation, hymba_session_info *info)
{
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    memset(info, 0, sizeof *info);
    info->struct_size = sizeof *info;
    hymba_status status = hymba_session_get_info(conversation->session, info, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

/* --------------------------------------------------------------- going back */

/* Brings the session back to so many tokens. CANCELLED is not reported: the user knows. */
static hymba_status go_back(struct conversation *conversation, uint64_t tokens,
                            hymba_reuse_info *info, hymba_error *error)
{
    memset(info, 0, sizeof *info);
    info->struct_size = sizeof *info;
    interrupt_cancels_context(conversation->context);
    hymba_status status = hymba_session_rewind(conversation->session, tokens,
                                               HYMBA_REWIND_COMPUTE, info, error);
    interrupt_cancels_context(NULL);
    progress_end();
    if (status == HYMBA_OK)
        cut_text(conversation, tokens);
    return status;
}

/* The last point up to which the session holds what the text begins with. */
static struct point common_point(const struct conversation *conversation,
                                 const struct chat_text *text, size_t *common)
{
    size_t most = text->size < conversation->text_size ? text->size : conversation->text_size;
    *common = 0;
    while (*common < most && text->data[*common] == conversation->text[*common])
        ++*common;
    for (size_t i = conversation->n_points; i-- > 1;) {
        struct point point = conversation->points[i];
        bool inside_character =
            point.text < text->size && ((unsigned char)text->data[point.text] & 0xC0) == 0x80;
        if (point.text <= *common && !inside_character)
            return point;
    }
    return conversation->points[0];
}

/* Makes the session hold nothing but a beginning of the text. */
static hymba_status follow_text(struct conversation *conversation, const struct chat_text *text,
                                struct point *point, hymba_error *error)
{
    hymba_reuse_info info;
    size_t common = 0;
    *point = common_point(conversation, text, &common);
    bool changed = common < conversation->answer_end;
    uint64_t length = hymba_session_length(conversation->session);
    conversation->figures = (struct turn_figures){.reused = point->tokens};
    if (point->tokens == length)
        return HYMBA_OK;
    hymba_status status = go_back(conversation, point->tokens, &info, error);
    if (status != HYMBA_OK)
        return status;
    conversation->figures.reused = info.reused_tokens;
    conversation->figures.again = info.computed_tokens;
    for (size_t i = 0; i < conversation->n_turns; i++)
        if (conversation->turns[i].begin.tokens > point->tokens)
            conversation->turns[i].known = false;
    if (changed && !conversation->has_told) {
        conversation->has_told = true;
        fail("note: the chat's text so far is not what the session holds, so from token %llu on "
             "it is computed again", (unsigned long long)point->tokens);
    }
    return HYMBA_OK;
}

/* --------------------------------------------------------------- snapshots */

/* Only the latest ones are kept. Without one going back has to compute, and nothing else. */
static void take_snapshot(struct conversation *conversation)
{
    hymba_session *session = conversation->session;
    size_t most = (size_t)conversation->options->snapshots;
    if (most == 0 || hymba_session_length(session) == 0)
        return;
    while (hymba_session_snapshot_count(session) >= most) {
        hymba_snapshot_info oldest = {.struct_size = sizeof oldest};
        if (hymba_session_get_snapshot(session, 0, &oldest, NULL) != HYMBA_OK ||
            hymba_session_drop_snapshot(session, oldest.length, NULL) != HYMBA_OK)
            return;
    }
    char name[64];
    snprintf(name, sizeof name, "%s %zu", snapshot_name, conversation->n_turns + 1);
    hymba_session_snapshot(session, name, NULL, NULL);
}

/* ------------------------------------------------------------------ a turn */

static hymba_status append(struct conversation *conversation, const struct ids *ids,
                           hymba_error *error)
{
    interrupt_cancels_context(conversation->context);
    hymba_status status =
        interrupted() ? HYMBA_ERROR_CANCELLED
                      : hymba_session_append(conversation->session, ids->items, ids->count,
                                             HYMBA_LOGITS_LAST, error);
    interrupt_cancels_context(NULL);
    progress_end();
    return status;
}

static int report_limit(const struct conversation *conversation, size_t needed)
{
    hymba_session_info info;
    int status = conversation_info(conversation, &info);
    if (status != STATUS_OK)
        return status;
    return fail("the conversation holds %llu of at most %llu tokens (--context) and the message "
                "needs %zu more: /rewind or /reset makes room",
                (unsigned long long)info.length, (unsigned long long)info.max_tokens, needed);
}

/* Puts the message into the session. *taken is false if the user stopped it. */
static int feed_message(struct conversation *conversation, bool *taken)
{
    hymba_error error;
    struct chat_text text;
    struct ids ids = {0};
    struct point point = {0, 0};
    hymba_error_init(&error, sizeof error);
    *taken = false;
    int status = chat_form_render(&conversation->form, conversation->messages, &text);
    if (status != STATUS_OK)
        return status;
    hymba_status result = follow_text(conversation, &text, &point, &error);
    if (result == HYMBA_OK)
        status = chat_form_encode(&conversation->form, &text, point.text, &ids);
    if (result == HYMBA_OK && status == STATUS_OK) {
        take_snapshot(conversation);
        result = append(conversation, &ids, &error);
    }
    if (result == HYMBA_ERROR_LIMIT) {
        status = report_limit(conversation, ids.count);
    } else if (result != HYMBA_OK && result != HYMBA_ERROR_CANCELLED) {
        status = fail_library(NULL, result, &error);
    } else if (result == HYMBA_OK && status == STATUS_OK) {
        *taken = true;
        add_turn(conversation, point);
        conversation->figures.message = ids.count;
        add_text(conversation, text.data + point.text, text.size - point.text);
        add_point(conversation, hymba_session_length(conversation->session));
        for (size_t i = 0; i < ids.count && result == HYMBA_OK; i++)
            result = hymba_sampler_accept(conversation->sampler, ids.items[i], &error);
        if (result != HYMBA_OK)
            status = fail_library(NULL, result, &error);
    }
    ids_free(&ids);
    chat_text_free(&text);
    return status;
}

/* The answer while it is made. */
struct answer {
    char *text;
    size_t size, capacity;
    answer_taker take;
    void *user;
    int32_t stop;
};

static int add_to_answer(struct answer *answer, const char *text, size_t size)
{
    if (size == 0)
        return STATUS_OK;
    if (size > answer->capacity - answer->size) {
        answer->capacity = 2 * (answer->size + size);
        answer->text = grow_memory(answer->text, answer->capacity, 1);
    }
    memcpy(answer->text + answer->size, text, size);
    answer->size += size;
    return answer->take(answer->user, text, size);
}

/* Text and point of a token that will be in the session with the next event. */
static void note_token(struct conversation *conversation, int32_t token)
{
    char bytes[CHAT_TOKEN_BYTES];
    size_t size = chat_form_token_bytes(&conversation->form, token, bytes);
    add_text(conversation, bytes, size);
    add_point(conversation, last_point(conversation).tokens + 1);
}

static int take_events(struct conversation *conversation, hymba_generation *generation,
                       struct answer *answer)
{
    hymba_error error;
    hymba_event event;
    int status = STATUS_OK;
    hymba_error_init(&error, sizeof error);
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    do {
        hymba_status result = hymba_generation_next(generation, &event, &error);
        if (result == HYMBA_ERROR_CANCELLED && interrupted()) {
            hymba_generation_cancel(generation); /* the next event is the end */
            continue;
        }
        if (result != HYMBA_OK)
            return fail_library(NULL, result, &error);
        status = add_to_answer(answer, event.text, event.length);
        if (event.kind != HYMBA_EVENT_TOKEN)
            continue;
        if (event.token == conversation->form.stop_token) {
            answer->stop = HYMBA_STOP_EOS;
            return status;
        }
        note_token(conversation, event.token);
    } while (status == STATUS_OK && event.kind != HYMBA_EVENT_END);
    answer->stop = event.stop;
    return status;
}

static int create_generation(struct conversation *conversation, hymba_generation **generation)
{
    const struct conversation_options *options = conversation->options;
    const char *stops[OPTION_ITEMS_MOST + 1];
    hymba_error error;
    hymba_generation_params params;
    size_t n_stops = options->stop.count;
    hymba_error_init(&error, sizeof error);
    hymba_generation_params_init(&params, sizeof params);
    memcpy(stops, options->stop.items, n_stops * sizeof *stops);
    if (conversation->form.stop)
        stops[n_stops++] = conversation->form.stop;
    params.max_tokens = options->answer_tokens;
    params.stop_strings = stops;
    params.n_stop_strings = n_stops;
    hymba_status status =
        hymba_generation_create(conversation->session, conversation->sampler,
                                conversation->form.tokenizer, &params, generation, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

static int make_answer(struct conversation *conversation, struct answer *answer)
{
    hymba_generation *generation = NULL;
    uint64_t before = hymba_session_length(conversation->session);
    size_t begin = conversation->text_size;
    int status = create_generation(conversation, &generation);
    if (status != STATUS_OK)
        return status;
    interrupt_cancels_generation(generation);
    if (interrupted()) /* before there was a generation to cancel */
        hymba_generation_cancel(generation);
    status = take_events(conversation, generation, answer);
    interrupt_cancels_generation(NULL);
    hymba_generation_release(generation);
    /* The last token of an answer that was cut short is not in the session. */
    cut_text(conversation, hymba_session_length(conversation->session));
    conversation->figures.answer = hymba_session_length(conversation->session) - before;
    const char *words = answer->text ? answer->text : "";
    size_t size = answer->size;
    add_message(conversation, "assistant", words, size);
    strip_space(&words, &size);
    size_t end = begin + (size > 0 ? (size_t)(words - answer->text) + size : 0);
    conversation->answer_end = end < conversation->text_size ? end : conversation->text_size;
    return status;
}

int conversation_say(struct conversation *conversation, const char *words, size_t size,
                     answer_taker take, void *user, int32_t *stop)
{
    struct answer answer = {.take = take, .user = user};
    size_t n_messages = json_array_size(conversation->messages);
    size_t n_turns = conversation->n_turns;
    bool taken = false;
    *stop = HYMBA_STOP_NONE;
    add_message(conversation, "user", words, size);
    int status = feed_message(conversation, &taken);
    if (taken && status == STATUS_OK)
        status = make_answer(conversation, &answer);
    *stop = answer.stop;
    free(answer.text);
    if (!taken || status != STATUS_OK) {
        drop_messages(conversation, n_messages);
        conversation->n_turns = n_turns;
        conversation->answer_end = 0; /* the next turn goes back without a word */
    }
    return status;
}

/* ---------------------------------------------------------------- commands */

int conversation_reset(struct conversation *conversation)
{
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    hymba_status status = hymba_session_reset(conversation->session, &error);
    if (status != HYMBA_OK)
        return fail_library(NULL, status, &error);
    const json_t *first = json_array_get(conversation->messages, 0);
    drop_messages(conversation, has_role(first, "system") ? 1 : 0);
    conversation->n_turns = 0;
    conversation->n_rewinds++;
    conversation->figures = (struct turn_figures){0};
    forget_text(conversation);
    return conversation_renew_sampler(conversation);
}

int conversation_rewind(struct conversation *conversation, uint64_t turns,
                        hymba_reuse_info *info)
{
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    memset(info, 0, sizeof *info);
    if (turns > conversation->n_turns)
        return fail("/rewind: the conversation has %zu turns only", conversation->n_turns);
    if (turns == 0)
        return STATUS_OK;
    size_t left = conversation->n_turns - (size_t)turns;
    const struct turn *turn = &conversation->turns[left];
    if (turn->known) { /* otherwise the next turn finds out what can stay */
        hymba_status status = go_back(conversation, turn->begin.tokens, info, &error);
        if (status == HYMBA_ERROR_CANCELLED)
            return fail("/rewind: stopped; the conversation is as it was");
        if (status != HYMBA_OK)
            return fail_library(NULL, status, &error);
    }
    conversation->figures = (struct turn_figures){.reused = info->reused_tokens,
                                                  .again = info->computed_tokens};
    drop_messages(conversation, message_of_turn(conversation, left));
    conversation->n_turns = left;
    conversation->n_rewinds++;
    conversation->answer_end = 0; /* what the session holds too much is no surprise */
    return conversation_renew_sampler(conversation);
}

int conversation_set_system(struct conversation *conversation, const char *text, size_t size)
{
    json_t *messages = conversation->messages;
    if (has_role(json_array_get(messages, 0), "system"))
        json_array_remove(messages, 0);
    if (size > 0) {
        add_message(conversation, "system", text, size);
        size_t last = json_array_size(messages) - 1;
        json_t *message = json_incref(json_array_get(messages, last));
        json_array_remove(messages, last);
        json_array_insert_new(messages, 0, message);
    }
    conversation->answer_end = 0;
    return STATUS_OK;
}
