#include "backend/op_cost.h"

#include "kernel/visible.h"
#include "text/sample_row.h"

/* exp, addition, division */
enum { SILU = 3 };

/* Squares, their sum, and two multiplications. */
enum { NORM = 4 };

static const double f32 = sizeof(float);

static double matrix_row_bytes(hymba_dtype dtype, size_t columns, size_t group)
{
    double scales = hy_is_quantised(dtype) ? 2.0 * (double)(columns / group) : 0.0;
    return (double)hy_row_bytes(dtype, columns) + scales;
}

static double rounded_row_bytes(const struct hy_rounded *rounded, size_t n)
{
    if (rounded->dtype == HYMBA_DTYPE_BF16)
        return (double)(n * hy_dtype_size(rounded->dtype));
    double per_group = (rounded->sums ? 2 : 1) * f32; /* its scale, and its sum */
    return (double)n + per_group * (double)(n / rounded->group);
}

static struct hy_op_cost cost_of_embed(const struct hy_embed_args *args, double rows)
{
    const struct hy_matrix *table = &args->table;
    double n = (double)table->columns;
    return (struct hy_op_cost){
        .bytes = rows * (sizeof *args->ids + f32 * n +
                         matrix_row_bytes(table->dtype, table->columns, table->group)),
        .operations = hy_is_quantised(table->dtype) ? rows * n : 0.0,
    };
}

/* Bytes of a row that is written, as f32, rounded, or both. */
static double row_written(const float *y, const struct hy_rounded *rounded, size_t n)
{
    return (y ? f32 * (double)n : 0.0) + (rounded->data ? rounded_row_bytes(rounded, n) : 0.0);
}

/* A conversion for each element that is rounded. */
static double rounding(const struct hy_rounded *rounded, double elements)
{
    return rounded->data ? elements : 0.0;
}

static struct hy_op_cost cost_of_norm(const struct hy_rms_norm_args *args, double rows)
{
    double n = (double)args->n, written = row_written(args->y, &args->rounded, args->n);
    return (struct hy_op_cost){rows * (f32 * n + written) + f32 * n,
                               NORM * rows * n + rounding(&args->rounded, rows * n)};
}

/* A first part that is rounded need not be written as f32. */
static struct hy_op_cost cost_of_norm_parts(const struct hy_norm_parts_args *args, double rows)
{
    size_t first = args->parts[0].n;
    double n = 0.0;
    double written = row_written(args->rounded.data ? NULL : args->x, &args->rounded, first);
    for (int i = 0; i < HY_NORM_PARTS; i++)
        n += (double)args->parts[i].n;
    written += f32 * (n - (double)first);
    return (struct hy_op_cost){rows * (f32 * n + written) + f32 * n,
                               NORM * rows * n + rounding(&args->rounded, rows * (double)first)};
}

static struct hy_op_cost cost_of_matmul(const struct hy_matmul_args *args)
{
    double m = (double)args->m, n = (double)args->n, k = (double)args->k;
    double x = args->rounded ? rounded_row_bytes(args->rounded, args->k) : f32 * k;
    double w = args->by_rows ? (double)hy_padded_row(args->k) + f32
                             : matrix_row_bytes(args->dtype, args->k, args->group);
    return (struct hy_op_cost){
        .bytes = n * w + m * x +
                 f32 * m * n * (args->accumulate ? 2 : 1) + (args->bias ? f32 * n : 0.0),
        .operations = 2 * m * n * k,
    };
}

static struct hy_op_cost cost_of_round(const struct hy_round_args *args, double rows)
{
    double n = (double)args->n;
    return (struct hy_op_cost){rows * (f32 * n + rounded_row_bytes(&args->y, args->n)), rows * n};
}

/* Keys need not be written where they were. */
static struct hy_op_cost cost_of_rope_store(const struct hy_rope_store_args *args, double rows)
{
    double heads = (double)args->n_kv_heads, angles = (double)args->qk_size;
    double q = (double)(args->n_heads * args->qk_size), k = heads * (double)args->qk_size;
    double v = heads * (double)args->v_size;
    double stored = heads * (double)(hy_cache_row_bytes(args->dtype, args->qk_size) +
                                     hy_cache_row_bytes(args->dtype, args->v_size));
    double rotated = args->cosine ? f32 * (2 * q + angles) : 0.0;
    return (struct hy_op_cost){rows * (rotated + f32 * (k + v) + stored),
                               rows * ((args->cosine ? 3 * (q + k) : 0.0) + k + v)};
}

/* Whether the sequence before it in the batch has the same span, as forks do. */
static bool is_shared(const struct hy_attention_args *args, size_t sequence, size_t span)
{
    const struct hy_attention_sequence *own = &args->sequences[sequence], *before = own - 1;
    return sequence > 0 && span < before->n_spans &&
           before->spans[span].k == own->spans[span].k;
}

/* Keys of a span that some row of the sequence sees; *seen: how often they are, in all. */
static size_t count_keys(const struct hy_attention_sequence *sequence, const struct hy_span *span,
                         double *seen)
{
    size_t begin = span->count, end = 0;
    for (size_t t = 0; t < sequence->segment.n_rows; t++) {
        struct hy_visible keys =
            hy_visible_keys(span, sequence->position + t, sequence->window);
        if (keys.begin >= keys.end)
            continue;
        begin = keys.begin < begin ? keys.begin : begin;
        end = keys.end > end ? keys.end : end;
        *seen += (double)(keys.end - keys.begin);
    }
    return begin < end ? end - begin : 0;
}

static struct hy_op_cost cost_of_attention(const struct hy_attention_args *args, double rows)
{
    double heads = (double)args->n_heads, size = (double)(args->qk_size + args->v_size);
    double keys = 0.0, seen = 0.0;
    for (size_t i = 0; i < args->n_sequences; i++)
        for (size_t j = 0; j < args->sequences[i].n_spans; j++) {
            size_t count = count_keys(&args->sequences[i], &args->sequences[i].spans[j], &seen);
            keys += is_shared(args, i, j) ? 0.0 : (double)count;
        }
    double key_bytes = (double)args->n_kv_heads *
                       (double)(hy_cache_row_bytes(args->cache_type, args->qk_size) +
                                hy_cache_row_bytes(args->cache_type, args->v_size));
    return (struct hy_op_cost){f32 * rows * heads * size + keys * key_bytes,
                               2 * seen * heads * size};
}

/* Bytes of states of so many elements a sequence, read and written. */
static double bytes_of_states(const struct hy_state_sequence *sequences, size_t n_sequences,
                              double elements)
{
    double bytes = 0.0;
    for (size_t i = 0; i < n_sequences; i++)
        if (sequences[i].segment.n_rows > 0)
            bytes += 2 * elements * (double)hy_dtype_size(sequences[i].state_type);
    return bytes;
}

static struct hy_op_cost cost_of_conv(const struct hy_conv_args *args)
{
    double n = (double)args->n, width = (double)args->width;
    double rows = (double)hy_sequences_rows(args->sequences, args->n_sequences);
    double states = bytes_of_states(args->sequences, args->n_sequences, (width - 1) * n);
    double written = row_written(args->y, &args->rounded, args->n);
    return (struct hy_op_cost){rows * (f32 * n + written) + states + f32 * n * (width + 1),
                               rows * n * (2 * width + SILU) +
                                   rounding(&args->rounded, rows * n)};
}

/* A state's step: exp(dt a) h + dt x b, and its part of the sum. A channel's: softplus, dt x,
 * d x, the gate. */
static struct hy_op_cost cost_of_scan(const struct hy_scan_args *args)
{
    double n = (double)args->n, states = (double)args->state_size;
    double rows = (double)hy_sequences_rows(args->sequences, args->n_sequences);
    return (struct hy_op_cost){
        .bytes = f32 * (rows * (4 * n + 2 * states) + n * (states + 1)) +
                 bytes_of_states(args->sequences, args->n_sequences, states * n),
        .operations = rows * n * (7 * states + 3 + 1 + 2 + SILU + 1),
    };
}

static struct hy_op_cost cost_of_fuse(const struct hy_fuse_args *args, double rows)
{
    size_t out = args->concat ? 2 * args->n : args->n;
    double n = (double)args->n, written = row_written(args->y, &args->rounded, out);
    return (struct hy_op_cost){rows * (2 * f32 * n + written) + 2 * f32 * n,
                               rows * n * (2 * NORM + (args->concat ? 0 : 2)) +
                                   rounding(&args->rounded, rows * (double)out)};
}

static struct hy_op_cost cost_of_swiglu(const struct hy_swiglu_args *args, double rows)
{
    double n = (double)args->n, written = row_written(args->y, &args->rounded, args->n);
    return (struct hy_op_cost){rows * (2 * f32 * n + written),
                               rows * n * (SILU + 1) + rounding(&args->rounded, rows * n)};
}

/* At least: every logit is read and compared once. */
static struct hy_op_cost cost_of_sample(const struct hy_sample_args *args, double rows)
{
    double n = (double)args->n_logits;
    return (struct hy_op_cost){f32 * rows * (n + 1), rows * n};
}

static struct hy_op_cost cost_of_square_sums(const struct hy_square_sums_args *args, double rows)
{
    double n = (double)args->n;
    return (struct hy_op_cost){f32 * rows * (2 * n + 2), 4 * rows * n};
}

/* As if it were for one rank: the arguments do not tell how many there are. */
static struct hy_op_cost cost_of_all_sum(const struct hy_all_sum_args *args, double rows)
{
    double n = (double)args->n;
    return (struct hy_op_cost){f32 * rows * n * (args->accumulate ? 3 : 2),
                               args->accumulate ? rows * n : 0.0};
}

struct hy_op_cost hy_op_cost(enum hy_op op, const void *args, size_t n_rows)
{
    double rows = (double)n_rows;
    switch (op) {
    case HY_OP_EMBED:
        return cost_of_embed(args, rows);
    case HY_OP_RMS_NORM:
        return cost_of_norm(args, rows);
    case HY_OP_MATMUL:
        return cost_of_matmul(args);
    case HY_OP_ROUND:
        return cost_of_round(args, rows);
    case HY_OP_NORM_PARTS:
        return cost_of_norm_parts(args, rows);
    case HY_OP_ROPE_STORE:
        return cost_of_rope_store(args, rows);
    case HY_OP_ATTENTION:
        return cost_of_attention(args, rows);
    case HY_OP_CONV:
        return cost_of_conv(args);
    case HY_OP_SCAN:
        return cost_of_scan(args);
    case HY_OP_FUSE:
        return cost_of_fuse(args, rows);
    case HY_OP_SWIGLU:
        return cost_of_swiglu(args, rows);
    case HY_OP_SAMPLE:
        return cost_of_sample(args, rows);
    case HY_OP_SQUARE_SUMS:
        return cost_of_square_sums(args, rows);
    case HY_OP_ALL_SUM:
        return cost_of_all_sum(args, rows);
    default:
        return (struct hy_op_cost){0.0, 0.0};
    }
}
