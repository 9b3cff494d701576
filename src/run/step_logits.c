#include "run/step_logits.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "run/forward.h"
#include "text/sampler.h"

/* Rows whose logits somebody wants, gathered until there are enough for one product. */
struct logits_block {
    hymba_context *context;
    const struct hy_item *items; /* of the call */
    size_t n;
    size_t rows[HY_DEVICE_LOGITS_ROWS];
    size_t item[HY_DEVICE_LOGITS_ROWS];
    size_t tokens[HY_DEVICE_LOGITS_ROWS]; /* how many of the item come before */
    bool sampled[HY_DEVICE_LOGITS_ROWS];  /* on the device */
};

/* ------------------------------------------------------------ reservation */

/* What does not hang on the call. */
static hymba_status reserve_rows(hymba_context *context, hymba_error *error)
{
    struct hy_sampling *sampling = &context->sampling;
    size_t n = context->model->plan.config.vocabulary_size;
    if (!sampling->counts)
        sampling->counts = hy_alloc_zero(&context->memory, n, sizeof *sampling->counts);
    if (!sampling->rows)
        sampling->rows =
            hy_alloc_array(&context->memory, HY_DEVICE_LOGITS_ROWS, sizeof *sampling->rows);
    return sampling->counts && sampling->rows
               ? HYMBA_OK
               : hy_no_memory(error, n * sizeof *sampling->counts, "sampling on the device");
}

static hymba_status reserve_changes(hymba_context *context, size_t n, hymba_error *error)
{
    struct hy_sampling *sampling = &context->sampling;
    size_t bytes;
    if (n <= sampling->capacity)
        return HYMBA_OK;
    struct hy_sample_change *grown = NULL;
    if (!hy_mul_size(n, sizeof *grown, &bytes) ||
        !(grown = hy_realloc(&context->memory, sampling->changes, bytes)))
        return hy_no_memory(error, n, "the tokens that a batch's samplers penalise");
    sampling->changes = grown;
    sampling->capacity = n;
    return HYMBA_OK;
}

hymba_status hy_step_logits_reserve(hymba_context *context, const struct hy_item *items, size_t n,
                                    hymba_error *error)
{
    size_t vocabulary = context->model->plan.config.vocabulary_size, n_changes = 0;
    bool samples = false;
    for (size_t i = 0; i < n; i++) {
        if (!items[i].sampler)
            continue;
        samples = true;
        if (!hy_add_size(n_changes, hy_sampler_max_changes(items[i].sampler, vocabulary),
                         &n_changes))
            return hy_no_memory(error, SIZE_MAX, "the tokens that a batch's samplers penalise");
    }
    if (!samples || !context->backend.plugin)
        return HYMBA_OK;
    hymba_status status = reserve_rows(context, error);
    /* one more, so that there is a place to point to where nothing changes */
    return status == HYMBA_OK ? reserve_changes(context, n_changes + 1, error) : status;
}

void hy_sampling_free(struct hy_memory *memory, struct hy_sampling *sampling)
{
    hy_free(memory, sampling->rows);
    hy_free(memory, sampling->counts);
    hy_free(memory, sampling->changes);
}

/* ----------------------------------------------------------- who wants what */

static bool is_last(const struct hy_item *item, size_t token)
{
    return token + 1 == item->n_tokens;
}

/* In the session, or as probabilities of tokens. */
static bool wants_logits(const struct hy_item *item, size_t token)
{
    return item->logits == HYMBA_LOGITS_ALL ||
           (item->logits == HYMBA_LOGITS_LAST && is_last(item, token)) ||
           (item->log_probabilities && !is_last(item, token));
}

static bool wants_token(const struct hy_item *item, size_t token)
{
    return item->sampler && is_last(item, token);
}

float hy_step_log_probability(const float *logits, size_t n, int32_t token)
{
    double sum = 0.0;
    float largest = logits[0];
    for (size_t i = 1; i < n; i++)
        if (logits[i] > largest)
            largest = logits[i];
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - (double)largest);
    return (float)((double)logits[token] - (double)largest - log(sum));
}

/* Gives the logits of an item's token to whoever asked for them. */
static void deliver(const hymba_context *context, const struct hy_item *item, size_t token,
                    const float *logits)
{
    size_t vocabulary = context->model->plan.config.vocabulary_size;
    bool last = is_last(item, token);
    if (item->log_probabilities && !last)
        item->log_probabilities[token + 1] =
            hy_step_log_probability(logits, vocabulary, item->tokens[token + 1]);
    if (item->logits == HYMBA_LOGITS_ALL || (item->logits == HYMBA_LOGITS_LAST && last)) {
        size_t row = item->logits == HYMBA_LOGITS_ALL ? token : 0;
        memcpy(item->session->logits + row * vocabulary, logits, vocabulary * sizeof *logits);
    }
}

/* ----------------------------------------------------------------- sampling */

/* A failure that is one item's own. */
static hymba_status fail_item(size_t item, const hymba_error *cause, hymba_error *error)
{
    hymba_error named = *cause;
    named.position = (int64_t)item;
    return hy_fail_again(error, &named);
}

/* What the device has chosen. */
static hymba_status take_over(const struct logits_block *block, size_t i, int32_t token,
                              hymba_error *error)
{
    hymba_error cause = {.struct_size = sizeof cause};
    hymba_status status =
        hy_sampler_choose_token(block->items[block->item[i]].sampler, token, &cause);
    return status == HYMBA_OK ? status : fail_item(block->item[i], &cause, error);
}

static hymba_status choose_on_host(const struct logits_block *block, size_t i, hymba_error *error)
{
    hymba_error cause = {.struct_size = sizeof cause};
    size_t vocabulary = block->context->model->plan.config.vocabulary_size;
    hymba_status status = hy_sampler_choose(
        block->items[block->item[i]].sampler,
        block->context->workspace.host_logits + i * vocabulary, vocabulary, &cause);
    return status == HYMBA_OK ? status : fail_item(block->item[i], &cause, error);
}

/* Has the device choose what it can. */
static void sample_on_device(struct logits_block *block)
{
    hymba_context *context = block->context;
    struct hy_sampling *sampling = &context->sampling;
    const struct hy_workspace *work = &context->workspace;
    size_t vocabulary = context->model->plan.config.vocabulary_size, n = 0, n_changes = 0;
    for (size_t i = 0; i < block->n; i++) {
        const struct hy_item *item = &block->items[block->item[i]];
        struct hy_sample_row *row = &sampling->rows[n];
        if (!wants_token(item, block->tokens[i]))
            continue;
        block->sampled[i] = hy_sampler_plan_row(item->sampler, vocabulary, sampling->counts,
                                                sampling->changes + n_changes, row);
        if (!block->sampled[i]) {
            if (!sampling->told)
                hy_log(&context->memory, HYMBA_LOG_INFO,
                       "a sampler has stages that %s does not: for its tokens the logits are "
                       "copied to the host",
                       context->backend.device);
            sampling->told = true;
            continue;
        }
        row->row = i;
        n_changes += row->n_changes;
        n++;
    }
    if (n == 0)
        return;
    struct hy_sample_args args = {
        .logits = work->logits,
        .stride = vocabulary,
        .n_logits = vocabulary,
        .rows = sampling->rows,
        .n_rows = n,
        .tokens = work->tokens,
    };
    hy_backend_sample(&context->backend, &args);
    hy_store_get(context->backend.plugin, work->host_tokens, work->tokens,
                 n * sizeof *work->tokens);
}

static void fetch_rows(const struct logits_block *block, size_t first, size_t n)
{
    const struct hy_workspace *work = &block->context->workspace;
    size_t vocabulary = block->context->model->plan.config.vocabulary_size;
    hy_store_get(block->context->backend.plugin, work->host_logits + first * vocabulary,
                 work->logits + first * vocabulary, n * vocabulary * sizeof *work->logits);
}

/* Brings to the host what is wanted there; rows that follow each other together. */
static void fetch_wanted(const struct logits_block *block)
{
    size_t first = 0;
    for (size_t i = 0; i <= block->n; i++) {
        if (i < block->n && (!block->sampled[i] ||
                             wants_logits(&block->items[block->item[i]], block->tokens[i])))
            continue;
        if (i > first)
            fetch_rows(block, first, i - first);
        first = i + 1;
    }
}

/* Takes over what the device has chosen. What it refuses the sampler itself refuses, and says
 * why. */
static hymba_status take_sampled(const struct logits_block *block, hymba_error *error)
{
    struct hy_plugin *plugin = block->context->backend.plugin;
    const int32_t *token = block->context->workspace.host_tokens;
    hymba_status status = HYMBA_OK;
    for (size_t i = 0; status == HYMBA_OK && i < block->n; i++) {
        if (!block->sampled[i])
            continue;
        if (*token >= 0) {
            status = take_over(block, i, *token, error);
        } else {
            fetch_rows(block, i, 1);
            status = hy_store_finish(plugin, error);
            if (status == HYMBA_OK)
                status = choose_on_host(block, i, error);
        }
        token++;
    }
    return status;
}

/* ------------------------------------------------------------------- a step */

static hymba_status flush(struct logits_block *block, hymba_error *error)
{
    hymba_context *context = block->context;
    size_t vocabulary = context->model->plan.config.vocabulary_size;
    hymba_status status = HYMBA_OK;
    if (block->n == 0)
        return HYMBA_OK;
    hy_forward_logits(context, block->rows, block->n);
    memset(block->sampled, 0, sizeof block->sampled);
    if (context->backend.plugin) {
        sample_on_device(block);
        fetch_wanted(block);
        status = hy_store_finish(context->backend.plugin, error);
        if (status == HYMBA_OK)
            status = take_sampled(block, error);
    }
    for (size_t i = 0; status == HYMBA_OK && i < block->n; i++) {
        const struct hy_item *item = &block->items[block->item[i]];
        deliver(context, item, block->tokens[i], context->workspace.host_logits + i * vocabulary);
        if (wants_token(item, block->tokens[i]) && !block->sampled[i])
            status = choose_on_host(block, i, error);
    }
    block->n = 0;
    return status;
}

hymba_status hy_step_logits(hymba_context *context, const struct hy_item *items, size_t n,
                            hymba_error *error)
{
    const struct hy_step_lists *lists = &context->lists;
    struct logits_block block = {.context = context, .items = items};
    for (size_t i = 0; i < n; i++) {
        size_t index = lists->sequences[i].item;
        const struct hy_segment *segment = &lists->sequences[i].segment;
        size_t done = lists->progress[index].done;
        for (size_t t = 0; t < segment->n_rows; t++) {
            if (!wants_logits(&items[index], done + t) && !wants_token(&items[index], done + t))
                continue;
            block.rows[block.n] = segment->row + t;
            block.item[block.n] = index;
            block.tokens[block.n++] = done + t;
            if (block.n < context->workspace.logits_rows)
                continue;
            hymba_status status = hy_context_check_cancel(context, error);
            if (status == HYMBA_OK)
                status = flush(&block, error);
            if (status != HYMBA_OK)
                return status;
        }
    }
    hymba_status status = flush(&block, error);
    return status == HYMBA_OK ? hy_context_check_cancel(context, error) : status;
}
