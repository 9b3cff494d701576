/* Quantising a model directory: opens it, runs calibration text if the method wants it, writes. */
#ifndef HY_RUN_QUANTISE_H
#define HY_RUN_QUANTISE_H

#include "base/status.h"

/* params is complete. */
hymba_status hy_quantise(const char *input, const char *output,
                         const hymba_quantize_params *params, hymba_error *error);

#endif
