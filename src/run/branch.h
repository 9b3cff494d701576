/*
 * Forking a session, taking snapshots of it, and going back: what one rank does of it, in parts
 * where something may fail behind others that cannot be undone (group_calls.h puts them together).
 * All run inside hy_context_enter.
 */
#ifndef HY_RUN_BRANCH_H
#define HY_RUN_BRANCH_H

#include "run/decode.h"

hymba_status hy_session_fork(hymba_session *session, hymba_session **fork, hymba_reuse_info *info,
                             hymba_error *error);

/* A snapshot of the session, not in its list yet, which has room for it; the caller's. */
hymba_status hy_session_make_snapshot(hymba_session *session, const char *name,
                                      struct hy_snapshot **snapshot, hymba_error *error);

/* Drops automatic snapshots for it; LIMIT, and none is dropped, if it does not fit the budget. */
hymba_status hy_session_fit_snapshot(hymba_session *session, const struct hy_snapshot *snapshot,
                                     hymba_error *error);

/* Takes the snapshot over. */
void hy_session_list_snapshot(hymba_session *session, struct hy_snapshot *snapshot,
                              hymba_reuse_info *info);

/* Where a session can start from on its way to a length. */
struct hy_start {
    enum { HY_START_BEGINNING, HY_START_SNAPSHOT, HY_START_STEP } kind;
    uint64_t length;
    const struct hy_snapshot *snapshot;
};

/* Going back to a length. */
struct hy_rewind {
    hymba_session *session;
    uint64_t length;
    struct hy_start start;
    hymba_session *ahead; /* at the start, in which the rest is computed, so that a failure on the
                             way changes nothing; NULL: nothing is */
};

/* Nothing has changed behind it, whatever it returns. hy_rewind_end gives back what it made. */
hymba_status hy_rewind_prepare(hymba_session *session, uint64_t length, int32_t mode,
                               struct hy_rewind *rewind, hymba_error *error);

/* What must be decoded between the two; false: nothing. */
bool hy_rewind_item(const struct hy_rewind *rewind, struct hy_item *item);
void hy_rewind_commit(struct hy_rewind *rewind, hymba_reuse_info *info);
void hy_rewind_end(struct hy_rewind *rewind);

void hy_session_describe(const hymba_session *session, hymba_session_info *info);

#endif
