/*
 * Quantised weights with one row of int8 activations, for AVX-512. One row waits for the memory
 * alone; four rows of weights, read in whole cache lines, are what the hardware reads ahead best.
 * The integer sums are exact, and the f32 operations are those of quantised_body.h: so is the
 * result.
 */
#ifndef HY_KERNEL_X86_FOUR_ROWS_AVX512_H
#define HY_KERNEL_X86_FOUR_ROWS_AVX512_H

#include "kernel/kernel.h"

/*
 * How far ahead weights are asked for, measured on Zen 4. While weights stream through, x and what
 * belongs to it stay in the nearest cache up to a few thousand elements: there the weights may come
 * as well, if they leave first. Longer rows of x do not stay, and wait less if weights are on
 * their way to the second cache early.
 */
enum {
    LONG_ROW = 4096,          /* elements */
    FETCH_BESIDE_SHORT = 512, /* bytes ahead */
    FETCH_BESIDE_LONG = 3072,
};

/* Four rows of weights. */
struct four_rows {
    const unsigned char *w[4];
    const float *scales; /* [n_groups][4] */
};

/* Scales of the four rows as f32, eight groups at a time; up to seven more than n_groups. */
static void unpack_four_scales(const unsigned char *const rows[4], size_t n_groups, float *scales)
{
    for (size_t g = 0; g < n_groups; g += 8) {
        __m128i v[4];
        size_t bytes = hy_min_size(n_groups - g, 8) * 2;
        __mmask16 present = (__mmask16)((1u << bytes) - 1);
        for (size_t row = 0; row < 4; row++)
            v[row] = _mm_maskz_loadu_epi8(present, rows[row] + g * 2);
        __m128i low[2] = {_mm_unpacklo_epi16(v[0], v[1]), _mm_unpackhi_epi16(v[0], v[1])};
        __m128i high[2] = {_mm_unpacklo_epi16(v[2], v[3]), _mm_unpackhi_epi16(v[2], v[3])};
        for (size_t half = 0; half < 2; half++) {
            __m128i first = _mm_unpacklo_epi32(low[half], high[half]);
            __m128i second = _mm_unpackhi_epi32(low[half], high[half]);
            float *out = scales + (g + 4 * half) * 4;
            _mm256_storeu_si256((__m256i_u *)out,
                                _mm256_slli_epi32(_mm256_cvtepu16_epi32(first), 16));
            _mm256_storeu_si256((__m256i_u *)(out + 8),
                                _mm256_slli_epi32(_mm256_cvtepu16_epi32(second), 16));
        }
    }
}

/* Activations that meet 64 bytes of a row; INT4: those of low and those of high halves. */
struct line_of_x {
    __m512i first, second;
};

HY_INLINE struct line_of_x load_line_of_x(const int8_t *x, size_t bytes, const hymba_dtype dtype)
{
    __mmask64 present = bytes < 64 ? (UINT64_C(1) << bytes) - 1 : ~UINT64_C(0);
    if (dtype == HYMBA_DTYPE_INT8)
        return (struct line_of_x){_mm512_maskz_loadu_epi8(present, x), _mm512_setzero_si512()};
    __mmask64 low = bytes >= 32 ? ~UINT64_C(0) : (UINT64_C(1) << 2 * bytes) - 1;
    __mmask64 high = bytes == 64 ? ~UINT64_C(0)
                     : bytes > 32 ? (UINT64_C(1) << (2 * bytes - 64)) - 1 : 0;
    __m512i a = _mm512_maskz_loadu_epi8(low, x), b = _mm512_maskz_loadu_epi8(high, x + 64);
    return (struct line_of_x){_mm512_shuffle_i32x4(a, b, _MM_SHUFFLE(2, 0, 2, 0)),
                              _mm512_shuffle_i32x4(a, b, _MM_SHUFFLE(3, 1, 3, 1))};
}

HY_INLINE void fetch_ahead(const struct four_rows *rows, size_t offset, const bool is_long)
{
    HY_UNROLL
    for (size_t row = 0; row < 4; row++) {
        if (is_long)
            __builtin_prefetch(rows->w[row] + offset + FETCH_BESIDE_LONG, 0, 2);
        else
            __builtin_prefetch(rows->w[row] + offset + FETCH_BESIDE_SHORT, 0, 0);
    }
}

/* Products of up to 64 bytes of each row: lane r of quad q is row r's sum over the elements of the
 * line's quad q. */
HY_INLINE ivec line_sums(const struct four_rows *rows, size_t offset, size_t bytes,
                         const struct line_of_x x, const hymba_dtype dtype)
{
    __mmask64 present = bytes < 64 ? (UINT64_C(1) << bytes) - 1 : ~UINT64_C(0);
    ivec sums[4];
    HY_UNROLL
    for (size_t row = 0; row < 4; row++) {
        ivec w = bytes == 64 ? ivec_load(rows->w[row] + offset)
                             : _mm512_maskz_loadu_epi8(present, rows->w[row] + offset);
        if (dtype == HYMBA_DTYPE_INT8) {
            sums[row] = ivec_dot(ivec_zero(), w, x.first);
        } else {
            sums[row] = ivec_dot(ivec_zero(), ivec_low_nibbles(w), x.first);
            sums[row] = ivec_dot(sums[row], ivec_high_nibbles(w), x.second);
        }
    }
    ivec_transpose_quads(sums);
    return ivec_add(ivec_add(sums[0], sums[1]), ivec_add(sums[2], sums[3]));
}

/* The sums of group number index in a line that has so many groups. */
HY_INLINE __m128i sums_of_group(ivec line, size_t index, const size_t groups_per_line)
{
    __m256i halves[2] = {_mm512_castsi512_si256(line), _mm512_extracti64x4_epi64(line, 1)};
    if (groups_per_line == 4) {
        __m256i half = halves[index / 2];
        return index % 2 ? _mm256_extracti128_si256(half, 1) : _mm256_castsi256_si128(half);
    }
    __m256i half = groups_per_line == 2 ? halves[index] : _mm256_add_epi32(halves[0], halves[1]);
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

HY_INLINE __m128 add_group(__m128 sum, __m128i products, const struct hy_rounded *x,
                           const struct four_rows *rows, size_t g, const int32_t zero)
{
    products = _mm_add_epi32(products, _mm_set1_epi32(-zero * x->sums[g]));
    __m128 scale = _mm_mul_ps(_mm_loadu_ps(rows->scales + 4 * g), _mm_set1_ps(x->scales[g]));
    return _mm_fmadd_ps(_mm_cvtepi32_ps(products), scale, sum);
}

/* lines_per_group is 2 where a group is longer than a line, otherwise 1. */
HY_INLINE __m128 four_sums(const struct hy_matmul_args *args, const struct four_rows *rows,
                           const size_t groups_per_line, const size_t lines_per_group,
                           const hymba_dtype dtype)
{
    const size_t line = dtype == HYMBA_DTYPE_INT8 ? 64 : 128; /* elements */
    const int32_t zero = zero_point(dtype);
    const struct hy_rounded *x = args->rounded;
    size_t n_groups = args->k / args->group, row_bytes = hy_row_bytes(dtype, args->k), g = 0;
    const bool is_long = args->k > LONG_ROW;
    __m128 sum = _mm_setzero_ps();
    for (size_t offset = 0; offset < row_bytes; offset += 64 * lines_per_group) {
        ivec sums = ivec_zero();
        HY_UNROLL
        for (size_t i = 0; i < lines_per_group; i++)
            fetch_ahead(rows, offset + 64 * i, is_long);
        HY_UNROLL
        for (size_t i = 0; i < lines_per_group; i++) {
            size_t begin = offset + 64 * i, bytes = hy_min_size(row_bytes - begin, 64);
            const int8_t *values = (const int8_t *)x->data + begin / 64 * line;
            sums = ivec_add(sums, line_sums(rows, begin, bytes,
                                            load_line_of_x(values, bytes, dtype), dtype));
        }
        HY_UNROLL
        for (size_t i = 0; i < groups_per_line; i++) {
            if (g == n_groups)
                break;
            sum = add_group(sum, sums_of_group(sums, i, groups_per_line), x, rows, g++, zero);
        }
    }
    return sum;
}

HY_INLINE __m128 four_columns(const struct hy_matmul_args *args, const struct four_rows *rows,
                              const hymba_dtype dtype)
{
    size_t line = dtype == HYMBA_DTYPE_INT8 ? 64 : 128;
    if (args->group == 2 * line)
        return four_sums(args, rows, 1, 2, dtype);
    if (args->group == line)
        return four_sums(args, rows, 1, 1, dtype);
    if (2 * args->group == line)
        return four_sums(args, rows, 2, 1, dtype);
    return four_sums(args, rows, 4, 1, dtype);
}

/* Computes columns from begin on for the only row; returns the first one that is left over. */
HY_INLINE size_t one_row(const struct hy_matmul_args *args, size_t begin, size_t end,
                         float *scales, const hymba_dtype dtype)
{
    size_t line = dtype == HYMBA_DTYPE_INT8 ? 64 : 128, step = (end - begin) / 4;
    size_t row_bytes = hy_row_bytes(dtype, args->k), n_groups = args->k / args->group;
    if (2 * line % args->group != 0) /* lines and groups do not end together */
        return begin;
    for (size_t j = begin; j < begin + step; j++) {
        struct four_rows rows = {.scales = scales};
        const unsigned char *scale_rows[4];
        float four[4];
        for (size_t row = 0; row < 4; row++) {
            size_t column = j + row * step;
            rows.w[row] = (const unsigned char *)args->w + column * row_bytes;
            scale_rows[row] = (const unsigned char *)args->w_scales + column * n_groups * 2;
        }
        unpack_four_scales(scale_rows, n_groups, scales);
        _mm_storeu_ps(four, four_columns(args, &rows, dtype));
        for (size_t row = 0; row < 4; row++) {
            size_t column = j + row * step;
            float sum = args->bias ? four[row] + args->bias[column] : four[row];
            args->y[column] = args->accumulate ? args->y[column] + sum : sum;
        }
    }
    return begin + 4 * step;
}

#endif
