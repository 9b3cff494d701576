/*
 * Matrix product, weights in place. Each output has one vector of partial sums that steps over k
 * in order and is added up in a fixed order: the same operations, whatever block it falls into.
 */
#include "kernel/kernel.h"

enum {
    TILE_W = 4,                /* rows of weights in a register block */
    MOST_X = 6,                /* TILE_X of the widest instruction set */
    WEIGHT_CACHE = 256 * 1024, /* bytes of weights that pass all rows of x while in cache */
};

HY_INLINE const unsigned char *weight_row(const struct hy_matmul_args *args, size_t j,
                                          hymba_dtype dtype)
{
    size_t element = dtype == HYMBA_DTYPE_F32 ? 4 : 2;
    return (const unsigned char *)args->w + j * args->w_stride * element;
}

HY_INLINE void store_sum(const struct hy_matmul_args *args, size_t t, size_t j, float sum)
{
    float *y = args->y + t * args->y_stride + j;
    if (args->bias)
        sum += args->bias[j];
    *y = args->accumulate ? *y + sum : sum;
}

/* Adds the products of the vector that begins at i to the partial sums; n lanes if not whole. */
HY_INLINE void tile_step(vec sums[MOST_X][TILE_W], const float *x, size_t x_stride,
                         const unsigned char *w, size_t w_bytes, size_t i, const bool whole,
                         size_t n, const size_t n_x, const size_t n_w, const hymba_dtype dtype)
{
    const size_t element = dtype == HYMBA_DTYPE_F32 ? 4 : 2;
    vec rows[MOST_X];
    HY_UNROLL
    for (size_t t = 0; t < n_x; t++) {
        const float *p = x + t * x_stride + i;
        rows[t] = whole ? vec_load(p) : vec_load_n(p, n);
    }
    HY_UNROLL
    for (size_t j = 0; j < n_w; j++) {
        const unsigned char *p = w + j * w_bytes + i * element;
        vec weights = whole ? vec_load_as(p, dtype) : vec_load_as_n(p, dtype, n);
        HY_UNROLL
        for (size_t t = 0; t < n_x; t++)
            sums[t][j] = vec_fma(rows[t], weights, sums[t][j]);
    }
}

/* Outputs of rows t .. t + n_x and n_w columns from j onwards, step apart. */
HY_INLINE void tile(const struct hy_matmul_args *args, size_t t, size_t j, size_t step,
                    const size_t n_x, const size_t n_w, const hymba_dtype dtype)
{
    const size_t element = dtype == HYMBA_DTYPE_F32 ? 4 : 2;
    const float *x = args->x + t * args->x_stride;
    const unsigned char *w = weight_row(args, j, dtype);
    size_t w_bytes = args->w_stride * element * step, k = args->k, i = 0;
    vec sums[MOST_X][TILE_W];
    HY_UNROLL
    for (size_t row = 0; row < n_x; row++) {
        HY_UNROLL
        for (size_t column = 0; column < n_w; column++)
            sums[row][column] = vec_zero();
    }
    for (; i + LANES <= k; i += LANES)
        tile_step(sums, x, args->x_stride, w, w_bytes, i, true, LANES, n_x, n_w, dtype);
    if (i < k)
        tile_step(sums, x, args->x_stride, w, w_bytes, i, false, k - i, n_x, n_w, dtype);
    HY_UNROLL
    for (size_t row = 0; row < n_x; row++) {
        if (n_w == TILE_W) {
            float four[TILE_W];
            _mm_storeu_ps(four, vec_sum_4(sums[row][0], sums[row][1], sums[row][2], sums[row][3]));
            HY_UNROLL
            for (size_t column = 0; column < TILE_W; column++)
                store_sum(args, t + row, j + column * step, four[column]);
        } else {
            store_sum(args, t + row, j, vec_sum(sums[row][0]));
        }
    }
}

/*
 * Columns [begin, end) of rows t .. t + n_x. The columns of a block are a quarter of the range
 * apart: each of the four weight rows is then one of a long run of neighbours, which the hardware
 * reads ahead; four neighbouring rows at once it does not follow as well.
 */
HY_INLINE void columns(const struct hy_matmul_args *args, size_t t, size_t begin, size_t end,
                       const size_t n_x, const hymba_dtype dtype)
{
    size_t step = (end - begin) / TILE_W, j = begin;
    for (; j < begin + step; j++)
        tile(args, t, j, step, n_x, TILE_W, dtype);
    for (j = begin + step * TILE_W; j < end; j++)
        tile(args, t, j, 1, n_x, 1, dtype);
}

/* Columns [begin, end) of the last rows, fewer than a whole block. */
HY_INLINE void last_rows(const struct hy_matmul_args *args, size_t t, size_t begin, size_t end,
                         const hymba_dtype dtype)
{
    size_t n_x = args->m - t;
    if (n_x == 1)
        columns(args, t, begin, end, 1, dtype);
    else if (n_x == 2)
        columns(args, t, begin, end, 2, dtype);
    else if (TILE_X > 3 && n_x == 3)
        columns(args, t, begin, end, 3, dtype);
    else if (TILE_X > 3 && n_x == 4)
        columns(args, t, begin, end, 4, dtype);
    else if (TILE_X > 3 && n_x == 5)
        columns(args, t, begin, end, 5, dtype);
}

HY_INLINE void matmul_as(const struct hy_matmul_args *args, size_t begin, size_t end,
                         const hymba_dtype dtype)
{
    const size_t element = dtype == HYMBA_DTYPE_F32 ? 4 : 2;
    size_t block = end - begin;
    if (args->m > TILE_X) /* weights are read more than once */
        block = hy_max_size(WEIGHT_CACHE / (args->k * element + 1) / TILE_W * TILE_W, TILE_W);
    for (size_t j = begin; j < end; j += block) {
        size_t j_end = hy_min_size(end, j + block), t = 0;
        for (; t + TILE_X <= args->m; t += TILE_X)
            columns(args, t, j, j_end, TILE_X, dtype);
        last_rows(args, t, j, j_end, dtype);
    }
}

static void matmul(const struct hy_matmul_args *args, size_t begin, size_t end)
{
    if (args->dtype == HYMBA_DTYPE_F32)
        matmul_as(args, begin, end, HYMBA_DTYPE_F32);
    else if (args->dtype == HYMBA_DTYPE_F16)
        matmul_as(args, begin, end, HYMBA_DTYPE_F16);
    else
        matmul_as(args, begin, end, HYMBA_DTYPE_BF16);
}
