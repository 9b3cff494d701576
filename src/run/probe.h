/* Named observation points of the forward pass; off, they cost one branch. */
#ifndef HY_RUN_PROBE_H
#define HY_RUN_PROBE_H

#include <stddef.h>
#include <stdint.h>

enum hy_probe_site {
    HY_PROBE_HIDDEN,         /* residual stream after the layer, [rows][H] */
    HY_PROBE_ATTENTION_NORM, /* attention stream as it is fused: normed, or as it is where it is
                                alone, [rows][di] */
    HY_PROBE_SSM_NORM,       /* the same of the SSM stream */
    HY_PROBE_K,              /* keys after rotation, [rows][n_kv_heads * qk_size]; producers */
    HY_PROBE_V,              /* values, [rows][n_kv_heads * v_size]; producers */
    HY_PROBE_FINAL_NORM,     /* rows whose logits are computed, [rows][H]; layer is -1 */
    /* what matrices are multiplied with, [rows][columns of the matrix] */
    HY_PROBE_IN_PROJ,
    HY_PROBE_OUT_PROJ,
    HY_PROBE_GATE_UP,
    HY_PROBE_DOWN
};

/* data is row-major with stride floats between rows; the rows are those of the running step. */
typedef void (*hy_probe_function)(void *user, enum hy_probe_site site, int layer,
                                  const float *data, size_t rows, size_t width, size_t stride);

struct hy_probe {
    hy_probe_function function; /* NULL: off */
    void *user;
};

#endif
