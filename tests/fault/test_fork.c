/*
 * A process that was forked off and gets no threads, or not all: those that are there do all the
 * work.
 */
#include "base/thread.h"

#include <errno.h>

#include "fault_injection.h"
#include "host.h"
#include "process.h"

enum { N_THREADS = 4, N_UNITS = 64 };

static struct test_host host;
static hymba_error error = {.struct_size = sizeof error};

static const struct fork_case {
    struct fault fault;
    unsigned n_threads; /* that the child has then */
} cases[] = {
    {{FAULT_THREAD, FAULT_EVER_AFTER, EAGAIN, 0}, 1},
    {{FAULT_THREAD, FAULT_EVER_AFTER, EAGAIN, 1}, 2},
    {{FAULT_THREAD, FAULT_ONCE, EAGAIN, 2}, 3},
    {{FAULT_THREAD, FAULT_ONCE, EAGAIN, 3}, N_THREADS}, /* it asks for three */
    {{FAULT_LOCK, FAULT_ONCE, EAGAIN, 0}, 1},
    {{FAULT_LOCK, FAULT_ONCE, EAGAIN, 1}, 1},
    {{FAULT_LOCK, FAULT_ONCE, EAGAIN, 2}, 1},
};

enum { N_CASES = sizeof cases / sizeof cases[0] };

struct inherited {
    struct hy_pool *pool;
    const struct fork_case *expected;
};

static void add_one(void *argument, size_t begin, size_t end, unsigned part)
{
    unsigned *sums = argument;
    (void)part;
    for (size_t i = begin; i < end; i++)
        sums[i]++;
}

static bool adds_rightly(struct hy_pool *pool)
{
    enum { N_RUNS = 20 };
    unsigned sums[N_UNITS] = {0};
    for (int i = 0; i < N_RUNS; i++)
        hy_pool_run(pool, add_one, sums, N_UNITS, 1, 1);
    for (int i = 0; i < N_UNITS; i++)
        if (sums[i] != N_RUNS)
            return false;
    return true;
}

/* A child of the child finds what that one has, and starts anew. */
static bool use_again(void *argument)
{
    struct hy_pool *pool = argument;
    bool good = adds_rightly(pool);
    hy_pool_destroy(pool);
    return good && host.used == 0;
}

static bool use(void *argument)
{
    const struct inherited *inherited = argument;
    fault_arm(&inherited->expected->fault);
    bool good = adds_rightly(inherited->pool);
    fault_disarm();
    good = good && adds_rightly(inherited->pool) &&
           test_has_threads(inherited->expected->n_threads) &&
           test_in_child(use_again, inherited->pool) && adds_rightly(inherited->pool);
    hy_pool_destroy(inherited->pool);
    return good && host.used == 0;
}

/* The thread sanitizer allows a child no threads. */
START_TEST(not_all_threads)
{
    struct hy_memory memory;
    struct hy_pool *pool;
    if (test_looks_for_races())
        return;
    test_host_init(&host);
    test_status(hy_memory_init(&memory, &host.host, &error), HYMBA_OK, error);
    test_status(hy_pool_create(&memory, N_THREADS, &pool, &error), HYMBA_OK, error);
    ck_assert(adds_rightly(pool));
    struct inherited inherited = {pool, &cases[_i]};
    ck_assert(test_in_child(use, &inherited));
    ck_assert(adds_rightly(pool));
    hy_pool_destroy(pool);
    test_host_check(&host);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fork");
    TCase *tests = tcase_create("fork");
    tcase_set_timeout(tests, 600);
    tcase_add_loop_test(tests, not_all_threads, 0, N_CASES);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
