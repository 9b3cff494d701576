/* Reading tokenizer.model: a SentencePiece BPE model with byte fallback. */
#ifndef HY_TEXT_SENTENCEPIECE_H
#define HY_TEXT_SENTENCEPIECE_H

#include "text/vocabulary.h"

/*
 * Fills an empty vocabulary; the ranks follow the scores. *bos and *eos are the ids of the control
 * pieces the model names, or -1. On failure the vocabulary holds what was read; clear it.
 */
hymba_status hy_sentencepiece_read(const struct hy_file *file, struct hy_vocabulary *vocabulary,
                                   int32_t *bos, int32_t *eos, hymba_error *error);

#endif
