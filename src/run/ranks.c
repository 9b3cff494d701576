#include "run/ranks.h"

#include "run/context.h"

_Static_assert(sizeof(struct hy_ballot) == 16, "ranks exchange ballots as they lie");

hymba_status hy_ranks_reserve(struct hy_memory *memory, struct hy_ranks *ranks,
                              hymba_error *error)
{
    if (ranks->world_size == 1)
        return HYMBA_OK;
    ranks->ballots = hy_alloc_array(memory, ranks->world_size, sizeof *ranks->ballots);
    return ranks->ballots
               ? HYMBA_OK
               : hy_no_memory(error, ranks->world_size * sizeof *ranks->ballots,
                              "the votes of ranks");
}

void hy_ranks_free(struct hy_memory *memory, struct hy_ranks *ranks)
{
    hy_free(memory, ranks->ballots);
    ranks->ballots = NULL;
}

/* FNV-1a: against mistakes, not against malice. */
uint64_t hy_digest(uint64_t digest, const void *data, size_t bytes)
{
    const unsigned char *byte = data;
    digest ^= UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < bytes; i++)
        digest = (digest ^ byte[i]) * UINT64_C(0x100000001b3);
    return digest;
}

/* Whether all ranks are in this vote, and of the same call. */
static hymba_status compare_calls(const struct hy_ranks *ranks, hymba_error *error)
{
    const struct hy_ballot *mine = &ranks->ballots[ranks->rank];
    for (uint32_t i = 0; i < ranks->world_size; i++) {
        if (ranks->ballots[i].vote != mine->vote)
            return hy_fail(error, HYMBA_ERROR_DEVICE,
                           "rank %u is in another call, or elsewhere in it, than rank %u: all "
                           "ranks must make the same calls", i, ranks->rank);
        if (ranks->ballots[i].digest != mine->digest &&
            ranks->ballots[i].status == HYMBA_OK && mine->status == HYMBA_OK)
            return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                           "rank %u was given other sessions or tokens than rank %u: all ranks "
                           "must make the same calls", i, ranks->rank);
    }
    return HYMBA_OK;
}

/* The failure of the first rank that has one. */
static hymba_status find_failure(const struct hy_ranks *ranks, hymba_error *error)
{
    for (uint32_t i = 0; i < ranks->world_size; i++) {
        hymba_status status = (hymba_status)ranks->ballots[i].status;
        if (status != HYMBA_OK)
            return hy_fail(error, status, "rank %u of %u failed, so all ranks undo the call: %s",
                           i, ranks->world_size, hymba_status_description(status));
    }
    return HYMBA_OK;
}

/* Ranks that are elsewhere cannot be brought together again. */
static hymba_status give_up(struct hy_plugin *plugin, const hymba_error *failure,
                            hymba_error *error)
{
    plugin->failed = true;
    plugin->failure = *failure;
    return hy_fail_again(error, failure);
}

hymba_status hy_ranks_vote(hymba_context *context, enum hy_vote vote, uint64_t digest,
                           hymba_status status, hymba_error *error)
{
    struct hy_ranks *ranks = &context->ranks;
    hymba_error failure = {.struct_size = sizeof failure};
    if (ranks->world_size == 1)
        return status;
    ranks->told = false;
    if (status == HYMBA_OK)
        status = hy_context_check_cancel(context, error);
    struct hy_ballot mine = {.vote = vote, .status = status, .digest = digest};
    if (hy_backend_exchange(&context->backend, &mine, ranks->ballots, sizeof mine, &failure) !=
        HYMBA_OK)
        return hy_fail_again(error, &failure);
    hymba_status same = compare_calls(ranks, &failure);
    if (same == HYMBA_ERROR_DEVICE)
        return give_up(context->backend.plugin, &failure, error);
    if (status != HYMBA_OK) /* told in the rank's own words */
        return status;
    if (same == HYMBA_OK)
        same = find_failure(ranks, &failure);
    ranks->told = same != HYMBA_OK;
    return ranks->told ? hy_fail_again(error, &failure) : HYMBA_OK;
}
