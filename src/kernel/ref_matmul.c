#include "base/checked.h"
#include "kernel/ref.h"

enum { BLOCK = 256 };

/*
 * Column j for all rows: y[t][j] starts from bias and old value and takes up the sum block by
 * block of k, so that each piece of the weight row is converted once for all rows of x.
 */
static void column(const struct hy_matmul_args *args, size_t j)
{
    const unsigned char *row = (const unsigned char *)args->w
                               + j * args->w_stride * hy_dtype_size(args->dtype);
    float start = args->bias ? args->bias[j] : 0.0f;
    for (size_t t = 0; t < args->m; t++) {
        float *y = args->y + t * args->y_stride + j;
        *y = args->accumulate ? *y + start : start;
    }
    for (size_t i = 0; i < args->k; i += BLOCK) {
        float w[BLOCK];
        size_t count = hy_min_size(args->k - i, BLOCK);
        for (size_t index = 0; index < count; index++)
            w[index] = hy_ref_load(row, args->dtype, i + index);
        for (size_t t = 0; t < args->m; t++) {
            const float *x = args->x + t * args->x_stride + i;
            args->y[t * args->y_stride + j] += hy_ref_dot(x, w, count);
        }
    }
}

void hy_ref_matmul(const struct hy_matmul_args *args, size_t begin, size_t end)
{
    for (size_t j = begin; j < end; j++)
        column(args, j);
}
