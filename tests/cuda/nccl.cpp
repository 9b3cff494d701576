/*
 * NCCL's stand-in. Ranks are threads, each with a device of the played runtime, that meet by an id.
 * A gather is work of the rank's stream: when its turn comes it brings the rank's part, and it ends
 * when all ranks have brought theirs. Until then its stream stands still, and whoever asks about it
 * hears that it is not ready; a rank that never comes is waited for without end.
 *
 * What takes the real library time to prepare does so here, too: joining, and the first gather of
 * each size, which waits until every rank has called it; the work is queued when the caller asks
 * after that. Stricter than the real library: a communicator that blocks, a call while another one
 * is in progress, gathers whose ranks differ in size or type, memory of a pool (in one process
 * other devices cannot read it) or of another device, and what is destroyed without having been
 * finalised are faults; and so are gathers that some ranks have captured and others have not, or
 * that stood elsewhere in their captures.
 */
#include "nccl.h"

#include "inside.h"
#include "memory.h"

#include <memory>
#include <set>
#include <vector>

namespace {

enum { QUESTIONS = 2 }; /* that are answered with "in progress" before a call can be done */

struct member;

/* What ranks bring to one gather. */
struct round {
    struct part {
        bool here;
        size_t count;
        ncclDataType_t type;
        size_t place;
        std::vector<uint8_t> bytes;
    };
    std::vector<part> parts;
    size_t n_taken;
    bool told; /* that they do not fit */
};

struct world {
    std::string id;
    std::vector<std::shared_ptr<member>> members; /* by rank; NULL: has not come */
    std::vector<round> rounds;
    std::set<size_t> met; /* sizes whose first gather all ranks have called */
};

struct member {
    world *all;
    int rank, device;
    bool joined, aborted, finalizing, finalized;
    ncclResult_t error;
    int questions;
    /* the call in progress: the first gather of its size */
    harness_work pending;
    cudaStream_t pending_stream;
    size_t pending_bytes;
    std::set<size_t> called; /* sizes of gathers */
    size_t n_begun;          /* gathers, by the device */
    size_t capture, n_captured; /* the last capture with gathers, and how many those were */
    size_t n_ended;
};

std::vector<std::unique_ptr<world>> worlds; /* all that were, until a reset */
std::set<std::string> ids;

} // namespace

struct ncclComm {
    std::shared_ptr<member> self;
};

static std::set<ncclComm_t> communicators;

namespace {

typedef std::lock_guard<std::recursive_mutex> guard;

/* What makes the call fail before it does anything. */
ncclResult_t begin(const char *name)
{
    cudaError_t error = cudaSuccess;
    if (harness_call_fails(name, &error))
        return error == cudaErrorMemoryAllocation ? ncclSystemError : ncclUnhandledCudaError;
    return harness_lost() ? ncclUnhandledCudaError : ncclSuccess;
}

ncclResult_t refuse(ncclResult_t result, const char *name, const char *what)
{
    harness_report(HARNESS_CALL, "%s: %s", name, what);
    return result;
}

bool is_alive(ncclComm_t communicator)
{
    return communicators.count(communicator) > 0;
}

bool is_complete(const world &all)
{
    for (const std::shared_ptr<member> &one : all.members)
        if (!one)
            return false;
    return true;
}

/* One device cannot be two ranks. */
bool has_twins(const world &all)
{
    std::set<int> devices;
    for (const std::shared_ptr<member> &one : all.members)
        if (!devices.insert(one->device).second)
            return true;
    return false;
}

/* Who meets others of that id. A rank that has come already, or expects another number of them,
 * stands in a world of its own, which is never complete. */
world *find_world(const std::string &id, int n_ranks, int rank)
{
    bool known = false;
    for (const std::unique_ptr<world> &all : worlds) {
        known = known || all->id == id;
        if (all->id == id && all->members.size() == (size_t)n_ranks
            && !all->members[(size_t)rank])
            return all.get();
    }
    worlds.push_back(std::make_unique<world>());
    worlds.back()->id = known ? "" : id;
    worlds.back()->members.resize((size_t)n_ranks);
    return worlds.back().get();
}

bool all_have(const world &all, bool (*has)(const member &, size_t), size_t value)
{
    for (const std::shared_ptr<member> &one : all.members)
        if (!one || !has(*one, value))
            return false;
    return true;
}

/* ------------------------------------------------------------------ gathers */

struct gather {
    std::shared_ptr<member> self;
    const uint8_t *from;
    uint8_t *to;
    size_t count;
    ncclDataType_t type;
    size_t place; /* among those of one capture; 0: it was not captured */
    bool begun;
    size_t index;
};

size_t size_of(ncclDataType_t type)
{
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return (size_t)type < sizeof sizes / sizeof *sizes ? sizes[type] : 0;
}

void bring(gather &g)
{
    std::vector<round> &rounds = g.self->all->rounds;
    size_t bytes = g.count * size_of(g.type);
    g.begun = true;
    g.index = g.self->n_begun++;
    if (rounds.size() <= g.index)
        rounds.resize(g.index + 1);
    rounds[g.index].parts.resize(g.self->all->members.size());
    round::part &part = rounds[g.index].parts[(size_t)g.self->rank];
    part = {true, g.count, g.type, g.place, {}};
    if (!memory_is(g.from, bytes, MEMORY_WRITTEN))
        harness_report(HARNESS_GLOBAL_UNINITIALISED,
                       "ncclAllGather: sends bytes that nobody wrote: %s",
                       memory_describe(g.from).c_str());
    struct memory_region *region = memory_find(g.from);
    const uint8_t *data = region->bytes + (reinterpret_cast<uintptr_t>(g.from) - region->begin);
    part.bytes.assign(data, data + bytes);
    if (memory_counts)
        memory_count_load(region, reinterpret_cast<uintptr_t>(g.from) - region->begin, bytes);
}

/* Ranks that do not fit never end their gather. */
bool fits(round &r, const world &all)
{
    for (const round::part &part : r.parts) {
        bool same = part.count == r.parts[0].count && part.type == r.parts[0].type;
        if (same && part.place == r.parts[0].place)
            continue;
        if (!r.told && same)
            harness_report(HARNESS_CALL, "ncclAllGather: number %zu of a capture, and %zu of one "
                           "(0: of none)", r.parts[0].place, part.place);
        else if (!r.told)
            harness_report(HARNESS_CALL,
                           "ncclAllGather: ranks differ: %zu elements of type %d, and %zu of %d",
                           r.parts[0].count, (int)r.parts[0].type, part.count, (int)part.type);
        r.told = true;
        for (const std::shared_ptr<member> &one : all.members)
            one->error = ncclInvalidUsage;
        return false;
    }
    return true;
}

void take(const gather &g, round &r)
{
    size_t bytes = g.count * size_of(g.type);
    for (size_t i = 0; i < r.parts.size(); i++) {
        struct memory_region *region = memory_find(g.to);
        size_t offset = reinterpret_cast<uintptr_t>(g.to) - region->begin + i * bytes;
        memcpy(region->bytes + offset, r.parts[i].bytes.data(), bytes);
        memset(region->state + offset, MEMORY_LIVE | MEMORY_WRITTEN, bytes);
        if (memory_counts)
            memory_count_store(region, offset, bytes);
    }
    if (++r.n_taken == r.parts.size())
        for (round::part &part : r.parts)
            std::vector<uint8_t>().swap(part.bytes);
}

bool perform(gather &g)
{
    world *all = g.self->all;
    size_t bytes = g.count * size_of(g.type);
    if (g.self->aborted)
        return true;
    if (!memory_is(g.from, bytes, MEMORY_LIVE)
        || !memory_is(g.to, all->members.size() * bytes, MEMORY_LIVE)) {
        harness_report(HARNESS_CALL, "ncclAllGather: %s", memory_describe(g.to).c_str());
        return true;
    }
    if (!g.begun)
        bring(g);
    round &r = all->rounds[g.index];
    for (const round::part &part : r.parts)
        if (!part.here)
            return false;
    if (!fits(r, *all))
        return false;
    take(g, r);
    g.self->n_ended++;
    return true;
}

/* A gather's place among those of the capture; 0: there is none. */
size_t count_captured(member &self, size_t capture)
{
    if (capture == 0)
        return 0;
    self.n_captured = capture == self.capture ? self.n_captured + 1 : 1;
    self.capture = capture;
    return self.n_captured;
}

/* What is wrong with the buffers; NULL: nothing. */
const char *find_fault(const member &self, const uint8_t *from, const uint8_t *to, size_t bytes)
{
    size_t all = self.all->members.size() * bytes;
    if (!memory_is(from, bytes, MEMORY_LIVE) || !memory_is(to, all, MEMORY_LIVE))
        return "memory that is not the devices'";
    if (harness_block_device(from) != self.device || harness_block_device(to) != self.device)
        return "memory of a pool, or of another device";
    if (from < to + all && to < from + bytes && from != to + (size_t)self.rank * bytes)
        return "sends a part of where it gathers that is not the rank's own";
    return nullptr;
}

/* The call in progress, if it can be done now, is. */
void go_on(member &self)
{
    if (self.error || ++self.questions < QUESTIONS)
        return;
    if (!self.joined) {
        if (!is_complete(*self.all))
            return;
        if (has_twins(*self.all))
            self.error = ncclInvalidUsage;
        self.joined = true;
    } else if (self.pending) {
        if (!all_have(*self.all,
                      [](const member &one, size_t bytes) { return one.called.count(bytes) > 0; },
                      self.pending_bytes))
            return;
        self.all->met.insert(self.pending_bytes);
        harness_queue_work(self.pending_stream, self.pending);
        self.pending = nullptr;
    } else if (self.finalizing && !self.finalized) {
        harness_go_on();
        self.finalized =
            self.n_ended >= self.n_begun
            && all_have(*self.all, [](const member &one, size_t) { return one.finalizing; }, 0);
    }
}

bool is_in_progress(const member &self)
{
    return !self.joined || self.pending || (self.finalizing && !self.finalized);
}

void forget(ncclComm_t communicator)
{
    communicators.erase(communicator);
    communicator->self->pending = nullptr;
    delete communicator;
}

} // namespace

size_t harness_live_communicators()
{
    return communicators.size();
}

void harness_forget_communicators()
{
    while (!communicators.empty())
        forget(*communicators.begin());
    worlds.clear();
    ids.clear();
}

void harness_break_communicators(ncclResult_t error)
{
    guard lock(harness_mutex);
    for (ncclComm_t communicator : communicators)
        communicator->self->error = error;
}

/* ------------------------------------------------------------------- calls */

ncclResult_t ncclGetVersion(int *version)
{
    guard lock(harness_mutex);
    *version = NCCL_VERSION_CODE;
    return begin("ncclGetVersion");
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static unsigned n_ids;
    guard lock(harness_mutex);
    ncclResult_t result = begin("ncclGetUniqueId");
    if (result)
        return result;
    memset(id->internal, 0x5a, sizeof id->internal);
    snprintf(id->internal, sizeof id->internal, "meeting %u", ++n_ids);
    ids.insert(std::string(id->internal, sizeof id->internal));
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *communicator, int n_ranks, ncclUniqueId id,
                                    int rank, ncclConfig_t *config)
{
    const char *name = "ncclCommInitRankConfig";
    guard lock(harness_mutex);
    ncclResult_t result = begin(name);
    std::string words(id.internal, sizeof id.internal);
    *communicator = nullptr;
    if (result)
        return result;
    if (!config || config->magic != 0xcafebeef || config->size != sizeof *config)
        return refuse(ncclInvalidArgument, name, "a configuration that was not initialised");
    if (config->blocking != 0)
        return refuse(ncclInvalidUsage, name, "a communicator that blocks");
    if (n_ranks < 1 || rank < 0 || rank >= n_ranks)
        return refuse(ncclInvalidArgument, name, "a rank that the world does not have");
    if (ids.count(words) == 0) /* an address at which nobody answers */
        return ncclSystemError;
    std::shared_ptr<member> self = std::make_shared<member>();
    self->rank = rank;
    cudaGetDevice(&self->device);
    self->all = find_world(words, n_ranks, rank);
    self->all->members[(size_t)rank] = self;
    *communicator = new ncclComm{self};
    communicators.insert(*communicator);
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t *error)
{
    const char *name = "ncclCommGetAsyncError";
    guard lock(harness_mutex);
    ncclResult_t result = begin(name);
    *error = ncclInternalError;
    if (result)
        return result;
    if (!is_alive(communicator))
        return refuse(ncclInvalidArgument, name, "no such communicator");
    member &self = *communicator->self;
    if (is_in_progress(self))
        go_on(self);
    *error = self.error ? self.error : is_in_progress(self) ? ncclInProgress : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclComm_t communicator, cudaStream_t stream)
{
    const char *name = "ncclAllGather";
    guard lock(harness_mutex);
    ncclResult_t result = begin(name);
    if (result)
        return result;
    if (!is_alive(communicator))
        return refuse(ncclInvalidArgument, name, "no such communicator");
    std::shared_ptr<member> self = communicator->self;
    if (self->error)
        return self->error;
    if (is_in_progress(*self) || self->finalizing)
        return refuse(ncclInvalidUsage, name, "another call is in progress, or was the last one");
    if (!harness_is_stream(stream) || harness_stream_device(stream) != self->device)
        return refuse(ncclInvalidUsage, name, "no stream of the communicator's device");
    size_t bytes = count * size_of(type);
    size_t place = count_captured(*self, harness_capture_number(stream));
    gather g = {self, static_cast<const uint8_t *>(from), static_cast<uint8_t *>(to), count, type,
                place, false, 0};
    const char *fault = bytes == 0 ? "of nothing" : find_fault(*self, g.from, g.to, bytes);
    if (fault)
        return refuse(ncclInvalidArgument, name, fault);
    self->called.insert(bytes);
    harness_work work = [g]() mutable { return perform(g); };
    if (self->all->met.count(bytes) > 0) {
        harness_queue_work(stream, work);
        return ncclSuccess;
    }
    self->pending = work;
    self->pending_stream = stream;
    self->pending_bytes = bytes;
    self->questions = 0;
    return ncclInProgress;
}

ncclResult_t ncclCommFinalize(ncclComm_t communicator)
{
    const char *name = "ncclCommFinalize";
    guard lock(harness_mutex);
    ncclResult_t result = begin(name);
    if (result)
        return result;
    if (!is_alive(communicator))
        return refuse(ncclInvalidArgument, name, "no such communicator");
    member &self = *communicator->self;
    if (is_in_progress(self) || self.finalizing)
        return refuse(ncclInvalidUsage, name, "another call is in progress, or it was finalised");
    self.finalizing = true;
    self.questions = 0;
    return ncclInProgress;
}

/* What releases does so although it fails: nobody calls it again. */
ncclResult_t ncclCommDestroy(ncclComm_t communicator)
{
    const char *name = "ncclCommDestroy";
    guard lock(harness_mutex);
    ncclResult_t result = begin(name);
    if (!is_alive(communicator))
        return refuse(ncclInvalidArgument, name, "no such communicator");
    if (!communicator->self->finalized)
        harness_report(HARNESS_CALL, "%s: not finalised", name);
    forget(communicator);
    return result;
}

ncclResult_t ncclCommAbort(ncclComm_t communicator)
{
    const char *name = "ncclCommAbort";
    guard lock(harness_mutex);
    ncclResult_t result = begin(name);
    if (!is_alive(communicator))
        return refuse(ncclInvalidArgument, name, "no such communicator");
    communicator->self->aborted = true;
    forget(communicator);
    return result;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "operation in progress"};
    return (size_t)result < sizeof texts / sizeof *texts ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t communicator)
{
    (void)communicator;
    return "";
}

/* ------------------------------------------------------------- the library */

void *harness_open_nccl()
{
    static char library;
    guard lock(harness_mutex);
    cudaError_t error;
    return harness_call_fails("dlopen", &error) ? nullptr : &library;
}

void *harness_find_nccl(void *library, const char *name)
{
    static const struct {
        const char *name;
        void *function;
    } functions[] = {
        {"ncclGetVersion", reinterpret_cast<void *>(ncclGetVersion)},
        {"ncclGetUniqueId", reinterpret_cast<void *>(ncclGetUniqueId)},
        {"ncclCommInitRankConfig", reinterpret_cast<void *>(ncclCommInitRankConfig)},
        {"ncclCommFinalize", reinterpret_cast<void *>(ncclCommFinalize)},
        {"ncclCommDestroy", reinterpret_cast<void *>(ncclCommDestroy)},
        {"ncclCommAbort", reinterpret_cast<void *>(ncclCommAbort)},
        {"ncclCommGetAsyncError", reinterpret_cast<void *>(ncclCommGetAsyncError)},
        {"ncclGetErrorString", reinterpret_cast<void *>(ncclGetErrorString)},
        {"ncclGetLastError", reinterpret_cast<void *>(ncclGetLastError)},
        {"ncclAllGather", reinterpret_cast<void *>(ncclAllGather)},
    };
    (void)library;
    for (const auto &entry : functions)
        if (strcmp(entry.name, name) == 0)
            return entry.function;
    return nullptr;
}
