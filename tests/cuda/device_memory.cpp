/* The devices' memory and pinned memory of the host's: what is taken and given back. */
#include "call.h"

#include "memory.h"

#include <stdlib.h>

#include <map>
#include <vector>

namespace {

struct device_block {
    size_t bytes;
    int device;
    cudaMemPool_t pool; /* NULL: taken for itself */
};

std::map<const void *, device_block> blocks;
std::map<uintptr_t, size_t> pinned;
std::vector<size_t> used; /* by device; without what pools hold */

} // namespace

size_t harness_live_blocks()
{
    return blocks.size() + pinned.size();
}

void harness_forget_blocks()
{
    for (const auto &entry : pinned)
        free(reinterpret_cast<void *>(entry.first));
    pinned.clear();
    blocks.clear();
    used.clear();
}

int harness_block_device(const void *address)
{
    auto after = blocks.upper_bound(address);
    if (after == blocks.begin())
        return -1;
    const auto &block = *std::prev(after);
    bool within = static_cast<const char *>(address)
                  < static_cast<const char *>(block.first) + block.second.bytes;
    return within && !block.second.pool ? block.second.device : -1;
}

bool harness_is_pinned(const void *data)
{
    uintptr_t p = reinterpret_cast<uintptr_t>(data);
    auto after = pinned.upper_bound(p);
    return after != pinned.begin() && p < std::prev(after)->first + std::prev(after)->second;
}

size_t harness_free_bytes()
{
    if (used.size() < (size_t)harness_config.n_devices)
        used.resize((size_t)harness_config.n_devices);
    const int device = harness_current_device;
    size_t taken = used[(size_t)device] + harness_pooled_bytes(device)
                   + harness_graph_bytes(device);
    return taken < harness_config.memory ? harness_config.memory - taken : 0;
}

static cudaError_t allocate(const call &c, void **data, size_t bytes, cudaMemPool_t pool = nullptr)
{
    *data = nullptr;
    if (c.error || bytes == 0)
        return c.end();
    const size_t free_bytes = harness_free_bytes();
    if (!pool && bytes > free_bytes)
        return c.end(cudaErrorMemoryAllocation);
    if (pool && !harness_take_from_pool(pool, bytes, free_bytes))
        return c.end(cudaErrorMemoryAllocation);
    *data = memory_allocate(bytes);
    if (!*data && pool)
        harness_give_to_pool(pool, bytes);
    if (!*data)
        return c.end(cudaErrorMemoryAllocation);
    blocks[*data] = {bytes, harness_current_device, pool};
    used[(size_t)harness_current_device] += pool ? 0 : bytes;
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
    if (found->second.pool)
        harness_give_to_pool(found->second.pool, bytes);
    else
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
    harness_drain_device();
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
    return allocate(c, data, bytes, harness_default_pool(harness_current_device));
}

cudaError_t cudaMallocFromPoolAsync(void **data, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream)
{
    call c("cudaMallocFromPoolAsync", stream);
    if (!harness_is_stream(stream))
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream");
    if (!harness_is_pool(pool, harness_current_device))
        return c.refuse(cudaErrorInvalidValue, "no such pool of this device");
    return allocate(c, data, bytes, pool);
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
    if (harness_lost())
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
    harness_drain_device();
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
    harness_go_on();
    *total_bytes = harness_config.memory;
    *free_bytes = harness_free_bytes();
    return c.end();
}
