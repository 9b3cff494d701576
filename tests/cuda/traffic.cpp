#include "traffic.h"

#include "inside.h"
#include "memory.h"

bool memory_counts;

namespace {

/* Beside each byte: its label, and whether it was loaded and stored. */
enum { LABEL = TRAFFIC_LABELS - 1, LOADED = 16, STORED = 32 };

struct traffic totals[TRAFFIC_LABELS];

/* Marks the byte; 1 if it was not. */
uint64_t mark(uint8_t *byte, uint8_t bit)
{
    uint64_t is_new = (*byte & bit) == 0;
    *byte |= bit;
    return is_new;
}

} // namespace

void memory_count_load(struct memory_region *region, size_t offset, size_t bytes)
{
    for (uint8_t *byte = region->traffic + offset; byte < region->traffic + offset + bytes;
         byte++) {
        struct traffic *total = &totals[*byte & LABEL];
        total->loads++;
        total->distinct_loads += mark(byte, LOADED);
    }
}

void memory_count_store(struct memory_region *region, size_t offset, size_t bytes)
{
    for (uint8_t *byte = region->traffic + offset; byte < region->traffic + offset + bytes;
         byte++) {
        struct traffic *total = &totals[*byte & LABEL];
        total->stores++;
        total->distinct_stores += mark(byte, STORED);
    }
}

void traffic_begin(void)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    memset(totals, 0, sizeof totals);
    memory_forget_traffic();
    memory_counts = true;
}

void traffic_label(const void *data, size_t bytes, unsigned label)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    struct memory_region *region = memory_find(data);
    if (bytes > 0 && !memory_is(data, bytes, MEMORY_LIVE))
        harness_report(HARNESS_CALL, "a label for %s", memory_describe(data).c_str());
    else if (bytes > 0)
        memset(region->traffic + (reinterpret_cast<uintptr_t>(data) - region->begin),
               (int)(label & LABEL), bytes);
}

void traffic_end(struct traffic traffic[TRAFFIC_LABELS])
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    memory_counts = false;
    memcpy(traffic, totals, sizeof totals);
}
