/*
 * hymba_context_cancel from another thread, at every probe of a call in turn: the call is held
 * there, so what it does after the cancelling is counted and not timed. It may end the layer it is
 * in and no more, and it leaves everything as it was.
 */
#include "golden.h"
#include "host.h"
#include "pause.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_SESSIONS = 2, BEFORE = 10, MORE = 20, N_TOKENS = BEFORE + MORE };

static hymba_error error = {.struct_size = sizeof error};
static int32_t tokens[N_TOKENS];

struct scene {
    struct golden golden;
    size_t vocabulary;
    hymba_context *context;
    struct pause pause;
    hymba_session *sessions[N_SESSIONS];
    hymba_status (*call)(struct scene *scene);
    hymba_status status;
    hymba_error call_error;
};

/* ------------------------------------------------------------------ calls */

static hymba_status append_last(struct scene *scene)
{
    return hymba_session_append(scene->sessions[0], tokens + BEFORE, MORE, HYMBA_LOGITS_LAST,
                                &scene->call_error);
}

static hymba_status append_all(struct scene *scene)
{
    return hymba_session_append(scene->sessions[0], tokens + BEFORE, MORE, HYMBA_LOGITS_ALL,
                                &scene->call_error);
}

static hymba_status append_quietly(struct scene *scene)
{
    return hymba_session_append(scene->sessions[0], tokens + BEFORE, MORE, HYMBA_LOGITS_NONE,
                                &scene->call_error);
}

static hymba_status append_one(struct scene *scene)
{
    return hymba_session_append(scene->sessions[0], tokens + BEFORE, 1, HYMBA_LOGITS_LAST,
                                &scene->call_error);
}

static hymba_status decode_both(struct scene *scene)
{
    hymba_batch_item items[N_SESSIONS];
    for (size_t i = 0; i < N_SESSIONS; i++)
        items[i] = (hymba_batch_item){scene->sessions[i], tokens + BEFORE, MORE - 7 * i,
                                      HYMBA_LOGITS_LAST, 0, NULL, NULL};
    return hymba_context_decode(scene->context, items, sizeof *items, N_SESSIONS,
                                &scene->call_error);
}

static hymba_status score(struct scene *scene)
{
    float scores[MORE];
    return hymba_session_score(scene->sessions[0], tokens + BEFORE, MORE, scores,
                               &scene->call_error);
}

/* Nothing was kept so far back, so all of it is computed again. */
static hymba_status rewind_computing(struct scene *scene)
{
    return hymba_session_rewind(scene->sessions[0], BEFORE - 2, HYMBA_REWIND_COMPUTE, NULL,
                                &scene->call_error);
}

static const struct {
    const char *name;
    hymba_status (*call)(struct scene *scene);
    bool keeps_logits; /* those of before, when it is cancelled */
} calls[] = {
    {"append", append_last, false},     {"append, all logits", append_all, false},
    {"append, none", append_quietly, false}, {"append one", append_one, false},
    {"batch", decode_both, false},      {"score", score, false},
    {"rewind", rewind_computing, true},
};
enum { N_CALLS = sizeof calls / sizeof *calls };

/* ------------------------------------------------------------------ scene */

static void open_scene(struct scene *scene, const char *name, uint32_t n_threads)
{
    hymba_context_params params = {
        .struct_size = sizeof params, .n_threads = n_threads, .max_step_tokens = 8};
    memset(scene, 0, sizeof *scene);
    scene->call_error.struct_size = sizeof scene->call_error;
    golden_open(&scene->golden, name);
    scene->vocabulary = scene->golden.model->plan.config.vocabulary_size;
    test_random_seed(3);
    for (size_t i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)test_random_below(scene->vocabulary);
    test_status(hymba_context_create(scene->golden.model, &params, &scene->context, &error),
                HYMBA_OK, error);
    pause_init(&scene->pause, scene->context);
}

static void close_scene(struct scene *scene)
{
    pause_free(&scene->pause);
    hymba_context_release(scene->context);
    golden_close(&scene->golden);
}

static void open_sessions(struct scene *scene)
{
    for (size_t i = 0; i < N_SESSIONS; i++) {
        test_status(hymba_session_create(scene->context, NULL, &scene->sessions[i], &error),
                    HYMBA_OK, error);
        test_status(hymba_session_append(scene->sessions[i], tokens, BEFORE, HYMBA_LOGITS_LAST,
                                         &error),
                    HYMBA_OK, error);
    }
}

static void close_sessions(struct scene *scene)
{
    for (size_t i = 0; i < N_SESSIONS; i++)
        hymba_session_release(scene->sessions[i]);
}

/* -------------------------------------------------------------- comparison */

struct result {
    size_t lengths[N_SESSIONS], rows[N_SESSIONS];
    float *logits[N_SESSIONS];
};

static struct result take_result(const struct scene *scene)
{
    struct result result;
    memset(&result, 0, sizeof result);
    for (size_t i = 0; i < N_SESSIONS; i++) {
        const float *logits;
        result.lengths[i] = (size_t)hymba_session_length(scene->sessions[i]);
        if (hymba_session_logits(scene->sessions[i], &logits, &result.rows[i], NULL) != HYMBA_OK)
            continue;
        size_t bytes = result.rows[i] * scene->vocabulary * sizeof *logits;
        result.logits[i] = malloc(bytes);
        memcpy(result.logits[i], logits, bytes);
    }
    return result;
}

static void free_result(struct result *result)
{
    for (size_t i = 0; i < N_SESSIONS; i++)
        free(result->logits[i]);
}

static void check_result(const struct scene *scene, const struct result *expected)
{
    struct result found = take_result(scene);
    for (size_t i = 0; i < N_SESSIONS; i++) {
        ck_assert_uint_eq(found.lengths[i], expected->lengths[i]);
        ck_assert_uint_eq(found.rows[i], expected->rows[i]);
        if (found.rows[i] > 0)
            ck_assert_mem_eq(found.logits[i], expected->logits[i],
                             found.rows[i] * scene->vocabulary * sizeof(float));
    }
    free_result(&found);
}

/* ------------------------------------------------------------- cancelling */

static void *run_call(void *argument)
{
    struct scene *scene = argument;
    scene->status = scene->call(scene);
    pause_release(&scene->pause);
    return NULL;
}

/* Cancels at the event of that number; false if the call has no such event. */
static bool cancel_at(struct scene *scene, long event)
{
    pthread_t thread;
    pause_at(&scene->pause, event);
    ck_assert_int_eq(pthread_create(&thread, NULL, run_call, scene), 0);
    bool waited = pause_wait(&scene->pause);
    if (waited)
        hymba_context_cancel(scene->context);
    pause_release(&scene->pause);
    pthread_join(thread, NULL);
    return waited;
}

/* The layer that runs may end; no other begins. */
static void check_progress(const struct scene *scene, const char *name, long event)
{
    const struct pause *after = &scene->pause;
    bool at_end = after->site == HY_PROBE_HIDDEN || after->site == HY_PROBE_FINAL_NORM;
    ck_assert_msg(scene->status == HYMBA_ERROR_CANCELLED,
                  "%s, cancelled at event %ld (layer %d): %s", name, event, after->layer,
                  hymba_status_name(scene->status));
    ck_assert_msg(after->n_layers <= !at_end && after->n_later == 0,
                  "%s, cancelled at event %ld (layer %d): %ld layers ended and %ld other events "
                  "came",
                  name, event, after->layer, after->n_layers, after->n_later);
}

static void check_sessions_stand(const struct scene *scene, bool keeps_logits)
{
    const float *logits;
    size_t rows;
    for (size_t i = 0; i < N_SESSIONS; i++) {
        ck_assert_uint_eq(hymba_session_length(scene->sessions[i]), BEFORE);
        ck_assert_mem_eq(hymba_session_tokens(scene->sessions[i]), tokens,
                         BEFORE * sizeof *tokens);
    }
    if (keeps_logits)
        test_status(hymba_session_logits(scene->sessions[0], &logits, &rows, &error), HYMBA_OK,
                    error);
}

/* Brings back the logits a cancelled call may have taken: those that scoring starts from. */
static void restore_logits(struct scene *scene)
{
    int32_t last = tokens[BEFORE - 1];
    test_status(hymba_session_rewind(scene->sessions[0], BEFORE - 1, HYMBA_REWIND_COMPUTE, NULL,
                                     &error),
                HYMBA_OK, error);
    test_status(hymba_session_append(scene->sessions[0], &last, 1, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
}

static const char *const models[] = {"goldens/f_official_like", "variants/mamba_only",
                                     "variants/attention_only", "goldens/d_all_full"};
enum { N_MODELS = sizeof models / sizeof *models };

/* Every call, cancelled at every event (under the thread sanitizer at every 19th) and then
 * repeated. */
static long cancel_everywhere(struct scene *scene, size_t number)
{
    long event = 0, n_cancelled = 0, stride = test_looks_for_races() ? 19 : 1;
    scene->call = calls[number].call;
    open_sessions(scene);
    test_status(scene->call(scene), HYMBA_OK, scene->call_error);
    struct result expected = take_result(scene);
    close_sessions(scene);
    for (;; event += stride, n_cancelled++) {
        open_sessions(scene);
        bool waited = cancel_at(scene, event);
        if (waited) {
            check_progress(scene, calls[number].name, event);
            check_sessions_stand(scene, calls[number].keeps_logits);
            if (scene->call == score)
                restore_logits(scene);
            test_status(scene->call(scene), HYMBA_OK, scene->call_error);
        }
        check_result(scene, &expected);
        close_sessions(scene);
        if (!waited)
            break;
    }
    free_result(&expected);
    return n_cancelled;
}

/* ------------------------------------------------------------------- tests */

START_TEST(a_call_ends_within_one_layer)
{
    struct scene scene;
    long n_cancelled = 0;
    open_scene(&scene, models[_i], 1 + (uint32_t)_i % 2);
    for (size_t i = 0; i < N_CALLS; i++)
        n_cancelled += cancel_everywhere(&scene, i);
    ck_assert_int_gt(n_cancelled, 10);
    printf("threads: %s: %ld calls cancelled, each at another place\n", models[_i], n_cancelled);
    close_scene(&scene);
}
END_TEST

static hymba_status create_session(struct scene *scene)
{
    return hymba_session_create(scene->context, NULL, &scene->sessions[0], &scene->call_error);
}

/* The meta tokens run with the first session of a context. */
START_TEST(the_meta_tokens_can_be_cancelled)
{
    struct scene scene;
    float *expected = NULL;
    bool waited = true;
    for (long event = -1; waited || event == 0; event++) {
        const float *logits;
        size_t rows;
        open_scene(&scene, models[0], 1);
        scene.call = create_session;
        waited = cancel_at(&scene, event);
        if (waited) {
            check_progress(&scene, "meta tokens", event);
            ck_assert_ptr_null(scene.sessions[0]);
            test_status(create_session(&scene), HYMBA_OK, scene.call_error);
        }
        test_status(hymba_session_append(scene.sessions[0], tokens, 5, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_logits(scene.sessions[0], &logits, &rows, &error), HYMBA_OK,
                    error);
        size_t bytes = scene.vocabulary * sizeof *logits;
        if (!expected)
            expected = memcpy(malloc(bytes), logits, bytes);
        ck_assert_mem_eq(logits, expected, bytes);
        hymba_session_release(scene.sessions[0]);
        close_scene(&scene);
    }
    free(expected);
}
END_TEST

START_TEST(a_cancel_between_calls_has_no_effect)
{
    struct scene scene;
    open_scene(&scene, models[0], 2);
    hymba_context_cancel(NULL);
    hymba_context_cancel(scene.context);
    open_sessions(&scene);
    for (size_t i = 0; i < N_CALLS; i++) {
        close_sessions(&scene);
        open_sessions(&scene);
        hymba_context_cancel(scene.context);
        test_status(calls[i].call(&scene), HYMBA_OK, scene.call_error);
    }
    close_sessions(&scene);
    close_scene(&scene);
}
END_TEST

static void *cancel_context(void *context)
{
    hymba_context_cancel(context);
    return NULL;
}

struct target {
    hymba_context *context;
    int n_calls;
};

static int32_t cancel_from_write(void *user, const void *data, size_t size)
{
    struct target *target = user;
    pthread_t thread;
    (void)data;
    (void)size;
    if (target->n_calls++ > 0)
        return 0;
    ck_assert_int_eq(pthread_create(&thread, NULL, cancel_context, target->context), 0);
    pthread_join(thread, NULL);
    return 0;
}

START_TEST(saving_can_be_cancelled)
{
    struct scene scene;
    for (size_t i = 0; i < N_MODELS; i++) {
        open_scene(&scene, models[i], 1);
        open_sessions(&scene);
        struct target target = {.context = scene.context};
        test_status(hymba_session_save_to(scene.sessions[0], NULL, cancel_from_write, &target,
                                          NULL, &error),
                    HYMBA_ERROR_CANCELLED, error);
        ck_assert_int_le(target.n_calls, 2);
        check_sessions_stand(&scene, true);
        close_sessions(&scene);
        close_scene(&scene);
    }
}
END_TEST

/* Cancels its context where a certain block is asked for, from a thread of its own. */
struct cancelling_host {
    struct test_host books; /* first: its hooks are given this struct */
    void *(*alloc)(void *user, size_t size, size_t alignment);
    hymba_context *context;
    long cancel_at; /* number of the allocation, from 0; negative: never */
};

static void *cancelling_alloc(void *user, size_t size, size_t alignment)
{
    struct cancelling_host *host = user;
    pthread_t thread;
    if (host->books.n_allocations == host->cancel_at) {
        ck_assert_int_eq(pthread_create(&thread, NULL, cancel_context, host->context), 0);
        pthread_join(thread, NULL);
    }
    return host->alloc(&host->books, size, alignment);
}

static void cancelling_host_init(struct cancelling_host *host)
{
    test_host_init(&host->books);
    host->alloc = host->books.host.alloc;
    host->books.host.alloc = cancelling_alloc;
    host->cancel_at = -1;
}

START_TEST(loading_can_be_cancelled)
{
    struct scene scene;
    char path[512];
    struct cancelling_host host;
    hymba_context_params params = {.struct_size = sizeof params, .n_threads = 1,
                                   .max_step_tokens = 8, .host = &host.books.host};
    hymba_context *context;
    hymba_session *session;
    long n_cancelled = 0;
    cancelling_host_init(&host);
    snprintf(path, sizeof path, "%s/session", test_directory());
    open_scene(&scene, models[_i], 1);
    open_sessions(&scene);
    test_status(hymba_session_save(scene.sessions[0], NULL, path, NULL, &error), HYMBA_OK, error);
    test_status(hymba_context_create(scene.golden.model, &params, &context, &error), HYMBA_OK,
                error);
    hymba_status status = HYMBA_ERROR_CANCELLED;
    host.context = context;
    while (status != HYMBA_OK || host.books.n_allocations > host.cancel_at) {
        test_host_fail_at(&host.books, -1, false); /* counts from here on */
        host.cancel_at++;
        status = hymba_session_load(context, path, NULL, &session, NULL, NULL, &error);
        if (status == HYMBA_OK) { /* behind the last part of the file */
            ck_assert_uint_eq(hymba_session_length(session), BEFORE);
            hymba_session_release(session);
            continue;
        }
        test_status(status, HYMBA_ERROR_CANCELLED, error);
        n_cancelled++;
    }
    ck_assert_int_gt(n_cancelled, 3);
    hymba_context_release(context);
    test_host_check(&host.books);
    close_sessions(&scene);
    close_scene(&scene);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cancel");
    TCase *tests = tcase_create("cancel");
    tcase_set_timeout(tests, 600);
    tcase_add_loop_test(tests, a_call_ends_within_one_layer, 0, N_MODELS);
    tcase_add_test(tests, the_meta_tokens_can_be_cancelled);
    tcase_add_test(tests, a_cancel_between_calls_has_no_effect);
    tcase_add_test(tests, saving_can_be_cancelled);
    tcase_add_loop_test(tests, loading_can_be_cancelled, 0, N_MODELS);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
