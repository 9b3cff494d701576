/* Reading tokenizer.json: the same kind of tokenizer, with its merges written out. */
#ifndef HY_TEXT_TOKENIZER_JSON_H
#define HY_TEXT_TOKENIZER_JSON_H

#include "text/merge_table.h"
#include "text/vocabulary.h"

/*
 * Fills an empty vocabulary and an empty table of merges. *bos is the token that the file puts
 * before a text (*adds_bos), else "<s>" if that is special; *eos is "</s>" if that is; else -1.
 * On failure both hold what was read; clear them.
 */
hymba_status hy_tokenizer_json_read(const struct hy_file *file, struct hy_vocabulary *vocabulary,
                                    struct hy_merge_table *merges, int32_t *bos, int32_t *eos,
                                    bool *adds_bos, hymba_error *error);

#endif
