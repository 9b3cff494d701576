/*
 * Continues any number of prompts at once and prints each text when it is finished:
 *
 *     batch MODEL_DIRECTORY PROMPT...
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hymba.h"

enum { PROMPT_TOKENS = 1024, TEXT_BYTES = 4096 };

struct text {
    const char *prompt;
    char continuation[TEXT_BYTES];
    size_t length;
};

struct program {
    hymba_model *model;
    hymba_context *context;
    hymba_scheduler *scheduler;
    struct text *texts;
    hymba_request_event *events;
    size_t n_texts;
};

/* From here on the request alone holds its session and its sampler. */
static hymba_status add_prompt(struct program *program, size_t index, hymba_error *error)
{
    hymba_tokenizer *tokenizer = hymba_model_tokenizer(program->model);
    hymba_sampler_params sampling = {
        .struct_size = sizeof sampling, .seed = index, .temperature = 0.8f, .top_p = 0.95f};
    hymba_generation_params limits = {.struct_size = sizeof limits, .max_tokens = 60};
    hymba_request_params params = {.struct_size = sizeof params,
                                   .tokenizer = tokenizer,
                                   .generation = &limits,
                                   .user = &program->texts[index]};
    hymba_session *session = NULL;
    hymba_sampler *sampler = NULL;
    int32_t tokens[PROMPT_TOKENS];
    size_t n_tokens;
    uint64_t request;
    hymba_status status =
        hymba_tokenizer_encode(tokenizer, program->texts[index].prompt, HYMBA_NUL_TERMINATED,
                               HYMBA_ENCODE_BOS, tokens, PROMPT_TOKENS, &n_tokens, error);
    if (status == HYMBA_OK)
        status = hymba_session_create(program->context, NULL, &session, error);
    if (status == HYMBA_OK)
        status = hymba_sampler_create(&sampling, NULL, &sampler, error);
    if (status == HYMBA_OK)
        status = hymba_scheduler_add(program->scheduler, session, sampler, tokens, n_tokens,
                                     &params, &request, error);
    hymba_session_release(session);
    hymba_sampler_release(sampler);
    return status;
}

static void take_event(const hymba_request_event *event)
{
    struct text *text = event->user;
    size_t room = TEXT_BYTES - text->length;
    size_t length = event->length < room ? event->length : room;
    memcpy(text->continuation + text->length, event->text, length);
    text->length += length;
    if (event->kind == HYMBA_EVENT_END)
        printf("%s%.*s\n", text->prompt, (int)text->length, text->continuation);
    if (event->kind == HYMBA_EVENT_FAILED)
        fprintf(stderr, "%s: %s\n", text->prompt, event->message);
}

static hymba_status run(struct program *program, const char *directory, hymba_error *error)
{
    hymba_status status = hymba_model_open(directory, NULL, &program->model, error);
    if (status == HYMBA_OK)
        status = hymba_context_create(program->model, NULL, &program->context, error);
    if (status == HYMBA_OK) /* 64 tokens a step: how long a new prompt may hold up the others */
        status = hymba_scheduler_create(program->context, 64, NULL, &program->scheduler, error);
    for (size_t i = 0; status == HYMBA_OK && i < program->n_texts; i++)
        status = add_prompt(program, i, error);
    while (status == HYMBA_OK && hymba_scheduler_count(program->scheduler) > 0) {
        size_t n_events;
        status = hymba_scheduler_step(program->scheduler, program->events,
                                      sizeof *program->events, program->n_texts, &n_events, error);
        for (size_t i = 0; status == HYMBA_OK && i < n_events; i++)
            take_event(&program->events[i]);
    }
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: batch MODEL_DIRECTORY PROMPT...\n");
        return 2;
    }
    struct program program = {.n_texts = (size_t)argc - 2};
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    program.texts = calloc(program.n_texts, sizeof *program.texts);
    program.events = calloc(program.n_texts, sizeof *program.events);
    hymba_status status = HYMBA_ERROR_MEMORY;
    for (size_t i = 0; program.texts && i < program.n_texts; i++)
        program.texts[i].prompt = argv[i + 2];
    if (program.texts && program.events)
        status = run(&program, argv[1], &error);
    if (status != HYMBA_OK)
        fprintf(stderr, "%s: %s\n", hymba_status_name(status), error.message);
    hymba_scheduler_release(program.scheduler);
    hymba_context_release(program.context);
    hymba_model_release(program.model);
    free(program.texts);
    free(program.events);
    return status == HYMBA_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
