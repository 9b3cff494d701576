/* What the generic kernels share. They are the oracle: plain loops in plain C. */
#ifndef HY_KERNEL_REF_H
#define HY_KERNEL_REF_H

#include <math.h>

#include "kernel/kernel.h"

void hy_ref_embed(const struct hy_embed_args *args, size_t begin, size_t end);
void hy_ref_rms_norm(const struct hy_rms_norm_args *args, size_t begin, size_t end);
void hy_ref_matmul(const struct hy_matmul_args *args, size_t begin, size_t end, void *scratch);
void hy_ref_round(const struct hy_round_args *args, size_t begin, size_t end);

/* The greatest magnitude; NaN if there is one. */
float hy_ref_greatest(const float *x, size_t n);

/* A row of a quantised matrix as f32. */
void hy_ref_dequantise_row(const struct hy_matrix *matrix, size_t row, float *y);
void hy_ref_rope(const struct hy_rope_args *args, size_t begin, size_t end);
void hy_ref_cache_rows(const struct hy_cache_rows_args *args, size_t begin, size_t end);
void hy_ref_attention(const struct hy_attention_args *args, size_t begin, size_t end,
                      float *scratch);
void hy_ref_conv(const struct hy_conv_args *args, size_t begin, size_t end);
void hy_ref_scan(const struct hy_scan_args *args, size_t begin, size_t end);
void hy_ref_fuse(const struct hy_fuse_args *args, size_t begin, size_t end);
void hy_ref_square_sums(const struct hy_square_sums_args *args, size_t begin, size_t end);
void hy_ref_swiglu(const struct hy_swiglu_args *args, size_t begin, size_t end);

/* hy_load_element, inline: the generic kernels spend their time here. */
static inline float hy_ref_load(const void *data, hymba_dtype dtype, size_t index)
{
    if (dtype == HYMBA_DTYPE_F32) {
        float value;
        memcpy(&value, (const unsigned char *)data + 4 * index, sizeof value);
        return value;
    }
    uint16_t half;
    memcpy(&half, (const unsigned char *)data + 2 * index, sizeof half);
    return dtype == HYMBA_DTYPE_F16 ? hy_f16_to_f32(half) : hy_bf16_to_f32(half);
}

/* The integer that element index of a row of quantised weights stands for, without its scale. */
static inline float hy_ref_load_quantised(const unsigned char *row, hymba_dtype dtype, size_t index)
{
    if (dtype == HYMBA_DTYPE_INT8)
        return (float)((int)row[index] - 128);
    return (float)((row[index / 2] >> (index % 2 * 4) & 15) - 8);
}

/* Sum of a[i] * b[i]. Eight partial sums keep the rounding error of long sums small. */
static inline float hy_ref_dot(const float *a, const float *b, size_t n)
{
    float s[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t lane = 0; lane < 8; lane++)
            s[lane] += a[i + lane] * b[i + lane];
    for (; i < n; i++)
        s[i % 8] += a[i] * b[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static inline float hy_ref_silu(float v)
{
    return v / (1.0f + expf(-v));
}

#endif
