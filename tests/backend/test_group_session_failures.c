/*
 * Sessions of groups of guarded devices: a save or load that fails, or a file that is none of ours,
 * has changed nothing on any device.
 */
#include <stdlib.h>

#include "base/checked.h"
#include "group_sessions_test.h"
#include "host.h"

/* A short session in a context of its own, and its file. */
struct scene {
    struct test_host host;
    hymba_context *context;
    hymba_session *session;
    struct fuzz_file file;
    long n_blocks;  /* on the devices, with all that is here */
    uint64_t used; /* bytes of the host's memory */
};

static void scene_open(struct scene *scene)
{
    test_host_init(&scene->host);
    hymba_context_params params = {.rewind_tokens = 2, .host = &scene->host.host};
    scene->context = group_context("cuda:2,0,1", params);
    scene->session = group_session(scene->context, (hymba_session_params){0});
    append(scene->session, 0, 7);
    test_status(hymba_session_snapshot(scene->session, "mark", NULL, &error), HYMBA_OK, error);
    append(scene->session, 7, 3);
    scene->file = save(scene->session, NULL);
    /* what is made once is there */
    hymba_session *loaded = load(scene->context, &scene->file);
    append(loaded, 10, 3);
    hymba_session_release(loaded);
    scene->n_blocks = guarded->n_blocks;
    scene->used = scene->host.used;
}

/* Nothing has changed; on sound devices. */
static void scene_check(struct scene *scene)
{
    ck_assert_int_eq(guarded->n_blocks, scene->n_blocks);
    ck_assert_uint_eq(scene->host.used, scene->used);
    group_compare_peers(scene->session);
    struct fuzz_file again = save(scene->session, NULL);
    compare_files(&again, &scene->file);
    fuzz_file_free(&again);
}

static void scene_close(struct scene *scene)
{
    fuzz_file_free(&scene->file);
    hymba_session_release(scene->session);
    hymba_context_release(scene->context);
    test_host_check(&scene->host);
}

static hymba_status save_or_load(struct scene *scene, bool loads)
{
    struct fuzz_file again = {0};
    hymba_session *session = scene->session;
    hymba_status status =
        loads ? try_load(scene->context, &scene->file, &session, NULL)
              : hymba_session_save_to(scene->session, NULL, fuzz_write, &again, NULL, &error);
    fuzz_file_free(&again);
    if (loads && status != HYMBA_OK)
        ck_assert_ptr_null(session);
    else if (loads)
        hymba_session_release(session);
    return status;
}

/* Each allocation on one device, or each end of its work, fails in turn. _i: which device, whether
 * loading, and what. */
START_TEST(what_fails_on_one_device_has_changed_nothing_on_any)
{
    bool loads = _i % 2, finishes = _i / 2 % 2;
    long *number = finishes ? &guarded->fail_finish : &guarded->fail_allocation;
    const _Atomic long *count = finishes ? &guarded->n_finishes : &guarded->n_allocations;
    static const char *const names[] = {"cuda:0: ", "cuda:1: ", NULL}; /* by index */
    struct scene scene;
    long failures = 0;
    guarded->fails_on = _i / 4;
    guarded->finish_status = HYMBA_ERROR_MEMORY;
    scene_open(&scene);
    for (bool failed = true; failed; failures++) {
        *number = *count + failures;
        hymba_status status = save_or_load(&scene, loads);
        failed = *count > *number;
        *number = -1;
        test_status(status, failed ? HYMBA_ERROR_MEMORY : HYMBA_OK, error);
        const char *name = names[_i / 4];
        if (failed)
            ck_assert_msg(name ? strncmp(error.message, name, strlen(name)) == 0
                               : strncmp(error.message, "cuda:", 5) != 0,
                          "%s", error.message);
        scene_check(&scene);
    }
    /* saving allocates nothing there */
    ck_assert_int_gt(failures, loads || finishes ? 4 : 0);
    scene_close(&scene);
}
END_TEST

/* The call says so, and so does every later one. _i: which device, whether loading. */
START_TEST(a_lost_device_is_told)
{
    struct scene scene;
    guarded->fails_on = _i / 2;
    scene_open(&scene);
    guarded->fail_finish = guarded->n_finishes + 3;
    test_status(save_or_load(&scene, _i % 2), HYMBA_ERROR_DEVICE, error);
    guarded->fail_finish = -1;
    ck_assert_int_eq(guarded->n_blocks, scene.n_blocks);
    test_status(save_or_load(&scene, false), HYMBA_ERROR_DEVICE, error);
    test_status(save_or_load(&scene, true), HYMBA_ERROR_DEVICE, error);
    scene_close(&scene);
}
END_TEST

/* _i: whether loading. */
START_TEST(without_memory_on_the_host_nothing_has_changed)
{
    struct scene scene;
    long failures = 0;
    scene_open(&scene);
    for (hymba_status status = HYMBA_ERROR_MEMORY; status != HYMBA_OK; failures++) {
        test_host_fail_at(&scene.host, failures, failures % 2);
        status = save_or_load(&scene, _i);
        test_host_fail_at(&scene.host, -1, false);
        ck_assert_msg(status == HYMBA_OK || status == HYMBA_ERROR_MEMORY, "%s", error.message);
        scene_check(&scene);
    }
    ck_assert_int_gt(failures, 4);
    scene_close(&scene);
}
END_TEST

/* Takes so many pieces, then cancels, or refuses to take more. */
struct taker {
    hymba_context *context;
    long n_left;
    bool refuses;
};

static int32_t take(void *user, const void *data, size_t size)
{
    struct taker *taker = user;
    (void)data;
    (void)size;
    if (taker->n_left-- > 0)
        return 0;
    if (!taker->refuses)
        hymba_context_cancel(taker->context);
    return taker->refuses;
}

/* Memory of the host, whose nth block cancels the call. */
struct canceller {
    struct hymba_host host;
    hymba_context *context;
    long n_left; /* negative: never */
};

static void *allocate(void *user, size_t size, size_t alignment)
{
    struct canceller *canceller = user;
    if (canceller->n_left-- == 0)
        hymba_context_cancel(canceller->context);
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void release(void *user, void *pointer, size_t size, size_t alignment)
{
    (void)user;
    (void)size;
    (void)alignment;
    free(pointer);
}

START_TEST(a_save_that_is_cancelled_or_not_taken_has_changed_nothing)
{
    struct scene scene;
    scene_open(&scene);
    for (long n = 0; n < 6; n++) {
        struct taker taker = {scene.context, n / 2, n % 2};
        test_status(hymba_session_save_to(scene.session, NULL, take, &taker, NULL, &error),
                    n % 2 ? HYMBA_ERROR_FILE : HYMBA_ERROR_CANCELLED, error);
        scene_check(&scene);
    }
    scene_close(&scene);
}
END_TEST

START_TEST(a_load_that_is_cancelled_has_changed_nothing)
{
    struct canceller canceller = {.n_left = -1};
    canceller.host = (hymba_host){.struct_size = sizeof canceller.host, .user = &canceller,
                                  .alloc = allocate, .free = release};
    hymba_context_params params = {.host = &canceller.host};
    canceller.context = group_context("cuda:0,1", params);
    hymba_session *session = group_session(canceller.context, (hymba_session_params){0}), *loaded;
    append(session, 0, 20);
    struct fuzz_file file = save(session, NULL);
    long n_blocks = guarded->n_blocks, n_cancelled = 0;
    for (hymba_status status = HYMBA_ERROR_CANCELLED; status != HYMBA_OK; n_cancelled++) {
        canceller.n_left = n_cancelled;
        status = try_load(canceller.context, &file, &loaded, NULL);
        canceller.n_left = -1;
        ck_assert_msg(status == HYMBA_OK || status == HYMBA_ERROR_CANCELLED, "%s", error.message);
        if (status == HYMBA_OK)
            hymba_session_release(loaded);
        ck_assert_int_eq(guarded->n_blocks, n_blocks);
    }
    ck_assert_int_gt(n_cancelled, 8);
    append(session, 20, 2);
    fuzz_file_free(&file);
    hymba_session_release(session);
    hymba_context_release(canceller.context);
}
END_TEST

/* ------------------------------------------------------------------ hostile */

/* An error with nothing left behind, or a session that can be used. */
static bool survives(struct scene *scene, const struct fuzz_file *file)
{
    hymba_session *session;
    hymba_status status = try_load(scene->context, file, &session, NULL);
    if (status == HYMBA_OK) {
        group_compare_peers(session);
        append(session, 0, 2);
        test_status(hymba_session_rewind(session, 0, HYMBA_REWIND_COMPUTE, NULL, &error), HYMBA_OK,
                    error);
        hymba_session_release(session);
        return true;
    }
    ck_assert_ptr_null(session);
    ck_assert_msg(status == HYMBA_ERROR_FORMAT || status == HYMBA_ERROR_STATE ||
                      status == HYMBA_ERROR_UNSUPPORTED || status == HYMBA_ERROR_MEMORY,
                  "%s: %s", hymba_status_name(status), error.message);
    ck_assert_int_eq(guarded->n_blocks, scene->n_blocks);
    ck_assert_uint_eq(scene->host.used, scene->used);
    return false;
}

START_TEST(files_that_are_cut_off_are_refused)
{
    struct scene scene;
    scene_open(&scene);
    for (size_t size = 0; size < scene.file.size; size += 1 + scene.file.size / 150) {
        struct fuzz_file prefix = {.data = malloc(size + 1), .size = size};
        memcpy(prefix.data, scene.file.data, size);
        ck_assert(!survives(&scene, &prefix));
        fuzz_file_free(&prefix);
    }
    scene_check(&scene);
    scene_close(&scene);
}
END_TEST

START_TEST(bits_flipped_behind_the_checksums_are_refused_or_harmless)
{
    struct scene scene;
    struct fuzz_container whole;
    size_t count = 0, opened = 0;
    scene_open(&scene);
    fuzz_container_unpack(scene.file.data, scene.file.size, &whole);
    for (size_t i = 0; i < whole.n; i++) {
        struct fuzz_file *bytes = &whole.chunks[i].bytes;
        size_t n_bits = hy_min_size(bytes->size, 200) * 8; /* where numbers stand that count */
        for (size_t bit = 0; bit < n_bits; bit += 13) {
            struct fuzz_file changed = {0};
            bytes->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            fuzz_container_pack(&whole, &changed);
            bytes->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            opened += survives(&scene, &changed);
            count++;
            fuzz_file_free(&changed);
        }
    }
    ck_assert_uint_gt(opened, 0);
    ck_assert_uint_lt(opened, count);
    fuzz_container_free(&whole);
    scene_check(&scene);
    scene_close(&scene);
}
END_TEST

static const struct other_kind {
    hymba_context_params params;
    const char *sentence;
} other_kinds[] = {
    {{.rewind_tokens = 3}, "rewind_tokens"},
    {{.rewind_tokens = 2, .cache_type = HYMBA_DTYPE_INT8}, "cache_type"},
    {{.rewind_tokens = 2, .state_type = HYMBA_DTYPE_F16}, "state_type"},
};

START_TEST(files_of_other_contexts_are_refused)
{
    const struct other_kind *other = &other_kinds[_i];
    struct scene scene;
    hymba_session *session;
    scene_open(&scene);
    hymba_context *context = group_context("cuda:0,1", other->params);
    long n_blocks = guarded->n_blocks;
    test_status(try_load(context, &scene.file, &session, NULL), HYMBA_ERROR_STATE, error);
    ck_assert_msg(strstr(error.message, other->sentence) != NULL, "%s", error.message);
    ck_assert_int_eq(guarded->n_blocks, n_blocks);
    hymba_context_release(context);
    scene_close(&scene);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("failures of groups' sessions");
    TCase *failures = tcase_create("failures");
    tcase_add_checked_fixture(failures, setup, group_end);
    tcase_set_timeout(failures, 240);
    tcase_add_loop_test(failures, what_fails_on_one_device_has_changed_nothing_on_any, 0, 12);
    tcase_add_loop_test(failures, a_lost_device_is_told, 0, 6);
    tcase_add_loop_test(failures, without_memory_on_the_host_nothing_has_changed, 0, 2);
    tcase_add_test(failures, a_save_that_is_cancelled_or_not_taken_has_changed_nothing);
    tcase_add_test(failures, a_load_that_is_cancelled_has_changed_nothing);
    tcase_add_test(failures, files_that_are_cut_off_are_refused);
    tcase_add_test(failures, bits_flipped_behind_the_checksums_are_refused_or_harmless);
    tcase_add_loop_test(failures, files_of_other_contexts_are_refused, 0,
                        (int)(sizeof other_kinds / sizeof other_kinds[0]));
    suite_add_tcase(suite, failures);
    return test_main(suite);
}
