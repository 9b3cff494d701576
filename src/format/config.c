#include "format/config.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "format/config_layers.h"
#include "format/field.h"

/* Far above every published shape, and small enough that products of two never overflow. */
enum {
    MAX_VOCABULARY = 1 << 24,
    MAX_HIDDEN = 1 << 16,
    MAX_INTERMEDIATE = 1 << 20,
    MAX_INNER = 1 << 20,
    MAX_EXPAND = 64,
    MAX_META_TOKENS = 1 << 16,
    MAX_STATE = 1024,
    MIN_CONV_WIDTH = 2, /* a width of 1 would have no history: no published file has it */
    MAX_CONV_WIDTH = 16,
    MAX_DT_RANK = 1 << 16,
    MAX_WINDOW = 1 << 30,
    MAX_THETA = 2000000000
};
static const int64_t max_position = (int64_t)1 << 40;

/* ------------------------------------------------- fields with one value only */

struct fixed_field {
    const char *key;
    enum hy_json_kind kind;
    int64_t number;   /* of an integer or boolean */
    const char *text; /* of a string */
};

/* semantics.md, section 10: the published code has other paths for other values; we have not. */
static const struct fixed_field fixed_fields[] = {
    {"model_type", HY_JSON_STRING, 0, "hymba"},
    {"num_experts", HY_JSON_INTEGER, 1, NULL},
    {"memory_tokens_interspersed_every", HY_JSON_INTEGER, 0, NULL},
    {"kq_norm", HY_JSON_STRING, 0, "none"},
    {"mamba_conv_bias", HY_JSON_BOOL, true, NULL},
    {"mamba_proj_bias", HY_JSON_BOOL, false, NULL},
    {"mamba_inner_layernorms", HY_JSON_BOOL, true, NULL},
    {"hidden_act", HY_JSON_STRING, 0, "silu"},
    {"mlp_hidden_act", HY_JSON_STRING, 0, "silu"},
    {"attn_hidden_size", HY_JSON_INTEGER, -1, NULL},
    {"num_mamba", HY_JSON_INTEGER, 1, NULL},
};

static bool equals(const hy_json *value, const struct fixed_field *field)
{
    if (hy_json_kind(value) != field->kind)
        return false;
    if (field->kind == HY_JSON_STRING)
        return strcmp(hy_json_string(value, NULL), field->text) == 0;
    if (field->kind == HY_JSON_BOOL)
        return hy_json_bool(value) == (field->number != 0);
    return hy_json_integer(value) == field->number;
}

static void describe_fixed(const struct fixed_field *field, char *text, size_t size)
{
    if (field->kind == HY_JSON_STRING)
        snprintf(text, size, "\"%s\", the only value supported", field->text);
    else if (field->kind == HY_JSON_BOOL)
        snprintf(text, size, "%s, the only value supported", field->number ? "true" : "false");
    else
        snprintf(text, size, "%" PRId64 ", the only value supported", field->number);
}

static hymba_status check_fixed_fields(const struct hy_fields *fields)
{
    for (size_t i = 0; i < sizeof fixed_fields / sizeof fixed_fields[0]; i++) {
        const struct fixed_field *field = &fixed_fields[i];
        const hy_json *found = hy_json_object_get(fields->object, field->key);
        if (hy_json_kind(found) == HY_JSON_ABSENT || equals(found, field))
            continue;
        char expected[80];
        describe_fixed(field, expected, sizeof expected);
        return hy_field_refuse(fields, HYMBA_ERROR_UNSUPPORTED, field->key, found, expected);
    }
    return HYMBA_OK;
}

/* -------------------------------------------------------------------- sizes */

struct size_field {
    const char *key;
    size_t offset; /* of a uint32_t in struct hy_config */
    bool required;
    int64_t minimum, maximum;
};

#define PLACE(member) offsetof(struct hy_config, member)

static const struct size_field size_fields[] = {
    {"vocab_size", PLACE(vocabulary_size), true, 1, MAX_VOCABULARY},
    {"hidden_size", PLACE(hidden_size), true, 1, MAX_HIDDEN},
    {"intermediate_size", PLACE(intermediate_size), true, 1, MAX_INTERMEDIATE},
    {"num_hidden_layers", PLACE(n_layers), true, 1, HY_MAX_LAYERS},
    {"num_attention_heads", PLACE(n_heads), true, 1, MAX_HIDDEN},
    {"num_key_value_heads", PLACE(n_kv_heads), true, 1, MAX_HIDDEN},
    {"mamba_d_state", PLACE(state_size), true, 1, MAX_STATE},
    {"mamba_d_conv", PLACE(conv_width), true, MIN_CONV_WIDTH, MAX_CONV_WIDTH},
    {"num_memory_tokens", PLACE(n_meta_tokens), false, 0, MAX_META_TOKENS},
};

static hymba_status read_sizes(const struct hy_fields *fields, struct hy_config *config)
{
    for (size_t i = 0; i < sizeof size_fields / sizeof size_fields[0]; i++) {
        const struct size_field *field = &size_fields[i];
        int64_t value = 0;
        hymba_status status = hy_field_integer(fields, field->key, field->required, field->minimum,
                                               field->maximum, &value);
        if (status != HYMBA_OK)
            return status;
        *(uint32_t *)((char *)config + field->offset) = (uint32_t)value;
    }
    return HYMBA_OK;
}

static hymba_status check_multiple(const struct hy_fields *fields, const char *key, uint32_t value,
                                   const char *divisor_key, uint32_t divisor)
{
    if (value % divisor == 0)
        return HYMBA_OK;
    return hy_fail(fields->error, HYMBA_ERROR_FORMAT,
                   "%s: %s is %" PRIu32 ", expected a multiple of %s, which is %" PRIu32,
                   fields->name, key, value, divisor_key, divisor);
}

static hymba_status read_inner_size(const struct hy_fields *fields, struct hy_config *config)
{
    double expand = 2;
    hymba_status status = hy_field_real(fields, "mamba_expand", false, 0, MAX_EXPAND, &expand);
    if (status != HYMBA_OK)
        return status;
    double inner = floor(expand * config->hidden_size);
    if (inner < 1 || inner > MAX_INNER)
        return hy_fail(fields->error, HYMBA_ERROR_FORMAT,
                       "%s: mamba_expand times hidden_size %" PRIu32
                       " is %.0f, expected 1 to %d",
                       fields->name, config->hidden_size, inner, MAX_INNER);
    config->inner_size = (uint32_t)inner;
    return check_multiple(fields, "mamba_expand times hidden_size", config->inner_size,
                          "num_attention_heads", config->n_heads);
}

/* semantics.md, section 1. */
static hymba_status read_head_sizes(const struct hy_fields *fields, struct hy_config *config)
{
    int64_t kq_head_size = -1;
    hymba_status status = check_multiple(fields, "hidden_size", config->hidden_size,
                                         "num_attention_heads", config->n_heads);
    if (status == HYMBA_OK)
        status = check_multiple(fields, "num_attention_heads", config->n_heads,
                                "num_key_value_heads", config->n_kv_heads);
    if (status == HYMBA_OK)
        status = read_inner_size(fields, config);
    if (status == HYMBA_OK)
        status = hy_field_integer(fields, "kq_head_dim", false, -1, MAX_HIDDEN, &kq_head_size);
    if (status != HYMBA_OK)
        return status;
    config->qk_head_size = config->hidden_size / config->n_heads;
    config->v_head_size = config->inner_size / config->n_heads;
    if (kq_head_size == -1 || kq_head_size == config->qk_head_size)
        return HYMBA_OK;
    return hy_fail(fields->error, HYMBA_ERROR_UNSUPPORTED,
                   "%s: kq_head_dim is %" PRId64 ", expected -1 or %" PRIu32
                   " (hidden_size / num_attention_heads)",
                   fields->name, kq_head_size, config->qk_head_size);
}

static hymba_status read_dt_rank(const struct hy_fields *fields, struct hy_config *config)
{
    static const char expected[] = "an integer from 1 to 65536 or \"auto\"";
    const hy_json *found = hy_json_object_get(fields->object, "mamba_dt_rank");
    const char *word = hy_json_string(found, NULL);
    int64_t rank = hy_json_integer(found);
    if (word && strcmp(word, "auto") == 0)
        rank = (config->hidden_size + 15) / 16;
    else if (hy_json_kind(found) != HY_JSON_INTEGER || rank < 1 || rank > MAX_DT_RANK)
        return hy_field_refuse(fields, HYMBA_ERROR_FORMAT, "mamba_dt_rank", found, expected);
    config->dt_rank = (uint32_t)rank;
    return HYMBA_OK;
}

static hymba_status read_window(const struct hy_fields *fields, struct hy_config *config)
{
    int64_t window = 0;
    hymba_status status = HYMBA_OK;
    const hy_json *found = hy_json_object_get(fields->object, "sliding_window");
    if (hy_json_kind(found) != HY_JSON_NULL)
        status = hy_field_integer(fields, "sliding_window", false, 1, MAX_WINDOW, &window);
    config->window = (uint32_t)window;
    return status;
}

/* --------------------------------------------------------- rotary embedding */

enum { ROPE_DEFAULT, ROPE_NTK };

static hymba_status read_rope_type(const struct hy_fields *fields, int *type)
{
    static const char *const names[] = {[ROPE_DEFAULT] = "default", [ROPE_NTK] = "ntk"};
    *type = ROPE_DEFAULT;
    if (hy_json_kind(hy_json_object_get(fields->object, "rope_type")) == HY_JSON_NULL)
        return HYMBA_OK;
    return hy_field_choice(fields, "rope_type", false, names, 2, type);
}

/* base * (2 max / original - 1)^(hd / (hd - 2)): semantics.md, section 5. */
static hymba_status scale_base(const struct hy_fields *fields, struct hy_config *config)
{
    int64_t original = 0;
    double size = config->qk_head_size;
    hymba_status status = hy_field_integer(fields, "orig_max_position_embeddings", true, 1,
                                           max_position, &original);
    if (status != HYMBA_OK)
        return status;
    if (config->max_position == 0)
        return hy_field_refuse(fields, HYMBA_ERROR_FORMAT, "max_position_embeddings", NULL,
                               "an integer, which rope_type \"ntk\" needs");
    if (config->qk_head_size <= 2)
        return hy_fail(fields->error, HYMBA_ERROR_FORMAT,
                       "%s: rope_type is \"ntk\", which needs a head size above 2; "
                       "hidden_size / num_attention_heads is %" PRIu32,
                       fields->name, config->qk_head_size);
    double factor = 2.0 * (double)config->max_position / (double)original - 1.0;
    if (factor > 0)
        config->rope_base *= pow(factor, size / (size - 2.0));
    if (factor > 0 && config->rope_base > 0 && isfinite(config->rope_base))
        return HYMBA_OK;
    return hy_fail(fields->error, HYMBA_ERROR_FORMAT,
                   "%s: max_position_embeddings %" PRIu64
                   " and orig_max_position_embeddings %" PRId64
                   " give no usable base for rope_type \"ntk\"",
                   fields->name, config->max_position, original);
}

static hymba_status read_rope(const struct hy_fields *fields, struct hy_config *config)
{
    double theta = 10000;
    int64_t position = 0;
    int type = ROPE_DEFAULT;
    hymba_status status = hy_field_bool(fields, "rope", false, &config->rope);
    if (status == HYMBA_OK)
        status = hy_field_real(fields, "rope_theta", false, 0, MAX_THETA, &theta);
    if (status == HYMBA_OK)
        status = hy_field_integer(fields, "max_position_embeddings", false, 1, max_position,
                                  &position);
    if (status == HYMBA_OK)
        status = read_rope_type(fields, &type);
    config->max_position = (uint64_t)position;
    if (status != HYMBA_OK || !config->rope)
        return status;
    if (config->qk_head_size % 2 != 0)
        return hy_fail(fields->error, HYMBA_ERROR_FORMAT,
                       "%s: rope needs an even head size, hidden_size / num_attention_heads is "
                       "%" PRIu32,
                       fields->name, config->qk_head_size);
    config->rope_base = theta;
    return type == ROPE_NTK ? scale_base(fields, config) : HYMBA_OK;
}

/* ----------------------------------------------------------- special tokens */

/* An id, null, or (as generation settings have it) a list of one id. */
static hymba_status read_token(const struct hy_fields *fields, const char *key,
                               const struct hy_config *config, int32_t *token)
{
    const hy_json *found = hy_json_object_get(fields->object, key);
    enum hy_json_kind kind = hy_json_kind(found);
    int64_t last = (int64_t)config->vocabulary_size - 1, value = -1;
    hymba_status status = HYMBA_OK;
    if (kind == HY_JSON_ARRAY && hy_json_array_size(found) != 1)
        return hy_fail(fields->error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: %s is an array of %zu, expected one token", fields->name, key,
                       hy_json_array_size(found));
    if (kind == HY_JSON_ARRAY)
        status = hy_field_element(fields, key, found, 0, 0, last, &value);
    else if (kind != HY_JSON_NULL)
        status = hy_field_integer(fields, key, false, 0, last, &value);
    *token = (int32_t)value;
    return status;
}

/* -------------------------------------------------------------------- whole */

static hymba_status read_config(const struct hy_fields *fields, struct hy_memory *memory,
                                struct hy_config *config)
{
    if (hy_json_kind(fields->object) != HY_JSON_OBJECT)
        return hy_fail(fields->error, HYMBA_ERROR_FORMAT, "%s is %s, expected an object",
                       fields->name, hy_json_kind_name(hy_json_kind(fields->object)));
    hymba_status status = check_fixed_fields(fields);
    if (status == HYMBA_OK)
        status = read_sizes(fields, config);
    if (status == HYMBA_OK)
        status = read_head_sizes(fields, config);
    if (status == HYMBA_OK)
        status = read_dt_rank(fields, config);
    if (status == HYMBA_OK)
        status = read_window(fields, config);
    if (status == HYMBA_OK)
        status = hy_field_bool(fields, "tie_word_embeddings", true, &config->tie_embeddings);
    if (status == HYMBA_OK)
        status = hy_field_real(fields, "rms_norm_eps", true, 0, 1, &config->rms_norm_epsilon);
    if (status == HYMBA_OK)
        status = read_rope(fields, config);
    if (status == HYMBA_OK)
        status = read_token(fields, "bos_token_id", config, &config->bos_token);
    if (status == HYMBA_OK)
        status = read_token(fields, "eos_token_id", config, &config->eos_token);
    if (status == HYMBA_OK)
        status = hy_quantization_read(fields, &config->quantization);
    if (status == HYMBA_OK)
        status = hy_config_read_layers(fields, memory, config);
    return status;
}

hymba_status hy_config_parse(struct hy_memory *memory, const char *text, size_t length,
                             const char *name, struct hy_config *config, hymba_error *error)
{
    hy_json *document = NULL;
    memset(config, 0, sizeof *config);
    hymba_status status = hy_json_parse(text, length, name, &document, error);
    if (status == HYMBA_OK) {
        struct hy_fields fields = {document, name, error};
        status = read_config(&fields, memory, config);
    }
    hy_json_free(document);
    if (status != HYMBA_OK)
        hy_config_free(memory, config);
    return status;
}

void hy_config_free(struct hy_memory *memory, struct hy_config *config)
{
    hy_free(memory, config->layers);
    memset(config, 0, sizeof *config);
}
