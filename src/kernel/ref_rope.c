#include "kernel/ref.h"

void hy_ref_rope(const struct hy_rope_args *args, size_t begin, size_t end)
{
    size_t half = args->head_size / 2;
    for (size_t t = begin; t < end; t++) {
        const float *cosine = args->cosine + t * half;
        const float *sine = args->sine + t * half;
        for (size_t head = 0; head < args->n_heads; head++) {
            float *x = args->x + t * args->x_stride + head * args->head_size;
            for (size_t j = 0; j < half; j++) {
                float low = x[j], high = x[j + half];
                x[j] = low * cosine[j] - high * sine[j];
                x[j + half] = high * cosine[j] + low * sine[j];
            }
        }
    }
}

/* See hy_cache_row_bytes. */
static void row_to_bytes(const float *x, size_t n, hymba_dtype dtype, unsigned char *y)
{
    float most = hy_cache_greatest(dtype), greatest = hy_ref_greatest(x, n);
    float scale = greatest / most;
    bool usable = hy_can_round(greatest);
    float factor = usable ? most / greatest : 0.0f;
    for (size_t i = 0; i < n; i++) {
        float value = usable ? x[i] * factor : 0.0f;
        y[i] = dtype == HYMBA_DTYPE_FP8 ? hy_f32_to_fp8(value)
                                        : (unsigned char)(signed char)rintf(value);
    }
    memcpy(y + n, &scale, sizeof scale);
}

void hy_ref_cache_rows(const struct hy_cache_rows_args *args, size_t begin, size_t end)
{
    size_t row_bytes = hy_cache_row_bytes(args->dtype, args->head_size);
    for (size_t t = begin; t < end; t++) {
        for (size_t head = 0; head < args->n_heads; head++) {
            const float *x = args->x + t * args->x_stride + head * args->head_size;
            unsigned char *y = (unsigned char *)args->y + head * args->head_stride + t * row_bytes;
            if (hy_cache_greatest(args->dtype) != 0.0f)
                row_to_bytes(x, args->head_size, args->dtype, y);
            else
                hy_row_from_f32(x, args->dtype, y, args->head_size);
        }
    }
}
