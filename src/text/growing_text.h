/* A growing text: bytes appended at its end. */
#ifndef HY_TEXT_GROWING_TEXT_H
#define HY_TEXT_GROWING_TEXT_H

#include <stdbool.h>

#include "base/memory.h"

struct hy_text {
    char *data; /* length bytes and a NUL; NULL while nothing was ever appended */
    size_t length, capacity;
    struct hy_memory *memory;
};

void hy_text_init(struct hy_text *text, struct hy_memory *memory);
void hy_text_free(struct hy_text *text);

/* False if there is no memory; the text is unchanged then. */
bool hy_text_append(struct hy_text *text, const char *data, size_t length);

/* Back to its first length bytes; length must not exceed the present one. */
void hy_text_truncate(struct hy_text *text, size_t length);

#endif
