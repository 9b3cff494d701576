/* A session: one token sequence with its state and its last logits. */
#ifndef HY_RUN_SESSION_H
#define HY_RUN_SESSION_H

#include "run/context.h"
#include "run/snapshot.h"

struct hymba_session {
    _Atomic unsigned references;
    struct hy_memory account;
    struct hy_memory *memory;  /* its account, or that of the session it works for */
    hymba_context *context;
    hymba_session **peers; /* [n_peers]: of the other ranks of the context's group, held */
    uint32_t n_peers;
    struct hy_state state;
    uint64_t max_tokens;   /* 0: none */
    int32_t limit_policy;  /* HYMBA_LIMIT_... */
    uint64_t memory_limit; /* 0: none */
    struct hy_snapshot_list snapshots;
    int32_t *tokens;
    size_t n_tokens, token_capacity;
    uint64_t n_changes;    /* how often what it holds has become something else */
    float *logits;         /* [logits_rows][vocabulary] */
    size_t logits_capacity; /* floats */
    size_t logits_rows;    /* 0: none */
    bool logits_of_last;   /* the last row belongs to the last token */
    size_t batch_mark;     /* its item's number while a batch is checked */
    _Atomic bool scheduled; /* a request of a scheduler has it */
};

/* The session of a rank of its context's group; rank 0's is itself. */
static inline hymba_session *hy_session_of_rank(hymba_session *session, uint32_t rank)
{
    return rank == 0 ? session : session->peers[rank - 1];
}

/* ARGUMENT, naming the field, for parameters that make no sense. */
hymba_status hy_session_check_params(const hymba_session_params *params, hymba_error *error);

/* These three run inside hy_context_enter; params is complete. */
hymba_status hy_session_create(hymba_context *context, const hymba_session_params *params,
                               hymba_session **session, hymba_error *error);
void hy_session_reset(hymba_session *session);
hymba_status hy_session_reserve(hymba_session *session, uint64_t n_tokens, hymba_error *error);

hymba_session *hy_session_retain(hymba_session *session);
void hy_session_release(hymba_session *session);

/* A session without a state, which the caller then makes (hy_state_...). */
hymba_status hy_session_create_bare(hymba_context *context, const hymba_session_params *params,
                                    hymba_session **session, hymba_error *error);

/* Exchanges state, tokens and logits; handles, parameters and snapshots stay. */
void hy_session_swap(hymba_session *session, hymba_session *other);

/* LIMIT if the session, with more bytes, would be beyond its memory_limit. */
hymba_status hy_session_check_memory(const hymba_session *session, uint64_t more,
                                     hymba_error *error);

/* Makes room for n_tokens tokens in the token list. */
hymba_status hy_session_reserve_tokens(hymba_session *session, uint64_t n_tokens,
                                       hymba_error *error);

/* Makes room for rows rows of logits. */
hymba_status hy_session_reserve_logits(hymba_session *session, size_t rows, hymba_error *error);

/* The last row of logits, which must exist. */
const float *hy_session_last_logits(const hymba_session *session);

#endif
