#include "model/source.h"

#include <stdio.h>
#include <string.h>

static const hymba_memory_file *find_block(const struct hy_source *source, const char *name)
{
    for (size_t i = 0; i < source->n_files; i++) {
        const void *place = (const char *)source->files + i * source->file_size;
        const hymba_memory_file *file = place;
        if (strcmp(file->name, name) == 0)
            return file;
    }
    return NULL;
}

hymba_status hy_source_has(const struct hy_source *source, const char *name, bool *has,
                           hymba_error *error)
{
    *has = false;
    if (!source->directory) {
        *has = find_block(source, name) != NULL;
        return HYMBA_OK;
    }
    char *path = hy_path_join(source->memory, source->directory, name);
    if (!path)
        return hy_no_memory(error, strlen(name), "a file name");
    *has = hy_file_exists(path);
    hy_free(source->memory, path);
    return HYMBA_OK;
}

const char *hy_source_name(const struct hy_source *source, const char *name, char *buffer,
                           size_t size)
{
    if (!source->directory)
        return name;
    /* A message has room for one sentence: of a very long path its end says most. */
    size_t length = strlen(source->directory), longest = size / 2;
    const char *directory = source->directory + (length > longest ? length - longest : 0);
    snprintf(buffer, size, "%s%s/%s", length > longest ? "..." : "", directory, name);
    return buffer;
}

static hymba_status open_file(const struct hy_source *source, const char *name, bool map,
                              uint64_t limit, struct hy_file *file, hymba_error *error)
{
    if (!source->directory) {
        const hymba_memory_file *block = find_block(source, name);
        if (!block)
            return hy_fail(error, HYMBA_ERROR_FILE, "%s: not among the %zu memory blocks", name,
                           source->n_files);
        hy_file_borrow(block->data, block->size, file);
        return HYMBA_OK;
    }
    char *path = hy_path_join(source->memory, source->directory, name);
    if (!path)
        return hy_no_memory(error, strlen(name), "a file name");
    hymba_status status = map ? hy_file_map(path, file, error)
                              : hy_file_read(source->memory, path, limit, file, error);
    hy_free(source->memory, path);
    return status;
}

hymba_status hy_source_read(const struct hy_source *source, const char *name, struct hy_file *file,
                            hymba_error *error)
{
    return open_file(source, name, false, HY_SOURCE_MAX_TEXT, file, error);
}

hymba_status hy_source_open(const struct hy_source *source, const char *name, struct hy_file *file,
                            hymba_error *error)
{
    return open_file(source, name, source->map, UINT64_MAX, file, error);
}
