/*
 * Every stage of the sampler, alone and in any order, against the plain definitions of
 * sampler_reference.c. The stage "custom", put last, shows exactly what the others have left.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sampler_reference.h"
#include "support.h"

static hymba_error error = {.struct_size = sizeof error};

/* ------------------------------------------------------------- observation */

struct seen {
    size_t n;
    int32_t tokens[REFERENCE_MAX];
    float logits[REFERENCE_MAX];
};

static int32_t look(void *user, const int32_t *tokens, float *logits, size_t n)
{
    struct seen *seen = user;
    seen->n = n;
    memcpy(seen->tokens, tokens, n * sizeof *tokens);
    memcpy(seen->logits, logits, n * sizeof *logits);
    return 0;
}

static hymba_sampler *create(const hymba_sampler_params *params)
{
    hymba_sampler *sampler;
    test_status(hymba_sampler_create(params, NULL, &sampler, &error), HYMBA_OK, error);
    return sampler;
}

static int32_t sample(hymba_sampler *sampler, const float *logits, size_t n_logits)
{
    int32_t token = -1;
    test_status(hymba_sampler_sample(sampler, logits, n_logits, &token, &error), HYMBA_OK, error);
    return token;
}

/* What a new sampler leaves of the logits, after the history, by the order. */
static void observe(hymba_sampler_params params, const char *order, const int32_t *history,
                    size_t n_history, const float *logits, size_t n_logits, struct seen *seen)
{
    char text[300];
    snprintf(text, sizeof text, "%s%scustom", order, *order ? ";" : "");
    params.order = text;
    params.process = look;
    params.process_user = seen;
    seen->n = 0;
    hymba_sampler *sampler = create(&params);
    for (size_t i = 0; i < n_history; i++)
        test_status(hymba_sampler_accept(sampler, history[i], &error), HYMBA_OK, error);
    int32_t token = sample(sampler, logits, n_logits);
    bool found = false;
    for (size_t i = 0; i < seen->n; i++)
        found = found || seen->tokens[i] == token;
    ck_assert_msg(found, "token %d was drawn, which was not left", (int)token);
    hymba_sampler_release(sampler);
}

static void compare(const struct reference *reference, const struct seen *seen, const char *what)
{
    ck_assert_msg(seen->n == reference->n, "%s: %zu candidates, expected %zu", what, seen->n,
                  reference->n);
    for (size_t i = 0; i < seen->n; i++) {
        const struct reference_candidate *expected = reference_find(reference, seen->tokens[i]);
        ck_assert_msg(expected != NULL, "%s: token %d is left", what, (int)seen->tokens[i]);
        long double logit = fmaxl(expected->logit, -FLT_MAX);
        ck_assert_msg(fabsl(seen->logits[i] - logit) <= fmaxl(1, fabsl(logit)) * 2e-7L,
                      "%s: logit of token %d: %.9g, expected %.9Lg", what, (int)seen->tokens[i],
                      seen->logits[i], logit);
    }
}

static void check(const hymba_sampler_params *params, const char *order, const int32_t *history,
                  size_t n_history, const float *logits, size_t n_logits)
{
    static struct reference reference;
    static struct seen seen;
    reference = (struct reference){.history = history, .n_history = n_history, .xtc_acts = true};
    reference_start(&reference, params, logits, n_logits);
    reference_run(&reference, order);
    observe(*params, order, history, n_history, logits, n_logits, &seen);
    compare(&reference, &seen, order);
}

/* ------------------------------------------------------------------ inputs */

/* Distinct logits, as those of a model are: which of two equally typical tokens is kept is not
 * defined. */
static void fill_logits(float *logits, size_t n, double spread)
{
    for (size_t i = 0; i < n; i++)
        logits[i] = (float)((test_random() + test_random() + test_random() - 1.5) * spread) +
                    (float)i * 1e-5f;
}

static float pick(const float *values, size_t n)
{
    return values[test_random_below(n)];
}

#define PICK(...)                                                                                 \
    pick((const float[]){__VA_ARGS__}, sizeof((const float[]){__VA_ARGS__}) / sizeof(float))

static const hymba_logit_bias biases[] = {{3, 2.5f},  {5, -INFINITY}, {3, -1.25f},
                                          {8, -4.0f}, {100000, 7},    {11, 6}};
static const int32_t breakers[] = {2, 9, 50000};

/* The same rounded, so that many are equal. */
static void fill_equal_logits(float *logits, size_t n, double spread)
{
    fill_logits(logits, n, spread);
    for (size_t i = 0; i < n; i++)
        logits[i] = floorf(logits[i] * 2) / 2;
}

/* A value for each field, often the one that turns the stage off. */
static hymba_sampler_params random_params(void)
{
    hymba_sampler_params params = {.struct_size = sizeof params, .seed = test_random_below(1000)};
    params.temperature = PICK(0.3f, 0.8f, 1, 1.7f, 5);
    params.top_k = (int32_t)PICK(0, 1, 2, 7, 40, 1000);
    params.top_p = PICK(0, 0.2f, 0.7f, 0.95f, 1);
    params.min_p = PICK(0, 0.001f, 0.05f, 0.5f, 1);
    params.typical_p = PICK(0, 0.1f, 0.5f, 0.9f, 1);
    params.top_n_sigma = PICK(0, 0.5f, 1, 2.5f, 100);
    params.xtc_probability = PICK(0, 1);
    params.xtc_threshold = PICK(0, 0.01f, 0.05f, 0.2f, 0.5f, 0.6f);
    params.repeat_penalty = PICK(0, 1, 1.3f, 0.5f);
    params.presence_penalty = PICK(0, 0.7f, -0.4f);
    params.frequency_penalty = PICK(0, 0.25f, -0.1f);
    params.repeat_last_n = (int32_t)PICK(0, -1, 1, 5, 30);
    params.dry_multiplier = PICK(0, 0.8f, 3);
    params.dry_base = PICK(0, 1, 1.3f, 4);
    params.dry_allowed_length = (int32_t)PICK(0, 1, 2, 4);
    params.dry_penalty_last_n = (int32_t)PICK(0, -1, 3, 20);
    if (test_random_below(2)) {
        params.logit_bias = biases;
        params.n_logit_bias = sizeof biases / sizeof *biases;
    }
    if (test_random_below(2)) {
        params.dry_breakers = breakers;
        params.n_dry_breakers = sizeof breakers / sizeof *breakers;
    }
    return params;
}

/* A text that repeats itself, of few different tokens. */
static size_t fill_history(int32_t *history, size_t most)
{
    size_t n = test_random_below(most + 1), kinds = 1 + test_random_below(12);
    for (size_t i = 0; i < n; i++) {
        size_t back = 1 + test_random_below(10);
        history[i] = i >= back && test_random_below(3) ? history[i - back]
                                                       : (int32_t)test_random_below(kinds);
    }
    return n;
}

/* ------------------------------------------------------------------- tests */

static const char *const stages[] = {"penalties", "dry",   "top_n_sigma", "top_k",      "typical_p",
                                     "top_p",     "min_p", "xtc",         "temperature"};
enum { N_STAGES = sizeof stages / sizeof *stages };

START_TEST(each_stage_is_its_definition)
{
    static const size_t sizes[] = {1, 2, 3, 17, 60, 250};
    float logits[REFERENCE_MAX];
    int32_t history[150];
    test_random_seed((unsigned)_i + 20);
    for (int turn = 0; turn < 600; turn++) {
        size_t n_logits = sizes[test_random_below(sizeof sizes / sizeof *sizes)];
        size_t n_history = fill_history(history, 150);
        hymba_sampler_params params = random_params();
        if (n_logits < 17)
            params.n_logit_bias = 0; /* so that one is left */
        if (turn % 2 && strcmp(stages[_i], "typical_p") != 0)
            fill_equal_logits(logits, n_logits, PICK(0.5f, 4, 12));
        else
            fill_logits(logits, n_logits, PICK(0.5f, 4, 12));
        check(&params, stages[_i], history, n_history, logits, n_logits);
    }
}
END_TEST

START_TEST(xtc_at_its_greatest_threshold)
{
    static const float even[] = {0, 0}, three[] = {0, 0, -1.5f}; /* 0.45, 0.45, 0.1 */
    static const struct {
        const float *logits;
        size_t n;
        float threshold;
        size_t left;
    } cases[] = {{even, 2, 0.5f, 1},   {even, 2, 0.51f, 2},  {three, 3, 0.44f, 2},
                 {three, 3, 0.45f, 3}, {three, 3, 0.09f, 1}, {three, 3, 1, 3}};
    static struct seen seen;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        hymba_sampler_params params = {.struct_size = sizeof params,
                                       .temperature = 1,
                                       .xtc_probability = 1,
                                       .xtc_threshold = cases[i].threshold};
        observe(params, "xtc", NULL, 0, cases[i].logits, cases[i].n, &seen);
        ck_assert_msg(seen.n == cases[i].left, "case %zu: %zu are left", i, seen.n);
    }
}
END_TEST

/* A random part of the stages in random order. */
static void shuffle_order(char *order)
{
    bool used[N_STAGES] = {false};
    size_t n = test_random_below(N_STAGES + 1), length = 0;
    order[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        size_t stage = test_random_below(N_STAGES);
        while (used[stage])
            stage = (stage + 1) % N_STAGES;
        used[stage] = true;
        length += (size_t)sprintf(order + length, "%s%s", i > 0 ? ";" : "", stages[stage]);
    }
}

START_TEST(stages_run_in_the_order_given)
{
    float logits[REFERENCE_MAX];
    int32_t history[150];
    char order[300];
    test_random_seed(40);
    for (int turn = 0; turn < 3000; turn++) {
        size_t n_logits = 17 + test_random_below(100);
        size_t n_history = fill_history(history, 150);
        hymba_sampler_params params = random_params();
        fill_logits(logits, n_logits, PICK(0.5f, 4, 12));
        shuffle_order(order);
        check(&params, order, history, n_history, logits, n_logits);
    }
}
END_TEST

/* That of llama.cpp, and it matters. */
static const char *const DEFAULT_ORDER =
    "penalties;dry;top_n_sigma;top_k;typical_p;top_p;min_p;xtc;temperature";

START_TEST(the_default_order)
{
    float logits[100];
    int differing = 0;
    test_random_seed(41);
    for (int turn = 0; turn < 300; turn++) {
        hymba_sampler_params params = random_params();
        fill_logits(logits, 100, 6);
        hymba_sampler *by_default = create(&params);
        params.order = DEFAULT_ORDER;
        hymba_sampler *by_name = create(&params);
        params.order = "temperature;xtc;min_p;top_p;typical_p;top_k;top_n_sigma;dry;penalties";
        hymba_sampler *backwards = create(&params);
        for (int i = 0; i < 30; i++) {
            int32_t token = sample(by_default, logits, 100);
            ck_assert_int_eq(token, sample(by_name, logits, 100));
            differing += token != sample(backwards, logits, 100);
        }
        hymba_sampler_release(by_default);
        hymba_sampler_release(by_name);
        hymba_sampler_release(backwards);
    }
    ck_assert_int_gt(differing, 1000);
}
END_TEST

/* With a process and no order, the process comes first and the default order then. */
START_TEST(a_stage_of_the_caller_s_comes_first)
{
    static struct seen seen;
    float logits[50];
    test_random_seed(42);
    fill_logits(logits, 50, 5);
    hymba_sampler_params params = {.struct_size = sizeof params,
                                   .temperature = 0.5f,
                                   .top_k = 3,
                                   .process = look,
                                   .process_user = &seen};
    hymba_sampler *sampler = create(&params);
    sample(sampler, logits, 50);
    ck_assert_uint_eq(seen.n, 50);
    for (size_t i = 0; i < seen.n; i++)
        ck_assert(seen.logits[i] == logits[seen.tokens[i]]);
    hymba_sampler_release(sampler);
}
END_TEST

/*
 * Many draws against the probabilities of the reference: what must not come never comes, and
 * chi-square over the rest stays within 5 standard deviations (the seeds are fixed, so a pass is a
 * pass).
 */
static void check_draws(const hymba_sampler_params *params, const char *order, const float *logits,
                        size_t n_logits)
{
    enum { DRAWS = 3000 };
    static struct reference reference;
    static unsigned counts[REFERENCE_MAX];
    double chi_square = 0, rest = DRAWS;
    size_t cells = 0;
    unsigned n_rest = DRAWS;
    reference = (struct reference){.xtc_acts = true};
    reference_start(&reference, params, logits, n_logits);
    reference_run(&reference, order);
    reference_normalise(&reference);
    memset(counts, 0, sizeof counts);
    hymba_sampler_params with_order = *params;
    with_order.order = order;
    hymba_sampler *sampler = create(&with_order);
    for (int i = 0; i < DRAWS; i++) {
        int32_t token = sample(sampler, logits, n_logits);
        ck_assert_msg(reference_find(&reference, token), "%s: token %d must not come", order,
                      (int)token);
        counts[token]++;
    }
    for (size_t i = 0; i < reference.n; i++) {
        double mean = (double)reference.items[i].probability * DRAWS;
        unsigned count = counts[reference.items[i].token];
        if (mean < 8)
            continue;
        chi_square += (count - mean) * (count - mean) / mean;
        rest -= mean;
        n_rest -= count;
        cells++;
    }
    if (rest >= 8)
        chi_square += (n_rest - rest) * (n_rest - rest) / rest;
    double freedom = (double)cells;
    ck_assert_msg(chi_square < freedom + 5 * sqrt(2 * freedom + 1) + 5,
                  "%s: chi-square %g of %zu cells", order, chi_square, cells);
    hymba_sampler_release(sampler);
}

START_TEST(draws_follow_the_probabilities_that_are_left)
{
    float logits[REFERENCE_MAX];
    char order[300];
    test_random_seed(43);
    for (int turn = 0; turn < 150; turn++) {
        size_t n_logits = 17 + test_random_below(100);
        hymba_sampler_params params = random_params();
        params.repeat_penalty = params.presence_penalty = params.frequency_penalty = 0;
        params.dry_multiplier = 0;
        fill_logits(logits, n_logits, PICK(0.5f, 4, 12));
        shuffle_order(order);
        check_draws(&params, order, logits, n_logits);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sampler stages");
    TCase *tests = tcase_create("sampler stages");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, each_stage_is_its_definition, 0, N_STAGES);
    tcase_add_test(tests, xtc_at_its_greatest_threshold);
    tcase_add_test(tests, stages_run_in_the_order_given);
    tcase_add_test(tests, the_default_order);
    tcase_add_test(tests, a_stage_of_the_caller_s_comes_first);
    tcase_add_test(tests, draws_follow_the_probabilities_that_are_left);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
