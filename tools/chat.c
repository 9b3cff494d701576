#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "characters.h"
#include "conversation.h"
#include "input.h"
#include "interrupt.h"
#include "line_editor.h"
#include "output.h"
#include "terminal.h"
#include "verbs.h"

static const char prompt[] = "> ";

static const char command_help[] =
    "/help           this list\n"
    "/reset          forget the conversation, except for the system message\n"
    "/rewind [N]     forget the last N turns (default: 1)\n"
    "/save FILE      save the conversation: FILE and FILE.json\n"
    "/load FILE      go on with a saved one\n"
    "/system [TEXT]  another system message, or none\n"
    "/stats          what the last turn reused and computed\n"
    "/quit           end, as Ctrl-D does\n"
    "//...           a message that begins with a slash\n";

struct chat_options {
    struct conversation_options conversation;
    const char *tools, *save, *load;
    bool verbose;
};

struct chat {
    const struct chat_options *options;
    struct conversation conversation;
    struct line_editor *editor; /* NULL: input is read as it comes */
    char *line;
    size_t line_capacity;
    bool is_ended;
    bool in_answer; /* something of the answer has been printed */
};

static void describe(struct option_set *set, struct chat_options *options)
{
    struct conversation_options *conversation = &options->conversation;
    options_begin(set, "chat", "[-m DIR] [options]",
                  "Talks with a model. On a terminal the line can be edited and earlier ones\n"
                  "come back with the cursor keys; otherwise every line of standard input is a\n"
                  "message. Answers go to standard output, all else to stderr. /help lists the\n"
                  "commands. Ctrl-C stops an answer, or clears the line; Ctrl-D ends.\n"
                  "A model without a chat template is given \"User: ...\" and \"Assistant: ...\",\n"
                  "each on a line of its own, behind the system message and an empty line.\n"
                  "Messages are plain text: nothing in them becomes a special token, and what\n"
                  "looks like the beginning of a turn is given to the model in other tokens.\n"
                  "Each turn computes its new tokens only.");
    option_text(set, 'm', "model", "DIR", &conversation->model,
                "model directory (default: demo model)");
    option_text(set, 0, "system", "TEXT", &conversation->system, "system message");
    option_text(set, 0, "tools", "FILE", &options->tools,
                "JSON array of tools for the chat template");
    option_text(set, 0, "load", "FILE", &options->load,
                "go on with a saved conversation; none of its tokens is\n"
                "computed again");
    option_text(set, 0, "save", "FILE", &options->save,
                "save the conversation at the end: FILE and FILE.json");
    option_integer(set, 'n', "count", &conversation->answer_tokens, 1, 1u << 30,
                   "most tokens of an answer (default: 1024)");
    option_integer(set, 'c', "context", &conversation->context_tokens, 1, 1u << 30,
                   "most tokens of the conversation (default: no limit but memory)");
    option_flag(set, 0, "slide", &conversation->slide,
                "at that limit go on: full-attention layers see the last\n"
                "tokens only");
    option_integer(set, 0, "snapshots", &conversation->snapshots, 0, 4096,
                   "turns that /rewind reaches without computing; each keeps\n"
                   "the states and windows of a session (default: 4)");
    option_texts(set, 0, "stop", "TEXT", &conversation->stop,
                 "end an answer before this text; may be given several times");
    option_flag(set, 0, "verbose", &options->verbose, "print /stats after every turn");
    add_sampling_options(set, &conversation->sampling);
    add_compute_options(set, &conversation->compute);
}

/* ------------------------------------------------------------------ answers */

/* Prints a piece of an answer, without the white space that it begins with. */
static int print_answer(void *user, const char *text, size_t size)
{
    struct chat *chat = user;
    uint32_t character;
    while (!chat->in_answer && size > 0) {
        size_t length = character_read(text, size, &character);
        if (!character_is_space(character)) {
            chat->in_answer = true;
            break;
        }
        text += length;
        size -= length;
    }
    errno = 0;
    print_text(text, size);
    return output_arrived() ? STATUS_OK : fail_output();
}

static int print_stats(const struct chat *chat)
{
    const struct conversation *conversation = &chat->conversation;
    const struct turn_figures *figures = &conversation->figures;
    hymba_session_info info;
    int status = conversation_info(conversation, &info);
    if (status != STATUS_OK)
        return status;
    fprintf(stderr,
            "turn %zu: %" PRIu64 " tokens reused, %" PRIu64 " computed (message %" PRIu64
            ", answer %" PRIu64 ", again %" PRIu64 "); session: %" PRIu64 " tokens, %" PRIu64
            " snapshots, %.1f MB\n",
            conversation->n_turns, figures->reused,
            figures->message + figures->answer + figures->again, figures->message,
            figures->answer, figures->again, info.length, info.n_snapshots,
            (double)info.memory_bytes / 1e6);
    return STATUS_OK;
}

static void tell_stop(const struct chat *chat, int32_t stop)
{
    const struct chat_options *options = chat->options;
    if (stop == HYMBA_STOP_NONE)
        fputs("(stopped; the message was not taken)\n", stderr);
    else if (stop == HYMBA_STOP_CANCELLED)
        fputs("(stopped)\n", stderr);
    else if (stop == HYMBA_STOP_LENGTH)
        fprintf(stderr, "(cut after %" PRIu64 " tokens, --count)\n",
                options->conversation.answer_tokens);
    else if (stop == HYMBA_STOP_LIMIT)
        fputs("(the conversation has reached its limit, --context: /rewind or /reset makes "
              "room)\n", stderr);
}

static int say(struct chat *chat, const char *words, size_t size)
{
    int32_t stop = HYMBA_STOP_NONE;
    chat->in_answer = false;
    int status = conversation_say(&chat->conversation, words, size, print_answer, chat, &stop);
    interrupt_take();
    if (stop != HYMBA_STOP_NONE || chat->in_answer) {
        errno = 0;
        putchar('\n');
        if (!output_arrived())
            return status == STATUS_OK ? fail_output() : status;
    }
    if (status == STATUS_OK)
        tell_stop(chat, stop);
    if (status == STATUS_OK && chat->options->verbose && stop != HYMBA_STOP_NONE)
        status = print_stats(chat);
    return status;
}

/* ----------------------------------------------------------------- commands */

static int tell_load(struct chat *chat, const char *path)
{
    hymba_reuse_info info;
    int status = conversation_load(&chat->conversation, path, &info);
    if (status == STATUS_OK)
        fprintf(stderr, "(loaded %s: %zu turns, %" PRIu64 " tokens reused, %" PRIu64
                " computed)\n", path, chat->conversation.n_turns, info.reused_tokens,
                info.computed_tokens);
    return status;
}

static int tell_save(struct chat *chat, const char *path)
{
    int status = conversation_save(&chat->conversation, path);
    if (status == STATUS_OK)
        fprintf(stderr, "(saved %s and %s.json)\n", path, path);
    return status;
}

static int do_rewind(struct chat *chat, const char *argument)
{
    hymba_reuse_info info;
    uint64_t turns = 0;
    size_t digits = strspn(argument, "0123456789");
    if (argument[digits] != '\0' || digits > 9)
        return fail("/rewind takes a number of turns, not '%s'", argument);
    turns = digits ? strtoul(argument, NULL, 10) : 1;
    int status = conversation_rewind(&chat->conversation, turns, &info);
    if (status == STATUS_OK)
        fprintf(stderr, "(rewound to turn %zu: %" PRIu64 " tokens reused, %" PRIu64
                " computed)\n", chat->conversation.n_turns, info.reused_tokens,
                info.computed_tokens);
    return status;
}

static int do_help(struct chat *chat, const char *argument)
{
    (void)chat;
    (void)argument;
    fputs(command_help, stderr);
    return STATUS_OK;
}

static int do_quit(struct chat *chat, const char *argument)
{
    (void)argument;
    chat->is_ended = true;
    return STATUS_OK;
}

static int do_reset(struct chat *chat, const char *argument)
{
    (void)argument;
    int status = conversation_reset(&chat->conversation);
    if (status == STATUS_OK)
        fputs("(reset)\n", stderr);
    return status;
}

static int do_stats(struct chat *chat, const char *argument)
{
    (void)argument;
    return print_stats(chat);
}

static int do_system(struct chat *chat, const char *argument)
{
    int status = conversation_set_system(&chat->conversation, argument, strlen(argument));
    if (status == STATUS_OK && chat->conversation.n_turns > 0)
        fputs("(the system message stands first: the next turn computes the conversation "
              "again)\n", stderr);
    return status;
}

static int do_save(struct chat *chat, const char *argument)
{
    return *argument ? tell_save(chat, argument) : fail("/save takes the name of a file");
}

static int do_load(struct chat *chat, const char *argument)
{
    return *argument ? tell_load(chat, argument) : fail("/load takes the name of a file");
}

/* line begins with the slash and ends with a NUL. */
static int obey(struct chat *chat, char *line)
{
    static const struct {
        const char *name;
        int (*run)(struct chat *chat, const char *argument);
    } commands[] = {
        {"/help", do_help}, {"/quit", do_quit},     {"/reset", do_reset}, {"/rewind", do_rewind},
        {"/save", do_save}, {"/load", do_load},     {"/stats", do_stats}, {"/system", do_system},
    };
    size_t length = strcspn(line, " \t\n");
    char *argument = line + length + strspn(line + length, " \t\n");
    size_t end = strlen(argument);
    while (end > 0 && strchr(" \t\n", argument[end - 1]))
        argument[--end] = '\0';
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strlen(commands[i].name) == length && memcmp(commands[i].name, line, length) == 0)
            return commands[i].run(chat, argument);
    return fail("unknown command %.*s; /help lists them", length > 64 ? 64 : (int)length, line);
}

/* -------------------------------------------------------------------- input */

/* A line that is not edited; Ctrl-C ends the waiting. */
static int read_plain(struct chat *chat, size_t *size)
{
    bool on_terminal = isatty(STDIN_FILENO);
    for (;;) {
        if (on_terminal)
            fputs(prompt, stderr);
        errno = 0;
        ssize_t got = interrupted() ? -1 : getline(&chat->line, &chat->line_capacity, stdin);
        if (got >= 0) {
            *size = (size_t)got;
            break;
        }
        if (interrupted() && on_terminal) {
            interrupt_take();
            clearerr(stdin);
            fputc('\n', stderr);
            continue;
        }
        chat->is_ended = true;
        if (on_terminal)
            fputc('\n', stderr);
        if (interrupted())
            return fail_interrupted();
        return ferror(stdin) || errno == ENOMEM ? fail("standard input: %s", strerror(errno))
                                                : STATUS_OK;
    }
    if (*size > 0 && chat->line[*size - 1] == '\n')
        --*size;
    if (*size > 0 && chat->line[*size - 1] == '\r')
        --*size;
    chat->line[*size] = '\0';
    return STATUS_OK;
}

static int read_edited(struct chat *chat, size_t *size)
{
    const char *text = NULL;
    switch (line_editor_read(chat->editor, prompt, &text, size)) {
    case LINE_END:
        chat->is_ended = true;
        return STATUS_OK;
    case LINE_FAILED:
        chat->is_ended = true;
        return fail("the terminal does not let lines be edited");
    case LINE_TEXT:
        break;
    }
    interrupt_take(); /* one that came before there was anything to stop */
    chat->line_capacity = *size + 1;
    chat->line = grow_memory(chat->line, chat->line_capacity, 1);
    memcpy(chat->line, text, *size + 1);
    return STATUS_OK;
}

static int take_line(struct chat *chat, size_t size)
{
    const char *words = chat->line;
    size_t length = size;
    strip_space(&words, &length);
    if (length == 0)
        return STATUS_OK;
    if (words[0] == '/' && (length == 1 || words[1] != '/'))
        return obey(chat, chat->line + (words - chat->line));
    size_t skipped = words[0] == '/' ? 1 : 0;
    return say(chat, words + skipped, length - skipped);
}

/* On a terminal an error is told and the chat goes on; a script ends with it. */
static int talk(struct chat *chat)
{
    int status = STATUS_OK;
    while (!chat->is_ended && status == STATUS_OK) {
        size_t size = 0;
        status = chat->editor ? read_edited(chat, &size) : read_plain(chat, &size);
        if (chat->is_ended || status != STATUS_OK)
            break;
        status = take_line(chat, size);
        if (isatty(STDIN_FILENO) && status != STATUS_OK && !ferror(stdout)) {
            interrupt_take();
            status = STATUS_OK;
        }
    }
    return status;
}

/* -------------------------------------------------------------- preparation */

static int check_options(const struct chat_options *options)
{
    if (options->load && options->conversation.system)
        return wrong_usage("chat", "--load and --system exclude each other");
    if (options->load && options->tools)
        return wrong_usage("chat", "--load and --tools exclude each other");
    if (options->conversation.slide && !options->conversation.context_tokens)
        return wrong_usage("chat", "--slide needs --context");
    for (size_t i = 0; i < options->conversation.stop.count; i++)
        if (options->conversation.stop.items[i][0] == '\0')
            return wrong_usage("chat", "--stop takes a text that is not empty");
    return STATUS_OK;
}

static int read_tools(const char *path, char **tools)
{
    struct bytes bytes;
    json_error_t error;
    int status = read_bytes(path, &bytes);
    if (status != STATUS_OK)
        return status;
    json_t *array = json_loadb(bytes.data, bytes.size, 0, &error);
    if (!array)
        status = fail("%s: %s (line %d)", path, error.text, error.line);
    else if (!json_is_array(array))
        status = fail("%s: not a JSON array of tools", path);
    json_decref(array);
    if (status == STATUS_OK)
        *tools = bytes.data;
    else
        free(bytes.data);
    return status;
}

static int prepare(struct chat *chat)
{
    char *tools = NULL;
    const struct chat_options *options = chat->options;
    int status = options->tools ? read_tools(options->tools, &tools) : STATUS_OK;
    if (status != STATUS_OK)
        return status;
    status = conversation_open(&chat->conversation, &options->conversation, tools);
    if (status == STATUS_OK && options->load)
        status = tell_load(chat, options->load);
    return status;
}

static int run_chat(struct chat *chat)
{
    const struct sampling_options *sampling = &chat->options->conversation.sampling;
    interrupt_stay_mild();
    if (terminal_can_edit())
        chat->editor = line_editor_create();
    fprintf(stderr, "seed %" PRIu64 "%s\n", sampling->seed,
            isatty(STDIN_FILENO) ? "; /help lists the commands, Ctrl-D ends" : "");
    int status = talk(chat);
    interrupt_take();
    if (chat->options->save) {
        int saved = tell_save(chat, chat->options->save);
        status = status == STATUS_OK ? saved : status;
    }
    line_editor_free(chat->editor);
    return status;
}

int verb_chat(int argc, char **argv)
{
    struct chat_options options = {.conversation = {.answer_tokens = 1024, .snapshots = 4}};
    struct chat chat = {.options = &options};
    struct option_set set;
    int status;
    sampling_defaults(&options.conversation.sampling);
    describe(&set, &options);
    if (!options_parse(&set, argc, argv, &status))
        return status;
    status = check_options(&options);
    if (status == STATUS_OK)
        status = finish_sampling_options(&set, &options.conversation.sampling);
    if (status != STATUS_OK)
        return status;
    status = prepare(&chat);
    if (status == STATUS_OK)
        status = run_chat(&chat);
    conversation_close(&chat.conversation);
    free(chat.line);
    return status;
}
