/* The logits of a step's rows: who wants them, and the tokens sampled from them. */
#ifndef HY_RUN_STEP_LOGITS_H
#define HY_RUN_STEP_LOGITS_H

#include "run/decode.h"

/* log softmax(logits)[token] */
float hy_step_log_probability(const float *logits, size_t n, int32_t token);

/* Room for hy_step_logits of a call with these items. */
hymba_status hy_step_logits_reserve(hymba_context *context, const struct hy_item *items, size_t n,
                                    hymba_error *error);
void hy_sampling_free(struct hy_memory *memory, struct hy_sampling *sampling);

/*
 * After hy_forward, for the n sequences of the step in context->lists: brings the logits to where
 * the items want them, and chooses the tokens of those that end here (hy_sampler_choose). On a
 * plug-in's device only logits that are wanted leave it. An item whose token cannot be chosen is
 * error->position.
 */
hymba_status hy_step_logits(hymba_context *context, const struct hy_item *items, size_t n,
                            hymba_error *error);

#endif
