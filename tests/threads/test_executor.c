/*
 * Contexts on threads of the embedding program's: no thread of the library's, the same bits
 * whatever runs where, and the struct's rules.
 */
#include "golden.h"
#include "process.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { N_TOKENS = 60, MAX_PARTS = 8 };

static hymba_error error = {.struct_size = sizeof error};
static int32_t tokens[N_TOKENS];
static struct golden golden;
static size_t vocabulary;

static void open_model(void)
{
    golden_open(&golden, "goldens/f_official_like");
    vocabulary = golden.model->plan.config.vocabulary_size;
    test_random_seed(9);
    for (size_t i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)test_random_below(vocabulary);
}

static void close_model(void)
{
    golden_close(&golden);
}

/* ------------------------------------------------------- the embedder's side */

struct embedder {
    uint32_t n_threads;
    unsigned n_runs;
    uint32_t most_parts;
    pthread_t caller;
    bool good;
};

static void note_run(struct embedder *embedder, uint32_t n_parts)
{
    embedder->n_runs++;
    embedder->most_parts = n_parts > embedder->most_parts ? n_parts : embedder->most_parts;
    embedder->good = embedder->good && n_parts >= 2 && n_parts <= embedder->n_threads &&
                     pthread_equal(pthread_self(), embedder->caller);
}

static void run_backwards(void *user, void (*part)(void *argument, uint32_t index),
                          void *argument, uint32_t n_parts)
{
    note_run(user, n_parts);
    for (uint32_t i = n_parts; i-- > 0;)
        part(argument, i);
}

struct errand {
    void (*part)(void *argument, uint32_t index);
    void *argument;
    uint32_t begin, end;
};

static void *run_errand(void *argument)
{
    const struct errand *errand = argument;
    for (uint32_t i = errand->begin; i < errand->end; i++)
        errand->part(errand->argument, i);
    return NULL;
}

/* Half of the parts on a new thread, which changes with every run. */
static void run_in_halves(void *user, void (*part)(void *argument, uint32_t index),
                          void *argument, uint32_t n_parts)
{
    struct errand other = {part, argument, 0, n_parts / 2}, own = {part, argument, 0, n_parts};
    pthread_t thread;
    note_run(user, n_parts);
    if (pthread_create(&thread, NULL, run_errand, &other) == 0) {
        own.begin = other.end;
        run_errand(&own);
        pthread_join(thread, NULL);
    } else {
        run_errand(&own);
    }
}

typedef void run_function(void *user, void (*part)(void *argument, uint32_t index),
                          void *argument, uint32_t n_parts);

static run_function *const run_functions[] = {run_backwards, run_in_halves};
static const uint32_t thread_counts[] = {1, 2, 3, MAX_PARTS};

static hymba_executor executor_of(struct embedder *embedder, run_function *run,
                                  uint32_t n_threads)
{
    *embedder = (struct embedder){
        .n_threads = n_threads, .caller = pthread_self(), .good = true};
    return (hymba_executor){.struct_size = sizeof(hymba_executor), .user = embedder,
                            .n_threads = n_threads, .run = run};
}

/* ------------------------------------------------------------------ results */

/* All logits of the tokens in a call of many and calls of one, from malloc. */
static float *compute(hymba_context *context)
{
    enum { TOGETHER = N_TOKENS - 10 };
    float *result = malloc(N_TOKENS * vocabulary * sizeof *result);
    hymba_session *session;
    const float *logits;
    size_t rows;
    ck_assert_ptr_nonnull(result);
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    for (size_t done = 0; done < N_TOKENS; done += rows) {
        test_status(hymba_session_append(session, tokens + done, done ? 1 : TOGETHER,
                                         HYMBA_LOGITS_ALL, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
        memcpy(result + done * vocabulary, logits, rows * vocabulary * sizeof *logits);
    }
    hymba_session_release(session);
    return result;
}

START_TEST(same_bits_on_any_threads)
{
    struct embedder embedder;
    uint32_t n_threads = thread_counts[_i / 2];
    hymba_executor executor = executor_of(&embedder, run_functions[_i % 2], n_threads);
    hymba_context_params alone = {.struct_size = sizeof alone, .n_threads = 1};
    hymba_context_params params = {.struct_size = sizeof params, .executor = &executor};
    hymba_context_info info = {.struct_size = sizeof info};
    hymba_context *own, *other;
    unsigned n_before = test_thread_count();
    test_status(hymba_context_create(golden.model, &alone, &own, &error), HYMBA_OK, error);
    test_status(hymba_context_create(golden.model, &params, &other, &error), HYMBA_OK, error);
    memset(&executor, 0xee, sizeof executor); /* it was copied */
    test_status(hymba_context_get_info(other, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.n_threads, n_threads);
    float *expected = compute(own), *found = compute(other);
    ck_assert(test_has_threads(n_before));
    ck_assert_mem_eq(found, expected, N_TOKENS * vocabulary * sizeof *found);
    ck_assert(embedder.good);
    ck_assert_uint_eq(embedder.most_parts, n_threads > 1 ? n_threads : 0);
    ck_assert((embedder.n_runs > N_TOKENS) == (n_threads > 1));
    free(expected);
    free(found);
    hymba_context_release(own);
    hymba_context_release(other);
}
END_TEST

START_TEST(the_estimate_knows_it)
{
    struct embedder embedder;
    hymba_executor executor = executor_of(&embedder, run_backwards, 7);
    hymba_context_params with = {.struct_size = sizeof with, .executor = &executor};
    hymba_context_params without = {.struct_size = sizeof without, .n_threads = 7};
    hymba_memory_info first = {.struct_size = sizeof first, .n_tokens = 1000}, second = first;
    test_status(hymba_model_get_memory_info(golden.model, &with, &first, &error), HYMBA_OK, error);
    test_status(hymba_model_get_memory_info(golden.model, &without, &second, &error), HYMBA_OK,
                error);
    ck_assert_uint_eq(first.workspace_bytes, second.workspace_bytes);
}
END_TEST

/* ------------------------------------------------------------------- struct */

static void refuse(const hymba_context_params *params, hymba_status status, const char *part)
{
    hymba_memory_info info = {.struct_size = sizeof info};
    hymba_context *context = NULL;
    test_status(hymba_context_create(golden.model, params, &context, &error), status, error);
    ck_assert_ptr_null(context);
    ck_assert_msg(strstr(error.message, part) != NULL, "no \"%s\" in: %s", part, error.message);
    test_status(hymba_model_get_memory_info(golden.model, params, &info, &error), status, error);
    ck_assert_msg(strstr(error.message, part) != NULL, "no \"%s\" in: %s", part, error.message);
}

START_TEST(fields_that_cannot_be)
{
    static const uint32_t counts[] = {0, 1025, UINT32_MAX};
    struct embedder embedder;
    const hymba_executor good = executor_of(&embedder, run_backwards, 2);
    hymba_executor executor = good;
    hymba_context_params params = {.struct_size = sizeof params, .executor = &executor};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        executor.n_threads = counts[i];
        refuse(&params, HYMBA_ERROR_ARGUMENT, "executor.n_threads");
    }
    executor = good;
    executor.reserved = 1;
    refuse(&params, HYMBA_ERROR_ARGUMENT, "executor.reserved");
    executor = good;
    executor.run = NULL;
    refuse(&params, HYMBA_ERROR_ARGUMENT, "executor.run");
    executor = good;
    params.n_threads = 3;
    refuse(&params, HYMBA_ERROR_ARGUMENT, "n_threads: found 3, expected 0 or the executor's 2");
    ck_assert_uint_eq(embedder.n_runs, 0);
}
END_TEST

START_TEST(sizes_of_other_callers)
{
    static const size_t impossible[] = {0, 7, 4097, SIZE_MAX};
    struct embedder embedder;
    struct {
        hymba_executor known;
        uint64_t later;
    } newer = {.known = executor_of(&embedder, run_backwards, 2)};
    hymba_context_params params = {.struct_size = sizeof params, .n_threads = 2,
                                   .executor = &newer.known};
    hymba_context *context;
    newer.known.struct_size = sizeof newer;
    test_status(hymba_context_create(golden.model, &params, &context, &error), HYMBA_OK, error);
    hymba_context_release(context);
    newer.later = 1;
    refuse(&params, HYMBA_ERROR_UNSUPPORTED, "executor: byte");
    /* Cut off before run, as no caller ever had it. */
    for (size_t size = sizeof size; size < sizeof newer.known; size += sizeof(void *)) {
        newer.known.struct_size = size;
        refuse(&params, HYMBA_ERROR_ARGUMENT, "executor");
    }
    for (size_t i = 0; i < sizeof impossible / sizeof impossible[0]; i++) {
        newer.known.struct_size = impossible[i];
        refuse(&params, HYMBA_ERROR_ARGUMENT, "executor: struct_size");
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("executor");
    TCase *tests = tcase_create("executor");
    tcase_add_checked_fixture(tests, open_model, close_model);
    tcase_set_timeout(tests, 600);
    tcase_add_loop_test(tests, same_bits_on_any_threads, 0, 8);
    tcase_add_test(tests, the_estimate_knows_it);
    tcase_add_test(tests, fields_that_cannot_be);
    tcase_add_test(tests, sizes_of_other_callers);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
