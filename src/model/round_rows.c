#include "model/round_rows.h"

#include <string.h>

#include "base/checked.h"
#include "kernel/by_rows.h"
#include "kernel/ref.h"

enum { STAGED_BYTES = 4 << 20 };

struct hy_matrix hy_rounded_matrix(const struct hy_cut *cut, hymba_dtype dtype)
{
    size_t columns = hy_ranges_count(&cut->columns);
    return (struct hy_matrix){
        .dtype = dtype,
        .rows = hy_ranges_count(&cut->rows),
        .columns = columns,
        .group = columns,
        .by_rows = true,
    };
}

/* Divides the block, or counts its bytes where there is none yet. */
static size_t divide(struct hy_row_rounder *rounder, unsigned char *block)
{
    const struct hy_matrix *matrix = rounder->matrix;
    size_t columns = rounder->rounded.columns, at_once = rounder->at_once, used = 0;
    size_t groups = matrix->group ? columns / matrix->group : 0;
    const size_t sizes[] = {at_once * hy_padded_row(columns), at_once * sizeof(float),
                            columns * sizeof(float), hy_row_bytes(matrix->dtype, columns),
                            groups * sizeof(uint16_t)};
    void *parts[5] = {NULL};
    for (int i = 0; i < 5; used += hy_round_up(sizes[i++], HY_ALIGNMENT))
        parts[i] = block ? block + used : NULL;
    rounder->bytes = parts[0];
    rounder->scales = parts[1];
    rounder->floats = parts[2];
    rounder->row = parts[3];
    rounder->row_scales = parts[4];
    return used;
}

hymba_status hy_row_rounder_create(struct hy_row_rounder *rounder, struct hy_memory *memory,
                                   const struct hy_cut *cut, const struct hy_matrix *matrix,
                                   hymba_dtype dtype, const char *name, hymba_error *error)
{
    *rounder = (struct hy_row_rounder){
        .cut = cut,
        .matrix = matrix,
        .rounded = hy_rounded_matrix(cut, dtype),
    };
    size_t columns = rounder->rounded.columns;
    if (dtype == HYMBA_DTYPE_INT8 && columns > HY_MOST_INT8_COLUMNS)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "tensor %s: found %zu columns; sums of more than %d int8 products may be "
                       "beyond 32 bits", name, columns, HY_MOST_INT8_COLUMNS);
    rounder->at_once = hy_min_size(hy_max_size(STAGED_BYTES / hy_padded_row(columns), 1),
                                   hy_weight_rows(rounder->rounded.rows));
    size_t bytes = divide(rounder, NULL);
    rounder->block = hy_alloc(memory, bytes);
    if (!rounder->block)
        return hy_no_memory(error, bytes, "rows of weights that are rounded");
    divide(rounder, rounder->block);
    return HYMBA_OK;
}

void hy_row_rounder_free(struct hy_row_rounder *rounder, struct hy_memory *memory)
{
    hy_free(memory, rounder->block);
    rounder->block = NULL;
}

/* A row of the part as f32. */
static void load_row(struct hy_row_rounder *rounder, size_t row)
{
    const struct hy_matrix *matrix = rounder->matrix;
    struct hy_matrix own = {
        .data = rounder->row,
        .dtype = matrix->dtype,
        .rows = 1,
        .columns = rounder->rounded.columns,
        .scales = rounder->row_scales,
        .group = matrix->group,
    };
    hy_cut_rows(rounder->cut, matrix, row, 1, rounder->row);
    if (!hy_is_quantised(matrix->dtype)) {
        hy_row_to_f32(rounder->row, matrix->dtype, rounder->floats, own.columns);
        return;
    }
    hy_cut_scales(rounder->cut, matrix, row, 1, rounder->row_scales);
    hy_ref_dequantise_row(&own, 0, rounder->floats);
}

void hy_round_rows(struct hy_row_rounder *rounder, size_t row, size_t n)
{
    const struct hy_matrix *rounded = &rounder->rounded;
    size_t row_bytes = hy_padded_row(rounded->columns);
    for (size_t i = 0; i < n; i++) {
        unsigned char *bytes = rounder->bytes + i * row_bytes;
        rounder->scales[i] = 0.0f;
        if (row + i < rounded->rows) {
            load_row(rounder, row + i);
            rounder->scales[i] =
                hy_round_by_rows(rounder->floats, rounded->columns, rounded->dtype, bytes);
        } else {
            memset(bytes, 0, row_bytes);
        }
    }
}
