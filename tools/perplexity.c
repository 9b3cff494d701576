#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ids.h"
#include "interrupt.h"
#include "library.h"
#include "output.h"
#include "verbs.h"

enum {
    SESSIONS_MOST = 64,
    PIECE_TOKENS = 512 /* tokens of one session in a call: bounds the memory of their logits */
};

struct perplexity_options {
    const char *model;
    const char *file;
    const char *tokens;
    uint64_t chunk;
    bool json;
    struct compute_options compute;
};

/* A measurement under way. */
struct measurement {
    hymba_context *context;
    hymba_session *sessions[SESSIONS_MOST];
    size_t n_sessions;
    size_t chunk;
    size_t vocabulary;
    const int32_t *targets; /* all the ids */
    const int32_t *inputs;  /* BOS at each chunk's beginning, then its ids without the last */
    size_t count;
    double nll; /* sum over the tokens so far */
};

static void describe(struct option_set *set, struct perplexity_options *options)
{
    options_begin(set, "perplexity", "-m DIR (-f TEXT | --tokens FILE) [options]",
                  "Measures how well the model predicts a text. The ids are cut into consecutive\n"
                  "chunks (the last may be shorter); each is scored, every token of it, in a\n"
                  "fresh session that begins with the BOS token.");
    option_text(set, 'm', "model", "DIR", &options->model, "model directory");
    option_is_required(set);
    option_text(set, 'f', "file", "TEXT", &options->file,
                "a text file; it gets no BOS token, special tokens in it are\n"
                "plain text");
    option_text(set, 0, "tokens", "FILE", &options->tokens,
                "token ids with whitespace between; - is standard input (also\n"
                "for -f)");
    option_integer(set, 0, "chunk", &options->chunk, 1, 1u << 30,
                   "tokens per chunk (default: 512)");
    option_flag(set, 0, "json", &options->json,
                "print a JSON object: nll (mean per token, natural logarithm),\n"
                "ppl, tokens, tok_per_s");
    add_compute_options(set, &options->compute);
    add_rank_options(set, &options->compute.ranks);
}

/* ------------------------------------------------------------- preparation */

static int read_ids(const struct perplexity_options *options, hymba_model *model,
                    struct ids *ids)
{
    hymba_tokenizer *tokenizer = NULL;
    struct bytes text;
    if (options->tokens)
        return ids_read(options->tokens, ids);
    int status = require_tokenizer(model, options->model, &tokenizer);
    if (status == STATUS_OK)
        status = read_bytes(options->file, &text);
    if (status != STATUS_OK)
        return status;
    status = ids_encode(tokenizer, text.data, text.size, 0, options->file, ids);
    free(text.data);
    return status;
}

static int find_bos(const hymba_model *model, const hymba_model_info *info, int32_t *bos)
{
    *bos = hymba_tokenizer_bos(hymba_model_tokenizer(model));
    if (*bos < 0)
        *bos = info->bos_token;
    if (*bos < 0 || (uint32_t)*bos >= info->vocabulary_size)
        return fail("the model has no BOS token, with which each chunk begins");
    return STATUS_OK;
}

static int32_t *make_inputs(const struct ids *ids, size_t chunk, int32_t bos)
{
    int32_t *inputs = take_memory(ids->count, sizeof *inputs);
    for (size_t i = 0; i < ids->count; i++)
        inputs[i] = i % chunk == 0 ? bos : ids->items[i - 1];
    return inputs;
}

/* Short chunks go through the model together, so that a call has about one pass's tokens. */
static size_t sessions_for(size_t count, size_t chunk, uint32_t step_tokens)
{
    size_t chunks = (count - 1) / chunk + 1;
    size_t together = chunk < step_tokens ? step_tokens / chunk : 1;
    if (together > SESSIONS_MOST)
        together = SESSIONS_MOST;
    return together < chunks ? together : chunks;
}

static int create_sessions(struct measurement *measurement)
{
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    for (size_t i = 0; i < measurement->n_sessions; i++) {
        hymba_status status = hymba_session_create(measurement->context, NULL,
                                                   &measurement->sessions[i], &error);
        if (status != HYMBA_OK)
            return fail_library(NULL, status, &error);
    }
    return STATUS_OK;
}

/* ----------------------------------------------------------------- scoring */

/* -log softmax(logits)[target] in double. */
static double negative_log_probability(const float *logits, size_t count, int32_t target)
{
    double largest = logits[0];
    double sum = 0;
    for (size_t i = 1; i < count; i++)
        if (logits[i] > largest)
            largest = logits[i];
    for (size_t i = 0; i < count; i++)
        sum += exp((double)logits[i] - largest);
    return largest + log(sum) - (double)logits[target];
}

static hymba_status add_scores(struct measurement *measurement, const hymba_session *session,
                               size_t first, hymba_error *error)
{
    const float *logits = NULL;
    size_t rows = 0;
    hymba_status status = hymba_session_logits(session, &logits, &rows, error);
    for (size_t row = 0; row < rows && status == HYMBA_OK; row++)
        measurement->nll += negative_log_probability(logits + row * measurement->vocabulary,
                                                     measurement->vocabulary,
                                                     measurement->targets[first + row]);
    return status;
}

/* Feeds the next piece of each chunk of the group that has one, offset tokens into the chunks.
 * *fed is the number of tokens. */
static hymba_status score_piece(struct measurement *measurement, size_t begin, size_t offset,
                                size_t *fed, hymba_error *error)
{
    hymba_batch_item items[SESSIONS_MOST];
    size_t firsts[SESSIONS_MOST];
    size_t n_items = 0;
    *fed = 0;
    memset(items, 0, sizeof items);
    for (size_t i = 0; i < measurement->n_sessions; i++) {
        size_t first = begin + i * measurement->chunk + offset;
        size_t left = first < measurement->count ? measurement->count - first : 0;
        if (left > measurement->chunk - offset)
            left = measurement->chunk - offset;
        if (left == 0)
            break;
        items[n_items].session = measurement->sessions[i];
        items[n_items].tokens = measurement->inputs + first;
        items[n_items].n_tokens = left < PIECE_TOKENS ? left : PIECE_TOKENS;
        items[n_items].logits = HYMBA_LOGITS_ALL;
        *fed += items[n_items].n_tokens;
        firsts[n_items++] = first;
    }
    if (n_items == 0)
        return HYMBA_OK;
    hymba_status status = hymba_context_decode(measurement->context, items, sizeof items[0],
                                               n_items, error);
    for (size_t i = 0; i < n_items && status == HYMBA_OK; i++)
        status = add_scores(measurement, items[i].session, firsts[i], error);
    return status;
}

/* Scores the chunks from token begin on, one per session. */
static hymba_status score_group(struct measurement *measurement, size_t begin,
                                hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (size_t i = 0; i < measurement->n_sessions && status == HYMBA_OK; i++)
        status = hymba_session_reset(measurement->sessions[i], error);
    for (size_t offset = 0; offset < measurement->chunk && status == HYMBA_OK;
         offset += PIECE_TOKENS) {
        size_t fed = 0;
        status = interrupted() ? HYMBA_ERROR_CANCELLED
                               : score_piece(measurement, begin, offset, &fed, error);
        if (fed == 0)
            break;
        progress_step(begin + fed, measurement->count);
    }
    return status;
}

static int measure(struct measurement *measurement)
{
    hymba_error error;
    hymba_status result = HYMBA_OK;
    size_t group = measurement->n_sessions * measurement->chunk;
    hymba_error_init(&error, sizeof error);
    progress_begin("perplexity", "tokens");
    for (size_t begin = 0; begin < measurement->count && result == HYMBA_OK; begin += group)
        result = score_group(measurement, begin, &error);
    progress_end();
    if (result != HYMBA_OK)
        return fail_library(NULL, result, &error);
    return isfinite(measurement->nll) ? STATUS_OK
                                      : fail("the model's logits are not all finite numbers");
}

static int report(const struct measurement *measurement, double seconds, bool json)
{
    double nll = measurement->nll / (double)measurement->count;
    double speed = seconds > 0 ? (double)measurement->count / seconds : 0;
    if (json)
        return print_json_line(json_pack("{s:f, s:f, s:I, s:f}", "nll", nll, "ppl", exp(nll),
                                         "tokens", (json_int_t)measurement->count, "tok_per_s",
                                         speed));
    printf("perplexity %.6f, mean negative log-likelihood %.6f, %zu tokens, %.1f tokens/s\n",
           exp(nll), nll, measurement->count, speed);
    return STATUS_OK;
}

static int run(hymba_model *model, const struct ids *ids, int32_t bos,
               const hymba_model_info *info, const struct perplexity_options *options)
{
    struct measurement measurement = {.targets = ids->items, .count = ids->count,
                                      .vocabulary = info->vocabulary_size};
    hymba_context_info context_info = {0};
    double begun = 0;
    int32_t *inputs = NULL;
    int status = create_context(model, &options->compute, &measurement.context);
    interrupt_cancels_context(measurement.context);
    if (status == STATUS_OK)
        status = get_context_info(measurement.context, &context_info);
    if (status == STATUS_OK) {
        measurement.chunk = options->chunk < ids->count ? (size_t)options->chunk : ids->count;
        measurement.n_sessions = sessions_for(ids->count, measurement.chunk,
                                              context_info.max_step_tokens);
        inputs = make_inputs(ids, measurement.chunk, bos);
        measurement.inputs = inputs;
        status = create_sessions(&measurement);
        progress_end();
    }
    begun = seconds_now();
    if (status == STATUS_OK)
        status = measure(&measurement);
    if (status == STATUS_OK)
        status = report(&measurement, seconds_now() - begun, options->json);
    interrupt_cancels_context(NULL);
    for (size_t i = 0; i < measurement.n_sessions; i++)
        hymba_session_release(measurement.sessions[i]);
    hymba_context_release(measurement.context);
    free(inputs);
    return status;
}

int verb_perplexity(int argc, char **argv)
{
    struct perplexity_options options = {.chunk = 512};
    struct option_set set;
    struct ids ids = {0};
    hymba_model *model = NULL;
    hymba_model_info info = {0};
    int32_t bos = -1;
    int status;
    describe(&set, &options);
    if (!options_parse(&set, argc, argv, &status))
        return status;
    status = settle_ranks(&set, &options.compute.ranks);
    if (status != STATUS_OK)
        return status;
    if (!options.file == !options.tokens)
        return wrong_usage("perplexity", "give one of -f TEXT and --tokens FILE");
    status = open_model(options.model, options.tokens ? HYMBA_MODEL_NO_TOKENIZER : 0,
                        options.compute.quantize, &model);
    if (status == STATUS_OK)
        status = read_ids(&options, model, &ids);
    if (status == STATUS_OK)
        status = get_model_info(model, &info);
    if (status == STATUS_OK)
        status = ids_check(&ids, info.vocabulary_size,
                           options.tokens ? options.tokens : options.file);
    if (status == STATUS_OK)
        status = find_bos(model, &info, &bos);
    if (status == STATUS_OK)
        status = run(model, &ids, bos, &info, &options);
    hymba_model_release(model);
    ids_free(&ids);
    return status;
}
