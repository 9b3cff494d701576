/*
 * Lists of token ids: from files of whitespace-separated numbers, from text, to text.
 */
#ifndef TOOLS_IDS_H
#define TOOLS_IDS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "hymba.h"
#include "input.h"

struct ids {
    int32_t *items; /* from malloc */
    size_t count;
    size_t capacity;
};

void ids_add(struct ids *ids, int32_t id);
void ids_free(struct ids *ids);

/* Each function gives an exit status and has printed the error. */

/* Reads whitespace-separated ids from path ("-": standard input). */
int ids_read(const char *path, struct ids *ids);

/* Fails unless all ids are below the vocabulary's size; path names their origin. */
int ids_check(const struct ids *ids, uint32_t vocabulary_size, const char *path);

/* Encodes text with HYMBA_ENCODE_ flags. about (may be NULL) names the text in messages. */
int ids_encode(const hymba_tokenizer *tokenizer, const char *text, size_t length, uint32_t flags,
               const char *about, struct ids *ids);

/* Decodes ids to bytes, special tokens dropped. */
int ids_decode(const hymba_tokenizer *tokenizer, const struct ids *ids, const char *about,
               struct bytes *bytes);

/* The ids as a JSON array; NULL for lack of memory. */
json_t *ids_to_json(const struct ids *ids);

#endif
