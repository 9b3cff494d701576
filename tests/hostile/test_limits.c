/*
 * The largest sizes that the library reads from a file, each at its limit and one beyond
 * (docs/limits.md). What is at the limit is accepted, or refused for another reason.
 */
#include "hostile.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../fuzz/fuzz_container.h"
#include "run/saved_format.h"
#include "text/bpe.h"
#include "text/chat_template.h"
#include "text/merge_table.h"
#include "text/template.h"
#include "text/vocabulary.h"

static hymba_error error;

static void setup(void)
{
    hymba_error_init(&error, sizeof error);
}

static void check_words(const char *words)
{
    ck_assert_msg(strstr(error.message, words) != NULL, "\"%s\" does not hold \"%s\"",
                  error.message, words);
}

static void check_no_words(hymba_status status, const char *words)
{
    if (status != HYMBA_OK)
        ck_assert_msg(strstr(error.message, words) == NULL, "refused at the limit: %s",
                      error.message);
}

/* ------------------------------------------------------------ configuration */

/* A field of a configuration, as text; NULL at the end of a list. */
struct field {
    const char *key, *value;
};

static const struct field usual[] = {
    {"model_type", "\"hymba\""}, {"vocab_size", "64"}, {"hidden_size", "64"},
    {"intermediate_size", "64"}, {"num_hidden_layers", "2"}, {"num_attention_heads", "2"},
    {"num_key_value_heads", "1"}, {"num_memory_tokens", "0"}, {"sliding_window", "16"},
    {"global_attn_idx", "[0]"}, {"kv_reuse_group", "null"}, {"rms_norm_eps", "1e-6"},
    {"tie_word_embeddings", "true"}, {"mamba_d_state", "4"}, {"mamba_d_conv", "4"},
    {"mamba_dt_rank", "4"}, {"mamba_expand", "2"}, {"rope", "true"}, {"rope_theta", "10000"},
    {"rope_type", "\"default\""}, {"max_position_embeddings", "1024"},
    {"orig_max_position_embeddings", "256"}, {"bos_token_id", "1"}, {"eos_token_id", "2"},
    {"kq_head_dim", "-1"},
};

/* A limit: the value at it, the one beyond, and what else must be so that the first can be. */
struct limit {
    const char *key, *at, *beyond;
    struct field others[4];
};

#define WIDE {"hidden_size", "65536"}
#define UNTURNED {"rope", "false"}
static const struct limit limits[] = {
    {"vocab_size", "16777216", "16777217", {{NULL, NULL}}},
    {"vocab_size", "3", "0", {{NULL, NULL}}},
    {"hidden_size", "65536", "65537", {{NULL, NULL}}},
    {"intermediate_size", "1048576", "1048577", {{NULL, NULL}}},
    {"num_hidden_layers", "1024", "1025", {{NULL, NULL}}},
    {"num_hidden_layers", "1", "0", {{NULL, NULL}}},
    {"num_attention_heads", "65536", "65537", {WIDE, UNTURNED}},
    {"num_key_value_heads", "65536", "65537",
     {WIDE, UNTURNED, {"num_attention_heads", "65536"}}},
    {"num_memory_tokens", "65536", "65537", {{NULL, NULL}}},
    {"num_memory_tokens", "0", "-1", {{NULL, NULL}}},
    {"mamba_d_state", "1024", "1025", {{NULL, NULL}}},
    {"mamba_d_conv", "16", "17", {{NULL, NULL}}},
    {"mamba_d_conv", "2", "1", {{NULL, NULL}}},
    {"mamba_dt_rank", "65536", "65537", {{NULL, NULL}}},
    {"mamba_dt_rank", "1", "0", {{NULL, NULL}}},
    {"mamba_expand", "64", "64.5", {{NULL, NULL}}},
    {"mamba_expand", "16", "17", {WIDE}}, /* 2^20 inner channels */
    {"sliding_window", "1073741824", "1073741825", {{NULL, NULL}}},
    {"sliding_window", "1", "0", {{NULL, NULL}}},
    {"rope_theta", "2000000000", "2000000001", {{NULL, NULL}}},
    {"max_position_embeddings", "1099511627776", "1099511627777", {{NULL, NULL}}},
    {"orig_max_position_embeddings", "1099511627776", "1099511627777",
     {{"rope_type", "\"ntk\""}, {"max_position_embeddings", "1099511627776"}}},
    {"kq_head_dim", "65536", "65537", {WIDE, {"num_attention_heads", "1"}}},
    {"rms_norm_eps", "1", "1.5", {{NULL, NULL}}},
    {"bos_token_id", "63", "64", {{NULL, NULL}}},
    {"eos_token_id", "63", "64", {{NULL, NULL}}},
    {"eos_token_id", "0", "-1", {{NULL, NULL}}},
    {"global_attn_idx", "[1]", "[2]", {{NULL, NULL}}},
};

static const char *value_of(const struct limit *limit, const char *value,
                            const struct field *field)
{
    if (strcmp(field->key, limit->key) == 0)
        return value;
    for (size_t i = 0; i < 4 && limit->others[i].key; i++)
        if (strcmp(field->key, limit->others[i].key) == 0)
            return limit->others[i].value;
    return field->value;
}

static hymba_status open_config(const struct limit *limit, const char *value, hymba_model **model)
{
    char text[4096];
    size_t length = 0;
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "%s\"%s\": %s",
                                   i ? ", " : "{", usual[i].key,
                                   value_of(limit, value, &usual[i]));
    text[length++] = '}';
    hymba_model_params params = {.struct_size = sizeof params, .flags = HYMBA_MODEL_NO_WEIGHTS};
    hymba_memory_file file = {"config.json", text, length};
    return hymba_model_open_memory(&file, sizeof file, 1, &params, model, &error);
}

START_TEST(sizes_of_a_configuration)
{
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        const struct limit *limit = &limits[i];
        hymba_memory_info memory = {.struct_size = sizeof memory, .n_tokens = 1 << 20};
        hymba_model *model;
        hymba_status status = open_config(limit, limit->at, &model);
        ck_assert_msg(status == HYMBA_OK, "%s %s: %s", limit->key, limit->at, error.message);
        /* sizes as large as that do not overflow */
        status = hymba_model_get_memory_info(model, NULL, &memory, &error);
        ck_assert(status == HYMBA_OK || status == HYMBA_ERROR_LIMIT);
        hymba_model_release(model);
        status = open_config(limit, limit->beyond, &model);
        ck_assert_msg(status == HYMBA_ERROR_FORMAT, "%s %s gave %s", limit->key, limit->beyond,
                      hymba_status_name(status));
        check_words(limit->key);
        ck_assert_ptr_null(model);
    }
}
END_TEST

/* --------------------------------------------------------------------- JSON */

/* An object whose one member is n arrays, one in the other. */
static hymba_status parse_nested(size_t n)
{
    hymba_model_params params = {.struct_size = sizeof params, .flags = HYMBA_MODEL_NO_WEIGHTS};
    hymba_model *model;
    size_t size = 2 * n + 6;
    char *text = malloc(size);
    ck_assert_ptr_nonnull(text);
    memcpy(text, "{\"x\":", 5);
    memset(text + 5, '[', n);
    memset(text + 5 + n, ']', n);
    text[size - 1] = '}';
    hymba_memory_file file = {"config.json", text, size};
    hymba_status status =
        hymba_model_open_memory(&file, sizeof file, 1, &params, &model, &error);
    free(text);
    return status;
}

START_TEST(depth_of_json)
{
    enum { MOST = 2047 }; /* the object is one of them */
    test_status(parse_nested(MOST - 1), HYMBA_ERROR_FORMAT, error);
    check_words("vocab_size is absent");
    test_status(parse_nested(MOST), HYMBA_ERROR_FORMAT, error);
    check_words("depth");
}
END_TEST

START_TEST(length_of_a_json_number)
{
    enum { MOST = 1023 };
    for (size_t n = MOST; n <= MOST + 1; n++) {
        char text[1100];
        hymba_model *model;
        hymba_model_params params = {.struct_size = sizeof params,
                                     .flags = HYMBA_MODEL_NO_WEIGHTS};
        memcpy(text, "{\"x\":1.", 7);
        memset(text + 7, '0', n - 2);
        text[n + 5] = '}';
        hymba_memory_file file = {"config.json", text, n + 6};
        test_status(hymba_model_open_memory(&file, sizeof file, 1, &params, &model, &error),
                    HYMBA_ERROR_FORMAT, error);
        check_words(n == MOST ? "vocab_size is absent" : "more than 1023");
    }
}
END_TEST

/* -------------------------------------------------------------------- files */

static const char *new_directory(const char *name)
{
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", test_directory(), name);
    ck_assert_int_eq(mkdir(path, 0777), 0);
    return path;
}

/* A file of that size, zeros behind what stands in it. */
static void make_sparse(const char *directory, const char *name, uint64_t size)
{
    char path[500];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    test_write_file(path, "", 0);
    ck_assert_int_eq(truncate(path, (off_t)size), 0);
}

START_TEST(size_of_a_configuration_file)
{
    enum { MOST = 256 << 20 };
    const char *directory = new_directory("config");
    hymba_model *model;
    make_sparse(directory, "config.json", (uint64_t)MOST + 1);
    test_status(hymba_model_open(directory, NULL, &model, &error), HYMBA_ERROR_FILE, error);
    check_words("config.json");
    check_words("268435456");
    make_sparse(directory, "config.json", MOST);
    hymba_status status = hymba_model_open(directory, NULL, &model, &error);
    ck_assert_int_eq(status, HYMBA_ERROR_FORMAT);
    check_no_words(status, "268435456");
}
END_TEST

START_TEST(size_of_a_tokenizer_file)
{
    static const char *const names[] = {"tokenizer.model", "tokenizer.json"};
    enum { MOST = 64 << 20 };
    for (size_t i = 0; i < 2; i++) {
        const char *directory = new_directory(names[i]);
        hymba_tokenizer *tokenizer;
        make_sparse(directory, names[i], (uint64_t)MOST + 1);
        test_status(hymba_tokenizer_open(directory, NULL, &tokenizer, &error), HYMBA_ERROR_FILE,
                    error);
        check_words(names[i]);
        check_words("67108864");
        make_sparse(directory, names[i], MOST);
        hymba_status status = hymba_tokenizer_open(directory, NULL, &tokenizer, &error);
        ck_assert_int_eq(status, HYMBA_ERROR_FORMAT);
        check_no_words(status, "67108864");
    }
}
END_TEST

/* ------------------------------------------------------------------ weights */

static hymba_status open_weights(const void *data, size_t size)
{
    struct hostile_files files = {.n = 0};
    hymba_model *model;
    ck_assert(hostile_add_file(&files, test_data("variants/no_rope"), "config.json"));
    hymba_memory_file both[] = {files.files[0], {"model.safetensors", data, size}};
    hymba_model_params params = {.struct_size = sizeof params};
    hymba_status status =
        hymba_model_open_memory(both, sizeof both[0], 2, &params, &model, &error);
    hostile_free(&files);
    return status;
}

/* A header of spaces around an empty object. */
static hymba_status open_header(uint64_t length, size_t there)
{
    size_t size = 8 + there;
    unsigned char *data = malloc(size);
    ck_assert_ptr_nonnull(data);
    memset(data, ' ', size);
    for (unsigned i = 0; i < 8; i++)
        data[i] = (unsigned char)(length >> 8 * i);
    memcpy(data + 8, "{}", 2);
    hymba_status status = open_weights(data, size);
    free(data);
    return status;
}

START_TEST(length_of_a_header)
{
    enum { MOST = 100 << 20 };
    test_status(open_header((uint64_t)MOST + 1, 100), HYMBA_ERROR_FORMAT, error);
    check_words("at most 104857600");
    test_status(open_header(MOST, 100), HYMBA_ERROR_FORMAT, error);
    check_words("100 follow in the file");
    if (!hostile_is_long())
        return;
    test_status(open_header((uint64_t)MOST + 1, (size_t)MOST + 1), HYMBA_ERROR_FORMAT, error);
    check_words("at most 104857600");
    test_status(open_header(MOST, MOST), HYMBA_ERROR_FORMAT, error);
    check_words("is missing");
}
END_TEST

START_TEST(dimensions_of_a_tensor)
{
    enum { MOST = 8 };
    for (size_t n = MOST; n <= MOST + 1; n++) {
        char data[200];
        int length = snprintf(data + 8, sizeof data - 12,
                              "{\"x\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1%s],"
                              "\"data_offsets\":[0,4]}}",
                              n > MOST ? ",1" : "");
        memset(data, 0, 8);
        data[0] = (char)length;
        test_status(open_weights(data, 8 + (size_t)length + 4), HYMBA_ERROR_FORMAT, error);
        check_words(n > MOST ? "9 dimensions" : "is missing");
    }
}
END_TEST

/* --------------------------------------------------------------- tokenizers */

/* A good tokenizer.model with n more bytes behind; *size is that of both. */
static char *extended_model(size_t n, size_t *size)
{
    size_t good;
    char *model = test_read_file(test_data("hostile/template_of_sums/tokenizer.model"), &good);
    model = realloc(model, good + n);
    ck_assert_ptr_nonnull(model);
    *size = good;
    return model;
}

static hymba_status open_tokenizer(const char *name, const void *data, size_t size)
{
    static unsigned number;
    char folder[40], path[500];
    hymba_tokenizer *tokenizer;
    snprintf(folder, sizeof folder, "tokenizer-%u", number++);
    const char *directory = new_directory(folder);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    test_write_file(path, data, size);
    hymba_status status = hymba_tokenizer_open(directory, NULL, &tokenizer, &error);
    if (status == HYMBA_OK)
        hymba_tokenizer_release(tokenizer);
    unlink(path);
    return status;
}

START_TEST(length_of_a_piece)
{
    for (size_t n = HY_PIECE_MAX_LENGTH; n <= HY_PIECE_MAX_LENGTH + 1; n++) {
        size_t size;
        char *model = extended_model(2000, &size);
        const unsigned char begin[] = {0x0a, (unsigned char)((n + 3) % 128 | 128),
                                       (unsigned char)((n + 3) / 128), 0x0a,
                                       (unsigned char)(n % 128 | 128), (unsigned char)(n / 128)};
        memcpy(model + size, begin, sizeof begin);
        memset(model + size + sizeof begin, 'x', n);
        hymba_status status = open_tokenizer("tokenizer.model", model, size + sizeof begin + n);
        free(model);
        if (n == HY_PIECE_MAX_LENGTH) {
            test_status(status, HYMBA_OK, error);
            continue;
        }
        test_status(status, HYMBA_ERROR_UNSUPPORTED, error);
        check_words("1025 bytes, more than 1024");
    }
}
END_TEST

/* Pieces "0aaaaa", "0aaaab", ... until there are n. */
static hymba_status open_pieces(size_t n)
{
    enum { PIECE = 10, PRESENT = 264 };
    size_t size;
    char *model = extended_model((n - PRESENT) * PIECE, &size);
    for (size_t i = 0; i < n - PRESENT; i++) {
        char *piece = model + size;
        size_t rest = i;
        memcpy(piece, "\x0a\x08\x0a\x06\x30", 5);
        for (int letter = 9; letter > 4; letter--, rest /= 26)
            piece[letter] = (char)('a' + rest % 26);
        size += PIECE;
    }
    hymba_status status = open_tokenizer("tokenizer.model", model, size);
    free(model);
    return status;
}

START_TEST(number_of_pieces)
{
    test_status(open_pieces(HY_VOCABULARY_MAX_PIECES), HYMBA_OK, error);
    test_status(open_pieces(HY_VOCABULARY_MAX_PIECES + 1), HYMBA_ERROR_UNSUPPORTED, error);
    check_words("more than 1048576 pieces");
}
END_TEST

/* A good tokenizer.json but for its one merge, which becomes n that all are the same. */
static hymba_status open_merges(size_t n)
{
    static const char merge[] = ",\"a b\"", place[] = "\"a zz\"";
    char *json =
        test_read_file(test_data("hostile/merge_of_what_there_is_not/tokenizer.json"), NULL);
    char *begin = strstr(json, place);
    ck_assert_ptr_nonnull(begin);
    const char *rest = begin + strlen(place);
    size_t length = (size_t)(begin - json), size = strlen(json) + n * strlen(merge);
    char *text = malloc(size + 1);
    ck_assert_ptr_nonnull(text);
    memcpy(text, json, length);
    for (size_t i = 0; i < n; i++) {
        size_t skipped = i == 0; /* no comma before the first */
        memcpy(text + length, merge + skipped, strlen(merge) - skipped);
        length += strlen(merge) - skipped;
    }
    length += (size_t)snprintf(text + length, size + 1 - length, "%s", rest);
    hymba_status status = open_tokenizer("tokenizer.json", text, length);
    free(text);
    free(json);
    return status;
}

START_TEST(number_of_merges)
{
    test_status(open_merges(1), HYMBA_OK, error);
    if (!hostile_is_long())
        return; /* half a gigabyte of JSON values */
    test_status(open_merges(HY_MERGE_TABLE_MAX), HYMBA_ERROR_FORMAT, error);
    check_words("merge 1 is there twice");
    test_status(open_merges((size_t)HY_MERGE_TABLE_MAX + 1), HYMBA_ERROR_UNSUPPORTED, error);
    check_words("4194305 merges, more than 4194304");
}
END_TEST

/* At its limit a text fails for the memory it takes, which the host does not give. */
START_TEST(length_of_a_text)
{
    struct test_host host;
    hymba_tokenizer *tokenizer;
    size_t most = HY_BPE_MAX_TEXT, n;
    test_host_init(&host);
    test_status(hymba_tokenizer_open("examples/demo", &host.host, &tokenizer, &error), HYMBA_OK,
                error);
    const char *directory = new_directory("text");
    char path[500];
    make_sparse(directory, "text", most + 1);
    snprintf(path, sizeof path, "%s/text", directory);
    int descriptor = open(path, O_RDONLY);
    char *text = mmap(NULL, most + 1, PROT_READ, MAP_PRIVATE, descriptor, 0);
    ck_assert(text != MAP_FAILED);
    close(descriptor);
    test_host_fail_at(&host, 0, true);
    test_status(hymba_tokenizer_encode(tokenizer, text, most, 0, NULL, 0, &n, &error),
                HYMBA_ERROR_MEMORY, error);
    test_status(hymba_tokenizer_encode(tokenizer, text, most + 1, 0, NULL, 0, &n, &error),
                HYMBA_ERROR_ARGUMENT, error);
    check_words("536870913 bytes, more than 536870912");
    munmap(text, most + 1);
    hymba_tokenizer_release(tokenizer);
    test_host_check(&host);
}
END_TEST

/* ---------------------------------------------------------------- templates */

static hymba_status render(const char *source, const char *variables, size_t *length)
{
    struct hy_memory memory;
    struct hy_text text;
    hy_json *json;
    hy_memory_init(&memory, NULL, NULL);
    hy_text_init(&text, &memory);
    test_status(hy_json_parse(variables, strlen(variables), "variables", &json, &error), HYMBA_OK,
                error);
    hymba_status status =
        hy_chat_template_render(source, strlen(source), json, &text, &error);
    if (length)
        *length = text.length;
    hy_text_free(&text);
    hy_json_free(json);
    ck_assert_uint_eq(memory.used, 0);
    return status;
}

/* n times begin, then middle, then n times end. */
static char *repeat(const char *before, const char *begin, const char *middle, const char *end,
                    size_t n, const char *after)
{
    size_t size = n * (strlen(begin) + strlen(end)) + strlen(before) + strlen(middle) +
                  strlen(after) + 1;
    char *text = malloc(size), *place = text;
    ck_assert_ptr_nonnull(text);
    place += sprintf(place, "%s", before);
    for (size_t i = 0; i < n; i++)
        place += sprintf(place, "%s", begin);
    place += sprintf(place, "%s", middle);
    for (size_t i = 0; i < n; i++)
        place += sprintf(place, "%s", end);
    sprintf(place, "%s", after);
    return text;
}

static void limit_template(char *at, char *beyond, const char *words)
{
    test_status(render(at, "{}", NULL), HYMBA_OK, error);
    test_status(render(beyond, "{}", NULL), HYMBA_ERROR_UNSUPPORTED, error);
    check_words(words);
    free(at);
    free(beyond);
}

START_TEST(shape_of_a_template)
{
    enum { DEPTH = HY_TEMPLATE_MAX_DEPTH, HEIGHT = HY_TEMPLATE_MAX_HEIGHT };
    /* the template itself is one level, an expression another */
    limit_template(repeat("{{ ", "(", "1", ")", DEPTH - 2, " }}"),
                   repeat("{{ ", "(", "1", ")", DEPTH - 1, " }}"), "more than 64 deep");
    limit_template(repeat("", "{% if 1 %}", "x", "{% endif %}", DEPTH - 1, ""),
                   repeat("", "{% if 1 %}", "x", "{% endif %}", DEPTH, ""), "more than 64 deep");
    limit_template(repeat("{{ 1", " + 1", "", "", HEIGHT, " }}"),
                   repeat("{{ 1", " + 1", "", "", HEIGHT + 1, " }}"), "more than 200 operations");
    limit_template(repeat("{{ 'a'.strip('", "x", "", "", 64, "') }}"),
                   repeat("{{ 'a'.strip('", "x", "", "", 65, "') }}"), "more than 64 bytes");
}
END_TEST

START_TEST(depth_of_a_value)
{
    enum { MOST = HY_TEMPLATE_MAX_VALUE_DEPTH };
    for (size_t n = MOST; n <= MOST + 1; n++) {
        char *variables = repeat("{\"x\": ", "[", "1", "]", n, "}");
        hymba_status status = render("{{ x | tojson }}", variables, NULL);
        free(variables);
        test_status(status, n == MOST ? HYMBA_OK : HYMBA_ERROR_ARGUMENT, error);
    }
    check_words("more than 200 deep");
}
END_TEST

START_TEST(output_of_a_template)
{
    enum { MOST = HY_TEMPLATE_MAX_OUTPUT, PIECE = 1 << 16, TURNS = 32 };
    static const char loops[] = "{% for i in n %}{% for j in n %}{{ s }}{% endfor %}{% endfor %}";
    char *variables = malloc(PIECE + 200), beyond[sizeof loops + 1], *place = variables;
    size_t length;
    ck_assert_ptr_nonnull(variables);
    ck_assert_int_eq(PIECE * TURNS * TURNS, MOST);
    place += sprintf(place, "{\"n\": [0");
    for (int i = 1; i < TURNS; i++)
        place += sprintf(place, ",0");
    place += sprintf(place, "], \"s\": \"");
    memset(place, 's', PIECE);
    strcpy(place + PIECE, "\"}");
    test_status(render(loops, variables, &length), HYMBA_OK, error);
    ck_assert_uint_eq(length, MOST);
    snprintf(beyond, sizeof beyond, "%sx", loops);
    test_status(render(beyond, variables, &length), HYMBA_ERROR_UNSUPPORTED, error);
    check_words("longer than 67108864 bytes");
    ck_assert_uint_eq(length, 0);
    free(variables);
}
END_TEST

START_TEST(work_of_a_template)
{
    struct hy_template template;
    struct hy_memory memory;
    struct hy_string source = {"x", 1};
    hy_memory_init(&memory, NULL, NULL);
    test_status(hy_template_init(&template, source, &memory, &error), HYMBA_OK, error);
    template.steps = HY_TEMPLATE_MAX_STEPS - 1;
    test_status(hy_template_charge(&template, 0, 0), HYMBA_OK, error);
    test_status(hy_template_charge(&template, 0, 0), HYMBA_ERROR_UNSUPPORTED, error);
    check_words("more than 10000000 steps");
    template.steps = 0;
    test_status(hy_template_charge(&template, UINT64_MAX, 0), HYMBA_ERROR_UNSUPPORTED, error);
    hy_template_free(&template);
    ck_assert_uint_eq(memory.used, 0);
}
END_TEST

START_TEST(memory_of_a_template)
{
    enum { MOST = HY_TEMPLATE_MAX_MEMORY, CHUNK = 16384, HEADER = 32 };
    for (size_t beyond = 0; beyond <= 16; beyond += 16) {
        struct hy_template template;
        struct hy_memory memory;
        struct hy_string source = {"x", 1};
        hy_memory_init(&memory, NULL, NULL);
        test_status(hy_template_init(&template, source, &memory, &error), HYMBA_OK, error);
        void *block = hy_template_alloc(&template, MOST - CHUNK - HEADER + beyond, 0);
        ck_assert_int_eq(block != NULL, beyond == 0);
        ck_assert_uint_le(memory.peak, (uint64_t)MOST + 256);
        if (beyond > 0)
            check_words("more than 268435456 bytes of memory");
        ck_assert_ptr_null(hy_template_alloc(&template, SIZE_MAX, 0));
        hy_template_free(&template);
        ck_assert_uint_eq(memory.used, 0);
    }
}
END_TEST

/* ----------------------------------------------------------- saved sessions */

static hymba_model *session_model;
static hymba_context *context;
static struct fuzz_container saved;

static void save_a_session(void)
{
    static const int32_t tokens[] = {1, 2, 3, 4, 5};
    hymba_context_params params = {.struct_size = sizeof params, .n_threads = 1};
    struct fuzz_file file = {0};
    hymba_session *session;
    hymba_sampler *sampler;
    setup();
    test_status(hymba_model_open(test_data("variants/no_rope"), NULL, &session_model, &error),
                HYMBA_OK, error);
    test_status(hymba_context_create(session_model, &params, &context, &error), HYMBA_OK, error);
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, 5, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    test_status(hymba_sampler_create(NULL, NULL, &sampler, &error), HYMBA_OK, error);
    test_status(hymba_session_save_to(session, sampler, fuzz_write, &file, NULL, &error), HYMBA_OK,
                error);
    fuzz_container_unpack(file.data, file.size, &saved);
    fuzz_file_free(&file);
    hymba_sampler_release(sampler);
    hymba_session_release(session);
}

static void forget_the_session(void)
{
    fuzz_container_free(&saved);
    hymba_context_release(context);
    hymba_model_release(session_model);
}

static hymba_status load_saved(size_t *size)
{
    struct fuzz_file file = {0};
    hymba_session *session;
    hymba_sampler *sampler;
    fuzz_container_pack(&saved, &file);
    hymba_status status = hymba_session_load_memory(context, file.data, file.size, NULL, &session,
                                                    &sampler, NULL, &error);
    if (size)
        *size = file.size;
    hymba_session_release(session);
    hymba_sampler_release(sampler);
    fuzz_file_free(&file);
    return status;
}

static struct hy_saved_parameters *parameters(void)
{
    ck_assert_uint_eq(saved.chunks[0].tag, HY_TAG_PARAMETERS);
    return (struct hy_saved_parameters *)(void *)saved.chunks[0].bytes.data;
}

static void refuse_saved(const char *words)
{
    test_status(load_saved(NULL), HYMBA_ERROR_FORMAT, error);
    check_words(words);
}

START_TEST(counts_of_a_saved_session)
{
    struct hy_saved_parameters whole = *parameters();
    size_t size;
    test_status(load_saved(&size), HYMBA_OK, error);
    parameters()->n_snapshots = (1 << 20) + 1;
    refuse_saved("the number of snapshots is 1048577");
    parameters()->n_snapshots = 1 << 20;
    check_no_words(load_saved(NULL), "the number of snapshots");
    *parameters() = whole;
    /* no more than zlib could have packed into a file of that size */
    parameters()->n_tokens = size * 1100 / sizeof(int32_t) + 1;
    refuse_saved("the number of tokens");
    parameters()->n_tokens = size * 1100 / sizeof(int32_t);
    check_no_words(load_saved(NULL), "the number of tokens");
    *parameters() = whole;
    ck_assert_uint_gt(whole.block_bytes, 0);
    parameters()->n_blocks = size * 1100 / whole.block_bytes + 1;
    refuse_saved("the number of blocks");
    parameters()->n_blocks = size * 1100 / whole.block_bytes;
    check_no_words(load_saved(NULL), "the number of blocks");
    *parameters() = whole;
    parameters()->n_tokens = UINT64_MAX / sizeof(int32_t) + 2; /* times 4 it is 4 */
    refuse_saved("the number of tokens");
    *parameters() = whole;
    parameters()->n_blocks = UINT64_MAX;
    refuse_saved("the number of blocks");
    *parameters() = whole;
    test_status(load_saved(NULL), HYMBA_OK, error);
}
END_TEST

START_TEST(sampler_of_a_saved_session)
{
    struct fuzz_chunk *last = &saved.chunks[saved.n - 1];
    ck_assert_uint_eq(last->tag, HY_TAG_SAMPLER);
    uint64_t whole = last->claimed;
    last->claimed = (64 << 20) + 1;
    refuse_saved("the size of the sampler's state is 67108865");
    last->claimed = 64 << 20;
    check_no_words(load_saved(NULL), "the size of the sampler's state");
    last->claimed = UINT64_MAX;
    refuse_saved("the size of the sampler's state");
    last->claimed = whole;
    test_status(load_saved(NULL), HYMBA_OK, error);
}
END_TEST

static TCase *add_case(Suite *suite, const char *name)
{
    TCase *tests = tcase_create(name);
    tcase_set_timeout(tests, 1200);
    suite_add_tcase(suite, tests);
    return tests;
}

int main(void)
{
    Suite *suite = suite_create("limits");
    TCase *tests = add_case(suite, "files"), *sessions = add_case(suite, "sessions");
    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_checked_fixture(sessions, save_a_session, forget_the_session);
    tcase_add_test(tests, sizes_of_a_configuration);
    tcase_add_test(tests, depth_of_json);
    tcase_add_test(tests, length_of_a_json_number);
    tcase_add_test(tests, size_of_a_configuration_file);
    tcase_add_test(tests, size_of_a_tokenizer_file);
    tcase_add_test(tests, length_of_a_header);
    tcase_add_test(tests, dimensions_of_a_tensor);
    tcase_add_test(tests, length_of_a_piece);
    tcase_add_test(tests, number_of_pieces);
    tcase_add_test(tests, number_of_merges);
    tcase_add_test(tests, length_of_a_text);
    tcase_add_test(tests, shape_of_a_template);
    tcase_add_test(tests, depth_of_a_value);
    tcase_add_test(tests, output_of_a_template);
    tcase_add_test(tests, work_of_a_template);
    tcase_add_test(tests, memory_of_a_template);
    tcase_add_test(sessions, counts_of_a_saved_session);
    tcase_add_test(sessions, sampler_of_a_saved_session);
    return test_main(suite);
}
