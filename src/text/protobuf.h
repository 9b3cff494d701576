/* Reading the protobuf wire format from memory, field by field, never past the end. */
#ifndef HY_TEXT_PROTOBUF_H
#define HY_TEXT_PROTOBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum hy_protobuf_type {
    HY_PROTOBUF_VARINT = 0,
    HY_PROTOBUF_FIXED64 = 1,
    HY_PROTOBUF_BYTES = 2,
    HY_PROTOBUF_FIXED32 = 5
};

/* A message or a part of one. position counts from the beginning of the file. */
struct hy_protobuf {
    const unsigned char *data;
    size_t size;
    size_t position;
    const char *file; /* for messages */
};

struct hy_protobuf_field {
    uint32_t number;
    enum hy_protobuf_type type;
    uint64_t value;              /* of VARINT, FIXED32, FIXED64 */
    struct hy_protobuf content;  /* of BYTES */
};

/* The next field; *more is false at the end of the message, where *field is not written. */
hymba_status hy_protobuf_next(struct hy_protobuf *message, struct hy_protobuf_field *field,
                              bool *more, hymba_error *error);

/* Refuses a field that does not have the type that its meaning, name, asks for. */
hymba_status hy_protobuf_expect(const struct hy_protobuf *message,
                                const struct hy_protobuf_field *field, enum hy_protobuf_type type,
                                const char *name, hymba_error *error);

#endif
