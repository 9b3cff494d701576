/*
 * JSON documents. The one place that knows the JSON library (Jansson); everything else sees this.
 * Limits: depth, duplicate keys refused, text must be UTF-8. A document may be large (a
 * tokenizer.json of some megabytes) but not larger than the limit its reader gives.
 *
 * Values are borrowed from their document. Jansson allocates with the C library's allocator: its
 * own hook is process-wide, and changing that would reach into the host program.
 */
#ifndef HY_BASE_JSON_H
#define HY_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

typedef struct json_t hy_json; /* a value; NULL stands for "absent" in every function */

enum hy_json_kind {
    HY_JSON_ABSENT,
    HY_JSON_NULL,
    HY_JSON_BOOL,
    HY_JSON_INTEGER,
    HY_JSON_REAL,
    HY_JSON_STRING,
    HY_JSON_ARRAY,
    HY_JSON_OBJECT
};

/* Parses text; name stands for the document in messages ("config.json"). Free with hy_json_free. */
hymba_status hy_json_parse(const char *text, size_t length, const char *name, hy_json **document,
                           hymba_error *error);
void hy_json_free(hy_json *document);

enum hy_json_kind hy_json_kind(const hy_json *value);
const char *hy_json_kind_name(enum hy_json_kind kind); /* "an integer", "absent", ... */

bool hy_json_bool(const hy_json *value);       /* false unless it is true */
int64_t hy_json_integer(const hy_json *value); /* 0 unless an integer */
double hy_json_real(const hy_json *value);     /* of an integer or real; else 0 */
/* NULL unless a string, which may hold NUL bytes. */
const char *hy_json_string(const hy_json *value, size_t *length);

size_t hy_json_array_size(const hy_json *value); /* 0 unless an array */
const hy_json *hy_json_array_get(const hy_json *value, size_t index);

size_t hy_json_object_size(const hy_json *value);
const hy_json *hy_json_object_get(const hy_json *value, const char *key);

/* Iteration in the order of the text: start with NULL; the result is NULL at the end. */
typedef void hy_json_member;
hy_json_member *hy_json_next_member(const hy_json *object, hy_json_member *previous);
const char *hy_json_member_key(const hy_json_member *member, size_t *length);
const hy_json *hy_json_member_value(const hy_json_member *member);

/* Gives an object that the caller owns a member it lacks: text, or where text is NULL null. */
hymba_status hy_json_default(hy_json *object, const char *key, const char *text, size_t length,
                             hymba_error *error);

/* The text of an object with one member set to a string, indented by two spaces and ended with a
 * newline: a new block of *size bytes and a NUL. name stands for the document in messages. */
hymba_status hy_json_with_string(struct hy_memory *memory, const char *text, size_t length,
                                 const char *name, const char *key, const char *value,
                                 char **result, size_t *size, hymba_error *error);

/* The same with a member set to the value whose JSON text value is, value_length bytes. */
hymba_status hy_json_with_value(struct hy_memory *memory, const char *text, size_t length,
                                const char *name, const char *key, const char *value,
                                size_t value_length, char **result, size_t *size,
                                hymba_error *error);

#endif
