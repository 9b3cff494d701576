#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fuzz_require(bool condition, const char *sentence)
{
    if (condition)
        return;
    fprintf(stderr, "finding: %s\n", sentence);
    abort();
}

/* ------------------------------------------------------------------- host */

static void *allocate(void *user, size_t size, size_t alignment)
{
    struct fuzz_host *host = user;
    host->count++;
    bool refused = host->fail_at != 0 && (host->fail_ever_after ? host->count >= host->fail_at
                                                                : host->count == host->fail_at);
    void *pointer = NULL;
    fuzz_require(size > 0, "an allocation of no bytes");
    if (refused || posix_memalign(&pointer, alignment, size) != 0)
        return NULL;
    host->live += (int64_t)size;
    return pointer;
}

static void take_back(void *user, void *pointer, size_t size, size_t alignment)
{
    struct fuzz_host *host = user;
    (void)alignment;
    host->live -= (int64_t)size;
    free(pointer);
}

void fuzz_host_init(struct fuzz_host *host)
{
    memset(host, 0, sizeof *host);
    hymba_host_init(&host->host, sizeof host->host);
    host->host.user = host;
    host->host.alloc = allocate;
    host->host.free = take_back;
}

void fuzz_host_fail_at(struct fuzz_host *host, uint64_t number, bool ever_after)
{
    host->count = 0;
    host->fail_at = number;
    host->fail_ever_after = ever_after;
}

void fuzz_check(hymba_status status, const hymba_error *error)
{
    if (status == HYMBA_OK)
        return;
    fuzz_require(error->status == status, "the record has another status than the call");
    fuzz_require(status != HYMBA_ERROR_INTERNAL, "a fault in the library");
    fuzz_require(memchr(error->message, '\0', sizeof error->message) != NULL,
                 "a message without an end");
    fuzz_require(error->message[0] != '\0', "a failure without a message");
    fuzz_require(strcmp(hymba_status_name(status), "unknown status") != 0, "an unknown status");
}

/* ------------------------------------------------------------------ files */

void *fuzz_read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "cannot open %s\n", path);
        exit(2);
    }
    fseek(file, 0, SEEK_END);
    long length = ftell(file);
    rewind(file);
    char *data = malloc((size_t)length + 1);
    *size = data ? fread(data, 1, (size_t)length, file) : 0;
    fclose(file);
    fuzz_require(data && *size == (size_t)length, "a file of tests/data cannot be read");
    return data;
}

hymba_model *fuzz_open_model(const char *name, const hymba_host *host)
{
    char path[256];
    hymba_error error = {.struct_size = sizeof error};
    hymba_model_params params = {
        .struct_size = sizeof params,
        .flags = HYMBA_MODEL_NO_TOKENIZER | HYMBA_MODEL_NO_MAP,
        .host = host,
    };
    hymba_model *model;
    snprintf(path, sizeof path, "tests/data/%s", name);
    if (hymba_model_open(path, &params, &model, &error) != HYMBA_OK) {
        fprintf(stderr, "%s: %s\n", path, error.message);
        exit(2);
    }
    return model;
}

int32_t fuzz_write(void *user, const void *data, size_t size)
{
    struct fuzz_file *file = user;
    if (size == 0)
        return 0;
    if (size > file->capacity - file->size) {
        size_t capacity = 2 * (file->size + size);
        uint8_t *larger = realloc(file->data, capacity);
        fuzz_require(larger != NULL, "no memory for a saved session");
        file->data = larger;
        file->capacity = capacity;
    }
    memcpy(file->data + file->size, data, size);
    file->size += size;
    return 0;
}

void fuzz_file_free(struct fuzz_file *file)
{
    free(file->data);
    memset(file, 0, sizeof *file);
}

/* ------------------------------------------------------------------ input */

uint8_t fuzz_byte(struct fuzz_input *input)
{
    return input->place < input->size ? input->data[input->place++] : 0;
}

uint64_t fuzz_number(struct fuzz_input *input, unsigned bytes)
{
    uint64_t number = 0;
    for (unsigned i = 0; i < bytes; i++)
        number |= (uint64_t)fuzz_byte(input) << 8 * i;
    return number;
}

void fuzz_divide(const uint8_t *data, size_t size, size_t *first, const uint8_t **second,
                 size_t *second_size)
{
    static const char line[] = "\n=====\n";
    size_t length = sizeof line - 1;
    *first = size;
    *second = NULL;
    *second_size = 0;
    for (size_t i = 0; i + length <= size; i++)
        if (memcmp(data + i, line, length) == 0) {
            *first = i;
            *second = data + i + length;
            *second_size = size - i - length;
            return;
        }
}
