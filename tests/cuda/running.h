/* The kernel that runs, for the files that run it and that check what its threads do. */
#ifndef HYMBA_TEST_RUNNING_H
#define HYMBA_TEST_RUNNING_H

#include "inside.h"

enum { WARP = 32, MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / WARP };

/* What stamps of global memory have room for; numbers of launches begin anew behind it. */
enum { LAUNCH_BITS = 18, BLOCK_BITS = 18 };

enum thread_state { READY, AT_BARRIER, AT_MEETING, DONE };

struct running_kernel {
    const char *name; /* NULL outside of kernels */
    const std::function<void()> *body;
    unsigned threads;
    uint64_t number; /* of the launch */
    uint64_t block;  /* in the grid */
    uint64_t epoch, first_epoch, epochs; /* of all blocks; of this one; barriers in this one */
    enum thread_state states[MAX_THREADS];
    unsigned warp_epochs[MAX_WARPS]; /* a warp's barriers since the block's last */
    size_t shared_bytes;
    struct harness_launch_record record;
};
extern struct running_kernel running __attribute__((visibility("hidden")));

/* The thread that runs is in this state from now on; the warp's next lane that can go on has its
 * turn. Returns when the thread is READY and has its own again. */
void running_wait(enum thread_state state);

/* A block begins: no lane waits for others; nobody wrote its shared memory, or copies to it. */
void meetings_begin();
void shared_memory_begin();

/* How many lanes of the warp wait for the others. */
unsigned meetings_arrived(unsigned warp);

/* Of sizes that a compiler knows, since these are called for every number of every kernel. */
static inline void copy_element(void *to, const void *from, unsigned size)
{
    switch (size) {
    case 1:
        memcpy(to, from, 1);
        break;
    case 2:
        memcpy(to, from, 2);
        break;
    case 4:
        memcpy(to, from, 4);
        break;
    case 8:
        memcpy(to, from, 8);
        break;
    default:
        memcpy(to, from, 16);
    }
}

#endif
