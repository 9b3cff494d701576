#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <map>
#include <vector>

namespace {

/* Addresses cost nothing until used; one is used again as late as can be, so that who keeps a
 * released pointer is found. */
const size_t LARGEST_ARENA = (size_t)16 << 30, SMALLEST_ARENA = (size_t)64 << 20;
const size_t GAP_BYTES = 4096;
const size_t ALIGNMENT = 256;

struct memory_region arena;
std::map<uintptr_t, size_t> allocations;
uintptr_t cursor;

struct registration {
    struct memory_region region;
    std::vector<uint8_t> state;
    std::vector<struct memory_stamps> stamps;
    std::vector<uint8_t> traffic;
};
std::map<uintptr_t, registration> registrations; /* by their end */
struct memory_region *found_last;

uint8_t *reserve(size_t bytes, int protection)
{
    void *p = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : static_cast<uint8_t *>(p);
}

/* Systems that promise no more memory than they have allow less. */
void begin_arena()
{
    for (size_t size = LARGEST_ARENA; size >= SMALLEST_ARENA; size /= 2) {
        size_t stamps = size / MEMORY_STAMP_BYTES * sizeof(struct memory_stamps);
        uint8_t *addresses = reserve(size, PROT_NONE);
        uint8_t *data = addresses ? reserve(3 * size + stamps, PROT_READ | PROT_WRITE) : nullptr;
        if (!data) {
            if (addresses)
                munmap(addresses, size);
            continue;
        }
        arena.begin = cursor = reinterpret_cast<uintptr_t>(addresses);
        arena.end = arena.begin + size;
        arena.bytes = data;
        arena.state = data + size;
        arena.traffic = data + 2 * size;
        arena.stamps = reinterpret_cast<struct memory_stamps *>(data + 3 * size);
        return;
    }
    perror("memory of the played device");
    exit(1);
}

size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Gives whole pages within back to the system: they will read as zeros. */
void drop(void *data, size_t bytes)
{
    uintptr_t begin = round_up(reinterpret_cast<uintptr_t>(data), GAP_BYTES);
    uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / GAP_BYTES * GAP_BYTES;
    if (begin < end)
        madvise(reinterpret_cast<void *>(begin), end - begin, MADV_DONTNEED);
}

/* The first room of that size from here on; 0 if there is none. */
uintptr_t find_room(uintptr_t from, size_t bytes)
{
    auto next = allocations.lower_bound(from);
    if (next != allocations.begin()) {
        auto before = std::prev(next);
        uintptr_t end = round_up(before->first + before->second, GAP_BYTES) + GAP_BYTES;
        if (end > from)
            from = end;
    }
    for (; next != allocations.end(); ++next) {
        if (from + bytes + GAP_BYTES <= next->first)
            return from;
        from = round_up(next->first + next->second, GAP_BYTES) + GAP_BYTES;
    }
    return from <= arena.end && bytes + GAP_BYTES <= arena.end - from ? from : 0;
}

} // namespace

struct memory_region *memory_find(const void *address)
{
    uintptr_t p = reinterpret_cast<uintptr_t>(address);
    if (p >= arena.begin && p < arena.end)
        return &arena;
    if (found_last && p >= found_last->begin && p < found_last->end)
        return found_last;
    auto after = registrations.upper_bound(p);
    if (after == registrations.end() || p < after->second.region.begin)
        return nullptr;
    return found_last = &after->second.region;
}

bool memory_is_device(const void *address)
{
    uintptr_t p = reinterpret_cast<uintptr_t>(address);
    return p >= arena.begin && p < arena.end;
}

void *memory_allocate(size_t bytes)
{
    if (!arena.begin)
        begin_arena();
    if (bytes == 0 || bytes > (arena.end - arena.begin) / 2)
        return nullptr;
    uintptr_t begin = find_room(cursor, bytes);
    if (!begin)
        begin = find_room(arena.begin, bytes);
    if (!begin)
        return nullptr;
    static_assert(GAP_BYTES % ALIGNMENT == 0, "alignment of allocations");
    allocations[begin] = bytes;
    cursor = begin + round_up(bytes, GAP_BYTES) + GAP_BYTES;
    memset(arena.state + (begin - arena.begin), MEMORY_LIVE, bytes);
    memset(arena.bytes + (begin - arena.begin), 0xff, bytes);
    return reinterpret_cast<void *>(begin);
}

bool memory_release(void *data, size_t *bytes)
{
    auto found = allocations.find(reinterpret_cast<uintptr_t>(data));
    if (found == allocations.end())
        return false;
    size_t offset = found->first - arena.begin;
    *bytes = found->second;
    size_t stamps = round_up(*bytes, MEMORY_STAMP_BYTES) / MEMORY_STAMP_BYTES;
    memset(arena.state + offset, 0, *bytes);
    drop(arena.bytes + offset, *bytes);
    drop(arena.stamps + offset / MEMORY_STAMP_BYTES, stamps * sizeof *arena.stamps);
    allocations.erase(found);
    return true;
}

void memory_register(const void *data, size_t bytes, bool initialised)
{
    if (bytes == 0)
        return;
    memory_unregister(data);
    uintptr_t begin = reinterpret_cast<uintptr_t>(data);
    registration &r = registrations[begin + bytes];
    size_t stamps = bytes / MEMORY_STAMP_BYTES + 1;
    r.state.assign(bytes, initialised ? MEMORY_LIVE | MEMORY_WRITTEN : MEMORY_LIVE);
    r.stamps.assign(stamps, {0, 0});
    r.traffic.assign(bytes, 0);
    r.region.begin = begin;
    r.region.end = begin + bytes;
    r.region.bytes = static_cast<uint8_t *>(const_cast<void *>(data));
    r.region.state = r.state.data();
    r.region.stamps = r.stamps.data();
    r.region.traffic = r.traffic.data();
}

bool memory_unregister(const void *data)
{
    found_last = nullptr;
    uintptr_t begin = reinterpret_cast<uintptr_t>(data);
    auto found = registrations.upper_bound(begin);
    if (found == registrations.end() || found->second.region.begin != begin)
        return false;
    registrations.erase(found);
    return true;
}

static std::string describe_near(uintptr_t p, uintptr_t begin, size_t bytes, const char *what)
{
    char text[200];
    if (p < begin)
        snprintf(text, sizeof text, "%zu bytes before %s of %zu bytes", (size_t)(begin - p), what,
                 bytes);
    else if (p >= begin + bytes)
        snprintf(text, sizeof text, "%zu bytes behind %s of %zu bytes",
                 (size_t)(p - begin - bytes), what, bytes);
    else
        snprintf(text, sizeof text, "byte %zu of %s of %zu bytes", (size_t)(p - begin), what,
                 bytes);
    return text;
}

std::string memory_describe(const void *address)
{
    uintptr_t p = reinterpret_cast<uintptr_t>(address);
    char text[200];
    if (p >= arena.begin && p < arena.end) {
        auto next = allocations.upper_bound(p);
        if (next != allocations.begin()) {
            auto before = std::prev(next);
            if (p - before->first < before->second + GAP_BYTES)
                return describe_near(p, before->first, before->second, "an allocation");
        }
        if (next != allocations.end() && next->first - p <= GAP_BYTES)
            return describe_near(p, next->first, next->second, "an allocation");
        snprintf(text, sizeof text, "%p, where nothing is allocated any more or yet", address);
        return text;
    }
    for (const auto &entry : registrations) {
        const struct memory_region &r = entry.second.region;
        if (p + GAP_BYTES >= r.begin && p < r.end + GAP_BYTES)
            return describe_near(p, r.begin, r.end - r.begin, "a registered array");
    }
    snprintf(text, sizeof text, "%p, which is not the device's", address);
    return text;
}

bool memory_is(const void *data, size_t bytes, uint8_t state)
{
    if (bytes == 0)
        return true;
    struct memory_region *region = memory_find(data);
    uintptr_t p = reinterpret_cast<uintptr_t>(data);
    if (!region || bytes > region->end - p)
        return false;
    const uint8_t *states = region->state + (p - region->begin);
    for (size_t i = 0; i < bytes; i++)
        if ((states[i] & state) != state)
            return false;
    return true;
}

void memory_reset()
{
    while (!allocations.empty()) {
        size_t bytes;
        memory_release(reinterpret_cast<void *>(allocations.begin()->first), &bytes);
    }
    registrations.clear();
    found_last = nullptr;
}

void memory_forget_stamps()
{
    if (arena.begin) {
        drop(arena.stamps,
             (arena.end - arena.begin) / MEMORY_STAMP_BYTES * sizeof *arena.stamps);
    }
    for (auto &entry : registrations) {
        registration &r = entry.second;
        r.stamps.assign(r.stamps.size(), {0, 0});
    }
}

void memory_forget_traffic()
{
    if (arena.begin)
        drop(arena.traffic, arena.end - arena.begin);
    for (auto &entry : registrations)
        entry.second.traffic.assign(entry.second.traffic.size(), 0);
}
