/* Added tokens, as tokenizer.json and tokenizer_config.json list them. */
#ifndef HY_TEXT_ADDED_TOKENS_H
#define HY_TEXT_ADDED_TOKENS_H

#include "base/json.h"
#include "text/vocabulary.h"

struct hy_added_token {
    int64_t id;
    const hy_json *value; /* an object: content, special, ... */
};

/*
 * Makes the tokens special: one whose id is in the vocabulary must be the piece it says (where
 * may_convert is false, a piece that is special already), the others must continue it without a
 * gap, in any order. file names the document for messages.
 */
hymba_status hy_added_tokens_apply(struct hy_vocabulary *vocabulary,
                                   const struct hy_added_token *tokens, size_t count,
                                   bool may_convert, const char *file, hymba_error *error);

#endif
