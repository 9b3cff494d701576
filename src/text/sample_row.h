/*
 * What the token of a row of logits is chosen by, for devices: a sampler with those stages that
 * they have, at one step. The token is, to the bit of every decision, the one that the sampler
 * itself would choose (sampler.c), since all that decides is exactly rounded operations in double
 * and sums of whole parts of a weight (candidates.h).
 */
#ifndef HY_TEXT_SAMPLE_ROW_H
#define HY_TEXT_SAMPLE_ROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hymba.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HY_SAMPLE_MOST_LOGITS = 1 << 17 }; /* of a row */

enum hy_sample_stage {
    HY_SAMPLE_TOP_K = 1,
    HY_SAMPLE_TOP_P = 2,
    HY_SAMPLE_MIN_P = 3,
    HY_SAMPLE_TEMPERATURE = 4,
    HY_SAMPLE_STAGES = 4
};

/* A token whose logit is not the model's: the bias is added, then come the penalties. */
struct hy_sample_change {
    int32_t token;
    float bias;        /* finite, or -INFINITY */
    uint32_t n_recent; /* how often the token is among those that the penalties look at */
};

struct hy_sample_row {
    size_t row; /* of the logits */
    const struct hy_sample_change *changes; /* each token once, 0 <= token < n_logits */
    size_t n_changes;
    double draw;        /* [0, 1) */
    uint32_t greedy;    /* 1: the best, no stage runs */
    uint32_t n_stages;
    int32_t stages[HY_SAMPLE_STAGES]; /* in their order, each at most once */
    int32_t top_k;      /* > 0 */
    float top_p, min_p; /* 0 to 1 */
    float temperature;  /* > 0 */
    float repeat_penalty, presence_penalty, frequency_penalty; /* as in hymba_sampler_params */
};

/* tokens[i] becomes the token of rows[i]; -1 if its logits have a NaN or +infinity, or if all are
 * -infinity, with the changes. */
struct hy_sample_args {
    const float *logits;
    size_t stride;   /* elements from row to row */
    size_t n_logits; /* 1 to HY_SAMPLE_MOST_LOGITS */
    const struct hy_sample_row *rows;
    size_t n_rows;
    int32_t *tokens; /* [n_rows] */
};

/*
 * By what the sampler's next token is chosen, but for row->row; false if that takes what devices
 * do not have. counts has n_logits elements, zero before and after; changes has room for
 * hy_sampler_max_changes, and row points into it.
 */
bool hy_sampler_plan_row(const hymba_sampler *sampler, size_t n_logits, uint32_t *counts,
                         struct hy_sample_change *changes, struct hy_sample_row *row);
size_t hy_sampler_max_changes(const hymba_sampler *sampler, size_t n_logits);

/* What a device does with the row's logits, plainly. items has room for n_logits. */
struct hy_candidate;
int32_t hy_sample_row_plainly(const struct hy_sample_row *row, const float *logits,
                              size_t n_logits, struct hy_candidate *items);

#ifdef __cplusplus
}
#endif

#endif
