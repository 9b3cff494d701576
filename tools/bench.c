#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bandwidth.h"
#include "interrupt.h"
#include "library.h"
#include "output.h"
#include "verbs.h"

enum { ROWS_MOST = OPTION_ITEMS_MOST + OPTION_ITEMS_MOST * OPTION_ITEMS_MOST, PIECE_TOKENS = 512 };

/* Of a device's memory; with less, copies would say nothing. */
enum { LEAST_COPIED = 2 << 20 };

struct bench_options {
    const char *model;
    struct option_list prefill, depth, batch;
    uint64_t decode;
    uint64_t read_buffer; /* megabytes */
    bool separate;
    bool json;
    struct compute_options compute;
};

struct row {
    bool is_prefill;
    uint64_t tokens, depth, batch;
    double tok_per_s;
    double steps_per_s; /* passes over the weights */
    double bytes_per_step;
    double operations_per_s; /* of matrix products, two for each multiply-add */
    double read_bandwidth;   /* bytes per second, beside this row */
};

struct bench {
    const struct bench_options *options;
    hymba_model *model;
    hymba_model_info info;
    hymba_context *context;
    hymba_context_info context_info;
    hymba_session *session; /* prompts and depths */
    hymba_session **batch;  /* of a decode row */
    size_t n_batch;
    uint64_t random;
    struct row *rows;
    size_t n_rows;
    double load_seconds;
    uint64_t peak_bytes;
    struct bandwidth *bandwidth; /* NULL on a device, where copies of so many bytes are measured */
    uint64_t copied_bytes;
    double read_bandwidth; /* bytes per second, the last measured */
    double best_bandwidth;
    double matrix_rate;    /* operations per second */
};

static void describe(struct option_set *set, struct bench_options *options)
{
    options_begin(set, "bench", "[-m DIR] [-p N,...] [-n N] [-d N,...] [-b N,...] [options]",
                  "Measures tokens per second on random tokens: of prefill (a prompt into an\n"
                  "empty session) and of decode (steps of one token for each session of a batch)\n"
                  "at each depth (tokens the sessions hold already). Also the time to load, the\n"
                  "peak of resident memory without this program's own buffer, and the machine's\n"
                  "read bandwidth over a buffer of several gigabytes: before and after each row,\n"
                  "whose share is of the higher rate of the two. On a device it is that of copies\n"
                  "within the device's memory, bytes read and written.\n"
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
    option_flag(set, 0, "json", &options->json,
                "print a JSON object: read_gb_s, matrix_gflop_s, rows...");
    add_compute_options(set, &options->compute);
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

/* Entries of cached keys and values that a pass reads, over the layers that own a cache; layers
 * that share one read it once. */
struct entries {
    uint64_t meta;   /* of the meta tokens, which all sessions have in common */
    uint64_t full;   /* of layers that attend to all tokens */
    uint64_t window; /* of layers that attend to the last ones */
};

/* In a session of so many tokens. */
static int count_cache_entries(const struct bench *bench, uint64_t tokens, struct entries *entries)
{
    hymba_error error;
    uint32_t n_layers = bench->info.n_layers;
    struct entries *owners = take_memory(n_layers, sizeof *owners);
    hymba_status status = HYMBA_OK;
    hymba_error_init(&error, sizeof error);
    memset(owners, 0, n_layers * sizeof *owners);
    memset(entries, 0, sizeof *entries);
    for (uint32_t i = 0; i < n_layers && status == HYMBA_OK; i++) {
        hymba_layer_info layer = {.struct_size = sizeof layer};
        status = hymba_model_get_layer_info(bench->model, i, &layer, &error);
        if (status != HYMBA_OK || layer.kv_layer < 0)
            continue;
        struct entries *owner = &owners[layer.kv_layer];
        uint64_t seen = tokens < layer.window ? tokens : layer.window;
        owner->meta = bench->info.n_meta_tokens;
        if (layer.attention != HYMBA_ATTENTION_WINDOW)
            owner->full = tokens;
        else if (owner->window < seen)
            owner->window = seen;
    }
    for (uint32_t i = 0; i < n_layers; i++) {
        entries->meta += owners[i].meta;
        entries->full += owners[i].full;
        if (owners[i].full == 0)
            entries->window += owners[i].window;
    }
    free(owners);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

/* Bytes that a pass of a batch reads at least: forks have the full layers' entries in common, but
 * for those of their own few tokens. */
static int step_bytes(const struct bench *bench, uint64_t tokens, uint64_t batch, double *bytes)
{
    hymba_memory_info memory = {0};
    struct entries entries = {0};
    int status = get_memory_info(bench->model, &bench->options->compute, tokens, &memory);
    if (status == STATUS_OK)
        status = count_cache_entries(bench, tokens, &entries);
    hymba_dtype cache_type = bench->context_info.cache_type;
    size_t scale_bytes = cache_type == HYMBA_DTYPE_INT8 ? sizeof(float) : 0; /* of each vector */
    double entry_bytes = (double)bench->info.n_kv_heads *
                         ((double)(bench->info.qk_head_size + bench->info.v_head_size) *
                              (double)hymba_dtype_size(cache_type) +
                          2 * (double)scale_bytes);
    uint64_t copies = bench->options->separate ? batch : 1;
    *bytes = (double)bench->info.pass_bytes +
             entry_bytes *
                 (double)(entries.meta + copies * entries.full + batch * entries.window) +
             (double)(batch * (memory.conv_bytes + memory.ssm_bytes));
    return status;
}

/* Sum over the first n positions of the keys each one sees, at most most. */
static double sum_of_keys(double n, double most)
{
    return n <= most ? n * (n + 1) / 2 : most * (most + 1) / 2 + (n - most) * most;
}

/* Operations of attention's products for the tokens from begin to end of a session: what the mask
 * lets through, meta tokens included. */
static int attention_operations(const struct bench *bench, uint64_t begin, uint64_t end,
                                double *operations)
{
    hymba_error error;
    const hymba_model_info *info = &bench->info;
    double keys = 0, meta = (double)(end - begin) * info->n_meta_tokens;
    hymba_error_init(&error, sizeof error);
    for (uint32_t i = 0; i < info->n_layers; i++) {
        hymba_layer_info layer = {.struct_size = sizeof layer};
        hymba_status status = hymba_model_get_layer_info(bench->model, i, &layer, &error);
        if (status != HYMBA_OK)
            return fail_library(NULL, status, &error);
        if (layer.attention == HYMBA_ATTENTION_NONE)
            continue;
        double most = layer.attention == HYMBA_ATTENTION_WINDOW ? layer.window + 1.0 : 1e18;
        keys += meta + sum_of_keys((double)end, most) - sum_of_keys((double)begin, most);
    }
    *operations = 2.0 * keys * info->n_heads * (info->qk_head_size + info->v_head_size);
    return STATUS_OK;
}

/* Operations of products that a second of the row held: positions begin .. end of each session. */
static int count_operations(const struct bench *bench, uint64_t begin, uint64_t end,
                            double logits_share, struct row *row)
{
    double attention = 0;
    int status = attention_operations(bench, begin, end, &attention);
    double weights = (double)bench->info.projection_parameters +
                     logits_share * bench->info.vocabulary_size * bench->info.hidden_size;
    row->operations_per_s =
        row->tok_per_s * (2.0 * weights + attention / (double)(end - begin));
    return status;
}

static bool is_on_device(const struct bench *bench)
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
    int status = is_on_device(bench)
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
    return status == STATUS_OK ? step_bytes(bench, mean_depth, row->batch, &added->bytes_per_step)
                               : status;
}

/* Prompts are repeated until they have taken a second together, at most five times. */
static int bench_prefill(struct bench *bench, uint64_t tokens)
{
    hymba_error error;
    hymba_session *session = bench->session;
    hymba_status status = HYMBA_OK;
    double total = 0;
    int runs = 0;
    hymba_error_init(&error, sizeof error);
    for (; runs < 5 && total < 1 && status == HYMBA_OK; runs++) {
        status = hymba_session_reset(session, &error);
        double begun = seconds_now();
        if (status == HYMBA_OK)
            status = feed(bench, session, tokens, &error);
        total += seconds_now() - begun;
    }
    if (status != HYMBA_OK)
        return fail_library(NULL, status, &error);
    uint64_t step = bench->context_info.max_step_tokens;
    uint64_t passes = 0;
    for (uint64_t left = tokens; left > 0;) { /* as feed divides the prompt */
        uint64_t piece = left < PIECE_TOKENS ? left : PIECE_TOKENS;
        passes += (piece + step - 1) / step;
        left -= piece;
    }
    struct row row = {.is_prefill = true, .tokens = tokens, .batch = 1,
                            .tok_per_s = (double)tokens * runs / total,
                            .steps_per_s = (double)passes * runs / total};
    int status_of_count = count_operations(bench, 0, tokens, 1.0 / (double)tokens, &row);
    return status_of_count == STATUS_OK ? add_row(bench, &row, tokens / 2) : status_of_count;
}

static hymba_status decode_step(struct bench *bench, hymba_batch_item *items, size_t batch,
                                int32_t *tokens, hymba_error *error)
{
    for (size_t i = 0; i < batch; i++) {
        tokens[i] = random_token(bench);
        items[i].session = bench->batch[i];
        items[i].tokens = &tokens[i];
        items[i].n_tokens = 1;
        items[i].logits = HYMBA_LOGITS_LAST;
    }
    return interrupted() ? HYMBA_ERROR_CANCELLED
                         : hymba_context_decode(bench->context, items, sizeof items[0], batch,
                                                error);
}

static hymba_status decode_steps(struct bench *bench, size_t batch, double *seconds,
                                 hymba_error *error)
{
    hymba_batch_item *items = take_memory(batch, sizeof *items);
    int32_t *tokens = take_memory(batch, sizeof *tokens);
    hymba_status status = HYMBA_OK;
    memset(items, 0, batch * sizeof *items);
    double begun = seconds_now();
    for (uint64_t step = 0; step < bench->options->decode && status == HYMBA_OK; step++)
        status = decode_step(bench, items, batch, tokens, error);
    *seconds = seconds_now() - begun;
    free(tokens);
    free(items);
    return status;
}

static int bench_decode(struct bench *bench, uint64_t depth, uint64_t batch)
{
    hymba_error error;
    uint64_t steps = bench->options->decode;
    double seconds = 0;
    hymba_error_init(&error, sizeof error);
    hymba_status status = make_batch(bench, depth, (size_t)batch, &error);
    if (status == HYMBA_OK)
        status = decode_steps(bench, (size_t)batch, &seconds, &error);
    free_batch(bench);
    if (status != HYMBA_OK)
        return fail_library(NULL, status, &error);
    struct row row = {.tokens = steps, .depth = depth, .batch = batch,
                            .tok_per_s = (double)(steps * batch) / seconds,
                            .steps_per_s = (double)steps / seconds};
    int status_of_count = count_operations(bench, depth, depth + steps, 1.0, &row);
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
    if (!is_on_device(bench))
        return bandwidth_open(&bench->bandwidth, bench->context_info.n_threads, size);
    bench->copied_bytes = size;
    return STATUS_OK;
}

static uint64_t buffer_bytes(const struct bench *bench)
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

/* ------------------------------------------------------------------ report */

static double share_of(const struct row *row)
{
    return row->bytes_per_step * row->steps_per_s / row->read_bandwidth;
}

static json_t *rows_to_json(const struct bench *bench)
{
    json_t *array = json_array();
    for (size_t i = 0; i < bench->n_rows; i++) {
        const struct row *row = &bench->rows[i];
        json_t *object = json_pack(
            "{s:s, s:I, s:I, s:I, s:f, s:I, s:f, s:f, s:f}", "kind",
            row->is_prefill ? "prefill" : "decode",
            "tokens", (json_int_t)row->tokens, "depth", (json_int_t)row->depth, "batch",
            (json_int_t)row->batch, "tok_per_s", row->tok_per_s, "bytes_per_step",
            (json_int_t)row->bytes_per_step, "bandwidth_share", share_of(row),
            "read_gb_s", row->read_bandwidth / 1e9,
            "matrix_share", row->operations_per_s / bench->matrix_rate);
        if (json_array_append_new(array, object) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static int print_as_json(const struct bench *bench)
{
    return print_json(json_pack(
        "{s:s, s:I, s:I, s:s, s:s, s:s, s:I, s:f, s:f, s:I, s:f, s:I, s:o}", "model",
        bench->options->model ? bench->options->model : "demo", "parameters",
        (json_int_t)bench->info.n_parameters, "weight_bytes", (json_int_t)bench->info.weight_bytes,
        "device", bench->context_info.device, "cpu", bench->context_info.cpu, "compute",
        hymba_compute_name(bench->context_info.compute), "threads",
        (json_int_t)bench->context_info.n_threads,
        "read_gb_s", bench->best_bandwidth / 1e9, "matrix_gflop_s", bench->matrix_rate / 1e9,
        "read_buffer_bytes", (json_int_t)buffer_bytes(bench), "load_s",
        bench->load_seconds, "peak_rss_bytes", (json_int_t)bench->peak_bytes, "rows",
        rows_to_json(bench)));
}

static int print_as_text(const struct bench *bench)
{
    bool on_device = is_on_device(bench);
    printf("model %s: %" PRIu64 " parameters, %.1f MB of weights; %s%s%s, %" PRIu32 " threads\n",
           bench->options->model ? bench->options->model : "demo", bench->info.n_parameters,
           (double)bench->info.weight_bytes / 1e6, on_device ? bench->context_info.device : "",
           on_device ? ": " : "", bench->context_info.cpu, bench->context_info.n_threads);
    printf("load %.3f s, peak memory %.1f MB, %s bandwidth %.2f GB/s (%.1f GB buffer),\n"
           "products %.1f Gop/s in %s arithmetic\n\n",
           bench->load_seconds, (double)bench->peak_bytes / 1e6, on_device ? "copy" : "read",
           bench->best_bandwidth / 1e9, (double)buffer_bytes(bench) / 1e9,
           bench->matrix_rate / 1e9, hymba_compute_name(bench->context_info.compute));
    printf("%-8s %8s %8s %6s %12s %12s %10s %10s\n", "kind", "tokens", "depth", "batch",
           "tokens/s", "MB/step", "bandwidth", "products");
    for (size_t i = 0; i < bench->n_rows; i++) {
        const struct row *row = &bench->rows[i];
        printf("%-8s %8" PRIu64 " %8" PRIu64 " %6" PRIu64 " %12.1f %12.2f %9.1f%% %9.1f%%\n",
               row->is_prefill ? "prefill" : "decode", row->tokens, row->depth, row->batch,
               row->tok_per_s, row->bytes_per_step / 1e6, 100 * share_of(row),
               100 * row->operations_per_s / bench->matrix_rate);
    }
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
    status = measure(&bench);
    if (status == STATUS_OK)
        status = options.json ? print_as_json(&bench) : print_as_text(&bench);
    hymba_session_release(bench.session);
    hymba_context_release(bench.context);
    hymba_model_release(bench.model);
    bandwidth_close(bench.bandwidth);
    free(bench.batch);
    free(bench.rows);
    return status;
}
