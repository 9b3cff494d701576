#include "run/saved_session.h"

#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "format/container.h"

enum {
    TAG_PARAMETERS = HY_TAG('P', 'A', 'R', 'M'),
    TAG_TOKENS = HY_TAG('T', 'O', 'K', 'N'),
    TAG_META = HY_TAG('M', 'E', 'T', 'A'),
    TAG_BLOCKS = HY_TAG('B', 'L', 'K', 'S'),
    TAG_STATE = HY_TAG('S', 'T', 'A', 'T'),
    TAG_LOGITS = HY_TAG('L', 'O', 'G', 'T'),
    TAG_SNAPSHOT = HY_TAG('S', 'N', 'A', 'P'),
    TAG_SAMPLER = HY_TAG('S', 'A', 'M', 'P'),
    MAX_SAMPLER_STATE = 64 << 20,
    MAX_SNAPSHOTS = 1 << 20
};

/* The first chunk. What of it names the model and the context must equal the loading context's. */
struct saved_parameters {
    uint64_t fingerprint;
    uint64_t n_meta, window, rewind_tokens, block_tokens;
    uint64_t fixed_bytes, block_bytes, meta_bytes, vocabulary;
    uint32_t cache_type, state_type;
    /* of the session */
    uint64_t n_tokens, max_tokens, snapshot_interval, snapshot_budget;
    int32_t limit_policy;
    uint32_t has_logits, has_sampler, n_snapshots;
    uint64_t n_blocks; /* distinct ones, of the session and its snapshots */
};

/* What every state in the file begins with; then its block numbers and its fixed part follow. */
struct saved_state {
    uint64_t length, ring_first, first_block, n_blocks;
    /* of snapshots */
    uint32_t automatic, has_logits;
    char name[HY_SNAPSHOT_NAME];
};

static struct saved_parameters describe(const hymba_context *context)
{
    const struct hy_state_layout *layout = &context->layout;
    return (struct saved_parameters){
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

static size_t blocks_for(const struct hy_state_layout *layout, uint64_t length,
                         uint64_t first_block)
{
    if (layout->block_bytes == 0 || length == 0)
        return 0;
    return (size_t)((length - 1) / HY_BLOCK_TOKENS + 1 - first_block);
}

/* The bytes of a fixed part that are written: a snapshot has no states to step back to. */
static size_t fixed_part(const struct hy_state_layout *layout, bool snapshot)
{
    return snapshot ? layout->history_offset : layout->fixed_bytes;
}

/* ---------------------------------------------------------------- saving */

/* The blocks of a session and its snapshots, each once. */
struct block_table {
    struct hy_block **blocks;
    size_t count;
};

struct saver {
    const hymba_session *session;
    const struct hy_state_layout *layout;
    struct hy_container_writer writer;
    struct block_table table;
};

static size_t used_blocks(const struct saver *saver, const struct hy_state *state)
{
    return blocks_for(saver->layout, state->position - saver->layout->n_meta, state->first_block);
}

static size_t find_block(const struct block_table *table, const struct hy_block *block)
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

static hymba_status put_chunk(struct saver *saver, uint32_t tag, const void *data, size_t size,
                              hymba_error *error)
{
    hymba_status status = hy_container_chunk(&saver->writer, tag, size, error);
    return status == HYMBA_OK ? hy_container_put(&saver->writer, data, size, error) : status;
}

static hymba_status put_parameters(struct saver *saver, bool sampler, hymba_error *error)
{
    const hymba_session *session = saver->session;
    struct saved_parameters parameters = describe(session->context);
    parameters.n_tokens = session->n_tokens;
    parameters.max_tokens = session->max_tokens;
    parameters.limit_policy = session->limit_policy;
    parameters.snapshot_interval = session->snapshots.interval;
    parameters.snapshot_budget = session->snapshots.budget;
    parameters.has_logits = session->logits_rows > 0 && session->logits_of_last;
    parameters.has_sampler = sampler;
    parameters.n_snapshots = (uint32_t)session->snapshots.count;
    parameters.n_blocks = saver->table.count;
    return put_chunk(saver, TAG_PARAMETERS, &parameters, sizeof parameters, error);
}

static hymba_status put_blocks(struct saver *saver, hymba_error *error)
{
    size_t bytes = saver->layout->block_bytes;
    hymba_status status = hy_container_chunk(&saver->writer, TAG_BLOCKS,
                                             (uint64_t)saver->table.count * bytes, error);
    for (size_t i = 0; status == HYMBA_OK && i < saver->table.count; i++) {
        status = hy_context_check_cancel(saver->session->context, error);
        if (status == HYMBA_OK)
            status = hy_container_put(&saver->writer, saver->table.blocks[i]->data, bytes, error);
    }
    return status;
}

static hymba_status put_state(struct saver *saver, const struct hy_state *state,
                              const struct hy_snapshot *snapshot, hymba_error *error)
{
    const struct hy_state_layout *layout = saver->layout;
    size_t n = used_blocks(saver, state), kept = snapshot ? 0 : layout->rewind_tokens;
    struct saved_state saved = {
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
                    fixed_part(layout, snapshot != NULL);
    hymba_status status = hy_container_chunk(
        &saver->writer, snapshot ? TAG_SNAPSHOT : TAG_STATE, size, error);
    if (status == HYMBA_OK)
        status = hy_container_put(&saver->writer, &saved, sizeof saved, error);
    for (size_t i = 0; status == HYMBA_OK && i < n; i++) {
        uint64_t number = find_block(&saver->table, state->blocks[i]);
        status = hy_container_put(&saver->writer, &number, sizeof number, error);
    }
    if (status == HYMBA_OK && kept > 0)
        status = hy_container_put(&saver->writer, state->kept, kept * sizeof *state->kept, error);
    if (status == HYMBA_OK)
        status = hy_container_put(&saver->writer, state->fixed,
                                  fixed_part(layout, snapshot != NULL), error);
    return status;
}

static hymba_status put_logits(struct saver *saver, const float *logits, hymba_error *error)
{
    size_t vocabulary = saver->session->context->model->plan.config.vocabulary_size;
    return put_chunk(saver, TAG_LOGITS, logits, vocabulary * sizeof *logits, error);
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
    status = put_chunk(saver, TAG_SAMPLER, state, size, error);
    hy_free(saver->session->memory, state);
    return status;
}

static hymba_status put_all(struct saver *saver, const hymba_sampler *sampler, hymba_error *error)
{
    const hymba_session *session = saver->session;
    hymba_status status = put_parameters(saver, sampler != NULL, error);
    if (status == HYMBA_OK)
        status = put_chunk(saver, TAG_TOKENS, session->tokens,
                           session->n_tokens * sizeof *session->tokens, error);
    if (status == HYMBA_OK)
        status = put_chunk(saver, TAG_META, session->state.meta->data, saver->layout->meta_bytes,
                           error);
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

hymba_status hy_session_save(const hymba_session *session, const hymba_sampler *sampler,
                             hymba_write write, void *user, hymba_reuse_info *info,
                             hymba_error *error)
{
    struct saver saver = {.session = session, .layout = session->state.layout};
    hymba_status status = list_blocks(&saver, error);
    if (status == HYMBA_OK)
        status = hy_container_begin(session->memory, write, user, &saver.writer, error);
    if (status == HYMBA_OK) {
        status = put_all(&saver, sampler, error);
        hy_container_writer_free(&saver.writer);
    }
    hy_free(session->memory, saver.table.blocks);
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
    hymba_status status = hy_writer_open(session->memory, path, &target.writer, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_session_save(session, sampler, write_to_file, &target, info, error);
    if (target.status != HYMBA_OK) /* the file's own sentence says more */
        status = hy_fail_system(error, target.status, file_error.system_code, "%s",
                                file_error.message);
    if (status == HYMBA_OK)
        status = hy_writer_finish(&target.writer, error);
    hy_writer_abandon(&target.writer);
    return status;
}

/* --------------------------------------------------------------- loading */

struct loader {
    hymba_context *context;
    const struct hy_state_layout *layout;
    struct hy_container_reader reader;
    struct saved_parameters parameters;
    struct block_table table;
    struct hy_meta_state *meta;
    hymba_session *session;
};

static hymba_status wrong(const struct loader *loader, const char *what, uint64_t found,
                          hymba_error *error)
{
    return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: %s is %llu, which cannot be",
                   loader->reader.name, what, (unsigned long long)found);
}

static hymba_status differs(const struct loader *loader, const char *what, uint64_t found,
                            uint64_t expected, hymba_error *error)
{
    if (found == expected)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_STATE,
                   "%s: was saved with another %s: found %llu, the context has %llu",
                   loader->reader.name, what, (unsigned long long)found,
                   (unsigned long long)expected);
}

/* Takes a chunk of exactly that size. */
static hymba_status take_chunk(struct loader *loader, uint32_t tag, void *data, size_t size,
                               hymba_error *error)
{
    uint64_t found;
    hymba_status status = hy_container_expect(&loader->reader, tag, &found, error);
    if (status == HYMBA_OK && found != size)
        status = hy_fail(error, HYMBA_ERROR_FORMAT,
                         "%s: chunk %.4s: found %llu bytes, expected %zu", loader->reader.name,
                         (const char *)&tag, (unsigned long long)found, size);
    return status == HYMBA_OK ? hy_container_take(&loader->reader, data, size, error) : status;
}

static hymba_status check_parameters(struct loader *loader, hymba_error *error)
{
    const struct saved_parameters *found = &loader->parameters;
    struct saved_parameters here = describe(loader->context);
    const struct {
        const char *name;
        uint64_t found, expected;
    } fields[] = {
        {"model", found->fingerprint, here.fingerprint},
        {"cache_type", found->cache_type, here.cache_type},
        {"state_type", found->state_type, here.state_type},
        {"rewind_tokens", found->rewind_tokens, here.rewind_tokens},
        {"number of meta tokens", found->n_meta, here.n_meta},
        {"window", found->window, here.window},
        {"block size", found->block_tokens, here.block_tokens},
        {"vocabulary size", found->vocabulary, here.vocabulary},
        {"size of the fixed part", found->fixed_bytes, here.fixed_bytes},
        {"size of a block", found->block_bytes, here.block_bytes},
        {"size of the meta part", found->meta_bytes, here.meta_bytes},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        hymba_status status =
            differs(loader, fields[i].name, fields[i].found, fields[i].expected, error);
        if (status != HYMBA_OK)
            return status;
    }
    /* Sizes that the file's own length bounds: what is allocated cannot exceed what is there by
     * more than zlib's best ratio. */
    uint64_t bytes, most = (uint64_t)loader->reader.size * 1100;
    if (!hy_mul_u64(found->n_tokens, sizeof(int32_t), &bytes) || bytes > most)
        return wrong(loader, "the number of tokens", found->n_tokens, error);
    if (!hy_mul_u64(found->n_blocks, hy_max_size(loader->layout->block_bytes, 1), &bytes) ||
        bytes > most)
        return wrong(loader, "the number of blocks", found->n_blocks, error);
    if (found->n_snapshots > MAX_SNAPSHOTS)
        return wrong(loader, "the number of snapshots", found->n_snapshots, error);
    return HYMBA_OK;
}

static hymba_status create_session(struct loader *loader, const hymba_session_params *params,
                                   hymba_error *error)
{
    const struct saved_parameters *saved = &loader->parameters;
    hymba_session_params as_saved = {
        .max_tokens = saved->max_tokens,
        .limit_policy = saved->limit_policy,
        .snapshot_interval = saved->snapshot_interval,
        .snapshot_budget = saved->snapshot_budget,
    };
    if (!params)
        params = &as_saved;
    hymba_status status = hy_session_check_params(params, error);
    if (status == HYMBA_OK && params->max_tokens > 0 &&
        params->limit_policy != HYMBA_LIMIT_SLIDE && saved->n_tokens > params->max_tokens)
        status = hy_fail(error, HYMBA_ERROR_LIMIT,
                         "%s: holds %llu tokens, max_tokens is %llu", loader->reader.name,
                         (unsigned long long)saved->n_tokens,
                         (unsigned long long)params->max_tokens);
    if (status != HYMBA_OK)
        return status;
    return hy_session_create_bare(loader->context, params, &loader->session, error);
}

static hymba_status take_tokens(struct loader *loader, hymba_error *error)
{
    hymba_session *session = loader->session;
    size_t n = (size_t)loader->parameters.n_tokens;
    hymba_status status = hy_session_reserve_tokens(session, n, error);
    if (status == HYMBA_OK)
        status = take_chunk(loader, TAG_TOKENS, session->tokens, n * sizeof *session->tokens,
                            error);
    for (size_t i = 0; status == HYMBA_OK && i < n; i++)
        if (session->tokens[i] < 0 || (uint64_t)session->tokens[i] >= loader->parameters.vocabulary)
            status = wrong(loader, "a token", (uint64_t)session->tokens[i], error);
    session->n_tokens = n;
    return status;
}

/* The meta tokens' state as the file has it: shared if it is the context's own, else private to
 * this session, so that a file can touch nobody else. */
static hymba_status take_meta(struct loader *loader, hymba_error *error)
{
    hymba_context *context = loader->context;
    size_t size = loader->layout->meta_bytes;
    hymba_status status =
        hy_meta_state_create(&context->memory, loader->layout, &loader->meta, error);
    if (status == HYMBA_OK)
        status = take_chunk(loader, TAG_META, loader->meta->data, size, error);
    if (status == HYMBA_OK && context->meta_ready &&
        memcmp(loader->meta->data, context->meta->data, size) == 0) {
        hy_meta_state_release(loader->meta);
        loader->meta = hy_meta_state_retain(context->meta);
    }
    return status;
}

static hymba_status take_blocks(struct loader *loader, hymba_error *error)
{
    size_t bytes = loader->layout->block_bytes, n = (size_t)loader->parameters.n_blocks;
    uint64_t size;
    hymba_status status = hy_container_expect(&loader->reader, TAG_BLOCKS, &size, error);
    if (status == HYMBA_OK && size != (uint64_t)n * bytes)
        status = wrong(loader, "the size of the blocks", size, error);
    if (status != HYMBA_OK)
        return status;
    loader->table.blocks =
        hy_alloc_array(&loader->context->memory, n + 1, sizeof *loader->table.blocks);
    if (!loader->table.blocks)
        return hy_no_memory(error, n * sizeof *loader->table.blocks, "the list of blocks");
    while (status == HYMBA_OK && loader->table.count < n) {
        struct hy_block *block = hy_block_create(&loader->context->memory, bytes);
        if (!block)
            return hy_no_memory(error, bytes, "a block of keys and values");
        loader->table.blocks[loader->table.count++] = block;
        status = hy_container_take(&loader->reader, block->data, bytes, error);
    }
    return status;
}

/* Whether the marks of a saved state can be those of a sequence of its length. */
static hymba_status check_state(const struct loader *loader, const struct saved_state *saved,
                                hymba_error *error)
{
    const struct hy_state_layout *layout = loader->layout;
    const struct hy_state *state = &loader->session->state;
    uint64_t position = saved->length + layout->n_meta;
    uint64_t seen = saved->length < layout->window ? saved->length : layout->window;
    if (saved->length > loader->parameters.n_tokens)
        return wrong(loader, "a state's length", saved->length, error);
    if (layout->ring_rows > 0 &&
        (saved->ring_first < layout->n_meta || saved->ring_first > position - seen ||
         position - saved->ring_first > layout->ring_rows))
        return wrong(loader, "the oldest key of a ring", saved->ring_first, error);
    uint64_t dropped;
    if (!hy_mul_u64(saved->first_block, HY_BLOCK_TOKENS, &dropped) ||
        (dropped > 0 && (layout->block_bytes == 0 || dropped > saved->length)))
        return wrong(loader, "the number of dropped blocks", saved->first_block, error);
    if (saved->n_blocks != blocks_for(layout, saved->length, saved->first_block))
        return wrong(loader, "a state's number of blocks", saved->n_blocks, error);
    if (dropped > 0 && state->full_window > saved->length - dropped)
        return hy_fail(error, HYMBA_ERROR_STATE,
                       "%s: was saved while sliding and lacks its first %llu tokens: it needs "
                       "HYMBA_LIMIT_SLIDE with at most %llu max_tokens",
                       loader->reader.name, (unsigned long long)dropped,
                       (unsigned long long)(saved->length - dropped + 1));
    return HYMBA_OK;
}

static hymba_status take_block_numbers(struct loader *loader, struct hy_state *state,
                                       const struct saved_state *saved, hymba_error *error)
{
    hymba_status status = hy_state_adopt_blocks(state, (size_t)saved->n_blocks, error);
    for (size_t i = 0; status == HYMBA_OK && i < saved->n_blocks; i++) {
        uint64_t number;
        status = hy_container_take(&loader->reader, &number, sizeof number, error);
        if (status == HYMBA_OK && number >= loader->table.count)
            status = wrong(loader, "a block's number", number, error);
        if (status != HYMBA_OK)
            return status;
        struct hy_block *block = loader->table.blocks[number];
        uint64_t rows = saved->length - (saved->first_block + i) * HY_BLOCK_TOKENS;
        rows = rows < HY_BLOCK_TOKENS ? rows : HY_BLOCK_TOKENS;
        block->filled = hy_max_size(block->filled, (size_t)rows);
        state->blocks[state->n_blocks++] = hy_block_retain(block);
    }
    return status;
}

static hymba_status take_kept(struct loader *loader, struct hy_state *state, hymba_error *error)
{
    size_t n = loader->layout->rewind_tokens;
    hymba_status status =
        hy_container_take(&loader->reader, state->kept, n * sizeof *state->kept, error);
    for (size_t i = 0; status == HYMBA_OK && i < n; i++)
        if (state->kept[i] != UINT64_MAX &&
            (state->kept[i] >= state->position || state->kept[i] % n != i))
            status = wrong(loader, "the position of a kept state", state->kept[i], error);
    return status;
}

/* A state chunk into *state, whose fixed part exists already. */
static hymba_status take_state(struct loader *loader, struct hy_state *state, bool snapshot,
                               struct saved_state *saved, hymba_error *error)
{
    const struct hy_state_layout *layout = loader->layout;
    uint64_t size;
    hymba_status status = hy_container_expect(
        &loader->reader, snapshot ? TAG_SNAPSHOT : TAG_STATE, &size, error);
    if (status == HYMBA_OK)
        status = hy_container_take(&loader->reader, saved, sizeof *saved, error);
    if (status == HYMBA_OK)
        status = check_state(loader, saved, error);
    if (status != HYMBA_OK)
        return status;
    state->position = saved->length + layout->n_meta;
    state->ring_first = saved->ring_first;
    state->first_block = saved->first_block;
    status = take_block_numbers(loader, state, saved, error);
    if (status == HYMBA_OK && !snapshot && layout->rewind_tokens > 0)
        status = take_kept(loader, state, error);
    if (status == HYMBA_OK)
        status = hy_container_take(&loader->reader, state->fixed, fixed_part(layout, snapshot),
                                   error);
    return status;
}

static hymba_status take_session_state(struct loader *loader, hymba_error *error)
{
    hymba_session *session = loader->session;
    struct saved_state saved;
    hymba_status status = hy_state_create(session->memory, &loader->context->memory, loader->meta,
                                          &session->state, error);
    if (status != HYMBA_OK)
        return status;
    if (session->limit_policy == HYMBA_LIMIT_SLIDE && session->max_tokens > 0)
        session->state.full_window = session->max_tokens - 1;
    status = take_state(loader, &session->state, false, &saved, error);
    if (status == HYMBA_OK && saved.length != loader->parameters.n_tokens)
        status = wrong(loader, "the state's length", saved.length, error);
    if (status != HYMBA_OK || !loader->parameters.has_logits)
        return status;
    status = hy_session_reserve_logits(session, 1, error);
    if (status == HYMBA_OK)
        status = take_chunk(loader, TAG_LOGITS, session->logits,
                            (size_t)loader->parameters.vocabulary * sizeof(float), error);
    session->logits_rows = 1;
    session->logits_of_last = true;
    return status;
}

static hymba_status fill_snapshot(struct loader *loader, struct hy_snapshot *snapshot,
                                  hymba_error *error)
{
    size_t logits = (size_t)loader->parameters.vocabulary * sizeof(float);
    struct saved_state saved;
    hymba_status status = hy_state_create(&loader->context->memory, &loader->context->memory,
                                          loader->meta, &snapshot->state, error);
    if (status != HYMBA_OK)
        return status;
    snapshot->state.full_window = loader->session->state.full_window;
    status = take_state(loader, &snapshot->state, true, &saved, error);
    if (status != HYMBA_OK)
        return status;
    if (!memchr(saved.name, '\0', sizeof saved.name))
        return wrong(loader, "the end of a snapshot's name", 0, error);
    memcpy(snapshot->name, saved.name, sizeof saved.name);
    snapshot->automatic = saved.automatic != 0;
    snapshot->length = saved.length;
    snapshot->bytes = loader->layout->fixed_bytes + (saved.has_logits ? logits : 0);
    if (!saved.has_logits)
        return HYMBA_OK;
    snapshot->logits = hy_alloc(&loader->context->memory, logits);
    if (!snapshot->logits)
        return hy_no_memory(error, logits, "a snapshot's logits");
    return take_chunk(loader, TAG_LOGITS, snapshot->logits, logits, error);
}

static hymba_status take_snapshots(struct loader *loader, hymba_error *error)
{
    struct hy_snapshot_list *list = &loader->session->snapshots;
    hymba_status status = HYMBA_OK;
    for (uint32_t i = 0; status == HYMBA_OK && i < loader->parameters.n_snapshots; i++) {
        struct hy_snapshot *snapshot;
        status = hy_snapshot_list_reserve(loader->session->memory, list, list->count + 1, error);
        if (status == HYMBA_OK)
            status = hy_snapshot_create_bare(&loader->context->memory, &snapshot, error);
        if (status != HYMBA_OK)
            return status;
        status = fill_snapshot(loader, snapshot, error);
        if (status == HYMBA_OK && list->count > 0 &&
            list->items[list->count - 1]->length >= snapshot->length)
            status = wrong(loader, "a snapshot's length", snapshot->length, error);
        if (status == HYMBA_OK)
            hy_snapshot_list_add(list, snapshot);
        else
            hy_snapshot_release(snapshot);
    }
    return status;
}

static hymba_status take_sampler(struct loader *loader, hymba_sampler **sampler,
                                 hymba_error *error)
{
    uint64_t size;
    hymba_status status = hy_container_expect(&loader->reader, TAG_SAMPLER, &size, error);
    if (status == HYMBA_OK && size > MAX_SAMPLER_STATE)
        status = wrong(loader, "the size of the sampler's state", size, error);
    if (status != HYMBA_OK)
        return status;
    struct hy_memory *memory = &loader->context->memory;
    unsigned char *state = hy_alloc(memory, (size_t)size);
    if (!state)
        return hy_no_memory(error, (size_t)size, "the sampler's state");
    status = hy_container_take(&loader->reader, state, (size_t)size, error);
    if (status == HYMBA_OK && sampler)
        status = hy_sampler_read_state(state, (size_t)size, &memory->host, sampler, error);
    hy_free(memory, state);
    return status;
}

static hymba_status take_all(struct loader *loader, const hymba_session_params *params,
                             hymba_sampler **sampler, hymba_error *error)
{
    hymba_status status = take_chunk(loader, TAG_PARAMETERS, &loader->parameters,
                                     sizeof loader->parameters, error);
    if (status == HYMBA_OK)
        status = check_parameters(loader, error);
    if (status == HYMBA_OK)
        status = create_session(loader, params, error);
    if (status == HYMBA_OK)
        status = take_tokens(loader, error);
    if (status == HYMBA_OK)
        status = take_meta(loader, error);
    if (status == HYMBA_OK)
        status = take_blocks(loader, error);
    if (status == HYMBA_OK)
        status = take_session_state(loader, error);
    if (status == HYMBA_OK)
        status = take_snapshots(loader, error);
    if (status == HYMBA_OK && loader->parameters.has_sampler)
        status = take_sampler(loader, sampler, error);
    if (status == HYMBA_OK)
        status = hy_container_finish(&loader->reader, error);
    if (status == HYMBA_OK)
        status = hy_session_reserve(loader->session, params ? params->reserve_tokens : 0, error);
    return status;
}

static hymba_status load(hymba_context *context, const char *name, const void *data, size_t size,
                         const hymba_session_params *params, hymba_session **session,
                         hymba_sampler **sampler, hymba_reuse_info *info, hymba_error *error)
{
    struct loader loader = {.context = context, .layout = &context->layout};
    hymba_status status =
        hy_container_open(&context->memory, name, data, size, &loader.reader, error);
    if (status == HYMBA_OK)
        status = take_all(&loader, params, sampler, error);
    for (size_t i = 0; i < loader.table.count; i++)
        hy_block_release(loader.table.blocks[i]);
    hy_free(&context->memory, loader.table.blocks);
    hy_meta_state_release(loader.meta);
    hy_container_reader_free(&loader.reader);
    if (status != HYMBA_OK) {
        hy_session_release(loader.session);
        if (sampler) {
            hy_sampler_release(*sampler);
            *sampler = NULL;
        }
        return status;
    }
    info->reused_tokens = loader.session->n_tokens;
    info->copied_bytes = size;
    *session = loader.session;
    return HYMBA_OK;
}

hymba_status hy_session_load(hymba_context *context, const void *data, size_t size,
                             const hymba_session_params *params, hymba_session **session,
                             hymba_sampler **sampler, hymba_reuse_info *info, hymba_error *error)
{
    return load(context, "the saved session", data, size, params, session, sampler, info, error);
}

hymba_status hy_session_load_file(hymba_context *context, const char *path,
                                  const hymba_session_params *params, hymba_session **session,
                                  hymba_sampler **sampler, hymba_reuse_info *info,
                                  hymba_error *error)
{
    struct hy_file file;
    hymba_status status = hy_file_map(path, &file, error);
    if (status != HYMBA_OK)
        return status;
    status = load(context, path, file.data, file.size, params, session, sampler, info, error);
    hy_file_close(&file);
    return status;
}
