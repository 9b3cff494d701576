/* The kernel that chooses tokens against the sampler itself: the same token, every time. */
#include "device_test.h"

extern "C" {
#include "text/candidates.h"
#include "text/sample_row.h"
}

#include "sample.h"

#include <memory>

static hymba_error error = {sizeof error, 0, 0, 0, {0}};

/* ------------------------------------------------------------------- samplers */

struct release_sampler {
    void operator()(hymba_sampler *sampler) const
    {
        hymba_sampler_release(sampler);
    }
};
typedef std::unique_ptr<hymba_sampler, release_sampler> sampler_owner;

static hymba_sampler_params defaults()
{
    hymba_sampler_params params = {};
    params.struct_size = sizeof params;
    params.temperature = 1;
    return params;
}

static sampler_owner create(const hymba_sampler_params &params)
{
    hymba_sampler *sampler;
    test_status(hymba_sampler_create(&params, NULL, &sampler, &error), HYMBA_OK, error);
    return sampler_owner(sampler);
}

/* Rows of one launch, each with a sampler of its own. */
struct batch {
    size_t n_logits;
    std::vector<float> logits;
    std::vector<sampler_owner> samplers;
    std::vector<struct hy_sample_row> rows;
    std::vector<struct hy_sample_change> changes;

    explicit batch(size_t n) : n_logits(n)
    {
    }
    void add(const std::vector<float> &row_logits, sampler_owner sampler)
    {
        std::vector<uint32_t> counts(n_logits);
        std::vector<struct hy_sample_change> own(hy_sampler_max_changes(sampler.get(), n_logits)
                                                 + 1);
        struct hy_sample_row row;
        ck_assert(hy_sampler_plan_row(sampler.get(), n_logits, counts.data(), own.data(), &row));
        for (uint32_t count : counts)
            ck_assert_uint_eq(count, 0);
        row.row = rows.size();
        row.changes = (const struct hy_sample_change *)(changes.size()); /* so far */
        changes.insert(changes.end(), own.begin(), own.begin() + (long)row.n_changes);
        rows.push_back(row);
        samplers.push_back(std::move(sampler));
        logits.insert(logits.end(), row_logits.begin(), row_logits.end());
    }
    /* What the kernel chooses. */
    std::vector<int32_t> run()
    {
        const size_t n = rows.size();
        device_array<float> device_logits(logits);
        device_array<struct hy_sample_change> device_changes(changes);
        device_array<double> changed(std::vector<double>(changes.size(), 0.0));
        device_array<int32_t> tokens(std::vector<int32_t>(n, -7));
        std::vector<struct hy_sample_row> placed = rows;
        for (struct hy_sample_row &row : placed)
            row.changes = device_changes.data + (size_t)row.changes;
        device_array<struct hy_sample_row> device_rows(placed);
        const struct hy_sample_args args = {device_logits.data, n_logits, n_logits,
                                            device_rows.data,   n,        tokens.data};
        hy_cuda_sample(nullptr, &args, device_changes.data, changed.data);
        check_harness();
        return tokens.read();
    }
    /* The same token as the sampler's own, -1 where that refuses. */
    void check(const char *what)
    {
        const std::vector<int32_t> tokens = run();
        for (size_t i = 0; i < rows.size(); i++) {
            int32_t expected = -1;
            hymba_sampler_sample(samplers[i].get(), logits.data() + i * n_logits, n_logits,
                                 &expected, &error);
            ck_assert_msg(tokens[i] == expected,
                          "%s: row %zu of %zu logits: token %d, the sampler's is %d", what, i,
                          n_logits, (int)tokens[i], (int)expected);
        }
    }
};

/* --------------------------------------------------------------------- inputs */

static float pick(const std::vector<float> &values)
{
    return values[test_random_below(values.size())];
}

enum shape { BELL, EQUAL, ROUNDED, PEAKED, SPARSE, ZEROS, NEAR, N_SHAPES };

static std::vector<float> random_logits(size_t n, int shape)
{
    const double spread = pick({0.01f, 1, 4, 12});
    std::vector<float> logits(n);
    for (size_t i = 0; i < n; i++) {
        double bell = (test_random() + test_random() + test_random() - 1.5) * spread;
        logits[i] = (float)bell;
        if (shape == EQUAL)
            logits[i] = 1.25f;
        else if (shape == ROUNDED)
            logits[i] = floorf((float)bell);
        else if (shape == PEAKED)
            logits[i] = (float)bell - (test_random_below(n) < 3 ? 0 : 30);
        else if (shape == SPARSE && test_random_below(3) > 0)
            logits[i] = -INFINITY;
        else if (shape == ZEROS)
            logits[i] = test_random_below(2) ? 0.0f : -0.0f;
        else if (shape == NEAR) /* neighbours among floats, and one far off */
            logits[i] = 7 + (float)test_random_below(4) * 0x1p-21f;
    }
    if (shape == SPARSE)
        logits[test_random_below(n)] = 0.5f;
    if (shape == NEAR && n > 1)
        logits[test_random_below(n)] = -1e6f;
    return logits;
}

static const hymba_logit_bias biases[] = {
    {3, 2.5f}, {5, -INFINITY}, {8, -4}, {100000, 7}, {11, 6}, {0, -1e6f}};

static const char *const orders[] = {
    NULL,
    "penalties;temperature;top_k;top_p;min_p",
    "min_p;top_p;top_k;temperature",
    "penalties;top_p;temperature;min_p",
    "temperature",
    "",
    "penalties;dry;min_p;top_k",
};

static hymba_sampler_params random_params(size_t n)
{
    hymba_sampler_params params = defaults();
    params.seed = test_random_below(1000000);
    params.temperature = pick({0, 0.3f, 0.8f, 1, 1, 1.7f, 50});
    params.top_k = (int32_t)pick({0, 0, 1, 2, 40, 1000, 1024, 1025, 3000, (float)n});
    params.top_p = pick({0, 0, 0.2f, 0.7f, 0.95f, 0.999999f, 1});
    params.min_p = pick({0, 0, 0.001f, 0.05f, 0.5f, 1});
    params.repeat_penalty = pick({0, 1, 1.3f, 0.5f});
    params.presence_penalty = pick({0, 0.7f, -0.4f});
    params.frequency_penalty = pick({0, 0.25f, -0.1f});
    params.repeat_last_n = (int32_t)pick({0, -1, 1, 5, 30});
    params.order = orders[test_random_below(sizeof orders / sizeof *orders)];
    if (n > 3 && test_random_below(2)) {
        params.logit_bias = biases;
        params.n_logit_bias = 1 + test_random_below(sizeof biases / sizeof *biases);
    }
    return params;
}

static void accept_some(hymba_sampler *sampler, size_t n)
{
    size_t n_history = test_random_below(80), kinds = 1 + test_random_below(2 * n);
    for (size_t i = 0; i < n_history; i++)
        test_status(hymba_sampler_accept(sampler, (int32_t)test_random_below(kinds), &error),
                    HYMBA_OK, error);
}

/* ---------------------------------------------------------------------- tests */

static void check_random(size_t n, size_t n_launches, size_t n_rows)
{
    for (size_t launch = 0; launch < n_launches; launch++) {
        batch batch(n);
        for (size_t i = 0; i < n_rows; i++) {
            sampler_owner sampler = create(random_params(n));
            accept_some(sampler.get(), n);
            batch.add(random_logits(n, (int)test_random_below(N_SHAPES)), std::move(sampler));
        }
        batch.check("random");
        harness_reset();
    }
}

START_TEST(small_vocabularies)
{
    const size_t sizes[] = {1, 2, 31, 37, 300, 513};
    test_random_seed((unsigned)_i + 1);
    check_random(sizes[_i], 12, 25);
}
END_TEST

/* Beyond what one block gathers. */
START_TEST(large_vocabularies)
{
    const size_t sizes[] = {1025, 4099, 5000};
    test_random_seed((unsigned)_i + 11);
    check_random(sizes[_i], 8, 15);
}
END_TEST

START_TEST(a_real_vocabulary)
{
    test_random_seed(21);
    check_random(32001, 2, 12);
}
END_TEST

/* Every shape with the parameters that take each way through the kernel. */
START_TEST(every_way)
{
    const size_t n = 6000;
    const struct {
        float top_p, min_p, temperature;
        int32_t top_k;
        const char *order;
    } ways[] = {
        {0, 0, 0, 0, NULL},        {0, 0, 1, 0, NULL},       {0, 0, 1, 40, NULL},
        {0, 0, 1, 3000, NULL},     {0.9f, 0, 1, 0, NULL},    {0.5f, 0, 2, 0, NULL},
        {0, 0.1f, 1, 0, NULL},     {0, 0.999f, 9, 0, NULL},  {0.9f, 0.05f, 0.7f, 50, NULL},
        {0.99f, 0, 30, 3000, NULL}, {0.3f, 0.2f, 5, 5000, "temperature;min_p;top_p;top_k"},
    };
    test_random_seed((unsigned)_i + 30);
    batch batch(n);
    for (const auto &way : ways) {
        hymba_sampler_params params = defaults();
        params.seed = test_random_below(100000);
        params.top_p = way.top_p;
        params.min_p = way.min_p;
        params.temperature = way.temperature;
        params.top_k = way.top_k;
        params.order = way.order;
        batch.add(random_logits(n, _i), create(params));
    }
    batch.check("a way");
}
END_TEST

/* The draws of one sampler, one after the other, with its penalties. */
START_TEST(a_sequence_of_draws)
{
    const size_t n = 400;
    test_random_seed(50);
    hymba_sampler_params params = defaults();
    params.temperature = 0.9f;
    params.top_p = 0.97f;
    params.repeat_penalty = 1.1f;
    params.frequency_penalty = 0.2f;
    sampler_owner sampler = create(params);
    for (int step = 0; step < 100; step++) {
        batch batch(n);
        batch.add(random_logits(n, BELL), std::move(sampler));
        batch.check("a sequence");
        sampler = std::move(batch.samplers[0]);
        harness_reset();
    }
}
END_TEST

/* What the sampler refuses, beside a row that it takes. */
START_TEST(impossible_logits)
{
    const size_t n = 2000;
    static const hymba_logit_bias forbid[] = {{7, -INFINITY}};
    test_random_seed(60);
    batch batch(n);
    for (int bad = 0; bad < 6; bad++) {
        hymba_sampler_params params = defaults();
        params.temperature = bad % 2 ? 1 : 0;
        params.logit_bias = forbid;
        params.n_logit_bias = 1;
        std::vector<float> logits = random_logits(n, BELL);
        if (bad == 1)
            logits[1999] = NAN;
        else if (bad == 2)
            logits[7] = INFINITY;
        else if (bad == 3)
            logits[7] = NAN;
        else if (bad >= 4)
            logits.assign(n, -INFINITY);
        if (bad == 5)
            logits[7] = 3; /* the only one, and forbidden */
        batch.add(logits, create(params));
    }
    batch.check("impossible");
    const std::vector<int32_t> tokens = batch.run();
    for (size_t i = 1; i < 6; i++)
        ck_assert_int_eq(tokens[i], -1);
}
END_TEST

/* The plain form of a row, which devices of tests use. */
START_TEST(the_plain_form_is_the_sampler)
{
    const size_t sizes[] = {1, 37, 700};
    test_random_seed(70);
    for (int turn = 0; turn < 3000; turn++) {
        const size_t n = sizes[turn % 3];
        sampler_owner sampler = create(random_params(n));
        accept_some(sampler.get(), n);
        const std::vector<float> logits = random_logits(n, (int)test_random_below(N_SHAPES));
        std::vector<uint32_t> counts(n);
        std::vector<struct hy_sample_change> changes(hy_sampler_max_changes(sampler.get(), n) + 1);
        std::vector<struct hy_candidate> items(n);
        struct hy_sample_row row;
        ck_assert(hy_sampler_plan_row(sampler.get(), n, counts.data(), changes.data(), &row));
        int32_t token = hy_sample_row_plainly(&row, logits.data(), n, items.data());
        int32_t expected = -1;
        hymba_sampler_sample(sampler.get(), logits.data(), n, &expected, &error);
        ck_assert_int_eq(token, expected);
    }
}
END_TEST

/* Draws and shares that fall on the very end of a token's part, and the last part of all. */
START_TEST(edges)
{
    const size_t n = _i ? 4096 : 64; /* with parts that are not gathered at once, and that are */
    const double draws[] = {0, 0.25, 0.5, 1 - 0x1p-53, 0x1p-53};
    const float shares[] = {0, 0.25f, 0.5f, 0x1.fffffep-1f, 0x1p-20f};
    const double finest = -log(hy_weight_unit(n));
    batch batch(n);
    std::vector<int32_t> expected;
    std::vector<struct hy_candidate> items(n);
    for (int tail = 0; tail < 9; tail++) /* equal logits, then one best and faint others */
        for (double draw : draws)
            for (float share : shares) {
                std::vector<float> logits(n, 2.5f);
                for (size_t i = 1; tail > 0 && i < n; i++)
                    logits[i] = 2.5f + (float)(finest + (tail - 4) * 0.4 - (double)(i % 7) * 0.01);
                struct hy_sample_row row = {};
                row.row = batch.rows.size();
                row.draw = draw;
                row.top_p = share;
                row.temperature = 1;
                row.stages[0] = HY_SAMPLE_TOP_P;
                row.n_stages = share > 0;
                expected.push_back(hy_sample_row_plainly(&row, logits.data(), n, items.data()));
                batch.rows.push_back(row);
                batch.logits.insert(batch.logits.end(), logits.begin(), logits.end());
            }
    const std::vector<int32_t> tokens = batch.run();
    for (size_t i = 0; i < tokens.size(); i++)
        ck_assert_msg(tokens[i] == expected[i], "row %zu: token %d, expected %d", i,
                      (int)tokens[i], (int)expected[i]);
}
END_TEST

/* What devices do not have is known beforehand. */
START_TEST(what_does_not_fit)
{
    static const hymba_logit_bias twice[] = {{3, 1}, {3, 2}};
    const struct {
        void (*change)(hymba_sampler_params *params);
        bool fits;
    } cases[] = {
        {[](hymba_sampler_params *) {}, true},
        {[](hymba_sampler_params *p) { p->dry_multiplier = 1; }, false},
        {[](hymba_sampler_params *p) { p->top_n_sigma = 1; }, false},
        {[](hymba_sampler_params *p) { p->typical_p = 0.5f; }, false},
        {[](hymba_sampler_params *p) { p->typical_p = 1; }, true},
        {[](hymba_sampler_params *p) { p->xtc_probability = 0.5f; }, false},
        {[](hymba_sampler_params *p) { p->mirostat = 2; }, false},
        {[](hymba_sampler_params *p) {
             p->logit_bias = twice;
             p->n_logit_bias = 2;
         },
         false},
        {[](hymba_sampler_params *p) { p->order = "top_k;penalties"; }, true},
        {[](hymba_sampler_params *p) {
             p->order = "top_k;penalties";
             p->top_k = 5;
             p->repeat_penalty = 2;
         },
         false},
    };
    for (const auto &one : cases) {
        hymba_sampler_params params = defaults();
        one.change(&params);
        sampler_owner sampler = create(params);
        std::vector<uint32_t> counts(10);
        struct hy_sample_change changes[10];
        struct hy_sample_row row;
        ck_assert(hy_sampler_plan_row(sampler.get(), 10, counts.data(), changes, &row)
                  == one.fits);
        for (uint32_t count : counts)
            ck_assert_uint_eq(count, 0);
    }
    sampler_owner sampler = create(defaults());
    struct hy_sample_row row;
    ck_assert(!hy_sampler_plan_row(sampler.get(), HY_SAMPLE_MOST_LOGITS + 1, NULL, NULL, &row));
}
END_TEST

/* How often the logits are read, as sample.cu says. */
START_TEST(traffic)
{
    const size_t n = 32001, threads = 512;
    const struct {
        float temperature, top_p, min_p;
        int32_t top_k;
        size_t looks, stages;
    } cases[] = {
        {0, 0, 0, 0, 1, 0},  {1, 0, 0, 40, 3, 1}, {1, 0, 0, 0, 3, 0},
        {1, 0.9f, 0, 0, 3, 1}, {1, 0.9f, 0.01f, 40, 3, 3}, {1, 0, 0.1f, 0, 4, 1},
    };
    test_random_seed(80);
    for (const auto &one : cases) {
        hymba_sampler_params params = defaults();
        params.temperature = one.temperature;
        params.top_p = one.top_p;
        params.min_p = one.min_p;
        params.top_k = one.top_k;
        std::vector<float> logits(n);
        for (float &logit : logits) /* near to a bell, so that few are near the best */
            for (int i = 0; i < 6; i++)
                logit += (float)(test_random() * 6 - 3);
        batch batch(n);
        batch.add(logits, create(params));
        batch.check("traffic");
        const uint64_t fields = one.temperature == 0 ? 32 : 40 + 8 * one.stages;
        check_traffic(one.looks * 4 * n + threads * fields, 4);
        harness_reset();
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda sample");
    TCase *tests = tcase_create("sample");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, NULL, harness_reset);
    tcase_add_loop_test(tests, small_vocabularies, 0, 6);
    tcase_add_loop_test(tests, large_vocabularies, 0, 3);
    tcase_add_test(tests, a_real_vocabulary);
    tcase_add_loop_test(tests, every_way, 0, N_SHAPES);
    tcase_add_test(tests, a_sequence_of_draws);
    tcase_add_test(tests, impossible_logits);
    tcase_add_test(tests, the_plain_form_is_the_sampler);
    tcase_add_test(tests, what_does_not_fit);
    tcase_add_test(tests, traffic);
    TCase *more = tcase_create("edges");
    tcase_set_timeout(more, 120);
    tcase_add_checked_fixture(more, NULL, harness_reset);
    tcase_add_loop_test(more, edges, 0, 2);
    suite_add_tcase(suite, tests);
    suite_add_tcase(suite, more);
    return test_main(suite);
}
