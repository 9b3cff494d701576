/*
 * config.json, checked: every field that matters, with values this library can run. A field that
 * must have the published value and has another is refused by name (docs/semantics.md, section
 * 10). Beyond the published fields one of our own, "layer_plan", describes the variants:
 *
 *   "layer_plan": one object per layer, or one object for all:
 *     {"mixer": "hybrid" | "attention" | "mamba" | "none", "fusion": "mean" | "concat",
 *      "ffn": "swiglu" | "none"}
 *   defaults: hybrid, mean, swiglu. With one stream alone, out_proj reads that stream as it is
 *   (no pre_avg norm); with "concat", out_proj is [H, 2 di] and reads the two normed streams side
 *   by side, attention first.
 */
#ifndef HY_FORMAT_CONFIG_H
#define HY_FORMAT_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "format/quantization.h"

enum { HY_MAX_LAYERS = 1024 };

struct hy_layer_config {
    bool attention;      /* the layer has attention heads */
    bool ssm;            /* the layer has Mamba heads */
    bool full_attention; /* no window; meaningless without attention */
    int fusion;          /* HYMBA_FUSION_...; NONE with fewer than two streams */
    int ffn;             /* HYMBA_FFN_... */
    uint32_t kv_layer;   /* the layer that makes the keys and values; itself: a producer */
};

struct hy_config {
    uint32_t vocabulary_size, hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads;
    uint32_t qk_head_size, inner_size, v_head_size, state_size, conv_width, dt_rank;
    uint32_t n_meta_tokens;
    uint32_t window;       /* 0: none, every layer is full */
    bool tie_embeddings;
    bool rope;
    double rope_base;      /* after NTK scaling (section 5) */
    double rms_norm_epsilon;
    uint64_t max_position;
    int32_t bos_token, eos_token; /* -1: none */
    struct hy_layer_config *layers; /* [n_layers], owned */
    struct hy_quantization quantization;
};

/* name stands for the document in messages ("DIR/config.json"). Free with hy_config_free. */
hymba_status hy_config_parse(struct hy_memory *memory, const char *text, size_t length,
                             const char *name, struct hy_config *config, hymba_error *error);
void hy_config_free(struct hy_memory *memory, struct hy_config *config);

/* Presets: names in order, NULL past the end; the text of one in a static buffer or NULL. */
uint32_t hy_preset_count(void);
const char *hy_preset_name(uint32_t index);

/* The complete config.json text (published field set) of a preset; a new block of memory. */
hymba_status hy_preset_config(struct hy_memory *memory, const char *name, char **text,
                              size_t *length, hymba_error *error);

#endif
