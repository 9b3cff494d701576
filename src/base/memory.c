#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

/* The size stands in front of each block, since the hooks want it back when the block is freed. */
struct block_header {
    size_t size; /* of the whole block, header included */
};

_Static_assert(sizeof(struct block_header) <= HY_ALIGNMENT, "the header must fit its padding");

static void *default_alloc(void *user, size_t size, size_t alignment)
{
    void *pointer = NULL;
    (void)user;
    return posix_memalign(&pointer, alignment, size) == 0 ? pointer : NULL;
}

static void default_free(void *user, void *pointer, size_t size, size_t alignment)
{
    (void)user;
    (void)size;
    (void)alignment;
    free(pointer);
}

hymba_status hy_memory_init(struct hy_memory *memory, const hymba_host *host, hymba_error *error)
{
    memset(memory, 0, sizeof *memory);
    atomic_init(&memory->used, 0);
    atomic_init(&memory->peak, 0);
    if (host)
        memory->host = *host;
    memory->host.struct_size = sizeof memory->host;
    if (!memory->host.alloc != !memory->host.free)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "host: alloc and free must be given together, only %s is",
                       memory->host.alloc ? "alloc" : "free");
    if (!memory->host.alloc) {
        memory->host.alloc = default_alloc;
        memory->host.free = default_free;
    }
    return HYMBA_OK;
}

void hy_memory_inherit(struct hy_memory *memory, const struct hy_memory *parent)
{
    memory->host = parent->host;
    memory->parent = NULL;
    memory->limit = 0;
    atomic_init(&memory->used, 0);
    atomic_init(&memory->peak, 0);
}

void hy_memory_create_child(struct hy_memory *memory, struct hy_memory *parent, uint64_t limit)
{
    hy_memory_inherit(memory, parent);
    memory->parent = parent;
    memory->limit = limit;
}

static void count_down(struct hy_memory *memory, const struct hy_memory *end, size_t size)
{
    for (; memory != end; memory = memory->parent)
        atomic_fetch_sub(&memory->used, size);
}

/* Puts size bytes on the account and those above it; false, and nothing, if one has no room. */
static bool count_up(struct hy_memory *memory, size_t size)
{
    for (struct hy_memory *account = memory; account; account = account->parent) {
        uint64_t used = atomic_fetch_add(&account->used, size) + size;
        if (account->limit > 0 && used > account->limit) {
            count_down(memory, account->parent, size);
            return false;
        }
        uint64_t peak = atomic_load(&account->peak);
        while (used > peak && !atomic_compare_exchange_weak(&account->peak, &peak, used)) {
        }
    }
    return true;
}

bool hy_memory_charge(struct hy_memory *memory, size_t bytes)
{
    return count_up(memory, bytes);
}

void hy_memory_discharge(struct hy_memory *memory, size_t bytes)
{
    count_down(memory, NULL, bytes);
}

void *hy_alloc(struct hy_memory *memory, size_t size)
{
    size_t whole;
    if (!hy_add_size(size ? size : 1, HY_ALIGNMENT, &whole))
        return NULL;
    if (!count_up(memory, whole))
        return NULL;
    char *block = memory->host.alloc(memory->host.user, whole, HY_ALIGNMENT);
    if (!block) {
        count_down(memory, NULL, whole);
        return NULL;
    }
    ((struct block_header *)block)->size = whole;
    return block + HY_ALIGNMENT;
}

void *hy_alloc_array(struct hy_memory *memory, size_t count, size_t size)
{
    size_t bytes;
    return hy_mul_size(count, size, &bytes) ? hy_alloc(memory, bytes) : NULL;
}

void *hy_alloc_zero(struct hy_memory *memory, size_t count, size_t size)
{
    void *pointer = hy_alloc_array(memory, count, size);
    if (pointer)
        memset(pointer, 0, count * size);
    return pointer;
}

void *hy_realloc(struct hy_memory *memory, void *pointer, size_t size)
{
    void *larger = hy_alloc(memory, size);
    if (larger && pointer) {
        struct block_header *old = (struct block_header *)((char *)pointer - HY_ALIGNMENT);
        memcpy(larger, pointer, hy_min_size(old->size - HY_ALIGNMENT, size));
        hy_free(memory, pointer);
    }
    return larger;
}

void hy_free(struct hy_memory *memory, void *pointer)
{
    if (!pointer)
        return;
    struct block_header *block = (struct block_header *)((char *)pointer - HY_ALIGNMENT);
    size_t size = block->size;
    count_down(memory, NULL, size);
    memory->host.free(memory->host.user, block, size, HY_ALIGNMENT);
}

char *hy_copy_text(struct hy_memory *memory, const char *text, size_t length)
{
    size_t size;
    char *copy = hy_add_size(length, 1, &size) ? hy_alloc(memory, size) : NULL;
    if (copy) {
        memcpy(copy, text, length);
        copy[length] = '\0';
    }
    return copy;
}

hymba_status hy_no_memory(hymba_error *error, size_t size, const char *what)
{
    return hy_fail(error, HYMBA_ERROR_MEMORY, "no memory for %s (%zu bytes)", what, size);
}

void hy_log(const struct hy_memory *memory, int32_t level, const char *format, ...)
{
    if (!memory->host.log)
        return;
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length < 0)
        return;
    memory->host.log(memory->host.user, level, line, hy_min_size((size_t)length, sizeof line - 1));
}

hymba_status hy_progress(const struct hy_memory *memory, int32_t phase, uint64_t done,
                         uint64_t total, hymba_error *error)
{
    if (memory->host.progress && memory->host.progress(memory->host.user, phase, done, total) != 0)
        return hy_fail(error, HYMBA_ERROR_CANCELLED, "cancelled by the progress callback");
    return HYMBA_OK;
}
