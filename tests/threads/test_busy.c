/*
 * A context runs one call at a time: what comes while one runs is refused, changes nothing, and
 * succeeds afterwards. The running call is held at a probe, so that nothing depends on timing.
 */
#include "golden.h"
#include "pause.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_TOKENS = 30 };

static hymba_error error = {.struct_size = sizeof error};
static int32_t tokens[N_TOKENS];

struct scene {
    struct golden golden;
    hymba_context *context;
    struct pause pause;
    hymba_session *running;  /* the long call's */
    hymba_session *other;    /* what the refused calls are about */
    hymba_session *scheduled; /* a request's, once it is added */
    hymba_scheduler *scheduler;
    hymba_generation *generation;
    hymba_sampler *sampler;
    struct bytes {
        char *data;
        size_t size;
    } saved;
    char path[256];
    hymba_status status; /* of the long call */
    hymba_error running_error;
};

/* ------------------------------------------------------------------ calls */

static hymba_status call_append(struct scene *scene)
{
    return hymba_session_append(scene->other, tokens, 3, HYMBA_LOGITS_LAST, &error);
}

static hymba_status call_score(struct scene *scene)
{
    float scores[3];
    return hymba_session_score(scene->other, tokens, 3, scores, &error);
}

static hymba_status call_decode(struct scene *scene)
{
    hymba_batch_item item = {scene->other, tokens, 2, HYMBA_LOGITS_LAST, 0, NULL, NULL};
    return hymba_context_decode(scene->context, &item, sizeof item, 1, &error);
}

static hymba_status call_reserve(struct scene *scene)
{
    return hymba_session_reserve(scene->other, 1000, &error);
}

static hymba_status call_snapshot(struct scene *scene)
{
    return hymba_session_snapshot(scene->other, "there", NULL, &error);
}

static hymba_status call_drop(struct scene *scene)
{
    return hymba_session_drop_snapshot(scene->other, 10, &error);
}

static hymba_status call_rewind(struct scene *scene)
{
    return hymba_session_rewind(scene->other, 10, HYMBA_REWIND_COMPUTE, NULL, &error);
}

static hymba_status call_reset(struct scene *scene)
{
    return hymba_session_reset(scene->other, &error);
}

static hymba_status call_generation(struct scene *scene)
{
    hymba_event event = {.struct_size = sizeof event};
    return hymba_generation_next(scene->generation, &event, &error);
}

static hymba_status call_add(struct scene *scene)
{
    uint64_t request;
    hymba_status status = hymba_scheduler_add(scene->scheduler, scene->scheduled, NULL, tokens, 2,
                                              NULL, &request, &error);
    ck_assert_uint_eq(hymba_scheduler_count(scene->scheduler), status == HYMBA_OK);
    return status;
}

static hymba_status call_step(struct scene *scene)
{
    hymba_request_event event;
    size_t n;
    hymba_status status =
        hymba_scheduler_step(scene->scheduler, &event, sizeof event, 1, &n, &error);
    ck_assert_uint_eq(n, status == HYMBA_OK);
    return status;
}

/* A new session, which must be there if and only if the call succeeded. */
static hymba_status check_new(hymba_status status, hymba_session *session)
{
    ck_assert_int_eq(status == HYMBA_OK, session != NULL);
    hymba_session_release(session);
    return status;
}

static hymba_status call_create(struct scene *scene)
{
    hymba_session *session = scene->other;
    hymba_status status = hymba_session_create(scene->context, NULL, &session, &error);
    return check_new(status, session);
}

static hymba_status call_fork(struct scene *scene)
{
    hymba_session *session = scene->other;
    hymba_status status = hymba_session_fork(scene->other, &session, NULL, &error);
    return check_new(status, session);
}

static hymba_status call_save(struct scene *scene)
{
    return hymba_session_save(scene->other, NULL, scene->path, NULL, &error);
}

static hymba_status call_load(struct scene *scene)
{
    hymba_session *session = scene->other;
    hymba_status status =
        hymba_session_load(scene->context, scene->path, NULL, &session, NULL, NULL, &error);
    return check_new(status, session);
}

static hymba_status call_load_memory(struct scene *scene)
{
    hymba_session *session = scene->other;
    hymba_status status = hymba_session_load_memory(scene->context, scene->saved.data,
                                                    scene->saved.size, NULL, &session, NULL, NULL,
                                                    &error);
    return check_new(status, session);
}

static int32_t collect(void *user, const void *data, size_t size)
{
    struct bytes *bytes = user;
    bytes->data = realloc(bytes->data, bytes->size + size);
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
    return 0;
}

static hymba_status call_save_to(struct scene *scene)
{
    struct bytes bytes = {NULL, 0};
    hymba_status status =
        hymba_session_save_to(scene->other, scene->sampler, collect, &bytes, NULL, &error);
    if (status != HYMBA_OK)
        ck_assert_uint_eq(bytes.size, 0);
    free(bytes.data);
    return status;
}

/* In an order in which all of them succeed one after another. */
static const struct {
    const char *name;
    hymba_status (*call)(struct scene *scene);
} calls[] = {
    {"create", call_create},       {"append", call_append},     {"score", call_score},
    {"decode", call_decode},       {"reserve", call_reserve},   {"generation", call_generation},
    {"fork", call_fork},           {"snapshot", call_snapshot}, {"save", call_save},
    {"save to", call_save_to},     {"load", call_load},         {"load memory", call_load_memory},
    {"drop snapshot", call_drop},  {"rewind", call_rewind},     {"reset", call_reset},
    {"schedule", call_add},        {"step", call_step},
};
enum { N_CALLS = sizeof calls / sizeof *calls };

/* ------------------------------------------------------------------ scene */

static hymba_session *make_session(hymba_context *context)
{
    hymba_session *session;
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    return session;
}

/* Everything about the other session: what it would be saved as, its sampler included. */
static struct bytes save_bytes(const struct scene *scene)
{
    struct bytes bytes = {NULL, 0};
    test_status(hymba_session_save_to(scene->other, scene->sampler, collect, &bytes, NULL, &error),
                HYMBA_OK, error);
    return bytes;
}

static void open_scene(struct scene *scene, const char *name)
{
    hymba_context_params params = {
        .struct_size = sizeof params, .n_threads = 2, .max_step_tokens = 8, .rewind_tokens = 3};
    hymba_sampler_params sampling = {.struct_size = sizeof sampling, .temperature = 1, .seed = 4};
    memset(scene, 0, sizeof *scene);
    golden_open(&scene->golden, name);
    test_random_seed(6);
    for (size_t i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)test_random_below(scene->golden.model->plan.config.vocabulary_size);
    test_status(hymba_context_create(scene->golden.model, &params, &scene->context, &error),
                HYMBA_OK, error);
    scene->running = make_session(scene->context);
    scene->other = make_session(scene->context);
    scene->scheduled = make_session(scene->context);
    test_status(hymba_scheduler_create(scene->context, 8, NULL, &scene->scheduler, &error),
                HYMBA_OK, error);
    test_status(hymba_session_append(scene->other, tokens, 10, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
    test_status(hymba_session_snapshot(scene->other, "here", NULL, &error), HYMBA_OK, error);
    test_status(hymba_session_append(scene->other, tokens + 10, 7, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
    test_status(hymba_sampler_create(&sampling, NULL, &scene->sampler, &error), HYMBA_OK, error);
    test_status(hymba_generation_create(scene->other, scene->sampler, NULL, NULL,
                                        &scene->generation, &error),
                HYMBA_OK, error);
    snprintf(scene->path, sizeof scene->path, "%s/session", test_directory());
    scene->saved = save_bytes(scene);
    scene->running_error.struct_size = sizeof scene->running_error;
    pause_init(&scene->pause, scene->context);
}

static void close_scene(struct scene *scene)
{
    pause_free(&scene->pause);
    hymba_generation_release(scene->generation);
    hymba_sampler_release(scene->sampler);
    hymba_session_release(scene->running);
    hymba_session_release(scene->other);
    hymba_session_release(scene->scheduled);
    hymba_scheduler_release(scene->scheduler);
    hymba_context_release(scene->context);
    golden_close(&scene->golden);
    free(scene->saved.data);
}

static void *run_long_call(void *argument)
{
    struct scene *scene = argument;
    scene->status = hymba_session_append(scene->running, tokens, N_TOKENS, HYMBA_LOGITS_ALL,
                                         &scene->running_error);
    pause_release(&scene->pause);
    return NULL;
}

static float *copy_logits(const hymba_session *session, size_t vocabulary)
{
    const float *logits;
    size_t rows;
    test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
    ck_assert_uint_eq(rows, N_TOKENS);
    float *copy = malloc(rows * vocabulary * sizeof *copy);
    memcpy(copy, logits, rows * vocabulary * sizeof *copy);
    return copy;
}

/* What the running call gives when nobody comes in between. */
static float *undisturbed(struct scene *scene, size_t vocabulary)
{
    hymba_session *session = make_session(scene->context);
    test_status(hymba_session_append(session, tokens, N_TOKENS, HYMBA_LOGITS_ALL, &error),
                HYMBA_OK, error);
    float *logits = copy_logits(session, vocabulary);
    hymba_session_release(session);
    return logits;
}

static void all_are_refused(struct scene *scene)
{
    for (size_t i = 0; i < N_CALLS; i++) {
        error.status = HYMBA_OK;
        hymba_status status = calls[i].call(scene);
        ck_assert_msg(status == HYMBA_ERROR_BUSY, "%s: %s", calls[i].name,
                      hymba_status_name(status));
        ck_assert_int_eq(error.status, HYMBA_ERROR_BUSY);
    }
}

/* ------------------------------------------------------------------ tests */

static const char *const models[] = {"goldens/f_official_like", "variants/mamba_only"};

START_TEST(all_calls_are_refused_and_lose_nothing)
{
    struct scene scene;
    pthread_t thread;
    hymba_context_info info = {.struct_size = sizeof info};
    open_scene(&scene, models[_i]);
    size_t vocabulary = scene.golden.model->plan.config.vocabulary_size;
    float *expected = undisturbed(&scene, vocabulary);
    pause_at(&scene.pause, 2);
    ck_assert_int_eq(pthread_create(&thread, NULL, run_long_call, &scene), 0);
    ck_assert(pause_wait(&scene.pause));
    all_are_refused(&scene);
    test_status(hymba_context_get_info(scene.context, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.n_threads, 2);
    ck_assert_uint_eq(hymba_session_length(scene.other), 17);
    pause_release(&scene.pause);
    pthread_join(thread, NULL);

    test_status(scene.status, HYMBA_OK, scene.running_error);
    float *found = copy_logits(scene.running, vocabulary);
    ck_assert_mem_eq(found, expected, N_TOKENS * vocabulary * sizeof *found);
    struct bytes bytes = save_bytes(&scene);
    ck_assert_uint_eq(bytes.size, scene.saved.size);
    ck_assert_mem_eq(bytes.data, scene.saved.data, bytes.size);
    for (size_t i = 0; i < N_CALLS; i++)
        test_status(calls[i].call(&scene), HYMBA_OK, error);
    free(bytes.data);
    free(found);
    free(expected);
    close_scene(&scene);
}
END_TEST

/* Refused calls of a generation are repeated, and the text is the same. */
START_TEST(a_refused_generation_goes_on_where_it_was)
{
    struct scene scene;
    int32_t expected[12];
    hymba_event event = {.struct_size = sizeof event};
    for (int disturbed = 0; disturbed < 2; disturbed++) {
        open_scene(&scene, models[0]);
        for (int i = 0; i < 12; i++) {
            if (disturbed) {
                pthread_t thread;
                test_status(hymba_session_reset(scene.running, &error), HYMBA_OK, error);
                pause_at(&scene.pause, i);
                ck_assert_int_eq(pthread_create(&thread, NULL, run_long_call, &scene), 0);
                ck_assert(pause_wait(&scene.pause));
                for (int n = 0; n < 3; n++)
                    test_status(hymba_generation_next(scene.generation, &event, &error),
                                HYMBA_ERROR_BUSY, error);
                pause_release(&scene.pause);
                pthread_join(thread, NULL);
            }
            test_status(hymba_generation_next(scene.generation, &event, &error), HYMBA_OK, error);
            ck_assert_int_eq(event.kind, HYMBA_EVENT_TOKEN);
            if (disturbed)
                ck_assert_int_eq(event.token, expected[i]);
            expected[i] = event.token;
        }
        close_scene(&scene);
    }
}
END_TEST

START_TEST(another_context_is_not_busy)
{
    struct scene scene;
    pthread_t thread;
    open_scene(&scene, models[0]);
    hymba_context *context = golden_context(&scene.golden, NULL, 1, 0);
    pause_at(&scene.pause, 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, run_long_call, &scene), 0);
    ck_assert(pause_wait(&scene.pause));
    hymba_session *session = make_session(context);
    test_status(hymba_session_append(session, tokens, N_TOKENS, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
    pause_release(&scene.pause);
    pthread_join(thread, NULL);
    test_status(scene.status, HYMBA_OK, scene.running_error);
    hymba_session_release(session);
    hymba_context_release(context);
    close_scene(&scene);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("busy");
    TCase *tests = tcase_create("busy");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, all_calls_are_refused_and_lose_nothing, 0,
                        sizeof models / sizeof *models);
    tcase_add_test(tests, a_refused_generation_goes_on_where_it_was);
    tcase_add_test(tests, another_context_is_not_busy);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
