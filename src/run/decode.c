#include "run/decode.h"

#include <string.h>

#include "base/checked.h"
#include "run/forward.h"
#include "run/ranks.h"
#include "run/step_logits.h"
#include "text/sampler.h"

/* A call on its way. */
struct call {
    hymba_context *context;
    const struct hy_item *items;
    size_t n;
    size_t total_tokens;
    bool several_steps; /* rings are overwritten before the last step has succeeded */
};

/* ------------------------------------------------------------ reservation */

static hymba_status check_item(const hymba_context *context, const struct hy_item *item,
                               size_t index, hymba_error *error)
{
    const hymba_session *session = item->session;
    uint32_t vocabulary = context->model->plan.config.vocabulary_size;
    uint64_t length;
    if (item->n_tokens == 0)
        return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)index,
                          "item %zu: found 0 tokens, expected at least 1", index);
    if (!hy_is_count(item->n_tokens, sizeof *item->tokens))
        return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)index,
                          "item %zu: found %zu tokens, which is more than memory can hold", index,
                          item->n_tokens);
    for (size_t i = 0; i < item->n_tokens; i++)
        if (item->tokens[i] < 0 || (uint32_t)item->tokens[i] >= vocabulary)
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)i,
                              "token %zu: found id %d, expected 0 to %u", i, (int)item->tokens[i],
                              vocabulary - 1);
    if (!hy_add_u64(session->n_tokens, item->n_tokens, &length))
        return hy_fail(error, HYMBA_ERROR_LIMIT, "the session's length does not fit 64 bits");
    if (session->max_tokens > 0 && length > session->max_tokens &&
        session->limit_policy != HYMBA_LIMIT_SLIDE)
        return hy_fail_at(error, HYMBA_ERROR_LIMIT, (int64_t)index,
                          "the session would hold %llu tokens, its max_tokens is %llu",
                          (unsigned long long)length, (unsigned long long)session->max_tokens);
    return HYMBA_OK;
}

static size_t logits_rows(const struct hy_item *item)
{
    if (item->logits == HYMBA_LOGITS_NONE)
        return 0;
    return item->logits == HYMBA_LOGITS_ALL ? item->n_tokens : 1;
}

/* Automatic snapshots that fall due during the item. */
static size_t count_due(const struct hy_item *item)
{
    uint64_t interval = item->session->snapshots.interval, before = item->session->n_tokens;
    return interval == 0 ? 0 : (size_t)((before + item->n_tokens) / interval - before / interval);
}

static hymba_status reserve_item(const struct hy_item *item, hymba_error *error)
{
    hymba_session *session = item->session;
    struct hy_snapshot_list *snapshots = &session->snapshots;
    hymba_status status =
        hy_session_reserve(session, session->n_tokens + item->n_tokens, error);
    if (status == HYMBA_OK)
        status = hy_state_claim(&session->state, item->n_tokens, error);
    if (status == HYMBA_OK && logits_rows(item) > 0)
        status = hy_session_reserve_logits(session, logits_rows(item), error);
    if (status == HYMBA_OK)
        status = hy_snapshot_list_reserve(session->memory, snapshots,
                                          snapshots->count + count_due(item), error);
    return status == HYMBA_OK ? hy_session_check_memory(session, 0, error) : status;
}

hymba_status hy_decode_check(hymba_context *context, const struct hy_item *item,
                             hymba_error *error)
{
    return check_item(context, item, 0, error);
}

hymba_status hy_decode_reserve(hymba_context *context, const struct hy_item *item,
                               hymba_error *error)
{
    hymba_status status = check_item(context, item, 0, error);
    return status == HYMBA_OK ? reserve_item(item, error) : status;
}

/* States to keep behind the last tokens of an item; the one before its first token is at hand. */
static size_t count_kept(const hymba_context *context, const struct hy_item *item)
{
    return hy_min_size(item->n_tokens - 1, context->layout.rewind_tokens);
}

static hymba_status reserve_kept(struct call *call, hymba_error *error)
{
    hymba_context *context = call->context;
    size_t n = 0;
    for (size_t i = 0; i < call->n; i++)
        n += count_kept(context, &call->items[i]);
    return hy_step_lists_reserve_kept(&context->memory, &context->lists, n,
                                      hy_layout_recurrent_floats(&context->layout), error);
}

/* Several steps overwrite rings before the last one has succeeded: keep what they held. */
static hymba_status reserve_undo(struct call *call, hymba_error *error)
{
    hymba_context *context = call->context;
    size_t bytes = 0;
    for (size_t i = 0; i < call->n; i++)
        if (!hy_add_size(bytes, hy_state_undo_bytes(&call->items[i].session->state), &bytes))
            return hy_no_memory(error, SIZE_MAX, "the undo copy of a batch");
    return hy_step_lists_reserve_undo(&context->memory, &context->lists, bytes, error);
}

/*
 * Whether an item's states go straight from the session's place to a spare one: on a device, for a
 * single token, which is what decoding consists of. Longer items have f32 working copies, so that
 * 16-bit states are rounded once a call; and all have on the CPU, whose kernels take f32 alone.
 */
static bool uses_spare(const hymba_context *context, const struct hy_item *item)
{
    return context->backend.plugin && item->n_tokens == 1;
}

/* What steps of n sequences need, of which n_spares use spare states. */
static hymba_status reserve_steps(hymba_context *context, size_t n, size_t n_spares,
                                  size_t n_spans, hymba_error *error)
{
    struct hy_memory *memory = &context->memory;
    struct hy_step_lists *lists = &context->lists;
    const struct hy_state_layout *layout = &context->layout;
    hymba_status status = hy_step_lists_reserve_spans(memory, lists, n_spans, error);
    if (status == HYMBA_OK)
        status = hy_step_lists_reserve_sequences(memory, lists, n, error);
    if (status == HYMBA_OK)
        status = hy_step_lists_reserve_spares(memory, lists, n_spares, layout->recurrent_bytes,
                                              error);
    if (status == HYMBA_OK)
        status = hy_step_lists_reserve_recurrent(memory, lists, n - n_spares,
                                                 hy_layout_recurrent_floats(layout), error);
    return status;
}

static hymba_status reserve(struct call *call, hymba_error *error)
{
    hymba_context *context = call->context;
    size_t spans = 0, spares = 0;
    for (size_t i = 0; i < call->n; i++) {
        const struct hy_item *item = &call->items[i];
        hymba_status status = check_item(context, item, i, error);
        if (status != HYMBA_OK)
            return status;
        if (!hy_add_size(call->total_tokens, item->n_tokens, &call->total_tokens))
            return hy_fail(error, HYMBA_ERROR_LIMIT, "the batch's tokens do not fit memory");
    }
    for (size_t i = 0; i < call->n; i++) {
        const struct hy_item *item = &call->items[i];
        hymba_error cause = {.struct_size = sizeof cause};
        if (reserve_item(item, &cause) != HYMBA_OK) {
            cause.position = (int64_t)i;
            return hy_fail_again(error, &cause);
        }
        spans += hy_state_max_spans(&item->session->state);
        spares += uses_spare(context, item);
        call->several_steps |= count_due(item) > 0;
    }
    call->several_steps |= call->total_tokens > context->workspace.rows;
    hymba_status status = reserve_steps(context, call->n, spares, spans, error);
    if (status == HYMBA_OK)
        status = reserve_kept(call, error);
    if (status == HYMBA_OK)
        status = hy_step_logits_reserve(context, call->items, call->n, error);
    if (status == HYMBA_OK && call->several_steps)
        status = reserve_undo(call, error);
    return status;
}

hymba_status hy_decode_items(hymba_context *context, size_t n, struct hy_item **items,
                             hymba_error *error)
{
    hymba_status status =
        hy_step_lists_reserve_items(&context->memory, &context->lists, n, error);
    *items = context->lists.items;
    return status;
}

/* ---------------------------------------------------------------- running */

/* Where the item's new recurrent states will stand. */
static void place_recurrent(struct call *call, size_t i, size_t *n_spares)
{
    struct hy_step_lists *lists = &call->context->lists;
    struct hy_item_progress *progress = &lists->progress[i];
    if (uses_spare(call->context, &call->items[i])) {
        progress->spare = lists->spares[(*n_spares)++];
        return;
    }
    progress->recurrent = lists->recurrent + (i - *n_spares) *
                                                 hy_layout_recurrent_floats(&call->context->layout);
    hy_state_load_recurrent(&call->items[i].session->state, progress->recurrent);
}

static void begin_items(struct call *call)
{
    struct hy_step_lists *lists = &call->context->lists;
    size_t floats = hy_layout_recurrent_floats(&call->context->layout), n_spares = 0;
    unsigned char *undo = lists->undo;
    float *kept = lists->kept;
    hy_store_begin_copies(call->context->backend.plugin);
    for (size_t i = 0; i < call->n; i++) {
        struct hy_state *state = &call->items[i].session->state;
        struct hy_item_progress *progress = &lists->progress[i];
        *progress = (struct hy_item_progress){
            .begin = state->position,
            .ring_first = state->ring_first,
            .n_kept = count_kept(call->context, &call->items[i]),
            .kept = kept,
        };
        progress->first_kept = call->items[i].n_tokens - progress->n_kept;
        if (progress->n_kept > 0)
            kept += progress->n_kept * floats;
        place_recurrent(call, i, &n_spares);
        if (call->several_steps && hy_state_undo_bytes(state) > 0) {
            progress->undo = undo;
            hy_state_save_undo(state, undo);
            undo += hy_state_undo_bytes(state);
        }
    }
    hy_store_end_copies(call->context->backend.plugin);
}

/* Which of a sequence's rows in this step are followed by a state to keep. */
static void keep_rows(const struct call *call, const struct hy_item_progress *progress,
                      struct hy_step_sequence *sequence)
{
    size_t floats = hy_layout_recurrent_floats(&call->context->layout);
    size_t first = progress->first_kept, end = first + progress->n_kept;
    size_t done = progress->done, rows = sequence->segment.n_rows;
    if (progress->n_kept == 0 || done + rows < first || end <= done + 1)
        return;
    /* behind row i the sequence has done + i + 1 tokens */
    sequence->keep_begin = first > done + 1 ? first - done - 1 : 0;
    sequence->keep_end = hy_min_size(rows, end - done - 1);
    sequence->kept = progress->kept + (done + sequence->keep_begin + 1 - first) * floats;
}

/* Tokens an item can give to a step with that much room: it stops where a snapshot is due. */
static size_t rows_of(const struct hy_item *item, size_t done, size_t room)
{
    const hymba_session *session = item->session;
    return hy_tokens_to_snapshot(&session->snapshots, session->n_tokens + done,
                                 hy_min_size(room, item->n_tokens - done));
}

/* The next step: items in order, each with as many of its tokens as there is room for. Returns how
 * many sequences it has. */
static size_t fill_step(struct call *call)
{
    struct hy_step_lists *lists = &call->context->lists;
    size_t room = call->context->workspace.rows, row = 0, n = 0;
    for (size_t i = 0; i < call->n && room > 0; i++) {
        const struct hy_item *item = &call->items[i];
        size_t done = lists->progress[i].done;
        size_t rows = rows_of(item, done, room);
        if (rows == 0)
            continue;
        lists->sequences[n++] = (struct hy_step_sequence){
            .item = i,
            .state = &item->session->state,
            .recurrent = lists->progress[i].recurrent,
            .spare = lists->progress[i].spare,
            .ids = item->tokens + done,
            .segment = {row, rows},
        };
        keep_rows(call, &lists->progress[i], &lists->sequences[n - 1]);
        row += rows;
        room -= rows;
    }
    return n;
}

/* A snapshot of a sequence whose recurrent state is still in its working copy or spare. */
static hymba_status take_snapshot(struct call *call, size_t i, hymba_error *error)
{
    struct hy_item_progress *progress = &call->context->lists.progress[i];
    const hymba_session *session = call->items[i].session;
    struct hy_snapshot *snapshot;
    hymba_error cause = {.struct_size = sizeof cause};
    hymba_status status =
        hy_snapshot_create(&call->context->memory, &session->state, NULL, 0, &snapshot, &cause);
    if (status != HYMBA_OK) {
        cause.position = (int64_t)i;
        return hy_fail_again(error, &cause);
    }
    if (progress->recurrent)
        hy_state_store_recurrent(&snapshot->state, progress->recurrent);
    else
        hy_store_copy(call->context->backend.plugin, snapshot->state.recurrent, progress->spare,
                      session->state.layout->recurrent_bytes);
    snapshot->automatic = true;
    snapshot->next = progress->snapshots;
    progress->snapshots = snapshot;
    return HYMBA_OK;
}

static hymba_status append_step(struct call *call, size_t n, hymba_error *error)
{
    struct hy_step_lists *lists = &call->context->lists;
    hymba_status status = HYMBA_OK;
    hy_store_begin_copies(call->context->backend.plugin);
    for (size_t i = 0; i < n; i++) {
        const struct hy_step_sequence *sequence = &lists->sequences[i];
        const struct hy_segment *segment = &sequence->segment;
        hy_state_append(&call->items[sequence->item].session->state,
                        call->context->workspace.step_kv, segment->row, segment->n_rows);
        lists->progress[sequence->item].done += segment->n_rows;
    }
    hy_store_end_copies(call->context->backend.plugin);
    for (size_t i = 0; i < n; i++) {
        size_t item = lists->sequences[i].item;
        const hymba_session *session = call->items[item].session;
        uint64_t n_tokens = session->n_tokens + lists->progress[item].done;
        uint64_t interval = session->snapshots.interval;
        if (status == HYMBA_OK && interval && n_tokens % interval == 0)
            status = take_snapshot(call, item, error);
    }
    return status;
}

/* The sums of a step of n sequences, and what is read back of it: before anything of a session
 * changes. */
static hymba_status run_step(struct call *call, size_t n, hymba_error *error)
{
    hymba_context *context = call->context;
    hymba_status status = hy_forward(context, context->lists.sequences, n, error);
    if (status == HYMBA_OK)
        status = hy_step_logits(context, call->items, n, error);
    if (status == HYMBA_OK)
        status = hy_store_finish(context->backend.plugin, error);
    return status == HYMBA_OK ? hy_kernel_times_check(context, error) : status;
}

/* A rank among others that fails behind the vote of a step stays with them until the next one. */
static hymba_status run_steps(struct call *call, hymba_error *error)
{
    hymba_context *context = call->context;
    bool alone = context->ranks.world_size == 1;
    hymba_status status = HYMBA_OK;
    size_t done = 0;
    while (done < call->total_tokens && (status == HYMBA_OK || !alone)) {
        size_t n = fill_step(call);
        const struct hy_segment *last = &context->lists.sequences[n - 1].segment;
        hymba_status step = run_step(call, n, status == HYMBA_OK ? error : NULL);
        if (status == HYMBA_OK)
            status = step;
        status = hy_ranks_vote(context, HY_VOTE_STEP, 0, status, error);
        if (status != HYMBA_OK)
            return status;
        done += last->row + last->n_rows;
        if (call->total_tokens > context->workspace.rows)
            status = hy_progress(&context->memory, HYMBA_PHASE_PREFILL, done, call->total_tokens,
                                 error);
        if (status == HYMBA_OK)
            status = append_step(call, n, error);
        else if (!alone)
            append_step(call, n, NULL);
    }
    return call->several_steps ? hy_ranks_vote(context, HY_VOTE_END, 0, status, error) : status;
}

/* The recurrent state, and those on the way to it that are kept for going back. */
static void commit_recurrent(struct call *call, size_t i, size_t *n_spares)
{
    struct hy_step_lists *lists = &call->context->lists;
    const struct hy_item_progress *progress = &lists->progress[i];
    struct hy_state *state = &call->items[i].session->state;
    size_t floats = hy_layout_recurrent_floats(&call->context->layout);
    if (progress->spare) {
        lists->spares[(*n_spares)++] = hy_state_exchange_recurrent(state, progress->spare);
        return;
    }
    for (size_t k = 0; k < progress->n_kept; k++)
        hy_state_keep(state, progress->begin + progress->first_kept + k,
                      progress->kept + k * floats);
    hy_state_store_recurrent(state, progress->recurrent);
}

/* Those of all items; the states of before are kept before new ones take their places. */
static void commit_all_recurrent(struct call *call)
{
    const hymba_context *context = call->context;
    size_t n_spares = 0;
    hy_store_begin_copies(context->backend.plugin);
    for (size_t i = 0; i < call->n; i++)
        if (call->items[i].n_tokens <= context->layout.rewind_tokens)
            hy_state_keep_present(&call->items[i].session->state,
                                  context->lists.progress[i].begin);
    hy_store_end_copies(context->backend.plugin);
    hy_store_begin_copies(context->backend.plugin);
    for (size_t i = 0; i < call->n; i++)
        commit_recurrent(call, i, &n_spares);
    hy_store_end_copies(context->backend.plugin);
}

/* Lists the snapshots taken on the way, oldest first, as far as the budget goes. */
static void list_snapshots(hymba_session *session, struct hy_snapshot *newest)
{
    struct hy_snapshot *oldest = NULL;
    while (newest) { /* the chain stands newest first */
        struct hy_snapshot *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        struct hy_snapshot *next = oldest->next;
        oldest->next = NULL;
        if (hy_snapshot_list_make_room(&session->snapshots, oldest->bytes)) {
            hy_snapshot_list_add(&session->snapshots, oldest);
        } else {
            hy_log(session->memory, HYMBA_LOG_WARNING,
                   "an automatic snapshot does not fit the snapshot_budget and is dropped");
            hy_snapshot_release(oldest);
        }
        oldest = next;
    }
}

static void commit(struct call *call)
{
    commit_all_recurrent(call);
    for (size_t i = 0; i < call->n; i++) {
        const struct hy_item *item = &call->items[i];
        hymba_session *session = item->session;
        hy_state_drop_unseen(&session->state);
        list_snapshots(session, call->context->lists.progress[i].snapshots);
        memcpy(session->tokens + session->n_tokens, item->tokens,
               item->n_tokens * sizeof *item->tokens);
        session->n_tokens += item->n_tokens;
        session->n_changes++;
        session->logits_rows = logits_rows(item);
        session->logits_of_last = session->logits_rows > 0;
        if (item->sampler)
            *item->token = hy_sampler_take(item->sampler);
    }
}

static void roll_back(struct call *call)
{
    struct hy_plugin *plugin = call->context->backend.plugin;
    hy_store_finish(plugin, NULL); /* a device takes no work before its failure was told */
    hy_store_begin_copies(plugin);
    for (size_t i = 0; i < call->n; i++) {
        const struct hy_item_progress *progress = &call->context->lists.progress[i];
        hymba_session *session = call->items[i].session;
        if (progress->undo)
            hy_state_restore_undo(&session->state, progress->undo, progress->begin,
                                  progress->ring_first);
        for (struct hy_snapshot *next, *taken = progress->snapshots; taken; taken = next) {
            next = taken->next;
            hy_snapshot_release(taken);
        }
        session->state.position = progress->begin;
        session->state.ring_first = progress->ring_first;
        session->logits_rows = 0; /* their memory may hold the failed call's */
        session->logits_of_last = false;
    }
    hy_store_end_copies(plugin);
}

/* Of what all ranks must have alike; alone none is needed. */
static uint64_t digest(const struct call *call)
{
    uint64_t digest = 0;
    if (call->context->ranks.world_size == 1)
        return digest;
    for (size_t i = 0; i < call->n; i++) {
        const struct hy_item *item = &call->items[i];
        const hymba_session *session = item->session;
        uint64_t counts[] = {item->n_tokens, session->n_tokens, session->state.position,
                             session->snapshots.interval};
        digest = hy_digest(digest, counts, sizeof counts);
        digest = hy_digest(digest, item->tokens, item->n_tokens * sizeof *item->tokens);
    }
    return digest;
}

hymba_status hy_decode(hymba_context *context, const struct hy_item *items, size_t n,
                       hymba_error *error)
{
    struct call call = {.context = context, .items = items, .n = n};
    hymba_status status = reserve(&call, error);
    status = hy_ranks_vote(context, HY_VOTE_CALL, status == HYMBA_OK ? digest(&call) : 0, status,
                           error);
    if (status != HYMBA_OK)
        return status;
    for (size_t i = 0; i < n; i++)
        if (items[i].log_probabilities)
            items[i].log_probabilities[0] = hy_step_log_probability(
                hy_session_last_logits(items[i].session),
                context->model->plan.config.vocabulary_size, items[i].tokens[0]);
    hy_kernel_times_begin(context);
    begin_items(&call);
    status = run_steps(&call, error);
    if (status == HYMBA_OK)
        commit(&call);
    else
        roll_back(&call);
    hy_kernel_times_end(context);
    return status;
}

/* The next rows of the meta tokens. */
static hymba_status run_meta_step(hymba_context *context, struct hy_step_sequence *sequence,
                                  hymba_error *error)
{
    hymba_status status = hy_forward(context, sequence, 1, error);
    if (status == HYMBA_OK)
        status = hy_store_finish(context->backend.plugin, error);
    return hy_ranks_vote(context, HY_VOTE_STEP, 0, status, error);
}

static hymba_status reserve_meta(hymba_context *context, const struct hy_state *state,
                                 hymba_error *error)
{
    hymba_status status = hy_context_reserve_keys(context, 0, error);
    if (status == HYMBA_OK)
        status = reserve_steps(context, 1, 0, hy_state_max_spans(state), error);
    return hy_ranks_vote(context, HY_VOTE_CALL, 0, status, error);
}

hymba_status hy_decode_meta(hymba_context *context, hymba_error *error)
{
    struct hy_state state;
    size_t n_meta = (size_t)context->layout.n_meta;
    hy_state_begin_meta(&state, context->meta);
    hymba_status status = reserve_meta(context, &state, error);
    if (status != HYMBA_OK)
        return status;
    hy_state_load_recurrent(&state, context->lists.recurrent);
    while (state.position < n_meta) {
        struct hy_step_sequence sequence = {
            .state = &state,
            .recurrent = context->lists.recurrent,
            .segment = {0, hy_min_size(n_meta - (size_t)state.position, context->workspace.rows)},
        };
        status = run_meta_step(context, &sequence, error);
        if (status != HYMBA_OK)
            return status;
        hy_store_begin_copies(context->backend.plugin);
        hy_state_append(&state, context->workspace.step_kv, 0, sequence.segment.n_rows);
        hy_store_end_copies(context->backend.plugin);
        status = hy_progress(&context->memory, HYMBA_PHASE_META, state.position, n_meta, error);
        status = hy_ranks_vote(context, HY_VOTE_END, 0, status, error);
        if (status != HYMBA_OK)
            return status;
    }
    hy_state_store_recurrent(&state, context->lists.recurrent);
    status = hy_store_finish(context->backend.plugin, error);
    return hy_ranks_vote(context, HY_VOTE_END, 0, status, error);
}
