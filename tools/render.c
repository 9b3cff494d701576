#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "input.h"
#include "library.h"
#include "output.h"
#include "verbs.h"

struct render_options {
    const char *model;
    bool jsonl;
    struct compute_options compute;
};

static void describe(struct option_set *set, struct render_options *options)
{
    options_begin(set, "render", "-m DIR [--jsonl] < CHAT",
                  "Renders a chat with the model's template. Standard input is a JSON object with\n"
                  "\"messages\" (objects with \"role\" and \"content\") and, optional, \"tools\",\n"
                  "\"contexts\" (strings) and \"add_generation_prompt\"; the text is printed as\n"
                  "it is, without a newline.");
    option_text(set, 'm', "model", "DIR", &options->model,
                "directory with the tokenizer; weights need not be there");
    option_is_required(set);
    option_flag(set, 0, "jsonl", &options->jsonl,
                "one such object a line in, one JSON string a line out");
    add_threads_option(set, &options->compute);
}

static int render(const hymba_tokenizer *tokenizer, const char *json, size_t length,
                  const char *about, struct bytes *text)
{
    hymba_error error;
    size_t capacity = 0;
    size_t needed = 4 * length + 1024;
    hymba_status status;
    hymba_error_init(&error, sizeof error);
    text->data = NULL;
    do {
        capacity = needed;
        text->data = grow_memory(text->data, capacity, 1);
        status = hymba_tokenizer_render_chat(tokenizer, json, length, text->data, capacity,
                                             &needed, &error);
    } while (status == HYMBA_ERROR_BUFFER && needed > capacity);
    text->size = needed;
    if (status == HYMBA_OK)
        return STATUS_OK;
    free(text->data);
    text->data = NULL;
    return fail_library(about, status, &error);
}

static int render_line(void *user, const struct json_line *line)
{
    const hymba_tokenizer *tokenizer = user;
    struct bytes text;
    if (!json_is_object(line->value))
        return fail("%s is not a JSON object", line->name);
    int status = render(tokenizer, line->text, line->length, line->name, &text);
    if (status != STATUS_OK)
        return status;
    status = print_json_line(json_text(text.data, text.size));
    free(text.data);
    return status;
}

static int render_input(const hymba_tokenizer *tokenizer)
{
    struct bytes json;
    struct bytes text;
    int status = read_bytes("-", &json);
    if (status != STATUS_OK)
        return status;
    status = render(tokenizer, json.data, json.size, "standard input", &text);
    free(json.data);
    if (status != STATUS_OK)
        return status;
    errno = 0;
    if (fwrite(text.data, 1, text.size, stdout) != text.size)
        status = fail_output();
    free(text.data);
    return status;
}

int verb_render(int argc, char **argv)
{
    struct render_options options = {0};
    struct option_set set;
    hymba_tokenizer *tokenizer = NULL;
    hymba_error error;
    int status;
    describe(&set, &options);
    if (!options_parse(&set, argc, argv, &status))
        return status;
    hymba_error_init(&error, sizeof error);
    hymba_status result = hymba_tokenizer_open(options.model, NULL, &tokenizer, &error);
    if (result != HYMBA_OK)
        return fail_library(NULL, result, &error);
    status = options.jsonl ? read_json_lines(render_line, tokenizer) : render_input(tokenizer);
    hymba_tokenizer_release(tokenizer);
    return status;
}
