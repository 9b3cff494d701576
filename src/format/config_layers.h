/* The part of config.json that speaks of single layers. Only config.c uses this. */
#ifndef HY_FORMAT_CONFIG_LAYERS_H
#define HY_FORMAT_CONFIG_LAYERS_H

#include "format/config.h"
#include "format/field.h"

/* Allocates and fills config->layers from layer_plan, global_attn_idx and the fields of KV reuse;
 * n_layers and window are already there. On failure the caller frees the config. */
hymba_status hy_config_read_layers(const struct hy_fields *fields, struct hy_memory *memory,
                                   struct hy_config *config);

#endif
