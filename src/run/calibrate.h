/*
 * What the inputs of a model's large matrices are like: calibration text runs through the model as
 * it is, and the inputs of each are added up, either as the mean squares of their channels or as
 * Gram matrices, X^T X. Gram matrices of all layers of a large model would take more memory than
 * the model: then the text runs several times, for some layers each time.
 */
#ifndef HY_RUN_CALIBRATE_H
#define HY_RUN_CALIBRATE_H

#include "run/session.h"

/* Matrices with the same input: in_proj; out_proj; gate and up; down. */
enum hy_input { HY_INPUT_IN, HY_INPUT_OUT, HY_INPUT_FFN, HY_INPUT_DOWN, HY_N_INPUTS };

/* Whose input a slot's matrix reads; HY_N_INPUTS: one that is not collected. */
enum hy_input hy_input_of(enum hy_slot slot);

struct hy_input_sums {
    float *values;  /* [columns], or [columns][columns]; NULL: the layer has no such matrix */
    size_t columns;
    bool factored;  /* the caller has made something else of the values */
};

struct hy_calibration {
    struct hy_memory *memory;
    hymba_context *context;
    hymba_session *session;
    const int32_t *tokens;
    size_t n_tokens;
    bool gram;               /* X^T X; else sums of squares */
    uint64_t budget;         /* bytes of sums at once; one layer is always collected */
    uint32_t first, count;   /* the layers whose sums are there */
    struct hy_input_sums (*sums)[HY_N_INPUTS]; /* [n_layers] */
    float *transposed;       /* a step's inputs, [columns][rows] */
    int32_t *chunk;
    const char *failed;      /* what went wrong inside the forward pass */
};

/* tokens must stay, and be of the model's vocabulary. */
hymba_status hy_calibration_create(struct hy_memory *memory, hymba_model *model,
                                   uint32_t n_threads, const int32_t *tokens, size_t n_tokens,
                                   bool gram, struct hy_calibration *calibration,
                                   hymba_error *error);
void hy_calibration_free(struct hy_calibration *calibration);

/* The sums for a matrix; runs the text, from this layer on, if they are not there. */
hymba_status hy_calibration_get(struct hy_calibration *calibration, uint32_t layer,
                                enum hy_input input, struct hy_input_sums **sums,
                                hymba_error *error);

#endif
