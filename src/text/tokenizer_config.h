/* Reading tokenizer_config.json: added tokens, which tokens begin and end a text, chat template. */
#ifndef HY_TEXT_TOKENIZER_CONFIG_H
#define HY_TEXT_TOKENIZER_CONFIG_H

#include "text/vocabulary.h"

/* What the tokenizer's own file says, before; what is valid in the end, after. */
struct hy_tokenizer_settings {
    int32_t bos, eos; /* -1: none */
    bool adds_bos;
    char *chat_template; /* NULL: none; a block of the vocabulary's memory */
};

/*
 * Adds the added tokens to the vocabulary and changes the settings. Fields that do not change what
 * a text becomes are ignored; those that do, and are not as published, are refused.
 */
hymba_status hy_tokenizer_config_read(const struct hy_file *file, struct hy_vocabulary *vocabulary,
                                      struct hy_tokenizer_settings *settings, hymba_error *error);

#endif
