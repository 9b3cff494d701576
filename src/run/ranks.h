/*
 * Ranks: contexts that each compute a part of every layer, on devices of their own, and make the
 * same calls. Within a step they wait for each other where parts are added up, so a rank that fails
 * must not leave: it votes. Votes come where no sum is under way; what they find holds for all
 * ranks, which then all go on or all go back.
 */
#ifndef HY_RUN_RANKS_H
#define HY_RUN_RANKS_H

#include "base/memory.h"

struct hy_ranks {
    uint32_t rank;
    uint32_t world_size; /* 1: alone, and votes are the rank's own */
    uint32_t timeout_ms; /* how long others are waited for */
    struct hy_ballot *ballots; /* [world_size]; NULL: alone */
    bool told;           /* the last vote failed, and for another rank's sake alone */
    int (*is_abandoned)(const void *user); /* whether waiting for others is in vain; NULL: never */
    const void *abandoned_user;
};

/* Where a vote is taken: ranks that are elsewhere were given other calls. */
enum hy_vote {
    HY_VOTE_CALL = 1, /* before the first step: digest says what the call is */
    HY_VOTE_STEP = 2,
    HY_VOTE_END = 3 /* behind the last step */
};

/* What a rank says in a vote. */
struct hy_ballot {
    uint32_t vote; /* enum hy_vote */
    int32_t status;
    uint64_t digest;
};

/* Room for the ballots, where there are other ranks. */
hymba_status hy_ranks_reserve(struct hy_memory *memory, struct hy_ranks *ranks,
                              hymba_error *error);
void hy_ranks_free(struct hy_memory *memory, struct hy_ranks *ranks);

/*
 * Waits for all ranks' votes, and before that for all that was queued. status is this rank's so
 * far, with its sentence in *error; a rank whose call was cancelled votes CANCELLED. The result is
 * OK if all are; the rank's own failure, or that of the first rank that has one, named; ARGUMENT
 * if digests differ; TIMEOUT or DEVICE if a rank does not answer or is elsewhere, after which the
 * device has failed for good. Alone: status.
 */
hymba_status hy_ranks_vote(hymba_context *context, enum hy_vote vote, uint64_t digest,
                           hymba_status status, hymba_error *error);

/* The digest of what was digested before, and of these bytes; it begins with 0. Calls that failed
 * before their first step have none. */
uint64_t hy_digest(uint64_t digest, const void *data, size_t bytes);

#endif
