/* Log-probabilities of tokens and their alternatives, against the definition in long double. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hymba.h"
#include "support.h"

enum { MAX_LOGITS = 400 };

static hymba_error error = {.struct_size = sizeof error};

static long double expected(const float *logits, size_t n, size_t token)
{
    long double sum = 0, best = -INFINITY;
    for (size_t i = 0; i < n; i++)
        best = fmaxl(best, logits[i]);
    for (size_t i = 0; i < n; i++)
        sum += expl(logits[i] - best);
    return logits[token] - best - logl(sum);
}

static void check_value(float found, long double value)
{
    if (value == -INFINITY)
        ck_assert(found == -INFINITY);
    else
        ck_assert_msg(fabsl(found - value) <= fmaxl(1, fabsl(value)) * 1e-7L, "%.9g, not %.9Lg",
                      found, value);
}

/* How many tokens come before one in the order of the alternatives. */
static size_t rank_of(const float *logits, size_t n, size_t token)
{
    size_t rank = 0;
    for (size_t i = 0; i < n; i++)
        rank += logits[i] > logits[token] || (logits[i] == logits[token] && i < token);
    return rank;
}

START_TEST(values_and_alternatives)
{
    static const size_t sizes[] = {1, 2, 5, 64, 400};
    static hymba_token_probability top[MAX_LOGITS];
    float logits[MAX_LOGITS], found;
    test_random_seed(1);
    for (int turn = 0; turn < 400; turn++) {
        size_t n = sizes[turn % 5], n_top = test_random_below(n + 1);
        double spread = turn % 3 ? 8 : 300;
        for (size_t i = 0; i < n; i++) /* with equal ones, and some impossible */
            logits[i] = turn % 4 == 0 && i > 0 && i % 7 == 0
                            ? -INFINITY
                            : (float)(floor(test_random() * spread * 4) / 4 - spread / 2);
        size_t token = test_random_below(n);
        test_status(hymba_log_probabilities(logits, n, (int32_t)token, &found, top, n_top, &error),
                    HYMBA_OK, error);
        check_value(found, expected(logits, n, token));
        for (size_t i = 0; i < n_top; i++) {
            ck_assert_uint_eq(rank_of(logits, n, (size_t)top[i].token), i);
            check_value(top[i].log_probability, expected(logits, n, (size_t)top[i].token));
        }
    }
}
END_TEST

START_TEST(extreme_logits)
{
    const float far[] = {FLT_MAX, -FLT_MAX, FLT_MAX}, single[] = {-INFINITY, -3e38f};
    hymba_token_probability top[3];
    float found;
    test_status(hymba_log_probabilities(far, 3, 2, &found, top, 3, &error), HYMBA_OK, error);
    check_value(found, -logl(2));
    ck_assert_int_eq(top[0].token, 0);
    ck_assert_int_eq(top[1].token, 2);
    ck_assert_int_eq(top[2].token, 1);
    ck_assert_float_lt(top[2].log_probability, -FLT_MAX / 2);
    test_status(hymba_log_probabilities(single, 2, 1, &found, NULL, 0, &error), HYMBA_OK, error);
    ck_assert(found == 0);
    test_status(hymba_log_probabilities(single, 2, 0, &found, NULL, 0, &error), HYMBA_OK, error);
    ck_assert(found == -INFINITY);
}
END_TEST

START_TEST(wrong_uses_are_refused)
{
    const float good[] = {1, 2}, none[] = {-INFINITY, -INFINITY}, bad[] = {1, NAN};
    hymba_token_probability top[2];
    float found;
    static const struct {
        int row;
        size_t n;
        int32_t token;
        size_t n_top;
        hymba_status status;
    } cases[] = {
        {0, 2, 0, 2, HYMBA_OK},
        {0, 2, 2, 0, HYMBA_ERROR_ARGUMENT},
        {0, 2, -1, 0, HYMBA_ERROR_ARGUMENT},
        {0, 2, 0, 3, HYMBA_ERROR_ARGUMENT},
        {0, 0, 0, 0, HYMBA_ERROR_ARGUMENT},
        {1, 2, 0, 0, HYMBA_ERROR_ARGUMENT},
        {2, 2, 0, 0, HYMBA_ERROR_ARGUMENT},
    };
    const float *const rows[] = {good, none, bad};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        test_status(hymba_log_probabilities(rows[cases[i].row], cases[i].n, cases[i].token, &found,
                                            top, cases[i].n_top, &error),
                    cases[i].status, error);
    test_status(hymba_log_probabilities(NULL, 2, 0, &found, top, 1, &error), HYMBA_ERROR_ARGUMENT,
                error);
    test_status(hymba_log_probabilities(good, 2, 0, &found, NULL, 1, &error), HYMBA_ERROR_ARGUMENT,
                error);
    /* Without a place for the value the token is not read. */
    test_status(hymba_log_probabilities(good, 2, -7, NULL, top, 2, &error), HYMBA_OK, error);
    ck_assert_int_eq(top[0].token, 1);
}
END_TEST

/* ------------------------------------------------------------- generation */

/* Every token's event against the session's logits that it was chosen from. */
START_TEST(events_carry_the_model_s_own_probabilities)
{
    enum { TOP = 5, TOKENS = 12 };
    hymba_model *model;
    hymba_context *context;
    hymba_session *session;
    hymba_sampler *sampler;
    hymba_generation *generation;
    hymba_model_info info = {.struct_size = sizeof info};
    hymba_event event = {.struct_size = sizeof event};
    hymba_sampler_params sampling = {
        .struct_size = sizeof sampling, .temperature = 3, .top_k = 50, .seed = 2};
    hymba_generation_params params = {.struct_size = sizeof params, .n_top = _i == 1 ? TOP : 0};
    const int32_t prompt[] = {1, 20, 30};
    static float logits[1 << 16];
    params.flags = _i == 2 ? HYMBA_GENERATION_LOG_PROBABILITIES : 0;
    params.flags |= HYMBA_GENERATION_IGNORE_EOS;
    test_status(hymba_model_open("tests/data/goldens/b_no_meta", NULL, &model, &error), HYMBA_OK,
                error);
    test_status(hymba_model_get_info(model, &info, &error), HYMBA_OK, error);
    test_status(hymba_context_create(model, NULL, &context, &error), HYMBA_OK, error);
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, prompt, 3, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    test_status(hymba_sampler_create(&sampling, NULL, &sampler, &error), HYMBA_OK, error);
    test_status(hymba_generation_create(session, sampler, NULL, &params, &generation, &error),
                HYMBA_OK, error);
    for (int i = 0; i < TOKENS; i++) {
        const float *row;
        size_t rows;
        test_status(hymba_generation_next(generation, &event, &error), HYMBA_OK, error);
        ck_assert_int_eq(event.kind, HYMBA_EVENT_TOKEN);
        /* The event's token is not in the session yet: its logits are those it came from. */
        test_status(hymba_session_logits(session, &row, &rows, &error), HYMBA_OK, error);
        memcpy(logits, row + (rows - 1) * info.vocabulary_size,
               info.vocabulary_size * sizeof *logits);
        ck_assert_uint_eq(event.n_top, params.n_top);
        if (_i == 0)
            ck_assert(event.log_probability == 0);
        else
            check_value(event.log_probability,
                        expected(logits, info.vocabulary_size, (size_t)event.token));
        for (size_t j = 0; j < event.n_top; j++) {
            size_t token = (size_t)event.top[j].token;
            ck_assert_uint_eq(rank_of(logits, info.vocabulary_size, token), j);
            check_value(event.top[j].log_probability,
                        expected(logits, info.vocabulary_size, token));
        }
    }
    hymba_generation_release(generation);
    params.n_top = info.vocabulary_size + 1;
    test_status(hymba_generation_create(session, sampler, NULL, &params, &generation, &error),
                HYMBA_ERROR_ARGUMENT, error);
    hymba_sampler_release(sampler);
    hymba_session_release(session);
    hymba_context_release(context);
    hymba_model_release(model);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log probabilities");
    TCase *tests = tcase_create("log probabilities");
    tcase_add_test(tests, values_and_alternatives);
    tcase_add_test(tests, extreme_logits);
    tcase_add_test(tests, wrong_uses_are_refused);
    tcase_add_loop_test(tests, events_carry_the_model_s_own_probabilities, 0, 3);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
