/* Element types: every half number, rounding against exact arithmetic, rows, names. */
#include "tensor/dtype.h"

#include <math.h>
#include <stdlib.h>

#include "support.h"

/* A binary format narrower than f32, as its definition has it. */
struct format {
    int mantissa_bits, smallest_exponent, largest_exponent;
    float (*decode)(uint16_t value);
    uint16_t (*encode)(float value);
};

static const struct format f16 = {10, -14, 15, hy_f16_to_f32, hy_f32_to_f16};
static const struct format bf16 = {7, -126, 127, hy_bf16_to_f32, hy_f32_to_bf16};

/* The value of a finite number of the format, exact in double. */
static double value_of(const struct format *format, uint16_t bits)
{
    int mantissa = bits & ((1 << format->mantissa_bits) - 1);
    int exponent = (bits & 0x7fff) >> format->mantissa_bits;
    if (exponent > 0)
        mantissa += 1 << format->mantissa_bits;
    else
        exponent = 1;
    double magnitude =
        ldexp(mantissa, exponent - 1 + format->smallest_exponent - format->mantissa_bits);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static uint16_t infinity_of(const struct format *format)
{
    return (uint16_t)((format->largest_exponent - format->smallest_exponent + 2)
                      << format->mantissa_bits);
}

static bool is_nan(const struct format *format, uint16_t bits)
{
    return (bits & 0x7fff) > infinity_of(format);
}

/*
 * Nearest number of the format, the even one of two, in exact arithmetic: the magnitude in units
 * of its last place, rounded as an integer. Too large a mantissa moves into the exponent by itself.
 */
static uint16_t rounded(const struct format *format, double value)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    double magnitude = fabs(value);
    int exponent = format->smallest_exponent;
    if (magnitude > 0 && isfinite(magnitude) && ilogb(magnitude) > exponent)
        exponent = ilogb(magnitude);
    if (exponent > format->largest_exponent)
        return sign | infinity_of(format);
    double units = ldexp(magnitude, format->mantissa_bits - exponent);
    double below = floor(units), rest = units - below;
    uint32_t whole = (uint32_t)below;
    if (rest > 0.5 || (rest == 0.5 && whole % 2 == 1))
        whole++;
    uint32_t bits = whole + ((uint32_t)(exponent - format->smallest_exponent)
                             << format->mantissa_bits);
    return sign | (uint16_t)bits;
}

static void check_rounding(const struct format *format, uint32_t bits)
{
    float value = hy_bits_to_f32(bits);
    uint16_t found = format->encode(value);
    if (isnan(value)) {
        if (!is_nan(format, found))
            ck_abort_msg("NaN %08x became %04x", bits, found);
        return;
    }
    uint16_t expected = isinf(value) ? (uint16_t)(infinity_of(format) | (bits >> 16 & 0x8000))
                                     : rounded(format, value);
    if (found != expected)
        ck_abort_msg("%08x (%a) became %04x, expected %04x", bits, (double)value, found,
                     expected);
}

static void check_all_numbers(const struct format *format)
{
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t bits = (uint16_t)i;
        float value = format->decode(bits);
        if (is_nan(format, bits)) {
            ck_assert_msg(isnan(value), "%04x became %a", i, (double)value);
            ck_assert(is_nan(format, format->encode(value)));
            continue;
        }
        if ((bits & 0x7fff) == infinity_of(format))
            ck_assert(isinf(value));
        else
            ck_assert_msg((double)value == value_of(format, bits), "%04x became %a", i,
                          (double)value);
        ck_assert_int_eq(signbit(value) != 0, (bits & 0x8000) != 0);
        ck_assert_msg(format->encode(value) == bits, "%04x came back as %04x", i,
                      format->encode(value));
    }
}

/* Half way between neighbours, and the nearest f32 numbers on both sides of that. */
static void check_borders(const struct format *format)
{
    for (uint32_t i = 0; i < infinity_of(format); i++) {
        double next = i + 1 == infinity_of(format) ? ldexp(1, format->largest_exponent + 1)
                                                   : value_of(format, (uint16_t)(i + 1));
        float middle = (float)((value_of(format, (uint16_t)i) + next) / 2);
        uint32_t bits = hy_f32_to_bits(middle);
        for (uint32_t j = bits > 2 ? bits - 2 : 0; j <= bits + 2; j++) {
            check_rounding(format, j);
            check_rounding(format, j | 0x80000000u);
        }
    }
}

static uint32_t random_bits(void)
{
    return (uint32_t)(test_random() * 4294967296.0);
}

static void check_random(const struct format *format)
{
    for (int i = 0; i < 300000; i++)
        check_rounding(format, random_bits());
    /* Where the format's subnormal and its largest numbers lie, more densely. */
    for (int exponent = format->smallest_exponent - 30; exponent <= format->smallest_exponent + 2;
         exponent++)
        for (int i = 0; i < 2000; i++)
            check_rounding(format, hy_f32_to_bits((float)ldexp(1 + test_random(), exponent)));
    for (int i = 0; i < 20000; i++)
        check_rounding(format, hy_f32_to_bits((float)ldexp(1.99 + test_random() * 0.02,
                                                           format->largest_exponent)));
}

static const uint32_t edges[] = {
    0x00000000, 0x00000001, 0x00000002, 0x00007fff, 0x00008000, 0x00008001, 0x0000ffff, 0x007fffff,
    0x00800000, 0x00800001, 0x33000000, 0x33000001, 0x33800000, 0x387fc000, 0x387fe000, 0x387fffff,
    0x38800000, 0x38800001, 0x3f7fffff, 0x3f800000, 0x477fe000, 0x477fefff, 0x477ff000, 0x477ff001,
    0x47800000, 0x7f000000, 0x7f7f0000, 0x7f7f7fff, 0x7f7f8000, 0x7f7fffff, 0x7f800000, 0x7f800001,
    0x7f80ffff, 0x7fbfffff, 0x7fc00000, 0x7fffffff,
};

static void check_edges(const struct format *format)
{
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++) {
        check_rounding(format, edges[i]);
        check_rounding(format, edges[i] | 0x80000000u);
    }
}

START_TEST(f16_numbers)
{
    check_all_numbers(&f16);
}
END_TEST

START_TEST(bf16_numbers)
{
    check_all_numbers(&bf16);
}
END_TEST

START_TEST(f16_rounding)
{
    check_edges(&f16);
    check_borders(&f16);
    check_random(&f16);
}
END_TEST

START_TEST(bf16_rounding)
{
    check_edges(&bf16);
    check_borders(&bf16);
    check_random(&bf16);
}
END_TEST

/* --------------------------------------------------------------------- fp8 */

/* The value of a finite code without its sign, 0 .. 0x7e, by the definition of the format. */
static double fp8_value(int code)
{
    int exponent = code >> 3, mantissa = code & 7;
    return exponent > 0 ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
}

/* The nearest of all codes, the even one of two; the greatest for what is beyond it. */
static uint8_t nearest_fp8(float value)
{
    int nearest = 0;
    double magnitude = fabs((double)value);
    for (int code = 1; code <= 0x7e; code++) {
        double distance = fabs(magnitude - fp8_value(code));
        double smallest = fabs(magnitude - fp8_value(nearest));
        if (distance < smallest || (distance == smallest && code % 2 == 0))
            nearest = code;
    }
    return (uint8_t)(nearest | (signbit(value) ? 0x80 : 0));
}

static void check_fp8(uint32_t bits)
{
    float value = hy_bits_to_f32(bits);
    uint8_t found = hy_f32_to_fp8(value);
    uint8_t expected = isnan(value)   ? (uint8_t)(0x7f | (bits >> 24 & 0x80))
                       : isinf(value) ? (uint8_t)(0x7e | (bits >> 24 & 0x80))
                                      : nearest_fp8(value);
    if (found != expected)
        ck_abort_msg("%08x (%a) became %02x, expected %02x", bits, (double)value, found, expected);
}

START_TEST(fp8_numbers)
{
    for (int code = 0; code < 256; code++) {
        float value = hy_fp8_to_f32((uint8_t)code);
        if ((code & 0x7f) == 0x7f)
            ck_assert_msg(isnan(value), "%02x became %a", code, (double)value);
        else
            ck_assert_msg((double)fabsf(value) == fp8_value(code & 0x7f), "%02x became %a", code,
                          (double)value);
        ck_assert_int_eq(signbit(value) != 0, code >> 7);
        ck_assert_msg(hy_f32_to_fp8(value) == code, "%02x came back as %02x", code,
                      hy_f32_to_fp8(value));
    }
}
END_TEST

/* All borders between neighbours, the f32 numbers beside them, and some of every exponent. */
START_TEST(fp8_rounding)
{
    for (int code = 0; code < 0x7f; code++) {
        double next = code == 0x7e ? 480 : fp8_value(code + 1);
        uint32_t bits = hy_f32_to_bits((float)((fp8_value(code) + next) / 2));
        for (uint32_t i = bits - 3; i <= bits + 3; i++) {
            check_fp8(i);
            check_fp8(i | 0x80000000u);
        }
    }
    for (uint32_t exponent = 0; exponent < 512; exponent++) {
        for (int i = 0; i < 300; i++)
            check_fp8(exponent << 23 | random_bits() >> 9);
        check_fp8(exponent << 23);
        check_fp8(exponent << 23 | 0x7fffff);
    }
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++) {
        check_fp8(edges[i]);
        check_fp8(edges[i] | 0x80000000u);
    }
    ck_assert_uint_eq(hy_f32_to_fp8(1.0f), 0x38);
    ck_assert_uint_eq(hy_f32_to_fp8(-0.0f), 0x80);
    ck_assert_uint_eq(hy_f32_to_fp8(448.0f), 0x7e);
    ck_assert_uint_eq(hy_f32_to_fp8(1e30f), 0x7e);
    ck_assert_uint_eq(hy_f32_to_fp8(0x1p-10f), 0x00); /* half of the smallest: to even */
    ck_assert(hy_fp8_to_f32(0x01) == 0x1p-9f);
    ck_assert(hy_fp8_to_f32(0xfe) == -448.0f);
}
END_TEST

/* A few by hand, so that the arithmetic above is checked as well. */
START_TEST(known_values)
{
    ck_assert_uint_eq(hy_f32_to_f16(1.0f), 0x3c00);
    ck_assert_uint_eq(hy_f32_to_f16(-2.0f), 0xc000);
    ck_assert_uint_eq(hy_f32_to_f16(65504.0f), 0x7bff);
    ck_assert_uint_eq(hy_f32_to_f16(65519.0f), 0x7bff);
    ck_assert_uint_eq(hy_f32_to_f16(65520.0f), 0x7c00);
    ck_assert_uint_eq(hy_f32_to_f16(0x1p-24f), 0x0001);
    ck_assert_uint_eq(hy_f32_to_f16(0x1p-25f), 0x0000); /* half of the smallest: to even */
    ck_assert_uint_eq(hy_f32_to_f16(0x1.8p-24f), 0x0002);
    ck_assert_uint_eq(hy_f32_to_f16(-0.0f), 0x8000);
    ck_assert_uint_eq(hy_f32_to_f16(0.1f), 0x2e66);
    ck_assert_uint_eq(hy_f32_to_bf16(1.0f), 0x3f80);
    ck_assert_uint_eq(hy_f32_to_bf16(3.14159265f), 0x4049);
    ck_assert_uint_eq(hy_f32_to_bf16(hy_bits_to_f32(0x3f808000)), 0x3f80); /* ties to even */
    ck_assert_uint_eq(hy_f32_to_bf16(hy_bits_to_f32(0x3f818000)), 0x3f82);
    ck_assert_uint_eq(hy_f32_to_bf16(3.4028235e38f), 0x7f80);
    ck_assert(hy_f16_to_f32(0x3555) == 0x1.554p-2f);
    ck_assert(hy_f16_to_f32(0x03ff) == 1023 * 0x1p-24f);
    ck_assert(hy_bf16_to_f32(0x0001) == 0x1p-133f);
}
END_TEST

/* -------------------------------------------------------------------- rows */

static const hymba_dtype dtypes[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0], MAX_COUNT = 70 };

static float expected_element(hymba_dtype dtype, float value)
{
    if (dtype == HYMBA_DTYPE_F16)
        return hy_f16_to_f32(hy_f32_to_f16(value));
    if (dtype == HYMBA_DTYPE_BF16)
        return hy_bf16_to_f32(hy_f32_to_bf16(value));
    return value;
}

/* Rows of every length at every misalignment, with marked bytes on both sides. */
START_TEST(rows)
{
    enum { MARGIN = 16 };
    unsigned char bytes[MARGIN + 4 * MAX_COUNT + 8 + MARGIN];
    float source[MAX_COUNT], back[MAX_COUNT + 1];
    for (int i = 0; i < MAX_COUNT; i++)
        source[i] = (float)(test_random() * 200 - 100);
    for (int d = 0; d < N_DTYPES; d++) {
        size_t size = hy_dtype_size(dtypes[d]);
        for (size_t shift = 0; shift < 8; shift++) {
            for (size_t count = 0; count <= MAX_COUNT; count++) {
                unsigned char *row = bytes + MARGIN + shift;
                memset(bytes, 0x77, sizeof bytes);
                hy_row_from_f32(source, dtypes[d], row, count);
                for (size_t i = 0; i < sizeof bytes; i++)
                    if ((i < MARGIN + shift || i >= MARGIN + shift + count * size) &&
                        bytes[i] != 0x77)
                        ck_abort_msg("byte %zu was written", i);
                back[count] = 42;
                hy_row_to_f32(row, dtypes[d], back, count);
                ck_assert(back[count] == 42);
                for (size_t i = 0; i < count; i++)
                    if (back[i] != expected_element(dtypes[d], source[i]) ||
                        hy_load_element(row, dtypes[d], i) != back[i])
                        ck_abort_msg("element %zu of %zu is %g", i, count, (double)back[i]);
            }
        }
    }
}
END_TEST

/* ------------------------------------------------------------------- names */

START_TEST(names_and_sizes)
{
    static const struct {
        hymba_dtype dtype;
        const char *name;
        size_t size;
    } cases[] = {{1, "f32", 4}, {2, "f16", 2}, {3, "bf16", 2}, {4, "int8", 1}, {5, "int4", 0},
                 {6, "fp8", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ck_assert_str_eq(hymba_dtype_name(cases[i].dtype), cases[i].name);
        ck_assert_uint_eq(hymba_dtype_size(cases[i].dtype), cases[i].size);
        ck_assert_int_eq(hymba_dtype_from_name(cases[i].name), cases[i].dtype);
    }
    static const hymba_dtype unknown[] = {0, -1, 7, 1000, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        ck_assert_ptr_null(hymba_dtype_name(unknown[i]));
        ck_assert_uint_eq(hymba_dtype_size(unknown[i]), 0);
    }
    static const char *const strange[] = {"", "F32", "f3", "f322", "float32", "bf", " f32", "fp"};
    for (size_t i = 0; i < sizeof strange / sizeof strange[0]; i++)
        ck_assert_int_eq(hymba_dtype_from_name(strange[i]), HYMBA_DTYPE_DEFAULT);
    ck_assert_int_eq(hymba_dtype_from_name(NULL), HYMBA_DTYPE_DEFAULT);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("dtype");
    TCase *tests = tcase_create("dtype");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, f16_numbers);
    tcase_add_test(tests, bf16_numbers);
    tcase_add_test(tests, f16_rounding);
    tcase_add_test(tests, bf16_rounding);
    tcase_add_test(tests, fp8_numbers);
    tcase_add_test(tests, fp8_rounding);
    tcase_add_test(tests, known_values);
    tcase_add_test(tests, rows);
    tcase_add_test(tests, names_and_sizes);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
