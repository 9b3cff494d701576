/*
 * A device that cannot be opened, that lacks memory or is lost: what is told, and that sessions are
 * left in their last good state.
 */
#define _GNU_SOURCE /* dlsym, dladdr */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden.h"
#include "guarded_world.h"

static hymba_error error = {.struct_size = sizeof error};

static const int32_t prompt[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19};
enum { N_PROMPT = sizeof prompt / sizeof prompt[0] };

/* The device is opened twice: for the context, and for the weights. */
START_TEST(without_memory_for_opening_there_is_no_context)
{
    struct golden golden;
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda"};
    golden_open(&golden, "goldens/a_all_features");
    for (int i = 0; i < 2; i++) {
        hymba_context *context;
        guarded->fail_open = guarded->n_opens + i;
        test_status(hymba_context_create(golden.model, &params, &context, &error),
                    HYMBA_ERROR_MEMORY, error);
        ck_assert_ptr_null(context);
        ck_assert_str_eq(error.message, "no memory for a device");
        ck_assert_int_eq(guarded->n_open, 0);
    }
    guarded->fail_open = -1;
    hymba_context_release(guarded_context(golden.model, (hymba_context_params){0}, "cuda"));
    golden_close(&golden);
}
END_TEST

static void touch_file(const char *name, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", test_directory(), name);
    test_write_file(path, "not a library", 13);
}

START_TEST(what_cannot_be_opened_is_told_in_one_sentence)
{
    struct golden golden;
    Dl_info library;
    char text[4200], absent[4200];
    golden_open(&golden, "goldens/a_all_features");
    touch_file("text.so", text, sizeof text);
    snprintf(absent, sizeof absent, "%s/absent.so", test_directory());
    ck_assert_int_ne(dladdr(dlsym(RTLD_DEFAULT, "json_object"), &library), 0);
    enum { OWN = HY_DEVICE_INTERFACE };
    const struct {
        const char *device, *variable;
        uint32_t interface_version;
        int n_devices;
        const char *sentence;
    } cases[] = {
        {"tpu", NULL, OWN, 2, "\"tpu\""},
        {"cuda:", NULL, OWN, 2, "\"cuda:\""},
        {"cuda:1x", NULL, OWN, 2, "\"cuda:1x\""},
        {"cuda:99999999999", NULL, OWN, 2, "cuda:N"},
        {"cuda:2", NULL, OWN, 2, "there are 2"},
        {"cuda", NULL, OWN, 0, "there are 0"},
        {"cuda", NULL, 0, 2, "does not have interface version"},
        {"cuda", NULL, 7, 2, "interface version 7"},
        {"cuda", "libhymba-cuda.so", OWN, 2, "absolute path"},
        {"cuda", "./libhymba-cuda.so", OWN, 2, "absolute path"},
        {"cuda", absent, OWN, 2, "absent.so"},
        {"cuda", text, OWN, 2, "cannot be opened"},
        {"cuda", library.dli_fname, OWN, 2, HY_DEVICE_ENTRY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hymba_context_params params = {.struct_size = sizeof params, .device = cases[i].device};
        hymba_context *context;
        guarded->interface_version = cases[i].interface_version;
        guarded->n_devices = cases[i].n_devices;
        if (cases[i].variable)
            setenv("HYMBA_CUDA_PLUGIN", cases[i].variable, 1);
        test_status(hymba_context_create(golden.model, &params, &context, &error),
                    HYMBA_ERROR_DEVICE, error);
        ck_assert_ptr_null(context);
        ck_assert_msg(strstr(error.message, cases[i].sentence) != NULL, "case %zu: %s", i,
                      error.message);
        ck_assert_ptr_null(strchr(error.message, '\n'));
        unsetenv("HYMBA_CUDA_PLUGIN");
    }
    guarded->interface_version = HY_DEVICE_INTERFACE;
    guarded->n_devices = 2;
    setenv("HYMBA_CUDA_PLUGIN", guarded_path, 1);
    hymba_context_release(guarded_context(golden.model, (hymba_context_params){0}, "cuda"));
    unsetenv("HYMBA_CUDA_PLUGIN");
    golden_close(&golden);
}
END_TEST

/* What a short life of a context does, up to the first failure. */
struct life {
    hymba_context *context;
    hymba_session *session, *fork;
    struct guarded_saved saved;
    int stage;
};

static hymba_status live(hymba_model *model, struct life *life)
{
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda",
                                   .rewind_tokens = 2, .max_step_tokens = 6,
                                   .cache_type = HYMBA_DTYPE_F16};
    hymba_session_params session = {.struct_size = sizeof session, .snapshot_interval = 8};
    hymba_status status = hymba_context_create(model, &params, &life->context, &error);
    if (status == HYMBA_OK)
        status = hymba_session_create(life->context, &session, &life->session, &error);
    if (status == HYMBA_OK)
        status = hymba_session_append(life->session, prompt, 5, HYMBA_LOGITS_LAST, &error);
    if (status == HYMBA_OK)
        life->stage = 1;
    if (status == HYMBA_OK)
        status = hymba_session_append(life->session, prompt, 1, HYMBA_LOGITS_LAST, &error);
    if (status == HYMBA_OK)
        life->stage = 2;
    if (status == HYMBA_OK)
        status = hymba_session_append(life->session, prompt, N_PROMPT, HYMBA_LOGITS_LAST, &error);
    if (status == HYMBA_OK)
        life->stage = 3;
    if (status == HYMBA_OK)
        status = hymba_session_fork(life->session, &life->fork, NULL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_append(life->fork, prompt, 3, HYMBA_LOGITS_ALL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_rewind(life->fork, 11, HYMBA_REWIND_COMPUTE, NULL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_save_to(life->fork, NULL, guarded_take_piece, &life->saved, NULL,
                                       &error);
    return status;
}

/* The life went as far as its stage; on a sound device the session can go on, as on the CPU. */
static void end_life(hymba_model *model, struct life *life, bool sound)
{
    static const size_t lengths[] = {0, 5, 6, 6 + N_PROMPT};
    hymba_session_release(life->fork);
    if (life->session) {
        ck_assert_uint_eq(hymba_session_length(life->session), lengths[life->stage]);
        ck_assert_int_eq(hymba_session_append(life->session, prompt, 4, HYMBA_LOGITS_LAST, &error),
                         sound ? HYMBA_OK : HYMBA_ERROR_DEVICE);
    }
    if (life->session && sound) {
        hymba_context_params params = {.cache_type = HYMBA_DTYPE_F16};
        hymba_context *cpu = guarded_context(model, params, "cpu");
        hymba_session *session;
        const float *logits[2];
        test_status(hymba_session_create(cpu, NULL, &session, &error), HYMBA_OK, error);
        if (life->stage > 0)
            test_status(hymba_session_append(session, prompt, 5, 0, &error), HYMBA_OK, error);
        if (life->stage > 1)
            test_status(hymba_session_append(session, prompt, 1, 0, &error), HYMBA_OK, error);
        if (life->stage > 2)
            test_status(hymba_session_append(session, prompt, N_PROMPT, 0, &error), HYMBA_OK,
                        error);
        test_status(hymba_session_append(session, prompt, 4, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                    error);
        test_status(hymba_session_logits(session, &logits[0], NULL, &error), HYMBA_OK, error);
        test_status(hymba_session_logits(life->session, &logits[1], NULL, &error), HYMBA_OK,
                    error);
        ck_assert_mem_eq(logits[0], logits[1],
                         model->plan.config.vocabulary_size * sizeof(float));
        hymba_session_release(session);
        hymba_context_release(cpu);
    }
    hymba_session_release(life->session);
    hymba_context_release(life->context);
    free(life->saved.data);
}

/* Lets each allocation or finish of a life fail in turn, and looks at what is left. */
static void fail_each(hymba_model *model, long *number, const _Atomic long *count,
                      hymba_status status, bool sound)
{
    hymba_context *bystander = guarded_context(model, (hymba_context_params){0}, "cuda:1");
    hymba_session *other;
    test_status(hymba_session_create(bystander, NULL, &other, &error), HYMBA_OK, error);
    long failures = 0;
    for (bool failed = true; failed; failures++) {
        struct life life = {.stage = 0};
        *number = *count + failures;
        hymba_status found = live(model, &life);
        failed = *count > *number;
        *number = -1;
        ck_assert_msg(found == (failed ? status : HYMBA_OK), "failure %ld: %s", failures,
                      error.message);
        end_life(model, &life, sound || !failed);
        test_status(hymba_session_append(other, prompt, 1, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                    error);
    }
    ck_assert_int_gt(failures, 8);
    hymba_session_release(other);
    hymba_context_release(bystander);
}

START_TEST(a_failure_leaves_sessions_in_their_last_good_state)
{
    struct golden golden;
    golden_open(&golden, "goldens/a_all_features");
    switch (_i) {
    case 0:
        fail_each(golden.model, &guarded->fail_allocation, &guarded->n_allocations,
                  HYMBA_ERROR_MEMORY, true);
        break;
    case 1: /* a workspace that could not grow */
        guarded->finish_status = HYMBA_ERROR_MEMORY;
        fail_each(golden.model, &guarded->fail_finish, &guarded->n_finishes, HYMBA_ERROR_MEMORY,
                  true);
        break;
    default: /* a lost device */
        fail_each(golden.model, &guarded->fail_finish, &guarded->n_finishes, HYMBA_ERROR_DEVICE,
                  false);
        break;
    }
    golden_close(&golden);
}
END_TEST

/* Kernels of a prompt in several steps, each waited for. */
static hymba_status measure_kernels(hymba_context *context, hymba_session *session, double *seconds)
{
    hymba_kernel_time times[64];
    size_t n;
    test_status(hymba_context_measure_kernels(context, 1, &error), HYMBA_OK, error);
    hymba_status status =
        hymba_session_append(session, prompt, N_PROMPT, HYMBA_LOGITS_LAST, &error);
    if (status != HYMBA_OK)
        return status;
    test_status(hymba_context_kernel_times(context, times, sizeof times[0], 64, &n, &error),
                HYMBA_OK, error);
    *seconds = times[0].seconds;
    for (size_t i = 1; i < n; i++)
        *seconds -= times[i].seconds;
    return status;
}

/* Wherever the device fails while kernels are measured, the call fails as it would without; where
 * it goes on, so do sessions, as if nothing had been. */
START_TEST(kernels_are_measured_on_the_device)
{
    struct golden golden;
    hymba_session *sessions[2];
    hymba_context *contexts[2];
    const float *logits[2];
    double rest;
    long n_failures = 0;
    hymba_context_params params = {.max_step_tokens = 6};
    golden_open(&golden, "goldens/a_all_features");
    for (int i = 0; i < 2; i++) {
        contexts[i] = guarded_context(golden.model, params, i ? "cuda" : "cpu");
        test_status(hymba_session_create(contexts[i], NULL, &sessions[i], &error), HYMBA_OK, error);
    }
    test_status(measure_kernels(contexts[0], sessions[0], &rest), HYMBA_OK, error);
    guarded->finish_status = HYMBA_ERROR_MEMORY;
    for (bool failed = true; failed; n_failures += failed) {
        guarded->fail_finish = guarded->n_finishes + n_failures * 3;
        hymba_status status = measure_kernels(contexts[1], sessions[1], &rest);
        failed = guarded->n_finishes > guarded->fail_finish;
        test_status(status, failed ? HYMBA_ERROR_MEMORY : HYMBA_OK, error);
        ck_assert_uint_eq(hymba_session_length(sessions[1]), failed ? 0 : N_PROMPT);
    }
    ck_assert_int_gt(n_failures, 10);
    ck_assert_double_gt(rest, 0.0);
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_logits(sessions[i], &logits[i], NULL, &error), HYMBA_OK, error);
    ck_assert_mem_eq(logits[0], logits[1],
                     golden.model->plan.config.vocabulary_size * sizeof(float));
    guarded->finish_status = HYMBA_ERROR_DEVICE;
    guarded->fail_finish = guarded->n_finishes + 20;
    test_status(measure_kernels(contexts[1], sessions[1], &rest), HYMBA_ERROR_DEVICE, error);
    ck_assert_uint_eq(hymba_session_length(sessions[1]), N_PROMPT);
    test_status(hymba_context_measure_kernels(contexts[1], 1, &error), HYMBA_ERROR_DEVICE, error);
    for (int i = 0; i < 2; i++) {
        hymba_session_release(sessions[i]);
        hymba_context_release(contexts[i]);
    }
    golden_close(&golden);
}
END_TEST

static int32_t cancel_at_first(void *user, int32_t phase, uint64_t done, uint64_t total)
{
    hymba_context **context = user;
    (void)done;
    (void)total;
    if (phase == HYMBA_PHASE_PREFILL && *context)
        hymba_context_cancel(*context);
    *context = NULL;
    return 0;
}

/* A call is cancelled in its second step while the device has a failure to tell, and takes no work
 * before that: even so the first step is undone. */
START_TEST(a_call_is_undone_behind_an_untold_failure)
{
    struct golden golden;
    hymba_session *sessions[2];
    hymba_context *contexts[2], *cancelled = NULL;
    const float *logits[2];
    hymba_host host = {.struct_size = sizeof host, .user = &cancelled,
                       .progress = cancel_at_first};
    hymba_context_params params = {.max_step_tokens = 6, .host = &host};
    golden_open(&golden, "goldens/a_all_features");
    for (int i = 0; i < 2; i++) {
        contexts[i] = guarded_context(golden.model, params, i ? "cuda" : "cpu");
        test_status(hymba_session_create(contexts[i], NULL, &sessions[i], &error), HYMBA_OK, error);
        test_status(hymba_session_append(sessions[i], prompt, N_PROMPT, 0, &error), HYMBA_OK,
                    error);
    }
    cancelled = contexts[1];
    guarded->fail_embedding = guarded->n_embeddings + 1;
    test_status(hymba_session_append(sessions[1], prompt, N_PROMPT, 0, &error),
                HYMBA_ERROR_CANCELLED, error);
    ck_assert_int_gt(guarded->n_embeddings, guarded->fail_embedding);
    for (int i = 0; i < 2; i++) {
        test_status(hymba_session_append(sessions[i], prompt, 4, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_logits(sessions[i], &logits[i], NULL, &error), HYMBA_OK, error);
    }
    ck_assert_mem_eq(logits[0], logits[1],
                     golden.model->plan.config.vocabulary_size * sizeof(float));
    for (int i = 0; i < 2; i++) {
        hymba_session_release(sessions[i]);
        hymba_context_release(contexts[i]);
    }
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device_failures");
    TCase *tests = tcase_create("device_failures");
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, guarded_begin, guarded_end);
    tcase_add_test(tests, without_memory_for_opening_there_is_no_context);
    tcase_add_test(tests, what_cannot_be_opened_is_told_in_one_sentence);
    tcase_add_test(tests, a_call_is_undone_behind_an_untold_failure);
    tcase_add_test(tests, kernels_are_measured_on_the_device);
    tcase_add_loop_test(tests, a_failure_leaves_sessions_in_their_last_good_state, 0, 3);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
