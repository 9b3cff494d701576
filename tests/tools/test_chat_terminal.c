/*
 * hymba chat on a terminal: editing, history, drawing, Ctrl-C, the terminal's mode. Lines that are
 * no more than "/x" come back in the message "unknown command /x", which shows what was typed.
 */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "pseudo_terminal.h"

#define LEFT "\033[D"
#define RIGHT "\033[C"
#define UP "\033[A"
#define DOWN "\033[B"

/* A prompt of the line editor; from here on keys are taken one by one. */
static const char edited_prompt[] = "\033[?2004h\r\033[J> \r\033[2C";

/* Starts a chat, made as by printf, and waits for its first prompt. */
static void start_chat(struct pseudo_terminal *terminal, const char *kind, size_t columns,
                       const char *options)
{
    char text[1024], path[256];
    char *arguments[ARGUMENTS_MOST];
    snprintf(text, sizeof text, "chat --seed 1 %s", options);
    split_line(text, arguments);
    snprintf(path, sizeof path, "%s", command_path());
    arguments[0] = path;
    terminal_start(terminal, kind, columns, arguments);
    terminal_await(terminal, "seed 1; /help", NULL);
    terminal_await(terminal, strcmp(kind, "dumb") == 0 ? "> " : edited_prompt, NULL);
}

/* Types keys and Enter; the line must have been this command, which there is not. */
static void check_line(struct pseudo_terminal *terminal, const char *keys, const char *line)
{
    char expected[128];
    terminal_type(terminal, keys);
    terminal_type(terminal, "\r");
    snprintf(expected, sizeof expected, "unknown command %s;", line);
    terminal_await(terminal, expected, NULL);
    terminal_await(terminal, edited_prompt, NULL);
}

static void quit(struct pseudo_terminal *terminal)
{
    terminal_type(terminal, "\004");
    ck_assert_int_eq(terminal_finish(terminal), 0);
}

/* What the user said, by the transcript of a saved chat. */
static json_t *load_messages(const char *path)
{
    char name[512];
    snprintf(name, sizeof name, "%s.json", path);
    json_t *object = load_json(name);
    json_t *messages = json_incref(json_object_get(object, "messages"));
    json_decref(object);
    return messages;
}

static const char *content_of(const json_t *messages, size_t index)
{
    return string_of(json_array_get(messages, index), "content");
}

/* ----------------------------------------------------------------- editing */

START_TEST(keys_edit_the_line)
{
    static const struct {
        const char *keys, *line;
    } cases[] = {
        {"/abc", "/abc"},
        {"/ac" LEFT "b", "/abc"},
        {"/ac" LEFT LEFT RIGHT "b", "/abc"},
        {"/ac\002b", "/abc"},             /* Ctrl-B */
        {"bc\001/a\005d", "/abcd"},       /* Ctrl-A, E */
        {"bc\001/\006\006d", "/bcd"},     /* Ctrl-F */
        {"bc\033[H/a\033[Fd", "/abcd"},   /* Home, End */
        {"bc\033OH/a\033OFd", "/abcd"},
        {"bc\033[1~/a\033[4~d", "/abcd"},
        {"/abx\177c", "/abc"},            /* Backspace */
        {"/abx\010c", "/abc"},
        {"/axb" LEFT LEFT "\033[3~", "/ab"}, /* Delete */
        {"/axb" LEFT LEFT "\004", "/ab"},    /* Ctrl-D */
        {"\177\033[3~/a\033[3~", "/a"},      /* nothing to delete */
        {"/abcd" LEFT LEFT "\013", "/ab"},   /* Ctrl-K */
        {"nothing" LEFT LEFT "\013\025/ab", "/ab"}, /* Ctrl-U */
        {"/ab two\027\027/cd", "/cd"},              /* Ctrl-W */
        {"/ab two\033\177\033\177/cd", "/cd"},      /* Alt-Backspace */
        {"b c\033b\033b/a", "/ab"},                 /* Alt-B */
        {"b c\033[1;5D\033[1;5D/a\033[1;5Cd", "/abd"}, /* Ctrl-Left, Ctrl-Right */
        {"b c\001/a\033fd", "/abd"},                   /* Alt-F */
        {LEFT RIGHT UP DOWN "/a\033[99~\033[Z\033\033[Db\001\005", "/ba"},
        {"/\xc3\xa4\xe4\xbd\xa0\177\177b", "/b"},       /* whole characters */
        {"/e\xcc\x81\177b", "/b"},                      /* with their accents */
        {"/\xf0\x9f\x98\x80" LEFT "a\005\177b", "/ab"},
        {"/a\003/b", "/b"},                             /* Ctrl-C */
        {"/a\0333", "/a"},
    };
    struct pseudo_terminal terminal;
    start_chat(&terminal, "xterm", 80, "");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_line(&terminal, cases[i].keys, cases[i].line);
    terminal_type_bytes(&terminal, "/a\0b", 4); /* Ctrl-@ */
    check_line(&terminal, "", "/ab");
    quit(&terminal);
}
END_TEST

START_TEST(earlier_lines_come_back)
{
    struct pseudo_terminal terminal;
    start_chat(&terminal, "xterm", 80, "");
    check_line(&terminal, "/one", "/one");
    check_line(&terminal, "/two", "/two");
    check_line(&terminal, UP, "/two");        /* is kept once */
    check_line(&terminal, UP UP, "/one");
    check_line(&terminal, UP UP UP UP UP, "/one");
    check_line(&terminal, "/draft" UP UP DOWN DOWN DOWN "s", "/drafts");
    check_line(&terminal, "\020\020" "x", "/onex"); /* Ctrl-P */
    check_line(&terminal, "\020\020\016y", "/onexy"); /* Ctrl-N */
    check_line(&terminal, UP "\003" "/new", "/new");
    quit(&terminal);
}
END_TEST

START_TEST(messages_may_have_several_lines)
{
    struct pseudo_terminal terminal;
    char path[256], keys[600];
    start_chat(&terminal, "xterm", 80, "-n 3");
    terminal_type(&terminal, "one\033\rtwo\r"); /* Alt-Enter */
    terminal_await(&terminal, edited_prompt, NULL);
    terminal_type(&terminal, "a \033[200~/quit\r\nthree\rfour\033[A\nfive\033[201~ z\r");
    terminal_await(&terminal, edited_prompt, NULL);
    terminal_type(&terminal, "//slash\r");
    terminal_await(&terminal, edited_prompt, NULL);
    snprintf(path, sizeof path, "%s", in_directory("lines"));
    snprintf(keys, sizeof keys, "/save %s\r", path);
    terminal_type(&terminal, keys);
    terminal_await(&terminal, "(saved ", NULL);
    terminal_await(&terminal, edited_prompt, NULL);
    quit(&terminal);
    json_t *messages = load_messages(path);
    ck_assert_uint_eq(json_array_size(messages), 6);
    ck_assert_str_eq(content_of(messages, 0), "one\ntwo");
    ck_assert_str_eq(content_of(messages, 2), "a /quit\nthree\nfour\033[A\nfive z");
    ck_assert_str_eq(content_of(messages, 4), "/slash");
    json_decref(messages);
}
END_TEST

START_TEST(the_line_is_drawn)
{
    struct pseudo_terminal terminal;
    start_chat(&terminal, "xterm", 20, "");
    terminal_type(&terminal, "abc");
    terminal_await_row(&terminal, "> abc", 5);
    terminal_type(&terminal, LEFT LEFT "X");
    terminal_await_row(&terminal, "> aXbc", 4);
    terminal_type(&terminal, "\005 defghijklmnopq"); /* as wide as the terminal, and more */
    terminal_await_row(&terminal, "q", 1);
    terminal_check_row(&terminal, -1, "> aXbc defghijklmnop");
    terminal_type(&terminal, "\177"); /* exactly as wide */
    terminal_await_row(&terminal, "", 0);
    terminal_check_row(&terminal, -1, "> aXbc defghijklmnop");
    terminal_type(&terminal, "q" LEFT);
    terminal_await_row(&terminal, "q", 0);
    terminal_type(&terminal, "\001");
    terminal_await_row(&terminal, "> aXbc defghijklmnop", 2);
    terminal_check_row(&terminal, 1, "q");
    terminal_type(&terminal, "\013\xe4\xbd\xa0\xc3\xa4" "e\xcc\x81"); /* 2, 1 and 1 columns */
    terminal_await_row(&terminal, "> \xe4\xbd\xa0\xc3\xa4" "e\xcc\x81", 6);
    terminal_check_row(&terminal, 1, "");
    terminal_type(&terminal, LEFT LEFT);
    terminal_await_row(&terminal, "> \xe4\xbd\xa0\xc3\xa4" "e\xcc\x81", 4);
    /* a wide character does not fit into the last column */
    terminal_type(&terminal, "\001\013" "aaaaaaaaaaaaaaaaa\xe4\xbd\xa0");
    terminal_await_row(&terminal, "\xe4\xbd\xa0", 2);
    terminal_check_row(&terminal, -1, "> aaaaaaaaaaaaaaaaa");
    terminal_type(&terminal, "\001\013one\033\rtwo" UP);
    terminal_await_row(&terminal, "two", 3);
    terminal_check_row(&terminal, -1, "> one");
    terminal_type(&terminal, "\001\013\tx\xff"); /* a tab, and no character at all */
    terminal_await_row(&terminal, "> ^Ix\xef\xbf\xbd", 6);
    terminal_type(&terminal, "\014"); /* Ctrl-L */
    terminal_await(&terminal, "\033[2J", NULL);
    terminal_await_row(&terminal, "> ^Ix\xef\xbf\xbd", 6);
    ck_assert_uint_eq(terminal.row, 0);
    terminal_type(&terminal, "\003");
    terminal_await_row(&terminal, ">", 2);
    terminal_check_row(&terminal, -1, "> ^Ix\xef\xbf\xbd^C");
    quit(&terminal);
}
END_TEST

/* --------------------------------------------------------- answers, Ctrl-C */

START_TEST(ctrl_c_stops_the_answer_and_not_the_program)
{
    struct pseudo_terminal terminal;
    char *said = NULL;
    start_chat(&terminal, "xterm", 80, "-n 1000000 --logit-bias 2-inf");
    for (int i = 1; i <= 3; i++) {
        char turn[32];
        terminal_type(&terminal, "Go on.\r");
        terminal_await(&terminal, "\033[?2004l", NULL);
        terminal_await(&terminal, " ", NULL); /* words come while the answer is made */
        ck_assert(terminal_is_usual(&terminal));
        terminal_type(&terminal, "\003");
        terminal_await(&terminal, "(stopped)", NULL);
        terminal_await(&terminal, edited_prompt, NULL);
        ck_assert(!terminal_is_usual(&terminal));
        snprintf(turn, sizeof turn, "turn %d: ", i);
        terminal_type(&terminal, "/stats\r");
        terminal_await(&terminal, turn, &said);
        free(said);
        terminal_await(&terminal, edited_prompt, NULL);
    }
    kill(terminal.child, SIGINT); /* as sent by another program; clears the line */
    terminal_await(&terminal, "^C", NULL);
    check_line(&terminal, "/still", "/still");
    quit(&terminal);
}
END_TEST

/* What was typed while an answer was made is a line of its own afterwards. */
START_TEST(typing_ahead)
{
    struct pseudo_terminal terminal;
    start_chat(&terminal, "xterm", 80, "-n 1000000 --logit-bias 2-inf");
    terminal_type(&terminal, "Go on.\r");
    terminal_await(&terminal, "\033[?2004l", NULL);
    terminal_await(&terminal, " ", NULL);
    terminal_type(&terminal, "\004"); /* no line, and no end */
    terminal_await_typed(&terminal);
    kill(terminal.child, SIGINT); /* a key would throw away what was typed */
    terminal_await(&terminal, "(stopped)", NULL);
    terminal_await(&terminal, edited_prompt, NULL);
    check_line(&terminal, "/a", "/a");
    terminal_type(&terminal, "Go on.\r");
    terminal_await(&terminal, "\033[?2004l", NULL);
    terminal_await(&terminal, " ", NULL);
    terminal_type(&terminal, "/ahead\n");
    terminal_await_typed(&terminal);
    kill(terminal.child, SIGINT);
    terminal_await(&terminal, "unknown command /ahead;", NULL);
    terminal_await(&terminal, edited_prompt, NULL);
    quit(&terminal);
}
END_TEST

START_TEST(errors_do_not_end_the_chat)
{
    static const char *const lines[][2] = {
        {"/load no/such/file", "no/such/file"},
        {"/save no/such/file", "no/such/file"},
        {"/save", "/save takes"},
        {"/load", "/load takes"},
        {"/rewind", "0 turns"},
        {"/rewind -1", "'-1'"},
        {"/rewind 1x", "'1x'"},
        {"/", "unknown command /;"},
    };
    struct pseudo_terminal terminal;
    start_chat(&terminal, "xterm", 80, "");
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        terminal_type(&terminal, lines[i][0]);
        terminal_type(&terminal, "\r");
        terminal_await(&terminal, "hymba: ", NULL);
        terminal_await(&terminal, lines[i][1], NULL);
        terminal_await(&terminal, edited_prompt, NULL);
    }
    terminal_type(&terminal, "/quit\r");
    ck_assert_int_eq(terminal_finish(&terminal), 0);
}
END_TEST

/* A terminal would obey control characters in a text: byte 0x1b is token 30 of the demo model. */
START_TEST(control_characters_of_a_model_are_not_obeyed)
{
    static const char *const options = "--logit-bias 30+1000 --temp 0 -n 3";
    struct pseudo_terminal terminal;
    char line[256], path[256];
    char *arguments[ARGUMENTS_MOST];
    char *shown = NULL;
    start_chat(&terminal, "xterm", 80, options);
    terminal_type(&terminal, "x\r");
    terminal_await(&terminal, "\033[?2004l", NULL);
    terminal_await(&terminal, "(cut", &shown);
    ck_assert_str_eq(shown, "???\r\n");
    free(shown);
    terminal_await(&terminal, edited_prompt, NULL);
    quit(&terminal);
    snprintf(line, sizeof line, "generate -p x %s", options);
    split_line(line, arguments);
    snprintf(path, sizeof path, "%s", command_path());
    arguments[0] = path;
    terminal_start(&terminal, "xterm", 80, arguments);
    terminal_await(&terminal, "x???\r\n", NULL);
    ck_assert_int_eq(terminal_finish(&terminal), 0);
    struct result result = run_well("x\n", "chat %s", options);
    ck_assert_str_eq(result.out, "\033\033\033\n");
    free_result(&result);
}
END_TEST

/* ---------------------------------------------------------- the terminal */

START_TEST(the_terminal_is_left_as_it_was)
{
    static const int signals[] = {SIGTERM, SIGHUP, SIGQUIT};
    struct pseudo_terminal terminal;
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        start_chat(&terminal, "xterm", 80, "");
        ck_assert(!terminal_is_usual(&terminal));
        kill(terminal.child, signals[i]);
        terminal_await(&terminal, "\033[?2004l", NULL);
        ck_assert(terminal_is_usual(&terminal) || signals[i] == SIGHUP);
        ck_assert_int_eq(terminal_finish(&terminal), -signals[i]);
    }
    start_chat(&terminal, "xterm", 80, "");
    terminal_type(&terminal, "\032"); /* Ctrl-Z; nobody would continue it, so it goes on at once */
    terminal_await(&terminal, edited_prompt, NULL);
    check_line(&terminal, "/on", "/on");
    /* it ends on an empty line only */
    terminal_type(&terminal, "/a\004b\001" RIGHT "\004\005\025\004");
    terminal_await(&terminal, "\033[?2004l", NULL);
    ck_assert_int_eq(terminal_finish(&terminal), 0);
}
END_TEST

/* Where lines cannot be edited the terminal itself collects them. */
START_TEST(a_terminal_without_editing)
{
    struct pseudo_terminal terminal;
    start_chat(&terminal, "dumb", 80, "-n 1000000 --logit-bias 2-inf");
    ck_assert(terminal_is_usual(&terminal));
    terminal_type(&terminal, "/x\n");
    terminal_await(&terminal, "unknown command /x;", NULL);
    terminal_await(&terminal, "> ", NULL);
    terminal_type(&terminal, "Go on.\n");
    terminal_await(&terminal, "Go on.\r\n", NULL);
    terminal_await(&terminal, " ", NULL);
    terminal_type(&terminal, "\003");
    terminal_await(&terminal, "(stopped)\r\n> ", NULL);
    terminal_type(&terminal, "not said\003");
    terminal_await(&terminal, "^C\r\n> ", NULL);
    terminal_type(&terminal, "/stats\n");
    terminal_await(&terminal, "turn 1: ", NULL);
    terminal_await(&terminal, "> ", NULL);
    quit(&terminal);
}
END_TEST

START_TEST(the_end_saves)
{
    struct pseudo_terminal terminal;
    char path[256], options[600];
    snprintf(path, sizeof path, "%s", in_directory("at-the-end"));
    snprintf(options, sizeof options, "-n 3 --save %s", path);
    start_chat(&terminal, "xterm", 80, options);
    terminal_type(&terminal, "one\r");
    terminal_await(&terminal, edited_prompt, NULL);
    terminal_type(&terminal, "\004");
    terminal_await(&terminal, "(saved ", NULL);
    ck_assert_int_eq(terminal_finish(&terminal), 0);
    json_t *messages = load_messages(path);
    ck_assert_uint_eq(json_array_size(messages), 2);
    ck_assert_str_eq(content_of(messages, 0), "one");
    json_decref(messages);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        keys_edit_the_line, earlier_lines_come_back, messages_may_have_several_lines,
        the_line_is_drawn, ctrl_c_stops_the_answer_and_not_the_program, typing_ahead,
        errors_do_not_end_the_chat, control_characters_of_a_model_are_not_obeyed,
        the_terminal_is_left_as_it_was, a_terminal_without_editing, the_end_saves,
    };
    return run_command_tests("chat on a terminal", tests, sizeof tests / sizeof tests[0]);
}
