/*
 * Memory that a device computes in. plugin NULL: the host's, and every call is the plain one.
 * Otherwise the memory is the device's, calls are queued like ops (device.h), and pointers to it
 * mean nothing to the host. Both kinds stand on the account of a struct hy_memory.
 */
#ifndef HY_BACKEND_STORE_H
#define HY_BACKEND_STORE_H

#include "backend/plugin.h"

/* bytes bytes, uninitialised or zero; NULL if there are none. */
void *hy_store_alloc(struct hy_memory *memory, struct hy_plugin *plugin, size_t bytes);
void *hy_store_alloc_zero(struct hy_memory *memory, struct hy_plugin *plugin, size_t bytes);

/* bytes as allocated; from any thread. NULL is ignored. */
void hy_store_free(struct hy_memory *memory, struct hy_plugin *plugin, void *data, size_t bytes);

void hy_store_fill(struct hy_plugin *plugin, void *data, int byte, size_t bytes);

/* Within the device; no overlap. */
void hy_store_copy(struct hy_plugin *plugin, void *to, const void *from, size_t bytes);

/* n_rows rows of width bytes, strides in bytes; within the device. */
void hy_store_copy_rows(struct hy_plugin *plugin, void *to, size_t to_stride, const void *from,
                        size_t from_stride, size_t width, size_t n_rows);

/*
 * Copies within the device between these two are made together, in few pieces of work: none of them
 * may write what another one reads or writes. A fill, a conversion, or a copy from or to the host
 * in between comes behind those before it; an op of the device may come first.
 */
void hy_store_begin_copies(struct hy_plugin *plugin);
void hy_store_end_copies(struct hy_plugin *plugin);

/* From the host; it may change the source at once. */
void hy_store_put(struct hy_plugin *plugin, void *to, const void *host, size_t bytes);

/* To the host, where it is after hy_store_finish. */
void hy_store_get(struct hy_plugin *plugin, void *host, const void *from, size_t bytes);

/* The same of n_rows rows of width bytes; strides in bytes. plugin is not NULL. */
void hy_store_put_rows(struct hy_plugin *plugin, void *to, size_t to_stride, const void *host,
                       size_t host_stride, size_t width, size_t n_rows);
void hy_store_get_rows(struct hy_plugin *plugin, void *host, size_t host_stride, const void *from,
                       size_t from_stride, size_t width, size_t n_rows);

/* n elements of a float type, from and to f32. */
void hy_store_to_f32(struct hy_plugin *plugin, const void *from, hymba_dtype dtype, float *to,
                     size_t n);
void hy_store_from_f32(struct hy_plugin *plugin, const float *from, hymba_dtype dtype, void *to,
                       size_t n);

/* All that was queued is done, or the first failure. */
hymba_status hy_store_finish(struct hy_plugin *plugin, hymba_error *error);

#endif
