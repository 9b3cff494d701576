/* The stand-in for the runtime: when work on streams is done, what it refuses, and lost devices. */
#include "harness_test.h"

#include <setjmp.h>
#include <signal.h>

static sigjmp_buf fault_jump;

static void on_fault(int)
{
    siglongjmp(fault_jump, 1);
}

/* The device's memory is no one's to read directly, not even between launches. */
START_TEST(test_host_access)
{
    float *device;
    volatile bool faulted = false;
    struct sigaction action = {}, before;
    ck_assert_int_eq(cudaMalloc(&device, 64), cudaSuccess);
    ck_assert_int_eq(cudaMemset(device, 0, 64), cudaSuccess);
    hy_launch(nullptr, sum_in_global, 1, 32, 0, device);
    action.sa_handler = on_fault;
    sigaction(SIGSEGV, &action, &before);
    if (sigsetjmp(fault_jump, 1) == 0)
        *(volatile float *)device = 1.0f;
    else
        faulted = true;
    sigaction(SIGSEGV, &before, NULL);
    ck_assert(faulted);
}
END_TEST

/* A staging buffer may be filled anew only when the copy from it is done. */
START_TEST(test_staging)
{
    float *staging, *device, result = 0.0f, own = 7.0f;
    cudaStream_t stream;
    ck_assert_int_eq(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    ck_assert_int_eq(cudaMallocHost(&staging, 4), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&device, 4), cudaSuccess);
    staging[0] = 1.0f;
    cudaMemcpyAsync(device, staging, 4, cudaMemcpyHostToDevice, stream);
    staging[0] = 2.0f;
    cudaStreamSynchronize(stream);
    cudaMemcpy(&result, device, 4, cudaMemcpyDeviceToHost);
    ck_assert_float_eq(result, 2.0f);
    /* Of other memory the copy has its own. */
    cudaMemcpyAsync(device, &own, 4, cudaMemcpyHostToDevice, stream);
    own = 8.0f;
    /* And what comes back is there when waited for. */
    cudaMemcpyAsync(staging, device, 4, cudaMemcpyDeviceToHost, stream);
    ck_assert_float_eq(staging[0], 2.0f);
    cudaStreamSynchronize(stream);
    ck_assert_float_eq(staging[0], 7.0f);
    cudaFree(device);
    cudaFreeHost(staging);
    ck_assert_uint_eq(harness_live_count(), 1);
    cudaStreamDestroy(stream);
    ck_assert_uint_eq(harness_live_count(), 0);
    expect_no_fault();
}
END_TEST

/* Streams run apart; an event orders them. */
START_TEST(test_events)
{
    float *x, *y, *result;
    cudaStream_t first, second;
    cudaEvent_t event;
    cudaStreamCreate(&first);
    cudaStreamCreate(&second);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    cudaMalloc(&x, 256);
    cudaMalloc(&y, 256);
    cudaMallocHost(&result, 256);
    cudaMemsetAsync(x, 0, 256, first);
    hy_launch(first, sum_in_global, 1, 64, 0, x);
    cudaEventRecord(event, first);
    ck_assert_int_eq(cudaEventQuery(event), cudaErrorNotReady);
    cudaStreamWaitEvent(second, event, 0);
    hy_launch(second, copy_numbers, 1, 32, 0, x, y, (size_t)64);
    cudaMemcpyAsync(result, y, 256, cudaMemcpyDeviceToHost, second);
    cudaFreeAsync(y, second);
    cudaStreamSynchronize(second);
    expect_no_fault();
    ck_assert_float_eq(result[63], 1.0f);
    ck_assert_int_eq(cudaEventSynchronize(event), cudaSuccess);
    /* Without the event the other stream comes too early. */
    ck_assert_int_eq(cudaMallocAsync(&y, 256, first), cudaSuccess);
    cudaMemsetAsync(y, 0, 256, first);
    hy_launch(second, sum_in_global, 1, 64, 0, y);
    cudaStreamSynchronize(second);
    expect_fault(HARNESS_GLOBAL_UNINITIALISED);
}
END_TEST

START_TEST(test_copies)
{
    float *device, host[8] = {1, 2, 3, 4, 5, 6, 7, 8}, back[4] = {0};
    ck_assert_int_eq(cudaMalloc(&device, 64), cudaSuccess);
    ck_assert_int_eq(cudaMemcpy2DAsync(device, 16, host, 16, 8, 2, cudaMemcpyHostToDevice, nullptr),
                     cudaSuccess);
    ck_assert_int_eq(cudaMemcpy2DAsync(back, 8, device, 16, 8, 2, cudaMemcpyDeviceToHost, nullptr),
                     cudaSuccess);
    expect_no_fault();
    ck_assert_float_eq(back[1], 2.0f);
    ck_assert_float_eq(back[2], 5.0f);
    ck_assert(!harness_is_written(device, 16));
    ck_assert_int_eq(cudaMemcpy(device + 9, host, 32, cudaMemcpyHostToDevice),
                     cudaErrorInvalidValue);
    expect_fault(HARNESS_CALL);
    ck_assert_int_eq(cudaMemcpy(host, device, 8, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    expect_fault(HARNESS_CALL);
    ck_assert_int_eq(cudaMemset(device, 0, 65), cudaErrorInvalidValue);
    expect_fault(HARNESS_CALL);
    ck_assert_int_eq(cudaFree(device + 1), cudaErrorInvalidValue);
    expect_fault(HARNESS_CALL);
    ck_assert_int_eq(cudaFree(device), cudaSuccess);
    ck_assert_int_eq(cudaFree(device), cudaErrorInvalidValue);
    expect_fault(HARNESS_CALL);
}
END_TEST

START_TEST(test_launch_limits)
{
    numbers y(64);
    hy_launch(nullptr, sum_in_global, 0, 64, 0, y.data());
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidConfiguration);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    hy_launch(nullptr, sum_in_global, 1, 1056, 0, y.data());
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidConfiguration);
    hy_launch(nullptr, sum_in_global, dim3(1, 65536), 64, 0, y.data());
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidConfiguration);
    hy_launch(nullptr, sum_in_shared, 1, 64, 48 * 1024 + 4, y.data());
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidValue);
    const enum cudaFuncAttribute limit = cudaFuncAttributeMaxDynamicSharedMemorySize;
    ck_assert_int_eq(cudaFuncSetAttribute(sum_in_global, limit, 164 * 1024), cudaErrorInvalidValue);
    cudaGetLastError();
    ck_assert_int_eq(cudaFuncSetAttribute(sum_in_global, limit, 64 * 1024), cudaSuccess);
    hy_launch(nullptr, sum_in_global, 1, 64, 64 * 1024, y.data());
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    ck_assert_uint_eq(harness_launch_count(), 1);
    expect_no_fault();
    hy_launch(nullptr, sum_in_global, 1, 48, 0, y.data());
    expect_fault(HARNESS_LAUNCH);
}
END_TEST

START_TEST(test_injected_faults)
{
    struct harness_device_config config = harness_default_device();
    void *data = NULL, *more = NULL;
    size_t free_bytes, total_bytes;
    int count = -1;
    config.memory = 1000;
    harness_configure(&config);
    ck_assert_int_eq(cudaMalloc(&data, 600), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&more, 600), cudaErrorMemoryAllocation);
    ck_assert_ptr_null(more);
    ck_assert_int_eq(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
    ck_assert_uint_eq(free_bytes, 400);
    ck_assert_int_eq(cudaFree(data), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&data, 1000), cudaSuccess);
    harness_fail_next("cudaMemset", 2, cudaErrorUnknown);
    ck_assert_int_eq(cudaMemset(data, 0, 1000), cudaSuccess);
    ck_assert_int_eq(cudaMemset(data, 0, 1000), cudaErrorUnknown);
    ck_assert_int_eq(cudaMemset(data, 0, 1000), cudaSuccess);
    ck_assert_uint_eq(harness_call_count("cudaMemset"), 3);
    config.driver_version = 11080;
    harness_configure(&config);
    ck_assert_int_eq(cudaSetDevice(0), cudaErrorInsufficientDriver);
    config = harness_default_device();
    config.n_devices = 0;
    harness_configure(&config);
    ck_assert_int_eq(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    ck_assert_int_eq(count, 0);
    config.n_devices = 2;
    harness_configure(&config);
    ck_assert_int_eq(cudaSetDevice(1), cudaSuccess);
    ck_assert_int_eq(cudaSetDevice(2), cudaErrorInvalidDevice);
}
END_TEST

START_TEST(test_lost_device)
{
    float *data;
    cudaStream_t stream;
    ck_assert_int_eq(cudaStreamCreate(&stream), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&data, 256), cudaSuccess);
    ck_assert_int_eq(cudaMemset(data, 0, 256), cudaSuccess);
    harness_lose_device(2, cudaErrorIllegalAddress);
    hy_launch(stream, sum_in_global, 1, 64, 0, data);
    hy_launch(stream, sum_in_global, 1, 64, 0, data);
    hy_launch(stream, sum_in_global, 1, 64, 0, data);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    ck_assert_int_eq(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
    ck_assert_uint_eq(harness_launch_count(), 1);
    ck_assert_int_eq(cudaMemset(data, 0, 256), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorIllegalAddress);
    cudaFree(data);
    cudaStreamDestroy(stream);
    ck_assert_uint_eq(harness_live_count(), 0);
    harness_reset();
    ck_assert_int_eq(cudaMalloc(&data, 256), cudaSuccess);
}
END_TEST

int main()
{
    Suite *suite = suite_create("cuda/runtime");
    TCase *tcase = tcase_create("all");
    tcase_add_checked_fixture(tcase, harness_reset, harness_reset);
    tcase_add_test(tcase, test_host_access);
    tcase_add_test(tcase, test_staging);
    tcase_add_test(tcase, test_events);
    tcase_add_test(tcase, test_copies);
    tcase_add_test(tcase, test_launch_limits);
    tcase_add_test(tcase, test_injected_faults);
    tcase_add_test(tcase, test_lost_device);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
