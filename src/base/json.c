#include "base/json.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

/*
 * Jansson (2.14) does not check whether the buffer of the token it reads has grown: without memory
 * it drops the character and goes on, or, where a character is put back, ends the program. So a
 * text goes in behind a string that makes the buffer larger than any token from which a character
 * is put back, and byte by byte, with a look at errno before each: both within an array,
 * ["xxx...x", the text].
 */
enum { PADDING_SIZE = 1 << 10 };

struct input {
    const char *text;
    size_t length;
    size_t position; /* in the whole of it, with what stands before and after the text */
    bool out_of_memory;
};

static const char before[] = "[\"";
static const char between[] = "\",";
static const size_t text_begin = sizeof before - 1 + PADDING_SIZE + sizeof between - 1;

static char character_at(const struct input *input, size_t position)
{
    if (position < sizeof before - 1)
        return before[position];
    if (position < sizeof before - 1 + PADDING_SIZE)
        return 'x';
    if (position < text_begin)
        return between[position - (sizeof before - 1 + PADDING_SIZE)];
    return position < text_begin + input->length ? input->text[position - text_begin] : ']';
}

static size_t give_character(void *buffer, size_t size, void *user)
{
    struct input *input = user;
    (void)size;
    if (errno == ENOMEM)
        input->out_of_memory = true;
    if (input->out_of_memory || input->position > text_begin + input->length)
        return 0;
    *(char *)buffer = character_at(input, input->position++);
    return 1;
}

/* Jansson puts a character back behind a number or a word, and before a control character in a
 * string. The last are errors anyway; words must fit into the buffer. */
static hymba_status check_tokens(const char *text, size_t length, const char *name,
                                 hymba_error *error)
{
    bool in_string = false;
    size_t word = 0, line = 1;
    for (size_t i = 0; i < length; i++) {
        unsigned char character = (unsigned char)text[i];
        line += character == '\n';
        if (in_string && character < 0x20)
            return hy_fail_at(error, HYMBA_ERROR_FORMAT, (int64_t)i,
                              "%s, line %zu: control character 0x%02x in a string", name, line,
                              character);
        if (in_string && character == '\\')
            i++;
        else if (character == '"')
            in_string = !in_string;
        else if (!in_string)
            word = strchr(" \t\r\n[]{},:", character) && character ? 0 : word + 1;
        if (word >= PADDING_SIZE)
            return hy_fail_at(error, HYMBA_ERROR_FORMAT, (int64_t)i,
                              "%s, line %zu: a number or word of more than %d characters", name,
                              line, PADDING_SIZE - 1);
    }
    return HYMBA_OK;
}

static int64_t position_in_text(const json_error_t *fault, size_t length)
{
    int64_t position = fault->position - (int64_t)text_begin;
    if (position < 0)
        return 0;
    return position < (int64_t)length ? position : (int64_t)length;
}

hymba_status hy_json_parse(const char *text, size_t length, const char *name, hy_json **document,
                           hymba_error *error)
{
    *document = NULL;
    hymba_status status = check_tokens(text, length, name, error);
    if (status != HYMBA_OK)
        return status;
    struct input input = {.text = text, .length = length};
    json_error_t fault;
    errno = 0;
    json_t *array = json_load_callback(give_character, &input,
                                       JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &fault);
    if (array && !input.out_of_memory && json_array_size(array) == 2)
        *document = json_incref(json_array_get(array, 1));
    /* Most of Jansson's other ways of running out of memory leave no words behind. */
    else if (input.out_of_memory || errno == ENOMEM ||
             (!array && (json_error_code(&fault) == json_error_out_of_memory ||
                         fault.text[0] == '\0')))
        status = hy_fail(error, HYMBA_ERROR_MEMORY, "no memory for the content of %s", name);
    else if (array)
        status = hy_fail(error, HYMBA_ERROR_FORMAT, "%s: found %s, expected one", name,
                         json_array_size(array) == 1 ? "no value" : "several values");
    else
        status = hy_fail_at(error, HYMBA_ERROR_FORMAT, position_in_text(&fault, length),
                            "%s, line %d: %s", name, fault.line, fault.text);
    json_decref(array);
    return status;
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

/* Takes the reference to value; NULL: there was no memory for it. */
static hymba_status with_member(struct hy_memory *memory, const char *text, size_t length,
                                const char *name, const char *key, json_t *value, char **result,
                                size_t *size, hymba_error *error)
{
    hy_json *document = NULL;
    hymba_status status = hy_json_parse(text, length, name, &document, error);
    if (status == HYMBA_OK && !json_is_object(document))
        status = hy_fail(error, HYMBA_ERROR_FORMAT, "%s: found %s, expected an object", name,
                         hy_json_kind_name(hy_json_kind(document)));
    if (status == HYMBA_OK && json_object_set(document, key, value) != 0)
        status = hy_fail(error, HYMBA_ERROR_MEMORY, "no memory for the text of %s", name);
    if (status == HYMBA_OK)
        status = dump(memory, document, result, size, error);
    json_decref(value);
    hy_json_free(document);
    return status;
}

hymba_status hy_json_with_string(struct hy_memory *memory, const char *text, size_t length,
                                 const char *name, const char *key, const char *value,
                                 char **result, size_t *size, hymba_error *error)
{
    return with_member(memory, text, length, name, key, json_string(value), result, size, error);
}

hymba_status hy_json_with_value(struct hy_memory *memory, const char *text, size_t length,
                                const char *name, const char *key, const char *value,
                                size_t value_length, char **result, size_t *size,
                                hymba_error *error)
{
    hy_json *parsed = NULL;
    hymba_status status = hy_json_parse(value, value_length, key, &parsed, error);
    return status == HYMBA_OK ? with_member(memory, text, length, name, key, parsed, result, size,
                                            error)
                              : status;
}
