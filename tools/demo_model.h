/*
 * The demo model, which lies in the command's own file.
 */
#ifndef TOOLS_DEMO_MODEL_H
#define TOOLS_DEMO_MODEL_H

#include "hymba.h"

/* Opens the demo model in place. */
hymba_status demo_model_open(const hymba_model_params *params, hymba_model **model,
                             hymba_error *error);

#endif
