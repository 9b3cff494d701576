/*
 * The layer plan: what the forward pass loops over. A descriptor per layer, the caches that
 * groups of layers share, and the one table of tensor names and shapes (docs/semantics.md,
 * section 2), from which weights are bound, counted and made.
 */
#ifndef HY_MODEL_PLAN_H
#define HY_MODEL_PLAN_H

#include "format/config.h"

struct hy_layer_plan {
    int attention;   /* HYMBA_ATTENTION_... */
    int ssm;         /* HYMBA_SSM_... */
    int fusion;      /* HYMBA_FUSION_... */
    int ffn;         /* HYMBA_FFN_... */
    uint64_t window; /* UINT64_MAX: sees every key before it */
    bool kv_producer;    /* makes the keys and values of its cache */
    uint32_t kv;         /* number of its cache in hy_plan.caches */
    uint32_t ssm_index;  /* its place among the layers with SSM state */
    /* First rows of the slices of in_proj, and how many rows there are. */
    uint32_t q_row, k_row, v_row, x_row, z_row, in_rows;
    uint32_t out_columns; /* width of what out_proj reads */
};

/* Keys and values that one layer makes and its group reads: a cache of every session. */
struct hy_cache_plan {
    uint32_t layer; /* the producer */
    bool full;      /* some reader attends fully: every key is kept; else the last window */
};

struct hy_plan {
    struct hy_config config;
    struct hy_layer_plan *layers;  /* [config.n_layers] */
    struct hy_cache_plan *caches;  /* [n_caches] */
    uint32_t n_caches, n_full_caches;
    uint32_t n_ssm_layers;
    uint32_t max_in_rows;
};

/* Takes the configuration over (also on failure). */
hymba_status hy_plan_create(struct hy_memory *memory, struct hy_config *config,
                            struct hy_plan *plan, hymba_error *error);
void hy_plan_free(struct hy_memory *memory, struct hy_plan *plan);

enum hy_slot {
    /* of the model */
    HY_SLOT_EMBEDDING,
    HY_SLOT_META,
    HY_SLOT_FINAL_NORM,
    HY_SLOT_HEAD,
    /* of a layer */
    HY_SLOT_INPUT_NORM,
    HY_SLOT_IN_PROJ,
    HY_SLOT_CONV_WEIGHT,
    HY_SLOT_CONV_BIAS,
    HY_SLOT_X_PROJ,
    HY_SLOT_DT_NORM,
    HY_SLOT_B_NORM,
    HY_SLOT_C_NORM,
    HY_SLOT_DT_PROJ,
    HY_SLOT_DT_BIAS,
    HY_SLOT_A_LOG,
    HY_SLOT_D,
    HY_SLOT_ATTENTION_NORM,
    HY_SLOT_SSM_NORM,
    HY_SLOT_OUT_PROJ,
    HY_SLOT_FFN_NORM,
    HY_SLOT_GATE,
    HY_SLOT_UP,
    HY_SLOT_DOWN,
    HY_N_SLOTS,
    HY_FIRST_LAYER_SLOT = HY_SLOT_INPUT_NORM
};

struct hy_slot_info {
    char name[80];
    uint32_t n_dims;
    uint64_t shape[3];
    uint64_t n_elements;
};

/* Name and shape of a tensor; false if this plan has none in the slot (of that layer). */
bool hy_plan_slot(const struct hy_plan *plan, enum hy_slot slot, uint32_t layer,
                  struct hy_slot_info *info);

/* Calls visit for every tensor in the order of a model file; stops at the first failure. */
typedef hymba_status (*hy_slot_visit)(void *user, enum hy_slot slot, uint32_t layer,
                                      const struct hy_slot_info *info, hymba_error *error);
hymba_status hy_plan_visit(const struct hy_plan *plan, hy_slot_visit visit, void *user,
                           hymba_error *error);

/* Longest row that enters a product with weights, rounded up to a multiple of 32. */
size_t hy_plan_max_columns(const struct hy_plan *plan);

uint64_t hy_plan_parameters(const struct hy_plan *plan);

#endif
