#include "backend/store.h"

#include <string.h>

/* Nothing is asked of a device that has failed but to give back memory. */
static bool is_usable(const struct hy_plugin *plugin, size_t n)
{
    return n > 0 && !plugin->failed;
}

/* -------------------------------------------------------- gathering of copies */

static void queue_gathered(struct hy_plugin *plugin)
{
    if (plugin->n_gathered > 0 && !plugin->failed)
        plugin->ops->copy_list(plugin->device, plugin->gathered, plugin->n_gathered);
    plugin->n_gathered = 0;
}

void hy_store_begin_copies(struct hy_plugin *plugin)
{
    if (plugin)
        plugin->gathers = true;
}

void hy_store_end_copies(struct hy_plugin *plugin)
{
    if (!plugin)
        return;
    queue_gathered(plugin);
    plugin->gathers = false;
}

static void queue_copy(struct hy_plugin *plugin, const struct hy_copy_args *args)
{
    if (!plugin->gathers || args->kind != HY_COPY_WITHIN) {
        queue_gathered(plugin);
        plugin->ops->copy(plugin->device, args);
        return;
    }
    if (plugin->n_gathered == HY_GATHERED_COPIES)
        queue_gathered(plugin);
    plugin->gathered[plugin->n_gathered++] = *args;
}

/* --------------------------------------------------------------------- memory */

void *hy_store_alloc(struct hy_memory *memory, struct hy_plugin *plugin, size_t bytes)
{
    if (!plugin)
        return hy_alloc(memory, bytes);
    if (bytes == 0)
        bytes = 1;
    if (!hy_memory_charge(memory, bytes))
        return NULL;
    void *data = plugin->failed ? NULL : plugin->ops->allocate(plugin->device, bytes);
    if (!data)
        hy_memory_discharge(memory, bytes);
    return data;
}

void *hy_store_alloc_zero(struct hy_memory *memory, struct hy_plugin *plugin, size_t bytes)
{
    void *data = hy_store_alloc(memory, plugin, bytes);
    if (data)
        hy_store_fill(plugin, data, 0, bytes);
    return data;
}

void hy_store_free(struct hy_memory *memory, struct hy_plugin *plugin, void *data, size_t bytes)
{
    if (!plugin) {
        hy_free(memory, data);
        return;
    }
    if (!data)
        return;
    plugin->ops->release(plugin->device, data);
    hy_memory_discharge(memory, bytes ? bytes : 1);
}

void hy_store_fill(struct hy_plugin *plugin, void *data, int byte, size_t bytes)
{
    if (!plugin) {
        memset(data, byte, bytes);
    } else if (is_usable(plugin, bytes)) {
        queue_gathered(plugin);
        plugin->ops->fill(plugin->device, data, byte, bytes);
    }
}

/* --------------------------------------------------------------------- copies */

static void copy(struct hy_plugin *plugin, enum hy_copy_kind kind, void *to, const void *from,
                 size_t bytes)
{
    struct hy_copy_args args = {
        .kind = kind,
        .to = to,
        .to_stride = bytes,
        .from = from,
        .from_stride = bytes,
        .width = bytes,
        .n_rows = 1,
    };
    if (!plugin && bytes > 0) /* of nothing the pointers may be NULL */
        memcpy(to, from, bytes);
    else if (plugin && is_usable(plugin, bytes))
        queue_copy(plugin, &args);
}

void hy_store_copy(struct hy_plugin *plugin, void *to, const void *from, size_t bytes)
{
    copy(plugin, HY_COPY_WITHIN, to, from, bytes);
}

void hy_store_put(struct hy_plugin *plugin, void *to, const void *host, size_t bytes)
{
    copy(plugin, HY_COPY_TO_DEVICE, to, host, bytes);
}

void hy_store_get(struct hy_plugin *plugin, void *host, const void *from, size_t bytes)
{
    copy(plugin, HY_COPY_TO_HOST, host, from, bytes);
}

static void queue_rows(struct hy_plugin *plugin, const struct hy_copy_args *args)
{
    if (args->n_rows > 0 && is_usable(plugin, args->width))
        queue_copy(plugin, args);
}

void hy_store_copy_rows(struct hy_plugin *plugin, void *to, size_t to_stride, const void *from,
                        size_t from_stride, size_t width, size_t n_rows)
{
    struct hy_copy_args args = {
        HY_COPY_WITHIN, to, to_stride, from, from_stride, width, n_rows};
    if (plugin) {
        queue_rows(plugin, &args);
        return;
    }
    for (size_t i = 0; i < n_rows; i++)
        memcpy((unsigned char *)to + i * to_stride, (const unsigned char *)from + i * from_stride,
               width);
}

void hy_store_put_rows(struct hy_plugin *plugin, void *to, size_t to_stride, const void *host,
                       size_t host_stride, size_t width, size_t n_rows)
{
    struct hy_copy_args args = {
        HY_COPY_TO_DEVICE, to, to_stride, host, host_stride, width, n_rows};
    queue_rows(plugin, &args);
}

void hy_store_get_rows(struct hy_plugin *plugin, void *host, size_t host_stride, const void *from,
                       size_t from_stride, size_t width, size_t n_rows)
{
    struct hy_copy_args args = {
        HY_COPY_TO_HOST, host, host_stride, from, from_stride, width, n_rows};
    queue_rows(plugin, &args);
}

static void convert(struct hy_plugin *plugin, const void *x, hymba_dtype x_dtype, void *y,
                    hymba_dtype y_dtype, size_t n)
{
    struct hy_convert_args args = {
        .x = x, .x_dtype = x_dtype, .y = y, .y_dtype = y_dtype, .n = n};
    if (x_dtype == y_dtype) {
        hy_store_copy(plugin, y, x, n * hy_dtype_size(x_dtype));
    } else if (is_usable(plugin, n)) {
        queue_gathered(plugin);
        plugin->ops->convert(plugin->device, &args);
    }
}

void hy_store_to_f32(struct hy_plugin *plugin, const void *from, hymba_dtype dtype, float *to,
                     size_t n)
{
    if (plugin)
        convert(plugin, from, dtype, to, HYMBA_DTYPE_F32, n);
    else
        hy_row_to_f32(from, dtype, to, n);
}

void hy_store_from_f32(struct hy_plugin *plugin, const float *from, hymba_dtype dtype, void *to,
                       size_t n)
{
    if (plugin)
        convert(plugin, from, HYMBA_DTYPE_F32, to, dtype, n);
    else
        hy_row_from_f32(from, dtype, to, n);
}

hymba_status hy_store_finish(struct hy_plugin *plugin, hymba_error *error)
{
    if (!plugin)
        return HYMBA_OK;
    queue_gathered(plugin);
    return hy_plugin_finish(plugin, error);
}
