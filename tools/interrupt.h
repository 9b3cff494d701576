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

/* Whether the user has interrupted the command. */
bool interrupted(void);

/* What an interrupt cancels from now on; NULL: nothing. They must live until the next call. */
void interrupt_cancels_context(hymba_context *context);
void interrupt_cancels_generation(hymba_generation *generation);

#endif
