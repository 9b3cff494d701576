#include "model/quantise_config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "format/json_text.h"

/* The schemes that occur, in the order in which they are met. */
struct schemes {
    const struct hy_recipe *recipe;
    struct hy_scheme items[HY_MAX_QUANTIZATION_GROUPS];
    size_t count;
};

static bool equal(const struct hy_scheme *a, const struct hy_scheme *b)
{
    return a->dtype == b->dtype && a->group == b->group;
}

static hymba_status collect(void *user, enum hy_slot slot, uint32_t layer,
                            const struct hy_slot_info *info, hymba_error *error)
{
    struct schemes *schemes = user;
    struct hy_scheme scheme;
    size_t i = 0;
    (void)layer;
    hymba_status status = hy_recipe_scheme(schemes->recipe, slot, info, &scheme, error);
    if (status != HYMBA_OK || scheme.dtype == HYMBA_DTYPE_DEFAULT)
        return status;
    while (i < schemes->count && !equal(&schemes->items[i], &scheme))
        i++;
    if (i == HY_MAX_QUANTIZATION_GROUPS)
        return hy_fail(error, HYMBA_ERROR_INTERNAL, "more than %d ways to quantise",
                       HY_MAX_QUANTIZATION_GROUPS);
    schemes->items[i] = scheme;
    schemes->count += i == schemes->count;
    return HYMBA_OK;
}

/* Modules under one scheme. */
struct targets {
    const struct hy_plan *plan;
    const struct hy_recipe *recipe;
    const struct hy_scheme *scheme;
    struct hy_json_text *text;
    const char *separator;
};

static void add_name(struct targets *targets, const char *name)
{
    hy_json_text_add(targets->text, "%s", targets->separator);
    hy_json_text_string(targets->text, name);
    targets->separator = ",";
}

/* "model.layers.3.mamba.in_proj.weight" to "re:^model\.layers\.\d+\.mamba\.in_proj$". */
static void add_pattern(struct targets *targets, const char *tensor, size_t length)
{
    char pattern[2 * sizeof((struct hy_slot_info *)0)->name + 16] = "re:^";
    size_t used = strlen(pattern);
    bool in_number = false;
    for (size_t i = 0; i < length; i++) {
        bool digit = tensor[i] >= '0' && tensor[i] <= '9' && tensor[i - 1] == '.' &&
                     strncmp(tensor, "model.layers.", 13) == 0 && i == 13;
        if (digit || (in_number && tensor[i] != '.')) {
            if (digit)
                used += (size_t)snprintf(pattern + used, sizeof pattern - used, "\\d+");
            in_number = true;
            continue;
        }
        in_number = false;
        if (tensor[i] == '.')
            pattern[used++] = '\\';
        pattern[used++] = tensor[i];
    }
    memcpy(pattern + used, "$", 2);
    add_name(targets, pattern);
}

/* Whether a slot has the scheme in this layer; false too where the layer lacks the slot. */
static bool has_scheme(const struct targets *targets, enum hy_slot slot, uint32_t layer,
                       struct hy_slot_info *info, bool *exists)
{
    struct hy_scheme scheme = {HYMBA_DTYPE_DEFAULT, 0};
    *exists = hy_plan_slot(targets->plan, slot, layer, info);
    return *exists &&
           hy_recipe_scheme(targets->recipe, slot, info, &scheme, NULL) == HYMBA_OK &&
           equal(&scheme, targets->scheme);
}

/* One pattern where all layers agree, else the modules' names. */
static void add_slot(struct targets *targets, enum hy_slot slot)
{
    struct hy_slot_info info;
    uint32_t n = slot < HY_FIRST_LAYER_SLOT ? 1 : targets->plan->config.n_layers;
    uint32_t n_existing = 0, n_equal = 0;
    bool exists;
    for (uint32_t layer = 0; layer < n; layer++) {
        n_equal += has_scheme(targets, slot, layer, &info, &exists);
        n_existing += exists;
    }
    for (uint32_t layer = 0; n_equal > 0 && layer < n; layer++) {
        if (!has_scheme(targets, slot, layer, &info, &exists))
            continue;
        char *end = strrchr(info.name, '.'); /* of ".weight" */
        if (n_equal == n_existing && slot >= HY_FIRST_LAYER_SLOT) {
            add_pattern(targets, info.name, (size_t)(end - info.name));
            return;
        }
        *end = '\0';
        add_name(targets, info.name);
    }
}

static void add_group(struct hy_json_text *text, const struct hy_plan *plan,
                      const struct schemes *schemes, size_t index)
{
    const struct hy_scheme *scheme = &schemes->items[index];
    struct targets targets = {plan, schemes->recipe, scheme, text, ""};
    hy_json_text_add(text, "%s\"group_%zu\":{\"targets\":[", index ? "," : "", index);
    for (int slot = 0; slot < HY_N_SLOTS; slot++)
        add_slot(&targets, (enum hy_slot)slot);
    hy_json_text_add(text,
                     "],\"weights\":{\"num_bits\":%d,\"type\":\"int\",\"symmetric\":true,"
                     "\"strategy\":\"group\",\"group_size\":%zu,\"dynamic\":false,"
                     "\"actorder\":null,\"block_structure\":null,\"observer\":\"mse\","
                     "\"observer_kwargs\":{}},\"input_activations\":null,"
                     "\"output_activations\":null}",
                     scheme->dtype == HYMBA_DTYPE_INT8 ? 8 : 4, scheme->group);
}

/* Linear modules that stay as they are. */
static void add_ignored(struct hy_json_text *text, const struct hy_plan *plan,
                        const struct hy_recipe *recipe)
{
    static const struct hy_scheme none = {HYMBA_DTYPE_DEFAULT, 0};
    struct targets targets = {plan, recipe, &none, text, ""};
    add_slot(&targets, HY_SLOT_X_PROJ);
    add_slot(&targets, HY_SLOT_DT_PROJ);
}

hymba_status hy_quantise_config(struct hy_memory *memory, const struct hy_plan *plan,
                                const struct hy_recipe *recipe, char **text, size_t *length,
                                hymba_error *error)
{
    struct schemes schemes = {.recipe = recipe};
    struct hy_json_text builder;
    hymba_status status = hy_plan_visit(plan, collect, &schemes, error);
    if (status != HYMBA_OK)
        return status;
    hy_json_text_begin(memory, &builder);
    hy_json_text_add(&builder, "{\"quant_method\":\"compressed-tensors\","
                               "\"format\":\"pack-quantized\",\"config_groups\":{");
    for (size_t i = 0; i < schemes.count; i++)
        add_group(&builder, plan, &schemes, i);
    hy_json_text_add(&builder, "},\"ignore\":[");
    add_ignored(&builder, plan, recipe);
    hy_json_text_add(&builder, "],\"kv_cache_scheme\":null,\"quantization_status\":\"compressed\","
                               "\"global_compression_ratio\":null}");
    return hy_json_text_finish(&builder, "quantization_config", text, length, error);
}
