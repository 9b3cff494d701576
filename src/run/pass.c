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

static struct hy_matmul_args product_args(const struct hy_pass *pass, const float *x,
                                          size_t x_stride, const struct hy_rounded *rounded,
                                          const struct hy_matrix *w, float *y)
{
    return (struct hy_matmul_args){
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
        .y = y,
        .y_stride = w->rows,
        .room = pass->buffer_rows - pass->rows,
    };
}

void hy_pass_multiply(const struct hy_pass *pass, const float *x, size_t x_stride,
                      const struct hy_rounded *rounded, const struct hy_matrix *w,
                      const float *bias, float *y)
{
    struct hy_matmul_args args = product_args(pass, x, x_stride, rounded, w, y);
    args.bias = bias;
    hy_backend_matmul(pass->backend, &args);
}

bool hy_pass_is_alone(const struct hy_pass *pass)
{
    return pass->context->ranks.world_size == 1;
}

void hy_pass_begin_all_sum(const struct hy_pass *pass, float *x, size_t n)
{
    struct hy_all_sum_args args = {.x = x, .x_stride = n, .n = n, .y = x, .y_stride = n};
    if (!hy_pass_is_alone(pass))
        hy_backend_begin_all_sum(pass->backend, &args, pass->rows);
}

void hy_pass_end_all_sum(const struct hy_pass *pass)
{
    if (!hy_pass_is_alone(pass))
        hy_backend_end_all_sum(pass->backend);
}

void hy_pass_all_sum(const struct hy_pass *pass, float *x, size_t n)
{
    hy_pass_begin_all_sum(pass, x, n);
    hy_pass_end_all_sum(pass);
}

/* Those of the rows from this one on, of k elements. Devices do not interleave rows. */
static struct hy_rounded rounded_from(const struct hy_rounded *rounded, size_t k, size_t row)
{
    struct hy_rounded rows = *rounded;
    size_t n_groups = rounded->group ? k / rounded->group : 0;
    rows.data = (unsigned char *)rounded->data + row * rounded->stride *
                                                     hy_dtype_size(rounded->dtype);
    rows.scales = rounded->scales + row * n_groups;
    rows.sums = rounded->sums ? rounded->sums + row * n_groups : NULL;
    return rows;
}

/* Only the last rows have room behind them. */
static void multiply_rows(const struct hy_pass *pass, const struct hy_matmul_args *whole,
                          size_t row, size_t n_rows)
{
    struct hy_matmul_args args = *whole;
    struct hy_rounded rounded;
    args.m = n_rows;
    args.room = row + n_rows == whole->m ? whole->room : 0;
    args.x = whole->x + row * whole->x_stride;
    args.y = whole->y + row * whole->y_stride;
    if (whole->rounded) {
        rounded = rounded_from(whole->rounded, whole->k, row);
        args.rounded = &rounded;
    }
    hy_backend_matmul(pass->backend, &args);
}

/*
 * Rows whose sums over ranks are under way while the rows behind them are multiplied. Whole panels,
 * so that a product writes none that are being added up. Steps of a token each are not divided, nor
 * are those that take little longer than reading the matrix.
 */
enum { SUMMED_ROWS = 4 * HY_PANEL_ROWS };

/* A rank's product is put where the norm was that began this part of the layer. */
static void add_products(const struct hy_pass *pass, const struct hy_matmul_args *product)
{
    size_t hidden = product->n;
    for (size_t row = 0; row < product->m; row += SUMMED_ROWS) {
        size_t n_rows = hy_min_size(SUMMED_ROWS, product->m - row);
        struct hy_all_sum_args sum = {
            .x = product->y + row * hidden,
            .x_stride = hidden,
            .n = hidden,
            .accumulate = true,
            .y = pass->work->x + row * hidden,
            .y_stride = hidden,
        };
        multiply_rows(pass, product, row, n_rows);
        hy_backend_begin_all_sum(pass->backend, &sum, n_rows);
    }
    hy_backend_end_all_sum(pass->backend);
}

void hy_pass_add_product(const struct hy_pass *pass, const float *x, size_t x_stride,
                         const struct hy_rounded *rounded, const struct hy_matrix *w)
{
    struct hy_workspace *work = pass->work;
    bool alone = hy_pass_is_alone(pass);
    struct hy_matmul_args args =
        product_args(pass, x, x_stride, rounded, w, alone ? work->x : work->u);
    args.accumulate = alone;
    if (alone)
        hy_backend_matmul(pass->backend, &args);
    else
        add_products(pass, &args);
}
