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
enum hy_device_kind { HY_DEVICE_UNKNOWN, HY_DEVICE_CPU, HY_DEVICE_CUDA };

/* name is NULL, "cpu", "cuda" or "cuda:N"; *index is N or 0. */
enum hy_device_kind hy_device_parse(const char *name, int *index);

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

#endif
