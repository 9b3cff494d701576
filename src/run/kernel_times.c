#include "run/kernel_times.h"

#include <string.h>

#include "backend/op_cost.h"
#include "run/measure.h"

static const char *const names[HY_N_KERNELS] = {
    [HY_KERNEL_STEP] = "step",
    [HY_KERNEL_EMBED] = "embedding",
    [HY_KERNEL_NORM] = "norm",
    [HY_KERNEL_ROUND] = "rounding",
    [HY_KERNEL_IN_PROJ] = "in_proj",
    [HY_KERNEL_ROPE_CACHE] = "rope_cache",
    [HY_KERNEL_ATTENTION_WINDOW] = "attention_window",
    [HY_KERNEL_ATTENTION_FULL] = "attention_full",
    [HY_KERNEL_CONV] = "convolution",
    [HY_KERNEL_X_PROJ] = "x_proj",
    [HY_KERNEL_DT_PROJ] = "dt_proj",
    [HY_KERNEL_SCAN] = "scan",
    [HY_KERNEL_FUSE] = "fusion",
    [HY_KERNEL_OUT_PROJ] = "out_proj",
    [HY_KERNEL_GATE_UP] = "gate_up",
    [HY_KERNEL_SWIGLU] = "swiglu",
    [HY_KERNEL_DOWN] = "down",
    [HY_KERNEL_HEAD] = "head",
    [HY_KERNEL_SAMPLE] = "sampling",
    [HY_KERNEL_ALL_SUM] = "all_sum",
};

/* ----------------------------------------------------------------- kinds */

/* STEP: none of the model's matrices, which is not counted. */
static enum hy_kernel_kind kind_of_matrix(const hymba_context *context, const void *data)
{
    const struct hy_weights *weights = context->weights;
    if (data == weights->head.data)
        return HY_KERNEL_HEAD;
    for (uint32_t i = 0; i < context->model->plan.config.n_layers; i++) {
        const struct hy_layer_weights *layer = &weights->layers[i];
        const struct {
            const struct hy_matrix *matrix;
            enum hy_kernel_kind kind;
        } matrices[] = {
            {&layer->in_proj, HY_KERNEL_IN_PROJ}, {&layer->x_proj, HY_KERNEL_X_PROJ},
            {&layer->dt_proj, HY_KERNEL_DT_PROJ}, {&layer->out_proj, HY_KERNEL_OUT_PROJ},
            {&layer->gate, HY_KERNEL_GATE_UP},    {&layer->up, HY_KERNEL_GATE_UP},
            {&layer->down, HY_KERNEL_DOWN},
        };
        for (size_t j = 0; j < sizeof matrices / sizeof *matrices; j++)
            if (data == matrices[j].matrix->data)
                return matrices[j].kind;
    }
    return HY_KERNEL_STEP;
}

/* A session that slides has a window in full layers, too; unless it is shorter than the model's, it
 * tells them apart. */
static enum hy_kernel_kind kind_of_attention(const hymba_context *context,
                                             const struct hy_attention_args *args)
{
    bool window = args->sequences[0].window <= context->layout.window;
    return window ? HY_KERNEL_ATTENTION_WINDOW : HY_KERNEL_ATTENTION_FULL;
}

static enum hy_kernel_kind kind_of(const hymba_context *context, enum hy_op op, const void *args)
{
    static const enum hy_kernel_kind kinds[HY_N_OPS] = {
        [HY_OP_EMBED] = HY_KERNEL_EMBED,
        [HY_OP_RMS_NORM] = HY_KERNEL_NORM,
        [HY_OP_ROUND] = HY_KERNEL_ROUND,
        [HY_OP_NORM_PARTS] = HY_KERNEL_NORM,
        [HY_OP_ROPE_STORE] = HY_KERNEL_ROPE_CACHE,
        [HY_OP_CONV] = HY_KERNEL_CONV,
        [HY_OP_SCAN] = HY_KERNEL_SCAN,
        [HY_OP_FUSE] = HY_KERNEL_FUSE,
        [HY_OP_SWIGLU] = HY_KERNEL_SWIGLU,
        [HY_OP_SAMPLE] = HY_KERNEL_SAMPLE,
        [HY_OP_SQUARE_SUMS] = HY_KERNEL_FUSE,
        [HY_OP_ALL_SUM] = HY_KERNEL_ALL_SUM,
    };
    if (op == HY_OP_MATMUL)
        return kind_of_matrix(context, ((const struct hy_matmul_args *)args)->w);
    if (op == HY_OP_ATTENTION)
        return kind_of_attention(context, args);
    return kinds[op];
}

/* ------------------------------------------------------------- observing */

/* Until the device has done what was queued. */
static void wait_for_device(hymba_context *context)
{
    struct hy_kernel_times *times = &context->kernel_times;
    hymba_error failure = {.struct_size = sizeof failure};
    if (times->status != HYMBA_OK)
        return;
    times->status = hy_store_finish(context->backend.plugin, &failure);
    if (times->status != HYMBA_OK)
        times->failure = failure;
}

static void begin_op(void *user)
{
    hymba_context *context = user;
    wait_for_device(context);
    context->kernel_times.begun = hy_measure_now();
}

static void end_op(void *user, enum hy_op op, const void *args, size_t rows)
{
    hymba_context *context = user;
    struct hy_kernel_times *times = &context->kernel_times;
    wait_for_device(context);
    double ended = hy_measure_now();
    enum hy_kernel_kind kind = kind_of(context, op, args);
    if (kind != HY_KERNEL_STEP) {
        struct hy_op_cost cost = hy_op_cost(op, args, rows);
        hymba_kernel_time *own = &times->kinds[kind], *step = &times->kinds[HY_KERNEL_STEP];
        own->calls++;
        own->seconds += ended - times->begun;
        own->bytes += cost.bytes;
        own->operations += cost.operations;
        step->bytes += cost.bytes;
        step->operations += cost.operations;
        step->calls += op == HY_OP_EMBED; /* which every pass begins with */
    }
    times->spent += hy_measure_now() - ended;
}

void hy_kernel_times_set(hymba_context *context, bool on)
{
    struct hy_kernel_times *times = &context->kernel_times;
    times->on = on;
    if (!on)
        return;
    memset(times->kinds, 0, sizeof times->kinds);
    for (int i = 0; i < HY_N_KERNELS; i++)
        times->kinds[i].name = names[i];
}

void hy_kernel_times_begin(hymba_context *context)
{
    struct hy_kernel_times *times = &context->kernel_times;
    if (!times->on)
        return;
    times->observer = (struct hy_observer){begin_op, end_op, context};
    context->backend.observer = &times->observer;
    times->status = HYMBA_OK;
    times->spent = 0.0;
    times->step_begun = hy_measure_now();
}

void hy_kernel_times_end(hymba_context *context)
{
    struct hy_kernel_times *times = &context->kernel_times;
    if (!context->backend.observer)
        return;
    context->backend.observer = NULL;
    times->kinds[HY_KERNEL_STEP].seconds += hy_measure_now() - times->step_begun - times->spent;
}

hymba_status hy_kernel_times_check(hymba_context *context, hymba_error *error)
{
    struct hy_kernel_times *times = &context->kernel_times;
    if (!context->backend.observer || times->status == HYMBA_OK)
        return HYMBA_OK;
    return hy_fail_again(error, &times->failure);
}
