#include "text/piece_bytes.h"

#include <string.h>

static size_t put_normal(struct hy_piece piece, char *out)
{
    size_t count = 0;
    for (size_t i = 0; i < piece.length;) {
        bool is_space = hy_is_space_mark(piece.text + i, piece.length - i);
        out[count++] = is_space ? ' ' : piece.text[i];
        i += is_space ? HY_SPACE_MARK_SIZE : 1;
    }
    return count;
}

static size_t put(struct hy_piece piece, bool with_specials, char *out)
{
    switch (piece.kind) {
    case HY_PIECE_NORMAL:
        return put_normal(piece, out);
    case HY_PIECE_BYTE:
        out[0] = (char)piece.byte;
        return 1;
    case HY_PIECE_SPECIAL:
    case HY_PIECE_UNKNOWN:
        if (with_specials) {
            memcpy(out, piece.text, piece.length);
            return piece.length;
        }
    }
    return 0;
}

size_t hy_piece_bytes(struct hy_piece piece, bool with_specials, bool *is_started, char *out)
{
    size_t count = put(piece, with_specials, out);
    if (count == 0 || *is_started)
        return count;
    *is_started = true;
    if (out[0] == ' ')
        memmove(out, out + 1, --count);
    return count;
}
