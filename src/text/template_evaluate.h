/* The value of an expression. */
#ifndef HY_TEXT_TEMPLATE_EVALUATE_H
#define HY_TEXT_TEMPLATE_EVALUATE_H

#include "text/template_node.h"
#include "text/template_scope.h"

hymba_status hy_template_evaluate(struct hy_template_scope *scope, const struct hy_node *node,
                                  struct hy_value *result);

#endif
