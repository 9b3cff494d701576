/* Ranks that meet, each on a thread, and sockets of others who come there or wait for them. */
#ifndef TEST_MEETING_WORLD_H
#define TEST_MEETING_WORLD_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend/meeting.h"

/* One rank's meeting and what came of it. */
struct meeting_rank {
    struct hy_meeting meeting;
    const hymba_host *host; /* NULL: the default */
    unsigned char id[HY_UNIQUE_ID_BYTES]; /* rank 0: what it gives */
    hymba_status status;
    hymba_error error;
    _Atomic bool done;
    pthread_t thread;
};

/* "tcp://127.0.0.1:PORT" with a port that is free now; of IPv6, if the machine has it, with family
 * AF_INET6: false if not. */
bool meeting_free_place(int family, char *text, size_t size);

/* Rank 0 has an id made of bytes that are all different from zeros. */
void meeting_start(struct meeting_rank *one, const char *place, uint32_t rank,
                   uint32_t world_size, uint32_t timeout_ms);

/* Waits for its end; fails the test unless it ended so. */
void meeting_join(struct meeting_rank *one, hymba_status expected);

/* Whether a rank that was OK has rank 0's id. */
bool meeting_has_id(const struct meeting_rank *one);

/* A connection to the place, once somebody listens there. */
int meeting_call(const char *place);

/* Sends, without minding whether it arrives. */
void meeting_say(int socket, const void *bytes, size_t size);

/* Whether the other end hangs up (within a minute), whatever it says before; with answer not NULL,
 * the first size bytes of that must come, and lie there then. */
bool meeting_hangs_up(int socket, void *answer, size_t size);

/* Listens there as rank 0 would. */
int meeting_listen(const char *place);

/* The next one who comes, whose greeting is read. */
int meeting_take_guest(int listener);

/* How many files and sockets this process has open. */
int meeting_open_files(void);

#endif
