#include "text/template_parser.h"

#include <string.h>

#include "text/template_callable.h"

/* ----------------------------------------------------------------- tokens */

hymba_status hy_parser_advance(struct hy_parser *parser)
{
    return hy_lexer_next(&parser->lexer, &parser->token);
}

bool hy_parser_at(const struct hy_parser *parser, enum hy_token_kind kind)
{
    return parser->token.kind == kind;
}

static bool is_text(struct hy_string string, const char *text)
{
    return hy_python_equal(string, (struct hy_string){text, strlen(text)});
}

bool hy_parser_at_name(const struct hy_parser *parser, const char *name)
{
    return hy_parser_at(parser, HY_TOKEN_NAME) && is_text(parser->token.text, name);
}

hymba_status hy_parser_unexpected(struct hy_parser *parser, const char *expected)
{
    const struct hy_token *token = &parser->token;
    if (token->kind != HY_TOKEN_NAME)
        return hy_template_fail(parser->template, HYMBA_ERROR_FORMAT, token->position,
                                "expected %s, found %s", expected,
                                hy_token_kind_name(token->kind));
    struct hy_string name = hy_template_excerpt(token->text, 60);
    return hy_template_fail(parser->template, HYMBA_ERROR_FORMAT, token->position,
                            "expected %s, found '%.*s'", expected, (int)name.length, name.data);
}

hymba_status hy_parser_expect(struct hy_parser *parser, enum hy_token_kind kind)
{
    if (!hy_parser_at(parser, kind))
        return hy_parser_unexpected(parser, hy_token_kind_name(kind));
    return hy_parser_advance(parser);
}

hymba_status hy_parser_unsupported(struct hy_parser *parser, size_t position, const char *what,
                                   struct hy_string name)
{
    name = hy_template_excerpt(name, 60);
    return hy_template_fail(parser->template, HYMBA_ERROR_UNSUPPORTED, position,
                            "the %s '%.*s' is not supported", what, (int)name.length, name.data);
}

hymba_status hy_parser_enter(struct hy_parser *parser)
{
    if (++parser->depth <= HY_TEMPLATE_MAX_DEPTH)
        return HYMBA_OK;
    return hy_template_fail(parser->template, HYMBA_ERROR_UNSUPPORTED, parser->token.position,
                            "nesting more than %d deep is not supported", HY_TEMPLATE_MAX_DEPTH);
}

struct hy_node *hy_parser_node(struct hy_parser *parser, enum hy_node_kind kind, size_t position)
{
    struct hy_node *node = hy_template_alloc(parser->template, sizeof *node, position);
    if (!node)
        return NULL;
    memset(node, 0, sizeof *node);
    node->kind = kind;
    node->position = position;
    return node;
}

hymba_status hy_parser_adopt(struct hy_parser *parser, struct hy_node *parent,
                             const struct hy_node *child)
{
    if (child && child->height >= parent->height)
        parent->height = child->height + 1;
    if (parent->height <= HY_TEMPLATE_MAX_HEIGHT)
        return HYMBA_OK;
    return hy_template_fail(parser->template, HYMBA_ERROR_UNSUPPORTED, parent->position,
                            "an expression of more than %d operations is not supported",
                            HY_TEMPLATE_MAX_HEIGHT);
}

hymba_status hy_parser_wrap(struct hy_parser *parser, enum hy_node_kind kind, size_t position,
                            struct hy_node **node)
{
    struct hy_node *parent = hy_parser_node(parser, kind, position);
    if (!parent)
        return parser->template->status;
    parent->first = *node;
    *node = parent;
    return hy_parser_adopt(parser, parent, parent->first);
}

bool hy_parser_next_is(const struct hy_parser *parser, enum hy_token_kind kind, const char *name)
{
    struct hy_parser ahead = *parser;
    struct hy_template quiet = *parser->template;
    /* A fault there is reported when the parser gets there; the chunks it may add stay. */
    quiet.error = NULL;
    ahead.template = &quiet;
    ahead.lexer.template = &quiet;
    bool found = hy_parser_advance(&ahead) == HYMBA_OK && hy_parser_at(&ahead, kind) &&
                 (!name || hy_parser_at_name(&ahead, name));
    parser->template->chunks = quiet.chunks;
    parser->template->memory_used = quiet.memory_used;
    return found;
}

bool hy_parser_is_reserved(struct hy_string name)
{
    static const char *const words[] = {"and",  "or",    "not",   "in",   "is",   "if",  "else",
                                        "true", "false", "none",  "True", "False", "None",
                                        "loop", "self",  "super", "varargs", "kwargs"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (is_text(name, words[i]))
            return true;
    return false;
}

/* ------------------------------------------------------------- statements */

/* What a list of statements ends with; NULLs behind. */
struct terminators {
    const char *names[3];
};

static hymba_status parse_statements(struct hy_parser *parser, struct terminators terminators,
                                     struct hy_node **list);

/* The variable after "set" or "for". */
static hymba_status parse_target(struct hy_parser *parser, struct hy_node *node)
{
    if (!hy_parser_at(parser, HY_TOKEN_NAME))
        return hy_parser_unexpected(parser, "the name of a variable");
    node->string = parser->token.text;
    if (hy_parser_is_reserved(node->string))
        return hy_parser_unexpected(parser, "the name of a variable");
    if (hy_template_callable(HY_CALLABLE_FUNCTION, node->string))
        return hy_parser_unsupported(parser, parser->token.position, "variable", node->string);
    hymba_status status = hy_parser_advance(parser);
    if (status)
        return status;
    struct hy_string nothing = {"", 0};
    if (hy_parser_at(parser, HY_TOKEN_COMMA))
        return hy_parser_unsupported(parser, parser->token.position,
                                     "assignment to several variables", nothing);
    if (hy_parser_at(parser, HY_TOKEN_DOT))
        return hy_parser_unsupported(parser, parser->token.position, "assignment to a member of",
                                     node->string);
    return HYMBA_OK;
}

static hymba_status refuse_tuple(struct hy_parser *parser)
{
    struct hy_string comma = {",", 1};
    return hy_parser_at(parser, HY_TOKEN_COMMA)
               ? hy_parser_unsupported(parser, parser->token.position, "tuple with", comma)
               : HYMBA_OK;
}

/* Up to and with the block's end; statements begin behind it. */
static hymba_status end_tag(struct hy_parser *parser)
{
    hymba_status status = refuse_tuple(parser);
    return status ? status : hy_parser_expect(parser, HY_TOKEN_BLOCK_END);
}

/* "if" or "elif", its condition and its statements. */
static hymba_status parse_branch(struct hy_parser *parser, bool is_else, struct hy_node **branch)
{
    static const struct terminators with_else = {{"elif", "else", "endif"}}, last = {{"endif"}};
    *branch = hy_parser_node(parser, HY_NODE_BRANCH, parser->token.position);
    if (!*branch)
        return parser->template->status;
    hymba_status status = hy_parser_advance(parser);
    if (!status && !is_else)
        status = hy_parser_condition(parser, &(*branch)->first);
    if (!status)
        status = end_tag(parser);
    if (!status)
        status = parse_statements(parser, is_else ? last : with_else, &(*branch)->second);
    return status;
}

/* At "if"; afterwards behind "endif". */
static hymba_status parse_if(struct hy_parser *parser, struct hy_node **statement)
{
    struct hy_node *node = hy_parser_node(parser, HY_NODE_IF, parser->token.position);
    if (!node)
        return parser->template->status;
    struct hy_node **branch = &node->first;
    hymba_status status = HYMBA_OK;
    do {
        status = parse_branch(parser, hy_parser_at_name(parser, "else"), branch);
        branch = *branch ? &(*branch)->next : branch;
    } while (!status && !hy_parser_at_name(parser, "endif"));
    *statement = node;
    return status ? status : hy_parser_advance(parser);
}

static hymba_status refuse_loop_options(struct hy_parser *parser)
{
    if (hy_parser_at_name(parser, "if") || hy_parser_at_name(parser, "recursive"))
        return hy_parser_unsupported(parser, parser->token.position, "for loop with",
                                     parser->token.text);
    return HYMBA_OK;
}

/* At "for"; afterwards behind "endfor". */
static hymba_status parse_for(struct hy_parser *parser, struct hy_node **statement)
{
    static const struct terminators with_else = {{"else", "endfor"}}, last = {{"endfor"}};
    struct hy_node *node = hy_parser_node(parser, HY_NODE_FOR, parser->token.position);
    *statement = node;
    if (!node)
        return parser->template->status;
    hymba_status status = hy_parser_advance(parser);
    if (!status)
        status = parse_target(parser, node);
    if (!status && !hy_parser_at_name(parser, "in"))
        return hy_parser_unexpected(parser, "'in'");
    if (!status)
        status = hy_parser_advance(parser);
    if (!status)
        status = hy_parser_condition(parser, &node->first);
    if (!status)
        status = refuse_loop_options(parser);
    if (!status)
        status = end_tag(parser);
    if (!status)
        status = parse_statements(parser, with_else, &node->second);
    if (!status && hy_parser_at_name(parser, "else")) {
        status = hy_parser_advance(parser);
        if (!status)
            status = end_tag(parser);
        if (!status)
            status = parse_statements(parser, last, &node->third);
    }
    return status ? status : hy_parser_advance(parser);
}

/* At "set"; afterwards behind its expression. */
static hymba_status parse_set(struct hy_parser *parser, struct hy_node **statement)
{
    struct hy_string end = {"endset", 6};
    struct hy_node *node = hy_parser_node(parser, HY_NODE_SET, parser->token.position);
    *statement = node;
    if (!node)
        return parser->template->status;
    hymba_status status = hy_parser_advance(parser);
    if (!status)
        status = parse_target(parser, node);
    if (!status && (hy_parser_at(parser, HY_TOKEN_BLOCK_END) ||
                    hy_parser_at(parser, HY_TOKEN_PIPE)))
        return hy_parser_unsupported(parser, node->position, "set block up to", end);
    if (!status)
        status = hy_parser_expect(parser, HY_TOKEN_ASSIGN);
    return status ? status : hy_parser_expression(parser, &node->first);
}

/* At the tag's name. */
static hymba_status parse_tag(struct hy_parser *parser, struct hy_node **statement)
{
    static const char *const misplaced[] = {"elif", "else", "endif", "endfor"};
    hymba_status status;
    if (!hy_parser_at(parser, HY_TOKEN_NAME))
        return hy_parser_unexpected(parser, "the name of a tag");
    for (size_t i = 0; i < sizeof misplaced / sizeof *misplaced; i++)
        if (hy_parser_at_name(parser, misplaced[i]))
            return hy_parser_unexpected(parser, "a tag that may stand here");
    if (hy_parser_at_name(parser, "if"))
        status = parse_if(parser, statement);
    else if (hy_parser_at_name(parser, "for"))
        status = parse_for(parser, statement);
    else if (hy_parser_at_name(parser, "set"))
        status = parse_set(parser, statement);
    else
        return hy_parser_unsupported(parser, parser->token.position, "tag", parser->token.text);
    return status ? status : end_tag(parser);
}

/* At "{{". */
static hymba_status parse_print(struct hy_parser *parser, struct hy_node **statement)
{
    struct hy_node *node = hy_parser_node(parser, HY_NODE_PRINT, parser->token.position);
    *statement = node;
    if (!node)
        return parser->template->status;
    hymba_status status = hy_parser_advance(parser);
    if (!status)
        status = hy_parser_expression(parser, &node->first);
    if (!status)
        status = refuse_tuple(parser);
    return status ? status : hy_parser_expect(parser, HY_TOKEN_PRINT_END);
}

static hymba_status parse_data(struct hy_parser *parser, struct hy_node **statement)
{
    struct hy_node *node = hy_parser_node(parser, HY_NODE_DATA, parser->token.position);
    *statement = node;
    if (!node)
        return parser->template->status;
    node->string = parser->token.text;
    return hy_parser_advance(parser);
}

static bool at_terminator(const struct hy_parser *parser, const struct terminators *terminators)
{
    for (size_t i = 0; i < sizeof terminators->names / sizeof *terminators->names; i++)
        if (terminators->names[i] && hy_parser_at_name(parser, terminators->names[i]))
            return true;
    return false;
}

/* Statements up to the name of a tag that ends them, or, without terminators, the source's end. */
static hymba_status parse_statements(struct hy_parser *parser, struct terminators terminators,
                                     struct hy_node **list)
{
    hymba_status status = hy_parser_enter(parser);
    while (!status) {
        if (hy_parser_at(parser, HY_TOKEN_END)) {
            if (terminators.names[0])
                status = hy_parser_unexpected(parser, "the end of a block");
            break;
        }
        if (hy_parser_at(parser, HY_TOKEN_DATA)) {
            status = parse_data(parser, list);
        } else if (hy_parser_at(parser, HY_TOKEN_PRINT_BEGIN)) {
            status = parse_print(parser, list);
        } else {
            status = hy_parser_expect(parser, HY_TOKEN_BLOCK_BEGIN);
            if (!status && at_terminator(parser, &terminators))
                break;
            if (!status)
                status = parse_tag(parser, list);
        }
        if (!status)
            list = &(*list)->next;
    }
    parser->depth--;
    return status;
}

hymba_status hy_template_parse(struct hy_template *template, struct hy_node **statements)
{
    struct hy_parser parser = {.template = template};
    struct terminators none = {{NULL}};
    *statements = NULL;
    hy_lexer_init(&parser.lexer, template);
    hymba_status status = hy_parser_advance(&parser);
    return status ? status : parse_statements(&parser, none, statements);
}
