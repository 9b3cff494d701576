/* What a sampler is made of; for the files of the sampler alone. */
#ifndef HY_TEXT_SAMPLER_OBJECT_H
#define HY_TEXT_SAMPLER_OBJECT_H

#include "text/candidates.h"
#include "text/sampler.h"
#include "text/token_history.h"

enum hy_stage {
    HY_STAGE_PENALTIES,
    HY_STAGE_DRY,
    HY_STAGE_TOP_N_SIGMA,
    HY_STAGE_TOP_K,
    HY_STAGE_TYPICAL_P,
    HY_STAGE_TOP_P,
    HY_STAGE_MIN_P,
    HY_STAGE_XTC,
    HY_STAGE_TEMPERATURE,
    HY_STAGE_CUSTOM,
    HY_N_STAGES
};

/* The stages that run, in their order. */
struct hy_stage_order {
    enum hy_stage stages[HY_N_STAGES];
    size_t count;
};

/* What moves on from token to token; a call that fails leaves it alone. */
struct hy_sampler_progress {
    uint64_t n_draws;
    uint64_t n_xtc_draws;
    double mu; /* of Mirostat: the most surprising token that may come, in bits */
};

struct hymba_sampler {
    struct hy_memory memory;
    _Atomic uint32_t references;
    hymba_sampler_params params; /* defaults filled in, arrays the sampler's own, order NULL */
    hymba_logit_bias *logit_bias;
    int32_t *dry_breakers;
    struct hy_stage_order order;
    bool penalises, repels; /* the penalties, DRY have something to do */
    uint64_t key, xtc_key;
    struct hy_sampler_progress progress;
    struct hy_token_history history;
    /* What was chosen and is not taken yet. */
    int32_t chosen;
    struct hy_sampler_progress progress_then;
    size_t batch_mark; /* its item's number while a batch is checked */
    _Atomic bool scheduled; /* a request of a scheduler has it */
    /* Room for one call. */
    size_t n_candidates;
    struct hy_candidate *candidates;
    int32_t *custom_tokens;
    float *custom_logits;
    size_t n_overlaps;
    uint32_t *overlaps;
};

/* ------------------------------------------- parameters (sampler_params.c) */

/* Checks the parameters and fills the defaults in; *order by the string. */
hymba_status hy_sampler_check_params(hymba_sampler_params *params, struct hy_stage_order *order,
                                     hymba_error *error);

/* The order as a string of its own making, into text of HY_ORDER_TEXT bytes. False if a number is
 * no stage. */
enum { HY_ORDER_TEXT = 256 };
bool hy_stage_order_text(const unsigned char *stages, size_t count, char *text);

/* --------------------------------------- penalties (sampler_penalties.c) */

/* How many of the latest tokens the penalties and DRY look at. */
size_t hy_penalties_window(const hymba_sampler_params *params);
size_t hy_dry_window(const hymba_sampler_params *params);

/* Room for hy_dry_mark. */
hymba_status hy_dry_reserve(hymba_sampler *sampler, hymba_error *error);

/* Fills in n_recent, and n_repeated, of candidates that lie by their ids. */
void hy_penalties_mark(const hymba_sampler *sampler, struct hy_candidate *items, size_t count);
void hy_dry_mark(hymba_sampler *sampler, struct hy_candidate *items, size_t count);

void hy_penalties_apply(const hymba_sampler_params *params, struct hy_candidates *candidates);
void hy_dry_apply(const hymba_sampler_params *params, struct hy_candidates *candidates);

/* --------------------------------------------- stages (sampler_stages.c) */

void hy_keep_top_n_sigma(struct hy_candidates *candidates, double n);
void hy_keep_top_k(struct hy_candidates *candidates, int32_t k);
void hy_keep_typical(struct hy_candidates *candidates, double p);
void hy_keep_top_p(struct hy_candidates *candidates, double p);
void hy_keep_min_p(struct hy_candidates *candidates, double p);

/* XTC, where chance has decided that it acts. */
void hy_exclude_top_choices(struct hy_candidates *candidates, double threshold);

/* Mirostat 2: keeps what surprises by at most mu bits, and at least the best. */
void hy_keep_expected(struct hy_candidates *candidates, double mu);

/* Draws one of what is kept; unit lies in [0, 1). *surprise (may be NULL) becomes its -log2 p. */
int32_t hy_draw(struct hy_candidates *candidates, double unit, double *surprise);

#endif
