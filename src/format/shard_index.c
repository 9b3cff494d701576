#include <stdlib.h>
#include <string.h>

#include "format/safetensors.h"

static const hy_json *weight_map(const struct hy_shard_index *index)
{
    return hy_json_object_get(index->document, "weight_map");
}

/* A name in the index's own directory: anything else could reach files that are not the model's. */
static bool is_plain_name(const char *name, size_t length)
{
    return length > 0 && strlen(name) == length && !strpbrk(name, "/\\") &&
           strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static hymba_status check_entry(const char *name, const char *tensor, const hy_json *value,
                                hymba_error *error)
{
    size_t length = 0;
    const char *file = hy_json_string(value, &length);
    if (!file)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s: weight_map: tensor %.200s is in %s, expected a file name", name, tensor,
                       hy_json_kind_name(hy_json_kind(value)));
    if (!is_plain_name(file, length))
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s: weight_map: tensor %.150s is in \"%.100s\", expected the plain name of "
                       "a file in the same directory",
                       name, tensor, file);
    return HYMBA_OK;
}

static int compare_text(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

/* files holds one name per tensor; afterwards each name once, in alphabetical order. */
static size_t keep_distinct(char **files, size_t count)
{
    size_t kept = 0;
    qsort(files, count, sizeof *files, compare_text);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || strcmp(files[kept - 1], files[i]) != 0)
            files[kept++] = files[i];
    return kept;
}

static hymba_status read_map(struct hy_shard_index *index, const char *name, hymba_error *error)
{
    const hy_json *map = weight_map(index);
    size_t count = hy_json_object_size(map), n_files = 0;
    if (hy_json_kind(index->document) != HY_JSON_OBJECT)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s is %s, expected an object", name,
                       hy_json_kind_name(hy_json_kind(index->document)));
    if (hy_json_kind(map) != HY_JSON_OBJECT)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: weight_map is %s, expected an object", name,
                       hy_json_kind_name(hy_json_kind(map)));
    if (count == 0)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: weight_map names no tensor", name);
    index->files = hy_alloc_array(index->memory, count, sizeof *index->files);
    if (!index->files)
        return hy_no_memory(error, count * sizeof *index->files, "a list of files");
    for (hy_json_member *member = hy_json_next_member(map, NULL); member;
         member = hy_json_next_member(map, member)) {
        const hy_json *value = hy_json_member_value(member);
        hymba_status status = check_entry(name, hy_json_member_key(member, NULL), value, error);
        if (status != HYMBA_OK)
            return status;
        index->files[n_files++] = (char *)hy_json_string(value, NULL);
    }
    index->n_files = keep_distinct(index->files, n_files);
    return HYMBA_OK;
}

hymba_status hy_shard_index_parse(struct hy_memory *memory, const char *text, size_t length,
                                  const char *name, struct hy_shard_index *index,
                                  hymba_error *error)
{
    memset(index, 0, sizeof *index);
    index->memory = memory;
    hymba_status status = hy_json_parse(text, length, name, &index->document, error);
    if (status == HYMBA_OK)
        status = read_map(index, name, error);
    if (status != HYMBA_OK)
        hy_shard_index_free(index);
    return status;
}

const char *hy_shard_index_find(const struct hy_shard_index *index, const char *tensor)
{
    return hy_json_string(hy_json_object_get(weight_map(index), tensor), NULL);
}

size_t hy_shard_index_size(const struct hy_shard_index *index)
{
    return hy_json_object_size(weight_map(index));
}

void hy_shard_index_free(struct hy_shard_index *index)
{
    if (!index->memory)
        return;
    hy_free(index->memory, index->files); /* the names themselves are the document's */
    hy_json_free(index->document);
    memset(index, 0, sizeof *index);
}
