/*
 * For the tests of hymba chat: the figures it prints, and the conversations it saves. The tokens
 * that a conversation stands on are read from the saved session itself.
 */
#ifndef TEST_CHAT_H
#define TEST_CHAT_H

#include <stdint.h>

#include "command.h"

enum { TOKENS_MOST = 2048 };

/* What /stats prints. */
struct figures {
    unsigned turn;
    uint64_t reused, computed, message, answer, again, length, snapshots;
};

/* The figures printed as number index (0, 1, ...) on stderr. */
struct figures figures_of(const struct result *result, int index);

/* A line of a text, without its end; static storage, valid until the next call. */
const char *nth_line(const char *text, int index);

/* A saved conversation. */
struct saved {
    json_t *transcript;
    int32_t tokens[TOKENS_MOST];
    size_t n_tokens;
    char text[8192]; /* of the tokens, special ones as their text */
};

/* Reads the two files of a conversation with this model. */
void load_saved(const char *model_path, const char *path, struct saved *saved);

/* How often the session holds a token. */
size_t count_token(const struct saved *saved, int32_t token);

/* What the transcript takes the session's tokens to be. */
const char *text_of(const struct saved *saved);

/* Asserts that as many tokens are a line end (13 in all of our tokenizers) as the text has: no
 * piece of it has brought one of its own. */
void check_line_ends(const struct saved *saved);

/* Asserts that two texts are equal but for spaces and line ends: a tokenizer puts spaces of its own
 * behind special tokens. */
void check_same_words(const char *left, const char *right);

#endif
