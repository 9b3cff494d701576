/* Processes that tests fork off, and the threads of this one. */
#ifndef TEST_PROCESS_H
#define TEST_PROCESS_H

#include <stdbool.h>

/*
 * Whether run(argument) returns true in a process that is forked off and within two minutes, where
 * it is ended. Check's assertions mean nothing there.
 */
bool test_in_child(bool (*run)(void *argument), void *argument);

/* How many threads this process has; 0 if the system does not tell. One that was joined may be
 * counted for a moment. */
unsigned test_thread_count(void);

/* Whether it has so many, now or soon; true under the thread sanitizer, which has its own. */
bool test_has_threads(unsigned count);

#endif
