/* The parser's part for operands: literals, variables, calls, members, filters and tests. */
#include <string.h>

#include "text/template_callable.h"
#include "text/template_parser.h"

static hymba_status parse_unary(struct hy_parser *parser, bool with_filters,
                                struct hy_node **node);

static hymba_status make_constant(struct hy_parser *parser, size_t position,
                                  struct hy_value constant, struct hy_node **node)
{
    *node = hy_parser_node(parser, HY_NODE_CONSTANT, position);
    if (!*node)
        return parser->template->status;
    (*node)->constant = constant;
    return HYMBA_OK;
}

/* ---------------------------------------------------------------- operands */

/* Literals that stand side by side are one. */
static hymba_status parse_strings(struct hy_parser *parser, struct hy_node **node)
{
    size_t position = parser->token.position;
    struct hy_string whole = parser->token.text;
    hymba_status status = hy_parser_advance(parser);
    while (!status && hy_parser_at(parser, HY_TOKEN_STRING)) {
        struct hy_string part = parser->token.text;
        char *joined = hy_template_alloc(parser->template, whole.length + part.length, position);
        if (!joined)
            return parser->template->status;
        memcpy(joined, whole.data, whole.length);
        memcpy(joined + whole.length, part.data, part.length);
        whole = (struct hy_string){joined, whole.length + part.length};
        status = hy_template_charge(parser->template, whole.length, position);
        if (!status)
            status = hy_parser_advance(parser);
    }
    return status ? status : make_constant(parser, position, hy_value_string(whole), node);
}

static bool constant_of_name(struct hy_string name, struct hy_value *constant)
{
    static const struct {
        const char *name;
        struct hy_value value;
    } constants[] = {
        {"true", {.kind = HY_VALUE_BOOL, .boolean = true}},
        {"True", {.kind = HY_VALUE_BOOL, .boolean = true}},
        {"false", {.kind = HY_VALUE_BOOL, .boolean = false}},
        {"False", {.kind = HY_VALUE_BOOL, .boolean = false}},
        {"none", {.kind = HY_VALUE_NONE}},
        {"None", {.kind = HY_VALUE_NONE}},
    };
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        struct hy_string other = {constants[i].name, strlen(constants[i].name)};
        if (hy_python_equal(name, other)) {
            *constant = constants[i].value;
            return true;
        }
    }
    return false;
}

/* What Jinja and its users define beside the template's variables. */
static bool is_global(struct hy_string name)
{
    static const char *const globals[] = {"range",     "dict",   "lipsum",  "cycler",
                                          "joiner",    "namespace", "raise_exception",
                                          "strftime_now", "self", "super",  "varargs",
                                          "kwargs",    "caller"};
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (hy_python_equal(name, (struct hy_string){globals[i], strlen(globals[i])}))
            return true;
    return false;
}

/* ------------------------------------------------------------------- calls */

/* Where the argument "name =" goes; the parser then stands behind the "=". */
static hymba_status take_keyword(struct hy_parser *parser, const struct hy_node *call, int *place)
{
    const struct hy_template_callable *callable = call->callable;
    for (*place = 0; *place < HY_TEMPLATE_MAX_ARGUMENTS; ++*place) {
        const char *keyword = callable->keywords[*place];
        if (!keyword || !hy_parser_at_name(parser, keyword))
            continue;
        if (call->arguments[*place])
            return hy_template_fail(parser->template, HYMBA_ERROR_FORMAT, parser->token.position,
                                    "the argument '%s' is given twice", keyword);
        hymba_status status = hy_parser_advance(parser);
        return status ? status : hy_parser_advance(parser);
    }
    return hy_parser_unsupported(parser, parser->token.position, "argument",
                                 parser->token.text);
}

static hymba_status parse_argument(struct hy_parser *parser, struct hy_node *call, int *by_place)
{
    int place = *by_place;
    hymba_status status = HYMBA_OK;
    if (hy_parser_at(parser, HY_TOKEN_STAR) || hy_parser_at(parser, HY_TOKEN_POWER))
        return hy_template_fail(parser->template, HYMBA_ERROR_UNSUPPORTED, parser->token.position,
                                "unpacking arguments with '*' is not supported");
    if (hy_parser_at(parser, HY_TOKEN_NAME) && hy_parser_next_is(parser, HY_TOKEN_ASSIGN, NULL)) {
        *by_place = HY_TEMPLATE_MAX_ARGUMENTS; /* none may follow */
        status = take_keyword(parser, call, &place);
    } else {
        ++*by_place;
    }
    if (status)
        return status;
    if (place >= call->callable->most)
        return hy_template_fail(parser->template, HYMBA_ERROR_UNSUPPORTED, parser->token.position,
                                "'%s' with more than %d arguments is not supported",
                                call->callable->name, call->callable->most);
    status = hy_parser_expression(parser, &call->arguments[place]);
    return status ? status : hy_parser_adopt(parser, call, call->arguments[place]);
}

/* "(...)" if it is there; a callable that needs arguments must have them. */
static hymba_status parse_arguments(struct hy_parser *parser, struct hy_node *call)
{
    int by_place = 0;
    hymba_status status = HYMBA_OK;
    if (hy_parser_at(parser, HY_TOKEN_LEFT_PARENTHESIS)) {
        status = hy_parser_advance(parser);
        while (!status && !hy_parser_at(parser, HY_TOKEN_RIGHT_PARENTHESIS)) {
            status = parse_argument(parser, call, &by_place);
            if (!status && !hy_parser_at(parser, HY_TOKEN_RIGHT_PARENTHESIS))
                status = hy_parser_expect(parser, HY_TOKEN_COMMA);
        }
        if (!status)
            status = hy_parser_advance(parser);
    }
    if (status)
        return status;
    for (int i = 0; i < call->callable->least; i++)
        if (!call->arguments[i])
            return hy_template_fail(parser->template, HYMBA_ERROR_FORMAT, call->position,
                                    "'%s' needs %d arguments", call->callable->name,
                                    call->callable->least);
    return HYMBA_OK;
}

/* At the name of a filter, test, method or function that applies to *node. */
static hymba_status parse_call(struct hy_parser *parser, enum hy_callable_kind kind,
                               struct hy_node **node)
{
    struct hy_string name = parser->token.text;
    size_t position = parser->token.position;
    if (!hy_parser_at(parser, HY_TOKEN_NAME))
        return hy_parser_unexpected(parser, "a name");
    const struct hy_template_callable *callable = hy_template_callable(kind, name);
    if (!callable)
        return hy_parser_unsupported(parser, position, hy_callable_kind_name(kind), name);
    hymba_status status = hy_parser_wrap(parser, HY_NODE_CALL, position, node);
    if (!status)
        status = hy_parser_advance(parser);
    if (status)
        return status;
    (*node)->callable = callable;
    return parse_arguments(parser, *node);
}

/* ----------------------------------------------------------------- primary */

static hymba_status parse_name(struct hy_parser *parser, struct hy_node **node)
{
    struct hy_string name = parser->token.text;
    size_t position = parser->token.position;
    struct hy_value constant;
    hymba_status status;
    if (hy_parser_next_is(parser, HY_TOKEN_LEFT_PARENTHESIS, NULL))
        return parse_call(parser, HY_CALLABLE_FUNCTION, node);
    if (constant_of_name(name, &constant)) {
        status = hy_parser_advance(parser);
        return status ? status : make_constant(parser, position, constant, node);
    }
    if (is_global(name))
        return hy_parser_unsupported(parser, position, "variable", name);
    if (hy_parser_is_reserved(name) && !hy_parser_at_name(parser, "loop"))
        return hy_parser_unexpected(parser, "an expression");
    *node = hy_parser_node(parser, HY_NODE_NAME, position);
    if (!*node)
        return parser->template->status;
    (*node)->string = name;
    return hy_parser_advance(parser);
}

/* At "("; a tuple is refused. */
static hymba_status parse_parentheses(struct hy_parser *parser, struct hy_node **node)
{
    size_t position = parser->token.position;
    hymba_status status = hy_parser_advance(parser);
    if (!status && !hy_parser_at(parser, HY_TOKEN_RIGHT_PARENTHESIS))
        status = hy_parser_expression(parser, node);
    if (status)
        return status;
    if (!*node || hy_parser_at(parser, HY_TOKEN_COMMA))
        return hy_template_fail(parser->template, HYMBA_ERROR_UNSUPPORTED, position,
                                "tuples are not supported");
    return hy_parser_expect(parser, HY_TOKEN_RIGHT_PARENTHESIS);
}

/* At "[". */
static hymba_status parse_list(struct hy_parser *parser, struct hy_node **node)
{
    struct hy_node *list = hy_parser_node(parser, HY_NODE_LIST, parser->token.position);
    if (!list)
        return parser->template->status;
    struct hy_node **item = &list->first;
    hymba_status status = hy_parser_advance(parser);
    while (!status && !hy_parser_at(parser, HY_TOKEN_RIGHT_BRACKET)) {
        status = hy_parser_expression(parser, item);
        if (!status)
            status = hy_parser_adopt(parser, list, *item);
        if (!status && !hy_parser_at(parser, HY_TOKEN_RIGHT_BRACKET))
            status = hy_parser_expect(parser, HY_TOKEN_COMMA);
        if (status)
            return status;
        item = &(*item)->next;
        list->n++;
    }
    *node = list;
    return status ? status : hy_parser_advance(parser);
}

static hymba_status parse_primary(struct hy_parser *parser, struct hy_node **node)
{
    size_t position = parser->token.position;
    int64_t integer = parser->token.integer;
    hymba_status status;
    switch (parser->token.kind) {
    case HY_TOKEN_NAME:
        return parse_name(parser, node);
    case HY_TOKEN_STRING:
        return parse_strings(parser, node);
    case HY_TOKEN_INTEGER:
        status = hy_parser_advance(parser);
        return status ? status
                      : make_constant(parser, position, hy_value_integer(integer), node);
    case HY_TOKEN_LEFT_PARENTHESIS:
        return parse_parentheses(parser, node);
    case HY_TOKEN_LEFT_BRACKET:
        return parse_list(parser, node);
    case HY_TOKEN_LEFT_BRACE:
        return hy_template_fail(parser->template, HYMBA_ERROR_UNSUPPORTED, position,
                                "dictionaries in the template are not supported");
    default:
        return hy_parser_unexpected(parser, "an expression");
    }
}

/* ---------------------------------------------- what may follow an operand */

/* Behind "."; */
static hymba_status parse_attribute(struct hy_parser *parser, struct hy_node **node)
{
    size_t position = parser->token.position;
    if (hy_parser_at(parser, HY_TOKEN_INTEGER)) {
        hymba_status status = hy_parser_wrap(parser, HY_NODE_SUBSCRIPT, position, node);
        if (!status)
            status = make_constant(parser, position, hy_value_integer(parser->token.integer),
                                   &(*node)->second);
        return status ? status : hy_parser_advance(parser);
    }
    if (!hy_parser_at(parser, HY_TOKEN_NAME))
        return hy_parser_unexpected(parser, "the name of an attribute");
    if (hy_parser_next_is(parser, HY_TOKEN_LEFT_PARENTHESIS, NULL))
        return parse_call(parser, HY_CALLABLE_METHOD, node);
    hymba_status status = hy_parser_wrap(parser, HY_NODE_ATTRIBUTE, position, node);
    if (status)
        return status;
    (*node)->string = parser->token.text;
    return hy_parser_advance(parser);
}

/* One bound of a slice, if it is there. */
static hymba_status parse_bound(struct hy_parser *parser, struct hy_node *slice,
                                struct hy_node **bound)
{
    if (hy_parser_at(parser, HY_TOKEN_COLON) || hy_parser_at(parser, HY_TOKEN_RIGHT_BRACKET))
        return HYMBA_OK;
    hymba_status status = hy_parser_expression(parser, bound);
    return status ? status : hy_parser_adopt(parser, slice, *bound);
}

/* Behind "[". */
static hymba_status parse_subscript(struct hy_parser *parser, struct hy_node **node)
{
    size_t position = parser->token.position;
    hymba_status status = hy_parser_wrap(parser, HY_NODE_SUBSCRIPT, position, node);
    if (status)
        return status;
    struct hy_node *subscript = *node;
    if (hy_parser_at(parser, HY_TOKEN_RIGHT_BRACKET))
        return hy_parser_unexpected(parser, "an expression");
    status = parse_bound(parser, subscript, &subscript->second);
    if (!status && hy_parser_at(parser, HY_TOKEN_COLON)) {
        subscript->kind = HY_NODE_SLICE;
        status = hy_parser_advance(parser);
        if (!status)
            status = parse_bound(parser, subscript, &subscript->third);
        if (!status && hy_parser_at(parser, HY_TOKEN_COLON))
            return hy_template_fail(parser->template, HYMBA_ERROR_UNSUPPORTED,
                                    parser->token.position,
                                    "slices with a step are not supported");
    }
    if (!status && hy_parser_at(parser, HY_TOKEN_COMMA))
        return hy_template_fail(parser->template, HYMBA_ERROR_UNSUPPORTED,
                                parser->token.position, "tuples are not supported");
    return status ? status : hy_parser_expect(parser, HY_TOKEN_RIGHT_BRACKET);
}

static hymba_status refuse_call(struct hy_parser *parser)
{
    if (!hy_parser_at(parser, HY_TOKEN_LEFT_PARENTHESIS))
        return HYMBA_OK;
    return hy_template_fail(parser->template, HYMBA_ERROR_UNSUPPORTED, parser->token.position,
                            "calling an expression is not supported");
}

static hymba_status parse_postfix(struct hy_parser *parser, struct hy_node **node)
{
    hymba_status status = HYMBA_OK;
    while (!status) {
        if (hy_parser_at(parser, HY_TOKEN_DOT)) {
            status = hy_parser_advance(parser);
            if (!status)
                status = parse_attribute(parser, node);
        } else if (hy_parser_at(parser, HY_TOKEN_LEFT_BRACKET)) {
            status = hy_parser_advance(parser);
            if (!status)
                status = parse_subscript(parser, node);
        } else {
            return refuse_call(parser);
        }
    }
    return status;
}

/* Whether Jinja would read what stands here as the argument of a test without parentheses. */
static bool at_test_argument(const struct hy_parser *parser)
{
    switch (parser->token.kind) {
    case HY_TOKEN_NAME:
        return !hy_parser_at_name(parser, "else") && !hy_parser_at_name(parser, "or") &&
               !hy_parser_at_name(parser, "and");
    case HY_TOKEN_STRING:
    case HY_TOKEN_INTEGER:
    case HY_TOKEN_LEFT_PARENTHESIS:
    case HY_TOKEN_LEFT_BRACKET:
    case HY_TOKEN_LEFT_BRACE:
        return true;
    default:
        return false;
    }
}

/* Behind "is". */
static hymba_status parse_test(struct hy_parser *parser, struct hy_node **node)
{
    size_t position = parser->token.position;
    bool is_negated = hy_parser_at_name(parser, "not");
    hymba_status status = is_negated ? hy_parser_advance(parser) : HYMBA_OK;
    if (!status)
        status = parse_call(parser, HY_CALLABLE_TEST, node);
    if (!status && at_test_argument(parser))
        return hy_template_fail(parser->template, HYMBA_ERROR_UNSUPPORTED,
                                parser->token.position,
                                "an argument of the test '%s' is not supported",
                                (*node)->callable->name);
    return status || !is_negated ? status : hy_parser_wrap(parser, HY_NODE_NOT, position, node);
}

static hymba_status parse_filters(struct hy_parser *parser, struct hy_node **node)
{
    hymba_status status = HYMBA_OK;
    while (!status) {
        if (hy_parser_at(parser, HY_TOKEN_PIPE)) {
            status = hy_parser_advance(parser);
            if (!status)
                status = parse_call(parser, HY_CALLABLE_FILTER, node);
        } else if (hy_parser_at_name(parser, "is")) {
            status = hy_parser_advance(parser);
            if (!status)
                status = parse_test(parser, node);
        } else {
            return refuse_call(parser);
        }
    }
    return status;
}

/* ------------------------------------------------------------------- signs */

static hymba_status parse_sign(struct hy_parser *parser, struct hy_node **node)
{
    size_t position = parser->token.position;
    enum hy_node_kind kind =
        hy_parser_at(parser, HY_TOKEN_MINUS) ? HY_NODE_NEGATIVE : HY_NODE_POSITIVE;
    hymba_status status = hy_parser_enter(parser);
    if (!status)
        status = hy_parser_advance(parser);
    if (!status)
        status = parse_unary(parser, false, node);
    parser->depth--;
    return status ? status : hy_parser_wrap(parser, kind, position, node);
}

static hymba_status parse_unary(struct hy_parser *parser, bool with_filters,
                                struct hy_node **node)
{
    bool has_sign =
        hy_parser_at(parser, HY_TOKEN_MINUS) || hy_parser_at(parser, HY_TOKEN_PLUS);
    hymba_status status = has_sign ? parse_sign(parser, node) : parse_primary(parser, node);
    if (!status)
        status = parse_postfix(parser, node);
    if (!status && with_filters)
        status = parse_filters(parser, node);
    return status;
}

hymba_status hy_parser_operand(struct hy_parser *parser, struct hy_node **node)
{
    return parse_unary(parser, true, node);
}
