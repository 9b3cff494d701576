/* What calibration collects: the same for any budget, and by two ways of adding up. */
#include "run/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"

enum { N_TOKENS = 1200, N_LAYERS = 3 };

static struct test_host host;
static struct hy_memory memory;
static hymba_error error;
static hymba_model *model;
static int32_t tokens[N_TOKENS];

static void setup(void)
{
    hymba_model_params params = {.struct_size = sizeof params, .host = &host.host};
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    test_status(hy_memory_init(&memory, &host.host, &error), HYMBA_OK, error);
    test_status(hymba_model_open(test_data("goldens/d_all_full"), &params, &model, &error),
                HYMBA_OK, error);
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)((unsigned)i * 37u % 256u);
}

static void teardown(void)
{
    hymba_model_release(model);
    test_host_check(&host);
}

static void start(struct hy_calibration *calibration, bool gram)
{
    test_status(hy_calibration_create(&memory, model, 1, tokens, N_TOKENS, gram, calibration,
                                      &error),
                HYMBA_OK, error);
}

static const struct hy_input_sums *get(struct hy_calibration *calibration, uint32_t layer,
                                       enum hy_input input)
{
    struct hy_input_sums *sums;
    test_status(hy_calibration_get(calibration, layer, input, &sums, &error), HYMBA_OK, error);
    return sums;
}

/* A budget for one layer makes the text run once for each. */
START_TEST(a_small_budget)
{
    struct hy_calibration large, small;
    start(&large, true);
    start(&small, true);
    small.budget = 1;
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        for (int input = 0; input < HY_N_INPUTS; input++) {
            const struct hy_input_sums *a = get(&large, layer, (enum hy_input)input);
            const struct hy_input_sums *b = get(&small, layer, (enum hy_input)input);
            ck_assert_uint_eq(small.count, 1);
            ck_assert_uint_eq(large.count, N_LAYERS);
            ck_assert_uint_eq(a->columns, b->columns);
            ck_assert_mem_eq(a->values, b->values, a->columns * a->columns * sizeof(float));
        }
    }
    hy_calibration_free(&small);
    hy_calibration_free(&large);
}
END_TEST

/* The diagonal of X^T X are the sums of squares; off it, Cauchy and Schwarz hold. */
START_TEST(gram_and_squares)
{
    struct hy_calibration gram, squares;
    double total = 0;
    start(&gram, true);
    start(&squares, false);
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        for (int input = 0; input < HY_N_INPUTS; input++) {
            const struct hy_input_sums *a = get(&gram, layer, (enum hy_input)input);
            const struct hy_input_sums *b = get(&squares, layer, (enum hy_input)input);
            size_t n = a->columns;
            for (size_t i = 0; i < n; i++) {
                ck_assert_msg(fabsf(a->values[i * n + i] - b->values[i]) <= 1e-4f * b->values[i],
                              "found %g, expected %g", a->values[i * n + i], b->values[i]);
                total += b->values[i];
                for (size_t j = 0; j < n; j++) {
                    ck_assert(fabsf(a->values[i * n + j] - a->values[j * n + i]) <=
                              1e-4f * sqrtf(b->values[i] * b->values[j]));
                    ck_assert(fabsf(a->values[i * n + j]) <=
                              1.001f * sqrtf(b->values[i] * b->values[j]));
                }
            }
        }
    }
    ck_assert(total > 0);
    hy_calibration_free(&squares);
    hy_calibration_free(&gram);
}
END_TEST

/* Normed rows have a mean square near 1 times that of their weights: all tokens count once. */
START_TEST(every_token_counts)
{
    struct hy_calibration calibration;
    start(&calibration, false);
    const struct hy_input_sums *sums = get(&calibration, 0, HY_INPUT_FFN);
    const float *weight = model->weights.layers[0].ffn_norm;
    double rows = 0;
    for (size_t i = 0; i < sums->columns; i++)
        rows += sums->values[i] / (weight[i] * weight[i]) / (double)sums->columns;
    /* and BOS before each of three sequences */
    ck_assert_msg(fabs(rows - (N_TOKENS + 3)) < 2, "found %g rows", rows);
    hy_calibration_free(&calibration);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("calibrate");
    TCase *tests = tcase_create("calibrate");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, a_small_budget);
    tcase_add_test(tests, gram_and_squares);
    tcase_add_test(tests, every_token_counts);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
