/*
 * Models opened, used and freed by many threads at once: each its own, all one in common, and each
 * what another thread has made. Meant for the thread sanitizer and the address sanitizer.
 */
#include "golden.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_THREADS = 8, N_TOKENS = 24, MAX_VOCABULARY = 512 };

static const char *const names[] = {"goldens/b_no_meta", "goldens/f_official_like",
                                    "variants/mixed_group", "variants/mamba_only"};
enum { N_NAMES = sizeof names / sizeof *names };

/* What one thread alone gets from each model. */
static float expected[N_NAMES][MAX_VOCABULARY];
static char directories[N_NAMES][256]; /* test_data is for one thread */
static int32_t tokens[N_TOKENS];

/* Where threads leave sessions for one another; a session holds its context, and that its model. */
static struct {
    pthread_mutex_t mutex;
    hymba_session *session;
} exchange = {.mutex = PTHREAD_MUTEX_INITIALIZER};

struct worker {
    pthread_t thread;
    unsigned number;
    hymba_model *common; /* of names[0]: a reference of its own, or NULL */
    int rounds;
    char fault[600];
};

static int rounds(void)
{
    return getenv("HYMBA_LONG") ? 50 : 6;
}

/* Leaves a session and takes what was there. */
static hymba_session *leave(hymba_session *session)
{
    pthread_mutex_lock(&exchange.mutex);
    hymba_session *found = exchange.session;
    exchange.session = session;
    pthread_mutex_unlock(&exchange.mutex);
    return found;
}

static hymba_status make_session(hymba_model *model, uint32_t n_threads, hymba_session **session,
                                 hymba_error *error)
{
    hymba_context_params params = {.struct_size = sizeof params, .n_threads = n_threads};
    hymba_context *context;
    *session = NULL;
    hymba_status status = hymba_context_create(model, &params, &context, error);
    if (status == HYMBA_OK)
        status = hymba_session_create(context, NULL, session, error);
    hymba_context_release(context); /* the session holds it */
    return status;
}

static hymba_status append_all(hymba_session *session, hymba_error *error)
{
    return hymba_session_append(session, tokens, N_TOKENS, HYMBA_LOGITS_LAST, error);
}

static const float *logits_of(const hymba_session *session)
{
    const float *logits = NULL;
    hymba_session_logits(session, &logits, NULL, NULL);
    return logits;
}

/* One model's whole life, or a part in that of the common one. */
static hymba_status run_round(struct worker *worker, size_t name, hymba_error *error)
{
    hymba_model *model = NULL;
    hymba_session *session = NULL;
    hymba_model_info info = {.struct_size = sizeof info};
    bool common = worker->common && name == 0;
    hymba_status status = HYMBA_OK;
    if (common)
        model = hymba_model_retain(worker->common);
    else
        status = hymba_model_open(directories[name], NULL, &model, error);
    if (status == HYMBA_OK)
        status = make_session(model, 1 + worker->number % 2, &session, error);
    if (status == HYMBA_OK)
        status = hymba_model_get_info(model, &info, error);
    hymba_model_release(model); /* before its children */
    if (status == HYMBA_OK)
        status = append_all(session, error);
    if (status == HYMBA_OK &&
        memcmp(logits_of(session), expected[name], info.vocabulary_size * sizeof(float)) != 0)
        snprintf(worker->fault, sizeof worker->fault, "%s: logits differ", names[name]);
    hymba_session_release(leave(session));
    return status;
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    hymba_error error = {.struct_size = sizeof error};
    for (int i = 0; i < worker->rounds && !worker->fault[0]; i++) {
        size_t name = (worker->number + (size_t)i) % N_NAMES;
        hymba_status status = run_round(worker, name, &error);
        if (status != HYMBA_OK)
            snprintf(worker->fault, sizeof worker->fault, "%s: %s", names[name], error.message);
    }
    hymba_model_release(worker->common);
    return NULL;
}

static void make_expected(void)
{
    hymba_error error = {.struct_size = sizeof error};
    for (size_t i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)((i * 37 + 11) % 59);
    for (size_t i = 0; i < N_NAMES; i++) {
        hymba_model *model;
        hymba_session *session;
        hymba_model_info info = {.struct_size = sizeof info};
        snprintf(directories[i], sizeof directories[i], "%s", test_data(names[i]));
        test_status(hymba_model_open(directories[i], NULL, &model, &error), HYMBA_OK, error);
        test_status(make_session(model, 1, &session, &error), HYMBA_OK, error);
        test_status(append_all(session, &error), HYMBA_OK, error);
        test_status(hymba_model_get_info(model, &info, &error), HYMBA_OK, error);
        ck_assert_uint_le(info.vocabulary_size, MAX_VOCABULARY);
        memcpy(expected[i], logits_of(session), info.vocabulary_size * sizeof(float));
        hymba_session_release(session);
        hymba_model_release(model);
    }
}

/* With a loop count of 1 all threads share one handle of the first model as well. */
START_TEST(models_come_and_go_in_parallel)
{
    static struct worker workers[N_THREADS];
    hymba_error error = {.struct_size = sizeof error};
    hymba_model *common = NULL;
    make_expected();
    if (_i == 1)
        test_status(hymba_model_open(directories[0], NULL, &common, &error), HYMBA_OK, error);
    for (unsigned i = 0; i < N_THREADS; i++) {
        workers[i] = (struct worker){
            .number = i, .common = hymba_model_retain(common), .rounds = rounds()};
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    hymba_model_release(common); /* while the threads use it */
    for (size_t i = 0; i < N_THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    hymba_session_release(leave(NULL));
    for (size_t i = 0; i < N_THREADS; i++)
        ck_assert_msg(!workers[i].fault[0], "thread %zu: %s", i, workers[i].fault);
    printf("threads: %d models, contexts and sessions opened and freed by %d threads%s\n",
           N_THREADS * rounds(), N_THREADS, _i == 1 ? ", a quarter on a common model" : "");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("models");
    TCase *tests = tcase_create("models");
    tcase_set_timeout(tests, 1800);
    tcase_add_loop_test(tests, models_come_and_go_in_parallel, 0, 2);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
