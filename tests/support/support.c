/* nftw belongs to the X/Open part of POSIX. */
#define _XOPEN_SOURCE 700

#include "support.h"

#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int test_main(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    srunner_set_fork_status(runner, CK_NOFORK);
#endif
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static const char *path_of(const char *directory, const char *name)
{
    static char ring[8][1024];
    static unsigned next;
    char *path = ring[next++ % 8];
    snprintf(path, sizeof ring[0], "%s/%s", directory, name);
    return path;
}

bool test_looks_for_races(void)
{
    const char *sanitizer = getenv("HYMBA_SANITIZE");
    return sanitizer && strcmp(sanitizer, "thread") == 0;
}

bool test_is_slow(void)
{
    const char *wrapper = getenv("HYMBA_WRAPPER"), *sanitizer = getenv("HYMBA_SANITIZE");
    return (wrapper && (strncmp(wrapper, "qemu", 4) == 0 || strncmp(wrapper, "valgrind", 8) == 0))
           || (sanitizer && (strncmp(sanitizer, "address", 7) == 0 || test_looks_for_races()));
}

const char *test_data(const char *name)
{
    const char *path = path_of("tests/data", name);
    return access(path, F_OK) == 0 ? path : path_of(".", name);
}

const char *test_shared(const char *name)
{
    const char *directory = getenv("HYMBA_SHARED");
    const char *path = path_of(directory ? directory : "../shared", name);
    if (access(path, R_OK) == 0)
        return path;
    printf("skipped: %s is not here\n", name);
    return NULL;
}

char *test_read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "cannot open %s", path);
    fseek(file, 0, SEEK_END);
    long length = ftell(file);
    rewind(file);
    char *data = malloc((size_t)length + 1);
    ck_assert_ptr_nonnull(data);
    ck_assert_uint_eq(fread(data, 1, (size_t)length, file), (size_t)length);
    data[length] = '\0';
    fclose(file);
    if (size)
        *size = (size_t)length;
    return data;
}

static char directory_path[64];

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status;
    (void)kind;
    (void)place;
    return remove(path);
}

static pid_t directory_owner;

static void remove_directory(void)
{
    if (getpid() == directory_owner)
        nftw(directory_path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *test_directory(void)
{
    if (directory_path[0] && directory_owner == getpid())
        return directory_path;
    snprintf(directory_path, sizeof directory_path, "/tmp/hymba-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory_path));
    directory_owner = getpid();
    atexit(remove_directory);
    return directory_path;
}

void test_write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    ck_assert_msg(file != NULL, "cannot create %s", path);
    ck_assert_uint_eq(fwrite(data, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

static uint64_t random_state = 1;

void test_random_seed(unsigned seed)
{
    random_state = seed * 2654435769u + 1u;
}

double test_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

size_t test_random_below(size_t n)
{
    return (size_t)(test_random() * (double)n);
}
