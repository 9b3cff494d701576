/* The tokens a sampler has accepted, as many as its stages look at: a ring once it is full. */
#ifndef HY_TEXT_TOKEN_HISTORY_H
#define HY_TEXT_TOKEN_HISTORY_H

#include "base/memory.h"

struct hy_token_history {
    int32_t *tokens;
    size_t capacity; /* allocated, at most limit */
    size_t limit;    /* how many count; 0: none is kept */
    size_t count;
    size_t next;     /* where the next one goes */
};

/* Makes room for one more token; adding it cannot fail then. */
hymba_status hy_token_history_reserve(struct hy_token_history *history, struct hy_memory *memory,
                                      hymba_error *error);
void hy_token_history_add(struct hy_token_history *history, int32_t token);
void hy_token_history_clear(struct hy_token_history *history);

/* The token after which so many others came, age < count. */
static inline int32_t hy_token_history_back(const struct hy_token_history *history, size_t age)
{
    size_t next = history->next;
    return history->tokens[age < next ? next - 1 - age : next + history->count - 1 - age];
}

#endif
