/* Sums over the lanes, which for both widths end in four; included by vec_avx*.h. */
#ifndef HY_KERNEL_X86_VEC_SUMS_H
#define HY_KERNEL_X86_VEC_SUMS_H

/* Sums of the lanes of four vectors; the order of additions is that of vec_sum. */
HY_INLINE void vec_store_4(float four[4], vec a, vec b, vec c, vec d)
{
    __m128 ab = _mm_hadd_ps(fold_sum(a), fold_sum(b));
    __m128 cd = _mm_hadd_ps(fold_sum(c), fold_sum(d));
    _mm_storeu_ps(four, _mm_hadd_ps(ab, cd));
}

HY_INLINE float vec_sum(vec v)
{
    __m128 pairs = _mm_hadd_ps(fold_sum(v), _mm_setzero_ps());
    return _mm_cvtss_f32(_mm_hadd_ps(pairs, pairs));
}

HY_INLINE float vec_greatest(vec v)
{
    __m128 four = fold_max(v);
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#endif
