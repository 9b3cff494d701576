/*
 * A program on a terminal, as a test sees it: what it writes is waited for, keys are sent, and the
 * screen shows what a terminal would. Nothing is timed: waiting ends when the text has come, or
 * fails the test after a generous time.
 */
#ifndef TEST_PSEUDO_TERMINAL_H
#define TEST_PSEUDO_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { SCREEN_ROWS = 24, SCREEN_COLUMNS_MOST = 80, SCREEN_CELL = 8 };

struct pseudo_terminal {
    int master;
    pid_t child;
    char *output; /* all of it, NUL-terminated */
    size_t size, capacity;
    size_t awaited; /* what terminal_await has gone past */
    size_t columns;
    char cells[SCREEN_ROWS][SCREEN_COLUMNS_MOST][SCREEN_CELL];
    size_t row, column;
    size_t drawn; /* output that is on the screen */
};

/* Starts a program (arguments[0] is its path) on a terminal of this kind (TERM) and width. */
void terminal_start(struct pseudo_terminal *terminal, const char *kind, size_t columns,
                    char **arguments);

/* Sends keys. */
void terminal_type(const struct pseudo_terminal *terminal, const char *keys);
void terminal_type_bytes(const struct pseudo_terminal *terminal, const char *keys, size_t size);

/*
 * Waits until a line or a Ctrl-D that was typed while the program reads nothing, in the terminal's
 * usual mode, is there for it to read. The system hands keys on a while after they were sent; if
 * the program changes the mode before that, they count as typed after the change.
 */
void terminal_await_typed(const struct pseudo_terminal *terminal);

/* Waits for text behind what was awaited before. What came before it is at *before, if that is not
 * NULL, to be given to free. */
void terminal_await(struct pseudo_terminal *terminal, const char *text, char **before);

/* Whether the terminal echoes and collects lines, as it does outside of editing. */
bool terminal_is_usual(const struct pseudo_terminal *terminal);

/* Waits until the row of the screen that the cursor is on is this, without the spaces at its end,
 * and the cursor in this column. */
void terminal_await_row(struct pseudo_terminal *terminal, const char *text, size_t column);

/* Asserts the same of a row so far below the cursor's (above: < 0), as the screen is after that. */
void terminal_check_row(const struct pseudo_terminal *terminal, int row, const char *text);

/* Waits for the program's end; its exit status, or minus the signal that ended it. */
int terminal_finish(struct pseudo_terminal *terminal);

#endif
