/* The attention kernels with great scores, infinities, and what is no number. */
#include "attention_test.h"

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
            if (out[i] != expected && !(isnan(out[i]) && isnan(expected)))
                ck_abort_msg("%02x became %g", (unsigned)i % V_SIZE, (double)out[i]);
        }
    }
    release_all();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda attention numbers");
    TCase *tcase = tcase_create("numbers");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, great_scores, 0, N_KERNELS);
    tcase_add_loop_test(tcase, keys_that_are_no_numbers, 0, N_KERNELS);
    tcase_add_loop_test(tcase, values_that_are_no_numbers, 0, N_KERNELS);
    tcase_add_test(tcase, scales_that_are_not_finite);
    tcase_add_loop_test(tcase, every_fp8_number, 0, 8);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
