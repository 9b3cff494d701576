/*
 * A context's working memory for one step: activations, allocated once. Buffers of the mixer and of
 * the feed-forward network share their place, since a layer never needs both.
 */
#ifndef HY_RUN_WORKSPACE_H
#define HY_RUN_WORKSPACE_H

#include "state/state.h"

/* Rows of logits computed at once. On a device one product takes as many as it reads the weights
 * of the head once for. */
enum { HY_LOGITS_ROWS = 16, HY_DEVICE_LOGITS_ROWS = 128 };

struct hy_workspace {
    size_t rows;          /* of a step */
    size_t buffer_rows;   /* that there is room for: on a device whole panels, HY_PANEL_ROWS */
    size_t logits_rows;   /* of logits computed at once */
    size_t logits_buffer_rows; /* the same */
    float *block;         /* all of what follows; rows are buffer_rows */
    float *x;             /* [rows][H]: the residual stream */
    float *u;             /* [rows][H]: its norm, and a rank's part of what is added to it */
    float *cosine, *sine; /* [rows][qk_size / 2] */
    float *proj;          /* [rows][max_in_rows]: in_proj's output */
    float *conv;          /* [rows][di] */
    float *dt_b_c;        /* [rows][R + 2 N]: x_proj's output */
    float *square_sums;   /* [rows][2]: of both streams, in the place of dt_b_c */
    float *dt;            /* [rows][di], before the scan */
    float *attention;     /* [rows][di] */
    float *ssm;           /* [rows][di], in the place of dt */
    float *fused;         /* [rows][di] or [rows][2 di], in the place of proj */
    float *gate, *up;     /* [rows][E], in the place of proj and what follows */
    float *logits;        /* [logits_buffer_rows][V] */
    void *rounded;        /* rows of activations as bf16 or int8, each up to max_columns long, and
                             those that whole blocks of rows would have */
    float *rounded_scales;  /* [so many][max_columns / 32] */
    int32_t *rounded_sums;  /* [so many][max_columns / 32] */
    unsigned char *step_kv; /* keys and values of the step: layout->step_bytes */
    int32_t *ids;         /* [rows] */
    int32_t *tokens;      /* [logits_rows]: sampled */
    size_t bytes;
    /* Where the host writes and reads the five that it has to do with: they themselves, but with a
     * plug-in's device a copy in the host's memory. */
    struct hy_plugin *plugin;
    void *staging;
    float *host_cosine, *host_sine, *host_logits;
    int32_t *host_ids, *host_tokens;
};

/* Bytes of the workspace for steps of rows tokens on a device or on the CPU; LIMIT if they do not
 * fit. */
hymba_status hy_workspace_bytes(const struct hy_plan *plan, const struct hy_state_layout *layout,
                                bool device, size_t rows, size_t *bytes, hymba_error *error);

/* Bytes of the host's copies for a plug-in's device; the workspace's bytes fit. */
size_t hy_workspace_staging_bytes(const struct hy_plan *plan, size_t rows);

hymba_status hy_workspace_create(struct hy_memory *memory, struct hy_plugin *plugin,
                                 const struct hy_plan *plan, const struct hy_state_layout *layout,
                                 size_t rows, struct hy_workspace *workspace, hymba_error *error);
void hy_workspace_free(struct hy_memory *memory, struct hy_workspace *workspace);

#endif
