/* The plug-in's host code under the harness: its ops, its memory, and what can go wrong. */
#include "compare_ops.h"
#include "compare_step.h"
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

static const struct hy_device_ops *ops;
static hymba_error error;

static hymba_status open_index(int index, struct hy_device **device)
{
    struct hy_device_params params = {};
    params.struct_size = sizeof params;
    params.index = index;
    params.compute = HYMBA_COMPUTE_BF16;
    error = {};
    error.struct_size = sizeof error;
    return ops->open(&params, device, &error);
}

static struct hy_device *open_first()
{
    struct hy_device *device;
    test_status(open_index(0, &device), HYMBA_OK, error);
    return device;
}

static void setup()
{
    harness_reset();
    ops = hymba_device_plugin(HY_DEVICE_INTERFACE);
    ck_assert_ptr_nonnull(ops);
}

/* Everything was given back, and the harness saw nothing wrong. */
static void teardown()
{
    ck_assert_msg(harness_error_count() == 0, "%s", harness_first_error());
    ck_assert_uint_eq(harness_live_count(), 0);
    harness_reset();
}

static hymba_status finish(struct hy_device *device)
{
    error = {};
    error.struct_size = sizeof error;
    return ops->finish(device, &error);
}

static void assert_sentence(const char *expected)
{
    ck_assert_msg(strstr(error.message, expected) != NULL, "\"%s\" lacks \"%s\"", error.message,
                  expected);
}

/* ------------------------------------------------------------------- opening */

START_TEST(table_has_the_version_alone)
{
    ck_assert_ptr_null(hymba_device_plugin(HY_DEVICE_INTERFACE + 1));
    ck_assert_uint_eq(ops->interface_version, HY_DEVICE_INTERFACE);
    ck_assert_uint_eq(ops->struct_size, sizeof *ops);
}
END_TEST

static void log_line(void *user, int level, const char *line)
{
    ck_assert_int_eq(level, HYMBA_LOG_INFO);
    *(std::string *)user += line;
}

START_TEST(open_tells_of_the_device)
{
    std::string log;
    struct hy_device_params params = {};
    struct hy_device_info info = {};
    struct hy_device *device;
    params.struct_size = sizeof params;
    params.log = log_line;
    params.log_user = &log;
    info.struct_size = sizeof info;
    test_status(ops->open(&params, &device, &error), HYMBA_OK, error);
    ops->get_info(device, &info);
    ck_assert_str_eq(info.name, "test harness, sm_80");
    ck_assert_uint_gt(info.free_bytes, 0);
    ck_assert_uint_le(info.free_bytes, info.total_bytes);
    ck_assert_int_eq(info.has_bf16, 1);
    ck_assert_msg(log.find("test harness, sm_80") != std::string::npos, "%s", log.c_str());
    ops->close(device);
}
END_TEST

/* What open says where the device is not what it should be. */
static void assert_cannot_open(const struct harness_device_config *config, int index,
                               const char *sentence)
{
    struct hy_device *device = (struct hy_device *)&ops;
    harness_configure(config);
    test_status(open_index(index, &device), HYMBA_ERROR_DEVICE, error);
    assert_sentence(sentence);
    ck_assert_ptr_null(device);
}

START_TEST(open_without_a_device)
{
    struct harness_device_config config = harness_default_device();
    config.n_devices = 0;
    assert_cannot_open(&config, 0, "this machine has no CUDA device");
    config.n_devices = 2;
    assert_cannot_open(&config, 2, "there is no CUDA device 2: this machine has 2");
    assert_cannot_open(&config, -1, "there is no CUDA device -1");
}
END_TEST

START_TEST(open_with_an_old_driver)
{
    struct harness_device_config config = harness_default_device();
    config.driver_version = 0;
    assert_cannot_open(&config, 0, "this machine has no NVIDIA driver");
    config.driver_version = 11080;
    assert_cannot_open(&config, 0, "too old: it knows CUDA up to 11.8, and the plug-in needs 12.0");
    config = harness_default_device();
    harness_fail_next("cudaGetDeviceCount", 1, cudaErrorInsufficientDriver);
    assert_cannot_open(&config, 0, "the NVIDIA driver is too old for the plug-in");
}
END_TEST

START_TEST(open_with_an_old_device)
{
    struct harness_device_config config = harness_default_device();
    config.major = 7;
    config.minor = 5;
    assert_cannot_open(&config, 0, "compute capability 7.5, and 8.0 or later is needed");
}
END_TEST

START_TEST(open_without_code_for_the_device)
{
    struct harness_device_config config = harness_default_device();
    harness_fail_next("cudaLaunchKernel", 1, cudaErrorNoKernelImageForDevice);
    assert_cannot_open(&config, 0, "built without code for CUDA device 0 (test harness, sm_80)");
}
END_TEST

/* Each call that opening makes fails in turn: a status, a sentence, nothing kept. */
START_TEST(open_with_each_call_failing)
{
    const char *const calls[] = {"cudaGetDeviceCount", "cudaGetDeviceProperties",
                                 "cudaDeviceGetAttribute", "cudaSetDevice",
                                 "cudaStreamCreateWithFlags", "cudaHostAlloc",
                                 "cudaEventCreateWithFlags", "cudaMemPoolCreate",
                                 "cudaMemPoolSetAttribute", "cudaMallocFromPoolAsync",
                                 "cudaMemsetAsync", "cudaLaunchKernel", "cudaStreamSynchronize"};
    for (const char *call : calls)
        for (cudaError_t code : {cudaErrorMemoryAllocation, cudaErrorUnknown}) {
            struct hy_device *device;
            harness_reset();
            harness_fail_next(call, 1, code);
            if (strstr(call, "cudaMalloc") && code == cudaErrorMemoryAllocation)
                harness_fail_next(call, 2, code); /* it is tried twice */
            hymba_status status = open_index(0, &device);
            ck_assert_msg(status == HYMBA_ERROR_DEVICE || status == HYMBA_ERROR_MEMORY,
                          "%s: status %d", call, (int)status);
            ck_assert_msg(code == cudaErrorMemoryAllocation || status == HYMBA_ERROR_DEVICE,
                          "%s: status %d", call, (int)status);
            ck_assert_uint_gt(strlen(error.message), 10);
            ck_assert_uint_eq(harness_live_count(), 0);
            ops->close(open_first()); /* no trace is left */
            ck_assert_uint_eq(harness_live_count(), 0);
        }
}
END_TEST

/* ---------------------------------------------------------------------- ops */

START_TEST(ops_agree_with_generic_c)
{
    struct hy_device *device = open_first();
    for (unsigned seed = 10; seed < (getenv("HYMBA_LONG") ? 40 : 12); seed++) {
        const char *difference = compare_op((size_t)_i, ops, device, seed);
        ck_assert_msg(!difference, "%s, seed %u: %s", compare_name((size_t)_i), seed, difference);
    }
    ops->close(device);
}
END_TEST

/* Recorded, captured and replayed: and a step that is no graph is told. */
START_TEST(steps_agree_with_their_ops)
{
    char graph[256];
    for (unsigned seed = 1; seed < (getenv("HYMBA_LONG") ? 6 : 2); seed++) {
        const char *difference = compare_step(ops, 0, seed, graph);
        ck_assert_msg(!difference, "seed %u: %s", seed, difference);
        ck_assert_msg(strstr(graph, "a step of 5 rows is from now on a graph of"), "%s", graph);
    }
    harness_fail_next("cudaGraphInstantiate", 1, cudaErrorUnknown);
    const char *difference = compare_step(ops, 0, 1, graph);
    ck_assert_msg(difference && strstr(difference, "the step is no graph: CUDA device 0: a step "
                                                   "cannot be one graph"),
                  "%s", difference ? difference : "no difference");
}
END_TEST

/* Devices side by side, of one index and of another, each with its own stream. */
START_TEST(devices_live_side_by_side)
{
    struct harness_device_config config = harness_default_device();
    struct hy_device *devices[3];
    config.n_devices = 2;
    harness_configure(&config);
    for (int i = 0; i < 3; i++)
        test_status(open_index(i % 2, &devices[i]), HYMBA_OK, error);
    for (size_t op = 0; op < compare_count(); op += 3)
        for (struct hy_device *device : devices)
            ck_assert_ptr_null(compare_op(op, ops, device, 5));
    void *data[2] = {ops->allocate(devices[0], 64), ops->allocate(devices[1], 64)};
    for (int i = 0; i < 2; i++) {
        int current = -1;
        ops->fill(devices[i], data[i], 0, 64);
        cudaGetDevice(&current); /* whatever it was before */
        ck_assert_int_eq(current, i);
    }
    ops->release(devices[0], data[0]);
    ops->release(devices[1], data[1]);
    for (struct hy_device *device : devices)
        ops->close(device);
}
END_TEST

/* ------------------------------------------------------------------- memory */

START_TEST(allocate_says_when_there_is_no_room)
{
    struct harness_device_config config = harness_default_device();
    config.memory = 1 << 20;
    harness_configure(&config);
    struct hy_device *device = open_first();
    ck_assert_ptr_null(ops->allocate(device, 2 << 20));
    void *data = ops->allocate(device, 1000);
    ck_assert_ptr_nonnull(data);
    ck_assert_uint_eq((uintptr_t)data % 256, 0);
    test_status(finish(device), HYMBA_OK, error);
    ops->release(device, data);
    ops->release(device, NULL);
    ops->close(device);
}
END_TEST

static size_t free_bytes_of(struct hy_device *device)
{
    struct hy_device_info info = {};
    info.struct_size = sizeof info;
    ops->get_info(device, &info);
    return info.free_bytes;
}

static size_t free_bytes_of_system()
{
    size_t free_bytes, total_bytes;
    ck_assert_int_eq(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
    return free_bytes;
}

/* What is released stays with the device beyond a wait, up to a part of all memory, and is told as
 * free; another device is left the rest. */
START_TEST(released_blocks_are_kept)
{
    const size_t MIB = 1 << 20;
    struct harness_device_config config = harness_default_device();
    config.memory = 64 * MIB;
    harness_configure(&config);
    struct hy_device *device = open_first(), *other = open_first();
    size_t told = free_bytes_of(device), others = free_bytes_of_system();
    for (size_t bytes : {MIB, 2 * MIB, 40 * MIB}) {
        void *data = ops->allocate(device, bytes);
        ck_assert_ptr_nonnull(data);
        ck_assert_uint_eq(free_bytes_of(device), told - bytes);
        test_status(finish(device), HYMBA_OK, error);
        ops->release(device, data);
        test_status(finish(device), HYMBA_OK, error);
        ck_assert_uint_eq(free_bytes_of(device), told);
        ck_assert_uint_eq(free_bytes_of_system(), others - hy_min_size(bytes, 2 * MIB));
        ck_assert_uint_eq(free_bytes_of(other), free_bytes_of_system());
    }
    void *data = ops->allocate(other, 60 * MIB);
    ck_assert_ptr_nonnull(data);
    ops->release(other, data);
    ops->close(device);
    ops->close(other);
}
END_TEST

static void count_line(void *user, int level, const char *line)
{
    ck_assert_int_eq(level, HYMBA_LOG_INFO);
    *(size_t *)user += strstr(line, "CUDA device 0: out of memory; 0 graphs") != NULL;
}

/* What was released before counts for what is allocated, though the device has not come so far. */
START_TEST(missing_memory_waits_for_what_was_released)
{
    struct harness_device_config config = harness_default_device();
    size_t lines = 0;
    config.memory = (size_t)8 << 20;
    harness_configure(&config);
    struct hy_device *device = open_first();
    device->log = count_line;
    device->log_user = &lines;
    void *data = ops->allocate(device, (size_t)5 << 20);
    ck_assert_ptr_nonnull(data);
    ops->fill(device, data, 0, 1000);
    ops->release(device, data);
    data = ops->allocate(device, (size_t)6 << 20);
    ck_assert_ptr_nonnull(data);
    ck_assert_uint_eq(lines, 1);
    ck_assert_ptr_null(ops->allocate(device, (size_t)6 << 20));
    ck_assert_uint_eq(lines, 1); /* nothing was given up */
    ops->release(device, data);
    ck_assert(hy_cuda_reserve(device, &device->scratch, (size_t)3 << 20, "taking memory"));
    test_status(finish(device), HYMBA_OK, error);
    ops->close(device);
}
END_TEST

/* A failure of what was queued, met while memory is looked for, is told as such. */
START_TEST(missing_memory_on_a_lost_device)
{
    struct hy_device *device = open_first();
    float *x = (float *)ops->allocate(device, 65536);
    ops->fill(device, x, 0, 65536);
    harness_lose_device(1, cudaErrorIllegalAddress);
    struct hy_swiglu_args args = {x, 64, x, 64, 64, x, 64, {}};
    ops->swiglu(device, &args, 2);
    harness_fail_next("cudaMallocFromPoolAsync", 1, cudaErrorMemoryAllocation);
    ck_assert_ptr_null(ops->allocate(device, 64));
    test_status(finish(device), HYMBA_ERROR_DEVICE, error);
    assert_sentence("waiting for what was queued failed: an illegal memory access");
    ops->release(device, x);
    ops->close(device);
}
END_TEST

static float returned[256]; /* what run_step reads back, there after finish */

/* A step's worth of every kind of work that queues. */
static void run_step(struct hy_device *device, float *x, float *w, float *y)
{
    std::vector<float> host(256, 1.0f);
    struct hy_copy_args there = {HY_COPY_TO_DEVICE, x, 1024, host.data(), 1024, 1024, 1};
    struct hy_copy_args here = {HY_COPY_TO_HOST, returned, 1024, y, 1024, 1024, 1};
    struct hy_matmul_args product = {};
    product.x = x;
    product.w = w;
    product.dtype = HYMBA_DTYPE_BF16;
    product.m = 2;
    product.n = product.k = product.x_stride = product.w_stride = product.y_stride = 64;
    product.y = y;
    struct hy_state_sequence sequence = {{0, 2}, y + 256, y + 256, NULL, NULL, HYMBA_DTYPE_F32};
    struct hy_conv_args conv = {x, 64, w, w, 64, 3, y, 64, &sequence, 1, {}};
    ops->copy(device, &there);
    ops->matmul(device, &product);
    ops->conv(device, &conv);
    struct hy_copy_args copies[] = {{HY_COPY_WITHIN, y + 1024, 64, y, 64, 64, 2},
                                    {HY_COPY_WITHIN, y + 2048, 64, y, 64, 64, 2}};
    ops->copy_list(device, copies, 2);
    ops->copy(device, &here);
}

START_TEST(steady_state_allocates_nothing)
{
    const char *const calls[] = {"cudaMalloc", "cudaMallocFromPoolAsync", "cudaFree",
                                 "cudaFreeAsync", "cudaMallocAsync", "cudaMemPoolTrimTo",
                                 "cudaHostAlloc", "cudaFreeHost", "cudaDeviceSynchronize",
                                 "cublasLtMatmulAlgoGetHeuristic", "cudaEventCreateWithFlags"};
    size_t counts[sizeof calls / sizeof calls[0]];
    struct hy_device *device = open_first();
    float *x = (float *)ops->allocate(device, 65536), *w = (float *)ops->allocate(device, 65536);
    float *y = (float *)ops->allocate(device, 65536);
    for (float *data : {x, w, y})
        ops->fill(device, data, 0, 65536);
    run_step(device, x, w, y);
    test_status(finish(device), HYMBA_OK, error);
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
        counts[i] = harness_call_count(calls[i]);
    size_t waits = harness_call_count("cudaStreamSynchronize");
    for (int step = 0; step < 10; step++) {
        run_step(device, x, w, y);
        test_status(finish(device), HYMBA_OK, error);
    }
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
        ck_assert_msg(harness_call_count(calls[i]) == counts[i], "%s was called", calls[i]);
    ck_assert_uint_eq(harness_call_count("cudaStreamSynchronize"), waits + 10);
    for (float *data : {x, w, y})
        ops->release(device, data);
    ops->close(device);
}
END_TEST

/* The pinned memory is filled many times over while the device has read nothing yet. */
START_TEST(staging_is_used_again)
{
    enum { COPIES = 40, WORDS = 150000 };
    struct hy_device *device = open_first();
    uint32_t *data = (uint32_t *)ops->allocate(device, COPIES * WORDS * 4);
    std::vector<uint32_t> source(WORDS), back(COPIES * WORDS);
    for (uint32_t i = 0; i < COPIES; i++) {
        source.assign(WORDS, i + 1);
        struct hy_copy_args there = {HY_COPY_TO_DEVICE, data + i * WORDS, WORDS * 4, source.data(),
                                     WORDS * 4, WORDS * 4, 1};
        ops->copy(device, &there);
    }
    struct hy_copy_args here = {HY_COPY_TO_HOST, back.data(), WORDS * 4, data, WORDS * 4,
                                WORDS * 4, COPIES};
    ops->copy(device, &here);
    test_status(finish(device), HYMBA_OK, error);
    for (uint32_t i = 0; i < COPIES * WORDS; i++)
        if (back[i] != i / WORDS + 1)
            ck_abort_msg("word %u is %u", i, back[i]);
    ops->release(device, data);
    ops->close(device);
}
END_TEST

/* Copies of rows that lie one behind another: from to to, each of n_rows rows. */
static std::vector<struct hy_copy_args> some_copies(size_t n, unsigned char *to,
                                                    const unsigned char *from, size_t width,
                                                    size_t n_rows)
{
    std::vector<struct hy_copy_args> copies;
    for (size_t i = 0; i < n; i++)
        copies.push_back({HY_COPY_WITHIN, to + i * width * n_rows, width,
                          from + i * width * n_rows, width, width, n_rows});
    return copies;
}

/* The formula of copy_list.cu, with aligned rows, odd ones, and such as are cut. */
START_TEST(lists_of_copies_move_their_bytes_once)
{
    static const struct {
        size_t n, width, n_rows, n_pieces;
    } cases[] = {{2, 64, 1, 2},         {9, 68, 5, 45},       {3, 33, 7, 21},
                 {4, 4096, 2, 8},       {2, 4097, 1, 4},      {5, 10000, 2, 30},
                 {2, 40 << 20, 1, 6828}, {1024, 16, 8, 8192}};
    for (const auto &c : cases) {
        struct hy_device *device = open_first();
        size_t bytes = c.n * c.width * c.n_rows;
        unsigned char *from = (unsigned char *)ops->allocate(device, bytes);
        unsigned char *to = (unsigned char *)ops->allocate(device, bytes);
        ops->fill(device, from, 3, bytes);
        ops->copy_list(device, some_copies(c.n, to, from, c.width, c.n_rows).data(), c.n);
        test_status(finish(device), HYMBA_OK, error);
        const struct harness_launch_record *launch = harness_last_launch();
        ck_assert_str_eq(launch->name, "copy_pieces");
        ck_assert_uint_eq(launch->bytes_read, bytes + c.n_pieces * 24 * 32);
        ck_assert_uint_eq(launch->bytes_written, bytes);
        bytes += bytes % 2; /* distinct ones are counted two by two */
        ck_assert_uint_eq(launch->unique_bytes_read, bytes + c.n_pieces * 24);
        ck_assert_uint_eq(launch->unique_bytes_written, bytes);
        ops->release(device, from);
        ops->release(device, to);
        ops->close(device);
    }
}
END_TEST

/* More pieces than a launch takes, and a list of one copy, which is no launch. */
START_TEST(lists_of_copies_are_cut_into_launches)
{
    struct hy_device *device = open_first();
    size_t n = 8192 + 100, launches = harness_launch_count();
    std::vector<unsigned char> back(n * 5);
    unsigned char *from = (unsigned char *)ops->allocate(device, back.size());
    unsigned char *to = (unsigned char *)ops->allocate(device, back.size());
    ops->fill(device, from, 9, back.size());
    ops->fill(device, to, 0, back.size());
    ops->copy_list(device, some_copies(n, to, from, 5, 1).data(), n);
    ops->copy_list(device, some_copies(1, to, from, 5, 1).data(), 1);
    struct hy_copy_args here = {HY_COPY_TO_HOST, back.data(), back.size(), to, back.size(),
                                back.size(), 1};
    ops->copy(device, &here);
    test_status(finish(device), HYMBA_OK, error);
    ck_assert_uint_eq(harness_launch_count(), launches + 2);
    ck_assert(back == std::vector<unsigned char>(back.size(), 9));
    ops->release(device, from);
    ops->release(device, to);
    ops->close(device);
}
END_TEST

/* Copies come when a step has succeeded: they do not fail for want of memory for a list. */
START_TEST(lists_of_copies_need_no_memory)
{
    struct hy_device *device = open_first();
    unsigned char *data = (unsigned char *)ops->allocate(device, 4000), back[2000];
    ops->fill(device, data, 5, 2000);
    for (size_t i = 0; i < 2; i++) {
        size_t launches = harness_launch_count();
        ops->fill(device, data + 2000, 0, 2000);
        for (unsigned nth = 1; i == 0 && nth <= 2; nth++)
            harness_fail_next("cudaMallocFromPoolAsync", nth, cudaErrorMemoryAllocation);
        ops->copy_list(device, some_copies(2, data + 2000, data, 1000, 1).data(), 2);
        struct hy_copy_args here = {HY_COPY_TO_HOST, back, 2000, data + 2000, 2000, 2000, 1};
        ops->copy(device, &here);
        test_status(finish(device), HYMBA_OK, error);
        for (unsigned char byte : back)
            ck_assert_int_eq(byte, 5);
        ck_assert_uint_eq(harness_launch_count(), launches + i);
    }
    ops->release(device, data);
    ops->close(device);
}
END_TEST

/* Lists that outgrow the pinned memory's pieces, each while the device has not read the last. */
START_TEST(long_lists_make_room)
{
    struct hy_device *device = open_first();
    for (size_t bytes = 1000; bytes < ((size_t)30 << 20); bytes *= 10) {
        void *on_device;
        unsigned char *packed = (unsigned char *)hy_cuda_begin_list(device, bytes, &on_device);
        ck_assert_ptr_nonnull(packed);
        memset(packed, (int)(bytes % 251), bytes);
        ck_assert(hy_cuda_end_list(device, packed, bytes));
        std::vector<unsigned char> back(bytes);
        struct hy_copy_args here = {HY_COPY_TO_HOST, back.data(), bytes, on_device,
                                    bytes, bytes, 1};
        ops->copy(device, &here);
        test_status(finish(device), HYMBA_OK, error);
        for (size_t i = 0; i < bytes; i++)
            if (back[i] != bytes % 251)
                ck_abort_msg("byte %zu of %zu is %d", i, bytes, back[i]);
    }
    ops->close(device);
}
END_TEST

/* ----------------------------------------------------------------- failures */

/* Memory for a list cannot be had: the step fails, the next one does not. */
START_TEST(missing_memory_leaves_the_device_usable)
{
    struct hy_device *device = open_first();
    float *x = (float *)ops->allocate(device, 65536), *w = (float *)ops->allocate(device, 65536);
    float *y = (float *)ops->allocate(device, 65536);
    for (float *data : {x, w, y})
        ops->fill(device, data, 0, 65536);
    unsigned failures = 0;
    for (unsigned nth = 1; nth < 20; nth++) {
        harness_fail_next("cudaMallocFromPoolAsync", nth, cudaErrorMemoryAllocation);
        harness_fail_next("cudaMallocFromPoolAsync", nth + 1, cudaErrorMemoryAllocation);
        run_step(device, x, w, y);
        hymba_status status = finish(device);
        if (status == HYMBA_OK)
            break;
        ck_assert_int_eq(status, HYMBA_ERROR_MEMORY);
        assert_sentence("CUDA device 0: taking memory for");
        assert_sentence("out of memory");
        failures++;
        harness_fail_no_more();
        test_status(finish(device), HYMBA_OK, error);
    }
    ck_assert_uint_ge(failures, 2); /* of activations, of results */
    run_step(device, x, w, y);
    test_status(finish(device), HYMBA_OK, error);
    for (float *data : {x, w, y})
        ops->release(device, data);
    ops->close(device);
}
END_TEST

/* A room that could not grow has nothing, so that the next one that wants less of it takes some. */
START_TEST(a_room_that_could_not_grow_is_empty)
{
    struct hy_device *device = open_first();
    struct hy_room *room = &device->scratch;
    ck_assert(hy_cuda_reserve(device, room, 100000, "taking memory"));
    for (unsigned nth = 1; nth <= 2; nth++)
        harness_fail_next("cudaMallocFromPoolAsync", nth, cudaErrorMemoryAllocation);
    ck_assert(!hy_cuda_reserve(device, room, 1000000, "taking memory"));
    test_status(finish(device), HYMBA_ERROR_MEMORY, error);
    ck_assert(hy_cuda_reserve(device, room, 1000, "taking memory"));
    ck_assert_ptr_nonnull(room->data);
    test_status(finish(device), HYMBA_OK, error);
    ops->close(device);
}
END_TEST

/* What is queued after a failure is left out, and finish tells of the first one, for good. */
START_TEST(failed_launch_fails_the_device)
{
    struct hy_device *device = open_first(), *other = open_first();
    float *x = (float *)ops->allocate(device, 65536);
    ops->fill(device, x, 0, 65536);
    harness_fail_next("cudaLaunchKernel", 1, cudaErrorLaunchFailure);
    struct hy_swiglu_args args = {x, 64, x, 64, 64, x, 64, {}};
    ops->swiglu(device, &args, 2);
    size_t launches = harness_call_count("cudaLaunchKernel");
    ops->swiglu(device, &args, 2);
    ck_assert_uint_eq(harness_call_count("cudaLaunchKernel"), launches);
    for (int i = 0; i < 2; i++) {
        test_status(finish(device), HYMBA_ERROR_DEVICE, error);
        assert_sentence("CUDA device 0: the gate of a feed-forward layer failed: unspecified");
    }
    ck_assert_ptr_null(ops->allocate(device, 1));
    ops->release(device, x);
    ops->close(device);
    ck_assert_ptr_null(compare_op(3, ops, other, 1)); /* lives on */
    ops->close(other);
}
END_TEST

START_TEST(lost_device_is_told_by_finish)
{
    struct hy_device *device = open_first();
    float *x = (float *)ops->allocate(device, 65536);
    unsigned char back[4] = {1, 2, 3, 4};
    ops->fill(device, x, 0, 65536);
    harness_lose_device(1, cudaErrorIllegalAddress);
    struct hy_swiglu_args args = {x, 64, x, 64, 64, x, 64, {}};
    struct hy_copy_args here = {HY_COPY_TO_HOST, back, 4, x, 4, 4, 1};
    ops->swiglu(device, &args, 2);
    ops->copy(device, &here);
    test_status(finish(device), HYMBA_ERROR_DEVICE, error);
    assert_sentence("CUDA device 0: waiting for what was queued failed: an illegal memory access");
    test_status(finish(device), HYMBA_ERROR_DEVICE, error);
    ck_assert_int_eq(back[0], 1); /* nothing came back */
    ops->release(device, x);
    ops->close(device);
}
END_TEST

/* Each call of a step fails in turn, with both kinds of failure: never silently. */
START_TEST(step_with_each_call_failing)
{
    const char *const calls[] = {"cudaSetDevice", "cudaMemcpyAsync", "cudaMemsetAsync",
                                 "cudaLaunchKernel", "cublasLtMatmul", "cudaStreamSynchronize",
                                 "cublasLtCreate", "cudaHostAlloc",
                                 "cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmulDescCreate",
                                 "cublasLtMatrixLayoutCreate", "cublasLtMatmulPreferenceCreate"};
    for (const char *call : calls)
        for (cudaError_t code : {cudaErrorMemoryAllocation, cudaErrorUnknown}) {
            harness_reset();
            struct hy_device *device = open_first();
            float *x = (float *)ops->allocate(device, 65536);
            ops->fill(device, x, 0, 65536);
            test_status(finish(device), HYMBA_OK, error);
            harness_fail_next(call, 1, code);
            run_step(device, x, x + 4096, x + 8192);
            test_status(finish(device),
                        code == cudaErrorUnknown ? HYMBA_ERROR_DEVICE : HYMBA_ERROR_MEMORY, error);
            ops->release(device, x);
            ops->close(device);
            ck_assert_uint_eq(harness_live_count(), 0);
        }
}
END_TEST

/* Of the algorithms that say they do not cut sums one without a workspace is taken, or else one
 * with one; and if none says so, there is no product. */
START_TEST(algorithms_that_cut_sums_are_not_taken)
{
    for (int refused = 0; refused < 3; refused++) {
        harness_reset();
        struct hy_device *device = open_first();
        float *x = (float *)ops->allocate(device, 65536);
        ops->fill(device, x, 0, 65536);
        if (refused == 1)
            harness_fail_next("cublasLtMatmulAlgoGetHeuristic", 1, cudaErrorNotSupported);
        for (unsigned nth = 1; refused == 2 && nth < 20; nth++)
            harness_fail_next("cublasLtMatmulAlgoConfigGetAttribute", nth, cudaErrorNotSupported);
        run_step(device, x, x + 4096, x + 8192);
        test_status(finish(device), refused == 2 ? HYMBA_ERROR_DEVICE : HYMBA_OK, error);
        if (refused == 2)
            assert_sentence("preparing a matrix product failed");
        ck_assert_uint_eq(device->blas_workspace.bytes, refused == 1 ? 65536 : 0);
        ops->release(device, x);
        ops->close(device);
        ck_assert_uint_eq(harness_live_count(), 0);
    }
}
END_TEST

START_TEST(types_without_a_product_are_told)
{
    struct hy_device *device = open_first();
    float *x = (float *)ops->allocate(device, 65536);
    struct hy_rounded rounded = {};
    rounded.dtype = HYMBA_DTYPE_INT8;
    rounded.data = x;
    struct hy_matmul_args args = {};
    args.rounded = &rounded;
    args.m = args.n = args.k = 32;
    args.w = x;
    args.dtype = HYMBA_DTYPE_INT8;
    args.y = x;
    ops->matmul(device, &args);
    test_status(finish(device), HYMBA_ERROR_INTERNAL, error);
    ops->release(device, x);
    ops->close(device);
}
END_TEST

int main()
{
    Suite *suite = suite_create("plugin");
    TCase *tcase = tcase_create("plugin");
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, table_has_the_version_alone);
    tcase_add_test(tcase, open_tells_of_the_device);
    tcase_add_test(tcase, open_without_a_device);
    tcase_add_test(tcase, open_with_an_old_driver);
    tcase_add_test(tcase, open_with_an_old_device);
    tcase_add_test(tcase, open_without_code_for_the_device);
    tcase_add_test(tcase, open_with_each_call_failing);
    tcase_add_loop_test(tcase, ops_agree_with_generic_c, 0, (int)compare_count());
    tcase_add_test(tcase, steps_agree_with_their_ops);
    tcase_add_test(tcase, devices_live_side_by_side);
    tcase_add_test(tcase, allocate_says_when_there_is_no_room);
    tcase_add_test(tcase, released_blocks_are_kept);
    tcase_add_test(tcase, missing_memory_waits_for_what_was_released);
    tcase_add_test(tcase, missing_memory_on_a_lost_device);
    tcase_add_test(tcase, steady_state_allocates_nothing);
    tcase_add_test(tcase, staging_is_used_again);
    tcase_add_test(tcase, lists_of_copies_move_their_bytes_once);
    tcase_add_test(tcase, lists_of_copies_are_cut_into_launches);
    tcase_add_test(tcase, lists_of_copies_need_no_memory);
    tcase_add_test(tcase, long_lists_make_room);
    tcase_add_test(tcase, missing_memory_leaves_the_device_usable);
    tcase_add_test(tcase, a_room_that_could_not_grow_is_empty);
    tcase_add_test(tcase, failed_launch_fails_the_device);
    tcase_add_test(tcase, lost_device_is_told_by_finish);
    tcase_add_test(tcase, step_with_each_call_failing);
    tcase_add_test(tcase, algorithms_that_cut_sums_are_not_taken);
    tcase_add_test(tcase, types_without_a_product_are_told);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
