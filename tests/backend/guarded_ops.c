/* The ops of a guarded device that compute: those of the host with the generic kernels. */
#include "guarded_inside.h"
#include "kernel/by_rows.h"
#include "kernel/fused.h"

#include <stdlib.h>
#include <string.h>

static void *find_floats(const void *data, size_t rows, size_t stride, size_t n, const char *what)
{
    return find(data, extent(stride * sizeof(float), n * sizeof(float), rows), what);
}

/* Where an op's results go as f32: to y or, if only rounded rows are wanted, to *spare. */
static float *find_results(const float *y, size_t rows, size_t *stride, size_t n, float **spare,
                           const char *what)
{
    *spare = NULL;
    if (y)
        return find_floats(y, rows, *stride, n, what);
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

void poison_rows(float *x, size_t rows, size_t stride, size_t n)
{
    for (size_t t = 0; t < rows; t++)
        memset(x + t * stride, POISON, n * sizeof *x);
}

void device_rms_norm(struct hy_device *device, const struct hy_rms_norm_args *args, size_t rows)
{
    struct hy_rms_norm_args here = *args;
    const struct hy_kernels *kernels = begin_op(device);
    here.x = find_floats(args->x, rows, args->x_stride, args->n, "rms_norm: x");
    here.weight = find_floats(args->weight, 1, 0, args->n, "rms_norm: weight");
    float *spare;
    here.y = find_results(args->y, rows, &here.y_stride, args->n, &spare, "rms_norm: y");
    here.rounded = find_rounded(&args->rounded, rows);
    hy_fused_rms_norm(kernels, &here, 0, rows);
    free(spare);
}

void device_norm_parts(struct hy_device *device, const struct hy_norm_parts_args *args,
                       size_t rows)
{
    struct hy_norm_parts_args here = *args;
    size_t n = 0;
    const struct hy_kernels *kernels = begin_op(device);
    for (size_t i = 0; i < HY_NORM_PARTS; i++) {
        size_t own = args->parts[i].n;
        here.parts[i].weight =
            find(args->parts[i].weight, own * sizeof(float), "norm_parts: weight");
        n += own;
    }
    here.x = find_floats(args->x, rows, args->x_stride, n, "norm_parts: x");
    here.rounded = find_rounded(&args->rounded, rows);
    hy_fused_norm_parts(kernels, &here, 0, rows);
    if (args->rounded.data)
        poison_rows(here.x, rows, args->x_stride, args->parts[0].n);
}

void device_matmul(struct hy_device *device, const struct hy_matmul_args *args)
{
    struct hy_matmul_args here = *args;
    struct hy_rounded rounded;
    const struct hy_kernels *kernels = begin_op(device);
    if (args->rounded) {
        rounded = find_rounded(args->rounded, args->m);
        here.rounded = &rounded;
        here.x = NULL;
    } else {
        here.x = find_floats(args->x, args->m, args->x_stride, args->k, "matmul: x");
    }
    size_t rows = args->by_rows ? hy_weight_rows(args->n) : args->n;
    here.w = find(args->w, rows * hy_row_bytes(args->dtype, args->w_stride), "matmul: w");
    here.w_scales =
        args->by_rows ? find(args->w_scales, args->n * sizeof(float), "matmul: scales of rows")
                      : find_scales(args->w_scales, args->n, args->k, args->group,
                                    "matmul: scales");
    if (args->bias)
        here.bias = find_floats(args->bias, 1, 0, args->n, "matmul: bias");
    here.y = find_floats(args->y, args->m, args->y_stride, args->n, "matmul: y");
    kernels->matmul(&here, 0, args->n, NULL);
}

void device_round(struct hy_device *device, const struct hy_round_args *args, size_t rows)
{
    struct hy_round_args here = *args;
    const struct hy_kernels *kernels = begin_op(device);
    here.x = find_floats(args->x, rows, args->x_stride, args->n, "round: x");
    here.y = find_rounded(&args->y, rows);
    kernels->round(&here, 0, rows);
}

static void *find_cache_rows(void *y, hymba_dtype dtype, size_t head_size, size_t head_stride,
                             size_t n_heads, size_t rows)
{
    size_t bytes = rows * hy_cache_row_bytes(dtype, head_size);
    return find(y, extent(head_stride, bytes, n_heads), "rope_store: rows");
}

void device_rope_store(struct hy_device *device, const struct hy_rope_store_args *args,
                       size_t rows)
{
    struct hy_rope_store_args here = *args;
    size_t half = args->qk_size / 2, heads = args->n_kv_heads;
    const struct hy_kernels *kernels = begin_op(device);
    here.q = find_floats(args->q, rows, args->stride, args->n_heads * args->qk_size,
                         "rope_store: q");
    if (args->cosine) {
        here.cosine = find_floats(args->cosine, rows, half, half, "rope_store: cosine");
        here.sine = find_floats(args->sine, rows, half, half, "rope_store: sine");
    }
    if (heads > 0) {
        here.k = find_floats(args->k, rows, args->stride, heads * args->qk_size, "rope_store: k");
        here.v = find_floats(args->v, rows, args->stride, heads * args->v_size, "rope_store: v");
        here.k_rows = find_cache_rows(args->k_rows, args->dtype, args->qk_size,
                                      args->k_head_stride, heads, rows);
        here.v_rows = find_cache_rows(args->v_rows, args->dtype, args->v_size,
                                      args->v_head_stride, heads, rows);
    }
    hy_fused_rope_store(kernels, &here, 0, rows);
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

void device_attention(struct hy_device *device, const struct hy_attention_args *args, size_t rows)
{
    struct hy_attention_args here = *args;
    const struct hy_kernels *kernels = begin_op(device);
    here.q = find_floats(args->q, rows, args->q_stride, args->n_heads * args->qk_size,
                         "attention: q");
    here.out = find_floats(args->out, rows, args->out_stride, args->n_heads * args->v_size,
                           "attention: out");
    struct hy_attention_sequence *sequences = copy_lists(args);
    float *scratch = malloc(hy_attention_scratch(args) * sizeof *scratch);
    const struct hy_segment *last = &sequences[args->n_sequences - 1].segment;
    here.sequences = sequences;
    kernels->attention(&here, 0, (last->row + last->n_rows) * args->n_heads, scratch);
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
static void round_segments(const struct hy_kernels *kernels, const struct hy_conv_args *args,
                           size_t rows)
{
    struct hy_rounded rounded = find_rounded(&args->rounded, rows);
    struct hy_round_args round = hy_round_of(args->y, args->y_stride, args->n, &rounded);
    for (size_t i = 0; i < args->n_sequences && rounded.data; i++) {
        const struct hy_segment *segment = &args->sequences[i].segment;
        kernels->round(&round, segment->row, segment->row + segment->n_rows);
    }
}

void device_conv(struct hy_device *device, const struct hy_conv_args *args)
{
    struct hy_conv_args here = *args;
    size_t n = args->n, rows;
    const struct hy_kernels *kernels = begin_op(device);
    size_t state = (args->width - 1) * n;
    struct hy_state_sequence *sequences =
        take_states(args->sequences, args->n_sequences, state, 0, &rows);
    here.sequences = sequences;
    here.x = find_floats(args->x, rows, args->x_stride, n, "conv: x");
    here.weight = find_floats(args->weight, args->width, n, n, "conv: weight");
    here.bias = find_floats(args->bias, 1, 0, n, "conv: bias");
    here.y = find_floats(args->y, rows, args->y_stride, n, "conv: y");
    kernels->conv(&here, 0, args->n_sequences * n);
    round_segments(kernels, &here, rows);
    put_states(args->sequences, sequences, args->n_sequences, state, 0);
}

void device_scan(struct hy_device *device, const struct hy_scan_args *args)
{
    struct hy_scan_args here = *args;
    size_t n = args->n, rows;
    const struct hy_kernels *kernels = begin_op(device);
    size_t state = args->state_size * n;
    struct hy_state_sequence *sequences =
        take_states(args->sequences, args->n_sequences, 0, state, &rows);
    here.sequences = sequences;
    here.dt = find_floats(args->dt, rows, args->dt_stride, n, "scan: dt");
    here.x = find_floats(args->x, rows, args->x_stride, n, "scan: x");
    here.z = find_floats(args->z, rows, args->z_stride, n, "scan: z");
    here.b = find_floats(args->b, rows, args->bc_stride, args->state_size, "scan: b");
    here.c = find_floats(args->c, rows, args->bc_stride, args->state_size, "scan: c");
    here.a = find_floats(args->a, args->state_size, n, n, "scan: a");
    here.d = find_floats(args->d, 1, 0, n, "scan: d");
    here.y = find_floats(args->y, rows, args->y_stride, n, "scan: y");
    kernels->scan(&here, 0, args->n_sequences * n);
    put_states(args->sequences, sequences, args->n_sequences, 0, state);
}

void device_fuse(struct hy_device *device, const struct hy_fuse_args *args, size_t rows)
{
    struct hy_fuse_args here = *args;
    size_t n = args->n;
    const struct hy_kernels *kernels = begin_op(device);
    here.attention =
        find_floats(args->attention, rows, args->attention_stride, n, "fuse: attention");
    here.ssm = find_floats(args->ssm, rows, args->ssm_stride, n, "fuse: ssm");
    here.weight_attention = find_floats(args->weight_attention, 1, 0, n, "fuse: weight_attention");
    here.weight_ssm = find_floats(args->weight_ssm, 1, 0, n, "fuse: weight_ssm");
    if (args->sums)
        here.sums = find_floats(args->sums, rows, 2, 2, "fuse: sums");
    float *spare;
    here.y = find_results(args->y, rows, &here.y_stride, args->concat ? 2 * n : n, &spare,
                          "fuse: y");
    here.rounded = find_rounded(&args->rounded, rows);
    hy_fused_fuse(kernels, &here, 0, rows);
    free(spare);
}

void device_swiglu(struct hy_device *device, const struct hy_swiglu_args *args, size_t rows)
{
    struct hy_swiglu_args here = *args;
    const struct hy_kernels *kernels = begin_op(device);
    here.gate = find_floats(args->gate, rows, args->gate_stride, args->n, "swiglu: gate");
    here.up = find_floats(args->up, rows, args->up_stride, args->n, "swiglu: up");
    float *spare;
    here.y = find_results(args->y, rows, &here.y_stride, args->n, &spare, "swiglu: y");
    here.rounded = find_rounded(&args->rounded, rows);
    hy_fused_swiglu(kernels, &here, 0, rows);
    free(spare);
}

void device_square_sums(struct hy_device *device, const struct hy_square_sums_args *args,
                        size_t rows)
{
    struct hy_square_sums_args here = *args;
    const struct hy_kernels *kernels = begin_op(device);
    here.attention = find_floats(args->attention, rows, args->attention_stride, args->n,
                                 "square_sums: attention");
    here.ssm = find_floats(args->ssm, rows, args->ssm_stride, args->n, "square_sums: ssm");
    here.sums = find_floats(args->sums, rows, 2, 2, "square_sums: sums");
    kernels->square_sums(&here, 0, rows);
}
