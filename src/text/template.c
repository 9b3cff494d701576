#include "text/template.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "text/utf8.h"

enum { CHUNK_SIZE = 16384, HEADER_SIZE = 32, PIECE_ALIGNMENT = 16 };

struct hy_template_chunk {
    struct hy_template_chunk *next;
    size_t used, capacity; /* bytes, this header's HEADER_SIZE included */
};

_Static_assert(sizeof(struct hy_template_chunk) <= HEADER_SIZE, "the header must fit");

/* ----------------------------------------------------------------- errors */

/* The place in the original text: each "\r\n" before it had been shortened by one byte. */
static int64_t original_position(const struct hy_template *template, size_t position)
{
    struct hy_string original = template->original;
    size_t place = 0;
    for (size_t i = 0; i < position && place < original.length; i++) {
        bool two = original.data[place] == '\r' && place + 1 < original.length &&
                   original.data[place + 1] == '\n';
        place += two ? 2 : 1;
    }
    return (int64_t)place;
}

hymba_status hy_template_fail(struct hy_template *template, hymba_status status, size_t position,
                              const char *format, ...)
{
    char message[448];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    template->status = status;
    return hy_fail_at(template->error, status, original_position(template, position),
                      "chat template: %s", message);
}

struct hy_string hy_template_excerpt(struct hy_string string, size_t most)
{
    size_t length = 0;
    while (length < string.length) {
        int32_t character;
        size_t size = hy_utf8_decode(string.data + length, string.length - length, &character);
        if (character == 0 || size > most - length)
            break;
        length += size;
    }
    return (struct hy_string){string.data ? string.data : "", length};
}

/* ----------------------------------------------------------------- memory */

/* A chunk with room for a piece of this size. */
static struct hy_template_chunk *add_chunk(struct hy_template *template, size_t size,
                                           size_t position)
{
    size_t capacity = hy_max_size(CHUNK_SIZE, size + HEADER_SIZE);
    if (capacity > HY_TEMPLATE_MAX_MEMORY - template->memory_used) {
        hy_template_fail(template, HYMBA_ERROR_UNSUPPORTED, position,
                         "rendering takes more than %d bytes of memory", HY_TEMPLATE_MAX_MEMORY);
        return NULL;
    }
    struct hy_template_chunk *chunk = hy_alloc(template->memory, capacity);
    if (!chunk) {
        template->status = hy_no_memory(template->error, capacity, "a chat template");
        return NULL;
    }
    chunk->used = HEADER_SIZE;
    chunk->capacity = capacity;
    template->memory_used += capacity;
    /* A chunk for one large piece will be full: the one in use stays in front. */
    struct hy_template_chunk **place =
        template->chunks && capacity > CHUNK_SIZE ? &template->chunks->next : &template->chunks;
    chunk->next = *place;
    *place = chunk;
    return chunk;
}

void *hy_template_alloc(struct hy_template *template, size_t size, size_t position)
{
    struct hy_template_chunk *chunk = template->chunks;
    size_t rounded = HY_TEMPLATE_MAX_MEMORY; /* more than there is */
    if (size < HY_TEMPLATE_MAX_MEMORY)
        rounded = hy_round_up(size, PIECE_ALIGNMENT);
    if (!chunk || rounded > chunk->capacity - chunk->used)
        chunk = add_chunk(template, rounded, position);
    if (!chunk)
        return NULL;
    void *piece = (char *)chunk + chunk->used;
    chunk->used += rounded;
    return piece;
}

void hy_template_free(struct hy_template *template)
{
    while (template->chunks) {
        struct hy_template_chunk *next = template->chunks->next;
        hy_free(template->memory, template->chunks);
        template->chunks = next;
    }
}

/* ------------------------------------------------------------------ steps */

hymba_status hy_template_charge(struct hy_template *template, uint64_t bytes, size_t position)
{
    template->steps += 1 + bytes / HY_TEMPLATE_STEP_BYTES;
    if (template->steps <= HY_TEMPLATE_MAX_STEPS)
        return HYMBA_OK;
    return hy_template_fail(template, HYMBA_ERROR_UNSUPPORTED, position,
                            "rendering takes more than %d steps", HY_TEMPLATE_MAX_STEPS);
}

/* ----------------------------------------------------------------- source */

static hymba_status check_encoding(struct hy_template *template)
{
    struct hy_string original = template->original;
    for (size_t place = 0; place < original.length;) {
        int32_t character;
        size_t size =
            hy_utf8_decode(original.data + place, original.length - place, &character);
        if (character < 0)
            return hy_fail_at(template->error, HYMBA_ERROR_FORMAT, (int64_t)place,
                              "chat template: byte %zu is not UTF-8", place);
        place += size;
    }
    return HYMBA_OK;
}

hymba_status hy_template_init(struct hy_template *template, struct hy_string original,
                              struct hy_memory *memory, hymba_error *error)
{
    memset(template, 0, sizeof *template);
    template->original = original;
    template->memory = memory;
    template->error = error;
    hymba_status status = check_encoding(template);
    if (status)
        return status;
    char *source = hy_template_alloc(template, original.length, 0);
    if (!source)
        return template->status;
    size_t length = 0;
    for (size_t i = 0; i < original.length; i++) {
        if (original.data[i] != '\r')
            source[length++] = original.data[i];
        else if (i + 1 == original.length || original.data[i + 1] != '\n')
            source[length++] = '\n';
    }
    if (length && source[length - 1] == '\n')
        length--;
    template->source = source;
    template->length = length;
    return HYMBA_OK;
}
