/* What launchers of processes tell a rank by environment variables. */
#ifndef HY_BACKEND_LAUNCHER_H
#define HY_BACKEND_LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* Bytes that a place can have, with its NUL. */
enum { HY_PLACE_BYTES = 4096 + 8 };

struct hy_launch {
    uint32_t rank, world_size, local_rank;
    char place[HY_PLACE_BYTES]; /* of the meeting; empty: none, or none was asked for */
};

/* ARGUMENT, naming the variable, unless all are there and well-formed; those about the meeting are
 * read if it is asked for. A program with raised rights finds none. */
hymba_status hy_launcher_read(struct hy_launch *launch, bool wants_place, hymba_error *error);

#endif
