#include "run/pass.h"

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
static size_t list_states(const struct hy_pass *pass, const struct hy_layer_plan *layer,
                          size_t wave)
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
static void keep_states(const struct hy_pass *pass, size_t wave, size_t offset, size_t floats)
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
static struct hy_rounded convolve(const struct hy_pass *pass, uint32_t index)
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
        args.rounded = hy_pass_rounded_for(pass, &weights->x_proj);
    for (size_t wave = 0; (args.n_sequences = list_states(pass, layer, wave)) > 0; wave++) {
        hy_backend_conv(pass->backend, &args);
        keep_states(pass, wave, layer->ssm_index * layout->conv_elements, layout->conv_elements);
    }
    return pass->backend->plugin ? args.rounded
                                 : hy_pass_round(pass, args.y, args.y_stride, &weights->x_proj);
}

void hy_pass_begin_scan(const struct hy_pass *pass, uint32_t index)
{
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    struct hy_workspace *work = pass->work;
    struct hy_rounded rounded = convolve(pass, index);
    hy_pass_multiply(pass, work->conv, pass->config->inner_size, &rounded, &weights->x_proj, NULL,
                     work->dt_b_c);
    hy_pass_begin_all_sum(pass, work->dt_b_c, weights->x_proj.rows);
}

/* The scan's inputs: dt, B and C with their norms. */
static void prepare_scan(const struct hy_pass *pass, uint32_t index)
{
    const struct hy_layer_weights *weights = &pass->context->weights->layers[index];
    const struct hy_config *config = pass->config;
    struct hy_workspace *work = pass->work;
    size_t rank = config->dt_rank, n = config->state_size, stride = rank + 2 * n;
    hy_pass_end_all_sum(pass);
    struct hy_norm_parts_args args = {
        .x = work->dt_b_c,
        .x_stride = stride,
        .parts = {{weights->dt_norm, rank}, {weights->b_norm, n}, {weights->c_norm, n}},
        .epsilon = (float)config->rms_norm_epsilon,
        .rounded = hy_pass_rounded_for(pass, &weights->dt_proj),
    };
    hy_backend_norm_parts(pass->backend, &args, pass->rows);
    hy_pass_multiply(pass, work->dt_b_c, stride, &args.rounded, &weights->dt_proj,
                     weights->dt_bias, work->dt);
}

void hy_pass_scan(const struct hy_pass *pass, uint32_t index)
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
