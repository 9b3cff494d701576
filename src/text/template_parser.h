/* From a template's source to its syntax tree. Refuses every construct that is not supported. */
#ifndef HY_TEXT_TEMPLATE_PARSER_H
#define HY_TEXT_TEMPLATE_PARSER_H

#include "text/template_lexer.h"
#include "text/template_node.h"

struct hy_parser {
    struct hy_template *template;
    struct hy_lexer lexer;
    struct hy_token token; /* the present one */
    int depth;
};

/* The whole template: *statements is a list. */
hymba_status hy_template_parse(struct hy_template *template, struct hy_node **statements);

/* ---------------------------- shared by the parser's parts: statements and expressions */

hymba_status hy_parser_advance(struct hy_parser *parser);
bool hy_parser_at(const struct hy_parser *parser, enum hy_token_kind kind);
bool hy_parser_at_name(const struct hy_parser *parser, const char *name);

/* Past a token of this kind; an error if another one stands here. */
hymba_status hy_parser_expect(struct hy_parser *parser, enum hy_token_kind kind);

/* "expected ..., found ..." */
hymba_status hy_parser_unexpected(struct hy_parser *parser, const char *expected);

/* "... is not supported", at this place */
hymba_status hy_parser_unsupported(struct hy_parser *parser, size_t position, const char *what,
                                   struct hy_string name);

/* One level deeper; leave with parser->depth--. */
hymba_status hy_parser_enter(struct hy_parser *parser);

/* A new node of this kind at the present token; NULL after a failure. */
struct hy_node *hy_parser_node(struct hy_parser *parser, enum hy_node_kind kind, size_t position);

/* Takes note of an operand: the tree's height bounds the recursion that evaluates it. */
hymba_status hy_parser_adopt(struct hy_parser *parser, struct hy_node *parent,
                             const struct hy_node *child);

/* *node becomes a node of this kind with the former *node first. */
hymba_status hy_parser_wrap(struct hy_parser *parser, enum hy_node_kind kind, size_t position,
                            struct hy_node **node);

/* Whether the next token is of this kind (and this name), without going there. */
bool hy_parser_next_is(const struct hy_parser *parser, enum hy_token_kind kind, const char *name);

/* What operators stand between: with its signs, members, filters and tests. */
hymba_status hy_parser_operand(struct hy_parser *parser, struct hy_node **node);

/* An expression with "a if b else c", or (where the tag goes on with "if") without. */
hymba_status hy_parser_expression(struct hy_parser *parser, struct hy_node **node);
hymba_status hy_parser_condition(struct hy_parser *parser, struct hy_node **node);

/* Whether the token is a name that cannot be a variable: "and", "true", ... */
bool hy_parser_is_reserved(struct hy_string name);

#endif
