#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "characters.h"
#include "interrupt.h"

/* ------------------------------------------------------------------ errors */

/* An error is one line, whatever file names and arguments it quotes. */
static void print_line(const char *text)
{
    progress_end();
    fputs("hymba: ", stderr);
    for (const char *c = text; *c; c++)
        fputc((unsigned char)*c < 0x20 || *c == 0x7f ? ' ' : *c, stderr);
    fputc('\n', stderr);
}

int fail(const char *format, ...)
{
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    print_line(text);
    return STATUS_FAILED;
}

int fail_interrupted(void)
{
    print_line("interrupted");
    return STATUS_INTERRUPTED;
}

int fail_library(const char *about, hymba_status status, const hymba_error *error)
{
    if (status == HYMBA_ERROR_CANCELLED && interrupted())
        return fail_interrupted();
    return fail("%s%s%s", about ? about : "", about ? ": " : "",
                error->message[0] ? error->message : hymba_status_description(status));
}

int wrong_usage(const char *verb, const char *format, ...)
{
    char text[3072];
    char line[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (verb)
        snprintf(line, sizeof line, "%s: %s; see 'hymba %s --help'", verb, text, verb);
    else
        snprintf(line, sizeof line, "%s; see 'hymba --help'", text);
    print_line(line);
    return STATUS_USAGE;
}

/* Of the process, as its standard streams are. */
static bool silent;

int output_silence(void)
{
    int nothing = open("/dev/null", O_WRONLY);
    bool good = nothing >= 0 && fflush(stdout) == 0 && dup2(nothing, STDOUT_FILENO) >= 0;
    int code = errno;
    if (nothing >= 0)
        close(nothing);
    silent = good;
    return good ? STATUS_OK : fail("/dev/null: %s", strerror(code));
}

bool output_is_silent(void)
{
    return silent;
}

bool output_arrived(void)
{
    return fflush(stdout) == 0 && !ferror(stdout);
}

int fail_output(void)
{
    int code = errno;
    if (code == EINTR && interrupted())
        return fail_interrupted();
    return fail("cannot write standard output%s%s", code ? ": " : "", code ? strerror(code) : "");
}

void print_text(const char *text, size_t size)
{
    bool on_terminal = isatty(STDOUT_FILENO);
    for (size_t i = 0; i < size;) {
        uint32_t character;
        size_t length = character_read(text + i, size - i, &character);
        bool obeyed = character != '\n' && character != '\t' &&
                      (character < 0x20 || (character >= 0x7F && character < 0xA0));
        if (on_terminal && obeyed)
            putchar('?');
        else
            fwrite(text + i, 1, length, stdout);
        i += length;
    }
}

void *take_memory(size_t count, size_t size)
{
    return grow_memory(NULL, count, size);
}

void *grow_memory(void *old, size_t count, size_t size)
{
    void *pointer = NULL;
    if (count == 0)
        count = 1;
    if (size == 0 || count <= SIZE_MAX / size)
        pointer = realloc(old, count * size);
    if (!pointer)
        exit(fail("out of memory"));
    return pointer;
}

json_t *need_json(json_t *value)
{
    if (!value)
        exit(fail("out of memory"));
    return value;
}

/* ---------------------------------------------------------------- progress */

double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A process has one terminal, so the line on it is kept for the process. */
static struct {
    const char *what;
    const char *unit;
    double begun;
    double shown_at; /* 0: nothing stands on the line */
    bool own;        /* between progress_begin and progress_end */
} line;

static void clear_line(void)
{
    if (line.shown_at != 0)
        fputs("\r\033[K", stderr);
    line.shown_at = 0;
}

static void start_line(const char *what, const char *unit, bool own)
{
    clear_line();
    line.what = what;
    line.unit = unit;
    line.begun = seconds_now();
    line.own = own;
}

void progress_begin(const char *what, const char *unit)
{
    start_line(what, unit, true);
}

void progress_step(uint64_t done, uint64_t total)
{
    double now = seconds_now();
    if (now - line.begun < 1 || now - line.shown_at < 0.2 || silent ||
        !isatty(STDERR_FILENO))
        return;
    line.shown_at = now;
    if (total)
        fprintf(stderr, "\r%s %.0f %% (%llu of %llu %s)\033[K", line.what,
                100 * (double)done / (double)total, (unsigned long long)done,
                (unsigned long long)total, line.unit);
    else
        fprintf(stderr, "\r%s %llu %s\033[K", line.what, (unsigned long long)done, line.unit);
    fflush(stderr);
}

void progress_end(void)
{
    clear_line();
    line.what = NULL;
    line.own = false;
}

static int32_t show_phase(void *user, int32_t phase, uint64_t done, uint64_t total)
{
    static const struct {
        const char *what, *unit;
    } phases[] = {
        [HYMBA_PHASE_LOAD] = {"loading", "files"},
        [HYMBA_PHASE_META] = {"meta tokens", "tokens"},
        [HYMBA_PHASE_PREFILL] = {"prompt", "tokens"},
        [HYMBA_PHASE_WRITE] = {"writing", "bytes"},
        [HYMBA_PHASE_QUANTIZE] = {"quantising", "bytes"},
        [HYMBA_PHASE_MEETING] = {"waiting for ranks", "ranks"},
    };
    (void)user;
    if (interrupted())
        return 1;
    if (line.own || phase < HYMBA_PHASE_LOAD || phase > HYMBA_PHASE_MEETING)
        return 0;
    if (line.what != phases[phase].what)
        start_line(phases[phase].what, phases[phase].unit, false);
    progress_step(done, total);
    if (total && done >= total)
        progress_end();
    return 0;
}

void output_host(hymba_host *host)
{
    hymba_host_init(host, sizeof *host);
    host->progress = show_phase;
}

/* -------------------------------------------------------------------- JSON */

/* Length of the valid UTF-8 character at bytes, 0 if there is none. */
static size_t character_length(const unsigned char *bytes, size_t left)
{
    unsigned char first = bytes[0];
    size_t length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3
                  : first < 0xf5 ? 4 : 0;
    if (length == 0 || length > left)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
    if ((first == 0xe0 && bytes[1] < 0xa0) || (first == 0xed && bytes[1] >= 0xa0) ||
        (first == 0xf0 && bytes[1] < 0x90) || (first == 0xf4 && bytes[1] >= 0x90))
        return 0;
    return length;
}

json_t *json_text(const char *bytes, size_t length)
{
    static const char replacement[] = "\xef\xbf\xbd";
    json_t *value = json_stringn(bytes, length);
    if (value)
        return value;
    char *copy = take_memory(length, 3);
    size_t used = 0;
    for (size_t i = 0; i < length;) {
        size_t step = character_length((const unsigned char *)bytes + i, length - i);
        if (step)
            memcpy(copy + used, bytes + i, step);
        else
            memcpy(copy + used, replacement, 3);
        used += step ? step : 3;
        i += step ? step : 1;
    }
    value = json_stringn(copy, used);
    free(copy);
    return value;
}

static int print_value(json_t *value, size_t flags)
{
    if (!value)
        return fail("out of memory");
    errno = 0;
    int result = json_dumpf(value, stdout, flags | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    json_decref(value);
    if (result != 0 || fputc('\n', stdout) == EOF)
        return fail_output();
    return STATUS_OK;
}

int print_json_line(json_t *value)
{
    /* In ASCII no reader takes U+2028 and the like for the end of a line. */
    return print_value(value, JSON_COMPACT | JSON_ENSURE_ASCII);
}

int print_json(json_t *value)
{
    return print_value(value, JSON_INDENT(2));
}
