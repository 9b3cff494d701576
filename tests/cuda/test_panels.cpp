/* Products of many rows: whole panels go to cuBLASLt in one call, with the bits they have alone. */
#include "device.h"
#include "device_test.h"

typedef std::vector<float> floats;

extern "C" const struct hy_device_ops *hymba_device_plugin(uint32_t interface_version);

static const struct hy_device_ops *ops;
static struct hy_device *device;

static void setup()
{
    struct hy_device_params params = {};
    hymba_error error = {};
    harness_reset();
    error.struct_size = sizeof error;
    params.struct_size = sizeof params;
    params.compute = HYMBA_COMPUTE_BF16;
    ops = hymba_device_plugin(HY_DEVICE_INTERFACE);
    test_status(ops->open(&params, &device, &error), HYMBA_OK, error);
}

static void teardown()
{
    ops->close(device);
    ck_assert_msg(harness_error_count() == 0, "%s", harness_first_error());
    ck_assert_uint_eq(harness_live_count(), 0);
    harness_reset();
}

static void finish()
{
    hymba_error error = {};
    error.struct_size = sizeof error;
    test_status(ops->finish(device, &error), HYMBA_OK, error);
}

template <typename T> static T *place(const std::vector<T> &values)
{
    T *data = (T *)ops->allocate(device, values.size() * sizeof(T));
    ck_assert_ptr_nonnull(data);
    struct hy_copy_args args = {HY_COPY_TO_DEVICE, data, 0, values.data(), 0,
                                values.size() * sizeof(T), 1};
    ops->copy(device, &args);
    return data;
}

/* A product of m rows with memory for `rows` of them; f32, or bf16. */
struct problem {
    size_t m, rows, n, k;
    bool narrow, biased, accumulates;
};

enum { PANEL = 128, PANEL_F32 = 32 };

/* The results of rows first .. first + count, whose memory has room for so many more; they lie
 * `gap` elements apart. */
static floats multiply(const struct problem &p, size_t first, size_t count, size_t room,
                       size_t gap = 0)
{
    test_random_seed(7);
    const size_t y_stride = p.n + gap;
    const size_t stride = hy_padded_row(p.k);
    const floats x = random_floats(p.rows * stride, 1.0f), w = random_floats(p.n * p.k, 1.0f);
    const floats bias = random_floats(p.n, 1.0f), y = random_floats(p.rows * y_stride, 1.0f);
    std::vector<uint16_t> x_narrow(x.size()), w_narrow(w.size());
    hy_row_from_f32(x.data(), HYMBA_DTYPE_BF16, x_narrow.data(), x.size());
    hy_row_from_f32(w.data(), HYMBA_DTYPE_BF16, w_narrow.data(), w.size());
    float *device_x = place(x), *device_w = place(w), *device_bias = place(bias);
    float *device_y = place(y);
    uint16_t *device_x_narrow = place(x_narrow), *device_w_narrow = place(w_narrow);
    struct hy_rounded rounded = {};
    rounded.dtype = HYMBA_DTYPE_BF16;
    rounded.data = device_x_narrow + first * stride;
    rounded.stride = stride;
    struct hy_matmul_args args = {};
    args.x = device_x + first * stride;
    args.x_stride = stride;
    args.rounded = p.narrow ? &rounded : NULL;
    args.m = count;
    args.n = p.n;
    args.y_stride = y_stride;
    args.k = args.w_stride = p.k;
    args.w = p.narrow ? (const void *)device_w_narrow : device_w;
    args.dtype = p.narrow ? HYMBA_DTYPE_BF16 : HYMBA_DTYPE_F32;
    args.bias = p.biased ? device_bias : NULL;
    args.accumulate = p.accumulates;
    args.y = device_y + first * y_stride;
    args.room = room;
    ops->matmul(device, &args);
    floats results(count * p.n);
    struct hy_copy_args copy = {HY_COPY_TO_HOST, results.data(), p.n * sizeof(float), args.y,
                                y_stride * sizeof(float), p.n * sizeof(float), count};
    ops->copy(device, &copy);
    finish();
    for (void *data : {(void *)device_x, (void *)device_w, (void *)device_bias, (void *)device_y,
                       (void *)device_x_narrow, (void *)device_w_narrow})
        ops->release(device, data);
    return results;
}

static const struct problem problems[] = {
    {4 * PANEL + 3, 5 * PANEL, 24, 96, true, false, false},
    {3 * PANEL, 3 * PANEL, 16, 64, true, true, true},
    {2 * PANEL + 1, 2 * PANEL + 1, 8, 40, true, true, false},
    {5 * PANEL_F32 + 30, 6 * PANEL_F32, 12, 32, false, true, true},
    {7, 7, 12, 32, true, false, true},
};
enum { N_PROBLEMS = sizeof problems / sizeof problems[0] };

static size_t calls()
{
    return harness_call_count("cublasLtMatmul");
}

/* A single call for all panels that there is room for, one for the rows behind them; and the bits
 * of rows alone, of panels one by one, and of those that an algorithm does not take together. */
START_TEST(panels_go_together)
{
    const struct problem &p = problems[_i];
    const size_t panel = p.narrow ? PANEL : PANEL_F32, room = p.rows - p.m;
    size_t before = calls();
    const floats together = multiply(p, 0, p.m, room);
    ck_assert_uint_eq(calls() - before, p.rows % panel == 0 || p.m < panel ? 1 : 2);
    before = calls();
    for (size_t row = 0; row < p.m; row += panel - 1) {
        const size_t count = hy_min_size(panel - 1, p.m - row);
        const floats apart = multiply(p, row, count, 0);
        ck_assert_mem_eq(apart.data(), &together[row * p.n], apart.size() * sizeof(float));
    }
    ck_assert_uint_eq(calls() - before, (p.m + panel - 2) / (panel - 1));
    teardown();
    setup();
    harness_fail_next("cublasLtMatmulAlgoCheck", 1, cudaErrorNotSupported);
    before = calls();
    const floats one_by_one = multiply(p, 0, p.m, room);
    ck_assert_uint_eq(calls() - before, (p.m + panel - 1) / panel);
    ck_assert_mem_eq(one_by_one.data(), together.data(), together.size() * sizeof(float));
}
END_TEST

/* What is not laid out as cuBLASLt wants it goes through a panel's room, one at a time. */
START_TEST(panels_that_are_copied)
{
    const struct problem p = {2 * PANEL + 5, 3 * PANEL, 7, 32, true, true, true};
    size_t before = calls();
    const floats together = multiply(p, 0, p.m, p.rows - p.m);
    ck_assert_uint_eq(calls() - before, 3);
    const floats apart = multiply(p, 40, 100, 0);
    ck_assert_mem_eq(apart.data(), &together[40 * p.n], apart.size() * sizeof(float));
}
END_TEST

/* Of one matrix on one device. */
START_TEST(results_at_other_distances)
{
    const struct problem &p = problems[0];
    const floats close = multiply(p, 0, 20, p.rows - 20);
    for (size_t gap : {4, 8, 3, 0}) {
        const floats apart = multiply(p, 0, 20, p.rows - 20, gap);
        ck_assert_mem_eq(apart.data(), close.data(), close.size() * sizeof(float));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda panels of products");
    TCase *tcase = tcase_create("panels");
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_loop_test(tcase, panels_go_together, 0, N_PROBLEMS);
    tcase_add_test(tcase, panels_that_are_copied);
    tcase_add_test(tcase, results_at_other_distances);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
