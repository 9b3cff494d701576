#include "format/config.h"

#include <inttypes.h>
#include <string.h>

#include "format/json_text.h"

enum { N_FULL = 3, STATE_SIZE = 16, CONV_WIDTH = 4, EXPAND = 2 };

/* What differs between the presets; full_layers in ascending order. */
struct preset {
    const char *name;
    uint32_t vocabulary_size, hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads;
    uint32_t window, n_meta_tokens, max_position, original_max_position;
    uint32_t full_layers[N_FULL];
};

static const struct preset presets[] = {
    {"tiny", 512, 128, 192, 8, 2, 1, 32, 8, 1024, 256, {0, 3, 7}},
    {"125m", 32001, 512, 1664, 24, 8, 4, 1024, 128, 8192, 2048, {0, 11, 23}},
    {"350m", 32001, 768, 2432, 32, 12, 4, 1024, 128, 8192, 2048, {0, 15, 31}},
    {"1.5b", 32001, 1600, 5504, 32, 25, 5, 1024, 128, 8192, 2048, {0, 15, 31}},
};

enum { N_PRESETS = sizeof presets / sizeof presets[0] };

static bool is_full(const struct preset *preset, uint32_t layer)
{
    for (int i = 0; i < N_FULL; i++)
        if (preset->full_layers[i] == layer)
            return true;
    return false;
}

static void add_group(struct hy_json_text *text, uint32_t first, uint32_t count, bool *began)
{
    hy_json_text_add(text, "%s\n    [", *began ? "," : "");
    for (uint32_t i = 0; i < count; i++)
        hy_json_text_add(text, i ? ", %" PRIu32 : "%" PRIu32, first + i);
    hy_json_text_add(text, "]");
    *began = true;
}

/* Neighbouring window layers share keys and values in pairs; a run of odd length begins with a
 * group of three. */
static void add_groups(struct hy_json_text *text, const struct preset *preset)
{
    bool began = false;
    hy_json_text_add(text, "  \"kv_reuse_group\": [");
    for (uint32_t first = 0, end; first < preset->n_layers; first = end + 1) {
        for (end = first; end < preset->n_layers && !is_full(preset, end);)
            end++;
        while (end - first >= 2) {
            uint32_t count = 2 + (end - first) % 2;
            add_group(text, first, count, &began);
            first += count;
        }
    }
    hy_json_text_add(text, "\n  ],\n");
}

static void add_layer_types(struct hy_json_text *text, const struct preset *preset)
{
    hy_json_text_add(text, "  \"layer_type\": [");
    for (uint32_t i = 0; i < preset->n_layers; i++)
        hy_json_text_add(text, i ? ", \"h\"" : "\"h\"");
    hy_json_text_add(text, "],\n");
}

static void add_conv_sizes(struct hy_json_text *text, const struct preset *preset)
{
    hy_json_text_add(text, "  \"conv_dim\": {");
    for (uint32_t i = 0; i < preset->n_layers; i++)
        hy_json_text_add(text, "%s\n    \"%" PRIu32 "\": %" PRIu32, i ? "," : "", i,
                         EXPAND * preset->hidden_size);
    hy_json_text_add(text, "\n  },\n");
}

static void add_number(struct hy_json_text *text, const char *key, uint32_t value)
{
    hy_json_text_add(text, "  \"%s\": %" PRIu32 ",\n", key, value);
}

/* Fields whose value every preset shares. */
static const char before_conv_sizes[] =
    "{\n"
    "  \"architectures\": [\"HymbaForCausalLM\"],\n"
    "  \"attention_dropout\": 0.0,\n"
    "  \"attn_hidden_size\": -1,\n"
    "  \"attn_implementation\": \"flex\",\n"
    "  \"attn_implementation_new\": \"flex\",\n"
    "  \"auto_map\": {\n"
    "    \"AutoConfig\": \"configuration_hymba.HymbaConfig\",\n"
    "    \"AutoModelForCausalLM\": \"modeling_hymba.HymbaForCausalLM\"\n"
    "  },\n"
    "  \"bos_token_id\": 1,\n"
    "  \"calc_logits_for_entire_prompt\": false,\n";

static const char before_groups[] =
    "  \"initializer_range\": 0.02,\n"
    "  \"kq_head_dim\": -1,\n"
    "  \"kq_norm\": \"none\",\n"
    "  \"kv_reuse_every_i_layer\": -1,\n";

static const char before_sizes[] =
    "  \"mamba_conv_bias\": true,\n"
    "  \"mamba_inner_layernorms\": true,\n"
    "  \"mamba_proj_bias\": false,\n"
    "  \"memory_tokens_interspersed_every\": 0,\n"
    "  \"mlp_hidden_act\": \"silu\",\n"
    "  \"model_type\": \"hymba\",\n"
    "  \"num_experts\": 1,\n"
    "  \"num_experts_per_tok\": 1,\n"
    "  \"num_mamba\": 1,\n"
    "  \"output_router_logits\": false,\n"
    "  \"pad_token_id\": 0,\n"
    "  \"rms_norm_eps\": 1e-06,\n"
    "  \"rope\": true,\n"
    "  \"rope_theta\": 10000.0,\n"
    "  \"rope_type\": \"ntk\",\n"
    "  \"router_aux_loss_coef\": 0.001,\n"
    "  \"tie_word_embeddings\": true,\n"
    "  \"torch_dtype\": \"bfloat16\",\n"
    "  \"transformers_version\": \"4.44.0\",\n"
    "  \"use_cache\": false,\n"
    "  \"use_mamba_kernels\": true,\n";

static void add_sizes(struct hy_json_text *text, const struct preset *preset)
{
    add_number(text, "hidden_size", preset->hidden_size);
    add_number(text, "intermediate_size", preset->intermediate_size);
    add_number(text, "mamba_d_conv", CONV_WIDTH);
    add_number(text, "mamba_d_state", STATE_SIZE);
    add_number(text, "mamba_dt_rank", (preset->hidden_size + 15) / 16);
    add_number(text, "mamba_expand", EXPAND);
    add_number(text, "max_position_embeddings", preset->max_position);
    add_number(text, "num_attention_heads", preset->n_heads);
    add_number(text, "num_hidden_layers", preset->n_layers);
    add_number(text, "num_key_value_heads", preset->n_kv_heads);
    add_number(text, "num_memory_tokens", preset->n_meta_tokens);
    add_number(text, "orig_max_position_embeddings", preset->original_max_position);
    add_number(text, "seq_length", preset->max_position);
    add_number(text, "sliding_window", preset->window);
    add_number(text, "v_head_dim", EXPAND * preset->hidden_size / preset->n_heads);
    hy_json_text_add(text, "  \"vocab_size\": %" PRIu32 "\n}\n", preset->vocabulary_size);
}

static void add_preset(struct hy_json_text *text, const struct preset *preset)
{
    hy_json_text_add(text, "%s", before_conv_sizes);
    add_conv_sizes(text, preset);
    hy_json_text_add(text, "  \"eos_token_id\": 2,\n  \"global_attn_idx\": [%" PRIu32 ", %" PRIu32
                     ", %" PRIu32 "],\n  \"hidden_act\": \"silu\",\n",
                     preset->full_layers[0], preset->full_layers[1], preset->full_layers[2]);
    hy_json_text_add(text, "%s", before_groups);
    add_groups(text, preset);
    hy_json_text_add(text, "  \"kv_weight_reuse\": false,\n");
    add_layer_types(text, preset);
    hy_json_text_add(text, "%s", before_sizes);
    add_sizes(text, preset);
}

uint32_t hy_preset_count(void)
{
    return N_PRESETS;
}

const char *hy_preset_name(uint32_t index)
{
    return index < N_PRESETS ? presets[index].name : NULL;
}

hymba_status hy_preset_config(struct hy_memory *memory, const char *name, char **text,
                              size_t *length, hymba_error *error)
{
    *text = NULL;
    *length = 0;
    for (uint32_t i = 0; i < N_PRESETS; i++) {
        struct hy_json_text builder;
        if (strcmp(name, presets[i].name) != 0)
            continue;
        hy_json_text_begin(memory, &builder);
        add_preset(&builder, &presets[i]);
        return hy_json_text_finish(&builder, "a preset's configuration", text, length, error);
    }
    return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                   "preset \"%.100s\" is not known, expected \"tiny\", \"125m\", \"350m\" or "
                   "\"1.5b\"",
                   name);
}
