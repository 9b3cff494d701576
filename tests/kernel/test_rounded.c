/* Rounded activations and quantised weights: every instruction set against generic C and double
 * precision, and the promises of the product. */
#include "rounded_product.h"

enum { SHAPES = 60 };

static const size_t groups[6] = {32, 64, 96, 128, 160, 256};

static struct product random_shape(void)
{
    static const hymba_dtype dtypes[3] = {HYMBA_DTYPE_BF16, HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4};
    hymba_dtype dtype = dtypes[test_random_below(3)];
    size_t group = groups[test_random_below(6)];
    size_t k = group * (1 + test_random_below(test_random_below(4) ? 5 : 1600 / group));
    if (dtype == HYMBA_DTYPE_BF16)
        k = 1 + test_random_below(400);
    return random_product(1 + test_random_below(30), 1 + test_random_below(60), k, dtype, group);
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
        size_t group = groups[shape % 6], k = group * (1 + test_random_below(12));
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
        size_t group = groups[shape % 6], n = group * (1 + test_random_below(6));
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
