/*
 * The tokenizer: SentencePiece BPE with byte fallback (docs/semantics.md, section 11), read from
 * tokenizer.model or tokenizer.json, its special tokens, and the chat template that comes with it.
 */
#ifndef HY_TEXT_TOKENIZER_H
#define HY_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"

/*
 * Builds a tokenizer (one reference) from the content of its files. Exactly one of model and json
 * need be given (model wins); config and the others may be NULL or empty. The contents are copied.
 */
struct hy_tokenizer_files {
    const struct hy_file *model;  /* tokenizer.model */
    const struct hy_file *json;   /* tokenizer.json */
    const struct hy_file *config; /* tokenizer_config.json: added tokens, BOS, chat template */
};
hymba_status hy_tokenizer_create(const struct hymba_host *host,
                                 const struct hy_tokenizer_files *files,
                                 hymba_tokenizer **tokenizer, hymba_error *error);

/*
 * Opens the files of a directory. If it holds no tokenizer, *tokenizer is NULL, and the status is
 * HYMBA_OK when optional is true, else HYMBA_ERROR_FILE.
 */
hymba_status hy_tokenizer_open_directory(const struct hymba_host *host, const char *directory,
                                         bool optional, hymba_tokenizer **tokenizer,
                                         hymba_error *error);

hymba_tokenizer *hy_tokenizer_retain(hymba_tokenizer *tokenizer);
void hy_tokenizer_release(hymba_tokenizer *tokenizer);

uint32_t hy_tokenizer_size(const hymba_tokenizer *tokenizer);
int32_t hy_tokenizer_bos(const hymba_tokenizer *tokenizer);
int32_t hy_tokenizer_eos(const hymba_tokenizer *tokenizer);
bool hy_tokenizer_adds_bos(const hymba_tokenizer *tokenizer);
const char *hy_tokenizer_chat_template(const hymba_tokenizer *tokenizer); /* NULL: none */
struct hy_memory *hy_tokenizer_memory(const hymba_tokenizer *tokenizer);

/* What a token stands for. text is the piece; a byte token has kind BYTE and its value in byte. */
enum hy_piece_kind { HY_PIECE_NORMAL, HY_PIECE_BYTE, HY_PIECE_SPECIAL, HY_PIECE_UNKNOWN };
struct hy_piece {
    const char *text;
    size_t length;
    enum hy_piece_kind kind;
    unsigned char byte;
};
/* id must be inside the vocabulary. */
struct hy_piece hy_tokenizer_piece(const hymba_tokenizer *tokenizer, int32_t id);

/* A growing list of ids. */
struct hy_ids {
    int32_t *data;
    size_t count, capacity;
    struct hy_memory *memory;
};

/* Appends the ids of text to *ids; flags are HYMBA_ENCODE_... */
hymba_status hy_tokenizer_encode(const hymba_tokenizer *tokenizer, const char *text, size_t length,
                                 uint32_t flags, struct hy_ids *ids, hymba_error *error);

/* Writes at most capacity bytes; *needed is the whole length. flags are HYMBA_DECODE_... */
hymba_status hy_tokenizer_decode(const hymba_tokenizer *tokenizer, const int32_t *ids, size_t n_ids,
                                 uint32_t flags, char *buffer, size_t capacity, size_t *needed,
                                 hymba_error *error);

#endif
