#include <string.h>

#include "abi.h"
#include "text/chat_template.h"
#include "text/log_probabilities.h"
#include "text/sampler.h"
#include "text/text_stream.h"

/* -------------------------------------------------------------- tokenizer */

hymba_status hymba_tokenizer_open(const char *directory, const hymba_host *given,
                                  hymba_tokenizer **tokenizer, hymba_error *error)
{
    hymba_host host;
    hymba_status status = hy_require(tokenizer, "tokenizer", error);
    if (status != HYMBA_OK)
        return status;
    *tokenizer = NULL;
    status = hy_require(directory, "directory", error);
    if (status == HYMBA_OK && given) {
        status = hy_read_struct(&host, sizeof host, given, "host", error);
        given = &host;
    }
    return status == HYMBA_OK
               ? hy_tokenizer_open_directory(given, directory, false, tokenizer, error)
               : status;
}

hymba_tokenizer *hymba_tokenizer_retain(hymba_tokenizer *tokenizer)
{
    return tokenizer ? hy_tokenizer_retain(tokenizer) : NULL;
}

void hymba_tokenizer_release(hymba_tokenizer *tokenizer)
{
    hy_tokenizer_release(tokenizer);
}

uint32_t hymba_tokenizer_vocabulary_size(const hymba_tokenizer *tokenizer)
{
    return tokenizer ? hy_tokenizer_size(tokenizer) : 0;
}

int32_t hymba_tokenizer_bos(const hymba_tokenizer *tokenizer)
{
    return tokenizer ? hy_tokenizer_bos(tokenizer) : -1;
}

int32_t hymba_tokenizer_eos(const hymba_tokenizer *tokenizer)
{
    return tokenizer ? hy_tokenizer_eos(tokenizer) : -1;
}

int32_t hymba_tokenizer_adds_bos(const hymba_tokenizer *tokenizer)
{
    return tokenizer && hy_tokenizer_adds_bos(tokenizer);
}

hymba_status hymba_tokenizer_encode(const hymba_tokenizer *tokenizer, const char *text,
                                    size_t length, uint32_t flags, int32_t *ids, size_t capacity,
                                    size_t *needed, hymba_error *error)
{
    hymba_status status = hy_require(tokenizer, "tokenizer", error);
    if (status == HYMBA_OK)
        status = hy_require(needed, "needed", error);
    if (status == HYMBA_OK && capacity > 0)
        status = hy_require(ids, "ids", error);
    if (status == HYMBA_OK)
        status = hy_text_length(text, &length, "text", error);
    if (status != HYMBA_OK)
        return status;
    struct hy_ids list = {.memory = hy_tokenizer_memory(tokenizer)};
    status = hy_tokenizer_encode(tokenizer, text ? text : "", length, flags, &list, error);
    if (status == HYMBA_OK) {
        *needed = list.count;
        if (list.count > 0 && list.count <= capacity)
            memcpy(ids, list.data, list.count * sizeof *ids);
        status = hy_check_buffer(ids, capacity, list.count, error);
    }
    hy_free(list.memory, list.data);
    return status;
}

hymba_status hymba_tokenizer_decode(const hymba_tokenizer *tokenizer, const int32_t *ids,
                                    size_t n_ids, uint32_t flags, char *buffer, size_t capacity,
                                    size_t *needed, hymba_error *error)
{
    hymba_status status = hy_require(tokenizer, "tokenizer", error);
    if (status == HYMBA_OK)
        status = hy_require(needed, "needed", error);
    if (status == HYMBA_OK && capacity > 0)
        status = hy_require(buffer, "buffer", error);
    if (status == HYMBA_OK && n_ids > 0)
        status = hy_require(ids, "ids", error);
    if (status == HYMBA_OK)
        status = hy_check_count(n_ids, sizeof *ids, "n_ids", error);
    if (status != HYMBA_OK)
        return status;
    status = hy_tokenizer_decode(tokenizer, ids, n_ids, flags, buffer, capacity, needed, error);
    return status == HYMBA_OK ? hy_check_buffer(buffer, capacity, *needed, error) : status;
}

hymba_status hymba_tokenizer_piece(const hymba_tokenizer *tokenizer, int32_t id, const char **text,
                                   size_t *length, hymba_error *error)
{
    hymba_status status = hy_require(tokenizer, "tokenizer", error);
    if (status == HYMBA_OK)
        status = hy_require(text, "text", error);
    if (status == HYMBA_OK)
        status = hy_require(length, "length", error);
    if (status != HYMBA_OK)
        return status;
    *text = NULL;
    *length = 0;
    if (id < 0 || (uint32_t)id >= hy_tokenizer_size(tokenizer))
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "id: found %d, expected 0 to %u", (int)id,
                       hy_tokenizer_size(tokenizer) - 1);
    struct hy_piece piece = hy_tokenizer_piece(tokenizer, id);
    *text = piece.text;
    *length = piece.length;
    return HYMBA_OK;
}

int32_t hymba_tokenizer_has_chat_template(const hymba_tokenizer *tokenizer)
{
    return tokenizer && hy_tokenizer_chat_template(tokenizer) != NULL;
}

/* What a template may expect besides the caller's variables: the special tokens' text, and the
 * names that are always defined, if only as none. */
static hymba_status add_defaults(const hymba_tokenizer *tokenizer, hy_json *variables,
                                 hymba_error *error)
{
    const struct {
        const char *name;
        int32_t id;
    } defaults[] = {
        {"bos_token", hy_tokenizer_bos(tokenizer)},
        {"eos_token", hy_tokenizer_eos(tokenizer)},
        {"tools", -1},
        {"documents", -1},
    };
    hymba_status status = HYMBA_OK;
    for (size_t i = 0; status == HYMBA_OK && i < sizeof defaults / sizeof defaults[0]; i++) {
        struct hy_piece piece = {0};
        if (defaults[i].id >= 0)
            piece = hy_tokenizer_piece(tokenizer, defaults[i].id);
        status = hy_json_default(variables, defaults[i].name, piece.text, piece.length, error);
    }
    return status;
}

static hymba_status render(const hymba_tokenizer *tokenizer, const char *source, const char *json,
                           size_t length, struct hy_text *text, hymba_error *error)
{
    hy_json *variables;
    hymba_status status = hy_json_parse(json, length, "the chat", &variables, error);
    if (status != HYMBA_OK)
        return status;
    enum hy_json_kind kind = hy_json_kind(variables);
    enum hy_json_kind messages = hy_json_kind(hy_json_object_get(variables, "messages"));
    if (kind != HY_JSON_OBJECT)
        status = hy_fail(error, HYMBA_ERROR_FORMAT, "the chat: found %s, expected an object",
                         hy_json_kind_name(kind));
    else if (messages != HY_JSON_ARRAY)
        status = hy_fail(error, HYMBA_ERROR_FORMAT,
                         "the chat: \"messages\" is %s, expected an array",
                         hy_json_kind_name(messages));
    else
        status = add_defaults(tokenizer, variables, error);
    if (status == HYMBA_OK)
        status = hy_chat_template_render(source, strlen(source), variables, text, error);
    hy_json_free(variables);
    return status;
}

hymba_status hymba_tokenizer_render_chat(const hymba_tokenizer *tokenizer, const char *json,
                                         size_t length, char *buffer, size_t capacity,
                                         size_t *needed, hymba_error *error)
{
    hymba_status status = hy_require(tokenizer, "tokenizer", error);
    if (status == HYMBA_OK)
        status = hy_require(json, "json", error);
    if (status == HYMBA_OK)
        status = hy_require(needed, "needed", error);
    if (status == HYMBA_OK && capacity > 0)
        status = hy_require(buffer, "buffer", error);
    if (status == HYMBA_OK)
        status = hy_text_length(json, &length, "json", error);
    if (status != HYMBA_OK)
        return status;
    const char *source = hy_tokenizer_chat_template(tokenizer);
    if (!source)
        return hy_fail(error, HYMBA_ERROR_MISSING, "the tokenizer has no chat template");
    struct hy_text text = {.memory = hy_tokenizer_memory(tokenizer)};
    status = render(tokenizer, source, json, length, &text, error);
    if (status == HYMBA_OK) {
        *needed = text.length;
        if (text.length > 0 && text.length <= capacity)
            memcpy(buffer, text.data, text.length);
        status = hy_check_buffer(buffer, capacity, text.length, error);
    }
    hy_free(text.memory, text.data);
    return status;
}

/* ------------------------------------------------------------ text stream */

hymba_status hymba_text_stream_create(hymba_tokenizer *tokenizer, hymba_text_stream **stream,
                                      hymba_error *error)
{
    hymba_status status = hy_require(stream, "stream", error);
    if (status != HYMBA_OK)
        return status;
    *stream = NULL;
    status = hy_require(tokenizer, "tokenizer", error);
    return status == HYMBA_OK ? hy_text_stream_create(tokenizer, stream, error) : status;
}

void hymba_text_stream_release(hymba_text_stream *stream)
{
    hy_text_stream_release(stream);
}

void hymba_text_stream_reset(hymba_text_stream *stream)
{
    if (stream)
        hy_text_stream_reset(stream);
}

static hymba_status check_text_output(const void *stream, const char **text, size_t *length,
                                      hymba_error *error)
{
    hymba_status status = hy_require(stream, "stream", error);
    if (status == HYMBA_OK)
        status = hy_require(text, "text", error);
    if (status == HYMBA_OK)
        status = hy_require(length, "length", error);
    return status;
}

hymba_status hymba_text_stream_push(hymba_text_stream *stream, int32_t id, const char **text,
                                    size_t *length, hymba_error *error)
{
    hymba_status status = check_text_output(stream, text, length, error);
    return status == HYMBA_OK ? hy_text_stream_push(stream, id, text, length, error) : status;
}

hymba_status hymba_text_stream_finish(hymba_text_stream *stream, const char **text, size_t *length,
                                      hymba_error *error)
{
    hymba_status status = check_text_output(stream, text, length, error);
    return status == HYMBA_OK ? hy_text_stream_finish(stream, text, length, error) : status;
}

/* ---------------------------------------------------------------- sampler */

void hymba_sampler_params_init(hymba_sampler_params *params, size_t size)
{
    hy_init_struct(params, size);
}

hymba_status hymba_sampler_create(const hymba_sampler_params *given, const hymba_host *given_host,
                                  hymba_sampler **sampler, hymba_error *error)
{
    hymba_sampler_params params;
    hymba_host host;
    hymba_status status = hy_require(sampler, "sampler", error);
    if (status != HYMBA_OK)
        return status;
    *sampler = NULL;
    status = hy_read_struct(&params, sizeof params, given, "params", error);
    if (status == HYMBA_OK && given_host) {
        status = hy_read_struct(&host, sizeof host, given_host, "host", error);
        given_host = &host;
    }
    return status == HYMBA_OK ? hy_sampler_create(&params, given_host, sampler, error) : status;
}

hymba_sampler *hymba_sampler_retain(hymba_sampler *sampler)
{
    return sampler ? hy_sampler_retain(sampler) : NULL;
}

void hymba_sampler_release(hymba_sampler *sampler)
{
    hy_sampler_release(sampler);
}

void hymba_sampler_reset(hymba_sampler *sampler)
{
    if (sampler)
        hy_sampler_reset(sampler);
}

hymba_status hymba_sampler_accept(hymba_sampler *sampler, int32_t token, hymba_error *error)
{
    hymba_status status = hy_require(sampler, "sampler", error);
    return status == HYMBA_OK ? hy_sampler_accept(sampler, token, error) : status;
}

hymba_status hymba_sampler_sample(hymba_sampler *sampler, const float *logits, size_t n_logits,
                                  int32_t *token, hymba_error *error)
{
    hymba_status status = hy_require(sampler, "sampler", error);
    if (status == HYMBA_OK)
        status = hy_require(logits, "logits", error);
    if (status == HYMBA_OK)
        status = hy_require(token, "token", error);
    return status == HYMBA_OK ? hy_sampler_sample(sampler, logits, n_logits, token, error)
                              : status;
}

hymba_status hymba_sampler_state(const hymba_sampler *sampler, void *buffer, size_t capacity,
                                 size_t *needed, hymba_error *error)
{
    hymba_status status = hy_require(sampler, "sampler", error);
    if (status == HYMBA_OK)
        status = hy_require(needed, "needed", error);
    if (status == HYMBA_OK && capacity > 0)
        status = hy_require(buffer, "buffer", error);
    if (status == HYMBA_OK)
        status = hy_sampler_state_size(sampler, needed, error);
    if (status != HYMBA_OK)
        return status;
    if (*needed <= capacity)
        hy_sampler_write_state(sampler, buffer);
    return hy_check_buffer(buffer, capacity, *needed, error);
}

hymba_status hymba_sampler_restore(const void *data, size_t size, const hymba_host *given_host,
                                   hymba_sampler **sampler, hymba_error *error)
{
    hymba_host host;
    hymba_status status = hy_require(sampler, "sampler", error);
    if (status != HYMBA_OK)
        return status;
    *sampler = NULL;
    status = hy_require(data, "data", error);
    if (status == HYMBA_OK)
        status = hy_check_count(size, 1, "size", error);
    if (status == HYMBA_OK && given_host) {
        status = hy_read_struct(&host, sizeof host, given_host, "host", error);
        given_host = &host;
    }
    return status == HYMBA_OK ? hy_sampler_read_state(data, size, given_host, sampler, error)
                              : status;
}

hymba_status hymba_log_probabilities(const float *logits, size_t n_logits, int32_t token,
                                     float *log_probability, hymba_token_probability *top,
                                     size_t n_top, hymba_error *error)
{
    hymba_status status = hy_require(logits, "logits", error);
    if (status == HYMBA_OK && n_top > 0)
        status = hy_require(top, "top", error);
    return status == HYMBA_OK ? hy_log_probabilities(logits, n_logits, token, log_probability,
                                                     top, n_top, error)
                              : status;
}
