/* The vector layer over AVX2, FMA and F16C: 8 lanes. Functions ending in _n touch only the first n
 * elements of memory, 0 < n <= LANES; lanes beyond them load as 0. */
#ifndef HY_KERNEL_X86_VEC_AVX2_H
#define HY_KERNEL_X86_VEC_AVX2_H

#include <immintrin.h>

#include "kernel/vector/inline.h"
#include "tensor/dtype.h"

typedef __m256 vec;
typedef __m256i ivec; /* LANES 32-bit integers, or the bytes in their place, in quads of 16 */

enum {
    HAS_BF16 = false, /* bf16 products are computed in f32 */
    LANES = 8,
    TILE_X = 3, /* rows of activations in a register block: 12 sums of 16 registers */
    TILE_INT8 = 4, /* the same for int8: each row has an integer sum and an f32 sum */
    INT8_ZERO = 128, /* see ivec_int8 */
};

HY_INLINE __m256i first_lanes(size_t n)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}

HY_INLINE vec vec_zero(void)
{
    return _mm256_setzero_ps();
}

HY_INLINE vec vec_all(float value)
{
    return _mm256_set1_ps(value);
}

HY_INLINE vec vec_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

HY_INLINE vec vec_load_n(const float *p, size_t n)
{
    return _mm256_maskload_ps(p, first_lanes(n));
}

HY_INLINE void vec_store(float *p, vec v)
{
    _mm256_storeu_ps(p, v);
}

HY_INLINE void vec_store_n(float *p, vec v, size_t n)
{
    if (n == LANES)
        vec_store(p, v);
    else
        _mm256_maskstore_ps(p, first_lanes(n), v);
}

HY_INLINE vec vec_from_halves(__m128i halves, hymba_dtype dtype)
{
    if (dtype == HYMBA_DTYPE_F16)
        return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

/*
 * Of fp8 numbers. Their bits, moved to where f16 has exponent and mantissa, are the numbers times
 * 2^-8: the exponents' biases are 7 and 15. The carry of adding to NaN's mantissa fills the
 * exponent.
 */
HY_INLINE vec vec_from_fp8(__m128i bytes)
{
    __m128i spread = _mm_slli_epi16(_mm_cvtepu8_epi16(bytes), 7);
    __m128i magnitude = _mm_and_si128(spread, _mm_set1_epi16(0x3f80));
    __m128i sign = _mm_slli_epi16(_mm_xor_si128(spread, magnitude), 1);
    __m128i carry = _mm_add_epi16(magnitude, _mm_set1_epi16(0x80));
    __m128i nan = _mm_and_si128(carry, _mm_set1_epi16(0x4000));
    __m128i halves = _mm_or_si128(_mm_or_si128(sign, magnitude), nan);
    return _mm256_mul_ps(_mm256_cvtph_ps(halves), _mm256_set1_ps(256.0f));
}

/* LANES elements of a weight or cache row, at any address; INT8 and FP8 without a scale. */
HY_INLINE vec vec_load_as(const unsigned char *p, hymba_dtype dtype)
{
    if (dtype == HYMBA_DTYPE_FP8)
        return vec_from_fp8(_mm_loadl_epi64((const __m128i_u *)p));
    if (dtype == HYMBA_DTYPE_INT8)
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i_u *)p)));
    if (dtype == HYMBA_DTYPE_F32)
        return _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i_u *)p));
    return vec_from_halves(_mm_loadu_si128((const __m128i_u *)p), dtype);
}

/* AVX2 has no masked access to 8- and 16-bit elements: these two go through a buffer. */
HY_INLINE vec vec_load_as_n(const unsigned char *p, hymba_dtype dtype, size_t n)
{
    if (n == LANES)
        return vec_load_as(p, dtype);
    unsigned char buffer[4 * LANES] = {0};
    memcpy(buffer, p, n * element_bytes(dtype));
    return vec_load_as(buffer, dtype);
}

/* Rounds to nearest even like hy_f32_to_bf16. */
HY_INLINE __m128i vec_to_bf16(vec v)
{
    __m256i bits = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i half_unit = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    __m256i rounded = _mm256_add_epi32(bits, half_unit);
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    rounded = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
    rounded = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

/* Stores as a 16-bit type. */
HY_INLINE void vec_store_as_n(unsigned char *p, vec v, hymba_dtype dtype, size_t n)
{
    __m128i halves = dtype == HYMBA_DTYPE_F16
                         ? _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
                         : vec_to_bf16(v);
    if (n == LANES)
        _mm_storeu_si128((__m128i_u *)p, halves);
    else
        memcpy(p, &halves, 2 * n);
}

HY_INLINE vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

HY_INLINE vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

HY_INLINE vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

HY_INLINE vec vec_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}

/* a * b + c, rounded once. */
HY_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

/* The greater or smaller; b if either is not a number. */
HY_INLINE vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

HY_INLINE vec vec_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}

/* -|a| */
HY_INLINE vec vec_minus_absolute(vec a)
{
    return _mm256_or_ps(a, _mm256_set1_ps(-0.0f));
}

/* To the nearest integer, ties to even. */
HY_INLINE vec vec_round(vec a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* 2^n for an integer n in [-126, 127]. */
HY_INLINE vec power_of_two(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* a * 2^n for an integer n in [-160, 130], rounded once: no single factor reaches that far. */
HY_INLINE vec vec_scale_by_power(vec a, vec n)
{
    __m256i whole = _mm256_cvtps_epi32(n);
    __m256i first = _mm256_srai_epi32(whole, 1);
    a = _mm256_mul_ps(a, power_of_two(first));
    return _mm256_mul_ps(a, power_of_two(_mm256_sub_epi32(whole, first)));
}

/* first for the lanes below n, then rest. */
HY_INLINE vec vec_select_n(vec first, vec rest, size_t n)
{
    return _mm256_blendv_ps(rest, first, _mm256_castsi256_ps(first_lanes(n)));
}

/* Lanes i and i + 4 added up into lane i. */
HY_INLINE __m128 fold_sum(vec v)
{
    return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

HY_INLINE __m128 fold_max(vec v)
{
    return _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

/* ------------------------------------------------------------- integers */

HY_INLINE ivec ivec_zero(void)
{
    return _mm256_setzero_si256();
}

HY_INLINE ivec ivec_all(int32_t value)
{
    return _mm256_set1_epi32(value);
}

HY_INLINE ivec ivec_load(const void *p)
{
    return _mm256_loadu_si256((const __m256i_u *)p);
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
    _mm256_storeu_si256((__m256i_u *)p, v);
}

/* The same 4 bytes in every lane, the same 16 bytes in every quad. */
HY_INLINE ivec ivec_all_lanes(const void *p)
{
    int32_t value;
    memcpy(&value, p, sizeof value);
    return _mm256_set1_epi32(value);
}

HY_INLINE ivec ivec_all_quads(const void *p)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i_u *)p));
}

/* Quad q holds the 16 bytes at p + 4 * q * stride. */
HY_INLINE ivec ivec_load_rows(const unsigned char *p, size_t stride)
{
    __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i_u *)p));
    return _mm256_inserti128_si256(low, _mm_loadu_si128((const __m128i_u *)(p + 4 * stride)), 1);
}

HY_INLINE ivec ivec_add(ivec a, ivec b)
{
    return _mm256_add_epi32(a, b);
}

HY_INLINE ivec ivec_max(ivec a, ivec b)
{
    return _mm256_max_epi32(a, b);
}

/* Of every quad the 16-bit elements of the lower or the upper half, those of a and b in turn. */
HY_INLINE ivec ivec_low_elements(ivec a, ivec b)
{
    return _mm256_unpacklo_epi16(a, b);
}

HY_INLINE ivec ivec_high_elements(ivec a, ivec b)
{
    return _mm256_unpackhi_epi16(a, b);
}

HY_INLINE ivec ivec_low_halves(ivec a, ivec b)
{
    return _mm256_unpacklo_epi32(a, b);
}

HY_INLINE ivec ivec_high_halves(ivec a, ivec b)
{
    return _mm256_unpackhi_epi32(a, b);
}

HY_INLINE ivec ivec_low_pairs(ivec a, ivec b)
{
    return _mm256_unpacklo_epi64(a, b);
}

HY_INLINE ivec ivec_high_pairs(ivec a, ivec b)
{
    return _mm256_unpackhi_epi64(a, b);
}

/* Of every byte its low or its high four bits. */
HY_INLINE ivec ivec_low_nibbles(ivec v)
{
    return _mm256_and_si256(v, _mm256_set1_epi8(15));
}

HY_INLINE ivec ivec_high_nibbles(ivec v)
{
    return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
}

/* The elements of 2 * LANES bytes, a byte each: of every 16 bytes the low halves, then the high. */
HY_INLINE ivec ivec_nibbles(const void *p)
{
    __m256i v = _mm256_srlv_epi64(ivec_all_quads(p), _mm256_set_epi64x(4, 4, 0, 0));
    return _mm256_and_si256(v, _mm256_set1_epi8(15));
}

/* Stored bytes (value + 128) as ivec_dot takes them (value + INT8_ZERO). */
HY_INLINE ivec ivec_int8(ivec v)
{
    return v;
}

/* Adds to each lane the products of its four unsigned bytes and its four signed ones; exact. */
HY_INLINE ivec ivec_dot(ivec sum, ivec bytes, ivec signed_bytes)
{
    __m256i even = _mm256_madd_epi16(_mm256_and_si256(bytes, _mm256_set1_epi16(255)),
                                     _mm256_srai_epi16(_mm256_slli_epi16(signed_bytes, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(bytes, 8),
                                    _mm256_srai_epi16(signed_bytes, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

HY_INLINE vec vec_from_ints(ivec v)
{
    return _mm256_cvtepi32_ps(v);
}

/* To the nearest integer, ties to even. */
HY_INLINE ivec ivec_from_vec(vec v)
{
    return _mm256_cvtps_epi32(v);
}

/* The bit patterns of |v|: their order as integers is that of the magnitudes, NaN above all. */
HY_INLINE ivec ivec_magnitudes(vec v)
{
    return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
}

/* Of each lane its low or its high 16 bits as a bf16 number. */
HY_INLINE vec vec_from_low_bf16(ivec v)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}

HY_INLINE vec vec_from_high_bf16(ivec v)
{
    return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000u)));
}

/* Adds to each lane the products of its two bf16 numbers. */
HY_INLINE vec vec_dot_bf16(vec sum, ivec a, ivec b)
{
    sum = vec_fma(vec_from_high_bf16(a), vec_from_high_bf16(b), sum);
    return vec_fma(vec_from_low_bf16(a), vec_from_low_bf16(b), sum);
}

/* LANES unsigned bytes as numbers. */
HY_INLINE vec vec_from_bytes(const unsigned char *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)p)));
}

/* The lanes as signed bytes, in place of LANES bytes. */
HY_INLINE void ivec_store_bytes(void *p, ivec v)
{
    __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64((__m128i_u *)p, _mm_packs_epi16(halves, halves));
}

#include "kernel/vector/vec_common.h"
#include "kernel/x86/vec_sums.h"

#endif
