/*
 * How a scheduler divides its steps, as docs/batching.md promises it: the budget is kept and
 * filled, every row is somebody's token, nobody waits longer than the bound, prompts get even
 * shares. What is checked is seen from outside, by the sessions' lengths and the rows of a pass.
 */
#include "golden.h"
#include "schedule_world.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LIST = 64 };

static hymba_error error = {.struct_size = sizeof error};

/* A request as it is seen from outside. */
struct seen {
    uint64_t length;  /* of the session, before the step */
    size_t wanted;    /* tokens that could be computed */
    size_t waited;    /* steps without a token, one wanted */
    size_t line;      /* requests in the line when this one went to its end */
    size_t n_events;  /* before the step */
};

static struct {
    struct golden golden;
    size_t vocabulary;
    hymba_context *context;
    hymba_scheduler *scheduler;
    size_t budget;
    struct row_count count;
    struct wish wishes[MAX_LIST];
    struct scheduled list[MAX_LIST];
    struct seen seen[MAX_LIST];
    size_t n;
} world;

static void open_world(size_t budget)
{
    hymba_context_params params = {
        .struct_size = sizeof params, .n_threads = 1, .max_step_tokens = 64};
    memset(&world, 0, sizeof world);
    golden_open(&world.golden, "goldens/f_official_like");
    world.vocabulary = world.golden.model->plan.config.vocabulary_size;
    test_status(hymba_context_create(world.golden.model, &params, &world.context, &error),
                HYMBA_OK, error);
    test_status(hymba_scheduler_create(world.context, (uint32_t)budget, NULL, &world.scheduler,
                                       &error),
                HYMBA_OK, error);
    world.budget = budget < 64 ? budget : 64;
    count_rows(world.context, &world.count);
}

static void close_world(void)
{
    hymba_scheduler_release(world.scheduler);
    for (size_t i = 0; i < world.n; i++)
        scheduled_close(&world.list[i]);
    hymba_context_release(world.context);
    golden_close(&world.golden);
}

static struct scheduled *add(size_t n_before, size_t n_prompt, uint64_t max_tokens)
{
    struct row_count none = world.count;
    struct scheduled *scheduled = &world.list[world.n];
    world.wishes[world.n] = wish_random(world.vocabulary, n_before, n_prompt, max_tokens);
    scheduled_open(scheduled, world.context, &world.wishes[world.n]);
    world.count = none; /* without the meta tokens and what the session has before */
    test_status(scheduled_add(scheduled, world.scheduler, &error), HYMBA_OK, error);
    world.seen[world.n] = (struct seen){.line = hymba_scheduler_count(world.scheduler)};
    world.n++;
    return scheduled;
}

static size_t prompt_end(const struct scheduled *scheduled)
{
    return scheduled->wish->n_before + scheduled->wish->n_prompt;
}

static void look(struct scheduled *scheduled, struct seen *seen)
{
    seen->length = hymba_session_length(scheduled->session);
    seen->n_events = scheduled->n_events;
    seen->wanted = 0;
    if (scheduled->ended)
        return;
    if (seen->length < prompt_end(scheduled))
        seen->wanted = prompt_end(scheduled) - (size_t)seen->length;
    else
        seen->wanted = scheduled->n_events > 0; /* the token of the last event */
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Everybody had a turn: tokens that a prompt must have got. */
static size_t least_share(size_t n_wanting, size_t n_prompts)
{
    return 1 + (world.budget - n_wanting) / n_prompts;
}

/* One step, held against the rule. */
static void step(void)
{
    size_t wanted = 0, n_wanting = 0, n_prompts = 0, rows = 0, ready = 0, n_events = 0;
    struct row_count before = world.count;
    for (size_t i = 0; i < world.n; i++) {
        look(&world.list[i], &world.seen[i]);
        wanted += world.seen[i].wanted;
        n_wanting += world.seen[i].wanted > 0;
        n_prompts += world.seen[i].wanted > 0 && world.seen[i].length < prompt_end(&world.list[i]);
        ready += !world.list[i].ended && world.seen[i].wanted == 0;
        n_events += world.list[i].n_events;
    }
    test_status(schedule_step(world.scheduler, world.list, world.n, &error), HYMBA_OK, error);
    for (size_t i = 0; i < world.n; i++) {
        struct seen *seen = &world.seen[i];
        size_t more = (size_t)(hymba_session_length(world.list[i].session) - seen->length);
        n_events -= world.list[i].n_events;
        rows += more;
        ck_assert_uint_le(more, seen->wanted);
        if (seen->wanted > 0)
            seen->waited = more > 0 ? 0 : seen->waited + 1;
        ck_assert_msg(seen->waited < (seen->line + world.budget - 1) / world.budget,
                      "waits for %zu steps, in a line of %zu", seen->waited, seen->line);
        if (more > 0 || world.list[i].n_events > seen->n_events)
            seen->line = hymba_scheduler_count(world.scheduler) + world.list[i].ended;
        if (n_wanting <= world.budget && seen->length < prompt_end(&world.list[i]) &&
            seen->wanted > 0)
            ck_assert_uint_ge(more, smaller(seen->wanted, least_share(n_wanting, n_prompts)));
    }
    ck_assert_uint_eq(rows, smaller(wanted, world.budget));
    ck_assert_uint_eq(world.count.rows - before.rows, rows);
    ck_assert_uint_eq(world.count.passes - before.passes, rows > 0);
    ck_assert(0 - n_events >= ready); /* who needs nothing computed does not wait */
}

/* _i chooses budget and crowd; now and then more come. */
START_TEST(steps_keep_to_the_rule)
{
    static const size_t budgets[] = {1, 2, 5, 16, 40, 1000};
    size_t rows = 0;
    test_random_seed((unsigned)_i);
    open_world(budgets[_i % 6]);
    size_t crowd = _i % 2 ? MAX_LIST : 10;
    while (world.n < crowd || hymba_scheduler_count(world.scheduler) > 0) {
        while (world.n < crowd && (world.n < crowd / 2 || test_random() < 0.2)) {
            size_t n_before = test_random() < 0.3 ? 3 : 0;
            size_t n_prompt = test_random() < 0.3 ? 1 + test_random_below(100)
                                                  : 1 + test_random_below(8);
            add(n_before, n_before > 0 && test_random() < 0.5 ? 0 : n_prompt,
                1 + test_random_below(12));
        }
        step();
    }
    for (size_t i = 0; i < world.n; i++)
        rows += world.wishes[i].n_prompt + world.wishes[i].max_tokens;
    ck_assert_uint_eq(world.count.rows, rows); /* each token once, and nothing else */
    close_world();
}
END_TEST

START_TEST(a_short_prompt_does_not_wait_for_long_ones)
{
    open_world(32);
    for (int i = 0; i < 3; i++)
        add(0, 500, 3);
    step();
    struct scheduled *quick = add(0, 8, 3);
    step(); /* 32 rows for four: 8 each */
    ck_assert_uint_eq(quick->n_events, 1);
    for (int i = 0; i < 3; i++)
        step();
    ck_assert(quick->ended);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_ge(hymba_session_length(world.list[i].session), 10 + 8 + 3 * 10);
    close_world();
}
END_TEST

/* More requests generate than a step has tokens: they take turns, and a prompt takes part. */
START_TEST(a_crowd_takes_turns)
{
    open_world(4);
    for (int i = 0; i < 10; i++)
        add(2, 0, 50);
    step(); /* all have logits: a token each, nothing computed */
    ck_assert_uint_eq(world.count.rows, 0);
    for (int i = 0; i < 10; i++)
        ck_assert_uint_eq(world.list[i].n_events, 1);
    struct scheduled *late = add(0, 3, 50);
    for (int i = 0; i < 33; i++) /* three turns of eleven */
        step();
    for (int i = 0; i < 10; i++)
        ck_assert_uint_eq(world.list[i].n_events, 1 + 33 * 4 / 11);
    ck_assert_uint_eq(late->n_events, 12 - 2);
    close_world();
}
END_TEST

/* Automatic snapshots fall between pieces of a prompt: a step stays one pass over the weights. */
START_TEST(snapshots_do_not_make_a_step_two)
{
    open_world(40);
    struct wish wish = wish_random(world.vocabulary, 0, 100, 4);
    wish.session.snapshot_interval = 16;
    world.wishes[0] = wish;
    scheduled_open(&world.list[0], world.context, &world.wishes[0]);
    world.n = 1;
    test_status(scheduled_add(&world.list[0], world.scheduler, &error), HYMBA_OK, error);
    while (hymba_scheduler_count(world.scheduler) > 0) {
        struct row_count before = world.count;
        test_status(schedule_step(world.scheduler, world.list, world.n, &error), HYMBA_OK, error);
        ck_assert_uint_eq(world.count.passes - before.passes, 1);
        ck_assert_uint_le(world.count.rows - before.rows, 16);
    }
    ck_assert_uint_eq(hymba_session_snapshot_count(world.list[0].session), 104 / 16);
    close_world();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("schedule rule");
    TCase *tests = tcase_create("schedule rule");
    tcase_set_timeout(tests, 600);
    tcase_add_loop_test(tests, steps_keep_to_the_rule, 0, test_looks_for_races() ? 2 : 12);
    tcase_add_test(tests, a_short_prompt_does_not_wait_for_long_ones);
    tcase_add_test(tests, a_crowd_takes_turns);
    tcase_add_test(tests, snapshots_do_not_make_a_step_two);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
