/*
 * Ranks under the harness: devices that are joined by NCCL's stand-in, a thread each. Their sums
 * have one set of bits, in recorded steps, too, whoever lacks memory.
 */
#include "ranks_test.h"

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

int main(void)
{
    return run_cases(
        "ranks",
        {{"sums",
          {sums_run_in_the_order_of_ranks, a_row_has_its_bits_in_any_number_of_rows,
           large_sums_are_made_piece_by_piece, sums_of_what_is_no_number},
          "sums, gathers early"},
         {"steps",
          {recorded_steps_have_the_bits_of_their_ops, one_rank_without_graphs,
           ranks_that_forget_their_graphs, steps_that_differ_on_one_rank,
           a_graph_that_one_rank_cannot_launch},
          "steps, gathers early"},
         {"exchange",
          {ranks_exchange_what_lies_with_the_host, an_exchange_waits_for_what_was_queued},
          "exchange, gathers early"},
         {"memory",
          {a_rank_without_memory_takes_part, a_rank_without_memory_in_a_recorded_step,
           joining_without_memory},
          NULL}});
}
