/*
 * The field quantization_config of a config.json, in the convention "compressed-tensors", format
 * "pack-quantized" (docs/quantisation.md). Of a quantised matrix NAME.weight a file holds
 * NAME.weight_packed (I32), NAME.weight_scale (BF16) and NAME.weight_shape (I64). Which matrices
 * are quantised the file tells by what it holds; the configuration tells which pairs of bits and
 * group size may occur.
 */
#ifndef HY_FORMAT_QUANTIZATION_H
#define HY_FORMAT_QUANTIZATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/field.h"

enum { HY_MAX_QUANTIZATION_GROUPS = 16, HY_LARGEST_GROUP = 1 << 16 };

struct hy_quantization {
    bool present;
    uint32_t n_groups;
    struct {
        uint32_t bits;  /* 4 or 8 */
        uint32_t group; /* a multiple of 32 */
    } groups[HY_MAX_QUANTIZATION_GROUPS];
};

/* Reads quantization_config of the object that fields stands for; absent: *quantization is 0. */
hymba_status hy_quantization_read(const struct hy_fields *fields,
                                  struct hy_quantization *quantization);

/* Whether matrices of so many bits and this group size may occur. */
bool hy_quantization_has(const struct hy_quantization *quantization, uint32_t bits,
                         uint64_t group);

#endif
