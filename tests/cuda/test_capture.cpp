/* The stand-in for stream capture and graphs: what it replays, and the misuse that it finds. */
#include "harness.h"
#include "portable.h"
#include "support.h"

#include <thread>
#include <vector>

enum { N = 64 };

/* y = factor * x, of one warp. */
HY_KERNEL scale(const float *x, float *y, float factor)
{
    for (size_t i = hy_thread(); i < N; i += hy_block_threads())
        hy_store(y + i, factor * hy_load(x + i));
}

struct played {
    cudaStream_t stream, other;
    float *x, *y;
};

static struct played played;

static void setup()
{
    harness_reset();
    ck_assert_int_eq(cudaStreamCreateWithFlags(&played.stream, cudaStreamNonBlocking), 0);
    ck_assert_int_eq(cudaStreamCreateWithFlags(&played.other, cudaStreamNonBlocking), 0);
    ck_assert_int_eq(cudaMalloc(&played.x, N * sizeof(float)), 0);
    ck_assert_int_eq(cudaMalloc(&played.y, N * sizeof(float)), 0);
}

static void teardown()
{
    ck_assert_msg(harness_error_count() == 0, "%s", harness_first_error());
    harness_reset();
}

static void put(float value)
{
    std::vector<float> values(N, value);
    ck_assert_int_eq(cudaMemcpy(played.x, values.data(), N * sizeof(float), cudaMemcpyHostToDevice),
                     0);
}

static float get()
{
    std::vector<float> values(N);
    ck_assert_int_eq(cudaMemcpy(values.data(), played.y, N * sizeof(float), cudaMemcpyDeviceToHost),
                     0);
    for (float value : values)
        ck_assert(value == values[0]);
    return values[0];
}

static void begin(enum cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal)
{
    ck_assert_int_eq(cudaStreamBeginCapture(played.stream, mode), cudaSuccess);
}

static cudaGraph_t end(cudaError_t expected = cudaSuccess)
{
    cudaGraph_t graph;
    ck_assert_int_eq(cudaStreamEndCapture(played.stream, &graph), expected);
    ck_assert((graph != NULL) == (expected == cudaSuccess));
    return graph;
}

static void launch_scale(cudaStream_t stream, float factor)
{
    hy_launch(stream, scale, dim3(1), 32, 0, played.x, played.y, factor);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
}

static cudaGraphExec_t make(cudaGraph_t graph)
{
    cudaGraphExec_t exec;
    ck_assert_int_eq(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    ck_assert_int_eq(cudaGraphDestroy(graph), cudaSuccess);
    return exec;
}

/* --------------------------------------------------------------------- replay */

START_TEST(a_graph_has_its_arguments_and_meets_the_data)
{
    size_t n_nodes = 0;
    put(1.0f);
    ck_assert_int_eq(cudaMemset(played.y, 0, N * sizeof(float)), 0);
    begin();
    ck_assert_int_eq(cudaMemsetAsync(played.y, 0, N * sizeof(float), played.stream), 0);
    launch_scale(played.stream, 3.0f);
    ck_assert_int_eq(cudaMemcpyAsync(played.x, played.y, N * sizeof(float),
                                     cudaMemcpyDeviceToDevice, played.stream),
                     0);
    cudaGraph_t graph = end();
    ck_assert_float_eq(get(), 0.0f); /* nothing of it was done */
    ck_assert_int_eq(cudaGraphGetNodes(graph, NULL, &n_nodes), cudaSuccess);
    ck_assert_uint_eq(n_nodes, 3);
    cudaGraphExec_t exec = make(graph);
    size_t live = harness_live_count();
    for (float expected : {3.0f, 9.0f, 27.0f}) {
        ck_assert_int_eq(cudaGraphLaunch(exec, played.other), cudaSuccess);
        ck_assert_int_eq(cudaStreamSynchronize(played.other), cudaSuccess);
        ck_assert_float_eq(get(), expected);
    }
    put(5.0f);
    ck_assert_int_eq(cudaGraphLaunch(exec, played.stream), cudaSuccess);
    ck_assert_int_eq(cudaGraphExecDestroy(exec), cudaSuccess); /* while it waits to run */
    ck_assert_int_eq(cudaStreamSynchronize(played.stream), cudaSuccess);
    ck_assert_float_eq(get(), 15.0f);
    ck_assert_uint_eq(harness_live_count(), live - 1);
}
END_TEST

/* What another stream is given meanwhile goes its own way, memory too; and so does what another
 * thread does. */
START_TEST(a_capture_is_of_one_stream)
{
    void *data;
    put(1.0f);
    begin();
    launch_scale(played.stream, 2.0f);
    launch_scale(played.other, 4.0f);
    ck_assert_int_eq(cudaMallocAsync(&data, 64, played.other), cudaSuccess);
    ck_assert_int_eq(cudaFreeAsync(data, played.other), cudaSuccess);
    ck_assert_int_eq(cudaStreamSynchronize(played.other), cudaSuccess);
    std::thread([]() {
        void *own;
        cudaMalloc(&own, 64);
        cudaFree(own);
    }).join();
    cudaGraphExec_t exec = make(end());
    ck_assert_float_eq(get(), 4.0f);
    ck_assert_int_eq(cudaGraphLaunch(exec, played.stream), cudaSuccess);
    ck_assert_int_eq(cudaStreamSynchronize(played.stream), cudaSuccess);
    ck_assert_float_eq(get(), 2.0f);
    ck_assert_int_eq(cudaGraphExecDestroy(exec), cudaSuccess);
}
END_TEST

/* --------------------------------------------------------------------- misuse */

static void expect_faults(size_t n)
{
    ck_assert_uint_eq(harness_fault_count(HARNESS_CALL), n);
    harness_clear_errors();
}

typedef cudaError_t (*misuse)();

static cudaError_t allocate_in_order()
{
    void *data;
    return cudaMallocAsync(&data, 64, played.stream);
}

static cudaError_t allocate()
{
    void *data;
    return cudaMalloc(&data, 64);
}

static cudaError_t allocate_pinned()
{
    void *data;
    return cudaHostAlloc(&data, 64, 0);
}

static cudaError_t wait_for_stream()
{
    return cudaStreamSynchronize(played.stream);
}

static cudaError_t wait_for_device()
{
    return cudaDeviceSynchronize();
}

static cudaError_t copy_pageable()
{
    static float values[N];
    return cudaMemcpyAsync(played.x, values, sizeof values, cudaMemcpyHostToDevice, played.stream);
}

START_TEST(what_a_capture_does_not_allow_spoils_it)
{
    static const misuse misuses[] = {allocate_in_order, allocate, allocate_pinned, wait_for_stream,
                                     wait_for_device, copy_pageable};
    put(1.0f);
    begin();
    ck_assert_int_eq(misuses[_i](), cudaErrorStreamCaptureUnsupported);
    cudaGetLastError();
    launch_scale(played.stream, 2.0f);
    end(cudaErrorStreamCaptureInvalidated);
    cudaGetLastError();
    expect_faults(1);
    launch_scale(played.stream, 2.0f); /* the stream is one as before */
    ck_assert_int_eq(cudaStreamSynchronize(played.stream), cudaSuccess);
    ck_assert_float_eq(get(), 2.0f);
}
END_TEST

/* In the relaxed mode a thread may take memory; the stream itself may not wait. */
START_TEST(the_relaxed_mode_allows_more)
{
    void *data;
    begin(cudaStreamCaptureModeRelaxed);
    ck_assert_int_eq(cudaMalloc(&data, 64), cudaSuccess);
    ck_assert_int_eq(cudaFree(data), cudaSuccess);
    ck_assert_int_eq(cudaGraphDestroy(end()), cudaSuccess);
}
END_TEST

START_TEST(handles_are_watched)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    begin();
    ck_assert_int_eq(cudaStreamBeginCapture(played.stream, cudaStreamCaptureModeRelaxed),
                     cudaErrorStreamCaptureUnsupported);
    graph = end();
    ck_assert_int_eq(cudaStreamEndCapture(played.stream, &graph), cudaErrorStreamCaptureUnmatched);
    ck_assert_int_eq(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed),
                     cudaErrorInvalidResourceHandle);
    begin();
    std::thread([]() {
        cudaGraph_t none;
        ck_assert_int_eq(cudaStreamEndCapture(played.stream, &none),
                         cudaErrorStreamCaptureWrongThread);
    }).join();
    expect_faults(4);
    begin();
    graph = end();
    exec = make(graph);
    ck_assert_int_eq(cudaGraphDestroy(graph), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaGraphInstantiate(&exec, graph, 0), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaGraphLaunch(exec, played.stream), cudaErrorInvalidResourceHandle);
    expect_faults(3);
    cudaGetLastError();
}
END_TEST

/* Each call fails when it is told to, and leaves nothing behind but what the one before made. */
START_TEST(calls_can_fail)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t n, live = harness_live_count();
    harness_fail_next("cudaStreamBeginCapture", 1, cudaErrorUnknown);
    ck_assert_int_eq(cudaStreamBeginCapture(played.stream, cudaStreamCaptureModeRelaxed),
                     cudaErrorUnknown);
    harness_fail_next("cudaStreamEndCapture", 1, cudaErrorUnknown);
    begin();
    end(cudaErrorUnknown);
    ck_assert_uint_eq(harness_live_count(), live);
    begin();
    graph = end();
    for (const char *name : {"cudaGraphGetNodes", "cudaGraphInstantiate"})
        harness_fail_next(name, 1, cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaGraphGetNodes(graph, NULL, &n), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaGraphInstantiate(&exec, graph, 0), cudaErrorMemoryAllocation);
    ck_assert_ptr_null(exec);
    exec = make(graph);
    for (const char *name : {"cudaGraphLaunch", "cudaGraphExecDestroy"})
        harness_fail_next(name, 1, cudaErrorUnknown);
    ck_assert_int_eq(cudaGraphLaunch(exec, played.stream), cudaErrorUnknown);
    ck_assert_int_eq(cudaGraphExecDestroy(exec), cudaErrorUnknown);
    ck_assert_uint_eq(harness_live_count(), live);
    cudaGetLastError();
}
END_TEST

int main()
{
    Suite *suite = suite_create("captures of the CUDA harness");
    TCase *tests = tcase_create("captures");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, a_graph_has_its_arguments_and_meets_the_data);
    tcase_add_test(tests, a_capture_is_of_one_stream);
    tcase_add_loop_test(tests, what_a_capture_does_not_allow_spoils_it, 0, 6);
    tcase_add_test(tests, the_relaxed_mode_allows_more);
    tcase_add_test(tests, handles_are_watched);
    tcase_add_test(tests, calls_can_fail);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
