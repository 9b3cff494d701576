/*
 * The stand-in for streams that work beside each other: one with a priority is as early as it may
 * be, or as late, by itself and as a branch of a graph, so that a wait that is missing shows; and
 * what goes wrong about branches of captures is found.
 */
#include "harness.h"
#include "portable.h"
#include "support.h"

#include <vector>

enum { N = 32 };

/* y = x + 1, of one warp. */
HY_KERNEL one_more(const float *x, float *y)
{
    hy_store(y + hy_thread(), hy_load(x + hy_thread()) + 1.0f);
}

static cudaStream_t first, side;
static cudaEvent_t begun, ended;
static float *x, *y, *z;

static void put(float *data, float value)
{
    std::vector<float> values(N, value);
    ck_assert_int_eq(cudaMemcpy(data, values.data(), N * sizeof(float), cudaMemcpyHostToDevice), 0);
}

/* What the host finds that waits for the first stream alone. */
static float get(const float *data)
{
    static float *pinned;
    ck_assert_int_eq(cudaMallocHost(&pinned, N * sizeof(float)), 0);
    ck_assert_int_eq(cudaMemcpyAsync(pinned, data, N * sizeof(float), cudaMemcpyDeviceToHost,
                                     first), 0);
    ck_assert_int_eq(cudaStreamSynchronize(first), 0);
    float value = pinned[0];
    ck_assert_int_eq(cudaFreeHost(pinned), 0);
    return value;
}

static void set_up(bool early)
{
    int least, greatest;
    harness_reset();
    struct harness_device_config config = harness_default_device();
    config.urgent_first = early;
    harness_configure(&config);
    ck_assert_int_eq(cudaDeviceGetStreamPriorityRange(&least, &greatest), 0);
    ck_assert_int_lt(greatest, least);
    ck_assert_int_eq(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking), 0);
    ck_assert_int_eq(cudaStreamCreateWithPriority(&side, cudaStreamNonBlocking, greatest), 0);
    for (cudaEvent_t *event : {&begun, &ended})
        ck_assert_int_eq(cudaEventCreateWithFlags(event, cudaEventDisableTiming), 0);
    for (float **data : {&x, &y, &z})
        ck_assert_int_eq(cudaMalloc(data, N * sizeof(float)), 0);
}

static void set_up_late()
{
    set_up(false);
}

static void set_up_early()
{
    set_up(true);
}

static void teardown()
{
    ck_assert_msg(harness_error_count() == 0, "%s", harness_first_error());
    for (float *data : {x, y, z})
        cudaFree(data);
    for (cudaStream_t stream : {first, side})
        cudaStreamDestroy(stream);
    for (cudaEvent_t event : {begun, ended})
        cudaEventDestroy(event);
    ck_assert_uint_eq(harness_live_count(), 0);
    harness_reset();
}

static void launch(cudaStream_t stream, const float *from, float *to)
{
    hy_launch(stream, one_more, dim3(1), N, 0, from, to);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
}

static void wait(cudaStream_t stream, cudaEvent_t event, cudaStream_t other)
{
    ck_assert_int_eq(cudaEventRecord(event, other), cudaSuccess);
    ck_assert_int_eq(cudaStreamWaitEvent(stream, event, 0), cudaSuccess);
}

/* y = x + 1 on the first stream, z = y + 1 beside it, y = z + 1 behind that. */
static void queue(bool begins, bool ends)
{
    launch(first, x, y);
    if (begins)
        wait(side, begun, first);
    launch(side, y, z);
    if (ends)
        wait(first, ended, side);
    launch(first, z, y);
}

static void put_all()
{
    put(x, 1.0f);
    put(y, 10.0f);
    put(z, 20.0f);
}

/* -------------------------------------------------------------------- streams */

START_TEST(streams_that_wait_for_each_other)
{
    for (int time = 0; time < 3; time++) {
        put_all();
        queue(true, true);
        ck_assert_float_eq(get(y), 4.0f);
    }
}
END_TEST

/* The stream beside comes too early: it finds what was there before. */
START_TEST(a_stream_that_does_not_wait)
{
    put_all();
    queue(false, true);
    ck_assert_float_eq(get(y), 12.0f);
}
END_TEST

/* And it comes too late, however long the host waits for other streams. */
START_TEST(a_stream_that_is_not_waited_for)
{
    put_all();
    queue(true, false);
    while (cudaStreamQuery(first) == cudaErrorNotReady)
        cudaGetLastError();
    ck_assert_int_eq(cudaStreamQuery(first), cudaSuccess); /* which has nothing to do any more */
    ck_assert_float_eq(get(z), 20.0f); /* the release of pinned memory waits for all streams */
    ck_assert_float_eq(get(y), 21.0f);
    ck_assert_int_eq(cudaStreamSynchronize(side), cudaSuccess);
    ck_assert_float_eq(get(z), 22.0f); /* of the y that was written over */
}
END_TEST

/* --------------------------------------------------------------------- graphs */

static void begin_capture()
{
    ck_assert_int_eq(cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal), 0);
}

static cudaGraph_t end_capture(cudaError_t expected = cudaSuccess)
{
    cudaGraph_t graph;
    ck_assert_int_eq(cudaStreamEndCapture(first, &graph), expected);
    ck_assert((graph != NULL) == (expected == cudaSuccess));
    cudaGetLastError();
    return graph;
}

static cudaGraphExec_t make(cudaGraph_t graph)
{
    cudaGraphExec_t exec;
    ck_assert_int_eq(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    ck_assert_int_eq(cudaGraphDestroy(graph), cudaSuccess);
    return exec;
}

START_TEST(a_graph_has_branches)
{
    size_t n_nodes;
    put_all();
    begin_capture();
    queue(true, true);
    queue(true, true);
    cudaGraph_t graph = end_capture();
    ck_assert_int_eq(cudaGraphGetNodes(graph, NULL, &n_nodes), cudaSuccess);
    ck_assert_uint_eq(n_nodes, 6); /* waits are none */
    cudaGraphExec_t exec = make(graph);
    ck_assert_float_eq(get(y), 10.0f); /* nothing was done, on neither stream */
    for (int time = 0; time < 3; time++) {
        launch(first, x, x); /* which both branches come behind */
        ck_assert_int_eq(cudaGraphLaunch(exec, first), cudaSuccess);
        launch(first, y, z);
        ck_assert_float_eq(get(z), (float)(time + 6));
    }
    ck_assert_int_eq(cudaGraphExecDestroy(exec), cudaSuccess);
    queue(true, true); /* the streams are what they were */
    ck_assert_float_eq(get(y), 7.0f);
}
END_TEST

/* A branch that works on beside the first stream, on what it does not wait for. */
static void capture_racing_branch(bool side_reads)
{
    begin_capture();
    wait(side, begun, first);
    launch(side_reads ? first : side, x, y);
    launch(side_reads ? side : first, y, z);
    wait(first, ended, side);
    cudaGraphExec_t exec = make(end_capture());
    ck_assert_int_eq(cudaGraphLaunch(exec, first), cudaSuccess);
    ck_assert_int_eq(cudaGraphExecDestroy(exec), cudaSuccess);
}

START_TEST(a_branch_that_does_not_wait)
{
    put_all();
    capture_racing_branch(true);
    ck_assert_float_eq(get(z), 11.0f);
}
END_TEST

START_TEST(a_branch_that_is_not_waited_for)
{
    put_all();
    capture_racing_branch(false);
    ck_assert_float_eq(get(z), 11.0f);
}
END_TEST

/* --------------------------------------------------------------------- misuse */

static void expect_faults(size_t n)
{
    ck_assert_uint_eq(harness_fault_count(HARNESS_CALL), n);
    harness_clear_errors();
}

START_TEST(a_branch_is_waited_for_before_the_end)
{
    put_all();
    begin_capture();
    queue(true, false);
    end_capture(cudaErrorStreamCaptureUnjoined);
    expect_faults(1);
    begin_capture();
    queue(true, true);
    launch(side, x, z); /* behind what was waited for */
    end_capture(cudaErrorStreamCaptureUnjoined);
    expect_faults(1);
    queue(true, true);
    ck_assert_float_eq(get(y), 4.0f);
}
END_TEST

START_TEST(captures_and_other_work_do_not_mix)
{
    cudaGraph_t graph;
    put_all();
    ck_assert_int_eq(cudaEventRecord(begun, side), cudaSuccess);
    begin_capture();
    ck_assert_int_eq(cudaStreamWaitEvent(first, begun, 0), cudaErrorStreamCaptureIsolation);
    end_capture(cudaErrorStreamCaptureInvalidated);
    expect_faults(1);
    begin_capture();
    ck_assert_int_eq(cudaStreamBeginCapture(side, cudaStreamCaptureModeThreadLocal), 0);
    ck_assert_int_eq(cudaEventRecord(begun, side), cudaSuccess);
    ck_assert_int_eq(cudaStreamWaitEvent(first, begun, 0), cudaErrorStreamCaptureMerge);
    end_capture(cudaErrorStreamCaptureInvalidated);
    ck_assert_int_eq(cudaStreamEndCapture(side, &graph), cudaErrorStreamCaptureInvalidated);
    expect_faults(1);
    begin_capture();
    wait(side, begun, first);
    ck_assert_int_eq(cudaStreamEndCapture(side, &graph), cudaErrorStreamCaptureUnmatched);
    ck_assert_int_eq(cudaStreamSynchronize(side), cudaErrorStreamCaptureUnsupported);
    end_capture(cudaErrorStreamCaptureInvalidated);
    expect_faults(2);
    for (cudaError_t code : {cudaEventQuery(begun), cudaEventSynchronize(begun),
                             cudaStreamWaitEvent(side, begun, 0)})
        ck_assert_int_eq(code, cudaErrorCapturedEvent);
    cudaGetLastError();
    expect_faults(3);
}
END_TEST

int main()
{
    Suite *suite = suite_create("streams of the CUDA harness");
    for (bool early : {false, true}) {
        TCase *tests = tcase_create(early ? "early" : "late");
        tcase_add_checked_fixture(tests, early ? set_up_early : set_up_late, teardown);
        for (const TTest *test : {streams_that_wait_for_each_other, a_graph_has_branches,
                                  a_branch_is_waited_for_before_the_end,
                                  captures_and_other_work_do_not_mix})
            tcase_add_test(tests, test);
        tcase_add_test(tests, early ? a_stream_that_does_not_wait : a_stream_that_is_not_waited_for);
        tcase_add_test(tests, early ? a_branch_that_does_not_wait : a_branch_that_is_not_waited_for);
        suite_add_tcase(suite, tests);
    }
    return test_main(suite);
}
