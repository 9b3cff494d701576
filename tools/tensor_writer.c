#include "tensor_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "output.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little-endian"
#endif

static int fail_write(const struct tensor_writer *writer)
{
    return fail("%s: %s", writer->path, strerror(errno));
}

/* A pipe or a device (/dev/null) must be written where it is, not replaced by a file. */
static int must_write_directly(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
}

static int open_file(struct tensor_writer *writer)
{
    int descriptor;
    if (must_write_directly(writer->path)) {
        descriptor = open(writer->path, O_WRONLY);
    } else {
        size_t size = strlen(writer->path) + 32;
        writer->temporary = take_memory(size, 1);
        snprintf(writer->temporary, size, "%s.%ld.part", writer->path, (long)getpid());
        descriptor = open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
    }
    if (descriptor >= 0)
        writer->file = fdopen(descriptor, "wb");
    return writer->file ? STATUS_OK : fail_write(writer);
}

static int write_header(struct tensor_writer *writer, const char *tensor)
{
    char header[512];
    unsigned char size[8];
    uint64_t bytes = writer->rows * writer->columns * sizeof(float);
    int length = snprintf(header, sizeof header,
                          "{\"%s\":{\"dtype\":\"F32\",\"shape\":[%" PRIu64 ",%" PRIu64
                          "],\"data_offsets\":[0,%" PRIu64 "]}}",
                          tensor, writer->rows, writer->columns, bytes);
    size_t padded = ((size_t)length + 7) / 8 * 8;
    memset(header + length, ' ', padded - (size_t)length);
    for (int i = 0; i < 8; i++)
        size[i] = (unsigned char)((uint64_t)padded >> (8 * i));
    if (fwrite(size, sizeof size, 1, writer->file) != 1 ||
        fwrite(header, padded, 1, writer->file) != 1)
        return fail_write(writer);
    return STATUS_OK;
}

int tensor_writer_open(struct tensor_writer *writer, const char *path, const char *tensor,
                       uint64_t rows, uint64_t columns)
{
    memset(writer, 0, sizeof *writer);
    writer->path = path;
    writer->rows = rows;
    writer->columns = columns;
    int status = open_file(writer);
    return status == STATUS_OK ? write_header(writer, tensor) : status;
}

int tensor_writer_add(struct tensor_writer *writer, const float *values, size_t rows)
{
    if (rows > writer->rows - writer->rows_written)
        return fail("%s: more rows than announced", writer->path);
    if (fwrite(values, writer->columns * sizeof *values, rows, writer->file) != rows)
        return fail_write(writer);
    writer->rows_written += rows;
    return STATUS_OK;
}

int tensor_writer_close(struct tensor_writer *writer, int status)
{
    int created = writer->file != NULL;
    if (created && fclose(writer->file) != 0 && status == STATUS_OK)
        status = fail_write(writer);
    if (status == STATUS_OK && writer->rows_written != writer->rows)
        status = fail("%s: fewer rows than announced", writer->path);
    if (writer->temporary) {
        if (status == STATUS_OK && rename(writer->temporary, writer->path) != 0)
            status = fail_write(writer);
        if (status != STATUS_OK && created)
            unlink(writer->temporary);
    }
    free(writer->temporary);
    memset(writer, 0, sizeof *writer);
    return status;
}
