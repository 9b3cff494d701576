#include "run/forward.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "run/pass.h"
#include "run/step_rows.h"

static void norm(const struct hy_pass *pass, const float *x, size_t x_stride,
                 const float *weight, size_t n, float *y, size_t y_stride)
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

/* The norm of rows of the residual stream in u, as products with w read it, as f32 too if that is
 * wanted. */
static struct hy_rounded norm_stream(const struct hy_pass *pass, const float *x,
                                     const float *weight, const struct hy_matrix *w,
                                     bool wants_floats)
{
    size_t hidden = pass->config->hidden_size;
    struct hy_rounded rounded = hy_pass_rounded_for(pass, w);
    struct hy_rms_norm_args args = {
        .x = x,
        .x_stride = hidden,
        .weight = weight,
        .n = hidden,
        .epsilon = (float)pass->config->rms_norm_epsilon,
        .y = wants_floats ? pass->work->u : hy_pass_floats(pass, pass->work->u, &rounded),
        .y_stride = hidden,
        .rounded = rounded,
    };
    hy_backend_rms_norm(pass->backend, &args, pass->rows);
    return rounded;
}

/* Whether rows rounded for one matrix fit another. */
static bool rounded_alike(const struct hy_matrix *a, const struct hy_matrix *b)
{
    return a->dtype == b->dtype && a->group == b->group && a->columns == b->columns
           && a->by_rows == b->by_rows;
}

/* What the host wrote, to where the step computes. */
static void upload(const struct hy_pass *pass, void *to, const void *host, size_t bytes)
{
    if (pass->backend->plugin)
        hy_store_put(pass->backend->plugin, to, host, bytes);
}

/* Rows of nobody have token 0. */
static void fill_ids(const struct hy_pass *pass)
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
static void embed(const struct hy_pass *pass)
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
static void fill_angles(const struct hy_pass *pass)
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

/* The norms apart, for an observer only: the fused buffer is free until fuse() fills it. */
static void probe_streams(const struct hy_pass *pass, uint32_t index)
{
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    size_t n = pass->config->inner_size;
    if (!pass->context->probe.function)
        return;
    norm(pass, pass->work->attention, n, weights->attention_norm, n, pass->work->fused, n);
    hy_pass_probe(pass, HY_PROBE_ATTENTION_NORM, (int)index, pass->work->fused, n, n);
    norm(pass, pass->work->ssm, n, weights->ssm_norm, n, pass->work->fused, n);
    hy_pass_probe(pass, HY_PROBE_SSM_NORM, (int)index, pass->work->fused, n, n);
}

/* The stream of a layer that has only one. */
static const float *single_stream(const struct hy_pass *pass, uint32_t index)
{
    size_t n = pass->config->inner_size;
    bool attends = pass->plan->layers[index].attention != HYMBA_ATTENTION_NONE;
    const float *stream = attends ? pass->work->attention : pass->work->ssm;
    hy_pass_probe(pass, attends ? HY_PROBE_ATTENTION_NORM : HY_PROBE_SSM_NORM, (int)index, stream,
                  n, n);
    return stream;
}

/* Of ranks, whose channels are a part of the rows that the two norms run over: the sums of squares
 * of whole rows. Alone none are needed. */
static const float *sum_squares(const struct hy_pass *pass)
{
    const struct hy_workspace *work = pass->work;
    size_t n = pass->config->inner_size;
    struct hy_square_sums_args args = {
        .attention = work->attention,
        .attention_stride = n,
        .ssm = work->ssm,
        .ssm_stride = n,
        .n = n,
        .sums = work->square_sums,
    };
    if (hy_pass_is_alone(pass))
        return NULL;
    hy_backend_square_sums(pass->backend, &args, pass->rows);
    hy_pass_all_sum(pass, args.sums, 2);
    return args.sums;
}

/* Section 4c; one stream alone passes as it is (section 13). Returns what out_proj reads. */
static const float *fuse(const struct hy_pass *pass, uint32_t index, struct hy_rounded *rounded)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    size_t n = pass->config->inner_size;
    if (layer->fusion == HYMBA_FUSION_NONE) {
        const float *stream = single_stream(pass, index);
        *rounded = hy_pass_round(pass, stream, n, &weights->out_proj);
        return stream;
    }
    *rounded = hy_pass_rounded_for(pass, &weights->out_proj);
    probe_streams(pass, index);
    const float *sums = sum_squares(pass);
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
        .y = hy_pass_floats(pass, pass->work->fused, rounded),
        .y_stride = layer->out_columns,
        .rounded = *rounded,
        .sums = sums,
        .total = pass->context->model->plan.config.inner_size,
    };
    hy_backend_fuse(pass->backend, &args, pass->rows);
    return pass->work->fused;
}

/* Sections 4a and 4b. Among ranks the first half of the second one comes first, so that its sum is
 * under way while attention runs. */
static void run_streams(const struct hy_pass *pass, uint32_t index)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const bool scans = layer->ssm != HYMBA_SSM_NONE, alone = hy_pass_is_alone(pass);
    if (scans && !alone)
        hy_pass_begin_scan(pass, index);
    if (layer->attention != HYMBA_ATTENTION_NONE)
        hy_pass_attend(pass, index);
    if (scans && alone)
        hy_pass_begin_scan(pass, index);
    if (scans)
        hy_pass_scan(pass, index);
}

static void run_mixer(const struct hy_pass *pass, uint32_t index)
{
    const struct hy_layer_plan *layer = &pass->plan->layers[index];
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    size_t hidden = pass->config->hidden_size;
    struct hy_workspace *work = pass->work;
    struct hy_rounded rounded =
        norm_stream(pass, work->x, weights->input_norm, &weights->in_proj, false);
    hy_pass_probe(pass, HY_PROBE_IN_PROJ, (int)index, work->u, hidden, hidden);
    hy_pass_multiply(pass, work->u, hidden, &rounded, &weights->in_proj, NULL, work->proj);
    run_streams(pass, index);
    const float *mixed = fuse(pass, index, &rounded);
    hy_pass_probe(pass, HY_PROBE_OUT_PROJ, (int)index, mixed, layer->out_columns,
                  layer->out_columns);
    hy_pass_add_product(pass, mixed, layer->out_columns, &rounded, &weights->out_proj);
}

/* Section 3: down(silu(gate(u)) * up(u)), added to the residual stream. */
static void run_ffn(const struct hy_pass *pass, uint32_t index)
{
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    size_t hidden = pass->config->hidden_size, n = pass->config->intermediate_size;
    struct hy_workspace *work = pass->work;
    bool alike = rounded_alike(&weights->gate, &weights->up);
    struct hy_rounded rounded =
        norm_stream(pass, work->x, weights->ffn_norm, &weights->gate, !alike);
    hy_pass_probe(pass, HY_PROBE_GATE_UP, (int)index, work->u, hidden, hidden);
    hy_pass_multiply(pass, work->u, hidden, &rounded, &weights->gate, NULL, work->gate);
    if (!alike)
        rounded = hy_pass_round(pass, work->u, hidden, &weights->up);
    hy_pass_multiply(pass, work->u, hidden, &rounded, &weights->up, NULL, work->up);
    rounded = hy_pass_rounded_for(pass, &weights->down);
    struct hy_swiglu_args args = {
        .gate = work->gate,
        .gate_stride = n,
        .up = work->up,
        .up_stride = n,
        .n = n,
        .y = hy_pass_floats(pass, work->gate, &rounded),
        .y_stride = n,
        .rounded = rounded,
    };
    hy_backend_swiglu(pass->backend, &args, pass->rows);
    hy_pass_probe(pass, HY_PROBE_DOWN, (int)index, work->gate, n, n);
    hy_pass_add_product(pass, work->gate, n, &rounded, &weights->down);
}

/* A rank among others, which would wait for it, goes on; it votes behind the step. */
static hymba_status check_cancel(const struct hy_pass *pass, hymba_error *error)
{
    return hy_pass_is_alone(pass) ? hy_context_check_cancel(pass->context, error) : HYMBA_OK;
}

static hymba_status run_layers(const struct hy_pass *pass, hymba_error *error)
{
    for (uint32_t i = 0; i < pass->config->n_layers; i++) {
        hymba_status status = check_cancel(pass, error);
        if (status != HYMBA_OK)
            return status;
        if (pass->plan->layers[i].in_rows > 0)
            run_mixer(pass, i);
        if (pass->plan->layers[i].ffn != HYMBA_FFN_NONE)
            run_ffn(pass, i);
        hy_pass_probe(pass, HY_PROBE_HIDDEN, (int)i, pass->work->x, pass->config->hidden_size,
              pass->config->hidden_size);
    }
    return check_cancel(pass, error); /* during the last one */
}

hymba_status hy_forward(hymba_context *context, const struct hy_step_sequence *sequences, size_t n,
                        hymba_error *error)
{
    const struct hy_segment *last = &sequences[n - 1].segment;
    size_t own_rows = last->row + last->n_rows, step_rows = hy_step_rows(context, sequences, n);
    struct hy_pass pass = {
        .context = context,
        .backend = &context->backend,
        .plan = context->plan,
        .config = &context->plan->config,
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
static struct hy_rounded final_norm(struct hy_pass *pass, const size_t *rows, size_t n)
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
    return hy_pass_round(pass, work->u, hidden, &weights->head);
}

void hy_forward_logits(hymba_context *context, const size_t *rows, size_t n)
{
    const struct hy_weights *weights = context->weights;
    const struct hy_config *config = &context->plan->config;
    size_t hidden = config->hidden_size;
    struct hy_workspace *work = &context->workspace;
    struct hy_pass pass = {
        .context = context,
        .backend = &context->backend,
        .config = config,
        .work = work,
        .buffer_rows = work->logits_buffer_rows,
    };
    struct hy_rounded rounded = final_norm(&pass, rows, n);
    pass.rows = n;
    hy_pass_probe(&pass, HY_PROBE_FINAL_NORM, -1, work->u, hidden, hidden);
    hy_pass_multiply(&pass, work->u, hidden, &rounded, &weights->head, NULL, work->logits);
}
