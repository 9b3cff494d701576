/*
 * Weights bound to the plan. Matrices are used where they lie in the file, unless they are
 * quantised while loading; the small tensors (norms, convolution, SSM parameters) are converted to
 * f32 in the layout the kernels want.
 */
#ifndef HY_MODEL_WEIGHTS_H
#define HY_MODEL_WEIGHTS_H

#include "format/safetensors.h"
#include "kernel/kernel.h"
#include "model/plan.h"
#include "model/quantise_matrix.h"
#include "model/source.h"

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
    bool quantised;                         /* some matrices are */
    uint64_t bytes;                         /* of all bound tensors as stored, or as quantised */
    /* what holds them */
    struct hy_file *files;
    struct hy_safetensors *containers;
    size_t n_files;
    float *small;                           /* all f32 copies, one block */
    void **blocks;                          /* of matrices quantised while loading */
    size_t n_blocks;
};

/* recipe->type DEFAULT: matrices as they are stored. */
hymba_status hy_weights_load(struct hy_memory *memory, const struct hy_source *source,
                             const struct hy_plan *plan, const struct hy_recipe *recipe,
                             struct hy_weights *weights, hymba_error *error);

/* The tensor of that name as it is in the files; NULL if there is none. */
const struct hy_tensor *hy_weights_find(const struct hy_weights *weights, const char *name);

/* Where the matrix of a slot is bound; NULL if the slot holds none. */
struct hy_matrix *hy_weights_matrix(struct hy_weights *weights, enum hy_slot slot,
                                    uint32_t layer);

/* Where the pointer to a small tensor stands, for a slot that holds no matrix. */
float **hy_weights_small(struct hy_weights *weights, enum hy_slot slot, uint32_t layer);

/* What lies at data will not be read again soon. */
void hy_weights_forget(const struct hy_weights *weights, const void *data, size_t size);

void hy_weights_free(struct hy_memory *memory, struct hy_weights *weights);

#endif
