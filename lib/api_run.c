#include "abi.h"

#include <string.h>

#include "base/checked.h"
#include "run/group.h"
#include "run/group_calls.h"
#include "run/measure.h"
#include "text/sampler.h"

void hymba_context_params_init(hymba_context_params *params, size_t size)
{
    hy_init_struct(params, size);
}

void hymba_executor_init(hymba_executor *executor, size_t size)
{
    hy_init_struct(executor, size);
}

void hymba_session_params_init(hymba_session_params *params, size_t size)
{
    hy_init_struct(params, size);
}

/* ---------------------------------------------------------------- context */

/* A caller's parameters, and what they name: sized structs of their own, all complete here. */
struct complete_params {
    hymba_context_params context;
    hymba_executor executor;
    hymba_ranks ranks;
    hymba_host host;
};

static hymba_status read_context_params(struct complete_params *params,
                                        const hymba_context_params *given, hymba_error *error)
{
    hymba_context_params *context = &params->context;
    hymba_status status = hy_read_struct(context, sizeof *context, given, "params", error);
    if (status == HYMBA_OK && context->executor) {
        status = hy_read_struct(&params->executor, sizeof params->executor, context->executor,
                                "executor", error);
        context->executor = &params->executor;
    }
    if (status == HYMBA_OK && context->ranks) {
        status =
            hy_read_struct(&params->ranks, sizeof params->ranks, context->ranks, "ranks", error);
        context->ranks = &params->ranks;
    }
    return status;
}

hymba_status hymba_context_create(hymba_model *model, const hymba_context_params *given,
                                  hymba_context **context, hymba_error *error)
{
    struct complete_params params;
    hymba_status status = hy_require(context, "context", error);
    if (status != HYMBA_OK)
        return status;
    *context = NULL;
    status = hy_require(model, "model", error);
    if (status == HYMBA_OK)
        status = read_context_params(&params, given, error);
    if (status == HYMBA_OK && params.context.host) {
        status = hy_read_struct(&params.host, sizeof params.host, params.context.host, "host",
                                error);
        params.context.host = &params.host;
    }
    return status == HYMBA_OK ? hy_context_create(model, &params.context, context, error) : status;
}

hymba_context *hymba_context_retain(hymba_context *context)
{
    return context ? hy_context_retain(context) : NULL;
}

void hymba_context_release(hymba_context *context)
{
    hy_context_release(context);
}

hymba_status hymba_context_get_info(const hymba_context *context, hymba_context_info *info,
                                    hymba_error *error)
{
    hymba_status status = hy_require(context, "context", error);
    if (status != HYMBA_OK)
        return status;
    hymba_context_info complete = {
        .device = hy_group_device(context),
        .cpu = context->backend.name,
        .n_threads = hy_pool_threads(context->backend.pool),
        .max_step_tokens = (uint32_t)context->workspace.rows,
        .cache_type = context->layout.cache_type,
        .state_type = context->layout.state_type,
        .compute = context->compute,
        .workspace_bytes = atomic_load(&context->memory.used),
        .rank = context->ranks.rank,
        .world_size = context->ranks.world_size,
    };
    return hy_write_struct(info, &complete, sizeof complete, "info", error);
}

/* What every measurement begins with; hy_context_leave ends it. */
static hymba_status enter_to_measure(hymba_context *context, const double *rate,
                                     hymba_error *error)
{
    hymba_status status = hy_require(context, "context", error);
    if (status == HYMBA_OK)
        status = hy_require(rate, "rate", error);
    return status == HYMBA_OK ? hy_context_enter(context, error) : status;
}

hymba_status hymba_context_measure_products(hymba_context *context, double *rate,
                                            hymba_error *error)
{
    hymba_status status = enter_to_measure(context, rate, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_context_measure_products(context, rate, error);
    hy_context_leave(context);
    return status;
}

hymba_status hymba_context_measure_bandwidth(hymba_context *context, uint64_t bytes, double *rate,
                                             hymba_error *error)
{
    hymba_status status = enter_to_measure(context, rate, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_context_measure_bandwidth(context, bytes, rate, error);
    hy_context_leave(context);
    return status;
}

hymba_status hymba_context_measure_kernels(hymba_context *context, int32_t on, hymba_error *error)
{
    hymba_status status = hy_require(context, "context", error);
    if (status == HYMBA_OK && on != 0 && on != 1)
        status = hy_fail(error, HYMBA_ERROR_ARGUMENT, "on: found %d, expected 0 or 1", (int)on);
    if (status == HYMBA_OK)
        status = hy_context_enter(context, error);
    if (status != HYMBA_OK)
        return status;
    for (uint32_t rank = 0; rank < hy_group_size(context); rank++) /* their steps are alike */
        hy_kernel_times_set(hy_group_context(context, rank), on == 1);
    hy_context_leave(context);
    return HYMBA_OK;
}

/* What a newer caller's elements have behind those that are known is set to zero. */
static hymba_status write_kernel_times(const struct hy_kernel_times *known,
                                       hymba_kernel_time *times, size_t time_size, size_t capacity,
                                       hymba_error *error)
{
    if (!known->kinds[0].name)
        return hy_fail(error, HYMBA_ERROR_STATE,
                       "no kernels were measured: hymba_context_measure_kernels begins it");
    hymba_status status = hy_check_buffer(times, capacity, HY_N_KERNELS, error);
    if (status != HYMBA_OK || !times)
        return status;
    for (size_t i = 0; i < HY_N_KERNELS; i++) {
        unsigned char *to = (unsigned char *)times + i * time_size;
        memset(to, 0, time_size);
        memcpy(to, &known->kinds[i], sizeof known->kinds[i]);
    }
    return HYMBA_OK;
}

hymba_status hymba_context_kernel_times(hymba_context *context, hymba_kernel_time *times,
                                        size_t time_size, size_t capacity, size_t *needed,
                                        hymba_error *error)
{
    hymba_status status = hy_require(context, "context", error);
    if (status == HYMBA_OK)
        status = hy_require(needed, "needed", error);
    if (status != HYMBA_OK)
        return status;
    *needed = HY_N_KERNELS;
    if (time_size < sizeof *times)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "time_size: found %zu, expected at least %zu", time_size, sizeof *times);
    status = hy_check_count(capacity, time_size, "capacity", error);
    if (status == HYMBA_OK && capacity > 0)
        status = hy_require(times, "times", error);
    if (status == HYMBA_OK)
        status = hy_context_enter(context, error);
    if (status != HYMBA_OK)
        return status;
    status = write_kernel_times(&context->kernel_times, times, time_size, capacity, error);
    hy_context_leave(context);
    return status;
}

void hymba_context_cancel(hymba_context *context)
{
    if (context)
        atomic_store(&context->cancel, true);
}

hymba_status hymba_model_get_memory_info(const hymba_model *model,
                                         const hymba_context_params *given,
                                         hymba_memory_info *info, hymba_error *error)
{
    struct complete_params params;
    hymba_memory_info complete;
    hymba_status status = hy_require(model, "model", error);
    if (status == HYMBA_OK)
        status = hy_require(info, "info", error);
    if (status == HYMBA_OK)
        status = read_context_params(&params, given, error);
    if (status == HYMBA_OK)
        status = hy_read_struct(&complete, sizeof complete, info, "info", error);
    if (status == HYMBA_OK)
        status = hy_context_memory(model, &params.context, &complete, error);
    return status == HYMBA_OK
               ? hy_write_struct(info, &complete, sizeof complete, "info", error)
               : status;
}

/* ---------------------------------------------------------------- session */

hymba_status hymba_session_create(hymba_context *context, const hymba_session_params *given,
                                  hymba_session **session, hymba_error *error)
{
    hymba_session_params params;
    hymba_status status = hy_require(session, "session", error);
    if (status != HYMBA_OK)
        return status;
    *session = NULL;
    status = hy_require(context, "context", error);
    if (status == HYMBA_OK)
        status = hy_read_struct(&params, sizeof params, given, "params", error);
    if (status == HYMBA_OK)
        status = hy_check_reserved(params.reserved, error);
    if (status == HYMBA_OK)
        status = hy_session_check_params(&params, error);
    if (status == HYMBA_OK)
        status = hy_context_enter(context, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_group_create_session(context, &params, session, error);
    hy_context_leave(context);
    return status;
}

hymba_session *hymba_session_retain(hymba_session *session)
{
    return session ? hy_session_retain(session) : NULL;
}

void hymba_session_release(hymba_session *session)
{
    hy_session_release(session);
}

static hymba_status enter_session(hymba_session *session, hymba_error *error)
{
    hymba_status status = hy_require(session, "session", error);
    return status == HYMBA_OK ? hy_context_enter(session->context, error) : status;
}

hymba_status hymba_session_reset(hymba_session *session, hymba_error *error)
{
    hymba_status status = enter_session(session, error);
    if (status != HYMBA_OK)
        return status;
    hy_group_reset(session);
    hy_context_leave(session->context);
    return HYMBA_OK;
}

hymba_status hymba_session_reserve(hymba_session *session, uint64_t n_tokens, hymba_error *error)
{
    hymba_status status = enter_session(session, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_group_reserve(session, n_tokens, error);
    hy_context_leave(session->context);
    return status;
}

uint64_t hymba_session_length(const hymba_session *session)
{
    return session ? session->n_tokens : 0;
}

const int32_t *hymba_session_tokens(const hymba_session *session)
{
    return session ? session->tokens : NULL;
}

static hymba_status check_logits(int32_t logits, hymba_error *error)
{
    if (logits < HYMBA_LOGITS_NONE || logits > HYMBA_LOGITS_ALL)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "logits: found %d, expected 0 to %d",
                       (int)logits, HYMBA_LOGITS_ALL);
    return HYMBA_OK;
}

hymba_status hymba_session_append(hymba_session *session, const int32_t *tokens, size_t n_tokens,
                                  int32_t logits, hymba_error *error)
{
    hymba_status status = hy_require(session, "session", error);
    if (status == HYMBA_OK)
        status = hy_require(tokens, "tokens", error);
    if (status == HYMBA_OK)
        status = check_logits(logits, error);
    if (status == HYMBA_OK)
        status = hy_context_enter(session->context, error);
    if (status != HYMBA_OK)
        return status;
    struct hy_item item = {
        .session = session, .tokens = tokens, .n_tokens = n_tokens, .logits = logits};
    status = hy_group_decode(session->context, &item, 1, error);
    hy_context_leave(session->context);
    return status;
}

/* The item of a caller whose items may end earlier: what is missing is zero. */
static hymba_batch_item item_at(const hymba_batch_item *items, size_t item_size, size_t i)
{
    hymba_batch_item item = {.session = NULL};
    memcpy(&item, (const char *)items + i * item_size, hy_min_size(item_size, sizeof item));
    return item;
}

static hymba_status check_sampler(const hymba_batch_item *item, size_t index, hymba_error *error)
{
    if (!item->sampler == !item->token)
        return HYMBA_OK;
    return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)index,
                      "items[%zu]: %s is NULL, but %s is not", index,
                      item->sampler ? "token" : "sampler", item->sampler ? "sampler" : "token");
}

static hymba_status check_batch_item(const hymba_context *context, const hymba_batch_item *items,
                                     size_t item_size, size_t index, hymba_error *error)
{
    hymba_batch_item item = item_at(items, item_size, index);
    hymba_status status = hy_check_element((const char *)items + index * item_size, item_size,
                                           sizeof item, "items", index, error);
    if (status != HYMBA_OK)
        return status;
    if (item.reserved != 0)
        return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)index,
                          "items[%zu].reserved: found %d, expected 0", index, (int)item.reserved);
    if (!item.session || !item.tokens)
        return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)index, "items[%zu]: %s is NULL",
                          index, item.session ? "tokens" : "session");
    if (item.session->context != context)
        return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)index,
                          "items[%zu]: the session belongs to another context", index);
    status = check_logits(item.logits, error);
    return status == HYMBA_OK ? check_sampler(&item, index, error) : status;
}

/* Each session, and each sampler, gets its item's number in turn and must still hold it
 * afterwards. */
static hymba_status refuse_repeated(const struct hy_item *items, size_t n, hymba_error *error)
{
    for (size_t i = 0; i < n; i++) {
        items[i].session->batch_mark = i;
        if (items[i].sampler)
            hy_sampler_mark(items[i].sampler, i);
    }
    for (size_t i = 0; i < n; i++) {
        size_t session = items[i].session->batch_mark;
        size_t sampler = items[i].sampler ? hy_sampler_marked(items[i].sampler) : i;
        if (session != i || sampler != i)
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)i,
                              "items[%zu]: its %s stands in the batch again as items[%zu]", i,
                              session != i ? "session" : "sampler",
                              session != i ? session : sampler);
    }
    return HYMBA_OK;
}

static hymba_status decode_items(hymba_context *context, const hymba_batch_item *items,
                                 size_t item_size, size_t n_items, hymba_error *error)
{
    struct hy_item *list;
    hymba_status status = hy_decode_items(context, n_items, &list, error);
    for (size_t i = 0; status == HYMBA_OK && i < n_items; i++) {
        hymba_batch_item item = item_at(items, item_size, i);
        list[i] = (struct hy_item){
            .session = item.session,
            .tokens = item.tokens,
            .n_tokens = item.n_tokens,
            .logits = item.logits,
            .sampler = item.sampler,
            .token = item.token,
        };
    }
    if (status == HYMBA_OK)
        status = refuse_repeated(list, n_items, error);
    return status == HYMBA_OK ? hy_group_decode(context, list, n_items, error) : status;
}

enum { FIRST_ITEM = offsetof(hymba_batch_item, sampler) }; /* its size in the first header */

hymba_status hymba_context_decode(hymba_context *context, const hymba_batch_item *items,
                                  size_t item_size, size_t n_items, hymba_error *error)
{
    hymba_status status = hy_require(context, "context", error);
    if (status == HYMBA_OK)
        status = hy_require(items, "items", error);
    if (status != HYMBA_OK)
        return status;
    if (item_size < FIRST_ITEM || n_items == 0)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "found %zu items of %zu bytes, expected at least 1 of at least %d", n_items,
                       item_size, FIRST_ITEM);
    status = hy_check_count(n_items, item_size, "n_items", error);
    for (size_t i = 0; status == HYMBA_OK && i < n_items; i++)
        status = check_batch_item(context, items, item_size, i, error);
    if (status == HYMBA_OK)
        status = hy_context_enter(context, error);
    if (status != HYMBA_OK)
        return status;
    status = decode_items(context, items, item_size, n_items, error);
    hy_context_leave(context);
    return status;
}

hymba_status hymba_session_logits(const hymba_session *session, const float **logits, size_t *rows,
                                  hymba_error *error)
{
    hymba_status status = hy_require(session, "session", error);
    if (status == HYMBA_OK)
        status = hy_require(logits, "logits", error);
    if (status != HYMBA_OK)
        return status;
    *logits = NULL;
    if (rows)
        *rows = 0;
    if (session->logits_rows == 0)
        return hy_fail(error, HYMBA_ERROR_STATE,
                       "the session's last call computed no logits");
    *logits = session->logits;
    if (rows)
        *rows = session->logits_rows;
    return HYMBA_OK;
}

hymba_status hymba_session_score(hymba_session *session, const int32_t *tokens, size_t n_tokens,
                                 float *log_probabilities, hymba_error *error)
{
    hymba_status status = hy_require(session, "session", error);
    if (status == HYMBA_OK)
        status = hy_require(tokens, "tokens", error);
    if (status == HYMBA_OK)
        status = hy_require(log_probabilities, "log_probabilities", error);
    if (status == HYMBA_OK)
        status = hy_context_enter(session->context, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_group_score(session, tokens, n_tokens, log_probabilities, error);
    hy_context_leave(session->context);
    return status;
}
