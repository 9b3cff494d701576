/* The tables of `hymba bench`. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"

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
        if (row->kernels && json_object_set_new(need_json(object), "kernels",
                                                bench_kernels_to_json(bench, row)) != 0)
            need_json(NULL);
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
        "read_buffer_bytes", (json_int_t)bench_buffer_bytes(bench), "load_s",
        bench->load_seconds, "peak_rss_bytes", (json_int_t)bench->peak_bytes, "rows",
        rows_to_json(bench)));
}

static int print_as_text(const struct bench *bench)
{
    bool on_device = bench_is_on_device(bench);
    printf("model %s: %" PRIu64 " parameters, %.1f MB of weights; %s%s%s, %" PRIu32 " threads\n",
           bench->options->model ? bench->options->model : "demo", bench->info.n_parameters,
           (double)bench->info.weight_bytes / 1e6, on_device ? bench->context_info.device : "",
           on_device ? ": " : "", bench->context_info.cpu, bench->context_info.n_threads);
    printf("load %.3f s, peak memory %.1f MB, %s bandwidth %.2f GB/s (%.1f GB buffer),\n"
           "products %.1f Gop/s in %s arithmetic\n\n",
           bench->load_seconds, (double)bench->peak_bytes / 1e6, on_device ? "copy" : "read",
           bench->best_bandwidth / 1e9, (double)bench_buffer_bytes(bench) / 1e9,
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
    for (size_t i = 0; i < bench->n_rows && bench->options->kernels; i++)
        bench_print_kernels(bench, &bench->rows[i]);
    return STATUS_OK;
}

int bench_print(const struct bench *bench)
{
    return bench->options->json ? print_as_json(bench) : print_as_text(bench);
}
