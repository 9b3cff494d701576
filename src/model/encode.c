#include "model/encode.h"

#include <math.h>
#include <stdbool.h>

#include "tensor/dtype.h"

/*
 * A candidate scale is judged by the error it really makes, after its own rounding to bf16. The
 * candidates are neighbouring bf16 numbers: at 8 bits few lie around greatest / 127, and leaving
 * the greatest value out costs more than it gains; at 4 bits it often pays.
 */
struct search {
    float least, most;     /* times the greatest magnitude: first and last candidate */
    uint16_t step;         /* in units of the last place */
    float lowest, highest; /* integers */
};

static const struct search search_int8 = {0.984f / 127, 1.004f / 127, 1, -127, 127};
static const struct search search_int4 = {0.72f / 8, 1.02f / 7, 4, -8, 7};

/* Below it a scale's inverse would not be finite; such weights count as 0. */
static const float least_magnitude = 0x1p-100f;

enum { LANES = 8 };

static const struct search *search_of(hymba_dtype dtype)
{
    return dtype == HYMBA_DTYPE_INT4 ? &search_int4 : &search_int8;
}

/* To nearest, ties to even, for magnitudes below 2^22; in a form that compilers vectorise. */
static inline float round_near(float value)
{
    const float shift = 0x1.8p23f;
    return (value + shift) - shift;
}

static inline float clamp(float value, float lowest, float highest)
{
    value = value < lowest ? lowest : value;
    return value > highest ? highest : value;
}

/* Sum of importance * (value - scale * integer)^2, in a fixed order. */
static float squared_error(const float *values, const float *importance, size_t n, float scale,
                           const struct search *search)
{
    float lanes[LANES] = {0};
    float inverse = 1.0f / scale, sum = 0;
    float lowest = search->lowest, highest = search->highest;
    for (size_t i = 0; i < n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            float value = values[i + (size_t)j];
            /* clamped first: round_near wants a small number */
            float integer = round_near(clamp(value * inverse, lowest, highest));
            float difference = value - scale * integer;
            lanes[j] += importance[i + (size_t)j] * (difference * difference);
        }
    }
    for (int j = 0; j < LANES; j++)
        sum += lanes[j];
    return sum;
}

/* The value of greatest magnitude; the first of several. */
static float extreme(const float *values, size_t n)
{
    float found = 0;
    for (size_t i = 0; i < n; i++)
        if (fabsf(values[i]) > fabsf(found))
            found = values[i];
    return found;
}

uint16_t hy_find_scale(const float *values, const float *importance, size_t n, hymba_dtype dtype)
{
    const struct search *search = search_of(dtype);
    float ones[HY_LARGEST_MADE_GROUP];
    float greatest = extreme(values, n), magnitude = fabsf(greatest);
    if (magnitude < least_magnitude)
        return 0;
    for (size_t i = 0; !importance && i < n; i++)
        ones[i] = 1;
    if (!importance)
        importance = ones;
    /* int4 has one more negative integer: the greatest value gets that side. */
    uint16_t sign = dtype == HYMBA_DTYPE_INT4 && greatest > 0 ? 0x8000 : 0;
    uint16_t first = hy_f32_to_bf16(magnitude * search->least);
    uint16_t last = hy_f32_to_bf16(magnitude * search->most), best = last;
    float least_error = INFINITY;
    for (uint16_t step = search->step; step > 0; step = step > 1 ? 1 : 0) {
        for (uint16_t bits = first; bits <= last; bits = (uint16_t)(bits + step)) {
            float scale = hy_bf16_to_f32(bits | sign);
            float error = squared_error(values, importance, n, scale, search);
            if (error < least_error) {
                least_error = error;
                best = bits;
            }
        }
        first = (uint16_t)(best - step + 1); /* then every one around the best */
        last = (uint16_t)(best + step - 1);
    }
    return best | sign;
}

int hy_round_to_scale(float value, uint16_t scale, hymba_dtype dtype)
{
    const struct search *search = search_of(dtype);
    float factor = hy_bf16_to_f32(scale);
    if (factor == 0)
        return 0;
    return (int)round_near(clamp(value * (1.0f / factor), search->lowest, search->highest));
}

void hy_pack_integers(const int *integers, size_t n, hymba_dtype dtype, unsigned char *bytes)
{
    if (dtype == HYMBA_DTYPE_INT8) {
        for (size_t i = 0; i < n; i++)
            bytes[i] = (unsigned char)(integers[i] + 128);
        return;
    }
    for (size_t i = 0; i < n; i += 2)
        bytes[i / 2] = (unsigned char)((integers[i] + 8) | (integers[i + 1] + 8) << 4);
}

void hy_encode_row(const float *values, const float *importance, size_t columns,
                   const struct hy_scheme *scheme, unsigned char *bytes, uint16_t *scales)
{
    size_t group = scheme->group;
    int integers[HY_LARGEST_MADE_GROUP];
    for (size_t i = 0; i < columns; i += group) {
        uint16_t scale = hy_find_scale(values + i, importance ? importance + i : NULL, group,
                                       scheme->dtype);
        for (size_t j = 0; j < group; j++)
            integers[j] = hy_round_to_scale(values[i + j], scale, scheme->dtype);
        hy_pack_integers(integers, group, scheme->dtype,
                         bytes + (scheme->dtype == HYMBA_DTYPE_INT4 ? i / 2 : i));
        scales[i / group] = scale;
    }
}
