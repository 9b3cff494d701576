#include <string.h>

#include "ids.h"
#include "interrupt.h"
#include "library.h"
#include "output.h"
#include "tensor_writer.h"
#include "verbs.h"

struct logits_options {
    const char *model;
    const char *tokens;
    const char *out;
    uint64_t chunk;
    struct compute_options compute;
};

static void describe(struct option_set *set, struct logits_options *options)
{
    options_begin(set, "logits", "-m DIR --tokens FILE --out OUT.safetensors [options]",
                  "Computes the logits after each of the given tokens and writes them as the F32\n"
                  "tensor 'logits', [tokens, vocabulary]. The ids are used exactly as given: no\n"
                  "BOS token is added (meta tokens, if the model has any, are before them as\n"
                  "always). Output that comes out in chunks needs memory for one chunk only.");
    option_text(set, 'm', "model", "DIR", &options->model, "model directory");
    option_is_required(set);
    option_text(set, 0, "tokens", "FILE", &options->tokens,
                "token ids with whitespace between; - is standard input");
    option_is_required(set);
    option_text(set, 'o', "out", "FILE", &options->out, "the safetensors file to write");
    option_is_required(set);
    option_integer(set, 0, "chunk", &options->chunk, 1, 1u << 30,
                   "tokens fed in one call (default: all)");
    add_compute_options(set, &options->compute);
    add_rank_options(set, &options->compute.ranks);
}

static int write_chunks(hymba_session *session, const struct ids *ids, uint64_t chunk,
                        struct tensor_writer *writer)
{
    hymba_error error;
    int status = STATUS_OK;
    hymba_error_init(&error, sizeof error);
    for (size_t done = 0; done < ids->count && status == STATUS_OK;) {
        size_t left = ids->count - done;
        size_t count = chunk && chunk < left ? (size_t)chunk : left;
        const float *logits = NULL;
        size_t rows = 0;
        hymba_status result = interrupted() ? HYMBA_ERROR_CANCELLED
                                            : hymba_session_append(session, ids->items + done,
                                                                   count, HYMBA_LOGITS_ALL,
                                                                   &error);
        if (result == HYMBA_OK)
            result = hymba_session_logits(session, &logits, &rows, &error);
        if (result != HYMBA_OK)
            return fail_library(NULL, result, &error);
        status = tensor_writer_add(writer, logits, rows);
        done += count;
        if (count < ids->count) /* one call shows its own progress */
            progress_step(done, ids->count);
    }
    return status;
}

static int compute(hymba_context *context, const struct ids *ids, uint32_t vocabulary,
                   const struct logits_options *options)
{
    hymba_error error;
    hymba_session *session = NULL;
    hymba_session_params params;
    struct tensor_writer writer;
    hymba_error_init(&error, sizeof error);
    hymba_session_params_init(&params, sizeof params);
    params.reserve_tokens = ids->count;
    hymba_status result = hymba_session_create(context, &params, &session, &error);
    progress_end();
    if (result != HYMBA_OK)
        return fail_library(NULL, result, &error);
    int status = tensor_writer_open(&writer, options->out, "logits", ids->count, vocabulary);
    if (options->chunk && options->chunk < ids->count)
        progress_begin("logits", "tokens");
    if (status == STATUS_OK)
        status = write_chunks(session, ids, options->chunk, &writer);
    progress_end();
    status = tensor_writer_close(&writer, status);
    hymba_session_release(session);
    return status;
}

int verb_logits(int argc, char **argv)
{
    struct logits_options options = {0};
    struct option_set set;
    struct ids ids = {0};
    hymba_model *model = NULL;
    hymba_context *context = NULL;
    hymba_model_info info = {0};
    int status;
    describe(&set, &options);
    if (!options_parse(&set, argc, argv, &status))
        return status;
    status = settle_ranks(&set, &options.compute.ranks);
    if (status != STATUS_OK)
        return status;
    if (output_is_silent())
        options.out = "/dev/null"; /* rank 0 writes the file */
    status = ids_read(options.tokens, &ids);
    if (status == STATUS_OK)
        status = open_model(options.model, HYMBA_MODEL_NO_TOKENIZER, options.compute.quantize,
                            &model);
    if (status == STATUS_OK)
        status = get_model_info(model, &info);
    if (status == STATUS_OK)
        status = ids_check(&ids, info.vocabulary_size, options.tokens);
    if (status == STATUS_OK)
        status = create_context(model, &options.compute, &context);
    interrupt_cancels_context(context);
    if (status == STATUS_OK)
        status = compute(context, &ids, info.vocabulary_size, &options);
    interrupt_cancels_context(NULL);
    hymba_context_release(context);
    hymba_model_release(model);
    ids_free(&ids);
    return status;
}
