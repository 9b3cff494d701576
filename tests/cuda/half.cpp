/* f16 to f32 and back, as the hardware does it: to the nearest, of two as near the even one. */
#include "harness.h"

float harness_from_f16(uint16_t bits)
{
    unsigned exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = exponent == 31  ? (fraction ? NAN : INFINITY)
                  : exponent == 0 ? ldexpf((float)fraction, -24)
                                  : ldexpf((float)(fraction | 1024), (int)exponent - 25);
    return bits >> 15 ? -value : value;
}

uint16_t harness_to_f16(float value)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    float size = fabsf(value);
    if (value != value)
        return sign | 0x7e00;
    if (size >= 65520.0f) /* half a unit above the largest */
        return sign | 0x7c00;
    int exponent;
    frexpf(size, &exponent);
    /* The unit of the result: 2^-24 of numbers below 2^-14, else 11 bits. */
    int unit = size == 0.0f || exponent < -13 ? -24 : exponent - 11;
    unsigned units = (unsigned)lrintf(ldexpf(size, -unit)); /* to nearest even */
    if (unit == -24)
        return (uint16_t)(sign | units);
    return (uint16_t)(sign | (((unsigned)(unit + 24) << 10) + units));
}
