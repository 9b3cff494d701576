/* Bytes and operations of ops, against counts made by hand. */
#include "support.h"

#include "backend/op_cost.h"
#include "kernel/kernel.h"
#include "text/sample_row.h"

static void check(enum hy_op op, const void *args, size_t rows, double bytes, double operations)
{
    struct hy_op_cost cost = hy_op_cost(op, args, rows);
    ck_assert_double_eq(cost.bytes, bytes);
    ck_assert_double_eq(cost.operations, operations);
}

/* 3 rows of 8 columns from a table in bf16: ids, table rows, results. */
START_TEST(embedding)
{
    struct hy_embed_args args = {.table = {.dtype = HYMBA_DTYPE_BF16, .rows = 100, .columns = 8}};
    check(HY_OP_EMBED, &args, 3, 3 * (4 + 16 + 32), 0);
    args.table = (struct hy_matrix){
        .dtype = HYMBA_DTYPE_INT8, .rows = 100, .columns = 64, .group = 32};
    check(HY_OP_EMBED, &args, 3, 3 * (4 + (64 + 4) + 256), 3 * 64);
}
END_TEST

START_TEST(products)
{
    struct hy_rounded rounded = {.dtype = HYMBA_DTYPE_BF16};
    struct hy_matmul_args args = {.m = 2, .n = 5, .k = 64, .dtype = HYMBA_DTYPE_F32};
    check(HY_OP_MATMUL, &args, 0, 5 * 256 + 2 * 256 + 2 * 20, 2 * 2 * 5 * 64);
    float bias[5] = {0};
    args.bias = bias;
    args.accumulate = true;
    check(HY_OP_MATMUL, &args, 0, 5 * 256 + 2 * 256 + 2 * 2 * 20 + 20, 2 * 2 * 5 * 64);
    args = (struct hy_matmul_args){
        .m = 2, .n = 5, .k = 64, .dtype = HYMBA_DTYPE_BF16, .rounded = &rounded};
    check(HY_OP_MATMUL, &args, 0, 5 * 128 + 2 * 128 + 40, 1280);
    int32_t sums[4];
    rounded = (struct hy_rounded){.dtype = HYMBA_DTYPE_INT8, .sums = sums, .group = 32};
    args = (struct hy_matmul_args){
        .m = 2, .n = 5, .k = 64, .dtype = HYMBA_DTYPE_INT4, .group = 32, .rounded = &rounded};
    /* half a byte each and two scales; activations: a byte each, two scales and two sums */
    check(HY_OP_MATMUL, &args, 0, 5 * (32 + 4) + 2 * (64 + 16) + 40, 1280);
    rounded = (struct hy_rounded){.dtype = HYMBA_DTYPE_FP8, .group = 50};
    args = (struct hy_matmul_args){.m = 2, .n = 5, .k = 50, .dtype = HYMBA_DTYPE_FP8, .group = 50,
                                   .rounded = &rounded, .by_rows = true};
    /* rows of whole vectors with a scale each */
    check(HY_OP_MATMUL, &args, 0, 5 * (64 + 4) + 2 * (50 + 4) + 40, 1000);
}
END_TEST

START_TEST(row_by_row)
{
    float y[1];
    struct hy_rounded bf16 = {.dtype = HYMBA_DTYPE_BF16, .data = y};
    struct hy_rms_norm_args norm = {.n = 10, .y = y};
    struct hy_round_args round = {.n = 10, .y = {.dtype = HYMBA_DTYPE_BF16}};
    struct hy_fuse_args fuse = {.n = 10, .y = y};
    struct hy_swiglu_args swiglu = {.n = 10, .y = y};
    check(HY_OP_RMS_NORM, &norm, 2, 2 * 80 + 40, 2 * 40);
    check(HY_OP_ROUND, &round, 2, 2 * 60, 2 * 10);
    check(HY_OP_FUSE, &fuse, 2, 2 * 120 + 80, 2 * (80 + 20));
    check(HY_OP_SWIGLU, &swiglu, 2, 2 * 120, 2 * 40);
    norm.rounded = fuse.rounded = swiglu.rounded = bf16;
    check(HY_OP_RMS_NORM, &norm, 2, 2 * 100 + 40, 2 * 50);
    norm.y = fuse.y = swiglu.y = NULL;
    check(HY_OP_RMS_NORM, &norm, 2, 2 * 60 + 40, 2 * 50);
    check(HY_OP_FUSE, &fuse, 2, 2 * 100 + 80, 2 * (80 + 20 + 10));
    check(HY_OP_SWIGLU, &swiglu, 2, 2 * 100, 2 * 50);
    fuse.concat = true;
    check(HY_OP_FUSE, &fuse, 2, 2 * 120 + 80, 2 * (80 + 20));
}
END_TEST

/* Parts of 6, 2 and 2; three query heads and two key heads of width 4, values of width 6. */
START_TEST(several_in_one)
{
    float x[1];
    struct hy_norm_parts_args parts = {.x = x, .parts = {{x, 6}, {x, 2}, {x, 2}}};
    struct hy_rope_store_args heads = {.n_heads = 3, .n_kv_heads = 2, .qk_size = 4, .v_size = 6,
                                       .cosine = x, .sine = x, .dtype = HYMBA_DTYPE_INT8};
    check(HY_OP_NORM_PARTS, &parts, 3, 3 * 80 + 40, 3 * 40);
    parts.rounded = (struct hy_rounded){.dtype = HYMBA_DTYPE_BF16, .data = x};
    check(HY_OP_NORM_PARTS, &parts, 3, 3 * (40 + 12 + 16) + 40, 3 * 46);
    /* queries there and back, angles, keys, values, what is stored with its scales */
    check(HY_OP_ROPE_STORE, &heads, 2, 2 * (96 + 16 + 32 + 48 + 2 * (8 + 10)),
          2 * (3 * 20 + 8 + 12));
    heads.cosine = heads.sine = NULL;
    check(HY_OP_ROPE_STORE, &heads, 2, 2 * (32 + 48 + 2 * (8 + 10)), 2 * (8 + 12));
    heads.n_kv_heads = 0;
    heads.cosine = heads.sine = x;
    check(HY_OP_ROPE_STORE, &heads, 2, 2 * (96 + 16), 2 * 36);
}
END_TEST

/*
 * A query head of width 4 and values of width 4, one key head, f32 caches: a key with its value is
 * 32 bytes and 16 operations. Two rows at positions 6 and 7 with a window of 2: they see the
 * pinned keys 0 and 1, keys 4 .. 6 and 5 .. 7.
 */
START_TEST(attention)
{
    static const float cached[1];
    struct hy_span spans[] = {
        {.k = &cached[0], .position = 0, .count = 2, .pinned = true},
        {.k = NULL, .position = 2, .count = 4},
        {.k = NULL, .position = 6, .count = 2},
    };
    struct hy_attention_sequence sequences[2] = {
        {.segment = {0, 2}, .position = 6, .window = 2, .spans = spans, .n_spans = 3}};
    struct hy_attention_args args = {
        .n_heads = 1,
        .n_kv_heads = 1,
        .qk_size = 4,
        .v_size = 4,
        .cache_type = HYMBA_DTYPE_F32,
        .sequences = sequences,
        .n_sequences = 1,
    };
    check(HY_OP_ATTENTION, &args, 2, 2 * 32 + (2 + 4) * 32, (2 + 3 + 2 + 3) * 16);
    args.n_heads = 2; /* that share keys */
    check(HY_OP_ATTENTION, &args, 2, 2 * 64 + (2 + 4) * 32, 2 * (2 + 3 + 2 + 3) * 16);
    args.n_heads = 1;
    sequences[0].window = UINT64_MAX;
    check(HY_OP_ATTENTION, &args, 2, 2 * 32 + 8 * 32, (7 + 8) * 16);
    /* a fork with a span of its own: what both have is read once */
    struct hy_span own[] = {spans[0], spans[1], spans[2]};
    static const float other[2];
    own[1].k = &other[0];
    spans[1].k = &cached[0];
    spans[2].k = own[2].k = &other[1];
    own[2].k = &cached[0];
    sequences[1] = sequences[0];
    sequences[1].segment.row = 2;
    sequences[1].spans = own;
    args.n_sequences = 2;
    check(HY_OP_ATTENTION, &args, 4, 4 * 32 + (8 + 6) * 32, 2 * (7 + 8) * 16);
}
END_TEST

/* Two sequences of 3 rows and 1 row, 10 channels; a third has no rows in this call. */
START_TEST(recurrent)
{
    float y[1];
    struct hy_state_sequence sequences[] = {
        {.segment = {0, 3}, .state_type = HYMBA_DTYPE_F32},
        {.segment = {3, 1}, .state_type = HYMBA_DTYPE_BF16},
        {.segment = {4, 0}, .state_type = HYMBA_DTYPE_F32},
    };
    struct hy_conv_args conv = {
        .n = 10, .width = 4, .y = y, .sequences = sequences, .n_sequences = 3};
    struct hy_scan_args scan = {
        .n = 10, .state_size = 16, .sequences = sequences, .n_sequences = 3};
    /* inputs and outputs; states read and written; taps and bias */
    check(HY_OP_CONV, &conv, 0, 4 * 80 + 2 * 120 + 2 * 60 + 160 + 40, 4 * 10 * (8 + 3));
    /* dt, x, z, y; b, c; states read and written; a; d */
    check(HY_OP_SCAN, &scan, 0, 4 * 160 + 4 * 128 + 2 * 640 + 2 * 320 + 640 + 40,
          4 * 10 * (112 + 10));
    conv.rounded = (struct hy_rounded){.dtype = HYMBA_DTYPE_BF16, .data = y};
    check(HY_OP_CONV, &conv, 0, 4 * 100 + 2 * 120 + 2 * 60 + 160 + 40, 4 * 10 * (8 + 3 + 1));
}
END_TEST

START_TEST(sampling)
{
    struct hy_sample_args args = {.n_logits = 100, .n_rows = 3};
    check(HY_OP_SAMPLE, &args, 3, 3 * 400 + 3 * 4, 300);
}
END_TEST

START_TEST(of_ranks)
{
    struct hy_square_sums_args squares = {.n = 10};
    struct hy_all_sum_args sum = {.n = 10};
    check(HY_OP_SQUARE_SUMS, &squares, 3, 3 * 80 + 3 * 8, 3 * 40);
    check(HY_OP_ALL_SUM, &sum, 3, 3 * 80, 0);
    sum.accumulate = true;
    check(HY_OP_ALL_SUM, &sum, 3, 3 * 120, 30);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("op cost");
    TCase *tests = tcase_create("counts");
    tcase_add_test(tests, embedding);
    tcase_add_test(tests, products);
    tcase_add_test(tests, row_by_row);
    tcase_add_test(tests, several_in_one);
    tcase_add_test(tests, attention);
    tcase_add_test(tests, recurrent);
    tcase_add_test(tests, sampling);
    tcase_add_test(tests, of_ranks);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
