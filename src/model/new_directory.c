#include "model/new_directory.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static hymba_status make_paths(struct hy_new_directory *target, hymba_error *error)
{
    for (size_t i = 0; i < target->n_files; i++) {
        target->paths[i] =
            hy_path_join(target->memory, target->directory, target->names[i]);
        if (!target->paths[i])
            return hy_no_memory(error, strlen(target->directory), "a file name");
    }
    return HYMBA_OK;
}

static hymba_status refuse_existing(const struct hy_new_directory *target, hymba_error *error)
{
    for (size_t i = 0; i < target->n_files; i++)
        if (hy_file_exists(target->paths[i]))
            return hy_fail(error, HYMBA_ERROR_FILE,
                           "%s: already holds %s, which is not overwritten", target->directory,
                           target->names[i]);
    return HYMBA_OK;
}

hymba_status hy_new_directory_begin(struct hy_memory *memory, const char *directory,
                                    const char *const *names, size_t n_files,
                                    struct hy_new_directory *target, hymba_error *error)
{
    *target = (struct hy_new_directory){
        .memory = memory, .directory = directory, .names = names, .n_files = n_files};
    hymba_status status = make_paths(target, error);
    if (status != HYMBA_OK)
        return status;
    target->created = mkdir(directory, 0777) == 0;
    if (!target->created && errno != EEXIST)
        return hy_fail_system(error, HYMBA_ERROR_FILE, errno, "%s: cannot be created", directory);
    status = refuse_existing(target, error);
    target->begun = status == HYMBA_OK;
    return status;
}

hymba_status hy_new_directory_write(struct hy_new_directory *target, size_t file,
                                    const void *data, size_t size, hymba_error *error)
{
    struct hy_writer writer;
    hymba_status status = hy_writer_open(target->memory, target->paths[file], &writer, error);
    if (status == HYMBA_OK) {
        status = hy_writer_write(&writer, data, size, error);
        if (status == HYMBA_OK)
            status = hy_writer_finish(&writer, error);
        hy_writer_abandon(&writer);
    }
    return status;
}

void hy_new_directory_end(struct hy_new_directory *target, bool keep)
{
    for (size_t i = 0; i < target->n_files; i++) {
        if (target->begun && !keep)
            unlink(target->paths[i]);
        hy_free(target->memory, target->paths[i]);
        target->paths[i] = NULL;
    }
    if (target->begun && !keep && target->created)
        rmdir(target->directory);
    target->begun = false;
}
