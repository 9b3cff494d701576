/*
 * Contexts that are ranks of one model, each on a thread of its own as it would be in a process of
 * its own, through the public interface alone, on the guarded devices: they give what one device
 * gives, and whatever keeps one from coming, or comes with something else, is told on all.
 */
#include "support.h"

#include <math.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../cuda/random_model.h"
#include "guarded_world.h"
#include "meeting_world.h"

enum { VOCABULARY = 300, N_PROMPT = 21, N_GENERATED = 6, MOST = 3, LONG_MS = 60000,
       SHORT_MS = 400 };

/* Three key heads: two ranks have unequal parts, and four have none. */
static const char config[] =
    "{\"model_type\":\"hymba\",\"vocab_size\":300,\"hidden_size\":96,\"intermediate_size\":208,"
    "\"num_hidden_layers\":3,\"num_attention_heads\":6,\"num_key_value_heads\":3,"
    "\"num_memory_tokens\":4,\"sliding_window\":16,\"global_attn_idx\":[0],"
    "\"kv_reuse_group\":[[1,2]],\"rms_norm_eps\":1e-06,\"rope\":true,\"rope_theta\":10000.0,"
    "\"tie_word_embeddings\":true,\"mamba_d_state\":16,\"mamba_d_conv\":4,\"mamba_dt_rank\":6,"
    "\"mamba_expand\":2,\"bos_token_id\":1,\"eos_token_id\":2}";

/* What one of them is told, and what came of it. */
struct rank {
    hymba_context_params params;
    hymba_ranks ranks;
    hymba_model *model;
    hymba_status status;
    hymba_error error;
    hymba_context_info info;
    char device[32];
    float logits[3][VOCABULARY]; /* of the prompt's end, and of two rows of a batch */
    int32_t chosen, generated[N_GENERATED];
    hymba_status saved;
    pthread_t thread;
};

static struct rank ranks[MOST + 1]; /* the last one: alone on one device */
static hymba_model *model;
static int32_t prompt[N_PROMPT];
static char place[1024];
static unsigned char id[HYMBA_UNIQUE_ID_BYTES];

enum { ALONE = MOST };

static void setup(void)
{
    guarded_begin();
    guarded->n_devices = 3;
    model = random_model_open(config);
    test_random_seed(5);
    for (size_t i = 0; i < N_PROMPT; i++)
        prompt[i] = (int32_t)test_random_below(VOCABULARY);
    ck_assert(meeting_free_place(AF_INET, place, sizeof place));
}

static void teardown(void)
{
    hymba_model_release(model);
    guarded_end();
}

/* ------------------------------------------------------------------ one rank */

static int32_t drop(void *user, const void *data, size_t size)
{
    (void)user;
    (void)data;
    (void)size;
    return 0;
}

static hymba_status keep_logits(const hymba_session *session, float *to, hymba_error *error)
{
    const float *logits;
    hymba_status status = hymba_session_logits(session, &logits, NULL, error);
    if (status == HYMBA_OK)
        memcpy(to, logits, VOCABULARY * sizeof *logits);
    return status;
}

static hymba_status use_batch(struct rank *rank, hymba_context *context, hymba_session *first,
                              hymba_session *second, hymba_sampler *sampler)
{
    hymba_batch_item items[2] = {
        {first, prompt + 3, 1, HYMBA_LOGITS_LAST, 0, sampler, &rank->chosen},
        {second, prompt, 5, HYMBA_LOGITS_LAST, 0, NULL, NULL},
    };
    hymba_status status =
        hymba_context_decode(context, items, sizeof items[0], 2, &rank->error);
    if (status == HYMBA_OK)
        status = keep_logits(first, rank->logits[1], &rank->error);
    return status == HYMBA_OK ? keep_logits(second, rank->logits[2], &rank->error) : status;
}

static hymba_status generate(struct rank *rank, hymba_session *session, hymba_sampler *sampler)
{
    hymba_generation_params params = {.struct_size = sizeof params, .max_tokens = N_GENERATED,
                                      .flags = HYMBA_GENERATION_IGNORE_EOS};
    hymba_event event = {.struct_size = sizeof event};
    hymba_generation *generation;
    size_t n = 0;
    hymba_status status = hymba_generation_create(session, sampler, NULL, &params, &generation,
                                                  &rank->error);
    while (status == HYMBA_OK) {
        status = hymba_generation_next(generation, &event, &rank->error);
        if (status != HYMBA_OK || event.kind == HYMBA_EVENT_END)
            break;
        rank->generated[n++] = event.token;
    }
    hymba_generation_release(generation);
    return status;
}

static hymba_status use_context(struct rank *rank, hymba_context *context)
{
    hymba_session *first = NULL, *second = NULL;
    hymba_sampler *sampler = NULL;
    hymba_sampler_params sampling = {.struct_size = sizeof sampling, .temperature = 0.8f,
                                     .top_k = 20, .seed = 17};
    hymba_error *error = &rank->error;
    hymba_status status = hymba_session_create(context, NULL, &first, error);
    if (status == HYMBA_OK)
        status = hymba_session_append(first, prompt, N_PROMPT, HYMBA_LOGITS_LAST, error);
    if (status == HYMBA_OK)
        status = keep_logits(first, rank->logits[0], error);
    if (status == HYMBA_OK)
        status = hymba_session_fork(first, &second, NULL, error);
    if (status == HYMBA_OK)
        status = hymba_sampler_create(&sampling, NULL, &sampler, error);
    if (status == HYMBA_OK)
        status = use_batch(rank, context, first, second, sampler);
    if (status == HYMBA_OK)
        status = generate(rank, second, sampler);
    if (status == HYMBA_OK)
        rank->saved = hymba_session_save_to(first, NULL, drop, NULL, NULL, &rank->error);
    hymba_sampler_release(sampler);
    hymba_session_release(second);
    hymba_session_release(first);
    return status;
}

static void *live(void *argument)
{
    struct rank *rank = argument;
    hymba_context *context;
    rank->error = (hymba_error){.struct_size = sizeof rank->error};
    rank->info.struct_size = sizeof rank->info;
    rank->status = hymba_context_create(rank->model, &rank->params, &context, &rank->error);
    if (rank->status != HYMBA_OK)
        return NULL;
    rank->status = hymba_context_get_info(context, &rank->info, &rank->error);
    snprintf(rank->device, sizeof rank->device, "%s", rank->info.device);
    if (rank->status == HYMBA_OK)
        rank->status = use_context(rank, context);
    hymba_context_release(context);
    return NULL;
}

/* -------------------------------------------------------------------- threads */

/* All ranks as they should be; a test then changes what it wants. */
static void prepare(uint32_t world_size)
{
    memset(ranks, 0, sizeof ranks);
    for (uint32_t i = 0; i < world_size; i++) {
        struct rank *rank = &ranks[i];
        rank->model = model;
        rank->ranks = (hymba_ranks){
            .struct_size = sizeof rank->ranks,
            .rank = i,
            .world_size = world_size,
            .local_rank = i,
            .timeout_ms = LONG_MS,
            .meeting = place,
        };
        rank->params = (hymba_context_params){
            .struct_size = sizeof rank->params,
            .device = "cuda",
            .max_step_tokens = 16,
            .rewind_tokens = 1,
            .ranks = &rank->ranks,
        };
    }
}

static void start(uint32_t rank)
{
    ck_assert_int_eq(pthread_create(&ranks[rank].thread, NULL, live, &ranks[rank]), 0);
}

static void join(uint32_t rank)
{
    ck_assert_int_eq(pthread_join(ranks[rank].thread, NULL), 0);
}

static void run_all(uint32_t world_size)
{
    for (uint32_t i = 0; i < world_size; i++)
        start(i);
    for (uint32_t i = 0; i < world_size; i++)
        join(i);
}

static void check(uint32_t rank, hymba_status expected, const char *words)
{
    ck_assert_msg(ranks[rank].status == expected, "rank %u: %s (%s), expected %s",
                  (unsigned)rank, hymba_status_name(ranks[rank].status),
                  ranks[rank].error.message, hymba_status_name(expected));
    if (words)
        ck_assert_msg(strstr(ranks[rank].error.message, words), "rank %u: %s, expected %s",
                      (unsigned)rank, ranks[rank].error.message, words);
}

/* ------------------------------------------------------------------ one result */

static void compare_to_one_device(const struct rank *rank)
{
    struct rank *alone = &ranks[ALONE];
    for (int row = 0; row < 3; row++)
        for (int i = 0; i < VOCABULARY; i++)
            ck_assert_msg(fabsf(rank->logits[row][i] - alone->logits[row][i]) < 2e-4f,
                          "row %d, logit %d: %g, %g", row, i, (double)rank->logits[row][i],
                          (double)alone->logits[row][i]);
    ck_assert_int_eq(rank->chosen, alone->chosen);
    ck_assert_mem_eq(rank->generated, alone->generated, sizeof rank->generated);
}

static void run_alone(void)
{
    ranks[ALONE].model = model;
    ranks[ALONE].params = ranks[0].params;
    ranks[ALONE].params.ranks = NULL;
    live(&ranks[ALONE]);
    check(ALONE, HYMBA_OK, NULL);
    ck_assert_uint_eq(ranks[ALONE].info.world_size, 1);
    ck_assert_int_eq(ranks[ALONE].saved, HYMBA_OK);
}

/* By an address, by a file, and by an id that was made before. */
START_TEST(ranks_give_what_one_device_gives)
{
    uint32_t n = 2 + (uint32_t)_i / 3;
    hymba_error error = {.struct_size = sizeof error};
    prepare(n);
    if (_i % 3 == 1)
        snprintf(place, sizeof place, "file:%s/meeting", test_directory());
    if (_i % 3 == 2)
        test_status(hymba_unique_id(id, &error), HYMBA_OK, error);
    for (uint32_t i = 0; _i % 3 == 2 && i < n; i++) {
        ranks[i].ranks.meeting = NULL;
        ranks[i].ranks.unique_id = id;
    }
    run_all(n);
    run_alone();
    for (uint32_t i = 0; i < n; i++) {
        char device[16];
        snprintf(device, sizeof device, "cuda:%u", (unsigned)i);
        check(i, HYMBA_OK, NULL);
        ck_assert_uint_eq(ranks[i].info.rank, i);
        ck_assert_uint_eq(ranks[i].info.world_size, n);
        ck_assert_str_eq(ranks[i].device, device);
        ck_assert_mem_eq(ranks[i].logits, ranks[0].logits, sizeof ranks[0].logits);
        compare_to_one_device(&ranks[i]);
        ck_assert_int_eq(ranks[i].saved, HYMBA_ERROR_UNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(ranks[i].error.message, "saved or loaded"));
    }
    ck_assert_int_ne(access(place + 5, F_OK), 0); /* a file is removed */
}
END_TEST

/* "cuda:N" is that device, whatever local_rank says. */
START_TEST(a_device_may_be_named)
{
    prepare(2);
    ranks[0].params.device = "cuda:2";
    ranks[1].params.device = "cuda:0";
    run_all(2);
    check(0, HYMBA_OK, NULL);
    check(1, HYMBA_OK, NULL);
    ck_assert_str_eq(ranks[0].device, "cuda:2");
    ck_assert_str_eq(ranks[1].device, "cuda:0");
}
END_TEST

/* ------------------------------------------------------------------ differences */

static void narrow_cache(struct rank *rank)
{
    rank->params.cache_type = HYMBA_DTYPE_BF16;
}

static void narrow_state(struct rank *rank)
{
    rank->params.state_type = HYMBA_DTYPE_F16;
}

static void other_steps(struct rank *rank)
{
    rank->params.max_step_tokens = 8;
}

static void other_rewinds(struct rank *rank)
{
    rank->params.rewind_tokens = 0;
}

static void other_compute(struct rank *rank)
{
    rank->params.compute = HYMBA_COMPUTE_BF16;
    ranks[0].params.compute = HYMBA_COMPUTE_F32;
}

static const struct {
    void (*change)(struct rank *rank);
    const char *words;
} differences[] = {
    {narrow_cache, "rank 1 has cache_type bf16, rank 0 has f32"},
    {narrow_state, "rank 1 has state_type f16, rank 0 has f32"},
    {other_steps, "rank 1 has max_step_tokens 8, rank 0 has 16"},
    {other_rewinds, "rank 1 has rewind_tokens 0, rank 0 has 1"},
    {other_compute, "rank 1 has compute bf16, rank 0 has f32"},
};

START_TEST(ranks_that_differ_are_refused_on_all)
{
    prepare(2);
    differences[_i].change(&ranks[1]);
    run_all(2);
    check(0, HYMBA_ERROR_ARGUMENT, differences[_i].words);
    check(1, HYMBA_ERROR_ARGUMENT, differences[_i].words);
}
END_TEST

START_TEST(ranks_with_other_models_are_refused_on_all)
{
    hymba_error error = {.struct_size = sizeof error};
    hymba_init_params params = {.struct_size = sizeof params, .seed = 9};
    char folder[1024];
    prepare(2);
    snprintf(folder, sizeof folder, "%s/other", test_directory());
    test_status(hymba_model_init(folder, config, sizeof config - 1, &params, &error), HYMBA_OK,
                error);
    test_status(hymba_model_open(folder, NULL, &ranks[1].model, &error), HYMBA_OK, error);
    run_all(2);
    check(0, HYMBA_ERROR_ARGUMENT, "rank 1 has another model than rank 0");
    check(1, HYMBA_ERROR_ARGUMENT, "rank 1 has another model than rank 0");
    hymba_model_release(ranks[1].model);
}
END_TEST

START_TEST(ranks_of_other_worlds_are_refused)
{
    prepare(2);
    ranks[0].ranks.timeout_ms = SHORT_MS;
    ranks[1].ranks.world_size = 3;
    run_all(2);
    check(0, HYMBA_ERROR_TIMEOUT, "rank 1 of 2 did not come");
    check(1, HYMBA_ERROR_ARGUMENT, "refused rank 1 of 3");
}
END_TEST

/* Three key heads: before anybody is waited for. */
START_TEST(a_model_has_only_so_many_parts)
{
    prepare(1);
    ranks[0].ranks.world_size = 4;
    run_all(1);
    check(0, HYMBA_ERROR_ARGUMENT, NULL);
}
END_TEST

/* -------------------------------------------------------------------- absence */

START_TEST(a_rank_that_does_not_come_is_named)
{
    prepare(3);
    ranks[0].ranks.timeout_ms = SHORT_MS;
    start(0);
    start(1);
    join(0);
    join(1);
    check(0, HYMBA_ERROR_TIMEOUT, "rank 2 of 3 did not come");
    check(1, HYMBA_ERROR_TIMEOUT, "rank 2 of 3 did not come");
}
END_TEST

START_TEST(a_file_is_removed_when_ranks_are_missing)
{
    prepare(2);
    snprintf(place, sizeof place, "file:%s/meeting", test_directory());
    ranks[0].ranks.timeout_ms = SHORT_MS;
    start(0);
    join(0);
    check(0, HYMBA_ERROR_TIMEOUT, NULL);
    ck_assert_int_ne(access(place + 5, F_OK), 0);
}
END_TEST

START_TEST(a_rank_without_a_device_is_missed)
{
    prepare(2);
    ranks[0].ranks.timeout_ms = SHORT_MS;
    ranks[1].ranks.local_rank = 9;
    run_all(2);
    check(0, HYMBA_ERROR_TIMEOUT, "rank 1 of 2 did not come");
    check(1, HYMBA_ERROR_DEVICE, NULL);
}
END_TEST

/* -------------------------------------------------------------------- memory */

static hymba_memory_info plan(const hymba_ranks *given)
{
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda",
                                   .ranks = given};
    hymba_memory_info info = {.struct_size = sizeof info, .n_tokens = 100};
    hymba_error error = {.struct_size = sizeof error};
    test_status(hymba_model_get_memory_info(model, &params, &info, &error), HYMBA_OK, error);
    return info;
}

/* Parts make up the whole; no meeting is needed to know them. */
START_TEST(memory_is_told_of_a_rank_s_part)
{
    hymba_ranks given = {.struct_size = sizeof given, .world_size = 3};
    hymba_memory_info whole = plan(NULL), sum = {.struct_size = 0};
    for (; given.rank < given.world_size; given.rank++) {
        hymba_memory_info part = plan(&given);
        sum.kv_bytes += part.kv_bytes;
        sum.ssm_bytes += part.ssm_bytes;
        sum.conv_bytes += part.conv_bytes;
        ck_assert_uint_lt(part.weight_bytes, whole.weight_bytes);
    }
    ck_assert_uint_eq(sum.kv_bytes, whole.kv_bytes);
    ck_assert_uint_eq(sum.ssm_bytes, whole.ssm_bytes);
    ck_assert_uint_eq(sum.conv_bytes, whole.conv_bytes);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ranks");
    TCase *tests = tcase_create("ranks");
    tcase_set_timeout(tests, 240);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, ranks_give_what_one_device_gives, 0, 6);
    tcase_add_test(tests, a_device_may_be_named);
    tcase_add_loop_test(tests, ranks_that_differ_are_refused_on_all, 0,
                        (int)(sizeof differences / sizeof differences[0]));
    tcase_add_test(tests, ranks_with_other_models_are_refused_on_all);
    tcase_add_test(tests, ranks_of_other_worlds_are_refused);
    tcase_add_test(tests, a_model_has_only_so_many_parts);
    tcase_add_test(tests, a_rank_that_does_not_come_is_named);
    tcase_add_test(tests, a_file_is_removed_when_ranks_are_missing);
    tcase_add_test(tests, a_rank_without_a_device_is_missed);
    tcase_add_test(tests, memory_is_told_of_a_rank_s_part);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
