/*
 * Characters of UTF-8 text as the command needs them: one by one, their width on a terminal, white
 * space. Malformed bytes count as one character each, U+FFFD.
 */
#ifndef TOOLS_CHARACTERS_H
#define TOOLS_CHARACTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The character at text (left >= 1 bytes); the result is its length in bytes, at least 1. */
size_t character_read(const char *text, size_t left, uint32_t *character);

/* Columns it takes on a terminal, 0 to 2. Of a control character, which a terminal obeys: 0. */
int character_width(uint32_t character);

/* The end of the character (with the marks that combine with it) that begins at offset. */
size_t character_end(const char *text, size_t size, size_t offset);

/* The beginning of the character (with its marks) that ends at offset. */
size_t character_begin(const char *text, size_t size, size_t offset);

/* White space as the chat template's strip() knows it. */
bool character_is_space(uint32_t character);

/* Moves *text and *size inwards past white space at both ends. */
void strip_space(const char **text, size_t *size);

#endif
