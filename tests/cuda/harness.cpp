/* Runs kernels: blocks one after the other, each with its threads as fibres. */
#include "running.h"

#include "fibre.h"
#include "memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <map>
#include <vector>

struct harness_running harness_now;
struct running_kernel running;
std::recursive_mutex harness_mutex;

namespace {

enum { KEPT_FAULTS = 100 };

size_t n_faults[HARNESS_FAULTS];
std::vector<std::string> faults;

std::map<std::string, struct harness_launch_record> records;
std::map<std::string, size_t> kernel_counts; /* by bare name */
std::string last_name;
size_t n_launches;

/* The warp that runs: its lanes in the order of their turns, and whose it is. */
struct {
    const size_t *lanes;
    unsigned first_thread, place;
} turn;

enum harness_order order;
uint64_t order_seed;
bool order_known;

} // namespace

/* ------------------------------------------------------------------ faults */

void harness_report(enum harness_fault fault, const char *format, ...)
{
    n_faults[fault]++;
    if (faults.size() >= KEPT_FAULTS)
        return;
    char where[300] = "", what[700];
    if (running.name)
        snprintf(where, sizeof where, "kernel %s, block (%u, %u, %u), thread %u: ", running.name,
                 harness_now.block.x, harness_now.block.y, harness_now.block.z,
                 harness_now.thread);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    faults.push_back(std::string(where) + what);
}

size_t harness_fault_count(enum harness_fault fault)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    return n_faults[fault];
}

size_t harness_error_count()
{
    size_t sum = 0;
    for (int i = 0; i < HARNESS_FAULTS; i++)
        sum += harness_fault_count((enum harness_fault)i);
    return sum;
}

const char *harness_error(size_t i)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    return i < faults.size() ? faults[i].c_str() : "none";
}

const char *harness_first_error()
{
    return harness_error(0);
}

void harness_forget_faults()
{
    memset(n_faults, 0, sizeof n_faults);
    faults.clear();
}

void harness_clear_errors()
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    harness_forget_faults();
}

/* ---------------------------------------------------------------- launches */

const struct harness_launch_record *harness_find_launch(const char *name)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    auto found = records.find(name);
    return found == records.end() ? nullptr : &found->second;
}

const struct harness_launch_record *harness_last_launch()
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    return n_launches == 0 ? nullptr : harness_find_launch(last_name.c_str());
}

size_t harness_launch_count()
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    return n_launches;
}

size_t harness_kernel_count(const char *name)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    auto found = kernel_counts.find(name);
    return found == kernel_counts.end() ? 0 : found->second;
}

void harness_forget_launches()
{
    records.clear();
    kernel_counts.clear();
    n_launches = 0;
    order_known = false;
}

static void keep_record(const char *name)
{
    last_name = name;
    n_launches++;
    std::string bare = last_name.substr(0, last_name.find('<'));
    kernel_counts[bare]++;
    for (const std::string &key : {last_name, bare}) {
        auto entry = records.emplace(key, running.record).first;
        entry->second = running.record;
        entry->second.name = records.find(last_name)->first.c_str();
    }
}

/* ------------------------------------------------------------------- order */

void harness_set_order(enum harness_order order_, unsigned seed)
{
    order = order_;
    order_seed = seed;
    order_known = true;
}

static void find_order()
{
    const char *text = getenv("HYMBA_HARNESS_ORDER");
    order_known = true;
    order = HARNESS_ASCENDING;
    if (!text || !*text || strcmp(text, "ascending") == 0)
        return;
    order = strcmp(text, "descending") == 0 ? HARNESS_DESCENDING : HARNESS_RANDOM;
    order_seed = strtoul(text, nullptr, 10);
}

static size_t random_below(size_t n)
{
    order_seed = order_seed * 6364136223846793005u + 1442695040888963407u;
    return (size_t)((order_seed >> 33) % n);
}

static void fill_order(std::vector<size_t> &list, size_t n)
{
    list.resize(n);
    for (size_t i = 0; i < n; i++)
        list[i] = order == HARNESS_DESCENDING ? n - 1 - i : i;
    if (order == HARNESS_RANDOM)
        for (size_t i = n; i > 1; i--)
            std::swap(list[i - 1], list[random_below(i)]);
}

/* ------------------------------------------------------------------ blocks */

static void resume(unsigned place)
{
    turn.place = place;
    harness_now.thread = turn.first_thread + (unsigned)turn.lanes[place];
    fibre_resume(harness_now.thread);
}

static bool is_ready(unsigned place)
{
    return running.states[turn.first_thread + turn.lanes[place]] == READY;
}

void running_wait(enum thread_state state)
{
    running.states[harness_now.thread] = state;
    for (unsigned i = turn.place + 1; i < turn.place + WARP; i++)
        if (is_ready(i % WARP)) {
            resume(i % WARP);
            return;
        }
    fibre_yield();
}

static void thread_main()
{
    (*running.body)();
    running_wait(DONE);
}

/* Until none of the warp's lanes can go on; they give the turn to each other. */
static void run_warp(size_t warp, const std::vector<size_t> &lanes)
{
    turn.lanes = lanes.data();
    turn.first_thread = (unsigned)warp * WARP;
    for (unsigned place = 0; place < WARP; place++)
        if (is_ready(place)) {
            resume(place);
            return;
        }
}

static unsigned find_thread(enum thread_state state, unsigned *count)
{
    unsigned first = 0;
    *count = 0;
    for (unsigned i = running.threads; i-- > 0;)
        if (running.states[i] == state) {
            first = i;
            ++*count;
        }
    return first;
}

/* No thread can go on: true if the block has ended, or its rest cannot be run. */
static bool end_round()
{
    unsigned n_done, n_waiting, n_meeting;
    find_thread(DONE, &n_done);
    if (n_done == running.threads)
        return true;
    unsigned waiting = find_thread(AT_BARRIER, &n_waiting);
    unsigned meeting = find_thread(AT_MEETING, &n_meeting);
    if (n_waiting == running.threads) {
        for (unsigned i = 0; i < running.threads; i++)
            running.states[i] = READY;
        for (unsigned i = 0; i < running.threads / WARP; i++)
            running.warp_epochs[i] = 0;
        running.epoch++;
        running.epochs++;
        return false;
    }
    harness_now.thread = n_meeting ? meeting : waiting;
    if (n_meeting)
        harness_report(HARNESS_WARP,
                       "waits for the other lanes at a shuffle, vote, product or warp barrier: %u "
                       "lanes of its warp came, %u threads of the block wait at hy_sync, %u ended",
                       meetings_arrived(meeting / WARP), n_waiting, n_done);
    if (n_waiting)
        harness_report(HARNESS_BARRIER,
                       "waits at hy_sync with %u of %u threads: %u ended, %u wait for lanes",
                       n_waiting, running.threads, n_done, n_meeting);
    return true;
}

static void run_block()
{
    static std::vector<size_t> warps, lanes;
    fill_order(warps, running.threads / WARP);
    fill_order(lanes, WARP);
    running.epoch++;
    running.first_epoch = running.epoch;
    running.epochs = 0;
    shared_memory_begin();
    meetings_begin();
    for (unsigned i = 0; i < running.threads; i++)
        running.states[i] = READY;
    for (unsigned i = 0; i < running.threads / WARP; i++)
        running.warp_epochs[i] = 0;
    do
        for (size_t warp : warps)
            run_warp(warp, lanes);
    while (!end_round());
    for (unsigned i = 0; i < running.threads; i++)
        if (running.states[i] != DONE)
            fibre_abandon(i);
}

void harness_run_kernel(const char *name, dim3 grid, unsigned threads, size_t shared_bytes,
                        const std::function<void()> &body)
{
    static std::vector<size_t> blocks;
    if (!order_known)
        find_order();
    fibre_prepare(threads, thread_main);
    if (++running.number >> LAUNCH_BITS) {
        memory_forget_stamps();
        running.number = 1;
    }
    running.name = name;
    running.body = &body;
    running.threads = harness_now.threads = threads;
    running.shared_bytes = shared_bytes;
    running.record = {name, grid, threads, shared_bytes, 0, 0, 0, 0};
    harness_now.grid = grid;
    fill_order(blocks, (size_t)grid.x * grid.y * grid.z);
    for (size_t i : blocks) {
        running.block = i;
        harness_now.block = dim3((unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y),
                                 (unsigned)(i / grid.x / grid.y));
        run_block();
    }
    keep_record(name);
    running.name = nullptr;
}

void harness_block_barrier()
{
    running_wait(AT_BARRIER);
}
