#include "abi.h"

#include <string.h>

#include "base/checked.h"
#include "kernel/kernel.h"
#include "tensor/dtype.h"

#define TEXT_OF(number) #number
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

const char *hymba_version_string(void)
{
    return VERSION_TEXT(HYMBA_VERSION_MAJOR, HYMBA_VERSION_MINOR, HYMBA_VERSION_PATCH);
}

uint32_t hymba_version_number(void)
{
    return HYMBA_VERSION_MAJOR * 1000000u + HYMBA_VERSION_MINOR * 1000u + HYMBA_VERSION_PATCH;
}

uint32_t hymba_abi_version(void)
{
    return HYMBA_ABI;
}

static const struct {
    hymba_status status;
    const char *name, *description;
} statuses[] = {
    {HYMBA_OK, "HYMBA_OK", "The call did what it was asked to do."},
    {HYMBA_ERROR_ARGUMENT, "HYMBA_ERROR_ARGUMENT", "An argument is not valid."},
    {HYMBA_ERROR_BUFFER, "HYMBA_ERROR_BUFFER", "The buffer is too small."},
    {HYMBA_ERROR_MEMORY, "HYMBA_ERROR_MEMORY", "An allocation failed."},
    {HYMBA_ERROR_LIMIT, "HYMBA_ERROR_LIMIT", "A limit would be exceeded."},
    {HYMBA_ERROR_THREAD, "HYMBA_ERROR_THREAD", "A thread or lock could not be created."},
    {HYMBA_ERROR_FILE, "HYMBA_ERROR_FILE", "A file could not be opened, read or written."},
    {HYMBA_ERROR_FORMAT, "HYMBA_ERROR_FORMAT", "A file's content is not valid."},
    {HYMBA_ERROR_UNSUPPORTED, "HYMBA_ERROR_UNSUPPORTED",
     "The content is valid, but not supported by this library."},
    {HYMBA_ERROR_MISSING, "HYMBA_ERROR_MISSING", "The model lacks what the call needs."},
    {HYMBA_ERROR_DEVICE, "HYMBA_ERROR_DEVICE", "The device cannot be used or has failed."},
    {HYMBA_ERROR_TIMEOUT, "HYMBA_ERROR_TIMEOUT", "Another rank did not come or answer in time."},
    {HYMBA_ERROR_BUSY, "HYMBA_ERROR_BUSY", "Another call is running on this context."},
    {HYMBA_ERROR_STATE, "HYMBA_ERROR_STATE", "The object cannot do this in its present state."},
    {HYMBA_ERROR_CANCELLED, "HYMBA_ERROR_CANCELLED", "The call was cancelled."},
    {HYMBA_ERROR_INTERNAL, "HYMBA_ERROR_INTERNAL", "A fault in the library."},
};

enum { N_STATUSES = sizeof statuses / sizeof statuses[0] };

const char *hymba_status_name(hymba_status status)
{
    for (int i = 0; i < N_STATUSES; i++)
        if (statuses[i].status == status)
            return statuses[i].name;
    return "unknown status";
}

const char *hymba_status_description(hymba_status status)
{
    for (int i = 0; i < N_STATUSES; i++)
        if (statuses[i].status == status)
            return statuses[i].description;
    return "A status that this version of the library does not know.";
}

const char *hymba_dtype_name(hymba_dtype dtype)
{
    return hy_dtype_name(dtype);
}

hymba_dtype hymba_dtype_from_name(const char *name)
{
    return hy_dtype_from_name(name);
}

size_t hymba_dtype_size(hymba_dtype dtype)
{
    return hy_dtype_size(dtype);
}

const char *hymba_compute_name(int32_t compute)
{
    return hy_compute_name(compute);
}

int32_t hymba_compute_from_name(const char *name)
{
    return hy_compute_from_name(name);
}

void hy_init_struct(void *to, size_t size)
{
    if (!to || size < sizeof size)
        return;
    memset(to, 0, size);
    memcpy(to, &size, sizeof size);
}

void hymba_error_init(hymba_error *error, size_t size)
{
    hy_init_struct(error, size);
}

void hymba_host_init(hymba_host *host, size_t size)
{
    hy_init_struct(host, size);
}

/* Nothing beyond is taken for a struct's size: it was never set, and the memory is not read. */
enum { LARGEST_STRUCT = 4096 };

hymba_status hy_check_struct(const void *given, const char *name, hymba_error *error)
{
    size_t size;
    hymba_status status = hy_require(given, name, error);
    if (status != HYMBA_OK)
        return status;
    memcpy(&size, given, sizeof size);
    if (size < sizeof size || size > LARGEST_STRUCT)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "%s: struct_size is %zu, expected the size of the struct", name, size);
    return HYMBA_OK;
}

/* Place of the first byte that is set behind the known ones; size if there is none. */
static size_t unknown_byte(const void *given, size_t size, size_t known)
{
    size_t i = known;
    while (i < size && ((const unsigned char *)given)[i] == 0)
        i++;
    return i;
}

hymba_status hy_check_element(const void *given, size_t size, size_t known, const char *array,
                              size_t index, hymba_error *error)
{
    if (unknown_byte(given, size, known) < size)
        return hy_fail_at(error, HYMBA_ERROR_UNSUPPORTED, (int64_t)index,
                          "%s[%zu]: something is set behind the %zu bytes this library knows",
                          array, index, known);
    return HYMBA_OK;
}

hymba_status hy_read_struct(void *to, size_t size, const void *from, const char *name,
                            hymba_error *error)
{
    size_t given, unknown;
    memset(to, 0, size);
    memcpy(to, &size, sizeof size);
    if (!from)
        return HYMBA_OK;
    hymba_status status = hy_check_struct(from, name, error);
    if (status != HYMBA_OK)
        return status;
    memcpy(&given, from, sizeof given);
    unknown = unknown_byte(from, given, size);
    if (unknown < given)
        return hy_fail_at(error, HYMBA_ERROR_UNSUPPORTED, (int64_t)unknown,
                          "%s: byte %zu is set, but this library knows only %zu bytes", name,
                          unknown, size);
    memcpy((char *)to + sizeof given, (const char *)from + sizeof given,
           hy_min_size(given, size) - sizeof given);
    return HYMBA_OK;
}

hymba_status hy_write_struct(void *to, const void *from, size_t size, const char *name,
                             hymba_error *error)
{
    size_t given;
    hymba_status status = hy_check_struct(to, name, error);
    if (status != HYMBA_OK)
        return status;
    memcpy(&given, to, sizeof given);
    memcpy((char *)to + sizeof given, (const char *)from + sizeof given,
           hy_min_size(given, size) - sizeof given);
    if (given > size)
        memset((char *)to + size, 0, given - size);
    return HYMBA_OK;
}

hymba_status hy_check_reserved(uint32_t reserved, hymba_error *error)
{
    return reserved == 0 ? HYMBA_OK
                         : hy_fail(error, HYMBA_ERROR_ARGUMENT,
                                   "params.reserved: found %u, expected 0", reserved);
}

hymba_status hy_require(const void *pointer, const char *name, hymba_error *error)
{
    return pointer ? HYMBA_OK
                   : hy_fail(error, HYMBA_ERROR_ARGUMENT, "%s: found NULL, which is not allowed",
                             name);
}

hymba_status hy_check_count(size_t count, size_t size, const char *name, hymba_error *error)
{
    return hy_is_count(count, size)
               ? HYMBA_OK
               : hy_fail(error, HYMBA_ERROR_ARGUMENT,
                         "%s: found %zu, which is more than memory can hold", name, count);
}

hymba_status hy_text_length(const char *text, size_t *length, const char *name, hymba_error *error)
{
    if (!text && *length == 0)
        return HYMBA_OK;
    hymba_status status = hy_require(text, name, error);
    if (status == HYMBA_OK && *length == HYMBA_NUL_TERMINATED)
        *length = strlen(text);
    return status == HYMBA_OK ? hy_check_count(*length, 1, name, error) : status;
}

hymba_status hy_check_buffer(const void *buffer, size_t capacity, size_t needed,
                             hymba_error *error)
{
    if (needed <= capacity || (!buffer && capacity == 0))
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_BUFFER, "the buffer has room for %zu, %zu are needed",
                   capacity, needed);
}
