#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "run/group_calls.h"
#include "run/loader.h"
#include "run/saved_session.h"

enum { MAX_SAMPLER_STATE = 64 << 20, MAX_SNAPSHOTS = 1 << 20 };

hymba_status hy_loader_wrong(const struct hy_loader *loader, const char *what, uint64_t found,
                             hymba_error *error)
{
    return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: %s is %llu, which cannot be",
                   loader->reader.name, what, (unsigned long long)found);
}

static hymba_status differs(const struct hy_loader *loader, const char *what, uint64_t found,
                            uint64_t expected, hymba_error *error)
{
    if (found == expected)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_STATE,
                   "%s: was saved with another %s: found %llu, the context has %llu",
                   loader->reader.name, what, (unsigned long long)found,
                   (unsigned long long)expected);
}

hymba_status hy_loader_take(struct hy_loader *loader, void *data, size_t size, hymba_error *error)
{
    hymba_status status = hy_context_check_cancel(loader->context, error);
    return status == HYMBA_OK ? hy_container_take(&loader->reader, data, size, error) : status;
}

hymba_status hy_loader_name(const struct hy_loader *loader, uint32_t rank, hymba_status status,
                            hymba_error *error)
{
    return hy_group_name(loader->context, rank, status, error);
}

hymba_status hy_loader_expect(struct hy_loader *loader, uint32_t tag, size_t size,
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

hymba_status hy_loader_take_chunk(struct hy_loader *loader, uint32_t tag, void *data, size_t size,
                                  hymba_error *error)
{
    hymba_status status = hy_loader_expect(loader, tag, size, error);
    return status == HYMBA_OK ? hy_loader_take(loader, data, size, error) : status;
}

static hymba_status check_parameters(struct hy_loader *loader, hymba_error *error)
{
    const struct hy_saved_parameters *found = &loader->parameters;
    struct hy_saved_parameters here = hy_saved_describe(&loader->parts);
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
        return hy_loader_wrong(loader, "the number of tokens", found->n_tokens, error);
    if (!hy_mul_u64(found->n_blocks, loader->parts.layout->block_bytes, &bytes) || bytes > most ||
        (found->n_blocks > 0 && bytes == 0))
        return hy_loader_wrong(loader, "the number of blocks", found->n_blocks, error);
    if (found->n_snapshots > MAX_SNAPSHOTS)
        return hy_loader_wrong(loader, "the number of snapshots", found->n_snapshots, error);
    return HYMBA_OK;
}

/* Tokens that the limit and its policy do not allow. */
static bool is_beyond(const hymba_session_params *params, uint64_t n_tokens)
{
    return params->max_tokens > 0 && params->limit_policy != HYMBA_LIMIT_SLIDE &&
           n_tokens > params->max_tokens;
}

/* Without a state; in a group rank 0 alone has the budget (group_calls.c). */
static hymba_status create_bare(struct hy_loader *loader, hymba_session_params params,
                                hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (uint32_t i = 0; status == HYMBA_OK && i < loader->n_ranks; i++) {
        struct hy_loader_rank *rank = &loader->ranks[i];
        status = hy_session_create_bare(rank->context, &params, &rank->session, error);
        status = hy_loader_name(loader, i, status, error);
        params.snapshot_budget = 0;
    }
    return status;
}

static hymba_status create_sessions(struct hy_loader *loader, const hymba_session_params *params,
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
        return hy_loader_wrong(loader, "the limit policy", (uint32_t)saved->limit_policy, error);
    if (is_beyond(&as_saved, saved->n_tokens))
        return hy_loader_wrong(loader, "max_tokens", saved->max_tokens, error);
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
    return create_bare(loader, *params, error);
}

static hymba_status reserve_tokens(struct hy_loader *loader, size_t n, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (uint32_t i = 0; status == HYMBA_OK && i < loader->n_ranks; i++) {
        status = hy_session_reserve_tokens(loader->ranks[i].session, n, error);
        status = hy_loader_name(loader, i, status, error);
    }
    return status;
}

static hymba_status take_tokens(struct hy_loader *loader, hymba_error *error)
{
    hymba_session *first = loader->ranks[0].session;
    size_t n = (size_t)loader->parameters.n_tokens;
    hymba_status status = reserve_tokens(loader, n, error);
    if (status == HYMBA_OK)
        status = hy_loader_take_chunk(loader, HY_TAG_TOKENS, first->tokens,
                                      n * sizeof *first->tokens, error);
    for (size_t i = 0; status == HYMBA_OK && i < n; i++)
        if (first->tokens[i] < 0 || (uint64_t)first->tokens[i] >= loader->parameters.vocabulary)
            status = hy_loader_wrong(loader, "a token", (uint64_t)first->tokens[i], error);
    for (uint32_t i = 0; status == HYMBA_OK && i < loader->n_ranks; i++) {
        hymba_session *session = loader->ranks[i].session;
        if (i > 0 && n > 0)
            memcpy(session->tokens, first->tokens, n * sizeof *first->tokens);
        session->n_tokens = n;
    }
    return status;
}

static hymba_status take_sampler(struct hy_loader *loader, hymba_sampler **sampler,
                                 hymba_error *error)
{
    uint64_t size;
    hymba_status status = hy_container_expect(&loader->reader, HY_TAG_SAMPLER, &size, error);
    if (status == HYMBA_OK && size > MAX_SAMPLER_STATE)
        status = hy_loader_wrong(loader, "the size of the sampler's state", size, error);
    if (status != HYMBA_OK)
        return status;
    struct hy_memory *memory = &loader->context->memory;
    unsigned char *state = hy_alloc(memory, (size_t)size);
    if (!state)
        return hy_no_memory(error, (size_t)size, "the sampler's state");
    status = hy_loader_take(loader, state, (size_t)size, error);
    if (status == HYMBA_OK && sampler)
        status = hy_sampler_read_state(state, (size_t)size, &memory->host, sampler, error);
    hy_free(memory, state);
    return status;
}

static hymba_status reserve_all(struct hy_loader *loader, uint64_t n_tokens, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (uint32_t i = 0; status == HYMBA_OK && i < loader->n_ranks; i++) {
        status = hy_session_reserve(loader->ranks[i].session, n_tokens, error);
        status = hy_loader_name(loader, i, status, error);
    }
    return status;
}

static hymba_status take_all(struct hy_loader *loader, const hymba_session_params *params,
                             hymba_sampler **sampler, hymba_error *error)
{
    hymba_status status = hy_loader_take_chunk(loader, HY_TAG_PARAMETERS, &loader->parameters,
                                               sizeof loader->parameters, error);
    if (status == HYMBA_OK)
        status = check_parameters(loader, error);
    if (status == HYMBA_OK)
        status = create_sessions(loader, params, error);
    if (status == HYMBA_OK)
        status = take_tokens(loader, error);
    if (status == HYMBA_OK)
        status = hy_load_meta(loader, error);
    if (status == HYMBA_OK)
        status = hy_load_blocks(loader, error);
    if (status == HYMBA_OK)
        status = hy_load_state(loader, error);
    if (status == HYMBA_OK)
        status = hy_load_snapshots(loader, error);
    if (status == HYMBA_OK && loader->parameters.has_sampler)
        status = take_sampler(loader, sampler, error);
    if (status == HYMBA_OK)
        status = hy_container_finish(&loader->reader, error);
    if (status == HYMBA_OK)
        status = reserve_all(loader, params ? params->reserve_tokens : 0, error);
    return status;
}

/* The sessions of all ranks as one; whatever fails, none is left. */
static hymba_status join_sessions(struct hy_loader *loader, hymba_status status,
                                  hymba_session **session, hymba_error *error)
{
    hymba_session *sessions[HY_MAX_DEVICES];
    for (uint32_t i = 0; i < loader->n_ranks; i++)
        sessions[i] = loader->ranks[i].session;
    if (status == HYMBA_OK)
        status = hy_group_join_sessions(sessions, loader->n_ranks, error);
    if (status == HYMBA_OK) {
        *session = sessions[0];
        return HYMBA_OK;
    }
    for (uint32_t i = 0; i < loader->n_ranks; i++)
        hy_session_release(sessions[i]);
    return status;
}

/* What was needed for loading alone. */
static void free_loader(struct hy_loader *loader)
{
    for (size_t i = 0; i < loader->table.count * loader->table.n_ranks; i++)
        hy_block_release(loader->table.blocks[i]);
    hy_free(&loader->context->memory, loader->table.blocks);
    for (uint32_t i = 0; i < loader->n_ranks; i++)
        hy_meta_state_release(loader->ranks[i].meta);
    hy_container_reader_free(&loader->reader);
    hy_saved_parts_free(&loader->parts);
}

static hymba_status load(hymba_context *context, const char *name, const void *data, size_t size,
                         const hymba_session_params *params, hymba_session **session,
                         hymba_sampler **sampler, hymba_reuse_info *info, hymba_error *error)
{
    struct hy_loader loader = {.context = context, .n_ranks = hy_group_size(context)};
    for (uint32_t i = 0; i < loader.n_ranks; i++)
        loader.ranks[i].context = hy_group_context(context, i);
    hymba_status status = hy_saved_parts_create(context, &context->memory, 2, &loader.parts, error);
    if (status == HYMBA_OK)
        status = hy_container_open(&context->memory, name, data, size, &loader.reader, error);
    if (status == HYMBA_OK)
        status = take_all(&loader, params, sampler, error);
    free_loader(&loader);
    status = join_sessions(&loader, status, session, error);
    if (status != HYMBA_OK && sampler) {
        hy_sampler_release(*sampler);
        *sampler = NULL;
    }
    if (status != HYMBA_OK)
        return status;
    info->reused_tokens = (*session)->n_tokens;
    info->copied_bytes = size;
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
