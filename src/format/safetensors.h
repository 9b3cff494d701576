/*
 * The safetensors container: 8 bytes of header length (little-endian), a JSON header, the data.
 * Reading checks everything before anything is used: header inside the file, known element types,
 * shapes whose product is the byte range, ranges inside the data, no overlaps, no gaps beyond
 * what the format allows, no duplicate names.
 */
#ifndef HY_FORMAT_SAFETENSORS_H
#define HY_FORMAT_SAFETENSORS_H

#include "base/file.h"
#include "base/json.h"
#include "tensor/dtype.h"

enum { HY_MAX_DIMS = 8, HY_MAX_HEADER = 100 << 20 };

struct hy_tensor {
    const char *name;          /* owned by the container */
    hymba_dtype dtype;         /* DEFAULT: a type of the format that this library cannot read;
                                  then type_name tells which */
    const char *type_name;     /* as in the file: "F32", "BF16", "I64", ... */
    uint32_t n_dims;
    uint64_t shape[HY_MAX_DIMS];
    const void *data;          /* size bytes; may be misaligned */
    uint64_t size;
};

/* The tensors of one file, sorted by name. The file's content must outlive it. */
struct hy_safetensors {
    struct hy_tensor *tensors;
    size_t count;
    struct hy_memory *memory;
    char *names;               /* storage of all names */
};

/* name stands for the file in messages. Free with hy_safetensors_free. */
hymba_status hy_safetensors_parse(struct hy_memory *memory, const struct hy_file *file,
                                  const char *name, struct hy_safetensors *out, hymba_error *error);
void hy_safetensors_free(struct hy_safetensors *container);

/* NULL if there is none of that name. */
const struct hy_tensor *hy_safetensors_find(const struct hy_safetensors *container,
                                            const char *name);

/*
 * A shard index (model.safetensors.index.json): the distinct file names of its weight_map, each
 * checked to be a plain name in the same directory, and which file each tensor is in.
 */
struct hy_shard_index {
    struct hy_memory *memory;
    char **files;
    size_t n_files;
    hy_json *document;         /* holds weight_map */
};
hymba_status hy_shard_index_parse(struct hy_memory *memory, const char *text, size_t length,
                                  const char *name, struct hy_shard_index *index,
                                  hymba_error *error);
/* File name of a tensor; NULL if the index does not name it. */
const char *hy_shard_index_find(const struct hy_shard_index *index, const char *tensor);
/* Number of tensors the index names. */
size_t hy_shard_index_size(const struct hy_shard_index *index);
void hy_shard_index_free(struct hy_shard_index *index);

/*
 * The header of a file to be written: tensors lie one behind the other in the order given
 * (name, dtype, shape filled in, and of I32 and I64 type_name; data ignored), metadata {"format":
 * "pt"}, padded with spaces to a multiple of 64 bytes. *text begins with the 8 length bytes; a new
 * block of *size bytes.
 */
hymba_status hy_safetensors_header(struct hy_memory *memory, const struct hy_tensor *tensors,
                                   size_t count, char **text, size_t *size, hymba_error *error);

#endif
