/* Accesses of kernels to global memory: bounds, races in a launch, what nobody wrote, counts. */
#include "running.h"

#include "memory.h"

typedef uint64_t stamp;

/*
 * A stamp of global memory: launch, block, thread, barriers of the block before it, and of readers
 * whether several threads read between the same barriers, or several blocks.
 */
enum { EPOCH_SHIFT = 2, THREAD_SHIFT = 18, BLOCK_SHIFT = 28, LAUNCH_SHIFT = 46 };
enum { SEVERAL_THREADS = 1, SEVERAL_BLOCKS = 2 };

static stamp my_global_stamp()
{
    /* Later barriers of a very long loop count as one. */
    uint64_t epoch = running.epochs < 0xffff ? running.epochs : 0xffff;
    uint64_t block = running.block & ((1u << BLOCK_BITS) - 1);
    return running.number << LAUNCH_SHIFT | block << BLOCK_SHIFT |
           (uint64_t)harness_now.thread << THREAD_SHIFT | epoch << EPOCH_SHIFT;
}

static bool same_launch(stamp s, stamp t)
{
    return s >> LAUNCH_SHIFT == t >> LAUNCH_SHIFT;
}

static bool same_block(stamp s, stamp t)
{
    return s >> BLOCK_SHIFT == t >> BLOCK_SHIFT;
}

static bool same_thread(stamp s, stamp t)
{
    return s >> THREAD_SHIFT == t >> THREAD_SHIFT;
}

static bool same_interval(stamp s, stamp t)
{
    return same_block(s, t) && (s >> EPOCH_SHIFT & 0xffff) == (t >> EPOCH_SHIFT & 0xffff);
}

/* Of two stamps of one launch. */
static bool is_global_unordered(stamp before, stamp mine)
{
    return !same_thread(before, mine) && (!same_block(before, mine) || same_interval(before, mine));
}

static bool reader_is_unordered(stamp reader, stamp mine)
{
    if (reader & SEVERAL_BLOCKS || is_global_unordered(reader, mine))
        return true;
    return reader & SEVERAL_THREADS && same_interval(reader, mine);
}

static void note_global_reader(stamp *reader, stamp mine)
{
    if (!same_block(*reader, mine))
        *reader |= SEVERAL_BLOCKS;
    else if (!same_interval(*reader, mine))
        *reader = mine | (*reader & SEVERAL_BLOCKS);
    else if (!same_thread(*reader, mine))
        *reader |= SEVERAL_THREADS;
}

static void tell_race(stamp other, const char *mine, const char *others, const void *address,
                      unsigned size)
{
    harness_report(HARNESS_GLOBAL_RACE,
                   "%s %u bytes at %s, which thread %u of block %u of the grid %s in this launch",
                   mine, size, memory_describe(address).c_str(),
                   (unsigned)(other >> THREAD_SHIFT & 1023),
                   (unsigned)(other >> BLOCK_SHIFT & ((1u << BLOCK_BITS) - 1)), others);
}

/* What all bytes of an element have in common. */
static uint8_t common_state(const uint8_t *state, unsigned size)
{
    uint64_t halves[2] = {UINT64_MAX, UINT64_MAX};
    copy_element(halves, state, size);
    uint64_t common = halves[0] & halves[1];
    for (unsigned shift = 32; shift >= 8; shift /= 2)
        common &= common >> shift;
    return (uint8_t)common;
}

/* The region of a good access; otherwise says what is wrong with it. */
static struct memory_region *check_access(const void *address, unsigned size, const char *what,
                                          uint8_t *state)
{
    uintptr_t p = reinterpret_cast<uintptr_t>(address);
    struct memory_region *region = memory_find(address);
    if ((p & (size - 1)) != 0) { /* a power of two */
        harness_report(HARNESS_ALIGNMENT, "%s %u bytes at %p, which is no multiple of that", what,
                       size, address);
        return nullptr;
    }
    *state = 0;
    if (region && size <= region->end - p)
        *state = common_state(region->state + (p - region->begin), size);
    if (*state & MEMORY_LIVE)
        return region;
    harness_report(HARNESS_GLOBAL_BOUNDS, "%s %u bytes: %s", what, size,
                   memory_describe(address).c_str());
    return nullptr;
}

void harness_global_load(const void *address, void *value, unsigned size)
{
    uint8_t state;
    running.record.bytes_read += size;
    struct memory_region *region = check_access(address, size, "reads", &state);
    if (!region) {
        memset(value, 0, size);
        return;
    }
    size_t offset = reinterpret_cast<uintptr_t>(address) - region->begin;
    if (!(state & MEMORY_WRITTEN))
        harness_report(HARNESS_GLOBAL_UNINITIALISED, "reads %u bytes that nobody wrote: %s", size,
                       memory_describe(address).c_str());
    stamp mine = my_global_stamp(), race = 0;
    struct memory_stamps *s = region->stamps + offset / MEMORY_STAMP_BYTES;
    struct memory_stamps *end = s + (size + MEMORY_STAMP_BYTES - 1) / MEMORY_STAMP_BYTES;
    for (; s < end; s++) {
        if (same_launch(s->writer, mine) && is_global_unordered(s->writer, mine))
            race = s->writer;
        if (same_launch(s->reader, mine)) {
            note_global_reader(&s->reader, mine);
        } else {
            s->reader = mine;
            running.record.unique_bytes_read += MEMORY_STAMP_BYTES;
        }
    }
    if (race && size >= MEMORY_STAMP_BYTES)
        tell_race(race, "reads", "writes", address, size);
    if (memory_counts)
        memory_count_load(region, offset, size);
    copy_element(value, region->bytes + offset, size);
}

void harness_global_store(void *address, const void *value, unsigned size)
{
    uint8_t state;
    running.record.bytes_written += size;
    struct memory_region *region = check_access(address, size, "writes", &state);
    if (!region)
        return;
    size_t offset = reinterpret_cast<uintptr_t>(address) - region->begin;
    bool changes = memcmp(region->bytes + offset, value, size) != 0;
    stamp mine = my_global_stamp(), writer = 0, reader = 0;
    struct memory_stamps *s = region->stamps + offset / MEMORY_STAMP_BYTES;
    struct memory_stamps *end = s + (size + MEMORY_STAMP_BYTES - 1) / MEMORY_STAMP_BYTES;
    for (; s < end; s++) {
        if (!same_launch(s->writer, mine))
            running.record.unique_bytes_written += MEMORY_STAMP_BYTES;
        else if (changes && is_global_unordered(s->writer, mine))
            writer = s->writer;
        if (same_launch(s->reader, mine) && reader_is_unordered(s->reader, mine))
            reader = s->reader;
        s->writer = mine;
    }
    if (writer && size >= MEMORY_STAMP_BYTES)
        tell_race(writer, "writes", "writes another value to", address, size);
    else if (reader && size >= MEMORY_STAMP_BYTES)
        tell_race(reader, "writes", "reads", address, size);
    memset(region->state + offset, MEMORY_LIVE | MEMORY_WRITTEN, size);
    if (memory_counts)
        memory_count_store(region, offset, size);
    copy_element(region->bytes + offset, value, size);
}

/* ---------------------------------------------------------- registered memory */

void harness_register(const void *data, size_t bytes, bool initialised)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    memory_register(data, bytes, initialised);
}

void harness_unregister(const void *data)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    memory_unregister(data);
}

bool harness_is_written(const void *data, size_t bytes)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    return memory_is(data, bytes, MEMORY_LIVE | MEMORY_WRITTEN);
}
