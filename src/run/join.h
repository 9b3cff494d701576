/* How a context becomes one of several ranks. */
#ifndef HY_RUN_JOIN_H
#define HY_RUN_JOIN_H

#include <stdbool.h>

#include "base/status.h"

struct hy_ranks;

/* Whether there are other ranks; ranks may be NULL. */
bool hy_ranks_are_several(const hymba_ranks *ranks);

/* ARGUMENT or UNSUPPORTED unless a context with these parameters can be such a rank; how it would
 * find the others is not looked at. */
hymba_status hy_ranks_check(const hymba_context_params *params, hymba_error *error);

/* ARGUMENT unless there is a way to find the others. */
hymba_status hy_ranks_check_meeting(const hymba_ranks *ranks, hymba_error *error);

/* What is known before the others are. */
void hy_ranks_set(struct hy_ranks *own, const hymba_ranks *ranks);

#endif
