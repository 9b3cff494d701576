#define _GNU_SOURCE /* dladdr1, secure_getenv */

#include "backend/plugin.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    PATH_BYTES = 4096,
    HELD_PATH = PATH_BYTES + 64, /* of a file in such a folder */
};

static const char prefix[] = "cuda:";
static const char file_name[] = "libhymba-cuda.so";
static const char variable[] = "HYMBA_CUDA_PLUGIN";

/* The number that text begins with, and what stands behind it; -1: none, or a greater one than
 * there are devices. */
static int parse_index(const char *text, const char **end)
{
    int index = 0;
    *end = text;
    for (; **end >= '0' && **end <= '9' && index <= HY_MAX_DEVICE_INDEX; ++*end)
        index = index * 10 + (**end - '0');
    return *end > text && index <= HY_MAX_DEVICE_INDEX ? index : -1;
}

enum hy_device_kind hy_device_parse(const char *name, int *index)
{
    const char *end;
    *index = 0;
    if (!name || strcmp(name, "cpu") == 0)
        return HY_DEVICE_CPU;
    if (strcmp(name, "cuda") == 0)
        return HY_DEVICE_CUDA;
    if (strncmp(name, prefix, strlen(prefix)) != 0)
        return HY_DEVICE_UNKNOWN;
    if (strchr(name, ','))
        return HY_DEVICE_SEVERAL;
    int number = parse_index(name + strlen(prefix), &end);
    if (number < 0 || *end != '\0')
        return HY_DEVICE_UNKNOWN;
    *index = number;
    return HY_DEVICE_CUDA;
}

static hymba_status add_device(const char *name, const char *part, size_t length,
                               struct hy_device_list *list, hymba_error *error)
{
    const char *end;
    int index = parse_index(part, &end), shown = length < 32 ? (int)length : 32;
    if (index < 0 || end != part + length)
        return hy_fail(error, HYMBA_ERROR_DEVICE,
                       "device: found \"%.200s\", in which \"%.*s\" is no number from 0 to %d",
                       name, shown, part, HY_MAX_DEVICE_INDEX);
    for (uint32_t i = 0; i < list->n; i++)
        if (list->indices[i] == index)
            return hy_fail(error, HYMBA_ERROR_DEVICE,
                           "device: found \"%.200s\", which names device %d twice", name, index);
    if (list->n == HY_MAX_DEVICES)
        return hy_fail(error, HYMBA_ERROR_DEVICE, "device: found more than %d devices",
                       HY_MAX_DEVICES);
    list->indices[list->n++] = index;
    return HYMBA_OK;
}

hymba_status hy_device_parse_list(const char *name, struct hy_device_list *list,
                                  hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    list->n = 0;
    for (const char *part = name + strlen(prefix); part && status == HYMBA_OK;) {
        const char *comma = strchr(part, ',');
        size_t length = comma ? (size_t)(comma - part) : strlen(part);
        status = add_device(name, part, length, list, error);
        part = comma ? comma + 1 : NULL;
    }
    return status;
}

hymba_status hy_device_refuse(const char *name, hymba_error *error)
{
    return hy_fail(error, HYMBA_ERROR_DEVICE,
                   "device: found \"%.200s\", expected \"cpu\", \"cuda\", \"cuda:N\" or "
                   "\"cuda:N,M,...\"", name);
}

/* ------------------------------------------------------------ where it lies */

/* The program's file. The system tells it, not argv[0], which whoever starts the program
 * chooses. */
static bool find_program(char *path)
{
    ssize_t length = readlink("/proc/self/exe", path, PATH_BYTES);
    if (length <= 0 || length >= PATH_BYTES)
        return false;
    path[length] = '\0';
    return true;
}

/* The absolute path of the file that holds this code: a shared library, or the program. */
static bool find_own_file(char *path)
{
    static const char anchor = 0;
    Dl_info info;
    void *extra = NULL;
    const char *name = "";
#ifdef __GLIBC__
    if (dladdr1(&anchor, &info, &extra, RTLD_DL_LINKMAP) && extra)
        name = ((const struct link_map *)extra)->l_name; /* empty for the program */
#else
    (void)extra;
    if (dladdr(&anchor, &info) && strstr(info.dli_fname, ".so"))
        name = info.dli_fname;
#endif
    if (name[0] != '/')
        return find_program(path);
    if (strlen(name) >= PATH_BYTES)
        return false;
    memcpy(path, name, strlen(name) + 1);
    return true;
}

/* Where a plug-in may lie: beside this code, and in the lib folder beside its folder. */
struct candidates {
    char folder[PATH_BYTES];
    char paths[2][HELD_PATH];
};

static bool list_candidates(struct candidates *candidates)
{
    size_t size = sizeof candidates->paths[0];
    if (!find_own_file(candidates->folder))
        return false;
    char *end = strrchr(candidates->folder, '/');
    if (!end)
        return false;
    *end = '\0';
    snprintf(candidates->paths[0], size, "%s/%s", candidates->folder, file_name);
    snprintf(candidates->paths[1], size, "%s/../lib/%s", candidates->folder, file_name);
    return true;
}

/* ------------------------------------------------------------------ opening */

/* The library stays in memory: the runtime of a device does not bear being taken out of a process
 * and brought back. */
static hymba_status open_library(const char *path, void **library, hymba_error *error)
{
    *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (*library)
        return HYMBA_OK;
    const char *why = dlerror();
    return hy_fail(error, HYMBA_ERROR_DEVICE, "%s: the plug-in cannot be opened: %s", path,
                   why ? why : "no reason is given");
}

static hymba_status find_library(const struct hy_memory *memory, void **library,
                                 char *path_used, hymba_error *error)
{
    const char *given = secure_getenv(variable);
    if (given && given[0] != '\0') {
        if (given[0] != '/' || strlen(given) >= PATH_BYTES)
            return hy_fail(error, HYMBA_ERROR_DEVICE,
                           "the environment variable %s: found \"%s\", expected an absolute path",
                           variable, given);
        snprintf(path_used, HELD_PATH, "%s", given);
        return open_library(given, library, error);
    }
    struct hy_memory own = {.host = memory->host};
    struct candidates *candidates = hy_alloc(&own, sizeof *candidates);
    if (!candidates)
        return hy_no_memory(error, sizeof *candidates, "the paths of the plug-in");
    hymba_status status = HYMBA_OK;
    bool found = false;
    if (!list_candidates(candidates))
        status = hy_fail(error, HYMBA_ERROR_DEVICE,
                         "no plug-in for \"cuda\": the folder of this library is not known and %s "
                         "is not set", variable);
    for (int i = 0; status == HYMBA_OK && !found && i < 2; i++) {
        found = access(candidates->paths[i], F_OK) == 0;
        if (found) {
            snprintf(path_used, HELD_PATH, "%s", candidates->paths[i]);
            status = open_library(candidates->paths[i], library, error);
        }
    }
    if (status == HYMBA_OK && !found)
        status = hy_fail(error, HYMBA_ERROR_DEVICE,
                         "no plug-in for \"cuda\": there is neither %s nor %s, and %s is not set",
                         candidates->paths[0], candidates->paths[1], variable);
    hy_free(&own, candidates);
    return status;
}

static hymba_status find_table(void *library, const char *path, const struct hy_device_ops **ops,
                               hymba_error *error)
{
    hy_device_entry entry;
    void *symbol = dlsym(library, HY_DEVICE_ENTRY);
    if (!symbol)
        return hy_fail(error, HYMBA_ERROR_DEVICE, "%s: is no plug-in of libhymba: %s is missing",
                       path, HY_DEVICE_ENTRY);
    memcpy(&entry, &symbol, sizeof entry); /* C has no conversion between the two */
    *ops = entry(HY_DEVICE_INTERFACE);
    if (!*ops)
        return hy_fail(error, HYMBA_ERROR_DEVICE,
                       "%s: the plug-in does not have interface version %d, which this library "
                       "needs", path, HY_DEVICE_INTERFACE);
    if ((*ops)->interface_version != HY_DEVICE_INTERFACE ||
        (*ops)->struct_size < sizeof **ops)
        return hy_fail(error, HYMBA_ERROR_DEVICE,
                       "%s: the plug-in has interface version %u (%zu bytes), expected %d (%zu)",
                       path, (unsigned)(*ops)->interface_version, (*ops)->struct_size,
                       HY_DEVICE_INTERFACE, sizeof **ops);
    return HYMBA_OK;
}

static void write_log(void *user, int level, const char *line)
{
    const struct hy_plugin *plugin = user;
    hy_log(&plugin->memory, level, "%s", line);
}

static hymba_status open_device(struct hy_plugin *plugin, int index, int compute,
                                hymba_error *error)
{
    struct hy_device_params params = {
        .struct_size = sizeof params,
        .index = index,
        .compute = compute,
        .log = write_log,
        .log_user = plugin,
    };
    hymba_status status = plugin->ops->open(&params, &plugin->device, error);
    if (status != HYMBA_OK) {
        plugin->device = NULL;
        return status;
    }
    plugin->info.struct_size = sizeof plugin->info;
    plugin->ops->get_info(plugin->device, &plugin->info);
    plugin->info.name[sizeof plugin->info.name - 1] = '\0';
    return HYMBA_OK;
}

/* The library, which may be open after a failure, too, and its table. */
static hymba_status open_table(const struct hy_memory *memory, void **library,
                               const struct hy_device_ops **ops, hymba_error *error)
{
    struct hy_memory own = {.host = memory->host};
    char *path = hy_alloc(&own, HELD_PATH);
    if (!path)
        return hy_no_memory(error, HELD_PATH, "the path of the plug-in");
    hymba_status status = find_library(memory, library, path, error);
    if (status == HYMBA_OK)
        status = find_table(*library, path, ops, error);
    hy_free(&own, path);
    return status;
}

static hymba_status open_all(struct hy_plugin *plugin, int index, int compute, hymba_error *error)
{
    hymba_status status = open_table(&plugin->memory, &plugin->library, &plugin->ops, error);
    if (status == HYMBA_OK)
        status = open_device(plugin, index, compute, error);
    return status;
}

hymba_status hy_plugin_open(const struct hy_memory *memory, int index, int compute,
                            struct hy_plugin **out, hymba_error *error)
{
    struct hy_memory own = {.host = memory->host};
    *out = NULL;
    struct hy_plugin *plugin = hy_alloc_zero(&own, 1, sizeof *plugin);
    if (!plugin)
        return hy_no_memory(error, sizeof *plugin, "a plug-in's record");
    hy_memory_inherit(&plugin->memory, memory);
    snprintf(plugin->label, sizeof plugin->label, "cuda:%d", index);
    hymba_status status = open_all(plugin, index, compute, error);
    if (status == HYMBA_OK)
        *out = plugin;
    else
        hy_plugin_close(plugin);
    return status;
}

void hy_plugin_close(struct hy_plugin *plugin)
{
    if (!plugin)
        return;
    if (plugin->device)
        plugin->ops->close(plugin->device);
    if (plugin->library)
        dlclose(plugin->library);
    struct hy_memory own = {.host = plugin->memory.host};
    hy_free(&own, plugin);
}

/* ----------------------------------------------------------------- failures */

hymba_status hy_plugin_check(const struct hy_plugin *plugin, hymba_error *error)
{
    if (!plugin || !plugin->failed)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_DEVICE, "the device %s has failed: %s", plugin->label,
                   plugin->failure.message);
}

/* What a call that waits has answered, and what that means for the device. */
static hymba_status tell(struct hy_plugin *plugin, hymba_status status, hymba_error *failure,
                         hymba_error *error)
{
    if (status == HYMBA_OK)
        return HYMBA_OK;
    failure->status = status;
    if (status != HYMBA_ERROR_MEMORY) {
        plugin->failed = true;
        plugin->failure = *failure;
    }
    return hy_fail_again(error, failure);
}

hymba_status hy_plugin_finish(struct hy_plugin *plugin, hymba_error *error)
{
    hymba_error failure = {.struct_size = sizeof failure};
    hymba_status status = hy_plugin_check(plugin, error);
    if (status == HYMBA_OK)
        status = tell(plugin, plugin->ops->finish(plugin->device, &failure), &failure, error);
    return status;
}

/* -------------------------------------------------------------------- ranks */

hymba_status hy_plugin_join(struct hy_plugin *plugin, const struct hy_join_args *args,
                            hymba_error *error)
{
    hymba_error failure = {.struct_size = sizeof failure};
    hymba_status status = hy_plugin_check(plugin, error);
    if (status == HYMBA_OK)
        status = tell(plugin, plugin->ops->join(plugin->device, args, &failure), &failure, error);
    return status;
}

hymba_status hy_plugin_exchange(struct hy_plugin *plugin, const void *mine, void *all,
                                size_t bytes, hymba_error *error)
{
    hymba_error failure = {.struct_size = sizeof failure};
    hymba_status status = hy_plugin_check(plugin, error);
    if (status == HYMBA_OK)
        status = tell(plugin, plugin->ops->exchange(plugin->device, mine, all, bytes, &failure),
                      &failure, error);
    return status;
}

hymba_status hy_plugin_make_id(const struct hy_memory *memory, unsigned char *id,
                               hymba_error *error)
{
    const struct hy_device_ops *ops = NULL;
    void *library = NULL;
    hymba_status status = open_table(memory, &library, &ops, error);
    if (status == HYMBA_OK)
        status = ops->make_id(id, error);
    if (library)
        dlclose(library);
    return status;
}
