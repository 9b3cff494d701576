#include "model/weights.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "model/packed.h"

static const char single_file[] = "model.safetensors";
static const char index_file[] = "model.safetensors.index.json";

/* What binding needs to know; visited tensor by tensor. */
struct binder {
    struct hy_memory *memory;
    const struct hy_source *source;
    const struct hy_plan *plan;
    struct hy_weights *weights;
    const struct hy_shard_index *index; /* NULL: one file */
    const struct hy_recipe *recipe;
    struct hy_quantiser quantiser;      /* empty unless matrices are quantised while loading */
    float *next_small;                  /* NULL while only sizes are counted */
    size_t small_floats;
};

struct hy_matrix *hy_weights_matrix(struct hy_weights *weights, enum hy_slot slot, uint32_t index)
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
    case HY_SLOT_DOWN:
        return &layer->down;
    default:
        return NULL;
    }
}

float **hy_weights_small(struct hy_weights *weights, enum hy_slot slot, uint32_t index)
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

/* A place in the files: which one, and its name for messages. */
struct place {
    const struct hy_tensor *tensor; /* NULL: not there */
    const char *file;
    char buffer[512];
};

/* Looks for a tensor. listed: whether there is one file, or the index names the tensor. */
static bool look_for(const struct binder *binder, const char *tensor, struct place *place)
{
    const char *file = single_file;
    size_t number = 0;
    place->tensor = NULL;
    if (binder->index) {
        file = hy_shard_index_find(binder->index, tensor);
        if (!file)
            return false;
        while (strcmp(binder->index->files[number], file) != 0)
            number++;
    }
    place->file = hy_source_name(binder->source, file, place->buffer, sizeof place->buffer);
    place->tensor = hy_safetensors_find(&binder->weights->containers[number], tensor);
    return true;
}

/* The tensor of a slot, from the file that holds it, checked. */
static hymba_status find_tensor(const struct binder *binder, const struct hy_slot_info *info,
                                const struct hy_tensor **tensor, hymba_error *error)
{
    struct place place;
    if (!look_for(binder, info->name, &place))
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: weight_map lacks tensor %s",
                       hy_source_name(binder->source, index_file, place.buffer,
                                      sizeof place.buffer),
                       info->name);
    *tensor = place.tensor;
    if (!*tensor)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: tensor %s is missing", place.file,
                       info->name);
    return check_tensor(*tensor, info, place.file, error);
}

/* *found: whether the slot's matrix is there in quantised form; then it is bound. */
static hymba_status bind_packed(const struct binder *binder, const struct hy_slot_info *info,
                                struct hy_matrix *matrix, bool *found, hymba_error *error)
{
    struct place place, other;
    struct hy_parts parts;
    char name[HY_PART_NAME_SIZE];
    hy_part_name(info->name, HY_PACKED, name);
    look_for(binder, name, &place);
    *found = place.tensor != NULL;
    if (!*found)
        return HYMBA_OK;
    look_for(binder, info->name, &other);
    if (other.tensor)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s: tensor %s is there, and %s too",
                       place.file, info->name, name);
    parts.file = place.file;
    for (int part = 0; part < HY_N_PARTS; part++) {
        hy_part_name(info->name, part, name);
        look_for(binder, name, &other);
        parts.tensors[part] = other.tensor;
    }
    hymba_status status =
        hy_parts_bind(&parts, info, &binder->plan->config.quantization, matrix, error);
    if (status != HYMBA_OK)
        return status;
    binder->weights->quantised = true;
    binder->weights->bytes += parts.tensors[HY_PACKED]->size + parts.tensors[HY_SCALE]->size;
    return HYMBA_OK;
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
    return hy_round_up((size_t)n_elements, 16);
}

static hymba_status count_small(void *user, enum hy_slot slot, uint32_t layer,
                                const struct hy_slot_info *info, hymba_error *error)
{
    struct binder *binder = user;
    (void)layer;
    (void)error;
    if (!hy_weights_matrix(binder->weights, slot, 0))
        binder->small_floats += padded(info->n_elements);
    return HYMBA_OK;
}

static hymba_status bind_small(struct binder *binder, enum hy_slot slot, uint32_t layer,
                               const struct hy_slot_info *info, hymba_error *error)
{
    const struct hy_tensor *tensor;
    hymba_status status = find_tensor(binder, info, &tensor, error);
    if (status != HYMBA_OK)
        return status;
    binder->weights->bytes += tensor->size;
    *hy_weights_small(binder->weights, slot, layer) = binder->next_small;
    convert_small(tensor, slot, info, binder->next_small);
    binder->next_small += padded(info->n_elements);
    return HYMBA_OK;
}

/* Puts a quantised copy in a matrix's place, and lets go of the pages it was made from. */
static hymba_status quantise_matrix(struct binder *binder, const struct hy_slot_info *info,
                                    const struct hy_scheme *scheme, struct hy_matrix *matrix,
                                    hymba_error *error)
{
    struct hy_weights *weights = binder->weights;
    size_t packed = hy_packed_bytes(scheme, matrix->rows, matrix->columns), size;
    size_t scales = hy_scale_bytes(scheme, matrix->rows, matrix->columns);
    unsigned char *block =
        hy_add_size(packed, scales, &size) ? hy_alloc(binder->memory, size) : NULL;
    if (!block)
        return hy_no_memory(error, packed, info->name);
    weights->blocks[weights->n_blocks++] = block;
    /* rows are a multiple of 16 bytes long: the scales are aligned behind them */
    hymba_status status = hy_quantise_rows(&binder->quantiser, &hy_plain_encoder, info->name,
                                           matrix, 0, matrix->rows, scheme, block,
                                           (uint16_t *)(void *)(block + packed), error);
    if (status != HYMBA_OK)
        return status;
    hy_weights_forget(weights, matrix->data,
                      matrix->rows * hy_row_bytes(matrix->dtype, matrix->columns));
    weights->quantised = true;
    matrix->data = block;
    matrix->scales = block + packed;
    matrix->dtype = scheme->dtype;
    matrix->group = scheme->group;
    weights->bytes += size;
    return HYMBA_OK;
}

static hymba_status bind_plain(struct binder *binder, enum hy_slot slot,
                               const struct hy_slot_info *info, struct hy_matrix *matrix,
                               hymba_error *error)
{
    const struct hy_tensor *tensor;
    struct hy_scheme scheme;
    hymba_status status = find_tensor(binder, info, &tensor, error);
    if (status == HYMBA_OK)
        status = hy_recipe_scheme(binder->recipe, slot, info, &scheme, error);
    if (status != HYMBA_OK)
        return status;
    *matrix = (struct hy_matrix){.data = tensor->data,
                                 .dtype = tensor->dtype,
                                 .rows = (size_t)info->shape[0],
                                 .columns = (size_t)info->shape[1]};
    if (scheme.dtype != HYMBA_DTYPE_DEFAULT)
        return quantise_matrix(binder, info, &scheme, matrix, error);
    binder->weights->bytes += tensor->size;
    return HYMBA_OK;
}

static hymba_status bind_slot(void *user, enum hy_slot slot, uint32_t layer,
                              const struct hy_slot_info *info, hymba_error *error)
{
    struct binder *binder = user;
    struct hy_matrix *matrix = hy_weights_matrix(binder->weights, slot, layer);
    bool packed = false;
    if (!matrix)
        return bind_small(binder, slot, layer, info, error);
    hymba_status status = HYMBA_OK;
    if (slot != HY_SLOT_META) /* which the model reads by rows, not as a linear map */
        status = bind_packed(binder, info, matrix, &packed, error);
    return status == HYMBA_OK && !packed ? bind_plain(binder, slot, info, matrix, error) : status;
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

/* What quantising while loading needs. */
static hymba_status prepare_quantiser(struct binder *binder, hymba_error *error)
{
    struct hy_weights *weights = binder->weights;
    size_t most = HY_FIRST_LAYER_SLOT + (size_t)binder->plan->config.n_layers * HY_N_SLOTS;
    if (binder->recipe->type == HYMBA_DTYPE_DEFAULT)
        return HYMBA_OK;
    hymba_status status = hy_recipe_check(binder->recipe, error);
    if (status != HYMBA_OK)
        return status;
    if (binder->plan->config.quantization.present)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "quantize: the model's weights are quantised already");
    hy_recipe_log(binder->memory, binder->recipe, binder->plan);
    weights->blocks = hy_alloc_zero(binder->memory, most, sizeof *weights->blocks);
    if (!weights->blocks)
        return hy_no_memory(error, most * sizeof *weights->blocks, "a list of quantised weights");
    return hy_quantiser_create(binder->memory, 0, hy_widest_quantised(binder->plan),
                               &binder->quantiser, error);
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
    hymba_status status = prepare_quantiser(binder, error);
    if (status == HYMBA_OK)
        status = hy_plan_visit(plan, bind_slot, binder, error);
    hy_quantiser_free(&binder->quantiser);
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
                             const struct hy_plan *plan, const struct hy_recipe *recipe,
                             struct hy_weights *weights, hymba_error *error)
{
    memset(weights, 0, sizeof *weights);
    struct binder binder = {.memory = memory,
                            .source = source,
                            .plan = plan,
                            .recipe = recipe,
                            .weights = weights};
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

const struct hy_tensor *hy_weights_find(const struct hy_weights *weights, const char *name)
{
    const struct hy_tensor *tensor = NULL;
    for (size_t i = 0; i < weights->n_files && !tensor; i++)
        tensor = hy_safetensors_find(&weights->containers[i], name);
    return tensor;
}

void hy_weights_forget(const struct hy_weights *weights, const void *data, size_t size)
{
    for (size_t i = 0; i < weights->n_files; i++)
        hy_file_forget(&weights->files[i], data, size);
}

void hy_weights_free(struct hy_memory *memory, struct hy_weights *weights)
{
    for (size_t i = 0; i < weights->n_files; i++) {
        hy_safetensors_free(&weights->containers[i]);
        hy_file_close(&weights->files[i]);
    }
    for (size_t i = 0; i < weights->n_blocks; i++)
        hy_free(memory, weights->blocks[i]);
    hy_free(memory, weights->blocks);
    hy_free(memory, weights->containers);
    hy_free(memory, weights->files);
    hy_free(memory, weights->layers);
    hy_free(memory, weights->small);
    memset(weights, 0, sizeof *weights);
}
