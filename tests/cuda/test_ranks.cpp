/*
 * Ranks under the harness: devices that are joined by NCCL's stand-in, a thread each. Their sums
 * have one set of bits, in recorded steps, too; and a rank that does not come, dies, or lacks
 * memory is told of, by a limit of time that no test measures.
 */
#include "compare_ranks.h"
#include "ranks_test.h"

#include <nccl.h>

#include <stdlib.h>

/* -------------------------------------------------------------------- sums */

struct shape {
    size_t rows, n, x_stride, y_stride;
    bool accumulate, in_place;
};

/* What every rank has of a sum: its own x, and the y that is the same everywhere. */
struct terms {
    std::vector<std::vector<float>> x;
    std::vector<float> y;
};

static struct terms make_terms(const struct shape *shape, size_t n_ranks)
{
    struct terms terms;
    for (size_t i = 0; i < n_ranks; i++)
        terms.x.push_back(random_floats(shape->rows * shape->x_stride));
    terms.y = random_floats(shape->rows * shape->y_stride);
    return terms;
}

/* In the order of ranks; what lies between the rows stays. */
static std::vector<float> sum_plainly(const struct shape *shape, const struct terms &terms,
                                      size_t own)
{
    std::vector<float> y = shape->in_place ? terms.x[own] : terms.y;
    for (size_t t = 0; t < shape->rows; t++)
        for (size_t i = 0; i < shape->n; i++) {
            float sum = terms.x[0][t * shape->x_stride + i];
            for (size_t rank = 1; rank < terms.x.size(); rank++)
                sum += terms.x[rank][t * shape->x_stride + i];
            float *place = &y[t * shape->y_stride + i];
            *place = shape->accumulate ? *place + sum : sum;
        }
    return y;
}

static struct hy_all_sum_args sum_args(const struct shape *shape, const float *x, float *y)
{
    return {x, shape->x_stride, shape->n, shape->accumulate, y, shape->y_stride};
}

/* One rank's sum, whole or row by row. */
static std::vector<float> sum_on(struct rank *rank, const struct shape *shape,
                                 const struct terms &terms, bool row_by_row)
{
    float *x = make_floats(rank, terms.x[rank->index]);
    float *y = shape->in_place ? x : make_floats(rank, terms.y);
    std::vector<float> found(shape->rows * shape->y_stride);
    struct hy_all_sum_args args = sum_args(shape, x, y);
    if (!row_by_row)
        all_sum(rank, &args, shape->rows);
    for (size_t t = 0; row_by_row && t < shape->rows; t++) {
        all_sum(rank, &args, 1);
        args.x += shape->x_stride;
        args.y += shape->y_stride;
    }
    read_floats(rank, y, &found);
    ops->release(rank->device, x);
    if (!shape->in_place)
        ops->release(rank->device, y);
    return found;
}

static void check_sum(struct world *world, const struct shape *shape, bool row_by_row)
{
    const struct terms terms = make_terms(shape, world->ranks.size());
    std::vector<std::vector<float>> found(world->ranks.size());
    together_ok(world, [&](struct rank *rank) {
        found[rank->index] = sum_on(rank, shape, terms, row_by_row);
    });
    for (size_t i = 0; i < found.size(); i++) {
        std::vector<float> expected = sum_plainly(shape, terms, i);
        ck_assert_uint_eq(expected.size(), found[i].size());
        ck_assert_msg(memcmp(expected.data(), found[i].data(), expected.size() * sizeof(float))
                          == 0,
                      "rank %zu of %zu: %zu rows of %zu", i, found.size(), shape->rows, shape->n);
    }
}

/* Rows that vectors fit into, and such that they do not. */
static const struct shape shapes[] = {
    {1, 132, 132, 132, false, false}, {5, 132, 140, 132, false, false},
    {7, 64, 64, 64, true, false},     {3, 2, 2, 2, false, true},
    {9, 2, 2, 2, false, false},       {4, 33, 40, 36, true, false},
    {6, 128, 129, 128, false, false}, {6, 128, 128, 131, true, false},
    {2, 128, 128, 128, false, true},  {1, 1, 1, 1, true, false},
};

START_TEST(sums_run_in_the_order_of_ranks)
{
    for (size_t n = 1; n <= MOST_RANKS; n++) {
        struct world world;
        open_world(&world, n, PATIENT);
        for (const struct shape &shape : shapes)
            check_sum(&world, &shape, false);
        close_world(&world);
    }
}
END_TEST

START_TEST(a_row_has_its_bits_in_any_number_of_rows)
{
    struct world world;
    open_world(&world, 3, PATIENT);
    for (const struct shape &shape : shapes)
        check_sum(&world, &shape, true);
    close_world(&world);
}
END_TEST

/* More than is gathered at once: many rows, and rows that are too long for it. */
START_TEST(large_sums_are_made_piece_by_piece)
{
    static const struct shape large[] = {{660, 1600, 1600, 1600, true, false},
                                         {2, (1 << 20) + 5, (1 << 20) + 5, (1 << 20) + 5, false,
                                          false}};
    struct world world;
    open_world(&world, 2, PATIENT);
    for (const struct shape &shape : large)
        check_sum(&world, &shape, false);
    close_world(&world);
}
END_TEST

/* Infinities and what is not a number come out everywhere. */
START_TEST(sums_of_what_is_no_number)
{
    static const struct shape shape = {1, 4, 4, 4, false, false};
    struct world world;
    struct terms terms = {{{1.0f, INFINITY, INFINITY, NAN}, {2.0f, 1.0f, -INFINITY, 1.0f}},
                          {0.0f, 0.0f, 0.0f, 0.0f}};
    open_world(&world, 2, PATIENT);
    together_ok(&world, [&](struct rank *rank) {
        std::vector<float> found = sum_on(rank, &shape, terms, false);
        bool right = found[0] == 3.0f && found[1] == INFINITY && isnan(found[2])
                     && isnan(found[3]);
        rank->status = right ? rank->status : HYMBA_ERROR_INTERNAL;
    });
    close_world(&world);
}
END_TEST

/* --------------------------------------------------------------------- steps */

enum { STEP_ROWS = 4 };

static void call_sum(struct rank *rank, const struct scene *scene, bool accumulate, size_t rows)
{
    struct hy_all_sum_args args = {scene->normed, STEP_N, STEP_N, accumulate, scene->y, STEP_N};
    all_sum(rank, &args, rows);
}

/* A norm, its sum over ranks, the norm of that, and its sum added. */
static void call_ops(struct rank *rank, const struct scene *scene, size_t rows)
{
    call_norm(rank, scene, scene->x, rows);
    call_sum(rank, scene, false, rows);
    call_norm(rank, scene, scene->y, rows);
    call_sum(rank, scene, true, rows);
}

static std::vector<float> run_step(struct rank *rank, const struct scene *scene, size_t rows,
                                   bool whole)
{
    std::vector<float> found(rows * STEP_N);
    if (whole)
        ops->begin_step(rank->device, rows);
    call_ops(rank, scene, rows);
    if (whole)
        ops->end_step(rank->device, true);
    read_floats(rank, scene->y, &found);
    return found;
}

/* Once single, then as steps: the second is captured, those behind it are graphs. */
static bool compare_steps(struct rank *rank, const std::vector<float> &x)
{
    struct scene scene = make_scene(rank, x);
    bool same = true;
    for (size_t rows : {(size_t)1, (size_t)STEP_ROWS}) {
        std::vector<float> expected = run_step(rank, &scene, rows, false);
        for (int time = 0; time < 4; time++)
            same = same && run_step(rank, &scene, rows, true) == expected;
    }
    release_scene(rank, &scene);
    return same;
}

START_TEST(recorded_steps_have_the_bits_of_their_ops)
{
    for (size_t n = 1; n <= MOST_RANKS; n++) {
        struct world world;
        std::vector<std::vector<float>> x;
        for (size_t i = 0; i < n; i++)
            x.push_back(random_floats(STEP_ROWS * STEP_N));
        open_world(&world, n, PATIENT);
        together_ok(&world, [&](struct rank *rank) {
            if (!compare_steps(rank, x[rank->index]))
                rank->status = HYMBA_ERROR_INTERNAL;
        });
        for (const struct rank &rank : world.ranks) {
            ck_assert_uint_eq(rank.graphs.size(), 2);
        }
        close_world(&world);
        if (n > 1)
            ck_assert_uint_gt(harness_call_count("cudaGraphLaunch"), 0);
    }
}
END_TEST

/* What cannot be captured on one rank is played on all. */
START_TEST(one_rank_without_graphs)
{
    for (const char *call : {"cudaStreamBeginCapture", "cudaStreamEndCapture",
                             "cudaGraphInstantiate"})
        for (unsigned nth : {1u, 2u, 3u}) {
            struct world world;
            std::vector<std::vector<float>> x;
            for (size_t i = 0; i < 2; i++)
                x.push_back(random_floats(STEP_ROWS * STEP_N));
            open_world(&world, 2, PATIENT);
            harness_fail_next(call, nth, cudaErrorUnknown);
            together_ok(&world, [&](struct rank *rank) {
                if (!compare_steps(rank, x[rank->index]))
                    rank->status = HYMBA_ERROR_INTERNAL;
            });
            harness_fail_no_more();
            close_world(&world);
        }
}
END_TEST

/* Ranks whose graphs are gone, or of another capture, capture anew with the others. */
START_TEST(ranks_that_forget_their_graphs)
{
    struct world world;
    std::vector<std::vector<float>> x;
    std::vector<char> same(3, 1);
    for (size_t i = 0; i < 3; i++)
        x.push_back(random_floats(STEP_ROWS * STEP_N));
    open_world(&world, 3, PATIENT);
    together_ok(&world, [&](struct rank *rank) {
        struct scene scene = make_scene(rank, x[rank->index]);
        std::vector<float> expected = run_step(rank, &scene, 2, false);
        for (unsigned time = 0; time < 20; time++) {
            if (time % 5 == rank->index + 1)
                hy_cuda_forget_graphs(rank->device);
            if (run_step(rank, &scene, 2, true) != expected)
                same[rank->index] = 0;
        }
        release_scene(rank, &scene);
    });
    ck_assert(same == std::vector<char>(3, 1));
    for (const struct rank &rank : world.ranks)
        ck_assert_uint_gt(rank.graphs.size(), 1);
    ck_assert_uint_gt(harness_call_count("cudaGraphLaunch"), 0);
    close_world(&world);
}
END_TEST

/* A rank that tells steps apart which are one to another: all have two graphs of them. */
START_TEST(steps_that_differ_on_one_rank)
{
    struct world world;
    const std::vector<float> x = random_floats(STEP_ROWS * STEP_N);
    open_world(&world, 2, PATIENT);
    together_ok(&world, [&](struct rank *rank) {
        struct scene scenes[2] = {make_scene(rank, x), make_scene(rank, x)};
        std::vector<float> expected = run_step(rank, &scenes[0], 2, false);
        for (size_t time = 0; time < 12; time++)
            if (run_step(rank, &scenes[rank->index == 1 ? time % 2 : 0], 2, true) != expected)
                rank->status = HYMBA_ERROR_INTERNAL;
        for (const struct scene &scene : scenes)
            release_scene(rank, &scene);
    });
    for (const struct rank &rank : world.ranks)
        ck_assert_uint_eq(rank.graphs.size(), 2);
    ck_assert_uint_eq(harness_call_count("cudaGraphLaunch"), 2 * (12 - 2));
    close_world(&world);
}
END_TEST

/* The others have launched theirs: there is no way back. */
START_TEST(a_graph_that_one_rank_cannot_launch)
{
    for (cudaError_t code : {cudaErrorUnknown, cudaErrorMemoryAllocation}) {
        struct world world;
        const std::vector<float> x = random_floats(STEP_ROWS * STEP_N);
        open_world(&world, 2, SHORT);
        harness_fail_next("cudaGraphLaunch", 1, code);
        together(&world, [&](struct rank *rank) {
            struct scene scene = make_scene(rank, x);
            rank->status = HYMBA_OK;
            for (int time = 0; time < 3 && rank->status == HYMBA_OK; time++)
                run_step(rank, &scene, 2, true);
            release_scene(rank, &scene);
        });
        bool first = world.ranks[0].status == HYMBA_ERROR_DEVICE;
        assert_fails(&world.ranks[first ? 0 : 1], HYMBA_ERROR_DEVICE, "a step's graph");
        assert_fails(&world.ranks[first ? 1 : 0], HYMBA_ERROR_TIMEOUT, "took longer");
        close_world(&world);
    }
}
END_TEST

/* ------------------------------------------------------------------ exchange */

START_TEST(ranks_exchange_what_lies_with_the_host)
{
    for (size_t n = 1; n <= MOST_RANKS; n++) {
        struct world world;
        open_world(&world, n, PATIENT);
        for (size_t bytes : {0, 1, 16, 1000, 65536, 65537, 200000})
            together_ok(&world, [=](struct rank *rank) { check_exchange(rank, bytes, n); });
        close_world(&world);
    }
}
END_TEST

/* It is a finish, too. */
START_TEST(an_exchange_waits_for_what_was_queued)
{
    struct world world;
    open_world(&world, 2, PATIENT);
    together_ok(&world, [](struct rank *rank) {
        std::vector<float> found(8);
        float *data = make_floats(rank, std::vector<float>(8, 3.0f));
        struct hy_copy_args here = {HY_COPY_TO_HOST, found.data(), 0, data, 0, 32, 1};
        char mine = 1, all[2];
        ops->copy(rank->device, &here);
        exchange(rank, &mine, all, 1);
        if (found != std::vector<float>(8, 3.0f))
            rank->status = HYMBA_ERROR_INTERNAL;
        ops->release(rank->device, data);
    });
    close_world(&world);
}
END_TEST

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

static void sum_rows(struct rank *rank, float *x, float *y, size_t n)
{
    struct hy_all_sum_args args = {x, n, n, false, y, n};
    all_sum(rank, &args, 1);
}

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

/* -------------------------------------------------------------------- memory */

/* A rank that lacks memory takes part in the sums, tells its failure, and goes on. */
START_TEST(a_rank_without_memory_takes_part)
{
    struct world world;
    float *x[2], *y[2];
    std::vector<float> found(64);
    open_world(&world, 2, PATIENT);
    for (size_t i = 0; i < 2; i++) {
        x[i] = make_floats(&world.ranks[i], std::vector<float>(64, 1.0f));
        y[i] = make_floats(&world.ranks[i], std::vector<float>(64, 1.0f));
    }
    struct rank *poor = &world.ranks[0];
    struct hy_copy_args here = {HY_COPY_TO_HOST, found.data(), 0, x[0], 0, 256, 1};
    harness_fail_next("cudaHostAlloc", 1, cudaErrorMemoryAllocation);
    ops->copy(poor->device, &here);
    together(&world, [&](struct rank *rank) {
        sum_rows(rank, x[rank->index], y[rank->index], 64);
        finish(rank);
    });
    assert_fails(poor, HYMBA_ERROR_MEMORY, "taking pinned memory failed");
    assert_ok(&world.ranks[1]);
    together_ok(&world, [&](struct rank *rank) { check_exchange(rank, 4, 2); });
    together_ok(&world, [&](struct rank *rank) {
        std::vector<float> sums(64);
        sum_rows(rank, x[rank->index], y[rank->index], 64);
        read_floats(rank, y[rank->index], &sums);
        if (sums != std::vector<float>(64, 2.0f))
            rank->status = HYMBA_ERROR_INTERNAL;
    });
    for (size_t i = 0; i < 2; i++) {
        ops->release(world.ranks[i].device, x[i]);
        ops->release(world.ranks[i].device, y[i]);
    }
    close_world(&world);
}
END_TEST

/* A convolution, whose list takes pinned memory when it is first recorded. */
static void call_conv(struct rank *rank, const struct scene *scene)
{
    struct hy_conv_args args = {};
    struct hy_state_sequence sequence = {{0, 1}, scene->x, scene->x, NULL, NULL,
                                         HYMBA_DTYPE_F32};
    args.x = scene->x;
    args.weight = args.bias = scene->weight;
    args.x_stride = args.y_stride = args.n = STEP_N;
    args.width = 1;
    args.y = scene->normed;
    args.sequences = &sequence;
    args.n_sequences = 1;
    ops->conv(rank->device, &args);
}

/* What is read back takes pinned memory when something is for the first time. */
static void read_first(struct rank *rank, const float *data, float *value)
{
    struct hy_copy_args here = {HY_COPY_TO_HOST, value, 0, data, 0, sizeof *value, 1};
    ops->copy(rank->device, &here);
}

/* Within a recorded step before, between and behind its sums, and before the step; an exchange
 * while the failure stands. */
START_TEST(a_rank_without_memory_in_a_recorded_step)
{
    for (size_t place = 0; place < 4; place++) {
        float value;
        struct world world;
        struct scene scenes[2];
        open_world(&world, 2, PATIENT);
        for (size_t i = 0; i < 2; i++)
            scenes[i] = make_scene(&world.ranks[i], random_floats(STEP_ROWS * STEP_N));
        together_ok(&world, [&](struct rank *rank) {
            call_sum(rank, &scenes[rank->index], false, 1);
            finish(rank);
        });
        together_ok(&world, [&](struct rank *rank) {
            const struct scene *scene = &scenes[rank->index];
            if (rank->index == 0 && place == 3) {
                harness_fail_next("cudaHostAlloc", 1, cudaErrorMemoryAllocation);
                read_first(rank, scene->x, &value);
            }
            ops->begin_step(rank->device, 1);
            for (size_t i = 0; i < 3; i++) {
                if (rank->index == 0 && i == place) {
                    harness_fail_next("cudaHostAlloc", 1, cudaErrorMemoryAllocation);
                    call_conv(rank, scene);
                }
                if (i < 2)
                    call_sum(rank, scene, i == 1, 1);
            }
            ops->end_step(rank->device, true);
            check_exchange(rank, 4, 2);
        });
        finish(&world.ranks[0]);
        assert_fails(&world.ranks[0], HYMBA_ERROR_MEMORY,
                     place == 3 ? "taking pinned memory failed" : "taking pinned memory for lists");
        finish(&world.ranks[1]);
        assert_ok(&world.ranks[1]);
        together_ok(&world, [&](struct rank *rank) { check_exchange(rank, 4, 2); });
        for (size_t i = 0; i < 2; i++)
            release_scene(&world.ranks[i], &scenes[i]);
        close_world(&world);
    }
}
END_TEST

START_TEST(joining_without_memory)
{
    for (const char *call : {"cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithPriority",
                             "cudaEventCreateWithFlags"}) {
        struct world world;
        open_apart(&world, 1);
        struct rank *rank = &world.ranks[0];
        harness_fail_next(call, 1, cudaErrorMemoryAllocation);
        join(rank, 2, world.id, HASTY);
        assert_fails(rank, HYMBA_ERROR_MEMORY, "taking memory for the parts of ranks");
        finish(rank);
        assert_ok(rank);
        join(rank, 1, world.id, HASTY);
        assert_ok(rank);
        close_world(&world);
    }
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

/* ------------------------------------------------------- the stand-in's faults */

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
    Suite *suite = suite_create("ranks");
    struct {
        const char *name;
        std::vector<const TTest *> tests;
    } cases[] = {
        {"sums",
         {sums_run_in_the_order_of_ranks, a_row_has_its_bits_in_any_number_of_rows,
          large_sums_are_made_piece_by_piece, sums_of_what_is_no_number}},
        {"steps", {recorded_steps_have_the_bits_of_their_ops, one_rank_without_graphs,
          ranks_that_forget_their_graphs, steps_that_differ_on_one_rank,
          a_graph_that_one_rank_cannot_launch}},
        {"exchange",
         {ranks_exchange_what_lies_with_the_host, an_exchange_waits_for_what_was_queued}},
        {"who is missing",
         {a_rank_that_does_not_come, ranks_that_expect_different_numbers_of_ranks,
          two_ranks_of_one_number, two_ranks_on_one_device, a_rank_that_dies_in_a_step,
          a_rank_that_dies_before_an_exchange, a_rank_that_dies_while_others_copy,
          a_failure_that_the_others_tell, a_wait_that_is_given_up}},
        {"memory",
         {a_rank_without_memory_takes_part, a_rank_without_memory_in_a_recorded_step,
          joining_without_memory}},
        {"joining",
         {joins_that_are_refused, an_id_that_nobody_made, without_the_library,
          without_having_joined}},
        {"closing", {ranks_are_closed_in_turn, closing_waits_for_the_others,
          devices_compare_with_the_host}},
        {"stand-in", {the_stand_in_finds_misuse, the_stand_in_finds_captures_that_differ,
          ranks_that_do_not_fit_are_found}},
    };
    for (auto &entry : cases) {
        TCase *tests = tcase_create(entry.name);
        tcase_add_checked_fixture(tests, setup, teardown);
        tcase_set_timeout(tests, 60);
        for (const TTest *test : entry.tests)
            tcase_add_test(tests, test);
        suite_add_tcase(suite, tests);
    }
    for (const auto *entry : {&cases[0], &cases[1], &cases[2]}) {
        TCase *tests = tcase_create((std::string(entry->name) + ", gathers early").c_str());
        tcase_add_checked_fixture(tests, set_up_early, teardown);
        tcase_set_timeout(tests, 60);
        for (const TTest *test : entry->tests)
            tcase_add_test(tests, test);
        suite_add_tcase(suite, tests);
    }
    return test_main(suite);
}
