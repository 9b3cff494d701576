/*
 * How many launches a decode step on the device is made of, counted by the harness: each layer has
 * the kernels that it is written to have, one of each, and no rows are copied around products.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness_plugin.h"
#include "random_model.h"
#include "run/session.h"
#include "support.h"

/* Rows of all matrices have a multiple of 8 elements, as those of the published shapes do. */
static const char config[] =
    "{\"model_type\":\"hymba\",\"vocab_size\":1000,\"hidden_size\":64,"
    "\"intermediate_size\":160,\"num_hidden_layers\":5,\"num_attention_heads\":4,"
    "\"num_key_value_heads\":2,\"num_memory_tokens\":16,\"sliding_window\":64,"
    "\"global_attn_idx\":[0,4],\"kv_reuse_group\":[[1,2]],\"rms_norm_eps\":1e-06,\"rope\":true,"
    "\"rope_theta\":10000.0,\"tie_word_embeddings\":true,\"mamba_d_state\":16,"
    "\"mamba_d_conv\":4,\"mamba_dt_rank\":4,\"mamba_expand\":2,\"bos_token_id\":1,"
    "\"eos_token_id\":2}";
enum { LAYERS = 5, SESSIONS = 130, MOST_TOKENS = 2 };

static hymba_error error = {.struct_size = sizeof error};
static harness_report_kernels_function kernels;
static harness_report_calls_function calls;

static void setup(void)
{
    harness_plugin_open();
    harness_plugin_find(&kernels, HARNESS_REPORT_KERNELS);
    harness_plugin_find(&calls, HARNESS_REPORT_CALLS);
}

/* Tokens of each of the first n sessions, one step together. */
static void decode(hymba_context *context, hymba_session *const *sessions, size_t n,
                   size_t n_tokens)
{
    hymba_batch_item items[SESSIONS];
    static const int32_t ids[MOST_TOKENS];
    for (size_t i = 0; i < n; i++)
        items[i] = (hymba_batch_item){.session = sessions[i],
                                      .tokens = ids,
                                      .n_tokens = n_tokens,
                                      .logits = HYMBA_LOGITS_LAST};
    test_status(hymba_context_decode(context, items, sizeof items[0], n, &error), HYMBA_OK, error);
}

/* Kernels by name: how many of each a layer and a step launch, with products of bf16; and of int8,
 * which the projections have and the others do not. */
static const struct {
    const char *name;
    size_t n_of_layer, n_of_step, n_of_narrow_layer;
} expected[] = {
    {"norm_rows", 2, 1, 0}, /* before the mixer and the feed-forward network; the last one */
    {"rope_store", 1, 0, 1},
    {"conv_width", 1, 0, 1},
    {"norm_parts", 1, 0, 1},
    {"fuse_rows", 1, 0, 0},
    {"swiglu_rows", 1, 0, 0},
    {"round_rows", 0, 0, 0},
    {"copy_rows", 0, 0, 0},
    {"norm_rows_8_bits", 0, 0, 2},
    {"fuse_rows_8_bits", 0, 0, 1},
    {"swiglu_rows_8_bits", 0, 0, 1},
    {"round_rows_8_bits", 0, 0, 0},
    {"scale_sums", 0, 0, 5},
};
enum { N_EXPECTED = sizeof expected / sizeof expected[0] };

struct counts {
    size_t kernels[N_EXPECTED], products, all;
};

static struct counts count(void)
{
    struct counts counts = {.products = calls("cublasLtMatmul"),
                            .all = kernels(NULL)};
    for (size_t i = 0; i < N_EXPECTED; i++)
        counts.kernels[i] = kernels(expected[i].name);
    return counts;
}

/* A first step of so many rows: not yet a graph, which would hide the calls of cuBLASLt. */
static void check_step(hymba_context *context, hymba_session *const *sessions, size_t n,
                       bool narrow)
{
    size_t named = 0;
    struct counts before = count();
    decode(context, sessions, n, 1);
    struct counts after = count();
    printf("a decode step of %zu sessions and %d layers: %zu kernels, %zu products\n", n, LAYERS,
           after.all - before.all, after.products - before.products);
    for (size_t i = 0; i < N_EXPECTED; i++) {
        size_t of_layer = narrow ? expected[i].n_of_narrow_layer : expected[i].n_of_layer;
        ck_assert_msg(after.kernels[i] - before.kernels[i] ==
                          LAYERS * of_layer + expected[i].n_of_step,
                      "%zu sessions: %s ran %zu times", n, expected[i].name,
                      after.kernels[i] - before.kernels[i]);
        named += of_layer;
    }
    ck_assert_uint_eq(after.products - before.products, 7 * LAYERS + 1);
    /* Beside the named ones a layer has the scan and attention, which is cut into parts here and
     * so is two; the step has the embedding and the list of copies that appends the new keys. */
    ck_assert_uint_eq(after.all - before.all, LAYERS * (named + 3) + 1 + 2);
}

/* Steps of many tokens, the most of which fill panels of products, and such as never fill one;
 * these also with projections in 8 bits. */
START_TEST(a_layer_is_few_launches)
{
    hymba_session *sessions[SESSIONS];
    hymba_context *context;
    hymba_model *model = random_model_open(config);
    bool narrow = _i == 2;
    hymba_context_params params = {
        .struct_size = sizeof params, .device = "cuda", .max_step_tokens = _i == 0 ? 150 : 20,
        .compute = narrow ? HYMBA_COMPUTE_INT8 : HYMBA_COMPUTE_BF16};
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    for (size_t i = 0; i < SESSIONS; i++)
        test_status(hymba_session_create(context, NULL, &sessions[i], &error), HYMBA_OK, error);
    size_t copies = kernels("copy_rows"); /* opening a device makes one */
    decode(context, sessions, SESSIONS, MOST_TOKENS);
    check_step(context, sessions, 1, narrow);
    check_step(context, sessions, 3, narrow);
    decode(context, sessions, SESSIONS, 1);
    ck_assert_uint_eq(kernels("copy_rows"), copies);
    for (size_t i = 0; i < SESSIONS; i++)
        hymba_session_release(sessions[i]);
    hymba_context_release(context);
    hymba_model_release(model);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("launches of a step on the CUDA harness");
    TCase *tcase = tcase_create("launches");
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, setup, harness_plugin_close);
    tcase_add_loop_test(tcase, a_layer_is_few_launches, 0, 3);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
