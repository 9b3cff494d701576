#include "kernel/ref.h"

void hy_ref_dequantise_row(const struct hy_matrix *matrix, size_t row, float *y)
{
    size_t n = matrix->columns;
    const unsigned char *data =
        (const unsigned char *)matrix->data + row * hy_row_bytes(matrix->dtype, n);
    for (size_t i = 0; i < n; i++)
        y[i] = hy_ref_load_quantised(data, matrix->dtype, i)
               * hy_ref_load(matrix->scales, HYMBA_DTYPE_BF16, (row * n + i) / matrix->group);
}

void hy_ref_embed(const struct hy_embed_args *args, size_t begin, size_t end)
{
    const struct hy_matrix *table = &args->table;
    size_t n = table->columns, row_bytes = hy_row_bytes(table->dtype, n);
    for (size_t t = begin; t < end; t++) {
        size_t id = (size_t)args->ids[t];
        const unsigned char *row = (const unsigned char *)table->data + id * row_bytes;
        if (hy_is_quantised(table->dtype))
            hy_ref_dequantise_row(table, id, args->y + t * n);
        else
            hy_row_to_f32(row, table->dtype, args->y + t * n, n);
    }
}

/* 1 / sqrt(mean(x^2) + epsilon), from the sum of n squares. */
static float inverse_rms(float sum, size_t n, float epsilon)
{
    return 1.0f / sqrtf(sum / (float)n + epsilon);
}

void hy_ref_rms_norm(const struct hy_rms_norm_args *args, size_t begin, size_t end)
{
    for (size_t t = begin; t < end; t++) {
        const float *x = args->x + t * args->x_stride;
        float *y = args->y + t * args->y_stride;
        float scale = inverse_rms(hy_ref_dot(x, x, args->n), args->n, args->epsilon);
        for (size_t i = 0; i < args->n; i++)
            y[i] = x[i] * scale * args->weight[i];
    }
}

void hy_ref_square_sums(const struct hy_square_sums_args *args, size_t begin, size_t end)
{
    for (size_t t = begin; t < end; t++) {
        const float *attention = args->attention + t * args->attention_stride;
        const float *ssm = args->ssm + t * args->ssm_stride;
        args->sums[2 * t] = hy_ref_dot(attention, attention, args->n);
        args->sums[2 * t + 1] = hy_ref_dot(ssm, ssm, args->n);
    }
}

void hy_ref_fuse(const struct hy_fuse_args *args, size_t begin, size_t end)
{
    size_t n = args->n, total = args->sums ? args->total : n;
    for (size_t t = begin; t < end; t++) {
        const float *attention = args->attention + t * args->attention_stride;
        const float *ssm = args->ssm + t * args->ssm_stride;
        float *y = args->y + t * args->y_stride;
        float sum_attention = args->sums ? args->sums[2 * t] : hy_ref_dot(attention, attention, n);
        float sum_ssm = args->sums ? args->sums[2 * t + 1] : hy_ref_dot(ssm, ssm, n);
        float scale_attention = inverse_rms(sum_attention, total, args->epsilon);
        float scale_ssm = inverse_rms(sum_ssm, total, args->epsilon);
        for (size_t i = 0; i < n; i++) {
            float first = attention[i] * scale_attention * args->weight_attention[i];
            float second = ssm[i] * scale_ssm * args->weight_ssm[i];
            if (args->concat) {
                y[i] = first;
                y[n + i] = second;
            } else {
                y[i] = (first + second) * 0.5f;
            }
        }
    }
}

void hy_ref_swiglu(const struct hy_swiglu_args *args, size_t begin, size_t end)
{
    for (size_t t = begin; t < end; t++) {
        const float *gate = args->gate + t * args->gate_stride;
        const float *up = args->up + t * args->up_stride;
        float *y = args->y + t * args->y_stride;
        for (size_t i = 0; i < args->n; i++)
            y[i] = hy_ref_silu(gate[i]) * up[i];
    }
}
