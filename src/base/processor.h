/* How many processors this process may use. */
#ifndef HY_BASE_PROCESSOR_H
#define HY_BASE_PROCESSOR_H

/* By the affinity mask of the calling thread and the CPU quota, at least 1. */
unsigned hy_processor_count(void);

/*
 * The tightest quota of the process's control groups, version 1 and 2, in processors, rounded up;
 * 0 without one. Paths begin with root: "" for the system's own.
 */
unsigned hy_quota_processors(const char *root);

#endif
