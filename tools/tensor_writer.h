/*
 * Writes a safetensors file with one F32 matrix, row by row. The file appears under its name when
 * it is complete: until then it has a temporary name beside it.
 */
#ifndef TOOLS_TENSOR_WRITER_H
#define TOOLS_TENSOR_WRITER_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct tensor_writer {
    FILE *file;
    const char *path;    /* the caller's */
    char *temporary;     /* NULL if path is written directly: a pipe or a device */
    uint64_t rows, columns;
    uint64_t rows_written;
};

/* Functions give an exit status and have printed the error; after one only close is allowed. */
int tensor_writer_open(struct tensor_writer *writer, const char *path, const char *tensor,
                       uint64_t rows, uint64_t columns);
int tensor_writer_add(struct tensor_writer *writer, const float *values, size_t rows);

/* Ends the file if all rows were written and status is STATUS_OK, removes it otherwise; the
 * result is status or an error of its own. */
int tensor_writer_close(struct tensor_writer *writer, int status);

#endif
