#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ids.h"
#include "input.h"
#include "interrupt.h"
#include "library.h"
#include "output.h"
#include "sampling.h"
#include "verbs.h"

struct batch_options {
    const char *model;
    const char *file;
    uint64_t count, parallel, token_budget;
    struct sampling_options sampling;
    struct option_texts stop;
    bool special, ignore_eos, json, unordered;
    struct compute_options compute;
};

struct prompt {
    struct ids ids;
    bool begun;     /* has a place, or is finished */
    size_t n_known; /* tokens it had when memory was short: it begins again with room for them */
};

/* Why a request was cancelled though the user has not interrupted. */
enum drop { DROP_NOT, DROP_BEGIN_AGAIN, DROP_FAIL };

/* A prompt that is generated for; what comes of it. */
struct place {
    size_t index;
    uint64_t request;
    enum drop drop;
    hymba_session *session; /* NULL: the place is free */
    hymba_sampler *sampler;
    struct ids ids;
    struct bytes text;
    size_t text_capacity;
};

struct run {
    const struct batch_options *options;
    struct bytes input;
    struct prompt *prompts;
    json_t **results;    /* of finished prompts until they are printed */
    size_t n_prompts, n_begun, n_printed, n_failed;
    size_t first_waiting; /* all prompts before this one have begun */
    size_t limit;         /* most texts at once: --parallel, or what steps had memory for */
    bool full;            /* no memory for a further session until a text ends */
    bool told;            /* that memory is short */
    size_t n_running;     /* in the last step */
    hymba_error no_memory; /* of the last step that had none for all */
    hymba_model *model;
    hymba_tokenizer *tokenizer;
    hymba_context *context;
    hymba_scheduler *scheduler;
    struct place *places;        /* [parallel] */
    hymba_request_event *events; /* [parallel] */
    uint64_t n_prompt_tokens, n_generated;
    bool stopping;               /* the user has interrupted */
};

static void describe(struct option_set *set, struct batch_options *options)
{
    options_begin(set, "batch", "[-m DIR] [-f FILE] [options]",
                  "Continues many texts at once: each line of FILE is a prompt. Steps of the\n"
                  "model are shared by all that are under way; a line gives what it gives\n"
                  "alone with its seed, the first line's plus its index. Prints one JSON object\n"
                  "a line for each, in the order of the prompts: index (from 0), text, ids,\n"
                  "prompt_tokens, stop, seed; or index and error. Then one line of figures on\n"
                  "stderr.\n"
                  "Where memory is short fewer texts are under way at once, as one line on stderr\n"
                  "tells; only a text that does not fit alone fails for it.\n"
                  "Ctrl-C ends all texts in order, with exit status 130.");
    option_text(set, 'm', "model", "DIR", &options->model, "model directory (default: demo model)");
    option_text(set, 'f', "file", "FILE", &options->file,
                "the prompts, one a line; - is stdin (default)");
    option_flag(set, 0, "json-prompts", &options->json,
                "each line is a JSON string, or an object with the member prompt");
    option_integer(set, 'n', "count", &options->count, 0, 1u << 30,
                   "most tokens to generate for each (default: 128)");
    option_integer(set, 0, "parallel", &options->parallel, 1, 65536,
                   "texts under way at once, each with memory of its own\n(default: 16)");
    option_integer(set, 0, "token-budget", &options->token_budget, 1, UINT32_MAX,
                   "most tokens in one step (default: as many as a step takes)");
    option_flag(set, 0, "unordered", &options->unordered, "print each text when it is finished");
    add_sampling_options(set, &options->sampling);
    option_texts(set, 0, "stop", "TEXT", &options->stop,
                 "end before this text; may be given several times");
    option_flag(set, 0, "ignore-eos", &options->ignore_eos,
                "go on after the end-of-sequence token");
    option_flag(set, 0, "special", &options->special,
                "read the text of special tokens in prompts as these tokens");
    add_compute_options(set, &options->compute);
    add_rank_options(set, &options->compute.ranks);
}

/* ------------------------------------------------------------------ prompts */

static int encode_prompt(struct run *run, const char *text, size_t length, size_t number)
{
    char name[64];
    uint32_t flags = run->options->special ? HYMBA_ENCODE_SPECIAL : 0;
    struct ids *ids = &run->prompts[run->n_prompts].ids;
    if (hymba_tokenizer_adds_bos(run->tokenizer))
        flags |= HYMBA_ENCODE_BOS;
    snprintf(name, sizeof name, "line %zu", number);
    int status = ids_encode(run->tokenizer, text, length, flags, name, ids);
    run->n_prompts++; /* its ids are freed in any case */
    if (status == STATUS_OK && ids->count == 0)
        status = fail("%s is empty and this model's tokenizer puts no BOS token before a text, so "
                      "there is nothing to continue",
                      name);
    run->n_prompt_tokens += ids->count;
    return status;
}

static int read_json_prompt(struct run *run, const char *line, size_t length, size_t number)
{
    json_error_t error;
    json_t *value = json_loadb(line, length, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!value)
        return fail("line %zu is not JSON: %s (column %d)", number, error.text, error.column);
    const json_t *text = json_is_object(value) ? json_object_get(value, "prompt") : value;
    int status =
        json_is_string(text)
            ? encode_prompt(run, json_string_value(text), json_string_length(text), number)
            : fail("line %zu: expected a string, or an object with the string prompt", number);
    json_decref(value);
    return status;
}

static size_t count_lines(const struct bytes *input)
{
    size_t n = input->size > 0 && input->data[input->size - 1] != '\n';
    for (size_t i = 0; i < input->size; i++)
        n += input->data[i] == '\n';
    return n;
}

static int read_prompts(struct run *run)
{
    const char *file = run->options->file ? run->options->file : "-";
    int status = read_bytes(file, &run->input);
    if (status != STATUS_OK)
        return status;
    size_t n = count_lines(&run->input);
    const char *line = run->input.data, *end = line + run->input.size;
    run->prompts = take_memory(n + 1, sizeof *run->prompts);
    run->results = take_memory(n + 1, sizeof *run->results);
    memset(run->prompts, 0, (n + 1) * sizeof *run->prompts);
    memset(run->results, 0, (n + 1) * sizeof *run->results);
    for (size_t i = 0; i < n && status == STATUS_OK; i++) {
        const char *line_end = memchr(line, '\n', (size_t)(end - line));
        size_t length = (size_t)((line_end ? line_end : end) - line);
        status = run->options->json ? read_json_prompt(run, line, length, i + 1)
                                    : encode_prompt(run, line, length, i + 1);
        line += length + 1;
    }
    return status;
}

/* ------------------------------------------------------------------ results */

/* Prints a result at once: whoever reads them need not wait for the next. */
static int print_result(json_t **result)
{
    int status = print_json_line(*result);
    *result = NULL;
    errno = 0;
    return status == STATUS_OK && !output_arrived() ? fail_output() : status;
}

/* What is next in order, and then perhaps more that was waiting for it. */
static int print_results(struct run *run, size_t index)
{
    int status = STATUS_OK;
    if (run->options->unordered)
        return print_result(&run->results[index]);
    while (status == STATUS_OK && run->results[run->n_printed])
        status = print_result(&run->results[run->n_printed++]);
    return status;
}

static uint64_t seed_of(const struct run *run, size_t index)
{
    return run->options->sampling.seed + index;
}

static json_t *describe_text(const struct run *run, const struct place *place, int32_t stop)
{
    return json_pack("{s:I, s:o, s:o, s:I, s:s, s:I}", "index", (json_int_t)place->index, "text",
                     json_text(place->text.data ? place->text.data : "", place->text.size), "ids",
                     ids_to_json(&place->ids), "prompt_tokens",
                     (json_int_t)run->prompts[place->index].ids.count, "stop",
                     hymba_stop_name(stop), "seed", (json_int_t)seed_of(run, place->index));
}

static void clear_place(struct place *place)
{
    hymba_session_release(place->session);
    hymba_sampler_release(place->sampler);
    ids_free(&place->ids);
    free(place->text.data);
    memset(place, 0, sizeof *place);
}

static void add_text(struct place *place, const char *text, size_t length)
{
    if (length > place->text_capacity - place->text.size) {
        place->text_capacity = 2 * (place->text.size + length);
        place->text.data = grow_memory(place->text.data, place->text_capacity, 1);
    }
    if (length > 0)
        memcpy(place->text.data + place->text.size, text, length);
    place->text.size += length;
}

/* The prompt's result is why it failed; the others go on. */
static int end_failed(struct run *run, struct place *place, const char *message)
{
    size_t index = place->index;
    run->n_failed++;
    run->results[index] =
        need_json(json_pack("{s:I, s:s}", "index", (json_int_t)index, "error", message));
    clear_place(place);
    return print_results(run, index);
}

/* Tells the user, the first time. */
static void tell_memory_is_short(struct run *run, size_t n_running)
{
    if (!run->told && !output_is_silent()) {
        progress_end();
        fprintf(stderr, "memory is short for --parallel %zu: %zu run at once, the others wait\n",
                (size_t)run->options->parallel, n_running);
        progress_begin("generating", "texts");
    }
    run->told = true;
}

/* The place's prompt is as if it had not begun. */
static void give_back(struct run *run, struct place *place)
{
    struct prompt *prompt = &run->prompts[place->index];
    prompt->begun = false;
    if (place->ids.count > prompt->n_known)
        prompt->n_known = place->ids.count;
    if (place->index < run->first_waiting)
        run->first_waiting = place->index;
    run->n_begun--;
    run->n_generated -= place->ids.count;
    clear_place(place);
}

/* A step had no memory for the text beside others. From then on one fewer may run than did: so this
 * has an end. */
static void begin_again_later(struct run *run, struct place *place)
{
    run->limit = run->n_running - 1;
    tell_memory_is_short(run, run->limit);
    give_back(run, place);
}

static bool is_to_begin_again(const struct run *run, const struct place *place,
                              const hymba_request_event *event)
{
    bool lacks_memory =
        event->kind == HYMBA_EVENT_FAILED && event->status == HYMBA_ERROR_MEMORY;
    return !run->stopping && (place->drop == DROP_BEGIN_AGAIN ||
                              (lacks_memory && run->n_running > 1));
}

static int take_event(struct run *run, const hymba_request_event *event)
{
    struct place *place = event->user;
    size_t index = place->index;
    if (event->kind == HYMBA_EVENT_TOKEN) {
        ids_add(&place->ids, event->token);
        run->n_generated++;
    }
    add_text(place, event->text, event->length);
    if (event->kind == HYMBA_EVENT_TOKEN)
        return STATUS_OK;
    run->full = false;
    if (is_to_begin_again(run, place, event)) {
        begin_again_later(run, place);
        return STATUS_OK;
    }
    if (place->drop == DROP_FAIL)
        return end_failed(run, place, run->no_memory.message);
    if (event->kind == HYMBA_EVENT_FAILED)
        return end_failed(run, place, event->message);
    run->results[index] = need_json(describe_text(run, place, event->stop));
    clear_place(place);
    return print_results(run, index);
}

/* ------------------------------------------------------------------ running */

static int create_primed_sampler(struct run *run, struct place *place)
{
    hymba_error error;
    struct sampling_options sampling = run->options->sampling;
    const struct ids *prompt = &run->prompts[place->index].ids;
    hymba_error_init(&error, sizeof error);
    sampling.seed = seed_of(run, place->index);
    int status = create_sampler(&sampling, run->tokenizer, &place->sampler);
    for (size_t i = 0; i < prompt->count && status == STATUS_OK; i++) {
        hymba_status result = hymba_sampler_accept(place->sampler, prompt->items[i], &error);
        if (result != HYMBA_OK)
            status = fail_library(NULL, result, &error);
    }
    return status;
}

/* Room for the whole prompt is made at once: better no session than one that lacks it later. */
static hymba_status create_session(struct run *run, struct place *place, hymba_error *error)
{
    const struct prompt *prompt = &run->prompts[place->index];
    hymba_session_params params;
    hymba_session_params_init(&params, sizeof params);
    params.reserve_tokens = prompt->ids.count + prompt->n_known;
    return hymba_session_create(run->context, &params, &place->session, error);
}

static hymba_status add_request(struct run *run, struct place *place, hymba_error *error)
{
    const struct batch_options *options = run->options;
    const struct ids *prompt = &run->prompts[place->index].ids;
    hymba_generation_params limits;
    hymba_request_params params;
    hymba_generation_params_init(&limits, sizeof limits);
    hymba_request_params_init(&params, sizeof params);
    limits.max_tokens = options->count;
    limits.stop_strings = options->stop.count ? options->stop.items : NULL;
    limits.n_stop_strings = options->stop.count;
    limits.flags = options->ignore_eos ? HYMBA_GENERATION_IGNORE_EOS : 0;
    params.tokenizer = run->tokenizer;
    params.generation = &limits;
    params.user = place;
    return hymba_scheduler_add(run->scheduler, place->session, place->sampler, prompt->items,
                               prompt->count, &params, &place->request, error);
}

/* The place is the first waiting prompt's. */
static void take_prompt(struct run *run, struct place *place)
{
    while (run->prompts[run->first_waiting].begun)
        run->first_waiting++;
    place->index = run->first_waiting;
    run->prompts[place->index].begun = true;
    run->n_begun++;
}

/* Begins a prompt. If memory is short beside others it waits on, for a text to end. */
static int start_prompt(struct run *run, struct place *place)
{
    hymba_error error;
    int status = STATUS_OK;
    size_t n_running = hymba_scheduler_count(run->scheduler);
    bool generates = run->options->count > 0; /* to the library 0 means no limit */
    hymba_error_init(&error, sizeof error);
    take_prompt(run, place);
    hymba_status result = create_session(run, place, &error);
    if (result == HYMBA_OK && generates)
        status = create_primed_sampler(run, place);
    if (status != STATUS_OK)
        return status;
    if (result == HYMBA_OK)
        result = add_request(run, place, &error);
    if (result == HYMBA_ERROR_MEMORY && n_running > 0) {
        run->full = true;
        tell_memory_is_short(run, n_running);
        give_back(run, place);
        return STATUS_OK;
    }
    return result == HYMBA_OK ? STATUS_OK : end_failed(run, place, error.message);
}

static int fill_places(struct run *run)
{
    int status = STATUS_OK;
    for (size_t i = 0; i < run->options->parallel; i++)
        while (status == STATUS_OK && !run->full && !run->places[i].session &&
               run->n_begun < run->n_prompts &&
               hymba_scheduler_count(run->scheduler) < run->limit)
            status = start_prompt(run, &run->places[i]);
    return status;
}

/* The step had no memory for all. The youngest text is cancelled, which the next step does whether
 * it has memory or not; the older ones have got further. */
static int drop_youngest(struct run *run, const hymba_error *error)
{
    struct place *youngest = NULL;
    for (size_t i = 0; i < run->options->parallel; i++) {
        struct place *place = &run->places[i];
        if (place->session && !place->drop && (!youngest || place->request > youngest->request))
            youngest = place;
    }
    if (!youngest)
        return fail_library(NULL, error->status, error);
    youngest->drop = run->n_running > 1 ? DROP_BEGIN_AGAIN : DROP_FAIL;
    run->no_memory = *error;
    hymba_scheduler_cancel(run->scheduler, youngest->request);
    return STATUS_OK;
}

static int step(struct run *run)
{
    hymba_error error;
    size_t n_events;
    int status = STATUS_OK;
    hymba_error_init(&error, sizeof error);
    run->n_running = hymba_scheduler_count(run->scheduler);
    hymba_status result =
        hymba_scheduler_step(run->scheduler, run->events, sizeof *run->events,
                             run->options->parallel, &n_events, &error);
    if (result == HYMBA_ERROR_CANCELLED && interrupted())
        return STATUS_OK; /* the step is given up, the texts end with the next one */
    if (result == HYMBA_ERROR_MEMORY)
        return drop_youngest(run, &error);
    if (result != HYMBA_OK)
        return fail_library(NULL, result, &error);
    for (size_t i = 0; i < n_events && status == STATUS_OK; i++)
        status = take_event(run, &run->events[i]);
    return status;
}

/* An interrupt gives up the step under way, and lets no further prompt begin. */
static void stop_all(struct run *run)
{
    run->stopping = true;
    interrupt_cancels_context(NULL);
    for (size_t i = 0; i < run->options->parallel; i++)
        hymba_scheduler_cancel(run->scheduler, run->places[i].request);
}

static int run_all(struct run *run)
{
    int status = STATUS_OK;
    size_t n_done = 0;
    progress_begin("generating", "texts");
    interrupt_cancels_context(run->context);
    while (status == STATUS_OK) {
        if (interrupted() && !run->stopping)
            stop_all(run);
        if (!run->stopping)
            status = fill_places(run);
        n_done = run->n_begun - hymba_scheduler_count(run->scheduler);
        progress_step(n_done, run->n_prompts);
        if (hymba_scheduler_count(run->scheduler) == 0 || status != STATUS_OK)
            break;
        status = step(run);
    }
    interrupt_cancels_context(NULL);
    progress_end();
    return status;
}

/* ---------------------------------------------------------------- the verb */

static int create_scheduler(struct run *run)
{
    const struct batch_options *options = run->options;
    hymba_error error;
    hymba_scheduler_params params;
    hymba_error_init(&error, sizeof error);
    hymba_scheduler_params_init(&params, sizeof params);
    params.max_requests = (uint32_t)options->parallel;
    run->limit = options->parallel;
    run->places = take_memory(options->parallel, sizeof *run->places);
    run->events = take_memory(options->parallel, sizeof *run->events);
    memset(run->places, 0, options->parallel * sizeof *run->places);
    hymba_status status = hymba_scheduler_create(run->context, (uint32_t)options->token_budget,
                                                 &params, &run->scheduler, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

static int prepare(struct run *run)
{
    const struct batch_options *options = run->options;
    int status = open_model(options->model, 0, options->compute.quantize, &run->model);
    if (status == STATUS_OK)
        status = require_tokenizer(run->model, options->model, &run->tokenizer);
    if (status == STATUS_OK)
        status = read_prompts(run);
    if (status == STATUS_OK)
        status = create_context(run->model, &options->compute, &run->context);
    if (status == STATUS_OK)
        status = create_scheduler(run);
    return status;
}

static void print_figures(const struct run *run, double seconds)
{
    fprintf(stderr,
            "%zu texts, %" PRIu64 " prompt tokens, %" PRIu64 " generated tokens: %.1f tokens/s; "
            "seed: %" PRIu64 "\n",
            run->n_prompts, run->n_prompt_tokens, run->n_generated,
            seconds > 0 ? (double)(run->n_prompt_tokens + run->n_generated) / seconds : 0,
            run->options->sampling.seed);
}

static int report(const struct run *run, double seconds)
{
    if (!output_is_silent())
        print_figures(run, seconds);
    if (run->n_failed > 0)
        return fail("%zu of %zu prompts failed", run->n_failed, run->n_prompts);
    return STATUS_OK;
}

static void release(struct run *run)
{
    hymba_scheduler_release(run->scheduler);
    for (size_t i = 0; run->places && i < run->options->parallel; i++)
        clear_place(&run->places[i]);
    for (size_t i = 0; i < run->n_prompts; i++) {
        ids_free(&run->prompts[i].ids);
        json_decref(run->results[i]);
    }
    hymba_context_release(run->context);
    hymba_model_release(run->model);
    free(run->places);
    free(run->events);
    free(run->prompts);
    free(run->results);
    free(run->input.data);
}

int verb_batch(int argc, char **argv)
{
    struct batch_options options = {.count = 128, .parallel = 16, .token_budget = UINT32_MAX};
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
    for (size_t i = 0; i < options.stop.count; i++)
        if (options.stop.items[i][0] == '\0')
            return wrong_usage("batch", "--stop takes a text that is not empty");
    status = finish_sampling_options(&set, &options.sampling);
    if (status != STATUS_OK)
        return status;
    status = prepare(&run);
    double begun = seconds_now();
    if (status == STATUS_OK)
        status = run_all(&run);
    if (status == STATUS_OK && !run.stopping)
        status = report(&run, seconds_now() - begun);
    if (status == STATUS_OK && run.stopping)
        status = STATUS_INTERRUPTED;
    release(&run);
    return status;
}
