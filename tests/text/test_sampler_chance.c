/*
 * What of the sampler depends on chance and on the tokens before: how often XTC acts, Mirostat 2,
 * the stage of the caller's own. Mirostat is held against sampler_reference.c, its running number
 * against the sampler's own.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sampler_reference.h"
#include "support.h"
#include "text/sampler_object.h"

enum { N_LOGITS = 120 };

static hymba_error error = {.struct_size = sizeof error};
static float logits[N_LOGITS];

static hymba_sampler *create(hymba_sampler_params params)
{
    hymba_sampler *sampler;
    params.struct_size = sizeof params;
    test_status(hymba_sampler_create(&params, NULL, &sampler, &error), HYMBA_OK, error);
    return sampler;
}

static int32_t sample(hymba_sampler *sampler)
{
    int32_t token = -1;
    test_status(hymba_sampler_sample(sampler, logits, N_LOGITS, &token, &error), HYMBA_OK, error);
    return token;
}

/* Some tokens are far more probable than most, as in texts. */
static void fill_logits(void)
{
    for (size_t i = 0; i < N_LOGITS; i++)
        logits[(i * 37) % N_LOGITS] = -1.1f * logf((float)i + 1) + (float)test_random() * 0.01f;
}

/* --------------------------------------------------------------------- XTC */

START_TEST(xtc_acts_as_often_as_it_should)
{
    static const float probabilities[] = {0.02f, 0.3f, 0.5f, 0.9f, 1};
    static struct reference acted;
    enum { DRAWS = 4000 };
    test_random_seed(1);
    for (size_t i = 0; i < sizeof probabilities / sizeof *probabilities; i++) {
        float p = probabilities[i];
        hymba_sampler_params params = {
            .temperature = 1, .seed = i, .xtc_probability = p, .xtc_threshold = 0.05f};
        int n_top = 0;
        fill_logits();
        acted = (struct reference){.xtc_acts = true};
        reference_start(&acted, &params, logits, N_LOGITS);
        reference_normalise(&acted);
        double top = 0; /* probability of those that are dropped when it acts */
        for (size_t j = 0; acted.items[j + 1].probability >= 0.05f; j++)
            top += (double)acted.items[j].probability;
        reference_run(&acted, "xtc");
        hymba_sampler *sampler = create(params);
        for (int j = 0; j < DRAWS; j++)
            n_top += reference_find(&acted, sample(sampler)) == NULL;
        double mean = DRAWS * top * (1 - (double)p);
        ck_assert_double_gt(top, 0.2);
        ck_assert_msg(fabs(n_top - mean) <= 5 * sqrt(mean) + (p < 1),
                      "probability %g: %d top choices, expected %g", p, n_top, mean);
        hymba_sampler_release(sampler);
    }
}
END_TEST

/* Whether it acts and which token comes are two matters: what is left when it acts is drawn with
 * the probabilities it has then. */
START_TEST(xtc_s_chance_is_not_that_of_the_draw)
{
    enum { DRAWS = 6000 };
    hymba_sampler_params params = {
        .temperature = 1, .seed = 3, .xtc_probability = 0.5f, .xtc_threshold = 0.05f};
    static struct reference acted, rested;
    unsigned counts[N_LOGITS] = {0};
    double chi_square = 0;
    int cells = 0;
    test_random_seed(2);
    fill_logits();
    acted = rested = (struct reference){.xtc_acts = true};
    reference_start(&acted, &params, logits, N_LOGITS);
    reference_run(&acted, "xtc");
    reference_normalise(&acted);
    reference_start(&rested, &params, logits, N_LOGITS);
    reference_normalise(&rested);
    hymba_sampler *sampler = create(params);
    for (int i = 0; i < DRAWS; i++)
        counts[sample(sampler)]++;
    for (size_t i = 0; i < rested.n; i++) {
        const struct reference_candidate *left = reference_find(&acted, rested.items[i].token);
        double p = 0.5 * (double)rested.items[i].probability +
                   (left ? 0.5 * (double)left->probability : 0);
        double difference = counts[rested.items[i].token] - p * DRAWS;
        if (p * DRAWS < 8)
            continue;
        chi_square += difference * difference / (p * DRAWS);
        cells++;
    }
    ck_assert_int_gt(cells, 10);
    ck_assert_double_lt(chi_square, cells + 5 * sqrt(2.0 * cells));
    hymba_sampler_release(sampler);
}
END_TEST

/* ----------------------------------------------------------------- Mirostat */

/* Follows the number mu that a sampler with these parameters has, draw by draw. */
static void follow_mirostat(hymba_sampler_params params, int draws)
{
    static struct reference reference;
    long double tau = params.mirostat_tau != 0 ? params.mirostat_tau : 5;
    long double eta = params.mirostat_eta != 0 ? params.mirostat_eta : 0.1f;
    long double mu = 2 * tau;
    hymba_sampler *sampler = create(params);
    for (int i = 0; i < draws; i++) {
        ck_assert_msg(fabsl(sampler->progress.mu - mu) < 1e-9L * fmaxl(1, fabsl(mu)),
                      "draw %d: mu is %.15g, expected %.15Lg", i, sampler->progress.mu, mu);
        fill_logits();
        reference = (struct reference){.xtc_acts = true};
        reference_start(&reference, &params, logits, N_LOGITS);
        reference_run(&reference, "top_n_sigma;top_k;typical_p;top_p;min_p;xtc;temperature");
        reference_mirostat(&reference, mu);
        const struct reference_candidate *drawn = reference_find(&reference, sample(sampler));
        ck_assert_msg(drawn != NULL, "draw %d: a token beyond mu came", i);
        mu -= eta * (-log2l(drawn->probability) - tau);
    }
    hymba_sampler_release(sampler);
}

START_TEST(mirostat_is_its_definition)
{
    static const float temperatures[] = {0, 0.5f, 1, 2}, taus[] = {0, 0.5f, 3, 6},
                       etas[] = {0, 0.01f, 1};
    test_random_seed(4);
    for (size_t t = 0; t < 4; t++)
        for (size_t u = 0; u < 4; u++)
            for (size_t e = 0; e < 3; e++)
                follow_mirostat((hymba_sampler_params){.mirostat = 2,
                                                       .seed = t,
                                                       .temperature = temperatures[t],
                                                       .mirostat_tau = taus[u],
                                                       .mirostat_eta = etas[e],
                                                       /* These do not run then. */
                                                       .top_k = 2,
                                                       .top_p = 0.1f,
                                                       .min_p = 0.9f,
                                                       .typical_p = 0.1f,
                                                       .top_n_sigma = 0.1f,
                                                       .xtc_probability = 1},
                                100);
}
END_TEST

/* With mu held fast, draws follow the probabilities of what it leaves. */
START_TEST(mirostat_draws_what_mu_leaves)
{
    enum { DRAWS = 5000 };
    static struct reference reference;
    hymba_sampler_params params = {.mirostat = 2,
                                   .temperature = 1,
                                   .mirostat_tau = 3,
                                   .mirostat_eta = 1e-30f,
                                   .seed = 9};
    unsigned counts[N_LOGITS] = {0};
    double chi_square = 0;
    test_random_seed(5);
    fill_logits();
    reference = (struct reference){.xtc_acts = true};
    reference_start(&reference, &params, logits, N_LOGITS);
    reference_mirostat(&reference, 6);
    ck_assert_uint_gt(reference.n, 4);
    ck_assert_uint_lt(reference.n, 30);
    hymba_sampler *sampler = create(params);
    for (int i = 0; i < DRAWS; i++)
        counts[sample(sampler)]++;
    unsigned n_seen = 0;
    for (size_t i = 0; i < reference.n; i++) {
        double mean = (double)reference.items[i].probability * DRAWS;
        double difference = counts[reference.items[i].token] - mean;
        chi_square += difference * difference / mean;
        n_seen += counts[reference.items[i].token];
    }
    ck_assert_uint_eq(n_seen, DRAWS);
    ck_assert_double_lt(chi_square, (double)reference.n + 5 * sqrt(2.0 * (double)reference.n));
    hymba_sampler_release(sampler);
}
END_TEST

/* Its purpose: over a long text the mean surprise is tau. */
START_TEST(mirostat_keeps_to_its_surprise)
{
    static const float taus[] = {1, 2, 3.5f};
    enum { DRAWS = 4000 };
    static struct reference reference;
    for (size_t t = 0; t < 3; t++) {
        hymba_sampler_params params = {
            .mirostat = 2, .temperature = 1, .mirostat_tau = taus[t], .seed = t};
        hymba_sampler *sampler = create(params);
        double sum = 0;
        test_random_seed(6);
        for (int i = 0; i < DRAWS; i++) {
            double mu = sampler->progress.mu;
            fill_logits();
            reference = (struct reference){.xtc_acts = true};
            reference_start(&reference, &params, logits, N_LOGITS);
            reference_mirostat(&reference, mu);
            sum -= log2((double)reference_find(&reference, sample(sampler))->probability);
        }
        ck_assert_msg(fabs(sum / DRAWS - taus[t]) < 0.03, "mean surprise %g, expected %g",
                      sum / DRAWS, taus[t]);
        hymba_sampler_release(sampler);
    }
}
END_TEST

/* -------------------------------------------------- a stage of the caller's */

struct process {
    int32_t result;
    float logit;      /* what it gives to the first candidate, if change is set */
    bool change, drop; /* drop: all but the candidate with token 7 */
    size_t n_calls, n;
};

static int32_t process_logits(void *user, const int32_t *tokens, float *row, size_t n)
{
    struct process *process = user;
    process->n_calls++;
    process->n = n;
    if (process->change)
        row[0] = process->logit;
    for (size_t i = 0; process->drop && i < n; i++)
        if (tokens[i] != 7)
            row[i] = -INFINITY;
    return process->result;
}

/* The tokens a sampler gives; those of another one without the stage. */
START_TEST(a_stage_that_changes_nothing_changes_nothing)
{
    struct process process = {0};
    static const char *const orders[] = {
        "penalties;top_k;temperature;top_p;custom", "custom;penalties;top_k;temperature;top_p",
        "penalties;top_k;custom;temperature;top_p", "penalties;top_k;temperature;top_p"};
    hymba_sampler *samplers[4];
    test_random_seed(7);
    for (size_t i = 0; i < 4; i++)
        samplers[i] = create((hymba_sampler_params){.temperature = 0.7f,
                                                    .top_k = 60,
                                                    .top_p = 0.9f,
                                                    .repeat_penalty = 1.3f,
                                                    .order = orders[i],
                                                    .process = i < 3 ? process_logits : NULL,
                                                    .process_user = &process});
    for (int turn = 0; turn < 300; turn++) {
        fill_logits();
        int32_t token = sample(samplers[3]);
        for (size_t i = 0; i < 3; i++)
            ck_assert_int_eq(sample(samplers[i]), token);
    }
    ck_assert_uint_eq(process.n_calls, 900);
    for (size_t i = 0; i < 4; i++)
        hymba_sampler_release(samplers[i]);
}
END_TEST

/* Token 0, penalised, comes out below token 1 by less than a float tells apart. */
START_TEST(a_stage_that_changes_nothing_rounds_nothing)
{
    struct process process = {0};
    float row[2] = {5, 0};
    do {
        row[0] += 0.01f;
        row[1] = (float)((double)row[0] / (double)1.1f);
    } while (!((double)row[1] > (double)row[0] / (double)1.1f));
    hymba_sampler *sampler = create((hymba_sampler_params){.repeat_penalty = 1.1f,
                                                           .order = "penalties;custom",
                                                           .process = process_logits,
                                                           .process_user = &process});
    int32_t token;
    test_status(hymba_sampler_accept(sampler, 0, &error), HYMBA_OK, error);
    test_status(hymba_sampler_sample(sampler, row, 2, &token, &error), HYMBA_OK, error);
    ck_assert_int_eq(token, 1);
    hymba_sampler_release(sampler);
}
END_TEST

START_TEST(a_stage_of_the_caller_s_may_drop_and_stop)
{
    struct process process = {.drop = true};
    hymba_sampler_params params = {
        .temperature = 1, .seed = 4, .process = process_logits, .process_user = &process};
    int32_t token = 5;
    test_random_seed(8);
    fill_logits();
    hymba_sampler *sampler = create(params), *undisturbed = create(params);
    ck_assert_int_eq(sample(sampler), 7);
    ck_assert_int_eq(sample(undisturbed), 7);
    static const struct {
        struct process process;
        hymba_status status;
    } failures[] = {
        {{.result = 3}, HYMBA_ERROR_CANCELLED},
        {{.change = true, .logit = NAN}, HYMBA_ERROR_ARGUMENT},
        {{.change = true, .logit = INFINITY}, HYMBA_ERROR_ARGUMENT},
        {{.drop = true}, HYMBA_ERROR_ARGUMENT},
    };
    logits[7] = -INFINITY; /* so that the last one drops all */
    for (size_t i = 0; i < 4; i++) {
        process = failures[i].process;
        test_status(hymba_sampler_sample(sampler, logits, N_LOGITS, &token, &error),
                    failures[i].status, error);
        ck_assert_int_eq(token, 5);
    }
    /* What failed has used up no chance and accepted nothing. */
    process = (struct process){0};
    for (int i = 0; i < 50; i++) {
        fill_logits();
        ck_assert_int_eq(sample(sampler), sample(undisturbed));
    }
    hymba_sampler_release(sampler);
    hymba_sampler_release(undisturbed);
}
END_TEST

/* ------------------------------------------------------------------ biases */

START_TEST(biases_choose_and_forbid)
{
    test_random_seed(9);
    fill_logits();
    hymba_logit_bias biases[] = {{40, 1000}, {41, 2000}, {41, -1500}, {9999, 5000}};
    hymba_sampler_params params = {.logit_bias = biases, .n_logit_bias = 4};
    hymba_sampler *sampler = create(params);
    biases[0].bias = 0; /* they were copied */
    ck_assert_int_eq(sample(sampler), 40);
    hymba_sampler_release(sampler);

    hymba_logit_bias forbidden[N_LOGITS];
    for (int32_t i = 0; i < N_LOGITS; i++)
        forbidden[i] = (hymba_logit_bias){i, -INFINITY};
    params = (hymba_sampler_params){
        .temperature = 1, .logit_bias = forbidden, .n_logit_bias = N_LOGITS - 1};
    sampler = create(params);
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(sample(sampler), N_LOGITS - 1);
    hymba_sampler_release(sampler);
    params.n_logit_bias = N_LOGITS;
    int32_t token;
    sampler = create(params);
    test_status(hymba_sampler_sample(sampler, logits, N_LOGITS, &token, &error),
                HYMBA_ERROR_ARGUMENT, error);
    hymba_sampler_release(sampler);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sampler chance");
    TCase *tests = tcase_create("sampler chance");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, xtc_acts_as_often_as_it_should);
    tcase_add_test(tests, xtc_s_chance_is_not_that_of_the_draw);
    tcase_add_test(tests, mirostat_is_its_definition);
    tcase_add_test(tests, mirostat_draws_what_mu_leaves);
    tcase_add_test(tests, mirostat_keeps_to_its_surprise);
    tcase_add_test(tests, a_stage_that_changes_nothing_changes_nothing);
    tcase_add_test(tests, a_stage_that_changes_nothing_rounds_nothing);
    tcase_add_test(tests, a_stage_of_the_caller_s_may_drop_and_stop);
    tcase_add_test(tests, biases_choose_and_forbid);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
