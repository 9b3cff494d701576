#define _GNU_SOURCE /* dlopen */

#include "guarded_world.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

struct guarded_control *guarded;
char guarded_path[4096];
static void *plugin;

void guarded_begin(void)
{
    guarded_control_function function;
    ssize_t length = readlink("/proc/self/exe", guarded_path, sizeof guarded_path - 64);
    ck_assert_int_gt(length, 0);
    guarded_path[length] = '\0';
    strcpy(strrchr(guarded_path, '/') + 1, "libhymba-cuda.so");
    plugin = dlopen(guarded_path, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(plugin != NULL, "%s", dlerror());
    void *symbol = dlsym(plugin, GUARDED_CONTROL);
    ck_assert_ptr_nonnull(symbol);
    memcpy(&function, &symbol, sizeof function);
    guarded = function();
    *guarded = (struct guarded_control){
        .interface_version = HY_DEVICE_INTERFACE,
        .n_devices = 2,
        .fails_on = -1,
        .fail_open = -1,
        .fail_allocation = -1,
        .fail_finish = -1,
        .fail_embedding = -1,
        .finish_status = HYMBA_ERROR_DEVICE,
    };
    ck_assert_int_eq(unsetenv("HYMBA_CUDA_PLUGIN"), 0);
}

void guarded_end(void)
{
    long n_faults = guarded->n_faults;
    ck_assert_msg(n_faults == 0, "%ld faults: %s", n_faults, guarded->fault);
    ck_assert_int_eq(guarded->n_blocks, 0);
    ck_assert_int_eq(guarded->n_open, 0);
    dlclose(plugin);
}

hymba_context *guarded_context(hymba_model *model, hymba_context_params params, const char *device)
{
    hymba_error error = {.struct_size = sizeof error};
    hymba_context *context;
    params.struct_size = sizeof params;
    params.device = device;
    params.cpu = "generic";
    params.n_threads = 1;
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

void guarded_quantise(struct golden *golden, hymba_dtype type)
{
    hymba_error error = {.struct_size = sizeof error};
    hymba_model_params params = {.struct_size = sizeof params, .quantize = type};
    hymba_model *quantised;
    if (type == HYMBA_DTYPE_DEFAULT)
        return;
    test_status(hymba_model_open(test_data(golden->name), &params, &quantised, &error), HYMBA_OK,
                error);
    hymba_model_release(golden->model);
    golden->model = quantised;
}

int32_t guarded_take_piece(void *user, const void *data, size_t size)
{
    struct guarded_saved *saved = user;
    while (saved->size + size > saved->capacity) {
        saved->capacity = 2 * saved->capacity + 4096;
        saved->data = realloc(saved->data, saved->capacity);
    }
    memcpy(saved->data + saved->size, data, size);
    saved->size += size;
    return 0;
}
