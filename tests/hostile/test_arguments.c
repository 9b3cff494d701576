/*
 * Arguments that are wrong: handles, pointers, counts, ids, flags and enumerations of every public
 * function. Each call is refused in words that name the argument, with and without an error
 * record, and changes nothing.
 */
#include "hostile.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static hymba_error error;
static hymba_model *model, *no_model;
static hymba_tokenizer *tokenizer, *no_tokenizer;
static hymba_context *context, *no_context;
static hymba_session *session, *no_session;
static hymba_sampler *sampler, *no_sampler;
static hymba_text_stream *stream, *no_stream;
static hymba_generation *no_generation;

static const int32_t tokens[4] = {1, 2, 3, 4};
static float logits[67];

enum { VOCABULARY = 67 };

/* Numbers that a caller's -1, -2 and least number become. */
static const size_t huge[] = {SIZE_MAX, SIZE_MAX - 1, (size_t)PTRDIFF_MAX + 1};
enum { N_HUGE = sizeof huge / sizeof huge[0] };

static const int32_t bad_ids[] = {-1, VOCABULARY, INT32_MAX, INT32_MIN};
enum { N_BAD_IDS = sizeof bad_ids / sizeof bad_ids[0] };

static void set_up(void)
{
    hymba_model_params params = {.struct_size = sizeof params};
    hymba_context_params one = {.struct_size = sizeof one, .n_threads = 1};
    hymba_error_init(&error, sizeof error);
    test_status(hymba_model_open(test_data("variants/no_rope"), &params, &model, &error), HYMBA_OK,
                error);
    test_status(hymba_tokenizer_open("examples/demo", NULL, &tokenizer, &error), HYMBA_OK, error);
    test_status(hymba_context_create(model, &one, &context, &error), HYMBA_OK, error);
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, 4, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    test_status(hymba_sampler_create(NULL, NULL, &sampler, &error), HYMBA_OK, error);
    test_status(hymba_text_stream_create(tokenizer, &stream, &error), HYMBA_OK, error);
}

static void tear_down(void)
{
    ck_assert_uint_eq(hymba_session_length(session), 4);
    hymba_text_stream_release(stream);
    hymba_sampler_release(sampler);
    hymba_session_release(session);
    hymba_context_release(context);
    hymba_tokenizer_release(tokenizer);
    hymba_model_release(model);
}

static void check(hymba_status found, hymba_status quiet, hymba_status expected, const char *word,
                  const char *call)
{
    ck_assert_msg(found == expected, "%s: %s (%s)", call, hymba_status_name(found),
                  found == HYMBA_OK ? "" : error.message);
    ck_assert_msg(quiet == expected, "%s without a record: %s", call, hymba_status_name(quiet));
    ck_assert_int_eq(error.status, expected);
    ck_assert_msg(strstr(error.message, word) != NULL, "%s: \"%s\" does not hold \"%s\"", call,
                  error.message, word);
}

#define REFUSE_WITH(status, word, function, ...)                                                  \
    do {                                                                                          \
        hymba_status found_ = function(__VA_ARGS__, &error);                                      \
        check(found_, function(__VA_ARGS__, NULL), status, word, #function "(" #__VA_ARGS__ ")"); \
    } while (0)
#define REFUSE(word, ...) REFUSE_WITH(HYMBA_ERROR_ARGUMENT, word, __VA_ARGS__)

/* The same, and the handle it would have made is NULL. */
#define REFUSE_TO_MAKE(handle, word, ...)                                                         \
    do {                                                                                          \
        *(void **)&(handle) = &error;                                                             \
        REFUSE(word, __VA_ARGS__);                                                                \
        ck_assert_ptr_null(handle);                                                               \
    } while (0)

/* -------------------------------------------------------------------- NULL */

START_TEST(null_to_models)
{
    hymba_memory_file file = {"config.json", "{}", 2}, nameless = {NULL, "{}", 2},
                      empty = {"config.json", NULL, 2};
    hymba_model_info info = {.struct_size = sizeof info};
    hymba_layer_info layer = {.struct_size = sizeof layer};
    hymba_memory_info memory = {.struct_size = sizeof memory};
    char buffer[16];
    size_t needed;
    REFUSE("model", hymba_model_open, "x", NULL, NULL);
    REFUSE_TO_MAKE(no_model, "directory", hymba_model_open, NULL, NULL, &no_model);
    REFUSE("model", hymba_model_open_memory, &file, sizeof file, 1, NULL, NULL);
    REFUSE_TO_MAKE(no_model, "files", hymba_model_open_memory, NULL, sizeof file, 1, NULL,
                   &no_model);
    REFUSE_TO_MAKE(no_model, "files[0]", hymba_model_open_memory, &nameless, sizeof file, 1, NULL,
                   &no_model);
    REFUSE_TO_MAKE(no_model, "files[0]", hymba_model_open_memory, &empty, sizeof file, 1, NULL,
                   &no_model);
    REFUSE("model", hymba_model_get_info, NULL, &info);
    REFUSE("info", hymba_model_get_info, model, NULL);
    REFUSE("model", hymba_model_get_layer_info, NULL, 0, &layer);
    REFUSE("info", hymba_model_get_layer_info, model, 0, NULL);
    REFUSE("layer", hymba_model_get_layer_info, model, 4, &layer);
    REFUSE("layer", hymba_model_get_layer_info, model, UINT32_MAX, &layer);
    REFUSE("model", hymba_model_get_memory_info, NULL, NULL, &memory);
    REFUSE("info", hymba_model_get_memory_info, model, NULL, NULL);
    REFUSE("name", hymba_preset_config, NULL, buffer, sizeof buffer, &needed);
    REFUSE("needed", hymba_preset_config, "tiny", buffer, sizeof buffer, NULL);
    REFUSE("buffer", hymba_preset_config, "tiny", NULL, 5, &needed);
    REFUSE("giant", hymba_preset_config, "giant", buffer, sizeof buffer, &needed);
    REFUSE("directory", hymba_model_init, NULL, "{}", 2, NULL);
    REFUSE("config_json", hymba_model_init, "x", NULL, 2, NULL);
    REFUSE("input", hymba_quantize, NULL, "x", NULL);
    REFUSE("output", hymba_quantize, "x", NULL, NULL);
    ck_assert_ptr_null(hymba_preset_name(UINT32_MAX));
    ck_assert_uint_eq(hymba_model_fingerprint(NULL), 0);
    ck_assert_ptr_null(hymba_model_tokenizer(NULL));
    ck_assert_ptr_null(hymba_model_retain(NULL));
}
END_TEST

START_TEST(null_to_tokenizers)
{
    const char *text;
    char buffer[8];
    int32_t ids[8];
    size_t n;
    REFUSE("tokenizer", hymba_tokenizer_open, "x", NULL, NULL);
    REFUSE_TO_MAKE(no_tokenizer, "directory", hymba_tokenizer_open, NULL, NULL, &no_tokenizer);
    REFUSE("tokenizer", hymba_tokenizer_encode, NULL, "a", 1, 0, ids, 8, &n);
    REFUSE("text", hymba_tokenizer_encode, tokenizer, NULL, 1, 0, ids, 8, &n);
    REFUSE("text", hymba_tokenizer_encode, tokenizer, NULL, HYMBA_NUL_TERMINATED, 0, ids, 8, &n);
    REFUSE("ids", hymba_tokenizer_encode, tokenizer, "a", 1, 0, NULL, 8, &n);
    REFUSE("needed", hymba_tokenizer_encode, tokenizer, "a", 1, 0, ids, 8, NULL);
    REFUSE("tokenizer", hymba_tokenizer_decode, NULL, tokens, 1, 0, buffer, 8, &n);
    REFUSE("ids", hymba_tokenizer_decode, tokenizer, NULL, 1, 0, buffer, 8, &n);
    REFUSE("buffer", hymba_tokenizer_decode, tokenizer, tokens, 1, 0, NULL, 8, &n);
    REFUSE("needed", hymba_tokenizer_decode, tokenizer, tokens, 1, 0, buffer, 8, NULL);
    REFUSE("tokenizer", hymba_tokenizer_piece, NULL, 0, &text, &n);
    REFUSE("text", hymba_tokenizer_piece, tokenizer, 0, NULL, &n);
    REFUSE("length", hymba_tokenizer_piece, tokenizer, 0, &text, NULL);
    REFUSE("tokenizer", hymba_tokenizer_render_chat, NULL, "{}", 2, buffer, 8, &n);
    REFUSE("json", hymba_tokenizer_render_chat, tokenizer, NULL, 2, buffer, 8, &n);
    REFUSE("buffer", hymba_tokenizer_render_chat, tokenizer, "{}", 2, NULL, 8, &n);
    REFUSE("needed", hymba_tokenizer_render_chat, tokenizer, "{}", 2, buffer, 8, NULL);
    REFUSE("stream", hymba_text_stream_create, tokenizer, NULL);
    REFUSE_TO_MAKE(no_stream, "tokenizer", hymba_text_stream_create, NULL, &no_stream);
    REFUSE("stream", hymba_text_stream_push, NULL, 0, &text, &n);
    REFUSE("text", hymba_text_stream_push, stream, 0, NULL, &n);
    REFUSE("length", hymba_text_stream_push, stream, 0, &text, NULL);
    REFUSE("stream", hymba_text_stream_finish, NULL, &text, &n);
    REFUSE("text", hymba_text_stream_finish, stream, NULL, &n);
    REFUSE("length", hymba_text_stream_finish, stream, &text, NULL);
    ck_assert_uint_eq(hymba_tokenizer_vocabulary_size(NULL), 0);
    ck_assert_int_eq(hymba_tokenizer_bos(NULL), -1);
    ck_assert_int_eq(hymba_tokenizer_eos(NULL), -1);
    ck_assert_int_eq(hymba_tokenizer_adds_bos(NULL), 0);
    ck_assert_int_eq(hymba_tokenizer_has_chat_template(NULL), 0);
    ck_assert_ptr_null(hymba_tokenizer_retain(NULL));
    hymba_text_stream_reset(NULL);
    hymba_text_stream_release(NULL);
    hymba_tokenizer_release(NULL);
}
END_TEST

static int32_t take_all(void *user, const void *data, size_t size)
{
    (void)user;
    (void)data;
    (void)size;
    return 0;
}

START_TEST(null_to_contexts_and_sessions)
{
    hymba_context_info context_info = {.struct_size = sizeof context_info};
    hymba_session_info info = {.struct_size = sizeof info};
    hymba_snapshot_info snapshot = {.struct_size = sizeof snapshot};
    hymba_batch_item items[2] = {{session, tokens, 1, 0, 0, NULL, NULL},
                                 {NULL, tokens, 1, 0, 0, NULL, NULL}};
    const float *row;
    float score;
    size_t rows;
    REFUSE("context", hymba_context_create, model, NULL, NULL);
    REFUSE_TO_MAKE(no_context, "model", hymba_context_create, NULL, NULL, &no_context);
    REFUSE("context", hymba_context_get_info, NULL, &context_info);
    REFUSE("info", hymba_context_get_info, context, NULL);
    REFUSE("session", hymba_session_create, context, NULL, NULL);
    REFUSE_TO_MAKE(no_session, "context", hymba_session_create, NULL, NULL, &no_session);
    REFUSE("session", hymba_session_reset, NULL);
    REFUSE("session", hymba_session_reserve, NULL, 1);
    REFUSE("session", hymba_session_append, NULL, tokens, 1, 0);
    REFUSE("tokens", hymba_session_append, session, NULL, 1, 0);
    REFUSE("0 tokens", hymba_session_append, session, tokens, 0, 0);
    REFUSE("context", hymba_context_decode, NULL, items, sizeof items[0], 1);
    REFUSE("items", hymba_context_decode, context, NULL, sizeof items[0], 1);
    REFUSE("0 items", hymba_context_decode, context, items, sizeof items[0], 0);
    REFUSE("of 8 bytes", hymba_context_decode, context, items, 8, 1);
    REFUSE("items[1]: session is NULL", hymba_context_decode, context, items, sizeof items[0], 2);
    ck_assert_int_eq(error.position, 1);
    items[1] = (hymba_batch_item){session, NULL, 1, 0, 0, NULL, NULL};
    REFUSE("items[1]: tokens is NULL", hymba_context_decode, context, items, sizeof items[0], 2);
    items[1] = items[0];
    REFUSE("again", hymba_context_decode, context, items, sizeof items[0], 2);
    REFUSE("session", hymba_session_logits, NULL, &row, &rows);
    REFUSE("logits", hymba_session_logits, session, NULL, &rows);
    REFUSE("session", hymba_session_score, NULL, tokens, 1, &score);
    REFUSE("tokens", hymba_session_score, session, NULL, 1, &score);
    REFUSE("log_probabilities", hymba_session_score, session, tokens, 1, NULL);
    REFUSE("fork", hymba_session_fork, session, NULL, NULL);
    REFUSE_TO_MAKE(no_session, "session", hymba_session_fork, NULL, &no_session, NULL);
    REFUSE("session", hymba_session_snapshot, NULL, "x", NULL);
    REFUSE("session", hymba_session_get_snapshot, NULL, 0, &snapshot);
    REFUSE("index", hymba_session_get_snapshot, session, 0, &snapshot);
    REFUSE("session", hymba_session_find_snapshot, NULL, "x", &snapshot);
    REFUSE("name", hymba_session_find_snapshot, session, NULL, &snapshot);
    REFUSE("session", hymba_session_drop_snapshot, NULL, 1);
    REFUSE("session", hymba_session_rewind, NULL, 1, HYMBA_REWIND_KEPT, NULL);
    REFUSE("session", hymba_session_get_info, NULL, &info);
    REFUSE("info", hymba_session_get_info, session, NULL);
    REFUSE("session", hymba_session_save, NULL, NULL, "x", NULL);
    REFUSE("path", hymba_session_save, session, NULL, NULL, NULL);
    REFUSE("session", hymba_session_save_to, NULL, NULL, take_all, NULL, NULL);
    REFUSE("write", hymba_session_save_to, session, NULL, NULL, NULL, NULL);
    REFUSE("session", hymba_session_load, context, "x", NULL, NULL, NULL, NULL);
    REFUSE_TO_MAKE(no_session, "context", hymba_session_load, NULL, "x", NULL, &no_session, NULL,
                   NULL);
    REFUSE_TO_MAKE(no_session, "path", hymba_session_load, context, NULL, NULL, &no_session, NULL,
                   NULL);
    REFUSE("session", hymba_session_load_memory, context, "x", 1, NULL, NULL, NULL, NULL);
    REFUSE_TO_MAKE(no_session, "context", hymba_session_load_memory, NULL, "x", 1, NULL,
                   &no_session, NULL, NULL);
    REFUSE_TO_MAKE(no_session, "data", hymba_session_load_memory, context, NULL, 1, NULL,
                   &no_session, NULL, NULL);
    REFUSE_WITH(HYMBA_ERROR_FORMAT, "too early", hymba_session_load_memory, context, NULL, 0, NULL,
                &no_session, NULL, NULL);
    ck_assert_uint_eq(hymba_session_length(NULL), 0);
    ck_assert_uint_eq(hymba_session_snapshot_count(NULL), 0);
    ck_assert_ptr_null(hymba_session_tokens(NULL));
    ck_assert_ptr_null(hymba_context_retain(NULL));
    ck_assert_ptr_null(hymba_session_retain(NULL));
}
END_TEST

START_TEST(null_to_samplers_and_generations)
{
    hymba_generation_params params = {.struct_size = sizeof params, .n_stop_strings = 1};
    hymba_event event = {.struct_size = sizeof event};
    hymba_token_probability top[1];
    char state[8];
    int32_t token;
    float probability;
    size_t needed;
    REFUSE("sampler", hymba_sampler_create, NULL, NULL, NULL);
    REFUSE("sampler", hymba_sampler_accept, NULL, 1);
    REFUSE("sampler", hymba_sampler_sample, NULL, logits, VOCABULARY, &token);
    REFUSE("logits", hymba_sampler_sample, sampler, NULL, VOCABULARY, &token);
    REFUSE("token", hymba_sampler_sample, sampler, logits, VOCABULARY, NULL);
    REFUSE("logits", hymba_sampler_sample, sampler, logits, 0, &token);
    REFUSE("sampler", hymba_sampler_state, NULL, state, 8, &needed);
    REFUSE("buffer", hymba_sampler_state, sampler, NULL, 8, &needed);
    REFUSE("needed", hymba_sampler_state, sampler, state, 8, NULL);
    REFUSE("sampler", hymba_sampler_restore, state, 8, NULL, NULL);
    REFUSE_TO_MAKE(no_sampler, "data", hymba_sampler_restore, NULL, 8, NULL, &no_sampler);
    REFUSE("logits", hymba_log_probabilities, NULL, VOCABULARY, 0, &probability, NULL, 0);
    REFUSE("logits", hymba_log_probabilities, logits, 0, 0, &probability, NULL, 0);
    REFUSE("top", hymba_log_probabilities, logits, VOCABULARY, 0, NULL, NULL, 1);
    REFUSE("n_top", hymba_log_probabilities, logits, 1, 0, NULL, top, 2);
    REFUSE("generation", hymba_generation_create, session, sampler, NULL, NULL, NULL);
    REFUSE_TO_MAKE(no_generation, "session", hymba_generation_create, NULL, sampler, NULL, NULL,
                   &no_generation);
    REFUSE_TO_MAKE(no_generation, "sampler", hymba_generation_create, session, NULL, NULL, NULL,
                   &no_generation);
    REFUSE_TO_MAKE(no_generation, "stop_strings", hymba_generation_create, session, sampler,
                   tokenizer, &params, &no_generation);
    REFUSE("generation", hymba_generation_next, NULL, &event);
    ck_assert_ptr_null(hymba_sampler_retain(NULL));
    hymba_sampler_reset(NULL);
    hymba_sampler_release(NULL);
    hymba_generation_release(NULL);
    hymba_generation_cancel(NULL);
    ck_assert_ptr_null(hymba_scheduler_retain(NULL));
    hymba_scheduler_release(NULL);
    hymba_scheduler_cancel(NULL, 1);
    hymba_context_cancel(NULL);
    hymba_error_init(NULL, 8);
    hymba_host_init(NULL, 8);
    hymba_model_params_init(NULL, 8);
}
END_TEST

/* ---------------------------------------------------------------- token ids */

START_TEST(ids_outside_the_vocabulary)
{
    for (size_t i = 0; i < N_BAD_IDS; i++) {
        int32_t given[3] = {1, 2, bad_ids[i]};
        hymba_batch_item item = {session, given, 3, HYMBA_LOGITS_NONE, 0, NULL, NULL};
        float scores[3];
        REFUSE("token 2", hymba_session_append, session, given, 3, 0);
        ck_assert_int_eq(error.position, 2);
        REFUSE("token 2", hymba_session_score, session, given, 3, scores);
        REFUSE("token 2", hymba_context_decode, context, &item, sizeof item, 1);
        REFUSE("token", hymba_log_probabilities, logits, VOCABULARY, bad_ids[i], scores, NULL, 0);
    }
    REFUSE("token", hymba_sampler_accept, sampler, -1);
    REFUSE("token", hymba_sampler_accept, sampler, INT32_MIN);
}
END_TEST

START_TEST(ids_outside_the_tokenizer)
{
    int32_t size = (int32_t)hymba_tokenizer_vocabulary_size(tokenizer);
    const int32_t bad[] = {-1, size, INT32_MAX, INT32_MIN};
    const char *text;
    char buffer[64];
    size_t n;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int32_t given[2] = {5, bad[i]};
        REFUSE("id", hymba_tokenizer_piece, tokenizer, bad[i], &text, &n);
        REFUSE("id", hymba_text_stream_push, stream, bad[i], &text, &n);
        REFUSE("index 1", hymba_tokenizer_decode, tokenizer, given, 2, 0, buffer, sizeof buffer,
               &n);
        ck_assert_int_eq(error.position, 1);
    }
}
END_TEST

/* ------------------------------------------------------------------- counts */

START_TEST(counts_that_were_negative)
{
    hymba_memory_file file = {"config.json", "{}", 2};
    hymba_batch_item item = {session, tokens, 1, HYMBA_LOGITS_NONE, 0, NULL, NULL};
    const char *stop = "x";
    char buffer[8];
    int32_t ids[8], token;
    float score;
    size_t n;
    for (size_t i = 0; i < N_HUGE; i++) {
        hymba_memory_file large = {"config.json", "{}", huge[i]};
        hymba_batch_item long_item = {session, tokens, huge[i], HYMBA_LOGITS_NONE, 0, NULL, NULL};
        hymba_generation_params stops = {
            .struct_size = sizeof stops, .stop_strings = &stop, .n_stop_strings = huge[i]};
        hymba_logit_bias bias = {1, 1};
        hymba_sampler_params biases = {
            .struct_size = sizeof biases, .logit_bias = &bias, .n_logit_bias = huge[i]};
        hymba_sampler_params breakers = {
            .struct_size = sizeof breakers, .dry_breakers = tokens, .n_dry_breakers = huge[i]};
        REFUSE_TO_MAKE(no_model, "n_files", hymba_model_open_memory, &file, sizeof file, huge[i],
                       NULL, &no_model);
        REFUSE_TO_MAKE(no_model, "files[0].size", hymba_model_open_memory, &large, sizeof large, 1,
                       NULL, &no_model);
        REFUSE("tokens", hymba_session_append, session, tokens, huge[i], HYMBA_LOGITS_ALL);
        REFUSE("tokens", hymba_session_score, session, tokens, huge[i], &score);
        REFUSE("n_items", hymba_context_decode, context, &item, sizeof item, huge[i]);
        REFUSE("n_items", hymba_context_decode, context, &item, huge[i], 1);
        REFUSE("item 0", hymba_context_decode, context, &long_item, sizeof item, 1);
        REFUSE("n_ids", hymba_tokenizer_decode, tokenizer, tokens, huge[i], 0, buffer, 8, &n);
        REFUSE("logits", hymba_sampler_sample, sampler, logits, huge[i], &token);
        REFUSE("logits", hymba_log_probabilities, logits, huge[i], 0, &score, NULL, 0);
        REFUSE("size", hymba_sampler_restore, buffer, huge[i], NULL, &no_sampler);
        REFUSE("size", hymba_session_load_memory, context, buffer, huge[i], NULL, &no_session,
               NULL, NULL);
        REFUSE_TO_MAKE(no_generation, "n_stop_strings", hymba_generation_create, session, sampler,
                       tokenizer, &stops, &no_generation);
        REFUSE_TO_MAKE(no_sampler, "n_logit_bias", hymba_sampler_create, &biases, NULL,
                       &no_sampler);
        REFUSE_TO_MAKE(no_sampler, "n_dry_breakers", hymba_sampler_create, &breakers, NULL,
                       &no_sampler);
        if (huge[i] == HYMBA_NUL_TERMINATED)
            continue; /* for a text -1 has a meaning */
        REFUSE("text", hymba_tokenizer_encode, tokenizer, "a", huge[i], 0, ids, 8, &n);
        REFUSE("text", hymba_tokenizer_encode, tokenizer, "a", huge[i], HYMBA_ENCODE_SPECIAL, ids,
               8, &n);
        REFUSE("json", hymba_tokenizer_render_chat, tokenizer, "{}", huge[i], buffer, 8, &n);
        REFUSE("config_json", hymba_model_init, "nowhere", "{}", huge[i], NULL);
        hymba_quantize_params quantize = {
            .struct_size = sizeof quantize, .tokens = tokens, .n_tokens = huge[i]};
        REFUSE("n_tokens", hymba_quantize, "examples/demo", "nowhere", &quantize);
    }
}
END_TEST

START_TEST(lengths_that_were_negative)
{
    static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 1, (uint64_t)INT64_MAX + 1};
    for (size_t i = 0; i < 3; i++) {
        hymba_session_params params = {.struct_size = sizeof params};
        params.reserve_tokens = lengths[i];
        hymba_status status = hymba_session_create(context, &params, &no_session, &error);
        ck_assert_msg(status == HYMBA_ERROR_LIMIT || status == HYMBA_ERROR_MEMORY, "%s",
                      error.message);
        ck_assert_ptr_null(no_session);
        status = hymba_session_reserve(session, lengths[i], &error);
        ck_assert_msg(status == HYMBA_ERROR_LIMIT || status == HYMBA_ERROR_MEMORY, "%s",
                      error.message);
        REFUSE("length", hymba_session_rewind, session, lengths[i], HYMBA_REWIND_COMPUTE, NULL);
        REFUSE("index", hymba_session_get_snapshot, session, huge[i], NULL);
        REFUSE_WITH(HYMBA_ERROR_STATE, "no snapshot", hymba_session_drop_snapshot, session,
                    lengths[i]);
        /* limits that are never reached */
        params = (hymba_session_params){.struct_size = sizeof params,
                                        .max_tokens = lengths[i],
                                        .snapshot_interval = lengths[i],
                                        .snapshot_budget = lengths[i],
                                        .memory_limit = lengths[i],
                                        .limit_policy = i == 0 ? HYMBA_LIMIT_SLIDE : 0};
        test_status(hymba_session_create(context, &params, &no_session, &error), HYMBA_OK, error);
        test_status(hymba_session_append(no_session, tokens, 4, HYMBA_LOGITS_ALL, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_snapshot(no_session, NULL, NULL, &error), HYMBA_OK, error);
        hymba_session_release(no_session);
    }
}
END_TEST

/* Room that the caller says it has is never more than what is written. */
START_TEST(capacities_without_end)
{
    char buffer[65536];
    int32_t ids[16];
    size_t n;
    test_status(hymba_tokenizer_encode(tokenizer, "abc", 3, 0, ids, SIZE_MAX, &n, &error), HYMBA_OK,
                error);
    ck_assert_uint_le(n, 16);
    test_status(hymba_tokenizer_decode(tokenizer, ids, n, 0, buffer, SIZE_MAX, &n, &error),
                HYMBA_OK, error);
    ck_assert_mem_eq(buffer, "abc", 3);
    test_status(hymba_sampler_state(sampler, buffer, SIZE_MAX, &n, &error), HYMBA_OK, error);
    test_status(hymba_preset_config("tiny", buffer, SIZE_MAX, &n, &error), HYMBA_OK, error);
    ck_assert_int_eq(buffer[0], '{');
}
END_TEST

/* ----------------------------------------------------- flags, enumerations */

START_TEST(flags_that_there_are_not)
{
    char buffer[8];
    int32_t ids[8];
    size_t n;
    for (unsigned bit = 0; bit < 32; bit++) {
        uint32_t flag = 1u << bit;
        hymba_model_params params = {.struct_size = sizeof params, .flags = flag};
        hymba_generation_params generation = {.struct_size = sizeof generation, .flags = flag};
        if (bit >= 3)
            REFUSE_WITH(HYMBA_ERROR_UNSUPPORTED, "flags", hymba_model_open, "x", &params,
                        &no_model);
        if (bit >= 2)
            REFUSE_WITH(HYMBA_ERROR_UNSUPPORTED, "flags", hymba_generation_create, session,
                        sampler, NULL, &generation, &no_generation);
        if (bit >= 2)
            REFUSE("flags", hymba_tokenizer_encode, tokenizer, "a", 1, flag, ids, 8, &n);
        if (bit >= 1)
            REFUSE("flags", hymba_tokenizer_decode, tokenizer, tokens, 1, flag, buffer, 8, &n);
    }
}
END_TEST

START_TEST(enumerations_out_of_range)
{
    static const int32_t bad[] = {-1, 3, 77, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        hymba_batch_item item = {session, tokens, 1, bad[i], 0, NULL, NULL};
        hymba_session_params params = {.struct_size = sizeof params, .limit_policy = bad[i]};
        hymba_context_params cache = {.struct_size = sizeof cache,
                                      .cache_type = bad[i] == 3 ? 5 : bad[i]};
        hymba_context_params state = {.struct_size = sizeof state,
                                      .state_type = bad[i] == 3 ? 4 : bad[i]};
        hymba_context_params compute = {.struct_size = sizeof compute,
                                        .compute = bad[i] == 3 ? 5 : bad[i]};
        hymba_init_params init = {.struct_size = sizeof init,
                                  .dtype = bad[i] == 3 ? 4 : bad[i]};
        hymba_memory_info memory = {.struct_size = sizeof memory};
        REFUSE("logits", hymba_session_append, session, tokens, 1, bad[i]);
        REFUSE("logits", hymba_context_decode, context, &item, sizeof item, 1);
        REFUSE("mode", hymba_session_rewind, session, 1, bad[i], NULL);
        REFUSE_TO_MAKE(no_session, "limit_policy", hymba_session_create, context, &params,
                       &no_session);
        REFUSE("limit_policy", hymba_session_load, context, "x", &params, &no_session, NULL, NULL);
        REFUSE_TO_MAKE(no_context, "cache_type", hymba_context_create, model, &cache, &no_context);
        REFUSE("cache_type", hymba_model_get_memory_info, model, &cache, &memory);
        REFUSE_TO_MAKE(no_context, "state_type", hymba_context_create, model, &state, &no_context);
        REFUSE_TO_MAKE(no_context, "compute", hymba_context_create, model, &compute, &no_context);
        REFUSE("dtype", hymba_model_init, "nowhere", "{}", 2, &init);
        hymba_quantize_params type = {.struct_size = sizeof type, .type = bad[i]};
        hymba_quantize_params method = {
            .struct_size = sizeof method, .method = bad[i] == 3 ? 4 : bad[i]};
        REFUSE("type", hymba_quantize, "examples/demo", "nowhere", &type);
        REFUSE("method", hymba_quantize, "examples/demo", "nowhere", &method);
        ck_assert_str_eq(hymba_stop_name(bad[i] == 3 ? 6 : bad[i]), "none");
        ck_assert_ptr_null(hymba_dtype_name(bad[i] == 3 ? 7 : bad[i]));
        ck_assert_uint_eq(hymba_dtype_size(bad[i] == 3 ? 7 : bad[i]), 0);
        ck_assert_str_eq(hymba_status_name(bad[i] == -1 ? 1 : bad[i]), "unknown status");
    }
}
END_TEST

/* One below and one above. */
START_TEST(numbers_with_a_largest_value)
{
    hymba_memory_info memory = {.struct_size = sizeof memory, .n_tokens = 1};
    char name[65];
    memset(name, 'n', sizeof name);
    hymba_context_params params = {.struct_size = sizeof params, .rewind_tokens = 1024,
                                   .n_threads = 1024, .max_step_tokens = 65536};
    test_status(hymba_model_get_memory_info(model, &params, &memory, &error), HYMBA_OK, error);
    params.rewind_tokens++;
    REFUSE("rewind_tokens", hymba_model_get_memory_info, model, &params, &memory);
    REFUSE_TO_MAKE(no_context, "rewind_tokens", hymba_context_create, model, &params, &no_context);
    params.rewind_tokens = 0;
    params.n_threads++;
    REFUSE("n_threads", hymba_model_get_memory_info, model, &params, &memory);
    REFUSE_TO_MAKE(no_context, "n_threads", hymba_context_create, model, &params, &no_context);
    params.n_threads = 1;
    params.max_step_tokens++;
    REFUSE("max_step_tokens", hymba_model_get_memory_info, model, &params, &memory);
    REFUSE_TO_MAKE(no_context, "max_step_tokens", hymba_context_create, model, &params,
                   &no_context);
    name[64] = '\0';
    REFUSE("name", hymba_session_snapshot, session, name, NULL);
    name[63] = '\0';
    test_status(hymba_session_snapshot(session, name, NULL, &error), HYMBA_OK, error);
    hymba_generation_params top = {.struct_size = sizeof top, .n_top = VOCABULARY + 1};
    REFUSE("n_top", hymba_generation_create, session, sampler, NULL, &top, &no_generation);
    top.n_top = VOCABULARY;
    test_status(hymba_generation_create(session, sampler, NULL, &top, &no_generation, &error),
                HYMBA_OK, error);
    hymba_generation_release(no_generation);
    hymba_scheduler_params requests = {.struct_size = sizeof requests, .max_requests = 65537};
    hymba_scheduler *scheduler;
    REFUSE("max_requests", hymba_scheduler_create, context, 1, &requests, &scheduler);
    REFUSE("token_budget", hymba_scheduler_create, context, 0, NULL, &scheduler);
    requests.max_requests = 65536;
    test_status(hymba_scheduler_create(context, 1, &requests, &scheduler, &error), HYMBA_OK,
                error);
    hymba_scheduler_release(scheduler);
}
END_TEST

/* ------------------------------------------------------------- hosts, floats */

static void *allocate_nothing(void *user, size_t size, size_t alignment)
{
    (void)user;
    (void)size;
    (void)alignment;
    return NULL;
}

START_TEST(half_an_allocator)
{
    hymba_host half = {.struct_size = sizeof half, .alloc = allocate_nothing};
    hymba_model_params params = {.struct_size = sizeof params, .host = &half};
    hymba_context_params of_context = {.struct_size = sizeof of_context, .host = &half};
    hymba_init_params init = {.struct_size = sizeof init, .host = &half};
    REFUSE_TO_MAKE(no_model, "host", hymba_model_open, "x", &params, &no_model);
    REFUSE_TO_MAKE(no_tokenizer, "host", hymba_tokenizer_open, "x", &half, &no_tokenizer);
    REFUSE_TO_MAKE(no_context, "host", hymba_context_create, model, &of_context, &no_context);
    REFUSE_TO_MAKE(no_sampler, "host", hymba_sampler_create, NULL, &half, &no_sampler);
    hymba_quantize_params quantize = {.struct_size = sizeof quantize, .host = &half};
    REFUSE("host", hymba_model_init, "nowhere", "{}", 2, &init);
    REFUSE("host", hymba_quantize, "examples/demo", "nowhere", &quantize);
    half.struct_size = 3;
    REFUSE_TO_MAKE(no_model, "struct_size", hymba_model_open, "x", &params, &no_model);
}
END_TEST

START_TEST(logits_that_are_no_numbers)
{
    float bad[VOCABULARY] = {0}, probability;
    int32_t token;
    bad[9] = NAN;
    REFUSE("logit 9", hymba_sampler_sample, sampler, bad, VOCABULARY, &token);
    REFUSE("logit 9", hymba_log_probabilities, bad, VOCABULARY, 0, &probability, NULL, 0);
    bad[9] = INFINITY;
    REFUSE("logit 9", hymba_sampler_sample, sampler, bad, VOCABULARY, &token);
    for (int i = 0; i < VOCABULARY; i++)
        bad[i] = -INFINITY;
    REFUSE("negative infinity", hymba_sampler_sample, sampler, bad, VOCABULARY, &token);
}
END_TEST

START_TEST(negative_numbers_for_a_sampler)
{
    static const hymba_sampler_params bad[] = {
        {.temperature = -1}, {.top_k = -1}, {.top_p = -0.5f}, {.min_p = -0.5f},
        {.repeat_penalty = -1}, {.repeat_last_n = -2}, {.typical_p = -1}, {.top_n_sigma = -1},
        {.xtc_probability = -1}, {.xtc_threshold = -1}, {.dry_multiplier = -1}, {.dry_base = -1},
        {.dry_allowed_length = -1}, {.dry_penalty_last_n = -2}, {.mirostat = -2},
        {.mirostat_tau = -1}, {.mirostat_eta = -1},
    };
    static const char *const names[] = {
        "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n", "typical_p",
        "top_n_sigma", "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base",
        "dry_allowed_length", "dry_penalty_last_n", "mirostat", "mirostat_tau", "mirostat_eta",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        hymba_sampler_params params = bad[i];
        params.struct_size = sizeof params;
        REFUSE_TO_MAKE(no_sampler, names[i], hymba_sampler_create, &params, NULL, &no_sampler);
    }
    hymba_logit_bias bias = {-1, 1};
    hymba_sampler_params params = {
        .struct_size = sizeof params, .logit_bias = &bias, .n_logit_bias = 1};
    REFUSE("logit_bias[0]", hymba_sampler_create, &params, NULL, &no_sampler);
    params = (hymba_sampler_params){
        .struct_size = sizeof params, .dry_breakers = &bias.token, .n_dry_breakers = 1};
    REFUSE("dry_breakers[0]", hymba_sampler_create, &params, NULL, &no_sampler);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("arguments");
    TCase *tests = tcase_create("arguments");
    tcase_set_timeout(tests, 300);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, null_to_models);
    tcase_add_test(tests, null_to_tokenizers);
    tcase_add_test(tests, null_to_contexts_and_sessions);
    tcase_add_test(tests, null_to_samplers_and_generations);
    tcase_add_test(tests, ids_outside_the_vocabulary);
    tcase_add_test(tests, ids_outside_the_tokenizer);
    tcase_add_test(tests, counts_that_were_negative);
    tcase_add_test(tests, lengths_that_were_negative);
    tcase_add_test(tests, capacities_without_end);
    tcase_add_test(tests, flags_that_there_are_not);
    tcase_add_test(tests, enumerations_out_of_range);
    tcase_add_test(tests, numbers_with_a_largest_value);
    tcase_add_test(tests, half_an_allocator);
    tcase_add_test(tests, logits_that_are_no_numbers);
    tcase_add_test(tests, negative_numbers_for_a_sampler);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
