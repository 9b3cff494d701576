#include "compare_step.h"

extern "C" {
#include "base/checked.h"
#include "kernel/ref.h"
}

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <random>
#include <vector>

/* Rows of the step, one of them nobody's, and the sizes of the layer; HEADS * V is INNER. */
enum {
    SESSIONS = 4,
    ROWS = 5,
    VOCABULARY = 51,
    HIDDEN = 128,
    HEADS = 4,
    KV_HEADS = 2,
    QK = 32,
    V = 64,
    INNER = HEADS * V,
    RANK = 20,
    STATES = 16,
    WIDTH = 4,
    FEED_FORWARD = 192,
    GROUP = 32,
    BLOCK = 256, /* keys of a span */
    MOST_KEYS = 3 * BLOCK,
    Q_AT = 0,
    K_AT = Q_AT + HEADS * QK,
    V_AT = K_AT + KV_HEADS * QK,
    X_AT = V_AT + KV_HEADS * V,
    Z_AT = X_AT + INNER,
    PROJECTED = Z_AT + INNER,
    PARTS = RANK + 2 * STATES
};

namespace {

/* What the device says of its steps. */
struct step_log {
    char graph[256], warning[256];
    size_t n_graphs;
};

void take_line(void *user, int level, const char *line)
{
    struct step_log *log = (struct step_log *)user;
    if (level == HYMBA_LOG_WARNING)
        snprintf(log->warning, sizeof log->warning, "%s", line);
    if (!strstr(line, "from now on a graph"))
        return;
    snprintf(log->graph, sizeof log->graph, "%s", line);
    log->n_graphs++;
}

/* A matrix in the device's memory. */
struct weights {
    hymba_dtype dtype;
    void *data;
    uint16_t *scales;
};

/* An array in the device's memory that a step writes. */
struct output {
    unsigned char *data;
    size_t bytes;
};

class layer {
public:
    layer(const struct hy_device_ops *ops_, struct hy_device *device_, unsigned seed)
        : ops(ops_), device(device_), random(seed), is_complete(true)
    {
        make_weights();
        make_buffers();
        make_caches();
    }
    ~layer()
    {
        for (void *data : taken)
            ops->release(device, data);
    }
    bool has_memory() const
    {
        return is_complete;
    }
    /* The step of the sessions in this order, each with its own states and keys; recorded or not.
     * What it leaves, or nothing after a failure. */
    std::vector<unsigned char> run(const std::vector<size_t> &order, bool recorded,
                                   hymba_error *error);

private:
    void *take(size_t bytes);
    void put(void *to, const void *from, size_t bytes);
    float *make_floats(size_t n, float scale);
    struct weights make_matrix(hymba_dtype dtype, size_t rows, size_t columns);
    struct output make_output(size_t bytes);
    void make_weights();
    void make_buffers();
    void make_caches();
    void reset();
    void queue(const std::vector<size_t> &order);
    void mix(const std::vector<size_t> &order);
    void attend(const std::vector<size_t> &order);
    void feed_forward();
    struct hy_rounded rounded_rows(size_t n) const;
    void norm(const float *weight);
    void multiply(const struct weights &w, size_t n, size_t k, const float *bias, bool accumulate,
                  float *y, size_t y_stride);

    const struct hy_device_ops *ops;
    struct hy_device *device;
    std::mt19937 random;
    std::vector<void *> taken;
    bool is_complete;

    struct weights table, in_proj, x_proj, dt_proj, out_proj, gate, up, down, head;
    float *norms[5], *part_norms[3], *conv_weight, *conv_bias, *dt_bias, *a, *d;
    int32_t *ids;
    float *cosine, *sine;
    void *rounded;
    float *projected, *attended, *u, *parts, *dt, *gated, *raised;
    unsigned char *keys, *values;      /* of the past: [SESSIONS][KV_HEADS][MOST_KEYS] rows */
    float *first_states, *states;      /* [SESSIONS][WIDTH - 1 + STATES][INNER] */
    unsigned char *step_keys, *step_values;
    float *x, *logits;
    std::vector<struct output> outputs;
};

/* ------------------------------------------------------------------- memory */

void *layer::take(size_t bytes)
{
    void *data = ops->allocate(device, bytes);
    if (data)
        taken.push_back(data);
    is_complete = is_complete && data;
    return data;
}

void layer::put(void *to, const void *from, size_t bytes)
{
    struct hy_copy_args args = {HY_COPY_TO_DEVICE, to, bytes, from, bytes, bytes, 1};
    if (to)
        ops->copy(device, &args);
}

float *layer::make_floats(size_t n, float scale)
{
    std::vector<float> numbers(n);
    for (float &number : numbers)
        number = ((float)(random() % 20001) / 10000.0f - 1.0f) * scale;
    float *data = (float *)take(n * sizeof(float));
    put(data, numbers.data(), n * sizeof(float));
    return data;
}

struct weights layer::make_matrix(hymba_dtype dtype, size_t rows, size_t columns)
{
    struct weights w = {dtype, NULL, NULL};
    std::vector<unsigned char> data(rows * hy_row_bytes(dtype, columns));
    std::vector<uint16_t> scales(rows * columns / GROUP + 1, hy_f32_to_bf16(0.001f));
    for (size_t i = 0; i < data.size(); i++)
        data[i] = (unsigned char)random();
    for (size_t i = 0; dtype == HYMBA_DTYPE_BF16 && i < rows * columns; i++) {
        uint16_t number = hy_f32_to_bf16((float)(random() % 2001) / 10000.0f - 0.1f);
        memcpy(&data[2 * i], &number, sizeof number);
    }
    w.data = take(data.size());
    w.scales = (uint16_t *)take(scales.size() * sizeof scales[0]);
    put(w.data, data.data(), data.size());
    put(w.scales, scales.data(), scales.size() * sizeof scales[0]);
    return w;
}

struct output layer::make_output(size_t bytes)
{
    struct output output = {(unsigned char *)take(bytes), bytes};
    outputs.push_back(output);
    return output;
}

void layer::make_weights()
{
    const hymba_dtype bf16 = HYMBA_DTYPE_BF16;
    table = make_matrix(bf16, VOCABULARY, HIDDEN);
    in_proj = make_matrix(bf16, PROJECTED, HIDDEN);
    x_proj = make_matrix(bf16, PARTS, INNER);
    dt_proj = make_matrix(bf16, INNER, RANK);
    out_proj = make_matrix(bf16, HIDDEN, INNER);
    gate = make_matrix(HYMBA_DTYPE_INT8, FEED_FORWARD, HIDDEN);
    up = make_matrix(bf16, FEED_FORWARD, HIDDEN);
    down = make_matrix(HYMBA_DTYPE_INT4, HIDDEN, FEED_FORWARD);
    head = make_matrix(bf16, VOCABULARY, HIDDEN);
    for (float *&weight : norms)
        weight = make_floats(INNER, 1.0f);
    for (float *&weight : part_norms)
        weight = make_floats(RANK, 1.0f);
    conv_weight = make_floats(WIDTH * INNER, 0.5f);
    conv_bias = make_floats(INNER, 0.5f);
    dt_bias = make_floats(INNER, 0.5f);
    d = make_floats(INNER, 1.0f);
    std::vector<float> rates(STATES * INNER);
    for (float &rate : rates)
        rate = -0.1f - (float)(random() % 1000) / 1000.0f;
    a = (float *)take(rates.size() * sizeof(float));
    put(a, rates.data(), rates.size() * sizeof(float));
}

/* With room for whole panels, as a context has. Whatever a step writes begins as no number. */
void layer::make_buffers()
{
    const size_t rows = HY_PANEL_ROWS;
    ids = (int32_t *)take(ROWS * sizeof *ids);
    cosine = make_floats(ROWS * QK / 2, 1.0f);
    sine = make_floats(ROWS * QK / 2, 1.0f);
    rounded = make_output(rows * hy_padded_row(INNER) * sizeof(uint16_t)).data;
    x = (float *)make_output(rows * HIDDEN * sizeof(float)).data;
    projected = (float *)make_output(rows * PROJECTED * sizeof(float)).data;
    attended = (float *)make_output(rows * INNER * sizeof(float)).data;
    u = (float *)make_output(rows * INNER * sizeof(float)).data;
    parts = (float *)make_output(rows * PARTS * sizeof(float)).data;
    dt = (float *)make_output(rows * INNER * sizeof(float)).data;
    gated = (float *)make_output(rows * FEED_FORWARD * sizeof(float)).data;
    raised = (float *)make_output(rows * FEED_FORWARD * sizeof(float)).data;
    logits = (float *)make_output(rows * VOCABULARY * sizeof(float)).data;
    step_keys = make_output(KV_HEADS * ROWS * QK * sizeof(uint16_t)).data;
    step_values = make_output(KV_HEADS * ROWS * V * sizeof(uint16_t)).data;
}

void layer::make_caches()
{
    const size_t n = SESSIONS * (WIDTH - 1 + STATES) * INNER;
    std::vector<uint16_t> rows(SESSIONS * KV_HEADS * MOST_KEYS * V);
    for (uint16_t &number : rows)
        number = hy_f32_to_bf16((float)(random() % 2001) / 1000.0f - 1.0f);
    keys = (unsigned char *)take(rows.size() / V * QK * sizeof rows[0]);
    values = (unsigned char *)take(rows.size() * sizeof rows[0]);
    put(keys, rows.data(), rows.size() / V * QK * sizeof rows[0]);
    put(values, rows.data(), rows.size() * sizeof rows[0]);
    first_states = make_floats(n, 1.0f);
    states = (float *)make_output(n * sizeof(float)).data;
}

/* ------------------------------------------------------------------ the step */

/* Everything as before the step. */
void layer::reset()
{
    for (const struct output &output : outputs)
        ops->fill(device, output.data, 0xff, output.bytes);
    size_t bytes = SESSIONS * (WIDTH - 1 + STATES) * INNER * sizeof(float);
    struct hy_copy_args args = {HY_COPY_WITHIN, states, bytes, first_states, bytes, bytes, 1};
    ops->copy(device, &args);
}

struct hy_rounded layer::rounded_rows(size_t n) const
{
    struct hy_rounded rows = {};
    rows.dtype = HYMBA_DTYPE_BF16;
    rows.data = rounded;
    rows.stride = hy_padded_row(n);
    return rows;
}

void layer::norm(const float *weight)
{
    struct hy_rms_norm_args args = {};
    args.x = x;
    args.x_stride = args.n = args.y_stride = HIDDEN;
    args.weight = weight;
    args.epsilon = 1e-6f;
    args.rounded = rounded_rows(HIDDEN);
    ops->rms_norm(device, &args, ROWS);
}

/* Of the rounded rows. */
void layer::multiply(const struct weights &w, size_t n, size_t k, const float *bias,
                     bool accumulate, float *y, size_t y_stride)
{
    const struct hy_rounded rows = rounded_rows(k);
    struct hy_matmul_args args = {};
    args.rounded = &rows;
    args.m = ROWS;
    args.n = n;
    args.k = args.w_stride = k;
    args.w = w.data;
    args.dtype = w.dtype;
    if (hy_is_quantised(w.dtype)) {
        args.w_scales = w.scales;
        args.group = GROUP;
    }
    args.bias = bias;
    args.accumulate = accumulate;
    args.y = y;
    args.y_stride = y_stride;
    args.room = HY_PANEL_ROWS - ROWS;
    ops->matmul(device, &args);
}

/* The session's past keys in spans, and the step's own. */
void list_spans(std::vector<struct hy_span> &spans, size_t length, unsigned char *keys,
                       unsigned char *values)
{
    for (size_t position = 0; position < length; position += BLOCK) {
        struct hy_span span = {};
        span.k = keys + position * QK * sizeof(uint16_t);
        span.v = values + position * V * sizeof(uint16_t);
        span.k_head_stride = MOST_KEYS * QK * sizeof(uint16_t);
        span.v_head_stride = MOST_KEYS * V * sizeof(uint16_t);
        span.position = position;
        span.count = hy_min_size(length - position, BLOCK);
        spans.push_back(span);
    }
}

void layer::attend(const std::vector<size_t> &order)
{
    static const size_t lengths[SESSIONS] = {3, 300, 513, 256};
    std::vector<struct hy_attention_sequence> sequences(order.size());
    std::vector<std::vector<struct hy_span>> spans(order.size());
    for (size_t i = 0; i < order.size(); i++) {
        size_t length = lengths[order[i]], rows = order[i] * KV_HEADS * MOST_KEYS;
        list_spans(spans[i], length, keys + rows * QK * sizeof(uint16_t),
                   values + rows * V * sizeof(uint16_t));
        struct hy_span own = {};
        own.k = step_keys + i * QK * sizeof(uint16_t);
        own.v = step_values + i * V * sizeof(uint16_t);
        own.k_head_stride = ROWS * QK * sizeof(uint16_t);
        own.v_head_stride = ROWS * V * sizeof(uint16_t);
        own.position = length;
        own.count = 1;
        spans[i].push_back(own);
        sequences[i].segment = {i, 1};
        sequences[i].position = length;
        sequences[i].window = order[i] == 2 ? 300 : UINT64_MAX;
        sequences[i].spans = spans[i].data();
        sequences[i].n_spans = spans[i].size();
    }
    struct hy_attention_args args = {};
    args.q = projected + Q_AT;
    args.q_stride = PROJECTED;
    args.out = attended;
    args.out_stride = INNER;
    args.n_heads = HEADS;
    args.n_kv_heads = KV_HEADS;
    args.qk_size = QK;
    args.v_size = V;
    args.scale = 0.177f;
    args.cache_type = HYMBA_DTYPE_BF16;
    args.bf16 = true;
    args.sequences = sequences.data();
    args.n_sequences = sequences.size();
    args.max_keys = MOST_KEYS;
    ops->attention(device, &args, ROWS);
}

/* Heads, attention, the convolution and the scan. */
void layer::mix(const std::vector<size_t> &order)
{
    struct hy_rope_store_args heads = {};
    heads.q = projected + Q_AT;
    heads.k = projected + K_AT;
    heads.v = projected + V_AT;
    heads.stride = PROJECTED;
    heads.n_heads = HEADS;
    heads.n_kv_heads = KV_HEADS;
    heads.qk_size = QK;
    heads.v_size = V;
    heads.cosine = cosine;
    heads.sine = sine;
    heads.dtype = HYMBA_DTYPE_BF16;
    heads.k_rows = step_keys;
    heads.v_rows = step_values;
    heads.k_head_stride = ROWS * QK * sizeof(uint16_t);
    heads.v_head_stride = ROWS * V * sizeof(uint16_t);
    ops->rope_store(device, &heads, ROWS);
    attend(order);
    std::vector<struct hy_state_sequence> sequences(order.size());
    for (size_t i = 0; i < order.size(); i++) {
        float *state = states + order[i] * (WIDTH - 1 + STATES) * INNER;
        sequences[i].segment = {i, 1};
        sequences[i].conv_before = sequences[i].conv_after = state;
        sequences[i].ssm_before = sequences[i].ssm_after = state + (WIDTH - 1) * INNER;
        sequences[i].state_type = HYMBA_DTYPE_F32;
    }
    struct hy_conv_args conv = {};
    conv.x = projected + X_AT;
    conv.x_stride = PROJECTED;
    conv.weight = conv_weight;
    conv.bias = conv_bias;
    conv.n = conv.y_stride = INNER;
    conv.width = WIDTH;
    conv.y = u;
    conv.sequences = sequences.data();
    conv.n_sequences = sequences.size();
    conv.rounded = rounded_rows(INNER);
    ops->conv(device, &conv);
    multiply(x_proj, PARTS, INNER, NULL, false, parts, PARTS);
    struct hy_norm_parts_args norm = {};
    norm.x = parts;
    norm.x_stride = PARTS;
    norm.epsilon = 1e-6f;
    norm.parts[0] = {part_norms[0], RANK};
    norm.parts[1] = {part_norms[1], STATES};
    norm.parts[2] = {part_norms[2], STATES};
    norm.rounded = rounded_rows(RANK);
    ops->norm_parts(device, &norm, ROWS);
    multiply(dt_proj, INNER, RANK, dt_bias, false, dt, INNER);
    struct hy_scan_args scan = {};
    scan.dt = scan.y = dt;
    scan.x = u;
    scan.z = projected + Z_AT;
    scan.z_stride = PROJECTED;
    scan.dt_stride = scan.x_stride = scan.y_stride = scan.n = INNER;
    scan.b = parts + RANK;
    scan.c = parts + RANK + STATES;
    scan.bc_stride = PARTS;
    scan.a = a;
    scan.d = d;
    scan.state_size = STATES;
    scan.sequences = sequences.data();
    scan.n_sequences = sequences.size();
    ops->scan(device, &scan);
}

void layer::feed_forward()
{
    multiply(gate, FEED_FORWARD, HIDDEN, NULL, false, gated, FEED_FORWARD);
    multiply(up, FEED_FORWARD, HIDDEN, NULL, false, raised, FEED_FORWARD);
    struct hy_swiglu_args args = {};
    args.gate = gated;
    args.up = raised;
    args.gate_stride = args.up_stride = args.n = args.y_stride = FEED_FORWARD;
    args.rounded = rounded_rows(FEED_FORWARD);
    ops->swiglu(device, &args, ROWS);
    multiply(down, HIDDEN, FEED_FORWARD, NULL, true, x, HIDDEN);
}

/* All ops of a model of this one layer. */
void layer::queue(const std::vector<size_t> &order)
{
    struct hy_embed_args embed = {};
    embed.ids = ids;
    embed.table.data = table.data;
    embed.table.dtype = table.dtype;
    embed.table.rows = VOCABULARY;
    embed.table.columns = HIDDEN;
    embed.y = x;
    ops->embed(device, &embed, ROWS);
    norm(norms[0]);
    multiply(in_proj, PROJECTED, HIDDEN, NULL, false, projected, PROJECTED);
    mix(order);
    struct hy_fuse_args fuse = {};
    fuse.attention = attended;
    fuse.ssm = dt;
    fuse.attention_stride = fuse.ssm_stride = fuse.n = fuse.y_stride = fuse.total = INNER;
    fuse.weight_attention = norms[1];
    fuse.weight_ssm = norms[2];
    fuse.epsilon = 1e-6f;
    fuse.rounded = rounded_rows(INNER);
    ops->fuse(device, &fuse, ROWS);
    multiply(out_proj, HIDDEN, INNER, NULL, true, x, HIDDEN);
    norm(norms[3]);
    feed_forward();
    norm(norms[4]);
    multiply(head, VOCABULARY, HIDDEN, NULL, false, logits, VOCABULARY);
}

/* -------------------------------------------------------------- comparisons */

/* Logits and hidden state of the sessions' rows, and all states, keys and values. */
std::vector<unsigned char> layer::run(const std::vector<size_t> &order, bool recorded,
                                      hymba_error *error)
{
    const struct output wanted[] = {
        {(unsigned char *)logits, order.size() * VOCABULARY * sizeof(float)},
        {(unsigned char *)x, order.size() * HIDDEN * sizeof(float)},
        {(unsigned char *)states, SESSIONS * (WIDTH - 1 + STATES) * INNER * sizeof(float)},
        {step_keys, KV_HEADS * ROWS * QK * sizeof(uint16_t)},
        {step_values, KV_HEADS * ROWS * V * sizeof(uint16_t)},
    };
    int32_t tokens[ROWS] = {0};
    std::vector<unsigned char> results;
    for (size_t i = 0; i < order.size(); i++)
        tokens[i] = (int32_t)(11 * order[i] + 5);
    put(ids, tokens, sizeof tokens);
    reset();
    if (recorded)
        ops->begin_step(device, ROWS);
    queue(order);
    if (recorded)
        ops->end_step(device, true);
    for (const struct output &output : wanted)
        results.resize(results.size() + output.bytes);
    unsigned char *to = results.data();
    for (const struct output &output : wanted) {
        struct hy_copy_args args = {HY_COPY_TO_HOST, to,           output.bytes, output.data,
                                    output.bytes,    output.bytes, 1};
        ops->copy(device, &args);
        to += output.bytes;
    }
    if (ops->finish(device, error) != HYMBA_OK)
        results.clear();
    return results;
}

/* The sentence that is wrong with the ways of the step, if there is one. */
const char *compare_ways(class layer &layer, const struct step_log &log)
{
    static char message[600];
    static const char *const ways[] = {"launched", "captured", "replayed",
                                       "replayed with other sessions",
                                       "replayed with fewer sessions"};
    static const std::vector<size_t> orders[] = {
        {0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}, {2, 0, 3, 1}, {1, 2, 3}};
    hymba_error error = {};
    error.struct_size = sizeof error;
    for (size_t way = 0; way < sizeof ways / sizeof ways[0]; way++) {
        const std::vector<unsigned char> single = layer.run(orders[way], false, &error);
        const std::vector<unsigned char> whole = layer.run(orders[way], true, &error);
        if (single.empty() || whole.empty())
            snprintf(message, sizeof message, "%s", error.message);
        else if (single != whole)
            snprintf(message, sizeof message, "a step that is %s has other bits than its ops",
                     ways[way]);
        else if (way > 0 && log.n_graphs == 0)
            snprintf(message, sizeof message, "the step is no graph: %s",
                     log.warning[0] ? log.warning : "the log does not say why");
        else
            continue;
        return message;
    }
    return NULL;
}

} // namespace

const char *compare_step(const struct hy_device_ops *ops, int index, unsigned seed,
                         char *graph_line)
{
    static char message[600];
    struct step_log log = {};
    struct hy_device_params params = {};
    struct hy_device *device;
    hymba_error error = {};
    const char *difference = "no memory for a layer";
    params.struct_size = sizeof params;
    params.index = index;
    params.compute = HYMBA_COMPUTE_BF16;
    params.log = take_line;
    params.log_user = &log;
    error.struct_size = sizeof error;
    if (ops->open(&params, &device, &error) != HYMBA_OK) {
        snprintf(message, sizeof message, "%s", error.message);
        return message;
    }
    {
        class layer layer(ops, device, seed);
        if (layer.has_memory())
            difference = compare_ways(layer, log);
    }
    ops->close(device);
    snprintf(graph_line, sizeof log.graph, "%s", log.graph);
    return difference;
}
