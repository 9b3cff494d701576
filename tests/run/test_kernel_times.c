/*
 * What a context tells of its kernels: each kind is called as often as the layer plan says, bytes
 * and operations are those of the step, and sessions take no notice. How long anything took is
 * asked only not to be nothing.
 */
#include "golden.h"

#include <string.h>

enum { N_SESSIONS = 3, STEP_ROWS = 16, N_STEPS = 4, MOST_KINDS = 64 };

static hymba_error error = {.struct_size = sizeof error};

static const char *const models[] = {
    "goldens/a_all_features", "goldens/b_no_meta", "goldens/d_all_full", "goldens/f_official_like",
    "variants/mamba_only",    "variants/attention_only",
};
enum { N_MODELS = sizeof models / sizeof models[0] };

struct kinds {
    hymba_kernel_time kinds[MOST_KINDS];
    size_t n;
};

static void get(hymba_context *context, struct kinds *kinds)
{
    size_t needed;
    test_status(hymba_context_kernel_times(context, NULL, sizeof kinds->kinds[0], 0, &needed,
                                           &error),
                HYMBA_OK, error);
    ck_assert_uint_le(needed, MOST_KINDS);
    test_status(hymba_context_kernel_times(context, kinds->kinds, sizeof kinds->kinds[0], needed,
                                           &kinds->n, &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(kinds->n, needed);
}

static const hymba_kernel_time *find(const struct kinds *kinds, const char *name)
{
    for (size_t i = 0; i < kinds->n; i++)
        if (strcmp(kinds->kinds[i].name, name) == 0)
            return &kinds->kinds[i];
    ck_abort_msg("there is no kind %s", name);
    return NULL;
}

/* Either there were so many calls, and they cost something, or there were none. */
static void check_calls(const struct kinds *kinds, const char *name, size_t calls)
{
    const hymba_kernel_time *kind = find(kinds, name);
    ck_assert_msg(kind->calls == calls, "%s: found %llu calls, expected %zu", name,
                  (unsigned long long)kind->calls, calls);
    ck_assert_int_eq(kind->seconds > 0.0, calls > 0);
    ck_assert_int_eq(kind->bytes > 0.0, calls > 0);
    if (strcmp(name, "embedding") != 0) /* which computes nothing */
        ck_assert_int_eq(kind->operations > 0.0, calls > 0);
}

static hymba_context *make_context(const struct golden *golden)
{
    hymba_context *context;
    hymba_context_params params = {.struct_size = sizeof params, .cpu = "generic",
                                   .n_threads = 1, .max_step_tokens = STEP_ROWS,
                                   .compute = HYMBA_COMPUTE_F32};
    test_status(hymba_context_create(golden->model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

/* Every session gets a token more, from different positions on, and gives its logits. */
static void step(hymba_context *context, hymba_session *sessions[N_SESSIONS])
{
    static const int32_t tokens[N_SESSIONS] = {1, 2, 3};
    hymba_batch_item items[N_SESSIONS];
    for (int i = 0; i < N_SESSIONS; i++)
        items[i] = (hymba_batch_item){sessions[i], &tokens[i], 1, HYMBA_LOGITS_LAST, 0, NULL, NULL};
    test_status(hymba_context_decode(context, items, sizeof items[0], N_SESSIONS, &error),
                HYMBA_OK, error);
}

static void make_sessions(hymba_context *context, hymba_session *sessions[N_SESSIONS])
{
    static const int32_t prompt[] = {5, 6, 7, 8, 9};
    for (int i = 0; i < N_SESSIONS; i++) {
        test_status(hymba_session_create(context, NULL, &sessions[i], &error), HYMBA_OK, error);
        test_status(hymba_session_append(sessions[i], prompt, 3 + (size_t)i, HYMBA_LOGITS_LAST,
                                         &error),
                    HYMBA_OK, error);
    }
}

struct plan_counts {
    size_t mixers, attention, producers, window, ssm, fusion, ffn;
};

static struct plan_counts count_plan(const struct hy_plan *plan)
{
    struct plan_counts counts = {0};
    for (uint32_t i = 0; i < plan->config.n_layers; i++) {
        const struct hy_layer_plan *layer = &plan->layers[i];
        bool attends = layer->attention != HYMBA_ATTENTION_NONE;
        counts.mixers += layer->in_rows > 0;
        counts.attention += attends;
        counts.producers += attends && layer->kv_producer;
        counts.window += attends && layer->window != UINT64_MAX;
        counts.ssm += layer->ssm != HYMBA_SSM_NONE;
        counts.fusion += layer->fusion != HYMBA_FUSION_NONE;
        counts.ffn += layer->ffn != HYMBA_FFN_NONE;
    }
    return counts;
}

/* Bytes and operations of "step" are those of all kinds, its time is no less. */
static void check_step(const struct kinds *kinds)
{
    double bytes = 0.0, operations = 0.0, seconds = 0.0;
    for (size_t i = 1; i < kinds->n; i++) {
        bytes += kinds->kinds[i].bytes;
        operations += kinds->kinds[i].operations;
        seconds += kinds->kinds[i].seconds;
    }
    ck_assert_str_eq(kinds->kinds[0].name, "step");
    ck_assert_double_eq_tol(kinds->kinds[0].bytes, bytes, 1e-9 * bytes);
    ck_assert_double_eq_tol(kinds->kinds[0].operations, operations, 1e-9 * operations);
    ck_assert_double_ge(kinds->kinds[0].seconds, seconds);
}

START_TEST(every_kind_is_counted)
{
    struct golden golden;
    struct kinds kinds;
    hymba_session *sessions[N_SESSIONS];
    golden_open(&golden, models[_i]);
    const struct hy_plan *plan = &golden.model->plan;
    struct plan_counts counts = count_plan(plan);
    hymba_context *context = make_context(&golden);
    make_sessions(context, sessions);
    test_status(hymba_context_measure_kernels(context, 1, &error), HYMBA_OK, error);
    for (int i = 0; i < N_STEPS; i++)
        step(context, sessions);
    get(context, &kinds);
    check_step(&kinds);
    ck_assert_uint_eq(kinds.kinds[0].calls, N_STEPS);
    check_calls(&kinds, "embedding", N_STEPS);
    check_calls(&kinds, "rounding", 0); /* f32 */
    check_calls(&kinds, "in_proj", N_STEPS * counts.mixers);
    check_calls(&kinds, "out_proj", N_STEPS * counts.mixers);
    check_calls(&kinds, "attention_window", N_STEPS * counts.window);
    check_calls(&kinds, "attention_full", N_STEPS * (counts.attention - counts.window));
    check_calls(&kinds, "convolution", N_STEPS * counts.ssm);
    check_calls(&kinds, "x_proj", N_STEPS * counts.ssm);
    check_calls(&kinds, "dt_proj", N_STEPS * counts.ssm);
    check_calls(&kinds, "scan", N_STEPS * counts.ssm);
    check_calls(&kinds, "fusion", N_STEPS * counts.fusion);
    check_calls(&kinds, "gate_up", N_STEPS * 2 * counts.ffn);
    check_calls(&kinds, "swiglu", N_STEPS * counts.ffn);
    check_calls(&kinds, "down", N_STEPS * counts.ffn);
    check_calls(&kinds, "head", N_STEPS);
    check_calls(&kinds, "sampling", 0); /* logits were asked for */
    ck_assert_uint_ge(find(&kinds, "rope_cache")->calls, N_STEPS * counts.producers);
    ck_assert_uint_ge(find(&kinds, "norm")->calls, N_STEPS * (counts.mixers + counts.ffn));
    /* each weight once, f32 activations in and out */
    const struct hy_config *config = &plan->config;
    double h = config->hidden_size, n = config->intermediate_size, v = config->vocabulary_size;
    double weight = (double)hy_dtype_size(golden.model->weights.head.dtype);
    double layers = (double)(N_STEPS * counts.ffn);
    ck_assert_double_eq(find(&kinds, "head")->bytes,
                        N_STEPS * (v * h * weight + 4 * N_SESSIONS * (h + v)));
    ck_assert_double_eq(find(&kinds, "head")->operations, N_STEPS * 2 * N_SESSIONS * v * h);
    ck_assert_double_eq(find(&kinds, "down")->operations, layers * 2 * N_SESSIONS * n * h);
    ck_assert_double_eq(find(&kinds, "gate_up")->operations, layers * 4 * N_SESSIONS * n * h);
    for (int i = 0; i < N_SESSIONS; i++)
        hymba_session_release(sessions[i]);
    hymba_context_release(context);
    golden_close(&golden);
}
END_TEST

/* The same tokens with and without: the same logits, to the bit. A prompt takes several passes. */
START_TEST(sessions_take_no_notice)
{
    int32_t prompt[2 * STEP_ROWS + 3];
    struct golden golden;
    struct kinds kinds;
    hymba_session *sessions[2];
    const float *logits[2];
    golden_open(&golden, "goldens/a_all_features");
    hymba_context *context = make_context(&golden);
    size_t vocabulary = golden.model->plan.config.vocabulary_size;
    size_t n = sizeof prompt / sizeof *prompt;
    for (size_t i = 0; i < n; i++)
        prompt[i] = (int32_t)(i % vocabulary);
    for (int i = 0; i < 2; i++) {
        test_status(hymba_session_create(context, NULL, &sessions[i], &error), HYMBA_OK, error);
        test_status(hymba_context_measure_kernels(context, i, &error), HYMBA_OK, error);
        test_status(hymba_session_append(sessions[i], prompt, n, HYMBA_LOGITS_NONE, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_append(sessions[i], prompt, 1, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_logits(sessions[i], &logits[i], NULL, &error), HYMBA_OK, error);
    }
    ck_assert_mem_eq(logits[0], logits[1], vocabulary * sizeof(float));
    get(context, &kinds);
    ck_assert_uint_eq(kinds.kinds[0].calls, 4);
    check_calls(&kinds, "head", 1);
    for (int i = 0; i < 2; i++)
        hymba_session_release(sessions[i]);
    hymba_context_release(context);
    golden_close(&golden);
}
END_TEST

START_TEST(measuring_begins_and_ends)
{
    struct golden golden;
    struct kinds before, after;
    hymba_session *sessions[N_SESSIONS];
    golden_open(&golden, "goldens/a_all_features");
    hymba_context *context = make_context(&golden);
    size_t needed;
    test_status(hymba_context_kernel_times(context, NULL, sizeof before.kinds[0], 0, &needed,
                                           &error),
                HYMBA_ERROR_STATE, error);
    make_sessions(context, sessions);
    test_status(hymba_context_measure_kernels(context, 1, &error), HYMBA_OK, error);
    step(context, sessions);
    get(context, &before);
    test_status(hymba_context_measure_kernels(context, 0, &error), HYMBA_OK, error);
    step(context, sessions);
    get(context, &after);
    ck_assert_mem_eq(before.kinds, after.kinds, before.n * sizeof before.kinds[0]);
    test_status(hymba_context_measure_kernels(context, 1, &error), HYMBA_OK, error);
    get(context, &after);
    ck_assert_uint_eq(after.kinds[0].calls, 0);
    ck_assert_double_eq(after.kinds[0].seconds, 0.0);
    for (int i = 0; i < N_SESSIONS; i++)
        hymba_session_release(sessions[i]);
    hymba_context_release(context);
    golden_close(&golden);
}
END_TEST

/* Elements of a newer caller are larger: what this library does not know is zero. */
START_TEST(arguments)
{
    struct newer {
        hymba_kernel_time known;
        uint64_t more;
    } newer[MOST_KINDS];
    struct golden golden;
    size_t n, needed;
    const size_t size = sizeof(hymba_kernel_time);
    golden_open(&golden, "goldens/a_all_features");
    hymba_context *context = make_context(&golden);
    test_status(hymba_context_measure_kernels(NULL, 1, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_context_measure_kernels(context, 2, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_context_measure_kernels(context, 1, &error), HYMBA_OK, error);
    test_status(hymba_context_kernel_times(NULL, NULL, size, 0, &n, &error), HYMBA_ERROR_ARGUMENT,
                error);
    test_status(hymba_context_kernel_times(context, NULL, size, 0, NULL, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_context_kernel_times(context, NULL, size - 1, 0, &n, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_context_kernel_times(context, NULL, size, 1, &n, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_context_kernel_times(context, &newer[0].known, size, SIZE_MAX, &n, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_context_kernel_times(context, NULL, size, 0, &n, &error), HYMBA_OK, error);
    test_status(hymba_context_kernel_times(context, &newer[0].known, size, n - 1, &needed, &error),
                HYMBA_ERROR_BUFFER, error);
    ck_assert_uint_eq(needed, n);
    memset(newer, 0xff, sizeof newer);
    test_status(hymba_context_kernel_times(context, &newer[0].known, sizeof newer[0], n, &needed,
                                           &error),
                HYMBA_OK, error);
    for (size_t i = 0; i < n; i++) {
        ck_assert_ptr_nonnull(newer[i].known.name);
        ck_assert_uint_eq(newer[i].more, 0);
    }
    hymba_context_release(context);
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kernel times");
    TCase *tests = tcase_create("times");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, every_kind_is_counted, 0, N_MODELS);
    tcase_add_test(tests, sessions_take_no_notice);
    tcase_add_test(tests, measuring_begins_and_ends);
    tcase_add_test(tests, arguments);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
