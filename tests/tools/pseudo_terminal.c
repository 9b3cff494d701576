#include "pseudo_terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "support.h"

enum { PATIENCE = 60 }; /* seconds without any output */

/* ----------------------------------------------------------------- running */

static void become_child(const char *name, const char *kind, char **arguments)
{
    setsid();
    int slave = open(name, O_RDWR); /* the first terminal a new session opens is its own */
    if (slave < 0 || setenv("TERM", kind, 1) != 0)
        _exit(126);
    for (int number = 0; number <= 2; number++)
        dup2(slave, number);
    if (slave > 2)
        close(slave);
    execv(arguments[0], arguments);
    _exit(127);
}

void terminal_start(struct pseudo_terminal *terminal, const char *kind, size_t columns,
                    char **arguments)
{
    struct winsize size = {.ws_row = SCREEN_ROWS, .ws_col = (unsigned short)columns};
    memset(terminal, 0, sizeof *terminal);
    terminal->columns = columns;
    terminal->master = posix_openpt(O_RDWR | O_NOCTTY);
    ck_assert_int_ge(terminal->master, 0);
    ck_assert_int_eq(grantpt(terminal->master), 0);
    ck_assert_int_eq(unlockpt(terminal->master), 0);
    ck_assert_int_eq(fcntl(terminal->master, F_SETFD, FD_CLOEXEC), 0);
    ck_assert_int_eq(ioctl(terminal->master, TIOCSWINSZ, &size), 0);
    char name[128];
    snprintf(name, sizeof name, "%s", ptsname(terminal->master));
    fflush(NULL);
    terminal->child = fork();
    ck_assert_int_ge(terminal->child, 0);
    if (terminal->child == 0)
        become_child(name, kind, arguments);
}

void terminal_type_bytes(const struct pseudo_terminal *terminal, const char *keys, size_t size)
{
    while (size > 0) {
        ssize_t written = write(terminal->master, keys, size);
        ck_assert_int_gt(written, 0);
        keys += written;
        size -= (size_t)written;
    }
}

void terminal_type(const struct pseudo_terminal *terminal, const char *keys)
{
    terminal_type_bytes(terminal, keys, strlen(keys));
}

/* The program's side of the terminal tells: it can be read once there is a line or a Ctrl-D. */
void terminal_await_typed(const struct pseudo_terminal *terminal)
{
    int slave = open(ptsname(terminal->master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct pollfd wait = {.fd = slave, .events = POLLIN};
    ck_assert_int_ge(slave, 0);
    ck_assert(terminal_is_usual(terminal));
    ck_assert_msg(poll(&wait, 1, PATIENCE * 1000) > 0, "what was typed did not arrive");
    close(slave);
}

/* Reads what is there, waiting for the first byte; false at the end. */
static bool read_more(struct pseudo_terminal *terminal)
{
    struct pollfd wait = {.fd = terminal->master, .events = POLLIN};
    if (terminal->capacity - terminal->size < 4096) {
        terminal->capacity = 2 * terminal->capacity + 8192;
        terminal->output = realloc(terminal->output, terminal->capacity);
        ck_assert_ptr_nonnull(terminal->output);
    }
    int ready = poll(&wait, 1, PATIENCE * 1000);
    ck_assert_msg(ready > 0, "nothing came behind: %s",
                  terminal->size ? terminal->output + terminal->awaited : "");
    ssize_t got = read(terminal->master, terminal->output + terminal->size,
                       terminal->capacity - terminal->size - 1);
    if (got <= 0) /* Linux says EIO when the last one has closed the terminal */
        return false;
    terminal->size += (size_t)got;
    terminal->output[terminal->size] = '\0';
    return true;
}

void terminal_await(struct pseudo_terminal *terminal, const char *text, char **before)
{
    for (;;) {
        char *from = terminal->size ? terminal->output + terminal->awaited : NULL;
        char *found = from ? strstr(from, text) : NULL;
        if (found) {
            size_t size = (size_t)(found - from);
            if (before) {
                *before = malloc(size + 1);
                ck_assert_ptr_nonnull(*before);
                memcpy(*before, from, size);
                (*before)[size] = '\0';
            }
            terminal->awaited += size + strlen(text);
            return;
        }
        ck_assert_msg(read_more(terminal), "the program ended without '%s' in: %s", text,
                      terminal->size ? terminal->output + terminal->awaited : "");
    }
}

bool terminal_is_usual(const struct pseudo_terminal *terminal)
{
    const tcflag_t usual = ICANON | ECHO | ISIG;
    struct termios mode;
    ck_assert_int_eq(tcgetattr(terminal->master, &mode), 0);
    return (mode.c_lflag & usual) == usual && (mode.c_iflag & ICRNL);
}

int terminal_finish(struct pseudo_terminal *terminal)
{
    int status = 0;
    while (read_more(terminal))
        continue;
    ck_assert_int_eq(waitpid(terminal->child, &status, 0), terminal->child);
    close(terminal->master);
    free(terminal->output);
    terminal->output = NULL;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* ------------------------------------------------------------------ screen */

static void new_row(struct pseudo_terminal *terminal)
{
    if (++terminal->row < SCREEN_ROWS)
        return;
    terminal->row = SCREEN_ROWS - 1;
    memmove(terminal->cells[0], terminal->cells[1],
            (SCREEN_ROWS - 1) * sizeof terminal->cells[0]);
    memset(terminal->cells[SCREEN_ROWS - 1], 0, sizeof terminal->cells[0]);
}

static void erase_behind(struct pseudo_terminal *terminal)
{
    memset(terminal->cells[terminal->row][terminal->column], 0,
           (SCREEN_COLUMNS_MOST - terminal->column) * SCREEN_CELL);
    for (size_t row = terminal->row + 1; row < SCREEN_ROWS; row++)
        memset(terminal->cells[row], 0, sizeof terminal->cells[row]);
}

/* Obeys what stands between "ESC [" and its last letter, which is included. */
static void obey(struct pseudo_terminal *terminal, const char *sequence, char letter)
{
    size_t count = (size_t)strtoul(sequence, NULL, 10);
    size_t step = count ? count : 1;
    if (letter == 'A')
        terminal->row -= step < terminal->row ? step : terminal->row;
    else if (letter == 'C')
        terminal->column = terminal->column + step < terminal->columns ? terminal->column + step
                                                                       : terminal->columns - 1;
    else if (letter == 'H')
        terminal->row = terminal->column = 0;
    else if (letter == 'J' && count == 2)
        memset(terminal->cells, 0, sizeof terminal->cells);
    else if (letter == 'J')
        erase_behind(terminal);
    else
        ck_assert_msg(sequence[0] == '?', "an unknown sequence: %.8s", sequence);
}

/* A character of UTF-8; East Asian ones (three bytes from E3 on) take two columns, accents that
 * combine (CC) none. */
static size_t put(struct pseudo_terminal *terminal, const char *bytes)
{
    unsigned char first = (unsigned char)bytes[0];
    size_t size = first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    bool combines = first == 0xCC;
    size_t width = combines ? 0 : size == 3 && first >= 0xE3 ? 2 : 1;
    if (combines) {
        ck_assert_uint_gt(terminal->column, 0);
        strncat(terminal->cells[terminal->row][terminal->column - 1], bytes, size);
        return size;
    }
    if (terminal->column + width > terminal->columns) {
        new_row(terminal);
        terminal->column = 0;
    }
    memset(terminal->cells[terminal->row][terminal->column], 0, width * SCREEN_CELL);
    memcpy(terminal->cells[terminal->row][terminal->column], bytes, size);
    if (width == 2)
        strcpy(terminal->cells[terminal->row][terminal->column + 1], "\x01");
    terminal->column += width;
    return size;
}

/* Draws what has come; an unfinished sequence or character waits for its rest. */
static void draw(struct pseudo_terminal *terminal)
{
    while (terminal->drawn < terminal->size) {
        const char *bytes = terminal->output + terminal->drawn;
        size_t left = terminal->size - terminal->drawn;
        unsigned char first = (unsigned char)bytes[0];
        if (first == '\033') {
            size_t length = left < 2 ? left : 2 + strspn(bytes + 2, "?;0123456789");
            if (length == left)
                return;
            obey(terminal, bytes + 2, bytes[length]);
            terminal->drawn += length + 1;
        } else if (first == '\r' || first == '\n') {
            if (first == '\n')
                new_row(terminal);
            else
                terminal->column = 0;
            terminal->drawn++;
        } else {
            if (left < (first < 0xC0 ? 1u : first < 0xE0 ? 2u : first < 0xF0 ? 3u : 4u))
                return;
            terminal->drawn += put(terminal, bytes);
        }
    }
}

/* A row's text without the spaces at its end. */
static void read_row(const struct pseudo_terminal *terminal, size_t row, char *line)
{
    line[0] = '\0';
    for (size_t i = 0; i < terminal->columns; i++) {
        const char *cell = terminal->cells[row][i];
        if (strcmp(cell, "\x01") != 0) /* the right half of a wide character */
            strcat(line, cell[0] ? cell : " ");
    }
    for (size_t size = strlen(line); size > 0 && line[size - 1] == ' '; size--)
        line[size - 1] = '\0';
}

void terminal_await_row(struct pseudo_terminal *terminal, const char *text, size_t column)
{
    for (;;) {
        char line[SCREEN_COLUMNS_MOST * SCREEN_CELL + 1];
        draw(terminal);
        read_row(terminal, terminal->row, line);
        if (strcmp(line, text) == 0 && terminal->column == column)
            break;
        ck_assert_msg(read_more(terminal), "the program ended; the row is '%s', column %zu", line,
                      terminal->column);
    }
    terminal->awaited = terminal->drawn;
}

void terminal_check_row(const struct pseudo_terminal *terminal, int row, const char *text)
{
    char line[SCREEN_COLUMNS_MOST * SCREEN_CELL + 1];
    int wanted = (int)terminal->row + row;
    ck_assert_int_ge(wanted, 0);
    ck_assert_int_lt(wanted, SCREEN_ROWS);
    read_row(terminal, (size_t)wanted, line);
    ck_assert_str_eq(line, text);
}
