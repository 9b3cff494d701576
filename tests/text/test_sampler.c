#include "text/sampler.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "text/candidates.h"

enum { MAX_LOGITS = 256 };

static hymba_error fault;

/* ---------------------------------------------------------------- helpers */

static hymba_sampler_params defaults(void)
{
    return (hymba_sampler_params){.struct_size = sizeof(hymba_sampler_params)};
}

static hymba_sampler *create(hymba_sampler_params params)
{
    hymba_sampler *sampler;
    hymba_error_init(&fault, sizeof fault);
    test_status(hy_sampler_create(&params, NULL, &sampler, &fault), HYMBA_OK, fault);
    ck_assert_ptr_nonnull(sampler);
    return sampler;
}

static int32_t sample(hymba_sampler *sampler, const float *logits, size_t n_logits)
{
    int32_t token = -1;
    test_status(hy_sampler_sample(sampler, logits, n_logits, &token, &fault), HYMBA_OK, fault);
    ck_assert_int_ge(token, 0);
    ck_assert_int_lt(token, (int32_t)n_logits);
    return token;
}

/* A reproducible row of logits with some ties. */
static void fill_logits(float *logits, size_t n_logits, double spread)
{
    for (size_t i = 0; i < n_logits; i++)
        logits[i] = (float)(floor((test_random() - 0.5) * spread * 16) / 16);
}

/* ---------------------------------------------- expected probabilities */

struct entry {
    double logit;
    size_t id;
};

static int compare_entries(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;
    if (a->logit != b->logit)
        return a->logit > b->logit ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

static void softmax(const struct entry *entries, size_t n, double temperature, double *result)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += result[i] = exp((entries[i].logit - entries[0].logit) / temperature);
    for (size_t i = 0; i < n; i++)
        result[i] /= sum;
}

/* What each token's probability must be, by the definitions in hymba.h, everything sorted and
 * normalised at each stage. */
static void expected(const hymba_sampler_params *params, const float *logits, size_t n_logits,
                     const int32_t *recent, size_t n_recent, double *probabilities)
{
    static struct entry entries[MAX_LOGITS];
    static double p[MAX_LOGITS];
    size_t kept = n_logits;
    for (size_t i = 0; i < n_logits; i++) {
        double logit = logits[i];
        for (size_t j = 0; j < n_recent; j++) {
            if ((size_t)recent[j] == i && params->repeat_penalty != 0) {
                logit = logit > 0 ? logit / params->repeat_penalty
                                  : logit * params->repeat_penalty;
                break;
            }
        }
        entries[i] = (struct entry){logit, i};
        probabilities[i] = 0;
    }
    qsort(entries, n_logits, sizeof *entries, compare_entries);
    if (params->top_k > 0 && (size_t)params->top_k < kept)
        kept = (size_t)params->top_k;
    if (params->top_p > 0 && params->top_p < 1) {
        double sum = 0;
        softmax(entries, kept, 1, p);
        for (size_t i = 0; i < kept; i++) {
            sum += p[i];
            if (sum >= params->top_p)
                kept = i + 1;
        }
    }
    softmax(entries, kept, 1, p);
    for (size_t i = kept; i-- > 1;)
        if (p[i] < params->min_p * p[0])
            kept = i;
    softmax(entries, kept, params->temperature, p);
    for (size_t i = 0; i < kept; i++)
        probabilities[entries[i].id] = p[i];
}

/* Draws many tokens and holds their frequencies against the probabilities: what must not come
 * never comes, and chi-square over the rest stays within 5 standard deviations (the seeds are
 * fixed, so a pass is a pass). */
static void check_distribution(hymba_sampler_params params, const float *logits, size_t n_logits)
{
    enum { DRAWS = 4000 };
    static double probabilities[MAX_LOGITS];
    static unsigned counts[MAX_LOGITS];
    memset(counts, 0, sizeof counts);
    expected(&params, logits, n_logits, NULL, 0, probabilities);
    hymba_sampler *sampler = create(params);
    for (int i = 0; i < DRAWS; i++)
        counts[sample(sampler, logits, n_logits)]++;
    double chi_square = 0, rest_count = 0, rest_expected = 0;
    size_t cells = 0;
    for (size_t i = 0; i < n_logits; i++) {
        double mean = probabilities[i] * DRAWS;
        if (probabilities[i] == 0)
            ck_assert_msg(counts[i] == 0, "token %zu must not come (%u times)", i, counts[i]);
        if (mean < 8) {
            rest_count += counts[i];
            rest_expected += mean;
        } else {
            chi_square += (counts[i] - mean) * (counts[i] - mean) / mean;
            cells++;
        }
    }
    if (rest_expected >= 8) {
        chi_square += (rest_count - rest_expected) * (rest_count - rest_expected) / rest_expected;
        cells++;
    }
    double freedom = cells > 1 ? (double)cells - 1 : 1;
    ck_assert_msg(chi_square < freedom + 5 * sqrt(2 * freedom) + 5,
                  "chi-square %g with %g degrees of freedom (k %d, p %g, min %g, T %g)",
                  chi_square, freedom, (int)params.top_k, params.top_p, params.min_p,
                  params.temperature);
    hy_sampler_release(sampler);
}

/* ------------------------------------------------------------------ tests */

START_TEST(each_stage_and_all_together)
{
    static const struct {
        int32_t top_k;
        float top_p, min_p, temperature;
    } cases[] = {
        {0, 0, 0, 1},          {0, 0, 0, 0.5f},        {0, 0, 0, 2.5f},
        {1, 0, 0, 1},          {2, 0, 0, 1},           {10, 0, 0, 0.7f},
        {1000000, 0, 0, 1},    {0, 0.9f, 0, 1},        {0, 0.5f, 0, 1.5f},
        {0, 0.01f, 0, 1},      {0, 1, 0, 1},           {0, 0.999f, 0, 1},
        {0, 0, 0.05f, 1},      {0, 0, 0.3f, 2},        {0, 0, 1, 1},
        {20, 0.8f, 0, 1},      {20, 0, 0.1f, 1},       {0, 0.95f, 0.02f, 1.3f},
        {40, 0.95f, 0.05f, 0.8f}, {5, 0.99f, 0.001f, 3}, {0, 0, 0, 100},
    };
    static const size_t sizes[] = {1, 2, 3, 17, 150};
    float logits[MAX_LOGITS];
    test_random_seed(11);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        fill_logits(logits, sizes[s], 8);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            hymba_sampler_params params = defaults();
            params.seed = 1000 * s + i;
            params.top_k = cases[i].top_k;
            params.top_p = cases[i].top_p;
            params.min_p = cases[i].min_p;
            params.temperature = cases[i].temperature;
            check_distribution(params, logits, sizes[s]);
        }
    }
}
END_TEST

/* min-p against the C library's exp, at thresholds that lie as close to it as a float can. */
START_TEST(exponential_is_exact)
{
    int kept = 0;
    for (int i = 1; i <= 2000; i++) {
        float logits[2] = {0, -0.0061f * (float)i};
        double weight = exp(logits[1]);
        hymba_sampler_params params = defaults();
        params.temperature = 1e9f;
        params.min_p = (float)weight;
        hymba_sampler *sampler = create(params);
        bool comes = false;
        for (int j = 0; j < 32; j++)
            comes = sample(sampler, logits, 2) == 1 || comes;
        ck_assert_msg(comes == (weight >= params.min_p), "exp(%g)", logits[1]);
        kept += comes;
        hy_sampler_release(sampler);
    }
    ck_assert_int_gt(kept, 800);
    ck_assert_int_lt(kept, 1200);
}
END_TEST

START_TEST(impossible_tokens_never_come)
{
    float logits[50];
    test_random_seed(5);
    fill_logits(logits, 50, 4);
    for (size_t i = 0; i < 50; i += 3)
        logits[i] = -INFINITY;
    logits[10] = -FLT_MAX;
    hymba_sampler_params params = defaults();
    params.temperature = 100;
    params.repeat_penalty = 1.5f;
    hymba_sampler *sampler = create(params);
    for (int i = 0; i < 5000; i++) {
        int32_t token = sample(sampler, logits, 50);
        ck_assert_int_ne(token % 3, 0);
        ck_assert_int_ne(token, 10);
    }
    hy_sampler_release(sampler);

    float single[3] = {-INFINITY, -FLT_MAX, -INFINITY};
    for (float temperature = 0; temperature < 2; temperature += 1) {
        params.temperature = temperature;
        sampler = create(params);
        for (int i = 0; i < 5; i++)
            ck_assert_int_eq(sample(sampler, single, 3), 1);
        hy_sampler_release(sampler);
    }
}
END_TEST

START_TEST(greedy_takes_the_lowest_of_equals)
{
    hymba_sampler *sampler = create(defaults());
    const float first[] = {-3, 2, 1, 2, 2}, all[] = {0, 0, 0}, zeros[] = {-0.0f, 0.0f};
    ck_assert_int_eq(sample(sampler, first, 5), 1);
    ck_assert_int_eq(sample(sampler, all, 3), 0);
    ck_assert_int_eq(sample(sampler, zeros, 2), 0);
    hy_sampler_release(sampler);

    /* The other stages change nothing, and top-k takes the lowest of equals too. */
    hymba_sampler_params params = defaults();
    params.top_k = 1;
    params.temperature = 1;
    sampler = create(params);
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(sample(sampler, first, 5), 1);
    hy_sampler_release(sampler);
}
END_TEST

START_TEST(extreme_temperatures)
{
    const float logits[] = {FLT_MAX, -FLT_MAX, 3, FLT_MAX};
    hymba_sampler_params params = defaults();
    bool seen[4] = {false};
    params.temperature = FLT_TRUE_MIN;
    hymba_sampler *sampler = create(params);
    for (int i = 0; i < 100; i++)
        seen[sample(sampler, logits, 4)] = true;
    ck_assert(seen[0] && !seen[1] && !seen[2] && seen[3]);
    hy_sampler_release(sampler);

    params.temperature = FLT_MAX;
    sampler = create(params);
    for (int i = 0; i < 100; i++)
        seen[sample(sampler, logits, 4)] = true;
    ck_assert(seen[0] && seen[1] && seen[2] && seen[3]);
    hy_sampler_release(sampler);
}
END_TEST

START_TEST(a_seed_repeats_itself)
{
    enum { DRAWS = 200 };
    float logits[100];
    int32_t first[DRAWS];
    int differing = 0;
    test_random_seed(3);
    fill_logits(logits, 100, 4);
    hymba_sampler_params params = defaults();
    params.temperature = 1;
    params.seed = 77;
    params.repeat_penalty = 1.2f;
    hymba_sampler *sampler = create(params), *second = create(params);
    for (int i = 0; i < DRAWS; i++) {
        first[i] = sample(sampler, logits, 100);
        ck_assert_int_eq(first[i], sample(second, logits, 100));
    }
    hy_sampler_reset(sampler);
    for (int i = 0; i < DRAWS; i++)
        ck_assert_int_eq(first[i], sample(sampler, logits, 100));
    hy_sampler_release(second);
    params.seed = 78;
    second = create(params);
    for (int i = 0; i < DRAWS; i++)
        differing += first[i] != sample(second, logits, 100);
    ck_assert_int_gt(differing, DRAWS / 2);
    hy_sampler_release(sampler);
    hy_sampler_release(second);
    hy_sampler_reset(NULL);
}
END_TEST

/* Sums of weights are exact, so they do not hang on where the tokens stand: a token that has all
 * others before or behind it in memory comes with the same draws. */
START_TEST(the_order_in_memory_does_not_count)
{
    enum { N = 1000, DRAWS = 300 };
    static float logits[N], reversed[N];
    test_random_seed(4);
    for (int i = 0; i < N; i++) /* all distinct */
        logits[i] = (float)(test_random() * 5) + (float)i * 1e-4f;
    for (int i = 0; i < N; i++)
        reversed[N - 1 - i] = logits[i];
    hymba_sampler_params params = defaults();
    params.temperature = 1.3f;
    params.top_p = 0.9f;
    hymba_sampler *one = create(params), *other = create(params);
    for (int i = 0; i < DRAWS; i++)
        ck_assert_int_eq(sample(one, logits, N), N - 1 - sample(other, reversed, N));
    hy_sampler_release(one);
    hy_sampler_release(other);
}
END_TEST

/* As many weights of 1 as there can be, and a few tokens with the finest unit. */
START_TEST(sums_of_weights_fit)
{
    ck_assert_double_eq(hy_weight_unit(1), 0x1p62);
    ck_assert_double_eq(hy_weight_unit(2), 0x1p61);
    ck_assert_double_eq(hy_weight_unit(32001), 0x1p47);
    ck_assert_double_eq(hy_weight_unit(32768), 0x1p47);
    ck_assert_double_eq(hy_weight_unit(32769), 0x1p46);
    for (size_t n = 1; n <= INT32_MAX / 2; n = n * 3 + 1)
        ck_assert_uint_le(hy_weight_parts(1, hy_weight_unit(n)), ((uint64_t)1 << 62) / n);
    ck_assert_uint_eq(hy_weight_parts(0x1p-48, hy_weight_unit(32001)), 1);
    ck_assert_uint_eq(hy_weight_parts(0x0.ffp-48, hy_weight_unit(32001)), 0);
}
END_TEST

/* The same on every machine: these tokens were drawn once and stay. */
START_TEST(known_draws)
{
    static const int32_t known[] = {57, 31, 57, 44, 37, 43, 25, 50, 12, 19, 17, 50, 41, 38,
                                   57, 36, 36, 38, 15, 62, 62, 57, 43, 27};
    float logits[64];
    for (int i = 0; i < 64; i++)
        logits[i] = (float)((i * 37) % 64) / 16;
    hymba_sampler_params params = defaults();
    params.temperature = 0.8f;
    params.top_p = 0.95f;
    params.seed = 2024;
    hymba_sampler *sampler = create(params);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        ck_assert_int_eq(sample(sampler, logits, 64), known[i]);
    hy_sampler_release(sampler);
}
END_TEST

/* Greedy choices show the penalised logits; every window of recent tokens is simulated. */
START_TEST(penalty_counts_the_last_tokens_once)
{
    static const int32_t windows[] = {0, -1, 1, 2, 5, 64, 200};
    static const float penalties[] = {1.1f, 2, 0.5f};
    enum { TOKENS = 24, STEPS = 300 };
    test_random_seed(9);
    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) {
        for (size_t p = 0; p < sizeof penalties / sizeof *penalties; p++) {
            hymba_sampler_params params = defaults();
            params.repeat_penalty = penalties[p];
            params.repeat_last_n = windows[w];
            hymba_sampler *sampler = create(params);
            params.temperature = 1; /* for expected() */
            int32_t history[2 * STEPS];
            size_t n_history = 0, window = windows[w] > 0    ? (size_t)windows[w]
                                           : windows[w] == 0 ? 64
                                                             : SIZE_MAX;
            for (int step = 0; step < STEPS; step++) {
                float logits[TOKENS];
                double probabilities[TOKENS];
                size_t best = 0, n_recent = n_history < window ? n_history : window;
                fill_logits(logits, TOKENS, 3);
                expected(&params, logits, TOKENS, history + n_history - n_recent, n_recent,
                         probabilities);
                for (size_t i = 1; i < TOKENS; i++)
                    if (probabilities[i] > probabilities[best])
                        best = i;
                ck_assert_int_eq(sample(sampler, logits, TOKENS), (int32_t)best);
                history[n_history++] = (int32_t)best;
                if (step % 3 == 0) {
                    int32_t token = (int32_t)test_random_below(TOKENS);
                    test_status(hy_sampler_accept(sampler, token, &fault), HYMBA_OK, fault);
                    history[n_history++] = token;
                }
            }
            hy_sampler_release(sampler);
        }
    }
}
END_TEST

START_TEST(penalty_by_hand)
{
    hymba_sampler_params params = defaults();
    params.repeat_penalty = 2;
    hymba_sampler *sampler = create(params);
    /* 3 / 2 < 2; then 2 / 2 < 3 / 2; a token the row does not have is no harm. */
    const float positive[] = {2, 3, -1}, negative[] = {-2, -1.5f, -2.5f};
    test_status(hy_sampler_accept(sampler, 500, &fault), HYMBA_OK, fault);
    ck_assert_int_eq(sample(sampler, positive, 3), 1);
    ck_assert_int_eq(sample(sampler, positive, 3), 0);
    ck_assert_int_eq(sample(sampler, positive, 3), 1);
    hy_sampler_reset(sampler);
    ck_assert_int_eq(sample(sampler, negative, 3), 1); /* -1.5 * 2 = -3 */
    ck_assert_int_eq(sample(sampler, negative, 3), 0); /* -2 * 2 = -4 */
    ck_assert_int_eq(sample(sampler, negative, 3), 2);
    hy_sampler_release(sampler);
}
END_TEST

static void refused(hymba_sampler_params params, const char *field)
{
    hymba_sampler *sampler = (hymba_sampler *)&params;
    hymba_error_init(&fault, sizeof fault);
    ck_assert_int_eq(hy_sampler_create(&params, NULL, &sampler, &fault), HYMBA_ERROR_ARGUMENT);
    ck_assert_ptr_null(sampler);
    ck_assert_int_eq(fault.status, HYMBA_ERROR_ARGUMENT);
    ck_assert_msg(strstr(fault.message, field) != NULL, "no %s in: %s", field, fault.message);
}

START_TEST(bad_parameters_are_named)
{
    static const float bad[] = {-1, NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        refused((hymba_sampler_params){.temperature = bad[i]}, "temperature");
        refused((hymba_sampler_params){.top_p = bad[i]}, "top_p");
        refused((hymba_sampler_params){.min_p = bad[i]}, "min_p");
        refused((hymba_sampler_params){.repeat_penalty = bad[i]}, "repeat_penalty");
    }
    refused((hymba_sampler_params){.top_p = 1.5f}, "top_p");
    refused((hymba_sampler_params){.min_p = 1.0001f}, "min_p");
    refused((hymba_sampler_params){.top_k = -1}, "top_k");
    refused((hymba_sampler_params){.repeat_last_n = -2}, "repeat_last_n");
}
END_TEST

START_TEST(bad_logits_are_refused)
{
    float logits[4] = {0, 1, NAN, 2};
    int32_t token = 7;
    hymba_sampler_params params = defaults();
    params.temperature = 1;
    params.seed = 4;
    hymba_sampler *sampler = create(params), *untouched = create(params);
    ck_assert_int_eq(hy_sampler_sample(sampler, logits, 4, &token, &fault),
                     HYMBA_ERROR_ARGUMENT);
    ck_assert_int_eq(fault.position, 2);
    logits[2] = INFINITY;
    ck_assert_int_eq(hy_sampler_sample(sampler, logits, 4, &token, &fault),
                     HYMBA_ERROR_ARGUMENT);
    ck_assert_int_eq(fault.position, 2);
    ck_assert_int_eq(hy_sampler_sample(sampler, logits, 0, &token, &fault),
                     HYMBA_ERROR_ARGUMENT);
    ck_assert_int_eq(hy_sampler_sample(sampler, NULL, 3, &token, &fault), HYMBA_ERROR_ARGUMENT);
    ck_assert_int_eq(hy_sampler_sample(sampler, logits, (size_t)INT32_MAX + 1, &token, &fault),
                     HYMBA_ERROR_ARGUMENT);
    for (int i = 0; i < 4; i++)
        logits[i] = -INFINITY;
    ck_assert_int_eq(hy_sampler_sample(sampler, logits, 4, &token, &fault),
                     HYMBA_ERROR_ARGUMENT);
    ck_assert_int_eq(hy_sampler_accept(sampler, -1, &fault), HYMBA_ERROR_ARGUMENT);
    ck_assert_int_eq(token, 7);
    for (int i = 0; i < 20; i++) {
        logits[0] = 0, logits[1] = 0.5f, logits[2] = 0.25f, logits[3] = 0;
        ck_assert_int_eq(sample(sampler, logits, 4), sample(untouched, logits, 4));
    }
    hy_sampler_release(sampler);
    hy_sampler_release(untouched);
}
END_TEST

/* Every allocation fails once; what follows is as if the failed call had not been. */
START_TEST(failing_allocations)
{
    enum { STEPS = 200 };
    float logits[40];
    int32_t first[STEPS];
    test_random_seed(21);
    fill_logits(logits, 40, 3);
    hymba_sampler_params params = defaults();
    params.temperature = 1;
    params.repeat_penalty = 1.3f;
    params.repeat_last_n = -1;
    hymba_sampler *sampler = create(params);
    for (int i = 0; i < STEPS; i++)
        first[i] = sample(sampler, logits, 40);
    hy_sampler_release(sampler);
    bool failed = true;
    for (long fail_at = 0; failed; fail_at++) {
        struct test_host host;
        test_host_init(&host);
        test_host_fail_at(&host, fail_at, false);
        failed = false;
        hymba_status status = hy_sampler_create(&params, &host.host, &sampler, &fault);
        if (status) {
            ck_assert_int_eq(status, HYMBA_ERROR_MEMORY);
            ck_assert_ptr_null(sampler);
            failed = true;
        }
        for (int i = 0; sampler && i < STEPS; i++) {
            int32_t token = -1;
            status = hy_sampler_sample(sampler, logits, 40, &token, &fault);
            if (status) {
                ck_assert_int_eq(status, HYMBA_ERROR_MEMORY);
                ck_assert(!failed);
                failed = true;
                token = sample(sampler, logits, 40);
            }
            ck_assert_int_eq(token, first[i]);
        }
        hy_sampler_release(sampler);
        test_host_check(&host);
        ck_assert_int_lt(fail_at, 20);
    }
}
END_TEST

START_TEST(steady_state_allocates_nothing)
{
    struct test_host host;
    float logits[MAX_LOGITS];
    hymba_sampler_params params = defaults();
    params.temperature = 1;
    params.top_k = 40;
    params.repeat_penalty = 1.1f;
    hymba_sampler *sampler;
    test_host_init(&host);
    test_status(hy_sampler_create(&params, &host.host, &sampler, &fault), HYMBA_OK, fault);
    fill_logits(logits, MAX_LOGITS, 5);
    sample(sampler, logits, MAX_LOGITS);
    long n_allocations = host.n_allocations;
    for (int i = 0; i < 1000; i++)
        sample(sampler, logits, MAX_LOGITS - (size_t)(i % 3));
    ck_assert_int_eq(host.n_allocations, n_allocations);
    ck_assert_ptr_eq(hy_sampler_retain(sampler), sampler);
    hy_sampler_release(sampler);
    sample(sampler, logits, MAX_LOGITS);
    hy_sampler_release(sampler);
    test_host_check(&host);
    hy_sampler_release(NULL);
    ck_assert_ptr_null(hy_sampler_retain(NULL));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sampler");
    TCase *tests = tcase_create("sampler");
    tcase_set_timeout(tests, 0);
    tcase_add_test(tests, each_stage_and_all_together);
    tcase_add_test(tests, exponential_is_exact);
    tcase_add_test(tests, impossible_tokens_never_come);
    tcase_add_test(tests, greedy_takes_the_lowest_of_equals);
    tcase_add_test(tests, extreme_temperatures);
    tcase_add_test(tests, a_seed_repeats_itself);
    tcase_add_test(tests, the_order_in_memory_does_not_count);
    tcase_add_test(tests, sums_of_weights_fit);
    tcase_add_test(tests, known_draws);
    tcase_add_test(tests, penalty_counts_the_last_tokens_once);
    tcase_add_test(tests, penalty_by_hand);
    tcase_add_test(tests, bad_parameters_are_named);
    tcase_add_test(tests, bad_logits_are_refused);
    tcase_add_test(tests, failing_allocations);
    tcase_add_test(tests, steady_state_allocates_nothing);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
