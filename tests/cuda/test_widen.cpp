/* Weights expanded for products in the harness, against generic C. */
#include "device_test.h"

#include "widen.h"

extern "C" {
#include "kernel/ref.h"
}

typedef std::vector<float> floats;
typedef std::vector<unsigned char> bytes;

enum { CASES = 12, ROWS = 9 };

/* Which rows of the matrix are expanded, and how far apart they come to lie. */
struct part {
    size_t first, n_rows, y_stride;
};

static struct part random_part(size_t columns, size_t step)
{
    const size_t first = test_random_below(ROWS);
    return {first, 1 + test_random_below(ROWS - first),
            columns + step * test_random_below(3)};
}

static const float untouched = -7.0f;

/* Expands the part of w, whose arrays are the device's, from rows `stride` apart. */
static floats widen(const struct hy_matrix &w, size_t stride, const struct part &part)
{
    device_array<float> y(floats(part.n_rows * part.y_stride, untouched));
    struct hy_widen_args args = {};
    args.w = w;
    args.stride = stride;
    args.first = part.first;
    args.n_rows = part.n_rows;
    args.y = y.data;
    args.y_stride = part.y_stride;
    hy_cuda_widen(NULL, &args);
    check_harness();
    return y.read();
}

/* Row j of the part is the rows' row first + j; what lies between rows stays. A NaN may have
 * another payload. */
static void check_part(const floats &y, const struct part &part, const floats &rows, size_t columns)
{
    for (size_t j = 0; j < part.n_rows; j++) {
        for (size_t i = 0; i < part.y_stride; i++) {
            float found = y[j * part.y_stride + i];
            float expected = i < columns ? rows[(part.first + j) * columns + i] : untouched;
            ck_assert_msg(hy_f32_to_bits(found) == hy_f32_to_bits(expected)
                              || (isnan(found) && isnan(expected)),
                          "row %zu, element %zu: %.9g, expected %.9g", j, i, (double)found,
                          (double)expected);
        }
    }
}

START_TEST(floats_to_f32)
{
    for (int number = 0; number < CASES; number++) {
        const hymba_dtype dtype = number % 2 ? HYMBA_DTYPE_F16 : HYMBA_DTYPE_BF16;
        const size_t columns = 1 + test_random_below(number % 3 ? 70 : 600);
        const size_t stride = columns + test_random_below(3);
        const bytes data = random_elements(ROWS * stride, dtype, 1.0f);
        const struct part part = random_part(columns, 1);
        floats rows(ROWS * columns);
        for (size_t i = 0; i < rows.size(); i++)
            rows[i] = hy_load_element(data.data(), dtype, i / columns * stride + i % columns);
        device_array<unsigned char> device_data(data);
        const struct hy_matrix w = {device_data.data, dtype, ROWS, columns, NULL, 0, false};
        check_part(widen(w, stride, part), part, rows, columns);
        check_traffic(2 * part.n_rows * columns, 4 * part.n_rows * columns);
    }
}
END_TEST

/* Also with scales that no quantiser writes. */
START_TEST(quantised_as_generic_c_has_them)
{
    static const float scales[] = {0.0f, -0.0f, INFINITY, NAN, 3.3e38f, 1e-40f};
    const hymba_dtype dtype = _i ? HYMBA_DTYPE_INT8 : HYMBA_DTYPE_INT4;
    for (int number = 0; number < CASES; number++) {
        const size_t group = 32 * (1 + test_random_below(3));
        const size_t columns = group * (1 + test_random_below(number % 4 ? 4 : 40));
        struct quantised matrix =
            random_quantised(dtype, ROWS, columns, number % 3 ? group : columns);
        for (size_t i = 0; number % 2 && i < sizeof scales / sizeof scales[0]; i++)
            matrix.scales[test_random_below(matrix.scales.size())] = hy_f32_to_bf16(scales[i]);
        const struct part part = random_part(columns, 8);
        const struct hy_matrix host = matrix.matrix();
        floats rows(ROWS * columns);
        for (size_t j = 0; j < ROWS; j++)
            hy_ref_dequantise_row(&host, j, &rows[j * columns]);
        device_array<unsigned char> data(matrix.data);
        device_array<uint16_t> device_scales(matrix.scales);
        struct hy_matrix w = host;
        w.data = data.data;
        w.scales = device_scales.data;
        check_part(widen(w, columns, part), part, rows, columns);
        check_traffic(part.n_rows * (hy_row_bytes(dtype, columns) + columns / 4),
                      4 * part.n_rows * columns);
        check_distinct_traffic(part.n_rows * (hy_row_bytes(dtype, columns)
                                              + 2 * columns / matrix.group),
                               4 * part.n_rows * columns);
    }
}
END_TEST

START_TEST(nothing)
{
    const size_t before = harness_launch_count();
    struct hy_widen_args args = {};
    args.w.dtype = HYMBA_DTYPE_INT8;
    hy_cuda_widen(NULL, &args);
    args.w.columns = 32;
    hy_cuda_widen(NULL, &args);
    check_harness();
    ck_assert_uint_eq(harness_launch_count(), before);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda widen");
    TCase *tcase = tcase_create("cuda widen");
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, harness_reset, NULL);
    tcase_add_test(tcase, floats_to_f32);
    tcase_add_loop_test(tcase, quantised_as_generic_c_has_them, 0, 2);
    tcase_add_test(tcase, nothing);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
