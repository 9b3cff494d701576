#include "guarded_device.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

enum { MAX_BLOCKS = 4096, ALIGNMENT = 256, POISON = 0xff /* not a number, in all types */ };

/*
 * An address of the device is one of the host's and this many bytes more: there no process has
 * memory, so that whatever takes it for the host's is stopped by the system. What the addresses
 * stand for comes from malloc, where sanitizers watch over the kernels.
 */
static const uintptr_t distance = (uintptr_t)1 << 54;

/* A copy to the host on its way: what is read stands here until finish. */
struct pending {
    struct hy_copy_args args;
    unsigned char *rows;
    struct pending *next;
};

struct hy_device {
    struct hy_kernels kernels;
    bool failed;  /* for good */
    bool refuses; /* until finish */
    struct pending *pending;
};

struct block {
    struct hy_device *device;
    unsigned char *data; /* NULL: none */
    uintptr_t address;   /* of the device */
    size_t bytes;
};

/* Of the process: any thread may release a block. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct block blocks[MAX_BLOCKS];
static int n_places; /* those behind were never used */
static struct guarded_control control = {
    .interface_version = HY_DEVICE_INTERFACE,
    .n_devices = 2,
    .fail_open = -1,
    .fail_allocation = -1,
    .fail_finish = -1,
    .fail_embedding = -1,
    .finish_status = HYMBA_ERROR_DEVICE,
};

EXPORTED struct guarded_control *guarded_device_control(void);
struct guarded_control *guarded_device_control(void)
{
    return &control;
}

static void blame(const char *what)
{
    if (control.n_faults++ == 0)
        snprintf(control.fault, sizeof control.fault, "%s", what);
}

/* ------------------------------------------------------------------- memory */

static bool lies_on_device(const void *data)
{
    return (uintptr_t)data >= distance;
}

/* Where the bytes at a device's address are. There is no going on without them. */
static void *find(const void *data, size_t bytes, const char *what)
{
    unsigned char *found = NULL;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < n_places && !found; i++) {
        uintptr_t offset = (uintptr_t)data - blocks[i].address;
        if (blocks[i].data && (uintptr_t)data >= blocks[i].address &&
            offset <= blocks[i].bytes && bytes <= blocks[i].bytes - offset)
            found = blocks[i].data + offset;
    }
    pthread_mutex_unlock(&mutex);
    if (!found) {
        fprintf(stderr, "guarded device: %s: no memory of its own\n", what);
        abort();
    }
    return found;
}

static void begin(const struct hy_device *device)
{
    if (device->failed)
        blame("work for a device that has failed");
}

static void *device_allocate(struct hy_device *device, size_t bytes)
{
    void *data = NULL;
    int place = 0;
    pthread_mutex_lock(&mutex);
    while (place < MAX_BLOCKS && blocks[place].data)
        place++;
    if (bytes == 0)
        blame("an allocation of nothing");
    if (control.n_allocations++ != control.fail_allocation && place < MAX_BLOCKS)
        data = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (data) {
        memset(data, POISON, bytes);
        blocks[place] = (struct block){device, data, (uintptr_t)data + distance, bytes};
        n_places = place >= n_places ? place + 1 : n_places;
        control.n_blocks++;
    }
    pthread_mutex_unlock(&mutex);
    return data ? (void *)((uintptr_t)data + distance) : NULL;
}

static void device_release(struct hy_device *device, void *data)
{
    int place = 0;
    pthread_mutex_lock(&mutex);
    while (place < n_places && (!blocks[place].data || blocks[place].address != (uintptr_t)data))
        place++;
    if (place == n_places || blocks[place].device != device) {
        blame("a release of what is not there");
    } else {
        free(blocks[place].data);
        blocks[place].data = NULL;
        control.n_blocks--;
    }
    pthread_mutex_unlock(&mutex);
}

/* ----------------------------------------------------------------- lifetimes */

static hymba_status device_open(const struct hy_device_params *params, struct hy_device **out,
                                hymba_error *error)
{
    if (params->index >= control.n_devices)
        return hy_fail(error, HYMBA_ERROR_DEVICE, "guarded device %d: there are %d", params->index,
                       control.n_devices);
    struct hy_device *device = NULL;
    if (control.n_opens++ != control.fail_open)
        device = calloc(1, sizeof *device);
    if (!device)
        return hy_fail(error, HYMBA_ERROR_MEMORY, "no memory for a device");
    hy_kernels_generic(&device->kernels);
    if (params->compute != HYMBA_COMPUTE_F32 && params->compute != HYMBA_COMPUTE_BF16)
        blame("an unknown arithmetic");
    params->log(params->log_user, HYMBA_LOG_INFO, "guarded device");
    control.n_open++;
    *out = device;
    return HYMBA_OK;
}

static void drop_pending(struct hy_device *device)
{
    while (device->pending) {
        struct pending *next = device->pending->next;
        free(device->pending->rows);
        free(device->pending);
        device->pending = next;
    }
}

static void device_close(struct hy_device *device)
{
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (blocks[i].data && blocks[i].device == device)
            blame("a device is closed before its memory is released");
    drop_pending(device);
    free(device);
    control.n_open--;
}

static void device_get_info(struct hy_device *device, struct hy_device_info *info)
{
    (void)device;
    snprintf(info->name, sizeof info->name, "guarded memory");
    info->total_bytes = info->free_bytes = UINT64_C(1) << 32;
    info->has_bf16 = control.has_bf16;
}

static void deliver(const struct pending *pending)
{
    const struct hy_copy_args *args = &pending->args;
    for (size_t i = 0; i < args->n_rows; i++)
        memcpy((unsigned char *)args->to + i * args->to_stride, pending->rows + i * args->width,
               args->width);
}

static hymba_status device_finish(struct hy_device *device, hymba_error *error)
{
    if (control.n_finishes++ == control.fail_finish) {
        drop_pending(device);
        device->failed = control.finish_status != HYMBA_ERROR_MEMORY;
        return hy_fail(error, control.finish_status, "the guarded device fails as told");
    }
    for (const struct pending *p = device->pending; p; p = p->next)
        deliver(p);
    drop_pending(device);
    bool refused = device->refuses;
    device->refuses = false;
    return refused ? hy_fail(error, HYMBA_ERROR_MEMORY, "the guarded device fails as told")
                   : HYMBA_OK;
}

/* -------------------------------------------------------------------- copies */

static size_t extent(size_t stride, size_t width, size_t n_rows)
{
    return (n_rows - 1) * stride + width;
}

/* The host sees nothing of it before finish: until then there is poison. */
static void read_back(struct hy_device *device, const struct hy_copy_args *args)
{
    struct pending *pending = calloc(1, sizeof *pending);
    const unsigned char *from = find(
        args->from, extent(args->from_stride, args->width, args->n_rows), "copy: from");
    pending->args = *args;
    pending->rows = malloc(args->n_rows * args->width);
    for (size_t i = 0; i < args->n_rows; i++) {
        memcpy(pending->rows + i * args->width, from + i * args->from_stride, args->width);
        memset((unsigned char *)args->to + i * args->to_stride, POISON, args->width);
    }
    pending->next = device->pending;
    device->pending = pending;
}

static void write_rows(const struct hy_copy_args *args)
{
    unsigned char *to =
        find(args->to, extent(args->to_stride, args->width, args->n_rows), "copy: to");
    const unsigned char *from = args->from;
    if (args->kind == HY_COPY_WITHIN)
        from = find(from, extent(args->from_stride, args->width, args->n_rows), "copy: from");
    for (size_t i = 0; i < args->n_rows; i++)
        memcpy(to + i * args->to_stride, from + i * args->from_stride, args->width);
}

static void device_copy(struct hy_device *device, const struct hy_copy_args *args)
{
    begin(device);
    if (args->n_rows == 0 || args->width == 0)
        blame("a copy of nothing");
    if (lies_on_device(args->to) != (args->kind != HY_COPY_TO_HOST))
        blame("the target of a copy is elsewhere");
    if (lies_on_device(args->from) != (args->kind != HY_COPY_TO_DEVICE))
        blame("the source of a copy is elsewhere");
    if (device->refuses)
        return;
    control.n_copies += args->kind == HY_COPY_WITHIN;
    if (args->kind == HY_COPY_TO_DEVICE)
        control.n_uploaded += (long)(args->width * args->n_rows);
    if (args->kind == HY_COPY_TO_HOST)
        read_back(device, args);
    else
        write_rows(args);
}

/* The last copy first: where one depends on another, wrong bits come out. */
static void device_copy_list(struct hy_device *device, const struct hy_copy_args *copies, size_t n)
{
    if (n == 0)
        blame("a list of no copies");
    control.n_lists++;
    for (size_t i = n; i-- > 0 && !device->refuses;) {
        if (copies[i].kind != HY_COPY_WITHIN)
            blame("a list of copies from or to the host");
        device_copy(device, &copies[i]);
        control.n_copies--;
    }
}

static void device_fill(struct hy_device *device, void *data, int byte, size_t bytes)
{
    begin(device);
    memset(find(data, bytes, "fill"), byte, bytes);
}

static void device_convert(struct hy_device *device, const struct hy_convert_args *args)
{
    begin(device);
    const void *x = find(args->x, args->n * hy_dtype_size(args->x_dtype), "convert: x");
    void *y = find(args->y, args->n * hy_dtype_size(args->y_dtype), "convert: y");
    if (args->y_dtype == HYMBA_DTYPE_F32)
        hy_row_to_f32(x, args->x_dtype, y, args->n);
    else
        hy_row_from_f32(x, args->y_dtype, y, args->n);
}

/* ----------------------------------------------------------------------- ops */

/* Bytes of rows of n floats. */
static size_t floats(size_t rows, size_t stride, size_t n)
{
    return ((rows - 1) * stride + n) * sizeof(float);
}

/* Of a matrix that may have none. */
static const void *find_scales(const void *scales, size_t rows, size_t columns, size_t group,
                               const char *what)
{
    return group ? find(scales, rows * (columns / group) * sizeof(uint16_t), what) : scales;
}

static void device_embed(struct hy_device *device, const struct hy_embed_args *args, size_t rows)
{
    struct hy_embed_args here = *args;
    const struct hy_matrix *table = &args->table;
    begin(device);
    if (control.n_embeddings++ == control.fail_embedding)
        device->refuses = true;
    here.ids = find(args->ids, rows * sizeof *args->ids, "embed: ids");
    here.table.data =
        find(table->data, table->rows * hy_row_bytes(table->dtype, table->columns), "embed: table");
    here.table.scales =
        find_scales(table->scales, table->rows, table->columns, table->group, "embed: scales");
    here.y = find(args->y, floats(rows, table->columns, table->columns), "embed: y");
    device->kernels.embed(&here, 0, rows);
}

static void device_rms_norm(struct hy_device *device, const struct hy_rms_norm_args *args,
                            size_t rows)
{
    struct hy_rms_norm_args here = *args;
    begin(device);
    here.x = find(args->x, floats(rows, args->x_stride, args->n), "rms_norm: x");
    here.weight = find(args->weight, floats(1, 0, args->n), "rms_norm: weight");
    here.y = find(args->y, floats(rows, args->y_stride, args->n), "rms_norm: y");
    device->kernels.rms_norm(&here, 0, rows);
}

static void device_matmul(struct hy_device *device, const struct hy_matmul_args *args)
{
    struct hy_matmul_args here = *args;
    struct hy_rounded rounded;
    begin(device);
    if (args->rounded) {
        rounded = *args->rounded;
        rounded.data = find(rounded.data, args->m * rounded.stride * 2, "matmul: rounded");
        here.rounded = &rounded;
        here.x = NULL;
    } else {
        here.x = find(args->x, floats(args->m, args->x_stride, args->k), "matmul: x");
    }
    here.w = find(args->w, args->n * hy_row_bytes(args->dtype, args->k), "matmul: w");
    here.w_scales = find_scales(args->w_scales, args->n, args->k, args->group, "matmul: scales");
    if (args->bias)
        here.bias = find(args->bias, floats(1, 0, args->n), "matmul: bias");
    here.y = find(args->y, floats(args->m, args->y_stride, args->n), "matmul: y");
    device->kernels.matmul(&here, 0, args->n, NULL);
}

static void device_round(struct hy_device *device, const struct hy_round_args *args, size_t rows)
{
    struct hy_round_args here = *args;
    begin(device);
    here.x = find(args->x, floats(rows, args->x_stride, args->n), "round: x");
    here.y.data = find(args->y.data, rows * args->y.stride * 2, "round: y");
    device->kernels.round(&here, 0, rows);
}

static void device_rope(struct hy_device *device, const struct hy_rope_args *args, size_t rows)
{
    struct hy_rope_args here = *args;
    size_t half = args->head_size / 2;
    begin(device);
    here.x = find(args->x, floats(rows, args->x_stride, args->n_heads * args->head_size),
                  "rope: x");
    here.cosine = find(args->cosine, floats(rows, half, half), "rope: cosine");
    here.sine = find(args->sine, floats(rows, half, half), "rope: sine");
    device->kernels.rope(&here, 0, rows);
}

static void device_cache_rows(struct hy_device *device, const struct hy_cache_rows_args *args,
                              size_t rows)
{
    struct hy_cache_rows_args here = *args;
    size_t bytes = rows * hy_cache_row_bytes(args->dtype, args->head_size);
    begin(device);
    here.x = find(args->x, floats(rows, args->x_stride, args->n_heads * args->head_size),
                  "cache_rows: x");
    here.y = find(args->y, extent(args->head_stride, bytes, args->n_heads), "cache_rows: y");
    device->kernels.cache_rows(&here, 0, rows);
}

/* The lists with the places of what they point to, in one block from malloc. */
static struct hy_attention_sequence *copy_lists(const struct hy_attention_args *args)
{
    size_t n = args->n_sequences, n_spans = 0;
    for (size_t i = 0; i < n; i++)
        n_spans += args->sequences[i].n_spans;
    struct hy_attention_sequence *sequences =
        malloc(n * sizeof *sequences + n_spans * sizeof(struct hy_span));
    struct hy_span *next = (struct hy_span *)(void *)(sequences + n);
    for (size_t i = 0; i < n; i++) {
        sequences[i] = args->sequences[i];
        for (size_t j = 0; j < sequences[i].n_spans; j++) {
            struct hy_span span = args->sequences[i].spans[j];
            size_t k = span.count * hy_cache_row_bytes(args->cache_type, args->qk_size);
            size_t v = span.count * hy_cache_row_bytes(args->cache_type, args->v_size);
            span.k = find(span.k, extent(span.k_head_stride, k, args->n_kv_heads),
                          "attention: keys");
            span.v = find(span.v, extent(span.v_head_stride, v, args->n_kv_heads),
                          "attention: values");
            next[j] = span;
        }
        sequences[i].spans = next;
        next += sequences[i].n_spans;
    }
    return sequences;
}

static void device_attention(struct hy_device *device, const struct hy_attention_args *args,
                             size_t rows)
{
    struct hy_attention_args here = *args;
    begin(device);
    here.q = find(args->q, floats(rows, args->q_stride, args->n_heads * args->qk_size),
                  "attention: q");
    here.out = find(args->out, floats(rows, args->out_stride, args->n_heads * args->v_size),
                    "attention: out");
    struct hy_attention_sequence *sequences = copy_lists(args);
    float *scratch = malloc(hy_attention_scratch(args) * sizeof *scratch);
    here.sequences = sequences;
    device->kernels.attention(&here, 0, rows * args->n_heads, scratch);
    free(scratch);
    free(sequences);
}

/* The list with the places of the states; *rows: of all. From malloc. */
static struct hy_state_sequence *copy_states(const struct hy_state_sequence *given, size_t n,
                                             size_t conv, size_t ssm, size_t *rows)
{
    struct hy_state_sequence *sequences = malloc(n * sizeof *sequences);
    *rows = 0;
    for (size_t i = 0; i < n; i++) {
        sequences[i] = given[i];
        sequences[i].conv_state =
            find(given[i].conv_state, conv * sizeof(float), "a convolution state");
        sequences[i].ssm_state = find(given[i].ssm_state, ssm * sizeof(float), "an SSM state");
        size_t end = given[i].segment.row + given[i].segment.n_rows;
        *rows = end > *rows ? end : *rows;
    }
    return sequences;
}

static void device_conv(struct hy_device *device, const struct hy_conv_args *args)
{
    struct hy_conv_args here = *args;
    size_t n = args->n, rows;
    begin(device);
    struct hy_state_sequence *sequences =
        copy_states(args->sequences, args->n_sequences, (args->width - 1) * n, 0, &rows);
    here.sequences = sequences;
    here.x = find(args->x, floats(rows, args->x_stride, n), "conv: x");
    here.weight = find(args->weight, floats(args->width, n, n), "conv: weight");
    here.bias = find(args->bias, floats(1, 0, n), "conv: bias");
    here.y = find(args->y, floats(rows, args->y_stride, n), "conv: y");
    device->kernels.conv(&here, 0, args->n_sequences * n);
    free(sequences);
}

static void device_scan(struct hy_device *device, const struct hy_scan_args *args)
{
    struct hy_scan_args here = *args;
    size_t n = args->n, rows;
    begin(device);
    struct hy_state_sequence *sequences =
        copy_states(args->sequences, args->n_sequences, 0, args->state_size * n, &rows);
    here.sequences = sequences;
    here.dt = find(args->dt, floats(rows, args->dt_stride, n), "scan: dt");
    here.x = find(args->x, floats(rows, args->x_stride, n), "scan: x");
    here.z = find(args->z, floats(rows, args->z_stride, n), "scan: z");
    here.b = find(args->b, floats(rows, args->bc_stride, args->state_size), "scan: b");
    here.c = find(args->c, floats(rows, args->bc_stride, args->state_size), "scan: c");
    here.a = find(args->a, floats(args->state_size, n, n), "scan: a");
    here.d = find(args->d, floats(1, 0, n), "scan: d");
    here.y = find(args->y, floats(rows, args->y_stride, n), "scan: y");
    device->kernels.scan(&here, 0, args->n_sequences * n);
    free(sequences);
}

static void device_fuse(struct hy_device *device, const struct hy_fuse_args *args, size_t rows)
{
    struct hy_fuse_args here = *args;
    size_t n = args->n, bytes = floats(1, 0, n);
    begin(device);
    here.attention =
        find(args->attention, floats(rows, args->attention_stride, n), "fuse: attention");
    here.ssm = find(args->ssm, floats(rows, args->ssm_stride, n), "fuse: ssm");
    here.weight_attention = find(args->weight_attention, bytes, "fuse: weight_attention");
    here.weight_ssm = find(args->weight_ssm, bytes, "fuse: weight_ssm");
    here.y = find(args->y, floats(rows, args->y_stride, args->concat ? 2 * n : n), "fuse: y");
    device->kernels.fuse(&here, 0, rows);
}

static void device_swiglu(struct hy_device *device, const struct hy_swiglu_args *args, size_t rows)
{
    struct hy_swiglu_args here = *args;
    begin(device);
    here.gate = find(args->gate, floats(rows, args->gate_stride, args->n), "swiglu: gate");
    here.up = find(args->up, floats(rows, args->up_stride, args->n), "swiglu: up");
    here.y = find(args->y, floats(rows, args->y_stride, args->n), "swiglu: y");
    device->kernels.swiglu(&here, 0, rows);
}

EXPORTED const struct hy_device_ops *hymba_device_plugin(uint32_t interface_version);
const struct hy_device_ops *hymba_device_plugin(uint32_t interface_version)
{
    static struct hy_device_ops ops = {
        .struct_size = sizeof ops,
        .open = device_open,
        .close = device_close,
        .get_info = device_get_info,
        .allocate = device_allocate,
        .release = device_release,
        .copy = device_copy,
        .copy_list = device_copy_list,
        .fill = device_fill,
        .convert = device_convert,
        .embed = device_embed,
        .rms_norm = device_rms_norm,
        .matmul = device_matmul,
        .round = device_round,
        .rope = device_rope,
        .cache_rows = device_cache_rows,
        .attention = device_attention,
        .conv = device_conv,
        .scan = device_scan,
        .fuse = device_fuse,
        .swiglu = device_swiglu,
        .finish = device_finish,
    };
    ops.interface_version = control.interface_version;
    return control.interface_version && interface_version == HY_DEVICE_INTERFACE ? &ops : NULL;
}
