#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench.h"
#include "interrupt.h"
#include "verbs.h"

enum { ROWS_MOST = OPTION_ITEMS_MOST + OPTION_ITEMS_MOST * OPTION_ITEMS_MOST, PIECE_TOKENS = 512 };

/* Of a device's memory; with less, copies would say nothing. */
enum { LEAST_COPIED = 2 << 20 };

static void describe(struct option_set *set, struct bench_options *options)
{
    options_begin(set, "bench", "[-m DIR] [-p N,...] [-n N] [-d N,...] [-b N,...] [options]",
                  "Measures tokens per second on random tokens: of prefill (a prompt into an\n"
                  "empty session) and of decode (steps of one token for each session of a batch)\n"
                  "at each depth (tokens the sessions hold already). Also the time to load, the\n"
                  "peak of resident memory without this program's own buffer, and the machine's\n"
                  "read bandwidth over a buffer of several gigabytes: before and after each row,\n"
                  "whose share is of the higher rate of the two. On a device it is that of copies\n"
                  "within the device's memory, bytes read and written; tokens are chosen there,\n"
                  "too.\n"
                  "The sessions of a batch are forks of one: what full-attention layers keep of\n"
                  "the tokens up to the depth is one copy in memory, unless --separate is given.\n"
                  "Bytes per step are what a pass must read at least once: weights, cached keys\n"
                  "and values, and states. A prefill step is one pass of as many tokens as the\n"
                  "library takes together. Products are the operations of all matrix products,\n"
                  "attention's included as far as its mask lets through, as a share of what the\n"
                  "same kernel does with operands in the caches.");
    option_text(set, 'm', "model", "DIR", &options->model, "model directory (default: demo model)");
    option_list(set, 'p', "prefill", &options->prefill, 1, 1u << 24,
                "lengths of prompts (default: 512,2048)");
    option_integer(set, 'n', "decode", &options->decode, 1, 1u << 20,
                   "steps of each decode row (default: 64)");
    option_list(set, 'd', "depth", &options->depth, 0, 1u << 24,
                "depths of decode (default: 0,2048,8192)");
    option_list(set, 'b', "batch", &options->batch, 1, 4096,
                "sessions decoded together (default: 1,8)");
    option_flag(set, 0, "separate", &options->separate,
                "fill each session of a batch by itself: slower, nothing shared");
    option_integer(set, 0, "read-buffer", &options->read_buffer, 64, 1u << 20,
                   "megabytes read to measure the bandwidth, but at most a third\n"
                   "of the free memory, on a device what is free (default: 4096)");
    option_flag(set, 0, "kernels", &options->kernels,
                "run each row once more, with a table of its kernels:\n"
                "time, share of bandwidth and of products; on a device\n"
                "each has the way there and back in its time");
    option_flag(set, 0, "json", &options->json,
                "print a JSON object: read_gb_s, matrix_gflop_s, rows...");
    add_compute_options(set, &options->compute);
    add_rank_options(set, &options->compute.ranks);
}

static int compare_numbers(const void *left, const void *right)
{
    const uint64_t *a = left;
    const uint64_t *b = right;
    return (*a > *b) - (*a < *b);
}

static uint64_t largest(const struct option_list *list)
{
    uint64_t most = 0;
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i] > most)
            most = list->items[i];
    return most;
}

/* ----------------------------------------------------------------- feeding */

/* splitmix64: which tokens they are makes no difference to the speed. */
static int32_t random_token(struct bench *bench)
{
    uint64_t z = bench->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (int32_t)((z ^ (z >> 31)) % bench->info.vocabulary_size);
}

/* Appends so many random tokens; the last one's logits are computed. */
static hymba_status feed(struct bench *bench, hymba_session *session, uint64_t count,
                         hymba_error *error)
{
    int32_t tokens[PIECE_TOKENS];
    while (count > 0) {
        size_t piece = count < PIECE_TOKENS ? (size_t)count : PIECE_TOKENS;
        for (size_t i = 0; i < piece; i++)
            tokens[i] = random_token(bench);
        hymba_status status =
            interrupted() ? HYMBA_ERROR_CANCELLED
                          : hymba_session_append(session, tokens, piece,
                                                 piece == count ? HYMBA_LOGITS_LAST
                                                                : HYMBA_LOGITS_NONE, error);
        if (status != HYMBA_OK)
            return status;
        count -= piece;
    }
    return HYMBA_OK;
}

/* Depths come in rising order, so the session only grows. */
static hymba_status bring_to_depth(struct bench *bench, hymba_session *session, uint64_t depth,
                                   hymba_error *error)
{
    return feed(bench, session, depth - hymba_session_length(session), error);
}

/* Sessions of that depth for a decode row. */
static hymba_status make_batch(struct bench *bench, uint64_t depth, size_t count,
                               hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    if (!bench->options->separate)
        status = bring_to_depth(bench, bench->session, depth, error);
    for (size_t i = 0; i < count && status == HYMBA_OK; i++) {
        if (!bench->options->separate) {
            status = hymba_session_fork(bench->session, &bench->batch[i], NULL, error);
            continue;
        }
        status = hymba_session_create(bench->context, NULL, &bench->batch[i], error);
        if (status == HYMBA_OK)
            status = bring_to_depth(bench, bench->batch[i], depth, error);
    }
    return status;
}

static void free_batch(struct bench *bench)
{
    for (size_t i = 0; i < bench->n_batch; i++) {
        hymba_session_release(bench->batch[i]);
        bench->batch[i] = NULL;
    }
}

/* -------------------------------------------------------------------- rows */

bool bench_is_on_device(const struct bench *bench)
{
    return strcmp(bench->context_info.device, "cpu") != 0;
}

/* With what is left of the device's memory, if that is less. */
static int measure_copies(struct bench *bench)
{
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    for (;;) {
        hymba_status status = hymba_context_measure_bandwidth(bench->context, bench->copied_bytes,
                                                              &bench->read_bandwidth, &error);
        if (status == HYMBA_OK)
            return STATUS_OK;
        if (status != HYMBA_ERROR_MEMORY || bench->copied_bytes < LEAST_COPIED)
            return fail_library(NULL, status, &error);
        bench->copied_bytes /= 2;
    }
}

/* The machine's speed may change from row to row: the bandwidth is measured beside each. */
static int measure_bandwidth(struct bench *bench)
{
    int status = bench_is_on_device(bench)
                     ? measure_copies(bench)
                     : bandwidth_measure(bench->bandwidth, &bench->read_bandwidth);
    if (bench->read_bandwidth > bench->best_bandwidth)
        bench->best_bandwidth = bench->read_bandwidth;
    return status;
}

static int add_row(struct bench *bench, const struct row *row, uint64_t mean_depth)
{
    struct row *added = &bench->rows[bench->n_rows++];
    double before = bench->read_bandwidth;
    *added = *row;
    int status = measure_bandwidth(bench);
    added->read_bandwidth = before > bench->read_bandwidth ? before : bench->read_bandwidth;
    if (status == STATUS_OK)
        status = bench_step_bytes(bench, mean_depth, row->batch, &added->bytes_per_step);
    return status;
}

static hymba_status feed_prompt(struct bench *bench, uint64_t tokens, double *seconds,
                                hymba_error *error)
{
    hymba_status status = hymba_session_reset(bench->session, error);
    double begun = seconds_now();
    if (status == HYMBA_OK)
        status = feed(bench, bench->session, tokens, error);
    *seconds = seconds_now() - begun;
    return status;
}

/* Prompts are repeated until they have taken a second together, at most five times. Ranks, whose
 * clocks differ, all take them three times. */
static hymba_status feed_prompts(struct bench *bench, uint64_t tokens, double *seconds,
                                 hymba_error *error)
{
    double total = 0;
    int runs = 0;
    int most = ranks_are_several() ? 3 : 5;
    for (; runs < most && (total < 1 || ranks_are_several()); runs++) {
        hymba_status status = feed_prompt(bench, tokens, seconds, error);
        if (status != HYMBA_OK)
            return status;
        total += *seconds;
    }
    *seconds = total / runs;
    return HYMBA_OK;
}

static hymba_status feed_measured(struct bench *bench, uint64_t tokens, struct row *row,
                                  hymba_error *error)
{
    double seconds;
    hymba_status status = bench_begin_kernels(bench, error);
    if (status == HYMBA_OK)
        status = feed_prompt(bench, tokens, &seconds, error);
    return status == HYMBA_OK ? bench_end_kernels(bench, row, error) : status;
}

/* As feed divides the prompt. */
static uint64_t count_passes(const struct bench *bench, uint64_t tokens)
{
    uint64_t step = bench->context_info.max_step_tokens;
    uint64_t passes = 0;
    for (uint64_t left = tokens; left > 0;) {
        uint64_t piece = left < PIECE_TOKENS ? left : PIECE_TOKENS;
        passes += (piece + step - 1) / step;
        left -= piece;
    }
    return passes;
}

static int bench_prefill(struct bench *bench, uint64_t tokens)
{
    hymba_error error;
    double seconds = 0;
    struct row row = {.is_prefill = true, .tokens = tokens, .batch = 1};
    hymba_error_init(&error, sizeof error);
    hymba_status status = feed_prompts(bench, tokens, &seconds, &error);
    if (status == HYMBA_OK && bench->options->kernels)
        status = feed_measured(bench, tokens, &row, &error);
    if (status != HYMBA_OK)
        return fail_library(NULL, status, &error);
    row.tok_per_s = (double)tokens / seconds;
    row.steps_per_s = (double)count_passes(bench, tokens) / seconds;
    int status_of_count = bench_count_operations(bench, 0, tokens, 1.0 / (double)tokens, &row);
    return status_of_count == STATUS_OK ? add_row(bench, &row, tokens / 2) : status_of_count;
}

/* What decoding works with, for each session. */
struct decoding {
    hymba_batch_item *items;
    int32_t *tokens, *chosen;
};

/* The token that would follow is not used: it would be the same again and again. */
static hymba_status decode_step(struct bench *bench, const struct decoding *decoding,
                                size_t batch, hymba_error *error)
{
    hymba_batch_item *items = decoding->items;
    for (size_t i = 0; i < batch; i++) {
        decoding->tokens[i] = random_token(bench);
        items[i].session = bench->batch[i];
        items[i].tokens = &decoding->tokens[i];
        items[i].n_tokens = 1;
        items[i].logits = items[i].sampler ? HYMBA_LOGITS_NONE : HYMBA_LOGITS_LAST;
    }
    return interrupted() ? HYMBA_ERROR_CANCELLED
                         : hymba_context_decode(bench->context, items, sizeof items[0], batch,
                                                error);
}

/* A device brings tokens to the host, not logits. */
static hymba_status add_samplers(struct decoding *decoding, size_t batch, hymba_error *error)
{
    hymba_sampler_params greedy;
    hymba_status status = HYMBA_OK;
    hymba_sampler_params_init(&greedy, sizeof greedy);
    greedy.temperature = 0;
    for (size_t i = 0; i < batch && status == HYMBA_OK; i++) {
        decoding->items[i].token = &decoding->chosen[i];
        status = hymba_sampler_create(&greedy, NULL, &decoding->items[i].sampler, error);
    }
    return status;
}

static hymba_status decode_steps(struct bench *bench, size_t batch, double *seconds,
                                 hymba_error *error)
{
    struct decoding decoding = {
        .items = take_memory(batch, sizeof *decoding.items),
        .tokens = take_memory(batch, sizeof *decoding.tokens),
        .chosen = take_memory(batch, sizeof *decoding.chosen),
    };
    memset(decoding.items, 0, batch * sizeof *decoding.items);
    hymba_status status = bench_is_on_device(bench) ? add_samplers(&decoding, batch, error)
                                                    : HYMBA_OK;
    double begun = seconds_now();
    for (uint64_t step = 0; step < bench->options->decode && status == HYMBA_OK; step++)
        status = decode_step(bench, &decoding, batch, error);
    *seconds = seconds_now() - begun;
    for (size_t i = 0; i < batch; i++)
        hymba_sampler_release(decoding.items[i].sampler);
    free(decoding.chosen);
    free(decoding.tokens);
    free(decoding.items);
    return status;
}

static hymba_status decode_measured(struct bench *bench, size_t batch, struct row *row,
                                    hymba_error *error)
{
    double seconds;
    hymba_status status = bench_begin_kernels(bench, error);
    if (status == HYMBA_OK)
        status = decode_steps(bench, batch, &seconds, error);
    return status == HYMBA_OK ? bench_end_kernels(bench, row, error) : status;
}

static int bench_decode(struct bench *bench, uint64_t depth, uint64_t batch)
{
    hymba_error error;
    uint64_t steps = bench->options->decode;
    double seconds = 0;
    struct row row = {.tokens = steps, .depth = depth, .batch = batch};
    hymba_error_init(&error, sizeof error);
    hymba_status status = make_batch(bench, depth, (size_t)batch, &error);
    if (status == HYMBA_OK)
        status = decode_steps(bench, (size_t)batch, &seconds, &error);
    if (status == HYMBA_OK && bench->options->kernels)
        status = decode_measured(bench, (size_t)batch, &row, &error);
    free_batch(bench);
    if (status != HYMBA_OK)
        return fail_library(NULL, status, &error);
    row.tok_per_s = (double)(steps * batch) / seconds;
    row.steps_per_s = (double)steps / seconds;
    int status_of_count = bench_count_operations(bench, depth, depth + steps, 1.0, &row);
    return status_of_count == STATUS_OK ? add_row(bench, &row, depth + steps / 2) : status_of_count;
}

static int reset_session(struct bench *bench)
{
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    hymba_status status = hymba_session_reset(bench->session, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

static int measure_rows(struct bench *bench)
{
    struct option_list depths = bench->options->depth;
    const struct option_list *batches = &bench->options->batch;
    const struct option_list *prompts = &bench->options->prefill;
    size_t total = prompts->count + depths.count * batches->count;
    int status = measure_bandwidth(bench);
    qsort(depths.items, depths.count, sizeof depths.items[0], compare_numbers);
    for (size_t i = 0; i < prompts->count && status == STATUS_OK; i++) {
        status = bench_prefill(bench, prompts->items[i]);
        progress_step(bench->n_rows, total);
    }
    if (status == STATUS_OK)
        status = reset_session(bench);
    for (size_t i = 0; i < depths.count; i++)
        for (size_t k = 0; k < batches->count && status == STATUS_OK; k++) {
            status = bench_decode(bench, depths.items[i], batches->items[k]);
            progress_step(bench->n_rows, total);
        }
    return status;
}

/* ------------------------------------------------------------- preparation */

static int load(struct bench *bench)
{
    double begun = seconds_now();
    int status = open_model(bench->options->model, HYMBA_MODEL_NO_TOKENIZER,
                            bench->options->compute.quantize, &bench->model);
    if (status == STATUS_OK)
        status = create_context(bench->model, &bench->options->compute, &bench->context);
    bench->load_seconds = seconds_now() - begun;
    if (status == STATUS_OK)
        status = get_model_info(bench->model, &bench->info);
    if (status == STATUS_OK)
        status = get_context_info(bench->context, &bench->context_info);
    return status;
}

/* One short pass brings the weights into memory. */
static int prepare(struct bench *bench)
{
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    bench->n_batch = (size_t)largest(&bench->options->batch);
    bench->batch = take_memory(bench->n_batch, sizeof *bench->batch);
    memset(bench->batch, 0, bench->n_batch * sizeof *bench->batch);
    bench->rows = take_memory(ROWS_MOST, sizeof *bench->rows);
    hymba_status status = hymba_session_create(bench->context, NULL, &bench->session, &error);
    if (status == HYMBA_OK)
        status = feed(bench, bench->session, 1, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

/* What getrusage tells would include the program that started this one, before it became this. */
static uint64_t peak_resident_bytes(void)
{
    char line[256];
    unsigned long long kilobytes = 0;
    struct rusage usage;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && kilobytes == 0 && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %llu kB", &kilobytes) != 1)
            kilobytes = 0;
    if (file)
        fclose(file);
    memset(&usage, 0, sizeof usage);
    if (kilobytes == 0 && getrusage(RUSAGE_SELF, &usage) == 0)
        kilobytes = (unsigned long long)usage.ru_maxrss;
    return (uint64_t)kilobytes * 1024;
}

/* Called before and after the rows: the machine's speed may change, the higher rate counts. */
static int measure_matrix_rate(struct bench *bench)
{
    hymba_error error;
    double rate = 0;
    hymba_error_init(&error, sizeof error);
    hymba_status status = hymba_context_measure_products(bench->context, &rate, &error);
    if (rate > bench->matrix_rate)
        bench->matrix_rate = rate;
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

/* The buffer whose bandwidth is measured: the host's, or as much of the device's. */
static int prepare_bandwidth(struct bench *bench)
{
    uint64_t size = bench->options->read_buffer << 20;
    if (!bench_is_on_device(bench))
        return bandwidth_open(&bench->bandwidth, bench->context_info.n_threads, size);
    bench->copied_bytes = size;
    return STATUS_OK;
}

uint64_t bench_buffer_bytes(const struct bench *bench)
{
    return bench->bandwidth ? bandwidth_size(bench->bandwidth) : bench->copied_bytes;
}

static int measure(struct bench *bench)
{
    int status = load(bench);
    uint64_t peak_before;
    interrupt_cancels_context(bench->context);
    if (status == STATUS_OK)
        status = prepare(bench);
    peak_before = peak_resident_bytes();
    if (status == STATUS_OK)
        status = prepare_bandwidth(bench);
    progress_begin("bench", "rows");
    if (status == STATUS_OK)
        status = measure_matrix_rate(bench);
    if (status == STATUS_OK)
        status = measure_rows(bench);
    if (status == STATUS_OK)
        status = measure_matrix_rate(bench);
    progress_end();
    interrupt_cancels_context(NULL);
    if (status != STATUS_OK)
        return status;
    /* The host's buffer is resident from before the rows to the end. */
    uint64_t peak = peak_resident_bytes();
    uint64_t own = bench->bandwidth ? bandwidth_size(bench->bandwidth) : 0;
    bench->peak_bytes = peak > peak_before + own ? peak - own : peak_before;
    return STATUS_OK;
}

int verb_bench(int argc, char **argv)
{
    struct bench_options options = {.prefill = {{512, 2048}, 2}, .depth = {{0, 2048, 8192}, 3},
                                    .batch = {{1, 8}, 2}, .decode = 64, .read_buffer = 4096};
    struct bench bench = {.options = &options, .random = 1};
    struct option_set set;
    int status;
    describe(&set, &options);
    if (!options_parse(&set, argc, argv, &status))
        return status;
    status = settle_ranks(&set, &options.compute.ranks);
    if (status != STATUS_OK)
        return status;
    status = measure(&bench);
    if (status == STATUS_OK)
        status = bench_print(&bench);
    hymba_session_release(bench.session);
    hymba_context_release(bench.context);
    hymba_model_release(bench.model);
    bandwidth_close(bench.bandwidth);
    free(bench.batch);
    for (size_t i = 0; i < bench.n_rows; i++)
        free(bench.rows[i].kernels);
    free(bench.rows);
    return status;
}
