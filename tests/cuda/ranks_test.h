/* Ranks under the harness, as tests see them: devices that are joined by NCCL's stand-in, a thread
 * each, whose calls answer in that thread and are judged by the test's own. */
#ifndef HYMBA_TEST_RANKS_TEST_H
#define HYMBA_TEST_RANKS_TEST_H

#include "device.h"
#include "harness.h"

#include <string.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

extern "C" {
#include "support.h"
}

extern "C" const struct hy_device_ops *hymba_device_plugin(uint32_t interface_version);

enum {
    MOST_RANKS = 3,
    PATIENT = 60000, /* milliseconds: what all tests wait that nothing is missing in */
    SHORT = 2000, /* what tests wait that join all ranks, and then miss one */
    HASTY = 200   /* where one never comes */
};

static const struct hy_device_ops *ops;

/* One of the ranks, as its thread sees it. */
struct rank {
    uint32_t index;
    struct hy_device *device;
    hymba_status status;
    hymba_error error;
    std::vector<std::string> graphs; /* told to the log */
};

static inline void take_line(void *user, int level, const char *line)
{
    (void)level;
    if (strstr(line, "a graph of"))
        ((struct rank *)user)->graphs.push_back(line);
}

static inline void open_rank(struct rank *rank, int device)
{
    struct hy_device_params params = {};
    params.struct_size = sizeof params;
    params.index = device;
    params.compute = HYMBA_COMPUTE_F32;
    params.log = take_line;
    params.log_user = rank;
    rank->error = {};
    rank->error.struct_size = sizeof rank->error;
    test_status(ops->open(&params, &rank->device, &rank->error), HYMBA_OK, rank->error);
}

/* A call that answers: what it says is kept, asserted by the test's own thread. */
static inline void answer(struct rank *rank, const std::function<hymba_status(hymba_error *)> &call)
{
    rank->error = {};
    rank->error.struct_size = sizeof rank->error;
    rank->status = call(&rank->error);
}

static inline void finish(struct rank *rank)
{
    answer(rank, [rank](hymba_error *error) { return ops->finish(rank->device, error); });
}

static inline void exchange(struct rank *rank, const void *mine, void *all, size_t bytes)
{
    answer(rank, [=](hymba_error *error) {
        return ops->exchange(rank->device, mine, all, bytes, error);
    });
}

static inline void join(struct rank *rank, uint32_t world_size, const unsigned char *id,
                        uint32_t timeout_ms)
{
    struct hy_join_args args = {rank->index, world_size, id, timeout_ms, NULL, NULL};
    answer(rank, [&](hymba_error *error) { return ops->join(rank->device, &args, error); });
}

static inline void assert_ok(const struct rank *rank)
{
    test_status(rank->status, HYMBA_OK, rank->error);
}

static inline void assert_fails(const struct rank *rank, hymba_status status,
                                const char *sentence)
{
    test_status(rank->status, status, rank->error);
    ck_assert_msg(strstr(rank->error.message, sentence) != NULL, "\"%s\" lacks \"%s\"",
                  rank->error.message, sentence);
}

struct world {
    std::vector<struct rank> ranks;
    unsigned char id[HY_UNIQUE_ID_BYTES];
};

/* Each rank from its own thread. */
static inline void together(struct world *world, const std::function<void(struct rank *)> &call)
{
    std::vector<std::thread> threads;
    for (struct rank &rank : world->ranks)
        threads.emplace_back([&call, &rank]() { call(&rank); });
    for (std::thread &thread : threads)
        thread.join();
}

static inline void together_ok(struct world *world, const std::function<void(struct rank *)> &call)
{
    together(world, call);
    for (const struct rank &rank : world->ranks)
        assert_ok(&rank);
}

static inline void make_id(unsigned char *id)
{
    hymba_error error = {};
    error.struct_size = sizeof error;
    test_status(ops->make_id(id, &error), HYMBA_OK, error);
}

static inline void open_apart(struct world *world, size_t n)
{
    world->ranks.resize(n);
    make_id(world->id);
    for (size_t i = 0; i < n; i++) {
        world->ranks[i].index = (uint32_t)i;
        open_rank(&world->ranks[i], (int)i);
    }
}

static inline void open_world(struct world *world, size_t n, uint32_t timeout_ms)
{
    open_apart(world, n);
    together_ok(world, [=](struct rank *rank) {
        join(rank, (uint32_t)n, world->id, timeout_ms);
    });
}

static inline void close_world(struct world *world)
{
    together(world, [](struct rank *rank) { ops->close(rank->device); });
}

static inline float *make_floats(struct rank *rank, const std::vector<float> &values)
{
    size_t bytes = values.size() * sizeof(float);
    float *data = (float *)ops->allocate(rank->device, bytes);
    ck_assert_ptr_nonnull(data);
    struct hy_copy_args there = {HY_COPY_TO_DEVICE, data, 0, values.data(), 0, bytes, 1};
    ops->copy(rank->device, &there);
    return data;
}

static inline void read_floats(struct rank *rank, const float *data, std::vector<float> *values)
{
    size_t bytes = values->size() * sizeof(float);
    struct hy_copy_args here = {HY_COPY_TO_HOST, values->data(), 0, data, 0, bytes, 1};
    ops->copy(rank->device, &here);
    finish(rank);
}

static inline std::vector<float> random_floats(size_t n)
{
    std::vector<float> values(n);
    for (float &value : values)
        value = (float)(2.0 * test_random() - 1.0);
    return values;
}

/* urgent_first: the stream of gathers runs as early as it may, or else as late. */
static inline void set_up(bool urgent_first)
{
    struct harness_device_config config = harness_default_device();
    harness_reset();
    config.n_devices = MOST_RANKS;
    config.urgent_first = urgent_first;
    harness_configure(&config);
    test_random_seed(11);
    ops = hymba_device_plugin(HY_DEVICE_INTERFACE);
    ck_assert_ptr_nonnull(ops);
}

static inline void setup()
{
    set_up(false);
}

static inline void set_up_early()
{
    set_up(true);
}

static inline void teardown()
{
    ck_assert_msg(harness_error_count() == 0, "%s", harness_first_error());
    ck_assert_uint_eq(harness_live_count(), 0);
    harness_reset();
}

static inline void all_sum(struct rank *rank, const struct hy_all_sum_args *args, size_t rows)
{
    ops->begin_all_sum(rank->device, args, rows);
    ops->end_all_sum(rank->device);
}

enum { STEP_N = 64 };

/* What a rank's steps work on. */
struct scene {
    float *x, *weight, *normed, *y;
};

static inline struct scene make_scene(struct rank *rank, const std::vector<float> &x)
{
    return {make_floats(rank, x), make_floats(rank, std::vector<float>(STEP_N, 0.5f)),
            make_floats(rank, x), make_floats(rank, x)};
}

static inline void release_scene(struct rank *rank, const struct scene *scene)
{
    for (float *data : {scene->x, scene->weight, scene->normed, scene->y})
        ops->release(rank->device, data);
}

static inline void call_norm(struct rank *rank, const struct scene *scene, const float *x,
                             size_t rows)
{
    struct hy_rms_norm_args args = {};
    args.x = x;
    args.x_stride = args.y_stride = args.n = STEP_N;
    args.weight = scene->weight;
    args.epsilon = 1e-6f;
    args.y = scene->normed;
    ops->rms_norm(rank->device, &args, rows);
}

static inline void check_exchange(struct rank *rank, size_t bytes, size_t n)
{
    std::vector<unsigned char> mine(bytes + 1), all(n * bytes + 1, 0xee);
    for (size_t i = 0; i < bytes; i++)
        mine[i] = (unsigned char)(i * 7 + rank->index);
    exchange(rank, mine.data(), all.data(), bytes);
    for (size_t i = 0; i < n * bytes; i++)
        if (all[i] != (unsigned char)(i % bytes * 7 + i / bytes))
            rank->status = HYMBA_ERROR_INTERNAL;
    if (all[n * bytes] != 0xee)
        rank->status = HYMBA_ERROR_INTERNAL;
}

static inline void sum_rows(struct rank *rank, float *x, float *y, size_t n)
{
    struct hy_all_sum_args args = {x, n, n, false, y, n};
    all_sum(rank, &args, 1);
}

/* A suite's tests of one subject. */
struct ranks_case {
    const char *name;
    std::vector<const TTest *> tests;
    const char *early; /* name of the same with gathers as early as they may run; NULL: not so */
};

static inline void add_case(Suite *suite, const char *name, SFun begin,
                            const std::vector<const TTest *> &list)
{
    TCase *tests = tcase_create(name); /* which keeps the name */
    tcase_add_checked_fixture(tests, begin, teardown);
    tcase_set_timeout(tests, 60);
    for (const TTest *test : list)
        tcase_add_test(tests, test);
    suite_add_tcase(suite, tests);
}

/* What main does. */
static inline int run_cases(const char *name, const std::vector<struct ranks_case> &cases)
{
    Suite *suite = suite_create(name);
    for (const struct ranks_case &entry : cases) {
        add_case(suite, entry.name, setup, entry.tests);
        if (entry.early)
            add_case(suite, entry.early, set_up_early, entry.tests);
    }
    return test_main(suite);
}

#endif
