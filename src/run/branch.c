#include "run/branch.h"

#include <string.h>

#include "base/checked.h"
#include "run/decode.h"
#include "run/saved_parts.h"

static size_t vocabulary_of(const hymba_session *session)
{
    return session->context->model->plan.config.vocabulary_size;
}

/* ------------------------------------------------------------------- fork */

static hymba_status copy_tokens(const hymba_session *from, size_t n_tokens, hymba_session *to,
                                hymba_error *error)
{
    hymba_status status = hy_session_reserve_tokens(to, n_tokens, error);
    if (status == HYMBA_OK && n_tokens > 0)
        memcpy(to->tokens, from->tokens, n_tokens * sizeof *to->tokens);
    if (status == HYMBA_OK)
        to->n_tokens = n_tokens;
    return status;
}

static hymba_status copy_logits(const hymba_session *from, hymba_session *to, hymba_error *error)
{
    hymba_status status = hy_session_reserve_logits(to, from->logits_rows, error);
    if (status != HYMBA_OK || from->logits_rows == 0)
        return status;
    memcpy(to->logits, from->logits,
           from->logits_rows * vocabulary_of(from) * sizeof *to->logits);
    to->logits_rows = from->logits_rows;
    to->logits_of_last = from->logits_of_last;
    return HYMBA_OK;
}

static hymba_status share_snapshots(const hymba_session *from, hymba_session *to,
                                    hymba_error *error)
{
    const struct hy_snapshot_list *list = &from->snapshots;
    hymba_status status =
        hy_snapshot_list_reserve(to->memory, &to->snapshots, list->count, error);
    for (size_t i = 0; status == HYMBA_OK && i < list->count; i++)
        hy_snapshot_list_add(&to->snapshots, hy_snapshot_retain(list->items[i]));
    return status;
}

/* An empty session with the same parameters, whose state is still to be made. */
static hymba_status create_like(const hymba_session *session, hymba_session **out,
                                hymba_error *error)
{
    hymba_session_params params = {
        .max_tokens = session->max_tokens,
        .limit_policy = session->limit_policy,
        .snapshot_interval = session->snapshots.interval,
        .snapshot_budget = session->snapshots.budget,
        .memory_limit = session->memory_limit,
    };
    return hy_session_create_bare(session->context, &params, out, error);
}

hymba_status hy_session_fork(hymba_session *session, hymba_session **out, hymba_reuse_info *info,
                             hymba_error *error)
{
    *out = NULL;
    hymba_session *fork;
    hymba_status status = create_like(session, &fork, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_state_copy(&session->state, fork->memory, true, &fork->state, error);
    if (status == HYMBA_OK)
        status = copy_tokens(session, session->n_tokens, fork, error);
    if (status == HYMBA_OK)
        status = copy_logits(session, fork, error);
    if (status == HYMBA_OK)
        status = share_snapshots(session, fork, error);
    if (status == HYMBA_OK)
        status = hy_session_check_memory(fork, 0, error);
    if (status != HYMBA_OK) {
        hy_session_release(fork);
        return status;
    }
    uint64_t shared;
    info->reused_tokens = fork->n_tokens;
    info->shared_bytes = hy_state_block_bytes(&fork->state, &shared);
    info->copied_bytes = fork->state.layout->fixed_bytes;
    *out = fork;
    return HYMBA_OK;
}

/* -------------------------------------------------------------- snapshots */

hymba_status hy_session_make_snapshot(hymba_session *session, const char *name,
                                      struct hy_snapshot **out, hymba_error *error)
{
    struct hy_snapshot_list *list = &session->snapshots;
    bool logits = session->logits_rows > 0 && session->logits_of_last;
    *out = NULL;
    hymba_status status =
        hy_snapshot_list_reserve(session->memory, list, list->count + 1, error);
    if (status == HYMBA_OK)
        status = hy_snapshot_create(&session->context->memory, &session->state,
                                    logits ? hy_session_last_logits(session) : NULL,
                                    vocabulary_of(session), out, error);
    if (status == HYMBA_OK && name)
        memcpy((*out)->name, name, strlen(name)); /* its length was checked; the rest is 0 */
    return status;
}

hymba_status hy_session_fit_snapshot(hymba_session *session, const struct hy_snapshot *snapshot,
                                     hymba_error *error)
{
    struct hy_snapshot_list *list = &session->snapshots;
    if (hy_snapshot_list_make_room(list, snapshot->bytes))
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_LIMIT,
                   "a snapshot of %llu bytes does not fit the snapshot_budget, %llu, of which "
                   "%llu are taken",
                   (unsigned long long)snapshot->bytes, (unsigned long long)list->budget,
                   (unsigned long long)list->bytes);
}

void hy_session_list_snapshot(hymba_session *session, struct hy_snapshot *snapshot,
                              hymba_reuse_info *info)
{
    uint64_t shared;
    hy_state_block_bytes(&snapshot->state, &shared);
    info->reused_tokens = session->n_tokens;
    info->shared_bytes = shared;
    info->copied_bytes = snapshot->bytes;
    hy_snapshot_list_add(&session->snapshots, snapshot);
}

/* ------------------------------------------------------------- going back */

/* The longest kept state of at most length tokens. */
static struct hy_start find_start(const hymba_session *session, uint64_t length)
{
    const struct hy_state *state = &session->state;
    struct hy_start start = {.kind = HY_START_BEGINNING};
    size_t index = hy_snapshot_list_find(&session->snapshots, length);
    if (index < session->snapshots.count) {
        start.kind = HY_START_SNAPSHOT;
        start.snapshot = session->snapshots.items[index];
        start.length = start.snapshot->length;
    }
    for (size_t back = 0; back < state->layout->rewind_tokens && back < length; back++) {
        uint64_t candidate = length - back;
        if (candidate <= start.length)
            break;
        if (!hy_state_can_step_back(state, state->layout->n_meta + candidate))
            continue;
        start.kind = HY_START_STEP;
        start.length = candidate;
        break;
    }
    return start;
}

/* Logits that a snapshot brings; the buffer was reserved before. */
static void take_logits(hymba_session *session, const struct hy_snapshot *snapshot)
{
    session->logits_rows = 0;
    session->logits_of_last = false;
    if (!snapshot || !snapshot->logits)
        return;
    memcpy(session->logits, snapshot->logits, vocabulary_of(session) * sizeof *session->logits);
    session->logits_rows = 1;
    session->logits_of_last = true;
}

/* Room for go_to. */
static hymba_status prepare_going(hymba_session *session, const struct hy_start *start,
                                  hymba_error *error)
{
    if (start->kind != HY_START_SNAPSHOT)
        return HYMBA_OK;
    hymba_status status =
        hy_session_reserve_logits(session, start->snapshot->logits ? 1 : 0, error);
    return status == HYMBA_OK ? hy_state_reserve_return(&session->state, &start->snapshot->state,
                                                        error)
                              : status;
}

/* Straight to a state that was kept. */
static void go_to(hymba_session *session, const struct hy_start *start)
{
    if (start->kind == HY_START_SNAPSHOT)
        hy_state_return_to(&session->state, &start->snapshot->state, NULL); /* there is room */
    else if (start->kind == HY_START_STEP)
        hy_state_step_back(&session->state, session->state.layout->n_meta + start->length);
    else
        hy_state_reset(&session->state);
    take_logits(session, start->kind == HY_START_SNAPSHOT ? start->snapshot : NULL);
    session->n_tokens = (size_t)start->length;
    session->n_changes++;
    hy_snapshot_list_cut(&session->snapshots, start->length);
}

/* A state of its own at the start, for a second session that runs ahead of this one. */
static hymba_status copy_start(const hymba_session *session, const struct hy_start *start,
                               hymba_session *ahead, hymba_error *error)
{
    hymba_context *context = session->context;
    hymba_status status;
    if (start->kind == HY_START_SNAPSHOT)
        return hy_state_copy(&start->snapshot->state, ahead->memory, true, &ahead->state, error);
    if (start->kind == HY_START_BEGINNING) {
        status = hy_state_create(ahead->memory, &context->memory, session->state.meta,
                                 &ahead->state, error);
        ahead->state.full_window = session->state.full_window;
        return status;
    }
    status = hy_state_copy(&session->state, ahead->memory, true, &ahead->state, error);
    if (status == HYMBA_OK)
        hy_state_step_back(&ahead->state, session->state.layout->n_meta + start->length);
    return status;
}

/* A second session at the start, in which the tokens up to the length will be computed. */
static hymba_status create_ahead(struct hy_rewind *rewind, hymba_error *error)
{
    hymba_session *session = rewind->session, *ahead;
    const struct hy_start *start = &rewind->start;
    hymba_status status = create_like(session, &ahead, error);
    if (status != HYMBA_OK)
        return status;
    ahead->memory = session->memory; /* what it allocates will be the session's */
    ahead->snapshots.interval = 0;   /* those on the way are there already, or not wanted */
    status = copy_start(session, start, ahead, error);
    if (status == HYMBA_OK)
        status = copy_tokens(session, (size_t)start->length, ahead, error);
    if (status == HYMBA_OK)
        rewind->ahead = ahead;
    else
        hy_session_release(ahead);
    return status;
}

hymba_status hy_rewind_prepare(hymba_session *session, uint64_t length, int32_t mode,
                               struct hy_rewind *rewind, hymba_error *error)
{
    *rewind = (struct hy_rewind){.session = session, .length = length};
    if (length > session->n_tokens)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "length: found %llu, the session has %zu",
                       (unsigned long long)length, session->n_tokens);
    if (length == session->n_tokens)
        return HYMBA_OK;
    rewind->start = find_start(session, length);
    if (rewind->start.length == length)
        return prepare_going(session, &rewind->start, error);
    if (mode == HYMBA_REWIND_KEPT)
        return hy_fail(error, HYMBA_ERROR_STATE,
                       "no state is kept at length %llu; the nearest before it is at %llu "
                       "(HYMBA_REWIND_COMPUTE computes from there)",
                       (unsigned long long)length, (unsigned long long)rewind->start.length);
    return create_ahead(rewind, error);
}

bool hy_rewind_item(const struct hy_rewind *rewind, struct hy_item *item)
{
    if (!rewind->ahead)
        return false;
    *item = (struct hy_item){
        .session = rewind->ahead,
        .tokens = rewind->session->tokens + rewind->start.length,
        .n_tokens = (size_t)(rewind->length - rewind->start.length),
        .logits = HYMBA_LOGITS_LAST,
    };
    return true;
}

void hy_rewind_commit(struct hy_rewind *rewind, hymba_reuse_info *info)
{
    hymba_session *session = rewind->session;
    const struct hy_start *start = &rewind->start;
    if (rewind->length == session->n_tokens) {
        info->reused_tokens = rewind->length;
        return;
    }
    info->reused_tokens = start->length;
    info->computed_tokens = rewind->length - start->length;
    info->copied_bytes = start->kind == HY_START_SNAPSHOT ? session->state.layout->fixed_bytes
                                                          : session->state.layout->recurrent_bytes;
    if (rewind->ahead) {
        hy_session_swap(session, rewind->ahead);
        hy_snapshot_list_cut(&session->snapshots, rewind->length);
    } else {
        go_to(session, start);
    }
}

void hy_rewind_end(struct hy_rewind *rewind)
{
    hy_session_release(rewind->ahead);
    rewind->ahead = NULL;
}

/* ------------------------------------------------------------ description */

static uint64_t shortest_step(const hymba_session *session)
{
    const struct hy_state *state = &session->state;
    uint64_t length = session->n_tokens;
    while (length > 0 && hy_state_can_step_back(state, state->layout->n_meta + length - 1))
        length--;
    return length;
}

/* Blocks that snapshots alone hold: of each those that what came after it has given up. */
static uint64_t snapshot_block_bytes(const hymba_session *session)
{
    const struct hy_snapshot_list *list = &session->snapshots;
    uint64_t bytes = 0;
    for (size_t i = 0; i < list->count; i++) {
        const struct hy_state *later =
            i + 1 < list->count ? &list->items[i + 1]->state : &session->state;
        bytes += hy_state_lone_block_bytes(&list->items[i]->state, later);
    }
    return bytes;
}

void hy_session_describe(const hymba_session *session, hymba_session_info *info)
{
    const struct hy_state *state = &session->state;
    uint64_t shared, blocks = hy_state_block_bytes(state, &shared);
    bool slides = session->limit_policy == HYMBA_LIMIT_SLIDE && session->max_tokens > 0 &&
                  session->n_tokens > session->max_tokens;
    bool can_save = hy_saved_check_ranks(session->context, NULL) == HYMBA_OK;
    *info = (hymba_session_info){
        .length = session->n_tokens,
        .max_tokens = session->max_tokens,
        .first_visible = slides ? session->n_tokens - session->max_tokens : 0,
        .rewind_length = shortest_step(session),
        .n_snapshots = session->snapshots.count,
        .snapshot_bytes = session->snapshots.bytes,
        .memory_bytes = atomic_load(&session->memory->used) + blocks + session->snapshots.bytes +
                        snapshot_block_bytes(session),
        .shared_bytes = shared,
        .capabilities = HYMBA_CAN_FORK | HYMBA_CAN_SNAPSHOT | HYMBA_CAN_SLIDE |
                        (can_save ? HYMBA_CAN_SAVE : 0) |
                        (state->layout->rewind_tokens > 0 ? HYMBA_CAN_REWIND_STEPS : 0),
        .limit_policy = session->limit_policy,
    };
}
