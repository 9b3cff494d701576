/*
 * Random histories of sessions against recomputing from nothing: whatever was appended, forked,
 * snapshot, rewound, saved, loaded or reset, in whatever company, a session's logits are those of
 * a new session that is given its tokens.
 */
#include "golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SESSIONS = 4, MAX_TOKENS = 96, OPERATIONS = 14 };

static hymba_error error = {.struct_size = sizeof error};

static const char *const models[] = {
    "goldens/b_no_meta",     "goldens/c_all_sliding", "goldens/f_official_like",
    "variants/mixed_group",  "variants/mamba_only",   "variants/sequence",
    "variants/attention_only", "variants/window_one",
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
    struct subject subjects[MAX_SESSIONS];
    size_t n;
    size_t counts[10]; /* operations done, by kind */
};

static size_t vocabulary_of(const struct history *history)
{
    return history->golden.model->plan.config.vocabulary_size;
}

static hymba_context *make_context(const struct golden *golden, uint32_t rewind, uint32_t step)
{
    hymba_context_params params = {
        .struct_size = sizeof params,
        .n_threads = 1,
        .rewind_tokens = rewind,
        .max_step_tokens = step,
    };
    hymba_context *context;
    test_status(hymba_context_create(golden->model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

static void add_session(struct history *history)
{
    hymba_session_params params = {.struct_size = sizeof params};
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

/* Compares with a new session that is given the same tokens in one call. */
static void check_subject(struct history *history, struct subject *subject)
{
    hymba_session *session;
    const float *found, *expected;
    size_t rows;
    ck_assert_uint_eq(hymba_session_length(subject->session), subject->n);
    if (subject->n == 0)
        return;
    ck_assert_mem_eq(hymba_session_tokens(subject->session), subject->tokens,
                     subject->n * sizeof subject->tokens[0]);
    if (!subject->fresh) { /* one more token brings logits */
        if (subject->n == MAX_TOKENS)
            return;
        int32_t token = 3;
        test_status(hymba_session_append(subject->session, &token, 1, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
        subject->tokens[subject->n++] = token;
        subject->fresh = true;
    }
    test_status(hymba_session_create(history->reference, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, subject->tokens, subject->n, HYMBA_LOGITS_LAST,
                                     &error),
                HYMBA_OK, error);
    test_status(hymba_session_logits(session, &expected, &rows, &error), HYMBA_OK, error);
    test_status(hymba_session_logits(subject->session, &found, &rows, &error), HYMBA_OK, error);
    found += (rows - 1) * vocabulary_of(history);
    size_t best_found = 0, best_expected = 0;
    for (size_t i = 1; i < vocabulary_of(history); i++) {
        if (found[i] > found[best_found])
            best_found = i;
        if (expected[i] > expected[best_expected])
            best_expected = i;
    }
    ck_assert_uint_eq(best_found, best_expected);
    ck_assert_double_le(golden_difference(found, expected, vocabulary_of(history)), 1e-4);
    hymba_session_release(session);
}

/* ------------------------------------------------------------- operations */

static size_t new_tokens(const struct history *history, struct subject *subject)
{
    size_t room = MAX_TOKENS - subject->n;
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
                                              HYMBA_LOGITS_LAST, 0};
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

enum operation { APPEND, BATCH, FORK, SNAPSHOT, REWIND, TO_SNAPSHOT, SAVE, RESET, REMOVE };

static void operate(struct history *history)
{
    static const enum operation weights[] = {APPEND, APPEND, APPEND, BATCH,    BATCH,
                                             FORK,   SNAPSHOT, SNAPSHOT, REWIND, REWIND,
                                             REWIND, TO_SNAPSHOT, TO_SNAPSHOT, SAVE, RESET,
                                             REMOVE};
    enum operation operation =
        weights[test_random_below(sizeof weights / sizeof weights[0])];
    size_t i = test_random_below(history->n);
    struct subject *subject = &history->subjects[i];
    history->counts[operation]++;
    switch (operation) {
    case APPEND:
        append(history, subject);
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
    return getenv("HYMBA_LONG") ? 10000 / N_MODELS : 60;
}

START_TEST(random_histories_equal_recomputing)
{
    struct history *history = calloc(1, sizeof *history);
    golden_open(&history->golden, models[_i]);
    history->reference = make_context(&history->golden, 0, 0);
    int n = histories();
    for (int h = 0; h < n; h++) {
        static const uint32_t rewinds[] = {0, 1, 3, 8};
        test_random_seed((unsigned)(h * N_MODELS + _i + 1));
        history->context = make_context(&history->golden, rewinds[test_random_below(4)],
                                        test_random_below(2) ? 0 : 6);
        add_session(history);
        if (test_random_below(2))
            add_session(history);
        for (int k = 0; k < OPERATIONS; k++)
            operate(history);
        while (history->n > 0) {
            check_subject(history, &history->subjects[0]);
            remove_session(history, 0);
        }
        hymba_context_release(history->context);
    }
    printf("%s: %d histories\n", models[_i], n);
    hymba_context_release(history->reference);
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
