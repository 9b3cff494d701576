/* Files: reading, mapping, borrowed blocks, and writing under a temporary name. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "support.h"

static struct hy_memory memory;
static hymba_error error;

static void setup(void)
{
    memset(&error, 0, sizeof error);
    error.struct_size = sizeof error;
    test_status(hy_memory_init(&memory, NULL, &error), HYMBA_OK, error);
}

static void check_no_leak(void)
{
    ck_assert_uint_eq(memory.used, 0);
}

/* A path in the test's directory; static ring as in support. */
static const char *place(const char *name)
{
    static char ring[4][PATH_MAX];
    static unsigned next;
    char *path = ring[next++ % 4];
    snprintf(path, PATH_MAX, "%s/%s", test_directory(), name);
    return path;
}

/* Entries of the test's directory whose name begins with prefix. */
static int count_entries(const char *prefix)
{
    int count = 0;
    DIR *directory = opendir(test_directory());
    ck_assert_ptr_nonnull(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        count += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    closedir(directory);
    return count;
}

START_TEST(join_puts_a_slash_between)
{
    char *path = hy_path_join(&memory, "a/b", "c.json");
    ck_assert_str_eq(path, "a/b/c.json");
    hy_free(&memory, path);
    check_no_leak();
}
END_TEST

START_TEST(read_and_map_give_the_bytes)
{
    struct hy_file read_file, mapped;
    const char *path = place("bytes");
    test_write_file(path, "hello\0world", 11);
    test_status(hy_file_read(&memory, path, 11, &read_file, &error), HYMBA_OK, error);
    test_status(hy_file_map(path, &mapped, &error), HYMBA_OK, error);
    ck_assert_uint_eq(read_file.size, 11);
    ck_assert_uint_eq(mapped.size, 11);
    ck_assert_mem_eq(read_file.data, "hello\0world", 11);
    ck_assert_mem_eq(mapped.data, "hello\0world", 11);
    ck_assert_int_eq(read_file.kind, HY_FILE_READ);
    ck_assert_int_eq(mapped.kind, HY_FILE_MAPPED);
    hy_file_close(&read_file);
    hy_file_close(&mapped);
    ck_assert_ptr_null(mapped.data);
    hy_file_close(&mapped); /* twice is harmless */
    check_no_leak();
}
END_TEST

START_TEST(empty_files_are_files)
{
    struct hy_file file;
    const char *path = place("empty");
    test_write_file(path, "", 0);
    test_status(hy_file_read(&memory, path, 0, &file, &error), HYMBA_OK, error);
    ck_assert_uint_eq(file.size, 0);
    hy_file_close(&file);
    test_status(hy_file_map(path, &file, &error), HYMBA_OK, error);
    ck_assert_uint_eq(file.size, 0);
    ck_assert_ptr_null(file.data);
    hy_file_close(&file);
    check_no_leak();
}
END_TEST

START_TEST(borrowed_memory_stays_the_owners)
{
    static const char text[] = "mine";
    struct hy_file file;
    hy_file_borrow(text, 4, &file);
    ck_assert_ptr_eq(file.data, text);
    ck_assert_int_eq(file.kind, HY_FILE_BORROWED);
    hy_file_close(&file);
    ck_assert_int_eq(file.kind, HY_FILE_NONE);
}
END_TEST

static void expect_refusal(const char *path, const char *words, int code)
{
    struct hy_file file;
    for (int mapped = 0; mapped < 2; mapped++) {
        hymba_status status = mapped ? hy_file_map(path, &file, &error)
                                     : hy_file_read(&memory, path, 1000, &file, &error);
        test_status(status, HYMBA_ERROR_FILE, error);
        ck_assert_ptr_nonnull(strstr(error.message, path));
        ck_assert_msg(strstr(error.message, words), "%s", error.message);
        ck_assert_int_eq(error.system_code, code);
        ck_assert_ptr_null(file.data);
        hy_file_close(&file);
    }
    check_no_leak();
}

START_TEST(what_is_no_regular_file_is_refused)
{
    const char *pipe_path = place("pipe");
    ck_assert_int_eq(mkfifo(pipe_path, 0600), 0);
    expect_refusal(test_directory(), "a directory", 0);
    expect_refusal(pipe_path, "a pipe", 0); /* must not wait for a writer either */
    expect_refusal("/dev/zero", "a device", 0);
    expect_refusal(place("absent"), "cannot open", ENOENT);
    expect_refusal("", "cannot open", ENOENT);
}
END_TEST

START_TEST(a_file_over_the_limit_is_refused)
{
    struct hy_file file;
    const char *path = place("ten");
    test_write_file(path, "0123456789", 10);
    test_status(hy_file_read(&memory, path, 9, &file, &error), HYMBA_ERROR_FILE, error);
    ck_assert_ptr_nonnull(strstr(error.message, path));
    ck_assert_ptr_nonnull(strstr(error.message, "10 bytes"));
    ck_assert_ptr_nonnull(strstr(error.message, "at most 9"));
    check_no_leak();
}
END_TEST

static void *no_block(void *user, size_t size, size_t alignment)
{
    int *left = user;
    void *pointer = NULL;
    if ((*left)-- <= 0)
        return NULL;
    return posix_memalign(&pointer, alignment, size) == 0 ? pointer : NULL;
}

static void free_block(void *user, void *pointer, size_t size, size_t alignment)
{
    (void)user;
    (void)size;
    (void)alignment;
    free(pointer);
}

static void memory_with_blocks(struct hy_memory *poor, int *left)
{
    hymba_host host = {.struct_size = sizeof host, .user = left, .alloc = no_block,
                       .free = free_block};
    test_status(hy_memory_init(poor, &host, &error), HYMBA_OK, error);
}

START_TEST(reading_without_memory_fails_cleanly)
{
    struct hy_memory poor;
    struct hy_file file;
    int left = 0;
    const char *path = place("some");
    test_write_file(path, "abc", 3);
    memory_with_blocks(&poor, &left);
    test_status(hy_file_read(&poor, path, 1000, &file, &error), HYMBA_ERROR_MEMORY, error);
    ck_assert_ptr_null(hy_path_join(&poor, "a", "b"));
}
END_TEST

START_TEST(what_is_written_can_be_read)
{
    struct hy_writer writer;
    struct hy_file file;
    const char *path = place("written");
    size_t large = (3u << 20) + 17;
    unsigned char *data = malloc(large);
    ck_assert_ptr_nonnull(data);
    for (size_t i = 0; i < large; i++)
        data[i] = (unsigned char)(i * 7 + (i >> 11));
    test_status(hy_writer_open(&memory, path, &writer, &error), HYMBA_OK, error);
    ck_assert(!hy_file_exists(path));
    size_t done = 0;
    for (size_t step = 1; done < large; step = step * 3 + 1) {
        size_t size = step < large - done ? step : large - done;
        test_status(hy_writer_write(&writer, data + done, size, &error), HYMBA_OK, error);
        done += size;
        ck_assert_uint_eq(writer.written, done);
    }
    test_status(hy_writer_write(&writer, NULL, 0, &error), HYMBA_OK, error);
    test_status(hy_writer_finish(&writer, &error), HYMBA_OK, error);
    hy_writer_abandon(&writer);
    ck_assert_int_eq(count_entries("written"), 1);
    test_status(hy_file_read(&memory, path, large, &file, &error), HYMBA_OK, error);
    ck_assert_uint_eq(file.size, large);
    ck_assert(memcmp(file.data, data, large) == 0);
    hy_file_close(&file);
    free(data);
    check_no_leak();
}
END_TEST

START_TEST(a_new_file_replaces_the_old_one_only_at_the_end)
{
    struct hy_writer writer;
    const char *path = place("replaced");
    test_write_file(path, "old", 3);
    test_status(hy_writer_open(&memory, path, &writer, &error), HYMBA_OK, error);
    test_status(hy_writer_write(&writer, "newer", 5, &error), HYMBA_OK, error);
    hy_writer_abandon(&writer);
    hy_writer_abandon(&writer);
    ck_assert_int_eq(count_entries("replaced"), 1);
    char *text = test_read_file(path, NULL);
    ck_assert_str_eq(text, "old");
    free(text);
    test_status(hy_writer_open(&memory, path, &writer, &error), HYMBA_OK, error);
    test_status(hy_writer_write(&writer, "newer", 5, &error), HYMBA_OK, error);
    test_status(hy_writer_finish(&writer, &error), HYMBA_OK, error);
    text = test_read_file(path, NULL);
    ck_assert_str_eq(text, "newer");
    free(text);
    check_no_leak();
}
END_TEST

START_TEST(two_writers_of_one_path_do_not_meet)
{
    struct hy_writer first, second;
    const char *path = place("shared");
    test_status(hy_writer_open(&memory, path, &first, &error), HYMBA_OK, error);
    test_status(hy_writer_open(&memory, path, &second, &error), HYMBA_OK, error);
    ck_assert_str_ne(first.temporary, second.temporary);
    test_status(hy_writer_write(&first, "1", 1, &error), HYMBA_OK, error);
    test_status(hy_writer_write(&second, "22", 2, &error), HYMBA_OK, error);
    test_status(hy_writer_finish(&second, &error), HYMBA_OK, error);
    test_status(hy_writer_finish(&first, &error), HYMBA_OK, error);
    char *text = test_read_file(path, NULL);
    ck_assert_str_eq(text, "1");
    free(text);
    ck_assert_int_eq(count_entries("shared"), 1);
    check_no_leak();
}
END_TEST

START_TEST(a_writer_that_cannot_open_says_so)
{
    struct hy_writer writer;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/no/such/file", test_directory());
    test_status(hy_writer_open(&memory, path, &writer, &error), HYMBA_ERROR_FILE, error);
    ck_assert_ptr_nonnull(strstr(error.message, path));
    ck_assert_int_eq(error.system_code, ENOENT);
    hy_writer_abandon(&writer);
    test_status(hy_writer_open(&memory, test_directory(), &writer, &error), HYMBA_ERROR_FILE,
                error);
    ck_assert_ptr_nonnull(strstr(error.message, "a directory"));
    hy_writer_abandon(&writer);
    check_no_leak();
}
END_TEST

START_TEST(a_writer_without_memory_leaves_nothing)
{
    const char *path = place("poor");
    for (int blocks = 0; blocks < 4; blocks++) {
        struct hy_memory poor;
        struct hy_writer writer;
        int left = blocks;
        memory_with_blocks(&poor, &left);
        hymba_status status = hy_writer_open(&poor, path, &writer, &error);
        ck_assert_int_eq(status, blocks < 3 ? HYMBA_ERROR_MEMORY : HYMBA_OK);
        hy_writer_abandon(&writer);
        ck_assert_uint_eq(poor.used, 0);
        ck_assert_int_eq(count_entries("poor"), 0);
    }
}
END_TEST

START_TEST(a_rename_that_fails_removes_the_temporary_file)
{
    struct hy_writer writer;
    const char *path = place("taken");
    test_status(hy_writer_open(&memory, path, &writer, &error), HYMBA_OK, error);
    test_status(hy_writer_write(&writer, "x", 1, &error), HYMBA_OK, error);
    ck_assert_int_eq(mkdir(path, 0700), 0); /* somebody makes a directory of that name */
    test_status(hy_writer_finish(&writer, &error), HYMBA_ERROR_FILE, error);
    ck_assert_ptr_nonnull(strstr(error.message, path));
    ck_assert_int_ne(error.system_code, 0);
    ck_assert_int_eq(count_entries("taken"), 1);
    check_no_leak();
}
END_TEST

/* The device that is always full stands in for a full disk: write fails at the flush. */
START_TEST(a_full_disk_is_reported_by_name)
{
    struct hy_writer writer;
    const char *path = place("full");
    if (access("/dev/full", W_OK) != 0)
        return;
    test_status(hy_writer_open(&memory, path, &writer, &error), HYMBA_OK, error);
    FILE *full = fopen("/dev/full", "wb");
    ck_assert_ptr_nonnull(full);
    ck_assert_int_ge(dup2(fileno(full), writer.descriptor), 0);
    fclose(full);
    test_status(hy_writer_write(&writer, "x", 1, &error), HYMBA_OK, error);
    test_status(hy_writer_finish(&writer, &error), HYMBA_ERROR_FILE, error);
    ck_assert_int_eq(error.system_code, ENOSPC);
    ck_assert_ptr_nonnull(strstr(error.message, path));
    ck_assert_int_eq(count_entries("full"), 0);
    check_no_leak();
}
END_TEST

START_TEST(a_bare_name_is_in_the_current_directory)
{
    struct hy_writer writer;
    char before[PATH_MAX];
    ck_assert_ptr_nonnull(getcwd(before, sizeof before));
    ck_assert_int_eq(chdir(test_directory()), 0);
    hymba_status status = hy_writer_open(&memory, "bare", &writer, &error);
    if (status == HYMBA_OK)
        status = hy_writer_finish(&writer, &error);
    ck_assert_int_eq(chdir(before), 0);
    test_status(status, HYMBA_OK, error);
    ck_assert(hy_file_exists(place("bare")));
    check_no_leak();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("file");
    TCase *reading = tcase_create("reading");
    TCase *writing = tcase_create("writing");
    tcase_add_checked_fixture(reading, setup, NULL);
    tcase_add_checked_fixture(writing, setup, NULL);
    tcase_add_test(reading, join_puts_a_slash_between);
    tcase_add_test(reading, read_and_map_give_the_bytes);
    tcase_add_test(reading, empty_files_are_files);
    tcase_add_test(reading, borrowed_memory_stays_the_owners);
    tcase_add_test(reading, what_is_no_regular_file_is_refused);
    tcase_add_test(reading, a_file_over_the_limit_is_refused);
    tcase_add_test(reading, reading_without_memory_fails_cleanly);
    tcase_add_test(writing, what_is_written_can_be_read);
    tcase_add_test(writing, a_new_file_replaces_the_old_one_only_at_the_end);
    tcase_add_test(writing, two_writers_of_one_path_do_not_meet);
    tcase_add_test(writing, a_writer_that_cannot_open_says_so);
    tcase_add_test(writing, a_writer_without_memory_leaves_nothing);
    tcase_add_test(writing, a_rename_that_fails_removes_the_temporary_file);
    tcase_add_test(writing, a_full_disk_is_reported_by_name);
    tcase_add_test(writing, a_bare_name_is_in_the_current_directory);
    suite_add_tcase(suite, reading);
    suite_add_tcase(suite, writing);
    return test_main(suite);
}
