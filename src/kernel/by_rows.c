#include "kernel/by_rows.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "kernel/ref.h"

enum { BLOCK = 256 };

float hy_round_by_rows(const float *x, size_t n, hymba_dtype dtype, void *y)
{
    unsigned char *bytes = y;
    float greatest = hy_ref_greatest(x, n), most = hy_greatest_of_8_bits(dtype);
    bool usable = hy_can_round(greatest);
    float factor = usable ? most / greatest : 0.0f;
    for (size_t i = 0; i < n && usable; i++)
        bytes[i] = dtype == HYMBA_DTYPE_FP8 ? hy_f32_to_fp8(x[i] * factor)
                                            : (unsigned char)(int8_t)rintf(x[i] * factor);
    memset(bytes + (usable ? n : 0), 0, hy_padded_row(n) - (usable ? n : 0));
    return greatest / most;
}

static float dot_int8(const unsigned char *x, const unsigned char *w, size_t n)
{
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (int8_t)x[i] * (int8_t)w[i];
    return (float)sum;
}

static void load_fp8(const unsigned char *bytes, size_t n, float *values)
{
    for (size_t i = 0; i < n; i++)
        values[i] = hy_fp8_to_f32(bytes[i]);
}

static float dot_fp8(const unsigned char *x, const unsigned char *w, size_t n)
{
    float sum = 0.0f, x_values[BLOCK], w_values[BLOCK];
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t count = hy_min_size(n - i, BLOCK);
        load_fp8(x + i, count, x_values);
        load_fp8(w + i, count, w_values);
        sum += hy_ref_dot(x_values, w_values, count);
    }
    return sum;
}

void hy_matmul_by_rows(const struct hy_matmul_args *args, size_t begin, size_t end)
{
    const unsigned char *x = args->rounded->data, *weights = args->w;
    const float *scales = args->w_scales;
    for (size_t j = begin; j < end; j++) {
        const unsigned char *w = weights + j * args->w_stride;
        for (size_t t = 0; t < args->m; t++) {
            const unsigned char *row = x + t * args->rounded->stride;
            float *y = args->y + t * args->y_stride + j;
            float sum = args->dtype == HYMBA_DTYPE_FP8 ? dot_fp8(row, w, args->k)
                                                       : dot_int8(row, w, args->k);
            float start = args->bias ? args->bias[j] : 0.0f;
            start = args->accumulate ? *y + start : start;
            *y = start + sum * (scales[j] * args->rounded->scales[t]);
        }
    }
}
