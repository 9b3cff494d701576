/* The harness itself: kernels that do right run without a word, and what it counts of them. */
#include "harness_test.h"

#include <math.h>

/* ----------------------------------------------------------------- kernels */

/* y[block] = the sum of n numbers. */
HY_KERNEL block_sum(const float *x, float *y, size_t n)
{
    hy_shared<float> sums(0, HY_WARP);
    unsigned thread = hy_thread();
    const float *row = x + hy_block().x * n;
    float sum = 0.0f;
    for (size_t i = thread; i < n; i += hy_block_threads())
        sum += hy_load(row + i);
    for (unsigned mask = HY_WARP / 2; mask > 0; mask /= 2)
        sum += hy_shuffle_xor(sum, mask);
    if (thread % HY_WARP == 0)
        sums[thread / HY_WARP] = sum;
    hy_sync();
    if (thread >= HY_WARP)
        return;
    sum = thread < hy_block_threads() / HY_WARP ? sums[thread] : 0.0f;
    for (unsigned distance = HY_WARP / 2; distance > 0; distance /= 2)
        sum += hy_shuffle_down(sum, distance);
    if (thread == 0)
        hy_store(y + hy_block().x, sum);
}

template <bool IS_BF16>
HY_KERNEL multiply_tile(const uint16_t *a, const uint16_t *b, float *d)
{
    unsigned lane = hy_thread(), row = lane / 4, column = 2 * (lane % 4);
    uint32_t a_words[4], b_words[2];
    float sums[4];
    for (unsigned i = 0; i < 4; i++) {
        const uint16_t *p = a + (row + i % 2 * 8) * 16 + column + i / 2 * 8;
        a_words[i] = hy_load(p) | (uint32_t)hy_load(p + 1) << 16;
    }
    for (unsigned i = 0; i < 2; i++) {
        const uint16_t *p = b + (column + 8 * i) * 8 + row;
        b_words[i] = hy_load(p) | (uint32_t)hy_load(p + 8) << 16;
    }
    for (unsigned i = 0; i < 4; i++)
        sums[i] = hy_load(d + (row + i / 2 * 8) * 8 + column + i % 2);
    if (IS_BF16)
        hy_mma_bf16(sums, a_words, b_words);
    else
        hy_mma_f16(sums, a_words, b_words);
    for (unsigned i = 0; i < 4; i++)
        hy_store(d + (row + i / 2 * 8) * 8 + column + i % 2, sums[i]);
}

/* Each lane tells what it got. */
HY_KERNEL exchange(uint32_t *y)
{
    unsigned thread = hy_thread(), lane = thread % HY_WARP;
    hy_store(y + 5 * thread, hy_shuffle_xor(thread, 5u));
    hy_store(y + 5 * thread + 1, hy_shuffle_down(thread, 30u));
    hy_store(y + 5 * thread + 2, hy_shuffle(thread, (lane + 7) % HY_WARP));
    hy_store(y + 5 * thread + 3, hy_ballot(thread % 3 == 0));
    hy_store(y + 5 * thread + 4, hy_grid().y * 100 + hy_block().y * 10 + hy_block_threads());
}

/* ------------------------------------------------------------------- tests */

START_TEST(test_right_kernels)
{
    const size_t n = 1000, rows = 5, side = 64;
    numbers x(n * rows), y(rows, false);
    std::vector<uint16_t> a(side * side), b(side * side);
    for (size_t i = 0; i < x.values.size(); i++)
        x.values[i] = (float)(i % 7);
    for (size_t i = 0; i < a.size(); i++)
        a[i] = (uint16_t)i;
    harness_register(a.data(), a.size() * 2, true);
    harness_register(b.data(), b.size() * 2, false);
    harness_set_order(orders[_i], 3);
    hy_launch(nullptr, block_sum, (unsigned)rows, 96, HY_WARP * sizeof(float), x.data(), y.data(),
              n);
    hy_launch(nullptr, transpose<RIGHT>, 1, 128, 32 * 33 * 2, a.data(), b.data(), side);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    expect_no_fault();
    for (size_t row = 0; row < rows; row++) {
        float sum = 0.0f;
        for (size_t i = 0; i < n; i++)
            sum += x.values[row * n + i];
        ck_assert_float_eq(y.values[row], sum);
    }
    for (size_t i = 0; i < side; i++)
        for (size_t j = 0; j < side; j++)
            if (b[i * side + j] != a[j * side + i])
                ck_abort_msg("row %zu, column %zu is %u, expected %u", i, j, b[i * side + j],
                             a[j * side + i]);
}
END_TEST

START_TEST(test_exchange)
{
    std::vector<uint32_t> y(64 * 5 * 2);
    harness_register(y.data(), y.size() * 4, false);
    harness_set_order(orders[_i], 1);
    hy_launch(nullptr, exchange, dim3(1, 1, 1), 64, 0, y.data());
    expect_no_fault();
    for (unsigned thread = 0; thread < 64; thread++) {
        unsigned lane = thread % 32, first = thread - lane;
        uint32_t votes = 0;
        for (unsigned i = 0; i < 32; i++)
            votes |= (uint32_t)((first + i) % 3 == 0) << i;
        ck_assert_uint_eq(y[5 * thread], thread ^ 5);
        ck_assert_uint_eq(y[5 * thread + 1], lane < 2 ? thread + 30 : thread);
        ck_assert_uint_eq(y[5 * thread + 2], first + (lane + 7) % 32);
        ck_assert_uint_eq(y[5 * thread + 3], votes);
        ck_assert_uint_eq(y[5 * thread + 4], 164);
    }
}
END_TEST

START_TEST(test_mma)
{
    std::vector<uint16_t> a(256), b(128);
    std::vector<float> d(128), expected(128);
    bool is_bf16 = _i == 0;
    for (uint16_t &x : a)
        x = is_bf16 ? hy_to_bf16((float)(test_random() - 0.5)) : hy_to_f16((float)test_random());
    for (uint16_t &x : b)
        x = is_bf16 ? hy_to_bf16((float)(test_random() - 0.5)) : hy_to_f16((float)test_random());
    for (float &x : d)
        x = (float)test_random();
    for (size_t i = 0; i < 16; i++)
        for (size_t j = 0; j < 8; j++) {
            float sum = d[i * 8 + j];
            for (size_t k = 0; k < 16; k++)
                sum += is_bf16 ? hy_from_bf16(a[i * 16 + k]) * hy_from_bf16(b[k * 8 + j])
                               : hy_from_f16(a[i * 16 + k]) * hy_from_f16(b[k * 8 + j]);
            expected[i * 8 + j] = sum;
        }
    harness_register(a.data(), a.size() * 2, true);
    harness_register(b.data(), b.size() * 2, true);
    harness_register(d.data(), d.size() * 4, true);
    if (is_bf16)
        hy_launch(nullptr, multiply_tile<true>, 1, 32, 0, a.data(), b.data(), d.data());
    else
        hy_launch(nullptr, multiply_tile<false>, 1, 32, 0, a.data(), b.data(), d.data());
    expect_no_fault();
    for (size_t i = 0; i < 128; i++)
        ck_assert_float_eq(d[i], expected[i]);
}
END_TEST

/* Check takes its time with each assertion that holds, and these are many. */
static void expect_f16(float value, unsigned expected)
{
    if (hy_to_f16(value) != expected)
        ck_abort_msg("%.9g as f16 is %#x, expected %#x", (double)value, hy_to_f16(value), expected);
}

/* All numbers there and back; between two the nearer one, and of two as near the even one. */
START_TEST(test_f16)
{
    for (unsigned i = 0; i < 0x7c00; i++) {
        float value = hy_from_f16((uint16_t)i);
        float next = i == 0x7bff ? 65536.0f : hy_from_f16((uint16_t)(i + 1));
        float middle = (value + next) / 2;
        expect_f16(value, i);
        expect_f16(-value, i | 0x8000);
        expect_f16(middle, i % 2 ? i + 1 : i);
        expect_f16(nextafterf(middle, 0.0f), i);
        expect_f16(nextafterf(middle, INFINITY), i + 1);
    }
    expect_f16(INFINITY, 0x7c00);
    ck_assert_uint_eq(hy_to_f16(NAN) & 0x7fff, 0x7e00);
    ck_assert(isnan(hy_from_f16(0x7e00)) && isinf(hy_from_f16(0xfc00)));
}
END_TEST

START_TEST(test_byte_counts)
{
    const size_t n = 1000, rows = 5;
    numbers x(n * rows), y(rows, false), z(n);
    hy_launch(nullptr, block_sum, (unsigned)rows, 96, HY_WARP * sizeof(float), x.data(), y.data(),
              n);
    hy_launch(nullptr, (share<SAME_VALUE>), 2, 64, 0, z.data());
    const struct harness_launch_record *sum = harness_find_launch("block_sum");
    const struct harness_launch_record *last = harness_last_launch();
    ck_assert_ptr_nonnull(sum);
    ck_assert_uint_eq(sum->bytes_read, n * rows * 4);
    ck_assert_uint_eq(sum->unique_bytes_read, n * rows * 4);
    ck_assert_uint_eq(sum->bytes_written, rows * 4);
    ck_assert_uint_eq(sum->grid.x, rows);
    ck_assert_uint_eq(sum->threads, 96);
    ck_assert_str_eq(last->name, "share<SAME_VALUE>");
    ck_assert_ptr_nonnull(harness_find_launch("share"));
    ck_assert_ptr_null(harness_find_launch("other"));
    ck_assert_uint_eq(last->bytes_written, 2 * 64 * 4);
    ck_assert_uint_eq(last->unique_bytes_written, 4);
    ck_assert_uint_eq(harness_launch_count(), 2);
    expect_no_fault();
}
END_TEST

/* Two sums of five rows, a fill of a part, a copy on the device, one from the host and one to it. */
START_TEST(test_traffic)
{
    enum { OTHER, SOURCE, SUMS, TARGET };
    const size_t n = 100, rows = 5;
    struct traffic traffic[TRAFFIC_LABELS];
    numbers x(n * rows), y(rows, false);
    float *target, host[8] = {0.0f};
    ck_assert_int_eq(cudaMalloc(reinterpret_cast<void **>(&target), 400), cudaSuccess);
    ck_assert_int_eq(cudaMemset(target, 0, 400), cudaSuccess); /* not counted yet */
    traffic_begin();
    traffic_label(x.data(), n * rows * 4, SOURCE);
    traffic_label(y.data(), rows * 4, SUMS);
    traffic_label(target, 40, TARGET);
    for (int i = 0; i < 2; i++)
        hy_launch(nullptr, block_sum, (unsigned)rows, 96, HY_WARP * sizeof(float), x.data(),
                  y.data(), n);
    ck_assert_int_eq(cudaMemset(target + 4, 0, 16), cudaSuccess);
    ck_assert_int_eq(cudaMemcpy(target, x.data(), 32, cudaMemcpyDeviceToDevice), cudaSuccess);
    ck_assert_int_eq(cudaMemcpy(target, host, 12, cudaMemcpyHostToDevice), cudaSuccess);
    ck_assert_int_eq(cudaMemcpy(host, target + 8, 20, cudaMemcpyDeviceToHost), cudaSuccess);
    traffic_end(traffic);
    ck_assert_int_eq(cudaMemset(target, 0, 400), cudaSuccess); /* not any more */
    expect_traffic(traffic[SOURCE], 2 * n * rows * 4 + 32, n * rows * 4, 0, 0);
    expect_traffic(traffic[SUMS], 0, 0, 2 * rows * 4, rows * 4);
    expect_traffic(traffic[TARGET], 8, 8, 16 + 32 + 12, 32);
    expect_traffic(traffic[OTHER], 12, 12, 0, 0);
    expect_no_fault();
    traffic_label(target, 401, TARGET);
    ck_assert_uint_eq(harness_error_count(), 1);
    cudaFree(target);
    harness_clear_errors();
}
END_TEST

int main()
{
    Suite *suite = suite_create("cuda/harness");
    TCase *tcase = tcase_create("right");
    tcase_add_checked_fixture(tcase, harness_reset, harness_reset);
    tcase_add_loop_test(tcase, test_right_kernels, 0, N_ORDERS);
    tcase_add_loop_test(tcase, test_exchange, 0, N_ORDERS);
    tcase_add_loop_test(tcase, test_mma, 0, 2);
    tcase_add_test(tcase, test_f16);
    tcase_add_test(tcase, test_byte_counts);
    tcase_add_test(tcase, test_traffic);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
