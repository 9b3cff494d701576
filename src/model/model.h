/* A model: configuration, plan, weights, tokenizer. Immutable once it is open, but for the list of
 * the devices that have a copy of the weights. */
#ifndef HY_MODEL_MODEL_H
#define HY_MODEL_MODEL_H

#include <pthread.h>
#include <stdatomic.h>

#include "model/weights.h"
#include "text/tokenizer.h"

struct hymba_model {
    _Atomic unsigned references;
    struct hy_memory memory;
    struct hy_plan plan;
    bool has_weights;
    struct hy_weights weights;
    hymba_tokenizer *tokenizer; /* NULL: none */
    uint64_t n_parameters;
    pthread_mutex_t lock;       /* of the next; the one thing here that changes */
    struct hy_device_weights *device_weights;
};

/* params is complete; source's directory or files are set. */
hymba_status hy_model_open(const struct hy_source *source, const hymba_model_params *params,
                           hymba_model **model, hymba_error *error);
hymba_model *hy_model_retain(hymba_model *model);
void hy_model_release(hymba_model *model);

void hy_model_describe(const hymba_model *model, hymba_model_info *info);

/* Plan in the upper half, sampled weights in the lower (0 without weights). */
uint64_t hy_model_fingerprint(const hymba_model *model);

/* Writes a directory with random weights; params is complete. */
hymba_status hy_model_init(const char *directory, const char *config_json, size_t length,
                           const hymba_init_params *params, hymba_error *error);

#endif
