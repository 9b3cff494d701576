#include "model/device_weights.h"

#include <string.h>

#include "base/checked.h"
#include "kernel/by_rows.h"
#include "model/round_rows.h"

enum {
    ALIGNMENT = 256,
    PIECE_BYTES = 32 << 20, /* copied between two reports of progress */
    STAGED_BYTES = 1 << 20  /* of a rank's part of a tensor, gathered and copied at once */
};

/* A copy on its way, visited tensor by tensor; without a plug-in only sizes are counted. */
struct upload {
    const struct hy_memory *memory;
    struct hy_plugin *plugin;
    struct hy_memory *staging;  /* whom memory is asked of while tensors are copied */
    const struct hy_plan *whole;
    const struct hy_split *split;
    hymba_dtype projections;    /* what these are rounded to by rows; DEFAULT: they stay */
    struct hy_weights *weights; /* pointers to the host's, which become the device's */
    unsigned char *block;
    size_t used, total;
};

static hymba_status copy_tensor(struct upload *upload, const unsigned char *data, size_t bytes,
                                hymba_error *error)
{
    for (size_t done = 0; done < bytes; done += hy_min_size(PIECE_BYTES, bytes - done)) {
        size_t piece = hy_min_size(PIECE_BYTES, bytes - done);
        hy_store_put(upload->plugin, upload->block + upload->used + done, data + done, piece);
        hymba_status status = HYMBA_OK;
        if (piece == PIECE_BYTES)
            status = hy_store_finish(upload->plugin, error);
        if (status == HYMBA_OK)
            status = hy_progress(upload->memory, HYMBA_PHASE_LOAD, upload->used + done + piece,
                                 upload->total, error);
        if (status != HYMBA_OK)
            return status;
    }
    return HYMBA_OK;
}

/* Copies bytes of the host's and makes *data the place where they lie then; where only sizes are
 * counted, *data stays, for the lists are the model's own. */
static hymba_status move_tensor(struct upload *upload, const void **data, size_t bytes,
                                hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    if (upload->plugin) {
        status = copy_tensor(upload, *data, bytes, error);
        *data = upload->block + upload->used;
    }
    upload->used += hy_round_up(bytes, ALIGNMENT); /* less than the files' sum */
    return status;
}

static hymba_status move_matrix(struct upload *upload, struct hy_matrix *matrix,
                                hymba_error *error)
{
    size_t bytes = matrix->rows * hy_row_bytes(matrix->dtype, matrix->columns);
    hymba_status status = move_tensor(upload, &matrix->data, bytes, error);
    if (status != HYMBA_OK || !matrix->scales)
        return status;
    bytes = matrix->rows * (matrix->columns / matrix->group) * sizeof(uint16_t);
    return move_tensor(upload, &matrix->scales, bytes, error);
}

/* Rows of a rank's part as hy_cut_rows or hy_cut_scales put them. */
struct part {
    const struct hy_cut *cut;
    const struct hy_matrix *matrix;
    void (*put_rows)(const struct hy_cut *, const struct hy_matrix *, size_t, size_t, void *);
    size_t n_rows, row_bytes;
};

static hymba_status copy_rows(struct upload *upload, const struct part *part, hymba_error *error)
{
    size_t at_once = hy_min_size(hy_max_size(STAGED_BYTES / part->row_bytes, 1), part->n_rows);
    unsigned char *rows = hy_alloc(upload->staging, at_once * part->row_bytes);
    unsigned char *place = upload->block + upload->used;
    hymba_status status = HYMBA_OK;
    if (!rows)
        return hy_no_memory(error, at_once * part->row_bytes, "a rank's part of a tensor");
    for (size_t row = 0; status == HYMBA_OK && row < part->n_rows; row += at_once) {
        size_t n = hy_min_size(at_once, part->n_rows - row);
        part->put_rows(part->cut, part->matrix, row, n, rows);
        hy_store_put(upload->plugin, place + row * part->row_bytes, rows, n * part->row_bytes);
        status = hy_store_finish(upload->plugin, error);
        if (status == HYMBA_OK)
            status = hy_progress(upload->memory, HYMBA_PHASE_LOAD,
                                 upload->used + (row + n) * part->row_bytes, upload->total,
                                 error);
    }
    hy_free(upload->staging, rows);
    return status;
}

/* The same as move_tensor. */
static hymba_status move_rows(struct upload *upload, const struct part *part, const void **data,
                              hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    if (upload->plugin) {
        status = copy_rows(upload, part, error);
        *data = upload->block + upload->used;
    }
    upload->used += hy_round_up(part->n_rows * part->row_bytes, ALIGNMENT);
    return status;
}

/* What a rank has of a matrix, which then is its own. */
static hymba_status move_part(struct upload *upload, const struct hy_cut *cut,
                              struct hy_matrix *matrix, hymba_error *error)
{
    struct hy_matrix own = *matrix;
    own.rows = hy_ranges_count(&cut->rows);
    own.columns = hy_ranges_count(&cut->columns);
    struct part part = {
        .cut = cut,
        .matrix = matrix,
        .put_rows = hy_cut_rows,
        .n_rows = own.rows,
        .row_bytes = hy_row_bytes(own.dtype, own.columns),
    };
    hymba_status status = move_rows(upload, &part, &own.data, error);
    if (status == HYMBA_OK && own.scales) {
        part.put_rows = hy_cut_scales;
        part.row_bytes = own.columns / own.group * sizeof(uint16_t);
        status = move_rows(upload, &part, &own.scales, error);
    }
    if (upload->plugin)
        *matrix = own;
    return status;
}

/* Rounds what *own is of and copies it to where own's data and scales lie. */
static hymba_status copy_rounded(struct upload *upload, struct hy_row_rounder *rounder,
                                 const struct hy_matrix *own, hymba_error *error)
{
    size_t n_rows = hy_weight_rows(own->rows), row_bytes = hy_padded_row(own->columns);
    hymba_status status = HYMBA_OK;
    for (size_t row = 0; status == HYMBA_OK && row < n_rows; row += rounder->at_once) {
        size_t n = hy_min_size(rounder->at_once, n_rows - row);
        hy_round_rows(rounder, row, n);
        hy_store_put(upload->plugin, (unsigned char *)own->data + row * row_bytes, rounder->bytes,
                     n * row_bytes);
        hy_store_put(upload->plugin, (float *)own->scales + row, rounder->scales,
                     n * sizeof *rounder->scales);
        status = hy_store_finish(upload->plugin, error);
        if (status == HYMBA_OK)
            status = hy_progress(upload->memory, HYMBA_PHASE_LOAD,
                                 upload->used + (row + n) * row_bytes, upload->total, error);
    }
    return status;
}

/* A projection, or a rank's part of it, as the device has it in 8 bits. */
static hymba_status move_rounded(struct upload *upload, const struct hy_cut *cut, const char *name,
                                 struct hy_matrix *matrix, hymba_error *error)
{
    struct hy_row_rounder rounder = {.block = NULL};
    struct hy_matrix own = hy_rounded_matrix(cut, upload->projections);
    size_t n_rows = hy_weight_rows(own.rows);
    size_t bytes = hy_round_up(n_rows * hy_padded_row(own.columns), ALIGNMENT);
    hymba_status status = HYMBA_OK;
    if (upload->plugin) {
        own.data = upload->block + upload->used;
        own.scales = upload->block + upload->used + bytes;
        status = hy_row_rounder_create(&rounder, upload->staging, cut, matrix, own.dtype, name,
                                       error);
        if (status == HYMBA_OK)
            status = copy_rounded(upload, &rounder, &own, error);
        hy_row_rounder_free(&rounder, upload->staging);
        *matrix = own;
    }
    upload->used += bytes + hy_round_up(n_rows * sizeof(float), ALIGNMENT);
    return status;
}

static bool is_projection(enum hy_slot slot)
{
    return slot == HY_SLOT_IN_PROJ || slot == HY_SLOT_OUT_PROJ || slot == HY_SLOT_GATE
           || slot == HY_SLOT_UP || slot == HY_SLOT_DOWN;
}

/* All of a tensor, or a rank's part of it. */
static hymba_status move_slot(struct upload *upload, const struct hy_cut *cut,
                              struct hy_matrix *matrix, hymba_error *error)
{
    bool all = hy_ranges_count(&cut->rows) == matrix->rows
               && hy_ranges_count(&cut->columns) == matrix->columns;
    return all ? move_matrix(upload, matrix, error) : move_part(upload, cut, matrix, error);
}

static hymba_status visit(void *user, enum hy_slot slot, uint32_t layer,
                          const struct hy_slot_info *info, hymba_error *error)
{
    struct upload *upload = user;
    struct hy_matrix *matrix = hy_weights_matrix(upload->weights, slot, layer);
    struct hy_cut cut = hy_shard_cut(upload->whole, upload->split, slot, layer);
    if (upload->projections != HYMBA_DTYPE_DEFAULT && is_projection(slot))
        return move_rounded(upload, &cut, info->name, matrix, error);
    if (matrix)
        return move_slot(upload, &cut, matrix, error);
    float **place = hy_weights_small(upload->weights, slot, layer);
    struct hy_matrix small = hy_shard_small(upload->whole, slot, layer, *place);
    hymba_status status = move_slot(upload, &cut, &small, error);
    if (upload->plugin)
        *place = (float *)small.data;
    return status;
}

uint64_t hy_device_weights_bytes(const hymba_model *model, const struct hy_split *split,
                                 hymba_dtype projections)
{
    struct hy_weights weights = model->weights; /* counting changes nothing that it points to */
    struct upload upload = {
        .whole = &model->plan, .split = split, .projections = projections, .weights = &weights};
    if (model->has_weights)
        hy_plan_visit(&model->plan, visit, &upload, NULL);
    return upload.used;
}

static void destroy(hymba_model *model, struct hy_device_weights *copy)
{
    if (copy->plugin)
        hy_store_free(&copy->plugin->memory, copy->plugin, copy->block, copy->bytes);
    hy_plugin_close(copy->plugin);
    hy_free(&model->memory, copy->weights.layers);
    hy_free(&model->memory, copy);
}

/* The host's pointers, in a list of layers that may be written. */
static hymba_status copy_list(hymba_model *model, struct hy_weights *weights, hymba_error *error)
{
    const struct hy_weights *host = &model->weights;
    size_t n = model->plan.config.n_layers;
    *weights = (struct hy_weights){
        .embedding = host->embedding,
        .meta = host->meta,
        .head = host->head,
        .final_norm = host->final_norm,
        .layers = hy_alloc_array(&model->memory, n, sizeof *weights->layers),
        .quantised = host->quantised,
        .bytes = host->bytes,
    };
    if (!weights->layers)
        return hy_no_memory(error, n * sizeof *weights->layers, "the list of weights");
    memcpy(weights->layers, host->layers, n * sizeof *weights->layers);
    return HYMBA_OK;
}

static hymba_status fill(hymba_model *model, struct hy_memory *memory,
                         const struct hy_split *split, struct hy_device_weights *copy,
                         hymba_error *error)
{
    copy->bytes = (size_t)hy_device_weights_bytes(model, split, copy->projections);
    copy->block = hy_store_alloc(&copy->plugin->memory, copy->plugin, copy->bytes);
    if (!copy->block)
        return hy_fail(error, HYMBA_ERROR_MEMORY,
                       "no memory on %s for the weights (%zu bytes)", copy->plugin->label,
                       copy->bytes);
    struct upload upload = {
        .memory = memory,
        .plugin = copy->plugin,
        .staging = &model->memory,
        .whole = &model->plan,
        .split = split,
        .projections = copy->projections,
        .weights = &copy->weights,
        .block = copy->block,
        .total = copy->bytes,
    };
    hymba_status status = hy_plan_visit(&model->plan, visit, &upload, error);
    if (status == HYMBA_OK)
        status = hy_store_finish(copy->plugin, error);
    if (model->plan.config.tie_embeddings)
        copy->weights.head = copy->weights.embedding;
    return status;
}

static hymba_status create(hymba_model *model, struct hy_memory *memory, int index,
                           struct hy_shard shard, hymba_dtype projections,
                           struct hy_device_weights **out, hymba_error *error)
{
    struct hy_split split;
    hymba_status status =
        hy_shard_split(&model->plan, &model->weights, shard, &split, error);
    if (status != HYMBA_OK)
        return status;
    struct hy_device_weights *copy = hy_alloc_zero(&model->memory, 1, sizeof *copy);
    if (!copy)
        return hy_no_memory(error, sizeof *copy, "the record of a device's weights");
    copy->index = index;
    copy->shard = shard;
    copy->projections = projections;
    status = copy_list(model, &copy->weights, error);
    if (status == HYMBA_OK)
        status = hy_plugin_open(&model->memory, index, HYMBA_COMPUTE_F32, &copy->plugin, error);
    if (status == HYMBA_OK)
        status = fill(model, memory, &split, copy, error);
    if (status == HYMBA_OK)
        *out = copy;
    else
        destroy(model, copy);
    return status;
}

static bool is_of(const struct hy_device_weights *copy, int index, struct hy_shard shard,
                  hymba_dtype projections)
{
    return copy->index == index && copy->shard.rank == shard.rank
           && copy->shard.world_size == shard.world_size && copy->projections == projections;
}

hymba_status hy_device_weights_get(hymba_model *model, struct hy_memory *memory, int index,
                                   struct hy_shard shard, hymba_dtype projections,
                                   struct hy_device_weights **out, hymba_error *error)
{
    *out = NULL;
    hymba_status status = HYMBA_OK;
    pthread_mutex_lock(&model->lock);
    struct hy_device_weights *copy = model->device_weights;
    while (copy && (!is_of(copy, index, shard, projections) || copy->plugin->failed))
        copy = copy->next;
    if (!copy) {
        status = create(model, memory, index, shard, projections, &copy, error);
        if (status == HYMBA_OK) {
            copy->next = model->device_weights;
            model->device_weights = copy;
        }
    }
    if (status == HYMBA_OK) {
        copy->references++;
        *out = copy;
    }
    pthread_mutex_unlock(&model->lock);
    return status;
}

void hy_device_weights_release(hymba_model *model, struct hy_device_weights *weights)
{
    if (!weights)
        return;
    pthread_mutex_lock(&model->lock);
    bool last = --weights->references == 0;
    struct hy_device_weights **link = &model->device_weights;
    while (last && *link != weights)
        link = &(*link)->next;
    if (last)
        *link = weights->next;
    pthread_mutex_unlock(&model->lock);
    if (last)
        destroy(model, weights);
}
