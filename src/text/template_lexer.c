#include "text/template_lexer.h"

#include <string.h>

#include "text/template_string.h"
#include "text/utf8.h"

const char *hy_token_kind_name(enum hy_token_kind kind)
{
    static const char *const names[] = {
        [HY_TOKEN_END] = "the end of the template",
        [HY_TOKEN_DATA] = "text",
        [HY_TOKEN_PRINT_BEGIN] = "'{{'",
        [HY_TOKEN_PRINT_END] = "'}}'",
        [HY_TOKEN_BLOCK_BEGIN] = "'{%'",
        [HY_TOKEN_BLOCK_END] = "'%}'",
        [HY_TOKEN_NAME] = "a name",
        [HY_TOKEN_INTEGER] = "a number",
        [HY_TOKEN_STRING] = "a string",
        [HY_TOKEN_PLUS] = "'+'",
        [HY_TOKEN_MINUS] = "'-'",
        [HY_TOKEN_STAR] = "'*'",
        [HY_TOKEN_POWER] = "'**'",
        [HY_TOKEN_SLASH] = "'/'",
        [HY_TOKEN_FLOOR] = "'//'",
        [HY_TOKEN_PERCENT] = "'%'",
        [HY_TOKEN_TILDE] = "'~'",
        [HY_TOKEN_EQUAL] = "'=='",
        [HY_TOKEN_NOT_EQUAL] = "'!='",
        [HY_TOKEN_LESS] = "'<'",
        [HY_TOKEN_LESS_EQUAL] = "'<='",
        [HY_TOKEN_MORE] = "'>'",
        [HY_TOKEN_MORE_EQUAL] = "'>='",
        [HY_TOKEN_ASSIGN] = "'='",
        [HY_TOKEN_DOT] = "'.'",
        [HY_TOKEN_COMMA] = "','",
        [HY_TOKEN_COLON] = "':'",
        [HY_TOKEN_SEMICOLON] = "';'",
        [HY_TOKEN_PIPE] = "'|'",
        [HY_TOKEN_LEFT_PARENTHESIS] = "'('",
        [HY_TOKEN_RIGHT_PARENTHESIS] = "')'",
        [HY_TOKEN_LEFT_BRACKET] = "'['",
        [HY_TOKEN_RIGHT_BRACKET] = "']'",
        [HY_TOKEN_LEFT_BRACE] = "'{'",
        [HY_TOKEN_RIGHT_BRACE] = "'}'",
    };
    return names[kind];
}

void hy_lexer_init(struct hy_lexer *lexer, struct hy_template *template)
{
    memset(lexer, 0, sizeof *lexer);
    lexer->template = template;
    lexer->inside = HY_TOKEN_DATA;
    lexer->at_line_start = true;
}

/* The character so many bytes ahead; NUL behind the end (and where the source has a NUL). */
static char ahead(const struct hy_lexer *lexer, size_t distance)
{
    size_t left = lexer->template->length - lexer->position;
    return distance < left ? lexer->template->source[lexer->position + distance] : '\0';
}

static bool starts(const struct hy_lexer *lexer, const char *text)
{
    size_t length = strlen(text), left = lexer->template->length - lexer->position;
    return length <= left &&
           memcmp(lexer->template->source + lexer->position, text, length) == 0;
}

static void skip_space(struct hy_lexer *lexer)
{
    struct hy_string rest = {lexer->template->source + lexer->position,
                             lexer->template->length - lexer->position};
    lexer->position += rest.length - hy_python_strip(rest, NULL, true, false).length;
}

/* ------------------------------------------------------ between the tags */

/* The next "{{", "{%" or "{#", or the end. */
static size_t find_tag(const struct hy_lexer *lexer)
{
    const char *source = lexer->template->source;
    size_t length = lexer->template->length;
    for (size_t i = lexer->position; i + 1 < length; i++)
        if (source[i] == '{' && (source[i + 1] == '{' || source[i + 1] == '%' ||
                                 source[i + 1] == '#'))
            return i;
    return length;
}

/*
 * The text before a tag as the tag leaves it: "-" takes all white space away; a block or comment
 * without a sign that has its line to itself up to here takes the spaces before it.
 */
static struct hy_string before_tag(const struct hy_lexer *lexer, size_t tag)
{
    const char *source = lexer->template->source;
    struct hy_string text = {source + lexer->position, tag - lexer->position};
    char sign = tag + 2 < lexer->template->length ? source[tag + 2] : '\0';
    if (sign == '-')
        return hy_python_strip(text, NULL, false, true);
    if (sign == '+' || source[tag + 1] == '{')
        return text;
    size_t line = text.length;
    while (line > 0 && text.data[line - 1] != '\n')
        line--;
    struct hy_string indent = {text.data + line, text.length - line};
    if ((line > 0 || lexer->at_line_start) &&
        hy_python_strip(indent, NULL, true, false).length == 0)
        text.length = line;
    return text;
}

/* Behind the end of a tag that began with this sign, or none. */
static void after_tag(struct hy_lexer *lexer, char sign, bool trims_line)
{
    size_t start = lexer->position;
    if (sign == '-')
        skip_space(lexer);
    else if (sign != '+' && trims_line && ahead(lexer, 0) == '\n')
        lexer->position++;
    lexer->at_line_start =
        lexer->position > start && lexer->template->source[lexer->position - 1] == '\n';
    lexer->inside = HY_TOKEN_DATA;
}

/* Past "{{", "{%" or "{#" and its sign. */
static void enter_tag(struct hy_lexer *lexer)
{
    lexer->position += 2;
    if (ahead(lexer, 0) == '-' || ahead(lexer, 0) == '+')
        lexer->position++;
}

static hymba_status skip_comment(struct hy_lexer *lexer)
{
    const char *source = lexer->template->source;
    size_t start = lexer->position;
    enter_tag(lexer);
    for (size_t text = lexer->position; lexer->position < lexer->template->length;
         lexer->position++) {
        if (!starts(lexer, "#}"))
            continue;
        char sign = lexer->position > text ? source[lexer->position - 1] : '\0';
        lexer->position += 2;
        after_tag(lexer, sign, true);
        return HYMBA_OK;
    }
    return hy_template_fail(lexer->template, HYMBA_ERROR_FORMAT, start,
                            "the comment has no end '#}'");
}

/* Text, or the beginning of a tag. */
static hymba_status next_outside(struct hy_lexer *lexer, struct hy_token *token)
{
    for (;;) {
        size_t tag = find_tag(lexer);
        token->position = lexer->position;
        token->kind = HY_TOKEN_DATA;
        if (tag == lexer->template->length) {
            token->text = (struct hy_string){lexer->template->source + lexer->position,
                                             tag - lexer->position};
            if (!token->text.length)
                token->kind = HY_TOKEN_END;
            lexer->position = tag;
            return HYMBA_OK;
        }
        token->text = before_tag(lexer, tag);
        lexer->position = tag;
        if (token->text.length)
            return HYMBA_OK;
        if (!starts(lexer, "{#"))
            break;
        hymba_status status = skip_comment(lexer);
        if (status)
            return status;
    }
    token->position = lexer->position;
    token->kind = starts(lexer, "{{") ? HY_TOKEN_PRINT_BEGIN : HY_TOKEN_BLOCK_BEGIN;
    lexer->inside = token->kind;
    lexer->brackets = 0;
    enter_tag(lexer);
    return HYMBA_OK;
}

/* ------------------------------------------------------- inside the tags */

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_name_character(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || is_digit(byte) ||
           byte == '_' || (unsigned char)byte >= 0x80;
}

/* The end of the tag the lexer is in; false if it is not here. */
static bool take_tag_end(struct hy_lexer *lexer, struct hy_token *token)
{
    bool is_print = lexer->inside == HY_TOKEN_PRINT_BEGIN;
    char sign = ahead(lexer, 0);
    if (lexer->brackets)
        return false;
    if (sign != '-' && (sign != '+' || is_print))
        sign = '\0';
    size_t length = sign ? 1 : 0;
    if (ahead(lexer, length) != (is_print ? '}' : '%') || ahead(lexer, length + 1) != '}')
        return false;
    lexer->position += length + 2;
    token->kind = is_print ? HY_TOKEN_PRINT_END : HY_TOKEN_BLOCK_END;
    after_tag(lexer, sign, !is_print);
    return true;
}

static hymba_status take_number(struct hy_lexer *lexer, struct hy_token *token)
{
    struct hy_template *template = lexer->template;
    int64_t value = 0;
    bool fits = true, is_zero = ahead(lexer, 0) == '0';
    /* In "x.1.2" the numbers are items of lists. */
    bool is_item = token->position > 0 && template->source[token->position - 1] == '.';
    for (; is_digit(ahead(lexer, 0)); lexer->position++) {
        fits = fits && !__builtin_mul_overflow(value, 10, &value) &&
               !__builtin_add_overflow(value, ahead(lexer, 0) - '0', &value);
        if (is_zero && value != 0)
            return hy_template_fail(template, HYMBA_ERROR_FORMAT, token->position,
                                    "a number must not begin with 0");
    }
    if (!fits)
        return hy_template_fail(template, HYMBA_ERROR_UNSUPPORTED, token->position,
                                "numbers of more than 64 bits are not supported");
    bool has_fraction = !is_item && ahead(lexer, 0) == '.' && is_digit(ahead(lexer, 1));
    if (has_fraction || is_name_character(ahead(lexer, 0)))
        return hy_template_fail(template, HYMBA_ERROR_UNSUPPORTED, token->position,
                                "numbers other than plain integers are not supported");
    token->kind = HY_TOKEN_INTEGER;
    token->integer = value;
    return HYMBA_OK;
}

static hymba_status take_name(struct hy_lexer *lexer, struct hy_token *token)
{
    size_t start = lexer->position;
    bool is_ascii = true;
    for (; is_name_character(ahead(lexer, 0)); lexer->position++)
        is_ascii = is_ascii && (unsigned char)ahead(lexer, 0) < 0x80;
    token->kind = HY_TOKEN_NAME;
    token->text = (struct hy_string){lexer->template->source + start, lexer->position - start};
    if (is_ascii)
        return HYMBA_OK;
    struct hy_string name = hy_template_excerpt(token->text, 60);
    return hy_template_fail(lexer->template, HYMBA_ERROR_UNSUPPORTED, start,
                            "the name '%.*s' has characters other than ASCII, which is not "
                            "supported",
                            (int)name.length, name.data);
}

static hymba_status take_string(struct hy_lexer *lexer, struct hy_token *token)
{
    char quote = ahead(lexer, 0);
    size_t start = ++lexer->position, length = lexer->template->length;
    const char *source = lexer->template->source;
    while (lexer->position < length && source[lexer->position] != quote)
        lexer->position += source[lexer->position] == '\\' ? 2 : 1;
    if (lexer->position >= length) {
        lexer->position = length;
        return hy_template_fail(lexer->template, HYMBA_ERROR_FORMAT, token->position,
                                "the string has no end");
    }
    token->kind = HY_TOKEN_STRING;
    struct hy_string raw = {source + start, lexer->position - start};
    lexer->position++;
    return hy_template_unescape(lexer->template, raw, start, &token->text);
}

static hymba_status take_operator(struct hy_lexer *lexer, struct hy_token *token)
{
    /* The longer ones first. */
    static const struct {
        const char *text;
        enum hy_token_kind kind;
    } operators[] = {
        {"**", HY_TOKEN_POWER},        {"//", HY_TOKEN_FLOOR},
        {"==", HY_TOKEN_EQUAL},        {"!=", HY_TOKEN_NOT_EQUAL},
        {"<=", HY_TOKEN_LESS_EQUAL},   {">=", HY_TOKEN_MORE_EQUAL},
        {"+", HY_TOKEN_PLUS},          {"-", HY_TOKEN_MINUS},
        {"*", HY_TOKEN_STAR},          {"/", HY_TOKEN_SLASH},
        {"%", HY_TOKEN_PERCENT},       {"~", HY_TOKEN_TILDE},
        {"<", HY_TOKEN_LESS},          {">", HY_TOKEN_MORE},
        {"=", HY_TOKEN_ASSIGN},        {".", HY_TOKEN_DOT},
        {",", HY_TOKEN_COMMA},         {":", HY_TOKEN_COLON},
        {";", HY_TOKEN_SEMICOLON},     {"|", HY_TOKEN_PIPE},
        {"(", HY_TOKEN_LEFT_PARENTHESIS}, {")", HY_TOKEN_RIGHT_PARENTHESIS},
        {"[", HY_TOKEN_LEFT_BRACKET},  {"]", HY_TOKEN_RIGHT_BRACKET},
        {"{", HY_TOKEN_LEFT_BRACE},    {"}", HY_TOKEN_RIGHT_BRACE},
    };
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        if (!starts(lexer, operators[i].text))
            continue;
        char first = operators[i].text[0];
        token->kind = operators[i].kind;
        lexer->position += strlen(operators[i].text);
        if (strchr("([{", first))
            lexer->brackets++;
        else if (strchr(")]}", first) && lexer->brackets)
            lexer->brackets--;
        return HYMBA_OK;
    }
    unsigned char byte = (unsigned char)ahead(lexer, 0);
    return hy_template_fail(lexer->template, HYMBA_ERROR_FORMAT, lexer->position,
                            "unexpected byte 0x%02X", byte);
}

static hymba_status next_inside(struct hy_lexer *lexer, struct hy_token *token)
{
    skip_space(lexer);
    token->position = lexer->position;
    if (lexer->position == lexer->template->length) {
        token->kind = HY_TOKEN_END;
        return HYMBA_OK;
    }
    if (take_tag_end(lexer, token))
        return HYMBA_OK;
    char first = ahead(lexer, 0);
    if (is_digit(first))
        return take_number(lexer, token);
    if (is_name_character(first))
        return take_name(lexer, token);
    if (first == '\'' || first == '"')
        return take_string(lexer, token);
    return take_operator(lexer, token);
}

hymba_status hy_lexer_next(struct hy_lexer *lexer, struct hy_token *token)
{
    memset(token, 0, sizeof *token);
    token->position = lexer->position;
    return lexer->inside == HY_TOKEN_DATA ? next_outside(lexer, token)
                                          : next_inside(lexer, token);
}
