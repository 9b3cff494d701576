/*
 * Rounding with error feedback (docs/quantisation.md): the columns of a matrix are rounded from
 * the last to the first, and each takes over what the rounding of the later ones did to the
 * products with inputs like those of the calibration text.
 */
#ifndef HY_RUN_GPTQ_H
#define HY_RUN_GPTQ_H

#include "backend/backend.h"
#include "model/quantise_matrix.h"

/* H = M^T D M, where M is upper triangular with ones on its diagonal. */
struct hy_factor {
    float *m;        /* [n][n]; row j from j + 1 on */
    float *d;        /* [n] */
    size_t n;
};

/* Factors a Gram matrix, n x n and symmetric, which is damped, in its place. d is [n]. */
hymba_status hy_factor_gram(struct hy_memory *memory, struct hy_backend *backend, float *gram,
                            size_t n, float *d, hymba_error *error);

/* An encoder whose user is a struct hy_factor of the matrix's columns. */
void hy_encode_with_feedback(void *user, float *values, size_t n, size_t columns,
                             const struct hy_scheme *scheme, unsigned char *bytes,
                             uint16_t *scales);

#endif
