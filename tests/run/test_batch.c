/*
 * What the library promises about cuts and batches: to the bit the same result for any division
 * of a sequence into calls and steps, for any number of threads, and alone or among others.
 * HYMBA_LONG=1: with generic C all types of cache of all models.
 */
#include "golden.h"

#include <stdlib.h>
#include <string.h>

enum { N_SESSIONS = 5, MAX_TOKENS = 160 };

static const char *const models[] = {
    "goldens/a_all_features", "goldens/b_no_meta",    "goldens/d_all_full",
    "goldens/f_official_like", "variants/mamba_only", "variants/mixed_group",
    "variants/window_one",
};
enum { N_MODELS = sizeof models / sizeof models[0] };

static hymba_error error = {.struct_size = sizeof error};

static int32_t tokens[N_SESSIONS][MAX_TOKENS];
static size_t lengths[N_SESSIONS];

static void make_tokens(const struct golden *golden, unsigned seed)
{
    size_t vocabulary = golden->model->plan.config.vocabulary_size;
    test_random_seed(seed);
    for (int s = 0; s < N_SESSIONS; s++) {
        lengths[s] = 1 + test_random_below(MAX_TOKENS);
        for (size_t i = 0; i < MAX_TOKENS; i++)
            tokens[s][i] = (int32_t)test_random_below(vocabulary);
    }
}

static hymba_context *make_context(const struct golden *golden, hymba_context_params params)
{
    hymba_context *context;
    params.struct_size = sizeof params;
    test_status(hymba_context_create(golden->model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

static hymba_session *make_session(hymba_context *context)
{
    hymba_session *session;
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    return session;
}

static const float *logits_of(const hymba_session *session, size_t *rows)
{
    const float *logits;
    test_status(hymba_session_logits(session, &logits, rows, &error), HYMBA_OK, error);
    return logits;
}

static void append(hymba_session *session, const int32_t *ids, size_t n, int32_t logits)
{
    test_status(hymba_session_append(session, ids, n, logits, &error), HYMBA_OK, error);
}

/* Logits of all tokens of sequence s, computed in one call. From malloc. */
static float *whole(hymba_context *context, int s, size_t vocabulary)
{
    hymba_session *session = make_session(context);
    size_t rows;
    append(session, tokens[s], lengths[s], HYMBA_LOGITS_ALL);
    const float *logits = logits_of(session, &rows);
    float *copy = malloc(rows * vocabulary * sizeof *copy);
    memcpy(copy, logits, rows * vocabulary * sizeof *copy);
    hymba_session_release(session);
    return copy;
}

static void check_rows(const hymba_session *session, const float *expected, size_t first,
                       size_t vocabulary)
{
    size_t rows;
    const float *logits = logits_of(session, &rows);
    ck_assert_msg(memcmp(logits, expected + first * vocabulary,
                         rows * vocabulary * sizeof *logits) == 0,
                  "rows from %zu on differ", first);
}

/* All sequences, in random batches of random pieces, against each computed whole. */
static void check_batches(const struct golden *golden, hymba_context_params reference_params,
                          hymba_context_params params)
{
    size_t vocabulary = golden->model->plan.config.vocabulary_size;
    hymba_context *reference = make_context(golden, reference_params);
    hymba_context *context = make_context(golden, params);
    hymba_session *sessions[N_SESSIONS];
    float *expected[N_SESSIONS];
    size_t done[N_SESSIONS] = {0}, finished = 0;
    for (int s = 0; s < N_SESSIONS; s++) {
        sessions[s] = make_session(context);
        expected[s] = whole(reference, s, vocabulary);
    }
    while (finished < N_SESSIONS) {
        hymba_batch_item items[N_SESSIONS];
        int members[N_SESSIONS];
        size_t n = 0;
        for (int s = 0; s < N_SESSIONS; s++) {
            size_t left = lengths[s] - done[s];
            if (left == 0 || test_random() < 0.3)
                continue;
            size_t piece = test_random() < 0.4 ? 1 : 1 + test_random_below(left);
            members[n] = s;
            items[n++] = (hymba_batch_item){sessions[s], tokens[s] + done[s], piece,
                                            HYMBA_LOGITS_ALL, 0, NULL, NULL};
        }
        if (n == 0)
            continue;
        test_status(hymba_context_decode(context, items, sizeof items[0], n, &error), HYMBA_OK,
                    error);
        for (size_t i = 0; i < n; i++) {
            int s = members[i];
            check_rows(sessions[s], expected[s], done[s], vocabulary);
            done[s] += items[i].n_tokens;
            finished += done[s] == lengths[s];
            ck_assert_uint_eq(hymba_session_length(sessions[s]), done[s]);
            ck_assert_mem_eq(hymba_session_tokens(sessions[s]), tokens[s],
                             done[s] * sizeof tokens[s][0]);
        }
    }
    for (int s = 0; s < N_SESSIONS; s++) {
        hymba_session_release(sessions[s]);
        free(expected[s]);
    }
    hymba_context_release(reference);
    hymba_context_release(context);
}

START_TEST(cuts_batches_steps_and_threads_change_no_bit)
{
    static const hymba_dtype types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                                        HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8};
    static const uint32_t steps[] = {0, 16, 3, 5, 7};
    struct golden golden;
    golden_open(&golden, models[_i]);
    for (int k = 0; k < 5; k++) {
        int compute = k == 0 ? HYMBA_COMPUTE_F32 : HYMBA_COMPUTE_BF16;
        hymba_context_params one = {
            .cache_type = types[k], .n_threads = 1, .compute = compute};
        hymba_context_params two = {
            .cache_type = types[k], .n_threads = 2, .compute = compute,
            .max_step_tokens = steps[k]};
        make_tokens(&golden, (unsigned)(k + 1));
        check_batches(&golden, one, two);
        if (test_looks_for_races())
            break;
        /* Generic C takes one type of each model, or each type once. */
        if ((k != _i % 5 || (test_is_slow() && _i >= 5)) && !getenv("HYMBA_LONG"))
            continue;
        one.cpu = two.cpu = "generic";
        check_batches(&golden, one, two);
    }
    golden_close(&golden);
}
END_TEST

/* With 16-bit states rounding happens between calls: the calls must be the same, the company and
 * the steps need not. */
START_TEST(sixteen_bit_states_do_not_depend_on_company)
{
    static const hymba_dtype types[] = {HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16};
    struct golden golden;
    golden_open(&golden, models[_i]);
    size_t vocabulary = golden.model->plan.config.vocabulary_size;
    for (int k = 0; k < 2; k++) {
        hymba_context_params params = {.state_type = types[k], .cache_type = types[k]};
        hymba_context *alone = make_context(&golden, params);
        params.max_step_tokens = 7;
        hymba_context *batch = make_context(&golden, params);
        hymba_session *single[2], *together[2];
        make_tokens(&golden, 11);
        for (int s = 0; s < 2; s++) {
            single[s] = make_session(alone);
            together[s] = make_session(batch);
        }
        for (size_t done = 0; done < 60;) {
            size_t piece = 1 + test_random_below(20), rows;
            hymba_batch_item items[2];
            for (int s = 0; s < 2; s++)
                items[s] = (hymba_batch_item){together[s], tokens[s] + done, piece,
                                              HYMBA_LOGITS_LAST, 0, NULL, NULL};
            test_status(hymba_context_decode(batch, items, sizeof items[0], 2, &error), HYMBA_OK,
                        error);
            for (int s = 0; s < 2; s++) {
                append(single[s], tokens[s] + done, piece, HYMBA_LOGITS_LAST);
                ck_assert_mem_eq(logits_of(single[s], &rows), logits_of(together[s], &rows),
                                 vocabulary * sizeof(float));
            }
            done += piece;
        }
        for (int s = 0; s < 2; s++) {
            hymba_session_release(single[s]);
            hymba_session_release(together[s]);
        }
        hymba_context_release(alone);
        hymba_context_release(batch);
    }
    golden_close(&golden);
}
END_TEST

/* Prompts shorter than the window, equal to it, one and two more, and many times it: token by
 * token against whole. */
START_TEST(window_edges)
{
    struct golden golden;
    golden_open(&golden, models[_i]);
    size_t vocabulary = golden.model->plan.config.vocabulary_size;
    size_t window = golden.model->plan.config.window;
    size_t edges[] = {1, window - 1, window, window + 1, window + 2, 2 * window + 1, MAX_TOKENS};
    hymba_context *context = make_context(&golden, (hymba_context_params){.n_threads = 1});
    make_tokens(&golden, 3);
    for (size_t k = 0; k < sizeof edges / sizeof edges[0]; k++) {
        if (edges[k] == 0 || edges[k] > MAX_TOKENS)
            continue;
        lengths[0] = edges[k];
        float *expected = whole(context, 0, vocabulary);
        hymba_session *session = make_session(context);
        for (size_t i = 0; i < lengths[0]; i++) {
            append(session, tokens[0] + i, 1, HYMBA_LOGITS_LAST);
            check_rows(session, expected, i, vocabulary);
        }
        hymba_session_release(session);
        free(expected);
    }
    hymba_context_release(context);
    golden_close(&golden);
}
END_TEST

START_TEST(a_reset_session_is_as_new)
{
    struct golden golden;
    golden_open(&golden, models[_i]);
    size_t vocabulary = golden.model->plan.config.vocabulary_size;
    hymba_context *context = make_context(&golden, (hymba_context_params){.n_threads = 1});
    make_tokens(&golden, 4);
    float *expected = whole(context, 0, vocabulary);
    hymba_session *session = make_session(context);
    append(session, tokens[1], lengths[1], HYMBA_LOGITS_LAST);
    test_status(hymba_session_reset(session, &error), HYMBA_OK, error);
    ck_assert_uint_eq(hymba_session_length(session), 0);
    append(session, tokens[0], lengths[0], HYMBA_LOGITS_ALL);
    check_rows(session, expected, 0, vocabulary);
    hymba_session_release(session);
    hymba_context_release(context);
    free(expected);
    golden_close(&golden);
}
END_TEST

/* A host that cancels at its n-th progress call. */
struct canceller {
    hymba_context *context;
    int calls_left;
    bool by_function;
};

static int32_t cancel_progress(void *user, int32_t phase, uint64_t done, uint64_t total)
{
    struct canceller *canceller = user;
    (void)phase;
    (void)done;
    (void)total;
    if (canceller->calls_left-- > 0)
        return 0;
    if (!canceller->by_function)
        return 1;
    hymba_context_cancel(canceller->context);
    return 0;
}

START_TEST(a_cancelled_call_leaves_every_session_where_it_was)
{
    struct golden golden;
    golden_open(&golden, models[_i]);
    size_t vocabulary = golden.model->plan.config.vocabulary_size;
    struct canceller canceller = {.calls_left = 1000};
    hymba_host host = {
        .struct_size = sizeof host, .user = &canceller, .progress = cancel_progress};
    hymba_context *context = make_context(
        &golden, (hymba_context_params){.n_threads = 1, .max_step_tokens = 8, .host = &host});
    canceller.context = context;
    make_tokens(&golden, 5);
    lengths[0] = lengths[1] = 100;
    float *expected[2] = {whole(context, 0, vocabulary), whole(context, 1, vocabulary)};
    for (int turn = 0; turn < 12; turn++) {
        hymba_session *sessions[2] = {make_session(context), make_session(context)};
        hymba_batch_item items[2];
        size_t before = turn % 2 ? 40 : 0; /* with and without something in the ring */
        for (int s = 0; s < 2; s++) {
            if (before > 0)
                append(sessions[s], tokens[s], before, HYMBA_LOGITS_LAST);
            items[s] = (hymba_batch_item){sessions[s], tokens[s] + before, 100 - before,
                                          HYMBA_LOGITS_ALL, 0, NULL, NULL};
        }
        canceller.calls_left = turn / 2;
        canceller.by_function = turn % 3 == 0;
        test_status(hymba_context_decode(context, items, sizeof items[0], 2, &error),
                    HYMBA_ERROR_CANCELLED, error);
        canceller.calls_left = 1000;
        for (int s = 0; s < 2; s++)
            ck_assert_uint_eq(hymba_session_length(sessions[s]), before);
        test_status(hymba_context_decode(context, items, sizeof items[0], 2, &error), HYMBA_OK,
                    error);
        for (int s = 0; s < 2; s++) {
            check_rows(sessions[s], expected[s], before, vocabulary);
            hymba_session_release(sessions[s]);
        }
    }
    free(expected[0]);
    free(expected[1]);
    hymba_context_release(context);
    golden_close(&golden);
}
END_TEST

START_TEST(a_bad_item_changes_no_session)
{
    struct golden golden;
    golden_open(&golden, models[_i]);
    size_t vocabulary = golden.model->plan.config.vocabulary_size;
    hymba_context *context = make_context(&golden, (hymba_context_params){.n_threads = 1});
    hymba_context *other = make_context(&golden, (hymba_context_params){.n_threads = 1});
    make_tokens(&golden, 6);
    float *expected = whole(context, 0, vocabulary);
    hymba_session *a = make_session(context), *b = make_session(context);
    hymba_session *foreign = make_session(other);
    int32_t bad[] = {1, 2, (int32_t)vocabulary};
    hymba_batch_item items[2] = {{a, tokens[0], lengths[0], HYMBA_LOGITS_ALL, 0, NULL, NULL},
                                 {b, bad, 3, HYMBA_LOGITS_NONE, 0, NULL, NULL}};
    test_status(hymba_context_decode(context, items, sizeof items[0], 2, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 2);
    bad[2] = -1;
    test_status(hymba_context_decode(context, items, sizeof items[0], 2, &error),
                HYMBA_ERROR_ARGUMENT, error);
    items[1] = (hymba_batch_item){b, bad, 0, HYMBA_LOGITS_NONE, 0, NULL, NULL};
    test_status(hymba_context_decode(context, items, sizeof items[0], 2, &error),
                HYMBA_ERROR_ARGUMENT, error);
    items[1] = (hymba_batch_item){a, bad, 2, HYMBA_LOGITS_NONE, 0, NULL, NULL};
    test_status(hymba_context_decode(context, items, sizeof items[0], 2, &error),
                HYMBA_ERROR_ARGUMENT, error);
    items[1] = (hymba_batch_item){foreign, bad, 2, HYMBA_LOGITS_NONE, 0, NULL, NULL};
    test_status(hymba_context_decode(context, items, sizeof items[0], 2, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 1);
    ck_assert_uint_eq(hymba_session_length(a) + hymba_session_length(b), 0);
    append(a, tokens[0], lengths[0], HYMBA_LOGITS_ALL);
    check_rows(a, expected, 0, vocabulary);
    hymba_session_release(a);
    hymba_session_release(b);
    hymba_session_release(foreign);
    hymba_context_release(context);
    hymba_context_release(other);
    free(expected);
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("batch");
    TCase *tests = tcase_create("batch");
    tcase_set_timeout(tests, 600);
    tcase_add_loop_test(tests, cuts_batches_steps_and_threads_change_no_bit, 0, N_MODELS);
    tcase_add_loop_test(tests, sixteen_bit_states_do_not_depend_on_company, 0, N_MODELS);
    if (!test_looks_for_races()) /* one thread */
        tcase_add_loop_test(tests, window_edges, 0, N_MODELS);
    tcase_add_loop_test(tests, a_reset_session_is_as_new, 0, N_MODELS);
    tcase_add_loop_test(tests, a_cancelled_call_leaves_every_session_where_it_was, 0, N_MODELS);
    tcase_add_loop_test(tests, a_bad_item_changes_no_session, 0, N_MODELS);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
