/* The vector layer over AVX-512: 16 lanes. Functions ending in _n touch only the first n elements
 * of memory, 0 < n <= LANES; lanes beyond them load as 0. */
#ifndef HY_KERNEL_X86_VEC_AVX512_H
#define HY_KERNEL_X86_VEC_AVX512_H

#include <immintrin.h>

#include "kernel/x86/inline.h"
#include "tensor/dtype.h"

typedef __m512 vec;

enum {
    LANES = 16,
    TILE_X = 6, /* rows of activations in a register block: 24 sums of 32 registers */
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

/* LANES elements of a weight or cache row, at any address. */
HY_INLINE vec vec_load_as(const unsigned char *p, hymba_dtype dtype)
{
    if (dtype == HYMBA_DTYPE_F32)
        return _mm512_loadu_ps(p);
    return vec_from_halves(_mm256_loadu_si256((const __m256i_u *)p), dtype);
}

HY_INLINE vec vec_load_as_n(const unsigned char *p, hymba_dtype dtype, size_t n)
{
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

#include "kernel/x86/vec_common.h"

#endif
