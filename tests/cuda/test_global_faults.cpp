/* Faults in global memory, and reads of what nobody wrote, planted one by one: each is found. */
#include "harness_test.h"

HY_KERNEL misaligned(float *y)
{
    if (hy_thread() == 0)
        hy_store(reinterpret_cast<float2 *>(y + 1), make_float2(1.0f, 2.0f));
}

START_TEST(test_global_bounds)
{
    const size_t side = 32;
    std::vector<uint16_t> a(side * side), b(side * side);
    float *x, *y;
    harness_register(a.data(), a.size() * 2, true);
    harness_register(b.data(), b.size() * 2, true);
    hy_launch(nullptr, transpose<GLOBAL_OFF_BY_ONE>, 1, 32, 32 * 33 * 2, a.data(), b.data(), side);
    ck_assert_uint_eq(harness_fault_count(HARNESS_GLOBAL_BOUNDS), 1);
    harness_clear_errors();
    ck_assert_int_eq(cudaMalloc(&x, 400), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&y, 400), cudaSuccess);
    ck_assert_int_eq(cudaMemset(x, 0, 400), cudaSuccess);
    hy_launch(nullptr, copy_numbers, 2, 32, 0, x, y, (size_t)100);
    expect_no_fault();
    ck_assert(harness_is_written(y, 400));
    hy_launch(nullptr, copy_numbers, 2, 32, 0, x - 1, y, (size_t)100);
    ck_assert_uint_eq(harness_fault_count(HARNESS_GLOBAL_BOUNDS), 1);
    expect_fault(HARNESS_GLOBAL_BOUNDS);
    hy_launch(nullptr, copy_numbers, 2, 32, 0, x, y, (size_t)101);
    ck_assert_uint_eq(harness_fault_count(HARNESS_GLOBAL_BOUNDS), 2);
    expect_fault(HARNESS_GLOBAL_BOUNDS);
    cudaFree(x);
    hy_launch(nullptr, copy_numbers, 2, 32, 0, x, y, (size_t)100);
    expect_fault(HARNESS_GLOBAL_BOUNDS);
}
END_TEST

START_TEST(test_alignment)
{
    alignas(16) float values[4] = {0.0f};
    harness_register(values, sizeof values, true);
    hy_launch(nullptr, misaligned, 1, 32, 0, values);
    expect_fault(HARNESS_ALIGNMENT);
}
END_TEST

START_TEST(test_uninitialised)
{
    numbers y(64, false), z(64, true);
    float *device, host[64];
    hy_launch(nullptr, sum_in_shared, 1, 64, 256, y.data());
    expect_fault(HARNESS_SHARED_UNINITIALISED);
    /* What the block before wrote is not there for the next. */
    hy_launch(nullptr, sum_in_shared, 1, 64, 256, y.data());
    expect_fault(HARNESS_SHARED_UNINITIALISED);
    hy_launch(nullptr, sum_in_global, 1, 64, 0, z.data());
    expect_no_fault();
    ck_assert_int_eq(cudaMalloc(&device, 256), cudaSuccess);
    hy_launch(nullptr, sum_in_global, 1, 64, 0, device);
    expect_fault(HARNESS_GLOBAL_UNINITIALISED);
    cudaFree(device);
    ck_assert_int_eq(cudaMalloc(&device, 256), cudaSuccess);
    ck_assert_int_eq(cudaMemset(device, 0, 252), cudaSuccess);
    ck_assert_int_eq(cudaMemcpy(host, device, 252, cudaMemcpyDeviceToHost), cudaSuccess);
    expect_no_fault();
    ck_assert_int_eq(cudaMemcpy(host, device, 256, cudaMemcpyDeviceToHost), cudaSuccess);
    expect_fault(HARNESS_GLOBAL_UNINITIALISED);
}
END_TEST

START_TEST(test_global_races)
{
    numbers y(128);
    harness_set_order(orders[_i], 2);
    hy_launch(nullptr, share<SAME_VALUE>, 2, 64, 0, y.data());
    expect_no_fault();
    hy_launch(nullptr, share<IN_BLOCK>, 2, 64, 0, y.data());
    expect_no_fault();
    hy_launch(nullptr, share<OTHER_VALUE>, 2, 64, 0, y.data());
    expect_fault(HARNESS_GLOBAL_RACE);
    hy_launch(nullptr, share<READ_AFTER>, 1, 64, 0, y.data());
    expect_fault(HARNESS_GLOBAL_RACE);
    hy_launch(nullptr, share<READ_BEFORE>, 1, 64, 0, y.data());
    expect_fault(HARNESS_GLOBAL_RACE);
    hy_launch(nullptr, share<READ_BY_ALL>, 1, 32, 0, y.data());
    expect_fault(HARNESS_GLOBAL_RACE);
    hy_launch(nullptr, share<ACROSS_BLOCKS>, 2, 64, 0, y.data());
    expect_fault(HARNESS_GLOBAL_RACE);
    /* One launch is before the next. */
    hy_launch(nullptr, sum_in_global, 1, 128, 0, y.data());
    expect_no_fault();
}
END_TEST

int main()
{
    Suite *suite = suite_create("cuda/global_faults");
    TCase *tcase = tcase_create("all");
    tcase_add_checked_fixture(tcase, harness_reset, harness_reset);
    tcase_add_test(tcase, test_global_bounds);
    tcase_add_test(tcase, test_alignment);
    tcase_add_test(tcase, test_uninitialised);
    tcase_add_loop_test(tcase, test_global_races, 0, N_ORDERS);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
