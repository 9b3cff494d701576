/* Forks, snapshots, going back, saving and loading. */
#include <string.h>

#include "abi.h"
#include "run/branch.h"
#include "run/group_calls.h"
#include "run/saved_session.h"

/* What every one of these calls begins and ends with. */
static hymba_status enter(hymba_session *session, hymba_reuse_info *info, hymba_error *error)
{
    memset(info, 0, sizeof *info);
    hymba_status status = hy_require(session, "session", error);
    return status == HYMBA_OK ? hy_context_enter(session->context, error) : status;
}

static hymba_status leave(hymba_context *context, hymba_status status,
                          const hymba_reuse_info *complete, hymba_reuse_info *info,
                          hymba_error *error)
{
    hy_context_leave(context);
    if (status != HYMBA_OK || !info)
        return status;
    return hy_write_struct(info, complete, sizeof *complete, "info", error);
}

/* A result struct is checked before the work, so that the work is not done in vain. */
static hymba_status check_info(const hymba_reuse_info *info, hymba_error *error)
{
    return info ? hy_check_struct(info, "info", error) : HYMBA_OK;
}

hymba_status hymba_session_fork(hymba_session *session, hymba_session **fork,
                                hymba_reuse_info *info, hymba_error *error)
{
    hymba_reuse_info complete;
    hymba_status status = hy_require(fork, "fork", error);
    if (status != HYMBA_OK)
        return status;
    *fork = NULL;
    status = check_info(info, error);
    if (status == HYMBA_OK)
        status = enter(session, &complete, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_group_fork(session, fork, &complete, error);
    return leave(session->context, status, &complete, info, error);
}

hymba_status hymba_session_snapshot(hymba_session *session, const char *name,
                                    hymba_reuse_info *info, hymba_error *error)
{
    hymba_reuse_info complete;
    if (name && strlen(name) >= HY_SNAPSHOT_NAME)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "name: found %zu bytes, at most %d",
                       strlen(name), HY_SNAPSHOT_NAME - 1);
    hymba_status status = check_info(info, error);
    if (status == HYMBA_OK)
        status = enter(session, &complete, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_group_snapshot(session, name, &complete, error);
    return leave(session->context, status, &complete, info, error);
}

size_t hymba_session_snapshot_count(const hymba_session *session)
{
    return session ? session->snapshots.count : 0;
}

static hymba_status write_snapshot_info(const struct hy_snapshot *snapshot,
                                        hymba_snapshot_info *info, hymba_error *error)
{
    hymba_snapshot_info complete = {
        .length = snapshot->length,
        .bytes = snapshot->bytes,
        .automatic = snapshot->automatic,
        .has_logits = snapshot->logits != NULL,
    };
    memcpy(complete.name, snapshot->name, sizeof complete.name);
    return hy_write_struct(info, &complete, sizeof complete, "info", error);
}

_Static_assert(sizeof((hymba_snapshot_info *)0)->name == HY_SNAPSHOT_NAME,
               "the public name field holds every name");

hymba_status hymba_session_get_snapshot(const hymba_session *session, size_t index,
                                        hymba_snapshot_info *info, hymba_error *error)
{
    hymba_status status = hy_require(session, "session", error);
    if (status != HYMBA_OK)
        return status;
    if (index >= session->snapshots.count)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "index: found %zu, there are %zu snapshots",
                       index, session->snapshots.count);
    return write_snapshot_info(session->snapshots.items[index], info, error);
}

hymba_status hymba_session_find_snapshot(const hymba_session *session, const char *name,
                                         hymba_snapshot_info *info, hymba_error *error)
{
    hymba_status status = hy_require(session, "session", error);
    if (status == HYMBA_OK)
        status = hy_require(name, "name", error);
    if (status != HYMBA_OK)
        return status;
    for (size_t i = session->snapshots.count; i > 0; i--)
        if (strcmp(session->snapshots.items[i - 1]->name, name) == 0)
            return write_snapshot_info(session->snapshots.items[i - 1], info, error);
    return hy_fail(error, HYMBA_ERROR_STATE, "no snapshot is named \"%s\"", name);
}

hymba_status hymba_session_drop_snapshot(hymba_session *session, uint64_t length,
                                         hymba_error *error)
{
    hymba_reuse_info complete;
    hymba_status status = enter(session, &complete, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_group_drop_snapshot(session, length, error);
    hy_context_leave(session->context);
    return status;
}

hymba_status hymba_session_rewind(hymba_session *session, uint64_t length, int32_t mode,
                                  hymba_reuse_info *info, hymba_error *error)
{
    hymba_reuse_info complete;
    if (mode != HYMBA_REWIND_KEPT && mode != HYMBA_REWIND_COMPUTE)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "mode: found %d, expected 0 or 1", (int)mode);
    hymba_status status = check_info(info, error);
    if (status == HYMBA_OK)
        status = enter(session, &complete, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_group_rewind(session, length, mode, &complete, error);
    return leave(session->context, status, &complete, info, error);
}

hymba_status hymba_session_get_info(const hymba_session *session, hymba_session_info *info,
                                    hymba_error *error)
{
    hymba_session_info complete;
    hymba_status status = hy_require(session, "session", error);
    if (status != HYMBA_OK)
        return status;
    hy_session_describe(session, &complete);
    return hy_write_struct(info, &complete, sizeof complete, "info", error);
}

/* ---------------------------------------------------------------- saving */

hymba_status hymba_session_save(hymba_session *session, const hymba_sampler *sampler,
                                const char *path, hymba_reuse_info *info, hymba_error *error)
{
    hymba_reuse_info complete;
    hymba_status status = hy_require(path, "path", error);
    if (status == HYMBA_OK)
        status = check_info(info, error);
    if (status == HYMBA_OK)
        status = enter(session, &complete, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_session_save_file(session, sampler, path, &complete, error);
    return leave(session->context, status, &complete, info, error);
}

hymba_status hymba_session_save_to(hymba_session *session, const hymba_sampler *sampler,
                                   hymba_write write, void *user, hymba_reuse_info *info,
                                   hymba_error *error)
{
    hymba_reuse_info complete;
    hymba_status status =
        write ? HYMBA_OK : hy_fail(error, HYMBA_ERROR_ARGUMENT, "write: found NULL");
    if (status == HYMBA_OK)
        status = check_info(info, error);
    if (status == HYMBA_OK)
        status = enter(session, &complete, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_session_save(session, sampler, write, user, &complete, error);
    return leave(session->context, status, &complete, info, error);
}

/* The outputs of a load, cleared, and its parameters, completed. */
static hymba_status begin_load(hymba_context *context, const hymba_session_params *given,
                               hymba_session_params *params, hymba_session **session,
                               hymba_sampler **sampler, const hymba_reuse_info *info,
                               hymba_error *error)
{
    hymba_status status = hy_require(session, "session", error);
    if (status != HYMBA_OK)
        return status;
    *session = NULL;
    if (sampler)
        *sampler = NULL;
    status = hy_require(context, "context", error);
    if (status == HYMBA_OK)
        status = check_info(info, error);
    if (status == HYMBA_OK)
        status = hy_read_struct(params, sizeof *params, given, "params", error);
    if (status == HYMBA_OK)
        status = hy_check_reserved(params->reserved, error);
    if (status == HYMBA_OK)
        status = hy_session_check_params(params, error);
    return status == HYMBA_OK ? hy_context_enter(context, error) : status;
}

hymba_status hymba_session_load(hymba_context *context, const char *path,
                                const hymba_session_params *given, hymba_session **session,
                                hymba_sampler **sampler, hymba_reuse_info *info,
                                hymba_error *error)
{
    hymba_session_params params;
    hymba_reuse_info complete = {0};
    hymba_status status = begin_load(context, given, &params, session, sampler, info, error);
    if (status != HYMBA_OK)
        return status;
    status = path ? hy_session_load_file(context, path, given ? &params : NULL, session, sampler,
                                         &complete, error)
                  : hy_require(path, "path", error);
    return leave(context, status, &complete, info, error);
}

hymba_status hymba_session_load_memory(hymba_context *context, const void *data, size_t size,
                                       const hymba_session_params *given, hymba_session **session,
                                       hymba_sampler **sampler, hymba_reuse_info *info,
                                       hymba_error *error)
{
    hymba_session_params params;
    hymba_reuse_info complete = {0};
    hymba_status status = begin_load(context, given, &params, session, sampler, info, error);
    if (status != HYMBA_OK)
        return status;
    if (size > 0)
        status = hy_require(data, "data", error);
    if (status == HYMBA_OK)
        status = hy_check_count(size, 1, "size", error);
    if (status == HYMBA_OK)
        status = hy_session_load(context, data, size, given ? &params : NULL, session, sampler,
                                 &complete, error);
    return leave(context, status, &complete, info, error);
}
