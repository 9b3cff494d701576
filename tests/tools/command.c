#include "command.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

const char demo[] = "examples/demo";

/* ----------------------------------------------------------------- running */

const char *command_path(void)
{
    const char *path = getenv("HYMBA_COMMAND");
    return path ? path : "bin/hymba";
}

const char *in_directory(const char *name)
{
    static char ring[8][256];
    static unsigned next;
    char *path = ring[next++ % 8];
    snprintf(path, sizeof ring[0], "%s/%s", test_directory(), name);
    return path;
}

pid_t start_command(const char *input, const char *output, const char *errors, char **arguments)
{
    posix_spawn_file_actions_t actions;
    pid_t child = -1;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, input, O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, errors, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert_msg(posix_spawn(&child, command_path(), &actions, NULL, arguments, environ) == 0,
                  "cannot run %s", command_path());
    posix_spawn_file_actions_destroy(&actions);
    return child;
}

int wait_for_command(pid_t child)
{
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void split_line(char *text, char **arguments)
{
    size_t count = 0;
    static char name[] = "hymba";
    arguments[count++] = name;
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        ck_assert_uint_lt(count, ARGUMENTS_MOST - 1);
        arguments[count++] = strcmp(word, "''") == 0 ? word + 2 : word;
    }
    arguments[count] = NULL;
}

struct result run_arguments(const void *input, size_t size, const char *output, char **arguments)
{
    struct result result = {0};
    char in[256], out[256], err[256];
    snprintf(in, sizeof in, "%s/stdin", test_directory());
    snprintf(out, sizeof out, "%s/stdout", test_directory());
    snprintf(err, sizeof err, "%s/stderr", test_directory());
    test_write_file(in, input, size);
    result.status = wait_for_command(start_command(in, output ? output : out, err, arguments));
    result.out = output ? strdup("") : test_read_file(out, &result.out_size);
    result.err = test_read_file(err, &result.err_size);
    return result;
}

struct result run_input(const char *input, const char *line)
{
    char text[2048];
    char *arguments[ARGUMENTS_MOST];
    snprintf(text, sizeof text, "%s", line);
    split_line(text, arguments);
    return run_arguments(input, strlen(input), NULL, arguments);
}

void free_result(struct result *result)
{
    free(result->out);
    free(result->err);
}

struct result run_well(const char *input, const char *format, ...)
{
    char line[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    struct result result = run_input(input, line);
    ck_assert_msg(result.status == 0, "hymba %s: status %d, %s", line, result.status, result.err);
    return result;
}

void check_one_line(const struct result *result, const char *line, const char *text)
{
    ck_assert_msg(strncmp(result->err, "hymba: ", 7) == 0, "hymba %s: %s", line, result->err);
    ck_assert_msg(strchr(result->err, '\n') == result->err + result->err_size - 1,
                  "hymba %s: not one line: %s", line, result->err);
    ck_assert_msg(strstr(result->err, text) != NULL, "hymba %s: no '%s' in: %s", line, text,
                  result->err);
}

void check_refused(int status, const char *input, const char *text, const char *line)
{
    struct result result = run_input(input, line);
    ck_assert_msg(result.status == status, "hymba %s: status %d, %s", line, result.status,
                  result.err);
    check_one_line(&result, line, text);
    free_result(&result);
}

/* -------------------------------------------------------------------- JSON */

json_t *parse_json(const char *text)
{
    json_error_t error;
    json_t *value = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    ck_assert_msg(value != NULL, "not JSON: %s: %.200s", error.text, text);
    return value;
}

json_t *load_json(const char *path)
{
    char *text = test_read_file(path, NULL);
    json_t *value = parse_json(text);
    free(text);
    return value;
}

json_int_t integer_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    ck_assert_msg(json_is_integer(value), "no integer '%s'", key);
    return json_integer_value(value);
}

double number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    ck_assert_msg(json_is_number(value), "no number '%s'", key);
    return json_number_value(value);
}

const char *string_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    ck_assert_msg(json_is_string(value), "no string '%s'", key);
    return json_string_value(value);
}

/* ------------------------------------------------------------------- suite */

int run_command_tests(const char *name, const TTest *const *tests, size_t count)
{
    Suite *suite = suite_create(name);
    TCase *cases = tcase_create(name);
    tcase_set_timeout(cases, 300);
    for (size_t i = 0; i < count; i++)
        tcase_add_test(cases, tests[i]);
    suite_add_tcase(suite, cases);
    return test_main(suite);
}
