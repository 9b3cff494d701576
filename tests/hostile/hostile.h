/* What the tests of hostile input share. */
#ifndef TEST_HOSTILE_H
#define TEST_HOSTILE_H

#include "host.h"

/* The files of a model in memory, each in a block of just its size, so that a sanitizer sees a
 * read beyond its end. */
struct hostile_files {
    hymba_memory_file files[3];
    size_t n;
};

/* Adds a file of a folder; false if it is not there. */
bool hostile_add_file(struct hostile_files *files, const char *folder, const char *name);

/* The content of a file, to be changed. */
unsigned char *hostile_bytes(struct hostile_files *files, int index);

hymba_status hostile_open(const struct hostile_files *files, const hymba_host *host,
                          hymba_model **model, hymba_error *error);
void hostile_free(struct hostile_files *files);

/* Whether the long form of the tests was asked for (HYMBA_LONG). */
bool hostile_is_long(void);

/* In the long form, a line "WHAT: COUNT". */
void hostile_report(const char *what, size_t count);

#endif
