/*
 * The harness itself: kernels that do right run without a word, and each planted fault is found.
 */
#include "portable.h"
#include "support.h"
#include "traffic.h"

#include <cublasLt.h>

#include <setjmp.h>
#include <signal.h>

#include <vector>

/* --------------------------------------------------------------- right ones */

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

enum transposition { RIGHT, NO_BARRIER, NO_SECOND_BARRIER, SHARED_OFF_BY_ONE, GLOBAL_OFF_BY_ONE };

/* y = x transposed, of n x n numbers, by one block in tiles of 32 x 32. */
template <enum transposition KIND> HY_KERNEL transpose(const uint16_t *x, uint16_t *y, size_t n)
{
    hy_shared<uint16_t> tile(0, 32 * 33);
    unsigned column = hy_thread() % 32, row0 = hy_thread() / 32, rows = hy_block_threads() / 32;
    for (size_t i = 0; i < n; i += 32)
        for (size_t j = 0; j < n; j += 32) {
            for (unsigned row = row0; row < 32; row += rows)
                tile[row * 33 + column + (KIND == SHARED_OFF_BY_ONE ? 2 : 0)] =
                    hy_load(x + (i + row) * n + j + column);
            if (KIND != NO_BARRIER)
                hy_sync();
            for (unsigned row = row0; row < 32; row += rows)
                hy_store(y + (j + row) * n + i + column + (KIND == GLOBAL_OFF_BY_ONE ? 1 : 0),
                         tile[column * 33 + row]);
            if (KIND != NO_SECOND_BARRIER)
                hy_sync();
        }
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

/* ----------------------------------------------------------------- planted */

/* Lane l reads what lane l ^ 1 wrote; or what the thread 32 further wrote. */
template <bool SYNC_WARP, bool OTHER_WARP> HY_KERNEL neighbours(float *y)
{
    hy_shared<float> values(16, 64);
    unsigned thread = hy_thread();
    values[thread] = (float)thread;
    hy_ballot(true);
    if (SYNC_WARP)
        hy_sync_warp();
    hy_store(y + thread, values[thread ^ (OTHER_WARP ? 32u : 1u)]);
}

/* All threads add to one sum. */
HY_KERNEL add_without_order(float *y)
{
    hy_shared<float> sum(0, 1);
    if (hy_thread() == 0)
        sum[0] = 0.0f;
    hy_sync();
    sum[0] += 1.0f;
    hy_sync();
    if (hy_thread() == 0)
        hy_store(y, sum[0]);
}

/* The same by additions that need no order, and what needs one beside them. */
enum beside { ADD_ALONE, ADD_AND_READ, ADD_AND_WRITE, ADD_UNWRITTEN };

template <enum beside KIND> HY_KERNEL add_together(float *y)
{
    hy_shared<uint32_t> sum(0, 1);
    hy_shared<uint64_t> places(8, 1);
    if (hy_thread() == 0 && KIND != ADD_UNWRITTEN)
        sum[0] = 0;
    if (hy_thread() == 1)
        places[0] = UINT32_MAX;
    hy_sync();
    if (KIND == ADD_AND_WRITE && hy_thread() == 40)
        sum[0] = 3;
    sum.add(0, 2);
    const uint64_t place = places.add(0, 1) - UINT32_MAX;
    hy_store(y + 2 + place, 1.0f);
    if (KIND == ADD_AND_READ && hy_thread() == 40)
        hy_store(y, (float)sum[0]);
    hy_sync();
    if (hy_thread() == 0) {
        const uint64_t places_taken = places[0] - UINT32_MAX;
        hy_store(y, (float)sum[0]);
        hy_store(y + 1, (float)places_taken);
    }
}

/* All lanes of a warp have read when one of them writes: none of the reads may be forgotten. */
HY_KERNEL read_then_write(float *y, unsigned writer)
{
    hy_shared<float> values(0, 1);
    if (hy_thread() == 0)
        values[0] = 1.0f;
    hy_sync();
    float value = values[0];
    hy_ballot(true);
    if (hy_thread() == writer)
        values[0] = 2.0f;
    hy_sync();
    if (hy_thread() == 0)
        hy_store(y, value);
}

HY_KERNEL sum_in_shared(float *y)
{
    hy_shared<float> sums(0, 64);
    sums[hy_thread()] += 1.0f;
    hy_store(y + hy_thread(), sums[hy_thread()]);
}

HY_KERNEL sum_in_global(float *y)
{
    hy_store(y + hy_thread(), hy_load(y + hy_thread()) + 1.0f);
}

HY_KERNEL divergent_barrier(float *y)
{
    if (hy_thread() < 16)
        hy_sync();
    hy_store(y + hy_thread(), 1.0f);
}

HY_KERNEL barrier_against_shuffle(float *y)
{
    float value = 1.0f;
    if (hy_thread() < HY_WARP)
        hy_sync();
    else
        value = hy_shuffle_xor(value, 1u);
    if (hy_thread() % HY_WARP == 0)
        hy_sync();
    hy_store(y + hy_thread(), value);
}

HY_KERNEL shuffle_of_some(float *y)
{
    float value = 1.0f;
    if (hy_thread() % HY_WARP != 3)
        value = hy_shuffle_xor(value, 1u);
    hy_store(y + hy_thread(), value);
}

HY_KERNEL different_operations(float *y)
{
    float value = 1.0f;
    if (hy_thread() % 2)
        value = hy_shuffle_xor(value, 1u);
    else
        hy_ballot(true);
    hy_store(y + hy_thread(), value);
}

HY_KERNEL too_much_shared(float *y)
{
    hy_shared<float> values(64, 64);
    hy_store(y + hy_thread(), 1.0f);
}

HY_KERNEL misaligned(float *y)
{
    if (hy_thread() == 0)
        hy_store(reinterpret_cast<float2 *>(y + 1), make_float2(1.0f, 2.0f));
}

enum sharing {
    SAME_VALUE,
    OTHER_VALUE,
    READ_AFTER,
    READ_BEFORE,
    READ_BY_ALL,
    IN_BLOCK,
    ACROSS_BLOCKS
};

template <enum sharing KIND> HY_KERNEL share(float *y)
{
    unsigned thread = hy_thread(), block = hy_block().x, n = hy_block_threads();
    float *mine = y + block * n + thread, *next = y + block * n + (thread + 1) % n;
    if (KIND == SAME_VALUE)
        hy_store(y, 5.0f);
    if (KIND == OTHER_VALUE)
        hy_store(y, (float)(block * n + thread));
    if (KIND == READ_BEFORE)
        hy_load(next);
    if (KIND == READ_BY_ALL) {
        hy_load(y);
        hy_ballot(true);
        if (thread == 0)
            hy_store(y, 1.0f);
    }
    if (KIND == READ_AFTER || KIND == READ_BEFORE)
        hy_store(mine, 1.0f);
    if (KIND == READ_AFTER)
        hy_load(next);
    if (KIND == IN_BLOCK || KIND == ACROSS_BLOCKS) {
        hy_store(mine, 1.0f);
        hy_sync();
        hy_load(KIND == IN_BLOCK ? next : y + (block + 1) % hy_grid().x * n + thread);
        hy_sync();
        hy_store(mine, 2.0f);
    }
}

enum passing { PASS_RIGHT, PASS_UNWAITED, PASS_GROUP_UNWAITED, PASS_NO_BARRIER, PASS_OVERWRITTEN };

/* y = x, 16 bytes a thread, of two rounds under way at once; thread t stores what thread t ^ 32
 * copied. Thread 9 has nothing to copy, and zeros come. */
template <enum passing KIND> HY_KERNEL pass_on(const uint4 *x, uint4 *y)
{
    hy_shared<uint4> rounds(0, 128);
    unsigned thread = hy_thread();
    for (unsigned round = 0; round < 2; round++) {
        rounds.copy_async(64 * round + thread, x + 64 * round + thread, thread != 9);
        hy_group_copies();
    }
    for (unsigned round = 0; round < 2; round++) {
        if (KIND == PASS_UNWAITED)
            hy_wait_copies<2>();
        else if (KIND == PASS_GROUP_UNWAITED || round == 0)
            hy_wait_copies<1>();
        else
            hy_wait_copies<0>();
        if (KIND != PASS_NO_BARRIER)
            hy_sync();
        const uint4 word = rounds[64 * round + (thread ^ 32)];
        hy_store(y + 64 * round + (thread ^ 32), word);
        if (KIND == PASS_OVERWRITTEN)
            rounds.copy_async(64 * round + thread, x, true);
    }
}

enum taking {
    TAKE_RIGHT,
    TAKE_UNWAITED,
    TAKE_NO_BARRIER,
    TAKE_OVERWRITTEN,
    TAKE_BEYOND,
    TAKE_LANE_MISSING
};

/* Each of two warps takes the fragments of the four matrices whose rows the other one copied. */
template <enum taking KIND, bool TRANSPOSED>
HY_KERNEL take_matrices(const uint4 *x, uint32_t *y)
{
    hy_shared<uint4> rows(16, 64);
    unsigned thread = hy_thread();
    uint32_t words[4];
    rows.copy_async(thread, x + thread, true);
    hy_group_copies();
    if (KIND != TAKE_UNWAITED)
        hy_wait_copies<0>();
    if (KIND != TAKE_NO_BARRIER)
        hy_sync();
    if (KIND == TAKE_LANE_MISSING && thread == 5)
        return;
    rows.load_matrices<TRANSPOSED>(KIND == TAKE_BEYOND && thread == 40 ? 64 : thread ^ 32, words);
    if (KIND == TAKE_OVERWRITTEN)
        rows.copy_async(thread, x, true);
    for (unsigned m = 0; m < 4; m++)
        hy_store(y + 4 * thread + m, words[m]);
}

HY_KERNEL copy_numbers(const float *x, float *y, size_t n)
{
    for (size_t i = hy_block().x * hy_block_threads() + hy_thread(); i < n;
         i += hy_grid().x * hy_block_threads())
        hy_store(y + i, hy_load(x + i));
}

/* ------------------------------------------------------------------ support */

static void begin()
{
    harness_reset();
}

static void end()
{
    harness_reset();
}

#define expect_no_fault() ck_assert_msg(harness_error_count() == 0, "%s", harness_first_error())

/* Faults of this kind were found, and no other. */
static void expect_fault(enum harness_fault fault)
{
    ck_assert_msg(harness_fault_count(fault) > 0, "not found; first: %s", harness_first_error());
    ck_assert_msg(harness_fault_count(fault) == harness_error_count(), "others: %s",
                  harness_first_error());
    harness_clear_errors();
}

static const enum harness_order orders[] = {HARNESS_ASCENDING, HARNESS_DESCENDING, HARNESS_RANDOM};

/* Global memory of floats. */
struct numbers {
    explicit numbers(size_t n, bool initialised = true) : values(n, 1.0f)
    {
        harness_register(values.data(), n * sizeof(float), initialised);
    }
    ~numbers()
    {
        harness_unregister(values.data());
    }
    float *data()
    {
        return values.data();
    }
    std::vector<float> values;
};

/* ------------------------------------------------------- kernels that do right */

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
            ck_assert_uint_eq(b[i * side + j], a[j * side + i]);
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

/* All numbers there and back; between two the nearer one, and of two as near the even one. */
START_TEST(test_f16)
{
    for (unsigned i = 0; i < 0x7c00; i++) {
        float value = hy_from_f16((uint16_t)i);
        float next = i == 0x7bff ? 65536.0f : hy_from_f16((uint16_t)(i + 1));
        float middle = (value + next) / 2;
        ck_assert_uint_eq(hy_to_f16(value), i);
        ck_assert_uint_eq(hy_to_f16(-value), i | 0x8000);
        ck_assert_uint_eq(hy_to_f16(middle), i % 2 ? i + 1 : i);
        ck_assert_uint_eq(hy_to_f16(nextafterf(middle, 0.0f)), i);
        ck_assert_uint_eq(hy_to_f16(nextafterf(middle, INFINITY)), i + 1);
    }
    ck_assert_uint_eq(hy_to_f16(INFINITY), 0x7c00);
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

static void expect_traffic(const struct traffic &found, uint64_t loads, uint64_t distinct_loads,
                           uint64_t stores, uint64_t distinct_stores)
{
    ck_assert_uint_eq(found.loads, loads);
    ck_assert_uint_eq(found.distinct_loads, distinct_loads);
    ck_assert_uint_eq(found.stores, stores);
    ck_assert_uint_eq(found.distinct_stores, distinct_stores);
}

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

/* ------------------------------------------------------------ planted faults */

/* Some threads meet a copy that is under way, others one that is done or not begun. */
static void expect_race_with_copy()
{
    ck_assert_uint_gt(harness_fault_count(HARNESS_SHARED_RACE), 0);
    ck_assert_uint_gt(harness_fault_count(HARNESS_SHARED_UNINITIALISED), 0);
    harness_clear_errors();
}

START_TEST(test_asynchronous_copies)
{
    std::vector<uint32_t> x(4 * 127, 3), y(4 * 128);
    x.resize(4 * 128, 4);
    harness_set_order((enum harness_order)_i, 3);
    harness_register(x.data(), x.size() * 4, true);
    harness_register(y.data(), y.size() * 4, false);
    const uint4 *from = (const uint4 *)x.data();
    uint4 *to = (uint4 *)y.data();
    hy_launch(nullptr, pass_on<PASS_RIGHT>, 1, 64, 2048, from, to);
    expect_no_fault();
    for (size_t i = 0; i < y.size(); i++)
        ck_assert_uint_eq(y[i], i / 4 % 64 == 9 ? 0 : x[i]);
    ck_assert_uint_eq(harness_last_launch()->bytes_read, 126 * 16);
    hy_launch(nullptr, pass_on<PASS_UNWAITED>, 1, 64, 2048, from, to);
    expect_fault(HARNESS_SHARED_UNINITIALISED);
    hy_launch(nullptr, pass_on<PASS_GROUP_UNWAITED>, 1, 64, 2048, from, to);
    expect_fault(HARNESS_SHARED_UNINITIALISED);
    hy_launch(nullptr, pass_on<PASS_NO_BARRIER>, 1, 64, 2048, from, to);
    expect_race_with_copy();
    hy_launch(nullptr, pass_on<PASS_OVERWRITTEN>, 1, 64, 2048, from, to);
    expect_race_with_copy();
    harness_unregister(x.data());
    harness_unregister(y.data());
}
END_TEST

template <bool TRANSPOSED> static void take_all(const uint4 *x, uint32_t *y)
{
    hy_launch(nullptr, (take_matrices<TAKE_RIGHT, TRANSPOSED>), 1, 64, 16 + 1024, x, y);
    expect_no_fault();
    for (unsigned i = 0; i < 256; i++) {
        unsigned lane = i / 4 % 32, m = i % 4, across = lane / 4, along = lane % 4 * 2;
        unsigned matrix = ((1 - i / 128) * 4 + m) * 64;
        unsigned first = TRANSPOSED ? along * 8 + across : across * 8 + along;
        unsigned second = first + (TRANSPOSED ? 8 : 1);
        ck_assert_uint_eq(y[i], matrix + first + ((matrix + second) << 16));
    }
    hy_launch(nullptr, (take_matrices<TAKE_UNWAITED, TRANSPOSED>), 1, 64, 16 + 1024, x, y);
    expect_fault(HARNESS_SHARED_UNINITIALISED);
    hy_launch(nullptr, (take_matrices<TAKE_NO_BARRIER, TRANSPOSED>), 1, 64, 16 + 1024, x, y);
    expect_race_with_copy();
    hy_launch(nullptr, (take_matrices<TAKE_OVERWRITTEN, TRANSPOSED>), 1, 64, 16 + 1024, x, y);
    ck_assert_uint_gt(harness_fault_count(HARNESS_SHARED_RACE), 0);
    harness_clear_errors();
    hy_launch(nullptr, (take_matrices<TAKE_BEYOND, TRANSPOSED>), 1, 64, 16 + 1024, x, y);
    expect_fault(HARNESS_SHARED_BOUNDS);
    hy_launch(nullptr, (take_matrices<TAKE_LANE_MISSING, TRANSPOSED>), 1, 64, 16 + 1024, x, y);
    expect_fault(HARNESS_WARP);
}

START_TEST(test_matrices)
{
    std::vector<uint16_t> x(512 + 8);
    std::vector<uint32_t> y(256);
    const size_t skipped = (16 - (uintptr_t)x.data() % 16) % 16 / 2;
    for (size_t i = 0; i < 512; i++)
        x[skipped + i] = (uint16_t)i;
    harness_set_order((enum harness_order)_i, 3);
    harness_register(x.data(), x.size() * 2, true);
    harness_register(y.data(), y.size() * 4, false);
    take_all<false>((const uint4 *)(x.data() + skipped), y.data());
    take_all<true>((const uint4 *)(x.data() + skipped), y.data());
    harness_unregister(x.data());
    harness_unregister(y.data());
}
END_TEST

START_TEST(test_missing_barrier)
{
    const size_t side = 64;
    std::vector<uint16_t> a(side * side), b(side * side);
    harness_register(a.data(), a.size() * 2, true);
    harness_register(b.data(), b.size() * 2, true);
    harness_set_order(orders[_i], 2);
    hy_launch(nullptr, transpose<NO_SECOND_BARRIER>, 1, 128, 32 * 33 * 2, a.data(), b.data(),
              side);
    expect_fault(HARNESS_SHARED_RACE);
    hy_launch(nullptr, transpose<NO_BARRIER>, 1, 128, 32 * 33 * 2, a.data(), b.data(), side);
    ck_assert_uint_gt(harness_fault_count(HARNESS_SHARED_RACE), 0);
}
END_TEST

START_TEST(test_shared_races)
{
    numbers y(64, false);
    harness_set_order(orders[_i], 2);
    hy_launch(nullptr, (neighbours<true, false>), 1, 64, 16 + 256, y.data());
    expect_no_fault();
    hy_launch(nullptr, (neighbours<false, false>), 1, 64, 16 + 256, y.data());
    expect_fault(HARNESS_SHARED_RACE);
    hy_launch(nullptr, add_without_order, 1, 64, 4, y.data());
    expect_fault(HARNESS_SHARED_RACE);
    for (unsigned writer = 0; writer < 96; writer += 5) {
        hy_launch(nullptr, read_then_write, 1, 96, 4, y.data(), writer);
        expect_fault(HARNESS_SHARED_RACE);
        hy_launch(nullptr, read_then_write, 1, 32, 4, y.data(), writer % 32);
        expect_fault(HARNESS_SHARED_RACE);
    }
    hy_launch(nullptr, (neighbours<true, true>), 1, 64, 16 + 256, y.data());
    ck_assert_uint_gt(harness_fault_count(HARNESS_SHARED_RACE), 0);
}
END_TEST

START_TEST(test_shared_additions)
{
    numbers y(66, false);
    harness_set_order(orders[_i], 2);
    hy_launch(nullptr, add_together<ADD_ALONE>, 1, 64, 16, y.data());
    expect_no_fault();
    ck_assert(y.values[0] == 128 && y.values[1] == 64);
    ck_assert(harness_is_written(y.data(), 66 * sizeof(float)));
    hy_launch(nullptr, add_together<ADD_AND_READ>, 1, 64, 16, y.data());
    ck_assert_uint_gt(harness_fault_count(HARNESS_SHARED_RACE), 0);
    harness_clear_errors();
    hy_launch(nullptr, add_together<ADD_AND_WRITE>, 1, 64, 16, y.data());
    ck_assert_uint_gt(harness_fault_count(HARNESS_SHARED_RACE), 0);
    harness_clear_errors();
    hy_launch(nullptr, add_together<ADD_UNWRITTEN>, 1, 64, 16, y.data());
    ck_assert_uint_gt(harness_fault_count(HARNESS_SHARED_UNINITIALISED), 0);
}
END_TEST

START_TEST(test_shared_bounds)
{
    const size_t side = 32;
    std::vector<uint16_t> a(side * side), b(side * side);
    numbers y(64, false);
    harness_register(a.data(), a.size() * 2, true);
    harness_register(b.data(), b.size() * 2, true);
    hy_launch(nullptr, transpose<SHARED_OFF_BY_ONE>, 1, 32, 32 * 33 * 2, a.data(), b.data(), side);
    ck_assert_uint_gt(harness_fault_count(HARNESS_SHARED_BOUNDS), 0);
    ck_assert_msg(strstr(harness_first_error(), "transpose<SHARED_OFF_BY_ONE>") != NULL, "%s",
                  harness_first_error());
    harness_clear_errors();
    hy_launch(nullptr, too_much_shared, 1, 64, 64 + 255, y.data());
    expect_fault(HARNESS_SHARED_BOUNDS);
    hy_launch(nullptr, too_much_shared, 1, 64, 64 + 256, y.data());
    expect_no_fault();
}
END_TEST

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

START_TEST(test_barriers)
{
    numbers y(64, false);
    harness_set_order(orders[_i], 2);
    hy_launch(nullptr, divergent_barrier, 2, 64, 0, y.data());
    ck_assert_uint_eq(harness_fault_count(HARNESS_BARRIER), 2);
    expect_fault(HARNESS_BARRIER);
    hy_launch(nullptr, barrier_against_shuffle, 1, 64, 0, y.data());
    expect_fault(HARNESS_BARRIER);
    hy_launch(nullptr, shuffle_of_some, 1, 64, 0, y.data());
    expect_fault(HARNESS_WARP);
    hy_launch(nullptr, different_operations, 1, 64, 0, y.data());
    expect_fault(HARNESS_WARP);
    /* A block that could not go on leaves nothing behind. */
    hy_launch(nullptr, sum_in_global, 1, 64, 0, y.data());
    hy_launch(nullptr, (neighbours<true, false>), 1, 64, 16 + 256, y.data());
    expect_no_fault();
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

/* ------------------------------------------------------- the device's runtime */

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

/* ---------------------------------------------------------- matrix products */

/* One product's objects: D[m x n] = A^T B + beta C, A of k x m, B of k x n, all by columns. */
struct blas {
    blas(cudaDataType_t in, cudaDataType_t out, size_t m, size_t n, size_t k)
    {
        cublasOperation_t transposed = CUBLAS_OP_T;
        uint64_t room = 4 << 20;
        uint32_t aligned = 4;
        ck_assert_int_eq(cublasLtCreate(&handle), 0);
        ck_assert_int_eq(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), 0);
        ck_assert_int_eq(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA,
                                                        &transposed, sizeof transposed),
                         0);
        ck_assert_int_eq(cublasLtMatrixLayoutCreate(&a, in, k, m, (int64_t)k), 0);
        ck_assert_int_eq(cublasLtMatrixLayoutCreate(&b, in, k, n, (int64_t)k), 0);
        ck_assert_int_eq(cublasLtMatrixLayoutCreate(&d, out, m, n, (int64_t)m), 0);
        ck_assert_int_eq(cublasLtMatmulPreferenceCreate(&preference), 0);
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &room, sizeof room);
        for (int i = CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
             i <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES; i++)
            cublasLtMatmulPreferenceSetAttribute(
                preference, (cublasLtMatmulPreferenceAttributes_t)i, &aligned, sizeof aligned);
    }
    ~blas()
    {
        cublasLtMatmulPreferenceDestroy(preference);
        cublasLtMatrixLayoutDestroy(d);
        cublasLtMatrixLayoutDestroy(b);
        cublasLtMatrixLayoutDestroy(a);
        cublasLtMatmulDescDestroy(desc);
        cublasLtDestroy(handle);
    }
    int find(cublasLtMatmulHeuristicResult_t results[3])
    {
        int n = 0;
        cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, d, d, preference, 3, results, &n);
        return n;
    }
    cublasStatus_t run(const void *x, const void *y, void *z, float beta,
                       const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes)
    {
        float alpha = 1.0f;
        return cublasLtMatmul(handle, desc, &alpha, x, a, y, b, &beta, z, d, z, d, algo, workspace,
                              bytes, nullptr);
    }
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulPreference_t preference;
};

enum { M = 6, N = 3, K = 10 };

/* The same numbers in f32, bf16 and f16: small integers. */
static void fill_numbers(void *data, size_t n, cudaDataType_t type)
{
    for (size_t i = 0; i < n; i++) {
        float value = (float)(i * 7 % 11) - 5.0f;
        uint16_t bits = type == CUDA_R_16F ? hy_to_f16(value) : hy_to_bf16(value);
        if (type == CUDA_R_32F)
            static_cast<float *>(data)[i] = value;
        else
            static_cast<uint16_t *>(data)[i] = bits;
    }
}

START_TEST(test_products)
{
    static const struct {
        cudaDataType_t in, out;
    } types[] = {{CUDA_R_32F, CUDA_R_32F},
                 {CUDA_R_16BF, CUDA_R_32F},
                 {CUDA_R_16F, CUDA_R_32F},
                 {CUDA_R_16BF, CUDA_R_16BF}};
    numbers a(K * M), b(K * N), d(M * N), bias(M), workspace(1 << 19);
    blas product(types[_i].in, types[_i].out, M, N, K);
    cublasLtMatmulHeuristicResult_t results[3];
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const void *bias_pointer = bias.data();
    std::vector<float> x(K * M), y(K * N), c(M * N);
    fill_numbers(x.data(), K * M, CUDA_R_32F);
    fill_numbers(y.data(), K * N, CUDA_R_32F);
    fill_numbers(c.data(), M * N, CUDA_R_32F);
    fill_numbers(a.data(), K * M, types[_i].in);
    fill_numbers(b.data(), K * N, types[_i].in);
    fill_numbers(d.data(), M * N, types[_i].out);
    fill_numbers(bias.data(), M, types[_i].out);
    cublasLtMatmulDescSetAttribute(product.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                   sizeof epilogue);
    cublasLtMatmulDescSetAttribute(product.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias_pointer,
                                   sizeof bias_pointer);
    ck_assert_int_eq(product.find(results), 3);
    ck_assert_int_eq(product.run(a.data(), b.data(), d.data(), 1.0f, &results[0].algo,
                                 workspace.data(), results[0].workspaceSize),
                     CUBLAS_STATUS_SUCCESS);
    expect_no_fault();
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < N; j++) {
            float expected = c[j * M + i] + c[i], found = d.values[j * M + i];
            for (size_t k = 0; k < K; k++)
                expected += x[i * K + k] * y[j * K + k];
            if (types[_i].out != CUDA_R_32F) {
                const uint16_t *bits = reinterpret_cast<const uint16_t *>(d.data());
                expected = hy_from_bf16(hy_to_bf16(expected));
                found = hy_from_bf16(bits[j * M + i]);
            }
            ck_assert_float_eq(found, expected);
        }
}
END_TEST

/* By rows, what was B and A before: the same numbers, transposed. */
START_TEST(test_products_by_rows)
{
    numbers a(M * K), b(K * N), d(M * N, false);
    float alpha = 2.0f, beta = 0.0f;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t layouts[3];
    cublasLtOrder_t order = CUBLASLT_ORDER_ROW;
    fill_numbers(a.data(), M * K, CUDA_R_32F);
    fill_numbers(b.data(), K * N, CUDA_R_32F);
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&layouts[0], CUDA_R_32F, M, K, K);
    cublasLtMatrixLayoutCreate(&layouts[1], CUDA_R_32F, K, N, N);
    cublasLtMatrixLayoutCreate(&layouts[2], CUDA_R_32F, M, N, N);
    for (cublasLtMatrixLayout_t layout : layouts)
        cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &order,
                                         sizeof order);
    struct traffic traffic[TRAFFIC_LABELS];
    traffic_begin();
    traffic_label(a.data(), M * K * 4, 1);
    traffic_label(b.data(), K * N * 4, 2);
    traffic_label(d.data(), M * N * 4, 3);
    ck_assert_int_eq(cublasLtMatmul(handle, desc, &alpha, a.data(), layouts[0], b.data(),
                                    layouts[1], &beta, d.data(), layouts[2], d.data(), layouts[2],
                                    NULL, NULL, 0, nullptr),
                     CUBLAS_STATUS_SUCCESS);
    traffic_end(traffic);
    expect_no_fault();
    expect_traffic(traffic[1], M * K * 4, M * K * 4, 0, 0);
    expect_traffic(traffic[2], K * N * 4, K * N * 4, 0, 0);
    expect_traffic(traffic[3], 0, 0, M * N * 4, M * N * 4);
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < N; j++) {
            float expected = 0.0f;
            for (size_t k = 0; k < K; k++)
                expected += a.values[i * K + k] * b.values[k * N + j];
            ck_assert_float_eq(d.values[i * N + j], 2.0f * expected);
        }
}
END_TEST

START_TEST(test_wrong_products)
{
    numbers a(K * M), b(K * N), d(M * N + 1, false), workspace(1 << 19);
    blas product(CUDA_R_32F, CUDA_R_32F, M, N, K), other(CUDA_R_32F, CUDA_R_32F, M, N, K + 1);
    cublasLtMatmulHeuristicResult_t results[3], others[3];
    ck_assert_int_eq(product.find(results), 3);
    ck_assert_int_eq(other.find(others), 3);
    /* Another problem's algorithm, no workspace, a broken promise, C that nobody wrote. */
    ck_assert_int_eq(product.run(a.data(), b.data(), d.data(), 0.0f, &others[2].algo, NULL, 0),
                     CUBLAS_STATUS_INVALID_VALUE);
    expect_fault(HARNESS_CALL);
    ck_assert_int_eq(product.run(a.data(), b.data(), d.data(), 0.0f, &results[0].algo,
                                 workspace.data(), 4),
                     CUBLAS_STATUS_INVALID_VALUE);
    expect_fault(HARNESS_CALL);
    ck_assert_int_eq(product.run(reinterpret_cast<char *>(a.data()) + 1, b.data(), d.data(), 0.0f,
                                 &results[2].algo, NULL, 0),
                     CUBLAS_STATUS_INVALID_VALUE);
    expect_fault(HARNESS_CALL);
    product.run(a.data(), b.data(), d.data(), 1.0f, &results[2].algo, NULL, 0);
    expect_fault(HARNESS_GLOBAL_UNINITIALISED);
    /* Matrices that end elsewhere. */
    product.run(a.data() + 1, b.data(), d.data(), 0.0f, &results[2].algo, NULL, 0);
    expect_fault(HARNESS_GLOBAL_BOUNDS);
    product.run(a.data(), b.data(), d.data() + 2, 0.0f, &results[2].algo, NULL, 0);
    expect_fault(HARNESS_GLOBAL_BOUNDS);
    product.run(a.data(), b.data(), d.data() + 1, 0.0f, &results[2].algo, NULL, 0);
    expect_no_fault();
    /* Sizes that do not fit. */
    int n = 0;
    ck_assert_int_eq(cublasLtMatmulAlgoGetHeuristic(product.handle, product.desc, other.a,
                                                    product.b, product.d, product.d,
                                                    product.preference, 3, results, &n),
                     CUBLAS_STATUS_INVALID_VALUE);
    expect_fault(HARNESS_CALL);
    harness_fail_next("cublasLtMatmul", 1, cudaErrorUnknown);
    ck_assert_int_eq(product.run(a.data(), b.data(), d.data(), 0.0f, NULL, NULL, 0),
                     CUBLAS_STATUS_EXECUTION_FAILED);
    ck_assert_uint_eq(harness_live_count(), 12);
}
END_TEST

int main()
{
    const int n_orders = sizeof orders / sizeof orders[0];
    Suite *suite = suite_create("cuda/harness");
    TCase *tcase = tcase_create("right");
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_loop_test(tcase, test_right_kernels, 0, n_orders);
    tcase_add_loop_test(tcase, test_exchange, 0, n_orders);
    tcase_add_loop_test(tcase, test_mma, 0, 2);
    tcase_add_test(tcase, test_f16);
    tcase_add_test(tcase, test_byte_counts);
    tcase_add_test(tcase, test_traffic);
    suite_add_tcase(suite, tcase);
    tcase = tcase_create("planted");
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_loop_test(tcase, test_asynchronous_copies, 0, n_orders);
    tcase_add_loop_test(tcase, test_matrices, 0, n_orders);
    tcase_add_loop_test(tcase, test_missing_barrier, 0, n_orders);
    tcase_add_loop_test(tcase, test_shared_races, 0, n_orders);
    tcase_add_loop_test(tcase, test_shared_additions, 0, n_orders);
    tcase_add_test(tcase, test_shared_bounds);
    tcase_add_test(tcase, test_global_bounds);
    tcase_add_test(tcase, test_alignment);
    tcase_add_test(tcase, test_uninitialised);
    tcase_add_loop_test(tcase, test_barriers, 0, n_orders);
    tcase_add_loop_test(tcase, test_global_races, 0, n_orders);
    suite_add_tcase(suite, tcase);
    tcase = tcase_create("runtime");
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, test_host_access);
    tcase_add_test(tcase, test_staging);
    tcase_add_test(tcase, test_events);
    tcase_add_test(tcase, test_copies);
    tcase_add_test(tcase, test_launch_limits);
    tcase_add_test(tcase, test_injected_faults);
    tcase_add_test(tcase, test_lost_device);
    suite_add_tcase(suite, tcase);
    tcase = tcase_create("products");
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_loop_test(tcase, test_products, 0, 4);
    tcase_add_test(tcase, test_products_by_rows);
    tcase_add_test(tcase, test_wrong_products);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
