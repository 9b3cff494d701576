/*
 * The main function of a target that is linked without a fuzzer: runs the files named on the
 * command line or, if there are none, all of tests/fuzz/corpus/NAME for the program test_NAME, as
 * plain regression tests.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

static void run_file(const char *path)
{
    size_t size;
    uint8_t *data = fuzz_read_file(path, &size);
    /* a block of exactly the file's size, so that reading past its end is seen */
    uint8_t *exact = realloc(data, size ? size : 1);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static size_t run_corpus(const char *program)
{
    char folder[256], path[600];
    const char *name = strrchr(program, '/');
    name = name ? name + 1 : program;
    name += strncmp(name, "test_", 5) == 0 ? 5 : 0;
    snprintf(folder, sizeof folder, "tests/fuzz/corpus/%s", name);
    size_t count = 0;
    DIR *directory = opendir(folder);
    fuzz_require(directory != NULL, "a target without a corpus");
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        run_file(path);
        count++;
    }
    closedir(directory);
    return count;
}

int main(int argc, char **argv)
{
    size_t count = (size_t)argc - 1;
    for (int i = 1; i < argc; i++)
        run_file(argv[i]);
    if (argc == 1)
        count = run_corpus(argv[0]);
    /* as the other test programs report; a finding has ended the program already */
    printf("100%%: Checks: %zu, Failures: 0, Errors: 0\n", count);
    return count > 0 ? 0 : 1;
}
