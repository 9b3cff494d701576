/*
 * The scheduler on a device with memory of its own: requests give what they give alone there, also
 * where the device chooses tokens; and what a failing device leaves.
 */
#include <string.h>

#include "golden.h"
#include "guarded_world.h"
#include "../run/schedule_world.h"

enum { N_REQUESTS = 5 };

static hymba_error error = {.struct_size = sizeof error};

static struct {
    struct golden golden;
    hymba_context *context;
    hymba_scheduler *scheduler;
    struct wish wishes[N_REQUESTS];
    struct scheduled list[N_REQUESTS];
} world;

static void open_world(uint32_t token_budget)
{
    hymba_context_params params = {.max_step_tokens = 16, .rewind_tokens = 1};
    memset(&world, 0, sizeof world);
    golden_open(&world.golden, "goldens/a_all_features");
    world.context = guarded_context(world.golden.model, params, "cuda");
    test_status(hymba_scheduler_create(world.context, token_budget, NULL, &world.scheduler,
                                       &error),
                HYMBA_OK, error);
    test_random_seed(9);
    for (int i = 0; i < N_REQUESTS; i++) {
        world.wishes[i] = wish_random(world.golden.model->plan.config.vocabulary_size,
                                      (size_t)(i % 2) * 3, 4 + 9 * (size_t)i, 6);
        world.wishes[i].temperature = i % 2 ? 0 : 0.8f;
        world.wishes[i].prompt_only = i == 3;
        world.wishes[i].n_top = i == 4 ? 2 : 0; /* the logits are wanted on the host */
    }
}

static void add_all(void)
{
    for (int i = 0; i < N_REQUESTS; i++) {
        scheduled_open(&world.list[i], world.context, &world.wishes[i]);
        test_status(scheduled_add(&world.list[i], world.scheduler, &error), HYMBA_OK, error);
    }
}

static void close_all(void)
{
    for (int i = 0; i < N_REQUESTS; i++)
        scheduled_close(&world.list[i]);
}

static void close_world(void)
{
    hymba_scheduler_release(world.scheduler);
    close_all();
    hymba_context_release(world.context);
    golden_close(&world.golden);
}

START_TEST(each_gives_what_it_gives_alone)
{
    static const uint32_t budgets[] = {2, 7, 100};
    open_world(budgets[_i]);
    add_all();
    schedule_finish(world.scheduler, world.list, N_REQUESTS);
    for (int i = 0; i < N_REQUESTS; i++)
        schedule_compare(world.context, &world.list[i]);
    close_world();
}
END_TEST

/* The n-th piece of work cannot be waited for: the device is lost, for all. */
START_TEST(a_lost_device_ends_all_steps)
{
    hymba_status status = HYMBA_OK;
    uint64_t lengths[N_REQUESTS];
    open_world(7);
    add_all();
    for (int i = 0; i < 2; i++)
        test_status(schedule_step(world.scheduler, world.list, N_REQUESTS, &error), HYMBA_OK,
                    error);
    for (int i = 0; i < N_REQUESTS; i++)
        lengths[i] = hymba_session_length(world.list[i].session);
    guarded->finish_status = HYMBA_ERROR_DEVICE;
    guarded->fail_finish = guarded->n_finishes;
    status = schedule_step(world.scheduler, world.list, N_REQUESTS, &error);
    ck_assert_int_eq(status, HYMBA_ERROR_DEVICE);
    for (int i = 0; i < N_REQUESTS; i++)
        ck_assert_uint_eq(hymba_session_length(world.list[i].session), lengths[i]);
    guarded->fail_finish = -1;
    test_status(schedule_step(world.scheduler, world.list, N_REQUESTS, &error),
                HYMBA_ERROR_DEVICE, error);
    test_status(scheduled_add(&world.list[0], world.scheduler, &error), HYMBA_ERROR_DEVICE, error);
    ck_assert_uint_eq(hymba_scheduler_count(world.scheduler), N_REQUESTS);
    close_world();
}
END_TEST

/* Work for which there was no memory, or a block that there is not: the step is repeated, or one
 * request fails; the others do not notice. _i: 0 finish, 1 allocation. */
START_TEST(without_memory_at_most_one_request_fails)
{
    long *number = _i == 0 ? &guarded->fail_finish : &guarded->fail_allocation;
    const _Atomic long *count = _i == 0 ? &guarded->n_finishes : &guarded->n_allocations;
    long n_struck = 0;
    guarded->finish_status = HYMBA_ERROR_MEMORY;
    open_world(9);
    for (bool struck = true; struck; n_struck++) {
        int n_failed = 0, n_repeated = 0;
        add_all();
        *number = *count + n_struck;
        while (hymba_scheduler_count(world.scheduler) > 0) {
            hymba_status status =
                schedule_step(world.scheduler, world.list, N_REQUESTS, &error);
            ck_assert(status == HYMBA_OK || status == HYMBA_ERROR_MEMORY);
            n_repeated += status != HYMBA_OK;
        }
        struck = *count > *number;
        *number = -1;
        for (int i = 0; i < N_REQUESTS; i++) {
            n_failed += world.list[i].status == HYMBA_ERROR_MEMORY;
            if (world.list[i].status == HYMBA_OK)
                schedule_compare(world.context, &world.list[i]);
        }
        ck_assert_int_le(n_failed + n_repeated, 1);
        ck_assert(n_failed + n_repeated == 1 || !struck || _i == 1);
        close_all();
    }
    ck_assert_int_gt(n_struck, 3);
    memset(world.list, 0, sizeof world.list);
    close_world();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device scheduler");
    TCase *tests = tcase_create("device scheduler");
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, guarded_begin, guarded_end);
    tcase_add_loop_test(tests, each_gives_what_it_gives_alone, 0, 3);
    tcase_add_test(tests, a_lost_device_ends_all_steps);
    tcase_add_loop_test(tests, without_memory_at_most_one_request_fails, 0, 2);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
