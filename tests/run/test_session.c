/* What sessions do besides going forward: forks, snapshots, going back, sliding, saving. The
 * random histories are in test_oracle.c; here stands what each call promises by name. */
#include "golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static hymba_error error = {.struct_size = sizeof error};
static struct golden golden;
static size_t vocabulary;
static int32_t tokens[700];

static void set_up(void)
{
    golden_open(&golden, "goldens/f_official_like");
    vocabulary = golden.model->plan.config.vocabulary_size;
    test_random_seed(99);
    for (size_t i = 0; i < 700; i++)
        tokens[i] = (int32_t)test_random_below(vocabulary);
}

static void tear_down(void)
{
    golden_close(&golden);
}

static hymba_context *make_context(hymba_model *model, uint32_t rewind_tokens)
{
    hymba_context_params params = {
        .struct_size = sizeof params, .n_threads = 1, .rewind_tokens = rewind_tokens};
    hymba_context *context;
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

static hymba_session *make_session(hymba_context *context, hymba_session_params params)
{
    hymba_session *session;
    params.struct_size = sizeof params;
    test_status(hymba_session_create(context, &params, &session, &error), HYMBA_OK, error);
    return session;
}

static void append(hymba_session *session, size_t from, size_t n)
{
    test_status(hymba_session_append(session, tokens + from, n, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
}

static const float *logits_of(const hymba_session *session)
{
    const float *logits;
    size_t rows;
    test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
    return logits + (rows - 1) * vocabulary;
}

static void check_equal(const hymba_session *a, const hymba_session *b)
{
    ck_assert_mem_eq(logits_of(a), logits_of(b), vocabulary * sizeof(float));
}

START_TEST(a_fork_shares_blocks_until_both_write)
{
    hymba_context *context = make_context(golden.model, 0);
    hymba_session *session = make_session(context, (hymba_session_params){0}), *fork;
    hymba_session *expected = make_session(context, (hymba_session_params){0});
    hymba_reuse_info info = {.struct_size = sizeof info};
    hymba_session_info session_info = {.struct_size = sizeof session_info};
    append(session, 0, 300); /* one whole block and a part of the next */
    test_status(hymba_session_fork(session, &fork, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.reused_tokens, 300);
    ck_assert_uint_eq(info.computed_tokens, 0);
    ck_assert_uint_gt(info.shared_bytes, 0);
    check_equal(session, fork);
    test_status(hymba_session_get_info(fork, &session_info, &error), HYMBA_OK, error);
    uint64_t shared = session_info.shared_bytes;
    append(session, 300, 5); /* goes on in place: nobody wrote there */
    append(fork, 400, 5);    /* now the fork needs a block of its own */
    test_status(hymba_session_get_info(fork, &session_info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(session_info.shared_bytes, shared / 2);
    append(session, 305, 10);
    append(expected, 0, 315);
    check_equal(session, expected);
    test_status(hymba_session_reset(expected, &error), HYMBA_OK, error);
    append(expected, 0, 300);
    append(expected, 400, 5);
    check_equal(fork, expected);
    hymba_session_release(session); /* the fork does not need it any more */
    append(fork, 405, 3);
    append(expected, 405, 3);
    check_equal(fork, expected);
    hymba_session_release(fork);
    hymba_session_release(expected);
    hymba_context_release(context);
}
END_TEST

START_TEST(rewinding_is_exact_or_refused_by_name)
{
    hymba_context *context = make_context(golden.model, 0);
    hymba_session *session = make_session(context, (hymba_session_params){0});
    hymba_session *expected = make_session(context, (hymba_session_params){0});
    hymba_reuse_info info = {.struct_size = sizeof info};
    hymba_snapshot_info snapshot = {.struct_size = sizeof snapshot};
    append(session, 0, 40);
    test_status(hymba_session_snapshot(session, "turn 1", &info, &error), HYMBA_OK, error);
    ck_assert_uint_gt(info.copied_bytes, 0);
    append(session, 40, 30);
    append(expected, 0, 70);
    /* no state was kept at 60: refused, with the nearest one named, and nothing has changed */
    test_status(hymba_session_rewind(session, 60, HYMBA_REWIND_KEPT, &info, &error),
                HYMBA_ERROR_STATE, error);
    ck_assert_ptr_nonnull(strstr(error.message, "60"));
    ck_assert_ptr_nonnull(strstr(error.message, "40"));
    ck_assert_uint_eq(hymba_session_length(session), 70);
    check_equal(session, expected);
    test_status(hymba_session_rewind(session, 71, HYMBA_REWIND_COMPUTE, &info, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_session_rewind(session, 60, 7, &info, &error), HYMBA_ERROR_ARGUMENT, error);
    /* computed from the snapshot */
    test_status(hymba_session_rewind(session, 60, HYMBA_REWIND_COMPUTE, &info, &error), HYMBA_OK,
                error);
    ck_assert_uint_eq(info.reused_tokens, 40);
    ck_assert_uint_eq(info.computed_tokens, 20);
    test_status(hymba_session_reset(expected, &error), HYMBA_OK, error);
    append(expected, 0, 60);
    check_equal(session, expected);
    /* straight to the snapshot, whose logits come back */
    test_status(hymba_session_find_snapshot(session, "turn 1", &snapshot, &error), HYMBA_OK,
                error);
    ck_assert_uint_eq(snapshot.length, 40);
    ck_assert_int_eq(snapshot.has_logits, 1);
    test_status(hymba_session_rewind(session, snapshot.length, HYMBA_REWIND_KEPT, &info, &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(info.computed_tokens, 0);
    test_status(hymba_session_reset(expected, &error), HYMBA_OK, error);
    append(expected, 0, 40);
    check_equal(session, expected);
    /* the beginning is always kept */
    test_status(hymba_session_rewind(session, 0, HYMBA_REWIND_KEPT, NULL, &error), HYMBA_OK,
                error);
    ck_assert_uint_eq(hymba_session_length(session), 0);
    ck_assert_uint_eq(hymba_session_snapshot_count(session), 0);
    test_status(hymba_session_find_snapshot(session, "turn 1", &snapshot, &error),
                HYMBA_ERROR_STATE, error);
    hymba_session_release(session);
    hymba_session_release(expected);
    hymba_context_release(context);
}
END_TEST

START_TEST(the_last_tokens_can_be_taken_back)
{
    enum { K = 4 };
    hymba_context *context = make_context(golden.model, K);
    hymba_session *session = make_session(context, (hymba_session_params){0});
    hymba_session *expected = make_session(context, (hymba_session_params){0});
    hymba_session_info info = {.struct_size = sizeof info};
    append(session, 0, 50);
    append(session, 50, 1);
    append(session, 51, 2);
    test_status(hymba_session_get_info(session, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.rewind_length, 53 - K);
    ck_assert(info.capabilities & HYMBA_CAN_REWIND_STEPS);
    ck_assert(!(info.capabilities & HYMBA_CAN_REMOVE_TOKENS));
    test_status(hymba_session_rewind(session, 53 - K - 1, HYMBA_REWIND_KEPT, NULL, &error),
                HYMBA_ERROR_STATE, error);
    test_status(hymba_session_rewind(session, 53 - K, HYMBA_REWIND_KEPT, NULL, &error), HYMBA_OK,
                error);
    append(session, 200, 7);
    append(expected, 0, 53 - K);
    append(expected, 200, 7);
    check_equal(session, expected);
    /* the states behind the point of return are gone, those after it are new */
    test_status(hymba_session_rewind(session, 53 - K + 3, HYMBA_REWIND_KEPT, NULL, &error),
                HYMBA_OK, error);
    append(session, 300, 2);
    test_status(hymba_session_rewind(expected, 53 - K + 3, HYMBA_REWIND_COMPUTE, NULL, &error),
                HYMBA_OK, error);
    append(expected, 300, 2);
    check_equal(session, expected);
    hymba_session_release(session);
    hymba_session_release(expected);
    hymba_context_release(context);
}
END_TEST

START_TEST(snapshots_come_by_themselves_and_keep_to_their_budget)
{
    hymba_context *context = make_context(golden.model, 0);
    hymba_session *session =
        make_session(context, (hymba_session_params){.snapshot_interval = 32});
    hymba_snapshot_info info = {.struct_size = sizeof info};
    append(session, 0, 100); /* one call: snapshots on the way */
    append(session, 100, 28);
    ck_assert_uint_eq(hymba_session_snapshot_count(session), 4);
    for (size_t i = 0; i < 4; i++) {
        test_status(hymba_session_get_snapshot(session, i, &info, &error), HYMBA_OK, error);
        ck_assert_uint_eq(info.length, 32 * (i + 1));
        ck_assert_int_eq(info.automatic, 1);
        ck_assert_str_eq(info.name, "");
    }
    uint64_t bytes = info.bytes;
    test_status(hymba_session_get_snapshot(session, 4, &info, &error), HYMBA_ERROR_ARGUMENT,
                error);
    hymba_session_release(session);

    session = make_session(context, (hymba_session_params){.snapshot_interval = 32,
                                                           .snapshot_budget = 3 * bytes});
    append(session, 0, 40);
    test_status(hymba_session_snapshot(session, "mine", NULL, &error), HYMBA_OK, error);
    append(session, 40, 200);
    hymba_session_info whole = {.struct_size = sizeof whole};
    test_status(hymba_session_get_info(session, &whole, &error), HYMBA_OK, error);
    ck_assert_uint_le(whole.snapshot_bytes, 3 * bytes);
    test_status(hymba_session_find_snapshot(session, "mine", &info, &error), HYMBA_OK, error);
    ck_assert_int_eq(info.automatic, 0);
    /* those taken by call are never dropped for others */
    test_status(hymba_session_snapshot(session, "second", NULL, &error), HYMBA_OK, error);
    append(session, 240, 1);
    test_status(hymba_session_snapshot(session, "third", NULL, &error), HYMBA_ERROR_LIMIT, error);
    test_status(hymba_session_drop_snapshot(session, 40, &error), HYMBA_OK, error);
    test_status(hymba_session_drop_snapshot(session, 40, &error), HYMBA_ERROR_STATE, error);
    test_status(hymba_session_snapshot(session, "third", NULL, &error), HYMBA_OK, error);
    char long_name[65];
    memset(long_name, 'n', 64);
    long_name[64] = '\0';
    test_status(hymba_session_snapshot(session, long_name, NULL, &error), HYMBA_ERROR_ARGUMENT,
                error);
    hymba_session_release(session);
    hymba_context_release(context);
}
END_TEST

/* A failed call changes nothing: no snapshot makes room for one that does not fit even then. */
START_TEST(a_snapshot_beyond_the_budget_drops_no_other)
{
    hymba_context *context = make_context(golden.model, 0);
    hymba_session *session =
        make_session(context, (hymba_session_params){.snapshot_interval = 32});
    hymba_snapshot_info info = {.struct_size = sizeof info};
    append(session, 0, 32);
    test_status(hymba_session_get_snapshot(session, 0, &info, &error), HYMBA_OK, error);
    hymba_session_release(session);
    session = make_session(context, (hymba_session_params){.snapshot_interval = 32,
                                                           .snapshot_budget = info.bytes});
    append(session, 0, 40);
    ck_assert_uint_eq(hymba_session_snapshot_count(session), 1);
    /* larger by the logits */
    test_status(hymba_session_snapshot(session, "mine", NULL, &error), HYMBA_ERROR_LIMIT, error);
    ck_assert_uint_eq(hymba_session_snapshot_count(session), 1);
    hymba_session_release(session);
    hymba_context_release(context);
}
END_TEST

/* Takes a field out of a JSON text: from its key to the end of its value and the comma. */
static void remove_field(char *json, const char *key, const char *value_end)
{
    char *begin = strstr(json, key);
    ck_assert_ptr_nonnull(begin);
    char *end = strstr(begin, value_end) + strlen(value_end);
    memmove(begin, end, strlen(end) + 1);
}

/* The same model with every layer under a window of `window` tokens, by its configuration. The
 * weights, used in place, come from malloc. */
static hymba_model *with_window(const char *name, int window)
{
    char path[256], edited[8192];
    size_t size, weights_size;
    hymba_model *model;
    snprintf(path, sizeof path, "%s/config.json", name);
    char *config = test_read_file(test_data(path), &size);
    snprintf(path, sizeof path, "%s/model.safetensors", name);
    char *weights = test_read_file(test_data(path), &weights_size);
    remove_field(config, "\"sliding_window\"", ",");
    remove_field(config, "\"global_attn_idx\"", "],");
    snprintf(edited, sizeof edited, "{\"sliding_window\": %d, \"global_attn_idx\": [],%s", window,
             strchr(config, '{') + 1);
    hymba_memory_file files[] = {{"config.json", edited, strlen(edited)},
                                 {"model.safetensors", weights, weights_size}};
    test_status(hymba_model_open_memory(files, sizeof files[0], 2, NULL, &model, &error), HYMBA_OK,
                error);
    free(config);
    return model;
}

START_TEST(a_sliding_session_equals_a_windowed_model)
{
    enum { MAX = 21 };
    hymba_model *full;
    test_status(hymba_model_open(test_data("goldens/d_all_full"), NULL, &full, &error), HYMBA_OK,
                error);
    hymba_model *windowed = with_window("goldens/d_all_full", MAX - 1);
    hymba_context *context = make_context(full, 0), *reference = make_context(windowed, 0);
    hymba_session *session = make_session(
        context,
        (hymba_session_params){.max_tokens = MAX, .limit_policy = HYMBA_LIMIT_SLIDE});
    hymba_session *expected = make_session(reference, (hymba_session_params){0});
    vocabulary = full->plan.config.vocabulary_size;
    for (size_t i = 0; i < 700; i++)
        tokens[i] %= (int32_t)vocabulary;
    for (size_t done = 0; done < 690;) {
        size_t n = 1 + test_random_below(30);
        n = done + n > 690 ? 690 - done : n;
        append(session, done, n);
        append(expected, done, n);
        check_equal(session, expected);
        done += n;
    }
    hymba_session_info info = {.struct_size = sizeof info};
    test_status(hymba_session_get_info(session, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.length, 690);
    ck_assert_uint_eq(info.first_visible, 690 - MAX);
    ck_assert_uint_le(session->state.n_blocks, 2); /* the rest was given back */
    /* a saved one goes on sliding, and is refused where it could not */
    char path[256];
    hymba_session *loaded;
    hymba_session_params other = {.struct_size = sizeof other};
    snprintf(path, sizeof path, "%s/sliding", test_directory());
    test_status(hymba_session_save(session, NULL, path, NULL, &error), HYMBA_OK, error);
    test_status(hymba_session_load(context, path, &other, &loaded, NULL, NULL, &error),
                HYMBA_ERROR_STATE, error);
    test_status(hymba_session_load(context, path, NULL, &loaded, NULL, NULL, &error), HYMBA_OK,
                error);
    append(loaded, 0, 9);
    append(expected, 0, 9);
    check_equal(loaded, expected);
    /* keys that were dropped cannot come back: computed again, or refused */
    test_status(hymba_session_rewind(loaded, 100, HYMBA_REWIND_KEPT, NULL, &error),
                HYMBA_ERROR_STATE, error);
    test_status(hymba_session_rewind(loaded, 100, HYMBA_REWIND_COMPUTE, NULL, &error), HYMBA_OK,
                error);
    test_status(hymba_session_reset(expected, &error), HYMBA_OK, error);
    append(expected, 0, 100);
    check_equal(loaded, expected);
    hymba_session_release(loaded);
    hymba_session_release(session);
    hymba_session_release(expected);
    hymba_context_release(context);
    hymba_context_release(reference);
    const void *weights = windowed->weights.files[0].data;
    hymba_model_release(windowed);
    free((void *)(uintptr_t)weights);
    hymba_model_release(full);
}
END_TEST

START_TEST(a_saved_session_is_for_its_model_and_types)
{
    char path[256], missing[256];
    hymba_session *loaded = (hymba_session *)1;
    hymba_context_params params = {.struct_size = sizeof params, .cache_type = HYMBA_DTYPE_F16};
    hymba_context *context = make_context(golden.model, 0), *other;
    hymba_session *session = make_session(context, (hymba_session_params){0});
    hymba_session_params small = {.struct_size = sizeof small, .max_tokens = 10};
    append(session, 0, 50);
    snprintf(path, sizeof path, "%s/saved", test_directory());
    snprintf(missing, sizeof missing, "%s/nowhere/saved", test_directory());
    test_status(hymba_session_save(session, NULL, missing, NULL, &error), HYMBA_ERROR_FILE, error);
    test_status(hymba_session_save(session, NULL, path, NULL, &error), HYMBA_OK, error);
    test_status(hymba_session_load(context, missing, NULL, &loaded, NULL, NULL, &error),
                HYMBA_ERROR_FILE, error);
    ck_assert_ptr_null(loaded);
    test_status(hymba_session_load(context, path, &small, &loaded, NULL, NULL, &error),
                HYMBA_ERROR_LIMIT, error);
    test_status(hymba_context_create(golden.model, &params, &other, &error), HYMBA_OK, error);
    test_status(hymba_session_load(other, path, NULL, &loaded, NULL, NULL, &error),
                HYMBA_ERROR_STATE, error);
    ck_assert_ptr_nonnull(strstr(error.message, "cache_type"));
    hymba_context_release(other);
    hymba_model *stranger;
    test_status(hymba_model_open(test_data("goldens/b_no_meta"), NULL, &stranger, &error),
                HYMBA_OK, error);
    other = make_context(stranger, 0);
    test_status(hymba_session_load(other, path, NULL, &loaded, NULL, NULL, &error),
                HYMBA_ERROR_STATE, error);
    ck_assert_ptr_nonnull(strstr(error.message, "model"));
    hymba_context_release(other);
    hymba_model_release(stranger);
    other = make_context(golden.model, 3);
    test_status(hymba_session_load(other, path, NULL, &loaded, NULL, NULL, &error),
                HYMBA_ERROR_STATE, error);
    ck_assert_ptr_nonnull(strstr(error.message, "rewind_tokens"));
    hymba_context_release(other);
    /* into a context that has not run the meta tokens: it brings their state along */
    other = make_context(golden.model, 0);
    hymba_reuse_info info = {.struct_size = sizeof info};
    test_status(hymba_session_load(other, path, NULL, &loaded, NULL, &info, &error), HYMBA_OK,
                error);
    ck_assert(!other->meta_ready);
    ck_assert_uint_eq(info.reused_tokens, 50);
    ck_assert_uint_eq(info.computed_tokens, 0);
    check_equal(loaded, session);
    append(loaded, 50, 9);
    append(session, 50, 9);
    check_equal(loaded, session);
    hymba_session_release(loaded);
    hymba_context_release(other);
    hymba_session_release(session);
    hymba_context_release(context);
}
END_TEST

/* Caches whose rows have scales; _i: which. */
static const hymba_dtype scaled_types[] = {HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8};

/* Saved, loaded, gone on with and gone back in: meta tokens, blocks, rings and a fork of them. */
START_TEST(sessions_of_caches_with_scales_are_saved_to_the_bit)
{
    char path[256];
    hymba_session *loaded, *fork;
    hymba_context_params params = {.struct_size = sizeof params,
                                   .cache_type = scaled_types[_i]};
    hymba_reuse_info info = {.struct_size = sizeof info};
    hymba_context *context, *other, *f32 = make_context(golden.model, 0);
    test_status(hymba_context_create(golden.model, &params, &context, &error), HYMBA_OK, error);
    test_status(hymba_context_create(golden.model, &params, &other, &error), HYMBA_OK, error);
    hymba_session *session = make_session(context, (hymba_session_params){0});
    hymba_session *whole = make_session(context, (hymba_session_params){0});
    append(session, 0, 300);
    snprintf(path, sizeof path, "%s/saved", test_directory());
    test_status(hymba_session_save(session, NULL, path, NULL, &error), HYMBA_OK, error);
    test_status(hymba_session_load(f32, path, NULL, &loaded, NULL, NULL, &error),
                HYMBA_ERROR_STATE, error);
    ck_assert_ptr_nonnull(strstr(error.message, "cache_type"));
    test_status(hymba_session_load(other, path, NULL, &loaded, NULL, &info, &error), HYMBA_OK,
                error);
    ck_assert_uint_eq(info.reused_tokens, 300);
    ck_assert_uint_eq(info.computed_tokens, 0);
    check_equal(loaded, session);
    test_status(hymba_session_fork(loaded, &fork, NULL, &error), HYMBA_OK, error);
    append(whole, 0, 330);
    append(loaded, 300, 30);
    append(fork, 300, 30);
    append(session, 300, 30);
    check_equal(session, whole);
    check_equal(loaded, whole);
    check_equal(fork, whole);
    test_status(hymba_session_rewind(fork, 315, HYMBA_REWIND_COMPUTE, NULL, &error), HYMBA_OK,
                error);
    append(fork, 315, 15);
    check_equal(fork, whole);
    hymba_session_release(fork);
    hymba_session_release(loaded);
    hymba_session_release(session);
    hymba_session_release(whole);
    hymba_context_release(context);
    hymba_context_release(other);
    hymba_context_release(f32);
}
END_TEST

static int32_t collect(void *user, const void *data, size_t size)
{
    char **place = user;
    memcpy(*place, data, size);
    *place += size;
    return 0;
}

static int32_t refuse(void *user, const void *data, size_t size)
{
    int *left = user;
    (void)data;
    (void)size;
    return --*left < 0;
}

/* int8 elements are off by half a 127th of a head's greatest at most, fp8 ones by a 16th of
 * themselves; logits of unlike tokens differ by many times what that makes of them. */
START_TEST(caches_with_scales_change_little)
{
    static const double most[] = {0.05, 0.1};
    hymba_context_params params = {.struct_size = sizeof params,
                                   .cache_type = scaled_types[_i]};
    hymba_context *context, *f32 = make_context(golden.model, 0);
    test_status(hymba_context_create(golden.model, &params, &context, &error), HYMBA_OK, error);
    hymba_session *rounded = make_session(context, (hymba_session_params){0});
    hymba_session *exact = make_session(f32, (hymba_session_params){0});
    for (size_t done = 0; done < 600; done += 100) {
        double difference = 0.0, spread = 0.0;
        append(rounded, done, 100);
        append(exact, done, 100);
        const float *a = logits_of(rounded), *b = logits_of(exact);
        for (size_t i = 0; i < vocabulary; i++) {
            difference += fabs((double)a[i] - (double)b[i]);
            spread += fabs((double)b[i] - (double)b[0]);
        }
        ck_assert_double_gt(difference, 0.0);
        ck_assert_double_lt(difference, most[_i] * spread);
    }
    hymba_session_release(rounded);
    hymba_session_release(exact);
    hymba_context_release(context);
    hymba_context_release(f32);
}
END_TEST

START_TEST(a_sampler_is_saved_with_its_session)
{
    hymba_context *context = make_context(golden.model, 0);
    hymba_session *session = make_session(context, (hymba_session_params){0}), *loaded;
    hymba_sampler_params params = {.struct_size = sizeof params,
                                   .temperature = 1.0f,
                                   .seed = 5,
                                   .repeat_penalty = 1.3f,
                                   .repeat_last_n = 20};
    hymba_sampler *sampler, *restored;
    int32_t a, b;
    char *buffer = malloc(16 << 20), *end = buffer;
    test_status(hymba_sampler_create(&params, NULL, &sampler, &error), HYMBA_OK, error);
    append(session, 0, 30);
    for (int i = 0; i < 33; i++)
        test_status(hymba_sampler_sample(sampler, logits_of(session), vocabulary, &a, &error),
                    HYMBA_OK, error);
    test_status(hymba_session_save_to(session, sampler, collect, &end, NULL, &error), HYMBA_OK,
                error);
    test_status(hymba_session_load_memory(context, buffer, (size_t)(end - buffer), NULL, &loaded,
                                          &restored, NULL, &error),
                HYMBA_OK, error);
    ck_assert_ptr_nonnull(restored);
    for (int i = 0; i < 50; i++) {
        test_status(hymba_sampler_sample(sampler, logits_of(session), vocabulary, &a, &error),
                    HYMBA_OK, error);
        test_status(hymba_sampler_sample(restored, logits_of(loaded), vocabulary, &b, &error),
                    HYMBA_OK, error);
        ck_assert_int_eq(a, b);
    }
    for (int n = 0; n < 8; n++) {
        int left = n;
        test_status(hymba_session_save_to(session, sampler, refuse, &left, NULL, &error),
                    HYMBA_ERROR_FILE, error);
    }
    free(buffer);
    hymba_sampler_release(sampler);
    hymba_sampler_release(restored);
    hymba_session_release(session);
    hymba_session_release(loaded);
    hymba_context_release(context);
}
END_TEST

START_TEST(a_session_s_memory_limit_is_kept)
{
    hymba_context *context = make_context(golden.model, 0);
    hymba_session_params params = {.struct_size = sizeof params};
    hymba_session_info info = {.struct_size = sizeof info};
    hymba_session *session = make_session(context, params), *none;
    append(session, 0, 10);
    test_status(hymba_session_get_info(session, &info, &error), HYMBA_OK, error);
    hymba_session_release(session);
    params.memory_limit = 4096; /* not even the recurrent states */
    hymba_status status = hymba_session_create(context, &params, &none, &error);
    ck_assert(status == HYMBA_ERROR_MEMORY || status == HYMBA_ERROR_LIMIT);
    params.memory_limit = info.memory_bytes + 100;
    session = make_session(context, params);
    append(session, 0, 10);
    status = hymba_session_append(session, tokens, 300, HYMBA_LOGITS_NONE, &error);
    ck_assert(status == HYMBA_ERROR_MEMORY || status == HYMBA_ERROR_LIMIT);
    ck_assert_uint_eq(hymba_session_length(session), 10);
    append(session, 10, 1);
    hymba_session_release(session);
    hymba_context_release(context);
}
END_TEST

START_TEST(limit_policies)
{
    hymba_context *context = make_context(golden.model, 0);
    hymba_session *none;
    hymba_session_params bad = {.struct_size = sizeof bad, .limit_policy = 9};
    test_status(hymba_session_create(context, &bad, &none, &error), HYMBA_ERROR_ARGUMENT, error);
    for (int32_t policy = HYMBA_LIMIT_STOP; policy <= HYMBA_LIMIT_SLIDE; policy++) {
        hymba_session *session = make_session(
            context, (hymba_session_params){.max_tokens = 12, .limit_policy = policy});
        hymba_sampler *sampler;
        hymba_generation *generation;
        hymba_generation_params params = {
            .struct_size = sizeof params, .max_tokens = 20, .flags = HYMBA_GENERATION_IGNORE_EOS};
        hymba_event event = {.struct_size = sizeof event};
        hymba_status status;
        append(session, 0, 10);
        test_status(hymba_sampler_create(NULL, NULL, &sampler, &error), HYMBA_OK, error);
        test_status(hymba_generation_create(session, sampler, NULL, &params, &generation, &error),
                    HYMBA_OK, error);
        do
            status = hymba_generation_next(generation, &event, &error);
        while (status == HYMBA_OK && event.kind == HYMBA_EVENT_TOKEN);
        if (policy == HYMBA_LIMIT_ERROR) {
            test_status(status, HYMBA_ERROR_LIMIT, error);
        } else {
            test_status(status, HYMBA_OK, error);
            ck_assert_int_eq(event.stop,
                             policy == HYMBA_LIMIT_STOP ? HYMBA_STOP_LIMIT : HYMBA_STOP_LENGTH);
        }
        ck_assert_uint_eq(hymba_session_length(session), policy == HYMBA_LIMIT_SLIDE ? 30 : 12);
        hymba_generation_release(generation);
        hymba_sampler_release(sampler);
        hymba_session_release(session);
    }
    hymba_context_release(context);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("session");
    TCase *tests = tcase_create("session");
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_fork_shares_blocks_until_both_write);
    tcase_add_test(tests, rewinding_is_exact_or_refused_by_name);
    tcase_add_test(tests, the_last_tokens_can_be_taken_back);
    tcase_add_test(tests, snapshots_come_by_themselves_and_keep_to_their_budget);
    tcase_add_test(tests, a_snapshot_beyond_the_budget_drops_no_other);
    tcase_add_test(tests, a_sliding_session_equals_a_windowed_model);
    tcase_add_test(tests, a_saved_session_is_for_its_model_and_types);
    tcase_add_loop_test(tests, sessions_of_caches_with_scales_are_saved_to_the_bit, 0, 2);
    tcase_add_loop_test(tests, caches_with_scales_change_little, 0, 2);
    tcase_add_test(tests, a_sampler_is_saved_with_its_session);
    tcase_add_test(tests, a_session_s_memory_limit_is_kept);
    tcase_add_test(tests, limit_policies);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
