/* Writing a model that is open as a directory with quantised weights (docs/quantisation.md). */
#ifndef HY_MODEL_QUANTISE_DIRECTORY_H
#define HY_MODEL_QUANTISE_DIRECTORY_H

#include "model/model.h"

/*
 * How matrices are rounded. prepare is called before the rows of each; it may keep what
 * *encoder needs until the next call. NULL: the plain method.
 */
struct hy_rounding_method {
    hymba_status (*prepare)(void *user, enum hy_slot slot, uint32_t layer,
                            const struct hy_slot_info *info, const struct hy_scheme *scheme,
                            struct hy_encoder *encoder, hymba_error *error);
    void *user;
};

struct hy_quantise_job {
    struct hy_memory *memory;
    const struct hy_source *source; /* the model's files; a directory */
    hymba_model *model;             /* with its weights as stored */
    const char *output;
    struct hy_recipe recipe;
    uint32_t n_threads;
    struct hy_rounding_method method;
};

hymba_status hy_quantise_directory(const struct hy_quantise_job *job, hymba_error *error);

#endif
