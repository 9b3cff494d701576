/*
 * A context on a device with memory of its own against one on the CPU, both with the generic
 * kernels: whatever is done to sessions, the same bits come out, in logits and in saved files. The
 * device is that of guarded_device.c: a stray access of the host ends the program.
 */
#include <stdlib.h>
#include <string.h>

#include "golden.h"
#include "guarded_world.h"

enum { N_PAIRS = 4, MAX_TOKENS = 300, MAX_LENGTH = 700 };

static hymba_error error = {.struct_size = sizeof error};

/* ------------------------------------------------------------- in lockstep */

/* The same session on both. */
struct pair {
    hymba_session *sessions[2];
};

struct world {
    hymba_context *contexts[2]; /* the CPU, the device */
    hymba_session_params params;
    struct pair pairs[N_PAIRS];
    size_t vocabulary;
};

static void create_pair(struct world *world, struct pair *pair)
{
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_create(world->contexts[i], &world->params, &pair->sessions[i],
                                         &error),
                    HYMBA_OK, error);
}

static void release_pair(struct pair *pair)
{
    for (int i = 0; i < 2; i++)
        hymba_session_release(pair->sessions[i]);
    *pair = (struct pair){{NULL, NULL}};
}

static size_t length_of(const struct pair *pair)
{
    size_t length = (size_t)hymba_session_length(pair->sessions[0]);
    ck_assert_uint_eq(length, hymba_session_length(pair->sessions[1]));
    if (length > 0) /* without tokens there may be no list */
        ck_assert_mem_eq(hymba_session_tokens(pair->sessions[0]),
                         hymba_session_tokens(pair->sessions[1]), length * sizeof(int32_t));
    return length;
}

static void compare_logits(const struct world *world, const struct pair *pair)
{
    const float *logits[2];
    size_t rows[2];
    hymba_status first = hymba_session_logits(pair->sessions[0], &logits[0], &rows[0], &error);
    ck_assert_int_eq(hymba_session_logits(pair->sessions[1], &logits[1], &rows[1], &error), first);
    ck_assert_uint_eq(rows[0], rows[1]);
    if (first == HYMBA_OK)
        ck_assert_msg(memcmp(logits[0], logits[1],
                             rows[0] * world->vocabulary * sizeof(float)) == 0,
                      "the logits differ");
}

static void decode(struct world *world)
{
    static int32_t tokens[N_PAIRS][MAX_TOKENS];
    hymba_batch_item items[2][N_PAIRS];
    size_t n = 0;
    for (int p = 0; p < N_PAIRS; p++) {
        struct pair *pair = &world->pairs[p];
        size_t count = test_random() < 0.5 ? 1 : 1 + test_random_below(test_random_below(40) + 1);
        if (test_random() < 0.05)
            count = 1 + test_random_below(MAX_TOKENS);
        if (!pair->sessions[0] || test_random() < 0.3 || length_of(pair) + count > MAX_LENGTH)
            continue;
        for (size_t i = 0; i < count; i++)
            tokens[p][i] = (int32_t)test_random_below(world->vocabulary);
        int32_t logits = (int32_t)test_random_below(3);
        for (int i = 0; i < 2; i++)
            items[i][n] = (hymba_batch_item){
                pair->sessions[i], tokens[p], count, logits, 0, NULL, NULL};
        n++;
    }
    for (int i = 0; n > 0 && i < 2; i++)
        test_status(hymba_context_decode(world->contexts[i], items[i], sizeof items[i][0], n,
                                         &error),
                    HYMBA_OK, error);
    for (int p = 0; p < N_PAIRS; p++)
        if (world->pairs[p].sessions[0])
            compare_logits(world, &world->pairs[p]);
}

static void fork_pair(struct world *world, struct pair *from)
{
    struct pair *to = &world->pairs[test_random_below(N_PAIRS)];
    if (to == from)
        return;
    release_pair(to);
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_fork(from->sessions[i], &to->sessions[i], NULL, &error),
                    HYMBA_OK, error);
    compare_logits(world, to);
}

static void rewind_pair(struct world *world, struct pair *pair)
{
    size_t length = length_of(pair), back = test_random_below(test_random() < 0.6 ? 5 : length + 1);
    int32_t mode = test_random() < 0.5 ? HYMBA_REWIND_KEPT : HYMBA_REWIND_COMPUTE;
    hymba_status status[2];
    for (int i = 0; i < 2; i++)
        status[i] = hymba_session_rewind(pair->sessions[i], back > length ? 0 : length - back, mode,
                                         NULL, &error);
    ck_assert_int_eq(status[0], status[1]);
    compare_logits(world, pair);
}

/* The files are the same to the byte; what was saved on one device goes on on the other. */
static void save_pair(struct world *world, struct pair *pair)
{
    struct guarded_saved saved[2] = {{0}, {0}};
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_save_to(pair->sessions[i], NULL, guarded_take_piece, &saved[i],
                                          NULL, &error),
                    HYMBA_OK, error);
    ck_assert_uint_eq(saved[0].size, saved[1].size);
    ck_assert_msg(memcmp(saved[0].data, saved[1].data, saved[0].size) == 0, "the files differ");
    release_pair(pair);
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_load_memory(world->contexts[i], saved[1 - i].data,
                                              saved[1 - i].size, NULL, &pair->sessions[i], NULL,
                                              NULL, &error),
                    HYMBA_OK, error);
    for (int i = 0; i < 2; i++)
        free(saved[i].data);
    compare_logits(world, pair);
}

static void change(struct world *world)
{
    struct pair *pair = &world->pairs[test_random_below(N_PAIRS)];
    if (!pair->sessions[0]) {
        create_pair(world, pair);
        return;
    }
    switch (test_random_below(8)) {
    case 0:
        fork_pair(world, pair);
        break;
    case 1:
        for (int i = 0; i < 2; i++)
            test_status(hymba_session_snapshot(pair->sessions[i], NULL, NULL, &error), HYMBA_OK,
                        error);
        break;
    case 2:
    case 3:
        rewind_pair(world, pair);
        break;
    case 4:
        save_pair(world, pair);
        break;
    case 5:
        for (int i = 0; i < 2; i++)
            test_status(hymba_session_reset(pair->sessions[i], &error), HYMBA_OK, error);
        break;
    case 6:
        release_pair(pair);
        break;
    default:
        break;
    }
}

static const struct variant {
    const char *model;
    hymba_context_params params;
    hymba_session_params session;
    hymba_dtype quantize; /* 0: no */
} variants[] = {
    {"goldens/a_all_features", {.rewind_tokens = 3}, {.snapshot_interval = 20}, 0},
    {"goldens/a_all_features",
     {.max_step_tokens = 5, .cache_type = HYMBA_DTYPE_BF16, .state_type = HYMBA_DTYPE_BF16},
     {.snapshot_interval = 64}, 0},
    {"goldens/a_all_features",
     {.compute = HYMBA_COMPUTE_BF16, .cache_type = HYMBA_DTYPE_INT8},
     {0}, 0},
    {"goldens/a_all_features", {.cache_type = HYMBA_DTYPE_FP8, .rewind_tokens = 2}, {0}, 0},
    {"goldens/b_no_meta", {.max_step_tokens = 7, .rewind_tokens = 8}, {0}, 0},
    {"goldens/c_all_sliding", {.state_type = HYMBA_DTYPE_F16, .rewind_tokens = 2}, {0}, 0},
    {"goldens/d_all_full",
     {.cache_type = HYMBA_DTYPE_F16},
     {.max_tokens = 40, .limit_policy = HYMBA_LIMIT_SLIDE}, 0},
    {"goldens/e_gqa1_odd_untied", {.max_step_tokens = 3}, {0}, 0},
    {"goldens/f_official_like", {.rewind_tokens = 4, .max_step_tokens = 16}, {0}, 0},
    {"variants/attention_only", {.rewind_tokens = 1}, {0}, 0},
    {"variants/mamba_only", {.rewind_tokens = 3, .state_type = HYMBA_DTYPE_BF16}, {0}, 0},
    {"variants/mixed_plan", {0}, {0}, 0},
    {"variants/no_rope", {.max_step_tokens = 9}, {0}, 0},
    {"variants/window_one", {.rewind_tokens = 2}, {0}, 0},
    {"goldens/f_official_like",
     {.compute = HYMBA_COMPUTE_F32, .rewind_tokens = 2},
     {0},
     HYMBA_DTYPE_INT8},
    {"goldens/f_official_like",
     {.compute = HYMBA_COMPUTE_F32, .cache_type = HYMBA_DTYPE_INT8},
     {0},
     HYMBA_DTYPE_INT4},
};
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

START_TEST(sessions_are_the_same_to_the_bit)
{
    const struct variant *variant = &variants[_i];
    struct golden golden;
    golden_open(&golden, variant->model);
    guarded_quantise(&golden, variant->quantize);
    test_random_seed((unsigned)_i + 1);
    struct world world = {
        .contexts = {guarded_context(golden.model, variant->params, "cpu"),
                     guarded_context(golden.model, variant->params, "cuda:1")},
        .params = variant->session,
        .vocabulary = golden.model->plan.config.vocabulary_size,
    };
    world.params.struct_size = sizeof world.params;
    for (int i = 0; i < 16; i++) {
        decode(&world);
        change(&world);
    }
    ck_assert_int_gt(guarded->n_steps, 0);
    for (int i = 0; i < 2; i++) /* sessions may outlive their context's handle */
        hymba_context_release(world.contexts[i]);
    for (int p = 0; p < N_PAIRS; p++)
        release_pair(&world.pairs[p]);
    golden_close(&golden);
}
END_TEST

START_TEST(logits_are_the_reference_s)
{
    struct golden golden;
    golden_open(&golden, golden_names[_i]);
    size_t vocabulary = golden.model->plan.config.vocabulary_size;
    hymba_context_params params = {.compute = HYMBA_COMPUTE_F32, .max_step_tokens = 11};
    hymba_context *context = guarded_context(golden.model, params, "cuda");
    for (size_t p = 0; p < golden.n_prompts; p++) {
        const struct hy_tensor *expected = golden_find(&golden, golden.lengths[p], "logits");
        hymba_session *session;
        const float *logits;
        size_t n, rows;
        int32_t *ids = golden_ids(&golden, golden.lengths[p], "input_ids", &n);
        test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
        test_status(hymba_session_append(session, ids, n, HYMBA_LOGITS_ALL, &error), HYMBA_OK,
                    error);
        test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
        ck_assert_double_le(golden_difference(logits, expected->data, n * vocabulary), 2e-4);
        hymba_session_release(session);
        free(ids);
    }
    hymba_context_release(context);
    golden_close(&golden);
}
END_TEST

/* Three sessions' single tokens: what a step copies within the device, it copies in lists: keys and
 * values and, where sessions can go back, the states to go back to. Nothing else is copied, nor are
 * states converted, whatever their type is. */
START_TEST(a_step_copies_in_lists)
{
    enum { N = 3, STEPS = 20 };
    static const hymba_dtype types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_BF16, HYMBA_DTYPE_F16};
    uint32_t rewind_tokens = _i < 3 ? 0 : 2;
    static const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    hymba_session *sessions[N];
    hymba_batch_item items[N];
    struct golden golden;
    golden_open(&golden, "goldens/a_all_features");
    hymba_context *context = guarded_context(
        golden.model,
        (hymba_context_params){.rewind_tokens = rewind_tokens, .state_type = types[_i % 3]},
        "cuda");
    for (int i = 0; i < N; i++) {
        test_status(hymba_session_create(context, NULL, &sessions[i], &error), HYMBA_OK, error);
        test_status(hymba_session_append(sessions[i], ids, 2 * (size_t)i + 3, 0, &error), HYMBA_OK,
                    error);
        items[i] = (hymba_batch_item){sessions[i], ids, 1, HYMBA_LOGITS_LAST, 0, NULL, NULL};
    }
    ck_assert_int_gt(guarded->n_lists, 0);
    guarded->n_lists = guarded->n_copies = guarded->n_converts = 0;
    for (int step = 0; step < STEPS; step++)
        test_status(hymba_context_decode(context, items, sizeof items[0], N, &error), HYMBA_OK,
                    error);
    ck_assert_int_eq(guarded->n_lists, (rewind_tokens > 0 ? 2 : 1) * STEPS);
    ck_assert_int_eq(guarded->n_copies, 0);
    ck_assert_int_eq(guarded->n_converts, 0);
    for (int i = 0; i < N; i++)
        hymba_session_release(sessions[i]);
    hymba_context_release(context);
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device");
    TCase *tests = tcase_create("device");
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, guarded_begin, guarded_end);
    tcase_add_loop_test(tests, sessions_are_the_same_to_the_bit, 0, N_VARIANTS);
    tcase_add_loop_test(tests, a_step_copies_in_lists, 0, 6);
    tcase_add_loop_test(tests, logits_are_the_reference_s, 0, golden_count());
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
