/* config.json: what is read, and what is refused and how. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/config.h"
#include "host.h"

static struct hy_memory memory;
static hymba_error error;
static struct test_host host;

static void setup(void)
{
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
    test_status(hy_memory_init(&memory, &host.host, &error), HYMBA_OK, error);
}

static void teardown(void)
{
    test_host_check(&host);
}

/* A small model of 6 layers: the fields that may be varied, each with its text. */
struct field {
    const char *key, *text;
};

static const struct field base_fields[] = {
    {"model_type", "\"hymba\""},
    {"vocab_size", "320"},
    {"hidden_size", "96"},
    {"intermediate_size", "144"},
    {"num_hidden_layers", "6"},
    {"num_attention_heads", "6"},
    {"num_key_value_heads", "2"},
    {"num_memory_tokens", "8"},
    {"sliding_window", "16"},
    {"global_attn_idx", "[0,5]"},
    {"kv_reuse_group", "[[1,3],[2,4]]"},
    {"kv_reuse_every_i_layer", "-1"},
    {"rms_norm_eps", "1e-6"},
    {"tie_word_embeddings", "true"},
    {"rope", "true"},
    {"rope_theta", "10000.0"},
    {"rope_type", "\"ntk\""},
    {"max_position_embeddings", "256"},
    {"orig_max_position_embeddings", "64"},
    {"mamba_d_state", "16"},
    {"mamba_d_conv", "4"},
    {"mamba_expand", "2"},
    {"mamba_dt_rank", "6"},
    {"bos_token_id", "1"},
    {"eos_token_id", "2"},
    {"num_experts", "1"},
    {"memory_tokens_interspersed_every", "0"},
    {"kq_norm", "\"none\""},
    {"mamba_conv_bias", "true"},
    {"mamba_proj_bias", "false"},
    {"mamba_inner_layernorms", "true"},
    {"hidden_act", "\"silu\""},
    {"mlp_hidden_act", "\"silu\""},
    {"kq_head_dim", "-1"},
    {"attn_hidden_size", "-1"},
    {"num_mamba", "1"},
};
enum { N_BASE_FIELDS = sizeof base_fields / sizeof base_fields[0] };

/* The base with changes: a list of fields that replace or add; text NULL removes. Ends at a key
 * NULL. */
static char *make_text(const struct field *changes)
{
    enum { SIZE = 16384 };
    char *text = malloc(SIZE);
    ck_assert_ptr_nonnull(text);
    int used = snprintf(text, SIZE, "{\"architectures\":[\"HymbaForCausalLM\"]");
    for (size_t i = 0; i < N_BASE_FIELDS; i++) {
        const struct field *change = changes;
        while (change->key && strcmp(change->key, base_fields[i].key) != 0)
            change++;
        if (!change->key)
            used += snprintf(text + used, SIZE - (size_t)used, ",\"%s\":%s", base_fields[i].key,
                             base_fields[i].text);
    }
    for (; changes->key; changes++)
        if (changes->text)
            used += snprintf(text + used, SIZE - (size_t)used, ",\"%s\":%s", changes->key,
                             changes->text);
    ck_assert_int_lt(used + 2, SIZE);
    strcpy(text + used, "}");
    return text;
}

static hymba_status parse_changed(const struct field *changes, struct hy_config *config)
{
    char *text = make_text(changes);
    hymba_status status =
        hy_config_parse(&memory, text, strlen(text), "some/config.json", config, &error);
    free(text);
    return status;
}

#define CHANGES(...) ((const struct field[]){__VA_ARGS__, {NULL, NULL}})

static struct hy_config accept_changed(const struct field *changes)
{
    struct hy_config config;
    test_status(parse_changed(changes, &config), HYMBA_OK, error);
    return config;
}

static struct hy_config accept(const char *key, const char *text)
{
    return accept_changed(CHANGES({key, text}));
}

static void done(struct hy_config *config)
{
    hy_config_free(&memory, config);
    ck_assert_uint_eq(memory.used, 0);
}

static void refuse_changed(const struct field *changes, hymba_status status, const char *word,
                           const char *more)
{
    struct hy_config config;
    test_status(parse_changed(changes, &config), status, error);
    ck_assert_msg(strstr(error.message, "some/config.json") && strstr(error.message, word) &&
                      strstr(error.message, more),
                  "%s = %s: %s", changes->key, changes->text ? changes->text : "(absent)",
                  error.message);
    ck_assert_ptr_null(config.layers);
    done(&config);
}

/* The sentence must name the field. */
static void refuse(const char *key, const char *text, hymba_status status, const char *more)
{
    refuse_changed(CHANGES({key, text}), status, key, more);
}

static void refuse_format(const char *key, const char *text, const char *more)
{
    refuse(key, text, HYMBA_ERROR_FORMAT, more);
}

START_TEST(every_size_is_read)
{
    struct hy_config config = accept("unknown_field", "[{}]");
    ck_assert_uint_eq(config.vocabulary_size, 320);
    ck_assert_uint_eq(config.hidden_size, 96);
    ck_assert_uint_eq(config.intermediate_size, 144);
    ck_assert_uint_eq(config.n_layers, 6);
    ck_assert_uint_eq(config.n_heads, 6);
    ck_assert_uint_eq(config.n_kv_heads, 2);
    ck_assert_uint_eq(config.qk_head_size, 16);
    ck_assert_uint_eq(config.inner_size, 192);
    ck_assert_uint_eq(config.v_head_size, 32);
    ck_assert_uint_eq(config.state_size, 16);
    ck_assert_uint_eq(config.conv_width, 4);
    ck_assert_uint_eq(config.dt_rank, 6);
    ck_assert_uint_eq(config.n_meta_tokens, 8);
    ck_assert_uint_eq(config.window, 16);
    ck_assert(config.tie_embeddings);
    ck_assert(config.rope);
    ck_assert_double_eq(config.rms_norm_epsilon, 1e-6);
    ck_assert_uint_eq(config.max_position, 256);
    ck_assert_int_eq(config.bos_token, 1);
    ck_assert_int_eq(config.eos_token, 2);
    done(&config);
}
END_TEST

START_TEST(layers_follow_groups_and_window)
{
    static const uint32_t kv_layers[] = {0, 1, 2, 1, 2, 5};
    struct hy_config config = accept("rope", "true");
    for (uint32_t i = 0; i < 6; i++) {
        const struct hy_layer_config *layer = &config.layers[i];
        ck_assert_uint_eq(layer->kv_layer, kv_layers[i]);
        ck_assert_int_eq(layer->full_attention, i == 0 || i == 5);
        ck_assert(layer->attention && layer->ssm);
        ck_assert_int_eq(layer->fusion, HYMBA_FUSION_MEAN);
        ck_assert_int_eq(layer->ffn, HYMBA_FFN_SWIGLU);
    }
    done(&config);
}
END_TEST

START_TEST(golden_configurations)
{
    static const struct {
        const char *name;
        uint32_t n_layers, window, n_full, n_producers, dt_rank;
        bool tied;
    } models[] = {
        {"a_all_features", 6, 16, 1, 3, 6, true},    {"b_no_meta", 4, 16, 2, 3, 6, true},
        {"c_all_sliding", 4, 12, 0, 2, 6, true},     {"d_all_full", 3, 0, 3, 3, 6, true},
        {"e_gqa1_odd_untied", 5, 20, 3, 5, 5, false}, {"f_official_like", 8, 16, 3, 5, 8, true},
    };
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char path[200];
        size_t length;
        struct hy_config config;
        uint32_t n_full = 0, n_producers = 0;
        snprintf(path, sizeof path, "goldens/%s/config.json", models[i].name);
        char *text = test_read_file(test_data(path), &length);
        test_status(hy_config_parse(&memory, text, length, path, &config, &error), HYMBA_OK,
                    error);
        for (uint32_t k = 0; k < config.n_layers; k++) {
            n_full += config.layers[k].full_attention;
            n_producers += config.layers[k].kv_layer == k;
        }
        ck_assert_uint_eq(config.n_layers, models[i].n_layers);
        ck_assert_uint_eq(config.window, models[i].window);
        ck_assert_uint_eq(n_full, models[i].n_full);
        ck_assert_uint_eq(n_producers, models[i].n_producers);
        ck_assert_uint_eq(config.dt_rank, models[i].dt_rank);
        ck_assert_int_eq(config.tie_embeddings, models[i].tied);
        free(text);
        done(&config);
    }
}
END_TEST

START_TEST(required_fields)
{
    static const char *const keys[] = {
        "vocab_size",          "hidden_size",   "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "mamba_d_state", "mamba_d_conv",
        "mamba_dt_rank",       "rms_norm_eps",  "tie_word_embeddings", "global_attn_idx",
        "orig_max_position_embeddings", "max_position_embeddings",
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        refuse_format(keys[i], NULL, "is absent");
}
END_TEST

START_TEST(absent_fields_have_their_published_value)
{
    static const char *const keys[] = {
        "model_type", "num_experts", "memory_tokens_interspersed_every", "kq_norm",
        "mamba_conv_bias", "mamba_proj_bias", "mamba_inner_layernorms", "hidden_act",
        "mlp_hidden_act", "kq_head_dim", "attn_hidden_size", "num_mamba", "kv_reuse_every_i_layer",
        "rope_theta", "mamba_expand",
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        struct hy_config config = accept(keys[i], NULL);
        ck_assert_uint_eq(config.inner_size, 192);
        done(&config);
    }
    struct hy_config config = accept("rope", NULL);
    ck_assert(!config.rope);
    ck_assert_double_eq(config.rope_base, 0);
    done(&config);
    config = accept("num_memory_tokens", NULL);
    ck_assert_uint_eq(config.n_meta_tokens, 0);
    done(&config);
    config = accept("kv_reuse_group", NULL);
    ck_assert_uint_eq(config.layers[3].kv_layer, 3);
    done(&config);
    config = accept("bos_token_id", NULL);
    ck_assert_int_eq(config.bos_token, -1);
    done(&config);
}
END_TEST

START_TEST(fields_with_one_value)
{
    static const struct field wrong[] = {
        {"model_type", "\"mamba\""}, {"num_experts", "8"}, {"num_experts", "1.0"},
        {"num_experts", "null"}, {"memory_tokens_interspersed_every", "4"}, {"kq_norm", "\"rms\""},
        {"kq_norm", "null"}, {"mamba_conv_bias", "false"}, {"mamba_proj_bias", "true"},
        {"mamba_inner_layernorms", "false"}, {"mamba_inner_layernorms", "1"},
        {"hidden_act", "\"gelu\""}, {"mlp_hidden_act", "\"relu2\""}, {"attn_hidden_size", "48"},
        {"num_mamba", "2"}, {"kq_head_dim", "32"}, {"rope_type", "\"dynamic_ntk\""},
        {"rope_type", "\"yarn\""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        refuse(wrong[i].key, wrong[i].text, HYMBA_ERROR_UNSUPPORTED, "expected");
    refuse("num_experts", "8", HYMBA_ERROR_UNSUPPORTED, "is 8, expected 1");
    refuse("mlp_hidden_act", "\"relu2\"", HYMBA_ERROR_UNSUPPORTED,
           "is \"relu2\", expected \"silu\"");
    refuse("rope_type", "\"dynamic_ntk\"", HYMBA_ERROR_UNSUPPORTED,
           "\"dynamic_ntk\", expected \"default\" or \"ntk\"");
    struct hy_config config = accept("kq_head_dim", "16"); /* hidden_size / heads: as if -1 */
    done(&config);
}
END_TEST

START_TEST(sizes_are_checked)
{
    static const struct field wrong[] = {
        {"vocab_size", "0"}, {"vocab_size", "16777217"}, {"vocab_size", "-5"},
        {"vocab_size", "4294967616"}, {"vocab_size", "\"320\""}, {"vocab_size", "320.0"},
        {"vocab_size", "null"}, {"vocab_size", "true"}, {"hidden_size", "0"},
        {"hidden_size", "65544"}, {"hidden_size", "9223372036854775807"},
        {"intermediate_size", "1048577"}, {"num_hidden_layers", "0"},
        {"num_hidden_layers", "1025"}, {"num_attention_heads", "0"},
        {"num_key_value_heads", "0"}, {"num_key_value_heads", "null"},
        {"num_memory_tokens", "65537"}, {"num_memory_tokens", "-1"}, {"mamba_d_state", "0"},
        {"mamba_d_state", "1025"}, {"mamba_d_conv", "1"}, {"mamba_d_conv", "17"},
        {"mamba_expand", "0"}, {"mamba_expand", "-2"}, {"mamba_expand", "65"},
        {"mamba_expand", "1e300"}, {"mamba_expand", "\"2\""}, {"mamba_expand", "0.001"},
        {"mamba_dt_rank", "0"}, {"mamba_dt_rank", "65537"}, {"mamba_dt_rank", "\"best\""},
        {"mamba_dt_rank", "6.5"}, {"sliding_window", "0"}, {"sliding_window", "-1"},
        {"sliding_window", "2147483648"}, {"sliding_window", "16.5"}, {"rms_norm_eps", "0"},
        {"rms_norm_eps", "-1e-6"}, {"rms_norm_eps", "2"}, {"rms_norm_eps", "\"1e-6\""},
        {"tie_word_embeddings", "1"}, {"tie_word_embeddings", "null"}, {"rope", "1"},
        {"rope", "null"}, {"rope_theta", "0"}, {"rope_theta", "-1"}, {"rope_theta", "1e308"},
        {"rope_type", "1"}, {"max_position_embeddings", "0"},
        {"max_position_embeddings", "1e3"}, {"orig_max_position_embeddings", "-1"},
        {"orig_max_position_embeddings", "null"}, {"kq_head_dim", "\"-1\""},
        {"kv_reuse_every_i_layer", "null"}, {"kv_reuse_every_i_layer", "1.5"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        refuse_format(wrong[i].key, wrong[i].text, "expected");
    refuse_format("vocab_size", "16777217", "is 16777217, expected an integer from 1 to 16777216");
}
END_TEST

START_TEST(sizes_must_fit_each_other)
{
    refuse_format("num_attention_heads", "5", "hidden_size is 96");
    refuse_format("num_key_value_heads", "4", "num_attention_heads is 6");
    refuse_format("num_key_value_heads", "12", "multiple");
    /* 96 * 1.03125 = 99 channels cannot be divided among 6 heads */
    refuse_format("mamba_expand", "1.03125", "is 99");
    refuse_changed(CHANGES({"hidden_size", "65536"}, {"mamba_expand", "32"},
                           {"num_attention_heads", "8"}),
                   HYMBA_ERROR_FORMAT, "mamba_expand", "2097152");
    struct hy_config config = accept("mamba_expand", "1.5");
    ck_assert_uint_eq(config.inner_size, 144);
    ck_assert_uint_eq(config.v_head_size, 24);
    done(&config);
}
END_TEST

START_TEST(dt_rank_may_be_automatic)
{
    struct hy_config config = accept("mamba_dt_rank", "\"auto\"");
    ck_assert_uint_eq(config.dt_rank, 6);
    done(&config);
    config = accept_changed(CHANGES({"mamba_dt_rank", "\"auto\""}, {"hidden_size", "108"}));
    ck_assert_uint_eq(config.dt_rank, 7);
    done(&config);
}
END_TEST

/* semantics.md, section 5: of the published model, 10000 * 7^(64/62) = 74534.8. */
START_TEST(rope_base_is_scaled)
{
    struct hy_config config = accept_changed(
        CHANGES({"hidden_size", "384"}, {"max_position_embeddings", "8192"},
                {"orig_max_position_embeddings", "2048"}));
    ck_assert_double_eq_tol(config.rope_base, 74534.8, 0.05);
    done(&config);
    config = accept("rope_type", "null");
    ck_assert_double_eq(config.rope_base, 10000);
    done(&config);
    config = accept_changed(CHANGES({"rope_type", "\"default\""}, {"rope_theta", "500000"},
                                    {"orig_max_position_embeddings", NULL}));
    ck_assert_double_eq(config.rope_base, 500000);
    done(&config);
    config = accept("rope", "false");
    ck_assert_double_eq(config.rope_base, 0);
    done(&config);
}
END_TEST

START_TEST(rope_must_be_possible)
{
    static const struct field head_2[] = {{"hidden_size", "12"}, {NULL, NULL}};
    static const struct field head_3[] = {
        {"hidden_size", "18"}, {"rope_type", "null"}, {NULL, NULL}};
    refuse_changed(head_2, HYMBA_ERROR_FORMAT, "ntk", "head size");
    refuse_changed(head_3, HYMBA_ERROR_FORMAT, "even head size", "is 3");
    refuse_format("orig_max_position_embeddings", "512", "no usable base"); /* factor 0 */
    refuse_format("orig_max_position_embeddings", "600", "no usable base"); /* below 0 */
    struct hy_config config = accept_changed(CHANGES({"hidden_size", "18"}, {"rope", "false"}));
    ck_assert_uint_eq(config.qk_head_size, 3);
    done(&config);
}
END_TEST

START_TEST(window_and_full_layers)
{
    static const char *const none[] = {"null", NULL};
    for (int i = 0; i < 2; i++) {
        struct hy_config config = accept("sliding_window", none[i]);
        ck_assert_uint_eq(config.window, 0);
        for (uint32_t k = 0; k < 6; k++)
            ck_assert(config.layers[k].full_attention);
        done(&config);
    }
    struct hy_config config = accept("global_attn_idx", "[]");
    for (uint32_t k = 0; k < 6; k++)
        ck_assert(!config.layers[k].full_attention);
    done(&config);
    config = accept_changed(CHANGES({"global_attn_idx", "null"}, {"sliding_window", "null"}));
    done(&config);
    refuse_format("global_attn_idx", "null", "is null");
    refuse_format("global_attn_idx", "3", "is 3");
    refuse_format("global_attn_idx", "[0,6]", "global_attn_idx[1] is 6");
    refuse_format("global_attn_idx", "[-1]", "global_attn_idx[0] is -1");
    refuse_format("global_attn_idx", "[0,\"1\"]", "global_attn_idx[1] is \"1\"");
    refuse_format("global_attn_idx", "[4294967296]", "4294967296");
}
END_TEST

START_TEST(groups_are_checked)
{
    refuse_format("kv_reuse_group", "3", "is 3");
    refuse_format("kv_reuse_group", "[3]", "kv_reuse_group[0] is an integer");
    refuse_format("kv_reuse_group", "[[0,1],[]]", "kv_reuse_group[1]");
    refuse_format("kv_reuse_group", "[[0,6]]", "kv_reuse_group[0][1] is 6");
    refuse_format("kv_reuse_group", "[[-1,2]]", "kv_reuse_group[0][0] is -1");
    refuse_format("kv_reuse_group", "[[1,2.0]]", "a number with a fraction");
    refuse_format("kv_reuse_group", "[[1,2],[2,3]]", "kv_reuse_group[1] names layer 2");
    refuse_format("kv_reuse_group", "[[1,1]]", "layer 1");
    refuse_format("kv_reuse_group", "[[2,3,1]]", "layer 1 would read");
    struct hy_config config = accept("kv_reuse_group", "[]");
    ck_assert_uint_eq(config.layers[3].kv_layer, 3);
    done(&config);
    config = accept("kv_reuse_group", "[[0,5,3],[1]]"); /* full and window layers mixed */
    ck_assert_uint_eq(config.layers[5].kv_layer, 0);
    ck_assert_uint_eq(config.layers[3].kv_layer, 0);
    ck_assert_uint_eq(config.layers[1].kv_layer, 1);
    done(&config);
}
END_TEST

START_TEST(interval_counts_only_without_groups)
{
    static const uint32_t expected[] = {0, 0, 0, 3, 3, 3};
    struct hy_config config = accept_changed(
        CHANGES({"kv_reuse_group", "null"}, {"kv_reuse_every_i_layer", "3"}));
    for (uint32_t i = 0; i < 6; i++)
        ck_assert_uint_eq(config.layers[i].kv_layer, expected[i]);
    done(&config);
    config = accept("kv_reuse_every_i_layer", "3");
    ck_assert_uint_eq(config.layers[2].kv_layer, 2);
    done(&config);
    config = accept_changed(
        CHANGES({"kv_reuse_group", "null"}, {"kv_reuse_every_i_layer", "0"}));
    ck_assert_uint_eq(config.layers[2].kv_layer, 2);
    done(&config);
}
END_TEST

START_TEST(special_tokens)
{
    refuse_format("bos_token_id", "320", "from 0 to 319");
    refuse_format("eos_token_id", "-1", "is -1");
    refuse_format("eos_token_id", "\"</s>\"", "</s>");
    refuse_format("eos_token_id", "[400]", "eos_token_id[0] is 400");
    refuse("eos_token_id", "[1,2]", HYMBA_ERROR_UNSUPPORTED, "array of 2");
    refuse("eos_token_id", "[]", HYMBA_ERROR_UNSUPPORTED, "array of 0");
    struct hy_config config = accept_changed(
        CHANGES({"bos_token_id", "null"}, {"eos_token_id", "[7]"}));
    ck_assert_int_eq(config.bos_token, -1);
    ck_assert_int_eq(config.eos_token, 7);
    done(&config);
}
END_TEST

START_TEST(layer_plan_describes_variants)
{
    struct hy_config config = accept_changed(
        CHANGES({"kv_reuse_group", "[[1,4]]"},
                {"layer_plan", "[{\"mixer\":\"attention\",\"ffn\":\"none\"},"
                               "{\"mixer\":\"hybrid\",\"fusion\":\"concat\"},{\"mixer\":\"mamba\"},"
                               "{\"mixer\":\"none\"},{},{\"mixer\":\"mamba\",\"ffn\":\"none\"}]"}));
    const struct hy_layer_config *layer = config.layers;
    ck_assert(layer[0].attention && !layer[0].ssm && layer[0].full_attention);
    ck_assert_int_eq(layer[0].fusion, HYMBA_FUSION_NONE);
    ck_assert_int_eq(layer[0].ffn, HYMBA_FFN_NONE);
    ck_assert_int_eq(layer[1].fusion, HYMBA_FUSION_CONCAT);
    ck_assert(!layer[2].attention && layer[2].ssm);
    ck_assert_int_eq(layer[2].ffn, HYMBA_FFN_SWIGLU);
    ck_assert(!layer[3].attention && !layer[3].ssm);
    ck_assert_int_eq(layer[4].fusion, HYMBA_FUSION_MEAN);
    ck_assert_uint_eq(layer[4].kv_layer, 1);
    ck_assert(!layer[5].full_attention);
    ck_assert_uint_eq(layer[5].kv_layer, 5);
    done(&config);
    config = accept_changed(CHANGES({"kv_reuse_group", "null"},
                                    {"layer_plan", "{\"mixer\":\"mamba\"}"}));
    for (uint32_t i = 0; i < 6; i++)
        ck_assert(config.layers[i].ssm && !config.layers[i].attention);
    done(&config);
}
END_TEST

START_TEST(layer_plan_is_checked)
{
    refuse_format("layer_plan", "null", "is null");
    refuse_format("layer_plan", "[{},{}]", "has 2 elements");
    refuse_format("layer_plan", "[{},{},{},{},{},7]", "layer_plan[5] is an integer");
    refuse_format("layer_plan", "{\"mixers\":\"mamba\"}", "mixers is not a field");
    refuse_format("layer_plan", "{\"mixer\":1}", "mixer is 1");
    refuse("layer_plan", "{\"mixer\":\"rwkv\"}", HYMBA_ERROR_UNSUPPORTED, "mixer is \"rwkv\"");
    refuse("layer_plan", "{\"fusion\":\"sum\"}", HYMBA_ERROR_UNSUPPORTED, "fusion is \"sum\"");
    refuse("layer_plan", "{\"ffn\":\"relu2\"}", HYMBA_ERROR_UNSUPPORTED, "ffn is \"relu2\"");
    refuse_changed(CHANGES({"layer_plan", "[{},{\"mixer\":\"mamba\"},{},{},{},{}]"}),
                   HYMBA_ERROR_FORMAT, "kv_reuse_group[0]", "layer 1, which has no attention");
    refuse_changed(CHANGES({"kv_reuse_group", "null"}, {"kv_reuse_every_i_layer", "3"},
                           {"layer_plan", "[{},{},{},{\"mixer\":\"mamba\"},{},{}]"}),
                   HYMBA_ERROR_FORMAT, "kv_reuse_every_i_layer", "layer 3");
}
END_TEST

static void refuse_text(const char *text, size_t length, const char *word)
{
    struct hy_config config;
    test_status(hy_config_parse(&memory, text, length, "some/config.json", &config, &error),
                HYMBA_ERROR_FORMAT, error);
    ck_assert_msg(strstr(error.message, "some/config.json") && strstr(error.message, word), "%s",
                  error.message);
    done(&config);
}

START_TEST(text_is_checked)
{
    char deep[50001];
    memset(deep, '[', sizeof deep);
    refuse_text("", 0, "");
    refuse_text("[]", 2, "an array");
    refuse_text("null", 4, "null");
    refuse_text("{}", 2, "vocab_size is absent");
    refuse_text("{\"rope\":true,\"rope\":true}", 25, "duplicate");
    refuse_text(deep, sizeof deep, "");
}
END_TEST

START_TEST(every_prefix_is_refused)
{
    char *text = make_text(CHANGES({"layer_plan", "{}"}));
    size_t size = strlen(text);
    for (size_t length = 0; length < size; length++) {
        char *prefix = malloc(length ? length : 1);
        ck_assert_ptr_nonnull(prefix);
        memcpy(prefix, text, length);
        refuse_text(prefix, length, "");
        free(prefix);
    }
    free(text);
}
END_TEST

START_TEST(every_flipped_bit_is_refused_or_harmless)
{
    char *text = make_text(CHANGES({"layer_plan", "{}"}));
    size_t size = strlen(text);
    for (size_t bit = 0; bit < size * 8; bit++) {
        struct hy_config config;
        text[bit / 8] = (char)(text[bit / 8] ^ 1 << bit % 8);
        hymba_status status = hy_config_parse(&memory, text, size, "x", &config, &error);
        ck_assert(status == HYMBA_OK || status == HYMBA_ERROR_FORMAT ||
                  status == HYMBA_ERROR_UNSUPPORTED);
        for (uint32_t i = 0; status == HYMBA_OK && i < config.n_layers; i++)
            ck_assert_uint_le(config.layers[i].kv_layer, i);
        done(&config);
        text[bit / 8] = (char)(text[bit / 8] ^ 1 << bit % 8);
    }
    free(text);
}
END_TEST

START_TEST(without_memory_it_fails_cleanly)
{
    struct hy_config config;
    test_host_fail_at(&host, 0, true);
    test_status(parse_changed(CHANGES({"rope", "true"}), &config), HYMBA_ERROR_MEMORY, error);
    done(&config);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *config = tcase_create("config");
    tcase_set_timeout(config, 240);
    tcase_add_checked_fixture(config, setup, teardown);
    tcase_add_test(config, every_size_is_read);
    tcase_add_test(config, layers_follow_groups_and_window);
    tcase_add_test(config, golden_configurations);
    tcase_add_test(config, required_fields);
    tcase_add_test(config, absent_fields_have_their_published_value);
    tcase_add_test(config, fields_with_one_value);
    tcase_add_test(config, sizes_are_checked);
    tcase_add_test(config, sizes_must_fit_each_other);
    tcase_add_test(config, dt_rank_may_be_automatic);
    tcase_add_test(config, rope_base_is_scaled);
    tcase_add_test(config, rope_must_be_possible);
    tcase_add_test(config, window_and_full_layers);
    tcase_add_test(config, groups_are_checked);
    tcase_add_test(config, interval_counts_only_without_groups);
    tcase_add_test(config, special_tokens);
    tcase_add_test(config, layer_plan_describes_variants);
    tcase_add_test(config, layer_plan_is_checked);
    tcase_add_test(config, text_is_checked);
    tcase_add_test(config, every_prefix_is_refused);
    tcase_add_test(config, every_flipped_bit_is_refused_or_harmless);
    tcase_add_test(config, without_memory_it_fails_cleanly);
    suite_add_tcase(suite, config);
    return test_main(suite);
}
