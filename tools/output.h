/*
 * What every verb prints: the one line of an error, the progress line of a terminal, JSON.
 */
#ifndef TOOLS_OUTPUT_H
#define TOOLS_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hymba.h"

/* Exit statuses of the command. */
enum {
    STATUS_OK = 0,
    STATUS_FAILED = 1,
    STATUS_USAGE = 2,
    STATUS_INTERRUPTED = 130 /* 128 + SIGINT, as shells expect */
};

#if defined(__GNUC__)
#define TOOLS_FORMAT(text, first) __attribute__((format(printf, text, first)))
#else
#define TOOLS_FORMAT(text, first)
#endif

/* Prints "hymba: ..." as one line on stderr; the result is STATUS_FAILED. */
int fail(const char *format, ...) TOOLS_FORMAT(1, 2);

/* The same for a call of the library that failed. about, if not NULL, is put in front of the
 * library's sentence. STATUS_INTERRUPTED if the user stopped the call. */
int fail_library(const char *about, hymba_status status, const hymba_error *error);

/* Says that the user interrupted the command; the result is STATUS_INTERRUPTED. */
int fail_interrupted(void);

/* One line on wrong usage of a verb (NULL: of the command); the result is STATUS_USAGE. */
int wrong_usage(const char *verb, const char *format, ...) TOOLS_FORMAT(2, 3);

/* From now on nothing is printed but errors. An exit status. */
int output_silence(void);

/* Whether so: what would go to stderr and is no error must then not be printed. */
bool output_is_silent(void);

/* Flushes standard output; whether everything printed so far arrived. */
bool output_arrived(void);

/* Prints why output did not arrive; the result is STATUS_FAILED. */
int fail_output(void);

/* Prints a model's text. A terminal would obey control characters in it: there they become "?", but
 * for line ends and tabs. */
void print_text(const char *text, size_t size);

/* malloc and realloc that end the command with the line "out of memory". */
void *take_memory(size_t count, size_t size);
void *grow_memory(void *old, size_t count, size_t size);

/* The value; without one the same end. */
json_t *need_json(json_t *value);

/* Seconds of a clock that only runs forward. */
double seconds_now(void);

/*
 * The progress line, on stderr if that is a terminal, from one second after the beginning of
 * what it shows. progress_begin names work that counts its own steps (library phases inside it
 * then show nothing); progress_end removes the line.
 */
void progress_begin(const char *what, const char *unit);
void progress_step(uint64_t done, uint64_t total);
void progress_end(void);

/* The host hooks of the command: progress of the library's phases, stopped by an interrupt. */
void output_host(hymba_host *host);

/* A JSON string of bytes; malformed UTF-8 sequences become U+FFFD. */
json_t *json_text(const char *bytes, size_t length);

/* Prints value in one line of ASCII (print_json_line) or indented (print_json); takes the
 * reference. The result is an exit status; NULL stands for a lack of memory. */
int print_json_line(json_t *value);
int print_json(json_t *value);

#endif
