/* UTF-8: every character there and back, and where malformed sequences end. */
#include <string.h>

#include "support.h"
#include "text/utf8.h"

static bool comes_back(int32_t character)
{
    char text[HY_UTF8_MAX];
    int32_t whole = -2, broken = -2;
    size_t expected = character < 0x80      ? 1
                      : character < 0x800   ? 2
                      : character < 0x10000 ? 3
                                            : 4;
    size_t size = hy_utf8_encode(character, text);
    if (size > 1 && hy_utf8_decode(text, size - 1, &broken) != size - 1)
        return false;
    return size == expected && hy_utf8_sequence_length((unsigned char)text[0]) == size &&
           hy_utf8_decode(text, size, &whole) == size && whole == character &&
           (size == 1 || broken == -1);
}

START_TEST(every_character_comes_back)
{
    for (int32_t character = 0; character <= 0x10FFFF; character++) {
        bool is_surrogate = character >= 0xD800 && character <= 0xDFFF;
        if (!is_surrogate && !comes_back(character))
            ck_abort_msg("U+%04X does not come back", (unsigned)character);
    }
}
END_TEST

/* The table of the Unicode standard, section 3.9: what the maximal subparts are. */
START_TEST(malformed_prefixes)
{
    static const struct {
        const char *text;
        size_t length, malformed;
    } cases[] = {
        {"\x80", 1, 1},                 /* a continuation byte */
        {"\xC0\x80", 2, 1},             /* overlong */
        {"\xC1\xBF", 2, 1},
        {"\xE0\x80\x80", 3, 1},
        {"\xE0\x9F\xBF", 3, 1},
        {"\xF0\x80\x80\x80", 4, 1},
        {"\xF0\x8F\xBF\xBF", 4, 1},
        {"\xED\xA0\x80", 3, 1},         /* a surrogate */
        {"\xF4\x90\x80\x80", 4, 1},     /* above U+10FFFF */
        {"\xF5\x80\x80\x80", 4, 1},
        {"\xFF", 1, 1},
        {"\xC3(", 2, 1},                /* broken off */
        {"\xE4\xB8(", 3, 2},
        {"\xF0\x9F\x98(", 4, 3},
        {"\xF0\x9F(", 3, 2},
        {"\xE4", 1, 1},
        {"\xE4\xB8", 2, 2},
        {"\xF0\x9F\x98", 3, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t character = 0;
        size_t size = hy_utf8_decode(cases[i].text, cases[i].length, &character);
        ck_assert_msg(character == -1, "case %zu is taken for U+%04X", i, (unsigned)character);
        ck_assert_msg(size == cases[i].malformed, "case %zu: %zu bytes, expected %zu", i, size,
                      cases[i].malformed);
    }
}
END_TEST

START_TEST(first_bytes)
{
    ck_assert_uint_eq(hy_utf8_sequence_length(0x00), 1);
    ck_assert_uint_eq(hy_utf8_sequence_length(0x7F), 1);
    ck_assert_uint_eq(hy_utf8_sequence_length(0x80), 0);
    ck_assert_uint_eq(hy_utf8_sequence_length(0xC1), 0);
    ck_assert_uint_eq(hy_utf8_sequence_length(0xC2), 2);
    ck_assert_uint_eq(hy_utf8_sequence_length(0xE0), 3);
    ck_assert_uint_eq(hy_utf8_sequence_length(0xF0), 4);
    ck_assert_uint_eq(hy_utf8_sequence_length(0xF4), 4);
    ck_assert_uint_eq(hy_utf8_sequence_length(0xF5), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("utf8");
    TCase *cases = tcase_create("utf8");
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, every_character_comes_back);
    tcase_add_test(cases, malformed_prefixes);
    tcase_add_test(cases, first_bytes);
    suite_add_tcase(suite, cases);
    return test_main(suite);
}
