/*
 * Saved sessions (docs/session-file.md): tokens, caches, states, last logits, snapshots and a
 * sampler in one file, which is the same for a group of ranks as for a context alone. UNSUPPORTED
 * in a context that is one of several ranks by itself: its sessions are only a part. All run inside
 * hy_context_enter.
 */
#ifndef HY_RUN_SAVED_SESSION_H
#define HY_RUN_SAVED_SESSION_H

#include "run/session.h"
#include "text/sampler.h"

hymba_status hy_session_save(hymba_session *session, const hymba_sampler *sampler,
                             hymba_write write, void *user, hymba_reuse_info *info,
                             hymba_error *error);
hymba_status hy_session_save_file(hymba_session *session, const hymba_sampler *sampler,
                                  const char *path, hymba_reuse_info *info, hymba_error *error);

/* params is complete, or NULL: as saved. sampler may be NULL. */
hymba_status hy_session_load(hymba_context *context, const void *data, size_t size,
                             const hymba_session_params *params, hymba_session **session,
                             hymba_sampler **sampler, hymba_reuse_info *info, hymba_error *error);
hymba_status hy_session_load_file(hymba_context *context, const char *path,
                                  const hymba_session_params *params, hymba_session **session,
                                  hymba_sampler **sampler, hymba_reuse_info *info,
                                  hymba_error *error);

#endif
