#include "hostile.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

bool hostile_add_file(struct hostile_files *files, const char *folder, const char *name)
{
    char path[400];
    size_t size;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (access(path, F_OK) != 0)
        return false;
    char *data = test_read_file(path, &size);
    char *exact = realloc(data, size ? size : 1); /* without the NUL behind */
    ck_assert_ptr_nonnull(exact);
    files->files[files->n++] = (hymba_memory_file){name, exact, size};
    return true;
}

unsigned char *hostile_bytes(struct hostile_files *files, int index)
{
    return (unsigned char *)(uintptr_t)files->files[index].data; /* its own, from malloc */
}

hymba_status hostile_open(const struct hostile_files *files, const hymba_host *host,
                          hymba_model **model, hymba_error *error)
{
    hymba_model_params params = {
        .struct_size = sizeof params, .host = host, .flags = HYMBA_MODEL_NO_TOKENIZER};
    return hymba_model_open_memory(files->files, sizeof files->files[0], files->n, &params, model,
                                   error);
}

void hostile_free(struct hostile_files *files)
{
    for (size_t i = 0; i < files->n; i++)
        free(hostile_bytes(files, (int)i));
    files->n = 0;
}

bool hostile_is_long(void)
{
    return getenv("HYMBA_LONG") != NULL;
}

void hostile_report(const char *what, size_t count)
{
    if (hostile_is_long())
        printf("%s: %zu\n", what, count);
}
