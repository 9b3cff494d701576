/* Files: whole-file reading, mapping, and streamed writing. The only place that opens files. */
#ifndef HY_BASE_FILE_H
#define HY_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

/* The content of a file: mapped, read into memory, or a borrowed block. */
struct hy_file {
    const unsigned char *data; /* size bytes; NULL only if size is 0 */
    size_t size;
    enum { HY_FILE_NONE, HY_FILE_BORROWED, HY_FILE_READ, HY_FILE_MAPPED } kind;
    struct hy_memory *memory;  /* of a read file */
};

/* directory + "/" + name in a new block; NULL without memory. */
char *hy_path_join(struct hy_memory *memory, const char *directory, const char *name);

/* Whether path names something that exists (of any kind). */
bool hy_file_exists(const char *path);

/* Creates an empty file; FILE with EEXIST if there is one already. */
hymba_status hy_file_claim(const char *path, hymba_error *error);

/* Removes a file, if it is there and can be. */
void hy_file_remove(const char *path);

/* Reads the whole file; refuses one larger than limit bytes, directories and devices. */
hymba_status hy_file_read(struct hy_memory *memory, const char *path, uint64_t limit,
                          struct hy_file *file, hymba_error *error);

/* Maps the whole file read-only. */
hymba_status hy_file_map(const char *path, struct hy_file *file, hymba_error *error);

/* A view of memory that the caller keeps. */
void hy_file_borrow(const void *data, size_t size, struct hy_file *file);

/* A part of a mapped file will not be read again soon: its memory may go. Nothing to other files,
 * and to what does not lie in this one. */
void hy_file_forget(const struct hy_file *file, const void *data, size_t size);

/* Unmaps or frees; *file is empty afterwards. */
void hy_file_close(struct hy_file *file);

/*
 * A file being written: buffered, under a temporary name in the same directory, which finish
 * syncs and renames to the path, and abandon removes.
 */
struct hy_writer {
    struct hy_memory *memory;
    char *path;
    char *temporary;
    unsigned char *buffer;
    size_t used;
    uint64_t written; /* bytes given so far */
    int descriptor;
};

hymba_status hy_writer_open(struct hy_memory *memory, const char *path, struct hy_writer *writer,
                            hymba_error *error);
hymba_status hy_writer_write(struct hy_writer *writer, const void *data, size_t size,
                             hymba_error *error);
/* Flush, sync, rename, sync of the directory. On failure the temporary file is gone. */
hymba_status hy_writer_finish(struct hy_writer *writer, hymba_error *error);
/* Safe after any of the above, and twice. */
void hy_writer_abandon(struct hy_writer *writer);

#endif
