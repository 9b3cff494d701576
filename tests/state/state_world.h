/* What the tests of sequences' memory begin and end with, and the models that they are of. */
#ifndef TEST_STATE_WORLD_H
#define TEST_STATE_WORLD_H

#include "host.h"
#include "state/state.h"

/* Between the two functions; blocks are counted apart. */
extern struct test_host state_host;
extern struct hy_memory state_memory, state_block_memory;

/* Of a checked fixture. state_teardown: all memory was given back. */
void state_setup(void);
void state_teardown(void);

/* Sizes of a small model; window 0: none. */
struct shape {
    unsigned n_layers, n_kv_heads, queries_per_kv, qk_size, v_factor, n_meta, window;
    unsigned state_size, conv_width;
    const char *full, *groups, *plan;
};

enum { STATE_SHAPES = 8 };
extern const struct shape state_shapes[];

void state_create_plan(const struct shape *shape, struct hy_plan *plan);
void state_create_preset_plan(const char *name, struct hy_plan *plan);

#endif
