/*
 * The runtime's stand-in: what tests set, devices, errors and launches. Streams, memory and copies
 * have files of their own.
 */
#include "call.h"

#include "memory.h"

#include <stdlib.h>

#include <map>
#include <vector>

namespace {

enum { SHARED_WITHOUT_ASKING = 48 * 1024, MAX_THREADS = 1024, WARP = 32 };

struct injected {
    std::string call;
    unsigned countdown;
    cudaError_t error;
};

std::map<const void *, size_t> shared_limits;
std::vector<injected> injections;
std::map<std::string, size_t> call_counts;
unsigned kernels_until_lost;
cudaError_t error_when_lost, lost;

harness_thread_number last_error;

} // namespace

struct harness_device_config harness_config = harness_default_device();
harness_thread_number harness_current_device;

harness_thread_number::harness_thread_number()
{
    if (pthread_key_create(&key, NULL) != 0)
        abort();
}

harness_thread_number::~harness_thread_number()
{
    pthread_key_delete(key);
}

harness_thread_number::operator int() const
{
    return (int)reinterpret_cast<intptr_t>(pthread_getspecific(key));
}

harness_thread_number &harness_thread_number::operator=(int number)
{
    if (pthread_setspecific(key, reinterpret_cast<void *>((intptr_t)number)) != 0)
        abort();
    return *this;
}

cudaError_t harness_begin_call(const char *name)
{
    cudaError_t error = cudaSuccess;
    if (harness_call_fails(name, &error))
        return error;
    if (lost)
        return lost;
    if (harness_config.driver_version < harness_config.runtime_version / 1000 * 1000)
        return cudaErrorInsufficientDriver;
    return harness_config.n_devices == 0 ? cudaErrorNoDevice : cudaSuccess;
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
    const char *n_devices = getenv("HYMBA_HARNESS_DEVICES");
    c.n_devices = n_devices ? atoi(n_devices) : 1;
    c.driver_version = c.runtime_version = CUDART_VERSION;
    const char *capability = getenv("HYMBA_HARNESS_CAPABILITY"); /* "90" */
    c.major = (capability ? atoi(capability) : 80) / 10;
    c.minor = (capability ? atoi(capability) : 80) % 10;
    c.memory = (size_t)4 << 30;
    c.shared_optin = 163 * 1024;
    c.n_multiprocessors = 4;
    c.l2_bytes = 4 << 20;
    const char *streams = getenv("HYMBA_HARNESS_STREAMS");
    c.urgent_first = streams && strcmp(streams, "early") == 0;
    return c;
}

void harness_configure(const struct harness_device_config *config_)
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    harness_config = *config_;
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
    return harness_live_blocks() + harness_live_streams() + harness_live_handles() +
           harness_live_graphs() + harness_live_pools() + harness_live_communicators();
}

void harness_reset()
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    harness_forget_streams();
    harness_forget_blocks();
    shared_limits.clear();
    injections.clear();
    kernels_until_lost = 0;
    call_counts.clear();
    harness_forget_handles();
    harness_forget_communicators();
    harness_forget_graphs();
    harness_forget_pools();
    lost = cudaSuccess;
    last_error = cudaSuccess;
    harness_current_device = 0;
    harness_config = harness_default_device();
    memory_reset();
    harness_forget_faults();
    harness_forget_launches();
}

size_t harness_bytes_of_graph()
{
    return harness_config.graph_bytes;
}

/* ----------------------------------------------------------------- devices */

cudaError_t cudaGetDeviceCount(int *count)
{
    call c("cudaGetDeviceCount");
    *count = c.error ? 0 : harness_config.n_devices;
    return c.end();
}

cudaError_t cudaSetDevice(int device)
{
    call c("cudaSetDevice");
    if (c.error)
        return c.end();
    if (device < 0 || device >= harness_config.n_devices)
        return c.end(cudaErrorInvalidDevice);
    harness_current_device = device;
    return c.end();
}

cudaError_t cudaGetDevice(int *device)
{
    call c("cudaGetDevice");
    *device = harness_current_device;
    return c.end();
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    call c("cudaGetDeviceProperties");
    if (c.error)
        return c.end();
    if (device < 0 || device >= harness_config.n_devices)
        return c.end(cudaErrorInvalidDevice);
    struct cudaDeviceProp p = {};
    strcpy(p.name, "test harness");
    p.totalGlobalMem = harness_config.memory;
    p.sharedMemPerBlock = SHARED_WITHOUT_ASKING;
    p.sharedMemPerBlockOptin = harness_config.shared_optin;
    p.sharedMemPerMultiprocessor = harness_config.shared_optin + 1024;
    p.regsPerBlock = 65536;
    p.warpSize = WARP;
    p.maxThreadsPerBlock = MAX_THREADS;
    p.maxGridSize[0] = 0x7fffffff;
    p.maxGridSize[1] = p.maxGridSize[2] = 65535;
    p.major = harness_config.major;
    p.minor = harness_config.minor;
    p.multiProcessorCount = harness_config.n_multiprocessors;
    p.l2CacheSize = harness_config.l2_bytes;
    *properties = p;
    return c.end();
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    call c("cudaDeviceGetAttribute");
    if (c.error)
        return c.end();
    if (device < 0 || device >= harness_config.n_devices)
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
        *value = harness_config.n_multiprocessors;
        break;
    case cudaDevAttrL2CacheSize:
        *value = harness_config.l2_bytes;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = harness_config.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = harness_config.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)harness_config.shared_optin;
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
    *version = harness_config.driver_version;
    harness_call_fails("cudaDriverGetVersion", &error);
    return error;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    cudaError_t error = cudaSuccess;
    *version = harness_config.runtime_version;
    harness_call_fails("cudaRuntimeGetVersion", &error);
    return error;
}

cudaError_t cudaDeviceSynchronize(void)
{
    call c("cudaDeviceSynchronize", nullptr);
    if (c.error)
        return c.end();
    harness_drain_device();
    harness_shrink_pools();
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
    cudaError_t error = lost ? lost : (cudaError_t)(int)last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    std::lock_guard<std::recursive_mutex> guard(harness_mutex);
    return lost ? lost : (cudaError_t)(int)last_error;
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

/* ---------------------------------------------------------------- launches */

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
    call c("cudaFuncSetAttribute");
    if (c.error || attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return c.end();
    if (value < 0 || (size_t)value > harness_config.shared_optin)
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
    if (harness_stream_device(stream) != harness_current_device) {
        c.refuse(cudaErrorInvalidResourceHandle, "a stream of another device than the thread's");
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
