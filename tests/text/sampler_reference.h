/*
 * The stages of a sampler by their definitions in hymba.h, as plainly as can be: everything sorted
 * and normalised at each stage, in long double. It shares nothing with the library.
 */
#ifndef TEST_SAMPLER_REFERENCE_H
#define TEST_SAMPLER_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hymba.h"

enum { REFERENCE_MAX = 300 };

struct reference_candidate {
    int32_t token;
    long double logit;
    long double probability; /* after reference_normalise */
};

/* The candidates that are left. */
struct reference {
    const hymba_sampler_params *params; /* as given: zero means the default */
    const int32_t *history;             /* all accepted tokens, oldest first */
    size_t n_history;
    bool xtc_acts;
    size_t n;
    struct reference_candidate items[REFERENCE_MAX];
};

/* All tokens with the biases; those with a logit of -infinity are left out. */
void reference_start(struct reference *reference, const hymba_sampler_params *params,
                     const float *logits, size_t n_logits);

/* One stage by its name, the length of which is given. */
void reference_stage(struct reference *reference, const char *name, size_t length);

/* All stages of an order, as hymba_sampler_params has it. */
void reference_run(struct reference *reference, const char *order);

/* Sorts, the most probable first and the lower id among equals, and fills the probabilities in. */
void reference_normalise(struct reference *reference);

/* Mirostat 2: keeps what surprises by at most mu bits, and at least one; normalises. */
void reference_mirostat(struct reference *reference, long double mu);

/* The candidate of a token; NULL if it is not left. */
const struct reference_candidate *reference_find(const struct reference *reference,
                                                 int32_t token);

#endif
