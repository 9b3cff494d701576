/* Arithmetic on sizes that come from outside: every operation says whether the result fits. */
#ifndef HY_BASE_CHECKED_H
#define HY_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *result = a + b; false if it does not fit. */
static inline bool hy_add_size(size_t a, size_t b, size_t *result)
{
    return !__builtin_add_overflow(a, b, result);
}

/* *result = a * b; false if it does not fit. */
static inline bool hy_mul_size(size_t a, size_t b, size_t *result)
{
    return !__builtin_mul_overflow(a, b, result);
}

static inline bool hy_add_u64(uint64_t a, uint64_t b, uint64_t *result)
{
    return !__builtin_add_overflow(a, b, result);
}

static inline bool hy_mul_u64(uint64_t a, uint64_t b, uint64_t *result)
{
    return !__builtin_mul_overflow(a, b, result);
}

/* Whether count elements of size bytes can lie in memory. A negative number that was taken for a
 * count cannot; what it counts must then not be read. */
static inline bool hy_is_count(size_t count, size_t size)
{
    return size == 0 || count <= PTRDIFF_MAX / size;
}

static inline size_t hy_min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t hy_max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The first multiple that is not below n; n + multiple must fit. */
static inline size_t hy_round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

#endif
