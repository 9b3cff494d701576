/* The matrix product of every instruction set against double precision, and its promises. */
#include "kernel_test.h"

enum { SHAPES = 150 };

struct product {
    struct hy_matmul_args args;
    float *start; /* what y held before: [m][y_stride], and the last row n long */
    size_t y_size;
};

static struct product random_product(size_t m, size_t n, size_t k, hymba_dtype dtype)
{
    struct product product = {.args = {.m = m, .n = n, .k = k, .dtype = dtype}};
    struct hy_matmul_args *args = &product.args;
    args->x_stride = k + test_random_below(3);
    args->w_stride = k + test_random_below(3);
    args->y_stride = n + test_random_below(3);
    args->x = random_floats((m - 1) * args->x_stride + k, 1.0f);
    args->w = random_elements((n - 1) * args->w_stride + k, dtype, 1.0f, test_random_below(2));
    args->bias = test_random_below(2) ? random_floats(n, 1.0f) : NULL;
    args->accumulate = test_random_below(2);
    product.y_size = (m - 1) * args->y_stride + n;
    product.start = random_floats(product.y_size, 1.0f);
    args->y = copy_floats(product.start, product.y_size);
    return product;
}

static struct product random_shape(void)
{
    static const size_t long_k[] = {100, 256, 300, 1600};
    size_t k = test_random_below(4) ? 1 + test_random_below(70) : long_k[test_random_below(4)];
    size_t m = 1 + test_random_below(15), n = 1 + test_random_below(25);
    return random_product(m, n, k, all_dtypes[test_random_below(3)]);
}

/*
 * A term goes through at most k / PARTIAL_SUMS roundings and a dozen more at the end: the usual
 * bound on the error of a sum, with the sum of absolute terms.
 */
static void check_product(const struct product *product)
{
    const struct hy_matmul_args *args = &product->args;
    for (size_t t = 0; t < args->m; t++) {
        for (size_t j = 0; j < args->n; j++) {
            double sum = args->bias ? (double)args->bias[j] : 0.0, size;
            if (args->accumulate)
                sum += (double)product->start[t * args->y_stride + j];
            size = 2.0;
            for (size_t i = 0; i < args->k; i++) {
                double term = (double)args->x[t * args->x_stride + i]
                              * element(args->w, args->dtype, j * args->w_stride + i);
                sum += term;
                size += fabs(term);
            }
            check_near((double)args->y[t * args->y_stride + j], sum,
                       (double)(args->k / PARTIAL_SUMS + 16) * 0x1p-24 * size, "product");
        }
    }
}

/* What lies between the rows of y is not touched. */
static void check_gaps(const struct product *product)
{
    const struct hy_matmul_args *args = &product->args;
    for (size_t t = 0; t + 1 < args->m; t++)
        check_same_bits(args->y + t * args->y_stride + args->n,
                        product->start + t * args->y_stride + args->n, args->y_stride - args->n,
                        "between the rows");
}

START_TEST(against_double)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (int shape = 0; shape < SHAPES; shape++) {
        struct product product = random_shape();
        kernels.matmul(&product.args, 0, product.args.n, NULL);
        check_product(&product);
        check_gaps(&product);
        release_guarded();
    }
}
END_TEST

/* More weights than a cache block holds, and more rows than a register block. */
START_TEST(large)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (int dtype = 0; dtype < 3; dtype++) {
        struct product product = random_product(13, 203, 1601, all_dtypes[dtype]);
        kernels.matmul(&product.args, 0, product.args.n, NULL);
        check_product(&product);
        release_guarded();
    }
}
END_TEST

START_TEST(parts_and_rows_give_the_same_bits)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (int shape = 0; shape < SHAPES; shape++) {
        struct product product = random_shape();
        struct hy_matmul_args whole = product.args, alone = product.args;
        size_t borders[MOST_PARTS + 1], n_parts = random_division(whole.n, borders);
        kernels.matmul(&whole, 0, whole.n, NULL);

        alone.m = 1;
        for (size_t t = 0; t < whole.m; t++) {
            alone.x = whole.x + t * whole.x_stride;
            alone.y = copy_floats(product.start + t * whole.y_stride, whole.n);
            for (size_t part = 0; part < n_parts; part++)
                kernels.matmul(&alone, borders[part], borders[part + 1], NULL);
            check_same_bits(alone.y, whole.y + t * whole.y_stride, whole.n, "row alone");
        }
        release_guarded();
    }
}
END_TEST

/* Infinities and NaN in x or w come out as in plain arithmetic; overflow gives infinity. */
START_TEST(special_values)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    const float specials[] = {INFINITY, -INFINITY, NAN, 3e38f};
    for (size_t s = 0; s < 4; s++) {
        for (size_t k = 1; k < 40; k++) {
            float *x = random_floats(k, 1.0f), *w = zero_floats(k), y = 0.0f;
            x[k - 1] = specials[s];
            w[k - 1] = 2.0f;
            struct hy_matmul_args args = {.x = x, .m = 1, .n = 1, .k = k, .w = w, .w_stride = k,
                                          .dtype = HYMBA_DTYPE_F32, .y = &y};
            kernels.matmul(&args, 0, 1, NULL);
            ck_assert(isnan(specials[s]) ? isnan(y) : isinf(y) && (y > 0) == (specials[s] > 0));
            release_guarded();
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("matmul");
    TCase *tcase = tcase_create("matmul");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, against_double, 0, N_SETS);
    tcase_add_loop_test(tcase, large, 0, N_SETS);
    tcase_add_loop_test(tcase, parts_and_rows_give_the_same_bits, 0, N_SETS);
    tcase_add_loop_test(tcase, special_values, 0, N_SETS);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
