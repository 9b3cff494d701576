/* Generation with the demo model: text, tokens, stops, limits, cancellation, retries. */
#include "support.h"

#include "hymba.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static hymba_error error = {.struct_size = sizeof error};
static hymba_model *model;
static hymba_context *context;

static void set_up(void)
{
    test_status(hymba_model_open(test_data("examples/demo"), NULL, &model, &error), HYMBA_OK,
                error);
    hymba_context_params params = {.struct_size = sizeof params, .compute = HYMBA_COMPUTE_F32};
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
}

static void tear_down(void)
{
    hymba_context_release(context);
    hymba_model_release(model);
}

static hymba_sampler *greedy(void)
{
    hymba_sampler *sampler;
    test_status(hymba_sampler_create(NULL, NULL, &sampler, &error), HYMBA_OK, error);
    return sampler;
}

static hymba_session *prompted(const char *text, uint64_t max_tokens)
{
    hymba_session_params params = {.struct_size = sizeof params, .max_tokens = max_tokens};
    hymba_session *session;
    int32_t ids[256];
    size_t n;
    test_status(hymba_tokenizer_encode(hymba_model_tokenizer(model), text, HYMBA_NUL_TERMINATED,
                                       HYMBA_ENCODE_BOS, ids, 256, &n, &error),
                HYMBA_OK, error);
    test_status(hymba_session_create(context, &params, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, ids, n, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    return session;
}

/* What a generation gave. */
struct result {
    char text[8192];
    size_t length;
    int32_t ids[512];
    size_t n;
    int32_t stop;
};

static void generate(hymba_session *session, hymba_sampler *sampler,
                     const hymba_generation_params *params, struct result *result)
{
    hymba_generation *generation;
    hymba_event event = {.struct_size = sizeof event};
    memset(result, 0, sizeof *result);
    test_status(hymba_generation_create(session, sampler, hymba_model_tokenizer(model), params,
                                        &generation, &error),
                HYMBA_OK, error);
    do {
        test_status(hymba_generation_next(generation, &event, &error), HYMBA_OK, error);
        ck_assert_uint_eq(strlen(event.text), event.length);
        ck_assert_uint_lt(result->length + event.length, sizeof result->text);
        memcpy(result->text + result->length, event.text, event.length);
        result->length += event.length;
        if (event.kind == HYMBA_EVENT_TOKEN)
            result->ids[result->n++] = event.token;
    } while (event.kind != HYMBA_EVENT_END);
    result->stop = event.stop;
    /* END again, without text */
    test_status(hymba_generation_next(generation, &event, &error), HYMBA_OK, error);
    ck_assert_int_eq(event.kind, HYMBA_EVENT_END);
    ck_assert_int_eq(event.stop, result->stop);
    ck_assert_uint_eq(event.length, 0);
    hymba_generation_release(generation);
}

static hymba_generation_params params_of(uint64_t max_tokens)
{
    return (hymba_generation_params){.struct_size = sizeof(hymba_generation_params),
                                     .max_tokens = max_tokens,
                                     .flags = HYMBA_GENERATION_IGNORE_EOS};
}

START_TEST(greedy_continuations_of_the_demo_model)
{
    json_error_t fault;
    json_t *truth = json_load_file(test_data("demo/eval.json"), 0, &fault);
    ck_assert_ptr_nonnull(truth);
    json_t *cases = json_object_get(truth, "greedy"), *item;
    size_t index;
    ck_assert_uint_eq(json_array_size(cases), 10);
    json_array_foreach(cases, index, item)
    {
        json_t *ids = json_object_get(item, "continuation_ids");
        const char *prompt = json_string_value(json_object_get(item, "prompt"));
        hymba_generation_params params = params_of(json_array_size(ids));
        hymba_session *session = prompted(prompt, 0);
        hymba_sampler *sampler = greedy();
        struct result *result = malloc(sizeof *result);
        generate(session, sampler, &params, result);
        ck_assert_uint_eq(result->n, json_array_size(ids));
        for (size_t i = 0; i < result->n; i++)
            ck_assert_int_eq(result->ids[i], json_integer_value(json_array_get(ids, i)));
        ck_assert_int_eq(result->stop, HYMBA_STOP_LENGTH);
        /* prompt and continuation together are what decoding all tokens gives */
        char whole[8192];
        size_t length, prompt_length = strlen(prompt);
        test_status(hymba_tokenizer_decode(hymba_model_tokenizer(model),
                                           hymba_session_tokens(session),
                                           hymba_session_length(session), 0, whole, sizeof whole,
                                           &length, &error),
                    HYMBA_OK, error);
        ck_assert_uint_eq(length, prompt_length + result->length);
        ck_assert_mem_eq(whole, prompt, prompt_length);
        ck_assert_mem_eq(whole + prompt_length, result->text, result->length);
        free(result);
        hymba_sampler_release(sampler);
        hymba_session_release(session);
    }
    json_decref(truth);
}
END_TEST

/* Logits over two of those continuations, from the published code. */
START_TEST(logits_of_the_demo_model)
{
    hymba_session *session;
    size_t size;
    char *file = test_read_file(test_data("demo/golden.safetensors"), &size);
    uint64_t header;
    memcpy(&header, file, 8);
    json_t *names = json_loadb(file + 8, header, 0, NULL), *entry;
    const char *name;
    int compared = 0;
    ck_assert_ptr_nonnull(names);
    json_object_foreach(names, name, entry)
    {
        char logits_name[64];
        if (!strstr(name, ".input_ids"))
            continue;
        snprintf(logits_name, sizeof logits_name, "%.*s.logits", (int)(strchr(name, '.') - name),
                 name);
        json_t *where = json_object_get(entry, "data_offsets");
        json_t *truth = json_object_get(json_object_get(names, logits_name), "data_offsets");
        size_t begin = json_integer_value(json_array_get(where, 0));
        size_t n = (json_integer_value(json_array_get(where, 1)) - begin) / 4, rows;
        const int32_t *ids = (const void *)(file + 8 + header + begin);
        const float *expected = (const void *)(file + 8 + header +
                                               json_integer_value(json_array_get(truth, 0)));
        const float *logits;
        test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
        test_status(hymba_session_append(session, ids, n, HYMBA_LOGITS_ALL, &error), HYMBA_OK,
                    error);
        test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
        for (size_t i = 0; i < rows * 4096; i++)
            ck_assert_double_le(fabs((double)logits[i] - (double)expected[i]), 2e-4);
        hymba_session_release(session);
        compared++;
    }
    ck_assert_int_eq(compared, 2);
    json_decref(names);
    free(file);
}
END_TEST

START_TEST(stop_strings_end_the_text_before_them)
{
    struct result whole, cut;
    hymba_sampler *sampler = greedy();
    hymba_session *session = prompted("Once upon a time", 0);
    hymba_generation_params params = params_of(60);
    generate(session, sampler, &params, &whole);
    hymba_session_release(session);
    /* every stretch of the text as a stop string, long ones across many tokens too */
    for (size_t from = 0; from + 40 < whole.length; from += 23) {
        for (size_t length = 1; length < 40; length += 13) {
            char stop[64], other[] = "never in a text \x01";
            memcpy(stop, whole.text + from, length);
            stop[length] = '\0';
            const char *stops[] = {other, stop};
            params.stop_strings = stops;
            params.n_stop_strings = 2;
            session = prompted("Once upon a time", 0);
            generate(session, sampler, &params, &cut);
            size_t expected = (size_t)(strstr(whole.text, stop) - whole.text);
            ck_assert_int_eq(cut.stop, HYMBA_STOP_STRING);
            ck_assert_uint_eq(cut.length, expected);
            ck_assert_mem_eq(cut.text, whole.text, expected);
            /* the session holds every token that was given out */
            uint64_t n = hymba_session_length(session);
            ck_assert_mem_eq(hymba_session_tokens(session) + n - cut.n, cut.ids,
                             cut.n * sizeof cut.ids[0]);
            hymba_session_release(session);
        }
    }
    hymba_sampler_release(sampler);
}
END_TEST

START_TEST(text_held_for_a_stop_string_is_given_at_the_end)
{
    struct result whole, held;
    hymba_sampler *sampler = greedy();
    hymba_generation_params params = params_of(20);
    hymba_session *session = prompted("Once upon a time", 0);
    generate(session, sampler, &params, &whole);
    hymba_session_release(session);
    char stop[64];
    snprintf(stop, sizeof stop, "%s\x01", whole.text + whole.length - 12);
    const char *stops[] = {stop};
    params.stop_strings = stops;
    params.n_stop_strings = 1;
    session = prompted("Once upon a time", 0);
    generate(session, sampler, &params, &held);
    ck_assert_int_eq(held.stop, HYMBA_STOP_LENGTH);
    ck_assert_str_eq(held.text, whole.text);
    hymba_session_release(session);
    hymba_sampler_release(sampler);
}
END_TEST

START_TEST(the_session_s_limit_ends_it)
{
    struct result result;
    hymba_sampler *sampler = greedy();
    hymba_session *session = prompted("Once upon a time", 12); /* five tokens of prompt */
    hymba_generation_params params = params_of(0);
    generate(session, sampler, &params, &result);
    ck_assert_int_eq(result.stop, HYMBA_STOP_LIMIT);
    ck_assert_uint_eq(hymba_session_length(session), 12);
    ck_assert_uint_eq(result.n, 8); /* the last one was chosen, but has no place */
    hymba_session_release(session);
    hymba_sampler_release(sampler);
}
END_TEST

START_TEST(the_end_token_ends_it)
{
    struct result result;
    hymba_sampler_params sampling = {.struct_size = sizeof sampling, .temperature = 1.0f};
    hymba_generation_params params = {.struct_size = sizeof params, .max_tokens = 500};
    int n_ended = 0;
    for (uint64_t seed = 0; seed < 4; seed++) {
        hymba_sampler *sampler;
        sampling.seed = seed;
        test_status(hymba_sampler_create(&sampling, NULL, &sampler, &error), HYMBA_OK, error);
        hymba_session *session = prompted("The end. Good", 0);
        generate(session, sampler, &params, &result);
        for (size_t i = 0; i < result.n; i++)
            ck_assert_int_ne(result.ids[i], 2);
        n_ended += result.stop == HYMBA_STOP_EOS;
        hymba_session_release(session);
        hymba_sampler_release(sampler);
    }
    ck_assert_int_gt(n_ended, 0);
}
END_TEST

START_TEST(cancelled_from_outside)
{
    hymba_generation *generation;
    hymba_event event = {.struct_size = sizeof event};
    hymba_sampler *sampler = greedy();
    hymba_session *session = prompted("Once upon a time", 0);
    test_status(hymba_generation_create(session, sampler, NULL, NULL, &generation, &error),
                HYMBA_OK, error);
    for (int i = 0; i < 3; i++) {
        test_status(hymba_generation_next(generation, &event, &error), HYMBA_OK, error);
        ck_assert_int_eq(event.kind, HYMBA_EVENT_TOKEN);
        ck_assert_uint_eq(event.length, 0); /* no tokenizer, no text */
    }
    hymba_generation_cancel(generation);
    test_status(hymba_generation_next(generation, &event, &error), HYMBA_OK, error);
    ck_assert_int_eq(event.kind, HYMBA_EVENT_END);
    ck_assert_int_eq(event.stop, HYMBA_STOP_CANCELLED);
    /* released in any order */
    hymba_session_release(session);
    hymba_sampler_release(sampler);
    hymba_generation_release(generation);
}
END_TEST

START_TEST(wrong_uses_are_refused)
{
    hymba_generation *generation;
    hymba_sampler *sampler = greedy();
    hymba_session *session, *empty;
    const char *stops[] = {"x", ""};
    hymba_generation_params params = params_of(5);
    test_status(hymba_session_create(context, NULL, &empty, &error), HYMBA_OK, error);
    test_status(hymba_generation_create(empty, sampler, NULL, NULL, &generation, &error),
                HYMBA_ERROR_STATE, error);
    session = prompted("Once", 0);
    test_status(hymba_generation_create(session, NULL, NULL, NULL, &generation, &error),
                HYMBA_ERROR_ARGUMENT, error);
    params.stop_strings = stops;
    params.n_stop_strings = 1;
    test_status(hymba_generation_create(session, sampler, NULL, &params, &generation, &error),
                HYMBA_ERROR_ARGUMENT, error);
    params.n_stop_strings = 2;
    test_status(hymba_generation_create(session, sampler, hymba_model_tokenizer(model), &params,
                                        &generation, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 1);
    params.flags = 1u << 9;
    test_status(hymba_generation_create(session, sampler, NULL, &params, &generation, &error),
                HYMBA_ERROR_UNSUPPORTED, error);
    hymba_session_release(session);
    hymba_session_release(empty);
    hymba_sampler_release(sampler);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("generate");
    TCase *tests = tcase_create("generate");
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    if (!test_looks_for_races()) { /* many tokens, and what test_golden does with threads */
        tcase_add_test(tests, greedy_continuations_of_the_demo_model);
        tcase_add_test(tests, logits_of_the_demo_model);
        tcase_add_test(tests, stop_strings_end_the_text_before_them);
        tcase_add_test(tests, text_held_for_a_stop_string_is_given_at_the_end);
    }
    tcase_add_test(tests, the_session_s_limit_ends_it);
    tcase_add_test(tests, the_end_token_ends_it);
    tcase_add_test(tests, cancelled_from_outside);
    tcase_add_test(tests, wrong_uses_are_refused);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
