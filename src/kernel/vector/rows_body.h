/* The ops that go row by row: embedding, norms, rotation, cache stores, gate of the MLP. */
#include <math.h>

#include "kernel/kernel.h"

HY_INLINE void row_to_f32(const unsigned char *source, const hymba_dtype dtype, float *y, size_t n)
{
    const size_t element = dtype == HYMBA_DTYPE_F32 ? 4 : 2;
    for (size_t i = 0; i < n; i += LANES) {
        size_t count = lanes_at(i, n);
        vec_store_n(y + i, vec_load_as_n(source + i * element, dtype, count), count);
    }
}

static void embed(const struct hy_embed_args *args, size_t begin, size_t end)
{
    const struct hy_matrix *table = &args->table;
    size_t n = table->columns, row_bytes = hy_row_bytes(table->dtype, n);
    for (size_t t = begin; t < end; t++) {
        size_t id = (size_t)args->ids[t];
        const unsigned char *row = (const unsigned char *)table->data + id * row_bytes;
        float *y = args->y + t * n;
        if (hy_is_quantised(table->dtype))
            dequantise_row(table, id, y);
        else if (table->dtype == HYMBA_DTYPE_F32)
            memcpy(y, row, row_bytes);
        else if (table->dtype == HYMBA_DTYPE_F16)
            row_to_f32(row, HYMBA_DTYPE_F16, y, n);
        else
            row_to_f32(row, HYMBA_DTYPE_BF16, y, n);
    }
}

static float square_sum(const float *x, size_t n)
{
    vec sum = vec_zero();
    for (size_t i = 0; i < n; i += LANES) {
        vec part = vec_load_n(x + i, lanes_at(i, n));
        sum = vec_fma(part, part, sum);
    }
    return vec_sum(sum);
}

/* 1 / sqrt(mean(x^2) + epsilon), in every lane, from the sum of n squares. */
static vec inverse_rms(float sum, size_t n, float epsilon)
{
    return vec_all(1.0f / sqrtf(sum / (float)n + epsilon));
}

static void rms_norm(const struct hy_rms_norm_args *args, size_t begin, size_t end)
{
    for (size_t t = begin; t < end; t++) {
        const float *x = args->x + t * args->x_stride;
        float *y = args->y + t * args->y_stride;
        vec scale = inverse_rms(square_sum(x, args->n), args->n, args->epsilon);
        for (size_t i = 0; i < args->n; i += LANES) {
            size_t count = lanes_at(i, args->n);
            vec scaled = vec_mul(vec_load_n(x + i, count), scale);
            vec_store_n(y + i, vec_mul(scaled, vec_load_n(args->weight + i, count)), count);
        }
    }
}

static void fuse_row(const struct hy_fuse_args *args, size_t t)
{
    const float *attention_row = args->attention + t * args->attention_stride;
    const float *ssm_row = args->ssm + t * args->ssm_stride;
    float *y = args->y + t * args->y_stride;
    size_t total = args->sums ? args->total : args->n;
    float sum_attention = args->sums ? args->sums[2 * t] : square_sum(attention_row, args->n);
    float sum_ssm = args->sums ? args->sums[2 * t + 1] : square_sum(ssm_row, args->n);
    vec scale_attention = inverse_rms(sum_attention, total, args->epsilon);
    vec scale_ssm = inverse_rms(sum_ssm, total, args->epsilon);
    for (size_t i = 0; i < args->n; i += LANES) {
        size_t count = lanes_at(i, args->n);
        vec first = vec_mul(vec_load_n(attention_row + i, count), scale_attention);
        vec second = vec_mul(vec_load_n(ssm_row + i, count), scale_ssm);
        first = vec_mul(first, vec_load_n(args->weight_attention + i, count));
        second = vec_mul(second, vec_load_n(args->weight_ssm + i, count));
        if (args->concat) {
            vec_store_n(y + i, first, count);
            vec_store_n(y + args->n + i, second, count);
        } else {
            vec_store_n(y + i, vec_mul(vec_add(first, second), vec_all(0.5f)), count);
        }
    }
}

static void fuse(const struct hy_fuse_args *args, size_t begin, size_t end)
{
    for (size_t t = begin; t < end; t++)
        fuse_row(args, t);
}

static void square_sums(const struct hy_square_sums_args *args, size_t begin, size_t end)
{
    for (size_t t = begin; t < end; t++) {
        args->sums[2 * t] = square_sum(args->attention + t * args->attention_stride, args->n);
        args->sums[2 * t + 1] = square_sum(args->ssm + t * args->ssm_stride, args->n);
    }
}

static void swiglu(const struct hy_swiglu_args *args, size_t begin, size_t end)
{
    for (size_t t = begin; t < end; t++) {
        const float *gate = args->gate + t * args->gate_stride;
        const float *up = args->up + t * args->up_stride;
        float *y = args->y + t * args->y_stride;
        for (size_t i = 0; i < args->n; i += LANES) {
            size_t count = lanes_at(i, args->n);
            vec gated = vec_silu(vec_load_n(gate + i, count));
            vec_store_n(y + i, vec_mul(gated, vec_load_n(up + i, count)), count);
        }
    }
}

HY_INLINE void rotate_head(float *low, float *high, const float *cosine, const float *sine,
                           size_t half)
{
    for (size_t i = 0; i < half; i += LANES) {
        size_t count = lanes_at(i, half);
        vec a = vec_load_n(low + i, count), b = vec_load_n(high + i, count);
        vec c = vec_load_n(cosine + i, count), s = vec_load_n(sine + i, count);
        vec_store_n(low + i, vec_sub(vec_mul(a, c), vec_mul(b, s)), count);
        vec_store_n(high + i, vec_add(vec_mul(b, c), vec_mul(a, s)), count);
    }
}

static void rope(const struct hy_rope_args *args, size_t begin, size_t end)
{
    size_t half = args->head_size / 2;
    for (size_t t = begin; t < end; t++) {
        for (size_t head = 0; head < args->n_heads; head++) {
            float *x = args->x + t * args->x_stride + head * args->head_size;
            rotate_head(x, x + half, args->cosine + t * half, args->sine + t * half, half);
        }
    }
}

HY_INLINE void row_from_f32(const float *x, const hymba_dtype dtype, unsigned char *y, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) {
        size_t count = lanes_at(i, n);
        vec_store_as_n(y + 2 * i, vec_load_n(x + i, count), dtype, count);
    }
}

/* The greatest magnitude; NaN if there is one. */
static float greatest_of_row(const float *x, size_t n)
{
    ivec magnitudes = ivec_zero();
    for (size_t i = 0; i < n; i += LANES)
        magnitudes = ivec_max(magnitudes, ivec_magnitudes(vec_load_n(x + i, lanes_at(i, n))));
    return hy_bits_to_f32((uint32_t)ivec_greatest(magnitudes));
}

static void row_to_int8(const float *x, float factor, unsigned char *y, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) {
        unsigned char bytes[LANES];
        size_t count = lanes_at(i, n);
        vec scaled = vec_mul(vec_load_n(x + i, count), vec_all(factor));
        ivec_store_bytes(bytes, ivec_from_vec(scaled));
        memcpy(y + i, bytes, count);
    }
}

/* One by one: rows are stored once and read at every token behind them. */
static void row_to_fp8(const float *x, float factor, unsigned char *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = hy_f32_to_fp8(x[i] * factor);
}

/* See hy_cache_row_bytes. */
static void row_to_bytes(const float *x, hymba_dtype dtype, unsigned char *y, size_t n)
{
    float most = hy_cache_greatest(dtype), greatest = greatest_of_row(x, n);
    float scale = greatest / most;
    memcpy(y + n, &scale, sizeof scale);
    if (!hy_can_round(greatest))
        memset(y, 0, n);
    else if (dtype == HYMBA_DTYPE_INT8)
        row_to_int8(x, most / greatest, y, n);
    else
        row_to_fp8(x, most / greatest, y, n);
}

static void cache_rows(const struct hy_cache_rows_args *args, size_t begin, size_t end)
{
    size_t n = args->head_size, row_bytes = hy_cache_row_bytes(args->dtype, n);
    for (size_t t = begin; t < end; t++) {
        for (size_t head = 0; head < args->n_heads; head++) {
            const float *x = args->x + t * args->x_stride + head * n;
            unsigned char *y = (unsigned char *)args->y + head * args->head_stride + t * row_bytes;
            if (hy_cache_greatest(args->dtype) != 0.0f)
                row_to_bytes(x, args->dtype, y, n);
            else if (args->dtype == HYMBA_DTYPE_F32)
                memcpy(y, x, n * sizeof *x);
            else if (args->dtype == HYMBA_DTYPE_F16)
                row_from_f32(x, HYMBA_DTYPE_F16, y, n);
            else
                row_from_f32(x, HYMBA_DTYPE_BF16, y, n);
        }
    }
}
