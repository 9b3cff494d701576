/*
 * Rows that a block computes with twice: a thread takes every so-manyth element, the first ones of
 * which it keeps. Sums of a row run in an order that hangs on its length alone.
 */
#ifndef HYMBA_CUDA_KEPT_ROW_H
#define HYMBA_CUDA_KEPT_ROW_H

#include "portable.h"

/* A thread keeps so many elements of a row; it reads later ones twice. */
enum { HY_KEPT = 8, HY_MOST_WARPS = 32 };

/* Depends on a row's length alone, for the order of the sum does on it. */
static inline unsigned hy_row_threads(size_t n)
{
    if (n <= HY_WARP * HY_KEPT)
        return HY_WARP;
    return n <= 256 * HY_KEPT ? 256 : n <= 512 * HY_KEPT ? 512 : 1024;
}

struct hy_kept_row {
    const float *x;
    size_t n;
    float kept[HY_KEPT];
};

/* Loads what is kept. */
HY_DEVICE void hy_load_kept(struct hy_kept_row &row, const float *x, size_t n)
{
    row.x = x;
    row.n = n;
#pragma unroll
    for (int k = 0; k < HY_KEPT; k++) {
        size_t i = hy_thread() + k * hy_block_threads();
        row.kept[k] = i < n ? hy_load(x + i) : 0.0f;
    }
}

/* The same; the thread's part of the sum of squares. */
HY_DEVICE float hy_load_row(struct hy_kept_row &row, const float *x, size_t n)
{
    const size_t threads = hy_block_threads();
    float sum = 0.0f;
    hy_load_kept(row, x, n);
#pragma unroll
    for (int k = 0; k < HY_KEPT; k++)
        sum = hy_fma(row.kept[k], row.kept[k], sum);
    for (size_t i = hy_thread() + HY_KEPT * threads; i < n; i += threads) {
        float value = hy_load(x + i);
        sum = hy_fma(value, value, sum);
    }
    return sum;
}

HY_DEVICE float hy_sum_of_warp(float value)
{
#pragma unroll
    for (unsigned mask = HY_WARP / 2; mask > 0; mask /= 2)
        value += hy_shuffle_xor(value, mask);
    return value;
}

/* Puts the sum of the thread's warp into its place; after the barrier, hy_sum_of_warps. */
HY_DEVICE void hy_share_sum(const hy_shared<float> &sums, float value)
{
    float sum = hy_sum_of_warp(value);
    if (hy_thread() % HY_WARP == 0)
        sums[hy_thread() / HY_WARP] = sum;
}

HY_DEVICE float hy_sum_of_warps(const hy_shared<float> &sums)
{
    float sum = 0.0f;
    for (unsigned warp = 0; warp < hy_block_threads() / HY_WARP; warp++)
        sum += sums[warp];
    return sum;
}

HY_DEVICE float hy_inverse_rms(float sum, size_t n, float epsilon)
{
    return 1.0f / sqrtf(sum / (float)n + epsilon);
}

/* The sums of squares of two rows of n elements, in every thread; loads what is kept of both. */
HY_DEVICE float2 hy_sum_streams(struct hy_kept_row &first, const float *x,
                                struct hy_kept_row &second, const float *y, size_t n)
{
    hy_shared<float> sums_first(0, HY_MOST_WARPS);
    hy_shared<float> sums_second(sizeof(float) * HY_MOST_WARPS, HY_MOST_WARPS);
    hy_share_sum(sums_first, hy_load_row(first, x, n));
    hy_share_sum(sums_second, hy_load_row(second, y, n));
    hy_sync();
    return make_float2(hy_sum_of_warps(sums_first), hy_sum_of_warps(sums_second));
}

#endif
