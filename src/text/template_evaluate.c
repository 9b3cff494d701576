#include "text/template_evaluate.h"

#include <string.h>

#include "base/checked.h"
#include "text/template_callable.h"

static hymba_status fail_argument(struct hy_template_scope *scope, const struct hy_node *node,
                                  const char *what, const struct hy_value *value)
{
    return hy_template_fail(scope->template, HYMBA_ERROR_ARGUMENT, node->position, "%s %s", what,
                            hy_value_kind_name(value));
}

/* ----------------------------------------------------- parts of values */

static bool is_one_of(struct hy_string name, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (hy_python_equal(name, (struct hy_string){names[i], strlen(names[i])}))
            return true;
    return false;
}

/*
 * Whether Python has an attribute of this name for the value, which then takes precedence over
 * (value.name) or stands in for (value['name']) a member: a method without a call.
 */
static bool has_python_attribute(const struct hy_value *value, struct hy_string name)
{
    static const char *const of_mappings[] = {"clear", "copy",    "fromkeys",   "get",
                                              "items", "keys",    "pop",        "popitem",
                                              "setdefault", "update", "values"};
    static const char *const of_lists[] = {"append", "clear",  "copy", "count",
                                           "extend", "index",  "insert", "pop",
                                           "remove", "reverse", "sort"};
    static const char *const of_strings[] = {
        "capitalize", "casefold",     "center",       "count",      "encode",      "endswith",
        "expandtabs", "find",         "format",       "format_map", "index",       "isalnum",
        "isalpha",    "isascii",      "isdecimal",    "isdigit",    "isidentifier", "islower",
        "isnumeric",  "isprintable",  "isspace",      "istitle",    "isupper",     "join",
        "ljust",      "lower",        "lstrip",       "maketrans",  "partition",   "removeprefix",
        "removesuffix", "replace",    "rfind",        "rindex",     "rjust",       "rpartition",
        "rsplit",     "rstrip",       "split",        "splitlines", "startswith",  "strip",
        "swapcase",   "title",        "translate",    "upper",      "zfill"};
    if (hy_python_starts_with(name, (struct hy_string){"__", 2}))
        return true;
    switch (value->kind) {
    case HY_VALUE_MAPPING:
        return is_one_of(name, of_mappings, sizeof of_mappings / sizeof *of_mappings);
    case HY_VALUE_LIST:
        return is_one_of(name, of_lists, sizeof of_lists / sizeof *of_lists);
    case HY_VALUE_STRING:
        return is_one_of(name, of_strings, sizeof of_strings / sizeof *of_strings);
    case HY_VALUE_NONE:
        return false;
    default: /* numbers have some too, which no template has a use for */
        return true;
    }
}

static hymba_status fail_attribute(struct hy_template_scope *scope, const struct hy_node *node,
                                   const struct hy_value *object, struct hy_string name)
{
    name = hy_template_excerpt(name, 60);
    if (object->kind == HY_VALUE_UNDEFINED)
        return hy_template_fail(scope->template, HYMBA_ERROR_ARGUMENT, node->position,
                                "'%.*s' of an undefined value", (int)name.length, name.data);
    return hy_template_fail(scope->template, HYMBA_ERROR_UNSUPPORTED, node->position,
                            "the attribute '%.*s' of %s is not supported", (int)name.length,
                            name.data, hy_value_kind_name(object));
}

static hymba_status loop_attribute(struct hy_template_scope *scope, const struct hy_node *node,
                                   const struct hy_value *object, struct hy_value *result)
{
    const struct hy_template_loop *loop = object->loop;
    int64_t index = (int64_t)loop->index, count = (int64_t)loop->count;
    const struct {
        const char *name;
        struct hy_value value;
    } attributes[] = {
        {"index", hy_value_integer(index + 1)},
        {"index0", hy_value_integer(index)},
        {"first", hy_value_bool(index == 0)},
        {"last", hy_value_bool(index == count - 1)},
        {"length", hy_value_integer(count)},
        {"revindex", hy_value_integer(count - index)},
        {"revindex0", hy_value_integer(count - index - 1)},
    };
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        struct hy_string name = {attributes[i].name, strlen(attributes[i].name)};
        if (hy_python_equal(node->string, name)) {
            *result = attributes[i].value;
            return HYMBA_OK;
        }
    }
    return fail_attribute(scope, node, object, node->string);
}

/* object.name: what Python has under the name comes first, then the member. */
static hymba_status evaluate_attribute(struct hy_template_scope *scope,
                                       const struct hy_node *node, struct hy_value *result)
{
    struct hy_value object;
    hymba_status status = hy_template_evaluate(scope, node->first, &object);
    if (status)
        return status;
    if (object.kind == HY_VALUE_LOOP)
        return loop_attribute(scope, node, &object, result);
    if (object.kind == HY_VALUE_UNDEFINED || has_python_attribute(&object, node->string))
        return fail_attribute(scope, node, &object, node->string);
    result->kind = HY_VALUE_UNDEFINED;
    if (object.kind == HY_VALUE_MAPPING)
        return hy_value_member(scope->template, object.mapping, node->string, node->position,
                               result);
    return HYMBA_OK;
}

static void item_at(const struct hy_value *object, size_t count, int64_t index,
                    struct hy_value *result)
{
    if (index < 0)
        index += (int64_t)count;
    if (index < 0 || (uint64_t)index >= count)
        return;
    size_t place = (size_t)index;
    if (object->kind == HY_VALUE_LIST)
        *result = hy_value_item(&object->list, place);
    else
        *result = hy_value_string(hy_python_slice(object->string, place, place + 1));
}

/* object[key]: the member comes first, then what Python has under the name; undefined if there
 * is neither. */
static hymba_status evaluate_subscript(struct hy_template_scope *scope,
                                       const struct hy_node *node, struct hy_value *result)
{
    struct hy_value object, key;
    int64_t index;
    hymba_status status = hy_template_evaluate(scope, node->first, &object);
    if (!status)
        status = hy_template_evaluate(scope, node->second, &key);
    if (status)
        return status;
    result->kind = HY_VALUE_UNDEFINED;
    if (object.kind == HY_VALUE_UNDEFINED) {
        struct hy_string name = {"a member", 8};
        return fail_attribute(scope, node, &object,
                              key.kind == HY_VALUE_STRING ? key.string : name);
    }
    if (key.kind == HY_VALUE_STRING) {
        if (object.kind == HY_VALUE_MAPPING)
            status = hy_value_member(scope->template, object.mapping, key.string, node->position,
                                     result);
        if (!status && result->kind == HY_VALUE_UNDEFINED &&
            has_python_attribute(&object, key.string))
            return fail_attribute(scope, node, &object, key.string);
        return status;
    }
    if (!hy_value_as_integer(&key, &index))
        return HYMBA_OK;
    if (object.kind == HY_VALUE_LIST) {
        item_at(&object, object.list.count, index, result);
    } else if (object.kind == HY_VALUE_STRING) {
        item_at(&object, hy_python_length(object.string), index, result);
        return hy_template_charge(scope->template, object.string.length, node->position);
    }
    return HYMBA_OK;
}

/* A bound of a slice, as an index up to count; missing stands for none given. */
static hymba_status evaluate_bound(struct hy_template_scope *scope, const struct hy_node *node,
                                   size_t count, size_t missing, size_t *bound)
{
    struct hy_value value = {.kind = HY_VALUE_NONE};
    int64_t index;
    *bound = missing;
    hymba_status status = node ? hy_template_evaluate(scope, node, &value) : HYMBA_OK;
    if (status || value.kind == HY_VALUE_NONE)
        return status;
    if (!hy_value_as_integer(&value, &index))
        return fail_argument(scope, node, "the bound of a slice is", &value);
    if (index < 0)
        index = index + (int64_t)count > 0 ? index + (int64_t)count : 0;
    *bound = (uint64_t)index < count ? (size_t)index : count;
    return HYMBA_OK;
}

static hymba_status evaluate_slice(struct hy_template_scope *scope, const struct hy_node *node,
                                   struct hy_value *result)
{
    size_t first, end, count;
    hymba_status status = hy_template_evaluate(scope, node->first, result);
    if (status)
        return status;
    if (result->kind == HY_VALUE_LIST)
        count = result->list.count;
    else if (result->kind == HY_VALUE_STRING)
        count = hy_python_length(result->string);
    else
        return fail_argument(scope, node, "a slice of", result);
    status = evaluate_bound(scope, node->second, count, 0, &first);
    if (!status)
        status = evaluate_bound(scope, node->third, count, count, &end);
    if (status)
        return status;
    end = hy_max_size(first, end);
    if (result->kind == HY_VALUE_LIST) {
        result->list.first += first;
        result->list.count = end - first;
        return HYMBA_OK;
    }
    size_t length = result->string.length;
    result->string = hy_python_slice(result->string, first, end);
    return hy_template_charge(scope->template, length, node->position);
}

/* -------------------------------------------------------------- operators */

static hymba_status evaluate_list(struct hy_template_scope *scope, const struct hy_node *node,
                                  struct hy_value *result)
{
    struct hy_value *items =
        hy_template_alloc(scope->template, node->n * sizeof *items, node->position);
    hymba_status status = HYMBA_OK;
    size_t count = 0;
    if (!items)
        return scope->template->status;
    for (const struct hy_node *item = node->first; item && !status; item = item->next)
        status = hy_template_evaluate(scope, item, &items[count++]);
    *result = (struct hy_value){.kind = HY_VALUE_LIST, .list = {.items = items, .count = count}};
    return status;
}

static hymba_status evaluate_call(struct hy_template_scope *scope, const struct hy_node *node,
                                  struct hy_value *result)
{
    struct hy_template_call call = {
        .template = scope->template, .callable = node->callable, .position = node->position};
    hymba_status status = HYMBA_OK;
    if (node->first)
        status = hy_template_evaluate(scope, node->first, &call.subject);
    for (int i = 0; i < HY_TEMPLATE_MAX_ARGUMENTS && !status; i++) {
        call.given[i] = node->arguments[i] != NULL;
        if (call.given[i])
            status = hy_template_evaluate(scope, node->arguments[i], &call.arguments[i]);
    }
    return status ? status : node->callable->apply(&call, result);
}

static hymba_status evaluate_choice(struct hy_template_scope *scope, const struct hy_node *node,
                                    struct hy_value *result)
{
    struct hy_value condition;
    hymba_status status = hy_template_evaluate(scope, node->second, &condition);
    if (status)
        return status;
    if (hy_value_is_true(&condition))
        return hy_template_evaluate(scope, node->first, result);
    result->kind = HY_VALUE_UNDEFINED;
    return node->third ? hy_template_evaluate(scope, node->third, result) : HYMBA_OK;
}

/* and, or: the value of the operand that decides. */
static hymba_status evaluate_logic(struct hy_template_scope *scope, const struct hy_node *node,
                                   struct hy_value *result)
{
    hymba_status status = hy_template_evaluate(scope, node->first, result);
    if (status || hy_value_is_true(result) == (node->kind == HY_NODE_OR))
        return status;
    return hy_template_evaluate(scope, node->second, result);
}

static hymba_status evaluate_sign(struct hy_template_scope *scope, const struct hy_node *node,
                                  struct hy_value *result)
{
    int64_t integer;
    bool negates = node->kind == HY_NODE_NEGATIVE;
    hymba_status status = hy_template_evaluate(scope, node->first, result);
    if (status)
        return status;
    if (result->kind == HY_VALUE_REAL) {
        result->real = negates ? -result->real : result->real;
        return HYMBA_OK;
    }
    if (!hy_value_as_integer(result, &integer))
        return fail_argument(scope, node, "a sign before", result);
    if (negates && __builtin_sub_overflow((int64_t)0, integer, &integer))
        return hy_template_fail(scope->template, HYMBA_ERROR_UNSUPPORTED, node->position,
                                "numbers of more than 64 bits are not supported");
    *result = hy_value_integer(integer);
    return HYMBA_OK;
}

static hymba_status join_strings(struct hy_template_scope *scope, const struct hy_node *node,
                                 struct hy_string a, struct hy_string b, struct hy_value *result)
{
    size_t length;
    if (!hy_add_size(a.length, b.length, &length))
        length = SIZE_MAX;
    char *joined = hy_template_alloc(scope->template, length, node->position);
    if (!joined)
        return scope->template->status;
    memcpy(joined, a.data, a.length);
    memcpy(joined + a.length, b.data, b.length);
    *result = hy_value_string((struct hy_string){joined, length});
    return hy_template_charge(scope->template, length, node->position);
}

static hymba_status evaluate_join(struct hy_template_scope *scope, const struct hy_node *node,
                                  struct hy_value *result)
{
    struct hy_value left, right;
    struct hy_string a, b;
    hymba_status status = hy_template_evaluate(scope, node->first, &left);
    if (!status)
        status = hy_template_evaluate(scope, node->second, &right);
    if (!status)
        status = hy_value_text(scope->template, &left, node->position, &a);
    if (!status)
        status = hy_value_text(scope->template, &right, node->position, &b);
    return status ? status : join_strings(scope, node, a, b, result);
}

/* Python's // and %: the quotient is rounded down, the remainder has the divisor's sign. */
static bool divide(int64_t a, int64_t b, int64_t *quotient, int64_t *remainder)
{
    if (a == INT64_MIN && b == -1)
        return false;
    *quotient = a / b;
    *remainder = a % b;
    if (*remainder != 0 && (*remainder < 0) != (b < 0)) {
        *quotient -= 1;
        *remainder += b;
    }
    return true;
}

static hymba_status calculate_integers(struct hy_template_scope *scope,
                                       const struct hy_node *node, int64_t a, int64_t b,
                                       struct hy_value *result)
{
    int64_t value = 0, other = 0;
    bool fits = false;
    if ((node->kind == HY_NODE_FLOOR || node->kind == HY_NODE_REMAINDER) && b == 0)
        return hy_template_fail(scope->template, HYMBA_ERROR_ARGUMENT, node->position,
                                "division by zero");
    if (node->kind == HY_NODE_ADD)
        fits = !__builtin_add_overflow(a, b, &value);
    else if (node->kind == HY_NODE_SUBTRACT)
        fits = !__builtin_sub_overflow(a, b, &value);
    else if (node->kind == HY_NODE_MULTIPLY)
        fits = !__builtin_mul_overflow(a, b, &value);
    else if (node->kind == HY_NODE_FLOOR)
        fits = divide(a, b, &value, &other);
    else
        fits = divide(a, b, &other, &value);
    if (!fits)
        return hy_template_fail(scope->template, HYMBA_ERROR_UNSUPPORTED, node->position,
                                "numbers of more than 64 bits are not supported");
    *result = hy_value_integer(value);
    return HYMBA_OK;
}

/* Python knows more of it than is done here: floats, lists, and strings before "%" and "*". */
static hymba_status fail_arithmetic(struct hy_template_scope *scope, const struct hy_node *node,
                                    const struct hy_value *left, const struct hy_value *right)
{
    bool has_meaning = left->kind == right->kind;
    if (left->kind == HY_VALUE_UNDEFINED || left->kind == HY_VALUE_NONE)
        has_meaning = false;
    else if (left->kind == HY_VALUE_STRING && node->kind == HY_NODE_REMAINDER)
        has_meaning = true;
    else if (hy_value_is_number(left) || hy_value_is_number(right))
        has_meaning = node->kind == HY_NODE_MULTIPLY ||
                      (hy_value_is_number(left) && hy_value_is_number(right));
    return hy_template_fail(scope->template,
                            has_meaning ? HYMBA_ERROR_UNSUPPORTED : HYMBA_ERROR_ARGUMENT,
                            node->position, "calculating with %s and %s%s",
                            hy_value_kind_name(left), hy_value_kind_name(right),
                            has_meaning ? " is not supported" : "");
}

/* + of strings; + - * // % of integers. */
static hymba_status evaluate_arithmetic(struct hy_template_scope *scope,
                                        const struct hy_node *node, struct hy_value *result)
{
    struct hy_value left, right;
    int64_t a, b;
    hymba_status status = hy_template_evaluate(scope, node->first, &left);
    if (!status)
        status = hy_template_evaluate(scope, node->second, &right);
    if (status)
        return status;
    if (hy_value_as_integer(&left, &a) && hy_value_as_integer(&right, &b))
        return calculate_integers(scope, node, a, b, result);
    if (node->kind == HY_NODE_ADD && left.kind == HY_VALUE_STRING &&
        right.kind == HY_VALUE_STRING)
        return join_strings(scope, node, left.string, right.string, result);
    return fail_arithmetic(scope, node, &left, &right);
}

static hymba_status compare_pair(struct hy_template_scope *scope, const struct hy_node *part,
                                 const struct hy_value *left, const struct hy_value *right,
                                 bool *holds)
{
    int order = 0;
    hymba_status status;
    switch (part->kind) {
    case HY_NODE_EQUAL:
        return hy_value_equal(scope->template, left, right, part->position, holds);
    case HY_NODE_NOT_EQUAL:
        status = hy_value_equal(scope->template, left, right, part->position, holds);
        *holds = !*holds;
        return status;
    case HY_NODE_IN:
        return hy_value_contains(scope->template, left, right, part->position, holds);
    case HY_NODE_NOT_IN:
        status = hy_value_contains(scope->template, left, right, part->position, holds);
        *holds = !*holds;
        return status;
    default:
        break;
    }
    status = hy_value_compare(scope->template, left, right, part->position, &order);
    *holds = part->kind == HY_NODE_LESS         ? order < 0
             : part->kind == HY_NODE_LESS_EQUAL ? order <= 0
             : part->kind == HY_NODE_MORE       ? order > 0
                                                : order >= 0;
    return status;
}

/* a < b < c is a < b and b < c. */
static hymba_status evaluate_comparison(struct hy_template_scope *scope,
                                        const struct hy_node *node, struct hy_value *result)
{
    struct hy_value left, right;
    bool holds = true;
    hymba_status status = hy_template_evaluate(scope, node->first, &left);
    for (const struct hy_node *part = node->second; part && holds && !status; part = part->next) {
        status = hy_template_evaluate(scope, part->first, &right);
        if (!status)
            status = compare_pair(scope, part, &left, &right, &holds);
        left = right;
    }
    *result = hy_value_bool(holds);
    return status;
}

static hymba_status evaluate_not(struct hy_template_scope *scope, const struct hy_node *node,
                                 struct hy_value *result)
{
    hymba_status status = hy_template_evaluate(scope, node->first, result);
    if (!status)
        *result = hy_value_bool(!hy_value_is_true(result));
    return status;
}

hymba_status hy_template_evaluate(struct hy_template_scope *scope, const struct hy_node *node,
                                  struct hy_value *result)
{
    memset(result, 0, sizeof *result);
    hymba_status status = hy_template_charge(scope->template, 0, node->position);
    if (status)
        return status;
    switch (node->kind) {
    case HY_NODE_CONSTANT:
        *result = node->constant;
        return HYMBA_OK;
    case HY_NODE_NAME:
        return hy_scope_find(scope, node->string, node->position, result);
    case HY_NODE_LIST:
        return evaluate_list(scope, node, result);
    case HY_NODE_ATTRIBUTE:
        return evaluate_attribute(scope, node, result);
    case HY_NODE_SUBSCRIPT:
        return evaluate_subscript(scope, node, result);
    case HY_NODE_SLICE:
        return evaluate_slice(scope, node, result);
    case HY_NODE_CALL:
        return evaluate_call(scope, node, result);
    case HY_NODE_CHOICE:
        return evaluate_choice(scope, node, result);
    case HY_NODE_AND:
    case HY_NODE_OR:
        return evaluate_logic(scope, node, result);
    case HY_NODE_NOT:
        return evaluate_not(scope, node, result);
    case HY_NODE_NEGATIVE:
    case HY_NODE_POSITIVE:
        return evaluate_sign(scope, node, result);
    case HY_NODE_JOIN:
        return evaluate_join(scope, node, result);
    case HY_NODE_COMPARE:
        return evaluate_comparison(scope, node, result);
    case HY_NODE_ADD:
    case HY_NODE_SUBTRACT:
    case HY_NODE_MULTIPLY:
    case HY_NODE_FLOOR:
    case HY_NODE_REMAINDER:
        return evaluate_arithmetic(scope, node, result);
    default:
        return hy_template_fail(scope->template, HYMBA_ERROR_INTERNAL, node->position,
                                "a statement stands where an expression should");
    }
}
