/*
 * Memory: limits of a model, a context and a session, each kept to the byte, and what the library
 * says of its needs against what the host's allocator sees.
 */
#include "hostile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run/session.h"

static struct test_host host;
static hymba_error error;
static int32_t tokens[6000];

static void setup(void)
{
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++)
        tokens[i] = (int32_t)(i * 31 % 67);
}

/* What an object's own record and the like take beyond what is counted for it. */
enum { RECORDS = 4096 };

/* ------------------------------------------------------------------- models */

static hymba_status open_limited(uint32_t flags, uint64_t limit, hymba_model **model)
{
    hymba_model_params params = {
        .struct_size = sizeof params, .flags = flags, .host = &host.host, .memory_limit = limit};
    return hymba_model_open(test_data("goldens/f_official_like"), &params, model, &error);
}

static void limit_a_model(uint32_t flags, uint64_t least, uint64_t most)
{
    hymba_model *model;
    test_status(open_limited(flags, 0, &model), HYMBA_OK, error);
    uint64_t peak = model->memory.peak;
    ck_assert_uint_ge(peak, least);
    ck_assert_uint_le(peak, most);
    hymba_model_release(model);
    host.peak = 0;
    test_status(open_limited(flags, peak, &model), HYMBA_OK, error);
    ck_assert_uint_le(host.peak, peak + RECORDS);
    hymba_model_release(model);
    uint64_t below[] = {peak - 1, peak / 2, 1};
    for (size_t i = 0; i < 3; i++) {
        test_status(open_limited(flags, below[i], &model), HYMBA_ERROR_MEMORY, error);
        ck_assert_ptr_null(model);
        ck_assert_ptr_nonnull(strstr(error.message, "memory"));
        test_host_check(&host);
    }
}

START_TEST(a_model_keeps_its_limit)
{
    enum { FILES = 2861984 };
    limit_a_model(0, 10000, 400000); /* its files are mapped */
    limit_a_model(HYMBA_MODEL_NO_MAP, FILES, FILES + 400000);
    limit_a_model(HYMBA_MODEL_NO_WEIGHTS, 1000, 20000);
}
END_TEST

/* ----------------------------------------------------------------- contexts */

/* A life in a context with a limit: the first failure, and its peak. */
static hymba_status live(hymba_model *model, uint64_t limit, uint64_t *peak)
{
    hymba_context_params params = {.struct_size = sizeof params,
                                   .n_threads = 1,
                                   .max_step_tokens = 16,
                                   .rewind_tokens = 2,
                                   .memory_limit = limit};
    hymba_context *context = NULL;
    hymba_session *session = NULL, *fork = NULL;
    hymba_status status = hymba_context_create(model, &params, &context, &error);
    if (status == HYMBA_OK)
        status = hymba_session_create(context, NULL, &session, &error);
    if (status == HYMBA_OK)
        status = hymba_session_append(session, tokens, 40, HYMBA_LOGITS_ALL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_snapshot(session, "here", NULL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_fork(session, &fork, NULL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_append(fork, tokens, 300, HYMBA_LOGITS_LAST, &error);
    if (context && peak)
        *peak = context->memory.peak;
    if (context)
        ck_assert_uint_le(context->memory.used, limit ? limit : UINT64_MAX);
    hymba_session_release(fork);
    hymba_session_release(session);
    hymba_context_release(context);
    return status;
}

START_TEST(a_context_keeps_its_limit)
{
    hymba_model *model;
    uint64_t peak;
    test_status(open_limited(0, 0, &model), HYMBA_OK, error);
    uint64_t base = host.used;
    test_status(live(model, 0, &peak), HYMBA_OK, error);
    ck_assert_uint_eq(host.used, base);
    host.peak = base;
    test_status(live(model, peak, NULL), HYMBA_OK, error);
    ck_assert_uint_le(host.peak - base, peak + RECORDS);
    for (uint64_t limit = peak - 1; limit > 0; limit = limit / 4 * 3) {
        host.peak = base;
        test_status(live(model, limit, NULL), HYMBA_ERROR_MEMORY, error);
        ck_assert_uint_le(host.peak - base, limit + RECORDS);
        ck_assert_uint_eq(host.used, base);
    }
    hymba_model_release(model);
    test_host_check(&host);
}
END_TEST

/* ----------------------------------------------------------------- sessions */

static hymba_context *make_context(hymba_model *model, uint32_t rewind)
{
    hymba_context_params params = {.struct_size = sizeof params,
                                   .n_threads = 1,
                                   .max_step_tokens = 64,
                                   .rewind_tokens = rewind};
    hymba_context *context;
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

/* Creates, reserves and appends under a limit; a session that fails is where it was. */
static hymba_status grow(hymba_context *context, uint64_t limit, size_t n, uint64_t *bytes)
{
    hymba_session_params params = {.struct_size = sizeof params, .memory_limit = limit};
    hymba_session_info info = {.struct_size = sizeof info};
    hymba_session *session;
    hymba_status status = hymba_session_create(context, &params, &session, &error);
    if (status != HYMBA_OK)
        return status;
    status = hymba_session_reserve(session, n, &error);
    if (status == HYMBA_OK)
        status = hymba_session_append(session, tokens, n, HYMBA_LOGITS_LAST, &error);
    ck_assert_uint_eq(hymba_session_length(session), status == HYMBA_OK ? n : 0);
    test_status(hymba_session_get_info(session, &info, &error), HYMBA_OK, error);
    if (limit > 0) /* a list of blocks or snapshots may come on top */
        ck_assert_uint_le(info.memory_bytes, limit + 256);
    if (bytes)
        *bytes = info.memory_bytes;
    hymba_session_release(session);
    return status;
}

START_TEST(a_session_keeps_its_limit)
{
    hymba_model *model;
    test_status(open_limited(0, 0, &model), HYMBA_OK, error);
    hymba_context *context = make_context(model, 2);
    for (size_t n = 1; n <= 700; n += 233) {
        uint64_t bytes;
        test_status(grow(context, 0, n, &bytes), HYMBA_OK, error);
        test_status(grow(context, bytes, n, NULL), HYMBA_OK, error);
        const uint64_t below[] = {bytes - 1, bytes - 600, bytes - 1200, bytes / 2};
        for (size_t i = 0; i < 4; i++) {
            hymba_status status = grow(context, below[i], n, NULL);
            ck_assert_msg(status == HYMBA_ERROR_LIMIT || status == HYMBA_ERROR_MEMORY, "%s",
                          hymba_status_name(status));
        }
        test_status(grow(context, 1, n, NULL), HYMBA_ERROR_MEMORY, error);
    }
    hymba_context_release(context);
    hymba_model_release(model);
    test_host_check(&host);
}
END_TEST

/* A session that came to its limit goes on within it, and others are not touched. */
START_TEST(a_session_at_its_limit_is_usable)
{
    hymba_model *model;
    hymba_session_params params = {.struct_size = sizeof params};
    hymba_session *session, *other;
    const float *found, *expected;
    size_t rows;
    test_status(open_limited(0, 0, &model), HYMBA_OK, error);
    hymba_context *context = make_context(model, 0);
    test_status(grow(context, 0, 300, &params.memory_limit), HYMBA_OK, error);
    test_status(hymba_session_create(context, &params, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_create(context, NULL, &other, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, 200, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    hymba_status status =
        hymba_session_append(session, tokens, 5000, HYMBA_LOGITS_LAST, &error);
    ck_assert_msg(status == HYMBA_ERROR_LIMIT || status == HYMBA_ERROR_MEMORY, "%s",
                  error.message);
    test_status(hymba_session_append(session, tokens + 200, 20, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
    test_status(hymba_session_append(other, tokens, 220, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    test_status(hymba_session_logits(session, &found, &rows, &error), HYMBA_OK, error);
    test_status(hymba_session_logits(other, &expected, &rows, &error), HYMBA_OK, error);
    ck_assert_mem_eq(found, expected, 257 * sizeof *found);
    hymba_session_release(session);
    hymba_session_release(other);
    hymba_context_release(context);
    hymba_model_release(model);
    test_host_check(&host);
}
END_TEST

/* ---------------------------------------------------------------- estimates */

/* Within a twentieth of the truth; records count where all of it is no more than some pages. */
static void check_estimate(const char *what, const char *model, uint64_t estimate, uint64_t real)
{
    uint64_t off = estimate > real ? estimate - real : real - estimate;
    ck_assert_msg(off <= real / 20 || off <= RECORDS,
                  "%s, %s: %llu bytes are told, %llu taken", model, what,
                  (unsigned long long)estimate, (unsigned long long)real);
}

static double worst = 0;

static void estimate(const char *name, hymba_model *model, const hymba_context_params *params,
                     size_t n)
{
    hymba_model_info shape = {.struct_size = sizeof shape};
    hymba_memory_info told = {.struct_size = sizeof told, .n_tokens = n};
    hymba_session_info info = {.struct_size = sizeof info};
    hymba_context *context;
    hymba_session *session;
    uint64_t base = host.used;
    test_status(hymba_model_get_info(model, &shape, &error), HYMBA_OK, error);
    test_status(hymba_model_get_memory_info(model, params, &told, &error), HYMBA_OK, error);
    ck_assert_uint_eq(host.used, base);
    test_status(hymba_context_create(model, params, &context, &error), HYMBA_OK, error);
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_reserve(session, n, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, 1, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    if (n > 1)
        test_status(hymba_session_append(session, tokens + 1, n - 1, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
    uint64_t both = host.used - base;
    test_status(hymba_session_get_info(session, &info, &error), HYMBA_OK, error);
    hymba_session_release(session);
    uint64_t alone = host.used - base, real = both - alone;
    /* beside the state, which is what counts in a model of any size: tokens and logits */
    uint64_t expected = told.total_bytes - told.meta_bytes + n * sizeof(int32_t) +
                        shape.vocabulary_size * sizeof(float);
    check_estimate("a session before", name, expected, real);
    check_estimate("a session's own figure", name, info.memory_bytes, real);
    check_estimate("a context", name, told.workspace_bytes + told.meta_bytes, alone);
    double off = (double)(told.workspace_bytes + told.meta_bytes) / (double)alone - 1;
    if (alone > 20 * RECORDS && off * off > worst * worst)
        worst = off;
    hymba_context_release(context);
    ck_assert_uint_eq(host.used, base);
}

START_TEST(estimates_are_near_the_truth)
{
    static const char *const names[] = {"goldens/f_official_like", "goldens/c_all_sliding",
                                        "variants/attention_only", "variants/mamba_only",
                                        "goldens/d_all_full"};
    static const hymba_context_params kinds[] = {
        {.n_threads = 1, .max_step_tokens = 64},
        {.n_threads = 2, .max_step_tokens = 128, .rewind_tokens = 16},
        {.n_threads = 1, .max_step_tokens = 64, .rewind_tokens = 3,
         .cache_type = HYMBA_DTYPE_F16, .state_type = HYMBA_DTYPE_BF16},
        {.n_threads = 4, .max_step_tokens = 16},
        {.n_threads = 1, .max_step_tokens = 32, .cache_type = HYMBA_DTYPE_INT8},
    };
    static const size_t lengths[] = {1, 300, 3000};
    size_t count = 0;
    for (size_t m = 0; m < sizeof names / sizeof names[0]; m++) {
        hymba_model_params params = {.struct_size = sizeof params, .host = &host.host};
        hymba_model *model;
        test_status(hymba_model_open(test_data(names[m]), &params, &model, &error), HYMBA_OK,
                    error);
        for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
            for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
                hymba_context_params kind = kinds[k];
                kind.struct_size = sizeof kind;
                estimate(names[m], model, &kind, lengths[i]);
                count += 3;
            }
        }
        hymba_model_release(model);
        test_host_check(&host);
    }
    hostile_report("estimates within 5 % of what was allocated", count);
    if (hostile_is_long())
        printf("largest error of a context's estimate in a thousand: %d\n", (int)(worst * 1000));
}
END_TEST

/* Snapshots, forks and what is shared are in a session's figure. */
START_TEST(a_session_s_figure_counts_snapshots)
{
    hymba_model *model;
    hymba_session_info info = {.struct_size = sizeof info};
    hymba_session *session;
    test_status(open_limited(0, 0, &model), HYMBA_OK, error);
    hymba_context *context = make_context(model, 4);
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    for (int i = 0; i < 2; i++) /* the context's own buffers are then there */
        test_status(hymba_session_append(session, tokens, 300, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
    hymba_session_release(session);
    uint64_t base = host.used;
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    for (size_t n = 0; n < 600; n += 100) {
        test_status(hymba_session_append(session, tokens + n, 100, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_snapshot(session, NULL, NULL, &error), HYMBA_OK, error);
        test_status(hymba_session_get_info(session, &info, &error), HYMBA_OK, error);
        check_estimate("a session with snapshots", "f_official_like", info.memory_bytes,
                       host.used - base);
    }
    /* back, and on with other tokens: the last block is no longer the snapshots' */
    test_status(hymba_session_rewind(session, 300, HYMBA_REWIND_KEPT, NULL, &error), HYMBA_OK,
                error);
    test_status(hymba_session_append(session, tokens, 100, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    test_status(hymba_session_get_info(session, &info, &error), HYMBA_OK, error);
    check_estimate("a session that went back", "f_official_like", info.memory_bytes,
                   host.used - base);
    hymba_session_release(session);
    ck_assert_uint_eq(host.used, base);
    hymba_context_release(context);
    hymba_model_release(model);
    test_host_check(&host);
}
END_TEST

START_TEST(an_estimate_that_does_not_fit_is_refused)
{
    static const char *const names[] = {"goldens/c_all_sliding", "variants/attention_only",
                                        "goldens/d_all_full"};
    for (size_t m = 0; m < 3; m++) {
        hymba_model *model;
        test_status(hymba_model_open(test_data(names[m]), NULL, &model, &error), HYMBA_OK, error);
        uint64_t last = 0;
        for (unsigned bits = 1; bits <= 64; bits++) {
            hymba_memory_info told = {.struct_size = sizeof told};
            told.n_tokens = bits == 64 ? UINT64_MAX : UINT64_C(1) << bits;
            hymba_context_params params = {.struct_size = sizeof params, .n_threads = 1024};
            hymba_status status = hymba_model_get_memory_info(model, &params, &told, &error);
            ck_assert(status == HYMBA_OK || status == HYMBA_ERROR_LIMIT);
            if (status != HYMBA_OK) {
                last = UINT64_MAX; /* and no larger number fits again */
                continue;
            }
            uint64_t sum = told.total_bytes + told.workspace_bytes;
            ck_assert_msg(sum >= last, "%s: %llu tokens need less than half as many", names[m],
                          (unsigned long long)told.n_tokens);
            last = sum;
        }
        hymba_model_release(model);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory limits");
    TCase *tests = tcase_create("memory limits");
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_test(tests, a_model_keeps_its_limit);
    tcase_add_test(tests, a_context_keeps_its_limit);
    tcase_add_test(tests, a_session_keeps_its_limit);
    tcase_add_test(tests, a_session_at_its_limit_is_usable);
    tcase_add_test(tests, estimates_are_near_the_truth);
    tcase_add_test(tests, a_session_s_figure_counts_snapshots);
    tcase_add_test(tests, an_estimate_that_does_not_fit_is_refused);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
