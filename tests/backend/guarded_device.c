#include "guarded_device.h"

#include "guarded_inside.h"
#include "guarded_ranks.h"
#include "text/candidates.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

enum { MAX_BLOCKS = 4096, ALIGNMENT = 256 };

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

/* A sum over ranks that is under way: what its y will be, and its x, stand here, and poison there,
 * until end_all_sum. */
struct pending_sum {
    struct hy_all_sum_args args;
    size_t rows;
    float *x, *y; /* [rows][n] */
    struct pending_sum *next;
};

struct hy_device {
    struct hy_kernels kernels;
    int index;
    struct guarded_ranks *ranks; /* NULL: it has joined nobody */
    struct hy_join_args self;    /* a world of one before */
    bool lost;    /* a rank was missing; told by finish */
    bool failed;  /* for good */
    bool refuses; /* until finish */
    bool in_step;
    struct pending *pending;
    struct pending_sum *sums;
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
    .fails_on = -1,
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

void blame(const char *what)
{
    if (control.n_faults++ == 0)
        snprintf(control.fault, sizeof control.fault, "%s", what);
}

/* Counts a call; whether it is the one that fails. Where only one device fails, the others' calls
 * are not counted. */
static bool fails(const struct hy_device *device, _Atomic long *count, long failing)
{
    return (control.fails_on < 0 || device->index == control.fails_on) && (*count)++ == failing;
}

/* ------------------------------------------------------------------- memory */

static bool lies_on_device(const void *data)
{
    return (uintptr_t)data >= distance;
}

void *find(const void *data, size_t bytes, const char *what)
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

/* Bytes of rows of n floats. */
static size_t floats(size_t rows, size_t stride, size_t n)
{
    return ((rows - 1) * stride + n) * sizeof(float);
}

static void begin(const struct hy_device *device)
{
    if (device->failed)
        blame("work for a device that has failed");
}

/* Work that is no op of a step. */
static void begin_apart(const struct hy_device *device)
{
    begin(device);
    if (device->in_step)
        blame("a copy, a fill or an end of work within a step");
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
    if (!fails(device, &control.n_allocations, control.fail_allocation) && place < MAX_BLOCKS)
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
    device->index = params->index;
    device->self.world_size = 1;
    if (params->compute <= HYMBA_COMPUTE_DEFAULT || params->compute > HYMBA_COMPUTE_FP8)
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

static void put_rows(float *to, size_t stride, size_t n, size_t rows, const float *from)
{
    for (size_t t = 0; t < rows; t++)
        memcpy(to + t * stride, from + t * n, n * sizeof *from);
}

/* y may be x. */
static void end_sum(struct pending_sum *sum)
{
    const struct hy_all_sum_args *args = &sum->args;
    float *x = find(args->x, floats(sum->rows, args->x_stride, args->n), "end of a sum: x");
    float *y = find(args->y, floats(sum->rows, args->y_stride, args->n), "end of a sum: y");
    put_rows(x, args->x_stride, args->n, sum->rows, sum->x);
    put_rows(y, args->y_stride, args->n, sum->rows, sum->y);
    free(sum->x);
    free(sum->y);
    free(sum);
}

static void end_sums(struct hy_device *device)
{
    while (device->sums) {
        struct pending_sum *next = device->sums->next;
        end_sum(device->sums);
        device->sums = next;
    }
}

static void device_close(struct hy_device *device)
{
    if (device->sums)
        blame("a device is closed while a sum is under way");
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < n_places; i++)
        if (blocks[i].data && blocks[i].device == device)
            blame("a device is closed before its memory is released");
    pthread_mutex_unlock(&mutex);
    drop_pending(device);
    guarded_ranks_leave(device->ranks);
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

static void deliver_all(struct hy_device *device)
{
    for (const struct pending *p = device->pending; p; p = p->next)
        deliver(p);
    drop_pending(device);
}

static hymba_status lose(struct hy_device *device, hymba_error *error)
{
    device->failed = true;
    return hy_fail(error, HYMBA_ERROR_TIMEOUT, "another guarded device did not come in time");
}

static hymba_status device_finish(struct hy_device *device, hymba_error *error)
{
    begin_apart(device);
    end_sums(device);
    if (fails(device, &control.n_finishes, control.fail_finish)) {
        drop_pending(device);
        device->failed = control.finish_status != HYMBA_ERROR_MEMORY;
        return hy_fail(error, control.finish_status, "the guarded device fails as told");
    }
    deliver_all(device);
    if (device->lost)
        return lose(device, error);
    bool refused = device->refuses;
    device->refuses = false;
    return refused ? hy_fail(error, HYMBA_ERROR_MEMORY, "the guarded device fails as told")
                   : HYMBA_OK;
}

/* -------------------------------------------------------------------- copies */

size_t extent(size_t stride, size_t width, size_t n_rows)
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
    begin_apart(device);
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
        control.n_downloaded += (long)(args->width * args->n_rows);
    if (args->kind == HY_COPY_TO_HOST)
        read_back(device, args);
    else
        write_rows(args);
}

/* The last copy first: where one depends on another, wrong bits come out. */
static void device_copy_list(struct hy_device *device, const struct hy_copy_args *copies, size_t n)
{
    begin_apart(device);
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
    begin_apart(device);
    memset(find(data, bytes, "fill"), byte, bytes);
}

static void device_convert(struct hy_device *device, const struct hy_convert_args *args)
{
    begin_apart(device);
    control.n_converts++;
    const void *x = find(args->x, args->n * hy_dtype_size(args->x_dtype), "convert: x");
    void *y = find(args->y, args->n * hy_dtype_size(args->y_dtype), "convert: y");
    if (args->y_dtype == HYMBA_DTYPE_F32)
        hy_row_to_f32(x, args->x_dtype, y, args->n);
    else
        hy_row_from_f32(x, args->y_dtype, y, args->n);
}

/* ----------------------------------------------------------------------- ops */

/* Of a matrix that may have none. */
const void *find_scales(const void *scales, size_t rows, size_t columns, size_t group,
                        const char *what)
{
    return group ? find(scales, rows * (columns / group) * sizeof(uint16_t), what) : scales;
}

static void device_embed(struct hy_device *device, const struct hy_embed_args *args, size_t rows)
{
    struct hy_embed_args here = *args;
    const struct hy_matrix *table = &args->table;
    begin(device);
    if (fails(device, &control.n_embeddings, control.fail_embedding))
        device->refuses = true;
    here.ids = find(args->ids, rows * sizeof *args->ids, "embed: ids");
    here.table.data =
        find(table->data, table->rows * hy_row_bytes(table->dtype, table->columns), "embed: table");
    here.table.scales =
        find_scales(table->scales, table->rows, table->columns, table->group, "embed: scales");
    here.y = find(args->y, floats(rows, table->columns, table->columns), "embed: y");
    device->kernels.embed(&here, 0, rows);
}

const struct hy_kernels *begin_op(const struct hy_device *device)
{
    begin(device);
    return &device->kernels;
}

/* ---------------------------------------------------------------------- ranks */

/* The rows one after another, from malloc. */
static float *take_rows(const float *from, size_t stride, size_t n, size_t rows)
{
    float *taken = malloc(rows * n * sizeof *from);
    for (size_t t = 0; t < rows; t++)
        memcpy(taken + t * n, from + t * stride, n * sizeof *from);
    return taken;
}

/* The rows of all ranks, in the order of ranks, one row after another; from malloc. NULL: one is
 * missing. A device alone has its own. */
static float *gather_rows(struct hy_device *device, const struct hy_all_sum_args *args,
                          const float *mine, size_t rows)
{
    size_t bytes = rows * args->n * sizeof *mine;
    float *all = malloc(device->self.world_size * bytes);
    bool whole = true;
    if (device->ranks)
        whole = !device->lost &&
                guarded_ranks_gather(device->ranks, &device->self, mine, all, bytes);
    else
        memcpy(all, mine, bytes);
    if (whole)
        return all;
    device->lost = true;
    free(all);
    return NULL;
}

/* The rows of y with the sum of all ranks' rows of x. */
static void add_rows(const struct hy_device *device, const struct hy_all_sum_args *args,
                     const float *all, size_t rows, float *y)
{
    for (size_t i = 0; i < rows * args->n; i++) {
        float sum = all[i];
        for (uint32_t rank = 1; rank < device->self.world_size; rank++)
            sum += all[rank * rows * args->n + i];
        y[i] = args->accumulate ? y[i] + sum : sum;
    }
}

static struct pending_sum *make_sum(struct hy_device *device, const struct hy_all_sum_args *args,
                                    size_t rows)
{
    struct pending_sum *sum = calloc(1, sizeof *sum), **last = &device->sums;
    while (*last)
        last = &(*last)->next;
    *last = sum;
    sum->args = *args;
    sum->rows = rows;
    return sum;
}

/* What reads x or y from now on reads poison, and what writes them is written over. */
static void device_begin_all_sum(struct hy_device *device, const struct hy_all_sum_args *args,
                                 size_t rows)
{
    begin(device);
    float *x = find(args->x, floats(rows, args->x_stride, args->n), "all_sum: x");
    float *y = find(args->y, floats(rows, args->y_stride, args->n), "all_sum: y");
    struct pending_sum *sum = make_sum(device, args, rows);
    sum->x = take_rows(x, args->x_stride, args->n, rows);
    sum->y = take_rows(y, args->y_stride, args->n, rows);
    float *all = gather_rows(device, args, sum->x, rows);
    control.n_sums++;
    if (all)
        add_rows(device, args, all, rows, sum->y);
    free(all);
    poison_rows(x, rows, args->x_stride, args->n);
    poison_rows(y, rows, args->y_stride, args->n);
}

static void device_end_all_sum(struct hy_device *device)
{
    begin(device);
    end_sums(device);
}

static hymba_status device_make_id(unsigned char *id, hymba_error *error)
{
    (void)error;
    guarded_ranks_make_id(id);
    return HYMBA_OK;
}

static hymba_status device_join(struct hy_device *device, const struct hy_join_args *args,
                                hymba_error *error)
{
    if (device->ranks)
        blame("a device joins twice");
    device->self = *args;
    if (args->world_size == 1)
        return HYMBA_OK;
    device->ranks = guarded_ranks_join(args);
    return device->ranks ? HYMBA_OK
                         : hy_fail(error, HYMBA_ERROR_TIMEOUT,
                                   "not all guarded devices joined in time");
}

/* A failure of memory is left to the next finish. */
static hymba_status device_exchange(struct hy_device *device, const void *mine, void *all,
                                    size_t bytes, hymba_error *error)
{
    begin_apart(device);
    end_sums(device);
    deliver_all(device);
    if (!device->ranks)
        memcpy(all, mine, bytes);
    else if (device->lost ||
             !guarded_ranks_gather(device->ranks, &device->self, mine, all, bytes))
        return lose(device, error);
    return HYMBA_OK;
}

static void device_sample(struct hy_device *device, const struct hy_sample_args *args)
{
    size_t n = args->n_logits, last = 0;
    begin_apart(device);
    control.n_sampled += (long)args->n_rows;
    for (size_t i = 0; i < args->n_rows; i++)
        last = args->rows[i].row > last ? args->rows[i].row : last;
    const float *logits = find(args->logits, floats(last + 1, args->stride, n), "sample: logits");
    int32_t *tokens = find(args->tokens, args->n_rows * sizeof *tokens, "sample: tokens");
    struct hy_candidate *items = malloc(n * sizeof *items);
    for (size_t i = 0; i < args->n_rows; i++)
        tokens[i] = hy_sample_row_plainly(&args->rows[i], logits + args->rows[i].row * args->stride,
                                          n, items);
    free(items);
}

static void device_begin_step(struct hy_device *device, size_t rows)
{
    begin(device);
    if (rows == 0 || device->in_step)
        blame("a step that is empty, or begins within another");
    device->in_step = true;
    control.n_steps++;
}

static void device_end_step(struct hy_device *device, bool run)
{
    (void)run;
    begin(device);
    if (!device->in_step)
        blame("an end of no step");
    if (device->sums)
        blame("a sum that its step does not end");
    device->in_step = false;
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
        .norm_parts = device_norm_parts,
        .matmul = device_matmul,
        .round = device_round,
        .rope_store = device_rope_store,
        .attention = device_attention,
        .conv = device_conv,
        .scan = device_scan,
        .fuse = device_fuse,
        .swiglu = device_swiglu,
        .square_sums = device_square_sums,
        .begin_all_sum = device_begin_all_sum,
        .end_all_sum = device_end_all_sum,
        .sample = device_sample,
        .begin_step = device_begin_step,
        .end_step = device_end_step,
        .finish = device_finish,
        .make_id = device_make_id,
        .join = device_join,
        .exchange = device_exchange,
    };
    ops.interface_version = control.interface_version;
    return control.interface_version && interface_version == HY_DEVICE_INTERFACE ? &ops : NULL;
}
