/* The quantization_config that describes what a recipe makes of a model. */
#ifndef HY_MODEL_QUANTISE_CONFIG_H
#define HY_MODEL_QUANTISE_CONFIG_H

#include "model/quantise_matrix.h"

/* A JSON object; a new block. The recipe fits the plan. */
hymba_status hy_quantise_config(struct hy_memory *memory, const struct hy_plan *plan,
                                const struct hy_recipe *recipe, char **text, size_t *length,
                                hymba_error *error);

#endif
