/*
 * The container of saved state (docs/session-file.md): a header, then chunks of bytes under a tag,
 * each divided into blocks that are compressed by zlib and guarded by a CRC. Numbers are in the
 * byte order of the machine that wrote them, which the header names.
 */
#ifndef HY_FORMAT_CONTAINER_H
#define HY_FORMAT_CONTAINER_H

#include "base/memory.h"

enum { HY_CONTAINER_VERSION = 1, HY_CONTAINER_BLOCK = 1 << 20 };

/* Chunk tags: four letters. */
#define HY_TAG(a, b, c, d)                                                                        \
    ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

struct hy_container_writer {
    struct hy_memory *memory;
    hymba_write write;
    void *user;
    uint64_t written;          /* bytes given to write */
    uint64_t left;             /* bytes the current chunk still expects */
    unsigned char *block;      /* HY_CONTAINER_BLOCK bytes waiting */
    size_t used;
    unsigned char *compressed;
    size_t compressed_capacity;
};

hymba_status hy_container_begin(struct hy_memory *memory, hymba_write write, void *user,
                                struct hy_container_writer *writer, hymba_error *error);
/* Begins a chunk of size bytes, which put then gives in pieces of any size. */
hymba_status hy_container_chunk(struct hy_container_writer *writer, uint32_t tag, uint64_t size,
                                hymba_error *error);
hymba_status hy_container_put(struct hy_container_writer *writer, const void *data, size_t size,
                              hymba_error *error);
/* The end mark. */
hymba_status hy_container_end(struct hy_container_writer *writer, hymba_error *error);
/* Frees the buffers; safe after any of the above, and twice. */
void hy_container_writer_free(struct hy_container_writer *writer);

struct hy_container_reader {
    struct hy_memory *memory;
    const char *name;          /* of the file, for messages */
    const unsigned char *data;
    size_t size, place;
    uint32_t tag;              /* of the current chunk */
    uint64_t left;             /* its bytes that were not taken yet */
    unsigned char *block;      /* the current block, unpacked */
    size_t block_size, block_used;
};

/* Checks the header. data must stay until the reader is freed. */
hymba_status hy_container_open(struct hy_memory *memory, const char *name, const void *data,
                               size_t size, struct hy_container_reader *reader,
                               hymba_error *error);
/* Goes to the next chunk, which must have this tag, and tells its size; the one before must have
 * been taken whole. */
hymba_status hy_container_expect(struct hy_container_reader *reader, uint32_t tag, uint64_t *size,
                                 hymba_error *error);
/* Takes size bytes of the current chunk. */
hymba_status hy_container_take(struct hy_container_reader *reader, void *data, size_t size,
                               hymba_error *error);
/* The end mark must follow, and nothing behind it. */
hymba_status hy_container_finish(struct hy_container_reader *reader, hymba_error *error);
void hy_container_reader_free(struct hy_container_reader *reader);

#endif
