/*
 * One context over several guarded devices against one on a single device: whatever is done to
 * sessions, tokens and bookkeeping are the same and logits differ by rounding; and what fails on
 * one of the devices has changed nothing on any.
 */
#define _GNU_SOURCE

#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../run/schedule_world.h"
#include "base/checked.h"
#include "group_world.h"
#include "run/group.h"
#include "run/session.h"

enum { N_PAIRS = 3, MAX_TOKENS = 60, MAX_LENGTH = 300, VOCABULARY = 300 };

/* Everything takes long under the thread sanitizer: fewer random turns, and not all failures. */
#ifdef __SANITIZE_THREAD__
enum { TURNS = 5, STRIDE = 9 };
#else
enum { TURNS = 24, STRIDE = 1 };
#endif

/* Three key heads and three granules of feed-forward columns: two devices have unequal parts. */
static const char config[] =
    "{\"model_type\":\"hymba\",\"vocab_size\":300,\"hidden_size\":96,\"intermediate_size\":208,"
    "\"num_hidden_layers\":4,\"num_attention_heads\":6,\"num_key_value_heads\":3,"
    "\"num_memory_tokens\":4,\"sliding_window\":16,\"global_attn_idx\":[0,3],"
    "\"kv_reuse_group\":[[1,2]],\"rms_norm_eps\":1e-06,\"rope\":true,\"rope_theta\":10000.0,"
    "\"tie_word_embeddings\":true,\"mamba_d_state\":16,\"mamba_d_conv\":4,\"mamba_dt_rank\":6,"
    "\"mamba_expand\":2,\"bos_token_id\":1,\"eos_token_id\":2}";

static hymba_error error = {.struct_size = sizeof error};
static const hymba_ranks patient = {.struct_size = sizeof patient, .timeout_ms = 20000};
static int32_t prompt[MAX_TOKENS];

static void setup(void)
{
    group_begin(config);
    test_random_seed(3);
    for (size_t i = 0; i < MAX_TOKENS; i++)
        prompt[i] = (int32_t)test_random_below(VOCABULARY);
}

static void compare_rows(const float *found, const float *expected, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(fabsf(found[i] - expected[i]) < 2e-4f, "logit %zu: found %g, expected %g", i,
                      (double)found[i], (double)expected[i]);
}

static void compare_logits(hymba_session *group, hymba_session *single)
{
    const float *found = NULL, *expected = NULL;
    size_t rows[2] = {0, 0};
    hymba_status status = hymba_session_logits(single, &expected, &rows[0], &error);
    ck_assert_int_eq(hymba_session_logits(group, &found, &rows[1], &error), status);
    ck_assert_uint_eq(rows[0], rows[1]);
    compare_rows(found, expected, rows[0] * VOCABULARY);
}

/* ------------------------------------------------------------- in lockstep */

struct world {
    hymba_context *contexts[2]; /* one device, the group */
    hymba_session_params params;
    hymba_session *pairs[N_PAIRS][2]; /* the same session on both */
};

static void compare_pair(hymba_session *const *pair)
{
    hymba_session_info infos[2];
    for (int i = 0; i < 2; i++) {
        infos[i].struct_size = sizeof infos[i];
        test_status(hymba_session_get_info(pair[i], &infos[i], &error), HYMBA_OK, error);
    }
    ck_assert_uint_eq(infos[0].length, infos[1].length);
    ck_assert_uint_eq(infos[0].first_visible, infos[1].first_visible);
    ck_assert_uint_eq(infos[0].rewind_length, infos[1].rewind_length);
    ck_assert_uint_eq(infos[0].n_snapshots, infos[1].n_snapshots);
    if (infos[0].length > 0)
        ck_assert_mem_eq(hymba_session_tokens(pair[0]), hymba_session_tokens(pair[1]),
                         infos[0].length * sizeof(int32_t));
    compare_logits(pair[1], pair[0]);
}

static void decode(struct world *world)
{
    static int32_t tokens[N_PAIRS][MAX_TOKENS];
    hymba_batch_item items[2][N_PAIRS];
    size_t n = 0;
    for (int p = 0; p < N_PAIRS; p++) {
        hymba_session **pair = world->pairs[p];
        size_t count = test_random() < 0.5 ? 1 : 1 + test_random_below(MAX_TOKENS);
        if (!pair[0] || hymba_session_length(pair[0]) + count > MAX_LENGTH)
            continue;
        for (size_t i = 0; i < count; i++)
            tokens[p][i] = (int32_t)test_random_below(VOCABULARY);
        int32_t logits = (int32_t)test_random_below(3);
        for (int i = 0; i < 2; i++)
            items[i][n] = (hymba_batch_item){pair[i], tokens[p], count, logits, 0, NULL, NULL};
        n++;
    }
    for (int i = 0; n > 0 && i < 2; i++)
        test_status(hymba_context_decode(world->contexts[i], items[i], sizeof items[i][0], n,
                                         &error),
                    HYMBA_OK, error);
}

static void fork_pair(struct world *world, int from)
{
    int to = (int)test_random_below(N_PAIRS);
    for (int i = 0; i < 2 && to != from; i++) {
        hymba_session_release(world->pairs[to][i]);
        test_status(hymba_session_fork(world->pairs[from][i], &world->pairs[to][i], NULL, &error),
                    HYMBA_OK, error);
    }
}

static void rewind_pair(hymba_session **pair)
{
    uint64_t length = hymba_session_length(pair[0]);
    uint64_t back = test_random_below(test_random() < 0.5 ? 4 : (size_t)length + 1);
    int32_t mode = test_random() < 0.5 ? HYMBA_REWIND_KEPT : HYMBA_REWIND_COMPUTE;
    hymba_reuse_info infos[2];
    hymba_status status[2];
    for (int i = 0; i < 2; i++) {
        infos[i] = (hymba_reuse_info){.struct_size = sizeof infos[i]};
        status[i] = hymba_session_rewind(pair[i], back > length ? 0 : length - back, mode,
                                         &infos[i], &error);
    }
    ck_assert_msg(status[0] == status[1], "%s", error.message);
    ck_assert_uint_eq(infos[0].reused_tokens, infos[1].reused_tokens);
    ck_assert_uint_eq(infos[0].computed_tokens, infos[1].computed_tokens);
}

/* Drops the oldest snapshot, if there is one. */
static void drop_oldest(hymba_session *session)
{
    hymba_snapshot_info info = {.struct_size = sizeof info};
    if (hymba_session_snapshot_count(session) == 0)
        return;
    test_status(hymba_session_get_snapshot(session, 0, &info, &error), HYMBA_OK, error);
    test_status(hymba_session_drop_snapshot(session, info.length, &error), HYMBA_OK, error);
}

static void change(struct world *world)
{
    int p = (int)test_random_below(N_PAIRS);
    size_t what = test_random_below(8);
    hymba_session **pair = world->pairs[p];
    if (!pair[0]) {
        for (int i = 0; i < 2; i++)
            pair[i] = group_session(world->contexts[i], world->params);
        return;
    }
    if (what == 0)
        fork_pair(world, p);
    else if (what < 4)
        rewind_pair(pair);
    for (int i = 0; i < 2; i++) {
        if (what == 4)
            test_status(hymba_session_snapshot(pair[i], "mark", NULL, &error), HYMBA_OK, error);
        else if (what == 5)
            drop_oldest(pair[i]);
        else if (what == 6)
            test_status(hymba_session_reserve(pair[i], 100, &error), HYMBA_OK, error);
        else if (what == 7)
            test_status(hymba_session_reset(pair[i], &error), HYMBA_OK, error);
    }
}

static const struct variant {
    const char *device;
    hymba_context_params params;
    hymba_session_params session;
} variants[] = {
    {"cuda:0,1", {.rewind_tokens = 3}, {.snapshot_interval = 20}},
    {"cuda:2,0,1", {.max_step_tokens = 16, .rewind_tokens = 8}, {.snapshot_interval = 50}},
    {"cuda:1,0", {.max_step_tokens = 7}, {.max_tokens = 40, .limit_policy = HYMBA_LIMIT_SLIDE}},
    {"cuda:0,3,2", {.cache_type = HYMBA_DTYPE_F32}, {.reserve_tokens = 30}},
};
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

START_TEST(sessions_are_those_of_one_device)
{
    const struct variant *variant = &variants[_i];
    struct world world = {
        .contexts = {guarded_context(group_model, variant->params, "cuda:0"),
                     group_context(variant->device, variant->params)},
        .params = variant->session,
    };
    hymba_context_info info = {.struct_size = sizeof info};
    test_status(hymba_context_get_info(world.contexts[1], &info, &error), HYMBA_OK, error);
    ck_assert_str_eq(info.device, variant->device);
    test_random_seed((unsigned)_i + 1);
    for (int turn = 0; turn < TURNS; turn++) {
        decode(&world);
        change(&world);
        for (int p = 0; p < N_PAIRS; p++)
            if (world.pairs[p][0]) {
                compare_pair(world.pairs[p]);
                group_compare_peers(world.pairs[p][1]);
            }
    }
    ck_assert_int_gt(guarded->n_sums, 0);
    for (int i = 0; i < 2; i++) /* sessions may outlive their context's handle */
        hymba_context_release(world.contexts[i]);
    for (int p = 0; p < N_PAIRS; p++)
        for (int i = 0; i < 2; i++)
            hymba_session_release(world.pairs[p][i]);
}
END_TEST

/* A budget is rank 0's to keep; the others have the snapshots that it has. */
START_TEST(ranks_have_the_same_snapshots_within_a_budget)
{
    hymba_context *context =
        group_context("cuda:0,1", (hymba_context_params){.max_step_tokens = 16});
    hymba_session *session = group_session(context, (hymba_session_params){0});
    hymba_reuse_info info = {.struct_size = sizeof info};
    test_status(hymba_session_snapshot(session, NULL, &info, &error), HYMBA_OK, error);
    hymba_session_release(session);
    session = group_session(context, (hymba_session_params){
                                         .snapshot_interval = 8,
                                         .snapshot_budget = 2 * info.copied_bytes + 2000,
                                     });
    for (int i = 0; i < 4; i++) {
        test_status(hymba_session_append(session, prompt, 20, HYMBA_LOGITS_NONE, &error), HYMBA_OK,
                    error);
        ck_assert_uint_eq(hymba_session_snapshot_count(session), 2);
        group_compare_peers(session);
    }
    test_status(hymba_session_snapshot(session, "named", NULL, &error), HYMBA_OK, error);
    group_compare_peers(session);
    test_status(hymba_session_rewind(session, 70, HYMBA_REWIND_COMPUTE, &info, &error), HYMBA_OK,
                error);
    group_compare_peers(session);
    hymba_session_release(session);
    hymba_context_release(context);
}
END_TEST

/* --------------------------------------------------- generation, scores, scheduler */

START_TEST(texts_and_scores_are_those_of_one_device)
{
    hymba_context *contexts[2] = {guarded_context(group_model, (hymba_context_params){0}, "cuda:0"),
                                  group_context("cuda:0,1,2", (hymba_context_params){0})};
    float scores[2][20];
    struct wish wish = wish_random(VOCABULARY, 3, 20, 12);
    struct record records[2] = {{0}, {0}};
    for (int i = 0; i < 2; i++) {
        hymba_session *session = group_session(contexts[i], (hymba_session_params){0});
        test_status(hymba_session_append(session, prompt, 9, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                    error);
        test_status(hymba_session_score(session, prompt + 9, 20, scores[i], &error), HYMBA_OK,
                    error);
        test_status(hymba_session_append(session, prompt, 1, HYMBA_LOGITS_NONE, &error), HYMBA_OK,
                    error);
        test_status(hymba_session_score(session, prompt, 1, scores[i], &error), HYMBA_ERROR_STATE,
                    error);
        hymba_session_release(session);
        record_alone(contexts[i], &wish, &records[i]);
    }
    compare_rows(scores[1], scores[0], 20);
    /* its last line tells of the logits' bits */
    size_t same = 0;
    for (int lines = 0; lines < 12; same++)
        lines += records[0].text[same] == '\n';
    ck_assert_mem_eq(records[0].text, records[1].text, same);
    for (int i = 0; i < 2; i++) {
        record_free(&records[i]);
        hymba_context_release(contexts[i]);
    }
}
END_TEST

/* Sums are among the kernels that are measured, and logits are the same to the bit. */
START_TEST(kernels_are_measured_on_all_devices)
{
    hymba_context *context = group_context("cuda:0,1", (hymba_context_params){0});
    hymba_session *sessions[2];
    hymba_kernel_time times[64];
    const float *logits[2];
    size_t n;
    for (int i = 0; i < 2; i++) {
        sessions[i] = group_session(context, (hymba_session_params){0});
        test_status(hymba_context_measure_kernels(context, i, &error), HYMBA_OK, error);
        test_status(hymba_session_append(sessions[i], prompt, 9, HYMBA_LOGITS_LAST, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_logits(sessions[i], &logits[i], NULL, &error), HYMBA_OK, error);
        for (uint32_t rank = 0; rank < 2; rank++)
            ck_assert_int_eq(hy_group_context(context, rank)->kernel_times.on, i);
    }
    ck_assert_mem_eq(logits[0], logits[1], VOCABULARY * sizeof(float));
    test_status(hymba_context_kernel_times(context, times, sizeof times[0], 64, &n, &error),
                HYMBA_OK, error);
    uint64_t n_sums = 0;
    for (size_t i = 0; i < n; i++)
        n_sums += strcmp(times[i].name, "all_sum") == 0 ? times[i].calls : 0;
    ck_assert_uint_gt(n_sums, 0);
    for (int i = 0; i < 2; i++)
        hymba_session_release(sessions[i]);
    hymba_context_release(context);
}
END_TEST

/* ------------------------------------------------------------- long prompts */

enum { ROWS_TOGETHER = 512, LONG = ROWS_TOGETHER + 61 }; /* rows whose product is one sum: pass.c */

/* The logits behind the first n of some tokens, computed in steps of so many rows; how many sums
 * that took. */
static long append_long(int32_t compute, uint32_t max_step_tokens, size_t n, float *logits)
{
    static int32_t tokens[LONG];
    const hymba_context_params params = {.compute = compute, .max_step_tokens = max_step_tokens};
    hymba_context *context = group_context("cuda:0,1", params);
    hymba_session *session = group_session(context, (hymba_session_params){0});
    const float *found;
    for (size_t i = 0; i < LONG; i++)
        tokens[i] = (int32_t)(i * i % VOCABULARY);
    test_status(hymba_session_append(session, tokens, 1, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error); /* with the meta tokens */
    long before = guarded->n_sums;
    test_status(hymba_session_append(session, tokens, n, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    long n_sums = guarded->n_sums - before;
    test_status(hymba_session_logits(session, &found, NULL, &error), HYMBA_OK, error);
    memcpy(logits, found, VOCABULARY * sizeof *logits);
    hymba_session_release(session);
    hymba_context_release(context);
    return n_sums;
}

/* Products of many rows are summed in blocks: one more sum for each of two products of four layers,
 * on two devices. Rows have the bits that they have in steps that are no block long. */
START_TEST(long_prompts_are_summed_in_blocks)
{
    static const int32_t computes[] = {HYMBA_COMPUTE_F32, HYMBA_COMPUTE_BF16, HYMBA_COMPUTE_INT8,
                                       HYMBA_COMPUTE_FP8};
    float whole[VOCABULARY], parts[VOCABULARY];
    guarded->has_bf16 = 1;
    long one = append_long(computes[_i], 1024, ROWS_TOGETHER, whole);
    long two = append_long(computes[_i], 1024, LONG, whole);
    ck_assert_int_eq(two, one + 2 * 4 * 2);
    append_long(computes[_i], 100, LONG, parts);
    ck_assert_mem_eq(whole, parts, sizeof whole);
}
END_TEST

START_TEST(scheduled_requests_give_what_they_give_alone)
{
    enum { N = 4 };
    hymba_context *context =
        group_context("cuda:0,1", (hymba_context_params){.max_step_tokens = 16});
    hymba_scheduler *scheduler;
    struct wish wishes[N];
    struct scheduled list[N];
    test_status(hymba_scheduler_create(context, 7, NULL, &scheduler, &error), HYMBA_OK, error);
    for (size_t i = 0; i < N; i++) {
        wishes[i] = wish_random(VOCABULARY, i, 3 + 8 * i, 6);
        wishes[i].prompt_only = i == 2;
        wishes[i].n_top = i == 3 ? 2 : 0;
        scheduled_open(&list[i], context, &wishes[i]);
        test_status(scheduled_add(&list[i], scheduler, &error), HYMBA_OK, error);
    }
    schedule_finish(scheduler, list, N);
    for (size_t i = 0; i < N; i++) {
        schedule_compare(context, &list[i]);
        group_compare_peers(list[i].session);
        scheduled_close(&list[i]);
    }
    hymba_scheduler_release(scheduler);
    hymba_context_release(context);
}
END_TEST

/* A session that one device has no memory for: its request fails alone. */
START_TEST(a_request_without_memory_on_one_device_fails_alone)
{
    hymba_context *context =
        group_context("cuda:0,1", (hymba_context_params){.max_step_tokens = 32});
    hymba_scheduler *scheduler;
    struct wish wishes[2];
    struct scheduled list[2];
    test_status(hymba_scheduler_create(context, 32, NULL, &scheduler, &error), HYMBA_OK, error);
    for (size_t i = 0; i < 2; i++) {
        wishes[i] = wish_random(VOCABULARY, 0, 240, 40);
        scheduled_open(&list[i], context, &wishes[i]);
        test_status(scheduled_add(&list[i], scheduler, &error), HYMBA_OK, error);
    }
    for (int i = 0; i < 20; i++)
        test_status(schedule_step(scheduler, list, 2, &error), HYMBA_OK, error);
    guarded->fails_on = 1;
    guarded->fail_allocation = guarded->n_allocations; /* the next is a block, at 256 tokens */
    schedule_finish(scheduler, list, 2);
    ck_assert_int_eq((list[0].status != HYMBA_OK) + (list[1].status != HYMBA_OK), 1);
    for (int i = 0; i < 2; i++) {
        ck_assert(list[i].status == HYMBA_OK || list[i].status == HYMBA_ERROR_MEMORY);
        group_compare_peers(list[i].session);
        scheduled_close(&list[i]);
    }
    hymba_scheduler_release(scheduler);
    hymba_context_release(context);
}
END_TEST

/* ------------------------------------------------------------------ failures */

/* What a short life of a context does, up to the first failure. */
struct life {
    hymba_context *context;
    hymba_session *session, *fork;
    size_t length; /* that the session has reached */
};

static hymba_status append(struct life *life, size_t n)
{
    hymba_status status =
        hymba_session_append(life->session, prompt, n, HYMBA_LOGITS_LAST, &error);
    life->length += status == HYMBA_OK ? n : 0;
    return status;
}

static hymba_status live(struct life *life)
{
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda:0,1,2",
                                   .rewind_tokens = 2, .max_step_tokens = 16, .ranks = &patient};
    hymba_session_params session = {.struct_size = sizeof session, .snapshot_interval = 16};
    hymba_status status = hymba_context_create(group_model, &params, &life->context, &error);
    if (status == HYMBA_OK)
        status = hymba_session_create(life->context, &session, &life->session, &error);
    if (status == HYMBA_OK)
        status = append(life, 5);
    if (status == HYMBA_OK)
        status = append(life, 1);
    if (status == HYMBA_OK)
        status = append(life, 40);
    if (status == HYMBA_OK)
        status = hymba_session_snapshot(life->session, "mark", NULL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_fork(life->session, &life->fork, NULL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_append(life->fork, prompt, 30, HYMBA_LOGITS_ALL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_rewind(life->fork, 46, HYMBA_REWIND_KEPT, NULL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_rewind(life->fork, 13, HYMBA_REWIND_COMPUTE, NULL, &error);
    return status;
}

/* A session of one device that has gone as far, and then by four tokens more. */
static hymba_session *relive(hymba_context *context, size_t length)
{
    static const size_t pieces[] = {5, 1, 40};
    hymba_session *session = group_session(context, (hymba_session_params){0});
    for (int i = 0; hymba_session_length(session) < length; i++)
        test_status(hymba_session_append(session, prompt, pieces[i], HYMBA_LOGITS_NONE, &error),
                    HYMBA_OK, error);
    ck_assert_uint_eq(hymba_session_length(session), length);
    test_status(hymba_session_append(session, prompt, 4, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    return session;
}

/* What a life has reached is there on all ranks, and on sound devices goes on. */
static void end_life(struct life *life, bool sound)
{
    if (life->fork)
        group_compare_peers(life->fork);
    if (life->session) {
        ck_assert_uint_eq(hymba_session_length(life->session), life->length);
        group_compare_peers(life->session);
        ck_assert_int_eq(append(life, 4), sound ? HYMBA_OK : HYMBA_ERROR_DEVICE);
        if (!sound) /* nor what needs no other device */
            test_status(hymba_session_reset(life->session, &error), HYMBA_ERROR_DEVICE, error);
    }
    if (life->session && sound) {
        hymba_context *context = guarded_context(group_model, (hymba_context_params){0}, "cuda:3");
        hymba_session *single = relive(context, life->length - 4);
        compare_logits(life->session, single);
        hymba_session_release(single);
        hymba_context_release(context);
    }
    hymba_context_release(life->context);
    hymba_session_release(life->fork);
    hymba_session_release(life->session);
}

/* Lets each allocation or end of work on one device fail in turn. */
static void fail_each(long *number, const _Atomic long *count, hymba_status status, bool sound)
{
    long failures = 0;
    for (bool failed = true; failed; failures += STRIDE) {
        struct life life = {.length = 0};
        *number = *count + failures;
        hymba_status found = live(&life);
        failed = *count > *number;
        *number = -1;
        ck_assert_msg(found == (failed ? status : HYMBA_OK), "failure %ld: %s", failures,
                      failed ? error.message : "");
        if (failed && guarded->fails_on > 0 && life.context)
            ck_assert_msg(strstr(error.message, "cuda:") != NULL, "%s", error.message);
        end_life(&life, sound || !failed);
    }
    ck_assert_int_gt(failures, 8);
}

/* _i: device, and what fails on it. */
START_TEST(what_fails_on_one_device_has_changed_nothing_on_any)
{
    guarded->fails_on = _i / 4;
    switch (_i % 4) {
    case 0:
        fail_each(&guarded->fail_allocation, &guarded->n_allocations, HYMBA_ERROR_MEMORY, true);
        break;
    case 1: /* a workspace that could not grow */
        guarded->finish_status = HYMBA_ERROR_MEMORY;
        fail_each(&guarded->fail_finish, &guarded->n_finishes, HYMBA_ERROR_MEMORY, true);
        break;
    case 2:
        fail_each(&guarded->fail_embedding, &guarded->n_embeddings, HYMBA_ERROR_MEMORY, true);
        break;
    default: /* a lost device: the others do not wait for it */
        fail_each(&guarded->fail_finish, &guarded->n_finishes, HYMBA_ERROR_DEVICE, false);
        break;
    }
}
END_TEST

/* --------------------------------------------------------------- callbacks */

/* What the host is told, and when it says stop. */
struct listener {
    pthread_t thread;
    int32_t stop_phase; /* 0: never */
    uint64_t stop_at;
    long n_lines, n_strange; /* lines of the log; calls from other threads */
};

static void hear(void *user, int32_t level, const char *message, size_t length)
{
    struct listener *listener = user;
    (void)level;
    (void)message;
    (void)length;
    listener->n_lines++;
    listener->n_strange += !pthread_equal(listener->thread, pthread_self());
}

static int32_t follow(void *user, int32_t phase, uint64_t done, uint64_t total)
{
    struct listener *listener = user;
    (void)total;
    listener->n_strange += !pthread_equal(listener->thread, pthread_self());
    return phase == listener->stop_phase && done >= listener->stop_at;
}

static int32_t cancel(void *context, const int32_t *tokens, float *logits, size_t n)
{
    (void)tokens;
    (void)logits;
    (void)n;
    hymba_context_cancel(context);
    return 0;
}

START_TEST(a_cancelled_call_has_changed_nothing)
{
    struct listener listener = {.thread = pthread_self()};
    hymba_host host = {.struct_size = sizeof host, .user = &listener, .log = hear,
                       .progress = follow};
    hymba_context_params params = {.struct_size = sizeof params, .max_step_tokens = 16,
                                   .host = &host};
    hymba_context *context = group_context("cuda:0,1", params);
    hymba_session *session;
    int32_t token = -1;
    hymba_sampler_params stages = {.struct_size = sizeof stages, .process = cancel,
                                   .process_user = context};
    hymba_sampler *sampler;
    listener.stop_phase = HYMBA_PHASE_META;
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_ERROR_CANCELLED,
                error);
    listener.stop_phase = HYMBA_PHASE_PREFILL;
    listener.stop_at = 32;
    session = group_session(context, (hymba_session_params){0});
    test_status(hymba_session_append(session, prompt, 50, HYMBA_LOGITS_LAST, &error),
                HYMBA_ERROR_CANCELLED, error);
    group_compare_peers(session);
    ck_assert_uint_eq(hymba_session_length(session), 0);
    test_status(hymba_sampler_create(&stages, NULL, &sampler, &error), HYMBA_OK, error);
    hymba_batch_item item = {session, prompt, 5, HYMBA_LOGITS_NONE, 0, sampler, &token};
    test_status(hymba_context_decode(context, &item, sizeof item, 1, &error),
                HYMBA_ERROR_CANCELLED, error);
    group_compare_peers(session);
    ck_assert_int_eq(token, -1);
    listener.stop_phase = 0;
    struct life life = {.context = context, .session = session};
    end_life(&life, true);
    hymba_sampler_release(sampler);
    ck_assert_int_gt(listener.n_lines, 0);
    ck_assert_int_eq(listener.n_strange, 0);
}
END_TEST

/* What the host is told of weights on their way to a device, where tensors begin at multiples. */
struct loading {
    uint64_t begin_of_next, total;
    long n_late;
};
enum { DEVICE_ALIGNMENT = 256 };

static int32_t follow_loading(void *user, int32_t phase, uint64_t done, uint64_t total)
{
    struct loading *loading = user;
    if (phase != HYMBA_PHASE_LOAD)
        return 0;
    uint64_t next = hy_round_up(done, DEVICE_ALIGNMENT);
    if (total == loading->total) /* otherwise the next device's begin, whose part is another */
        loading->n_late += next <= loading->begin_of_next;
    loading->begin_of_next = next;
    loading->total = total;
    return 0;
}

/* _i: whether a rank's parts are rounded on their way. */
START_TEST(loading_tells_what_lies_there)
{
    struct loading loading = {.n_late = 0};
    hymba_host host = {.struct_size = sizeof host, .user = &loading, .progress = follow_loading};
    hymba_context_params params = {
        .host = &host, .compute = _i ? HYMBA_COMPUTE_INT8 : HYMBA_COMPUTE_F32};
    hymba_context *context = group_context("cuda:0,1", params);
    ck_assert_int_eq(loading.n_late, 0);
    ck_assert_uint_gt(loading.total, 0);
    ck_assert_uint_le(loading.total - loading.begin_of_next, 2 * DEVICE_ALIGNMENT);
    hymba_context_release(context);
}
END_TEST

/* -------------------------------------------------------------- beginning, end */

static int count_rank_threads(void)
{
    DIR *folder = opendir("/proc/self/task");
    int n = 0;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        char path[300], name[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = fopen(path, "r");
        if (file && fgets(name, sizeof name, file))
            n += strcmp(name, "hymba rank\n") == 0;
        if (file)
            fclose(file);
    }
    closedir(folder);
    return n;
}

START_TEST(a_group_has_a_thread_for_each_other_device)
{
    hymba_context *context = group_context("cuda:0,1,2", (hymba_context_params){0});
    ck_assert_int_eq(count_rank_threads(), 2);
    ck_assert_uint_eq(hy_group_size(context), 3);
    hymba_session *session = group_session(context, (hymba_session_params){0});
    hymba_context_release(context);
    hymba_session *fork;
    test_status(hymba_session_fork(session, &fork, NULL, &error), HYMBA_OK, error);
    hymba_session_release(session);
    test_status(hymba_session_append(fork, prompt, 9, HYMBA_LOGITS_LAST, &error), HYMBA_OK, error);
    ck_assert_int_eq(count_rank_threads(), 2);
    hymba_session_release(fork);
    ck_assert_int_eq(count_rank_threads(), 0);
    ck_assert_int_eq(guarded->n_open, 0);
}
END_TEST

static const hymba_ranks known = {.struct_size = sizeof known, .rank = 1, .world_size = 2};

static const struct refused {
    const char *device;
    const hymba_ranks *ranks;
    hymba_status status;
    const char *sentence;
} refused[] = {
    {"cuda:0,", NULL, HYMBA_ERROR_DEVICE, "\"\" is no number"},
    {"cuda:,1", NULL, HYMBA_ERROR_DEVICE, "\"\" is no number"},
    {"cuda:0,x1", NULL, HYMBA_ERROR_DEVICE, "\"x1\" is no number"},
    {"cuda:0,1 ", NULL, HYMBA_ERROR_DEVICE, "\"1 \" is no number"},
    {"cuda:0,-1", NULL, HYMBA_ERROR_DEVICE, "\"-1\" is no number"},
    {"cuda:0,256", NULL, HYMBA_ERROR_DEVICE, "\"256\" is no number from 0 to 255"},
    {"cuda:3,1,3", NULL, HYMBA_ERROR_DEVICE, "names device 3 twice"},
    {"cuda:0,4", NULL, HYMBA_ERROR_DEVICE, "guarded device 4"},
    {"cpu,cuda:0", NULL, HYMBA_ERROR_DEVICE, "expected"},
    {"cuda:0,1", &known, HYMBA_ERROR_ARGUMENT, "timeout_ms"},
    {"cuda:0,1,2,3", NULL, HYMBA_ERROR_ARGUMENT, "4"}, /* there are three key heads */
};

START_TEST(lists_of_devices_that_cannot_be_are_refused)
{
    const struct refused *wrong = &refused[_i];
    hymba_context_params params = {
        .struct_size = sizeof params, .device = wrong->device, .ranks = wrong->ranks};
    hymba_context *context;
    test_status(hymba_context_create(group_model, &params, &context, &error), wrong->status, error);
    ck_assert_ptr_null(context);
    ck_assert_msg(strstr(error.message, wrong->sentence) != NULL, "%s", error.message);
}
END_TEST

START_TEST(at_most_64_devices_make_a_group)
{
    char device[400] = "cuda:0";
    struct hy_device_list list;
    for (int i = 1; i < HY_MAX_DEVICES; i++)
        sprintf(device + strlen(device), ",%d", i);
    test_status(hy_device_parse_list(device, &list, &error), HYMBA_OK, error);
    ck_assert_uint_eq(list.n, 64);
    ck_assert_int_eq(list.indices[63], 63);
    strcat(device, ",64");
    test_status(hy_device_parse_list(device, &list, &error), HYMBA_ERROR_DEVICE, error);
}
END_TEST

START_TEST(memory_is_told_of_the_first_device)
{
    hymba_context_params params = {.struct_size = sizeof params};
    hymba_memory_info infos[2];
    static const char *const devices[2] = {"cuda:0", "cuda:0,1,2"};
    for (int i = 0; i < 2; i++) {
        params.device = devices[i];
        infos[i] = (hymba_memory_info){.struct_size = sizeof infos[i], .n_tokens = 90};
        test_status(hymba_model_get_memory_info(group_model, &params, &infos[i], &error),
                    HYMBA_OK, error);
    }
    ck_assert_uint_eq(infos[0].kv_bytes, 3 * infos[1].kv_bytes);
    ck_assert_uint_eq(infos[0].ssm_bytes, 3 * infos[1].ssm_bytes);
    ck_assert_uint_lt(infos[1].weight_bytes, infos[0].weight_bytes);
    params.device = "cuda:0,0";
    test_status(hymba_model_get_memory_info(group_model, &params, &infos[0], &error),
                HYMBA_ERROR_DEVICE, error);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("group");
    TCase *sessions = tcase_create("sessions");
    tcase_add_checked_fixture(sessions, setup, group_end);
    tcase_set_timeout(sessions, 240);
    tcase_add_loop_test(sessions, sessions_are_those_of_one_device, 0, N_VARIANTS);
    tcase_add_test(sessions, ranks_have_the_same_snapshots_within_a_budget);
    tcase_add_test(sessions, texts_and_scores_are_those_of_one_device);
    tcase_add_test(sessions, kernels_are_measured_on_all_devices);
    tcase_add_loop_test(sessions, long_prompts_are_summed_in_blocks, 0,
                        test_looks_for_races() ? 1 : 4);
    tcase_add_test(sessions, scheduled_requests_give_what_they_give_alone);
    tcase_add_test(sessions, a_request_without_memory_on_one_device_fails_alone);
    suite_add_tcase(suite, sessions);
    TCase *failures = tcase_create("failures");
    tcase_add_checked_fixture(failures, setup, group_end);
    tcase_set_timeout(failures, 240);
    tcase_add_loop_test(failures, what_fails_on_one_device_has_changed_nothing_on_any, 0, 8);
    tcase_add_test(failures, a_cancelled_call_has_changed_nothing);
    suite_add_tcase(suite, failures);
    TCase *lifetimes = tcase_create("beginning and end");
    tcase_add_checked_fixture(lifetimes, setup, group_end);
    tcase_add_test(lifetimes, a_group_has_a_thread_for_each_other_device);
    tcase_add_loop_test(lifetimes, lists_of_devices_that_cannot_be_are_refused, 0,
                        (int)(sizeof refused / sizeof refused[0]));
    tcase_add_test(lifetimes, at_most_64_devices_make_a_group);
    tcase_add_test(lifetimes, memory_is_told_of_the_first_device);
    tcase_add_loop_test(lifetimes, loading_tells_what_lies_there, 0, 2);
    suite_add_tcase(suite, lifetimes);
    return test_main(suite);
}
