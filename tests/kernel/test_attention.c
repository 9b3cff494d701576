/* Attention of every instruction set against double precision, and its promises. */
#include "kernel_test.h"

enum { CASES = 60, MOST_SPANS = 8, MOST_SEQUENCES = 3 };

static const hymba_dtype cache_types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                                          HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8};
enum { N_CACHE_TYPES = sizeof cache_types / sizeof cache_types[0] };

/* Keys and values of one sequence's whole past: head g of position s at (g * n_keys + s). */
struct past {
    uint64_t window;
    size_t n_keys, n_pinned;
    const unsigned char *k, *v;
    struct hy_span spans[MOST_SPANS];
};

struct attention {
    struct hy_attention_args args;
    struct hy_attention_sequence sequences[MOST_SEQUENCES];
    struct past pasts[MOST_SEQUENCES];
    size_t n_rows, out_size;
    float *scratch;
};

/* Cuts positions [begin, end) into at most n spans of random lengths; returns how many. */
static size_t cut_spans(const struct attention *attention, const struct past *past, size_t begin,
                        size_t end, size_t n, struct hy_span *spans)
{
    const struct hy_attention_args *args = &attention->args;
    size_t k_bytes = hy_cache_row_bytes(args->cache_type, args->qk_size);
    size_t v_bytes = hy_cache_row_bytes(args->cache_type, args->v_size), count = 0;
    while (begin < end) {
        size_t length = count + 1 == n ? end - begin : 1 + test_random_below(end - begin);
        spans[count++] = (struct hy_span){
            .k = past->k + begin * k_bytes,
            .v = past->v + begin * v_bytes,
            .k_head_stride = past->n_keys * k_bytes,
            .v_head_stride = past->n_keys * v_bytes,
            .position = begin,
            .count = length,
            .pinned = begin < past->n_pinned,
        };
        begin += length;
    }
    return count;
}

static void cut_past(struct attention *attention, size_t s)
{
    struct past *past = &attention->pasts[s];
    size_t half = MOST_SPANS / 2;
    size_t n = cut_spans(attention, past, 0, past->n_pinned, half, past->spans);
    n += cut_spans(attention, past, past->n_pinned, past->n_keys, half, past->spans + n);
    attention->sequences[s].spans = past->spans;
    attention->sequences[s].n_spans = n;
}

/* Rows of n elements in [-scale, scale), as a cache of the type has them. */
static unsigned char *random_rows(size_t n_rows, size_t n, hymba_dtype type, float scale)
{
    float greatest = hy_cache_greatest(type);
    if (greatest == 0.0f)
        return random_elements(n_rows * n, type, scale, 0);
    unsigned char *rows = guarded(n_rows * (n + sizeof(float)));
    for (size_t row = 0; row < n_rows; row++) {
        unsigned char *bytes = rows + row * (n + sizeof(float));
        float row_scale = (0.1f + 0.9f * (float)test_random()) * scale / greatest;
        for (size_t i = 0; i < n; i++)
            bytes[i] = type == HYMBA_DTYPE_INT8
                           ? (unsigned char)((int)test_random_below(255) - 127)
                           : hy_f32_to_fp8((float)(test_random() * 896.0 - 448.0));
        memcpy(bytes + n, &row_scale, sizeof row_scale);
    }
    return rows;
}

/* Element i of row number row; rows have n elements. */
static double row_element(const unsigned char *rows, hymba_dtype type, size_t n, size_t row,
                          size_t i)
{
    if (hy_cache_greatest(type) == 0.0f)
        return element(rows, type, row * n + i);
    float scale;
    rows += row * (n + sizeof scale);
    memcpy(&scale, rows + n, sizeof scale);
    if (type == HYMBA_DTYPE_FP8)
        return (double)scale * (double)hy_fp8_to_f32(rows[i]);
    return (double)scale * (rows[i] > 127 ? rows[i] - 256 : rows[i]);
}

static void random_past(struct attention *attention, size_t s)
{
    const struct hy_attention_args *args = &attention->args;
    struct past *past = &attention->pasts[s];
    struct hy_attention_sequence *sequence = &attention->sequences[s];
    size_t n_rows = 1 + test_random_below(6);
    sequence->position = test_random_below(60);
    past->window = test_random_below(4) ? test_random_below(40) : UINT64_MAX;
    sequence->window = past->window;
    past->n_keys = (size_t)sequence->position + n_rows + test_random_below(3);
    past->n_pinned = test_random_below(8);
    if (past->n_pinned > past->n_keys)
        past->n_pinned = past->n_keys;
    past->k = random_rows(args->n_kv_heads * past->n_keys, args->qk_size, args->cache_type, 2.0f);
    past->v = random_rows(args->n_kv_heads * past->n_keys, args->v_size, args->cache_type, 1.0f);
    sequence->segment = (struct hy_segment){attention->n_rows, n_rows};
    attention->n_rows += n_rows;
    cut_past(attention, s);
}

static void random_attention(struct attention *attention)
{
    struct hy_attention_args *args = &attention->args;
    bool usual = test_random_below(4) == 0; /* the published model's sizes */
    memset(attention, 0, sizeof *attention);
    args->n_kv_heads = 1 + test_random_below(3);
    args->n_heads = args->n_kv_heads * (usual ? 5 : 1 + test_random_below(8));
    args->qk_size = usual ? 64 : 1 + test_random_below(40);
    args->v_size = usual ? 128 : 1 + test_random_below(90);
    args->q_stride = args->n_heads * args->qk_size + test_random_below(3);
    args->out_stride = args->n_heads * args->v_size + test_random_below(3);
    args->scale = 1.0f / sqrtf((float)args->qk_size);
    args->cache_type = cache_types[test_random_below(N_CACHE_TYPES)];
    args->bf16 = args->cache_type == HYMBA_DTYPE_BF16 && test_random_below(3) > 0;
    args->n_sequences = 1 + test_random_below(MOST_SEQUENCES);
    args->sequences = attention->sequences;
    for (size_t s = 0; s < args->n_sequences; s++) {
        random_past(attention, s);
        if (attention->pasts[s].n_keys > args->max_keys)
            args->max_keys = attention->pasts[s].n_keys;
    }
    args->q = random_floats(attention->n_rows * args->q_stride, 2.0f);
    attention->out_size = (attention->n_rows - 1) * args->out_stride
                          + args->n_heads * args->v_size;
    args->out = zero_floats(attention->out_size);
    attention->scratch = guarded(hy_attention_scratch(args) * sizeof(float));
}

static size_t n_units(const struct attention *attention)
{
    return attention->n_rows * attention->args.n_heads;
}

static bool sees(const struct past *past, uint64_t position, size_t key)
{
    return key <= position && (key < past->n_pinned || position - key <= past->window);
}

static double exact_score(const struct attention *attention, const struct past *past, size_t row,
                          size_t head, size_t key)
{
    const struct hy_attention_args *args = &attention->args;
    size_t kv_head = head / (args->n_heads / args->n_kv_heads);
    const float *q = args->q + row * args->q_stride + head * args->qk_size;
    double sum = 0.0;
    for (size_t i = 0; i < args->qk_size; i++)
        sum += (double)(args->bf16 ? hy_bf16_to_f32(hy_f32_to_bf16(q[i])) : q[i])
               * row_element(past->k, args->cache_type, args->qk_size,
                             kv_head * past->n_keys + key, i);
    return sum * (double)args->scale;
}

/*
 * A score sums up to 64 terms below 4, scaled by 1/8: the roundings of such a sum move it by about
 * 1e-6, and the result, an average of values below 1, by as much. A key too many or too few moves
 * it by 1e-2. Weights that are rounded to bf16 add the rounding, 2^-8 of an average of magnitudes
 * below 1, and what is too small for it.
 */
static void check_head(const struct attention *attention, size_t s, size_t row, size_t head)
{
    const struct hy_attention_args *args = &attention->args;
    const struct past *past = &attention->pasts[s];
    uint64_t position = attention->sequences[s].position
                        + (row - attention->sequences[s].segment.row);
    size_t kv_head = head / (args->n_heads / args->n_kv_heads);
    double *out = calloc(args->v_size, sizeof *out), total = 0.0;
    ck_assert_ptr_nonnull(out);
    for (size_t key = 0; key < past->n_keys; key++) {
        if (!sees(past, position, key))
            continue;
        double weight = exp(exact_score(attention, past, row, head, key));
        total += weight;
        for (size_t i = 0; i < args->v_size; i++)
            out[i] += weight
                      * row_element(past->v, args->cache_type, args->v_size,
                                    kv_head * past->n_keys + key, i);
    }
    for (size_t i = 0; i < args->v_size; i++)
        check_near((double)args->out[row * args->out_stride + head * args->v_size + i],
                   out[i] / total, args->bf16 ? 0x1.02p-8 : 1e-5, "attention");
    free(out);
}

static void check_attention(const struct attention *attention)
{
    for (size_t s = 0; s < attention->args.n_sequences; s++) {
        const struct hy_segment *segment = &attention->sequences[s].segment;
        for (size_t row = segment->row; row < segment->row + segment->n_rows; row++)
            for (size_t head = 0; head < attention->args.n_heads; head++)
                check_head(attention, s, row, head);
    }
}

START_TEST(against_double)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (int number = 0; number < CASES; number++) {
        struct attention attention;
        random_attention(&attention);
        kernels.attention(&attention.args, 0, n_units(&attention), attention.scratch);
        check_attention(&attention);
        release_guarded();
    }
}
END_TEST

/* Other cuts of the keys into spans and other divisions of the work. */
START_TEST(cuts_give_the_same_bits)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (int number = 0; number < CASES; number++) {
        struct attention attention;
        random_attention(&attention);
        kernels.attention(&attention.args, 0, n_units(&attention), attention.scratch);
        float *whole = attention.args.out;
        attention.args.out = zero_floats(attention.out_size);
        for (size_t s = 0; s < attention.args.n_sequences; s++)
            cut_past(&attention, s);
        size_t borders[MOST_PARTS + 1];
        size_t n_parts = random_division(n_units(&attention), borders);
        for (size_t part = 0; part < n_parts; part++)
            kernels.attention(&attention.args, borders[part], borders[part + 1],
                              attention.scratch);
        check_same_bits(whole, attention.args.out, attention.out_size, "other cuts");
        release_guarded();
    }
}
END_TEST

/* Each row in a call of its own, with more room for scores than it needs. */
START_TEST(rows_alone_give_the_same_bits)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (int number = 0; number < CASES; number++) {
        struct attention attention;
        random_attention(&attention);
        kernels.attention(&attention.args, 0, n_units(&attention), attention.scratch);
        for (size_t s = 0; s < attention.args.n_sequences; s++) {
            struct hy_attention_sequence sequence = attention.sequences[s];
            for (size_t t = 0; t < sequence.segment.n_rows; t++) {
                size_t row = sequence.segment.row + t;
                struct hy_attention_sequence alone = sequence;
                struct hy_attention_args args = attention.args;
                alone.segment = (struct hy_segment){0, 1};
                alone.position += t;
                args.q += row * args.q_stride;
                args.out = zero_floats(args.n_heads * args.v_size);
                args.sequences = &alone;
                args.n_sequences = 1;
                args.max_keys += 3;
                float *scratch = guarded(hy_attention_scratch(&args) * sizeof(float));
                kernels.attention(&args, 0, args.n_heads, scratch);
                check_same_bits(args.out, attention.args.out + row * args.out_stride,
                                args.n_heads * args.v_size, "row alone");
            }
        }
        release_guarded();
    }
}
END_TEST

/* Scores in the thousands: the greatest takes all, nothing overflows. */
START_TEST(great_scores)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    enum { KEYS = 37 };
    float k[KEYS], v[KEYS], q = 1.0f, out, scratch[KEYS];
    for (size_t i = 0; i < KEYS; i++) {
        k[i] = i == 20 ? 3000.0f : -100.0f * (float)i;
        v[i] = (float)i;
    }
    struct hy_span span = {.k = k, .v = v, .count = KEYS};
    struct hy_attention_sequence sequence = {{0, 1}, KEYS - 1, UINT64_MAX, &span, 1};
    struct hy_attention_args args = {
        .q = &q, .out = &out, .n_heads = 1, .n_kv_heads = 1, .qk_size = 1, .v_size = 1,
        .scale = 1.0f, .cache_type = HYMBA_DTYPE_F32,
        .sequences = &sequence, .n_sequences = 1, .max_keys = KEYS,
    };
    kernels.attention(&args, 0, 1, scratch);
    ck_assert_float_eq(out, 20.0f);
    k[3] = NAN;
    kernels.attention(&args, 0, 1, scratch);
    ck_assert(isnan(out));
}
END_TEST

/* An int8 or fp8 row whose scale is not finite, as a key and as a value. */
START_TEST(scales_that_are_not_finite)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    enum { KEYS = 9, ROW = 5 };
    const float bad[] = {INFINITY, NAN};
    for (int number = 0; number < 8; number++) {
        hymba_dtype type = number < 4 ? HYMBA_DTYPE_INT8 : HYMBA_DTYPE_FP8;
        unsigned char k[KEYS * ROW] = {0}, v[KEYS * ROW] = {0};
        float q = 1.0f, out, scratch[KEYS], one = 1.0f;
        for (size_t i = 0; i < KEYS; i++) {
            k[i * ROW] = v[i * ROW] = type == HYMBA_DTYPE_INT8 ? 1 : 0x38;
            memcpy(k + i * ROW + 1, &one, sizeof one);
            memcpy(v + i * ROW + 1, &one, sizeof one);
        }
        struct hy_span span = {.k = k, .v = v, .count = KEYS};
        struct hy_attention_sequence sequence = {{0, 1}, KEYS - 1, UINT64_MAX, &span, 1};
        struct hy_attention_args args = {
            .q = &q, .out = &out, .n_heads = 1, .n_kv_heads = 1, .qk_size = 1, .v_size = 1,
            .scale = 1.0f, .cache_type = type,
            .sequences = &sequence, .n_sequences = 1, .max_keys = KEYS,
        };
        kernels.attention(&args, 0, 1, scratch);
        check_near((double)out, 1.0, 1e-6, "equal values");
        unsigned char *row = (number % 2 ? k : v) + 6 * ROW;
        row[0] = 0;
        memcpy(row + 1, &bad[number / 2 % 2], sizeof bad[0]);
        kernels.attention(&args, 0, 1, scratch);
        ck_assert(isnan(out));
    }
}
END_TEST

/* Every byte as the only element of the only value, and NaN in any place of a longer row. */
START_TEST(every_fp8_number)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    enum { V_SIZE = 45 };
    unsigned char k[1 + sizeof(float)] = {0}, v[V_SIZE + sizeof(float)] = {0};
    float q = 1.0f, out[V_SIZE], scratch[8 * V_SIZE], scale = 0.5f;
    struct hy_span span = {.k = k, .v = v, .count = 1};
    struct hy_attention_sequence sequence = {{0, 1}, 0, UINT64_MAX, &span, 1};
    struct hy_attention_args args = {
        .q = &q, .out = out, .n_heads = 1, .n_kv_heads = 1, .qk_size = 1, .v_size = 1,
        .scale = 1.0f, .cache_type = HYMBA_DTYPE_FP8,
        .sequences = &sequence, .n_sequences = 1, .max_keys = 1,
    };
    for (int code = 0; code < 256; code++) {
        v[0] = (unsigned char)code;
        memcpy(v + 1, &scale, sizeof scale);
        kernels.attention(&args, 0, 1, scratch);
        if ((code & 0x7f) == 0x7f)
            ck_assert(isnan(out[0]));
        else
            ck_assert_float_eq(out[0], 0.5f * hy_fp8_to_f32((uint8_t)code));
    }
    args.v_size = V_SIZE;
    memcpy(v + V_SIZE, &scale, sizeof scale);
    for (size_t place = 0; place < V_SIZE; place++) {
        memset(v, 0x38, V_SIZE);
        v[place] = place % 2 ? 0xff : 0x7f;
        kernels.attention(&args, 0, 1, scratch);
        for (size_t i = 0; i < V_SIZE; i++)
            ck_assert(i == place ? isnan(out[i]) != 0 : out[i] == 0.5f);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("attention");
    TCase *tcase = tcase_create("attention");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, against_double, 0, N_SETS);
    tcase_add_loop_test(tcase, cuts_give_the_same_bits, 0, N_SETS);
    tcase_add_loop_test(tcase, rows_alone_give_the_same_bits, 0, N_SETS);
    tcase_add_loop_test(tcase, great_scores, 0, N_SETS);
    tcase_add_loop_test(tcase, scales_that_are_not_finite, 0, N_SETS);
    tcase_add_loop_test(tcase, every_fp8_number, 0, N_SETS);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
