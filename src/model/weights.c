#include "model/weights.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>


static const char single_file[] = "model.safetensors";
static const char index_file[] = "model.safetensors.index.json";

/* What binding needs to know; visited tensor by tensor. */
struct binder {
    struct hy_memory *memory;
    const struct hy_source *source;
    const struct hy_plan *plan;
    struct hy_weights *weights;
    const struct hy_shard_index *index; /* NULL: one file */
    float *next_small;                  /* NULL while only sizes are counted */
    size_t small_floats;
};

static bool is_matrix(enum hy_slot slot)
{
    switch (slot) {
    case HY_SLOT_EMBEDDING:
    case HY_SLOT_META:
    case HY_SLOT_HEAD:
    case HY_SLOT_IN_PROJ:
    case HY_SLOT_X_PROJ:
    case HY_SLOT_DT_PROJ:
    case HY_SLOT_OUT_PROJ:
    case HY_SLOT_GATE:
    case HY_SLOT_UP:
    case HY_SLOT_DOWN:
        return true;
    default:
        return false;
    }
}

static struct hy_matrix *matrix_of(struct hy_weights *weights, enum hy_slot slot, uint32_t index)
{
    struct hy_layer_weights *layer = &weights->layers[index];
    switch (slot) {
    case HY_SLOT_EMBEDDING:
        return &weights->embedding;
    case HY_SLOT_META:
        return &weights->meta;
    case HY_SLOT_HEAD:
        return &weights->head;
    case HY_SLOT_IN_PROJ:
        return &layer->in_proj;
    case HY_SLOT_X_PROJ:
        return &layer->x_proj;
    case HY_SLOT_DT_PROJ:
        return &layer->dt_proj;
    case HY_SLOT_OUT_PROJ:
        return &layer->out_proj;
    case HY_SLOT_GATE:
        return &layer->gate;
    case HY_SLOT_UP:
        return &layer->up;
    default:
        return &layer->down;
    }
}

static float **small_of(struct hy_weights *weights, enum hy_slot slot, uint32_t index)
{
    struct hy_layer_weights *layer = &weights->layers[index];
    switch (slot) {
    case HY_SLOT_FINAL_NORM:
        return &weights->final_norm;
    case HY_SLOT_INPUT_NORM:
        return &layer->input_norm;
    case HY_SLOT_CONV_WEIGHT:
        return &layer->conv_weight;
    case HY_SLOT_CONV_BIAS:
        return &layer->conv_bias;
    case HY_SLOT_DT_NORM:
        return &layer->dt_norm;
    case HY_SLOT_B_NORM:
        return &layer->b_norm;
    case HY_SLOT_C_NORM:
        return &layer->c_norm;
    case HY_SLOT_DT_BIAS:
        return &layer->dt_bias;
    case HY_SLOT_A_LOG:
        return &layer->a;
    case HY_SLOT_D:
        return &layer->d;
    case HY_SLOT_ATTENTION_NORM:
        return &layer->attention_norm;
    case HY_SLOT_SSM_NORM:
        return &layer->ssm_norm;
    default:
        return &layer->ffn_norm;
    }
}

static void format_shape(const uint64_t *shape, uint32_t n_dims, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < n_dims && used < size; i++) {
        int wrote = snprintf(text + used, size - used, "%s%" PRIu64, i ? ", " : "", shape[i]);
        used += wrote > 0 ? (size_t)wrote : 0;
    }
}

static hymba_status check_tensor(const struct hy_tensor *tensor, const struct hy_slot_info *info,
                                 const char *file, hymba_error *error)
{
    if (tensor->dtype == HYMBA_DTYPE_DEFAULT)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s: tensor %s: found element type %s, expected BF16, F16 or F32", file,
                       info->name, tensor->type_name);
    bool equal = tensor->n_dims == info->n_dims;
    for (uint32_t i = 0; equal && i < info->n_dims; i++)
        equal = tensor->shape[i] == info->shape[i];
    if (equal)
        return HYMBA_OK;
    char found[96], expected[96];
    format_shape(tensor->shape, tensor->n_dims, found, sizeof found);
    format_shape(info->shape, info->n_dims, expected, sizeof expected);
    return hy_fail(error, HYMBA_ERROR_FORMAT,
                   "%s: tensor %s: found shape [%s], expected [%s]", file, info->name, found,
                   expected);
}

/* The tensor of a slot, from the file that holds it, checked. */
static hymba_status find_tensor(const struct binder *binder, const struct hy_slot_info *info,
                                const struct hy_tensor **tensor, hymba_error *error)
{
    const char *file = single_file;
    size_t number = 0;
    char name[512];
    if (binder->index) {
        file = hy_shard_index_find(binder->index, info->name);
        if (!file)
            return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: weight_map lacks tensor %s",
                           hy_source_name(binder->source, index_file, name, sizeof name),
                           info->name);
        while (strcmp(binder->index->files[number], file) != 0)
            number++;
    }
    file = hy_source_name(binder->source, file, name, sizeof name);
    *tensor = hy_safetensors_find(&binder->weights->containers[number], info->name);
    if (!*tensor)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: tensor %s is missing", file, info->name);
    return check_tensor(*tensor, info, file, error);
}

/* f32 copy of a small tensor; the two that kernels read across channels are transposed. */
static void convert_small(const struct hy_tensor *tensor, enum hy_slot slot,
                          const struct hy_slot_info *info, float *out)
{
    size_t n = (size_t)info->n_elements;
    if (slot != HY_SLOT_A_LOG && slot != HY_SLOT_CONV_WEIGHT) {
        hy_row_to_f32(tensor->data, tensor->dtype, out, n);
        return;
    }
    size_t rows = (size_t)info->shape[0], columns = n / rows;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            float value = hy_load_element(tensor->data, tensor->dtype, i * columns + j);
            out[j * rows + i] = slot == HY_SLOT_A_LOG ? -expf(value) : value; /* section 4b */
        }
    }
}

/* Floats a small tensor takes in the block: rounded up so that each begins on its own line. */
static size_t padded(uint64_t n_elements)
{
    return ((size_t)n_elements + 15) / 16 * 16;
}

static hymba_status count_small(void *user, enum hy_slot slot, uint32_t layer,
                                const struct hy_slot_info *info, hymba_error *error)
{
    struct binder *binder = user;
    (void)layer;
    (void)error;
    if (!is_matrix(slot))
        binder->small_floats += padded(info->n_elements);
    return HYMBA_OK;
}

static hymba_status bind_slot(void *user, enum hy_slot slot, uint32_t layer,
                              const struct hy_slot_info *info, hymba_error *error)
{
    struct binder *binder = user;
    const struct hy_tensor *tensor;
    hymba_status status = find_tensor(binder, info, &tensor, error);
    if (status != HYMBA_OK)
        return status;
    binder->weights->bytes += tensor->size;
    if (is_matrix(slot)) {
        *matrix_of(binder->weights, slot, layer) =
            (struct hy_matrix){tensor->data, tensor->dtype, (size_t)info->shape[0],
                               (size_t)info->shape[1]};
        return HYMBA_OK;
    }
    *small_of(binder->weights, slot, layer) = binder->next_small;
    convert_small(tensor, slot, info, binder->next_small);
    binder->next_small += padded(info->n_elements);
    return HYMBA_OK;
}

/* Opens and parses the n files; on failure what was opened stays in *weights, to be freed. */
static hymba_status open_files(struct hy_memory *memory, const struct hy_source *source,
                               char *const *names, size_t n, struct hy_weights *weights,
                               hymba_error *error)
{
    weights->files = hy_alloc_zero(memory, n, sizeof *weights->files);
    weights->containers = hy_alloc_zero(memory, n, sizeof *weights->containers);
    if (!weights->files || !weights->containers)
        return hy_no_memory(error, n * sizeof *weights->files, "the list of weight files");
    weights->n_files = n;
    for (size_t i = 0; i < n; i++) {
        char name[512];
        hymba_status status = hy_source_open(source, names[i], &weights->files[i], error);
        if (status == HYMBA_OK)
            status = hy_safetensors_parse(memory, &weights->files[i],
                                          hy_source_name(source, names[i], name, sizeof name),
                                          &weights->containers[i], error);
        if (status == HYMBA_OK)
            status = hy_progress(memory, HYMBA_PHASE_LOAD, i + 1, n, error);
        if (status != HYMBA_OK)
            return status;
    }
    return HYMBA_OK;
}

static hymba_status bind(struct binder *binder, hymba_error *error)
{
    struct hy_weights *weights = binder->weights;
    const struct hy_plan *plan = binder->plan;
    weights->layers =
        hy_alloc_zero(binder->memory, plan->config.n_layers, sizeof *weights->layers);
    if (!weights->layers)
        return hy_no_memory(error, plan->config.n_layers * sizeof *weights->layers,
                            "the list of weights");
    hy_plan_visit(plan, count_small, binder, error);
    weights->small = hy_alloc_array(binder->memory, binder->small_floats, sizeof(float));
    if (!weights->small)
        return hy_no_memory(error, binder->small_floats * sizeof(float),
                            "the f32 copies of small tensors");
    binder->next_small = weights->small;
    hymba_status status = hy_plan_visit(plan, bind_slot, binder, error);
    if (status == HYMBA_OK && plan->config.tie_embeddings)
        weights->head = weights->embedding;
    return status;
}

static hymba_status load_sharded(struct binder *binder, hymba_error *error)
{
    struct hy_shard_index index;
    struct hy_file file;
    char name[512];
    hymba_status status = hy_source_read(binder->source, index_file, &file, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_shard_index_parse(binder->memory, (const char *)file.data, file.size,
                                  hy_source_name(binder->source, index_file, name, sizeof name),
                                  &index, error);
    hy_file_close(&file);
    if (status != HYMBA_OK)
        return status;
    status = open_files(binder->memory, binder->source, index.files, index.n_files,
                        binder->weights, error);
    if (status == HYMBA_OK) {
        binder->index = &index;
        status = bind(binder, error);
    }
    hy_shard_index_free(&index);
    return status;
}

static hymba_status load_single(struct binder *binder, hymba_error *error)
{
    char name[sizeof single_file];
    char *names[1] = {name};
    memcpy(name, single_file, sizeof single_file);
    hymba_status status =
        open_files(binder->memory, binder->source, names, 1, binder->weights, error);
    return status == HYMBA_OK ? bind(binder, error) : status;
}

hymba_status hy_weights_load(struct hy_memory *memory, const struct hy_source *source,
                             const struct hy_plan *plan, struct hy_weights *weights,
                             hymba_error *error)
{
    memset(weights, 0, sizeof *weights);
    struct binder binder = {.memory = memory, .source = source, .plan = plan, .weights = weights};
    bool single, sharded = false;
    hymba_status status = hy_source_has(source, single_file, &single, error);
    if (status == HYMBA_OK && !single)
        status = hy_source_has(source, index_file, &sharded, error);
    if (status == HYMBA_OK)
        status = sharded ? load_sharded(&binder, error) : load_single(&binder, error);
    if (status != HYMBA_OK)
        hy_weights_free(memory, weights);
    return status;
}

void hy_weights_free(struct hy_memory *memory, struct hy_weights *weights)
{
    for (size_t i = 0; i < weights->n_files; i++) {
        hy_safetensors_free(&weights->containers[i]);
        hy_file_close(&weights->files[i]);
    }
    hy_free(memory, weights->containers);
    hy_free(memory, weights->files);
    hy_free(memory, weights->layers);
    hy_free(memory, weights->small);
    memset(weights, 0, sizeof *weights);
}
