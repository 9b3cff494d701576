#include "run/session.h"

#include <string.h>

#include "base/checked.h"

static void release_peers(hymba_session *session)
{
    struct hy_memory own = {.host = session->memory->host};
    for (uint32_t i = 0; i < session->n_peers; i++)
        hy_session_release(session->peers[i]);
    hy_free(&own, session->peers);
}

static void destroy(hymba_session *session)
{
    release_peers(session);
    hy_snapshot_list_free(session->memory, &session->snapshots);
    hy_state_free(&session->state);
    hy_free(session->memory, session->tokens);
    hy_free(session->memory, session->logits);
    hymba_context *context = session->context;
    struct hy_memory own = {.host = session->memory->host};
    hy_free(&own, session);
    hy_context_release(context);
}

hymba_status hy_session_check_params(const hymba_session_params *params, hymba_error *error)
{
    if (params->limit_policy < HYMBA_LIMIT_STOP || params->limit_policy > HYMBA_LIMIT_SLIDE)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "limit_policy: found %d, expected 0 to %d",
                       (int)params->limit_policy, HYMBA_LIMIT_SLIDE);
    return HYMBA_OK;
}

hymba_status hy_session_create_bare(hymba_context *context, const hymba_session_params *params,
                                    hymba_session **out, hymba_error *error)
{
    struct hy_memory memory = {.host = context->memory.host};
    *out = NULL;
    hymba_session *session = hy_alloc_zero(&memory, 1, sizeof *session);
    if (!session)
        return hy_no_memory(error, sizeof *session, "the session");
    atomic_init(&session->references, 1);
    hy_memory_create_child(&session->account, &context->memory, params->memory_limit);
    session->memory = &session->account;
    session->context = hy_context_retain(context);
    session->max_tokens = params->max_tokens;
    session->limit_policy = params->limit_policy;
    session->memory_limit = params->memory_limit;
    session->snapshots.interval = params->snapshot_interval;
    session->snapshots.budget = params->snapshot_budget;
    *out = session;
    return HYMBA_OK;
}

hymba_status hy_session_create(hymba_context *context, const hymba_session_params *params,
                               hymba_session **out, hymba_error *error)
{
    hymba_session *session;
    *out = NULL;
    hymba_status status = hy_context_prepare_meta(context, error);
    if (status == HYMBA_OK)
        status = hy_session_create_bare(context, params, &session, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_state_create(session->memory, &context->memory, context->meta, &session->state,
                             error);
    if (params->limit_policy == HYMBA_LIMIT_SLIDE && params->max_tokens > 0)
        session->state.full_window = params->max_tokens - 1; /* and the token itself */
    if (status == HYMBA_OK)
        status = hy_session_reserve(session, params->reserve_tokens, error);
    if (status != HYMBA_OK) {
        destroy(session);
        return status;
    }
    *out = session;
    return HYMBA_OK;
}

hymba_session *hy_session_retain(hymba_session *session)
{
    atomic_fetch_add(&session->references, 1);
    return session;
}

void hy_session_release(hymba_session *session)
{
    if (session && atomic_fetch_sub(&session->references, 1) == 1)
        destroy(session);
}

void hy_session_reset(hymba_session *session)
{
    hy_state_reset(&session->state);
    hy_snapshot_list_cut(&session->snapshots, 0);
    session->n_tokens = 0;
    session->n_changes++;
    session->logits_rows = 0;
    session->logits_of_last = false;
}

/* LIMIT if a list of the session's cannot grow from old to new bytes. */
static hymba_status check_growth(const hymba_session *session, size_t old, size_t new,
                                 hymba_error *error)
{
    size_t header = old > 0 ? 0 : HY_ALIGNMENT;
    return hy_session_check_memory(session, new - old + header, error);
}

hymba_status hy_session_reserve_tokens(hymba_session *session, uint64_t n_tokens,
                                       hymba_error *error)
{
    size_t bytes;
    if (n_tokens <= session->token_capacity)
        return HYMBA_OK;
    if (n_tokens > SIZE_MAX || !hy_mul_size((size_t)n_tokens, sizeof *session->tokens, &bytes))
        return hy_fail(error, HYMBA_ERROR_LIMIT, "%llu tokens do not fit the address space",
                       (unsigned long long)n_tokens);
    hymba_status status = check_growth(
        session, session->token_capacity * sizeof *session->tokens, bytes, error);
    if (status != HYMBA_OK)
        return status;
    int32_t *tokens = hy_realloc(session->memory, session->tokens, bytes);
    if (!tokens)
        return hy_no_memory(error, bytes, "a session's token list");
    session->tokens = tokens;
    session->token_capacity = (size_t)n_tokens;
    return HYMBA_OK;
}

hymba_status hy_session_check_memory(const hymba_session *session, uint64_t more,
                                     hymba_error *error)
{
    uint64_t shared, bytes;
    if (session->memory_limit == 0)
        return HYMBA_OK;
    bytes = hy_state_block_bytes(&session->state, &shared);
    if (!hy_add_u64(bytes, atomic_load(&session->memory->used), &bytes) ||
        !hy_add_u64(bytes, more, &bytes) || bytes > session->memory_limit)
        return hy_fail(error, HYMBA_ERROR_LIMIT,
                       "the session would take %llu bytes, its memory_limit is %llu",
                       (unsigned long long)bytes, (unsigned long long)session->memory_limit);
    return HYMBA_OK;
}

static bool slides(const hymba_session *session)
{
    return session->limit_policy == HYMBA_LIMIT_SLIDE && session->max_tokens > 0;
}

/* Bytes of the blocks that n_tokens tokens need beyond those there are. */
static uint64_t missing_block_bytes(const hymba_session *session, uint64_t n_tokens)
{
    const struct hy_state *state = &session->state;
    uint64_t blocks = n_tokens / HY_BLOCK_TOKENS + (n_tokens % HY_BLOCK_TOKENS != 0);
    uint64_t present = state->first_block + state->n_blocks, bytes;
    if (blocks <= present)
        return 0;
    return hy_mul_u64(blocks - present, state->layout->block_bytes, &bytes) ? bytes : UINT64_MAX;
}

/* Keys that attention of a session of n_tokens tokens may see at once. */
static uint64_t visible_tokens(const hymba_session *session, uint64_t n_tokens)
{
    uint64_t most = session->max_tokens, more = HY_BLOCK_TOKENS + session->context->workspace.rows;
    if (!slides(session) || !hy_add_u64(most, more, &most))
        return n_tokens;
    return most < n_tokens ? most : n_tokens;
}

hymba_status hy_session_reserve(hymba_session *session, uint64_t n_tokens, hymba_error *error)
{
    if (session->max_tokens > 0 && n_tokens > session->max_tokens && !slides(session))
        return hy_fail(error, HYMBA_ERROR_LIMIT,
                       "%llu tokens are more than the session's max_tokens, %llu",
                       (unsigned long long)n_tokens, (unsigned long long)session->max_tokens);
    uint64_t list = n_tokens;
    if (list > session->token_capacity && list < 2 * (uint64_t)session->token_capacity)
        list = 2 * (uint64_t)session->token_capacity; /* growth by one token stays cheap */
    hymba_status status =
        hy_session_check_memory(session, missing_block_bytes(session, n_tokens), error);
    if (status == HYMBA_OK)
        status = hy_session_reserve_tokens(session, list, error);
    if (status == HYMBA_OK)
        status = hy_state_reserve(&session->state, n_tokens, error);
    if (status == HYMBA_OK)
        status = hy_context_reserve_keys(session->context, visible_tokens(session, n_tokens),
                                         error);
    return status;
}

void hy_session_swap(hymba_session *session, hymba_session *other)
{
    hymba_session kept = *session;
    session->n_changes++;
    other->n_changes++;
    session->state = other->state;
    session->tokens = other->tokens;
    session->n_tokens = other->n_tokens;
    session->token_capacity = other->token_capacity;
    session->logits = other->logits;
    session->logits_capacity = other->logits_capacity;
    session->logits_rows = other->logits_rows;
    session->logits_of_last = other->logits_of_last;
    other->state = kept.state;
    other->tokens = kept.tokens;
    other->n_tokens = kept.n_tokens;
    other->token_capacity = kept.token_capacity;
    other->logits = kept.logits;
    other->logits_capacity = kept.logits_capacity;
    other->logits_rows = kept.logits_rows;
    other->logits_of_last = kept.logits_of_last;
}

hymba_status hy_session_reserve_logits(hymba_session *session, size_t rows, hymba_error *error)
{
    size_t floats, bytes;
    if (!hy_mul_size(rows, session->context->model->plan.config.vocabulary_size, &floats) ||
        !hy_mul_size(floats, sizeof(float), &bytes))
        return hy_fail(error, HYMBA_ERROR_LIMIT, "%zu rows of logits do not fit the address space",
                       rows);
    if (floats <= session->logits_capacity)
        return HYMBA_OK;
    hymba_status status =
        check_growth(session, session->logits_capacity * sizeof(float), bytes, error);
    if (status != HYMBA_OK)
        return status;
    float *logits = hy_alloc(session->memory, bytes);
    if (!logits)
        return hy_no_memory(error, bytes, "a session's logits");
    if (session->logits)
        memcpy(logits, session->logits, session->logits_capacity * sizeof(float));
    hy_free(session->memory, session->logits);
    session->logits = logits;
    session->logits_capacity = floats;
    return HYMBA_OK;
}

const float *hy_session_last_logits(const hymba_session *session)
{
    size_t vocabulary = session->context->model->plan.config.vocabulary_size;
    return session->logits + (session->logits_rows - 1) * vocabulary;
}
