/*
 * The runtime's stand-in. Work on a stream is queued and done as late as it may be: at the next
 * call that waits, so that a staging buffer which is filled anew too early, or a result that is
 * read too early, shows as wrong data. Work on the null stream is done at once, after all that is
 * queued.
 */
#include "inside.h"

#include "memory.h"

#include <stdlib.h>

#include <deque>
#include <map>
#include <set>
#include <vector>

struct harness_stream {
    std::deque<std::function<void()>> queue;
    uint64_t queued, done;
};

struct harness_event {
    cudaStream_t stream;
    uint64_t ticket; /* how many works of the stream stand before it */
};

namespace {

enum { SHARED_WITHOUT_ASKING = 48 * 1024, MAX_THREADS = 1024, WARP = 32 };

struct injected {
    std::string call;
    unsigned countdown;
    cudaError_t error;
};

struct device_block {
    size_t bytes;
    int device;
};

struct harness_device_config config = harness_default_device();
std::set<cudaStream_t> streams;
std::set<cudaEvent_t> events;
std::map<const void *, device_block> blocks;
std::map<uintptr_t, size_t> pinned;
std::map<const void *, size_t> shared_limits;
std::vector<size_t> used;
std::vector<injected> injections;
std::map<std::string, size_t> call_counts;
unsigned kernels_until_lost;
cudaError_t error_when_lost, lost;

thread_local cudaError_t last_error;
thread_local int current_device;

/* Every call of the runtime begins with one of these: it takes the lock and finds what fails. */
class call {
public:
    explicit call(const char *name_) : error(cudaSuccess), name(name_), lock(harness_mutex)
    {
        error = harness_begin_call(name);
    }
    /* A call that a thread may not make that captures a stream. */
    call(const char *name_, cudaStream_t captured) : call(name_)
    {
        if (!error && harness_spoil_capture(captured, name))
            error = cudaErrorStreamCaptureUnsupported;
    }
    cudaError_t end(cudaError_t result) const
    {
        return harness_end_call(result);
    }
    cudaError_t end() const
    {
        return end(error ? error : lost);
    }
    /* A caller's mistake. */
    cudaError_t refuse(cudaError_t result, const char *what) const
    {
        harness_report(HARNESS_CALL, "%s: %s", name, what);
        return end(result);
    }
    cudaError_t error;

private:
    const char *name;
    std::lock_guard<std::recursive_mutex> lock;
};

} // namespace

cudaError_t harness_begin_call(const char *name)
{
    cudaError_t error = cudaSuccess;
    if (harness_call_fails(name, &error))
        return error;
    if (lost)
        return lost;
    if (config.driver_version < config.runtime_version / 1000 * 1000)
        return cudaErrorInsufficientDriver;
    return config.n_devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t harness_end_call(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

/* -------------------------------------------------------------- what tests set */

struct harness_device_config harness_default_device()
{
    struct harness_device_config c = {};
    c.n_devices = 1;
    c.driver_version = c.runtime_version = CUDART_VERSION;
    c.major = 8;
    c.minor = 0;
    c.memory = (size_t)4 << 30;
    c.shared_optin = 163 * 1024;
    c.n_multiprocessors = 4;
    c.l2_bytes = 4 << 20;
    return c;
}

void harness_configure(const struct harness_device_config *config_)
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    config = *config_;
}

void harness_fail_next(const char *name, unsigned nth, cudaError_t error)
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    injections.push_back({name, nth, error});
}

void harness_fail_no_more()
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    injections.clear();
}

bool harness_call_fails(const char *name, cudaError_t *error)
{
    bool fails = false;
    call_counts[name]++;
    for (injected &i : injections)
        if (i.countdown > 0 && i.call == name && --i.countdown == 0) {
            *error = i.error;
            fails = true;
        }
    return fails;
}

size_t harness_call_count(const char *name)
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    auto found = call_counts.find(name);
    return found == call_counts.end() ? 0 : found->second;
}

void harness_lose_device(unsigned nth, cudaError_t error)
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    kernels_until_lost = nth;
    error_when_lost = error;
}

cudaError_t harness_lost()
{
    return lost;
}

size_t harness_live_count()
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    harness_drain();
    return blocks.size() + pinned.size() + streams.size() + events.size() +
           harness_live_handles() + harness_live_graphs();
}

void harness_reset()
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    for (cudaStream_t stream : streams)
        delete stream;
    for (cudaEvent_t event : events)
        delete event;
    for (const auto &entry : pinned)
        free(reinterpret_cast<void *>(entry.first));
    streams.clear();
    events.clear();
    pinned.clear();
    blocks.clear();
    used.clear();
    shared_limits.clear();
    injections.clear();
    kernels_until_lost = 0;
    call_counts.clear();
    harness_forget_handles();
    harness_forget_graphs();
    lost = last_error = cudaSuccess;
    current_device = 0;
    config = harness_default_device();
    memory_reset();
    harness_forget_faults();
    harness_forget_launches();
}

/* ------------------------------------------------------------------ queues */

static void drain_until(cudaStream_t stream, uint64_t ticket)
{
    while (stream->done < ticket && !stream->queue.empty()) {
        std::function<void()> work = std::move(stream->queue.front());
        stream->queue.pop_front();
        stream->done++;
        if (!lost)
            work();
    }
}

void harness_drain()
{
    for (cudaStream_t stream : streams)
        drain_until(stream, stream->queued);
}

static bool is_null_stream(cudaStream_t stream)
{
    return stream == nullptr || stream == cudaStreamLegacy;
}

bool harness_is_stream(cudaStream_t stream)
{
    return is_null_stream(stream) || streams.count(stream) > 0;
}

void harness_queue(cudaStream_t stream, std::function<void()> work)
{
    if (is_null_stream(stream)) {
        harness_drain();
        if (!lost)
            work();
        return;
    }
    if (harness_capture(stream, work))
        return;
    stream->queue.push_back(std::move(work));
    stream->queued++;
}

static void drain_stream(cudaStream_t stream)
{
    if (is_null_stream(stream))
        harness_drain();
    else
        drain_until(stream, stream->queued);
}

/* ----------------------------------------------------------------- devices */

cudaError_t cudaGetDeviceCount(int *count)
{
    call c("cudaGetDeviceCount");
    *count = c.error ? 0 : config.n_devices;
    return c.end();
}

cudaError_t cudaSetDevice(int device)
{
    call c("cudaSetDevice");
    if (c.error)
        return c.end();
    if (device < 0 || device >= config.n_devices)
        return c.end(cudaErrorInvalidDevice);
    current_device = device;
    return c.end();
}

cudaError_t cudaGetDevice(int *device)
{
    call c("cudaGetDevice");
    *device = current_device;
    return c.end();
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    call c("cudaGetDeviceProperties");
    if (c.error)
        return c.end();
    if (device < 0 || device >= config.n_devices)
        return c.end(cudaErrorInvalidDevice);
    struct cudaDeviceProp p = {};
    strcpy(p.name, "test harness");
    p.totalGlobalMem = config.memory;
    p.sharedMemPerBlock = SHARED_WITHOUT_ASKING;
    p.sharedMemPerBlockOptin = config.shared_optin;
    p.sharedMemPerMultiprocessor = config.shared_optin + 1024;
    p.regsPerBlock = 65536;
    p.warpSize = WARP;
    p.maxThreadsPerBlock = MAX_THREADS;
    p.maxGridSize[0] = 0x7fffffff;
    p.maxGridSize[1] = p.maxGridSize[2] = 65535;
    p.major = config.major;
    p.minor = config.minor;
    p.multiProcessorCount = config.n_multiprocessors;
    p.l2CacheSize = config.l2_bytes;
    *properties = p;
    return c.end();
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    call c("cudaDeviceGetAttribute");
    if (c.error)
        return c.end();
    if (device < 0 || device >= config.n_devices)
        return c.end(cudaErrorInvalidDevice);
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = MAX_THREADS;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = SHARED_WITHOUT_ASKING;
        break;
    case cudaDevAttrWarpSize:
        *value = WARP;
        break;
    case cudaDevAttrMaxPitch:
        *value = 0x7fffffff;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = config.n_multiprocessors;
        break;
    case cudaDevAttrL2CacheSize:
        *value = config.l2_bytes;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = config.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = config.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)config.shared_optin;
        break;
    case cudaDevAttrMemoryPoolsSupported:
        *value = 1;
        break;
    default:
        return c.end(cudaErrorInvalidValue);
    }
    return c.end();
}

/* These two work without a driver, too. */
cudaError_t cudaDriverGetVersion(int *version)
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    cudaError_t error = cudaSuccess;
    *version = config.driver_version;
    harness_call_fails("cudaDriverGetVersion", &error);
    return error;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    cudaError_t error = cudaSuccess;
    *version = config.runtime_version;
    harness_call_fails("cudaRuntimeGetVersion", &error);
    return error;
}

cudaError_t cudaDeviceSynchronize(void)
{
    call c("cudaDeviceSynchronize", nullptr);
    if (!c.error)
        harness_drain();
    return c.end();
}

cudaError_t cudaDeviceReset(void)
{
    call c("cudaDeviceReset");
    return c.refuse(cudaErrorNotSupported, "takes other contexts' device away");
}

/* ------------------------------------------------------------------ errors */

cudaError_t cudaGetLastError(void)
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    cudaError_t error = lost ? lost : last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    return lost ? lost : last_error;
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} error_names[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "the driver is older than the runtime"},
    {cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable", "all devices are busy"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "there is no device"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image for this device"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error"},
    {cudaErrorUnsupportedPtxVersion, "cudaErrorUnsupportedPtxVersion", "unsupported PTX"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &e : error_names)
        if (e.error == error)
            return e.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &e : error_names)
        if (e.error == error)
            return e.text;
    return "unrecognized error code";
}

/* ------------------------------------------------------------------ memory */

static cudaError_t allocate(const call &c, void **data, size_t bytes)
{
    *data = nullptr;
    if (c.error || bytes == 0)
        return c.end();
    if (used.size() < (size_t)config.n_devices)
        used.resize((size_t)config.n_devices);
    size_t *mine = &used[(size_t)current_device];
    if (*mine > config.memory || bytes > config.memory - *mine)
        return c.end(cudaErrorMemoryAllocation);
    *data = memory_allocate(bytes);
    if (!*data)
        return c.end(cudaErrorMemoryAllocation);
    blocks[*data] = {bytes, current_device};
    *mine += bytes;
    return c.end();
}

static void release(void *data)
{
    auto found = blocks.find(data);
    size_t bytes;
    if (found == blocks.end() || !memory_release(data, &bytes)) {
        harness_report(HARNESS_CALL, "releases %s", memory_describe(data).c_str());
        return;
    }
    used[(size_t)found->second.device] -= bytes;
    blocks.erase(found);
}

cudaError_t cudaMalloc(void **data, size_t bytes)
{
    call c("cudaMalloc", nullptr);
    return allocate(c, data, bytes);
}

/* What releases does so although it fails: nobody calls it again. */
cudaError_t cudaFree(void *data)
{
    call c("cudaFree", nullptr);
    harness_drain();
    if (!data)
        return c.end();
    if (blocks.count(data) == 0)
        return c.refuse(cudaErrorInvalidValue, memory_describe(data).c_str());
    release(data);
    return c.end();
}

cudaError_t cudaMallocAsync(void **data, size_t bytes, cudaStream_t stream)
{
    call c("cudaMallocAsync", stream);
    if (!harness_is_stream(stream))
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream");
    return allocate(c, data, bytes);
}

cudaError_t cudaFreeAsync(void *data, cudaStream_t stream)
{
    call c("cudaFreeAsync", stream);
    if (!harness_is_stream(stream))
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream");
    if (!data)
        return c.end();
    if (blocks.count(data) == 0)
        return c.refuse(cudaErrorInvalidValue, memory_describe(data).c_str());
    if (lost)
        release(data);
    else
        harness_queue(stream, [data]() { release(data); });
    return c.end();
}

static cudaError_t allocate_pinned(const call &c, void **data, size_t bytes)
{
    *data = nullptr;
    if (c.error || bytes == 0)
        return c.end();
    *data = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*data)
        return c.end(cudaErrorMemoryAllocation);
    memset(*data, 0xa5, bytes);
    pinned[reinterpret_cast<uintptr_t>(*data)] = bytes;
    return c.end();
}

cudaError_t cudaMallocHost(void **data, size_t bytes)
{
    call c("cudaMallocHost", nullptr);
    return allocate_pinned(c, data, bytes);
}

cudaError_t cudaHostAlloc(void **data, size_t bytes, unsigned flags)
{
    call c("cudaHostAlloc", nullptr);
    (void)flags;
    return allocate_pinned(c, data, bytes);
}

cudaError_t cudaFreeHost(void *data)
{
    call c("cudaFreeHost", nullptr);
    harness_drain();
    if (!data)
        return c.end();
    if (pinned.erase(reinterpret_cast<uintptr_t>(data)) == 0)
        return c.refuse(cudaErrorInvalidValue, "no pinned memory begins there");
    free(data);
    return c.end();
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    call c("cudaMemGetInfo");
    if (c.error)
        return c.end();
    harness_drain();
    size_t mine = (size_t)current_device < used.size() ? used[(size_t)current_device] : 0;
    *total_bytes = config.memory;
    *free_bytes = mine < config.memory ? config.memory - mine : 0;
    return c.end();
}

/* ------------------------------------------------------------------ copies */

struct copy {
    char *to;
    size_t to_pitch;
    const char *from;
    size_t from_pitch, width, height;
    bool to_device, from_device;
};

static bool is_pinned(const void *data)
{
    uintptr_t p = reinterpret_cast<uintptr_t>(data);
    auto after = pinned.upper_bound(p);
    return after != pinned.begin() && p < std::prev(after)->first + std::prev(after)->second;
}

static uint8_t *bytes_of(const void *address, bool is_device, uint8_t **state)
{
    *state = nullptr;
    if (!is_device)
        return static_cast<uint8_t *>(const_cast<void *>(address));
    struct memory_region *region = memory_find(address);
    size_t offset = reinterpret_cast<uintptr_t>(address) - region->begin;
    *state = region->state + offset;
    return region->bytes + offset;
}

static bool copy_row_is_good(const char *to, const char *from, const struct copy &c)
{
    if (c.to_device && !memory_is(to, c.width, MEMORY_LIVE)) {
        harness_report(HARNESS_CALL, "copies %zu bytes to %s", c.width,
                       memory_describe(to).c_str());
        return false;
    }
    if (c.from_device && !memory_is(from, c.width, MEMORY_LIVE)) {
        harness_report(HARNESS_CALL, "copies %zu bytes from %s", c.width,
                       memory_describe(from).c_str());
        return false;
    }
    return true;
}

static void count(const void *address, size_t bytes, bool is_device,
                  void (*counter)(struct memory_region *, size_t, size_t))
{
    struct memory_region *region = memory_counts && is_device ? memory_find(address) : nullptr;
    if (region)
        counter(region, reinterpret_cast<uintptr_t>(address) - region->begin, bytes);
}

static bool perform(const struct copy &c)
{
    for (size_t i = 0; i < c.height && c.width > 0; i++) {
        char *to = c.to + i * c.to_pitch;
        const char *from = c.from + i * c.from_pitch;
        if (!copy_row_is_good(to, from, c))
            return false;
        uint8_t *to_state, *from_state;
        uint8_t *target = bytes_of(to, c.to_device, &to_state);
        const uint8_t *source = bytes_of(from, c.from_device, &from_state);
        if (c.to_device && c.from_device && target < source + c.width &&
            source < target + c.width)
            harness_report(HARNESS_CALL, "copies between overlapping rows of the device");
        if (c.from_device && !c.to_device && !memory_is(from, c.width, MEMORY_WRITTEN))
            harness_report(HARNESS_GLOBAL_UNINITIALISED,
                           "copies %zu bytes to the host that nobody wrote: %s", c.width,
                           memory_describe(from).c_str());
        memmove(target, source, c.width);
        count(from, c.width, c.from_device, memory_count_load);
        count(to, c.width, c.to_device, memory_count_store);
        if (to_state && from_state)
            memmove(to_state, from_state, c.width);
        else if (to_state)
            memset(to_state, MEMORY_LIVE | MEMORY_WRITTEN, c.width);
    }
    return true;
}

/* The source as it is now, for a copy that is done later. */
static void queue_snapshot(struct copy c, cudaStream_t stream)
{
    std::vector<char> rows(c.width * c.height);
    for (size_t i = 0; i < c.height; i++)
        memcpy(rows.data() + i * c.width, c.from + i * c.from_pitch, c.width);
    harness_queue(stream, [c, rows]() {
        struct copy late = c;
        late.from = rows.data();
        late.from_pitch = late.width;
        perform(late);
    });
}

/* Whether an address may stand on that side of a copy. What a test registered is both sides'. */
static bool fits(const void *address, bool device)
{
    return device ? memory_find(address) != nullptr : !memory_is_device(address);
}

static cudaError_t start_copy(const call &call, struct copy c, enum cudaMemcpyKind kind,
                              bool waits, cudaStream_t stream)
{
    if (call.error)
        return call.end();
    if (!harness_is_stream(stream))
        return call.refuse(cudaErrorInvalidResourceHandle, "no such stream");
    if (c.width == 0 || c.height == 0)
        return call.end();
    if (c.width > c.to_pitch || c.width > c.from_pitch)
        return call.end(cudaErrorInvalidPitchValue);
    c.to_device = kind == cudaMemcpyDefault ? memory_is_device(c.to)
                                            : kind == cudaMemcpyHostToDevice ||
                                                  kind == cudaMemcpyDeviceToDevice;
    c.from_device = kind == cudaMemcpyDefault ? memory_is_device(c.from)
                                              : kind == cudaMemcpyDeviceToHost ||
                                                    kind == cudaMemcpyDeviceToDevice;
    if (!fits(c.to, c.to_device) || !fits(c.from, c.from_device))
        return call.refuse(cudaErrorInvalidValue,
                           "an address that is not of the side that the direction says");
    bool late = (c.to_device || is_pinned(c.to)) && (c.from_device || is_pinned(c.from));
    if (!waits && !late && harness_spoil_capture(stream, "a copy of pageable memory"))
        return call.end(cudaErrorStreamCaptureUnsupported);
    if (waits || (!late && !c.to_device)) {
        drain_stream(waits ? nullptr : stream);
        if (!lost && !perform(c))
            return call.end(cudaErrorInvalidValue);
    } else if (!late) {
        queue_snapshot(c, stream);
    } else {
        harness_queue(stream, [c]() { perform(c); });
    }
    return call.end();
}

static struct copy make_copy(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                             size_t width, size_t height)
{
    return {static_cast<char *>(to), to_pitch, static_cast<const char *>(from), from_pitch, width,
            height, false, false};
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    call c("cudaMemcpy", nullptr);
    return start_copy(c, make_copy(to, bytes, from, bytes, bytes, 1), kind, true, nullptr);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    call c("cudaMemcpyAsync");
    return start_copy(c, make_copy(to, bytes, from, bytes, bytes, 1), kind, false, stream);
}

cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                         size_t width, size_t height, enum cudaMemcpyKind kind)
{
    call c("cudaMemcpy2D", nullptr);
    return start_copy(c, make_copy(to, to_pitch, from, from_pitch, width, height), kind, true,
                      nullptr);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    call c("cudaMemcpy2DAsync");
    return start_copy(c, make_copy(to, to_pitch, from, from_pitch, width, height), kind, false,
                      stream);
}

static cudaError_t start_fill(const call &c, void *data, int byte, size_t bytes,
                              cudaStream_t stream)
{
    if (c.error || bytes == 0)
        return c.end();
    if (!harness_is_stream(stream))
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream");
    if (!memory_is(data, bytes, MEMORY_LIVE))
        return c.refuse(cudaErrorInvalidValue, memory_describe(data).c_str());
    harness_queue(stream, [data, byte, bytes]() {
        if (!memory_is(data, bytes, MEMORY_LIVE)) {
            harness_report(HARNESS_CALL, "fills %s", memory_describe(data).c_str());
            return;
        }
        uint8_t *state, *target = bytes_of(data, true, &state);
        memset(target, byte, bytes);
        memset(state, MEMORY_LIVE | MEMORY_WRITTEN, bytes);
        count(data, bytes, true, memory_count_store);
    });
    return c.end();
}

cudaError_t cudaMemset(void *data, int byte, size_t bytes)
{
    call c("cudaMemset", nullptr);
    return start_fill(c, data, byte, bytes, nullptr);
}

cudaError_t cudaMemsetAsync(void *data, int byte, size_t bytes, cudaStream_t stream)
{
    call c("cudaMemsetAsync");
    return start_fill(c, data, byte, bytes, stream);
}

/* ------------------------------------------------------- streams and events */

/* A new stream or event among those that are alive. */
template <typename T> static cudaError_t create(const call &c, std::set<T *> &alive, T **handle)
{
    *handle = nullptr;
    if (c.error)
        return c.end();
    *handle = new T();
    alive.insert(*handle);
    return c.end();
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    call c("cudaStreamCreate");
    return create(c, streams, stream);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    call c("cudaStreamCreateWithFlags");
    (void)flags;
    return create(c, streams, stream);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    call c("cudaStreamDestroy", stream);
    if (is_null_stream(stream) || !harness_is_stream(stream))
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream");
    drain_stream(stream);
    streams.erase(stream);
    for (cudaEvent_t event : events)
        if (event->stream == stream)
            event->stream = nullptr;
    delete stream;
    return c.end();
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    call c("cudaStreamSynchronize", stream);
    if (c.error)
        return c.end();
    if (!harness_is_stream(stream))
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream");
    drain_stream(stream);
    return c.end();
}

/* One piece of work is done at a time, so that who asks again and again sees the end. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    call c("cudaStreamQuery", stream);
    if (c.error || is_null_stream(stream))
        return c.end();
    if (!harness_is_stream(stream))
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream");
    drain_until(stream, stream->done + 1);
    if (!lost && stream->done < stream->queued)
        return cudaErrorNotReady;
    return c.end();
}

static void drain_event(cudaEvent_t event)
{
    if (event->stream)
        drain_until(event->stream, event->ticket);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    call c("cudaStreamWaitEvent", stream);
    (void)flags;
    if (c.error)
        return c.end();
    if (!harness_is_stream(stream) || events.count(event) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream or event");
    cudaStream_t other = event->stream;
    uint64_t ticket = event->ticket;
    if (other && other != stream)
        harness_queue(stream, [other, ticket]() {
            if (streams.count(other))
                drain_until(other, ticket);
        });
    return c.end();
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    call c("cudaEventCreate");
    return create(c, events, event);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    call c("cudaEventCreateWithFlags");
    (void)flags;
    return create(c, events, event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    call c("cudaEventDestroy");
    if (events.erase(event) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such event");
    delete event;
    return c.end();
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    call c("cudaEventRecord", stream);
    if (c.error)
        return c.end();
    if (!harness_is_stream(stream) || events.count(event) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream or event");
    event->stream = is_null_stream(stream) ? nullptr : stream;
    event->ticket = event->stream ? stream->queued : 0;
    if (!event->stream)
        harness_drain();
    return c.end();
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    call c("cudaEventSynchronize");
    if (c.error)
        return c.end();
    if (events.count(event) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such event");
    drain_event(event);
    return c.end();
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    call c("cudaEventQuery");
    if (c.error)
        return c.end();
    if (events.count(event) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such event");
    if (!event->stream)
        return c.end();
    if (event->stream->done < event->ticket)
        drain_until(event->stream, event->stream->done + 1);
    if (!lost && event->stream->done < event->ticket)
        return cudaErrorNotReady;
    return c.end();
}

/* Time is not played. */
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    call c("cudaEventElapsedTime");
    *milliseconds = 0.0f;
    if (c.error)
        return c.end();
    if (events.count(start) == 0 || events.count(end) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such event");
    return c.end();
}

/* ---------------------------------------------------------------- launches */

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
    call c("cudaFuncSetAttribute");
    if (c.error || attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return c.end();
    if (value < 0 || (size_t)value > config.shared_optin)
        return c.end(cudaErrorInvalidValue);
    shared_limits[function] = (size_t)value;
    return c.end();
}

/* The second argument of a call's words, without parentheses around it. */
static std::string kernel_name(const char *words)
{
    std::string name;
    int depth = 0, argument = 0;
    for (const char *s = words; *s && argument < 2; s++) {
        depth += strchr("([{", *s) || (argument == 1 && *s == '<');
        depth -= strchr(")]}", *s) || (argument == 1 && *s == '>');
        if (*s == ',' && depth == 0)
            argument++;
        else if (argument == 1)
            name += *s;
    }
    size_t begin = name.find_first_not_of(" (&"), end = name.find_last_not_of(" )");
    return begin == std::string::npos ? name : name.substr(begin, end - begin + 1);
}

void harness_queue_launch(const char *words, const void *kernel, cudaStream_t stream, dim3 grid,
                          unsigned threads, size_t shared_bytes, std::function<void()> body)
{
    call c("cudaLaunchKernel");
    std::string name = kernel_name(words);
    if (c.error) {
        c.end();
        return;
    }
    if (!harness_is_stream(stream)) {
        c.refuse(cudaErrorInvalidResourceHandle, "no such stream");
        return;
    }
    auto limit = shared_limits.find(kernel);
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 ||
        grid.z > 65535 || threads == 0 || threads > MAX_THREADS) {
        c.end(cudaErrorInvalidConfiguration);
        return;
    }
    if (shared_bytes > SHARED_WITHOUT_ASKING &&
        (limit == shared_limits.end() || shared_bytes > limit->second)) {
        c.end(cudaErrorInvalidValue);
        return;
    }
    if (threads % WARP != 0) {
        harness_report(HARNESS_LAUNCH, "kernel %s is launched with %u threads, no multiple of 32",
                       name.c_str(), threads);
        return;
    }
    harness_queue(stream, [name, grid, threads, shared_bytes, body]() {
        if (kernels_until_lost > 0 && --kernels_until_lost == 0) {
            lost = error_when_lost;
            return;
        }
        harness_run_kernel(name.c_str(), grid, threads, shared_bytes, body);
    });
    c.end();
}
