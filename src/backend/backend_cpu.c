#include "backend/backend.h"

#include <string.h>

#include "base/checked.h"
#include "base/processor.h"
#include "kernel/fused.h"

/* Smallest piece of work worth waking a thread for, in multiply-adds. */
enum { GRAIN_OPERATIONS = 1 << 15 };

/* Parts begin at multiples of this many columns or channels, so that vectors stay whole. */
enum { LANE_ALIGN = 16 };

hymba_status hy_backend_init(struct hy_backend *backend, struct hy_memory *memory,
                             const char *cpu, unsigned n_threads, const hymba_executor *executor,
                             hymba_error *error)
{
    memset(backend, 0, sizeof *backend);
    backend->memory = memory;
    backend->device = "cpu";
    hymba_status status = hy_kernels_init(&backend->kernels, cpu, error);
    if (status != HYMBA_OK)
        return status;
    backend->name = backend->kernels.name;
    if (executor)
        return hy_pool_create_on(memory, executor, &backend->pool, error);
    return hy_pool_create(memory, n_threads ? n_threads : hy_processor_count(), &backend->pool,
                          error);
}

hymba_status hy_backend_open(struct hy_backend *backend, struct hy_memory *memory, int index,
                             int compute, hymba_error *error)
{
    memset(backend, 0, sizeof *backend);
    backend->memory = memory;
    hymba_status status = hy_plugin_open(memory, index, compute, &backend->plugin, error);
    if (status != HYMBA_OK)
        return status;
    backend->device = backend->plugin->label;
    backend->name = backend->plugin->info.name;
    backend->kernels.has_bf16 = backend->plugin->info.has_bf16;
    return hy_pool_create(memory, 1, &backend->pool, error); /* the thread that launches */
}

void hy_backend_free(struct hy_backend *backend)
{
    hy_plugin_close(backend->plugin);
    hy_pool_destroy(backend->pool);
    if (backend->memory) {
        hy_free(backend->memory, backend->scratch);
        hy_free(backend->memory, backend->matmul_scratch);
    }
    memset(backend, 0, sizeof *backend);
}

hymba_status hy_backend_reserve_attention(struct hy_backend *backend, size_t heads_per_kv,
                                          size_t row_floats, size_t max_keys, hymba_error *error)
{
    size_t floats, bytes;
    if (backend->plugin)
        return HYMBA_OK;
    if (!hy_add_size(max_keys, row_floats, &floats) ||
        !hy_mul_size(heads_per_kv, floats, &floats) || !hy_add_size(floats, 15, &floats))
        return hy_fail(error, HYMBA_ERROR_LIMIT, "attention over %zu keys does not fit memory",
                       max_keys);
    floats = floats / 16 * 16;
    if (floats <= backend->scratch_floats)
        return HYMBA_OK;
    /* growing by a quarter at least keeps regrowth rare */
    floats = hy_max_size(floats, backend->scratch_floats + backend->scratch_floats / 64 * 16);
    if (!hy_mul_size(floats * sizeof(float), hy_pool_threads(backend->pool), &bytes))
        return hy_no_memory(error, SIZE_MAX, "attention scratch");
    float *scratch = hy_alloc(backend->memory, bytes);
    if (!scratch)
        return hy_no_memory(error, bytes, "attention scratch");
    hy_free(backend->memory, backend->scratch);
    backend->scratch = scratch;
    backend->scratch_floats = floats;
    return HYMBA_OK;
}

/* An op on its way through the pool. */
struct call {
    const struct hy_backend *backend;
    const void *args;
};

static size_t grain_for(size_t operations_per_unit)
{
    return GRAIN_OPERATIONS / (operations_per_unit + 1) + 1;
}

static void begin_op(const struct hy_backend *backend)
{
    if (backend->observer)
        backend->observer->begin(backend->observer->user);
}

static void end_op(const struct hy_backend *backend, enum hy_op op, const void *args, size_t rows)
{
    if (backend->observer)
        backend->observer->end(backend->observer->user, op, args, rows);
}

hymba_status hy_backend_reserve_matmul(struct hy_backend *backend, size_t columns,
                                       hymba_error *error)
{
    size_t bytes, per_thread;
    if (columns > SIZE_MAX / 1024)
        return hy_no_memory(error, SIZE_MAX, "the scratch memory of matrix products");
    per_thread = hy_round_up(hy_matmul_scratch(columns), HY_ALIGNMENT);
    if (!hy_mul_size(per_thread, hy_pool_threads(backend->pool), &bytes))
        return hy_no_memory(error, SIZE_MAX, "the scratch memory of matrix products");
    backend->matmul_scratch = hy_alloc(backend->memory, bytes);
    if (!backend->matmul_scratch)
        return hy_no_memory(error, bytes, "the scratch memory of matrix products");
    backend->matmul_scratch_bytes = per_thread;
    return HYMBA_OK;
}

static void embed_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.embed(call->args, begin, end);
}

void hy_backend_begin_step(struct hy_backend *backend, size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    if (plugin && !plugin->failed)
        plugin->ops->begin_step(plugin->device, rows);
}

void hy_backend_end_step(struct hy_backend *backend, bool run)
{
    const struct hy_plugin *plugin = backend->plugin;
    if (plugin && !plugin->failed)
        plugin->ops->end_step(plugin->device, run);
}

void hy_backend_embed(struct hy_backend *backend, const struct hy_embed_args *args, size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    begin_op(backend);
    if (!plugin)
        hy_pool_run(backend->pool, embed_work, &call, rows, grain_for(args->table.columns), 1);
    else if (!plugin->failed)
        plugin->ops->embed(plugin->device, args, rows);
    end_op(backend, HY_OP_EMBED, args, rows);
}

static void round_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.round(call->args, begin, end);
}

static void round_on_pool(struct hy_backend *backend, const struct hy_round_args *args,
                          size_t rows)
{
    struct call call = {backend, args};
    hy_pool_run(backend->pool, round_work, &call, rows, grain_for(args->n * 4),
                hy_max_size(args->y.block, 1));
}

/* An op whose rows may be rounded behind it: alone and together with that. */
struct rounding_op {
    hy_work alone, together;
    const void *args;
    size_t rows, operations; /* of the op alone, per row */
    struct hy_round_args rounding; /* y.data NULL: none */
};

/* Together the threads need not meet in between. But blocks of rows are rounded by one thread each,
 * and where that leaves threads without work the op alone goes to all of them. */
static void run_rounding(struct hy_backend *backend, const struct rounding_op *op)
{
    const struct hy_rounded *rounded = &op->rounding.y;
    struct call call = {backend, op->args};
    size_t block = hy_max_size(rounded->block, 1);
    bool together = rounded->data
                    && (block == 1 || op->rows / block >= 4 * hy_pool_threads(backend->pool));
    if (together) {
        hy_pool_run(backend->pool, op->together, &call, op->rows,
                    grain_for(op->operations + op->rounding.n * 4), block);
        return;
    }
    hy_pool_run(backend->pool, op->alone, &call, op->rows, grain_for(op->operations), 1);
    if (rounded->data)
        round_on_pool(backend, &op->rounding, op->rows);
}

static void rms_norm_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.rms_norm(call->args, begin, end);
}

static void rounded_norm_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    hy_fused_rms_norm(&call->backend->kernels, call->args, begin, end);
}

void hy_backend_rms_norm(struct hy_backend *backend, const struct hy_rms_norm_args *args,
                         size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    const struct rounding_op op = {rms_norm_work, rounded_norm_work, args, rows, args->n,
                                   hy_round_of(args->y, args->y_stride, args->n, &args->rounded)};
    begin_op(backend);
    if (!plugin)
        run_rounding(backend, &op);
    else if (!plugin->failed)
        plugin->ops->rms_norm(plugin->device, args, rows);
    end_op(backend, HY_OP_RMS_NORM, args, rows);
}

static void norm_parts_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    hy_fused_norm_parts(&call->backend->kernels, call->args, begin, end);
}

void hy_backend_norm_parts(struct hy_backend *backend, const struct hy_norm_parts_args *args,
                           size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    begin_op(backend);
    if (!plugin)
        hy_pool_run(backend->pool, norm_parts_work, &call, rows,
                    grain_for(args->x_stride + args->parts[0].n * 4),
                    hy_max_size(args->rounded.block, 1));
    else if (!plugin->failed)
        plugin->ops->norm_parts(plugin->device, args, rows);
    end_op(backend, HY_OP_NORM_PARTS, args, rows);
}

static void matmul_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    unsigned char *scratch = call->backend->matmul_scratch;
    if (scratch)
        scratch += thread * call->backend->matmul_scratch_bytes;
    call->backend->kernels.matmul(call->args, begin, end, scratch);
}

void hy_backend_matmul(struct hy_backend *backend, const struct hy_matmul_args *args)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    begin_op(backend);
    if (!plugin)
        hy_pool_run(backend->pool, matmul_work, &call, args->n, grain_for(args->m * args->k),
                    LANE_ALIGN);
    else if (!plugin->failed)
        plugin->ops->matmul(plugin->device, args);
    end_op(backend, HY_OP_MATMUL, args, 0);
}

void hy_backend_round(struct hy_backend *backend, const struct hy_round_args *args, size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    begin_op(backend);
    if (!plugin)
        round_on_pool(backend, args, rows);
    else if (!plugin->failed)
        plugin->ops->round(plugin->device, args, rows);
    end_op(backend, HY_OP_ROUND, args, rows);
}

static void rope_store_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    hy_fused_rope_store(&call->backend->kernels, call->args, begin, end);
}

void hy_backend_rope_store(struct hy_backend *backend, const struct hy_rope_store_args *args,
                           size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    size_t numbers = (args->n_heads + args->n_kv_heads) * args->qk_size
                     + args->n_kv_heads * args->v_size;
    begin_op(backend);
    if (!plugin)
        hy_pool_run(backend->pool, rope_store_work, &call, rows, grain_for(numbers), 1);
    else if (!plugin->failed)
        plugin->ops->rope_store(plugin->device, args, rows);
    end_op(backend, HY_OP_ROPE_STORE, args, rows);
}

static void attention_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    float *scratch = call->backend->scratch + thread * call->backend->scratch_floats;
    call->backend->kernels.attention(call->args, begin, end, scratch);
}

void hy_backend_attention(struct hy_backend *backend, const struct hy_attention_args *args,
                          size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    begin_op(backend);
    if (!plugin)
        hy_pool_run(backend->pool, attention_work, &call, rows * args->n_heads,
                    grain_for(args->max_keys * (args->qk_size + args->v_size)), 1);
    else if (!plugin->failed)
        plugin->ops->attention(plugin->device, args, rows);
    end_op(backend, HY_OP_ATTENTION, args, rows);
}

static void conv_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.conv(call->args, begin, end);
}

void hy_backend_conv(struct hy_backend *backend, const struct hy_conv_args *args)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    begin_op(backend);
    if (!plugin) {
        size_t rows = hy_sequences_rows(args->sequences, args->n_sequences) / args->n_sequences;
        hy_pool_run(backend->pool, conv_work, &call, args->n_sequences * args->n,
                    grain_for(rows * (args->width + 8)), LANE_ALIGN);
    } else if (!plugin->failed) {
        plugin->ops->conv(plugin->device, args);
    }
    end_op(backend, HY_OP_CONV, args, 0);
}

static void scan_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.scan(call->args, begin, end);
}

void hy_backend_scan(struct hy_backend *backend, const struct hy_scan_args *args)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    begin_op(backend);
    if (!plugin) {
        size_t rows = hy_sequences_rows(args->sequences, args->n_sequences) / args->n_sequences;
        hy_pool_run(backend->pool, scan_work, &call, args->n_sequences * args->n,
                    grain_for(rows * args->state_size * 8), LANE_ALIGN);
    } else if (!plugin->failed) {
        plugin->ops->scan(plugin->device, args);
    }
    end_op(backend, HY_OP_SCAN, args, 0);
}

static void fuse_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.fuse(call->args, begin, end);
}

static void rounded_fuse_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    hy_fused_fuse(&call->backend->kernels, call->args, begin, end);
}

void hy_backend_fuse(struct hy_backend *backend, const struct hy_fuse_args *args, size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    const struct rounding_op op = {
        fuse_work, rounded_fuse_work, args, rows, args->n * 4,
        hy_round_of(args->y, args->y_stride, args->concat ? 2 * args->n : args->n, &args->rounded)};
    begin_op(backend);
    if (!plugin)
        run_rounding(backend, &op);
    else if (!plugin->failed)
        plugin->ops->fuse(plugin->device, args, rows);
    end_op(backend, HY_OP_FUSE, args, rows);
}

static void swiglu_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.swiglu(call->args, begin, end);
}

static void rounded_swiglu_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    hy_fused_swiglu(&call->backend->kernels, call->args, begin, end);
}

void hy_backend_swiglu(struct hy_backend *backend, const struct hy_swiglu_args *args, size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    const struct rounding_op op = {
        swiglu_work, rounded_swiglu_work, args, rows, args->n * 8,
        hy_round_of(args->y, args->y_stride, args->n, &args->rounded)};
    begin_op(backend);
    if (!plugin)
        run_rounding(backend, &op);
    else if (!plugin->failed)
        plugin->ops->swiglu(plugin->device, args, rows);
    end_op(backend, HY_OP_SWIGLU, args, rows);
}

void hy_backend_sample(struct hy_backend *backend, const struct hy_sample_args *args)
{
    const struct hy_plugin *plugin = backend->plugin;
    begin_op(backend);
    if (plugin && !plugin->failed)
        plugin->ops->sample(plugin->device, args);
    end_op(backend, HY_OP_SAMPLE, args, args->n_rows);
}

static void square_sums_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.square_sums(call->args, begin, end);
}

void hy_backend_square_sums(struct hy_backend *backend, const struct hy_square_sums_args *args,
                            size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    begin_op(backend);
    if (!plugin)
        hy_pool_run(backend->pool, square_sums_work, &call, rows, grain_for(args->n * 4), 1);
    else if (!plugin->failed)
        plugin->ops->square_sums(plugin->device, args, rows);
    end_op(backend, HY_OP_SQUARE_SUMS, args, rows);
}

/* An observer waits for the device, which ends the sum. */
void hy_backend_begin_all_sum(struct hy_backend *backend, const struct hy_all_sum_args *args,
                              size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    begin_op(backend);
    if (plugin && !plugin->failed)
        plugin->ops->begin_all_sum(plugin->device, args, rows);
    end_op(backend, HY_OP_ALL_SUM, args, rows);
}

void hy_backend_end_all_sum(struct hy_backend *backend)
{
    const struct hy_plugin *plugin = backend->plugin;
    if (plugin && !plugin->failed)
        plugin->ops->end_all_sum(plugin->device);
}

void hy_backend_all_sum(struct hy_backend *backend, const struct hy_all_sum_args *args, size_t rows)
{
    hy_backend_begin_all_sum(backend, args, rows);
    hy_backend_end_all_sum(backend);
}

static hymba_status refuse_ranks(hymba_error *error)
{
    return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                   "the CPU cannot be one of several ranks: only devices of a plug-in can");
}

hymba_status hy_backend_join(struct hy_backend *backend, const struct hy_join_args *args,
                             hymba_error *error)
{
    return backend->plugin ? hy_plugin_join(backend->plugin, args, error) : refuse_ranks(error);
}

hymba_status hy_backend_exchange(struct hy_backend *backend, const void *mine, void *all,
                                 size_t bytes, hymba_error *error)
{
    return backend->plugin ? hy_plugin_exchange(backend->plugin, mine, all, bytes, error)
                           : refuse_ranks(error);
}
