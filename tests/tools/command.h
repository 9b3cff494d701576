/*
 * For the tests of bin/hymba: runs it and looks at what it prints. HYMBA_COMMAND may name another
 * binary.
 */
#ifndef TEST_COMMAND_H
#define TEST_COMMAND_H

#include <jansson.h>
#include <sys/types.h>

#include "support.h"

enum { ARGUMENTS_MOST = 32 };

/* Directory of the demo model. */
extern const char demo[];

struct result {
    int status; /* exit status; -1: killed by a signal */
    char *out, *err;
    size_t out_size, err_size;
};

const char *command_path(void);

/* A path in the tests' directory; static storage, valid until a few more calls. */
const char *in_directory(const char *name);

/* Starts the command with three files as its standard streams. */
pid_t start_command(const char *input, const char *output, const char *errors, char **arguments);

/* Its exit status; -1: killed by a signal. */
int wait_for_command(pid_t child);

/* Splits "info -m DIR" at its spaces; "''" is an empty argument. text is changed. */
void split_line(char *text, char **arguments);

/* Runs the command with these arguments; output NULL: it is collected. */
struct result run_arguments(const void *input, size_t size, const char *output, char **arguments);

/* The same with a line that is split. */
struct result run_input(const char *input, const char *line);

/* Runs a command line, made as by printf, that must succeed. */
struct result run_well(const char *input, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

void free_result(struct result *result);

/* Asserts that stderr is one line that begins with "hymba: " and holds a text. */
void check_one_line(const struct result *result, const char *line, const char *text);

/* Runs a command line that must end with a status and one line on stderr that holds text. */
void check_refused(int status, const char *input, const char *text, const char *line);

/* JSON that must be right, and members that must be there. */
json_t *parse_json(const char *text);
json_t *load_json(const char *path);
json_int_t integer_of(const json_t *object, const char *key);
double number_of(const json_t *object, const char *key);
const char *string_of(const json_t *object, const char *key);

/* A suite of one case; the exit status for main. */
int run_command_tests(const char *name, const TTest *const *tests, size_t count);

#endif
