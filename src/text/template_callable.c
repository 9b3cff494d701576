#include "text/template_callable.h"

#include <string.h>

#include "text/python_json.h"

/* Bytes of the characters that strip(...) takes: it tries all of them for each one it strips. */
enum { MAX_STRIP_SET = 64 };

/* ---------------------------------------------------------------- helpers */

static hymba_status wrong_subject(const struct hy_template_call *call)
{
    return hy_template_fail(call->template, HYMBA_ERROR_ARGUMENT, call->position, "'%s' of %s",
                            call->callable->name, hy_value_kind_name(&call->subject));
}

static hymba_status wrong_argument(const struct hy_template_call *call, int argument)
{
    return hy_template_fail(call->template, HYMBA_ERROR_ARGUMENT, call->position,
                            "argument %d of '%s' is %s", argument + 1, call->callable->name,
                            hy_value_kind_name(&call->arguments[argument]));
}

static hymba_status charge(const struct hy_template_call *call, size_t bytes)
{
    return hy_template_charge(call->template, bytes, call->position);
}

/* The string argument; *present is false where none is given. none stands for none given. */
static hymba_status string_argument(const struct hy_template_call *call, int argument,
                                    struct hy_string *string, bool *present)
{
    const struct hy_value *value = &call->arguments[argument];
    *present = call->given[argument] && value->kind != HY_VALUE_NONE;
    if (!*present)
        return HYMBA_OK;
    if (value->kind != HY_VALUE_STRING)
        return wrong_argument(call, argument);
    *string = value->string;
    return HYMBA_OK;
}

/* --------------------------------------------------------- strings: shared */

static hymba_status strip_string(const struct hy_template_call *call, struct hy_string string,
                                 bool left, bool right, struct hy_value *result)
{
    struct hy_string set;
    bool has_set;
    hymba_status status = string_argument(call, 0, &set, &has_set);
    if (!status && has_set && set.length > MAX_STRIP_SET)
        status = hy_template_fail(call->template, HYMBA_ERROR_UNSUPPORTED, call->position,
                                  "'%s' with more than %d bytes of characters is not supported",
                                  call->callable->name, MAX_STRIP_SET);
    if (status)
        return status;
    *result = hy_value_string(hy_python_strip(string, has_set ? &set : NULL, left, right));
    return charge(call, string.length - result->string.length);
}

/* from and the letters behind it become to and those behind it. */
static hymba_status change_case(const struct hy_template_call *call, struct hy_string string,
                                char from, char to, struct hy_value *result)
{
    char *changed = hy_template_alloc(call->template, string.length, call->position);
    if (!changed)
        return call->template->status;
    for (size_t i = 0; i < string.length; i++) {
        char byte = string.data[i];
        if ((unsigned char)byte >= 0x80)
            return hy_template_fail(call->template, HYMBA_ERROR_UNSUPPORTED, call->position,
                                    "'%s' of characters other than ASCII is not supported",
                                    call->callable->name);
        changed[i] = byte >= from && byte < from + 26 ? (char)(byte - from + to) : byte;
    }
    *result = hy_value_string((struct hy_string){changed, string.length});
    return charge(call, string.length);
}

/* ----------------------------------------------------------------- filters */

static hymba_status filter_tojson(const struct hy_template_call *call, struct hy_value *result)
{
    struct hy_text text;
    hy_text_init(&text, call->template->memory);
    hymba_status status = hy_python_json(call->template, &call->subject, call->position, &text);
    if (!status) {
        char *copy = hy_template_alloc(call->template, text.length, call->position);
        if (copy) {
            memcpy(copy, text.data, text.length);
            *result = hy_value_string((struct hy_string){copy, text.length});
        } else {
            status = call->template->status;
        }
    }
    hy_text_free(&text);
    return status;
}

static hymba_status filter_trim(const struct hy_template_call *call, struct hy_value *result)
{
    struct hy_string text;
    hymba_status status = hy_value_text(call->template, &call->subject, call->position, &text);
    return status ? status : strip_string(call, text, true, true, result);
}

static hymba_status filter_string(const struct hy_template_call *call, struct hy_value *result)
{
    struct hy_string text;
    hymba_status status = hy_value_text(call->template, &call->subject, call->position, &text);
    if (!status)
        *result = hy_value_string(text);
    return status;
}

static hymba_status filter_upper(const struct hy_template_call *call, struct hy_value *result)
{
    struct hy_string text;
    hymba_status status = hy_value_text(call->template, &call->subject, call->position, &text);
    return status ? status : change_case(call, text, 'a', 'A', result);
}

static hymba_status filter_lower(const struct hy_template_call *call, struct hy_value *result)
{
    struct hy_string text;
    hymba_status status = hy_value_text(call->template, &call->subject, call->position, &text);
    return status ? status : change_case(call, text, 'A', 'a', result);
}

static hymba_status filter_length(const struct hy_template_call *call, struct hy_value *result)
{
    const struct hy_value *subject = &call->subject;
    *result = hy_value_integer(0);
    switch (subject->kind) {
    case HY_VALUE_UNDEFINED:
        return HYMBA_OK;
    case HY_VALUE_STRING:
        result->integer = (int64_t)hy_python_length(subject->string);
        return charge(call, subject->string.length);
    case HY_VALUE_LIST:
        result->integer = (int64_t)subject->list.count;
        return HYMBA_OK;
    case HY_VALUE_MAPPING:
        result->integer = (int64_t)hy_json_object_size(subject->mapping);
        return HYMBA_OK;
    default:
        return wrong_subject(call);
    }
}

static hymba_status filter_default(const struct hy_template_call *call, struct hy_value *result)
{
    bool takes_false = call->given[1] && hy_value_is_true(&call->arguments[1]);
    bool replaces = call->subject.kind == HY_VALUE_UNDEFINED ||
                    (takes_false && !hy_value_is_true(&call->subject));
    *result = call->subject;
    if (!replaces)
        return HYMBA_OK;
    *result = call->given[0] ? call->arguments[0] : hy_value_string((struct hy_string){"", 0});
    return HYMBA_OK;
}

/* ------------------------------------------------------------------- tests */

static hymba_status is_kind(const struct hy_template_call *call, enum hy_value_kind kind,
                            struct hy_value *result)
{
    *result = hy_value_bool(call->subject.kind == kind);
    return HYMBA_OK;
}

static hymba_status test_undefined(const struct hy_template_call *call, struct hy_value *result)
{
    return is_kind(call, HY_VALUE_UNDEFINED, result);
}

static hymba_status test_defined(const struct hy_template_call *call, struct hy_value *result)
{
    *result = hy_value_bool(call->subject.kind != HY_VALUE_UNDEFINED);
    return HYMBA_OK;
}

static hymba_status test_none(const struct hy_template_call *call, struct hy_value *result)
{
    return is_kind(call, HY_VALUE_NONE, result);
}

static hymba_status test_string(const struct hy_template_call *call, struct hy_value *result)
{
    return is_kind(call, HY_VALUE_STRING, result);
}

static hymba_status test_mapping(const struct hy_template_call *call, struct hy_value *result)
{
    return is_kind(call, HY_VALUE_MAPPING, result);
}

static hymba_status test_boolean(const struct hy_template_call *call, struct hy_value *result)
{
    return is_kind(call, HY_VALUE_BOOL, result);
}

static hymba_status test_integer(const struct hy_template_call *call, struct hy_value *result)
{
    return is_kind(call, HY_VALUE_INTEGER, result);
}

static hymba_status test_float(const struct hy_template_call *call, struct hy_value *result)
{
    return is_kind(call, HY_VALUE_REAL, result);
}

static hymba_status test_number(const struct hy_template_call *call, struct hy_value *result)
{
    *result = hy_value_bool(hy_value_is_number(&call->subject));
    return HYMBA_OK;
}

static hymba_status test_true(const struct hy_template_call *call, struct hy_value *result)
{
    *result = hy_value_bool(call->subject.kind == HY_VALUE_BOOL && call->subject.boolean);
    return HYMBA_OK;
}

static hymba_status test_false(const struct hy_template_call *call, struct hy_value *result)
{
    *result = hy_value_bool(call->subject.kind == HY_VALUE_BOOL && !call->subject.boolean);
    return HYMBA_OK;
}

/* Strings and mappings too, and even undefined values, as Jinja has it. */
static hymba_status test_sequence(const struct hy_template_call *call, struct hy_value *result)
{
    enum hy_value_kind kind = call->subject.kind;
    if (kind == HY_VALUE_LOOP)
        return wrong_subject(call);
    *result = hy_value_bool(kind == HY_VALUE_STRING || kind == HY_VALUE_LIST ||
                            kind == HY_VALUE_MAPPING || kind == HY_VALUE_UNDEFINED);
    return HYMBA_OK;
}

/* ----------------------------------------------------------------- methods */

static hymba_status strip_subject(const struct hy_template_call *call, bool left, bool right,
                                  struct hy_value *result)
{
    if (call->subject.kind != HY_VALUE_STRING)
        return wrong_subject(call);
    return strip_string(call, call->subject.string, left, right, result);
}

static hymba_status method_strip(const struct hy_template_call *call, struct hy_value *result)
{
    return strip_subject(call, true, true, result);
}

static hymba_status method_lstrip(const struct hy_template_call *call, struct hy_value *result)
{
    return strip_subject(call, true, false, result);
}

static hymba_status method_rstrip(const struct hy_template_call *call, struct hy_value *result)
{
    return strip_subject(call, false, true, result);
}

static hymba_status method_upper(const struct hy_template_call *call, struct hy_value *result)
{
    if (call->subject.kind != HY_VALUE_STRING)
        return wrong_subject(call);
    return change_case(call, call->subject.string, 'a', 'A', result);
}

static hymba_status method_lower(const struct hy_template_call *call, struct hy_value *result)
{
    if (call->subject.kind != HY_VALUE_STRING)
        return wrong_subject(call);
    return change_case(call, call->subject.string, 'A', 'a', result);
}

/* Whether the subject begins (or ends) with the argument. */
static hymba_status has_affix(const struct hy_template_call *call,
                              bool (*has)(struct hy_string, struct hy_string),
                              struct hy_value *result)
{
    if (call->subject.kind != HY_VALUE_STRING)
        return wrong_subject(call);
    if (call->arguments[0].kind != HY_VALUE_STRING)
        return wrong_argument(call, 0);
    *result = hy_value_bool(has(call->subject.string, call->arguments[0].string));
    return charge(call, call->arguments[0].string.length);
}

static hymba_status method_startswith(const struct hy_template_call *call,
                                      struct hy_value *result)
{
    return has_affix(call, hy_python_starts_with, result);
}

static hymba_status method_endswith(const struct hy_template_call *call, struct hy_value *result)
{
    return has_affix(call, hy_python_ends_with, result);
}

/* The part of the string up to the separator, or up to white space where that is NULL; *rest is
 * what comes behind. False if nothing is left. */
static hymba_status next_part(const struct hy_template_call *call,
                              const struct hy_string *separator, struct hy_string *rest,
                              struct hy_string *part, bool *is_last)
{
    size_t place = 0, skipped = 0;
    hymba_status status = HYMBA_OK;
    if (separator) {
        status = hy_value_find(call->template, *rest, 0, *separator, call->position, &place);
        *is_last = place == SIZE_MAX;
        skipped = separator->length;
    } else {
        struct hy_string tail = *rest;
        while (tail.length && hy_python_strip(tail, NULL, true, false).length == tail.length)
            tail = (struct hy_string){tail.data + 1, tail.length - 1};
        place = rest->length - tail.length;
        skipped = tail.length - hy_python_strip(tail, NULL, true, false).length;
        *is_last = place + skipped == rest->length;
        status = charge(call, place + skipped);
    }
    *part = (struct hy_string){rest->data, *is_last && separator ? rest->length : place};
    if (!*is_last) {
        rest->data += place + skipped;
        rest->length -= place + skipped;
    }
    return status;
}

/* Counts the parts, and writes them where items is not NULL. */
static hymba_status split_string(const struct hy_template_call *call,
                                 const struct hy_string *separator, struct hy_value *items,
                                 size_t *count)
{
    struct hy_string rest = call->subject.string, part;
    bool is_last = false;
    hymba_status status = HYMBA_OK;
    *count = 0;
    if (!separator) {
        rest = hy_python_strip(rest, NULL, true, true);
        is_last = rest.length == 0;
    }
    while (!is_last && !status) {
        status = next_part(call, separator, &rest, &part, &is_last);
        if (items)
            items[*count] = hy_value_string(part);
        ++*count;
    }
    return status;
}

static hymba_status method_split(const struct hy_template_call *call, struct hy_value *result)
{
    struct hy_string separator;
    bool has_separator;
    size_t count;
    if (call->subject.kind != HY_VALUE_STRING)
        return wrong_subject(call);
    hymba_status status = string_argument(call, 0, &separator, &has_separator);
    if (!status && has_separator && separator.length == 0)
        status = hy_template_fail(call->template, HYMBA_ERROR_ARGUMENT, call->position,
                                  "the separator of 'split' is empty");
    if (!status)
        status = split_string(call, has_separator ? &separator : NULL, NULL, &count);
    if (status)
        return status;
    struct hy_value *items =
        hy_template_alloc(call->template, count * sizeof *items, call->position);
    if (!items)
        return call->template->status;
    *result = (struct hy_value){.kind = HY_VALUE_LIST, .list = {.items = items, .count = count}};
    return split_string(call, has_separator ? &separator : NULL, items, &count);
}

static hymba_status method_get(const struct hy_template_call *call, struct hy_value *result)
{
    const struct hy_value *key = &call->arguments[0];
    if (call->subject.kind != HY_VALUE_MAPPING)
        return wrong_subject(call);
    if (key->kind == HY_VALUE_LIST || key->kind == HY_VALUE_MAPPING)
        return wrong_argument(call, 0);
    hymba_status status = HYMBA_OK;
    result->kind = HY_VALUE_UNDEFINED;
    if (key->kind == HY_VALUE_STRING)
        status = hy_value_member(call->template, call->subject.mapping, key->string,
                                 call->position, result);
    if (result->kind != HY_VALUE_UNDEFINED)
        return status;
    result->kind = HY_VALUE_NONE;
    if (call->given[1])
        *result = call->arguments[1];
    return status;
}

/* --------------------------------------------------------------- functions */

static hymba_status function_raise_exception(const struct hy_template_call *call,
                                             struct hy_value *result)
{
    struct hy_string text;
    (void)result;
    hymba_status status =
        hy_value_text(call->template, &call->arguments[0], call->position, &text);
    if (status)
        return status;
    text = hy_template_excerpt(text, 400);
    return hy_template_fail(call->template, HYMBA_ERROR_ARGUMENT, call->position, "%.*s",
                            (int)text.length, text.data);
}

/* ------------------------------------------------------------------ tables */

static const struct hy_template_callable filters[] = {
    {"count", 0, 0, {NULL}, filter_length},
    {"d", 0, 2, {"default_value", "boolean"}, filter_default},
    {"default", 0, 2, {"default_value", "boolean"}, filter_default},
    {"length", 0, 0, {NULL}, filter_length},
    {"lower", 0, 0, {NULL}, filter_lower},
    {"string", 0, 0, {NULL}, filter_string},
    {"tojson", 0, 0, {NULL}, filter_tojson},
    {"trim", 0, 1, {"chars"}, filter_trim},
    {"upper", 0, 0, {NULL}, filter_upper},
    {NULL, 0, 0, {NULL}, NULL},
};

static const struct hy_template_callable tests[] = {
    {"boolean", 0, 0, {NULL}, test_boolean},
    {"defined", 0, 0, {NULL}, test_defined},
    {"false", 0, 0, {NULL}, test_false},
    {"float", 0, 0, {NULL}, test_float},
    {"integer", 0, 0, {NULL}, test_integer},
    {"iterable", 0, 0, {NULL}, test_sequence},
    {"mapping", 0, 0, {NULL}, test_mapping},
    {"none", 0, 0, {NULL}, test_none},
    {"number", 0, 0, {NULL}, test_number},
    {"sequence", 0, 0, {NULL}, test_sequence},
    {"string", 0, 0, {NULL}, test_string},
    {"true", 0, 0, {NULL}, test_true},
    {"undefined", 0, 0, {NULL}, test_undefined},
    {NULL, 0, 0, {NULL}, NULL},
};

static const struct hy_template_callable methods[] = {
    {"endswith", 1, 1, {NULL}, method_endswith},
    {"get", 1, 2, {NULL}, method_get},
    {"lower", 0, 0, {NULL}, method_lower},
    {"lstrip", 0, 1, {NULL}, method_lstrip},
    {"rstrip", 0, 1, {NULL}, method_rstrip},
    {"split", 0, 1, {"sep"}, method_split},
    {"startswith", 1, 1, {NULL}, method_startswith},
    {"strip", 0, 1, {NULL}, method_strip},
    {"upper", 0, 0, {NULL}, method_upper},
    {NULL, 0, 0, {NULL}, NULL},
};

static const struct hy_template_callable functions[] = {
    {"raise_exception", 1, 1, {NULL}, function_raise_exception},
    {NULL, 0, 0, {NULL}, NULL},
};

const struct hy_template_callable *hy_template_callable(enum hy_callable_kind kind,
                                                        struct hy_string name)
{
    static const struct hy_template_callable *const tables[] = {
        [HY_CALLABLE_FILTER] = filters,
        [HY_CALLABLE_TEST] = tests,
        [HY_CALLABLE_METHOD] = methods,
        [HY_CALLABLE_FUNCTION] = functions,
    };
    for (const struct hy_template_callable *found = tables[kind]; found->name; found++)
        if (hy_python_equal(name, (struct hy_string){found->name, strlen(found->name)}))
            return found;
    return NULL;
}

const char *hy_callable_kind_name(enum hy_callable_kind kind)
{
    static const char *const names[] = {
        [HY_CALLABLE_FILTER] = "filter",
        [HY_CALLABLE_TEST] = "test",
        [HY_CALLABLE_METHOD] = "method",
        [HY_CALLABLE_FUNCTION] = "function",
    };
    return names[kind];
}
