#include "text/tokenizer_json.h"

#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "text/added_tokens.h"
#include "text/json_match.h"

static const char file_name[] = "tokenizer.json";

/* The forms that say what semantics.md, section 11 says of encoding and decoding. */
static const char supported_normalizer[] =
    "{\"type\": \"Sequence\", \"normalizers\": ["
    "{\"type\": \"Prepend\", \"prepend\": \"\xE2\x96\x81\"},"
    "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}]}";
static const char supported_decoder[] =
    "{\"type\": \"Sequence\", \"decoders\": ["
    "{\"type\": \"Replace\", \"pattern\": {\"String\": \"\xE2\x96\x81\"}, \"content\": \" \"},"
    "{\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"},"
    "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}";
static const char supported_sequence[] = "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}";

static bool is_one_of(const char *name, const char *const *names)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

/* Refuses a member of an object that is none of names (which ends with NULL). */
static hymba_status check_members(const hy_json *object, const char *where,
                                  const char *const *names, hymba_error *error)
{
    if (hy_json_kind(object) != HY_JSON_OBJECT)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: %s is %s, expected an object", file_name,
                       where, hy_json_kind_name(hy_json_kind(object)));
    for (hy_json_member *m = NULL; (m = hy_json_next_member(object, m)) != NULL;) {
        size_t length;
        const char *key = hy_json_member_key(m, &length);
        if (!is_one_of(key, names))
            return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s: %.*s in %s is not supported",
                           file_name, (int)hy_min_size(length, 64), key, where);
    }
    return HYMBA_OK;
}

static hymba_status require_null(const hy_json *object, const char *name, hymba_error *error)
{
    enum hy_json_kind kind = hy_json_kind(hy_json_object_get(object, name));
    if (kind == HY_JSON_NULL || kind == HY_JSON_ABSENT)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s: %s is %s, only null is supported",
                   file_name, name, hy_json_kind_name(kind));
}

static hymba_status require_bool(const hy_json *object, const char *name, bool expected,
                                 hymba_error *error)
{
    if (hy_json_bool(hy_json_object_get(object, name)) == expected)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s: %s is not %s, as is supported", file_name,
                   name, expected ? "true" : "false");
}

static hymba_status check_document(const hy_json *document, hymba_error *error)
{
    static const char *const names[] = {
        "version",        "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
        "post_processor", "decoder",    "model",   NULL};
    hymba_status status = check_members(document, "the document", names, error);
    if (status == HYMBA_OK)
        status = hy_json_match(hy_json_object_get(document, "version"), "\"1.0\"",
                               "tokenizer.json: version", error);
    if (status == HYMBA_OK)
        status = require_null(document, "truncation", error);
    if (status == HYMBA_OK)
        status = require_null(document, "padding", error);
    if (status == HYMBA_OK)
        status = require_null(document, "pre_tokenizer", error);
    if (status == HYMBA_OK)
        status = hy_json_match(hy_json_object_get(document, "normalizer"), supported_normalizer,
                               "tokenizer.json: normalizer", error);
    if (status == HYMBA_OK)
        status = hy_json_match(hy_json_object_get(document, "decoder"), supported_decoder,
                               "tokenizer.json: decoder", error);
    return status;
}

static hymba_status check_model(const hy_json *model, hymba_error *error)
{
    static const char *const names[] = {"type",
                                        "dropout",
                                        "unk_token",
                                        "continuing_subword_prefix",
                                        "end_of_word_suffix",
                                        "fuse_unk", /* of no effect where every byte is a token */
                                        "byte_fallback",
                                        "ignore_merges",
                                        "vocab",
                                        "merges",
                                        NULL};
    hymba_status status = check_members(model, "model", names, error);
    if (status == HYMBA_OK)
        status = hy_json_match(hy_json_object_get(model, "type"), "\"BPE\"",
                               "tokenizer.json: model.type", error);
    if (status == HYMBA_OK)
        status = require_null(model, "dropout", error);
    if (status == HYMBA_OK)
        status = require_null(model, "continuing_subword_prefix", error);
    if (status == HYMBA_OK)
        status = require_null(model, "end_of_word_suffix", error);
    if (status == HYMBA_OK)
        status = require_bool(model, "byte_fallback", true, error);
    if (status == HYMBA_OK)
        status = require_bool(model, "ignore_merges", false, error);
    return status;
}

/* Puts each piece of vocab at the place its id says; every place from 0 on must be taken. */
static hymba_status order_pieces(const hy_json *vocab, hy_json_member **pieces, size_t count,
                                 hymba_error *error)
{
    for (hy_json_member *m = NULL; (m = hy_json_next_member(vocab, m)) != NULL;) {
        size_t length;
        const char *key = hy_json_member_key(m, &length);
        const hy_json *value = hy_json_member_value(m);
        int64_t id = hy_json_integer(value);
        int shown = (int)hy_min_size(length, 64);
        if (hy_json_kind(value) != HY_JSON_INTEGER)
            return hy_fail(error, HYMBA_ERROR_FORMAT,
                           "%s: the id of \"%.*s\" is %s, expected an integer", file_name, shown,
                           key, hy_json_kind_name(hy_json_kind(value)));
        if (id < 0 || (uint64_t)id >= count)
            return hy_fail(error, HYMBA_ERROR_FORMAT,
                           "%s: the id of \"%.*s\" is %lld, expected one below %zu", file_name,
                           shown, key, (long long)id, count);
        if (pieces[id])
            return hy_fail(error, HYMBA_ERROR_FORMAT,
                           "%s: \"%.*s\" has the id of another piece, %lld", file_name, shown, key,
                           (long long)id);
        pieces[id] = m;
    }
    return HYMBA_OK;
}

static hymba_status read_vocabulary(const hy_json *vocab, struct hy_vocabulary *vocabulary,
                                    hymba_error *error)
{
    size_t count = hy_json_object_size(vocab);
    if (hy_json_kind(vocab) != HY_JSON_OBJECT || count == 0)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: model.vocab is %s with no pieces",
                       file_name, hy_json_kind_name(hy_json_kind(vocab)));
    hy_json_member **pieces = hy_alloc_zero(vocabulary->memory, count, sizeof *pieces);
    if (!pieces)
        return hy_no_memory(error, count * sizeof *pieces, "the order of the pieces");
    hymba_status status = order_pieces(vocab, pieces, count, error);
    for (size_t id = 0; id < count && status == HYMBA_OK; id++) {
        size_t length;
        unsigned char byte;
        const char *text = hy_json_member_key(pieces[id], &length);
        bool is_byte = hy_is_byte_piece(text, length, &byte);
        status = hy_vocabulary_add(vocabulary, text, length,
                                   is_byte ? HY_PIECE_BYTE : HY_PIECE_NORMAL, 0, error);
    }
    hy_free(vocabulary->memory, pieces);
    return status == HYMBA_OK ? hy_vocabulary_check_bytes(vocabulary, error) : status;
}

static hymba_status mark_unknown(const hy_json *model, struct hy_vocabulary *vocabulary,
                                 hymba_error *error)
{
    size_t length;
    const hy_json *value = hy_json_object_get(model, "unk_token");
    const char *text = hy_json_string(value, &length);
    int32_t id = text ? hy_vocabulary_find_normal(vocabulary, text, length) : -1;
    if (id < 0)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: unk_token is %s, expected a piece of vocab",
                       file_name, text ? "another string" : hy_json_kind_name(hy_json_kind(value)));
    vocabulary->entries[id].kind = HY_PIECE_UNKNOWN;
    return HYMBA_OK;
}

static hymba_status read_added_tokens(const hy_json *list, struct hy_vocabulary *vocabulary,
                                      hymba_error *error)
{
    size_t count = hy_json_array_size(list);
    enum hy_json_kind kind = hy_json_kind(list);
    if (kind == HY_JSON_ABSENT)
        return HYMBA_OK;
    if (kind != HY_JSON_ARRAY)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: added_tokens is %s, expected an array",
                       file_name, hy_json_kind_name(kind));
    struct hy_added_token *tokens = hy_alloc_array(vocabulary->memory, count, sizeof *tokens);
    hymba_status status = HYMBA_OK;
    if (!tokens)
        return hy_no_memory(error, count * sizeof *tokens, "the added tokens");
    for (size_t i = 0; i < count && status == HYMBA_OK; i++) {
        const hy_json *value = hy_json_array_get(list, i);
        const hy_json *id = hy_json_object_get(value, "id");
        if (hy_json_kind(id) != HY_JSON_INTEGER)
            status = hy_fail(error, HYMBA_ERROR_FORMAT,
                             "%s: the id of added_tokens[%zu] is %s, expected an integer",
                             file_name, i, hy_json_kind_name(hy_json_kind(id)));
        tokens[i] = (struct hy_added_token){.id = hy_json_integer(id), .value = value};
    }
    if (status == HYMBA_OK)
        status = hy_added_tokens_apply(vocabulary, tokens, count, true, file_name, error);
    hy_free(vocabulary->memory, tokens);
    return status;
}

struct text_view {
    const char *data;
    size_t length;
};

/* A merge is "left right" or ["left", "right"]. */
static bool split_merge(const hy_json *value, struct text_view *left, struct text_view *right)
{
    if (hy_json_kind(value) == HY_JSON_STRING) {
        left->data = hy_json_string(value, &right->length);
        const char *space = memchr(left->data, ' ', right->length);
        if (!space)
            return false;
        left->length = (size_t)(space - left->data);
        right->data = space + 1;
        right->length -= left->length + 1;
        return memchr(right->data, ' ', right->length) == NULL;
    }
    left->data = hy_json_string(hy_json_array_get(value, 0), &left->length);
    right->data = hy_json_string(hy_json_array_get(value, 1), &right->length);
    return hy_json_array_size(value) == 2 && left->data && right->data;
}

/* The id of a piece of a merge: ordinary text must not become anything else. */
static int32_t find_part(const struct hy_vocabulary *vocabulary, struct text_view text)
{
    return hy_vocabulary_find_normal(vocabulary, text.data, text.length);
}

static int32_t find_whole(const struct hy_vocabulary *vocabulary, struct text_view left,
                          struct text_view right)
{
    char whole[2 * HY_PIECE_MAX_LENGTH];
    memcpy(whole, left.data, left.length);
    memcpy(whole + left.length, right.data, right.length);
    return hy_vocabulary_find_normal(vocabulary, whole, left.length + right.length);
}

static hymba_status read_merge(const hy_json *value, size_t rank,
                               const struct hy_vocabulary *vocabulary,
                               struct hy_merge_table *merges, hymba_error *error)
{
    struct text_view left, right;
    if (!split_merge(value, &left, &right))
        return hy_fail_at(error, HYMBA_ERROR_FORMAT, (int64_t)rank,
                          "%s: merge %zu is %s that is not a pair", file_name, rank,
                          hy_json_kind_name(hy_json_kind(value)));
    int32_t left_id = find_part(vocabulary, left), right_id = find_part(vocabulary, right);
    int32_t id = left_id < 0 || right_id < 0 ? -1 : find_whole(vocabulary, left, right);
    if (id < 0)
        return hy_fail_at(error, HYMBA_ERROR_FORMAT, (int64_t)rank,
                          "%s: merge %zu, \"%.*s\" with \"%.*s\", is not of ordinary pieces of the "
                          "vocabulary", file_name, rank, (int)hy_min_size(left.length, 64),
                          left.data, (int)hy_min_size(right.length, 64), right.data);
    switch (hy_merge_table_add(merges, left_id, right_id, (uint32_t)rank, id)) {
    case HY_MERGE_DUPLICATE:
        return hy_fail_at(error, HYMBA_ERROR_FORMAT, (int64_t)rank,
                          "%s: merge %zu is there twice", file_name, rank);
    case HY_MERGE_COLLISIONS:
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s: too many merges have one hash value",
                       file_name);
    case HY_MERGE_ADDED:
        break;
    }
    return HYMBA_OK;
}

static hymba_status read_merges(const hy_json *list, const struct hy_vocabulary *vocabulary,
                                struct hy_merge_table *merges, hymba_error *error)
{
    size_t count = hy_json_array_size(list);
    if (hy_json_kind(list) != HY_JSON_ARRAY)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: model.merges is %s, expected an array",
                       file_name, hy_json_kind_name(hy_json_kind(list)));
    if (count > HY_MERGE_TABLE_MAX)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s: %zu merges, more than %d", file_name,
                       count, HY_MERGE_TABLE_MAX);
    hymba_status status = hy_merge_table_create(merges, vocabulary->memory, count, error);
    for (size_t i = 0; i < count && status == HYMBA_OK; i++)
        status = read_merge(hy_json_array_get(list, i), i, vocabulary, merges, error);
    return status;
}

static int32_t find_special(const struct hy_vocabulary *vocabulary, const char *text,
                            size_t length)
{
    int32_t id = text ? hy_vocabulary_find(vocabulary, text, length) : -1;
    return id >= 0 && vocabulary->entries[id].kind == HY_PIECE_SPECIAL ? id : -1;
}

/* What the template puts before a text: nothing, or one special token. */
static hymba_status read_template(const hy_json *processor, const struct hy_vocabulary *vocabulary,
                                  int32_t *bos, bool *adds_bos, hymba_error *error)
{
    static const char *const names[] = {"type", "single", "pair", "special_tokens", NULL};
    static const char single_name[] = "tokenizer.json: the last element of post_processor.single";
    const hy_json *single = hy_json_object_get(processor, "single");
    size_t count = hy_json_array_size(single);
    hymba_status status = check_members(processor, "post_processor", names, error);
    if (status == HYMBA_OK)
        status = hy_json_match(hy_json_object_get(processor, "type"), "\"TemplateProcessing\"",
                               "tokenizer.json: post_processor.type", error);
    if (status != HYMBA_OK)
        return status;
    if (count < 1 || count > 2)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: post_processor.single has %zu elements, only 1 or 2 are supported",
                       file_name, count);
    status = hy_json_match(hy_json_array_get(single, count - 1), supported_sequence, single_name,
                           error);
    if (status != HYMBA_OK || count == 1)
        return status;
    size_t length;
    const hy_json *first = hy_json_object_get(hy_json_array_get(single, 0), "SpecialToken");
    const char *name = hy_json_string(hy_json_object_get(first, "id"), &length);
    *bos = find_special(vocabulary, name, length);
    *adds_bos = *bos >= 0;
    if (*bos < 0)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: post_processor.single[0] is no special token of the vocabulary",
                       file_name);
    return HYMBA_OK;
}

static hymba_status read_document(const hy_json *document, struct hy_vocabulary *vocabulary,
                                  struct hy_merge_table *merges, int32_t *bos, int32_t *eos,
                                  bool *adds_bos, hymba_error *error)
{
    hymba_status status = check_document(document, error);
    const hy_json *model = hy_json_object_get(document, "model");
    const hy_json *processor = hy_json_object_get(document, "post_processor");
    enum hy_json_kind processor_kind = hy_json_kind(processor);
    if (status == HYMBA_OK)
        status = check_model(model, error);
    if (status == HYMBA_OK)
        status = read_vocabulary(hy_json_object_get(model, "vocab"), vocabulary, error);
    if (status == HYMBA_OK)
        status = mark_unknown(model, vocabulary, error);
    if (status == HYMBA_OK)
        status = read_added_tokens(hy_json_object_get(document, "added_tokens"), vocabulary, error);
    if (status == HYMBA_OK)
        status = read_merges(hy_json_object_get(model, "merges"), vocabulary, merges, error);
    if (status != HYMBA_OK)
        return status;
    *bos = find_special(vocabulary, "<s>", 3);
    *eos = find_special(vocabulary, "</s>", 4);
    *adds_bos = false;
    if (processor_kind == HY_JSON_NULL || processor_kind == HY_JSON_ABSENT)
        return HYMBA_OK;
    return read_template(processor, vocabulary, bos, adds_bos, error);
}

hymba_status hy_tokenizer_json_read(const struct hy_file *file, struct hy_vocabulary *vocabulary,
                                    struct hy_merge_table *merges, int32_t *bos, int32_t *eos,
                                    bool *adds_bos, hymba_error *error)
{
    hy_json *document;
    hymba_status status =
        hy_json_parse((const char *)file->data, file->size, file_name, &document, error);
    if (status != HYMBA_OK)
        return status;
    status = read_document(document, vocabulary, merges, bos, eos, adds_bos, error);
    hy_json_free(document);
    return status;
}
