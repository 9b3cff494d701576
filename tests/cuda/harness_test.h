/*
 * What the tests of the harness share: arrays in global memory, expectations on what the harness
 * found and counted, and kernels that more than one of them launches.
 */
#ifndef HYMBA_HARNESS_TEST_H
#define HYMBA_HARNESS_TEST_H

#include "portable.h"
#include "support.h"
#include "traffic.h"

#include <vector>

#define expect_no_fault() ck_assert_msg(harness_error_count() == 0, "%s", harness_first_error())

/* Faults of this kind were found, and no other. */
static inline void expect_fault(enum harness_fault fault)
{
    ck_assert_msg(harness_fault_count(fault) > 0, "not found; first: %s", harness_first_error());
    ck_assert_msg(harness_fault_count(fault) == harness_error_count(), "others: %s",
                  harness_first_error());
    harness_clear_errors();
}

static inline void expect_traffic(const struct traffic &found, uint64_t loads,
                                  uint64_t distinct_loads, uint64_t stores,
                                  uint64_t distinct_stores)
{
    ck_assert_uint_eq(found.loads, loads);
    ck_assert_uint_eq(found.distinct_loads, distinct_loads);
    ck_assert_uint_eq(found.stores, stores);
    ck_assert_uint_eq(found.distinct_stores, distinct_stores);
}

static const enum harness_order orders[] = {HARNESS_ASCENDING, HARNESS_DESCENDING, HARNESS_RANDOM};
enum { N_ORDERS = sizeof orders / sizeof orders[0] };

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

/* ----------------------------------------------------------------- kernels */

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

inline HY_KERNEL sum_in_shared(float *y)
{
    hy_shared<float> sums(0, 64);
    sums[hy_thread()] += 1.0f;
    hy_store(y + hy_thread(), sums[hy_thread()]);
}

inline HY_KERNEL sum_in_global(float *y)
{
    hy_store(y + hy_thread(), hy_load(y + hy_thread()) + 1.0f);
}

inline HY_KERNEL copy_numbers(const float *x, float *y, size_t n)
{
    for (size_t i = hy_block().x * hy_block_threads() + hy_thread(); i < n;
         i += hy_grid().x * hy_block_threads())
        hy_store(y + i, hy_load(x + i));
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

#endif
