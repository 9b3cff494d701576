/* What NCCL's stand-in finds wrong: calls that NCCL forbids, and ranks that do not fit together. */
#include "ranks_test.h"

#include <nccl.h>

static ncclComm_t make_alone(ncclUniqueId *id)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t communicator;
    ncclResult_t state = ncclInProgress;
    config.blocking = 0;
    ck_assert_int_eq(ncclGetUniqueId(id), ncclSuccess);
    ck_assert_int_eq(ncclCommInitRankConfig(&communicator, 1, *id, 0, &config), ncclInProgress);
    while (state == ncclInProgress)
        ck_assert_int_eq(ncclCommGetAsyncError(communicator, &state), ncclSuccess);
    ck_assert_int_eq(state, ncclSuccess);
    return communicator;
}

static void expect_fault(const char *words)
{
    ck_assert_uint_eq(harness_error_count(), 1);
    ck_assert_msg(strstr(harness_first_error(), words), "%s", harness_first_error());
    harness_clear_errors();
}

START_TEST(the_stand_in_finds_misuse)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    ncclComm_t other;
    void *data, *pooled;
    cudaStream_t stream;
    ncclComm_t communicator = make_alone(&id);
    ck_assert_int_eq(cudaStreamCreate(&stream), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&data, 64), cudaSuccess);
    ck_assert_int_eq(cudaMemset(data, 0, 64), cudaSuccess);
    ck_assert_int_eq(cudaMallocAsync(&pooled, 64, stream), cudaSuccess);

    ck_assert_int_eq(ncclCommInitRankConfig(&other, 2, id, 0, &config), ncclInvalidUsage);
    expect_fault("a communicator that blocks");
    config.blocking = 0;
    ck_assert_int_eq(ncclCommInitRankConfig(&other, 2, id, 2, &config), ncclInvalidArgument);
    expect_fault("a rank that the world does not have");
    ck_assert_int_eq(ncclAllGather(pooled, pooled, 4, ncclFloat32, communicator, stream),
                     ncclInvalidArgument);
    expect_fault("memory of a pool");
    ck_assert_int_eq(ncclAllGather((char *)data + 4, data, 2, ncclFloat32, communicator, stream),
                     ncclInvalidArgument);
    expect_fault("not the rank's own");
    ck_assert_int_eq(ncclAllGather(data, data, 4, ncclFloat32, communicator, stream),
                     ncclInProgress);
    ck_assert_int_eq(ncclAllGather(data, data, 4, ncclFloat32, communicator, stream),
                     ncclInvalidUsage);
    expect_fault("another call is in progress");

    ck_assert_uint_eq(harness_live_count(), 4);
    ck_assert_int_eq(ncclCommDestroy(communicator), ncclSuccess);
    expect_fault("not finalised");
    ck_assert_int_eq(ncclCommDestroy(communicator), ncclInvalidArgument);
    expect_fault("no such communicator");
    ck_assert_int_eq(cudaFreeAsync(pooled, stream), cudaSuccess);
    ck_assert_int_eq(cudaStreamDestroy(stream), cudaSuccess);
    ck_assert_int_eq(cudaFree(data), cudaSuccess);
}
END_TEST

static void settle(ncclComm_t communicator)
{
    ncclResult_t state = ncclSuccess;
    ck_assert_int_eq(ncclCommGetAsyncError(communicator, &state), ncclSuccess);
    ck_assert_int_ne(state, ncclInvalidUsage);
}

/* Two ranks in one thread: a gather that one has captured, and the other has not. */
START_TEST(the_stand_in_finds_captures_that_differ)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    ncclComm_t communicators[2];
    cudaStream_t streams[2];
    char *data[2];
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    config.blocking = 0;
    ck_assert_int_eq(ncclGetUniqueId(&id), ncclSuccess);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(cudaSetDevice(i), cudaSuccess);
        ck_assert_int_eq(cudaStreamCreate(&streams[i]), cudaSuccess);
        ck_assert_int_eq(cudaMalloc((void **)&data[i], 32), cudaSuccess);
        ck_assert_int_eq(cudaMemset(data[i], 0, 32), cudaSuccess);
        ck_assert_int_eq(ncclCommInitRankConfig(&communicators[i], 2, id, i, &config),
                         ncclInProgress);
    }
    for (int time = 0; time < 6; time++)
        settle(communicators[time % 2]);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(ncclAllGather(data[i] + 16 * i, data[i], 16, ncclInt8, communicators[i],
                                       streams[i]), ncclInProgress);
    for (int time = 0; time < 6; time++)
        settle(communicators[time % 2]);
    ck_assert_int_eq(cudaStreamSynchronize(streams[0]), cudaSuccess);
    ck_assert_int_eq(cudaStreamBeginCapture(streams[0], cudaStreamCaptureModeThreadLocal),
                     cudaSuccess);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(ncclAllGather(data[i] + 16 * i, data[i], 16, ncclInt8, communicators[i],
                                       streams[i]), ncclSuccess);
    ck_assert_int_eq(cudaStreamEndCapture(streams[0], &graph), cudaSuccess);
    ck_assert_int_eq(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    ck_assert_int_eq(cudaGraphLaunch(exec, streams[0]), cudaSuccess);
    expect_fault("number 1 of a capture, and 0 of one");
    for (ncclComm_t communicator : communicators)
        ck_assert_int_eq(ncclCommAbort(communicator), ncclSuccess);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(cudaStreamDestroy(streams[i]), cudaSuccess);
        ck_assert_int_eq(cudaFree(data[i]), cudaSuccess);
    }
    ck_assert_int_eq(cudaGraphExecDestroy(exec), cudaSuccess);
    ck_assert_int_eq(cudaGraphDestroy(graph), cudaSuccess);
}
END_TEST

/* Sums of other sizes than the other rank's. */
START_TEST(ranks_that_do_not_fit_are_found)
{
    struct world world;
    open_world(&world, 2, SHORT);
    together(&world, [](struct rank *rank) {
        float *x = make_floats(rank, std::vector<float>(64, 1.0f));
        sum_rows(rank, x, x, 32);
        sum_rows(rank, x, x, 64);
        sum_rows(rank, x, x, 32 + 32 * rank->index);
        finish(rank);
        ops->release(rank->device, x);
    });
    for (const struct rank &rank : world.ranks)
        assert_fails(&rank, HYMBA_ERROR_DEVICE, "invalid usage");
    expect_fault("ranks differ: 128 elements of type 0, and 256 of 0");
    close_world(&world);
}
END_TEST

int main(void)
{
    return run_cases("NCCL's stand-in",
                     {{"stand-in",
                       {the_stand_in_finds_misuse, the_stand_in_finds_captures_that_differ,
                        ranks_that_do_not_fit_are_found},
                       NULL}});
}
