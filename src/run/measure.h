/* How fast a context multiplies when all operands lie in its caches, and a device copies. */
#ifndef HY_RUN_MEASURE_H
#define HY_RUN_MEASURE_H

#include "run/context.h"

/* *rate: floating-point or integer operations per second, two for each multiply-add, of products as
 * the model's projections take them. */
hymba_status hy_context_measure_products(hymba_context *context, double *rate,
                                         hymba_error *error);

/* The same on a plug-in's device, with large squares and weights of a type. */
hymba_status hy_context_measure_squares(hymba_context *context, hymba_dtype weights, double *rate,
                                        hymba_error *error);

/* *rate: bytes that a plug-in's device reads and writes per second while it copies one half of so
 * many bytes to the other. */
hymba_status hy_context_measure_bandwidth(hymba_context *context, uint64_t bytes, double *rate,
                                          hymba_error *error);

/* Seconds, from some moment on. */
double hy_measure_now(void);

#endif
