/*
 * Saving where the system itself refuses: beyond a limit on the size of files, on a disk that is
 * full, to a device. The old file stays, nothing is left of the new one, and once there is room
 * saving succeeds.
 */
#include "fault_world.h"
#include "full_disk.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OLD_LENGTH = 8, NEW_LENGTH = 40 };

static long *faults_injected; /* of all tests: each may run in a process of its own */

static hymba_status save(struct world *world)
{
    return hymba_session_save(world->subject, world->sampler, world->path, NULL, &fault_error);
}

/* A world with a session that has gone on since it was saved in the directory. */
static void open_saving_world(struct world *world, const char *directory)
{
    static const struct scenario scenario = {.name = "save"};
    world_open(world, &scenario);
    snprintf(world->path, sizeof world->path, "%s/session", directory);
    world_append(world->subject, 0, OLD_LENGTH);
    test_status(save(world), HYMBA_OK, fault_error);
    world_append(world->subject, OLD_LENGTH, NEW_LENGTH);
}

static void expect_length(struct world *world, uint64_t length)
{
    hymba_session *session;
    test_status(hymba_session_load(world->context, world->path, NULL, &session, NULL, NULL,
                                   &fault_error),
                HYMBA_OK, fault_error);
    ck_assert_uint_eq(hymba_session_length(session), length);
    hymba_session_release(session);
}

static void expect_refused(struct world *world, const char *directory, hymba_status status,
                           int code)
{
    test_status(status, HYMBA_ERROR_FILE, fault_error);
    ck_assert_int_eq(fault_error.system_code, code);
    ck_assert_uint_eq(fault_count_entries(directory, ".part"), 0);
    expect_length(world, OLD_LENGTH);
    ck_assert_uint_eq(hymba_session_length(world->subject), NEW_LENGTH);
    ++*faults_injected;
}

static size_t saved_size(struct world *world)
{
    struct stat status;
    test_status(save(world), HYMBA_OK, fault_error);
    ck_assert_int_eq(stat(world->path, &status), 0);
    return (size_t)status.st_size;
}

/* ---------------------------------------------------------- limit on file size */

static hymba_status save_below(struct world *world, size_t most)
{
    struct rlimit before, limit;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = most;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    hymba_status status = save(world);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
    return status;
}

/* The library leaves the signal that the system sends to the host, and what the host does then. */
static void ignore_signal(struct sigaction *before)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    ck_assert_int_eq(sigaction(SIGXFSZ, &ignore, before), 0);
}

static void expect_still_ignored(const struct sigaction *before)
{
    struct sigaction now;
    ck_assert_int_eq(sigaction(SIGXFSZ, before, &now), 0);
    ck_assert(now.sa_handler == SIG_IGN);
}

START_TEST(a_limit_on_file_size)
{
    struct world world;
    struct sigaction before;
    open_saving_world(&world, test_directory());
    char *old = test_read_file(world.path, NULL);
    struct stat status;
    ck_assert_int_eq(stat(world.path, &status), 0);
    size_t old_size = (size_t)status.st_size, size = saved_size(&world);
    size_t step = getenv("HYMBA_LONG") ? 97 : size / 16;
    ignore_signal(&before);
    for (size_t most = 0; most < size; most += step) {
        test_write_file(world.path, old, old_size);
        expect_refused(&world, test_directory(), save_below(&world, most), EFBIG);
    }
    expect_refused(&world, test_directory(), save_below(&world, size - 1), EFBIG);
    test_status(save_below(&world, size), HYMBA_OK, fault_error);
    expect_length(&world, NEW_LENGTH);
    expect_still_ignored(&before);
    free(old);
    world_close(&world);
}
END_TEST

/* ------------------------------------------------------------------- full disk */

enum { NOT_ALLOWED = 77, DISK_SIZE = 1 << 20, PAGE = 1 << 12 };

/* Saves with less and less taken of a small disk, until there is room. */
static void fill_disk(const char *directory)
{
    struct world world;
    char filler[512];
    hymba_status status = HYMBA_ERROR_FILE;
    open_saving_world(&world, directory);
    snprintf(filler, sizeof filler, "%.400s/filler", directory);
    for (size_t left = 0; status != HYMBA_OK; left += PAGE) {
        ck_assert_uint_lt(left, DISK_SIZE);
        remove(filler);
        ck_assert(full_disk_fill(filler, left));
        status = save(&world);
        if (status != HYMBA_OK)
            expect_refused(&world, directory, status, ENOSPC);
    }
    expect_length(&world, NEW_LENGTH);
    world_close(&world);
}

/* In a process of its own, whose mounts nobody else sees. */
START_TEST(a_full_disk)
{
    char directory[256];
    int status;
    long before = *faults_injected;
    snprintf(directory, sizeof directory, "%s/disk", test_directory());
    ck_assert(mkdir(directory, 0777) == 0);
    fflush(NULL);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        if (!full_disk_mount(directory, DISK_SIZE))
            _exit(NOT_ALLOWED);
        fill_disk(directory);
        full_disk_unmount(directory);
        rmdir(test_directory()); /* the child's own, as its copies of the models are */
        fault_release_shared();
        _exit(EXIT_SUCCESS);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    if (WEXITSTATUS(status) == NOT_ALLOWED) {
        printf("skipped: no disk may be mounted here\n");
        return;
    }
    ck_assert_int_eq(WEXITSTATUS(status), EXIT_SUCCESS);
    ck_assert_int_gt(*faults_injected, before + 1);
}
END_TEST

/* A device is not replaced by a file. */
START_TEST(a_device)
{
    struct world world;
    struct stat status;
    open_saving_world(&world, test_directory());
    hymba_status result =
        hymba_session_save(world.subject, NULL, "/dev/full", NULL, &fault_error);
    test_status(result, HYMBA_ERROR_FILE, fault_error);
    ck_assert_int_eq(stat("/dev/full", &status), 0);
    ck_assert(S_ISCHR(status.st_mode));
    world_close(&world);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("full disk");
    TCase *tests = tcase_create("full disk");
    faults_injected = fault_shared_counter();
    if (!faults_injected)
        return EXIT_FAILURE;
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, fault_open_shared, fault_release_shared);
    tcase_add_test(tests, a_limit_on_file_size);
    tcase_add_test(tests, a_full_disk);
    tcase_add_test(tests, a_device);
    suite_add_tcase(suite, tests);
    int result = test_main(suite);
    printf("saves refused by the system: %ld\n", *faults_injected);
    return result;
}
