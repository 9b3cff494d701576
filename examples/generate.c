/*
 * Reads a prompt from the command line and prints what a model makes of it:
 *
 *     generate MODEL_DIRECTORY PROMPT
 */
#include <stdio.h>
#include <stdlib.h>

#include "hymba.h"

/* What the program holds; released together, in whatever state it is. */
struct program {
    hymba_model *model;
    hymba_context *context;
    hymba_session *session;
    hymba_sampler *sampler;
    hymba_generation *generation;
    int32_t *tokens;
};

static hymba_status append_prompt(struct program *program, const char *prompt, hymba_error *error)
{
    const hymba_tokenizer *tokenizer = hymba_model_tokenizer(program->model);
    uint32_t flags = hymba_tokenizer_adds_bos(tokenizer) ? HYMBA_ENCODE_BOS : 0;
    size_t n_tokens = 0;
    /* A NULL buffer asks for the size. */
    hymba_status status = hymba_tokenizer_encode(tokenizer, prompt, HYMBA_NUL_TERMINATED, flags,
                                                 NULL, 0, &n_tokens, error);
    if (status != HYMBA_OK)
        return status;
    program->tokens = calloc(n_tokens + 1, sizeof *program->tokens);
    if (!program->tokens)
        return HYMBA_ERROR_MEMORY;
    status = hymba_tokenizer_encode(tokenizer, prompt, HYMBA_NUL_TERMINATED, flags,
                                    program->tokens, n_tokens, &n_tokens, error);
    if (status != HYMBA_OK)
        return status;
    return hymba_session_append(program->session, program->tokens, n_tokens, HYMBA_LOGITS_LAST,
                                error);
}

static hymba_status print_text(hymba_generation *generation, hymba_error *error)
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

static hymba_status run(struct program *program, const char *directory, const char *prompt,
                        hymba_error *error)
{
    hymba_sampler_params sampling = {
        .struct_size = sizeof sampling, .seed = 1, .temperature = 0.8f, .top_p = 0.95f};
    hymba_generation_params limits = {.struct_size = sizeof limits, .max_tokens = 100};
    hymba_status status = hymba_model_open(directory, NULL, &program->model, error);
    if (status == HYMBA_OK)
        status = hymba_context_create(program->model, NULL, &program->context, error);
    if (status == HYMBA_OK)
        status = hymba_session_create(program->context, NULL, &program->session, error);
    if (status == HYMBA_OK)
        status = append_prompt(program, prompt, error);
    if (status == HYMBA_OK)
        status = hymba_sampler_create(&sampling, NULL, &program->sampler, error);
    if (status == HYMBA_OK)
        status = hymba_generation_create(program->session, program->sampler,
                                         hymba_model_tokenizer(program->model), &limits,
                                         &program->generation, error);
    if (status == HYMBA_OK)
        status = print_text(program->generation, error);
    return status;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: generate MODEL_DIRECTORY PROMPT\n");
        return 2;
    }
    struct program program = {0};
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    hymba_status status = run(&program, argv[1], argv[2], &error);
    if (status != HYMBA_OK)
        fprintf(stderr, "%s: %s\n", hymba_status_name(status), error.message);
    /* Any order will do: children hold their parents. */
    hymba_model_release(program.model);
    hymba_context_release(program.context);
    hymba_session_release(program.session);
    hymba_sampler_release(program.sampler);
    hymba_generation_release(program.generation);
    free(program.tokens);
    return status == HYMBA_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
