/*
 * What the kernel tests share: the instruction sets of this machine, random arrays that end at an
 * inaccessible page (so that a read or write past the end faults, masked vector access included),
 * and comparisons.
 */
#ifndef KERNEL_TEST_H
#define KERNEL_TEST_H

#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel/cpu.h"
#include "kernel/kernel.h"
#include "support.h"

/* The sets that a processor of this kind may have; how many partial sums each keeps at least. */
#ifdef __aarch64__
static const char *const instruction_sets[] = {"generic", "neon"};
enum { PARTIAL_SUMS = 4 };
#else
static const char *const instruction_sets[] = {"generic", "avx2", "avx512", "amx"};
enum { PARTIAL_SUMS = 8 };
#endif

enum { N_SETS = sizeof instruction_sets / sizeof instruction_sets[0] };
enum { MOST_BLOCKS = 512, MOST_PARTS = 5 };

/* Sets, and the variants of one that a better processor does not use. */
enum { N_VARIANTS = N_SETS + 2 };

static const hymba_dtype all_dtypes[3] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16};

static struct {
    void *address;
    size_t size;
} guarded_blocks[MOST_BLOCKS];
static size_t n_guarded_blocks;

/* Kernels of the set a loop test's index stands for; false if the machine lacks it. */
static inline bool kernels_of_set(int index, struct hy_kernels *kernels)
{
    hymba_error error = {.struct_size = sizeof error};
    hymba_status status = hy_kernels_init(kernels, instruction_sets[index], &error);
    if (status == HYMBA_OK)
        return true;
    test_status(status, HYMBA_ERROR_UNSUPPORTED, error);
    printf("skipped: %s\n", error.message);
    return false;
}

/* The same with the variants; one that the compiler's machine has not is left out. */
static inline bool kernels_of_variant(int index, struct hy_kernels *kernels)
{
    if (index < N_SETS)
        return kernels_of_set(index, kernels);
#ifdef __x86_64__
    struct hy_cpu cpu = hy_cpu_detect();
    if (index == N_SETS && cpu.avx512)
        hy_kernels_avx512_base(kernels);
    else if (index == N_SETS + 1 && cpu.avx512_vnni)
        hy_kernels_avx512_vnni(kernels);
    else
        return false;
    return true;
#elif defined(__aarch64__)
    struct hy_cpu cpu = hy_cpu_detect();
    if (index == N_SETS && cpu.neon)
        hy_kernels_neon_base(kernels);
    else if (index == N_SETS + 1 && cpu.neon_dot)
        hy_kernels_neon_dot(kernels);
    else
        return false;
    return true;
#else
    return false;
#endif
}

/* size bytes, the last of them just before an inaccessible page. */
static inline void *guarded(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t inside = (size + page - 1) / page * page, whole = inside + page;
    int zeros = open("/dev/zero", O_RDWR);
    ck_assert_int_ge(zeros, 0);
    unsigned char *address = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE, zeros, 0);
    close(zeros);
    ck_assert_ptr_ne(address, MAP_FAILED);
    ck_assert_int_eq(mprotect(address + inside, page, PROT_NONE), 0);
    ck_assert_uint_lt(n_guarded_blocks, MOST_BLOCKS);
    guarded_blocks[n_guarded_blocks].address = address;
    guarded_blocks[n_guarded_blocks++].size = whole;
    return address + inside - size;
}

static inline void release_guarded(void)
{
    while (n_guarded_blocks > 0) {
        n_guarded_blocks--;
        munmap(guarded_blocks[n_guarded_blocks].address, guarded_blocks[n_guarded_blocks].size);
    }
}

/* Uniform in [-scale, scale). */
static inline float random_float(float scale)
{
    return (float)(2.0 * test_random() - 1.0) * scale;
}

static inline float *random_floats(size_t n, float scale)
{
    float *values = guarded(n * sizeof *values);
    for (size_t i = 0; i < n; i++)
        values[i] = random_float(scale);
    return values;
}

static inline float *zero_floats(size_t n)
{
    return guarded(n * sizeof(float)); /* pages of /dev/zero */
}

static inline float *copy_floats(const float *values, size_t n)
{
    float *copy = guarded(n * sizeof *copy);
    memcpy(copy, values, n * sizeof *copy);
    return copy;
}

/* n random elements of dtype, pad bytes short of the guard: 1 makes the pointer odd. */
static inline unsigned char *random_elements(size_t n, hymba_dtype dtype, float scale, size_t pad)
{
    unsigned char *values = guarded(n * hy_dtype_size(dtype) + pad);
    for (size_t i = 0; i < n; i++) {
        float value = random_float(scale);
        hy_row_from_f32(&value, dtype, values + i * hy_dtype_size(dtype), 1);
    }
    return values;
}

static inline double element(const void *data, hymba_dtype dtype, size_t index)
{
    return (double)hy_load_element(data, dtype, index);
}

static inline void check_near(double actual, double expected, double tolerance, const char *what)
{
    ck_assert_msg(fabs(actual - expected) <= tolerance, "%s: %.9g, expected %.9g within %.3g", what,
                  actual, expected, tolerance);
}

static inline void check_same_bits(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(hy_f32_to_bits(a[i]) == hy_f32_to_bits(b[i]), "%s: element %zu: %.9g, %.9g",
                      what, i, (double)a[i], (double)b[i]);
}

/* Borders of a random division of [0, n) into parts: borders[0] = 0, borders[result] = n. */
static inline size_t random_division(size_t n, size_t borders[MOST_PARTS + 1])
{
    size_t n_parts = 0;
    borders[0] = 0;
    while (n_parts + 1 < MOST_PARTS && borders[n_parts] < n) {
        borders[n_parts + 1] = borders[n_parts] + 1 + test_random_below(n - borders[n_parts]);
        n_parts++;
    }
    if (borders[n_parts] < n)
        borders[++n_parts] = n;
    return n_parts;
}

static inline double exact_silu(double v)
{
    return v / (1.0 + exp(-v));
}

static inline double exact_softplus(double v)
{
    return v > 0.0 ? v + log1p(exp(-v)) : log1p(exp(v));
}

#endif
