/* Generation: a pull iterator that samples, decodes and turns tokens into text. */
#ifndef HY_RUN_GENERATE_H
#define HY_RUN_GENERATE_H

#include "run/session.h"
#include "text/sampler.h"

/* params is complete; the generation holds session, sampler and tokenizer (which may be NULL). */
hymba_status hy_generation_create(hymba_session *session, hymba_sampler *sampler,
                                  hymba_tokenizer *tokenizer,
                                  const hymba_generation_params *params,
                                  hymba_generation **generation, hymba_error *error);
void hy_generation_release(hymba_generation *generation);

/* Runs inside hy_context_enter of the session's context. */
hymba_context *hy_generation_context(const hymba_generation *generation);
hymba_status hy_generation_next(hymba_generation *generation, hymba_event *event,
                                hymba_error *error);
void hy_generation_cancel(hymba_generation *generation);

#endif
