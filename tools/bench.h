/*
 * `hymba bench`: what it measures (bench.c), what that must have moved and computed
 * (bench_counts.c), and the tables of both (bench_report.c, bench_kernels.c).
 */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include "bandwidth.h"
#include "library.h"
#include "output.h"

struct bench_options {
    const char *model;
    struct option_list prefill, depth, batch;
    uint64_t decode;
    uint64_t read_buffer; /* megabytes */
    bool separate;
    bool kernels;
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
    hymba_kernel_time *kernels; /* with --kernels, of the row's steps run once more */
    size_t n_kernels;
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

/* Whether the context computes elsewhere than on the CPU. */
bool bench_is_on_device(const struct bench *bench);

/* Bytes of the buffer whose bandwidth is measured. */
uint64_t bench_buffer_bytes(const struct bench *bench);

/* Bytes that a pass of a batch of sessions of so many tokens reads at least: forks have the full
 * layers' entries in common, but for those of their own few tokens. An exit status. */
int bench_step_bytes(const struct bench *bench, uint64_t tokens, uint64_t batch, double *bytes);

/* Operations of products that a second of the row held: positions begin .. end of each session.
 * An exit status. */
int bench_count_operations(const struct bench *bench, uint64_t begin, uint64_t end,
                           double logits_share, struct row *row);

/* Begins to measure kernels; keeps in the row what they took since, and ends. */
hymba_status bench_begin_kernels(struct bench *bench, hymba_error *error);
hymba_status bench_end_kernels(struct bench *bench, struct row *row, hymba_error *error);

/* The row's kernels, as an array or as a table. */
json_t *bench_kernels_to_json(const struct bench *bench, const struct row *row);
void bench_print_kernels(const struct bench *bench, const struct row *row);

/* Prints everything; an exit status. */
int bench_print(const struct bench *bench);

#endif
