/*
 * The arithmetic of a session's memory: which bytes lie where. Every byte count of caches and
 * states is computed here and nowhere else (docs/semantics.md, section 8).
 *
 *   fixed part   the rings of the window caches and, behind them, recurrent states that are kept
 *                for going back: one block a session. The present recurrent state, the convolution
 *                states of all SSM layers and then their SSM states, is a block of its own, so that
 *                another can take its place.
 *   blocks       of HY_BLOCK_TOKENS tokens each: keys and values of all full caches.
 *   meta part    one block a context: keys and values of the meta tokens for every cache, then
 *                the convolution and SSM states behind them.
 *
 * Keys and values lie head by head: [kv head][token][row of one head], first all of a cache's keys,
 * then its values. A ring keeps the window's W earlier keys, and as many more as a session may go
 * back; the keys of the running step lie in the context's workspace until the step is committed, so
 * that a query sees W + 1 keys.
 */
#ifndef HY_STATE_LAYOUT_H
#define HY_STATE_LAYOUT_H

#include "model/plan.h"

enum { HY_BLOCK_TOKENS = 256 };

/* Where a cache's keys and values lie in some place that holds rows tokens of it. */
struct hy_cache_place {
    size_t k_offset, v_offset;           /* bytes from the place's beginning */
    size_t k_head_stride, v_head_stride; /* bytes between heads */
};

struct hy_cache_layout {
    bool full;
    struct hy_cache_place ring;  /* in the fixed part; unless full */
    struct hy_cache_place block; /* in each block; if full */
    struct hy_cache_place meta;  /* in the meta part */
    struct hy_cache_place step;  /* in the workspace's step rows */
};

struct hy_state_layout {
    hymba_dtype cache_type, state_type;
    size_t state_size;                   /* bytes of an element */
    size_t n_kv_heads;
    size_t k_row_bytes, v_row_bytes;     /* of one head's key and value of a token */
    uint64_t n_meta, window;             /* tokens; window 0: no ring */
    size_t rewind_tokens;                /* recurrent states kept besides the present one */
    size_t ring_rows;                    /* window + rewind_tokens; 0: no ring */
    uint32_t n_caches, n_full_caches;
    struct hy_cache_layout *caches;
    /* recurrent states, in elements */
    uint32_t n_ssm_layers;
    size_t n_channels;                   /* neighbours in either kind of state */
    size_t conv_elements, ssm_elements;  /* of one layer */
    /* sizes in bytes */
    size_t ring_bytes;                   /* rings of the fixed part, which they begin */
    size_t conv_bytes, ssm_bytes;        /* all layers */
    size_t ssm_offset;                   /* of the SSM part from the recurrent part's beginning */
    size_t recurrent_bytes;              /* both, padded */
    size_t history_bytes;                /* kept states, behind the rings in the fixed part */
    size_t fixed_bytes;                  /* rings, kept states and the present state */
    size_t block_bytes;                  /* 0 without full caches */
    size_t meta_kv_bytes, meta_bytes;
    size_t step_bytes;                   /* keys and values of step_rows rows */
    size_t step_rows;
};

/* What a layout is made for; the types are resolved. */
struct hy_layout_params {
    hymba_dtype cache_type, state_type;
    size_t step_rows, rewind_tokens;
};

/* LIMIT if a size does not fit. */
hymba_status hy_layout_create(struct hy_memory *memory, const struct hy_plan *plan,
                              const struct hy_layout_params *params,
                              struct hy_state_layout *layout, hymba_error *error);
void hy_layout_free(struct hy_memory *memory, struct hy_state_layout *layout);

/* Fills the session's part of *info for info->n_tokens tokens. */
hymba_status hy_layout_memory(const struct hy_state_layout *layout, hymba_memory_info *info,
                              hymba_error *error);

/* The places that a sequence's bytes lie in. */
enum hy_state_place {
    HY_PLACE_RINGS,     /* of the fixed part */
    HY_PLACE_HISTORY,   /* the kept states behind them */
    HY_PLACE_RECURRENT, /* the present state */
    HY_PLACE_BLOCK,
    HY_PLACE_META
};

size_t hy_layout_place_bytes(const struct hy_state_layout *layout, enum hy_state_place place);

/*
 * Bytes of a place that belong together: rows, one behind the other, each with something of every
 * key head, or of every channel, side by side. In the layout of a rank's part of a model
 * (model/shard.h) there are the same bands, whose rows are a part of the whole rows, and the parts
 * of all ranks, one behind the other, are the whole. Between bands there are zeros.
 */
struct hy_band {
    size_t offset; /* from the place's beginning */
    size_t row_bytes, n_rows;
};

size_t hy_layout_n_bands(const struct hy_state_layout *layout, enum hy_state_place place);

/* index < hy_layout_n_bands. A band may be empty. */
struct hy_band hy_layout_band(const struct hy_state_layout *layout, enum hy_state_place place,
                              size_t index);

/* Elements of the recurrent states of all layers, as f32: convolution part first. */
static inline size_t hy_layout_recurrent_floats(const struct hy_state_layout *layout)
{
    return layout->n_ssm_layers * (layout->conv_elements + layout->ssm_elements);
}

#endif
