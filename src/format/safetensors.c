#include "format/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

enum { LENGTH_BYTES = 8 };

/* The element types of the format, also those that only have to be skipped. */
struct element_type {
    const char *name;
    uint32_t bits;
    hymba_dtype dtype;
};

static const struct element_type element_types[] = {
    {"F32", 32, HYMBA_DTYPE_F32},
    {"F16", 16, HYMBA_DTYPE_F16},
    {"BF16", 16, HYMBA_DTYPE_BF16},
    {"F64", 64, HYMBA_DTYPE_DEFAULT},
    {"I64", 64, HYMBA_DTYPE_DEFAULT},
    {"I32", 32, HYMBA_DTYPE_DEFAULT},
    {"I16", 16, HYMBA_DTYPE_DEFAULT},
    {"I8", 8, HYMBA_DTYPE_DEFAULT},
    {"U64", 64, HYMBA_DTYPE_DEFAULT},
    {"U32", 32, HYMBA_DTYPE_DEFAULT},
    {"U16", 16, HYMBA_DTYPE_DEFAULT},
    {"U8", 8, HYMBA_DTYPE_DEFAULT},
    {"BOOL", 8, HYMBA_DTYPE_DEFAULT},
    {"C64", 64, HYMBA_DTYPE_DEFAULT},
    {"F8_E4M3", 8, HYMBA_DTYPE_DEFAULT},
    {"F8_E5M2", 8, HYMBA_DTYPE_DEFAULT},
    {"F8_E8M0", 8, HYMBA_DTYPE_DEFAULT},
    {"F6_E2M3", 6, HYMBA_DTYPE_DEFAULT},
    {"F6_E3M2", 6, HYMBA_DTYPE_DEFAULT},
    {"F4", 4, HYMBA_DTYPE_DEFAULT},
};

/* What the functions below share while one file is read. */
struct reader {
    const char *file;          /* name, for messages */
    const unsigned char *data; /* behind the header */
    uint64_t size;
    hymba_error *error;
};

static const struct element_type *find_type(const char *name)
{
    for (size_t i = 0; name && i < sizeof element_types / sizeof element_types[0]; i++)
        if (strcmp(name, element_types[i].name) == 0)
            return &element_types[i];
    return NULL;
}

/* ---------------------------------------------------------------- one entry */

static hymba_status read_type(const struct reader *reader, const hy_json *entry,
                              struct hy_tensor *tensor, uint32_t *bits)
{
    const hy_json *value = hy_json_object_get(entry, "dtype");
    const char *name = hy_json_string(value, NULL);
    const struct element_type *type = find_type(name);
    if (!name)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %.200s: dtype is %s, expected a string", reader->file,
                       tensor->name, hy_json_kind_name(hy_json_kind(value)));
    if (!type)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %.200s: dtype \"%.40s\" is not an element type of the format",
                       reader->file, tensor->name, name);
    tensor->type_name = type->name;
    tensor->dtype = type->dtype;
    *bits = type->bits;
    return HYMBA_OK;
}

/* A non-negative integer out of an array that is part of an entry. */
static hymba_status read_count(const struct reader *reader, const struct hy_tensor *tensor,
                               const char *field, const hy_json *array, size_t index,
                               uint64_t *count)
{
    const hy_json *value = hy_json_array_get(array, index);
    enum hy_json_kind kind = hy_json_kind(value);
    if (kind != HY_JSON_INTEGER)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %.200s: %s[%zu] is %s, expected an integer", reader->file,
                       tensor->name, field, index, hy_json_kind_name(kind));
    if (hy_json_integer(value) < 0)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %.200s: %s[%zu] is %" PRId64 ", expected 0 or more",
                       reader->file, tensor->name, field, index, hy_json_integer(value));
    *count = (uint64_t)hy_json_integer(value);
    return HYMBA_OK;
}

static hymba_status read_shape(const struct reader *reader, const hy_json *entry,
                               struct hy_tensor *tensor, uint64_t *elements)
{
    const hy_json *shape = hy_json_object_get(entry, "shape");
    size_t n_dims = hy_json_array_size(shape);
    *elements = 1;
    if (hy_json_kind(shape) != HY_JSON_ARRAY)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %.200s: shape is %s, expected an array", reader->file,
                       tensor->name, hy_json_kind_name(hy_json_kind(shape)));
    if (n_dims > HY_MAX_DIMS)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %.200s has %zu dimensions, at most %d are accepted",
                       reader->file, tensor->name, n_dims, HY_MAX_DIMS);
    for (size_t i = 0; i < n_dims; i++) {
        hymba_status status =
            read_count(reader, tensor, "shape", shape, i, &tensor->shape[i]);
        if (status != HYMBA_OK)
            return status;
        if (!hy_mul_u64(*elements, tensor->shape[i], elements))
            return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                           "%s: tensor %.200s: the product of its shape does not fit 64 bits",
                           reader->file, tensor->name);
    }
    tensor->n_dims = (uint32_t)n_dims;
    return HYMBA_OK;
}

static hymba_status read_range(const struct reader *reader, const hy_json *entry,
                               struct hy_tensor *tensor)
{
    const hy_json *offsets = hy_json_object_get(entry, "data_offsets");
    uint64_t begin = 0, end = 0;
    if (hy_json_kind(offsets) != HY_JSON_ARRAY || hy_json_array_size(offsets) != 2)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %.200s: data_offsets is %s of %zu, expected an array of 2",
                       reader->file, tensor->name, hy_json_kind_name(hy_json_kind(offsets)),
                       hy_json_array_size(offsets));
    hymba_status status = read_count(reader, tensor, "data_offsets", offsets, 0, &begin);
    if (status == HYMBA_OK)
        status = read_count(reader, tensor, "data_offsets", offsets, 1, &end);
    if (status != HYMBA_OK)
        return status;
    if (begin > end)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %.200s: data_offsets end at %" PRIu64
                       ", before their beginning at %" PRIu64,
                       reader->file, tensor->name, end, begin);
    if (end > reader->size)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %.200s: data_offsets end at %" PRIu64 ", the file holds %" PRIu64
                       " bytes of data",
                       reader->file, tensor->name, end, reader->size);
    tensor->data = reader->data + begin;
    tensor->size = end - begin;
    return HYMBA_OK;
}

static hymba_status check_size(const struct reader *reader, const struct hy_tensor *tensor,
                               uint64_t elements, uint32_t bits)
{
    uint64_t all_bits;
    if (!hy_mul_u64(elements, bits, &all_bits))
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %.200s: %" PRIu64 " elements of type %s do not fit 64 bits",
                       reader->file, tensor->name, elements, tensor->type_name);
    if (all_bits % 8 != 0 || all_bits / 8 != tensor->size)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %.200s: data_offsets span %" PRIu64 " bytes, %" PRIu64
                       " elements of type %s take %" PRIu64,
                       reader->file, tensor->name, tensor->size, elements, tensor->type_name,
                       all_bits / 8 + (all_bits % 8 != 0));
    return HYMBA_OK;
}

/* tensor->name is already there. */
static hymba_status read_entry(const struct reader *reader, const hy_json *entry,
                               struct hy_tensor *tensor)
{
    uint64_t elements = 0;
    uint32_t bits = 0;
    if (hy_json_kind(entry) != HY_JSON_OBJECT)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: tensor %.200s: its entry is %s, expected an object", reader->file,
                       tensor->name, hy_json_kind_name(hy_json_kind(entry)));
    hymba_status status = read_type(reader, entry, tensor, &bits);
    if (status == HYMBA_OK)
        status = read_shape(reader, entry, tensor, &elements);
    if (status == HYMBA_OK)
        status = read_range(reader, entry, tensor);
    if (status == HYMBA_OK)
        status = check_size(reader, tensor, elements, bits);
    return status;
}

static hymba_status check_metadata(const struct reader *reader, const hy_json *metadata)
{
    if (hy_json_kind(metadata) != HY_JSON_OBJECT)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: __metadata__ is %s, expected an object", reader->file,
                       hy_json_kind_name(hy_json_kind(metadata)));
    for (hy_json_member *member = hy_json_next_member(metadata, NULL); member;
         member = hy_json_next_member(metadata, member)) {
        enum hy_json_kind kind = hy_json_kind(hy_json_member_value(member));
        if (kind != HY_JSON_STRING)
            return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                           "%s: __metadata__: %.200s is %s, expected a string", reader->file,
                           hy_json_member_key(member, NULL), hy_json_kind_name(kind));
    }
    return HYMBA_OK;
}

/* -------------------------------------------------------------- all entries */

static bool is_metadata(const char *key)
{
    return strcmp(key, "__metadata__") == 0;
}

/* Room for all tensors and their names. */
static hymba_status allocate(const struct reader *reader, const hy_json *header,
                             struct hy_safetensors *out)
{
    size_t names_size = 0, count = hy_json_object_size(header);
    for (hy_json_member *member = hy_json_next_member(header, NULL); member;
         member = hy_json_next_member(header, member)) {
        size_t length;
        hy_json_member_key(member, &length);
        names_size += length + 1; /* fits: the header is at most HY_MAX_HEADER bytes long */
    }
    out->tensors = hy_alloc_zero(out->memory, count, sizeof *out->tensors);
    out->names = hy_alloc(out->memory, names_size);
    if (!out->tensors || !out->names)
        return hy_no_memory(reader->error, names_size + count * sizeof *out->tensors,
                            "a list of tensors");
    return HYMBA_OK;
}

static hymba_status read_entries(const struct reader *reader, const hy_json *header,
                                 struct hy_safetensors *out)
{
    char *names = out->names;
    hymba_status status = HYMBA_OK;
    for (hy_json_member *member = hy_json_next_member(header, NULL); member && status == HYMBA_OK;
         member = hy_json_next_member(header, member)) {
        size_t length;
        const char *key = hy_json_member_key(member, &length);
        if (is_metadata(key)) {
            status = check_metadata(reader, hy_json_member_value(member));
            continue;
        }
        struct hy_tensor *tensor = &out->tensors[out->count++];
        memcpy(names, key, length);
        names[length] = '\0';
        tensor->name = names;
        names += length + 1;
        status = read_entry(reader, hy_json_member_value(member), tensor);
    }
    return status;
}

static int compare_places(const void *left, const void *right)
{
    const struct hy_tensor *a = left, *b = right;
    const char *a_data = a->data, *b_data = b->data;
    if (a_data != b_data)
        return a_data < b_data ? -1 : 1;
    return a->size < b->size ? -1 : a->size > b->size;
}

static int compare_names(const void *left, const void *right)
{
    return strcmp(((const struct hy_tensor *)left)->name, ((const struct hy_tensor *)right)->name);
}

/* The format wants every byte of the data to belong to exactly one tensor. */
static hymba_status check_coverage(const struct reader *reader, const struct hy_safetensors *out)
{
    uint64_t covered = 0;
    for (size_t i = 0; i < out->count; i++) {
        const struct hy_tensor *tensor = &out->tensors[i];
        uint64_t begin = (uint64_t)((const unsigned char *)tensor->data - reader->data);
        if (begin < covered)
            return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                           "%s: tensor %.150s begins at byte %" PRIu64
                           " of the data, inside tensor %.150s, which ends at %" PRIu64,
                           reader->file, tensor->name, begin, out->tensors[i - 1].name, covered);
        if (begin > covered)
            return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                           "%s: bytes %" PRIu64 " to %" PRIu64
                           " of the data, before tensor %.200s, belong to no tensor",
                           reader->file, covered, begin, tensor->name);
        covered = begin + tensor->size;
    }
    if (covered != reader->size)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: the tensors end at byte %" PRIu64 " of the data, the file holds "
                       "%" PRIu64 " bytes of it",
                       reader->file, covered, reader->size);
    return HYMBA_OK;
}

static hymba_status read_header(const struct reader *reader, const hy_json *header,
                                struct hy_safetensors *out)
{
    if (hy_json_kind(header) != HY_JSON_OBJECT)
        return hy_fail(reader->error, HYMBA_ERROR_FORMAT,
                       "%s: its header is %s, expected an object", reader->file,
                       hy_json_kind_name(hy_json_kind(header)));
    hymba_status status = allocate(reader, header, out);
    if (status == HYMBA_OK)
        status = read_entries(reader, header, out);
    if (status != HYMBA_OK)
        return status;
    qsort(out->tensors, out->count, sizeof *out->tensors, compare_places);
    status = check_coverage(reader, out);
    qsort(out->tensors, out->count, sizeof *out->tensors, compare_names);
    return status;
}

static hymba_status find_header(const struct hy_file *file, const char *name, size_t *length,
                                hymba_error *error)
{
    uint64_t claimed = 0;
    if (file->size < LENGTH_BYTES)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s is %zu bytes long, a safetensors file begins with the %d bytes of its "
                       "header's length",
                       name, file->size, LENGTH_BYTES);
    for (int i = 0; i < LENGTH_BYTES; i++)
        claimed |= (uint64_t)file->data[i] << (8 * i);
    if (claimed > HY_MAX_HEADER)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s: its header claims %" PRIu64 " bytes, at most %d are accepted", name,
                       claimed, HY_MAX_HEADER);
    if (claimed > file->size - LENGTH_BYTES)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s: its header claims %" PRIu64 " bytes, %zu follow in the file", name,
                       claimed, file->size - LENGTH_BYTES);
    *length = (size_t)claimed;
    return HYMBA_OK;
}

hymba_status hy_safetensors_parse(struct hy_memory *memory, const struct hy_file *file,
                                  const char *name, struct hy_safetensors *out, hymba_error *error)
{
    struct reader reader = {.file = name, .error = error};
    hy_json *header = NULL;
    size_t length = 0;
    memset(out, 0, sizeof *out);
    out->memory = memory;
    hymba_status status = find_header(file, name, &length, error);
    if (status != HYMBA_OK)
        return status;
    reader.data = file->data + LENGTH_BYTES + length;
    reader.size = file->size - LENGTH_BYTES - length;
    status = hy_json_parse((const char *)file->data + LENGTH_BYTES, length, name, &header, error);
    if (status == HYMBA_OK)
        status = read_header(&reader, header, out);
    hy_json_free(header);
    if (status != HYMBA_OK)
        hy_safetensors_free(out);
    return status;
}

void hy_safetensors_free(struct hy_safetensors *container)
{
    if (!container->memory)
        return;
    hy_free(container->memory, container->tensors);
    hy_free(container->memory, container->names);
    memset(container, 0, sizeof *container);
}

static int compare_name_to_tensor(const void *key, const void *element)
{
    return strcmp(key, ((const struct hy_tensor *)element)->name);
}

const struct hy_tensor *hy_safetensors_find(const struct hy_safetensors *container,
                                            const char *name)
{
    if (container->count == 0)
        return NULL;
    return bsearch(name, container->tensors, container->count, sizeof *container->tensors,
                   compare_name_to_tensor);
}
