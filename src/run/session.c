#include "run/session.h"

#include <string.h>

#include "base/checked.h"
#include "run/decode.h"

static void destroy(hymba_session *session)
{
    hy_state_free(&session->state);
    hy_free(&session->memory, session->tokens);
    hy_free(&session->memory, session->logits);
    hymba_context *context = session->context;
    struct hy_memory own = {.host = session->memory.host};
    hy_free(&own, session);
    hy_context_release(context);
}

hymba_status hy_session_create(hymba_context *context, const hymba_session_params *params,
                               hymba_session **out, hymba_error *error)
{
    *out = NULL;
    hymba_status status = hy_context_prepare_meta(context, error);
    if (status != HYMBA_OK)
        return status;
    struct hy_memory memory = {.host = context->memory.host};
    hymba_session *session = hy_alloc_zero(&memory, 1, sizeof *session);
    if (!session)
        return hy_no_memory(error, sizeof *session, "the session");
    atomic_init(&session->references, 1);
    hy_memory_inherit(&session->memory, &context->memory);
    session->context = hy_context_retain(context);
    session->max_tokens = params->max_tokens;
    status = hy_state_create(&session->memory, &context->meta, &session->state, error);
    if (status == HYMBA_OK && params->reserve_tokens > 0)
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
    session->n_tokens = 0;
    session->logits_rows = 0;
    session->logits_of_last = false;
}

static hymba_status reserve_token_list(hymba_session *session, uint64_t n_tokens,
                                       hymba_error *error)
{
    size_t bytes;
    if (n_tokens <= session->token_capacity)
        return HYMBA_OK;
    if (n_tokens > SIZE_MAX || !hy_mul_size((size_t)n_tokens, sizeof *session->tokens, &bytes))
        return hy_fail(error, HYMBA_ERROR_LIMIT, "%llu tokens do not fit the address space",
                       (unsigned long long)n_tokens);
    int32_t *tokens = hy_realloc(&session->memory, session->tokens, bytes);
    if (!tokens)
        return hy_no_memory(error, bytes, "a session's token list");
    session->tokens = tokens;
    session->token_capacity = (size_t)n_tokens;
    return HYMBA_OK;
}

hymba_status hy_session_reserve(hymba_session *session, uint64_t n_tokens, hymba_error *error)
{
    if (session->max_tokens > 0 && n_tokens > session->max_tokens)
        return hy_fail(error, HYMBA_ERROR_LIMIT,
                       "%llu tokens are more than the session's max_tokens, %llu",
                       (unsigned long long)n_tokens, (unsigned long long)session->max_tokens);
    uint64_t list = n_tokens;
    if (list > session->token_capacity && list < 2 * (uint64_t)session->token_capacity)
        list = 2 * (uint64_t)session->token_capacity; /* growth by one token stays cheap */
    hymba_status status = reserve_token_list(session, list, error);
    if (status == HYMBA_OK)
        status = hy_state_reserve(&session->state, n_tokens, error);
    if (status == HYMBA_OK)
        status = hy_context_reserve_keys(session->context, n_tokens, error);
    return status;
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
    float *logits = hy_alloc(&session->memory, bytes);
    if (!logits)
        return hy_no_memory(error, bytes, "a session's logits");
    if (session->logits)
        memcpy(logits, session->logits, session->logits_capacity * sizeof(float));
    hy_free(&session->memory, session->logits);
    session->logits = logits;
    session->logits_capacity = floats;
    return HYMBA_OK;
}

const float *hy_session_last_logits(const hymba_session *session)
{
    size_t vocabulary = session->context->model->plan.config.vocabulary_size;
    return session->logits + (session->logits_rows - 1) * vocabulary;
}

hymba_status hy_session_score(hymba_session *session, const int32_t *tokens, size_t n_tokens,
                              float *log_probabilities, hymba_error *error)
{
    if (session->logits_rows == 0 || !session->logits_of_last)
        return hy_fail(error, HYMBA_ERROR_STATE,
                       "the logits of the session's last token are needed to score the next");
    struct hy_item item = {
        .session = session,
        .tokens = tokens,
        .n_tokens = n_tokens,
        .logits = HYMBA_LOGITS_LAST,
        .log_probabilities = log_probabilities,
    };
    return hy_decode(session->context, &item, 1, error);
}
