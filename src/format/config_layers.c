#include "format/config_layers.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------- layer_plan (our field) */

enum { MIXER_HYBRID, MIXER_ATTENTION, MIXER_MAMBA, MIXER_NONE };

/* A misspelt key would silently mean its default. */
static hymba_status refuse_unknown_keys(const struct hy_fields *plan)
{
    for (hy_json_member *member = hy_json_next_member(plan->object, NULL); member;
         member = hy_json_next_member(plan->object, member)) {
        const char *key = hy_json_member_key(member, NULL);
        if (strcmp(key, "mixer") != 0 && strcmp(key, "fusion") != 0 && strcmp(key, "ffn") != 0)
            return hy_fail(plan->error, HYMBA_ERROR_FORMAT,
                           "%s: %.100s is not a field, expected \"mixer\", \"fusion\" or \"ffn\"",
                           plan->name, key);
    }
    return HYMBA_OK;
}

static hymba_status read_layer(const struct hy_fields *plan, struct hy_layer_config *layer)
{
    static const char *const mixers[] = {
        [MIXER_HYBRID] = "hybrid",
        [MIXER_ATTENTION] = "attention",
        [MIXER_MAMBA] = "mamba",
        [MIXER_NONE] = "none",
    };
    static const char *const fusions[] = {"mean", "concat"}, *const ffns[] = {"swiglu", "none"};
    int mixer = MIXER_HYBRID, fusion = 0, ffn = 0;
    if (hy_json_kind(plan->object) != HY_JSON_OBJECT)
        return hy_fail(plan->error, HYMBA_ERROR_FORMAT, "%s is %s, expected an object", plan->name,
                       hy_json_kind_name(hy_json_kind(plan->object)));
    hymba_status status = refuse_unknown_keys(plan);
    if (status == HYMBA_OK)
        status = hy_field_choice(plan, "mixer", false, mixers, 4, &mixer);
    if (status == HYMBA_OK)
        status = hy_field_choice(plan, "fusion", false, fusions, 2, &fusion);
    if (status == HYMBA_OK)
        status = hy_field_choice(plan, "ffn", false, ffns, 2, &ffn);
    layer->attention = mixer == MIXER_HYBRID || mixer == MIXER_ATTENTION;
    layer->ssm = mixer == MIXER_HYBRID || mixer == MIXER_MAMBA;
    layer->fusion = fusion == 0 ? HYMBA_FUSION_MEAN : HYMBA_FUSION_CONCAT;
    if (mixer != MIXER_HYBRID)
        layer->fusion = HYMBA_FUSION_NONE;
    layer->ffn = ffn == 0 ? HYMBA_FFN_SWIGLU : HYMBA_FFN_NONE;
    return status;
}

/* The plan is one object for all layers (also the empty one that stands for no plan), or an
 * array with one object for each. */
static hymba_status read_plan(const struct hy_fields *fields, struct hy_config *config)
{
    const hy_json *plan = hy_json_object_get(fields->object, "layer_plan");
    enum hy_json_kind kind = hy_json_kind(plan);
    if (kind != HY_JSON_ARRAY && kind != HY_JSON_OBJECT && kind != HY_JSON_ABSENT)
        return hy_field_refuse(fields, HYMBA_ERROR_FORMAT, "layer_plan", plan,
                               "an object or an array of objects");
    if (kind == HY_JSON_ARRAY && hy_json_array_size(plan) != config->n_layers)
        return hy_fail(fields->error, HYMBA_ERROR_FORMAT,
                       "%s: layer_plan has %zu elements, expected one for each of %" PRIu32
                       " layers",
                       fields->name, hy_json_array_size(plan), config->n_layers);
    for (uint32_t i = 0; i < config->n_layers; i++) {
        struct hy_layer_config *layer = &config->layers[i];
        char name[400];
        struct hy_fields one = {plan, name, fields->error};
        *layer = (struct hy_layer_config){.attention = true, .ssm = true,
                                          .fusion = HYMBA_FUSION_MEAN, .ffn = HYMBA_FFN_SWIGLU};
        layer->kv_layer = i;
        if (kind == HY_JSON_ABSENT)
            continue;
        if (kind == HY_JSON_ARRAY)
            one.object = hy_json_array_get(plan, i);
        snprintf(name, sizeof name, kind == HY_JSON_ARRAY ? "%.300s: layer_plan[%" PRIu32 "]"
                                                          : "%.300s: layer_plan", fields->name, i);
        hymba_status status = read_layer(&one, layer);
        if (status != HYMBA_OK)
            return status;
    }
    return HYMBA_OK;
}

/* --------------------------------------------------------------- full layers */

/* semantics.md, section 6: full without a window, or where global_attn_idx says so. */
static hymba_status read_full_layers(const struct hy_fields *fields, struct hy_config *config)
{
    static const char key[] = "global_attn_idx";
    const hy_json *list = hy_json_object_get(fields->object, key);
    enum hy_json_kind kind = hy_json_kind(list);
    bool may_lack = config->window == 0 && (kind == HY_JSON_ABSENT || kind == HY_JSON_NULL);
    if (kind != HY_JSON_ARRAY && !may_lack)
        return hy_field_refuse(fields, HYMBA_ERROR_FORMAT, key, list,
                               "an array of layer numbers");
    for (uint32_t i = 0; i < config->n_layers; i++)
        config->layers[i].full_attention = config->layers[i].attention && config->window == 0;
    for (size_t i = 0; i < hy_json_array_size(list); i++) {
        int64_t layer = 0;
        hymba_status status = hy_field_element(fields, key, list, i, 0,
                                               (int64_t)config->n_layers - 1, &layer);
        if (status != HYMBA_OK)
            return status;
        config->layers[layer].full_attention = config->layers[layer].attention;
    }
    return HYMBA_OK;
}

/* ------------------------------------------------------------------ KV reuse */

static hymba_status refuse_no_attention(const struct hy_fields *fields, const char *key,
                                        uint32_t layer)
{
    return hy_fail(fields->error, HYMBA_ERROR_FORMAT,
                   "%s: %s names layer %" PRIu32 ", which has no attention heads", fields->name,
                   key, layer);
}

/* Layer number i of group, checked; marks it as used. */
static hymba_status read_group_member(const struct hy_fields *fields, const char *place,
                                      const hy_json *group, size_t i,
                                      const struct hy_config *config, bool *used, uint32_t *member)
{
    int64_t layer = 0;
    hymba_status status = hy_field_element(fields, place, group, i, 0,
                                           (int64_t)config->n_layers - 1, &layer);
    if (status != HYMBA_OK)
        return status;
    *member = (uint32_t)layer;
    if (used[layer])
        return hy_fail(fields->error, HYMBA_ERROR_FORMAT,
                       "%s: %s names layer %" PRIu32 ", which kv_reuse_group named before",
                       fields->name, place, *member);
    used[layer] = true;
    if (!config->layers[layer].attention)
        return refuse_no_attention(fields, place, *member);
    return HYMBA_OK;
}

static hymba_status read_group(const struct hy_fields *fields, const hy_json *group, size_t index,
                               bool *used, struct hy_config *config)
{
    char place[64];
    uint32_t producer = 0, reader = 0;
    snprintf(place, sizeof place, "kv_reuse_group[%zu]", index);
    if (hy_json_kind(group) != HY_JSON_ARRAY || hy_json_array_size(group) == 0)
        return hy_fail(fields->error, HYMBA_ERROR_FORMAT,
                       "%s: %s is %s of %zu elements, expected an array of layer numbers",
                       fields->name, place, hy_json_kind_name(hy_json_kind(group)),
                       hy_json_array_size(group));
    hymba_status status = read_group_member(fields, place, group, 0, config, used, &producer);
    for (size_t i = 1; status == HYMBA_OK && i < hy_json_array_size(group); i++) {
        status = read_group_member(fields, place, group, i, config, used, &reader);
        if (status == HYMBA_OK && reader < producer)
            return hy_fail(fields->error, HYMBA_ERROR_FORMAT,
                           "%s: %s: layer %" PRIu32 " would read keys and values that layer "
                           "%" PRIu32 ", the group's first, makes only after it",
                           fields->name, place, reader, producer);
        if (status == HYMBA_OK)
            config->layers[reader].kv_layer = producer;
    }
    return status;
}

static hymba_status read_groups(const struct hy_fields *fields, const hy_json *groups,
                                struct hy_config *config)
{
    bool used[HY_MAX_LAYERS] = {false};
    for (size_t i = 0; i < hy_json_array_size(groups); i++) {
        hymba_status status =
            read_group(fields, hy_json_array_get(groups, i), i, used, config);
        if (status != HYMBA_OK)
            return status;
    }
    return HYMBA_OK;
}

static hymba_status share_every(const struct hy_fields *fields, uint32_t interval,
                                struct hy_config *config)
{
    for (uint32_t i = 0; i < config->n_layers; i++) {
        uint32_t producer = i - i % interval;
        if (!config->layers[i].attention)
            continue;
        if (!config->layers[producer].attention)
            return refuse_no_attention(fields, "kv_reuse_every_i_layer", producer);
        config->layers[i].kv_layer = producer;
    }
    return HYMBA_OK;
}

/* semantics.md, section 7. */
static hymba_status read_kv_reuse(const struct hy_fields *fields, struct hy_config *config)
{
    const hy_json *groups = hy_json_object_get(fields->object, "kv_reuse_group");
    enum hy_json_kind kind = hy_json_kind(groups);
    int64_t interval = -1;
    hymba_status status = hy_field_integer(fields, "kv_reuse_every_i_layer", false, INT32_MIN,
                                           INT32_MAX, &interval);
    if (status != HYMBA_OK)
        return status;
    if (kind == HY_JSON_ARRAY)
        return read_groups(fields, groups, config);
    if (kind != HY_JSON_NULL && kind != HY_JSON_ABSENT)
        return hy_field_refuse(fields, HYMBA_ERROR_FORMAT, "kv_reuse_group", groups,
                               "an array of arrays of layer numbers, or null");
    return interval > 0 ? share_every(fields, (uint32_t)interval, config) : HYMBA_OK;
}

hymba_status hy_config_read_layers(const struct hy_fields *fields, struct hy_memory *memory,
                                   struct hy_config *config)
{
    config->layers = hy_alloc_zero(memory, config->n_layers, sizeof *config->layers);
    if (!config->layers)
        return hy_no_memory(fields->error, config->n_layers * sizeof *config->layers,
                            "a list of layers");
    hymba_status status = read_plan(fields, config);
    if (status == HYMBA_OK)
        status = read_full_layers(fields, config);
    if (status == HYMBA_OK)
        status = read_kv_reuse(fields, config);
    return status;
}
