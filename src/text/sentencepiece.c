#include "text/sentencepiece.h"

#include <string.h>

#include "base/checked.h"
#include "text/protobuf.h"

/* Field numbers and values of sentencepiece_model.proto, as far as they matter here. */
enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3, MODEL_DENORMALIZER = 5 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum {
    TYPE_NORMAL = 1,
    TYPE_UNKNOWN = 2,
    TYPE_CONTROL = 3,
    TYPE_USER_DEFINED = 4,
    TYPE_UNUSED = 5,
    TYPE_BYTE = 6
};
enum {
    TRAINER_MODEL_TYPE = 3,
    TRAINER_WHITESPACE_AS_SUFFIX = 24,
    TRAINER_BYTE_FALLBACK = 35,
    TRAINER_BOS_PIECE = 46,
    TRAINER_EOS_PIECE = 47
};
enum {
    NORMALIZER_NAME = 1,
    NORMALIZER_CHARACTER_MAP = 2,
    NORMALIZER_ADD_DUMMY_PREFIX = 3,
    NORMALIZER_REMOVE_EXTRA_WHITESPACES = 4,
    NORMALIZER_ESCAPE_WHITESPACES = 5,
    NORMALIZER_RULES = 6
};
enum { MODEL_TYPE_UNIGRAM = 1, MODEL_TYPE_BPE = 2 };

struct text_view {
    const char *data;
    size_t length;
};

struct specification {
    uint64_t model_type;
    bool whitespace_as_suffix, byte_fallback;
    bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
    bool has_character_map, has_rules, has_denormalizer;
    struct text_view normalizer, bos, eos;
    size_t n_unknown;
};

/* What the format says of fields that are not there. */
static const struct specification defaults = {
    .model_type = MODEL_TYPE_UNIGRAM,
    .add_dummy_prefix = true,
    .remove_extra_whitespaces = true,
    .escape_whitespaces = true,
    .normalizer = {"", 0},
    .bos = {"<s>", 3},
    .eos = {"</s>", 4},
};

static struct text_view view(const struct hy_protobuf *content)
{
    return (struct text_view){(const char *)content->data, content->size};
}

/*
 * Makes an order of unsigned numbers from the order of finite floats, the highest score first, so
 * that equal scores (of either sign of zero) have equal ranks.
 */
static uint32_t rank_of_score(uint32_t bits)
{
    uint32_t sign = 0x80000000u;
    if (bits == sign)
        bits = 0;
    return bits & sign ? bits : ~(bits | sign);
}

static bool is_finite(uint32_t bits)
{
    return (bits & 0x7F800000u) != 0x7F800000u;
}

static hymba_status kind_of_type(const struct hy_protobuf *message, size_t id, uint64_t type,
                                 enum hy_piece_kind *kind, hymba_error *error)
{
    switch (type) {
    case TYPE_NORMAL:
        *kind = HY_PIECE_NORMAL;
        return HYMBA_OK;
    case TYPE_UNKNOWN:
        *kind = HY_PIECE_UNKNOWN;
        return HYMBA_OK;
    case TYPE_CONTROL:
        *kind = HY_PIECE_SPECIAL;
        return HYMBA_OK;
    case TYPE_BYTE:
        *kind = HY_PIECE_BYTE;
        return HYMBA_OK;
    case TYPE_USER_DEFINED:
    case TYPE_UNUSED:
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: piece %zu is %s, which is not supported", message->file, id,
                       type == TYPE_UNUSED ? "unused" : "user-defined");
    default:
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: piece %zu has type %llu, expected 1 to 6",
                       message->file, id, (unsigned long long)type);
    }
}

static hymba_status read_piece(struct hy_protobuf message, struct hy_vocabulary *vocabulary,
                               struct specification *found, hymba_error *error)
{
    struct hy_protobuf_field field;
    struct text_view text = {"", 0};
    uint64_t type = TYPE_NORMAL;
    uint32_t score = 0;
    bool more;
    hymba_status status;
    while ((status = hy_protobuf_next(&message, &field, &more, error)) == HYMBA_OK && more) {
        if (field.number == PIECE_TEXT) {
            status = hy_protobuf_expect(&message, &field, HY_PROTOBUF_BYTES, "a piece", error);
            text = view(&field.content);
        } else if (field.number == PIECE_SCORE) {
            status = hy_protobuf_expect(&message, &field, HY_PROTOBUF_FIXED32, "a score", error);
            score = (uint32_t)field.value;
        } else if (field.number == PIECE_TYPE) {
            status = hy_protobuf_expect(&message, &field, HY_PROTOBUF_VARINT, "a type", error);
            type = field.value;
        }
        if (status != HYMBA_OK)
            break;
    }
    enum hy_piece_kind kind = HY_PIECE_NORMAL;
    if (status == HYMBA_OK)
        status = kind_of_type(&message, vocabulary->count, type, &kind, error);
    if (status == HYMBA_OK && !is_finite(score))
        status = hy_fail(error, HYMBA_ERROR_FORMAT, "%s: the score of piece %zu is not finite",
                         message.file, vocabulary->count);
    found->n_unknown += kind == HY_PIECE_UNKNOWN;
    return status != HYMBA_OK ? status
                              : hy_vocabulary_add(vocabulary, text.data, text.length, kind,
                                                  rank_of_score(score), error);
}

static hymba_status read_trainer(struct hy_protobuf message, struct specification *found,
                                 hymba_error *error)
{
    struct hy_protobuf_field field;
    bool more;
    hymba_status status;
    while ((status = hy_protobuf_next(&message, &field, &more, error)) == HYMBA_OK && more) {
        enum hy_protobuf_type type = HY_PROTOBUF_VARINT;
        switch (field.number) {
        case TRAINER_MODEL_TYPE:
            found->model_type = field.value;
            break;
        case TRAINER_WHITESPACE_AS_SUFFIX:
            found->whitespace_as_suffix = field.value != 0;
            break;
        case TRAINER_BYTE_FALLBACK:
            found->byte_fallback = field.value != 0;
            break;
        case TRAINER_BOS_PIECE:
            type = HY_PROTOBUF_BYTES;
            found->bos = view(&field.content);
            break;
        case TRAINER_EOS_PIECE:
            type = HY_PROTOBUF_BYTES;
            found->eos = view(&field.content);
            break;
        default:
            continue;
        }
        status = hy_protobuf_expect(&message, &field, type, "a field of trainer_spec", error);
        if (status != HYMBA_OK)
            break;
    }
    return status;
}

static hymba_status read_normalizer(struct hy_protobuf message, struct specification *found,
                                    hymba_error *error)
{
    struct hy_protobuf_field field;
    bool more;
    hymba_status status;
    while ((status = hy_protobuf_next(&message, &field, &more, error)) == HYMBA_OK && more) {
        enum hy_protobuf_type type = HY_PROTOBUF_VARINT;
        switch (field.number) {
        case NORMALIZER_NAME:
            type = HY_PROTOBUF_BYTES;
            found->normalizer = view(&field.content);
            break;
        case NORMALIZER_CHARACTER_MAP:
            type = HY_PROTOBUF_BYTES;
            found->has_character_map = field.content.size > 0;
            break;
        case NORMALIZER_ADD_DUMMY_PREFIX:
            found->add_dummy_prefix = field.value != 0;
            break;
        case NORMALIZER_REMOVE_EXTRA_WHITESPACES:
            found->remove_extra_whitespaces = field.value != 0;
            break;
        case NORMALIZER_ESCAPE_WHITESPACES:
            found->escape_whitespaces = field.value != 0;
            break;
        case NORMALIZER_RULES:
            type = HY_PROTOBUF_BYTES;
            found->has_rules = field.content.size > 0;
            break;
        default:
            continue;
        }
        status = hy_protobuf_expect(&message, &field, type, "a field of normalizer_spec", error);
        if (status != HYMBA_OK)
            break;
    }
    return status;
}

static hymba_status read_denormalizer(struct hy_protobuf message, struct specification *found,
                                      hymba_error *error)
{
    struct hy_protobuf_field field;
    bool more;
    hymba_status status;
    while ((status = hy_protobuf_next(&message, &field, &more, error)) == HYMBA_OK && more)
        if (field.number == NORMALIZER_CHARACTER_MAP || field.number == NORMALIZER_RULES)
            found->has_denormalizer |= field.content.size > 0;
    return status;
}

static hymba_status read_model(struct hy_protobuf message, struct hy_vocabulary *vocabulary,
                               struct specification *found, hymba_error *error)
{
    struct hy_protobuf_field field;
    bool more;
    hymba_status status;
    while ((status = hy_protobuf_next(&message, &field, &more, error)) == HYMBA_OK && more) {
        bool known = field.number == MODEL_PIECES || field.number == MODEL_TRAINER ||
                     field.number == MODEL_NORMALIZER || field.number == MODEL_DENORMALIZER;
        if (!known)
            continue;
        status = hy_protobuf_expect(&message, &field, HY_PROTOBUF_BYTES, "a part of the model",
                                    error);
        if (status == HYMBA_OK && field.number == MODEL_PIECES)
            status = read_piece(field.content, vocabulary, found, error);
        else if (status == HYMBA_OK && field.number == MODEL_TRAINER)
            status = read_trainer(field.content, found, error);
        else if (status == HYMBA_OK && field.number == MODEL_NORMALIZER)
            status = read_normalizer(field.content, found, error);
        else if (status == HYMBA_OK)
            status = read_denormalizer(field.content, found, error);
        if (status != HYMBA_OK)
            break;
    }
    return status;
}

static hymba_status require(const char *file, const char *field, bool found, bool expected,
                            hymba_error *error)
{
    if (found == expected)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s: %s is %s, only %s is supported", file,
                   field, found ? "true" : "false", expected ? "true" : "false");
}

/* The encoder does what these say and nothing else. */
static hymba_status check(const struct specification *found, const char *file, hymba_error *error)
{
    static const char identity[] = "identity";
    bool is_identity = found->normalizer.length == 0 ||
                       (found->normalizer.length == sizeof identity - 1 &&
                        memcmp(found->normalizer.data, identity, sizeof identity - 1) == 0);
    if (found->model_type != MODEL_TYPE_BPE)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: model_type is %llu, only 2 (BPE) is supported", file,
                       (unsigned long long)found->model_type);
    if (!is_identity)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: the normalizer is \"%.*s\", only \"identity\" is supported", file,
                       (int)hy_min_size(found->normalizer.length, 32), found->normalizer.data);
    if (found->has_character_map || found->has_rules)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: normalizer_spec has rules of its own, which are not supported", file);
    if (found->has_denormalizer)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: denormalizer_spec has rules, which are not supported", file);
    hymba_status status = require(file, "byte_fallback", found->byte_fallback, true, error);
    if (status == HYMBA_OK)
        status = require(file, "treat_whitespace_as_suffix", found->whitespace_as_suffix, false,
                         error);
    if (status == HYMBA_OK)
        status = require(file, "add_dummy_prefix", found->add_dummy_prefix, true, error);
    if (status == HYMBA_OK)
        status = require(file, "remove_extra_whitespaces", found->remove_extra_whitespaces, false,
                         error);
    if (status == HYMBA_OK)
        status = require(file, "escape_whitespaces", found->escape_whitespaces, true, error);
    if (status == HYMBA_OK && found->n_unknown != 1)
        status = hy_fail(error, HYMBA_ERROR_FORMAT, "%s: %zu unknown pieces, expected 1", file,
                         found->n_unknown);
    return status;
}

static int32_t find_control(const struct hy_vocabulary *vocabulary, struct text_view text)
{
    int32_t id = hy_vocabulary_find(vocabulary, text.data, text.length);
    return id >= 0 && vocabulary->entries[id].kind == HY_PIECE_SPECIAL ? id : -1;
}

hymba_status hy_sentencepiece_read(const struct hy_file *file, struct hy_vocabulary *vocabulary,
                                   int32_t *bos, int32_t *eos, hymba_error *error)
{
    struct hy_protobuf message = {
        .data = file->data, .size = file->size, .position = 0, .file = vocabulary->file};
    struct specification found = defaults;
    hymba_status status = read_model(message, vocabulary, &found, error);
    if (status == HYMBA_OK && vocabulary->count == 0)
        status = hy_fail(error, HYMBA_ERROR_FORMAT, "%s: no pieces", vocabulary->file);
    if (status == HYMBA_OK)
        status = check(&found, vocabulary->file, error);
    if (status == HYMBA_OK)
        status = hy_vocabulary_check_bytes(vocabulary, error);
    if (status != HYMBA_OK)
        return status;
    *bos = find_control(vocabulary, found.bos);
    *eos = find_control(vocabulary, found.eos);
    return HYMBA_OK;
}
