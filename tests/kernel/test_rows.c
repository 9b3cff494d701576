/* The choice of kernels, and the ops that go row by row, of every instruction set. */
#include "kernel_test.h"

enum { CASES = 60 };

START_TEST(names)
{
    struct hy_kernels kernels, best;
    hymba_error error = {.struct_size = sizeof error};
    test_status(hy_kernels_init(&kernels, "generic", &error), HYMBA_OK, error);
    ck_assert_str_eq(kernels.name, "generic");
    test_status(hy_kernels_init(&kernels, "sse9", &error), HYMBA_ERROR_ARGUMENT, error);
    ck_assert_ptr_nonnull(strstr(error.message, "sse9"));
    unsetenv("HYMBA_CPU");
    test_status(hy_kernels_init(&kernels, NULL, &error), HYMBA_OK, error);
    test_status(hy_kernels_init(&best, "best", &error), HYMBA_OK, error);
    ck_assert_str_eq(kernels.name, best.name);
}
END_TEST

/* The environment counts where no name is given; no machine has both of these. */
START_TEST(names_in_the_environment)
{
    static const char *const sets[] = {"generic", "best", "avx2", "neon"};
    struct hy_kernels kernels, expected;
    hymba_error error = {.struct_size = sizeof error};
    int n_unsupported = 0;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        unsetenv("HYMBA_CPU");
        hymba_error_init(&error, sizeof error);
        hymba_status status = hy_kernels_init(&expected, sets[i], &error);
        ck_assert_ptr_null(strstr(error.message, "HYMBA_CPU"));
        setenv("HYMBA_CPU", sets[i], 1);
        test_status(hy_kernels_init(&kernels, NULL, &error), status, error);
        if (status == HYMBA_OK) {
            ck_assert_str_eq(kernels.name, expected.name);
        } else {
            ck_assert_int_eq(status, HYMBA_ERROR_UNSUPPORTED);
            ck_assert_ptr_eq(strstr(error.message, "HYMBA_CPU: "), error.message);
            ck_assert_ptr_nonnull(strstr(error.message, sets[i]));
            n_unsupported++;
        }
        test_status(hy_kernels_init(&kernels, "generic", &error), HYMBA_OK, error);
        ck_assert_str_eq(kernels.name, "generic");
    }
    ck_assert_int_ge(n_unsupported, 1);
    setenv("HYMBA_CPU", "sse9", 1);
    test_status(hy_kernels_init(&kernels, NULL, &error), HYMBA_ERROR_ARGUMENT, error);
    ck_assert_ptr_eq(strstr(error.message, "HYMBA_CPU: "), error.message);
    ck_assert_ptr_nonnull(strstr(error.message, "\"sse9\""));
    test_status(hy_kernels_init(&expected, "best", &error), HYMBA_OK, error);
    setenv("HYMBA_CPU", "", 1);
    test_status(hy_kernels_init(&kernels, NULL, &error), HYMBA_OK, error);
    ck_assert_str_eq(kernels.name, expected.name);
    unsetenv("HYMBA_CPU");
}
END_TEST

START_TEST(complete)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    ck_assert(kernels.embed && kernels.rms_norm && kernels.matmul && kernels.rope);
    ck_assert(kernels.cache_rows && kernels.attention && kernels.conv && kernels.scan);
    ck_assert(kernels.fuse && kernels.square_sums && kernels.swiglu && kernels.name);
}
END_TEST

START_TEST(embed)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    const int32_t ids[] = {4, 0, 6, 6};
    for (int number = 0; number < CASES; number++) {
        hymba_dtype dtype = all_dtypes[number % 3];
        size_t n = 1 + test_random_below(70);
        unsigned char *table = random_elements(7 * n, dtype, 1.0f, test_random_below(2));
        struct hy_embed_args args = {ids, {.data = table, .dtype = dtype, .columns = n},
                                     zero_floats(4 * n)};
        kernels.embed(&args, 0, 3);
        kernels.embed(&args, 3, 4);
        for (size_t t = 0; t < 4; t++)
            for (size_t i = 0; i < n; i++)
                ck_assert_double_eq((double)args.y[t * n + i],
                                    element(table, dtype, (size_t)ids[t] * n + i));
        release_guarded();
    }
}
END_TEST

static double exact_scale(const float *x, size_t n, float epsilon)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return 1.0 / sqrt(sum / (double)n + (double)epsilon);
}

/* The sum of squares has terms of one sign: n / 8 + a few roundings; 2e-6 up to n = 100. */
static void check_norm(const float *x, const float *weight, size_t n, const float *y,
                       double factor)
{
    double scale = factor * exact_scale(x, n, 1e-6f);
    for (size_t i = 0; i < n; i++) {
        double expected = (double)x[i] * scale * (double)weight[i];
        check_near((double)y[i], expected, 2e-6 * fabs(expected), "norm");
    }
}

START_TEST(rms_norm)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    enum { ROWS = 3 };
    for (int number = 0; number < CASES; number++) {
        size_t n = 1 + test_random_below(100), stride = n + test_random_below(3);
        size_t size = (ROWS - 1) * stride + n;
        float *x = random_floats(size, number % 2 ? 1.0f : 1e-3f);
        struct hy_rms_norm_args args = {
            .x = x, .x_stride = stride, .weight = random_floats(n, 1.0f), .n = n,
            .epsilon = 1e-6f, .y = zero_floats(size), .y_stride = stride,
        };
        kernels.rms_norm(&args, 0, ROWS);
        for (size_t t = 0; t < ROWS; t++)
            check_norm(x + t * stride, args.weight, n, args.y + t * stride, 1.0);

        struct hy_rms_norm_args in_place = args;
        in_place.y = copy_floats(x, size);
        in_place.x = in_place.y;
        for (size_t t = ROWS; t-- > 0;)
            kernels.rms_norm(&in_place, t, t + 1);
        for (size_t t = 0; t < ROWS; t++)
            check_same_bits(in_place.y + t * stride, args.y + t * stride, n, "in place");
        release_guarded();
    }
}
END_TEST

/* Rows of both streams, whose strides differ, as the arguments of a fusion without a result. */
static struct hy_fuse_args random_streams(size_t rows, size_t n, bool concat)
{
    size_t width = concat ? 2 * n : n;
    return (struct hy_fuse_args){
        .attention = random_floats((rows - 1) * (n + 1) + n, 1.0f), .attention_stride = n + 1,
        .ssm = random_floats((rows - 1) * (n + 2) + n, 1.0f), .ssm_stride = n + 2,
        .weight_attention = random_floats(n, 1.0f), .weight_ssm = random_floats(n, 1.0f),
        .n = n, .epsilon = 1e-6f, .concat = concat,
        .y = zero_floats(rows * width), .y_stride = width,
    };
}

START_TEST(fuse)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    enum { ROWS = 2 };
    for (int number = 0; number < CASES; number++) {
        size_t n = 1 + test_random_below(100);
        bool concat = number % 2;
        size_t width = concat ? 2 * n : n;
        struct hy_fuse_args args = random_streams(ROWS, n, concat);
        kernels.fuse(&args, 1, 2);
        kernels.fuse(&args, 0, 1);
        for (size_t t = 0; t < ROWS; t++) {
            const float *first = args.attention + t * (n + 1), *second = args.ssm + t * (n + 2);
            const float *y = args.y + t * width;
            if (concat) {
                check_norm(first, args.weight_attention, n, y, 1.0);
                check_norm(second, args.weight_ssm, n, y + n, 1.0);
                continue;
            }
            double scale_first = exact_scale(first, n, 1e-6f);
            double scale_second = exact_scale(second, n, 1e-6f);
            for (size_t i = 0; i < n; i++) {
                double a = (double)first[i] * scale_first * (double)args.weight_attention[i];
                double b = (double)second[i] * scale_second * (double)args.weight_ssm[i];
                check_near((double)y[i], (a + b) / 2.0, 2e-6 * (fabs(a) + fabs(b)), "fusion");
            }
        }
        release_guarded();
    }
}
END_TEST

/* Of the channels from begin to before end. */
static float *square_sums_of(const struct hy_kernels *kernels, const struct hy_fuse_args *args,
                             size_t rows, size_t begin, size_t end)
{
    struct hy_square_sums_args sums = {
        .attention = args->attention + begin, .attention_stride = args->attention_stride,
        .ssm = args->ssm + begin, .ssm_stride = args->ssm_stride,
        .n = end - begin, .sums = zero_floats(rows * 2),
    };
    for (size_t t = rows; t-- > 0;)
        kernels->square_sums(&sums, t, t + 1);
    return sums.sums;
}

START_TEST(fuse_with_sums_of_whole_rows)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    enum { ROWS = 3 };
    for (int number = 0; number < CASES; number++) {
        size_t n = 1 + test_random_below(100);
        struct hy_fuse_args args = random_streams(ROWS, n, number % 2), given = args;
        given.y = zero_floats(ROWS * args.y_stride);
        given.sums = square_sums_of(&kernels, &args, ROWS, 0, n);
        given.total = n;
        kernels.fuse(&args, 0, ROWS);
        kernels.fuse(&given, 0, ROWS);
        check_same_bits(given.y, args.y, ROWS * args.y_stride, "fusion by given sums");
        release_guarded();
    }
}
END_TEST

/* The channels of each of two parts, by the sums of both. */
START_TEST(fuse_of_parts)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    enum { ROWS = 2 };
    for (int number = 0; number < CASES; number++) {
        size_t n = 2 + test_random_below(100), border = 1 + test_random_below(n - 1);
        struct hy_fuse_args args = random_streams(ROWS, n, true);
        float *sums = square_sums_of(&kernels, &args, ROWS, 0, border);
        const float *others = square_sums_of(&kernels, &args, ROWS, border, n);
        for (size_t i = 0; i < 2 * ROWS; i++)
            sums[i] += others[i];
        for (int part = 0; part < 2; part++) {
            size_t begin = part ? border : 0, width = part ? n - border : border;
            struct hy_fuse_args own = args;
            own.attention += begin;
            own.ssm += begin;
            own.weight_attention += begin;
            own.weight_ssm += begin;
            own.n = width;
            own.y = zero_floats(ROWS * 2 * width);
            own.y_stride = 2 * width;
            own.sums = sums;
            own.total = n;
            kernels.fuse(&own, 0, ROWS);
            for (size_t t = 0; t < ROWS; t++)
                for (size_t i = 0; i < 2 * width; i++) {
                    bool second = i >= width;
                    size_t channel = begin + i % width;
                    const float *row = second ? args.ssm + t * (n + 2)
                                              : args.attention + t * (n + 1);
                    const float *weight = second ? args.weight_ssm : args.weight_attention;
                    double expected = (double)row[channel] * exact_scale(row, n, 1e-6f)
                                      * (double)weight[channel];
                    check_near((double)own.y[t * 2 * width + i], expected,
                               2e-6 * fabs(expected), "a part of a fusion");
                }
        }
        release_guarded();
    }
}
END_TEST

/* silu and one product: an exponential of 2e-7 and a few roundings. */
START_TEST(swiglu)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (int number = 0; number < CASES; number++) {
        size_t n = 1 + test_random_below(100);
        float *gate = random_floats(2 * n, number % 2 ? 5.0f : 80.0f);
        struct hy_swiglu_args args = {
            .gate = gate, .gate_stride = n, .up = random_floats(2 * n, 1.0f), .up_stride = n,
            .n = n, .y = zero_floats(2 * n), .y_stride = n,
        };
        kernels.swiglu(&args, 0, 2);
        for (size_t i = 0; i < 2 * n; i++) {
            double expected = exact_silu((double)gate[i]) * (double)args.up[i];
            check_near((double)args.y[i], expected, 5e-7 * fabs(expected), "swiglu");
        }
        struct hy_swiglu_args in_place = args;
        in_place.y = copy_floats(gate, 2 * n);
        in_place.gate = in_place.y;
        kernels.swiglu(&in_place, 1, 2);
        kernels.swiglu(&in_place, 0, 1);
        check_same_bits(in_place.y, args.y, 2 * n, "in place");
        release_guarded();
    }
}
END_TEST

START_TEST(swiglu_special_values)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    float gate[] = {-200.0f, 200.0f, 3e38f, INFINITY, NAN, -3e38f, -INFINITY, 0.0f, -0.0f};
    enum { N = sizeof gate / sizeof gate[0] };
    float up[N], y[N];
    for (size_t i = 0; i < N; i++)
        up[i] = 1.0f;
    struct hy_swiglu_args args = {.gate = gate, .up = up, .n = N, .y = y};
    kernels.swiglu(&args, 0, 1);
    ck_assert_float_eq(y[0], 0.0f);
    ck_assert_float_eq(y[1], 200.0f);
    ck_assert_float_eq(y[2], 3e38f);
    ck_assert(isinf(y[3]) && isnan(y[4]));
    ck_assert_float_eq(y[5], 0.0f);
    ck_assert(isnan(y[6])); /* -inf / inf, in plain arithmetic too */
    ck_assert_float_eq(y[7], 0.0f);
    ck_assert_float_eq(y[8], 0.0f);
}
END_TEST

START_TEST(rope)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    enum { ROWS = 3, HEADS = 2 };
    for (int number = 0; number < CASES; number++) {
        size_t half = 1 + test_random_below(40), stride = HEADS * 2 * half + test_random_below(3);
        size_t size = (ROWS - 1) * stride + HEADS * 2 * half;
        float *x = random_floats(size, 1.0f), *y = copy_floats(x, size);
        float *cosine = zero_floats(ROWS * half), *sine = zero_floats(ROWS * half);
        for (size_t i = 0; i < ROWS * half; i++) {
            float angle = random_float(10.0f);
            cosine[i] = cosf(angle);
            sine[i] = sinf(angle);
        }
        struct hy_rope_args args = {y, stride, HEADS, 2 * half, cosine, sine};
        kernels.rope(&args, 1, 3);
        kernels.rope(&args, 0, 1);
        for (size_t t = 0; t < ROWS; t++) {
            for (size_t i = 0; i < HEADS * half; i++) {
                size_t low = t * stride + i / half * 2 * half + i % half, high = low + half;
                double c = (double)cosine[t * half + i % half];
                double s = (double)sine[t * half + i % half];
                double a = (double)x[low], b = (double)x[high];
                check_near((double)y[low], a * c - b * s, 4e-7, "low half");
                check_near((double)y[high], b * c + a * s, 4e-7, "high half");
            }
        }
        release_guarded();
    }
}
END_TEST

/* The same elements as the plain conversion, bit for bit; only a NaN may have another payload. */
static void check_stored(const void *y, hymba_dtype dtype, size_t index, float value)
{
    unsigned char expected[4];
    hy_row_from_f32(&value, dtype, expected, 1);
    size_t size = hy_dtype_size(dtype);
    if (isnan(value))
        ck_assert(isnan(hy_load_element(y, dtype, index)));
    else
        ck_assert_mem_eq((const unsigned char *)y + index * size, expected, size);
}

START_TEST(cache_rows)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    enum { ROWS = 3, HEADS = 2 };
    const float specials[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 65504.0f, 65519.9f, 65520.0f,
                              3.4e38f, 1e-45f, 6e-8f, 3e-8f, 2.9e-8f, 6.1e-5f, 1.00390625f};
    for (int number = 0; number < CASES; number++) {
        hymba_dtype dtype = all_dtypes[number % 3];
        size_t n = 1 + test_random_below(70), apart = (ROWS + 1) * n; /* heads */
        size_t count = apart * (HEADS - 1) + ROWS * n;
        float *x = random_floats(ROWS * HEADS * n, number % 2 ? 1.0f : 1e-5f);
        for (size_t i = 0; i < 5; i++)
            x[test_random_below(ROWS * HEADS * n)] = specials[test_random_below(15)];
        struct hy_cache_rows_args args = {
            .x = x, .x_stride = HEADS * n, .n_heads = HEADS, .head_size = n, .dtype = dtype,
            .y = random_elements(count, dtype, 1.0f, 0),
            .head_stride = apart * hy_dtype_size(dtype),
        };
        double between = element(args.y, dtype, ROWS * n);
        kernels.cache_rows(&args, 2, 3);
        kernels.cache_rows(&args, 0, 2);
        for (size_t t = 0; t < ROWS; t++)
            for (size_t i = 0; i < HEADS * n; i++)
                check_stored(args.y, dtype, i / n * apart + t * n + i % n,
                             x[t * HEADS * n + i]);
        ck_assert_double_eq(element(args.y, dtype, ROWS * n), between);
        release_guarded();
    }
}
END_TEST

/* An fp8 number is the nearest: off by half of the last of four bits, or of the unit of subnormal
 * numbers, and what the factor's rounding adds. */
static void check_fp8_element(uint8_t y, double x)
{
    check_near((double)hy_fp8_to_f32(y), x, fmax(fabs(x) * 0x1.0001p-4, 0x1.0001p-10), "fp8");
}

/* The nearest multiple of a 127th of the greatest, on every instruction set the same; between two
 * multiples the factor's rounding may decide. Rows of nothing that counts are 0. */
static void check_scaled_row(const unsigned char *y, const float *x, size_t n, hymba_dtype dtype)
{
    float greatest = 0.0f, scale;
    bool finite = true;
    memcpy(&scale, y + n, sizeof scale);
    for (size_t i = 0; i < n; i++) {
        finite = finite && isfinite(x[i]);
        greatest = fmaxf(greatest, fabsf(x[i]));
    }
    if (!finite)
        ck_assert(!isfinite(scale));
    else
        ck_assert_float_eq(scale, greatest / hy_cache_greatest(dtype));
    for (size_t i = 0; i < n; i++) {
        int value = y[i] > 127 ? y[i] - 256 : y[i];
        if (!finite || greatest < 0x1p-118f)
            ck_assert_int_eq(value, 0);
        else if (dtype == HYMBA_DTYPE_FP8)
            check_fp8_element(y[i], (double)x[i] * 448.0 / (double)greatest);
        else
            check_near(value, (double)x[i] * 127.0 / (double)greatest, 0.5 + 2e-5, "int8");
    }
}

START_TEST(cache_rows_with_scales)
{
    struct hy_kernels kernels, generic;
    hymba_error error = {.struct_size = sizeof error};
    if (!kernels_of_set(_i, &kernels))
        return;
    test_status(hy_kernels_init(&generic, "generic", &error), HYMBA_OK, error);
    enum { ROWS = 3, HEADS = 2 };
    const float specials[] = {0.0f, INFINITY, -INFINITY, NAN, 3.4e38f, -3.4e38f, 1e-45f, 1e-36f};
    const float scales[] = {1.0f, 1e-37f, 0.0f, 1e30f};
    for (int number = 0; number < 6 * CASES; number++) {
        hymba_dtype dtype = number % 2 ? HYMBA_DTYPE_FP8 : HYMBA_DTYPE_INT8;
        size_t n = 1 + test_random_below(70), row = n + sizeof(float), apart = ROWS * row + 3;
        size_t size = apart * (HEADS - 1) + ROWS * row;
        float *x = random_floats(ROWS * HEADS * n, scales[number / 2 % 4]);
        if (number % 3 == 0)
            x[test_random_below(ROWS * HEADS * n)] = specials[test_random_below(8)];
        struct hy_cache_rows_args args = {
            .x = x, .x_stride = HEADS * n, .n_heads = HEADS, .head_size = n,
            .dtype = dtype, .y = guarded(size), .head_stride = apart,
        };
        unsigned char *y = args.y;
        memset(y, 0x55, size);
        kernels.cache_rows(&args, 2, 3);
        kernels.cache_rows(&args, 0, 2);
        for (size_t t = 0; t < ROWS; t++)
            for (size_t head = 0; head < HEADS; head++)
                check_scaled_row(y + head * apart + t * row, x + (t * HEADS + head) * n, n, dtype);
        ck_assert_mem_eq(y + ROWS * row, "\x55\x55\x55", 3);
        args.y = guarded(size);
        memset(args.y, 0x55, size);
        generic.cache_rows(&args, 0, ROWS);
        ck_assert_mem_eq(y, args.y, size);
        release_guarded();
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rows");
    TCase *tcase = tcase_create("rows");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, names);
    tcase_add_test(tcase, names_in_the_environment);
    tcase_add_loop_test(tcase, complete, 0, N_SETS);
    tcase_add_loop_test(tcase, embed, 0, N_SETS);
    tcase_add_loop_test(tcase, rms_norm, 0, N_SETS);
    tcase_add_loop_test(tcase, fuse, 0, N_SETS);
    tcase_add_loop_test(tcase, fuse_with_sums_of_whole_rows, 0, N_SETS);
    tcase_add_loop_test(tcase, fuse_of_parts, 0, N_SETS);
    tcase_add_loop_test(tcase, swiglu, 0, N_SETS);
    tcase_add_loop_test(tcase, swiglu_special_values, 0, N_SETS);
    tcase_add_loop_test(tcase, rope, 0, N_SETS);
    tcase_add_loop_test(tcase, cache_rows, 0, N_SETS);
    tcase_add_loop_test(tcase, cache_rows_with_scales, 0, N_SETS);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
