/* The kernels that go row by row in the harness, against the generic ones in plain C. */
#include "device_test.h"

#include "heads.h"
#include "rows.h"

extern "C" {
#include "kernel/ref.h"
}

#include <memory>

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
        const bool same = isnan(hy_load_element(expected.data(), dtype, i))
                              ? isnan(hy_load_element(actual.data(), dtype, i))
                              : memcmp(&actual[i * size], &expected[i * size], size) == 0;
        if (!same)
            ck_abort_msg("%s: element %zu", what, i);
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

static size_t norm_threads(size_t n)
{
    return n <= 256 ? 32 : n <= 2048 ? 256 : n <= 4096 ? 512 : 1024;
}

/* Elements that norms do not keep between their two passes: all but 8 a thread. */
static size_t not_kept(size_t n)
{
    const size_t threads = norm_threads(n);
    return n > 8 * threads ? n - 8 * threads : 0;
}

/* Rounded rows on the device, a random distance apart, of bytes that can be seen to stay. */
struct rounded_rows {
    size_t n, rows, stride;
    std::unique_ptr<device_array<uint16_t>> data;
    struct hy_rounded form() const
    {
        struct hy_rounded rounded = {};
        rounded.dtype = HYMBA_DTYPE_BF16;
        rounded.data = data->data;
        rounded.stride = stride;
        return rounded;
    }
};

static struct rounded_rows random_rounded(size_t rows, size_t n)
{
    const size_t stride = hy_padded_row(n) + test_random_below(3);
    return {n, rows, stride,
            std::unique_ptr<device_array<uint16_t>>(
                new device_array<uint16_t>(std::vector<uint16_t>(rows * stride, 0x5555)))};
}

static uint64_t rounded_bytes(size_t n)
{
    return 64 * ceil_div(n, 32);
}

/* What the kernel for rounding alone makes of these rows on the device, bit by bit. */
static void check_rounded(const struct rounded_rows &actual, const float *x, size_t x_stride,
                          const char *what)
{
    const struct rounded_rows expected = random_rounded(actual.rows, actual.n);
    struct hy_round_args args = {x, x_stride, actual.n, expected.form()};
    hy_cuda_round(NULL, &args, actual.rows);
    check_harness();
    const std::vector<uint16_t> a = actual.data->read(), b = expected.data->read();
    for (size_t t = 0; t < actual.rows; t++) {
        for (size_t i = 0; i < actual.stride; i++) {
            const uint16_t found = a[t * actual.stride + i];
            const uint16_t wanted =
                i < hy_padded_row(actual.n) ? b[t * expected.stride + i] : (uint16_t)0x5555;
            if (found != wanted)
                ck_abort_msg("%s: row %zu, element %zu: %04x, expected %04x", what, t, i, found,
                             wanted);
        }
    }
}

/* Runs an op that can round its rows, of rows * width f32 at y: with both forms of the rows and
 * with the rounded ones alone, whose bits are those of rounding apart. Reads `read` bytes each time. */
template <typename Args>
static void check_rounding(Args args, void (*launch)(cudaStream_t, const Args *, size_t),
                           size_t rows, size_t width, uint64_t read, const char *what)
{
    const struct rounded_rows both = random_rounded(rows, width);
    const struct rounded_rows alone = random_rounded(rows, width);
    args.rounded = both.form();
    launch(NULL, &args, rows);
    check_harness();
    check_traffic(read, rows * (4 * width + rounded_bytes(width)));
    check_rounded(both, args.y, args.y_stride, what);
    const float *y = args.y;
    args.y = NULL;
    args.rounded = alone.form();
    launch(NULL, &args, rows);
    check_harness();
    check_traffic(read, rows * rounded_bytes(width));
    check_rounded(alone, y, args.y_stride, what);
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
        check_rounding(args, hy_cuda_rms_norm, rows, n, 4 * rows * (2 * n + not_kept(n)), "norm");
        check_same_bits(device_y.read(), result, "norm with rounding");

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
    struct hy_rms_norm_args args = {x.data, n, weight.data, n, 1e-6f, together.data, n, {}};
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

/* Parts of rows in one launch: the bits of a norm of each, where these have as many threads. */
START_TEST(norm_parts)
{
    for (int number = 0; number < CASES; number++) {
        const size_t rows = random_rows(), most = number % 2 ? 256 : 2048;
        const size_t sizes[] = {1 + test_random_below(most), test_random_below(most),
                                number % 2 ? 1 + test_random_below(most) : most};
        const size_t n = sizes[0] + sizes[1] + sizes[2];
        const struct matrix x = random_matrix(rows, n, 1.0f);
        const floats weight = random_floats(n, 1.0f);
        device_array<float> together(x.values), apart(x.values), device_weight(weight);
        const struct rounded_rows rounded = random_rounded(rows, sizes[0]);
        struct hy_norm_parts_args args = {};
        args.x = together.data;
        args.x_stride = x.stride;
        args.epsilon = 1e-6f;
        uint64_t read = 0;
        for (size_t i = 0, first = 0; i < HY_NORM_PARTS; first += sizes[i++]) {
            args.parts[i].weight = device_weight.data + first;
            args.parts[i].n = sizes[i];
            read += 4 * rows * 2 * sizes[i]; /* all are kept: 2048 is 8 times 256 */
            struct hy_rms_norm_args norm = {apart.data + first, x.stride,
                                            device_weight.data + first, sizes[i], 1e-6f,
                                            apart.data + first, x.stride, {}};
            hy_cuda_rms_norm(NULL, &norm, rows);
        }
        hy_cuda_norm_parts(NULL, &args, rows);
        check_harness();
        check_traffic(read, 4 * rows * n);
        const floats result = together.read();
        check_rows(result, apart.read(), 1e-6, "norms of parts"); /* another order of sums */
        if (number % 2)
            check_same_bits(result, apart.read(), "norms of parts");

        device_array<float> again(x.values);
        args.x = again.data;
        args.rounded = rounded.form();
        hy_cuda_norm_parts(NULL, &args, rows);
        check_harness();
        check_traffic(read, rows * (4 * (n - sizes[0]) + rounded_bytes(sizes[0])));
        check_rounded(rounded, together.data, x.stride, "first part");
        const floats rest = again.read();
        for (size_t t = 0; t < rows; t++)
            check_same_bits(floats(&rest[t * x.stride + sizes[0]], &rest[t * x.stride] + n),
                            floats(&result[t * x.stride + sizes[0]], &result[t * x.stride] + n),
                            "other parts");
    }
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
        check_rounding(args, hy_cuda_fuse, rows, concat ? 2 * n : n,
                       8 * rows * (2 * n + not_kept(n)), "fusion");
        check_same_bits(device_y.read(), result, "fusion with rounding");
    }
}
END_TEST

/* Sums of so many squares, added in another order: each addition rounds by 6e-8 of what is there,
 * and there are n / 32 + 10 of them one behind the other at most. */
static void check_sums(const floats &sums, const floats &expected, size_t n)
{
    for (size_t i = 0; i < sums.size(); i++)
        check_near((double)sums[i], (double)expected[i],
                   6e-8 * ((double)n / 16 + 20) * (double)expected[i], "a sum of squares");
}

/* By the sums of squares of whole rows the bits are those without; a part of the channels is as the
 * generic kernel has it. */
START_TEST(fuse_with_given_sums)
{
    for (int number = 0; number < CASES; number++) {
        const size_t rows = random_rows(), n = number == 0 ? 8200 : random_size();
        const size_t part = 1 + test_random_below(n);
        const bool concat = number % 2 == 1;
        const struct matrix attention = random_matrix(rows, n, 1.0f);
        const struct matrix ssm = random_matrix(rows, n, 1.0f);
        const floats weight_attention = random_floats(n, 1.0f), weight_ssm = random_floats(n, 1.0f);
        struct matrix y = random_matrix(rows, concat ? 2 * n : n, 1.0f);
        floats host_sums(2 * rows);
        device_array<float> device_attention(attention.values), device_ssm(ssm.values);
        device_array<float> device_weight(weight_attention), device_weight_ssm(weight_ssm);
        device_array<float> device_y(y.values), device_sums(random_floats(2 * rows, 1.0f));
        struct hy_square_sums_args squares = {attention.values.data(), attention.stride,
                                              ssm.values.data(), ssm.stride, n, host_sums.data()};
        hy_ref_square_sums(&squares, 0, rows);
        squares.attention = device_attention.data;
        squares.ssm = device_ssm.data;
        squares.sums = device_sums.data;
        hy_cuda_square_sums(NULL, &squares, rows);
        check_harness();
        check_traffic(8 * rows * n, 8 * rows);
        check_sums(device_sums.read(), host_sums, n);

        struct hy_fuse_args args = {
            device_attention.data, attention.stride, device_ssm.data, ssm.stride,
            device_weight.data, device_weight_ssm.data, n, 1e-6f, concat, device_y.data, y.stride,
            {}, NULL, 0};
        hy_cuda_fuse(NULL, &args, rows);
        check_harness();
        const floats result = device_y.read();
        args.sums = device_sums.data;
        args.total = n;
        hy_cuda_fuse(NULL, &args, rows);
        check_harness();
        check_traffic(8 * rows * (2 * n + norm_threads(n)), 4 * rows * n * (concat ? 2 : 1));
        check_same_bits(device_y.read(), result, "fusion by given sums");

        args.n = part;
        hy_cuda_fuse(NULL, &args, rows);
        check_harness();
        check_traffic(8 * rows * (2 * part + norm_threads(part)),
                      4 * rows * part * (concat ? 2 : 1));
        y.values = result;
        struct hy_fuse_args own = args;
        const floats sums = device_sums.read();
        own.attention = attention.values.data();
        own.ssm = ssm.values.data();
        own.weight_attention = weight_attention.data();
        own.weight_ssm = weight_ssm.data();
        own.y = y.values.data();
        own.sums = sums.data();
        hy_ref_fuse(&own, 0, rows);
        check_rows(device_y.read(), y.values, 3e-6, "a part of a fusion");
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
        check_rounding(args, hy_cuda_swiglu, rows, n, 8 * rows * n, "swiglu");
        check_same_bits(device_y.read(), result, "swiglu with rounding");

        args.y = device_gate.data;
        args.y_stride = gate.stride;
        hy_cuda_swiglu(NULL, &args, rows);
        check_harness();
        check_same_rows({gate.stride, device_gate.read()}, {y.stride, result}, n,
                        "swiglu in place");
    }
}
END_TEST

/* Heads of a case: queries, keys and values side by side in rows. */
struct heads_case {
    size_t rows, heads, kv_heads, qk_size, v_size;
    struct matrix x;
    floats cosine, sine;
    size_t k_row, v_row; /* bytes stored */
    size_t k_apart, v_apart;
};

/* Odd sizes keep a rest. */
static struct heads_case random_heads(hymba_dtype dtype, float scale)
{
    struct heads_case c = {};
    const size_t unit = hy_dtype_size(dtype);
    c.rows = random_rows();
    c.heads = 1 + test_random_below(6);
    c.kv_heads = 1 + test_random_below(4);
    c.qk_size = 2 + test_random_below(140);
    c.v_size = 1 + test_random_below(140);
    c.x = random_matrix(c.rows, (c.heads + c.kv_heads) * c.qk_size + c.kv_heads * c.v_size, scale);
    for (size_t i = 0; i < c.rows * (c.qk_size / 2); i++) {
        float angle = random_float(10.0f);
        c.cosine.push_back(cosf(angle));
        c.sine.push_back(sinf(angle));
    }
    c.k_row = hy_cache_row_bytes(dtype, c.qk_size);
    c.v_row = hy_cache_row_bytes(dtype, c.v_size);
    c.k_apart = c.rows * c.k_row + unit * test_random_below(4);
    c.v_apart = c.rows * c.v_row + unit * test_random_below(4);
    return c;
}

/* The line that rope_store adds up: bytes of a row. */
static void check_heads_traffic(const struct heads_case &c, hymba_dtype dtype, bool rotates)
{
    const uint64_t half = c.qk_size / 2, rest = c.qk_size % 2;
    const uint64_t kv = c.kv_heads * ((rotates ? 16 : 8) * half + 4 * rest + 4 * c.v_size);
    const uint64_t q = rotates ? c.heads * half : 0;
    check_traffic(c.rows * (16 * q + (hy_cache_greatest(dtype) != 0.0f ? 2 : 1) * kv),
                  c.rows * (8 * q + c.kv_heads * (c.k_row + c.v_row)));
}

/* Rotated queries within 4e-7 of generic C's; keys are what generic C stores of numbers rotated
 * like queries, so a second launch rotates them as queries: bit by bit, and so are values. */
static void check_rope_store(hymba_dtype dtype, float scale, bool rotates, bool special)
{
    struct heads_case c = random_heads(dtype, scale);
    if (special)
        mix_special_values(c.x.values);
    const size_t of_q = c.heads * c.qk_size, of_k = c.kv_heads * c.qk_size;
    const size_t half = c.qk_size / 2;
    bytes k_rows(c.kv_heads * c.k_apart, 0x55), v_rows(c.kv_heads * c.v_apart, 0x55);
    device_array<float> x(c.x.values), as_queries(c.x.values), cosine(c.cosine), sine(c.sine);
    device_array<unsigned char> stored_k(k_rows), stored_v(v_rows);
    struct hy_rope_store_args args = {
        x.data, x.data + of_q, x.data + of_q + of_k, c.x.stride, c.heads, c.kv_heads, c.qk_size,
        c.v_size, rotates ? cosine.data : NULL, rotates ? sine.data : NULL, dtype, stored_k.data,
        stored_v.data, c.k_apart, c.v_apart};
    hy_cuda_rope_store(NULL, &args, c.rows);
    check_harness();
    check_heads_traffic(c, dtype, rotates);

    args.q = as_queries.data;
    args.n_heads = c.heads + c.kv_heads; /* the keys stand behind the queries */
    args.n_kv_heads = 0;
    hy_cuda_rope_store(NULL, &args, c.rows);
    check_harness();
    const floats rotated = as_queries.read(), result = x.read();
    struct hy_rope_args rope = {c.x.values.data(), c.x.stride, c.heads, c.qk_size,
                                c.cosine.data(), c.sine.data()};
    struct hy_cache_rows_args k = {rotated.data() + of_q, c.x.stride, c.kv_heads, c.qk_size, dtype,
                                   k_rows.data(), c.k_apart};
    struct hy_cache_rows_args v = {c.x.values.data() + of_q + of_k, c.x.stride, c.kv_heads,
                                   c.v_size, dtype, v_rows.data(), c.v_apart};
    hy_ref_cache_rows(&v, 0, c.rows);
    hy_ref_cache_rows(&k, 0, c.rows);
    const bytes actual_k = stored_k.read(), actual_v = stored_v.read();
    if (hy_cache_greatest(dtype) != 0.0f) {
        ck_assert_mem_eq(actual_k.data(), k_rows.data(), k_rows.size());
        ck_assert_mem_eq(actual_v.data(), v_rows.data(), v_rows.size());
    } else {
        check_elements(actual_k, k_rows, dtype, "keys");
        check_elements(actual_v, v_rows, dtype, "values");
    }
    const floats before = c.x.values;
    if (rotates && half > 0)
        hy_ref_rope(&rope, 0, c.rows);
    for (size_t i = 0; i < result.size(); i++) {
        if (i % c.x.stride >= of_q) { /* the rest stays as it was */
            if (hy_f32_to_bits(result[i]) != hy_f32_to_bits(before[i]))
                ck_abort_msg("element %zu: %.9g, was %.9g", i, (double)result[i],
                             (double)before[i]);
        } else if (!special) {
            check_near((double)result[i], (double)c.x.values[i], 4e-7 * (double)scale, "rotation");
        }
    }
}

START_TEST(rope_store)
{
    const hymba_dtype types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                                 HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8};
    const float scales[] = {1.0f, 1e-37f, 0.0f, 1e30f};
    for (int number = 0; number < CASES; number++) {
        const hymba_dtype dtype = types[_i];
        const float scale = hy_cache_greatest(dtype) != 0.0f ? scales[number % 4]
                            : number % 2                     ? 1.0f
                                                             : 1e-5f;
        check_rope_store(dtype, scale, number % 3 != 0, number % 5 == 4);
    }
}
END_TEST

/* A layer that has another one's keys and values; without a rotation there is nothing to do. */
START_TEST(queries_alone)
{
    struct heads_case c = random_heads(HYMBA_DTYPE_BF16, 1.0f);
    device_array<float> x(c.x.values), cosine(c.cosine), sine(c.sine);
    struct hy_rope_store_args args = {};
    args.q = x.data;
    args.stride = c.x.stride;
    args.n_heads = c.heads;
    args.qk_size = c.qk_size;
    args.v_size = c.v_size;
    args.dtype = HYMBA_DTYPE_BF16;
    const size_t before = harness_launch_count();
    hy_cuda_rope_store(NULL, &args, c.rows);
    ck_assert_uint_eq(harness_launch_count(), before);
    args.cosine = cosine.data;
    args.sine = sine.data;
    hy_cuda_rope_store(NULL, &args, c.rows);
    check_harness();
    check_traffic(16 * c.rows * c.heads * (c.qk_size / 2), 8 * c.rows * c.heads * (c.qk_size / 2));
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
    struct hy_rope_store_args heads_args = {};
    struct hy_norm_parts_args parts_args = {};
    struct hy_fuse_args fuse_args = {};
    struct hy_square_sums_args sums_args = {};
    struct hy_swiglu_args swiglu_args = {};
    struct hy_round_args round_args = {};
    struct hy_convert_args convert_args = {};
    embed_args.table.columns = norm_args.n = fuse_args.n = swiglu_args.n = round_args.n = 8;
    sums_args.n = 8;
    heads_args.n_heads = heads_args.n_kv_heads = heads_args.qk_size = heads_args.v_size = 8;
    parts_args.parts[1].n = 8;
    hy_cuda_embed(NULL, &embed_args, 0);
    hy_cuda_rms_norm(NULL, &norm_args, 0);
    hy_cuda_rope_store(NULL, &heads_args, 0);
    hy_cuda_norm_parts(NULL, &parts_args, 0);
    hy_cuda_fuse(NULL, &fuse_args, 0);
    hy_cuda_square_sums(NULL, &sums_args, 0);
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
    tcase_add_test(tcase, norm_parts);
    tcase_add_test(tcase, fuse);
    tcase_add_test(tcase, fuse_with_given_sums);
    tcase_add_test(tcase, swiglu);
    tcase_add_loop_test(tcase, rope_store, 0, 5);
    tcase_add_test(tcase, queries_alone);
    tcase_add_test(tcase, round_to_bf16);
    tcase_add_loop_test(tcase, convert, 0, 9);
    tcase_add_test(tcase, no_rows);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
