/* The filters, tests, methods and functions that templates may use. */
#ifndef HY_TEXT_TEMPLATE_CALLABLE_H
#define HY_TEXT_TEMPLATE_CALLABLE_H

#include "text/growing_text.h"
#include "text/template_node.h"

enum hy_callable_kind {
    HY_CALLABLE_FILTER,
    HY_CALLABLE_TEST,
    HY_CALLABLE_METHOD,
    HY_CALLABLE_FUNCTION
};

struct hy_template_call {
    struct hy_template *template;
    const struct hy_template_callable *callable;
    size_t position;
    struct hy_value subject; /* what it applies to; undefined for functions */
    struct hy_value arguments[HY_TEMPLATE_MAX_ARGUMENTS];
    bool given[HY_TEMPLATE_MAX_ARGUMENTS];
};

struct hy_template_callable {
    const char *name;
    int least, most; /* arguments */
    const char *keywords[HY_TEMPLATE_MAX_ARGUMENTS]; /* NULL: only by place */
    hymba_status (*apply)(const struct hy_template_call *call, struct hy_value *result);
};

/* NULL if there is none with this name. */
const struct hy_template_callable *hy_template_callable(enum hy_callable_kind kind,
                                                        struct hy_string name);

/* "filter", "test", ... */
const char *hy_callable_kind_name(enum hy_callable_kind kind);

#endif
