/*
 * Ranks through the public interface on CUDA devices, which are the harness's and joined by its
 * stand-in for NCCL: contexts on threads of their own that meet at an address or a file give, to
 * the bit, the same on all, and, but for rounding, what one device gives. tests/backend/test_ranks
 * has what can go wrong.
 */
#include <math.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../backend/meeting_world.h"
#include "harness_plugin.h"
#include "random_model.h"
#include "support.h"

enum {
    VOCABULARY = RANDOM_MODEL_VOCABULARY,
    N_PROMPT = 19,
    N_STEPS = 4,
    MOST = 3,
    TIMEOUT_MS = 60000
};

struct rank {
    hymba_context_params params;
    hymba_ranks ranks;
    hymba_status status;
    hymba_error error;
    float logits[1 + N_STEPS][VOCABULARY];
    int32_t tokens[N_STEPS];
    pthread_t thread;
};

static struct rank ranks[MOST], alone;
static hymba_model *model;
static int32_t prompt[N_PROMPT];
static char place[1024];

static void setup(void)
{
    ck_assert_int_eq(setenv("HYMBA_HARNESS_DEVICES", "3", 1), 0);
    harness_plugin_open();
    model = random_model_open(random_model_for_ranks);
    test_random_seed(7);
    for (size_t i = 0; i < N_PROMPT; i++)
        prompt[i] = (int32_t)test_random_below(VOCABULARY);
    ck_assert(meeting_free_place(AF_INET, place, sizeof place));
}

static void teardown(void)
{
    hymba_model_release(model);
    harness_plugin_close();
}

static hymba_status keep_logits(struct rank *rank, const hymba_session *session, int row)
{
    const float *logits;
    hymba_status status = hymba_session_logits(session, &logits, NULL, &rank->error);
    if (status == HYMBA_OK)
        memcpy(rank->logits[row], logits, sizeof rank->logits[row]);
    return status;
}

/* Steps of one token, whose sampled token is the next one's: the later ones are graphs. */
static hymba_status decode_steps(struct rank *rank, hymba_context *context,
                                 hymba_session *session, hymba_sampler *sampler)
{
    hymba_status status = HYMBA_OK;
    int32_t token = 5;
    for (int step = 0; step < N_STEPS && status == HYMBA_OK; step++) {
        hymba_batch_item item = {session, &token, 1, HYMBA_LOGITS_LAST, 0, sampler,
                                 &rank->tokens[step]};
        status = hymba_context_decode(context, &item, sizeof item, 1, &rank->error);
        if (status == HYMBA_OK)
            status = keep_logits(rank, session, 1 + step);
        token = rank->tokens[step];
    }
    return status;
}

static hymba_status use_context(struct rank *rank, hymba_context *context)
{
    hymba_sampler_params sampling = {.struct_size = sizeof sampling, .temperature = 0};
    hymba_session *session = NULL;
    hymba_sampler *sampler = NULL;
    hymba_status status = hymba_sampler_create(&sampling, NULL, &sampler, &rank->error);
    if (status == HYMBA_OK)
        status = hymba_session_create(context, NULL, &session, &rank->error);
    if (status == HYMBA_OK)
        status = hymba_session_append(session, prompt, N_PROMPT, HYMBA_LOGITS_LAST, &rank->error);
    if (status == HYMBA_OK)
        status = keep_logits(rank, session, 0);
    if (status == HYMBA_OK)
        status = decode_steps(rank, context, session, sampler);
    hymba_session_release(session);
    hymba_sampler_release(sampler);
    return status;
}

static void *live(void *argument)
{
    struct rank *rank = argument;
    hymba_context *context;
    rank->error = (hymba_error){.struct_size = sizeof rank->error};
    rank->status = hymba_context_create(model, &rank->params, &context, &rank->error);
    if (rank->status == HYMBA_OK)
        rank->status = use_context(rank, context);
    hymba_context_release(context);
    return NULL;
}

static void fill_params(struct rank *rank, const hymba_ranks *given)
{
    rank->params = (hymba_context_params){
        .struct_size = sizeof rank->params,
        .device = "cuda",
        .compute = HYMBA_COMPUTE_F32,
        .max_step_tokens = 16,
        .ranks = given,
    };
}

static void run_ranks(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        ranks[i].ranks = (hymba_ranks){
            .struct_size = sizeof ranks[i].ranks,
            .rank = i,
            .world_size = n,
            .local_rank = n - 1 - i, /* which device has which part is no matter */
            .timeout_ms = TIMEOUT_MS,
            .meeting = place,
        };
        fill_params(&ranks[i], &ranks[i].ranks);
        ck_assert_int_eq(pthread_create(&ranks[i].thread, NULL, live, &ranks[i]), 0);
    }
    for (uint32_t i = 0; i < n; i++)
        ck_assert_int_eq(pthread_join(ranks[i].thread, NULL), 0);
    for (uint32_t i = 0; i < n; i++)
        test_status(ranks[i].status, HYMBA_OK, ranks[i].error);
}

START_TEST(ranks_that_met_give_the_same)
{
    uint32_t n = 2 + (uint32_t)_i;
    if (_i == 1)
        snprintf(place, sizeof place, "file:%s/meeting", test_directory());
    run_ranks(n);
    fill_params(&alone, NULL);
    live(&alone);
    test_status(alone.status, HYMBA_OK, alone.error);
    for (uint32_t i = 1; i < n; i++)
        ck_assert_mem_eq(ranks[i].logits, ranks[0].logits, sizeof ranks[0].logits);
    for (int row = 0; row < 1 + N_STEPS; row++)
        for (int i = 0; i < VOCABULARY; i++)
            ck_assert_msg(fabsf(ranks[0].logits[row][i] - alone.logits[row][i]) < 5e-4f,
                          "row %d, logit %d: %g, %g", row, i, (double)ranks[0].logits[row][i],
                          (double)alone.logits[row][i]);
    ck_assert_mem_eq(ranks[n - 1].tokens, alone.tokens, sizeof alone.tokens);
    ck_assert_int_ne(access(place + 5, F_OK), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("public ranks");
    TCase *tests = tcase_create("public ranks");
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, ranks_that_met_give_the_same, 0, 2);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
