/*
 * What is done to sessions, on all ranks of their context's group: each session of rank 0 has one
 * for every other rank, its peers, which always hold the same tokens. Logits and tokens are asked
 * of rank 0 alone. All or nothing: what fails on one rank has changed nothing on any. All run
 * inside hy_context_enter of rank 0.
 */
#ifndef HY_RUN_GROUP_CALLS_H
#define HY_RUN_GROUP_CALLS_H

#include "run/decode.h"

/* params is complete. */
hymba_status hy_group_create_session(hymba_context *context, const hymba_session_params *params,
                                     hymba_session **session, hymba_error *error);

/* Makes the sessions, one for each rank, peers of the first, which then holds the others. */
hymba_status hy_group_join_sessions(hymba_session *const *sessions, uint32_t n,
                                    hymba_error *error);
void hy_group_reset(hymba_session *session);
hymba_status hy_group_reserve(hymba_session *session, uint64_t n_tokens, hymba_error *error);

hymba_status hy_group_fork(hymba_session *session, hymba_session **fork, hymba_reuse_info *info,
                           hymba_error *error);
hymba_status hy_group_snapshot(hymba_session *session, const char *name, hymba_reuse_info *info,
                               hymba_error *error);

/* Drops the snapshot of that length; STATE if there is none. */
hymba_status hy_group_drop_snapshot(hymba_session *session, uint64_t length, hymba_error *error);
hymba_status hy_group_rewind(hymba_session *session, uint64_t length, int32_t mode,
                             hymba_reuse_info *info, hymba_error *error);

/* As hy_decode, whose failures' positions it keeps, whichever rank they come from. */
hymba_status hy_group_decode(hymba_context *context, const struct hy_item *items, size_t n,
                             hymba_error *error);

hymba_status hy_group_score(hymba_session *session, const int32_t *tokens, size_t n_tokens,
                            float *log_probabilities, hymba_error *error);

#endif
