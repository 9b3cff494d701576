/*
 * For a machine with a GPU: every op against generic C on random data, a layer's ops as a recorded
 * step, sums over ranks where there are several GPUs, then how long each takes, beside the
 * bandwidth of a copy and the rate of a large matrix product measured here and now.
 *
 *   check_cuda [device] [--no-times]
 *
 * Needs nothing but the plug-in; linked with the harness it runs anywhere, without times.
 */
#include "compare_ops.h"
#include "compare_ranks.h"
#include "compare_step.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <chrono>
#include <functional>
#include <vector>

extern "C" const struct hy_device_ops *hymba_device_plugin(uint32_t interface_version);

enum { SEEDS = 5, REPETITIONS = 20 };

/* Ranks that are joined, and how long a missing one is waited for, in milliseconds. */
enum { MOST_RANKS = 8, RANK_LIMIT = 5000 };

/* ------------------------------------------------------------- comparisons */

static int tell(const char *name, const char *difference, const char *remark)
{
    printf("%-8s %s%s%s\n", difference ? "FAILED" : "ok", name,
           difference || remark[0] ? ": " : "", difference ? difference : remark);
    return difference != NULL;
}

/* Those that take long are made once; under the harness, which `times` are left out for, not. */
static int compare_all(const struct hy_device_ops *ops, struct hy_device *device, int index,
                       bool times)
{
    char graph[256] = "";
    int failures = 0;
    for (size_t i = 0; i < (times ? compare_count_of_device() : compare_count()); i++) {
        const unsigned seeds = i < compare_count() ? SEEDS : 1;
        const char *difference = NULL;
        for (unsigned seed = 1; seed <= seeds && !difference; seed++)
            difference = compare_op(i, ops, device, seed);
        failures += tell(compare_name(i), difference, "");
    }
    const char *difference = compare_step(ops, index, 1, graph);
    return failures + tell("a recorded step", difference, graph);
}

/* ------------------------------------------------------------------- times */

/* A layer of the 1.5B model; the scan's inner width is twice the hidden one. */
enum {
    HIDDEN = 1600,
    INNER = 3200,
    FEED_FORWARD = 5504,
    HEADS = 25,
    KV_HEADS = 5,
    QK = 64,
    V = 128,
    STATE = 16,
    RANK = 100,
    CONV = 4
};

class timer {
public:
    timer(const struct hy_device_ops *ops_, struct hy_device *device_)
        : copy_rate(0), matrix_rate(0), ops(ops_), device(device_)
    {
    }
    ~timer()
    {
        for (void *data : taken)
            ops->release(device, data);
    }
    template <typename T> T *take(size_t n)
    {
        void *data = ops->allocate(device, n * sizeof(T));
        if (!data) {
            fprintf(stderr, "check_cuda: no %zu bytes on the device\n", n * sizeof(T));
            exit(1);
        }
        taken.push_back(data);
        ops->fill(device, data, 0, n * sizeof(T));
        return (T *)data;
    }
    /* Seconds that one of many queued takes. */
    double measure(const std::function<void()> &queue)
    {
        queue();
        finish();
        auto begin = std::chrono::steady_clock::now();
        for (int i = 0; i < REPETITIONS; i++)
            queue();
        finish();
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()
               / REPETITIONS;
    }
    /* A row of the table: bytes that must be moved, operations that must be made. */
    void row(const char *name, size_t rows, double bytes, double operations,
             const std::function<void()> &queue)
    {
        double seconds = measure(queue);
        printf("%-26s %6zu %10.1f %9.0f %6.0f%%", name, rows, seconds * 1e6,
               bytes / seconds / 1e9, 100.0 * bytes / seconds / copy_rate);
        if (operations > 0.0)
            printf(" %9.1f %6.0f%%", operations / seconds / 1e12,
                   100.0 * operations / seconds / matrix_rate);
        printf("\n");
    }
    double copy_rate, matrix_rate; /* bytes and operations a second */
    const struct hy_device_ops *ops;
    struct hy_device *device;

private:
    void finish()
    {
        hymba_error error = {};
        error.struct_size = sizeof error;
        if (ops->finish(device, &error) != HYMBA_OK) {
            fprintf(stderr, "check_cuda: %s\n", error.message);
            exit(1);
        }
    }
    std::vector<void *> taken;
};

static void measure_copy(timer &t)
{
    size_t bytes = (size_t)256 << 20;
    char *from = t.take<char>(bytes), *to = t.take<char>(bytes);
    struct hy_copy_args args = {HY_COPY_WITHIN, to, bytes, from, bytes, bytes, 1};
    t.copy_rate = 2.0 * (double)bytes / t.measure([&] { t.ops->copy(t.device, &args); });
}

/* Operands of a product of bf16 activations, or of f32 ones with f32 weights. */
struct product {
    struct hy_matmul_args args;
    struct hy_rounded rounded;
};

static void fill_product(timer &t, struct product *p, hymba_dtype dtype, size_t m, size_t n,
                         size_t k)
{
    *p = {};
    p->rounded.dtype = HYMBA_DTYPE_BF16;
    p->rounded.stride = k;
    p->args.m = m;
    p->args.n = p->args.y_stride = n;
    p->args.k = p->args.w_stride = p->args.x_stride = k;
    p->args.dtype = dtype;
    p->args.w = t.take<char>(n * hy_row_bytes(dtype, k));
    if (hy_is_quantised(dtype)) {
        p->args.group = 32;
        p->args.w_scales = t.take<uint16_t>(n * k / 32);
    }
    size_t panels = (m + HY_PANEL_ROWS - 1) / HY_PANEL_ROWS * HY_PANEL_ROWS; /* as a context has */
    p->args.room = panels - m;
    p->args.y = t.take<float>(panels * n);
    if (dtype == HYMBA_DTYPE_F32) {
        p->args.x = t.take<float>(panels * k);
    } else {
        p->rounded.data = t.take<uint16_t>(panels * k);
        p->args.rounded = &p->rounded;
    }
}

static void measure_matrix(timer &t)
{
    struct product p;
    size_t n = 8192;
    fill_product(t, &p, HYMBA_DTYPE_BF16, n, n, n);
    t.matrix_rate =
        2.0 * (double)(n * n * n) / t.measure([&] { t.ops->matmul(t.device, &p.args); });
}

static void time_product(timer &t, const char *name, hymba_dtype dtype, size_t m, size_t n,
                         size_t k)
{
    struct product p;
    size_t x_bytes = m * k * (dtype == HYMBA_DTYPE_F32 ? 4 : 2);
    fill_product(t, &p, dtype, m, n, k);
    size_t scale_bytes = p.args.group ? n * k / p.args.group * 2 : 0;
    t.row(name, m, (double)(n * hy_row_bytes(dtype, k) + scale_bytes + x_bytes + 4 * m * n),
          2.0 * (double)m * (double)n * (double)k, [&] { t.ops->matmul(t.device, &p.args); });
}

static void time_products(timer &t, size_t m)
{
    time_product(t, "matmul bf16 1600 -> 6400", HYMBA_DTYPE_BF16, m, 6400, HIDDEN);
    time_product(t, "matmul bf16 1600 -> 11008", HYMBA_DTYPE_BF16, m, 2 * FEED_FORWARD, HIDDEN);
    time_product(t, "matmul bf16 5504 -> 1600", HYMBA_DTYPE_BF16, m, HIDDEN, FEED_FORWARD);
    time_product(t, "matmul bf16 logits", HYMBA_DTYPE_BF16, m, 32001, HIDDEN);
    time_product(t, "matmul f32 1600 -> 6400", HYMBA_DTYPE_F32, m, 6400, HIDDEN);
    time_product(t, "matmul int8 1600 -> 6400", HYMBA_DTYPE_INT8, m, 6400, HIDDEN);
    time_product(t, "matmul int8 5504 -> 1600", HYMBA_DTYPE_INT8, m, HIDDEN, FEED_FORWARD);
    time_product(t, "matmul int8 logits", HYMBA_DTYPE_INT8, m, 32001, HIDDEN);
    time_product(t, "matmul int4 1600 -> 6400", HYMBA_DTYPE_INT4, m, 6400, HIDDEN);
    time_product(t, "matmul int4 1600 -> 11008", HYMBA_DTYPE_INT4, m, 2 * FEED_FORWARD, HIDDEN);
    time_product(t, "matmul int4 5504 -> 1600", HYMBA_DTYPE_INT4, m, HIDDEN, FEED_FORWARD);
}

static void time_rows(timer &t, size_t rows)
{
    float *x = t.take<float>(rows * INNER), *y = t.take<float>(rows * 2 * INNER);
    float *weight = t.take<float>(INNER), *wide = t.take<float>(rows * 2 * FEED_FORWARD);
    uint16_t *k_rows = t.take<uint16_t>(rows * KV_HEADS * QK);
    uint16_t *v_rows = t.take<uint16_t>(rows * KV_HEADS * V);
    double n = (double)rows;
    struct hy_rounded rounded = {};
    rounded.dtype = HYMBA_DTYPE_BF16;
    rounded.data = t.take<uint16_t>(rows * FEED_FORWARD);
    rounded.stride = HIDDEN;
    struct hy_rms_norm_args norm = {x, HIDDEN, weight, HIDDEN, 1e-6f, NULL, HIDDEN, rounded};
    t.row("rms_norm, rounded", rows, 6.0 * n * HIDDEN, 0,
          [&] { t.ops->rms_norm(t.device, &norm, rows); });
    struct hy_norm_parts_args parts = {x, RANK + 2 * STATE,
                                       {{weight, RANK}, {weight, STATE}, {weight, STATE}}, 1e-6f,
                                       rounded};
    t.row("norms of dt, B and C", rows, n * (6.0 * RANK + 16.0 * STATE), 0,
          [&] { t.ops->norm_parts(t.device, &parts, rows); });
    struct hy_round_args round = {};
    round.x = x;
    round.x_stride = round.n = round.y.stride = HIDDEN;
    round.y.dtype = HYMBA_DTYPE_BF16;
    round.y.data = y;
    t.row("round", rows, 6.0 * n * HIDDEN, 0, [&] { t.ops->round(t.device, &round, rows); });
    struct hy_rope_store_args heads = {
        x, x + HEADS * QK, y, INNER, HEADS, KV_HEADS, QK, V, y, y, HYMBA_DTYPE_BF16, k_rows,
        v_rows, rows * QK * 2, rows * V * 2};
    t.row("rope, keys and values", rows,
          n * (8.0 * HEADS * QK + 4.0 * QK + 6.0 * KV_HEADS * (QK + V)), 0,
          [&] { t.ops->rope_store(t.device, &heads, rows); });
    rounded.stride = INNER;
    struct hy_fuse_args fuse = {x, INNER, y, INNER, weight, weight, INNER, 1e-6f, false, NULL,
                                INNER, rounded, NULL, INNER};
    t.row("fuse, rounded", rows, 10.0 * n * INNER, 0,
          [&] { t.ops->fuse(t.device, &fuse, rows); });
    rounded.stride = FEED_FORWARD;
    struct hy_swiglu_args swiglu = {wide, 2 * FEED_FORWARD, wide + FEED_FORWARD, 2 * FEED_FORWARD,
                                    FEED_FORWARD, NULL, 2 * FEED_FORWARD, rounded};
    t.row("swiglu, rounded", rows, 10.0 * n * FEED_FORWARD, 0,
          [&] { t.ops->swiglu(t.device, &swiglu, rows); });
}

static void time_states(timer &t, size_t n_sequences, size_t length)
{
    size_t rows = n_sequences * length;
    float *x = t.take<float>(rows * INNER), *y = t.take<float>(rows * INNER);
    float *z = t.take<float>(rows * INNER), *bc = t.take<float>(rows * 2 * STATE);
    float *weight = t.take<float>(STATE * INNER);
    float *states = t.take<float>(n_sequences * (CONV - 1 + STATE) * INNER);
    std::vector<struct hy_state_sequence> sequences(n_sequences);
    for (size_t i = 0; i < n_sequences; i++) {
        sequences[i].segment = {i * length, length};
        float *conv_state = states + i * (CONV - 1 + STATE) * INNER;
        float *ssm_state = conv_state + (CONV - 1) * INNER;
        sequences[i].conv_before = sequences[i].conv_after = conv_state;
        sequences[i].ssm_before = sequences[i].ssm_after = ssm_state;
        sequences[i].state_type = HYMBA_DTYPE_F32;
    }
    double width = 4.0 * INNER, n = (double)rows, s = (double)n_sequences;
    struct hy_rounded rounded = {};
    rounded.dtype = HYMBA_DTYPE_BF16;
    rounded.data = t.take<uint16_t>(rows * INNER);
    rounded.stride = INNER;
    struct hy_conv_args conv = {x, INNER, weight, weight, INNER, CONV, y, INNER,
                                sequences.data(), n_sequences, rounded};
    t.row(n_sequences > 1 ? "conv, many sessions" : "conv", rows,
          width * (2.5 * n + s * 2 * (CONV - 1)), 0, [&] { t.ops->conv(t.device, &conv); });
    struct hy_scan_args scan = {x, INNER, y, INNER, z, INNER, bc, bc + STATE, 2 * STATE, weight,
                                weight, INNER, STATE, x, INNER, sequences.data(), n_sequences};
    t.row(n_sequences > 1 ? "scan, many sessions" : "scan", rows,
          width * (4 * n + s * 2 * STATE) + 8.0 * n * STATE, 0,
          [&] { t.ops->scan(t.device, &scan); });
}

static void time_attention(timer &t, size_t n_sequences, size_t length, size_t n_keys)
{
    size_t rows = n_sequences * length;
    std::vector<struct hy_attention_sequence> sequences(n_sequences);
    std::vector<struct hy_span> spans(n_sequences);
    for (size_t i = 0; i < n_sequences; i++) {
        spans[i] = {t.take<uint16_t>(n_keys * KV_HEADS * QK),
                    t.take<uint16_t>(n_keys * KV_HEADS * V), n_keys * QK * 2, n_keys * V * 2, 0,
                    n_keys, false};
        sequences[i] = {{i * length, length}, n_keys - length, UINT64_MAX, &spans[i], 1};
    }
    struct hy_attention_args args = {};
    args.q = t.take<float>(rows * HEADS * QK);
    args.q_stride = HEADS * QK;
    args.out = t.take<float>(rows * HEADS * V);
    args.out_stride = HEADS * V;
    args.n_heads = HEADS;
    args.n_kv_heads = KV_HEADS;
    args.qk_size = QK;
    args.v_size = V;
    args.scale = 0.125f;
    args.cache_type = HYMBA_DTYPE_BF16;
    args.bf16 = true;
    args.sequences = sequences.data();
    args.n_sequences = n_sequences;
    args.max_keys = n_keys;
    double visible = (double)rows * ((double)n_keys - 0.5 * (double)(length - 1));
    t.row(length == 1 ? "attention, decode" : "attention, prefill", rows,
          2.0 * (double)(n_sequences * n_keys) * KV_HEADS * (QK + V)
              + 4.0 * (double)rows * HEADS * (QK + V),
          2.0 * visible * HEADS * (QK + V), [&] { t.ops->attention(t.device, &args, rows); });
}

static void print_times(const struct hy_device_ops *ops, struct hy_device *device)
{
    double copy_rate, matrix_rate;
    {
        timer t(ops, device);
        measure_copy(t);
        measure_matrix(t);
        copy_rate = t.copy_rate;
        matrix_rate = t.matrix_rate;
    }
    printf("\ncopies move %.0f GB/s, products of 8192 x 8192 x 8192 in bf16 make %.0f TFLOP/s\n\n",
           copy_rate / 1e9, matrix_rate / 1e12);
    printf("%-26s %6s %10s %9s %7s %9s %7s\n", "op", "rows", "us", "GB/s", "of copy", "TFLOP/s",
           "of peak");
    for (size_t rows : {(size_t)1, (size_t)64, (size_t)2048}) {
        timer t(ops, device);
        t.copy_rate = copy_rate;
        t.matrix_rate = matrix_rate;
        time_rows(t, rows);
        time_products(t, rows);
        time_states(t, rows == 64 ? 64 : 1, rows == 64 ? 1 : rows);
        time_attention(t, rows == 64 ? 64 : 1, rows == 64 ? 1 : rows, 4096);
    }
    for (size_t rows : {(size_t)8, (size_t)16, (size_t)128}) {
        timer t(ops, device);
        t.copy_rate = copy_rate;
        t.matrix_rate = matrix_rate;
        time_products(t, rows);
    }
}

static uint32_t count_devices(const struct hy_device_ops *ops)
{
    struct hy_device_params params = {};
    struct hy_device *device;
    hymba_error error = {};
    params.struct_size = sizeof params;
    params.compute = HYMBA_COMPUTE_F32;
    error.struct_size = sizeof error;
    while (params.index < MOST_RANKS && ops->open(&params, &device, &error) == HYMBA_OK) {
        ops->close(device);
        params.index++;
    }
    return (uint32_t)params.index;
}

/* Among all devices of this machine that can be joined. */
static int compare_all_ranks(const struct hy_device_ops *ops)
{
    const uint32_t n = count_devices(ops);
    int failures = 0;
    if (n < 2)
        printf("%-8s sums over ranks: this machine has one device\n", "skipped");
    for (uint32_t n_ranks = 2; n_ranks <= n; n_ranks++) {
        char name[40];
        snprintf(name, sizeof name, "sums over %u ranks", (unsigned)n_ranks);
        failures += tell(name, compare_ranks(ops, n_ranks), "");
    }
    if (n >= 2)
        failures += tell("a rank that stops", lose_a_rank(ops, n, RANK_LIMIT), "");
    return failures;
}

int main(int argc, char **argv)
{
    struct hy_device_params params = {};
    struct hy_device_info info = {};
    struct hy_device *device;
    hymba_error error = {};
    bool times = true;
    params.struct_size = sizeof params;
    params.compute = HYMBA_COMPUTE_BF16;
    info.struct_size = sizeof info;
    error.struct_size = sizeof error;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--no-times") == 0)
            times = false;
        else
            params.index = atoi(argv[i]);
    }
    const struct hy_device_ops *ops = hymba_device_plugin(HY_DEVICE_INTERFACE);
    if (!ops || ops->open(&params, &device, &error) != HYMBA_OK) {
        fprintf(stderr, "check_cuda: %s\n",
                ops ? error.message : "the plug-in is of another version");
        return 1;
    }
    ops->get_info(device, &info);
    printf("device %d: %s, %.1f of %.1f GiB free\n", params.index, info.name,
           (double)info.free_bytes / (1 << 30), (double)info.total_bytes / (1 << 30));
    int failures = compare_all(ops, device, params.index, times);
    failures += compare_all_ranks(ops);
    if (times && failures == 0)
        print_times(ops, device);
    ops->close(device);
    printf("%s\n", failures ? "check_cuda: some ops FAILED" : "check_cuda: every op agrees");
    return failures != 0;
}
