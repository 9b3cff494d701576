#include "text/growing_text.h"

#include <string.h>

#include "base/checked.h"

enum { FIRST_CAPACITY = 256 };

void hy_text_init(struct hy_text *text, struct hy_memory *memory)
{
    memset(text, 0, sizeof *text);
    text->memory = memory;
}

void hy_text_free(struct hy_text *text)
{
    hy_free(text->memory, text->data);
    hy_text_init(text, text->memory);
}

static bool reserve(struct hy_text *text, size_t capacity)
{
    if (capacity <= text->capacity)
        return true;
    size_t doubled;
    if (hy_mul_size(text->capacity, 2, &doubled))
        capacity = hy_max_size(capacity, doubled);
    capacity = hy_max_size(capacity, FIRST_CAPACITY);
    char *data = hy_realloc(text->memory, text->data, capacity);
    if (!data)
        return false;
    text->data = data;
    text->capacity = capacity;
    return true;
}

bool hy_text_append(struct hy_text *text, const char *data, size_t length)
{
    size_t capacity;
    if (!hy_add_size(text->length, length, &capacity) || !hy_add_size(capacity, 1, &capacity) ||
        !reserve(text, capacity))
        return false;
    if (length)
        memcpy(text->data + text->length, data, length);
    text->length += length;
    text->data[text->length] = '\0';
    return true;
}

void hy_text_truncate(struct hy_text *text, size_t length)
{
    text->length = length;
    if (text->data)
        text->data[length] = '\0';
}
