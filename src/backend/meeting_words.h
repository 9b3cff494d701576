/*
 * What ranks say when they meet, little-endian:
 *
 *   greeting   "hymba go", u32 version, u32 rank, u32 world_size, u32 0
 *   answer     "hymba id", u32 version, u32 verdict, u32 number, u32 0, then 128 bytes: the id
 *              (WELCOME), a bit for each missing rank (OTHERS_MISSING), or zeros
 *
 * A rank greets once; rank 0 answers once: at once if it refuses, otherwise when all have come or
 * its time is over. A meeting's file holds an answer of welcome whose number is world_size.
 */
#ifndef HY_BACKEND_MEETING_WORDS_H
#define HY_BACKEND_MEETING_WORDS_H

#include <stdbool.h>

#include "backend/meeting.h"

enum {
    HY_MEETING_VERSION = 1,
    HY_GREETING_BYTES = 24,
    HY_ANSWER_BYTES = 24 + HY_UNIQUE_ID_BYTES
};

enum hy_verdict {
    HY_WELCOME = 0,
    HY_OTHER_VERSION = 1, /* number: rank 0's */
    HY_OTHER_SIZE = 2,    /* number: rank 0's world_size */
    HY_NO_SUCH_RANK = 3,
    HY_RANK_TAKEN = 4,
    HY_OTHERS_MISSING = 5
};

struct hy_greeting {
    uint32_t version, rank, world_size;
};

struct hy_answer {
    uint32_t version, verdict, number;
    unsigned char id[HY_UNIQUE_ID_BYTES];
};

/* False: these are no such words. */
bool hy_greeting_read(const unsigned char *bytes, struct hy_greeting *greeting);
bool hy_answer_read(const unsigned char *bytes, struct hy_answer *answer);
void hy_greeting_write(const struct hy_greeting *greeting, unsigned char *bytes);
void hy_answer_write(const struct hy_answer *answer, unsigned char *bytes);

/* What rank 0 of so many ranks thinks of a greeting; present has a bit for each rank. */
enum hy_verdict hy_greeting_judge(const struct hy_greeting *greeting, uint32_t world_size,
                                  const unsigned char *present);

bool hy_rank_is_in(const unsigned char *ranks, uint32_t rank);

/* "ranks 1, 2 and 5" into text: those of a set; the first ones, and "...", if it has more than
 * there is room for. */
void hy_ranks_describe(const unsigned char *ranks, uint32_t world_size, char *text,
                       size_t capacity);

#endif
