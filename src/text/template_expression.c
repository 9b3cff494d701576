/* The parser's part for operators; the levels of precedence are Jinja's. */
#include "text/template_parser.h"

/* A binary operator, or none of its level: then the token ends the level. */
struct operator {
    enum hy_token_kind token;
    enum hy_node_kind node;
};

/* Operands joined by operators of one level, from left to right. operators ends with END. */
static hymba_status parse_level(struct hy_parser *parser, const struct operator *operators,
                                hymba_status (*operand)(struct hy_parser *, struct hy_node **),
                                struct hy_node **node)
{
    hymba_status status = operand(parser, node);
    while (!status) {
        const struct operator *found = operators;
        size_t position = parser->token.position;
        while (found->token != HY_TOKEN_END && !hy_parser_at(parser, found->token))
            found++;
        if (found->token == HY_TOKEN_END)
            break;
        status = hy_parser_wrap(parser, found->node, position, node);
        if (!status)
            status = hy_parser_advance(parser);
        if (!status)
            status = operand(parser, &(*node)->second);
        if (!status)
            status = hy_parser_adopt(parser, *node, (*node)->second);
    }
    return status;
}

static hymba_status parse_product(struct hy_parser *parser, struct hy_node **node)
{
    static const struct operator operators[] = {{HY_TOKEN_STAR, HY_NODE_MULTIPLY},
                                                {HY_TOKEN_FLOOR, HY_NODE_FLOOR},
                                                {HY_TOKEN_PERCENT, HY_NODE_REMAINDER},
                                                {HY_TOKEN_END, HY_NODE_DATA}};
    hymba_status status = parse_level(parser, operators, hy_parser_operand, node);
    if (!status && (hy_parser_at(parser, HY_TOKEN_SLASH) || hy_parser_at(parser, HY_TOKEN_POWER)))
        return hy_template_fail(parser->template, HYMBA_ERROR_UNSUPPORTED, parser->token.position,
                                "the operator %s is not supported",
                                hy_token_kind_name(parser->token.kind));
    return status;
}

static hymba_status parse_joined(struct hy_parser *parser, struct hy_node **node)
{
    static const struct operator operators[] = {{HY_TOKEN_TILDE, HY_NODE_JOIN},
                                                {HY_TOKEN_END, HY_NODE_DATA}};
    return parse_level(parser, operators, parse_product, node);
}

static hymba_status parse_sum(struct hy_parser *parser, struct hy_node **node)
{
    static const struct operator operators[] = {{HY_TOKEN_PLUS, HY_NODE_ADD},
                                                {HY_TOKEN_MINUS, HY_NODE_SUBTRACT},
                                                {HY_TOKEN_END, HY_NODE_DATA}};
    return parse_level(parser, operators, parse_joined, node);
}

/* The comparison that stands here; false if there is none. */
static bool at_comparison(const struct hy_parser *parser, enum hy_node_kind *kind)
{
    static const struct operator operators[] = {{HY_TOKEN_EQUAL, HY_NODE_EQUAL},
                                                {HY_TOKEN_NOT_EQUAL, HY_NODE_NOT_EQUAL},
                                                {HY_TOKEN_LESS, HY_NODE_LESS},
                                                {HY_TOKEN_LESS_EQUAL, HY_NODE_LESS_EQUAL},
                                                {HY_TOKEN_MORE, HY_NODE_MORE},
                                                {HY_TOKEN_MORE_EQUAL, HY_NODE_MORE_EQUAL}};
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        *kind = operators[i].node;
        if (hy_parser_at(parser, operators[i].token))
            return true;
    }
    *kind = hy_parser_at_name(parser, "in") ? HY_NODE_IN : HY_NODE_NOT_IN;
    return *kind == HY_NODE_IN ||
           (hy_parser_at_name(parser, "not") && hy_parser_next_is(parser, HY_TOKEN_NAME, "in"));
}

static hymba_status parse_comparison(struct hy_parser *parser, struct hy_node **node)
{
    enum hy_node_kind kind;
    hymba_status status = parse_sum(parser, node);
    if (status || !at_comparison(parser, &kind))
        return status;
    status = hy_parser_wrap(parser, HY_NODE_COMPARE, parser->token.position, node);
    for (struct hy_node **part = &(*node)->second; !status && at_comparison(parser, &kind);
         part = &(*part)->next) {
        *part = hy_parser_node(parser, kind, parser->token.position);
        if (!*part)
            return parser->template->status;
        status = hy_parser_advance(parser);
        if (!status && kind == HY_NODE_NOT_IN)
            status = hy_parser_advance(parser);
        if (!status)
            status = parse_sum(parser, &(*part)->first);
        if (!status)
            status = hy_parser_adopt(parser, *node, (*part)->first);
    }
    return status;
}

static hymba_status parse_not(struct hy_parser *parser, struct hy_node **node)
{
    size_t position = parser->token.position;
    if (!hy_parser_at_name(parser, "not"))
        return parse_comparison(parser, node);
    hymba_status status = hy_parser_enter(parser);
    if (!status)
        status = hy_parser_advance(parser);
    if (!status)
        status = parse_not(parser, node);
    parser->depth--;
    return status ? status : hy_parser_wrap(parser, HY_NODE_NOT, position, node);
}

/* Operands joined by a word, from left to right. */
static hymba_status parse_words(struct hy_parser *parser, const char *word, enum hy_node_kind kind,
                                hymba_status (*operand)(struct hy_parser *, struct hy_node **),
                                struct hy_node **node)
{
    hymba_status status = operand(parser, node);
    while (!status && hy_parser_at_name(parser, word)) {
        status = hy_parser_wrap(parser, kind, parser->token.position, node);
        if (!status)
            status = hy_parser_advance(parser);
        if (!status)
            status = operand(parser, &(*node)->second);
        if (!status)
            status = hy_parser_adopt(parser, *node, (*node)->second);
    }
    return status;
}

static hymba_status parse_and(struct hy_parser *parser, struct hy_node **node)
{
    return parse_words(parser, "and", HY_NODE_AND, parse_not, node);
}

hymba_status hy_parser_condition(struct hy_parser *parser, struct hy_node **node)
{
    return parse_words(parser, "or", HY_NODE_OR, parse_and, node);
}

/* At "if". */
static hymba_status parse_choice(struct hy_parser *parser, struct hy_node **node)
{
    hymba_status status = hy_parser_wrap(parser, HY_NODE_CHOICE, parser->token.position, node);
    struct hy_node *choice = *node;
    if (!status)
        status = hy_parser_advance(parser);
    if (!status)
        status = hy_parser_condition(parser, &choice->second);
    if (!status)
        status = hy_parser_adopt(parser, choice, choice->second);
    if (status || !hy_parser_at_name(parser, "else"))
        return status;
    status = hy_parser_advance(parser);
    if (!status)
        status = hy_parser_expression(parser, &choice->third);
    return status ? status : hy_parser_adopt(parser, choice, choice->third);
}

hymba_status hy_parser_expression(struct hy_parser *parser, struct hy_node **node)
{
    hymba_status status = hy_parser_enter(parser);
    if (!status)
        status = hy_parser_condition(parser, node);
    while (!status && hy_parser_at_name(parser, "if"))
        status = parse_choice(parser, node);
    parser->depth--;
    return status;
}
