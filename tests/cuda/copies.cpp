/* Copies and fills: on which side an address is, and what they do to each byte. */
#include "call.h"

#include "memory.h"

#include <vector>

struct copy {
    char *to;
    size_t to_pitch;
    const char *from;
    size_t from_pitch, width, height;
    bool to_device, from_device;
};

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
    bool late = (c.to_device || harness_is_pinned(c.to))
                && (c.from_device || harness_is_pinned(c.from));
    if (!waits && !late && harness_spoil_capture(stream, "a copy of pageable memory"))
        return call.end(cudaErrorStreamCaptureUnsupported);
    if (waits || (!late && !c.to_device)) {
        harness_drain_stream(waits ? nullptr : stream);
        if (!harness_lost() && !perform(c))
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
