/*
 * Two continuations of one beginning, a session in a file, and an error:
 *
 *     story MODEL_DIRECTORY SESSION_FILE
 *     cc -std=c11 -o story story.c $(pkg-config --cflags --libs hymba)
 *
 * Each function returns the status of the first call that failed; what that was stands in *error.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hymba.h"

/* What the program holds; released together, in whatever state it is. */
struct program {
    hymba_model *model;
    hymba_context *context;
    hymba_session *session;
    hymba_session *fork;
    hymba_session *loaded;
};

/* An error is a status to decide by and a sentence to show. */
static void open_what_is_not_there(void)
{
    hymba_model *model = NULL;
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    hymba_status status = hymba_model_open("no-such-model", NULL, &model, &error);
    if (status == HYMBA_OK) {
        hymba_model_release(model);
        return;
    }
    /* Behind the first colon stands what the operating system calls it. */
    printf("%s: %.*s\n", hymba_status_name(status), (int)strcspn(error.message, ":"),
           error.message);
}

/* The tokens of a text, to be given to free. */
static hymba_status encode(const hymba_tokenizer *tokenizer, const char *text, int32_t **tokens,
                           size_t *n_tokens, hymba_error *error)
{
    uint32_t flags = hymba_tokenizer_adds_bos(tokenizer) ? HYMBA_ENCODE_BOS : 0;
    /* A NULL buffer asks for the size. */
    hymba_status status = hymba_tokenizer_encode(tokenizer, text, HYMBA_NUL_TERMINATED, flags,
                                                 NULL, 0, n_tokens, error);
    if (status != HYMBA_OK)
        return status;
    *tokens = calloc(*n_tokens + 1, sizeof **tokens);
    if (!*tokens) {
        snprintf(error->message, sizeof error->message, "no memory for the prompt");
        return HYMBA_ERROR_MEMORY;
    }
    return hymba_tokenizer_encode(tokenizer, text, HYMBA_NUL_TERMINATED, flags, *tokens,
                                  *n_tokens, n_tokens, error);
}

static hymba_status append_prompt(struct program *program, const char *prompt, hymba_error *error)
{
    int32_t *tokens = NULL;
    size_t n_tokens = 0;
    hymba_status status = encode(hymba_model_tokenizer(program->model), prompt, &tokens,
                                 &n_tokens, error);
    if (status == HYMBA_OK)
        status = hymba_session_append(program->session, tokens, n_tokens, HYMBA_LOGITS_LAST,
                                      error);
    free(tokens);
    if (status == HYMBA_OK)
        printf("prompt: %zu tokens\n", n_tokens);
    return status;
}

/* Prints what comes as it comes; whole characters at a time. */
static hymba_status print_events(hymba_generation *generation, hymba_error *error)
{
    hymba_event event = {.struct_size = sizeof event};
    do {
        hymba_status status = hymba_generation_next(generation, &event, error);
        if (status != HYMBA_OK)
            return status;
        fwrite(event.text, 1, event.length, stdout);
        fflush(stdout);
    } while (event.kind != HYMBA_EVENT_END);
    putchar('\n');
    return HYMBA_OK;
}

static hymba_status stream(struct program *program, hymba_session *session, const char *title,
                           hymba_sampler_params sampling, uint64_t max_tokens, hymba_error *error)
{
    hymba_generation_params limits = {.struct_size = sizeof limits, .max_tokens = max_tokens};
    hymba_sampler *sampler = NULL;
    hymba_generation *generation = NULL;
    hymba_status status = hymba_sampler_create(&sampling, NULL, &sampler, error);
    if (status == HYMBA_OK)
        status = hymba_generation_create(session, sampler, hymba_model_tokenizer(program->model),
                                         &limits, &generation, error);
    /* The generation holds the sampler from here on. */
    hymba_sampler_release(sampler);
    if (status == HYMBA_OK) {
        printf("%s:", title);
        status = print_events(generation, error);
    }
    hymba_generation_release(generation);
    return status;
}

static void print_reuse(const char *what, const hymba_reuse_info *reuse)
{
    printf("%s: %" PRIu64 " tokens reused, %" PRIu64 " computed\n", what, reuse->reused_tokens,
           reuse->computed_tokens);
}

static hymba_status tell(struct program *program, const char *session_file, hymba_error *error)
{
    hymba_reuse_info reuse = {.struct_size = sizeof reuse};
    hymba_sampler_params first = {
        .struct_size = sizeof first, .temperature = 0.8f, .top_k = 40, .seed = 7};
    hymba_sampler_params second = first;
    second.seed = 8;
    /* All zero: always the most probable token. */
    hymba_sampler_params greedy = {.struct_size = sizeof greedy};

    hymba_status status = append_prompt(program, "Once upon a time", error);
    if (status == HYMBA_OK)
        status = hymba_session_fork(program->session, &program->fork, &reuse, error);
    if (status != HYMBA_OK)
        return status;
    print_reuse("fork", &reuse);
    status = stream(program, program->session, "seed 7", first, 40, error);
    if (status == HYMBA_OK)
        status = stream(program, program->fork, "seed 8", second, 40, error);

    if (status == HYMBA_OK)
        status = hymba_session_save(program->session, NULL, session_file, NULL, error);
    if (status == HYMBA_OK)
        status = hymba_session_load(program->context, session_file, NULL, &program->loaded, NULL,
                                    &reuse, error);
    if (status != HYMBA_OK)
        return status;
    print_reuse("load", &reuse);
    return stream(program, program->loaded, "greedy", greedy, 10, error);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: story MODEL_DIRECTORY SESSION_FILE\n");
        return 2;
    }
    open_what_is_not_there();

    struct program program = {0};
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    hymba_status status = hymba_model_open(argv[1], NULL, &program.model, &error);
    if (status == HYMBA_OK)
        status = hymba_context_create(program.model, NULL, &program.context, &error);
    if (status == HYMBA_OK)
        status = hymba_session_create(program.context, NULL, &program.session, &error);
    if (status == HYMBA_OK)
        status = tell(&program, argv[2], &error);
    if (status != HYMBA_OK)
        fprintf(stderr, "%s: %s\n", hymba_status_name(status), error.message);
    /* Any order will do: children hold their parents. */
    hymba_model_release(program.model);
    hymba_context_release(program.context);
    hymba_session_release(program.session);
    hymba_session_release(program.fork);
    hymba_session_release(program.loaded);
    return status == HYMBA_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
