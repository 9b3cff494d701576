/* Tokenizer files that are broken, hostile or of another kind, and memory that is not there. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "text/text_stream.h"
#include "tokenizer_cases.h"

static hymba_error error;

static void prepare(void)
{
    hymba_error_init(&error, sizeof error);
    test_random_seed(7);
}

/* ------------------------------------------------- a tokenizer.model, field by field */

struct bytes {
    unsigned char data[1 << 16];
    size_t size;
};

static struct bytes model;

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };

static void put_raw(struct bytes *bytes, const void *data, size_t size)
{
    ck_assert_uint_le(bytes->size + size, sizeof bytes->data);
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

static void put_varint(struct bytes *bytes, uint64_t value)
{
    do {
        unsigned char byte = (unsigned char)((value & 0x7F) | (value > 0x7F ? 0x80 : 0));
        put_raw(bytes, &byte, 1);
        value >>= 7;
    } while (value > 0);
}

static void put_number(struct bytes *bytes, unsigned field, uint64_t value)
{
    put_varint(bytes, field << 3);
    put_varint(bytes, value);
}

static void put_bytes(struct bytes *bytes, unsigned field, const void *data, size_t size)
{
    put_varint(bytes, field << 3 | 2);
    put_varint(bytes, size);
    put_raw(bytes, data, size);
}

static void put_float(struct bytes *bytes, unsigned field, float value)
{
    uint32_t bits;
    unsigned char data[4];
    memcpy(&bits, &value, sizeof bits);
    for (unsigned i = 0; i < 4; i++)
        data[i] = (unsigned char)(bits >> 8 * i);
    put_varint(bytes, field << 3 | 5);
    put_raw(bytes, data, sizeof data);
}

static void put_piece(const char *text, size_t length, float score, unsigned type)
{
    static struct bytes piece;
    piece.size = 0;
    put_bytes(&piece, 1, text, length);
    put_float(&piece, 2, score);
    put_number(&piece, 3, type);
    put_bytes(&model, 1, piece.data, piece.size);
}

static void put_word(const char *text, float score)
{
    put_piece(text, strlen(text), score, NORMAL);
}

static void put_byte_pieces(unsigned first, unsigned end)
{
    for (unsigned byte = first; byte < end; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        put_piece(text, 6, 0, BYTE);
    }
}

static void put_trainer(uint64_t model_type, uint64_t byte_fallback, uint64_t as_suffix)
{
    static struct bytes trainer;
    trainer.size = 0;
    put_number(&trainer, 3, model_type);
    put_number(&trainer, 24, as_suffix);
    put_number(&trainer, 35, byte_fallback);
    put_number(&trainer, 1000, 5); /* what we do not know is passed over */
    put_bytes(&model, 2, trainer.data, trainer.size);
}

static void put_normalizer(const char *name, uint64_t dummy_prefix, uint64_t remove_extra,
                           uint64_t escape)
{
    static struct bytes normalizer;
    normalizer.size = 0;
    put_bytes(&normalizer, 1, name, strlen(name));
    put_number(&normalizer, 3, dummy_prefix);
    put_number(&normalizer, 5, escape);
    put_number(&normalizer, 4, remove_extra);
    put_bytes(&model, 3, normalizer.data, normalizer.size);
}

static void begin_model(void)
{
    model.size = 0;
    put_piece("<unk>", 5, 0, UNKNOWN);
    put_piece("<s>", 3, 0, CONTROL);
    put_piece("</s>", 4, 0, CONTROL);
    put_byte_pieces(0, 256);
}

static void put_words(void)
{
    put_word("a", -10);
    put_word("b", -11);
    put_word("\xE2\x96\x81", -12);
    put_word("ab", -1);
    put_word("\xE2\x96\x81" "a", -2);
}

static void end_model(void)
{
    put_trainer(2, 1, 0);
    put_normalizer("identity", 1, 0, 1);
}

/* ------------------------------------------------------------------ opening */

static hymba_status open_memory(const hymba_host *host, const void *data, size_t size,
                                const char *json, const char *config, hymba_tokenizer **tokenizer)
{
    struct hy_file model_file = {0}, json_file = {0}, config_file = {0};
    struct hy_tokenizer_files files = {&model_file, &json_file, &config_file};
    if (data)
        hy_file_borrow(data, size, &model_file);
    if (json)
        hy_file_borrow(json, strlen(json), &json_file);
    if (config)
        hy_file_borrow(config, strlen(config), &config_file);
    return hy_tokenizer_create(host, &files, tokenizer, &error);
}

static void expect_refused(hymba_status actual, hymba_tokenizer *tokenizer, hymba_status expected,
                           const char *part)
{
    test_status(actual, expected, error);
    ck_assert_ptr_null(tokenizer);
    ck_assert_msg(strstr(error.message, part) != NULL, "\"%s\" does not name \"%s\"",
                  error.message, part);
}

static void expect_model_refused(hymba_status expected, const char *part)
{
    hymba_tokenizer *tokenizer = (hymba_tokenizer *)&model;
    hymba_status status = open_memory(NULL, model.data, model.size, NULL, NULL, &tokenizer);
    expect_refused(status, tokenizer, expected, part);
}

static hymba_tokenizer *open_model(const char *config)
{
    hymba_tokenizer *tokenizer = NULL;
    test_status(open_memory(NULL, model.data, model.size, NULL, config, &tokenizer), HYMBA_OK,
                error);
    return tokenizer;
}

static void expect_ids(const hymba_tokenizer *tokenizer, const char *text, uint32_t flags,
                       const int32_t *expected, size_t expected_count)
{
    size_t count;
    int32_t *ids = test_encode(tokenizer, text, strlen(text), flags, &count);
    ck_assert_uint_eq(count, expected_count);
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(ids[i] == expected[i], "id %zu of \"%s\" is %d, expected %d", i, text,
                      (int)ids[i], (int)expected[i]);
    free(ids);
}

#define EXPECT_IDS(tokenizer, text, flags, ...)                                                   \
    do {                                                                                          \
        const int32_t expected_ids_[] = {__VA_ARGS__};                                            \
        expect_ids(tokenizer, text, flags, expected_ids_,                                         \
                   sizeof expected_ids_ / sizeof expected_ids_[0]);                               \
    } while (0)

/* ---------------------------------------------------------- tokenizer.model */

/* a 259, b 260, U+2581 261, ab 262, U+2581 a 263 */
START_TEST(a_small_model)
{
    begin_model();
    put_words();
    end_model();
    hymba_tokenizer *tokenizer = open_model(NULL);
    ck_assert_uint_eq(hy_tokenizer_size(tokenizer), 264);
    ck_assert_int_eq(hy_tokenizer_bos(tokenizer), 1);
    ck_assert(hy_tokenizer_adds_bos(tokenizer));
    EXPECT_IDS(tokenizer, "ab", 0, 261, 262);
    EXPECT_IDS(tokenizer, "a", HYMBA_ENCODE_BOS, 1, 263);
    EXPECT_IDS(tokenizer, "c a</s>a", HYMBA_ENCODE_SPECIAL, 261, 'c' + 3, 263, 2, 263);
    EXPECT_IDS(tokenizer, "<s><s", HYMBA_ENCODE_SPECIAL, 1, 261, '<' + 3, 's' + 3);
    hy_tokenizer_release(tokenizer);
}
END_TEST

/* Two merges of one score: the left one goes first. A zero's sign makes no difference. */
START_TEST(equal_scores_merge_from_the_left)
{
    for (unsigned order = 0; order < 2; order++) {
        begin_model();
        put_word("a", -10);
        put_word(order ? "ba" : "ab", 0.0f);
        put_word(order ? "ab" : "ba", -0.0f);
        end_model();
        hymba_tokenizer *tokenizer = open_model(NULL);
        int32_t ab = order ? 261 : 260;
        EXPECT_IDS(tokenizer, "aba", 0, 0xE2 + 3, 0x96 + 3, 0x81 + 3, ab, 259);
        hy_tokenizer_release(tokenizer);
    }
}
END_TEST

/* Pieces across words: then words cannot be merged one by one. "b" is no piece of its own. */
START_TEST(pieces_that_join_words)
{
    begin_model();
    put_word("\xE2\x96\x81", -12);
    put_word("a\xE2\x96\x81", -1);
    put_word("a\xE2\x96\x81" "b", -2);
    end_model();
    hymba_tokenizer *tokenizer = open_model(NULL);
    EXPECT_IDS(tokenizer, "a b a", 0, 259, 261, 259, 'a' + 3);
    hy_tokenizer_release(tokenizer);
}
END_TEST

START_TEST(the_longest_special_token_wins)
{
    begin_model();
    put_piece("<s>x", 4, 0, CONTROL);
    put_words();
    end_model();
    hymba_tokenizer *tokenizer = open_model(NULL);
    EXPECT_IDS(tokenizer, "<s>x<s>y", HYMBA_ENCODE_SPECIAL, 259, 1, 262, 'y' + 3);
    hy_tokenizer_release(tokenizer);
}
END_TEST

START_TEST(every_truncated_model_is_refused)
{
    begin_model();
    put_words();
    end_model();
    for (size_t size = 0; size < model.size; size++) {
        hymba_tokenizer *tokenizer;
        /* A block of its own, so that a read past its end is seen. */
        unsigned char *part = malloc(size + 1);
        ck_assert_ptr_nonnull(part);
        memcpy(part, model.data, size);
        hymba_status status = open_memory(NULL, part, size, NULL, NULL, &tokenizer);
        ck_assert_msg(status == HYMBA_ERROR_FORMAT || status == HYMBA_ERROR_UNSUPPORTED,
                      "%zu of %zu bytes: status %d", size, model.size, (int)status);
        ck_assert_ptr_null(tokenizer);
        free(part);
    }
}
END_TEST

/* Whatever is changed, the result is a refusal or a tokenizer that works. */
START_TEST(changed_models_do_no_harm)
{
    unsigned n_opened = 0;
    begin_model();
    put_words();
    end_model();
    struct bytes *changed = malloc(sizeof *changed);
    ck_assert_ptr_nonnull(changed);
    for (unsigned round = 0; round < 3000; round++) {
        hymba_tokenizer *tokenizer;
        *changed = model;
        for (size_t k = 1 + test_random_below(3); k > 0; k--)
            changed->data[test_random_below(changed->size)] = (unsigned char)test_random_below(256);
        if (open_memory(NULL, changed->data, changed->size, NULL, NULL, &tokenizer) != HYMBA_OK)
            continue;
        size_t count, size;
        int32_t *ids = test_encode(tokenizer, "<s>ab a</s>\xFF", 12, 2, &count);
        free(test_decode(tokenizer, ids, count, 1, &size));
        free(ids);
        hy_tokenizer_release(tokenizer);
        n_opened++;
    }
    ck_assert_uint_gt(n_opened, 0);
    free(changed);
}
END_TEST

START_TEST(malformed_protobuf)
{
    static const struct {
        const char *data;
        size_t size;
        const char *part;
    } cases[] = {
        {"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 11, "longer than what holds it"},
        {"\x0A\x05" "abc", 5, "longer than what holds it"},
        {"\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02", 11, "more than 64 bits"},
        {"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 12, "more than 64 bits"},
        {"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 10, "field number"},
        {"\x02\x00", 2, "field number"},
        {"\x0B\x0C", 2, "not in use"},
        {"\x0E", 1, "not in use"},
        {"\x08", 1, "ends inside a number"},
        {"\x25\x01\x02\x03", 4, "ends inside a number"},
        {"\x21\x01\x02\x03\x04\x05\x06\x07", 8, "ends inside a number"},
        {"\x08\x01", 2, "a part of the model has wire type 0"},
        {"\x0A\x02\x08\x01", 4, "a piece has wire type 0"},
        {"\x0A\x04\x12\x02zz", 6, "a score has wire type 2"},
        {"\x12\x03\x1A\x01x", 5, "trainer_spec has wire type 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model.size = 0;
        put_raw(&model, cases[i].data, cases[i].size);
        expect_model_refused(HYMBA_ERROR_FORMAT, cases[i].part);
    }
}
END_TEST

START_TEST(models_of_another_kind)
{
    static const struct {
        uint64_t type, byte_fallback, as_suffix;
        const char *name;
        uint64_t dummy_prefix, remove_extra, escape;
        const char *part;
    } cases[] = {
        {1, 1, 0, "identity", 1, 0, 1, "model_type is 1"},
        {2, 0, 0, "identity", 1, 0, 1, "byte_fallback"},
        {2, 1, 1, "identity", 1, 0, 1, "treat_whitespace_as_suffix"},
        {2, 1, 0, "nmt_nfkc", 1, 0, 1, "nmt_nfkc"},
        {2, 1, 0, "identity", 0, 0, 1, "add_dummy_prefix"},
        {2, 1, 0, "identity", 1, 1, 1, "remove_extra_whitespaces"},
        {2, 1, 0, "identity", 1, 0, 0, "escape_whitespaces"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin_model();
        put_words();
        put_trainer(cases[i].type, cases[i].byte_fallback, cases[i].as_suffix);
        put_normalizer(cases[i].name, cases[i].dummy_prefix, cases[i].remove_extra,
                       cases[i].escape);
        expect_model_refused(HYMBA_ERROR_UNSUPPORTED, cases[i].part);
    }
    begin_model();
    end_model();
    put_bytes(&model, 3, "\x12\x01x", 3);
    expect_model_refused(HYMBA_ERROR_UNSUPPORTED, "normalizer_spec");
    begin_model();
    end_model();
    put_bytes(&model, 5, "\x12\x01x", 3);
    expect_model_refused(HYMBA_ERROR_UNSUPPORTED, "denormalizer_spec");
}
END_TEST

START_TEST(bad_pieces)
{
    static const struct {
        const char *text;
        float score;
        unsigned type;
        hymba_status status;
        const char *part;
    } cases[] = {
        {"", -1, NORMAL, HYMBA_ERROR_FORMAT, "piece 259 is empty"},
        {"a\xFF", -1, NORMAL, HYMBA_ERROR_FORMAT, "piece 259 is not UTF-8"},
        {"<s>", -1, NORMAL, HYMBA_ERROR_FORMAT, "piece 259 is the same as piece 1"},
        {"<0x41>", 0, BYTE, HYMBA_ERROR_FORMAT, "the same as piece 68"},
        {"<0x-1>", 0, BYTE, HYMBA_ERROR_FORMAT, "<0x-1>"},
        {"<0x+1>", 0, BYTE, HYMBA_ERROR_FORMAT, "<0x+1>"},
        {"<0x 1>", 0, BYTE, HYMBA_ERROR_FORMAT, "<0x 1>"},
        {"<0x4a>", 0, BYTE, HYMBA_ERROR_FORMAT, "<0x4a>"},
        {"<0x4>", 0, BYTE, HYMBA_ERROR_FORMAT, "<0x4>"},
        {"<0x041>", 0, BYTE, HYMBA_ERROR_FORMAT, "<0x041>"},
        {"a", NAN, NORMAL, HYMBA_ERROR_FORMAT, "score of piece 259 is not finite"},
        {"a", -INFINITY, NORMAL, HYMBA_ERROR_FORMAT, "score of piece 259 is not finite"},
        {"a", 0, 0, HYMBA_ERROR_FORMAT, "type 0"},
        {"a", 0, 7, HYMBA_ERROR_FORMAT, "type 7"},
        {"a", 0, UNUSED, HYMBA_ERROR_UNSUPPORTED, "unused"},
        {"a", 0, USER_DEFINED, HYMBA_ERROR_UNSUPPORTED, "user-defined"},
        {"a", 0, UNKNOWN, HYMBA_ERROR_FORMAT, "2 unknown pieces"},
    };
    char longest[1025];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin_model();
        put_piece(cases[i].text, strlen(cases[i].text), cases[i].score, cases[i].type);
        end_model();
        expect_model_refused(cases[i].status, cases[i].part);
    }
    memset(longest, 'x', sizeof longest);
    begin_model();
    put_piece(longest, 1024, 0, NORMAL);
    end_model();
    hy_tokenizer_release(open_model(NULL));
    begin_model();
    put_piece(longest, 1025, 0, NORMAL);
    end_model();
    expect_model_refused(HYMBA_ERROR_UNSUPPORTED, "1025 bytes");
}
END_TEST

START_TEST(models_without_what_they_need)
{
    hymba_tokenizer *tokenizer;
    model.size = 0;
    end_model();
    expect_model_refused(HYMBA_ERROR_FORMAT, "no pieces");
    model.size = 0;
    expect_model_refused(HYMBA_ERROR_FORMAT, "no pieces");
    put_byte_pieces(0, 256);
    end_model();
    expect_model_refused(HYMBA_ERROR_FORMAT, "0 unknown pieces");
    model.size = 0;
    put_piece("<unk>", 5, 0, UNKNOWN);
    put_byte_pieces(0, 0x7F);
    put_byte_pieces(0x80, 256);
    end_model();
    expect_model_refused(HYMBA_ERROR_FORMAT, "<0x7F>");
    hymba_status status = open_memory(NULL, NULL, 0, NULL, NULL, &tokenizer);
    expect_refused(status, tokenizer, HYMBA_ERROR_FILE, "tokenizer.model");
}
END_TEST

START_TEST(a_model_without_bos)
{
    model.size = 0;
    put_piece("<unk>", 5, 0, UNKNOWN);
    put_byte_pieces(0, 256);
    end_model();
    hymba_tokenizer *tokenizer = open_model(NULL);
    struct hy_ids ids = {.memory = hy_tokenizer_memory(tokenizer)};
    ck_assert_int_eq(hy_tokenizer_bos(tokenizer), -1);
    ck_assert_int_eq(hy_tokenizer_eos(tokenizer), -1);
    ck_assert(!hy_tokenizer_adds_bos(tokenizer));
    test_status(hy_tokenizer_encode(tokenizer, "a", 1, HYMBA_ENCODE_BOS, &ids, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_uint_eq(ids.count, 0);
    hy_tokenizer_release(tokenizer);
}
END_TEST

/* ---------------------------------------------------- tokenizer_config.json */

#define TOKEN(id, content) \
    "\"" id "\": {\"content\": \"" content "\", \"special\": true, \"lstrip\": false}"

START_TEST(configurations)
{
    begin_model();
    put_words();
    end_model();
    hymba_tokenizer *tokenizer = open_model(
        "{\"added_tokens_decoder\": {" TOKEN("265", "[B]") "," TOKEN("1", "<s>") ","
        TOKEN("264", "[A]") "}, \"bos_token\": {\"content\": \"[A]\"}, \"eos_token\": null,"
        "\"model_max_length\": 1000000000000000019884624838656, \"note\": \"\\\"1e5\\\\\","
        "\"numbers\": [1234567890123456789012, -9999999999999999999999, 1e5, 12.5,"
        "99999999999999999999.5], \"chat_template\": [{\"name\": \"other\", \"template\": \"x\"},"
        "{\"name\": \"default\", \"template\": \"y\"}]}");
    ck_assert_uint_eq(hy_tokenizer_size(tokenizer), 266);
    ck_assert_int_eq(hy_tokenizer_bos(tokenizer), 264);
    ck_assert_int_eq(hy_tokenizer_eos(tokenizer), -1);
    ck_assert_str_eq(hy_tokenizer_chat_template(tokenizer), "y");
    EXPECT_IDS(tokenizer, "[B]a[A]", HYMBA_ENCODE_SPECIAL | HYMBA_ENCODE_BOS, 264, 265, 263, 264);
    hy_tokenizer_release(tokenizer);

    tokenizer = open_model("{\"add_bos_token\": false, \"chat_template\": \"z\"}");
    ck_assert(!hy_tokenizer_adds_bos(tokenizer));
    ck_assert_int_eq(hy_tokenizer_bos(tokenizer), 1);
    ck_assert_str_eq(hy_tokenizer_chat_template(tokenizer), "z");
    hy_tokenizer_release(tokenizer);

    tokenizer = open_model("{\"bos_token\": null, \"chat_template\": [], \"unknown\": {}}");
    ck_assert(!hy_tokenizer_adds_bos(tokenizer));
    ck_assert_ptr_null(hy_tokenizer_chat_template(tokenizer));
    hy_tokenizer_release(tokenizer);
}
END_TEST

START_TEST(bad_configurations)
{
    static const struct {
        const char *config;
        hymba_status status;
        const char *part;
    } cases[] = {
        {"", HYMBA_ERROR_FORMAT, "tokenizer_config.json"},
        {"{", HYMBA_ERROR_FORMAT, "tokenizer_config.json"},
        {"[]", HYMBA_ERROR_FORMAT, "expected an object"},
        {"{\"a\": \"\\", HYMBA_ERROR_FORMAT, "tokenizer_config.json"},
        {"{\"added_tokens_decoder\": []}", HYMBA_ERROR_FORMAT, "added_tokens_decoder"},
        {"{\"added_tokens_decoder\": {" TOKEN("4000000000", "x") "}}", HYMBA_ERROR_FORMAT,
         "4000000000"},
        {"{\"added_tokens_decoder\": {" TOKEN("999999999", "x") "}}", HYMBA_ERROR_FORMAT,
         "999999999 does not continue"},
        {"{\"added_tokens_decoder\": {" TOKEN("265", "x") "}}", HYMBA_ERROR_FORMAT,
         "265 does not continue"},
        {"{\"added_tokens_decoder\": {" TOKEN("265", "x") "," TOKEN("1", "<s>") "}}",
         HYMBA_ERROR_FORMAT, "there is no 264"},
        {"{\"added_tokens_decoder\": {" TOKEN("-1", "x") "}}", HYMBA_ERROR_FORMAT, "\"-1\""},
        {"{\"added_tokens_decoder\": {" TOKEN("01", "<s>") "}}", HYMBA_ERROR_FORMAT, "\"01\""},
        {"{\"added_tokens_decoder\": {" TOKEN("", "<s>") "}}", HYMBA_ERROR_FORMAT, "\"\""},
        {"{\"added_tokens_decoder\": {" TOKEN("1", "<x>") "}}", HYMBA_ERROR_FORMAT, "\"<x>\""},
        {"{\"added_tokens_decoder\": {" TOKEN("264", "<s>") "}}", HYMBA_ERROR_FORMAT,
         "piece 264 is the same as piece 1"},
        {"{\"added_tokens_decoder\": {" TOKEN("264", "") "}}", HYMBA_ERROR_FORMAT, "empty"},
        {"{\"added_tokens_decoder\": {" TOKEN("259", "a") "}}", HYMBA_ERROR_UNSUPPORTED,
         "ordinary piece"},
        {"{\"added_tokens_decoder\": {" TOKEN("3", "<0x00>") "}}", HYMBA_ERROR_UNSUPPORTED,
         "ordinary piece"},
        {"{\"added_tokens_decoder\": {\"264\": {\"content\": \"x\"}}}", HYMBA_ERROR_UNSUPPORTED,
         "special of added token 264"},
        {"{\"added_tokens_decoder\": {\"264\": {\"content\": \"x\", \"special\": true,"
         "\"lstrip\": true}}}", HYMBA_ERROR_UNSUPPORTED, "lstrip"},
        {"{\"added_tokens_decoder\": {\"264\": {\"content\": \"x\", \"special\": 1}}}",
         HYMBA_ERROR_FORMAT, "special of added token 264"},
        {"{\"added_tokens_decoder\": {\"264\": {\"content\": 5}}}", HYMBA_ERROR_FORMAT, "content"},
        {"{\"added_tokens_decoder\": {\"264\": null}}", HYMBA_ERROR_FORMAT, "264 is null"},
        {"{\"bos_token\": \"<t>\"}", HYMBA_ERROR_FORMAT, "bos_token is \"<t>\""},
        {"{\"eos_token\": \"a\"}", HYMBA_ERROR_FORMAT, "eos_token is \"a\""},
        {"{\"eos_token\": 2}", HYMBA_ERROR_FORMAT, "eos_token is an integer"},
        {"{\"bos_token\": {}}", HYMBA_ERROR_FORMAT, "bos_token is absent"},
        {"{\"unk_token\": \"<s>\"}", HYMBA_ERROR_FORMAT, "unk_token is \"<s>\""},
        {"{\"add_bos_token\": \"yes\"}", HYMBA_ERROR_FORMAT, "add_bos_token"},
        {"{\"add_bos_token\": true, \"bos_token\": null}", HYMBA_ERROR_FORMAT, "no bos_token"},
        {"{\"add_eos_token\": true}", HYMBA_ERROR_UNSUPPORTED, "add_eos_token"},
        {"{\"legacy\": false}", HYMBA_ERROR_UNSUPPORTED, "legacy"},
        {"{\"legacy\": 0}", HYMBA_ERROR_FORMAT, "legacy"},
        {"{\"add_prefix_space\": false}", HYMBA_ERROR_UNSUPPORTED, "add_prefix_space"},
        {"{\"sp_model_kwargs\": {\"enable_sampling\": true}}", HYMBA_ERROR_UNSUPPORTED,
         "sp_model_kwargs"},
        {"{\"tokenizer_class\": \"GPT2Tokenizer\"}", HYMBA_ERROR_UNSUPPORTED, "GPT2Tokenizer"},
        {"{\"tokenizer_class\": 3}", HYMBA_ERROR_FORMAT, "tokenizer_class"},
        {"{\"chat_template\": 5}", HYMBA_ERROR_FORMAT, "chat_template"},
        {"{\"chat_template\": \"a\\u0000b\"}", HYMBA_ERROR_FORMAT, "chat_template"},
    };
    begin_model();
    put_words();
    end_model();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hymba_tokenizer *tokenizer;
        hymba_status status =
            open_memory(NULL, model.data, model.size, NULL, cases[i].config, &tokenizer);
        expect_refused(status, tokenizer, cases[i].status, cases[i].part);
    }
}
END_TEST

/* ----------------------------------------------------------- tokenizer.json */

/* The text with its first part from replaced by to, from malloc. */
static char *replace(const char *text, const char *from, const char *to)
{
    const char *place = strstr(text, from);
    ck_assert_msg(place != NULL, "no \"%s\" in the text", from);
    size_t before = (size_t)(place - text), size = strlen(text) + strlen(to) + 1;
    char *result = malloc(size);
    ck_assert_ptr_nonnull(result);
    snprintf(result, size, "%.*s%s%s", (int)before, text, to, place + strlen(from));
    return result;
}

#define MARK "\xE2\x96\x81"

/* The same tokenizer as a_small_model's, from malloc. */
static char *small_json(void)
{
    static const char begin[] =
        "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": ["
        "{\"id\": 0, \"content\": \"<unk>\", \"special\": true},"
        "{\"id\": 1, \"content\": \"<s>\", \"special\": true},"
        "{\"id\": 2, \"content\": \"</s>\", \"special\": true}],"
        "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\","
        "\"prepend\": \"" MARK "\"}, {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"},"
        "\"content\": \"" MARK "\"}]}, \"pre_tokenizer\": null, \"post_processor\": {\"type\":"
        "\"TemplateProcessing\", \"single\": ["
        "{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}},"
        "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"pair\": [], \"special_tokens\": {}},"
        "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\":"
        "{\"String\": \"" MARK "\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"},"
        "{\"type\": \"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \", \"start\": 1,"
        "\"stop\": 0}]}, \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\":"
        "\"<unk>\", \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null,"
        "\"fuse_unk\": true, \"byte_fallback\": true, \"ignore_merges\": false, \"vocab\": {"
        "\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2";
    static const char end[] = ", \"a\": 259, \"b\": 260, \"" MARK "\": 261, \"ab\": 262, \"" MARK
                              "a\": 263}, \"merges\": [\"a b\", [\"" MARK "\", \"a\"]]}}";
    size_t size = sizeof begin + sizeof end + 256 * 16, length = 0;
    char *json = malloc(size);
    ck_assert_ptr_nonnull(json);
    length += (size_t)snprintf(json, size, "%s", begin);
    for (unsigned byte = 0; byte < 256; byte++)
        length += (size_t)snprintf(json + length, size - length, ", \"<0x%02X>\": %u", byte,
                                   byte + 3);
    snprintf(json + length, size - length, "%s", end);
    return json;
}

START_TEST(a_small_json)
{
    char *json = small_json();
    hymba_tokenizer *tokenizer = NULL;
    test_status(open_memory(NULL, NULL, 0, json, NULL, &tokenizer), HYMBA_OK, error);
    ck_assert_uint_eq(hy_tokenizer_size(tokenizer), 264);
    ck_assert_int_eq(hy_tokenizer_bos(tokenizer), 1);
    ck_assert_int_eq(hy_tokenizer_eos(tokenizer), 2);
    ck_assert(hy_tokenizer_adds_bos(tokenizer));
    EXPECT_IDS(tokenizer, "ab", 0, 261, 262);
    EXPECT_IDS(tokenizer, "c a</s>a", HYMBA_ENCODE_SPECIAL, 261, 'c' + 3, 263, 2, 263);
    hy_tokenizer_release(tokenizer);

    char *without = replace(json, "{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}},", "");
    test_status(open_memory(NULL, NULL, 0, without, NULL, &tokenizer), HYMBA_OK, error);
    ck_assert(!hy_tokenizer_adds_bos(tokenizer));
    ck_assert_int_eq(hy_tokenizer_bos(tokenizer), 1);
    hy_tokenizer_release(tokenizer);
    test_status(open_memory(NULL, NULL, 0, without, "{\"tokenizer_class\": \"LlamaTokenizer\"}",
                            &tokenizer), HYMBA_OK, error);
    ck_assert(hy_tokenizer_adds_bos(tokenizer));
    hy_tokenizer_release(tokenizer);
    free(without);
    free(json);
}
END_TEST

START_TEST(json_of_another_kind)
{
    static const struct {
        const char *from, *to;
        hymba_status status;
        const char *part;
    } cases[] = {
        {"\"1.0\"", "\"2.0\"", HYMBA_ERROR_UNSUPPORTED, "version is \"2.0\""},
        {"\"truncation\": null", "\"truncation\": {}", HYMBA_ERROR_UNSUPPORTED, "truncation"},
        {"\"padding\": null", "\"padding\": 1", HYMBA_ERROR_UNSUPPORTED, "padding"},
        {"\"padding\"", "\"stuffing\"", HYMBA_ERROR_UNSUPPORTED, "stuffing"},
        {"\"Prepend\"", "\"Lowercase\"", HYMBA_ERROR_UNSUPPORTED,
         "normalizer.normalizers[0].type is \"Lowercase\""},
        {"\"pre_tokenizer\": null", "\"pre_tokenizer\": {\"type\": \"Metaspace\"}",
         HYMBA_ERROR_UNSUPPORTED, "pre_tokenizer"},
        {"{\"type\": \"Fuse\"},", "", HYMBA_ERROR_UNSUPPORTED, "decoder.decoders has 3 elements"},
        {"\"start\": 1", "\"start\": 2", HYMBA_ERROR_UNSUPPORTED, "decoder.decoders[3].start is 2"},
        {"\"start\": 1", "\"start\": 1, \"left\": 1", HYMBA_ERROR_UNSUPPORTED,
         "decoder.decoders[3].left"},
        {"\"decoder\"", "\"post_processor\"", HYMBA_ERROR_FORMAT, "tokenizer.json"},
        {"\"TemplateProcessing\"", "\"ByteLevel\"", HYMBA_ERROR_UNSUPPORTED, "ByteLevel"},
        {"\"pair\"", "\"triple\"", HYMBA_ERROR_UNSUPPORTED, "triple"},
        {"{\"id\": \"<s>\"", "{\"id\": \"a\"", HYMBA_ERROR_UNSUPPORTED, "single[0]"},
        {"{\"id\": \"A\"", "{\"id\": \"B\"", HYMBA_ERROR_UNSUPPORTED, "single"},
        {"\"BPE\"", "\"Unigram\"", HYMBA_ERROR_UNSUPPORTED, "model.type is \"Unigram\""},
        {"\"dropout\": null", "\"dropout\": 0.1", HYMBA_ERROR_UNSUPPORTED, "dropout"},
        {"\"byte_fallback\": true", "\"byte_fallback\": false", HYMBA_ERROR_UNSUPPORTED,
         "byte_fallback"},
        {"\"ignore_merges\": false", "\"ignore_merges\": true", HYMBA_ERROR_UNSUPPORTED,
         "ignore_merges"},
        {"\"fuse_unk\"", "\"fuse_all\"", HYMBA_ERROR_UNSUPPORTED, "fuse_all"},
        {"\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"x\"", HYMBA_ERROR_UNSUPPORTED,
         "end_of_word_suffix"},
        {"\"unk_token\":\"<unk>\"", "\"unk_token\":\"<un>\"", HYMBA_ERROR_FORMAT, "unk_token"},
        {"\"unk_token\":\"<unk>\"", "\"unk_token\":null", HYMBA_ERROR_FORMAT, "unk_token is null"},
        {"\"a\": 259", "\"a\": 260", HYMBA_ERROR_FORMAT, "id of another piece"},
        {"\"a\": 259", "\"a\": -1", HYMBA_ERROR_FORMAT, "is -1"},
        {"\"a\": 259", "\"a\": 264", HYMBA_ERROR_FORMAT, "is 264"},
        {"\"a\": 259", "\"a\": 9223372036854775807", HYMBA_ERROR_FORMAT, "9223372036854775807"},
        {"\"a\": 259", "\"a\": \"x\"", HYMBA_ERROR_FORMAT, "a string"},
        {"\"a\": 259", "\"b\": 259", HYMBA_ERROR_FORMAT, "duplicate"},
        {"\"a\": 259", "\"\": 259", HYMBA_ERROR_FORMAT, "piece 259 is empty"},
        {"<0x41>", "<0x-1>", HYMBA_ERROR_FORMAT, "<0x41> is missing"},
        {"\"vocab\": {", "\"vocab\": [], \"merges\": {", HYMBA_ERROR_FORMAT, "tokenizer.json"},
        {"\"a b\"", "\"ab\"", HYMBA_ERROR_FORMAT, "merge 0"},
        {"\"a b\"", "\"a b c\"", HYMBA_ERROR_FORMAT, "merge 0"},
        {"\"a b\"", "\" b\"", HYMBA_ERROR_FORMAT, "merge 0"},
        {"\"a b\"", "\"b a\"", HYMBA_ERROR_FORMAT, "merge 0"},
        {"\"a b\"", "7", HYMBA_ERROR_FORMAT, "merge 0"},
        {"\"a b\"", "[\"a\"]", HYMBA_ERROR_FORMAT, "merge 0"},
        {"\"a b\"", "[\"a\", 1]", HYMBA_ERROR_FORMAT, "merge 0"},
        {"\"a b\"", "\"a b\", [\"a\", \"b\"]", HYMBA_ERROR_FORMAT, "merge 1 is there twice"},
        {"\"ab\": 262", "\"<s\": 262, \">\": 264", HYMBA_ERROR_FORMAT, "merge 0"},
        {"\"merges\": [", "\"merges\": {}, \"vocab\": [", HYMBA_ERROR_FORMAT, "tokenizer.json"},
        {"\"id\": 0", "\"id\": 1", HYMBA_ERROR_FORMAT, "the vocabulary has \"<s>\" there"},
        {"\"id\": 0", "\"id\": 0.5", HYMBA_ERROR_FORMAT, "added_tokens[0]"},
        {"\"id\": 0", "\"id\": 9223372036854775807", HYMBA_ERROR_FORMAT, "does not continue"},
        {"\"id\": 0", "\"id\": -9223372036854775808", HYMBA_ERROR_FORMAT, "does not continue"},
        {"\"added_tokens\": [", "\"added_tokens\": [3, ", HYMBA_ERROR_FORMAT, "added_tokens[0]"},
    };
    char *json = small_json();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hymba_tokenizer *tokenizer;
        char *changed = replace(json, cases[i].from, cases[i].to);
        hymba_status status = open_memory(NULL, NULL, 0, changed, NULL, &tokenizer);
        expect_refused(status, tokenizer, cases[i].status, cases[i].part);
        free(changed);
    }
    free(json);
}
END_TEST

/* Special and byte tokens cannot be made by merging: such a merge is refused. */
START_TEST(merges_of_special_pieces)
{
    static const char *const merges[] = {"[\"<s>\", \"a\"]", "[\"a\", \"</s>\"]",
                                         "[\"<0x41>\", \"a\"]", "\"< s>\""};
    char *json = small_json();
    char *with_parts = replace(json, "\"ab\": 262", "\"ab\": 262, \"<\": 264, \"s>\": 265,"
                                                    "\"<s>a\": 266, \"a</s>\": 267,"
                                                    "\"<0x41>a\": 268");
    for (size_t i = 0; i < sizeof merges / sizeof merges[0]; i++) {
        hymba_tokenizer *tokenizer;
        char *changed = replace(with_parts, "\"a b\"", merges[i]);
        hymba_status status = open_memory(NULL, NULL, 0, changed, NULL, &tokenizer);
        expect_refused(status, tokenizer, HYMBA_ERROR_FORMAT, "not of ordinary pieces");
        free(changed);
    }
    free(with_parts);
    free(json);
}
END_TEST

START_TEST(truncated_json)
{
    char *json = small_json();
    for (size_t length = strlen(json); length > 0;) {
        hymba_tokenizer *tokenizer;
        json[--length] = '\0';
        test_status(open_memory(NULL, NULL, 0, json, NULL, &tokenizer), HYMBA_ERROR_FORMAT, error);
        ck_assert_ptr_null(tokenizer);
    }
    free(json);
}
END_TEST

/* ------------------------------------------------------------------- memory */

/* Everything a tokenizer can do, once. */
static hymba_status use(hymba_tokenizer *tokenizer)
{
    struct hy_ids ids = {.memory = hy_tokenizer_memory(tokenizer)};
    char text[400];
    memset(text, 'a', sizeof text);
    text[100] = ' ';
    hymba_status status =
        hy_tokenizer_encode(tokenizer, text, sizeof text, HYMBA_ENCODE_SPECIAL, &ids, &error);
    ck_assert(status == HYMBA_OK || ids.count == 0);
    hy_free(ids.memory, ids.data);
    hymba_text_stream *stream = NULL;
    if (status == HYMBA_OK)
        status = hy_text_stream_create(tokenizer, &stream, &error);
    hy_text_stream_release(stream);
    return status;
}

static void fail_in_turn(const void *data, size_t size, const char *json, const char *config)
{
    struct test_host host;
    hymba_status status = HYMBA_ERROR_MEMORY;
    test_host_init(&host);
    for (long fail_at = 0; status != HYMBA_OK; fail_at++) {
        hymba_tokenizer *tokenizer;
        test_host_fail_at(&host, fail_at, false);
        status = open_memory(&host.host, data, size, json, config, &tokenizer);
        ck_assert(!tokenizer == (status != HYMBA_OK));
        if (status == HYMBA_OK)
            status = use(tokenizer);
        if (status != HYMBA_OK)
            test_status(status, HYMBA_ERROR_MEMORY, error);
        hy_tokenizer_release(tokenizer);
        test_host_check(&host);
        ck_assert_int_lt(fail_at, 200);
    }
    ck_assert_int_gt(host.n_allocations, 8);
}

START_TEST(every_allocation_fails_in_turn)
{
    static const char config[] =
        "{\"added_tokens_decoder\": {" TOKEN("264", "[A]") "}, \"chat_template\": \"x\"}";
    char *json = small_json();
    begin_model();
    put_words();
    end_model();
    fail_in_turn(model.data, model.size, NULL, config);
    fail_in_turn(NULL, 0, json, config);
    free(json);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tokenizer_files");
    TCase *cases = tcase_create("tokenizer_files");
    tcase_add_checked_fixture(cases, prepare, NULL);
    tcase_set_timeout(cases, 300);
    tcase_add_test(cases, a_small_model);
    tcase_add_test(cases, equal_scores_merge_from_the_left);
    tcase_add_test(cases, pieces_that_join_words);
    tcase_add_test(cases, the_longest_special_token_wins);
    tcase_add_test(cases, every_truncated_model_is_refused);
    tcase_add_test(cases, changed_models_do_no_harm);
    tcase_add_test(cases, malformed_protobuf);
    tcase_add_test(cases, models_of_another_kind);
    tcase_add_test(cases, bad_pieces);
    tcase_add_test(cases, models_without_what_they_need);
    tcase_add_test(cases, a_model_without_bos);
    tcase_add_test(cases, configurations);
    tcase_add_test(cases, bad_configurations);
    tcase_add_test(cases, a_small_json);
    tcase_add_test(cases, json_of_another_kind);
    tcase_add_test(cases, merges_of_special_pieces);
    tcase_add_test(cases, truncated_json);
    tcase_add_test(cases, every_allocation_fails_in_turn);
    suite_add_tcase(suite, cases);
    return test_main(suite);
}
