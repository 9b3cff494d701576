/* Choosing the next token from a row of logits. */
#ifndef HY_TEXT_SAMPLER_H
#define HY_TEXT_SAMPLER_H

#include "base/memory.h"

/* params is complete (a full struct of this library's size); what it points to is copied. */
hymba_status hy_sampler_create(const hymba_sampler_params *params, const hymba_host *host,
                               hymba_sampler **sampler, hymba_error *error);
hymba_sampler *hy_sampler_retain(hymba_sampler *sampler);
void hy_sampler_release(hymba_sampler *sampler);
void hy_sampler_reset(hymba_sampler *sampler);
hymba_status hy_sampler_accept(hymba_sampler *sampler, int32_t token, hymba_error *error);
hymba_status hy_sampler_sample(hymba_sampler *sampler, const float *logits, size_t n_logits,
                               int32_t *token, hymba_error *error);

/*
 * hy_sampler_sample in two halves, between which a caller may still fail: choose finds the token,
 * take gives it and accepts it, which cannot fail. What was chosen and not taken is forgotten.
 */
hymba_status hy_sampler_choose(hymba_sampler *sampler, const float *logits, size_t n_logits,
                               hymba_error *error);
int32_t hy_sampler_take(hymba_sampler *sampler);

/* Marks the sampler, and tells the mark; of a batch, where it may stand once. */
void hy_sampler_mark(hymba_sampler *sampler, size_t mark);
size_t hy_sampler_marked(const hymba_sampler *sampler);

/* Takes the sampler for a request of a scheduler; false if another one has it. Any thread. */
bool hy_sampler_claim(hymba_sampler *sampler);
void hy_sampler_disclaim(hymba_sampler *sampler);

/* The first half with a token that a device has chosen by hy_sampler_plan_row. */
hymba_status hy_sampler_choose_token(hymba_sampler *sampler, int32_t token, hymba_error *error);

/*
 * The whole sampler as bytes, and back: parameters, accepted tokens, random numbers. UNSUPPORTED
 * for one with a stage of the caller's own. The bytes are not trusted when they are read.
 */
hymba_status hy_sampler_state_size(const hymba_sampler *sampler, size_t *size, hymba_error *error);
void hy_sampler_write_state(const hymba_sampler *sampler, unsigned char *state);
hymba_status hy_sampler_read_state(const unsigned char *state, size_t size,
                                   const hymba_host *host, hymba_sampler **sampler,
                                   hymba_error *error);

#endif
