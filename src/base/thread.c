/* For sched_getaffinity, which POSIX does not have. */
#define _GNU_SOURCE

#include "base/thread.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

#include "base/checked.h"

/*
 * How long a thread watches for the next piece of work before it sleeps. In a decode step pieces
 * follow one another within microseconds, and sleeping would cost more than the work.
 */
enum { SPIN_TURNS = 20000 };

/* Every processor sees the other's counters on cache lines of their own. */
struct worker {
    _Alignas(HY_ALIGNMENT) _Atomic unsigned finished; /* the last piece this worker has done */
    struct hy_pool *pool;
    pthread_t thread;
    unsigned number; /* 1 <= number < n_threads; 0 is the caller */
};

struct hy_pool {
    struct hy_memory *memory;
    struct worker *workers; /* [n_threads - 1] */
    unsigned n_threads;
    unsigned n_started;

    /* The current piece of work; written by the caller before `piece` is advanced. */
    hy_work work;
    void *argument;
    size_t n_units, part_size;
    unsigned n_parts;
    _Alignas(HY_ALIGNMENT) _Atomic unsigned piece; /* its number */

    /* Workers that found nothing for a while sleep here. */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    _Atomic unsigned n_sleeping;
    _Atomic bool stop;
};

static inline void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* "max 100000" or "200000 100000": quota and period in microseconds; 0 without a quota. */
static unsigned quota_processors(void)
{
    long quota, period;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!file)
        return 0;
    int fields = fscanf(file, "%ld %ld", &quota, &period);
    fclose(file);
    if (fields != 2 || quota <= 0 || period <= 0)
        return 0;
    return (unsigned)((quota + period - 1) / period);
}

unsigned hy_processor_count(void)
{
    cpu_set_t set;
    unsigned count = 0, quota = quota_processors();
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        count = (unsigned)CPU_COUNT(&set);
    if (count == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        count = online > 0 ? (unsigned)online : 1;
    }
    return quota > 0 && quota < count ? quota : count;
}

static void run_part(const struct hy_pool *pool, unsigned part)
{
    if (part >= pool->n_parts)
        return;
    size_t begin = part * pool->part_size;
    size_t end = part + 1 == pool->n_parts ? pool->n_units : begin + pool->part_size;
    pool->work(pool->argument, begin, end, part);
}

static void sleep_until_changed(struct hy_pool *pool, unsigned seen)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (atomic_load(&pool->piece) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->n_sleeping, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *argument)
{
    struct worker *self = argument;
    struct hy_pool *pool = self->pool;
    unsigned seen = 0;
    for (;;) {
        unsigned turns = 0;
        while (atomic_load_explicit(&pool->piece, memory_order_acquire) == seen) {
            if (++turns == SPIN_TURNS) {
                sleep_until_changed(pool, seen);
                break;
            }
            spin_pause();
        }
        seen = atomic_load(&pool->piece);
        if (atomic_load(&pool->stop))
            return NULL;
        run_part(pool, self->number);
        atomic_store_explicit(&self->finished, seen, memory_order_release);
    }
}

/*
 * Advancing the counter and reading n_sleeping are both sequentially consistent, as are a
 * sleeper's increment and its last look at the counter: one of the two sides sees the other.
 */
static void announce(struct hy_pool *pool)
{
    atomic_fetch_add(&pool->piece, 1);
    if (atomic_load(&pool->n_sleeping) == 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

void hy_pool_run(struct hy_pool *pool, hy_work work, void *argument, size_t n_units, size_t grain,
                 size_t align)
{
    if (n_units == 0)
        return;
    size_t parts = hy_min_size(pool->n_threads, n_units / hy_max_size(grain, 1));
    if (parts <= 1) {
        work(argument, 0, n_units, 0);
        return;
    }
    size_t part_size = (n_units + parts - 1) / parts;
    part_size = (part_size + align - 1) / align * align;
    parts = (n_units + part_size - 1) / part_size;
    pool->work = work;
    pool->argument = argument;
    pool->n_units = n_units;
    pool->part_size = part_size;
    pool->n_parts = (unsigned)parts;
    announce(pool);
    run_part(pool, 0);
    unsigned piece = atomic_load(&pool->piece);
    for (unsigned i = 0; i < pool->n_started; i++) {
        unsigned turns = 0;
        while (atomic_load_explicit(&pool->workers[i].finished, memory_order_acquire) != piece) {
            if (++turns % SPIN_TURNS == 0)
                sched_yield(); /* more threads than processors: let the worker run */
            else
                spin_pause();
        }
    }
}

unsigned hy_pool_threads(const struct hy_pool *pool)
{
    return pool->n_threads;
}

/* Signals are the host's, whose handlers must not run on a thread that it knows nothing of; only
 * what a thread's own work causes (a weight file that was cut short: SIGBUS) comes to it. A thread
 * begins with its creator's mask. */
static void keep_signals_out(sigset_t *before)
{
    static const int own[] = {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP, SIGSYS};
    sigset_t set;
    sigfillset(&set);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        sigdelset(&set, own[i]);
    pthread_sigmask(SIG_BLOCK, &set, before);
}

static hymba_status start_workers(struct hy_pool *pool, hymba_error *error)
{
    for (unsigned i = 0; i + 1 < pool->n_threads; i++) {
        sigset_t before;
        struct worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->number = i + 1;
        keep_signals_out(&before);
        int code = pthread_create(&worker->thread, NULL, worker_main, worker);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (code)
            return hy_fail_system(error, HYMBA_ERROR_THREAD, code,
                                  "thread %u of %u cannot be started", i + 2, pool->n_threads);
        pool->n_started++;
    }
    return HYMBA_OK;
}

hymba_status hy_pool_create(struct hy_memory *memory, unsigned n_threads, struct hy_pool **out,
                            hymba_error *error)
{
    *out = NULL;
    struct hy_pool *pool = hy_alloc_zero(memory, 1, sizeof *pool);
    if (!pool)
        return hy_no_memory(error, sizeof *pool, "the thread pool");
    pool->memory = memory;
    pool->n_threads = n_threads;
    pool->workers = hy_alloc_zero(memory, n_threads, sizeof *pool->workers);
    if (!pool->workers) {
        hy_free(memory, pool);
        return hy_no_memory(error, n_threads * sizeof *pool->workers, "the thread pool");
    }
    int code = pthread_mutex_init(&pool->mutex, NULL);
    if (code) {
        hy_free(memory, pool->workers);
        hy_free(memory, pool);
        return hy_fail_system(error, HYMBA_ERROR_THREAD, code, "a mutex cannot be created");
    }
    code = pthread_cond_init(&pool->wake, NULL);
    if (code) {
        pthread_mutex_destroy(&pool->mutex);
        hy_free(memory, pool->workers);
        hy_free(memory, pool);
        return hy_fail_system(error, HYMBA_ERROR_THREAD, code,
                              "a condition variable cannot be created");
    }
    hymba_status status = start_workers(pool, error);
    if (status != HYMBA_OK) {
        hy_pool_destroy(pool);
        return status;
    }
    *out = pool;
    return HYMBA_OK;
}

void hy_pool_destroy(struct hy_pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stop, true);
    announce(pool);
    for (unsigned i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    hy_free(pool->memory, pool->workers);
    hy_free(pool->memory, pool);
}
