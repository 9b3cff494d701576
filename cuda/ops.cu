/*
 * The op table: each op queues its launch and keeps the failure, if there is one, for finish.
 * Within a step it is recorded in place of that (step.h), with what it needs to be queued later.
 */
#include "device.h"

#include "attention.h"
#include "conv.h"
#include "heads.h"
#include "matmul.h"
#include "op_key.h"
#include "ranks.h"
#include "rows.h"
#include "sample.h"
#include "scan.h"

#include <string.h>

template <typename Op> static void play(struct hy_device *device, const void *op)
{
    ((const Op *)op)->queue(device);
}

/* Queues an op now or with its step; details are all that its launches hang on. */
template <typename Op, typename... Details>
static void queue_or_record(struct hy_device *device, const Op &op, const Details &...details)
{
    if (!hy_cuda_is_recording(&device->step)) {
        op.queue(device);
        return;
    }
    void (*play_op)(struct hy_device *, const void *) = play<Op>;
    hy_cuda_record(device, play_op, &op, sizeof op);
    hy_key_writer{device}(play_op, details...);
}

/* An op on rows without lists. */
template <typename Args> struct row_op {
    void (*launch)(cudaStream_t, const Args *, size_t);
    const char *name;
    Args args;
    size_t rows;

    void queue(struct hy_device *device) const
    {
        if (!hy_cuda_begin(device))
            return;
        launch(device->stream, &args, rows);
        hy_cuda_check_launch(device, name);
    }
};

template <typename Args>
static void run(struct hy_device *device, const Args *args, size_t rows,
                void (*launch)(cudaStream_t, const Args *, size_t), const char *name)
{
    const struct row_op<Args> op = {launch, name, *args, rows};
    if (rows > 0 && !device->has_error)
        queue_or_record(device, op, launch, rows, *args);
}

struct matmul_op {
    struct hy_matmul_args args;
    struct hy_rounded rounded; /* where args has one */

    void queue(struct hy_device *device) const
    {
        struct hy_matmul_args own = args;
        own.rounded = args.rounded ? &rounded : NULL;
        hy_cuda_matmul(device, &own);
    }
};

static void matmul(struct hy_device *device, const struct hy_matmul_args *args)
{
    struct matmul_op op = {*args, {}};
    if (args->rounded)
        op.rounded = *args->rounded;
    if (!device->has_error)
        queue_or_record(device, op, *args);
}

/* Whether the kernels know the type; a plan that asks for another is a fault of the core's. */
static bool is_known(struct hy_device *device, bool known, const char *sentence)
{
    if (!known && !device->has_error)
        hy_cuda_fail(device, HYMBA_ERROR_INTERNAL, sentence);
    return known;
}

/* The only form of rounded rows that there is here. */
static bool is_bf16(struct hy_device *device, const struct hy_rounded *rounded)
{
    return is_known(device,
                    !rounded->data || (rounded->dtype == HYMBA_DTYPE_BF16 && rounded->block <= 1),
                    "it was asked to round activations to a type that is not known here");
}

/* Or of 8 bits with one scale a row. */
static bool is_bf16_or_8_bits(struct hy_device *device, const struct hy_rounded *rounded, size_t n)
{
    bool narrow = rounded->dtype == HYMBA_DTYPE_INT8 || rounded->dtype == HYMBA_DTYPE_FP8;
    if (!rounded->data || !narrow)
        return is_bf16(device, rounded);
    return is_known(device, rounded->group == n && !rounded->sums && rounded->block <= 1,
                    "it was asked to round activations to groups of 8 bits");
}

static void embed(struct hy_device *device, const struct hy_embed_args *args, size_t rows)
{
    run(device, args, rows, hy_cuda_embed, "the embedding");
}

static void rms_norm(struct hy_device *device, const struct hy_rms_norm_args *args, size_t rows)
{
    if (is_bf16_or_8_bits(device, &args->rounded, args->n))
        run(device, args, rows, hy_cuda_rms_norm, "a norm");
}

static void round_rows(struct hy_device *device, const struct hy_round_args *args, size_t rows)
{
    if (is_bf16_or_8_bits(device, &args->y, args->n))
        run(device, args, rows, hy_cuda_round, "rounding of activations");
}

static void norm_parts(struct hy_device *device, const struct hy_norm_parts_args *args,
                       size_t rows)
{
    if (is_bf16(device, &args->rounded))
        run(device, args, rows, hy_cuda_norm_parts, "the norms of dt, B and C");
}

static void rope_store(struct hy_device *device, const struct hy_rope_store_args *args,
                       size_t rows)
{
    run(device, args, rows, hy_cuda_rope_store, "rotating heads and storing keys and values");
}

static void fuse(struct hy_device *device, const struct hy_fuse_args *args, size_t rows)
{
    if (is_bf16_or_8_bits(device, &args->rounded, args->concat ? 2 * args->n : args->n))
        run(device, args, rows, hy_cuda_fuse, "the fusion of attention and scan");
}

static void swiglu(struct hy_device *device, const struct hy_swiglu_args *args, size_t rows)
{
    if (is_bf16_or_8_bits(device, &args->rounded, args->n))
        run(device, args, rows, hy_cuda_swiglu, "the gate of a feed-forward layer");
}

static void convert(struct hy_device *device, const struct hy_convert_args *args)
{
    if (args->n == 0 || !hy_cuda_begin(device))
        return;
    hy_cuda_convert(device->stream, args);
    hy_cuda_check_launch(device, "a conversion of numbers");
}

/* An op on sequences with their states, recorded: for a list as long as the step has rows, which
 * ends with sequences of no rows. */
template <typename Args> struct sequences_op {
    void (*launch)(cudaStream_t, const Args *, size_t);
    const char *name;
    Args args;
    size_t longest;
    uintptr_t list;

    void queue(struct hy_device *device) const
    {
        if (!hy_cuda_begin(device))
            return;
        Args on_device = args;
        on_device.sequences =
            (const struct hy_state_sequence *)hy_cuda_recorded_list(device, list);
        launch(device->stream, &on_device, longest);
        hy_cuda_check_launch(device, name);
    }
};

template <typename Args>
static void record_sequences(struct hy_device *device, const Args *args, size_t longest,
                             void (*launch)(cudaStream_t, const Args *, size_t), const char *name)
{
    struct sequences_op<Args> op = {launch, name, *args, longest, 0};
    size_t n = hy_max_size(args->n_sequences, device->step.rows);
    size_t used = args->n_sequences * sizeof *args->sequences;
    void *list = hy_cuda_record_list(device, n * sizeof *args->sequences, &op.list);
    if (!list)
        return;
    memcpy(list, args->sequences, used);
    memset((unsigned char *)list + used, 0, n * sizeof *args->sequences - used);
    op.args.n_sequences = n;
    queue_or_record(device, op, launch, longest, op.list, n, *args);
}

template <typename Args>
static void run_sequences(struct hy_device *device, const Args *args,
                          void (*launch)(cudaStream_t, const Args *, size_t), const char *name)
{
    size_t longest = 0;
    for (size_t i = 0; i < args->n_sequences; i++)
        longest = hy_max_size(longest, args->sequences[i].segment.n_rows);
    if (longest == 0 || !hy_cuda_begin(device))
        return;
    if (hy_cuda_is_recording(&device->step)) {
        record_sequences(device, args, longest, launch, name);
        return;
    }
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

static void refuse_attention(struct hy_device *device)
{
    hy_cuda_fail(device, HYMBA_ERROR_MEMORY,
                 "attention over so many rows and keys at once does not fit into one launch");
}

static void queue_attention(struct hy_device *device, const struct hy_attention_args *args,
                            const struct hy_attention_plan *plan)
{
    if (!hy_cuda_begin(device)
        || !hy_cuda_reserve(device, &device->scratch, plan->workspace_bytes,
                            "taking memory for attention"))
        return;
    hy_cuda_attention(device->stream, args, plan, device->scratch.data);
    hy_cuda_check_launch(device, "attention");
}

/* Recorded, with a plan whose pointers count from the arena's first byte. */
struct attention_op {
    struct hy_attention_args args;
    struct hy_attention_plan plan;

    void queue(struct hy_device *device) const
    {
        struct hy_attention_plan own = plan;
        locate(device, own.parts.records);
        locate(device, own.parts.first_items);
        locate(device, own.merges);
        locate(device, own.tiles.records);
        locate(device, own.tiles.first_items);
        queue_attention(device, &args, &own);
    }

private:
    template <typename T> static void locate(struct hy_device *device, const T *&list)
    {
        list = (const T *)hy_cuda_recorded_list(device, (uintptr_t)list);
    }
};

/* A plan with lists in the arena; false after a failure, which is kept. */
static bool plan_recorded(struct hy_device *device, const struct hy_attention_args *args,
                          struct hy_attention_plan *plan)
{
    uintptr_t offset;
    if (!hy_cuda_attention_plan(args, plan, device->step.rows)) {
        refuse_attention(device);
        return false;
    }
    void *list = hy_cuda_record_list(device, plan->list_bytes, &offset);
    if (!list)
        return false;
    hy_cuda_attention_lists(args, plan, list, (const void *)offset);
    return true;
}

/* Layers that share keys and window share one plan, and its lists. */
static void record_attention(struct hy_device *device, const struct hy_attention_args *args)
{
    struct hy_planned_attention *planned = &device->planned;
    if (!args->repeated || planned->n_heads != args->n_heads
        || planned->n_kv_heads != args->n_kv_heads || planned->v_size != args->v_size) {
        *planned = {};
        if (!plan_recorded(device, args, &planned->plan))
            return;
        planned->n_heads = args->n_heads;
        planned->n_kv_heads = args->n_kv_heads;
        planned->v_size = args->v_size;
    }
    struct attention_op op = {*args, planned->plan};
    op.args.sequences = NULL;
    op.args.n_sequences = op.args.max_keys = 0;
    queue_or_record(device, op, *args, op.plan);
}

/* The lists are made for where they will lie, so the sizes are asked for first. */
static bool plan_attention(struct hy_device *device, const struct hy_attention_args *args,
                           struct hy_attention_plan *plan)
{
    void *on_device;
    if (!hy_cuda_attention_plan(args, plan)) {
        refuse_attention(device);
        return false;
    }
    void *packed = hy_cuda_begin_list(device, plan->list_bytes, &on_device);
    if (!packed)
        return false;
    hy_cuda_attention_lists(args, plan, packed, on_device);
    return hy_cuda_end_list(device, packed, plan->list_bytes);
}

static void attention(struct hy_device *device, const struct hy_attention_args *args, size_t rows)
{
    struct hy_attention_plan plan = {};
    if (rows == 0 || args->n_sequences == 0 || !hy_cuda_begin(device))
        return;
    if (hy_cuda_is_recording(&device->step))
        record_attention(device, args);
    else if (plan_attention(device, args, &plan))
        queue_attention(device, args, &plan);
}

/* The rows, and behind them the changes of all, packed for where they will lie: `on_device`. */
static void pack_rows(const struct hy_sample_args *args, void *packed, const void *on_device)
{
    struct hy_sample_row *rows = (struct hy_sample_row *)packed;
    struct hy_sample_change *changes = (struct hy_sample_change *)(rows + args->n_rows);
    const struct hy_sample_change *there =
        (const struct hy_sample_change *)((const struct hy_sample_row *)on_device + args->n_rows);
    for (size_t i = 0; i < args->n_rows; i++) {
        const struct hy_sample_row *row = &args->rows[i];
        rows[i] = *row;
        rows[i].changes = there;
        if (row->n_changes > 0)
            memcpy(changes, row->changes, row->n_changes * sizeof *changes);
        changes += row->n_changes;
        there += row->n_changes;
    }
}

static void sample(struct hy_device *device, const struct hy_sample_args *args)
{
    size_t n_changes = 0; /* of vocabularies that lie in memory, so their sizes fit */
    void *on_device;
    for (size_t i = 0; i < args->n_rows; i++)
        n_changes += args->rows[i].n_changes;
    size_t bytes = args->n_rows * sizeof *args->rows + n_changes * sizeof *args->rows->changes;
    if (args->n_rows == 0 || !hy_cuda_begin(device)
        || !hy_cuda_reserve(device, &device->sampling, n_changes * sizeof(double) + 1,
                            "taking memory for sampling"))
        return;
    void *packed = hy_cuda_begin_list(device, bytes, &on_device);
    if (!packed)
        return;
    pack_rows(args, packed, on_device);
    if (!hy_cuda_end_list(device, packed, bytes))
        return;
    struct hy_sample_args there = *args;
    there.rows = (const struct hy_sample_row *)on_device;
    hy_cuda_sample(device->stream, &there,
                   (const struct hy_sample_change *)(there.rows + args->n_rows),
                   (double *)device->sampling.data);
    hy_cuda_check_launch(device, "sampling");
}

static void square_sums(struct hy_device *device, const struct hy_square_sums_args *args,
                        size_t rows)
{
    run(device, args, rows, hy_cuda_square_sums, "the sums of squares of two streams");
}

struct begin_all_sum_op {
    struct hy_all_sum_args args;
    size_t rows;

    void queue(struct hy_device *device) const
    {
        hy_cuda_begin_all_sum(device, &args, rows);
    }
};

/* Whatever else fails for lack of memory, other ranks wait for this one's part. */
static void begin_all_sum(struct hy_device *device, const struct hy_all_sum_args *args,
                          size_t rows)
{
    const struct begin_all_sum_op op = {*args, rows};
    const size_t recorded = device->step.ops.used;
    const bool fails = device->has_error;
    if (!device->step.has_begun) {
        op.queue(device);
        return;
    }
    if (!fails)
        queue_or_record(device, op, rows, *args);
    if (!device->has_error)
        return;
    const bool kept = !fails && device->step.ops.used > recorded;
    hy_cuda_play_gathers(device);
    if (!kept)
        op.queue(device);
}

struct end_all_sum_op {
    void queue(struct hy_device *device) const
    {
        hy_cuda_end_all_sum(device);
    }
};

/* Once memory has failed, what is recorded no longer counts, and sums were queued. */
static void end_all_sum(struct hy_device *device)
{
    const struct end_all_sum_op op = {};
    if (device->has_error)
        op.queue(device);
    else
        queue_or_record(device, op);
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
    norm_parts,
    matmul,
    round_rows,
    rope_store,
    attention,
    conv,
    scan,
    fuse,
    swiglu,
    square_sums,
    begin_all_sum,
    end_all_sum,
    sample,
    hy_cuda_begin_step,
    hy_cuda_end_step,
    hy_cuda_finish,
    hy_cuda_make_id,
    hy_cuda_join,
    hy_cuda_exchange,
};
