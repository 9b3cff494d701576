#include "compare_8bit.h"

extern "C" {
#include "kernel/by_rows.h"
#include "kernel/ref.h"
}

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <random>
#include <vector>

typedef std::vector<float> floats;
typedef std::vector<unsigned char> bytes;

static const hymba_dtype dtypes[] = {HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8};

/* What a comparison works with, and the first disagreement it finds. */
struct narrow_bench {
    const struct hy_device_ops *ops;
    struct hy_device *device;
    std::mt19937 random;
    std::vector<void *> taken;
    char message[256];

    size_t below(size_t n)
    {
        return random() % n;
    }
    floats some(size_t n)
    {
        floats values(n);
        for (float &value : values)
            value = (float)(random() % 20001) / 10000.0f - 1.0f;
        return values;
    }
    template <typename T> T *put(const std::vector<T> &values)
    {
        const size_t size = values.size() * sizeof(T);
        T *data = (T *)ops->allocate(device, size);
        struct hy_copy_args args = {HY_COPY_TO_DEVICE, data, size, values.data(), size, size, 1};
        taken.push_back(data);
        ops->copy(device, &args);
        return data;
    }
    template <typename T> std::vector<T> get(const T *data, size_t n)
    {
        std::vector<T> values(n);
        hymba_error error = {};
        struct hy_copy_args args = {HY_COPY_TO_HOST, values.data(), n * sizeof(T), data,
                                    n * sizeof(T),   n * sizeof(T), 1};
        error.struct_size = sizeof error;
        ops->copy(device, &args);
        if (ops->finish(device, &error) != HYMBA_OK && !message[0])
            snprintf(message, sizeof message, "%.200s", error.message);
        return values;
    }
    void disagree(const char *what, size_t place, double actual, double expected)
    {
        if (!message[0])
            snprintf(message, sizeof message, "%s: number %zu is %.9g, generic C has %.9g", what,
                     place, actual, expected);
    }
};

/* Rows of f32 that the device wrote, as it rounded them and as generic C does. */
static void compare_rounded(narrow_bench &b, const char *what, const struct hy_rounded &rounded,
                            const floats &y, size_t rows, size_t n)
{
    const bytes actual = b.get((const unsigned char *)rounded.data, rows * rounded.stride);
    const floats scales = b.get((const float *)rounded.scales, rows);
    bytes expected(hy_padded_row(n));
    for (size_t t = 0; t < rows; t++) {
        const float scale = hy_round_by_rows(&y[t * n], n, rounded.dtype, expected.data());
        if (scales[t] != scale)
            b.disagree(what, t, (double)scales[t], (double)scale);
        for (size_t i = 0; i < expected.size(); i++)
            if (actual[t * rounded.stride + i] != expected[i])
                b.disagree(what, t * n + i, actual[t * rounded.stride + i], expected[i]);
    }
}

static struct hy_rounded some_rounded(narrow_bench &b, hymba_dtype dtype, size_t rows, size_t n)
{
    struct hy_rounded rounded = {};
    rounded.dtype = dtype;
    rounded.stride = hy_padded_row(n) + 32 * b.below(2);
    rounded.data = b.put(bytes(rows * rounded.stride, 0x5a));
    rounded.scales = b.put(floats(rows, -1.0f));
    rounded.group = n;
    return rounded;
}

/* Norm, fusion, SwiGLU and rounding alone, with the f32 rows beside the rounded ones. */
static void compare_rows(narrow_bench &b, hymba_dtype dtype)
{
    const size_t rows = 1 + b.below(9), n = 1 + b.below(b.below(2) ? 300 : 5000);
    const bool concat = b.below(2) == 1;
    const size_t width = concat ? 2 * n : n;
    const floats x = b.some(rows * n);
    const float *first = b.put(x), *second = b.put(b.some(rows * n));
    const float *weight = b.put(b.some(n)), *other = b.put(b.some(n));
    float *y = b.put(floats(rows * width));
    const struct hy_rounded rounded = some_rounded(b, dtype, rows, n);
    const struct hy_rounded wide = some_rounded(b, dtype, rows, width);
    struct hy_round_args round = {first, n, n, rounded};
    struct hy_rms_norm_args norm = {first, n, weight, n, 1e-6f, y, n, rounded};
    struct hy_fuse_args fuse = {first,  n, second, n,     weight, other, n,
                                1e-6f, concat, y,  width, wide,   NULL,  n};
    struct hy_swiglu_args swiglu = {first, n, second, n, n, y, n, rounded};
    b.ops->round(b.device, &round, rows);
    compare_rounded(b, "rounded rows", rounded, x, rows, n);
    b.ops->rms_norm(b.device, &norm, rows);
    compare_rounded(b, "a rounded norm", rounded, b.get((const float *)y, rows * n), rows, n);
    b.ops->fuse(b.device, &fuse, rows);
    compare_rounded(b, "a rounded fusion", wide, b.get((const float *)y, rows * width), rows,
                    width);
    b.ops->swiglu(b.device, &swiglu, rows);
    compare_rounded(b, "a rounded gate", rounded, b.get((const float *)y, rows * n), rows, n);
}

/* Rows of f32 as a product has them. */
struct narrow {
    bytes data;
    floats scales;
    narrow(const floats &x, size_t rows, size_t n, hymba_dtype dtype)
        : data(hy_weight_rows(rows) * hy_padded_row(n)), scales(rows)
    {
        for (size_t t = 0; t < rows; t++)
            scales[t] = hy_round_by_rows(&x[t * n], n, dtype, &data[t * hy_padded_row(n)]);
    }
};

/* The sum of all magnitudes of a product of fp8. */
static double magnitude_of(const narrow &x, size_t t, const narrow &w, size_t j, size_t k)
{
    const size_t stride = hy_padded_row(k);
    double sum = 0.0;
    for (size_t i = 0; i < k; i++)
        sum += fabs((double)hy_fp8_to_f32(x.data[t * stride + i])
                    * (double)hy_fp8_to_f32(w.data[j * stride + i]));
    return sum * (double)x.scales[t] * (double)w.scales[j];
}

/*
 * Products of int8 have generic C's bits. Sums of fp8 are less exact than f32 on tensor cores: those
 * of sm_90 keep some 14 bits of what they add at once (DeepSeek-AI, DeepSeek-V3 technical report,
 * arXiv:2412.19437, 3.3.2), and cuBLASLt carries them on in f32 now and then. Where 32 products and
 * the sum so far are cut off behind 13 bits of the greatest among them, that loses less than
 * 33 * 2^-13, some 2^-8, of the greatest, which is mostly far below the sum of all magnitudes: 2^-8
 * of that sum is allowed. It finds wrong scales and numbers in wrong places, not a lost bit.
 */
static void compare_product(narrow_bench &b, hymba_dtype dtype, size_t m)
{
    const size_t n = 1 + b.below(60), k = 1 + b.below(400), room = b.below(2) * 128;
    const size_t y_stride = n + b.below(5), stride = hy_padded_row(k);
    const narrow x(b.some(m * k), m, k, dtype), w(b.some(n * k), n, k, dtype);
    const floats bias = b.some(n);
    floats y = b.some((m + room) * y_stride);
    bytes rows(x.data.begin(), x.data.begin() + (ptrdiff_t)(m * stride));
    rows.resize((m + room) * stride, 0xff);
    struct hy_rounded rounded = {};
    rounded.dtype = dtype;
    rounded.data = rows.data();
    rounded.stride = stride;
    rounded.scales = const_cast<float *>(x.scales.data());
    rounded.group = k;
    struct hy_matmul_args args = {};
    args.rounded = &rounded;
    args.m = m;
    args.n = n;
    args.k = args.group = k;
    args.w = w.data.data();
    args.dtype = dtype;
    args.w_stride = stride;
    args.w_scales = w.scales.data();
    args.bias = b.below(2) ? bias.data() : NULL;
    args.accumulate = b.below(2) == 1;
    args.y_stride = y_stride;
    args.by_rows = true;
    float *on_device = b.put(y);
    args.y = y.data();
    hy_matmul_by_rows(&args, 0, n);
    rounded.data = b.put(rows);
    rounded.scales = b.put(x.scales);
    args.w = b.put(w.data);
    args.w_scales = b.put(w.scales);
    args.bias = args.bias ? b.put(bias) : NULL;
    args.y = on_device;
    args.room = room;
    b.ops->matmul(b.device, &args);
    const floats actual = b.get((const float *)on_device, m * y_stride);
    for (size_t place = 0; place < actual.size(); place++) {
        const size_t t = place / y_stride, j = place % y_stride;
        double allowed = 0.0;
        if (dtype == HYMBA_DTYPE_FP8 && j < n)
            allowed = 0x1p-8 * magnitude_of(x, t, w, j, k) + 0x1p-22 * fabs((double)y[place]);
        if (!(fabs((double)actual[place] - (double)y[place]) <= allowed))
            b.disagree(dtype == HYMBA_DTYPE_INT8 ? "an int8 product" : "an fp8 product", place,
                       (double)actual[place], (double)y[place]);
    }
}

/* Whether the device multiplies fp8; its name ends with "sm_90" or the like. */
static bool has_fp8(narrow_bench &b)
{
    struct hy_device_info info = {};
    int capability = 0;
    info.struct_size = sizeof info;
    b.ops->get_info(b.device, &info);
    const char *found = strstr(info.name, "sm_");
    return found && sscanf(found, "sm_%d", &capability) == 1 && capability >= 89;
}

const char *compare_8_bits(const struct hy_device_ops *ops, struct hy_device *device,
                           unsigned seed)
{
    static char message[256];
    narrow_bench b = {ops, device, std::mt19937(seed), {}, ""};
    for (hymba_dtype dtype : dtypes) {
        compare_rows(b, dtype);
        for (size_t m : {1 + b.below(30), (size_t)128, 129 + b.below(30)})
            if (dtype == HYMBA_DTYPE_INT8 || has_fp8(b))
                compare_product(b, dtype, m);
    }
    for (void *data : b.taken)
        ops->release(device, data);
    memcpy(message, b.message, sizeof message);
    return message[0] ? message : NULL;
}
