/*
 * A step on its way through the layers: what the parts of the forward pass, which are in files of
 * their own, share.
 */
#ifndef HY_RUN_PASS_H
#define HY_RUN_PASS_H

#include "run/forward.h"

struct hy_pass {
    hymba_context *context;
    struct hy_backend *backend;
    const struct hy_plan *plan; /* of a rank its own, like config */
    const struct hy_config *config;
    struct hy_workspace *work;
    const struct hy_step_sequence *sequences;
    size_t n_sequences;
    size_t rows;     /* that ops are called with */
    size_t own_rows; /* those of the sequences, which come first (step_rows.h) */
    size_t buffer_rows; /* that there is room for where products read and write */
};

void hy_pass_probe(const struct hy_pass *pass, enum hy_probe_site site, int layer,
                   const float *data, size_t width, size_t stride);

/* Where rows are rounded for products with w, and how; data is NULL if they are not. */
struct hy_rounded hy_pass_rounded_for(const struct hy_pass *pass, const struct hy_matrix *w);

/* Rows of x in the form that products with w take. */
struct hy_rounded hy_pass_round(const struct hy_pass *pass, const float *x, size_t x_stride,
                                const struct hy_matrix *w);

/* Where an op puts its rows as f32: nowhere on a device, if they are only read rounded. */
float *hy_pass_floats(const struct hy_pass *pass, float *y, const struct hy_rounded *rounded);

/* y = x w' + bias, from rows rounded for w. */
void hy_pass_multiply(const struct hy_pass *pass, const float *x, size_t x_stride,
                      const struct hy_rounded *rounded, const struct hy_matrix *w,
                      const float *bias, float *y);

/* Adds x w' to the residual stream; of ranks the sum of their products. */
void hy_pass_add_product(const struct hy_pass *pass, const float *x, size_t x_stride,
                         const struct hy_rounded *rounded, const struct hy_matrix *w);

/* Whether there are no other ranks. */
bool hy_pass_is_alone(const struct hy_pass *pass);

/* Among ranks, rows of n elements become the sums over all ranks of theirs; alone they are that.
 * From begin to end nothing else may touch them: what is called then may run beside the sum. */
void hy_pass_begin_all_sum(const struct hy_pass *pass, float *x, size_t n);
void hy_pass_end_all_sum(const struct hy_pass *pass);
void hy_pass_all_sum(const struct hy_pass *pass, float *x, size_t n);

/* Of a layer, from in_proj's output on: section 4a, into workspace.attention, and section 4b, into
 * workspace.ssm. Its first half, up to dt, B and C, begins their sum over ranks. */
void hy_pass_attend(const struct hy_pass *pass, uint32_t index);
void hy_pass_begin_scan(const struct hy_pass *pass, uint32_t index);
void hy_pass_scan(const struct hy_pass *pass, uint32_t index);

#endif
