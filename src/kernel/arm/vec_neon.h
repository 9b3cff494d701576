/* The vector layer over AArch64's NEON: 4 lanes. Functions ending in _n touch only the first n
 * elements of memory, 0 < n <= LANES; lanes beyond them load as 0. */
#ifndef HY_KERNEL_ARM_VEC_NEON_H
#define HY_KERNEL_ARM_VEC_NEON_H

#include <arm_neon.h>

#include "kernel/vector/inline.h"
#include "tensor/dtype.h"

typedef float32x4_t vec;
typedef int32x4_t ivec; /* LANES 32-bit integers, or the bytes in their place, a quad of 16 */

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
enum { HAS_BF16 = true };
#else
enum { HAS_BF16 = false };
#endif

enum {
    LANES = 4,
    TILE_X = 6, /* rows of activations in a register block: 24 sums of 32 registers */
    TILE_INT8 = 12, /* the same for int8: each row has an integer sum and an f32 sum */
    INT8_ZERO = 0, /* see ivec_int8 */
};

HY_INLINE vec vec_zero(void)
{
    return vdupq_n_f32(0.0f);
}

HY_INLINE vec vec_all(float value)
{
    return vdupq_n_f32(value);
}

HY_INLINE vec vec_load(const float *p)
{
    return vld1q_f32(p);
}

/* There is no masked access to memory: parts of vectors go through a buffer. */
HY_INLINE vec vec_load_n(const float *p, size_t n)
{
    if (n == LANES)
        return vec_load(p);
    float buffer[LANES] = {0.0f};
    memcpy(buffer, p, n * sizeof *p);
    return vec_load(buffer);
}

HY_INLINE void vec_store(float *p, vec v)
{
    vst1q_f32(p, v);
}

HY_INLINE void vec_store_n(float *p, vec v, size_t n)
{
    if (n == LANES)
        vec_store(p, v);
    else
        memcpy(p, &v, n * sizeof *p);
}

/*
 * Of fp8 numbers. Their bits, moved to where f16 has exponent and mantissa, are the numbers times
 * 2^-8: the exponents' biases are 7 and 15. The carry of adding to NaN's mantissa fills the
 * exponent.
 */
HY_INLINE vec vec_from_fp8(uint32_t bytes)
{
    uint16x4_t spread = vshl_n_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes))), 7);
    uint16x4_t magnitude = vand_u16(spread, vdup_n_u16(0x3f80));
    uint16x4_t sign = vshl_n_u16(veor_u16(spread, magnitude), 1);
    uint16x4_t carry = vadd_u16(magnitude, vdup_n_u16(0x80));
    uint16x4_t nan = vand_u16(carry, vdup_n_u16(0x4000));
    uint16x4_t halves = vorr_u16(vorr_u16(sign, magnitude), nan);
    return vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(halves)), 256.0f);
}

/* LANES elements of a weight or cache row, at any address; INT8 and FP8 without a scale. */
HY_INLINE vec vec_load_as(const unsigned char *p, hymba_dtype dtype)
{
    if (dtype == HYMBA_DTYPE_FP8) {
        uint32_t bytes;
        memcpy(&bytes, p, sizeof bytes);
        return vec_from_fp8(bytes);
    }
    if (dtype == HYMBA_DTYPE_INT8) {
        uint32_t bytes;
        memcpy(&bytes, p, sizeof bytes);
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(bytes)))));
    }
    if (dtype == HYMBA_DTYPE_F32)
        return vreinterpretq_f32_u8(vld1q_u8(p));
    uint8x8_t halves = vld1_u8(p);
    if (dtype == HYMBA_DTYPE_F16)
        return vcvt_f32_f16(vreinterpret_f16_u8(halves));
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(halves), 16));
}

HY_INLINE vec vec_load_as_n(const unsigned char *p, hymba_dtype dtype, size_t n)
{
    if (n == LANES)
        return vec_load_as(p, dtype);
    unsigned char buffer[4 * LANES] = {0};
    memcpy(buffer, p, n * element_bytes(dtype));
    return vec_load_as(buffer, dtype);
}

/* Rounds to nearest even like hy_f32_to_bf16. */
HY_INLINE uint16x4_t vec_to_bf16(vec v)
{
    uint32x4_t bits = vreinterpretq_u32_f32(v);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet), 16);
}

/* Stores as a 16-bit type. */
HY_INLINE void vec_store_as_n(unsigned char *p, vec v, hymba_dtype dtype, size_t n)
{
    uint8x8_t halves = dtype == HYMBA_DTYPE_F16 ? vreinterpret_u8_f16(vcvt_f16_f32(v))
                                                : vreinterpret_u8_u16(vec_to_bf16(v));
    if (n == LANES)
        vst1_u8(p, halves);
    else
        memcpy(p, &halves, 2 * n);
}

HY_INLINE vec vec_add(vec a, vec b)
{
    return vaddq_f32(a, b);
}

HY_INLINE vec vec_sub(vec a, vec b)
{
    return vsubq_f32(a, b);
}

HY_INLINE vec vec_mul(vec a, vec b)
{
    return vmulq_f32(a, b);
}

HY_INLINE vec vec_div(vec a, vec b)
{
    return vdivq_f32(a, b);
}

/* a * b + c, rounded once. */
HY_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return vfmaq_f32(c, a, b);
}

/* The greater or smaller; b if either is not a number, where fmax and fmin give NaN. */
HY_INLINE vec vec_max(vec a, vec b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

HY_INLINE vec vec_min(vec a, vec b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}

/* -|a| */
HY_INLINE vec vec_minus_absolute(vec a)
{
    return vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a), vdupq_n_u32(0x80000000u)));
}

/* To the nearest integer, ties to even. */
HY_INLINE vec vec_round(vec a)
{
    return vrndnq_f32(a);
}

/* 2^n for an integer n in [-126, 127]. */
HY_INLINE vec power_of_two(int32x4_t n)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}

/* a * 2^n for an integer n in [-160, 130], rounded once: no single factor reaches that far. */
HY_INLINE vec vec_scale_by_power(vec a, vec n)
{
    int32x4_t whole = vcvtnq_s32_f32(n);
    int32x4_t first = vshrq_n_s32(whole, 1);
    a = vmulq_f32(a, power_of_two(first));
    return vmulq_f32(a, power_of_two(vsubq_s32(whole, first)));
}

/* first for the lanes below n, then rest. */
HY_INLINE vec vec_select_n(vec first, vec rest, size_t n)
{
    static const uint32_t lanes[LANES] = {0, 1, 2, 3};
    return vbslq_f32(vcltq_u32(vld1q_u32(lanes), vdupq_n_u32((uint32_t)n)), first, rest);
}

/* Sums of the lanes of four vectors; the order of additions is that of vec_sum. */
HY_INLINE void vec_store_4(float four[4], vec a, vec b, vec c, vec d)
{
    vst1q_f32(four, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
}

HY_INLINE float vec_sum(vec v)
{
    return vpadds_f32(vget_low_f32(vpaddq_f32(v, v)));
}

/* No lane may be NaN. */
HY_INLINE float vec_greatest(vec v)
{
    return vmaxvq_f32(v);
}

/* ------------------------------------------------------------- integers */

HY_INLINE ivec ivec_zero(void)
{
    return vdupq_n_s32(0);
}

HY_INLINE ivec ivec_all(int32_t value)
{
    return vdupq_n_s32(value);
}

HY_INLINE ivec ivec_load(const void *p)
{
    return vreinterpretq_s32_u8(vld1q_u8(p));
}

/* The first n 16-bit elements; the others are 0. */
HY_INLINE ivec ivec_load_halves_n(const void *p, size_t n)
{
    uint16_t buffer[2 * LANES] = {0};
    memcpy(buffer, p, 2 * n);
    return ivec_load(buffer);
}

HY_INLINE void ivec_store(void *p, ivec v)
{
    vst1q_u8(p, vreinterpretq_u8_s32(v));
}

/* The same 4 bytes in every lane, the same 16 bytes in every quad. */
HY_INLINE ivec ivec_all_lanes(const void *p)
{
    int32_t value;
    memcpy(&value, p, sizeof value);
    return vdupq_n_s32(value);
}

HY_INLINE ivec ivec_all_quads(const void *p)
{
    return ivec_load(p);
}

/* Quad q holds the 16 bytes at p + 4 * q * stride: there is only one. */
HY_INLINE ivec ivec_load_rows(const unsigned char *p, size_t stride)
{
    (void)stride;
    return ivec_load(p);
}

HY_INLINE ivec ivec_add(ivec a, ivec b)
{
    return vaddq_s32(a, b);
}

HY_INLINE ivec ivec_max(ivec a, ivec b)
{
    return vmaxq_s32(a, b);
}

/* Of every quad the 16-bit elements of the lower or the upper half, those of a and b in turn. */
HY_INLINE ivec ivec_low_elements(ivec a, ivec b)
{
    return vreinterpretq_s32_s16(vzip1q_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
}

HY_INLINE ivec ivec_high_elements(ivec a, ivec b)
{
    return vreinterpretq_s32_s16(vzip2q_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
}

HY_INLINE ivec ivec_low_halves(ivec a, ivec b)
{
    return vzip1q_s32(a, b);
}

HY_INLINE ivec ivec_high_halves(ivec a, ivec b)
{
    return vzip2q_s32(a, b);
}

HY_INLINE ivec ivec_low_pairs(ivec a, ivec b)
{
    return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

HY_INLINE ivec ivec_high_pairs(ivec a, ivec b)
{
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

/* Of every byte its low or its high four bits. */
HY_INLINE ivec ivec_low_nibbles(ivec v)
{
    return vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(v), vdupq_n_u8(15)));
}

HY_INLINE ivec ivec_high_nibbles(ivec v)
{
    return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(v), 4));
}

/* Stored bytes (value + 128) as ivec_dot takes them (value + INT8_ZERO). It multiplies signed bytes
 * here, so they become the values themselves. */
HY_INLINE ivec ivec_int8(ivec v)
{
    return veorq_s32(v, vdupq_n_s32((int32_t)0x80808080u));
}

/*
 * Adds to each lane the products of its four bytes of weights and its four signed ones; exact.
 * Without dot products pairs of products are added up as 16-bit numbers, which hold twice
 * 128 * 127.
 */
HY_INLINE ivec ivec_dot(ivec sum, ivec bytes, ivec signed_bytes)
{
    int8x16_t a = vreinterpretq_s8_s32(bytes), b = vreinterpretq_s8_s32(signed_bytes);
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, a, b);
#else
    int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
#endif
}

HY_INLINE vec vec_from_ints(ivec v)
{
    return vcvtq_f32_s32(v);
}

/* To the nearest integer, ties to even. */
HY_INLINE ivec ivec_from_vec(vec v)
{
    return vcvtnq_s32_f32(v);
}

/* The bit patterns of |v|: their order as integers is that of the magnitudes, NaN above all. */
HY_INLINE ivec ivec_magnitudes(vec v)
{
    return vandq_s32(vreinterpretq_s32_f32(v), vdupq_n_s32(0x7fffffff));
}

/* Of each lane its low or its high 16 bits as a bf16 number. */
HY_INLINE vec vec_from_low_bf16(ivec v)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(v, 16));
}

HY_INLINE vec vec_from_high_bf16(ivec v)
{
    return vreinterpretq_f32_s32(vandq_s32(v, vdupq_n_s32((int32_t)0xffff0000u)));
}

/* Adds to each lane the products of its two bf16 numbers. */
HY_INLINE vec vec_dot_bf16(vec sum, ivec a, ivec b)
{
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
    return vbfdotq_f32(sum, vreinterpretq_bf16_s32(a), vreinterpretq_bf16_s32(b));
#else
    sum = vec_fma(vec_from_high_bf16(a), vec_from_high_bf16(b), sum);
    return vec_fma(vec_from_low_bf16(a), vec_from_low_bf16(b), sum);
#endif
}

/* LANES unsigned bytes as numbers. */
HY_INLINE vec vec_from_bytes(const unsigned char *p)
{
    uint32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    uint16x8_t halves = vmovl_u8(vcreate_u8(bytes));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(halves)));
}

/* The lanes as signed bytes, in place of LANES bytes. */
HY_INLINE void ivec_store_bytes(void *p, ivec v)
{
    int16x4_t halves = vqmovn_s32(v);
    int8x8_t bytes = vqmovn_s16(vcombine_s16(halves, halves));
    memcpy(p, &bytes, LANES);
}

#include "kernel/vector/vec_common.h"

#endif
