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
};

/* The items are checked here, except that sessions are distinct and of this context. */
hymba_status hy_decode(hymba_context *context, const struct hy_item *items, size_t n,
                       hymba_error *error);

/* A list for n items that lives until the next call; kept by the context. */
hymba_status hy_decode_items(hymba_context *context, size_t n, struct hy_item **items,
                             hymba_error *error);

/* Runs the meta tokens into context->meta. */
hymba_status hy_decode_meta(hymba_context *context, hymba_error *error);

#endif
