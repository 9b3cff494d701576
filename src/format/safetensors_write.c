#include "format/safetensors.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "format/json_text.h"

/* The format wants the data to begin at a multiple of 8; kernels are quicker with one of 64. */
enum { LENGTH_BYTES = 8, ALIGNMENT = 64 };

/* The types that can be written: floating-point numbers, and integers that only type_name tells. */
static const struct {
    const char *name;
    hymba_dtype dtype;
    size_t size;
} types[] = {
    {"F32", HYMBA_DTYPE_F32, 4},
    {"F16", HYMBA_DTYPE_F16, 2},
    {"BF16", HYMBA_DTYPE_BF16, 2},
    {"I32", HYMBA_DTYPE_DEFAULT, 4},
    {"I64", HYMBA_DTYPE_DEFAULT, 8},
};
enum { N_TYPES = sizeof types / sizeof types[0] };

/* Index in types; N_TYPES if there is none. */
static size_t find_type(const struct hy_tensor *tensor)
{
    for (size_t i = 0; i < N_TYPES; i++) {
        bool integers = types[i].dtype == HYMBA_DTYPE_DEFAULT;
        if (types[i].dtype == tensor->dtype &&
            (!integers || (tensor->type_name && strcmp(tensor->type_name, types[i].name) == 0)))
            return i;
    }
    return N_TYPES;
}

static hymba_status tensor_bytes(const struct hy_tensor *tensor, uint64_t *bytes,
                                 hymba_error *error)
{
    size_t type = find_type(tensor);
    if (type == N_TYPES)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "tensor %.200s: %d is no element type",
                       tensor->name, (int)tensor->dtype);
    if (tensor->n_dims > HY_MAX_DIMS)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "tensor %.200s has %" PRIu32 " dimensions, at most %d can be written",
                       tensor->name, tensor->n_dims, HY_MAX_DIMS);
    *bytes = types[type].size;
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        if (!hy_mul_u64(*bytes, tensor->shape[i], bytes))
            return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                           "tensor %.200s: its size does not fit 64 bits", tensor->name);
    return HYMBA_OK;
}

static hymba_status add_tensor(struct hy_json_text *text, const struct hy_tensor *tensor,
                               uint64_t *offset, hymba_error *error)
{
    uint64_t bytes = 0, end;
    hymba_status status = tensor_bytes(tensor, &bytes, error);
    if (status != HYMBA_OK)
        return status;
    /* Readers hold offsets in signed 64 bits. */
    if (!hy_add_u64(*offset, bytes, &end) || end > INT64_MAX)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "tensor %.200s: the file's size does not fit 64 bits", tensor->name);
    hy_json_text_add(text, ",");
    hy_json_text_string(text, tensor->name);
    hy_json_text_add(text, ":{\"dtype\":\"%s\",\"shape\":[", types[find_type(tensor)].name);
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        hy_json_text_add(text, i ? ",%" PRIu64 : "%" PRIu64, tensor->shape[i]);
    hy_json_text_add(text, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", *offset, end);
    *offset = end;
    return HYMBA_OK;
}

static void write_length(char *text, uint64_t length)
{
    for (int i = 0; i < LENGTH_BYTES; i++)
        text[i] = (char)(unsigned char)(length >> (8 * i));
}

hymba_status hy_safetensors_header(struct hy_memory *memory, const struct hy_tensor *tensors,
                                   size_t count, char **text, size_t *size, hymba_error *error)
{
    static const char zeros[LENGTH_BYTES];
    struct hy_json_text builder;
    uint64_t offset = 0;
    hymba_status status = HYMBA_OK;
    *text = NULL;
    *size = 0;
    hy_json_text_begin(memory, &builder);
    hy_json_text_bytes(&builder, zeros, sizeof zeros);
    hy_json_text_add(&builder, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < count && status == HYMBA_OK; i++)
        status = add_tensor(&builder, &tensors[i], &offset, error);
    hy_json_text_add(&builder, "}");
    while (!builder.failed && builder.length % ALIGNMENT != 0)
        hy_json_text_add(&builder, " ");
    if (status == HYMBA_OK && builder.length > LENGTH_BYTES + (size_t)HY_MAX_HEADER)
        status = hy_fail(error, HYMBA_ERROR_ARGUMENT,
                         "the header of %zu tensors is %zu bytes long, at most %d are allowed",
                         count, builder.length - LENGTH_BYTES, HY_MAX_HEADER);
    if (status != HYMBA_OK) {
        hy_free(memory, builder.data);
        return status;
    }
    status = hy_json_text_finish(&builder, "a file's header", text, size, error);
    if (status == HYMBA_OK)
        write_length(*text, *size - LENGTH_BYTES);
    return status;
}
