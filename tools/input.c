#include "input.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interrupt.h"
#include "output.h"
#include "ranks.h"

static const char *name_of(const char *path)
{
    return strcmp(path, "-") == 0 ? "standard input" : path;
}

int read_bytes(const char *path, struct bytes *bytes)
{
    size_t capacity = 1 << 16;
    int status = STATUS_OK;
    bytes->data = NULL;
    bytes->size = 0;
    if (strcmp(path, "-") == 0 && ranks_are_several())
        return fail("several ranks cannot share standard input: give a file");
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!file)
        return fail("%s: %s", path, strerror(errno));
    for (;;) {
        bytes->data = grow_memory(bytes->data, capacity, 1);
        size_t got = fread(bytes->data + bytes->size, 1, capacity - 1 - bytes->size, file);
        bytes->size += got;
        if (bytes->size < capacity - 1)
            break;
        capacity *= 2;
    }
    bytes->data[bytes->size] = '\0';
    if (interrupted())
        status = fail_interrupted();
    else if (ferror(file))
        status = fail("%s: %s", name_of(path), strerror(errno));
    if (file != stdin)
        fclose(file);
    if (status != STATUS_OK) {
        free(bytes->data);
        bytes->data = NULL;
    }
    return status;
}

static int take_line(int (*take)(void *user, const struct json_line *line), void *user,
                     const char *text, size_t length, size_t number)
{
    char name[64];
    json_error_t error;
    snprintf(name, sizeof name, "standard input: line %zu", number);
    json_t *value = json_loadb(text, length, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!value)
        return fail("%s is not JSON: %s (column %d)", name, error.text, error.column);
    struct json_line line = {.value = value, .text = text, .length = length, .name = name};
    int status = take(user, &line);
    json_decref(value);
    return status;
}

int read_json_lines(int (*take)(void *user, const struct json_line *line), void *user)
{
    char *text = NULL;
    size_t capacity = 0;
    size_t number = 0;
    int status = STATUS_OK;
    while (status == STATUS_OK && !interrupted()) {
        errno = 0;
        ssize_t length = getline(&text, &capacity, stdin);
        if (length < 0) {
            if (!interrupted() && (ferror(stdin) || errno == ENOMEM))
                status = fail("standard input: %s", strerror(errno));
            break;
        }
        status = take_line(take, user, text, (size_t)length, ++number);
    }
    free(text);
    return status == STATUS_OK && interrupted() ? fail_interrupted() : status;
}
