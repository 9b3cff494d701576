/* What a tokenizer must bear once it is open; used by both targets that read one. */
#ifndef FUZZ_TOKENIZER_H
#define FUZZ_TOKENIZER_H

#include "fuzz.h"

/* Opens a tokenizer from files (each may be of no bytes: not given), encodes and decodes. */
void fuzz_tokenizer(const uint8_t *model, size_t model_size, const uint8_t *json,
                    size_t json_size, const uint8_t *config, size_t config_size);

#endif
