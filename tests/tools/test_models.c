/*
 * hymba info, init and bench.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

START_TEST(info_of_the_demo)
{
    struct result result = run_well("", "info -m %s --context 100 --json", demo);
    json_t *object = parse_json(result.out);
    json_t *session = json_object_get(object, "session");
    json_t *layers = json_object_get(object, "layers");
    static const char *const parts[] = {"meta_bytes", "kv_bytes", "conv_bytes", "ssm_bytes"};
    json_int_t sum = 0;
    ck_assert_int_eq(integer_of(object, "parameters"), 10797696);
    ck_assert_int_eq(integer_of(object, "weight_bytes"), 2 * 10797696);
    ck_assert_int_eq(integer_of(session, "context"), 100);
    for (size_t i = 0; i < 4; i++)
        sum += integer_of(session, parts[i]);
    ck_assert_int_eq(integer_of(session, "total_bytes"), sum);
    ck_assert_int_eq(integer_of(session, "ssm_bytes"), 8 * 512 * 16 * 4);
    ck_assert_uint_eq(json_array_size(layers), 8);
    static const struct {
        const char *attention;
        json_int_t kv_layer;
    } expected[8] = {{"full", 0}, {"window", 1}, {"window", 1}, {"window", 3},
                     {"full", 4}, {"window", 5}, {"window", 5}, {"full", 7}};
    for (size_t i = 0; i < 8; i++) {
        const json_t *layer = json_array_get(layers, i);
        ck_assert_str_eq(string_of(layer, "attention"), expected[i].attention);
        ck_assert_int_eq(integer_of(layer, "kv_layer"), expected[i].kv_layer);
        ck_assert_int_eq(json_is_true(json_object_get(layer, "kv_producer")),
                         expected[i].kv_layer == (json_int_t)i);
        ck_assert_int_eq(integer_of(layer, "window"),
                         strcmp(expected[i].attention, "window") == 0 ? 128 : 0);
        ck_assert_str_eq(string_of(layer, "ssm"), "mamba1");
        ck_assert_str_eq(string_of(layer, "fusion"), "mean");
        ck_assert_str_eq(string_of(layer, "ffn"), "swiglu");
    }
    json_t *configuration = json_object_get(object, "configuration");
    ck_assert_int_eq(integer_of(configuration, "hidden_size"), 256);
    ck_assert_int_eq(integer_of(configuration, "n_meta_tokens"), 32);
    ck_assert_int_gt(integer_of(object, "threads"), 0);
    ck_assert_ptr_nonnull(string_of(object, "cpu"));
    json_decref(object);
    free_result(&result);
    result = run_well("", "info -m %s", demo);
    ck_assert_ptr_nonnull(strstr(result.out, "10797696"));
    free_result(&result);
}
END_TEST

/* What --cpu names, or HYMBA_CPU where there is no --cpu. */
START_TEST(info_tells_the_instruction_set)
{
    struct result result;
    json_t *object;
    setenv("HYMBA_CPU", "generic", 1);
    result = run_well("", "info -m %s --json", demo);
    object = parse_json(result.out);
    ck_assert_str_eq(string_of(object, "cpu"), "generic");
    json_decref(object);
    free_result(&result);
    result = run_well("", "info -m %s", demo);
    ck_assert_ptr_nonnull(strstr(result.out, "instruction set generic,"));
    free_result(&result);
    setenv("HYMBA_CPU", "z80", 1);
    check_refused(1, "", "HYMBA_CPU: instruction set \"z80\"", "info -m examples/demo");
    result = run_well("", "info -m %s --json --cpu generic", demo);
    object = parse_json(result.out);
    ck_assert_str_eq(string_of(object, "cpu"), "generic");
    json_decref(object);
    free_result(&result);
    unsetenv("HYMBA_CPU");
}
END_TEST

START_TEST(info_of_a_preset)
{
    struct result result = run_well("", "info --preset 1.5b --context 8192 --cache-type f16 "
                                        "--state-type f16 --json");
    json_t *object = parse_json(result.out);
    const json_t *session = json_object_get(object, "session");
    json_int_t own = integer_of(session, "total_bytes") - integer_of(session, "meta_bytes");
    ck_assert_int_eq(integer_of(object, "parameters"), 1522797824);
    ck_assert_int_eq(integer_of(object, "weight_bytes"), 2 * (json_int_t)1522797824);
    /* 17 producers: 3 keep all tokens, 14 their window; 960 values of 2 bytes a token */
    ck_assert_int_ge(integer_of(session, "kv_bytes"),
                     (json_int_t)(3 * 8192 + 14 * 1024) * 960 * 2);
    ck_assert_int_eq(integer_of(session, "meta_bytes"), (json_int_t)17 * 128 * 960 * 2);
    ck_assert_int_eq(integer_of(session, "conv_bytes"), (json_int_t)32 * 3200 * 3 * 2);
    ck_assert_int_eq(integer_of(session, "ssm_bytes"), (json_int_t)32 * 3200 * 16 * 2);
    ck_assert_int_le(own, 78650000); /* 78.6 MB */
    json_decref(object);
    free_result(&result);
}
END_TEST

/* A scale of four bytes for each head's key and each head's value. */
START_TEST(info_of_caches_with_scales)
{
    static const char *const types[] = {"int8", "fp8"};
    for (size_t i = 0; i < 2; i++) {
        struct result result =
            run_well("", "info --preset 1.5b --context 8192 --cache-type %s --json", types[i]);
        json_t *object = parse_json(result.out);
        const json_t *session = json_object_get(object, "session");
        ck_assert_str_eq(string_of(session, "cache_type"), types[i]);
        ck_assert_int_eq(integer_of(session, "meta_bytes"),
                         (json_int_t)17 * 128 * 5 * (192 + 8));
        ck_assert_int_eq(integer_of(session, "kv_bytes"),
                         (json_int_t)(3 * 8192 + 14 * 1024) * 5 * (192 + 8));
        json_decref(object);
        free_result(&result);
    }
}
END_TEST

START_TEST(init_writes_a_model_that_runs)
{
    char line[512];
    const char *path = in_directory("made");
    const char *again = in_directory("made-again");
    size_t size = 0, size_again = 0;
    char file[512];
    struct result result = run_well("", "init --preset tiny -o %s --seed 5 --dtype f16", path);
    free_result(&result);
    result = run_well("", "init --preset=tiny --output=%s --seed=5 --dtype=f16 --threads=1",
                      again);
    free_result(&result);
    snprintf(file, sizeof file, "%s/model.safetensors", path);
    char *weights = test_read_file(file, &size);
    snprintf(file, sizeof file, "%s/model.safetensors", again);
    char *weights_again = test_read_file(file, &size_again);
    ck_assert_uint_eq(size, size_again);
    ck_assert_mem_eq(weights, weights_again, size);
    free(weights);
    free(weights_again);
    snprintf(line, sizeof line, "init --preset tiny -o %s", path);
    check_refused(1, "", path, line);
    snprintf(line, sizeof line, "generate -m %s -p a", path);
    check_refused(1, "", "tokenizer", line);
    result = run_well("1 2 3", "perplexity -m %s --tokens - --json", path);
    free_result(&result);
    result = run_well("", "info -m %s --json", path);
    json_t *object = parse_json(result.out);
    ck_assert_str_eq(string_of(object, "weight_type"), "f16");
    json_decref(object);
    free_result(&result);
}
END_TEST

START_TEST(init_from_a_configuration)
{
    struct result result = run_well("", "init --config %s/config.json -o %s", demo,
                                    in_directory("from-config"));
    free_result(&result);
    result = run_well("", "info -m %s --json", in_directory("from-config"));
    json_t *object = parse_json(result.out);
    ck_assert_int_eq(integer_of(object, "parameters"), 10797696);
    json_decref(object);
    free_result(&result);
}
END_TEST

START_TEST(bench_of_the_demo)
{
    struct result result = run_well("", "bench -p 16 -n 2 -d 0,20 -b 1,3 --json --threads 2 "
                                        "--read-buffer 64");
    json_t *object = parse_json(result.out);
    const json_t *rows = json_object_get(object, "rows");
    static const struct {
        const char *kind;
        json_int_t tokens, depth, batch;
    } expected[] = {
        {"prefill", 16, 0, 1}, {"decode", 2, 0, 1},  {"decode", 2, 0, 3},
        {"decode", 2, 20, 1},  {"decode", 2, 20, 3},
    };
    ck_assert_double_gt(number_of(object, "read_gb_s"), 0);
    ck_assert_double_gt(number_of(object, "load_s"), 0);
    ck_assert_int_gt(integer_of(object, "peak_rss_bytes"), 1 << 20);
    ck_assert_uint_eq(json_array_size(rows), 5);
    for (size_t i = 0; i < 5; i++) {
        const json_t *row = json_array_get(rows, i);
        ck_assert_str_eq(string_of(row, "kind"), expected[i].kind);
        ck_assert_int_eq(integer_of(row, "tokens"), expected[i].tokens);
        ck_assert_int_eq(integer_of(row, "depth"), expected[i].depth);
        ck_assert_int_eq(integer_of(row, "batch"), expected[i].batch);
        ck_assert_double_gt(number_of(row, "tok_per_s"), 0);
        ck_assert_int_gt(integer_of(row, "bytes_per_step"), 2 * 10797696);
        ck_assert_double_gt(number_of(row, "bandwidth_share"), 0);
    }
    json_decref(object);
    free_result(&result);
    result = run_well("", "bench -p 4 -n 1 -d 0 -b 1 --read-buffer 64");
    ck_assert_ptr_nonnull(strstr(result.out, "prefill"));
    free_result(&result);
}
END_TEST

/* Every kernel of the row is there; their shares of the step add up to it, with its rest. */
static void check_kernels(const json_t *row, json_int_t layers)
{
    static const char *const names[] = {"in_proj", "scan", "fusion", "down"};
    const json_t *kernels = json_object_get(row, "kernels");
    size_t n = json_array_size(kernels), n_found = 0;
    double share = 0;
    ck_assert_uint_gt(n, 10);
    for (size_t i = 1; i < n; i++) { /* behind the step itself */
        const json_t *kernel = json_array_get(kernels, i);
        share += number_of(kernel, "step_share");
        for (size_t j = 0; j < sizeof names / sizeof names[0]; j++)
            if (strcmp(string_of(kernel, "name"), names[j]) == 0) {
                n_found++;
                ck_assert_double_eq(number_of(kernel, "calls_per_step"), (double)layers);
                ck_assert_double_gt(number_of(kernel, "bandwidth_share"), 0);
                ck_assert_double_gt(number_of(kernel, "matrix_share"), 0);
            }
    }
    ck_assert_uint_eq(n_found, sizeof names / sizeof names[0]);
    ck_assert_str_eq(string_of(json_array_get(kernels, 0), "name"), "step");
    ck_assert_str_eq(string_of(json_array_get(kernels, n - 1), "name"), "rest");
    ck_assert_double_eq_tol(share, 1.0, 1e-9);
}

START_TEST(bench_of_kernels)
{
    struct result result = run_well("", "bench -p 16 -n 2 -d 3 -b 2 --kernels --json "
                                        "--read-buffer 64");
    json_t *object = parse_json(result.out);
    const json_t *rows = json_object_get(object, "rows");
    ck_assert_uint_eq(json_array_size(rows), 2);
    for (size_t i = 0; i < 2; i++)
        check_kernels(json_array_get(rows, i), 8);
    json_decref(object);
    free_result(&result);
    result = run_well("", "bench -p 4 -n 1 -d 0 -b 1 --kernels --read-buffer 64");
    ck_assert_ptr_nonnull(strstr(result.out, "\nprefill of 4 tokens\n"));
    ck_assert_ptr_nonnull(strstr(result.out, "\ndecode at depth 0, batch 1\n"));
    ck_assert_ptr_nonnull(strstr(result.out, "\n  attention_window "));
    free_result(&result);
}
END_TEST

static json_int_t bytes_of_row(const json_t *object, size_t index)
{
    return integer_of(json_array_get(json_object_get(object, "rows"), index), "bytes_per_step");
}

/* A pass does not read the meta tokens' 8,192 weights. 3 layers keep all tokens, 3 other owners a
 * window of 128; 2 heads of 64 and 64 values a token, 4 bytes each, or 1 and a scale for each key
 * and value of a head; the keys and values of the meta tokens are there once. */
START_TEST(bench_counts_bytes)
{
    static const json_int_t weights = 2 * (10797696 - 8192), state = 8 * 512 * (16 + 3) * 4;
    struct result result = run_well("", "info -m %s --json", demo);
    json_t *info = parse_json(result.out);
    json_t *shape = json_object_get(info, "configuration");
    json_int_t n_meta = integer_of(shape, "n_meta_tokens");
    json_int_t heads = integer_of(shape, "n_kv_heads");
    json_int_t values = integer_of(shape, "qk_head_size") + integer_of(shape, "v_head_size");
    json_decref(info);
    free_result(&result);
    static const char *const ways[] = {"", "--separate", "--cache-type int8 --separate",
                                       "--cache-type fp8 --separate"};
    for (json_int_t i = 0; i < 4; i++) {
        json_int_t entry = heads * (i < 2 ? 4 * values : values + 8);
        json_int_t meta = 6 * n_meta * entry;
        result = run_well("", "bench -p 1 -n 2 -d 300 -b 1,3 --json --read-buffer 64 %s",
                          ways[i]);
        json_t *object = parse_json(result.out);
        json_int_t full = 3 * 301 * entry;
        json_int_t own = state + 3 * 128 * entry;
        ck_assert_int_eq(bytes_of_row(object, 1), weights + meta + full + own);
        ck_assert_int_eq(bytes_of_row(object, 2),
                         weights + meta + (i == 0 ? full : 3 * full) + 3 * own);
        json_decref(object);
        free_result(&result);
    }
}
END_TEST

static json_int_t peak_of_a_bench(void)
{
    struct result result = run_well("", "bench -p 4 -n 1 -d 0 -b 1 --json --read-buffer 64");
    json_t *object = parse_json(result.out);
    json_int_t peak = integer_of(object, "peak_rss_bytes");
    json_decref(object);
    free_result(&result);
    return peak;
}

/* What the program needed that started it does not count. A sanitizer's own memory does, and
 * differs from run to run. */
START_TEST(bench_tells_its_own_peak_of_memory)
{
    enum { LARGE = 400 << 20 };
    json_int_t alone = peak_of_a_bench();
    size_t size = (size_t)alone + LARGE;
    char *memory = malloc(size);
    ck_assert_ptr_nonnull(memory);
    memset(memory, 1, size);
    ck_assert_int_lt(peak_of_a_bench(), (json_int_t)size);
    ck_assert_int_eq(memory[size - 1], 1);
    free(memory);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        info_of_the_demo, info_tells_the_instruction_set, info_of_a_preset,
        info_of_caches_with_scales, init_writes_a_model_that_runs, init_from_a_configuration,
        bench_of_the_demo, bench_of_kernels, bench_counts_bytes,
        bench_tells_its_own_peak_of_memory,
    };
    return run_command_tests("models", tests, sizeof tests / sizeof tests[0]);
}
