/*
 * Status and error records. Every internal function that can fail returns hymba_status and takes
 * the caller's error record last; the record is written once, where the fault is found.
 *
 * src/ shares the public vocabulary (status, element types, hooks, parameter structs) with
 * hymba.h; only lib/ defines the functions declared there.
 */
#ifndef HY_BASE_STATUS_H
#define HY_BASE_STATUS_H

#include "hymba.h"

#if defined(__GNUC__)
#define HY_PRINTF(format_index, first_argument) \
    __attribute__((format(printf, format_index, first_argument)))
#else
#define HY_PRINTF(format_index, first_argument)
#endif

/* Writes the sentence into *error (NULL: nowhere; never past its struct_size); returns status. */
hymba_status hy_fail(hymba_error *error, hymba_status status, const char *format, ...)
    HY_PRINTF(3, 4);

/* The same with hymba_error.position set. */
hymba_status hy_fail_at(hymba_error *error, hymba_status status, int64_t position,
                        const char *format, ...) HY_PRINTF(4, 5);

/* The same with hymba_error.system_code set; ": " and the system's sentence for code follow. */
hymba_status hy_fail_system(hymba_error *error, hymba_status status, int code, const char *format,
                            ...) HY_PRINTF(4, 5);

/* The failure that *cause tells of, told once more; returns its status. */
hymba_status hy_fail_again(hymba_error *error, const hymba_error *cause);

#endif
