/* Products with quantised weights in the harness: against sums in double of the same numbers, bit
 * by bit over numbers of rows, and what they read. */
#include "device_test.h"

#include "matmul_quantised.h"

extern "C" {
#include "kernel/ref.h"
}

#include <algorithm>

typedef std::vector<float> floats;

static const hymba_dtype dtypes[] = {HYMBA_DTYPE_INT4, HYMBA_DTYPE_INT8};

static const float untouched = -7.0f;

/* Bytes of one row of weights that are cut into ranges together, and ranges. */
enum { CHUNK = 64, RANGES = 8 };

/* A matrix and rows for it on the device, and what the products are made of. */
class problem {
public:
    problem(hymba_dtype dtype_, size_t m_, size_t n_, size_t k_, size_t group_)
        : m(m_), n(n_), k(k_), dtype(dtype_), w(random_quantised(dtype, n, k, group_)),
          bias(random_floats(n, 1.0f)), x_stride(k + 8 * test_random_below(3)),
          x(m * x_stride)
    {
        hy_row_from_f32(random_floats(x.size(), 1.0f).data(), HYMBA_DTYPE_BF16, x.data(), x.size());
    }
    /* The weights as a product takes them. */
    floats widened() const
    {
        const struct hy_matrix matrix = w.matrix();
        floats values(n * k);
        for (size_t j = 0; j < n; j++)
            hy_ref_dequantise_row(&matrix, j, &values[j * k]);
        for (float &value : values)
            value = hy_bf16_to_f32(hy_f32_to_bf16(value));
        return values;
    }
    float x_at(size_t row, size_t i) const
    {
        return hy_bf16_to_f32(x[row * x_stride + i]);
    }
    /* Rows [first, first + count), with rows of y y_stride apart that hold `old`. */
    floats multiply(size_t first, size_t count, bool with_bias, bool accumulate, size_t y_stride,
                    const floats &old) const
    {
        device_array<unsigned char> data(w.data);
        device_array<uint16_t> scales(w.scales);
        device_array<uint16_t> rows(std::vector<uint16_t>(x.begin() + (ptrdiff_t)(first * x_stride),
                                                          x.begin() + (ptrdiff_t)((first + count)
                                                                                  * x_stride)));
        device_array<float> device_bias(bias), y(old);
        struct hy_rounded rounded = {};
        rounded.dtype = HYMBA_DTYPE_BF16;
        rounded.data = rows.data;
        rounded.stride = x_stride;
        struct hy_matmul_args args = {};
        args.rounded = &rounded;
        args.m = count;
        args.n = n;
        args.k = args.w_stride = k;
        args.w = data.data;
        args.dtype = dtype;
        args.w_scales = scales.data;
        args.group = w.group;
        args.bias = with_bias ? device_bias.data : NULL;
        args.accumulate = accumulate;
        args.y = y.data;
        args.y_stride = y_stride;
        scratch_bytes = hy_cuda_matmul_quantised_scratch(&args);
        void *scratch = NULL;
        if (scratch_bytes)
            ck_assert_int_eq(cudaMalloc(&scratch, scratch_bytes), cudaSuccess);
        hy_cuda_matmul_quantised(NULL, &args, scratch);
        check_harness();
        cudaFree(scratch);
        return y.read();
    }
    floats multiply(size_t first, size_t count) const
    {
        return multiply(first, count, false, false, n, floats(count * n, untouched));
    }
    size_t weight_bytes() const
    {
        return w.data.size();
    }
    const size_t m, n, k;
    const hymba_dtype dtype;
    struct quantised w;
    const floats bias;
    const size_t x_stride;
    std::vector<uint16_t> x;
    mutable size_t scratch_bytes = 0;
};

/* A group that divides some small number of columns: 32, 64, 96, 128, or the whole row. */
static size_t random_columns(size_t *group, size_t most_groups)
{
    *group = 32 * (1 + test_random_below(4));
    const size_t columns = *group * (1 + test_random_below(most_groups));
    if (test_random_below(4) == 0)
        *group = columns;
    return columns;
}

/* -------------------------------------------------------------- correctness */

/* Products are exact in f32, so k sums and two more are all that is rounded. */
static void check_products(const problem &p, bool with_bias, bool accumulate)
{
    const size_t y_stride = p.n + test_random_below(4);
    const floats w = p.widened(), old = random_floats(p.m * y_stride, 1.0f);
    const floats y = p.multiply(0, p.m, with_bias, accumulate, y_stride, old);
    for (size_t row = 0; row < p.m; row++) {
        for (size_t j = 0; j < y_stride; j++) {
            const size_t place = row * y_stride + j;
            if (j >= p.n) {
                if (y[place] != old[place])
                    ck_abort_msg("row %zu, column %zu was written", row, j);
                continue;
            }
            double sum = 0.0, magnitude = 0.0;
            for (size_t i = 0; i < p.k; i++) {
                const double product = (double)w[j * p.k + i] * (double)p.x_at(row, i);
                sum += product;
                magnitude += fabs(product);
            }
            const double bias = with_bias ? (double)p.bias[j] : 0.0;
            const double before = accumulate ? (double)old[place] : 0.0;
            magnitude += fabs(bias) + fabs(before);
            check_near((double)y[place], sum + bias + before,
                       (double)(p.k + RANGES + 2) * 0x1p-24 * magnitude, "a product");
        }
    }
}

static const size_t row_counts[] = {1, 2, 8, 9, 15, 16, 17, 31, 33, 64, 65, 127, 128, 129, 150};

START_TEST(products_are_near)
{
    for (hymba_dtype dtype : dtypes) {
        size_t group;
        const size_t k = random_columns(&group, row_counts[_i] > 32 ? 4 : 12);
        const problem p(dtype, row_counts[_i], 1 + test_random_below(90), k, group);
        check_products(p, _i % 2, _i % 3 == 0);
    }
}
END_TEST

/* Shapes that few blocks of the grid, of a chunk or of a range fill, and some that all do. */
START_TEST(edges)
{
    static const struct {
        size_t m, n, k, group;
    } shapes[] = {
        {1, 1, 32, 32},      {16, 8, 32, 32},    {40, 64, 32, 32},   {3, 9, 96, 96},
        {20, 65, 96, 32},    {128, 1, 128, 128}, {2, 17, 1056, 32},  {24, 16, 2656, 32},
        {5, 2113, 64, 64},   {16, 2112, 32, 32}, {17, 4096, 64, 64}, {33, 4033, 32, 32},
        {129, 2050, 32, 32},
    };
    for (hymba_dtype dtype : dtypes) {
        const problem p(dtype, shapes[_i].m, shapes[_i].n, shapes[_i].k, shapes[_i].group);
        check_products(p, true, true);
    }
}
END_TEST

/* Rows of the unit matrix give the weights, so each one's value and place is known bit by bit. */
START_TEST(unit_rows_give_the_weights)
{
    static const float scales[] = {0.0f, -0.0f, 1e-40f, -1e-38f, 0x1p100f, -0x1.fep119f};
    for (hymba_dtype dtype : dtypes) {
        for (size_t count : {(size_t)8, (size_t)16, (size_t)320}) {
            problem p(dtype, 320, 41, 320, _i % 2 ? 32 : 320);
            for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++)
                p.w.scales[test_random_below(p.w.scales.size())] = hy_f32_to_bf16(scales[i]);
            std::fill(p.x.begin(), p.x.end(), 0);
            for (size_t row = 0; row < p.m; row++)
                p.x[row * p.x_stride + row] = hy_f32_to_bf16(1.0f);
            const size_t first = test_random_below(p.m - count + 1);
            const floats y = p.multiply(first, count), w = p.widened();
            for (size_t i = 0; i < count * p.n; i++) {
                const float expected = w[i % p.n * p.k + first + i / p.n];
                if (y[i] != expected)
                    ck_abort_msg("weight %zu of row %zu: %.9g, expected %.9g", first + i / p.n,
                                 i % p.n, (double)y[i], (double)expected);
            }
        }
    }
}
END_TEST

/* A scale that is no number, or infinite, makes its row's products so, and no others. */
START_TEST(scales_that_are_no_numbers)
{
    for (float scale : {NAN, INFINITY}) {
        problem p(dtypes[_i % 2], _i < 2 ? 3 : 20, 20, 256, 32);
        p.w.scales[9 * 8 + 5] = hy_f32_to_bf16(scale);
        const floats y = p.multiply(0, p.m);
        for (size_t i = 0; i < y.size(); i++)
            ck_assert_msg(isfinite(y[i]) == (i % p.n != 9), "column %zu: %.9g", i % p.n,
                          (double)y[i]);
    }
}
END_TEST

/* --------------------------------------------------------------------- bits */

/* Each row alone and in any company has the bits that it has among all. */
static void check_neighbours(const problem &p)
{
    const floats together = p.multiply(0, p.m);
    for (size_t count : {1, 7, 16, 17, 33, 64, 65, 128}) {
        if (count > p.m)
            continue;
        const size_t first = test_random_below(p.m - count + 1);
        const floats apart = p.multiply(first, count);
        check_same_bits(apart,
                        floats(together.begin() + (ptrdiff_t)(first * p.n),
                               together.begin() + (ptrdiff_t)((first + count) * p.n)),
                        "rows among others");
    }
}

START_TEST(bits_of_rows)
{
    size_t group;
    const hymba_dtype dtype = dtypes[_i % 2];
    const size_t k = random_columns(&group, _i < 2 ? 25 : 8);
    check_neighbours(problem(dtype, _i < 2 ? 66 : 150, 1 + test_random_below(70), k, group));
}
END_TEST

/* Where many rows are not divided, and few have 16 columns a block. */
START_TEST(bits_of_rows_of_a_wide_matrix)
{
    const hymba_dtype dtype = dtypes[_i];
    const problem p(dtype, 34, 4040, dtype == HYMBA_DTYPE_INT4 ? 1312 : 672, 32);
    const floats together = p.multiply(0, p.m);
    ck_assert_uint_eq(p.scratch_bytes, 0);
    for (size_t count : {1, 12, 20}) {
        const size_t first = test_random_below(p.m - count + 1);
        check_same_bits(p.multiply(first, count),
                        floats(together.begin() + (ptrdiff_t)(first * p.n),
                               together.begin() + (ptrdiff_t)((first + count) * p.n)),
                        "rows among others");
    }
}
END_TEST

/* ------------------------------------------------------------------ traffic */

static void check_launch(const char *name, uint64_t read, uint64_t written)
{
    const struct harness_launch_record *launch = harness_find_launch(name);
    ck_assert_ptr_nonnull(launch);
    ck_assert_msg(launch->bytes_read == read && launch->bytes_written == written,
                  "%s: %llu bytes read, %llu written; expected %llu and %llu", name,
                  (unsigned long long)launch->bytes_read,
                  (unsigned long long)launch->bytes_written, (unsigned long long)read,
                  (unsigned long long)written);
}

static size_t ranges_with_chunks(const problem &p)
{
    return std::min<size_t>(RANGES, ceil_div(hy_row_bytes(p.dtype, p.k), CHUNK));
}

/* The formulas beside the kernels. */
START_TEST(each_weight_is_read_once)
{
    for (hymba_dtype dtype : dtypes) {
        for (size_t m : {1, 8, 11, 16}) {
            const size_t n = 2000 + 300 * test_random_below(2), k = 160;
            const problem p(dtype, m, n, k, 32);
            p.multiply(0, m, true, true, n, floats(m * n, 1.0f));
            const size_t blocks = ceil_div(n, n < 2112 ? 8 : 16);
            check_traffic(p.weight_bytes() * 9 / 8 + 2 * m * k * blocks + 8 * m * n, 4 * m * n);
            check_distinct_traffic(p.weight_bytes() + 2 * n * k / 32 + 2 * m * k + 4 * n
                                       + 4 * m * n,
                                   4 * m * n);
        }
        for (size_t m : {20, 50, 100, 128}) {
            const problem p(dtype, m, 70, 800, 32);
            const size_t parts = ranges_with_chunks(p), results = 4 * m * p.n;
            p.multiply(0, m, false, true, p.n, floats(m * p.n, 1.0f));
            ck_assert_uint_eq(p.scratch_bytes, RANGES * results);
            check_launch("multiply_many_rows", p.weight_bytes() * 9 / 8 + 2 * m * p.k * 2,
                         parts * results);
            check_launch("add_parts", (parts + 1) * results, results);
        }
        const problem p(dtype, 40, 4050, 96, 96);
        p.multiply(0, 40, true, false, p.n, floats(40 * p.n, 1.0f));
        check_traffic(p.weight_bytes() * 9 / 8 + 2 * 40 * 96 * 64 + 4 * 40 * p.n, 4 * 40 * p.n);
        check_distinct_traffic(p.weight_bytes() + 2 * p.n + 2 * 40 * 96 + 4 * p.n, 4 * 40 * p.n);
    }
}
END_TEST

START_TEST(nothing)
{
    const size_t before = harness_launch_count();
    struct hy_rounded rounded = {};
    struct hy_matmul_args args = {};
    args.rounded = &rounded;
    args.dtype = HYMBA_DTYPE_INT4;
    args.n = args.k = args.group = 32;
    ck_assert_uint_eq(hy_cuda_matmul_quantised_scratch(&args), 0);
    hy_cuda_matmul_quantised(NULL, &args, NULL);
    check_harness();
    ck_assert_uint_eq(harness_launch_count(), before);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda matmul_quantised");
    TCase *tcase = tcase_create("cuda matmul_quantised");
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, harness_reset, NULL);
    tcase_add_loop_test(tcase, products_are_near, 0, sizeof row_counts / sizeof row_counts[0]);
    tcase_add_loop_test(tcase, edges, 0, 13);
    tcase_add_loop_test(tcase, unit_rows_give_the_weights, 0, 2);
    tcase_add_loop_test(tcase, scales_that_are_no_numbers, 0, 4);
    tcase_add_loop_test(tcase, bits_of_rows, 0, 4);
    tcase_add_loop_test(tcase, bits_of_rows_of_a_wide_matrix, 0, 2);
    tcase_add_test(tcase, each_weight_is_read_once);
    tcase_add_test(tcase, nothing);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
