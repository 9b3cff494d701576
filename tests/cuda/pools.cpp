/*
 * Memory pools. A pool holds bytes of its device, and gives them out: those that are taken back
 * stay with it until the host waits, when it keeps no more than its threshold, or until it is
 * trimmed. What another pool holds is missing, as the driver does not promise to bring it over.
 * Blocks fit into what is unused whatever their sizes: real pools map pages anew. Stricter than the
 * runtime: a pool is destroyed when nothing of it is in use, and properties that the stand-in does
 * not know are a fault.
 */
#include "inside.h"

#include <string.h>

#include <algorithm>
#include <map>
#include <set>

struct harness_pool {
    int device;
    uint64_t threshold;
    size_t held, used, most_held, most_used;
};

namespace {

std::set<cudaMemPool_t> pools;
std::map<int, harness_pool> default_pools;

cudaError_t refuse(const char *name, const char *what)
{
    harness_report(HARNESS_CALL, "%s: %s", name, what);
    return harness_end_call(cudaErrorInvalidValue);
}

void shrink(struct harness_pool &pool, uint64_t bytes_to_keep)
{
    size_t kept = (size_t)std::min<uint64_t>(pool.held, bytes_to_keep);
    pool.held = std::max(pool.used, kept);
}

} // namespace

size_t harness_pooled_bytes(int device)
{
    size_t bytes = default_pools[device].held;
    for (cudaMemPool_t pool : pools)
        bytes += pool->device == device ? pool->held : 0;
    return bytes;
}

cudaMemPool_t harness_default_pool(int device)
{
    default_pools[device].device = device;
    return &default_pools[device];
}

bool harness_is_pool(cudaMemPool_t pool, int device)
{
    return pool == &default_pools[device] || (pools.count(pool) > 0 && pool->device == device);
}

bool harness_take_from_pool(cudaMemPool_t pool, size_t bytes, size_t free_bytes)
{
    size_t unused = pool->held - pool->used, lacking = bytes > unused ? bytes - unused : 0;
    if (lacking > free_bytes)
        return false;
    pool->held += lacking;
    pool->used += bytes;
    pool->most_held = std::max(pool->most_held, pool->held);
    pool->most_used = std::max(pool->most_used, pool->used);
    return true;
}

void harness_give_to_pool(cudaMemPool_t pool, size_t bytes)
{
    pool->used -= bytes;
}

void harness_shrink_pools()
{
    for (auto &entry : default_pools)
        shrink(entry.second, entry.second.threshold);
    for (cudaMemPool_t pool : pools)
        shrink(*pool, pool->threshold);
}

size_t harness_live_pools()
{
    return pools.size();
}

void harness_forget_pools()
{
    for (cudaMemPool_t pool : pools)
        delete pool;
    pools.clear();
    default_pools.clear();
}

static bool is_known(const struct cudaMemPoolProps *properties)
{
    static const unsigned char zeros[sizeof properties->reserved] = {0};
    return properties->allocType == cudaMemAllocationTypePinned
           && properties->handleTypes == cudaMemHandleTypeNone
           && properties->location.type == cudaMemLocationTypeDevice
           && !properties->win32SecurityAttributes && properties->maxSize == 0
           && properties->usage == 0
           && memcmp(properties->reserved, zeros, sizeof zeros) == 0;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const struct cudaMemPoolProps *properties)
{
    const char *name = "cudaMemPoolCreate";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    int n_devices = 0;
    *pool = nullptr;
    if (error)
        return harness_end_call(error);
    cudaGetDeviceCount(&n_devices);
    if (!is_known(properties) || properties->location.id < 0
        || properties->location.id >= n_devices)
        return refuse(name, "properties of no device's memory");
    *pool = new harness_pool{properties->location.id, 0, 0, 0, 0, 0};
    pools.insert(*pool);
    return cudaSuccess;
}

/* What releases does so although it fails: nobody calls it again. */
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool)
{
    const char *name = "cudaMemPoolDestroy";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    if (pools.count(pool) == 0)
        return refuse(name, "no such pool");
    if (pool->used > 0)
        return refuse(name, "memory of the pool is in use, or its release still queued");
    pools.erase(pool);
    delete pool;
    return harness_end_call(error);
}

/* The pool's number that the attribute means; NULL if the stand-in has none. */
static size_t *number_of(cudaMemPool_t pool, enum cudaMemPoolAttr attribute)
{
    switch (attribute) {
    case cudaMemPoolAttrReservedMemCurrent:
        return &pool->held;
    case cudaMemPoolAttrReservedMemHigh:
        return &pool->most_held;
    case cudaMemPoolAttrUsedMemCurrent:
        return &pool->used;
    case cudaMemPoolAttrUsedMemHigh:
        return &pool->most_used;
    default:
        return nullptr;
    }
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute,
                                    void *value)
{
    const char *name = "cudaMemPoolSetAttribute";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    if (error)
        return harness_end_call(error);
    if (pools.count(pool) == 0 || attribute != cudaMemPoolAttrReleaseThreshold)
        return refuse(name, "no such pool, or another attribute than the threshold");
    memcpy(&pool->threshold, value, sizeof pool->threshold);
    return cudaSuccess;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute,
                                    void *value)
{
    const char *name = "cudaMemPoolGetAttribute";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    if (error)
        return harness_end_call(error);
    if (pools.count(pool) == 0
        || (attribute != cudaMemPoolAttrReleaseThreshold && !number_of(pool, attribute)))
        return refuse(name, "no such pool, or attribute");
    const size_t *number = number_of(pool, attribute);
    const uint64_t answer = number ? *number : pool->threshold;
    memcpy(value, &answer, sizeof answer);
    return cudaSuccess;
}

/* What is queued to be released is in use until the host has waited for that. */
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes_to_keep)
{
    const char *name = "cudaMemPoolTrimTo";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    if (error)
        return harness_end_call(error);
    if (pools.count(pool) == 0)
        return refuse(name, "no such pool");
    shrink(*pool, bytes_to_keep);
    return cudaSuccess;
}
