#include "text/json_integers.h"

#include <stdbool.h>
#include <string.h>

#include "base/checked.h"

enum { SAFE_DIGITS = 18 };
static const char exponent[] = "e0";

static bool is_digit(char character)
{
    return character >= '0' && character <= '9';
}

/* The string that begins at text, its quotation marks included, as far as there is text. */
static size_t string_length(const char *text, size_t length)
{
    size_t i = 1;
    while (i < length && text[i] != '"')
        i += text[i] == '\\' ? 2 : 1;
    return hy_min_size(i + 1, length);
}

/* The number that begins at text; whether it is an integer too long to be sure of. */
static size_t number_length(const char *text, size_t length, bool *is_long)
{
    size_t i = 0;
    while (i < length && is_digit(text[i]))
        i++;
    *is_long = i > SAFE_DIGITS;
    while (i < length && (is_digit(text[i]) || memchr(".eE+-", text[i], 5))) {
        *is_long = false;
        i++;
    }
    return i;
}

hymba_status hy_json_widen_integers(struct hy_memory *memory, const char *text, size_t length,
                                    char **copy, size_t *copy_length, hymba_error *error)
{
    size_t exponent_length = strlen(exponent);
    size_t capacity; /* an exponent for each run of digits that needs one */
    char *out = NULL;
    if (hy_add_size(length, length / SAFE_DIGITS * exponent_length, &capacity))
        out = hy_alloc(memory, capacity);
    if (!out)
        return hy_no_memory(error, length, "a JSON text");
    *copy = out;
    for (size_t i = 0, size; i < length; i += size) {
        bool is_long = false;
        size = 1;
        if (text[i] == '"')
            size = string_length(text + i, length - i);
        else if (is_digit(text[i]))
            size = number_length(text + i, length - i, &is_long);
        memcpy(out, text + i, size);
        out += size;
        if (is_long) {
            memcpy(out, exponent, exponent_length);
            out += exponent_length;
        }
    }
    *copy_length = (size_t)(out - *copy);
    return HYMBA_OK;
}
