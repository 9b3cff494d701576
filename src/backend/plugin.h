/*
 * A device of a plug-in: the library that libhymba opens at run time, its table (device.h) and one
 * open device. Its calls come from one thread at a time, but for releases of memory.
 */
#ifndef HY_BACKEND_PLUGIN_H
#define HY_BACKEND_PLUGIN_H

#include "backend/device.h"
#include "base/memory.h"

/* Copies that are gathered before they are queued, at most. */
enum { HY_GATHERED_COPIES = 1024 };

enum { HY_MAX_DEVICE_INDEX = 255 };

struct hy_plugin {
    struct hy_memory memory; /* the hooks for the log and for this record */
    void *library;
    const struct hy_device_ops *ops;
    struct hy_device *device;
    struct hy_device_info info;
    char label[24];          /* "cuda:0" */
    bool failed;             /* for good; *failure says why */
    hymba_error failure;
    bool single_ops;         /* no begin_step: for tests, which compare the two ways */
    bool gathers;            /* copies within the device (store.h) */
    size_t n_gathered;
    struct hy_copy_args gathered[HY_GATHERED_COPIES];
};

/* Where a device's name leads. */
enum hy_device_kind { HY_DEVICE_UNKNOWN, HY_DEVICE_CPU, HY_DEVICE_CUDA, HY_DEVICE_SEVERAL };

/* name is NULL, "cpu", "cuda" or "cuda:N"; *index is N or 0. Or it begins with "cuda:" and has a
 * comma: then it is a list, which may be malformed. */
enum hy_device_kind hy_device_parse(const char *name, int *index);

enum { HY_MAX_DEVICES = 64 };

struct hy_device_list {
    uint32_t n;
    int indices[HY_MAX_DEVICES];
};

/* "cuda:0,1,2": at least two devices, each once. DEVICE, with the part that is wrong. */
hymba_status hy_device_parse_list(const char *name, struct hy_device_list *list,
                                  hymba_error *error);

/* For an unknown device, in one sentence. */
hymba_status hy_device_refuse(const char *name, hymba_error *error);

/*
 * Finds and opens the plug-in and its device of that index, to compute as compute says. The file is
 * the one that the environment variable HYMBA_CUDA_PLUGIN names by an absolute path or, if it is
 * not set or empty, libhymba-cuda.so in the folder of the file that holds this code or in ../lib
 * beside it: never one from the current directory or from a search path. DEVICE, with what was
 * tried, if that fails; MEMORY where only memory is lacking.
 */
hymba_status hy_plugin_open(const struct hy_memory *memory, int index, int compute,
                            struct hy_plugin **plugin, hymba_error *error);
void hy_plugin_close(struct hy_plugin *plugin); /* NULL is ignored */

/* DEVICE once the device has failed. */
hymba_status hy_plugin_check(const struct hy_plugin *plugin, hymba_error *error);

/* Waits for all that was queued. A failure other than MEMORY marks the device as failed. */
hymba_status hy_plugin_finish(struct hy_plugin *plugin, hymba_error *error);

/* Among ranks, as device.h says; failures as with finish. */
hymba_status hy_plugin_join(struct hy_plugin *plugin, const struct hy_join_args *args,
                            hymba_error *error);
hymba_status hy_plugin_exchange(struct hy_plugin *plugin, const void *mine, void *all,
                                size_t bytes, hymba_error *error);

/* An id for ranks (HY_UNIQUE_ID_BYTES), of the plug-in that hy_plugin_open would find. */
hymba_status hy_plugin_make_id(const struct hy_memory *memory, unsigned char *id,
                               hymba_error *error);

#endif
