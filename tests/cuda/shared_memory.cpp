/* A block's shared memory: bounds, races byte by byte, what nobody wrote, asynchronous copies. */
#include "running.h"

#include <algorithm>
#include <deque>

namespace {

enum { MAX_SHARED = 256 * 1024 };

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

enum { WORD_BYTES = 4 };

std::deque<struct pending_copy> copies_of[MAX_THREADS]; /* not waited for */
size_t n_groups[MAX_THREADS];                           /* of copies, so far */
unsigned char contents[MAX_SHARED];
/* A word's bytes have stamps of their own once a part of it was accessed alone; few are. */
struct shared_stamps word_stamps[MAX_SHARED / WORD_BYTES];
struct shared_stamps byte_stamps[MAX_SHARED];
bool is_split[MAX_SHARED / WORD_BYTES + 1];

void split_words(size_t begin, size_t end)
{
    for (size_t word = begin / WORD_BYTES; word * WORD_BYTES < end; word++) {
        if (!is_split[word])
            std::fill_n(byte_stamps + word * WORD_BYTES, WORD_BYTES, word_stamps[word]);
        is_split[word] = true;
    }
}

/* Calls visit with each set of stamps of an element. */
template <typename Visit> void visit_stamps(size_t begin, unsigned size, Visit visit)
{
    if (size % WORD_BYTES != 0 || begin % WORD_BYTES != 0)
        split_words(begin, begin + size);
    for (size_t i = begin; i < begin + size;) {
        bool split = is_split[i / WORD_BYTES];
        visit(split ? &byte_stamps[i] : &word_stamps[i / WORD_BYTES]);
        i += split ? 1 : WORD_BYTES;
    }
}

} // namespace

void shared_memory_begin()
{
    memset(contents, 0xff, running.shared_bytes);
    memset(is_split, 0, running.shared_bytes / WORD_BYTES + 1);
    for (unsigned i = 0; i < running.threads; i++) {
        copies_of[i].clear();
        n_groups[i] = 0;
    }
}

static stamp my_stamp()
{
    unsigned thread = harness_now.thread;
    uint64_t warp_epoch = running.warp_epochs[thread / WARP] & ((1u << STAMP_WARP_BITS) - 1);
    return (running.epoch << STAMP_WARP_BITS | warp_epoch) << STAMP_THREAD_BITS | thread;
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

/* Whether shared memory has so many elements from `base`. It is asked for every access: divisions
 * would take longer than all else. */
static bool reaches(size_t base, size_t count, size_t size)
{
    return base <= MAX_SHARED && count <= MAX_SHARED && base + count * size <= running.shared_bytes;
}

void harness_shared_array(size_t bytes, size_t count, size_t size)
{
    if ((unsigned)bytes % (unsigned)size != 0)
        harness_report(HARNESS_ALIGNMENT,
                       "an array of elements of %zu bytes begins %zu bytes into shared memory",
                       size, bytes);
    if (!reaches(bytes, count, size))
        harness_report(HARNESS_SHARED_BOUNDS,
                       "an array of %zu elements of %zu bytes, %zu bytes into shared memory: "
                       "the launch asked for %zu bytes",
                       count, size, bytes, running.shared_bytes);
}

static bool is_in_shared(size_t base, size_t count, size_t i, unsigned size, const char *what)
{
    if (i < count && reaches(base, i + 1, size))
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
    visit_stamps(begin, size, [&](struct shared_stamps *s) {
        written = written && stamp_epoch(s->writer) >= running.first_epoch;
        if (is_unordered(s->writer, mine))
            race = s->writer;
        else if (stamp adder = unordered_of(s->adder, s->other_adder, mine))
            race = adder;
        note(&s->reader, &s->other_reader, mine);
    });
    if (!written)
        harness_report(HARNESS_SHARED_UNINITIALISED,
                       "reads element %zu of the shared array %zu bytes in, which nobody wrote", i,
                       base);
    if (race)
        harness_report(HARNESS_SHARED_RACE,
                       "reads element %zu of the shared array %zu bytes in, which thread %u wrote "
                       "with no barrier between",
                       i, base, stamp_thread(race));
    copy_element(value, contents + begin, size);
}

void harness_shared_store(size_t base, size_t count, size_t i, const void *value, unsigned size)
{
    if (!is_in_shared(base, count, i, size, "writes"))
        return;
    size_t begin = base + i * size;
    stamp mine = my_stamp(), writer = 0, reader = 0;
    visit_stamps(begin, size, [&](struct shared_stamps *s) {
        if (is_unordered(s->writer, mine))
            writer = s->writer;
        else if (stamp adder = unordered_of(s->adder, s->other_adder, mine))
            writer = adder;
        if (stamp found = unordered_of(s->reader, s->other_reader, mine))
            reader = found;
        s->writer = mine;
    });
    if (writer || reader)
        harness_report(HARNESS_SHARED_RACE,
                       "writes element %zu of the shared array %zu bytes in, which thread %u %s "
                       "with no barrier between",
                       i, base, stamp_thread(writer ? writer : reader),
                       writer ? "wrote" : "read");
    copy_element(contents + begin, value, size);
}

/* size is 4 or 8. Additions need no order among each other, but with other accesses. */
uint64_t harness_shared_add(size_t base, size_t count, size_t i, uint64_t value, unsigned size)
{
    if (!is_in_shared(base, count, i, size, "adds to"))
        return 0;
    size_t begin = base + i * size;
    stamp mine = my_stamp(), race = 0;
    bool written = true;
    visit_stamps(begin, size, [&](struct shared_stamps *s) {
        written = written && stamp_epoch(s->writer) >= running.first_epoch;
        if (is_unordered(s->writer, mine))
            race = s->writer;
        else if (stamp reader = unordered_of(s->reader, s->other_reader, mine))
            race = reader;
        note(&s->adder, &s->other_adder, mine);
    });
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
    memcpy(&before, contents + begin, size); /* on a little-endian machine */
    uint64_t sum = before + value;
    memcpy(contents + begin, &sum, size);
    return before;
}

/*
 * The hardware may write the bytes at any time until the thread waits for them. So the place is
 * written twice, with nothing when the copy begins and with the bytes at the end: who touches it at
 * either time without a barrier is found, and so is who reads it between.
 */
void harness_copy_async(size_t base, size_t count, size_t i, const void *from, bool valid)
{
    struct pending_copy copy = {n_groups[harness_now.thread], base, count, i, {}};
    if (valid)
        harness_global_load(from, copy.data, sizeof copy.data);
    if (!is_in_shared(base, count, i, sizeof copy.data, "copies to"))
        return;
    static const unsigned char nothing[16] = {255, 255, 255, 255, 255, 255, 255, 255,
                                              255, 255, 255, 255, 255, 255, 255, 255};
    harness_shared_store(base, count, i, nothing, sizeof nothing);
    visit_stamps(base + i * sizeof nothing, sizeof nothing,
                 [](struct shared_stamps *s) { s->writer = 0; });
    copies_of[harness_now.thread].push_back(copy);
}

void harness_group_copies()
{
    n_groups[harness_now.thread]++;
}

void harness_wait_copies(size_t groups)
{
    std::deque<struct pending_copy> &copies = copies_of[harness_now.thread];
    while (!copies.empty() && copies.front().group + groups < n_groups[harness_now.thread]) {
        const struct pending_copy copy = copies.front();
        copies.pop_front();
        harness_shared_store(copy.base, copy.count, copy.i, copy.data, sizeof copy.data);
    }
}
