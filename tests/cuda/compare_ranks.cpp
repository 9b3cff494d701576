#include "compare_ranks.h"

#include <stdio.h>
#include <string.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

enum { ROWS = 5, MOST = ROWS * 1600, STEPS = 4, PATIENT = 60000 };

/* One rank, and what was wrong with it. */
struct party {
    const struct hy_device_ops *ops;
    struct hy_join_args join;
    struct hy_device *device;
    float *x, *y, *z; /* [MOST], the device's */
    hymba_status status;
    std::string wrong;
};

/* Any numbers, the same ones whoever asks. */
static float number(uint32_t rank, size_t i)
{
    uint32_t bits = (uint32_t)(i * 2654435761u) ^ (rank + 1) * 0x9e3779b9u;
    bits ^= bits >> 15;
    bits *= 0x85ebca6bu;
    bits ^= bits >> 13;
    return (float)(bits >> 8) / (float)(1 << 23) - 1.0f;
}

/* In the order of ranks. */
static float sum(const struct party *party, size_t i)
{
    float total = number(0, i);
    for (uint32_t rank = 1; rank < party->join.world_size; rank++)
        total += number(rank, i);
    return total;
}

static float times_ranks(const struct party *party, float value)
{
    float total = value;
    for (uint32_t rank = 1; rank < party->join.world_size; rank++)
        total += value;
    return total;
}

static void tell(struct party *party, const std::string &what)
{
    char rank[32];
    snprintf(rank, sizeof rank, "rank %u: ", (unsigned)party->join.rank);
    if (party->wrong.empty())
        party->wrong = rank + what;
}

/* A call that answers; what it answers is wrong unless it was expected. */
static bool expect(struct party *party, hymba_status expected,
                   const std::function<hymba_status(hymba_error *)> &call)
{
    hymba_error error = {};
    error.struct_size = sizeof error;
    party->status = call(&error);
    if (party->status != expected)
        tell(party, error.message[0] ? error.message : "a call did not fail");
    return party->status == expected;
}

static bool finish(struct party *party, hymba_status expected)
{
    return expect(party, expected, [party](hymba_error *error) {
        return party->ops->finish(party->device, error);
    });
}

static bool open_party(struct party *party)
{
    struct hy_device_params params = {};
    std::vector<float> x(MOST);
    params.struct_size = sizeof params;
    params.index = (int)party->join.rank;
    params.compute = HYMBA_COMPUTE_F32;
    for (size_t i = 0; i < MOST; i++)
        x[i] = number(party->join.rank, i);
    if (!expect(party, HYMBA_OK, [&](hymba_error *error) {
            return party->ops->open(&params, &party->device, error);
        }))
        return false;
    for (float **data : {&party->x, &party->y, &party->z})
        *data = (float *)party->ops->allocate(party->device, MOST * sizeof(float));
    if (!party->x || !party->y || !party->z) {
        tell(party, "no memory on the device");
        return false;
    }
    struct hy_copy_args copy = {HY_COPY_TO_DEVICE, party->x, 0, x.data(), 0, MOST * sizeof(float),
                                1};
    party->ops->copy(party->device, &copy);
    return expect(party, HYMBA_OK, [party](hymba_error *error) {
        return party->ops->join(party->device, &party->join, error);
    });
}

static void close_party(struct party *party)
{
    if (!party->device)
        return;
    for (float *data : {party->x, party->y, party->z})
        party->ops->release(party->device, data);
    party->ops->close(party->device);
}

/* Two sums, the second of what the first one gives. The first row of that is a sum by itself, under
 * way together with that of the others. */
static void queue_sums(struct party *party, size_t rows, size_t n)
{
    struct hy_all_sum_args first = {party->x, n, n, false, party->y, n};
    struct hy_all_sum_args others = {party->x + n, n, n, false, party->y + n, n};
    struct hy_all_sum_args second = {party->y, n, n, false, party->z, n};
    party->ops->begin_all_sum(party->device, &first, 1);
    party->ops->begin_all_sum(party->device, &others, rows - 1);
    party->ops->end_all_sum(party->device);
    party->ops->begin_all_sum(party->device, &second, rows);
    party->ops->end_all_sum(party->device);
}

static void check_sums(struct party *party, size_t rows, size_t n, bool whole)
{
    std::vector<float> found(rows * n);
    char words[100];
    struct hy_copy_args copy = {HY_COPY_TO_HOST, found.data(), 0, party->z, 0,
                                found.size() * sizeof(float), 1};
    party->ops->fill(party->device, party->z, 0xff, MOST * sizeof(float));
    if (whole)
        party->ops->begin_step(party->device, rows);
    queue_sums(party, rows, n);
    if (whole)
        party->ops->end_step(party->device, true);
    party->ops->copy(party->device, &copy);
    if (!finish(party, HYMBA_OK))
        return;
    for (size_t i = 0; i < found.size(); i++) {
        float expected = times_ranks(party, sum(party, i));
        if (memcmp(&expected, &found[i], sizeof expected) == 0)
            continue;
        snprintf(words, sizeof words, "element %zu of %zu rows of %zu is %a, expected %a", i, rows,
                 n, found[i], expected);
        tell(party, words);
        return;
    }
}

static void check_exchange(struct party *party)
{
    const size_t bytes = 100;
    std::vector<unsigned char> mine(bytes, (unsigned char)(party->join.rank + 1));
    std::vector<unsigned char> all(bytes * party->join.world_size);
    if (!expect(party, HYMBA_OK, [&](hymba_error *error) {
            return party->ops->exchange(party->device, mine.data(), all.data(), bytes, error);
        }))
        return;
    for (size_t i = 0; i < all.size(); i++)
        if (all[i] != i / bytes + 1)
            tell(party, "an exchange gives other bytes than were sent");
}

static void compare(struct party *party)
{
    static const size_t lengths[] = {2, 33, 132, 1600};
    bool good = open_party(party);
    for (size_t n : lengths)
        for (size_t rows : {(size_t)1, (size_t)ROWS})
            for (int step = 0; good && step <= STEPS; step++)
                check_sums(party, rows, n, step > 0);
    if (good)
        check_exchange(party);
    close_party(party);
}

/* The last one goes when it has taken part as often as that. */
static void go_before_the_end(struct party *party, int n_steps)
{
    bool good = open_party(party), dies = party->join.rank + 1 == party->join.world_size;
    for (int step = 0; good && step < n_steps; step++)
        check_sums(party, 1, 132, true);
    if (good && !dies) {
        queue_sums(party, 1, 132);
        finish(party, HYMBA_ERROR_TIMEOUT);
    }
}

static const char *run(const struct hy_device_ops *ops, uint32_t n_ranks, uint32_t timeout_ms,
                       const std::function<void(struct party *)> &part,
                       const std::function<void(struct party *)> &end)
{
    static std::string wrong;
    unsigned char id[HY_UNIQUE_ID_BYTES];
    hymba_error error = {};
    std::vector<struct party> parties(n_ranks);
    std::vector<std::thread> threads;
    error.struct_size = sizeof error;
    wrong.clear();
    if (ops->make_id(id, &error) != HYMBA_OK) {
        wrong = error.message;
        return wrong.c_str();
    }
    for (uint32_t i = 0; i < n_ranks; i++) {
        parties[i].ops = ops;
        parties[i].join = {i, n_ranks, id, timeout_ms, NULL, NULL};
        threads.emplace_back([&part, &parties, i]() { part(&parties[i]); });
    }
    for (std::thread &thread : threads)
        thread.join();
    for (struct party &party : parties) {
        end(&party);
        wrong = wrong.empty() ? party.wrong : wrong;
    }
    return wrong.empty() ? NULL : wrong.c_str();
}

const char *compare_ranks(const struct hy_device_ops *ops, uint32_t n_ranks)
{
    return run(ops, n_ranks, PATIENT, compare, [](struct party *) {});
}

const char *lose_a_rank(const struct hy_device_ops *ops, uint32_t n_ranks, uint32_t timeout_ms)
{
    const char *wrong = NULL;
    for (int n_steps : {0, (int)STEPS})
        if (!wrong)
            wrong = run(ops, n_ranks, timeout_ms,
                        [n_steps](struct party *party) { go_before_the_end(party, n_steps); },
                        close_party);
    return wrong;
}
