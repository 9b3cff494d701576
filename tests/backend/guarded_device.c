#include "guarded_device.h"

#include "guarded_ranks.h"
#include "kernel/by_rows.h"
#include "kernel/fused.h"
#include "text/candidates.h"

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
    int index;
    struct guarded_ranks *ranks; /* NULL: it has joined nobody */
    struct hy_join_args self;    /* a world of one before */
    bool lost;    /* a rank was missing; told by finish */
    bool failed;  /* for good */
    bool refuses; /* until finish */
    bool in_step;
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

static void blame(const char *what)
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

static void device_close(struct hy_device *device)
{
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

/* Where an op's results go as f32: to y or, if only rounded rows are wanted, to *spare. */
static float *find_results(const float *y, size_t rows, size_t *stride, size_t n, float **spare,
                           const char *what)
{
    *spare = NULL;
    if (y)
        return find(y, floats(rows, *stride, n), what);
    *stride = n;
    *spare = malloc(rows * n * sizeof **spare);
    return *spare;
}

/* BF16, or of 8 bits with one scale a row. */
static struct hy_rounded find_rounded(const struct hy_rounded *rounded, size_t rows)
{
    struct hy_rounded here = *rounded;
    size_t element = rounded->dtype == HYMBA_DTYPE_BF16 ? 2 : 1;
    if (!rounded->data)
        return here;
    here.data = find(rounded->data, rows * rounded->stride * element, "rounded rows");
    if (element == 2)
        return here;
    if (rounded->sums || rounded->block > 1 || hy_padded_row(rounded->group) > rounded->stride)
        blame("rows of 8 bits that are not rounded one by one");
    here.scales = find(rounded->scales, rows * sizeof *here.scales, "scales of rounded rows");
    return here;
}

/* What a device need not write is nothing that anybody may read. */
static void poison_rows(float *x, size_t rows, size_t stride, size_t n)
{
    for (size_t t = 0; t < rows; t++)
        memset(x + t * stride, POISON, n * sizeof *x);
}

static void device_rms_norm(struct hy_device *device, const struct hy_rms_norm_args *args,
                            size_t rows)
{
    struct hy_rms_norm_args here = *args;
    begin(device);
    here.x = find(args->x, floats(rows, args->x_stride, args->n), "rms_norm: x");
    here.weight = find(args->weight, floats(1, 0, args->n), "rms_norm: weight");
    float *spare;
    here.y = find_results(args->y, rows, &here.y_stride, args->n, &spare, "rms_norm: y");
    here.rounded = find_rounded(&args->rounded, rows);
    hy_fused_rms_norm(&device->kernels, &here, 0, rows);
    free(spare);
}

static void device_norm_parts(struct hy_device *device, const struct hy_norm_parts_args *args,
                              size_t rows)
{
    struct hy_norm_parts_args here = *args;
    size_t n = 0;
    begin(device);
    for (size_t i = 0; i < HY_NORM_PARTS; i++) {
        size_t own = args->parts[i].n;
        here.parts[i].weight =
            find(args->parts[i].weight, own * sizeof(float), "norm_parts: weight");
        n += own;
    }
    here.x = find(args->x, floats(rows, args->x_stride, n), "norm_parts: x");
    here.rounded = find_rounded(&args->rounded, rows);
    hy_fused_norm_parts(&device->kernels, &here, 0, rows);
    if (args->rounded.data)
        poison_rows(here.x, rows, args->x_stride, args->parts[0].n);
}

static void device_matmul(struct hy_device *device, const struct hy_matmul_args *args)
{
    struct hy_matmul_args here = *args;
    struct hy_rounded rounded;
    begin(device);
    if (args->rounded) {
        rounded = find_rounded(args->rounded, args->m);
        here.rounded = &rounded;
        here.x = NULL;
    } else {
        here.x = find(args->x, floats(args->m, args->x_stride, args->k), "matmul: x");
    }
    size_t rows = args->by_rows ? hy_weight_rows(args->n) : args->n;
    here.w = find(args->w, rows * hy_row_bytes(args->dtype, args->w_stride), "matmul: w");
    here.w_scales =
        args->by_rows ? find(args->w_scales, args->n * sizeof(float), "matmul: scales of rows")
                      : find_scales(args->w_scales, args->n, args->k, args->group,
                                    "matmul: scales");
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
    here.y = find_rounded(&args->y, rows);
    device->kernels.round(&here, 0, rows);
}

static void *find_cache_rows(void *y, hymba_dtype dtype, size_t head_size, size_t head_stride,
                             size_t n_heads, size_t rows)
{
    size_t bytes = rows * hy_cache_row_bytes(dtype, head_size);
    return find(y, extent(head_stride, bytes, n_heads), "rope_store: rows");
}

static void device_rope_store(struct hy_device *device, const struct hy_rope_store_args *args,
                              size_t rows)
{
    struct hy_rope_store_args here = *args;
    size_t half = args->qk_size / 2, heads = args->n_kv_heads;
    begin(device);
    here.q = find(args->q, floats(rows, args->stride, args->n_heads * args->qk_size),
                  "rope_store: q");
    if (args->cosine) {
        here.cosine = find(args->cosine, floats(rows, half, half), "rope_store: cosine");
        here.sine = find(args->sine, floats(rows, half, half), "rope_store: sine");
    }
    if (heads > 0) {
        here.k = find(args->k, floats(rows, args->stride, heads * args->qk_size), "rope_store: k");
        here.v = find(args->v, floats(rows, args->stride, heads * args->v_size), "rope_store: v");
        here.k_rows = find_cache_rows(args->k_rows, args->dtype, args->qk_size,
                                      args->k_head_stride, heads, rows);
        here.v_rows = find_cache_rows(args->v_rows, args->dtype, args->v_size,
                                      args->v_head_stride, heads, rows);
    }
    hy_fused_rope_store(&device->kernels, &here, 0, rows);
    if (heads > 0)
        poison_rows(here.k, rows, args->stride, heads * args->qk_size);
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
    const struct hy_segment *last = &sequences[args->n_sequences - 1].segment;
    here.sequences = sequences;
    device->kernels.attention(&here, 0, (last->row + last->n_rows) * args->n_heads, scratch);
    free(scratch);
    free(sequences);
}

/* A state of n elements where kernels can work on it: f32 in its places, other types in an f32
 * copy, from malloc, which put_state rounds. */
static void take_state(hymba_dtype type, const void **before, void **after, size_t n)
{
    size_t bytes = n * hy_dtype_size(type);
    *before = find(*before, bytes, "the state before a segment");
    *after = find(*after, bytes, "the state behind a segment");
    if (type == HYMBA_DTYPE_F32)
        return;
    float *copy = malloc((n + 1) * sizeof *copy);
    hy_row_to_f32(*before, type, copy, n);
    *before = *after = copy;
}

static void put_state(hymba_dtype type, void *state, void *after, size_t n)
{
    if (type == HYMBA_DTYPE_F32)
        return;
    hy_row_from_f32(after, type, find(state, n * hy_dtype_size(type), "a state"), n);
    free(after);
}

/* The list with the states of conv or of ssm elements; *rows: of all. From malloc. */
static struct hy_state_sequence *take_states(const struct hy_state_sequence *given, size_t n,
                                             size_t conv, size_t ssm, size_t *rows)
{
    struct hy_state_sequence *sequences = malloc(n * sizeof *sequences);
    *rows = 0;
    for (size_t i = 0; i < n; i++) {
        struct hy_state_sequence *sequence = &sequences[i];
        *sequence = given[i];
        if (given[i].segment.n_rows == 0)
            continue;
        if (given[i].state_type != HYMBA_DTYPE_F32 && given[i].segment.n_rows > 1)
            blame("several rows with a state of 16 bits");
        if (conv > 0)
            take_state(given[i].state_type, &sequence->conv_before, &sequence->conv_after, conv);
        if (ssm > 0)
            take_state(given[i].state_type, &sequence->ssm_before, &sequence->ssm_after, ssm);
        size_t end = given[i].segment.row + given[i].segment.n_rows;
        *rows = end > *rows ? end : *rows;
    }
    return sequences;
}

static void put_states(const struct hy_state_sequence *given, struct hy_state_sequence *sequences,
                       size_t n, size_t conv, size_t ssm)
{
    for (size_t i = 0; i < n; i++) {
        if (given[i].segment.n_rows > 0 && conv > 0)
            put_state(given[i].state_type, given[i].conv_after, sequences[i].conv_after, conv);
        if (given[i].segment.n_rows > 0 && ssm > 0)
            put_state(given[i].state_type, given[i].ssm_after, sequences[i].ssm_after, ssm);
    }
    free(sequences);
}

/* Of the sequences alone: what lies between their rows stays. */
static void round_segments(const struct hy_device *device, const struct hy_conv_args *args,
                           size_t rows)
{
    struct hy_rounded rounded = find_rounded(&args->rounded, rows);
    struct hy_round_args round = hy_round_of(args->y, args->y_stride, args->n, &rounded);
    for (size_t i = 0; i < args->n_sequences && rounded.data; i++) {
        const struct hy_segment *segment = &args->sequences[i].segment;
        device->kernels.round(&round, segment->row, segment->row + segment->n_rows);
    }
}

static void device_conv(struct hy_device *device, const struct hy_conv_args *args)
{
    struct hy_conv_args here = *args;
    size_t n = args->n, rows;
    begin(device);
    size_t state = (args->width - 1) * n;
    struct hy_state_sequence *sequences =
        take_states(args->sequences, args->n_sequences, state, 0, &rows);
    here.sequences = sequences;
    here.x = find(args->x, floats(rows, args->x_stride, n), "conv: x");
    here.weight = find(args->weight, floats(args->width, n, n), "conv: weight");
    here.bias = find(args->bias, floats(1, 0, n), "conv: bias");
    here.y = find(args->y, floats(rows, args->y_stride, n), "conv: y");
    device->kernels.conv(&here, 0, args->n_sequences * n);
    round_segments(device, &here, rows);
    put_states(args->sequences, sequences, args->n_sequences, state, 0);
}

static void device_scan(struct hy_device *device, const struct hy_scan_args *args)
{
    struct hy_scan_args here = *args;
    size_t n = args->n, rows;
    begin(device);
    size_t state = args->state_size * n;
    struct hy_state_sequence *sequences =
        take_states(args->sequences, args->n_sequences, 0, state, &rows);
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
    put_states(args->sequences, sequences, args->n_sequences, 0, state);
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
    if (args->sums)
        here.sums = find(args->sums, floats(rows, 2, 2), "fuse: sums");
    float *spare;
    here.y = find_results(args->y, rows, &here.y_stride, args->concat ? 2 * n : n, &spare,
                          "fuse: y");
    here.rounded = find_rounded(&args->rounded, rows);
    hy_fused_fuse(&device->kernels, &here, 0, rows);
    free(spare);
}

static void device_swiglu(struct hy_device *device, const struct hy_swiglu_args *args, size_t rows)
{
    struct hy_swiglu_args here = *args;
    begin(device);
    here.gate = find(args->gate, floats(rows, args->gate_stride, args->n), "swiglu: gate");
    here.up = find(args->up, floats(rows, args->up_stride, args->n), "swiglu: up");
    float *spare;
    here.y = find_results(args->y, rows, &here.y_stride, args->n, &spare, "swiglu: y");
    here.rounded = find_rounded(&args->rounded, rows);
    hy_fused_swiglu(&device->kernels, &here, 0, rows);
    free(spare);
}

static void device_square_sums(struct hy_device *device, const struct hy_square_sums_args *args,
                               size_t rows)
{
    struct hy_square_sums_args here = *args;
    begin(device);
    here.attention = find(args->attention, floats(rows, args->attention_stride, args->n),
                          "square_sums: attention");
    here.ssm = find(args->ssm, floats(rows, args->ssm_stride, args->n), "square_sums: ssm");
    here.sums = find(args->sums, floats(rows, 2, 2), "square_sums: sums");
    device->kernels.square_sums(&here, 0, rows);
}

/* ---------------------------------------------------------------------- ranks */

/* The rows of x of all ranks, in the order of ranks, one row after another; from malloc. NULL: one
 * is missing. A device alone has its own. */
static float *gather_rows(struct hy_device *device, const struct hy_all_sum_args *args,
                          const float *x, size_t rows)
{
    size_t n = args->n, bytes = rows * n * sizeof *x;
    float *mine = malloc(bytes), *all = malloc(device->self.world_size * bytes);
    for (size_t t = 0; t < rows; t++)
        memcpy(mine + t * n, x + t * args->x_stride, n * sizeof *x);
    bool whole = true;
    if (device->ranks)
        whole = !device->lost &&
                guarded_ranks_gather(device->ranks, &device->self, mine, all, bytes);
    else
        memcpy(all, mine, bytes);
    free(mine);
    if (whole)
        return all;
    device->lost = true;
    free(all);
    return NULL;
}

static void device_all_sum(struct hy_device *device, const struct hy_all_sum_args *args,
                           size_t rows)
{
    begin(device);
    const float *x = find(args->x, floats(rows, args->x_stride, args->n), "all_sum: x");
    float *y = find(args->y, floats(rows, args->y_stride, args->n), "all_sum: y");
    float *all = gather_rows(device, args, x, rows);
    control.n_sums++;
    for (size_t t = 0; all && t < rows; t++)
        for (size_t i = 0; i < args->n; i++) {
            float sum = all[t * args->n + i];
            for (uint32_t rank = 1; rank < device->self.world_size; rank++)
                sum += all[(rank * rows + t) * args->n + i];
            float *to = &y[t * args->y_stride + i];
            *to = args->accumulate ? *to + sum : sum;
        }
    free(all);
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
        .all_sum = device_all_sum,
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
