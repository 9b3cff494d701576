/*
 * The scheduler: whatever runs beside it, a request gives to the bit what a generation gives alone;
 * and a request that is cancelled, disturbed or without memory harms no other.
 */
#include "golden.h"
#include "host.h"
#include "schedule_world.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LIST = 24 };

static const char *const models[] = {
    "goldens/a_all_features",   "goldens/b_no_meta",     "goldens/d_all_full",
    "goldens/f_official_like",  "variants/mamba_only",   "variants/mixed_group",
};
enum { N_MODELS = sizeof models / sizeof models[0] };

static hymba_error error = {.struct_size = sizeof error};

static hymba_context *make_context(hymba_model *model, hymba_context_params params)
{
    hymba_context *context;
    params.struct_size = sizeof params;
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

static hymba_scheduler *make_scheduler(hymba_context *context, uint32_t token_budget)
{
    hymba_scheduler *scheduler;
    test_status(hymba_scheduler_create(context, token_budget, NULL, &scheduler, &error), HYMBA_OK,
                error);
    return scheduler;
}

static void add(struct scheduled *scheduled, hymba_scheduler *scheduler)
{
    test_status(scheduled_add(scheduled, scheduler, &error), HYMBA_OK, error);
}

static void step(hymba_scheduler *scheduler, struct scheduled *list, size_t n)
{
    test_status(schedule_step(scheduler, list, n, &error), HYMBA_OK, error);
}

/* A model, a context with a scheduler, and n requests of some random prompts. */
static struct {
    struct golden golden;
    size_t vocabulary;
    hymba_context *context;
    hymba_scheduler *scheduler;
    struct wish wishes[MAX_LIST];
    struct scheduled list[MAX_LIST];
    size_t n;
} world;

static void open_world(const char *name, hymba_context_params params, uint32_t token_budget,
                       unsigned seed)
{
    memset(&world, 0, sizeof world);
    golden_open(&world.golden, name);
    world.vocabulary = world.golden.model->plan.config.vocabulary_size;
    world.context = make_context(world.golden.model, params);
    world.scheduler = make_scheduler(world.context, token_budget);
    test_random_seed(seed);
}

static void open_simple(uint32_t token_budget)
{
    open_world("goldens/a_all_features", (hymba_context_params){.n_threads = 1}, token_budget, 3);
}

/* Makes a request of the wish, which is not added yet. */
static struct scheduled *make(struct wish wish)
{
    world.wishes[world.n] = wish;
    scheduled_open(&world.list[world.n], world.context, &world.wishes[world.n]);
    return &world.list[world.n++];
}

static struct scheduled *make_random(size_t n_before, size_t n_prompt, uint64_t max_tokens)
{
    return make(wish_random(world.vocabulary, n_before, n_prompt, max_tokens));
}

static struct scheduled *add_random(size_t n_before, size_t n_prompt, uint64_t max_tokens)
{
    struct scheduled *scheduled = make_random(n_before, n_prompt, max_tokens);
    add(scheduled, world.scheduler);
    return scheduled;
}

static void step_world(void)
{
    step(world.scheduler, world.list, world.n);
}

static void finish_world(void)
{
    schedule_finish(world.scheduler, world.list, world.n);
}

static void compare(const struct scheduled *scheduled)
{
    schedule_compare(world.context, scheduled);
}

/* Asserts how a request ended. */
static void expect_end(const struct scheduled *scheduled, int32_t stop, hymba_status status)
{
    ck_assert(scheduled->ended);
    ck_assert_int_eq(scheduled->status, status);
    ck_assert_int_eq(scheduled->stop, stop);
}

static void close_world(void)
{
    hymba_scheduler_release(world.scheduler);
    for (size_t i = 0; i < world.n; i++)
        scheduled_close(&world.list[i]);
    hymba_context_release(world.context);
    golden_close(&world.golden);
}

/* ------------------------------------------------------------------ results */

static struct wish random_wish(void)
{
    size_t before = test_random() < 0.3 ? 1 + test_random_below(40) : 0;
    size_t prompt = before > 0 && test_random() < 0.3 ? 0 : 1 + test_random_below(150);
    struct wish wish = wish_random(world.vocabulary, before, prompt, 1 + test_random_below(20));
    wish.temperature = test_random() < 0.5 ? 0 : 0.9f;
    wish.prompt_only = test_random() < 0.15;
    wish.n_top = test_random() < 0.3 ? 3 : 0;
    if (test_random() < 0.3)
        wish.session.snapshot_interval = 16;
    if (test_random() < 0.2)
        wish.flags = 0;
    if (test_random() < 0.2)
        wish.session.max_tokens = before + prompt + 3;
    if (test_random() < 0.2) {
        wish.session.max_tokens = before + prompt + 3;
        wish.session.limit_policy = HYMBA_LIMIT_SLIDE;
    }
    return wish;
}

/* _i: number of the model and of the budget. */
START_TEST(each_gives_what_it_gives_alone)
{
    static const uint32_t budgets[] = {1, 3, 7, 16, 40, UINT32_MAX};
    hymba_context_params params = {.n_threads = 1 + (uint32_t)_i % 2,
                                   .rewind_tokens = _i % 3 == 0 ? 4 : 0,
                                   .compute = HYMBA_COMPUTE_F32};
    open_world(models[_i % N_MODELS], params, budgets[_i % 6], (unsigned)_i);
    size_t n_added = 0, n = test_looks_for_races() ? 8 : MAX_LIST;
    while (n_added < n || hymba_scheduler_count(world.scheduler) > 0) {
        while (n_added < n && test_random() < 0.4) {
            add(make(random_wish()), world.scheduler);
            n_added++;
        }
        step_world();
    }
    for (size_t i = 0; i < world.n; i++)
        compare(&world.list[i]);
    close_world();
}
END_TEST

/* Text in the midst of which others come and go, ends before stop strings, and alternatives. */
START_TEST(text_is_that_of_a_generation)
{
    static const char *const prompts[] = {"Once upon a time", "The little dog", "One day, ",
                                          "Lily and Tom"};
    static const char *const stops[] = {NULL, "the", ". ", "e"};
    hymba_model *model;
    memset(&world, 0, sizeof world);
    test_status(hymba_model_open("examples/demo", NULL, &model, &error), HYMBA_OK, error);
    world.context = make_context(model, (hymba_context_params){.compute = HYMBA_COMPUTE_F32});
    world.scheduler = make_scheduler(world.context, 9);
    for (int i = 0; i < 8; i++) {
        size_t length;
        struct wish wish = wish_random(10, 0, 0, 25);
        wish.tokenizer = hymba_model_tokenizer(model);
        test_status(hymba_tokenizer_encode(wish.tokenizer, prompts[i / 2], HYMBA_NUL_TERMINATED,
                                           HYMBA_ENCODE_BOS, wish.tokens, WISH_MAX_PROMPT, &length,
                                           &error),
                    HYMBA_OK, error);
        wish.n_before = i % 2 ? length / 2 : 0;
        wish.n_prompt = length - wish.n_before;
        wish.temperature = i % 3 ? 0 : 0.8f;
        wish.stop_string = stops[i % 4];
        wish.n_top = (uint32_t)i % 3;
        add(make(wish), world.scheduler);
        step_world();
    }
    finish_world();
    int n_stopped = 0;
    for (size_t i = 0; i < world.n; i++) {
        compare(&world.list[i]);
        n_stopped += world.list[i].stop == HYMBA_STOP_STRING;
    }
    ck_assert_int_gt(n_stopped, 2);
    hymba_model_release(model);
    hymba_scheduler_release(world.scheduler);
    for (size_t i = 0; i < world.n; i++)
        scheduled_close(&world.list[i]);
    hymba_context_release(world.context);
}
END_TEST

/* Text and alternatives of an event stay valid while the host adds requests after it. */
START_TEST(events_live_until_the_next_step)
{
    hymba_request_event events[2];
    size_t n_events;
    open_simple(64);
    struct wish wish = wish_random(world.vocabulary, 4, 0, 1);
    wish.n_top = 2;
    struct scheduled *first = make(wish), *second = make(wish);
    hymba_scheduler *scheduler = world.scheduler;
    add(first, scheduler);
    test_status(hymba_scheduler_step(scheduler, events, sizeof events[0], 2, &n_events, &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(n_events, 1);
    ck_assert_int_eq(events[0].kind, HYMBA_EVENT_TOKEN);
    test_status(hymba_scheduler_step(scheduler, events, sizeof events[0], 2, &n_events, &error),
                HYMBA_OK, error);
    ck_assert_int_eq(events[0].kind, HYMBA_EVENT_END);
    ck_assert_int_eq(events[0].stop, HYMBA_STOP_LENGTH);
    ck_assert_uint_eq(events[0].request, first->request);
    uint64_t number = first->request;
    add(first, scheduler); /* its session is free */
    add(second, scheduler);
    ck_assert_uint_gt(first->request, number);
    ck_assert_str_eq(events[0].text, "");
    ck_assert_str_eq(events[0].message, "");
    ck_assert_uint_eq(hymba_scheduler_count(scheduler), 2);
    close_world(); /* with two requests under way */
}
END_TEST

/* ------------------------------------------------- cancelling and disturbing */

START_TEST(cancelled_requests_end_and_others_go_on)
{
    open_simple(8);
    struct scheduled *at_once = add_random(0, 30, 20), *in_prompt = add_random(0, 100, 20);
    struct scheduled *in_text = add_random(3, 0, 100), *other = add_random(0, 40, 12);
    struct scheduled *only_prompt = make(wish_random(world.vocabulary, 0, 90, 0));
    world.wishes[world.n - 1].prompt_only = true;
    add(only_prompt, world.scheduler);
    hymba_scheduler_cancel(world.scheduler, at_once->request);
    step_world();
    expect_end(at_once, HYMBA_STOP_CANCELLED, HYMBA_OK);
    ck_assert_uint_eq(hymba_session_length(at_once->session), 0);
    step_world();
    step_world();
    ck_assert_uint_eq(in_text->n_events, 3);
    hymba_scheduler_cancel(world.scheduler, in_prompt->request);
    hymba_scheduler_cancel(world.scheduler, in_text->request);
    hymba_scheduler_cancel(world.scheduler, only_prompt->request);
    step_world();
    expect_end(in_prompt, HYMBA_STOP_CANCELLED, HYMBA_OK);
    expect_end(in_text, HYMBA_STOP_CANCELLED, HYMBA_OK);
    expect_end(only_prompt, HYMBA_STOP_CANCELLED, HYMBA_OK);
    ck_assert_uint_gt(hymba_session_length(in_prompt->session), 0);
    ck_assert_uint_lt(hymba_session_length(in_prompt->session), 100);
    ck_assert_uint_eq(hymba_session_length(in_text->session), 3 + 2);
    /* of numbers that are gone, or never were */
    hymba_scheduler_cancel(world.scheduler, in_text->request);
    hymba_scheduler_cancel(world.scheduler, other->request + 1);
    hymba_scheduler_cancel(world.scheduler, other->request + 256);
    hymba_scheduler_cancel(world.scheduler, 0);
    hymba_scheduler_cancel(world.scheduler, UINT64_MAX);
    hymba_scheduler_cancel(NULL, 1);
    finish_world();
    compare(other);
    close_world();
}
END_TEST

/* A slot's next request is not hit by what was meant for the one before. */
START_TEST(a_late_cancel_hits_nobody)
{
    hymba_scheduler_params params = {.struct_size = sizeof params, .max_requests = 1};
    open_simple(8);
    hymba_scheduler_release(world.scheduler);
    test_status(hymba_scheduler_create(world.context, 8, &params, &world.scheduler, &error),
                HYMBA_OK, error);
    struct scheduled *first = add_random(0, 4, 2);
    test_status(scheduled_add(make_random(0, 4, 2), world.scheduler, &error), HYMBA_ERROR_LIMIT,
                error);
    ck_assert_uint_eq(world.list[1].request, 0);
    hymba_scheduler_cancel(world.scheduler, first->request + 1);
    step_world();
    ck_assert(!first->ended);
    finish_world();
    uint64_t number = first->request;
    struct scheduled *second = add_random(0, 5, 3);
    ck_assert_uint_ne(second->request, number);
    hymba_scheduler_cancel(world.scheduler, number);
    finish_world();
    compare(first);
    compare(second);
    close_world();
}
END_TEST

/* The host gives its handles away, and at last the scheduler, while requests run. */
START_TEST(handles_may_be_released_on_the_way)
{
    open_simple(8);
    struct scheduled *released = add_random(2, 30, 10), *kept = add_random(0, 20, 10);
    step_world();
    hymba_sampler_release(released->sampler);
    hymba_sampler_release(kept->sampler);
    released->sampler = kept->sampler = NULL;
    hymba_session *session = hymba_session_retain(released->session);
    hymba_session_release(released->session);
    hymba_session_release(session); /* the scheduler alone has it now */
    for (int i = 0; i < 3; i++)
        step_world();
    ck_assert_ptr_eq(hymba_scheduler_retain(world.scheduler), world.scheduler);
    hymba_scheduler_release(world.scheduler);
    ck_assert_uint_eq(hymba_scheduler_count(world.scheduler), 2);
    hymba_scheduler_release(world.scheduler);
    released->session = NULL;
    /* the other session is where it was, and free */
    uint64_t length = hymba_session_length(kept->session);
    ck_assert_uint_gt(length, 0);
    world.scheduler = make_scheduler(world.context, 8);
    struct wish rest = *kept->wish;
    rest.n_before = length;
    rest.n_prompt = 20 - length;
    hymba_session *continued = kept->session;
    struct scheduled *again = make(rest);
    kept->session = again->session;
    again->session = continued;
    add(again, world.scheduler);
    finish_world();
    expect_end(again, HYMBA_STOP_LENGTH, HYMBA_OK);
    ck_assert_uint_eq(hymba_session_length(again->session), 30);
    struct record alone = {0};
    record_alone(world.context, kept->wish, &alone);
    ck_assert_str_eq(again->record.text, alone.text);
    record_free(&alone);
    close_world();
}
END_TEST

START_TEST(a_session_that_was_changed_fails_its_request_alone)
{
    open_simple(6);
    struct scheduled *reset = add_random(0, 40, 10), *longer = add_random(3, 0, 10);
    struct scheduled *swapped = add_random(2, 30, 10);
    struct scheduled *silent = add_random(3, 0, 10), *other = add_random(0, 30, 10);
    const int32_t token = 7;
    hymba_context_cancel(world.context); /* of no call */
    step_world();
    step_world();
    test_status(hymba_session_reset(reset->session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(longer->session, &token, 1, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
    /* other tokens, as many as there were */
    const size_t length = hymba_session_length(swapped->session);
    test_status(hymba_session_rewind(swapped->session, length - 1, HYMBA_REWIND_COMPUTE, NULL,
                                     &error), HYMBA_OK, error);
    test_status(hymba_session_append(swapped->session, &token, 1, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(hymba_session_length(swapped->session), length);
    step_world();
    expect_end(reset, HYMBA_STOP_NONE, HYMBA_ERROR_STATE);
    expect_end(longer, HYMBA_STOP_NONE, HYMBA_ERROR_STATE);
    expect_end(swapped, HYMBA_STOP_NONE, HYMBA_ERROR_STATE);
    ck_assert_uint_eq(hymba_session_length(reset->session), 0);
    /* they are free, and can be asked for again */
    record_free(&reset->record);
    reset->ended = false;
    reset->status = HYMBA_OK;
    hymba_sampler_reset(reset->sampler);
    for (size_t i = 0; i < 40; i++)
        test_status(hymba_sampler_accept(reset->sampler, reset->wish->tokens[i], &error), HYMBA_OK,
                    error);
    add(reset, world.scheduler);
    finish_world();
    compare(reset);
    compare(silent);
    compare(other);
    close_world();
}
END_TEST

/* A session whose logits are gone before its first token: they cannot be read. */
START_TEST(lost_logits_fail_the_request)
{
    open_simple(6);
    struct scheduled *lost = add_random(3, 0, 10), *other = add_random(0, 30, 10);
    world.list[0].session->logits_rows = 0; /* as after a call that was cancelled */
    finish_world();
    expect_end(lost, HYMBA_STOP_NONE, HYMBA_ERROR_STATE);
    compare(other);
    close_world();
}
END_TEST

/* ----------------------------------------------------------------- failures */

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
    Suite *suite = suite_create("scheduler");
    TCase *tests = tcase_create("scheduler");
    tcase_set_timeout(tests, 600);
    tcase_add_loop_test(tests, each_gives_what_it_gives_alone, 0,
                        (test_looks_for_races() ? 1 : 3) * N_MODELS);
    tcase_add_test(tests, text_is_that_of_a_generation);
    tcase_add_test(tests, events_live_until_the_next_step);
    tcase_add_test(tests, cancelled_requests_end_and_others_go_on);
    tcase_add_test(tests, a_late_cancel_hits_nobody);
    tcase_add_test(tests, handles_may_be_released_on_the_way);
    tcase_add_test(tests, a_session_that_was_changed_fails_its_request_alone);
    tcase_add_test(tests, lost_logits_fail_the_request);
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
