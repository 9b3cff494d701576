/*
 * Weights in the memory of a plug-in's device: a copy for each device, rank and type of
 * projections, of the rank's part, made for the first context there, shared by the later ones and
 * given back with the last.
 */
#ifndef HY_MODEL_DEVICE_WEIGHTS_H
#define HY_MODEL_DEVICE_WEIGHTS_H

#include "backend/store.h"
#include "model/model.h"
#include "model/shard.h"

struct hy_device_weights {
    unsigned references;       /* guarded by the model's lock, like next */
    struct hy_device_weights *next;
    int index;                 /* of the device */
    struct hy_shard shard;
    hymba_dtype projections;   /* INT8 or FP8: rounded so, by rows; DEFAULT: as they lie */
    struct hy_plugin *plugin;  /* a handle of its own: it outlives the context that made it */
    struct hy_weights weights; /* pointers into block; without files */
    void *block;
    size_t bytes;
};

/* Bytes of a copy of a rank's part; 0 without weights. */
uint64_t hy_device_weights_bytes(const hymba_model *model, const struct hy_split *split,
                                 hymba_dtype projections);

/*
 * The rank's copy on a device, with one reference; memory is the context's, whose host is told how
 * far it is. UNSUPPORTED for a projection that cannot be rounded so. Any thread.
 */
hymba_status hy_device_weights_get(hymba_model *model, struct hy_memory *memory, int index,
                                   struct hy_shard shard, hymba_dtype projections,
                                   struct hy_device_weights **out, hymba_error *error);
void hy_device_weights_release(hymba_model *model, struct hy_device_weights *weights);

#endif
