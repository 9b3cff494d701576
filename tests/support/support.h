/*
 * What every test program shares. Each tests/STAGE/test_*.c is one program: a Check suite and a
 * main that returns test_main(suite). Programs run with the project's root as current directory.
 */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Runs the suite (without forking under a sanitizer or valgrind); the exit status for main. */
int test_main(Suite *suite);

/* Whether the thread sanitizer runs: some thirty times slower, and what one thread does says
 * nothing to it, so tests leave out what is not about threads. */
bool test_looks_for_races(void);

/* Whether qemu emulates another processor, or a sanitizer or valgrind checks every access, which is
 * slow, too: tests then leave out repetitions. */
bool test_is_slow(void);

/* Path of a file or folder of tests/data, or of another place below the root. Static ring of
 * buffers: valid until a few more calls. */
const char *test_data(const char *name);

/*
 * Path of a file that is not the project's to copy (the published tokenizer, story texts), in the
 * folder HYMBA_SHARED names, default ../shared. NULL where it is absent, after printing
 * "skipped: NAME is not here": the calling test then returns.
 */
const char *test_shared(const char *name);

/* The whole file, NUL-terminated, from malloc; fails the test if it cannot be read. */
char *test_read_file(const char *path, size_t *size);

/* A new empty directory, removed with all its content at exit. Static storage, one per process. */
const char *test_directory(void);

/* Writes a file, failing the test if it cannot. */
void test_write_file(const char *path, const void *data, size_t size);

/* A repeatable random number generator for tests: uniform in [0, 1), and an integer below n. */
double test_random(void);
size_t test_random_below(size_t n);
void test_random_seed(unsigned seed);

/* Asserts that a status is the expected one, printing the record's sentence if not. */
#define test_status(actual, expected, error)                                                      \
    do {                                                                                          \
        hymba_status test_status_ = (actual);                                                     \
        ck_assert_msg(test_status_ == (expected), "%s gave %s (%s), expected %s", #actual,        \
                      hymba_status_name(test_status_), (error).message, #expected);               \
    } while (0)

#ifdef __cplusplus
}
#endif

#endif
