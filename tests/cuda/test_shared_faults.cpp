/*
 * Faults between the threads of a block, planted one by one: in shared memory, in copies into it,
 * at barriers and between a warp's lanes. The harness finds each.
 */
#include "harness_test.h"

#include <string.h>

/* ----------------------------------------------------------------- kernels */

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

/* The same four bytes as one number and as four. Each thread of another warp keeps to its own byte,
 * but for the fault. */
enum bytes { BYTES_APART, BYTES_OF_ANOTHER, BYTE_OF_A_WORD, WORD_OF_A_BYTE, BYTES_UNWRITTEN };

template <enum bytes KIND> HY_KERNEL words_and_bytes(float *y)
{
    hy_shared<uint32_t> word(0, 1);
    hy_shared<uint8_t> bytes(0, 4);
    const unsigned place = hy_thread() / 32;
    const bool first = hy_thread() % 32 == 0;
    if (hy_thread() == 0 && KIND != BYTES_UNWRITTEN)
        word[0] = 7;
    if (KIND != BYTE_OF_A_WORD)
        hy_sync();
    if (first && (KIND != BYTES_UNWRITTEN || place != 2))
        bytes[place] = (uint8_t)(place + 1);
    if (KIND == BYTES_OF_ANOTHER && first && place == 1)
        bytes[0] = 9;
    if (KIND != WORD_OF_A_BYTE)
        hy_sync();
    if (hy_thread() == 96)
        hy_store(y, (float)word[0]);
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

/* ------------------------------------------------------------------- tests */

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
    for (size_t i = 0; i < y.size(); i++) {
        const uint32_t expected = i / 4 % 64 == 9 ? 0 : x[i];
        if (y[i] != expected)
            ck_abort_msg("word %zu is %u, expected %u", i, y[i], expected);
    }
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
        const uint32_t expected = matrix + first + ((matrix + second) << 16);
        if (y[i] != expected)
            ck_abort_msg("lane %u, matrix %u: %#x, expected %#x", lane, m, y[i], expected);
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

/* The harness keeps one set of stamps for a word until a part of it is accessed alone. */
START_TEST(test_words_and_bytes)
{
    numbers y(1, false);
    harness_set_order(orders[_i], 2);
    hy_launch(nullptr, words_and_bytes<BYTES_APART>, 1, 128, 4, y.data());
    expect_no_fault();
    ck_assert(y.values[0] == (float)0x04030201);
    hy_launch(nullptr, words_and_bytes<BYTES_OF_ANOTHER>, 1, 128, 4, y.data());
    expect_fault(HARNESS_SHARED_RACE);
    hy_launch(nullptr, words_and_bytes<BYTE_OF_A_WORD>, 1, 128, 4, y.data());
    ck_assert_uint_gt(harness_fault_count(HARNESS_SHARED_RACE), 0);
    harness_clear_errors();
    hy_launch(nullptr, words_and_bytes<WORD_OF_A_BYTE>, 1, 128, 4, y.data());
    expect_fault(HARNESS_SHARED_RACE);
    hy_launch(nullptr, words_and_bytes<BYTES_UNWRITTEN>, 1, 128, 4, y.data());
    expect_fault(HARNESS_SHARED_UNINITIALISED);
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

int main()
{
    Suite *suite = suite_create("cuda/shared_faults");
    TCase *tcase = tcase_create("shared memory");
    tcase_add_checked_fixture(tcase, harness_reset, harness_reset);
    tcase_add_loop_test(tcase, test_asynchronous_copies, 0, N_ORDERS);
    tcase_add_loop_test(tcase, test_matrices, 0, N_ORDERS);
    tcase_add_loop_test(tcase, test_missing_barrier, 0, N_ORDERS);
    tcase_add_loop_test(tcase, test_shared_races, 0, N_ORDERS);
    tcase_add_loop_test(tcase, test_words_and_bytes, 0, N_ORDERS);
    tcase_add_loop_test(tcase, test_shared_additions, 0, N_ORDERS);
    tcase_add_test(tcase, test_shared_bounds);
    suite_add_tcase(suite, tcase);
    tcase = tcase_create("barriers");
    tcase_add_checked_fixture(tcase, harness_reset, harness_reset);
    tcase_add_loop_test(tcase, test_barriers, 0, N_ORDERS);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
