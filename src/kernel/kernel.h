/*
 * The op table: what a device must be able to compute. Kernels take plain pointers, sizes and
 * strides; no model, session or plan crosses into them. Each op computes units [begin, end) of
 * its work and units are independent: any division among threads gives the same bits.
 *
 * Three properties that the rest of the library is built on, and that every implementation keeps:
 *   - A row's result does not depend on how many rows are computed with it. So a session's
 *     results do not depend on its neighbours in a batch.
 *   - A token's result depends on what stands before it in the sequence, not on how the sequence
 *     was cut into calls: sums over keys run in the order of positions.
 *   - Pointers to weights may be misaligned (they lie in mapped files); f32 activations are
 *     aligned to their element.
 *
 * Strides count elements, those of caches bytes. "T rows" are the tokens of one step, of all its
 * sequences together. Section numbers are those of the model description, docs/semantics.md.
 */
#ifndef HY_KERNEL_KERNEL_H
#define HY_KERNEL_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tensor/dtype.h"

/* One sequence's rows in a step. */
struct hy_segment {
    size_t row;       /* first row */
    size_t n_rows;
};

/*
 * A matrix of weights as it lies in a file: row-major, perhaps misaligned. Quantised ones have a
 * scale for every group of neighbours in a row: w[j][i] = scales[j][i / group] * value.
 *   INT8: a byte holds value + 128.
 *   INT4: a byte holds two elements, value + 8 each, the first in its low half.
 * group is a multiple of 32 that divides the columns.
 * Those by rows are of a device, which has them in place of others: by_rows.h.
 */
struct hy_matrix {
    const void *data;
    hymba_dtype dtype;
    size_t rows, columns;
    const void *scales;  /* bf16 [rows][columns / group]; NULL unless quantised. By rows: f32
                            [rows] */
    size_t group;        /* 0 unless quantised; by rows the columns */
    bool by_rows;        /* INT8 or FP8, with one scale for each row */
};

static inline bool hy_is_quantised(hymba_dtype dtype)
{
    return dtype == HYMBA_DTYPE_INT8 || dtype == HYMBA_DTYPE_INT4;
}

/* Bytes of one row of weights. */
static inline size_t hy_row_bytes(hymba_dtype dtype, size_t columns)
{
    return dtype == HYMBA_DTYPE_INT4 ? columns / 2 : columns * hy_dtype_size(dtype);
}

/* What the greatest magnitude of a cached row becomes where rows have scales; else 0. */
static inline float hy_cache_greatest(hymba_dtype dtype)
{
    return dtype == HYMBA_DTYPE_INT8 ? 127.0f : dtype == HYMBA_DTYPE_FP8 ? 448.0f : 0.0f;
}

/*
 * Bytes of a cached row: one token's key or value of one head, n elements. An INT8 or FP8 row is n
 * bytes and behind them an f32, at any address: x = scale * b, where b is the signed byte or the
 * FP8 number and scale = greatest |x| / 127 or 448. A scale that is infinite or not a number has
 * bytes of 0, so that their product is not a number.
 */
static inline size_t hy_cache_row_bytes(hymba_dtype dtype, size_t n)
{
    return n * hy_dtype_size(dtype) + (hy_cache_greatest(dtype) != 0.0f ? sizeof(float) : 0);
}

/* y[t] = table[ids[t]] (section 3). Units: rows. */
struct hy_embed_args {
    const int32_t *ids;  /* [T] */
    struct hy_matrix table; /* [vocabulary][n] */
    float *y;            /* [T][n] */
};

/*
 * Activations rounded for a matrix product, row by row.
 *   BF16: stride counts elements; elements from n to the next multiple of 32 are 0.
 *   INT8: x = scales[t][i / group] * value, value in -127 .. 127, scale = greatest |x| / 127.
 *         A scale that is infinite or not a number makes the products so.
 * For weights by rows group is n, sums is NULL, and values from n to the next multiple of 32 are 0:
 *   INT8: the same.
 *   FP8: x = scales[t] * value, scale = greatest |x| / 448.
 */
struct hy_rounded {
    hymba_dtype dtype;   /* BF16, INT8 or FP8 */
    void *data;          /* [T][stride] */
    size_t stride;
    float *scales;       /* INT8, FP8: [T][n / group] */
    int32_t *sums;       /* INT8: of the values of each group */
    size_t group;
    bool split;          /* INT8 for INT4 weights: of every 32 values, the 16 with even indices
                            stand before the 16 with odd ones, as the weights are unpacked */
    size_t block;        /* 0 or 1: row after row. Otherwise so many rows are interleaved, for
                            kernels with a row_block: data is [T / block][row bytes / 4][block][4
                            bytes], scales and sums are [T / block][n / group][block]; zeros stand
                            for the rows that the last block lacks */
};

/* Whether a group with this greatest magnitude is rounded to integers: with smaller ones the factor
 * 127 / greatest could be infinite, and they count as 0; infinity and NaN live on in the scale. */
static inline bool hy_can_round(float greatest)
{
    return greatest >= 0x1p-118f && greatest <= 0x1.fffffep127f;
}

/* Rounds rows of n elements into y. Units: rows; with blocks a part begins at that of a block. */
struct hy_round_args {
    const float *x;
    size_t x_stride;
    size_t n;
    struct hy_rounded y;
};

/*
 * Some ops can round their rows, too, where the argument `rounded` has data, as hy_round_args would
 * from the y that they write. The table below never does; its functions ignore the argument, and
 * kernel/fused.h adds it. On a device y may be NULL then: only the rounded rows are wanted.
 */

/* y = w * x / sqrt(mean(x^2) + epsilon), row by row (section 3). Units: rows. y may be x. */
struct hy_rms_norm_args {
    const float *x;
    size_t x_stride;
    const float *weight; /* [n] */
    size_t n;
    float epsilon;
    float *y;
    size_t y_stride;
    struct hy_rounded rounded;
};

/* Norms of parts that stand side by side in a row, in place, each with its own weight and mean
 * (section 4b: dt, B and C). The first one may be rounded: a device need not write it as f32 then.
 * Units: rows. */
enum { HY_NORM_PARTS = 3 };

struct hy_norm_part {
    const float *weight; /* [n] */
    size_t n;
};

struct hy_norm_parts_args {
    float *x;            /* [T][sum of n] */
    size_t x_stride;
    struct hy_norm_part parts[HY_NORM_PARTS];
    float epsilon;
    struct hy_rounded rounded; /* of parts[0].n elements a row */
};

/*
 * y[t][j] = sum_i x[t][i] * w[j][i] (+ bias[j]) (+ y[t][j] if accumulate). Units: columns j.
 * With rounded activations: BF16 with BF16 weights, sums in f32; INT8 with quantised weights of
 * the same group, exact integer sums of every group, which are scaled and added up in f32 in the
 * order of the groups; either type of 8 bits with weights of it by rows (by_rows.h). Otherwise x is
 * f32, whatever the weights are, and so is the arithmetic.
 */
struct hy_matmul_args {
    const float *x;      /* [m][k]; not read if rounded */
    size_t x_stride;
    const struct hy_rounded *rounded; /* of k elements a row; NULL: none */
    size_t m, n, k;
    const void *w;       /* [n][k] of dtype, rows w_stride elements apart */
    hymba_dtype dtype;
    size_t w_stride;     /* k for quantised weights, by rows hy_padded_row(k) */
    const void *w_scales; /* as in hy_matrix */
    size_t group;
    const float *bias;   /* [n] or NULL */
    bool accumulate;
    float *y;            /* [m][n] */
    size_t y_stride;
    size_t room;         /* rows behind the m of x, or rounded, and of y: readable, of any contents,
                            and y's may be written, so that a device can compute more than m */
    bool by_rows;        /* as in hy_matrix */
};

/* Rows that a block of rounded activations has, at most. */
enum { HY_ROW_BLOCK = 16 };

/* Columns of rounded products with quantised weights that are computed together, at most. */
enum { HY_PANEL_COLUMNS = 16 };

/* Bytes of scratch memory that one thread needs for products with weights of k columns: a panel of
 * weights unpacked, another one copied, and the scales. */
static inline size_t hy_matmul_scratch(size_t k)
{
    return HY_PANEL_COLUMNS * (2 * k + (k / 32 + 8) * (sizeof(float) + 2)) + 256;
}

/*
 * Rotates heads in place (section 5): pairs (j, j + head_size/2). cosine and sine hold
 * head_size/2 values a row. Units: rows.
 */
struct hy_rope_args {
    float *x;            /* [T][n_heads][head_size] */
    size_t x_stride;
    size_t n_heads, head_size;
    const float *cosine, *sine; /* [T][head_size / 2] */
};

/*
 * Stores f32 rows as keys or values of a cache: row t, head h goes to
 * y + h * head_stride + t * hy_cache_row_bytes(dtype, head_size). Units: rows.
 */
struct hy_cache_rows_args {
    const float *x;      /* [T][n_heads][head_size] */
    size_t x_stride;
    size_t n_heads, head_size;
    hymba_dtype dtype;
    void *y;
    size_t head_stride;  /* bytes */
};

/*
 * Heads on their way to attention: queries and keys are rotated in place as hy_rope_args says, then
 * keys and values are stored as hy_cache_rows_args says. A device need not write the keys in place.
 * Units: rows.
 */
struct hy_rope_store_args {
    float *q;            /* [T][n_heads][qk_size] */
    float *k;            /* [T][n_kv_heads][qk_size] */
    const float *v;      /* [T][n_kv_heads][v_size] */
    size_t stride;       /* of all three */
    size_t n_heads, n_kv_heads; /* n_kv_heads 0: queries alone */
    size_t qk_size, v_size;
    const float *cosine, *sine; /* NULL: nothing is rotated */
    hymba_dtype dtype;   /* of what is stored */
    void *k_rows, *v_rows;
    size_t k_head_stride, v_head_stride; /* bytes */
};

/*
 * Keys and values of consecutive positions. Head g of key i lies at
 * k + g * k_head_stride + i * hy_cache_row_bytes(cache type, qk_size), likewise v with v_size.
 */
struct hy_span {
    const void *k, *v;
    size_t k_head_stride, v_head_stride; /* bytes */
    uint64_t position;   /* of the first key */
    size_t count;
    bool pinned;         /* meta tokens: visible from any distance (section 6) */
};

/* One sequence in an attention call. Spans stand in the order of positions. */
struct hy_attention_sequence {
    struct hy_segment segment;
    uint64_t position;   /* of the segment's first row */
    uint64_t window;     /* UINT64_MAX: none */
    const struct hy_span *spans;
    size_t n_spans;
};

/*
 * out[t] = softmax over visible keys of (q.k * scale) times v (sections 4a and 6). A query at
 * position p sees key position s if s <= p and (pinned or p - s <= its sequence's window). Query
 * head h reads key head h / (n_heads / n_kv_heads). Units: T * n_heads, unit u = row u / n_heads,
 * query head u % n_heads; neighbours that share a key head share its loads.
 */
struct hy_attention_args {
    const float *q;      /* [T][n_heads][qk_size] */
    size_t q_stride;
    float *out;          /* [T][n_heads][v_size] */
    size_t out_stride;
    size_t n_heads, n_kv_heads, qk_size, v_size;
    float scale;
    hymba_dtype cache_type;
    bool bf16;           /* q and the softmax's results are rounded to bf16; for BF16 caches, and
                            on a device for INT8 and FP8 ones, where it is results times scales */
    const struct hy_attention_sequence *sequences; /* their segments cover the T rows in order */
    size_t n_sequences;
    size_t max_keys;     /* most keys any row sees */
    bool repeated;       /* sequences and spans are those of the attention call before, of the same
                            step, whose lists a device may then use again */
};

/* Elements of a row with room for whole vectors. */
static inline size_t hy_padded_row(size_t n)
{
    return (n + 31) / 32 * 32;
}

/* Floats of scratch memory that an attention call needs for a head beside its scores. */
static inline size_t hy_attention_row_floats(size_t qk_size, size_t v_size)
{
    return hy_padded_row(qk_size) / 2 + hy_padded_row(v_size);
}

/* Floats of scratch memory that one thread needs in an attention call. */
static inline size_t hy_attention_scratch(const struct hy_attention_args *args)
{
    return args->n_heads / args->n_kv_heads
           * (args->max_keys + hy_attention_row_floats(args->qk_size, args->v_size));
}

/*
 * One sequence in a convolution or scan call, with its states where they stand before the segment
 * and where they shall stand behind it: one place or two that do not overlap. Convolution states
 * are [width - 1][n], the raw inputs before the segment, oldest first; scan states [state_size][n]:
 * neighbouring channels lie together. The table of this header takes F32 alone. On a device a
 * segment of one row, no longer one, may have F16 or BF16, which is rounded to nearest even when it
 * is written; all arithmetic is f32. Without rows the pointers are not used.
 */
struct hy_state_sequence {
    struct hy_segment segment;
    const void *conv_before;
    void *conv_after;
    const void *ssm_before;
    void *ssm_after;
    hymba_dtype state_type;
};

/* Of all sequences together. */
static inline size_t hy_sequences_rows(const struct hy_state_sequence *sequences,
                                       size_t n_sequences)
{
    size_t rows = 0;
    for (size_t i = 0; i < n_sequences; i++)
        rows += sequences[i].segment.n_rows;
    return rows;
}

/*
 * y[t][i] = silu(bias[i] + sum_j w[i][j] * x[t - width + 1 + j][i]) (section 4b); inputs before
 * the segment come from its conv_before; conv_after holds the last width - 1 inputs afterwards.
 * Units: n_sequences * n, unit u = sequence u / n, channel u % n.
 */
struct hy_conv_args {
    const float *x;      /* [T][n], the raw input */
    size_t x_stride;
    const float *weight; /* [width][n]: transposed from the file's [n][1][width] */
    const float *bias;   /* [n] */
    size_t n, width;
    float *y;            /* [T][n] */
    size_t y_stride;
    const struct hy_state_sequence *sequences;
    size_t n_sequences;
    struct hy_rounded rounded; /* on a device alone; y is written all the same */
};

/*
 * The selective scan and its gate (section 4b), all in f32:
 *   dt = softplus(dt_raw[t][i]);  h[s][i] = exp(dt * a[s][i]) * h[s][i] + dt * x[t][i] * b[t][s]
 *   y[t][i] = (sum_s h[s][i] * c[t][s] + d[i] * x[t][i]) * silu(z[t][i])
 * Units as in hy_conv_args.
 */
struct hy_scan_args {
    const float *dt;     /* [T][n]: before softplus, bias included */
    size_t dt_stride;
    const float *x;      /* [T][n]: the convolution's output */
    size_t x_stride;
    const float *z;      /* [T][n] */
    size_t z_stride;
    const float *b, *c;  /* [T][state_size] */
    size_t bc_stride;
    const float *a;      /* [state_size][n]: -exp(A_log), transposed like the state */
    const float *d;      /* [n] */
    size_t n, state_size;
    float *y;            /* [T][n]; may be dt */
    size_t y_stride;
    const struct hy_state_sequence *sequences;
    size_t n_sequences;
};

/*
 * Fusion of the two streams (section 4c). Both norms run over n channels.
 *   mean:   y[t] = (rms(attention[t], weight_attention) + rms(ssm[t], weight_ssm)) / 2, [T][n]
 *   concat: y[t] = the two norms side by side, [T][2 n]
 * Units: rows.
 */
struct hy_fuse_args {
    const float *attention;
    size_t attention_stride;
    const float *ssm;
    size_t ssm_stride;
    const float *weight_attention, *weight_ssm; /* [n] */
    size_t n;
    float epsilon;
    bool concat;
    float *y;
    size_t y_stride;
    struct hy_rounded rounded;
    const float *sums;   /* NULL, or [T][2]: sums of squares over total channels of both streams, of
                            which the n are a part; then the norms run over these */
    size_t total;
};

/*
 * The sums of squares of both streams, as hy_fuse_args takes them: sums[t] = (sum_i attention^2,
 * sum_i ssm^2). Those of whole rows give the bits that fuse gives without. Units: rows.
 */
struct hy_square_sums_args {
    const float *attention;
    size_t attention_stride;
    const float *ssm;
    size_t ssm_stride;
    size_t n;
    float *sums;         /* [T][2] */
};

/*
 * y[t] (+)= the sum over all ranks of x[t], added in the order of ranks: every rank gets the same
 * bits, for any number of rows. y may be x unless accumulate. Units: rows. On a device that has
 * joined others; the table below has none.
 */
struct hy_all_sum_args {
    const float *x;
    size_t x_stride;
    size_t n;
    bool accumulate;
    float *y;
    size_t y_stride;
};

/* y[t][i] = silu(gate[t][i]) * up[t][i] (section 3). Units: rows. y may be gate. */
struct hy_swiglu_args {
    const float *gate;
    size_t gate_stride;
    const float *up;
    size_t up_stride;
    size_t n;
    float *y;
    size_t y_stride;
    struct hy_rounded rounded;
};

/* The type that activations are rounded to before they meet weights of a type; F32: not rounded. */
hymba_dtype hy_rounded_type(int compute, hymba_dtype weights);

/* The type by rows that a device rounds projections to, INT8 or FP8; DEFAULT: it does not. */
hymba_dtype hy_by_rows_type(int compute);

/* "f32" for HYMBA_COMPUTE_F32 and so on; NULL and DEFAULT for what is unknown. */
const char *hy_compute_name(int compute);
int hy_compute_from_name(const char *name);

struct hy_kernels {
    const char *name; /* of the instruction set */
    bool has_bf16;    /* a unit that multiplies bf16 */
    bool has_int8;    /* instructions that make int8 products worth while */
    size_t row_block; /* rounded activations have blocks of so many rows, or of all if there are
                         fewer; 0: no blocks */
    void (*embed)(const struct hy_embed_args *, size_t begin, size_t end);
    void (*rms_norm)(const struct hy_rms_norm_args *, size_t begin, size_t end);
    /* scratch: hy_matmul_scratch(k) bytes of the calling thread's own, at a multiple of 64; NULL is
     * enough for f32 activations and weights that are not quantised */
    void (*matmul)(const struct hy_matmul_args *, size_t begin, size_t end, void *scratch);
    void (*round)(const struct hy_round_args *, size_t begin, size_t end);
    void (*rope)(const struct hy_rope_args *, size_t begin, size_t end);
    void (*cache_rows)(const struct hy_cache_rows_args *, size_t begin, size_t end);
    /* scratch: hy_attention_scratch floats of the calling thread's own */
    void (*attention)(const struct hy_attention_args *, size_t begin, size_t end, float *scratch);
    void (*conv)(const struct hy_conv_args *, size_t begin, size_t end);
    void (*scan)(const struct hy_scan_args *, size_t begin, size_t end);
    void (*fuse)(const struct hy_fuse_args *, size_t begin, size_t end);
    void (*square_sums)(const struct hy_square_sums_args *, size_t begin, size_t end);
    void (*swiglu)(const struct hy_swiglu_args *, size_t begin, size_t end);
};

/*
 * Fills the table for an instruction set: "generic", "avx2", "avx512", "amx", "neon", or "best"
 * for the best that this processor and its operating system allow. NULL: what the environment
 * variable HYMBA_CPU names, or "best". ARGUMENT for an unknown name, UNSUPPORTED for one that
 * cannot run here.
 */
hymba_status hy_kernels_init(struct hy_kernels *kernels, const char *instruction_set,
                             hymba_error *error);

/* Each fills in or replaces the entries it has; compiled with its own flags. */
void hy_kernels_generic(struct hy_kernels *kernels);
void hy_kernels_avx2(struct hy_kernels *kernels);
void hy_kernels_avx512(struct hy_kernels *kernels);
void hy_matmul_f32_avx512(const struct hy_matmul_args *args, size_t begin, size_t end);
void hy_kernels_avx512_base(struct hy_kernels *kernels); /* without the instructions of the next */
void hy_kernels_avx512_vnni(struct hy_kernels *kernels);
void hy_kernels_avx512_bf16(struct hy_kernels *kernels);
void hy_kernels_amx(struct hy_kernels *kernels);
bool hy_has_amx_kernels(void); /* whether the compiler knew the instructions */
void hy_kernels_neon(struct hy_kernels *kernels);
void hy_matmul_f32_neon(const struct hy_matmul_args *args, size_t begin, size_t end);
void hy_kernels_neon_base(struct hy_kernels *kernels); /* without the instructions of the next */
void hy_kernels_neon_dot(struct hy_kernels *kernels);
void hy_kernels_neon_bf16(struct hy_kernels *kernels);

#endif
