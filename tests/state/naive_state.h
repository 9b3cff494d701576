/*
 * A naive model of sequences' memory: for every sequence a plain list of what was written at each
 * position. The spans of the real one must list what a query may see, in order, with the bytes that
 * were written there.
 */
#ifndef TEST_NAIVE_STATE_H
#define TEST_NAIVE_STATE_H

#include "state/state.h"

enum { MAX_POSITIONS = 1000, N_SLOTS = 4, MAX_REWIND = 12, MAX_CACHES = 8, STEP_ROWS = 500,
       LARGEST_ROW = 256 };

/* A sequence as it should be. */
struct expected {
    uint64_t position, full_window, first_block;
    uint32_t stamps[MAX_POSITIONS];   /* what was written at each position */
    uint64_t ring[MAX_POSITIONS];     /* which position each row of the rings holds */
    uint32_t recurrent;               /* stamp of the present recurrent state */
    uint64_t kept_position[MAX_REWIND];
    uint32_t kept_stamp[MAX_REWIND];
};

struct slot {
    bool used;
    struct hy_state state;
    struct expected expected;
};

struct world {
    struct hy_plan plan;
    struct hy_state_layout layout;
    struct hy_meta_state *meta;
    unsigned char *step;
    float *working;
    uint32_t next_stamp;
    struct slot slots[N_SLOTS];
};

/* The rows of a step, as the forward pass would have written them. */
void naive_fill_step(struct world *world, size_t row, size_t n_rows, uint64_t position,
                     const uint32_t *stamps);

/* world->working: the recurrent state of that stamp; and whether the state has it. */
void naive_fill_working(const struct world *world, uint32_t stamp);
void naive_check_recurrent(const struct world *world, const struct hy_state *state,
                           uint32_t stamp);

/* What the cache lists for a query at the present position. */
void naive_check_cache(const struct world *world, const struct slot *slot, uint32_t cache,
                       uint64_t window);

bool naive_can_step_back(const struct world *world, const struct expected *expected,
                         uint64_t position);

/* All caches, the recurrent state, and which positions it can step back to. */
void naive_check_slot(const struct world *world, const struct slot *slot);

#endif
