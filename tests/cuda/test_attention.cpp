/* The attention kernels under the harness against double precision, their promises, their bytes. */
#include "attention.h"
#include "attention_prefill.h"
#include "traffic.h"

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
static unsigned char *take(size_t bytes, bool initialised, size_t pad)
{
    ck_assert_uint_lt(n_blocks, MOST_BLOCKS);
    unsigned char *data = (unsigned char *)aligned_alloc(256, (bytes + pad + 256) / 256 * 256);
    ck_assert_ptr_nonnull(data);
    harness_register(data, bytes + pad, initialised);
    blocks[n_blocks++] = data;
    return data + pad;
}

static void release_all()
{
    while (n_blocks > 0) {
        harness_unregister(blocks[--n_blocks]);
        free(blocks[n_blocks]);
    }
}

static float *random_floats(size_t n, float scale)
{
    float *values = (float *)take(n * sizeof(float), true, 0);
    for (size_t i = 0; i < n; i++)
        values[i] = (float)(2.0 * test_random() - 1.0) * scale;
    return values;
}

/* Rows of n elements in [-scale, scale), as a cache of the type has them. */
static unsigned char *random_rows(size_t n_rows, size_t n, hymba_dtype type, float scale)
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
static double row_element(const unsigned char *rows, hymba_dtype type, size_t n, size_t row,
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

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Cuts positions [begin, end) into at most n spans of random lengths; returns how many. */
static size_t cut_spans(const struct hy_attention_args *args, const struct past *past,
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

static void cut_past(struct attention *attention, size_t s)
{
    struct past *past = &attention->pasts[s];
    size_t half = MOST_SPANS / 2;
    size_t n = cut_spans(&attention->args, past, 0, past->n_pinned, half, past->spans);
    n += cut_spans(&attention->args, past, past->n_pinned, past->n_keys, half, past->spans + n);
    attention->sequences[s].spans = past->spans;
    attention->sequences[s].n_spans = n;
}

/* A sequence that comes next, with so many rows at most, at a position below the given one. */
static void random_past(struct attention *attention, size_t s, size_t n_rows, size_t position)
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
static void random_sizes(struct hy_attention_args *args, int number)
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

static void random_attention(struct attention *attention, int number)
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
static float *results(const struct hy_attention_args *call, size_t out_size,
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

static float *results_of(const struct attention *attention)
{
    struct hy_attention_plan plan;
    return results(&attention->args, attention->out_size, &plan);
}

/* ------------------------------------------------------------- comparisons */

static bool sees(const struct attention *attention, size_t s, uint64_t position, size_t key)
{
    const struct past *past = &attention->pasts[s];
    return key <= position
           && (key < past->n_pinned || position - key <= attention->sequences[s].window);
}

static double exact_q(const struct hy_attention_args *args, float q)
{
    if (!args->bf16)
        return (double)q;
    return args->cache_type == HYMBA_DTYPE_F16 ? (double)hy_f16_to_f32(hy_f32_to_f16(q))
                                               : (double)hy_bf16_to_f32(hy_f32_to_bf16(q));
}

static double exact_score(const struct attention *attention, size_t s, size_t row, size_t head,
                          size_t key)
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
static void check_head(const struct attention *attention, const float *out, size_t s, size_t row,
                       size_t head)
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
        ck_assert_msg(fabs(actual - expected[i] / total) <= tolerance,
                      "row %zu, head %zu, element %zu: %.9g, expected %.9g", row, head, i, actual,
                      expected[i] / total);
    }
    free(expected);
}

static void check_same_bits(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(hy_f32_to_bits(a[i]) == hy_f32_to_bits(b[i]), "%s: element %zu: %.9g, %.9g",
                      what, i, (double)a[i], (double)b[i]);
}

/* ------------------------------------------------------------------- tests */

START_TEST(against_double)
{
    for (int number = 0; number < CASES; number++) {
        struct attention attention;
        test_random_seed(100 + (unsigned)number);
        random_attention(&attention, number);
        const float *out = results_of(&attention);
        for (size_t s = 0; s < attention.args.n_sequences; s++) {
            const struct hy_segment *segment = &attention.sequences[s].segment;
            for (size_t row = segment->row; row < segment->row + segment->n_rows; row++)
                for (size_t head = 0; head < attention.args.n_heads; head++)
                    check_head(&attention, out, s, row, head);
        }
        release_all();
    }
}
END_TEST

/* Nothing else is written, and other cuts of the keys into spans change nothing. */
START_TEST(cuts_give_the_same_bits)
{
    for (int number = 0; number < CASES; number++) {
        struct attention attention;
        test_random_seed(200 + (unsigned)number);
        random_attention(&attention, number);
        const struct hy_attention_args *args = &attention.args;
        const float *whole = results_of(&attention);
        for (size_t i = 0; i < attention.out_size; i++)
            if (i % args->out_stride >= args->n_heads * args->v_size)
                ck_assert(isnan(whole[i]));
        for (size_t s = 0; s < args->n_sequences; s++)
            cut_past(&attention, s);
        harness_set_order(HARNESS_RANDOM, (unsigned)number);
        check_same_bits(whole, results_of(&attention), attention.out_size, "other cuts");
        harness_set_order(HARNESS_ASCENDING, 0);
        release_all();
    }
}
END_TEST

/* Rows row .. row + n of sequence s in a call of their own. */
static void check_rows_alone(const struct attention *attention, const float *whole, size_t s,
                             size_t row, size_t n)
{
    struct hy_attention_sequence alone = attention->sequences[s];
    struct hy_attention_args args = attention->args;
    struct hy_attention_plan plan;
    size_t first = alone.segment.row + row;
    size_t out_size = (n - 1) * args.out_stride + args.n_heads * args.v_size;
    alone.segment.row = 0;
    alone.segment.n_rows = n;
    alone.position += row;
    args.q += first * args.q_stride;
    args.sequences = &alone;
    args.n_sequences = 1;
    check_same_bits(whole + first * args.out_stride, results(&args, out_size, &plan), out_size,
                    "rows alone");
}

START_TEST(rows_alone_give_the_same_bits)
{
    for (int number = 0; number < CASES; number++) {
        struct attention attention;
        test_random_seed(300 + (unsigned)number);
        random_attention(&attention, number);
        const float *whole = results_of(&attention);
        for (size_t s = 0; s < attention.args.n_sequences; s++) {
            size_t n_rows = attention.sequences[s].segment.n_rows;
            size_t some = HY_ATTENTION_DECODE_ROWS + 1; /* for the same kernel */
            if (n_rows <= HY_ATTENTION_DECODE_ROWS) {
                for (size_t row = 0; row < n_rows; row++)
                    check_rows_alone(&attention, whole, s, row, 1);
                continue;
            }
            check_rows_alone(&attention, whole, s, 0, some);
            check_rows_alone(&attention, whole, s, n_rows - some, some);
            check_rows_alone(&attention, whole, s, test_random_below(n_rows - some + 1), some);
        }
        release_all();
    }
}
END_TEST

/* One head whose keys and values have one element; the last of n_rows rows sees all keys. */
static const float *simple_results(hymba_dtype type, bool bf16, size_t n_rows, size_t n_keys,
                                   const float *k, const float *v)
{
    struct hy_span span = {};
    struct hy_attention_sequence sequence = {};
    struct hy_attention_args args = {};
    struct hy_attention_plan plan;
    size_t row_bytes = hy_cache_row_bytes(type, 1);
    unsigned char *keys = take(n_keys * row_bytes, true, 0);
    unsigned char *values = take(n_keys * row_bytes, true, 0);
    bool scaled = hy_cache_greatest(type) != 0.0f;
    for (size_t i = 0; i < n_keys && !scaled; i++) {
        hy_row_from_f32(k + i, type, keys + i * row_bytes, 1);
        hy_row_from_f32(v + i, type, values + i * row_bytes, 1);
    }
    for (size_t i = 0; i < n_keys && scaled; i++) {
        unsigned char one = type == HYMBA_DTYPE_INT8 ? 1 : 0x38;
        keys[i * row_bytes] = values[i * row_bytes] =
            isfinite(k[i]) && isfinite(v[i]) ? one : (unsigned char)0;
        memcpy(keys + i * row_bytes + 1, k + i, sizeof *k);
        memcpy(values + i * row_bytes + 1, v + i, sizeof *v);
    }
    float *q = (float *)take(n_rows * sizeof(float), true, 0);
    for (size_t row = 0; row < n_rows; row++)
        q[row] = 1.0f;
    span.k = keys;
    span.v = values;
    span.count = n_keys;
    sequence.segment.n_rows = n_rows;
    sequence.position = n_keys - n_rows;
    sequence.window = UINT64_MAX;
    sequence.spans = &span;
    sequence.n_spans = 1;
    args.q = q;
    args.q_stride = args.out_stride = 1;
    args.n_heads = args.n_kv_heads = args.qk_size = args.v_size = 1;
    args.scale = 1.0f;
    args.cache_type = type;
    args.bf16 = bf16;
    args.sequences = &sequence;
    args.n_sequences = 1;
    args.max_keys = n_keys;
    return results(&args, n_rows, &plan);
}

/* Each kernel: decoding, tiles in f32, tiles on tensor cores. */
static const struct {
    hymba_dtype type;
    bool bf16;
    size_t n_rows;
} kernels[] = {{HYMBA_DTYPE_F32, false, 1},
               {HYMBA_DTYPE_F32, false, HY_ATTENTION_DECODE_ROWS + 2},
               {HYMBA_DTYPE_BF16, true, HY_ATTENTION_DECODE_ROWS + 2}};
enum { N_KERNELS = sizeof kernels / sizeof kernels[0] };

/* Scores in the thousands: the greatest takes all, nothing overflows. */
START_TEST(great_scores)
{
    enum { KEYS = 300, GREATEST = 270 };
    float k[KEYS], v[KEYS];
    for (size_t i = 0; i < KEYS; i++) {
        k[i] = i == GREATEST ? 3000.0f : -10.0f * (float)i;
        v[i] = i == GREATEST ? 20.0f : 1.0f;
    }
    size_t n_rows = kernels[_i].n_rows;
    const float *out = simple_results(kernels[_i].type, kernels[_i].bf16, n_rows, KEYS, k, v);
    for (size_t row = 0; row < n_rows; row++)
        ck_assert_float_eq(out[row], 20.0f);
    for (size_t i = 0; i < KEYS; i++) /* a whole part or block has no weight at all */
        k[i] = i < GREATEST ? -INFINITY : (float)i;
    out = simple_results(kernels[_i].type, kernels[_i].bf16, n_rows, KEYS, k, v);
    for (size_t row = 0; row < n_rows; row++)
        ck_assert(isfinite(out[row]));
    release_all();
}
END_TEST

/* A key that is not a number: all rows that see it, and none that stand before. */
START_TEST(keys_that_are_no_numbers)
{
    enum { KEYS = 300 };
    const float bad[] = {NAN, INFINITY};
    for (size_t number = 0; number < 2; number++) {
        float k[KEYS], v[KEYS];
        size_t n_rows = kernels[_i].n_rows, bad_row = n_rows - 1;
        for (size_t i = 0; i < KEYS; i++) {
            k[i] = 0.0f;
            v[i] = 0.5f;
        }
        k[KEYS - n_rows + bad_row] = bad[number];
        const float *out = simple_results(kernels[_i].type, kernels[_i].bf16, n_rows, KEYS, k, v);
        for (size_t row = 0; row < bad_row; row++)
            ck_assert(fabsf(out[row] - 0.5f) < 1e-6f);
        ck_assert(isnan(out[bad_row]));
        for (size_t i = 0; i < KEYS; i++) /* all without a weight: 0 / 0, as on the CPU */
            k[i] = -INFINITY;
        out = simple_results(kernels[_i].type, kernels[_i].bf16, n_rows, KEYS, k, v);
        ck_assert(isnan(out[0]) && isnan(out[bad_row]));
    }
    release_all();
}
END_TEST

/* The same of values; tensor cores cannot keep it from rows of the same tile. */
START_TEST(values_that_are_no_numbers)
{
    enum { KEYS = 300 };
    float k[KEYS] = {}, v[KEYS] = {};
    size_t n_rows = kernels[_i].n_rows;
    v[KEYS - 1] = NAN;
    const float *out = simple_results(kernels[_i].type, kernels[_i].bf16, n_rows, KEYS, k, v);
    for (size_t row = 0; row + 1 < n_rows; row++)
        ck_assert(kernels[_i].bf16 || out[row] == 0.0f);
    ck_assert(isnan(out[n_rows - 1]));
    release_all();
}
END_TEST

/* An int8 or fp8 row whose scale is not finite, as a key and as a value. */
START_TEST(scales_that_are_not_finite)
{
    enum { KEYS = 9 };
    const size_t row_counts[] = {1, HY_ATTENTION_DECODE_ROWS + 1};
    for (unsigned number = 0; number < 32; number++) {
        hymba_dtype type = number / 8 % 2 ? HYMBA_DTYPE_FP8 : HYMBA_DTYPE_INT8;
        bool bf16 = number / 16;
        float k[KEYS], v[KEYS];
        size_t n_rows = row_counts[number / 4 % 2];
        for (size_t i = 0; i < KEYS; i++)
            k[i] = v[i] = 1.0f;
        const float *out = simple_results(type, bf16, n_rows, KEYS, k, v);
        ck_assert(fabsf(out[n_rows - 1] - 1.0f) < 1e-6f);
        (number % 2 ? k : v)[6] = number / 2 % 2 ? INFINITY : NAN;
        out = simple_results(type, bf16, n_rows, KEYS, k, v);
        ck_assert(isnan(out[n_rows - 1]));
        release_all();
    }
}
END_TEST

/* All fp8 numbers as the elements of every value, decoded and in tiles; rows begin at any address,
 * and a NaN spoils no neighbour. */
START_TEST(every_fp8_number)
{
    enum { V_SIZE = 256, ROW = V_SIZE + sizeof(float), KEY = 1 + sizeof(float) };
    const float scale = 0.5f;
    for (size_t n_rows = 1; n_rows <= HY_ATTENTION_DECODE_ROWS + 1;
         n_rows += HY_ATTENTION_DECODE_ROWS) {
        struct hy_span span = {};
        struct hy_attention_sequence sequence = {};
        struct hy_attention_args args = {};
        struct hy_attention_plan plan;
        unsigned char *k = take(n_rows * KEY, true, 0), *v = take(n_rows * ROW, true, (size_t)_i);
        memset(k, 0, n_rows * KEY);
        for (size_t i = 0; i < n_rows * V_SIZE; i++)
            v[i / V_SIZE * ROW + i % V_SIZE] = (unsigned char)i;
        for (size_t row = 0; row < n_rows; row++)
            memcpy(v + row * ROW + V_SIZE, &scale, sizeof scale);
        span.k = k;
        span.v = v;
        span.count = n_rows;
        sequence.segment.n_rows = n_rows;
        sequence.window = UINT64_MAX;
        sequence.spans = &span;
        sequence.n_spans = 1;
        args.q = random_floats(n_rows, 1.0f);
        args.q_stride = args.n_heads = args.n_kv_heads = args.qk_size = 1;
        args.v_size = args.out_stride = V_SIZE;
        args.scale = 1.0f;
        args.cache_type = HYMBA_DTYPE_FP8;
        args.bf16 = _i > 3; /* sums of a few halves of such numbers are exact there, too */
        args.sequences = &sequence;
        args.n_sequences = 1;
        args.max_keys = n_rows;
        const float *out = results(&args, n_rows * V_SIZE, &plan);
        for (size_t i = 0; i < n_rows * V_SIZE; i++) {
            float expected = scale * hy_fp8_to_f32((uint8_t)i);
            ck_assert_msg(out[i] == expected || (isnan(out[i]) && isnan(expected)),
                          "%02x became %g", (unsigned)i % V_SIZE, (double)out[i]);
        }
    }
    release_all();
}
END_TEST

/* How many keys row 0 of sequence s sees, and the parts in which they lie; adds the spans that each
 * of these parts has positions of. */
static void count_row(const struct attention *attention, size_t s, uint64_t *keys, uint64_t *parts,
                      uint64_t *parts_of_spans)
{
    const struct hy_attention_sequence *sequence = &attention->sequences[s];
    for (size_t first = 0; first < attention->pasts[s].n_keys; first += HY_ATTENTION_PART) {
        uint64_t visible = 0;
        for (size_t key = first; key < first + HY_ATTENTION_PART; key++)
            visible += key < attention->pasts[s].n_keys
                       && sees(attention, s, sequence->position, key);
        *keys += visible;
        *parts += visible > 0;
        for (size_t i = 0; i < sequence->n_spans && visible > 0; i++)
            *parts_of_spans += sequence->spans[i].position < first + HY_ATTENTION_PART
                               && sequence->spans[i].position + sequence->spans[i].count > first;
    }
}

/* The counts that stand beside the kernels, of a batch of sessions with a row each. */
START_TEST(decoding_reads_each_byte_once)
{
    struct attention attention = {};
    struct hy_attention_args *args = &attention.args;
    struct hy_attention_plan plan;
    test_random_seed(1);
    args->n_kv_heads = 5;
    args->n_heads = 25;
    args->qk_size = 64;
    args->v_size = 128;
    args->q_stride = args->n_heads * args->qk_size;
    args->out_stride = args->n_heads * args->v_size;
    args->scale = 0.125f;
    args->cache_type = cache_types[_i];
    args->n_sequences = MOST_SEQUENCES;
    args->sequences = attention.sequences;
    uint64_t keys = 0, parts = 0, parts_of_spans = 0, spans_of_parts = 0, spans = 0;
    for (size_t s = 0; s < MOST_SEQUENCES; s++) {
        random_past(&attention, s, 1, s == 0 ? 100 : 1200);
        uint64_t before = parts;
        count_row(&attention, s, &keys, &parts, &parts_of_spans);
        spans_of_parts += (parts - before) * attention.sequences[s].n_spans;
        spans += attention.sequences[s].n_spans;
    }
    args->q = random_floats(attention.n_rows * args->q_stride, 1.0f);
    attention.out_size = attention.n_rows * args->out_stride;
    const float *out = results(args, attention.out_size, &plan);
    for (size_t s = 0; s < MOST_SEQUENCES; s++)
        check_head(&attention, out, s, s, 7 + s);
    uint64_t cache = keys * args->n_kv_heads
                     * (hy_cache_row_bytes(args->cache_type, args->qk_size)
                        + hy_cache_row_bytes(args->cache_type, args->v_size));
    uint64_t q = args->n_heads * args->qk_size * sizeof(float);
    uint64_t lists = args->n_kv_heads
                     * (parts * (8 * plan.parts.n_records + 56) + 16 * spans_of_parts
                        + 33 * parts_of_spans);
    const struct harness_launch_record *launch = harness_find_launch("attention_parts");
    ck_assert_ptr_nonnull(launch);
    ck_assert_uint_eq(plan.parts.n_items, parts);
    ck_assert_uint_eq(launch->bytes_read, cache + parts * q + lists);
    ck_assert_uint_eq(launch->bytes_written, parts * args->n_heads * (args->v_size + 2) * 4);
    /* the caches' part of the distinct bytes is as much: none is read twice. The harness counts the
     * one byte of `pinned` as two. */
    uint64_t unique = cache + MOST_SEQUENCES * q + plan.parts.n_records * 56
                      + (plan.parts.n_records + 1) * 4;
    ck_assert_uint_ge(launch->unique_bytes_read, unique + 16 * spans);
    ck_assert_uint_le(launch->unique_bytes_read, unique + 50 * spans);
    launch = harness_find_launch("attention_merge");
    ck_assert_ptr_nonnull(launch);
    ck_assert_uint_eq(launch->bytes_read, parts * args->n_heads * (4 * args->v_size + 4 + 8)
                                              + MOST_SEQUENCES * args->n_heads * 12 * 256);
    ck_assert_uint_eq(launch->bytes_written, MOST_SEQUENCES * args->n_heads * args->v_size * 4);
    release_all();
}
END_TEST

/* A window far from the pinned keys: parts between them are no work. */
START_TEST(only_visible_parts_are_work)
{
    struct hy_span spans[2] = {};
    struct hy_attention_sequence sequence = {};
    struct hy_attention_args args = {};
    struct hy_attention_plan plan;
    spans[0].count = 128;
    spans[0].pinned = true;
    spans[1].position = 100 * HY_ATTENTION_PART - 1024;
    spans[1].count = 1025;
    sequence.segment.n_rows = 1;
    sequence.position = 100 * HY_ATTENTION_PART;
    sequence.window = 1024;
    sequence.spans = spans;
    sequence.n_spans = 2;
    args.n_heads = args.n_kv_heads = args.qk_size = args.v_size = 1;
    args.sequences = &sequence;
    args.n_sequences = 1;
    uint64_t lists[64];
    ck_assert(hy_cuda_attention_plan(&args, &plan));
    ck_assert_uint_le(plan.list_bytes, sizeof lists);
    hy_cuda_attention_lists(&args, &plan, lists, lists);
    ck_assert_uint_eq(plan.parts.n_records, 2);
    ck_assert_uint_eq(plan.parts.n_items, 1 + 1024 / HY_ATTENTION_PART + 1);
    ck_assert_uint_eq(plan.n_merges, 1);
    ck_assert_uint_eq(plan.tiles.n_items, 0);
    ck_assert_uint_eq(plan.parts.records[1].part, 100 - 1024 / HY_ATTENTION_PART);
}
END_TEST

/* ------------------------------------------------- many rows, tensor cores */

/* A sequence of many rows of the published sizes, if not given others. */
static void take_prompt(struct attention *attention, hymba_dtype type, size_t n_rows,
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

static const struct {
    hymba_dtype type;
    size_t qk_size, v_size;
} prompts[] = {{HYMBA_DTYPE_BF16, 64, 128}, {HYMBA_DTYPE_F16, 64, 128}, {HYMBA_DTYPE_BF16, 37, 75},
               {HYMBA_DTYPE_F16, 16, 40},   {HYMBA_DTYPE_BF16, 100, 200}};
enum { N_PROMPTS = sizeof prompts / sizeof prompts[0] };

/* Tiles of either size give the same bits, which are right. */
START_TEST(large_tiles_give_the_same_bits)
{
    struct attention attention;
    test_random_seed(400 + (unsigned)_i);
    take_prompt(&attention, prompts[_i].type, 31, prompts[_i].qk_size, prompts[_i].v_size);
    wanted_pairs = HY_ATTENTION_TILE;
    const float *small = results_of(&attention);
    wanted_pairs = 2 * HY_ATTENTION_TILE;
    harness_set_order(HARNESS_DESCENDING, 0);
    const float *large = results_of(&attention);
    harness_set_order(HARNESS_ASCENDING, 0);
    wanted_pairs = 0;
    check_same_bits(small, large, attention.out_size, "tiles");
    for (size_t row = 0; row < attention.n_rows; row++)
        for (size_t head = 0; head < attention.args.n_heads; head++)
            check_head(&attention, large, 0, row, head);
    release_all();
}
END_TEST

/* Large tiles are chosen when they are enough for all multiprocessors, and only for kernels that
 * have them. */
START_TEST(tiles_are_chosen_by_their_number)
{
    struct attention attention;
    struct hy_attention_plan plan;
    test_random_seed(1);
    take_prompt(&attention, HYMBA_DTYPE_BF16, 9, 64, 128);
    struct hy_segment *segment = &attention.sequences[0].segment;
    segment->n_rows = 132 * 2 * HY_ATTENTION_TILE / 5; /* 132 for each of two key heads */
    ck_assert(hy_cuda_attention_plan(&attention.args, &plan));
    ck_assert_uint_eq(plan.list_bytes % 16, 0);
    ck_assert_uint_eq(plan.tile_pairs, 2 * HY_ATTENTION_TILE);
    ck_assert_uint_eq(plan.tiles.n_items, 132);
    segment->n_rows -= 26; /* 131 tiles */
    ck_assert(hy_cuda_attention_plan(&attention.args, &plan));
    ck_assert_uint_eq(plan.tile_pairs, HY_ATTENTION_TILE);
    ck_assert_uint_eq(plan.tiles.n_items, 262);
    segment->n_rows += 26;
    attention.args.bf16 = false;
    ck_assert(hy_cuda_attention_plan(&attention.args, &plan));
    ck_assert_uint_eq(plan.tile_pairs, HY_ATTENTION_TILE);
    release_all();
}
END_TEST

/* Keys that some row of the tile sees which has pairs first .. first + n of the segment's. */
static uint64_t keys_of_tile(const struct attention *attention, size_t first, size_t n)
{
    const struct hy_attention_sequence *sequence = &attention->sequences[0];
    const size_t group = attention->args.n_heads / attention->args.n_kv_heads;
    const size_t end = least(first + n, sequence->segment.n_rows * group);
    uint64_t keys = 0;
    for (size_t key = 0; key < attention->pasts[0].n_keys; key++) {
        bool visible = false;
        for (size_t row = first / group; row <= (end - 1) / group; row++)
            visible = visible || sees(attention, 0, sequence->position + row, key);
        keys += visible;
    }
    return keys;
}

/* Each tile reads each key and value that one of its rows sees once, for all its heads; of q and
 * the results each number is read or written once. */
START_TEST(a_tile_reads_its_keys_once)
{
    enum { LISTS, K, V, Q };
    struct attention attention;
    struct hy_attention_plan plan;
    struct traffic traffic[TRAFFIC_LABELS];
    const size_t n_rows = 60, pairs = _i < 2 ? HY_ATTENTION_TILE : 2 * HY_ATTENTION_TILE;
    test_random_seed(500 + (unsigned)_i);
    take_prompt(&attention, HYMBA_DTYPE_BF16, n_rows, 64, 128);
    const struct hy_attention_args *args = &attention.args;
    attention.sequences[0].window = _i % 2 ? 70 : UINT64_MAX;
    const struct past *past = &attention.pasts[0];
    const size_t all = args->n_kv_heads * past->n_keys * sizeof(uint16_t);
    uint64_t keys = 0, distinct = keys_of_tile(&attention, 0, n_rows * 5);
    for (size_t first = 0; first < n_rows * 5; first += pairs)
        keys += keys_of_tile(&attention, first, pairs);
    wanted_pairs = (unsigned)pairs;
    traffic_begin();
    traffic_label(past->k, all * args->qk_size, K);
    traffic_label(past->v, all * args->v_size, V);
    traffic_label(args->q, n_rows * args->q_stride * sizeof(float), Q);
    results(args, attention.out_size, &plan);
    traffic_end(traffic);
    wanted_pairs = 0;
    ck_assert_uint_eq(traffic[K].loads, keys * args->n_kv_heads * args->qk_size * 2);
    ck_assert_uint_eq(traffic[K].distinct_loads, distinct * args->n_kv_heads * args->qk_size * 2);
    ck_assert_uint_eq(traffic[V].loads, keys * args->n_kv_heads * args->v_size * 2);
    ck_assert_uint_eq(traffic[V].distinct_loads, distinct * args->n_kv_heads * args->v_size * 2);
    ck_assert_uint_eq(traffic[Q].loads, n_rows * args->q_stride * sizeof(float));
    ck_assert_uint_eq(traffic[Q].distinct_loads, traffic[Q].loads);
    const struct harness_launch_record *launch = harness_find_launch("attention_mma_tiles");
    ck_assert_ptr_nonnull(launch);
    ck_assert_uint_eq(launch->bytes_written, n_rows * args->out_stride * sizeof(float));
    release_all();
}
END_TEST

/* Spans of a key or two, as many as a prompt's; and one, at positions that 32 bits do not hold. */
START_TEST(spans_of_any_length_and_place)
{
    enum { MOST = 400 };
    struct attention attention;
    struct hy_span spans[MOST];
    struct hy_attention_plan plan;
    const uint64_t far = (uint64_t)HY_ATTENTION_PART << 40;
    test_random_seed(600 + (unsigned)_i);
    take_prompt(&attention, HYMBA_DTYPE_BF16, 20, 64, 128);
    struct past *past = &attention.pasts[0];
    struct hy_attention_sequence *sequence = &attention.sequences[0];
    past->n_pinned = 0;
    sequence->window = _i % 2 ? 100 : UINT64_MAX;
    wanted_pairs = _i < 2 ? HY_ATTENTION_TILE : 2 * HY_ATTENTION_TILE;
    cut_past(&attention, 0);
    const float *whole = results_of(&attention);
    size_t n = 0;
    for (size_t key = 0; key < past->n_keys && n < MOST; n++) {
        size_t length = least(1 + test_random_below(2), past->n_keys - key);
        cut_spans(&attention.args, past, key, key + length, 1, &spans[n]);
        key += length;
    }
    sequence->spans = spans;
    sequence->n_spans = n;
    check_same_bits(whole, results(&attention.args, attention.out_size, &plan), attention.out_size,
                    "short spans");
    for (size_t i = 0; i < n; i++)
        spans[i].position += far;
    sequence->position += far;
    check_same_bits(whole, results(&attention.args, attention.out_size, &plan), attention.out_size,
                    "far away");
    wanted_pairs = 0;
    release_all();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda attention");
    TCase *tcase = tcase_create("attention");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, against_double);
    tcase_add_test(tcase, cuts_give_the_same_bits);
    tcase_add_test(tcase, rows_alone_give_the_same_bits);
    tcase_add_loop_test(tcase, great_scores, 0, N_KERNELS);
    tcase_add_loop_test(tcase, keys_that_are_no_numbers, 0, N_KERNELS);
    tcase_add_loop_test(tcase, values_that_are_no_numbers, 0, N_KERNELS);
    tcase_add_test(tcase, scales_that_are_not_finite);
    tcase_add_loop_test(tcase, every_fp8_number, 0, 8);
    tcase_add_loop_test(tcase, decoding_reads_each_byte_once, 0, 3);
    tcase_add_test(tcase, only_visible_parts_are_work);
    tcase_add_loop_test(tcase, large_tiles_give_the_same_bits, 0, N_PROMPTS);
    tcase_add_test(tcase, tiles_are_chosen_by_their_number);
    tcase_add_loop_test(tcase, a_tile_reads_its_keys_once, 0, 4);
    tcase_add_loop_test(tcase, spans_of_any_length_and_place, 0, 4);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
