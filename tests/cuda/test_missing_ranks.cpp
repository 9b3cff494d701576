/*
 * Ranks that join, or not: one that does not come, dies, or leaves is told of, by a limit of time
 * that no test measures, and the others do not hang.
 */
#include "compare_ranks.h"
#include "ranks_test.h"

#include <nccl.h>

#include <stdlib.h>

/* --------------------------------------------------------------- who is missing */

START_TEST(a_rank_that_does_not_come)
{
    struct world world;
    open_apart(&world, 2);
    together(&world, [&](struct rank *rank) { join(rank, 3, world.id, HASTY); });
    for (const struct rank &rank : world.ranks) {
        char sentence[100];
        snprintf(sentence, sizeof sentence,
                 "CUDA device %u: rank %u of 3: joining the others took longer than 0.200 seconds",
                 (unsigned)rank.index, (unsigned)rank.index);
        assert_fails(&rank, HYMBA_ERROR_TIMEOUT, sentence);
    }
    for (struct rank &rank : world.ranks) {
        finish(&rank);
        assert_fails(&rank, HYMBA_ERROR_TIMEOUT, "joining the others");
        join(&rank, 3, world.id, HASTY);
        assert_fails(&rank, HYMBA_ERROR_TIMEOUT, "joining the others");
    }
    close_world(&world);
}
END_TEST

START_TEST(ranks_that_expect_different_numbers_of_ranks)
{
    struct world world;
    open_apart(&world, 2);
    together(&world, [&](struct rank *rank) { join(rank, 2 + rank->index, world.id, HASTY); });
    for (const struct rank &rank : world.ranks)
        assert_fails(&rank, HYMBA_ERROR_TIMEOUT, "joining the others took longer");
    close_world(&world);
}
END_TEST

START_TEST(two_ranks_of_one_number)
{
    struct world world;
    open_apart(&world, 2);
    world.ranks[1].index = 0;
    together(&world, [&](struct rank *rank) { join(rank, 2, world.id, HASTY); });
    for (const struct rank &rank : world.ranks)
        assert_fails(&rank, HYMBA_ERROR_TIMEOUT, "joining the others took longer");
    close_world(&world);
}
END_TEST

START_TEST(two_ranks_on_one_device)
{
    struct world world;
    open_apart(&world, 2);
    ops->close(world.ranks[1].device);
    open_rank(&world.ranks[1], 0);
    together(&world, [&](struct rank *rank) { join(rank, 2, world.id, PATIENT); });
    for (const struct rank &rank : world.ranks)
        assert_fails(&rank, HYMBA_ERROR_DEVICE, "joining the others failed: invalid usage");
    close_world(&world);
}
END_TEST

/* A rank that dies: it makes no call any more. The first sum of a size waits when it is called, a
 * later one where all is waited for. */
START_TEST(a_rank_that_dies_in_a_step)
{
    for (bool met : {false, true}) {
        struct world world;
        float *x[2], *y[2];
        open_world(&world, 2, SHORT);
        for (size_t i = 0; i < 2; i++) {
            x[i] = make_floats(&world.ranks[i], std::vector<float>(64, 1.0f));
            y[i] = make_floats(&world.ranks[i], std::vector<float>(64, 1.0f));
        }
        if (met)
            together_ok(&world, [&](struct rank *rank) {
                sum_rows(rank, x[rank->index], y[rank->index], 64);
                finish(rank);
            });
        struct rank *alive = &world.ranks[1];
        sum_rows(alive, x[1], y[1], 64);
        finish(alive);
        assert_fails(alive, HYMBA_ERROR_TIMEOUT,
                     met ? "CUDA device 1: rank 1 of 2: waiting for what was queued took longer "
                           "than 2.000 seconds: another rank is missing or has failed"
                         : "CUDA device 1: rank 1 of 2: a sum over ranks took longer than 2.000");
        sum_rows(alive, x[1], y[1], 64);
        finish(alive);
        assert_fails(alive, HYMBA_ERROR_TIMEOUT, "took longer");
        char mine = 0, all[2];
        exchange(alive, &mine, all, 1);
        assert_fails(alive, HYMBA_ERROR_TIMEOUT, "took longer");
        for (size_t i = 0; i < 2; i++) {
            ops->release(world.ranks[i].device, x[i]);
            ops->release(world.ranks[i].device, y[i]);
        }
        close_world(&world);
    }
}
END_TEST

START_TEST(a_rank_that_dies_before_an_exchange)
{
    struct world world;
    char mine = 0, all[3];
    open_world(&world, 3, SHORT);
    exchange(&world.ranks[0], &mine, all, 1);
    assert_fails(&world.ranks[0], HYMBA_ERROR_TIMEOUT,
                 "rank 0 of 3: waiting for what was queued took longer");
    std::vector<char> many(3 * 40000);
    exchange(&world.ranks[1], many.data(), many.data(), 40000);
    assert_fails(&world.ranks[1], HYMBA_ERROR_TIMEOUT,
                 "rank 1 of 3: an exchange between ranks took longer");
    close_world(&world);
}
END_TEST

/* Pinned memory that is filled again waits for the device, too. */
START_TEST(a_rank_that_dies_while_others_copy)
{
    struct world world;
    const size_t n = (size_t)6 << 20;
    std::vector<float> values(n, 1.0f);
    open_world(&world, 2, SHORT);
    struct rank *alive = &world.ranks[0];
    float *x = make_floats(alive, std::vector<float>(4, 1.0f));
    together_ok(&world, [&](struct rank *rank) { check_exchange(rank, 16, 2); });
    sum_rows(alive, x, x, 4); /* 16 bytes of each rank, which an exchange has met */
    float *data = make_floats(alive, values);
    finish(alive);
    assert_fails(alive, HYMBA_ERROR_TIMEOUT, "rank 0 of 2: waiting for a copy took longer");
    ops->release(alive->device, x);
    ops->release(alive->device, data);
    close_world(&world);
}
END_TEST

START_TEST(a_failure_that_the_others_tell)
{
    struct world world;
    open_world(&world, 2, PATIENT);
    struct rank *rank = &world.ranks[0];
    float *x = make_floats(rank, std::vector<float>(4, 1.0f));
    sum_rows(rank, x, x, 4);
    harness_break_communicators(ncclRemoteError);
    finish(rank);
    assert_fails(rank, HYMBA_ERROR_DEVICE,
                 "CUDA device 0: rank 0 of 2: waiting for what was queued failed: remote process");
    float *y = make_floats(&world.ranks[1], std::vector<float>(4, 1.0f));
    sum_rows(&world.ranks[1], y, y, 4);
    finish(&world.ranks[1]);
    assert_fails(&world.ranks[1], HYMBA_ERROR_DEVICE, "rank 1 of 2: a sum over ranks failed");
    ops->release(rank->device, x);
    ops->release(world.ranks[1].device, y);
    close_world(&world);
}
END_TEST

static int is_set(const void *user)
{
    return *(const int *)user;
}

START_TEST(a_wait_that_is_given_up)
{
    struct world world;
    int given_up = 1;
    open_apart(&world, 1);
    struct hy_join_args args = {0, 2, world.id, PATIENT, is_set, &given_up};
    struct rank *rank = &world.ranks[0];
    answer(rank, [&](hymba_error *error) { return ops->join(rank->device, &args, error); });
    assert_fails(rank, HYMBA_ERROR_TIMEOUT, "joining the others was given up");
    close_world(&world);
}
END_TEST

/* ------------------------------------------------------------------- joining */

START_TEST(joins_that_are_refused)
{
    struct world world;
    open_apart(&world, 1);
    struct rank *rank = &world.ranks[0];
    join(rank, 0, world.id, HASTY);
    assert_fails(rank, HYMBA_ERROR_ARGUMENT, "as rank 0 of 0");
    join(rank, 1, NULL, HASTY);
    assert_fails(rank, HYMBA_ERROR_ARGUMENT, "as rank 0 of 1");
    join(rank, 1, world.id, 0);
    assert_fails(rank, HYMBA_ERROR_ARGUMENT, "within 0 milliseconds");
    rank->index = 2;
    join(rank, 2, world.id, HASTY);
    assert_fails(rank, HYMBA_ERROR_ARGUMENT, "as rank 2 of 2");
    rank->index = 0;
    join(rank, 1, world.id, HASTY);
    assert_ok(rank);
    join(rank, 1, world.id, HASTY);
    assert_fails(rank, HYMBA_ERROR_STATE, "has joined others already");
    finish(rank);
    assert_ok(rank);
    close_world(&world);
}
END_TEST

START_TEST(an_id_that_nobody_made)
{
    struct world world;
    open_apart(&world, 1);
    memset(world.id, 'x', sizeof world.id);
    join(&world.ranks[0], 2, world.id, HASTY);
    assert_fails(&world.ranks[0], HYMBA_ERROR_DEVICE,
                 "rank 0 of 2: joining the others failed: unhandled system error");
    close_world(&world);
}
END_TEST

START_TEST(without_the_library)
{
    struct world world;
    hymba_error error = {};
    error.struct_size = sizeof error;
    open_apart(&world, 1);
    harness_fail_next("dlopen", 1, cudaErrorUnknown);
    ck_assert_int_eq(ops->make_id(world.id, &error), HYMBA_ERROR_DEVICE);
    ck_assert_msg(strstr(error.message, "libnccl.so.2, which joins devices, cannot be opened"),
                  "%s", error.message);
    harness_fail_next("dlopen", 1, cudaErrorUnknown);
    join(&world.ranks[0], 2, world.id, HASTY);
    assert_fails(&world.ranks[0], HYMBA_ERROR_DEVICE, "libnccl.so.2, which joins devices");
    close_world(&world);
}
END_TEST

START_TEST(without_having_joined)
{
    for (bool exchanges : {false, true}) {
        struct world world;
        char mine = 0, all;
        open_apart(&world, 1);
        struct rank *rank = &world.ranks[0];
        float *x = make_floats(rank, std::vector<float>(4, 1.0f));
        if (!exchanges)
            sum_rows(rank, x, x, 4);
        else
            exchange(rank, &mine, &all, 1);
        finish(rank);
        assert_fails(rank, HYMBA_ERROR_INTERNAL, "has joined none");
        ops->release(rank->device, x);
        close_world(&world);
    }
}
END_TEST

/* ------------------------------------------------------------------- closing */

/* One after the other, while the others still are there; with work that never ends. */
START_TEST(ranks_are_closed_in_turn)
{
    struct world world;
    open_world(&world, 3, SHORT);
    struct rank *rank = &world.ranks[1];
    float *x = make_floats(rank, std::vector<float>(4, 1.0f));
    sum_rows(rank, x, x, 4);
    ops->release(rank->device, x);
    for (size_t i = 0; i < 3; i++)
        ops->close(world.ranks[i].device);
}
END_TEST

/* What is queued when a device is closed, and what others still need of it, is done first. */
START_TEST(closing_waits_for_the_others)
{
    struct world world;
    open_world(&world, 3, PATIENT);
    together(&world, [](struct rank *rank) {
        float *x = make_floats(rank, std::vector<float>(64, 1.0f));
        for (int i = 0; i < 10; i++)
            sum_rows(rank, x, x, 64);
        ops->release(rank->device, x);
        ops->close(rank->device);
    });
    ck_assert_uint_eq(harness_call_count("ncclCommDestroy"), 3);
    ck_assert_uint_eq(harness_call_count("ncclCommAbort"), 0);
}
END_TEST

/* What `make check-cuda` asks of real devices. */
START_TEST(devices_compare_with_the_host)
{
    const char *wrong = compare_ranks(ops, MOST_RANKS);
    ck_assert_msg(!wrong, "%s", wrong);
    wrong = lose_a_rank(ops, MOST_RANKS, SHORT);
    ck_assert_msg(!wrong, "%s", wrong);
}
END_TEST

int main(void)
{
    return run_cases(
        "missing ranks",
        {{"who is missing",
          {a_rank_that_does_not_come, ranks_that_expect_different_numbers_of_ranks,
           two_ranks_of_one_number, two_ranks_on_one_device, a_rank_that_dies_in_a_step,
           a_rank_that_dies_before_an_exchange, a_rank_that_dies_while_others_copy,
           a_failure_that_the_others_tell, a_wait_that_is_given_up},
          NULL},
         {"joining",
          {joins_that_are_refused, an_id_that_nobody_made, without_the_library,
           without_having_joined},
          NULL},
         {"closing",
          {ranks_are_closed_in_turn, closing_waits_for_the_others, devices_compare_with_the_host},
          NULL}});
}
