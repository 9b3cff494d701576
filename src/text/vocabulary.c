#include "text/vocabulary.h"

#include <string.h>

#include "base/checked.h"
#include "text/utf8.h"

/*
 * At half load the longest run of an honest vocabulary is well below a hundred slots. A file made
 * to collide is refused rather than served slowly.
 */
enum { MAX_PROBES = 512, FIRST_TABLE_SIZE = 1024 };

static uint64_t hash_text(const char *text, size_t length)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001B3u;
    return hash ^ hash >> 29;
}

void hy_vocabulary_init(struct hy_vocabulary *vocabulary, struct hy_memory *memory,
                        const char *file)
{
    memset(vocabulary, 0, sizeof *vocabulary);
    vocabulary->memory = memory;
    vocabulary->file = file;
    for (size_t i = 0; i < 256; i++)
        vocabulary->bytes[i] = -1;
}

void hy_vocabulary_clear(struct hy_vocabulary *vocabulary)
{
    if (!vocabulary->memory)
        return;
    hy_free(vocabulary->memory, vocabulary->entries);
    hy_free(vocabulary->memory, vocabulary->text);
    hy_free(vocabulary->memory, vocabulary->table);
    memset(vocabulary, 0, sizeof *vocabulary);
}

static bool is_piece(const struct hy_vocabulary *vocabulary, int32_t id, const char *text,
                     size_t length)
{
    const struct hy_vocabulary_entry *entry = &vocabulary->entries[id];
    return entry->length == length && memcmp(vocabulary->text + entry->offset, text, length) == 0;
}

int32_t hy_vocabulary_find(const struct hy_vocabulary *vocabulary, const char *text, size_t length)
{
    if (length > vocabulary->longest || vocabulary->table_size == 0)
        return -1;
    size_t mask = vocabulary->table_size - 1;
    size_t slot = (size_t)hash_text(text, length) & mask;
    while (vocabulary->table[slot] >= 0) {
        if (is_piece(vocabulary, vocabulary->table[slot], text, length))
            return vocabulary->table[slot];
        slot = (slot + 1) & mask;
    }
    return -1;
}

int32_t hy_vocabulary_find_normal(const struct hy_vocabulary *vocabulary, const char *text,
                                  size_t length)
{
    int32_t id = hy_vocabulary_find(vocabulary, text, length);
    return id >= 0 && vocabulary->entries[id].kind == HY_PIECE_NORMAL ? id : -1;
}

struct hy_piece hy_vocabulary_piece(const struct hy_vocabulary *vocabulary, int32_t id)
{
    const struct hy_vocabulary_entry *entry = &vocabulary->entries[id];
    struct hy_piece piece = {.text = vocabulary->text + entry->offset,
                             .length = entry->length,
                             .kind = (enum hy_piece_kind)entry->kind,
                             .byte = entry->byte};
    return piece;
}

static int hexadecimal_digit(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

bool hy_is_byte_piece(const char *text, size_t length, unsigned char *byte)
{
    if (length != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return false;
    int high = hexadecimal_digit(text[3]), low = hexadecimal_digit(text[4]);
    if (high < 0 || low < 0)
        return false;
    *byte = (unsigned char)(high * 16 + low);
    return true;
}

/* Puts an id into the table, which has room; false if its run of slots is too long. */
static bool insert(const struct hy_vocabulary *vocabulary, int32_t *table, size_t table_size,
                   int32_t id)
{
    const struct hy_vocabulary_entry *entry = &vocabulary->entries[id];
    size_t slot = (size_t)hash_text(vocabulary->text + entry->offset, entry->length);
    for (size_t probe = 0; probe < MAX_PROBES; probe++) {
        slot &= table_size - 1;
        if (table[slot] < 0) {
            table[slot] = id;
            return true;
        }
        slot++;
    }
    return false;
}

static hymba_status too_many_probes(const struct hy_vocabulary *vocabulary, hymba_error *error)
{
    return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                   "%s: too many pieces have one hash value", vocabulary->file);
}

static hymba_status grow_table(struct hy_vocabulary *vocabulary, hymba_error *error)
{
    size_t size = vocabulary->table_size ? vocabulary->table_size * 2 : FIRST_TABLE_SIZE;
    int32_t *table = hy_alloc_array(vocabulary->memory, size, sizeof *table);
    if (!table)
        return hy_no_memory(error, size * sizeof *table, "the vocabulary's hash table");
    for (size_t i = 0; i < size; i++)
        table[i] = -1;
    for (size_t id = 0; id < vocabulary->count; id++) {
        if (!insert(vocabulary, table, size, (int32_t)id)) {
            hy_free(vocabulary->memory, table);
            return too_many_probes(vocabulary, error);
        }
    }
    hy_free(vocabulary->memory, vocabulary->table);
    vocabulary->table = table;
    vocabulary->table_size = size;
    return HYMBA_OK;
}

/* Makes room for one more piece of length bytes. */
static hymba_status reserve(struct hy_vocabulary *vocabulary, size_t length, hymba_error *error)
{
    if (vocabulary->count == vocabulary->capacity) {
        size_t capacity = vocabulary->capacity ? vocabulary->capacity * 2 : 512;
        void *entries = hy_realloc(vocabulary->memory, vocabulary->entries,
                                   capacity * sizeof *vocabulary->entries);
        if (!entries)
            return hy_no_memory(error, capacity * sizeof *vocabulary->entries, "the vocabulary");
        vocabulary->entries = entries;
        vocabulary->capacity = capacity;
    }
    if (vocabulary->text_capacity - vocabulary->text_length < length) {
        size_t capacity = vocabulary->text_capacity * 2 + 4 * HY_PIECE_MAX_LENGTH;
        char *text = hy_realloc(vocabulary->memory, vocabulary->text, capacity);
        if (!text)
            return hy_no_memory(error, capacity, "the vocabulary's text");
        vocabulary->text = text;
        vocabulary->text_capacity = capacity;
    }
    return vocabulary->count * 2 < vocabulary->table_size ? HYMBA_OK
                                                           : grow_table(vocabulary, error);
}

static bool is_utf8(const char *text, size_t length)
{
    int32_t character = 0;
    for (size_t i = 0; i < length && character >= 0;)
        i += hy_utf8_decode(text + i, length - i, &character);
    return character >= 0;
}

bool hy_is_space_mark(const char *text, size_t length)
{
    return length >= HY_SPACE_MARK_SIZE && memcmp(text, HY_SPACE_MARK, HY_SPACE_MARK_SIZE) == 0;
}

static bool joins_words(const char *text, size_t length)
{
    bool is_behind_other = false;
    for (size_t i = 0; i < length;) {
        bool is_space = hy_is_space_mark(text + i, length - i);
        if (is_space && is_behind_other)
            return true;
        is_behind_other = !is_space;
        i += is_space ? HY_SPACE_MARK_SIZE : 1;
    }
    return false;
}

static hymba_status check_piece(const struct hy_vocabulary *vocabulary, const char *text,
                                size_t length, enum hy_piece_kind kind, hymba_error *error)
{
    const char *file = vocabulary->file;
    size_t id = vocabulary->count;
    unsigned char byte;
    if (id >= HY_VOCABULARY_MAX_PIECES)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s: more than %d pieces", file,
                       HY_VOCABULARY_MAX_PIECES);
    if (length == 0)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: piece %zu is empty", file, id);
    if (length > HY_PIECE_MAX_LENGTH)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: piece %zu has %zu bytes, more than %d", file, id, length,
                       HY_PIECE_MAX_LENGTH);
    if (!is_utf8(text, length))
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: piece %zu is not UTF-8", file, id);
    if (kind == HY_PIECE_BYTE && !hy_is_byte_piece(text, length, &byte))
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s: piece %zu is a byte token but is not written <0xXX>: \"%.*s\"", file,
                       id, (int)hy_min_size(length, 32), text);
    int32_t other = hy_vocabulary_find(vocabulary, text, length);
    if (other >= 0)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: piece %zu is the same as piece %d", file,
                       id, (int)other);
    return HYMBA_OK;
}

hymba_status hy_vocabulary_add(struct hy_vocabulary *vocabulary, const char *text, size_t length,
                               enum hy_piece_kind kind, uint32_t rank, hymba_error *error)
{
    hymba_status status = check_piece(vocabulary, text, length, kind, error);
    if (status != HYMBA_OK)
        return status;
    status = reserve(vocabulary, length, error);
    if (status != HYMBA_OK)
        return status;
    struct hy_vocabulary_entry entry = {.offset = (uint32_t)vocabulary->text_length,
                                        .length = (uint16_t)length,
                                        .kind = (unsigned char)kind,
                                        .rank = rank};
    int32_t id = (int32_t)vocabulary->count;
    if (kind == HY_PIECE_BYTE && hy_is_byte_piece(text, length, &entry.byte))
        vocabulary->bytes[entry.byte] = id;
    memcpy(vocabulary->text + vocabulary->text_length, text, length);
    vocabulary->entries[id] = entry;
    if (!insert(vocabulary, vocabulary->table, vocabulary->table_size, id))
        return too_many_probes(vocabulary, error);
    vocabulary->text_length += length;
    vocabulary->count++;
    vocabulary->longest = hy_max_size(vocabulary->longest, length);
    if (kind == HY_PIECE_NORMAL && joins_words(text, length))
        vocabulary->joins_words = true;
    return HYMBA_OK;
}

hymba_status hy_vocabulary_check_bytes(const struct hy_vocabulary *vocabulary, hymba_error *error)
{
    for (unsigned byte = 0; byte < 256; byte++)
        if (vocabulary->bytes[byte] < 0)
            return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: the byte token <0x%02X> is missing",
                           vocabulary->file, byte);
    return HYMBA_OK;
}
