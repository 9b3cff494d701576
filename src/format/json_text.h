/* JSON text under construction, in a growing block. A failed allocation is remembered: only
 * finish reports it. */
#ifndef HY_FORMAT_JSON_TEXT_H
#define HY_FORMAT_JSON_TEXT_H

#include <stdbool.h>

#include "base/memory.h"

struct hy_json_text {
    struct hy_memory *memory;
    char *data;
    size_t length, capacity;
    bool failed;
};

void hy_json_text_begin(struct hy_memory *memory, struct hy_json_text *text);

/* As printf. No floating-point numbers: their look depends on the host's locale. */
void hy_json_text_add(struct hy_json_text *text, const char *format, ...) HY_PRINTF(2, 3);

/* length bytes as they are. */
void hy_json_text_bytes(struct hy_json_text *text, const void *bytes, size_t length);

/* A JSON string with its quotes, escaped where JSON wants it. string is UTF-8. */
void hy_json_text_string(struct hy_json_text *text, const char *string);

/* Hands the block over, NUL behind its *length bytes; the builder is empty afterwards. what
 * stands in the message of a failure. */
hymba_status hy_json_text_finish(struct hy_json_text *text, const char *what, char **data,
                                 size_t *length, hymba_error *error);

#endif
