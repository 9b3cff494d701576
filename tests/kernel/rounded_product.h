/* Products of rounded activations and bf16 or quantised weights, with random values, and what they
 * are in double precision. */
#ifndef ROUNDED_PRODUCT_H
#define ROUNDED_PRODUCT_H

#include "base/checked.h"
#include "kernel_test.h"

struct product {
    struct hy_matmul_args args;
    struct hy_rounded rounded;
    float *x;
    float *start; /* what y held before: [m][n] */
    void *scratch;
};

/* Rows of x as these kernels round them for products with weights of a type. */
static inline struct hy_rounded round_rows_by(const struct hy_kernels *kernels, const float *x,
                                              size_t m, size_t k, hymba_dtype weights,
                                              size_t group)
{
    bool bf16 = weights == HYMBA_DTYPE_BF16;
    size_t stride = (k + 31) / 32 * 32, n_groups = bf16 ? 1 : k / group;
    size_t block = hy_min_size(m, kernels->row_block);
    size_t rows = block > 1 ? (m + block - 1) / block * block : m;
    struct hy_round_args args = {
        .x = x, .x_stride = k, .n = k,
        .y = {.dtype = bf16 ? HYMBA_DTYPE_BF16 : HYMBA_DTYPE_INT8,
              .data = guarded(rows * stride * (bf16 ? 2 : 1)), .stride = stride,
              .scales = guarded(rows * n_groups * sizeof(float)),
              .sums = guarded(rows * n_groups * sizeof(int32_t)), .group = group,
              .split = weights == HYMBA_DTYPE_INT4, .block = block}};
    memset(args.y.data, 0xff, rows * stride * (bf16 ? 2 : 1));
    memset(args.y.scales, 0xff, rows * n_groups * sizeof(float));
    memset(args.y.sums, 0xff, rows * n_groups * sizeof(int32_t));
    kernels->round(&args, 0, m);
    return args.y;
}

static inline struct hy_rounded round_rows(const float *x, size_t m, size_t k, hymba_dtype weights,
                                           size_t group)
{
    struct hy_kernels generic;
    hy_kernels_generic(&generic);
    return round_rows_by(&generic, x, m, k, weights, group);
}

/* Bytes of any value, pad short of the guard. */
static inline unsigned char *random_bytes(size_t n, size_t pad)
{
    unsigned char *bytes = guarded(n + pad);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (unsigned char)test_random_below(256);
    return bytes;
}

static inline struct product random_product(size_t m, size_t n, size_t k, hymba_dtype dtype,
                                            size_t group)
{
    size_t pad = test_random_below(2);
    struct product product = {.x = random_floats(m * k, 1.0f),
                              .start = random_floats(m * n, 1.0f)};
    struct hy_matmul_args *args = &product.args;
    product.scratch = guarded((hy_matmul_scratch(k) + 63) / 64 * 64);
    product.rounded = round_rows(product.x, m, k, dtype, group);
    *args = (struct hy_matmul_args){
        .x = product.x, .x_stride = k, .m = m, .n = n, .k = k, .dtype = dtype, .w_stride = k,
        .bias = test_random_below(2) ? random_floats(n, 1.0f) : NULL,
        .accumulate = test_random_below(2), .y = copy_floats(product.start, m * n),
        .y_stride = n};
    if (hy_is_quantised(dtype)) {
        args->group = group;
        args->w = random_bytes(n * hy_row_bytes(dtype, k), pad);
        args->w_scales = random_elements(n * (k / group), HYMBA_DTYPE_BF16, 0.01f, pad);
    } else {
        args->w = random_elements(n * k, dtype, 1.0f, pad);
    }
    return product;
}

static inline void use_rounded(struct product *product)
{
    product->args.rounded = &product->rounded;
}

/* Where a number of row t stands that is at index i of n in it, numbers of size bytes: by 4 bytes
 * interleaved, if rows are. */
static inline size_t place_of(const struct hy_rounded *rounded, size_t t, size_t i, size_t n,
                              size_t size)
{
    size_t block = rounded->block, row = block > 1 ? t % block : 0, per_4 = 4 / size;
    if (block < 2)
        return t * n + i;
    return (t - row) * n + (i / per_4 * block + row) * per_4 + i % per_4;
}

/* The rounded value of x[t][i] as a number. */
static inline double rounded_value(const struct product *product, size_t t, size_t i)
{
    const struct hy_rounded *rounded = &product->rounded;
    if (rounded->dtype == HYMBA_DTYPE_BF16)
        return element(rounded->data, HYMBA_DTYPE_BF16,
                       place_of(rounded, t, i, rounded->stride, 2));
    size_t inside = i % 32, n_groups = product->args.k / rounded->group;
    size_t place = rounded->split ? i - inside + inside / 2 + inside % 2 * 16 : i;
    const int8_t *values = rounded->data;
    return (double)values[place_of(rounded, t, place, rounded->stride, 1)]
           * (double)rounded->scales[place_of(rounded, t, i / rounded->group, n_groups, 4)];
}

static inline double weight(const struct hy_matmul_args *args, size_t j, size_t i)
{
    const unsigned char *w = args->w;
    if (args->dtype == HYMBA_DTYPE_BF16)
        return element(w, args->dtype, j * args->k + i);
    int value = args->dtype == HYMBA_DTYPE_INT8
                    ? w[j * args->k + i] - 128
                    : (w[(j * args->k + i) / 2] >> (i % 2 * 4) & 15) - 8;
    return value * element(args->w_scales, HYMBA_DTYPE_BF16,
                           j * (args->k / args->group) + i / args->group);
}

static inline void check_product(const struct product *product)
{
    const struct hy_matmul_args *args = &product->args;
    for (size_t t = 0; t < args->m; t++) {
        for (size_t j = 0; j < args->n; j++) {
            double sum = args->bias ? (double)args->bias[j] : 0.0, size = 2.0;
            if (args->accumulate)
                sum += (double)product->start[t * args->n + j];
            for (size_t i = 0; i < args->k; i++) {
                double x = args->rounded ? rounded_value(product, t, i)
                                         : (double)product->x[t * args->k + i];
                double term = x * weight(args, j, i);
                sum += term;
                size += fabs(term);
            }
            check_near((double)args->y[t * args->n + j], sum,
                       (double)(args->k / PARTIAL_SUMS + 16) * 0x1p-24 * size, "product");
        }
    }
}

#endif
