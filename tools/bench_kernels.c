/* What the kernels of a row's steps took, each beside what the machine can do. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

hymba_status bench_begin_kernels(struct bench *bench, hymba_error *error)
{
    return hymba_context_measure_kernels(bench->context, 1, error);
}

hymba_status bench_end_kernels(struct bench *bench, struct row *row, hymba_error *error)
{
    size_t n = 0;
    hymba_status status = hymba_context_kernel_times(bench->context, NULL, sizeof *row->kernels, 0,
                                                     &n, error);
    if (status != HYMBA_OK)
        return status;
    row->kernels = take_memory(n, sizeof *row->kernels);
    status = hymba_context_kernel_times(bench->context, row->kernels, sizeof *row->kernels, n,
                                        &row->n_kernels, error);
    return status == HYMBA_OK ? hymba_context_measure_kernels(bench->context, 0, error) : status;
}

/* What of a step is no kernel: copies of states and of keys and values, and the host. */
static hymba_kernel_time rest_of(const struct row *row)
{
    hymba_kernel_time rest = {.name = "rest", .calls = row->kernels[0].calls,
                              .seconds = row->kernels[0].seconds};
    for (size_t i = 1; i < row->n_kernels; i++)
        rest.seconds -= row->kernels[i].seconds;
    return rest;
}

static double share_of_step(const struct row *row, const hymba_kernel_time *kernel)
{
    return kernel->seconds / row->kernels[0].seconds;
}

static double share_of_bandwidth(const struct row *row, const hymba_kernel_time *kernel)
{
    return kernel->bytes / kernel->seconds / row->read_bandwidth;
}

static double share_of_products(const struct bench *bench, const hymba_kernel_time *kernel)
{
    return kernel->operations / kernel->seconds / bench->matrix_rate;
}

static void append_kernel(json_t *array, const struct bench *bench, const struct row *row,
                          const hymba_kernel_time *kernel)
{
    double steps = (double)row->kernels[0].calls;
    json_t *object = json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "name", kernel->name,
                               "calls_per_step", (double)kernel->calls / steps, "s_per_step",
                               kernel->seconds / steps, "bytes_per_step", kernel->bytes / steps,
                               "operations_per_step", kernel->operations / steps, "step_share",
                               share_of_step(row, kernel), "bandwidth_share",
                               share_of_bandwidth(row, kernel), "matrix_share",
                               share_of_products(bench, kernel));
    if (json_array_append_new(array, need_json(object)) != 0)
        need_json(NULL);
}

json_t *bench_kernels_to_json(const struct bench *bench, const struct row *row)
{
    json_t *array = need_json(json_array());
    hymba_kernel_time rest = rest_of(row);
    for (size_t i = 0; i < row->n_kernels; i++)
        if (row->kernels[i].calls > 0)
            append_kernel(array, bench, row, &row->kernels[i]);
    append_kernel(array, bench, row, &rest);
    return array;
}

static void print_kernel(const struct bench *bench, const struct row *row,
                         const hymba_kernel_time *kernel)
{
    double steps = (double)row->kernels[0].calls;
    printf("  %-16s %6.0f %12.1f %7.1f%% %12.3f %9.1f%% %9.1f%%\n", kernel->name,
           (double)kernel->calls / steps, 1e6 * kernel->seconds / steps,
           100 * share_of_step(row, kernel), kernel->bytes / steps / 1e6,
           100 * share_of_bandwidth(row, kernel), 100 * share_of_products(bench, kernel));
}

void bench_print_kernels(const struct bench *bench, const struct row *row)
{
    hymba_kernel_time rest = rest_of(row);
    if (row->is_prefill)
        printf("\nprefill of %" PRIu64 " tokens\n", row->tokens);
    else
        printf("\ndecode at depth %" PRIu64 ", batch %" PRIu64 "\n", row->depth, row->batch);
    printf("  %-16s %6s %12s %8s %12s %10s %10s\n", "kernel", "calls", "us/step", "share",
           "MB/step", "bandwidth", "products");
    for (size_t i = 1; i < row->n_kernels; i++)
        if (row->kernels[i].calls > 0)
            print_kernel(bench, row, &row->kernels[i]);
    print_kernel(bench, row, &rest);
    print_kernel(bench, row, &row->kernels[0]);
}
