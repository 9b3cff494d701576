#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "run/saved_format.h"
#include "run/saved_session.h"

enum { MAX_SAMPLER_STATE = 64 << 20, MAX_SNAPSHOTS = 1 << 20 };

struct loader {
    hymba_context *context;
    const struct hy_state_layout *layout;
    struct hy_container_reader reader;
    struct hy_saved_parameters parameters;
    struct hy_saved_blocks table;
    struct hy_meta_state *meta;
    hymba_session *session;
    unsigned char *staging; /* [2][HY_SAVED_PIECE] with a plug-in's device */
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

/* A part of the chunk that was begun. */
static hymba_status take(struct loader *loader, void *data, size_t size, hymba_error *error)
{
    hymba_status status = hy_context_check_cancel(loader->context, error);
    return status == HYMBA_OK ? hy_container_take(&loader->reader, data, size, error) : status;
}

/* Piece by piece through the host's memory. */
static hymba_status take_to_device(struct loader *loader, unsigned char *data, size_t size,
                                   const unsigned char *equal, bool *same, hymba_error *error)
{
    struct hy_plugin *plugin = loader->context->backend.plugin;
    unsigned char *other = loader->staging + HY_SAVED_PIECE;
    hymba_status status = HYMBA_OK;
    for (size_t done = 0, piece; status == HYMBA_OK && done < size; done += piece) {
        piece = hy_min_size(size - done, HY_SAVED_PIECE);
        status = take(loader, loader->staging, piece, error);
        if (status != HYMBA_OK)
            return status;
        hy_store_put(plugin, data + done, loader->staging, piece);
        if (equal)
            hy_store_get(plugin, other, equal + done, piece);
        status = hy_store_finish(plugin, error);
        if (status == HYMBA_OK && equal && memcmp(loader->staging, other, piece) != 0)
            *same = false;
    }
    return status;
}

/* A part that is to lie where the context computes. equal: NULL, or bytes there that are compared
 * with it; *same becomes false if they differ. */
static hymba_status take_stored(struct loader *loader, unsigned char *data, size_t size,
                                const unsigned char *equal, bool *same, hymba_error *error)
{
    if (loader->staging)
        return take_to_device(loader, data, size, equal, same, error);
    hymba_status status = take(loader, data, size, error);
    if (status == HYMBA_OK && equal && memcmp(data, equal, size) != 0)
        *same = false;
    return status;
}

/* The beginning of a chunk of exactly that size. */
static hymba_status expect_chunk(struct loader *loader, uint32_t tag, size_t size,
                                 hymba_error *error)
{
    uint64_t found;
    hymba_status status = hy_container_expect(&loader->reader, tag, &found, error);
    if (status == HYMBA_OK && found != size)
        status = hy_fail(error, HYMBA_ERROR_FORMAT,
                         "%s: chunk %.4s: found %llu bytes, expected %zu", loader->reader.name,
                         (const char *)&tag, (unsigned long long)found, size);
    return status;
}

/* Takes a chunk of exactly that size. */
static hymba_status take_chunk(struct loader *loader, uint32_t tag, void *data, size_t size,
                               hymba_error *error)
{
    hymba_status status = expect_chunk(loader, tag, size, error);
    return status == HYMBA_OK ? take(loader, data, size, error) : status;
}

static hymba_status check_parameters(struct loader *loader, hymba_error *error)
{
    const struct hy_saved_parameters *found = &loader->parameters;
    struct hy_saved_parameters here = hy_saved_describe(loader->context);
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

/* Tokens that the limit and its policy do not allow. */
static bool is_beyond(const hymba_session_params *params, uint64_t n_tokens)
{
    return params->max_tokens > 0 && params->limit_policy != HYMBA_LIMIT_SLIDE &&
           n_tokens > params->max_tokens;
}

static hymba_status create_session(struct loader *loader, const hymba_session_params *params,
                                   hymba_error *error)
{
    const struct hy_saved_parameters *saved = &loader->parameters;
    hymba_session_params as_saved = {
        .max_tokens = saved->max_tokens,
        .limit_policy = saved->limit_policy,
        .snapshot_interval = saved->snapshot_interval,
        .snapshot_budget = saved->snapshot_budget,
    };
    if (hy_session_check_params(&as_saved, NULL) != HYMBA_OK) /* the file's fault */
        return wrong(loader, "the limit policy", (uint32_t)saved->limit_policy, error);
    if (is_beyond(&as_saved, saved->n_tokens))
        return wrong(loader, "max_tokens", saved->max_tokens, error);
    if (!params)
        params = &as_saved;
    hymba_status status = hy_session_check_params(params, error);
    if (status == HYMBA_OK && is_beyond(params, saved->n_tokens))
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
        status = take_chunk(loader, HY_TAG_TOKENS, session->tokens, n * sizeof *session->tokens,
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
        hy_meta_state_create(&context->memory, context->backend.plugin, loader->layout,
                             &loader->meta, error);
    bool same = context->meta_ready;
    if (status == HYMBA_OK)
        status = expect_chunk(loader, HY_TAG_META, size, error);
    if (status == HYMBA_OK)
        status = take_stored(loader, loader->meta->data, size, same ? context->meta->data : NULL,
                             &same, error);
    if (status == HYMBA_OK && same) {
        hy_meta_state_release(loader->meta);
        loader->meta = hy_meta_state_retain(context->meta);
    }
    return status;
}

static hymba_status take_blocks(struct loader *loader, hymba_error *error)
{
    size_t bytes = loader->layout->block_bytes, n = (size_t)loader->parameters.n_blocks;
    uint64_t size;
    hymba_status status = hy_container_expect(&loader->reader, HY_TAG_BLOCKS, &size, error);
    if (status == HYMBA_OK && size != (uint64_t)n * bytes)
        status = wrong(loader, "the size of the blocks", size, error);
    if (status != HYMBA_OK)
        return status;
    loader->table.blocks =
        hy_alloc_array(&loader->context->memory, n + 1, sizeof *loader->table.blocks);
    if (!loader->table.blocks)
        return hy_no_memory(error, n * sizeof *loader->table.blocks, "the list of blocks");
    while (status == HYMBA_OK && loader->table.count < n) {
        struct hy_block *block =
            hy_block_create(&loader->context->memory, loader->context->backend.plugin, bytes);
        if (!block)
            return hy_no_memory(error, bytes, "a block of keys and values");
        loader->table.blocks[loader->table.count++] = block;
        status = take_stored(loader, block->data, bytes, NULL, NULL, error);
    }
    return status;
}

/* Whether the marks of a saved state can be those of a sequence of its length. */
static hymba_status check_state(const struct loader *loader, const struct hy_saved_state *saved,
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
    if (saved->n_blocks != hy_saved_block_count(layout, saved->length, saved->first_block))
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
                                       const struct hy_saved_state *saved, hymba_error *error)
{
    hymba_status status = hy_state_adopt_blocks(state, (size_t)saved->n_blocks, error);
    for (size_t i = 0; status == HYMBA_OK && i < saved->n_blocks; i++) {
        uint64_t number;
        status = take(loader, &number, sizeof number, error);
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
        take(loader, state->kept, n * sizeof *state->kept, error);
    for (size_t i = 0; status == HYMBA_OK && i < n; i++)
        if (state->kept[i] != UINT64_MAX &&
            (state->kept[i] >= state->position || state->kept[i] % n != i))
            status = wrong(loader, "the position of a kept state", state->kept[i], error);
    return status;
}

static hymba_status take_fixed(struct loader *loader, struct hy_state *state, bool snapshot,
                               hymba_error *error)
{
    const struct hy_state_layout *layout = loader->layout;
    hymba_status status =
        take_stored(loader, state->fixed, layout->ring_bytes, NULL, NULL, error);
    if (status == HYMBA_OK)
        status = take_stored(loader, state->recurrent, layout->recurrent_bytes, NULL, NULL, error);
    if (status == HYMBA_OK && !snapshot)
        status = take_stored(loader, state->fixed + layout->ring_bytes, layout->history_bytes,
                             NULL, NULL, error);
    return status;
}

/* A state chunk into *state, whose fixed part exists already. */
static hymba_status take_state(struct loader *loader, struct hy_state *state, bool snapshot,
                               struct hy_saved_state *saved, hymba_error *error)
{
    const struct hy_state_layout *layout = loader->layout;
    uint64_t size;
    hymba_status status = hy_container_expect(
        &loader->reader, snapshot ? HY_TAG_SNAPSHOT : HY_TAG_STATE, &size, error);
    if (status == HYMBA_OK)
        status = take(loader, saved, sizeof *saved, error);
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
        status = take_fixed(loader, state, snapshot, error);
    return status;
}

static hymba_status take_session_state(struct loader *loader, hymba_error *error)
{
    hymba_session *session = loader->session;
    struct hy_saved_state saved;
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
        status = take_chunk(loader, HY_TAG_LOGITS, session->logits,
                            (size_t)loader->parameters.vocabulary * sizeof(float), error);
    session->logits_rows = 1;
    session->logits_of_last = true;
    return status;
}

static hymba_status fill_snapshot(struct loader *loader, struct hy_snapshot *snapshot,
                                  hymba_error *error)
{
    size_t logits = (size_t)loader->parameters.vocabulary * sizeof(float);
    struct hy_saved_state saved;
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
    return take_chunk(loader, HY_TAG_LOGITS, snapshot->logits, logits, error);
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
    hymba_status status = hy_container_expect(&loader->reader, HY_TAG_SAMPLER, &size, error);
    if (status == HYMBA_OK && size > MAX_SAMPLER_STATE)
        status = wrong(loader, "the size of the sampler's state", size, error);
    if (status != HYMBA_OK)
        return status;
    struct hy_memory *memory = &loader->context->memory;
    unsigned char *state = hy_alloc(memory, (size_t)size);
    if (!state)
        return hy_no_memory(error, (size_t)size, "the sampler's state");
    status = take(loader, state, (size_t)size, error);
    if (status == HYMBA_OK && sampler)
        status = hy_sampler_read_state(state, (size_t)size, &memory->host, sampler, error);
    hy_free(memory, state);
    return status;
}

static hymba_status take_all(struct loader *loader, const hymba_session_params *params,
                             hymba_sampler **sampler, hymba_error *error)
{
    hymba_status status = take_chunk(loader, HY_TAG_PARAMETERS, &loader->parameters,
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
    hymba_status status = hy_saved_check_ranks(context, error);
    if (status == HYMBA_OK)
        status = hy_container_open(&context->memory, name, data, size, &loader.reader, error);
    if (status == HYMBA_OK && context->backend.plugin) {
        loader.staging = hy_alloc(&context->memory, 2 * HY_SAVED_PIECE);
        if (!loader.staging)
            status = hy_no_memory(error, 2 * HY_SAVED_PIECE, "copying a session");
    }
    if (status == HYMBA_OK)
        status = take_all(&loader, params, sampler, error);
    for (size_t i = 0; i < loader.table.count; i++)
        hy_block_release(loader.table.blocks[i]);
    hy_free(&context->memory, loader.table.blocks);
    hy_free(&context->memory, loader.staging);
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
