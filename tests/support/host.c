#include "host.h"

#include <stdlib.h>
#include <string.h>

/* Stands in front of each block. */
struct record {
    uint64_t mark;
    size_t size, alignment;
};

static const uint64_t live = 0x6c69766562726f77u;

/* The library asks for 64; a record must fit in front of an aligned block. */
static size_t room_in_front(size_t alignment)
{
    return alignment > sizeof(struct record) ? alignment : sizeof(struct record);
}

static bool must_fail(const struct test_host *host, long number)
{
    if (host->fail_at < 0 || number < host->fail_at)
        return false;
    return number == host->fail_at || host->fail_ever_after;
}

static void *host_alloc(void *user, size_t size, size_t alignment)
{
    struct test_host *host = user;
    char *block = NULL;
    void *whole = NULL;
    size_t front = room_in_front(alignment);
    pthread_mutex_lock(&host->mutex);
    if (size == 0 || alignment == 0 || (alignment & (alignment - 1)) != 0)
        host->n_faults++;
    if (!must_fail(host, host->n_allocations++) && size <= SIZE_MAX - front &&
        posix_memalign(&whole, alignment, front + size) == 0) {
        struct record record = {live, size, alignment};
        block = (char *)whole + front;
        memcpy(block - sizeof record, &record, sizeof record);
        host->used += size;
        if (host->used > host->peak)
            host->peak = host->used;
    }
    pthread_mutex_unlock(&host->mutex);
    return block;
}

static void host_free(void *user, void *pointer, size_t size, size_t alignment)
{
    struct test_host *host = user;
    struct record record;
    char *block = pointer;
    memcpy(&record, block - sizeof record, sizeof record);
    pthread_mutex_lock(&host->mutex);
    if (record.mark != live || record.size != size || record.alignment != alignment)
        host->n_faults++;
    host->used -= record.size;
    pthread_mutex_unlock(&host->mutex);
    record.mark = 0;
    memcpy(block - sizeof record, &record, sizeof record);
    free(block - room_in_front(record.alignment));
}

static int32_t host_progress(void *user, int32_t phase, uint64_t done, uint64_t total)
{
    struct test_host *host = user;
    host->phase = phase;
    host->done = done;
    host->total = total;
    return host->n_progress++ == host->cancel_at;
}

void test_host_init(struct test_host *host)
{
    memset(host, 0, sizeof *host);
    host->host.struct_size = sizeof host->host;
    host->host.user = host;
    host->host.alloc = host_alloc;
    host->host.free = host_free;
    host->host.progress = host_progress;
    host->fail_at = host->cancel_at = -1;
    ck_assert_int_eq(pthread_mutex_init(&host->mutex, NULL), 0);
}

void test_host_fail_at(struct test_host *host, long number, bool ever_after)
{
    host->n_allocations = 0;
    host->fail_at = number;
    host->fail_ever_after = ever_after;
}

void test_host_check(struct test_host *host)
{
    ck_assert_msg(host->n_faults == 0, "%ld blocks were asked for or given back wrongly",
                  host->n_faults);
    ck_assert_msg(host->used == 0, "%llu bytes did not come back",
                  (unsigned long long)host->used);
}
