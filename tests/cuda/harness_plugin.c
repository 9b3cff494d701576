#include "harness_plugin.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <check.h>

static void *plugin;
static harness_report_function report;

void harness_plugin_find(void *function, const char *name)
{
    void *symbol = dlsym(plugin, name);
    ck_assert_msg(symbol != NULL, "%s", name);
    memcpy(function, &symbol, sizeof symbol);
}

void harness_plugin_open(void)
{
    static char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
    ck_assert_int_gt(length, 0);
    path[length] = '\0';
    strcpy(strrchr(path, '/') + 1, "libhymba-cuda.so");
    ck_assert_int_eq(unsetenv("HYMBA_CUDA_PLUGIN"), 0);
    plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(plugin != NULL, "%s", dlerror());
    harness_plugin_find(&report, HARNESS_REPORT);
}

void harness_plugin_close(void)
{
    const char *first;
    size_t count = report(&first);
    ck_assert_msg(count == 0, "%zu faults: %s", count, first);
    dlclose(plugin);
}
