/* What tests of a context on the guarded device begin and end with. */
#ifndef TEST_GUARDED_WORLD_H
#define TEST_GUARDED_WORLD_H

#include "golden.h"
#include "guarded_device.h"

extern struct guarded_control *guarded; /* the plug-in's, between the two */
extern char guarded_path[4096];         /* its file, beside the program */

/* Of a checked fixture. guarded_end: the core kept to the interface, and has left nothing there. */
void guarded_begin(void);
void guarded_end(void);

/* With the generic kernels; on the device, or with "cpu" on the CPU. */
hymba_context *guarded_context(hymba_model *model, hymba_context_params params,
                               const char *device);

/* The golden's model in its place with quantised weights; DEFAULT: as it is. */
void guarded_quantise(struct golden *golden, hymba_dtype type);

/* A session's saved state, from malloc, and what takes the pieces of it. */
struct guarded_saved {
    unsigned char *data;
    size_t size, capacity;
};
int32_t guarded_take_piece(void *user, const void *data, size_t size);

#endif
