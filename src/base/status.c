#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The XSI strerror_r, which returns int: _GNU_SOURCE must not be defined for this file. */
static void append_system_message(char *message, size_t capacity, int code)
{
    char reason[128];
    size_t used = strlen(message);
    if (strerror_r(code, reason, sizeof reason) != 0)
        snprintf(reason, sizeof reason, "system error %d", code);
    snprintf(message + used, capacity - used, ": %s", reason);
}

static hymba_status fill(hymba_error *error, hymba_status status, int64_t position, int code,
                         const char *format, va_list arguments)
{
    if (!error || error->struct_size <= offsetof(hymba_error, message))
        return status;
    size_t size = error->struct_size < sizeof *error ? error->struct_size : sizeof *error;
    size_t capacity = size - offsetof(hymba_error, message);
    error->status = status;
    error->system_code = code;
    error->position = position;
    vsnprintf(error->message, capacity, format, arguments);
    if (code)
        append_system_message(error->message, capacity, code);
    return status;
}

hymba_status hy_fail(hymba_error *error, hymba_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fill(error, status, -1, 0, format, arguments);
    va_end(arguments);
    return status;
}

hymba_status hy_fail_at(hymba_error *error, hymba_status status, int64_t position,
                        const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fill(error, status, position, 0, format, arguments);
    va_end(arguments);
    return status;
}

hymba_status hy_fail_system(hymba_error *error, hymba_status status, int code, const char *format,
                            ...)
{
    va_list arguments;
    va_start(arguments, format);
    fill(error, status, -1, code, format, arguments);
    va_end(arguments);
    return status;
}

hymba_status hy_fail_again(hymba_error *error, const hymba_error *cause)
{
    hy_fail_at(error, cause->status, cause->position, "%s", cause->message);
    if (error && error->struct_size > offsetof(hymba_error, message))
        error->system_code = cause->system_code;
    return cause->status;
}
