#include "compare_bench.h"

extern "C" {
#include "kernel/ref.h"
}

struct weights some_weights(bench &b, hymba_dtype dtype, size_t n, size_t k)
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

struct rounded_rows some_rounded(bench &b, size_t rows, size_t n)
{
    struct rounded_rows rounded = {n, hy_padded_row(n) + 32 * b.below(2), {}, {}};
    rounded.expected.assign(rows * rounded.stride, 0x5555);
    rounded.on_device.dtype = HYMBA_DTYPE_BF16;
    rounded.on_device.data = b.put(rounded.expected);
    rounded.on_device.stride = rounded.stride;
    return rounded;
}

void agree_rounded(bench &b, const char *what, struct rounded_rows &rounded, const floats &x,
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
