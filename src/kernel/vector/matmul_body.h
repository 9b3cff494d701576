/*
 * Matrix product, weights in place, with f32 or bf16 activations. Each output has one vector of
 * partial sums that steps over k in order and is added up in a fixed order: the same operations,
 * whatever block it falls into.
 */
#include "kernel/kernel.h"

enum {
    TILE_W = 4,                /* rows of weights in a register block */
    MOST_X = 6,                /* TILE_X of the widest instruction set */
    BF16_BLOCK = 1024,         /* elements of bf16 rows that are taken together */
    WEIGHT_CACHE = 256 * 1024, /* bytes of weights that pass all rows of x while in cache */
    FETCH_ONE_ROW = 1024,      /* bytes ahead of weights that meet one row, measured on Zen 4 */
};

HY_INLINE const unsigned char *weight_row(const struct hy_matmul_args *args, size_t j,
                                          hymba_dtype dtype)
{
    size_t element = dtype == HYMBA_DTYPE_F32 ? 4 : 2;
    return (const unsigned char *)args->w + j * args->w_stride * element;
}

/* Takes up the sum of one block of elements, the first or a later one. */
HY_INLINE void store_sum(const struct hy_matmul_args *args, size_t t, size_t j, float sum,
                         bool first)
{
    float *y = args->y + t * args->y_stride + j;
    if (first && args->bias)
        sum += args->bias[j];
    *y = args->accumulate || !first ? *y + sum : sum;
}

/* What a tile is made of; constants to the compiler. */
struct tile_kind {
    hymba_dtype dtype; /* of the weights */
    bool bf16;         /* both factors are bf16, two to a lane */
    size_t fetch;      /* not a constant: bytes from these weights to those to ask for; 0: none */
};

struct range {
    size_t begin, end;
};

/* Elements of a row that are added up before they go to the output. With bf16 the rows of a tile
 * then stay in the nearest cache; f32 rows are taken whole. */
HY_INLINE size_t block_length(const struct tile_kind kind)
{
    return kind.bf16 ? BF16_BLOCK : SIZE_MAX / 4;
}

/* Rows t and following of the activations, as bytes. */
struct tile_rows {
    const unsigned char *data;
    size_t stride; /* bytes */
};

HY_INLINE struct tile_rows rows_from(const struct hy_matmul_args *args, size_t t, const bool bf16)
{
    const struct hy_rounded *rounded = args->rounded;
    if (!bf16)
        return (struct tile_rows){(const unsigned char *)(args->x + t * args->x_stride),
                                  args->x_stride * sizeof(float)};
    return (struct tile_rows){(const unsigned char *)rounded->data + t * rounded->stride * 2,
                              rounded->stride * 2};
}

HY_INLINE void clear_sums(vec sums[MOST_X][TILE_W], const size_t n_x, const size_t n_w)
{
    HY_UNROLL
    for (size_t t = 0; t < n_x; t++) {
        HY_UNROLL
        for (size_t j = 0; j < n_w; j++)
            sums[t][j] = vec_zero();
    }
}

/* Where a step stands: the vector that begins at element i, n elements long if not whole. */
struct tile_step {
    size_t i, n;
    bool whole;
};

HY_INLINE vec weights_f32(const unsigned char *p, const struct tile_step step,
                          const hymba_dtype dtype)
{
    return step.whole ? vec_load_as(p, dtype) : vec_load_as_n(p, dtype, step.n);
}

HY_INLINE vec row_f32(struct tile_rows x, size_t t, const struct tile_step step)
{
    const float *p = (const float *)(const void *)(x.data + t * x.stride) + step.i;
    return step.whole ? vec_load(p) : vec_load_n(p, step.n);
}

/* Adds the products of one step to the partial sums. */
HY_INLINE void step_f32(vec sums[MOST_X][TILE_W], struct tile_rows x, const unsigned char *w,
                        size_t w_bytes, const struct tile_step step, const size_t n_x,
                        const size_t n_w, const hymba_dtype dtype)
{
    const size_t element = element_bytes(dtype);
    vec weights[TILE_W];
    HY_UNROLL
    for (size_t j = 0; j < n_w; j++)
        weights[j] = weights_f32(w + j * w_bytes + step.i * element, step, dtype);
    HY_UNROLL
    for (size_t t = 0; t < n_x; t++) {
        vec row = row_f32(x, t, step);
        HY_UNROLL
        for (size_t j = 0; j < n_w; j++)
            sums[t][j] = vec_fma(row, weights[j], sums[t][j]);
    }
}

/* The same for bf16; behind the last elements the activations have zeros. */
HY_INLINE void step_bf16(vec sums[MOST_X][TILE_W], struct tile_rows x, const unsigned char *w,
                         size_t w_bytes, const struct tile_step step, const size_t n_x,
                         const size_t n_w, size_t fetch)
{
    ivec weights[TILE_W];
    HY_UNROLL
    for (size_t j = 0; j < n_w; j++) {
        const unsigned char *p = w + j * w_bytes + step.i * 2;
        if (n_x == 1)
            __builtin_prefetch(p + FETCH_ONE_ROW, 0, 2);
        else if (fetch > 0)
            __builtin_prefetch(p + fetch, 0, 2);
        weights[j] = step.whole ? ivec_load(p) : ivec_load_halves_n(p, step.n);
    }
    const unsigned char *first = x.data + step.i * 2;
    HY_KEEP(first);
    HY_UNROLL
    for (size_t t = 0; t < n_x; t++) {
        ivec row = ivec_load(first + t * x.stride);
        HY_UNROLL
        for (size_t j = 0; j < n_w; j++)
            sums[t][j] = vec_dot_bf16(sums[t][j], row, weights[j]);
    }
}

HY_INLINE void tile_steps(vec sums[MOST_X][TILE_W], struct tile_rows x, const unsigned char *w,
                          size_t w_bytes, struct range range, const size_t n_x, const size_t n_w,
                          const struct tile_kind kind)
{
    const size_t length = kind.bf16 ? 2 * LANES : LANES;
    struct tile_step step = {range.begin, length, true};
    for (; step.i + length <= range.end; step.i += length) {
        if (kind.bf16)
            step_bf16(sums, x, w, w_bytes, step, n_x, n_w, kind.fetch);
        else
            step_f32(sums, x, w, w_bytes, step, n_x, n_w, kind.dtype);
    }
    if (step.i == range.end)
        return;
    step.n = range.end - step.i;
    step.whole = false;
    if (kind.bf16)
        step_bf16(sums, x, w, w_bytes, step, n_x, n_w, 0);
    else
        step_f32(sums, x, w, w_bytes, step, n_x, n_w, kind.dtype);
}

/* Adds to outputs of rows t .. t + n_x and n_w columns from j onwards, step apart, what elements
 * [range.begin, range.end) contribute. */
HY_INLINE void tile(const struct hy_matmul_args *args, size_t t, size_t j, size_t step,
                    struct range range, const size_t n_x, const size_t n_w,
                    const struct tile_kind kind)
{
    const size_t element = kind.dtype == HYMBA_DTYPE_F32 ? 4 : 2;
    vec sums[MOST_X][TILE_W];
    clear_sums(sums, n_x, n_w);
    tile_steps(sums, rows_from(args, t, kind.bf16), weight_row(args, j, kind.dtype),
               args->w_stride * element * step, range, n_x, n_w, kind);
    bool first = range.begin == 0;
    HY_UNROLL
    for (size_t row = 0; row < n_x; row++) {
        if (n_w == 1) {
            store_sum(args, t + row, j, vec_sum(sums[row][0]), first);
            continue;
        }
        float four[TILE_W];
        vec_store_4(four, sums[row][0], sums[row][1], sums[row][2], sums[row][3]);
        HY_UNROLL
        for (size_t column = 0; column < n_w; column++)
            store_sum(args, t + row, j + column * step, four[column], first);
    }
}

/* The same for all elements, block by block. */
HY_INLINE void tile_blocks(const struct hy_matmul_args *args, size_t t, size_t j, size_t step,
                           struct range range, const size_t n_x, const size_t n_w,
                           const struct tile_kind kind)
{
    while (range.begin < range.end) {
        size_t end = hy_min_size(range.end, range.begin + block_length(kind));
        tile(args, t, j, step, (struct range){range.begin, end}, n_x, n_w, kind);
        range.begin = end;
    }
}

/*
 * Columns [begin, end) of rows t .. t + n_x. The columns of a tile are a quarter of the range
 * apart: each of the four weight rows is then one of a long run of neighbours, which the hardware
 * reads ahead; four neighbouring rows at once it does not follow as well.
 */
HY_INLINE void columns(const struct hy_matmul_args *args, size_t t, struct range js,
                       struct range range, const size_t n_x, const struct tile_kind kind)
{
    size_t step = (js.end - js.begin) / TILE_W, j = js.begin;
    for (; j < js.begin + step; j++)
        tile_blocks(args, t, j, step, range, n_x, TILE_W, kind);
    for (j = js.begin + step * TILE_W; j < js.end; j++)
        for (size_t row = 0; row < n_x; row++)
            tile_blocks(args, t + row, j, 1, range, 1, 1, kind);
}

/* Columns of the last rows, fewer than a whole tile. */
HY_INLINE void last_rows(const struct hy_matmul_args *args, size_t t, struct range js,
                         struct range range, const struct tile_kind kind)
{
    size_t n_x = args->m - t;
    if (n_x == 1)
        columns(args, t, js, range, 1, kind);
    else if (n_x == 2)
        columns(args, t, js, range, 2, kind);
    else if (TILE_X > 3 && n_x == 3)
        columns(args, t, js, range, 3, kind);
    else if (TILE_X > 3 && n_x == 4)
        columns(args, t, js, range, 4, kind);
    else if (TILE_X > 3 && n_x == 5)
        columns(args, t, js, range, 5, kind);
}

/* All rows; the first ones ask for the weights of the next block of columns. */
HY_INLINE void all_rows(const struct hy_matmul_args *args, struct range js, struct range range,
                        struct tile_kind kind)
{
    size_t t = 0;
    for (; t + TILE_X <= args->m; t += TILE_X) {
        columns(args, t, js, range, TILE_X, kind);
        kind.fetch = 0;
    }
    last_rows(args, t, js, range, kind);
}

HY_INLINE void matmul_as(const struct hy_matmul_args *args, size_t begin, size_t end,
                         struct tile_kind kind)
{
    const size_t element = kind.dtype == HYMBA_DTYPE_F32 ? 4 : 2;
    bool once = args->m == 1 || (!kind.bf16 && args->m <= TILE_X); /* weights are read once */
    size_t row_bytes = args->w_stride * element, i_block = once ? args->k : block_length(kind);
    size_t j_block = hy_max_size(WEIGHT_CACHE / (row_bytes + 1) / TILE_W * TILE_W, TILE_W);
    if (once)
        j_block = end - begin;
    for (size_t j = begin; j < end; j += j_block) {
        struct range js = {j, hy_min_size(end, j + j_block)};
        kind.fetch = end - js.end >= j_block ? j_block * row_bytes : 0;
        for (size_t i = 0; i < args->k; i += i_block)
            all_rows(args, js, (struct range){i, hy_min_size(args->k, i + i_block)}, kind);
    }
}

/* bf16 activations with bf16 weights. */
static void matmul_bf16(const struct hy_matmul_args *args, size_t begin, size_t end)
{
    matmul_as(args, begin, end, (struct tile_kind){HYMBA_DTYPE_BF16, true, 0});
}
