#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ids.h"
#include "interrupt.h"
#include "library.h"
#include "output.h"
#include "sampling.h"
#include "verbs.h"

static const char demo_prompt[] = "Once upon a time";

struct generate_options {
    const char *model;
    const char *prompt;
    const char *file;
    uint64_t count;
    struct sampling_options sampling;
    struct option_texts stop;
    bool special, ignore_eos, no_echo, json;
    struct compute_options compute;
};

/* One run of the verb: what was made and what came out. */
struct run {
    const struct generate_options *options;
    struct bytes prompt;
    struct ids prompt_ids;
    hymba_model *model;
    hymba_tokenizer *tokenizer;
    hymba_context *context;
    hymba_session *session;
    hymba_sampler *sampler;
    hymba_generation *generation;
    struct ids ids;     /* generated */
    struct bytes text;  /* generated, for --json */
    size_t text_capacity;
    int32_t stop;
    double prefill_seconds, decode_seconds;
};

static void describe(struct option_set *set, struct generate_options *options)
{
    options_begin(set, "generate", "[-m DIR] [-p TEXT | -f FILE] [options]",
                  "Continues a text and prints the continuation as it comes, then one line of\n"
                  "figures on stderr. Without -m it uses the demo model inside this command.\n"
                  "The prompt begins with the BOS token if the model's tokenizer asks for it.\n"
                  "Ctrl-C ends the text in order, with exit status 130.");
    option_text(set, 'm', "model", "DIR", &options->model, "model directory (default: demo model)");
    option_text(set, 'p', "prompt", "TEXT", &options->prompt,
                "the text to continue; may be empty\n"
                "(default with the demo model: \"Once upon a time\")");
    option_text(set, 'f', "file", "FILE", &options->file,
                "read the prompt from a file, every byte of it; - is stdin");
    option_integer(set, 'n', "count", &options->count, 0, 1u << 30,
                   "most tokens to generate (default: 128)");
    add_sampling_options(set, &options->sampling);
    option_texts(set, 0, "stop", "TEXT", &options->stop,
                 "end before this text; may be given several times");
    option_flag(set, 0, "ignore-eos", &options->ignore_eos,
                "go on after the end-of-sequence token");
    option_flag(set, 0, "special", &options->special,
                "read the text of special tokens in the prompt as these tokens");
    option_flag(set, 0, "no-echo", &options->no_echo, "do not print the prompt first");
    option_flag(set, 0, "json", &options->json,
                "print one JSON object at the end instead of the text: text, ids,\n"
                "prompt_tokens, prefill_tok_per_s, decode_tok_per_s, stop, seed");
    add_compute_options(set, &options->compute);
    add_rank_options(set, &options->compute.ranks);
}

/* ------------------------------------------------------------- preparation */

static int check_options(const struct generate_options *options)
{
    if (options->prompt && options->file)
        return wrong_usage("generate", "-p and -f exclude each other");
    if (!options->prompt && !options->file && options->model)
        return wrong_usage("generate", "no prompt: give -p TEXT or -f FILE");
    for (size_t i = 0; i < options->stop.count; i++)
        if (options->stop.items[i][0] == '\0')
            return wrong_usage("generate", "--stop takes a text that is not empty");
    return STATUS_OK;
}

static int read_prompt(struct run *run)
{
    const struct generate_options *options = run->options;
    if (options->file)
        return read_bytes(options->file, &run->prompt);
    const char *prompt = options->prompt ? options->prompt : demo_prompt;
    run->prompt.size = strlen(prompt);
    run->prompt.data = take_memory(run->prompt.size + 1, 1);
    memcpy(run->prompt.data, prompt, run->prompt.size + 1);
    return STATUS_OK;
}

static int encode_prompt(struct run *run)
{
    uint32_t flags = run->options->special ? HYMBA_ENCODE_SPECIAL : 0;
    if (hymba_tokenizer_adds_bos(run->tokenizer))
        flags |= HYMBA_ENCODE_BOS;
    int status = ids_encode(run->tokenizer, run->prompt.data, run->prompt.size, flags, "prompt",
                            &run->prompt_ids);
    if (status == STATUS_OK && run->prompt_ids.count == 0)
        status = fail("the prompt is empty and this model's tokenizer puts no BOS token before "
                      "a text, so there is nothing to continue");
    return status;
}

/* Memory for the usual length at once; longer sessions grow on the way. */
static uint64_t tokens_to_reserve(const struct run *run)
{
    uint64_t most = 4096;
    uint64_t count = run->options->count < most ? run->options->count : most;
    return run->prompt_ids.count + count;
}

static int feed_prompt(struct run *run)
{
    hymba_error error;
    hymba_session_params params;
    hymba_error_init(&error, sizeof error);
    hymba_session_params_init(&params, sizeof params);
    params.reserve_tokens = tokens_to_reserve(run);
    interrupt_cancels_context(run->context);
    hymba_status status = hymba_session_create(run->context, &params, &run->session, &error);
    if (status == HYMBA_OK) {
        double begun = seconds_now();
        status = hymba_session_append(run->session, run->prompt_ids.items, run->prompt_ids.count,
                                      HYMBA_LOGITS_LAST, &error);
        run->prefill_seconds = seconds_now() - begun;
    }
    interrupt_cancels_context(NULL);
    progress_end();
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

static int create_primed_sampler(struct run *run)
{
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    int status = create_sampler(&run->options->sampling, run->tokenizer, &run->sampler);
    for (size_t i = 0; i < run->prompt_ids.count && status == STATUS_OK; i++) {
        hymba_status result =
            hymba_sampler_accept(run->sampler, run->prompt_ids.items[i], &error);
        if (result != HYMBA_OK)
            status = fail_library(NULL, result, &error);
    }
    return status;
}

static int create_generation(struct run *run)
{
    hymba_error error;
    hymba_generation_params params;
    hymba_error_init(&error, sizeof error);
    hymba_generation_params_init(&params, sizeof params);
    params.max_tokens = run->options->count;
    params.stop_strings = run->options->stop.count ? run->options->stop.items : NULL;
    params.n_stop_strings = run->options->stop.count;
    params.flags = run->options->ignore_eos ? HYMBA_GENERATION_IGNORE_EOS : 0;
    hymba_status status = hymba_generation_create(run->session, run->sampler, run->tokenizer,
                                                  &params, &run->generation, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

static int prepare(struct run *run)
{
    const struct generate_options *options = run->options;
    int status = read_prompt(run);
    if (status == STATUS_OK)
        status = open_model(options->model, 0, options->compute.quantize, &run->model);
    if (status == STATUS_OK)
        status = require_tokenizer(run->model, options->model, &run->tokenizer);
    if (status == STATUS_OK)
        status = encode_prompt(run);
    if (status == STATUS_OK)
        status = create_context(run->model, &options->compute, &run->context);
    if (status == STATUS_OK)
        status = feed_prompt(run);
    if (status == STATUS_OK)
        status = create_primed_sampler(run);
    if (status == STATUS_OK)
        status = create_generation(run);
    return status;
}

/* -------------------------------------------------------------- generation */

/* Prints text, or keeps it for the JSON object. */
static int put_text(struct run *run, const char *text, size_t length)
{
    if (!run->options->json) {
        errno = 0;
        print_text(text, length);
        return output_arrived() ? STATUS_OK : fail_output();
    }
    if (length > run->text_capacity - run->text.size) {
        run->text_capacity = 2 * (run->text.size + length);
        run->text.data = grow_memory(run->text.data, run->text_capacity, 1);
    }
    memcpy(run->text.data + run->text.size, text, length);
    run->text.size += length;
    return STATUS_OK;
}

static int take_events(struct run *run)
{
    hymba_error error;
    hymba_event event;
    int status = STATUS_OK;
    hymba_error_init(&error, sizeof error);
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    do {
        hymba_status result = hymba_generation_next(run->generation, &event, &error);
        if (result != HYMBA_OK)
            return fail_library(NULL, result, &error);
        if (event.kind == HYMBA_EVENT_TOKEN)
            ids_add(&run->ids, event.token);
        if (event.length)
            status = put_text(run, event.text, event.length);
        if (run->options->json)
            progress_step(run->ids.count, run->options->count);
    } while (status == STATUS_OK && event.kind != HYMBA_EVENT_END);
    run->stop = event.stop;
    return status;
}

static int generate(struct run *run)
{
    int status = STATUS_OK;
    if (!run->options->json && !run->options->no_echo)
        status = put_text(run, run->prompt.data, run->prompt.size);
    if (status != STATUS_OK)
        return status;
    if (run->options->json)
        progress_begin("generating", "tokens");
    interrupt_cancels_generation(run->generation);
    if (interrupted()) /* before there was a generation to cancel */
        hymba_generation_cancel(run->generation);
    double begun = seconds_now();
    if (run->options->count > 0) /* to the library 0 means no limit */
        status = take_events(run);
    else
        run->stop = HYMBA_STOP_LENGTH;
    run->decode_seconds = seconds_now() - begun;
    interrupt_cancels_generation(NULL);
    progress_end();
    return status;
}

/* ------------------------------------------------------------------ report */

static double rate(uint64_t tokens, double seconds)
{
    return seconds > 0 ? (double)tokens / seconds : 0;
}

static int report(const struct run *run)
{
    /* The first token comes from the prompt's pass, so passes are counted, not tokens. */
    uint64_t passes = hymba_session_length(run->session) - run->prompt_ids.count;
    double prefill_rate = rate(run->prompt_ids.count, run->prefill_seconds);
    double decode_rate = rate(passes, run->decode_seconds);
    if (run->options->json)
        return print_json_line(
            json_pack("{s:o, s:o, s:I, s:f, s:f, s:s, s:I}", "text",
                      json_text(run->text.data ? run->text.data : "", run->text.size), "ids",
                      ids_to_json(&run->ids), "prompt_tokens", (json_int_t)run->prompt_ids.count,
                      "prefill_tok_per_s", prefill_rate, "decode_tok_per_s", decode_rate, "stop",
                      hymba_stop_name(run->stop), "seed", (json_int_t)run->options->sampling.seed));
    errno = 0;
    putchar('\n');
    if (!output_arrived())
        return fail_output();
    if (output_is_silent())
        return STATUS_OK;
    fprintf(stderr,
            "prompt: %zu tokens, %.1f tokens/s; generated: %zu tokens, %.1f tokens/s; "
            "stop: %s; seed: %" PRIu64 "\n",
            run->prompt_ids.count, prefill_rate, run->ids.count, decode_rate,
            hymba_stop_name(run->stop), run->options->sampling.seed);
    return STATUS_OK;
}

static void release(struct run *run)
{
    hymba_generation_release(run->generation);
    hymba_sampler_release(run->sampler);
    hymba_session_release(run->session);
    hymba_context_release(run->context);
    hymba_model_release(run->model);
    ids_free(&run->prompt_ids);
    ids_free(&run->ids);
    free(run->prompt.data);
    free(run->text.data);
}

int verb_generate(int argc, char **argv)
{
    struct generate_options options = {.count = 128};
    struct run run = {.options = &options};
    struct option_set set;
    int status;
    sampling_defaults(&options.sampling);
    describe(&set, &options);
    if (!options_parse(&set, argc, argv, &status))
        return status;
    status = settle_ranks(&set, &options.compute.ranks);
    if (status != STATUS_OK)
        return status;
    status = check_options(&options);
    if (status == STATUS_OK)
        status = finish_sampling_options(&set, &options.sampling);
    if (status != STATUS_OK)
        return status;
    status = prepare(&run);
    if (status == STATUS_OK)
        status = generate(&run);
    if (status == STATUS_OK)
        status = report(&run);
    if (status == STATUS_OK && run.stop == HYMBA_STOP_CANCELLED)
        status = STATUS_INTERRUPTED;
    release(&run);
    return status;
}
