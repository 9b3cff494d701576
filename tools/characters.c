#include "characters.h"

enum { REPLACEMENT = 0xFFFD };

struct range {
    uint32_t first, last;
};

static bool is_in(const struct range *ranges, size_t count, uint32_t character)
{
    for (size_t i = 0; i < count; i++)
        if (character >= ranges[i].first && character <= ranges[i].last)
            return true;
    return false;
}

size_t character_read(const char *text, size_t left, uint32_t *character)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *bytes = (const unsigned char *)text;
    unsigned char first = bytes[0];
    size_t size = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3
                : first < 0xF5 ? 4 : 0;
    *character = REPLACEMENT;
    if (size == 0 || size > left)
        return 1;
    uint32_t value = size == 1 ? first : first & (0xFFu >> (size + 1));
    for (size_t i = 1; i < size; i++) {
        if ((bytes[i] & 0xC0) != 0x80)
            return 1;
        value = value << 6 | (bytes[i] & 0x3Fu);
    }
    if (value < least[size] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
        return 1;
    *character = value;
    return size;
}

/* The blocks that matter in practice; a terminal's own table may differ in rare characters. */
int character_width(uint32_t character)
{
    static const struct range none[] = {
        {0x0000, 0x001F},   {0x007F, 0x009F},   {0x0300, 0x036F},   {0x0483, 0x0489},
        {0x0591, 0x05BD},   {0x0610, 0x061A},   {0x064B, 0x065F},   {0x0900, 0x0902},
        {0x093C, 0x093C},   {0x0941, 0x0948},   {0x0E31, 0x0E31},   {0x0E34, 0x0E3A},
        {0x1AB0, 0x1AFF},   {0x1DC0, 0x1DFF},   {0x200B, 0x200F},   {0x2028, 0x202E},
        {0x2060, 0x2064},   {0x20D0, 0x20FF},   {0xFE00, 0xFE0F},   {0xFE20, 0xFE2F},
        {0xFEFF, 0xFEFF},   {0x1F3FB, 0x1F3FF}, {0xE0001, 0xE01EF},
    };
    static const struct range wide[] = {
        {0x1100, 0x115F},   {0x231A, 0x231B},   {0x2E80, 0x303E},   {0x3041, 0x33FF},
        {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xA000, 0xA4CF},   {0xA960, 0xA97F},
        {0xAC00, 0xD7A3},   {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},
        {0xFFE0, 0xFFE6},   {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF}, {0x1F900, 0x1FAFF},
        {0x20000, 0x3FFFD},
    };
    if (is_in(none, sizeof none / sizeof none[0], character))
        return 0;
    return is_in(wide, sizeof wide / sizeof wide[0], character) ? 2 : 1;
}

static bool combines(uint32_t character)
{
    return character >= 0x300 && character_width(character) == 0;
}

size_t character_end(const char *text, size_t size, size_t offset)
{
    uint32_t character;
    if (offset >= size)
        return size;
    offset += character_read(text + offset, size - offset, &character);
    while (offset < size) {
        size_t length = character_read(text + offset, size - offset, &character);
        if (!combines(character))
            break;
        offset += length;
    }
    return offset;
}

/* The beginning of the single character that ends at offset > 0. */
static size_t step_back(const char *text, size_t offset, uint32_t *character)
{
    for (size_t length = 2; length <= 4 && length <= offset; length++)
        if (character_read(text + offset - length, length, character) == length)
            return offset - length;
    character_read(text + offset - 1, 1, character);
    return offset - 1;
}

size_t character_begin(const char *text, size_t size, size_t offset)
{
    uint32_t character = 0;
    if (offset > size)
        offset = size;
    while (offset > 0) {
        offset = step_back(text, offset, &character);
        if (!combines(character))
            break;
    }
    return offset;
}

bool character_is_space(uint32_t character)
{
    static const struct range spaces[] = {
        {0x09, 0x0D},     {0x1C, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},
        {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F},
        {0x205F, 0x205F}, {0x3000, 0x3000},
    };
    return is_in(spaces, sizeof spaces / sizeof spaces[0], character);
}

void strip_space(const char **text, size_t *size)
{
    uint32_t character;
    while (*size > 0) {
        size_t length = character_read(*text, *size, &character);
        if (!character_is_space(character))
            break;
        *text += length;
        *size -= length;
    }
    while (*size > 0) {
        size_t begin = step_back(*text, *size, &character);
        if (!character_is_space(character))
            break;
        *size = begin;
    }
}
