/* The pool of threads: every unit once, whole parts, sleep and wake, fork, failures. */
#include "base/thread.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "host.h"
#include "process.h"

enum { MAX_UNITS = 400, MAX_THREADS = 8 };

static struct test_host host;
static struct hy_memory memory;
static hymba_error error;

static void setup(void)
{
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    test_status(hy_memory_init(&memory, &host.host, &error), HYMBA_OK, error);
}

static void teardown(void)
{
    test_host_check(&host);
}

static struct hy_pool *new_pool(unsigned n_threads)
{
    struct hy_pool *pool;
    test_status(hy_pool_create(&memory, n_threads, &pool, &error), HYMBA_OK, error);
    ck_assert_uint_eq(hy_pool_threads(pool), n_threads);
    return pool;
}

static void wait_microseconds(long count)
{
    struct timespec pause = {count / 1000000, count % 1000000 * 1000};
    nanosleep(&pause, NULL);
}

/* What the threads write. Plain variables: if two threads did one unit, or one part while the
 * caller went on, the thread sanitizer would see it. */
struct record {
    size_t align;
    unsigned char done[MAX_UNITS];
    struct {
        size_t begin, end;
        unsigned calls;
        pthread_t self;
    } parts[MAX_THREADS];
    unsigned strangers; /* calls with a number that is no thread's */
};

static void record_part(void *argument, size_t begin, size_t end, unsigned thread)
{
    struct record *record = argument;
    if (thread >= MAX_THREADS) {
        record->strangers++;
        return;
    }
    record->parts[thread].begin = begin;
    record->parts[thread].end = end;
    record->parts[thread].calls++;
    record->parts[thread].self = pthread_self();
    for (size_t i = begin; i < end && i < MAX_UNITS; i++)
        record->done[i]++;
}

/* Which threads take an interrupt. */
static void record_mask(void *argument, size_t begin, size_t end, unsigned thread)
{
    sigset_t mask;
    int *taken = argument;
    (void)begin;
    (void)end;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    taken[thread] = !sigismember(&mask, SIGINT) || !sigismember(&mask, SIGALRM);
    if (sigismember(&mask, SIGBUS))
        taken[thread] = -1;
}

static void check_record(const struct record *record, unsigned n_threads, size_t n_units,
                         size_t grain, size_t align)
{
    size_t n_parts = 0;
    ck_assert_uint_eq(record->strangers, 0);
    for (size_t i = 0; i < MAX_UNITS; i++)
        ck_assert_msg(record->done[i] == (i < n_units),
                      "unit %zu of %zu done %d times (grain %zu, align %zu, %u threads)", i,
                      n_units, record->done[i], grain, align, n_threads);
    for (unsigned i = 0; i < MAX_THREADS; i++) {
        size_t begin = record->parts[i].begin, end = record->parts[i].end;
        ck_assert_uint_le(record->parts[i].calls, i < n_threads ? 1 : 0);
        if (record->parts[i].calls == 0)
            continue;
        n_parts++;
        ck_assert_uint_lt(begin, end);
        ck_assert_uint_eq(begin % align, 0);
        ck_assert_msg(end % align == 0 || end == n_units, "a part ends at %zu, align %zu", end,
                      align);
    }
    /* No more parts than units allow; one part is done by the caller itself. */
    size_t most = grain > 1 ? n_units / grain : n_units;
    ck_assert_uint_le(n_parts, most > 1 ? most : 1);
    if (n_parts == 1) {
        ck_assert_uint_eq(record->parts[0].calls, 1);
        ck_assert(pthread_equal(record->parts[0].self, pthread_self()));
    }
}

static void run_once(struct hy_pool *pool, size_t n_units, size_t grain, size_t align)
{
    struct record record;
    memset(&record, 0, sizeof record);
    hy_pool_run(pool, record_part, &record, n_units, grain, align);
    check_record(&record, hy_pool_threads(pool), n_units, grain, align);
}

static const unsigned thread_counts[] = {1, 2, 3, MAX_THREADS};

static void run_at_random(struct hy_pool *pool, int n_runs)
{
    for (int i = 0; i < n_runs; i++)
        run_once(pool, 1 + test_random_below(MAX_UNITS), test_random_below(80),
                 1 + test_random_below(70));
}

static void run_in_many_ways(struct hy_pool *pool)
{
    static const size_t grains[] = {0, 1, 2, 5, 1000}, aligns[] = {1, 2, 3, 8, 64};
    for (size_t g = 0; g < sizeof grains / sizeof grains[0]; g++)
        for (size_t a = 0; a < sizeof aligns / sizeof aligns[0]; a++)
            for (size_t n = 1; n <= 20; n += 1 + n / 10)
                run_once(pool, n, grains[g], aligns[a]);
    run_at_random(pool, 200);
}

START_TEST(every_unit_once)
{
    struct hy_pool *pool = new_pool(thread_counts[_i]);
    run_in_many_ways(pool);
    hy_pool_destroy(pool);
}
END_TEST

/* Enough units for every thread: then every thread gets some. */
START_TEST(all_threads_work)
{
    for (unsigned n_threads = 1; n_threads <= MAX_THREADS; n_threads++) {
        struct hy_pool *pool = new_pool(n_threads);
        struct record record;
        memset(&record, 0, sizeof record);
        hy_pool_run(pool, record_part, &record, 16 * (size_t)n_threads, 16, 16);
        for (unsigned i = 0; i < n_threads; i++) {
            ck_assert_uint_eq(record.parts[i].calls, 1);
            for (unsigned j = 0; j < i; j++)
                ck_assert(!pthread_equal(record.parts[i].self, record.parts[j].self));
        }
        ck_assert(pthread_equal(record.parts[0].self, pthread_self()));
        hy_pool_destroy(pool);
    }
}
END_TEST

static void refuse_to_run(void *argument, size_t begin, size_t end, unsigned thread)
{
    (void)begin;
    (void)end;
    (void)thread;
    *(int *)argument = 1;
}

START_TEST(nothing_to_do)
{
    int ran = 0;
    struct hy_pool *pool = new_pool(3);
    hy_pool_run(pool, refuse_to_run, &ran, 0, 1, 1);
    hy_pool_run(pool, refuse_to_run, &ran, 0, 0, 64);
    ck_assert_int_eq(ran, 0);
    hy_pool_destroy(pool);
    hy_pool_destroy(NULL);
}
END_TEST

static void add_one(void *argument, size_t begin, size_t end, unsigned thread)
{
    unsigned long *sums = argument;
    (void)thread;
    for (size_t i = begin; i < end; i++)
        sums[i]++;
}

/* Pieces one behind the other, as in a decode step. */
START_TEST(many_runs)
{
    enum { N_RUNS = 20000, N_UNITS = 6 };
    unsigned long sums[N_UNITS] = {0};
    struct hy_pool *pool = new_pool(2);
    for (int i = 0; i < N_RUNS; i++)
        hy_pool_run(pool, add_one, sums, N_UNITS, 1, 1 + (size_t)i % 3);
    for (int i = 0; i < N_UNITS; i++)
        ck_assert_uint_eq(sums[i], N_RUNS);
    hy_pool_destroy(pool);
}
END_TEST

/* More threads than this machine is likely to give: they take turns. */
START_TEST(more_threads_than_processors)
{
    enum { N_RUNS = 50 };
    unsigned long sums[64] = {0};
    struct hy_pool *pool = new_pool(16);
    for (int i = 0; i < N_RUNS; i++)
        hy_pool_run(pool, add_one, sums, 64, 1, 1);
    for (int i = 0; i < 64; i++)
        ck_assert_uint_eq(sums[i], N_RUNS);
    hy_pool_destroy(pool);
}
END_TEST

/* Pauses around the time after which a thread goes to sleep, so that pieces meet threads that
 * watch, that sleep, and that are just about to. */
START_TEST(sleep_and_wake)
{
    unsigned long sums[64] = {0};
    unsigned long n_runs = 0;
    struct hy_pool *pool = new_pool(3);
    for (long pause = 1; pause < 20000; pause = pause * 3 / 2 + 1) {
        for (int i = 0; i < 4; i++, n_runs++) {
            wait_microseconds(pause);
            hy_pool_run(pool, add_one, sums, 64, 1, 1);
        }
    }
    for (int i = 0; i < 64; i++)
        ck_assert_uint_eq(sums[i], n_runs);
    hy_pool_destroy(pool);
}
END_TEST

/* Polls: how soon they sleep is the system's affair. */
static void wait_until_all_sleep(const struct hy_pool *pool)
{
    unsigned n_workers = hy_pool_threads(pool) - 1;
    for (int turn = 0; hy_pool_sleeping(pool) != n_workers && turn < 60000; turn++)
        wait_microseconds(1000);
    ck_assert_uint_eq(hy_pool_sleeping(pool), n_workers);
}

/* Nobody watches for work that does not come. */
START_TEST(idle_threads_sleep)
{
    unsigned long sums[64] = {0};
    struct hy_pool *pool = new_pool(thread_counts[_i]);
    for (int i = 0; i < 5; i++) {
        wait_until_all_sleep(pool);
        hy_pool_run(pool, add_one, sums, 64, 1, 1);
        ck_assert_uint_eq(sums[63], (unsigned long)i + 1);
    }
    wait_until_all_sleep(pool);
    hy_pool_destroy(pool);
}
END_TEST

/* A caller that has done its part early sleeps, too, until the slowest worker wakes it. */
static void be_slow(void *argument, size_t begin, size_t end, unsigned part)
{
    unsigned char *done = argument;
    (void)end;
    if (part > 0)
        wait_microseconds(3000 * (long)part);
    done[begin] = 1;
}

START_TEST(slow_workers)
{
    enum { N_THREADS = 4 };
    struct hy_pool *pool = new_pool(N_THREADS);
    for (int i = 0; i < 20; i++) {
        unsigned char done[N_THREADS] = {0};
        hy_pool_run(pool, be_slow, done, N_THREADS, 1, 1);
        for (int k = 0; k < N_THREADS; k++)
            ck_assert_int_eq(done[k], 1);
    }
    hy_pool_destroy(pool);
}
END_TEST

/* Every unit waits for all others: each has a thread, the same one every time. */
struct meeting {
    pthread_barrier_t barrier;
    pthread_t threads[MAX_THREADS];
    unsigned n_changes; /* threads that a unit did not have before; the caller's to read */
};

static void meet(void *argument, size_t begin, size_t end, unsigned part)
{
    struct meeting *meeting = argument;
    pthread_barrier_wait(&meeting->barrier);
    if (end != begin + 1 || part != begin ||
        !pthread_equal(meeting->threads[begin], pthread_self()))
        __atomic_fetch_add(&meeting->n_changes, 1, __ATOMIC_SEQ_CST);
    meeting->threads[begin] = pthread_self();
}

START_TEST(units_that_wait_for_each_other)
{
    unsigned n = thread_counts[_i];
    struct meeting meeting = {.n_changes = 0};
    struct hy_pool *pool;
    test_status(hy_pool_create_sleeping(&memory, n, "test", &pool, &error), HYMBA_OK, error);
    ck_assert_int_eq(pthread_barrier_init(&meeting.barrier, NULL, n), 0);
    hy_pool_run(pool, meet, &meeting, n, 1, 1);
    meeting.n_changes = 0;
    for (int i = 0; i < 50; i++)
        hy_pool_run(pool, meet, &meeting, n, 1, 1);
    ck_assert_uint_eq(meeting.n_changes, 0);
    ck_assert(pthread_equal(meeting.threads[0], pthread_self()));
    wait_until_all_sleep(pool);
    pthread_barrier_destroy(&meeting.barrier);
    hy_pool_destroy(pool);
}
END_TEST

START_TEST(end_at_any_time)
{
    for (int i = 0; i < 40; i++) {
        struct hy_pool *pool = new_pool(4);
        unsigned long sums[64] = {0};
        if (i % 2)
            hy_pool_run(pool, add_one, sums, 64, 1, 1);
        if (i % 3)
            wait_microseconds(i * 300); /* from watching threads to sleeping ones */
        hy_pool_destroy(pool);
    }
}
END_TEST

/* ---------------------------------------------------- threads of the embedder's */

struct embedder {
    unsigned n_threads, n_runs;
    bool good; /* what the pool asked of it */
};

/* One part after another, the last one first. */
static void run_backwards(void *user, void (*part)(void *argument, uint32_t index),
                          void *argument, uint32_t n_parts)
{
    struct embedder *embedder = user;
    embedder->n_runs++;
    embedder->good = embedder->good && n_parts >= 2 && n_parts <= embedder->n_threads;
    for (uint32_t i = n_parts; i-- > 0;)
        part(argument, i);
}

struct errand {
    void (*part)(void *argument, uint32_t index);
    void *argument;
    uint32_t index;
};

static void *run_errand(void *argument)
{
    struct errand *errand = argument;
    errand->part(errand->argument, errand->index);
    return NULL;
}

/* Each part on a thread of its own, none on the caller's. */
static void run_elsewhere(void *user, void (*part)(void *argument, uint32_t index),
                          void *argument, uint32_t n_parts)
{
    struct embedder *embedder = user;
    struct errand errands[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    uint32_t n_started = 0;
    embedder->n_runs++;
    embedder->good = embedder->good && n_parts >= 2 && n_parts <= embedder->n_threads;
    for (uint32_t i = 0; i < n_parts && i < MAX_THREADS; i++, n_started++) {
        errands[i] = (struct errand){part, argument, i};
        if (pthread_create(&threads[i], NULL, run_errand, &errands[i]) != 0)
            break;
    }
    for (uint32_t i = 0; i < n_started; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = n_started; i < n_parts; i++)
        part(argument, i);
}

START_TEST(threads_of_the_embedders)
{
    struct embedder embedder = {.n_threads = thread_counts[_i % 4], .good = true};
    hymba_executor executor = {.struct_size = sizeof executor, .user = &embedder,
                               .n_threads = embedder.n_threads,
                               .run = _i < 4 ? run_backwards : run_elsewhere};
    unsigned n_before = test_thread_count();
    struct hy_pool *pool;
    test_status(hy_pool_create_on(&memory, &executor, &pool, &error), HYMBA_OK, error);
    memset(&executor, 0xee, sizeof executor); /* it was copied */
    ck_assert_uint_eq(hy_pool_threads(pool), embedder.n_threads);
    ck_assert_uint_eq(hy_pool_sleeping(pool), 0);
    run_at_random(pool, 50);
    ck_assert(test_has_threads(n_before));
    ck_assert(embedder.good);
    ck_assert((embedder.n_runs > 0) == (embedder.n_threads > 1));
    hy_pool_destroy(pool);
}
END_TEST

START_TEST(threads_of_the_embedders_without_memory)
{
    struct embedder embedder = {.n_threads = 2, .good = true};
    hymba_executor executor = {.struct_size = sizeof executor, .user = &embedder, .n_threads = 2,
                               .run = run_backwards};
    struct hy_pool *pool;
    test_host_fail_at(&host, 0, false);
    test_status(hy_pool_create_on(&memory, &executor, &pool, &error), HYMBA_ERROR_MEMORY, error);
    ck_assert_ptr_null(pool);
}
END_TEST

/* -------------------------------------------------------------------- fork */

/* A pool that a process which was forked off finds. */
struct inherited {
    struct hy_pool *pool;
    unsigned n_threads; /* that must run there afterwards */
    bool forks_again;
};

static bool adds_rightly(struct hy_pool *pool, unsigned long n_runs)
{
    unsigned long sums[64] = {0};
    for (unsigned long i = 0; i < n_runs; i++)
        hy_pool_run(pool, add_one, sums, 64, 1, 1);
    for (int i = 0; i < 64; i++)
        if (sums[i] != n_runs)
            return false;
    return true;
}

static bool use_in_child(void *argument)
{
    const struct inherited *inherited = argument;
    struct inherited next = {inherited->pool, inherited->n_threads, false};
    bool good = adds_rightly(inherited->pool, 1) && adds_rightly(inherited->pool, 20) &&
                test_has_threads(inherited->n_threads);
    if (inherited->forks_again)
        good = good && test_in_child(use_in_child, &next) && adds_rightly(inherited->pool, 20);
    hy_pool_destroy(inherited->pool);
    return good && host.used == 0 && host.n_faults == 0;
}

static bool release_in_child(void *argument)
{
    const struct inherited *inherited = argument;
    hy_pool_destroy(inherited->pool);
    return host.used == 0 && host.n_faults == 0;
}

/* At moments when the threads watch, when they sleep, and when they are about to. The child has
 * threads of its own then, and the parent keeps its own. The thread sanitizer allows a child no
 * threads. */
START_TEST(fork_at_any_time)
{
    unsigned n_threads = thread_counts[_i];
    struct hy_pool *pool = new_pool(n_threads);
    struct inherited inherited = {pool, n_threads, true};
    for (int i = 0; i < 12 && !test_looks_for_races(); i++) {
        ck_assert(adds_rightly(pool, 2));
        wait_microseconds(i * 150);
        ck_assert(test_in_child(i % 3 ? use_in_child : release_in_child, &inherited));
        ck_assert(adds_rightly(pool, 2));
    }
    hy_pool_destroy(pool);
}
END_TEST

/* Two pools of one process do not meet. */
static void *use_own_pool(void *argument)
{
    unsigned long *sums = argument;
    struct hy_memory own;
    struct hy_pool *pool;
    hy_memory_inherit(&own, &memory);
    if (hy_pool_create(&own, 2, &pool, NULL) != HYMBA_OK)
        return NULL;
    for (int i = 0; i < 500; i++)
        hy_pool_run(pool, add_one, sums, 16, 1, 1);
    hy_pool_destroy(pool);
    return NULL;
}

START_TEST(pools_side_by_side)
{
    pthread_t threads[2];
    unsigned long sums[2][16] = {{0}};
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, use_own_pool, sums[i]), 0);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < 16; i++) {
        ck_assert_uint_eq(sums[0][i], 500);
        ck_assert_uint_eq(sums[1][i], 500);
    }
}
END_TEST

/* A host's handlers run on the host's threads only. */
START_TEST(signals_are_the_hosts)
{
    int taken[3] = {2, 2, 2};
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    struct hy_pool *pool = new_pool(3);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    hy_pool_run(pool, record_mask, taken, 3, 1, 1);
    hy_pool_destroy(pool);
    ck_assert_int_eq(taken[0], 1);
    ck_assert_int_eq(taken[1], 0);
    ck_assert_int_eq(taken[2], 0);
    for (int number = 1; number < 32; number++)
        ck_assert_int_eq(sigismember(&before, number), sigismember(&after, number));
}
END_TEST

START_TEST(no_memory)
{
    struct hy_pool *pool;
    for (long i = 0;; i++) {
        test_host_fail_at(&host, i, false);
        hymba_status status = hy_pool_create(&memory, 3, &pool, &error);
        if (status == HYMBA_OK) {
            ck_assert_int_eq(i, 2);
            break;
        }
        test_status(status, HYMBA_ERROR_MEMORY, error);
        ck_assert_ptr_null(pool);
        test_host_check(&host);
    }
    hy_pool_destroy(pool);
}
END_TEST

/* Whether the address space may be limited: sanitizers and valgrind need it for themselves. */
static bool may_limit_addresses(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return false;
#else
    const char *preloaded = getenv("LD_PRELOAD");
    return !preloaded || !strstr(preloaded, "vgpreload");
#endif
}

/* Without room for stacks some threads start and then one does not: those must end again. */
START_TEST(threads_that_cannot_start)
{
    enum { N_THREADS = 200 };
    struct rlimit old, small;
    struct hy_pool *pool;
    if (!may_limit_addresses())
        return;
    ck_assert_int_eq(getrlimit(RLIMIT_AS, &old), 0);
    free(malloc(100000)); /* the heap has room for the pool itself */
    small = old;
    small.rlim_cur = 200 << 20;
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &small), 0);
    hymba_status status = hy_pool_create(&memory, N_THREADS, &pool, &error);
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &old), 0);
    test_status(status, HYMBA_ERROR_THREAD, error);
    ck_assert_ptr_null(pool);
    ck_assert_int_ne(error.system_code, 0);
    ck_assert_ptr_nonnull(strstr(error.message, "of 200 cannot be started"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("thread");
    TCase *tests = tcase_create("pool");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120); /* for machines with other work to do */
    tcase_add_loop_test(tests, every_unit_once, 0,
                        sizeof thread_counts / sizeof thread_counts[0]);
    tcase_add_test(tests, all_threads_work);
    tcase_add_test(tests, nothing_to_do);
    tcase_add_test(tests, many_runs);
    tcase_add_test(tests, more_threads_than_processors);
    tcase_add_test(tests, sleep_and_wake);
    tcase_add_loop_test(tests, idle_threads_sleep, 0,
                        sizeof thread_counts / sizeof thread_counts[0]);
    tcase_add_test(tests, slow_workers);
    tcase_add_loop_test(tests, units_that_wait_for_each_other, 0,
                        sizeof thread_counts / sizeof thread_counts[0]);
    tcase_add_test(tests, end_at_any_time);
    tcase_add_loop_test(tests, threads_of_the_embedders, 0, 8);
    tcase_add_test(tests, threads_of_the_embedders_without_memory);
    tcase_add_loop_test(tests, fork_at_any_time, 0,
                        sizeof thread_counts / sizeof thread_counts[0]);
    tcase_add_test(tests, pools_side_by_side);
    tcase_add_test(tests, signals_are_the_hosts);
    tcase_add_test(tests, no_memory);
    tcase_add_test(tests, threads_that_cannot_start);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
