#include "kernel/fused.h"

struct hy_round_args hy_round_of(const float *x, size_t x_stride, size_t n,
                                 const struct hy_rounded *rounded)
{
    struct hy_round_args args = {.x = x, .x_stride = x_stride, .n = n, .y = *rounded};
    return args;
}

static void round_rows(const struct hy_kernels *kernels, const float *x, size_t x_stride, size_t n,
                       const struct hy_rounded *rounded, size_t begin, size_t end)
{
    struct hy_round_args args = hy_round_of(x, x_stride, n, rounded);
    if (rounded->data)
        kernels->round(&args, begin, end);
}

void hy_fused_rms_norm(const struct hy_kernels *kernels, const struct hy_rms_norm_args *args,
                       size_t begin, size_t end)
{
    kernels->rms_norm(args, begin, end);
    round_rows(kernels, args->y, args->y_stride, args->n, &args->rounded, begin, end);
}

void hy_fused_norm_parts(const struct hy_kernels *kernels, const struct hy_norm_parts_args *args,
                         size_t begin, size_t end)
{
    float *x = args->x;
    for (size_t i = 0; i < HY_NORM_PARTS; i++) {
        const struct hy_norm_part *part = &args->parts[i];
        struct hy_rms_norm_args norm = {
            .x = x,
            .x_stride = args->x_stride,
            .weight = part->weight,
            .n = part->n,
            .epsilon = args->epsilon,
            .y = x,
            .y_stride = args->x_stride,
        };
        if (part->n > 0)
            kernels->rms_norm(&norm, begin, end);
        x += part->n;
    }
    round_rows(kernels, args->x, args->x_stride, args->parts[0].n, &args->rounded, begin, end);
}

static void rotate(const struct hy_kernels *kernels, const struct hy_rope_store_args *args,
                   float *x, size_t n_heads, size_t begin, size_t end)
{
    struct hy_rope_args rope = {
        .x = x,
        .x_stride = args->stride,
        .n_heads = n_heads,
        .head_size = args->qk_size,
        .cosine = args->cosine,
        .sine = args->sine,
    };
    if (args->cosine)
        kernels->rope(&rope, begin, end);
}

static void store(const struct hy_kernels *kernels, const struct hy_rope_store_args *args,
                  const float *x, size_t head_size, void *rows, size_t head_stride, size_t begin,
                  size_t end)
{
    struct hy_cache_rows_args cache = {
        .x = x,
        .x_stride = args->stride,
        .n_heads = args->n_kv_heads,
        .head_size = head_size,
        .dtype = args->dtype,
        .y = rows,
        .head_stride = head_stride,
    };
    kernels->cache_rows(&cache, begin, end);
}

void hy_fused_rope_store(const struct hy_kernels *kernels, const struct hy_rope_store_args *args,
                         size_t begin, size_t end)
{
    rotate(kernels, args, args->q, args->n_heads, begin, end);
    if (args->n_kv_heads == 0)
        return;
    rotate(kernels, args, args->k, args->n_kv_heads, begin, end);
    store(kernels, args, args->k, args->qk_size, args->k_rows, args->k_head_stride, begin, end);
    store(kernels, args, args->v, args->v_size, args->v_rows, args->v_head_stride, begin, end);
}

void hy_fused_fuse(const struct hy_kernels *kernels, const struct hy_fuse_args *args,
                   size_t begin, size_t end)
{
    kernels->fuse(args, begin, end);
    round_rows(kernels, args->y, args->y_stride, args->concat ? 2 * args->n : args->n,
               &args->rounded, begin, end);
}

void hy_fused_swiglu(const struct hy_kernels *kernels, const struct hy_swiglu_args *args,
                     size_t begin, size_t end)
{
    kernels->swiglu(args, begin, end);
    round_rows(kernels, args->y, args->y_stride, args->n, &args->rounded, begin, end);
}
