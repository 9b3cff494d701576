#include "model/device_weights.h"

#include <string.h>

#include "base/checked.h"

enum {
    ALIGNMENT = 256,
    PIECE_BYTES = 32 << 20 /* copied between two reports of progress */
};

/* A copy on its way, visited tensor by tensor; without a plug-in only sizes are counted. */
struct upload {
    const struct hy_memory *memory;
    struct hy_plugin *plugin;
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
    upload->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; /* less than the files' sum */
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

static hymba_status visit(void *user, enum hy_slot slot, uint32_t layer,
                          const struct hy_slot_info *info, hymba_error *error)
{
    struct upload *upload = user;
    struct hy_matrix *matrix = hy_weights_matrix(upload->weights, slot, layer);
    if (matrix)
        return move_matrix(upload, matrix, error);
    float **small = hy_weights_small(upload->weights, slot, layer);
    const void *data = *small;
    hymba_status status =
        move_tensor(upload, &data, (size_t)info->n_elements * sizeof **small, error);
    if (upload->plugin)
        *small = (float *)data;
    return status;
}

uint64_t hy_device_weights_bytes(const hymba_model *model)
{
    struct hy_weights weights = model->weights; /* counting changes nothing that it points to */
    struct upload upload = {.weights = &weights};
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
                         struct hy_device_weights *copy, hymba_error *error)
{
    copy->bytes = (size_t)hy_device_weights_bytes(model);
    copy->block = hy_store_alloc(&copy->plugin->memory, copy->plugin, copy->bytes);
    if (!copy->block)
        return hy_fail(error, HYMBA_ERROR_MEMORY,
                       "no memory on %s for the weights (%zu bytes)", copy->plugin->label,
                       copy->bytes);
    struct upload upload = {
        .memory = memory,
        .plugin = copy->plugin,
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
                           struct hy_device_weights **out, hymba_error *error)
{
    struct hy_device_weights *copy = hy_alloc_zero(&model->memory, 1, sizeof *copy);
    if (!copy)
        return hy_no_memory(error, sizeof *copy, "the record of a device's weights");
    copy->index = index;
    hymba_status status = copy_list(model, &copy->weights, error);
    if (status == HYMBA_OK)
        status = hy_plugin_open(&model->memory, index, HYMBA_COMPUTE_F32, &copy->plugin, error);
    if (status == HYMBA_OK)
        status = fill(model, memory, copy, error);
    if (status == HYMBA_OK)
        *out = copy;
    else
        destroy(model, copy);
    return status;
}

hymba_status hy_device_weights_get(hymba_model *model, struct hy_memory *memory, int index,
                                   struct hy_device_weights **out, hymba_error *error)
{
    *out = NULL;
    hymba_status status = HYMBA_OK;
    pthread_mutex_lock(&model->lock);
    struct hy_device_weights *copy = model->device_weights;
    while (copy && (copy->index != index || copy->plugin->failed))
        copy = copy->next;
    if (!copy) {
        status = create(model, memory, index, &copy, error);
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
