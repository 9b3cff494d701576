/*
 * A host that keeps books. Its allocator checks that every block comes back with the size and
 * alignment it was asked for, counts what is out, and fails where a test wants it to; its progress
 * hook cancels where a test wants that. May be used from any thread.
 */
#ifndef TEST_HOST_H
#define TEST_HOST_H

#include <pthread.h>

#include "hymba.h"
#include "support.h"

struct test_host {
    hymba_host host;         /* for the library; its user is this struct */
    pthread_mutex_t mutex;
    long n_allocations;      /* asked for, refused ones included */
    long fail_at;            /* number of the allocation to refuse, from 0; negative: none */
    bool fail_ever_after;    /* refuse all later ones as well */
    uint64_t used, peak;     /* bytes */
    long n_faults;           /* blocks that came back wrong */
    long n_progress;         /* calls of the progress hook */
    long cancel_at;          /* number of the call that cancels, from 0; negative: none */
    int32_t phase;           /* of the last call */
    uint64_t done, total;
};

/* Refuses and cancels nothing. */
void test_host_init(struct test_host *host);

/* Refuse the allocation of this number, counted from now; the counts begin anew. */
void test_host_fail_at(struct test_host *host, long number, bool ever_after);

/* Asserts that every block came back, and rightly. */
void test_host_check(struct test_host *host);

#endif
