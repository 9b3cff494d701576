#include "text/python_text.h"

#include <string.h>

#include "base/checked.h"
#include "text/utf8.h"

bool hy_python_is_space(int32_t character)
{
    return (character >= 0x09 && character <= 0x0D) || (character >= 0x1C && character <= 0x20) ||
           character == 0x85 || character == 0xA0 || character == 0x1680 ||
           (character >= 0x2000 && character <= 0x200A) || character == 0x2028 ||
           character == 0x2029 || character == 0x202F || character == 0x205F ||
           character == 0x3000;
}

static bool is_continuation(char byte)
{
    return ((unsigned char)byte & 0xC0) == 0x80;
}

size_t hy_python_length(struct hy_string string)
{
    size_t count = 0;
    for (size_t i = 0; i < string.length; i++)
        count += !is_continuation(string.data[i]);
    return count;
}

static bool is_one_of(int32_t character, const struct hy_string *set)
{
    if (!set)
        return hy_python_is_space(character);
    for (size_t i = 0; i < set->length;) {
        int32_t member;
        i += hy_utf8_decode(set->data + i, set->length - i, &member);
        if (member == character)
            return true;
    }
    return false;
}

struct hy_string hy_python_strip(struct hy_string string, const struct hy_string *set, bool left,
                                 bool right)
{
    int32_t character;
    while (left && string.length) {
        size_t size = hy_utf8_decode(string.data, string.length, &character);
        if (!is_one_of(character, set))
            break;
        string.data += size;
        string.length -= size;
    }
    while (right && string.length) {
        size_t last = string.length - 1;
        while (last > 0 && is_continuation(string.data[last]))
            last--;
        hy_utf8_decode(string.data + last, string.length - last, &character);
        if (!is_one_of(character, set))
            break;
        string.length = last;
    }
    return string;
}

/* Byte offset of the character with this index. */
static size_t offset_of(struct hy_string string, size_t index)
{
    size_t offset = 0;
    for (; offset < string.length; offset++) {
        if (is_continuation(string.data[offset]))
            continue;
        if (index == 0)
            break;
        index--;
    }
    return offset;
}

struct hy_string hy_python_slice(struct hy_string string, size_t first, size_t end)
{
    if (first >= end)
        return (struct hy_string){string.data, 0};
    size_t start = offset_of(string, first);
    struct hy_string rest = {string.data + start, string.length - start};
    rest.length = offset_of(rest, end - first);
    return rest;
}

bool hy_python_equal(struct hy_string a, struct hy_string b)
{
    return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, a.length) == 0);
}

int hy_python_compare(struct hy_string a, struct hy_string b)
{
    size_t shared = hy_min_size(a.length, b.length);
    int order = shared ? memcmp(a.data, b.data, shared) : 0;
    if (order)
        return order;
    return (a.length > b.length) - (a.length < b.length);
}

bool hy_python_starts_with(struct hy_string string, struct hy_string prefix)
{
    return prefix.length <= string.length &&
           hy_python_equal((struct hy_string){string.data, prefix.length}, prefix);
}

bool hy_python_ends_with(struct hy_string string, struct hy_string suffix)
{
    if (suffix.length > string.length)
        return false;
    size_t start = string.length - suffix.length;
    return hy_python_equal((struct hy_string){string.data + start, suffix.length}, suffix);
}

size_t hy_python_find(struct hy_string string, size_t start, struct hy_string needle,
                      uint64_t most, uint64_t *work)
{
    if (needle.length > string.length || start > string.length - needle.length)
        return SIZE_MAX;
    for (size_t place = start; place <= string.length - needle.length && *work <= most; place++) {
        size_t same = 0;
        while (same < needle.length && string.data[place + same] == needle.data[same])
            same++;
        *work += same + 1;
        if (same == needle.length)
            return place;
    }
    return SIZE_MAX;
}
