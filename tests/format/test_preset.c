/* The presets: their shapes, and the text of the largest against the published file. */
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

static void done(struct hy_config *config)
{
    hy_config_free(&memory, config);
    ck_assert_uint_eq(memory.used, 0);
}

static struct hy_config parse_preset(const char *name)
{
    struct hy_config config;
    char *text;
    size_t length;
    test_status(hy_preset_config(&memory, name, &text, &length, &error), HYMBA_OK, error);
    ck_assert_uint_eq(strlen(text), length);
    test_status(hy_config_parse(&memory, text, length, name, &config, &error), HYMBA_OK, error);
    hy_free(&memory, text);
    return config;
}

START_TEST(presets_have_the_published_shapes)
{
    static const struct {
        const char *name;
        uint32_t hidden_size, n_layers, n_heads, n_kv_heads, intermediate_size, n_producers;
    } shapes[] = {
        {"tiny", 128, 8, 2, 1, 192, 5},
        {"125m", 512, 24, 8, 4, 1664, 13},
        {"350m", 768, 32, 12, 4, 2432, 17},
        {"1.5b", 1600, 32, 25, 5, 5504, 17},
    };
    ck_assert_uint_eq(hy_preset_count(), 4);
    ck_assert_ptr_null(hy_preset_name(4));
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t n_producers = 0;
        struct hy_config config = parse_preset(shapes[i].name);
        ck_assert_str_eq(hy_preset_name(i), shapes[i].name);
        ck_assert_uint_eq(config.hidden_size, shapes[i].hidden_size);
        ck_assert_uint_eq(config.n_layers, shapes[i].n_layers);
        ck_assert_uint_eq(config.n_heads, shapes[i].n_heads);
        ck_assert_uint_eq(config.n_kv_heads, shapes[i].n_kv_heads);
        ck_assert_uint_eq(config.intermediate_size, shapes[i].intermediate_size);
        ck_assert_uint_eq(config.dt_rank, shapes[i].hidden_size / 16);
        for (uint32_t k = 0; k < config.n_layers; k++)
            n_producers += config.layers[k].kv_layer == k;
        ck_assert_uint_eq(n_producers, shapes[i].n_producers);
        done(&config);
    }
}
END_TEST

/* semantics.md, sections 1, 5 and 7. */
START_TEST(largest_preset_in_detail)
{
    static const uint32_t kv_layers[32] = {0,  1,  1,  3,  3,  5,  5,  7,  7,  9,  9,
                                           11, 11, 13, 13, 15, 16, 16, 16, 19, 19, 21,
                                           21, 23, 23, 25, 25, 27, 27, 29, 29, 31};
    struct hy_config config = parse_preset("1.5b");
    ck_assert_uint_eq(config.vocabulary_size, 32001);
    ck_assert_uint_eq(config.qk_head_size, 64);
    ck_assert_uint_eq(config.v_head_size, 128);
    ck_assert_uint_eq(config.inner_size, 3200);
    ck_assert_uint_eq(config.n_meta_tokens, 128);
    ck_assert_uint_eq(config.window, 1024);
    ck_assert_double_eq_tol(config.rope_base, 74534.8, 0.05);
    for (uint32_t i = 0; i < 32; i++) {
        ck_assert_uint_eq(config.layers[i].kv_layer, kv_layers[i]);
        ck_assert_int_eq(config.layers[i].full_attention, i == 0 || i == 15 || i == 31);
    }
    done(&config);
}
END_TEST

static void check_same(const hy_json *left, const hy_json *right, const char *where)
{
    ck_assert_msg(hy_json_kind(left) == hy_json_kind(right), "%s: %s and %s", where,
                  hy_json_kind_name(hy_json_kind(left)), hy_json_kind_name(hy_json_kind(right)));
    ck_assert_msg(hy_json_bool(left) == hy_json_bool(right), "%s", where);
    ck_assert_msg(hy_json_real(left) == hy_json_real(right), "%s", where);
    if (hy_json_string(left, NULL))
        ck_assert_str_eq(hy_json_string(left, NULL), hy_json_string(right, NULL));
    ck_assert_msg(hy_json_array_size(left) == hy_json_array_size(right), "%s", where);
    for (size_t i = 0; i < hy_json_array_size(left); i++)
        check_same(hy_json_array_get(left, i), hy_json_array_get(right, i), where);
    ck_assert_msg(hy_json_object_size(left) == hy_json_object_size(right), "%s", where);
    for (hy_json_member *member = hy_json_next_member(left, NULL); member;
         member = hy_json_next_member(left, member)) {
        const char *key = hy_json_member_key(member, NULL);
        check_same(hy_json_member_value(member), hy_json_object_get(right, key), key);
    }
}

START_TEST(largest_preset_is_the_published_file)
{
    const char *path = test_shared("tokenizer/hymba-1.5b-config.json");
    hy_json *ours, *theirs;
    char *text;
    size_t length, their_length;
    if (!path)
        return;
    char *their_text = test_read_file(path, &their_length);
    test_status(hy_preset_config(&memory, "1.5b", &text, &length, &error), HYMBA_OK, error);
    test_status(hy_json_parse(text, length, "ours", &ours, &error), HYMBA_OK, error);
    test_status(hy_json_parse(their_text, their_length, "theirs", &theirs, &error), HYMBA_OK,
                error);
    check_same(ours, theirs, "the whole");
    hy_json_free(ours);
    hy_json_free(theirs);
    free(their_text);
    hy_free(&memory, text);
    ck_assert_uint_eq(memory.used, 0);
}
END_TEST

START_TEST(presets_fail_cleanly)
{
    char *text;
    size_t length;
    test_status(hy_preset_config(&memory, "7b", &text, &length, &error), HYMBA_ERROR_ARGUMENT,
                error);
    ck_assert_ptr_nonnull(strstr(error.message, "\"7b\""));
    ck_assert_ptr_null(text);
    for (int allowed = 0;; allowed++) {
        test_host_fail_at(&host, allowed, true);
        hymba_status status = hy_preset_config(&memory, "1.5b", &text, &length, &error);
        hy_free(&memory, text);
        ck_assert_uint_eq(memory.used, 0);
        if (status == HYMBA_OK)
            break;
        test_status(status, HYMBA_ERROR_MEMORY, error);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("preset");
    TCase *preset = tcase_create("preset");
    tcase_add_checked_fixture(preset, setup, teardown);
    tcase_add_test(preset, presets_have_the_published_shapes);
    tcase_add_test(preset, largest_preset_in_detail);
    tcase_add_test(preset, largest_preset_is_the_published_file);
    tcase_add_test(preset, presets_fail_cleanly);
    suite_add_tcase(suite, preset);
    return test_main(suite);
}
