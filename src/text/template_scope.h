/*
 * The variables of a rendering: those given from outside, those that "set" makes, and those of
 * loops. Each turn of a loop is a scope of its own; what is set there is gone at its end.
 */
#ifndef HY_TEXT_TEMPLATE_SCOPE_H
#define HY_TEXT_TEMPLATE_SCOPE_H

#include "text/template_value.h"

struct hy_template_variable {
    struct hy_string name;
    struct hy_value value;
};

struct hy_template_scope {
    struct hy_template *template;
    const hy_json *given;
    struct hy_template_variable *variables;
    size_t count, capacity;
    size_t start; /* where the innermost scope begins */
};

/* The value of a variable, undefined if there is none. */
hymba_status hy_scope_find(struct hy_template_scope *scope, struct hy_string name,
                           size_t position, struct hy_value *value);

/* Sets a variable of the innermost scope. */
hymba_status hy_scope_set(struct hy_template_scope *scope, struct hy_string name, size_t position,
                          const struct hy_value *value);

#endif
