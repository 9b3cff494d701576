/* The kernels that end with rows of 8 bits, in the harness: the f32 rows of the same op without
 * rounding, rounded by generic C, bit by bit. */
#include "device_test.h"

#include "rows.h"

extern "C" {
#include "kernel/by_rows.h"
#include "kernel/ref.h"
}

#include <memory>

typedef std::vector<float> floats;
typedef std::vector<unsigned char> bytes;

enum { CASES = 10, UNTOUCHED = 0x5a };

static const hymba_dtype dtypes[] = {HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8};

/* Odd ones and such as need a second element, block or warp of a thread. */
static size_t random_size()
{
    static const size_t most[] = {3, 70, 600, 2600};
    return 1 + test_random_below(most[test_random_below(4)]);
}

/* Elements that are not kept between two passes over a row. */
static size_t not_kept(size_t n)
{
    const size_t threads = n <= 256 ? 32 : n <= 2048 ? 256 : n <= 4096 ? 512 : 1024;
    return n > 8 * threads ? n - 8 * threads : 0;
}

static uint64_t rounded_bytes(size_t n)
{
    return 32 * ceil_div(n, 32) + sizeof(float);
}

/* Rounded rows on the device, a random distance apart. */
class rounded_rows {
public:
    rounded_rows(hymba_dtype dtype_, size_t rows_, size_t n_)
        : dtype(dtype_), rows(rows_), n(n_), stride(hy_padded_row(n) + test_random_below(40)),
          data(bytes(rows * stride, UNTOUCHED)), scales(floats(rows, -1.0f))
    {
    }
    struct hy_rounded form() const
    {
        struct hy_rounded rounded = {};
        rounded.dtype = dtype;
        rounded.data = data.data;
        rounded.stride = stride;
        rounded.scales = scales.data;
        rounded.group = n;
        return rounded;
    }
    /* Against rows of f32, y_stride apart. */
    void check(const floats &y, size_t y_stride, const char *what) const
    {
        const bytes actual = data.read();
        const floats actual_scales = scales.read();
        bytes expected(hy_padded_row(n));
        for (size_t t = 0; t < rows; t++) {
            const float scale = hy_round_by_rows(&y[t * y_stride], n, dtype, expected.data());
            const bool same = isnan(scale) ? isnan(actual_scales[t]) != 0
                                           : actual_scales[t] == scale;
            ck_assert_msg(same, "%s: scale of row %zu: %.9g, not %.9g", what, t,
                          (double)actual_scales[t], (double)scale);
            for (size_t i = 0; i < stride; i++) {
                const int wanted = i < expected.size() ? expected[i] : (int)UNTOUCHED;
                if (actual[t * stride + i] != wanted)
                    ck_abort_msg("%s: row %zu of %zu elements, byte %zu: %02x, not %02x", what, t,
                                 n, i, actual[t * stride + i], wanted);
            }
        }
    }

private:
    const hymba_dtype dtype;
    const size_t rows, n, stride;
    device_array<unsigned char> data;
    device_array<float> scales;
};

/* An op of rows of `width` elements, with f32 rows at y: without rounding, with both, and rounded
 * alone; the latter two read `read` bytes. */
template <typename Args>
static void check_op(Args args, void (*launch)(cudaStream_t, const Args *, size_t), size_t rows,
                     size_t width, device_array<float> &y, uint64_t read, const char *what)
{
    launch(NULL, &args, rows);
    check_harness();
    const floats plain = y.read();
    for (hymba_dtype dtype : dtypes) {
        const rounded_rows both(dtype, rows, width), alone(dtype, rows, width);
        args.y = y.data;
        args.rounded = both.form();
        launch(NULL, &args, rows);
        check_harness();
        check_traffic(read, rows * (4 * width + rounded_bytes(width)));
        check_same_bits(y.read(), plain, what);
        both.check(plain, args.y_stride, what);
        args.y = NULL;
        args.rounded = alone.form();
        launch(NULL, &args, rows);
        check_harness();
        check_traffic(read, rows * rounded_bytes(width));
        alone.check(plain, args.y_stride, what);
    }
}

/* Numbers of all sizes; in some rows only zeros, or one that is none. */
static floats some_rows(size_t rows, size_t stride)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, 1e-38f};
    floats x = random_floats(rows * stride, 1.0f);
    for (size_t t = 0; t < rows; t++) {
        const float scale = ldexpf(1.0f, (int)test_random_below(60) - 30);
        for (size_t i = 0; i < stride; i++)
            x[t * stride + i] *= test_random_below(9) == 0 ? 0.0f : scale;
        if (test_random_below(4) == 0)
            x[t * stride + test_random_below(stride)] = odd[test_random_below(5)];
        if (test_random_below(6) == 0)
            std::fill(x.begin() + (ptrdiff_t)(t * stride),
                      x.begin() + (ptrdiff_t)((t + 1) * stride), 0.0f);
    }
    return x;
}

START_TEST(round_alone)
{
    for (int number = 0; number < 2 * CASES; number++) {
        const hymba_dtype dtype = dtypes[number % 2];
        const size_t rows = 1 + test_random_below(9), n = number < 2 ? 8300 : random_size();
        const size_t stride = n + test_random_below(3);
        const floats x = some_rows(rows, stride);
        const rounded_rows rounded(dtype, rows, n);
        device_array<float> device_x(x);
        struct hy_round_args args = {device_x.data, stride, n, rounded.form()};
        hy_cuda_round(NULL, &args, rows);
        check_harness();
        check_traffic(4 * rows * (n + not_kept(n)), rows * rounded_bytes(n));
        rounded.check(x, stride, "rounding");
    }
}
END_TEST

START_TEST(rms_norm)
{
    for (int number = 0; number < CASES; number++) {
        const size_t rows = 1 + test_random_below(5), n = number == 0 ? 8300 : random_size();
        const size_t stride = n + test_random_below(3);
        device_array<float> x(some_rows(rows, stride)), weight(random_floats(n, 1.0f));
        device_array<float> y(floats(rows * stride, -7.0f));
        struct hy_rms_norm_args args = {x.data, stride, weight.data, n, 1e-6f, y.data, stride, {}};
        check_op(args, hy_cuda_rms_norm, rows, n, y, 4 * rows * (2 * n + 3 * not_kept(n)),
                 "a norm");
    }
}
END_TEST

/* In place, of rows that are longer than what is kept of them. */
START_TEST(rms_norm_in_place)
{
    const size_t rows = 2, n = 8500;
    const floats x = random_floats(rows * n, 1.0f);
    device_array<float> apart(x), together(x), weight(random_floats(n, 1.0f));
    struct hy_rms_norm_args args = {apart.data, n, weight.data, n, 1e-6f, apart.data, n, {}};
    hy_cuda_rms_norm(NULL, &args, rows);
    for (hymba_dtype dtype : dtypes) {
        device_array<float> again(x);
        const rounded_rows rounded(dtype, rows, n);
        args.x = again.data;
        args.y = again.data;
        args.rounded = rounded.form();
        hy_cuda_rms_norm(NULL, &args, rows);
        check_harness();
        check_same_bits(again.read(), apart.read(), "a norm in place");
        rounded.check(apart.read(), n, "a norm in place");
    }
}
END_TEST

/* Both kinds, with sums of their own and with given ones. */
START_TEST(fuse)
{
    for (int number = 0; number < 2 * CASES; number++) {
        const bool concat = number % 2, summed = number % 4 > 1;
        const size_t rows = 1 + test_random_below(5), n = number < 4 ? 8250 : random_size();
        const size_t stride = n + test_random_below(3), width = concat ? 2 * n : n;
        const size_t threads = n <= 256 ? 32 : n <= 2048 ? 256 : n <= 4096 ? 512 : 1024;
        device_array<float> attention(some_rows(rows, stride)), ssm(some_rows(rows, stride));
        device_array<float> first(random_floats(n, 1.0f)), second(random_floats(n, 1.0f));
        device_array<float> y(floats(rows * (width + 1), -7.0f));
        floats given = random_floats(2 * rows, 9.0f);
        for (float &sum : given)
            sum = fabsf(sum);
        device_array<float> sums(given);
        struct hy_fuse_args args = {attention.data, stride,  ssm.data,  stride, first.data,
                                    second.data,    n,       1e-6f,     concat, y.data,
                                    width + 1,      {},      NULL,      n};
        args.sums = summed ? sums.data : NULL;
        args.total = summed ? 2 * n : n;
        const uint64_t m = not_kept(n);
        const uint64_t read = summed ? 8 * (2 * n + 2 * m) + 8 * threads : 8 * (2 * n + 3 * m);
        check_op(args, hy_cuda_fuse, rows, width, y, rows * read, "a fusion");
    }
}
END_TEST

START_TEST(swiglu)
{
    for (int number = 0; number < CASES; number++) {
        const size_t rows = 1 + test_random_below(5), n = number == 0 ? 8300 : random_size();
        const size_t stride = n + test_random_below(3);
        device_array<float> gate(random_floats(rows * stride, 6.0f)), up(some_rows(rows, stride));
        device_array<float> y(floats(rows * stride, -7.0f));
        struct hy_swiglu_args args = {gate.data, stride, up.data, stride, n, y.data, stride, {}};
        check_op(args, hy_cuda_swiglu, rows, n, y, 8 * rows * (n + not_kept(n)), "SwiGLU");
    }
}
END_TEST

/* The least and the greatest magnitude that a row is rounded by, and what is just beyond; halves,
 * which go to the even neighbour. */
START_TEST(borders_and_halves)
{
    static const float least = 0x1p-118f, most = 0x1.fffffep127f;
    static const float rows[][8] = {
        {least, least / 2},
        {least, -least, least * 0.75f},
        {least * (1 - 0x1p-24f), least / 2},
        {most, -most / 2, most / 3},
        {INFINITY, 1.0f},
        {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f},
        {448.0f, 17.0f, 19.0f, -17.0f, -19.0f, 0x1p-10f, 0x3p-10f, -0x5p-10f},
    };
    enum { ROWS = sizeof rows / sizeof rows[0], N = 8 };
    floats x;
    for (const auto &row : rows)
        x.insert(x.end(), row, row + N);
    const rounded_rows rounded(dtypes[_i], ROWS, N);
    device_array<float> device_x(x);
    struct hy_round_args args = {device_x.data, N, N, rounded.form()};
    hy_cuda_round(NULL, &args, ROWS);
    check_harness();
    rounded.check(x, N, "borders");
}
END_TEST

/* A single row gives the bits that it gives among others. */
START_TEST(one_row)
{
    const size_t n = 1000, rows = 5, stride = hy_padded_row(n);
    device_array<float> x(random_floats(rows * n, 1.0f)), weight(random_floats(n, 1.0f));
    device_array<unsigned char> together{bytes(rows * stride)}, alone{bytes(rows * stride)};
    device_array<float> scales{floats(rows)}, alone_scales{floats(rows)};
    struct hy_rms_norm_args args = {x.data, n, weight.data, n, 1e-6f, NULL, n, {}};
    args.rounded.dtype = dtypes[_i];
    args.rounded.data = together.data;
    args.rounded.stride = stride;
    args.rounded.scales = scales.data;
    args.rounded.group = n;
    hy_cuda_rms_norm(NULL, &args, rows);
    for (size_t t = 0; t < rows; t++) {
        args.x = x.data + t * n;
        args.rounded.data = alone.data + t * stride;
        args.rounded.scales = alone_scales.data + t;
        hy_cuda_rms_norm(NULL, &args, 1);
    }
    check_harness();
    ck_assert(alone.read() == together.read());
    check_same_bits(alone_scales.read(), scales.read(), "scales of rows alone");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda rows of 8 bits");
    TCase *tcase = tcase_create("cuda rows of 8 bits");
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, harness_reset, NULL);
    tcase_add_test(tcase, round_alone);
    tcase_add_test(tcase, rms_norm);
    tcase_add_test(tcase, rms_norm_in_place);
    tcase_add_test(tcase, fuse);
    tcase_add_test(tcase, swiglu);
    tcase_add_loop_test(tcase, borders_and_halves, 0, 2);
    tcase_add_loop_test(tcase, one_row, 0, 2);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
