/* The part of the vector layer that is the same for every width; included by vec_*.h. */
#ifndef HY_KERNEL_VECTOR_VEC_COMMON_H
#define HY_KERNEL_VECTOR_VEC_COMMON_H

#include "base/checked.h"

/* Exchanges lane j of every quad of v[i] with lane i of that quad of v[j]. */
HY_INLINE void ivec_transpose_quads(ivec v[4])
{
    ivec a = ivec_low_halves(v[0], v[1]), b = ivec_high_halves(v[0], v[1]);
    ivec c = ivec_low_halves(v[2], v[3]), d = ivec_high_halves(v[2], v[3]);
    v[0] = ivec_low_pairs(a, c);
    v[1] = ivec_high_pairs(a, c);
    v[2] = ivec_low_pairs(b, d);
    v[3] = ivec_high_pairs(b, d);
}

/* The greatest lane and the sum of all. */
HY_INLINE int32_t ivec_greatest(ivec v)
{
    int32_t lanes[LANES], greatest;
    ivec_store(lanes, v);
    greatest = lanes[0];
    for (size_t i = 1; i < LANES; i++)
        greatest = lanes[i] > greatest ? lanes[i] : greatest;
    return greatest;
}

HY_INLINE int32_t ivec_sum(ivec v)
{
    int32_t lanes[LANES], sum = 0;
    ivec_store(lanes, v);
    for (size_t i = 0; i < LANES; i++)
        sum += lanes[i];
    return sum;
}

/* Elements of the vector that begins at i of n. */
HY_INLINE size_t lanes_at(size_t i, size_t n)
{
    return hy_min_size(n - i, LANES);
}

/*
 * e^x. Relative error at most 2e-7 where the result is normal; subnormal results are within one
 * unit. Over- and underflow give infinity and 0, NaN stays NaN.
 *
 * x = n ln 2 + r, |r| <= ln(2) / 2; ln 2 in two parts, the first so short that n times it is exact.
 * e^r = 1 + r + r^2 p(r): p is the polynomial of degree 4 with the smallest greatest error, 3e-9.
 */
HY_INLINE vec vec_exp(vec x)
{
    x = vec_min(vec_all(89.0f), vec_max(vec_all(-104.0f), x)); /* beyond: infinity and 0 anyway */
    vec n = vec_round(vec_mul(x, vec_all(1.44269504f)));
    vec r = vec_fma(n, vec_all(-0.693359375f), x);
    r = vec_fma(n, vec_all(2.12194440e-4f), r);
    vec p = vec_all(0.00138146132608f);
    p = vec_fma(p, r, vec_all(0.00836870982417f));
    p = vec_fma(p, r, vec_all(0.0416683873613f));
    p = vec_fma(p, r, vec_all(0.166665206898f));
    p = vec_fma(p, r, vec_all(0.499999934517f));
    p = vec_fma(p, r, vec_all(1.0f));
    p = vec_fma(p, r, vec_all(1.0f));
    return vec_scale_by_power(p, n);
}

HY_INLINE vec vec_silu(vec x)
{
    return vec_div(x, vec_add(vec_all(1.0f), vec_exp(vec_sub(vec_zero(), x))));
}

/*
 * log(1 + e^x) = max(x, 0) + log(1 + e), e = e^-|x|. Relative error at most 5e-7.
 * log(1 + e) = 2 artanh(s), s = e / (2 + e), 0 <= s <= 1/3; artanh(s) = s + s^3 p(s^2), where p of
 * degree 3 adds an error of 5e-9.
 */
HY_INLINE vec vec_softplus(vec x)
{
    vec e = vec_exp(vec_minus_absolute(x));
    vec s = vec_div(e, vec_add(vec_all(2.0f), e));
    vec u = vec_mul(s, s);
    vec p = vec_all(0.14012229485f);
    p = vec_fma(p, u, vec_all(0.13999570524f));
    p = vec_fma(p, u, vec_all(0.200108495306f));
    p = vec_fma(p, u, vec_all(0.333332065663f));
    vec logarithm = vec_fma(vec_mul(s, u), p, s);
    return vec_fma(logarithm, vec_all(2.0f), vec_max(vec_zero(), x));
}

#endif
