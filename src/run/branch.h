/* Forking a session, taking snapshots of it, and going back. All run inside hy_context_enter. */
#ifndef HY_RUN_BRANCH_H
#define HY_RUN_BRANCH_H

#include "run/session.h"

hymba_status hy_session_fork(hymba_session *session, hymba_session **fork, hymba_reuse_info *info,
                             hymba_error *error);
hymba_status hy_session_snapshot(hymba_session *session, const char *name, hymba_reuse_info *info,
                                 hymba_error *error);
hymba_status hy_session_rewind(hymba_session *session, uint64_t length, int32_t mode,
                               hymba_reuse_info *info, hymba_error *error);
void hy_session_describe(const hymba_session *session, hymba_session_info *info);

#endif
