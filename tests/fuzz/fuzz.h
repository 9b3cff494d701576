/*
 * What the fuzz targets share. Each test_NAME.c defines LLVMFuzzerTestOneInput for one kind of
 * input and is linked with libFuzzer, with AFL++'s driver, or with replay.c, which runs files.
 * Programs run with the project's root as current directory.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hymba.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the program with the sentence if the condition does not hold: a finding. */
void fuzz_require(bool condition, const char *sentence);

/* A host whose allocator keeps books and refuses one allocation where a target wants that. */
struct fuzz_host {
    hymba_host host;
    int64_t live;        /* bytes out */
    uint64_t count;      /* allocations asked for since the last fuzz_host_fail_at */
    uint64_t fail_at;    /* number of the one to refuse, from 1; 0: none */
    bool fail_ever_after;
};

void fuzz_host_init(struct fuzz_host *host);
void fuzz_host_fail_at(struct fuzz_host *host, uint64_t number, bool ever_after);

/* Requires that a failed call has described itself, and was no fault of the library. */
void fuzz_check(hymba_status status, const hymba_error *error);

/* A model of tests/data, opened without tokenizer; ends the program if it cannot. */
hymba_model *fuzz_open_model(const char *name, const hymba_host *host);

/* The whole file, from malloc; ends the program if it cannot be read. */
void *fuzz_read_file(const char *path, size_t *size);

/* An input as a sequence of small numbers; zeros behind its end. */
struct fuzz_input {
    const uint8_t *data;
    size_t size, place;
};

uint8_t fuzz_byte(struct fuzz_input *input);
uint64_t fuzz_number(struct fuzz_input *input, unsigned bytes);

/* Divides an input at the first line that is "=====" into two parts; the second may be empty. */
void fuzz_divide(const uint8_t *data, size_t size, size_t *first, const uint8_t **second,
                 size_t *second_size);

/* What a session writes. */
struct fuzz_file {
    uint8_t *data;
    size_t size, capacity;
};

int32_t fuzz_write(void *file, const void *data, size_t size); /* a hymba_write */
void fuzz_file_free(struct fuzz_file *file);

#endif
