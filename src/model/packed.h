/*
 * A matrix that a file holds in quantised form: its three tensors, checked against each other, the
 * shape that the plan wants, and config.json.
 */
#ifndef HY_MODEL_PACKED_H
#define HY_MODEL_PACKED_H

#include "format/quantization.h"
#include "format/safetensors.h"
#include "kernel/kernel.h"
#include "model/plan.h"

enum { HY_PACKED, HY_SCALE, HY_SHAPE, HY_N_PARTS };

enum { HY_PART_NAME_SIZE = sizeof((struct hy_slot_info *)0)->name + 8 };

/* "model.x.weight" to "model.x.weight_packed" and the other two. */
void hy_part_name(const char *tensor, int part, char name[HY_PART_NAME_SIZE]);

/* What was found of one matrix; NULL: not there. */
struct hy_parts {
    const struct hy_tensor *tensors[HY_N_PARTS];
    const char *file; /* that holds the packed one, for messages */
};

/* The parts as a matrix; tensors[HY_PACKED] is there. */
hymba_status hy_parts_bind(const struct hy_parts *parts, const struct hy_slot_info *info,
                           const struct hy_quantization *quantization, struct hy_matrix *matrix,
                           hymba_error *error);

#endif
