/*
 * Sessions of one context over several guarded devices, saved and loaded: the file is that of one
 * device, byte for byte, whatever it is loaded on, and sessions continue where they stood.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"
#include "group_sessions_test.h"
#include "host.h"
#include "run/saved_format.h"

/* No keys, and channels in granules of 64: three devices have 64, 128 and 128. */
static const char without_heads[] = FIRST_FIELDS
    "\"num_hidden_layers\":2,\"global_attn_idx\":[],\"layer_plan\":{\"mixer\":\"mamba\"}}";

/* No recurrent states. */
static const char without_channels[] = FIRST_FIELDS
    "\"num_hidden_layers\":3,\"global_attn_idx\":[1],\"layer_plan\":{\"mixer\":\"attention\"}}";

static void use_model(const char *config)
{
    static unsigned number;
    char path[300];
    snprintf(path, sizeof path, "%s/model-%u", test_directory(), number++);
    hymba_model_release(group_model);
    test_status(hymba_model_init(path, config, HYMBA_NUL_TERMINATED, NULL, &error), HYMBA_OK,
                error);
    test_status(hymba_model_open(path, NULL, &group_model, &error), HYMBA_OK, error);
}

static void compare_bits(hymba_session *found, hymba_session *expected)
{
    ck_assert_mem_eq(logits_of(found), logits_of(expected), VOCABULARY * sizeof(float));
}

static void compare_nearly(hymba_session *found, hymba_session *expected)
{
    const float *a = logits_of(found), *b = logits_of(expected);
    for (size_t i = 0; i < VOCABULARY; i++)
        ck_assert_msg(fabsf(a[i] - b[i]) < 2e-4f, "logit %zu: found %g, expected %g", i,
                      (double)a[i], (double)b[i]);
}

/* ------------------------------------------------------------- the same file */

static const struct variant {
    const char *device, *other; /* groups, or one device */
    const char *config;
    hymba_context_params params;
    hymba_session_params session;
} variants[] = {
    {"cuda:0,1", "cuda:2,0,1", mixed, {.rewind_tokens = 3}, {.snapshot_interval = 100}},
    {"cuda:2,0,1", "cpu", mixed,
     {.cache_type = HYMBA_DTYPE_F16, .state_type = HYMBA_DTYPE_BF16, .rewind_tokens = 8},
     {.snapshot_interval = 150}},
    {"cuda:1,0", "cuda:3", mixed,
     {.cache_type = HYMBA_DTYPE_BF16, .state_type = HYMBA_DTYPE_F16, .rewind_tokens = 5}, {0}},
    {"cuda:0,1,2,3", "cpu", mixed, {.cache_type = HYMBA_DTYPE_INT8, .rewind_tokens = 5},
     {.reserve_tokens = 500}},
    {"cuda:3,1", "cuda:1,3", mixed,
     {.cache_type = HYMBA_DTYPE_FP8, .state_type = HYMBA_DTYPE_F16, .rewind_tokens = 5}, {0}},
    {"cuda:0,1,2", "cpu", mixed, {.rewind_tokens = 60}, /* its history is more than a piece */
     {.max_tokens = 40, .limit_policy = HYMBA_LIMIT_SLIDE}},
    {"cuda:0,1,2", "cuda:1,0", without_heads, {.rewind_tokens = 5}, {.snapshot_interval = 100}},
    {"cuda:0,1,2", "cuda:3", without_channels,
     {.cache_type = HYMBA_DTYPE_INT8, .rewind_tokens = 4}, {0}},
};
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

/* Blocks that are shared, left and grown in; snapshots of both kinds; states to go back to. */
static hymba_session *live(hymba_context *context, const struct variant *variant)
{
    hymba_session *session = group_session(context, variant->session);
    append(session, 0, 270);
    test_status(hymba_session_snapshot(session, "mark", NULL, &error), HYMBA_OK, error);
    append(session, 270, 20);
    test_status(hymba_session_rewind(session, 270, HYMBA_REWIND_COMPUTE, NULL, &error), HYMBA_OK,
                error);
    append(session, 300, 15);
    test_status(hymba_session_snapshot(session, NULL, NULL, &error), HYMBA_OK, error);
    for (size_t i = 0; i < 6; i++)
        append(session, 400 + i, 1);
    if (variant->session.limit_policy == HYMBA_LIMIT_SLIDE)
        append(session, 410, 270);
    return session;
}

static hymba_sampler *new_sampler(void)
{
    hymba_sampler_params params = {.struct_size = sizeof params, .seed = 5, .repeat_penalty = 1.5f};
    hymba_sampler *sampler;
    test_status(hymba_sampler_create(&params, NULL, &sampler, &error), HYMBA_OK, error);
    test_status(hymba_sampler_accept(sampler, 3, &error), HYMBA_OK, error);
    return sampler;
}

/* Loaded there and saved again, with the meta tokens' state that it has. */
static void pass_through(const char *device, const struct variant *variant,
                         const struct fuzz_file *file)
{
    hymba_context *context = strchr(device, ',')
                                 ? group_context(device, variant->params)
                                 : guarded_context(group_model, variant->params, device);
    hymba_session *session;
    hymba_sampler *sampler;
    hymba_session_release(group_session(context, (hymba_session_params){0})); /* its own is there */
    test_status(try_load(context, file, &session, &sampler), HYMBA_OK, error);
    group_compare_peers(session);
    struct fuzz_file again = save(session, sampler);
    compare_files(&again, file);
    fuzz_file_free(&again);
    hymba_sampler_release(sampler);
    hymba_session_release(session);
    hymba_context_release(context);
}

/* All but the computed numbers. */
static void compare_chunks(const struct fuzz_file *found, const struct fuzz_file *expected)
{
    struct fuzz_container chunks[2];
    fuzz_container_unpack(found->data, found->size, &chunks[0]);
    fuzz_container_unpack(expected->data, expected->size, &chunks[1]);
    ck_assert_uint_eq(chunks[0].n, chunks[1].n);
    for (size_t i = 0; i < chunks[0].n; i++) {
        const struct fuzz_chunk *a = &chunks[0].chunks[i], *b = &chunks[1].chunks[i];
        ck_assert_uint_eq(a->tag, b->tag);
        ck_assert_uint_eq(a->bytes.size, b->bytes.size);
        size_t same = a->tag == HY_TAG_PARAMETERS || a->tag == HY_TAG_TOKENS ||
                              a->tag == HY_TAG_SAMPLER
                          ? a->bytes.size
                      : a->tag == HY_TAG_STATE || a->tag == HY_TAG_SNAPSHOT
                          ? sizeof(struct hy_saved_state)
                          : 0;
        ck_assert_msg(same == 0 || memcmp(a->bytes.data, b->bytes.data, same) == 0,
                      "chunk %.4s differs", (const char *)&a->tag);
    }
    fuzz_container_free(&chunks[0]);
    fuzz_container_free(&chunks[1]);
}

/* One device's file comes back; a group's own has the same form, and comes back from others. */
START_TEST(a_file_goes_through_groups_byte_for_byte)
{
    const struct variant *variant = &variants[_i];
    use_model(variant->config);
    hymba_sampler *sampler = new_sampler();
    hymba_context *contexts[2] = {guarded_context(group_model, variant->params, "cuda:0"),
                                  group_context(variant->device, variant->params)};
    struct fuzz_file files[2];
    for (int i = 0; i < 2; i++) {
        hymba_session *session = live(contexts[i], variant);
        hymba_session_info info = {.struct_size = sizeof info};
        test_status(hymba_session_get_info(session, &info, &error), HYMBA_OK, error);
        ck_assert_uint_ne(info.capabilities & HYMBA_CAN_SAVE, 0);
        files[i] = save(session, sampler);
        hymba_session_release(session);
        hymba_context_release(contexts[i]);
    }
    compare_chunks(&files[1], &files[0]);
    pass_through(variant->device, variant, &files[0]);
    pass_through(variant->other, variant, &files[0]);
    pass_through(variant->other, variant, &files[1]);
    pass_through(variant->device, variant, &files[1]);
    pass_through("cpu", variant, &files[1]);
    fuzz_file_free(&files[0]);
    fuzz_file_free(&files[1]);
    hymba_sampler_release(sampler);
}
END_TEST

/* ------------------------------------------------------------------ windows */

static unsigned char *whole_place(const struct hy_saved_parts *parts,
                                  const struct hy_rank_places *places, enum hy_state_place place,
                                  size_t size)
{
    unsigned char *bytes = malloc(size + 1);
    struct hy_saved_window window = {place, 0, size};
    ck_assert_uint_le(size, HY_SAVED_PIECE);
    test_status(hy_saved_get(parts, window, places, bytes, &error), HYMBA_OK, error);
    return bytes;
}

/* Reads the place in windows, then overwrites it in windows: bytes between bands stay zeros. */
static void check_windows(const struct hy_saved_parts *parts, const struct hy_rank_places *places,
                          enum hy_state_place place)
{
    size_t size = hy_layout_place_bytes(parts->layout, place);
    unsigned char *whole = whole_place(parts, places, place, size), piece[6000];
    for (size_t begin = 0, n; begin < size; begin += n) {
        n = hy_min_size(1 + test_random_below(sizeof piece), size - begin);
        test_status(hy_saved_get(parts, (struct hy_saved_window){place, begin, n}, places, piece,
                                 &error),
                    HYMBA_OK, error);
        ck_assert_mem_eq(piece, whole + begin, n);
    }
    for (size_t i = 0; i < size; i++)
        whole[i] ^= 0xff;
    for (size_t begin = 0, n; begin < size; begin += n) {
        n = hy_min_size(1 + test_random_below(sizeof piece), size - begin);
        test_status(hy_saved_put(parts, (struct hy_saved_window){place, begin, n}, places,
                                 whole + begin, &error),
                    HYMBA_OK, error);
    }
    unsigned char *found = whole_place(parts, places, place, size);
    size_t n_changed = 0;
    for (size_t i = 0; i < size; i++) {
        ck_assert(found[i] == whole[i] || (found[i] == 0 && whole[i] == 0xff));
        n_changed += found[i] == whole[i];
    }
    size_t n_in_bands = 0;
    for (size_t i = 0; i < hy_layout_n_bands(parts->layout, place); i++) {
        struct hy_band band = hy_layout_band(parts->layout, place, i);
        n_in_bands += band.row_bytes * band.n_rows;
    }
    ck_assert_uint_eq(n_changed, n_in_bands);
    ck_assert_uint_gt(n_changed, 0);
    free(found);
    free(whole);
}

/* _i: the place, of which a block is the last */
START_TEST(windows_are_parts_of_a_place)
{
    static const enum hy_state_place places[] = {HY_PLACE_RINGS, HY_PLACE_HISTORY,
                                                 HY_PLACE_RECURRENT, HY_PLACE_META,
                                                 HY_PLACE_BLOCK};
    hymba_context_params params = {.rewind_tokens = 5, .cache_type = HYMBA_DTYPE_INT8};
    hymba_context *context = group_context("cuda:2,0,1", params);
    hymba_session *session = group_session(context, (hymba_session_params){0});
    struct hy_saved_parts parts;
    struct hy_rank_states states;
    append(session, 0, 30);
    for (size_t i = 0; i < 6; i++)
        append(session, 30 + i, 1);
    test_status(hy_saved_parts_create(context, &context->memory, 1, &parts, &error), HYMBA_OK,
                error);
    ck_assert_uint_eq(parts.n_ranks, 3);
    for (uint32_t rank = 0; rank < parts.n_ranks; rank++)
        states.list[rank] = &hy_session_of_rank(session, rank)->state;
    struct hy_rank_places here = hy_saved_places(&parts, &states, places[_i]);
    for (uint32_t rank = 0; rank < parts.n_ranks && places[_i] == HY_PLACE_BLOCK; rank++)
        here.data[rank] = states.list[rank]->blocks[0]->data;
    check_windows(&parts, &here, places[_i]);
    hy_saved_parts_free(&parts);
    hymba_session_release(session);
    hymba_context_release(context);
}
END_TEST

/* --------------------------------------------------------------- continuing */

/* Back to kept states that were saved, on, back to a snapshot that was, on. */
static void go_on(hymba_session *session)
{
    test_status(hymba_session_rewind(session, hymba_session_length(session) - 3,
                                     HYMBA_REWIND_KEPT, NULL, &error),
                HYMBA_OK, error);
    append(session, 150, 4);
    append(session, 101, 60);
}

static void go_back(hymba_session *session)
{
    test_status(hymba_session_rewind(session, 270, HYMBA_REWIND_KEPT, NULL, &error), HYMBA_OK,
                error);
    append(session, 160, 5);
    test_status(hymba_session_rewind(session, 273, HYMBA_REWIND_COMPUTE, NULL, &error), HYMBA_OK,
                error);
    append(session, 170, 20);
}

/* On the same devices to the bit, in a context that has computed nothing yet as in one that has. */
START_TEST(a_session_continues_to_the_bit_on_the_same_devices)
{
    const struct variant *variant = &variants[_i];
    use_model(variant->config);
    hymba_context *contexts[2] = {group_context(variant->device, variant->params),
                                  group_context(variant->device, variant->params)};
    hymba_session *session = live(contexts[0], variant);
    struct fuzz_file file = save(session, NULL);
    for (int i = 0; i < 2; i++) {
        hymba_session *loaded = load(contexts[i], &file), *fork, *others[2];
        /* its meta tokens are the context's own where there are any */
        for (uint32_t rank = 0; rank < 2; rank++)
            ck_assert_int_eq(hy_session_of_rank(loaded, rank)->state.meta ==
                                 hy_group_context(contexts[i], rank)->meta,
                             i == 0);
        test_status(hymba_session_fork(session, &fork, NULL, &error), HYMBA_OK, error);
        test_status(hymba_session_fork(session, &others[0], NULL, &error), HYMBA_OK, error);
        test_status(hymba_session_fork(loaded, &others[1], NULL, &error), HYMBA_OK, error);
        compare_bits(loaded, fork);
        go_on(loaded);
        go_on(fork);
        compare_bits(loaded, fork);
        for (int j = 0; j < 2; j++) /* whose blocks the others have shared, and left */
            append(others[j], 180, 5);
        compare_bits(others[1], others[0]);
        go_back(loaded);
        go_back(fork);
        compare_bits(loaded, fork);
        group_compare_peers(loaded);
        hymba_session_release(fork);
        hymba_session_release(loaded);
        hymba_session_release(others[0]);
        hymba_session_release(others[1]);
    }
    fuzz_file_free(&file);
    hymba_session_release(session);
    hymba_context_release(contexts[0]);
    hymba_context_release(contexts[1]);
}
END_TEST

/* Where a session comes from, and where it goes: a group is one of them. */
static const char *const ways[][2] = {
    {"cpu", "cuda:0,1"},      {"cuda:2", "cuda:3,2,0"},     {"cuda:0,1", "cpu"},
    {"cuda:3,2,0", "cuda:2"}, {"cuda:0,1,2,3", "cuda:0,1"}, {"cuda:0,1", "cuda:1,2,0"},
};
enum { N_WAYS = sizeof ways / sizeof ways[0] };

/* By way of a file. */
START_TEST(a_session_continues_elsewhere_as_where_it_was)
{
    const struct variant *variant = &variants[0];
    hymba_context *contexts[2];
    hymba_session *sessions[2];
    hymba_sampler *sampler = new_sampler(), *loaded;
    hymba_reuse_info info = {.struct_size = sizeof info};
    char path[300];
    snprintf(path, sizeof path, "%s/session-%d", test_directory(), _i);
    for (int i = 0; i < 2; i++) {
        const char *device = ways[_i][i];
        contexts[i] = strchr(device, ',') ? group_context(device, variant->params)
                                          : guarded_context(group_model, variant->params, device);
    }
    sessions[0] = live(contexts[0], variant);
    test_status(hymba_session_save(sessions[0], sampler, path, NULL, &error), HYMBA_OK, error);
    test_status(hymba_session_load(contexts[1], path, NULL, &sessions[1], &loaded, &info, &error),
                HYMBA_OK, error);
    group_compare_peers(sessions[1]);
    ck_assert_ptr_nonnull(loaded);
    ck_assert_uint_eq(info.reused_tokens, hymba_session_length(sessions[0]));
    compare_bits(sessions[1], sessions[0]);
    for (int i = 0; i < 2; i++)
        go_on(sessions[i]);
    compare_nearly(sessions[1], sessions[0]);
    for (int i = 0; i < 2; i++)
        go_back(sessions[i]);
    compare_nearly(sessions[1], sessions[0]);
    for (int i = 0; i < 2; i++) {
        hymba_session_release(sessions[i]);
        hymba_context_release(contexts[i]);
    }
    hymba_sampler_release(sampler);
    hymba_sampler_release(loaded);
}
END_TEST

/* The first device's bytes count, and the others have the snapshots that it has. */
START_TEST(a_loaded_session_keeps_its_budget)
{
    hymba_context *context = group_context("cuda:0,1,2", (hymba_context_params){0});
    hymba_session_params params = {.struct_size = sizeof params, .snapshot_interval = 8};
    hymba_session *session = group_session(context, params), *loaded;
    hymba_reuse_info info = {.struct_size = sizeof info};
    test_status(hymba_session_snapshot(session, NULL, &info, &error), HYMBA_OK, error);
    append(session, 0, 30);
    struct fuzz_file file = save(session, NULL);
    params.snapshot_budget = 3 * info.copied_bytes + 2000;
    test_status(hymba_session_load_memory(context, file.data, file.size, &params, &loaded, NULL,
                                          NULL, &error),
                HYMBA_OK, error);
    for (size_t i = 0; i < 4; i++) {
        append(loaded, 40, 9);
        ck_assert_uint_le(hymba_session_snapshot_count(loaded), 3);
        group_compare_peers(loaded);
    }
    fuzz_file_free(&file);
    hymba_session_release(loaded);
    hymba_session_release(session);
    hymba_context_release(context);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sessions of groups");
    TCase *files = tcase_create("files");
    tcase_add_checked_fixture(files, setup, group_end);
    tcase_set_timeout(files, 240);
    tcase_add_loop_test(files, a_file_goes_through_groups_byte_for_byte, 0, N_VARIANTS);
    tcase_add_loop_test(files, windows_are_parts_of_a_place, 0, 5);
    tcase_add_loop_test(files, a_session_continues_to_the_bit_on_the_same_devices, 0, N_VARIANTS);
    tcase_add_loop_test(files, a_session_continues_elsewhere_as_where_it_was, 0, N_WAYS);
    tcase_add_test(files, a_loaded_session_keeps_its_budget);
    suite_add_tcase(suite, files);
    return test_main(suite);
}
