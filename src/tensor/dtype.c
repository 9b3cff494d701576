#include "tensor/dtype.h"

static const struct {
    hymba_dtype dtype;
    size_t size;
    const char *name;
} dtypes[] = {
    {HYMBA_DTYPE_F32, 4, "f32"},
    {HYMBA_DTYPE_F16, 2, "f16"},
    {HYMBA_DTYPE_BF16, 2, "bf16"},
    {HYMBA_DTYPE_INT8, 1, "int8"},
    {HYMBA_DTYPE_INT4, 0, "int4"},
    {HYMBA_DTYPE_FP8, 1, "fp8"},
};

enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };

size_t hy_dtype_size(hymba_dtype dtype)
{
    for (int i = 0; i < N_DTYPES; i++)
        if (dtypes[i].dtype == dtype)
            return dtypes[i].size;
    return 0;
}

bool hy_dtype_is_float(hymba_dtype dtype)
{
    return dtype == HYMBA_DTYPE_F32 || dtype == HYMBA_DTYPE_F16 || dtype == HYMBA_DTYPE_BF16;
}

const char *hy_dtype_name(hymba_dtype dtype)
{
    for (int i = 0; i < N_DTYPES; i++)
        if (dtypes[i].dtype == dtype)
            return dtypes[i].name;
    return NULL;
}

hymba_dtype hy_dtype_from_name(const char *name)
{
    for (int i = 0; name && i < N_DTYPES; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return dtypes[i].dtype;
    return HYMBA_DTYPE_DEFAULT;
}

uint16_t hy_f32_to_bf16(float value)
{
    uint32_t bits = hy_f32_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u); /* a quiet NaN, whatever the lost bits were */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float hy_f16_to_f32(uint16_t value)
{
    uint32_t sign = (uint32_t)(value & 0x8000u) << 16;
    uint32_t magnitude = value & 0x7fffu;
    if (magnitude >= 0x7c00u) /* infinity and NaN */
        return hy_bits_to_f32(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    if (magnitude >= 0x0400u) /* normal: the exponent's bias grows from 15 to 127 */
        return hy_bits_to_f32(sign | ((magnitude << 13) + (112u << 23)));
    float subnormal = (float)magnitude * 0x1p-24f;
    return sign ? -subnormal : subnormal;
}

uint16_t hy_f32_to_f16(float value)
{
    uint32_t bits = hy_f32_to_bits(value);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude >= 0x38800000u) { /* at least 2^-14, the smallest normal number */
        uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
        return (uint16_t)(sign | ((rounded - (112u << 23)) >> 13));
    }
    /* Adding 0.5 puts the subnormal's 2^-24 unit at the last bit of the sum, rounded by the FPU. */
    float sum = hy_bits_to_f32(magnitude) + 0.5f;
    return (uint16_t)(sign | (hy_f32_to_bits(sum) - hy_f32_to_bits(0.5f)));
}

float hy_fp8_to_f32(uint8_t value)
{
    uint32_t sign = (uint32_t)(value & 0x80u) << 24, magnitude = value & 0x7fu;
    if (magnitude == 0x7fu)
        return hy_bits_to_f32(sign | 0x7fc00000u);
    if (magnitude >= 0x08u) /* normal: the exponent's bias grows from 7 to 127 */
        return hy_bits_to_f32(sign | ((magnitude << 20) + (120u << 23)));
    float subnormal = (float)magnitude * 0x1p-9f;
    return sign ? -subnormal : subnormal;
}

uint8_t hy_f32_to_fp8(float value)
{
    uint32_t bits = hy_f32_to_bits(value);
    uint8_t sign = (uint8_t)(bits >> 24 & 0x80u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (magnitude >= 0x43e00000u) /* 448 and more, infinity too */
        return (uint8_t)(sign | 0x7eu);
    if (magnitude >= 0x3c800000u) { /* at least 2^-6, the smallest normal number */
        uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
        return (uint8_t)(sign | ((rounded - (120u << 23)) >> 20));
    }
    /* Adding 2^14 puts the subnormal's 2^-9 unit at the last bit of the sum, rounded by the FPU. */
    float sum = hy_bits_to_f32(magnitude) + 0x1p14f;
    return (uint8_t)(sign | (hy_f32_to_bits(sum) - hy_f32_to_bits(0x1p14f)));
}

float hy_load_element(const void *data, hymba_dtype dtype, size_t index)
{
    const unsigned char *bytes = (const unsigned char *)data + index * hy_dtype_size(dtype);
    if (dtype == HYMBA_DTYPE_F32) {
        float value;
        memcpy(&value, bytes, sizeof value);
        return value;
    }
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return dtype == HYMBA_DTYPE_F16 ? hy_f16_to_f32(half) : hy_bf16_to_f32(half);
}

void hy_row_to_f32(const void *source, hymba_dtype dtype, float *destination, size_t count)
{
    if (count == 0)
        return; /* of nothing, source may be NULL, which memcpy refuses */
    if (dtype == HYMBA_DTYPE_F32) {
        memcpy(destination, source, count * sizeof *destination);
        return;
    }
    for (size_t i = 0; i < count; i++)
        destination[i] = hy_load_element(source, dtype, i);
}

void hy_row_from_f32(const float *source, hymba_dtype dtype, void *destination, size_t count)
{
    if (count == 0)
        return; /* of nothing, source may be NULL, which memcpy refuses */
    if (dtype == HYMBA_DTYPE_F32) {
        memcpy(destination, source, count * sizeof *source);
        return;
    }
    unsigned char *bytes = destination;
    for (size_t i = 0; i < count; i++) {
        uint16_t half =
            dtype == HYMBA_DTYPE_F16 ? hy_f32_to_f16(source[i]) : hy_f32_to_bf16(source[i]);
        memcpy(bytes + 2 * i, &half, sizeof half);
    }
}
