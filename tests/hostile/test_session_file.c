/*
 * Saved sessions that are cut off or damaged: prefixes, and flipped bits of the file as it stands
 * and of its contents, with checksums made right; and the memory limit of a loaded session.
 */
#include "hostile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../fuzz/fuzz_container.h"
#include "run/saved_format.h"

static struct test_host host;
static hymba_error error;
static hymba_model *model;
static hymba_context *context;
static struct fuzz_file file;
static int32_t tokens[300];

static hymba_session *make_session(size_t n)
{
    hymba_session *session;
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, n, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    return session;
}

static void save(hymba_session *session)
{
    hymba_sampler_params params = {.struct_size = sizeof params, .seed = 5, .repeat_penalty = 1.5f};
    hymba_sampler *sampler;
    test_status(hymba_sampler_create(&params, &host.host, &sampler, &error), HYMBA_OK, error);
    test_status(hymba_sampler_accept(sampler, 3, &error), HYMBA_OK, error);
    fuzz_file_free(&file);
    test_status(hymba_session_save_to(session, sampler, fuzz_write, &file, NULL, &error), HYMBA_OK,
                error);
    hymba_sampler_release(sampler);
}

static void set_up(void)
{
    hymba_model_params params = {.struct_size = sizeof params, .host = &host.host};
    hymba_context_params one = {.struct_size = sizeof one, .n_threads = 1, .max_step_tokens = 8,
                                .rewind_tokens = 1};
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    for (size_t i = 0; i < 300; i++)
        tokens[i] = (int32_t)(i * 7 % 67);
    test_status(hymba_model_open(test_data("variants/mamba_only"), &params, &model, &error),
                HYMBA_OK, error);
    test_status(hymba_context_create(model, &one, &context, &error), HYMBA_OK, error);
    hymba_session *session = make_session(6);
    test_status(hymba_session_snapshot(session, "mark", NULL, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, 3, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    save(session);
    hymba_session_release(session);
}

static void tear_down(void)
{
    fuzz_file_free(&file);
    hymba_context_release(context);
    hymba_model_release(model);
    test_host_check(&host);
}

/* True if the bytes load; the session is then used. */
static bool loads(const uint8_t *data, size_t size)
{
    hymba_session *session = (hymba_session *)&host;
    hymba_sampler *sampler = (hymba_sampler *)&host;
    uint64_t used = host.used;
    hymba_status status = hymba_session_load_memory(context, data, size, NULL, &session, &sampler,
                                                    NULL, &error);
    if (status == HYMBA_OK) {
        const float *logits;
        size_t rows;
        int32_t token;
        test_status(hymba_session_rewind(session, 6, HYMBA_REWIND_COMPUTE, NULL, &error), HYMBA_OK,
                    error);
        test_status(hymba_session_append(session, tokens, 2, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                    error);
        test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
        if (sampler) {
            status = hymba_sampler_sample(sampler, logits, 67, &token, &error);
            ck_assert(status == HYMBA_OK || status == HYMBA_ERROR_ARGUMENT); /* a NaN */
        }
        hymba_session_release(session);
        hymba_sampler_release(sampler);
        return true;
    }
    ck_assert_ptr_null(session);
    ck_assert_ptr_null(sampler);
    ck_assert_uint_eq(host.used, used);
    ck_assert_msg(status == HYMBA_ERROR_FORMAT || status == HYMBA_ERROR_UNSUPPORTED ||
                      status == HYMBA_ERROR_STATE || status == HYMBA_ERROR_MEMORY,
                  "%s: %s", hymba_status_name(status), error.message);
    ck_assert_msg(strstr(error.message, "saved") != NULL || status == HYMBA_ERROR_MEMORY, "%s",
                  error.message);
    return false;
}

/* The first size bytes in a block that ends there. */
static bool prefix_loads(size_t size)
{
    uint8_t *block = malloc(size ? size : 1);
    ck_assert_ptr_nonnull(block);
    memcpy(block, file.data, size);
    bool result = loads(block, size);
    free(block);
    return result;
}

START_TEST(every_prefix_is_refused)
{
    size_t stride = hostile_is_long() ? 1 : 17;
    for (size_t size = 0; size < file.size; size += stride)
        ck_assert(!prefix_loads(size));
    ck_assert(!prefix_loads(file.size - 1));
    ck_assert(prefix_loads(file.size));
    hostile_report("prefixes of a saved session refused", (file.size + stride - 1) / stride + 1);
}
END_TEST

/* What a loaded session is saved as again. */
static struct fuzz_file saved_again(void)
{
    struct fuzz_file again = {0};
    hymba_session *session;
    hymba_sampler *sampler;
    test_status(hymba_session_load_memory(context, file.data, file.size, NULL, &session, &sampler,
                                          NULL, &error),
                HYMBA_OK, error);
    test_status(hymba_session_save_to(session, sampler, fuzz_write, &again, NULL, &error),
                HYMBA_OK, error);
    hymba_session_release(session);
    hymba_sampler_release(sampler);
    return again;
}

/* Some bits of compressed data may be this or that: the content is the same. */
START_TEST(every_flipped_bit_is_refused_or_changes_nothing)
{
    size_t stride = hostile_is_long() ? 3 : 61, n_loaded = 0;
    struct fuzz_file whole = saved_again();
    for (size_t bit = 0; bit < file.size * 8; bit += stride) {
        file.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (loads(file.data, file.size)) {
            struct fuzz_file again = saved_again();
            ck_assert_uint_eq(again.size, whole.size);
            ck_assert_msg(memcmp(again.data, whole.data, whole.size) == 0,
                          "with bit %zu flipped another session loads", bit);
            fuzz_file_free(&again);
            n_loaded++;
        }
        file.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    ck_assert_uint_lt(n_loaded, file.size / 100);
    ck_assert(loads(file.data, file.size));
    fuzz_file_free(&whole);
    hostile_report("flipped bits of a saved session refused",
                   (file.size * 8 + stride - 1) / stride - n_loaded);
}
END_TEST

/* Of the contents, with checksums that are right: an error or a session. */
START_TEST(every_flipped_bit_behind_the_checksums_is_refused_or_harmless)
{
    struct fuzz_container whole;
    size_t count = 0, opened = 0, stride = hostile_is_long() ? 5 : 61;
    fuzz_container_unpack(file.data, file.size, &whole);
    ck_assert_uint_gt(whole.n, 6);
    for (size_t i = 0; i < whole.n; i++) {
        struct fuzz_file *bytes = &whole.chunks[i].bytes;
        for (size_t bit = 0; bit < bytes->size * 8; bit += stride) {
            struct fuzz_file changed = {0};
            bytes->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            fuzz_container_pack(&whole, &changed);
            bytes->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            opened += loads(changed.data, changed.size);
            count++;
            fuzz_file_free(&changed);
        }
    }
    ck_assert_uint_gt(opened, 0);
    ck_assert_uint_lt(opened, count);
    fuzz_container_free(&whole);
    hostile_report("flipped bits behind right checksums", count);
}
END_TEST

static hymba_status load_limited(uint64_t limit, uint64_t *bytes)
{
    hymba_session_params params = {.struct_size = sizeof params, .memory_limit = limit};
    hymba_session_info info = {.struct_size = sizeof info};
    hymba_session *session;
    hymba_status status = hymba_session_load_memory(context, file.data, file.size, &params,
                                                    &session, NULL, NULL, &error);
    if (status != HYMBA_OK) {
        ck_assert_ptr_null(session);
        return status;
    }
    test_status(hymba_session_get_info(session, &info, &error), HYMBA_OK, error);
    *bytes = info.memory_bytes - info.snapshot_bytes;
    hymba_session_release(session);
    return HYMBA_OK;
}

static void limit_a_load(const char *name)
{
    hymba_model_params params = {.struct_size = sizeof params, .host = &host.host};
    hymba_context_params one = {.struct_size = sizeof one, .n_threads = 1};
    hymba_model *full;
    hymba_context *kept = context;
    uint64_t bytes, same;
    test_status(hymba_model_open(test_data(name), &params, &full, &error), HYMBA_OK, error);
    test_status(hymba_context_create(full, &one, &context, &error), HYMBA_OK, error);
    hymba_session *session = make_session(300);
    save(session);
    hymba_session_release(session);
    test_status(load_limited(0, &bytes), HYMBA_OK, error);
    test_status(load_limited(bytes, &same), HYMBA_OK, error);
    ck_assert_uint_eq(same, bytes);
    for (uint64_t limit = bytes - 1; limit > 0; limit /= 2) {
        hymba_status status = load_limited(limit, &same);
        ck_assert_msg(status == HYMBA_ERROR_LIMIT || status == HYMBA_ERROR_MEMORY,
                      "with %llu of %llu bytes: %s", (unsigned long long)limit,
                      (unsigned long long)bytes, hymba_status_name(status));
    }
    hymba_context_release(context);
    hymba_model_release(full);
    context = kept;
}

START_TEST(a_loaded_session_keeps_its_limit)
{
    limit_a_load("goldens/f_official_like");
    limit_a_load("variants/attention_only");
    limit_a_load("variants/mamba_only");
}
END_TEST

/* Every byte of keys and values behind the meta tokens becomes 0xff: NaN in every type, or bytes
 * whose scale is; the session loads, and what is computed of it is not a number. */
static void spoil_rows(struct fuzz_container *container)
{
    for (size_t i = 0; i < container->n; i++) {
        struct fuzz_file *bytes = &container->chunks[i].bytes;
        struct hy_saved_state state;
        size_t first = 0;
        if (container->chunks[i].tag == HY_TAG_STATE) {
            memcpy(&state, bytes->data, sizeof state);
            first = sizeof state + (size_t)state.n_blocks * sizeof(uint64_t);
        } else if (container->chunks[i].tag != HY_TAG_BLOCKS) {
            continue;
        }
        memset(bytes->data + first, 0xff, bytes->size - first);
    }
}

/* _i: the cache type. */
START_TEST(rows_that_are_no_numbers)
{
    static const hymba_dtype types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                                        HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8};
    hymba_context_params one = {
        .struct_size = sizeof one, .n_threads = 1, .cache_type = types[_i]};
    hymba_model_params params = {.struct_size = sizeof params, .host = &host.host};
    hymba_model *attention;
    hymba_context *kept = context;
    hymba_session *loaded;
    hymba_sampler *sampler;
    struct fuzz_container container;
    const float *logits;
    size_t rows;
    int32_t token;
    test_status(hymba_model_open(test_data("variants/attention_only"), &params, &attention,
                                 &error),
                HYMBA_OK, error);
    test_status(hymba_context_create(attention, &one, &context, &error), HYMBA_OK, error);
    hymba_session *session = make_session(20);
    save(session);
    hymba_session_release(session);
    fuzz_container_unpack(file.data, file.size, &container);
    spoil_rows(&container);
    fuzz_file_free(&file);
    fuzz_container_pack(&container, &file);
    fuzz_container_free(&container);
    test_status(hymba_session_load_memory(context, file.data, file.size, NULL, &loaded, &sampler,
                                          NULL, &error),
                HYMBA_OK, error);
    test_status(hymba_session_append(loaded, tokens, 3, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    test_status(hymba_session_logits(loaded, &logits, &rows, &error), HYMBA_OK, error);
    ck_assert(isnan(logits[0]));
    test_status(hymba_sampler_sample(sampler, logits, 2, &token, &error), HYMBA_ERROR_ARGUMENT,
                error);
    hymba_sampler_release(sampler);
    hymba_session_release(loaded);
    hymba_context_release(context);
    hymba_model_release(attention);
    context = kept;
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("session file");
    TCase *tests = tcase_create("session file");
    tcase_set_timeout(tests, 1800);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, every_prefix_is_refused);
    tcase_add_test(tests, every_flipped_bit_is_refused_or_changes_nothing);
    tcase_add_test(tests, every_flipped_bit_behind_the_checksums_is_refused_or_harmless);
    tcase_add_test(tests, a_loaded_session_keeps_its_limit);
    tcase_add_loop_test(tests, rows_that_are_no_numbers, 0, 5);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
