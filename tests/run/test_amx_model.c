/*
 * A model whose products run on the AMX kernels, with tiles in plain C: alone, in pieces and in
 * company a sequence gets the same logits to the bit, as close to those of f32 arithmetic as with
 * the vector kernels.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../kernel/amx_kernels.h"
#include "run/session.h"
#include "support.h"

enum { N_TOKENS = 21, N_SESSIONS = 3 };

/* Of weights, and the arithmetic that goes with them. */
static const struct {
    hymba_dtype quantize;
    int32_t compute;
} kinds[] = {
    {HYMBA_DTYPE_DEFAULT, HYMBA_COMPUTE_BF16},
    {HYMBA_DTYPE_INT8, HYMBA_COMPUTE_INT8},
    {HYMBA_DTYPE_INT4, HYMBA_COMPUTE_INT8},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static hymba_error error = {.struct_size = sizeof error};

static int32_t tokens[N_SESSIONS][N_TOKENS];

static hymba_model *open_model(hymba_dtype quantize)
{
    hymba_model *model;
    hymba_model_params params;
    hymba_model_params_init(&params, sizeof params);
    params.quantize = quantize;
    test_status(hymba_model_open("examples/demo", &params, &model, &error), HYMBA_OK, error);
    test_random_seed(7);
    for (int s = 0; s < N_SESSIONS; s++)
        for (int i = 0; i < N_TOKENS; i++)
            tokens[s][i] = (int32_t)test_random_below(model->plan.config.vocabulary_size);
    return model;
}

/* With the vector kernels of cpu, or with tiles over them. */
static hymba_context *make_context(hymba_model *model, const char *cpu, int32_t compute, bool tiles)
{
    hymba_context *context;
    hymba_context_params params;
    hymba_context_params_init(&params, sizeof params);
    params.cpu = cpu;
    params.compute = compute;
    params.n_threads = 2;
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    struct hy_kernels *kernels = &context->backend.kernels;
    if (tiles)
        ck_assert(strcmp(cpu, "avx2") == 0 ? amx_emulated_avx2(kernels)
                                           : amx_emulated_avx512(kernels));
    return context;
}

static hymba_session *make_session(hymba_context *context)
{
    hymba_session *session;
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    return session;
}

/* Of the only token that has any. */
static const float *last_logits(const hymba_session *session)
{
    const float *logits;
    size_t rows;
    test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
    ck_assert_uint_eq(rows, 1);
    return logits;
}

static void decode(hymba_context *context, hymba_session *const sessions[], size_t begin,
                   size_t count)
{
    hymba_batch_item items[N_SESSIONS];
    for (int s = 0; s < N_SESSIONS; s++)
        items[s] = (hymba_batch_item){
            sessions[s], tokens[s] + begin, count, HYMBA_LOGITS_LAST, 0, NULL, NULL};
    test_status(hymba_context_decode(context, items, sizeof items[0], N_SESSIONS, &error), HYMBA_OK,
                error);
}

/* [N_SESSIONS][vocabulary], each sequence alone in one piece. From malloc. */
static float *logits_alone(hymba_context *context, size_t vocabulary)
{
    float *logits = malloc(N_SESSIONS * vocabulary * sizeof *logits);
    for (int s = 0; s < N_SESSIONS; s++) {
        hymba_session *session = make_session(context);
        test_status(hymba_session_append(session, tokens[s], N_TOKENS, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
        memcpy(logits + (size_t)s * vocabulary, last_logits(session), vocabulary * sizeof *logits);
        hymba_session_release(session);
    }
    return logits;
}

/* In company: many rows at once, then a token of each, then the rest. */
static void check_company(hymba_context *context, const float *expected, size_t vocabulary)
{
    hymba_session *sessions[N_SESSIONS];
    for (int s = 0; s < N_SESSIONS; s++)
        sessions[s] = make_session(context);
    decode(context, sessions, 0, 13);
    decode(context, sessions, 13, 1);
    decode(context, sessions, 14, N_TOKENS - 14);
    for (int s = 0; s < N_SESSIONS; s++) {
        ck_assert_mem_eq(last_logits(sessions[s]), expected + (size_t)s * vocabulary,
                         vocabulary * sizeof *expected);
        hymba_session_release(sessions[s]);
    }
}

/* Root of the mean square. */
static double distance(const float *a, const float *b, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sqrt(sum / (double)n);
}

/* _i: kind, with AVX2 or AVX-512 below. */
START_TEST(model_on_tiles)
{
    const char *cpu = _i / N_KINDS == 0 ? "avx2" : "avx512";
    struct hy_kernels kernels;
    if (hy_kernels_init(&kernels, cpu, NULL) != HYMBA_OK || test_looks_for_races())
        return;
    hymba_model *model = open_model(kinds[_i % N_KINDS].quantize);
    int32_t compute = kinds[_i % N_KINDS].compute;
    size_t vocabulary = model->plan.config.vocabulary_size, n = N_SESSIONS * vocabulary;
    hymba_context *vectors = make_context(model, cpu, compute, false);
    hymba_context *tiles = make_context(model, cpu, compute, true);
    hymba_context *exact = make_context(model, cpu, HYMBA_COMPUTE_F32, false);
    float *f32 = logits_alone(exact, vocabulary), *expected = logits_alone(vectors, vocabulary);
    float *alone = logits_alone(tiles, vocabulary);
    double usual = distance(expected, f32, n), found = distance(alone, f32, n);
    ck_assert_double_gt(distance(alone, expected, n), 0.0); /* bf16 sums have another order */
    ck_assert_msg(found <= 1.5 * usual, "%g from f32, and %g without tiles", found, usual);
    check_company(tiles, alone, vocabulary);
    free(f32);
    free(expected);
    free(alone);
    hymba_context_release(exact);
    hymba_context_release(vectors);
    hymba_context_release(tiles);
    hymba_model_release(model);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("amx_model");
    TCase *tcase = tcase_create("amx_model");
    tcase_set_timeout(tcase, 240);
    tcase_add_loop_test(tcase, model_on_tiles, 0, 2 * N_KINDS);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
