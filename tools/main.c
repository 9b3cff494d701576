/*
 * hymba: the command. Verbs stand in files of their own, over the public header alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hymba.h"
#include "interrupt.h"
#include "output.h"
#include "verbs.h"

static const struct verb {
    const char *name;
    const char *summary;
    int (*run)(int argc, char **argv);
} verbs[] = {
    {"generate", "continue a text", verb_generate},
    {"batch", "continue many texts at once", verb_batch},
    {"chat", "talk with a model", verb_chat},
    {"logits", "compute the logits of token ids", verb_logits},
    {"perplexity", "measure how well a model predicts a text", verb_perplexity},
    {"tokenize", "turn text into token ids", verb_tokenize},
    {"detokenize", "turn token ids into text", verb_detokenize},
    {"render", "render a chat with the model's template", verb_render},
    {"info", "tell a model's configuration and memory needs", verb_info},
    {"init", "write a randomly initialised model", verb_init},
    {"quantize", "write a model with weights of 8 or 4 bits", verb_quantize},
    {"bench", "measure speed", verb_bench},
};

static int print_help(void)
{
    printf("usage: hymba VERB [options]\n\n"
           "Runs Hymba language models on the CPU or, with --device, on a CUDA device.\n\n"
           "verbs:\n");
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        printf("  %-12s %s\n", verbs[i].name, verbs[i].summary);
    printf("\n'hymba VERB --help' lists a verb's options; 'hymba --version' prints the version.\n"
           "Exit status: 0; 1 after an error, told in one line on stderr; 2 on wrong usage;\n"
           "130 when interrupted (Ctrl-C).\n");
    return STATUS_OK;
}

static int run(int argc, char **argv)
{
    if (argc < 2)
        return wrong_usage(NULL, "no verb given");
    if (strcmp(argv[1], "--help") == 0)
        return print_help();
    if (strcmp(argv[1], "--version") == 0) {
        printf("hymba %s\n", hymba_version_string());
        return STATUS_OK;
    }
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(argc - 2, argv + 2);
    return wrong_usage(NULL, "unknown %s '%s'", argv[1][0] == '-' ? "option" : "verb", argv[1]);
}

/* A caller may close the standard streams; a file opened later must not take their numbers. They
 * get a place that can be neither written (1, 2) nor read (0). */
static void occupy_standard_streams(void)
{
    for (int number = 0; number <= 2; number++)
        if (fcntl(number, F_GETFD) == -1 && errno == EBADF)
            (void)!open("/dev/null", number == 0 ? O_WRONLY : O_RDONLY);
}

int main(int argc, char **argv)
{
    occupy_standard_streams();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of the write */
    interrupt_install();
    int status = run(argc, argv);
    errno = 0;
    if (!output_arrived() && status == STATUS_OK)
        status = fail_output();
    return status;
}
