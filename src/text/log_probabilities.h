/* How probable logits make their tokens. */
#ifndef HY_TEXT_LOG_PROBABILITIES_H
#define HY_TEXT_LOG_PROBABILITIES_H

#include "base/status.h"

/* ARGUMENT unless there are logits, none is NaN or +infinity, and one is finite. */
hymba_status hy_check_logits(const float *logits, size_t n_logits, hymba_error *error);

/* See hymba_log_probabilities. */
hymba_status hy_log_probabilities(const float *logits, size_t n_logits, int32_t token,
                                  float *log_probability, hymba_token_probability *top,
                                  size_t n_top, hymba_error *error);

#endif
