/*
 * The command as a user meets it: every verb, wrong usage, errors, the formats of its output.
 * HYMBA_COMMAND may name another binary than bin/hymba.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support.h"

extern char **environ;

enum { ARGUMENTS_MOST = 32 };

static const char demo[] = "examples/demo";
static const char *const verbs[] = {"generate", "logits", "perplexity", "tokenize", "detokenize",
                                    "render",   "info",   "init",       "bench"};
enum { VERBS = sizeof verbs / sizeof verbs[0] };

/* ----------------------------------------------------------------- running */

struct result {
    int status; /* exit status; -1: killed by a signal */
    char *out, *err;
    size_t out_size, err_size;
};

static const char *command(void)
{
    const char *path = getenv("HYMBA_COMMAND");
    return path ? path : "bin/hymba";
}

/* A path in the tests' directory; static storage, valid until a few more calls. */
static const char *in_directory(const char *name)
{
    static char ring[8][256];
    static unsigned next;
    char *path = ring[next++ % 8];
    snprintf(path, sizeof ring[0], "%s/%s", test_directory(), name);
    return path;
}

static pid_t start(const char *input, const char *output, const char *errors, char **arguments)
{
    posix_spawn_file_actions_t actions;
    pid_t child = -1;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, input, O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, errors, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert_msg(posix_spawn(&child, command(), &actions, NULL, arguments, environ) == 0,
                  "cannot run %s", command());
    posix_spawn_file_actions_destroy(&actions);
    return child;
}

static int wait_for(pid_t child)
{
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Splits "info -m DIR" at its spaces; "''" is an empty argument. text is changed. */
static void split(char *text, char **arguments)
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

/* Runs the command with these arguments; output NULL: it is collected. */
static struct result run_arguments(const void *input, size_t size, const char *output,
                                   char **arguments)
{
    struct result result = {0};
    char in[256], out[256], err[256];
    snprintf(in, sizeof in, "%s/stdin", test_directory());
    snprintf(out, sizeof out, "%s/stdout", test_directory());
    snprintf(err, sizeof err, "%s/stderr", test_directory());
    test_write_file(in, input, size);
    result.status = wait_for(start(in, output ? output : out, err, arguments));
    result.out = output ? strdup("") : test_read_file(out, &result.out_size);
    result.err = test_read_file(err, &result.err_size);
    return result;
}

static struct result run_input(const char *input, const char *line)
{
    char text[2048];
    char *arguments[ARGUMENTS_MOST];
    snprintf(text, sizeof text, "%s", line);
    split(text, arguments);
    return run_arguments(input, strlen(input), NULL, arguments);
}

static void free_result(struct result *result)
{
    free(result->out);
    free(result->err);
}

/* Runs a command line, made as by printf, that must succeed. */
static struct result run_well(const char *input, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static struct result run_well(const char *input, const char *format, ...)
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

/* Asserts that stderr is one line that begins with "hymba: " and holds a text. */
static void check_one_line(const struct result *result, const char *line, const char *text)
{
    ck_assert_msg(strncmp(result->err, "hymba: ", 7) == 0, "hymba %s: %s", line, result->err);
    ck_assert_msg(strchr(result->err, '\n') == result->err + result->err_size - 1,
                  "hymba %s: not one line: %s", line, result->err);
    ck_assert_msg(strstr(result->err, text) != NULL, "hymba %s: no '%s' in: %s", line, text,
                  result->err);
}

/* Runs a command line that must end with a status and one line on stderr that holds text. */
static void check_refused(int status, const char *input, const char *text, const char *line)
{
    struct result result = run_input(input, line);
    ck_assert_msg(result.status == status, "hymba %s: status %d, %s", line, result.status,
                  result.err);
    check_one_line(&result, line, text);
    free_result(&result);
}

static json_t *parse(const char *text)
{
    json_error_t error;
    json_t *value = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    ck_assert_msg(value != NULL, "not JSON: %s: %.200s", error.text, text);
    return value;
}

static json_t *load_json(const char *path)
{
    char *text = test_read_file(path, NULL);
    json_t *value = parse(text);
    free(text);
    return value;
}

static json_int_t integer_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    ck_assert_msg(json_is_integer(value), "no integer '%s'", key);
    return json_integer_value(value);
}

static double number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    ck_assert_msg(json_is_number(value), "no number '%s'", key);
    return json_number_value(value);
}

static const char *string_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    ck_assert_msg(json_is_string(value), "no string '%s'", key);
    return json_string_value(value);
}

/* ------------------------------------------------------- usage and errors */

START_TEST(help_and_version)
{
    struct result result = run_well("", "--help");
    for (size_t i = 0; i < VERBS; i++)
        ck_assert_msg(strstr(result.out, verbs[i]) != NULL, "--help tells nothing of %s",
                      verbs[i]);
    free_result(&result);
    result = run_well("", "--version");
    ck_assert_int_eq(strncmp(result.out, "hymba ", 6), 0);
    ck_assert_ptr_nonnull(strchr(result.out, '.'));
    free_result(&result);
    for (size_t i = 0; i < VERBS; i++) {
        result = run_well("", "%s --help", verbs[i]);
        ck_assert_uint_eq(result.err_size, 0);
        ck_assert_ptr_nonnull(strstr(result.out, verbs[i]));
        ck_assert_ptr_nonnull(strstr(result.out, "--threads"));
        free_result(&result);
    }
}
END_TEST

START_TEST(wrong_usage)
{
    static const struct {
        const char *line, *text;
    } cases[] = {
        {"", "hymba --help"},
        {"nothing", "'nothing'"},
        {"--nothing", "'--nothing'"},
        {"generate --nothing", "'--nothing'"},
        {"generate -x", "'-x'"},
        {"generate word", "'word'"},
        {"generate -n", "-n takes a value"},
        {"generate -n -1", "'-1'"},
        {"generate -n 1x", "'1x'"},
        {"generate -n 99999999999999999999", "--count"},
        {"generate --temp hot", "'hot'"},
        {"generate --temp nan", "'nan'"},
        {"generate --top-p 1.5", "--top-p"},
        {"generate --json=1", "--json takes no value"},
        {"generate --threads 0", "--threads"},
        {"generate --cpu z80", "best|generic|avx2|avx512"},
        {"generate --device tpu", "--device"},
        {"generate --cache-type int3", "f32|f16|bf16"},
        {"generate --stop ''", "--stop"},
        {"generate -p a -f b", "exclude"},
        {"generate -m examples/demo", "no prompt"},
        {"logits", "--model"},
        {"logits -m examples/demo --out x", "--tokens"},
        {"logits -m examples/demo --tokens x", "--out"},
        {"logits -m examples/demo --tokens x --out y --compute bf16", "--compute"},
        {"logits -m examples/demo --tokens x --out y --chunk 0", "--chunk"},
        {"perplexity -m examples/demo", "--tokens"},
        {"perplexity -m examples/demo -f a --tokens b", "--tokens"},
        {"tokenize", "--model"},
        {"detokenize --special", "--special"},
        {"render", "--model"},
        {"info", "--preset"},
        {"info -m examples/demo --preset tiny", "--preset"},
        {"info --preset 7b", "'7b'"},
        {"info -m examples/demo --dtype f32", "--dtype"},
        {"init --preset tiny", "--output"},
        {"init -o x", "--preset"},
        {"bench -p 1,,2", "--prefill"},
        {"bench -d 1, ", "--depth"},
        {"bench -b 0", "--batch"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_refused(2, "", cases[i].text, cases[i].line);
        check_refused(2, "", "--help'", cases[i].line);
    }
}
END_TEST

START_TEST(errors_at_run_time)
{
    static const struct {
        const char *line, *input, *text;
    } cases[] = {
        {"generate -m no/such/model -p a", "", "no/such/model"},
        {"generate -f no/such/file", "", "no/such/file"},
        {"generate -f examples", "", "examples"},
        {"logits -m examples/demo --tokens no/such --out /dev/null", "", "no/such"},
        {"logits -m examples/demo --tokens - --out /dev/null", "", "no tokens"},
        {"logits -m examples/demo --tokens - --out /dev/null", "1 2 x", "'x'"},
        {"logits -m examples/demo --tokens - --out /dev/null", "1 -2", "'-2'"},
        {"logits -m examples/demo --tokens - --out /dev/null", "1 4096", "4096"},
        {"logits -m examples/demo --tokens - --out /dev/null", "99999999999", "99999999999"},
        {"logits -m examples/demo --tokens - --out no/such/file", "1 2", "no/such/file"},
        {"logits -m examples/demo --tokens - --out /dev/full", "1 2", "/dev/full"},
        {"perplexity -m examples/demo --tokens -", "", "no tokens"},
        {"perplexity -m examples/demo -f no/such", "", "no/such"},
        {"tokenize -m no/such", "", "no/such"},
        {"tokenize -m examples/demo --jsonl", "\"a\"\nb\n", "line 2"},
        {"tokenize -m examples/demo --jsonl", "\"a\"\n[1]\n", "line 2"},
        {"detokenize -m examples/demo", "1 a", "'a'"},
        {"detokenize -m examples/demo", "1 4096", "4096"},
        {"detokenize -m examples/demo --jsonl", "[1]\n[4096]\n", "line 2"},
        {"detokenize -m examples/demo --jsonl", "[1.5]\n", "line 1"},
        {"detokenize -m examples/demo --jsonl", "7\n", "line 1"},
        {"render -m examples/demo --jsonl", "{\"messages\": []}\n", "template"},
        {"render -m examples/demo", "{\"messages\": []}\n", "template"},
        {"info -m no/such", "", "no/such"},
        {"info --config no/such", "", "no/such"},
        {"info --config Makefile", "", "Makefile"},
        {"init --config no/such -o x", "", "no/such"},
        {"init --preset tiny -o examples/demo", "", "examples/demo"},
        {"init --preset tiny -o no/such/parent", "", "no/such/parent"},
        {"bench -m no/such", "", "no/such"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_refused(1, cases[i].input, cases[i].text, cases[i].line);
    ck_assert_int_ne(access("no", F_OK), 0);
}
END_TEST

/* Output that cannot be written is an error, not lost. */
START_TEST(full_disk)
{
    static const char *const lines[] = {
        "--version", "generate --help", "generate -n 4", "generate -n 4 --json",
        "tokenize -m examples/demo", "info --preset tiny", "info --preset tiny --json",
    };
    if (access("/dev/full", W_OK) != 0)
        return;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char text[256];
        char *arguments[ARGUMENTS_MOST];
        snprintf(text, sizeof text, "%s", lines[i]);
        split(text, arguments);
        struct result result = run_arguments("a", 1, "/dev/full", arguments);
        ck_assert_msg(result.status == 1, "hymba %s: status %d", lines[i], result.status);
        check_one_line(&result, lines[i], "standard output");
        free_result(&result);
    }
}
END_TEST

START_TEST(closed_pipe)
{
    char text[] = "tokenize -m examples/demo";
    char *arguments[ARGUMENTS_MOST];
    const char *pipe_path = in_directory("pipe");
    const char *in = in_directory("stdin");
    const char *err = in_directory("stderr");
    split(text, arguments);
    test_write_file(in, "a", 1);
    ck_assert_int_eq(mkfifo(pipe_path, 0600), 0);
    int reader = open(pipe_path, O_RDONLY | O_NONBLOCK);
    int writer = open(pipe_path, O_WRONLY);
    ck_assert_int_ge(reader, 0);
    ck_assert_int_ge(writer, 0);
    posix_spawn_file_actions_t actions;
    pid_t child = -1;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, in, O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, writer, 1);
    posix_spawn_file_actions_addopen(&actions, 2, err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addclose(&actions, reader);
    close(reader);
    ck_assert_int_eq(posix_spawn(&child, command(), &actions, NULL, arguments, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    struct result result = {.status = wait_for(child)};
    close(writer);
    result.err = test_read_file(err, &result.err_size);
    ck_assert_int_eq(result.status, 1);
    check_one_line(&result, "tokenize", "standard output");
    free(result.err);
}
END_TEST

/* ---------------------------------------------------------------- generate */

START_TEST(generate_reproduces_the_greedy_continuations)
{
    json_t *expected = load_json(test_data("demo/eval.json"));
    json_t *cases = json_object_get(expected, "greedy");
    ck_assert_uint_eq(json_array_size(cases), 10);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *item = json_array_get(cases, i);
        json_t *ids = json_object_get(item, "continuation_ids");
        char number[32], name[] = "hymba", verb[] = "generate", p[] = "-p", n[] = "-n";
        char temperature[] = "--temp=0", ignore[] = "--ignore-eos", json[] = "--json";
        char *prompt = strdup(string_of(item, "prompt"));
        char *arguments[] = {name, verb, p, prompt, n, number, temperature, ignore, json, NULL};
        snprintf(number, sizeof number, "%zu", json_array_size(ids));
        struct result result = run_arguments("", 0, NULL, arguments);
        ck_assert_msg(result.status == 0, "%s", result.err);
        json_t *object = parse(result.out);
        ck_assert_msg(json_equal(json_object_get(object, "ids"), ids), "%s: %s", prompt,
                      result.out);
        ck_assert_int_eq(integer_of(object, "prompt_tokens"),
                         (json_int_t)json_array_size(json_object_get(item, "prompt_ids")));
        ck_assert_str_eq(string_of(object, "stop"), "length");
        if (json_is_null(json_object_get(item, "first_eos_index"))) {
            const char *text = string_of(object, "text");
            const char *until = string_of(item, "text_until_eos");
            ck_assert_ptr_nonnull(strstr(text, until));
            ck_assert_int_le(strstr(text, until) - text, 1); /* behind at most a space */
        }
        json_decref(object);
        free_result(&result);
        free(prompt);
    }
    json_decref(expected);
}
END_TEST

START_TEST(generate_json)
{
    struct result result = run_well("", "generate -n 5 --temp 0 --json");
    json_t *object = parse(result.out);
    ck_assert_uint_eq(result.err_size, 0);
    ck_assert_uint_eq(json_object_size(object), 7);
    ck_assert_uint_eq(strlen(string_of(object, "text")), json_string_length(
                                                             json_object_get(object, "text")));
    ck_assert_uint_eq(json_array_size(json_object_get(object, "ids")), 5);
    ck_assert_int_eq(integer_of(object, "prompt_tokens"), 5);
    ck_assert_double_gt(number_of(object, "prefill_tok_per_s"), 0);
    ck_assert_double_gt(number_of(object, "decode_tok_per_s"), 0);
    ck_assert_str_eq(string_of(object, "stop"), "length");
    ck_assert_int_ge(integer_of(object, "seed"), 0);
    json_decref(object);
    free_result(&result);
}
END_TEST

START_TEST(generate_prints_text_and_figures)
{
    struct result json = run_well("", "generate -n 8 --temp 0 --json");
    struct result echoed = run_well("", "generate -n 8 --temp 0");
    struct result plain = run_well("", "generate -n 8 --temp 0 --no-echo");
    struct result file = run_well("Once upon a time",
                                  "generate -m %s -f - -n 8 --temp 0 --threads=1 --cpu generic",
                                  demo);
    json_t *object = parse(json.out);
    char expected[1024];
    snprintf(expected, sizeof expected, "Once upon a time%s\n", string_of(object, "text"));
    ck_assert_str_eq(echoed.out, expected);
    ck_assert_str_eq(file.out, expected);
    ck_assert_str_eq(plain.out, expected + strlen("Once upon a time"));
    ck_assert_ptr_nonnull(strstr(echoed.err, "prompt: 5 tokens"));
    ck_assert_ptr_nonnull(strstr(echoed.err, "generated: 8 tokens"));
    ck_assert_ptr_eq(strchr(echoed.err, '\n'), echoed.err + echoed.err_size - 1);
    json_decref(object);
    free_result(&json);
    free_result(&echoed);
    free_result(&plain);
    free_result(&file);
}
END_TEST

/* A word that follows a word keeps the space between them. */
START_TEST(generate_keeps_the_space)
{
    char name[] = "hymba", verb[] = "generate", p[] = "-p", prompt[] = "The little dog was very";
    char n[] = "-n", one[] = "1", temperature[] = "--temp", zero[] = "0";
    char *arguments[] = {name, verb, p, prompt, n, one, temperature, zero, NULL};
    struct result result = run_arguments("", 0, NULL, arguments);
    ck_assert_int_eq(result.status, 0);
    ck_assert_str_eq(result.out, "The little dog was very scared\n");
    free_result(&result);
}
END_TEST

START_TEST(generate_stops)
{
    struct result result = run_well("", "generate -n 64 --temp 0 --json --stop girl --stop zzz");
    json_t *object = parse(result.out);
    ck_assert_str_eq(string_of(object, "stop"), "string");
    ck_assert_ptr_null(strstr(string_of(object, "text"), "girl"));
    ck_assert_ptr_nonnull(strstr(string_of(object, "text"), "little"));
    json_decref(object);
    free_result(&result);
    result = run_well("", "generate -n 0 --json");
    object = parse(result.out);
    ck_assert_uint_eq(json_array_size(json_object_get(object, "ids")), 0);
    ck_assert_str_eq(string_of(object, "stop"), "length");
    json_decref(object);
    free_result(&result);
}
END_TEST

START_TEST(generate_seed)
{
    struct result first = run_well("", "generate -n 24 --seed 7 --json");
    struct result second = run_well("", "generate -n 24 --seed 7 --json");
    struct result third = run_well("", "generate -n 24 --seed 8 --temp 1.5 --json");
    json_t *a = parse(first.out);
    json_t *b = parse(second.out);
    json_t *c = parse(third.out);
    ck_assert_int_eq(integer_of(a, "seed"), 7);
    ck_assert(json_equal(json_object_get(a, "ids"), json_object_get(b, "ids")));
    ck_assert(!json_equal(json_object_get(a, "ids"), json_object_get(c, "ids")));
    json_decref(a);
    json_decref(b);
    json_decref(c);
    free_result(&first);
    free_result(&second);
    free_result(&third);
}
END_TEST

START_TEST(generate_from_an_empty_prompt)
{
    struct result result = run_well("", "generate -p '' -n 3 --temp 0 --json");
    json_t *object = parse(result.out);
    ck_assert_int_eq(integer_of(object, "prompt_tokens"), 1);
    json_decref(object);
    free_result(&result);
}
END_TEST

START_TEST(generate_is_interrupted)
{
    char text[] = "generate -n 1000000 --ignore-eos";
    char *arguments[ARGUMENTS_MOST];
    const char *in = in_directory("stdin");
    const char *out = in_directory("stdout");
    const char *err = in_directory("stderr");
    const struct timespec pause = {.tv_nsec = 20000000};
    struct stat status = {0};
    split(text, arguments);
    test_write_file(in, "", 0);
    pid_t child = start(in, out, err, arguments);
    while (status.st_size < 40) { /* some text is there */
        nanosleep(&pause, NULL);
        ck_assert_int_eq(waitpid(child, NULL, WNOHANG), 0);
        ck_assert_int_eq(stat(out, &status), 0);
    }
    kill(child, SIGINT);
    ck_assert_int_eq(wait_for(child), 130);
    char *printed = test_read_file(out, NULL);
    char *figures = test_read_file(err, NULL);
    ck_assert_int_eq(printed[strlen(printed) - 1], '\n');
    ck_assert_ptr_nonnull(strstr(figures, "stop: cancelled"));
    free(printed);
    free(figures);
}
END_TEST

/* ------------------------------------------------------ logits, perplexity */

/* A safetensors file with one F32 matrix: checks the header, returns where the values begin. */
static const char *check_matrix(const char *file, size_t size, size_t rows, size_t columns)
{
    uint64_t length = 0;
    ck_assert_uint_gt(size, 8);
    for (int i = 7; i >= 0; i--)
        length = length << 8 | (unsigned char)file[i];
    ck_assert_uint_eq(length % 8, 0);
    ck_assert_uint_eq(size, 8 + length + rows * columns * sizeof(float));
    json_t *header = json_loadb(file + 8, (size_t)length, 0, NULL);
    json_t *expected = json_pack("{s:{s:s, s:[I, I], s:[i, I]}}", "logits", "dtype", "F32",
                                 "shape", (json_int_t)rows, (json_int_t)columns, "data_offsets",
                                 0, (json_int_t)(rows * columns * sizeof(float)));
    ck_assert_ptr_nonnull(header);
    ck_assert(json_equal(header, expected));
    json_decref(header);
    json_decref(expected);
    return file + 8 + length;
}

/* Where a tensor of the goldens' file begins. */
static const char *golden_tensor(const char *file, const char *name)
{
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | (unsigned char)file[i];
    json_t *header = json_loadb(file + 8, (size_t)length, 0, NULL);
    json_t *tensor = json_object_get(header, name);
    ck_assert_msg(tensor != NULL, "no tensor %s", name);
    json_int_t begin = json_integer_value(
        json_array_get(json_object_get(tensor, "data_offsets"), 0));
    json_decref(header);
    return file + 8 + length + begin;
}

START_TEST(logits_equal_the_goldens_in_chunks_and_whole)
{
    enum { LENGTH = 64 };
    static const char *const chunks[] = {"", "--chunk 1", "--chunk 7 --threads 2",
                                         "--chunk=1000 --compute f32 --cpu generic"};
    json_t *manifest = load_json(test_data("goldens/a_all_features.json"));
    size_t vocabulary = (size_t)integer_of(json_object_get(manifest, "config"), "vocab_size");
    char *golden = test_read_file(test_data("goldens/a_all_features.safetensors"), NULL);
    const char *expected = golden_tensor(golden, "p64.logits");
    char ids[LENGTH * 12] = "";
    for (size_t i = 0; i < LENGTH; i++) {
        int32_t id;
        memcpy(&id, golden_tensor(golden, "p64.input_ids") + i * sizeof id, sizeof id);
        sprintf(ids + strlen(ids), "%d%s", (int)id, i % 10 == 9 ? "\n" : " \t");
    }
    char *whole = NULL;
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        size_t size = 0;
        const char *path = in_directory("logits.safetensors");
        struct result result = run_well(ids, "logits -m %s --tokens - --out %s %s",
                                        test_data("goldens/a_all_features"), path, chunks[i]);
        char *file = test_read_file(path, &size);
        const char *values = check_matrix(file, size, LENGTH, vocabulary);
        double worst = 0;
        for (size_t k = 0; k < LENGTH * vocabulary; k++) {
            float actual, wanted;
            memcpy(&actual, values + k * sizeof actual, sizeof actual);
            memcpy(&wanted, expected + k * sizeof wanted, sizeof wanted);
            double difference = fabs((double)actual - wanted);
            if (!(difference <= worst)) /* also if it is no number */
                worst = difference;
        }
        ck_assert_double_le(worst, 2e-4);
        if (i == 0)
            whole = file;
        else if (i < 3) /* other kernels round in another way */
            ck_assert_mem_eq(file, whole, size);
        if (i > 0)
            free(file);
        free_result(&result);
    }
    free(whole);
    free(golden);
    json_decref(manifest);
}
END_TEST

START_TEST(logits_leave_no_half_file)
{
    const char *path = in_directory("kept");
    char line[512];
    test_write_file(path, "kept", 4);
    snprintf(line, sizeof line, "logits -m %s --tokens - --out %s", demo, path);
    check_refused(1, "1 2 99999", "99999", line);
    char *kept = test_read_file(path, NULL);
    ck_assert_str_eq(kept, "kept");
    free(kept);
}
END_TEST

/* A uniform check by other means: the mean over the chunks' logits, computed here. */
static double expected_nll(const char *ids_text, size_t vocabulary)
{
    int32_t ids[64];
    size_t count = 0, used = 0, size = 0;
    int step = 0;
    double sum = 0;
    while (sscanf(ids_text + used, "%d%n", &ids[count], &step) == 1) {
        used += (size_t)step;
        count++;
    }
    for (size_t begin = 0; begin < count; begin += 4) {
        size_t length = count - begin < 4 ? count - begin : 4;
        char input[256] = "1";
        const char *path = in_directory("chunk.safetensors");
        for (size_t i = 0; i + 1 < length; i++)
            sprintf(input + strlen(input), " %d", (int)ids[begin + i]);
        struct result result = run_well(input, "logits -m %s --tokens - --out %s", demo, path);
        char *file = test_read_file(path, &size);
        const char *values = check_matrix(file, size, length, vocabulary);
        for (size_t i = 0; i < length; i++) {
            double total = 0;
            float target = 0;
            for (size_t k = 0; k < vocabulary; k++) {
                float logit;
                memcpy(&logit, values + (i * vocabulary + k) * sizeof logit, sizeof logit);
                total += exp((double)logit);
                if ((int32_t)k == ids[begin + i])
                    target = logit;
            }
            sum += log(total) - (double)target;
        }
        free(file);
        free_result(&result);
    }
    return sum / (double)count;
}

START_TEST(perplexity_of_ids)
{
    static const char ids[] = "1 421 437 261 391 4059 393 282 261 385\n";
    const char *path = in_directory("ids.txt");
    test_write_file(path, ids, strlen(ids));
    struct result chunked = run_well("", "perplexity -m %s --tokens %s --chunk 4 --json", demo,
                                     path);
    struct result text = run_well("", "perplexity -m %s --tokens %s --chunk 4", demo, path);
    json_t *object = parse(chunked.out);
    ck_assert_uint_eq(json_object_size(object), 4);
    ck_assert_int_eq(integer_of(object, "tokens"), 10);
    ck_assert_double_gt(number_of(object, "tok_per_s"), 0);
    ck_assert_double_eq_tol(number_of(object, "nll"), expected_nll(ids, 4096), 1e-5);
    ck_assert_double_eq_tol(number_of(object, "ppl"), exp(number_of(object, "nll")), 1e-9);
    ck_assert_int_eq(strncmp(text.out, "perplexity ", 11), 0);
    json_decref(object);
    free_result(&chunked);
    free_result(&text);
}
END_TEST

/* The first chunk of the held-out stories against the sum that the published code gave. */
START_TEST(perplexity_of_the_first_chunk)
{
    const char *tokens = test_shared("corpus/heldout_ids.txt");
    if (!tokens)
        return;
    json_t *expected = load_json(test_data("demo/eval.json"));
    double sum = json_number_value(
        json_array_get(json_object_get(expected, "first_chunks_nll_sum"), 0));
    char *text = test_read_file(tokens, NULL);
    char *end = text;
    for (int i = 0; i < 512; i++) {
        end += strspn(end, " \n");
        end += strcspn(end, " \n");
    }
    *end = '\0';
    struct result result = run_well(text, "perplexity -m %s --tokens - --json", demo);
    json_t *object = parse(result.out);
    ck_assert_int_eq(integer_of(object, "tokens"), 512);
    ck_assert_double_eq_tol(number_of(object, "nll") * 512 / sum, 1, 1e-5);
    json_decref(object);
    free_result(&result);
    free(text);
    json_decref(expected);
}
END_TEST

START_TEST(perplexity_of_text)
{
    const char *path = in_directory("story.txt");
    static const char story[] = "Once upon a time, there was a little girl.";
    test_write_file(path, story, strlen(story));
    struct result ids = run_well(story, "tokenize -m %s --no-bos", demo);
    struct result from_text = run_well("", "perplexity -m %s -f %s --json --chunk 5", demo, path);
    struct result from_ids = run_well(ids.out, "perplexity -m %s --tokens - --json --chunk 5",
                                      demo);
    json_t *a = parse(from_text.out);
    json_t *b = parse(from_ids.out);
    ck_assert_int_eq(integer_of(a, "tokens"), integer_of(b, "tokens"));
    ck_assert_double_eq(number_of(a, "nll"), number_of(b, "nll"));
    json_decref(a);
    json_decref(b);
    free_result(&ids);
    free_result(&from_text);
    free_result(&from_ids);
}
END_TEST

/* --------------------------------------------------------------- tokenizer */

/* Lines of JSON, collected from the cases. */
struct lines {
    char *text;
    size_t size;
    FILE *stream;
};

static void lines_open(struct lines *lines)
{
    lines->stream = open_memstream(&lines->text, &lines->size);
    ck_assert_ptr_nonnull(lines->stream);
}

static void lines_add(struct lines *lines, const json_t *value)
{
    ck_assert_int_eq(json_dumpf(value, lines->stream, JSON_ENCODE_ANY | JSON_ENSURE_ASCII), 0);
    fputc('\n', lines->stream);
}

/* Asserts that the output's lines are the expected JSON values, line by line. */
static void check_lines(const char *expected, const char *actual, const char *what)
{
    size_t number = 1;
    while (*expected && *actual) {
        size_t expected_length = strcspn(expected, "\n");
        size_t length = strcspn(actual, "\n");
        json_t *a = json_loadb(expected, expected_length, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        json_t *b = json_loadb(actual, length, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        ck_assert_msg(a && b && json_equal(a, b), "%s, line %zu: %.*s, expected %.*s", what,
                      number, (int)length, actual, (int)expected_length, expected);
        json_decref(a);
        json_decref(b);
        expected += expected_length + 1;
        actual += length + (actual[length] == '\n');
        number++;
    }
    ck_assert_msg(!*expected && !*actual, "%s: another number of lines", what);
}

static bool is_kind(const json_t *item, const char *kind)
{
    return strcmp(string_of(item, "kind"), kind) == 0;
}

/* What goes in and what must come out, for the cases of some kinds. */
static void collect(const char *cases, const char *first_kind, const char *second_kind,
                    const char *in_key, const char *out_key, struct lines *in, struct lines *out)
{
    char *text = test_read_file(cases, NULL);
    lines_open(in);
    lines_open(out);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *item = parse(line);
        if (is_kind(item, first_kind) || is_kind(item, second_kind)) {
            lines_add(in, json_object_get(item, in_key));
            lines_add(out, json_object_get(item, out_key));
        }
        json_decref(item);
    }
    fclose(in->stream);
    fclose(out->stream);
    free(text);
    ck_assert_uint_gt(in->size, 0);
}

static void check_cases(const char *directory, const char *cases)
{
    static const struct {
        const char *kind, *other_kind, *in_key, *out_key, *line;
    } runs[] = {
        {"encode", "encode", "text", "ids", "tokenize --special --jsonl"},
        {"encode", "encode", "text", "ids_plain", "tokenize --no-bos --jsonl"},
        {"encode", "decode", "ids", "bytes_hex", "detokenize --hex --jsonl"},
    };
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        struct lines in, out;
        collect(cases, runs[i].kind, runs[i].other_kind, runs[i].in_key, runs[i].out_key, &in,
                &out);
        struct result result = run_well(in.text, "%s -m %s", runs[i].line, directory);
        check_lines(out.text, result.out, runs[i].line);
        free_result(&result);
        free(in.text);
        free(out.text);
    }
}

START_TEST(tokenizer_cases_of_the_demo)
{
    check_cases(demo, test_data("demo/cases.jsonl"));
}
END_TEST

START_TEST(tokenizer_and_template_cases_of_the_published_model)
{
    const char *cases = test_shared("tokenizer/cases.jsonl");
    struct lines in, out;
    if (!cases)
        return;
    check_cases(test_shared("tokenizer"), cases);
    char *text = test_read_file(cases, NULL);
    lines_open(&in);
    lines_open(&out);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *item = parse(line);
        if (is_kind(item, "chat")) {
            lines_add(&out, json_object_get(item, "text"));
            json_t *chat = json_object();
            static const char *const keys[] = {"messages", "tools", "contexts",
                                               "add_generation_prompt"};
            for (size_t i = 0; i < 4; i++)
                if (!json_is_null(json_object_get(item, keys[i])))
                    json_object_set(chat, keys[i], json_object_get(item, keys[i]));
            lines_add(&in, chat);
            json_decref(chat);
        }
        json_decref(item);
    }
    fclose(in.stream);
    fclose(out.stream);
    struct result result = run_well(in.text, "render --jsonl -m %s", test_shared("tokenizer"));
    check_lines(out.text, result.out, "render --jsonl");
    free_result(&result);
    in.text[strcspn(in.text, "\n")] = '\0';
    out.text[strcspn(out.text, "\n")] = '\0';
    result = run_well(in.text, "render -m %s", test_shared("tokenizer"));
    json_t *first = parse(out.text);
    ck_assert_str_eq(result.out, json_string_value(first));
    json_decref(first);
    free_result(&result);
    free(in.text);
    free(out.text);
    free(text);
}
END_TEST

START_TEST(tokenize_plain_text_and_back)
{
    static const char story[] = "Once upon a time,\nthere was </s> a \xf0\x9f\x98\x80.";
    struct result ids = run_well(story, "tokenize -m %s", demo);
    ck_assert_int_eq(strncmp(ids.out, "1 421 437 261 391 4059 13 ", 26), 0);
    ck_assert_ptr_eq(strchr(ids.out, '\n'), ids.out + ids.out_size - 1);
    struct result back = run_well(ids.out, "detokenize -m %s", demo);
    ck_assert_str_eq(back.out, story);
    struct result hex = run_well("261", "detokenize -m %s --hex", demo);
    ck_assert_str_eq(hex.out, "61\n");
    struct result special = run_well("</s>", "tokenize -m %s --special --no-bos", demo);
    ck_assert_ptr_nonnull(strstr(special.out, "2\n"));
    struct result none = run_well("", "tokenize -m %s --no-bos", demo);
    ck_assert_str_eq(none.out, "\n");
    free_result(&ids);
    free_result(&back);
    free_result(&hex);
    free_result(&special);
    free_result(&none);
}
END_TEST

START_TEST(detokenize_replaces_broken_characters_in_json)
{
    /* 243 is the byte token of 0xf0 */
    struct result result = run_well("[261, 243]\n[]\n", "detokenize -m %s --jsonl", demo);
    ck_assert_str_eq(result.out, "\"a\\uFFFD\"\n\"\"\n");
    free_result(&result);
    result = run_well("\"a\\u0000b\"\n", "tokenize -m %s --jsonl --no-bos", demo);
    struct result back = run_well(result.out, "detokenize -m %s --jsonl", demo);
    ck_assert_str_eq(back.out, "\"a\\u0000b\"\n");
    free_result(&back);
    free_result(&result);
}
END_TEST

/* ------------------------------------------------------- info, init, bench */

START_TEST(info_of_the_demo)
{
    struct result result = run_well("", "info -m %s --context 100 --json", demo);
    json_t *object = parse(result.out);
    json_t *session = json_object_get(object, "session");
    json_t *layers = json_object_get(object, "layers");
    static const char *const parts[] = {"meta_bytes", "kv_bytes", "conv_bytes", "ssm_bytes"};
    json_int_t sum = 0;
    ck_assert_int_eq(integer_of(object, "parameters"), 10797696);
    ck_assert_int_eq(integer_of(object, "weight_bytes"), 2 * 10797696);
    ck_assert_int_eq(integer_of(session, "context"), 100);
    for (size_t i = 0; i < 4; i++)
        sum += integer_of(session, parts[i]);
    ck_assert_int_eq(integer_of(session, "total_bytes"), sum);
    ck_assert_int_eq(integer_of(session, "ssm_bytes"), 8 * 512 * 16 * 4);
    ck_assert_uint_eq(json_array_size(layers), 8);
    static const struct {
        const char *attention;
        json_int_t kv_layer;
    } expected[8] = {{"full", 0}, {"window", 1}, {"window", 1}, {"window", 3},
                     {"full", 4}, {"window", 5}, {"window", 5}, {"full", 7}};
    for (size_t i = 0; i < 8; i++) {
        const json_t *layer = json_array_get(layers, i);
        ck_assert_str_eq(string_of(layer, "attention"), expected[i].attention);
        ck_assert_int_eq(integer_of(layer, "kv_layer"), expected[i].kv_layer);
        ck_assert_int_eq(json_is_true(json_object_get(layer, "kv_producer")),
                         expected[i].kv_layer == (json_int_t)i);
        ck_assert_int_eq(integer_of(layer, "window"),
                         strcmp(expected[i].attention, "window") == 0 ? 128 : 0);
        ck_assert_str_eq(string_of(layer, "ssm"), "mamba1");
        ck_assert_str_eq(string_of(layer, "fusion"), "mean");
        ck_assert_str_eq(string_of(layer, "ffn"), "swiglu");
    }
    json_t *configuration = json_object_get(object, "configuration");
    ck_assert_int_eq(integer_of(configuration, "hidden_size"), 256);
    ck_assert_int_eq(integer_of(configuration, "n_meta_tokens"), 32);
    ck_assert_int_gt(integer_of(object, "threads"), 0);
    ck_assert_ptr_nonnull(string_of(object, "cpu"));
    json_decref(object);
    free_result(&result);
    result = run_well("", "info -m %s", demo);
    ck_assert_ptr_nonnull(strstr(result.out, "10797696"));
    free_result(&result);
}
END_TEST

START_TEST(info_of_a_preset)
{
    struct result result = run_well("", "info --preset 1.5b --context 8192 --cache-type f16 "
                                        "--state-type f16 --json");
    json_t *object = parse(result.out);
    const json_t *session = json_object_get(object, "session");
    json_int_t own = integer_of(session, "total_bytes") - integer_of(session, "meta_bytes");
    ck_assert_int_eq(integer_of(object, "parameters"), 1522797824);
    ck_assert_int_eq(integer_of(object, "weight_bytes"), 2 * (json_int_t)1522797824);
    /* 17 producers: 3 keep all tokens, 14 their window; 960 values of 2 bytes a token */
    ck_assert_int_ge(integer_of(session, "kv_bytes"),
                     (json_int_t)(3 * 8192 + 14 * 1024) * 960 * 2);
    ck_assert_int_eq(integer_of(session, "meta_bytes"), (json_int_t)17 * 128 * 960 * 2);
    ck_assert_int_eq(integer_of(session, "conv_bytes"), (json_int_t)32 * 3200 * 3 * 2);
    ck_assert_int_eq(integer_of(session, "ssm_bytes"), (json_int_t)32 * 3200 * 16 * 2);
    ck_assert_int_le(own, 78650000); /* 78.6 MB */
    json_decref(object);
    free_result(&result);
}
END_TEST

START_TEST(init_writes_a_model_that_runs)
{
    char line[512];
    const char *path = in_directory("made");
    const char *again = in_directory("made-again");
    size_t size = 0, size_again = 0;
    char file[512];
    struct result result = run_well("", "init --preset tiny -o %s --seed 5 --dtype f16", path);
    free_result(&result);
    result = run_well("", "init --preset=tiny --output=%s --seed=5 --dtype=f16 --threads=1",
                      again);
    free_result(&result);
    snprintf(file, sizeof file, "%s/model.safetensors", path);
    char *weights = test_read_file(file, &size);
    snprintf(file, sizeof file, "%s/model.safetensors", again);
    char *weights_again = test_read_file(file, &size_again);
    ck_assert_uint_eq(size, size_again);
    ck_assert_mem_eq(weights, weights_again, size);
    free(weights);
    free(weights_again);
    snprintf(line, sizeof line, "init --preset tiny -o %s", path);
    check_refused(1, "", path, line);
    snprintf(line, sizeof line, "generate -m %s -p a", path);
    check_refused(1, "", "tokenizer", line);
    result = run_well("1 2 3", "perplexity -m %s --tokens - --json", path);
    free_result(&result);
    result = run_well("", "info -m %s --json", path);
    json_t *object = parse(result.out);
    ck_assert_str_eq(string_of(object, "weight_type"), "f16");
    json_decref(object);
    free_result(&result);
}
END_TEST

START_TEST(init_from_a_configuration)
{
    struct result result = run_well("", "init --config %s/config.json -o %s", demo,
                                    in_directory("from-config"));
    free_result(&result);
    result = run_well("", "info -m %s --json", in_directory("from-config"));
    json_t *object = parse(result.out);
    ck_assert_int_eq(integer_of(object, "parameters"), 10797696);
    json_decref(object);
    free_result(&result);
}
END_TEST

START_TEST(bench_of_the_demo)
{
    struct result result = run_well("", "bench -p 16 -n 2 -d 0,20 -b 1,3 --json --threads 2 "
                                        "--read-buffer 64");
    json_t *object = parse(result.out);
    const json_t *rows = json_object_get(object, "rows");
    static const struct {
        const char *kind;
        json_int_t tokens, depth, batch;
    } expected[] = {
        {"prefill", 16, 0, 1}, {"decode", 2, 0, 1},  {"decode", 2, 0, 3},
        {"decode", 2, 20, 1},  {"decode", 2, 20, 3},
    };
    ck_assert_double_gt(number_of(object, "read_gb_s"), 0);
    ck_assert_double_gt(number_of(object, "load_s"), 0);
    ck_assert_int_gt(integer_of(object, "peak_rss_bytes"), 1 << 20);
    ck_assert_uint_eq(json_array_size(rows), 5);
    for (size_t i = 0; i < 5; i++) {
        const json_t *row = json_array_get(rows, i);
        ck_assert_str_eq(string_of(row, "kind"), expected[i].kind);
        ck_assert_int_eq(integer_of(row, "tokens"), expected[i].tokens);
        ck_assert_int_eq(integer_of(row, "depth"), expected[i].depth);
        ck_assert_int_eq(integer_of(row, "batch"), expected[i].batch);
        ck_assert_double_gt(number_of(row, "tok_per_s"), 0);
        ck_assert_int_gt(integer_of(row, "bytes_per_step"), 2 * 10797696);
        ck_assert_double_gt(number_of(row, "bandwidth_share"), 0);
    }
    json_decref(object);
    free_result(&result);
    result = run_well("", "bench -p 4 -n 1 -d 0 -b 1 --read-buffer 64");
    ck_assert_ptr_nonnull(strstr(result.out, "prefill"));
    free_result(&result);
}
END_TEST

static void add(Suite *suite, const char *name, const TTest *const *tests, size_t count)
{
    TCase *cases = tcase_create(name);
    tcase_set_timeout(cases, 300);
    for (size_t i = 0; i < count; i++)
        tcase_add_test(cases, tests[i]);
    suite_add_tcase(suite, cases);
}

int main(void)
{
    const TTest *const usage[] = {help_and_version, wrong_usage, errors_at_run_time, full_disk,
                                  closed_pipe};
    const TTest *const generating[] = {
        generate_reproduces_the_greedy_continuations, generate_json,
        generate_prints_text_and_figures,             generate_keeps_the_space,
        generate_stops,                               generate_seed,
        generate_from_an_empty_prompt,                generate_is_interrupted};
    const TTest *const measuring[] = {logits_equal_the_goldens_in_chunks_and_whole,
                                      logits_leave_no_half_file, perplexity_of_ids,
                                      perplexity_of_the_first_chunk, perplexity_of_text};
    const TTest *const text[] = {tokenizer_cases_of_the_demo,
                                 tokenizer_and_template_cases_of_the_published_model,
                                 tokenize_plain_text_and_back,
                                 detokenize_replaces_broken_characters_in_json};
    const TTest *const models[] = {info_of_the_demo, info_of_a_preset,
                                   init_writes_a_model_that_runs, init_from_a_configuration,
                                   bench_of_the_demo};
    Suite *suite = suite_create("command");
    add(suite, "usage", usage, sizeof usage / sizeof usage[0]);
    add(suite, "generate", generating, sizeof generating / sizeof generating[0]);
    add(suite, "logits and perplexity", measuring, sizeof measuring / sizeof measuring[0]);
    add(suite, "tokenizer", text, sizeof text / sizeof text[0]);
    add(suite, "models", models, sizeof models / sizeof models[0]);
    return test_main(suite);
}
