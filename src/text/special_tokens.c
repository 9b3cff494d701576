#include "text/special_tokens.h"

#include <string.h>

#include "base/checked.h"

static bool is_special(const struct hy_vocabulary *vocabulary, size_t id)
{
    unsigned char kind = vocabulary->entries[id].kind;
    return kind == HY_PIECE_SPECIAL || kind == HY_PIECE_UNKNOWN;
}

void hy_special_tokens_collect(struct hy_special_tokens *specials,
                               const struct hy_vocabulary *vocabulary)
{
    memset(specials, 0, sizeof *specials);
    for (size_t id = 0; id < vocabulary->count; id++) {
        if (!is_special(vocabulary, id))
            continue;
        const struct hy_vocabulary_entry *entry = &vocabulary->entries[id];
        specials->begins[(unsigned char)vocabulary->text[entry->offset]] = true;
        specials->has_length[entry->length] = true;
        specials->longest = hy_max_size(specials->longest, entry->length);
    }
}

/* The longest special token at the beginning of text, or -1. */
static int32_t match(const struct hy_special_tokens *specials,
                     const struct hy_vocabulary *vocabulary, const char *text, size_t length,
                     size_t *size)
{
    for (*size = hy_min_size(specials->longest, length); *size > 0; --*size) {
        if (!specials->has_length[*size])
            continue;
        int32_t id = hy_vocabulary_find(vocabulary, text, *size);
        if (id >= 0 && is_special(vocabulary, (size_t)id))
            return id;
    }
    return -1;
}

int32_t hy_special_tokens_find(const struct hy_special_tokens *specials,
                               const struct hy_vocabulary *vocabulary, const char *text,
                               size_t length, size_t *begin, size_t *size)
{
    for (*begin = 0; *begin < length; ++*begin) {
        if (!specials->begins[(unsigned char)text[*begin]])
            continue;
        int32_t id = match(specials, vocabulary, text + *begin, length - *begin, size);
        if (id >= 0)
            return id;
    }
    return -1;
}
