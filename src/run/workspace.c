#include "run/workspace.h"

#include <string.h>

#include "base/checked.h"
#include "kernel/kernel.h"

/* Hands out parts of a block that may not exist yet: with a NULL base it only counts. */
struct divider {
    unsigned char *base;
    size_t used;
    bool overflow;
};

static void *take(struct divider *divider, size_t rows, size_t width, size_t size)
{
    size_t begin = divider->used, elements, bytes, padded;
    if (!hy_mul_size(rows, width, &elements) || !hy_mul_size(elements, size, &bytes) ||
        !hy_add_size(bytes, HY_ALIGNMENT - 1, &padded) ||
        !hy_add_size(begin, padded / HY_ALIGNMENT * HY_ALIGNMENT, &divider->used))
        divider->overflow = true;
    return divider->base && !divider->overflow ? divider->base + begin : NULL;
}

static void divide(struct divider *divider, const struct hy_plan *plan,
                   const struct hy_state_layout *layout, struct hy_workspace *workspace)
{
    const struct hy_config *config = &plan->config;
    size_t rows = workspace->buffer_rows, f32 = sizeof(float), columns = hy_plan_max_columns(plan);
    workspace->x = take(divider, rows, config->hidden_size, f32);
    workspace->u = take(divider, rows, config->hidden_size, f32);
    workspace->cosine = take(divider, rows, config->qk_head_size / 2 + 1, f32);
    workspace->sine = take(divider, rows, config->qk_head_size / 2 + 1, f32);
    workspace->logits = take(divider, workspace->logits_buffer_rows, config->vocabulary_size, f32);
    workspace->step_kv = take(divider, layout->step_bytes, 1, 1);
    size_t whole_blocks = (rows / HY_ROW_BLOCK + 1) * HY_ROW_BLOCK;
    workspace->rounded = take(divider, whole_blocks, columns, 2);
    workspace->rounded_scales = take(divider, whole_blocks, columns / 32, f32);
    workspace->rounded_sums = take(divider, whole_blocks, columns / 32, sizeof(int32_t));
    workspace->ids = take(divider, rows, 1, sizeof(int32_t));
    workspace->tokens = take(divider, workspace->logits_rows, 1, sizeof(int32_t));
    size_t shared = divider->used;
    size_t inner = config->inner_size;
    workspace->proj = take(divider, rows, hy_max_size(plan->max_in_rows, 2 * inner), f32);
    workspace->fused = workspace->proj; /* nobody reads proj once both streams are there */
    workspace->conv = take(divider, rows, inner, f32);
    workspace->dt_b_c = take(divider, rows, config->dt_rank + 2 * config->state_size, f32);
    workspace->square_sums = workspace->dt_b_c; /* which has 3 columns or more */
    workspace->dt = take(divider, rows, inner, f32);
    workspace->attention = take(divider, rows, inner, f32);
    workspace->ssm = workspace->dt; /* the scan puts each result where its dt was */
    size_t mixer_end = divider->used;
    divider->used = shared;
    workspace->gate = take(divider, rows, config->intermediate_size, f32);
    workspace->up = take(divider, rows, config->intermediate_size, f32);
    divider->used = hy_max_size(divider->used, mixer_end);
}

static size_t logits_rows(bool device, size_t rows)
{
    return device ? hy_min_size(rows, HY_DEVICE_LOGITS_ROWS) : HY_LOGITS_ROWS;
}

static size_t whole_panels(size_t rows)
{
    return hy_round_up(rows, HY_PANEL_ROWS);
}

/* How many rows the parts of a workspace for steps of rows tokens have. */
static struct hy_workspace workspace_of(bool device, size_t rows)
{
    size_t logits = logits_rows(device, rows);
    return (struct hy_workspace){
        .rows = rows,
        .buffer_rows = device ? whole_panels(rows) : rows,
        .logits_rows = logits,
        .logits_buffer_rows = device ? whole_panels(logits) : logits,
    };
}

hymba_status hy_workspace_bytes(const struct hy_plan *plan, const struct hy_state_layout *layout,
                                bool device, size_t rows, size_t *bytes, hymba_error *error)
{
    struct divider divider = {0};
    struct hy_workspace workspace = workspace_of(device, rows);
    divide(&divider, plan, layout, &workspace);
    *bytes = divider.used;
    if (divider.overflow)
        return hy_fail(error, HYMBA_ERROR_LIMIT,
                       "a workspace for steps of %zu tokens does not fit the address space", rows);
    return HYMBA_OK;
}

static void divide_staging(struct divider *divider, const struct hy_plan *plan,
                           struct hy_workspace *workspace)
{
    size_t half = plan->config.qk_head_size / 2 + 1;
    workspace->host_ids = take(divider, workspace->rows, 1, sizeof(int32_t));
    workspace->host_tokens = take(divider, workspace->logits_rows, 1, sizeof(int32_t));
    workspace->host_cosine = take(divider, workspace->rows, half, sizeof(float));
    workspace->host_sine = take(divider, workspace->rows, half, sizeof(float));
    workspace->host_logits =
        take(divider, workspace->logits_rows, plan->config.vocabulary_size, sizeof(float));
}

size_t hy_workspace_staging_bytes(const struct hy_plan *plan, size_t rows)
{
    struct divider divider = {0};
    struct hy_workspace workspace = workspace_of(true, rows);
    divide_staging(&divider, plan, &workspace);
    return divider.used;
}

static hymba_status create_staging(struct hy_memory *memory, const struct hy_plan *plan,
                                   struct hy_workspace *workspace, hymba_error *error)
{
    if (!workspace->plugin) {
        workspace->host_ids = workspace->ids;
        workspace->host_tokens = workspace->tokens;
        workspace->host_cosine = workspace->cosine;
        workspace->host_sine = workspace->sine;
        workspace->host_logits = workspace->logits;
        return HYMBA_OK;
    }
    size_t bytes = hy_workspace_staging_bytes(plan, workspace->rows);
    workspace->staging = hy_alloc(memory, bytes);
    if (!workspace->staging)
        return hy_no_memory(error, bytes, "the host's part of the workspace");
    struct divider divider = {.base = workspace->staging};
    divide_staging(&divider, plan, workspace);
    return HYMBA_OK;
}

hymba_status hy_workspace_create(struct hy_memory *memory, struct hy_plugin *plugin,
                                 const struct hy_plan *plan, const struct hy_state_layout *layout,
                                 size_t rows, struct hy_workspace *workspace, hymba_error *error)
{
    *workspace = workspace_of(plugin != NULL, rows);
    size_t bytes;
    hymba_status status = hy_workspace_bytes(plan, layout, plugin != NULL, rows, &bytes, error);
    if (status != HYMBA_OK)
        return status;
    workspace->plugin = plugin;
    workspace->block = hy_store_alloc(memory, plugin, bytes);
    if (!workspace->block)
        return hy_no_memory(error, bytes, "the workspace");
    struct divider divider = {.base = (unsigned char *)workspace->block};
    workspace->bytes = bytes;
    divide(&divider, plan, layout, workspace);
    /* Rows without a meaning are multiplied, too, which must not change any others. They are read
     * before they are written: as what is not a number, which would show. */
    if (plugin)
        hy_store_fill(plugin, workspace->block, 0xff, bytes);
    return create_staging(memory, plan, workspace, error);
}

void hy_workspace_free(struct hy_memory *memory, struct hy_workspace *workspace)
{
    hy_store_free(memory, workspace->plugin, workspace->block, workspace->bytes);
    hy_free(memory, workspace->staging);
    memset(workspace, 0, sizeof *workspace);
}
