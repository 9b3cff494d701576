/*
 * The system's calls, made to fail. The program that links this defines open, read, write and the
 * others itself; they hand on to the system but where a test wants them to fail. JSON's memory
 * fails through Jansson's own hooks.
 */
#ifndef TEST_FAULT_INJECTION_H
#define TEST_FAULT_INJECTION_H

#include <stdbool.h>

enum fault_call {
    FAULT_HOST, /* allocations of the host's hooks: tests/support/host.h makes them fail */
    FAULT_JSON, /* allocations in Jansson */
    FAULT_PROGRESS, /* the host's progress hook cancels, likewise */
    FAULT_SINK,     /* the caller's write function: fault_sink asks */
    FAULT_ACCESS,
    FAULT_STAT,
    FAULT_MKDIR,
    FAULT_OPEN,
    FAULT_FSTAT,
    FAULT_READ,
    FAULT_MMAP, /* of files */
    FAULT_WRITE,
    FAULT_FSYNC,
    FAULT_RENAME,
    FAULT_CLOSE, /* closes all the same, as Linux does */
    FAULT_FOPEN,
    FAULT_THREAD, /* pthread_create */
    FAULT_LOCK,   /* pthread_mutex_init, pthread_cond_init */
    FAULT_CALLS
};

enum fault_manner {
    FAULT_ONCE,
    FAULT_EVER_AFTER,
    FAULT_EVERY_OTHER, /* from `at` on */
    FAULT_SHORT,       /* reads and writes from `at` on give at most a third */
    FAULT_NOTHING,     /* a write from `at` on takes nothing and reports no error */
    FAULT_KILL         /* the process is killed instead */
};

struct fault {
    enum fault_call call;
    enum fault_manner manner;
    int code; /* errno */
    long at;  /* number of the call, from 0 */
};

/* "open", "write", ... */
const char *fault_call_name(enum fault_call call);

/* Puts Jansson's memory behind the faults; once in a process, before anything is parsed. */
void fault_install(void);

/* What was asked for and not given back. */
struct fault_balance {
    long json_blocks;
    long threads;
    long mappings; /* of files */
};

struct fault_balance fault_balance(void);

/* From now on calls fail as *fault says; all is counted anew. */
void fault_arm(const struct fault *fault);

/* Nothing fails any more; returns how many calls failed. */
long fault_disarm(void);

/* Calls of the armed kind since fault_arm. */
long fault_seen(void);

/* Whether a write function of the test's own is to refuse. */
bool fault_sink(void);

/* A number that forked processes share, 0 at first; lives as long as they do. NULL: no memory. */
long *fault_shared_counter(void);

#endif
