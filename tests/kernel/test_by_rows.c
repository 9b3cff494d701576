/* Rows of 8 bits with one scale each, and products of them: against double precision. */
#include "kernel/by_rows.h"

#include <math.h>
#include <stdlib.h>

#include "kernel/ref.h"
#include "support.h"

enum { CASES = 200, MOST = 700 };

static const hymba_dtype dtypes[2] = {HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8};

static void fill(float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = ((float)test_random_below(20001) / 10000.0f - 1.0f) * scale;
}

static double value_of(hymba_dtype dtype, unsigned char byte)
{
    return dtype == HYMBA_DTYPE_INT8 ? (double)(int8_t)byte : (double)hy_fp8_to_f32(byte);
}

/* Half of the distance between neighbours at a value, in units of the scale. */
static double half_step(hymba_dtype dtype, double value)
{
    if (dtype == HYMBA_DTYPE_INT8)
        return 0.5;
    return ldexp(0.5, (fabs(value) < 0x1p-6 ? -6 : ilogb(value)) - 3);
}

START_TEST(values_are_the_nearest)
{
    float x[MOST];
    unsigned char bytes[MOST + 64];
    for (int number = 0; number < CASES; number++) {
        hymba_dtype dtype = dtypes[number % 2];
        size_t n = 1 + test_random_below(MOST);
        double most = dtype == HYMBA_DTYPE_INT8 ? 127.0 : 448.0;
        fill(x, n, ldexpf(1.0f, (int)test_random_below(200) - 100));
        x[test_random_below(n)] *= 3.0f;
        memset(bytes, 0x55, sizeof bytes);
        float scale = hy_round_by_rows(x, n, dtype, bytes), greatest = 0.0f;
        for (size_t i = 0; i < n; i++)
            greatest = fmaxf(greatest, fabsf(x[i]));
        ck_assert_float_eq(scale, greatest / (float)most);
        for (size_t i = 0; i < n; i++) {
            double expected = (double)x[i] * most / (double)greatest;
            double found = value_of(dtype, bytes[i]);
            ck_assert_msg(fabs(found - expected) <= half_step(dtype, expected) * (1 + 1e-5),
                          "%s: %g became %g", hy_dtype_name(dtype), expected, found);
            ck_assert(fabs(found) <= most);
        }
        for (size_t i = n; i < hy_padded_row(n); i++)
            ck_assert_int_eq(bytes[i], 0);
        ck_assert_int_eq(bytes[hy_padded_row(n)], 0x55);
    }
}
END_TEST

/* What cannot be rounded is 0, and its scale says what it was. */
START_TEST(rows_that_are_no_numbers)
{
    static const float odd[] = {0.0f, 0x1p-119f, 0x1p-140f, INFINITY, -INFINITY, NAN};
    hymba_dtype dtype = dtypes[_i];
    for (size_t k = 0; k < sizeof odd / sizeof odd[0]; k++) {
        float x[40] = {0.0f};
        unsigned char bytes[64];
        x[7] = odd[k];
        x[8] = k < 3 ? 0.0f : 1.0f;
        memset(bytes, 0x55, sizeof bytes);
        float scale = hy_round_by_rows(x, 40, dtype, bytes);
        for (size_t i = 0; i < sizeof bytes; i++)
            ck_assert_int_eq(bytes[i], 0);
        if (k < 3)
            ck_assert_float_le(scale, 0x1p-118f);
        else
            ck_assert(!isfinite(scale));
    }
    float greatest[3] = {3.4e38f, -3.4028234e38f, 1.0f};
    unsigned char bytes[32];
    ck_assert_float_gt(hy_round_by_rows(greatest, 3, dtype, bytes), 1e35f);
    ck_assert_double_eq(value_of(dtype, bytes[1]), dtype == HYMBA_DTYPE_INT8 ? -127.0 : -448.0);
}
END_TEST

/* The least magnitude that is rounded by, and what is just below. */
START_TEST(least_that_is_rounded)
{
    hymba_dtype dtype = dtypes[_i];
    unsigned char bytes[32];
    float least = 0x1p-118f, below = least * (1 - 0x1p-24f);
    hy_round_by_rows(&least, 1, dtype, bytes);
    ck_assert_double_eq(value_of(dtype, bytes[0]), dtype == HYMBA_DTYPE_INT8 ? 127.0 : 448.0);
    hy_round_by_rows(&below, 1, dtype, bytes);
    ck_assert_double_eq(value_of(dtype, bytes[0]), 0.0);
}
END_TEST

/* Halfway between two values: to the even one. */
START_TEST(halves_go_to_the_even_one)
{
    static const struct {
        hymba_dtype dtype;
        float x[8];
        double expected[8];
    } rows[] = {
        {HYMBA_DTYPE_INT8,
         {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f},
         {127, 0, 2, 2, 0, -2, -2, 126}},
        {HYMBA_DTYPE_FP8,
         {448.0f, 17.0f, 19.0f, -17.0f, -19.0f, 0x1p-10f, 0x3p-10f, -0x5p-10f},
         {448, 16, 20, -16, -20, 0, 0x2p-9, -0x2p-9}},
    };
    unsigned char bytes[32];
    hy_round_by_rows(rows[_i].x, 8, rows[_i].dtype, bytes);
    for (size_t i = 0; i < 8; i++)
        ck_assert_double_eq(value_of(rows[_i].dtype, bytes[i]), rows[_i].expected[i]);
}
END_TEST

/* By the op's table as by the function. */
START_TEST(round_is_the_same)
{
    struct hy_kernels kernels;
    float x[5 * MOST], scales[5];
    unsigned char bytes[5 * (MOST + 64)], expected[MOST + 64];
    hymba_dtype dtype = dtypes[_i];
    hy_kernels_generic(&kernels);
    size_t n = 1 + test_random_below(MOST), stride = hy_padded_row(n) + 32;
    fill(x, 5 * n, 2.0f);
    struct hy_round_args args = {
        .x = x,
        .x_stride = n,
        .n = n,
        .y = {.dtype = dtype, .data = bytes, .stride = stride, .scales = scales, .group = n},
    };
    kernels.round(&args, 0, 5);
    for (size_t t = 0; t < 5; t++) {
        ck_assert_float_eq(scales[t], hy_round_by_rows(x + t * n, n, dtype, expected));
        ck_assert_mem_eq(bytes + t * stride, expected, hy_padded_row(n));
    }
}
END_TEST

struct product {
    float x[6 * MOST], w[20 * MOST], bias[20], y[6 * 24], old[6 * 24];
    unsigned char x_bytes[6 * (MOST + 32)], w_bytes[32 * (MOST + 32)];
    float x_scales[6], w_scales[32];
    struct hy_rounded rounded;
    struct hy_matmul_args args;
};

static void make_product(struct product *p, hymba_dtype dtype, size_t m, size_t n, size_t k)
{
    size_t stride = hy_padded_row(k);
    fill(p->x, m * k, 3.0f);
    fill(p->w, n * k, 0.1f);
    fill(p->bias, n, 1.0f);
    fill(p->old, 6 * 24, 1.0f);
    memcpy(p->y, p->old, sizeof p->y);
    for (size_t t = 0; t < m; t++)
        p->x_scales[t] = hy_round_by_rows(p->x + t * k, k, dtype, p->x_bytes + t * stride);
    for (size_t j = 0; j < n; j++)
        p->w_scales[j] = hy_round_by_rows(p->w + j * k, k, dtype, p->w_bytes + j * stride);
    p->rounded = (struct hy_rounded){
        .dtype = dtype, .data = p->x_bytes, .stride = stride, .scales = p->x_scales, .group = k};
    p->args = (struct hy_matmul_args){
        .rounded = &p->rounded,
        .m = m,
        .n = n,
        .k = k,
        .w = p->w_bytes,
        .dtype = dtype,
        .w_stride = stride,
        .w_scales = p->w_scales,
        .group = k,
        .y = p->y,
        .y_stride = 24,
        .by_rows = true,
    };
}

/* The sum of int8 products is exact; that of fp8 ones is k roundings of f32 at most. */
static void check_result(const struct product *p, size_t t, size_t j)
{
    const struct hy_matmul_args *args = &p->args;
    double sum = 0.0, magnitude = 0.0, start = 0.0;
    for (size_t i = 0; i < args->k; i++) {
        double one = value_of(args->dtype, p->x_bytes[t * args->w_stride + i]) *
                     value_of(args->dtype, p->w_bytes[j * args->w_stride + i]);
        sum += one;
        magnitude += fabs(one);
    }
    if (args->bias)
        start += (double)p->bias[j];
    if (args->accumulate)
        start += (double)p->old[t * 24 + j];
    double scale = (double)p->x_scales[t] * (double)p->w_scales[j];
    double error = args->dtype == HYMBA_DTYPE_INT8 ? fabs(sum) : (double)args->k * magnitude;
    double bound = (error * scale + fabs(start) + fabs(sum * scale)) * 4 * 0x1p-24;
    double found = (double)p->y[t * 24 + j];
    ck_assert_msg(fabs(found - (start + sum * scale)) <= bound, "row %zu, column %zu: %g, not %g",
                  t, j, found, start + sum * scale);
}

START_TEST(products_are_near)
{
    struct product *p = malloc(sizeof *p);
    struct hy_kernels kernels;
    hy_kernels_generic(&kernels);
    for (int number = 0; number < CASES; number++) {
        make_product(p, dtypes[number % 2], 1 + test_random_below(6), 1 + test_random_below(20),
                     1 + test_random_below(MOST));
        p->args.bias = number % 3 ? NULL : p->bias;
        p->args.accumulate = number % 5 < 2;
        size_t middle = test_random_below(p->args.n + 1);
        kernels.matmul(&p->args, 0, middle, NULL);
        kernels.matmul(&p->args, middle, p->args.n, NULL);
        for (size_t t = 0; t < 6; t++)
            for (size_t j = 0; j < 24; j++) {
                if (t < p->args.m && j < p->args.n)
                    check_result(p, t, j);
                else
                    ck_assert_float_eq(p->y[t * 24 + j], p->old[t * 24 + j]);
            }
    }
    free(p);
}
END_TEST

/* A product of two rows, or of parts of rows, each rounded by itself. */
struct part {
    double exact, product;
    double bound; /* what rounding may change */
    float x_scale, w_scale;
};

/* Numbers are rounded by half a step at most; factor and scale are rounded, too. */
static double rounding_of(const float *x, const float *w, size_t n, hymba_dtype dtype,
                          const struct part *part)
{
    double sum = 0.0, x_scale = (double)part->x_scale, w_scale = (double)part->w_scale;
    for (size_t i = 0; i < n; i++) {
        double a = fabs((double)x[i]), b = fabs((double)w[i]);
        double of_a = half_step(dtype, a / x_scale) * x_scale;
        double of_b = half_step(dtype, b / w_scale) * w_scale;
        sum += a * of_b + b * of_a + of_a * of_b;
    }
    return sum * (1 + 1e-4);
}

static struct part multiply_part(const float *x, const float *w, size_t n, hymba_dtype dtype)
{
    unsigned char x_bytes[MOST + 32], w_bytes[MOST + 32];
    struct part part = {.x_scale = hy_round_by_rows(x, n, dtype, x_bytes),
                        .w_scale = hy_round_by_rows(w, n, dtype, w_bytes)};
    float y = 0.0f;
    struct hy_rounded rounded = {.dtype = dtype, .data = x_bytes, .stride = hy_padded_row(n),
                                 .scales = &part.x_scale, .group = n};
    struct hy_matmul_args args = {.rounded = &rounded, .m = 1, .n = 1, .k = n, .w = w_bytes,
                                  .dtype = dtype, .w_stride = rounded.stride,
                                  .w_scales = &part.w_scale, .group = n, .y = &y, .y_stride = 1,
                                  .by_rows = true};
    hy_matmul_by_rows(&args, 0, 1);
    part.product = (double)y;
    for (size_t i = 0; i < n; i++)
        part.exact += (double)x[i] * (double)w[i];
    part.bound = rounding_of(x, w, n, dtype, &part) + (double)n * 0x1p-20;
    return part;
}

/*
 * Devices that each have some columns of a matrix round their parts of rows by themselves, with
 * scales that are at most the whole row's. So the sum of parts is not the whole row's product, but
 * in int8 no farther from the exact one than that may be. Steps of fp8 are scales times powers of
 * two, with numbers between 8 and 16 steps: a smaller scale can make a step up to twice as great.
 */
START_TEST(parts_of_rows)
{
    float x[MOST], w[MOST];
    hymba_dtype dtype = dtypes[_i];
    bool fp8 = dtype == HYMBA_DTYPE_FP8;
    int n_apart = 0;
    for (int number = 0; number < CASES; number++) {
        size_t n = 3 + test_random_below(MOST - 2), cut = 1 + test_random_below(n - 1);
        fill(x, n, 3.0f);
        fill(w, n, 0.1f);
        x[test_random_below(n)] *= 20.0f; /* so one part has a greater scale */
        struct part whole = multiply_part(x, w, n, dtype);
        struct part first = multiply_part(x, w, cut, dtype);
        struct part second = multiply_part(x + cut, w + cut, n - cut, dtype);
        double sum = first.product + second.product, bound = first.bound + second.bound;
        ck_assert(fmaxf(first.x_scale, second.x_scale) == whole.x_scale);
        ck_assert(fmaxf(first.w_scale, second.w_scale) == whole.w_scale);
        ck_assert_double_le(bound, (fp8 ? 2 + 1.0 / 8 : 1) * whole.bound + 0x1p-20);
        ck_assert_double_le(fabs(whole.product - whole.exact), whole.bound);
        ck_assert_double_le(fabs(sum - whole.exact), bound);
        n_apart += sum != whole.product;
    }
    ck_assert_int_gt(n_apart, CASES / 2);
}
END_TEST

/* The longest row whose sum fits, of the greatest values. */
START_TEST(the_longest_row_of_int8)
{
    size_t k = HY_MOST_INT8_COLUMNS, stride = hy_padded_row(k);
    unsigned char *bytes = malloc(2 * stride);
    float scale = 1.0f, y = 0.0f;
    memset(bytes, 0x7f, stride);
    memset(bytes + stride, 0x81, stride);
    struct hy_rounded rounded = {.dtype = HYMBA_DTYPE_INT8, .data = bytes, .stride = stride,
                                 .scales = &scale, .group = k};
    struct hy_matmul_args args = {.rounded = &rounded, .m = 1, .n = 1, .k = k,
                                  .w = bytes + stride, .dtype = HYMBA_DTYPE_INT8,
                                  .w_stride = stride, .w_scales = &scale, .group = k, .y = &y,
                                  .y_stride = 1, .by_rows = true};
    hy_matmul_by_rows(&args, 0, 1);
    ck_assert_float_eq(y, (float)(-127.0 * 127.0 * (double)k));
    ck_assert(127LL * 127 * ((long long)k + 1) > INT32_MAX);
    free(bytes);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("matrices by rows");
    TCase *rows = tcase_create("by rows");
    tcase_add_test(rows, values_are_the_nearest);
    tcase_add_loop_test(rows, rows_that_are_no_numbers, 0, 2);
    tcase_add_loop_test(rows, least_that_is_rounded, 0, 2);
    tcase_add_loop_test(rows, halves_go_to_the_even_one, 0, 2);
    tcase_add_loop_test(rows, round_is_the_same, 0, 2);
    tcase_add_test(rows, products_are_near);
    tcase_add_loop_test(rows, parts_of_rows, 0, 2);
    tcase_add_test(rows, the_longest_row_of_int8);
    suite_add_tcase(suite, rows);
    return test_main(suite);
}
