#include "run/forward.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "run/step_rows.h"

/* A step on its way through the layers. */
struct pass {
    hymba_context *context;
    struct hy_backend *backend;
    const struct hy_plan *plan;
    const struct hy_config *config;
    struct hy_workspace *work;
    const struct hy_step_sequence *sequences;
    size_t n_sequences;
    size_t rows;     /* that ops are called with */
    size_t own_rows; /* those of the sequences, which come first (step_rows.h) */
    size_t buffer_rows; /* that there is room for where products read and write */
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

/* Where rows are rounded for products with w, and how; data is NULL if they are not. */
static struct hy_rounded rounded_for(const struct pass *pass, const struct hy_matrix *w)
{
    const struct hy_workspace *work = pass->work;
    hymba_dtype dtype = rounded_type(pass, w->dtype);
    return (struct hy_rounded){
        .dtype = dtype,
        .data = dtype == HYMBA_DTYPE_F32 ? NULL : work->rounded,
        .stride = (w->columns + 31) / 32 * 32,
        .scales = work->rounded_scales,
        .sums = work->rounded_sums,
        .group = w->group,
        .split = w->dtype == HYMBA_DTYPE_INT4,
        .block = hy_min_size(pass->backend->kernels.row_block, pass->rows),
    };
}

/* Rows of x in the form that products with w take. */
static struct hy_rounded round_rows(const struct pass *pass, const float *x, size_t x_stride,
                                    const struct hy_matrix *w)
{
    struct hy_round_args args = {
        .x = x,
        .x_stride = x_stride,
        .n = w->columns,
        .y = rounded_for(pass, w),
    };
    if (args.y.data)
        hy_backend_round(pass->backend, &args, pass->rows);
    return args.y;
}

/* Where an op puts its rows as f32: nowhere on a device, if they are only read rounded. */
static float *place_floats(const struct pass *pass, float *y, const struct hy_rounded *rounded)
{
    return pass->backend->plugin && rounded->data ? NULL : y;
}

/* The norm of rows of the residual stream in u, as products with w read it, as f32 too if that is
 * wanted. */
static struct hy_rounded norm_stream(const struct pass *pass, const float *x, const float *weight,
                                     const struct hy_matrix *w, bool wants_floats)
{
    size_t hidden = pass->config->hidden_size;
    struct hy_rounded rounded = rounded_for(pass, w);
    struct hy_rms_norm_args args = {
        .x = x,
        .x_stride = hidden,
        .weight = weight,
        .n = hidden,
        .epsilon = (float)pass->config->rms_norm_epsilon,
        .y = wants_floats ? pass->work->u : place_floats(pass, pass->work->u, &rounded),
        .y_stride = hidden,
        .rounded = rounded,
    };
    hy_backend_rms_norm(pass->backend, &args, pass->rows);
    return rounded;
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
        .rounded = rounded->data ? rounded : NULL,
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
        .room = pass->buffer_rows - pass->rows,
    };
    hy_backend_matmul(pass->backend, &args);
}

/* What the host wrote, to where the step computes. */
static void upload(const struct pass *pass, void *to, const void *host, size_t bytes)
{
    if (pass->backend->plugin)
        hy_store_put(pass->backend->plugin, to, host, bytes);
}

/* Rows of nobody have token 0. */
static void fill_ids(const struct pass *pass)
{
    bool meta = pass->sequences[0].state->is_meta;
    for (size_t row = pass->own_rows; row < pass->rows; row++)
        pass->work->host_ids[row] = 0;
    for (size_t i = 0; i < pass->n_sequences; i++) {
        const struct hy_step_sequence *sequence = &pass->sequences[i];
        for (size_t t = 0; t < sequence->segment.n_rows; t++)
            pass->work->host_ids[sequence->segment.row + t] =
                meta ? (int32_t)(sequence->state->position + t) : sequence->ids[t];
    }
    upload(pass, pass->work->ids, pass->work->host_ids, pass->rows * sizeof *pass->work->ids);
}

/* Section 3, step 1: embedding rows, or the meta tokens' own rows. */
static void embed(const struct pass *pass)
{
    const struct hy_weights *weights = pass->context->weights;
    bool meta = pass->sequences[0].state->is_meta;
    const struct hy_matrix *table = meta ? &weights->meta : &weights->embedding;
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
    size_t bytes = pass->rows * half * sizeof(float), own = pass->own_rows * half;
    memset(pass->work->host_cosine + own, 0, bytes - own * sizeof(float));
    memset(pass->work->host_sine + own, 0, bytes - own * sizeof(float));
    upload(pass, pass->work->cosine, pass->work->host_cosine, bytes);
    upload(pass, pass->work->sine, pass->work->host_sine, bytes);
}

/* Queries, and a producer's keys, rotated; the keys and values of this step rounded to the cache's
 * type. */
static void place_heads(const struct pass *pass, uint32_t index)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const struct hy_config *config = pass->config;
    struct hy_workspace *work = pass->work;
    struct hy_rope_store_args args = {
        .q = work->proj + layer->q_row,
        .stride = layer->in_rows,
        .n_heads = config->n_heads,
        .qk_size = config->qk_head_size,
        .v_size = config->v_head_size,
        .cosine = config->rope ? work->cosine : NULL,
        .sine = config->rope ? work->sine : NULL,
        .dtype = pass->context->layout.cache_type,
    };
    if (layer->kv_producer) {
        const struct hy_cache_place *place = &pass->context->layout.caches[layer->kv].step;
        args.k = work->proj + layer->k_row;
        args.v = work->proj + layer->v_row;
        args.n_kv_heads = config->n_kv_heads;
        args.k_rows = work->step_kv + place->k_offset;
        args.v_rows = work->step_kv + place->v_offset;
        args.k_head_stride = place->k_head_stride;
        args.v_head_stride = place->v_head_stride;
    }
    if (config->rope || layer->kv_producer)
        hy_backend_rope_store(pass->backend, &args, pass->rows);
    if (!layer->kv_producer)
        return;
    probe(pass, HY_PROBE_K, (int)index, args.k, config->n_kv_heads * config->qk_head_size,
          layer->in_rows);
    probe(pass, HY_PROBE_V, (int)index, args.v, config->n_kv_heads * config->v_head_size,
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
    place_heads(pass, index);
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

/* A layer's part of a sequence's states: in its working copy, or in the states that it has and in
 * those that are to take their place. */
static struct hy_state_sequence states_of_layer(const struct hy_state_layout *layout,
                                                const struct hy_step_sequence *sequence,
                                                const struct hy_layer_plan *layer)
{
    bool copied = sequence->recurrent != NULL;
    size_t element = copied ? sizeof(float) : layout->state_size;
    size_t first_ssm = copied ? layout->n_ssm_layers * layout->conv_elements * element
                              : layout->ssm_offset;
    size_t conv = layer->ssm_index * layout->conv_elements * element;
    size_t ssm = first_ssm + layer->ssm_index * layout->ssm_elements * element;
    unsigned char *after = copied ? (unsigned char *)sequence->recurrent : sequence->spare;
    const unsigned char *before = copied ? after : sequence->state->recurrent;
    return (struct hy_state_sequence){
        .conv_before = before + conv,
        .conv_after = after + conv,
        .ssm_before = before + ssm,
        .ssm_after = after + ssm,
        .state_type = copied ? HYMBA_DTYPE_F32 : layout->state_type,
    };
}

/* Lists the sequences that have rows in the wave; returns how many. */
static size_t list_states(const struct pass *pass, const struct hy_layer_plan *layer, size_t wave)
{
    struct hy_state_sequence *states = pass->context->lists.states;
    size_t n = 0;
    for (size_t i = 0; i < pass->n_sequences; i++) {
        const struct hy_step_sequence *sequence = &pass->sequences[i];
        struct hy_segment segment = wave_segment(sequence, wave);
        if (segment.n_rows == 0)
            continue;
        states[n] = states_of_layer(&pass->context->layout, sequence, layer);
        states[n++].segment = segment;
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

/* Returns the convolution's output as x_proj reads it. */
static struct hy_rounded convolve(const struct pass *pass, uint32_t index)
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
    if (pass->backend->plugin)
        args.rounded = rounded_for(pass, &weights->x_proj);
    for (size_t wave = 0; (args.n_sequences = list_states(pass, layer, wave)) > 0; wave++) {
        hy_backend_conv(pass->backend, &args);
        keep_states(pass, wave, layer->ssm_index * layout->conv_elements, layout->conv_elements);
    }
    return pass->backend->plugin ? args.rounded
                                 : round_rows(pass, args.y, args.y_stride, &weights->x_proj);
}

/* Section 4b, up to the scan's inputs: convolution, then dt, B and C with their norms. */
static void prepare_scan(const struct pass *pass, uint32_t index)
{
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    const struct hy_config *config = pass->config;
    struct hy_workspace *work = pass->work;
    size_t rank = config->dt_rank, n = config->state_size, stride = rank + 2 * n;
    struct hy_rounded rounded = convolve(pass, index);
    multiply_rounded(pass, work->conv, config->inner_size, &rounded, &weights->x_proj, NULL, false,
                     work->dt_b_c);
    struct hy_norm_parts_args args = {
        .x = work->dt_b_c,
        .x_stride = stride,
        .parts = {{weights->dt_norm, rank}, {weights->b_norm, n}, {weights->c_norm, n}},
        .epsilon = (float)config->rms_norm_epsilon,
        .rounded = rounded_for(pass, &weights->dt_proj),
    };
    hy_backend_norm_parts(pass->backend, &args, pass->rows);
    multiply_rounded(pass, work->dt_b_c, stride, &args.rounded, &weights->dt_proj,
                     weights->dt_bias, false, work->dt);
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
static const float *fuse(const struct pass *pass, uint32_t index, struct hy_rounded *rounded)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    size_t n = pass->config->inner_size;
    if (layer->fusion == HYMBA_FUSION_NONE) {
        const float *stream = single_stream(pass, index);
        *rounded = round_rows(pass, stream, n, &weights->out_proj);
        return stream;
    }
    *rounded = rounded_for(pass, &weights->out_proj);
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
        .y = place_floats(pass, pass->work->fused, rounded),
        .y_stride = layer->out_columns,
        .rounded = *rounded,
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
    struct hy_rounded rounded =
        norm_stream(pass, work->x, weights->input_norm, &weights->in_proj, false);
    probe(pass, HY_PROBE_IN_PROJ, (int)index, work->u, hidden, hidden);
    multiply_rounded(pass, work->u, hidden, &rounded, &weights->in_proj, NULL, false, work->proj);
    if (layer->attention != HYMBA_ATTENTION_NONE)
        attend(pass, index);
    if (layer->ssm != HYMBA_SSM_NONE)
        scan(pass, index);
    const float *mixed = fuse(pass, index, &rounded);
    probe(pass, HY_PROBE_OUT_PROJ, (int)index, mixed, layer->out_columns, layer->out_columns);
    multiply_rounded(pass, mixed, layer->out_columns, &rounded, &weights->out_proj, NULL, true,
                     work->x);
}

/* Section 3: down(silu(gate(u)) * up(u)), added to the residual stream. */
static void run_ffn(const struct pass *pass, uint32_t index)
{
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    size_t hidden = pass->config->hidden_size, n = pass->config->intermediate_size;
    struct hy_workspace *work = pass->work;
    bool alike = rounded_alike(&weights->gate, &weights->up);
    struct hy_rounded rounded =
        norm_stream(pass, work->x, weights->ffn_norm, &weights->gate, !alike);
    probe(pass, HY_PROBE_GATE_UP, (int)index, work->u, hidden, hidden);
    multiply_rounded(pass, work->u, hidden, &rounded, &weights->gate, NULL, false, work->gate);
    if (!alike)
        rounded = round_rows(pass, work->u, hidden, &weights->up);
    multiply_rounded(pass, work->u, hidden, &rounded, &weights->up, NULL, false, work->up);
    rounded = rounded_for(pass, &weights->down);
    struct hy_swiglu_args args = {
        .gate = work->gate,
        .gate_stride = n,
        .up = work->up,
        .up_stride = n,
        .n = n,
        .y = place_floats(pass, work->gate, &rounded),
        .y_stride = n,
        .rounded = rounded,
    };
    hy_backend_swiglu(pass->backend, &args, pass->rows);
    probe(pass, HY_PROBE_DOWN, (int)index, work->gate, n, n);
    multiply_rounded(pass, work->gate, n, &rounded, &weights->down, NULL, true, work->x);
}

static hymba_status run_layers(const struct pass *pass, hymba_error *error)
{
    for (uint32_t i = 0; i < pass->config->n_layers; i++) {
        hymba_status status = hy_context_check_cancel(pass->context, error);
        if (status != HYMBA_OK)
            return status;
        if (pass->plan->layers[i].in_rows > 0)
            run_mixer(pass, i);
        if (pass->plan->layers[i].ffn != HYMBA_FFN_NONE)
            run_ffn(pass, i);
        probe(pass, HY_PROBE_HIDDEN, (int)i, pass->work->x, pass->config->hidden_size,
              pass->config->hidden_size);
    }
    return hy_context_check_cancel(pass->context, error); /* during the last one */
}

hymba_status hy_forward(hymba_context *context, const struct hy_step_sequence *sequences, size_t n,
                        hymba_error *error)
{
    const struct hy_segment *last = &sequences[n - 1].segment;
    size_t own_rows = last->row + last->n_rows, step_rows = hy_step_rows(context, sequences, n);
    struct pass pass = {
        .context = context,
        .backend = &context->backend,
        .plan = &context->model->plan,
        .config = &context->model->plan.config,
        .work = &context->workspace,
        .sequences = sequences,
        .n_sequences = n,
        .rows = hy_max_size(own_rows, step_rows),
        .own_rows = own_rows,
        .buffer_rows = context->workspace.buffer_rows,
    };
    if (context->probe.function && pass.backend->plugin)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "activations in the memory of %s cannot be observed",
                       pass.backend->device);
    fill_ids(&pass);
    fill_angles(&pass);
    if (step_rows > 0)
        hy_backend_begin_step(pass.backend, step_rows);
    embed(&pass);
    hymba_status status = run_layers(&pass, error);
    if (step_rows > 0)
        hy_backend_end_step(pass.backend, status == HYMBA_OK);
    return status;
}

/* Of these rows of the residual stream, in u one after another, as the head reads them. */
static struct hy_rounded final_norm(struct pass *pass, const size_t *rows, size_t n)
{
    const struct hy_weights *weights = pass->context->weights;
    const struct hy_workspace *work = pass->work;
    size_t hidden = pass->config->hidden_size;
    for (size_t i = 0; i < n; i += pass->rows) { /* neighbours together */
        const float *x = work->x + rows[i] * hidden;
        pass->rows = 1;
        while (i + pass->rows < n && rows[i + pass->rows] == rows[i] + pass->rows)
            pass->rows++;
        if (pass->rows == n)
            return norm_stream(pass, x, weights->final_norm, &weights->head, false);
        norm(pass, x, hidden, weights->final_norm, hidden, work->u + i * hidden, hidden);
    }
    pass->rows = n;
    return round_rows(pass, work->u, hidden, &weights->head);
}

void hy_forward_logits(hymba_context *context, const size_t *rows, size_t n)
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
        .buffer_rows = work->logits_buffer_rows,
    };
    struct hy_rounded rounded = final_norm(&pass, rows, n);
    pass.rows = n;
    probe(&pass, HY_PROBE_FINAL_NORM, -1, work->u, hidden, hidden);
    multiply_rounded(&pass, work->u, hidden, &rounded, &weights->head, NULL, false, work->logits);
}
