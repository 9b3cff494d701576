#include "run/forward.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"

/* A step on its way through the layers. */
struct pass {
    hymba_context *context;
    struct hy_backend *backend;
    const struct hy_plan *plan;
    const struct hy_config *config;
    struct hy_workspace *work;
    const struct hy_step_sequence *sequences;
    size_t n_sequences;
    size_t rows;
};

static void probe(const struct pass *pass, enum hy_probe_site site, int layer, const float *data,
                  size_t width, size_t stride)
{
    const struct hy_probe *observer = &pass->context->probe;
    if (observer->function)
        observer->function(observer->user, site, layer, data, pass->rows, width, stride);
}

static void norm(const struct pass *pass, const float *x, size_t x_stride, const float *weight,
                 size_t n, float *y, size_t y_stride)
{
    struct hy_rms_norm_args args = {
        .x = x,
        .x_stride = x_stride,
        .weight = weight,
        .n = n,
        .epsilon = (float)pass->config->rms_norm_epsilon,
        .y = y,
        .y_stride = y_stride,
    };
    hy_backend_rms_norm(pass->backend, &args, pass->rows);
}

/* A device multiplies quantised weights as the bf16 that they are expanded to. */
static hymba_dtype rounded_type(const struct pass *pass, hymba_dtype weights)
{
    int compute = pass->context->compute;
    bool expands = pass->backend->plugin && compute == HYMBA_COMPUTE_BF16;
    return hy_rounded_type(compute, expands && hy_is_quantised(weights) ? HYMBA_DTYPE_BF16
                                                                        : weights);
}

/* Rows of x in the form that products with w take; dtype F32: as they are. */
static struct hy_rounded round_rows(const struct pass *pass, const float *x, size_t x_stride,
                                    const struct hy_matrix *w)
{
    const struct hy_workspace *work = pass->work;
    struct hy_round_args args = {
        .x = x,
        .x_stride = x_stride,
        .n = w->columns,
        .y = {
            .dtype = rounded_type(pass, w->dtype),
            .data = work->rounded,
            .stride = (w->columns + 31) / 32 * 32,
            .scales = work->rounded_scales,
            .sums = work->rounded_sums,
            .group = w->group,
            .split = w->dtype == HYMBA_DTYPE_INT4,
            .block = hy_min_size(pass->backend->kernels.row_block, pass->rows),
        },
    };
    if (args.y.dtype != HYMBA_DTYPE_F32)
        hy_backend_round(pass->backend, &args, pass->rows);
    return args.y;
}

/* Whether rows rounded for one matrix fit another. */
static bool rounded_alike(const struct hy_matrix *a, const struct hy_matrix *b)
{
    return a->dtype == b->dtype && a->group == b->group && a->columns == b->columns;
}

static void multiply_rounded(const struct pass *pass, const float *x, size_t x_stride,
                             const struct hy_rounded *rounded, const struct hy_matrix *w,
                             const float *bias, bool accumulate, float *y)
{
    struct hy_matmul_args args = {
        .x = x,
        .x_stride = x_stride,
        .rounded = rounded->dtype == HYMBA_DTYPE_F32 ? NULL : rounded,
        .m = pass->rows,
        .n = w->rows,
        .k = w->columns,
        .w = w->data,
        .dtype = w->dtype,
        .w_stride = w->columns,
        .w_scales = w->scales,
        .group = w->group,
        .bias = bias,
        .accumulate = accumulate,
        .y = y,
        .y_stride = w->rows,
    };
    hy_backend_matmul(pass->backend, &args);
}

static void multiply(const struct pass *pass, const float *x, size_t x_stride,
                     const struct hy_matrix *w, const float *bias, bool accumulate, float *y)
{
    struct hy_rounded rounded = round_rows(pass, x, x_stride, w);
    multiply_rounded(pass, x, x_stride, &rounded, w, bias, accumulate, y);
}

/* What the host wrote, to where the step computes. */
static void upload(const struct pass *pass, void *to, const void *host, size_t bytes)
{
    if (pass->backend->plugin)
        hy_store_put(pass->backend->plugin, to, host, bytes);
}

/* Section 3, step 1: embedding rows, or the meta tokens' own rows. */
static void embed(const struct pass *pass)
{
    const struct hy_weights *weights = pass->context->weights;
    bool meta = pass->sequences[0].state->is_meta;
    const struct hy_matrix *table = meta ? &weights->meta : &weights->embedding;
    for (size_t i = 0; i < pass->n_sequences; i++) {
        const struct hy_step_sequence *sequence = &pass->sequences[i];
        for (size_t t = 0; t < sequence->segment.n_rows; t++)
            pass->work->host_ids[sequence->segment.row + t] =
                meta ? (int32_t)(sequence->state->position + t) : sequence->ids[t];
    }
    upload(pass, pass->work->ids, pass->work->host_ids, pass->rows * sizeof *pass->work->ids);
    struct hy_embed_args args = {
        .ids = pass->work->ids,
        .table = *table,
        .y = pass->work->x,
    };
    hy_backend_embed(pass->backend, &args, pass->rows);
}

/* Section 5: the angles of every row's position, the same for all layers. */
static void fill_angles(const struct pass *pass)
{
    size_t half = pass->config->qk_head_size / 2;
    if (!pass->config->rope)
        return;
    for (size_t i = 0; i < pass->n_sequences; i++) {
        const struct hy_step_sequence *sequence = &pass->sequences[i];
        for (size_t t = 0; t < sequence->segment.n_rows; t++) {
            double position = (double)(sequence->state->position + t);
            size_t row = sequence->segment.row + t;
            for (size_t j = 0; j < half; j++) {
                double angle = position * pass->context->inverse_frequency[j];
                pass->work->host_cosine[row * half + j] = (float)cos(angle);
                pass->work->host_sine[row * half + j] = (float)sin(angle);
            }
        }
    }
    size_t bytes = pass->rows * half * sizeof(float);
    upload(pass, pass->work->cosine, pass->work->host_cosine, bytes);
    upload(pass, pass->work->sine, pass->work->host_sine, bytes);
}

static void rotate(const struct pass *pass, float *x, size_t stride, size_t n_heads)
{
    struct hy_rope_args args = {
        .x = x,
        .x_stride = stride,
        .n_heads = n_heads,
        .head_size = pass->config->qk_head_size,
        .cosine = pass->work->cosine,
        .sine = pass->work->sine,
    };
    if (pass->config->rope)
        hy_backend_rope(pass->backend, &args, pass->rows);
}

static void store_rows(const struct pass *pass, const float *x, size_t stride, size_t head_size,
                       size_t offset, size_t head_stride)
{
    struct hy_cache_rows_args args = {
        .x = x,
        .x_stride = stride,
        .n_heads = pass->config->n_kv_heads,
        .head_size = head_size,
        .dtype = pass->context->layout.cache_type,
        .y = pass->work->step_kv + offset,
        .head_stride = head_stride,
    };
    hy_backend_cache_rows(pass->backend, &args, pass->rows);
}

/* A producer's keys and values of this step, rotated and rounded to the cache's type. */
static void produce_kv(const struct pass *pass, uint32_t index)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const struct hy_config *config = pass->config;
    const struct hy_cache_place *place = &pass->context->layout.caches[layer->kv].step;
    float *k = pass->work->proj + layer->k_row, *v = pass->work->proj + layer->v_row;
    rotate(pass, k, layer->in_rows, config->n_kv_heads);
    store_rows(pass, k, layer->in_rows, config->qk_head_size, place->k_offset,
               place->k_head_stride);
    store_rows(pass, v, layer->in_rows, config->v_head_size, place->v_offset,
               place->v_head_stride);
    probe(pass, HY_PROBE_K, (int)index, k, config->n_kv_heads * config->qk_head_size,
          layer->in_rows);
    probe(pass, HY_PROBE_V, (int)index, v, config->n_kv_heads * config->v_head_size,
          layer->in_rows);
}

/* Lists what each sequence may see; returns the largest number of keys of one sequence. */
static size_t list_spans(const struct pass *pass, const struct hy_layer_plan *layer)
{
    struct hy_step_lists *lists = &pass->context->lists;
    struct hy_span *spans = lists->spans;
    size_t max_keys = 0;
    for (size_t i = 0; i < pass->n_sequences; i++) {
        const struct hy_step_sequence *sequence = &pass->sequences[i];
        const struct hy_state *state = sequence->state;
        uint64_t window = layer->window < state->full_window ? layer->window : state->full_window;
        size_t n = hy_state_spans(state, layer->kv, window, spans), keys = 0;
        spans[n++] = hy_step_span(&pass->context->layout, pass->work->step_kv, layer->kv,
                                  sequence->segment.row, sequence->segment.n_rows,
                                  state->position, state->is_meta);
        for (size_t j = 0; j < n; j++)
            keys += spans[j].count;
        max_keys = hy_max_size(max_keys, keys);
        lists->attention[i] = (struct hy_attention_sequence){
            .segment = sequence->segment,
            .position = state->position,
            .window = window,
            .spans = spans,
            .n_spans = n,
        };
        spans += n;
    }
    return max_keys;
}

/* Where a unit multiplies bf16, and rounding was allowed. */
static bool rounds_attention(const hymba_context *context)
{
    return context->compute != HYMBA_COMPUTE_F32 && context->backend.kernels.has_bf16 &&
           context->layout.cache_type == HYMBA_DTYPE_BF16;
}

/* Section 4a. */
static void attend(const struct pass *pass, uint32_t index)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const struct hy_config *config = pass->config;
    rotate(pass, pass->work->proj + layer->q_row, layer->in_rows, config->n_heads);
    if (layer->kv_producer)
        produce_kv(pass, index);
    size_t max_keys = list_spans(pass, layer);
    struct hy_attention_args args = {
        .q = pass->work->proj + layer->q_row,
        .q_stride = layer->in_rows,
        .out = pass->work->attention,
        .out_stride = config->inner_size,
        .n_heads = config->n_heads,
        .n_kv_heads = config->n_kv_heads,
        .qk_size = config->qk_head_size,
        .v_size = config->v_head_size,
        .scale = (float)(1.0 / sqrt((double)config->qk_head_size)),
        .cache_type = pass->context->layout.cache_type,
        .bf16 = rounds_attention(pass->context),
        .sequences = pass->context->lists.attention,
        .n_sequences = pass->n_sequences,
        .max_keys = max_keys,
    };
    hy_backend_attention(pass->backend, &args, pass->rows);
}

/*
 * Convolution and scan run in waves, so that states can be kept row by row: the first wave takes
 * each sequence up to the first row to be kept, every later one a single row more of those that
 * have any left. Without rows to keep there is one wave.
 */
static struct hy_segment wave_segment(const struct hy_step_sequence *sequence, size_t wave)
{
    size_t n_rows = sequence->segment.n_rows;
    size_t first = sequence->keep_begin < sequence->keep_end ? sequence->keep_begin + 1 : n_rows;
    size_t begin = wave == 0 ? 0 : first + wave - 1;
    size_t end = wave == 0 ? first : begin + 1;
    if (begin >= n_rows)
        return (struct hy_segment){0, 0};
    return (struct hy_segment){sequence->segment.row + begin, end - begin};
}

/* Lists the sequences that have rows in the wave; returns how many. */
static size_t list_states(const struct pass *pass, const struct hy_layer_plan *layer, size_t wave)
{
    const struct hy_state_layout *layout = &pass->context->layout;
    size_t conv_floats = layout->n_ssm_layers * layout->conv_elements, n = 0;
    for (size_t i = 0; i < pass->n_sequences; i++) {
        struct hy_segment segment = wave_segment(&pass->sequences[i], wave);
        float *recurrent = pass->sequences[i].recurrent;
        if (segment.n_rows == 0)
            continue;
        pass->context->lists.states[n++] = (struct hy_state_sequence){
            .segment = segment,
            .conv_state = recurrent + layer->ssm_index * layout->conv_elements,
            .ssm_state = recurrent + conv_floats + layer->ssm_index * layout->ssm_elements,
        };
    }
    return n;
}

/* Keeps a layer's part of the states behind the wave's rows: floats values from offset on. */
static void keep_states(const struct pass *pass, size_t wave, size_t offset, size_t floats)
{
    size_t whole = hy_layout_recurrent_floats(&pass->context->layout);
    hy_store_begin_copies(pass->backend->plugin);
    for (size_t i = 0; i < pass->n_sequences; i++) {
        const struct hy_step_sequence *sequence = &pass->sequences[i];
        if (sequence->keep_begin + wave < sequence->keep_end)
            hy_store_copy(pass->backend->plugin, sequence->kept + wave * whole + offset,
                          sequence->recurrent + offset, floats * sizeof(float));
    }
    hy_store_end_copies(pass->backend->plugin);
}

static void convolve(const struct pass *pass, uint32_t index)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    const struct hy_state_layout *layout = &pass->context->layout;
    struct hy_conv_args args = {
        .x = pass->work->proj + layer->x_row,
        .x_stride = layer->in_rows,
        .weight = weights->conv_weight,
        .bias = weights->conv_bias,
        .n = pass->config->inner_size,
        .width = pass->config->conv_width,
        .y = pass->work->conv,
        .y_stride = pass->config->inner_size,
        .sequences = pass->context->lists.states,
    };
    for (size_t wave = 0; (args.n_sequences = list_states(pass, layer, wave)) > 0; wave++) {
        hy_backend_conv(pass->backend, &args);
        keep_states(pass, wave, layer->ssm_index * layout->conv_elements, layout->conv_elements);
    }
}

/* Section 4b, up to the scan's inputs: convolution, then dt, B and C with their norms. */
static void prepare_scan(const struct pass *pass, uint32_t index)
{
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    const struct hy_config *config = pass->config;
    struct hy_workspace *work = pass->work;
    size_t rank = config->dt_rank, n = config->state_size, stride = rank + 2 * n;
    convolve(pass, index);
    multiply(pass, work->conv, config->inner_size, &weights->x_proj, NULL, false, work->dt_b_c);
    float *b = work->dt_b_c + rank, *c = b + n;
    norm(pass, work->dt_b_c, stride, weights->dt_norm, rank, work->dt_b_c, stride);
    norm(pass, b, stride, weights->b_norm, n, b, stride);
    norm(pass, c, stride, weights->c_norm, n, c, stride);
    multiply(pass, work->dt_b_c, stride, &weights->dt_proj, weights->dt_bias, false, work->dt);
}

static void scan(const struct pass *pass, uint32_t index)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    const struct hy_state_layout *layout = &pass->context->layout;
    const struct hy_config *config = pass->config;
    struct hy_workspace *work = pass->work;
    size_t offset = layout->n_ssm_layers * layout->conv_elements +
                    layer->ssm_index * layout->ssm_elements;
    prepare_scan(pass, index);
    struct hy_scan_args args = {
        .dt = work->dt,
        .dt_stride = config->inner_size,
        .x = work->conv,
        .x_stride = config->inner_size,
        .z = work->proj + layer->z_row,
        .z_stride = layer->in_rows,
        .b = work->dt_b_c + config->dt_rank,
        .c = work->dt_b_c + config->dt_rank + config->state_size,
        .bc_stride = config->dt_rank + 2 * config->state_size,
        .a = weights->a,
        .d = weights->d,
        .n = config->inner_size,
        .state_size = config->state_size,
        .y = work->ssm,
        .y_stride = config->inner_size,
        .sequences = pass->context->lists.states,
    };
    for (size_t wave = 0; (args.n_sequences = list_states(pass, layer, wave)) > 0; wave++) {
        hy_backend_scan(pass->backend, &args);
        keep_states(pass, wave, offset, layout->ssm_elements);
    }
}

/* The norms apart, for an observer only: the fused buffer is free until fuse() fills it. */
static void probe_streams(const struct pass *pass, uint32_t index)
{
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    size_t n = pass->config->inner_size;
    if (!pass->context->probe.function)
        return;
    norm(pass, pass->work->attention, n, weights->attention_norm, n, pass->work->fused, n);
    probe(pass, HY_PROBE_ATTENTION_NORM, (int)index, pass->work->fused, n, n);
    norm(pass, pass->work->ssm, n, weights->ssm_norm, n, pass->work->fused, n);
    probe(pass, HY_PROBE_SSM_NORM, (int)index, pass->work->fused, n, n);
}

/* The stream of a layer that has only one. */
static const float *single_stream(const struct pass *pass, uint32_t index)
{
    size_t n = pass->config->inner_size;
    bool attends = pass->plan->layers[index].attention != HYMBA_ATTENTION_NONE;
    const float *stream = attends ? pass->work->attention : pass->work->ssm;
    probe(pass, attends ? HY_PROBE_ATTENTION_NORM : HY_PROBE_SSM_NORM, (int)index, stream, n, n);
    return stream;
}

/* Section 4c; one stream alone passes as it is (section 13). Returns what out_proj reads. */
static const float *fuse(const struct pass *pass, uint32_t index)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    size_t n = pass->config->inner_size;
    if (layer->fusion == HYMBA_FUSION_NONE)
        return single_stream(pass, index);
    probe_streams(pass, index);
    struct hy_fuse_args args = {
        .attention = pass->work->attention,
        .attention_stride = n,
        .ssm = pass->work->ssm,
        .ssm_stride = n,
        .weight_attention = weights->attention_norm,
        .weight_ssm = weights->ssm_norm,
        .n = n,
        .epsilon = (float)pass->config->rms_norm_epsilon,
        .concat = layer->fusion == HYMBA_FUSION_CONCAT,
        .y = pass->work->fused,
        .y_stride = layer->out_columns,
    };
    hy_backend_fuse(pass->backend, &args, pass->rows);
    return pass->work->fused;
}

static void run_mixer(const struct pass *pass, uint32_t index)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    size_t hidden = pass->config->hidden_size;
    struct hy_workspace *work = pass->work;
    norm(pass, work->x, hidden, weights->input_norm, hidden, work->u, hidden);
    probe(pass, HY_PROBE_IN_PROJ, (int)index, work->u, hidden, hidden);
    multiply(pass, work->u, hidden, &weights->in_proj, NULL, false, work->proj);
    if (layer->attention != HYMBA_ATTENTION_NONE)
        attend(pass, index);
    if (layer->ssm != HYMBA_SSM_NONE)
        scan(pass, index);
    const float *mixed = fuse(pass, index);
    probe(pass, HY_PROBE_OUT_PROJ, (int)index, mixed, layer->out_columns, layer->out_columns);
    multiply(pass, mixed, layer->out_columns, &weights->out_proj, NULL, true, work->x);
}

/* Section 3: down(silu(gate(u)) * up(u)), added to the residual stream. */
static void run_ffn(const struct pass *pass, uint32_t index)
{
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    size_t hidden = pass->config->hidden_size, n = pass->config->intermediate_size;
    struct hy_workspace *work = pass->work;
    norm(pass, work->x, hidden, weights->ffn_norm, hidden, work->u, hidden);
    probe(pass, HY_PROBE_GATE_UP, (int)index, work->u, hidden, hidden);
    struct hy_rounded rounded = round_rows(pass, work->u, hidden, &weights->gate);
    multiply_rounded(pass, work->u, hidden, &rounded, &weights->gate, NULL, false, work->gate);
    if (!rounded_alike(&weights->gate, &weights->up))
        rounded = round_rows(pass, work->u, hidden, &weights->up);
    multiply_rounded(pass, work->u, hidden, &rounded, &weights->up, NULL, false, work->up);
    struct hy_swiglu_args args = {
        .gate = work->gate,
        .gate_stride = n,
        .up = work->up,
        .up_stride = n,
        .n = n,
        .y = work->gate,
        .y_stride = n,
    };
    hy_backend_swiglu(pass->backend, &args, pass->rows);
    probe(pass, HY_PROBE_DOWN, (int)index, work->gate, n, n);
    multiply(pass, work->gate, n, &weights->down, NULL, true, work->x);
}

hymba_status hy_forward(hymba_context *context, const struct hy_step_sequence *sequences, size_t n,
                        hymba_error *error)
{
    const struct hy_segment *last = &sequences[n - 1].segment;
    struct pass pass = {
        .context = context,
        .backend = &context->backend,
        .plan = &context->model->plan,
        .config = &context->model->plan.config,
        .work = &context->workspace,
        .sequences = sequences,
        .n_sequences = n,
        .rows = last->row + last->n_rows,
    };
    if (context->probe.function && pass.backend->plugin)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "activations in the memory of %s cannot be observed",
                       pass.backend->device);
    embed(&pass);
    fill_angles(&pass);
    for (uint32_t i = 0; i < pass.config->n_layers; i++) {
        hymba_status status = hy_context_check_cancel(context, error);
        if (status != HYMBA_OK)
            return status;
        if (pass.plan->layers[i].in_rows > 0)
            run_mixer(&pass, i);
        if (pass.plan->layers[i].ffn != HYMBA_FFN_NONE)
            run_ffn(&pass, i);
        probe(&pass, HY_PROBE_HIDDEN, (int)i, pass.work->x, pass.config->hidden_size,
              pass.config->hidden_size);
    }
    return hy_context_check_cancel(context, error); /* during the last one */
}

hymba_status hy_forward_logits(hymba_context *context, const size_t *rows, size_t n,
                               hymba_error *error)
{
    const struct hy_weights *weights = context->weights;
    const struct hy_config *config = &context->model->plan.config;
    size_t hidden = config->hidden_size;
    struct hy_workspace *work = &context->workspace;
    struct pass pass = {
        .context = context,
        .backend = &context->backend,
        .config = config,
        .work = work,
    };
    for (size_t i = 0; i < n; i += pass.rows) { /* neighbours together */
        pass.rows = 1;
        while (i + pass.rows < n && rows[i + pass.rows] == rows[i] + pass.rows)
            pass.rows++;
        norm(&pass, work->x + rows[i] * hidden, hidden, weights->final_norm, hidden,
             work->u + i * hidden, hidden);
    }
    pass.rows = n;
    probe(&pass, HY_PROBE_FINAL_NORM, -1, work->u, hidden, hidden);
    multiply(&pass, work->u, hidden, &weights->head, NULL, false, work->logits);
    if (!context->backend.plugin)
        return HYMBA_OK;
    hy_store_get(context->backend.plugin, work->host_logits, work->logits,
                 n * config->vocabulary_size * sizeof *work->logits);
    return hy_store_finish(context->backend.plugin, error);
}
