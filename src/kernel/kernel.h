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
 * Strides count elements. "T rows" are the tokens of one step, of all its sequences together.
 * Section numbers are those of the model description, docs/semantics.md.
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

/* y[t] = table[ids[t]] (section 3). Units: rows. */
struct hy_embed_args {
    const int32_t *ids;  /* [T] */
    const void *table;   /* [vocabulary][n] of dtype */
    hymba_dtype dtype;
    size_t n;
    float *y;            /* [T][n] */
};

/* y = w * x / sqrt(mean(x^2) + epsilon), row by row (section 3). Units: rows. y may be x. */
struct hy_rms_norm_args {
    const float *x;
    size_t x_stride;
    const float *weight; /* [n] */
    size_t n;
    float epsilon;
    float *y;
    size_t y_stride;
};

/* y[t][j] = sum_i x[t][i] * w[j][i] (+ bias[j]) (+ y[t][j] if accumulate). Units: columns j. */
struct hy_matmul_args {
    const float *x;      /* [m][k] */
    size_t x_stride;
    size_t m, n, k;
    const void *w;       /* [n][k] of dtype, rows w_stride elements apart */
    hymba_dtype dtype;
    size_t w_stride;
    const float *bias;   /* [n] or NULL */
    bool accumulate;
    float *y;            /* [m][n] */
    size_t y_stride;
};

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
 * y + h * head_stride + t * head_size (elements of dtype). Units: rows.
 */
struct hy_cache_rows_args {
    const float *x;      /* [T][n_heads][head_size] */
    size_t x_stride;
    size_t n_heads, head_size;
    hymba_dtype dtype;
    void *y;
    size_t head_stride;
};

/*
 * Keys and values of consecutive positions. Head g of key i lies at
 * k + g * k_head_stride + i * qk_size, likewise v with v_size (elements of the cache type).
 */
struct hy_span {
    const void *k, *v;
    size_t k_head_stride, v_head_stride;
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
 * head h reads
 * key head h / (n_heads / n_kv_heads). Units: T * n_kv_heads, unit u = row u / n_kv_heads, key
 * head u % n_kv_heads.
 */
struct hy_attention_args {
    const float *q;      /* [T][n_heads][qk_size] */
    size_t q_stride;
    float *out;          /* [T][n_heads][v_size] */
    size_t out_stride;
    size_t n_heads, n_kv_heads, qk_size, v_size;
    float scale;
    hymba_dtype cache_type;
    const struct hy_attention_sequence *sequences; /* their segments cover the T rows in order */
    size_t n_sequences;
    size_t max_keys;     /* most keys any row sees */
};

/* Floats of scratch memory that one thread needs in an attention call. */
static inline size_t hy_attention_scratch(const struct hy_attention_args *args)
{
    return args->n_heads / args->n_kv_heads * args->max_keys;
}

/* One sequence in a convolution or scan call, with its state, updated in place. */
struct hy_state_sequence {
    struct hy_segment segment;
    float *conv_state;   /* [width - 1][n]: raw inputs before the segment, oldest first */
    float *ssm_state;    /* [state_size][n]: neighbouring channels lie together */
};

/*
 * y[t][i] = silu(bias[i] + sum_j w[i][j] * x[t - width + 1 + j][i]) (section 4b); inputs before
 * the segment come from its conv_state, which holds the last width - 1 inputs afterwards.
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
    float *y;            /* [T][n] */
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
};

struct hy_kernels {
    const char *name; /* of the instruction set */
    void (*embed)(const struct hy_embed_args *, size_t begin, size_t end);
    void (*rms_norm)(const struct hy_rms_norm_args *, size_t begin, size_t end);
    void (*matmul)(const struct hy_matmul_args *, size_t begin, size_t end);
    void (*rope)(const struct hy_rope_args *, size_t begin, size_t end);
    void (*cache_rows)(const struct hy_cache_rows_args *, size_t begin, size_t end);
    /* scratch: hy_attention_scratch floats of the calling thread's own */
    void (*attention)(const struct hy_attention_args *, size_t begin, size_t end, float *scratch);
    void (*conv)(const struct hy_conv_args *, size_t begin, size_t end);
    void (*scan)(const struct hy_scan_args *, size_t begin, size_t end);
    void (*fuse)(const struct hy_fuse_args *, size_t begin, size_t end);
    void (*swiglu)(const struct hy_swiglu_args *, size_t begin, size_t end);
};

/*
 * Fills the table for an instruction set: "generic", "avx2", "avx512", or NULL/"best" for the best
 * that this processor and its operating system allow. ARGUMENT for an unknown name, UNSUPPORTED
 * for one that cannot run here.
 */
hymba_status hy_kernels_init(struct hy_kernels *kernels, const char *instruction_set,
                             hymba_error *error);

/* Each fills in or replaces the entries it has; compiled with its own flags. */
void hy_kernels_generic(struct hy_kernels *kernels);
void hy_kernels_avx2(struct hy_kernels *kernels);
void hy_kernels_avx512(struct hy_kernels *kernels);

#endif
