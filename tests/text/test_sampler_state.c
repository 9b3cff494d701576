/* A sampler saved as bytes, alone and with a session, and what bad bytes lead to. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hymba.h"
#include "support.h"

enum { N_LOGITS = 80 };

static hymba_error error = {.struct_size = sizeof error};

/* ------------------------------------------------------------------ helpers */

struct bytes {
    unsigned char *data;
    size_t size;
};

static struct bytes state_of(const hymba_sampler *sampler)
{
    struct bytes bytes;
    test_status(hymba_sampler_state(sampler, NULL, 0, &bytes.size, &error), HYMBA_OK, error);
    bytes.data = malloc(bytes.size);
    test_status(hymba_sampler_state(sampler, bytes.data, bytes.size, &bytes.size, &error),
                HYMBA_OK, error);
    return bytes;
}

static void check_same_state(const hymba_sampler *a, const hymba_sampler *b)
{
    struct bytes first = state_of(a), second = state_of(b);
    ck_assert_uint_eq(first.size, second.size);
    ck_assert_mem_eq(first.data, second.data, first.size);
    free(first.data);
    free(second.data);
}

static hymba_sampler *restore(struct bytes bytes)
{
    hymba_sampler *sampler;
    test_status(hymba_sampler_restore(bytes.data, bytes.size, NULL, &sampler, &error), HYMBA_OK,
                error);
    return sampler;
}

static hymba_sampler *create(hymba_sampler_params params)
{
    hymba_sampler *sampler;
    params.struct_size = sizeof params;
    test_status(hymba_sampler_create(&params, NULL, &sampler, &error), HYMBA_OK, error);
    return sampler;
}

/* Both go on alike. */
static void go_on(hymba_sampler *a, hymba_sampler *b, int n)
{
    float logits[N_LOGITS];
    for (int i = 0; i < n; i++) {
        int32_t first = -1, second = -2;
        for (size_t j = 0; j < N_LOGITS; j++)
            logits[j] = (float)(test_random() * 6 - 3);
        test_status(hymba_sampler_sample(a, logits, N_LOGITS, &first, &error), HYMBA_OK, error);
        test_status(hymba_sampler_sample(b, logits, N_LOGITS, &second, &error), HYMBA_OK, error);
        ck_assert_int_eq(first, second);
    }
}

static const hymba_logit_bias biases[] = {{3, 1.5f}, {7, -INFINITY}, {60, -2}};
static const int32_t breakers[] = {4, 9, 33};

/* Every parameter somewhere different from its default. */
static const hymba_sampler_params kinds[] = {
    {.seed = 1},
    {.seed = 2, .temperature = 0.9f, .top_k = 30, .top_p = 0.9f, .min_p = 0.02f},
    {.seed = 3, .temperature = 1.2f, .typical_p = 0.8f, .top_n_sigma = 2.5f},
    {.seed = 4, .temperature = 1, .xtc_probability = 0.5f, .xtc_threshold = 0.03f},
    {.seed = 5, .temperature = 1, .repeat_penalty = 1.4f, .repeat_last_n = 17,
     .presence_penalty = 0.3f, .frequency_penalty = -0.2f},
    {.seed = 6, .temperature = 1, .repeat_penalty = 1.1f, .repeat_last_n = -1},
    {.seed = 7, .temperature = 1, .dry_multiplier = 0.9f, .dry_base = 1.5f,
     .dry_allowed_length = 1, .dry_penalty_last_n = 40, .dry_breakers = breakers,
     .n_dry_breakers = 3},
    {.seed = 8, .temperature = 0.8f, .mirostat = 2, .mirostat_tau = 3, .mirostat_eta = 0.3f},
    {.seed = 9, .temperature = 1.1f, .logit_bias = biases, .n_logit_bias = 3,
     .order = "temperature;min_p;penalties", .min_p = 0.1f, .frequency_penalty = 0.5f},
    {.seed = 10, .order = ""},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

/* ------------------------------------------------------------------- tests */

START_TEST(a_restored_sampler_goes_on)
{
    static const int lengths[] = {0, 1, 16, 17, 63, 64, 65, 200};
    test_random_seed((unsigned)_i);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        hymba_sampler *sampler = create(kinds[_i]), *twin = create(kinds[_i]);
        go_on(sampler, twin, lengths[i]);
        struct bytes bytes = state_of(sampler);
        hymba_sampler *restored = restore(bytes);
        check_same_state(sampler, restored);
        go_on(sampler, restored, 100);
        check_same_state(sampler, restored);
        /* Saving has not changed it, and a reset leads back to the beginning. */
        hymba_sampler_reset(restored);
        hymba_sampler *fresh = create(kinds[_i]);
        check_same_state(fresh, restored);
        go_on(fresh, restored, 20);
        free(bytes.data);
        hymba_sampler_release(sampler);
        hymba_sampler_release(twin);
        hymba_sampler_release(restored);
        hymba_sampler_release(fresh);
    }
}
END_TEST

static int32_t collect(void *user, const void *data, size_t size)
{
    struct bytes *bytes = user;
    bytes->data = realloc(bytes->data, bytes->size + size);
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
    return 0;
}

START_TEST(a_session_brings_its_sampler_back)
{
    hymba_model *model;
    hymba_context *context;
    hymba_session *session, *loaded;
    const int32_t prompt[] = {1, 20, 30};
    struct bytes file = {NULL, 0};
    test_random_seed(77);
    test_status(hymba_model_open("tests/data/goldens/b_no_meta", NULL, &model, &error), HYMBA_OK,
                error);
    test_status(hymba_context_create(model, NULL, &context, &error), HYMBA_OK, error);
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, prompt, 3, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    hymba_sampler *sampler = create(kinds[_i]), *twin = create(kinds[_i]), *restored;
    go_on(sampler, twin, 90);
    test_status(hymba_session_save_to(session, sampler, collect, &file, NULL, &error), HYMBA_OK,
                error);
    test_status(hymba_session_load_memory(context, file.data, file.size, NULL, &loaded, &restored,
                                          NULL, &error),
                HYMBA_OK, error);
    ck_assert_ptr_nonnull(restored);
    check_same_state(sampler, restored);
    go_on(sampler, restored, 50);
    free(file.data);
    hymba_sampler_release(sampler);
    hymba_sampler_release(twin);
    hymba_sampler_release(restored);
    hymba_session_release(session);
    hymba_session_release(loaded);
    hymba_context_release(context);
    hymba_model_release(model);
}
END_TEST

START_TEST(buffers_keep_the_rule)
{
    hymba_sampler *sampler = create(kinds[7]), *twin = create(kinds[7]);
    size_t needed = 0;
    test_random_seed(3);
    go_on(sampler, twin, 10);
    struct bytes bytes = state_of(sampler);
    unsigned char *small = malloc(bytes.size - 1);
    test_status(hymba_sampler_state(sampler, small, bytes.size - 1, &needed, &error),
                HYMBA_ERROR_BUFFER, error);
    ck_assert_uint_eq(needed, bytes.size);
    test_status(hymba_sampler_state(NULL, NULL, 0, &needed, &error), HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_sampler_state(sampler, NULL, 0, NULL, &error), HYMBA_ERROR_ARGUMENT, error);
    free(small);
    free(bytes.data);
    hymba_sampler_release(sampler);
    hymba_sampler_release(twin);
}
END_TEST

static int32_t do_nothing(void *user, const int32_t *tokens, float *logits, size_t n)
{
    (void)user;
    (void)tokens;
    (void)logits;
    (void)n;
    return 0;
}

START_TEST(a_stage_of_the_caller_s_cannot_be_saved)
{
    size_t needed;
    hymba_sampler *sampler = create((hymba_sampler_params){.process = do_nothing});
    test_status(hymba_sampler_state(sampler, NULL, 0, &needed, &error), HYMBA_ERROR_UNSUPPORTED,
                error);
    hymba_sampler_release(sampler);
}
END_TEST

/* Samples a little from whatever came out. */
static void use(hymba_sampler *sampler)
{
    float logits[N_LOGITS] = {0};
    int32_t token;
    for (int i = 0; i < 3; i++) {
        hymba_status status =
            hymba_sampler_sample(sampler, logits, N_LOGITS, &token, &error);
        ck_assert(status == HYMBA_OK || status == HYMBA_ERROR_ARGUMENT);
    }
    hymba_sampler_release(sampler);
}

static void try_bytes(const unsigned char *data, size_t size, bool must_fail)
{
    hymba_sampler *sampler = (hymba_sampler *)&error;
    unsigned char *exact = malloc(size ? size : 1); /* so that reading beyond it is seen */
    memcpy(exact, data, size);
    hymba_status status = hymba_sampler_restore(exact, size, NULL, &sampler, &error);
    free(exact);
    if (status == HYMBA_OK) {
        ck_assert(!must_fail);
        use(sampler);
        return;
    }
    ck_assert_ptr_null(sampler);
    ck_assert_msg(status == HYMBA_ERROR_FORMAT || status == HYMBA_ERROR_UNSUPPORTED ||
                      status == HYMBA_ERROR_ARGUMENT, "%s", hymba_status_name(status));
}

START_TEST(every_prefix_and_every_flipped_bit)
{
    hymba_sampler *sampler = create(kinds[_i]), *twin = create(kinds[_i]);
    test_random_seed(5);
    go_on(sampler, twin, 20);
    struct bytes bytes = state_of(sampler);
    for (size_t size = 0; size < bytes.size; size++)
        try_bytes(bytes.data, size, true);
    for (size_t bit = 0; bit < bytes.size * 8; bit++) {
        bytes.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        try_bytes(bytes.data, bytes.size, bit < 12 * 8); /* magic number and version */
        bytes.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    bytes.data = realloc(bytes.data, bytes.size + 1);
    bytes.data[bytes.size] = 0;
    try_bytes(bytes.data, bytes.size + 1, true);
    hymba_sampler_release(restore((struct bytes){bytes.data, bytes.size}));
    free(bytes.data);
    hymba_sampler_release(sampler);
    hymba_sampler_release(twin);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sampler state");
    TCase *tests = tcase_create("sampler state");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, a_restored_sampler_goes_on, 0, N_KINDS);
    tcase_add_loop_test(tests, a_session_brings_its_sampler_back, 0, N_KINDS);
    tcase_add_test(tests, buffers_keep_the_rule);
    tcase_add_test(tests, a_stage_of_the_caller_s_cannot_be_saved);
    tcase_add_loop_test(tests, every_prefix_and_every_flipped_bit, 0, N_KINDS);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
