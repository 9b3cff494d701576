/*
 * The user's Ctrl-C (SIGINT): the first one stops the library's call that is running and lets the
 * verb end in order, a second one ends the process at once.
 */
#ifndef TOOLS_INTERRUPT_H
#define TOOLS_INTERRUPT_H

#include <stdbool.h>

#include "hymba.h"

/* Installs the handler. */
void interrupt_install(void);

/* From now on a second Ctrl-C is as mild as the first: for verbs that go on after one. */
void interrupt_stay_mild(void);

/* Whether the user has interrupted the command. */
bool interrupted(void);

/* The same, and forgets it. */
bool interrupt_take(void);

/* What an interrupt cancels from now on; NULL: nothing. They must live until the next call. */
void interrupt_cancels_context(hymba_context *context);
void interrupt_cancels_generation(hymba_generation *generation);

#endif
