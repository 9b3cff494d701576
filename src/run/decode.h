/*
 * Batch decoding: any number of sessions, any number of tokens each, in as many steps as the
 * workspace asks for. All or nothing: everything is reserved first, sessions change last.
 */
#ifndef HY_RUN_DECODE_H
#define HY_RUN_DECODE_H

#include "run/session.h"

struct hy_item {
    hymba_session *session;
    const int32_t *tokens;
    size_t n_tokens;
    int32_t logits;            /* HYMBA_LOGITS_... */
    float *log_probabilities;  /* NULL, or [n_tokens]: how probable each token was; needs the
                                  session's last logits. Unspecified after a failure. */
    hymba_sampler *sampler;    /* NULL, or one that no other item has: the call samples the token
                                  that comes after the last one, */
    int32_t *token;            /* and puts it here */
};

/* The items are checked here, except that sessions and samplers are distinct and sessions
 * of this context. */
hymba_status hy_decode(hymba_context *context, const struct hy_item *items, size_t n,
                       hymba_error *error);

/*
 * An item alone: whether it can be in a batch, and that with memory for it, so that a batch of
 * items that were reserved fails for reasons of its own only. A failed automatic snapshot is one
 * item's reason that shows while the batch runs: error->position is then the item's index.
 */
hymba_status hy_decode_check(hymba_context *context, const struct hy_item *item,
                             hymba_error *error);
hymba_status hy_decode_reserve(hymba_context *context, const struct hy_item *item,
                               hymba_error *error);

/* A list for n items that lives until the next call; kept by the context. */
hymba_status hy_decode_items(hymba_context *context, size_t n, struct hy_item **items,
                             hymba_error *error);

/* Runs the meta tokens into context->meta. */
hymba_status hy_decode_meta(hymba_context *context, hymba_error *error);

#endif
