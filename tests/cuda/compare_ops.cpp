#include "compare_ops.h"

#include "compare_8bit.h"

extern "C" {
#include "base/checked.h"
#include "kernel/ref.h"
#include "text/candidates.h"
}

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <random>
#include <vector>

typedef std::vector<float> floats;
typedef std::vector<unsigned char> bytes;

/* What a comparison works with, and the first disagreement it finds. */
class bench {
public:
    bench(const struct hy_device_ops *ops_, struct hy_device *device_, unsigned seed)
        : ops(ops_), device(device_), random(seed)
    {
        message[0] = '\0';
    }
    ~bench()
    {
        for (void *data : taken)
            ops->release(device, data);
    }
    size_t below(size_t n)
    {
        return random() % n;
    }
    bool coin()
    {
        return below(2) == 1;
    }
    floats some(size_t n, float scale = 1.0f)
    {
        floats values(n);
        for (float &value : values)
            value = ((float)(random() % 20001) / 10000.0f - 1.0f) * scale;
        return values;
    }
    /* Numbers of a float type. */
    bytes as(const floats &values, hymba_dtype dtype)
    {
        bytes data(values.size() * hy_dtype_size(dtype));
        hy_row_from_f32(values.data(), dtype, data.data(), values.size());
        return data;
    }
    void *take(size_t size)
    {
        void *data = ops->allocate(device, size);
        if (!data || (uintptr_t)data % 256 != 0)
            fail("%zu bytes of the device could not be had at a multiple of 256", size);
        taken.push_back(data);
        return data;
    }
    template <typename T> T *put(const std::vector<T> &values)
    {
        size_t size = values.size() * sizeof(T);
        T *data = (T *)take(size ? size : 1);
        if (size == 0)
            return data;
        std::vector<T> passing = values;
        struct hy_copy_args args = {HY_COPY_TO_DEVICE, data, size, passing.data(), size, size, 1};
        ops->copy(device, &args);
        memset((void *)passing.data(), 0x5a, size); /* the source may change at once */
        return data;
    }
    template <typename T> std::vector<T> get(const T *data, size_t n)
    {
        std::vector<T> values(n);
        struct hy_copy_args args = {HY_COPY_TO_HOST,    values.data(),       n * sizeof(T), data,
                                    n * sizeof(T), n * sizeof(T), 1};
        ops->copy(device, &args);
        finish();
        return values;
    }
    void finish()
    {
        hymba_error error = {};
        error.struct_size = sizeof error;
        if (ops->finish(device, &error) != HYMBA_OK)
            fail("%s", error.message);
    }
    void fail(const char *format, ...) __attribute__((format(printf, 2, 3)))
    {
        va_list arguments;
        if (message[0])
            return;
        va_start(arguments, format);
        vsnprintf(message, sizeof message, format, arguments);
        va_end(arguments);
    }
    /* Rows of n elements, stride apart; what lies between them is to be as it was, too. */
    void agree(const char *what, const floats &actual, const floats &expected, float tolerance)
    {
        for (size_t i = 0; i < expected.size(); i++)
            if (!(fabsf(actual[i] - expected[i]) <= tolerance * (1.0f + fabsf(expected[i]))))
                fail("%s: number %zu is %g, generic C has %g", what, i, (double)actual[i],
                     (double)expected[i]);
    }
    /* The same with a tolerance for each number. */
    void agree(const char *what, const floats &actual, const floats &expected,
               const floats &tolerances)
    {
        for (size_t i = 0; i < expected.size(); i++)
            if (!(fabsf(actual[i] - expected[i]) <= tolerances[i]))
                fail("%s: number %zu is %.9g, generic C has %.9g, and no more than %g may be "
                     "between",
                     what, i, (double)actual[i], (double)expected[i], (double)tolerances[i]);
    }
    void same(const char *what, const bytes &actual, const bytes &expected)
    {
        for (size_t i = 0; i < expected.size(); i++)
            if (actual[i] != expected[i])
                fail("%s: byte %zu is %d, generic C has %d", what, i, actual[i], expected[i]);
    }
    const struct hy_device_ops *ops;
    struct hy_device *device;
    char message[512];

private:
    std::mt19937 random;
    std::vector<void *> taken;
};

static const hymba_dtype float_types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16};

/* ------------------------------------------------------------------ memory */

static void compare_copies(bench &b)
{
    size_t width = 1 + b.below(40), rows = 1 + b.below(20), stride = width + b.below(9);
    size_t pitch = width + b.below(9);
    bytes source(rows * stride), expected(rows * pitch, 7), back(rows * stride, 9);
    for (size_t i = 0; i < source.size(); i++)
        source[i] = (unsigned char)b.below(256);
    unsigned char *first = (unsigned char *)b.take(rows * pitch);
    unsigned char *second = (unsigned char *)b.take(rows * pitch);
    b.ops->fill(b.device, first, 7, rows * pitch);
    b.ops->fill(b.device, second, 7, rows * pitch);
    bytes passing = source;
    struct hy_copy_args there = {HY_COPY_TO_DEVICE, first, pitch, passing.data(),
                                 stride, width, rows};
    struct hy_copy_args within = {HY_COPY_WITHIN, second, pitch, first, pitch, width, rows};
    struct hy_copy_args here = {HY_COPY_TO_HOST, back.data(), stride, second, pitch, width, rows};
    b.ops->copy(b.device, &there);
    passing.assign(passing.size(), 0);
    b.ops->copy(b.device, &within);
    b.ops->copy(b.device, &here);
    for (size_t row = 0; row < rows; row++)
        memcpy(&expected[row * pitch], &source[row * stride], width);
    b.same("a copy", b.get(second, rows * pitch), expected);
    for (size_t row = 0; row < rows; row++)
        if (memcmp(&back[row * stride], &source[row * stride], width) != 0
            || (stride > width && back[row * stride + width] != 9))
            b.fail("row %zu came back changed", row);
}

/* More than goes through the pinned memory in one piece. */
static void compare_large_copies(bench &b)
{
    bytes source((9 << 20) + 12345);
    for (size_t i = 0; i < source.size(); i++)
        source[i] = (unsigned char)(i * 2654435761u >> 24);
    unsigned char *data = b.put(source);
    b.same("a large copy", b.get(data, source.size()), source);
}

/* Rows of many widths to and from any address, no two targets touching. */
static void compare_copy_list_of(bench &b, size_t n)
{
    enum { MOST = 20000 };
    size_t used = 0;
    std::vector<struct hy_copy_args> copies(n);
    bytes source(MOST), expected(n * 5 * 5000, 7);
    for (unsigned char &byte : source)
        byte = (unsigned char)b.below(256);
    for (struct hy_copy_args &copy : copies) {
        size_t unit = b.coin() ? 16 : b.coin() ? 4 : 1;
        copy.kind = HY_COPY_WITHIN;
        copy.width = 1 + b.below(b.below(4) ? 200 : 4900);
        copy.n_rows = 1 + b.below(4);
        copy.from_stride = unit * b.below(5000 / unit);
        copy.to_stride = (copy.width + unit - 1) / unit * unit + unit * b.below(3);
        used = (used + unit - 1) / unit * unit;
        copy.to = (void *)used;
        copy.from = (const void *)(unit * b.below(100 / unit));
        for (size_t row = 0; row < copy.n_rows; row++)
            memcpy(&expected[used + row * copy.to_stride],
                   &source[(size_t)copy.from + row * copy.from_stride], copy.width);
        used += copy.n_rows * copy.to_stride;
    }
    unsigned char *from = b.put(source), *to = (unsigned char *)b.take(expected.size());
    b.ops->fill(b.device, to, 7, expected.size());
    for (struct hy_copy_args &copy : copies) {
        copy.to = to + (size_t)copy.to;
        copy.from = from + (size_t)copy.from;
    }
    b.ops->copy_list(b.device, copies.data(), n);
    memset((void *)copies.data(), 0, n * sizeof copies[0]); /* the list may be gone at once */
    b.same("a list of copies", b.get(to, expected.size()), expected);
}

static void compare_copy_list(bench &b)
{
    compare_copy_list_of(b, 1 + b.below(3));
    compare_copy_list_of(b, 20 + b.below(40));
}

static void compare_convert(bench &b)
{
    for (hymba_dtype x_dtype : float_types)
        for (hymba_dtype y_dtype : float_types) {
            size_t n = 1 + b.below(3000);
            bytes x = b.as(b.some(n, 100.0f), x_dtype), y(n * hy_dtype_size(y_dtype));
            floats middle(n);
            hy_row_to_f32(x.data(), x_dtype, middle.data(), n);
            hy_row_from_f32(middle.data(), y_dtype, y.data(), n);
            unsigned char *result = (unsigned char *)b.take(y.size());
            struct hy_convert_args args = {b.put(x), x_dtype, result, y_dtype, n};
            b.ops->convert(b.device, &args);
            b.same("a conversion", b.get(result, y.size()), y);
        }
}

/* ----------------------------------------------------------------- weights */

/* Weights of any type, as a device wants them, and scales for those that have them. */
struct weights {
    hymba_dtype dtype;
    size_t group;
    bytes data;
    std::vector<uint16_t> scales;
};

static struct weights some_weights(bench &b, hymba_dtype dtype, size_t n, size_t k)
{
    struct weights w = {dtype, 0, {}, {}};
    if (!hy_is_quantised(dtype)) {
        w.data = b.as(b.some(n * k), dtype);
        return w;
    }
    w.group = b.coin() ? 32 : k;
    w.data.resize(n * hy_row_bytes(dtype, k));
    for (unsigned char &byte : w.data)
        byte = (unsigned char)b.below(256);
    for (size_t i = 0; i < n * k / w.group; i++)
        w.scales.push_back(hy_f32_to_bf16((float)(1 + b.below(99)) / 10000.0f));
    return w;
}

static const hymba_dtype weight_types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                                           HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4};

/* The same matrix in bf16, as which a device multiplies quantised weights with rounded rows. */
static bytes as_bf16(bench &b, const struct weights &w, size_t n, size_t k)
{
    const struct hy_matrix matrix = {w.data.data(), w.dtype, n, k, w.scales.data(), w.group,
                                     false};
    floats values(n * k);
    for (size_t j = 0; j < n; j++)
        hy_ref_dequantise_row(&matrix, j, &values[j * k]);
    return b.as(values, HYMBA_DTYPE_BF16);
}

/* -------------------------------------------------------------------- rows */

static void compare_embed(bench &b)
{
    for (hymba_dtype dtype : weight_types) {
        size_t rows = 1 + b.below(9), vocabulary = 1 + b.below(40);
        size_t n = hy_is_quantised(dtype) ? 32 * (1 + b.below(5)) : 1 + b.below(150);
        struct weights table = some_weights(b, dtype, vocabulary, n);
        std::vector<int32_t> ids(rows);
        for (int32_t &id : ids)
            id = (int32_t)b.below(vocabulary);
        floats y(rows * n);
        struct hy_embed_args args = {
            ids.data(),
            {table.data.data(), dtype, vocabulary, n, table.scales.data(), table.group,
             false},
            y.data()};
        hy_ref_embed(&args, 0, rows);
        args.ids = b.put(ids);
        args.table.data = b.put(table.data);
        args.table.scales = b.put(table.scales);
        args.y = (float *)b.take(y.size() * sizeof(float));
        b.ops->embed(b.device, &args, rows);
        b.agree("an embedding", b.get(args.y, y.size()), y, 0.0f);
    }
}

/* Rows that an op rounds: generic C's, and where the device is to put them. */
struct rounded_rows {
    size_t n, stride;
    std::vector<uint16_t> expected;
    struct hy_rounded on_device;
};

static struct rounded_rows some_rounded(bench &b, size_t rows, size_t n)
{
    struct rounded_rows rounded = {n, hy_padded_row(n) + 32 * b.below(2), {}, {}};
    rounded.expected.assign(rows * rounded.stride, 0x5555);
    rounded.on_device.dtype = HYMBA_DTYPE_BF16;
    rounded.on_device.data = b.put(rounded.expected);
    rounded.on_device.stride = rounded.stride;
    return rounded;
}

/* What generic C has of the op is x as f32; nothing else may differ than what rounding makes of a
 * last bit. */
static void agree_rounded(bench &b, const char *what, struct rounded_rows &rounded, const floats &x,
                          size_t x_stride, size_t rows)
{
    struct hy_rounded y = rounded.on_device;
    y.data = rounded.expected.data();
    struct hy_round_args args = {x.data(), x_stride, rounded.n, y};
    hy_ref_round(&args, 0, rows);
    const uint16_t *data = (const uint16_t *)rounded.on_device.data;
    floats actual(rounded.expected.size()), expected(rounded.expected.size());
    hy_row_to_f32(b.get(data, actual.size()).data(), HYMBA_DTYPE_BF16, actual.data(),
                  actual.size());
    hy_row_to_f32(rounded.expected.data(), HYMBA_DTYPE_BF16, expected.data(), expected.size());
    for (size_t i = 0; i < expected.size(); i++)
        if (!(fabsf(actual[i] - expected[i]) <= 0x1p-7f * fabsf(expected[i]) + 1e-5f))
            b.fail("%s, rounded: number %zu is %g, generic C has %g", what, i, (double)actual[i],
                   (double)expected[i]);
}

static void compare_rms_norm_of(bench &b, bool rounds, bool wants_floats)
{
    size_t rows = 1 + b.below(9), n = 1 + b.below(400), x_stride = n + b.below(9);
    size_t y_stride = n + b.below(9);
    floats x = b.some(rows * x_stride), weight = b.some(n), y = b.some(rows * y_stride);
    float *on_device = b.put(y);
    struct rounded_rows rounded = some_rounded(b, rows, n);
    struct hy_rms_norm_args args = {x.data(), x_stride, weight.data(), n, 1e-6f,
                                    y.data(), y_stride, {}};
    hy_ref_rms_norm(&args, 0, rows);
    args.x = b.put(x);
    args.weight = b.put(weight);
    args.y = wants_floats ? on_device : NULL;
    if (rounds)
        args.rounded = rounded.on_device;
    b.ops->rms_norm(b.device, &args, rows);
    if (wants_floats)
        b.agree("a norm", b.get((const float *)on_device, y.size()), y, 1e-5f);
    if (rounds)
        agree_rounded(b, "a norm", rounded, y, y_stride, rows);
}

static void compare_rms_norm(bench &b)
{
    compare_rms_norm_of(b, false, true);
    compare_rms_norm_of(b, true, true);
    compare_rms_norm_of(b, true, false);
}

static void compare_norm_parts_of(bench &b, bool rounds)
{
    size_t rows = 1 + b.below(9), sizes[] = {1 + b.below(150), b.below(20), 1 + b.below(300)};
    size_t n = sizes[0] + sizes[1] + sizes[2], stride = n + b.below(9);
    floats x = b.some(rows * stride), weights[] = {b.some(sizes[0]), b.some(sizes[1] + 1),
                                                  b.some(sizes[2])};
    struct hy_norm_parts_args args = {};
    float *on_device = b.put(x);
    struct rounded_rows rounded = some_rounded(b, rows, sizes[0]);
    args.x_stride = stride;
    args.epsilon = 1e-6f;
    for (size_t i = 0, first = 0; i < HY_NORM_PARTS; first += sizes[i++]) {
        struct hy_rms_norm_args norm = {&x[first], stride, weights[i].data(), sizes[i], 1e-6f,
                                        &x[first], stride, {}};
        if (sizes[i] > 0)
            hy_ref_rms_norm(&norm, 0, rows);
        args.parts[i].weight = b.put(weights[i]);
        args.parts[i].n = sizes[i];
    }
    args.x = on_device;
    if (rounds)
        args.rounded = rounded.on_device;
    b.ops->norm_parts(b.device, &args, rows);
    floats actual = b.get((const float *)on_device, x.size());
    for (size_t i = 0; i < x.size() && rounds; i++) /* which need not have been written */
        if (i % stride < sizes[0])
            actual[i] = x[i];
    b.agree("norms of parts", actual, x, 1e-5f);
    if (rounds)
        agree_rounded(b, "norms of parts", rounded, x, stride, rows);
}

static void compare_norm_parts(bench &b)
{
    compare_norm_parts_of(b, false);
    compare_norm_parts_of(b, true);
}

static void compare_round(bench &b)
{
    size_t rows = 1 + b.below(9), n = 1 + b.below(150), x_stride = n + b.below(9);
    size_t stride = hy_padded_row(n);
    floats x = b.some(rows * x_stride);
    std::vector<uint16_t> y(rows * stride);
    struct hy_round_args args = {};
    args.x = x.data();
    args.x_stride = x_stride;
    args.n = n;
    args.y.dtype = HYMBA_DTYPE_BF16;
    args.y.data = y.data();
    args.y.stride = stride;
    hy_ref_round(&args, 0, rows);
    args.x = b.put(x);
    args.y.data = b.take(y.size() * sizeof y[0]);
    b.ops->round(b.device, &args, rows);
    if (b.get((const uint16_t *)args.y.data, y.size()) != y)
        b.fail("rounded activations differ from those of generic C");
}

/* Keys and values of generic C: from the device's rotated queries, which are the same numbers, so
 * that what is stored is the same to the last bit. */
static void compare_rope_store_of(bench &b, hymba_dtype dtype, bool rotates, bool stores)
{
    size_t rows = 1 + b.below(9), heads = 1 + b.below(4), half = 1 + b.below(40), size = 2 * half;
    size_t v_size = 4 * (1 + b.below(20)), of_k = heads * size, of_v = heads * v_size;
    size_t stride = 2 * of_k + of_v + b.below(9);
    size_t k_row = hy_cache_row_bytes(dtype, size), v_row = hy_cache_row_bytes(dtype, v_size);
    floats x = b.some(rows * stride), cosine = b.some(rows * half), sine = b.some(rows * half);
    for (size_t i = 0; i < x.size(); i++) /* keys are the queries */
        if (i % stride >= of_k && i % stride < 2 * of_k)
            x[i] = x[i - of_k];
    bytes k_rows(heads * (rows + 1) * k_row), v_rows(heads * (rows + 2) * v_row);
    unsigned char *k_on_device = b.put(k_rows), *v_on_device = b.put(v_rows);
    float *on_device = b.put(x);
    struct hy_rope_args rope = {x.data(), stride, heads, size, cosine.data(), sine.data()};
    struct hy_rope_store_args args = {
        on_device, on_device + of_k, on_device + 2 * of_k, stride, heads, stores ? heads : 0, size,
        v_size, rotates ? b.put(cosine) : NULL, rotates ? b.put(sine) : NULL, dtype,
        k_on_device, v_on_device, (rows + 1) * k_row, (rows + 2) * v_row};
    b.ops->rope_store(b.device, &args, rows);
    if (rotates)
        hy_ref_rope(&rope, 0, rows);
    floats actual = b.get((const float *)on_device, x.size());
    for (size_t i = 0; i < x.size(); i++) /* keys need not have been written */
        if (i % stride >= of_k && i % stride < 2 * of_k)
            actual[i] = x[i];
    b.agree("a rotation", actual, x, 1e-6f);
    struct hy_cache_rows_args k = {actual.data(), stride, heads, size, dtype, k_rows.data(),
                                   args.k_head_stride};
    struct hy_cache_rows_args v = {actual.data() + 2 * of_k, stride, heads, v_size, dtype,
                                   v_rows.data(), args.v_head_stride};
    if (stores) {
        hy_ref_cache_rows(&k, 0, rows);
        hy_ref_cache_rows(&v, 0, rows);
    }
    b.same("a stored key", b.get((const unsigned char *)k_on_device, k_rows.size()), k_rows);
    b.same("a stored value", b.get((const unsigned char *)v_on_device, v_rows.size()), v_rows);
}

static void compare_rope_store(bench &b)
{
    for (hymba_dtype dtype : {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                              HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8}) {
        compare_rope_store_of(b, dtype, true, true);
        compare_rope_store_of(b, dtype, false, true);
    }
    compare_rope_store_of(b, HYMBA_DTYPE_BF16, true, false);
}

static void compare_fuse(bench &b)
{
    for (int i = 0; i < 6; i++) {
        const bool concat = i % 2 == 1, rounds = i >= 2, wants_floats = i < 4;
        size_t rows = 1 + b.below(9), n = 1 + b.below(300), columns = concat ? 2 * n : n;
        size_t stride = n + b.below(9), y_stride = columns + b.below(9);
        floats attention = b.some(rows * stride), ssm = b.some(rows * stride);
        floats first = b.some(n), second = b.some(n), y = b.some(rows * y_stride);
        float *on_device = b.put(y);
        struct hy_fuse_args args = {attention.data(), stride, ssm.data(), stride, first.data(),
                                    second.data(), n, 1e-6f, concat, y.data(), y_stride, {},
                                    NULL, n};
        struct rounded_rows rounded = some_rounded(b, rows, columns);
        hy_ref_fuse(&args, 0, rows);
        args.attention = b.put(attention);
        args.ssm = b.put(ssm);
        args.weight_attention = b.put(first);
        args.weight_ssm = b.put(second);
        args.y = wants_floats ? on_device : NULL;
        if (rounds)
            args.rounded = rounded.on_device;
        b.ops->fuse(b.device, &args, rows);
        if (wants_floats)
            b.agree("a fusion", b.get((const float *)on_device, y.size()), y, 1e-5f);
        if (rounds)
            agree_rounded(b, "a fusion", rounded, y, y_stride, rows);
    }
}

/* A part of the channels of each row, by sums that another kernel made of all of them. */
static void compare_square_sums(bench &b)
{
    for (int i = 0; i < 4; i++) {
        size_t rows = 1 + b.below(9), n = 1 + b.below(300), part = 1 + b.below(n);
        size_t stride = n + b.below(9);
        floats attention = b.some(rows * stride), ssm = b.some(rows * stride);
        floats first = b.some(n), second = b.some(n), y(rows * part), sums(2 * rows);
        float *sums_on_device = b.put(sums), *y_on_device = b.put(y);
        struct hy_square_sums_args squares = {attention.data(), stride, ssm.data(), stride, n,
                                              sums.data()};
        struct hy_fuse_args args = {attention.data(), stride, ssm.data(), stride, first.data(),
                                    second.data(), part, 1e-6f, false, y.data(), part, {},
                                    sums.data(), n};
        hy_ref_square_sums(&squares, 0, rows);
        hy_ref_fuse(&args, 0, rows);
        squares.attention = args.attention = b.put(attention);
        squares.ssm = args.ssm = b.put(ssm);
        squares.sums = sums_on_device;
        args.weight_attention = b.put(first);
        args.weight_ssm = b.put(second);
        args.sums = sums_on_device;
        args.y = y_on_device;
        b.ops->square_sums(b.device, &squares, rows);
        b.ops->fuse(b.device, &args, rows);
        b.agree("sums of squares", b.get((const float *)sums_on_device, sums.size()), sums, 1e-5f);
        b.agree("a part of a fusion", b.get((const float *)y_on_device, y.size()), y, 1e-5f);
    }
}

static void compare_swiglu_of(bench &b, bool rounds, bool wants_floats)
{
    size_t rows = 1 + b.below(9), n = 1 + b.below(300), stride = n + b.below(9);
    floats gate = b.some(rows * stride, 4.0f), up = b.some(rows * stride);
    float *on_device = b.put(gate);
    struct hy_swiglu_args args = {gate.data(), stride, up.data(), stride, n, gate.data(), stride,
                                  {}};
    struct rounded_rows rounded = some_rounded(b, rows, n);
    hy_ref_swiglu(&args, 0, rows);
    args.gate = on_device;
    args.y = wants_floats ? on_device : NULL;
    args.up = b.put(up);
    if (rounds)
        args.rounded = rounded.on_device;
    b.ops->swiglu(b.device, &args, rows);
    if (wants_floats)
        b.agree("a gate", b.get((const float *)on_device, gate.size()), gate, 1e-5f);
    if (rounds)
        agree_rounded(b, "a gate", rounded, gate, stride, rows);
}

static void compare_swiglu(bench &b)
{
    compare_swiglu_of(b, false, true);
    compare_swiglu_of(b, true, true);
    compare_swiglu_of(b, true, false);
}

/* ---------------------------------------------------------------- products */

/* The weights of a column as the numbers that they are. */
static floats column_of(const struct hy_matmul_args *args, size_t j)
{
    const struct hy_matrix matrix = {args->w, args->dtype, args->n, args->k, args->w_scales,
                                     args->group, false};
    const unsigned char *row =
        (const unsigned char *)args->w + j * hy_row_bytes(args->dtype, args->w_stride);
    floats w(args->k);
    if (hy_is_quantised(args->dtype))
        hy_ref_dequantise_row(&matrix, j, w.data());
    else
        hy_row_to_f32(row, args->dtype, w.data(), args->k);
    return w;
}

/*
 * How far each result may be from generic C's, whatever the order of its sum; args as generic C has
 * them, before the product. Let s be the sum of all magnitudes, of the products and of what they
 * are added to, and e = 2^-23.
 *
 * f32: every addition of either rounds to nearest, by e/2 of a partial sum, which is at most s:
 * together (k + 2) e s.
 *
 * 16 bits: tensor cores add b products and the sum so far at once. They shift all to the greatest
 * exponent and cut off what is below 24 bits, so that each of the b + 1 loses less than e s, and
 * cut the sum to f32, once more e s. b is 4 on sm_70, 8 on sm_80 and 16 on sm_90 (M. Fasi,
 * N. Higham, M. Mikaitis, S. Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer
 * Science 7:e330, 2021; F. Khattak, M. Mikaitis, Accurate models of NVIDIA tensor cores,
 * arXiv:2512.07004). With b of 4 or more that is (b + 2) k / b e s, at most 1.5 k e s, and
 * generic C's (k + 2) e/2 s beside it.
 */
static floats product_tolerances(const struct hy_matmul_args *args)
{
    const float rounding = args->rounded ? 2.0f : 1.0f;
    floats tolerances(args->m * args->y_stride), x(args->k);
    for (size_t j = 0; j < args->n; j++) {
        const floats w = column_of(args, j);
        for (size_t t = 0; t < args->m; t++) {
            float sum = args->accumulate ? fabsf(args->y[t * args->y_stride + j]) : 0.0f;
            const float *row = args->x + t * args->x_stride;
            if (args->rounded) {
                const uint16_t *data = (const uint16_t *)args->rounded->data;
                hy_row_to_f32(data + t * args->rounded->stride, HYMBA_DTYPE_BF16, x.data(),
                              args->k);
                row = x.data();
            }
            sum += args->bias ? fabsf(args->bias[j]) : 0.0f;
            for (size_t i = 0; i < args->k; i++)
                sum += fabsf(w[i] * row[i]);
            tolerances[t * args->y_stride + j] =
                rounding * (float)(args->k + 2) * 0x1p-23f * sum;
        }
    }
    return tolerances;
}

static void compare_product(bench &b, hymba_dtype dtype, bool rounded, size_t m)
{
    size_t n = 1 + b.below(40);
    size_t k = hy_is_quantised(dtype) ? 32 * (1 + b.below(20))
                                      : 32 * (1 + b.below(4)) - 8 * b.below(4);
    size_t stride = rounded ? hy_padded_row(k) : k + 4 * b.below(2), y_stride = n + b.below(5);
    struct weights w = some_weights(b, dtype, n, k);
    size_t room = b.coin() ? 0 : 1 + b.below(200);
    floats x = b.some(m * stride), bias = b.some(n), y = b.some(m * y_stride);
    x.resize((m + room) * stride, NAN);
    y.resize((m + room) * y_stride, NAN);
    std::vector<uint16_t> rows(x.size());
    hy_row_from_f32(x.data(), HYMBA_DTYPE_BF16, rows.data(), x.size());
    struct hy_rounded rounded_x = {};
    rounded_x.dtype = HYMBA_DTYPE_BF16;
    rounded_x.data = rows.data();
    rounded_x.stride = stride;
    float *on_device = b.put(y);
    y.resize(m * y_stride);
    struct hy_matmul_args args = {};
    args.x = x.data();
    args.x_stride = stride;
    args.rounded = rounded ? &rounded_x : NULL;
    args.m = m;
    args.n = n;
    args.k = k;
    args.w = w.data.data();
    args.dtype = dtype;
    args.w_stride = k;
    args.w_scales = w.scales.data();
    args.group = w.group;
    args.bias = b.coin() ? bias.data() : NULL;
    args.accumulate = b.coin();
    args.y = y.data();
    args.y_stride = y_stride;
    bytes narrow;
    if (rounded && hy_is_quantised(dtype)) {
        narrow = as_bf16(b, w, n, k);
        args.w = narrow.data();
        args.dtype = HYMBA_DTYPE_BF16;
    }
    const floats tolerances = product_tolerances(&args);
    hy_ref_matmul(&args, 0, n, NULL);
    args.dtype = dtype;
    args.room = room;
    args.x = b.put(x);
    rounded_x.data = b.put(rows);
    args.w = b.put(w.data);
    args.w_scales = b.put(w.scales);
    args.bias = args.bias ? b.put(bias) : NULL;
    args.y = on_device;
    b.ops->matmul(b.device, &args);
    b.agree("a product", b.get(args.y, m * y_stride), y, tolerances);
}

static void compare_products(bench &b)
{
    for (size_t m : {1 + b.below(30), (size_t)128, 129 + b.below(30)}) {
        for (hymba_dtype dtype : float_types)
            compare_product(b, dtype, false, m);
        compare_product(b, HYMBA_DTYPE_BF16, true, m);
        for (hymba_dtype dtype : {HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4})
            for (bool rounded : {false, true})
                compare_product(b, dtype, rounded, m);
    }
}

/* Rows alone or few, and the same rows among others in any place: bit by bit. */
static void compare_neighbours_of(bench &b, hymba_dtype dtype, size_t m, size_t n, size_t k)
{
    const size_t stride = hy_padded_row(k);
    floats x = b.some(m * stride);
    std::vector<uint16_t> rows(m * stride);
    for (size_t i = 0; i < x.size(); i++)
        x[i] = i % stride < k ? x[i] : 0.0f;
    hy_row_from_f32(x.data(), HYMBA_DTYPE_BF16, rows.data(), x.size());
    struct weights w = some_weights(b, dtype, n, k);
    struct hy_rounded rounded = {};
    rounded.dtype = HYMBA_DTYPE_BF16;
    uint16_t *rows_on_device = b.put(rows);
    float *x_on_device = b.put(x), *y = (float *)b.take(m * n * sizeof(float));
    rounded.data = rows_on_device;
    rounded.stride = stride;
    struct hy_matmul_args args = {};
    args.x = x_on_device;
    args.x_stride = stride;
    args.rounded = dtype == HYMBA_DTYPE_F32 ? NULL : &rounded;
    args.m = m;
    args.n = args.y_stride = n;
    args.k = args.w_stride = k;
    args.w = b.put(w.data);
    args.dtype = dtype;
    args.w_scales = b.put(w.scales);
    args.group = w.group;
    args.y = y;
    b.ops->matmul(b.device, &args);
    floats together = b.get((const float *)y, m * n);
    const struct {
        size_t row, count;
    } parts[] = {
        {0, 1},            {m - 1, 1},   {b.below(m), 1},         {m / 2 - 1, 2},
        {b.below(20), 12}, {m - 20, 20}, {b.below(m / 2), m / 5}, {m - m / 3, m / 3},
    };
    for (const auto &part : parts) {
        args.m = part.count;
        args.x = x_on_device + part.row * stride;
        args.room = b.coin() ? m - part.row - part.count : 0; /* which changes nothing */
        rounded.data = rows_on_device + part.row * stride;
        b.ops->matmul(b.device, &args);
        floats apart = b.get((const float *)y, part.count * n);
        if (memcmp(apart.data(), &together[part.row * n], apart.size() * sizeof(float)) != 0)
            b.fail("rows %zu to %zu have other bits apart than among %zu rows", part.row,
                   part.row + part.count - 1, m);
    }
}

static void compare_neighbours(bench &b)
{
    for (hymba_dtype dtype : {HYMBA_DTYPE_F32, HYMBA_DTYPE_BF16})
        compare_neighbours_of(b, dtype, 300, 24 + 8 * b.below(4), 256);
    for (hymba_dtype dtype : {HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4})
        compare_neighbours_of(b, dtype, 300, 24 + 8 * b.below(4), 1312);
    compare_neighbours_of(b, HYMBA_DTYPE_INT4, 40, 4100, 96);
}

/* The products of a layer of the 1.5B model, and its head; feed-forward columns as a rank of two
 * has them, too. */
static void compare_neighbours_of_model(bench &b)
{
    static const struct {
        size_t n, k;
    } shapes[] = {{8960, 1600}, {8000, 1600}, {132, 3200}, {3200, 100}, {1600, 3200}, {5504, 1600},
                  {1600, 5504}, {2752, 1600}, {1600, 2752}, {32001, 1600}};
    for (const auto &shape : shapes)
        compare_neighbours_of(b, HYMBA_DTYPE_BF16, 300, shape.n, shape.k);
    for (hymba_dtype dtype : {HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4}) {
        compare_neighbours_of(b, dtype, 300, 8960, 1600);
        compare_neighbours_of(b, dtype, 300, 1600, 5504);
    }
    compare_neighbours_of(b, HYMBA_DTYPE_F32, 300, 132, 3200);
    compare_neighbours_of(b, HYMBA_DTYPE_F32, 300, 1600, 3200);
}

/* --------------------------------------------------------------- sequences */

/* Segments that follow one another. */
static std::vector<struct hy_state_sequence> some_sequences(bench &b, size_t n_sequences,
                                                            size_t longest, size_t *rows)
{
    std::vector<struct hy_state_sequence> sequences(n_sequences);
    *rows = 0;
    for (struct hy_state_sequence &sequence : sequences) {
        sequence.segment.row = *rows;
        sequence.segment.n_rows = 1 + b.below(longest);
        *rows += sequence.segment.n_rows;
    }
    return sequences;
}

/* In place. */
static void place_states(struct hy_state_sequence &sequence, void *conv, void *ssm,
                         hymba_dtype dtype)
{
    sequence.conv_before = sequence.conv_after = conv;
    sequence.ssm_before = sequence.ssm_after = ssm;
    sequence.state_type = dtype;
}

static void compare_conv_of(bench &b, size_t n_sequences, size_t longest, bool rounds)
{
    size_t rows, n = 1 + b.below(40), width = 2 + b.below(4), old = (width - 1) * n;
    std::vector<struct hy_state_sequence> sequences =
        some_sequences(b, n_sequences, longest, &rows);
    size_t stride = n + b.below(5);
    floats x = b.some(rows * stride), weight = b.some(width * n), bias = b.some(n);
    floats y(rows * n), states = b.some(n_sequences * old);
    float *states_on_device = b.put(states);
    for (size_t i = 0; i < n_sequences; i++)
        place_states(sequences[i], &states[i * old], NULL, HYMBA_DTYPE_F32);
    struct hy_conv_args args = {x.data(), stride, weight.data(), bias.data(), n, width,
                                y.data(), n, sequences.data(), n_sequences, {}};
    struct rounded_rows rounded = some_rounded(b, rows, n);
    hy_ref_conv(&args, 0, n_sequences * n);
    for (size_t i = 0; i < n_sequences; i++)
        place_states(sequences[i], states_on_device + i * old, NULL, HYMBA_DTYPE_F32);
    args.x = b.put(x);
    args.weight = b.put(weight);
    args.bias = b.put(bias);
    args.y = (float *)b.take(y.size() * sizeof(float));
    if (rounds)
        args.rounded = rounded.on_device;
    b.ops->conv(b.device, &args);
    sequences.assign(n_sequences, {}); /* lists may change at once */
    b.agree("a convolution", b.get(args.y, y.size()), y, 1e-5f);
    if (rounds)
        agree_rounded(b, "a convolution", rounded, y, n, rows);
    b.agree("its state", b.get(states_on_device, states.size()), states, 0.0f);
}

static void compare_conv(bench &b)
{
    compare_conv_of(b, 1 + b.below(4), 60, false);
    compare_conv_of(b, 1 + b.below(4), 60, true);
    compare_conv_of(b, 300, 2, true);
}

static void compare_scan_of(bench &b, size_t n_sequences, size_t longest, size_t state_size)
{
    size_t rows, n = 1 + b.below(40), size = state_size * n;
    std::vector<struct hy_state_sequence> sequences =
        some_sequences(b, n_sequences, longest, &rows);
    floats dt = b.some(rows * n, 3.0f), x = b.some(rows * n), z = b.some(rows * n, 3.0f);
    floats bc = b.some(rows * 2 * state_size), a = b.some(size, 0.5f), d = b.some(n);
    floats y(rows * n), states = b.some(n_sequences * size);
    for (float &value : a)
        value -= 0.6f;
    float *states_on_device = b.put(states);
    for (size_t i = 0; i < n_sequences; i++)
        place_states(sequences[i], NULL, &states[i * size], HYMBA_DTYPE_F32);
    struct hy_scan_args args = {dt.data(), n, x.data(), n, z.data(), n, bc.data(),
                                bc.data() + state_size, 2 * state_size, a.data(), d.data(), n,
                                state_size, y.data(), n, sequences.data(), n_sequences};
    hy_ref_scan(&args, 0, n_sequences * n);
    for (size_t i = 0; i < n_sequences; i++)
        place_states(sequences[i], NULL, states_on_device + i * size, HYMBA_DTYPE_F32);
    args.dt = b.put(dt);
    args.x = b.put(x);
    args.z = b.put(z);
    args.b = b.put(bc);
    args.c = args.b + state_size;
    args.a = b.put(a);
    args.d = b.put(d);
    args.y = (float *)b.take(y.size() * sizeof(float));
    b.ops->scan(b.device, &args);
    sequences.assign(n_sequences, {});
    b.agree("a scan", b.get(args.y, y.size()), y, 2e-5f);
    b.agree("its state", b.get(states_on_device, states.size()), states, 2e-5f);
}

static void compare_scan(bench &b)
{
    compare_scan_of(b, 1 + b.below(3), 150, 16);
    compare_scan_of(b, 1 + b.below(4), 20, 1 + b.below(20));
    compare_scan_of(b, 200, 2, 16);
}

/* --------------------------------------------------------------- attention */

struct cached {
    std::vector<struct hy_span> spans;
    std::vector<bytes> data; /* of keys and values, in turn */
};

/* Keys [0, n_keys) in spans of random lengths, the first of meta tokens. */
static struct cached some_keys(bench &b, const struct hy_attention_args *args, size_t n_keys)
{
    struct cached cached;
    for (size_t position = 0; position < n_keys;) {
        struct hy_span span = {};
        span.position = position;
        span.count = 1 + b.below(hy_min_size(n_keys - position, 40));
        span.pinned = position == 0;
        for (size_t size : {args->qk_size, args->v_size}) {
            floats numbers = b.some(args->n_kv_heads * span.count * size);
            bytes rows(args->n_kv_heads * span.count
                       * hy_cache_row_bytes(args->cache_type, size));
            struct hy_cache_rows_args store = {
                numbers.data(), args->n_kv_heads * size, args->n_kv_heads, size, args->cache_type,
                rows.data(), span.count * hy_cache_row_bytes(args->cache_type, size)};
            hy_ref_cache_rows(&store, 0, span.count);
            cached.data.push_back(rows);
        }
        span.k_head_stride = span.count * hy_cache_row_bytes(args->cache_type, args->qk_size);
        span.v_head_stride = span.count * hy_cache_row_bytes(args->cache_type, args->v_size);
        position += span.count;
        cached.spans.push_back(span);
    }
    return cached;
}

static void compare_attention_of(bench &b, hymba_dtype cache_type, bool bf16, size_t n_sequences,
                                 size_t longest)
{
    struct hy_attention_args args = {};
    args.n_kv_heads = 1 + b.below(2);
    args.n_heads = args.n_kv_heads * (1 + b.below(5));
    args.qk_size = 16 * (1 + b.below(4));
    args.v_size = 2 * args.qk_size;
    args.scale = 0.2f;
    args.cache_type = cache_type;
    args.bf16 = bf16;
    std::vector<struct hy_attention_sequence> sequences(n_sequences);
    std::vector<struct cached> caches;
    size_t rows = 0;
    for (struct hy_attention_sequence &sequence : sequences) {
        sequence.segment.row = rows;
        sequence.segment.n_rows = 1 + b.below(longest);
        rows += sequence.segment.n_rows;
        sequence.position = b.below(100);
        sequence.window = b.coin() ? UINT64_MAX : b.below(40);
        size_t n_keys = sequence.position + sequence.segment.n_rows;
        args.max_keys = hy_max_size(args.max_keys, n_keys);
        caches.push_back(some_keys(b, &args, n_keys));
    }
    for (size_t i = 0; i < n_sequences; i++) {
        sequences[i].spans = caches[i].spans.data();
        sequences[i].n_spans = caches[i].spans.size();
        for (size_t s = 0; s < caches[i].spans.size(); s++) {
            caches[i].spans[s].k = caches[i].data[2 * s].data();
            caches[i].spans[s].v = caches[i].data[2 * s + 1].data();
        }
    }
    args.q_stride = args.n_heads * args.qk_size;
    args.out_stride = args.n_heads * args.v_size;
    floats q = b.some(rows * args.q_stride), out(rows * args.out_stride);
    floats scratch(hy_attention_scratch(&args));
    args.q = q.data();
    args.out = out.data();
    args.sequences = sequences.data();
    args.n_sequences = n_sequences;
    hy_ref_attention(&args, 0, rows * args.n_heads, scratch.data());
    for (struct cached &cached : caches)
        for (size_t s = 0; s < cached.spans.size(); s++) {
            cached.spans[s].k = b.put(cached.data[2 * s]);
            cached.spans[s].v = b.put(cached.data[2 * s + 1]);
        }
    args.q = b.put(q);
    args.out = (float *)b.take(out.size() * sizeof(float));
    b.ops->attention(b.device, &args, rows);
    for (struct cached &cached : caches)
        cached.spans.assign(cached.spans.size(), {});
    b.agree("attention", b.get(args.out, out.size()), out, bf16 ? 1e-2f : 1e-4f);
}

static void compare_attention(bench &b)
{
    for (hymba_dtype type : {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                             HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8}) {
        compare_attention_of(b, type, false, 1 + b.below(3), 3);
        compare_attention_of(b, type, false, 1 + b.below(3), 60);
    }
    for (hymba_dtype type : {HYMBA_DTYPE_BF16, HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8}) {
        compare_attention_of(b, type, true, 2, 60);
        compare_attention_of(b, type, true, 40, 2);
    }
}

/*
 * Enough rows for large tiles on tensor cores, of sequences that share their keys: near generic C,
 * and bit by bit what a sequence alone gives, in small tiles.
 */
static void compare_attention_tiles(bench &b)
{
    enum { SEQUENCES = 140, HEADS = 10, KV_HEADS = 2, QK = 64, V = 128, KEYS = 60 };
    std::vector<uint16_t> k(KV_HEADS * KEYS * QK), v(KV_HEADS * KEYS * V);
    hy_row_from_f32(b.some(k.size()).data(), HYMBA_DTYPE_BF16, k.data(), k.size());
    hy_row_from_f32(b.some(v.size()).data(), HYMBA_DTYPE_BF16, v.data(), v.size());
    struct hy_span span = {k.data(), v.data(), KEYS * QK * 2, KEYS * V * 2, 0, KEYS, false};
    std::vector<struct hy_attention_sequence> sequences(SEQUENCES);
    size_t rows = 0;
    for (size_t i = 0; i < SEQUENCES; i++) {
        sequences[i] = {{rows, 9 + b.below(6)}, b.below(45), b.coin() ? UINT64_MAX : 20, &span, 1};
        rows += sequences[i].segment.n_rows;
    }
    floats q = b.some(rows * HEADS * QK), out(rows * HEADS * V);
    struct hy_attention_args args = {};
    args.q = q.data();
    args.q_stride = HEADS * QK;
    args.out = out.data();
    args.out_stride = HEADS * V;
    args.n_heads = HEADS;
    args.n_kv_heads = KV_HEADS;
    args.qk_size = QK;
    args.v_size = V;
    args.scale = 0.125f;
    args.cache_type = HYMBA_DTYPE_BF16;
    args.bf16 = true;
    args.sequences = sequences.data();
    args.n_sequences = SEQUENCES;
    args.max_keys = KEYS;
    floats scratch(hy_attention_scratch(&args));
    hy_ref_attention(&args, 0, rows * HEADS, scratch.data());
    const float *q_on_device = b.put(q);
    span.k = b.put(k);
    span.v = b.put(v);
    args.q = q_on_device;
    args.out = (float *)b.take(out.size() * sizeof(float));
    b.ops->attention(b.device, &args, rows);
    const floats together = b.get(args.out, out.size());
    b.agree("attention in large tiles", together, out, 1e-2f);
    for (size_t i : {(size_t)0, b.below(SEQUENCES), (size_t)SEQUENCES - 1}) {
        struct hy_attention_sequence alone = sequences[i];
        alone.segment.row = 0;
        args.q = q_on_device + sequences[i].segment.row * HEADS * QK;
        args.sequences = &alone;
        args.n_sequences = 1;
        b.ops->attention(b.device, &args, alone.segment.n_rows);
        const floats apart = b.get(args.out, alone.segment.n_rows * HEADS * V);
        if (memcmp(apart.data(), &together[sequences[i].segment.row * HEADS * V],
                   apart.size() * sizeof(float)) != 0)
            b.fail("attention of sequence %zu has other bits alone than among %u others", i,
                   SEQUENCES - 1u);
    }
}

/* ---------------------------------------------------------------- sampling */

static std::vector<struct hy_sample_change> some_changes(bench &b, size_t n_logits)
{
    std::vector<struct hy_sample_change> changes;
    for (size_t token = b.below(3); token < n_logits; token += 1 + b.below(40))
        changes.push_back({(int32_t)token, b.coin() ? (float)b.below(5) - 2 : 0,
                           b.coin() ? (uint32_t)b.below(4) : 0});
    return changes;
}

static struct hy_sample_row some_row(bench &b,
                                     const std::vector<struct hy_sample_change> &changes)
{
    static const float shares[] = {0.1f, 0.6f, 0.95f, 0.9999f};
    struct hy_sample_row row = {};
    row.changes = changes.data();
    row.n_changes = changes.size();
    row.draw = (double)b.below(1 << 20) / (1 << 20);
    row.greedy = b.below(6) == 0;
    row.top_k = 1 + (int32_t)b.below(b.coin() ? 60 : 3000);
    row.top_p = shares[b.below(4)];
    row.min_p = shares[b.below(4)] * 0.1f;
    row.temperature = 0.3f + (float)b.below(20) * 0.1f;
    row.repeat_penalty = b.coin() ? 1.3f : 0;
    row.presence_penalty = (float)b.below(3) * 0.25f;
    row.frequency_penalty = (float)b.below(3) * 0.125f;
    for (int32_t stage = HY_SAMPLE_TOP_K; stage <= HY_SAMPLE_TEMPERATURE; stage++)
        if (b.coin())
            row.stages[row.n_stages++] = stage;
    return row;
}

/* The very same tokens. */
static void compare_sample_of(bench &b, size_t n_logits, size_t n_rows, float scale)
{
    const size_t stride = n_logits + b.below(3);
    floats logits = b.some(n_rows * stride, scale);
    std::vector<std::vector<struct hy_sample_change>> changes;
    std::vector<struct hy_sample_row> rows;
    std::vector<struct hy_candidate> items(n_logits);
    std::vector<int32_t> expected(n_rows);
    for (float &logit : logits)
        logit = b.below(50) == 0 ? -INFINITY : b.coin() ? logit : floorf(logit);
    logits[(n_rows - 1) * stride] = NAN;
    for (size_t i = 0; i < n_rows; i++) {
        changes.push_back(some_changes(b, n_logits));
        rows.push_back(some_row(b, changes.back()));
        rows.back().row = n_rows - 1 - i;
        expected[i] = hy_sample_row_plainly(&rows[i], logits.data() + rows[i].row * stride,
                                            n_logits, items.data());
    }
    int32_t *tokens = b.put(std::vector<int32_t>(n_rows, -7));
    struct hy_sample_args args = {b.put(logits), stride, n_logits, rows.data(), n_rows, tokens};
    b.ops->sample(b.device, &args);
    rows.assign(rows.size(), {}); /* lists may be gone when the call has returned */
    for (auto &list : changes)
        list.assign(list.size(), {});
    const std::vector<int32_t> actual = b.get(tokens, n_rows);
    for (size_t i = 0; i < n_rows; i++)
        if (actual[i] != expected[i])
            b.fail("sample: row %zu of %zu logits has token %d, generic C has %d", i, n_logits,
                   (int)actual[i], (int)expected[i]);
}

static void compare_sample(bench &b)
{
    compare_sample_of(b, 1 + b.below(600), 40, 8);
    compare_sample_of(b, 5000, 20, 12);
    compare_sample_of(b, 32001, 4, 4);
}

/* ------------------------------------------------------------------ choice */

static void compare_narrow(bench &b)
{
    const char *message = compare_8_bits(b.ops, b.device, (unsigned)b.below(1u << 30));
    if (message)
        b.fail("%s", message);
}

static const struct {
    const char *name;
    void (*compare)(bench &b);
} comparisons[] = {
    {"copy, fill", compare_copies},
    {"large copies", compare_large_copies},
    {"copy lists", compare_copy_list},
    {"convert", compare_convert},
    {"embed", compare_embed},
    {"rms_norm", compare_rms_norm},
    {"norm_parts", compare_norm_parts},
    {"round", compare_round},
    {"rope_store", compare_rope_store},
    {"fuse", compare_fuse},
    {"sums of squares", compare_square_sums},
    {"swiglu", compare_swiglu},
    {"matmul", compare_products},
    {"matmul, bits of rows", compare_neighbours},
    {"conv", compare_conv},
    {"scan", compare_scan},
    {"attention", compare_attention},
    {"attention, large tiles", compare_attention_tiles},
    {"sample", compare_sample},
    {"8 bits", compare_narrow},
    /* what takes long under the harness stands at the end */
    {"matmul, bits of rows, 1.5B", compare_neighbours_of_model},
};
enum { N_COMPARISONS = sizeof comparisons / sizeof comparisons[0], N_LONG_ONES = 1 };

size_t compare_count()
{
    return N_COMPARISONS - N_LONG_ONES;
}

size_t compare_count_of_device()
{
    return N_COMPARISONS;
}

const char *compare_name(size_t number)
{
    return comparisons[number].name;
}

const char *compare_op(size_t number, const struct hy_device_ops *ops, struct hy_device *device,
                       unsigned seed)
{
    static char message[512];
    bench b(ops, device, seed);
    comparisons[number].compare(b);
    b.finish();
    memcpy(message, b.message, sizeof message);
    return message[0] ? message : NULL;
}
