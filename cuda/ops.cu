/* The op table: each op queues its launch and keeps the failure, if there is one, for finish. */
#include "device.h"

#include "attention.h"
#include "conv.h"
#include "matmul.h"
#include "rows.h"
#include "scan.h"

/* An op on rows without lists. */
template <typename Args>
static void run(struct hy_device *device, const Args *args, size_t rows,
                void (*launch)(cudaStream_t, const Args *, size_t), const char *name)
{
    if (rows == 0 || !hy_cuda_begin(device))
        return;
    launch(device->stream, args, rows);
    hy_cuda_check_launch(device, name);
}

/* Whether the kernels know the type; a plan that asks for another is a fault of the core's. */
static bool is_known(struct hy_device *device, bool known, const char *sentence)
{
    if (!known && !device->has_error)
        hy_cuda_fail(device, HYMBA_ERROR_INTERNAL, sentence);
    return known;
}

static void embed(struct hy_device *device, const struct hy_embed_args *args, size_t rows)
{
    run(device, args, rows, hy_cuda_embed, "the embedding");
}

static void rms_norm(struct hy_device *device, const struct hy_rms_norm_args *args, size_t rows)
{
    run(device, args, rows, hy_cuda_rms_norm, "a norm");
}

static void round_rows(struct hy_device *device, const struct hy_round_args *args, size_t rows)
{
    if (!is_known(device, args->y.dtype == HYMBA_DTYPE_BF16 && args->y.block <= 1,
                  "it was asked to round activations to another type than bf16"))
        return;
    run(device, args, rows, hy_cuda_round, "rounding of activations");
}

static void rope(struct hy_device *device, const struct hy_rope_args *args, size_t rows)
{
    run(device, args, rows, hy_cuda_rope, "the rotation of heads");
}

static void cache_rows(struct hy_device *device, const struct hy_cache_rows_args *args,
                       size_t rows)
{
    run(device, args, rows, hy_cuda_cache_rows, "storing of keys or values");
}

static void fuse(struct hy_device *device, const struct hy_fuse_args *args, size_t rows)
{
    run(device, args, rows, hy_cuda_fuse, "the fusion of attention and scan");
}

static void swiglu(struct hy_device *device, const struct hy_swiglu_args *args, size_t rows)
{
    run(device, args, rows, hy_cuda_swiglu, "the gate of a feed-forward layer");
}

static void convert(struct hy_device *device, const struct hy_convert_args *args)
{
    if (args->n == 0 || !hy_cuda_begin(device))
        return;
    hy_cuda_convert(device->stream, args);
    hy_cuda_check_launch(device, "a conversion of numbers");
}

/* An op on sequences with their states. */
template <typename Args>
static void run_sequences(struct hy_device *device, const Args *args,
                          void (*launch)(cudaStream_t, const Args *, size_t), const char *name)
{
    size_t longest = 0;
    for (size_t i = 0; i < args->n_sequences; i++)
        longest = hy_max_size(longest, args->sequences[i].segment.n_rows);
    if (longest == 0 || !hy_cuda_begin(device))
        return;
    Args on_device = *args;
    on_device.sequences = hy_cuda_list_states(device, args->sequences, args->n_sequences);
    if (!on_device.sequences)
        return;
    launch(device->stream, &on_device, longest);
    hy_cuda_check_launch(device, name);
}

static void conv(struct hy_device *device, const struct hy_conv_args *args)
{
    run_sequences(device, args, hy_cuda_conv, "the convolution");
}

static void scan(struct hy_device *device, const struct hy_scan_args *args)
{
    run_sequences(device, args, hy_cuda_scan, "the selective scan");
}

/* The lists are made for where they will lie, so the sizes are asked for first. */
static bool plan_attention(struct hy_device *device, const struct hy_attention_args *args,
                           struct hy_attention_plan *plan)
{
    void *on_device;
    if (!hy_cuda_attention_plan(args, NULL, NULL, plan)) {
        hy_cuda_fail(device, HYMBA_ERROR_MEMORY,
                     "attention over so many rows and keys at once does not fit into one launch");
        return false;
    }
    void *packed = hy_cuda_begin_list(device, plan->list_bytes, &on_device);
    if (!packed)
        return false;
    hy_cuda_attention_plan(args, packed, on_device, plan);
    return hy_cuda_end_list(device, packed, plan->list_bytes)
           && hy_cuda_reserve(device, &device->scratch, plan->workspace_bytes,
                              "taking memory for attention");
}

static void attention(struct hy_device *device, const struct hy_attention_args *args, size_t rows)
{
    struct hy_attention_plan plan = {};
    if (rows == 0 || args->n_sequences == 0 || !hy_cuda_begin(device)
        || !plan_attention(device, args, &plan))
        return;
    hy_cuda_attention(device->stream, args, &plan, device->scratch.data);
    hy_cuda_check_launch(device, "attention");
}

const struct hy_device_ops hy_cuda_ops = {
    HY_DEVICE_INTERFACE,
    sizeof(struct hy_device_ops),
    hy_cuda_open,
    hy_cuda_close,
    hy_cuda_get_info,
    hy_cuda_allocate,
    hy_cuda_release,
    hy_cuda_copy,
    hy_cuda_copy_list,
    hy_cuda_fill,
    convert,
    embed,
    rms_norm,
    hy_cuda_matmul,
    round_rows,
    rope,
    cache_rows,
    attention,
    conv,
    scan,
    fuse,
    swiglu,
    hy_cuda_finish,
};
