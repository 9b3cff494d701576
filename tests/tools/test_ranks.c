/*
 * The command as a rank: its options, and what the environment tells it. There is no device here,
 * so that several ranks get no further than to look for one.
 */
#include <stdlib.h>
#include <string.h>

#include "command.h"

static void launch(const char *rank, const char *world_size)
{
    setenv("RANK", rank, 1);
    setenv("WORLD_SIZE", world_size, 1);
    setenv("LOCAL_RANK", "0", 1);
    unsetenv("MASTER_ADDR");
    unsetenv("MASTER_PORT");
    unsetenv("HYMBA_MEETING");
    setenv("HYMBA_CUDA_PLUGIN", "/nowhere/libhymba-cuda.so", 1);
}

START_TEST(wrong_usage)
{
    static const struct {
        const char *line, *text;
    } cases[] = {
        {"generate --rank 0", "--rank and --world-size belong together"},
        {"generate --world-size 2", "--rank and --world-size belong together"},
        {"generate --rank 2 --world-size 2", "--rank must be less than --world-size"},
        {"generate --rank 1 --world-size 1", "--rank must be less than --world-size"},
        {"generate --rank 0 --world-size 2", "--meeting is missing"},
        {"generate --rank -1 --world-size 2", "--rank takes a whole number"},
        {"generate --rank 0 --world-size 0", "--world-size takes a whole number from 1 to 256"},
        {"generate --rank 0 --world-size 257", "--world-size takes a whole number from 1 to 256"},
        {"generate --rank-timeout 0", "--rank-timeout takes a whole number from 1 to 86400"},
        {"generate --meeting file:/x", "--meeting is for ranks"},
        {"generate --ranks-from-environment --rank 0 --world-size 2 --meeting file:/x",
         "--ranks-from-environment excludes"},
        {"chat --rank 0 --world-size 2", "unknown option '--rank'"},
        {"info --rank 0 --world-size 2", "unknown option '--rank'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_refused(2, "", cases[i].text, cases[i].line);
}
END_TEST

START_TEST(what_several_ranks_cannot_do)
{
    static const struct {
        const char *line, *text;
    } cases[] = {
        {"generate --rank 0 --world-size 2 --meeting file:/x", "the CPU cannot be one"},
        {"generate --rank 1 --world-size 2 --meeting file:/x --device cpu",
         "the CPU cannot be one"},
        {"generate --rank 1 --world-size 2 --meeting somewhere --device cuda", "somewhere"},
        {"generate --rank 1 --world-size 2 --meeting file:/x --device cuda", "/nowhere/"},
        {"generate --rank 1 --world-size 2 --meeting file:/x --device cuda -f -",
         "several ranks cannot share standard input"},
        {"logits -m examples/demo --tokens - -o x --rank 0 --world-size 2 --meeting file:/x",
         "several ranks cannot share standard input"},
    };
    launch("0", "1");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_refused(1, "1 2 3", cases[i].text, cases[i].line);
}
END_TEST

START_TEST(the_environment_is_read_when_asked)
{
    static const char line[] = "generate --ranks-from-environment --device cuda -n 1";
    launch("1", "2");
    check_refused(1, "", "MASTER_ADDR is not set", line);
    check_refused(1, "", "/nowhere/",
                  "generate --ranks-from-environment --meeting file:/x --device cuda -n 1");
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    setenv("MASTER_PORT", "port", 1);
    check_refused(1, "", "MASTER_PORT", line);
    setenv("HYMBA_MEETING", "tcp://127.0.0.1:29510", 1);
    check_refused(1, "", "/nowhere/", line);
    launch("2", "2");
    check_refused(1, "", "RANK: found \"2\"", line);
    /* unasked, it is not looked at */
    struct result result = run_well("", "generate -n 1 --temp 0");
    free_result(&result);
}
END_TEST

/* One rank of one is no rank. */
START_TEST(a_single_rank_is_the_ordinary_command)
{
    launch("0", "1");
    struct result plain = run_well("", "generate -n 6 --temp 0");
    struct result one = run_well("", "generate -n 6 --temp 0 --rank 0 --world-size 1");
    struct result launched = run_well("", "generate -n 6 --temp 0 --ranks-from-environment");
    ck_assert_str_eq(one.out, plain.out);
    ck_assert_str_eq(launched.out, plain.out);
    ck_assert_uint_gt(one.err_size, 0);
    free_result(&plain);
    free_result(&one);
    free_result(&launched);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {wrong_usage, what_several_ranks_cannot_do,
                                  the_environment_is_read_when_asked,
                                  a_single_rank_is_the_ordinary_command};
    return run_command_tests("ranks of the command", tests, sizeof tests / sizeof tests[0]);
}
