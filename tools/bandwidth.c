#include "bandwidth.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interrupt.h"
#include "output.h"

enum { PASSES = 3, LANES = 8 }; /* a cache line of 8 numbers a round */

static const uint64_t smallest_buffer = UINT64_C(16) << 20;

/* One thread's part of the buffer. */
struct part {
    pthread_t thread;
    uint64_t *data;
    size_t count; /* a multiple of LANES */
    uint64_t sum;
};

struct bandwidth {
    uint64_t *buffer;
    uint64_t size;
    struct part *parts; /* of the threads */
    uint32_t n_parts;
};

/* Memory the system could give without swapping; a guess where it does not say. */
static uint64_t free_memory(void)
{
    char text[256];
    uint64_t kilobytes = UINT64_C(1) << 20;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(text, sizeof text, file)) {
        unsigned long long value = 0;
        if (sscanf(text, "MemAvailable: %llu kB", &value) == 1) {
            kilobytes = value;
            break;
        }
    }
    if (file)
        fclose(file);
    return kilobytes << 10;
}

/* Independent sums, so that additions do not wait for one another. The result is stored, so the
 * loop is not removed. */
static void *read_part(void *argument)
{
    struct part *part = argument;
    const uint64_t *data = part->data;
    uint64_t sums[LANES] = {0};
    for (size_t i = 0; i < part->count; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            sums[lane] += data[i + lane];
    for (size_t lane = 0; lane < LANES; lane++)
        part->sum += sums[lane];
    return NULL;
}

/* Each thread writes its part first, so that its pages lie near it. */
static void *fill_part(void *argument)
{
    struct part *part = argument;
    memset(part->data, 1, part->count * sizeof *part->data);
    return NULL;
}

static bool run_parts(struct part *parts, uint32_t n_parts, void *(*work)(void *))
{
    uint32_t started = 0;
    while (started < n_parts &&
           pthread_create(&parts[started].thread, NULL, work, &parts[started]) == 0)
        started++;
    for (uint32_t i = 0; i < started; i++)
        pthread_join(parts[i].thread, NULL);
    return started == n_parts;
}

static uint64_t *allocate_buffer(uint64_t *size)
{
    void *buffer = NULL;
    uint64_t wanted = free_memory() / 3;
    if (wanted > *size)
        wanted = *size;
    for (; wanted >= smallest_buffer; wanted /= 2)
        if (posix_memalign(&buffer, 4096, (size_t)wanted) == 0) {
            *size = wanted;
            return buffer;
        }
    return NULL;
}

static int no_threads(void)
{
    return fail("cannot start threads to measure the read bandwidth");
}

int bandwidth_open(struct bandwidth **bandwidth, uint32_t n_threads, uint64_t size)
{
    uint64_t *buffer = allocate_buffer(&size);
    if (!buffer)
        return fail("not enough free memory to measure the read bandwidth");
    struct part *parts = take_memory(n_threads, sizeof *parts);
    size_t count = (size_t)(size / sizeof *buffer) / n_threads / LANES * LANES;
    for (uint32_t i = 0; i < n_threads; i++)
        parts[i] = (struct part){.data = buffer + i * count, .count = count};
    *bandwidth = take_memory(1, sizeof **bandwidth);
    **bandwidth = (struct bandwidth){buffer, (uint64_t)count * n_threads * sizeof *buffer, parts,
                                     n_threads};
    return run_parts(parts, n_threads, fill_part) ? STATUS_OK : no_threads();
}

void bandwidth_close(struct bandwidth *bandwidth)
{
    if (!bandwidth)
        return;
    free(bandwidth->buffer);
    free(bandwidth->parts);
    free(bandwidth);
}

uint64_t bandwidth_size(const struct bandwidth *bandwidth)
{
    return bandwidth->size;
}

int bandwidth_measure(struct bandwidth *bandwidth, double *bytes_per_second)
{
    double fastest = 0;
    for (int pass = 0; pass < PASSES && !interrupted(); pass++) {
        double begun = seconds_now();
        if (!run_parts(bandwidth->parts, bandwidth->n_parts, read_part))
            return no_threads();
        double rate = (double)bandwidth->size / (seconds_now() - begun);
        if (rate > fastest)
            fastest = rate;
    }
    *bytes_per_second = fastest;
    return interrupted() ? fail_interrupted() : STATUS_OK;
}
