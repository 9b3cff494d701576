/* Finding the literal text of special tokens in a text. */
#ifndef HY_TEXT_SPECIAL_TOKENS_H
#define HY_TEXT_SPECIAL_TOKENS_H

#include "text/vocabulary.h"

struct hy_special_tokens {
    bool begins[256];                          /* whether a special token begins with this byte */
    bool has_length[HY_PIECE_MAX_LENGTH + 1];  /* whether one has this many bytes */
    size_t longest;
};

/* Collects the special tokens (the unknown piece is one too) of a finished vocabulary. */
void hy_special_tokens_collect(struct hy_special_tokens *specials,
                               const struct hy_vocabulary *vocabulary);

/*
 * The first special token in text, the longest one where several begin: its id, with *begin and
 * *size set. -1 if there is none.
 */
int32_t hy_special_tokens_find(const struct hy_special_tokens *specials,
                               const struct hy_vocabulary *vocabulary, const char *text,
                               size_t length, size_t *begin, size_t *size);

#endif
