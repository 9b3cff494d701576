/*
 * Steps of the plug-in as CUDA graphs, under the harness: the bits are those of single launches,
 * sessions come and go without another capture, and whatever fails on the way to a graph leaves the
 * step as it would be without.
 */
#include "device.h"
#include "harness.h"

#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

extern "C" {
#include "support.h"
}

extern "C" const struct hy_device_ops *hymba_device_plugin(uint32_t interface_version);

enum {
    MOST_ROWS = 8,
    HEADS = 2,
    SIZE = 16, /* of a head */
    N = HEADS * SIZE,
    WIDTH = 4,
    MOST_KEYS = 1200,
    PINNED = 3
};

static const struct hy_device_ops *ops;
static hymba_error error;

/* What a played device says. */
struct log_lines {
    std::vector<std::string> graphs, warnings;
};

static void take_line(void *user, int level, const char *line)
{
    struct log_lines *lines = (struct log_lines *)user;
    if (level == HYMBA_LOG_WARNING)
        lines->warnings.push_back(line);
    else if (strstr(line, "graph"))
        lines->graphs.push_back(line);
}

/*
 * A device with numbers to compute with: a norm, a product, a convolution and attention, one after
 * the other. Sequence i has lengths[i] keys and the states number slots[i].
 */
struct scene {
    struct hy_device *device;
    struct log_lines lines;
    float *x, *weight, *normed, *w, *product, *conv_weight, *conv_bias, *conv, *out;
    float *states; /* [MOST_ROWS][WIDTH - 1][N] */
    float *k, *v;  /* [MOST_KEYS][HEADS][SIZE]: all sequences read the same */
    float epsilon;
};

static float *make_floats(struct scene *scene, size_t n)
{
    std::vector<float> values(n);
    for (float &value : values)
        value = (float)(2.0 * test_random() - 1.0);
    float *data = (float *)ops->allocate(scene->device, n * sizeof(float));
    ck_assert_ptr_nonnull(data);
    struct hy_copy_args there = {HY_COPY_TO_DEVICE, data, 0, values.data(), 0, n * sizeof(float),
                                 1};
    ops->copy(scene->device, &there);
    return data;
}

static void open_scene(struct scene *scene)
{
    struct hy_device_params params = {};
    params.struct_size = sizeof params;
    params.compute = HYMBA_COMPUTE_F32;
    params.log = take_line;
    params.log_user = &scene->lines;
    error = {};
    error.struct_size = sizeof error;
    test_random_seed(7);
    test_status(ops->open(&params, &scene->device, &error), HYMBA_OK, error);
    scene->epsilon = 1e-6f;
    for (float **rows : {&scene->x, &scene->normed, &scene->product, &scene->conv, &scene->out})
        *rows = make_floats(scene, MOST_ROWS * N);
    for (float **row : {&scene->weight, &scene->conv_bias})
        *row = make_floats(scene, N);
    scene->w = make_floats(scene, N * N);
    scene->conv_weight = make_floats(scene, WIDTH * N);
    scene->states = make_floats(scene, MOST_ROWS * (WIDTH - 1) * N);
    scene->k = make_floats(scene, MOST_KEYS * N);
    scene->v = make_floats(scene, MOST_KEYS * N);
}

static hymba_status finish(const struct scene *scene)
{
    error = {};
    error.struct_size = sizeof error;
    return ops->finish(scene->device, &error);
}

static void close_scene(struct scene *scene)
{
    for (float *data : {scene->x, scene->weight, scene->normed, scene->w, scene->product,
                        scene->conv_weight, scene->conv_bias, scene->conv, scene->out,
                        scene->states, scene->k, scene->v})
        ops->release(scene->device, data);
    ops->close(scene->device);
}

/* ------------------------------------------------------------------ the ops */

static void call_norm(const struct scene *scene, size_t rows)
{
    struct hy_rms_norm_args args;
    memset((void *)&args, 0xee, sizeof args); /* what stands between the fields tells nothing */
    args.x = scene->x;
    args.x_stride = N;
    args.weight = scene->weight;
    args.n = N;
    args.epsilon = scene->epsilon;
    args.y = scene->normed;
    args.y_stride = N;
    args.rounded = {};
    ops->rms_norm(scene->device, &args, rows);
}

static void call_matmul(const struct scene *scene, size_t rows)
{
    struct hy_matmul_args args = {};
    args.x = scene->normed;
    args.x_stride = N;
    args.m = rows;
    args.n = N;
    args.k = N;
    args.w = scene->w;
    args.dtype = HYMBA_DTYPE_F32;
    args.w_stride = N;
    args.y = scene->product;
    args.y_stride = N;
    ops->matmul(scene->device, &args);
}

static void call_conv(const struct scene *scene, const std::vector<size_t> &slots)
{
    std::vector<struct hy_state_sequence> sequences(slots.size());
    for (size_t i = 0; i < slots.size(); i++) {
        float *state = scene->states + slots[i] * (WIDTH - 1) * N;
        sequences[i].segment = {i, 1};
        sequences[i].conv_before = sequences[i].conv_after = state;
        sequences[i].state_type = HYMBA_DTYPE_F32;
    }
    struct hy_conv_args args = {};
    args.x = scene->product;
    args.x_stride = N;
    args.weight = scene->conv_weight;
    args.bias = scene->conv_bias;
    args.n = N;
    args.width = WIDTH;
    args.y = scene->conv;
    args.y_stride = N;
    args.sequences = sequences.data();
    args.n_sequences = sequences.size();
    ops->conv(scene->device, &args);
}

static struct hy_span make_span(const struct scene *scene, size_t position, size_t count)
{
    struct hy_span span = {};
    span.k = scene->k + position * SIZE;
    span.v = scene->v + position * SIZE;
    span.k_head_stride = span.v_head_stride = MOST_KEYS * SIZE * sizeof(float);
    span.position = position;
    span.count = count;
    return span;
}

struct head_sizes {
    size_t n_heads, n_kv_heads, v_size;
};

/* The first keys are pinned; half of the sequences have a window, which leaves a gap behind these,
 * and the others' keys lie in two spans. */
static void call_attention(const struct scene *scene, const std::vector<size_t> &lengths,
                           size_t rows, const float *q, float *out, bool repeated = false,
                           const struct head_sizes &sizes = {HEADS, HEADS, SIZE})
{
    std::vector<struct hy_span> spans;
    std::vector<struct hy_attention_sequence> sequences(lengths.size());
    spans.reserve(3 * lengths.size());
    for (size_t i = 0; i < lengths.size(); i++) {
        size_t middle = PINNED + (lengths[i] - PINNED) / 3;
        sequences[i].segment = {i, 1};
        sequences[i].position = lengths[i] - 1;
        sequences[i].window = lengths[i] % 2 ? 300 : UINT64_MAX;
        sequences[i].spans = spans.data() + spans.size();
        sequences[i].n_spans = 3;
        spans.push_back(make_span(scene, 0, PINNED));
        spans.back().pinned = true;
        spans.push_back(make_span(scene, PINNED, middle - PINNED));
        spans.push_back(make_span(scene, middle, lengths[i] - middle));
    }
    struct hy_attention_args args = {};
    args.q = q;
    args.q_stride = N;
    args.out = out;
    args.out_stride = N;
    args.repeated = repeated;
    args.n_heads = sizes.n_heads;
    args.n_kv_heads = sizes.n_kv_heads;
    args.qk_size = SIZE;
    args.v_size = sizes.v_size;
    args.scale = 0.25f;
    args.cache_type = HYMBA_DTYPE_F32;
    args.sequences = sequences.data();
    args.n_sequences = sequences.size();
    for (size_t length : lengths)
        args.max_keys = hy_max_size(args.max_keys, length);
    ops->attention(scene->device, &args, rows);
}

/* A step of sequences with these states and so many keys. rows 0: its ops alone. */
static void call_ops(const struct scene *scene, const std::vector<size_t> &slots,
                     const std::vector<size_t> &lengths, size_t rows, bool run = true)
{
    size_t computed = rows ? rows : slots.size();
    if (rows)
        ops->begin_step(scene->device, rows);
    call_norm(scene, computed);
    call_matmul(scene, computed);
    call_conv(scene, slots);
    call_attention(scene, lengths, computed, scene->conv, scene->out);
    if (rows)
        ops->end_step(scene->device, run);
}

/* The first n rows of the result, and all states. */
static std::vector<float> read_results(const struct scene *scene, size_t n)
{
    std::vector<float> results(n * N + MOST_ROWS * (WIDTH - 1) * N);
    struct hy_copy_args out = {HY_COPY_TO_HOST, results.data(), 0, scene->out, 0,
                               n * N * sizeof(float), 1};
    struct hy_copy_args states = {HY_COPY_TO_HOST, results.data() + n * N, 0, scene->states, 0,
                                  (results.size() - n * N) * sizeof(float), 1};
    ops->copy(scene->device, &out);
    ops->copy(scene->device, &states);
    test_status(finish(scene), HYMBA_OK, error);
    return results;
}

/* Sessions 0 .. n of lengths from the first one on, each a key longer than the one before. */
struct members {
    std::vector<size_t> slots, lengths;
};

static struct members make_members(size_t n, size_t first_length)
{
    struct members members;
    for (size_t i = 0; i < n; i++) {
        members.slots.push_back((i * 5 + 2) % MOST_ROWS);
        members.lengths.push_back(first_length + i);
    }
    return members;
}

/* The same step in both scenes, single ops and a whole; the bits must be the same. */
static void compare_step(const struct scene *single, const struct scene *whole,
                         const struct members &members, size_t rows)
{
    size_t n = members.slots.size();
    call_ops(single, members.slots, members.lengths, 0);
    call_ops(whole, members.slots, members.lengths, rows);
    std::vector<float> expected = read_results(single, n), found = read_results(whole, n);
    ck_assert(memcmp(expected.data(), found.data(), expected.size() * sizeof(float)) == 0);
}

static size_t calls(const char *name)
{
    return harness_call_count(name);
}

static void setup()
{
    harness_reset();
    ops = hymba_device_plugin(HY_DEVICE_INTERFACE);
    ck_assert_ptr_nonnull(ops);
}

static void teardown()
{
    ck_assert_msg(harness_error_count() == 0, "%s", harness_first_error());
    ck_assert_uint_eq(harness_live_count(), 0);
    harness_reset();
}

/* -------------------------------------------------------------------- graphs */

/* The first time single launches, the second time a capture, then the graph alone. */
START_TEST(a_step_has_the_bits_of_its_ops)
{
    struct scene single, whole;
    open_scene(&single);
    open_scene(&whole);
    for (size_t n : {1, 3, 4, 8}) {
        size_t rows = n == 3 ? 4 : n;
        for (int time = 0; time < 4; time++)
            compare_step(&single, &whole, make_members(n, 200 + 7 * n), rows);
    }
    ck_assert_uint_eq(calls("cudaGraphInstantiate"), 3);
    ck_assert_uint_ge(calls("cudaGraphLaunch"), 9);
    ck_assert_uint_eq(whole.lines.graphs.size(), 3);
    ck_assert_uint_eq(whole.lines.warnings.size(), 0);
    ck_assert_msg(whole.lines.graphs[0].find("CUDA device 0: a step of 1 rows") == 0, "%s",
                  whole.lines.graphs[0].c_str());
    close_scene(&single);
    close_scene(&whole);
}
END_TEST

/* Lengths on both sides of what parts of keys and the padding of their number begin with. */
START_TEST(attention_of_any_length_is_padded)
{
    static const size_t lengths[] = {4, 255, 256, 257, 303, 512, 559, 700, 1023, 1100, 1180};
    struct scene single, whole;
    open_scene(&single);
    open_scene(&whole);
    for (size_t length : lengths)
        for (size_t n : {1, 3, 5})
            for (int time = 0; time < 3; time++)
                compare_step(&single, &whole, make_members(n, length), n == 5 ? 8 : n == 3 ? 4 : 1);
    close_scene(&single);
    close_scene(&whole);
}
END_TEST

/* Layers that see the same share one plan and its lists, launched and replayed. */
START_TEST(repeated_attention_shares_its_lists)
{
    struct scene single, whole;
    open_scene(&single);
    open_scene(&whole);
    for (size_t time = 0; time < 4; time++) {
        const std::vector<size_t> lengths = {300 + time, 290, 400, 511};
        for (struct scene *scene : {&single, &whole}) {
            if (scene == &whole)
                ops->begin_step(scene->device, 4);
            call_attention(scene, lengths, 4, scene->x, scene->conv);
            size_t used = scene->device->step.lists.used;
            call_attention(scene, lengths, 4, scene->conv, scene->out, true);
            ck_assert_uint_eq(scene->device->step.lists.used, used);
            call_attention(scene, {20, 30, 40, 50}, 4, scene->out, scene->normed);
            call_attention(scene, {20, 30, 40, 50}, 4, scene->normed, scene->out, true);
            ck_assert(scene == &single || scene->device->step.lists.used > used);
            if (scene == &whole)
                ops->end_step(scene->device, true);
        }
        std::vector<float> expected = read_results(&single, 4), found = read_results(&whole, 4);
        ck_assert(memcmp(expected.data(), found.data(), expected.size() * sizeof(float)) == 0);
    }
    ck_assert_uint_eq(whole.lines.graphs.size(), 1);
    close_scene(&single);
    close_scene(&whole);
}
END_TEST

/* But not a call with other heads or other values, whose plan is another. */
START_TEST(repeated_attention_with_other_heads_has_its_own_lists)
{
    static const struct head_sizes calls_sizes[] = {
        {2, 2, SIZE}, {2, 1, SIZE}, {1, 1, SIZE}, {1, 1, SIZE / 2}};
    const std::vector<size_t> lengths = {300, 290, 400, 511};
    struct scene single, whole;
    open_scene(&single);
    open_scene(&whole);
    for (struct scene *scene : {&single, &whole}) {
        size_t used = 0;
        if (scene == &whole)
            ops->begin_step(scene->device, 4);
        for (const struct head_sizes &sizes : calls_sizes) {
            call_attention(scene, lengths, 4, scene->x, scene->out, used > 0, sizes);
            ck_assert(scene == &single || scene->device->step.lists.used > used);
            used = scene->device->step.lists.used;
        }
        if (scene == &whole)
            ops->end_step(scene->device, true);
    }
    std::vector<float> expected = read_results(&single, 4), found = read_results(&whole, 4);
    ck_assert(memcmp(expected.data(), found.data(), expected.size() * sizeof(float)) == 0);
    close_scene(&single);
    close_scene(&whole);
}
END_TEST

/* Once there is a graph, a step is one copy of the lists and one launch. */
START_TEST(sessions_come_and_go_without_a_capture)
{
    struct scene single, whole;
    open_scene(&single);
    open_scene(&whole);
    for (int time = 0; time < 2; time++)
        compare_step(&single, &whole, make_members(8, 100), MOST_ROWS);
    size_t captures = calls("cudaStreamBeginCapture");
    ck_assert_uint_eq(captures, 1);
    for (size_t n : {5, 8, 6, 7, 5}) {
        struct members members = make_members(n, 60 + 9 * n);
        size_t kernels = calls("cudaLaunchKernel"), copies = calls("cudaMemcpyAsync");
        size_t graphs = calls("cudaGraphLaunch"), products = calls("cublasLtMatmul");
        call_ops(&whole, members.slots, members.lengths, MOST_ROWS);
        ck_assert_uint_eq(calls("cudaLaunchKernel"), kernels);
        ck_assert_uint_eq(calls("cublasLtMatmul"), products);
        ck_assert_uint_eq(calls("cudaMemcpyAsync"), copies + 1);
        ck_assert_uint_eq(calls("cudaGraphLaunch"), graphs + 1);
        call_ops(&single, members.slots, members.lengths, 0);
        std::vector<float> expected = read_results(&single, n), found = read_results(&whole, n);
        ck_assert(memcmp(expected.data(), found.data(), expected.size() * sizeof(float)) == 0);
    }
    ck_assert_uint_eq(calls("cudaStreamBeginCapture"), captures);
    close_scene(&single);
    close_scene(&whole);
}
END_TEST

/* Of many different steps the last ones are remembered, and the others given back. */
START_TEST(remembered_steps_are_bounded)
{
    enum { STEPS = HY_REMEMBERED_LOGS + 6 };
    struct scene scene;
    struct members members = make_members(1, 20);
    open_scene(&scene);
    call_ops(&scene, members.slots, members.lengths, 1);
    test_status(finish(&scene), HYMBA_OK, error);
    size_t before = 0;
    for (int step = 0; step < STEPS; step++) {
        scene.epsilon = 1e-6f * (float)(step + 1);
        for (int time = 0; time < 3; time++)
            call_ops(&scene, members.slots, members.lengths, 1);
        test_status(finish(&scene), HYMBA_OK, error);
        before = step == 0 ? harness_live_count() : before;
        ck_assert_uint_le(harness_live_count(), before + HY_REMEMBERED_LOGS - 1);
    }
    size_t captures = calls("cudaStreamBeginCapture");
    call_ops(&scene, members.slots, members.lengths, 1); /* the last one is still there */
    ck_assert_uint_eq(calls("cudaStreamBeginCapture"), captures);
    scene.epsilon = 1e-6f; /* the first one is not */
    for (int time = 0; time < 2; time++)
        call_ops(&scene, members.slots, members.lengths, 1);
    ck_assert_uint_eq(calls("cudaStreamBeginCapture"), captures + 1);
    test_status(finish(&scene), HYMBA_OK, error);
    close_scene(&scene);
}
END_TEST

/* A workspace that other work makes grow leaves no graph that still knows the old one. */
START_TEST(graphs_go_when_memory_moves)
{
    struct scene single, whole;
    struct members members = make_members(4, 300);
    open_scene(&single);
    open_scene(&whole);
    for (int time = 0; time < 3; time++)
        compare_step(&single, &whole, members, 4);
    size_t captures = calls("cudaStreamBeginCapture"), graphs = calls("cudaGraphExecDestroy");
    size_t generation = whole.device->generation;
    ck_assert(hy_cuda_reserve(whole.device, &whole.device->scratch, (size_t)1 << 20, "growing"));
    ck_assert_uint_gt(whole.device->generation, generation);
    compare_step(&single, &whole, members, 4);
    ck_assert_uint_eq(calls("cudaGraphExecDestroy"), graphs + 1);
    ck_assert_uint_eq(calls("cudaStreamBeginCapture"), captures);
    for (int time = 0; time < 2; time++)
        compare_step(&single, &whole, members, 4);
    ck_assert_uint_eq(calls("cudaStreamBeginCapture"), captures + 1);
    close_scene(&single);
    close_scene(&whole);
}
END_TEST

/* Lists and sampling have memory that no graph knows: when it grows, graphs stay. */
START_TEST(graphs_stay_when_other_memory_moves)
{
    enum { SAMPLED = 400, LIST_BYTES = 1 << 20 };
    struct scene scene;
    struct members members = make_members(4, 300);
    open_scene(&scene);
    for (int time = 0; time < 3; time++)
        call_ops(&scene, members.slots, members.lengths, 4);
    size_t captures = calls("cudaStreamBeginCapture"), graphs = calls("cudaGraphExecDestroy");
    size_t allocations = calls("cudaMallocFromPoolAsync");
    std::vector<struct hy_sample_change> changes;
    for (int32_t i = 0; i < N; i++)
        changes.push_back({i, 0, 1});
    struct hy_sample_row row = {};
    row.greedy = true;
    row.temperature = 1;
    row.changes = changes.data();
    row.n_changes = N;
    std::vector<struct hy_sample_row> rows(SAMPLED, row);
    int32_t *token = (int32_t *)ops->allocate(scene.device, SAMPLED * sizeof *token);
    struct hy_sample_args args = {scene.x, N, N, rows.data(), SAMPLED, token};
    ops->sample(scene.device, &args);
    void *on_device, *packed = hy_cuda_begin_list(scene.device, LIST_BYTES, &on_device);
    ck_assert_ptr_nonnull(packed);
    test_status(finish(&scene), HYMBA_OK, error);
    ck_assert_uint_ge(calls("cudaMallocFromPoolAsync"), allocations + 3);
    call_ops(&scene, members.slots, members.lengths, 4);
    test_status(finish(&scene), HYMBA_OK, error);
    ck_assert_uint_eq(calls("cudaStreamBeginCapture"), captures);
    ck_assert_uint_eq(calls("cudaGraphExecDestroy"), graphs);
    ops->release(scene.device, token);
    close_scene(&scene);
}
END_TEST

/* Graphs take memory that a session may need more. */
START_TEST(graphs_go_when_memory_is_out)
{
    enum { GRAPH_BYTES = 1 << 20 };
    struct harness_device_config config = harness_default_device();
    struct scene single, whole;
    size_t free_bytes, total_bytes;
    config.graph_bytes = GRAPH_BYTES;
    config.memory = (size_t)64 << 20;
    harness_configure(&config);
    open_scene(&single);
    open_scene(&whole);
    for (size_t n : {1, 2, 4})
        for (int time = 0; time < 3; time++)
            compare_step(&single, &whole, make_members(n, 100), n);
    ck_assert_uint_eq(whole.lines.graphs.size(), 3);
    cudaMemGetInfo(&free_bytes, &total_bytes);
    void *data = ops->allocate(whole.device, free_bytes + 2 * GRAPH_BYTES + GRAPH_BYTES / 2);
    ck_assert_ptr_nonnull(data);
    ck_assert_uint_eq(calls("cudaGraphExecDestroy"), 3);
    ck_assert_uint_eq(whole.lines.graphs.size(), 4);
    ck_assert_msg(whole.lines.graphs[3].find("CUDA device 0: out of memory; 3 graphs of steps")
                      == 0,
                  "%s", whole.lines.graphs[3].c_str());
    size_t captures = calls("cudaStreamBeginCapture");
    for (int time = 0; time < 3; time++) /* there is no room for a graph now */
        compare_step(&single, &whole, make_members(4, 100), 4);
    ck_assert_uint_eq(calls("cudaStreamBeginCapture"), captures + 1);
    ck_assert_uint_eq(whole.lines.warnings.size(), 1);
    ops->release(whole.device, data);
    test_status(finish(&whole), HYMBA_OK, error);
    for (int time = 0; time < 3; time++)
        compare_step(&single, &whole, make_members(2, 100), 2);
    ck_assert_uint_eq(calls("cudaGraphInstantiate"), 5);
    close_scene(&single);
    close_scene(&whole);
}
END_TEST

/* Memory that is kept in reserve does not keep a step from being a graph. */
START_TEST(a_graph_may_need_the_reserve)
{
    struct harness_device_config config = harness_default_device();
    struct scene scene;
    struct members members = make_members(2, 100);
    config.memory = (size_t)64 << 20;
    harness_configure(&config);
    open_scene(&scene);
    call_ops(&scene, members.slots, members.lengths, 2);
    void *data = ops->allocate(scene.device, (size_t)2 << 20);
    ops->release(scene.device, data);
    test_status(finish(&scene), HYMBA_OK, error);
    cudaMemGetInfo(&config.graph_bytes, &config.memory);
    config.graph_bytes += (size_t)1 << 20;
    harness_configure(&config);
    call_ops(&scene, members.slots, members.lengths, 2);
    test_status(finish(&scene), HYMBA_OK, error);
    ck_assert_uint_eq(scene.lines.graphs.size(), 1);
    ck_assert_uint_eq(scene.lines.warnings.size(), 0);
    close_scene(&scene);
}
END_TEST

/* The next step's lists are written when the device has read the last one's, not before. */
START_TEST(steps_stand_in_a_queue)
{
    struct scene single, whole;
    open_scene(&single);
    open_scene(&whole);
    for (size_t step = 0; step < 8; step++) {
        struct members members = make_members(3, 40 + 5 * step);
        for (size_t &slot : members.slots)
            slot = (slot + step) % MOST_ROWS;
        call_ops(&single, members.slots, members.lengths, 0);
        call_ops(&whole, members.slots, members.lengths, 4);
    }
    std::vector<float> expected = read_results(&single, 3), found = read_results(&whole, 3);
    ck_assert(memcmp(expected.data(), found.data(), expected.size() * sizeof(float)) == 0);
    close_scene(&single);
    close_scene(&whole);
}
END_TEST

START_TEST(dropped_steps_do_nothing)
{
    struct scene scene;
    struct members members = make_members(2, 30);
    open_scene(&scene);
    for (int time = 0; time < 3; time++)
        call_ops(&scene, members.slots, members.lengths, 2);
    std::vector<float> before = read_results(&scene, 2);
    size_t kernels = calls("cudaLaunchKernel"), graphs = calls("cudaGraphLaunch");
    call_ops(&scene, members.slots, members.lengths, 2, false);
    std::vector<float> after = read_results(&scene, 2);
    ck_assert(memcmp(before.data(), after.data(), before.size() * sizeof(float)) == 0);
    ck_assert_uint_eq(calls("cudaLaunchKernel"), kernels);
    ck_assert_uint_eq(calls("cudaGraphLaunch"), graphs);
    close_scene(&scene);
}
END_TEST

/* Lists beyond what the arena has at first, pinned and on the device. */
START_TEST(long_lists_make_the_arena_grow)
{
    enum { SPANS = 4000 };
    struct scene scene;
    open_scene(&scene);
    std::vector<struct hy_span> spans(SPANS, make_span(&scene, 0, 1));
    struct hy_attention_sequence sequence = {};
    sequence.segment = {0, 1};
    sequence.spans = spans.data();
    sequence.n_spans = SPANS;
    struct hy_attention_args args = {};
    args.q = scene.x;
    args.out = scene.out;
    args.n_heads = args.n_kv_heads = 1;
    args.qk_size = args.v_size = SIZE;
    args.cache_type = HYMBA_DTYPE_F32;
    args.sequences = &sequence;
    args.n_sequences = args.max_keys = 1;
    for (int calls_of_step : {1, 2, 40}) {
        ops->begin_step(scene.device, 1);
        for (int i = 0; i < calls_of_step; i++)
            ops->attention(scene.device, &args, 1);
        ops->end_step(scene.device, true);
        test_status(finish(&scene), HYMBA_OK, error);
    }
    ck_assert_uint_gt(scene.device->arena.bytes, 40 * SPANS * sizeof(struct hy_span));
    close_scene(&scene);
}
END_TEST

/* ------------------------------------------------------------------ failures */

/* Whatever fails on the way to a graph: the step is queued op by op, and its graph never tried
 * again; the first time, one line says why. */
START_TEST(failed_graphs_are_launches)
{
    static const char *const names[] = {"cudaStreamCreateWithFlags", "cudaStreamBeginCapture",
                                        "cudaLaunchKernel", "cublasLtMatmul",
                                        "cudaStreamEndCapture", "cudaGraphGetNodes",
                                        "cudaGraphInstantiate", "cudaGraphLaunch"};
    for (const char *name : names)
        for (cudaError_t code : {cudaErrorMemoryAllocation, cudaErrorUnknown}) {
            harness_reset();
            struct scene single, whole;
            open_scene(&single);
            open_scene(&whole);
            struct members one = make_members(1, 50), four = make_members(4, 50);
            compare_step(&single, &whole, four, 4);
            call_ops(&single, four.slots, four.lengths, 0);
            std::vector<float> expected = read_results(&single, 4);
            harness_fail_next(name, 1, code);
            call_ops(&whole, four.slots, four.lengths, 4);
            std::vector<float> found = read_results(&whole, 4);
            ck_assert_msg(memcmp(expected.data(), found.data(), expected.size() * 4) == 0, "%s",
                          name);
            size_t captures = calls("cudaStreamBeginCapture");
            compare_step(&single, &whole, four, 4);
            ck_assert_uint_eq(calls("cudaStreamBeginCapture"), captures);
            ck_assert_uint_eq(whole.lines.warnings.size(), 1);
            ck_assert_msg(whole.lines.warnings[0].find("is queued launch by launch: ")
                              != std::string::npos,
                          "%s", whole.lines.warnings[0].c_str());
            harness_fail_next("cudaStreamBeginCapture", 1, code);
            for (int time = 0; time < 3; time++)
                compare_step(&single, &whole, one, 1);
            ck_assert_uint_eq(calls("cudaStreamBeginCapture"), captures + 1);
            ck_assert_uint_eq(whole.lines.warnings.size(), 1);
            for (int time = 0; time < 3; time++) /* and others are graphs all the same */
                compare_step(&single, &whole, make_members(2, 50), 2);
            ck_assert_uint_eq(whole.lines.graphs.size(), strcmp(name, "cudaGraphLaunch") ? 1 : 2);
            close_scene(&single);
            close_scene(&whole);
            ck_assert_uint_eq(harness_live_count(), 0);
        }
}
END_TEST

/* What is given back fails: nobody hears of it. */
START_TEST(failed_releases_are_passed_over)
{
    for (const char *name : {"cudaGraphDestroy", "cudaGraphExecDestroy"}) {
        struct scene single, whole;
        open_scene(&single);
        open_scene(&whole);
        harness_fail_next(name, 1, cudaErrorUnknown);
        for (int time = 0; time < 3; time++)
            compare_step(&single, &whole, make_members(2, 40), 2);
        whole.device->generation++;
        compare_step(&single, &whole, make_members(2, 40), 2);
        close_scene(&single);
        close_scene(&whole);
    }
}
END_TEST

/* Memory that a step's lists lack fails the step, and the next one does not. */
START_TEST(missing_memory_fails_the_step)
{
    for (const char *name : {"cudaHostAlloc", "cudaMallocFromPoolAsync"}) {
        struct scene single, whole;
        struct members members = make_members(3, 40);
        open_scene(&single);
        open_scene(&whole);
        call_ops(&single, members.slots, members.lengths, 0); /* makes its own room */
        std::vector<float> expected = read_results(&single, 3);
        harness_fail_next(name, 1, cudaErrorMemoryAllocation);
        if (strstr(name, "Pool")) /* it is tried twice */
            harness_fail_next(name, 2, cudaErrorMemoryAllocation);
        size_t kernels = calls("cudaLaunchKernel");
        call_ops(&whole, members.slots, members.lengths, 4);
        ck_assert_uint_eq(calls("cudaLaunchKernel"), kernels);
        test_status(finish(&whole), HYMBA_ERROR_MEMORY, error);
        ck_assert_msg(strstr(error.message, "memory for lists") != NULL, "%s", error.message);
        call_ops(&whole, members.slots, members.lengths, 4);
        std::vector<float> found = read_results(&whole, 3);
        ck_assert(memcmp(expected.data(), found.data(), expected.size() * sizeof(float)) == 0);
        close_scene(&single);
        close_scene(&whole);
    }
}
END_TEST

/* A device that is lost within a graph is told by finish, and takes nothing more. */
START_TEST(device_lost_in_a_graph)
{
    struct scene scene;
    struct members members = make_members(2, 40);
    open_scene(&scene);
    for (int time = 0; time < 2; time++)
        call_ops(&scene, members.slots, members.lengths, 2);
    test_status(finish(&scene), HYMBA_OK, error);
    harness_lose_device(2, cudaErrorIllegalAddress);
    call_ops(&scene, members.slots, members.lengths, 2);
    test_status(finish(&scene), HYMBA_ERROR_DEVICE, error);
    size_t graphs = calls("cudaGraphLaunch");
    call_ops(&scene, members.slots, members.lengths, 2);
    ck_assert_uint_eq(calls("cudaGraphLaunch"), graphs);
    test_status(finish(&scene), HYMBA_ERROR_DEVICE, error);
    close_scene(&scene);
}
END_TEST

/* A launch that tells the failure of what stood before it is no failure of the graph's. */
START_TEST(fault_told_by_a_graph_launch)
{
    for (const char *name : {"cudaGraphLaunch", "cudaStreamBeginCapture", "cudaGraphInstantiate"}) {
        harness_reset();
        struct scene scene;
        struct members members = make_members(2, 40);
        open_scene(&scene);
        for (int time = 0; time < (strcmp(name, "cudaGraphLaunch") ? 1 : 2); time++)
            call_ops(&scene, members.slots, members.lengths, 2);
        test_status(finish(&scene), HYMBA_OK, error);
        harness_lose_device(1, cudaErrorIllegalAddress);
        call_norm(&scene, 2);
        harness_fail_next(name, 1, cudaErrorIllegalAddress);
        size_t kernels = calls("cudaLaunchKernel");
        call_ops(&scene, members.slots, members.lengths, 2);
        ck_assert(strcmp(name, "cudaGraphInstantiate") == 0
                  || calls("cudaLaunchKernel") == kernels);
        ck_assert(scene.device->failed);
        test_status(finish(&scene), HYMBA_ERROR_DEVICE, error);
        ck_assert_msg(strstr(error.message, "what was queued before a step failed: an illegal"),
                      "%s: %s", name, error.message);
        ck_assert_uint_eq(scene.lines.warnings.size(), 0);
        close_scene(&scene);
        ck_assert_uint_eq(harness_live_count(), 0);
    }
}
END_TEST

int main()
{
    Suite *suite = suite_create("steps of the CUDA plug-in");
    TCase *tests = tcase_create("steps");
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, a_step_has_the_bits_of_its_ops);
    tcase_add_test(tests, attention_of_any_length_is_padded);
    tcase_add_test(tests, repeated_attention_shares_its_lists);
    tcase_add_test(tests, repeated_attention_with_other_heads_has_its_own_lists);
    tcase_add_test(tests, sessions_come_and_go_without_a_capture);
    tcase_add_test(tests, remembered_steps_are_bounded);
    tcase_add_test(tests, graphs_go_when_memory_moves);
    tcase_add_test(tests, graphs_stay_when_other_memory_moves);
    tcase_add_test(tests, graphs_go_when_memory_is_out);
    tcase_add_test(tests, a_graph_may_need_the_reserve);
    tcase_add_test(tests, steps_stand_in_a_queue);
    tcase_add_test(tests, dropped_steps_do_nothing);
    tcase_add_test(tests, long_lists_make_the_arena_grow);
    tcase_add_test(tests, failed_graphs_are_launches);
    tcase_add_test(tests, failed_releases_are_passed_over);
    tcase_add_test(tests, missing_memory_fails_the_step);
    tcase_add_test(tests, device_lost_in_a_graph);
    tcase_add_test(tests, fault_told_by_a_graph_launch);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
