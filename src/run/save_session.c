#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "run/saved_format.h"
#include "run/saved_session.h"

struct hy_saved_parameters hy_saved_describe(const struct hy_saved_parts *parts)
{
    const hymba_context *context = parts->context;
    const struct hy_state_layout *layout = parts->layout;
    return (struct hy_saved_parameters){
        .fingerprint = hy_model_fingerprint(context->model),
        .n_meta = layout->n_meta,
        .window = layout->window,
        .rewind_tokens = layout->rewind_tokens,
        .block_tokens = HY_BLOCK_TOKENS,
        .fixed_bytes = layout->fixed_bytes,
        .block_bytes = layout->block_bytes,
        .meta_bytes = layout->meta_bytes,
        .vocabulary = context->model->plan.config.vocabulary_size,
        .cache_type = (uint32_t)layout->cache_type,
        .state_type = (uint32_t)layout->state_type,
    };
}

size_t hy_saved_block_count(const struct hy_state_layout *layout, uint64_t length,
                            uint64_t first_block)
{
    if (layout->block_bytes == 0 || length == 0)
        return 0;
    return (size_t)((length - 1) / HY_BLOCK_TOKENS + 1 - first_block);
}

struct saver {
    hymba_session *session;
    struct hy_saved_parts parts;
    struct hy_container_writer writer;
    struct hy_saved_blocks table;
};

static struct hy_rank_states states_of_session(const struct saver *saver)
{
    struct hy_rank_states states;
    for (uint32_t rank = 0; rank < saver->parts.n_ranks; rank++)
        states.list[rank] = &hy_session_of_rank(saver->session, rank)->state;
    return states;
}

/* Other ranks have snapshots of the same lengths. */
static struct hy_rank_states states_of_snapshot(const struct saver *saver,
                                                const struct hy_snapshot *snapshot)
{
    struct hy_rank_states states;
    for (uint32_t rank = 0; rank < saver->parts.n_ranks; rank++) {
        const struct hy_snapshot_list *list =
            &hy_session_of_rank(saver->session, rank)->snapshots;
        states.list[rank] = &list->items[hy_snapshot_list_find(list, snapshot->length)]->state;
    }
    return states;
}

static size_t used_blocks(const struct saver *saver, const struct hy_state *state)
{
    return hy_saved_block_count(saver->parts.layout,
                                state->position - saver->parts.layout->n_meta,
                                state->first_block);
}

/* Whether a block of the table is the sequence's, on every rank. */
static bool is_block(const struct hy_saved_blocks *table, size_t number,
                     const struct hy_rank_states *states, size_t index)
{
    size_t rank = 0;
    while (rank < table->n_ranks &&
           table->blocks[number * table->n_ranks + rank] == states->list[rank]->blocks[index])
        rank++;
    return rank == table->n_ranks;
}

static size_t find_block(const struct hy_saved_blocks *table, const struct hy_rank_states *states,
                         size_t index)
{
    size_t i = 0;
    while (i < table->count && !is_block(table, i, states, index))
        i++;
    return i;
}

static void add_blocks(struct saver *saver, struct hy_rank_states states)
{
    struct hy_saved_blocks *table = &saver->table;
    for (size_t i = 0; i < used_blocks(saver, states.list[0]); i++) {
        if (find_block(table, &states, i) < table->count)
            continue;
        for (size_t rank = 0; rank < table->n_ranks; rank++)
            table->blocks[table->count * table->n_ranks + rank] = states.list[rank]->blocks[i];
        table->count++;
    }
}

static hymba_status list_blocks(struct saver *saver, hymba_error *error)
{
    const struct hy_snapshot_list *snapshots = &saver->session->snapshots;
    size_t most = used_blocks(saver, &saver->session->state), n_ranks = saver->parts.n_ranks;
    for (size_t i = 0; i < snapshots->count; i++)
        most += used_blocks(saver, &snapshots->items[i]->state);
    saver->table.n_ranks = n_ranks;
    saver->table.blocks = hy_alloc_array(saver->session->memory, most + 1,
                                         n_ranks * sizeof *saver->table.blocks);
    if (!saver->table.blocks)
        return hy_no_memory(error, most * n_ranks * sizeof *saver->table.blocks,
                            "the list of blocks");
    add_blocks(saver, states_of_session(saver));
    for (size_t i = 0; i < snapshots->count; i++)
        add_blocks(saver, states_of_snapshot(saver, snapshots->items[i]));
    return HYMBA_OK;
}

/* A part of the chunk that was begun. */
static hymba_status put(struct saver *saver, const void *data, size_t size, hymba_error *error)
{
    hymba_status status = hy_context_check_cancel(saver->session->context, error);
    return status == HYMBA_OK ? hy_container_put(&saver->writer, data, size, error) : status;
}

/* A place that lies where the context computes. */
static hymba_status put_place(struct saver *saver, enum hy_state_place place,
                              const struct hy_rank_places *places, hymba_error *error)
{
    const struct hy_saved_parts *parts = &saver->parts;
    size_t size = hy_layout_place_bytes(parts->layout, place);
    hymba_status status = HYMBA_OK;
    if (!parts->staging)
        return put(saver, places->data[0], size, error);
    for (size_t done = 0, piece; status == HYMBA_OK && done < size; done += piece) {
        piece = hy_min_size(size - done, HY_SAVED_PIECE);
        status = hy_saved_get(parts, (struct hy_saved_window){place, done, piece}, places,
                              parts->staging, error);
        if (status == HYMBA_OK)
            status = put(saver, parts->staging, piece, error);
    }
    return status;
}

static hymba_status put_place_of(struct saver *saver, enum hy_state_place place,
                                 const struct hy_rank_states *states, hymba_error *error)
{
    struct hy_rank_places places = hy_saved_places(&saver->parts, states, place);
    return put_place(saver, place, &places, error);
}

static hymba_status put_chunk(struct saver *saver, uint32_t tag, const void *data, size_t size,
                              hymba_error *error)
{
    hymba_status status = hy_container_chunk(&saver->writer, tag, size, error);
    return status == HYMBA_OK ? put(saver, data, size, error) : status;
}

static hymba_status put_parameters(struct saver *saver, bool sampler, hymba_error *error)
{
    const hymba_session *session = saver->session;
    struct hy_saved_parameters parameters = hy_saved_describe(&saver->parts);
    parameters.n_tokens = session->n_tokens;
    parameters.max_tokens = session->max_tokens;
    parameters.limit_policy = session->limit_policy;
    parameters.snapshot_interval = session->snapshots.interval;
    parameters.snapshot_budget = session->snapshots.budget;
    parameters.has_logits = session->logits_rows > 0 && session->logits_of_last;
    parameters.has_sampler = sampler;
    parameters.n_snapshots = (uint32_t)session->snapshots.count;
    parameters.n_blocks = saver->table.count;
    return put_chunk(saver, HY_TAG_PARAMETERS, &parameters, sizeof parameters, error);
}

static hymba_status put_meta(struct saver *saver, hymba_error *error)
{
    struct hy_rank_states states = states_of_session(saver);
    hymba_status status = hy_container_chunk(&saver->writer, HY_TAG_META,
                                             saver->parts.layout->meta_bytes, error);
    return status == HYMBA_OK ? put_place_of(saver, HY_PLACE_META, &states, error) : status;
}

static hymba_status put_blocks(struct saver *saver, hymba_error *error)
{
    uint64_t size = (uint64_t)saver->table.count * saver->parts.layout->block_bytes;
    hymba_status status = hy_container_chunk(&saver->writer, HY_TAG_BLOCKS, size, error);
    for (size_t i = 0; status == HYMBA_OK && i < saver->table.count; i++) {
        struct hy_rank_places places = hy_saved_block_places(&saver->table, i);
        status = put_place(saver, HY_PLACE_BLOCK, &places, error);
    }
    return status;
}

static hymba_status put_fixed(struct saver *saver, const struct hy_rank_states *states,
                              bool snapshot, hymba_error *error)
{
    hymba_status status = put_place_of(saver, HY_PLACE_RINGS, states, error);
    if (status == HYMBA_OK)
        status = put_place_of(saver, HY_PLACE_RECURRENT, states, error);
    if (status == HYMBA_OK && !snapshot)
        status = put_place_of(saver, HY_PLACE_HISTORY, states, error);
    return status;
}

/* snapshot: whose states these are; NULL: the session's. */
static hymba_status put_state(struct saver *saver, const struct hy_snapshot *snapshot,
                              hymba_error *error)
{
    const struct hy_state_layout *layout = saver->parts.layout;
    const struct hy_rank_states states =
        snapshot ? states_of_snapshot(saver, snapshot) : states_of_session(saver);
    const struct hy_state *state = states.list[0];
    size_t n = used_blocks(saver, state), kept = snapshot ? 0 : layout->rewind_tokens;
    struct hy_saved_state saved = {
        .length = state->position - layout->n_meta,
        .ring_first = state->ring_first,
        .first_block = state->first_block,
        .n_blocks = n,
    };
    if (snapshot) {
        saved.automatic = snapshot->automatic;
        saved.has_logits = snapshot->logits != NULL;
        memcpy(saved.name, snapshot->name, sizeof saved.name);
    }
    uint64_t size = sizeof saved + n * sizeof(uint64_t) + kept * sizeof *state->kept +
                    hy_saved_fixed_bytes(layout, snapshot != NULL);
    hymba_status status = hy_container_chunk(
        &saver->writer, snapshot ? HY_TAG_SNAPSHOT : HY_TAG_STATE, size, error);
    if (status == HYMBA_OK)
        status = put(saver, &saved, sizeof saved, error);
    for (size_t i = 0; status == HYMBA_OK && i < n; i++) {
        uint64_t number = find_block(&saver->table, &states, i);
        status = put(saver, &number, sizeof number, error);
    }
    if (status == HYMBA_OK && kept > 0)
        status = put(saver, state->kept, kept * sizeof *state->kept, error);
    if (status == HYMBA_OK)
        status = put_fixed(saver, &states, snapshot != NULL, error);
    return status;
}

static hymba_status put_logits(struct saver *saver, const float *logits, hymba_error *error)
{
    size_t vocabulary = saver->session->context->model->plan.config.vocabulary_size;
    return put_chunk(saver, HY_TAG_LOGITS, logits, vocabulary * sizeof *logits, error);
}

static hymba_status put_snapshots(struct saver *saver, hymba_error *error)
{
    const struct hy_snapshot_list *list = &saver->session->snapshots;
    hymba_status status = HYMBA_OK;
    for (size_t i = 0; status == HYMBA_OK && i < list->count; i++) {
        const struct hy_snapshot *snapshot = list->items[i];
        status = put_state(saver, snapshot, error);
        if (status == HYMBA_OK && snapshot->logits)
            status = put_logits(saver, snapshot->logits, error);
    }
    return status;
}

static hymba_status put_sampler(struct saver *saver, const hymba_sampler *sampler,
                                hymba_error *error)
{
    size_t size;
    hymba_status status = hy_sampler_state_size(sampler, &size, error);
    if (status != HYMBA_OK)
        return status;
    unsigned char *state = hy_alloc(saver->session->memory, size);
    if (!state)
        return hy_no_memory(error, size, "the sampler's state");
    hy_sampler_write_state(sampler, state);
    status = put_chunk(saver, HY_TAG_SAMPLER, state, size, error);
    hy_free(saver->session->memory, state);
    return status;
}

static hymba_status put_all(struct saver *saver, const hymba_sampler *sampler, hymba_error *error)
{
    const hymba_session *session = saver->session;
    hymba_status status = put_parameters(saver, sampler != NULL, error);
    if (status == HYMBA_OK)
        status = put_chunk(saver, HY_TAG_TOKENS, session->tokens,
                           session->n_tokens * sizeof *session->tokens, error);
    if (status == HYMBA_OK)
        status = put_meta(saver, error);
    if (status == HYMBA_OK)
        status = put_blocks(saver, error);
    if (status == HYMBA_OK)
        status = put_state(saver, NULL, error);
    if (status == HYMBA_OK && session->logits_rows > 0 && session->logits_of_last)
        status = put_logits(saver, hy_session_last_logits(session), error);
    if (status == HYMBA_OK)
        status = put_snapshots(saver, error);
    if (status == HYMBA_OK && sampler)
        status = put_sampler(saver, sampler, error);
    return status == HYMBA_OK ? hy_container_end(&saver->writer, error) : status;
}

/* With parts, which the caller frees. */
static hymba_status save_with(struct saver *saver, const hymba_sampler *sampler,
                              hymba_write write, void *user, hymba_reuse_info *info,
                              hymba_error *error)
{
    hymba_status status = list_blocks(saver, error);
    if (status == HYMBA_OK)
        status = hy_container_begin(saver->session->memory, write, user, &saver->writer, error);
    if (status == HYMBA_OK) {
        status = put_all(saver, sampler, error);
        hy_container_writer_free(&saver->writer);
    }
    hy_free(saver->session->memory, saver->table.blocks);
    info->reused_tokens = saver->session->n_tokens;
    info->copied_bytes = saver->writer.written;
    return status;
}

hymba_status hy_session_save(hymba_session *session, const hymba_sampler *sampler,
                             hymba_write write, void *user, hymba_reuse_info *info,
                             hymba_error *error)
{
    struct saver saver = {.session = session};
    hymba_status status =
        hy_saved_parts_create(session->context, session->memory, 1, &saver.parts, error);
    if (status == HYMBA_OK)
        status = save_with(&saver, sampler, write, user, info, error);
    hy_saved_parts_free(&saver.parts);
    return status;
}

/* A file writer behind the container's write function; keeps the file's own error. */
struct file_target {
    struct hy_writer writer;
    hymba_status status;
    hymba_error *error;
};

static int32_t write_to_file(void *user, const void *data, size_t size)
{
    struct file_target *target = user;
    target->status = hy_writer_write(&target->writer, data, size, target->error);
    return target->status != HYMBA_OK;
}

hymba_status hy_session_save_file(hymba_session *session, const hymba_sampler *sampler,
                                  const char *path, hymba_reuse_info *info, hymba_error *error)
{
    hymba_error file_error = {.struct_size = sizeof file_error};
    struct file_target target = {.error = &file_error};
    hymba_status status = hy_saved_check_ranks(session->context, error);
    if (status == HYMBA_OK)
        status = hy_writer_open(session->memory, path, &target.writer, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_session_save(session, sampler, write_to_file, &target, info, error);
    if (target.status != HYMBA_OK) /* the file's own sentence says more */
        status = hy_fail_again(error, &file_error);
    if (status == HYMBA_OK)
        status = hy_writer_finish(&target.writer, error);
    hy_writer_abandon(&target.writer);
    return status;
}
