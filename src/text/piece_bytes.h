/* The bytes that a token stands for in a text. */
#ifndef HY_TEXT_PIECE_BYTES_H
#define HY_TEXT_PIECE_BYTES_H

#include "text/vocabulary.h"

/*
 * Writes the bytes of a piece to out, which holds HY_PIECE_MAX_LENGTH, and returns how many.
 * Special tokens have none unless with_specials. *is_started is false at the beginning of a text,
 * where one space is dropped, and becomes true with its first byte.
 */
size_t hy_piece_bytes(struct hy_piece piece, bool with_specials, bool *is_started, char *out);

#endif
