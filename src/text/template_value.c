#include "text/template_value.h"

#include <string.h>

#include "base/checked.h"
#include "text/python_number.h"
#include "text/utf8.h"

struct hy_value hy_value_bool(bool boolean)
{
    return (struct hy_value){.kind = HY_VALUE_BOOL, .boolean = boolean};
}

struct hy_value hy_value_integer(int64_t integer)
{
    return (struct hy_value){.kind = HY_VALUE_INTEGER, .integer = integer};
}

struct hy_value hy_value_string(struct hy_string string)
{
    return (struct hy_value){.kind = HY_VALUE_STRING, .string = string};
}

struct hy_value hy_value_from_json(const hy_json *json)
{
    struct hy_value value = {.kind = HY_VALUE_UNDEFINED};
    switch (hy_json_kind(json)) {
    case HY_JSON_ABSENT:
        break;
    case HY_JSON_NULL:
        value.kind = HY_VALUE_NONE;
        break;
    case HY_JSON_BOOL:
        return hy_value_bool(hy_json_bool(json));
    case HY_JSON_INTEGER:
        return hy_value_integer(hy_json_integer(json));
    case HY_JSON_REAL:
        value.kind = HY_VALUE_REAL;
        value.real = hy_json_real(json);
        break;
    case HY_JSON_STRING:
        value.kind = HY_VALUE_STRING;
        value.string.data = hy_json_string(json, &value.string.length);
        break;
    case HY_JSON_ARRAY:
        value.kind = HY_VALUE_LIST;
        value.list = (struct hy_value_list){.array = json, .count = hy_json_array_size(json)};
        break;
    case HY_JSON_OBJECT:
        value.kind = HY_VALUE_MAPPING;
        value.mapping = json;
        break;
    }
    return value;
}

const char *hy_value_kind_name(const struct hy_value *value)
{
    static const char *const names[] = {
        [HY_VALUE_UNDEFINED] = "an undefined value", [HY_VALUE_NONE] = "none",
        [HY_VALUE_BOOL] = "a boolean",               [HY_VALUE_INTEGER] = "an integer",
        [HY_VALUE_REAL] = "a number",                [HY_VALUE_STRING] = "a string",
        [HY_VALUE_LIST] = "a list",                  [HY_VALUE_MAPPING] = "an object",
        [HY_VALUE_LOOP] = "the variable loop",
    };
    return names[value->kind];
}

bool hy_value_is_true(const struct hy_value *value)
{
    switch (value->kind) {
    case HY_VALUE_UNDEFINED:
    case HY_VALUE_NONE:
        return false;
    case HY_VALUE_BOOL:
        return value->boolean;
    case HY_VALUE_INTEGER:
        return value->integer != 0;
    case HY_VALUE_REAL:
        return value->real != 0;
    case HY_VALUE_STRING:
        return value->string.length != 0;
    case HY_VALUE_LIST:
        return value->list.count != 0;
    case HY_VALUE_MAPPING:
        return hy_json_object_size(value->mapping) != 0;
    case HY_VALUE_LOOP: /* has a length in Jinja, which is not 0 inside the loop */
        return value->loop->count != 0;
    }
    return false;
}

struct hy_value hy_value_item(const struct hy_value_list *list, size_t index)
{
    if (list->array)
        return hy_value_from_json(hy_json_array_get(list->array, list->first + index));
    return list->items[list->first + index];
}

bool hy_value_as_integer(const struct hy_value *value, int64_t *integer)
{
    if (value->kind == HY_VALUE_INTEGER)
        *integer = value->integer;
    else if (value->kind == HY_VALUE_BOOL)
        *integer = value->boolean;
    else
        return false;
    return true;
}

bool hy_value_is_number(const struct hy_value *value)
{
    return value->kind == HY_VALUE_BOOL || value->kind == HY_VALUE_INTEGER ||
           value->kind == HY_VALUE_REAL;
}

hymba_status hy_value_member(struct hy_template *template, const hy_json *mapping,
                             struct hy_string key, size_t position, struct hy_value *result)
{
    char small[128], *name = small;
    result->kind = HY_VALUE_UNDEFINED;
    /* No key has a NUL: JSON documents with such keys are refused. */
    if (key.length == 0)
        small[0] = '\0';
    else if (memchr(key.data, '\0', key.length))
        return HYMBA_OK;
    if (key.length >= sizeof small) {
        name = hy_template_alloc(template, key.length + 1, position);
        if (!name)
            return template->status;
    }
    if (key.length)
        memcpy(name, key.data, key.length);
    name[key.length] = '\0';
    *result = hy_value_from_json(hy_json_object_get(mapping, name));
    return hy_template_charge(template, key.length, position);
}

/* ------------------------------------------------------------- comparison */

/* Exactly, as Python does: neither number is rounded to the other's type. */
static int compare_integer_to_real(int64_t integer, double real)
{
    if (real >= 0x1p63)
        return -1;
    if (real < -0x1p63)
        return 1;
    int64_t whole = (int64_t)real;
    if (integer != whole)
        return integer < whole ? -1 : 1;
    double fraction = real - (double)whole;
    return (fraction < 0) - (fraction > 0);
}

static int compare_numbers(const struct hy_value *a, const struct hy_value *b)
{
    int64_t left, right;
    bool left_is_integer = hy_value_as_integer(a, &left);
    bool right_is_integer = hy_value_as_integer(b, &right);
    if (left_is_integer && right_is_integer)
        return (left > right) - (left < right);
    if (left_is_integer)
        return compare_integer_to_real(left, b->real);
    if (right_is_integer)
        return -compare_integer_to_real(right, a->real);
    return (a->real > b->real) - (a->real < b->real);
}

/* One comparison of values, with where it stands and how deep. */
struct comparison {
    struct hy_template *template;
    size_t position;
    int depth;
};

static hymba_status equal(struct comparison *comparison, const struct hy_value *a,
                          const struct hy_value *b, bool *result);

static hymba_status equal_lists(struct comparison *comparison, const struct hy_value_list *a,
                                const struct hy_value_list *b, bool *result)
{
    hymba_status status = HYMBA_OK;
    *result = a->count == b->count;
    for (size_t i = 0; i < a->count && *result && !status; i++) {
        struct hy_value left = hy_value_item(a, i), right = hy_value_item(b, i);
        status = equal(comparison, &left, &right, result);
    }
    return status;
}

static hymba_status equal_mappings(struct comparison *comparison, const hy_json *a,
                                   const hy_json *b, bool *result)
{
    hymba_status status = HYMBA_OK;
    *result = hy_json_object_size(a) == hy_json_object_size(b);
    for (hy_json_member *member = hy_json_next_member(a, NULL); member && *result && !status;
         member = hy_json_next_member(a, member)) {
        struct hy_value left = hy_value_from_json(hy_json_member_value(member));
        struct hy_value right =
            hy_value_from_json(hy_json_object_get(b, hy_json_member_key(member, NULL)));
        status = equal(comparison, &left, &right, result);
    }
    return status;
}

static hymba_status equal(struct comparison *comparison, const struct hy_value *a,
                          const struct hy_value *b, bool *result)
{
    size_t bytes = a->kind == HY_VALUE_STRING ? a->string.length : 0;
    hymba_status status =
        hy_template_charge(comparison->template, bytes, comparison->position);
    if (status)
        return status;
    if (hy_value_is_number(a) && hy_value_is_number(b)) {
        *result = compare_numbers(a, b) == 0;
        return HYMBA_OK;
    }
    *result = a->kind == b->kind;
    if (!*result || a->kind == HY_VALUE_UNDEFINED || a->kind == HY_VALUE_NONE)
        return HYMBA_OK;
    if (a->kind == HY_VALUE_STRING) {
        *result = hy_python_equal(a->string, b->string);
        return HYMBA_OK;
    }
    if (a->kind == HY_VALUE_LOOP) {
        *result = a->loop == b->loop;
        return HYMBA_OK;
    }
    if (++comparison->depth > HY_TEMPLATE_MAX_VALUE_DEPTH)
        return hy_template_fail(comparison->template, HYMBA_ERROR_ARGUMENT, comparison->position,
                                "the values compared are nested more than %d deep",
                                HY_TEMPLATE_MAX_VALUE_DEPTH);
    status = a->kind == HY_VALUE_LIST
                 ? equal_lists(comparison, &a->list, &b->list, result)
                 : equal_mappings(comparison, a->mapping, b->mapping, result);
    comparison->depth--;
    return status;
}

hymba_status hy_value_equal(struct hy_template *template, const struct hy_value *a,
                            const struct hy_value *b, size_t position, bool *result)
{
    struct comparison comparison = {template, position, 0};
    return equal(&comparison, a, b, result);
}

hymba_status hy_value_compare(struct hy_template *template, const struct hy_value *a,
                              const struct hy_value *b, size_t position, int *result)
{
    if (hy_value_is_number(a) && hy_value_is_number(b)) {
        *result = compare_numbers(a, b);
        return HYMBA_OK;
    }
    if (a->kind == HY_VALUE_STRING && b->kind == HY_VALUE_STRING) {
        *result = hy_python_compare(a->string, b->string);
        return hy_template_charge(template, a->string.length, position);
    }
    if (a->kind == HY_VALUE_LIST && b->kind == HY_VALUE_LIST)
        return hy_template_fail(template, HYMBA_ERROR_UNSUPPORTED, position,
                                "ordering lists is not supported");
    return hy_template_fail(template, HYMBA_ERROR_ARGUMENT, position,
                            "%s and %s have no order", hy_value_kind_name(a),
                            hy_value_kind_name(b));
}

hymba_status hy_value_find(struct hy_template *template, struct hy_string string, size_t start,
                           struct hy_string needle, size_t position, size_t *place)
{
    uint64_t work = 0, left = HY_TEMPLATE_MAX_STEPS - template->steps;
    *place = hy_python_find(string, start, needle, left * HY_TEMPLATE_STEP_BYTES, &work);
    return hy_template_charge(template, work, position);
}

static hymba_status string_contains(struct hy_template *template, const struct hy_value *a,
                                    const struct hy_value *b, size_t position, bool *result)
{
    size_t place = SIZE_MAX;
    if (a->kind != HY_VALUE_STRING)
        return hy_template_fail(template, HYMBA_ERROR_ARGUMENT, position,
                                "%s cannot be looked for in a string", hy_value_kind_name(a));
    hymba_status status =
        hy_value_find(template, b->string, 0, a->string, position, &place);
    *result = place != SIZE_MAX;
    return status;
}

hymba_status hy_value_contains(struct hy_template *template, const struct hy_value *a,
                               const struct hy_value *b, size_t position, bool *result)
{
    struct hy_value member;
    hymba_status status = HYMBA_OK;
    *result = false;
    switch (b->kind) {
    case HY_VALUE_UNDEFINED: /* iterates as an empty list */
        return HYMBA_OK;
    case HY_VALUE_STRING:
        return string_contains(template, a, b, position, result);
    case HY_VALUE_LIST:
        for (size_t i = 0; i < b->list.count && !*result && !status; i++) {
            member = hy_value_item(&b->list, i);
            status = hy_value_equal(template, a, &member, position, result);
        }
        return status;
    case HY_VALUE_MAPPING:
        if (a->kind == HY_VALUE_LIST || a->kind == HY_VALUE_MAPPING)
            break;
        if (a->kind == HY_VALUE_STRING) {
            status = hy_value_member(template, b->mapping, a->string, position, &member);
            *result = member.kind != HY_VALUE_UNDEFINED;
        }
        return status;
    default:
        break;
    }
    return hy_template_fail(template, HYMBA_ERROR_ARGUMENT, position,
                            "%s cannot be looked for in %s", hy_value_kind_name(a),
                            hy_value_kind_name(b));
}

/* ------------------------------------------------------------ conversions */

static hymba_status keep_text(struct hy_template *template, const char *text, size_t length,
                              size_t position, struct hy_string *result)
{
    char *copy = hy_template_alloc(template, length, position);
    if (!copy)
        return template->status;
    memcpy(copy, text, length);
    *result = (struct hy_string){copy, length};
    return HYMBA_OK;
}

hymba_status hy_value_text(struct hy_template *template, const struct hy_value *value,
                           size_t position, struct hy_string *text)
{
    char number[HY_PYTHON_NUMBER_SIZE];
    switch (value->kind) {
    case HY_VALUE_UNDEFINED:
        *text = (struct hy_string){"", 0};
        return HYMBA_OK;
    case HY_VALUE_NONE:
        *text = (struct hy_string){"None", 4};
        return HYMBA_OK;
    case HY_VALUE_BOOL:
        *text = value->boolean ? (struct hy_string){"True", 4} : (struct hy_string){"False", 5};
        return HYMBA_OK;
    case HY_VALUE_STRING:
        *text = value->string;
        return HYMBA_OK;
    case HY_VALUE_INTEGER:
        return keep_text(template, number, hy_python_write_integer(value->integer, number),
                         position, text);
    case HY_VALUE_REAL:
        return keep_text(template, number, hy_python_write_real(value->real, number), position,
                         text);
    case HY_VALUE_LIST:
    case HY_VALUE_MAPPING:
    case HY_VALUE_LOOP:
        break;
    }
    return hy_template_fail(template, HYMBA_ERROR_UNSUPPORTED, position,
                            "%s as text is not supported (without tojson)",
                            hy_value_kind_name(value));
}

static struct hy_value *alloc_items(struct hy_template *template, size_t count, size_t position,
                                    struct hy_value_list *list)
{
    size_t bytes;
    if (!hy_mul_size(count, sizeof(struct hy_value), &bytes))
        bytes = SIZE_MAX;
    struct hy_value *items = hy_template_alloc(template, bytes, position);
    *list = (struct hy_value_list){.items = items, .count = count};
    return items;
}

static hymba_status iterate_characters(struct hy_template *template, struct hy_string string,
                                       size_t position, struct hy_value_list *list)
{
    struct hy_value *items = alloc_items(template, hy_python_length(string), position, list);
    if (!items)
        return template->status;
    for (size_t place = 0; place < string.length; items++) {
        int32_t character;
        size_t size = hy_utf8_decode(string.data + place, string.length - place, &character);
        *items = hy_value_string((struct hy_string){string.data + place, size});
        place += size;
    }
    return hy_template_charge(template, string.length, position);
}

static hymba_status iterate_keys(struct hy_template *template, const hy_json *mapping,
                                 size_t position, struct hy_value_list *list)
{
    struct hy_value *items = alloc_items(template, hy_json_object_size(mapping), position, list);
    if (!items)
        return template->status;
    for (hy_json_member *member = hy_json_next_member(mapping, NULL); member;
         member = hy_json_next_member(mapping, member), items++) {
        struct hy_string key;
        key.data = hy_json_member_key(member, &key.length);
        *items = hy_value_string(key);
    }
    return hy_template_charge(template, list->count * sizeof *items, position);
}

hymba_status hy_value_iterate(struct hy_template *template, const struct hy_value *value,
                              size_t position, struct hy_value_list *list)
{
    memset(list, 0, sizeof *list);
    switch (value->kind) {
    case HY_VALUE_UNDEFINED:
        return HYMBA_OK;
    case HY_VALUE_LIST:
        *list = value->list;
        return HYMBA_OK;
    case HY_VALUE_STRING:
        return iterate_characters(template, value->string, position, list);
    case HY_VALUE_MAPPING:
        return iterate_keys(template, value->mapping, position, list);
    default:
        return hy_template_fail(template, HYMBA_ERROR_ARGUMENT, position,
                                "a for loop over %s", hy_value_kind_name(value));
    }
}
