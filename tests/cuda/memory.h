/*
 * Global memory of the played device. Its addresses are reserved and can never be accessed, so that
 * a host function or a kernel that reads through one directly faults at once; the bytes lie
 * elsewhere. Beside each byte stands whether it is allocated and whether it was written, and beside
 * each two bytes who wrote and who read them last. Memory of the host that a test registers has the
 * same beside it, and its bytes where they are.
 */
#ifndef HYMBA_TEST_MEMORY_H
#define HYMBA_TEST_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include <string>

enum { MEMORY_LIVE = 1, MEMORY_WRITTEN = 2 };

/* Two bytes of memory share a stamp. */
enum { MEMORY_STAMP_BYTES = 2 };

struct memory_stamps {
    uint64_t writer, reader;
};

struct memory_region {
    uintptr_t begin, end;
    uint8_t *bytes, *state;
    struct memory_stamps *stamps;
    uint8_t *traffic; /* of traffic.cpp, one for each byte */
};

/* The region an address is in; NULL if none. */
struct memory_region *memory_find(const void *address);

/* Whether it is one of the addresses that memory_allocate gives. */
bool memory_is_device(const void *address);

/* At a multiple of 256, contents garbage; NULL if the reserved addresses are used up. */
void *memory_allocate(size_t bytes);

/* false if no allocation begins there. */
bool memory_release(void *data, size_t *bytes);

void memory_register(const void *data, size_t bytes, bool initialised);
bool memory_unregister(const void *data);

/* "8 bytes behind an allocation of 400 bytes" */
std::string memory_describe(const void *address);

/* Whether all bytes are live and, if so asked, written. */
bool memory_is(const void *data, size_t bytes, uint8_t state);

/* Releases all, forgets what was registered. */
void memory_reset();

/* Makes all stamps old. */
void memory_forget_stamps();

/* While accesses are counted (traffic.h), each is told, too, by its place in the region. */
extern bool memory_counts;
void memory_count_load(struct memory_region *region, size_t offset, size_t bytes);
void memory_count_store(struct memory_region *region, size_t offset, size_t bytes);

/* Makes all bytes' traffic 0. */
void memory_forget_traffic();

#endif
