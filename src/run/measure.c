#define _POSIX_C_SOURCE 200809L

#include "run/measure.h"

#include <time.h>

/* A product whose operands stay in the second cache level of every thread. */
enum { ROWS = 240, COLUMNS_PER_THREAD = 64, LENGTH = 512 };

/* Seconds of measuring, and products in a row that are timed together. */
static const double duration = 0.2;
enum { RUN = 8 };

/* Operands: one block of zeros, which all types of elements read as numbers. */
struct operands {
    unsigned char *block;
    float *x, *y;
    void *rounded, *weights, *scales;
    float *rounded_scales;
    int32_t *sums;
};

double hy_measure_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static hymba_status allocate(struct hy_memory *memory, size_t columns, struct operands *operands,
                             hymba_error *error)
{
    size_t x = ROWS * LENGTH, y = ROWS * columns, w = LENGTH * columns;
    size_t bytes = (x + y) * sizeof(float) + 2 * x + w * sizeof(float) + w / 16 + x / 4;
    unsigned char *next = operands->block = hy_alloc_zero(memory, bytes, 1);
    if (!next)
        return hy_no_memory(error, bytes, "the operands of a measurement");
    operands->x = (float *)(void *)next;
    operands->y = operands->x + x;
    operands->weights = operands->y + y;
    operands->rounded = (unsigned char *)operands->weights + w * sizeof(float);
    operands->scales = (unsigned char *)operands->rounded + 2 * x;
    operands->rounded_scales = (float *)(void *)((unsigned char *)operands->scales + w / 16);
    operands->sums = (int32_t *)(void *)(operands->rounded_scales + x / 32);
    return HYMBA_OK;
}

/* The largest projection of the first layer that has any. */
static const struct hy_matrix *find_projection(const hymba_model *model)
{
    for (uint32_t i = 0; i < model->plan.config.n_layers; i++) {
        const struct hy_layer_weights *layer = &model->weights.layers[i];
        if (layer->in_proj.data)
            return &layer->in_proj;
        if (layer->gate.data)
            return &layer->gate;
    }
    return &model->weights.head;
}

/* Seconds of one product, the least of many. */
static hymba_status time_products(hymba_context *context, const struct hy_matmul_args *args,
                                  double *seconds, hymba_error *error)
{
    double begun = hy_measure_now(), end;
    *seconds = duration;
    do {
        hymba_status status = hy_context_check_cancel(context, error);
        if (status != HYMBA_OK)
            return status;
        double start = hy_measure_now();
        for (int i = 0; i < RUN; i++)
            hy_backend_matmul(&context->backend, args);
        end = hy_measure_now();
        if ((end - start) / RUN < *seconds)
            *seconds = (end - start) / RUN;
    } while (end - begun < duration);
    return HYMBA_OK;
}

hymba_status hy_context_measure_products(hymba_context *context, double *rate, hymba_error *error)
{
    const struct hy_matrix *projection = find_projection(context->model);
    size_t columns = COLUMNS_PER_THREAD * (size_t)hy_pool_threads(context->backend.pool);
    struct operands operands = {0};
    double seconds = 0;
    if (context->backend.plugin)
        return hy_context_measure_squares(context, projection->dtype, rate, error);
    hymba_status status = allocate(&context->memory, columns, &operands, error);
    if (status != HYMBA_OK)
        return status;
    struct hy_rounded rounded = {
        .dtype = hy_rounded_type(context->compute, projection->dtype),
        .data = operands.rounded,
        .stride = LENGTH,
        .scales = operands.rounded_scales,
        .sums = operands.sums,
        .group = projection->group,
        .block = context->backend.kernels.row_block,
    };
    struct hy_matmul_args args = {
        .x = operands.x,
        .x_stride = LENGTH,
        .rounded = rounded.dtype == HYMBA_DTYPE_F32 ? NULL : &rounded,
        .m = ROWS,
        .n = columns,
        .k = LENGTH,
        .w = operands.weights,
        .dtype = projection->dtype,
        .w_stride = LENGTH,
        .w_scales = operands.scales,
        .group = projection->group,
        .y = operands.y,
        .y_stride = columns,
    };
    status = time_products(context, &args, &seconds, error);
    *rate = 2.0 * ROWS * LENGTH * (double)columns / seconds;
    hy_free(&context->memory, operands.block);
    return status;
}
