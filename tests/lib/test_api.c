/* The boundary: arguments, sized structs, lifetimes, hooks, memory figures. */
#include "support.h"

#include "hymba.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static hymba_error error = {.struct_size = sizeof error};

static const char *tiny(void)
{
    return test_data("goldens/f_official_like");
}

static hymba_model *open_tiny(const hymba_host *host)
{
    hymba_model *model;
    hymba_model_params params = {.struct_size = sizeof params, .host = host};
    test_status(hymba_model_open(tiny(), &params, &model, &error), HYMBA_OK, error);
    return model;
}

static hymba_context *make_context(hymba_model *model)
{
    hymba_context *context;
    test_status(hymba_context_create(model, NULL, &context, &error), HYMBA_OK, error);
    return context;
}

static hymba_session *make_session(hymba_context *context)
{
    hymba_session *session;
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    return session;
}

/* ------------------------------------------------------------------ names */

START_TEST(version_and_names)
{
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", HYMBA_VERSION_MAJOR, HYMBA_VERSION_MINOR,
             HYMBA_VERSION_PATCH);
    ck_assert_str_eq(hymba_version_string(), text);
    ck_assert_uint_eq(hymba_version_number(), HYMBA_VERSION_MAJOR * 1000000 +
                                                  HYMBA_VERSION_MINOR * 1000 +
                                                  HYMBA_VERSION_PATCH);
    ck_assert_uint_eq(hymba_abi_version(), HYMBA_ABI);
    ck_assert_str_eq(hymba_status_name(HYMBA_OK), "HYMBA_OK");
    ck_assert_str_eq(hymba_status_name(HYMBA_ERROR_FORMAT), "HYMBA_ERROR_FORMAT");
    ck_assert_str_eq(hymba_status_name(12345), "unknown status");
    ck_assert_ptr_nonnull(hymba_status_description(12345));
    ck_assert_str_eq(hymba_dtype_name(HYMBA_DTYPE_BF16), "bf16");
    ck_assert_ptr_null(hymba_dtype_name(99));
    ck_assert_int_eq(hymba_dtype_from_name("f16"), HYMBA_DTYPE_F16);
    ck_assert_int_eq(hymba_dtype_from_name("f17"), HYMBA_DTYPE_DEFAULT);
    ck_assert_int_eq(hymba_dtype_from_name(NULL), HYMBA_DTYPE_DEFAULT);
    ck_assert_uint_eq(hymba_dtype_size(HYMBA_DTYPE_F32), 4);
    ck_assert_uint_eq(hymba_dtype_size(0), 0);
    ck_assert_str_eq(hymba_stop_name(HYMBA_STOP_EOS), "eos");
    ck_assert_str_eq(hymba_stop_name(-1), "none");
    ck_assert_str_eq(hymba_stop_name(99), "none");
}
END_TEST

/* ---------------------------------------------------------- NULL arguments */

START_TEST(null_handles_are_refused_by_name)
{
    hymba_model *model = open_tiny(NULL);
    hymba_context *context = make_context(model);
    hymba_session *session = make_session(context);
    hymba_model *no_model = (hymba_model *)1;
    hymba_context *no_context = (hymba_context *)1;
    hymba_session *no_session = (hymba_session *)1;
    const float *logits;
    size_t rows;
    float score;
    int32_t token = 1;
    hymba_model_info info = {.struct_size = sizeof info};

    test_status(hymba_model_open(NULL, NULL, &no_model, &error), HYMBA_ERROR_ARGUMENT, error);
    ck_assert_ptr_null(no_model);
    ck_assert_ptr_nonnull(strstr(error.message, "directory"));
    test_status(hymba_model_open(tiny(), NULL, NULL, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_model_open_memory(NULL, 24, 1, NULL, &no_model, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_model_get_info(NULL, &info, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_model_get_info(model, NULL, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_context_create(NULL, NULL, &no_context, &error), HYMBA_ERROR_ARGUMENT,
                error);
    ck_assert_ptr_null(no_context);
    test_status(hymba_session_create(NULL, NULL, &no_session, &error), HYMBA_ERROR_ARGUMENT,
                error);
    ck_assert_ptr_null(no_session);
    test_status(hymba_session_append(NULL, &token, 1, 0, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_session_append(session, NULL, 1, 0, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_session_append(session, &token, 0, 0, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_session_append(session, &token, 1, 3, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_session_append(session, &token, 1, -1, &error), HYMBA_ERROR_ARGUMENT,
                error);
    test_status(hymba_session_logits(NULL, &logits, &rows, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_session_logits(session, NULL, &rows, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_session_score(session, &token, 1, NULL, &error), HYMBA_ERROR_ARGUMENT,
                error);
    test_status(hymba_session_score(session, &token, 1, &score, &error), HYMBA_ERROR_STATE,
                error);
    test_status(hymba_session_reset(NULL, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_session_reserve(NULL, 1, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_context_decode(context, NULL, sizeof(hymba_batch_item), 1, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_ERROR_STATE, error);
    /* an error record is optional, and so is every release */
    ck_assert_int_eq(hymba_model_open(NULL, NULL, &no_model, NULL), HYMBA_ERROR_ARGUMENT);
    ck_assert_uint_eq(hymba_session_length(NULL), 0);
    ck_assert_ptr_null(hymba_session_tokens(NULL));
    ck_assert_ptr_null(hymba_model_tokenizer(NULL));
    ck_assert_ptr_null(hymba_model_retain(NULL));
    hymba_context_cancel(NULL);
    hymba_generation_cancel(NULL);
    hymba_model_release(NULL);
    hymba_context_release(NULL);
    hymba_session_release(NULL);
    hymba_sampler_release(NULL);
    hymba_generation_release(NULL);
    hymba_text_stream_release(NULL);
    hymba_tokenizer_release(NULL);
    hymba_session_release(session);
    hymba_context_release(context);
    hymba_model_release(model);
}
END_TEST

/* ------------------------------------------------------------ sized structs */

/* A caller compiled against a later header: the same beginning, two more fields. */
struct newer_context_params {
    hymba_context_params known;
    uint64_t later[2];
};

START_TEST(older_and_newer_structs)
{
    hymba_model *model = open_tiny(NULL);
    hymba_context *context;
    struct newer_context_params newer = {.known.struct_size = sizeof newer};
    newer.known.n_threads = 1;
    test_status(hymba_context_create(model, &newer.known, &context, &error), HYMBA_OK, error);
    hymba_context_release(context);
    newer.later[1] = 1;
    test_status(hymba_context_create(model, &newer.known, &context, &error),
                HYMBA_ERROR_UNSUPPORTED, error);
    ck_assert_int_eq(error.position, (int64_t)offsetof(struct newer_context_params, later[1]));
    /* an older caller's struct ends early; what follows it in memory must not be read */
    hymba_context_params older;
    memset(&older, 0xff, sizeof older);
    older.struct_size = offsetof(hymba_context_params, cpu);
    older.device = NULL;
    test_status(hymba_context_create(model, &older, &context, &error), HYMBA_OK, error);
    hymba_context_release(context);
    older.struct_size = 0;
    test_status(hymba_context_create(model, &older, &context, &error), HYMBA_ERROR_ARGUMENT,
                error);
    older.struct_size = 7;
    test_status(hymba_context_create(model, &older, &context, &error), HYMBA_ERROR_ARGUMENT,
                error);
    /* results: written up to the caller's size, zeros behind what the library knows */
    struct {
        hymba_model_info info;
        uint64_t later;
    } info;
    memset(&info, 0xee, sizeof info);
    info.info.struct_size = sizeof info;
    test_status(hymba_model_get_info(model, &info.info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.later, 0);
    ck_assert_uint_eq(info.info.struct_size, sizeof info);
    memset(&info, 0xee, sizeof info);
    info.info.struct_size = offsetof(hymba_model_info, n_layers);
    test_status(hymba_model_get_info(model, &info.info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.info.vocabulary_size, 257);
    ck_assert_uint_eq(info.info.n_layers, 0xeeeeeeeeu);
    hymba_model_release(model);
}
END_TEST

START_TEST(an_error_record_is_written_up_to_its_size)
{
    struct {
        hymba_error record;
        char guard[8];
    } small;
    memset(&small, 'x', sizeof small);
    hymba_error_init(&small.record, offsetof(hymba_error, message) + 12);
    ck_assert_int_eq(small.record.message[12], 'x');
    ck_assert_int_eq(hymba_session_reset(NULL, &small.record), HYMBA_ERROR_ARGUMENT);
    ck_assert_int_eq(small.record.status, HYMBA_ERROR_ARGUMENT);
    ck_assert_uint_eq(strlen(small.record.message), 11);
    ck_assert_int_eq(small.record.message[12], 'x');
    memset(&small, 0, sizeof small); /* struct_size 0: nothing may be written */
    ck_assert_int_eq(hymba_session_reset(NULL, &small.record), HYMBA_ERROR_ARGUMENT);
    ck_assert_int_eq(small.record.status, 0);
}
END_TEST

START_TEST(unknown_parameters_are_refused_by_name)
{
    hymba_model *model = open_tiny(NULL), *none;
    hymba_context *context;
    static const struct {
        hymba_context_params params;
        hymba_status status;
        const char *name;
    } cases[] = {
        {{.device = "tpu"}, HYMBA_ERROR_DEVICE, "device"},
        {{.cpu = "mmx"}, HYMBA_ERROR_ARGUMENT, "mmx"},
        {{.cache_type = 77}, HYMBA_ERROR_ARGUMENT, "cache_type"},
        {{.state_type = -1}, HYMBA_ERROR_ARGUMENT, "state_type"},
        {{.compute = 9}, HYMBA_ERROR_ARGUMENT, "compute"},
        {{.max_step_tokens = 1u << 30}, HYMBA_ERROR_ARGUMENT, "max_step_tokens"},
        {{.n_threads = 1u << 30}, HYMBA_ERROR_ARGUMENT, "n_threads"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hymba_context_params params = cases[i].params;
        params.struct_size = sizeof params;
        test_status(hymba_context_create(model, &params, &context, &error), cases[i].status,
                    error);
        ck_assert_ptr_null(context);
        ck_assert_msg(strstr(error.message, cases[i].name) != NULL, "%s", error.message);
    }
    hymba_model_params flags = {.struct_size = sizeof flags, .flags = 1u << 20};
    test_status(hymba_model_open(tiny(), &flags, &none, &error), HYMBA_ERROR_UNSUPPORTED, error);
    hymba_host half = {.struct_size = sizeof half};
    half.free = (void (*)(void *, void *, size_t, size_t))(uintptr_t)1;
    hymba_model_params host = {.struct_size = sizeof host, .host = &half};
    test_status(hymba_model_open(tiny(), &host, &none, &error), HYMBA_ERROR_ARGUMENT, error);
    hymba_model_release(model);
}
END_TEST

/* ---------------------------------------------------------------- lifetimes */

START_TEST(handles_are_released_in_any_order)
{
    static const int32_t tokens[] = {1, 2, 3};
    for (int order = 0; order < 6; order++) {
        hymba_model *model = open_tiny(NULL);
        hymba_context *context = make_context(model);
        hymba_session *session = make_session(context);
        test_status(hymba_session_append(session, tokens, 3, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                    error);
        if (order < 2)
            hymba_model_release(model);
        if (order % 2)
            hymba_context_release(context);
        test_status(hymba_session_append(session, tokens, 3, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                    error);
        if (order >= 4)
            hymba_model_release(model);
        hymba_session_release(session);
        if (!(order % 2))
            hymba_context_release(context);
        if (order == 2 || order == 3)
            hymba_model_release(model);
    }
}
END_TEST

/* -------------------------------------------------------------------- hooks */

struct counts {
    _Atomic size_t n_allocations, live_bytes;
    _Atomic int n_log, n_progress;
    int32_t phases;
    size_t fail_at; /* 0: never */
};

static void *counting_alloc(void *user, size_t size, size_t alignment)
{
    struct counts *counts = user;
    void *pointer = NULL;
    size_t number = atomic_fetch_add(&counts->n_allocations, 1) + 1;
    if (counts->fail_at && number >= counts->fail_at)
        return NULL;
    if (posix_memalign(&pointer, alignment, size) != 0)
        return NULL;
    memset(pointer, 0xa5, size); /* nothing may rely on zeros */
    atomic_fetch_add(&counts->live_bytes, size);
    return pointer;
}

static void counting_free(void *user, void *pointer, size_t size, size_t alignment)
{
    struct counts *counts = user;
    (void)alignment;
    atomic_fetch_sub(&counts->live_bytes, size);
    free(pointer);
}

static void counting_log(void *user, int32_t level, const char *message, size_t length)
{
    struct counts *counts = user;
    ck_assert_int_ge(level, HYMBA_LOG_ERROR);
    ck_assert_uint_eq(strlen(message), length);
    atomic_fetch_add(&counts->n_log, 1);
}

static int32_t counting_progress(void *user, int32_t phase, uint64_t done, uint64_t total)
{
    struct counts *counts = user;
    ck_assert(total == 0 || done <= total);
    counts->phases |= 1 << phase;
    atomic_fetch_add(&counts->n_progress, 1);
    return 0;
}

static hymba_host counting_host(struct counts *counts)
{
    return (hymba_host){.struct_size = sizeof(hymba_host),
                        .user = counts,
                        .alloc = counting_alloc,
                        .free = counting_free,
                        .log = counting_log,
                        .progress = counting_progress};
}

START_TEST(everything_goes_through_the_hooks_and_comes_back)
{
    struct counts counts = {0};
    hymba_host host = counting_host(&counts);
    hymba_model *model = open_tiny(&host);
    hymba_context *context = make_context(model);
    hymba_session *session = make_session(context);
    int32_t tokens[300];
    for (int i = 0; i < 300; i++)
        tokens[i] = i % 257;
    test_status(hymba_session_append(session, tokens, 300, HYMBA_LOGITS_ALL, &error), HYMBA_OK,
                error);
    ck_assert_uint_gt(counts.live_bytes, 0);
    ck_assert_int_gt(counts.n_log, 0);
    ck_assert_int_eq(counts.phases, 1 << HYMBA_PHASE_LOAD | 1 << HYMBA_PHASE_META |
                                        1 << HYMBA_PHASE_PREFILL);
    hymba_session_release(session);
    hymba_context_release(context);
    hymba_model_release(model);
    ck_assert_uint_eq(counts.live_bytes, 0);
}
END_TEST

START_TEST(steady_decode_allocates_nothing)
{
    struct counts counts = {0};
    hymba_host host = counting_host(&counts);
    hymba_model *model = open_tiny(&host);
    hymba_context *context = make_context(model);
    hymba_session *sessions[3];
    hymba_batch_item items[3];
    int32_t token = 5;
    for (int s = 0; s < 3; s++) {
        sessions[s] = make_session(context);
        test_status(hymba_session_reserve(sessions[s], 1000, &error), HYMBA_OK, error);
        items[s] = (hymba_batch_item){sessions[s], &token, 1, HYMBA_LOGITS_LAST, 0, NULL, NULL};
    }
    test_status(hymba_context_decode(context, items, sizeof items[0], 3, &error), HYMBA_OK,
                error);
    test_status(hymba_context_decode(context, items, sizeof items[0], 3, &error), HYMBA_OK,
                error);
    size_t before = counts.n_allocations;
    for (int i = 0; i < 900; i++)
        test_status(hymba_context_decode(context, items, sizeof items[0], 3, &error), HYMBA_OK,
                    error);
    ck_assert_uint_eq(counts.n_allocations, before);
    for (int s = 0; s < 3; s++)
        hymba_session_release(sessions[s]);
    hymba_context_release(context);
    hymba_model_release(model);
}
END_TEST

/* Every allocation of a whole life fails in turn, alone and with all that follow. */
START_TEST(failed_allocations_are_a_status)
{
    static const int32_t tokens[] = {1, 2, 3, 4, 5};
    size_t n_failures = 0;
    for (size_t k = 1;; k++) {
        struct counts counts = {.fail_at = k};
        hymba_host host = counting_host(&counts);
        hymba_model_params params = {.struct_size = sizeof params, .host = &host};
        hymba_model *model = NULL;
        hymba_context *context = NULL;
        hymba_session *session = NULL;
        hymba_status status = hymba_model_open(tiny(), &params, &model, &error);
        if (status == HYMBA_OK)
            status = hymba_context_create(model, NULL, &context, &error);
        if (status == HYMBA_OK)
            status = hymba_session_create(context, NULL, &session, &error);
        if (status == HYMBA_OK)
            status = hymba_session_append(session, tokens, 5, HYMBA_LOGITS_ALL, &error);
        if (status != HYMBA_OK) {
            test_status(status, HYMBA_ERROR_MEMORY, error);
            n_failures++;
            if (session) { /* the session is where it was, and works once there is memory */
                counts.fail_at = 0;
                ck_assert_uint_eq(hymba_session_length(session), 0);
                test_status(hymba_session_append(session, tokens, 5, HYMBA_LOGITS_ALL, &error),
                            HYMBA_OK, error);
            }
        }
        hymba_session_release(session);
        hymba_context_release(context);
        hymba_model_release(model);
        ck_assert_uint_eq(counts.live_bytes, 0);
        if (status == HYMBA_OK)
            break;
    }
    ck_assert_uint_gt(n_failures, 20);
}
END_TEST

/* ------------------------------------------------------------------ figures */

START_TEST(memory_figures_are_what_is_allocated)
{
    struct counts counts = {0};
    hymba_host host = counting_host(&counts);
    hymba_model *model = open_tiny(&host);
    hymba_context_params params = {.struct_size = sizeof params, .n_threads = 1};
    hymba_memory_info info = {.struct_size = sizeof info, .n_tokens = 1024};
    hymba_context *context;
    size_t base = counts.live_bytes;
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    hymba_session *first = make_session(context);
    test_status(hymba_session_reserve(first, 1024, &error), HYMBA_OK, error);
    size_t with_one = counts.live_bytes;
    hymba_session *session = make_session(context);
    test_status(hymba_session_reserve(session, 1024, &error), HYMBA_OK, error);
    size_t session_bytes = counts.live_bytes - with_one;
    test_status(hymba_model_get_memory_info(model, &params, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.meta_bytes + info.kv_bytes + info.conv_bytes + info.ssm_bytes,
                      info.total_bytes);
    /* beside the state a session holds its token list and some small records */
    double expected = (double)(info.total_bytes - info.meta_bytes) + 1024 * 4;
    ck_assert_double_eq_tol((double)session_bytes / expected, 1.0, 0.05);
    double context_bytes = (double)(with_one - base - session_bytes);
    ck_assert_double_eq_tol(context_bytes / (double)(info.workspace_bytes + info.meta_bytes), 1.0,
                            0.05);
    hymba_session_release(first);
    hymba_session_release(session);
    hymba_context_release(context);
    hymba_model_release(model);
}
END_TEST

START_TEST(the_published_shape_needs_what_was_published)
{
    char config[65536];
    size_t length;
    hymba_model *model;
    hymba_model_params params = {.struct_size = sizeof params, .flags = HYMBA_MODEL_NO_WEIGHTS};
    hymba_context_params types = {.struct_size = sizeof types,
                                  .cache_type = HYMBA_DTYPE_F16,
                                  .state_type = HYMBA_DTYPE_F16};
    hymba_memory_info info = {.struct_size = sizeof info, .n_tokens = 8192};
    hymba_model_info described = {.struct_size = sizeof described};
    hymba_context *context;
    test_status(hymba_preset_config("1.5b", config, sizeof config, &length, &error), HYMBA_OK,
                error);
    hymba_memory_file file = {"config.json", config, length};
    test_status(hymba_model_open_memory(&file, sizeof file, 1, &params, &model, &error), HYMBA_OK,
                error);
    test_status(hymba_model_get_info(model, &described, &error), HYMBA_OK, error);
    ck_assert_uint_eq(described.n_parameters, 1522797824);
    ck_assert_uint_eq(described.n_kv_layers, 17);
    ck_assert_double_eq_tol(described.rope_base, 74534.8, 0.1);
    test_status(hymba_model_get_memory_info(model, &types, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.kv_bytes, 3ull * 8192 * 5 * 192 * 2 + 14ull * 1024 * 5 * 192 * 2);
    ck_assert_uint_eq(info.conv_bytes, 32ull * 3200 * 3 * 2);
    ck_assert_uint_eq(info.ssm_bytes, 32ull * 3200 * 16 * 2);
    ck_assert_uint_eq(info.meta_bytes, 17ull * 128 * 5 * 192 * 2);
    ck_assert_uint_lt(info.total_bytes - info.meta_bytes, 78650000); /* "78.6 MB" */
    info.n_tokens = UINT64_MAX / 2;
    test_status(hymba_model_get_memory_info(model, &types, &info, &error), HYMBA_ERROR_LIMIT,
                error);
    test_status(hymba_context_create(model, NULL, &context, &error), HYMBA_ERROR_MISSING, error);
    hymba_model_release(model);
}
END_TEST

START_TEST(a_session_keeps_its_limit)
{
    static const int32_t tokens[] = {1, 2, 3, 4, 5, 6, 7};
    hymba_model *model = open_tiny(NULL);
    hymba_context *context = make_context(model);
    hymba_session_params params = {.struct_size = sizeof params, .max_tokens = 6};
    hymba_session *session;
    test_status(hymba_session_create(context, &params, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, 7, 0, &error), HYMBA_ERROR_LIMIT, error);
    ck_assert_uint_eq(hymba_session_length(session), 0);
    test_status(hymba_session_append(session, tokens, 6, 0, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, 1, 0, &error), HYMBA_ERROR_LIMIT, error);
    test_status(hymba_session_reserve(session, 7, &error), HYMBA_ERROR_LIMIT, error);
    test_status(hymba_session_reset(session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, 6, 0, &error), HYMBA_OK, error);
    hymba_session_release(session);
    hymba_context_release(context);
    hymba_model_release(model);
}
END_TEST

START_TEST(scores_are_the_logits_log_softmax)
{
    enum { N = 40, FIRST = 9 };
    hymba_model *model = open_tiny(NULL);
    hymba_context *context = make_context(model);
    hymba_session *session = make_session(context), *scored = make_session(context);
    int32_t tokens[N];
    float scores[N];
    const float *logits, *last;
    size_t rows;
    for (int i = 0; i < N; i++)
        tokens[i] = (i * 37 + 11) % 257;
    test_status(hymba_session_append(session, tokens, N, HYMBA_LOGITS_ALL, &error), HYMBA_OK,
                error);
    test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
    test_status(hymba_session_append(scored, tokens, FIRST, HYMBA_LOGITS_NONE, &error), HYMBA_OK,
                error);
    test_status(hymba_session_score(scored, tokens + FIRST, 1, scores, &error), HYMBA_ERROR_STATE,
                error);
    test_status(hymba_session_reset(scored, &error), HYMBA_OK, error);
    test_status(hymba_session_append(scored, tokens, FIRST, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    test_status(hymba_session_score(scored, tokens + FIRST, N - FIRST, scores, &error), HYMBA_OK,
                error);
    for (int i = FIRST; i < N; i++) {
        const float *row = logits + (i - 1) * 257;
        double sum = 0.0;
        for (int j = 0; j < 257; j++)
            sum += exp((double)row[j]);
        ck_assert_double_eq_tol(scores[i - FIRST], row[tokens[i]] - log(sum), 1e-5);
    }
    test_status(hymba_session_logits(scored, &last, &rows, &error), HYMBA_OK, error);
    ck_assert_uint_eq(rows, 1);
    ck_assert_mem_eq(last, logits + (N - 1) * 257, 257 * sizeof(float));
    hymba_session_release(session);
    hymba_session_release(scored);
    hymba_context_release(context);
    hymba_model_release(model);
}
END_TEST

/* ------------------------------------------------------------------ threads */

struct second_caller {
    hymba_session *session;
    _Atomic bool started, finished;
    hymba_status status;
    int n_busy;
};

/* A progress callback that calls the context it is called for, from another thread. */
static void *call_again(void *argument)
{
    struct second_caller *caller = argument;
    int32_t token = 1;
    caller->status = hymba_session_append(caller->session, &token, 1, 0, NULL);
    return NULL;
}

static int32_t call_from_progress(void *user, int32_t phase, uint64_t done, uint64_t total)
{
    struct second_caller *caller = user;
    pthread_t thread;
    (void)phase;
    (void)done;
    (void)total;
    if (!caller->session)
        return 0;
    ck_assert_int_eq(pthread_create(&thread, NULL, call_again, caller), 0);
    pthread_join(thread, NULL);
    caller->n_busy += caller->status == HYMBA_ERROR_BUSY;
    return 0;
}

START_TEST(a_busy_context_refuses_a_second_caller)
{
    struct second_caller caller = {0};
    hymba_host host = {
        .struct_size = sizeof host, .user = &caller, .progress = call_from_progress};
    hymba_model *model = open_tiny(&host);
    hymba_context *context = make_context(model);
    hymba_session *session = make_session(context);
    int32_t tokens[300] = {0};
    caller.session = session;
    test_status(hymba_session_append(session, tokens, 300, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    ck_assert_int_gt(caller.n_busy, 0);
    ck_assert_uint_eq(hymba_session_length(session), 300);
    hymba_session_release(session);
    hymba_context_release(context);
    hymba_model_release(model);
}
END_TEST

static void *run_own_context(void *argument)
{
    hymba_model *model = argument;
    static const int32_t tokens[] = {9, 8, 7, 6};
    hymba_context *context;
    hymba_context_params params = {.struct_size = sizeof params, .n_threads = 2};
    if (hymba_context_create(model, &params, &context, NULL) != HYMBA_OK)
        return NULL;
    hymba_session *session;
    const float *logits;
    size_t rows;
    float *copy = NULL;
    if (hymba_session_create(context, NULL, &session, NULL) == HYMBA_OK) {
        for (int i = 0; i < 20; i++)
            hymba_session_append(session, tokens, 4, HYMBA_LOGITS_LAST, NULL);
        if (hymba_session_logits(session, &logits, &rows, NULL) == HYMBA_OK) {
            copy = malloc(257 * sizeof *copy);
            memcpy(copy, logits, 257 * sizeof *copy);
        }
        hymba_session_release(session);
    }
    hymba_context_release(context);
    return copy;
}

START_TEST(contexts_share_a_model_across_threads)
{
    hymba_model *model = open_tiny(NULL);
    pthread_t threads[4];
    void *results[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, run_own_context, model), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], &results[i]);
        ck_assert_ptr_nonnull(results[i]);
        ck_assert_mem_eq(results[i], results[0], 257 * sizeof(float));
    }
    for (int i = 0; i < 4; i++)
        free(results[i]);
    hymba_model_release(model);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api");
    TCase *tests = tcase_create("api");
    tcase_set_timeout(tests, 600);
    tcase_add_test(tests, version_and_names);
    tcase_add_test(tests, null_handles_are_refused_by_name);
    tcase_add_test(tests, older_and_newer_structs);
    tcase_add_test(tests, an_error_record_is_written_up_to_its_size);
    tcase_add_test(tests, unknown_parameters_are_refused_by_name);
    tcase_add_test(tests, handles_are_released_in_any_order);
    tcase_add_test(tests, everything_goes_through_the_hooks_and_comes_back);
    tcase_add_test(tests, steady_decode_allocates_nothing);
    tcase_add_test(tests, failed_allocations_are_a_status);
    tcase_add_test(tests, memory_figures_are_what_is_allocated);
    tcase_add_test(tests, the_published_shape_needs_what_was_published);
    tcase_add_test(tests, a_session_keeps_its_limit);
    tcase_add_test(tests, scores_are_the_logits_log_softmax);
    tcase_add_test(tests, a_busy_context_refuses_a_second_caller);
    tcase_add_test(tests, contexts_share_a_model_across_threads);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
