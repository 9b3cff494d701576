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

void hy_ref_cache_rows(const struct hy_cache_rows_args *args, size_t begin, size_t end)
{
    size_t element = hy_dtype_size(args->dtype);
    for (size_t t = begin; t < end; t++) {
        for (size_t head = 0; head < args->n_heads; head++) {
            const float *x = args->x + t * args->x_stride + head * args->head_size;
            size_t index = head * args->head_stride + t * args->head_size;
            hy_row_from_f32(x, args->dtype, (unsigned char *)args->y + index * element,
                            args->head_size);
        }
    }
}
