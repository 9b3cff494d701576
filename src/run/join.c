#include "run/join.h"

#include <stdio.h>
#include <string.h>

#include "backend/meeting.h"
#include "model/model.h"
#include "run/context.h"
#include "tensor/dtype.h"

enum { DEFAULT_TIMEOUT_MS = 60000 };

/* ---------------------------------------------------------------- parameters */

bool hy_ranks_are_several(const hymba_ranks *ranks)
{
    return ranks && ranks->world_size > 1;
}

hymba_status hy_ranks_check(const hymba_context_params *params, hymba_error *error)
{
    const hymba_ranks *ranks = params->ranks;
    int index;
    if (!ranks)
        return HYMBA_OK;
    if (ranks->world_size > HY_MAX_RANKS)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "ranks.world_size: found %u, at most %d",
                       (unsigned)ranks->world_size, HY_MAX_RANKS);
    if (ranks->rank > 0 && ranks->rank >= ranks->world_size)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "ranks.rank: found %u, expected less than the world_size, %u",
                       (unsigned)ranks->rank, (unsigned)ranks->world_size);
    if (ranks->local_rank > HY_MAX_DEVICE_INDEX)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "ranks.local_rank: found %u, at most %d",
                       (unsigned)ranks->local_rank, HY_MAX_DEVICE_INDEX);
    if (hy_ranks_are_several(ranks) && hy_device_parse(params->device, &index) == HY_DEVICE_CPU)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "ranks.world_size: found %u, but the CPU cannot be one of several ranks",
                       (unsigned)ranks->world_size);
    return HYMBA_OK;
}

hymba_status hy_ranks_check_meeting(const hymba_ranks *ranks, hymba_error *error)
{
    struct hy_place place;
    if (!hy_ranks_are_several(ranks) || ranks->unique_id)
        return HYMBA_OK;
    if (!ranks->meeting)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "ranks: found neither meeting nor unique_id, by which %u ranks could meet",
                       (unsigned)ranks->world_size);
    return hy_place_read(ranks->meeting, "ranks.meeting", &place, error);
}

void hy_ranks_set(struct hy_ranks *own, const hymba_ranks *ranks)
{
    bool several = hy_ranks_are_several(ranks);
    own->rank = several ? ranks->rank : 0;
    own->world_size = several ? ranks->world_size : 1;
    own->timeout_ms = ranks && ranks->timeout_ms ? ranks->timeout_ms : DEFAULT_TIMEOUT_MS;
}

/* ------------------------------------------------------------------- joining */

static hymba_status join_with(hymba_context *context, const unsigned char *id, hymba_error *error)
{
    const struct hy_ranks *own = &context->ranks;
    struct hy_join_args args = {
        .rank = own->rank,
        .world_size = own->world_size,
        .id = id,
        .timeout_ms = own->timeout_ms,
        .is_abandoned = own->is_abandoned,
        .abandoned_user = own->abandoned_user,
    };
    return hy_backend_join(&context->backend, &args, error);
}

static hymba_status meet_and_join(hymba_context *context, const char *place, hymba_error *error)
{
    const struct hy_ranks *own = &context->ranks;
    struct hy_meeting meeting = {place, own->rank, own->world_size, own->timeout_ms};
    struct hy_memory memory;
    unsigned char id[HY_UNIQUE_ID_BYTES] = {0};
    hymba_status status = HYMBA_OK;
    hy_memory_inherit(&memory, &context->memory);
    if (own->rank == 0)
        status = hy_plugin_make_id(&memory, id, error);
    if (status == HYMBA_OK)
        status = hy_meeting_hold(&memory, &meeting, id, error);
    if (status != HYMBA_OK)
        return status;
    hy_log(&context->memory, HYMBA_LOG_INFO, "rank %u of %u has met the others at %s",
           (unsigned)own->rank, (unsigned)own->world_size, place);
    status = join_with(context, id, error);
    hy_meeting_end(&meeting);
    return status;
}

/* --------------------------------------------------------------- comparison */

/* Which library a rank has: the same in all versions, so that any two can compare it. */
struct version {
    uint32_t library, interface, traits_bytes, zero;
};

/* What all ranks must have alike. */
struct traits {
    uint64_t fingerprint;
    int32_t compute, cache_type, state_type;
    uint32_t step_rows, rewind_tokens, zero;
    char device[128];
};

_Static_assert(sizeof(struct version) == 16 && sizeof(struct traits) == 160,
               "ranks exchange them as they lie");

static struct version own_version(void)
{
    return (struct version){
        .library = HYMBA_VERSION_MAJOR * 1000000u + HYMBA_VERSION_MINOR * 1000u +
                   HYMBA_VERSION_PATCH,
        .interface = HY_DEVICE_INTERFACE,
        .traits_bytes = sizeof(struct traits),
    };
}

static struct traits own_traits(const hymba_context *context)
{
    struct traits traits = {
        .fingerprint = hy_model_fingerprint(context->model),
        .compute = context->compute,
        .cache_type = context->layout.cache_type,
        .state_type = context->layout.state_type,
        .step_rows = (uint32_t)context->workspace.rows,
        .rewind_tokens = (uint32_t)context->layout.rewind_tokens,
    };
    snprintf(traits.device, sizeof traits.device, "%s", context->backend.name);
    return traits;
}

static hymba_status refuse_names(uint32_t rank, const char *what, const char *found,
                                 const char *expected, hymba_error *error)
{
    return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                   "rank %u has %s %s, rank 0 has %s: all ranks must have the same",
                   (unsigned)rank, what, found ? found : "unknown",
                   expected ? expected : "unknown");
}

static hymba_status refuse_numbers(uint32_t rank, const char *what, uint32_t found,
                                   uint32_t expected, hymba_error *error)
{
    return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                   "rank %u has %s %u, rank 0 has %u: all ranks must have the same",
                   (unsigned)rank, what, (unsigned)found, (unsigned)expected);
}

static hymba_status compare_version(const void *of_rank, const void *of_first, uint32_t rank,
                                    hymba_error *error)
{
    const struct version *found = of_rank, *first = of_first;
    if (found->library != first->library)
        return refuse_numbers(rank, "library version", found->library, first->library, error);
    if (found->interface != first->interface || found->traits_bytes != first->traits_bytes)
        return refuse_numbers(rank, "plug-in interface", found->interface, first->interface,
                              error);
    return HYMBA_OK;
}

static hymba_status compare_traits(const void *of_rank, const void *of_first, uint32_t rank,
                                   hymba_error *error)
{
    const struct traits *found = of_rank, *first = of_first;
    int longest = (int)sizeof found->device;
    if (found->fingerprint != first->fingerprint)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "rank %u has another model than rank 0: fingerprint %016llx, not %016llx",
                       (unsigned)rank, (unsigned long long)found->fingerprint,
                       (unsigned long long)first->fingerprint);
    if (found->compute != first->compute)
        return refuse_names(rank, "compute", hy_compute_name(found->compute),
                            hy_compute_name(first->compute), error);
    if (found->cache_type != first->cache_type)
        return refuse_names(rank, "cache_type", hy_dtype_name(found->cache_type),
                            hy_dtype_name(first->cache_type), error);
    if (found->state_type != first->state_type)
        return refuse_names(rank, "state_type", hy_dtype_name(found->state_type),
                            hy_dtype_name(first->state_type), error);
    if (found->step_rows != first->step_rows)
        return refuse_numbers(rank, "max_step_tokens", found->step_rows, first->step_rows, error);
    if (found->rewind_tokens != first->rewind_tokens)
        return refuse_numbers(rank, "rewind_tokens", found->rewind_tokens, first->rewind_tokens,
                              error);
    if (memcmp(found->device, first->device, sizeof first->device) != 0)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "rank %u has the device \"%.*s\", rank 0 has \"%.*s\": all ranks must have "
                       "the same", (unsigned)rank, longest, found->device, longest,
                       first->device);
    return HYMBA_OK;
}

/* All ranks see all, so they find the same. */
static hymba_status compare(hymba_context *context, const void *mine, size_t bytes,
                            unsigned char *all,
                            hymba_status (*compare_one)(const void *, const void *, uint32_t,
                                                        hymba_error *),
                            hymba_error *error)
{
    hymba_status status = hy_backend_exchange(&context->backend, mine, all, bytes, error);
    for (uint32_t rank = 1; status == HYMBA_OK && rank < context->ranks.world_size; rank++)
        status = compare_one(all + rank * bytes, all, rank, error);
    return status;
}

static hymba_status compare_all(hymba_context *context, unsigned char *all, hymba_error *error)
{
    const struct version version = own_version();
    const struct traits traits = own_traits(context);
    hymba_status status = compare(context, &version, sizeof version, all, compare_version, error);
    return status == HYMBA_OK
               ? compare(context, &traits, sizeof traits, all, compare_traits, error)
               : status;
}

/* Memory is taken first: behind the joining a rank that has none would leave the others waiting. */
hymba_status hy_context_join(hymba_context *context, const hymba_ranks *ranks,
                             hymba_error *error)
{
    uint32_t world_size = context->ranks.world_size;
    if (world_size == 1)
        return HYMBA_OK;
    unsigned char *all = hy_alloc_array(&context->memory, world_size, sizeof(struct traits));
    if (!all)
        return hy_no_memory(error, world_size * sizeof(struct traits), "what ranks have alike");
    hymba_status status = ranks->unique_id ? join_with(context, ranks->unique_id, error)
                                           : meet_and_join(context, ranks->meeting, error);
    if (status == HYMBA_OK)
        status = compare_all(context, all, error);
    hy_free(&context->memory, all);
    return status;
}
