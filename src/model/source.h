/* Where a model's files come from: a directory, or blocks of memory with names. */
#ifndef HY_MODEL_SOURCE_H
#define HY_MODEL_SOURCE_H

#include "base/file.h"

struct hy_source {
    struct hy_memory *memory;
    const char *directory;           /* NULL: memory blocks */
    const hymba_memory_file *files;
    size_t file_size, n_files;       /* stride in bytes, count */
    bool map;                        /* weight files are mapped rather than read */
};

/* Whether there is a file of that name. */
hymba_status hy_source_has(const struct hy_source *source, const char *name, bool *has,
                           hymba_error *error);

/* A name for messages: the path, or the block's name. Never fails: cut if it must be. */
const char *hy_source_name(const struct hy_source *source, const char *name, char *buffer,
                           size_t size);

/* A small file (configuration, tokenizer), limited to HY_SOURCE_MAX_TEXT bytes. */
enum { HY_SOURCE_MAX_TEXT = 256 << 20 };
hymba_status hy_source_read(const struct hy_source *source, const char *name, struct hy_file *file,
                            hymba_error *error);

/* A weight file: mapped, read or borrowed. */
hymba_status hy_source_open(const struct hy_source *source, const char *name, struct hy_file *file,
                            hymba_error *error);

#endif
