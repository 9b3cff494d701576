/*
 * Matrices rounded on their way to a device: rows of 8 bits with one scale each (kernel/by_rows.h),
 * of a matrix of any type, a rank's part of it or all.
 */
#ifndef HY_MODEL_ROUND_ROWS_H
#define HY_MODEL_ROUND_ROWS_H

#include "base/memory.h"
#include "model/shard.h"

/* Some rows at a time. */
struct hy_row_rounder {
    const struct hy_cut *cut;
    const struct hy_matrix *matrix;
    struct hy_matrix rounded; /* what comes out, without data */
    size_t at_once;           /* rows */
    void *block;              /* all of what follows */
    unsigned char *bytes;     /* [at_once][hy_padded_row(columns)] */
    float *scales;            /* [at_once] */
    float *floats;            /* a row */
    unsigned char *row, *row_scales; /* of the part, as the matrix has them */
};

/* What a part of a matrix becomes as INT8 or FP8, without data. */
struct hy_matrix hy_rounded_matrix(const struct hy_cut *cut, hymba_dtype dtype);

/* MEMORY; UNSUPPORTED if sums of so many int8 products could be beyond 32 bits, with the tensor's
 * name. Free with hy_row_rounder_free, which ignores one that was not made. */
hymba_status hy_row_rounder_create(struct hy_row_rounder *rounder, struct hy_memory *memory,
                                   const struct hy_cut *cut, const struct hy_matrix *matrix,
                                   hymba_dtype dtype, const char *name, hymba_error *error);
void hy_row_rounder_free(struct hy_row_rounder *rounder, struct hy_memory *memory);

/* Rows [row, row + n) into bytes and scales, n <= at_once; those behind the last one are zeros. */
void hy_round_rows(struct hy_row_rounder *rounder, size_t row, size_t n);

#endif
