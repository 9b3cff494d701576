#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "run/saved_format.h"
#include "run/saved_session.h"

struct hy_saved_parameters hy_saved_describe(const hymba_context *context)
{
    const struct hy_state_layout *layout = &context->layout;
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
    const hymba_session *session;
    const struct hy_state_layout *layout;
    struct hy_container_writer writer;
    struct hy_saved_blocks table;
    unsigned char *staging; /* [HY_SAVED_PIECE] with a plug-in's device */
};

static size_t used_blocks(const struct saver *saver, const struct hy_state *state)
{
    return hy_saved_block_count(saver->layout, state->position - saver->layout->n_meta,
                                state->first_block);
}

static size_t find_block(const struct hy_saved_blocks *table, const struct hy_block *block)
{
    size_t i = 0;
    while (i < table->count && table->blocks[i] != block)
        i++;
    return i;
}

static void add_blocks(struct saver *saver, const struct hy_state *state)
{
    for (size_t i = 0; i < used_blocks(saver, state); i++)
        if (find_block(&saver->table, state->blocks[i]) == saver->table.count)
            saver->table.blocks[saver->table.count++] = state->blocks[i];
}

static hymba_status list_blocks(struct saver *saver, hymba_error *error)
{
    const struct hy_snapshot_list *snapshots = &saver->session->snapshots;
    size_t most = used_blocks(saver, &saver->session->state);
    for (size_t i = 0; i < snapshots->count; i++)
        most += used_blocks(saver, &snapshots->items[i]->state);
    saver->table.blocks =
        hy_alloc_array(saver->session->memory, most + 1, sizeof *saver->table.blocks);
    if (!saver->table.blocks)
        return hy_no_memory(error, most * sizeof *saver->table.blocks, "the list of blocks");
    add_blocks(saver, &saver->session->state);
    for (size_t i = 0; i < snapshots->count; i++)
        add_blocks(saver, &snapshots->items[i]->state);
    return HYMBA_OK;
}

/* A part of the chunk that was begun. */
static hymba_status put(struct saver *saver, const void *data, size_t size, hymba_error *error)
{
    hymba_status status = hy_context_check_cancel(saver->session->context, error);
    return status == HYMBA_OK ? hy_container_put(&saver->writer, data, size, error) : status;
}

/* A part that lies where the context computes. */
static hymba_status put_stored(struct saver *saver, const unsigned char *data, size_t size,
                               hymba_error *error)
{
    struct hy_plugin *plugin = saver->session->context->backend.plugin;
    hymba_status status = HYMBA_OK;
    if (!plugin)
        return put(saver, data, size, error);
    for (size_t done = 0, piece; status == HYMBA_OK && done < size; done += piece) {
        piece = hy_min_size(size - done, HY_SAVED_PIECE);
        hy_store_get(plugin, saver->staging, data + done, piece);
        status = hy_store_finish(plugin, error);
        if (status == HYMBA_OK)
            status = put(saver, saver->staging, piece, error);
    }
    return status;
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
    struct hy_saved_parameters parameters = hy_saved_describe(session->context);
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

static hymba_status put_blocks(struct saver *saver, hymba_error *error)
{
    size_t bytes = saver->layout->block_bytes;
    hymba_status status = hy_container_chunk(&saver->writer, HY_TAG_BLOCKS,
                                             (uint64_t)saver->table.count * bytes, error);
    for (size_t i = 0; status == HYMBA_OK && i < saver->table.count; i++)
        status = put_stored(saver, saver->table.blocks[i]->data, bytes, error);
    return status;
}

static hymba_status put_fixed(struct saver *saver, const struct hy_state *state, bool snapshot,
                              hymba_error *error)
{
    const struct hy_state_layout *layout = saver->layout;
    hymba_status status = put_stored(saver, state->fixed, layout->ring_bytes, error);
    if (status == HYMBA_OK)
        status = put_stored(saver, state->recurrent, layout->recurrent_bytes, error);
    if (status == HYMBA_OK && !snapshot)
        status = put_stored(saver, state->fixed + layout->ring_bytes, layout->history_bytes,
                            error);
    return status;
}

static hymba_status put_state(struct saver *saver, const struct hy_state *state,
                              const struct hy_snapshot *snapshot, hymba_error *error)
{
    const struct hy_state_layout *layout = saver->layout;
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
        uint64_t number = find_block(&saver->table, state->blocks[i]);
        status = put(saver, &number, sizeof number, error);
    }
    if (status == HYMBA_OK && kept > 0)
        status = put(saver, state->kept, kept * sizeof *state->kept, error);
    if (status == HYMBA_OK)
        status = put_fixed(saver, state, snapshot != NULL, error);
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
        status = put_state(saver, &snapshot->state, snapshot, error);
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
        status = hy_container_chunk(&saver->writer, HY_TAG_META, saver->layout->meta_bytes, error);
    if (status == HYMBA_OK)
        status = put_stored(saver, session->state.meta->data, saver->layout->meta_bytes, error);
    if (status == HYMBA_OK)
        status = put_blocks(saver, error);
    if (status == HYMBA_OK)
        status = put_state(saver, &session->state, NULL, error);
    if (status == HYMBA_OK && session->logits_rows > 0 && session->logits_of_last)
        status = put_logits(saver, hy_session_last_logits(session), error);
    if (status == HYMBA_OK)
        status = put_snapshots(saver, error);
    if (status == HYMBA_OK && sampler)
        status = put_sampler(saver, sampler, error);
    return status == HYMBA_OK ? hy_container_end(&saver->writer, error) : status;
}

hymba_status hy_saved_check_ranks(const hymba_context *context, hymba_error *error)
{
    if (context->ranks.world_size == 1)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                   "sessions of a model on %u devices cannot be saved or loaded by this version",
                   (unsigned)context->ranks.world_size);
}

hymba_status hy_session_save(const hymba_session *session, const hymba_sampler *sampler,
                             hymba_write write, void *user, hymba_reuse_info *info,
                             hymba_error *error)
{
    struct saver saver = {.session = session, .layout = session->state.layout};
    hymba_status status = hy_saved_check_ranks(session->context, error);
    if (status == HYMBA_OK)
        status = list_blocks(&saver, error);
    if (status == HYMBA_OK && session->context->backend.plugin) {
        saver.staging = hy_alloc(session->memory, HY_SAVED_PIECE);
        if (!saver.staging)
            status = hy_no_memory(error, HY_SAVED_PIECE, "copying a session");
    }
    if (status == HYMBA_OK)
        status = hy_container_begin(session->memory, write, user, &saver.writer, error);
    if (status == HYMBA_OK) {
        status = put_all(&saver, sampler, error);
        hy_container_writer_free(&saver.writer);
    }
    hy_free(session->memory, saver.table.blocks);
    hy_free(session->memory, saver.staging);
    info->reused_tokens = session->n_tokens;
    info->copied_bytes = saver.writer.written;
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

hymba_status hy_session_save_file(const hymba_session *session, const hymba_sampler *sampler,
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
