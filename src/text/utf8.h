/* UTF-8: the one place that knows its encoding. */
#ifndef HY_TEXT_UTF8_H
#define HY_TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>

enum { HY_UTF8_REPLACEMENT = 0xFFFD, HY_UTF8_MAX = 4 };

/*
 * Decodes the character at text (length > 0 bytes left). Returns its bytes (1 to 4) and sets
 * *character. Malformed input: *character is -1 and the result is the length of the malformed
 * prefix (the maximal subpart of a well-formed sequence, at least 1).
 */
size_t hy_utf8_decode(const char *text, size_t length, int32_t *character);

/* Writes 1 to 4 bytes; returns how many. character must be a Unicode scalar value. */
size_t hy_utf8_encode(int32_t character, char *text);

/* Bytes of the sequence that this first byte begins (1 to 4); 0 if it begins none. */
size_t hy_utf8_sequence_length(unsigned char first);

#endif
