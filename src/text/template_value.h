/* Values of the template interpreter: what JSON has, with Python's behaviour, and Jinja's own. */
#ifndef HY_TEXT_TEMPLATE_VALUE_H
#define HY_TEXT_TEMPLATE_VALUE_H

#include "base/json.h"
#include "text/template.h"

enum hy_value_kind {
    HY_VALUE_UNDEFINED,
    HY_VALUE_NONE,
    HY_VALUE_BOOL,
    HY_VALUE_INTEGER,
    HY_VALUE_REAL,
    HY_VALUE_STRING,
    HY_VALUE_LIST,
    HY_VALUE_MAPPING,
    HY_VALUE_LOOP
};

struct hy_value;

/* A stretch of a JSON array, or, where array is NULL, of values of our own. */
struct hy_value_list {
    const hy_json *array;
    const struct hy_value *items;
    size_t first, count;
};

/* What the variable "loop" shows. */
struct hy_template_loop {
    size_t index; /* from 0 */
    size_t count;
};

struct hy_value {
    enum hy_value_kind kind;
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct hy_string string;
        struct hy_value_list list;
        const hy_json *mapping;
        const struct hy_template_loop *loop;
    };
};

struct hy_value hy_value_bool(bool boolean);
struct hy_value hy_value_integer(int64_t integer);
struct hy_value hy_value_string(struct hy_string string);
struct hy_value hy_value_from_json(const hy_json *json); /* absent: undefined */

/* "a string", "None", "undefined", ... for messages. */
const char *hy_value_kind_name(const struct hy_value *value);

/* Python's truth. */
bool hy_value_is_true(const struct hy_value *value);

/* The item at this index < count. */
struct hy_value hy_value_item(const struct hy_value_list *list, size_t index);

/* Of a boolean or integer, which are both numbers in Python; false for anything else. */
bool hy_value_as_integer(const struct hy_value *value, int64_t *integer);
bool hy_value_is_number(const struct hy_value *value);

/* The member with this key, undefined if there is none. */
hymba_status hy_value_member(struct hy_template *template, const hy_json *mapping,
                             struct hy_string key, size_t position, struct hy_value *result);

/* == of Python. */
hymba_status hy_value_equal(struct hy_template *template, const struct hy_value *a,
                            const struct hy_value *b, size_t position, bool *result);

/* Less than 0, 0 or more than 0, for numbers and for strings; refuses what Python does not
 * order, and lists. */
hymba_status hy_value_compare(struct hy_template *template, const struct hy_value *a,
                              const struct hy_value *b, size_t position, int *result);

/* Python's a in b. */
hymba_status hy_value_contains(struct hy_template *template, const struct hy_value *a,
                               const struct hy_value *b, size_t position, bool *result);

/* Byte offset of the first needle at or behind start; SIZE_MAX if there is none. */
hymba_status hy_value_find(struct hy_template *template, struct hy_string string, size_t start,
                           struct hy_string needle, size_t position, size_t *place);

/* What printing gives; refused for lists, mappings and loop. */
hymba_status hy_value_text(struct hy_template *template, const struct hy_value *value,
                           size_t position, struct hy_string *text);

/* Everything a for loop over the value sees, as a list. */
hymba_status hy_value_iterate(struct hy_template *template, const struct hy_value *value,
                              size_t position, struct hy_value_list *list);

#endif
