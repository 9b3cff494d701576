/*
 * Memory through the host's hooks. Every object owns a struct hy_memory, through which all its
 * allocations go: it knows the hooks and counts the bytes. All blocks are aligned to 64 bytes.
 */
#ifndef HY_BASE_MEMORY_H
#define HY_BASE_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { HY_ALIGNMENT = 64 };

struct hy_memory {
    hymba_host host;           /* complete: no member is NULL but log, progress and user */
    struct hy_memory *parent;  /* whose account these bytes stand on too; NULL: none */
    uint64_t limit;            /* most bytes at once; 0: none */
    _Atomic uint64_t used;     /* bytes now allocated */
    _Atomic uint64_t peak;     /* most bytes ever allocated at once */
};

/* Hooks with the defaults filled in; host may be NULL. False if host lacks one of alloc, free. */
hymba_status hy_memory_init(struct hy_memory *memory, const hymba_host *host, hymba_error *error);

/* An account below the parent's, which must live longer; limit 0 means none. */
void hy_memory_create_child(struct hy_memory *memory, struct hy_memory *parent, uint64_t limit);

/* A new account with the parent's hooks. */
void hy_memory_inherit(struct hy_memory *memory, const struct hy_memory *parent);

/* Puts bytes that do not come from the hooks on the account, and takes them off; false, and
 * nothing, if a limit does not allow them. */
bool hy_memory_charge(struct hy_memory *memory, size_t bytes);
void hy_memory_discharge(struct hy_memory *memory, size_t bytes);

/* size bytes (0 counts as 1), uninitialised; NULL if there are none. Freed by hy_free. */
void *hy_alloc(struct hy_memory *memory, size_t size);

/* count * size bytes, zeroed; NULL if the product does not fit or there is no memory. */
void *hy_alloc_zero(struct hy_memory *memory, size_t count, size_t size);

/* count * size bytes, uninitialised. */
void *hy_alloc_array(struct hy_memory *memory, size_t count, size_t size);

/* A larger (or smaller) block with the same beginning; on failure NULL, and the old one stays. */
void *hy_realloc(struct hy_memory *memory, void *pointer, size_t size);

/* NULL is ignored. */
void hy_free(struct hy_memory *memory, void *pointer);

/* A copy of length bytes with a NUL behind. */
char *hy_copy_text(struct hy_memory *memory, const char *text, size_t length);

/* The usual sentence for a failed allocation of size bytes for what. */
hymba_status hy_no_memory(hymba_error *error, size_t size, const char *what);

/* One line to the host's log, formatted; nothing if it has none. */
void hy_log(const struct hy_memory *memory, int32_t level, const char *format, ...) HY_PRINTF(3, 4);

/* Reports progress; HYMBA_ERROR_CANCELLED if the host says so. */
hymba_status hy_progress(const struct hy_memory *memory, int32_t phase, uint64_t done,
                         uint64_t total, hymba_error *error);

#endif
