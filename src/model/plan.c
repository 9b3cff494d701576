#include "model/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"

/* Lays the slices of in_proj one behind the other (section 2: q, k, v, x, z). */
static void plan_rows(const struct hy_config *config, struct hy_layer_plan *layer)
{
    uint32_t row = 0;
    if (layer->attention != HYMBA_ATTENTION_NONE) {
        layer->q_row = row;
        row += config->n_heads * config->qk_head_size;
        if (layer->kv_producer) {
            layer->k_row = row;
            row += config->n_kv_heads * config->qk_head_size;
            layer->v_row = row;
            row += config->n_kv_heads * config->v_head_size;
        }
    }
    if (layer->ssm != HYMBA_SSM_NONE) {
        layer->x_row = row;
        row += config->inner_size;
        layer->z_row = row;
        row += config->inner_size;
    }
    layer->in_rows = row;
    layer->out_columns = row == 0 ? 0 : config->inner_size;
    if (layer->fusion == HYMBA_FUSION_CONCAT)
        layer->out_columns *= 2;
}

static void plan_layer(struct hy_plan *plan, uint32_t index)
{
    const struct hy_layer_config *config = &plan->config.layers[index];
    struct hy_layer_plan *layer = &plan->layers[index];
    layer->window = UINT64_MAX;
    if (config->attention) {
        layer->attention = config->full_attention ? HYMBA_ATTENTION_FULL : HYMBA_ATTENTION_WINDOW;
        if (!config->full_attention)
            layer->window = plan->config.window;
        layer->kv_producer = config->kv_layer == index;
        if (layer->kv_producer) {
            layer->kv = plan->n_caches;
            plan->caches[plan->n_caches++].layer = index;
        } else {
            layer->kv = plan->layers[config->kv_layer].kv;
        }
        if (config->full_attention)
            plan->caches[layer->kv].full = true;
    }
    if (config->ssm) {
        layer->ssm = HYMBA_SSM_MAMBA1;
        layer->ssm_index = plan->n_ssm_layers++;
    }
    layer->fusion = config->fusion;
    layer->ffn = config->ffn;
    plan_rows(&plan->config, layer);
    if (layer->in_rows > plan->max_in_rows)
        plan->max_in_rows = layer->in_rows;
}

hymba_status hy_plan_create(struct hy_memory *memory, struct hy_config *config,
                            struct hy_plan *plan, hymba_error *error)
{
    memset(plan, 0, sizeof *plan);
    plan->config = *config;
    memset(config, 0, sizeof *config);
    uint32_t n = plan->config.n_layers;
    plan->layers = hy_alloc_zero(memory, n, sizeof *plan->layers);
    plan->caches = hy_alloc_zero(memory, n, sizeof *plan->caches);
    if (!plan->layers || !plan->caches) {
        hy_plan_free(memory, plan);
        return hy_no_memory(error, n * sizeof *plan->layers, "the layer plan");
    }
    for (uint32_t i = 0; i < n; i++)
        plan_layer(plan, i);
    for (uint32_t i = 0; i < plan->n_caches; i++)
        plan->n_full_caches += plan->caches[i].full;
    return HYMBA_OK;
}

void hy_plan_free(struct hy_memory *memory, struct hy_plan *plan)
{
    hy_free(memory, plan->layers);
    hy_free(memory, plan->caches);
    hy_config_free(memory, &plan->config);
    memset(plan, 0, sizeof *plan);
}

static const char *const slot_names[HY_N_SLOTS] = {
    [HY_SLOT_EMBEDDING] = "model.embed_tokens.weight",
    [HY_SLOT_META] = "model.memory_tokens",
    [HY_SLOT_FINAL_NORM] = "model.final_layernorm.weight",
    [HY_SLOT_HEAD] = "lm_head.weight",
    [HY_SLOT_INPUT_NORM] = "input_layernorm.weight",
    [HY_SLOT_IN_PROJ] = "mamba.in_proj.weight",
    [HY_SLOT_CONV_WEIGHT] = "mamba.conv1d.weight",
    [HY_SLOT_CONV_BIAS] = "mamba.conv1d.bias",
    [HY_SLOT_X_PROJ] = "mamba.x_proj.0.weight",
    [HY_SLOT_DT_NORM] = "mamba.dt_layernorm.weight",
    [HY_SLOT_B_NORM] = "mamba.B_layernorm.weight",
    [HY_SLOT_C_NORM] = "mamba.C_layernorm.weight",
    [HY_SLOT_DT_PROJ] = "mamba.dt_proj.0.weight",
    [HY_SLOT_DT_BIAS] = "mamba.dt_proj.0.bias",
    [HY_SLOT_A_LOG] = "mamba.A_log.0",
    [HY_SLOT_D] = "mamba.D.0",
    [HY_SLOT_ATTENTION_NORM] = "mamba.pre_avg_layernorm1.weight",
    [HY_SLOT_SSM_NORM] = "mamba.pre_avg_layernorm2.weight",
    [HY_SLOT_OUT_PROJ] = "mamba.out_proj.weight",
    [HY_SLOT_FFN_NORM] = "pre_moe_layernorm.weight",
    [HY_SLOT_GATE] = "moe.experts.0.gate_proj.weight",
    [HY_SLOT_UP] = "moe.experts.0.up_proj.weight",
    [HY_SLOT_DOWN] = "moe.experts.0.down_proj.weight",
};

static bool slot_exists(const struct hy_plan *plan, enum hy_slot slot, uint32_t layer)
{
    const struct hy_config *config = &plan->config;
    if (slot == HY_SLOT_META)
        return config->n_meta_tokens > 0;
    if (slot == HY_SLOT_HEAD)
        return !config->tie_embeddings;
    if (slot < HY_FIRST_LAYER_SLOT)
        return true;
    const struct hy_layer_plan *this = &plan->layers[layer];
    switch (slot) {
    case HY_SLOT_INPUT_NORM:
    case HY_SLOT_IN_PROJ:
    case HY_SLOT_OUT_PROJ:
        return this->in_rows > 0;
    case HY_SLOT_ATTENTION_NORM:
    case HY_SLOT_SSM_NORM:
        return this->fusion != HYMBA_FUSION_NONE;
    case HY_SLOT_FFN_NORM:
    case HY_SLOT_GATE:
    case HY_SLOT_UP:
    case HY_SLOT_DOWN:
        return this->ffn != HYMBA_FFN_NONE;
    default:
        return this->ssm != HYMBA_SSM_NONE;
    }
}

static void set_shape(struct hy_slot_info *info, uint32_t n_dims, uint64_t a, uint64_t b,
                      uint64_t c)
{
    info->n_dims = n_dims;
    info->shape[0] = a;
    info->shape[1] = b;
    info->shape[2] = c;
    /* Cannot overflow: every factor is a configuration size below 2^24. */
    info->n_elements = a * (n_dims > 1 ? b : 1) * (n_dims > 2 ? c : 1);
}

static void slot_shape(const struct hy_plan *plan, enum hy_slot slot, uint32_t layer,
                       struct hy_slot_info *info)
{
    const struct hy_config *c = &plan->config;
    const struct hy_layer_plan *this = &plan->layers[layer];
    switch (slot) {
    case HY_SLOT_EMBEDDING:
    case HY_SLOT_HEAD:
        set_shape(info, 2, c->vocabulary_size, c->hidden_size, 0);
        break;
    case HY_SLOT_META:
        set_shape(info, 2, c->n_meta_tokens, c->hidden_size, 0);
        break;
    case HY_SLOT_IN_PROJ:
        set_shape(info, 2, this->in_rows, c->hidden_size, 0);
        break;
    case HY_SLOT_CONV_WEIGHT:
        set_shape(info, 3, c->inner_size, 1, c->conv_width);
        break;
    case HY_SLOT_X_PROJ:
        set_shape(info, 2, c->dt_rank + 2 * c->state_size, c->inner_size, 0);
        break;
    case HY_SLOT_DT_NORM:
        set_shape(info, 1, c->dt_rank, 0, 0);
        break;
    case HY_SLOT_B_NORM:
    case HY_SLOT_C_NORM:
        set_shape(info, 1, c->state_size, 0, 0);
        break;
    case HY_SLOT_DT_PROJ:
        set_shape(info, 2, c->inner_size, c->dt_rank, 0);
        break;
    case HY_SLOT_A_LOG:
        set_shape(info, 2, c->inner_size, c->state_size, 0);
        break;
    case HY_SLOT_CONV_BIAS:
    case HY_SLOT_DT_BIAS:
    case HY_SLOT_D:
    case HY_SLOT_ATTENTION_NORM:
    case HY_SLOT_SSM_NORM:
        set_shape(info, 1, c->inner_size, 0, 0);
        break;
    case HY_SLOT_OUT_PROJ:
        set_shape(info, 2, c->hidden_size, this->out_columns, 0);
        break;
    case HY_SLOT_GATE:
    case HY_SLOT_UP:
        set_shape(info, 2, c->intermediate_size, c->hidden_size, 0);
        break;
    case HY_SLOT_DOWN:
        set_shape(info, 2, c->hidden_size, c->intermediate_size, 0);
        break;
    default: /* the norms of the residual stream */
        set_shape(info, 1, c->hidden_size, 0, 0);
        break;
    }
}

bool hy_plan_slot(const struct hy_plan *plan, enum hy_slot slot, uint32_t layer,
                  struct hy_slot_info *info)
{
    if (!slot_exists(plan, slot, layer))
        return false;
    if (slot < HY_FIRST_LAYER_SLOT)
        snprintf(info->name, sizeof info->name, "%s", slot_names[slot]);
    else
        snprintf(info->name, sizeof info->name, "model.layers.%" PRIu32 ".%s", layer,
                 slot_names[slot]);
    slot_shape(plan, slot, layer, info);
    return true;
}

static hymba_status visit_one(const struct hy_plan *plan, enum hy_slot slot, uint32_t layer,
                              hy_slot_visit visit, void *user, hymba_error *error)
{
    struct hy_slot_info info;
    if (!hy_plan_slot(plan, slot, layer, &info))
        return HYMBA_OK;
    return visit(user, slot, layer, &info, error);
}

hymba_status hy_plan_visit(const struct hy_plan *plan, hy_slot_visit visit, void *user,
                           hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (int slot = 0; status == HYMBA_OK && slot < HY_FIRST_LAYER_SLOT; slot++)
        status = visit_one(plan, (enum hy_slot)slot, 0, visit, user, error);
    for (uint32_t layer = 0; layer < plan->config.n_layers; layer++)
        for (int slot = HY_FIRST_LAYER_SLOT; status == HYMBA_OK && slot < HY_N_SLOTS; slot++)
            status = visit_one(plan, (enum hy_slot)slot, layer, visit, user, error);
    return status;
}

static hymba_status count_parameters(void *user, enum hy_slot slot, uint32_t layer,
                                     const struct hy_slot_info *info, hymba_error *error)
{
    uint64_t *total = user;
    (void)slot;
    (void)layer;
    (void)error;
    *total += info->n_elements;
    return HYMBA_OK;
}

size_t hy_plan_max_columns(const struct hy_plan *plan)
{
    const struct hy_config *config = &plan->config;
    size_t most = hy_max_size(config->hidden_size, config->intermediate_size);
    most = hy_max_size(most, 2 * (size_t)config->inner_size); /* of two streams side by side */
    return hy_round_up(hy_max_size(most, config->dt_rank), 32);
}

uint64_t hy_plan_parameters(const struct hy_plan *plan)
{
    uint64_t total = 0;
    hy_plan_visit(plan, count_parameters, &total, NULL);
    return total;
}
