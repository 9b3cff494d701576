/*
 * What the tests of attention share: calls of random sizes over memory that the harness watches,
 * and their results in double precision.
 */
#ifndef HYMBA_ATTENTION_TEST_H
#define HYMBA_ATTENTION_TEST_H

#include "attention.h"
#include "attention_prefill.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "support.h"
#include "tensor/dtype.h"
}

enum { CASES = 14, MOST_SPANS = 8, MOST_SEQUENCES = 3, MOST_BLOCKS = 128 };

static const hymba_dtype cache_types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                                          HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8};
enum { N_CACHE_TYPES = sizeof cache_types / sizeof cache_types[0] };

/* ------------------------------------------------------------------ memory */

static void *blocks[MOST_BLOCKS];
static size_t n_blocks;

/* Memory that kernels may use; pad bytes of it stand before the address. */
static inline unsigned char *take(size_t bytes, bool initialised, size_t pad)
{
    ck_assert_uint_lt(n_blocks, MOST_BLOCKS);
    unsigned char *data = (unsigned char *)aligned_alloc(256, (bytes + pad + 256) / 256 * 256);
    ck_assert_ptr_nonnull(data);
    harness_register(data, bytes + pad, initialised);
    blocks[n_blocks++] = data;
    return data + pad;
}

static inline void release_all()
{
    while (n_blocks > 0) {
        harness_unregister(blocks[--n_blocks]);
        free(blocks[n_blocks]);
    }
}

static inline float *random_floats(size_t n, float scale)
{
    float *values = (float *)take(n * sizeof(float), true, 0);
    for (size_t i = 0; i < n; i++)
        values[i] = (float)(2.0 * test_random() - 1.0) * scale;
    return values;
}

/* Rows of n elements in [-scale, scale), as a cache of the type has them. */
static inline unsigned char *random_rows(size_t n_rows, size_t n, hymba_dtype type, float scale)
{
    size_t row_bytes = hy_cache_row_bytes(type, n);
    size_t pad = test_random_below(3) ? 0 : hy_dtype_size(type);
    float greatest = hy_cache_greatest(type);
    unsigned char *rows = take(n_rows * row_bytes, true, pad);
    for (size_t row = 0; row < n_rows; row++) {
        unsigned char *data = rows + row * row_bytes;
        float row_scale = (0.1f + 0.9f * (float)test_random()) * scale / greatest;
        for (size_t i = 0; i < n; i++) {
            float value = (float)(2.0 * test_random() - 1.0) * scale;
            if (type == HYMBA_DTYPE_INT8)
                data[i] = (unsigned char)((int)test_random_below(255) - 127);
            else if (type == HYMBA_DTYPE_FP8)
                data[i] = hy_f32_to_fp8(value / scale * greatest);
            else
                hy_row_from_f32(&value, type, data + i * hy_dtype_size(type), 1);
        }
        if (greatest != 0.0f)
            memcpy(data + n, &row_scale, sizeof row_scale);
    }
    return rows;
}

/* Element i of row number row; rows have n elements. */
static inline double row_element(const unsigned char *rows, hymba_dtype type, size_t n, size_t row,
                                 size_t i)
{
    if (hy_cache_greatest(type) == 0.0f)
        return (double)hy_load_element(rows, type, row * n + i);
    float scale;
    rows += row * (n + sizeof scale);
    memcpy(&scale, rows + n, sizeof scale);
    if (type == HYMBA_DTYPE_FP8)
        return (double)scale * (double)hy_fp8_to_f32(rows[i]);
    return (double)scale * (rows[i] > 127 ? rows[i] - 256 : rows[i]);
}

/* ------------------------------------------------------------- random calls */

/* Keys and values of one sequence's whole past: head g of position s at (g * n_keys + s). */
struct past {
    size_t n_keys, n_pinned;
    const unsigned char *k, *v;
    struct hy_span spans[MOST_SPANS];
};

struct attention {
    struct hy_attention_args args;
    struct hy_attention_sequence sequences[MOST_SEQUENCES];
    struct past pasts[MOST_SEQUENCES];
    size_t n_rows, out_size;
};

static inline size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Cuts positions [begin, end) into at most n spans of random lengths; returns how many. */
static inline size_t cut_spans(const struct hy_attention_args *args, const struct past *past,
                               size_t begin, size_t end, size_t n, struct hy_span *spans)
{
    size_t k_bytes = hy_cache_row_bytes(args->cache_type, args->qk_size);
    size_t v_bytes = hy_cache_row_bytes(args->cache_type, args->v_size), count = 0;
    while (begin < end) {
        size_t length = count + 1 == n ? end - begin : 1 + test_random_below(end - begin);
        struct hy_span *span = &spans[count++];
        memset(span, 0, sizeof *span);
        span->k = past->k + begin * k_bytes;
        span->v = past->v + begin * v_bytes;
        span->k_head_stride = past->n_keys * k_bytes;
        span->v_head_stride = past->n_keys * v_bytes;
        span->position = begin;
        span->count = length;
        span->pinned = begin < past->n_pinned;
        begin += length;
    }
    return count;
}

static inline void cut_past(struct attention *attention, size_t s)
{
    struct past *past = &attention->pasts[s];
    size_t half = MOST_SPANS / 2;
    size_t n = cut_spans(&attention->args, past, 0, past->n_pinned, half, past->spans);
    n += cut_spans(&attention->args, past, past->n_pinned, past->n_keys, half, past->spans + n);
    attention->sequences[s].spans = past->spans;
    attention->sequences[s].n_spans = n;
}

/* A sequence that comes next, with so many rows at most, at a position below the given one. */
static inline void random_past(struct attention *attention, size_t s, size_t n_rows,
                               size_t position)
{
    const struct hy_attention_args *args = &attention->args;
    struct past *past = &attention->pasts[s];
    struct hy_attention_sequence *sequence = &attention->sequences[s];
    sequence->position = test_random_below(position);
    sequence->window = test_random_below(4) ? test_random_below(position) : UINT64_MAX;
    past->n_keys = (size_t)sequence->position + n_rows + test_random_below(3);
    past->n_pinned = least(test_random_below(80), past->n_keys);
    past->k = random_rows(args->n_kv_heads * past->n_keys, args->qk_size, args->cache_type, 2.0f);
    past->v = random_rows(args->n_kv_heads * past->n_keys, args->v_size, args->cache_type, 1.0f);
    sequence->segment.row = attention->n_rows;
    sequence->segment.n_rows = n_rows;
    attention->n_rows += n_rows;
    cut_past(attention, s);
}

/* Sizes of the number-th case: the published ones, small ones, great ones. */
static inline void random_sizes(struct hy_attention_args *args, int number)
{
    args->n_kv_heads = 1 + test_random_below(2);
    args->n_heads = args->n_kv_heads * (1 + test_random_below(number % 5 == 1 ? 12 : 6));
    args->qk_size = 1 + test_random_below(40);
    args->v_size = 1 + test_random_below(90);
    if (number % 4 == 0) {
        args->n_heads = args->n_kv_heads * 5;
        args->qk_size = 64;
        args->v_size = 128;
    } else if (number % 7 == 6) {
        args->qk_size = 200 + test_random_below(120);
        args->v_size = 200 + test_random_below(120);
    }
}

static inline void random_attention(struct attention *attention, int number)
{
    struct hy_attention_args *args = &attention->args;
    memset((void *)attention, 0, sizeof *attention);
    random_sizes(args, number);
    args->q_stride = args->n_heads * args->qk_size + test_random_below(3);
    args->out_stride = args->n_heads * args->v_size + test_random_below(3);
    args->scale = 1.0f / sqrtf((float)args->qk_size);
    args->cache_type = cache_types[number % N_CACHE_TYPES];
    args->bf16 = args->cache_type != HYMBA_DTYPE_F32 && test_random_below(3) > 0;
    args->n_sequences = 1 + test_random_below(MOST_SEQUENCES);
    args->sequences = attention->sequences;
    for (size_t s = 0; s < args->n_sequences; s++) {
        bool is_long = test_random_below(2);
        random_past(attention, s,
                    is_long ? HY_ATTENTION_DECODE_ROWS + 1 + test_random_below(20)
                            : 1 + test_random_below(3),
                    is_long ? 150 : 700);
        if (attention->pasts[s].n_keys > args->max_keys)
            args->max_keys = attention->pasts[s].n_keys;
    }
    args->q = random_floats(attention->n_rows * args->q_stride, 2.0f);
    attention->out_size = (attention->n_rows - 1) * args->out_stride + args->n_heads * args->v_size;
}

/* Pairs of the tiles that the next calls are divided into, for kernels that can; 0: as ever. */
static unsigned wanted_pairs;

/* What a call of these sequences gives; between rows of heads stands NaN. */
static inline float *results(const struct hy_attention_args *call, size_t out_size,
                             struct hy_attention_plan *plan)
{
    struct hy_attention_args args = *call;
    unsigned pairs = (unsigned)least(wanted_pairs, hy_cuda_attention_mma_pairs(call));
    args.out = (float *)take(out_size * sizeof(float), false, 0);
    for (size_t i = 0; i < out_size; i++)
        args.out[i] = NAN;
    ck_assert(hy_cuda_attention_plan(&args, plan, 0, pairs));
    unsigned char *lists = take(plan->list_bytes, true, 0);
    hy_cuda_attention_lists(&args, plan, lists, lists);
    unsigned char *workspace = take(plan->workspace_bytes, false, 0);
    args.sequences = NULL;
    hy_cuda_attention(NULL, &args, plan, workspace);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    ck_assert_msg(harness_error_count() == 0, "%s", harness_first_error());
    return args.out;
}

static inline float *results_of(const struct attention *attention)
{
    struct hy_attention_plan plan;
    return results(&attention->args, attention->out_size, &plan);
}

/* ------------------------------------------------------------- comparisons */

static inline bool sees(const struct attention *attention, size_t s, uint64_t position, size_t key)
{
    const struct past *past = &attention->pasts[s];
    return key <= position
           && (key < past->n_pinned || position - key <= attention->sequences[s].window);
}

static inline double exact_q(const struct hy_attention_args *args, float q)
{
    if (!args->bf16)
        return (double)q;
    return args->cache_type == HYMBA_DTYPE_F16 ? (double)hy_f16_to_f32(hy_f32_to_f16(q))
                                               : (double)hy_bf16_to_f32(hy_f32_to_bf16(q));
}

static inline double exact_score(const struct attention *attention, size_t s, size_t row,
                                 size_t head, size_t key)
{
    const struct hy_attention_args *args = &attention->args;
    const struct past *past = &attention->pasts[s];
    size_t kv_head = head / (args->n_heads / args->n_kv_heads);
    const float *q = args->q + row * args->q_stride + head * args->qk_size;
    double sum = 0.0;
    for (size_t i = 0; i < args->qk_size; i++)
        sum += exact_q(args, q[i]) * row_element(past->k, args->cache_type, args->qk_size,
                                                 kv_head * past->n_keys + key, i);
    return sum * (double)args->scale;
}

/*
 * The tolerances are those of tests/kernel/test_attention.c: some roundings of f32, and what
 * weights rounded to bf16 add. A key too many or too few among a hundred moves the result by 1e-2.
 */
static inline void check_head(const struct attention *attention, const float *out, size_t s,
                              size_t row, size_t head)
{
    const struct hy_attention_args *args = &attention->args;
    const struct past *past = &attention->pasts[s];
    uint64_t position = attention->sequences[s].position
                        + (row - attention->sequences[s].segment.row);
    size_t kv_head = head / (args->n_heads / args->n_kv_heads);
    double *expected = (double *)calloc(args->v_size, sizeof *expected), total = 0.0;
    double tolerance = args->bf16 ? 0x1.02p-8 : 1e-5;
    ck_assert_ptr_nonnull(expected);
    for (size_t key = 0; key < past->n_keys; key++) {
        if (!sees(attention, s, position, key))
            continue;
        double weight = exp(exact_score(attention, s, row, head, key));
        total += weight;
        for (size_t i = 0; i < args->v_size; i++)
            expected[i] += weight
                           * row_element(past->v, args->cache_type, args->v_size,
                                         kv_head * past->n_keys + key, i);
    }
    for (size_t i = 0; i < args->v_size; i++) {
        double actual = (double)out[row * args->out_stride + head * args->v_size + i];
        if (!(fabs(actual - expected[i] / total) <= tolerance))
            ck_abort_msg("row %zu, head %zu, element %zu: %.9g, expected %.9g", row, head, i,
                         actual, expected[i] / total);
    }
    free(expected);
}

static inline void check_same_bits(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (hy_f32_to_bits(a[i]) != hy_f32_to_bits(b[i]))
            ck_abort_msg("%s: element %zu: %.9g, %.9g", what, i, (double)a[i], (double)b[i]);
}

/* A sequence of many rows of the published sizes, if not given others. */
static inline void take_prompt(struct attention *attention, hymba_dtype type, size_t n_rows,
                               size_t qk_size, size_t v_size)
{
    struct hy_attention_args *args = &attention->args;
    memset((void *)attention, 0, sizeof *attention);
    args->n_kv_heads = 2;
    args->n_heads = 10;
    args->qk_size = qk_size;
    args->v_size = v_size;
    args->q_stride = args->n_heads * qk_size;
    args->out_stride = args->n_heads * v_size;
    args->scale = 1.0f / sqrtf((float)qk_size);
    args->cache_type = type;
    args->bf16 = true;
    args->n_sequences = 1;
    args->sequences = attention->sequences;
    random_past(attention, 0, n_rows, 300);
    args->max_keys = attention->pasts[0].n_keys;
    args->q = random_floats(n_rows * args->q_stride, 2.0f);
    attention->out_size = n_rows * args->out_stride;
}

#endif
