/*
 * Reading whole files and lines. "-" is standard input everywhere.
 */
#ifndef TOOLS_INPUT_H
#define TOOLS_INPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct bytes {
    char *data; /* from malloc; a NUL stands behind the last byte */
    size_t size;
};

/* Reads all of path. An exit status; the error has been printed. */
int read_bytes(const char *path, struct bytes *bytes);

/* A line of standard input that is one JSON value. Everything is borrowed. */
struct json_line {
    const json_t *value;
    const char *text;
    size_t length;
    const char *name; /* "standard input: line 7" */
};

/* Calls take for each line of standard input until it returns another status than STATUS_OK or
 * the input ends; the result is the last status. */
int read_json_lines(int (*take)(void *user, const struct json_line *line), void *user);

#endif
