/* A number that tells models apart: for refusing a session saved with another one. */
#include <zlib.h>

#include "model/model.h"

/* Bytes looked at in each matrix: a trained matrix differs everywhere from any other. */
enum { SAMPLE = 256 };

static uLong add(uLong crc, const void *data, size_t size)
{
    return crc32(crc, data, (uInt)size);
}

static uLong add_sample(uLong crc, const void *data, size_t bytes)
{
    const unsigned char *place = data;
    if (bytes <= 2 * SAMPLE)
        return add(crc, place, bytes);
    crc = add(crc, place + bytes / 2, SAMPLE);
    return add(crc, place + bytes - SAMPLE, SAMPLE);
}

static uLong add_matrix(uLong crc, const struct hy_matrix *matrix)
{
    uint64_t shape[3] = {matrix->rows, matrix->columns, (uint64_t)matrix->dtype};
    crc = add(crc, shape, sizeof shape);
    crc = add_sample(crc, matrix->data,
                     matrix->rows * hy_row_bytes(matrix->dtype, matrix->columns));
    if (!hy_is_quantised(matrix->dtype))
        return crc;
    return add_sample(crc, matrix->scales,
                      matrix->rows * (matrix->columns / matrix->group) * sizeof(uint16_t));
}

static uLong add_plan(uLong crc, const struct hy_plan *plan)
{
    const struct hy_config *config = &plan->config;
    double numbers[] = {
        config->vocabulary_size, config->hidden_size,  config->intermediate_size,
        config->n_layers,        config->n_heads,      config->n_kv_heads,
        config->qk_head_size,    config->inner_size,   config->state_size,
        config->conv_width,      config->dt_rank,      config->n_meta_tokens,
        config->window,          config->rope,         config->rope_base,
        config->rms_norm_epsilon,
    };
    crc = add(crc, numbers, sizeof numbers);
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const struct hy_layer_plan *layer = &plan->layers[i];
        uint64_t kinds[] = {(uint64_t)layer->attention, (uint64_t)layer->ssm,
                            (uint64_t)layer->fusion,    (uint64_t)layer->ffn,
                            layer->window,              layer->kv};
        crc = add(crc, kinds, sizeof kinds);
    }
    return crc;
}

static uLong add_weights(uLong crc, const hymba_model *model)
{
    const struct hy_weights *weights = &model->weights;
    const struct hy_config *config = &model->plan.config;
    crc = add_matrix(crc, &weights->embedding);
    crc = add_matrix(crc, &weights->meta);
    crc = add_matrix(crc, &weights->head);
    crc = add(crc, weights->final_norm, config->hidden_size * sizeof(float));
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const struct hy_layer_weights *layer = &weights->layers[i];
        const struct hy_matrix *matrices[] = {&layer->in_proj,  &layer->x_proj, &layer->dt_proj,
                                              &layer->out_proj, &layer->gate,   &layer->up,
                                              &layer->down};
        for (size_t j = 0; j < sizeof matrices / sizeof matrices[0]; j++)
            crc = add_matrix(crc, matrices[j]);
        if (layer->a)
            crc = add(crc, layer->a,
                      (size_t)config->state_size * config->inner_size * sizeof(float));
        if (layer->input_norm)
            crc = add(crc, layer->input_norm, config->hidden_size * sizeof(float));
    }
    return crc;
}

uint64_t hy_model_fingerprint(const hymba_model *model)
{
    uLong plan = add_plan(crc32(0, Z_NULL, 0), &model->plan);
    uLong weights = model->has_weights ? add_weights(plan, model) : 0;
    return (uint64_t)plan << 32 | (uint64_t)weights;
}
