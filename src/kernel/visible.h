/* Which keys of a span a query sees (section 6). */
#ifndef HY_KERNEL_VISIBLE_H
#define HY_KERNEL_VISIBLE_H

#include "kernel/kernel.h"

struct hy_visible {
    size_t begin, end; /* indices of keys in their span */
};

static inline struct hy_visible hy_visible_keys(const struct hy_span *span, uint64_t position,
                                                uint64_t window)
{
    struct hy_visible keys = {0, 0};
    if (position < span->position)
        return keys;
    uint64_t causal = position - span->position; /* index of the last key that is not later */
    keys.end = causal < span->count ? (size_t)causal + 1 : span->count;
    if (!span->pinned && causal > window)
        keys.begin = causal - window < keys.end ? (size_t)(causal - window) : keys.end;
    return keys;
}

/* The sequence of row t, looked for from sequence s onwards. */
static inline size_t hy_sequence_of_row(const struct hy_attention_args *args, size_t s, size_t row)
{
    while (row >= args->sequences[s].segment.row + args->sequences[s].segment.n_rows)
        s++;
    return s;
}

#endif
