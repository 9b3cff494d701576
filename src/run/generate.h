/* Generation: a pull iterator that samples, decodes and turns tokens into text. */
#ifndef HY_RUN_GENERATE_H
#define HY_RUN_GENERATE_H

#include "run/decode.h"
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

/*
 * The same in pieces, for whoever decodes for several generations at once. A generation may be
 * prepared before its session has the prompt, and begins once it has the logits of its last token.
 */
hymba_status hy_generation_prepare(hymba_session *session, hymba_sampler *sampler,
                                   hymba_tokenizer *tokenizer,
                                   const hymba_generation_params *params,
                                   hymba_generation **generation, hymba_error *error);
hymba_status hy_generation_begin(hymba_generation *generation, hymba_error *error);

/* Has an item, which ends with the token before the next event, give what that is made of. */
void hy_generation_ask(hymba_generation *generation, struct hy_item *item);

/* What must be decoded before the next event: one token, which stays where it is until
 * hy_generation_appended says that it is in the session. False: nothing. */
bool hy_generation_item(hymba_generation *generation, struct hy_item *item);
void hy_generation_appended(hymba_generation *generation);

/* The next event after that. */
hymba_status hy_generation_event(hymba_generation *generation, hymba_event *event,
                                 hymba_error *error);

/* The end, for a reason that the generation does not know. */
hymba_status hy_generation_end(hymba_generation *generation, int32_t stop, hymba_event *event,
                               hymba_error *error);

/* Gives out, after an error, the text that was held back. */
void hy_generation_give_held(hymba_generation *generation, hymba_event *event);

/* Releases session, sampler and stream before the generation itself, which then only keeps what
 * its last event pointed to. */
void hy_generation_let_go(hymba_generation *generation);

#endif
