#include "fuzz_container.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { FILE_HEADER = 32, HEADER = 16, BLOCK = 1 << 20 };

static uint32_t number_at(const uint8_t *data)
{
    uint32_t number;
    memcpy(&number, data, sizeof number);
    return number;
}

static uint64_t long_at(const uint8_t *data)
{
    uint64_t number;
    memcpy(&number, data, sizeof number);
    return number;
}

static void put_number(uint8_t *data, uint32_t number)
{
    memcpy(data, &number, sizeof number);
}

/* ------------------------------------------------------------- checksums */

static void fix_file_header(uint8_t *data)
{
    put_number(data + 28, (uint32_t)crc32(0, data, 28));
}

static void fix_chunk_header(uint8_t *data)
{
    uLong crc = crc32(0, data, 4);
    put_number(data + 4, (uint32_t)crc32(crc, data + 8, 8));
}

/* The block's content if it can be unpacked; false if not. block has BLOCK bytes. */
static bool unpack_block(const uint8_t *data, size_t left, uint8_t *block, size_t *size,
                         size_t *stored)
{
    if (left < HEADER)
        return false;
    *size = number_at(data);
    *stored = number_at(data + 4);
    if (*size == 0 || *size > BLOCK || *stored == 0 || *stored > left - HEADER)
        return false;
    if (*stored == *size) {
        memcpy(block, data + HEADER, *size);
        return true;
    }
    uLongf unpacked = *size;
    return uncompress(block, &unpacked, data + HEADER, *stored) == Z_OK && unpacked == *size;
}

/* Calls for each chunk header and each block in it; stops where the bytes make no sense. */
struct walk {
    void (*chunk)(void *user, size_t place, uint64_t size);
    void (*block)(void *user, size_t place, const uint8_t *content, size_t size);
    void *user;
};

static void walk(const uint8_t *data, size_t size, const struct walk *calls)
{
    uint8_t *block = malloc(BLOCK);
    size_t place = FILE_HEADER;
    while (block && place <= size && size - place >= HEADER) {
        uint64_t left = long_at(data + place + 8);
        calls->chunk(calls->user, place, left);
        place += HEADER;
        while (left > 0) {
            size_t length, stored;
            if (!unpack_block(data + place, size - place, block, &length, &stored)) {
                free(block);
                return;
            }
            calls->block(calls->user, place, block, length);
            place += HEADER + stored;
            left -= left < length ? left : length;
        }
    }
    free(block);
}

static void fix_chunk(void *user, size_t place, uint64_t size)
{
    (void)size;
    fix_chunk_header((uint8_t *)user + place);
}

static void fix_block(void *user, size_t place, const uint8_t *content, size_t size)
{
    put_number((uint8_t *)user + place + 8, (uint32_t)crc32(0, content, (uInt)size));
}

void fuzz_container_fix(uint8_t *data, size_t size)
{
    struct walk calls = {fix_chunk, fix_block, data};
    if (size < FILE_HEADER)
        return;
    fix_file_header(data);
    walk(data, size, &calls);
}

/* ----------------------------------------------------------------- chunks */

struct unpacking {
    const uint8_t *data;
    struct fuzz_container *container;
};

static void take_chunk(void *user, size_t place, uint64_t size)
{
    struct unpacking *unpacking = user;
    struct fuzz_container *container = unpacking->container;
    if (container->n == FUZZ_MAX_CHUNKS)
        return;
    struct fuzz_chunk *chunk = &container->chunks[container->n++];
    memset(chunk, 0, sizeof *chunk);
    chunk->tag = number_at(unpacking->data + place);
    chunk->claimed = size;
}

static void take_block(void *user, size_t place, const uint8_t *content, size_t size)
{
    struct fuzz_container *container = ((struct unpacking *)user)->container;
    (void)place;
    fuzz_write(&container->chunks[container->n - 1].bytes, content, size);
}

void fuzz_container_unpack(const uint8_t *data, size_t size, struct fuzz_container *container)
{
    struct unpacking unpacking = {data, container};
    struct walk calls = {take_chunk, take_block, &unpacking};
    container->n = 0;
    walk(data, size, &calls);
    if (container->n > 0 && container->chunks[container->n - 1].claimed == 0)
        container->n--; /* the end mark */
}

void fuzz_container_copy(const struct fuzz_container *from, struct fuzz_container *to)
{
    to->n = from->n;
    for (size_t i = 0; i < from->n; i++) {
        to->chunks[i] = from->chunks[i];
        memset(&to->chunks[i].bytes, 0, sizeof to->chunks[i].bytes);
        fuzz_write(&to->chunks[i].bytes, from->chunks[i].bytes.data, from->chunks[i].bytes.size);
    }
}

void fuzz_container_free(struct fuzz_container *container)
{
    for (size_t i = 0; i < container->n; i++)
        fuzz_file_free(&container->chunks[i].bytes);
    container->n = 0;
}

static void pack_chunk(uint32_t tag, uint64_t claimed, const struct fuzz_file *bytes,
                       struct fuzz_file *file)
{
    uint8_t header[HEADER] = {0};
    put_number(header, tag);
    memcpy(header + 8, &claimed, sizeof claimed);
    fix_chunk_header(header);
    fuzz_write(file, header, sizeof header);
    for (size_t i = 0; i < bytes->size;) {
        size_t size = bytes->size - i < BLOCK ? bytes->size - i : BLOCK;
        memset(header, 0, sizeof header);
        put_number(header, (uint32_t)size);
        put_number(header + 4, (uint32_t)size);
        put_number(header + 8, (uint32_t)crc32(0, bytes->data + i, (uInt)size));
        fuzz_write(file, header, sizeof header);
        fuzz_write(file, bytes->data + i, size);
        i += size;
    }
}

void fuzz_container_pack(const struct fuzz_container *container, struct fuzz_file *file)
{
    static const uint32_t end_tag = 'E' | 'N' << 8 | 'D' << 16 | (uint32_t)' ' << 24;
    uint8_t header[FILE_HEADER] = "HYMBASAV";
    struct fuzz_file nothing = {0};
    put_number(header + 8, 0x01020304);
    put_number(header + 12, 1);
    fix_file_header(header);
    fuzz_write(file, header, sizeof header);
    for (size_t i = 0; i < container->n; i++)
        pack_chunk(container->chunks[i].tag, container->chunks[i].claimed,
                   &container->chunks[i].bytes, file);
    pack_chunk(end_tag, 0, &nothing, file);
}
