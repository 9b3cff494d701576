/*
 * The scheduler: whatever runs beside it, a request gives to the bit what a generation gives alone;
 * and a request that is cancelled or disturbed harms no other.
 */
#include "scheduler_test.h"

static const char *const models[] = {
    "goldens/a_all_features",   "goldens/b_no_meta",     "goldens/d_all_full",
    "goldens/f_official_like",  "variants/mamba_only",   "variants/mixed_group",
};
enum { N_MODELS = sizeof models / sizeof models[0] };

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
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
