/* Rounding with error feedback: the factor of a Gram matrix, and that it helps. */
#include "run/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "tensor/dtype.h"

enum { N = 192, ROWS = 20, SAMPLES = 600 };

static struct test_host host;
static struct hy_memory memory;
static struct hy_backend backend;
static hymba_error error;
static float gram[N * N], factored[N * N], pivots[N], weights[ROWS * N], rounded[ROWS * N];

static float unit(void)
{
    return (float)(test_random() + test_random() + test_random() + test_random() - 2);
}

/* Inputs that hang together, as a model's do; a channel that is always 0 among them. */
static void make_inputs(void)
{
    static float inputs[SAMPLES][N];
    for (int t = 0; t < SAMPLES; t++) {
        float common = unit(), last = 0;
        for (int i = 0; i < N; i++) {
            last = 0.7f * last + unit();
            inputs[t][i] = i == 77 ? 0 : (last + common) * (1 + (float)(i % 5));
        }
    }
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int t = 0; t < SAMPLES; t++)
                sum += (double)inputs[t][i] * inputs[t][j];
            gram[i * N + j] = (float)sum;
        }
    }
}

static void setup(void)
{
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    test_random_seed(11);
    test_status(hy_memory_init(&memory, &host.host, &error), HYMBA_OK, error);
    test_status(hy_backend_init(&backend, &memory, "generic", 1, NULL, &error), HYMBA_OK,
                error);
    make_inputs();
    for (int i = 0; i < ROWS * N; i++)
        weights[i] = unit();
    memcpy(factored, gram, sizeof gram);
    test_status(hy_factor_gram(&memory, &backend, factored, N, pivots, &error), HYMBA_OK, error);
}

static void teardown(void)
{
    hy_backend_free(&backend);
    test_host_check(&host);
}

/* M^T D M is the Gram matrix, with a hundredth of its diagonal's mean added there. */
START_TEST(factor_multiplies_back)
{
    double mean = 0;
    for (int i = 0; i < N; i++)
        mean += gram[i * N + i] / N;
    for (int a = 0; a < N; a++) {
        ck_assert(pivots[a] > 0);
        for (int b = a; b < N; b++) {
            double sum = 0, expected = gram[a * N + b] + (a == b ? 0.01 * mean : 0);
            for (int j = 0; j <= a; j++)
                sum += (j == a ? 1.0 : factored[j * N + a]) * pivots[j] *
                       (j == b ? 1.0 : factored[j * N + b]);
            ck_assert_msg(fabs(sum - expected) < 1e-4 * mean, "[%d, %d]: found %g, expected %g", a,
                          b, sum, expected);
        }
    }
}
END_TEST

static void decode(const unsigned char *bytes, const uint16_t *scales,
                   const struct hy_scheme *scheme)
{
    for (size_t i = 0; i < ROWS * N; i++) {
        int value = scheme->dtype == HYMBA_DTYPE_INT8 ? bytes[i] - 128
                                                      : (bytes[i / 2] >> 4 * (i % 2) & 15) - 8;
        rounded[i] = (float)value * hy_bf16_to_f32(scales[i / scheme->group]);
    }
}

/* Squared error of the products with the inputs. */
static double loss(void)
{
    double sum = 0;
    for (int row = 0; row < ROWS; row++)
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++)
                sum += (double)(weights[row * N + i] - rounded[row * N + i]) * gram[i * N + j] *
                       (weights[row * N + j] - rounded[row * N + j]);
    return sum;
}

/* Encodes the rows in calls of at most so many. */
static void encode(const struct hy_encoder *encoder, const struct hy_scheme *scheme, size_t most,
                   unsigned char *bytes, uint16_t *scales)
{
    static float values[ROWS * N];
    memcpy(values, weights, sizeof values);
    for (size_t row = 0; row < ROWS; row += most) {
        size_t n = ROWS - row < most ? ROWS - row : most;
        encoder->encode(encoder->user, values + row * N, n, N, scheme,
                        bytes + row * hy_row_bytes(scheme->dtype, N),
                        scales + row * (N / scheme->group));
    }
}

/* _i: type, and group of 32 or 64. */
START_TEST(feedback_helps)
{
    static unsigned char bytes[2][ROWS * N];
    static uint16_t scales[2][ROWS * N / 32];
    struct hy_factor factor = {factored, pivots, N};
    const struct hy_encoder feedback = {hy_encode_with_feedback, &factor};
    struct hy_scheme scheme = {_i / 2 ? HYMBA_DTYPE_INT8 : HYMBA_DTYPE_INT4, _i % 2 ? 64 : 32};
    encode(&hy_plain_encoder, &scheme, 16, bytes[0], scales[0]);
    decode(bytes[0], scales[0], &scheme);
    double plain = loss();
    encode(&feedback, &scheme, 16, bytes[0], scales[0]);
    decode(bytes[0], scales[0], &scheme);
    double better = loss();
    ck_assert_msg(better < 0.5 * plain, "loss %g, without feedback %g", better, plain);
    memset(bytes[1], 0, sizeof bytes[1]);
    encode(&feedback, &scheme, 3, bytes[1], scales[1]); /* how rows are divided says nothing */
    ck_assert_mem_eq(bytes[0], bytes[1], ROWS * hy_row_bytes(scheme.dtype, N));
    ck_assert_mem_eq(scales[0], scales[1], ROWS * (N / scheme.group) * sizeof(uint16_t));
}
END_TEST

START_TEST(inputs_that_are_always_zero)
{
    memset(factored, 0, sizeof factored);
    test_status(hy_factor_gram(&memory, &backend, factored, N, pivots, &error), HYMBA_OK, error);
    for (int i = 0; i < N; i++)
        ck_assert(pivots[i] == 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gptq");
    TCase *tests = tcase_create("gptq");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, factor_multiplies_back);
    tcase_add_loop_test(tests, feedback_helps, 0, 4);
    tcase_add_test(tests, inputs_that_are_always_zero);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
