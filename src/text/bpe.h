/* Byte-pair encoding of one stretch of text (docs/semantics.md, section 11). */
#ifndef HY_TEXT_BPE_H
#define HY_TEXT_BPE_H

#include "text/merge_table.h"
#include "text/vocabulary.h"

/* More bytes than one stretch of text may have. */
enum { HY_BPE_MAX_TEXT = 1 << 29 };

struct hy_bpe_symbol;
struct hy_bpe_candidate;

/* An encoder: what it works by, and working memory that lasts from stretch to stretch. */
struct hy_bpe {
    struct hy_memory *memory;
    const struct hy_vocabulary *vocabulary;
    const struct hy_merge_table *merges; /* NULL: two pieces merge if their text is a piece */
    char *text;                          /* of the stretch, with its spaces replaced */
    size_t length, text_capacity;
    struct hy_bpe_symbol *symbols; /* of one word */
    size_t n_symbols, symbol_capacity;
    struct hy_bpe_candidate *heap;
    size_t n_candidates;
};

void hy_bpe_begin(struct hy_bpe *bpe, struct hy_memory *memory,
                  const struct hy_vocabulary *vocabulary, const struct hy_merge_table *merges);
void hy_bpe_end(struct hy_bpe *bpe);

/* Appends the ids of a stretch of text; those of an empty one are none. */
hymba_status hy_bpe_encode(struct hy_bpe *bpe, const char *text, size_t length,
                           struct hy_ids *ids, hymba_error *error);

#endif
