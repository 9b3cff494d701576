/*
 * Batches whose items have samplers, on the CPU and on the guarded device: the tokens, and the
 * samplers afterwards, are those of a call that gives logits and hymba_sampler_sample on these. On
 * the device no logits are copied that nobody asked for.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden.h"
#include "guarded_world.h"

enum { N = 20, PROMPT = 5, STEPS = 12 };

static hymba_error error = {.struct_size = sizeof error};
static const char *const devices[] = {"cpu", "cuda"};
static int told; /* lines of the log on samplers that need the host */

static void hear(void *user, int32_t level, const char *message, size_t length)
{
    (void)user;
    (void)length;
    told += level == HYMBA_LOG_INFO && strstr(message, "a sampler has stages") != NULL;
}

/* The same sessions and samplers twice: with samplers in the batch, and by hand on the CPU. */
struct world {
    struct golden golden;
    size_t vocabulary;
    hymba_context *context, *plain;
    hymba_session *sessions[N], *plain_sessions[N];
    hymba_sampler *samplers[N], *plain_samplers[N];
};

static const hymba_logit_bias biases[] = {{3, 2}, {7, -INFINITY}, {1000000, 1}, {5, -1}};
static const hymba_logit_bias twice[] = {{3, 2}, {3, 0.1f}};

/* Of kind 0 to 8 such as devices choose for. */
static hymba_sampler_params params_of(int kind)
{
    hymba_sampler_params params = {
        .struct_size = sizeof params, .seed = (uint64_t)kind + 7, .temperature = 0.9f};
    switch (kind % 16) {
    case 0:
        params.temperature = 0;
        break;
    case 1:
        params.top_k = 12;
        break;
    case 2:
        params.top_p = 0.8f;
        break;
    case 3:
        params.min_p = 0.05f;
        break;
    case 4:
        params.repeat_penalty = 1.4f;
        params.frequency_penalty = 0.3f;
        break;
    case 5:
        params.presence_penalty = 0.5f;
        params.repeat_last_n = 3;
        params.top_k = 30;
        params.top_p = 0.9f;
        break;
    case 6:
        params.logit_bias = biases;
        params.n_logit_bias = 4;
        params.repeat_penalty = 0.8f;
        break;
    case 7:
        params.order = "temperature;min_p;top_p";
        params.top_p = 0.95f;
        params.min_p = 0.001f;
        break;
    case 8:
        params.temperature = 0;
        params.repeat_penalty = 2;
        break;
    case 9:
        params.dry_multiplier = 0.8f;
        break;
    case 10:
        params.typical_p = 0.7f;
        break;
    case 11:
        params.mirostat = 2;
        break;
    case 12:
        params.xtc_probability = 0.5f;
        params.xtc_threshold = 0.05f;
        break;
    case 13:
        params.top_n_sigma = 1;
        break;
    case 14:
        params.logit_bias = twice;
        params.n_logit_bias = 2;
        break;
    default:
        params.order = "top_k;penalties";
        params.top_k = 20;
        params.repeat_penalty = 1.5f;
    }
    return params;
}

static void open_world(struct world *world, const char *device, int first_kind, int n_kinds)
{
    static const int32_t prompt[PROMPT] = {1, 9, 4, 2, 6};
    const hymba_host host = {.struct_size = sizeof host, .log = hear};
    hymba_model_info info = {.struct_size = sizeof info};
    golden_open(&world->golden, "goldens/a_all_features");
    test_status(hymba_model_get_info(world->golden.model, &info, &error), HYMBA_OK, error);
    world->vocabulary = info.vocabulary_size;
    told = 0;
    world->context = guarded_context(world->golden.model, (hymba_context_params){.host = &host},
                                     device);
    world->plain = guarded_context(world->golden.model, (hymba_context_params){.struct_size = 0},
                                   "cpu");
    for (int i = 0; i < N; i++) {
        hymba_sampler_params params = params_of(first_kind + i % n_kinds);
        params.seed += (uint64_t)i * 100;
        test_status(hymba_sampler_create(&params, NULL, &world->samplers[i], &error), HYMBA_OK,
                    error);
        test_status(hymba_sampler_create(&params, NULL, &world->plain_samplers[i], &error),
                    HYMBA_OK, error);
        test_status(hymba_session_create(world->context, NULL, &world->sessions[i], &error),
                    HYMBA_OK, error);
        test_status(hymba_session_create(world->plain, NULL, &world->plain_sessions[i], &error),
                    HYMBA_OK, error);
        for (int t = 0; t < 1 + i % PROMPT; t++) {
            test_status(hymba_sampler_accept(world->samplers[i], prompt[t], &error), HYMBA_OK,
                        error);
            test_status(hymba_sampler_accept(world->plain_samplers[i], prompt[t], &error),
                        HYMBA_OK, error);
        }
    }
}

static void close_world(struct world *world)
{
    for (int i = 0; i < N; i++) {
        hymba_session_release(world->sessions[i]);
        hymba_session_release(world->plain_sessions[i]);
        hymba_sampler_release(world->samplers[i]);
        hymba_sampler_release(world->plain_samplers[i]);
    }
    hymba_context_release(world->context);
    hymba_context_release(world->plain);
    golden_close(&world->golden);
}

/* The saved sampler. */
struct state {
    unsigned char data[1024];
    size_t size;
};

static struct state state_of(const hymba_sampler *sampler)
{
    struct state state = {.size = 0};
    test_status(hymba_sampler_state(sampler, state.data, sizeof state.data, &state.size, &error),
                HYMBA_OK, error);
    return state;
}

static void check_same_state(const hymba_sampler *sampler, const struct state *expected)
{
    struct state state = state_of(sampler);
    ck_assert_uint_eq(state.size, expected->size);
    ck_assert_mem_eq(state.data, expected->data, state.size);
}

/* The next token of session i by hand, after its tokens. */
static int32_t sample_plainly(struct world *world, int i, const int32_t *tokens, size_t n)
{
    const float *logits;
    int32_t token;
    test_status(hymba_session_append(world->plain_sessions[i], tokens, n, HYMBA_LOGITS_LAST,
                                     &error),
                HYMBA_OK, error);
    test_status(hymba_session_logits(world->plain_sessions[i], &logits, NULL, &error), HYMBA_OK,
                error);
    test_status(hymba_sampler_sample(world->plain_samplers[i], logits, world->vocabulary, &token,
                                     &error),
                HYMBA_OK, error);
    return token;
}

static void check_logits(struct world *world, int i, int32_t wanted, size_t n)
{
    const float *logits, *plain;
    size_t rows;
    hymba_status status = hymba_session_logits(world->sessions[i], &logits, &rows, &error);
    ck_assert_int_eq(status, wanted == HYMBA_LOGITS_NONE ? HYMBA_ERROR_STATE : HYMBA_OK);
    if (status != HYMBA_OK)
        return;
    ck_assert_uint_eq(rows, wanted == HYMBA_LOGITS_ALL ? n : 1);
    test_status(hymba_session_logits(world->plain_sessions[i], &plain, NULL, &error), HYMBA_OK,
                error);
    ck_assert_mem_eq(logits + (rows - 1) * world->vocabulary, plain,
                     world->vocabulary * sizeof *logits);
}

/* Steps in which each session goes on with its token, some with more behind it. */
static void run(struct world *world, bool asks_for_logits)
{
    hymba_batch_item items[N];
    int32_t tokens[N][3], next[N];
    test_random_seed(5);
    for (int i = 0; i < N; i++)
        next[i] = i + 1;
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < N; i++) {
            tokens[i][0] = next[i];
            tokens[i][1] = tokens[i][2] = 2;
            items[i] = (hymba_batch_item){
                .session = world->sessions[i],
                .tokens = tokens[i],
                .n_tokens = asks_for_logits ? 1 + test_random_below(3) : 1,
                .logits = asks_for_logits ? (int32_t)test_random_below(3) : HYMBA_LOGITS_NONE,
                .sampler = world->samplers[i],
                .token = &next[i],
            };
        }
        guarded->n_downloaded = guarded->n_sampled = 0;
        test_status(hymba_context_decode(world->context, items, sizeof items[0], N, &error),
                    HYMBA_OK, error);
        for (int i = 0; i < N; i++) {
            ck_assert_int_eq(next[i], sample_plainly(world, i, tokens[i], items[i].n_tokens));
            struct state state = state_of(world->plain_samplers[i]);
            check_same_state(world->samplers[i], &state);
            check_logits(world, i, items[i].logits, items[i].n_tokens);
        }
    }
}

START_TEST(tokens_are_the_sampler_s)
{
    struct world world;
    open_world(&world, devices[_i], 0, 16);
    run(&world, true);
    ck_assert_int_eq(told, _i); /* once a context, not each time */
    close_world(&world);
}
END_TEST

START_TEST(only_tokens_leave_the_device)
{
    struct world world;
    open_world(&world, "cuda", 0, 9);
    run(&world, false);
    ck_assert_int_eq(guarded->n_sampled, N);
    ck_assert_int_eq(guarded->n_downloaded, N * (long)sizeof(int32_t));
    ck_assert_int_eq(told, 0);
    close_world(&world);
}
END_TEST

/* With one sampler that needs them, its logits alone. */
START_TEST(logits_leave_the_device_for_who_needs_them)
{
    struct world world;
    int32_t token = 3, next[N];
    hymba_batch_item items[N];
    open_world(&world, "cuda", 8, 2);
    for (int i = 0; i < N; i++)
        items[i] = (hymba_batch_item){.session = world.sessions[i],
                                      .tokens = &token,
                                      .n_tokens = 1,
                                      .sampler = i % 5 == 1 || i % 2 == 0 ? world.samplers[i]
                                                                          : NULL,
                                      .token = i % 5 == 1 || i % 2 == 0 ? &next[i] : NULL};
    guarded->n_downloaded = guarded->n_sampled = 0;
    test_status(hymba_context_decode(world.context, items, sizeof items[0], N, &error), HYMBA_OK,
                error);
    ck_assert_int_eq(guarded->n_sampled, N / 2); /* even ones have no need of the host */
    ck_assert_int_eq(guarded->n_downloaded,
                     (long)(N / 2 * sizeof(int32_t) + 2 * world.vocabulary * sizeof(float)));
    close_world(&world);
}
END_TEST

/* ------------------------------------------------------------------- failures */

static int32_t refuse(void *user, const int32_t *tokens, float *logits, size_t n)
{
    (void)tokens;
    (void)logits;
    (void)n;
    return *(int *)user;
}

/* After a failure nothing has moved; the same call then does what it would have done. */
static void check_repeated(struct world *world, hymba_batch_item *items, int32_t *next,
                           hymba_status expected, void (*mend)(void))
{
    struct state states[N - 1];
    for (int i = 0; i < N - 1; i++)
        states[i] = state_of(world->samplers[i]);
    test_status(hymba_context_decode(world->context, items, sizeof items[0], N, &error), expected,
                error);
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(next[i], -5);
        ck_assert_uint_eq(hymba_session_length(world->sessions[i]), 0);
        if (i < N - 1)
            check_same_state(world->samplers[i], &states[i]);
    }
    mend();
    test_status(hymba_context_decode(world->context, items, sizeof items[0], N, &error), HYMBA_OK,
                error);
    for (int i = 0; i < N - 1; i++)
        ck_assert_int_eq(next[i], sample_plainly(world, i, items[i].tokens, items[i].n_tokens));
}

static int stopped;

static void let_go_on(void)
{
    stopped = 0;
}

static void nothing_to_mend(void)
{
}

static void fill_items(struct world *world, hymba_batch_item *items, int32_t *next)
{
    static const int32_t tokens[] = {4, 8};
    for (int i = 0; i < N; i++) {
        next[i] = -5;
        items[i] = (hymba_batch_item){.session = world->sessions[i],
                                      .tokens = tokens,
                                      .n_tokens = 2,
                                      .sampler = world->samplers[i],
                                      .token = &next[i]};
    }
}

/* The last of them stops in its own stage, when all others have chosen. */
START_TEST(a_failed_call_moves_no_sampler)
{
    struct world world;
    hymba_batch_item items[N];
    int32_t next[N];
    hymba_sampler_params params = params_of(0);
    params.process = refuse;
    params.process_user = &stopped;
    stopped = 1;
    open_world(&world, devices[_i], 0, 16);
    hymba_sampler_release(world.samplers[N - 1]);
    test_status(hymba_sampler_create(&params, NULL, &world.samplers[N - 1], &error), HYMBA_OK,
                error);
    fill_items(&world, items, next);
    check_repeated(&world, items, next, HYMBA_ERROR_CANCELLED, let_go_on);
    close_world(&world);
}
END_TEST

START_TEST(the_item_at_fault_is_told)
{
    struct world world;
    hymba_batch_item items[N];
    int32_t next[N];
    hymba_sampler_params params = params_of(0);
    params.process = refuse;
    params.process_user = &stopped;
    stopped = 1;
    open_world(&world, devices[_i], 0, 9);
    hymba_sampler_release(world.samplers[13]);
    test_status(hymba_sampler_create(&params, NULL, &world.samplers[13], &error), HYMBA_OK, error);
    fill_items(&world, items, next);
    test_status(hymba_context_decode(world.context, items, sizeof items[0], N, &error),
                HYMBA_ERROR_CANCELLED, error);
    ck_assert_int_eq(error.position, 13);
    close_world(&world);
}
END_TEST

/* Whatever wait for the device tells of a failure. */
START_TEST(a_device_without_memory_moves_no_sampler)
{
    for (long finish = 0; finish < 3; finish++) {
        struct world world;
        hymba_batch_item items[N];
        int32_t next[N];
        open_world(&world, "cuda", 0, 16);
        fill_items(&world, items, next);
        guarded->finish_status = HYMBA_ERROR_MEMORY;
        guarded->fail_finish = guarded->n_finishes + finish;
        if (finish < 2)
            check_repeated(&world, items, next, HYMBA_ERROR_MEMORY, nothing_to_mend);
        guarded->fail_finish = -1;
        close_world(&world);
    }
}
END_TEST

/* Logits that cannot be sampled: biases that leave nothing. */
START_TEST(what_cannot_be_sampled_is_refused)
{
    struct world world;
    hymba_batch_item items[N];
    int32_t next[N];
    open_world(&world, devices[_i], 0, 9);
    hymba_logit_bias *all = calloc(world.vocabulary, sizeof *all);
    for (size_t i = 0; i < world.vocabulary; i++)
        all[i] = (hymba_logit_bias){(int32_t)i, -INFINITY};
    hymba_sampler_params params = {.struct_size = sizeof params,
                                   .logit_bias = all,
                                   .n_logit_bias = world.vocabulary};
    hymba_sampler_release(world.samplers[6]);
    test_status(hymba_sampler_create(&params, NULL, &world.samplers[6], &error), HYMBA_OK, error);
    free(all);
    fill_items(&world, items, next);
    test_status(hymba_context_decode(world.context, items, sizeof items[0], N, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 6);
    ck_assert_ptr_nonnull(strstr(error.message, "nothing to choose"));
    ck_assert_uint_eq(hymba_session_length(world.sessions[0]), 0);
    close_world(&world);
}
END_TEST

START_TEST(bad_items)
{
    struct world world;
    hymba_batch_item items[N];
    int32_t next[N];
    open_world(&world, devices[_i], 0, 9);
    fill_items(&world, items, next);
    items[4].sampler = world.samplers[2];
    test_status(hymba_context_decode(world.context, items, sizeof items[0], N, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 2);
    items[4].sampler = NULL;
    test_status(hymba_context_decode(world.context, items, sizeof items[0], N, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 4);
    items[4].sampler = world.samplers[4];
    items[5].token = NULL;
    test_status(hymba_context_decode(world.context, items, sizeof items[0], N, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 5);
    close_world(&world);
}
END_TEST

/* An item as the first header had it. */
struct older_item {
    hymba_session *session;
    const int32_t *tokens;
    size_t n_tokens;
    int32_t logits, reserved;
};

START_TEST(items_of_an_older_caller)
{
    static const int32_t tokens[] = {1, 2, 3};
    struct world world;
    open_world(&world, devices[_i], 0, 9);
    struct older_item items[2] = {{world.sessions[0], tokens, 2, HYMBA_LOGITS_LAST, 0},
                                  {world.sessions[1], tokens, 3, HYMBA_LOGITS_NONE, 0}};
    test_status(hymba_context_decode(world.context, (const void *)items, sizeof items[0], 2,
                                     &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(hymba_session_length(world.sessions[0]), 2);
    ck_assert_uint_eq(hymba_session_length(world.sessions[1]), 3);
    close_world(&world);
}
END_TEST

/* ------------------------------------------------------------------ generation */

/* The same events with the steps' own tokens as without, whatever the sampler is. */
START_TEST(generations_are_alike)
{
    enum { TOKENS = 30 };
    struct world world;
    int32_t tokens[2][TOKENS + 1];
    static const int32_t prompt[] = {1, 2, 3};
    open_world(&world, "cuda", _i, 1);
    for (int d = 0; d < 2; d++) {
        hymba_generation *generation;
        hymba_generation_params params = {.struct_size = sizeof params,
                                          .max_tokens = TOKENS,
                                          .flags = HYMBA_GENERATION_IGNORE_EOS};
        hymba_session *session = d ? world.sessions[0] : world.plain_sessions[0];
        hymba_sampler *sampler = d ? world.samplers[0] : world.plain_samplers[0];
        hymba_event event = {.struct_size = sizeof event, .kind = HYMBA_EVENT_TOKEN};
        int n = 0;
        test_status(hymba_session_append(session, prompt, 3, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                    error);
        test_status(hymba_generation_create(session, sampler, NULL, &params, &generation, &error),
                    HYMBA_OK, error);
        while (event.kind == HYMBA_EVENT_TOKEN && n <= TOKENS) {
            test_status(hymba_generation_next(generation, &event, &error), HYMBA_OK, error);
            tokens[d][n++] = event.token;
        }
        ck_assert_int_eq(n, TOKENS + 1);
        ck_assert_int_eq(event.stop, HYMBA_STOP_LENGTH);
        hymba_generation_release(generation);
    }
    ck_assert_mem_eq(tokens[0], tokens[1], sizeof tokens[0]);
    struct state state = state_of(world.plain_samplers[0]);
    check_same_state(world.samplers[0], &state);
    check_logits(&world, 0, HYMBA_LOGITS_LAST, 1); /* to go on with */
    close_world(&world);
}
END_TEST

START_TEST(a_generation_brings_tokens_alone_to_the_host)
{
    static const int32_t prompt[] = {1, 2, 3};
    struct world world;
    hymba_generation *generation;
    hymba_event event = {.struct_size = sizeof event};
    open_world(&world, "cuda", 1, 1);
    test_status(hymba_session_append(world.sessions[0], prompt, 3, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
    hymba_generation_params params = {.struct_size = sizeof params,
                                      .flags = HYMBA_GENERATION_IGNORE_EOS};
    test_status(hymba_generation_create(world.sessions[0], world.samplers[0], NULL, &params,
                                        &generation, &error),
                HYMBA_OK, error);
    test_status(hymba_generation_next(generation, &event, &error), HYMBA_OK, error);
    guarded->n_downloaded = 0;
    for (int i = 0; i < 10; i++)
        test_status(hymba_generation_next(generation, &event, &error), HYMBA_OK, error);
    ck_assert_int_eq(guarded->n_downloaded, 10 * (long)sizeof(int32_t));
    hymba_generation_release(generation);
    close_world(&world);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device sampling");
    TCase *tests = tcase_create("batches");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, guarded_begin, guarded_end);
    tcase_add_loop_test(tests, tokens_are_the_sampler_s, 0, 2);
    tcase_add_test(tests, only_tokens_leave_the_device);
    tcase_add_test(tests, logits_leave_the_device_for_who_needs_them);
    tcase_add_loop_test(tests, a_failed_call_moves_no_sampler, 0, 2);
    tcase_add_loop_test(tests, the_item_at_fault_is_told, 0, 2);
    tcase_add_test(tests, a_device_without_memory_moves_no_sampler);
    tcase_add_loop_test(tests, what_cannot_be_sampled_is_refused, 0, 2);
    tcase_add_loop_test(tests, bad_items, 0, 2);
    tcase_add_loop_test(tests, items_of_an_older_caller, 0, 2);
    tcase_add_loop_test(tests, generations_are_alike, 0, 16);
    tcase_add_test(tests, a_generation_brings_tokens_alone_to_the_host);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
