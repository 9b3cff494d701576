/*
 * A scheduler that one thread steps while others cancel its requests, ask for their number and
 * give handles away.
 */
#include "golden.h"
#include "../run/schedule_world.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { N_REQUESTS = 6, N_CANCELLED = 3, N_ROUNDS = 4 };

static hymba_error error = {.struct_size = sizeof error};

static struct {
    struct golden golden;
    hymba_context *context;
    hymba_scheduler *scheduler;
    struct wish wishes[N_REQUESTS];
    struct scheduled list[N_REQUESTS];
    _Atomic size_t n_steps;
    _Atomic bool over;
} world;

static void open_world(void)
{
    hymba_context_params params = {.struct_size = sizeof params, .n_threads = 2};
    memset(&world, 0, sizeof world);
    golden_open(&world.golden, "goldens/f_official_like");
    test_status(hymba_context_create(world.golden.model, &params, &world.context, &error),
                HYMBA_OK, error);
    test_status(hymba_scheduler_create(world.context, 10, NULL, &world.scheduler, &error),
                HYMBA_OK, error);
    test_random_seed(2);
}

static void add_all(void)
{
    for (int i = 0; i < N_REQUESTS; i++) {
        /* the first ones end by being cancelled alone */
        world.wishes[i] = wish_random(world.golden.model->plan.config.vocabulary_size, 0,
                                      5 + 10 * (size_t)i, i < N_CANCELLED ? 0 : 8);
        scheduled_open(&world.list[i], world.context, &world.wishes[i]);
        test_status(scheduled_add(&world.list[i], world.scheduler, &error), HYMBA_OK, error);
    }
}

/* Cancels the first requests, each a few steps after the one before, and numbers that are none. */
static void *cancel(void *argument)
{
    uint64_t *numbers = argument;
    hymba_scheduler *scheduler = hymba_scheduler_retain(world.scheduler);
    for (int i = 0; i < N_CANCELLED; i++) {
        while (atomic_load(&world.n_steps) < 4 * (size_t)(i + 1))
            hymba_scheduler_cancel(scheduler, numbers[i] + 256);
        hymba_scheduler_cancel(scheduler, numbers[i]);
    }
    while (!atomic_load(&world.over))
        if (hymba_scheduler_count(scheduler) > N_REQUESTS)
            break;
    hymba_scheduler_release(scheduler);
    return NULL;
}

START_TEST(other_threads_cancel)
{
    open_world();
    for (int round = 0; round < N_ROUNDS; round++) {
        uint64_t numbers[N_CANCELLED];
        pthread_t thread;
        atomic_store(&world.n_steps, 0);
        atomic_store(&world.over, false);
        add_all();
        for (int i = 0; i < N_CANCELLED; i++)
            numbers[i] = world.list[i].request;
        ck_assert_int_eq(pthread_create(&thread, NULL, cancel, numbers), 0);
        while (hymba_scheduler_count(world.scheduler) > 0) {
            test_status(schedule_step(world.scheduler, world.list, N_REQUESTS, &error), HYMBA_OK,
                        error);
            atomic_fetch_add(&world.n_steps, 1);
        }
        atomic_store(&world.over, true);
        pthread_join(thread, NULL);
        for (int i = 0; i < N_REQUESTS; i++) {
            ck_assert_int_eq(world.list[i].stop, i < N_CANCELLED ? HYMBA_STOP_CANCELLED
                                                                 : HYMBA_STOP_LENGTH);
            if (i >= N_CANCELLED)
                schedule_compare(world.context, &world.list[i]);
            scheduled_close(&world.list[i]);
        }
    }
    hymba_scheduler_release(world.scheduler);
    hymba_context_release(world.context);
    golden_close(&world.golden);
}
END_TEST

/* The thread that has the last reference, of scheduler and sessions, is not the one that steps. */
static void *give_away(void *argument)
{
    (void)argument;
    hymba_scheduler_release(world.scheduler);
    return NULL;
}

START_TEST(another_thread_gives_the_last_reference_back)
{
    pthread_t thread;
    open_world();
    add_all();
    for (int i = 0; i < 5; i++)
        test_status(schedule_step(world.scheduler, world.list, N_REQUESTS, &error), HYMBA_OK,
                    error);
    for (int i = 0; i < N_REQUESTS; i++)
        scheduled_close(&world.list[i]);
    hymba_session *session;
    test_status(hymba_session_create(world.context, NULL, &session, &error), HYMBA_OK, error);
    ck_assert_int_eq(pthread_create(&thread, NULL, give_away, NULL), 0);
    for (int i = 0; i < 20; i++) /* the context goes on meanwhile */
        test_status(hymba_session_append(session, world.wishes[0].tokens, 5, HYMBA_LOGITS_LAST,
                                         &error),
                    HYMBA_OK, error);
    pthread_join(thread, NULL);
    hymba_session_release(session);
    hymba_context_release(world.context);
    golden_close(&world.golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scheduler threads");
    TCase *tests = tcase_create("scheduler threads");
    tcase_set_timeout(tests, 600);
    tcase_add_test(tests, other_threads_cancel);
    tcase_add_test(tests, another_thread_gives_the_last_reference_back);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
