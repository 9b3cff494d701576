#include "run/group_calls.h"

#include <string.h>

#include "run/branch.h"
#include "run/group.h"

/* Sessions that are being made, one for each rank; NULL: not yet. */
struct made {
    hymba_context *context;
    uint32_t n;
    hymba_session *sessions[HY_MAX_DEVICES];
};

hymba_status hy_group_join_sessions(hymba_session *const *sessions, uint32_t n,
                                    hymba_error *error)
{
    hymba_session *first = sessions[0];
    struct hy_memory own = {.host = first->memory->host};
    if (n == 1)
        return HYMBA_OK;
    first->peers = hy_alloc_array(&own, n - 1, sizeof *first->peers);
    if (!first->peers)
        return hy_no_memory(error, n * sizeof *first->peers, "a session's peers");
    memcpy(first->peers, sessions + 1, (n - 1) * sizeof *first->peers);
    first->n_peers = n - 1;
    return HYMBA_OK;
}

/* All of them as one session. On failure none is left. */
static hymba_status finish_made(const struct made *made, hymba_status status, hymba_session **out,
                                hymba_error *error)
{
    if (status == HYMBA_OK)
        status = hy_group_join_sessions(made->sessions, made->n, error);
    if (status == HYMBA_OK) {
        *out = made->sessions[0];
        return HYMBA_OK;
    }
    for (uint32_t rank = 0; rank < made->n; rank++)
        hy_session_release(made->sessions[rank]);
    return status;
}

/* -------------------------------------------------------- create and reserve */

static hymba_status prepare_meta(void *user, uint32_t rank, hymba_error *error)
{
    return hy_context_prepare_meta(hy_group_context(user, rank), error);
}

/* Which snapshots a budget lets live hangs on their bytes, and these on the rank's part of the
 * model: in a group rank 0 decides, and ranks that are alone would decide differently. */
static hymba_status check_budget(const hymba_context *context, uint64_t budget,
                                 hymba_error *error)
{
    if (budget == 0 || context->group || context->ranks.world_size == 1)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                   "snapshot_budget: found %llu, but ranks in processes of their own cannot have "
                   "one", (unsigned long long)budget);
}

static hymba_status create_on(struct made *made, uint32_t rank, hymba_session_params params,
                              hymba_error *error)
{
    if (rank > 0)
        params.snapshot_budget = 0;
    return hy_session_create(hy_group_context(made->context, rank), &params,
                             &made->sessions[rank], error);
}

hymba_status hy_group_create_session(hymba_context *context, const hymba_session_params *params,
                                     hymba_session **session, hymba_error *error)
{
    struct made made = {.context = context, .n = hy_group_size(context)};
    hymba_status status = check_budget(context, params->snapshot_budget, error);
    *session = NULL;
    if (status == HYMBA_OK && !context->meta_ready)
        status = hy_group_run(context, prepare_meta, context, error);
    for (uint32_t rank = 0; status == HYMBA_OK && rank < made.n; rank++)
        status = hy_group_name(context, rank, create_on(&made, rank, *params, error), error);
    return finish_made(&made, status, session, error);
}

void hy_group_reset(hymba_session *session)
{
    for (uint32_t rank = 0; rank <= session->n_peers; rank++)
        hy_session_reset(hy_session_of_rank(session, rank));
}

hymba_status hy_group_reserve(hymba_session *session, uint64_t n_tokens, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (uint32_t rank = 0; status == HYMBA_OK && rank <= session->n_peers; rank++) {
        status = hy_session_reserve(hy_session_of_rank(session, rank), n_tokens, error);
        status = hy_group_name(session->context, rank, status, error);
    }
    return status;
}

/* -------------------------------------------------------- forks and snapshots */

hymba_status hy_group_fork(hymba_session *session, hymba_session **fork, hymba_reuse_info *info,
                           hymba_error *error)
{
    struct made made = {.context = session->context, .n = 1 + session->n_peers};
    hymba_reuse_info others;
    hymba_status status = HYMBA_OK;
    *fork = NULL;
    for (uint32_t rank = 0; status == HYMBA_OK && rank < made.n; rank++) {
        status = hy_session_fork(hy_session_of_rank(session, rank), &made.sessions[rank],
                                 rank == 0 ? info : &others, error);
        status = hy_group_name(session->context, rank, status, error);
    }
    return finish_made(&made, status, fork, error);
}

/* What rank 0 has dropped for its budget the others drop, too. They have all that it has. */
static void mirror_snapshots(hymba_session *session)
{
    const struct hy_snapshot_list *first = &session->snapshots;
    for (uint32_t rank = 1; rank <= session->n_peers; rank++) {
        struct hy_snapshot_list *list = &hy_session_of_rank(session, rank)->snapshots;
        for (size_t i = 0; list->count > first->count && i < list->count;) {
            if (i < first->count && list->items[i]->length == first->items[i]->length)
                i++;
            else
                hy_snapshot_list_remove(list, i);
        }
    }
}

hymba_status hy_group_snapshot(hymba_session *session, const char *name, hymba_reuse_info *info,
                               hymba_error *error)
{
    struct hy_snapshot *made[HY_MAX_DEVICES] = {NULL};
    hymba_reuse_info others;
    hymba_status status = HYMBA_OK;
    for (uint32_t rank = 0; status == HYMBA_OK && rank <= session->n_peers; rank++) {
        status = hy_session_make_snapshot(hy_session_of_rank(session, rank), name, &made[rank],
                                          error);
        status = hy_group_name(session->context, rank, status, error);
    }
    if (status == HYMBA_OK)
        status = hy_session_fit_snapshot(session, made[0], error);
    for (uint32_t rank = 0; rank <= session->n_peers; rank++) {
        if (status == HYMBA_OK)
            hy_session_list_snapshot(hy_session_of_rank(session, rank), made[rank],
                                     rank == 0 ? info : &others);
        else
            hy_snapshot_release(made[rank]);
    }
    mirror_snapshots(session);
    return status;
}

hymba_status hy_group_drop_snapshot(hymba_session *session, uint64_t length, hymba_error *error)
{
    struct hy_snapshot_list *list = &session->snapshots;
    size_t index = hy_snapshot_list_find(list, length);
    if (index >= list->count || list->items[index]->length != length)
        return hy_fail(error, HYMBA_ERROR_STATE, "there is no snapshot of length %llu",
                       (unsigned long long)length);
    hy_snapshot_list_remove(list, index);
    mirror_snapshots(session);
    return HYMBA_OK;
}

/* ----------------------------------------------------------------- decoding */

struct decode_call {
    hymba_context *context;
    const struct hy_item *items[HY_MAX_DEVICES]; /* of each rank */
    size_t n;
};

static hymba_status decode_on_rank(void *user, uint32_t rank, hymba_error *error)
{
    const struct decode_call *call = user;
    return hy_decode(hy_group_context(call->context, rank), call->items[rank], call->n, error);
}

/* A rank's own items: its sessions and the same tokens, of which nothing is asked. */
static hymba_status translate(struct decode_call *call, uint32_t rank, hymba_error *error)
{
    struct hy_item *items;
    hymba_status status =
        hy_decode_items(hy_group_context(call->context, rank), call->n, &items, error);
    for (size_t i = 0; status == HYMBA_OK && i < call->n; i++)
        items[i] = (struct hy_item){
            .session = hy_session_of_rank(call->items[0][i].session, rank),
            .tokens = call->items[0][i].tokens,
            .n_tokens = call->items[0][i].n_tokens,
            .logits = HYMBA_LOGITS_NONE,
        };
    call->items[rank] = items;
    return status;
}

hymba_status hy_group_decode(hymba_context *context, const struct hy_item *items, size_t n,
                             hymba_error *error)
{
    struct decode_call call = {.context = context, .items = {items}, .n = n};
    uint32_t n_ranks = hy_group_size(context);
    hymba_status status = HYMBA_OK;
    if (n_ranks == 1)
        return hy_decode(context, items, n, error);
    for (uint32_t rank = 1; status == HYMBA_OK && rank < n_ranks; rank++)
        status = translate(&call, rank, error);
    if (status == HYMBA_OK)
        status = hy_group_run(context, decode_on_rank, &call, error);
    for (size_t i = 0; status == HYMBA_OK && i < n; i++)
        mirror_snapshots(items[i].session);
    return status;
}

hymba_status hy_group_score(hymba_session *session, const int32_t *tokens, size_t n_tokens,
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
    return hy_group_decode(session->context, &item, 1, error);
}

/* --------------------------------------------------------------- going back */

/* Computes what is left of the way, in sessions that run ahead on all ranks. */
static hymba_status compute_rest(struct hy_rewind *rewinds, uint32_t n, hymba_error *error)
{
    struct hy_item item;
    struct made made = {.n = n};
    hymba_session *ahead;
    if (!hy_rewind_item(&rewinds[0], &item))
        return HYMBA_OK;
    for (uint32_t rank = 0; rank < n; rank++)
        made.sessions[rank] = hy_session_retain(rewinds[rank].ahead);
    hymba_status status = finish_made(&made, HYMBA_OK, &ahead, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_group_decode(rewinds[0].session->context, &item, 1, error);
    hy_session_release(ahead);
    return status;
}

hymba_status hy_group_rewind(hymba_session *session, uint64_t length, int32_t mode,
                             hymba_reuse_info *info, hymba_error *error)
{
    struct hy_rewind rewinds[HY_MAX_DEVICES] = {{.length = 0}};
    uint32_t n = 1 + session->n_peers, n_prepared = 0;
    hymba_reuse_info others;
    hymba_status status = HYMBA_OK;
    for (; status == HYMBA_OK && n_prepared < n; n_prepared++) {
        status = hy_rewind_prepare(hy_session_of_rank(session, n_prepared), length, mode,
                                   &rewinds[n_prepared], error);
        status = hy_group_name(session->context, n_prepared, status, error);
    }
    if (status == HYMBA_OK)
        status = compute_rest(rewinds, n, error);
    for (uint32_t rank = 0; rank < n_prepared; rank++) {
        if (status == HYMBA_OK)
            hy_rewind_commit(&rewinds[rank], rank == 0 ? info : &others);
        hy_rewind_end(&rewinds[rank]);
    }
    return status;
}
