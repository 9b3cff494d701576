/* For madvise: what POSIX has in its stead, glibc ignores. */
#define _DEFAULT_SOURCE

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"

enum {
    BUFFER_SIZE = 1 << 20,
    LARGEST_TRANSFER = 1 << 30, /* one read or write: some systems refuse more than INT_MAX */
    NAME_ATTEMPTS = 100,
    SUFFIX_SIZE = 96
};

char *hy_path_join(struct hy_memory *memory, const char *directory, const char *name)
{
    size_t directory_length = strlen(directory), name_size = strlen(name) + 1, size;
    if (!hy_add_size(directory_length + 1, name_size, &size))
        return NULL;
    char *path = hy_alloc(memory, size);
    if (path) {
        memcpy(path, directory, directory_length);
        path[directory_length] = '/';
        memcpy(path + directory_length + 1, name, name_size);
    }
    return path;
}

/* What cannot be examined counts as there: opening it will say what is wrong. */
bool hy_file_exists(const char *path)
{
    return access(path, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

static const char *kind_of_mode(mode_t mode)
{
    if (S_ISDIR(mode))
        return "a directory";
    if (S_ISFIFO(mode))
        return "a pipe";
    if (S_ISCHR(mode) || S_ISBLK(mode))
        return "a device";
    return "of another kind";
}

static int open_retrying(const char *path, int flags, mode_t mode)
{
    int descriptor;
    do
        descriptor = open(path, flags | O_CLOEXEC | O_NOCTTY, mode);
    while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

hymba_status hy_file_claim(const char *path, hymba_error *error)
{
    int descriptor = open_retrying(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (descriptor < 0)
        return hy_fail_system(error, HYMBA_ERROR_FILE, errno, "cannot create %s", path);
    close(descriptor);
    return HYMBA_OK;
}

void hy_file_remove(const char *path)
{
    unlink(path);
}

/*
 * Opens a regular file and tells its size. O_NONBLOCK: opening a pipe would otherwise wait for
 * somebody to write into it before we can see that it is one; regular files ignore the flag.
 */
static hymba_status open_regular(const char *path, int *descriptor, size_t *size,
                                 hymba_error *error)
{
    struct stat status;
    hymba_status result = HYMBA_OK;
    *descriptor = open_retrying(path, O_RDONLY | O_NONBLOCK, 0);
    if (*descriptor < 0)
        return hy_fail_system(error, HYMBA_ERROR_FILE, errno, "cannot open %s", path);
    if (fstat(*descriptor, &status) != 0)
        result = hy_fail_system(error, HYMBA_ERROR_FILE, errno, "cannot examine %s", path);
    else if (!S_ISREG(status.st_mode))
        result = hy_fail(error, HYMBA_ERROR_FILE, "%s is %s, expected a regular file", path,
                         kind_of_mode(status.st_mode));
    else if (status.st_size < 0 || (uintmax_t)status.st_size > SIZE_MAX / 2)
        result = hy_fail(error, HYMBA_ERROR_FILE, "%s: a size of %jd bytes does not fit memory",
                         path, (intmax_t)status.st_size);
    if (result != HYMBA_OK) {
        close(*descriptor);
        *descriptor = -1;
        return result;
    }
    *size = (size_t)status.st_size;
    return HYMBA_OK;
}

static hymba_status read_all(int descriptor, const char *path, unsigned char *data, size_t size,
                             hymba_error *error)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = read(descriptor, data + done, hy_min_size(size - done, LARGEST_TRANSFER));
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return hy_fail_system(error, HYMBA_ERROR_FILE, errno, "cannot read %s", path);
        if (count == 0)
            return hy_fail(error, HYMBA_ERROR_FILE,
                           "%s ends after %zu bytes, its size was %zu: it is being changed", path,
                           done, size);
        done += (size_t)count;
    }
    return HYMBA_OK;
}

hymba_status hy_file_read(struct hy_memory *memory, const char *path, uint64_t limit,
                          struct hy_file *file, hymba_error *error)
{
    int descriptor;
    size_t size;
    unsigned char *data = NULL;
    memset(file, 0, sizeof *file);
    hymba_status status = open_regular(path, &descriptor, &size, error);
    if (status != HYMBA_OK)
        return status;
    if (size > limit)
        status = hy_fail(error, HYMBA_ERROR_FILE,
                         "%s is %zu bytes large, at most %" PRIu64 " are accepted", path, size,
                         limit);
    if (status == HYMBA_OK && size > 0) {
        data = hy_alloc(memory, size);
        status = data ? read_all(descriptor, path, data, size, error)
                      : hy_no_memory(error, size, path);
    }
    close(descriptor);
    if (status != HYMBA_OK) {
        hy_free(memory, data);
        return status;
    }
    file->data = data;
    file->size = size;
    file->kind = HY_FILE_READ;
    file->memory = memory;
    return HYMBA_OK;
}

hymba_status hy_file_map(const char *path, struct hy_file *file, hymba_error *error)
{
    int descriptor;
    size_t size;
    memset(file, 0, sizeof *file);
    hymba_status status = open_regular(path, &descriptor, &size, error);
    if (status != HYMBA_OK)
        return status;
    if (size > 0) { /* an empty mapping is an error to the system, an empty file is none to us */
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (data == MAP_FAILED)
            status = hy_fail_system(error, HYMBA_ERROR_FILE, errno, "cannot map %s (%zu bytes)",
                                    path, size);
        else
            file->data = data;
    }
    close(descriptor);
    if (status == HYMBA_OK) {
        file->size = size;
        file->kind = HY_FILE_MAPPED;
    }
    return status;
}

void hy_file_borrow(const void *data, size_t size, struct hy_file *file)
{
    memset(file, 0, sizeof *file);
    file->data = data;
    file->size = size;
    file->kind = HY_FILE_BORROWED;
}

void hy_file_forget(const struct hy_file *file, const void *data, size_t size)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data;
    uintptr_t file_begin = (uintptr_t)file->data, end = begin + size;
    if (file->kind != HY_FILE_MAPPED || begin < file_begin || end > file_begin + file->size)
        return;
    begin = (begin + page - 1) / page * page; /* only pages that hold nothing else */
    end = end / page * page;
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED); /* advice: failure costs nothing */
}

void hy_file_close(struct hy_file *file)
{
    if (file->kind == HY_FILE_MAPPED && file->data)
        munmap((void *)file->data, file->size);
    else if (file->kind == HY_FILE_READ)
        hy_free(file->memory, (void *)file->data);
    memset(file, 0, sizeof *file);
}

/*
 * Appends a suffix to the path: same directory, so that rename is atomic. The time is in it, since
 * a process that is killed leaves its file, and the next may well have the same number.
 */
static int create_temporary(char *name, size_t length, size_t capacity)
{
    int descriptor = -1;
    for (int attempt = 0; attempt < NAME_ATTEMPTS && descriptor < 0; attempt++) {
        struct timespec now = {0};
        clock_gettime(CLOCK_REALTIME, &now);
        snprintf(name + length, capacity - length, ".%ld-%lx-%lx-%d.part", (long)getpid(),
                 (unsigned long)now.tv_sec, (unsigned long)now.tv_nsec, attempt);
        descriptor = open_retrying(name, O_WRONLY | O_CREAT | O_EXCL, 0666);
        if (descriptor < 0 && errno != EEXIST)
            break;
    }
    return descriptor;
}

/* writer->temporary is set only once the file exists: abandon removes what it names. */
static hymba_status open_temporary(struct hy_writer *writer, const char *path,
                                   hymba_error *error)
{
    size_t length = strlen(path), capacity;
    char *name = NULL;
    if (hy_add_size(length, SUFFIX_SIZE, &capacity))
        name = hy_alloc(writer->memory, capacity);
    if (!name)
        return hy_no_memory(error, length, "a temporary file's name");
    memcpy(name, path, length);
    writer->descriptor = create_temporary(name, length, capacity);
    if (writer->descriptor < 0) {
        int code = errno;
        hy_free(writer->memory, name);
        return hy_fail_system(error, HYMBA_ERROR_FILE, code, "cannot create %s", path);
    }
    writer->temporary = name;
    return HYMBA_OK;
}

hymba_status hy_writer_open(struct hy_memory *memory, const char *path, struct hy_writer *writer,
                            hymba_error *error)
{
    struct stat existing;
    hymba_status status;
    memset(writer, 0, sizeof *writer);
    writer->memory = memory;
    writer->descriptor = -1;
    if (stat(path, &existing) == 0 && !S_ISREG(existing.st_mode))
        return hy_fail(error, HYMBA_ERROR_FILE, "cannot write %s: it is %s", path,
                       kind_of_mode(existing.st_mode));
    writer->path = hy_copy_text(memory, path, strlen(path));
    writer->buffer = hy_alloc(memory, BUFFER_SIZE);
    if (writer->path && writer->buffer)
        status = open_temporary(writer, path, error);
    else
        status = hy_no_memory(error, BUFFER_SIZE, "a write buffer");
    if (status != HYMBA_OK)
        hy_writer_abandon(writer);
    return status;
}

static hymba_status write_all(struct hy_writer *writer, const unsigned char *data, size_t size,
                              hymba_error *error)
{
    while (size > 0) {
        ssize_t count = write(writer->descriptor, data, hy_min_size(size, LARGEST_TRANSFER));
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return hy_fail_system(error, HYMBA_ERROR_FILE, errno, "cannot write %s",
                                  writer->path);
        if (count == 0) /* would go on for ever */
            return hy_fail(error, HYMBA_ERROR_FILE, "cannot write %s: nothing is accepted",
                           writer->path);
        data += count;
        size -= (size_t)count;
    }
    return HYMBA_OK;
}

static hymba_status flush(struct hy_writer *writer, hymba_error *error)
{
    hymba_status status = write_all(writer, writer->buffer, writer->used, error);
    writer->used = 0;
    return status;
}

hymba_status hy_writer_write(struct hy_writer *writer, const void *data, size_t size,
                             hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    if (size == 0)
        return HYMBA_OK;
    if (size > BUFFER_SIZE - writer->used)
        status = flush(writer, error);
    if (status == HYMBA_OK && size > BUFFER_SIZE) {
        status = write_all(writer, data, size, error);
    } else if (status == HYMBA_OK) {
        memcpy(writer->buffer + writer->used, data, size);
        writer->used += size;
    }
    if (status == HYMBA_OK)
        writer->written += size;
    return status;
}

static int sync_retrying(int descriptor)
{
    int result;
    do
        result = fsync(descriptor);
    while (result != 0 && errno == EINTR);
    return result;
}

/* Makes the renaming last; file systems that cannot sync a directory are let be. */
static hymba_status sync_directory(struct hy_writer *writer, hymba_error *error)
{
    char *slash = strrchr(writer->path, '/');
    const char *directory = ".";
    if (slash) {
        slash[slash == writer->path] = '\0'; /* of "/name" the slash itself is kept */
        directory = writer->path;
    }
    int descriptor = open_retrying(directory, O_RDONLY | O_DIRECTORY, 0);
    if (descriptor < 0)
        return HYMBA_OK; /* one may write into a directory that one may not read */
    int code = sync_retrying(descriptor) == 0 ? 0 : errno;
    close(descriptor);
    if (code == 0 || code == EINVAL || code == EROFS || code == ENOTSUP)
        return HYMBA_OK;
    return hy_fail_system(error, HYMBA_ERROR_FILE, code, "cannot sync directory %s", directory);
}

static hymba_status close_descriptor(struct hy_writer *writer, hymba_error *error)
{
    int result = close(writer->descriptor), code = errno;
    writer->descriptor = -1; /* closed even if close reports a failure */
    if (result == 0 || code == EINTR)
        return HYMBA_OK;
    return hy_fail_system(error, HYMBA_ERROR_FILE, code, "cannot write %s", writer->path);
}

static hymba_status move_into_place(struct hy_writer *writer, hymba_error *error)
{
    if (rename(writer->temporary, writer->path) != 0)
        return hy_fail_system(error, HYMBA_ERROR_FILE, errno, "cannot rename %s to %s",
                              writer->temporary, writer->path);
    hy_free(writer->memory, writer->temporary); /* nothing left for abandon to remove */
    writer->temporary = NULL;
    return HYMBA_OK;
}

hymba_status hy_writer_finish(struct hy_writer *writer, hymba_error *error)
{
    hymba_status status = flush(writer, error);
    if (status == HYMBA_OK && sync_retrying(writer->descriptor) != 0 && errno != EINVAL)
        status = hy_fail_system(error, HYMBA_ERROR_FILE, errno, "cannot sync %s", writer->path);
    if (status == HYMBA_OK)
        status = close_descriptor(writer, error);
    if (status == HYMBA_OK)
        status = move_into_place(writer, error);
    if (status == HYMBA_OK)
        status = sync_directory(writer, error);
    hy_writer_abandon(writer);
    return status;
}

void hy_writer_abandon(struct hy_writer *writer)
{
    if (!writer->memory)
        return; /* never opened, or done with: descriptor may be anything */
    if (writer->descriptor >= 0) {
        close(writer->descriptor);
        writer->descriptor = -1;
    }
    if (writer->temporary)
        unlink(writer->temporary);
    hy_free(writer->memory, writer->temporary);
    hy_free(writer->memory, writer->buffer);
    hy_free(writer->memory, writer->path);
    memset(writer, 0, sizeof *writer);
    writer->descriptor = -1;
}
