#include "format/json_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"

enum { FIRST_CAPACITY = 1024 };

void hy_json_text_begin(struct hy_memory *memory, struct hy_json_text *text)
{
    memset(text, 0, sizeof *text);
    text->memory = memory;
}

/* Room for length more bytes and a NUL. */
static bool make_room(struct hy_json_text *text, size_t length)
{
    size_t needed, doubled;
    if (text->failed)
        return false;
    text->failed = true;
    if (!hy_add_size(text->length, length, &needed) || !hy_add_size(needed, 1, &needed))
        return false;
    if (needed > text->capacity) {
        if (!hy_mul_size(text->capacity, 2, &doubled))
            doubled = needed;
        size_t capacity = hy_max_size(hy_max_size(needed, doubled), FIRST_CAPACITY);
        char *data = hy_realloc(text->memory, text->data, capacity);
        if (!data)
            return false;
        text->data = data;
        text->capacity = capacity;
    }
    text->failed = false;
    return true;
}

void hy_json_text_bytes(struct hy_json_text *text, const void *bytes, size_t length)
{
    if (!make_room(text, length))
        return;
    memcpy(text->data + text->length, bytes, length);
    text->length += length;
}

void hy_json_text_add(struct hy_json_text *text, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    if (length < 0) {
        text->failed = true;
    } else if (make_room(text, (size_t)length)) {
        vsnprintf(text->data + text->length, (size_t)length + 1, format, again);
        text->length += (size_t)length;
    }
    va_end(again);
    va_end(arguments);
}

void hy_json_text_string(struct hy_json_text *text, const char *string)
{
    hy_json_text_bytes(text, "\"", 1);
    for (const char *at = string; *at; at++) {
        unsigned char byte = (unsigned char)*at;
        if (byte == '"' || byte == '\\')
            hy_json_text_add(text, "\\%c", byte);
        else if (byte < 0x20)
            hy_json_text_add(text, "\\u%04x", (unsigned)byte);
        else
            hy_json_text_bytes(text, at, 1);
    }
    hy_json_text_bytes(text, "\"", 1);
}

hymba_status hy_json_text_finish(struct hy_json_text *text, const char *what, char **data,
                                 size_t *length, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    *data = NULL;
    *length = 0;
    if (make_room(text, 0)) {
        text->data[text->length] = '\0';
        *data = text->data;
        *length = text->length;
    } else {
        status = hy_no_memory(error, text->length, what);
        hy_free(text->memory, text->data);
    }
    hy_json_text_begin(text->memory, text);
    return status;
}
