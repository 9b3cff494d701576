#include "text/utf8.h"

size_t hy_utf8_sequence_length(unsigned char first)
{
    if (first < 0x80)
        return 1;
    if (first < 0xC2) /* a continuation byte, or the beginning of an overlong sequence */
        return 0;
    if (first < 0xE0)
        return 2;
    if (first < 0xF0)
        return 3;
    return first < 0xF5 ? 4 : 0;
}

/*
 * The second byte's range is narrower after four first bytes: that keeps overlong forms,
 * surrogates and numbers above U+10FFFF out.
 */
static int is_second(unsigned char first, unsigned char second)
{
    unsigned char lowest = 0x80, highest = 0xBF;
    if (first == 0xE0)
        lowest = 0xA0;
    else if (first == 0xED)
        highest = 0x9F;
    else if (first == 0xF0)
        lowest = 0x90;
    else if (first == 0xF4)
        highest = 0x8F;
    return second >= lowest && second <= highest;
}

size_t hy_utf8_decode(const char *text, size_t length, int32_t *character)
{
    const unsigned char *bytes = (const unsigned char *)text;
    size_t size = hy_utf8_sequence_length(bytes[0]);
    *character = -1;
    if (size <= 1) {
        if (size == 1)
            *character = bytes[0];
        return 1;
    }
    if (length < 2 || !is_second(bytes[0], bytes[1]))
        return 1;
    int32_t value = (bytes[0] & (0x7F >> size)) << 6 | (bytes[1] & 0x3F);
    for (size_t i = 2; i < size; i++) {
        if (i >= length || (bytes[i] & 0xC0) != 0x80)
            return i;
        value = value << 6 | (bytes[i] & 0x3F);
    }
    *character = value;
    return size;
}

size_t hy_utf8_encode(int32_t character, char *text)
{
    unsigned char *bytes = (unsigned char *)text;
    uint32_t value = (uint32_t)character;
    if (value < 0x80) {
        bytes[0] = (unsigned char)value;
        return 1;
    }
    size_t size = value < 0x800 ? 2 : value < 0x10000 ? 3 : 4;
    static const unsigned char marks[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = size - 1; i > 0; i--) {
        bytes[i] = (unsigned char)(0x80 | (value & 0x3F));
        value >>= 6;
    }
    bytes[0] = (unsigned char)(marks[size] | value);
    return size;
}
