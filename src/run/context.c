#include "run/context.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/processor.h"
#include "run/decode.h"
#include "run/group.h"
#include "run/join.h"
#include "run/step_logits.h"

enum {
    DEFAULT_STEP_TOKENS = 128, /* enough rows to hide the weights' traffic behind arithmetic */
    MAX_STEP_TOKENS = 1 << 16,
    MAX_THREADS = 1024,
    MAX_REWIND_TOKENS = 1024
};

static hymba_dtype resolve_dtype(hymba_dtype dtype)
{
    return dtype == HYMBA_DTYPE_DEFAULT ? HYMBA_DTYPE_F32 : dtype;
}

static uint32_t resolve_step_tokens(const hymba_context_params *params)
{
    return params->max_step_tokens ? params->max_step_tokens : DEFAULT_STEP_TOKENS;
}

static unsigned resolve_threads(const hymba_context_params *params)
{
    if (params->executor)
        return params->executor->n_threads;
    return params->n_threads ? params->n_threads : hy_processor_count();
}

static hymba_status check_executor(const hymba_context_params *params, hymba_error *error)
{
    const hymba_executor *executor = params->executor;
    if (!executor)
        return HYMBA_OK;
    if (executor->n_threads == 0 || executor->n_threads > MAX_THREADS)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "executor.n_threads: found %u, expected 1 to %d", executor->n_threads,
                       MAX_THREADS);
    if (params->n_threads != 0 && params->n_threads != executor->n_threads)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "n_threads: found %u, expected 0 or the executor's %u", params->n_threads,
                       executor->n_threads);
    if (executor->reserved != 0)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "executor.reserved: found %u, expected 0",
                       executor->reserved);
    if (!executor->run)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "executor.run: found NULL, which is not allowed");
    return HYMBA_OK;
}

static hymba_status check_params(const hymba_context_params *params, hymba_error *error)
{
    if (!hy_dtype_is_float(resolve_dtype(params->cache_type)) &&
        params->cache_type != HYMBA_DTYPE_INT8 && params->cache_type != HYMBA_DTYPE_FP8)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "cache_type: found %d, expected f32, f16, bf16, int8 or fp8",
                       (int)params->cache_type);
    if (!hy_dtype_is_float(resolve_dtype(params->state_type)))
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "state_type: found %d, expected f32, f16 or bf16", (int)params->state_type);
    if (params->max_step_tokens > MAX_STEP_TOKENS)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "max_step_tokens: found %u, at most %d",
                       params->max_step_tokens, MAX_STEP_TOKENS);
    if (params->n_threads > MAX_THREADS)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "n_threads: found %u, at most %d",
                       params->n_threads, MAX_THREADS);
    if (params->rewind_tokens > MAX_REWIND_TOKENS)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "rewind_tokens: found %u, at most %d",
                       params->rewind_tokens, MAX_REWIND_TOKENS);
    if (params->compute < HYMBA_COMPUTE_DEFAULT || params->compute > HYMBA_COMPUTE_FP8)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "compute: found %d, expected f32, bf16, int8 or fp8", (int)params->compute);
    hymba_status status = hy_ranks_check(params, error);
    return status == HYMBA_OK ? check_executor(params, error) : status;
}

/* Section 5. */
static hymba_status create_frequencies(hymba_context *context, hymba_error *error)
{
    const struct hy_config *config = &context->plan->config;
    size_t half = config->qk_head_size / 2;
    context->inverse_frequency =
        hy_alloc_zero(&context->memory, half + 1, sizeof *context->inverse_frequency);
    if (!context->inverse_frequency)
        return hy_no_memory(error, half * sizeof(double), "the rotation frequencies");
    for (size_t j = 0; config->rope && j < half; j++)
        context->inverse_frequency[j] =
            pow(config->rope_base, -2.0 * (double)j / (double)config->qk_head_size);
    return HYMBA_OK;
}

/* Whether a plug-in's device is asked for. */
static bool wants_plugin(const hymba_context_params *params)
{
    int index;
    return hy_device_parse(params->device, &index) == HY_DEVICE_CUDA;
}

static struct hy_layout_params layout_params(const hymba_context_params *params)
{
    return (struct hy_layout_params){
        .cache_type = resolve_dtype(params->cache_type),
        .state_type = resolve_dtype(params->state_type),
        .step_rows = resolve_step_tokens(params),
        .rewind_tokens = params->rewind_tokens,
    };
}

static int resolve_compute(const hymba_context_params *params, const struct hy_weights *weights,
                           const struct hy_kernels *kernels)
{
    if (params->compute != HYMBA_COMPUTE_DEFAULT)
        return params->compute;
    if (weights->quantised && kernels->has_int8)
        return HYMBA_COMPUTE_INT8;
    return weights->embedding.dtype == HYMBA_DTYPE_BF16 && kernels->has_bf16 ? HYMBA_COMPUTE_BF16
                                                                             : HYMBA_COMPUTE_F32;
}

static hymba_status open_cpu(hymba_context *context, const hymba_context_params *params,
                             hymba_error *error)
{
    if (params->compute == HYMBA_COMPUTE_FP8)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "compute: the CPU computes in f32, bf16 and int8, not in fp8");
    hymba_status status = hy_backend_init(&context->backend, &context->memory, params->cpu,
                                          params->n_threads, params->executor, error);
    context->weights = &context->model->weights;
    context->compute = resolve_compute(params, context->weights, &context->backend.kernels);
    return status;
}

static struct hy_shard shard_of(const struct hy_ranks *ranks)
{
    return (struct hy_shard){.rank = ranks->rank, .world_size = ranks->world_size};
}

/* bf16 products want weights of 16 bits or fewer and a device that has units for them; that is
 * known only once it is open. */
static hymba_status open_device(hymba_context *context, const hymba_context_params *params,
                                int index, hymba_error *error)
{
    hymba_model *model = context->model;
    bool narrow = model->weights.quantised || model->weights.embedding.dtype != HYMBA_DTYPE_F32;
    bool asked = params->compute != HYMBA_COMPUTE_DEFAULT;
    int compute = asked ? params->compute : narrow ? HYMBA_COMPUTE_BF16 : HYMBA_COMPUTE_F32;
    hymba_status status =
        hy_backend_open(&context->backend, &context->memory, index, compute, error);
    if (status == HYMBA_OK)
        status = hy_device_weights_get(model, &context->memory, index, shard_of(&context->ranks),
                                       hy_by_rows_type(compute), &context->device_weights, error);
    if (status != HYMBA_OK)
        return status;
    context->weights = &context->device_weights->weights;
    context->compute = asked || context->backend.kernels.has_bf16 ? compute : HYMBA_COMPUTE_F32;
    context->lists.plugin = context->backend.plugin;
    return HYMBA_OK;
}

/* "cuda" is a rank's own device among those of its machine. */
static int resolve_index(const hymba_context_params *params, int index)
{
    bool several = hy_ranks_are_several(params->ranks) && strcmp(params->device, "cuda") == 0;
    return several ? (int)params->ranks->local_rank : index;
}

static hymba_status open_backend(hymba_context *context, const hymba_context_params *params,
                                 hymba_error *error)
{
    int index;
    switch (hy_device_parse(params->device, &index)) {
    case HY_DEVICE_CPU:
        return open_cpu(context, params, error);
    case HY_DEVICE_CUDA:
        return open_device(context, params, resolve_index(params, index), error);
    default:
        return hy_device_refuse(params->device, error);
    }
}

void hy_context_destroy(hymba_context *context)
{
    struct hy_memory *memory = &context->memory;
    hy_step_lists_free(memory, &context->lists);
    hy_sampling_free(memory, &context->sampling);
    hy_free(memory, context->inverse_frequency);
    hy_ranks_free(memory, &context->ranks);
    hy_meta_state_release(context->meta);
    hy_workspace_free(memory, &context->workspace);
    hy_layout_free(memory, &context->layout);
    hy_device_weights_release(context->model, context->device_weights);
    hy_backend_free(&context->backend);
    hy_plan_free(memory, &context->rank_plan);
    hy_model_release(context->model);
    struct hy_memory own = {.host = memory->host};
    hy_free(&own, context);
}

/* Of the model, or of the rank's part of it, which *own then holds. */
static hymba_status choose_plan(struct hy_memory *memory, const hymba_model *model,
                                struct hy_shard shard, struct hy_plan *own,
                                const struct hy_plan **plan, hymba_error *error)
{
    const struct hy_weights *weights = model->has_weights ? &model->weights : NULL;
    bool several = shard.world_size > 1;
    *plan = several ? own : &model->plan;
    return several ? hy_shard_plan(memory, &model->plan, weights, shard, own, error) : HYMBA_OK;
}

static hymba_status build(hymba_context *context, const hymba_context_params *params,
                          hymba_error *error)
{
    struct hy_layout_params layout = layout_params(params);
    hymba_status status =
        choose_plan(&context->memory, context->model, shard_of(&context->ranks),
                    &context->rank_plan, &context->plan, error);
    const struct hy_plan *plan = context->plan;
    if (status == HYMBA_OK)
        status = open_backend(context, params, error);
    if (status == HYMBA_OK)
        status = hy_ranks_reserve(&context->memory, &context->ranks, error);
    if (status == HYMBA_OK && context->model->weights.quantised && !context->backend.plugin)
        status = hy_backend_reserve_matmul(&context->backend, hy_plan_max_columns(plan), error);
    if (status == HYMBA_OK)
        status = hy_layout_create(&context->memory, plan, &layout, &context->layout, error);
    if (status == HYMBA_OK)
        status = hy_workspace_create(&context->memory, context->backend.plugin, plan,
                                     &context->layout, layout.step_rows, &context->workspace,
                                     error);
    if (status == HYMBA_OK)
        status = hy_meta_state_create(&context->memory, context->backend.plugin,
                                      &context->layout, &context->meta, error);
    if (status == HYMBA_OK)
        status = create_frequencies(context, error);
    return status;
}

hymba_status hy_context_open(hymba_model *model, const hymba_context_params *params,
                             hymba_context **out, hymba_error *error)
{
    struct hy_memory memory;
    *out = NULL;
    hymba_status status = check_params(params, error);
    if (status == HYMBA_OK)
        status = hy_memory_init(&memory, params->host ? params->host : &model->memory.host, error);
    if (status != HYMBA_OK)
        return status;
    if (!model->has_weights)
        return hy_fail(error, HYMBA_ERROR_MISSING,
                       "the model was opened without weights and cannot run");
    hymba_context *context = hy_alloc_zero(&memory, 1, sizeof *context);
    if (!context)
        return hy_no_memory(error, sizeof *context, "the context");
    atomic_init(&context->references, 1);
    hy_memory_inherit(&context->memory, &memory);
    context->memory.limit = params->memory_limit;
    context->model = hy_model_retain(model);
    hy_ranks_set(&context->ranks, params->ranks);
    status = build(context, params, error);
    if (status != HYMBA_OK) {
        hy_context_destroy(context);
        return status;
    }
    hy_log(&context->memory, HYMBA_LOG_INFO,
           "context: device %s, %s kernels, %s arithmetic, %u threads",
           context->backend.device, context->backend.name,
           hy_compute_name(context->compute), hy_pool_threads(context->backend.pool));
    *out = context;
    return HYMBA_OK;
}

static hymba_status create_one(hymba_model *model, const hymba_context_params *params,
                               hymba_context **context, hymba_error *error)
{
    *context = NULL;
    hymba_status status = hy_ranks_check_meeting(params->ranks, error);
    if (status == HYMBA_OK)
        status = hy_context_open(model, params, context, error);
    if (status == HYMBA_OK)
        status = hy_context_join(*context, params->ranks, error);
    if (status != HYMBA_OK) {
        hy_context_release(*context);
        *context = NULL;
    }
    return status;
}

hymba_status hy_context_create(hymba_model *model, const hymba_context_params *params,
                               hymba_context **context, hymba_error *error)
{
    int index;
    if (hy_device_parse(params->device, &index) == HY_DEVICE_SEVERAL)
        return hy_group_create(model, params, context, error);
    return create_one(model, params, context, error);
}

hymba_context *hy_context_retain(hymba_context *context)
{
    atomic_fetch_add(&context->references, 1);
    return context;
}

void hy_context_release(hymba_context *context)
{
    if (!context || atomic_fetch_sub(&context->references, 1) != 1)
        return;
    if (context->group)
        hy_group_destroy(context->group);
    else
        hy_context_destroy(context);
}

hymba_status hy_context_enter(hymba_context *context, hymba_error *error)
{
    if (atomic_exchange(&context->busy, true))
        return hy_fail(error, HYMBA_ERROR_BUSY, "another call is running on this context");
    atomic_store(&context->cancel, false);
    hymba_status status = hy_group_check(context, error);
    if (status != HYMBA_OK)
        hy_context_leave(context);
    return status;
}

void hy_context_leave(hymba_context *context)
{
    atomic_store(&context->busy, false);
}

hymba_status hy_context_check_cancel(hymba_context *context, hymba_error *error)
{
    if (atomic_load(&context->cancel))
        return hy_fail(error, HYMBA_ERROR_CANCELLED, "cancelled by hymba_context_cancel");
    return HYMBA_OK;
}

/* Most keys that a query of a session of n_tokens tokens sees: scores for so many are kept. */
static hymba_status count_keys(const struct hy_state_layout *layout, uint64_t n_tokens,
                               size_t *keys, hymba_error *error)
{
    uint64_t count = n_tokens;
    if (layout->n_full_caches == 0 && count > layout->window)
        count = layout->window + layout->step_rows;
    if (!hy_add_u64(count, layout->n_meta, &count) || count > SIZE_MAX)
        return hy_fail(error, HYMBA_ERROR_LIMIT, "%llu tokens do not fit the address space",
                       (unsigned long long)n_tokens);
    *keys = layout->n_caches > 0 ? (size_t)count : 0;
    return HYMBA_OK;
}

hymba_status hy_context_reserve_keys(hymba_context *context, uint64_t n_tokens, hymba_error *error)
{
    const struct hy_config *config = &context->plan->config;
    size_t keys = 0;
    if (context->layout.n_caches == 0)
        return HYMBA_OK;
    hymba_status status = count_keys(&context->layout, n_tokens, &keys, error);
    if (status != HYMBA_OK)
        return status;
    return hy_backend_reserve_attention(
        &context->backend, config->n_heads / config->n_kv_heads,
        hy_attention_row_floats(config->qk_head_size, config->v_head_size), keys, error);
}

hymba_status hy_context_prepare_meta(hymba_context *context, hymba_error *error)
{
    if (context->meta_ready)
        return HYMBA_OK;
    hymba_status status = hy_decode_meta(context, error);
    context->meta_ready = status == HYMBA_OK;
    return status;
}

/*
 * Adds the parts of the working memory that are not in hy_workspace: the context's record, the
 * recurrent states behind the meta tokens, those of a sequence while it runs (on a device also the
 * place that a single token's go to) and those it will keep for going back, what the rings held
 * before a call of several steps, and the attention scores of all threads.
 */
static hymba_status add_other_bytes(const struct hy_plan *plan,
                                    const struct hy_state_layout *layout,
                                    const hymba_context_params *params, uint64_t n_tokens,
                                    uint64_t *bytes, hymba_error *error)
{
    const struct hy_config *config = &plan->config;
    size_t threads = wants_plugin(params) ? 0 : resolve_threads(params); /* it keeps no scores */
    size_t group = config->n_heads / config->n_kv_heads, keys = 0;
    uint64_t kept = n_tokens > 0 ? n_tokens - 1 : 0; /* of one call; the last state is no extra */
    uint64_t undo = n_tokens > layout->step_rows ? layout->ring_bytes : 0, states, scores;
    uint64_t spare = wants_plugin(params) ? layout->recurrent_bytes : 0;
    hymba_status status = count_keys(layout, n_tokens, &keys, error);
    if (status != HYMBA_OK)
        return status;
    kept = kept < layout->rewind_tokens ? kept : layout->rewind_tokens;
    if (keys > 0)
        keys += hy_attention_row_floats(config->qk_head_size, config->v_head_size);
    if (!hy_mul_u64(1 + kept, hy_layout_recurrent_floats(layout) * sizeof(float), &states) ||
        !hy_mul_u64(keys, threads * group * sizeof(float), &scores) ||
        !hy_add_u64(*bytes, layout->meta_bytes - layout->meta_kv_bytes, bytes) ||
        !hy_add_u64(*bytes, sizeof(struct hymba_context), bytes) ||
        !hy_add_u64(*bytes, undo, bytes) || !hy_add_u64(*bytes, spare, bytes) ||
        !hy_add_u64(*bytes, states, bytes) ||
        !hy_add_u64(*bytes, scores, bytes))
        return hy_fail(error, HYMBA_ERROR_LIMIT, "a context's memory does not fit 64 bits");
    return HYMBA_OK;
}

/* What a context takes that computes by this plan, without weights. */
static hymba_status memory_of_plan(const struct hy_plan *plan, struct hy_memory *memory,
                                   const hymba_context_params *params, hymba_memory_info *info,
                                   hymba_error *error)
{
    struct hy_layout_params wanted = layout_params(params);
    struct hy_state_layout layout;
    size_t bytes = 0;
    hymba_status status = hy_layout_create(memory, plan, &wanted, &layout, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_layout_memory(&layout, info, error);
    if (status == HYMBA_OK)
        status = hy_workspace_bytes(plan, &layout, wants_plugin(params), wanted.step_rows, &bytes,
                                    error);
    info->workspace_bytes = bytes;
    if (wants_plugin(params))
        info->workspace_bytes += hy_workspace_staging_bytes(plan, wanted.step_rows);
    if (status == HYMBA_OK)
        status = add_other_bytes(plan, &layout, params, info->n_tokens, &info->workspace_bytes,
                                 error);
    hy_layout_free(memory, &layout);
    return status;
}

/* The host's weights, and a device's copy of them or of a rank's part. */
static hymba_status count_weights(const hymba_model *model, const hymba_context_params *params,
                                  struct hy_shard shard, uint64_t *bytes, hymba_error *error)
{
    struct hy_split split;
    *bytes = model->weights.bytes;
    if (!wants_plugin(params) || !model->has_weights)
        return HYMBA_OK;
    hymba_status status = hy_shard_split(&model->plan, &model->weights, shard, &split, error);
    if (status == HYMBA_OK)
        *bytes += hy_device_weights_bytes(model, &split, hy_by_rows_type(params->compute));
    return status;
}

static hymba_status memory_of_one(const hymba_model *model, const hymba_context_params *params,
                                  hymba_memory_info *info, hymba_error *error)
{
    const struct hy_plan *plan;
    struct hy_plan rank_plan = {.n_caches = 0};
    struct hy_ranks ranks;
    struct hy_memory memory;
    hymba_status status = check_params(params, error);
    if (status != HYMBA_OK)
        return status;
    hy_ranks_set(&ranks, params->ranks);
    hy_memory_inherit(&memory, &model->memory);
    status = choose_plan(&memory, model, shard_of(&ranks), &rank_plan, &plan, error);
    if (status == HYMBA_OK)
        status = count_weights(model, params, shard_of(&ranks), &info->weight_bytes, error);
    if (status == HYMBA_OK)
        status = memory_of_plan(plan, &memory, params, info, error);
    hy_plan_free(&memory, &rank_plan);
    return status;
}

hymba_status hy_context_memory(const hymba_model *model, const hymba_context_params *params,
                               hymba_memory_info *info, hymba_error *error)
{
    struct hy_group_params first;
    int index;
    if (hy_device_parse(params->device, &index) != HY_DEVICE_SEVERAL)
        return memory_of_one(model, params, info, error);
    hymba_status status = hy_group_rank_params(params, 0, &first, error);
    return status == HYMBA_OK ? memory_of_one(model, &first.params, info, error) : status;
}
