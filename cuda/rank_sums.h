/* Parts of ranks added up: rows moved to where they are gathered, and their sums. */
#ifndef HYMBA_CUDA_RANK_SUMS_H
#define HYMBA_CUDA_RANK_SUMS_H

#include "portable.h"

/* y[t][i] = x[t][i]: rows that lie x_stride apart, close together. */
struct hy_pack_rows_args {
    const float *x;
    size_t x_stride, n, rows;
    float *y; /* [rows][n] */
};

/* y[t][i] = parts[0][t][i] + parts[1][t][i] + ..., in this order; to it y[t][i] is added at the end
 * if accumulate. rows * n has at most 31 bits. */
struct hy_rank_sums_args {
    const float *parts;
    size_t part_stride, row_stride; /* from part to part, from row to row of a part */
    unsigned n_parts;               /* 1 or more */
    size_t n, rows;
    bool accumulate;
    float *y; /* may be the only part */
    size_t y_stride;
};

void hy_cuda_pack_rows(cudaStream_t stream, const struct hy_pack_rows_args *args);
void hy_cuda_rank_sums(cudaStream_t stream, const struct hy_rank_sums_args *args);

#endif
