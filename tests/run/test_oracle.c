/*
 * Random histories of sessions against recomputing from nothing: whatever was appended, forked,
 * snapshot, rewound, saved, loaded or reset, in whatever company, a session's logits are those of
 * a new session that is given its tokens, and both go on with the same tokens.
 */
#include "golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_SESSIONS = 4,
    OPERATIONS = 14,
    SHORT = 96,      /* most tokens of a session, mostly; far beyond the windows */
    LONG = 320,      /* the same in some histories, which begin near a block's end */
    LONG_BEGIN = 245,
    GREEDY = 4,      /* tokens that are decoded at the end */
    MAX_TOKENS = LONG + 1 + GREEDY
};

static hymba_error error = {.struct_size = sizeof error};

static const char *const models[] = {
    "goldens/b_no_meta",       "goldens/c_all_sliding", "goldens/d_all_full",
    "goldens/f_official_like", "variants/mixed_group",  "variants/mamba_only",
    "variants/sequence",       "variants/window_one",   "variants/attention_only",
    "variants/concat",
};
enum { N_MODELS = sizeof models / sizeof models[0] };

/* A session and what it should hold. */
struct subject {
    hymba_session *session;
    int32_t tokens[MAX_TOKENS];
    size_t n;
    bool fresh; /* the logits of its last token are there */
};

struct history {
    struct golden golden;
    hymba_context *context, *reference;
    hymba_session_params params; /* of all its sessions, but for the snapshots */
    struct subject subjects[MAX_SESSIONS];
    size_t n;
    size_t limit;                /* most tokens of a session, until the comparison */
    size_t n_operations, n_compared;
    double worst;                /* largest difference of logits */
};

static size_t vocabulary_of(const struct history *history)
{
    return history->golden.model->plan.config.vocabulary_size;
}

static hymba_context *make_context(const struct golden *golden, hymba_dtype cache_type,
                                   uint32_t rewind, uint32_t step)
{
    hymba_context_params params = {
        .struct_size = sizeof params,
        .n_threads = 1,
        .cache_type = cache_type,
        .rewind_tokens = rewind,
        .max_step_tokens = step,
    };
    hymba_context *context;
    test_status(hymba_context_create(golden->model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

static void add_session(struct history *history)
{
    hymba_session_params params = history->params;
    struct subject *subject = &history->subjects[history->n++];
    memset(subject, 0, sizeof *subject);
    params.snapshot_interval = test_random_below(3) ? 0 : 1 + test_random_below(20);
    test_status(hymba_session_create(history->context, &params, &subject->session, &error),
                HYMBA_OK, error);
}

static void remove_session(struct history *history, size_t i)
{
    hymba_session_release(history->subjects[i].session);
    history->subjects[i] = history->subjects[--history->n];
}

static size_t best_token(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static const float *last_logits(const struct history *history, const hymba_session *session)
{
    const float *logits;
    size_t rows;
    test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
    return logits + (rows - 1) * vocabulary_of(history);
}

static void append_one(hymba_session *session, int32_t token)
{
    test_status(hymba_session_append(session, &token, 1, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
}

/* Both have the same logits, and the tokens they choose lead to the same logits again. */
static void compare(struct history *history, hymba_session *found, hymba_session *expected)
{
    size_t vocabulary = vocabulary_of(history);
    for (int i = 0; i <= GREEDY; i++) {
        const float *a = last_logits(history, found), *b = last_logits(history, expected);
        size_t token = best_token(b, vocabulary);
        double difference = golden_difference(a, b, vocabulary);
        history->worst = difference > history->worst ? difference : history->worst;
        ck_assert_double_le(difference, 1e-4);
        ck_assert_uint_eq(best_token(a, vocabulary), token);
        if (i == GREEDY)
            break;
        append_one(found, (int32_t)token);
        append_one(expected, (int32_t)token);
    }
    history->n_compared++;
}

/* Compares with a new session that is given the same tokens in one call. */
static void check_subject(struct history *history, struct subject *subject)
{
    hymba_session *session;
    ck_assert_uint_eq(hymba_session_length(subject->session), subject->n);
    if (subject->n == 0)
        return;
    ck_assert_mem_eq(hymba_session_tokens(subject->session), subject->tokens,
                     subject->n * sizeof subject->tokens[0]);
    if (!subject->fresh) { /* one more token brings logits */
        subject->tokens[subject->n++] = 3;
        append_one(subject->session, 3);
    }
    test_status(hymba_session_create(history->reference, &history->params, &session, &error),
                HYMBA_OK, error);
    test_status(hymba_session_append(session, subject->tokens, subject->n, HYMBA_LOGITS_LAST,
                                     &error),
                HYMBA_OK, error);
    compare(history, subject->session, session);
    hymba_session_release(session);
}

/* ------------------------------------------------------------- operations */

static size_t new_tokens(const struct history *history, struct subject *subject)
{
    size_t room = history->limit - subject->n;
    size_t n = test_random_below(3) ? 1 + test_random_below(4) : 1 + test_random_below(40);
    n = n < room ? n : room;
    for (size_t i = 0; i < n; i++)
        subject->tokens[subject->n + i] = (int32_t)test_random_below(vocabulary_of(history));
    return n;
}

static void append(struct history *history, struct subject *subject)
{
    size_t n = new_tokens(history, subject);
    int32_t logits = (int32_t)test_random_below(3);
    if (n == 0)
        return;
    test_status(hymba_session_append(subject->session, subject->tokens + subject->n, n, logits,
                                     &error),
                HYMBA_OK, error);
    subject->n += n;
    subject->fresh = logits != HYMBA_LOGITS_NONE;
}

/* As a generation does: a few tokens one by one, each chosen by the logits of the last. */
static void decode(struct history *history, struct subject *subject)
{
    size_t n = 1 + test_random_below(4);
    for (; n > 0 && subject->fresh && subject->n < history->limit; n--) {
        const float *logits = last_logits(history, subject->session);
        int32_t token = (int32_t)best_token(logits, vocabulary_of(history));
        append_one(subject->session, token);
        subject->tokens[subject->n++] = token;
    }
}

static void decode_together(struct history *history)
{
    hymba_batch_item items[MAX_SESSIONS];
    size_t n_items = 0;
    struct subject *members[MAX_SESSIONS];
    for (size_t i = 0; i < history->n; i++) {
        struct subject *subject = &history->subjects[i];
        size_t n = new_tokens(history, subject);
        if (n == 0)
            continue;
        members[n_items] = subject;
        items[n_items++] = (hymba_batch_item){subject->session, subject->tokens + subject->n, n,
                                              HYMBA_LOGITS_LAST, 0, NULL, NULL};
    }
    if (n_items == 0)
        return;
    test_status(hymba_context_decode(history->context, items, sizeof items[0], n_items, &error),
                HYMBA_OK, error);
    for (size_t i = 0; i < n_items; i++) {
        members[i]->n += items[i].n_tokens;
        members[i]->fresh = true;
    }
}

static void fork_session(struct history *history, size_t i)
{
    hymba_reuse_info info = {.struct_size = sizeof info};
    if (history->n == MAX_SESSIONS)
        remove_session(history, i == 0 ? history->n - 1 : 0);
    if (i >= history->n)
        i = 0;
    struct subject *from = &history->subjects[i], *to = &history->subjects[history->n++];
    *to = *from;
    test_status(hymba_session_fork(from->session, &to->session, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.reused_tokens, from->n);
    ck_assert_uint_eq(info.computed_tokens, 0);
}

/* Whether rewinding brought logits is seen from the session itself. */
static void note_logits(struct subject *subject)
{
    const float *logits;
    size_t rows;
    subject->fresh = hymba_session_logits(subject->session, &logits, &rows, NULL) == HYMBA_OK;
}

static void rewind_session(struct subject *subject)
{
    hymba_reuse_info info = {.struct_size = sizeof info};
    size_t length = test_random_below(2) ? test_random_below(subject->n + 1)
                                         : subject->n - test_random_below(4) % (subject->n + 1);
    int32_t mode = (int32_t)test_random_below(2);
    hymba_status status =
        hymba_session_rewind(subject->session, length, mode, &info, &error);
    if (mode == HYMBA_REWIND_KEPT && status == HYMBA_ERROR_STATE)
        return; /* refused by name, and nothing changed: the check at the end sees it */
    test_status(status, HYMBA_OK, error);
    ck_assert_uint_eq(info.reused_tokens + info.computed_tokens, length);
    if (mode == HYMBA_REWIND_KEPT)
        ck_assert_uint_eq(info.computed_tokens, 0);
    if (length < subject->n) {
        subject->n = length;
        note_logits(subject);
    }
}

static void rewind_to_snapshot(struct subject *subject)
{
    hymba_snapshot_info snapshot = {.struct_size = sizeof snapshot};
    hymba_reuse_info info = {.struct_size = sizeof info};
    size_t count = hymba_session_snapshot_count(subject->session);
    if (count == 0)
        return;
    test_status(hymba_session_get_snapshot(subject->session, test_random_below(count), &snapshot,
                                           &error),
                HYMBA_OK, error);
    bool stays = snapshot.length == subject->n;
    test_status(hymba_session_rewind(subject->session, snapshot.length, HYMBA_REWIND_KEPT, &info,
                                     &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(info.reused_tokens, snapshot.length);
    ck_assert_uint_eq(info.computed_tokens, 0);
    subject->n = (size_t)snapshot.length;
    if (!stays) {
        note_logits(subject);
        if (snapshot.has_logits)
            ck_assert(subject->fresh);
    }
}

static void save_and_load(struct history *history, struct subject *subject)
{
    char path[256];
    hymba_session *loaded;
    hymba_sampler *sampler;
    hymba_reuse_info info = {.struct_size = sizeof info};
    snprintf(path, sizeof path, "%s/session", test_directory());
    test_status(hymba_session_save(subject->session, NULL, path, &info, &error), HYMBA_OK, error);
    test_status(hymba_session_load(history->context, path, NULL, &loaded, &sampler, &info, &error),
                HYMBA_OK, error);
    ck_assert_ptr_null(sampler);
    ck_assert_uint_eq(info.reused_tokens, subject->n);
    ck_assert_uint_eq(info.computed_tokens, 0);
    ck_assert_uint_eq(hymba_session_snapshot_count(loaded),
                      hymba_session_snapshot_count(subject->session));
    hymba_session_release(subject->session);
    subject->session = loaded;
    note_logits(subject);
}

enum operation { APPEND, DECODE, BATCH, FORK, SNAPSHOT, REWIND, TO_SNAPSHOT, SAVE, RESET, REMOVE };

static void operate(struct history *history)
{
    static const enum operation weights[] = {
        APPEND, APPEND, APPEND, DECODE,      DECODE,      BATCH, BATCH, FORK,  SNAPSHOT,
        SNAPSHOT, REWIND, REWIND, REWIND, TO_SNAPSHOT, TO_SNAPSHOT, SAVE, RESET, REMOVE};
    enum operation operation =
        weights[test_random_below(sizeof weights / sizeof weights[0])];
    size_t i = test_random_below(history->n);
    struct subject *subject = &history->subjects[i];
    history->n_operations++;
    switch (operation) {
    case APPEND:
        append(history, subject);
        break;
    case DECODE:
        decode(history, subject);
        break;
    case BATCH:
        decode_together(history);
        break;
    case FORK:
        fork_session(history, i);
        break;
    case SNAPSHOT:
        test_status(hymba_session_snapshot(subject->session, "here", NULL, &error), HYMBA_OK,
                    error);
        break;
    case REWIND:
        rewind_session(subject);
        break;
    case TO_SNAPSHOT:
        rewind_to_snapshot(subject);
        break;
    case SAVE:
        save_and_load(history, subject);
        break;
    case RESET:
        if (test_random_below(3))
            break;
        test_status(hymba_session_reset(subject->session, &error), HYMBA_OK, error);
        subject->n = 0;
        subject->fresh = false;
        break;
    case REMOVE:
        if (history->n > 1)
            remove_session(history, i);
        break;
    }
}

/* How many histories a model gets: 10,000 in all in the long form. */
static int histories(void)
{
    if (getenv("HYMBA_LONG"))
        return 10000 / N_MODELS;
    return test_is_slow() ? 20 : 60;
}

/* A kind of history: how its sessions are made and how long they get. */
static void begin_history(struct history *history, hymba_dtype cache_type)
{
    static const uint32_t rewinds[] = {0, 1, 3, 8};
    history->context = make_context(&history->golden, cache_type, rewinds[test_random_below(4)],
                                    test_random_below(2) ? 0 : 6);
    history->limit = test_random_below(8) ? SHORT : LONG;
    history->params = (hymba_session_params){.struct_size = sizeof history->params};
    if (test_random_below(4) == 0) {
        history->params.limit_policy = HYMBA_LIMIT_SLIDE;
        history->params.max_tokens = 1 + test_random_below(50);
    }
    add_session(history);
    if (test_random_below(2))
        add_session(history);
    if (history->limit == LONG) {
        struct subject *subject = &history->subjects[0];
        for (; subject->n < LONG_BEGIN; subject->n++)
            subject->tokens[subject->n] = (int32_t)test_random_below(vocabulary_of(history));
        test_status(hymba_session_append(subject->session, subject->tokens, subject->n,
                                         HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
        subject->fresh = true;
    }
}

START_TEST(random_histories_equal_recomputing)
{
    static const hymba_dtype types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                                        HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8};
    enum { N_TYPES = sizeof types / sizeof types[0] };
    struct history *history = calloc(1, sizeof *history);
    hymba_context *references[N_TYPES];
    golden_open(&history->golden, models[_i]);
    for (size_t i = 0; i < N_TYPES; i++)
        references[i] = make_context(&history->golden, types[i], 0, 0);
    int n = histories();
    for (int h = 0; h < n; h++) {
        test_random_seed((unsigned)(h * N_MODELS + _i + 1));
        size_t type = test_random_below(2) ? 0 : test_random_below(N_TYPES);
        history->reference = references[type];
        begin_history(history, types[type]);
        for (int k = 0; k < OPERATIONS; k++)
            operate(history);
        while (history->n > 0) {
            check_subject(history, &history->subjects[0]);
            remove_session(history, 0);
        }
        hymba_context_release(history->context);
    }
    printf("oracle: %s: %d histories, %zu operations, %zu sessions compared, logits differ by at "
           "most %g\n",
           models[_i], n, history->n_operations, history->n_compared, history->worst);
    for (size_t i = 0; i < N_TYPES; i++)
        hymba_context_release(references[i]);
    golden_close(&history->golden);
    free(history);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("oracle");
    TCase *tests = tcase_create("oracle");
    tcase_set_timeout(tests, 1800);
    tcase_add_loop_test(tests, random_histories_equal_recomputing, 0, N_MODELS);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
