/*
 * The command as one of several ranks: processes that each compute a part of the same call, with
 * the same arguments but for their rank. Rank 0 prints; the others only say what went wrong.
 */
#ifndef TOOLS_RANKS_H
#define TOOLS_RANKS_H

#include <stdbool.h>
#include <stdint.h>

#include "hymba.h"
#include "options.h"

struct rank_options {
    uint64_t rank, world_size, timeout; /* seconds; 0: the library's choice */
    const char *meeting;
    bool from_environment;
    hymba_ranks ranks; /* of settle_ranks; world_size 0: none */
    char place[4200];  /* of the environment's meeting */
};

/* Adds --rank, --world-size, --meeting, --rank-timeout and --ranks-from-environment. */
void add_rank_options(struct option_set *set, struct rank_options *options);

/* After options_parse: fills options->ranks, and makes all but rank 0 print nothing but errors. An
 * exit status; the error has been printed. */
int settle_ranks(const struct option_set *set, struct rank_options *options);

/* Whether this process is one of several ranks, which all must do the same. */
bool ranks_are_several(void);

#endif
