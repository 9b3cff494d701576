#include "text/protobuf.h"

static void advance(struct hy_protobuf *message, size_t count)
{
    message->data += count;
    message->size -= count;
    message->position += count;
}

static hymba_status malformed(const struct hy_protobuf *message, const char *what,
                              hymba_error *error)
{
    return hy_fail_at(error, HYMBA_ERROR_FORMAT, (int64_t)message->position,
                      "%s: %s at byte %zu", message->file, what, message->position);
}

static hymba_status read_varint(struct hy_protobuf *message, uint64_t *value, hymba_error *error)
{
    *value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (message->size == 0)
            return malformed(message, "the file or a message ends inside a number", error);
        unsigned char byte = message->data[0];
        if (shift == 63 && byte > 1)
            break;
        advance(message, 1);
        *value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80)
            return HYMBA_OK;
    }
    return malformed(message, "a number of more than 64 bits", error);
}

static hymba_status read_fixed(struct hy_protobuf *message, size_t size, uint64_t *value,
                               hymba_error *error)
{
    if (message->size < size)
        return malformed(message, "the file or a message ends inside a number", error);
    *value = 0;
    for (size_t i = 0; i < size; i++)
        *value |= (uint64_t)message->data[i] << (8 * i);
    advance(message, size);
    return HYMBA_OK;
}

static hymba_status read_bytes(struct hy_protobuf *message, struct hy_protobuf *content,
                               hymba_error *error)
{
    uint64_t length;
    hymba_status status = read_varint(message, &length, error);
    if (status != HYMBA_OK)
        return status;
    if (length > message->size)
        return malformed(message, "a field that is longer than what holds it", error);
    *content = *message;
    content->size = (size_t)length;
    advance(message, (size_t)length);
    return HYMBA_OK;
}

hymba_status hy_protobuf_next(struct hy_protobuf *message, struct hy_protobuf_field *field,
                              bool *more, hymba_error *error)
{
    uint64_t key;
    *more = message->size > 0;
    if (!*more)
        return HYMBA_OK;
    hymba_status status = read_varint(message, &key, error);
    if (status != HYMBA_OK)
        return status;
    if (key > UINT32_MAX || key >> 3 == 0)
        return malformed(message, "a field number that is none", error);
    field->number = (uint32_t)(key >> 3);
    field->value = 0;
    field->content = *message;
    field->content.size = 0;
    switch (key & 7) {
    case HY_PROTOBUF_VARINT:
        field->type = HY_PROTOBUF_VARINT;
        return read_varint(message, &field->value, error);
    case HY_PROTOBUF_FIXED64:
        field->type = HY_PROTOBUF_FIXED64;
        return read_fixed(message, 8, &field->value, error);
    case HY_PROTOBUF_BYTES:
        field->type = HY_PROTOBUF_BYTES;
        return read_bytes(message, &field->content, error);
    case HY_PROTOBUF_FIXED32:
        field->type = HY_PROTOBUF_FIXED32;
        return read_fixed(message, 4, &field->value, error);
    default:
        return malformed(message, "a field of a kind that is not in use", error);
    }
}

hymba_status hy_protobuf_expect(const struct hy_protobuf *message,
                                const struct hy_protobuf_field *field, enum hy_protobuf_type type,
                                const char *name, hymba_error *error)
{
    if (field->type == type)
        return HYMBA_OK;
    return hy_fail_at(error, HYMBA_ERROR_FORMAT, (int64_t)message->position,
                      "%s: %s has wire type %d before byte %zu, expected %d", message->file, name,
                      (int)field->type, message->position, (int)type);
}
