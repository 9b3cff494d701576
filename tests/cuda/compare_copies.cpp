#include "compare_parts.h"

void compare_copies(bench &b)
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
void compare_large_copies(bench &b)
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

void compare_copy_list(bench &b)
{
    compare_copy_list_of(b, 1 + b.below(3));
    compare_copy_list_of(b, 20 + b.below(40));
}

void compare_convert(bench &b)
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
