#include "format/container.h"

#include <string.h>
#include <zlib.h>

#include "base/checked.h"

static const char magic[8] = {'H', 'Y', 'M', 'B', 'A', 'S', 'A', 'V'};
enum { BYTE_ORDER_MARK = 0x01020304, LEVEL = 1 };
static const uint32_t end_tag = HY_TAG('E', 'N', 'D', ' ');

struct file_header {
    char magic[8];
    uint32_t byte_order, version;
    uint32_t reserved[3];
    uint32_t crc; /* of what stands before it */
};

struct chunk_header {
    uint32_t tag;
    uint32_t crc; /* of tag and size */
    uint64_t size;
};

/* In front of each block. A block that does not shrink is stored as it is. */
struct block_header {
    uint32_t size, stored_size;
    uint32_t crc; /* of the block's size bytes */
    uint32_t reserved;
};

static uint32_t chunk_crc(const struct chunk_header *header)
{
    uLong crc = crc32(0, (const Bytef *)&header->tag, sizeof header->tag);
    return (uint32_t)crc32(crc, (const Bytef *)&header->size, sizeof header->size);
}

static uint32_t header_crc(const struct file_header *header)
{
    return (uint32_t)crc32(0, (const Bytef *)header, offsetof(struct file_header, crc));
}

/* zlib's own memory comes from ours. */
static voidpf zlib_alloc(voidpf user, uInt items, uInt size)
{
    return hy_alloc_array(user, items, size);
}

static void zlib_free(voidpf user, voidpf pointer)
{
    hy_free(user, pointer);
}

/* ---------------------------------------------------------------- writing */

static hymba_status give(struct hy_container_writer *writer, const void *data, size_t size,
                         hymba_error *error)
{
    if (writer->write(writer->user, data, size) != 0)
        return hy_fail(error, HYMBA_ERROR_FILE, "the write function refused %zu bytes at %llu",
                       size, (unsigned long long)writer->written);
    writer->written += size;
    return HYMBA_OK;
}

hymba_status hy_container_begin(struct hy_memory *memory, hymba_write write, void *user,
                                struct hy_container_writer *writer, hymba_error *error)
{
    *writer = (struct hy_container_writer){.memory = memory, .write = write, .user = user};
    writer->compressed_capacity = compressBound(HY_CONTAINER_BLOCK);
    writer->block = hy_alloc(memory, HY_CONTAINER_BLOCK);
    writer->compressed = hy_alloc(memory, writer->compressed_capacity);
    if (!writer->block || !writer->compressed) {
        hy_container_writer_free(writer);
        return hy_no_memory(error, HY_CONTAINER_BLOCK, "a block to be compressed");
    }
    struct file_header header = {.byte_order = BYTE_ORDER_MARK, .version = HY_CONTAINER_VERSION};
    memcpy(header.magic, magic, sizeof magic);
    header.crc = header_crc(&header);
    hymba_status status = give(writer, &header, sizeof header, error);
    if (status != HYMBA_OK)
        hy_container_writer_free(writer);
    return status;
}

/* Compresses the waiting block; the result's size, or 0 if it did not shrink or has no memory. */
static size_t compress_block(struct hy_container_writer *writer)
{
    z_stream stream = {.zalloc = zlib_alloc, .zfree = zlib_free, .opaque = writer->memory};
    size_t size = 0;
    if (deflateInit(&stream, LEVEL) != Z_OK)
        return 0;
    stream.next_in = writer->block;
    stream.avail_in = (uInt)writer->used;
    stream.next_out = writer->compressed;
    stream.avail_out = (uInt)writer->compressed_capacity;
    if (deflate(&stream, Z_FINISH) == Z_STREAM_END && stream.total_out < writer->used)
        size = stream.total_out;
    deflateEnd(&stream);
    return size;
}

static hymba_status flush_block(struct hy_container_writer *writer, hymba_error *error)
{
    if (writer->used == 0)
        return HYMBA_OK;
    size_t compressed = compress_block(writer);
    size_t stored = compressed > 0 ? compressed : writer->used;
    struct block_header header = {
        .size = (uint32_t)writer->used,
        .stored_size = (uint32_t)stored,
        .crc = (uint32_t)crc32(0, writer->block, (uInt)writer->used),
    };
    hymba_status status = give(writer, &header, sizeof header, error);
    if (status == HYMBA_OK)
        status = give(writer, compressed > 0 ? writer->compressed : writer->block, stored, error);
    writer->used = 0;
    return status;
}

hymba_status hy_container_chunk(struct hy_container_writer *writer, uint32_t tag, uint64_t size,
                                hymba_error *error)
{
    struct chunk_header header = {.tag = tag, .size = size};
    header.crc = chunk_crc(&header);
    writer->left = size;
    return give(writer, &header, sizeof header, error);
}

hymba_status hy_container_put(struct hy_container_writer *writer, const void *data, size_t size,
                              hymba_error *error)
{
    const unsigned char *bytes = data;
    if (size > writer->left)
        return hy_fail(error, HYMBA_ERROR_INTERNAL, "a chunk is given %zu bytes too many",
                       size - (size_t)writer->left);
    writer->left -= size;
    while (size > 0) {
        size_t part = hy_min_size(size, HY_CONTAINER_BLOCK - writer->used);
        memcpy(writer->block + writer->used, bytes, part);
        writer->used += part;
        bytes += part;
        size -= part;
        if (writer->used < HY_CONTAINER_BLOCK && writer->left + size > 0)
            continue;
        hymba_status status = flush_block(writer, error);
        if (status != HYMBA_OK)
            return status;
    }
    return HYMBA_OK;
}

hymba_status hy_container_end(struct hy_container_writer *writer, hymba_error *error)
{
    return hy_container_chunk(writer, end_tag, 0, error);
}

void hy_container_writer_free(struct hy_container_writer *writer)
{
    hy_free(writer->memory, writer->block);
    hy_free(writer->memory, writer->compressed);
    writer->block = NULL;
    writer->compressed = NULL;
}

/* ---------------------------------------------------------------- reading */

static hymba_status damaged(const struct hy_container_reader *reader, const char *what,
                            hymba_error *error)
{
    return hy_fail_at(error, HYMBA_ERROR_FORMAT, (int64_t)reader->place,
                      "%s, byte %zu: %s", reader->name, reader->place, what);
}

/* The next size bytes of the file as they are. */
static hymba_status get(struct hy_container_reader *reader, void *data, size_t size,
                        hymba_error *error)
{
    if (size > reader->size - reader->place)
        return damaged(reader, "the file ends too early", error);
    memcpy(data, reader->data + reader->place, size);
    reader->place += size;
    return HYMBA_OK;
}

hymba_status hy_container_open(struct hy_memory *memory, const char *name, const void *data,
                               size_t size, struct hy_container_reader *reader, hymba_error *error)
{
    struct file_header header;
    *reader =
        (struct hy_container_reader){.memory = memory, .name = name, .data = data, .size = size};
    hymba_status status = get(reader, &header, sizeof header, error);
    if (status != HYMBA_OK)
        return status;
    if (memcmp(header.magic, magic, sizeof magic) != 0)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: is not a saved session", name);
    if (header.byte_order != BYTE_ORDER_MARK)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: was written on a machine of another byte order", name);
    if (header.crc != header_crc(&header))
        return damaged(reader, "the file header's checksum is wrong", error);
    if (header.version != HY_CONTAINER_VERSION)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s: found version %u, expected %d", name,
                       header.version, HY_CONTAINER_VERSION);
    reader->block = hy_alloc(memory, HY_CONTAINER_BLOCK);
    return reader->block ? HYMBA_OK
                         : hy_no_memory(error, HY_CONTAINER_BLOCK, "a block to be unpacked");
}

hymba_status hy_container_expect(struct hy_container_reader *reader, uint32_t tag, uint64_t *size,
                                 hymba_error *error)
{
    struct chunk_header header;
    if (reader->left > 0 || reader->block_used < reader->block_size)
        return damaged(reader, "a chunk is longer than what it should hold", error);
    hymba_status status = get(reader, &header, sizeof header, error);
    if (status != HYMBA_OK)
        return status;
    if (header.crc != chunk_crc(&header))
        return damaged(reader, "a chunk header's checksum is wrong", error);
    if (header.tag != tag)
        return hy_fail_at(error, HYMBA_ERROR_FORMAT, (int64_t)reader->place,
                          "%s, byte %zu: found chunk %.4s, expected %.4s", reader->name,
                          reader->place, (const char *)&header.tag, (const char *)&tag);
    reader->tag = tag;
    reader->left = header.size;
    *size = header.size;
    return HYMBA_OK;
}

static hymba_status unpack(struct hy_container_reader *reader, const struct block_header *header,
                           hymba_error *error)
{
    z_stream stream = {.zalloc = zlib_alloc, .zfree = zlib_free, .opaque = reader->memory};
    if (inflateInit(&stream) != Z_OK)
        return hy_no_memory(error, header->size, "a block to be unpacked");
    /* zlib's input pointer is not const, but it does not write there */
    stream.next_in = (Bytef *)(uintptr_t)(reader->data + reader->place);
    stream.avail_in = header->stored_size;
    stream.next_out = reader->block;
    stream.avail_out = header->size;
    int result = inflate(&stream, Z_FINISH);
    bool whole = result == Z_STREAM_END && stream.total_out == header->size &&
                 stream.avail_in == 0;
    inflateEnd(&stream);
    if (result == Z_MEM_ERROR)
        return hy_no_memory(error, header->size, "a block to be unpacked");
    return whole ? HYMBA_OK : damaged(reader, "a block cannot be unpacked", error);
}

static hymba_status next_block(struct hy_container_reader *reader, hymba_error *error)
{
    struct block_header header;
    hymba_status status = get(reader, &header, sizeof header, error);
    if (status != HYMBA_OK)
        return status;
    uint64_t expected = reader->left < HY_CONTAINER_BLOCK ? reader->left : HY_CONTAINER_BLOCK;
    if (header.size != expected || header.stored_size > header.size || header.reserved != 0 ||
        header.stored_size == 0)
        return damaged(reader, "a block's sizes are wrong", error);
    if (header.stored_size > reader->size - reader->place)
        return damaged(reader, "the file ends too early", error);
    if (header.stored_size == header.size)
        memcpy(reader->block, reader->data + reader->place, header.size);
    else
        status = unpack(reader, &header, error);
    if (status != HYMBA_OK)
        return status;
    if ((uint32_t)crc32(0, reader->block, header.size) != header.crc)
        return damaged(reader, "a block's checksum is wrong", error);
    reader->place += header.stored_size;
    reader->block_size = header.size;
    reader->block_used = 0;
    reader->left -= header.size;
    return HYMBA_OK;
}

hymba_status hy_container_take(struct hy_container_reader *reader, void *data, size_t size,
                               hymba_error *error)
{
    unsigned char *bytes = data;
    while (size > 0) {
        if (reader->block_used == reader->block_size) {
            if (reader->left == 0)
                return damaged(reader, "a chunk is shorter than what it should hold", error);
            hymba_status status = next_block(reader, error);
            if (status != HYMBA_OK)
                return status;
        }
        size_t part = hy_min_size(size, reader->block_size - reader->block_used);
        memcpy(bytes, reader->block + reader->block_used, part);
        reader->block_used += part;
        bytes += part;
        size -= part;
    }
    return HYMBA_OK;
}

hymba_status hy_container_finish(struct hy_container_reader *reader, hymba_error *error)
{
    uint64_t size;
    hymba_status status = hy_container_expect(reader, end_tag, &size, error);
    if (status != HYMBA_OK)
        return status;
    if (size != 0 || reader->place != reader->size)
        return damaged(reader, "something stands behind the end", error);
    return HYMBA_OK;
}

void hy_container_reader_free(struct hy_container_reader *reader)
{
    if (reader->memory)
        hy_free(reader->memory, reader->block);
    reader->block = NULL;
}
