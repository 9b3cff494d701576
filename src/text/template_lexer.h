/*
 * Tokens of a template: stretches of literal text, and what stands inside {{ }} and {% %}. White
 * space is controlled here, with Jinja's options trim_blocks and lstrip_blocks on. Comments give
 * no token.
 */
#ifndef HY_TEXT_TEMPLATE_LEXER_H
#define HY_TEXT_TEMPLATE_LEXER_H

#include "text/template.h"

enum hy_token_kind {
    HY_TOKEN_END, /* of the source */
    HY_TOKEN_DATA,
    HY_TOKEN_PRINT_BEGIN,
    HY_TOKEN_PRINT_END,
    HY_TOKEN_BLOCK_BEGIN,
    HY_TOKEN_BLOCK_END,
    HY_TOKEN_NAME,
    HY_TOKEN_INTEGER,
    HY_TOKEN_STRING,
    HY_TOKEN_PLUS,
    HY_TOKEN_MINUS,
    HY_TOKEN_STAR,
    HY_TOKEN_POWER,
    HY_TOKEN_SLASH,
    HY_TOKEN_FLOOR,
    HY_TOKEN_PERCENT,
    HY_TOKEN_TILDE,
    HY_TOKEN_EQUAL,
    HY_TOKEN_NOT_EQUAL,
    HY_TOKEN_LESS,
    HY_TOKEN_LESS_EQUAL,
    HY_TOKEN_MORE,
    HY_TOKEN_MORE_EQUAL,
    HY_TOKEN_ASSIGN,
    HY_TOKEN_DOT,
    HY_TOKEN_COMMA,
    HY_TOKEN_COLON,
    HY_TOKEN_SEMICOLON,
    HY_TOKEN_PIPE,
    HY_TOKEN_LEFT_PARENTHESIS,
    HY_TOKEN_RIGHT_PARENTHESIS,
    HY_TOKEN_LEFT_BRACKET,
    HY_TOKEN_RIGHT_BRACKET,
    HY_TOKEN_LEFT_BRACE,
    HY_TOKEN_RIGHT_BRACE
};

struct hy_token {
    enum hy_token_kind kind;
    size_t position;        /* in the template's source */
    struct hy_string text;  /* of DATA and NAME as it stands; of STRING with escapes resolved */
    int64_t integer;        /* of INTEGER */
};

struct hy_lexer {
    struct hy_template *template;
    size_t position;
    enum hy_token_kind inside; /* PRINT_BEGIN or BLOCK_BEGIN; DATA between the tags */
    size_t brackets;           /* open ones inside the tag */
    bool at_line_start;        /* the last tag took a line end with it, or there was none yet */
};

void hy_lexer_init(struct hy_lexer *lexer, struct hy_template *template);
hymba_status hy_lexer_next(struct hy_lexer *lexer, struct hy_token *token);

/* "'+'", "a name", "the end of the template", ... */
const char *hy_token_kind_name(enum hy_token_kind kind);

#endif
