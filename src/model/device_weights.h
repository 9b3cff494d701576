/*
 * Weights in the memory of a plug-in's device: a copy for each device, made for the first context
 * there, shared by the later ones and given back with the last.
 */
#ifndef HY_MODEL_DEVICE_WEIGHTS_H
#define HY_MODEL_DEVICE_WEIGHTS_H

#include "backend/store.h"
#include "model/model.h"

struct hy_device_weights {
    unsigned references;       /* guarded by the model's lock, like next */
    struct hy_device_weights *next;
    int index;                 /* of the device */
    struct hy_plugin *plugin;  /* a handle of its own: it outlives the context that made it */
    struct hy_weights weights; /* pointers into block; without files */
    void *block;
    size_t bytes;
};

/* Bytes of a copy; 0 without weights. */
uint64_t hy_device_weights_bytes(const hymba_model *model);

/*
 * The copy on a device, with one reference; memory is the context's, whose host is told how far it
 * is. Any thread.
 */
hymba_status hy_device_weights_get(hymba_model *model, struct hy_memory *memory, int index,
                                   struct hy_device_weights **out, hymba_error *error);
void hy_device_weights_release(hymba_model *model, struct hy_device_weights *weights);

#endif
