/*
 * The container of saved sessions, taken apart and put together again, so that fuzzing gets behind
 * its compression and its checksums (docs/session-file.md).
 */
#ifndef FUZZ_CONTAINER_H
#define FUZZ_CONTAINER_H

#include "fuzz.h"

enum { FUZZ_MAX_CHUNKS = 64 };

struct fuzz_chunk {
    uint32_t tag;
    uint64_t claimed; /* the size its header tells */
    struct fuzz_file bytes;
};

struct fuzz_container {
    struct fuzz_chunk chunks[FUZZ_MAX_CHUNKS]; /* without the end mark */
    size_t n;
};

/* Takes apart what the library wrote; whatever else it is given, it stops where that ends. */
void fuzz_container_unpack(const uint8_t *data, size_t size, struct fuzz_container *container);

void fuzz_container_copy(const struct fuzz_container *from, struct fuzz_container *to);
void fuzz_container_free(struct fuzz_container *container);

/* A file of these chunks: blocks not compressed, checksums right. */
void fuzz_container_pack(const struct fuzz_container *container, struct fuzz_file *file);

/* Makes the checksums of a file right where it can. */
void fuzz_container_fix(uint8_t *data, size_t size);

#endif
