/*
 * The command as a user meets it: help, wrong usage, errors, output that does not arrive.
 */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command.h"

extern char **environ;

static const char *const verbs[] = {"generate", "batch",      "chat",   "logits", "perplexity",
                                    "tokenize", "detokenize", "render", "info",   "init",
                                    "bench"};
enum { VERBS = sizeof verbs / sizeof verbs[0] };

/* All helps begin and end in the same way, and fit a terminal. */
static void check_help(const char *verb, const char *text)
{
    char usage[64];
    int length = snprintf(usage, sizeof usage, "usage: hymba %s ", verb);
    ck_assert_msg(strncmp(text, usage, (size_t)length) == 0, "%s: %.40s", verb, text);
    ck_assert_ptr_nonnull(strstr(text, "\n\noptions:\n"));
    ck_assert_ptr_nonnull(strstr(text, "      --threads N "));
    ck_assert_ptr_nonnull(strstr(text, "      --help                    print this text\n"));
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
        ck_assert_msg(strcspn(line, "\n") <= 96, "%s: too wide: %.*s", verb,
                      (int)strcspn(line, "\n"), line);
}

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
        check_help(verbs[i], result.out);
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
        {"generate --cpu z80", "best|generic|avx2|avx512|amx|neon"},
        {"generate --device tpu", "--device"},
        {"generate --device cuda:", "cpu|cuda|cuda:N,..."},
        {"generate --device cuda:1x", "cpu|cuda|cuda:N,..."},
        {"generate --device cuda:0,", "cpu|cuda|cuda:N,..."},
        {"generate --device cuda:0,,1", "cpu|cuda|cuda:N,..."},
        {"generate --device cuda:0,1,x", "cpu|cuda|cuda:N,..."},
        {"generate --cache-type int3", "f32|f16|bf16"},
        {"generate --stop ''", "--stop"},
        {"generate -p a -f b", "exclude"},
        {"generate -m examples/demo", "no prompt"},
        {"chat word", "'word'"},
        {"chat --load a --system b", "exclude"},
        {"chat --load a --tools b", "exclude"},
        {"chat --slide", "--context"},
        {"chat --stop ''", "--stop"},
        {"chat -n 0", "--count"},
        {"chat --snapshots 5000", "--snapshots"},
        {"chat --temp hot", "'hot'"},
        {"logits", "--model"},
        {"logits -m examples/demo --out x", "--tokens"},
        {"logits -m examples/demo --tokens x", "--out"},
        {"logits -m examples/demo --tokens x --out y --compute bf8", "--compute"},
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
        "--version", "generate --help", "generate -n 4", "generate -n 4 --json", "batch -n 4",
        "tokenize -m examples/demo", "info --preset tiny", "info --preset tiny --json",
    };
    if (access("/dev/full", W_OK) != 0)
        return;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char text[256];
        char *arguments[ARGUMENTS_MOST];
        snprintf(text, sizeof text, "%s", lines[i]);
        split_line(text, arguments);
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
    split_line(text, arguments);
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
    ck_assert_int_eq(posix_spawn(&child, command_path(), &actions, NULL, arguments, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    struct result result = {.status = wait_for_command(child)};
    close(writer);
    result.err = test_read_file(err, &result.err_size);
    ck_assert_int_eq(result.status, 1);
    check_one_line(&result, "tokenize", "standard output");
    free(result.err);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        help_and_version, wrong_usage, errors_at_run_time, full_disk, closed_pipe,
    };
    return run_command_tests("usage", tests, sizeof tests / sizeof tests[0]);
}
