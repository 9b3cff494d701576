#include "model/shard.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"

/* Columns that are dealt out together, at least. */
enum { GRANULE = 64 };

/* ------------------------------------------------------------------ dealing */

/* A rank's part of n things; the first ranks have one more where they do not go round. */
static struct hy_range deal(size_t n, struct hy_shard shard)
{
    size_t share = n / shard.world_size, more = n % shard.world_size;
    size_t begin = shard.rank * share + hy_min_size(shard.rank, more);
    return (struct hy_range){begin, begin + share + (shard.rank < more)};
}

/* The same, but the last ranks have one more. */
static struct hy_range deal_from_behind(size_t n, struct hy_shard shard)
{
    shard.rank = shard.world_size - 1 - shard.rank;
    struct hy_range range = deal(n, shard);
    return (struct hy_range){n - range.end, n - range.begin};
}

static struct hy_range times(struct hy_range range, size_t factor, size_t most)
{
    return (struct hy_range){hy_min_size(range.begin * factor, most),
                             hy_min_size(range.end * factor, most)};
}

static uint64_t least_common_multiple(uint64_t a, uint64_t b)
{
    uint64_t x = a, y = b;
    while (y != 0) {
        uint64_t rest = x % y;
        x = y;
        y = rest;
    }
    return a / x * b;
}

/* A model and whom it is split for. */
struct splitter {
    const struct hy_plan *whole;
    const struct hy_weights *weights; /* NULL: none */
    struct hy_shard shard;
};

/* Of a layer's matrix; 1 unless it is quantised. */
static size_t group_of(const struct splitter *splitter, enum hy_slot slot, uint32_t layer)
{
    struct hy_slot_info info;
    if (!splitter->weights || !hy_plan_slot(splitter->whole, slot, layer, &info))
        return 1;
    struct hy_weights weights = *splitter->weights; /* asked for where it lies, not changed */
    return hy_max_size(hy_weights_matrix(&weights, slot, layer)->group, 1);
}

/* What columns of these matrices are dealt out in: scales belong to whole groups. Beyond the
 * columns of any matrix it does not matter how many there are. */
static size_t granule_of(const struct splitter *splitter, const enum hy_slot *slots, size_t n_slots)
{
    uint64_t granule = GRANULE;
    for (uint32_t layer = 0; layer < splitter->whole->config.n_layers; layer++)
        for (size_t i = 0; i < n_slots && granule < UINT32_MAX; i++)
            granule = least_common_multiple(granule, group_of(splitter, slots[i], layer));
    return granule < UINT32_MAX ? (size_t)granule : UINT32_MAX;
}

static hymba_status refuse_ranks(const struct splitter *splitter, size_t n, const char *parts,
                                 hymba_error *error)
{
    return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                   "world_size: found %" PRIu32 " ranks for a model that can be split into %zu "
                   "parts at most (%s)", splitter->shard.world_size, n, parts);
}

/* Columns with no heads to go by. */
static hymba_status split_columns(const struct splitter *splitter, size_t n, size_t granule,
                                  const char *name, struct hy_range *range, hymba_error *error)
{
    size_t granules = n / granule + (n % granule != 0);
    if (granules < splitter->shard.world_size)
        return refuse_ranks(splitter, granules, name, error);
    *range = times(deal_from_behind(granules, splitter->shard), granule, n);
    return HYMBA_OK;
}

/* Whether channels that end with key heads end with the groups of those quantised along them. */
static hymba_status check_groups(const struct splitter *splitter, enum hy_slot slot,
                                 size_t channels_of_head, hymba_error *error)
{
    const struct hy_config *config = &splitter->whole->config;
    struct hy_shard shard = splitter->shard;
    for (uint32_t layer = 0; layer < config->n_layers; layer++) {
        size_t group = group_of(splitter, slot, layer);
        for (shard.rank = 1; shard.rank < shard.world_size; shard.rank++) {
            size_t border = deal(config->n_kv_heads, shard).begin * channels_of_head;
            struct hy_slot_info info;
            if (border % group == 0 || !hy_plan_slot(splitter->whole, slot, layer, &info))
                continue;
            return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                           "world_size: tensor %s is quantised in groups of %zu, but %" PRIu32
                           " ranks would part it at column %zu", info.name, group,
                           shard.world_size, border);
        }
    }
    return HYMBA_OK;
}

static hymba_status split_heads(const struct splitter *splitter, struct hy_split *split,
                                hymba_error *error)
{
    const struct hy_config *config = &splitter->whole->config;
    size_t heads = config->n_heads / config->n_kv_heads, channels = heads * config->v_head_size;
    if (config->n_kv_heads < splitter->shard.world_size)
        return refuse_ranks(splitter, config->n_kv_heads, "one for each of its key heads", error);
    split->kv_heads = deal(config->n_kv_heads, splitter->shard);
    split->heads = times(split->kv_heads, heads, config->n_heads);
    split->channels = times(split->kv_heads, channels, config->inner_size);
    hymba_status status = check_groups(splitter, HY_SLOT_X_PROJ, channels, error);
    return status == HYMBA_OK ? check_groups(splitter, HY_SLOT_OUT_PROJ, channels, error) : status;
}

/* Which kinds of parts there are in any layer. */
struct kinds {
    bool attention, ssm, ffn;
};

static struct kinds find_kinds(const struct hy_plan *plan)
{
    struct kinds kinds = {false, false, false};
    for (uint32_t i = 0; i < plan->config.n_layers; i++) {
        kinds.attention |= plan->layers[i].attention != HYMBA_ATTENTION_NONE;
        kinds.ssm |= plan->layers[i].ssm != HYMBA_SSM_NONE;
        kinds.ffn |= plan->layers[i].ffn != HYMBA_FFN_NONE;
    }
    return kinds;
}

/* Columns are dealt out from behind: ranks that have a head more have no more columns, too. */
hymba_status hy_shard_split(const struct hy_plan *whole, const struct hy_weights *weights,
                            struct hy_shard shard, struct hy_split *split, hymba_error *error)
{
    static const enum hy_slot along_channels[] = {HY_SLOT_X_PROJ, HY_SLOT_OUT_PROJ};
    static const enum hy_slot along_ffn[] = {HY_SLOT_DOWN};
    const struct hy_config *config = &whole->config;
    const struct splitter splitter = {whole, weights, shard};
    const struct kinds kinds = find_kinds(whole);
    hymba_status status = HYMBA_OK;
    *split = (struct hy_split){
        .kv_heads = {0, config->n_kv_heads},
        .heads = {0, config->n_heads},
        .channels = {0, config->inner_size},
        .ffn = {0, config->intermediate_size},
    };
    if (kinds.attention)
        status = split_heads(&splitter, split, error);
    else if (kinds.ssm)
        status = split_columns(&splitter, config->inner_size,
                               granule_of(&splitter, along_channels, 2), "of its SSM channels",
                               &split->channels, error);
    if (status == HYMBA_OK && kinds.ffn)
        status = split_columns(&splitter, config->intermediate_size,
                               granule_of(&splitter, along_ffn, 1),
                               "of the columns of its feed-forward network", &split->ffn, error);
    return status;
}

hymba_status hy_shard_plan(struct hy_memory *memory, const struct hy_plan *whole,
                           const struct hy_weights *weights, struct hy_shard shard,
                           struct hy_plan *plan, hymba_error *error)
{
    struct hy_config config = whole->config;
    struct hy_split split;
    memset(plan, 0, sizeof *plan);
    hymba_status status = hy_shard_split(whole, weights, shard, &split, error);
    if (status != HYMBA_OK)
        return status;
    config.n_kv_heads = (uint32_t)(split.kv_heads.end - split.kv_heads.begin);
    config.n_heads = (uint32_t)(split.heads.end - split.heads.begin);
    config.inner_size = (uint32_t)(split.channels.end - split.channels.begin);
    config.intermediate_size = (uint32_t)(split.ffn.end - split.ffn.begin);
    config.layers = hy_alloc_array(memory, config.n_layers, sizeof *config.layers);
    if (!config.layers)
        return hy_no_memory(error, config.n_layers * sizeof *config.layers, "a rank's plan");
    memcpy(config.layers, whole->config.layers, config.n_layers * sizeof *config.layers);
    return hy_plan_create(memory, &config, plan, error);
}

/* ------------------------------------------------------------------ cutting */

static void add_range(struct hy_ranges *ranges, size_t first, size_t size, struct hy_range range)
{
    ranges->list[ranges->n++] =
        (struct hy_range){first + size * range.begin, first + size * range.end};
}

/* The slices of in_proj, as the plan lays them one behind the other. */
static struct hy_ranges rows_of_in_proj(const struct hy_plan *whole, const struct hy_split *split,
                                        const struct hy_layer_plan *layer)
{
    const struct hy_config *config = &whole->config;
    struct hy_ranges rows = {.n = 0};
    if (layer->attention != HYMBA_ATTENTION_NONE) {
        add_range(&rows, layer->q_row, config->qk_head_size, split->heads);
        if (layer->kv_producer) {
            add_range(&rows, layer->k_row, config->qk_head_size, split->kv_heads);
            add_range(&rows, layer->v_row, config->v_head_size, split->kv_heads);
        }
    }
    if (layer->ssm != HYMBA_SSM_NONE) {
        add_range(&rows, layer->x_row, 1, split->channels);
        add_range(&rows, layer->z_row, 1, split->channels);
    }
    return rows;
}

/* Of one stream, or of two side by side. */
static struct hy_ranges columns_of_out_proj(const struct hy_plan *whole,
                                            const struct hy_split *split,
                                            const struct hy_layer_plan *layer)
{
    struct hy_ranges columns = {.n = 0};
    add_range(&columns, 0, 1, split->channels);
    if (layer->fusion == HYMBA_FUSION_CONCAT)
        add_range(&columns, whole->config.inner_size, 1, split->channels);
    return columns;
}

static struct hy_ranges one_range(size_t begin, size_t end)
{
    return (struct hy_ranges){.list = {{begin, end}}, .n = 1};
}

/* The tensor as a whole; those that are transposed while loading have their channels last. */
static struct hy_cut whole_tensor(const struct hy_plan *whole, enum hy_slot slot, uint32_t layer)
{
    struct hy_slot_info info = {.n_dims = 0};
    hy_plan_slot(whole, slot, layer, &info);
    size_t rows = info.n_dims > 1 ? (size_t)info.shape[0] : 1;
    size_t columns = (size_t)info.n_elements / rows;
    if (slot == HY_SLOT_CONV_WEIGHT || slot == HY_SLOT_A_LOG)
        return (struct hy_cut){one_range(0, columns), one_range(0, rows)};
    return (struct hy_cut){one_range(0, rows), one_range(0, columns)};
}

struct hy_matrix hy_shard_small(const struct hy_plan *whole, enum hy_slot slot, uint32_t layer,
                                const float *data)
{
    struct hy_cut all = whole_tensor(whole, slot, layer);
    return (struct hy_matrix){
        .data = data,
        .dtype = HYMBA_DTYPE_F32,
        .rows = hy_ranges_count(&all.rows),
        .columns = hy_ranges_count(&all.columns),
    };
}

struct hy_cut hy_shard_cut(const struct hy_plan *whole, const struct hy_split *split,
                           enum hy_slot slot, uint32_t layer)
{
    struct hy_cut cut = whole_tensor(whole, slot, layer);
    const struct hy_ranges channels = one_range(split->channels.begin, split->channels.end);
    const struct hy_ranges ffn = one_range(split->ffn.begin, split->ffn.end);
    switch (slot) {
    case HY_SLOT_IN_PROJ:
        cut.rows = rows_of_in_proj(whole, split, &whole->layers[layer]);
        break;
    case HY_SLOT_OUT_PROJ:
        cut.columns = columns_of_out_proj(whole, split, &whole->layers[layer]);
        break;
    case HY_SLOT_DT_PROJ:
        cut.rows = channels;
        break;
    case HY_SLOT_X_PROJ:
    case HY_SLOT_CONV_WEIGHT:
    case HY_SLOT_CONV_BIAS:
    case HY_SLOT_DT_BIAS:
    case HY_SLOT_A_LOG:
    case HY_SLOT_D:
    case HY_SLOT_ATTENTION_NORM:
    case HY_SLOT_SSM_NORM:
        cut.columns = channels;
        break;
    case HY_SLOT_GATE:
    case HY_SLOT_UP:
        cut.rows = ffn;
        break;
    case HY_SLOT_DOWN:
        cut.columns = ffn;
        break;
    default: /* the same for all ranks */
        break;
    }
    return cut;
}

size_t hy_ranges_count(const struct hy_ranges *ranges)
{
    size_t count = 0;
    for (size_t i = 0; i < ranges->n; i++)
        count += ranges->list[i].end - ranges->list[i].begin;
    return count;
}

/* Which of the whole is number `index` of the ranges. */
static size_t find_in_ranges(const struct hy_ranges *ranges, size_t index)
{
    size_t i = 0;
    while (index >= ranges->list[i].end - ranges->list[i].begin) {
        index -= ranges->list[i].end - ranges->list[i].begin;
        i++;
    }
    return ranges->list[i].begin + index;
}

/* Rows of a matrix of which `per` columns take size bytes. */
struct row_form {
    const unsigned char *data;
    size_t row_bytes, per, size;
};

static void copy_rows(const struct hy_cut *cut, const struct row_form *form, size_t row,
                      size_t n_rows, unsigned char *to)
{
    for (size_t end = row + n_rows; row < end; row++) {
        const unsigned char *from =
            form->data + find_in_ranges(&cut->rows, row) * form->row_bytes;
        for (size_t i = 0; i < cut->columns.n; i++) {
            const struct hy_range *range = &cut->columns.list[i];
            size_t begin = range->begin / form->per * form->size;
            size_t bytes = range->end / form->per * form->size - begin;
            memcpy(to, from + begin, bytes);
            to += bytes;
        }
    }
}

void hy_cut_rows(const struct hy_cut *cut, const struct hy_matrix *matrix, size_t row,
                 size_t n_rows, void *to)
{
    bool int4 = matrix->dtype == HYMBA_DTYPE_INT4; /* groups end with whole bytes */
    struct row_form form = {
        .data = matrix->data,
        .row_bytes = hy_row_bytes(matrix->dtype, matrix->columns),
        .per = int4 ? 2 : 1,
        .size = int4 ? 1 : hy_dtype_size(matrix->dtype),
    };
    copy_rows(cut, &form, row, n_rows, to);
}

void hy_cut_scales(const struct hy_cut *cut, const struct hy_matrix *matrix, size_t row,
                   size_t n_rows, void *to)
{
    struct row_form form = {
        .data = matrix->scales,
        .row_bytes = matrix->columns / matrix->group * sizeof(uint16_t),
        .per = matrix->group,
        .size = sizeof(uint16_t),
    };
    copy_rows(cut, &form, row, n_rows, to);
}
