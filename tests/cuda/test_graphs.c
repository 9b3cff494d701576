/*
 * Decode steps of whole models as CUDA graphs, on the plug-in's device, which is the harness: the
 * logits are those of single launches to the bit, whoever comes and goes; and a step that fails or
 * is cancelled leaves every session where it was. HYMBA_LONG=1: all golden models, and how many
 * calls a step makes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden.h"
#include "harness_plugin.h"

enum { SESSIONS = 5, FASTEST = 12 /* of the goldens */ };

static hymba_error error = {.struct_size = sizeof error};
static harness_report_calls_function count_calls;
static harness_report_fail_function fail_call;

static void setup(void)
{
    harness_plugin_open();
    harness_plugin_find(&count_calls, HARNESS_REPORT_CALLS);
    harness_plugin_find(&fail_call, HARNESS_REPORT_FAIL);
}

static bool is_long(void)
{
    return getenv("HYMBA_LONG") != NULL;
}

/* A short form's models are enough for whom a step takes long. */
static bool is_left_out(int number)
{
#ifdef __SANITIZE_ADDRESS__
    return number % 9 != 0;
#else
    return !is_long() && number % 6 != 0;
#endif
}

/* ------------------------------------------------------------- twin contexts */

/* Two contexts that do the same, one with steps as a whole, the other op by op. */
struct twin {
    hymba_context *context;
    hymba_session *sessions[SESSIONS];
};

struct twins {
    struct twin whole, single;
    const struct golden *golden;
};

static void open_twin(struct twin *twin, const struct golden *golden,
                      const hymba_context_params *wanted)
{
    hymba_context_params params = *wanted;
    params.struct_size = sizeof params;
    params.device = "cuda";
    params.n_threads = 1;
    test_status(hymba_context_create(golden->model, &params, &twin->context, &error), HYMBA_OK,
                error);
    for (size_t i = 0; i < SESSIONS; i++)
        test_status(hymba_session_create(twin->context, NULL, &twin->sessions[i], &error),
                    HYMBA_OK, error);
}

static void open_twins(struct twins *twins, const struct golden *golden,
                       const hymba_context_params *params)
{
    twins->golden = golden;
    open_twin(&twins->whole, golden, params);
    open_twin(&twins->single, golden, params);
    twins->single.context->backend.plugin->single_ops = true;
}

static void close_twin(struct twin *twin)
{
    for (size_t i = 0; i < SESSIONS; i++)
        hymba_session_release(twin->sessions[i]);
    hymba_context_release(twin->context);
}

static void close_twins(struct twins *twins)
{
    close_twin(&twins->whole);
    close_twin(&twins->single);
}

/* Members: bit i stands for session i. Each is given n tokens, which seed decides. */
static hymba_status decode(struct twin *twin, unsigned members, size_t n, int32_t seed)
{
    static int32_t tokens[SESSIONS][64];
    hymba_batch_item items[SESSIONS];
    size_t n_items = 0;
    for (size_t i = 0; i < SESSIONS; i++) {
        if (!(members >> i & 1))
            continue;
        for (size_t t = 0; t < n + i; t++)
            tokens[i][t] = (int32_t)((seed * 31 + 7 * (int32_t)i + 3 * (int32_t)t) % 50);
        memset(&items[n_items], 0, sizeof items[n_items]);
        items[n_items].session = twin->sessions[i];
        items[n_items].tokens = tokens[i];
        items[n_items].n_tokens = n == 1 ? 1 : n + i;
        items[n_items++].logits = HYMBA_LOGITS_LAST;
    }
    return hymba_context_decode(twin->context, items, sizeof *items, n_items, &error);
}

static void compare_logits(const struct twins *twins, unsigned members)
{
    size_t vocabulary = twins->golden->model->plan.config.vocabulary_size;
    for (size_t i = 0; i < SESSIONS; i++) {
        const float *whole, *single;
        size_t rows;
        if (!(members >> i & 1))
            continue;
        test_status(hymba_session_logits(twins->whole.sessions[i], &whole, &rows, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_logits(twins->single.sessions[i], &single, &rows, &error),
                    HYMBA_OK, error);
        ck_assert_msg(memcmp(whole, single, vocabulary * sizeof *whole) == 0, "%s, session %zu",
                      twins->golden->name, i);
    }
}

static void decode_both(struct twins *twins, unsigned members, size_t n, int32_t seed)
{
    test_status(decode(&twins->single, members, n, seed), HYMBA_OK, error);
    test_status(decode(&twins->whole, members, n, seed), HYMBA_OK, error);
    compare_logits(twins, members);
}

enum { ALL = (1 << SESSIONS) - 1 };

/* -------------------------------------------------------------------- the bits */

/* Prompts of different lengths, then steps of all, of some and of one, again and again. */
START_TEST(logits_are_those_of_single_launches)
{
    static const unsigned members[] = {ALL, ALL, 0x15, ALL, 0x0e, 0x1b, 0x04, 0x07, 0x04, 0x04};
    struct golden golden;
    struct twins twins;
    if (is_left_out(_i))
        return;
    golden_open(&golden, golden_names[_i]);
    for (int kind = 0; kind < 3; kind++) {
        static const int32_t computes[] = {HYMBA_COMPUTE_F32, HYMBA_COMPUTE_BF16,
                                           HYMBA_COMPUTE_INT8};
        hymba_context_params params = {
            .compute = computes[kind],
            .state_type = kind == 1 ? HYMBA_DTYPE_BF16 : HYMBA_DTYPE_F32};
        open_twins(&twins, &golden, &params);
        decode_both(&twins, ALL, 6, 1);
        for (size_t step = 0; step < sizeof members / sizeof members[0]; step++)
            decode_both(&twins, members[step], 1, (int32_t)step + 2);
        close_twins(&twins);
    }
    golden_close(&golden);
}
END_TEST

/* With states to go back to, and steps too small for all: what is no decode step goes as ever. */
START_TEST(other_steps_go_as_ever)
{
    struct golden golden;
    struct twins twins;
    hymba_context_params params = {.rewind_tokens = 4, .max_step_tokens = 3};
    golden_open(&golden, golden_names[0]);
    open_twins(&twins, &golden, &params);
    decode_both(&twins, ALL, 3, 1);
    for (int32_t step = 0; step < 3; step++)
        decode_both(&twins, step == 1 ? ALL : 0x06, 1, step + 2);
    for (size_t i = 1; i < 3; i++)
        for (struct twin *twin = &twins.whole; twin; twin = twin == &twins.whole ? &twins.single
                                                                                  : NULL) {
            uint64_t length = hymba_session_length(twin->sessions[i]);
            test_status(hymba_session_rewind(twin->sessions[i], length - 2,
                                             HYMBA_REWIND_KEPT, NULL, &error),
                        HYMBA_OK, error);
        }
    decode_both(&twins, ALL, 2, 9);
    decode_both(&twins, 0x16, 1, 10);
    close_twins(&twins);
    golden_close(&golden);
}
END_TEST

/* --------------------------------------------------------------------- counting */

struct calls {
    size_t launches, products, graphs, copies, captures;
};

static struct calls counted(void)
{
    return (struct calls){count_calls("cudaLaunchKernel"), count_calls("cublasLtMatmul"),
                          count_calls("cudaGraphLaunch"),
                          count_calls("cudaMemcpyAsync") + count_calls("cudaMemcpy2DAsync"),
                          count_calls("cudaStreamBeginCapture")};
}

static struct calls calls_of_step(struct twin *twin, unsigned members, int32_t seed)
{
    struct calls before = counted();
    test_status(decode(twin, members, 1, seed), HYMBA_OK, error);
    struct calls after = counted();
    return (struct calls){after.launches - before.launches, after.products - before.products,
                          after.graphs - before.graphs, after.copies - before.copies,
                          after.captures - before.captures};
}

static void print_calls(const char *how, const struct calls *calls)
{
    printf("calls of a decode step, %s: %zu kernels, %zu products, %zu graphs, %zu copies\n", how,
           calls->launches, calls->products, calls->graphs, calls->copies);
}

/* Once a number of rows was met twice, a step is one graph and what logits and sessions take, which
 * does not hang on the layers; nobody who comes or goes makes another capture. */
START_TEST(sessions_come_and_go_without_a_capture)
{
    static const unsigned members[] = {ALL, 0x1f, 0x1f, 0x0f, 0x1e, 0x1d, 0x17, 0x1f};
    struct golden golden;
    struct twins twins;
    hymba_context_params params = {.compute = HYMBA_COMPUTE_BF16};
    golden_open(&golden, golden_names[5]);
    uint32_t n_layers = golden.model->plan.config.n_layers;
    open_twins(&twins, &golden, &params);
    decode_both(&twins, ALL, 40, 1);
    for (int32_t time = 0; time < 2; time++) { /* 8 rows, and 4 */
        decode_both(&twins, ALL, 1, 2 + time);
        decode_both(&twins, 0x0f, 1, 4 + time);
    }
    for (size_t step = 0; step < sizeof members / sizeof members[0]; step++) {
        struct calls whole = calls_of_step(&twins.whole, members[step], 10 + (int32_t)step);
        struct calls single = calls_of_step(&twins.single, members[step], 10 + (int32_t)step);
        compare_logits(&twins, members[step]);
        ck_assert_uint_eq(whole.captures, 0);
        ck_assert_uint_eq(whole.graphs, 1);
        ck_assert_uint_eq(single.graphs, 0);
        ck_assert_uint_lt(whole.launches + whole.products, n_layers);
        ck_assert_uint_gt(single.launches + single.products, 12 * n_layers);
        if (step == 0 && is_long()) {
            printf("%s has %u layers\n", golden.name, (unsigned)n_layers);
            print_calls("op by op", &single);
            print_calls("as a graph", &whole);
        }
    }
    close_twins(&twins);
    golden_close(&golden);
}
END_TEST

/* --------------------------------------------------------------------- failures */

static struct hy_device_ops interrupted;
static const struct hy_device_ops *original;
static hymba_context *to_cancel;
static int norms_left;

static void cancel_in_norm(struct hy_device *device, const struct hy_rms_norm_args *args,
                           size_t rows)
{
    if (norms_left-- == 0)
        hymba_context_cancel(to_cancel);
    original->rms_norm(device, args, rows);
}

/* Between layers, however far the step has come: nothing of it is queued. */
START_TEST(cancelled_steps_are_dropped)
{
    struct golden golden;
    struct twins twins;
    hymba_context_params params = {0};
    golden_open(&golden, golden_names[FASTEST]);
    open_twins(&twins, &golden, &params);
    for (int32_t step = 0; step < 4; step++)
        decode_both(&twins, ALL, step == 0 ? 4 : 1, step);
    struct hy_plugin *device = twins.whole.context->backend.plugin;
    original = device->ops;
    interrupted = *original;
    interrupted.rms_norm = cancel_in_norm;
    device->ops = &interrupted;
    to_cancel = twins.whole.context;
    for (int n = 0; n < 5; n++) {
        struct calls before = counted();
        norms_left = n;
        test_status(decode(&twins.whole, ALL, 1, 20), HYMBA_ERROR_CANCELLED, error);
        ck_assert_uint_eq(counted().graphs, before.graphs);
        ck_assert_uint_eq(counted().launches, before.launches);
    }
    norms_left = -1;
    decode_both(&twins, ALL, 1, 21);
    device->ops = original;
    close_twins(&twins);
    golden_close(&golden);
}
END_TEST

/* Missing memory on the way leaves every session where it was, or costs the graph alone. */
START_TEST(steps_without_memory_move_no_session)
{
    static const char *const calls[] = {"cudaHostAlloc", "cudaMallocFromPoolAsync",
                                        "cudaStreamBeginCapture", "cudaGraphInstantiate",
                                        "cudaGraphLaunch", "cudaMemcpyAsync"};
    struct golden golden;
    hymba_context_params params = {.compute = HYMBA_COMPUTE_BF16};
    golden_open(&golden, golden_names[FASTEST]);
    for (size_t c = 0; c < sizeof calls / sizeof calls[0]; c++) {
        struct twins twins;
        open_twins(&twins, &golden, &params);
        decode_both(&twins, ALL, 4, 1);
        for (int32_t step = 0; step < 4; step++) {
            test_status(decode(&twins.single, ALL, 1, 2 + step), HYMBA_OK, error);
            fail_call(calls[c], 1 + (unsigned)step, 1);
            hymba_status status = decode(&twins.whole, ALL, 1, 2 + step);
            fail_call(calls[c], 0, 1);
            if (status != HYMBA_OK) {
                ck_assert_int_eq(status, HYMBA_ERROR_MEMORY);
                test_status(decode(&twins.whole, ALL, 1, 2 + step), HYMBA_OK, error);
            }
            compare_logits(&twins, ALL);
        }
        close_twins(&twins);
    }
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("decode steps as graphs on the CUDA harness");
    TCase *tests = tcase_create("graphs");
    tcase_set_timeout(tests, 1800);
    tcase_add_checked_fixture(tests, setup, harness_plugin_close);
    tcase_add_loop_test(tests, logits_are_those_of_single_launches, 0, golden_count());
    tcase_add_test(tests, other_steps_go_as_ever);
    tcase_add_test(tests, sessions_come_and_go_without_a_capture);
    tcase_add_test(tests, cancelled_steps_are_dropped);
    tcase_add_test(tests, steps_without_memory_move_no_session);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
