/* Runs kernels: blocks one after the other, each with its threads as fibres. */
#include "inside.h"

#include "fibre.h"
#include "memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <deque>
#include <map>
#include <vector>

struct harness_running harness_now;
std::recursive_mutex harness_mutex;

namespace {

enum { WARP = 32, MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / WARP, KEPT_FAULTS = 100 };
enum { MAX_SHARED = 256 * 1024 };

enum thread_state { READY, AT_BARRIER, AT_MEETING, DONE };

/* What a lane brings to where its warp meets. */
struct offer {
    enum harness_meeting kind;
    uint32_t value;
    uint32_t a[4], b[2];
    float d[4];
};

/* Offers of one meeting are read while those of the next one come in. */
struct warp {
    struct offer offers[2][WARP];
    unsigned turn, arrived;
    unsigned epoch; /* counts its barriers since the block's last */
};

/* 16 bytes on their way into shared memory. */
struct pending_copy {
    size_t group, base, count, i;
    unsigned char data[16];
};

/* Who accessed a byte of shared memory: epoch of the block, of the warp, thread. */
typedef uint64_t stamp;
enum { STAMP_THREAD_BITS = 10, STAMP_WARP_BITS = 16 };

/*
 * Two readers of a byte suffice to find every race of a later write: if there are readers of two
 * warps, one of each is kept, otherwise two of a warp that its barriers do not order. So do two
 * that added to it.
 */
struct shared_stamps {
    stamp writer, reader, other_reader, adder, other_adder;
};

struct {
    const char *name; /* NULL outside of kernels */
    const std::function<void()> *body;
    unsigned threads;
    uint64_t number; /* of the launch */
    uint64_t block;  /* in the grid */
    uint64_t epoch, first_epoch, epochs; /* of all blocks; of this one; barriers in this one */
    enum thread_state states[MAX_THREADS];
    struct warp warps[MAX_WARPS];
    std::deque<struct pending_copy> copies[MAX_THREADS]; /* not waited for */
    size_t groups[MAX_THREADS];                          /* of copies, so far */
    size_t shared_bytes;
    unsigned char shared[MAX_SHARED];
    struct shared_stamps stamps[MAX_SHARED];
    struct harness_launch_record record;
} now;

size_t n_faults[HARNESS_FAULTS];
std::vector<std::string> faults;

std::map<std::string, struct harness_launch_record> records;
std::map<std::string, size_t> kernel_counts; /* by bare name */
std::string last_name;
size_t n_launches;

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
    if (now.name)
        snprintf(where, sizeof where, "kernel %s, block (%u, %u, %u), thread %u: ", now.name,
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
        auto entry = records.emplace(key, now.record).first;
        entry->second = now.record;
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

static void thread_main()
{
    (*now.body)();
    now.states[harness_now.thread] = DONE;
}

static void resume(unsigned thread)
{
    harness_now.thread = thread;
    fibre_resume(thread);
}

/* Until none of the warp's lanes can go on. */
static void run_warp(size_t warp, const std::vector<size_t> &lanes)
{
    for (bool ran = true; ran;) {
        ran = false;
        for (size_t lane : lanes) {
            unsigned thread = (unsigned)(warp * WARP + lane);
            if (now.states[thread] != READY)
                continue;
            resume(thread);
            ran = true;
        }
    }
}

static unsigned find_thread(enum thread_state state, unsigned *count)
{
    unsigned first = 0;
    *count = 0;
    for (unsigned i = now.threads; i-- > 0;)
        if (now.states[i] == state) {
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
    if (n_done == now.threads)
        return true;
    unsigned waiting = find_thread(AT_BARRIER, &n_waiting);
    unsigned meeting = find_thread(AT_MEETING, &n_meeting);
    if (n_waiting == now.threads) {
        for (unsigned i = 0; i < now.threads; i++)
            now.states[i] = READY;
        for (unsigned i = 0; i < now.threads / WARP; i++)
            now.warps[i].epoch = 0;
        now.epoch++;
        now.epochs++;
        return false;
    }
    harness_now.thread = n_meeting ? meeting : waiting;
    if (n_meeting)
        harness_report(HARNESS_WARP,
                       "waits for the other lanes at a shuffle, vote, product or warp barrier: %u "
                       "lanes of its warp came, %u threads of the block wait at hy_sync, %u ended",
                       now.warps[meeting / WARP].arrived, n_waiting, n_done);
    if (n_waiting)
        harness_report(HARNESS_BARRIER,
                       "waits at hy_sync with %u of %u threads: %u ended, %u wait for lanes",
                       n_waiting, now.threads, n_done, n_meeting);
    return true;
}

static void run_block()
{
    static std::vector<size_t> warps, lanes;
    fill_order(warps, now.threads / WARP);
    fill_order(lanes, WARP);
    now.epoch++;
    now.first_epoch = now.epoch;
    now.epochs = 0;
    memset(now.shared, 0xff, now.shared_bytes);
    for (unsigned i = 0; i < now.threads; i++) {
        now.states[i] = READY;
        now.copies[i].clear();
        now.groups[i] = 0;
    }
    for (unsigned i = 0; i < now.threads / WARP; i++)
        now.warps[i].arrived = now.warps[i].epoch = 0;
    do
        for (size_t warp : warps)
            run_warp(warp, lanes);
    while (!end_round());
    for (unsigned i = 0; i < now.threads; i++)
        if (now.states[i] != DONE)
            fibre_abandon(i);
}

enum { LAUNCH_BITS = 18, BLOCK_BITS = 18 };

void harness_run_kernel(const char *name, dim3 grid, unsigned threads, size_t shared_bytes,
                        const std::function<void()> &body)
{
    static std::vector<size_t> blocks;
    if (!order_known)
        find_order();
    fibre_prepare(threads, thread_main);
    if (++now.number >> LAUNCH_BITS) {
        memory_forget_stamps();
        now.number = 1;
    }
    now.name = name;
    now.body = &body;
    now.threads = harness_now.threads = threads;
    now.shared_bytes = shared_bytes;
    now.record = {name, grid, threads, shared_bytes, 0, 0, 0, 0};
    harness_now.grid = grid;
    fill_order(blocks, (size_t)grid.x * grid.y * grid.z);
    for (size_t i : blocks) {
        now.block = i;
        harness_now.block = dim3((unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y),
                                 (unsigned)(i / grid.x / grid.y));
        run_block();
    }
    keep_record(name);
    now.name = nullptr;
}

/* ---------------------------------------------------------------- meetings */

void harness_block_barrier()
{
    now.states[harness_now.thread] = AT_BARRIER;
    fibre_yield();
}

float harness_from_f16(uint16_t bits)
{
    unsigned exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = exponent == 31  ? (fraction ? NAN : INFINITY)
                  : exponent == 0 ? ldexpf((float)fraction, -24)
                                  : ldexpf((float)(fraction | 1024), (int)exponent - 25);
    return bits >> 15 ? -value : value;
}

uint16_t harness_to_f16(float value)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    float size = fabsf(value);
    if (value != value)
        return sign | 0x7e00;
    if (size >= 65520.0f) /* half a unit above the largest */
        return sign | 0x7c00;
    int exponent;
    frexpf(size, &exponent);
    /* The unit of the result: 2^-24 of numbers below 2^-14, else 11 bits. */
    int unit = size == 0.0f || exponent < -13 ? -24 : exponent - 11;
    unsigned units = (unsigned)lrintf(ldexpf(size, -unit)); /* to nearest even */
    if (unit == -24)
        return (uint16_t)(sign | units);
    return (uint16_t)(sign | (((unsigned)(unit + 24) << 10) + units));
}

static float from_bf16(uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* All lanes' fragments to matrices, the product, and back; layout as in portable.h. */
static void multiply(struct offer *offers, bool is_bf16)
{
    float a[16][16], b[16][8], d[16][8];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const struct offer *o = &offers[lane];
        unsigned row = lane / 4, column = 2 * (lane % 4);
        for (unsigned i = 0; i < 2; i++) {
            unsigned shift = 16 * i;
            for (unsigned j = 0; j < 4; j++) {
                uint16_t bits = (uint16_t)(o->a[j] >> shift);
                a[row + j % 2 * 8][column + j / 2 * 8 + i] =
                    is_bf16 ? from_bf16(bits) : harness_from_f16(bits);
            }
            for (unsigned j = 0; j < 2; j++) {
                uint16_t bits = (uint16_t)(o->b[j] >> shift);
                b[column + 8 * j + i][row] = is_bf16 ? from_bf16(bits) : harness_from_f16(bits);
            }
            d[row][column + i] = o->d[i];
            d[row + 8][column + i] = o->d[2 + i];
        }
    }
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < 16; k++)
            for (unsigned j = 0; j < 8; j++)
                d[i][j] += a[i][k] * b[k][j];
    for (unsigned lane = 0; lane < WARP; lane++) {
        unsigned row = lane / 4, column = 2 * (lane % 4);
        for (unsigned i = 0; i < 2; i++) {
            offers[lane].d[i] = d[row][column + i];
            offers[lane].d[2 + i] = d[row + 8][column + i];
        }
    }
}

/* All lanes have come. */
static void hold_meeting(struct warp *warp, struct offer *offers)
{
    enum harness_meeting kind = offers[0].kind;
    for (unsigned lane = 1; lane < WARP; lane++)
        if (offers[lane].kind != kind) {
            harness_report(HARNESS_WARP, "lanes 0 and %u of its warp meet in different operations",
                           lane);
            break;
        }
    if (kind == HARNESS_SYNC_WARP)
        warp->epoch++;
    else if (kind == HARNESS_MMA_BF16 || kind == HARNESS_MMA_F16)
        multiply(offers, kind == HARNESS_MMA_BF16);
    warp->arrived = 0;
    warp->turn ^= 1;
}

/* The offers of the warp's lanes, once all have come. */
static const struct offer *meet(const struct offer *mine)
{
    unsigned thread = harness_now.thread, first = thread / WARP * WARP;
    struct warp *warp = &now.warps[thread / WARP];
    struct offer *offers = warp->offers[warp->turn];
    offers[thread % WARP] = *mine;
    if (++warp->arrived < WARP) {
        now.states[thread] = AT_MEETING;
        fibre_yield();
        return offers;
    }
    hold_meeting(warp, offers);
    for (unsigned i = first; i < first + WARP; i++)
        now.states[i] = READY;
    return offers;
}

uint32_t harness_exchange(enum harness_meeting kind, uint32_t value, unsigned argument)
{
    struct offer mine;
    mine.kind = kind;
    mine.value = value;
    const struct offer *offers = meet(&mine);
    unsigned lane = harness_now.thread % WARP, from = lane;
    if (kind == HARNESS_BALLOT) {
        uint32_t votes = 0;
        for (unsigned i = 0; i < WARP; i++)
            votes |= (uint32_t)(offers[i].value != 0) << i;
        return votes;
    }
    if (kind == HARNESS_SHUFFLE_XOR)
        from = lane ^ argument;
    else if (kind == HARNESS_SHUFFLE_DOWN)
        from = argument < WARP ? lane + argument : lane;
    else if (kind == HARNESS_SHUFFLE)
        from = argument % WARP;
    return from < WARP ? offers[from].value : value;
}

void harness_mma(enum harness_meeting kind, float d[4], const uint32_t a[4], const uint32_t b[2])
{
    struct offer mine;
    mine.kind = kind;
    mine.value = 0;
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    memcpy(mine.d, d, sizeof mine.d);
    const struct offer *offers = meet(&mine);
    memcpy(d, offers[harness_now.thread % WARP].d, sizeof mine.d);
}

/* ----------------------------------------------------------- shared memory */

/* Of sizes that a compiler knows, since these are called for every number of every kernel. */
static void copy_element(void *to, const void *from, unsigned size)
{
    switch (size) {
    case 1:
        memcpy(to, from, 1);
        break;
    case 2:
        memcpy(to, from, 2);
        break;
    case 4:
        memcpy(to, from, 4);
        break;
    case 8:
        memcpy(to, from, 8);
        break;
    default:
        memcpy(to, from, 16);
    }
}

static stamp my_stamp()
{
    unsigned thread = harness_now.thread;
    uint64_t warp_epoch = now.warps[thread / WARP].epoch & ((1u << STAMP_WARP_BITS) - 1);
    return (now.epoch << STAMP_WARP_BITS | warp_epoch) << STAMP_THREAD_BITS | thread;
}

static uint64_t stamp_epoch(stamp s)
{
    return s >> (STAMP_THREAD_BITS + STAMP_WARP_BITS);
}

static unsigned stamp_thread(stamp s)
{
    return (unsigned)(s & ((1u << STAMP_THREAD_BITS) - 1));
}

static bool same_warp(stamp s, stamp t)
{
    return stamp_thread(s) / WARP == stamp_thread(t) / WARP;
}

/* Whether an earlier access is neither mine nor one that a barrier puts before mine. */
static bool is_unordered(stamp before, stamp mine)
{
    if (stamp_epoch(before) != stamp_epoch(mine) || stamp_thread(before) == stamp_thread(mine))
        return false;
    return !same_warp(before, mine) || before >> STAMP_THREAD_BITS == mine >> STAMP_THREAD_BITS;
}

static void note(stamp *first, stamp *other, stamp mine)
{
    if (*first == mine)
        return;
    if (stamp_epoch(*first) != stamp_epoch(mine)) {
        *first = mine;
        *other = 0;
    } else if (same_warp(*first, mine)) {
        if (!is_unordered(*first, mine))
            *first = mine;
        else if (!is_unordered(*other, mine))
            *other = mine;
    } else if (same_warp(*first, *other) || !is_unordered(*other, mine)) {
        *other = mine;
    }
}

/* One of two accesses that is not ordered with mine; 0 if both are. */
static stamp unordered_of(stamp first, stamp other, stamp mine)
{
    return is_unordered(first, mine) ? first : is_unordered(other, mine) ? other : 0;
}

void harness_shared_array(size_t bytes, size_t count, size_t size)
{
    if (bytes % size != 0)
        harness_report(HARNESS_ALIGNMENT,
                       "an array of elements of %zu bytes begins %zu bytes into shared memory",
                       size, bytes);
    if (bytes > now.shared_bytes || count > (now.shared_bytes - bytes) / size)
        harness_report(HARNESS_SHARED_BOUNDS,
                       "an array of %zu elements of %zu bytes, %zu bytes into shared memory: "
                       "the launch asked for %zu bytes",
                       count, size, bytes, now.shared_bytes);
}

static bool is_in_shared(size_t base, size_t count, size_t i, unsigned size, const char *what)
{
    if (i < count && base < now.shared_bytes && i < (now.shared_bytes - base) / size)
        return true;
    harness_report(HARNESS_SHARED_BOUNDS,
                   "%s element %zu of a shared array of %zu elements of %u bytes", what, i, count,
                   size);
    return false;
}

void harness_shared_load(size_t base, size_t count, size_t i, void *value, unsigned size)
{
    if (!is_in_shared(base, count, i, size, "reads")) {
        memset(value, 0, size);
        return;
    }
    size_t begin = base + i * size;
    stamp mine = my_stamp(), race = 0;
    bool written = true;
    for (struct shared_stamps *s = now.stamps + begin; s < now.stamps + begin + size; s++) {
        written = written && stamp_epoch(s->writer) >= now.first_epoch;
        if (is_unordered(s->writer, mine))
            race = s->writer;
        else if (stamp adder = unordered_of(s->adder, s->other_adder, mine))
            race = adder;
        note(&s->reader, &s->other_reader, mine);
    }
    if (!written)
        harness_report(HARNESS_SHARED_UNINITIALISED,
                       "reads element %zu of the shared array %zu bytes in, which nobody wrote", i,
                       base);
    if (race)
        harness_report(HARNESS_SHARED_RACE,
                       "reads element %zu of the shared array %zu bytes in, which thread %u wrote "
                       "with no barrier between",
                       i, base, stamp_thread(race));
    copy_element(value, now.shared + begin, size);
}

void harness_shared_store(size_t base, size_t count, size_t i, const void *value, unsigned size)
{
    if (!is_in_shared(base, count, i, size, "writes"))
        return;
    size_t begin = base + i * size;
    stamp mine = my_stamp(), writer = 0, reader = 0;
    for (struct shared_stamps *s = now.stamps + begin; s < now.stamps + begin + size; s++) {
        if (is_unordered(s->writer, mine))
            writer = s->writer;
        else if (stamp adder = unordered_of(s->adder, s->other_adder, mine))
            writer = adder;
        if (stamp found = unordered_of(s->reader, s->other_reader, mine))
            reader = found;
        s->writer = mine;
    }
    if (writer || reader)
        harness_report(HARNESS_SHARED_RACE,
                       "writes element %zu of the shared array %zu bytes in, which thread %u %s "
                       "with no barrier between",
                       i, base, stamp_thread(writer ? writer : reader),
                       writer ? "wrote" : "read");
    copy_element(now.shared + begin, value, size);
}

/* size is 4 or 8. Additions need no order among each other, but with other accesses. */
uint64_t harness_shared_add(size_t base, size_t count, size_t i, uint64_t value, unsigned size)
{
    if (!is_in_shared(base, count, i, size, "adds to"))
        return 0;
    size_t begin = base + i * size;
    stamp mine = my_stamp(), race = 0;
    bool written = true;
    for (struct shared_stamps *s = now.stamps + begin; s < now.stamps + begin + size; s++) {
        written = written && stamp_epoch(s->writer) >= now.first_epoch;
        if (is_unordered(s->writer, mine))
            race = s->writer;
        else if (stamp reader = unordered_of(s->reader, s->other_reader, mine))
            race = reader;
        note(&s->adder, &s->other_adder, mine);
    }
    if (!written)
        harness_report(HARNESS_SHARED_UNINITIALISED,
                       "adds to element %zu of the shared array %zu bytes in, which nobody wrote",
                       i, base);
    if (race)
        harness_report(HARNESS_SHARED_RACE,
                       "adds to element %zu of the shared array %zu bytes in, which thread %u "
                       "accessed with no barrier between",
                       i, base, stamp_thread(race));
    uint64_t before = 0;
    memcpy(&before, now.shared + begin, size); /* on a little-endian machine */
    uint64_t sum = before + value;
    memcpy(now.shared + begin, &sum, size);
    return before;
}

/* Each lane reads the row that it names, then takes its numbers out of all. */
void harness_load_matrices(enum harness_meeting kind, size_t base, size_t count, size_t i,
                           uint32_t words[4])
{
    struct offer mine = {};
    mine.kind = kind;
    harness_shared_load(base, count, i, mine.a, sizeof mine.a);
    const struct offer *offers = meet(&mine);
    const unsigned lane = harness_now.thread % WARP, across = lane / 4, along = 2 * (lane % 4);
    for (unsigned m = 0; m < 4; m++) {
        uint16_t pair[2];
        for (unsigned j = 0; j < 2; j++) {
            unsigned row = across, column = along + j;
            if (kind == HARNESS_MATRICES_TRANSPOSED)
                row = along + j, column = across;
            memcpy(&pair[j], (const unsigned char *)offers[8 * m + row].a + 2 * column, 2);
        }
        words[m] = pair[0] | (uint32_t)pair[1] << 16;
    }
}

/*
 * The hardware may write the bytes at any time until the thread waits for them. So the place is
 * written twice, with nothing when the copy begins and with the bytes at the end: who touches it at
 * either time without a barrier is found, and so is who reads it between.
 */
void harness_copy_async(size_t base, size_t count, size_t i, const void *from, bool valid)
{
    struct pending_copy copy = {now.groups[harness_now.thread], base, count, i, {}};
    if (valid)
        harness_global_load(from, copy.data, sizeof copy.data);
    if (!is_in_shared(base, count, i, sizeof copy.data, "copies to"))
        return;
    static const unsigned char nothing[16] = {255, 255, 255, 255, 255, 255, 255, 255,
                                              255, 255, 255, 255, 255, 255, 255, 255};
    harness_shared_store(base, count, i, nothing, sizeof nothing);
    for (size_t j = 0; j < sizeof nothing; j++)
        now.stamps[base + i * sizeof nothing + j].writer = 0;
    now.copies[harness_now.thread].push_back(copy);
}

void harness_group_copies()
{
    now.groups[harness_now.thread]++;
}

void harness_wait_copies(size_t groups)
{
    std::deque<struct pending_copy> &copies = now.copies[harness_now.thread];
    while (!copies.empty() && copies.front().group + groups < now.groups[harness_now.thread]) {
        const struct pending_copy copy = copies.front();
        copies.pop_front();
        harness_shared_store(copy.base, copy.count, copy.i, copy.data, sizeof copy.data);
    }
}

/* ----------------------------------------------------------- global memory */

/*
 * A stamp of global memory: launch, block, thread, barriers of the block before it, and of readers
 * whether several threads read between the same barriers, or several blocks.
 */
enum { EPOCH_SHIFT = 2, THREAD_SHIFT = 18, BLOCK_SHIFT = 28, LAUNCH_SHIFT = 46 };
enum { SEVERAL_THREADS = 1, SEVERAL_BLOCKS = 2 };

static stamp my_global_stamp()
{
    /* Later barriers of a very long loop count as one. */
    uint64_t epoch = now.epochs < 0xffff ? now.epochs : 0xffff;
    uint64_t block = now.block & ((1u << BLOCK_BITS) - 1);
    return now.number << LAUNCH_SHIFT | block << BLOCK_SHIFT |
           (uint64_t)harness_now.thread << THREAD_SHIFT | epoch << EPOCH_SHIFT;
}

static bool same_launch(stamp s, stamp t)
{
    return s >> LAUNCH_SHIFT == t >> LAUNCH_SHIFT;
}

static bool same_block(stamp s, stamp t)
{
    return s >> BLOCK_SHIFT == t >> BLOCK_SHIFT;
}

static bool same_thread(stamp s, stamp t)
{
    return s >> THREAD_SHIFT == t >> THREAD_SHIFT;
}

static bool same_interval(stamp s, stamp t)
{
    return same_block(s, t) && (s >> EPOCH_SHIFT & 0xffff) == (t >> EPOCH_SHIFT & 0xffff);
}

/* Of two stamps of one launch. */
static bool is_global_unordered(stamp before, stamp mine)
{
    return !same_thread(before, mine) && (!same_block(before, mine) || same_interval(before, mine));
}

static bool reader_is_unordered(stamp reader, stamp mine)
{
    if (reader & SEVERAL_BLOCKS || is_global_unordered(reader, mine))
        return true;
    return reader & SEVERAL_THREADS && same_interval(reader, mine);
}

static void note_global_reader(stamp *reader, stamp mine)
{
    if (!same_block(*reader, mine))
        *reader |= SEVERAL_BLOCKS;
    else if (!same_interval(*reader, mine))
        *reader = mine | (*reader & SEVERAL_BLOCKS);
    else if (!same_thread(*reader, mine))
        *reader |= SEVERAL_THREADS;
}

static void tell_race(stamp other, const char *mine, const char *others, const void *address,
                      unsigned size)
{
    harness_report(HARNESS_GLOBAL_RACE,
                   "%s %u bytes at %s, which thread %u of block %u of the grid %s in this launch",
                   mine, size, memory_describe(address).c_str(),
                   (unsigned)(other >> THREAD_SHIFT & 1023),
                   (unsigned)(other >> BLOCK_SHIFT & ((1u << BLOCK_BITS) - 1)), others);
}

/* What all bytes of an element have in common. */
static uint8_t common_state(const uint8_t *state, unsigned size)
{
    uint8_t states[16], common = MEMORY_LIVE | MEMORY_WRITTEN;
    memset(states, common, sizeof states);
    copy_element(states, state, size);
    for (uint8_t s : states)
        common &= s;
    return common;
}

/* The region of a good access; otherwise says what is wrong with it. */
static struct memory_region *check_access(const void *address, unsigned size, const char *what,
                                          uint8_t *state)
{
    uintptr_t p = reinterpret_cast<uintptr_t>(address);
    struct memory_region *region = memory_find(address);
    if (p % size != 0) {
        harness_report(HARNESS_ALIGNMENT, "%s %u bytes at %p, which is no multiple of that", what,
                       size, address);
        return nullptr;
    }
    *state = 0;
    if (region && size <= region->end - p)
        *state = common_state(region->state + (p - region->begin), size);
    if (*state & MEMORY_LIVE)
        return region;
    harness_report(HARNESS_GLOBAL_BOUNDS, "%s %u bytes: %s", what, size,
                   memory_describe(address).c_str());
    return nullptr;
}

void harness_global_load(const void *address, void *value, unsigned size)
{
    uint8_t state;
    now.record.bytes_read += size;
    struct memory_region *region = check_access(address, size, "reads", &state);
    if (!region) {
        memset(value, 0, size);
        return;
    }
    size_t offset = reinterpret_cast<uintptr_t>(address) - region->begin;
    if (!(state & MEMORY_WRITTEN))
        harness_report(HARNESS_GLOBAL_UNINITIALISED, "reads %u bytes that nobody wrote: %s", size,
                       memory_describe(address).c_str());
    stamp mine = my_global_stamp(), race = 0;
    struct memory_stamps *s = region->stamps + offset / MEMORY_STAMP_BYTES;
    struct memory_stamps *end = s + (size + MEMORY_STAMP_BYTES - 1) / MEMORY_STAMP_BYTES;
    for (; s < end; s++) {
        if (same_launch(s->writer, mine) && is_global_unordered(s->writer, mine))
            race = s->writer;
        if (same_launch(s->reader, mine)) {
            note_global_reader(&s->reader, mine);
        } else {
            s->reader = mine;
            now.record.unique_bytes_read += MEMORY_STAMP_BYTES;
        }
    }
    if (race && size >= MEMORY_STAMP_BYTES)
        tell_race(race, "reads", "writes", address, size);
    if (memory_counts)
        memory_count_load(region, offset, size);
    copy_element(value, region->bytes + offset, size);
}

void harness_global_store(void *address, const void *value, unsigned size)
{
    uint8_t state;
    now.record.bytes_written += size;
    struct memory_region *region = check_access(address, size, "writes", &state);
    if (!region)
        return;
    size_t offset = reinterpret_cast<uintptr_t>(address) - region->begin;
    bool changes = memcmp(region->bytes + offset, value, size) != 0;
    stamp mine = my_global_stamp(), writer = 0, reader = 0;
    struct memory_stamps *s = region->stamps + offset / MEMORY_STAMP_BYTES;
    struct memory_stamps *end = s + (size + MEMORY_STAMP_BYTES - 1) / MEMORY_STAMP_BYTES;
    for (; s < end; s++) {
        if (!same_launch(s->writer, mine))
            now.record.unique_bytes_written += MEMORY_STAMP_BYTES;
        else if (changes && is_global_unordered(s->writer, mine))
            writer = s->writer;
        if (same_launch(s->reader, mine) && reader_is_unordered(s->reader, mine))
            reader = s->reader;
        s->writer = mine;
    }
    if (writer && size >= MEMORY_STAMP_BYTES)
        tell_race(writer, "writes", "writes another value to", address, size);
    else if (reader && size >= MEMORY_STAMP_BYTES)
        tell_race(reader, "writes", "reads", address, size);
    memset(region->state + offset, MEMORY_LIVE | MEMORY_WRITTEN, size);
    if (memory_counts)
        memory_count_store(region, offset, size);
    copy_element(region->bytes + offset, value, size);
}

/* ---------------------------------------------------------- registered memory */

void harness_register(const void *data, size_t bytes, bool initialised)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    memory_register(data, bytes, initialised);
}

void harness_unregister(const void *data)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    memory_unregister(data);
}

bool harness_is_written(const void *data, size_t bytes)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    harness_drain();
    return memory_is(data, bytes, MEMORY_LIVE | MEMORY_WRITTEN);
}
