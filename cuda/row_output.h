/* Where kernels of rows put their results: as f32, rounded to bf16, or both. */
#ifndef HYMBA_CUDA_ROW_OUTPUT_H
#define HYMBA_CUDA_ROW_OUTPUT_H

#include "element.h"

/* A rounded row has a multiple of so many elements; those behind its last one are 0. */
enum { HY_ROUNDED_STEP = 32 };

struct hy_row_output {
    float *y;          /* NULL: none */
    uint16_t *rounded; /* NULL: none */
};

/* Row t of y, where there is one, and of the rounded rows. */
HY_DEVICE struct hy_row_output hy_output_of_row(float *y, size_t y_stride,
                                                const struct hy_rounded &rounded, size_t t)
{
    struct hy_row_output output = {y, static_cast<uint16_t *>(rounded.data)};
    if (output.y)
        output.y += t * y_stride;
    if (output.rounded)
        output.rounded += t * rounded.stride;
    return output;
}

HY_DEVICE void hy_store_result(const struct hy_row_output &output, size_t i, float value)
{
    if (output.y)
        hy_store(output.y + i, value);
    if (output.rounded)
        hy_store(output.rounded + i, hy_to_bf16(value));
}

/* Elements of a rounded row of n. */
HY_DEVICE size_t hy_rounded_width(size_t n)
{
    return (n + HY_ROUNDED_STEP - 1) / HY_ROUNDED_STEP * HY_ROUNDED_STEP;
}

/* The zeros behind a row of n elements, by a block that reaches this once for the row. */
HY_DEVICE void hy_end_row(const struct hy_row_output &output, size_t n)
{
    const size_t i = n + hy_thread();
    if (output.rounded && i < hy_rounded_width(n))
        hy_store(output.rounded + i, (uint16_t)0);
}

#endif
