#include "terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <termios.h>
#include <unistd.h>

#include "interrupt.h"

/* Signals that would end the process with the terminal in the wrong mode. */
static const int deadly[] = {SIGHUP, SIGQUIT, SIGTERM, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
enum { DEADLY = sizeof deadly / sizeof deadly[0] };

/* Pasted text comes between two marks, so that its line ends are told from the Enter key. */
static const char marks_on[] = "\033[?2004h";
static const char marks_off[] = "\033[?2004l";

/* A signal handler gets no argument, so what it works on must be static. */
static struct {
    volatile sig_atomic_t editing;
    int output;
    bool registered;
    struct termios before, raw;
    struct sigaction old[DEADLY];
    struct sigaction old_continue;
} terminal = {.output = STDOUT_FILENO};

static void put(const char *text, size_t size)
{
    while (size > 0) {
        ssize_t written = write(terminal.output, text, size);
        if (written < 0 && errno != EINTR)
            return; /* a terminal that has gone shows nothing */
        if (written > 0) {
            text += written;
            size -= (size_t)written;
        }
    }
}

/* Safe in a signal handler. */
static void put_back(void)
{
    if (!terminal.editing)
        return;
    terminal.editing = 0;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal.before);
    put(marks_off, sizeof marks_off - 1);
}

static void on_deadly(int number)
{
    int code = errno;
    put_back();
    for (size_t i = 0; i < DEADLY; i++)
        if (deadly[i] == number)
            sigaction(number, &terminal.old[i], NULL);
    raise(number); /* takes effect when the handler returns */
    errno = code;
}

/* Whoever stopped the process may have used the terminal in another mode. */
static void on_continue(int number)
{
    int code = errno;
    (void)number;
    if (terminal.editing)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal.raw);
    errno = code;
}

static void catch_signals(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = on_deadly;
    for (size_t i = 0; i < DEADLY; i++) {
        sigaction(deadly[i], NULL, &terminal.old[i]);
        if (terminal.old[i].sa_handler != SIG_IGN)
            sigaction(deadly[i], &action, NULL);
    }
    action.sa_handler = on_continue;
    action.sa_flags = SA_RESTART;
    sigaction(SIGCONT, &action, &terminal.old_continue);
}

static void release_signals(void)
{
    for (size_t i = 0; i < DEADLY; i++)
        sigaction(deadly[i], &terminal.old[i], NULL);
    sigaction(SIGCONT, &terminal.old_continue, NULL);
}

bool terminal_can_edit(void)
{
    const char *kind = getenv("TERM");
    if (!isatty(STDIN_FILENO) || !kind || strcmp(kind, "dumb") == 0)
        return false;
    terminal.output = isatty(STDOUT_FILENO) ? STDOUT_FILENO : STDERR_FILENO;
    return isatty(terminal.output);
}

bool terminal_begin(void)
{
    if (tcgetattr(STDIN_FILENO, &terminal.before) != 0)
        return false;
    terminal.raw = terminal.before;
    terminal.raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG | IEXTEN);
    terminal.raw.c_iflag &= ~(tcflag_t)(ICRNL | INLCR | IGNCR | IXON | ISTRIP);
    terminal.raw.c_cc[VMIN] = 1;
    terminal.raw.c_cc[VTIME] = 0;
    if (!terminal.registered)
        terminal.registered = atexit(terminal_end) == 0;
    catch_signals();
    terminal.editing = 1;
    if (tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal.raw) != 0) {
        terminal_end();
        return false;
    }
    put(marks_on, sizeof marks_on - 1);
    return true;
}

void terminal_end(void)
{
    if (!terminal.editing)
        return;
    put_back();
    release_signals();
}

void terminal_suspend(void)
{
    terminal_end();
    kill(getpid(), SIGTSTP);
    terminal_begin();
}

/* An interrupt just before the waiting must end it too, so it is held back until then. */
static int wait_for_key(void)
{
    fd_set input;
    sigset_t interrupt, usual;
    FD_ZERO(&input);
    FD_SET(STDIN_FILENO, &input);
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pthread_sigmask(SIG_BLOCK, &interrupt, &usual);
    int ready = -1;
    errno = EINTR;
    if (!interrupted())
        ready = pselect(STDIN_FILENO + 1, &input, NULL, NULL, NULL, &usual);
    int code = errno;
    pthread_sigmask(SIG_SETMASK, &usual, NULL);
    errno = code;
    return ready;
}

ssize_t terminal_read(char *bytes, size_t capacity)
{
    return wait_for_key() < 0 ? -1 : read(STDIN_FILENO, bytes, capacity);
}

void terminal_write(const char *text, size_t size)
{
    put(text, size);
}

size_t terminal_columns(void)
{
    struct winsize size;
    memset(&size, 0, sizeof size);
    if (ioctl(terminal.output, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return 80;
    return size.ws_col < 8 ? 8 : size.ws_col;
}
