#include "model/quantise_directory.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "model/new_directory.h"
#include "model/packed.h"
#include "model/quantise_config.h"

/* Elements rounded before they are written. */
enum { CHUNK_ELEMENTS = 4 << 20 };

/* Copied if they are there; config.json comes last, since it is what makes a directory a model. */
static const char weights_name[] = "model.safetensors", config_name[] = "config.json";
static const char *const copied_names[] = {
    "generation_config.json",  "tokenizer.model",   "tokenizer.json",      "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
};
enum { N_COPIED = sizeof copied_names / sizeof copied_names[0] };

enum { WHOLE = HY_N_PARTS }; /* a tensor that is copied as it is */

/* A tensor of the new file. */
struct entry {
    enum hy_slot slot;
    uint32_t layer;
    int part; /* HY_PACKED, ..., WHOLE */
    struct hy_scheme scheme;
    struct hy_slot_info info;        /* of the original */
    char name[HY_PART_NAME_SIZE];
};

struct output {
    const struct hy_quantise_job *job;
    struct hy_memory *memory;
    struct hy_new_directory target;
    const char *names[N_COPIED + 2];
    size_t n_names;
    int stage; /* of listing, below */
    struct entry *entries;
    struct hy_tensor *tensors; /* of the header, like entries */
    size_t n_entries, capacity;
    struct hy_quantiser quantiser;
    unsigned char *packed;     /* of a chunk */
    uint16_t *scales;          /* of a whole matrix */
    struct hy_writer writer;
    uint64_t done, total;      /* bytes of the original weights */
};

/* ------------------------------------------------------------------- listing */

/*
 * The order in the file: layers' matrices first, since the bytes of most of them are a multiple of
 * 64, and so kernels find them aligned; then embedding and head; then what is small.
 */
enum { STAGE_LAYERS, STAGE_MODEL, STAGE_REST, N_STAGES };

static void add_entry(struct output *output, enum hy_slot slot, uint32_t layer, int part,
                      const struct hy_scheme *scheme, const struct hy_slot_info *info)
{
    struct entry *entry = &output->entries[output->n_entries];
    struct hy_tensor *tensor = &output->tensors[output->n_entries++];
    *entry = (struct entry){slot, layer, part, *scheme, *info, ""};
    if (part == WHOLE)
        snprintf(entry->name, sizeof entry->name, "%s", info->name);
    else
        hy_part_name(info->name, part, entry->name);
    tensor->name = entry->name;
    tensor->n_dims = 2;
    tensor->shape[0] = info->shape[0];
    switch (part) {
    case HY_PACKED:
        tensor->type_name = "I32";
        tensor->shape[1] = hy_row_bytes(scheme->dtype, (size_t)info->shape[1]) / 4;
        break;
    case HY_SCALE:
        tensor->dtype = HYMBA_DTYPE_BF16;
        tensor->shape[1] = info->shape[1] / scheme->group;
        break;
    case HY_SHAPE:
        tensor->type_name = "I64";
        tensor->n_dims = 1;
        tensor->shape[0] = 2;
        break;
    default:
        *tensor = *hy_weights_find(&output->job->model->weights, info->name);
        tensor->name = entry->name;
        break;
    }
}

static hymba_status list_tensor(void *user, enum hy_slot slot, uint32_t layer,
                                const struct hy_slot_info *info, hymba_error *error)
{
    struct output *output = user;
    struct hy_scheme scheme;
    hymba_status status =
        hy_recipe_scheme(&output->job->recipe, slot, info, &scheme, error);
    if (status != HYMBA_OK)
        return status;
    bool wide = scheme.dtype == HYMBA_DTYPE_DEFAULT;
    if (output->stage == STAGE_REST) {
        add_entry(output, slot, layer, wide ? (int)WHOLE : (int)HY_SHAPE, &scheme, info);
    } else if (!wide && (slot >= HY_FIRST_LAYER_SLOT) == (output->stage == STAGE_LAYERS)) {
        add_entry(output, slot, layer, HY_PACKED, &scheme, info);
        add_entry(output, slot, layer, HY_SCALE, &scheme, info);
    }
    return HYMBA_OK;
}

static hymba_status list_tensors(struct output *output, hymba_error *error)
{
    const struct hy_plan *plan = &output->job->model->plan;
    hymba_status status = HYMBA_OK;
    output->capacity = HY_N_PARTS * (HY_FIRST_LAYER_SLOT +
                                     (size_t)plan->config.n_layers *
                                         (HY_N_SLOTS - HY_FIRST_LAYER_SLOT));
    output->entries =
        hy_alloc_array(output->memory, output->capacity, sizeof *output->entries);
    output->tensors = hy_alloc_zero(output->memory, output->capacity, sizeof *output->tensors);
    if (!output->entries || !output->tensors)
        return hy_no_memory(error, output->capacity * sizeof *output->entries,
                            "the tensor list");
    for (int stage = 0; stage < N_STAGES && status == HYMBA_OK; stage++) {
        output->stage = stage;
        status = hy_plan_visit(plan, list_tensor, output, error);
    }
    return status;
}

/* ------------------------------------------------------------------- writing */

static hymba_status advance(struct output *output, const void *data, size_t size,
                            hymba_error *error)
{
    hy_weights_forget(&output->job->model->weights, data, size);
    output->done += size;
    return hy_progress(output->memory, HYMBA_PHASE_QUANTIZE, output->done, output->total, error);
}

static size_t chunk_rows(size_t columns)
{
    return hy_max_size(1, CHUNK_ELEMENTS / columns / HY_ENCODED_ROWS) * HY_ENCODED_ROWS;
}

/* Room for a chunk and a matrix's scales. */
static hymba_status make_room(struct output *output, hymba_error *error)
{
    size_t scales = 0, packed = 0;
    for (size_t i = 0; i < output->n_entries; i++) {
        const struct entry *entry = &output->entries[i];
        size_t rows = (size_t)entry->info.shape[0], columns = (size_t)entry->info.shape[1];
        if (entry->part != HY_PACKED)
            continue;
        packed = hy_max_size(packed, hy_packed_bytes(&entry->scheme, chunk_rows(columns),
                                                     columns));
        scales = hy_max_size(scales, hy_scale_bytes(&entry->scheme, rows, columns));
    }
    output->packed = hy_alloc(output->memory, packed);
    output->scales = hy_alloc(output->memory, scales);
    if (!output->packed || !output->scales)
        return hy_no_memory(error, packed + scales, "quantised weights");
    return hy_quantiser_create(output->memory, output->job->n_threads,
                               hy_widest_quantised(&output->job->model->plan),
                               &output->quantiser, error);
}

static hymba_status write_packed(struct output *output, const struct entry *entry,
                                 hymba_error *error)
{
    const struct hy_quantise_job *job = output->job;
    const struct hy_matrix *matrix =
        hy_weights_matrix(&job->model->weights, entry->slot, entry->layer);
    const unsigned char *data = matrix->data;
    struct hy_encoder encoder = hy_plain_encoder;
    size_t groups = matrix->columns / entry->scheme.group, most = chunk_rows(matrix->columns);
    size_t row_bytes = hy_row_bytes(matrix->dtype, matrix->columns);
    hymba_status status = HYMBA_OK;
    if (job->method.prepare)
        status = job->method.prepare(job->method.user, entry->slot, entry->layer, &entry->info,
                                     &entry->scheme, &encoder, error);
    for (size_t row = 0; status == HYMBA_OK && row < matrix->rows; row += most) {
        size_t n = hy_min_size(most, matrix->rows - row);
        status = hy_quantise_rows(&output->quantiser, &encoder, entry->info.name, matrix, row, n,
                                  &entry->scheme, output->packed, output->scales + row * groups,
                                  error);
        if (status == HYMBA_OK)
            status = hy_writer_write(&output->writer, output->packed,
                                     hy_packed_bytes(&entry->scheme, n, matrix->columns), error);
        if (status == HYMBA_OK)
            status = advance(output, data + row * row_bytes, n * row_bytes, error);
    }
    return status;
}

/* The original shape, in the file's byte order. */
static hymba_status write_shape(struct output *output, const struct entry *entry,
                                hymba_error *error)
{
    unsigned char bytes[16];
    for (int i = 0; i < 16; i++)
        bytes[i] = (unsigned char)(entry->info.shape[i / 8] >> (8 * (i % 8)));
    return hy_writer_write(&output->writer, bytes, sizeof bytes, error);
}

static hymba_status write_entry(struct output *output, size_t index, hymba_error *error)
{
    const struct entry *entry = &output->entries[index];
    const struct hy_tensor *tensor = &output->tensors[index];
    switch (entry->part) {
    case HY_PACKED:
        return write_packed(output, entry, error);
    case HY_SCALE: /* made with the packed one, just before */
        return hy_writer_write(&output->writer, output->scales,
                               hy_scale_bytes(&entry->scheme, (size_t)entry->info.shape[0],
                                              (size_t)entry->info.shape[1]),
                               error);
    case HY_SHAPE:
        return write_shape(output, entry, error);
    default: {
        hymba_status status =
            hy_writer_write(&output->writer, tensor->data, (size_t)tensor->size, error);
        return status == HYMBA_OK ? advance(output, tensor->data, (size_t)tensor->size, error)
                                  : status;
    }
    }
}

static hymba_status write_weights(struct output *output, hymba_error *error)
{
    char *header = NULL;
    size_t size = 0;
    hymba_status status = hy_safetensors_header(output->memory, output->tensors,
                                                output->n_entries, &header, &size, error);
    if (status == HYMBA_OK)
        status = make_room(output, error);
    if (status == HYMBA_OK)
        status = hy_writer_open(output->memory, output->target.paths[0], &output->writer, error);
    if (status == HYMBA_OK) {
        status = hy_writer_write(&output->writer, header, size, error);
        for (size_t i = 0; i < output->n_entries && status == HYMBA_OK; i++)
            status = write_entry(output, i, error);
        if (status == HYMBA_OK)
            status = hy_writer_finish(&output->writer, error);
        hy_writer_abandon(&output->writer);
    }
    hy_free(output->memory, header);
    return status;
}

static hymba_status write_config(struct output *output, hymba_error *error)
{
    struct hy_file file;
    char *field = NULL, *text = NULL, name[512];
    size_t field_length = 0, length = 0;
    hymba_status status = hy_source_read(output->job->source, config_name, &file, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_quantise_config(output->memory, &output->job->model->plan, &output->job->recipe,
                                &field, &field_length, error);
    if (status == HYMBA_OK)
        status = hy_json_with_value(output->memory, (const char *)file.data, file.size,
                                    hy_source_name(output->job->source, config_name, name,
                                                   sizeof name),
                                    "quantization_config", field, field_length, &text, &length,
                                    error);
    if (status == HYMBA_OK)
        status = hy_new_directory_write(&output->target, output->n_names - 1, text, length,
                                        error);
    hy_free(output->memory, text);
    hy_free(output->memory, field);
    hy_file_close(&file);
    return status;
}

static hymba_status copy_files(struct output *output, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (size_t i = 1; i + 1 < output->n_names && status == HYMBA_OK; i++) {
        struct hy_file file;
        status = hy_source_read(output->job->source, output->names[i], &file, error);
        if (status != HYMBA_OK)
            return status;
        status = hy_new_directory_write(&output->target, i, file.data, file.size, error);
        hy_file_close(&file);
    }
    return status;
}

static hymba_status list_files(struct output *output, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    output->names[output->n_names++] = weights_name;
    for (size_t i = 0; i < N_COPIED && status == HYMBA_OK; i++) {
        bool has;
        status = hy_source_has(output->job->source, copied_names[i], &has, error);
        if (has)
            output->names[output->n_names++] = copied_names[i];
    }
    output->names[output->n_names++] = config_name;
    return status;
}

hymba_status hy_quantise_directory(const struct hy_quantise_job *job, hymba_error *error)
{
    struct output output = {
        .job = job, .memory = job->memory, .total = job->model->weights.bytes};
    hymba_status status = hy_recipe_check(&job->recipe, error);
    if (status == HYMBA_OK && job->model->plan.config.quantization.present)
        status = hy_fail(error, HYMBA_ERROR_ARGUMENT, "%s: the weights are quantised already",
                         job->source->directory);
    if (status == HYMBA_OK)
        status = list_tensors(&output, error);
    if (status == HYMBA_OK)
        status = list_files(&output, error);
    if (status == HYMBA_OK) {
        hy_recipe_log(output.memory, &job->recipe, &job->model->plan);
        status = hy_new_directory_begin(output.memory, job->output, output.names, output.n_names,
                                        &output.target, error);
        if (status == HYMBA_OK)
            status = write_weights(&output, error);
        if (status == HYMBA_OK)
            status = copy_files(&output, error);
        if (status == HYMBA_OK)
            status = write_config(&output, error);
        hy_new_directory_end(&output.target, status == HYMBA_OK);
    }
    hy_quantiser_free(&output.quantiser);
    hy_free(output.memory, output.packed);
    hy_free(output.memory, output.scales);
    hy_free(output.memory, output.entries);
    hy_free(output.memory, output.tensors);
    return status;
}
