/*
 * Calls on a whole tiny model: the input is a history of sessions (append, batch, fork, snapshot,
 * go back, save and load, sample, generate, ...) with good and bad arguments and, now and then, an
 * allocation refused. At the end every session must be, to the bit, what a new one with its tokens
 * is.
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

enum { MAX_SESSIONS = 4, MAX_TOKENS = 400, MAX_STEPS = 48, N_MODELS = 5 };

static const char *const model_names[N_MODELS] = {
    "variants/no_rope", "variants/window_one", "variants/attention_only", "variants/mamba_only",
    "variants/sequence",
};

static struct fuzz_host model_host;
static hymba_model *models[N_MODELS];

struct subject {
    hymba_session *session;
    int32_t tokens[MAX_TOKENS + 64];
    size_t n;
};

struct history {
    struct fuzz_input input;
    struct fuzz_host host;
    hymba_context *context;
    hymba_sampler *sampler;
    uint32_t vocabulary;
    struct subject subjects[MAX_SESSIONS];
    size_t n;
    hymba_error error;
};

/* Two thirds of the ids are inside the vocabulary of the smallest model, the others anywhere. */
static int32_t read_token(struct history *history)
{
    uint8_t byte = fuzz_byte(&history->input);
    if (byte == 255)
        return (int32_t)fuzz_number(&history->input, 4);
    return (int32_t)(byte % history->vocabulary);
}

static void refuse_allocations(struct history *history)
{
    uint8_t byte = fuzz_byte(&history->input);
    fuzz_host_fail_at(&history->host, byte & 0xC0 ? 0 : byte & 31, byte & 32);
}

/* ------------------------------------------------------------- operations */

static size_t read_tokens(struct history *history, int32_t tokens[64])
{
    size_t n = fuzz_byte(&history->input) % 64;
    bool spread = n >= 32; /* long runs need no byte for each token */
    int32_t first = read_token(history);
    for (size_t i = 0; i < n; i++)
        tokens[i] = spread ? (int32_t)(((uint32_t)first + i * 13) % history->vocabulary)
                           : (i ? read_token(history) : first);
    return n;
}

static void add_tokens(struct subject *subject, const int32_t *tokens, size_t n)
{
    memcpy(subject->tokens + subject->n, tokens, n * sizeof *tokens);
    subject->n += n;
}

static void do_append(struct history *history, struct subject *subject)
{
    int32_t tokens[64];
    size_t n = read_tokens(history, tokens);
    int32_t logits = fuzz_byte(&history->input) % 4;
    if (subject->n >= MAX_TOKENS)
        return;
    hymba_status status =
        hymba_session_append(subject->session, tokens, n, logits, &history->error);
    fuzz_check(status, &history->error);
    if (status == HYMBA_OK)
        add_tokens(subject, tokens, n);
}

static void do_score(struct history *history, struct subject *subject)
{
    int32_t tokens[64];
    float scores[64];
    size_t n = read_tokens(history, tokens);
    if (subject->n >= MAX_TOKENS)
        return;
    hymba_status status =
        hymba_session_score(subject->session, tokens, n, scores, &history->error);
    fuzz_check(status, &history->error);
    if (status == HYMBA_OK)
        add_tokens(subject, tokens, n);
}

/* Any sessions, the same one twice among them. */
static void do_batch(struct history *history)
{
    hymba_batch_item items[MAX_SESSIONS] = {{0}};
    struct subject *subjects[MAX_SESSIONS];
    int32_t tokens[MAX_SESSIONS][64];
    size_t n = fuzz_byte(&history->input) % (MAX_SESSIONS + 1);
    for (size_t i = 0; i < n; i++) {
        subjects[i] = &history->subjects[fuzz_byte(&history->input) % history->n];
        items[i].session = subjects[i]->session;
        items[i].tokens = tokens[i];
        items[i].n_tokens = read_tokens(history, tokens[i]);
        items[i].logits = fuzz_byte(&history->input) % 4;
        if (subjects[i]->n >= MAX_TOKENS)
            return;
    }
    hymba_status status =
        hymba_context_decode(history->context, items, sizeof items[0], n, &history->error);
    fuzz_check(status, &history->error);
    for (size_t i = 0; status == HYMBA_OK && i < n; i++)
        add_tokens(subjects[i], tokens[i], items[i].n_tokens);
}

static void do_create(struct history *history)
{
    hymba_session_params params = {.struct_size = sizeof params};
    if (history->n == MAX_SESSIONS)
        return;
    params.max_tokens = fuzz_byte(&history->input) % 2 ? 0 : fuzz_number(&history->input, 2);
    params.limit_policy = fuzz_byte(&history->input) % 3;
    if (params.limit_policy == HYMBA_LIMIT_SLIDE)
        params.limit_policy = HYMBA_LIMIT_STOP; /* what it drops, a new session would not */
    params.reserve_tokens = fuzz_byte(&history->input);
    params.snapshot_interval = fuzz_byte(&history->input) % 40;
    params.snapshot_budget = (uint64_t)fuzz_byte(&history->input) << 11;
    params.memory_limit = (uint64_t)fuzz_byte(&history->input) << 13;
    struct subject *subject = &history->subjects[history->n];
    subject->n = 0;
    hymba_status status = hymba_session_create(history->context, &params, &subject->session,
                                               &history->error);
    fuzz_check(status, &history->error);
    history->n += status == HYMBA_OK;
}

static void do_release(struct history *history, struct subject *subject)
{
    if (history->n == 1)
        return;
    hymba_session_release(subject->session);
    *subject = history->subjects[--history->n];
}

static void do_fork(struct history *history, struct subject *subject)
{
    if (history->n == MAX_SESSIONS)
        return;
    struct subject *fork = &history->subjects[history->n];
    *fork = *subject;
    hymba_status status =
        hymba_session_fork(subject->session, &fork->session, NULL, &history->error);
    fuzz_check(status, &history->error);
    history->n += status == HYMBA_OK;
}

static void do_snapshot(struct history *history, struct subject *subject)
{
    char name[80] = {0};
    memset(name, 'n', fuzz_byte(&history->input) % sizeof name);
    fuzz_check(hymba_session_snapshot(subject->session, name[0] ? name : NULL, NULL,
                                      &history->error),
               &history->error);
}

static void do_drop(struct history *history, struct subject *subject)
{
    hymba_snapshot_info info = {.struct_size = sizeof info};
    size_t count = hymba_session_snapshot_count(subject->session);
    size_t index = fuzz_byte(&history->input) % (count + 1);
    hymba_status status =
        hymba_session_get_snapshot(subject->session, index, &info, &history->error);
    fuzz_check(status, &history->error);
    fuzz_check(hymba_session_drop_snapshot(subject->session, info.length, &history->error),
               &history->error);
}

static void do_rewind(struct history *history, struct subject *subject)
{
    uint64_t length = fuzz_number(&history->input, 2);
    int32_t mode = fuzz_byte(&history->input) % 3;
    length = length == 0xFFFF ? UINT64_MAX : length % (subject->n + 2);
    hymba_status status =
        hymba_session_rewind(subject->session, length, mode, NULL, &history->error);
    fuzz_check(status, &history->error);
    if (status == HYMBA_OK)
        subject->n = (size_t)length;
}

static void do_reset(struct history *history, struct subject *subject)
{
    hymba_status status = hymba_session_reset(subject->session, &history->error);
    fuzz_check(status, &history->error);
    if (status == HYMBA_OK)
        subject->n = 0;
}

static void do_save(struct history *history, struct subject *subject)
{
    struct fuzz_file file = {0};
    hymba_session *loaded;
    hymba_sampler *sampler = NULL;
    hymba_status status = hymba_session_save_to(subject->session, history->sampler, fuzz_write,
                                                &file, NULL, &history->error);
    fuzz_check(status, &history->error);
    if (status == HYMBA_OK) {
        status = hymba_session_load_memory(history->context, file.data, file.size, NULL, &loaded,
                                           &sampler, NULL, &history->error);
        fuzz_check(status, &history->error);
        fuzz_require(status != HYMBA_ERROR_FORMAT, "a session that was saved does not load");
    }
    if (status == HYMBA_OK) {
        hymba_session_release(subject->session);
        subject->session = loaded;
        hymba_sampler_release(history->sampler);
        history->sampler = sampler;
    }
    fuzz_file_free(&file);
}

static void do_sample(struct history *history, struct subject *subject)
{
    const float *logits;
    size_t rows;
    int32_t token;
    hymba_status status =
        hymba_session_logits(subject->session, &logits, &rows, &history->error);
    fuzz_check(status, &history->error);
    if (status == HYMBA_OK && history->sampler)
        fuzz_check(hymba_sampler_sample(history->sampler, logits, history->vocabulary, &token,
                                        &history->error),
                   &history->error);
}

static void do_make_sampler(struct history *history)
{
    struct fuzz_input *input = &history->input;
    hymba_sampler_params params = {.struct_size = sizeof params, .seed = fuzz_byte(input)};
    hymba_sampler *sampler;
    params.temperature = (float)(int8_t)fuzz_byte(input) / 32;
    params.top_k = (int8_t)fuzz_byte(input);
    params.top_p = (float)fuzz_byte(input) / 250;
    params.min_p = (float)fuzz_byte(input) / 250;
    params.repeat_penalty = (float)(int8_t)fuzz_byte(input) / 16;
    params.repeat_last_n = (int8_t)fuzz_byte(input);
    hymba_status status =
        hymba_sampler_create(&params, &history->host.host, &sampler, &history->error);
    fuzz_check(status, &history->error);
    if (status != HYMBA_OK)
        return;
    hymba_sampler_release(history->sampler);
    history->sampler = sampler;
}

static void do_generate(struct history *history, struct subject *subject)
{
    hymba_generation_params params = {.struct_size = sizeof params, .max_tokens = 4};
    hymba_event event = {.struct_size = sizeof event};
    hymba_generation *generation;
    params.flags = fuzz_byte(&history->input) % 3;
    if (!history->sampler || subject->n >= MAX_TOKENS)
        return;
    hymba_status status = hymba_generation_create(subject->session, history->sampler, NULL,
                                                  &params, &generation, &history->error);
    fuzz_check(status, &history->error);
    for (int i = 0; status == HYMBA_OK && i < 6; i++) {
        status = hymba_generation_next(generation, &event, &history->error);
        fuzz_check(status, &history->error);
    }
    hymba_generation_release(generation);
    /* how many of its tokens are in the session the generation decides */
    subject->n = (size_t)hymba_session_length(subject->session);
    if (subject->n > 0)
        memcpy(subject->tokens, hymba_session_tokens(subject->session),
               subject->n * sizeof subject->tokens[0]);
}

static void do_reserve(struct history *history, struct subject *subject)
{
    uint64_t n = fuzz_number(&history->input, 2);
    n = n & 0x8000 ? UINT64_MAX - n : n;
    fuzz_check(hymba_session_reserve(subject->session, n, &history->error), &history->error);
}

static void step(struct history *history)
{
    uint8_t operation = fuzz_byte(&history->input) % 20;
    struct subject *subject = &history->subjects[fuzz_byte(&history->input) % history->n];
    hymba_session_info info = {.struct_size = sizeof info};
    switch (operation) {
    case 0: do_score(history, subject); break;
    case 1: do_batch(history); break;
    case 2: do_create(history); break;
    case 3: do_release(history, subject); break;
    case 4: do_fork(history, subject); break;
    case 5: do_snapshot(history, subject); break;
    case 6: do_drop(history, subject); break;
    case 7: do_rewind(history, subject); break;
    case 8: do_reset(history, subject); break;
    case 9: do_save(history, subject); break;
    case 10: do_sample(history, subject); break;
    case 11: do_make_sampler(history); break;
    case 12: do_generate(history, subject); break;
    case 13: do_reserve(history, subject); break;
    case 14: hymba_context_cancel(history->context); break;
    case 15: refuse_allocations(history); break;
    case 16: do_rewind(history, subject); break;
    default: do_append(history, subject); break;
    }
    for (size_t i = 0; i < history->n; i++) {
        const struct subject *each = &history->subjects[i];
        fuzz_check(hymba_session_get_info(each->session, &info, &history->error),
                   &history->error);
        fuzz_require(info.length == each->n, "a session of another length");
    }
}

/* ------------------------------------------------------------------ whole */

/* What its tokens make of a session, one more appended to each. */
static void compare(struct history *history, struct subject *subject)
{
    const float *found, *expected;
    size_t rows;
    int32_t token = 5;
    hymba_session *fresh;
    hymba_session_params params = {.struct_size = sizeof params};
    hymba_session_info info = {.struct_size = sizeof info};
    fuzz_require(subject->n == 0 || memcmp(hymba_session_tokens(subject->session),
                                           subject->tokens, subject->n * sizeof token) == 0,
                 "a session with other tokens");
    fuzz_require(hymba_session_get_info(subject->session, &info, NULL) == HYMBA_OK, "no figures");
    if (hymba_session_append(subject->session, &token, 1, HYMBA_LOGITS_LAST, &history->error) !=
        HYMBA_OK)
        return; /* at its limit */
    subject->tokens[subject->n++] = token;
    fuzz_require(hymba_session_create(history->context, &params, &fresh, NULL) == HYMBA_OK &&
                     hymba_session_append(fresh, subject->tokens, subject->n, HYMBA_LOGITS_LAST,
                                          NULL) == HYMBA_OK &&
                     hymba_session_logits(fresh, &expected, &rows, NULL) == HYMBA_OK &&
                     hymba_session_logits(subject->session, &found, &rows, NULL) == HYMBA_OK,
                 "no session to compare with");
    fuzz_require(memcmp(found, expected, history->vocabulary * sizeof *found) == 0,
                 "other logits than those of the same tokens in a new session");
    hymba_session_release(fresh);
}

static hymba_model *choose_model(uint8_t byte, uint32_t *vocabulary)
{
    hymba_model_info info = {.struct_size = sizeof info};
    hymba_model **model = &models[byte % N_MODELS];
    if (!*model) {
        fuzz_host_init(&model_host);
        *model = fuzz_open_model(model_names[byte % N_MODELS], &model_host.host);
    }
    fuzz_require(hymba_model_get_info(*model, &info, NULL) == HYMBA_OK, "no figures");
    *vocabulary = info.vocabulary_size;
    return *model;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct history history;
    memset(&history, 0, sizeof history);
    history.input = (struct fuzz_input){data, size, 0};
    hymba_error_init(&history.error, sizeof history.error);
    fuzz_host_init(&history.host);
    hymba_model *model = choose_model(fuzz_byte(&history.input), &history.vocabulary);
    hymba_context_params params = {.struct_size = sizeof params,
                                   .n_threads = 1,
                                   .host = &history.host.host,
                                   .memory_limit = 64 << 20};
    params.max_step_tokens = 1 + fuzz_byte(&history.input) % 40;
    params.rewind_tokens = fuzz_byte(&history.input) % 12;
    fuzz_require(hymba_context_create(model, &params, &history.context, NULL) == HYMBA_OK,
                 "no context");
    fuzz_require(hymba_session_create(history.context, NULL, &history.subjects[0].session,
                                      NULL) == HYMBA_OK,
                 "no session");
    history.n = 1;
    for (int i = 0; i < MAX_STEPS && history.input.place < size; i++)
        step(&history);
    fuzz_host_fail_at(&history.host, 0, false);
    for (size_t i = 0; i < history.n; i++)
        compare(&history, &history.subjects[i]);
    for (size_t i = 0; i < history.n; i++)
        hymba_session_release(history.subjects[i].session);
    hymba_sampler_release(history.sampler);
    hymba_context_release(history.context);
    fuzz_require(history.host.live == 0, "memory that did not come back");
    return 0;
}
