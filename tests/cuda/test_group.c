/*
 * One context over several CUDA devices, which are the harness's and joined by its stand-in for
 * NCCL: a whole life of sessions gives what it gives on one device, but for rounding; and a device
 * that is lost, or has no memory, leaves every session where it was, without anybody waiting for
 * it. Saved sessions go from one to the other.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../fuzz/fuzz.h"
#include "harness_plugin.h"
#include "random_model.h"
#include "support.h"

enum { VOCABULARY = RANDOM_MODEL_VOCABULARY, MOST_ROWS = 60, MOST_TOKENS = 40 };

static hymba_error error = {.struct_size = sizeof error};
static harness_report_fail_function fail_call;
static harness_report_calls_function count_calls;
static hymba_model *model;
static int32_t tokens[100];

static void setup(void)
{
    ck_assert_int_eq(setenv("HYMBA_HARNESS_DEVICES", "3", 1), 0);
    harness_plugin_open();
    harness_plugin_find(&fail_call, HARNESS_REPORT_FAIL);
    harness_plugin_find(&count_calls, HARNESS_REPORT_CALLS);
    model = random_model_open(random_model_for_ranks);
    test_random_seed(11);
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++)
        tokens[i] = (int32_t)test_random_below(VOCABULARY);
}

static void teardown(void)
{
    hymba_model_release(model);
    harness_plugin_close();
}

static hymba_context *open_context(const char *device, int32_t compute)
{
    hymba_ranks ranks = {.struct_size = sizeof ranks, .timeout_ms = 30000};
    hymba_context_params params = {.struct_size = sizeof params, .device = device,
                                   .compute = compute, .max_step_tokens = 16, .rewind_tokens = 2};
    hymba_context *context;
    if (strchr(device, ','))
        params.ranks = &ranks;
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

/* ----------------------------------------------------------------- a whole life */

/* What a context gives, in order. */
struct tale {
    float rows[MOST_ROWS][VOCABULARY];
    size_t n_rows;
    int32_t tokens[MOST_TOKENS];
    size_t n_tokens;
};

static void keep_logits(struct tale *tale, const hymba_session *session)
{
    const float *logits;
    size_t rows;
    test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
    ck_assert_uint_le(tale->n_rows + rows, MOST_ROWS);
    memcpy(tale->rows[tale->n_rows], logits, rows * sizeof tale->rows[0]);
    tale->n_rows += rows;
}

static void append(struct tale *tale, hymba_session *session, size_t first, size_t n)
{
    test_status(hymba_session_append(session, tokens + first, n, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
    keep_logits(tale, session);
}

static void rewind_to(hymba_session *session, uint64_t length, int32_t mode)
{
    test_status(hymba_session_rewind(session, length, mode, NULL, &error), HYMBA_OK, error);
    ck_assert_uint_eq(hymba_session_length(session), length);
}

static void tell_batch(struct tale *tale, hymba_context *context, hymba_session *first,
                       hymba_session *second, size_t n)
{
    hymba_batch_item items[2] = {
        {first, tokens + 40, 1, HYMBA_LOGITS_LAST, 0, NULL, NULL},
        {second, tokens + 41, n, HYMBA_LOGITS_ALL, 0, NULL, NULL},
    };
    test_status(hymba_context_decode(context, items, sizeof items[0], 2, &error), HYMBA_OK, error);
    keep_logits(tale, first);
    keep_logits(tale, second);
}

/* Going back by steps, to a snapshot, and by computing again. */
static void tell_rewinds(struct tale *tale, hymba_session *first, hymba_session *second)
{
    rewind_to(first, hymba_session_length(first) - 1, HYMBA_REWIND_KEPT);
    append(tale, first, 50, 1);
    rewind_to(second, 10, HYMBA_REWIND_COMPUTE);
    keep_logits(tale, second);
    float *scores = tale->rows[tale->n_rows++];
    test_status(hymba_session_score(second, tokens + 51, 4, scores, &error), HYMBA_OK, error);
    rewind_to(first, 23, HYMBA_REWIND_KEPT);
    keep_logits(tale, first);
    test_status(hymba_session_reset(second, &error), HYMBA_OK, error);
    append(tale, second, 55, 7);
}

static hymba_sampler *new_sampler(float temperature)
{
    hymba_sampler_params params = {
        .struct_size = sizeof params, .temperature = temperature, .seed = 7};
    hymba_sampler *sampler;
    test_status(hymba_sampler_create(&params, NULL, &sampler, &error), HYMBA_OK, error);
    return sampler;
}

static void tell_generation(struct tale *tale, hymba_session *session)
{
    hymba_generation_params params = {.struct_size = sizeof params, .max_tokens = 6,
                                      .flags = HYMBA_GENERATION_IGNORE_EOS};
    hymba_event event = {.struct_size = sizeof event};
    hymba_generation *generation;
    hymba_sampler *sampler = new_sampler(0);
    test_status(hymba_generation_create(session, sampler, NULL, &params, &generation, &error),
                HYMBA_OK, error);
    do {
        test_status(hymba_generation_next(generation, &event, &error), HYMBA_OK, error);
        if (event.kind == HYMBA_EVENT_TOKEN)
            tale->tokens[tale->n_tokens++] = event.token;
    } while (event.kind == HYMBA_EVENT_TOKEN);
    hymba_generation_release(generation);
    hymba_sampler_release(sampler);
}

/* Two requests that share steps; their tokens as they come. */
static void tell_schedule(struct tale *tale, hymba_context *context)
{
    hymba_generation_params generation = {.struct_size = sizeof generation, .max_tokens = 4,
                                          .flags = HYMBA_GENERATION_IGNORE_EOS};
    hymba_request_params params = {.struct_size = sizeof params, .generation = &generation};
    hymba_scheduler *scheduler;
    hymba_session *sessions[2];
    hymba_sampler *samplers[2];
    uint64_t request;
    test_status(hymba_scheduler_create(context, 9, NULL, &scheduler, &error), HYMBA_OK, error);
    for (size_t i = 0; i < 2; i++) {
        samplers[i] = new_sampler(i == 0 ? 0 : 0.7f);
        test_status(hymba_session_create(context, NULL, &sessions[i], &error), HYMBA_OK, error);
        test_status(hymba_scheduler_add(scheduler, sessions[i], samplers[i], tokens + 30 * i,
                                        12 + i, &params, &request, &error),
                    HYMBA_OK, error);
    }
    while (hymba_scheduler_count(scheduler) > 0) {
        hymba_request_event events[2];
        size_t n;
        test_status(hymba_scheduler_step(scheduler, events, sizeof events[0], 2, &n, &error),
                    HYMBA_OK, error);
        for (size_t i = 0; i < n; i++)
            tale->tokens[tale->n_tokens++] = events[i].token;
    }
    hymba_scheduler_release(scheduler);
    for (size_t i = 0; i < 2; i++) {
        hymba_session_release(sessions[i]);
        hymba_sampler_release(samplers[i]);
    }
}

static struct tale *tell(hymba_context *context)
{
    hymba_session_params params = {.struct_size = sizeof params, .snapshot_interval = 18};
    struct tale *tale = calloc(1, sizeof *tale);
    hymba_session *session, *fork;
    test_status(hymba_session_create(context, &params, &session, &error), HYMBA_OK, error);
    append(tale, session, 0, 20);
    for (size_t i = 20; i < 23; i++) /* a step that comes again is one launch */
        append(tale, session, i, 1);
    test_status(hymba_session_snapshot(session, "mark", NULL, &error), HYMBA_OK, error);
    test_status(hymba_session_fork(session, &fork, NULL, &error), HYMBA_OK, error);
    tell_batch(tale, context, session, fork, 5);
    tell_batch(tale, context, session, fork, 1);
    tell_batch(tale, context, session, fork, 1);
    tell_rewinds(tale, session, fork);
    tell_generation(tale, session);
    tell_schedule(tale, context);
    hymba_session_release(session);
    hymba_session_release(fork);
    return tale;
}

static double deviation(const float *row)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < VOCABULARY; i++) {
        sum += (double)row[i];
        squares += (double)row[i] * (double)row[i];
    }
    return sqrt(squares / VOCABULARY - sum / VOCABULARY * (sum / VOCABULARY));
}

/* In deviations of the first row. */
static double compare_rows(const struct tale *found, const struct tale *expected)
{
    double greatest = 0;
    ck_assert_uint_eq(found->n_rows, expected->n_rows);
    for (size_t r = 0; r < found->n_rows; r++)
        for (size_t i = 0; i < VOCABULARY; i++) {
            double difference = fabs((double)found->rows[r][i] - (double)expected->rows[r][i]);
            greatest = difference > greatest || difference != difference ? difference : greatest;
        }
    return greatest / deviation(expected->rows[0]);
}

static const struct variant {
    const char *device;
    int32_t compute;
    double bound; /* of logits, in deviations */
    bool tokens;  /* are the same */
} variants[] = {
    {"cuda:0,1", HYMBA_COMPUTE_F32, 1e-4, true},
    {"cuda:2,0,1", HYMBA_COMPUTE_F32, 1e-4, true},
    {"cuda:1,0", HYMBA_COMPUTE_BF16, 0.15, false},
};

START_TEST(a_life_on_several_devices_is_that_on_one)
{
    const struct variant *variant = &variants[_i];
    hymba_context *single = open_context("cuda:0", variant->compute);
    struct tale *expected = tell(single);
    hymba_context_release(single);
    hymba_context *group = open_context(variant->device, variant->compute);
    struct tale *found = tell(group);
    double difference = compare_rows(found, expected);
    ck_assert_msg(difference < variant->bound, "%s: %g deviations", variant->device, difference);
    if (variant->tokens) {
        ck_assert_uint_eq(found->n_tokens, expected->n_tokens);
        ck_assert_mem_eq(found->tokens, expected->tokens,
                         expected->n_tokens * sizeof expected->tokens[0]);
    }
    hymba_context_release(group);
    free(expected);
    free(found);
}
END_TEST

/* --------------------------------------------------------------- saved sessions */

static hymba_session *new_session(hymba_context *context)
{
    hymba_session *session;
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, 22, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    test_status(hymba_session_snapshot(session, "mark", NULL, &error), HYMBA_OK, error);
    for (size_t i = 22; i < 25; i++)
        test_status(hymba_session_append(session, tokens + i, 1, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
    return session;
}

static struct fuzz_file save(hymba_session *session)
{
    struct fuzz_file file = {0};
    test_status(hymba_session_save_to(session, NULL, fuzz_write, &file, NULL, &error), HYMBA_OK,
                error);
    return file;
}

static hymba_session *load(hymba_context *context, const struct fuzz_file *file)
{
    hymba_session *session;
    test_status(hymba_session_load_memory(context, file->data, file->size, NULL, &session, NULL,
                                          NULL, &error),
                HYMBA_OK, error);
    return session;
}

/* On, back to kept states, and back to the snapshot. */
static struct tale *tell_rest(hymba_session *session)
{
    struct tale *tale = calloc(1, sizeof *tale);
    keep_logits(tale, session);
    append(tale, session, 30, 1);
    append(tale, session, 31, 9);
    rewind_to(session, hymba_session_length(session) - 2, HYMBA_REWIND_KEPT);
    append(tale, session, 42, 3);
    rewind_to(session, 22, HYMBA_REWIND_KEPT);
    append(tale, session, 45, 4);
    hymba_session_release(session);
    return tale;
}

/* One device's file comes back from several, byte for byte, and goes on there but for rounding; on
 * the devices that it comes from it goes on to the bit. _i: the arithmetic. */
START_TEST(saved_sessions_go_from_one_device_to_several)
{
    const int32_t compute = _i == 0 ? HYMBA_COMPUTE_F32 : HYMBA_COMPUTE_BF16;
    hymba_context *contexts[2] = {open_context("cuda:0", compute),
                                  open_context("cuda:2,0,1", compute)};
    for (int i = 0; i < 2; i++) {
        hymba_session *session = new_session(contexts[i]);
        struct fuzz_file file = save(session);
        struct tale *told[3] = {tell_rest(session), NULL, NULL};
        for (int j = 0; j < 2; j++) {
            session = load(contexts[j], &file);
            struct fuzz_file again = save(session);
            ck_assert_uint_eq(again.size, file.size);
            ck_assert_mem_eq(again.data, file.data, file.size);
            fuzz_file_free(&again);
            told[1 + j] = tell_rest(session);
        }
        ck_assert_mem_eq(told[1 + i], told[0], sizeof *told[0]);
        double difference = compare_rows(told[2 - i], told[0]);
        ck_assert_msg(difference < (_i == 0 ? 1e-4 : 0.15), "%g deviations", difference);
        for (int j = 0; j < 3; j++)
            free(told[j]);
        fuzz_file_free(&file);
    }
    hymba_context_release(contexts[0]);
    hymba_context_release(contexts[1]);
}
END_TEST

/* Copies of a save and of a load, which are many more than the calls that fail here. */
START_TEST(a_device_that_is_lost_while_a_session_is_copied_is_told)
{
    for (unsigned nth = 1; nth < 60; nth *= 3) {
        hymba_context *context = open_context("cuda:0,1", HYMBA_COMPUTE_F32);
        hymba_session *session = new_session(context), *loaded = session;
        struct fuzz_file file = save(session), again = {0};
        fail_call("cudaMemcpyAsync", nth, 0);
        hymba_status status =
            _i == 0 ? hymba_session_save_to(session, NULL, fuzz_write, &again, NULL, &error)
                    : hymba_session_load_memory(context, file.data, file.size, NULL, &loaded, NULL,
                                                NULL, &error);
        fail_call("cudaMemcpyAsync", 0, 0);
        test_status(status, HYMBA_ERROR_DEVICE, error);
        ck_assert(_i == 0 || !loaded);
        test_status(hymba_session_reset(session, &error), HYMBA_ERROR_DEVICE, error);
        fuzz_file_free(&file);
        fuzz_file_free(&again);
        hymba_session_release(session);
        hymba_context_release(context);
    }
}
END_TEST

/* -------------------------------------------------------------------- failures */

/* After a call that failed: nothing has changed, and the group goes on or has failed for good. */
static void check_failed(hymba_context *context, hymba_session *session, hymba_status status)
{
    hymba_session *other = NULL;
    bool lost = status == HYMBA_ERROR_DEVICE;
    ck_assert_msg(lost || status == HYMBA_ERROR_MEMORY, "%s", error.message);
    ck_assert_uint_eq(hymba_session_length(session), 12);
    ck_assert_int_eq(hymba_session_append(session, tokens, 1, HYMBA_LOGITS_LAST, &error),
                     lost ? HYMBA_ERROR_DEVICE : HYMBA_OK);
    ck_assert_int_eq(hymba_session_create(context, NULL, &other, &error),
                     lost ? HYMBA_ERROR_DEVICE : HYMBA_OK);
    hymba_session_release(other);
}

/* The nth call of that name fails, on whichever device it comes; whether it has come. */
static bool strike(const char *call, unsigned nth, int memory, size_t n_tokens)
{
    hymba_context *context = open_context("cuda:0,1", HYMBA_COMPUTE_F32);
    hymba_session *session;
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, 10, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    for (size_t i = 10; i < 12; i++)
        test_status(hymba_session_append(session, tokens + i, 1, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
    size_t before = count_calls(call);
    fail_call(call, nth, memory);
    hymba_status status =
        hymba_session_append(session, tokens + 12, n_tokens, HYMBA_LOGITS_LAST, &error);
    bool came = count_calls(call) - before >= nth;
    fail_call(call, 0, 0);
    if (status != HYMBA_OK)
        check_failed(context, session, status);
    if (!memory)
        ck_assert_int_eq(status != HYMBA_OK, came);
    hymba_session_release(session);
    hymba_context_release(context);
    return came;
}

static const struct failing {
    const char *call;
    int memory;
    size_t n_tokens;
} failing[] = {
    {"cudaMemcpyAsync", 0, 1},
    {"cudaMemcpyAsync", 0, 20},
    {"ncclAllGather", 0, 1},
    {"ncclAllGather", 0, 20},
    {"cudaMallocFromPoolAsync", 1, 20},
};

/* Nobody waits for a device that is lost: all of it takes less than one time-out. */
START_TEST(a_device_that_fails_leaves_sessions_where_they_were)
{
    const struct failing *call = &failing[_i];
    unsigned nth = 1;
    while (nth < 100 && strike(call->call, nth, call->memory, call->n_tokens))
        nth *= 3;
    ck_assert_uint_gt(nth, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("CUDA group");
    TCase *lives = tcase_create("lives");
    tcase_add_checked_fixture(lives, setup, teardown);
    tcase_set_timeout(lives, 600);
    tcase_add_loop_test(lives, a_life_on_several_devices_is_that_on_one, 0,
                        (int)(sizeof variants / sizeof variants[0]));
    suite_add_tcase(suite, lives);
    TCase *saved = tcase_create("saved sessions");
    tcase_add_checked_fixture(saved, setup, teardown);
    tcase_set_timeout(saved, 600);
    tcase_add_loop_test(saved, saved_sessions_go_from_one_device_to_several, 0, 2);
    tcase_add_loop_test(saved, a_device_that_is_lost_while_a_session_is_copied_is_told, 0, 2);
    suite_add_tcase(suite, saved);
    TCase *failures = tcase_create("failures");
    tcase_add_checked_fixture(failures, setup, teardown);
    tcase_set_timeout(failures, 600);
    tcase_add_loop_test(failures, a_device_that_fails_leaves_sessions_where_they_were, 0,
                        (int)(sizeof failing / sizeof failing[0]));
    suite_add_tcase(suite, failures);
    return test_main(suite);
}
