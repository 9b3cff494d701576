/*
 * The same on a plug-in's device, through its ops alone. How large a product or a copy must be
 * until it shows what the device can do is not known beforehand, so squares grow until one takes
 * long. Operands are random numbers: units that multiply zeros run cooler, and thus faster.
 */
#include "run/measure.h"

#include "base/checked.h"
#include "base/random.h"

/* Sides of the squares that are multiplied. */
enum { SMALLEST_SQUARE = 128, LARGEST_SQUARE = 8192 };

/* Random numbers that come from the host, and are repeated: fewer than the smallest square has. */
enum { PATTERN = SMALLEST_SQUARE * SMALLEST_SQUARE };

/* Launches in a row that are timed together, which hides the way to the device and back. */
enum { RUN = 4 };

/* Seconds of one square's runs, or of copies; and of a run behind which no larger square comes. */
static const double duration = 0.05, long_run = 0.05;

/* A call whose speed is measured. */
struct launch {
    hymba_context *context;
    void (*queue)(const struct launch *launch);
    const struct hy_matmul_args *product;
    unsigned char *to;
    const unsigned char *from;
    size_t bytes;
};

static hymba_status time_run(const struct launch *launch, int count, double *seconds,
                             hymba_error *error)
{
    hymba_status status = hy_context_check_cancel(launch->context, error);
    if (status != HYMBA_OK)
        return status;
    double begun = hy_measure_now();
    for (int i = 0; i < count; i++)
        launch->queue(launch);
    status = hy_store_finish(launch->context->backend.plugin, error);
    *seconds = (hy_measure_now() - begun) / count;
    return status;
}

/* Seconds of one launch, the least of several runs. The first of all may have to prepare things. */
static hymba_status time_launch(const struct launch *launch, double *seconds, hymba_error *error)
{
    double begun, found;
    hymba_status status = time_run(launch, 1, seconds, error);
    if (status == HYMBA_OK)
        status = time_run(launch, RUN, seconds, error);
    for (begun = hy_measure_now(); status == HYMBA_OK && hy_measure_now() - begun < duration;) {
        status = time_run(launch, RUN, &found, error);
        *seconds = found < *seconds ? found : *seconds;
    }
    return status;
}

/* ---------------------------------------------------------------- products */

/* [side][side] each, in one block; scales of w and rounded, by rows, behind. */
struct square {
    size_t side;
    unsigned char *block;
    size_t bytes;
    float *x, *y;
    float *w_scales, *scales;
    void *w, *rounded;
    hymba_dtype dtype; /* of w */
    bool by_rows;
};

static hymba_status allocate(hymba_context *context, struct square *square, hymba_error *error)
{
    size_t n = square->side * square->side;
    size_t scales = square->side * sizeof(float);
    square->bytes = n * (2 * sizeof(float) + hy_dtype_size(square->dtype) + sizeof(uint16_t))
                    + 2 * scales;
    square->block = hy_store_alloc(&context->memory, context->backend.plugin, square->bytes);
    if (!square->block)
        return hy_no_memory(error, square->bytes, "the operands of a measurement");
    square->x = (float *)(void *)square->block;
    square->y = square->x + n;
    square->w = square->y + n;
    square->rounded = (unsigned char *)square->w + n * hy_dtype_size(square->dtype);
    square->scales = (float *)(void *)((unsigned char *)square->rounded + n * sizeof(uint16_t));
    square->w_scales = square->scales + square->side;
    return HYMBA_OK;
}

static hymba_status fill_pattern(hymba_context *context, float *x, hymba_error *error)
{
    uint64_t counter = 0;
    float *pattern = hy_alloc_array(&context->memory, PATTERN, sizeof *pattern);
    if (!pattern)
        return hy_no_memory(error, PATTERN * sizeof *pattern, "the operands of a measurement");
    for (size_t i = 0; i < PATTERN; i++)
        pattern[i] = (float)(2.0 * hy_random_unit(1, &counter) - 1.0);
    hy_store_put(context->backend.plugin, x, pattern, PATTERN * sizeof *pattern);
    hy_free(&context->memory, pattern);
    return HYMBA_OK;
}

/* Rows of x, as weights by rows are made of others. */
static void fill_by_rows(hymba_context *context, const struct square *square,
                         struct hy_round_args round)
{
    round.y.data = square->w;
    round.y.scales = square->w_scales;
    hy_backend_round(&context->backend, &round, square->side);
}

static hymba_status fill(hymba_context *context, const struct square *square,
                         const struct hy_rounded *rounded, hymba_error *error)
{
    struct hy_plugin *plugin = context->backend.plugin;
    size_t n = square->side * square->side;
    struct hy_round_args round = {
        .x = square->x, .x_stride = square->side, .n = square->side, .y = *rounded};
    hymba_status status = fill_pattern(context, square->x, error);
    if (status != HYMBA_OK)
        return status;
    for (size_t done = PATTERN; done < n; done *= 2)
        hy_store_copy(plugin, square->x + done, square->x,
                      hy_min_size(done, n - done) * sizeof *square->x);
    if (square->by_rows)
        fill_by_rows(context, square, round);
    else
        hy_store_from_f32(plugin, square->x, square->dtype, square->w, n);
    if (rounded->dtype != HYMBA_DTYPE_F32)
        hy_backend_round(&context->backend, &round, square->side);
    return hy_store_finish(plugin, error);
}

static void queue_product(const struct launch *launch)
{
    hy_backend_matmul(&launch->context->backend, launch->product);
}

/* Seconds of a product of squares. */
static hymba_status time_square(hymba_context *context, struct square *square, double *seconds,
                                hymba_error *error)
{
    size_t side = square->side;
    hymba_status status = allocate(context, square, error);
    if (status != HYMBA_OK)
        return status;
    struct hy_rounded rounded = {
        .dtype = square->by_rows ? square->dtype
                                 : hy_rounded_type(context->compute, square->dtype),
        .data = square->rounded,
        .stride = side,
        .scales = square->scales,
        .group = side,
    };
    struct hy_matmul_args args = {
        .x = square->x,
        .x_stride = side,
        .rounded = rounded.dtype == HYMBA_DTYPE_F32 ? NULL : &rounded,
        .m = side,
        .n = side,
        .k = side,
        .w = square->w,
        .dtype = square->dtype,
        .w_stride = side,
        .w_scales = square->by_rows ? square->w_scales : NULL,
        .group = square->by_rows ? side : 0,
        .y = square->y,
        .y_stride = side,
        .by_rows = square->by_rows,
    };
    struct launch launch = {.context = context, .queue = queue_product, .product = &args};
    status = fill(context, square, &rounded, error);
    if (status == HYMBA_OK)
        status = time_launch(&launch, seconds, error);
    hy_store_free(&context->memory, context->backend.plugin, square->block, square->bytes);
    return status;
}

hymba_status hy_context_measure_squares(hymba_context *context, hymba_dtype weights, double *rate,
                                        hymba_error *error)
{
    /* quantised weights are expanded before they are multiplied */
    struct square square = {.dtype = hy_is_quantised(weights) ? HYMBA_DTYPE_BF16 : weights};
    square.by_rows = hy_by_rows_type(context->compute) != HYMBA_DTYPE_DEFAULT;
    if (square.by_rows)
        square.dtype = hy_by_rows_type(context->compute);
    double seconds = 0.0;
    *rate = 0.0;
    for (size_t side = SMALLEST_SQUARE; side <= LARGEST_SQUARE && seconds * RUN < long_run;
         side *= 2) {
        square.side = side;
        hymba_status status = time_square(context, &square, &seconds, error);
        if (status == HYMBA_ERROR_MEMORY && *rate > 0.0) /* a smaller one must do */
            return HYMBA_OK;
        if (status != HYMBA_OK)
            return status;
        double found = 2.0 * (double)side * (double)side * (double)side / seconds;
        *rate = found > *rate ? found : *rate;
    }
    return HYMBA_OK;
}

/* ------------------------------------------------------------------ copies */

static void queue_copy(const struct launch *launch)
{
    hy_store_copy(launch->context->backend.plugin, launch->to, launch->from, launch->bytes);
}

hymba_status hy_context_measure_bandwidth(hymba_context *context, uint64_t bytes, double *rate,
                                          hymba_error *error)
{
    struct hy_plugin *plugin = context->backend.plugin;
    double seconds = 0.0;
    if (!plugin)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "the bandwidth of copies is measured on devices alone, not on the CPU");
    if (bytes < 2 || bytes > SIZE_MAX)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "bytes: found %llu, expected 2 or more",
                       (unsigned long long)bytes);
    unsigned char *block = hy_store_alloc(&context->memory, plugin, (size_t)bytes);
    if (!block)
        return hy_no_memory(error, (size_t)bytes, "copies within the device");
    hy_store_fill(plugin, block, 0x5a, (size_t)bytes);
    size_t half = (size_t)bytes / 2;
    struct launch launch = {.context = context, .queue = queue_copy, .bytes = half,
                            .from = block, .to = block + (size_t)bytes - half};
    hymba_status status = time_launch(&launch, &seconds, error);
    hy_store_free(&context->memory, plugin, block, (size_t)bytes);
    *rate = status == HYMBA_OK ? 2.0 * (double)half / seconds : 0.0;
    return status;
}
