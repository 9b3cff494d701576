/*
 * How the ranks of one run come by the id that they join with: rank 0 has it, the others come for
 * it to a place that all of them were told. Whoever else comes there is sent away, and whatever
 * lies or says something there is not believed.
 */
#ifndef HY_BACKEND_MEETING_H
#define HY_BACKEND_MEETING_H

#include <stdbool.h>

#include "backend/device.h"
#include "base/memory.h"

enum { HY_MAX_RANKS = 256 };

struct hy_meeting {
    const char *place;   /* "tcp://HOST:PORT", "file:/PATH" */
    uint32_t rank, world_size;
    uint32_t timeout_ms; /* how long it may take */
};

/* A place's parts. */
struct hy_place {
    bool is_file;
    const char *path; /* of a file; in the text that was read */
    char host[256];   /* otherwise: a name or an address, without brackets */
    char port[8];
};

/* ARGUMENT, naming what, unless text is a place. */
hymba_status hy_place_read(const char *text, const char *what, struct hy_place *place,
                           hymba_error *error);

/*
 * Rank 0 gives the id to all who come, the others get theirs into id. Rank 0 returns when all have
 * come and have it; at a file, which it writes, at once, and nobody learns there who came.
 * FILE if the place cannot be used, also where the file is there already; TIMEOUT if ranks are
 * missing, with their names; ARGUMENT if rank 0 has refused this one; CANCELLED by the progress
 * hook of memory's host, phase MEETING.
 */
hymba_status hy_meeting_hold(struct hy_memory *memory, const struct hy_meeting *meeting,
                             unsigned char *id, hymba_error *error);

/* After hy_meeting_hold was OK: when the others have joined, or will not, rank 0's file goes. */
void hy_meeting_end(const struct hy_meeting *meeting);

#endif
