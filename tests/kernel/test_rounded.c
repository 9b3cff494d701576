/* Rounded activations and quantised weights: every instruction set against generic C and double
 * precision, and the promises of the product. */
#include "kernel_test.h"

enum { SHAPES = 60 };

static const size_t groups[3] = {32, 64, 128};

struct product {
    struct hy_matmul_args args;
    struct hy_rounded rounded;
    float *x;
    float *start; /* what y held before: [m][n] */
    void *scratch;
};

/* Rows of x rounded by generic C. */
static struct hy_rounded round_rows(const float *x, size_t m, size_t k, hymba_dtype weights,
                                    size_t group)
{
    struct hy_kernels generic;
    hy_kernels_generic(&generic);
    bool bf16 = weights == HYMBA_DTYPE_BF16;
    size_t stride = (k + 31) / 32 * 32, n_groups = bf16 ? 1 : k / group;
    struct hy_round_args args = {
        .x = x, .x_stride = k, .n = k,
        .y = {.dtype = bf16 ? HYMBA_DTYPE_BF16 : HYMBA_DTYPE_INT8,
              .data = guarded(m * stride * 2), .stride = stride,
              .scales = guarded(m * n_groups * sizeof(float)),
              .sums = guarded(m * n_groups * sizeof(int32_t)), .group = group,
              .split = weights == HYMBA_DTYPE_INT4}};
    generic.round(&args, 0, m);
    return args.y;
}

/* Bytes of any value, pad short of the guard. */
static unsigned char *random_bytes(size_t n, size_t pad)
{
    unsigned char *bytes = guarded(n + pad);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (unsigned char)test_random_below(256);
    return bytes;
}

static struct product random_product(size_t m, size_t n, size_t k, hymba_dtype dtype, size_t group)
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

static struct product random_shape(void)
{
    static const hymba_dtype dtypes[3] = {HYMBA_DTYPE_BF16, HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4};
    hymba_dtype dtype = dtypes[test_random_below(3)];
    size_t group = groups[test_random_below(3)];
    size_t k = group * (1 + test_random_below(test_random_below(4) ? 5 : 1600 / group));
    if (dtype == HYMBA_DTYPE_BF16)
        k = 1 + test_random_below(400);
    return random_product(1 + test_random_below(30), 1 + test_random_below(60), k, dtype, group);
}

static void use_rounded(struct product *product)
{
    product->args.rounded = &product->rounded;
}

/* The rounded value of x[t][i] as a number. */
static double rounded_value(const struct product *product, size_t t, size_t i)
{
    const struct hy_rounded *rounded = &product->rounded;
    if (rounded->dtype == HYMBA_DTYPE_BF16)
        return element(rounded->data, HYMBA_DTYPE_BF16, t * rounded->stride + i);
    size_t inside = i % 32, n_groups = product->args.k / rounded->group;
    size_t place = rounded->split ? i - inside + inside / 2 + inside % 2 * 16 : i;
    const int8_t *values = rounded->data;
    return (double)values[t * rounded->stride + place]
           * (double)rounded->scales[t * n_groups + i / rounded->group];
}

static double weight(const struct hy_matmul_args *args, size_t j, size_t i)
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

static void check_product(const struct product *product)
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

START_TEST(against_double)
{
    struct hy_kernels kernels;
    if (!kernels_of_variant(_i, &kernels))
        return;
    for (int shape = 0; shape < SHAPES; shape++) {
        struct product product = random_shape();
        use_rounded(&product);
        kernels.matmul(&product.args, 0, product.args.n, product.scratch);
        check_product(&product);
        release_guarded();
    }
}
END_TEST

/* f32 activations with quantised weights. */
START_TEST(against_double_not_rounded)
{
    struct hy_kernels kernels;
    if (!kernels_of_variant(_i, &kernels))
        return;
    for (int shape = 0; shape < SHAPES; shape++) {
        struct product product = random_shape();
        kernels.matmul(&product.args, 0, product.args.n, product.scratch);
        check_product(&product);
        release_guarded();
    }
}
END_TEST

START_TEST(parts_and_rows_give_the_same_bits)
{
    struct hy_kernels kernels;
    if (!kernels_of_variant(_i, &kernels))
        return;
    for (int shape = 0; shape < SHAPES; shape++) {
        struct product product = random_shape();
        if (test_random_below(4))
            use_rounded(&product);
        struct hy_matmul_args whole = product.args, alone = product.args;
        struct hy_rounded row = product.rounded;
        size_t borders[MOST_PARTS + 1], n_parts = random_division(whole.n, borders);
        size_t n_groups = whole.group ? whole.k / whole.group : 0;
        size_t element_size = row.dtype == HYMBA_DTYPE_BF16 ? 2 : 1;
        kernels.matmul(&whole, 0, whole.n, product.scratch);

        alone.m = 1;
        alone.rounded = whole.rounded ? &row : NULL;
        for (size_t t = 0; t < whole.m; t++) {
            alone.x = whole.x + t * whole.x_stride;
            row.data = (char *)product.rounded.data + t * row.stride * element_size;
            row.scales = product.rounded.scales + t * n_groups;
            row.sums = product.rounded.sums + t * n_groups;
            alone.y = copy_floats(product.start + t * whole.n, whole.n);
            for (size_t part = 0; part < n_parts; part++)
                kernels.matmul(&alone, borders[part], borders[part + 1], product.scratch);
            check_same_bits(alone.y, whole.y + t * whole.n, whole.n, "row alone");
        }
        release_guarded();
    }
}
END_TEST

/* A row of all kinds of groups: common, zero, tiny, huge. */
static float *mixed_row(size_t k, size_t group)
{
    static const float scales[6] = {1.0f, 0.0f, 1e-40f, 0x1p-118f, 1e30f, 3e38f};
    float *x = random_floats(k, 1.0f);
    for (size_t i = 0; i < k; i++)
        x[i] *= scales[i / group % 6];
    return x;
}

START_TEST(rounding_as_generic)
{
    struct hy_kernels kernels;
    if (!kernels_of_variant(_i, &kernels))
        return;
    for (int shape = 0; shape < SHAPES; shape++) {
        hymba_dtype weights = shape % 2 ? HYMBA_DTYPE_INT8 : HYMBA_DTYPE_INT4;
        size_t group = groups[shape % 3], k = group * (1 + test_random_below(12));
        float *x = mixed_row(k, group);
        struct hy_rounded expected = round_rows(x, 1, k, weights, group), y = expected;
        y.data = guarded(k);
        y.scales = guarded(k / group * sizeof(float));
        y.sums = guarded(k / group * sizeof(int32_t));
        struct hy_round_args args = {.x = x, .x_stride = k, .n = k, .y = y};
        kernels.round(&args, 0, 1);
        ck_assert_mem_eq(y.data, expected.data, k);
        ck_assert_mem_eq(y.scales, expected.scales, k / group * sizeof(float));
        ck_assert_mem_eq(y.sums, expected.sums, k / group * sizeof(int32_t));
        release_guarded();
    }
}
END_TEST

START_TEST(rounding_to_bf16)
{
    struct hy_kernels kernels;
    if (!kernels_of_variant(_i, &kernels))
        return;
    for (size_t k = 1; k < 100; k++) {
        float *x = mixed_row(k, 5);
        x[k - 1] = k % 3 ? NAN : INFINITY;
        struct hy_rounded expected = round_rows(x, 1, k, HYMBA_DTYPE_BF16, 0), y = expected;
        y.data = guarded(y.stride * 2);
        memset(y.data, 0xff, y.stride * 2);
        struct hy_round_args args = {.x = x, .x_stride = k, .n = k, .y = y};
        kernels.round(&args, 0, 1);
        ck_assert_mem_eq(y.data, expected.data, y.stride * 2);
        release_guarded();
    }
}
END_TEST

/* What is not finite does not vanish. */
START_TEST(special_values)
{
    struct hy_kernels kernels;
    if (!kernels_of_variant(_i, &kernels))
        return;
    const float specials[] = {INFINITY, -INFINITY, NAN};
    for (int i = 0; i < 3; i++) {
        struct product product = random_product(1, 5, 128, HYMBA_DTYPE_INT8, 32);
        product.x[test_random_below(128)] = specials[i];
        struct hy_round_args args = {.x = product.x, .x_stride = 128, .n = 128,
                                     .y = product.rounded};
        kernels.round(&args, 0, 1);
        use_rounded(&product);
        kernels.matmul(&product.args, 0, 5, product.scratch);
        for (int j = 0; j < 5; j++)
            ck_assert(!isfinite(product.args.y[j]));
        release_guarded();
    }
}
END_TEST

START_TEST(embedding_rows)
{
    struct hy_kernels kernels, generic;
    if (!kernels_of_variant(_i, &kernels))
        return;
    hy_kernels_generic(&generic);
    for (int shape = 0; shape < SHAPES; shape++) {
        size_t group = groups[shape % 3], n = group * (1 + test_random_below(6));
        hymba_dtype dtype = shape % 2 ? HYMBA_DTYPE_INT8 : HYMBA_DTYPE_INT4;
        int32_t ids[3] = {2, 0, 1};
        struct hy_embed_args args = {
            .ids = ids,
            .table = {.data = random_bytes(3 * hy_row_bytes(dtype, n), shape % 2),
                      .dtype = dtype, .rows = 3, .columns = n,
                      .scales = random_elements(3 * n / group, HYMBA_DTYPE_BF16, 1.0f, 1),
                      .group = group},
            .y = zero_floats(3 * n)};
        kernels.embed(&args, 0, 3);
        float *y = args.y;
        args.y = zero_floats(3 * n);
        generic.embed(&args, 0, 3);
        check_same_bits(y, args.y, 3 * n, "embedding");
        release_guarded();
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rounded");
    TCase *tcase = tcase_create("rounded");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, against_double, 0, N_VARIANTS);
    tcase_add_loop_test(tcase, against_double_not_rounded, 0, N_VARIANTS);
    tcase_add_loop_test(tcase, parts_and_rows_give_the_same_bits, 0, N_VARIANTS);
    tcase_add_loop_test(tcase, rounding_as_generic, 0, N_VARIANTS);
    tcase_add_loop_test(tcase, rounding_to_bf16, 0, N_VARIANTS);
    tcase_add_loop_test(tcase, special_values, 0, N_VARIANTS);
    tcase_add_loop_test(tcase, embedding_rows, 0, N_VARIANTS);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
