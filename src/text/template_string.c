#include "text/template_string.h"

#include <string.h>

#include "text/utf8.h"

/* The literal's text as it is read and written. */
struct literal {
    struct hy_template *template;
    struct hy_string raw;
    size_t position; /* of raw in the source */
    size_t at;       /* the next byte of raw */
    char *output;
    size_t length;
};

static int digit_value(char byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    if (byte >= 'a' && byte <= 'f')
        return byte - 'a' + 10;
    if (byte >= 'A' && byte <= 'F')
        return byte - 'A' + 10;
    return 16;
}

/* Up to most digits; returns how many. */
static int take_digits(struct literal *literal, int base, int most, int32_t *value)
{
    int count = 0;
    *value = 0;
    while (count < most && literal->at < literal->raw.length) {
        int digit = digit_value(literal->raw.data[literal->at]);
        if (digit >= base)
            break;
        *value = *value > 0x10FFFF ? *value : *value * base + digit;
        literal->at++;
        count++;
    }
    return count;
}

static hymba_status put_character(struct literal *literal, size_t escape, int32_t character)
{
    if (character > 0x10FFFF)
        return hy_template_fail(literal->template, HYMBA_ERROR_FORMAT,
                                literal->position + escape, "the escape is no character");
    if (character >= 0xD800 && character <= 0xDFFF)
        return hy_template_fail(literal->template, HYMBA_ERROR_UNSUPPORTED,
                                literal->position + escape,
                                "half characters (surrogates) are not supported");
    literal->length += hy_utf8_encode(character, literal->output + literal->length);
    return HYMBA_OK;
}

static hymba_status take_coded(struct literal *literal, size_t escape, int base, int digits,
                               bool all)
{
    int32_t character;
    int count = take_digits(literal, base, digits, &character);
    if (all && count != digits)
        return hy_template_fail(literal->template, HYMBA_ERROR_FORMAT,
                                literal->position + escape, "the escape needs %d digits", digits);
    return put_character(literal, escape, character);
}

static hymba_status take_escape(struct literal *literal)
{
    static const char simple[] = "\\'\"abfnrtv", meaning[] = "\\'\"\a\b\f\n\r\t\v";
    size_t escape = literal->at++;
    char kind = literal->raw.data[literal->at]; /* the lexer saw to it that there is one */
    const char *found = kind ? strchr(simple, kind) : NULL;
    if (found) {
        literal->output[literal->length++] = meaning[found - simple];
        literal->at++;
        return HYMBA_OK;
    }
    if (kind >= '0' && kind <= '7')
        return take_coded(literal, escape, 8, 3, false);
    literal->at++;
    switch (kind) {
    case '\n':
        return HYMBA_OK;
    case 'x':
        return take_coded(literal, escape, 16, 2, true);
    case 'u':
        return take_coded(literal, escape, 16, 4, true);
    case 'U':
        return take_coded(literal, escape, 16, 8, true);
    case 'N':
        return hy_template_fail(literal->template, HYMBA_ERROR_UNSUPPORTED,
                                literal->position + escape,
                                "the escape \\N{...} is not supported");
    }
    /* Jinja turns a character that is not ASCII into an escape before it resolves escapes, so
     * that a backslash before one garbles it. */
    if ((unsigned char)kind >= 0x80)
        return hy_template_fail(literal->template, HYMBA_ERROR_UNSUPPORTED,
                                literal->position + escape,
                                "a backslash before a character that is not ASCII is not "
                                "supported");
    literal->output[literal->length++] = '\\';
    literal->output[literal->length++] = kind;
    return HYMBA_OK;
}

hymba_status hy_template_unescape(struct hy_template *template, struct hy_string raw,
                                  size_t position, struct hy_string *result)
{
    struct literal literal = {.template = template, .raw = raw, .position = position};
    hymba_status status = HYMBA_OK;
    /* No escape is shorter than what it stands for: \200 is the tightest. */
    literal.output = hy_template_alloc(template, raw.length + 1, position);
    if (!literal.output)
        return template->status;
    while (literal.at < raw.length && !status) {
        if (raw.data[literal.at] == '\\')
            status = take_escape(&literal);
        else
            literal.output[literal.length++] = raw.data[literal.at++];
    }
    literal.output[literal.length] = '\0';
    *result = (struct hy_string){literal.output, literal.length};
    return status;
}
