/* Quantised weights (kernel.h, hy_matrix) on the device: eight neighbours at a time. */
#ifndef HYMBA_CUDA_QUANTISED_H
#define HYMBA_CUDA_QUANTISED_H

#include "kernel/kernel.h"
#include "portable.h"

/* They have one scale, for a group is a multiple of 32. */
enum { HY_EIGHT = 8 };

/* Elements i .. i + 7 of a row, i being a multiple of 8: what generic C has, bit by bit. The matrix
 * lies at a multiple of 8 bytes and has less than 2^32 columns. Reads 8 bytes, or 4 of INT4, and a
 * scale of 2. */
template <int DTYPE>
HY_DEVICE void hy_load_eight(const struct hy_matrix &w, size_t row, unsigned i,
                             float (&values)[HY_EIGHT])
{
    const unsigned columns = (unsigned)w.columns, group = (unsigned)w.group;
    const uint16_t *scales = (const uint16_t *)w.scales + row * (columns / group);
    const float scale = hy_from_bf16(hy_load(scales + i / group));
    if (DTYPE == HYMBA_DTYPE_INT4) {
        const unsigned char *data = (const unsigned char *)w.data + (row * columns + i) / 2;
        const uint32_t word = hy_load((const uint32_t *)data);
#pragma unroll
        for (unsigned e = 0; e < HY_EIGHT; e++)
            values[e] = (float)((int)(word >> 4 * e & 15) - 8) * scale;
        return;
    }
    const uint2 words = hy_load((const uint2 *)((const unsigned char *)w.data + row * columns + i));
#pragma unroll
    for (unsigned e = 0; e < HY_EIGHT; e++) {
        const uint32_t word = e < 4 ? words.x : words.y;
        values[e] = (float)((int)(word >> 8 * (e % 4) & 255) - 128) * scale;
    }
}

/* y lies at a multiple of 16 bytes. */
HY_DEVICE void hy_store_eight(float *y, const float (&values)[HY_EIGHT])
{
    hy_store((float4 *)y, make_float4(values[0], values[1], values[2], values[3]));
    hy_store((float4 *)y + 1, make_float4(values[4], values[5], values[6], values[7]));
}

#endif
