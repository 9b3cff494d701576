/* String literals of a template. */
#ifndef HY_TEXT_TEMPLATE_STRING_H
#define HY_TEXT_TEMPLATE_STRING_H

#include "text/template.h"

/*
 * What the text between the quotes of a literal stands for, by Python's "unicode-escape". position
 * is its place in the source. The result is NUL-terminated.
 */
hymba_status hy_template_unescape(struct hy_template *template, struct hy_string raw,
                                  size_t position, struct hy_string *result);

#endif
