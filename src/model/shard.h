/*
 * A rank's part of a model. Each of several devices computes a part of every layer: key heads with
 * the query heads that read them, the channels of these heads (attention's output and the SSM's
 * channels, which the fusion adds one by one), and columns of the feed-forward network. The rest is
 * whole on every rank: the norms of the residual stream and of dt, B and C, embedding, meta tokens
 * and head.
 */
#ifndef HY_MODEL_SHARD_H
#define HY_MODEL_SHARD_H

#include "model/plan.h"
#include "model/weights.h"

struct hy_shard {
    uint32_t rank;
    uint32_t world_size; /* 1 or more; 1: the whole model */
};

struct hy_range {
    size_t begin, end;
};

/* What a rank has of every layer. */
struct hy_split {
    struct hy_range kv_heads, heads, channels, ffn;
};

/*
 * The parts of all ranks, one behind the other, are the whole; none is empty, and no two differ by
 * more than they must. Columns are parted at multiples of 64 and where groups of quantised weights
 * end; weights NULL: as if there were none. ARGUMENT if the model has no such parts for all ranks.
 */
hymba_status hy_shard_split(const struct hy_plan *whole, const struct hy_weights *weights,
                            struct hy_shard shard, struct hy_split *split, hymba_error *error);

/* The plan of a rank's part: that of a model with fewer heads and channels. Free with
 * hy_plan_free. */
hymba_status hy_shard_plan(struct hy_memory *memory, const struct hy_plan *whole,
                           const struct hy_weights *weights, struct hy_shard shard,
                           struct hy_plan *plan, hymba_error *error);

/* Some rows or columns of a matrix, in its order. */
enum { HY_MOST_RANGES = 5 };

struct hy_ranges {
    struct hy_range list[HY_MOST_RANGES];
    size_t n;
};

/* A part of a tensor. */
struct hy_cut {
    struct hy_ranges rows, columns;
};

struct hy_cut hy_shard_cut(const struct hy_plan *whole, const struct hy_split *split,
                           enum hy_slot slot, uint32_t layer);

/* A small tensor as the f32 matrix that the kernels want (weights.h); a vector is a single row. */
struct hy_matrix hy_shard_small(const struct hy_plan *whole, enum hy_slot slot, uint32_t layer,
                                const float *data);

/* Of all ranges. */
size_t hy_ranges_count(const struct hy_ranges *ranges);

/* Puts rows of the part, from number `row` on, one behind the other as a matrix of its own has
 * them: their elements, and the scales of a quantised matrix. */
void hy_cut_rows(const struct hy_cut *cut, const struct hy_matrix *matrix, size_t row,
                 size_t n_rows, void *to);
void hy_cut_scales(const struct hy_cut *cut, const struct hy_matrix *matrix, size_t row,
                   size_t n_rows, void *to);

#endif
