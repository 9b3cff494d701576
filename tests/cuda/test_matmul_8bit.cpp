/*
 * Products of 8 bits by the plug-in's device in the harness: of int8 with generic C's bits, of fp8
 * near it; rows with the same bits in any company; and what is refused.
 */
#include "device.h"
#include "device_test.h"

extern "C" {
#include "kernel/by_rows.h"
}

#include <algorithm>

typedef std::vector<float> floats;
typedef std::vector<unsigned char> bytes;

extern "C" const struct hy_device_ops *hymba_device_plugin(uint32_t interface_version);

static const hymba_dtype dtypes[] = {HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8};

static const struct hy_device_ops *ops;
static struct hy_device *device;
static hymba_error error;

static hymba_status open_device(int compute, int major, int minor)
{
    struct harness_device_config config = harness_default_device();
    struct hy_device_params params = {};
    config.major = major;
    config.minor = minor;
    harness_configure(&config);
    params.struct_size = sizeof params;
    params.compute = compute;
    error = {};
    error.struct_size = sizeof error;
    return ops->open(&params, &device, &error);
}

static void setup()
{
    harness_reset();
    ops = hymba_device_plugin(HY_DEVICE_INTERFACE);
    device = NULL;
}

static void setup_open()
{
    setup();
    test_status(open_device(HYMBA_COMPUTE_FP8, 8, 9), HYMBA_OK, error);
}

static void teardown()
{
    if (device)
        ops->close(device);
    ck_assert_msg(harness_error_count() == 0, "%s", harness_first_error());
    ck_assert_uint_eq(harness_live_count(), 0);
    harness_reset();
}

static hymba_status finish()
{
    error = {};
    error.struct_size = sizeof error;
    return ops->finish(device, &error);
}

/* Memory of the device that goes with the object. */
template <typename T> class placed {
public:
    explicit placed(const std::vector<T> &values)
        : data((T *)ops->allocate(device, values.size() * sizeof(T))), size(values.size())
    {
        ck_assert_ptr_nonnull(data);
        struct hy_copy_args args = {HY_COPY_TO_DEVICE, data, 0, values.data(), 0,
                                    size * sizeof(T), 1};
        ops->copy(device, &args);
    }
    placed(const placed &) = delete;
    placed &operator=(const placed &) = delete;
    ~placed()
    {
        ops->release(device, data);
    }
    std::vector<T> read() const
    {
        std::vector<T> values(size);
        struct hy_copy_args args = {HY_COPY_TO_HOST, values.data(), 0, data, 0, size * sizeof(T),
                                    1};
        ops->copy(device, &args);
        test_status(finish(), HYMBA_OK, error);
        return values;
    }
    T *data;
    const size_t size;
};

/* Rows of f32 in 8 bits. */
struct narrow {
    size_t stride;
    bytes data;
    floats scales;
    narrow(const floats &x, size_t rows, size_t n, hymba_dtype dtype, size_t more)
        : stride(hy_padded_row(n) + more), data(hy_weight_rows(rows) * stride), scales(rows)
    {
        for (size_t t = 0; t < rows; t++)
            scales[t] = hy_round_by_rows(&x[t * n], n, dtype, &data[t * stride]);
    }
};

/* A matrix and rows for it, and what a product of them needs. */
class problem {
public:
    problem(hymba_dtype dtype_, size_t m_, size_t n_, size_t k_)
        : problem(dtype_, m_, n_, k_, 16 * test_random_below(3))
    {
    }
    /* Rows of x lie so many bytes farther apart than they are long. */
    problem(hymba_dtype dtype_, size_t m_, size_t n_, size_t k_, size_t more)
        : m(m_), n(n_), k(k_), dtype(dtype_), x(random_floats(m * k, 2.0f), m, k, dtype, more),
          w(random_floats(n * k, 0.1f), n, k, dtype, 0), bias(random_floats(n, 1.0f))
    {
    }
    struct hy_matmul_args form(const struct hy_rounded *rounded, bool with_bias,
                               bool accumulate) const
    {
        struct hy_matmul_args args = {};
        args.rounded = rounded;
        args.m = rounded->data == x.data.data() ? m : 0;
        args.n = n;
        args.k = args.group = k;
        args.w = w.data.data();
        args.dtype = dtype;
        args.w_stride = w.stride;
        args.w_scales = w.scales.data();
        args.bias = with_bias ? bias.data() : NULL;
        args.accumulate = accumulate;
        args.by_rows = true;
        return args;
    }
    struct hy_rounded rows_of_host() const
    {
        struct hy_rounded rounded = {};
        rounded.dtype = dtype;
        rounded.data = const_cast<unsigned char *>(x.data.data());
        rounded.stride = x.stride;
        rounded.scales = const_cast<float *>(x.scales.data());
        rounded.group = k;
        return rounded;
    }
    /* Generic C's, added to old. */
    floats expected(bool with_bias, bool accumulate, size_t y_stride, const floats &old) const
    {
        const struct hy_rounded rounded = rows_of_host();
        struct hy_matmul_args args = form(&rounded, with_bias, accumulate);
        floats y = old;
        args.y = y.data();
        args.y_stride = y_stride;
        hy_matmul_by_rows(&args, 0, n);
        return y;
    }
    /* The device's, of rows [first, first + count); `room` rows behind them may be read. */
    floats multiply(size_t first, size_t count, bool with_bias, bool accumulate, size_t y_stride,
                    const floats &old, size_t room) const
    {
        const unsigned char *begin = x.data.data() + first * x.stride;
        bytes rows(begin, begin + count * x.stride);
        rows.resize((count + room) * x.stride, 0xff); /* of room: what is not a number */
        const placed<unsigned char> device_rows(rows), weights(w.data);
        const placed<float> row_scales(floats(x.scales.begin() + (ptrdiff_t)first,
                                              x.scales.begin() + (ptrdiff_t)(first + count)));
        const placed<float> scales(w.scales), device_bias(bias), y(old);
        struct hy_rounded rounded = rows_of_host();
        rounded.data = device_rows.data;
        rounded.scales = row_scales.data;
        struct hy_matmul_args args = form(&rounded, with_bias, accumulate);
        args.m = count;
        args.w = weights.data;
        args.w_scales = scales.data;
        args.bias = with_bias ? device_bias.data : NULL;
        args.y = y.data;
        args.y_stride = y_stride;
        args.room = room;
        ops->matmul(device, &args);
        return y.read();
    }
    floats multiply(size_t first, size_t count) const
    {
        return multiply(first, count, false, false, n, floats(count * n, -7.0f), 0);
    }
    /* How far sums in any order may be from generic C's: of fp8 alone. */
    double bound(size_t t, size_t j) const
    {
        double magnitude = 0.0;
        for (size_t i = 0; i < k && dtype == HYMBA_DTYPE_FP8; i++)
            magnitude += fabs((double)hy_fp8_to_f32(x.data[t * x.stride + i])
                              * (double)hy_fp8_to_f32(w.data[j * w.stride + i]));
        return 2.0 * (double)(k + 4) * 0x1p-24 * magnitude * (double)x.scales[t]
               * (double)w.scales[j];
    }
    const size_t m, n, k;
    const hymba_dtype dtype;
    narrow x, w;
    const floats bias;
};

static void check_products(const problem &p, bool with_bias, bool accumulate, size_t room)
{
    const size_t y_stride = p.n + test_random_below(5);
    const floats old = random_floats((p.m + room) * y_stride, 1.0f);
    const floats expected = p.expected(with_bias, accumulate, y_stride, old);
    const floats y = p.multiply(0, p.m, with_bias, accumulate, y_stride, old, room);
    for (size_t t = 0; t < p.m + room; t++) {
        for (size_t j = 0; j < y_stride; j++) {
            const size_t place = t * y_stride + j;
            const bool outside = t >= p.m || j >= p.n;
            const float wanted = outside ? old[place] : expected[place];
            if (outside || p.dtype == HYMBA_DTYPE_INT8) {
                if (hy_f32_to_bits(y[place]) != hy_f32_to_bits(wanted))
                    ck_abort_msg("row %zu, column %zu: %.9g, not %.9g", t, j, (double)y[place],
                                 (double)wanted);
            } else {
                check_near((double)y[place], (double)expected[place],
                           p.bound(t, j) + 0x1p-22 * fabs((double)expected[place]), "a product");
            }
        }
    }
}

/* --------------------------------------------------------------- correctness */

static const struct {
    size_t m, n, k;
} shapes[] = {
    {1, 1, 1},    {1, 16, 32},   {3, 17, 33},    {2, 100, 64},  {5, 64, 1},     {9, 31, 96},
    {16, 15, 31}, {40, 48, 200}, {127, 20, 70},  {128, 33, 40}, {129, 18, 64},  {300, 10, 35},
    {7, 1, 1000}, {1, 700, 160}, {2, 16400, 32}, {1, 40, 1601},
    {2, 1500, 32},
};

START_TEST(products_are_generic_c_s)
{
    for (hymba_dtype dtype : dtypes) {
        const problem p(dtype, shapes[_i].m, shapes[_i].n, shapes[_i].k);
        check_products(p, false, false, 0);
        check_products(p, true, true, 0);
        check_products(p, _i % 2, !(_i % 2), 128);
    }
}
END_TEST

/* One matrix's products with rows at other distances, on one device. */
START_TEST(distances_of_rows)
{
    for (size_t more : {0, 32, 16, 0})
        check_products(problem(dtypes[_i], 20, 40, 64, more), false, false, 128);
}
END_TEST

/* The greatest sums there are. */
START_TEST(greatest_values)
{
    const size_t k = HY_MOST_INT8_COLUMNS;
    problem p(HYMBA_DTYPE_INT8, 1, 2, k);
    std::fill(p.x.data.begin(), p.x.data.begin() + (ptrdiff_t)k, (unsigned char)0x81);
    std::fill(p.w.data.begin(), p.w.data.begin() + (ptrdiff_t)k, (unsigned char)0x81);
    std::fill(p.w.data.begin() + (ptrdiff_t)p.w.stride,
              p.w.data.begin() + (ptrdiff_t)(p.w.stride + k), (unsigned char)0x7f);
    check_products(p, false, false, 0);
}
END_TEST

/* A scale that is no number makes its row or column so, and no other. */
START_TEST(scales_that_are_no_numbers)
{
    for (float scale : {NAN, INFINITY}) {
        problem p(dtypes[_i], 5, 20, 64);
        p.x.scales[2] = scale;
        p.w.scales[7] = scale;
        const floats y = p.multiply(0, p.m);
        for (size_t place = 0; place < y.size(); place++)
            ck_assert_msg(!isfinite(y[place]) == (place / p.n == 2 || place % p.n == 7),
                          "row %zu, column %zu: %.9g", place / p.n, place % p.n, (double)y[place]);
    }
}
END_TEST

/* ---------------------------------------------------------------------- bits */

START_TEST(bits_of_rows)
{
    const problem p(dtypes[_i], 150, 50, 300);
    const floats together = p.multiply(0, p.m);
    for (size_t count : {1, 2, 17, 64, 127, 128, 129}) {
        const size_t first = test_random_below(p.m - count + 1);
        const floats apart = p.multiply(first, count);
        check_same_bits(apart,
                        floats(together.begin() + (ptrdiff_t)(first * p.n),
                               together.begin() + (ptrdiff_t)((first + count) * p.n)),
                        "rows among others");
    }
}
END_TEST

/* ------------------------------------------------------------------ launches */

/* Where there is room behind the rows nothing is copied: a product and the scaling of its sums. */
START_TEST(a_panel_is_two_launches)
{
    const problem p(dtypes[_i], 3, 48, 96);
    p.multiply(0, p.m, true, true, p.n, floats((p.m + 125) * p.n, 1.0f), 125);
    const size_t launches = harness_launch_count(), products = harness_call_count("cublasLtMatmul");
    p.multiply(0, p.m, true, true, p.n, floats((p.m + 125) * p.n, 1.0f), 125);
    ck_assert_uint_eq(harness_launch_count() - launches, 1);
    ck_assert_uint_eq(harness_call_count("cublasLtMatmul") - products, 1);
    check_traffic(p.m * (8 * p.n + 4 * p.n + 4 * p.n + 4 * 256), p.m * 4 * p.n);
}
END_TEST

/* Where cuBLASLt proposes no algorithm for int8, it chooses one in the call: sums are exact. */
START_TEST(int8_without_an_algorithm)
{
    const problem p(HYMBA_DTYPE_INT8, 3, 40, 100);
    harness_fail_next("cublasLtMatmulAlgoGetHeuristic", 1, cudaErrorNotSupported);
    harness_fail_next("cublasLtMatmulAlgoGetHeuristic", 2, cudaErrorNotSupported);
    check_products(p, true, true, 0);
}
END_TEST

/* -------------------------------------------------------------------- refusals */

START_TEST(fp8_wants_a_device_that_has_it)
{
    test_status(open_device(HYMBA_COMPUTE_FP8, 8, 6), HYMBA_ERROR_UNSUPPORTED, error);
    ck_assert_msg(strstr(error.message, "compute capability 8.6, and 8.9 or later") != NULL, "%s",
                  error.message);
    ck_assert_ptr_null(device);
    test_status(open_device(HYMBA_COMPUTE_INT8, 8, 0), HYMBA_OK, error);
    ops->close(device);
    test_status(open_device(HYMBA_COMPUTE_FP8, 9, 0), HYMBA_OK, error);
}
END_TEST

/* What the core never asks for. */
START_TEST(products_that_there_are_not)
{
    for (int kind = 0; kind < 5; kind++) {
        setup_open();
        const problem p(HYMBA_DTYPE_INT8, 2, 16, 32);
        struct hy_rounded rounded = p.rows_of_host(); /* of no use: nothing is read */
        struct hy_matmul_args args = p.form(&rounded, false, false);
        floats y(64);
        int32_t sum = 0;
        args.y = y.data();
        args.y_stride = 16;
        if (kind == 0)
            rounded.dtype = HYMBA_DTYPE_FP8;
        else if (kind == 1)
            rounded.group = 16;
        else if (kind == 2)
            args.rounded = NULL;
        else if (kind == 3)
            rounded.sums = &sum;
        else
            args.k = args.group = rounded.group = HY_MOST_INT8_COLUMNS + 1;
        ops->matmul(device, &args);
        test_status(finish(), HYMBA_ERROR_INTERNAL, error);
        if (kind < 4)
            teardown();
    }
}
END_TEST

/* Each call fails in turn, and is told. */
START_TEST(each_call_failing)
{
    for (const char *call : {"cublasLtMatmul", "cublasLtMatmulAlgoGetHeuristic",
                             "cublasLtMatmulDescCreate", "cublasLtMatrixLayoutCreate",
                             "cudaLaunchKernel"}) {
        for (cudaError_t code : {cudaErrorMemoryAllocation, cudaErrorUnknown}) {
            setup_open();
            const problem p(dtypes[_i], 2, 16, 32);
            bytes rows(128 * p.x.stride);
            {
                const placed<unsigned char> device_rows(rows), weights(p.w.data);
                const placed<float> row_scales(p.x.scales), scales(p.w.scales), y(floats(128 * 16));
                struct hy_rounded rounded = p.rows_of_host();
                rounded.data = device_rows.data;
                rounded.scales = row_scales.data;
                struct hy_matmul_args args = p.form(&rounded, false, false);
                args.m = p.m;
                args.w = weights.data;
                args.w_scales = scales.data;
                args.y = y.data;
                args.y_stride = 16;
                args.room = 126;
                test_status(finish(), HYMBA_OK, error);
                harness_fail_next(call, 1, code);
                ops->matmul(device, &args);
                test_status(finish(), code == cudaErrorUnknown ? HYMBA_ERROR_DEVICE
                                                               : HYMBA_ERROR_MEMORY, error);
            }
            teardown();
            device = NULL;
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda products of 8 bits");
    TCase *open = tcase_create("an open device"), *closed = tcase_create("others");
    tcase_set_timeout(open, 300);
    tcase_add_checked_fixture(open, setup_open, teardown);
    tcase_add_loop_test(open, products_are_generic_c_s, 0,
                        (int)(sizeof shapes / sizeof shapes[0]));
    tcase_add_loop_test(open, distances_of_rows, 0, 2);
    tcase_add_test(open, greatest_values);
    tcase_add_loop_test(open, scales_that_are_no_numbers, 0, 2);
    tcase_add_loop_test(open, bits_of_rows, 0, 2);
    tcase_add_loop_test(open, a_panel_is_two_launches, 0, 2);
    tcase_add_test(open, int8_without_an_algorithm);
    tcase_add_checked_fixture(closed, setup, teardown);
    tcase_add_test(closed, fp8_wants_a_device_that_has_it);
    tcase_add_test(closed, products_that_there_are_not);
    tcase_add_loop_test(closed, each_call_failing, 0, 2);
    suite_add_tcase(suite, open);
    suite_add_tcase(suite, closed);
    return test_main(suite);
}
