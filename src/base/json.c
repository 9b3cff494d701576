#include "base/json.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

hymba_status hy_json_parse(const char *text, size_t length, const char *name, hy_json **document,
                           hymba_error *error)
{
    json_error_t fault;
    errno = 0;
    *document = json_loadb(text ? text : "", length,
                           JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &fault);
    if (*document)
        return HYMBA_OK;
    /* Where its memory runs out, Jansson says so, or nothing, or blames the text. */
    if (json_error_code(&fault) == json_error_out_of_memory || fault.text[0] == '\0' ||
        errno == ENOMEM)
        return hy_fail(error, HYMBA_ERROR_MEMORY, "no memory for the content of %s", name);
    return hy_fail_at(error, HYMBA_ERROR_FORMAT, fault.position, "%s, line %d: %s", name,
                      fault.line, fault.text);
}

void hy_json_free(hy_json *document)
{
    json_decref(document);
}

enum hy_json_kind hy_json_kind(const hy_json *value)
{
    if (!value)
        return HY_JSON_ABSENT;
    switch (json_typeof(value)) {
    case JSON_NULL:
        return HY_JSON_NULL;
    case JSON_TRUE:
    case JSON_FALSE:
        return HY_JSON_BOOL;
    case JSON_INTEGER:
        return HY_JSON_INTEGER;
    case JSON_REAL:
        return HY_JSON_REAL;
    case JSON_STRING:
        return HY_JSON_STRING;
    case JSON_ARRAY:
        return HY_JSON_ARRAY;
    case JSON_OBJECT:
        return HY_JSON_OBJECT;
    }
    return HY_JSON_ABSENT;
}

const char *hy_json_kind_name(enum hy_json_kind kind)
{
    static const char *const names[] = {
        [HY_JSON_ABSENT] = "absent",     [HY_JSON_NULL] = "null",
        [HY_JSON_BOOL] = "a boolean",    [HY_JSON_INTEGER] = "an integer",
        [HY_JSON_REAL] = "a number with a fraction", [HY_JSON_STRING] = "a string",
        [HY_JSON_ARRAY] = "an array",    [HY_JSON_OBJECT] = "an object",
    };
    return names[kind];
}

bool hy_json_bool(const hy_json *value)
{
    return json_is_true(value);
}

int64_t hy_json_integer(const hy_json *value)
{
    return json_integer_value(value);
}

double hy_json_real(const hy_json *value)
{
    return json_number_value(value);
}

const char *hy_json_string(const hy_json *value, size_t *length)
{
    if (length)
        *length = json_string_length(value);
    return json_string_value(value);
}

size_t hy_json_array_size(const hy_json *value)
{
    return json_array_size(value);
}

const hy_json *hy_json_array_get(const hy_json *value, size_t index)
{
    return json_array_get(value, index);
}

size_t hy_json_object_size(const hy_json *value)
{
    return json_object_size(value);
}

const hy_json *hy_json_object_get(const hy_json *value, const char *key)
{
    return json_object_get(value, key);
}

/* Jansson's iterators take a non-const object but do not change it. */
hy_json_member *hy_json_next_member(const hy_json *object, hy_json_member *previous)
{
    if (!json_is_object(object))
        return NULL;
    if (!previous)
        return json_object_iter((json_t *)object);
    return json_object_iter_next((json_t *)object, previous);
}

const char *hy_json_member_key(const hy_json_member *member, size_t *length)
{
    if (length)
        *length = json_object_iter_key_len((void *)member);
    return json_object_iter_key((void *)member);
}

const hy_json *hy_json_member_value(const hy_json_member *member)
{
    return json_object_iter_value((void *)member);
}

hymba_status hy_json_default(hy_json *object, const char *key, const char *text, size_t length,
                             hymba_error *error)
{
    if (json_object_get(object, key))
        return HYMBA_OK;
    json_t *value = text ? json_stringn(text, length) : json_null();
    if (json_object_set_new(object, key, value) != 0)
        return hy_fail(error, HYMBA_ERROR_MEMORY, "no memory for the member %s", key);
    return HYMBA_OK;
}

/* The object's text and a newline in a new block: sized first, so that it is our memory. */
static hymba_status dump(struct hy_memory *memory, const json_t *object, char **result,
                         size_t *size, hymba_error *error)
{
    size_t length = json_dumpb(object, NULL, 0, JSON_INDENT(2));
    char *text = hy_alloc(memory, length + 2);
    if (!text || length == 0 || json_dumpb(object, text, length, JSON_INDENT(2)) != length) {
        hy_free(memory, text);
        return hy_no_memory(error, length + 2, "a JSON text");
    }
    memcpy(text + length, "\n", 2);
    *result = text;
    *size = length + 1;
    return HYMBA_OK;
}

hymba_status hy_json_with_string(struct hy_memory *memory, const char *text, size_t length,
                                 const char *name, const char *key, const char *value,
                                 char **result, size_t *size, hymba_error *error)
{
    hy_json *document;
    hymba_status status = hy_json_parse(text, length, name, &document, error);
    if (status != HYMBA_OK)
        return status;
    if (!json_is_object(document))
        status = hy_fail(error, HYMBA_ERROR_FORMAT, "%s: found %s, expected an object", name,
                         hy_json_kind_name(hy_json_kind(document)));
    else if (json_object_set_new(document, key, json_string(value)) != 0)
        status = hy_fail(error, HYMBA_ERROR_MEMORY, "no memory for the text of %s", name);
    else
        status = dump(memory, document, result, size, error);
    hy_json_free(document);
    return status;
}
