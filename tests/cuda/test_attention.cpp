/* The attention kernels under the harness against double precision, and with the same bits however
 * rows, spans and tiles are cut. */
#include "attention_test.h"

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
            if (i % args->out_stride >= args->n_heads * args->v_size && !isnan(whole[i]))
                ck_abort_msg("element %zu was written", i);
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
    tcase_add_loop_test(tcase, large_tiles_give_the_same_bits, 0, N_PROMPTS);
    tcase_add_loop_test(tcase, spans_of_any_length_and_place, 0, 4);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
