/*
 * Models on several ranks, each a context on a device of its own and a thread: the harness plays
 * the devices.
 */
#ifndef TESTS_CUDA_RANK_RUNS_H
#define TESTS_CUDA_RANK_RUNS_H

#include <stdbool.h>

#include "hymba.h"

enum {
    RANKS_MOST = 3,
    RANKS_SESSIONS = 3,
    RANKS_VOCABULARY = 50,
    RANKS_MOST_ROWS = 64
};

/* Small models of ten heads, two to a key head, so that two ranks have parts of unequal size. */
enum rank_model {
    RANK_MODEL_MIXED, /* full and windowed layers, shared keys, both fusions, one stream alone */
    RANK_MODEL_CHANNELS,
    RANK_MODEL_HEADS,
    RANK_MODEL_WIDE, /* whose parts are copied in several pieces; too slow to be run */
    N_RANK_MODELS
};

extern const char *const rank_model_names[N_RANK_MODELS];

/* Of random weights; of int8 and int4 quantised while it is opened. */
hymba_model *rank_model_open(enum rank_model number, hymba_dtype dtype);

struct rank;

/* What all ranks do. */
struct rank_play {
    hymba_model *model;
    hymba_context_params params;
    uint32_t world_size;
    bool single_ops; /* no graphs */
    hymba_status (*act)(struct rank *rank);
    unsigned char id[HYMBA_UNIQUE_ID_BYTES];
};

struct rank {
    const struct rank_play *play;
    uint32_t index;
    hymba_context *context;
    hymba_session *sessions[RANKS_SESSIONS];
    hymba_status status;
    hymba_error error;
    float logits[RANKS_MOST_ROWS][RANKS_VOCABULARY]; /* of all calls, in order */
    size_t n_rows;
    void *kept; /* what act keeps; the caller's to free */
};

/* For act: prompts of different lengths, then steps of all, of some and of one. */
hymba_status rank_generate(struct rank *rank);

/* For act: the first session's part of that, alone. */
hymba_status rank_generate_alone(struct rank *rank);

/* All ranks, a thread each; those of a world have the same bits. */
void rank_run(struct rank_play *play, struct rank *ranks);

/* Of the difference of two runs' logits: the greatest magnitude, and the mean of squares. */
struct rank_difference {
    double greatest, square;
};

struct rank_difference rank_compare(const struct rank *a, const struct rank *b);

/* Of a run's logits from 0. */
double rank_deviation(const struct rank *rank);

#endif
