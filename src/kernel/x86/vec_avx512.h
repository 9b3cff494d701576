/* The vector layer over AVX-512: 16 lanes. Functions ending in _n touch only the first n elements
 * of memory, 0 < n <= LANES; lanes beyond them load as 0. */
#ifndef HY_KERNEL_X86_VEC_AVX512_H
#define HY_KERNEL_X86_VEC_AVX512_H

#include <immintrin.h>

#include "kernel/vector/inline.h"
#include "tensor/dtype.h"

typedef __m512 vec;
typedef __m512i ivec; /* LANES 32-bit integers, or the bytes in their place, in quads of 16 */

#ifdef __AVX512BF16__
enum { HAS_BF16 = true };
#else
enum { HAS_BF16 = false };
#endif

enum {
    LANES = 16,
    TILE_X = 6, /* rows of activations in a register block: 24 sums of 32 registers */
    TILE_INT8 = 12, /* the same for int8: each row has an integer sum and an f32 sum */
    INT8_ZERO = 128, /* see ivec_int8 */
};

HY_INLINE __mmask16 first_lanes(size_t n)
{
    return (__mmask16)((1u << n) - 1u);
}

HY_INLINE vec vec_zero(void)
{
    return _mm512_setzero_ps();
}

HY_INLINE vec vec_all(float value)
{
    return _mm512_set1_ps(value);
}

HY_INLINE vec vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

HY_INLINE vec vec_load_n(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}

HY_INLINE void vec_store(float *p, vec v)
{
    _mm512_storeu_ps(p, v);
}

HY_INLINE void vec_store_n(float *p, vec v, size_t n)
{
    _mm512_mask_storeu_ps(p, first_lanes(n), v);
}

HY_INLINE vec vec_from_halves(__m256i halves, hymba_dtype dtype)
{
    if (dtype == HYMBA_DTYPE_F16)
        return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/*
 * Of fp8 numbers. Their bits, moved to where f16 has exponent and mantissa, are the numbers times
 * 2^-8: the exponents' biases are 7 and 15. The carry of adding to NaN's mantissa fills the
 * exponent.
 */
HY_INLINE vec vec_from_fp8(__m128i bytes)
{
    __m256i spread = _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 7);
    __m256i magnitude = _mm256_and_si256(spread, _mm256_set1_epi16(0x3f80));
    __m256i sign = _mm256_slli_epi16(_mm256_xor_si256(spread, magnitude), 1);
    __m256i carry = _mm256_add_epi16(magnitude, _mm256_set1_epi16(0x80));
    __m256i nan = _mm256_and_si256(carry, _mm256_set1_epi16(0x4000));
    __m256i halves = _mm256_or_si256(_mm256_or_si256(sign, magnitude), nan);
    return _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(256.0f));
}

/* LANES elements of a weight or cache row, at any address; INT8 and FP8 without a scale. */
HY_INLINE vec vec_load_as(const unsigned char *p, hymba_dtype dtype)
{
    if (dtype == HYMBA_DTYPE_FP8)
        return vec_from_fp8(_mm_loadu_si128((const __m128i_u *)p));
    if (dtype == HYMBA_DTYPE_INT8)
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i_u *)p)));
    if (dtype == HYMBA_DTYPE_F32)
        return _mm512_loadu_ps(p);
    return vec_from_halves(_mm256_loadu_si256((const __m256i_u *)p), dtype);
}

HY_INLINE vec vec_load_as_n(const unsigned char *p, hymba_dtype dtype, size_t n)
{
    if (dtype == HYMBA_DTYPE_FP8)
        return vec_from_fp8(_mm_maskz_loadu_epi8(first_lanes(n), p));
    if (dtype == HYMBA_DTYPE_INT8)
        return _mm512_cvtepi32_ps(
            _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first_lanes(n), p)));
    if (dtype == HYMBA_DTYPE_F32)
        return _mm512_maskz_loadu_ps(first_lanes(n), p);
    return vec_from_halves(_mm256_maskz_loadu_epi16(first_lanes(n), p), dtype);
}

/* Rounds to nearest even like hy_f32_to_bf16. */
HY_INLINE __m256i vec_to_bf16(vec v)
{
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i half_unit = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    __m512i rounded = _mm512_add_epi32(bits, half_unit);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

/* Stores as a 16-bit type. */
HY_INLINE void vec_store_as_n(unsigned char *p, vec v, hymba_dtype dtype, size_t n)
{
    __m256i halves = dtype == HYMBA_DTYPE_F16
                         ? _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
                         : vec_to_bf16(v);
    _mm256_mask_storeu_epi16(p, first_lanes(n), halves);
}

HY_INLINE vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

HY_INLINE vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

HY_INLINE vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

HY_INLINE vec vec_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}

/* a * b + c, rounded once. */
HY_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* The greater or smaller; b if either is not a number. */
HY_INLINE vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

HY_INLINE vec vec_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}

/* -|a| */
HY_INLINE vec vec_minus_absolute(vec a)
{
    return _mm512_or_ps(a, _mm512_set1_ps(-0.0f));
}

/* To the nearest integer, ties to even. */
HY_INLINE vec vec_round(vec a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* a * 2^n for an integer n in [-160, 130], rounded once. */
HY_INLINE vec vec_scale_by_power(vec a, vec n)
{
    return _mm512_scalef_ps(a, n);
}

/* first for the lanes below n, then rest. */
HY_INLINE vec vec_select_n(vec first, vec rest, size_t n)
{
    return _mm512_mask_blend_ps(first_lanes(n), rest, first);
}

/* Lanes i, i + 4, i + 8, i + 12 added up into lane i. */
HY_INLINE __m128 fold_sum(vec v)
{
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

HY_INLINE __m128 fold_max(vec v)
{
    __m256 half = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* ------------------------------------------------------------- integers */

HY_INLINE ivec ivec_zero(void)
{
    return _mm512_setzero_si512();
}

HY_INLINE ivec ivec_all(int32_t value)
{
    return _mm512_set1_epi32(value);
}

HY_INLINE ivec ivec_load(const void *p)
{
    return _mm512_loadu_si512(p);
}

/* The first n 16-bit elements; the others are 0. */
HY_INLINE ivec ivec_load_halves_n(const void *p, size_t n)
{
    return _mm512_maskz_loadu_epi16((__mmask32)((UINT64_C(1) << n) - 1), p);
}

HY_INLINE void ivec_store(void *p, ivec v)
{
    _mm512_storeu_si512(p, v);
}

/* The same 4 bytes in every lane, the same 16 bytes in every quad. */
HY_INLINE ivec ivec_all_lanes(const void *p)
{
    int32_t value;
    memcpy(&value, p, sizeof value);
    return _mm512_set1_epi32(value);
}

HY_INLINE __m128i load_16(const void *p)
{
    return _mm_loadu_si128((const __m128i_u *)p);
}

HY_INLINE ivec ivec_all_quads(const void *p)
{
    return _mm512_broadcast_i32x4(load_16(p));
}

/* Quad q holds the 16 bytes at p + 4 * q * stride. */
HY_INLINE ivec ivec_load_rows(const unsigned char *p, size_t stride)
{
    __m512i v = _mm512_castsi128_si512(load_16(p));
    v = _mm512_mask_broadcast_i32x4(v, 0x00f0, load_16(p + 4 * stride));
    v = _mm512_mask_broadcast_i32x4(v, 0x0f00, load_16(p + 8 * stride));
    return _mm512_mask_broadcast_i32x4(v, 0xf000, load_16(p + 12 * stride));
}

HY_INLINE ivec ivec_add(ivec a, ivec b)
{
    return _mm512_add_epi32(a, b);
}

HY_INLINE ivec ivec_max(ivec a, ivec b)
{
    return _mm512_max_epi32(a, b);
}

/* Of every quad the 16-bit elements of the lower or the upper half, those of a and b in turn. */
HY_INLINE ivec ivec_low_elements(ivec a, ivec b)
{
    return _mm512_unpacklo_epi16(a, b);
}

HY_INLINE ivec ivec_high_elements(ivec a, ivec b)
{
    return _mm512_unpackhi_epi16(a, b);
}

HY_INLINE ivec ivec_low_halves(ivec a, ivec b)
{
    return _mm512_unpacklo_epi32(a, b);
}

HY_INLINE ivec ivec_high_halves(ivec a, ivec b)
{
    return _mm512_unpackhi_epi32(a, b);
}

HY_INLINE ivec ivec_low_pairs(ivec a, ivec b)
{
    return _mm512_unpacklo_epi64(a, b);
}

HY_INLINE ivec ivec_high_pairs(ivec a, ivec b)
{
    return _mm512_unpackhi_epi64(a, b);
}

/* Of every byte its low or its high four bits. */
HY_INLINE ivec ivec_low_nibbles(ivec v)
{
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

HY_INLINE ivec ivec_high_nibbles(ivec v)
{
    return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}

/* The elements of 2 * LANES bytes, a byte each: of every 16 bytes the low halves, then the high. */
HY_INLINE ivec ivec_nibbles(const void *p)
{
    __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i_u *)p));
    v = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), v);
    v = _mm512_srlv_epi64(v, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

/* Stored bytes (value + 128) as ivec_dot takes them (value + INT8_ZERO). */
HY_INLINE ivec ivec_int8(ivec v)
{
    return v;
}

/* Adds to each lane the products of its four unsigned bytes and its four signed ones; exact. */
HY_INLINE ivec ivec_dot(ivec sum, ivec bytes, ivec signed_bytes)
{
#ifdef __AVX512VNNI__
    return _mm512_dpbusd_epi32(sum, bytes, signed_bytes);
#else
    __m512i even = _mm512_madd_epi16(_mm512_and_si512(bytes, _mm512_set1_epi16(255)),
                                     _mm512_srai_epi16(_mm512_slli_epi16(signed_bytes, 8), 8));
    __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(bytes, 8),
                                    _mm512_srai_epi16(signed_bytes, 8));
    return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
#endif
}

HY_INLINE vec vec_from_ints(ivec v)
{
    return _mm512_cvtepi32_ps(v);
}

/* To the nearest integer, ties to even. */
HY_INLINE ivec ivec_from_vec(vec v)
{
    return _mm512_cvtps_epi32(v);
}

/* The bit patterns of |v|: their order as integers is that of the magnitudes, NaN above all. */
HY_INLINE ivec ivec_magnitudes(vec v)
{
    return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
}

/* Of each lane its low or its high 16 bits as a bf16 number. */
HY_INLINE vec vec_from_low_bf16(ivec v)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

HY_INLINE vec vec_from_high_bf16(ivec v)
{
    return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000u)));
}

/* Adds to each lane the products of its two bf16 numbers. */
HY_INLINE vec vec_dot_bf16(vec sum, ivec a, ivec b)
{
#ifdef __AVX512BF16__
    /* gcc 12 sends the intrinsic's operands through the stack */
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#else
    sum = vec_fma(vec_from_high_bf16(a), vec_from_high_bf16(b), sum);
    return vec_fma(vec_from_low_bf16(a), vec_from_low_bf16(b), sum);
#endif
}

/* LANES unsigned bytes as numbers. */
HY_INLINE vec vec_from_bytes(const unsigned char *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i_u *)p)));
}

/* The lanes as signed bytes, in place of LANES bytes. */
HY_INLINE void ivec_store_bytes(void *p, ivec v)
{
    _mm_storeu_si128((__m128i_u *)p, _mm512_cvtepi32_epi8(v));
}

#include "kernel/vector/vec_common.h"
#include "kernel/x86/vec_sums.h"

#endif
