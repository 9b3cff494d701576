#include "text/added_tokens.h"

#include <string.h>

#include "base/checked.h"

/* A token that is not special, or that takes spaces with it, would change how text is divided. */
static hymba_status check_flags(const struct hy_added_token *token, const char *file,
                                hymba_error *error)
{
    static const struct {
        const char *name;
        bool expected;
    } flags[] = {{"special", true},
                 {"single_word", false},
                 {"lstrip", false},
                 {"rstrip", false},
                 {"normalized", false}};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        const hy_json *value = hy_json_object_get(token->value, flags[i].name);
        enum hy_json_kind kind = hy_json_kind(value);
        if (kind != HY_JSON_BOOL && kind != HY_JSON_ABSENT)
            return hy_fail(error, HYMBA_ERROR_FORMAT,
                           "%s: %s of added token %lld is %s, expected true or false", file,
                           flags[i].name, (long long)token->id, hy_json_kind_name(kind));
        if (hy_json_bool(value) != flags[i].expected)
            return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                           "%s: %s of added token %lld is %s, only %s is supported", file,
                           flags[i].name, (long long)token->id,
                           flags[i].expected ? "false" : "true",
                           flags[i].expected ? "true" : "false");
    }
    return HYMBA_OK;
}

static hymba_status check_token(const struct hy_added_token *token, const char *file,
                                hymba_error *error)
{
    enum hy_json_kind kind = hy_json_kind(token->value);
    if (kind != HY_JSON_OBJECT)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: added token %lld is %s, expected an object",
                       file, (long long)token->id, hy_json_kind_name(kind));
    kind = hy_json_kind(hy_json_object_get(token->value, "content"));
    if (kind != HY_JSON_STRING)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s: content of added token %lld is %s, expected a string", file,
                       (long long)token->id, hy_json_kind_name(kind));
    return check_flags(token, file, error);
}

/* A token that is a piece of the vocabulary already. */
static hymba_status match_piece(struct hy_vocabulary *vocabulary,
                                const struct hy_added_token *token, bool may_convert,
                                const char *file, hymba_error *error)
{
    struct hy_vocabulary_entry *entry = &vocabulary->entries[token->id];
    size_t length;
    const char *content = hy_json_string(hy_json_object_get(token->value, "content"), &length);
    if (length != entry->length ||
        memcmp(content, vocabulary->text + entry->offset, length) != 0)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "%s: added token %lld is \"%.*s\", but the vocabulary has \"%.*s\" there",
                       file, (long long)token->id, (int)hy_min_size(length, 64), content,
                       (int)hy_min_size(entry->length, 64), vocabulary->text + entry->offset);
    if (entry->kind == HY_PIECE_BYTE || (entry->kind == HY_PIECE_NORMAL && !may_convert))
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: added token %lld, \"%.*s\", is an ordinary piece of the vocabulary",
                       file, (long long)token->id, (int)hy_min_size(length, 64), content);
    if (entry->kind == HY_PIECE_NORMAL)
        entry->kind = HY_PIECE_SPECIAL;
    return HYMBA_OK;
}

/* Takes each token to its place: a piece, or one of the slots behind the last piece. */
static hymba_status place(struct hy_vocabulary *vocabulary, const struct hy_added_token *tokens,
                          size_t count, bool may_convert, const hy_json **slots, const char *file,
                          hymba_error *error)
{
    for (size_t i = 0; i < count; i++) {
        const struct hy_added_token *token = &tokens[i];
        int64_t n_pieces = (int64_t)vocabulary->count;
        hymba_status status = check_token(token, file, error);
        if (status != HYMBA_OK)
            return status;
        if (token->id < 0 || token->id - n_pieces >= (int64_t)count)
            return hy_fail(error, HYMBA_ERROR_FORMAT,
                           "%s: added token %lld does not continue the vocabulary of %lld pieces",
                           file, (long long)token->id, (long long)n_pieces);
        if (token->id < n_pieces)
            status = match_piece(vocabulary, token, may_convert, file, error);
        else if (slots[token->id - n_pieces])
            status = hy_fail(error, HYMBA_ERROR_FORMAT, "%s: added token %lld is there twice", file,
                             (long long)token->id);
        else
            slots[token->id - n_pieces] = token->value;
        if (status != HYMBA_OK)
            return status;
    }
    return HYMBA_OK;
}

static hymba_status append(struct hy_vocabulary *vocabulary, const hy_json *const *slots,
                           size_t count, const char *file, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    size_t n_filled = 0;
    while (n_filled < count && slots[n_filled])
        n_filled++;
    for (size_t i = n_filled; i < count; i++)
        if (slots[i])
            return hy_fail(error, HYMBA_ERROR_FORMAT,
                           "%s: added token %zu does not continue the vocabulary: there is no %zu",
                           file, vocabulary->count + i, vocabulary->count + n_filled);
    for (size_t i = 0; i < n_filled && status == HYMBA_OK; i++) {
        size_t length;
        const char *content = hy_json_string(hy_json_object_get(slots[i], "content"), &length);
        status = hy_vocabulary_add(vocabulary, content, length, HY_PIECE_SPECIAL, 0, error);
    }
    return status;
}

hymba_status hy_added_tokens_apply(struct hy_vocabulary *vocabulary,
                                   const struct hy_added_token *tokens, size_t count,
                                   bool may_convert, const char *file, hymba_error *error)
{
    if (count == 0)
        return HYMBA_OK;
    const hy_json **slots = hy_alloc_zero(vocabulary->memory, count, sizeof *slots);
    if (!slots)
        return hy_no_memory(error, count * sizeof *slots, "the added tokens");
    hymba_status status = place(vocabulary, tokens, count, may_convert, slots, file, error);
    if (status == HYMBA_OK)
        status = append(vocabulary, slots, count, file, error);
    hy_free(vocabulary->memory, slots);
    return status;
}
