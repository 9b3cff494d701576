/*
 * Which keys a row sees, of every kernel for many rows and of decoding: windows and positions that
 * put every border on every key of a block, meta tokens, holes between spans. All keys weigh the
 * same, and key i's value has a 1 in one place alone, so results count keys. The last place is 1 in
 * all values, and stays so.
 */
#include "attention.h"
#include "device_test.h"

enum {
    HEADS = 3,   /* of one key head; of 64 pairs of a tile the last row has some */
    ROWS = 23,   /* a tile and a part of one */
    QK_SIZE = 8,
    V_SIZE = 64,
    PLACES = V_SIZE - 1,
    MOST_KEYS = 160,
    FIRST = 70
};

static const struct {
    const char *name;
    hymba_dtype type;
    bool bf16;
    unsigned tile_pairs;
    size_t n_rows;
    unsigned block; /* keys that it takes together */
} kernels[] = {
    {"tensor cores, bf16", HYMBA_DTYPE_BF16, true, HY_ATTENTION_TILE, ROWS, 32},
    {"tensor cores, f16", HYMBA_DTYPE_F16, true, HY_ATTENTION_TILE, ROWS, 32},
    {"tensor cores, large tiles", HYMBA_DTYPE_BF16, true, 2 * HY_ATTENTION_TILE, ROWS, 32},
    {"tensor cores, int8", HYMBA_DTYPE_INT8, true, HY_ATTENTION_TILE, ROWS, 64},
    {"tensor cores, fp8", HYMBA_DTYPE_FP8, true, HY_ATTENTION_TILE, ROWS, 64},
    {"f32", HYMBA_DTYPE_F32, false, HY_ATTENTION_TILE, ROWS, 64},
    {"f32, int8", HYMBA_DTYPE_INT8, false, HY_ATTENTION_TILE, ROWS, 64},
    {"decoding", HYMBA_DTYPE_BF16, false, HY_ATTENTION_TILE, 2, 64},
};
enum { N_KERNELS = sizeof kernels / sizeof kernels[0] };

/* A sequence whose keys are those below n_pinned and, behind a hole, those from `rest` on. */
struct sequence {
    uint64_t position, window;
    size_t n_rows, n_pinned, rest;
};

static bool sees(const struct sequence &sequence, uint64_t position, size_t key)
{
    return key <= position && (key < sequence.n_pinned || key >= sequence.rest)
           && (key < sequence.n_pinned || position - key <= sequence.window);
}

static void set_one(unsigned char *row, hymba_dtype type, size_t place)
{
    const float one = 1.0f;
    if (type == HYMBA_DTYPE_INT8 || type == HYMBA_DTYPE_FP8)
        row[place] = type == HYMBA_DTYPE_INT8 ? 1 : hy_f32_to_fp8(one);
    else
        hy_row_from_f32(&one, type, row + place * hy_dtype_size(type), 1);
}

/* n rows of a cache, all 0 but, if ones, for row number key its place and the last one. */
static std::vector<unsigned char> make_rows(hymba_dtype type, size_t n, size_t size, bool ones)
{
    const size_t row_bytes = hy_cache_row_bytes(type, size);
    const float one = 1.0f;
    std::vector<unsigned char> rows(n * row_bytes);
    for (size_t key = 0; key < n; key++) {
        unsigned char *row = &rows[key * row_bytes];
        if (hy_cache_greatest(type) != 0.0f)
            memcpy(row + size, &one, sizeof one);
        if (ones) {
            set_one(row, type, key % PLACES);
            set_one(row, type, PLACES);
        }
    }
    return rows;
}

/* What the kernel gives; `kernel` is one of kernels. */
class caches {
public:
    explicit caches(size_t kernel_)
        : kernel(kernel_), k(make_rows(kernels[kernel].type, MOST_KEYS, QK_SIZE, false)),
          v(make_rows(kernels[kernel].type, MOST_KEYS, V_SIZE, true)),
          q(random_floats(ROWS * HEADS * QK_SIZE, 1.0f))
    {
    }
    std::vector<float> attend(const struct sequence &what) const
    {
        struct hy_span spans[2] = {span_of(0, what.n_pinned, true),
                                   span_of(what.rest, (size_t)what.position + what.n_rows, false)};
        struct hy_attention_sequence sequence = {};
        struct hy_attention_args args = {};
        struct hy_attention_plan plan;
        const device_array<float> out(std::vector<float>(what.n_rows * HEADS * V_SIZE, NAN));
        sequence.segment.n_rows = what.n_rows;
        sequence.position = what.position;
        sequence.window = what.window;
        sequence.spans = what.n_pinned > 0 ? spans : spans + 1;
        sequence.n_spans = what.n_pinned > 0 ? 2 : 1;
        args.q = q.data;
        args.out = out.data;
        args.n_heads = HEADS;
        args.n_kv_heads = 1;
        args.qk_size = QK_SIZE;
        args.v_size = V_SIZE;
        args.q_stride = HEADS * QK_SIZE;
        args.out_stride = HEADS * V_SIZE;
        args.scale = 1.0f;
        args.cache_type = kernels[kernel].type;
        args.bf16 = kernels[kernel].bf16;
        args.sequences = &sequence;
        args.n_sequences = 1;
        args.max_keys = MOST_KEYS;
        ck_assert(hy_cuda_attention_plan(&args, &plan, 0, kernels[kernel].tile_pairs));
        launch(&args, &plan);
        return out.read();
    }

private:
    struct hy_span span_of(size_t begin, size_t end, bool pinned) const
    {
        struct hy_span span = {};
        span.k = k.data + begin * hy_cache_row_bytes(kernels[kernel].type, QK_SIZE);
        span.v = v.data + begin * hy_cache_row_bytes(kernels[kernel].type, V_SIZE);
        span.position = begin;
        span.count = end - begin;
        span.pinned = pinned;
        return span;
    }
    static void launch(const struct hy_attention_args *args, struct hy_attention_plan *plan)
    {
        std::vector<uint64_t> lists(plan->list_bytes / sizeof(uint64_t));
        const device_array<uint64_t> place(lists);
        const device_array<unsigned char> workspace(
            std::vector<unsigned char>(plan->workspace_bytes));
        hy_cuda_attention_lists(args, plan, lists.data(), place.data);
        ck_assert_int_eq(cudaMemcpy(place.data, lists.data(), plan->list_bytes,
                                    cudaMemcpyHostToDevice),
                         cudaSuccess);
        hy_cuda_attention(NULL, args, plan, workspace.data);
        check_harness();
    }
    const size_t kernel;
    const device_array<unsigned char> k, v;
    const device_array<float> q;
};

/* Each place of a row: how many of the keys that have their 1 there it sees, of all that it sees. */
static void check(const caches &caches, size_t kernel, const struct sequence &sequence)
{
    const std::vector<float> out = caches.attend(sequence);
    for (size_t t = 0; t < sequence.n_rows; t++) {
        unsigned counts[V_SIZE] = {}, all = 0;
        for (size_t key = 0; key < MOST_KEYS; key++) {
            const bool seen = sees(sequence, sequence.position + t, key);
            counts[key % PLACES] += seen;
            counts[PLACES] += seen;
            all += seen;
        }
        for (size_t i = 0; i < HEADS * V_SIZE; i++) {
            const double found = (double)out[t * HEADS * V_SIZE + i];
            const double expected = (double)counts[i % V_SIZE] / (double)all;
            if (!(fabs(found - expected) <= (counts[i % V_SIZE] == all ? 0 : 1e-5)))
                ck_abort_msg("%s, rows from %u on, window %llu, %zu pinned, a hole up to %zu: row "
                             "%zu sees %g of %u keys at place %zu, expected %u",
                             kernels[kernel].name, (unsigned)sequence.position,
                             (unsigned long long)sequence.window, sequence.n_pinned, sequence.rest,
                             t, found * all, all, i, counts[i % V_SIZE]);
        }
    }
}

/* Rows that begin, and windows that end, at every key of a block. */
START_TEST(borders)
{
    const caches keys((size_t)_i);
    for (unsigned more = 0; more <= kernels[_i].block; more++) {
        const size_t n_pinned = more % 3 == 0 ? 0 : more % 3 == 1 ? 3 : 45;
        check(keys, (size_t)_i,
              {FIRST + more, 30 + 2 * more, kernels[_i].n_rows, n_pinned, n_pinned});
    }
}
END_TEST

START_TEST(short_windows_and_first_rows)
{
    const caches keys((size_t)_i);
    for (unsigned window : {0, 1, 22})
        check(keys, (size_t)_i, {FIRST + 1, window, kernels[_i].n_rows, 40, 40});
    for (unsigned position : {0, 1, 10, 33})
        check(keys, (size_t)_i, {position, 20, kernels[_i].n_rows, position / 2, position / 2});
}
END_TEST

/* Positions that lie in no span, within what rows could see. */
START_TEST(holes)
{
    const caches keys((size_t)_i);
    for (unsigned begin = 1; begin < FIRST; begin += 33)
        for (unsigned end = begin + 1; end <= FIRST; end += 19) {
            check(keys, (size_t)_i, {FIRST, UINT64_MAX, kernels[_i].n_rows, begin, end});
            check(keys, (size_t)_i, {FIRST, 40, kernels[_i].n_rows, begin, end});
        }
    check(keys, (size_t)_i, {FIRST, UINT64_MAX, kernels[_i].n_rows, 0, 33}); /* the first ones */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("keys that rows see");
    TCase *tcase = tcase_create("keys");
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, harness_reset, NULL);
    tcase_add_loop_test(tcase, borders, 0, N_KERNELS);
    tcase_add_loop_test(tcase, short_windows_and_first_rows, 0, N_KERNELS);
    tcase_add_loop_test(tcase, holes, 0, N_KERNELS);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
