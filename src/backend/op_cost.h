/* What an op must move and compute, counted from its arguments. */
#ifndef HY_BACKEND_OP_COST_H
#define HY_BACKEND_OP_COST_H

#include "backend/observer.h"

/*
 * bytes: every array read or written once, caches as far as some row sees them; neighbours in a
 * batch that share a span of keys read it once. operations: additions, multiplications, divisions
 * and special functions, one each.
 */
struct hy_op_cost {
    double bytes, operations;
};

struct hy_op_cost hy_op_cost(enum hy_op op, const void *args, size_t rows);

#endif
