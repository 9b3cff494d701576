/*
 * Weights bound to the plan. Matrices are used where they lie in the file; the small tensors
 * (norms, convolution, SSM parameters) are converted to f32 in the layout the kernels want.
 */
#ifndef HY_MODEL_WEIGHTS_H
#define HY_MODEL_WEIGHTS_H

#include "format/safetensors.h"
#include "model/plan.h"
#include "model/source.h"

struct hy_matrix {
    const void *data; /* [rows][columns] of dtype, row-major, perhaps misaligned */
    hymba_dtype dtype;
    size_t rows, columns;
};

/* What a layer lacks is NULL. */
struct hy_layer_weights {
    struct hy_matrix in_proj, x_proj, dt_proj, out_proj, gate, up, down;
    float *input_norm, *ffn_norm;          /* [H] */
    float *conv_weight;                    /* [K][di], transposed */
    float *conv_bias, *dt_bias, *d;        /* [di] */
    float *dt_norm, *b_norm, *c_norm;      /* [R], [N], [N] */
    float *a;                              /* [N][di]: -exp(A_log), transposed */
    float *attention_norm, *ssm_norm;      /* [di] */
};

struct hy_weights {
    struct hy_matrix embedding, meta, head; /* head is the embedding where tied */
    float *final_norm;
    struct hy_layer_weights *layers;
    uint64_t bytes;                         /* of all bound tensors as stored */
    /* what holds them */
    struct hy_file *files;
    struct hy_safetensors *containers;
    size_t n_files;
    float *small;                           /* all f32 copies, one block */
};

hymba_status hy_weights_load(struct hy_memory *memory, const struct hy_source *source,
                             const struct hy_plan *plan, struct hy_weights *weights,
                             hymba_error *error);
void hy_weights_free(struct hy_memory *memory, struct hy_weights *weights);

#endif
