/*
 * The boundary's own tools: reading and writing sized structs, and checking arguments. lib/ is the
 * only place that defines what hymba.h declares.
 */
#ifndef HY_LIB_ABI_H
#define HY_LIB_ABI_H

#include <stdbool.h>

#include "base/status.h"

/*
 * Copies a caller's sized struct into a complete one. from may be NULL: all defaults. An older
 * caller's smaller struct is filled up with zeros; a newer caller's larger one is accepted if what
 * this library does not know is zero.
 */
hymba_status hy_read_struct(void *to, size_t size, const void *from, const char *name,
                            hymba_error *error);

/*
 * ARGUMENT if a caller's sized struct is NULL or its struct_size cannot be one. For results, before
 * the work, which would otherwise be done in vain.
 */
hymba_status hy_check_struct(const void *given, const char *name, hymba_error *error);

/*
 * An element of a newer caller's array, size bytes of which this library knows the first known:
 * UNSUPPORTED, naming array and index, if something is set behind them.
 */
hymba_status hy_check_element(const void *given, size_t size, size_t known, const char *array,
                              size_t index, hymba_error *error);

/* Copies a complete struct into a caller's, up to the caller's struct_size, which stays. */
hymba_status hy_write_struct(void *to, const void *from, size_t size, const char *name,
                             hymba_error *error);

/* ARGUMENT if so many elements of size bytes cannot lie in memory, as for a negative count. */
hymba_status hy_check_count(size_t count, size_t size, const char *name, hymba_error *error);

/* ARGUMENT unless params.reserved, which may get a meaning later, is 0. */
hymba_status hy_check_reserved(uint32_t reserved, hymba_error *error);

/* Clears a caller's struct of the given size and sets its struct_size. */
void hy_init_struct(void *to, size_t size);

/* ARGUMENT, naming the argument, if pointer is NULL. */
hymba_status hy_require(const void *pointer, const char *name, hymba_error *error);

/* Length of a text argument: length, or up to the NUL. ARGUMENT for NULL with a length. */
hymba_status hy_text_length(const char *text, size_t *length, const char *name,
                            hymba_error *error);

/* The rule for buffers: BUFFER unless needed elements fit or only the size was asked for. */
hymba_status hy_check_buffer(const void *buffer, size_t capacity, size_t needed,
                             hymba_error *error);

#endif
