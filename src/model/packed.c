#include "model/packed.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const suffixes[HY_N_PARTS] = {"_packed", "_scale", "_shape"};

void hy_part_name(const char *tensor, int part, char name[HY_PART_NAME_SIZE])
{
    snprintf(name, HY_PART_NAME_SIZE, "%s%s", tensor, suffixes[part]);
}

static hymba_status check_type(const struct hy_tensor *tensor, const char *type, const char *file,
                               hymba_error *error)
{
    if (strcmp(tensor->type_name, type) == 0)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                   "%s: tensor %s: found element type %s, expected %s", file, tensor->name,
                   tensor->type_name, type);
}

static hymba_status wrong_shape(const struct hy_tensor *tensor, uint64_t rows,
                                const char *columns, const char *file, hymba_error *error)
{
    return hy_fail(error, HYMBA_ERROR_FORMAT,
                   "%s: tensor %s: found %" PRIu32 " dimensions, [%" PRIu64 ", %" PRIu64
                   "], expected [%" PRIu64 ", %s]",
                   file, tensor->name, tensor->n_dims, tensor->n_dims > 0 ? tensor->shape[0] : 0,
                   tensor->n_dims > 1 ? tensor->shape[1] : 0, rows, columns);
}

/* How many bits an element has follows from the width. */
static hymba_status bind_packed(const struct hy_parts *parts, const struct hy_slot_info *info,
                                uint32_t *bits, struct hy_matrix *matrix, hymba_error *error)
{
    const struct hy_tensor *tensor = parts->tensors[HY_PACKED];
    uint64_t rows = info->shape[0], columns = info->shape[1], words = tensor->shape[1];
    hymba_status status = check_type(tensor, "I32", parts->file, error);
    if (status != HYMBA_OK)
        return status;
    if (columns % 32 != 0)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: tensor %s: its rows have %" PRIu64
                       " elements, expected a multiple of 32", parts->file, tensor->name, columns);
    *bits = words == columns / 4 ? 8 : 4;
    if (tensor->n_dims != 2 || tensor->shape[0] != rows || words != columns / (32 / *bits)) {
        char expected[80];
        snprintf(expected, sizeof expected, "%" PRIu64 " (8 bits) or %" PRIu64 " (4 bits)",
                 columns / 4, columns / 8);
        return wrong_shape(tensor, rows, expected, parts->file, error);
    }
    *matrix = (struct hy_matrix){
        .data = tensor->data,
        .dtype = *bits == 8 ? HYMBA_DTYPE_INT8 : HYMBA_DTYPE_INT4,
        .rows = (size_t)rows,
        .columns = (size_t)columns,
    };
    return HYMBA_OK;
}

static hymba_status check_scales(const struct hy_tensor *tensor, size_t groups, const char *file,
                                 hymba_error *error)
{
    const unsigned char *bytes = tensor->data;
    for (size_t i = 0; i < tensor->size / sizeof(uint16_t); i++) {
        uint16_t bits;
        memcpy(&bits, bytes + i * sizeof bits, sizeof bits);
        if ((bits & 0x7f80u) == 0x7f80u)
            return hy_fail_at(error, HYMBA_ERROR_FORMAT, (int64_t)i,
                              "%s: tensor %s: scale [%zu, %zu] is infinite or not a number", file,
                              tensor->name, i / groups, i % groups);
    }
    return HYMBA_OK;
}

static hymba_status bind_scale(const struct hy_parts *parts, uint32_t bits,
                               const struct hy_quantization *quantization,
                               struct hy_matrix *matrix, hymba_error *error)
{
    const struct hy_tensor *tensor = parts->tensors[HY_SCALE];
    uint64_t groups = tensor->shape[1];
    hymba_status status = check_type(tensor, "BF16", parts->file, error);
    if (status != HYMBA_OK)
        return status;
    if (tensor->n_dims != 2 || tensor->shape[0] != matrix->rows)
        return wrong_shape(tensor, matrix->rows, "groups", parts->file, error);
    if (groups == 0 || matrix->columns % groups != 0)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %s: found %" PRIu64 " scales a row, which do not divide its %zu "
                       "elements into groups", parts->file, tensor->name, groups, matrix->columns);
    matrix->group = matrix->columns / (size_t)groups;
    if (!hy_quantization_has(quantization, bits, matrix->group))
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %s: groups of %zu with %" PRIu32
                       " bits, which no config_groups of config.json has", parts->file,
                       tensor->name, matrix->group, bits);
    matrix->scales = tensor->data;
    return check_scales(tensor, (size_t)groups, parts->file, error);
}

static uint64_t little_endian(const unsigned char *bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static hymba_status check_shape(const struct hy_parts *parts, const struct hy_matrix *matrix,
                                hymba_error *error)
{
    const struct hy_tensor *tensor = parts->tensors[HY_SHAPE];
    hymba_status status = check_type(tensor, "I64", parts->file, error);
    if (status != HYMBA_OK)
        return status;
    if (tensor->n_dims != 1 || tensor->shape[0] != 2)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %s: found %" PRIu64 " bytes in %" PRIu32
                       " dimensions, expected shape [2]", parts->file, tensor->name,
                       tensor->size, tensor->n_dims);
    uint64_t rows = little_endian(tensor->data);
    uint64_t columns = little_endian((const unsigned char *)tensor->data + 8);
    if (rows == matrix->rows && columns == matrix->columns)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_FORMAT,
                   "%s: tensor %s: holds [%" PRIu64 ", %" PRIu64 "], expected [%zu, %zu]",
                   parts->file, tensor->name, rows, columns, matrix->rows, matrix->columns);
}

hymba_status hy_parts_bind(const struct hy_parts *parts, const struct hy_slot_info *info,
                           const struct hy_quantization *quantization, struct hy_matrix *matrix,
                           hymba_error *error)
{
    uint32_t bits = 0;
    const char *packed = parts->tensors[HY_PACKED]->name;
    if (!quantization->present)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %s is there, but config.json has no quantization_config",
                       parts->file, packed);
    for (int part = 0; part < HY_N_PARTS; part++) {
        if (!parts->tensors[part])
            return hy_fail(error, HYMBA_ERROR_FORMAT,
                           "%s: tensor %s%s is missing beside %s", parts->file, info->name,
                           suffixes[part], packed);
    }
    hymba_status status = bind_packed(parts, info, &bits, matrix, error);
    if (status == HYMBA_OK)
        status = bind_scale(parts, bits, quantization, matrix, error);
    if (status == HYMBA_OK)
        status = check_shape(parts, matrix, error);
    return status;
}
