/*
 * What the tests of the scheduler share: a model, a context with a scheduler, and requests of
 * random prompts.
 */
#ifndef HYMBA_SCHEDULER_TEST_H
#define HYMBA_SCHEDULER_TEST_H

#include "golden.h"
#include "schedule_world.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LIST = 24 };

static hymba_error error = {.struct_size = sizeof error};

static inline hymba_context *make_context(hymba_model *model, hymba_context_params params)
{
    hymba_context *context;
    params.struct_size = sizeof params;
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

static inline hymba_scheduler *make_scheduler(hymba_context *context, uint32_t token_budget)
{
    hymba_scheduler *scheduler;
    test_status(hymba_scheduler_create(context, token_budget, NULL, &scheduler, &error), HYMBA_OK,
                error);
    return scheduler;
}

static inline void add(struct scheduled *scheduled, hymba_scheduler *scheduler)
{
    test_status(scheduled_add(scheduled, scheduler, &error), HYMBA_OK, error);
}

static inline void step(hymba_scheduler *scheduler, struct scheduled *list, size_t n)
{
    test_status(schedule_step(scheduler, list, n, &error), HYMBA_OK, error);
}

static struct {
    struct golden golden;
    size_t vocabulary;
    hymba_context *context;
    hymba_scheduler *scheduler;
    struct wish wishes[MAX_LIST];
    struct scheduled list[MAX_LIST];
    size_t n;
} world;

static inline void open_world(const char *name, hymba_context_params params, uint32_t token_budget,
                       unsigned seed)
{
    memset(&world, 0, sizeof world);
    golden_open(&world.golden, name);
    world.vocabulary = world.golden.model->plan.config.vocabulary_size;
    world.context = make_context(world.golden.model, params);
    world.scheduler = make_scheduler(world.context, token_budget);
    test_random_seed(seed);
}

static inline void open_simple(uint32_t token_budget)
{
    open_world("goldens/a_all_features", (hymba_context_params){.n_threads = 1}, token_budget, 3);
}

/* Makes a request of the wish, which is not added yet. */
static inline struct scheduled *make(struct wish wish)
{
    world.wishes[world.n] = wish;
    scheduled_open(&world.list[world.n], world.context, &world.wishes[world.n]);
    return &world.list[world.n++];
}

static inline struct scheduled *make_random(size_t n_before, size_t n_prompt, uint64_t max_tokens)
{
    return make(wish_random(world.vocabulary, n_before, n_prompt, max_tokens));
}

static inline struct scheduled *add_random(size_t n_before, size_t n_prompt, uint64_t max_tokens)
{
    struct scheduled *scheduled = make_random(n_before, n_prompt, max_tokens);
    add(scheduled, world.scheduler);
    return scheduled;
}

static inline void step_world(void)
{
    step(world.scheduler, world.list, world.n);
}

static inline void finish_world(void)
{
    schedule_finish(world.scheduler, world.list, world.n);
}

static inline void compare(const struct scheduled *scheduled)
{
    schedule_compare(world.context, scheduled);
}

/* Asserts how a request ended. */
static inline void expect_end(const struct scheduled *scheduled, int32_t stop, hymba_status status)
{
    ck_assert(scheduled->ended);
    ck_assert_int_eq(scheduled->status, status);
    ck_assert_int_eq(scheduled->stop, stop);
}

static inline void close_world(void)
{
    hymba_scheduler_release(world.scheduler);
    for (size_t i = 0; i < world.n; i++)
        scheduled_close(&world.list[i]);
    hymba_context_release(world.context);
    golden_close(&world.golden);
}

#endif
