#include "model/quantise_matrix.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "base/checked.h"
#include "base/processor.h"
#include "tensor/dtype.h"

enum { DEFAULT_GROUP_INT8 = 64, DEFAULT_GROUP_INT4 = 32 };

hymba_status hy_recipe_check(const struct hy_recipe *recipe, hymba_error *error)
{
    uint32_t group = recipe->group_size;
    if (!hy_is_quantised(recipe->type))
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "type of quantised weights: found %d, expected int8 or int4",
                       (int)recipe->type);
    if (group != 0 && group != 32 && group != 64 && group != 128)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "group_size: found %" PRIu32 ", expected 32, 64 or 128", group);
    return HYMBA_OK;
}

static hymba_dtype type_of_slot(hymba_dtype type, enum hy_slot slot)
{
    switch (slot) {
    case HY_SLOT_EMBEDDING:
    case HY_SLOT_HEAD:
        return HYMBA_DTYPE_INT8;
    case HY_SLOT_IN_PROJ:
    case HY_SLOT_OUT_PROJ:
    case HY_SLOT_GATE:
    case HY_SLOT_UP:
    case HY_SLOT_DOWN:
        return type;
    default:
        return HYMBA_DTYPE_DEFAULT;
    }
}

static size_t default_group(hymba_dtype type)
{
    return type == HYMBA_DTYPE_INT4 ? DEFAULT_GROUP_INT4 : DEFAULT_GROUP_INT8;
}

hymba_status hy_recipe_scheme(const struct hy_recipe *recipe, enum hy_slot slot,
                              const struct hy_slot_info *info, struct hy_scheme *scheme,
                              hymba_error *error)
{
    *scheme = (struct hy_scheme){HYMBA_DTYPE_DEFAULT, 0};
    if (recipe->type == HYMBA_DTYPE_DEFAULT)
        return HYMBA_OK;
    hymba_dtype type = type_of_slot(recipe->type, slot);
    if (type == HYMBA_DTYPE_DEFAULT)
        return HYMBA_OK;
    uint64_t columns = info->shape[1];
    size_t group = recipe->group_size;
    if (group == 0)
        group = default_group(type);
    if (recipe->group_size == 0 && columns % group != 0)
        group = HY_LEAST_GROUP;
    if (columns % group != 0)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "tensor %s: rows of %" PRIu64 " elements cannot be divided into groups of "
                       "%zu", info->name, columns, group);
    *scheme = (struct hy_scheme){type, group};
    return HYMBA_OK;
}

struct count {
    const struct hy_recipe *recipe;
    unsigned n_smaller;
};

static hymba_status count_smaller(void *user, enum hy_slot slot, uint32_t layer,
                                  const struct hy_slot_info *info, hymba_error *error)
{
    struct count *count = user;
    struct hy_scheme scheme;
    (void)layer;
    hymba_status status = hy_recipe_scheme(count->recipe, slot, info, &scheme, error);
    count->n_smaller += status == HYMBA_OK && scheme.dtype != HYMBA_DTYPE_DEFAULT &&
                        scheme.group < default_group(scheme.dtype);
    return status;
}

void hy_recipe_log(struct hy_memory *memory, const struct hy_recipe *recipe,
                   const struct hy_plan *plan)
{
    struct count count = {.recipe = recipe};
    if (recipe->group_size == 0 && hy_plan_visit(plan, count_smaller, &count, NULL) == HYMBA_OK &&
        count.n_smaller > 0)
        hy_log(memory, HYMBA_LOG_INFO,
               "%u matrices are quantised in groups of %d, since %d does not divide their rows",
               count.n_smaller, HY_LEAST_GROUP, DEFAULT_GROUP_INT8);
}

size_t hy_packed_bytes(const struct hy_scheme *scheme, size_t rows, size_t columns)
{
    return rows * hy_row_bytes(scheme->dtype, columns);
}

size_t hy_scale_bytes(const struct hy_scheme *scheme, size_t rows, size_t columns)
{
    return rows * (columns / scheme->group) * sizeof(uint16_t);
}

static hymba_status widen(void *user, enum hy_slot slot, uint32_t layer,
                          const struct hy_slot_info *info, hymba_error *error)
{
    size_t *widest = user;
    (void)layer;
    (void)error;
    if (type_of_slot(HYMBA_DTYPE_INT8, slot) != HYMBA_DTYPE_DEFAULT)
        *widest = hy_max_size(*widest, (size_t)info->shape[1]);
    return HYMBA_OK;
}

size_t hy_widest_quantised(const struct hy_plan *plan)
{
    size_t widest = 1;
    hy_plan_visit(plan, widen, &widest, NULL);
    return widest;
}

/* ------------------------------------------------------------------ rounding */

static void encode_plain(void *user, float *values, size_t n, size_t columns,
                         const struct hy_scheme *scheme, unsigned char *bytes, uint16_t *scales)
{
    (void)user;
    for (size_t i = 0; i < n; i++)
        hy_encode_row(values + i * columns, NULL, columns, scheme,
                      bytes + hy_packed_bytes(scheme, i, columns),
                      scales + i * (columns / scheme->group));
}

const struct hy_encoder hy_plain_encoder = {encode_plain, NULL};

hymba_status hy_quantiser_create(struct hy_memory *memory, uint32_t n_threads, size_t columns,
                                 struct hy_quantiser *quantiser, hymba_error *error)
{
    memset(quantiser, 0, sizeof *quantiser);
    quantiser->memory = memory;
    quantiser->columns = columns;
    if (n_threads == 0)
        n_threads = hy_processor_count();
    quantiser->scratch =
        hy_alloc_array(memory, n_threads, columns * HY_ENCODED_ROWS * sizeof(float));
    if (!quantiser->scratch)
        return hy_no_memory(error, columns * HY_ENCODED_ROWS * sizeof(float),
                            "rows of weights to be quantised");
    hymba_status status = hy_pool_create(memory, n_threads, &quantiser->pool, error);
    if (status != HYMBA_OK)
        hy_quantiser_free(quantiser);
    return status;
}

void hy_quantiser_free(struct hy_quantiser *quantiser)
{
    if (!quantiser->memory)
        return;
    hy_pool_destroy(quantiser->pool);
    hy_free(quantiser->memory, quantiser->scratch);
    memset(quantiser, 0, sizeof *quantiser);
}

/* What the threads of one call share. */
struct call {
    struct hy_quantiser *quantiser;
    const struct hy_encoder *encoder;
    const struct hy_matrix *matrix;
    const struct hy_scheme *scheme;
    size_t first;
    unsigned char *bytes;
    uint16_t *scales;
    _Atomic size_t bad; /* index of the first element that is no finite number; SIZE_MAX: none */
};

static void note_bad(struct call *call, size_t index)
{
    size_t known = atomic_load(&call->bad);
    while (index < known && !atomic_compare_exchange_weak(&call->bad, &known, index))
        continue;
}

/* Index of the first of n values that is infinite or not a number; n if there is none. */
static size_t find_bad(const float *values, size_t n)
{
    size_t i = 0;
    while (i < n && (hy_f32_to_bits(values[i]) & 0x7f800000u) != 0x7f800000u)
        i++;
    return i;
}

static void encode_rows(void *argument, size_t begin, size_t end, unsigned thread)
{
    struct call *call = argument;
    const struct hy_matrix *matrix = call->matrix;
    size_t columns = matrix->columns;
    float *values = call->quantiser->scratch +
                    (size_t)thread * HY_ENCODED_ROWS * call->quantiser->columns;
    for (size_t row = begin; row < end; row += HY_ENCODED_ROWS) {
        size_t n = hy_min_size(HY_ENCODED_ROWS, end - row), first = call->first + row;
        const unsigned char *data = matrix->data;
        hy_row_to_f32(data + first * columns * hy_dtype_size(matrix->dtype), matrix->dtype,
                      values, n * columns);
        size_t bad = find_bad(values, n * columns);
        if (bad < n * columns) {
            note_bad(call, first * columns + bad);
            return;
        }
        call->encoder->encode(call->encoder->user, values, n, columns, call->scheme,
                              call->bytes + hy_packed_bytes(call->scheme, row, columns),
                              call->scales + row * (columns / call->scheme->group));
    }
}

hymba_status hy_quantise_rows(struct hy_quantiser *quantiser, const struct hy_encoder *encoder,
                              const char *name, const struct hy_matrix *matrix, size_t first,
                              size_t n, const struct hy_scheme *scheme, unsigned char *bytes,
                              uint16_t *scales, hymba_error *error)
{
    struct call call = {
        .quantiser = quantiser,
        .encoder = encoder,
        .matrix = matrix,
        .scheme = scheme,
        .first = first,
        .bytes = bytes,
        .scales = scales,
    };
    atomic_init(&call.bad, SIZE_MAX);
    hy_pool_run(quantiser->pool, encode_rows, &call, n, HY_ENCODED_ROWS, HY_ENCODED_ROWS);
    size_t bad = atomic_load(&call.bad);
    if (bad == SIZE_MAX)
        return HYMBA_OK;
    return hy_fail_at(error, HYMBA_ERROR_FORMAT, (int64_t)bad,
                      "tensor %s: element [%zu, %zu] is infinite or not a number", name,
                      bad / matrix->columns, bad % matrix->columns);
}
