/*
 * The scheduler's failures, requests without memory above all, harm at most one request; wrong
 * arguments harm none.
 */
#include "host.h"
#include "scheduler_test.h"

static int32_t refuse_third(void *user, const int32_t *tokens, float *logits, size_t n)
{
    int *calls = user;
    (void)tokens;
    (void)logits;
    (void)n;
    return ++*calls == 3;
}

START_TEST(a_request_fails_alone)
{
    int calls = 0;
    open_simple(10);
    struct scheduled *fine = add_random(0, 35, 15);
    struct wish wish = wish_random(world.vocabulary, 0, 5, 20);
    wish.session.max_tokens = 9;
    wish.session.limit_policy = HYMBA_LIMIT_ERROR;
    struct scheduled *limited = make(wish);
    wish.session.max_tokens = 0;
    wish.session.limit_policy = HYMBA_LIMIT_STOP;
    wish.process = refuse_third;
    wish.process_user = &calls;
    struct scheduled *refused = make(wish);
    wish.process = NULL;
    wish.session.memory_limit = 102000; /* room for its states, but for no block */
    struct scheduled *small = make(wish);
    add(limited, world.scheduler);
    add(refused, world.scheduler);
    add(small, world.scheduler);
    finish_world();
    expect_end(limited, HYMBA_STOP_NONE, HYMBA_ERROR_LIMIT);
    ck_assert_uint_eq(limited->n_events, 6); /* four in the session, one that has no room */
    ck_assert_uint_eq(hymba_session_length(limited->session), 9);
    expect_end(refused, HYMBA_STOP_NONE, HYMBA_ERROR_CANCELLED);
    ck_assert_uint_eq(hymba_session_length(refused->session), 7);
    expect_end(small, HYMBA_STOP_NONE, HYMBA_ERROR_LIMIT);
    ck_assert_uint_eq(hymba_session_length(small->session), 0);
    compare(fine);
    close_world();
}
END_TEST

/* Threads of the host's whose work cancels the call; ends the n-th step in its midst. */
struct canceller {
    hymba_context *context;
    long calls_left;
};

static void run_parts(void *user, void (*part)(void *argument, uint32_t index), void *argument,
                      uint32_t n_parts)
{
    struct canceller *canceller = user;
    for (uint32_t i = 0; i < n_parts; i++)
        part(argument, i);
    if (canceller->calls_left-- == 0)
        hymba_context_cancel(canceller->context);
}

START_TEST(a_cancelled_step_can_be_repeated)
{
    struct canceller canceller = {.calls_left = -1};
    hymba_executor executor = {.struct_size = sizeof executor,
                               .user = &canceller,
                               .n_threads = 2,
                               .run = run_parts};
    open_world("goldens/f_official_like", (hymba_context_params){.executor = &executor}, 12, 5);
    canceller.context = world.context;
    add_random(0, 50, 8);
    add_random(5, 0, 20);
    add_random(0, 3, 12);
    int n_cancelled = 0;
    for (int turn = 0; hymba_scheduler_count(world.scheduler) > 0; turn++) {
        size_t events = world.list[0].n_events + world.list[1].n_events + world.list[2].n_events;
        canceller.calls_left = turn % 3 == 0 ? 2 : -1;
        hymba_status status = schedule_step(world.scheduler, world.list, world.n, &error);
        if (status == HYMBA_OK)
            continue;
        ck_assert_int_eq(status, HYMBA_ERROR_CANCELLED);
        ck_assert_uint_eq(
            world.list[0].n_events + world.list[1].n_events + world.list[2].n_events, events);
        n_cancelled++;
    }
    ck_assert_int_gt(n_cancelled, 3);
    canceller.calls_left = -1;
    for (size_t i = 0; i < world.n; i++)
        compare(&world.list[i]);
    close_world();
}
END_TEST

/* One run with the allocation of that number refused; whether there was one. Whoever fails, fails
 * with MEMORY, and every other gives what it gives alone. */
static bool run_without_memory(struct test_host *host, long number, const char *const *expected)
{
    size_t n_failed = 0, n_repeated = 0;
    bool refused[3] = {false};
    world.n = 0;
    for (size_t i = 0; i < 3; i++) {
        scheduled_open(&world.list[i], world.context, &world.wishes[i]);
        world.n++;
    }
    test_host_fail_at(host, number, false);
    hymba_scheduler *scheduler;
    hymba_status status = hymba_scheduler_create(world.context, 9, NULL, &scheduler, &error);
    if (status != HYMBA_OK) {
        ck_assert_int_eq(status, HYMBA_ERROR_MEMORY);
        ck_assert_ptr_null(scheduler);
        scheduler = make_scheduler(world.context, 9);
    }
    for (size_t i = 0; i < 3; i++) {
        status = scheduled_add(&world.list[i], scheduler, &error);
        refused[i] = status != HYMBA_OK;
        if (!refused[i])
            continue;
        ck_assert_int_eq(status, HYMBA_ERROR_MEMORY);
        add(&world.list[i], scheduler);
    }
    while (hymba_scheduler_count(scheduler) > 0) {
        status = schedule_step(scheduler, world.list, world.n, &error);
        n_repeated += status != HYMBA_OK;
        ck_assert(status == HYMBA_OK || status == HYMBA_ERROR_MEMORY);
    }
    bool struck = host->n_allocations > number;
    test_host_fail_at(host, -1, false);
    for (size_t i = 0; i < 3; i++) {
        struct scheduled *scheduled = &world.list[i];
        ck_assert(scheduled->status == HYMBA_OK || scheduled->status == HYMBA_ERROR_MEMORY);
        if (scheduled->status == HYMBA_OK)
            ck_assert_str_eq(scheduled->record.text, expected[i]);
        else
            n_failed++;
        scheduled_close(scheduled);
    }
    ck_assert_uint_le(n_failed + n_repeated + refused[0] + refused[1] + refused[2], 1);
    world.n = 0;
    hymba_scheduler_release(scheduler);
    return struck;
}

START_TEST(an_allocation_fails_one_request_at_most)
{
    struct test_host host;
    struct record alone[3] = {{0}};
    const char *expected[3];
    long number = 0;
    test_host_init(&host);
    open_world("goldens/d_all_full", /* blocks for all */
               (hymba_context_params){.n_threads = 1, .host = &host.host}, 9, 7);
    for (size_t i = 0; i < 3; i++) {
        world.wishes[i] = wish_random(world.vocabulary, i, 10 + 5 * i, 4);
        world.wishes[i].n_top = 2;
    }
    world.wishes[1].session.snapshot_interval = 8;
    for (size_t i = 0; i < 3; i++) {
        record_alone(world.context, &world.wishes[i], &alone[i]);
        expected[i] = alone[i].text;
    }
    while (run_without_memory(&host, number, expected))
        number++;
    ck_assert_int_gt(number, 20);
    for (size_t i = 0; i < 3; i++)
        record_free(&alone[i]);
    close_world();
    test_host_check(&host);
}
END_TEST

/* An automatic snapshot shows only while the batch runs that there is no memory for it: its request
 * fails, and the step is that of the others. */
START_TEST(a_snapshot_without_memory_fails_its_request_alone)
{
    struct test_host host;
    bool struck = true;
    long number;
    test_host_init(&host);
    for (number = 0; struck; number++) {
        open_world("goldens/a_all_features",
                   (hymba_context_params){.n_threads = 1, .host = &host.host}, 8, 3);
        struct wish wish = wish_random(world.vocabulary, 0, 4, 30);
        wish.session.snapshot_interval = 8;
        struct scheduled *keeper = make(wish);
        add(keeper, world.scheduler);
        struct scheduled *other = add_random(3, 0, 30);
        while (hymba_session_length(keeper->session) < 15)
            step_world();
        size_t n_events = other->n_events;
        ck_assert_uint_eq(hymba_session_snapshot_count(keeper->session), 1);
        test_host_fail_at(&host, number, false);
        step_world();
        struck = host.n_allocations > number;
        test_host_fail_at(&host, -1, false);
        ck_assert_uint_eq(other->n_events, n_events + 1);
        if (struck)
            expect_end(keeper, HYMBA_STOP_NONE, HYMBA_ERROR_MEMORY);
        ck_assert_uint_eq(hymba_session_length(keeper->session), struck ? 15 : 16);
        ck_assert_uint_eq(hymba_session_snapshot_count(keeper->session), struck ? 1 : 2);
        finish_world();
        compare(other);
        if (!struck)
            compare(keeper);
        close_world();
    }
    ck_assert_int_gt(number, 2);
    test_host_check(&host);
}
END_TEST

/* A step without memory ends who was cancelled, and says so of the others when it is alone with
 * them: a host can make room by cancelling. */
START_TEST(a_cancelled_request_ends_without_memory)
{
    struct test_host host;
    test_host_init(&host);
    open_world("goldens/a_all_features",
               (hymba_context_params){.n_threads = 1, .host = &host.host}, 8, 3);
    struct scheduled *first = add_random(0, 4, 10), *second = add_random(1, 5, 10);
    test_host_fail_at(&host, 0, true);
    ck_assert_int_eq(schedule_step(world.scheduler, world.list, world.n, &error),
                     HYMBA_ERROR_MEMORY);
    hymba_scheduler_cancel(world.scheduler, second->request);
    step_world();
    ck_assert_int_eq(schedule_step(world.scheduler, world.list, world.n, &error),
                     HYMBA_ERROR_MEMORY);
    test_host_fail_at(&host, -1, false);
    expect_end(second, HYMBA_STOP_CANCELLED, HYMBA_OK);
    ck_assert_uint_eq(hymba_session_length(second->session), 1);
    ck_assert_uint_eq(first->n_events, 0);
    ck_assert_uint_eq(hymba_session_length(first->session), 0);
    finish_world();
    compare(first);
    close_world();
    test_host_check(&host);
}
END_TEST

/* ---------------------------------------------------------------- arguments */

START_TEST(arguments_are_checked)
{
    hymba_scheduler *scheduler = (void *)&error;
    hymba_scheduler_params params = {.struct_size = sizeof params};
    hymba_request_params request = {.struct_size = sizeof request};
    hymba_generation_params generation = {.struct_size = sizeof generation, .n_top = 1u << 30};
    uint64_t number = 5;
    size_t n = 5;
    open_simple(8);
    hymba_context *other = make_context(world.golden.model, (hymba_context_params){0});
    struct scheduled *item = make_random(0, 5, 3);
    const int32_t *tokens = item->wish->tokens;
    const int32_t bad[] = {1, 2, -1};
    test_status(hymba_scheduler_create(world.context, 0, NULL, &scheduler, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_ptr_null(scheduler);
    ck_assert_ptr_nonnull(strstr(error.message, "token_budget"));
    test_status(hymba_scheduler_create(NULL, 1, NULL, &scheduler, &error), HYMBA_ERROR_ARGUMENT,
                error);
    test_status(hymba_scheduler_create(world.context, 1, NULL, NULL, &error), HYMBA_ERROR_ARGUMENT,
                error);
    params.max_requests = 65537;
    test_status(hymba_scheduler_create(world.context, 1, &params, &scheduler, &error),
                HYMBA_ERROR_ARGUMENT, error);
    params.max_requests = 65536;
    test_status(hymba_scheduler_create(world.context, 1, &params, &scheduler, &error), HYMBA_OK,
                error);
    hymba_scheduler_release(scheduler);
    scheduler = make_scheduler(other, 1);
    test_status(hymba_scheduler_add(scheduler, item->session, item->sampler, tokens, 5, NULL,
                                    &number, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_uint_eq(number, 0);
    hymba_scheduler_release(scheduler);
    hymba_context_release(other);

    scheduler = world.scheduler;
    test_status(hymba_scheduler_add(NULL, item->session, item->sampler, tokens, 5, NULL, &number,
                                    &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_scheduler_add(scheduler, NULL, item->sampler, tokens, 5, NULL, &number,
                                    &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_scheduler_add(scheduler, item->session, item->sampler, NULL, 5, NULL,
                                    &number, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_scheduler_add(scheduler, item->session, item->sampler, tokens, 5, NULL, NULL,
                                    &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_scheduler_add(scheduler, item->session, item->sampler, tokens, SIZE_MAX,
                                    NULL, &number, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_scheduler_add(scheduler, item->session, item->sampler, bad, 3, NULL, &number,
                                    &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 2);
    test_status(hymba_scheduler_add(scheduler, item->session, item->sampler, NULL, 0, NULL,
                                    &number, &error),
                HYMBA_ERROR_STATE, error);
    request.generation = &generation;
    test_status(hymba_scheduler_add(scheduler, item->session, item->sampler, tokens, 5, &request,
                                    &number, &error),
                HYMBA_ERROR_ARGUMENT, error);
    generation = (hymba_generation_params){
        .struct_size = sizeof generation, .n_stop_strings = 1,
        .stop_strings = (const char *const[]){"x"}};
    test_status(hymba_scheduler_add(scheduler, item->session, item->sampler, tokens, 5, &request,
                                    &number, &error),
                HYMBA_ERROR_ARGUMENT, error); /* no tokenizer */
    generation = (hymba_generation_params){.struct_size = sizeof generation, .flags = 1u << 31};
    test_status(hymba_scheduler_add(scheduler, item->session, item->sampler, tokens, 5, &request,
                                    &number, &error),
                HYMBA_ERROR_UNSUPPORTED, error);
    ck_assert_uint_eq(hymba_scheduler_count(scheduler), 0);
    ck_assert_uint_eq(hymba_scheduler_count(NULL), 0);

    struct wish full = wish_random(world.vocabulary, 0, 6, 3);
    full.session.max_tokens = 5;
    test_status(scheduled_add(make(full), scheduler, &error), HYMBA_ERROR_LIMIT, error);
    add(item, scheduler);
    number = item->request;
    test_status(scheduled_add(item, scheduler, &error), HYMBA_ERROR_STATE, error);
    test_status(hymba_scheduler_add(scheduler, world.list[1].session, item->sampler, tokens, 3,
                                    NULL, &item->request, &error),
                HYMBA_ERROR_STATE, error); /* its sampler, too, is taken */
    item->request = number;
    test_status(hymba_scheduler_step(NULL, NULL, sizeof(hymba_request_event), 0, &n, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_scheduler_step(scheduler, NULL, sizeof(hymba_request_event), 0, NULL,
                                     &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_scheduler_step(scheduler, NULL, sizeof(hymba_request_event), 3, &n, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_scheduler_step(scheduler, NULL, sizeof(hymba_request_event) - 1, 0, &n,
                                     &error),
                HYMBA_ERROR_ARGUMENT, error);
    finish_world();
    compare(item);
    close_world();
}
END_TEST

START_TEST(a_sampler_is_in_one_scheduler)
{
    open_simple(8);
    hymba_context *context = make_context(world.golden.model,
                                          (hymba_context_params){.n_threads = 1});
    hymba_scheduler *other = make_scheduler(context, 8);
    struct scheduled *item = add_random(0, 4, 3);
    hymba_session *session;
    uint64_t number;
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_scheduler_add(other, session, item->sampler, (int32_t[]){1, 2}, 2, NULL,
                                    &number, &error),
                HYMBA_ERROR_STATE, error);
    ck_assert_uint_eq(hymba_scheduler_count(other), 0);
    finish_world();
    compare(item);
    test_status(hymba_scheduler_add(other, session, item->sampler, (int32_t[]){1, 2}, 2, NULL,
                                    &number, &error),
                HYMBA_OK, error); /* the first request has ended */
    hymba_scheduler_release(other);
    test_status(hymba_scheduler_add(world.scheduler, world.list[0].session, item->sampler,
                                    (int32_t[]){1, 2}, 2, NULL, &number, &error),
                HYMBA_OK, error); /* the last release ends requests, too */
    hymba_session_release(session);
    hymba_context_release(context);
    close_world();
}
END_TEST

START_TEST(too_few_events_compute_nothing)
{
    hymba_request_event events[3];
    size_t n = 7;
    open_simple(64);
    test_status(hymba_scheduler_step(world.scheduler, NULL, sizeof events[0], 0, &n, &error),
                HYMBA_OK, error); /* no request, no event */
    ck_assert_uint_eq(n, 0);
    for (int i = 0; i < 3; i++)
        add_random(2, 4, 3);
    test_status(hymba_scheduler_step(world.scheduler, events, sizeof events[0], 2, &n, &error),
                HYMBA_ERROR_BUFFER, error);
    ck_assert_uint_eq(n, 3);
    test_status(hymba_scheduler_step(world.scheduler, NULL, sizeof events[0], 0, &n, &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(n, 3);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(hymba_session_length(world.list[i].session), 2);
    finish_world();
    for (int i = 0; i < 3; i++)
        compare(&world.list[i]);
    close_world();
}
END_TEST

/* Elements of a newer caller's are larger; what this library does not know is zero. */
START_TEST(events_of_a_newer_caller)
{
    struct {
        hymba_request_event event;
        uint64_t later[2];
    } events[2];
    size_t n;
    open_simple(64);
    struct scheduled *first = add_random(2, 0, 3), *second = add_random(3, 0, 3);
    memset(events, 0x7f, sizeof events);
    test_status(hymba_scheduler_step(world.scheduler, &events[0].event, sizeof events[0], 2, &n,
                                     &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(n, 2);
    ck_assert_ptr_eq(events[0].event.user, first);
    ck_assert_ptr_eq(events[1].event.user, second);
    for (int i = 0; i < 2; i++)
        ck_assert(events[i].later[0] == 0 && events[i].later[1] == 0);
    close_world();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scheduler failures");
    TCase *tests = tcase_create("scheduler failures");
    tcase_set_timeout(tests, 600);
    tcase_add_test(tests, a_request_fails_alone);
    tcase_add_test(tests, a_cancelled_step_can_be_repeated);
    if (!test_looks_for_races()) /* one thread, many times */
        tcase_add_test(tests, an_allocation_fails_one_request_at_most);
    tcase_add_test(tests, a_snapshot_without_memory_fails_its_request_alone);
    tcase_add_test(tests, a_cancelled_request_ends_without_memory);
    tcase_add_test(tests, arguments_are_checked);
    tcase_add_test(tests, a_sampler_is_in_one_scheduler);
    tcase_add_test(tests, too_few_events_compute_nothing);
    tcase_add_test(tests, events_of_a_newer_caller);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
