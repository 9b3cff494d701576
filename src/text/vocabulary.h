/*
 * The vocabulary: every piece with its kind, and the way back from text to id. It is built by
 * adding pieces in the order of their ids and constant from then on.
 */
#ifndef HY_TEXT_VOCABULARY_H
#define HY_TEXT_VOCABULARY_H

#include "text/tokenizer.h"

enum {
    HY_VOCABULARY_MAX_PIECES = 1 << 20,
    HY_PIECE_MAX_LENGTH = 1024 /* bytes */
};

struct hy_vocabulary_entry {
    uint32_t offset; /* into text */
    uint16_t length;
    unsigned char kind; /* enum hy_piece_kind */
    unsigned char byte; /* of a byte token */
    uint32_t rank;      /* of the piece as a merge result: the lowest goes first */
};

struct hy_vocabulary {
    struct hy_memory *memory;
    const char *file; /* name of the file it comes from, for messages; static storage */
    struct hy_vocabulary_entry *entries;
    size_t count, capacity;
    char *text; /* the pieces, one behind the other */
    size_t text_length, text_capacity;
    int32_t *table; /* hash table of ids, -1 where empty */
    size_t table_size;
    size_t longest; /* bytes of the longest piece */
    int32_t bytes[256]; /* ids of the byte tokens; -1: none */
    bool joins_words;   /* some ordinary piece has a space behind another character */
};

/* What stands for a space in a piece: U+2581. */
#define HY_SPACE_MARK "\xE2\x96\x81"
enum { HY_SPACE_MARK_SIZE = 3 };

/* Whether text, length bytes long, begins with the space mark. */
bool hy_is_space_mark(const char *text, size_t length);

void hy_vocabulary_init(struct hy_vocabulary *vocabulary, struct hy_memory *memory,
                        const char *file);
void hy_vocabulary_clear(struct hy_vocabulary *vocabulary);

/*
 * Adds the piece whose id is vocabulary->count. Refused are pieces that are empty, too long, not
 * UTF-8 or there already, and byte tokens that are not written "<0xXX>".
 */
hymba_status hy_vocabulary_add(struct hy_vocabulary *vocabulary, const char *text, size_t length,
                               enum hy_piece_kind kind, uint32_t rank, hymba_error *error);

/* The id of a piece, or -1. */
int32_t hy_vocabulary_find(const struct hy_vocabulary *vocabulary, const char *text,
                           size_t length);

/* The same for pieces of ordinary text alone. */
int32_t hy_vocabulary_find_normal(const struct hy_vocabulary *vocabulary, const char *text,
                                  size_t length);

/* id must be inside the vocabulary. */
struct hy_piece hy_vocabulary_piece(const struct hy_vocabulary *vocabulary, int32_t id);

/* Whether text is exactly "<0xXX>" with two upper-case hexadecimal digits. */
bool hy_is_byte_piece(const char *text, size_t length, unsigned char *byte);

/* Refuses a vocabulary that lacks one of the 256 byte tokens. */
hymba_status hy_vocabulary_check_bytes(const struct hy_vocabulary *vocabulary,
                                       hymba_error *error);

#endif
