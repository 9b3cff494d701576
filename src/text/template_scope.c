#include "text/template_scope.h"

#include <string.h>

#include "base/checked.h"

enum { FIRST_CAPACITY = 16 };

static struct hy_template_variable *find(const struct hy_template_scope *scope,
                                         struct hy_string name, size_t start)
{
    for (size_t i = scope->count; i > start; i--)
        if (hy_python_equal(scope->variables[i - 1].name, name))
            return &scope->variables[i - 1];
    return NULL;
}

/* Searching costs a step for some variables. */
static hymba_status charge_search(struct hy_template_scope *scope, size_t position)
{
    return hy_template_charge(scope->template, scope->count * 8, position);
}

hymba_status hy_scope_find(struct hy_template_scope *scope, struct hy_string name,
                           size_t position, struct hy_value *value)
{
    const struct hy_template_variable *found = find(scope, name, 0);
    if (!found)
        return hy_value_member(scope->template, scope->given, name, position, value);
    *value = found->value;
    return charge_search(scope, position);
}

/* The former array stays with the template: its size halves each time back. */
static hymba_status grow(struct hy_template_scope *scope, size_t position)
{
    size_t capacity = hy_max_size(2 * scope->capacity, FIRST_CAPACITY);
    struct hy_template_variable *variables =
        hy_template_alloc(scope->template, capacity * sizeof *variables, position);
    if (!variables)
        return scope->template->status;
    if (scope->count)
        memcpy(variables, scope->variables, scope->count * sizeof *variables);
    scope->variables = variables;
    scope->capacity = capacity;
    return HYMBA_OK;
}

hymba_status hy_scope_set(struct hy_template_scope *scope, struct hy_string name, size_t position,
                          const struct hy_value *value)
{
    hymba_status status = charge_search(scope, position);
    struct hy_template_variable *found = find(scope, name, scope->start);
    if (status)
        return status;
    if (!found && scope->count == scope->capacity)
        status = grow(scope, position);
    if (status)
        return status;
    if (!found)
        found = &scope->variables[scope->count++];
    *found = (struct hy_template_variable){name, *value};
    return HYMBA_OK;
}
