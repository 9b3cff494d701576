/* How fast a context multiplies when all operands lie in its caches. */
#ifndef HY_RUN_MEASURE_H
#define HY_RUN_MEASURE_H

#include "run/context.h"

/* *rate: floating-point or integer operations per second, two for each multiply-add, of products as
 * the model's projections take them. */
hymba_status hy_context_measure_products(hymba_context *context, double *rate,
                                         hymba_error *error);

#endif
