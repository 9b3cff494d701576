/*
 * Strings as Python's str sees them: well-formed UTF-8 counted in characters, with Python's idea
 * of white space. All of them are views; nothing is copied.
 */
#ifndef HY_TEXT_PYTHON_TEXT_H
#define HY_TEXT_PYTHON_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hy_string {
    const char *data;
    size_t length; /* bytes */
};

/* str.isspace of one character. */
bool hy_python_is_space(int32_t character);

/* Characters. */
size_t hy_python_length(struct hy_string string);

/* Without the white space at the chosen ends; or, if set is not NULL, without the characters that
 * set consists of. */
struct hy_string hy_python_strip(struct hy_string string, const struct hy_string *set, bool left,
                                 bool right);

/* The characters first <= i < end; both at most hy_python_length. */
struct hy_string hy_python_slice(struct hy_string string, size_t first, size_t end);

bool hy_python_equal(struct hy_string a, struct hy_string b);

/* Less than 0, 0 or more than 0: the order of the characters' code points. */
int hy_python_compare(struct hy_string a, struct hy_string b);

bool hy_python_starts_with(struct hy_string string, struct hy_string prefix);
bool hy_python_ends_with(struct hy_string string, struct hy_string suffix);

/* Byte offset of the first needle at or behind start, SIZE_MAX if there is none. Adds to *work how
 * many bytes it looked at, and gives up once that is more than most. */
size_t hy_python_find(struct hy_string string, size_t start, struct hy_string needle,
                      uint64_t most, uint64_t *work);

#endif
