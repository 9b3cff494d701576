#include "format/quantization.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char key[] = "quantization_config";

enum { NAME_SIZE = 700 };

/* A field that may be absent or null, or hold one of the texts (NULL ends the list). */
static hymba_status check_text(const struct hy_fields *fields, const char *name, bool required,
                               const char *const *texts, const char *expected)
{
    const hy_json *found = hy_json_object_get(fields->object, name);
    enum hy_json_kind kind = hy_json_kind(found);
    const char *text = hy_json_string(found, NULL);
    if (!required && (kind == HY_JSON_ABSENT || kind == HY_JSON_NULL))
        return HYMBA_OK;
    for (size_t i = 0; text && texts[i]; i++)
        if (strcmp(text, texts[i]) == 0)
            return HYMBA_OK;
    return hy_field_refuse(fields, HYMBA_ERROR_UNSUPPORTED, name, found, expected);
}

/* A field that would mean something this library does not do. */
static hymba_status check_unused(const struct hy_fields *fields, const char *name)
{
    const hy_json *found = hy_json_object_get(fields->object, name);
    enum hy_json_kind kind = hy_json_kind(found);
    if (kind == HY_JSON_ABSENT || kind == HY_JSON_NULL || (kind == HY_JSON_BOOL &&
        !hy_json_bool(found)) || (kind == HY_JSON_OBJECT && hy_json_object_size(found) == 0))
        return HYMBA_OK;
    return hy_field_refuse(fields, HYMBA_ERROR_UNSUPPORTED, name, found,
                           "null, the only value supported");
}

/* The weights of a group: {"num_bits": 4, "type": "int", "symmetric": true, ...}. */
static hymba_status read_weights(const struct hy_fields *fields, uint32_t *bits, uint32_t *group)
{
    static const char *const types[] = {"int", NULL};
    static const char *const strategies[] = {"group", NULL};
    static const char *const orders[] = {"static", "weight", NULL};
    int64_t num_bits = 0, group_size = 0;
    bool symmetric = true;
    const hy_json *order = hy_json_object_get(fields->object, "actorder");
    hymba_status status =
        hy_field_integer(fields, "num_bits", true, INT32_MIN, INT32_MAX, &num_bits);
    if (status == HYMBA_OK && num_bits != 4 && num_bits != 8)
        status = hy_field_refuse(fields, HYMBA_ERROR_UNSUPPORTED, "num_bits",
                                 hy_json_object_get(fields->object, "num_bits"), "4 or 8");
    if (status == HYMBA_OK)
        status = check_text(fields, "type", true, types, "\"int\", the only value supported");
    if (status == HYMBA_OK)
        status = hy_field_bool(fields, "symmetric", false, &symmetric);
    if (status == HYMBA_OK && !symmetric)
        status = hy_field_refuse(fields, HYMBA_ERROR_UNSUPPORTED, "symmetric",
                                 hy_json_object_get(fields->object, "symmetric"),
                                 "true, the only value supported");
    if (status == HYMBA_OK)
        status = check_text(fields, "strategy", true, strategies,
                            "\"group\", the only value supported");
    if (status == HYMBA_OK)
        status = hy_field_integer(fields, "group_size", true, 1, HY_LARGEST_GROUP, &group_size);
    if (status == HYMBA_OK && group_size % 32 != 0)
        status = hy_field_refuse(fields, HYMBA_ERROR_UNSUPPORTED, "group_size",
                                 hy_json_object_get(fields->object, "group_size"),
                                 "a multiple of 32");
    if (status == HYMBA_OK)
        status = check_unused(fields, "dynamic");
    if (status == HYMBA_OK)
        status = check_unused(fields, "block_structure");
    if (status == HYMBA_OK && (hy_json_kind(order) != HY_JSON_BOOL || hy_json_bool(order)))
        status = check_text(fields, "actorder", false, orders, "null, \"static\" or \"weight\"");
    *bits = (uint32_t)num_bits;
    *group = (uint32_t)group_size;
    return status;
}

static hymba_status check_targets(const struct hy_fields *fields)
{
    const hy_json *targets = hy_json_object_get(fields->object, "targets");
    bool strings = hy_json_kind(targets) == HY_JSON_ARRAY;
    for (size_t i = 0; strings && i < hy_json_array_size(targets); i++)
        strings = hy_json_kind(hy_json_array_get(targets, i)) == HY_JSON_STRING;
    return strings ? HYMBA_OK
                   : hy_field_refuse(fields, HYMBA_ERROR_FORMAT, "targets", targets,
                                     "an array of strings");
}

static hymba_status read_group(const struct hy_fields *fields, struct hy_quantization *out)
{
    static const char *const formats[] = {"pack-quantized", NULL};
    char name[NAME_SIZE];
    const hy_json *weights = hy_json_object_get(fields->object, "weights");
    if (hy_json_kind(fields->object) != HY_JSON_OBJECT)
        return hy_fail(fields->error, HYMBA_ERROR_FORMAT, "%s is %s, expected an object",
                       fields->name, hy_json_kind_name(hy_json_kind(fields->object)));
    if (hy_json_kind(weights) != HY_JSON_OBJECT)
        return hy_field_refuse(fields, HYMBA_ERROR_FORMAT, "weights", weights, "an object");
    hymba_status status = check_targets(fields);
    if (status == HYMBA_OK)
        status = check_unused(fields, "input_activations");
    if (status == HYMBA_OK)
        status = check_unused(fields, "output_activations");
    if (status == HYMBA_OK)
        status = check_text(fields, "format", false, formats,
                            "\"pack-quantized\", the only value supported");
    if (status != HYMBA_OK)
        return status;
    snprintf(name, sizeof name, "%s.weights", fields->name);
    struct hy_fields weight_fields = {weights, name, fields->error};
    status = read_weights(&weight_fields, &out->groups[out->n_groups].bits,
                          &out->groups[out->n_groups].group);
    out->n_groups += status == HYMBA_OK;
    return status;
}

static hymba_status read_groups(const struct hy_fields *fields, struct hy_quantization *out)
{
    const hy_json *groups = hy_json_object_get(fields->object, "config_groups");
    size_t n = hy_json_object_size(groups);
    if (hy_json_kind(groups) != HY_JSON_OBJECT || n == 0)
        return hy_field_refuse(fields, HYMBA_ERROR_FORMAT, "config_groups", groups,
                               "an object with at least one member");
    if (n > HY_MAX_QUANTIZATION_GROUPS)
        return hy_fail(fields->error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: config_groups has %zu members, at most %d are accepted", fields->name,
                       n, HY_MAX_QUANTIZATION_GROUPS);
    hymba_status status = HYMBA_OK;
    for (hy_json_member *member = hy_json_next_member(groups, NULL); member && status == HYMBA_OK;
         member = hy_json_next_member(groups, member)) {
        char name[NAME_SIZE];
        snprintf(name, sizeof name, "%.500s.config_groups.%.60s", fields->name,
                 hy_json_member_key(member, NULL));
        struct hy_fields group = {hy_json_member_value(member), name, fields->error};
        status = read_group(&group, out);
    }
    return status;
}

hymba_status hy_quantization_read(const struct hy_fields *fields, struct hy_quantization *out)
{
    static const char *const methods[] = {"compressed-tensors", NULL};
    static const char *const formats[] = {"pack-quantized", NULL};
    static const char *const states[] = {"compressed", NULL};
    char name[NAME_SIZE];
    const hy_json *object = hy_json_object_get(fields->object, key);
    enum hy_json_kind kind = hy_json_kind(object);
    memset(out, 0, sizeof *out);
    if (kind == HY_JSON_ABSENT || kind == HY_JSON_NULL)
        return HYMBA_OK;
    if (kind != HY_JSON_OBJECT)
        return hy_field_refuse(fields, HYMBA_ERROR_FORMAT, key, object, "an object");
    snprintf(name, sizeof name, "%.500s, %s", fields->name, key);
    struct hy_fields inner = {object, name, fields->error};
    hymba_status status = check_text(&inner, "quant_method", true, methods,
                                     "\"compressed-tensors\", the only value supported");
    if (status == HYMBA_OK)
        status = check_text(&inner, "format", true, formats,
                            "\"pack-quantized\", the only value supported");
    if (status == HYMBA_OK)
        status = check_text(&inner, "quantization_status", false, states,
                            "\"compressed\", the only value supported");
    if (status == HYMBA_OK)
        status = check_unused(&inner, "kv_cache_scheme");
    if (status == HYMBA_OK)
        status = check_unused(&inner, "sparsity_config");
    if (status == HYMBA_OK)
        status = read_groups(&inner, out);
    out->present = status == HYMBA_OK;
    return status;
}

bool hy_quantization_has(const struct hy_quantization *quantization, uint32_t bits,
                         uint64_t group)
{
    for (uint32_t i = 0; i < quantization->n_groups; i++)
        if (quantization->groups[i].bits == bits && quantization->groups[i].group == group)
            return true;
    return false;
}
