/*
 * Writing a model directory file by file. No file of it may be there before; what was written is
 * removed again if the whole does not succeed.
 */
#ifndef HY_MODEL_NEW_DIRECTORY_H
#define HY_MODEL_NEW_DIRECTORY_H

#include "base/file.h"

enum { HY_MAX_NEW_FILES = 16 };

struct hy_new_directory {
    struct hy_memory *memory;
    const char *directory;
    const char *const *names;       /* of the files */
    size_t n_files;
    char *paths[HY_MAX_NEW_FILES];  /* made first: cleaning up must not need memory */
    bool created;                   /* the directory was not there */
    bool begun;                     /* nothing of it was there: what is there now is ours */
};

/* Creates the directory unless it is there. names must stay; at most HY_MAX_NEW_FILES. */
hymba_status hy_new_directory_begin(struct hy_memory *memory, const char *directory,
                                    const char *const *names, size_t n_files,
                                    struct hy_new_directory *target, hymba_error *error);

/* Writes a whole file: the number of its name. */
hymba_status hy_new_directory_write(struct hy_new_directory *target, size_t file,
                                    const void *data, size_t size, hymba_error *error);

/* Frees; with keep false removes what was written. Safe after a failed begin. */
void hy_new_directory_end(struct hy_new_directory *target, bool keep);

#endif
