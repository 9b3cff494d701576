/* The kernels that go row by row in the harness, against the generic ones in plain C. */
#include "device_test.h"

#include "rows.h"

extern "C" {
#include "kernel/ref.h"
}

typedef std::vector<float> floats;
typedef std::vector<unsigned char> bytes;

enum { CASES = 12 };

static const hymba_dtype float_types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16};

/* Odd ones and such as need a second element, block or warp of a thread. */
static size_t random_size()
{
    static const size_t most[] = {3, 70, 600, 2600};
    return 1 + test_random_below(most[test_random_below(4)]);
}

static size_t random_rows()
{
    return 1 + test_random_below(test_random_below(2) ? 3 : 9);
}

/* Rows a random distance apart, of random numbers, so that what lies between them can be seen to
 * stay. */
struct matrix {
    size_t stride;
    floats values;
};

static struct matrix random_matrix(size_t rows, size_t n, float scale)
{
    const size_t stride = n + test_random_below(3);
    return {stride, random_floats(rows * stride, scale)};
}

/* Within a part of each element of the expected ones; the gaps between rows are as they were. */
static void check_rows(const floats &actual, const floats &expected, double part, const char *what)
{
    ck_assert_uint_eq(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); i++)
        check_near((double)actual[i], (double)expected[i], part * fabs((double)expected[i]), what);
}

/* The same bits in rows of n, whatever lies between them. */
static void check_same_rows(const struct matrix &actual, const struct matrix &expected, size_t n,
                            const char *what)
{
    for (size_t t = 0; t < actual.values.size() / actual.stride; t++) {
        const float *row = &actual.values[t * actual.stride];
        const float *expected_row = &expected.values[t * expected.stride];
        check_same_bits(floats(row, row + n), floats(expected_row, expected_row + n), what);
    }
}

static const float special_values[] = {0.0f,    -0.0f,    INFINITY, -INFINITY, NAN,
                                       65504.0f, 65519.9f, 65520.0f, 3.4e38f,  1e-45f,
                                       6e-8f,    3e-8f,    2.9e-8f,  6.1e-5f,  1.00390625f};
enum { N_SPECIAL_VALUES = sizeof special_values / sizeof special_values[0] };

static void mix_special_values(floats &values)
{
    for (size_t i = 0; i < 5; i++)
        values[test_random_below(values.size())] =
            special_values[test_random_below(N_SPECIAL_VALUES)];
}

/* The same elements; only a NaN may have another payload. */
static void check_elements(const bytes &actual, const bytes &expected, hymba_dtype dtype,
                           const char *what)
{
    const size_t size = hy_dtype_size(dtype);
    ck_assert_uint_eq(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size() / size; i++) {
        if (isnan(hy_load_element(expected.data(), dtype, i)))
            ck_assert(isnan(hy_load_element(actual.data(), dtype, i)));
        else
            ck_assert_msg(memcmp(&actual[i * size], &expected[i * size], size) == 0,
                          "%s: element %zu", what, i);
    }
}

START_TEST(embed)
{
    const std::vector<int32_t> ids = {4, 0, 6, 6};
    for (int number = 0; number < CASES; number++) {
        const hymba_dtype dtype = float_types[number % 3];
        const size_t n = random_size();
        const bytes table = random_elements(7 * n, dtype, 1.0f);
        floats expected(4 * n);
        struct hy_embed_args args = {};
        args.ids = ids.data();
        args.table.data = table.data();
        args.table.dtype = dtype;
        args.table.columns = n;
        args.y = expected.data();
        hy_ref_embed(&args, 0, 4);

        device_array<int32_t> device_ids(ids);
        device_array<unsigned char> device_table(table);
        device_array<float> y(floats(4 * n, -1.0f));
        args.ids = device_ids.data;
        args.table.data = device_table.data;
        args.y = y.data;
        hy_cuda_embed(NULL, &args, 4);
        check_harness();
        check_traffic(4 * (n * hy_dtype_size(dtype) + 4 * 256 * ceil_div(n, 1024)), 4 * 4 * n);
        check_same_bits(y.read(), expected, "embedding");
    }
}
END_TEST

/* Bytes of any value, scales of some; groups of 32 or a whole row. */
START_TEST(embed_quantised)
{
    const std::vector<int32_t> ids = {4, 0, 6, 6};
    for (int number = 0; number < CASES; number++) {
        const hymba_dtype dtype = number % 2 ? HYMBA_DTYPE_INT8 : HYMBA_DTYPE_INT4;
        const size_t n = 32 * (1 + test_random_below(number % 3 ? 4 : 80));
        const struct quantised table = random_quantised(dtype, 7, n, number % 4 < 2 ? 32 : n);
        floats expected(4 * n);
        struct hy_embed_args args = {};
        args.ids = ids.data();
        args.table = table.matrix();
        args.y = expected.data();
        hy_ref_embed(&args, 0, 4);

        device_array<int32_t> device_ids(ids);
        device_array<unsigned char> data(table.data);
        device_array<uint16_t> scales(table.scales);
        device_array<float> y(floats(4 * n, -1.0f));
        args.ids = device_ids.data;
        args.table.data = data.data;
        args.table.scales = scales.data;
        args.y = y.data;
        hy_cuda_embed(NULL, &args, 4);
        check_harness();
        check_traffic(4 * (hy_row_bytes(dtype, n) + 6 * n / 8), 4 * 4 * n);
        check_same_bits(y.read(), expected, "embedding");
    }
}
END_TEST

/* Elements that norms do not keep between their two passes: all but 8 a thread. */
static size_t not_kept(size_t n)
{
    const size_t threads = n <= 256 ? 32 : n <= 2048 ? 256 : n <= 4096 ? 512 : 1024;
    return n > 8 * threads ? n - 8 * threads : 0;
}

/* Sums of terms of one sign, in another order than the generic kernel's: 3e-6. */
START_TEST(rms_norm)
{
    for (int number = 0; number < CASES; number++) {
        const size_t rows = number == 0 ? 1 : random_rows();
        const size_t n = number == 0 ? 8191 : number == 1 ? 8300 : random_size();
        const struct matrix x = random_matrix(rows, n, number % 2 ? 1.0f : 1e-3f);
        struct matrix y = random_matrix(rows, n, 1.0f);
        const floats weight = random_floats(n, 1.0f);
        device_array<float> device_x(x.values), device_weight(weight), device_y(y.values);
        struct hy_rms_norm_args args = {};
        args.x = x.values.data();
        args.x_stride = x.stride;
        args.weight = weight.data();
        args.n = n;
        args.epsilon = 1e-6f;
        args.y = y.values.data();
        args.y_stride = y.stride;
        hy_ref_rms_norm(&args, 0, rows);

        args.x = device_x.data;
        args.weight = device_weight.data;
        args.y = device_y.data;
        hy_cuda_rms_norm(NULL, &args, rows);
        check_harness();
        check_traffic(4 * rows * (2 * n + not_kept(n)), 4 * rows * n);
        const floats result = device_y.read();
        check_rows(result, y.values, 3e-6, "norm");

        args.y = device_x.data;
        args.y_stride = x.stride;
        hy_cuda_rms_norm(NULL, &args, rows);
        check_harness();
        check_same_rows({x.stride, device_x.read()}, {y.stride, result}, n, "norm in place");
    }
}
END_TEST

/* A single row gives the bits that it gives among others. */
START_TEST(norm_of_one_row)
{
    const size_t n = 1000, rows = 5;
    device_array<float> x(random_floats(rows * n, 1.0f)), weight(random_floats(n, 1.0f));
    device_array<float> together(floats(rows * n, 0.0f)), alone(floats(rows * n, 0.0f));
    struct hy_rms_norm_args args = {x.data, n, weight.data, n, 1e-6f, together.data, n};
    hy_cuda_rms_norm(NULL, &args, rows);
    for (size_t t = 0; t < rows; t++) {
        args.x = x.data + t * n;
        args.y = alone.data + t * n;
        hy_cuda_rms_norm(NULL, &args, 1);
    }
    check_harness();
    check_same_bits(alone.read(), together.read(), "row alone");
}
END_TEST

START_TEST(fuse)
{
    for (int number = 0; number < CASES; number++) {
        const size_t rows = random_rows(), n = number == 0 ? 8200 : random_size();
        const bool concat = number % 2 == 1;
        const struct matrix attention = random_matrix(rows, n, 1.0f);
        const struct matrix ssm = random_matrix(rows, n, 1.0f);
        const floats weight_attention = random_floats(n, 1.0f), weight_ssm = random_floats(n, 1.0f);
        struct matrix y = random_matrix(rows, concat ? 2 * n : n, 1.0f);
        device_array<float> device_attention(attention.values), device_ssm(ssm.values);
        device_array<float> device_weight(weight_attention), device_weight_ssm(weight_ssm);
        device_array<float> device_y(y.values);
        struct hy_fuse_args args = {};
        args.attention = attention.values.data();
        args.attention_stride = attention.stride;
        args.ssm = ssm.values.data();
        args.ssm_stride = ssm.stride;
        args.weight_attention = weight_attention.data();
        args.weight_ssm = weight_ssm.data();
        args.n = n;
        args.epsilon = 1e-6f;
        args.concat = concat;
        args.y = y.values.data();
        args.y_stride = y.stride;
        hy_ref_fuse(&args, 0, rows);

        args.attention = device_attention.data;
        args.ssm = device_ssm.data;
        args.weight_attention = device_weight.data;
        args.weight_ssm = device_weight_ssm.data;
        args.y = device_y.data;
        hy_cuda_fuse(NULL, &args, rows);
        check_harness();
        check_traffic(8 * rows * (2 * n + not_kept(n)), 4 * rows * n * (concat ? 2 : 1));
        const floats result = device_y.read();
        for (size_t i = 0; i < result.size(); i++) /* of two summands, 4 at most each */
            check_near((double)result[i], (double)y.values[i],
                       concat ? 3e-6 * fabs((double)y.values[i]) : 1e-5, "fusion");
    }
}
END_TEST

/* Two exponentials of 2e-7 and a few roundings. */
START_TEST(swiglu)
{
    for (int number = 0; number < CASES; number++) {
        const size_t rows = random_rows(), n = random_size();
        const struct matrix gate = random_matrix(rows, n, number % 2 ? 5.0f : 80.0f);
        const struct matrix up = random_matrix(rows, n, 1.0f);
        struct matrix y = random_matrix(rows, n, 1.0f);
        device_array<float> device_gate(gate.values), device_up(up.values), device_y(y.values);
        struct hy_swiglu_args args = {};
        args.gate = gate.values.data();
        args.gate_stride = gate.stride;
        args.up = up.values.data();
        args.up_stride = up.stride;
        args.n = n;
        args.y = y.values.data();
        args.y_stride = y.stride;
        hy_ref_swiglu(&args, 0, rows);

        args.gate = device_gate.data;
        args.up = device_up.data;
        args.y = device_y.data;
        hy_cuda_swiglu(NULL, &args, rows);
        check_harness();
        check_traffic(8 * rows * n, 4 * rows * n);
        const floats result = device_y.read();
        check_rows(result, y.values, 1e-6, "swiglu");

        args.y = device_gate.data;
        args.y_stride = gate.stride;
        hy_cuda_swiglu(NULL, &args, rows);
        check_harness();
        check_same_rows({gate.stride, device_gate.read()}, {y.stride, result}, n,
                        "swiglu in place");
    }
}
END_TEST

START_TEST(rope)
{
    for (int number = 0; number < CASES; number++) {
        const size_t rows = random_rows(), heads = 1 + test_random_below(6);
        const size_t size = 2 + test_random_below(80), half = size / 2; /* odd ones keep a rest */
        struct matrix x = random_matrix(rows, heads * size, 1.0f);
        floats cosine(rows * half), sine(rows * half);
        for (size_t i = 0; i < rows * half; i++) {
            float angle = random_float(10.0f);
            cosine[i] = cosf(angle);
            sine[i] = sinf(angle);
        }
        device_array<float> device_x(x.values), device_cosine(cosine), device_sine(sine);
        struct hy_rope_args args = {x.values.data(), x.stride, heads, size,
                                    cosine.data(),   sine.data()};
        hy_ref_rope(&args, 0, rows);
        args.x = device_x.data;
        args.cosine = device_cosine.data;
        args.sine = device_sine.data;
        hy_cuda_rope(NULL, &args, rows);
        check_harness();
        check_traffic(16 * rows * heads * half, 8 * rows * heads * half);
        const floats result = device_x.read();
        for (size_t i = 0; i < result.size(); i++)
            check_near((double)result[i], (double)x.values[i], 4e-7, "rotation");
    }
}
END_TEST

/* A case of any cache type: rows of heads a few elements further apart than they need. */
static void check_cache_rows(hymba_dtype dtype, float scale, bool special)
{
    const size_t rows = random_rows(), heads = 1 + test_random_below(11);
    const size_t n = 1 + test_random_below(140), row_bytes = hy_cache_row_bytes(dtype, n);
    const size_t unit = hy_dtype_size(dtype);
    const size_t apart = rows * row_bytes + unit * test_random_below(4);
    struct matrix x = random_matrix(rows, heads * n, scale);
    if (special)
        mix_special_values(x.values);
    bytes expected(heads * apart, 0x55);
    device_array<float> device_x(x.values);
    device_array<unsigned char> y(expected);
    struct hy_cache_rows_args args = {x.values.data(), x.stride, heads, n, dtype,
                                      expected.data(), apart};
    hy_ref_cache_rows(&args, 0, rows);
    args.x = device_x.data;
    args.y = y.data;
    hy_cuda_cache_rows(NULL, &args, rows);
    check_harness();
    check_traffic((dtype == HYMBA_DTYPE_INT8 ? 8 : 4) * rows * heads * n,
                  rows * heads * row_bytes);
    const bytes stored = y.read();
    if (dtype == HYMBA_DTYPE_INT8)
        ck_assert_mem_eq(stored.data(), expected.data(), expected.size());
    else
        check_elements(stored, expected, dtype, "cache");
}

START_TEST(cache_rows)
{
    const float scales[] = {1.0f, 1e-37f, 0.0f, 1e30f};
    for (int number = 0; number < 3 * CASES; number++) {
        check_cache_rows(float_types[number % 3], number % 2 ? 1.0f : 1e-5f, number % 5 == 0);
        check_cache_rows(HYMBA_DTYPE_INT8, scales[number % 4], number % 3 == 0);
    }
}
END_TEST

/* Zeros stand behind a row up to a multiple of 32, and what is beyond stays. */
START_TEST(round_to_bf16)
{
    for (int number = 0; number < CASES; number++) {
        const size_t rows = random_rows(), n = random_size();
        const size_t stride = (n + 31) / 32 * 32 + test_random_below(3);
        struct matrix x = random_matrix(rows, n, number % 2 ? 1.0f : 1e30f);
        if (number % 3 == 0)
            mix_special_values(x.values);
        bytes expected(2 * rows * stride, 0x55);
        device_array<float> device_x(x.values);
        device_array<unsigned char> y(expected);
        struct hy_round_args args = {};
        args.x = x.values.data();
        args.x_stride = x.stride;
        args.n = n;
        args.y.dtype = HYMBA_DTYPE_BF16;
        args.y.data = expected.data();
        args.y.stride = stride;
        hy_ref_round(&args, 0, rows);
        args.x = device_x.data;
        args.y.data = y.data;
        hy_cuda_round(NULL, &args, rows);
        check_harness();
        check_traffic(4 * rows * n, 64 * rows * ceil_div(n, 32));
        check_elements(y.read(), expected, HYMBA_DTYPE_BF16, "rounded");
    }
}
END_TEST

/* Every pair of types; the loop's number is the pair's. */
START_TEST(convert)
{
    const hymba_dtype from = float_types[_i / 3], to = float_types[_i % 3];
    for (int number = 0; number < 4; number++) {
        const size_t n = random_size();
        floats values = random_floats(n, number % 2 ? 1.0f : 1e-5f);
        mix_special_values(values);
        bytes x(n * hy_dtype_size(from)), expected(n * hy_dtype_size(to));
        hy_row_from_f32(values.data(), from, x.data(), n);
        hy_row_to_f32(x.data(), from, values.data(), n);
        hy_row_from_f32(values.data(), to, expected.data(), n);
        device_array<unsigned char> device_x(x), y(bytes(expected.size(), 0x55));
        struct hy_convert_args args = {device_x.data, from, y.data, to, n};
        hy_cuda_convert(NULL, &args);
        check_harness();
        check_traffic(x.size(), expected.size());
        check_elements(y.read(), expected, to, "converted");
    }
}
END_TEST

START_TEST(no_rows)
{
    const size_t before = harness_launch_count();
    struct hy_embed_args embed_args = {};
    struct hy_rms_norm_args norm_args = {};
    struct hy_rope_args rope_args = {};
    struct hy_cache_rows_args cache_args = {};
    struct hy_fuse_args fuse_args = {};
    struct hy_swiglu_args swiglu_args = {};
    struct hy_round_args round_args = {};
    struct hy_convert_args convert_args = {};
    embed_args.table.columns = norm_args.n = fuse_args.n = swiglu_args.n = round_args.n = 8;
    rope_args.n_heads = rope_args.head_size = cache_args.n_heads = cache_args.head_size = 8;
    hy_cuda_embed(NULL, &embed_args, 0);
    hy_cuda_rms_norm(NULL, &norm_args, 0);
    hy_cuda_rope(NULL, &rope_args, 0);
    hy_cuda_cache_rows(NULL, &cache_args, 0);
    hy_cuda_fuse(NULL, &fuse_args, 0);
    hy_cuda_swiglu(NULL, &swiglu_args, 0);
    hy_cuda_round(NULL, &round_args, 0);
    hy_cuda_convert(NULL, &convert_args);
    check_harness();
    ck_assert_uint_eq(harness_launch_count(), before);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda rows");
    TCase *tcase = tcase_create("cuda rows");
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, harness_reset, NULL);
    tcase_add_test(tcase, embed);
    tcase_add_test(tcase, embed_quantised);
    tcase_add_test(tcase, rms_norm);
    tcase_add_test(tcase, norm_of_one_row);
    tcase_add_test(tcase, fuse);
    tcase_add_test(tcase, swiglu);
    tcase_add_test(tcase, rope);
    tcase_add_test(tcase, cache_rows);
    tcase_add_test(tcase, round_to_bf16);
    tcase_add_loop_test(tcase, convert, 0, 9);
    tcase_add_test(tcase, no_rows);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
