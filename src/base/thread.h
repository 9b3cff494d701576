/*
 * A pool of threads for one caller at a time. Work is an index range; each thread takes one
 * contiguous part, so a kernel whose units are independent gives the same bits for any number of
 * threads.
 */
#ifndef HY_BASE_THREAD_H
#define HY_BASE_THREAD_H

#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

struct hy_pool;

/* Does units [begin, end) of a piece of work; called at most once per part, whose number
 * (0 <= part < hy_pool_threads) picks its scratch memory. */
typedef void (*hy_work)(void *argument, size_t begin, size_t end, unsigned part);

/*
 * n_threads >= 1, the caller's included. A process that is forked off has no threads but the one
 * that forked: there the pool starts its own anew with the first piece of work.
 */
hymba_status hy_pool_create(struct hy_memory *memory, unsigned n_threads, struct hy_pool **pool,
                            hymba_error *error);

/* A pool that runs on the embedder's threads and starts none; *executor is valid and copied. */
hymba_status hy_pool_create_on(struct hy_memory *memory, const hymba_executor *executor,
                               struct hy_pool **pool, hymba_error *error);

/*
 * A pool whose threads, and the caller, sleep at once where there is nothing to do: for work that
 * waits for something else most of its time, such as devices. Part i of n_threads units runs on
 * thread i each time, at the same time as the others; the caller's is 0. name is that of the
 * threads for the system's tools, of at most 15 bytes.
 */
hymba_status hy_pool_create_sleeping(struct hy_memory *memory, unsigned n_threads,
                                     const char *name, struct hy_pool **pool, hymba_error *error);

void hy_pool_destroy(struct hy_pool *pool);
unsigned hy_pool_threads(const struct hy_pool *pool);

/* Threads that sleep until there is work, as all but the caller do soon. Any thread. */
unsigned hy_pool_sleeping(const struct hy_pool *pool);

/*
 * Runs work over [0, n_units), in parts of at least grain units, and returns when all is done. With
 * one part it runs on the calling thread alone. Part borders are multiples of align units.
 */
void hy_pool_run(struct hy_pool *pool, hy_work work, void *argument, size_t n_units, size_t grain,
                 size_t align);

#endif
