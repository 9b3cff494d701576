/* A disk that is small enough to fill. */
#ifndef TEST_FULL_DISK_H
#define TEST_FULL_DISK_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Puts a new file system of that size over the directory, for this process alone, which must have
 * one thread. False where the system does not let it.
 */
bool full_disk_mount(const char *directory, size_t bytes);
void full_disk_unmount(const char *directory);

/* Writes a file of that path that leaves so many bytes of its file system; in pages. */
bool full_disk_fill(const char *path, size_t bytes_left);

#endif
