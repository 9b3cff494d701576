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
 * belongs to it stay in the nearest cache up to a few thousand elements: there int8 weights may
 * come as well, if they leave first. int4 weights, which take longer to multiply, and those that
 * meet longer rows of x, which do not stay, had better be on their way to the second cache early.
 */
enum {
    LONG_ROW = 4096,      /* elements */
    FETCH_NEAREST = 512,  /* bytes ahead */
    FETCH_INT4 = 1024,
    FETCH_LONG = 3072,
};

/* Four rows of weights, and what belongs to their groups: [n_groups][4], with room for whole
 * vectors behind. Scales are those of weights times those of x. */
struct four_rows {
    const unsigned char *w[4];
    const float *scales;
    const int32_t *offsets; /* of the sums: what the weights' zero point adds to them, negative */
};

/* What of x belongs to a group, in front of each of four rows. */
static void repeat_four_times(const struct hy_rounded *x, size_t n_groups, int32_t zero,
                              float *scales, int32_t *offsets)
{
    for (size_t g = 0; g < n_groups; g++) {
        _mm_storeu_ps(scales + 4 * g, _mm_set1_ps(x->scales[g]));
        _mm_storeu_si128((__m128i_u *)(offsets + 4 * g), _mm_set1_epi32(-zero * x->sums[g]));
    }
}

/* Scales of the four rows, bf16, times those of x: eight groups at a time, up to seven more than
 * n_groups. */
static void unpack_four_scales(const unsigned char *const rows[4], size_t n_groups,
                               const float *x_scales, float *scales)
{
    /* element 4 g + r of a vector is word g of row r, in the upper half of a float */
    const __m512i quads = _mm512_set_epi32(27, 19, 11, 3, 26, 18, 10, 2, 25, 17, 9, 1, 24, 16, 8,
                                           0);
    const __m512i words[2] = {_mm512_slli_epi32(quads, 16),
                              _mm512_slli_epi32(_mm512_add_epi32(quads, _mm512_set1_epi32(4)), 16)};
    const __mmask32 upper = 0xAAAAAAAA;
    for (size_t g = 0; g < n_groups; g += 8) {
        __m128i v[4];
        size_t bytes = hy_min_size(n_groups - g, 8) * 2;
        __mmask16 present = (__mmask16)((1u << bytes) - 1);
        for (size_t row = 0; row < 4; row++)
            v[row] = _mm_maskz_loadu_epi8(present, rows[row] + g * 2);
        __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(v[0]), v[1], 1);
        __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(v[2]), v[3], 1);
        __m512i all = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        for (size_t half = 0; half < 2; half++) {
            size_t i = (g + 4 * half) * 4;
            __m512i scale = _mm512_maskz_permutexvar_epi16(upper, words[half], all);
            _mm512_storeu_ps(scales + i, _mm512_mul_ps(_mm512_castsi512_ps(scale),
                                                       _mm512_loadu_ps(x_scales + i)));
        }
    }
}

/* Activations that meet 64 bytes of a row; INT4: those of low and those of high halves. */
struct line_of_x {
    __m512i first, second;
};

/* A line of so many bytes; whole if they are 64. */
HY_INLINE struct line_of_x load_line_of_x(const int8_t *x, size_t bytes, const bool whole,
                                          const hymba_dtype dtype)
{
    __mmask64 present = whole ? ~UINT64_C(0) : (UINT64_C(1) << bytes) - 1;
    if (dtype == HYMBA_DTYPE_INT8)
        return (struct line_of_x){_mm512_maskz_loadu_epi8(present, x), _mm512_setzero_si512()};
    __mmask64 low = whole || bytes >= 32 ? ~UINT64_C(0) : (UINT64_C(1) << 2 * bytes) - 1;
    __mmask64 high = whole ? ~UINT64_C(0)
                     : bytes > 32 ? (UINT64_C(1) << (2 * bytes - 64)) - 1 : 0;
    __m512i a = _mm512_maskz_loadu_epi8(low, x), b = _mm512_maskz_loadu_epi8(high, x + 64);
    return (struct line_of_x){_mm512_shuffle_i32x4(a, b, _MM_SHUFFLE(2, 0, 2, 0)),
                              _mm512_shuffle_i32x4(a, b, _MM_SHUFFLE(3, 1, 3, 1))};
}

HY_INLINE void fetch_ahead(const struct four_rows *rows, size_t offset, const bool is_long,
                           const hymba_dtype dtype)
{
    HY_UNROLL
    for (size_t row = 0; row < 4; row++) {
        const unsigned char *w = rows->w[row] + offset;
        if (is_long)
            __builtin_prefetch(w + FETCH_LONG, 0, 2);
        else if (dtype == HYMBA_DTYPE_INT8)
            __builtin_prefetch(w + FETCH_NEAREST, 0, 0);
        else
            __builtin_prefetch(w + FETCH_INT4, 0, 2);
    }
}

/* Products of up to 64 bytes of each row: lane r of quad q is row r's sum over the elements of the
 * line's quad q. */
HY_INLINE ivec line_sums(const struct four_rows *rows, size_t offset, size_t bytes,
                         const bool whole, const struct line_of_x x, const hymba_dtype dtype)
{
    __mmask64 present = whole ? ~UINT64_C(0) : (UINT64_C(1) << bytes) - 1;
    ivec sums[4];
    HY_UNROLL
    for (size_t row = 0; row < 4; row++) {
        ivec w = whole ? ivec_load(rows->w[row] + offset)
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

/* Adds the first n of four groups, which are the quads of a line. */
HY_INLINE __m128 add_whole_line(__m128 sum, const struct four_rows *rows, ivec line, size_t g,
                                 const size_t n)
{
    ivec sums = ivec_add(line, _mm512_loadu_si512(rows->offsets + 4 * g));
    __m512 products = _mm512_cvtepi32_ps(sums);
    __m128 quads[4] = {
        _mm512_castps512_ps128(products), _mm512_extractf32x4_ps(products, 1),
        _mm512_extractf32x4_ps(products, 2), _mm512_extractf32x4_ps(products, 3),
    };
    for (size_t i = 0; i < n; i++)
        sum = _mm_fmadd_ps(quads[i], _mm_loadu_ps(rows->scales + 4 * (g + i)), sum);
    return sum;
}

/* Adds a group that is as much of a line as `sums` holds. */
HY_INLINE __m128 add_half_line(__m128 sum, const struct four_rows *rows, __m256i sums, size_t g)
{
    __m128i products = _mm_add_epi32(_mm256_castsi256_si128(sums),
                                     _mm256_extracti128_si256(sums, 1));
    products = _mm_add_epi32(products,
                             _mm_loadu_si128((const __m128i_u *)(rows->offsets + 4 * g)));
    return _mm_fmadd_ps(_mm_cvtepi32_ps(products), _mm_loadu_ps(rows->scales + 4 * g), sum);
}

/* Adds n groups, those of a line that has room for groups_per_line, or one of several lines. */
HY_INLINE __m128 add_line(__m128 sum, const struct four_rows *rows, ivec line, size_t g,
                            size_t n, const size_t groups_per_line)
{
    __m256i low = _mm512_castsi512_si256(line), high = _mm512_extracti64x4_epi64(line, 1);
    if (groups_per_line == 4)
        return add_whole_line(sum, rows, line, g, n);
    if (groups_per_line == 1)
        return add_half_line(sum, rows, _mm256_add_epi32(low, high), g);
    sum = add_half_line(sum, rows, low, g);
    return n > 1 ? add_half_line(sum, rows, high, g + 1) : sum;
}

/* lines_per_group is 2 where a group is longer than a line, otherwise 1. */
HY_INLINE __m128 four_sums(const struct hy_matmul_args *args, const struct four_rows *rows,
                           const size_t groups_per_line, const size_t lines_per_group,
                           const hymba_dtype dtype)
{
    const size_t line = dtype == HYMBA_DTYPE_INT8 ? 64 : 128; /* elements */
    const int8_t *x = args->rounded->data;
    size_t row_bytes = hy_row_bytes(dtype, args->k), g = 0, offset = 0;
    const bool is_long = args->k > LONG_ROW;
    __m128 sum = _mm_setzero_ps();
    for (; offset + 64 * lines_per_group <= row_bytes; offset += 64 * lines_per_group) {
        ivec sums = ivec_zero();
        HY_UNROLL
        for (size_t i = 0; i < lines_per_group; i++)
            fetch_ahead(rows, offset + 64 * i, is_long, dtype);
        HY_UNROLL
        for (size_t i = 0; i < lines_per_group; i++, x += line)
            sums = ivec_add(sums, line_sums(rows, offset + 64 * i, 64, true,
                                            load_line_of_x(x, 64, true, dtype), dtype));
        sum = add_line(sum, rows, sums, g, groups_per_line, groups_per_line);
        g += groups_per_line;
    }
    size_t rest = row_bytes - offset;
    if (rest == 0)
        return sum;
    ivec sums = line_sums(rows, offset, rest, false, load_line_of_x(x, rest, false, dtype), dtype);
    return add_line(sum, rows, sums, g, args->k / args->group - g, groups_per_line);
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

/* Computes columns from begin on for the only row; returns the first one that is left over.
 * Scratch memory is for three lists of 4 numbers a group, and eight groups more. */
HY_INLINE size_t one_row(const struct hy_matmul_args *args, size_t begin, size_t end,
                         float *scratch, const hymba_dtype dtype)
{
    size_t line = dtype == HYMBA_DTYPE_INT8 ? 64 : 128, step = (end - begin) / 4;
    size_t row_bytes = hy_row_bytes(dtype, args->k), n_groups = args->k / args->group;
    if (2 * line % args->group != 0) /* lines and groups do not end together */
        return begin;
    float *scales = scratch, *x_scales = scratch + 4 * (n_groups + 8);
    int32_t *offsets = (int32_t *)(void *)(scratch + 8 * (n_groups + 8));
    repeat_four_times(args->rounded, n_groups, zero_point(dtype), x_scales, offsets);
    for (size_t j = begin; j < begin + step; j++) {
        struct four_rows rows = {.scales = scales, .offsets = offsets};
        const unsigned char *scale_rows[4];
        float four[4];
        for (size_t row = 0; row < 4; row++) {
            size_t column = j + row * step;
            rows.w[row] = (const unsigned char *)args->w + column * row_bytes;
            scale_rows[row] = (const unsigned char *)args->w_scales + column * n_groups * 2;
        }
        unpack_four_scales(scale_rows, n_groups, x_scales, scales);
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
