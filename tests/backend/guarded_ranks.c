#include "guarded_ranks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct guarded_ranks {
    unsigned char id[HY_UNIQUE_ID_BYTES];
    uint32_t world_size;
    uint32_t joined, left;    /* how many */
    uint32_t arrived, taking; /* in the gathering under way: have given, have yet to take */
    bool broken;
    unsigned char *all;
    size_t bytes; /* of each rank */
    struct guarded_ranks *next;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct guarded_ranks *worlds;
static uint64_t n_ids;

void guarded_ranks_make_id(unsigned char *id)
{
    pthread_mutex_lock(&mutex);
    uint64_t number = ++n_ids;
    pthread_mutex_unlock(&mutex);
    memset(id, 0x5a, HY_UNIQUE_ID_BYTES);
    memcpy(id, &number, sizeof number);
}

static int64_t milliseconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static bool is_abandoned(const struct hy_join_args *self)
{
    return self->is_abandoned && self->is_abandoned(self->abandoned_user);
}

/* Lets go of the lock until something has changed; false once it is too late. */
static bool wait_for_change(struct guarded_ranks *ranks, const struct hy_join_args *self,
                            int64_t deadline)
{
    int64_t next = milliseconds() + 10;
    struct timespec time = {(time_t)(next / 1000), (long)(next % 1000) * 1000000};
    if (!ranks->broken)
        pthread_cond_timedwait(&changed, &mutex, &time);
    if (milliseconds() >= deadline || is_abandoned(self))
        ranks->broken = true;
    if (ranks->broken)
        pthread_cond_broadcast(&changed);
    return !ranks->broken;
}

static struct guarded_ranks *find(const struct hy_join_args *args)
{
    struct guarded_ranks *ranks = worlds;
    while (ranks && memcmp(ranks->id, args->id, sizeof ranks->id) != 0)
        ranks = ranks->next;
    if (ranks)
        return ranks;
    ranks = calloc(1, sizeof *ranks);
    memcpy(ranks->id, args->id, sizeof ranks->id);
    ranks->world_size = args->world_size;
    ranks->next = worlds;
    worlds = ranks;
    return ranks;
}

/* Under the lock. The last one to leave, of those who came, frees it. */
static void leave(struct guarded_ranks *ranks)
{
    if (++ranks->left < ranks->joined)
        return;
    struct guarded_ranks **link = &worlds;
    while (*link != ranks)
        link = &(*link)->next;
    *link = ranks->next;
    free(ranks->all);
    free(ranks);
}

struct guarded_ranks *guarded_ranks_join(const struct hy_join_args *args)
{
    int64_t deadline = milliseconds() + args->timeout_ms;
    pthread_mutex_lock(&mutex);
    struct guarded_ranks *ranks = find(args);
    ranks->joined++;
    pthread_cond_broadcast(&changed);
    while (ranks->joined < ranks->world_size && wait_for_change(ranks, args, deadline)) {
    }
    if (ranks->broken) {
        leave(ranks);
        ranks = NULL;
    }
    pthread_mutex_unlock(&mutex);
    return ranks;
}

void guarded_ranks_leave(struct guarded_ranks *ranks)
{
    if (!ranks)
        return;
    pthread_mutex_lock(&mutex);
    leave(ranks);
    pthread_mutex_unlock(&mutex);
}

static bool give(struct guarded_ranks *ranks, uint32_t rank, const void *mine, size_t bytes)
{
    if (ranks->arrived == 0) {
        ranks->bytes = bytes;
        ranks->all = realloc(ranks->all, ranks->world_size * bytes + 1);
    }
    if (bytes != ranks->bytes) {
        ranks->broken = true;
        pthread_cond_broadcast(&changed);
        return false;
    }
    memcpy(ranks->all + rank * bytes, mine, bytes);
    if (++ranks->arrived == ranks->world_size) {
        ranks->taking = ranks->world_size;
        pthread_cond_broadcast(&changed);
    }
    return true;
}

static void take(struct guarded_ranks *ranks, void *all)
{
    memcpy(all, ranks->all, ranks->world_size * ranks->bytes);
    if (--ranks->taking == 0) {
        ranks->arrived = 0;
        pthread_cond_broadcast(&changed);
    }
}

bool guarded_ranks_gather(struct guarded_ranks *ranks, const struct hy_join_args *self,
                          const void *mine, void *all, size_t bytes)
{
    int64_t deadline = milliseconds() + self->timeout_ms;
    pthread_mutex_lock(&mutex);
    while (ranks->taking > 0 && wait_for_change(ranks, self, deadline)) { /* of the one before */
    }
    bool given = !ranks->broken && give(ranks, self->rank, mine, bytes);
    while (given && ranks->taking == 0 && wait_for_change(ranks, self, deadline)) {
    }
    bool whole = given && ranks->taking > 0; /* also where somebody has broken off since */
    if (whole)
        take(ranks, all);
    pthread_mutex_unlock(&mutex);
    return whole;
}
