/* How many rows a step is computed with. */
#ifndef HY_RUN_STEP_ROWS_H
#define HY_RUN_STEP_ROWS_H

#include "run/forward.h"

/*
 * The rows of a step that a device can take as one piece of work (device.h, begin_step), which has
 * one row for each of its sequences and keeps no states on the way: their number, rounded up so
 * that few numbers occur while sessions come and go. The rows above are nobody's. 0 for any other
 * step, and on the CPU.
 */
size_t hy_step_rows(const hymba_context *context, const struct hy_step_sequence *sequences,
                    size_t n);

#endif
