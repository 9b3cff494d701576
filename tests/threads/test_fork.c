/*
 * Contexts and sessions in a process that was forked off: they work there as they did, to the bit,
 * go on in the parent, and can be released in both.
 */
#include "golden.h"
#include "pause.h"
#include "process.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BEFORE = 10, MORE = 40, N_TOKENS = BEFORE + MORE, N_THREADS = 3 };

static const char model_name[] = "goldens/f_official_like";

static hymba_error error = {.struct_size = sizeof error};
static int32_t tokens[N_TOKENS];

struct scene {
    struct golden golden;
    size_t vocabulary;
    hymba_context *context;
    hymba_session *session; /* of the first tokens */
    float *expected;        /* logits after all of them */
    unsigned n_threads;
};

static hymba_session *prompted_session(hymba_context *context)
{
    hymba_session *session;
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, BEFORE, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    return session;
}

/* Appends the other tokens; whether the logits are the expected ones. */
static bool goes_on(const struct scene *scene, hymba_session *session)
{
    const float *logits;
    size_t rows;
    return hymba_session_append(session, tokens + BEFORE, MORE, HYMBA_LOGITS_LAST, &error) ==
               HYMBA_OK &&
           hymba_session_logits(session, &logits, &rows, &error) == HYMBA_OK &&
           (!scene->expected ||
            memcmp(logits, scene->expected, scene->vocabulary * sizeof *logits) == 0);
}

static void open_scene(struct scene *scene, uint32_t n_threads)
{
    const float *logits;
    size_t rows;
    memset(scene, 0, sizeof *scene);
    golden_open(&scene->golden, model_name);
    scene->vocabulary = scene->golden.model->plan.config.vocabulary_size;
    scene->n_threads = n_threads;
    test_random_seed(5);
    for (size_t i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)test_random_below(scene->vocabulary);
    scene->context = golden_context(&scene->golden, NULL, n_threads, 0);
    hymba_session *session = prompted_session(scene->context);
    ck_assert(goes_on(scene, session));
    test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
    scene->expected = malloc(scene->vocabulary * sizeof *logits);
    memcpy(scene->expected, logits, scene->vocabulary * sizeof *logits);
    hymba_session_release(session);
    scene->session = prompted_session(scene->context);
}

static void close_scene(struct scene *scene)
{
    hymba_session_release(scene->session);
    hymba_context_release(scene->context);
    golden_close(&scene->golden);
    free(scene->expected);
}

static void wait_milliseconds(long count)
{
    struct timespec pause = {0, count * 1000000};
    nanosleep(&pause, NULL);
}

static bool go_on_in_child(void *argument)
{
    struct scene *scene = argument;
    bool good = goes_on(scene, scene->session) && test_has_threads(scene->n_threads);
    close_scene(scene);
    return good && test_has_threads(1);
}

/* Without a call before. */
static bool release_in_child(void *argument)
{
    close_scene(argument);
    return true;
}

/* A child's context that the parent never called. */
static bool begin_in_child(void *argument)
{
    struct scene *scene = argument;
    hymba_context *context = golden_context(&scene->golden, NULL, scene->n_threads, 0);
    hymba_session *session = prompted_session(context);
    bool good = goes_on(scene, session);
    hymba_session_release(session);
    hymba_context_release(context);
    return good;
}

/* Right after a call, when the threads watch for more work, and later, when they sleep. The thread
 * sanitizer allows a child no threads. */
START_TEST(sessions_go_on_in_both)
{
    struct scene scene;
    if (test_looks_for_races())
        return;
    open_scene(&scene, 1 + (uint32_t)_i);
    for (long pause = 0; pause < 8; pause += 2) {
        ck_assert(test_in_child(go_on_in_child, &scene));
        wait_milliseconds(pause);
        ck_assert(test_in_child(release_in_child, &scene));
        ck_assert(test_in_child(begin_in_child, &scene));
        hymba_session *session = prompted_session(scene.context);
        ck_assert(goes_on(&scene, session));
        hymba_session_release(session);
        wait_milliseconds(pause);
    }
    ck_assert(goes_on(&scene, scene.session));
    close_scene(&scene);
}
END_TEST

static void *run_call(void *argument)
{
    struct scene *scene = argument;
    hymba_error own = {.struct_size = sizeof own};
    hymba_status status = hymba_session_append(scene->session, tokens + BEFORE, MORE,
                                               HYMBA_LOGITS_LAST, &own);
    pause_release((struct pause *)scene->context->probe.user);
    return status == HYMBA_OK ? scene : NULL;
}

static bool find_it_busy(void *argument)
{
    struct scene *scene = argument;
    bool good = hymba_session_append(scene->session, tokens, 1, HYMBA_LOGITS_LAST, &error) ==
                HYMBA_ERROR_BUSY;
    scene->context->probe = (struct hy_probe){NULL, NULL};
    close_scene(scene);
    return good;
}

/* The thread that runs the call is not there in the child: its context waits for nobody. */
START_TEST(fork_while_a_call_runs)
{
    struct scene scene;
    struct pause pause;
    pthread_t thread;
    void *result;
    open_scene(&scene, N_THREADS);
    pause_init(&pause, scene.context);
    for (long event = 0; event < 15; event += 7) {
        hymba_session_release(scene.session);
        scene.session = prompted_session(scene.context);
        pause_at(&pause, event);
        ck_assert_int_eq(pthread_create(&thread, NULL, run_call, &scene), 0);
        ck_assert(pause_wait(&pause));
        ck_assert(test_in_child(find_it_busy, &scene));
        pause_release(&pause);
        pthread_join(thread, &result);
        ck_assert_ptr_eq(result, &scene);
    }
    pause_free(&pause);
    close_scene(&scene);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fork");
    TCase *tests = tcase_create("fork");
    tcase_set_timeout(tests, 600);
    tcase_add_loop_test(tests, sessions_go_on_in_both, 0, N_THREADS);
    tcase_add_test(tests, fork_while_a_call_runs);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
