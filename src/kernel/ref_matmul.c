#include "base/checked.h"
#include "kernel/by_rows.h"
#include "kernel/ref.h"

enum { BLOCK = 256 };

static const unsigned char *weight_row(const struct hy_matmul_args *args, size_t j)
{
    return (const unsigned char *)args->w + j * hy_row_bytes(args->dtype, args->w_stride);
}

static float *output(const struct hy_matmul_args *args, size_t t, size_t j)
{
    return args->y + t * args->y_stride + j;
}

/* y[t][j] before the sum: bias and old value. */
static void start_column(const struct hy_matmul_args *args, size_t j)
{
    float start = args->bias ? args->bias[j] : 0.0f;
    for (size_t t = 0; t < args->m; t++) {
        float *y = output(args, t, j);
        *y = args->accumulate ? *y + start : start;
    }
}

/* count weights of row j from i on, as f32. */
static void load_weights(const struct hy_matmul_args *args, size_t j, size_t i, size_t count,
                         float *w)
{
    const unsigned char *row = weight_row(args, j);
    for (size_t index = 0; index < count; index++)
        w[index] = hy_is_quantised(args->dtype)
                       ? hy_ref_load_quantised(row, args->dtype, i + index)
                             * hy_ref_load(args->w_scales, HYMBA_DTYPE_BF16,
                                           (j * args->w_stride + i + index) / args->group)
                       : hy_ref_load(row, args->dtype, i + index);
}

/* Column j takes up the sum block by block of k, so that each piece of the weight row is converted
 * once for all rows of x. */
static void column(const struct hy_matmul_args *args, size_t j)
{
    start_column(args, j);
    for (size_t i = 0; i < args->k; i += BLOCK) {
        float w[BLOCK];
        size_t count = hy_min_size(args->k - i, BLOCK);
        load_weights(args, j, i, count, w);
        for (size_t t = 0; t < args->m; t++)
            *output(args, t, j) += hy_ref_dot(args->x + t * args->x_stride + i, w, count);
    }
}

static void column_bf16(const struct hy_matmul_args *args, size_t j)
{
    start_column(args, j);
    for (size_t i = 0; i < args->k; i += BLOCK) {
        float w[BLOCK], x[BLOCK];
        size_t count = hy_min_size(args->k - i, BLOCK);
        load_weights(args, j, i, count, w);
        for (size_t t = 0; t < args->m; t++) {
            const uint16_t *row = args->rounded->data;
            hy_row_to_f32(row + t * args->rounded->stride + i, HYMBA_DTYPE_BF16, x, count);
            *output(args, t, j) += hy_ref_dot(x, w, count);
        }
    }
}

/* Where element i of a rounded row stands. */
static size_t place(const struct hy_rounded *rounded, size_t i)
{
    size_t inside = i % 32;
    return rounded->split ? i - inside + inside / 2 + inside % 2 * 16 : i;
}

static float dot_int8(const struct hy_matmul_args *args, size_t t, size_t j)
{
    const struct hy_rounded *x = args->rounded;
    const int8_t *values = (const int8_t *)x->data + t * x->stride;
    const unsigned char *row = weight_row(args, j);
    size_t n_groups = args->k / args->group;
    float sum = 0.0f;
    for (size_t g = 0; g < n_groups; g++) {
        int32_t products = 0;
        for (size_t i = g * args->group; i < (g + 1) * args->group; i++)
            products += values[place(x, i)] * (int)hy_ref_load_quantised(row, args->dtype, i);
        float scale = hy_ref_load(args->w_scales, HYMBA_DTYPE_BF16, j * n_groups + g);
        sum += (float)products * (scale * x->scales[t * n_groups + g]);
    }
    return sum;
}

static void column_int8(const struct hy_matmul_args *args, size_t j)
{
    start_column(args, j);
    for (size_t t = 0; t < args->m; t++)
        *output(args, t, j) += dot_int8(args, t, j);
}

void hy_ref_matmul(const struct hy_matmul_args *args, size_t begin, size_t end, void *scratch)
{
    (void)scratch;
    if (args->by_rows) {
        hy_matmul_by_rows(args, begin, end);
        return;
    }
    for (size_t j = begin; j < end; j++) {
        if (!args->rounded)
            column(args, j);
        else if (args->rounded->dtype == HYMBA_DTYPE_BF16)
            column_bf16(args, j);
        else
            column_int8(args, j);
    }
}

/* The greatest magnitude; the order of bit patterns puts NaN above everything. */
float hy_ref_greatest(const float *x, size_t n)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = hy_f32_to_bits(x[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return hy_bits_to_f32(most);
}

static void round_group(const struct hy_rounded *y, size_t t, size_t g, size_t n_groups,
                        const float *x)
{
    int8_t *values = (int8_t *)y->data + t * y->stride;
    float greatest = hy_ref_greatest(x, y->group);
    bool usable = hy_can_round(greatest);
    float factor = usable ? 127.0f / greatest : 0.0f;
    int32_t sum = 0;
    for (size_t i = 0; i < y->group; i++) {
        int value = usable ? (int)rintf(x[i] * factor) : 0;
        values[place(y, g * y->group + i)] = (int8_t)value;
        sum += value;
    }
    y->scales[t * n_groups + g] = greatest / 127.0f;
    y->sums[t * n_groups + g] = sum;
}

static void round_row(const struct hy_round_args *args, size_t t)
{
    const struct hy_rounded *y = &args->y;
    const float *x = args->x + t * args->x_stride;
    if (y->dtype == HYMBA_DTYPE_BF16) {
        uint16_t *values = (uint16_t *)y->data + t * y->stride;
        hy_row_from_f32(x, HYMBA_DTYPE_BF16, values, args->n);
        for (size_t i = args->n; i % 32 != 0; i++)
            values[i] = 0;
        return;
    }
    if (!y->sums) {
        unsigned char *values = (unsigned char *)y->data + t * y->stride;
        y->scales[t] = hy_round_by_rows(x, args->n, y->dtype, values);
        return;
    }
    size_t n_groups = args->n / y->group;
    for (size_t g = 0; g < n_groups; g++)
        round_group(y, t, g, n_groups, x + g * y->group);
}

void hy_ref_round(const struct hy_round_args *args, size_t begin, size_t end)
{
    for (size_t t = begin; t < end; t++)
        round_row(args, t);
}
