#include "text/tokenizer_config.h"

#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "text/added_tokens.h"
#include "text/json_integers.h"

static const char file_name[] = "tokenizer_config.json";

static hymba_status wrong_kind(const char *name, const hy_json *value, const char *expected,
                               hymba_error *error)
{
    return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: %s is %s, expected %s", file_name, name,
                   hy_json_kind_name(hy_json_kind(value)), expected);
}

static bool is_given(const hy_json *value)
{
    enum hy_json_kind kind = hy_json_kind(value);
    return kind != HY_JSON_ABSENT && kind != HY_JSON_NULL;
}

static hymba_status require_bool(const hy_json *config, const char *name, bool expected,
                                 hymba_error *error)
{
    const hy_json *value = hy_json_object_get(config, name);
    if (!is_given(value))
        return HYMBA_OK;
    if (hy_json_kind(value) != HY_JSON_BOOL)
        return wrong_kind(name, value, "true or false", error);
    if (hy_json_bool(value) != expected)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s: %s is %s, only %s is supported",
                       file_name, name, expected ? "false" : "true", expected ? "true" : "false");
    return HYMBA_OK;
}

/* The fields that would make other ids of a text. */
static hymba_status check_fields(const hy_json *config, hymba_error *error)
{
    const hy_json *arguments = hy_json_object_get(config, "sp_model_kwargs");
    hymba_status status = require_bool(config, "legacy", true, error);
    if (status == HYMBA_OK)
        status = require_bool(config, "add_prefix_space", true, error);
    if (status == HYMBA_OK)
        status = require_bool(config, "add_eos_token", false, error);
    if (status == HYMBA_OK && hy_json_object_size(arguments) > 0)
        status = hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                         "%s: sp_model_kwargs is not empty, which is not supported", file_name);
    return status;
}

/* *is_llama tells whether the class is the one that adds a BOS token unless told not to. */
static hymba_status check_class(const hy_json *config, bool *is_llama, hymba_error *error)
{
    const hy_json *value = hy_json_object_get(config, "tokenizer_class");
    const char *name = hy_json_string(value, NULL);
    *is_llama = false;
    if (!is_given(value))
        return HYMBA_OK;
    if (!name)
        return wrong_kind("tokenizer_class", value, "a string", error);
    *is_llama = strcmp(name, "LlamaTokenizer") == 0 || strcmp(name, "LlamaTokenizerFast") == 0;
    if (!*is_llama && strcmp(name, "PreTrainedTokenizerFast") != 0)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: tokenizer_class is \"%.64s\", only LlamaTokenizer, LlamaTokenizerFast "
                       "and PreTrainedTokenizerFast are supported", file_name, name);
    return HYMBA_OK;
}

/* A decimal number without sign, leading zeros or anything else; -1 for any other text. */
static int64_t parse_id(const char *text, size_t length)
{
    int64_t id = 0;
    if (length == 0 || length > 9 || (text[0] == '0' && length > 1))
        return -1;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        id = id * 10 + (text[i] - '0');
    }
    return id;
}

static hymba_status collect_added_tokens(const hy_json *decoder, struct hy_added_token *tokens,
                                         hymba_error *error)
{
    size_t count = 0;
    for (hy_json_member *m = NULL; (m = hy_json_next_member(decoder, m)) != NULL; count++) {
        size_t length;
        const char *key = hy_json_member_key(m, &length);
        tokens[count].id = parse_id(key, length);
        tokens[count].value = hy_json_member_value(m);
        if (tokens[count].id < 0)
            return hy_fail(error, HYMBA_ERROR_FORMAT,
                           "%s: \"%.*s\" in added_tokens_decoder, expected a token id", file_name,
                           (int)hy_min_size(length, 64), key);
    }
    return HYMBA_OK;
}

static hymba_status read_added_tokens(const hy_json *config, struct hy_vocabulary *vocabulary,
                                      hymba_error *error)
{
    const hy_json *decoder = hy_json_object_get(config, "added_tokens_decoder");
    size_t count = hy_json_object_size(decoder);
    if (!is_given(decoder))
        return HYMBA_OK;
    if (hy_json_kind(decoder) != HY_JSON_OBJECT)
        return wrong_kind("added_tokens_decoder", decoder, "an object", error);
    struct hy_added_token *tokens = hy_alloc_array(vocabulary->memory, count, sizeof *tokens);
    if (!tokens)
        return hy_no_memory(error, count * sizeof *tokens, "the added tokens");
    hymba_status status = collect_added_tokens(decoder, tokens, error);
    if (status == HYMBA_OK)
        status = hy_added_tokens_apply(vocabulary, tokens, count, false, file_name, error);
    hy_free(vocabulary->memory, tokens);
    return status;
}

/* A token is given by its text, or by an object with its text as content. NULL takes it away, and
 * a field that is not there changes nothing. */
static hymba_status read_token(const hy_json *config, const char *name,
                               const struct hy_vocabulary *vocabulary, enum hy_piece_kind kind,
                               int32_t *id, hymba_error *error)
{
    const hy_json *value = hy_json_object_get(config, name);
    size_t length;
    if (hy_json_kind(value) == HY_JSON_NULL)
        *id = -1;
    if (!is_given(value))
        return HYMBA_OK;
    if (hy_json_kind(value) == HY_JSON_OBJECT)
        value = hy_json_object_get(value, "content");
    const char *text = hy_json_string(value, &length);
    if (!text)
        return wrong_kind(name, value, "a string, or an object with a string content", error);
    *id = hy_vocabulary_find(vocabulary, text, length);
    if (*id < 0 || vocabulary->entries[*id].kind != kind)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: %s is \"%.*s\", which is no %s", file_name,
                       name, (int)hy_min_size(length, 64), text,
                       kind == HY_PIECE_UNKNOWN ? "unknown piece of the vocabulary"
                                                : "special token");
    return HYMBA_OK;
}

static hymba_status read_tokens(const hy_json *config, const struct hy_vocabulary *vocabulary,
                                struct hy_tokenizer_settings *settings, hymba_error *error)
{
    int32_t unknown;
    hymba_status status = read_token(config, "bos_token", vocabulary, HY_PIECE_SPECIAL,
                                     &settings->bos, error);
    if (status == HYMBA_OK)
        status = read_token(config, "eos_token", vocabulary, HY_PIECE_SPECIAL, &settings->eos,
                            error);
    if (status == HYMBA_OK)
        status = read_token(config, "unk_token", vocabulary, HY_PIECE_UNKNOWN, &unknown, error);
    return status;
}

static hymba_status read_adds_bos(const hy_json *config, bool is_llama,
                                  struct hy_tokenizer_settings *settings, hymba_error *error)
{
    const hy_json *value = hy_json_object_get(config, "add_bos_token");
    if (!is_given(value)) {
        settings->adds_bos = (settings->adds_bos || is_llama) && settings->bos >= 0;
        return HYMBA_OK;
    }
    if (hy_json_kind(value) != HY_JSON_BOOL)
        return wrong_kind("add_bos_token", value, "true or false", error);
    settings->adds_bos = hy_json_bool(value);
    if (settings->adds_bos && settings->bos < 0)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s: add_bos_token is true, but there is no bos_token", file_name);
    return HYMBA_OK;
}

/* A model may have several templates, in a list; the one named default is the chat template. */
static const hy_json *default_template(const hy_json *list)
{
    for (size_t i = 0; i < hy_json_array_size(list); i++) {
        const hy_json *element = hy_json_array_get(list, i);
        const char *name = hy_json_string(hy_json_object_get(element, "name"), NULL);
        if (name && strcmp(name, "default") == 0)
            return hy_json_object_get(element, "template");
    }
    return NULL;
}

static hymba_status read_chat_template(const hy_json *config, struct hy_memory *memory,
                                       struct hy_tokenizer_settings *settings, hymba_error *error)
{
    const hy_json *value = hy_json_object_get(config, "chat_template");
    size_t length;
    if (hy_json_kind(value) == HY_JSON_ARRAY)
        value = default_template(value);
    if (!is_given(value))
        return HYMBA_OK;
    const char *text = hy_json_string(value, &length);
    if (!text)
        return wrong_kind("chat_template", value, "a string or a list of templates", error);
    if (strlen(text) != length)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: chat_template has a NUL character",
                       file_name);
    settings->chat_template = hy_copy_text(memory, text, length);
    return settings->chat_template ? HYMBA_OK
                                   : hy_no_memory(error, length + 1, "the chat template");
}

static hymba_status read_document(const hy_json *config, struct hy_vocabulary *vocabulary,
                                  struct hy_tokenizer_settings *settings, hymba_error *error)
{
    bool is_llama = false;
    if (hy_json_kind(config) != HY_JSON_OBJECT)
        return wrong_kind("the document", config, "an object", error);
    hymba_status status = check_class(config, &is_llama, error);
    if (status == HYMBA_OK)
        status = check_fields(config, error);
    if (status == HYMBA_OK)
        status = read_added_tokens(config, vocabulary, error);
    if (status == HYMBA_OK)
        status = read_tokens(config, vocabulary, settings, error);
    if (status == HYMBA_OK)
        status = read_adds_bos(config, is_llama, settings, error);
    if (status == HYMBA_OK)
        status = read_chat_template(config, vocabulary->memory, settings, error);
    return status;
}

hymba_status hy_tokenizer_config_read(const struct hy_file *file, struct hy_vocabulary *vocabulary,
                                      struct hy_tokenizer_settings *settings, hymba_error *error)
{
    hy_json *document;
    char *text = NULL;
    size_t length;
    hymba_status status = hy_json_widen_integers(vocabulary->memory, (const char *)file->data,
                                                 file->size, &text, &length, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_json_parse(text, length, file_name, &document, error);
    hy_free(vocabulary->memory, text);
    if (status != HYMBA_OK)
        return status;
    vocabulary->file = file_name;
    status = read_document(document, vocabulary, settings, error);
    hy_json_free(document);
    return status;
}
