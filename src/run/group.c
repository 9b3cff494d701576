#include "run/group.h"

#include <stdio.h>
#include <string.h>

struct hy_group {
    struct hy_memory memory; /* of this record and its lists */
    struct hy_pool *pool;
    uint32_t n;
    hymba_context **contexts; /* [n]; NULL: not there yet */
    hymba_error *errors;      /* [n]: of the last run */
    char *device;
    _Atomic bool abandoned;   /* a rank is lost: the others need not wait for it */
};

/* ------------------------------------------------------------------- ranks */

uint32_t hy_group_size(const hymba_context *context)
{
    return context->group ? context->group->n : 1;
}

hymba_context *hy_group_context(hymba_context *context, uint32_t rank)
{
    return rank == 0 ? context : context->group->contexts[rank];
}

const char *hy_group_device(const hymba_context *context)
{
    return context->group ? context->group->device : context->backend.device;
}

hymba_status hy_group_check(const hymba_context *context, hymba_error *error)
{
    hymba_status status = hy_plugin_check(context->backend.plugin, error);
    for (uint32_t rank = 1; status == HYMBA_OK && rank < hy_group_size(context); rank++)
        status = hy_plugin_check(context->group->contexts[rank]->backend.plugin, error);
    return status;
}

/* -------------------------------------------------------------------- runs */

struct run {
    struct hy_group *group;
    hy_rank_work work;
    void *user;
};

static int is_abandoned(const void *group)
{
    return atomic_load(&((const struct hy_group *)group)->abandoned);
}

static bool is_lost(const hymba_context *context)
{
    return context && context->backend.plugin->failed;
}

static void run_ranks(void *argument, size_t begin, size_t end, unsigned part)
{
    const struct run *run = argument;
    (void)part;
    for (size_t rank = begin; rank < end; rank++) {
        hymba_error *error = &run->group->errors[rank];
        hymba_error_init(error, sizeof *error);
        error->status = run->work(run->user, (uint32_t)rank, error);
        if (is_lost(run->group->contexts[rank]))
            atomic_store(&run->group->abandoned, true);
    }
}

static void run_all(struct hy_group *group, hy_rank_work work, void *user)
{
    struct run run = {.group = group, .work = work, .user = user};
    hy_pool_run(group->pool, run_ranks, &run, group->n, 1, 1);
}

/* How little a rank's failure explains. */
static int distance(const struct hy_group *group, uint32_t rank)
{
    if (group->contexts[rank] && group->contexts[rank]->ranks.told)
        return 2;
    return group->errors[rank].status == HYMBA_ERROR_TIMEOUT;
}

hymba_status hy_group_name(const hymba_context *context, uint32_t rank, hymba_status status,
                           hymba_error *error)
{
    if (status == HYMBA_OK || rank == 0 || !error || error->struct_size < sizeof *error)
        return status;
    hymba_error named = *error;
    int length = snprintf(named.message, sizeof named.message, "%s: ",
                          context->group->contexts[rank]->backend.device);
    snprintf(named.message + length, sizeof named.message - (size_t)length, "%s", error->message);
    return hy_fail_again(error, &named);
}

/* The failure to tell of; with its device's name unless all ranks have it. */
static hymba_status tell(const struct hy_group *group, hymba_error *error)
{
    uint32_t told = group->n, n_failed = 0;
    for (uint32_t rank = 0; rank < group->n; rank++) {
        if (group->errors[rank].status == HYMBA_OK)
            continue;
        n_failed++;
        if (told == group->n || distance(group, rank) < distance(group, told))
            told = rank;
    }
    if (n_failed == 0)
        return HYMBA_OK;
    hymba_status status = hy_fail_again(error, &group->errors[told]);
    return hy_group_name(group->contexts[0], told, status, error);
}

hymba_status hy_group_run(hymba_context *context, hy_rank_work work, void *user,
                          hymba_error *error)
{
    if (!context->group)
        return work(user, 0, error);
    run_all(context->group, work, user);
    return tell(context->group, error);
}

/* -------------------------------------------------------------- parameters */

/* With a list of devices, ranks may say how long to wait, and nothing else. */
static hymba_status check_ranks(const hymba_context_params *params, hymba_error *error)
{
    const hymba_ranks *ranks = params->ranks;
    if (!ranks || (ranks->rank == 0 && ranks->world_size == 0 && ranks->local_rank == 0 &&
                   !ranks->meeting && !ranks->unique_id))
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                   "ranks: found more than timeout_ms, while device, \"%s\", already names all "
                   "ranks", params->device);
}

hymba_status hy_group_rank_params(const hymba_context_params *params, uint32_t rank,
                                  struct hy_group_params *own, hymba_error *error)
{
    struct hy_device_list list;
    hymba_status status = hy_device_parse_list(params->device, &list, error);
    if (status == HYMBA_OK)
        status = check_ranks(params, error);
    if (status != HYMBA_OK)
        return status;
    *own = (struct hy_group_params){.params = *params};
    own->ranks = (hymba_ranks){
        .struct_size = sizeof own->ranks,
        .rank = rank,
        .world_size = list.n,
        .timeout_ms = params->ranks ? params->ranks->timeout_ms : 0,
    };
    snprintf(own->device, sizeof own->device, "cuda:%d", list.indices[rank]);
    own->params.device = own->device;
    own->params.ranks = &own->ranks;
    return HYMBA_OK;
}

/* ------------------------------------------------------------ beginning, end */

/* Each on its thread: devices that have joined leave together. */
static hymba_status close_rank(void *user, uint32_t rank, hymba_error *error)
{
    struct hy_group *group = user;
    (void)error;
    if (group->contexts[rank])
        hy_context_destroy(group->contexts[rank]);
    group->contexts[rank] = NULL;
    return HYMBA_OK;
}

void hy_group_destroy(struct hy_group *group)
{
    if (group->pool)
        run_all(group, close_rank, group);
    hy_pool_destroy(group->pool);
    hy_free(&group->memory, group->contexts);
    hy_free(&group->memory, group->errors);
    hy_free(&group->memory, group->device);
    struct hy_memory own = {.host = group->memory.host};
    hy_free(&own, group);
}

static hymba_status allocate(struct hy_group *group, const hymba_context_params *params,
                             hymba_error *error)
{
    struct hy_memory *memory = &group->memory;
    group->contexts = hy_alloc_zero(memory, group->n, sizeof *group->contexts);
    group->errors = hy_alloc_zero(memory, group->n, sizeof *group->errors);
    group->device = hy_copy_text(memory, params->device, strlen(params->device));
    if (!group->contexts || !group->errors || !group->device)
        return hy_no_memory(error, group->n * sizeof *group->errors, "a group of devices");
    return hy_pool_create_sleeping(memory, group->n, "hymba rank", &group->pool, error);
}

static hymba_status create_empty(hymba_model *model, const hymba_context_params *params,
                                 uint32_t n, struct hy_group **out, hymba_error *error)
{
    struct hy_memory memory;
    *out = NULL;
    hymba_status status =
        hy_memory_init(&memory, params->host ? params->host : &model->memory.host, error);
    if (status != HYMBA_OK)
        return status;
    struct hy_group *group = hy_alloc_zero(&memory, 1, sizeof *group);
    if (!group)
        return hy_no_memory(error, sizeof *group, "a group of devices");
    hy_memory_inherit(&group->memory, &memory);
    group->n = n;
    status = allocate(group, params, error);
    if (status == HYMBA_OK)
        *out = group;
    else
        hy_group_destroy(group);
    return status;
}

/* Callbacks run on the caller's thread: what the others would say, rank 0 says, too. */
static void silence(hymba_context *context)
{
    context->memory.host.log = NULL;
    context->memory.host.progress = NULL;
    context->backend.plugin->memory.host.log = NULL;
}

/* What hangs on the rank alone: a device or memory that is missing is told at once. */
static hymba_status open_rank(struct hy_group *group, hymba_model *model,
                              const hymba_context_params *params, uint32_t rank,
                              hymba_error *error)
{
    struct hy_group_params own;
    hymba_status status = hy_group_rank_params(params, rank, &own, error);
    if (status == HYMBA_OK)
        status = hy_context_open(model, &own.params, &group->contexts[rank], error);
    if (status != HYMBA_OK)
        return status;
    group->contexts[rank]->ranks.is_abandoned = is_abandoned;
    group->contexts[rank]->ranks.abandoned_user = group;
    if (rank > 0)
        silence(group->contexts[rank]);
    return HYMBA_OK;
}

struct join {
    struct hy_group *group;
    const hymba_context_params *params;
    unsigned char id[HYMBA_UNIQUE_ID_BYTES];
};

static hymba_status join_rank(void *user, uint32_t rank, hymba_error *error)
{
    const struct join *join = user;
    struct hy_group_params own;
    hymba_status status = hy_group_rank_params(join->params, rank, &own, error);
    own.ranks.unique_id = join->id;
    if (status == HYMBA_OK)
        status = hy_context_join(join->group->contexts[rank], &own.ranks, error);
    if (status != HYMBA_OK) /* and it may never have come to where the others wait */
        atomic_store(&join->group->abandoned, true);
    return status;
}

static hymba_status join_all(struct hy_group *group, const hymba_context_params *params,
                             hymba_error *error)
{
    struct join join = {.group = group, .params = params};
    hymba_status status = hy_plugin_make_id(&group->memory, join.id, error);
    if (status != HYMBA_OK)
        return status;
    run_all(group, join_rank, &join);
    return tell(group, error);
}

hymba_status hy_group_create(hymba_model *model, const hymba_context_params *params,
                             hymba_context **out, hymba_error *error)
{
    struct hy_device_list list;
    struct hy_group *group = NULL;
    *out = NULL;
    hymba_status status = hy_device_parse_list(params->device, &list, error);
    if (status == HYMBA_OK)
        status = create_empty(model, params, list.n, &group, error);
    if (status != HYMBA_OK)
        return status;
    for (uint32_t rank = 0; status == HYMBA_OK && rank < group->n; rank++)
        status = open_rank(group, model, params, rank, error);
    if (status == HYMBA_OK)
        group->contexts[0]->group = group;
    if (status == HYMBA_OK)
        status = join_all(group, params, error);
    if (status != HYMBA_OK) {
        hy_group_destroy(group);
        return status;
    }
    *out = group->contexts[0];
    return HYMBA_OK;
}
