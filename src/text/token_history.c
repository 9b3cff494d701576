#include "text/token_history.h"

#include <string.h>

#include "base/checked.h"

enum { FIRST_CAPACITY = 64 };

hymba_status hy_token_history_reserve(struct hy_token_history *history, struct hy_memory *memory,
                                      hymba_error *error)
{
    if (history->count < history->capacity || history->capacity == history->limit)
        return HYMBA_OK;
    size_t capacity, bytes;
    if (!hy_mul_size(history->capacity, 2, &capacity))
        capacity = SIZE_MAX;
    capacity = hy_min_size(hy_max_size(capacity, FIRST_CAPACITY), history->limit);
    if (!hy_mul_size(capacity, sizeof *history->tokens, &bytes))
        return hy_no_memory(error, SIZE_MAX, "the sampler's recent tokens");
    int32_t *tokens = hy_realloc(memory, history->tokens, bytes);
    if (!tokens)
        return hy_no_memory(error, bytes, "the sampler's recent tokens");
    history->tokens = tokens;
    history->capacity = capacity;
    /* It grows only before it is full, so it has not wrapped round yet. */
    history->next = history->count;
    return HYMBA_OK;
}

void hy_token_history_add(struct hy_token_history *history, int32_t token)
{
    if (history->limit == 0)
        return;
    if (history->next >= history->capacity) { /* an accept between reserve and add took the place */
        if (history->capacity == 0)
            return;
        memmove(history->tokens, history->tokens + 1,
                (history->capacity - 1) * sizeof *history->tokens);
        history->tokens[history->capacity - 1] = token;
        return;
    }
    history->tokens[history->next] = token;
    history->next = history->next + 1 == history->limit ? 0 : history->next + 1;
    if (history->count < history->limit)
        history->count++;
}

void hy_token_history_clear(struct hy_token_history *history)
{
    history->count = 0;
    history->next = 0;
}
