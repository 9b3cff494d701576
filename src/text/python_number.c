#include "text/python_number.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DIGITS = 17 };

struct decimal {
    char digits[MOST_DIGITS + 1]; /* without trailing zeros, at least one */
    int exponent;                 /* of the first digit */
};

/* The value correctly rounded to so many digits. The decimal point is the locale's: nothing but
 * digits is taken from printf's text. */
static void round_to(double value, int n_digits, struct decimal *decimal)
{
    char text[64];
    size_t n = 0;
    const char *place = text;
    snprintf(text, sizeof text, "%.*e", n_digits - 1, value);
    for (; *place && *place != 'e'; place++)
        if (*place >= '0' && *place <= '9' && n < MOST_DIGITS)
            decimal->digits[n++] = *place;
    decimal->digits[n] = '\0';
    decimal->exponent = *place ? (int)strtol(place + 1, NULL, 10) : 0;
}

/* Without a decimal point strtod does not depend on the locale. */
static bool reads_back(const struct decimal *decimal, double value)
{
    char text[64];
    snprintf(text, sizeof text, "%se%d", decimal->digits,
             decimal->exponent - (int)strlen(decimal->digits) + 1);
    return strtod(text, NULL) == value;
}

/*
 * The shortest digits that give the value back. Next to a power of two the numbers above lie twice
 * as far apart as those below: there the nearest digits may miss the value from below while the
 * next ones above hit it.
 */
static void find_digits(double value, struct decimal *decimal)
{
    for (int n = 1; n <= MOST_DIGITS; n++) {
        round_to(value, n, decimal);
        if (reads_back(decimal, value))
            break;
        if (n < MOST_DIGITS && decimal->digits[n - 1] < '9') {
            decimal->digits[n - 1]++;
            if (reads_back(decimal, value))
                break;
        }
    }
    size_t n = strlen(decimal->digits);
    while (n > 1 && decimal->digits[n - 1] == '0')
        decimal->digits[--n] = '\0';
}

static size_t append(char *text, size_t length, const char *part, size_t count)
{
    memcpy(text + length, part, count);
    return length + count;
}

/* d.ddde-XX */
static size_t write_scientific(const struct decimal *decimal, char *text, size_t length)
{
    size_t n = strlen(decimal->digits);
    length = append(text, length, decimal->digits, 1);
    if (n > 1) {
        text[length++] = '.';
        length = append(text, length, decimal->digits + 1, n - 1);
    }
    return length + (size_t)snprintf(text + length, HY_PYTHON_NUMBER_SIZE - length, "e%c%02d",
                                     decimal->exponent < 0 ? '-' : '+', abs(decimal->exponent));
}

/* ddd.ddd, with at least one digit on both sides; exponent -4 to 15 */
static size_t write_plain(const struct decimal *decimal, char *text, size_t length)
{
    int n = (int)strlen(decimal->digits), point = decimal->exponent + 1;
    int first = point < 0 ? point : 0; /* where the digits begin; zeros where there are none */
    if (point <= 0)
        text[length++] = '0';
    for (int i = first; i < n || i < point; i++) {
        if (i == point)
            text[length++] = '.';
        text[length++] = i >= 0 && i < n ? decimal->digits[i] : '0';
    }
    if (point >= n) {
        text[length++] = '.';
        text[length++] = '0';
    }
    return length;
}

size_t hy_python_write_real(double value, char text[HY_PYTHON_NUMBER_SIZE])
{
    struct decimal decimal;
    size_t length = 0;
    if (signbit(value))
        text[length++] = '-';
    find_digits(fabs(value), &decimal);
    if (decimal.exponent < -4 || decimal.exponent > 15)
        length = write_scientific(&decimal, text, length);
    else
        length = write_plain(&decimal, text, length);
    text[length] = '\0';
    return length;
}

size_t hy_python_write_integer(int64_t value, char text[HY_PYTHON_NUMBER_SIZE])
{
    return (size_t)snprintf(text, HY_PYTHON_NUMBER_SIZE, "%" PRId64, value);
}
