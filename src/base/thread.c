#define _GNU_SOURCE /* pthread_setname_np */

#include "base/thread.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/processor.h"

/*
 * How long a thread watches for a change before it sleeps, in nanoseconds. In a decode step pieces
 * of work follow one another within microseconds, and sleeping would cost more than the work. But
 * where others want the processors, what is watched for may be waiting for this very processor: the
 * time is halved when watching was in vain, and grows again while it is not. Looking at the clock
 * costs something, too (in some virtual machines a system call), so that some turns come first.
 */
enum { LONGEST_WATCH = 1000000, SHORTEST_WATCH = 10000, TURNS_PER_LOOK = 128 };

/* Every processor sees the other's counters on cache lines of their own. */
struct worker {
    _Alignas(HY_ALIGNMENT) _Atomic unsigned finished; /* the last piece this worker has done */
    struct hy_pool *pool;
    pthread_t thread;
    unsigned number; /* 1 <= number < n_threads; 0 is the caller */
};

struct hy_pool {
    struct hy_memory *memory;
    hymba_executor executor; /* run is NULL: the pool has threads of its own */
    struct worker *workers;  /* [n_threads - 1] */
    unsigned n_threads;
    unsigned n_started;
    const char *name;  /* of the threads; NULL: the process's */
    bool sleeps;       /* at once */
    int longest_watch; /* 0: there are not processors for all threads, and none is kept busy */
    _Atomic int watch; /* changed by the caller */
    pid_t process; /* whose threads and locks they are; 0: there are none */

    /* The current piece of work; written by the caller before `piece` is advanced. */
    hy_work work;
    void *argument;
    size_t n_units, part_size;
    unsigned n_parts;
    _Alignas(HY_ALIGNMENT) _Atomic unsigned piece; /* its number */

    /* Who found nothing for a while sleeps here: workers until `piece` changes, the caller until a
     * worker's `finished` does. */
    pthread_mutex_t mutex;
    pthread_cond_t wake, done;
    _Atomic unsigned n_sleeping;
    _Atomic bool caller_sleeps;
    _Atomic bool stop;
};

/* ---------------------------------------------------------------- watching */

static inline void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void)
{
    struct timespec now = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Watches a counter for a while; whether it is no longer the old one. */
static bool changes_soon(const struct hy_pool *pool, const _Atomic unsigned *counter, unsigned old)
{
    int64_t begin = 0;
    for (unsigned turn = 1; atomic_load_explicit(counter, memory_order_acquire) == old; turn++) {
        if (pool->longest_watch == 0)
            return false;
        if (turn % TURNS_PER_LOOK == 0) {
            int64_t now = nanoseconds();
            if (turn == TURNS_PER_LOOK)
                begin = now;
            else if (now - begin >= atomic_load_explicit(&pool->watch, memory_order_relaxed))
                return false;
        }
        spin_pause();
    }
    return true;
}

static void learn(struct hy_pool *pool, bool was_in_vain)
{
    int watch = atomic_load_explicit(&pool->watch, memory_order_relaxed);
    int next = was_in_vain ? watch / 2 : watch + watch / 16;
    next = next > pool->longest_watch ? pool->longest_watch : next;
    next = next < SHORTEST_WATCH ? SHORTEST_WATCH : next;
    if (next != watch)
        atomic_store_explicit(&pool->watch, next, memory_order_relaxed);
}

/* ------------------------------------------------------------------ workers */

static void run_part(const struct hy_pool *pool, unsigned part)
{
    if (part >= pool->n_parts)
        return;
    size_t begin = part * pool->part_size;
    size_t end = part + 1 == pool->n_parts ? pool->n_units : begin + pool->part_size;
    pool->work(pool->argument, begin, end, part);
}

/*
 * Changing a counter and reading who sleeps are sequentially consistent, as are a sleeper's
 * increment and its last look at the counter: one of the two sides sees the other. Exchanges stand
 * where stores would do, because qemu lets the loads of AArch64 pass its stores.
 */
static void sleep_until_changed(struct hy_pool *pool, unsigned seen)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (atomic_load(&pool->piece) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->n_sleeping, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void report_finished(struct worker *self, unsigned piece)
{
    struct hy_pool *pool = self->pool;
    atomic_exchange(&self->finished, piece);
    if (!atomic_load(&pool->caller_sleeps))
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *argument)
{
    struct worker *self = argument;
    struct hy_pool *pool = self->pool;
    unsigned seen = atomic_load(&self->finished);
    for (;;) {
        if (!changes_soon(pool, &pool->piece, seen))
            sleep_until_changed(pool, seen);
        seen = atomic_load(&pool->piece);
        if (atomic_load(&pool->stop))
            return NULL;
        run_part(pool, self->number);
        report_finished(self, seen);
    }
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
        atomic_store(&worker->finished, atomic_load(&pool->piece));
        keep_signals_out(&before);
        int code = pthread_create(&worker->thread, NULL, worker_main, worker);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (code)
            return hy_fail_system(error, HYMBA_ERROR_THREAD, code,
                                  "thread %u of %u cannot be started", i + 2, pool->n_threads);
        if (pool->name)
            pthread_setname_np(worker->thread, pool->name);
        pool->n_started++;
    }
    return HYMBA_OK;
}

static hymba_status create_locks(struct hy_pool *pool, hymba_error *error)
{
    int code = pthread_mutex_init(&pool->mutex, NULL);
    if (code)
        return hy_fail_system(error, HYMBA_ERROR_THREAD, code, "a mutex cannot be created");
    code = pthread_cond_init(&pool->wake, NULL);
    if (code == 0) {
        code = pthread_cond_init(&pool->done, NULL);
        if (code == 0) {
            pool->process = getpid();
            return HYMBA_OK;
        }
        pthread_cond_destroy(&pool->wake);
    }
    pthread_mutex_destroy(&pool->mutex);
    return hy_fail_system(error, HYMBA_ERROR_THREAD, code,
                          "a condition variable cannot be created");
}

/* --------------------------------------------------------------------- fork */

/* Whether the threads are this process's. A system call: asked only where a thread would sleep or
 * wake another, and so never between pieces that follow one another quickly. */
static bool has_threads(const struct hy_pool *pool)
{
    return getpid() == pool->process;
}

/*
 * In a process that was forked off: the threads are not here, and what they held of the locks at
 * that moment is held for ever. All begins anew, and if not all of the threads can be started, the
 * caller does the work of those that are missing.
 */
static void begin_anew(struct hy_pool *pool)
{
    pool->n_started = 0;
    atomic_store(&pool->n_sleeping, 0);
    atomic_store(&pool->caller_sleeps, false);
    if (create_locks(pool, NULL) == HYMBA_OK)
        start_workers(pool, NULL);
}

/* ------------------------------------------------------------------- caller */

static void announce(struct hy_pool *pool)
{
    atomic_fetch_add(&pool->piece, 1);
    if (atomic_load(&pool->n_sleeping) == 0 || !has_threads(pool))
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

/* False if there is no such worker in this process. */
static bool wait_for(struct hy_pool *pool, const struct worker *worker, unsigned piece)
{
    bool is_done = changes_soon(pool, &worker->finished, piece - 1);
    learn(pool, !is_done);
    if (is_done)
        return true;
    if (!has_threads(pool))
        return false;
    pthread_mutex_lock(&pool->mutex);
    atomic_exchange(&pool->caller_sleeps, true);
    while (atomic_load(&worker->finished) != piece)
        pthread_cond_wait(&pool->done, &pool->mutex);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->mutex);
    return true;
}

static void run_on_workers(struct hy_pool *pool)
{
    unsigned n_workers = pool->n_started;
    announce(pool);
    run_part(pool, 0);
    for (unsigned part = n_workers + 1; part < pool->n_parts; part++)
        run_part(pool, part);
    unsigned piece = atomic_load(&pool->piece);
    for (unsigned i = 0; i < n_workers; i++) {
        if (wait_for(pool, &pool->workers[i], piece))
            continue;
        for (unsigned part = 1; part <= n_workers; part++)
            run_part(pool, part);
        begin_anew(pool);
        return;
    }
}

static void run_numbered_part(void *pool, uint32_t part)
{
    run_part(pool, part);
}

void hy_pool_run(struct hy_pool *pool, hy_work work, void *argument, size_t n_units, size_t grain,
                 size_t align)
{
    if (n_units == 0)
        return;
    size_t parts = hy_min_size(pool->n_threads, n_units / hy_max_size(grain, 1));
    size_t part_size = n_units;
    if (parts > 1) {
        part_size = (n_units + parts - 1) / parts;
        part_size = (part_size + align - 1) / align * align;
    }
    if (part_size >= n_units) {
        work(argument, 0, n_units, 0);
        return;
    }
    parts = (n_units + part_size - 1) / part_size;
    pool->work = work;
    pool->argument = argument;
    pool->n_units = n_units;
    pool->part_size = part_size;
    pool->n_parts = (unsigned)parts;
    if (pool->executor.run)
        pool->executor.run(pool->executor.user, run_numbered_part, pool, (uint32_t)parts);
    else
        run_on_workers(pool);
}

unsigned hy_pool_threads(const struct hy_pool *pool)
{
    return pool->n_threads;
}

unsigned hy_pool_sleeping(const struct hy_pool *pool)
{
    return atomic_load(&pool->n_sleeping);
}

/* ----------------------------------------------------------- beginning, end */

static hymba_status start_pool(struct hy_pool *pool, hymba_error *error)
{
    if (pool->n_threads == 1)
        return HYMBA_OK;
    if (!pool->sleeps && pool->n_threads <= hy_processor_count())
        pool->longest_watch = LONGEST_WATCH;
    atomic_store(&pool->watch, pool->longest_watch);
    hymba_status status = create_locks(pool, error);
    return status == HYMBA_OK ? start_workers(pool, error) : status;
}

static hymba_status create(struct hy_memory *memory, unsigned n_threads, const char *name,
                           bool sleeps, struct hy_pool **out, hymba_error *error)
{
    *out = NULL;
    struct hy_pool *pool = hy_alloc_zero(memory, 1, sizeof *pool);
    if (!pool)
        return hy_no_memory(error, sizeof *pool, "the thread pool");
    pool->memory = memory;
    pool->n_threads = n_threads;
    pool->name = name;
    pool->sleeps = sleeps;
    pool->workers = hy_alloc_zero(memory, n_threads, sizeof *pool->workers);
    if (!pool->workers) {
        hy_free(memory, pool);
        return hy_no_memory(error, n_threads * sizeof *pool->workers, "the thread pool");
    }
    hymba_status status = start_pool(pool, error);
    if (status != HYMBA_OK) {
        hy_pool_destroy(pool);
        return status;
    }
    *out = pool;
    return HYMBA_OK;
}

hymba_status hy_pool_create(struct hy_memory *memory, unsigned n_threads, struct hy_pool **out,
                            hymba_error *error)
{
    return create(memory, n_threads, NULL, false, out, error);
}

hymba_status hy_pool_create_sleeping(struct hy_memory *memory, unsigned n_threads,
                                     const char *name, struct hy_pool **out, hymba_error *error)
{
    return create(memory, n_threads, name, true, out, error);
}

hymba_status hy_pool_create_on(struct hy_memory *memory, const hymba_executor *executor,
                               struct hy_pool **out, hymba_error *error)
{
    struct hy_pool *pool = hy_alloc_zero(memory, 1, sizeof *pool);
    *out = pool;
    if (!pool)
        return hy_no_memory(error, sizeof *pool, "the thread pool");
    pool->memory = memory;
    pool->executor = *executor;
    pool->n_threads = executor->n_threads;
    return HYMBA_OK;
}

static void stop_workers(struct hy_pool *pool)
{
    atomic_store(&pool->stop, true);
    announce(pool);
    for (unsigned i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
}

void hy_pool_destroy(struct hy_pool *pool)
{
    if (!pool)
        return;
    if (has_threads(pool))
        stop_workers(pool);
    hy_free(pool->memory, pool->workers);
    hy_free(pool->memory, pool);
}
