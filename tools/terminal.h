/*
 * The terminal in the mode for editing: every key arrives at once, nothing is echoed. Whatever ends
 * the process meanwhile, exit or a signal, puts the terminal back as it was.
 */
#ifndef TOOLS_TERMINAL_H
#define TOOLS_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Whether standard input is a terminal that lines can be edited on. */
bool terminal_can_edit(void);

/* Enters the mode; false if the terminal refuses. */
bool terminal_begin(void);

/* Puts the terminal back. No effect outside the mode. */
void terminal_end(void);

/* Lets the shell have the terminal until it continues the process (Ctrl-Z). */
void terminal_suspend(void);

/* Keys, as read gives them; -1 with EINTR after an interrupt. */
ssize_t terminal_read(char *bytes, size_t capacity);

/* Shows text. */
void terminal_write(const char *text, size_t size);

/* Width of the terminal. */
size_t terminal_columns(void);

#endif
