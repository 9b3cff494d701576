/*
 * Whole models on the plug-in's device, which is the harness: the reference's logits, and sessions
 * that go on from one device to the other. What the harness finds wrong on the way fails the test.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "golden.h"
#include "report.h"

enum { PIECE = 7 };
static const double bound = 1e-3;

static hymba_error error = {.struct_size = sizeof error};
static void *plugin;
static harness_report_function report;

/* The harness's plug-in lies beside this program, where a context looks for it. */
static void setup(void)
{
    static char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
    ck_assert_int_gt(length, 0);
    path[length] = '\0';
    strcpy(strrchr(path, '/') + 1, "libhymba-cuda.so");
    ck_assert_int_eq(unsetenv("HYMBA_CUDA_PLUGIN"), 0);
    plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(plugin != NULL, "%s", dlerror());
    void *symbol = dlsym(plugin, HARNESS_REPORT);
    ck_assert_ptr_nonnull(symbol);
    memcpy(&report, &symbol, sizeof report);
}

static void teardown(void)
{
    const char *first;
    size_t count = report(&first);
    ck_assert_msg(count == 0, "%zu faults: %s", count, first);
    dlclose(plugin);
}

static hymba_context *make_context(const struct golden *golden, const char *device)
{
    hymba_context *context;
    hymba_context_params params = {
        .struct_size = sizeof params,
        .device = device,
        .compute = HYMBA_COMPUTE_F32,
        .n_threads = 1,
    };
    test_status(hymba_context_create(golden->model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

/* Appends ids in pieces and compares every row with the reference's. */
static void append_and_compare(hymba_session *session, const struct golden *golden,
                               const int32_t *ids, const float *expected, size_t n, size_t piece)
{
    size_t vocabulary = golden->model->plan.config.vocabulary_size;
    for (size_t done = 0; done < n; done += piece) {
        const float *logits;
        size_t count = n - done < piece ? n - done : piece, rows;
        test_status(hymba_session_append(session, ids + done, count, HYMBA_LOGITS_ALL, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
        ck_assert_uint_eq(rows, count);
        double difference =
            golden_difference(logits, expected + done * vocabulary, count * vocabulary);
        ck_assert_msg(difference <= bound, "%s: tokens from %zu on: %g", golden->name, done,
                      difference);
    }
}

struct saved {
    unsigned char *data;
    size_t size;
};

static int32_t take_piece(void *user, const void *data, size_t size)
{
    struct saved *saved = user;
    saved->data = realloc(saved->data, saved->size + size);
    ck_assert_ptr_nonnull(saved->data);
    memcpy(saved->data + saved->size, data, size);
    saved->size += size;
    return 0;
}

/* The session as it goes on in another context. */
static hymba_session *move(hymba_session *session, hymba_context *context)
{
    struct saved saved = {NULL, 0};
    hymba_session *moved;
    test_status(hymba_session_save_to(session, NULL, take_piece, &saved, NULL, &error), HYMBA_OK,
                error);
    hymba_session_release(session);
    test_status(hymba_session_load_memory(context, saved.data, saved.size, NULL, &moved, NULL, NULL,
                                          &error),
                HYMBA_OK, error);
    free(saved.data);
    return moved;
}

/* Whole, and in pieces that change the device after each third of the prompt. The address sanitizer
 * sees the kernels in their own tests; of whole models some are enough for it. */
START_TEST(logits_are_the_reference_s)
{
    struct golden golden;
#ifdef __SANITIZE_ADDRESS__
    if (_i % 6 != 0)
        return;
#endif
    golden_open(&golden, golden_names[_i]);
    size_t vocabulary = golden.model->plan.config.vocabulary_size;
    hymba_context *here = make_context(&golden, "cpu"), *there = make_context(&golden, "cuda");
    for (size_t p = 0; p < golden.n_prompts; p++) {
        size_t n;
        int32_t *ids = golden_ids(&golden, golden.lengths[p], "input_ids", &n);
        const struct hy_tensor *tensor = golden_find(&golden, golden.lengths[p], "logits");
        float *expected = malloc(n * vocabulary * sizeof *expected);
        ck_assert_ptr_nonnull(expected);
        memcpy(expected, tensor->data, n * vocabulary * sizeof *expected);
        hymba_session *session;
        test_status(hymba_session_create(there, NULL, &session, &error), HYMBA_OK, error);
        append_and_compare(session, &golden, ids, expected, n, n);
        test_status(hymba_session_reset(session, &error), HYMBA_OK, error);
        for (size_t third = 0; third < 3; third++) {
            size_t begin = n * third / 3, end = n * (third + 1) / 3;
            append_and_compare(session, &golden, ids + begin, expected + begin * vocabulary,
                               end - begin, PIECE);
            if (third < 2)
                session = move(session, third == 0 ? here : there);
        }
        hymba_session_release(session);
        free(expected);
        free(ids);
    }
    hymba_context_release(here);
    hymba_context_release(there);
    golden_close(&golden);
}
END_TEST

int main(void)
{
    int n_goldens = 0;
    while (golden_names[n_goldens])
        n_goldens++;
    Suite *suite = suite_create("goldens on the CUDA harness");
    TCase *goldens = tcase_create("goldens");
    tcase_set_timeout(goldens, 900);
    tcase_add_checked_fixture(goldens, setup, teardown);
    tcase_add_loop_test(goldens, logits_are_the_reference_s, 0, n_goldens);
    suite_add_tcase(suite, goldens);
    return test_main(suite);
}
