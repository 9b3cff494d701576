#include "backend/backend.h"

#include <string.h>

#include "base/checked.h"
#include "base/processor.h"

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

hymba_status hy_backend_reserve_matmul(struct hy_backend *backend, size_t columns,
                                       hymba_error *error)
{
    size_t bytes, per_thread;
    if (columns > SIZE_MAX / 1024)
        return hy_no_memory(error, SIZE_MAX, "the scratch memory of matrix products");
    per_thread = (hy_matmul_scratch(columns) + HY_ALIGNMENT - 1) / HY_ALIGNMENT * HY_ALIGNMENT;
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

void hy_backend_embed(struct hy_backend *backend, const struct hy_embed_args *args, size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    if (plugin) {
        plugin->ops->embed(plugin->device, args, rows);
        return;
    }
    hy_pool_run(backend->pool, embed_work, &call, rows, grain_for(args->table.columns), 1);
}

static void rms_norm_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.rms_norm(call->args, begin, end);
}

void hy_backend_rms_norm(struct hy_backend *backend, const struct hy_rms_norm_args *args,
                         size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    if (plugin) {
        plugin->ops->rms_norm(plugin->device, args, rows);
        return;
    }
    hy_pool_run(backend->pool, rms_norm_work, &call, rows, grain_for(args->n), 1);
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
    if (plugin) {
        plugin->ops->matmul(plugin->device, args);
        return;
    }
    hy_pool_run(backend->pool, matmul_work, &call, args->n, grain_for(args->m * args->k),
                LANE_ALIGN);
}

static void round_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.round(call->args, begin, end);
}

void hy_backend_round(struct hy_backend *backend, const struct hy_round_args *args, size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    if (plugin) {
        plugin->ops->round(plugin->device, args, rows);
        return;
    }
    hy_pool_run(backend->pool, round_work, &call, rows, grain_for(args->n * 4),
                hy_max_size(args->y.block, 1));
}

static void rope_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.rope(call->args, begin, end);
}

void hy_backend_rope(struct hy_backend *backend, const struct hy_rope_args *args, size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    if (plugin) {
        plugin->ops->rope(plugin->device, args, rows);
        return;
    }
    hy_pool_run(backend->pool, rope_work, &call, rows, grain_for(args->n_heads * args->head_size),
                1);
}

static void cache_rows_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.cache_rows(call->args, begin, end);
}

void hy_backend_cache_rows(struct hy_backend *backend, const struct hy_cache_rows_args *args,
                           size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    if (plugin) {
        plugin->ops->cache_rows(plugin->device, args, rows);
        return;
    }
    hy_pool_run(backend->pool, cache_rows_work, &call, rows,
                grain_for(args->n_heads * args->head_size), 1);
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
    if (plugin) {
        plugin->ops->attention(plugin->device, args, rows);
        return;
    }
    hy_pool_run(backend->pool, attention_work, &call, rows * args->n_heads,
                grain_for(args->max_keys * (args->qk_size + args->v_size)), 1);
}

static size_t sequence_rows(const struct hy_state_sequence *sequences, size_t n_sequences)
{
    size_t rows = 0;
    for (size_t i = 0; i < n_sequences; i++)
        rows += sequences[i].segment.n_rows;
    return rows;
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
    if (plugin) {
        plugin->ops->conv(plugin->device, args);
        return;
    }
    size_t rows = sequence_rows(args->sequences, args->n_sequences) / args->n_sequences;
    hy_pool_run(backend->pool, conv_work, &call, args->n_sequences * args->n,
                grain_for(rows * (args->width + 8)), LANE_ALIGN);
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
    if (plugin) {
        plugin->ops->scan(plugin->device, args);
        return;
    }
    size_t rows = sequence_rows(args->sequences, args->n_sequences) / args->n_sequences;
    hy_pool_run(backend->pool, scan_work, &call, args->n_sequences * args->n,
                grain_for(rows * args->state_size * 8), LANE_ALIGN);
}

static void fuse_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.fuse(call->args, begin, end);
}

void hy_backend_fuse(struct hy_backend *backend, const struct hy_fuse_args *args, size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    if (plugin) {
        plugin->ops->fuse(plugin->device, args, rows);
        return;
    }
    hy_pool_run(backend->pool, fuse_work, &call, rows, grain_for(args->n * 4), 1);
}

static void swiglu_work(void *argument, size_t begin, size_t end, unsigned thread)
{
    const struct call *call = argument;
    (void)thread;
    call->backend->kernels.swiglu(call->args, begin, end);
}

void hy_backend_swiglu(struct hy_backend *backend, const struct hy_swiglu_args *args, size_t rows)
{
    const struct hy_plugin *plugin = backend->plugin;
    struct call call = {backend, args};
    if (plugin) {
        plugin->ops->swiglu(plugin->device, args, rows);
        return;
    }
    hy_pool_run(backend->pool, swiglu_work, &call, rows, grain_for(args->n * 8), 1);
}
