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
 * The whole sampler as bytes, and back: parameters, accepted tokens, random numbers. UNSUPPORTED
 * for one with a stage of the caller's own. The bytes are not trusted when they are read.
 */
hymba_status hy_sampler_state_size(const hymba_sampler *sampler, size_t *size, hymba_error *error);
void hy_sampler_write_state(const hymba_sampler *sampler, unsigned char *state);
hymba_status hy_sampler_read_state(const unsigned char *state, size_t size,
                                   const hymba_host *host, hymba_sampler **sampler,
                                   hymba_error *error);

#endif
