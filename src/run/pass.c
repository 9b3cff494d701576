#include "run/pass.h"

#include "base/checked.h"

void hy_pass_probe(const struct hy_pass *pass, enum hy_probe_site site, int layer,
                   const float *data, size_t width, size_t stride)
{
    const struct hy_probe *observer = &pass->context->probe;
    if (observer->function)
        observer->function(observer->user, site, layer, data, pass->rows, width, stride);
}

/* A device multiplies quantised weights as the bf16 that they are expanded to. */
static hymba_dtype rounded_type(const struct hy_pass *pass, const struct hy_matrix *w)
{
    int compute = pass->context->compute;
    bool expands = pass->backend->plugin && compute != HYMBA_COMPUTE_F32;
    if (w->by_rows)
        return w->dtype;
    return hy_rounded_type(compute, expands && hy_is_quantised(w->dtype) ? HYMBA_DTYPE_BF16
                                                                         : w->dtype);
}

struct hy_rounded hy_pass_rounded_for(const struct hy_pass *pass, const struct hy_matrix *w)
{
    const struct hy_workspace *work = pass->work;
    hymba_dtype dtype = rounded_type(pass, w);
    return (struct hy_rounded){
        .dtype = dtype,
        .data = dtype == HYMBA_DTYPE_F32 ? NULL : work->rounded,
        .stride = hy_padded_row(w->columns),
        .scales = work->rounded_scales,
        .sums = w->by_rows ? NULL : work->rounded_sums,
        .group = w->group,
        .split = w->dtype == HYMBA_DTYPE_INT4,
        .block = hy_min_size(pass->backend->kernels.row_block, pass->rows),
    };
}

struct hy_rounded hy_pass_round(const struct hy_pass *pass, const float *x, size_t x_stride,
                                const struct hy_matrix *w)
{
    struct hy_round_args args = {
        .x = x,
        .x_stride = x_stride,
        .n = w->columns,
        .y = hy_pass_rounded_for(pass, w),
    };
    if (args.y.data)
        hy_backend_round(pass->backend, &args, pass->rows);
    return args.y;
}

float *hy_pass_floats(const struct hy_pass *pass, float *y, const struct hy_rounded *rounded)
{
    return pass->backend->plugin && rounded->data ? NULL : y;
}

static void multiply(const struct hy_pass *pass, const float *x, size_t x_stride,
                     const struct hy_rounded *rounded, const struct hy_matrix *w,
                     const float *bias, bool accumulate, float *y)
{
    struct hy_matmul_args args = {
        .x = x,
        .x_stride = x_stride,
        .rounded = rounded->data ? rounded : NULL,
        .m = pass->rows,
        .n = w->rows,
        .k = w->columns,
        .w = w->data,
        .dtype = w->dtype,
        .w_stride = w->by_rows ? hy_padded_row(w->columns) : w->columns,
        .w_scales = w->scales,
        .group = w->group,
        .by_rows = w->by_rows,
        .bias = bias,
        .accumulate = accumulate,
        .y = y,
        .y_stride = w->rows,
        .room = pass->buffer_rows - pass->rows,
    };
    hy_backend_matmul(pass->backend, &args);
}

void hy_pass_multiply(const struct hy_pass *pass, const float *x, size_t x_stride,
                      const struct hy_rounded *rounded, const struct hy_matrix *w,
                      const float *bias, float *y)
{
    multiply(pass, x, x_stride, rounded, w, bias, false, y);
}

static bool is_alone(const struct hy_pass *pass)
{
    return pass->context->ranks.world_size == 1;
}

void hy_pass_begin_all_sum(const struct hy_pass *pass, float *x, size_t n)
{
    struct hy_all_sum_args args = {.x = x, .x_stride = n, .n = n, .y = x, .y_stride = n};
    if (!is_alone(pass))
        hy_backend_begin_all_sum(pass->backend, &args, pass->rows);
}

void hy_pass_end_all_sum(const struct hy_pass *pass)
{
    if (!is_alone(pass))
        hy_backend_end_all_sum(pass->backend);
}

void hy_pass_all_sum(const struct hy_pass *pass, float *x, size_t n)
{
    hy_pass_begin_all_sum(pass, x, n);
    hy_pass_end_all_sum(pass);
}

/* A rank's product is put where the norm was that began this part of the layer. */
void hy_pass_add_product(const struct hy_pass *pass, const float *x, size_t x_stride,
                         const struct hy_rounded *rounded, const struct hy_matrix *w)
{
    size_t hidden = pass->config->hidden_size;
    if (is_alone(pass)) {
        multiply(pass, x, x_stride, rounded, w, NULL, true, pass->work->x);
        return;
    }
    multiply(pass, x, x_stride, rounded, w, NULL, false, pass->work->u);
    struct hy_all_sum_args args = {
        .x = pass->work->u,
        .x_stride = hidden,
        .n = hidden,
        .accumulate = true,
        .y = pass->work->x,
        .y_stride = hidden,
    };
    hy_backend_begin_all_sum(pass->backend, &args, pass->rows);
    hy_backend_end_all_sum(pass->backend);
}
