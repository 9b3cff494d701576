/* What the attention kernels do for a call: how it is divided into parts and tiles, and the bytes
 * that these read and write. */
#include "attention_test.h"
#include "traffic.h"

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

int main(void)
{
    Suite *suite = suite_create("cuda attention work");
    TCase *tcase = tcase_create("work");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, decoding_reads_each_byte_once, 0, 3);
    tcase_add_test(tcase, only_visible_parts_are_work);
    tcase_add_test(tcase, tiles_are_chosen_by_their_number);
    tcase_add_loop_test(tcase, a_tile_reads_its_keys_once, 0, 4);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
